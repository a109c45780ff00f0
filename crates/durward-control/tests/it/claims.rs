//! Claims: an address, a key and a mapping belong to one tenant, and whoever holds one keeps it.

mod names;
mod networks;
mod secrets;
mod server_names;
mod sockets;
mod swaps;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use durward_control::{Compiled, FileSource, Publisher, State, compile};
use durward_model::TenantId;
use durward_model::verdict::{Finding, Outcome};

use crate::certificates::{self, NOW};

/// A directory of documents and what was published of it.
struct Stage {
    root: tempfile::TempDir,
    source: FileSource,
    publisher: Publisher,
}

impl Stage {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        certificates::write_into(&root.path().join("certs"));
        Self { root, source: FileSource::default(), publisher: Publisher::new() }
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path().join(file), text).unwrap();
    }

    fn reload(&self) -> Arc<Compiled> {
        self.publisher.reload(&self.source.load(&[self.path().to_owned()]), NOW)
    }

    /// The same documents in another process, which knows only what this one hands on.
    fn restarted(&self) -> Self {
        let root = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(self.path()).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), root.path().join(entry.file_name())).unwrap();
            }
        }
        let json = String::from_utf8(self.publisher.current().state().to_json()).unwrap();
        let moved = json.replace(self.path().to_str().unwrap(), root.path().to_str().unwrap());
        let state = State::from_json(moved.as_bytes()).unwrap();
        let source = FileSource::default();
        let publisher = Publisher::after(compile::retained::restore(&state, &source, NOW));
        Self { root, source, publisher }
    }
}

