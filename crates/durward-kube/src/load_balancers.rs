//! Services of type `LoadBalancer` of our class: which address each asks for, and what its status says.
//!
//! A gateway only says that it serves an address. Nothing of a Service makes it serve one: an address is its tenant's by documents, and a Service that names another's gets
//! nothing (CVE-2020-8554).

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::{Kind, ResourceId};
use serde::Deserialize;
use serde_json::json;

use crate::addresses::{AddressWriter, Addressed, Form, Saying, Status};
use crate::object::{Labels, Metadata, ObjectName};
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
        Ok(Some(Self {
            name: metadata.object_name(),
            uid: Arc::clone(&metadata.uid),
            labels: metadata.labels.clone(),
            asked: asked.map(Arc::from).collect(),
            has: status.addresses(),
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
pub struct LoadBalancerWriter(AddressWriter);

impl LoadBalancerWriter {
    /// Starts to write. Called within a runtime.
    #[must_use]
    pub fn start(client: kube::Client, options: &WriterOptions) -> Self {
        // Who looks at the mode knows that connections come to a proxy and not to the pods.
        let beside = json!({"ipMode": "Proxy"});
        let form = Form { resource: &SERVICES, manager: MANAGER, beside, may_write: None };
        Self(AddressWriter::start(client, options, form))
    }

    /// Says what is true of each of these Services; of others nothing is said any more.
    pub fn want(&self, answers: Vec<(Arc<LoadBalancer>, Answer)>) {
        let wanted: HashSet<ResourceId> = answers.iter().map(|(service, _)| service.id()).collect();
        self.0.retain(|id| wanted.contains(id));
        for (service, answer) in answers {
            let (uid, has) = (Arc::clone(&service.uid), service.has.clone());
            let (addresses, warnings) = match answer {
                Answer::Serves(addresses) => (addresses, Vec::new()),
                Answer::Refuses(reason, sentence) => {
                    (Vec::new(), vec![(Arc::from(reason), Arc::from(sentence))])
                }
            };
            let saying = Saying { addresses: Some(addresses), warnings };
            self.0.say(Addressed { id: service.id(), uid, has }, saying);
        }
    }
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
