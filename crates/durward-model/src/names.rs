//! The names that tell tenants at one address and port apart, and the table that finds the tenant of a name.
//!
//! Deliberately absent: a tenant for names that nobody has.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::Serialize;

use crate::route::HostPattern;
use crate::tenant_id::TenantId;

/// The names by which clients ask for a listener that shares its address and port: by SNI where TLS is spoken, else by `Host`.
///
/// Clients that name nothing (no SNI, or no `Host`) ask for the address itself, written as a name: `203.0.113.10`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ServerNames(Arc<[HostPattern]>);

impl ServerNames {
    /// Takes names in any order; each is kept once.
    #[must_use]
    pub fn new(mut names: Vec<HostPattern>) -> Self {
        names.sort_unstable();
        names.dedup();
        Self(Arc::from(names))
    }

    /// Returns whether the name is among them, as it was written: `*.example.com` is not `a.example.com`.
    #[must_use]
    pub fn has(&self, name: &HostPattern) -> bool {
        self.0.binary_search(name).is_ok()
    }

    /// Returns the names, sorted.
    pub fn iter(&self) -> std::slice::Iter<'_, HostPattern> {
        self.0.iter()
    }

    /// Returns whether two lists have a name in common.
    #[must_use]
    pub fn meet(&self, other: &Self) -> bool {
        let (few, many) = if self.0.len() < other.0.len() { (self, other) } else { (other, self) };
        few.iter().any(|name| many.has(name))
    }

    /// Returns whether a client that asks for `name` (lower case) may be meant.
    #[must_use]
    pub fn match_name(&self, name: &str) -> bool {
        // What stands before the dot must not be empty: `.example.com` is below nothing.
        let mut dots = name.match_indices('.').filter(|(at, _)| *at > 0);
        self.find(false, name) || dots.any(|(at, _)| self.find(true, &name[at + 1..]))
    }

    fn find(&self, wildcard: bool, text: &str) -> bool {
        // In this order they are sorted.
        let order = |pattern: &HostPattern| match pattern {
            HostPattern::Exact(name) => (false, &**name).cmp(&(wildcard, text)),
            HostPattern::Wildcard(parent) => (true, &**parent).cmp(&(wildcard, text)),
        };
        self.0.binary_search_by(order).is_ok()
    }
}

impl<'a> IntoIterator for &'a ServerNames {
    type Item = &'a HostPattern;
    type IntoIter = std::slice::Iter<'a, HostPattern>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Returns the name of clients that name nothing: the address that they connected to.
#[must_use]
pub fn unnamed(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

/// Returns the name by which the table has what a client asks for. Authorities validate an address by its name in the reverse zone (RFC 8738 section 6);
/// where that is `address`, it is asked for like by clients that name nothing.
#[must_use]
pub fn asked(name: Option<&str>, address: IpAddr) -> Cow<'_, str> {
    match name {
        Some(name) if in_reverse_zone(name) != Some(address.to_canonical()) => Cow::Borrowed(name),
        _ => Cow::Owned(unnamed(address)),
    }
}

/// Returns the address that a name of the reverse zone stands for (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn in_reverse_zone(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<&str> = octets.rsplit('.').collect();
        return octets.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let mut nibbles = name.strip_suffix(".ip6.arpa")?.rsplit('.');
    let mut bits = 0;
    for _ in 0..32 {
        let nibble = nibbles.next().filter(|nibble| nibble.len() == 1)?;
        bits = bits << 4 | u128::from_str_radix(nibble, 16).ok()?;
    }
    nibbles.next().is_none().then(|| IpAddr::V6(Ipv6Addr::from_bits(bits)))
}

/// Parts of a table. A change copies one of them, so that it costs the same whatever the number of names.
const PARTS: usize = 256;

