use std::sync::OnceLock;
use std::time::{Duration, Instant};

use durward_model::link::Link;
use durward_model::route::HostPattern;
use serde_json::{Value, json};

use super::*;

/// The body of the original's manual, word for word.
const BODY: &str = r#"{
  "hostname": "my-app.example.com",
  "cluster_uuid": "abc-123",
  "namespace": "default",
  "service_name": "my-app",
  "service_port": 8080,
  "ingress_name": "my-app",
  "path": "/",
  "path_type": "Prefix",
  "tls": false,
  "public_endpoint": "203.0.113.45:80",
  "routing_mode": "direct"
}"#;

fn id(tenant: &str, link: &str) -> LinkId {
    LinkId { tenant: tenant.into(), link: link.into() }
}

fn link(hosts: &[&str]) -> Link {
    let hosts = hosts.iter().map(|host| match host.strip_prefix("*.") {
        Some(parent) => HostPattern::Wildcard(parent.into()),
        None => HostPattern::Exact((*host).into()),
    });
    Link {
        hosts: hosts.collect(),
        cluster: Some("abc-123".into()),
        ..Link::new("onprem", Vec::new())
    }
}

/// Documents that grant a link what a function says.
struct Saying<F>(F);

impl<F: Fn(&LinkId, &HostPattern) -> Right> Documents for Saying<F> {
    fn right(&self, id: &LinkId, host: &HostPattern) -> Right {
        self.0(id, host)
    }

    fn is_anothers(&self, tenant: &str, host: &HostPattern) -> bool {
        tenant != "carl" && *host == HostPattern::Exact("of-carl.example.com".into())
    }
}

fn all_granted(_: &LinkId, _: &HostPattern) -> Right {
    Right::Granted
}

/// A time after that of the first operations.
fn later(seconds: u64) -> Now {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = Now { instant: *START.get_or_init(Instant::now), unix: 1_000_000 };
    Now { instant: start.instant + Duration::from_secs(seconds), unix: start.unix + seconds }
}

fn call(registry: &mut Registry, caller: Caller<'_>, operation: Operation, body: &Value) -> Answer {
    call_at(registry, caller, operation, body, later(0))
}

fn call_at(
    registry: &mut Registry,
    caller: Caller<'_>,
    operation: Operation,
    body: &Value,
    now: Now,
) -> Answer {
    call_with(registry, caller, (operation, body), all_granted, now)
}

fn call_with(
    registry: &mut Registry,
    caller: Caller<'_>,
    (operation, body): (Operation, &Value),
    right: impl Fn(&LinkId, &HostPattern) -> Right,
    now: Now,
) -> Answer {
    match Body::read(operation, body.to_string().as_bytes()) {
        Ok(body) => registry.call(caller, body, &Saying(right), now),
        Err(answer) => answer,
    }
}

fn with(change: &[(&str, Value)]) -> Value {
    let mut body: Value = serde_json::from_str(BODY).unwrap();
    for (name, value) in change {
        body[*name] = value.clone();
    }
    body
}

fn ingresses(hosts: &[&str]) -> Value {
    let one = |host: &&str| {
        json!({"namespace": "shop", "ingress_name": format!("of-{}", host.replace('.', "-")),
               "annotations": {"a": "b"}, "rules": [{"host": host, "tls": true,
               "paths": [{"path": "/", "path_type": "Prefix", "service_name": "app", "service_port": 80}]}]})
    };
    json!({"cluster_uuid": "abc-123", "routing_mode": "tunnel",
           "ingress_controller": {"name": "traefik", "namespace": "kube-system", "port": 80, "type": "traefik"},
           "ingresses": hosts.iter().map(one).collect::<Value>()})
}

fn hosts(registry: &Registry, id: &LinkId) -> Vec<String> {
    registry.served(id).iter().map(|route| route.host.to_string()).collect()
}

