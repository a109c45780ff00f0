//! Sockets at all addresses: they serve nobody at an address that only others hold.

use std::fs;

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
