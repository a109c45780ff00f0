//! What may go and what may not, rule by rule; and that no spelling of an address is anything but that address.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::address::IngressAddress;
use crate::mapping::{
    Affinity, Endpoints, KernelEgress, MappedPort, NatModel, PortMapping, PortRange, SourceMode,
};
use crate::snapshot::Snapshot;
use crate::source_set::SourceSet;
use crate::tenant_id::TenantId;
use crate::transport::Transport;

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

fn rule(name: &str, hosts: &[&str], blocks: &[&str], ports: &[(u16, u16)]) -> Rule {
    let hosts = hosts.iter().map(|host| match host.strip_prefix("*.") {
        _ if *host == "*" => HostMatch::Any,
        Some(parent) => HostMatch::Pattern(HostPattern::Wildcard(Arc::from(parent))),
        None => match host.strip_prefix('.') {
            Some(suffix) => HostMatch::Suffix(Arc::from(suffix)),
            None => HostMatch::Pattern(HostPattern::Exact(Arc::from(*host))),
        },
    });
    Rule {
        opens_guarded: true,
        name: Arc::from(name),
        hosts: hosts.collect(),
        lists: Vec::new(),
        blocks: blocks.iter().map(|block| block.parse().unwrap()).collect(),
        ports: ports.to_vec(),
        methods: Vec::new(),
        origin: Origin::default(),
    }
}

fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

/// What a CONNECT to `target` comes to when its name stands for `addresses`.
fn tunnel(policy: &Policy, target: (&str, u16), addresses: &[&str]) -> (Outcome, String) {
    let host = host(target.0);
    let asked = Asked { host: &host, port: target.1, method: None };
    let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    if let Some(decided) = policy.before_lookup(asked) {
        return (decided.outcome, decided.rule.to_string());
    }
    let decided = {
        let (tenant, neighbours) = (tenant(), Neighbours::default());
        let around = Surroundings { tenant: &tenant, neighbours: &neighbours, host: &NO_HOST };
        policy.decide(around, asked, &addresses)
    };
    (decided.outcome, decided.rule.to_string())
}

fn denied(rule: &str) -> (Outcome, String) {
    (Outcome::Deny, rule.to_owned())
}

fn allowed(rule: &str) -> (Outcome, String) {
    (Outcome::Allow, rule.to_owned())
}

// S2.54
#[test]
fn names_match_exactly_by_wildcard_and_by_suffix() {
    let policy = Policy {
        allow: vec![
            rule("exact", &["bank.example"], &[], &[]),
            rule("wild", &["*.pay.example"], &[], &[]),
            rule("suffix", &[".hub.example"], &[], &[]),
        ],
        ..Policy::default()
    };
    for (name, wanted) in [
        ("bank.example", allowed("exact")),
        ("BANK.example.", allowed("exact")),
        ("a.bank.example", denied(DEFAULT)),
        ("evilbank.example", denied(DEFAULT)),
        ("a.pay.example", allowed("wild")),
        ("pay.example", denied(DEFAULT)),
        ("hub.example", allowed("suffix")),
        ("a.b.hub.example", allowed("suffix")),
        ("evilhub.example", denied(DEFAULT)),
        ("1.1.1.1", denied(DEFAULT)),
    ] {
        assert_eq!(tunnel(&policy, (name, 443), &["1.1.1.1"]), wanted, "{name}");
    }
}

// S2.54
#[test]
fn ports_are_443_for_tunnels_unless_the_rule_names_others() {
    let policy = Policy {
        allow: vec![
            rule("plain", &["a.example"], &[], &[]),
            rule("wide", &["b.example"], &[], &[(8000, 8100), (22, 22)]),
        ],
        ..Policy::default()
    };
    let open = |name: &str| {
        (1..=u16::MAX)
            .filter(|port| tunnel(&policy, (name, *port), &["1.1.1.1"]).0 == Outcome::Allow)
            .collect::<Vec<_>>()
    };

    assert_eq!(open("a.example"), [443]);
    assert_eq!(open("b.example"), std::iter::once(22).chain(8000..=8100).collect::<Vec<_>>());
}

// S2.54
#[test]
fn deny_beats_allow_by_name_and_by_any_address() {
    let policy = Policy {
        deny: vec![rule("no", &["bad.example"], &[], &[]), rule("net", &[], &["9.9.9.0/24"], &[])],
        allow: vec![rule("all", &["*"], &[], &[])],
        ..Policy::default()
    };

    assert_eq!(tunnel(&policy, ("bad.example", 443), &["1.1.1.1"]), denied("no"));
    assert_eq!(tunnel(&policy, ("x.example", 443), &["1.1.1.1", "9.9.9.9"]), denied("net"));
    assert_eq!(tunnel(&policy, ("x.example", 443), &["1.1.1.1"]), allowed("all"));
}

// S2.42 S2.55
#[test]
fn one_guarded_address_among_many_is_enough_to_stay_in() {
    let policy = Policy { allow: vec![rule("all", &["*"], &[], &[])], ..Policy::default() };

    assert_eq!(
        tunnel(&policy, ("x.example", 443), &["1.1.1.1", "127.0.0.1"]),
        denied("guard:loopback")
    );
    assert_eq!(tunnel(&policy, ("x.example", 443), &["169.254.169.254"]), denied("guard:metadata"));
}

