use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use durward_control::source::file::LoadHealth;
use durward_control::{Compiled, FileSource, RoutingJsonOptions, compile};
use durward_model::transport::Transport;
use durward_nat::Report;
use durward_proxy::EndpointHealth;
use durward_proxy::EndpointReport;
use durward_proxy::audit;
use durward_proxy::present::PresentAddresses;
use durward_proxy::proxy::{BindReport, SinkStatus, Status, TenantStatus};

use super::super::{Facts, Health, KernelFacts};
use super::*;

/// Address that is not on this host and never will be.
const ABSENT: &str = "192.0.2.77";

fn tenant(name: &str, listener: &str, egress: &str) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  \
         ingress:\n    - {{address: {listener}, port: 80, protocol: HTTP, routes: [{{pathPrefix: /, upstream: app}}]}}\n  \
         upstreams:\n    app: {{endpoints: [\"192.0.2.9:80\"]}}\n  egress: {{addresses: [{egress}]}}\n---\n"
    )
}

fn compiled(text: &str) -> Compiled {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), text).unwrap();
    let source = FileSource::new(RoutingJsonOptions::default());
    compile(&source.load(&[folder.path().to_path_buf()]), None, 1_800_000_000)
}

/// Returns the status of a proxy that has bound all sockets.
fn bound(view: &Compiled) -> Status {
    let binds = view.snapshot.binds.keys();
    let state = BindState::Bound;
    Status {
        generation: 1,
        binds: binds
            .map(|at| BindReport { transport: Transport::Tcp, address: *at, state: state.clone() })
            .collect(),
        tenants: Vec::new(),
        problems: Vec::new(),
        sinks: Vec::new(),
        audit: None,
    }
}

fn judge(view: &Compiled, status: &Status, kernel: Option<&KernelFacts>) -> Health {
    Health::judge(&Facts {
        view,
        status: Some(status),
        kernel,
        state_file: None,
        acme: None,
        cluster: None,
        loads: &LoadHealth::default(),
        draining: false,
        present: &PresentAddresses::now(),
        now: 1_800_000_000,
    })
}

#[test]
fn an_absent_egress_address_of_one_tenant_leaves_the_gateway_ready() {
    let one =
        compiled(&(tenant("a", "127.0.0.7", ABSENT) + &tenant("b", "127.0.0.8", "127.0.0.8")));
    let all = compiled(&tenant("a", "127.0.0.7", ABSENT));

    let (one, all) = (judge(&one, &bound(&one), None), judge(&all, &bound(&all), None));

    assert_eq!(one.fault(), None, "{}", one.text());
    assert!(one.text().contains("[!]egress warning: 1 of 2 addresses on this host\n    a: 192.0.2.77 is not on this host: every request"), "{}", one.text());
    assert!(all.fault().unwrap().contains("no tenant has an egress address"), "{}", all.text());
}

#[test]
fn a_rejected_document_is_named_with_its_place_and_leaves_the_gateway_ready() {
    let bad =
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {name: b}\nspec: {ingres: []}\n";
    let view = compiled(&(tenant("a", "127.0.0.7", "127.0.0.7") + bad));

    let health = judge(&view, &bound(&view), None);

    assert_eq!(health.fault(), None);
    let text = health.text();
    assert!(
        text.contains("[!]documents warning: 1 of 2 accepted\n    b: Tenant b is rejected: "),
        "{text}"
    );
    assert!(text.contains("spec.ingres is not known"), "{text}");
    let id = TenantId::new("b").unwrap();
    assert_eq!(health.counts().get(&(Some(&id), Kind::Document)), Some(&1));
}

#[test]
fn a_listener_that_is_not_bound_is_named_with_its_tenant() {
    let view =
        compiled(&(tenant("a", "127.0.0.7", "127.0.0.7") + &tenant("b", "127.0.0.8", "127.0.0.8")));
    let mut status = bound(&view);
    status.binds[0].state = BindState::AddressNotLocal;
    status.binds[1].state = BindState::Failed("taken".to_owned());

    let none = judge(&view, &status, None);
    status.binds[1].state = BindState::Bound;
    let one = judge(&view, &status, None);

    assert_eq!(none.fault(), Some("none of 2 is bound"));
    assert!(
        none.text().contains("    b: 127.0.0.8:80 cannot be bound: taken\n"),
        "{}",
        none.text()
    );
    assert_eq!(one.fault(), None);
    assert!(
        one.text().contains("[!]listeners warning: 1 of 2 bound\n    a: 127.0.0.7:80 is not"),
        "{}",
        one.text()
    );
}

