//! Two that ask for what the other has, in one change, both get it.

use super::*;

/// Writes both states, and asserts that the second is accepted in one reload.
fn swapped(before: &[(&str, String)], after: &[(&str, String)]) -> Arc<Compiled> {
    let stage = Stage::new();
    before.iter().for_each(|(file, text)| stage.write(file, text));
    let first = stage.reload();
    assert!(first.verdicts.all_accepted(), "{:#?}", first.verdicts);
    after.iter().for_each(|(file, text)| stage.write(file, text));

    let second = stage.reload();

    assert!(second.verdicts.all_accepted(), "{:#?}", second.verdicts);
    assert_eq!(second.snapshot.generation, first.snapshot.generation + 1);
    second
}

fn mapped(tenant: &str, address: u8, port: u16) -> String {
    mapping(
        "web",
        &format!(
            "{{tenant: {tenant}, shared: true, addresses: [198.51.100.{address}], endpoints: [10.0.0.1], ports: [{{port: {port}}}]}}"
        ),
    )
}

/// The first address and port of each mapping, with its tenant and name.
fn external(compiled: &Compiled) -> Vec<String> {
    let mappings = compiled.snapshot.nat.mappings.iter();
    let of = mappings.map(|mapping| {
        let (address, ports) = (mapping.addresses[0], mapping.ports[0].ports);
        format!("{}/{} {address}:{ports}", mapping.tenant, mapping.name)
    });
    let mut all: Vec<_> = of.collect();
    all.sort();
    all
}

#[test]
fn mappings_of_two_tenants_swap_ports() {
    let a = tenant("a", "{}");
    let b = tenant("b", "{}");
    let file = |tenant: &str, name: &str, port| tenant.to_owned() + &mapped(name, 1, port);

    let after = swapped(
        &[("a.yaml", file(&a, "a", 80)), ("b.yaml", file(&b, "b", 81))],
        &[("a.yaml", file(&a, "a", 81)), ("b.yaml", file(&b, "b", 80))],
    );

    assert_eq!(external(&after), ["a/web 198.51.100.1:81", "b/web 198.51.100.1:80"]);
}

#[test]
fn mappings_of_two_tenants_swap_addresses() {
    let file = |name: &str, address| {
        tenant(name, "{}") + &mapped(name, address, 80).replace("shared: true", "shared: false")
    };

    let after = swapped(
        &[("a.yaml", file("a", 1)), ("b.yaml", file("b", 2))],
        &[("a.yaml", file("a", 2)), ("b.yaml", file("b", 1))],
    );

    assert_eq!(external(&after), ["a/web 198.51.100.2:80", "b/web 198.51.100.1:80"]);
}

#[test]
fn mappings_of_one_tenant_change_places_in_a_circle() {
    let file = |ports: [u16; 3]| {
        let mapping =
            |at: usize| mapped("a", 1, ports[at]).replace("name: web", &format!("name: m{at}"));
        tenant("a", "{}") + &mapping(0) + &mapping(1) + &mapping(2)
    };

    let after = swapped(&[("a.yaml", file([80, 81, 82]))], &[("a.yaml", file([81, 82, 80]))]);

    let all = ["a/m0 198.51.100.1:81", "a/m1 198.51.100.1:82", "a/m2 198.51.100.1:80"];
    assert_eq!(external(&after), all);
}

/// One of the circle asks for another port besides, which is taken, so it stays; whoever needs its port stays, too; the others move.
#[test]
fn whoever_cannot_move_keeps_its_port_and_the_others_swap() {
    let stage = Stage::new();
    let file = |ports: [&str; 4]| {
        let mapping = |at: usize| {
            let text = mapped("a", 1, 1).replace("name: web", &format!("name: m{at}"));
            text.replace("{port: 1}", ports[at])
        };
        tenant("a", "{}") + &mapping(0) + &mapping(1) + &mapping(2) + &mapping(3)
    };
    let write = |ports| stage.write("a.yaml", &file(ports));
    stage.write("b.yaml", &(tenant("b", "{}") + &mapped("b", 1, 99)));
    write(["{port: 80}", "{port: 81}", "{port: 82}", "{port: 83}"]);
    assert!(stage.reload().verdicts.all_accepted());

    write(["{port: 81}", "{port: 80}, {port: 99}", "{port: 83}", "{port: 82}"]);
    let after = stage.reload();

    let all = [
        "a/m0 198.51.100.1:80",
        "a/m1 198.51.100.1:81",
        "a/m2 198.51.100.1:83",
        "a/m3 198.51.100.1:82",
        "b/web 198.51.100.1:99",
    ];
    assert_eq!(external(&after), all, "{:#?}", after.verdicts);
    let reasons: Vec<_> = errors(&after, "a.yaml").iter().map(|one| one.reason.clone()).collect();
    assert_eq!(reasons, ["PortTaken".into(), "PortTaken".into()]);
}

#[test]
fn a_mapping_and_a_listener_swap_ports() {
    let file = |listener: u16, mapping: u16| {
        tenant(
            "a",
            &format!(
                "{{ingress: [{{address: 198.51.100.1, port: {listener}, protocol: HTTP, redirectToHttps: true, shared: true}}]}}"
            ),
        ) + &mapped("a", 1, mapping)
    };

    let after = swapped(&[("a.yaml", file(80, 81))], &[("a.yaml", file(81, 80))]);

    assert_eq!(external(&after), ["a/web 198.51.100.1:80"]);
    assert_eq!(after.snapshot.tenants[&id("a")].listeners[0].port, 81);
}

#[test]
fn tenants_swap_all_that_they_have() {
    let text = |name: &str, at: u8| {
        tenant(
            name,
            &format!(
                "{{ingress: [{{address: 198.51.100.{at}, port: 80, protocol: HTTP, redirectToHttps: true}}], egress: {{addresses: [203.0.113.{at}], sources: [10.{at}.0.0/16]}}}}"
            ),
        )
    };
    let pods = |name: &str, at: u8| {
        let text = mapped(name, at + 10, 80).replace("10.0.0.1", &format!("172.16.{at}.1"));
        text.replace("shared: true", "egress: true")
    };
    let file = |name: &str, at: u8| text(name, at) + &pods(name, at);

    let things = swapped(
        &[("a.yaml", file("a", 1)), ("b.yaml", file("b", 2))],
        &[("a.yaml", file("a", 2)), ("b.yaml", file("b", 1))],
    );
    let names = swapped(
        &[("a.yaml", file("a", 1)), ("b.yaml", file("b", 2))],
        &[("a.yaml", file("b", 1)), ("b.yaml", file("a", 2))],
    );

    for after in [things, names] {
        let [a, b] = ["a", "b"].map(|name| after.snapshot.tenants[&id(name)].clone());
        assert_eq!(a.listeners[0].address.0.to_string(), "198.51.100.2");
        assert_eq!(b.egress[0].0.to_string(), "203.0.113.1");
        assert_eq!(external(&after), ["a/web 198.51.100.12:80", "b/web 198.51.100.11:80"]);
        let rules = after.snapshot.nat.egress.iter().map(|rule| rule.sources[0].to_string());
        let rules: Vec<_> = rules.collect();
        assert_eq!(rules, ["10.2.0.0/16", "172.16.2.1/32", "10.1.0.0/16", "172.16.1.1/32"]);
    }
}
