//! Services of type `LoadBalancer` of our class: which address each asks for, and what its status says.
//!
//! A gateway only says that it serves an address. Nothing of a Service makes it serve one: an address is its tenant's by documents, and a Service that names another's gets
//! nothing (CVE-2020-8554).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use durward_model::{Kind, ResourceId};
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::events::{Event, Events};
use crate::object::{Labels, Metadata, ObjectName};
use crate::request::{self, ApiError};
use crate::resource_type::SERVICES;
use crate::status::WriterOptions;

/// Class of the Services that a gateway looks at.
pub const CLASS: &str = "durward.dev/gateway";
/// Annotation that names the addresses, separated by commas; without it `spec.loadBalancerIP` does.
pub const ADDRESSES: &str = "durward.dev/addresses";
/// Field manager of the statuses.
const MANAGER: &str = "durward-load-balancer";

/// A Service of our class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancer {
    /// Namespace and name.
    pub name: ObjectName,
    /// Identifier that no other object ever had.
    pub uid: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// The addresses that it asks for, as they are written.
    pub asked: Vec<Arc<str>>,
    /// The addresses that its status has.
    pub has: Vec<Arc<str>>,
}

/// Status for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Ingress addresses of the Service.
    Serves(Vec<IpAddr>),
    /// No address, for this reason: a word and a sentence.
    Refuses(&'static str, String),
}

#[derive(Deserialize)]
struct ServiceObject {
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    r#type: Arc<str>,
    #[serde(default)]
    load_balancer_class: Arc<str>,
    #[serde(default, rename = "loadBalancerIP")]
    load_balancer_ip: Arc<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    load_balancer: StatusOfBalancer,
}

#[derive(Default, Deserialize)]
struct StatusOfBalancer {
    #[serde(default)]
    ingress: Option<Vec<Ingress>>,
}

#[derive(Deserialize)]
struct Ingress {
    #[serde(default)]
    ip: Arc<str>,
}

impl LoadBalancer {
    /// Decodes a Service; `None` if it is not of our class.
    ///
    /// # Errors
    /// Fails, with a phrase for people, if it has another form.
    pub(crate) fn decode(metadata: &Metadata, json: &str) -> Result<Option<Self>, String> {
        // Most Services are none; they need not be parsed.
        if !json.contains(CLASS) {
            return Ok(None);
        }
        let ServiceObject { spec, status } =
            serde_json::from_str(json).map_err(|error| error.to_string())?;
        let is_ours = &*spec.r#type == "LoadBalancer" && &*spec.load_balancer_class == CLASS;
        if !is_ours || metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let written = metadata.annotations.get(ADDRESSES).unwrap_or(&spec.load_balancer_ip);
        let asked = written.split(',').map(str::trim).filter(|text| !text.is_empty());
        let has = status.load_balancer.ingress.into_iter().flatten().map(|ingress| ingress.ip);
        Ok(Some(Self {
            name: metadata.object_name(),
            uid: Arc::clone(&metadata.uid),
            labels: metadata.labels.clone(),
            asked: asked.map(Arc::from).collect(),
            has: has.collect(),
        }))
    }

    /// Returns the addresses that it asks for, or which of them is none.
    ///
    /// # Errors
    /// Fails with the reason why nothing can be said of it.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, Answer> {
        if self.asked.is_empty() {
            let sentence = format!("names no address: write the annotation {ADDRESSES}");
            return Err(Answer::Refuses("AddressMissing", sentence));
        }
        let parsed = self.asked.iter().map(|text| {
            text.parse().map_err(|_| {
                Answer::Refuses("BadAddress", format!("{text:?} is not an IP address"))
            })
        });
        parsed.collect()
    }

    fn id(&self) -> ResourceId {
        ResourceId::namespaced(Kind::Service, &self.name.namespace, &self.name.name)
    }
}

/// Writes the statuses of Services until it is dropped.
pub struct LoadBalancerWriter {
    client: kube::Client,
    events: Arc<tokio::sync::Mutex<Events>>,
    /// Status that was written last for each Service, and the task that writes it.
    said: Mutex<HashMap<ObjectName, Said>>,
}

struct Said {
    uid: Arc<str>,
    has: Vec<Arc<str>>,
    answer: Answer,
    task: JoinHandle<()>,
}

impl Drop for Said {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl LoadBalancerWriter {
    /// Starts to write. Called within a runtime.
    #[must_use]
    pub fn start(client: kube::Client, options: &WriterOptions) -> Self {
        let events = Arc::new(tokio::sync::Mutex::new(Events::new(client.clone(), options)));
        Self { client, events, said: Mutex::default() }
    }

    /// Says what is true of each of these Services; of others nothing is said any more.
    pub fn want(&self, answers: Vec<(Arc<LoadBalancer>, Answer)>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|name, _| answers.iter().any(|(service, _)| service.name == *name));
        for (service, answer) in answers {
            let is_same = said.get(&service.name).is_some_and(|said| {
                said.uid == service.uid && said.has == service.has && said.answer == answer
            });
            if is_same {
                continue;
            }
            let is_news = said.get(&service.name).is_none_or(|said| said.answer != answer);
            let task = write(
                self.client.clone(),
                Arc::clone(&self.events),
                (Arc::clone(&service), answer.clone(), is_news),
            );
            let task = tokio::spawn(task);
            let (uid, has) = (Arc::clone(&service.uid), service.has.clone());
            said.insert(service.name.clone(), Said { uid, has, answer, task });
        }
    }
}

