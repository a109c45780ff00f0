//! TLS: the name decides where to, and where the client meant to go only which of the name's addresses.

use std::io::ErrorKind;

use durward_testkit::netns::in_namespace;

use super::world::{Fate, SOON, seen, speak, tls, udp};
use super::{ACME, ACME_POD, BANK, EVIL, GOOD, Lab, OTHER, RAW, at};
use crate::support::{stderr, stdout};

const ACCESS_DENIED: Fate = Fate::Alert(49);

// S2.57 S2.4+ S2.28+
#[test]
fn an_allowed_name_is_reached_from_the_tenants_address_and_another_is_not() {
    in_namespace(
        "transparent::names::an_allowed_name_is_reached_from_the_tenants_address_and_another_is_not",
        || {
            let lab = Lab::new();
            let _running = lab.start();

            for family in [0, 1] {
                let to = at(GOOD[family], 443);
                assert_eq!(tls(&lab.acme, to, Some("bank.example")), seen(ACME[family]));
                assert_eq!(tls(&lab.bank, to, Some("bank.example")), seen(BANK[family]));
                let denied = tls(&lab.acme, at(EVIL[family], 443), Some("evil.example"));
                assert_eq!(denied, ACCESS_DENIED);
                let quic = udp(&lab.acme, to, SOON);
                assert_eq!(quic, Fate::Failed(ErrorKind::ConnectionRefused), "QUIC");
                assert_eq!(lab.world.reached(at(EVIL[family], 443)), 0);
            }
            let asked = lab.dns.asked();
            assert!(asked.iter().all(|(name, _)| name == "bank.example"), "{asked:?}");

            let allowed = lab.decision(|line| {
                let of_acme = line["tenant"] == "acme" && line["kind"] == "egress-close";
                of_acme && line["transparent"] == "198.51.100.80:443"
            });
            let expected = [
                ("method", "TLS"),
                ("host", "bank.example"),
                ("sni", "bank.example"),
                ("dialled", "198.51.100.80:443"),
                ("rule", "allow[0]"),
                ("verdict", "allowed"),
            ];
            for (field, value) in expected {
                assert_eq!(allowed[field], value, "{allowed}");
            }
            let client = allowed["client"].as_str().unwrap();
            let egress = allowed["egress"].as_str().unwrap();
            assert!(client.starts_with(ACME_POD[0]) && egress.starts_with(ACME[0]), "{allowed}");
            let denied = lab.decision(|line| line["transparent"] == "198.51.100.81:443");
            assert_eq!(
                (&denied["rule"], &denied["verdict"]),
                (&"default".into(), &"denied".into())
            );
        },
    );
}

// S2.57+ S2.55+
#[test]
fn a_name_that_is_a_lie_reaches_what_it_says_and_nothing_else() {
    in_namespace(
        "transparent::names::a_name_that_is_a_lie_reaches_what_it_says_and_nothing_else",
        || {
            let lab = Lab::new();
            let inside = [ACME_POD[0], "127.0.0.1", "169.254.169.254"];
            for (number, address) in (0..).zip(inside) {
                lab.dns.set(&format!("in{number}.bank.example"), &[address.parse().unwrap()]);
            }
            let _running = lab.start();

            let lie = tls(&lab.acme, at(EVIL[0], 443), Some("bank.example"));
            assert_eq!(lie, seen(ACME[1]), "the bank answers, at its first address");
            assert_eq!(lab.world.reached(at(EVIL[0], 443)), 0);
            assert_eq!(
                lab.world.reached(at(GOOD[0], 443)) + lab.world.reached(at(GOOD[1], 443)),
                1
            );
            // Of a name's addresses the one the client chose.
            for server in [GOOD, OTHER, GOOD] {
                let before = lab.world.reached(at(server[0], 443));
                let said = tls(&lab.acme, at(server[0], 443), Some("BOTH.bank.example"));
                assert_eq!(said, seen(ACME[0]));
                assert_eq!(lab.world.reached(at(server[0], 443)), before + 1);
            }
            for (number, guard) in (0..).zip(["private", "loopback", "metadata"]) {
                let name = format!("in{number}.bank.example");
                assert_eq!(tls(&lab.acme, at(GOOD[0], 443), Some(&name)), ACCESS_DENIED, "{name}");
                let line = lab.decision(|line| line["host"] == name.as_str());
                assert_eq!(line["rule"], format!("guard:{guard}"));
            }
        },
    );
}

