//! The whole kernel state a model asks for, as text: the program, its maps, routes and rules. A change of it is read before it is made.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use durward_model::egress::{Others, Transparent};
use durward_model::mapping::{Affinity, Endpoints, NatModel, PortMapping, PortRange, SourceMode};
use durward_model::transport::Transport;
use durward_nat::desired::diff;
use durward_nat::interface::External;
use durward_nat::nftables::Ruleset;
use durward_nat::policy_route::Routing;
use durward_nat::{Desired, Interfaces, desired};

use crate::lab::{egress, mapping, model, options, port, sources, tenant};

fn host() -> Interfaces {
    let external = |index, slot, address: &str, gateway: [u8; 4]| External {
        index,
        slot,
        up: true,
        addresses: vec![address.parse().unwrap()],
        gateway_v4: Some(Ipv4Addr::from(gateway)),
        gateway_v6: None,
    };
    let external = [
        ("ext1".to_owned(), external(7, 1, "203.0.113.1/24", [203, 0, 113, 254])),
        ("ext2".to_owned(), external(8, 2, "198.51.100.1/24", [198, 51, 100, 254])),
    ];
    Interfaces { external: external.into(), ..Interfaces::default() }
}

fn text(model: &NatModel) -> String {
    let wanted = desired(model, &options(), &host());
    let Desired { report, policy, .. } = &wanted;
    let mut text = String::new();
    for one in report.mappings.iter().chain(&report.egress) {
        let fate =
            one.rejected.as_ref().map_or_else(|| "in".to_owned(), |why| format!("out: {why}"));
        writeln!(text, "{}/{} {fate}", one.tenant, one.name).unwrap();
        if !one.foreign_addresses.is_empty() {
            writeln!(text, "  not here: {:?}", one.foreign_addresses).unwrap();
        }
    }
    writeln!(text, "addresses {:?}\n", policy.addresses()).unwrap();
    let difference = diff((&Ruleset::default(), &Routing::default()), &wanted);
    // For people, and then exactly: two rules may read the same in words.
    let rules = Ruleset { chains: wanted.ruleset.chains.clone(), ..Ruleset::default() };
    write!(text, "{}\n{rules}", difference.in_full()).unwrap();
    text
}