// S3.29+ S3.30+ S3.32+
#[test]
fn the_body_of_the_manual_is_registered_once_and_its_endpoint_is_of_no_effect() {
    let (mut registry, id, link) =
        (Registry::default(), id("acme", "onprem"), link(&["*.example.com"]));
    let caller = Caller { id: &id, link: &link };

    let body: Value = serde_json::from_str(BODY).unwrap();
    let first = call(&mut registry, caller, Operation::Register, &body);
    let again =
        call(&mut registry, caller, Operation::Register, &with(&[("later_field", json!([1]))]));

    assert_eq!(first.body, json!({"success": true, "routing_mode": "tunnel", "routes": 1}));
    assert_eq!((first.status, again.status), (200, 200));
    assert!(!first.changed.is_empty() && again.changed.is_empty(), "the second is the same");
    let route = &registry.served(&id)[0];
    assert_eq!(
        route.to_owned(),
        LinkRoute {
            host: HostPattern::Exact("my-app.example.com".into()),
            path: LinkPath::Prefix("".into()),
            target: "my-app.default.svc.cluster.local".into(),
            port: 8080,
            tunnel_only: false,
            backend_tls: None,
        }
    );
}

// S3.30 S3.31+
#[test]
fn a_wrong_body_is_answered_with_the_field_that_is_wrong() {
    let (mut registry, id, link) =
        (Registry::default(), id("acme", "onprem"), link(&["*.example.com"]));
    let caller = Caller { id: &id, link: &link };
    let null = Value::Null;
    let cases = [
        ("hostname", null.clone(), 400),
        ("hostname", json!(7), 400),
        ("hostname", json!("a b"), 400),
        ("hostname", json!("192.0.2.1"), 400),
        ("hostname", json!("app.example.org"), 403),
        ("cluster_uuid", null.clone(), 400),
        ("cluster_uuid", json!("other"), 403),
        ("namespace", json!("../kube-system"), 400),
        ("namespace", json!("a.b"), 400),
        ("service_name", json!("127.0.0.1"), 400),
        ("service_name", json!("a/b"), 400),
        ("service_port", json!("80"), 400),
        ("service_port", json!(0), 400),
        ("service_port", json!(65_536), 400),
        ("service_port", json!(80.5), 400),
        ("service_port", null.clone(), 400),
        ("ingress_name", null.clone(), 400),
        ("path", json!("no-slash"), 400),
        ("path", json!("/a/../b"), 400),
        ("path", json!("/".to_owned() + &"a".repeat(1024)), 400),
        ("path_type", json!("Regex"), 400),
        ("tls", json!("yes"), 400),
        ("routing_mode", json!("magic"), 400),
        ("public_endpoint", null, 400),
        ("annotations", json!([]), 400),
    ];
    for (field, value, status) in cases {
        let body = with(&[(field, value.clone())]);
        let answer = call(&mut registry, caller, Operation::Register, &body);
        assert_eq!(
            (answer.status, &answer.body["error"]["field"]),
            (status, &json!(field)),
            "{field} {value}"
        );
        assert!(answer.body["error"]["message"].as_str().unwrap().len() > 8, "{answer:?}");
    }
    for body in ["", "[]", "{", "7", "\"a\""] {
        let answer = Body::read(Operation::Register, body.as_bytes()).unwrap_err();
        assert_eq!(answer.status, 400, "{body}");
    }
    let many = vec![json!({"service_name": "a", "service_port": 1}); 10_001];
    let rules = json!([{"host": "a.example.com", "paths": many}]);
    let body = json!({"cluster_uuid": "abc-123",
        "ingresses": [{"namespace": "shop", "ingress_name": "a", "rules": rules}]});
    let answer = call(&mut registry, caller, Operation::Sync, &body);
    assert_eq!((answer.status, &answer.body["error"]["field"]), (400, &json!("ingresses")));
    assert_eq!(hosts(&registry, &id), [""; 0]);
}

