//! Sockets at all addresses: they serve nobody at an address that only others hold.

use std::fs;

use durward_control::Compiled;
use durward_model::Destination;

use super::{Stage, id, tenant, victim};

/// Addresses of v in all their roles, and the port of a socket at all addresses that is another tenant's.
const HELD: [&str; 6] =
    ["198.51.100.2", "198.51.100.3", "198.51.100.4", "2001:db8::2", "2001:db8::3", "2001:db8::4"];

#[test]
fn a_socket_at_all_addresses_is_nobodys_at_an_address_of_another() {
    for mode in
        ["destination: Port", "destination: ProxyProtocol, trustedProxies: ['::/0', 0.0.0.0/0]"]
    {
        for (first, second) in [("v.yaml", "x.yaml"), ("x.yaml", "v.yaml")] {
            let stage = Stage::new();
            let entry = format!(
                "{{address: 203.0.113.8, port: 80, protocol: HTTP, redirectToHttps: true, listen: {{address: '::', {mode}}}}}"
            );
            let texts =
                [("v.yaml", victim()), ("x.yaml", tenant("x", &format!("{{ingress: [{entry}]}}")))];
            for file in [first, second] {
                let (_, text) = texts.iter().find(|(name, _)| *name == file).unwrap();
                stage.write(file, text);
                stage.reload();
            }
            let compiled = stage.reload();
            assert!(compiled.verdicts.all_accepted(), "{:#?}", compiled.verdicts);

            let bind = &compiled.snapshot.binds[&"[::]:80".parse().unwrap()];
            let served = |local: &str| {
                let destination = Destination("203.0.113.8:80".parse().unwrap());
                bind.listener_at(destination, local.parse().unwrap()).is_some()
            };
            for address in HELD {
                assert!(!served(address), "{mode}: {address}");
                assert_eq!(bind.foreign_owner(address.parse().unwrap()), Some(&id("v")));
            }
            assert!(!served("::ffff:198.51.100.2") && served("203.0.113.8") && served("192.0.2.1"));

            // Once v is gone its addresses are nobody's.
            fs::remove_file(stage.path().join("v.yaml")).unwrap();
            let compiled = stage.reload();
            let bind = &compiled.snapshot.binds[&"[::]:80".parse().unwrap()];
            assert_eq!(bind.foreign_owner("198.51.100.2".parse().unwrap()), None);
        }
    }
}

#[test]
fn a_socket_at_all_addresses_serves_at_an_address_that_its_tenant_shares() {
    let stage = Stage::new();
    let entry = |port: u16, listen: &str| {
        format!(
            "{{address: 203.0.113.8, port: {port}, protocol: HTTP, redirectToHttps: true, shared: true{listen}}}"
        )
    };
    stage.write("v.yaml", &tenant("v", &format!("{{ingress: [{}]}}", entry(8080, ""))));
    let listen = ", listen: {address: 0.0.0.0, destination: Port}";
    stage.write("x.yaml", &tenant("x", &format!("{{ingress: [{}]}}", entry(80, listen))));

    let compiled = stage.reload();

    assert!(compiled.verdicts.all_accepted(), "{:#?}", compiled.verdicts);
    let bind = &compiled.snapshot.binds[&"0.0.0.0:80".parse().unwrap()];
    assert_eq!(bind.foreign_owner("203.0.113.8".parse().unwrap()), None);
}

/// Entries of tenant x, which was first, and of v: x then writes the third, with which it would have what v has.
const TAKEN: [(&str, &str, &str, &str); 5] = [
    (
        "port",
        "address: 203.0.113.8, port: 80, protocol: HTTP, listen: {address: 203.0.113.1, port: 9001, destination: Port}",
        "address: 198.51.100.2, port: 80, protocol: HTTP, listen: {address: 203.0.113.1, port: 9002, destination: Port}",
        "address: 203.0.113.8, port: 80, protocol: HTTP, listen: {address: 203.0.113.1, port: 9002, destination: Port}",
    ),
    (
        "socket",
        "address: 203.0.113.8, port: 80, protocol: HTTP",
        "address: 198.51.100.2, port: 80, protocol: HTTP, listen: {address: 0.0.0.0, port: 9002, destination: ProxyProtocol, trustedProxies: [192.0.2.1]}",
        "address: 203.0.113.8, port: 80, protocol: HTTP, listen: {address: 0.0.0.0, port: 9002, destination: Port}",
    ),
    (
        "trusted peers",
        "address: 203.0.113.8, port: 80, protocol: HTTP, listen: {address: 0.0.0.0, port: 9002, destination: ProxyProtocol, trustedProxies: [192.0.2.1]}",
        "address: 198.51.100.2, port: 80, protocol: HTTP, listen: {address: 0.0.0.0, port: 9002, destination: ProxyProtocol, trustedProxies: [192.0.2.1]}",
        "address: 203.0.113.8, port: 80, protocol: HTTP, listen: {address: 0.0.0.0, port: 9002, destination: ProxyProtocol, trustedProxies: [0.0.0.0/0]}",
    ),
    (
        "mapped port",
        "address: 203.0.113.8, port: 25, protocol: HTTP",
        "",
        "address: 203.0.113.8, port: 25, protocol: HTTP, listen: {address: 0.0.0.0, destination: Port}",
    ),
    ("clients", "", "", ""),
];

