//! What becomes of what the watches see, without an API server.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::SERVICE_NAME;
use super::*;

struct Bench {
    gather: Arc<Gather>,
    index: Index,
    services: Services,
    slices: Slices,
}

impl Bench {
    fn new() -> Self {
        Self::of(None, false)
    }

    fn of(namespace: Option<&str>, balances: bool) -> Self {
        let gather = Arc::new(Gather::default());
        let index = Index::new(Arc::clone(&gather), namespace.map(Arc::from), balances);
        let (services, slices) = (Services(index.clone()), Slices(index.clone()));
        Self { gather, index, services, slices }
    }

    fn want(&self, names: &[&str]) -> Vec<Unread> {
        let ports = || BTreeSet::from([Arc::from("http")]);
        let wanted = names.iter().map(|name| (ObjectName::new("pay", name), ports()));
        let wanted = wanted.collect();
        self.index.keep_only(&wanted);
        self.index.want_more(&wanted)
    }

    fn service(&mut self, name: &str, version: u64) -> bool {
        let metadata = metadata(name, version, &json!({}));
        let json = json!({"spec": {"ports": [{"name": "http", "port": 80}]}});
        self.services.applied(&metadata, &json.to_string()).unwrap()
    }

    fn slice(&mut self, name: &str, of: &str, address: &str, version: u64) -> bool {
        let metadata = metadata(name, version, &json!({ SERVICE_NAME: of }));
        self.slices.applied(&metadata, &slice_json(address).to_string()).unwrap()
    }

    async fn facts(&self) -> Vec<(String, Option<Fact>)> {
        let observed = timeout(Duration::from_mins(5), self.gather.next()).await;
        let facts = observed.expect("a fact is said").facts.into_iter();
        facts
            .map(|(reference, fact)| {
                let Reference::Service { name, .. } = reference else { panic!() };
                (name.to_string(), fact)
            })
            .collect()
    }
}

fn metadata(name: &str, version: u64, labels: &Value) -> Metadata {
    serde_json::from_value(json!({"name": name, "namespace": "pay",
        "resourceVersion": version.to_string(), "labels": labels}))
    .unwrap()
}

