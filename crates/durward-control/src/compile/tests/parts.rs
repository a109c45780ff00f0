//! The tenants that a change concerns, and those that are left alone.

use super::*;
use crate::change::Change;

fn sound(address: u8, endpoint: &str) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: t{address}}}\nspec:\n  ingress: [{{address: 198.51.100.{address}, protocol: HTTP, upstream: pay}}]\n  upstreams: {{pay: {{endpoints: [{endpoint}]}}}}\n  egress: {{addresses: [203.0.113.{address}]}}\n"
    )
}

/// The tenants that a compile looks at.
fn looked_at(store: &Store, previous: &Compiled) -> Option<Vec<String>> {
    let scope = Scope::touched(store, Some(previous), NOW);
    let Scope::Part(part) = scope.closed(&previous.memory, store) else { return None };
    let mut names: Vec<_> = part.tenants.iter().map(ToString::to_string).collect();
    names.sort();
    Some(names)
}

fn put(store: &mut Store, document: Document) {
    store.apply(Change { upserts: vec![document], ..Change::default() });
}

fn take_out(store: &mut Store, at: usize) {
    let deletes = vec![document(at, String::new()).key];
    store.apply(Change { deletes, ..Change::default() });
}

#[test]
fn who_is_not_concerned_is_not_looked_at_and_stays_the_same_value() {
    let documents = (1..=3).map(|at| document(at, sound(at as u8, "10.0.0.1")));
    let mut store: Store = documents.collect();
    let first = compile(&store, None, NOW);
    put(&mut store, document(2, sound(2, "10.0.0.2")));

    assert_eq!(looked_at(&store, &first).unwrap(), ["t2"]);
    let second = compile(&store, Some(&first), NOW);

    assert_eq!(second.snapshot.generation, 2);
    for name in ["t1", "t3"] {
        let id = TenantId::new(name).unwrap();
        assert!(Arc::ptr_eq(&first.snapshot.tenants[&id], &second.snapshot.tenants[&id]));
    }
    let bind = "198.51.100.1:80".parse().unwrap();
    assert!(Arc::ptr_eq(&first.snapshot.binds[&bind], &second.snapshot.binds[&bind]));
    let same = compile(&store, Some(&second), NOW);
    assert!(Arc::ptr_eq(&second.snapshot, &same.snapshot));
    assert!(looked_at(&store, &same).unwrap().is_empty());

    put(&mut store, document(4, sound(4, "10.0.0.1")));
    assert_eq!(looked_at(&store, &same).unwrap(), ["t4"]);
    let more = compile(&store, Some(&same), NOW);
    assert_eq!(more.snapshot.tenants.len(), 4);
    take_out(&mut store, 1);
    assert_eq!(looked_at(&store, &more).unwrap(), ["t1"]);
    let fewer = compile(&store, Some(&more), NOW);
    assert_eq!(fewer.snapshot.tenants.len(), 3);
    assert!(!fewer.snapshot.binds.contains_key(&bind));
}

#[test]
fn everything_is_looked_at_every_hour_for_certificates_age() {
    let store: Store = [document(1, sound(1, "10.0.0.1"))].into_iter().collect();
    let compiled = compile(&store, None, NOW);

    let scope = |now| Scope::touched(&store, Some(&compiled), now);
    assert!(matches!(scope(NOW + LONG - 1), Scope::Part(_)));
    assert!(matches!(scope(NOW + LONG), Scope::Everything));
    assert!(matches!(scope(NOW - 1), Scope::Everything), "the clock was set back");
}

#[test]
fn whoever_waits_for_something_gets_it_when_its_holder_goes() {
    let asking = |name: &str| {
        sound(1, "10.0.0.1")
            .replace("{name: t1}", &format!("{{name: {name}}}"))
            .replace("203.0.113.1", &format!("203.0.113.{}", name.len()))
    };
    let documents = vec![
        document(1, asking("a")),
        document(2, asking("bb")),
        document(3, sound(3, "10.0.0.3")),
    ];
    let mut store: Store = documents.into_iter().collect();
    let both = compile(&store, None, NOW);
    assert_eq!(both.verdicts.iter().nth(1).unwrap().outcome, Outcome::Rejected);
    take_out(&mut store, 1);

    assert_eq!(looked_at(&store, &both).unwrap(), ["a", "bb"]);
    let left = compile(&store, Some(&both), NOW);

    assert!(left.verdicts.all_accepted(), "{:#?}", left.verdicts);
}