#[track_caller]
pub(crate) fn assert_golden(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn rich() -> Vec<PortMapping> {
    let mut range = port(Transport::Udp, 7000, &[]);
    range.ports = PortRange::new(7000, 7999).unwrap();
    range.endpoints = Endpoints::SamePort(vec![IpAddr::from([10, 244, 0, 9])]);
    let web = mapping(
        "web",
        &["203.0.113.1", "2001:db8:1::1"],
        vec![
            port(
                Transport::Tcp,
                443,
                &["10.244.0.5:8443", "10.244.0.6:8443", "[fd00:244::5]:8443"],
            ),
            range,
        ],
    );
    let mut narrow =
        mapping("narrow", &["198.51.100.1"], vec![port(Transport::Tcp, 22, &["10.244.0.7:22"])]);
    narrow.tenant = tenant("bank");
    narrow.mode = SourceMode::Snat;
    narrow.affinity = Affinity::ClientIp;
    narrow.allowed_sources = sources(&["192.0.2.0/25", "192.0.2.128/25", "192.0.2.7/32"]);
    let same_list = PortMapping {
        name: "same-list".into(),
        ports: vec![port(Transport::Tcp, 23, &[])],
        ..narrow.clone()
    };
    vec![web, narrow, same_list]
}

#[test]
fn nothing_is_asked_for_but_the_program() {
    assert_golden("empty", &text(&NatModel::default()));
}

// S5.40 S5.41+
#[test]
fn mappings_and_egress_are_elements() {
    let mut local = NatModel::clone(&model(
        rich(),
        vec![egress(&["10.244.0.0/25".to_owned()], &["203.0.113.1"])],
    ));
    local.local = ["0.0.0.0:443".parse().unwrap(), "198.51.100.1:80".parse().unwrap()].into();
    local.local_udp = ["198.51.100.1:53".parse().unwrap()].into();

    assert_golden("rich", &text(&local));
}

#[test]
fn the_way_to_the_proxy_is_elements_too() {
    let mut denying = egress(&["10.244.0.0/25".to_owned()], &["203.0.113.1"]);
    let ports = |http: &[u16], tls: &[u16], others| Transparent {
        http: http.iter().copied().collect(),
        tls: tls.iter().copied().collect(),
        others,
    };
    denying.transparent = Some(Arc::new(ports(&[80], &[443], Others::Deny)));
    let mut translating = egress(&["10.244.0.128/25".to_owned()], &["198.51.100.1"]);
    translating.tenant = tenant("bank");
    translating.transparent = Some(Arc::new(ports(&[80, 8080], &[], Others::Translate)));

    assert_golden("transparent", &text(&model(vec![], vec![denying, translating])));
}

// S5.42
#[test]
fn the_oldest_claim_wins_and_the_loser_is_left_out_whole() {
    let mut mappings = rich();
    let mut late = mapping(
        "late",
        &["203.0.113.9", "203.0.113.1"],
        vec![
            port(Transport::Tcp, 8080, &["10.244.0.5:8080"]),
            port(Transport::Udp, 7500, &["10.244.0.5:8080"]),
        ],
    );
    late.tenant = tenant("bank");
    mappings.push(late);
    mappings.push(mapping(
        "twice",
        &["203.0.113.1"],
        vec![
            port(Transport::Tcp, 8080, &["10.244.0.5:8080"]),
            port(Transport::Tcp, 8080, &["10.244.0.6:8080"]),
        ],
    ));
    let mut unknown = mapping("unknown", &["203.0.113.1"], vec![port(Transport::Tcp, 9, &[])]);
    unknown.tenant = tenant("nobody");
    mappings.push(unknown);
    mappings.push(mapping(
        "fits",
        &["203.0.113.1"],
        vec![port(Transport::Tcp, 8080, &["10.244.0.5:8080"])],
    ));

    let report = desired(&model(mappings, vec![]), &options(), &host()).report;

    let out: Vec<String> = report
        .mappings
        .iter()
        .filter_map(|one| Some(format!("{}: {}", one.name, one.rejected.as_ref()?)))
        .collect();
    assert_eq!(
        out,
        [
            "late: 203.0.113.1 udp 7500 belongs to acme/web",
            "twice: 203.0.113.1 tcp 8080 belongs to acme/twice",
            "unknown: the tenant has no number",
        ]
    );
}

// S5.67+
#[test]
fn the_program_has_as_many_rules_for_ten_thousand_mappings_as_for_ten() {
    let rules = |count: u16| {
        let mappings = (0..count).map(|number| {
            let at = format!("10.244.{}.{}:80", number / 250, number % 250 + 1);
            mapping(
                &format!("m{number}"),
                &["203.0.113.1"],
                vec![port(Transport::Tcp, 1000 + number, &[&at])],
            )
        });
        let ruleset = desired(&model(mappings.collect(), vec![]), &options(), &host()).ruleset;
        let rules: usize = ruleset.chains.values().map(|chain| chain.rules.len()).sum();
        (ruleset.chains.len(), rules, ruleset.sets.len())
    };

    assert_eq!(rules(10), rules(10_000));
}

/// The kernel asks routing rules one after the other.
#[test]
fn addresses_beside_each_other_share_a_routing_rule_that_is_for_no_other() {
    let wanted = |lasts: std::ops::RangeInclusive<u8>| {
        let addresses = lasts.map(|last| IpAddr::from([203, 0, 113, last])).collect();
        let lines = Routing::wanted(&options(), &host(), &addresses, &[]).lines();
        let from = lines.into_iter().filter_map(|line| {
            let (_, from) = line.split_once(" from ")?;
            Some(from.split(' ').next()?.to_owned())
        });
        from.collect::<Vec<_>>()
    };

    assert_eq!(wanted(2..=2), ["198.51.100.1", "203.0.113.1", "203.0.113.2"]);
    assert_eq!(
        wanted(64..=130),
        ["198.51.100.1", "203.0.113.1", "203.0.113.64/26", "203.0.113.128/31", "203.0.113.130"]
    );
}

#[test]
fn the_same_model_gives_the_same_state_whatever_its_order_in_memory() {
    let again: Arc<NatModel> = model(rich(), vec![]);
    let numbers = again.tenants.iter().rev().map(|(id, number)| (id.clone(), *number)).collect();
    let other = NatModel { tenants: numbers, ..NatModel::clone(&again) };

    assert_eq!(desired(&again, &options(), &host()), desired(&other, &options(), &host()));
}