#[test]
fn an_upstream_without_a_usable_endpoint_is_a_condition_of_its_tenant() {
    let view = compiled(&tenant("a", "127.0.0.7", "127.0.0.7"));
    let mut status = bound(&view);
    let endpoint = |address: &str, state| EndpointReport {
        address: address.to_owned(),
        state,
        active: 0,
        failures: 0,
    };
    let report = |endpoints| TenantStatus {
        tenant: TenantId::new("a").unwrap(),
        connections: 0,
        upstreams: vec![UpstreamReport {
            tenant: TenantId::new("a").unwrap(),
            name: "app".into(),
            endpoints,
        }],
    };
    let unresolved = endpoint("db.example:80", EndpointHealth::Unresolved);
    let ejected = endpoint("192.0.2.9:80", EndpointHealth::Ejected);
    let healthy = endpoint("192.0.2.8:80", EndpointHealth::Healthy);

    status.tenants = vec![report(vec![ejected.clone(), unresolved])];
    let down = judge(&view, &status, None);
    status.tenants = vec![report(vec![ejected, healthy])];
    let up = judge(&view, &status, None);

    assert!(down.text().contains("    a: upstream app has no usable endpoint: 192.0.2.9:80 is ejected, db.example:80 is unresolved\n"), "{}", down.text());
    assert_eq!(down.fault(), None);
    assert!(
        up.text().contains("[+]upstreams ok: 1 of 1 with a usable endpoint\n"),
        "{}",
        up.text()
    );
}

#[test]
fn an_audit_file_that_cannot_be_written_stops_readiness_only_where_all_traffic_needs_it() {
    let ingress = compiled(&tenant("a", "127.0.0.7", "127.0.0.7"));
    let proxy = "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {name: p}\nspec:\n  egress:\n    addresses: [127.0.0.9]\n    \
                 proxy: [{address: 127.0.0.9, allowedSources: [127.0.0.0/8]}]\n    allow: [{host: bank.example}]\n";
    let only_proxy = compiled(proxy);
    assert_eq!(only_proxy.snapshot.tenants.len(), 1, "{:?}", only_proxy.verdicts);
    let full = audit::Status { failing: true, ..audit::Status::default() };
    let with = |view: &Compiled| Status { audit: Some(full), ..bound(view) };

    let one = judge(&ingress, &with(&ingress), None);
    let all = judge(&only_proxy, &with(&only_proxy), None);

    assert_eq!(one.fault(), None, "{}", one.text());
    assert!(one.text().contains("[!]audit warning"), "{}", one.text());
    assert!(all.fault().unwrap().contains("audit file cannot be written"), "{}", all.text());
}

#[test]
fn a_sink_that_fails_and_a_rule_left_out_of_the_kernel_are_shown() {
    let view = compiled(&tenant("a", "127.0.0.7", "127.0.0.7"));
    let sink = SinkStatus { log: "decisions", kind: "file", failing: true, lost: 7 };
    let status = Status { sinks: vec![sink], ..bound(&view) };
    let left_out = MappingReport {
        tenant: TenantId::new("a").unwrap(),
        name: "web".into(),
        rejected: Some(durward_nat::report::Rejection::UnknownTenant),
        foreign_addresses: Vec::new(),
    };
    let kernel = |fault: Option<&str>, enabled| KernelFacts {
        wanted: (1, 0),
        report: Report { mappings: vec![left_out.clone()], ..Report::default() },
        checked: Vec::new(),
        fault: fault.map(str::to_owned),
        enabled,
        owns_table: true,
    };

    let shown = judge(&view, &status, Some(&kernel(None, true)));
    let not_asked = judge(&view, &status, Some(&kernel(Some("no interface"), false)));
    let broken = judge(&view, &status, Some(&kernel(Some("refused"), true)));

    assert_eq!(shown.fault(), None);
    for line in [
        "[!]logs warning: 7 lines lost since the start\n    file sink of the decisions log cannot be written",
        "[!]kernel warning: 0 of 1 mappings, 0 of 0 egress rules in the kernel\n    a: web is left out of the kernel",
    ] {
        assert!(shown.text().contains(line), "{line}: {}", shown.text());
    }
    assert_eq!(not_asked.fault(), None, "one tenant's document must not take the gateway away");
    assert!(not_asked.text().contains("    plane: no interface\n"), "{}", not_asked.text());
    assert_eq!(broken.fault(), Some("refused"));
}

