//! The tenants that a change concerns, and those that are left alone.

use super::*;

fn sound(address: u8, endpoint: &str) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: t{address}}}\nspec:\n  ingress: [{{address: 198.51.100.{address}, protocol: HTTP, upstream: pay}}]\n  upstreams: {{pay: {{endpoints: [{endpoint}]}}}}\n  egress: {{addresses: [203.0.113.{address}]}}\n"
    )
}

/// The tenants that a compile looks at.
fn looked_at(resources: &Resources, previous: &Compiled) -> Option<Vec<String>> {
    let scope = Scope::touched(resources, Some(previous), NOW);
    let Scope::Part(part) = scope.closed(&previous.memory, resources) else { return None };
    let mut names: Vec<_> = part.tenants.iter().map(ToString::to_string).collect();
    names.sort();
    Some(names)
}

#[test]
fn who_is_not_concerned_is_not_looked_at_and_stays_the_same_value() {
    let documents = (1..=3).map(|at| document(at, sound(at as u8, "10.0.0.1"))).collect();
    let mut resources = Resources { documents, ..Resources::default() };
    let first = compile(&resources, None, NOW);
    resources.documents[1] = document(2, sound(2, "10.0.0.2"));

    assert_eq!(looked_at(&resources, &first).unwrap(), ["t2"]);
    let second = compile(&resources, Some(&first), NOW);

    assert_eq!(second.snapshot.generation, 2);
    for name in ["t1", "t3"] {
        let id = TenantId::new(name).unwrap();
        assert!(Arc::ptr_eq(&first.snapshot.tenants[&id], &second.snapshot.tenants[&id]));
    }
    let bind = "198.51.100.1:80".parse().unwrap();
    assert!(Arc::ptr_eq(&first.snapshot.binds[&bind], &second.snapshot.binds[&bind]));
    let same = compile(&resources, Some(&second), NOW);
    assert!(Arc::ptr_eq(&second.snapshot, &same.snapshot));
    assert!(looked_at(&resources, &same).unwrap().is_empty());

    let newcomer = document(4, sound(4, "10.0.0.1"));
    resources.documents.push(newcomer);
    assert_eq!(looked_at(&resources, &same).unwrap(), ["t4"]);
    let more = compile(&resources, Some(&same), NOW);
    assert_eq!(more.snapshot.tenants.len(), 4);
    resources.documents.remove(0);
    assert_eq!(looked_at(&resources, &more).unwrap(), ["t1"]);
    let fewer = compile(&resources, Some(&more), NOW);
    assert_eq!(fewer.snapshot.tenants.len(), 3);
    assert!(!fewer.snapshot.binds.contains_key(&bind));
}

#[test]
fn everything_is_looked_at_every_hour_for_certificates_age() {
    let resources =
        Resources { documents: vec![document(1, sound(1, "10.0.0.1"))], ..Resources::default() };
    let compiled = compile(&resources, None, NOW);

    let scope = |now| Scope::touched(&resources, Some(&compiled), now);
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
    let mut resources = Resources { documents, ..Resources::default() };
    let both = compile(&resources, None, NOW);
    assert_eq!(both.verdicts.verdicts[1].outcome, Outcome::Rejected);
    resources.documents.remove(0);

    assert_eq!(looked_at(&resources, &both).unwrap(), ["a", "bb"]);
    let left = compile(&resources, Some(&both), NOW);

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
        let documents = texts.into_iter().enumerate().map(|(at, text)| document(at, text));
        Resources { documents: documents.collect(), ..Resources::default() }
    };
    let before = compile(&of(1, 2), None, NOW);
    assert!(before.verdicts.all_accepted(), "{:#?}", before.verdicts);

    let after = compile(&of(3, 1), Some(&before), NOW);

    assert!(after.verdicts.all_accepted(), "{:#?}", after.verdicts);
    assert_eq!(after.snapshot.generation, before.snapshot.generation + 1);
}

/// A claim to everything meets all others, and costs no more than the others for that.
#[test]
fn whoever_waits_for_everything_is_not_compiled_with_each_change() {
    let greedy = sound(9, "10.0.0.9").replace("203.0.113.9]", "203.0.113.9], sources: [0.0.0.0/0]");
    let documents = [sound(1, "10.0.0.1"), sound(2, "10.0.0.2"), greedy];
    let documents = documents.into_iter().zip(1..).map(|(text, at)| document(at, text));
    let mut resources = Resources { documents: documents.collect(), ..Resources::default() };
    let first = compile(&resources, None, NOW);
    assert_eq!(first.verdicts.verdicts[2].outcome, Outcome::Partial, "{:#?}", first.verdicts);
    let rest = compile(&resources, Some(&first), NOW);

    resources.documents[0] = document(1, sound(1, "10.0.0.3"));
    let alone = alone::compile(&resources, Some(&rest), NOW).unwrap();

    assert_eq!(alone.snapshot, whole(&resources, Some(&rest), NOW).snapshot);
    assert_eq!(alone.snapshot.generation, rest.snapshot.generation + 1);
    assert!(Arc::ptr_eq(&alone.verdicts.verdicts[2], &rest.verdicts.verdicts[2]));
    // What it gives up others may get, who are told where what they want is written.
    for text in
        [sound(4, "10.0.0.3").replace("t4", "t1"), format!("# moved\n{}", sound(1, "10.0.0.4"))]
    {
        resources.documents[0] = document(1, text);
        assert!(alone::compile(&resources, Some(&alone), NOW).is_none());
    }
    resources.documents.remove(0);
    assert!(alone::compile(&resources, Some(&alone), NOW).is_none());
}

/// A claim to everything that is refused, as others have addresses in it, keeps nobody from getting what is free.
#[test]
fn whoever_waits_for_everything_keeps_no_newcomer_out() {
    let greedy = sound(9, "10.0.0.9").replace("203.0.113.9]", "203.0.113.9], sources: [0.0.0.0/0]");
    let newcomer = document(7, sound(7, "10.0.0.3"));
    let documents = [document(1, sound(1, "10.0.0.1")), document(2, greedy)];
    let mut resources = Resources { documents: documents.to_vec(), ..Resources::default() };
    let without = compile(&resources, None, NOW);
    resources.documents.push(newcomer);

    for previous in [None, Some(&without)] {
        let with = compile(&resources, previous, NOW);

        let outcomes = with.verdicts.verdicts.iter().map(|verdict| verdict.outcome);
        let expected = [Outcome::Accepted, Outcome::Partial, Outcome::Accepted];
        assert_eq!(outcomes.collect::<Vec<_>>(), expected, "{:#?}", with.verdicts);
        let again = compile(&resources, Some(&with), NOW);
        assert!(Arc::ptr_eq(&with.snapshot, &again.snapshot));
    }
    // One that can be granted is the first one's: the address was asked for later.
    resources.documents.remove(0);
    let first = compile(&resources, None, NOW);
    let outcomes = first.verdicts.verdicts.iter().map(|verdict| verdict.outcome);
    assert_eq!(outcomes.collect::<Vec<_>>(), [Outcome::Accepted, Outcome::Rejected]);
}
