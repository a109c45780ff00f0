//! The short way to a new state leads where the long way does, or is not taken.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use durward_model::health::{HealthCheck, Probe};
use durward_model::mapping::{
    Affinity, Endpoints, MappedPort, NatModel, PortMapping, PortRange, SourceMode,
};
use durward_model::transport::Transport;
use durward_nat::desired::ejected::MappingId;
use durward_nat::desired::patch::{Known, Patch, patch};
use durward_nat::desired::{Ejected, desired_without, diff};
use durward_nat::interface::External;
use durward_nat::{Desired, Interfaces, Nat};
use durward_testkit::netns::in_namespace;
use proptest::prelude::*;
use proptest::sample::select;

use crate::lab::{
    EXT1, EXT1_V6, EXT2, Lab, P1, P1_V6, P2, PATIENCE, REMOTE, SOON, at, connect, is_alive,
    mapping, model, options, port, sources, tenant,
};

fn host() -> Interfaces {
    let external = |index, slot, address: &str| External {
        index,
        slot,
        up: true,
        addresses: vec![address.parse().unwrap()],
        gateway_v4: None,
        gateway_v6: None,
    };
    let all = [
        ("ext1".to_owned(), external(7, 1, "203.0.113.1/24")),
        ("ext2".to_owned(), external(8, 2, "198.51.100.1/24")),
    ];
    Interfaces { external: all.into(), ..Interfaces::default() }
}

/// A model and its endpoints that are out of rotation.
type Side<'a> = (&'a NatModel, &'a Ejected);

fn whole((model, ejected): Side<'_>) -> Desired {
    desired_without(model, ejected, &options(), &host())
}

/// The patch from one model to the other, when the short way may be taken at all.
fn short((model, ejected): Side<'_>, new: Side<'_>) -> Option<Patch> {
    let held = whole((model, ejected));
    if held.report.mappings.iter().any(|one| one.rejected.is_some()) {
        return None;
    }
    let (options, interfaces) = (options(), host());
    let (ruleset, policy) = (&held.ruleset, &held.policy);
    let (options, interfaces) = (&options, &interfaces);
    patch(&Known { model, ejected, ruleset, policy, options, interfaces }, new.0, new.1)
}

/// Compares everything that the short way leads to with what the long way leads to.
fn assert_leads_there(old: Side<'_>, new: Side<'_>, patch: &Patch) {
    let (from, to) = (whole(old), whole(new));
    let difference = diff((&from.ruleset, &from.routing), &to);
    assert_eq!(patch.changes, difference.ruleset);
    assert!(difference.new_routing.is_empty() && difference.old_routing.is_empty());
    assert_eq!((&patch.after.sysctls, &from.sysctls), (&to.sysctls, &to.sysctls));
    let mut report = from.report.mappings;
    report.splice(patch.place.clone(), patch.after.report.mappings.clone());
    assert_eq!(report, to.report.mappings);
}

fn three() -> Vec<PortMapping> {
    let one = |name: &str, number, pod| {
        mapping(name, &[EXT1], vec![port(Transport::Tcp, number, &[&at(pod, 80)])])
    };
    vec![one("a", 80, P1), one("b", 81, P2), one("c", 82, P2)]
}

#[test]
fn one_more_one_less_and_one_changed_take_the_short_way() {
    let old = model(three(), vec![]);
    let mut fewer = three();
    fewer.remove(1);
    let mut more = three();
    more.push(mapping("d", &[EXT1], vec![port(Transport::Tcp, 90, &[&at(P1, 81)])]));
    let mut changed = three();
    changed[1].ports[0].endpoints = Endpoints::At(vec![at(P1, 80).parse().unwrap()]);

    let none = Ejected::default();
    for (what, mappings) in
        [("fewer", fewer), ("more", more), ("changed", changed), ("none", three())]
    {
        let new = model(mappings, vec![]);
        let (old, new) = ((&*old, &none), (&*new, &none));
        let patch = short(old, new).unwrap_or_else(|| panic!("{what}: the long way is taken"));
        assert_leads_there(old, new, &patch);
    }
}

#[test]
fn what_concerns_others_takes_the_long_way() {
    let old = model(three(), vec![]);
    let with = |change: &dyn Fn(&mut Vec<PortMapping>)| {
        let mut mappings = three();
        change(&mut mappings);
        model(mappings, vec![])
    };
    let new_shape: Vec<&str> = vec!["10.244.0.11:80", "10.244.0.12:80"];

    for (what, new) in [
        ("a port somebody has", with(&|all| all[2].ports[0].ports = PortRange::one(80).unwrap())),
        ("a range", with(&|all| all[2].ports[0].ports = PortRange::new(90, 99).unwrap())),
        ("a new chain", with(&|all| all[2].ports = vec![port(Transport::Tcp, 82, &new_shape)])),
        ("a new list", with(&|all| all[2].allowed_sources = sources(&["192.0.2.0/24"]))),
        ("a new address", with(&|all| all[2].addresses = mapping("", &[EXT2], vec![]).addresses)),
        ("the last of a tenant's numbers", with(&|all| all[2].tenant = tenant("globex"))),
    ] {
        let none = Ejected::default();
        assert!(short((&old, &none), (&new, &none)).is_none(), "{what}");
    }
}

