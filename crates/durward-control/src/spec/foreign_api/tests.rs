use serde_json::json;

use super::*;

fn api(kind: Kind, spec: &Value) -> ForeignApi {
    let object = json!({"apiVersion": "x", "kind": "x", "metadata": {"name": "t1"}, "spec": spec});
    read(kind, &object.to_string()).unwrap()
}

/// Names joined by blanks, and Service and port of each backend.
fn routes(api: &ForeignApi) -> Vec<(String, Vec<String>)> {
    let shown = |route: &ForeignRoute| {
        let backends = route.backends.iter().map(|backend| {
            let ServiceSpec { name, port, .. } = &backend.service.value;
            format!("{}:{}*{}", name.value, port.0, backend.weight)
        });
        let names: Vec<&str> = route.names.iter().map(|name| name.value.as_str()).collect();
        (names.join(" "), backends.collect())
    };
    api.routes.iter().map(shown).collect()
}

fn route(names: &str, backends: &[&str]) -> (String, Vec<String>) {
    (names.to_owned(), backends.iter().map(|one| (*one).to_owned()).collect())
}

fn faults(api: &ForeignApi) -> Vec<(bool, &str)> {
    api.faults.iter().map(|fault| (fault.is_error, fault.field.as_str())).collect()
}

// S4.19 S4.20
#[test]
fn a_control_plane_has_the_host_of_its_ingress_and_the_service_of_its_name() {
    let steward = json!({
        "controlPlane": {
            "ingress": {"hostname": "tenant-01.k8s.platform.example:443", "controllerType": "traefik", "ingressClassName": "traefik"},
            "service": {"serviceType": "ClusterIP"},
            "deployment": {"replicas": 2},
        },
        "networkProfile": {
            "address": "tenant-01.k8s.platform.example", "port": 443,
            "certSANs": ["tenant-01.k8s.platform.example"],
            "serviceCidr": "10.96.0.0/16", "podCidr": "10.244.0.0/16",
        },
        "addons": {"tcpProxy": {}, "coreDNS": {}, "konnectivity": {"server": {"port": 8133}, "agent": {}}},
    });

    let read = api(Kind::StewardControlPlane, &steward);

    assert_eq!(
        routes(&read),
        [
            route("tenant-01.k8s.platform.example", &["t1:443*1"]),
            route("tenant-01.konnectivity.platform.example", &["t1:8133*1"]),
        ]
    );
    assert_eq!(faults(&read), [(false, "networkProfile.address")]);
}

#[test]
fn a_control_plane_says_which_networks_may_connect_and_needs_no_other_field() {
    let spec = json!({
        "controlPlane": {"gateway": {"hostname": "t1.example.com", "parentRefs": []}},
        "networkProfile": {"address": "10.0.0.1", "loadBalancerSourceRanges": ["192.0.2.0/24"]},
        "addons": {"konnectivity": {}},
    });

    let kamaji = api(Kind::KamajiControlPlane, &spec);
    let steward = api(Kind::StewardControlPlane, &spec);

    for read in [&kamaji, &steward] {
        assert_eq!(routes(read), [route("t1.example.com", &["t1:6443*1"])]);
        assert_eq!(read.sources.networks[0].value, "192.0.2.0/24");
    }
    assert_eq!(faults(&kamaji), []);
    assert_eq!(faults(&steward), [(false, "controlPlane.gateway.hostname")]);
}

// S4.14+
#[test]
fn rules_of_traefik_are_read_that_name_hosts_and_no_others() {
    for (rule, hosts) in [
        ("HostSNI(`a.example`)", Some(vec!["a.example"])),
        ("HostSNI(`a.example`, `b.example`)", Some(vec!["a.example", "b.example"])),
        ("HostSNI(\"a.example\") || HostSNI(`b.example`)", Some(vec!["a.example", "b.example"])),
        ("HostSNI(`*`)", Some(vec!["*"])),
        ("HostSNI(`a.example`) && ClientIP(`10.0.0.0/8`)", None),
        ("!HostSNI(`a.example`)", None),
        ("HostSNIRegexp(`.+`)", None),
        ("HostSNI(`a.example`) || ALPN(`h2`)", None),
        ("HostSNI(`a`||`b`)", None),
        ("HostSNI()", None),
        ("HostSNI(a.example)", None),
        ("HostSNI(`a`) HostSNI(`b`)", None),
        ("HostSNI(``)", Some(vec![""])),
        ("", None),
    ] {
        let read = ingress_route_tcp::hosts(rule).ok();

        assert_eq!(
            read,
            hosts.map(|hosts| hosts.iter().map(ToString::to_string).collect()),
            "{rule}"
        );
    }
}

