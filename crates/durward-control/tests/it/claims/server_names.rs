//! Names at a shared address and port: each is a claim of its own, and nobody loses one by asking for more.

use durward_control::isolation::crossings;
use durward_model::verdict::Severity;

use super::*;

fn shared(name: &str, names: &str) -> String {
    listening(name, &format!("protocol: HTTP, shared: true, names: [{names}]"))
}

fn listening(name: &str, entry: &str) -> String {
    let spec = format!(
        "{{ingress: [{{address: 198.51.100.2, port: 8080, {entry}, upstream: pay}}], upstreams: {{pay: {{endpoints: ['10.0.0.1:80']}}}}, egress: {{addresses: [203.0.113.{}]}}}}",
        name.len()
    );
    tenant(name, &spec)
}

/// The names that a tenant is served with, and which of them the socket finds it by.
fn names(compiled: &Compiled, name: &str) -> String {
    let Some(tenant) = compiled.snapshot.tenants.get(&id(name)) else { return "none".to_owned() };
    assert_eq!(crossings(&compiled.snapshot), []);
    let names = tenant.listeners.iter().flat_map(|listener| listener.names.iter().flatten());
    names.map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Reason, field and place of each error.
fn told(compiled: &Compiled, file: &str) -> Vec<String> {
    let errors = errors(compiled, file);
    let errors = errors.iter().filter(|finding| finding.severity == Severity::Error);
    errors
        .map(|finding| format!("{} {}: {}", finding.reason, finding.field, finding.sentence))
        .collect()
}

// S4.5
#[test]
fn a_name_that_somebody_has_is_left_out_and_the_others_are_served() {
    let stage = Stage::new();
    stage.write("1.yaml", &shared("a", "a.example, '*.example'"));
    stage.write("2.yaml", &shared("bb", "b.example, '*.example', x.b.example, '*.b.example'"));
    let compiled = stage.reload();

    assert_eq!(names(&compiled, "a"), "a.example *.example");
    assert_eq!(names(&compiled, "bb"), "b.example x.b.example *.b.example");
    let told = told(&compiled, "2.yaml");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("ServerNameTaken spec.ingress[0].names[1]: *.example at 198.51.100.2:8080 is taken by tenant a ("), "{told:?}");
    assert_eq!(compiled.verdicts.iter().nth(1).unwrap().outcome, Outcome::Partial);
    let bind = &compiled.snapshot.binds[&"198.51.100.2:8080".parse().unwrap()];
    let owner = |name| bind.named(([198, 51, 100, 2].into(), 8080), name).map(TenantId::as_str);
    for (name, tenant) in [
        ("a.example", Some("a")),
        ("c.example", Some("a")),
        ("b.example", Some("bb")),
        ("y.b.example", Some("bb")),
        ("a.other", None),
        ("198.51.100.2", None),
    ] {
        assert_eq!(owner(name), tenant, "{name}");
    }
}

// S4.5+
#[test]
fn whoever_has_a_name_keeps_it_while_it_asks_for_more_and_over_a_restart() {
    let stage = Stage::new();
    stage.write("1.yaml", &shared("a", "other.example"));
    stage.write("2.yaml", &shared("bb", "b.example"));
    stage.reload();
    // The older one asks for a name that the younger one has, at the moment in which that edits its own entry.
    stage.write("1.yaml", &shared("a", "other.example, b.example"));
    stage.write("2.yaml", &shared("bb", "b.example, more.example, other.example"));
    let check = |compiled: &Compiled| {
        assert_eq!(names(compiled, "a"), "other.example");
        assert_eq!(names(compiled, "bb"), "b.example more.example");
    };
    check(&stage.reload());

    let restarted = stage.restarted();
    check(&restarted.reload());
    let again = restarted.restarted();
    // What is given up is free for who waits for it.
    again.write("2.yaml", &shared("bb", "more.example, other.example"));
    let compiled = again.reload();
    assert_eq!(names(&compiled, "a"), "b.example other.example");
    assert_eq!(told(&compiled, "1.yaml"), Vec::<String>::new());
    assert_eq!(names(&compiled, "bb"), "more.example");
}

#[test]
fn what_was_served_stands_in_for_a_broken_entry_with_its_names() {
    let stage = Stage::new();
    stage.write("1.yaml", &shared("a", "a.example, b.example"));
    stage.write("2.yaml", &shared("bb", "c.example, a.example"));
    stage.reload();
    stage.write(
        "1.yaml",
        &shared("a", "a.example, b.example")
            .replace("pay,", "play,")
            .replace("upstream: pay}", "upstream: play}"),
    );
    let compiled = stage.reload();

    assert_eq!(names(&compiled, "a"), "a.example b.example");
    assert_eq!(names(&compiled, "bb"), "c.example");
    let compiled = stage.restarted().reload();
    assert_eq!(names(&compiled, "a"), "a.example b.example");
    assert_eq!(names(&compiled, "bb"), "c.example");
}

