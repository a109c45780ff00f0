//! Networks whose traffic leaves as a tenant's: they hold no address of another, and whoever asked first has it.

use std::fs;
use std::sync::Arc;

use super::{Stage, errors, id, mapping, tenant, victim};

/// Addresses that v has for its clients, for its traffic and for its mapping, and networks around them.
const THEIRS: [&str; 8] = [
    "198.51.100.2",
    "198.51.100.3",
    "198.51.100.4",
    "198.51.100.0/24",
    "0.0.0.0/0",
    "'2001:db8::2'",
    "'2001:db8::3'",
    "'2001:db8::/64'",
];

fn enrolled(network: &str) -> String {
    tenant(
        "x",
        &format!(
            "{{egress: {{addresses: [203.0.113.9, '2001:db8:1::9'], sources: [10.7.0.0/16, {network}]}}}}"
        ),
    )
}

#[test]
fn a_network_with_an_address_of_another_in_it_is_nobodys_traffic() {
    for network in THEIRS {
        for created in ["", ", creationTimestamp: '1970-01-01T00:00:00Z'"] {
            let stage = Stage::new();
            stage.write("v.yaml", &victim());
            let before = stage.reload();
            let x = enrolled(network).replace("{name: x}", &format!("{{name: x{created}}}"));
            stage.write("a.yaml", &x);
            let after = stage.reload();

            let (was, is) = (&before.snapshot, &after.snapshot);
            assert!(Arc::ptr_eq(&was.tenants[&id("v")], &is.tenants[&id("v")]), "{network}");
            assert_eq!(was.nat.mappings, is.nat.mappings, "{network}");
            let errors = errors(&after, "a.yaml");
            assert_eq!(errors.len(), 1, "{network}: {errors:#?}");
            assert_eq!(&*errors[0].reason, "SourceTaken", "{network}");
            assert_eq!(&*errors[0].field, "spec.egress.sources[1]", "{network}");
            assert!(errors[0].sentence.contains("of tenant v ("), "{network}: {}", errors[0]);
            let rules = &is.nat.egress;
            assert_eq!(rules.len(), 1, "{network}");
            assert_eq!(rules[0].sources, ["10.7.0.0/16".parse().unwrap()], "{network}");
        }
    }
}

#[test]
fn an_address_in_a_network_of_another_is_taken_by_nobody_who_comes_later() {
    for network in THEIRS {
        let stage = Stage::new();
        stage.write("x.yaml", &enrolled(network));
        let before = stage.reload();
        assert!(before.verdicts.all_accepted(), "{network}: {:#?}", before.verdicts);
        let v =
            victim().replace("{name: v}", "{name: v, creationTimestamp: '1970-01-01T00:00:00Z'}");
        stage.write("a.yaml", &v);
        let after = stage.reload();

        assert_eq!(before.snapshot.nat.egress, after.snapshot.nat.egress, "{network}");
        let errors = errors(&after, "a.yaml");
        let taken = |reason: &str| ["AddressTaken", "EgressTaken"].contains(&reason);
        let told = errors.iter().find(|error| taken(&error.reason));
        let told = told.unwrap_or_else(|| panic!("{network}: {:#?}", after.verdicts));
        assert!(told.sentence.contains("whose traffic leaves as tenant x's"), "{network}: {told}");
        assert!(!told.sentence.contains("shared"), "{network}: {told}");

        // A second look at the same documents changes nothing, and what is given up is free.
        assert_eq!(after.snapshot, stage.reload().snapshot, "{network}");
        stage.write("x.yaml", &enrolled("10.8.0.0/16"));
        stage.reload();
        assert!(stage.reload().verdicts.all_accepted(), "{network}");
    }
}

#[test]
fn a_tenants_own_addresses_may_be_in_its_networks() {
    let stage = Stage::new();
    let v = victim().replace("'2001:db8::3']}}", "'2001:db8::3'], sources: [198.51.100.0/24]}}");
    stage.write("v.yaml", &v);

    let compiled = stage.reload();

    assert!(v.contains("sources") && compiled.verdicts.all_accepted(), "{:#?}", compiled.verdicts);
}