#[test]
fn endpoints_of_mappings_that_are_out_or_cannot_be_checked_are_shown_with_the_reason() {
    let view = compiled(&tenant("a", "127.0.0.7", "127.0.0.7"));
    let endpoint = |at: &str, cause: Option<&str>, unchecked: Option<&str>| CheckedEndpoint {
        at: at.parse().unwrap(),
        out: cause.is_some(),
        cause: cause.map(Into::into),
        unchecked: unchecked.map(Into::into),
    };
    let mapping = |name: &str, endpoints| CheckedMapping {
        tenant: TenantId::new("a").unwrap(),
        name: name.into(),
        endpoints,
    };
    let (up, down) = ("10.0.0.1:80", "10.0.0.2:80");
    let kernel = KernelFacts {
        wanted: (4, 0),
        report: Report::default(),
        checked: vec![
            mapping("some", vec![endpoint(up, None, None), endpoint(down, Some("refused"), None)]),
            mapping("none", vec![endpoint(down, Some("refused"), None)]),
            mapping("odd", vec![endpoint(up, None, Some("no files"))]),
            mapping("well", vec![endpoint(up, None, None)]),
        ],
        fault: None,
        enabled: true,
        owns_table: true,
    };

    let shown = judge(&view, &bound(&view), Some(&kernel));

    for line in [
        "    a: some has 1 of 2 endpoints out: 10.0.0.2:80 (refused)\n",
        "    a: none refuses connections, because all its endpoints are out: 10.0.0.2:80 (refused)\n",
        "    a: odd has endpoints that cannot be checked: 10.0.0.1:80 (no files)\n",
    ] {
        assert!(shown.text().contains(line), "{line}: {}", shown.text());
    }
    assert!(!shown.text().contains("a: well"), "{}", shown.text());
    assert_eq!(shown.fault(), None, "one tenant's endpoints do not make the gateway unready");
    let id = TenantId::new("a").unwrap();
    assert_eq!(shown.counts().get(&(Some(&id), Kind::Kernel)), Some(&3));
}

#[test]
fn a_check_shows_some_conditions_and_counts_the_others() {
    let many: String =
        (1..=30).map(|n| tenant(&format!("t{n:02}"), &format!("127.0.0.{n}"), ABSENT)).collect();
    let view = compiled(&many.replacen(ABSENT, "127.0.0.1", 1));

    let text = judge(&view, &bound(&view), None).text();

    assert!(text.contains("    and "), "{text}");
    assert!(text.lines().count() < 30, "{text}");
}

// S1.33+
#[test]
fn files_that_do_not_answer_are_shown_with_the_last_successful_load() {
    let view = Compiled::default();
    let before = UNIX_EPOCH + Duration::from_secs(1_799_999_900);
    let loads = LoadHealth {
        succeeded: Some(before),
        unchanged: Some(before + Duration::from_secs(60)),
        stuck: vec![PathBuf::from("/mnt/ca.pem")],
        overdue: true,
        over_budget: 2,
        ..LoadHealth::default()
    };

    let health = Health::judge(&Facts {
        view: &view,
        status: None,
        kernel: None,
        state_file: None,
        acme: None,
        cluster: None,
        loads: &loads,
        draining: false,
        present: &PresentAddresses::now(),
        now: 1_800_000_000,
    });

    let text = health.text();
    let state = "[!]files warning: last successful load 2027-01-15T07:58:20Z (100 s ago), unchanged since, seen 2027-01-15T07:59:20Z (40 s ago)";
    assert!(text.contains(state), "{text}");
    assert!(text.contains("/mnt/ca.pem is on a file system that does not answer"), "{text}");
    assert!(text.contains("the last load was given up"), "{text}");
    assert!(text.contains("2 files are not read"), "{text}");
    let check = health.checks.iter().find(|check| check.name == "files").unwrap();
    assert_eq!(check.fault, None, "what was loaded before is served");
}

#[test]
fn what_a_document_makes_the_gateway_read_and_cannot_be_read_is_a_condition_and_no_fault() {
    let view = Compiled::default();
    let mut cluster = crate::app::cluster::Status::default();
    cluster.synced = true;
    cluster.unread = vec![("ReferenceGrant".to_owned(), "forbidden: no".to_owned())];
    (cluster.refused, cluster.unwritten) = (3, Some("forbidden: nor this".to_owned()));

    let health = Health::judge(&Facts {
        view: &view,
        status: None,
        kernel: None,
        state_file: None,
        acme: None,
        cluster: Some(cluster),
        loads: &LoadHealth::default(),
        draining: false,
        present: &PresentAddresses::now(),
        now: 1_800_000_000,
    });

    let text = health.text();
    let check = health.checks.iter().find(|check| check.name == "kubernetes").unwrap();
    assert_eq!(check.fault, None, "{text}");
    assert!(text.contains("ReferenceGrant cannot be read: forbidden: no;"), "{text}");
    assert!(text.contains("statuses of 3 objects are refused: forbidden: nor this"), "{text}");
}
