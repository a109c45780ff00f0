//! What a packet has to pass is the same among thousands of mappings: the same rules, and nothing that is searched one by one.
//!
//! Deliberately absent: time, which `bench/nat` measures.

use durward_model::mapping::PortMapping;
use durward_model::transport::Transport;
use durward_nat::nftables::Ruleset;
use durward_nat::{Interfaces, desired};

use crate::lab::{EXT1, P1, at, mapping, model, options, port, sources};

fn mappings(count: u16) -> Vec<PortMapping> {
    let one = |number: u16| {
        let port = port(Transport::Udp, 10_000 + number, &[&at(P1, 9)]);
        mapping(&format!("m{number}"), &[EXT1], vec![port])
    };
    (0..count).map(one).collect()
}

fn ruleset(mappings: Vec<PortMapping>) -> Ruleset {
    desired(&model(mappings, vec![]), &options(), &Interfaces::default()).ruleset
}

// S5.67
#[test]
fn a_packet_passes_the_same_rules_among_thousands_of_mappings() {
    let few = ruleset(mappings(1));
    let many = ruleset(mappings(4_000));

    assert_eq!(few.chains, many.chains);
    let grown: Vec<&String> = many
        .sets
        .iter()
        .filter(|(name, set)| set.elements.len() > few.sets[*name].elements.len())
        .map(|(name, set)| {
            assert!(!set.interval, "{name} is searched by comparing");
            assert!(set.elements.len() <= 4_000, "{name} has several elements per mapping");
            name
        })
        .collect();
    assert!(grown.iter().any(|name| *name == "svc4"), "{grown:?}");
}

// S5.67
#[test]
fn a_list_of_sources_adds_rules_for_its_own_mappings_only() {
    let everybody = ruleset(mappings(100));
    let mut all = mappings(100);
    for (number, mapping) in all.iter_mut().enumerate() {
        mapping.allowed_sources = sources(&[&format!("192.0.2.{number}/32")]);
    }

    let lists = ruleset(all);

    let base = |ruleset: &Ruleset| {
        let hooked = ruleset.chains.iter().filter(|(_, chain)| chain.hook.is_some());
        hooked.map(|(name, chain)| (name.clone(), chain.clone())).collect::<Vec<_>>()
    };
    assert_eq!(base(&lists), base(&everybody));
    let added = lists.chains.iter().filter(|(name, _)| !everybody.chains.contains_key(*name));
    let rules = |kind: &str| -> Vec<usize> {
        let of_kind = added.clone().filter(|(name, _)| name.starts_with(kind));
        of_kind.map(|(_, chain)| chain.rules.len()).collect()
    };
    assert_eq!(rules("acl"), vec![3; 100], "each list is looked up in one rule, once");
    assert_eq!(rules("back"), vec![2; 100], "for answers too");
}