// S2.57+ S2.54+
#[test]
fn without_a_name_the_address_is_judged_and_what_is_no_tls_goes_nowhere() {
    in_namespace(
        "transparent::names::without_a_name_the_address_is_judged_and_what_is_no_tls_goes_nowhere",
        || {
            let lab = Lab::new();
            let _running = lab.start_with(RAW);

            assert_eq!(tls(&lab.acme, at(OTHER[0], 443), None), seen(ACME[0]), "by its cidr");
            assert_eq!(tls(&lab.acme, at(GOOD[0], 443), None), ACCESS_DENIED);
            assert_eq!(tls(&lab.acme, at("169.254.169.254", 443), None), ACCESS_DENIED);
            let unknown = tls(&lab.acme, at(GOOD[0], 443), Some("nowhere.bank.example"));
            assert_eq!(unknown, Fate::Alert(112), "unrecognized_name");
            // An address is no name (RFC 6066).
            assert_eq!(tls(&lab.acme, at(OTHER[0], 443), Some(EVIL[0])), seen(ACME[0]));
            assert_eq!(tls(&lab.acme, at(EVIL[0], 443), Some(OTHER[0])), ACCESS_DENIED);
            let junk = speak(&lab.acme, at(GOOD[0], 443), b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
            assert!(matches!(junk, Fate::Alert(50) | Fate::Failed(_)), "{junk:?}");
            let proxy = b"CONNECT bank.example:443 HTTP/1.1\r\nHost: bank.example:443\r\n\r\n";
            let confused = speak(&lab.acme, at(GOOD[0], 443), proxy);
            assert!(matches!(confused, Fate::Alert(50) | Fate::Failed(_)), "{confused:?}");

            assert_eq!(lab.world.reached(at(GOOD[0], 443)), 0);
            assert_eq!(lab.world.reached(at(EVIL[0], 443)), 0);
            let line = lab.decision(|line| line["reason"] == "client_hello");
            assert_eq!(line["transparent"], "198.51.100.80:443");
        },
    );
}

#[test]
fn explain_and_check_know_what_is_handed_over() {
    in_namespace("transparent::names::explain_and_check_know_what_is_handed_over", || {
        let lab = Lab::new();
        lab.write(RAW);
        let explain = |arguments: &[&str]| {
            let output = lab.run(&[&["explain"], arguments].concat());
            stdout(&output) + &stderr(&output)
        };
        let from = ["--client", ACME_POD[0]];

        for (arguments, words) in [
            (
                &["198.51.100.80:443", "--sni", "bank.example"][..],
                &["SERVED by outside", "handed over", "allow[0] decides", ACME[0]][..],
            ),
            (
                &["198.51.100.81:443", "--sni", OTHER[0]],
                &["REFUSED policy_denied", "default denies"],
            ),
            (&["198.51.100.81:443"], &["REFUSED policy_denied", "no name is said"]),
            (&["198.51.100.82:443"], &["SERVED by outside", "allow[1]"]),
            (
                &["198.51.100.80:80", "--host", "bank.example"],
                &["SERVED by outside", "plain request"],
            ),
            (&["198.51.100.80:443", "--protocol", "udp"], &["REFUSED quic"]),
            (&["198.51.100.80:22"], &["REFUSED withheld", "tcp port 22"]),
        ] {
            let said = explain(&[arguments, &from].concat());
            assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
        }
        let bank = explain(&["198.51.100.80:22", "--client", super::BANK_POD[0]]);
        assert!(bank.contains("SERVED by egress") && bank.contains(BANK[0]), "{bank}");

        let check = |options: &[&str]| {
            let arguments = [&["check", "--admin", "off", "-o", "wide"], options].concat();
            let output = lab.run(&arguments);
            stdout(&output) + &stderr(&output)
        };
        let sound = check(&super::OPTIONS);
        assert!(sound.contains("connections can be handed to the forward proxy"), "{sound}");
        let nowhere = check(&[]);
        assert!(nowhere.contains("no interface is external: nothing is caught"), "{nowhere}");
    });
}
