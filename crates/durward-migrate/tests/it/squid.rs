//! What a squid.conf becomes: documents that compile, and that let through no more than Squid did, unless a note says so.
//!
//! What Squid says to each request is written beside the request; `squid_model` compares random configurations.

use std::net::IpAddr;
use std::sync::Arc;

use durward_control::{Compiled, FileSource, RoutingJsonOptions, compile};
use durward_migrate::squid::{SquidFault, SquidFiles, SquidOptions, migrate};
use durward_migrate::{Effect, Migrated};
use durward_model::egress::neighbours::{NO_HOST, Surroundings};
use durward_model::egress::{Asked, Host, Neighbours, Outcome, Policy};
use durward_model::{Service, Tenant};

use crate::NOW;

pub(crate) fn options() -> SquidOptions {
    SquidOptions {
        addresses: vec!["172.16.28.8".parse().unwrap()],
        egress: vec!["203.0.113.2".parse().unwrap()],
    }
}

/// Files by name; a pattern means those whose name begins and ends like it.
pub(crate) struct Texts(pub(crate) Vec<(&'static str, String)>);

impl SquidFiles for Texts {
    fn read(&self, path: &str) -> Result<String, String> {
        let found = self.0.iter().find(|(name, _)| *name == path);
        found.map(|(_, text)| text.clone()).ok_or_else(|| "no such file".to_owned())
    }

    fn matching(&self, pattern: &str) -> Result<Vec<String>, String> {
        let Some((start, end)) = pattern.split_once('*') else {
            return Ok(vec![pattern.to_owned()]);
        };
        let fits = |name: &&str| name.starts_with(start) && name.ends_with(end);
        let names = self.0.iter().map(|(name, _)| *name).filter(fits);
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }
}

fn texts(files: &[(&'static str, &str)]) -> Texts {
    Texts(files.iter().map(|(name, text)| (*name, (*text).to_owned())).collect())
}

fn usual_files() -> Texts {
    texts(&[
        ("/etc/squid/partners", ".bank.example # the bank\npay.example\n"),
        ("/etc/squid/conf.d/more.conf", "http_access allow lan\n"),
        ("/etc/squid/empty", "# nobody today\n"),
        ("/etc/squid/passwd", "ann:$apr1$x$y\nben:$2y$05$z\ncleo:z\n"),
    ])
}

fn translate(text: &str) -> Migrated {
    migrate("squid.conf", text, &options(), &usual_files()).unwrap()
}

pub(crate) fn compiled(migrated: &Migrated) -> Compiled {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in &migrated.documents {
        std::fs::write(directory.path().join(format!("{name}.yaml")), text).unwrap();
    }
    for (name, bytes) in &migrated.files {
        std::fs::write(directory.path().join(name), bytes).unwrap();
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
    assert_eq!(effects(&migrated), [(3, Effect::Narrower)]);
    let left_out: Vec<usize> = migrated.left_out.iter().map(|note| note.line).collect();
    assert_eq!(left_out, [5, 6]);
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
    assert_eq!(effects(&migrated), [(7, Effect::Narrower)], "client_a has no IPv6 address");
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
         http_access deny ads\nhttp_access allow half night\nhttp_access deny half\nhttp_access allow lan\n\
         auth_param digest program /usr/lib/squid/digest_file_auth /etc/squid/passwd\nfrobnicate on\naccess_log /var/log/squid/access.log\n",
    );

    all_accepted(&migrated);
    assert_eq!(
        effects(&migrated),
        [
            (6, Effect::Wider),
            (7, Effect::Narrower),
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
    let files = texts(&[("more.conf", "refresh_pattern . 0 20% 4320\n")]);
    let text = "http_port 3128\nacl lan src 10.0.0.0/8\nhttp_access allow lan\ncache_dir ufs /var/spool/squid 100 16 256\n\
         coredump_dir /var/spool/squid\nrefresh_pattern ^ftp: 1440 20% 10080\nrefresh_pattern -i cgi 0 0% 0\ninclude more.conf\n";

    let migrated = migrate("squid.conf", text, &options(), &files).unwrap();

    let said: Vec<String> = migrated.left_out.iter().map(ToString::to_string).collect();
    let wanted = [
        "squid.conf:4: note: cache_dir is left out: it does not decide who may go where",
        "squid.conf:5: note: coredump_dir is left out: it does not decide who may go where",
        "squid.conf:6: note: refresh_pattern is left out: it does not decide who may go where; so are lines 7, more.conf:1",
    ];
    assert_eq!(said, wanted);
    assert_eq!(effects(&migrated), [(3, Effect::Narrower)], "the guard alone");
}

fn forward(compiled: &Compiled, tenant: &str) -> Vec<Arc<durward_model::Listener>> {
    let tenant = compiled.snapshot.tenants.values().find(|known| known.id.as_str() == tenant);
    tenant.unwrap().listeners.clone()
}

fn users(compiled: &Compiled, tenant: &str) -> Vec<String> {
    let Service::Forward(service) = &forward(compiled, tenant)[0].service else { panic!() };
    service.credentials.iter().map(|credential| credential.name.to_string()).collect()
}

#[test]
fn users_become_credentials_that_no_secret_fits_until_hashes_are_written() {
    let migrated = translate(
        "http_port 3128\nauth_param basic program /usr/lib/squid/basic_ncsa_auth /etc/squid/passwd\nacl lan src 10.0.0.0/8\n\
         acl users proxy_auth REQUIRED\nhttp_access allow lan users\nhttp_access deny all\n",
    );
    let compiled = all_accepted(&migrated);

    assert_eq!(users(&compiled, "lan-users"), ["ann", "ben", "cleo"]);
    let (name, bytes) = &migrated.files[0];
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert_eq!(name, "lan-users.credentials");
    assert!(text.contains("sha256sum") && text.contains("/etc/squid/passwd"), "{text}");
    assert!(!text.contains("apr1"), "a hash of Squid's is never taken over: {text}");
    let note = migrated.notes.iter().find(|note| note.text.contains("credentials")).unwrap();
    assert_eq!((note.line, note.effect), (5, Effect::Narrower));
}

#[test]
fn users_with_addresses_of_their_own_are_tenants_of_their_own() {
    let migrated = translate(
        "http_port 3128\nacl ann proxy_auth ann\nacl users proxy_auth REQUIRED\nhttp_access allow users\nhttp_access deny all\n\
         tcp_outgoing_address 203.0.113.7 ann\ntcp_outgoing_address 203.0.113.8\n",
    );
    let compiled = all_accepted(&migrated);

    let egress = |name: &str| {
        let tenant = compiled.snapshot.tenants.values().find(|known| known.id.as_str() == name);
        tenant.unwrap().egress[0].to_string()
    };
    assert_eq!(
        (egress("ann"), users(&compiled, "ann")),
        ("203.0.113.7".into(), vec!["ann".into()])
    );
    assert_eq!(egress("users"), "203.0.113.8");
    assert!(
        !migrated.notes.iter().any(|note| note.effect <= Effect::Wider),
        "{:?}",
        migrated.notes
    );
}

fn addresses(compiled: &Compiled, client: &str, door: &str) -> Vec<String> {
    let (client, door): (IpAddr, std::net::SocketAddr) =
        (client.parse().unwrap(), door.parse().unwrap());
    let mut found = Vec::new();
    for tenant in compiled.snapshot.tenants.values() {
        let comes = tenant.listeners.iter().any(|listener| {
            let sources = listener.allowed_sources.as_ref();
            (listener.address.0, listener.port) == (door.ip(), door.port())
                && sources.is_none_or(|sources| sources.contains(client))
        });
        if comes {
            found.extend(tenant.egress.iter().map(ToString::to_string));
        }
    }
    found
}

#[test]
fn a_network_inside_another_is_taken_out_of_it() {
    let migrated = translate(
        "http_port 172.16.28.8:3128\nacl dept src 10.1.0.0/16\nacl all_staff src 10.0.0.0/8\nhttp_access allow all_staff\nhttp_access deny all\n\
         tcp_outgoing_address 203.0.113.3 dept\ntcp_outgoing_address 203.0.113.2 all_staff\n",
    );
    let compiled = all_accepted(&migrated);

    let of = |client: &str| addresses(&compiled, client, "172.16.28.8:3128");
    assert_eq!(of("10.1.2.3"), ["203.0.113.3"]);
    assert_eq!(of("10.2.2.3"), ["203.0.113.2"]);
    assert!(of("192.0.2.9").is_empty());
    assert!(migrated.notes.iter().all(|note| note.effect > Effect::Wider), "{:?}", migrated.notes);
}

#[test]
fn the_address_a_client_connects_to_tells_tenants_apart() {
    let text = "acl door2 localip 203.0.113.2\nacl door3 localip 203.0.113.3\nacl lan src 10.0.0.0/8\n\
         http_access allow lan\nhttp_access deny all\ntcp_outgoing_address 203.0.113.2 door2\ntcp_outgoing_address 203.0.113.3 door3\n";
    let two = format!("http_port 203.0.113.2:3128\nhttp_port 203.0.113.3:3128\n{text}");
    let any = format!("http_port 3128\n{text}");
    let options = SquidOptions { addresses: Vec::new(), ..options() };

    for text in [two, any] {
        let migrated = migrate("squid.conf", &text, &options, &usual_files()).unwrap();
        let compiled = all_accepted(&migrated);

        for address in ["203.0.113.2", "203.0.113.3"] {
            assert_eq!(addresses(&compiled, "10.0.0.9", &format!("{address}:3128")), [address]);
        }
        assert!(
            migrated.notes.iter().all(|note| note.effect > Effect::Wider),
            "{:?}",
            migrated.notes
        );
    }
}

#[test]
fn ports_by_name_and_networks_together_tell_tenants_apart() {
    let migrated = translate(
        "http_port 172.16.28.8:3128 name=pa\nhttp_port 172.16.28.8:3129 name=pb\nacl pa myportname pa\nacl pb myportname pb\n\
         acl lan src 172.16.28.0/24\nhttp_access allow lan\nhttp_access deny all\ntcp_outgoing_address 203.0.113.4 pa\ntcp_outgoing_address 203.0.113.3 pb lan\n",
    );
    let compiled = all_accepted(&migrated);

    assert_eq!(addresses(&compiled, "172.16.28.9", "172.16.28.8:3128"), ["203.0.113.4"]);
    assert_eq!(addresses(&compiled, "172.16.28.9", "172.16.28.8:3129"), ["203.0.113.3"]);
    assert!(addresses(&compiled, "172.16.29.9", "172.16.28.8:3129").is_empty());
}

const MOVED: &str = "http_port 172.16.28.8:3128\nacl lan src 172.16.28.0/24\nacl bank dstdomain .bank.example\nacl night time 22:00-23:59\n\
    http_access allow lan\nhttp_access deny all\n";

#[test]
fn a_destination_with_an_address_of_its_own_is_denied_and_named() {
    let migrated = translate(&format!(
        "{MOVED}tcp_outgoing_address 203.0.113.3 bank\ntcp_outgoing_address 203.0.113.2\n"
    ));
    let compiled = all_accepted(&migrated);

    agrees(
        &compiled,
        "lan",
        &[("CONNECT www.bank.example:443", false), ("CONNECT other.example:443", true)],
    );
    let note = migrated.notes.iter().find(|note| note.effect == Effect::OtherAddress).unwrap();
    assert_eq!(note.line, 7);
    assert!(note.to_string().starts_with("squid.conf:7: other address: Squid sends"), "{note}");
}

#[test]
fn clients_whose_address_cannot_be_known_are_left_out_and_named() {
    let text = format!(
        "{MOVED}tcp_outgoing_address 203.0.113.3 night\ntcp_outgoing_address 203.0.113.2\n"
    );

    let migrated = translate(&text);

    assert!(migrated.documents.is_empty());
    let moved = migrated.notes.iter().filter(|note| note.effect == Effect::OtherAddress);
    assert_eq!(moved.map(|note| note.line).collect::<Vec<_>>(), [7]);
}

#[test]
fn other_ways_to_another_address_are_named() {
    for (line, wanted) in [
        ("follow_x_forwarded_for allow lan", true),
        ("follow_x_forwarded_for deny all", false),
        ("tcp_outgoing_mark 0x7 lan", true),
        ("cache_peer proxy.example parent 3128 0 no-query", true),
        ("refresh_pattern . 0 20% 4320", false),
    ] {
        let migrated = translate(&format!("{MOVED}{line}\n"));

        let moved =
            migrated.notes.iter().any(|note| note.effect == Effect::OtherAddress && note.line == 7);
        assert_eq!(moved, wanted, "{line}: {:?}", migrated.notes);
    }
    let through = "cache_peer proxy.example parent 3128 0 no-query\nnever_direct allow all";
    let migrated = translate(&format!("{MOVED}{through}\n"));
    assert!(migrated.notes.iter().all(|note| note.effect > Effect::Wider), "{:?}", migrated.notes);
    assert!(migrated.documents[0].1.contains("proxy.example:3128"));
}

#[test]
fn an_empty_list_matches_nothing() {
    for (list, line, allowed) in [
        ("dstdomain", "deny", true),
        ("dst", "deny", true),
        ("src", "deny", true),
        ("port", "deny", true),
        ("proxy_auth", "deny", true),
        ("dstdomain", "allow", false),
        ("src", "allow", false),
    ] {
        let rest = if allowed { "http_access allow lan\n" } else { "http_access allow lan pay\n" };
        let migrated = translate(&format!(
            "http_port 3128\nacl lan src 10.0.0.0/8\nacl pay dstdomain pay.example\nacl listed {list} \"/etc/squid/empty\"\n\
             http_access {line} listed\n{rest}http_access deny all\n"
        ));
        let compiled = all_accepted(&migrated);

        let tenant = compiled.snapshot.tenants.values().next().unwrap().id.to_string();
        agrees(&compiled, &tenant, &[("CONNECT other.example:443", allowed)]);
        assert!(migrated.notes.iter().all(|note| note.effect > Effect::Wider), "{list} {line}");
    }
}

#[test]
fn what_is_closed_without_an_ipv6_address_is_said_once_a_line_names_one() {
    let note = |outgoing: &str| {
        let migrated = translate(&format!(
            "http_port 192.0.2.1:3128\nacl nobody src\nacl www dstdomain .example.com\nhttp_access allow www\n\
             tcp_outgoing_address 203.0.113.2\n{outgoing}"
        ));
        let narrower = migrated.notes.iter().filter(|note| note.effect <= Effect::Narrower);
        narrower.map(|note| (note.line, note.effect)).collect::<Vec<_>>()
    };

    assert_eq!(note("tcp_outgoing_address 2001:db8::4 nobody\n"), [(5, Effect::Narrower)]);
    assert_eq!(note("tcp_outgoing_address [2001:db8::4] nobody\n"), [(5, Effect::Narrower)]);
    assert_eq!(note(""), []);
}

#[test]
fn a_list_that_cannot_be_read_neither_allows_nor_denies_in_silence() {
    let text = |line: &str| {
        format!(
            "http_port 3128\nacl lan src 10.0.0.0/8\nacl listed dstdomain \"/gone\"\n{line}\nhttp_access deny all\n"
        )
    };

    let denies = translate(&text("http_access deny listed\nhttp_access allow lan"));
    let allows = translate(&text("http_access allow lan listed"));

    assert!(denies.notes.iter().any(|note| (note.line, note.effect) == (4, Effect::Wider)));
    assert!(allows.notes.iter().any(|note| (note.line, note.effect) == (4, Effect::Narrower)));
    assert!(allows.notes.iter().any(|note| note.text.contains("/gone cannot be read")));
}

#[test]
fn names_that_no_client_asks_for_are_named_with_the_form_that_clients_use() {
    let migrated = translate(
        "http_port 3128\nacl lan src 10.0.0.0/8\nacl ok dstdomain .b\u{fc}cher.example *.stars.example fine.example\nhttp_access allow lan ok\nhttp_access deny all\n",
    );
    let compiled = all_accepted(&migrated);

    agrees(
        &compiled,
        "lan",
        &[("CONNECT fine.example:443", true), ("CONNECT x.stars.example:443", false)],
    );
    let note = migrated.notes.iter().find(|note| note.line == 3).unwrap();
    assert!(note.text.contains(".xn--bcher-kva.example"), "{note}");
    assert!(note.text.contains("*.stars.example") && note.effect == Effect::Narrower, "{note}");
}

#[test]
fn tunnels_to_listed_names_only_and_plain_requests_to_all() {
    let migrated = translate(
        "http_port 172.16.28.8:3128\nacl lan src 172.16.28.0/24\nacl listed dstdomain .bank.example\nhttp_access deny CONNECT !listed\n\
         http_access allow lan\nhttp_access deny all\n",
    );
    let compiled = all_accepted(&migrated);

    agrees(
        &compiled,
        "lan",
        &[
            ("CONNECT www.bank.example:443", true),
            ("CONNECT other.example:443", false),
            ("GET other.example:80", true),
            ("PROPFIND other.example:8080", true),
        ],
    );
    assert!(migrated.notes.iter().all(|note| note.effect > Effect::Wider), "{:?}", migrated.notes);
}

#[test]
fn an_exception_before_a_line_that_denies_is_kept_where_rules_can_say_it() {
    let migrated = translate(
        "http_port 3128\nacl lan src 10.0.0.0/8\nacl inner dst 198.51.100.0/28\nacl outer dst 198.51.100.0/24\nacl wide dst 198.51.0.0/16\n\
         acl www dstdomain www.example.com\nacl site dstdomain .example.com\n\
         http_access allow lan inner\nhttp_access deny outer\nhttp_access allow lan wide\nhttp_access deny all\n",
    );
    let compiled = all_accepted(&migrated);

    agrees(
        &compiled,
        "lan",
        &[
            ("CONNECT 198.51.100.9:443", true),
            ("CONNECT 198.51.100.99:443", false),
            ("CONNECT 198.51.1.1:443", true),
        ],
    );
    assert_eq!(effects(&migrated), []);
    let migrated = translate(
        "http_port 3128\nacl lan src 10.0.0.0/8\nacl www dstdomain www.example.com\nacl site dstdomain .example.com\n\
         http_access allow lan www\nhttp_access deny site\nhttp_access allow lan\nhttp_access deny all\n",
    );
    let compiled = all_accepted(&migrated);
    agrees(&compiled, "lan", &[("CONNECT www.example.com:443", false)]);
    let note = migrated.notes.iter().find(|note| note.line == 5).unwrap();
    assert!(note.effect == Effect::Narrower && note.text.contains("www.example.com"), "{note}");
}

#[test]
fn included_files_stand_in_the_place_of_the_line() {
    let files = texts(&[
        ("conf.d/20-allow.conf", "http_access allow lan\n"),
        ("conf.d/10-deny.conf", "http_access deny bad\ninclude deeper.conf\n"),
        ("deeper.conf", "acl unused src 10.0.0.0/8\n"),
        ("loop.conf", "include loop.conf\n"),
    ]);
    let text = "http_port 3128\nacl lan src 10.0.0.0/8\nacl bad dstdomain .bad.example\ninclude conf.d/*.conf\nhttp_access deny all\n";

    let migrated = migrate("squid.conf", text, &options(), &files).unwrap();
    let fault =
        |text: &str| migrate("squid.conf", text, &options(), &files).unwrap_err().to_string();

    let compiled = all_accepted(&migrated);
    agrees(
        &compiled,
        "lan",
        &[("CONNECT x.bad.example:443", false), ("CONNECT good.example:443", true)],
    );
    assert!(
        fault("http_port 3128\ninclude loop.conf\n").starts_with("loop.conf:1: cannot include")
    );
    assert!(
        fault("http_port 3128\ninclude gone.d/*.conf\n")
            .starts_with("squid.conf:2: cannot include gone.d")
    );
    assert!(fault("http_port 3128\ninclude gone.conf\n").contains("no such file"));
    assert!(
        fault("if ${process_number} = 1\nhttp_port 3128\nendif\n").starts_with("squid.conf:1: ")
    );
}

#[test]
fn each_kind_of_port_has_its_answer() {
    let text = |port: &str| {
        format!(
            "{port}\nhttp_port 172.16.28.8:3199\nacl lan src 172.16.28.0/24\nhttp_access allow lan\nhttp_access deny all\n"
        )
    };
    for (port, doors) in [
        ("http_port 172.16.28.8:3128 ssl-bump tls-cert=/etc/squid/ca.pem", 2),
        ("http_port 172.16.28.8:3128 intercept", 1),
        ("http_port 172.16.28.8:3128 tproxy", 1),
        ("http_port 172.16.28.8:80 accel defaultsite=www.example", 1),
        ("https_port 172.16.28.8:3129 tls-cert=/etc/squid/cert.pem", 1),
        ("http_port 172.16.28.8:3128 require-proxy-header", 1),
    ] {
        let migrated = translate(&text(port));
        let compiled = all_accepted(&migrated);

        assert_eq!(forward(&compiled, "lan").len(), doors, "{port}");
        let said =
            migrated.notes.iter().any(|note| (note.line, note.effect) == (1, Effect::Narrower));
        assert_eq!(said, doors == 1, "{port}: {:?}", migrated.notes);
    }
}

#[test]
fn a_list_of_300_000_names_is_a_file_beside_the_documents() {
    let names: String = (0..300_000).map(|number| format!(".n{number}.example\n")).collect();
    let files = Texts(vec![("/etc/squid/bad", names)]);
    let text = "http_port 3128\nacl lan src 10.0.0.0/8\nacl bad dstdomain \"/etc/squid/bad\"\nhttp_access deny bad\n\
        http_access allow lan\nhttp_access deny all\n";

    let migrated = migrate("squid.conf", text, &options(), &files).unwrap();

    let compiled = all_accepted(&migrated);
    assert_eq!(migrated.files[0].0, "bad.names");
    agrees(
        &compiled,
        "lan",
        &[
            ("CONNECT www.n299999.example:443", false),
            ("CONNECT n0.example:443", false),
            ("CONNECT n300000.example:443", true),
        ],
    );
}

#[test]
fn lists_of_lists_are_taken_apart() {
    let migrated = translate(
        "http_port 3128\nacl lan src 10.0.0.0/8\nacl a dstdomain .a.example\nacl b dstdomain .b.example\nacl p port 443\n\
         acl both any-of a b\nacl safe all-of both p\nhttp_access allow lan safe\nhttp_access deny all\n",
    );
    let compiled = all_accepted(&migrated);

    agrees(
        &compiled,
        "lan",
        &[
            ("CONNECT x.a.example:443", true),
            ("CONNECT x.b.example:443", true),
            ("CONNECT x.b.example:80", false),
            ("CONNECT x.c.example:443", false),
        ],
    );
    assert_eq!(effects(&migrated), []);
}

#[test]
fn a_document_that_would_not_be_accepted_is_an_error_at_its_line() {
    let text = "http_port 3128\nacl lan src 10.0.0.0/8\nhttp_access allow lan\ndns_nameservers not-an-address\n";

    let fault = migrate("squid.conf", text, &options(), &usual_files()).unwrap_err();

    assert!(matches!(fault, SquidFault::Invalid { line: 4, .. }), "{fault}");
    assert!(fault.to_string().starts_with("squid.conf:4: "), "{fault}");
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
    let none = Texts(Vec::new());
    let bare = |text: &str, options: SquidOptions| migrate("squid.conf", text, &options, &none);
    let fault = |text, options| bare(text, options).unwrap_err();

    assert!(matches!(fault(SEED, SquidOptions::default()), SquidFault::NoAddress { line: 1, .. }));
    let address = SquidOptions { addresses: options().addresses, ..SquidOptions::default() };
    assert!(matches!(fault(SEED, address), SquidFault::NoEgress { .. }));
    assert_eq!(fault("acl a src 10.0.0.1\n", options()), SquidFault::NoDoor);
    assert_eq!(fault("http_port 3128\nhttp_access deny all\n", options()), SquidFault::NoClient);
    assert!(bare(SEED, options()).is_ok());
}