#[test]
fn whoever_came_first_takes_no_socket_port_or_client_of_another_by_an_edit() {
    for (what, first, second, edited) in TAKEN {
        let mapped =
            "{tenant: v, addresses: [198.51.100.4], endpoints: [10.0.0.1], ports: [{port: 25}]}";
        let of = |name: &str, entry: &str| match (what, entry) {
            ("clients", clients) => tenant(
                name,
                &format!(
                    "{{egress: {{addresses: [203.0.113.{}], allow: [{{host: a.example}}], proxy: [{{address: 198.51.100.7, shared: true, allowedSources: [{clients}]}}]}}}}",
                    name.len()
                ),
            ),
            (_, "") => tenant(name, "{}") + &super::mapping("mail", mapped),
            _ => tenant(name, &format!("{{ingress: [{{{entry}, redirectToHttps: true}}]}}")),
        };
        let (first, second, edited) = match what {
            "clients" => ("192.0.2.0/25", "192.0.2.128/25", "192.0.2.0/24"),
            _ => (first, second, edited),
        };
        let stage = Stage::new();
        let older = if what == "clients" { "xx" } else { "x" };
        stage.write("a.yaml", &of(older, first));
        stage.reload();
        stage.write("b.yaml", &of("v", second));
        let before = stage.reload();
        assert!(before.verdicts.all_accepted(), "{what}: {:#?}", before.verdicts);

        stage.write("a.yaml", &of(older, edited));
        for _ in 0..3 {
            let after = stage.reload();

            let served = |compiled: &Compiled, name| compiled.snapshot.tenants[&id(name)].clone();
            assert_eq!(served(&after, "v"), served(&before, "v"), "{what}: {:#?}", after.verdicts);
            assert_eq!(after.snapshot.nat.mappings, before.snapshot.nat.mappings, "{what}");
            assert_eq!(super::errors(&after, "b.yaml").len(), 0, "{what}: {:#?}", after.verdicts);
            // Who asked for too much has what it had.
            assert_eq!(super::errors(&after, "a.yaml").len(), 1, "{what}: {:#?}", after.verdicts);
            let listeners = |compiled: &Compiled| served(compiled, older).listeners.clone();
            assert_eq!(listeners(&after).len(), listeners(&before).len(), "{what}");
        }
        let next = stage.restarted();
        let after = next.reload();
        assert_eq!(
            after.snapshot.tenants, before.snapshot.tenants,
            "{what}: {:#?}",
            after.verdicts
        );
        assert_eq!(after.snapshot.nat.mappings, before.snapshot.nat.mappings, "{what}");
        fs::remove_file(stage.path().join("b.yaml")).unwrap();
        let free = stage.reload();
        assert!(free.verdicts.all_accepted(), "{what}: {:#?}", free.verdicts);
    }
}

/// Who shares a socket changes what all say of it in one change.
#[test]
fn all_who_share_a_socket_may_change_its_trusted_peers_together() {
    let stage = Stage::new();
    let write = |trusted: &str| {
        for (at, name) in ["x", "v", "w"].iter().enumerate() {
            let entry = format!(
                "address: 198.51.100.{at}, port: 80, protocol: HTTP, redirectToHttps: true, listen: {{address: 0.0.0.0, port: 9002, destination: ProxyProtocol, trustedProxies: [{trusted}]}}"
            );
            let spec = format!("{{ingress: [{{{entry}}}]}}");
            stage.write(&format!("{name}.yaml"), &tenant(name, &spec));
        }
    };
    write("192.0.2.1");
    stage.reload();
    write("192.0.2.2");

    let compiled = stage.reload();

    assert!(compiled.verdicts.all_accepted(), "{:#?}", compiled.verdicts);
}

// S3.79+
#[test]
fn ports_of_udp_and_tcp_are_claimed_apart_and_kept_over_a_restart_with_a_broken_document() {
    let udp = "{address: 203.0.113.8, port: 53, protocol: UDP, shared: true, upstream: names}";
    let tcp = "{address: 203.0.113.8, port: 53, protocol: TCP, shared: true, upstream: zones}";
    let upstreams = "upstreams: {names: {link: onprem, endpoints: ['dns.net.svc:53']}, zones: {link: onprem, endpoints: ['dns.net.svc:53']}}";
    let document = |name: &str, entries: &str, leaves: &str| {
        tenant(
            name,
            &format!("{{ingress: [{entries}], {upstreams}, egress: {{addresses: [{leaves}]}}}}"),
        )
    };
    let stage = Stage::new();
    stage.write("v.yaml", &document("v", udp, "203.0.113.9"));
    stage.reload();

    // The port of the other protocol is free for another tenant, that of the same one is not.
    stage.write("a.yaml", &document("a", &format!("{tcp}, {udp}"), "203.0.113.10"));
    let compiled = stage.reload();
    let at = "203.0.113.8:53".parse().unwrap();
    let owners = |compiled: &Compiled| {
        let of = |bind: &durward_model::Bind| bind.listeners[0].tenant.clone();
        (of(&compiled.snapshot.binds[&at]), of(&compiled.snapshot.udp[&at]))
    };
    assert_eq!(owners(&compiled), (id("a"), id("v")));
    let errors = super::errors(&compiled, "a.yaml");
    // The link of both upstreams is in no document.
    let reasons: Vec<_> = errors.iter().map(|one| &*one.reason).collect();
    assert_eq!(reasons, ["AddressTaken", "LinkUnknown", "LinkUnknown"]);

    // What v had stands in for what is broken, in the next process too.
    stage.write(
        "v.yaml",
        &document("v", &udp.replace("upstream: names", "upstream: nothing"), "203.0.113.9"),
    );
    assert_eq!(owners(&stage.reload()), (id("a"), id("v")));
    assert_eq!(owners(&stage.restarted().reload()), (id("a"), id("v")));
}