/// Writes a status until that succeeds, and sends an Event if the answer is another one than before.
async fn write(
    client: kube::Client,
    events: Arc<tokio::sync::Mutex<Events>>,
    (service, answer, is_news): (Arc<LoadBalancer>, Answer, bool),
) {
    let addresses: Vec<String> = match &answer {
        Answer::Serves(addresses) => addresses.iter().map(IpAddr::to_string).collect(),
        Answer::Refuses(..) => Vec::new(),
    };
    let has: Vec<&str> = service.has.iter().map(|ip| &**ip).collect();
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
    let differs = has != addresses;
    loop {
        let written = if differs { apply(&client, &service, &addresses).await } else { Ok(()) };
        match written {
            Ok(()) => break,
            Err(error) if error.is_passing() => sleep(backoff.next()).await,
            Err(error) => {
                // It changed or is gone: the watch brings what comes next.
                tracing::debug!(service = %service.name, %error, "status was not written");
                return;
            }
        }
    }
    let (is_warning, reason, note) = match &answer {
        Answer::Serves(_) => (false, "Serves", format!("serves {}", addresses.join(", "))),
        Answer::Refuses(reason, sentence) => (true, *reason, sentence.clone()),
    };
    if is_news && (is_warning || differs) {
        let id = service.id();
        let uid = Some(&*service.uid);
        let event = Event { id: &id, uid, api_version: "v1", is_warning, reason, note: &note };
        events.lock().await.send(&event, Instant::now(), Timestamp::now()).await;
    }
}

async fn apply(
    client: &kube::Client,
    service: &LoadBalancer,
    addresses: &[String],
) -> Result<(), ApiError> {
    let LoadBalancer { name, uid, .. } = service;
    // Who looks at the mode knows that connections come to a proxy and not to the pods.
    let ingress = addresses.iter().map(|ip| json!({"ip": ip, "ipMode": "Proxy"}));
    let ingress: Vec<serde_json::Value> = ingress.collect();
    let balancer = if ingress.is_empty() { json!({}) } else { json!({"ingress": ingress}) };
    let body = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name.name, "namespace": name.namespace, "uid": uid},
        "status": {"loadBalancer": balancer},
    });
    let path = SERVICES.object_path("v1", name.namespace(), &name.name);
    let query = [("fieldManager", MANAGER), ("force", "true")];
    let path = request::path(&format!("{path}/status"), &query);
    let body = Bytes::from(body.to_string());
    let apply = "application/apply-patch+yaml";
    request::send(client, Method::PATCH, &path, apply, body).await.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn decoded(metadata: Value, spec: &Value) -> Option<LoadBalancer> {
        let mut metadata = metadata;
        metadata["name"] = json!("shop");
        metadata["namespace"] = json!("acme");
        let json = json!({"metadata": metadata, "spec": spec,
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.9"}, {"hostname": "x"}]}}});
        let metadata: Metadata = serde_json::from_value(metadata).unwrap();
        LoadBalancer::decode(&metadata, &json.to_string()).unwrap()
    }

    fn ours(more: &Value) -> Value {
        let mut spec = json!({"type": "LoadBalancer", "loadBalancerClass": CLASS});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    }

    // S1.24+
    #[test]
    fn addresses_are_named_by_the_annotation_or_by_the_old_field() {
        let old = decoded(json!({}), &ours(&json!({"loadBalancerIP": "198.51.100.2"}))).unwrap();
        let annotated = json!({"annotations": {ADDRESSES: "198.51.100.3, 2001:db8::3"}});
        let new = decoded(annotated, &ours(&json!({"loadBalancerIP": "198.51.100.2"}))).unwrap();

        assert_eq!(old.addresses(), Ok(vec!["198.51.100.2".parse().unwrap()]));
        let both = ["198.51.100.3", "2001:db8::3"].map(|text| text.parse().unwrap());
        assert_eq!(new.addresses(), Ok(both.to_vec()));
        assert_eq!(&*old.has[0], "198.51.100.9");
    }

    #[test]
    fn services_of_other_classes_and_types_are_left_to_others() {
        let annotated = json!({"annotations": {"note": CLASS}});
        for spec in [
            json!({"type": "LoadBalancer"}),
            json!({"type": "LoadBalancer", "loadBalancerClass": "other.example/x"}),
            json!({"type": "ClusterIP", "loadBalancerClass": CLASS}),
        ] {
            assert_eq!(decoded(annotated.clone(), &spec), None);
        }
    }

    #[test]
    fn external_addresses_that_whoever_may_write_services_could_claim_are_not_looked_at() {
        let service = decoded(json!({}), &ours(&json!({"externalIPs": ["198.51.100.2"]}))).unwrap();

        let Err(Answer::Refuses(reason, _)) = service.addresses() else { panic!("{service:?}") };
        assert_eq!(reason, "AddressMissing");
        let bad = decoded(json!({}), &ours(&json!({"loadBalancerIP": "gateway"}))).unwrap();
        assert!(matches!(bad.addresses(), Err(Answer::Refuses("BadAddress", _))));
    }
}
