//! Services that documents refer to, with their slices. All others are let go as soon as their name is read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use durward_control::change::{Fact, Reference};

use super::{Service, Slice, fact, service_of};
use crate::object::{Metadata, ObjectName};
use crate::pace::Gather;
use crate::watch::{Sink, is_later};

/// The Services that are referred to.
#[derive(Clone)]
pub(crate) struct Index(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    gather: Arc<Gather>,
    /// The only namespace that is read, if there is only one.
    namespace: Option<Arc<str>>,
}

#[derive(Default)]
struct State {
    wanted: BTreeMap<ObjectName, Wanted>,
    /// The Service of each slice that is kept.
    owners: BTreeMap<ObjectName, ObjectName>,
    services_listed: bool,
    slices_listed: bool,
    /// True once the watches have begun: what they passed by since then has to be read by itself.
    has_begun: bool,
    /// Readings that were asked for so far.
    readings: u64,
}

/// A Service that somebody refers to.
#[derive(Default)]
struct Wanted {
    /// The ports that are referred to, and what was last said of each.
    ports: BTreeMap<Arc<str>, Option<Fact>>,
    service: Option<Service>,
    slices: BTreeMap<Arc<str>, Slice>,
    /// It is being read by itself, because the watches may have seen it before anybody asked.
    reading: Option<Reading>,
}

/// What the watches saw of a Service while it is read by itself.
struct Reading {
    /// Its number: an answer to an earlier question about the same Service does not count.
    number: u64,
    /// Versions of what they saw, the Service itself under the empty name.
    versions: BTreeMap<Arc<str>, Arc<str>>,
}

/// A Service that has to be read by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) name: ObjectName,
    number: u64,
}

/// What was read of a Service by itself.
pub(crate) struct ReadService {
    /// The Service and its version; `None` if there is none.
    pub(crate) service: Option<(Service, Arc<str>)>,
    /// Its slices by name, with their versions.
    pub(crate) slices: Vec<(Arc<str>, Slice, Arc<str>)>,
}

