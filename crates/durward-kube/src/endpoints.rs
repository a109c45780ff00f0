//! Endpoints of a Service's port: what its `EndpointSlice`s say, put together.

mod index;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use durward_control::change::{Fact, ServiceEndpoints};
use durward_control::spec::service::with_protocol;
use serde::Deserialize;

use crate::object::Metadata;

pub(crate) use index::{Index, ReadService, Services, Slices};

/// Label of a slice that names its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service, as far as it matters for its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Service {
    #[serde(default)]
    r#type: Option<Arc<str>>,
    #[serde(default)]
    ports: Vec<ServicePort>,
    /// `None` for a headless Service, in the API's words.
    #[serde(default, rename = "clusterIP")]
    pub(crate) cluster_ip: Option<Arc<str>>,
    #[serde(default)]
    session_affinity: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServicePort {
    #[serde(default)]
    name: Option<Arc<str>>,
    port: u16,
    #[serde(default)]
    protocol: Option<Arc<str>>,
    #[serde(default)]
    app_protocol: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct ServiceObject {
    #[serde(default)]
    spec: Service,
}

/// A slice of the endpoints of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slice {
    ports: Vec<(Arc<str>, u16)>,
    endpoints: Vec<(IpAddr, Readiness)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    Ready,
    /// Terminating but still serving: used only if there is nothing better.
    ServingTerminating,
    Not,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceObject {
    #[serde(default)]
    address_type: Arc<str>,
    #[serde(default)]
    endpoints: Option<Vec<SliceEndpoint>>,
    #[serde(default)]
    ports: Option<Vec<SlicePort>>,
}

#[derive(Deserialize)]
struct SliceEndpoint {
    #[serde(default)]
    addresses: Vec<Arc<str>>,
    #[serde(default)]
    conditions: Conditions,
}

#[derive(Default, Deserialize)]
struct Conditions {
    #[serde(default)]
    ready: Option<bool>,
    #[serde(default)]
    serving: Option<bool>,
    #[serde(default)]
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct SlicePort {
    #[serde(default)]
    name: Option<Arc<str>>,
    #[serde(default)]
    port: Option<u16>,
}

impl Service {
    /// Decodes a Service.
    ///
    /// # Errors
    /// Fails, with a phrase for people, if it has another form.
    pub(crate) fn decode(json: &str) -> Result<Self, String> {
        let object: ServiceObject =
            serde_json::from_str(json).map_err(|error| error.to_string())?;
        Ok(object.spec)
    }
}

impl ServicePort {
    fn protocol(&self) -> &str {
        self.protocol.as_deref().unwrap_or("TCP")
    }
}

impl Slice {
    /// Decodes a slice. Slices of host names have no endpoints for us.
    ///
    /// # Errors
    /// Fails, with a phrase for people, if it has another form.
    pub(crate) fn decode(json: &str) -> Result<Self, String> {
        let object: SliceObject = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if &*object.address_type == "FQDN" {
            return Ok(Self::default());
        }
        let ports = object.ports.unwrap_or_default().into_iter();
        let endpoints = object.endpoints.unwrap_or_default().into_iter();
        Ok(Self {
            ports: ports
                .filter_map(|port| Some((port.name.unwrap_or_default(), port.port?)))
                .collect(),
            endpoints: endpoints
                // The first address stands for the endpoint; the API gives further ones no meaning.
                .filter_map(|endpoint| {
                    let address = endpoint.addresses.first()?.parse().ok()?;
                    Some((address, endpoint.conditions.readiness()))
                })
                .collect(),
        })
    }
}

impl Conditions {
    /// Conditions that are not set have the defaults of the API: ready, serving as ready, not terminating.
    fn readiness(&self) -> Readiness {
        let ready = self.ready.unwrap_or(true);
        let serving = self.serving.unwrap_or(ready);
        let terminating = self.terminating.unwrap_or(false);
        match (ready, serving && terminating) {
            (true, _) => Readiness::Ready,
            (false, true) => Readiness::ServingTerminating,
            (false, false) => Readiness::Not,
        }
    }
}

/// Returns the name of the Service that a slice is of.
pub(crate) fn service_of(metadata: &Metadata) -> Option<&Arc<str>> {
    metadata.labels.get(SERVICE_NAME)
}

/// Returns what is true of a port of a Service, given by name or number.
///
/// The ready ones are used; while there is none, those that end but still serve.
pub(crate) fn fact<'a>(
    service: Option<&Service>,
    port: &str,
    slices: &(impl Iterator<Item = &'a Slice> + Clone),
) -> Fact {
    let Some(service) = service else { return Fact::Missing };
    if service.r#type.as_deref() == Some("ExternalName") {
        let reason = "is of type ExternalName, which has no endpoints: name its host instead";
        return Fact::WithoutEndpoints(reason.to_owned());
    }
    let Some(port) = service.port(port) else { return Fact::PortUnknown(service.no_port(port)) };
    let name = port.name.clone().unwrap_or_default();
    let of = |wanted: Readiness| -> ServiceEndpoints {
        let all = slices.clone().flat_map(|slice| {
            let ports = slice.ports.iter().filter(|(slice_port, _)| *slice_port == name);
            ports.flat_map(|(_, port)| slice.endpoints.iter().map(move |at| (at, *port)))
        });
        all.filter(|((_, readiness), _)| *readiness == wanted)
            .map(|((address, _), port)| SocketAddr::new(*address, port))
            .collect()
    };
    let ready = of(Readiness::Ready);
    let none = ready.at().is_empty();
    let mut endpoints = if none { of(Readiness::ServingTerminating) } else { ready };
    endpoints.by_client = service.session_affinity.as_deref() == Some("ClientIP");
    endpoints.app_protocol.clone_from(&port.app_protocol);
    Fact::Endpoints(endpoints)
}

impl Service {
    /// Returns the port of this name or number, of the protocol that is said. Where TCP and another protocol have one number and none is said, TCP counts.
    fn port(&self, wanted: &str) -> Option<&ServicePort> {
        let (wanted, protocol) = with_protocol(wanted);
        let of_protocol: Vec<&ServicePort> = self
            .ports
            .iter()
            .filter(|port| protocol.is_none_or(|it| port.protocol() == it))
            .collect();
        let is_named = |port: &&ServicePort| port.name.as_deref() == Some(wanted);
        let number = wanted.parse::<u16>().ok();
        let mut numbered: Vec<_> =
            of_protocol.iter().copied().filter(|port| Some(port.port) == number).collect();
        numbered.sort_by_key(|port| port.protocol() != "TCP");
        of_protocol.into_iter().find(is_named).or_else(|| numbered.first().copied())
    }

    fn no_port(&self, wanted: &str) -> String {
        let ports: Vec<String> = self
            .ports
            .iter()
            .map(|port| match &port.name {
                Some(name) if !name.is_empty() => format!("{name} ({})", port.port),
                _ => port.port.to_string(),
            })
            .collect();
        match ports.is_empty() {
            true => format!("has no port {wanted:?}, and no other"),
            false => format!("has no port {wanted:?}: its ports are {}", ports.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: &Value) -> Service {
        serde_json::from_value(spec.clone()).unwrap()
    }

    fn web() -> Service {
        service(&json!({"ports": [
            {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]}))
    }

    fn slice(object: &Value) -> Slice {
        Slice::decode(&object.to_string()).unwrap()
    }

    fn shown(fact: &Fact) -> Vec<String> {
        let Fact::Endpoints(endpoints) = fact else { panic!("{fact:?}") };
        endpoints.at().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn endpoints_of_several_slices_and_both_families_are_put_together_once_each() {
        let slices = [
            slice(&json!({"addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
                "endpoints": [{"addresses": ["10.0.0.2", "10.0.0.9"]}, {"addresses": ["10.0.0.1"]}]})),
            slice(&json!({"addressType": "IPv4", "ports": [{"name": "http", "port": 8081}],
                "endpoints": [{"addresses": ["10.0.0.3"]}]})),
            slice(&json!({"addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
                "endpoints": [{"addresses": ["10.0.0.1"]}]})),
            slice(&json!({"addressType": "IPv6", "ports": [{"name": "http", "port": 8080}],
                "endpoints": [{"addresses": ["2001:db8::1"]}]})),
            slice(&json!({"addressType": "FQDN", "ports": [{"name": "http", "port": 8080}],
                "endpoints": [{"addresses": ["a.example"]}]})),
        ];

        let by_name = fact(Some(&web()), "http", &slices.iter());
        let by_number = fact(Some(&web()), "80", &slices.iter());

        let all = ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8081", "[2001:db8::1]:8080"];
        assert_eq!(shown(&by_name), all);
        assert_eq!(by_name, by_number);
    }

    #[test]
    fn a_service_says_that_a_client_keeps_its_endpoint() {
        let slices = [slice(&json!({"addressType": "IPv4", "ports": [{"name": "", "port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.1"]}]}))];
        let of = |affinity: &str| {
            let spec = json!({"ports": [{"port": 80}], "sessionAffinity": affinity});
            let fact = fact(Some(&service(&spec)), "80", &slices.iter());
            let Fact::Endpoints(endpoints) = fact else { panic!("{fact:?}") };
            endpoints.by_client
        };

        assert_eq!([of("ClientIP"), of("None")], [true, false]);
    }

    #[test]
    fn of_very_many_endpoints_the_first_are_served_and_that_there_are_more_is_said() {
        let slices: Vec<Slice> = (0..3)
            .map(|third| {
                let endpoint = |last: u8| json!({"addresses": [format!("10.0.{third}.{last}")]});
                let endpoints: Vec<Value> = (0..=255).map(endpoint).collect();
                slice(&json!({"addressType": "IPv4", "endpoints": endpoints,
                    "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53}]}))
            })
            .chain((0..1).map(|_| {
                let endpoint = |number: u16| {
                    json!({"addresses": [format!("10.1.{}.{}", number >> 8, number & 255)]})
                };
                let endpoints: Vec<Value> = (0..1000).map(endpoint).collect();
                slice(&json!({"addressType": "IPv4", "endpoints": endpoints,
                    "ports": [{"name": "http", "port": 80}]}))
            }))
            .collect();

        let Fact::Endpoints(http) = fact(Some(&web()), "http", &slices.iter()) else { panic!() };
        let Fact::Endpoints(dns) = fact(Some(&web()), "dns", &slices.iter()) else { panic!() };

        assert_eq!((http.at().len(), http.has_more()), (ServiceEndpoints::MOST, true));
        assert_eq!(http.at()[1023].to_string(), "10.1.0.255:80");
        assert_eq!((dns.at().len(), dns.has_more()), (768, false));
    }

    #[test]
    fn endpoints_that_are_not_ready_are_left_out_and_serving_ones_that_end_are_the_last_resort() {
        let endpoint = |address: &str, conditions: Value| json!({"addresses": [address], "conditions": conditions});
        let ready = endpoint("10.0.0.1", json!({"ready": true}));
        let unsaid = endpoint("10.0.0.2", json!({}));
        let not = endpoint("10.0.0.3", json!({"ready": false}));
        let ending =
            endpoint("10.0.0.4", json!({"ready": false, "serving": true, "terminating": true}));
        let ended =
            endpoint("10.0.0.5", json!({"ready": false, "serving": false, "terminating": true}));
        let of = |endpoints: &[&Value]| {
            let one = slice(&json!({"addressType": "IPv4", "endpoints": endpoints,
                "ports": [{"name": "http", "port": 8080}]}));
            shown(&fact(Some(&web()), "http", &[one].iter()))
        };

        assert_eq!(
            of(&[&ready, &unsaid, &not, &ending, &ended]),
            ["10.0.0.1:8080", "10.0.0.2:8080"]
        );
        assert_eq!(of(&[&not, &ending, &ended]), ["10.0.0.4:8080"]);
        assert_eq!(of(&[&not, &ended]), Vec::<String>::new());
    }

    #[test]
    fn a_port_is_found_by_name_or_number_and_tcp_comes_before_udp() {
        let slices = [slice(&json!({"addressType": "IPv4",
            "ports": [{"name": "dns", "port": 5353}, {"name": "dns-tcp", "port": 5354}],
            "endpoints": [{"addresses": ["10.0.0.1"]}]}))];

        assert_eq!(shown(&fact(Some(&web()), "dns", &slices.iter())), ["10.0.0.1:5353"]);
        assert_eq!(shown(&fact(Some(&web()), "53", &slices.iter())), ["10.0.0.1:5354"]);
        assert_eq!(shown(&fact(Some(&web()), "53/TCP", &slices.iter())), ["10.0.0.1:5354"]);
        assert_eq!(shown(&fact(Some(&web()), "53/UDP", &slices.iter())), ["10.0.0.1:5353"]);
        let Fact::PortUnknown(why) = fact(Some(&web()), "80/UDP", &slices.iter()) else { panic!() };
        assert_eq!(why, "has no port \"80/UDP\": its ports are http (80), dns (53), dns-tcp (53)");
        let Fact::PortUnknown(why) = fact(Some(&web()), "443", &slices.iter()) else { panic!() };
        assert_eq!(why, "has no port \"443\": its ports are http (80), dns (53), dns-tcp (53)");
    }

    #[test]
    fn a_port_without_a_name_is_the_one_without_a_name_in_slices() {
        let single = service(&json!({"ports": [{"port": 80}]}));
        let slices = [slice(
            &json!({"addressType": "IPv4", "ports": [{"name": "", "port": 8080}, {"port": null}],
            "endpoints": [{"addresses": ["10.0.0.1"]}]}),
        )];

        assert_eq!(shown(&fact(Some(&single), "80", &slices.iter())), ["10.0.0.1:8080"]);
    }

    #[test]
    fn a_service_that_is_missing_or_has_no_endpoints_by_nature_says_so() {
        let external = service(&json!({"type": "ExternalName"}));

        assert_eq!(fact(None, "80", &[].iter()), Fact::Missing);
        // Slices may be there still, from the time before.
        assert!(matches!(fact(Some(&external), "80", &[].iter()), Fact::WithoutEndpoints(_)));
    }
}