#[test]
fn a_port_is_shared_by_names_or_not_at_all_and_in_one_way() {
    for (entry, reason) in [
        ("protocol: HTTP, shared: true", "AddressTaken spec.ingress[0].address"),
        ("protocol: HTTP", "AddressTaken spec.ingress[0].address"),
        ("protocol: TLS, shared: true, names: [b.example]", "NamesUnfitting spec.ingress[0].names"),
        (
            "protocol: HTTP, shared: true, names: [b.example], listen: {address: 0.0.0.0}",
            "NamesUnfitting spec.ingress[0].names",
        ),
        ("protocol: HTTP, names: [b.example]", "FieldUnfitting spec.ingress[0].names"),
        ("protocol: TCP, shared: true, names: [b.example]", "FieldUnfitting spec.ingress[0].names"),
        (
            "protocol: HTTP, shared: true, names: [b.example, 198.51.100.3]",
            "BadHost spec.ingress[0].names[1]",
        ),
        ("protocol: HTTP, shared: true, names: ['*']", "BadHost spec.ingress[0].names[0]"),
    ] {
        let stage = Stage::new();
        stage.write("1.yaml", &shared("a", "a.example"));
        stage.write("2.yaml", &listening("bb", entry));
        let compiled = stage.reload();

        let told = told(&compiled, "2.yaml");
        assert!(told.iter().any(|told| told.starts_with(reason)), "{entry}: {told:?}");
        assert_eq!(names(&compiled, "a"), "a.example");
        assert!(!compiled.snapshot.tenants.contains_key(&id("bb")), "{entry}");
        if told.iter().any(|told| told.starts_with("FieldUnfitting") || told.starts_with("BadHost"))
        {
            continue;
        }
        // The other way round the whole port is somebody's.
        let stage = Stage::new();
        stage.write("2.yaml", &shared("a", "a.example"));
        stage.write("1.yaml", &listening("bb", entry));
        let compiled = stage.reload();
        let served = compiled.snapshot.tenants.contains_key(&id("bb"));
        assert_ne!(served, names(&compiled, "a") == "a.example", "{entry}");
    }
}

#[test]
fn one_tenant_has_the_address_itself_for_clients_that_name_nothing() {
    let stage = Stage::new();
    stage.write("1.yaml", &shared("a", "a.example, 198.51.100.2"));
    stage.write("2.yaml", &shared("bb", "b.example, 198.51.100.2"));
    let compiled = stage.reload();

    assert_eq!(names(&compiled, "a"), "198.51.100.2 a.example");
    assert_eq!(names(&compiled, "bb"), "b.example");
    assert!(
        told(&compiled, "2.yaml")[0]
            .starts_with("ServerNameTaken spec.ingress[0].names[1]: 198.51.100.2 at")
    );
}

#[test]
fn certificates_are_for_the_names_and_for_the_address_where_it_is_one_of_them() {
    let findings = |certificate: &str, names: &str| {
        let stage = Stage::new();
        let entry = format!(
            "protocol: HTTPS, certificate: {{file: certs/{certificate}}}, shared: true, names: [{names}]"
        );
        stage.write("1.yaml", &listening("a", &entry));
        let compiled = stage.reload();
        let findings = compiled.verdicts.findings().map(|(_, finding)| &*finding.reason);
        findings.map(str::to_owned).collect::<Vec<_>>()
    };

    assert_eq!(findings("acme", "unheard.example"), ["NameWithoutCertificate"]);
    assert_eq!(findings("acme", "'*.unheard.example', 198.51.100.2"), ["NameWithoutCertificate"]);
    assert_eq!(findings("bank", "unheard.example"), ["NameWithoutCertificate"]);
    let other = findings("bank", "unheard.example, 198.51.100.2");
    assert!(other.contains(&"IpSanMissing".to_owned()), "{other:?}");
}

// The dialled address says nothing at such a socket, and may be an address that only one of the tenants has.
#[test]
fn a_socket_known_by_its_port_serves_one_listener_though_several_would_share_it() {
    let by_name = |name: &str| {
        let names = format!("{name}.example");
        listening(
            name,
            &format!(
                "protocol: HTTP, shared: true, names: [{names}], listen: {{address: 0.0.0.0, port: 9080, destination: Port}}"
            ),
        )
    };
    let by_source = |name: &str| {
        let (number, sources) = (name.len(), format!("192.0.{}.0/24", name.len()));
        tenant(
            name,
            &format!(
                "{{egress: {{addresses: [203.0.113.{number}], allow: [{{host: x.example}}], proxy: [{{address: 198.51.100.2, port: 8080, shared: true, allowedSources: [{sources}], listen: {{address: 0.0.0.0, port: 9080, destination: Port}}}}]}}}}"
            ),
        )
    };
    let ways: [&dyn Fn(&str) -> String; 2] = [&by_name, &by_source];
    for written in ways {
        let stage = Stage::new();
        stage.write("1.yaml", &written("a"));
        stage.write("2.yaml", &written("bb"));
        let compiled = stage.reload();

        let told = told(&compiled, "2.yaml");
        assert!(told.len() == 1 && told[0].starts_with("PortTaken "), "{told:?}");
        assert_eq!(crossings(&compiled.snapshot), []);
        let bind = &compiled.snapshot.binds[&"0.0.0.0:9080".parse().unwrap()];
        assert_eq!(bind.listeners.len(), 1);
    }
}