impl Index {
    /// Builds an index of Services of all namespaces, or of one alone.
    pub(crate) fn new(gather: Arc<Gather>, namespace: Option<Arc<str>>) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), gather, namespace }))
    }

    /// Replaces what is referred to: Services with ports. Returns those that have to be read by themselves. The watches begin after the first call that names any.
    pub(crate) fn want(&self, wanted: &BTreeMap<ObjectName, BTreeSet<Arc<str>>>) -> Vec<Unread> {
        let mut state = self.state();
        let State { wanted: held, owners, has_begun, readings, .. } = &mut *state;
        held.retain(|name, entry| {
            let ports = wanted.get(name);
            entry.ports.retain(|port, _| {
                let stays = ports.is_some_and(|ports| ports.contains(port));
                if !stays {
                    self.0.gather.fact(reference(name, port), None);
                }
                stays
            });
            if ports.is_none() {
                entry.slices.keys().for_each(|slice| {
                    owners.remove(&ObjectName {
                        namespace: Arc::clone(&name.namespace),
                        name: Arc::clone(slice),
                    });
                });
            }
            ports.is_some()
        });
        let (mut unread, mut news) = (Vec::new(), Vec::new());
        for (name, ports) in wanted {
            let entry = held.entry(name.clone()).or_insert_with(|| {
                let is_read = *has_begun && self.elsewhere(name).is_none();
                let reading = is_read.then(|| {
                    *readings += 1;
                    unread.push(Unread { name: name.clone(), number: *readings });
                    Reading { number: *readings, versions: BTreeMap::new() }
                });
                Wanted { reading, ..Wanted::default() }
            });
            let before = entry.ports.len();
            for port in ports {
                entry.ports.entry(Arc::clone(port)).or_default();
            }
            if entry.ports.len() > before {
                news.push(name);
            }
        }
        *has_begun |= !wanted.is_empty();
        // Facts of the others are said already.
        news.into_iter().for_each(|name| self.publish(&mut state, name));
        unread
    }

    /// Returns whether what is being read of a Service by itself is waited for.
    pub(crate) fn awaits(&self, unread: &Unread) -> bool {
        self.state().wanted.get(&unread.name).is_some_and(|entry| entry.awaits(unread))
    }

    /// Takes what was read of a Service by itself. What the watches saw meanwhile counts where it is later.
    pub(crate) fn read(&self, unread: &Unread, read: ReadService) {
        let name = &unread.name;
        let mut state = self.state();
        let State { wanted, owners, .. } = &mut *state;
        let Some(entry) = wanted.get_mut(name).filter(|entry| entry.awaits(unread)) else { return };
        let Some(reading) = entry.reading.take() else { return };
        let is_news = |object: &str, version: &str| {
            reading.versions.get(object).is_none_or(|seen| is_later(version, seen))
        };
        if let Some((service, version)) = read.service
            && is_news("", &version)
        {
            entry.service = Some(service);
        }
        for (slice_name, slice, version) in read.slices {
            if is_news(&slice_name, &version) {
                let namespace = Arc::clone(&name.namespace);
                owners
                    .insert(ObjectName { namespace, name: Arc::clone(&slice_name) }, name.clone());
                entry.slices.insert(slice_name, slice);
            }
        }
        self.publish(&mut state, name);
    }

    /// Returns how many references wait for their first fact.
    pub(crate) fn waiting(&self) -> usize {
        let state = self.state();
        let facts = state.wanted.values().flat_map(|entry| entry.ports.values());
        facts.filter(|fact| fact.is_none()).count()
    }

    /// Returns what is true of a Service in a namespace that is not read: its endpoints could not be followed.
    fn elsewhere(&self, name: &ObjectName) -> Option<Fact> {
        let only = self.0.namespace.as_ref().filter(|only| **only != name.namespace)?;
        let reason =
            format!("is in namespace {}, and Services are read from {only} alone", name.namespace);
        Some(Fact::WithoutEndpoints(reason))
    }

    fn publish(&self, state: &mut State, name: &ObjectName) {
        let elsewhere = self.elsewhere(name);
        if elsewhere.is_none() && !(state.services_listed && state.slices_listed) {
            return;
        }
        let Some(entry) = state.wanted.get_mut(name) else { return };
        if entry.reading.is_some() {
            return;
        }
        for (port, said) in &mut entry.ports {
            let now = elsewhere
                .clone()
                .unwrap_or_else(|| fact(entry.service.as_ref(), port, &entry.slices.values()));
            if said.as_ref() != Some(&now) {
                self.0.gather.fact(reference(name, port), Some(now.clone()));
                *said = Some(now);
            }
        }
    }

    fn publish_all(&self, state: &mut State) {
        let names: Vec<ObjectName> = state.wanted.keys().cloned().collect();
        names.iter().for_each(|name| self.publish(state, name));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reference(name: &ObjectName, port: &Arc<str>) -> Reference {
    Reference::Service {
        namespace: Arc::clone(&name.namespace),
        name: Arc::clone(&name.name),
        port: Arc::clone(port),
    }
}

impl Wanted {
    fn awaits(&self, unread: &Unread) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.number == unread.number)
    }

    fn note(&mut self, object: &str, version: Option<&str>) {
        if let (Some(reading), Some(version)) = (&mut self.reading, version) {
            reading.versions.insert(Arc::from(object), Arc::from(version));
        }
    }
}

/// Reader of Services.
pub(crate) struct Services(pub(crate) Index);

impl Sink for Services {
    fn applied(&mut self, metadata: &Metadata, json: &str) -> Result<bool, String> {
        let name = metadata.object_name();
        let mut state = self.0.state();
        let Some(entry) = state.wanted.get_mut(&name) else { return Ok(false) };
        entry.service = Some(Service::decode(json)?);
        entry.note("", Some(&metadata.resource_version));
        self.0.publish(&mut state, &name);
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, version: Option<&str>) {
        let mut state = self.0.state();
        let Some(entry) = state.wanted.get_mut(name) else { return };
        entry.service = None;
        entry.note("", version);
        self.0.publish(&mut state, name);
    }

