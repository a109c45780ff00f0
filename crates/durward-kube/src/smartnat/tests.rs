//! The steps, one by one: what a gateway does to a `Mapping` in each state of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::seen::{Owned, Pods, Seen, Status};
use super::step::{Said, Step, Wish, step};
use super::*;
use crate::status::{ACCEPTED, Condition, Judgement, Truth};

const WAIT: Duration = Duration::from_mins(60);

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn at(seen: &Seen, wish: &Wish) -> Step {
    step(seen, wish, time("2026-11-29T10:30:00Z"), WAIT)
}

fn texts(texts: &[&str]) -> Vec<Arc<str>> {
    texts.iter().map(|text| Arc::from(*text)).collect()
}

/// A valid Mapping of which this gateway has these addresses.
fn said(addresses: &[&str]) -> Said {
    Said {
        revision: Revision { uid: Some(Arc::from("u")), generation: 3 },
        carried: !addresses.is_empty(),
        invalid: Arc::from("no"),
        accepted: Judgement {
            r#type: ACCEPTED,
            status: Truth::True,
            reason: Arc::from("Accepted"),
            message: Arc::from("all of it is served"),
        },
        service_vip: Some(Arc::from("10.96.0.7")),
        configured: texts(addresses).into_iter().map(|one| (one, texts(&["10.244.0.5"]))).collect(),
    }
}

fn say(said: Said) -> Wish {
    Wish::Say(Box::new(said))
}

fn let_go(here: &[&str]) -> Wish {
    Wish::LetGo { here: texts(here) }
}

/// A Mapping whose status says what `said` says of our addresses, and that others have these.
fn seen(said: &Said, others: &[&str]) -> Seen {
    let pods = |one: Vec<Arc<str>>| Pods { pod_ips: one };
    let mut configured: BTreeMap<_, _> =
        said.configured.iter().map(|(one, ips)| (Arc::clone(one), pods(ips.clone()))).collect();
    configured.extend(texts(others).into_iter().map(|one| (one, pods(texts(&["10.244.0.9"])))));
    Seen {
        uid: Arc::from("u"),
        version: Arc::from("7"),
        generation: 3,
        deleted: None,
        finalizers: texts(&["other.example/x", FINALIZER]),
        status: Status {
            invalid: Some(Arc::clone(&said.invalid)),
            service_vip: said.service_vip.clone(),
            configured_addresses: configured,
            observed_generation: 3,
            conditions: vec![Condition {
                r#type: Arc::from(ACCEPTED),
                status: said.accepted.status,
                reason: Arc::clone(&said.accepted.reason),
                message: Arc::clone(&said.accepted.message),
                observed_generation: 3,
                last_transition_time: Arc::from("2026-11-29T09:00:00Z"),
            }],
        },
        owned: Owned {
            finalizer: said.carried,
            others_finalize: !others.is_empty(),
            status: said.carried,
            addresses: said.configured.keys().cloned().collect(),
        },
    }
}

fn deleted(seen: Seen) -> Seen {
    Seen { deleted: Some(time("2026-11-29T10:00:00Z")), ..seen }
}

// S5.53+
#[test]
fn only_a_gateway_that_has_an_address_takes_the_finalizer_and_before_it_says_so() {
    let bare = Seen { uid: Arc::from("u"), generation: 3, ..Seen::default() };

    assert_eq!(at(&bare, &say(said(&["203.0.113.1"]))), Step::Finalizer(true));
    assert_eq!(at(&bare, &say(said(&[]))), Step::Rest);
    let held = Seen {
        finalizers: texts(&[FINALIZER]),
        owned: Owned { finalizer: true, ..Owned::default() },
        ..bare
    };
    assert_eq!(
        at(&held, &say(said(&["203.0.113.1"]))),
        Step::Status(Box::new(said(&["203.0.113.1"])))
    );
}

#[test]
fn a_status_that_is_right_is_not_written_whatever_others_have_in_it() {
    let ours = said(&["203.0.113.1"]);
    let right = seen(&ours, &["203.0.113.2"]);

    assert_eq!(at(&right, &say(ours.clone())), Step::Rest);
    let other = |change: &dyn Fn(&mut Said)| {
        let mut other = ours.clone();
        change(&mut other);
        let step = at(&right, &say(other.clone()));
        assert_eq!(step, Step::Status(Box::new(other)));
    };
    other(&|said| said.invalid = Arc::from("No port in SmartNat.Spec.Ports."));
    other(&|said| said.service_vip = None);
    other(&|said| said.accepted.message = Arc::from("with warnings"));
    other(&|said| drop(said.configured.insert(Arc::from("203.0.113.3"), Vec::new())));
    other(&|said| said.configured.values_mut().for_each(Vec::clear));
}

#[test]
fn what_is_said_of_another_revision_is_not_written() {
    let ours = said(&["203.0.113.1"]);
    let bare = Seen { uid: Arc::from("u"), generation: 4, ..Seen::default() };
    let other = Seen { uid: Arc::from("other"), generation: 3, ..Seen::default() };

    assert_eq!(at(&bare, &say(ours.clone())), Step::Rest);
    assert_eq!(at(&other, &say(ours)), Step::Rest);
}