// S3.31+ S3.49+
#[test]
fn the_oldest_claim_to_a_host_wins_until_it_is_withdrawn_or_loses_its_right() {
    let mut registry = Registry::default();
    let (a, b, link) = (id("acme", "onprem"), id("bolt", "onprem"), link(&["*.example.com"]));
    let (of_a, of_b) = (Caller { id: &a, link: &link }, Caller { id: &b, link: &link });
    let body: Value = serde_json::from_str(BODY).unwrap();
    let register = Operation::Register;
    assert_eq!(call(&mut registry, of_a, register, &body).status, 200);

    let taken = call(&mut registry, of_b, register, &body);
    assert_eq!((taken.status, &taken.body["error"]["code"]), (409, &json!("host_taken")));
    assert!(!taken.body.to_string().contains("acme"), "whose it is is not said: {taken:?}");
    let not_theirs = call(
        &mut registry,
        of_b,
        Operation::Unregister,
        &json!({"hostname": "my-app.example.com"}),
    );
    assert_eq!(not_theirs.status, 404, "only the holder withdraws it");
    assert_eq!(hosts(&registry, &a).len(), 1);

    // The document of the holder does not let it have the name any more.
    let right = |id: &LinkId, _: &HostPattern| {
        if *id == a { Right::Withdrawn } else { Right::Granted }
    };
    let taken_over = call_with(&mut registry, of_b, (register, &body), right, later(0));
    assert_eq!(taken_over.status, 200);
    let links: Vec<_> = taken_over.changed.links().collect();
    assert_eq!(links, [&a, &b], "both links' routes are said anew");
    assert_eq!((hosts(&registry, &a).len(), hosts(&registry, &b).len()), (0, 1));
    assert_eq!(call(&mut registry, of_a, register, &body).status, 409, "now it is the other's");
}

// S3.49+
#[test]
fn a_released_name_is_its_tenants_for_ten_minutes_unless_its_document_gives_it_up() {
    let mut registry = Registry::default();
    let (a, b, link) = (id("acme", "onprem"), id("bolt", "onprem"), link(&["*.example.com"]));
    let second = id("acme", "second");
    let (of_a, of_b) = (Caller { id: &a, link: &link }, Caller { id: &b, link: &link });
    let (body, register) = (with(&[]), Operation::Register);
    let name = json!({"hostname": "MY-APP.example.com"});
    assert_eq!(call(&mut registry, of_a, register, &body).status, 200);
    assert_eq!(call(&mut registry, of_a, Operation::Unregister, &name).status, 200);
    assert_eq!(hosts(&registry, &a), [""; 0]);

    let early = call_at(&mut registry, of_b, register, &body, later(590));
    assert_eq!((early.status, &early.body["error"]["code"]), (409, &json!("host_released")));
    let mut restored = Registry::default();
    restored.restore(&registry.to_json(&a).unwrap()).unwrap();
    assert_eq!(call_at(&mut restored, of_b, register, &body, later(590)).status, 409, "a restart");
    let own = Caller { id: &second, link: &link };
    assert_eq!(call_at(&mut restored, own, register, &body, later(1)).status, 200, "its tenant's");
    let mut given_up = Registry::default();
    given_up.restore(&registry.to_json(&a).unwrap()).unwrap();
    let right = |_: &LinkId, _: &HostPattern| Right::Withdrawn;
    let at_once = call_with(&mut given_up, of_b, (register, &body), right, later(1));
    assert_eq!(at_once.status, 200, "the operator took it from the other");
    let late = call_at(&mut registry, of_b, register, &body, later(601));
    assert_eq!(late.status, 200);
    assert_eq!(registry.to_json(&a), None, "nothing is left of it");
}

// S3.49+
#[test]
fn names_of_a_tenant_without_a_document_are_kept_for_a_while_and_those_of_a_document_are_its_own() {
    let mut registry = Registry::default();
    let (a, b, link) = (id("acme", "onprem"), id("bolt", "onprem"), link(&["*.example.com"]));
    let (of_a, of_b) = (Caller { id: &a, link: &link }, Caller { id: &b, link: &link });
    let (body, register) = (with(&[]), Operation::Register);
    assert_eq!(call(&mut registry, of_a, register, &body).status, 200);
    let unknown = |_: &LinkId, _: &HostPattern| Right::Unknown;

    let mut at =
        |seconds| call_with(&mut registry, of_b, (register, &body), unknown, later(seconds));
    assert_eq!((at(0).status, at(599).status), (409, 409));
    assert_eq!(at(600).status, 200);

    let of_carl = with(&[("hostname", json!("of-carl.example.com"))]);
    assert_eq!(call(&mut registry, of_b, register, &of_carl).status, 409);
    let carl = id("carl", "onprem");
    let carl = Caller { id: &carl, link: &link };
    assert_eq!(call(&mut registry, carl, register, &of_carl).status, 200);
}