#[test]
fn whoever_asks_for_what_is_given_up_in_the_same_change_has_it_at_once() {
    let tenant = |name: u8| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: t{name}}}\nspec: {{}}\n"
        )
    };
    let mapping = |name: u8, address: u8| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {{name: m}}\nspec: {{tenant: t{name}, addresses: [198.51.100.{address}], endpoints: [10.0.0.1], ports: [{{port: 80}}]}}\n"
        )
    };
    let of = |first: u8, second: u8| {
        let texts = [tenant(1), mapping(1, first), tenant(2), mapping(2, second)];
        texts.into_iter().enumerate().map(|(at, text)| document(at, text))
    };
    let mut store: Store = of(1, 2).collect();
    let before = compile(&store, None, NOW);
    assert!(before.verdicts.all_accepted(), "{:#?}", before.verdicts);

    store.apply(Change { upserts: of(3, 1).collect(), ..Change::default() });
    let after = compile(&store, Some(&before), NOW);

    assert!(after.verdicts.all_accepted(), "{:#?}", after.verdicts);
    assert_eq!(after.snapshot.generation, before.snapshot.generation + 1);
}

/// A claim to everything meets all others, and costs no more than the others for that.
#[test]
fn whoever_waits_for_everything_is_not_compiled_with_each_change() {
    let greedy = sound(9, "10.0.0.9").replace("203.0.113.9]", "203.0.113.9], sources: [0.0.0.0/0]");
    let documents = [sound(1, "10.0.0.1"), sound(2, "10.0.0.2"), greedy];
    let documents = documents.into_iter().zip(1..).map(|(text, at)| document(at, text));
    let mut store: Store = documents.collect();
    let first = compile(&store, None, NOW);
    assert_eq!(
        first.verdicts.iter().nth(2).unwrap().outcome,
        Outcome::Partial,
        "{:#?}",
        first.verdicts
    );
    let rest = compile(&store, Some(&first), NOW);

    put(&mut store, document(1, sound(1, "10.0.0.3")));
    let alone = alone::compile(&store, Some(&rest), NOW).unwrap();

    assert_eq!(alone.snapshot, whole(&store, Some(&rest), NOW).snapshot);
    assert_eq!(alone.snapshot.generation, rest.snapshot.generation + 1);
    assert!(std::ptr::eq(
        alone.verdicts.iter().nth(2).unwrap(),
        rest.verdicts.iter().nth(2).unwrap()
    ));
    // What it gives up others may get, who are told where what they want is written.
    for text in
        [sound(4, "10.0.0.3").replace("t4", "t1"), format!("# moved\n{}", sound(1, "10.0.0.4"))]
    {
        put(&mut store, document(1, text));
        assert!(alone::compile(&store, Some(&alone), NOW).is_none());
    }
    take_out(&mut store, 1);
    assert!(alone::compile(&store, Some(&alone), NOW).is_none());
}

/// A claim to everything that is refused, as others have addresses in it, keeps nobody from getting what is free.
#[test]
fn whoever_waits_for_everything_keeps_no_newcomer_out() {
    let greedy = sound(9, "10.0.0.9").replace("203.0.113.9]", "203.0.113.9], sources: [0.0.0.0/0]");
    let newcomer = document(7, sound(7, "10.0.0.3"));
    let documents = [document(1, sound(1, "10.0.0.1")), document(2, greedy)];
    let mut store: Store = documents.into_iter().collect();
    let without = compile(&store, None, NOW);
    put(&mut store, newcomer);

    for previous in [None, Some(&without)] {
        let with = compile(&store, previous, NOW);

        let outcomes = with.verdicts.iter().map(|verdict| verdict.outcome);
        let expected = [Outcome::Accepted, Outcome::Partial, Outcome::Accepted];
        assert_eq!(outcomes.collect::<Vec<_>>(), expected, "{:#?}", with.verdicts);
        let again = compile(&store, Some(&with), NOW);
        assert!(Arc::ptr_eq(&with.snapshot, &again.snapshot));
    }
    // One that can be granted is the first one's: the address was asked for later.
    take_out(&mut store, 1);
    let first = compile(&store, None, NOW);
    let outcomes = first.verdicts.iter().map(|verdict| verdict.outcome);
    assert_eq!(outcomes.collect::<Vec<_>>(), [Outcome::Accepted, Outcome::Rejected]);
}
