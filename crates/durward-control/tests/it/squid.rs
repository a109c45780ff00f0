//! What a squid.conf becomes: documents that compile, and that let through no more than Squid did, unless a note says so.
//!
//! Deliberately absent: Squid itself; what it would say to each request is written beside the request.

use std::net::IpAddr;
use std::sync::Arc;

use durward_control::migrate::squid::{SquidFault, SquidOptions, migrate};
use durward_control::migrate::{Effect, Migrated};
use durward_control::{Compiled, FileSource, RoutingJsonOptions, compile};
use durward_model::egress::neighbours::{NO_HOST, Surroundings};
use durward_model::egress::{Asked, Host, Neighbours, Outcome, Policy};
use durward_model::{Service, Tenant};

use crate::certificates::NOW;

fn options() -> SquidOptions {
    SquidOptions {
        address: Some("172.16.28.8".parse().unwrap()),
        egress: vec!["203.0.113.2".parse().unwrap()],
    }
}

fn translate(text: &str) -> Migrated {
    let files = |name: &str| match name {
        "/etc/squid/partners" => Ok(".bank.example # the bank\npay.example\n".to_owned()),
        "/etc/squid/conf.d/more.conf" => Ok("http_access allow lan\n".to_owned()),
        _ => Err("no such file".to_owned()),
    };
    migrate("squid.conf", text, &options(), &files).unwrap()
}

fn compiled(migrated: &Migrated) -> Compiled {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in &migrated.documents {
        std::fs::write(directory.path().join(format!("{name}.yaml")), text).unwrap();
        let hash = "a".repeat(64);
        std::fs::write(
            directory.path().join(format!("{name}.credentials")),
            format!("ci:{hash}\n"),
        )
        .unwrap();
    }
    let source = FileSource::new(RoutingJsonOptions::default());
    compile(&source.load(&[directory.path().to_owned()]), None, NOW)
}

fn all_accepted(migrated: &Migrated) -> Compiled {
    let compiled = compiled(migrated);
    assert!(
        compiled.verdicts.all_accepted(),
        "{:#?}\n{:#?}",
        compiled.verdicts,
        migrated.documents
    );
    compiled
}

fn effects(migrated: &Migrated) -> Vec<(usize, Effect)> {
    migrated.notes.iter().map(|note| (note.line, note.effect)).collect()
}

fn policy(tenant: &Tenant) -> Arc<Policy> {
    match &tenant.listeners[0].service {
        Service::Forward(service) => Arc::clone(&service.policy),
        other => panic!("{other:?}"),
    }
}

/// `CONNECT host:port` or `METHOD host:port`, the host standing for a public address if it is a name.
fn lets_through(compiled: &Compiled, tenant: &str, request: &str) -> bool {
    let tenant = compiled.snapshot.tenants.values().find(|known| known.id.as_str() == tenant);
    let tenant = tenant.unwrap();
    let (method, target) = request.split_once(' ').unwrap();
    let (host, port) = target.rsplit_once(':').unwrap();
    let host = Host::parse(host).unwrap();
    let address: IpAddr = match &host {
        Host::Address(address) => *address,
        Host::Name(_) => "198.51.100.77".parse().unwrap(),
    };
    let method = (method != "CONNECT").then_some(method);
    let asked = Asked { host: &host, port: port.parse().unwrap(), method };
    let policy = policy(tenant);
    let decided = policy.before_lookup(asked).unwrap_or_else(|| {
        let neighbours = Neighbours::of(&compiled.snapshot);
        let around = Surroundings { tenant: &tenant.id, neighbours: &neighbours, host: &NO_HOST };
        policy.decide(around, asked, &[address])
    });
    decided.outcome == Outcome::Allow
}

/// Requests, each with what Squid says to it.
fn agrees(compiled: &Compiled, tenant: &str, requests: &[(&str, bool)]) {
    for (request, allowed) in requests {
        assert_eq!(lets_through(compiled, tenant, request), *allowed, "{tenant}: {request}");
    }
}

const SEED: &str = "\
http_port 3128
acl k8s_network src 172.16.28.0/22
http_access allow k8s_network
http_access deny all
cache deny all
forwarded_for off
";

#[test]
fn the_seeds_configuration_is_one_tenant_for_its_network() {
    let migrated = translate(SEED);
    let compiled = all_accepted(&migrated);

    let tenant = compiled.snapshot.tenants.values().next().unwrap();
    assert_eq!(tenant.id.as_str(), "k8s-network");
    assert_eq!(tenant.egress[0].to_string(), "203.0.113.2");
    assert_eq!(tenant.listeners[0].to_string(), "172.16.28.8:3128");
    assert!(migrated.documents[0].1.contains("172.16.28.0/22"));
    agrees(
        &compiled,
        "k8s-network",
        &[
            ("CONNECT ifconfig.me:443", true),
            ("CONNECT ifconfig.me:22", true),
            ("GET ifconfig.me:80", true),
            ("CONNECT 198.51.100.9:8443", true),
        ],
    );
    // Squid would; that is what was wrong with it, and the note says so.
    assert!(!lets_through(&compiled, "k8s-network", "CONNECT 169.254.169.254:80"));
    assert!(!lets_through(&compiled, "k8s-network", "CONNECT 127.0.0.1:22"));
    assert_eq!(
        effects(&migrated),
        [(3, Effect::Narrower), (5, Effect::Elsewhere), (6, Effect::Elsewhere)]
    );
}