#[test]
fn a_second_absence_of_a_document_is_no_part_of_the_first() {
    let (a, b, link) = (id("acme", "onprem"), id("bolt", "onprem"), link(&["*.example.com"]));
    let (of_a, of_b) = (Caller { id: &a, link: &link }, Caller { id: &b, link: &link });
    let (body, register) = (with(&[]), Operation::Register);
    let unknown = |_: &LinkId, _: &HostPattern| Right::Unknown;
    let wants = |registry: &mut Registry, seconds| {
        call_with(registry, of_b, (register, &body), unknown, later(seconds)).status
    };
    let returns: [fn(&mut Registry, Caller<'_>); 3] = [
        |registry, _| registry.note_returns(|_| true),
        |registry, of_a| {
            let again = call_at(registry, of_a, Operation::Register, &with(&[]), later(100));
            assert_eq!(again.status, 200);
        },
        |registry, of_a| {
            let wanted = registry.links[of_a.id].routes.clone();
            registry.replace(of_a, &wanted, &Saying(all_granted), later(100));
        },
    ];
    for returns in returns {
        let mut registry = Registry::default();
        assert_eq!(call(&mut registry, of_a, register, &body).status, 200);
        assert_eq!(wants(&mut registry, 0), 409);

        returns(&mut registry, of_a);

        assert_eq!(wants(&mut registry, 5_000), 409, "it is away since this moment");
        registry.note_presence(|id| *id != a, later(5_000));
        assert_eq!((wants(&mut registry, 5_599), wants(&mut registry, 5_600)), (409, 200));
    }
}

#[test]
fn the_claims_of_a_deleted_tenant_are_forgotten_after_a_day_and_those_of_others_are_not() {
    let day = FORGOTTEN.as_secs();
    let mut registry = Registry::default();
    let (a, b, link) = (id("acme", "onprem"), id("bolt", "onprem"), link(&["*.example.com"]));
    let wants = |registry: &mut Registry, id: &LinkId, host: &str, seconds| {
        let body = with(&[("hostname", json!(host))]);
        let caller = Caller { id, link: &link };
        call_at(registry, caller, Operation::Register, &body, later(seconds)).status
    };
    assert_eq!(wants(&mut registry, &a, "a.example.com", 0), 200);
    assert_eq!(wants(&mut registry, &b, "b.example.com", 0), 200);

    registry.note_presence(|id| *id == b, later(10));
    assert!(registry.forget(later(9 + day)).is_empty());
    // A document that is there again for a moment counts.
    registry.note_presence(|_| true, later(9 + day));
    registry.note_presence(|id| *id == b, later(10 + day));
    assert!(registry.forget(later(9 + 2 * day)).is_empty());
    let forgotten = registry.forget(later(10 + 2 * day));

    assert_eq!(forgotten.links().collect::<Vec<_>>(), [&a]);
    assert_eq!(registry.links().collect::<Vec<_>>(), [&b]);
    assert!(registry.image(&a).is_none(), "its file goes");
    let change = registry.change(&forgotten);
    assert!(matches!(&change.facts[..], [(_, None)]), "{change:?}");
    assert_eq!(wants(&mut registry, &b, "a.example.com", 10 + 2 * day), 200, "its names are free");
}

#[test]
fn a_link_that_has_withdrawn_all_is_forgotten_once_its_names_are_free() {
    let mut registry = Registry::default();
    let (a, b, link) = (id("acme", "onprem"), id("bolt", "onprem"), link(&["*.example.com"]));
    let (of_a, of_b) = (Caller { id: &a, link: &link }, Caller { id: &b, link: &link });
    assert_eq!(call(&mut registry, of_a, Operation::Register, &with(&[])).status, 200);
    let body = json!({"hostname": "my-app.example.com"});
    assert_eq!(call(&mut registry, of_a, Operation::Unregister, &body).status, 200);

    assert!(registry.forget(later(599)).is_empty());
    let taken = call_at(&mut registry, of_b, Operation::Register, &with(&[]), later(599));
    assert_eq!(taken.status, 409, "it is kept for ten minutes");
    assert!(!registry.forget(later(600)).is_empty());

    assert_eq!((registry.links().count(), registry.holders.len()), (0, 0));
}

#[test]
fn many_names_move_at_once_and_those_of_their_former_links_are_gone() {
    let mut registry = Registry::default();
    let (a, b, c) = (id("acme", "onprem"), id("acme", "other"), id("bolt", "onprem"));
    let link = Link { most_routes: 10_000, ..link(&["*.example.com"]) };
    let names = |of: &str| -> Vec<Registration> {
        let name = |at: usize| {
            let host = format!("{of}{at}.example.com");
            Registration::read((&host, "/", false), ("app", 80), "shop/app").unwrap()
        };
        (0..3_000).map(name).collect()
    };
    let by = |id| Caller { id, link: &link };
    let replace = |registry: &mut Registry, id, wanted: Vec<_>, right| {
        registry.replace(by(id), &wanted, &Saying(right), later(0))
    };
    let (of_a, of_b) = (names("a"), names("b"));
    replace(&mut registry, &a, of_a.clone(), all_granted);
    replace(&mut registry, &b, of_b.clone(), all_granted);
    // Released, and free for the same tenant.
    replace(&mut registry, &a, names("x"), all_granted);

    let within = replace(&mut registry, &b, [of_b.clone(), of_a.clone()].concat(), all_granted);

    assert_eq!((within.routes, within.rejected.len()), (6_000, 0));
    assert_eq!(within.changed.links().collect::<Vec<_>>(), [&a, &b]);
    let withdrawn: fn(&LinkId, &HostPattern) -> Right = |_, _| Right::Withdrawn;
    let moved = registry.replace(by(&c), &[of_a, of_b].concat(), &Saying(withdrawn), later(0));
    assert_eq!((moved.routes, moved.rejected.len()), (6_000, 0));
    assert_eq!(moved.changed.links().collect::<Vec<_>>(), [&b, &c]);
    assert_eq!(registry.to_json(&b), None, "none of them is among its released names");
    assert_eq!(hosts(&registry, &a).len(), 3_000);
}

// S3.33
#[test]
fn a_sync_replaces_the_routes_and_one_that_withdraws_most_needs_a_second() {
    let (mut registry, id, link) =
        (Registry::default(), id("acme", "onprem"), link(&["*.example.com"]));
    let caller = Caller { id: &id, link: &link };
    let start = later(0);
    let sync = |registry: &mut Registry, hosts: &[&str], seconds| {
        let instant = start.instant + Duration::from_secs(seconds);
        call_at(registry, caller, Operation::Sync, &ingresses(hosts), Now { instant, ..start })
    };
    let all = ["a.example.com", "b.example.com", "c.example.com"];
    assert_eq!(sync(&mut registry, &all, 0).body["routes"], json!(3));

    let fewer = sync(&mut registry, &all[..2], 0);
    assert_eq!((fewer.status, hosts(&registry, &id).len()), (200, 2), "one of three is no half");
    let held = sync(&mut registry, &[], 0);
    assert_eq!((held.status, held.retry_after), (503, Some(1)), "{held:?}");
    assert_eq!(hosts(&registry, &id).len(), 2);
    let late = sync(&mut registry, &[], 11);
    assert_eq!(late.status, 503, "too late to confirm the first");
    let other = sync(&mut registry, &["z.example.com"], 12);
    assert_eq!(other.status, 503, "not of its kind");
    let confirmed = sync(&mut registry, &["z.example.com"], 22);
    assert_eq!(confirmed.status, 200);
    assert_eq!(hosts(&registry, &id), ["z.example.com"]);
    let mut moved = ingresses(&["z.example.com"]);
    moved["ingresses"][0]["rules"][0]["paths"][0]["service_port"] = json!(81);
    let moved = call(&mut registry, caller, Operation::Sync, &moved);
    assert_eq!(moved.status, 200, "another backend withdraws nothing: {moved:?}");
    assert_eq!(registry.served(&id)[0].port, 81);
}

// S3.33+
#[test]
fn of_syncs_with_a_revision_the_newest_counts_also_after_a_restart() {
    let (mut registry, id, link) =
        (Registry::default(), id("acme", "onprem"), link(&["*.example.com"]));
    let caller = Caller { id: &id, link: &link };
    let sync = |registry: &mut Registry, revision: Value, hosts: &[&str]| {
        let mut body = ingresses(hosts);
        body["revision"] = revision;
        call(registry, caller, Operation::Sync, &body)
    };
    let (a, both) = (["a.example.com"], ["a.example.com", "b.example.com"]);
    assert_eq!(sync(&mut registry, json!(7), &a).status, 200);

    for old in [6, 7] {
        let answer = sync(&mut registry, json!(old), &both);
        assert_eq!((answer.status, &answer.body["error"]["field"]), (409, &json!("revision")));
    }
    let mut restored = Registry::default();
    restored.restore(&registry.to_json(&id).unwrap()).unwrap();
    assert_eq!(sync(&mut restored, json!(7), &both).status, 409);
    assert_eq!(hosts(&restored, &id), a);
    assert_eq!(sync(&mut restored, json!(8), &both).status, 200);
    assert_eq!(sync(&mut restored, Value::Null, &both).status, 200, "by order of arrival");
    assert_eq!(sync(&mut restored, json!(-1), &both).status, 400);
    assert_eq!(sync(&mut restored, json!(u64::MAX), &a).status, 200);
    assert_eq!(sync(&mut restored, json!(9), &both).status, 409);
    let of_agent = restored.links[&id].routes.clone();
    let said = restored.replace(caller, &of_agent, &Saying(all_granted), later(0));
    assert!(!said.changed.is_empty(), "it is stored");
    assert_eq!(sync(&mut restored, json!(9), &both).status, 200, "the source is another");
}

// S3.33+ S3.74+
#[test]
fn a_sync_serves_what_it_may_names_the_rest_and_a_shared_host_outlives_one_ingress() {
    let mut registry = Registry::default();
    let (a, b) = (id("acme", "onprem"), id("bolt", "onprem"));
    let granted = link(&["*.example.com"]);
    let small = Link { most_routes: 2, ..link(&["*.example.com"]) };
    let (of_a, of_b) = (Caller { id: &a, link: &granted }, Caller { id: &b, link: &small });
    let of_first = with(&[]);
    let of_second = with(&[("ingress_name", json!("second")), ("service_name", json!("other"))]);
    for body in [&of_first, &of_second] {
        assert_eq!(call(&mut registry, of_a, Operation::Register, body).status, 200);
    }

    assert_eq!(&*registry.served(&a)[0].target, "my-app.default.svc.cluster.local", "the older");
    let one =
        json!({"hostname": "my-app.example.com", "ingress_name": "my-app", "namespace": "default"});
    assert_eq!(call(&mut registry, of_a, Operation::Unregister, &one).status, 200);
    assert_eq!(&*registry.served(&a)[0].target, "other.default.svc.cluster.local");

    let wanted =
        ["my-app.example.com", "x.example.com", "y.example.com", "z.example.com", "x.example.org"];
    let synced = call(&mut registry, of_b, Operation::Sync, &ingresses(&wanted));
    assert_eq!(synced.status, 409);
    let reasons: Vec<_> = synced.body["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["hostname"].as_str().unwrap().to_owned(),
                one["reason"].as_str().unwrap().split_once(' ').unwrap().1[..12].to_owned(),
            )
        })
        .collect();
    let said = |host: &str, reason: &str| (host.to_owned(), reason.to_owned());
    assert_eq!(
        reasons,
        [
            said("my-app.example.com", "held by anot"),
            said("z.example.com", "one route mo"),
            said("x.example.org", "one route mo"),
        ]
    );
    assert_eq!(hosts(&registry, &b), ["x.example.com", "y.example.com"]);
}

