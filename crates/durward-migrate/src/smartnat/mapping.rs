//! SmartNat's `Mapping` (`smartnat.aureacentral.com/v1alpha1`) as `PortMapping`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;
use serde_saphyr::{FlowMap, FlowSeq};

use super::Migration;
use super::document::{self, PortMappingSpec, PortSpec};
use super::target::Target;
use crate::objects::Object;

/// SmartNat's environment, under its documented defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmartNatOptions {
    /// `SNCTRLR_SETUP_MASQUERADE`: pods see the instance. Default: true.
    pub masquerade: bool,
    /// `SNCTRLR_SETUP_SNAT`: what pods send out leaves by the mapping's address. Default: false.
    pub snat: bool,
}

impl Default for SmartNatOptions {
    fn default() -> Self {
        Self { masquerade: true, snat: false }
    }
}

/// Fields of `spec`, and of its ports.
const SPEC: [&str; 5] = ["addresses", "allowedSources", "serviceName", "mode", "ports"];
const PORT: [&str; 3] = ["port", "protocol", "servicePort"];

/// Everything that mappings are translated with.
pub(super) struct Surroundings<'a> {
    objects: &'a [Object],
    options: SmartNatOptions,
    /// Addresses that mappings of several namespaces have.
    shared: BTreeSet<&'a str>,
}

impl<'a> Surroundings<'a> {
    /// SmartNat lets all namespaces use an address; here an address is one tenant's unless all say that they share it.
    pub(super) fn new(objects: &'a [Object], options: SmartNatOptions) -> Self {
        let mut users: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for object in objects.iter().filter(|object| object.kind() == "Mapping") {
            let addresses = object.value["spec"]["addresses"].as_array().into_iter().flatten();
            for address in addresses.filter_map(Value::as_str) {
                users.entry(address).or_default().insert(object.namespace());
            }
        }
        let shared = users.into_iter().filter(|(_, users)| users.len() > 1);
        Self { objects, options, shared: shared.map(|(address, _)| address).collect() }
    }
}

/// The document of a mapping; `None` where nothing of it can be served.
pub(super) fn translate(
    object: &Object,
    surroundings: &Surroundings<'_>,
    migration: &mut Migration,
) -> Option<String> {
    let mut mapping = Mapping { object, migration };
    mapping.unknown(&object.value["spec"], "spec", &SPEC);
    mapping.is_served()?;
    let addresses = mapping.addresses()?;
    let sources = mapping.sources()?;
    let ports = mapping.ports()?;
    let service = mapping.service();
    let target = Target::find(surroundings.objects, object.namespace(), &service);
    if target.service.is_none() {
        mapping.note(&format!("Service {service} is not among the objects: write its endpoints"));
    }
    let ports = ports.iter().map(|port| FlowMap(mapping.port_spec(port, &target, &service)));
    let spec = PortMappingSpec {
        tenant: object.namespace().to_owned(),
        shared: addresses.iter().any(|address| surroundings.shared.contains(&**address)),
        ports: ports.collect(),
        addresses: FlowSeq(addresses),
        allowed_sources: (!sources.is_empty()).then_some(FlowSeq(sources)),
        source: if surroundings.options.masquerade { "Gateway" } else { "Preserve" },
        affinity: target.affinity.then_some("ClientIP"),
        egress: surroundings.options.snat,
    };
    let name = format!("{}.{}", object.namespace(), object.name());
    let created = object.value["metadata"]["creationTimestamp"].as_str();
    Some(document::port_mapping(name, created, spec))
}

/// A port of a mapping.
struct Port {
    outer: u16,
    inner: u16,
    protocol: &'static str,
}

/// A mapping that is being translated.
struct Mapping<'a> {
    object: &'a Object,
    migration: &'a mut Migration,
}