/// Mappings of a small world, in which much collides.
fn mappings() -> impl Strategy<Value = Vec<Arc<PortMapping>>> {
    let number = select(vec![80u16, 81, 82, 83, 84, 85]);
    let endpoints = proptest::collection::vec(select(vec![P1, P2, P1_V6]), 0..3);
    let sources_of = select(vec![&["0.0.0.0/0", "::/0"][..], &["192.0.2.0/24"], &[]]);
    let one = (
        (select(vec!["acme", "globex"]), select(vec![EXT1, EXT2, EXT1_V6])),
        (number, select(vec![Transport::Tcp, Transport::Udp]), 0u16..8),
        (endpoints, sources_of),
        (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
    );
    let check = HealthCheck {
        probe: Probe::Tcp,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        unhealthy_after: 3,
        healthy_after: 2,
    };
    let built =
        one.prop_map(move |((of, address), (number, protocol, width), (pods, from), flags)| {
            let last = if width == 0 { number + 2 } else { number };
            let at = |pod: &&str| at(pod, if flags.2 { 8080 } else { 9090 }).parse().unwrap();
            let endpoints = Endpoints::At(pods.iter().map(at).collect());
            let ports = PortRange::new(number, last).unwrap();
            let mut built =
                mapping("any", &[address], vec![MappedPort { protocol, ports, endpoints }]);
            built.tenant = tenant(of);
            built.allowed_sources = sources(from);
            built.mode = if flags.0 { SourceMode::Snat } else { SourceMode::PreserveSource };
            built.affinity = if flags.1 { Affinity::ClientIp } else { Affinity::None };
            built.health_check = flags.3.then(|| check.clone());
            Arc::new(built)
        });
    proptest::collection::vec(built, 0..9)
}

fn changed(
    mappings: &[Arc<PortMapping>],
    at: usize,
    takes: usize,
    new: &[Arc<PortMapping>],
) -> Vec<Arc<PortMapping>> {
    let mut mappings = mappings.to_vec();
    let at = at.min(mappings.len());
    let end = (at + takes).min(mappings.len());
    mappings.splice(at..end, new.iter().take(2).cloned());
    mappings
}

fn two_tenants(mappings: Vec<Arc<PortMapping>>) -> NatModel {
    let tenants = [(tenant("acme"), 1), (tenant("globex"), 2)].into();
    NatModel { tenants, mappings, ..NatModel::default() }
}

/// The endpoints on the first pod are out.
fn all_on_p1(old: &NatModel, new: &NatModel) -> Ejected {
    let mut ejected = Ejected::default();
    for mapping in old.mappings.iter().chain(&new.mappings) {
        for endpoint in mapping.tcp_endpoints().into_iter().filter(|at| at.ip().to_string() == P1) {
            ejected.insert(MappingId::of(mapping), endpoint);
        }
    }
    ejected
}

// S5.60+
#[test]
fn whatever_changes_the_short_way_leads_where_the_long_way_does() {
    let (taken, ejections, none) = (Cell::new(0), Cell::new(0), Ejected::default());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 3_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });

    runner
        .run(
            &(mappings(), 0usize..9, 0usize..3, mappings(), any::<[bool; 2]>()),
            |(all, at, takes, new, out)| {
                let old = two_tenants(all.clone());
                let new = two_tenants(changed(&all, at, takes, &new));
                let ejected = out.map(|out| if out { all_on_p1(&old, &new) } else { none.clone() });
                let (old, new) = ((&old, &ejected[0]), (&new, &ejected[1]));
                if let Some(patch) = short(old, new) {
                    assert_leads_there(old, new, &patch);
                    if !patch.changes.is_empty() {
                        taken.set(taken.get() + 1);
                        ejections.set(ejections.get() + usize::from(ejected[0] != ejected[1]));
                    }
                }
                Ok(())
            },
        )
        .unwrap();

    assert!(taken.get() > 50, "the short way was taken {} times only", taken.get());
    assert!(ejections.get() > 10, "and with a change of endpoints {} times", ejections.get());
}

// S5.44+ S5.60+
#[test]
fn in_the_kernel_a_changed_mapping_is_as_if_all_had_been_computed_and_its_connections_end() {
    in_namespace(
        "patch::in_the_kernel_a_changed_mapping_is_as_if_all_had_been_computed_and_its_connections_end",
        || {
            let lab = Lab::new();
            lab.serve(80);
            let nat = Nat::start(options()).unwrap();
            nat.apply(model(three(), vec![])).unwrap();
            let open = |number| connect(&lab.c1, REMOTE, (EXT1, number), PATIENCE);
            let (mut moved, said) = open(81).unwrap();
            let (mut kept, _) = open(82).unwrap();
            assert!(said.starts_with("p2 "), "{said}");

            let mut mappings = three();
            mappings[1].ports[0].endpoints = Endpoints::At(vec![at(P1, 80).parse().unwrap()]);
            let new = model(mappings, vec![]);
            let report = nat.apply(Arc::clone(&new)).unwrap();

            assert_eq!(report.connections_cut, 1);
            assert!(is_alive(&mut kept, SOON) && !is_alive(&mut moved, SOON));
            assert!(open(81).unwrap().1.starts_with("p1 "));
            let (_, difference) = nat.preview(&new).unwrap();
            assert!(difference.is_empty(), "{difference}");
            let fewer = model(three()[..2].to_vec(), vec![]);
            nat.apply(Arc::clone(&fewer)).unwrap();
            assert!(!is_alive(&mut kept, SOON));
            assert!(nat.preview(&fewer).unwrap().1.is_empty());
            nat.cleanup().unwrap();
        },
    );
}