// S3.37+
#[test]
fn claims_are_restored_with_their_order_and_damaged_ones_are_refused() {
    let (mut registry, id, link) =
        (Registry::default(), id("acme", "onprem"), link(&["*.example.com"]));
    let caller = Caller { id: &id, link: &link };
    for body in [
        with(&[]),
        with(&[("ingress_name", json!("a-second"))]),
        with(&[("path", json!("/x")), ("path_type", json!("Exact"))]),
    ] {
        assert_eq!(call(&mut registry, caller, Operation::Register, &body).status, 200);
    }
    let bytes = registry.to_json(&id).unwrap();

    let mut restored = Registry::default();
    assert_eq!(restored.restore(&bytes).unwrap(), id);

    assert_eq!(restored.links[&id].routes, registry.links[&id].routes);
    assert_eq!(restored.holders, registry.holders);
    let newer = String::from_utf8(bytes).unwrap().replace("\"version\":1", "\"version\":2");
    assert!(matches!(Registry::default().restore(newer.as_bytes()), Err(BadClaims::Version(2))));
    assert!(matches!(Registry::default().restore(b"{"), Err(BadClaims::Damaged(_))));
    call(&mut registry, caller, Operation::Unregister, &json!({"hostname": "my-app.example.com"}));
    let late = Now { unix: later(601).unix, ..later(0) };
    let other = with(&[("hostname", json!("other.example.com"))]);
    assert_eq!(call_at(&mut registry, caller, Operation::Register, &other, late).status, 200);
    let name = |name: &str| json!({"hostname": name});
    call_at(&mut registry, caller, Operation::Unregister, &name("other.example.com"), late);
    let text = String::from_utf8(registry.to_json(&id).unwrap()).unwrap();
    assert!(!text.contains("my-app") && text.contains("other.example.com"), "{text}");
}

