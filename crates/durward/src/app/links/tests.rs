use std::time::Duration;

use durward_link::Route;
use durward_model::link::LinkService;
use durward_model::server_tls::ServerTls;
use durward_model::{ClientAuth, IngressAddress, Listener, Origin, Snapshot, Tenant};

use super::*;

/// Tenants with a link each, and the host names that it may register.
type Granted<'g> = &'g [(&'g str, &'g [&'g str])];

fn link(hosts: &[&str]) -> Link {
    let hosts = hosts.iter().map(|host| HostPattern::Exact((*host).into())).collect();
    Link { hosts, ..Link::new("onprem", Vec::new()) }
}

fn tenant(id: &str, hosts: &[&str]) -> (TenantId, Arc<Tenant>) {
    let id = TenantId::new(id).unwrap();
    let tls = ServerTls {
        certificates: Vec::new(),
        client_auth: ClientAuth::Off,
        tls13_only: false,
        alpn: Vec::new(),
    };
    let address = [127, 0, 0, 1];
    let listener = Listener {
        tenant: id.clone(),
        address: IngressAddress(address.into()),
        port: 443,
        bind: (address, 443).into(),
        names: None,
        allowed_sources: None,
        service: Service::Link(LinkService {
            tls,
            links: vec![link(hosts)],
            out: None,
            authority: None,
        }),
        hosts_apis: false,
        acme: durward_model::Acme::default(),
        takes_ingresses: false,
        origin: Origin::default(),
    };
    let tenant = Tenant {
        id: id.clone(),
        egress: Vec::new(),
        upstreams: Vec::new(),
        listeners: vec![Arc::new(listener)],
        transparent: Vec::new(),
        limits: durward_model::limits::Limits::default(),
        origin: Origin::default(),
    };
    (id, Arc::new(tenant))
}

fn documents(granted: Granted<'_>) -> Arc<Compiled> {
    let tenants = granted.iter().map(|(id, hosts)| tenant(id, hosts)).collect();
    let mut compiled = Compiled::default();
    compiled.snapshot = Arc::new(Snapshot { tenants, ..Snapshot::default() });
    Arc::new(compiled)
}

fn start(granted: Granted<'_>, state: Option<&Path>) -> (Links, watch::Sender<Arc<Compiled>>) {
    let (served, seen) = watch::channel(documents(granted));
    let links = Links::start(Claims::default(), state, Arc::default(), seen);
    (links.unwrap(), served)
}

fn caller(tenant: &str, hosts: &[&str], number: u64) -> Caller {
    let (tenant, client) = (TenantId::new(tenant).unwrap(), [127, 0, 0, 1].into());
    Caller { tenant, link: link(hosts), client, number, losses: Losses::default() }
}

fn routes(hosts: &[&str]) -> RouteSet {
    let route = |host: &&str| Route {
        host: (*host).to_owned(),
        path: "/".to_owned(),
        exact: false,
        target: "app:80".parse().unwrap(),
        tunnel_only: false,
        passthrough: false,
        backend_tls: None,
        ingress: String::new(),
    };
    RouteSet::new(1, hosts.iter().map(route).collect())
}

fn text(links: &Links, tenant: &str) -> String {
    let id = LinkId { tenant: tenant.into(), link: "onprem".into() };
    let claims = links.state().claims.to_json(&id).unwrap_or_default();
    String::from_utf8(claims).unwrap()
}

#[test]
fn a_call_that_waited_across_a_reload_is_decided_by_the_documents_of_its_turn() {
    let before: Granted<'_> = &[("acme", &["x.example"]), ("bolt", &[])];
    let after: Granted<'_> = &[("acme", &[]), ("bolt", &["x.example"])];
    let (links, served) = start(after, None);
    let verdicts = links.replace(&caller("bolt", &["x.example"], 1), &routes(&["x.example"]));
    assert_eq!(verdicts.unwrap().served, 1);
    served.send_replace(documents(before));

    let verdicts = std::thread::scope(|scope| {
        let state = links.state();
        let waiting = scope
            .spawn(|| links.replace(&caller("acme", &["x.example"], 2), &routes(&["x.example"])));
        // Nothing tells that the call waits for the registry.
        std::thread::sleep(Duration::from_millis(200));
        served.send_replace(documents(after));
        drop(state);
        waiting.join().unwrap().unwrap()
    });

    assert_eq!((verdicts.served, verdicts.rejected.len()), (0, 1), "{verdicts:?}");
    assert!(text(&links, "bolt").contains("x.example"));
}

#[test]
fn of_two_registrations_of_a_link_the_later_one_counts_whichever_is_faster() {
    let (links, _served) = start(&[("acme", &["a.example", "b.example"])], None);
    let hosts = ["a.example", "b.example"];
    let (first, second) = (caller("acme", &hosts, 1), caller("acme", &hosts, 2));

    assert!(links.replace(&second, &routes(&["b.example"])).is_some());
    assert_eq!(links.replace(&first, &routes(&["a.example"])), None);

    assert!(!text(&links, "acme").contains("a.example"));
    assert!(links.replace(&second, &routes(&hosts)).is_some(), "it may be asked again");
}

#[test]
fn a_link_that_loses_a_name_is_told() {
    let (links, served) = start(&[("acme", &["x.example"]), ("bolt", &[])], None);
    let (acme, bolt) = (caller("acme", &["x.example"], 1), caller("bolt", &["x.example"], 2));
    links.replace(&acme, &routes(&["x.example"])).unwrap();
    served.send_replace(documents(&[("acme", &[]), ("bolt", &["x.example"])]));

    links.replace(&bolt, &routes(&["x.example"])).unwrap();

    assert_eq!((acme.losses.count(), bolt.losses.count()), (1, 0));
    served.send_replace(documents(&[("acme", &["x.example"]), ("bolt", &[])]));
    let again = links.replace(&Caller { number: 3, ..acme }, &routes(&["x.example"])).unwrap();
    assert_eq!((again.served, bolt.losses.count()), (1, 1));
}

#[test]
fn a_sync_is_confirmed_when_it_is_stored_even_if_it_is_of_nothing_or_accepted_in_part() {
    let directory = tempfile::tempdir().unwrap();
    let (links, _served) = start(&[("acme", &["a.example"])], Some(directory.path()));
    let acme = caller("acme", &["a.example"], 1);
    let ingress = |host: &str| {
        format!(
            r#"{{"namespace": "shop", "ingress_name": "{host}", "rules": [{{"host": "{host}", "tls": false, "paths": [{{"path": "/", "service_name": "app", "service_port": 80}}]}}]}}"#
        )
    };
    let sync = |revision: u64, ingresses: &str| {
        let body = format!(
            r#"{{"cluster_uuid": "x", "revision": {revision}, "ingresses": [{ingresses}]}}"#
        );
        let answer = links.call(&acme, "sync", body.as_bytes()).unwrap();
        (answer.status, answer.body)
    };

    let first = sync(1, "");

    assert_eq!(first.0, 200, "{first:?}");
    assert_eq!(sync(1, "").0, 409, "its revision is known");
    // A file stands where the directory belongs.
    let state = directory.path().join("links");
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::write(&state, "").unwrap();
    let in_part = sync(2, &[ingress("a.example"), ingress("b.example")].join(","));
    assert_eq!(in_part.0, 503, "{in_part:?}");
    assert!(in_part.1.contains("not_stored"), "{in_part:?}");
}