    fn listed(&mut self) {
        let mut state = self.0.state();
        state.services_listed = true;
        self.0.publish_all(&mut state);
    }
}

/// Reader of `EndpointSlice`s.
pub(crate) struct Slices(pub(crate) Index);

impl Sink for Slices {
    fn applied(&mut self, metadata: &Metadata, json: &str) -> Result<bool, String> {
        let slice_name = metadata.object_name();
        let owner = service_of(metadata).map(|name| ObjectName {
            namespace: Arc::clone(&metadata.namespace),
            name: Arc::clone(name),
        });
        let mut state = self.0.state();
        // A slice may be given to another Service by its label.
        let former = state.owners.get(&slice_name).cloned();
        if let Some(former) = former.filter(|former| Some(former) != owner.as_ref()) {
            self.0.forget(&mut state, &slice_name, &former, Some(&metadata.resource_version));
        }
        let Some(owner) = owner else { return Ok(false) };
        let State { wanted, owners, .. } = &mut *state;
        let Some(entry) = wanted.get_mut(&owner) else { return Ok(false) };
        let slice = match Slice::decode(json) {
            Ok(slice) => slice,
            Err(fault) => {
                // The addresses that it had may be another's by now.
                self.0.forget(&mut state, &slice_name, &owner, Some(&metadata.resource_version));
                return Err(fault);
            }
        };
        entry.slices.insert(Arc::clone(&slice_name.name), slice);
        entry.note(&slice_name.name, Some(&metadata.resource_version));
        owners.insert(slice_name, owner.clone());
        self.0.publish(&mut state, &owner);
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, version: Option<&str>) {
        let mut state = self.0.state();
        if let Some(owner) = state.owners.get(name).cloned() {
            self.0.forget(&mut state, name, &owner, version);
        } else if let Some(version) = version {
            // Whoever reads a Service by itself just now may have found the slice before it was deleted.
            for entry in
                state.wanted.iter_mut().filter(|(service, _)| service.namespace == name.namespace)
            {
                entry.1.note(&name.name, Some(version));
            }
        }
    }

    fn listed(&mut self) {
        let mut state = self.0.state();
        state.slices_listed = true;
        self.0.publish_all(&mut state);
    }
}

impl Index {
    fn forget(
        &self,
        state: &mut State,
        slice: &ObjectName,
        owner: &ObjectName,
        version: Option<&str>,
    ) {
        state.owners.remove(slice);
        if let Some(entry) = state.wanted.get_mut(owner) {
            entry.slices.remove(&slice.name);
            entry.note(&slice.name, version);
        }
        self.publish(state, owner);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    struct Bench {
        gather: Arc<Gather>,
        index: Index,
        services: Services,
        slices: Slices,
    }

    impl Bench {
        fn new() -> Self {
            Self::of(None)
        }

        fn of(namespace: Option<&str>) -> Self {
            let gather = Arc::new(Gather::default());
            let index = Index::new(Arc::clone(&gather), namespace.map(Arc::from));
            let (services, slices) = (Services(index.clone()), Slices(index.clone()));
            Self { gather, index, services, slices }
        }

        fn want(&self, names: &[&str]) -> Vec<Unread> {
            let ports = || BTreeSet::from([Arc::from("http")]);
            let wanted = names.iter().map(|name| (ObjectName::new("pay", name), ports()));
            self.index.want(&wanted.collect())
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
            let facts = self.gather.next().await.facts.into_iter();
            facts
                .map(|(reference, fact)| {
                    let Reference::Service { name, .. } = reference else { panic!() };
                    (name.to_string(), fact)
                })
                .collect()
        }
    }

    use super::super::SERVICE_NAME;

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
        let mut bench = Bench::of(Some("own"));

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
}