/// Tenants by the names at one address and port: a name itself comes before wildcards, a longer wildcard before a shorter one.
#[derive(Clone)]
pub struct NameTable {
    parts: Arc<[Arc<Part>]>,
    len: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Part {
    exact: HashMap<Arc<str>, TenantId>,
    /// By the parent, `example.com` for `*.example.com`.
    below: HashMap<Arc<str>, TenantId>,
}

impl Default for NameTable {
    fn default() -> Self {
        let none = Arc::<Part>::default();
        Self { parts: (0..PARTS).map(|_| Arc::clone(&none)).collect(), len: 0 }
    }
}

impl NameTable {
    /// Returns the tenant of a name, which is in lower case and without a trailing dot.
    #[must_use]
    pub fn owner(&self, name: &str) -> Option<&TenantId> {
        if let Some(owner) = self.part(name).exact.get(name) {
            return Some(owner);
        }
        // What stands before the dot must not be empty: `.example.com` is below nothing.
        let dots = name.match_indices('.').filter(|(at, _)| *at > 0);
        let mut parents = dots.map(|(at, _)| &name[at + 1..]);
        parents.find_map(|parent| self.part(parent).below.get(parent))
    }

    /// Returns the tenant that has exactly this pattern.
    #[must_use]
    pub fn holder(&self, pattern: &HostPattern) -> Option<&TenantId> {
        match pattern {
            HostPattern::Exact(name) => self.part(name).exact.get(name),
            HostPattern::Wildcard(parent) => self.part(parent).below.get(parent),
        }
    }

    /// Returns the number of names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a tenant's names. A name that another tenant has stays that tenant's.
    pub fn add(&mut self, tenant: &TenantId, names: &ServerNames) {
        for pattern in names {
            if self.holder(pattern).is_some() {
                continue;
            }
            self.slot(pattern, |map, name| drop(map.insert(Arc::clone(name), tenant.clone())));
            self.len += 1;
        }
    }

    /// Takes a tenant's names out.
    pub fn remove(&mut self, tenant: &TenantId, names: &ServerNames) {
        for pattern in names {
            if self.holder(pattern) != Some(tenant) {
                continue;
            }
            self.slot(pattern, |map, name| drop(map.remove(name)));
            self.len -= 1;
        }
    }

    fn slot(
        &mut self,
        pattern: &HostPattern,
        change: impl FnOnce(&mut HashMap<Arc<str>, TenantId>, &Arc<str>),
    ) {
        let parts = Arc::make_mut(&mut self.parts);
        match pattern {
            HostPattern::Exact(name) => {
                change(&mut Arc::make_mut(&mut parts[place(name)]).exact, name);
            }
            HostPattern::Wildcard(parent) => {
                change(&mut Arc::make_mut(&mut parts[place(parent)]).below, parent);
            }
        }
    }

    fn part(&self, name: &str) -> &Part {
        &self.parts[place(name)]
    }
}

/// Returns the part that a name is in.
fn place(name: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    usize::try_from(hasher.finish()).unwrap_or_default() % PARTS
}

impl PartialEq for NameTable {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Arc<Part>, &Arc<Part>)| Arc::ptr_eq(a, b) || a == b;
        self.len == other.len && self.parts.iter().zip(&*other.parts).all(same)
    }
}

impl Eq for NameTable {}