// S3.37+ S3.49+
#[test]
fn of_two_stored_claims_to_a_name_the_later_change_is_true_whichever_file_is_read_first() {
    let mut registry = Registry::default();
    let (a, b, link) = (id("acme", "onprem"), id("bolt", "onprem"), link(&["*.example.com"]));
    let (of_a, of_b) = (Caller { id: &a, link: &link }, Caller { id: &b, link: &link });
    let (body, register) = (with(&[]), Operation::Register);
    let first = call(&mut registry, of_a, register, &body);
    registry.stamp(&first.changed);
    // The file that a crash left as it was.
    let stale = registry.to_json(&a).unwrap();
    let right = |id: &LinkId, _: &HostPattern| {
        if *id == a { Right::Withdrawn } else { Right::Granted }
    };
    let taken = call_with(&mut registry, of_b, (register, &body), right, later(0));
    registry.stamp(&taken.changed);
    let written = registry.to_json(&b).unwrap();

    for order in [[&stale, &written], [&written, &stale]] {
        let mut restored = Registry::default();
        for bytes in order {
            restored.restore(bytes).unwrap();
        }

        assert_eq!((hosts(&restored, &a).len(), hosts(&restored, &b).len()), (0, 1));
        assert_eq!(restored.take_repaired().links().collect::<Vec<_>>(), [&a]);
        assert_eq!(restored.to_json(&a), None, "its file is removed");
        assert_eq!(call(&mut restored, of_a, register, &body).status, 409);
    }
}

// S3.32+ S3.87+
#[test]
fn a_public_endpoint_at_which_no_cluster_can_be_is_refused_by_its_field() {
    let register = |endpoint: &str| {
        let mut body: Value = serde_json::from_str(BODY).unwrap();
        body["public_endpoint"] = json!(endpoint);
        Body::read(Operation::Register, body.to_string().as_bytes())
    };
    for good in ["203.0.113.45:80", "[2001:4860::1]:443", "lb.example.com:443", "10.1.2.3:443"] {
        assert!(register(good).is_ok(), "{good}");
    }
    let bad = [
        "203.0.113.45",
        "http://203.0.113.45:80",
        "127.0.0.1:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
        "169.254.169.254:80",
        "[fe80::1]:80",
        "0.0.0.0:80",
        "224.0.0.1:80",
        "[64:ff9b::7f00:1]:80",
        "203.0.113.45:0",
        "a b:80",
    ];
    for bad in bad {
        let answer = register(bad).unwrap_err();
        assert_eq!(
            (answer.status, &answer.body["error"]["field"]),
            (400, &json!("public_endpoint")),
            "{bad}"
        );
    }
}