fn slice_json(address: &str) -> Value {
    json!({"addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [address]}]})
}

fn endpoints(addresses: &[&str]) -> Option<Fact> {
    Some(Fact::Endpoints(addresses.iter().map(|it| it.parse().unwrap()).collect()))
}

fn read(slices: &[(&str, &str, u64)]) -> ReadService {
    let service = json!({"ports": [{"name": "http", "port": 80}]});
    let slice = |(name, address, version): &(&str, &str, u64)| {
        let slice = Slice::decode(&slice_json(address).to_string()).unwrap();
        (Arc::from(*name), slice, Arc::from(version.to_string()))
    };
    ReadService {
        service: Some((serde_json::from_value(service).unwrap(), Arc::from("5"))),
        slices: slices.iter().map(slice).collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn slices_of_services_that_nobody_refers_to_are_not_kept() {
    let mut bench = Bench::new();
    bench.want(&["api"]);

    let kept = [bench.service("api", 1), bench.slice("api-1", "api", "10.0.0.1", 2)];
    let others = [bench.service("web", 3), bench.slice("web-1", "web", "10.0.0.2", 4)];
    bench.services.listed();
    bench.slices.listed();

    assert_eq!((kept, others), ([true, true], [false, false]));
    assert_eq!(bench.facts().await, [("api".to_owned(), endpoints(&["10.0.0.1:8080"]))]);
    assert_eq!(bench.index.state().owners.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_before_both_kinds_were_read() {
    let mut bench = Bench::new();
    bench.want(&["api"]);
    bench.service("api", 1);
    bench.services.listed();

    let early = bench.index.waiting();
    bench.slices.listed();

    assert_eq!(early, 1);
    assert_eq!(bench.facts().await, [("api".to_owned(), endpoints(&[]))]);
    assert_eq!(bench.index.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_referred_to_later_is_read_by_itself_and_the_watch_counts_where_it_is_later()
 {
    let mut bench = Bench::new();
    bench.want(&["first"]);
    bench.services.listed();
    bench.slices.listed();
    bench.facts().await;

    let unread = bench.want(&["first", "api"]);
    bench.slice("api-1", "api", "10.0.0.11", 9);
    bench.slices.deleted(&ObjectName::new("pay", "api-2"), Some("8"));
    bench.index.read(
        &unread[0],
        read(&[("api-1", "10.0.0.1", 7), ("api-2", "10.0.0.2", 7), ("api-3", "10.0.0.3", 7)]),
    );

    let names: Vec<&ObjectName> = unread.iter().map(|unread| &unread.name).collect();
    assert_eq!(names, [&ObjectName::new("pay", "api")]);
    let all = endpoints(&["10.0.0.3:8080", "10.0.0.11:8080"]);
    assert_eq!(bench.facts().await, [("api".to_owned(), all)]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_referred_to_during_the_first_list_is_read_by_itself() {
    let mut bench = Bench::new();
    bench.want(&["api"]);
    let passed_by = bench.service("web", 1) || bench.slice("web-1", "web", "10.0.0.1", 2);

    let unread = bench.want(&["api", "web"]);
    bench.services.listed();
    bench.slices.listed();
    let before = bench.facts().await;
    bench.index.read(&unread[0], read(&[("web-1", "10.0.0.1", 2)]));

    assert!(!passed_by);
    assert_eq!(before, [("api".to_owned(), Some(Fact::Missing))], "web is not missing");
    assert_eq!(bench.facts().await, [("web".to_owned(), endpoints(&["10.0.0.1:8080"]))]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_referred_to_first_is_read_by_itself_where_the_watches_begin_before() {
    let mut bench = Bench::of(None, true);
    let passed_by = bench.service("web", 1) || bench.slice("web-1", "web", "10.0.0.1", 2);

    let unread = bench.want(&["web"]);
    bench.services.listed();
    bench.slices.listed();
    let names: Vec<&ObjectName> = unread.iter().map(|unread| &unread.name).collect();

    assert!(!passed_by);
    assert_eq!(names, [&ObjectName::new("pay", "web")]);
    bench.index.read(&unread[0], read(&[("web-1", "10.0.0.1", 2)]));
    assert_eq!(bench.facts().await, [("web".to_owned(), endpoints(&["10.0.0.1:8080"]))]);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_for_an_earlier_reference_does_not_count_for_a_later_one() {
    let mut bench = Bench::new();
    bench.want(&["first"]);
    bench.services.listed();
    bench.slices.listed();
    let early = bench.want(&["first", "api"]);
    bench.want(&["first"]);
    let late = bench.want(&["first", "api"]);
    bench.facts().await;

    bench.index.read(&early[0], read(&[("api-1", "10.0.0.1", 7)]));
    bench.index.read(&late[0], read(&[("api-1", "10.0.0.2", 8)]));

    assert!(!bench.index.awaits(&early[0]) && !bench.index.awaits(&late[0]));
    assert_eq!(bench.facts().await, [("api".to_owned(), endpoints(&["10.0.0.2:8080"]))]);
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_cannot_be_read_any_more_has_no_endpoints() {
    let mut bench = Bench::new();
    bench.want(&["api"]);
    bench.service("api", 1);
    bench.slice("api-1", "api", "10.0.0.1", 2);
    bench.services.listed();
    bench.slices.listed();
    bench.facts().await;

    let read = bench.slices.applied(
        &metadata("api-1", 3, &json!({ SERVICE_NAME: "api" })),
        &json!({"addressType": "IPv4", "endpoints": "?"}).to_string(),
    );

    assert!(read.is_err());
    assert_eq!(bench.facts().await, [("api".to_owned(), endpoints(&[]))]);
}

#[tokio::test(start_paused = true)]
async fn a_service_of_a_namespace_that_is_not_read_is_not_asked_for_and_says_so() {
    let mut bench = Bench::of(Some("own"), false);

    let mut unread = bench.want(&["api"]);
    let early = bench.facts().await;
    bench.services.listed();
    bench.slices.listed();
    unread.extend(bench.want(&["api", "web"]));
    let late = bench.facts().await;

    assert!(unread.is_empty(), "{unread:?}");
    for (facts, name) in [(early, "api"), (late, "web")] {
        let [(of, Some(Fact::WithoutEndpoints(why)))] = &facts[..] else { panic!("{facts:?}") };
        assert_eq!(
            (&**of, &**why),
            (name, "is in namespace pay, and Services are read from own alone")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_refers_to_any_more_is_forgotten() {
    let mut bench = Bench::new();
    bench.want(&["api"]);
    bench.service("api", 1);
    bench.slice("api-1", "api", "10.0.0.1", 2);
    bench.services.listed();
    bench.slices.listed();
    bench.facts().await;

    bench.want(&[]);

    assert_eq!(bench.facts().await, [("api".to_owned(), None)]);
    assert!(bench.index.state().owners.is_empty() && bench.index.state().wanted.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_is_given_to_another_service_leaves_the_first() {
    let mut bench = Bench::new();
    bench.want(&["api", "web"]);
    bench.service("api", 1);
    bench.service("web", 1);
    bench.slice("s", "api", "10.0.0.1", 2);
    bench.services.listed();
    bench.slices.listed();
    bench.facts().await;

    bench.slice("s", "web", "10.0.0.1", 3);

    let facts = bench.facts().await;
    assert_eq!(facts[0], ("api".to_owned(), endpoints(&[])));
    assert_eq!(facts[1], ("web".to_owned(), endpoints(&["10.0.0.1:8080"])));
}