impl Mapping<'_> {
    fn spec(&self, field: &str) -> &Value {
        &self.object.value["spec"][field]
    }

    fn note(&mut self, text: &str) {
        let (namespace, name) = (self.object.namespace(), self.object.name());
        self.migration.notes.push(format!("{namespace}/{name}: {text}"));
    }

    fn leave_out(&mut self, text: &str) {
        self.migration.left_out.push(format!("{}: {text}", self.object));
    }

    fn unknown(&mut self, value: &Value, place: &str, known: &[&str]) {
        let fields = value.as_object().into_iter().flatten();
        let unknown: Vec<String> =
            fields.map(|(name, _)| name.clone()).filter(|name| !known.contains(&&**name)).collect();
        for name in unknown {
            self.leave_out(&format!("{place}.{name} is not known and not translated"));
        }
    }

    /// Returns whether SmartNat serves the mapping at all.
    fn is_served(&mut self) -> Option<()> {
        let invalid = self.object.value["status"]["invalid"].as_str().unwrap_or("no").to_owned();
        if !matches!(&*invalid, "no" | "") {
            self.note(&format!("SmartNat itself refuses it: {invalid}"));
        }
        if !self.object.value["metadata"]["deletionTimestamp"].is_null() {
            self.leave_out("the mapping is being deleted");
            return None;
        }
        if !self.object.value["spec"].is_object() {
            self.leave_out("spec must be an object: the mapping is left out");
            return None;
        }
        let mode = self.spec("mode").clone();
        if !mode.is_null() && mode.as_str() != Some("service") {
            self.leave_out(&format!("spec.mode {mode} is not \"service\", which is all that SmartNat serves: the mapping is left out"));
            return None;
        }
        Some(())
    }

    /// The items of a list, `None` where it is none. A list that is not there is empty.
    fn items(&mut self, field: &str) -> Option<Vec<Value>> {
        match self.spec(field) {
            Value::Null => Some(Vec::new()),
            Value::Array(items) => Some(items.clone()),
            other => {
                let text = format!("spec.{field} {other} is no list: the mapping is left out");
                self.leave_out(&text);
                None
            }
        }
    }

    fn addresses(&mut self) -> Option<Vec<String>> {
        let items = self.items("addresses")?;
        let mut addresses: Vec<String> = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            match item.as_str().and_then(|text| text.parse::<IpAddr>().ok()) {
                Some(address) if !addresses.contains(&address.to_string()) => {
                    addresses.push(address.to_string());
                }
                Some(_) => self.note(&format!("spec.addresses[{at}] {item} is there twice")),
                None => {
                    self.leave_out(&format!("spec.addresses[{at}] {item} is no IP address"));
                }
            }
        }
        if addresses.is_empty() {
            self.leave_out("spec.addresses names no address: the mapping is left out");
            return None;
        }
        Some(addresses)
    }

    /// Networks that may connect; none means all clients.
    fn sources(&mut self) -> Option<Vec<String>> {
        let items = self.items("allowedSources")?;
        let mut sources: Vec<String> = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let network = item
                .as_str()
                .filter(|text| text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok());
            match network {
                Some(network) => sources.push(network.to_owned()),
                None => {
                    self.leave_out(&format!("spec.allowedSources[{at}] {item} is no network"));
                }
            }
        }
        // An empty list would admit every client.
        if sources.is_empty() && !items.is_empty() {
            self.leave_out("spec.allowedSources names no network: the mapping is left out");
            return None;
        }
        let everybody = sources.iter().any(|source| source == "0.0.0.0/0");
        Some(if everybody { Vec::new() } else { sources })
    }

    fn ports(&mut self) -> Option<Vec<Port>> {
        let items = self.items("ports")?;
        let mut ports: Vec<Port> = Vec::with_capacity(items.len());
        let mut known = BTreeSet::new();
        for (at, item) in items.iter().enumerate() {
            let place = format!("spec.ports[{at}]");
            self.unknown(item, &place, &PORT);
            let Some(port) = self.port(item, &place) else { continue };
            if !known.insert((port.protocol, port.outer)) {
                let (protocol, outer) = (port.protocol, port.outer);
                self.leave_out(&format!("{place} has {protocol} {outer} once more: left out"));
                continue;
            }
            ports.push(port);
        }
        if ports.is_empty() {
            self.leave_out("spec.ports has no port that can be served: the mapping is left out");
            return None;
        }
        Some(ports)
    }

    fn port(&mut self, item: &Value, place: &str) -> Option<Port> {
        let number = |value: &Value| {
            value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
        };
        let protocol = match &item["protocol"] {
            Value::Null => "TCP",
            Value::String(text) if text.eq_ignore_ascii_case("tcp") => "TCP",
            Value::String(text) if text.eq_ignore_ascii_case("udp") => "UDP",
            other => {
                self.leave_out(&format!(
                    "{place}.protocol {other} is neither tcp nor udp: left out"
                ));
                return None;
            }
        };
        let Some(outer) = number(&item["port"]) else {
            let text = match &item["port"] {
                Value::Null | Value::Number(_) if item["port"].as_u64().unwrap_or(0) == 0 => {
                    format!(
                        "{place} has no external port, and none is chosen here: write port, as partners know it"
                    )
                }
                other => format!(
                    "{place}.port {other} is no port from 1 to 65535: left out; a range is port with endPort in a PortMapping"
                ),
            };
            self.leave_out(&text);
            return None;
        };
        let inner = match &item["servicePort"] {
            Value::Null => outer,
            written => match number(written) {
                Some(port) => port,
                None => {
                    self.leave_out(&format!(
                        "{place}.servicePort {written} is no port from 1 to 65535: left out"
                    ));
                    return None;
                }
            },
        };
        Some(Port { outer, inner, protocol })
    }

    fn port_spec(&mut self, port: &Port, target: &Target<'_>, service: &str) -> PortSpec {
        let endpoints = target.endpoints(port.inner, port.protocol);
        if endpoints.is_empty() && target.service.is_some() {
            self.note(&format!(
                "Service {service} has no ready endpoint for {} {}",
                port.protocol, port.inner
            ));
        }
        PortSpec { port: port.outer, protocol: port.protocol, endpoints }
    }

    fn service(&self) -> String {
        self.spec("serviceName").as_str().unwrap_or("(none)").to_owned()
    }
}