#[test]
fn what_traefik_would_do_to_connections_is_refused_and_not_left_out() {
    let spec = json!({
        "entryPoints": ["websecure"],
        "routes": [
            {"match": "HostSNI(`a.example`)", "services": [{"name": "a", "port": "https", "weight": 3}, {"name": "b", "port": 6443}]},
            {"match": "HostSNI(`b.example`)", "services": [{"name": "b", "port": 1, "proxyProtocol": {"version": 2}}]},
            {"match": "HostSNI(`c.example`)", "services": [{"name": "c", "port": 1, "tls": true}], "middlewares": [{"name": "allow"}]},
            {"match": "ClientIP(`10.0.0.0/8`)", "services": []},
        ],
        "tls": {"passthrough": true},
    });

    let read = api(Kind::IngressRouteTcp, &spec);

    assert_eq!(routes(&read)[0], route("a.example", &["a:https*3", "b:6443*1"]));
    assert_eq!(
        faults(&read),
        [
            (true, "routes[1].services[0].proxyProtocol"),
            (true, "routes[2].middlewares"),
            (true, "routes[2].services[0].tls"),
            (true, "routes[3].match"),
        ]
    );
}

// S4.18+
#[test]
fn a_tls_route_has_names_and_weighted_services() {
    let spec = json!({
        "parentRefs": [{"name": "edge"}],
        "hostnames": ["a.example", "b.example"],
        "rules": [
            {"backendRefs": [{"name": "a", "port": 6443, "weight": 9}, {"name": "b", "namespace": "other", "port": 6443}]},
            {"backendRefs": [{"name": "c", "port": 6443}]},
        ],
    });

    let read = api(Kind::TlsRoute, &spec);

    assert_eq!(routes(&read), [route("a.example b.example", &["a:6443*9", "b:6443*1"])]);
    assert_eq!(faults(&read), [(true, "rules[1]")]);
    assert_eq!(read.services().nth(1).unwrap().namespace.as_ref().unwrap().value, "other");
    let odd = api(
        Kind::TlsRoute,
        &json!({"hostnames": ["a.example"], "rules": [{"backendRefs": [
        {"group": "example.com", "kind": "Bucket", "name": "a"}, {"name": "b"}]}]}),
    );
    assert_eq!(
        faults(&odd),
        [(true, "rules[0].backendRefs[0]"), (true, "rules[0].backendRefs[1].port")]
    );
}

#[test]
fn objects_that_are_for_other_controllers_alone_are_left_to_them() {
    let with = |spec: Value| json!({"metadata": {"name": "x"}, "spec": spec});
    let owned = json!({
        "metadata": {"name": "x", "ownerReferences": [{"kind": "TenantControlPlane", "name": "t1"}]},
        "spec": {"tls": {"passthrough": true}},
    });

    for (kind, object, wanted) in [
        (Kind::IngressRouteTcp, with(json!({"tls": {"passthrough": true}})), true),
        (Kind::IngressRouteTcp, with(json!({"tls": {"secretName": "x"}})), false),
        (Kind::IngressRouteTcp, with(json!({})), false),
        (Kind::IngressRouteTcp, owned, false),
        (Kind::TlsRoute, with(json!({"hostnames": ["a.example"]})), true),
        (Kind::TlsRoute, with(json!({"hostnames": []})), false),
        (
            Kind::KamajiControlPlane,
            with(json!({"controlPlane": {"ingress": {"hostname": "a"}}})),
            true,
        ),
        (
            Kind::StewardControlPlane,
            with(json!({"controlPlane": {"gateway": {"hostname": "a"}}})),
            true,
        ),
        (Kind::KamajiControlPlane, with(json!({"controlPlane": {"service": {}}})), false),
        (Kind::KamajiControlPlane, json!([1]), false),
        (Kind::Tenant, with(json!({})), false),
    ] {
        assert_eq!(is_meant(kind, &object), wanted, "{kind} {object}");
    }
}

#[test]
fn more_than_a_hundred_names_are_refused() {
    let names: Vec<String> = (0..=MOST).map(|at| format!("h{at}.example")).collect();
    let backends = [json!({"name": "a", "port": 6443})];
    let spec = json!({"hostnames": names, "rules": [{"backendRefs": backends}]});

    let read = api(Kind::TlsRoute, &spec);

    assert_eq!(read.faults[0].reason, "TooMany");
}