const USUAL: &str = "\
acl localnet src 10.0.0.0/8\t\t# RFC 1918
acl localnet src 192.168.0.0/16
acl SSL_ports port 443
acl Safe_ports port 80 443
acl Safe_ports port 1025-65535
acl CONNECT method CONNECT
http_access deny !Safe_ports
http_access deny CONNECT !SSL_ports
http_access allow localhost manager
http_access deny manager
http_access deny to_localhost
http_access allow localnet
http_access allow localhost
http_access deny all
http_port 3128
coredump_dir /var/spool/squid
refresh_pattern ^ftp: 1440 20% 10080
";

#[test]
fn the_usual_configuration_keeps_its_ports() {
    let migrated = translate(USUAL);
    let compiled = all_accepted(&migrated);

    agrees(
        &compiled,
        "localnet",
        &[
            ("CONNECT example.com:443", true),
            ("CONNECT example.com:8443", false),
            ("CONNECT example.com:22", false),
            ("GET example.com:80", true),
            ("GET example.com:8080", true),
            ("GET example.com:443", true),
            ("GET example.com:25", false),
            ("POST example.com:81", false),
        ],
    );
    assert!(migrated.notes.iter().all(|note| note.effect != Effect::Wider), "{:?}", migrated.notes);
}

const TWO: &str = "\
http_port 172.16.28.8:3128
acl client_a src 172.16.28.0/25
acl client_b src 172.16.28.128/25
acl partners dstdomain \"/etc/squid/partners\"
acl api dst 198.51.100.0/24
acl odd port 8443
tcp_outgoing_address 203.0.113.2 client_a
tcp_outgoing_address 203.0.113.3 client_b
tcp_outgoing_address 2001:db8::3 client_b
http_access allow client_a partners
http_access allow CONNECT client_b api odd
http_access deny all
dns_nameservers 10.0.0.53
cache_mgr netops@platform.example
";

// S2.4+ S2.15+
#[test]
fn each_outgoing_address_is_a_tenant_with_its_own_clients_and_rules() {
    let migrated = translate(TWO);
    let compiled = all_accepted(&migrated);

    let egress: Vec<String> = compiled
        .snapshot
        .tenants
        .values()
        .map(|tenant| {
            format!(
                "{} {:?}",
                tenant.id,
                tenant.egress.iter().map(ToString::to_string).collect::<Vec<_>>()
            )
        })
        .collect();
    assert_eq!(
        egress,
        ["client-a [\"203.0.113.2\"]", "client-b [\"203.0.113.3\", \"2001:db8::3\"]"]
    );
    agrees(
        &compiled,
        "client-a",
        &[
            ("CONNECT www.bank.example:443", true),
            ("CONNECT bank.example:443", true),
            ("CONNECT pay.example:443", true),
            ("CONNECT www.pay.example:443", false),
            ("CONNECT evilbank.example:443", false),
            ("CONNECT 198.51.100.9:443", false),
        ],
    );
    agrees(
        &compiled,
        "client-b",
        &[
            ("CONNECT 198.51.100.9:8443", true),
            ("CONNECT 198.51.100.9:443", false),
            ("GET 198.51.100.9:8443", false),
            ("CONNECT 198.51.101.9:8443", false),
            ("CONNECT pay.example:443", false),
        ],
    );
    let policy = policy(compiled.snapshot.tenants.values().next().unwrap());
    assert_eq!(policy.contact.as_deref(), Some("netops@platform.example"));
    assert_eq!(effects(&migrated), []);
}

#[test]
fn what_only_some_may_reach_is_left_by_lines_that_deny_all_else() {
    let migrated = translate(
        "http_port 3128\nacl lan src 10.0.0.0/8\nacl sites dstdomain .example.com api.other.example\nacl bad dstdomain bad.example.com\n\
         http_access deny bad\nhttp_access deny !sites\ninclude /etc/squid/conf.d/more.conf\nhttp_access deny all\n",
    );
    let compiled = all_accepted(&migrated);

    agrees(
        &compiled,
        "lan",
        &[
            ("CONNECT www.example.com:443", true),
            ("CONNECT api.other.example:9000", true),
            ("CONNECT bad.example.com:443", false),
            ("CONNECT elsewhere.example:443", false),
            ("GET www.example.com:80", true),
        ],
    );
}