fn id(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn tenant(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn mapping(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

/// The errors of the documents in `file`.
fn errors<'c>(compiled: &'c Compiled, file: &str) -> Vec<&'c Finding> {
    let of_file =
        |finding: &Finding| finding.origin.file().is_some_and(|origin| origin.ends_with(file));
    let findings = compiled.verdicts.findings().map(|(_, finding)| finding);
    findings.filter(|finding| of_file(finding)).collect()
}

/// What v has: clients at .2, traffic out of .3, port 25 of .4 in the kernel, and the same of IPv6.
fn victim() -> String {
    let spec = "{ingress: [{address: 198.51.100.2, protocol: HTTP, port: 8080, upstream: pay}, {address: '2001:db8::2', port: 8080, protocol: HTTP, upstream: pay}], \
                upstreams: {pay: {endpoints: [10.0.0.1]}}, egress: {addresses: [198.51.100.3, '2001:db8::3']}}";
    let mapped = "{tenant: v, addresses: [198.51.100.4, '2001:db8::4'], endpoints: [10.0.0.1], ports: [{port: 25}]}";
    tenant("v", spec) + &mapping("mail", mapped)
}

/// Ways to use an address: what they are called, the spec of tenant x, and that of its mapping. `AT` stands for the address.
const USES: &[(&str, &str, &str)] = &[
    ("http", "{ingress: [{address: 'AT', port: 80, protocol: HTTP, redirectToHttps: true}]}", ""),
    (
        "tcp",
        "{ingress: [{address: 'AT', port: 9, protocol: TCP, upstream: pay}], upstreams: {pay: {endpoints: ['10.0.0.1:80']}}, egress: {addresses: [203.0.113.9]}}",
        "",
    ),
    ("egress", "{egress: {addresses: ['AT'], sources: [10.9.0.0/16]}}", ""),
    (
        "proxy",
        "{egress: {addresses: [203.0.113.9], proxy: [{address: 'AT', allowedSources: [10.0.0.0/8]}]}}",
        "",
    ),
    (
        "shared proxy",
        "{egress: {addresses: [203.0.113.9], proxy: [{address: 'AT', shared: true, allowedSources: [10.0.0.0/8]}]}}",
        "",
    ),
    (
        "mapping",
        "{}",
        "{tenant: x, addresses: [203.0.113.8, 'AT'], endpoints: [10.9.0.1], ports: [{port: 80}]}",
    ),
    (
        "socket",
        "{ingress: [{address: 203.0.113.8, port: 80, protocol: HTTP, redirectToHttps: true, listen: {address: 'AT', destination: Port}}]}",
        "",
    ),
    (
        "header",
        "{ingress: [{address: 203.0.113.8, port: 80, protocol: HTTP, redirectToHttps: true, listen: {address: 'AT', destination: ProxyProtocol, trustedProxies: [192.0.2.1]}}]}",
        "",
    ),
];

#[test]
fn an_address_is_one_tenants_at_every_port_and_in_both_directions() {
    let addresses = [
        "198.51.100.2",
        "198.51.100.3",
        "198.51.100.4",
        "::ffff:198.51.100.2",
        "::ffff:c633:6403",
        "2001:db8::2",
        "2001:db8:0::3",
        "2001:db8::0.0.0.4",
    ];

    for (form, spec, mapped) in USES {
        for address in addresses {
            let stage = Stage::new();
            stage.write("v.yaml", &victim());
            let before = stage.reload();
            assert!(before.verdicts.all_accepted(), "{:#?}", before.verdicts);
            let text = tenant("x", spec)
                + &if mapped.is_empty() { String::new() } else { mapping("web", mapped) };
            stage.write("a.yaml", &text.replace("AT", address));
            let after = stage.reload();

            let (was, is) = (&before.snapshot, &after.snapshot);
            assert!(Arc::ptr_eq(&was.tenants[&id("v")], &is.tenants[&id("v")]), "{form} {address}");
            assert_eq!(was.binds, is.binds, "{form} {address}");
            assert_eq!(was.nat.mappings, is.nat.mappings, "{form} {address}");
            assert_eq!(was.nat.egress, is.nat.egress, "{form} {address}");
            let errors = errors(&after, "a.yaml");
            assert_eq!(errors.len(), 1, "{form} {address}: {errors:#?}");
            let error = errors[0];
            assert!(["AddressTaken", "EgressTaken"].contains(&&*error.reason), "{form}: {error}");
            let told =
                error.sentence.contains("of tenant v (") && error.sentence.contains("v.yaml:");
            assert!(told, "{form} {address}: {error}");
        }
    }
}

#[test]
fn an_address_is_shared_where_all_that_use_it_say_so() {
    let v = |shared: &str| {
        tenant(
            "v",
            &format!(
                "{{ingress: [{{address: 198.51.100.2, port: 8443, protocol: HTTP, redirectToHttps: true{shared}}}]}}"
            ),
        )
    };
    let x = |shared: &str| {
        tenant(
            "x",
            &format!(
                "{{ingress: [{{address: 198.51.100.2, port: 8444, protocol: HTTP, redirectToHttps: true{shared}}}]}}"
            ),
        ) + &mapping(
            "web",
            &format!(
                "{{tenant: x, addresses: [198.51.100.2], endpoints: [10.9.0.1], ports: [{{port: 80}}]{shared}}}"
            ),
        )
    };
    let yes = ", shared: true";

    for (theirs, mine, fits) in
        [(yes, yes, true), (yes, "", false), ("", yes, false), ("", "", false)]
    {
        let stage = Stage::new();
        stage.write("v.yaml", &v(theirs));
        stage.reload();
        stage.write("x.yaml", &x(mine));
        let compiled = stage.reload();

        let served = compiled.snapshot.tenants.contains_key(&id("x"));
        assert!(compiled.snapshot.tenants.contains_key(&id("v")));
        assert_eq!(served, fits, "{theirs:?} {mine:?}: {:#?}", compiled.verdicts);
        assert_eq!(compiled.snapshot.nat.mappings.len(), usize::from(fits));
    }

    // One entry that does not share keeps the address to its tenant.
    let stage = Stage::new();
    let proxy = "egress: {addresses: [203.0.113.2], proxy: [{address: 198.51.100.2, shared: true, allowedSources: [10.1.0.0/16]}]}";
    stage.write("v.yaml", &tenant("v", &format!("{{ingress: [{{address: 198.51.100.2, port: 443, protocol: HTTP, redirectToHttps: true}}], {proxy}}}")));
    stage.reload();
    stage.write(
        "x.yaml",
        &tenant(
            "x",
            &proxy
                .replace("203.0.113.2", "203.0.113.3")
                .replace("10.1.", "10.2.")
                .replacen("egress", "{egress", 1)
                .replace("]}]}", "]}]}}"),
        ),
    );
    let compiled = stage.reload();
    assert_eq!(&*errors(&compiled, "x.yaml")[0].reason, "AddressTaken", "{:#?}", compiled.verdicts);
}

#[test]
fn an_address_taken_from_a_document_is_free_for_the_next_and_is_the_first_ones_until_then() {
    let stage = Stage::new();
    let at = |name: &str, last: u8| {
        tenant(
            name,
            &format!(
                "{{ingress: [{{address: 198.51.100.{last}, protocol: HTTP, redirectToHttps: true}}]}}"
            ),
        )
    };
    stage.write("v.yaml", &at("v", 2));
    stage.reload();
    stage.write("a.yaml", &at("x", 2));
    stage.reload();
    // A broken entry keeps what it had.
    stage.write("v.yaml", &at("v", 2).replace("198.51.100.2", "198.51.100.x"));
    let kept = stage.reload();
    assert_eq!(
        kept.snapshot.tenants.keys().collect::<Vec<_>>(),
        [&id("v")],
        "{:#?}",
        kept.verdicts
    );
    stage.write("v.yaml", &at("v", 3));

    let moved = stage.reload();

    assert!(moved.verdicts.all_accepted(), "{:#?}", moved.verdicts);
    assert_eq!(moved.snapshot.tenants.len(), 2);
}

/// A tenant with a hosted API server, whose relay has this certificate.
fn relay(name: &str, last: u8, file: &str) -> String {
    let tenant = tenant(name, &format!("{{egress: {{addresses: [203.0.113.{last}]}}}}"));
    format!(
        "{tenant}---\napiVersion: durward.dev/v1alpha1\nkind: HostedApi\nmetadata: {{name: api}}\nspec: {{tenant: {name}, names: [{name}.api.example], address: 198.51.100.{last}, upstream: {{endpoints: [10.0.0.11]}}, relay: {{certificate: {{file: certs/{file}}}, clientAuthorities: {{caFile: certs/partners.crt}}}}}}\n"
    )
}

#[test]
fn a_key_is_one_tenants_whatever_its_file_is_called() {
    let server = |name: &str, last: u8, file: &str| {
        tenant(
            name,
            &format!(
                "{{ingress: [{{address: 198.51.100.{last}, certificate: {{file: certs/{file}}}, ipSan: Warn, upstream: pay}}], upstreams: {{pay: {{endpoints: [10.0.0.1]}}}}, egress: {{addresses: [203.0.113.{last}]}}}}"
            ),
        )
    };
    let client = |name: &str, last: u8, file: &str| {
        tenant(
            name,
            &format!(
                "{{ingress: [{{address: 198.51.100.{last}, protocol: HTTP, upstream: pay}}], upstreams: {{pay: {{endpoints: [10.0.0.1], tls: {{caFile: certs/partners.crt, verifyName: pay.example, clientCertificate: {{file: certs/{file}}}}}}}}}, egress: {{addresses: [203.0.113.{last}]}}}}"
            ),
        )
    };
    let proxy = |name: &str, last: u8, file: &str| {
        tenant(
            name,
            &format!(
                "{{egress: {{addresses: [203.0.113.{last}], proxy: [{{address: 198.51.100.{last}, shared: true, certificate: {{file: certs/{file}}}, ipSan: Warn, allowedSources: [10.{last}.0.0/16]}}]}}}}"
            ),
        )
    };
    type Form<'f> = (&'f str, &'f dyn Fn(&str, u8, &str) -> String);
    let forms: [Form<'_>; 4] =
        [("server", &server), ("client", &client), ("proxy", &proxy), ("relay", &relay)];

    for (theirs, victim) in forms {
        for (mine, thief) in forms {
            let stage = Stage::new();
            for end in ["crt", "key"] {
                let certs = stage.path().join("certs");
                fs::copy(certs.join(format!("acme.{end}")), certs.join(format!("copy.{end}")))
                    .unwrap();
            }
            stage.write("v.yaml", &victim("v", 2, "acme"));
            let before = stage.reload();
            assert_eq!(before.snapshot.tenants.len(), 1, "{:#?}", before.verdicts);
            stage.write("a.yaml", &thief("x", 3, "copy"));
            let after = stage.reload();

            assert!(Arc::ptr_eq(
                &before.snapshot.tenants[&id("v")],
                &after.snapshot.tenants[&id("v")]
            ));
            if (theirs, mine) == ("proxy", "proxy") {
                // Proxies that share an address must show the same certificate there.
                assert_eq!(after.snapshot.tenants.len(), 2, "{:#?}", after.verdicts);
                continue;
            }
            let errors = errors(&after, "a.yaml");
            let taken = errors.iter().find(|finding| &*finding.reason == "KeyTaken");
            let taken = taken.unwrap_or_else(|| panic!("{theirs} {mine}: {errors:#?}"));
            assert!(taken.sentence.contains("of tenant v (") && taken.sentence.contains("v.yaml:"));
            let x = after.snapshot.tenants.get(&id("x"));
            assert!(x.is_none_or(|x| x.listeners.is_empty() && x.upstreams.is_empty()));
        }
    }
}

// S4.12+
#[test]
fn an_authority_of_api_proxies_is_one_tenants_whatever_its_certificate() {
    let stage = Stage::new();
    let certs = stage.path().join("certs");
    let key = rcgen::KeyPair::generate().unwrap();
    for (file, name) in [("first", "proxies of v"), ("again", "the same key by another name")] {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        fs::write(certs.join(format!("{file}.crt")), params.self_signed(&key).unwrap().pem())
            .unwrap();
    }
    let of = |tenant: &str, last: u8, file: &str, authority: &str| {
        relay(tenant, last, file).replace("partners.crt", &format!("{authority}.crt"))
    };
    stage.write("v.yaml", &of("v", 2, "acme", "first"));
    assert!(stage.reload().verdicts.all_accepted());

    for authority in ["first", "again"] {
        stage.write("a.yaml", &of("x", 3, "bank-many", authority));
        let after = stage.reload();

        let errors = errors(&after, "a.yaml");
        let taken = errors.iter().find(|finding| &*finding.reason == "AuthorityTaken");
        let taken = taken.unwrap_or_else(|| panic!("{errors:#?}"));
        assert_eq!(&*taken.field, "spec.relay.clientAuthorities");
        assert!(taken.sentence.contains("of tenant v ("), "{}", taken.sentence);
        assert!(after.snapshot.tenants.get(&id("x")).is_none_or(|x| x.listeners.is_empty()));
        assert_eq!(after.snapshot.tenants[&id("v")].listeners.len(), 1);
    }

    // Two API servers of one tenant may share it, and who lets go of it leaves it to others.
    let second = of("v", 2, "acme", "first").replace("name: api}", "name: other}");
    let second = second.split_once("---").unwrap().1.replace("v.api.example", "w.api.example");
    stage.write("v.yaml", &format!("{}---{second}", of("v", 2, "acme", "first")));
    let shared = stage.reload();
    let taken = errors(&shared, "v.yaml").iter().any(|one| &*one.reason == "AuthorityTaken");
    assert!(!taken, "{:#?}", shared.verdicts);
    stage.write("v.yaml", &of("v", 2, "acme", "partners"));
    let freed = stage.reload();
    assert!(freed.verdicts.all_accepted(), "{:#?}", freed.verdicts);
}

/// An edit of one document is compiled alone, and there a key must be asked for too.
#[test]
fn a_served_tenant_that_changes_to_another_tenants_key_keeps_its_own() {
    let stage = Stage::new();
    let of = |name: &str, last: u8, file: &str| {
        tenant(
            name,
            &format!(
                "{{ingress: [{{address: 198.51.100.{last}, certificate: {{file: certs/{file}}}, upstream: pay}}], upstreams: {{pay: {{endpoints: [10.0.0.1]}}}}, egress: {{addresses: [203.0.113.{last}]}}}}"
            ),
        )
    };
    stage.write("a.yaml", &of("x", 3, "bank-many"));
    stage.write("v.yaml", &of("v", 2, "acme-many"));
    let before = stage.reload();
    assert!(before.verdicts.all_accepted(), "{:#?}", before.verdicts);

    stage.write("a.yaml", &of("x", 3, "acme-many"));
    let after = stage.reload();

    assert_eq!(before.snapshot.tenants, after.snapshot.tenants);
    assert_eq!(&*errors(&after, "a.yaml")[0].reason, "KeyTaken");
    assert_eq!(after.verdicts.iter().next().unwrap().outcome, Outcome::KeptLastGood);
    stage.write("v.yaml", &of("v", 2, "many"));
    let free = stage.reload();
    assert!(free.verdicts.all_accepted(), "{:#?}", free.verdicts);
}

#[test]
fn mappings_of_one_name_are_as_many_as_tenants_that_use_it() {
    let web = |tenant: &str, last: u8, endpoint: &str| {
        mapping(
            "web",
            &format!(
                "{{tenant: {tenant}, addresses: [198.51.100.{last}], endpoints: [{endpoint}], ports: [{{port: 80}}]}}"
            ),
        )
    };
    let stage = Stage::new();
    stage.write(
        "b.yaml",
        &(tenant("acme", "{}") + &tenant("globex", "{}") + &web("globex", 2, "10.0.0.2")),
    );
    let before = stage.reload();

    // The same address: it is globex's, in whatever file and place the newcomer stands.
    for file in ["a.yaml", "z.yaml"] {
        stage.write(file, &web("acme", 2, "10.0.0.66"));
        let taken = stage.reload();
        assert_eq!(before.snapshot.nat.mappings, taken.snapshot.nat.mappings, "{file}");
        let errors = errors(&taken, file);
        assert_eq!(&*errors[0].reason, "AddressTaken", "{errors:#?}");
        fs::remove_file(stage.path().join(file)).unwrap();
    }
    stage.write("a.yaml", &web("acme", 3, "10.0.0.66"));
    let both = stage.reload();
    assert!(both.verdicts.all_accepted(), "{:#?}", both.verdicts);
    let names: Vec<_> =
        both.snapshot.nat.mappings.iter().map(|mapping| mapping.full_name()).collect();
    assert_eq!(names, ["globex/web", "acme/web"]);

    // An edit compiled alone, and one that is broken: each to its own.
    stage.write("a.yaml", &web("acme", 3, "10.0.0.67"));
    let edited = stage.reload();
    assert_eq!(edited.snapshot.nat.mappings[0], both.snapshot.nat.mappings[0]);
    assert_ne!(edited.snapshot.nat.mappings[1], both.snapshot.nat.mappings[1]);
    stage.write("a.yaml", &web("acme", 3, "10.0.0.67").replace("[{port", "[{prt"));
    let broken = stage.reload();
    assert_eq!(
        broken.snapshot.nat.mappings, edited.snapshot.nat.mappings,
        "{:#?}",
        broken.verdicts
    );
    stage.write("a.yaml", &web("acne", 3, "10.0.0.67"));
    let slip = stage.reload();
    assert_eq!(slip.snapshot.nat.mappings, edited.snapshot.nat.mappings, "{:#?}", slip.verdicts);
    fs::remove_file(stage.path().join("a.yaml")).unwrap();
    assert_eq!(stage.reload().snapshot.nat.mappings, before.snapshot.nat.mappings);
}

#[test]
fn of_two_documents_of_one_mapping_the_one_that_was_there_has_it() {
    let web = |endpoint: &str, created: &str| {
        mapping("web", &format!("{{tenant: v, addresses: [198.51.100.2], endpoints: [{endpoint}], ports: [{{port: 80}}]}}"))
            .replace("{name: web}", &format!("{{name: web{created}}}"))
    };
    let stage = Stage::new();
    stage.write("v.yaml", &(tenant("v", "{}") + &web("10.0.0.2", "")));
    let before = stage.reload();
    stage.write("a.yaml", &web("10.0.0.66", ", creationTimestamp: '1999-01-01T00:00:00Z'"));

    let after = stage.reload();

    assert_eq!(before.snapshot.nat.mappings, after.snapshot.nat.mappings);
    assert_eq!(&*errors(&after, "a.yaml")[0].reason, "NameTaken", "{:#?}", after.verdicts);
}

#[test]
fn a_date_that_its_author_writes_takes_nothing_from_a_holder() {
    let of = |name: &str, created: &str| {
        let spec = "{ingress: [{address: 198.51.100.2, protocol: HTTP, upstream: pay}], upstreams: {pay: {endpoints: [10.0.0.1]}}, egress: {addresses: [203.0.113.2], sources: [10.9.0.0/16]}}";
        tenant(name, spec).replace(&format!("{{name: {name}}}"), &format!("{{name: {name}{created}}}"))
            + &mapping("web", &format!("{{tenant: {name}, addresses: [198.51.100.4], endpoints: [10.0.0.1], ports: [{{port: 25}}]}}"))
                .replace("{name: web}", &format!("{{name: web{created}}}"))
    };
    let dates = [
        "",
        ", creationTimestamp: '2024-01-01T00:00:00Z'",
        ", creationTimestamp: '1970-01-01T00:00:00Z'",
    ];

    for held in dates {
        for forged in dates {
            let stage = Stage::new();
            stage.write("v.yaml", &of("v", held));
            let before = stage.reload();
            assert!(before.verdicts.all_accepted(), "{:#?}", before.verdicts);
            stage.write("a.yaml", &of("x", forged));

            let after = stage.reload();

            let same =
                Arc::ptr_eq(&before.snapshot.tenants[&id("v")], &after.snapshot.tenants[&id("v")]);
            assert!(same && after.snapshot.tenants.len() == 1, "{held:?} {forged:?}");
            assert_eq!(
                before.snapshot.nat.mappings, after.snapshot.nat.mappings,
                "{held:?} {forged:?}"
            );
            assert_eq!(
                before.snapshot.nat.egress, after.snapshot.nat.egress,
                "{held:?} {forged:?}"
            );
        }
    }
}
