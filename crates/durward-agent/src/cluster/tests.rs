use serde_json::{Value, json};

use super::*;

fn objects(of: (&str, &str), spec: &Value, addresses: &[&str]) -> Objects {
    let (namespace, own) = of;
    let service = json!({"metadata": {"namespace": namespace, "name": own,
        "labels": {"app.kubernetes.io/name": "ingress-nginx"}}, "spec": spec});
    let name = name(namespace, own);
    Objects {
        services: [(name.clone(), Arc::new(serde_json::from_value(service).unwrap()))].into(),
        balanced: [(name, addresses.iter().map(|at| (*at).to_owned()).collect())].into(),
        ..Objects::default()
    }
}

const NGINX: (&str, &str) = ("ingress-nginx", "ingress-nginx-controller");

fn balanced() -> Value {
    json!({"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}]})
}

// S3.12 S3.13+ S3.15+ S3.57+
#[test]
fn a_cluster_is_public_if_its_controllers_service_is_a_load_balancer_with_an_address_that_others_reach()
 {
    let of_type = |kind: &str| json!({"type": kind, "ports": [{"port": 80}]});
    let cases: [(Value, &[&str], Kind, &str); 8] = [
        (of_type("NodePort"), &[], Kind::Private, "is of type NodePort"),
        (of_type("ClusterIP"), &[], Kind::Private, "is of type ClusterIP"),
        (json!({"ports": []}), &[], Kind::Private, "is of type ClusterIP"),
        (balanced(), &[], Kind::Waiting, "without an external address"),
        (balanced(), &["10.0.0.1"], Kind::Private, "10.0.0.1, which is not public"),
        (balanced(), &["169.254.169.254"], Kind::Private, "which is not public"),
        (balanced(), &["10.0.0.1", "203.0.113.9"], Kind::Public, "external address 203.0.113.9"),
        (balanced(), &["lb.example.com"], Kind::Public, "external address lb.example.com"),
    ];
    for (spec, addresses, kind, words) in cases {
        let found = Detection::default().detect(&objects(NGINX, &spec, addresses));
        assert_eq!(found.kind, kind, "{spec} {addresses:?}");
        assert!(found.reason.contains(words), "{}", found.reason);
    }
    let nothing = Detection::default().detect(&Objects::default());
    assert_eq!(nothing.kind, Kind::Private);
    assert!(nothing.reason.contains("ingressControllers"), "{}", nothing.reason);
}

// S3.12+
#[test]
fn other_controllers_are_found_by_name_or_label_and_those_that_are_not_listed_are_none() {
    let at = |of, controllers: &[&str]| {
        let controllers = controllers.iter().map(|text| Controller::read(text).unwrap()).collect();
        let detection = Detection { controllers, ..Detection::default() };
        detection.detect(&objects(of, &balanced(), &["203.0.113.9"])).kind
    };
    assert_eq!(at(("edge", "gate"), &["edge/gate"]), Kind::Public);
    assert_eq!(at(("edge", "gate"), &["app.kubernetes.io/name=ingress-nginx"]), Kind::Public);
    assert_eq!(at(NGINX, &["edge/gate", "app=other"]), Kind::Private);
    let own = Detection::default().detect(&objects(("shop", "app"), &balanced(), &["203.0.113.9"]));
    assert_eq!(own.kind, Kind::Public, "by the label of ingress-nginx");
    for bad in ["", "name", "a/b/c", "/a", "a/", "=", "a=", "=b"] {
        assert_eq!(Controller::read(bad), None, "{bad}");
    }
}

// S3.7+ S3.68+ S3.15+
#[test]
fn the_endpoint_prefers_https_and_is_offered_only_where_direct_routes_are_wanted() {
    let with = |ports: Value, address: &str| {
        let spec = json!({"type": "LoadBalancer", "ports": ports});
        Detection::default().detect(&objects(NGINX, &spec, &[address])).endpoint
    };
    let both = json!([{"name": "http", "port": 80}, {"name": "https", "port": 8443}]);
    assert_eq!(with(both, "203.0.113.9"), Some(("203.0.113.9:8443".to_owned(), true)));
    let plain = json!([{"name": "x", "port": 80}]);
    assert_eq!(with(plain, "2001:db9::1"), Some(("[2001:db9::1]:80".to_owned(), false)));
    assert_eq!(with(json!([{"name": "ssh", "port": 22}]), "203.0.113.9"), None);

    let public = objects(NGINX, &balanced(), &["203.0.113.9"]);
    let state = |wanted| {
        let detection = Detection { wanted, ..Detection::default() };
        let state = detection.state(&detection.detect(&public), 5);
        (state.is_private, state.routing_mode, state.public_endpoint)
    };
    let endpoint = Some("203.0.113.9:443".to_owned());
    assert_eq!(state(Wanted::Direct), (false, RoutingMode::Direct, endpoint.clone()));
    assert_eq!(state(Wanted::Dual), (false, RoutingMode::Dual, endpoint));
    assert_eq!(state(Wanted::Tunnel), (false, RoutingMode::Tunnel, None));

    let private = objects(NGINX, &balanced(), &["10.0.0.7"]);
    let offering = Detection { offers_private: true, ..Detection::default() };
    let offered = offering.state(&offering.detect(&private), 0).public_endpoint;
    assert_eq!(offered.as_deref(), Some("10.0.0.7:443"));
}