#[test]
fn an_endpoint_that_is_an_address_of_another_leaves_as_nobodys() {
    let web = |endpoints: &str| {
        let spec = "{tenant: x, addresses: [203.0.113.9], endpoints: ENDPOINTS, ports: [{port: 80}], egress: true}";
        tenant("x", "{}") + &mapping("web", &spec.replace("ENDPOINTS", endpoints))
    };
    let stage = Stage::new();
    stage.write("v.yaml", &victim());
    stage.write("x.yaml", &web("[10.0.0.8]"));
    let before = stage.reload();
    assert!(before.verdicts.all_accepted(), "{:#?}", before.verdicts);

    // The mapping is older than its new endpoint is.
    stage.write("x.yaml", &web("[10.0.0.8, 198.51.100.3]"));
    let after = stage.reload();

    assert_eq!(before.snapshot.tenants[&id("v")], after.snapshot.tenants[&id("v")]);
    assert_eq!(before.snapshot.nat.egress[0].sources, after.snapshot.nat.egress[0].sources);
    assert_eq!(&*errors(&after, "x.yaml")[0].reason, "SourceTaken", "{:#?}", after.verdicts);

    // The other way about, nobody takes the address of a pod.
    fs::remove_file(stage.path().join("v.yaml")).unwrap();
    stage.reload();
    stage.write("v.yaml", &victim().replace("198.51.100.3", "10.0.0.8"));
    let taken = stage.reload();
    assert_eq!(&*errors(&taken, "v.yaml")[0].reason, "EgressTaken", "{:#?}", taken.verdicts);
}

fn leading_to(endpoints: &str) -> String {
    let spec = "{tenant: x, addresses: [203.0.113.9], endpoints: [10.0.0.8], ports: [{port: 80}, {port: 81, endpoints: ENDPOINTS}]}";
    tenant("x", "{}") + &mapping("web", &spec.replace("ENDPOINTS", endpoints))
}

fn pods_of_v(network: &str) -> String {
    tenant("v", &format!("{{egress: {{addresses: [203.0.113.2], sources: [{network}]}}}}"))
}

#[test]
fn a_mapping_leads_to_no_pod_of_another_who_asked_first() {
    for created in ["", ", creationTimestamp: '1970-01-01T00:00:00Z'"] {
        let stage = Stage::new();
        stage.write("v.yaml", &pods_of_v("10.9.0.0/16"));
        stage.reload();
        let web = |endpoints| {
            leading_to(endpoints).replace("{name: x}", &format!("{{name: x{created}}}"))
        };
        // A new mapping.
        stage.write("a.yaml", &web("[10.0.0.9, 10.9.0.5]"));
        let after = stage.reload();
        assert!(after.snapshot.nat.mappings.is_empty(), "{:#?}", after.verdicts);
        let told = errors(&after, "a.yaml");
        assert_eq!(told.len(), 1, "{told:#?}");
        assert_eq!(&*told[0].reason, "SourceTaken");
        assert_eq!(&*told[0].field, "spec.ports[1].endpoints[1]");
        assert!(told[0].sentence.contains("10.9.0.0/16 of tenant v:"), "{}", told[0]);
        // A new endpoint of a mapping that is served.
        stage.write("a.yaml", &web("[10.0.0.9]"));
        let served = stage.reload();
        assert!(served.verdicts.all_accepted(), "{:#?}", served.verdicts);
        stage.write("a.yaml", &web("[10.0.0.9, 10.9.0.5]"));
        let kept = stage.reload();
        assert_eq!(kept.snapshot.nat.mappings, served.snapshot.nat.mappings);
        assert_eq!(&*errors(&kept, "a.yaml")[0].reason, "SourceTaken", "{:#?}", kept.verdicts);
        assert_eq!(kept.verdicts, stage.reload().verdicts);
        // A network that the other tenant gives up is free.
        stage.write("v.yaml", &pods_of_v("10.8.0.0/16"));
        assert!(stage.reload().verdicts.all_accepted());
    }
}