#[test]
fn what_has_no_equal_is_said_with_its_line_and_never_allowed_in_silence() {
    let migrated = translate(
        "http_port 3128\nacl lan src 10.0.0.0/8\nacl half src 10.0.0.0/16\nacl night time 22:00-23:59\nacl ads url_regex ads\n\
         http_access deny ads\nhttp_access allow lan night\nhttp_access deny half\nhttp_access allow lan\n\
         auth_param basic program /usr/lib/squid/basic_ncsa_auth /etc/squid/passwd\nfrobnicate on\naccess_log /var/log/squid/access.log\n",
    );

    all_accepted(&migrated);
    assert_eq!(
        effects(&migrated),
        [
            (6, Effect::Wider),
            (7, Effect::Narrower),
            (8, Effect::Narrower),
            (9, Effect::Narrower),
            (10, Effect::Narrower),
            (11, Effect::Wider),
            (12, Effect::Elsewhere),
        ],
        "{:#?}",
        migrated.notes
    );
    assert!(migrated.notes[0].to_string().starts_with("squid.conf:6: wider: ads"));
}

#[test]
fn what_is_left_out_is_said_once_with_all_its_lines() {
    let files = |_: &str| Ok("refresh_pattern . 0 20% 4320\n".to_owned());
    let text = "http_port 3128\nacl lan src 10.0.0.0/8\nhttp_access allow lan\ncache_dir ufs /var/spool/squid 100 16 256\n\
         coredump_dir /var/spool/squid\nrefresh_pattern ^ftp: 1440 20% 10080\nrefresh_pattern -i cgi 0 0% 0\ninclude more.conf\n";

    let migrated = migrate("squid.conf", text, &options(), &files).unwrap();

    let told: Vec<String> = migrated.notes.iter().map(ToString::to_string).collect();
    let wanted = [
        "squid.conf:4: note: cache_dir is left out: it says nothing about who may go where",
        "squid.conf:5: note: coredump_dir is left out: it says nothing about who may go where",
        "squid.conf:6: note: refresh_pattern is left out: it says nothing about who may go where; so are lines 7, more.conf:1",
    ];
    assert_eq!(told[told.len() - 3..], wanted, "{told:#?}");
}

#[test]
fn clients_that_prove_who_they_are_need_credentials() {
    let migrated = translate(
        "http_port 3128\nacl lan src 10.0.0.0/8\nacl users proxy_auth REQUIRED\nhttp_access allow lan users\nhttp_access deny all\n",
    );
    let compiled = all_accepted(&migrated);

    let Service::Forward(service) =
        &compiled.snapshot.tenants.values().next().unwrap().listeners[0].service
    else {
        panic!("no proxy");
    };
    assert_eq!(&*service.credentials[0].name, "ci");
}

#[test]
fn ports_tell_clients_apart_too() {
    let migrated = translate(
        "http_port 172.16.28.8:3128 name=a\nhttp_port 172.16.28.8:3129 name=b\nhttp_port 3130 intercept\n\
         acl door_a myportname a\nacl door_b localport 3129\n\
         tcp_outgoing_address 203.0.113.2 door_a\ntcp_outgoing_address 203.0.113.3 door_b\n\
         acl web port 443\nhttp_access allow door_a web\nhttp_access allow door_b\nhttp_access deny all\n",
    );
    let compiled = all_accepted(&migrated);

    let doors: Vec<String> = compiled
        .snapshot
        .tenants
        .values()
        .map(|tenant| format!("{} {}", tenant.id, tenant.listeners[0]))
        .collect();
    assert_eq!(doors, ["door-a 172.16.28.8:3128", "door-b 172.16.28.8:3129"]);
    agrees(
        &compiled,
        "door-a",
        &[("CONNECT x.example:443", true), ("CONNECT x.example:22", false)],
    );
    agrees(&compiled, "door-b", &[("CONNECT x.example:22", true)]);
}

#[test]
fn without_an_address_to_write_nothing_is_guessed() {
    let none = |_: &str| Err(String::new());
    let bare = |text: &str, options: SquidOptions| migrate("squid.conf", text, &options, &none);
    let fault = |text, options| bare(text, options).unwrap_err();

    assert!(matches!(fault(SEED, SquidOptions::default()), SquidFault::NoAddress { line: 1, .. }));
    let address = SquidOptions { address: options().address, ..SquidOptions::default() };
    assert!(matches!(fault(SEED, address), SquidFault::NoEgress { .. }));
    assert_eq!(fault("acl a src 10.0.0.1\n", options()), SquidFault::NoDoor);
    assert_eq!(fault("http_port 3128\nhttp_access deny all\n", options()), SquidFault::NoClient);
    assert!(bare(SEED, options()).is_ok());
}