// S2.42
#[test]
fn the_guard_holds_in_every_mode_and_the_whole_internet_does_not_open_it() {
    for mode in [Mode::Enforce, Mode::Report, Mode::Open] {
        let policy = Policy {
            mode,
            allow: vec![rule("all", &[], &["0.0.0.0/0", "::/0"], &[(1, 65535)])],
            ..Policy::default()
        };
        for inside in ["10.0.0.1", "127.0.0.1", "::1", "fe80::1", "100.64.0.1", "224.0.0.1"] {
            assert_eq!(tunnel(&policy, (inside, 80), &[inside]).0, Outcome::Deny, "{inside}");
        }
        assert_eq!(tunnel(&policy, ("1.1.1.1", 80), &["1.1.1.1"]).0, Outcome::Allow);
    }
}

// S2.42
#[test]
fn a_range_is_opened_by_a_block_inside_it_and_metadata_by_its_address_alone() {
    let policy = Policy {
        allow: vec![
            rule("lan", &["erp.acme.internal"], &["10.1.0.0/16"], &[]),
            rule("link", &[], &["169.254.0.0/16"], &[(80, 80)]),
        ],
        ..Policy::default()
    };

    assert_eq!(tunnel(&policy, ("erp.acme.internal", 443), &["10.1.2.3"]), allowed("lan"));
    assert_eq!(tunnel(&policy, ("erp.acme.internal", 443), &["10.2.2.3"]), denied("guard:private"));
    assert_eq!(tunnel(&policy, ("10.1.2.3", 443), &["10.1.2.3"]), denied(DEFAULT));
    assert_eq!(tunnel(&policy, ("169.254.1.1", 80), &["169.254.1.1"]), allowed("link"));
    assert_eq!(
        tunnel(&policy, ("169.254.169.254", 80), &["169.254.169.254"]),
        denied("guard:metadata")
    );
}

// S2.42
#[test]
fn an_opened_translator_leads_only_to_what_is_open_itself() {
    let policy = |blocks: &[&str]| Policy {
        allow: vec![rule("nat64", &[], blocks, &[])],
        ..Policy::default()
    };
    let wide = policy(&["64:ff9b::/96"]);
    let lan = policy(&["64:ff9b::/96", "10.1.0.0/16"]);

    for (inner, word) in [
        ("a9fe:a9fe", "guard:metadata"),
        ("a00:1", "guard:private"),
        ("7f00:2", "guard:loopback"),
        ("e000:1", "guard:multicast"),
    ] {
        let target = format!("64:ff9b::{inner}");
        assert_eq!(tunnel(&wide, (&target, 443), &[&target]), denied(word), "{target}");
    }
    let world = "64:ff9b::cb00:7107";
    assert_eq!(tunnel(&wide, (world, 443), &[world]), allowed("nat64"));
    let near = "64:ff9b::a01:203";
    assert_eq!(tunnel(&lan, (near, 443), &[near]), allowed("nat64"));
    let beside = "64:ff9b::a02:203";
    assert_eq!(tunnel(&lan, (beside, 443), &[beside]), denied("guard:private"));
}

// S2.42 S2.47
#[test]
fn what_the_kernel_carries_of_others_is_theirs_and_cannot_be_opened() {
    let mapping = PortMapping {
        tenant: TenantId::new("bank").unwrap(),
        name: "web".into(),
        addresses: vec![IngressAddress([203, 0, 113, 10].into())],
        ports: vec![MappedPort {
            protocol: Transport::Tcp,
            ports: PortRange::one(8443).unwrap(),
            endpoints: Endpoints::At(vec!["10.9.3.5:8443".parse().unwrap()]),
        }],
        allowed_sources: SourceSet::default(),
        mode: SourceMode::default(),
        affinity: Affinity::default(),
        drain: Duration::ZERO,
        egress: false,
        health_check: None,
        origin: Origin::default(),
    };
    let sources = KernelEgress {
        tenant: TenantId::new("bank").unwrap(),
        name: "out".into(),
        sources: vec!["10.8.0.0/16".parse().unwrap()],
        addresses: Vec::new(),
        enrolled: true,
        transparent: None,
        drain: Duration::ZERO,
        origin: Origin::default(),
    };
    let own = KernelEgress {
        tenant: tenant(),
        sources: vec!["10.8.7.0/24".parse().unwrap()],
        ..sources.clone()
    };
    let nat = NatModel {
        mappings: vec![mapping.into()],
        egress: vec![sources.into(), own.into()],
        ..NatModel::default()
    };
    let neighbours = Neighbours::of(&Snapshot { nat: nat.into(), ..Snapshot::default() });
    let (tenant, bank) = (tenant(), TenantId::new("bank").unwrap());
    let allow = rule("wide", &[], &["203.0.113.0/24", "10.0.0.0/8", "64:ff9b::/96"], &[]);
    let policy = Policy { allow: vec![allow], ..Policy::default() };
    let decide = |tenant, target: &str| {
        let around = Surroundings { tenant, neighbours: &neighbours, host: &NO_HOST };
        let (asked, address) = (host(target), target.parse().unwrap());
        let asked = Asked { host: &asked, port: 443, method: None };
        let decided = policy.decide(around, asked, &[address]);
        (decided.outcome, decided.rule.to_string())
    };

    for target in ["203.0.113.10", "10.9.3.5", "10.8.3.4", "64:ff9b::cb00:710a"] {
        assert_eq!(decide(&tenant, target), denied("guard:other-tenant"), "{target}");
        assert_eq!(decide(&bank, target), allowed("wide"), "{target}");
    }
    assert_eq!(decide(&tenant, "10.8.7.4"), allowed("wide"), "inside of another's, but its own");
    assert_eq!(decide(&tenant, "203.0.113.11"), allowed("wide"));
}