#[test]
fn a_mapping_keeps_the_endpoints_it_had_before_a_network_of_another() {
    let stage = Stage::new();
    stage.write("x.yaml", &leading_to("[10.9.0.5]"));
    let before = stage.reload();
    stage.write("v.yaml", &pods_of_v("10.9.0.0/16"));
    for _ in 0..3 {
        let after = stage.reload();
        assert_eq!(after.snapshot.nat.mappings, before.snapshot.nat.mappings);
        assert!(after.verdicts.all_accepted(), "{:#?}", after.verdicts);
        // The tenant whose network it is learns who reaches into it.
        let findings: Vec<_> = after.verdicts.findings().collect();
        assert_eq!(findings.len(), 1, "{findings:#?}");
        let (verdict, finding) = findings[0];
        assert_eq!((&*verdict.resource.name, &*finding.reason), ("v", "EndpointOfAnother"));
        assert_eq!(&*finding.field, "spec.egress.sources[0]");
        assert!(finding.sentence.contains("10.9.0.5"), "{finding}");
        assert!(finding.sentence.contains("mapping web of tenant x ("), "{finding}");
    }
    // The tenant's own networks are no obstacle.
    let own = leading_to("[10.7.0.1]")
        .replace("spec: {}", "spec: {egress: {addresses: [203.0.113.7], sources: [10.7.0.0/16]}}");
    stage.write("x.yaml", &own);
    assert!(own.contains("10.7.0.0/16") && stage.reload().verdicts.all_accepted());
}

fn leaving_from(tenant_name: &str, address: &str, endpoints: &str) -> String {
    let spec =
        "{tenant: T, addresses: [A], endpoints: ENDPOINTS, ports: [{port: 80}], egress: true}";
    let spec = spec.replace("T,", &format!("{tenant_name},")).replace("[A]", address);
    tenant(tenant_name, "{}") + &mapping("web", &spec.replace("ENDPOINTS", endpoints))
}

/// Endpoints of a mapping with `egress: true` are its tenant's pods, as much as those in `egress.sources`.
#[test]
fn a_mapping_leads_to_no_pod_that_leaves_by_a_mapping_of_another() {
    let stage = Stage::new();
    stage.write("v.yaml", &leaving_from("v", "[203.0.113.2]", "[10.9.0.5]"));
    let before = stage.reload();
    assert!(before.verdicts.all_accepted(), "{:#?}", before.verdicts);

    stage.write("a.yaml", &leading_to("[10.9.0.5]"));
    let after = stage.reload();

    assert_eq!(after.snapshot.nat.mappings, before.snapshot.nat.mappings);
    let told = errors(&after, "a.yaml");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(&*told[0].reason, "SourceTaken");
    assert!(told[0].sentence.contains("10.9.0.5/32 of tenant v:"), "{}", told[0]);
    stage.write("a.yaml", &leading_to("[10.9.0.6]"));
    assert!(stage.reload().verdicts.all_accepted());
}

#[test]
fn a_network_with_a_pod_that_leaves_by_an_older_mapping_is_not_granted() {
    for created in ["", ", creationTimestamp: '1970-01-01T00:00:00Z'"] {
        let stage = Stage::new();
        stage.write("x.yaml", &leaving_from("x", "[203.0.113.9]", "[10.9.0.5]"));
        let before = stage.reload();
        assert!(before.verdicts.all_accepted(), "{:#?}", before.verdicts);

        let v = pods_of_v("10.9.0.0/16");
        stage.write("a.yaml", &v.replace("{name: v}", &format!("{{name: v{created}}}")));
        for _ in 0..3 {
            let after = stage.reload();
            assert_eq!(after.snapshot.nat.egress, before.snapshot.nat.egress);
            let told = errors(&after, "a.yaml");
            assert_eq!(told.len(), 1, "{:#?}", after.verdicts);
            assert_eq!(&*told[0].reason, "SourceTaken");
            assert!(
                told[0].sentence.contains("10.9.0.5, an endpoint of tenant x ("),
                "{}",
                told[0]
            );
        }
        // What the mapping gives up is free.
        stage.write("x.yaml", &leaving_from("x", "[203.0.113.9]", "[10.8.0.5]"));
        stage.reload();
        assert!(stage.reload().verdicts.all_accepted());
    }
}