impl fmt::Debug for NameTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} names", self.len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const NAMES: [&str; 9] = [
        "a.example",
        "b.a.example",
        "c.b.a.example",
        "example",
        "aexample",
        ".example",
        "",
        "203.0.113.10",
        "x..a.example",
    ];
    const TENANTS: [&str; 3] = ["acme", "globex", "initech"];

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn pattern() -> impl Strategy<Value = HostPattern> {
        (select(&NAMES[..]), any::<bool>()).prop_map(|(name, exact)| {
            let name = Arc::from(name);
            if exact { HostPattern::Exact(name) } else { HostPattern::Wildcard(name) }
        })
    }

    /// The reference: who has what, in the order of asking; the most specific pattern wins.
    #[derive(Default)]
    struct Reference(Vec<(HostPattern, TenantId)>);

    impl Reference {
        fn add(&mut self, tenant: &TenantId, names: &ServerNames) {
            for name in names {
                if !self.0.iter().any(|(known, _)| known == name) {
                    self.0.push((name.clone(), tenant.clone()));
                }
            }
        }

        fn remove(&mut self, tenant: &TenantId, names: &ServerNames) {
            self.0.retain(|(name, owner)| owner != tenant || !names.has(name));
        }

        fn owner(&self, name: &str) -> Option<&TenantId> {
            let there = self.0.iter().filter(|(pattern, _)| pattern.matches(name));
            there.max_by_key(|(pattern, _)| pattern.rank()).map(|(_, owner)| owner)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_name_is_meant_where_comparing_each_pattern_says_so(
            patterns in proptest::collection::vec(pattern(), 0..8),
            asked in select(&NAMES[..]),
        ) {
            let any = patterns.iter().any(|pattern| pattern.matches(asked));

            prop_assert_eq!(ServerNames::new(patterns).match_name(asked), any);
        }

        // S4.4+
        #[test]
        fn the_most_specific_name_finds_its_tenant_after_any_changes(
            changes in proptest::collection::vec(
                (select(&TENANTS[..]), proptest::collection::vec(pattern(), 1..4), prop::bool::weighted(0.7)),
                0..12,
            ),
        ) {
            let (mut table, mut reference) = (NameTable::default(), Reference::default());
            for (name, patterns, adds) in changes {
                let (tenant, names) = (tenant(name), ServerNames::new(patterns));
                if adds {
                    table.add(&tenant, &names);
                    reference.add(&tenant, &names);
                } else {
                    table.remove(&tenant, &names);
                    reference.remove(&tenant, &names);
                }
                prop_assert_eq!(table.len(), reference.0.len());
                for name in NAMES {
                    prop_assert_eq!(table.owner(name), reference.owner(name), "{}", name);
                }
            }
            let mut again = NameTable::default();
            for (name, owner) in &reference.0 {
                again.add(owner, &ServerNames::new(vec![name.clone()]));
            }
            prop_assert_eq!(table, again);
        }
    }

    // S3.48+
    #[test]
    fn an_address_is_asked_for_by_nothing_and_by_its_name_in_the_reverse_zone() {
        let four: IpAddr = "203.0.113.9".parse().unwrap();
        let six: IpAddr = "2001:db8::9".parse().unwrap();
        let nibbles = "9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        for (name, address, expected) in [
            (None, four, "203.0.113.9"),
            (Some("a.example"), four, "a.example"),
            (Some("9.113.0.203.in-addr.arpa"), four, "203.0.113.9"),
            (Some("8.113.0.203.in-addr.arpa"), four, "8.113.0.203.in-addr.arpa"),
            (Some("113.0.203.in-addr.arpa"), four, "113.0.203.in-addr.arpa"),
            (Some(nibbles), six, "2001:db8::9"),
            (Some(nibbles), four, nibbles),
        ] {
            assert_eq!(asked(name, address), expected, "{name:?}");
        }
    }

    #[test]
    fn a_change_leaves_the_other_parts_as_they_are() {
        let mut table = NameTable::default();
        let names = (0..10_000).map(|at| HostPattern::Exact(Arc::from(format!("h{at}.example"))));
        table.add(&tenant("acme"), &ServerNames::new(names.collect()));
        let before = table.clone();

        let one = ServerNames::new(vec![HostPattern::Exact(Arc::from("more.example"))]);
        table.add(&tenant("globex"), &one);

        let copied = table.parts.iter().zip(&*before.parts).filter(|(a, b)| !Arc::ptr_eq(a, b));
        assert_eq!(copied.count(), 1);
        assert_eq!(before.owner("more.example"), None);
        table.remove(&tenant("globex"), &one);
        assert_eq!(table, before);
    }
}