#[test]
fn an_address_that_went_to_another_host_goes_from_our_share_and_with_the_last_the_finalizer() {
    let right = seen(&said(&["203.0.113.1", "203.0.113.2"]), &[]);

    let one = said(&["203.0.113.2"]);
    assert_eq!(at(&right, &say(one.clone())), Step::Status(Box::new(one)));
    assert_eq!(at(&right, &say(said(&[]))), Step::Finalizer(false));
    let given = Seen { owned: Owned { finalizer: false, ..right.owned.clone() }, ..right };
    assert_eq!(at(&given, &say(said(&[]))), Step::Withdraw);
}

#[test]
fn who_has_no_address_says_only_that_a_mapping_is_invalid() {
    let nobodys = Seen { uid: Arc::from("u"), generation: 3, ..Seen::default() };
    let invalid =
        Said { invalid: Arc::from("No address in SmartNat.Spec.Addresses."), ..said(&[]) };

    assert_eq!(at(&nobodys, &say(said(&[]))), Step::Rest);
    assert_eq!(at(&nobodys, &say(invalid.clone())), Step::Status(Box::new(invalid)));
}

// S5.53+ S5.54+
#[test]
fn what_is_deleted_is_let_go_step_by_step_once_the_kernel_has_let_go() {
    let mut now = deleted(seen(&said(&["203.0.113.1"]), &["203.0.113.2"]));
    let wait = Step::Wait(time("2026-11-29T11:00:00Z"));

    assert_eq!(at(&now, &Wish::Hold), wait);
    assert_eq!(at(&now, &let_go(&[])), Step::Withdraw);
    (now.owned.status, now.owned.addresses) = (false, BTreeSet::new());
    now.status.configured_addresses.remove("203.0.113.1");
    assert_eq!(at(&now, &let_go(&[])), Step::Finalizer(false));
    now.owned.finalizer = false;
    assert_eq!(at(&now, &let_go(&[])), wait, "the other one is not through yet");
    now.finalizers = texts(&["other.example/x"]);
    assert_eq!(at(&now, &let_go(&[])), Step::Rest);
}

// S5.55+
#[test]
fn a_finalizer_that_no_gateway_holds_goes_at_once() {
    let mut smartnats = deleted(seen(&said(&[]), &[]));

    assert_eq!(at(&smartnats, &let_go(&[])), Step::Free);
    smartnats.status.configured_addresses =
        seen(&said(&[]), &["203.0.113.1"]).status.configured_addresses;
    assert_eq!(at(&smartnats, &let_go(&["203.0.113.1"])), Step::Strip(texts(&["203.0.113.1"])));
    let wait = Step::Wait(time("2026-11-29T11:00:00Z"));
    assert_eq!(at(&smartnats, &let_go(&[])), wait, "another SmartNat may still have it");
}

// S5.30+ S5.56+
#[test]
fn nobody_is_waited_for_longer_than_the_longest_wait_by_the_servers_clock() {
    let dead = deleted(seen(&said(&[]), &["203.0.113.2"]));
    let at = |now: &str, wish: &Wish| step(&dead, wish, time(now), WAIT);

    for wish in [let_go(&[]), Wish::Hold, say(said(&[]))] {
        let wait = Step::Wait(time("2026-11-29T11:00:00Z"));
        assert_eq!(at("2026-11-29T10:59:59Z", &wish), wait);
        assert_eq!(at("2026-11-29T11:00:00Z", &wish), Step::Free);
    }
}

#[test]
fn ownership_is_read_from_who_applied_what() {
    let options = Options::new("a");
    let held = json!({"f:metadata": {"f:finalizers": {format!("v:{FINALIZER:?}"): {}}}});
    let object = |manager: &str, operation: &str| {
        json!({
            "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping",
            "metadata": {
                "name": "web", "namespace": "desk", "uid": "u", "resourceVersion": "7", "generation": 3,
                "finalizers": [FINALIZER], "deletionTimestamp": "2026-11-29T10:00:00Z",
                "managedFields": [
                    {"manager": manager, "operation": operation, "fieldsV1": held},
                    {"manager": manager, "operation": operation, "subresource": "status", "fieldsV1": {
                        "f:status": {"f:invalid": {}, "f:configuredAddresses": {"f:203.0.113.1": {"f:podIPs": {}}}}}},
                ],
            },
            "spec": {"addresses": ["203.0.113.1"]},
            "status": {"configuredAddresses": {"203.0.113.1": {"podIPs": ["10.244.0.5"]}}, "invalid": "no"},
        })
        .to_string()
    };
    let owned = |manager: &str, operation: &str| {
        let object = decode(&object(manager, operation), &options).unwrap();
        object.mapping.unwrap().seen.owned.clone()
    };

    let ours = owned("durward-mapping-a", "Apply");
    assert!(ours.finalizer && ours.status && !ours.others_finalize);
    assert_eq!(ours.addresses, BTreeSet::from([Arc::from("203.0.113.1")]));
    let another = owned("durward-mapping-b", "Apply");
    assert_eq!(another, Owned { others_finalize: true, ..Owned::default() });
    assert_eq!(owned("smartnat-manager", "Update"), Owned::default());
    let decoded = decode(&object("x", "Apply"), &options).unwrap();
    assert!(decoded.is_going());
    assert_eq!(decoded.mapping.unwrap().seen.deleted, Some(time("2026-11-29T10:00:00Z")));
}

#[test]
fn a_manager_is_named_after_the_gateway_in_what_the_api_allows() {
    assert_eq!(Options::new("node-1").manager(), "durward-mapping-node-1");
    assert_eq!(Options::new(&"é".repeat(100)).manager().len(), 128);
}
