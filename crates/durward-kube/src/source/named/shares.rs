//! Shares of the watches of single objects: no tenant takes those that others need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::object::ObjectName;

/// Objects that are named, each with the tenant whose document names it; `None` where no tenant does.
pub(crate) type Asked = BTreeMap<ObjectName, Option<Arc<str>>>;

/// Returns the objects that get a watch, `most` at the most: each tenant as many as the others have, and what some do not need is the others'. Those that have one keep it
/// within their tenant's share.
pub(super) fn shared_out(
    asked: &Asked,
    watched: impl Fn(&ObjectName) -> bool,
    most: usize,
) -> BTreeSet<ObjectName> {
    let mut of_tenants: BTreeMap<Option<&Arc<str>>, Vec<&ObjectName>> = BTreeMap::new();
    for (name, tenant) in asked {
        of_tenants.entry(tenant.as_ref()).or_default().push(name);
    }
    let mut groups: Vec<Vec<&ObjectName>> = of_tenants.into_values().collect();
    // Who asks for least is served first, so that what is left is shared by those who need it.
    groups.sort_by_key(Vec::len);
    let (mut left, mut chosen) = (most, BTreeSet::new());
    for at in 0..groups.len() {
        let share = left / (groups.len() - at);
        let group = &mut groups[at];
        // Stable: names keep their order among those that are alike.
        group.sort_by_key(|name| !watched(name));
        let granted = group.iter().take(share).map(|name| ObjectName::clone(name));
        let before = chosen.len();
        chosen.extend(granted);
        left -= chosen.len() - before;
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(tenants: &[(&str, usize)]) -> Asked {
        let of = |(tenant, count): &(&str, usize)| {
            let tenant: Arc<str> = Arc::from(*tenant);
            let names = (0..*count).map(move |number| {
                let name = format!("s{number:03}");
                (ObjectName::new(&tenant, &name), Some(Arc::clone(&tenant)))
            });
            names.collect::<Vec<_>>()
        };
        tenants.iter().flat_map(of).collect()
    }

    fn counts(chosen: &BTreeSet<ObjectName>) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for name in chosen {
            *counts.entry(name.namespace.to_string()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn everybody_gets_what_they_ask_for_where_there_is_enough() {
        let asked = asked(&[("a", 150), ("b", 50)]);

        assert_eq!(shared_out(&asked, |_| false, 200).len(), 200);
        assert_eq!(shared_out(&asked, |_| false, 1_000).len(), 200);
    }

    #[test]
    fn a_tenant_that_asks_for_everything_leaves_the_others_their_share() {
        let asked = asked(&[("a", 1_000), ("b", 3), ("c", 90), ("z", 1)]);

        let counts = counts(&shared_out(&asked, |_| false, 200));

        assert_eq!((counts["a"], counts["b"], counts["c"], counts["z"]), (106, 3, 90, 1));
    }

    #[test]
    fn more_tenants_than_watches_get_one_each_as_far_as_they_reach() {
        let tenants: Vec<String> = (0..300).map(|number| format!("t{number}")).collect();
        let tenants: Vec<(&str, usize)> = tenants.iter().map(|name| (&**name, 2)).collect();

        let chosen = shared_out(&asked(&tenants), |_| false, 200);

        assert_eq!(chosen.len(), 200);
        assert!(counts(&chosen).values().all(|count| *count <= 1));
    }

    #[test]
    fn who_has_a_watch_keeps_it_within_the_tenants_share() {
        let asked = asked(&[("a", 10), ("b", 10)]);
        let had = |name: &ObjectName| &*name.namespace == "a" && &*name.name >= "s004";

        let chosen = shared_out(&asked, had, 10);

        let of_a: Vec<&str> =
            chosen.iter().filter(|it| &*it.namespace == "a").map(|it| &*it.name).collect();
        assert_eq!(of_a, ["s004", "s005", "s006", "s007", "s008"]);
        assert_eq!(counts(&chosen)["b"], 5);
    }
}