// S2.42
#[test]
fn the_hosts_other_addresses_are_opened_one_by_one_and_its_doors_never() {
    let (tenant, neighbours) = (tenant(), Neighbours::default());
    let host: BTreeSet<IpAddr> = [[10, 1, 0, 5], [198, 51, 100, 5]].map(IpAddr::from).into();
    let around = Surroundings { tenant: &tenant, neighbours: &neighbours, host: &host };
    let decide = |blocks: &[&str], target: &str| {
        let policy = Policy { allow: vec![rule("it", &[], blocks, &[])], ..Policy::default() };
        let (asked, address) = (self::host(target), target.parse().unwrap());
        let asked = Asked { host: &asked, port: 443, method: None };
        let decided = policy.decide(around, asked, &[address]);
        (decided.outcome, decided.rule.to_string())
    };

    assert_eq!(decide(&["10.1.0.0/24"], "10.1.0.5"), denied("guard:host"));
    assert_eq!(decide(&["0.0.0.0/0"], "198.51.100.5"), denied("guard:host"));
    assert_eq!(decide(&["10.1.0.5/32"], "10.1.0.5"), allowed("it"));
    assert_eq!(decide(&["10.1.0.0/24"], "10.1.0.6"), allowed("it"));
}

// S2.54
#[test]
fn report_lets_through_what_enforce_denies_and_says_so() {
    let enforce = Policy::default();
    let report = Policy { mode: Mode::Report, ..Policy::default() };
    let open = Policy { mode: Mode::Open, ..Policy::default() };

    assert_eq!(tunnel(&enforce, ("x.example", 443), &["1.1.1.1"]), denied(DEFAULT));
    assert_eq!(tunnel(&report, ("x.example", 443), &["1.1.1.1"]).0, Outcome::Report);
    assert_eq!(tunnel(&open, ("x.example", 443), &["1.1.1.1"]), allowed(OPEN));
}

// S2.54
#[test]
fn a_rule_with_methods_is_for_plain_requests() {
    let mut reading = rule("read", &["a.example"], &[], &[(1, 65535)]);
    reading.methods = vec![Arc::from("GET")];
    let policy = Policy { allow: vec![reading], ..Policy::default() };
    let host = host("a.example");
    let ask = |method| policy.before_lookup(Asked { host: &host, port: 80, method }).is_none();

    assert!(ask(Some("GET")));
    assert!(!ask(Some("POST")));
    assert!(!ask(None));
}

// S2.54
#[test]
fn a_rule_with_connect_is_for_tunnels() {
    let mut tunnels = rule("tunnels", &["a.example"], &[], &[(1, 65535)]);
    tunnels.methods = vec![Arc::from("CONNECT")];
    let policy = Policy { allow: vec![tunnels], ..Policy::default() };
    let host = host("a.example");
    let ask = |method| policy.before_lookup(Asked { host: &host, port: 443, method }).is_none();

    assert!(ask(None));
    assert!(!ask(Some("GET")));
}

// S2.42
#[test]
fn odd_spellings_of_an_address_are_no_hosts_and_usual_ones_are_the_address() {
    for odd in [
        "2130706433",
        "0x7f000001",
        "0X7F000001",
        "017700000001",
        "127.1",
        "127.0.1",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "127.0.0.0x1",
        "127.0.0.01",
        "0127.0.0.1",
        "00000000127.0.0.1",
        "1.2.3.4.5",
        "256.0.0.1",
        "127.0.0.1..",
        "..",
        "",
        ".",
        "0",
        "0x",
        "a..b",
        "127。0。0。1",
        "①②⑦.0.0.1",
        "a%2eb",
        "fe80::1%lo",
        "[::1]",
        "a b",
        "a\0b",
        "x.0x1",
        "x.123",
        "1e3.0x7f",
    ] {
        assert!(Host::parse(odd).is_err(), "{odd:?}");
    }
    for (usual, address) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("::1", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::FFFF:7F00:1", "127.0.0.1"),
    ] {
        assert_eq!(Host::parse(usual), Ok(Host::Address(address.parse().unwrap())), "{usual}");
    }
}
