//! A port of a Service, where a document would list endpoints.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::place::At;

/// A port of a Service; the endpoints are its ready pods, as they come and go.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    /// The Service's name.
    pub name: At<String>,
    /// Name or number of one of its ports. `53/UDP` is the one of that protocol, where several have the number.
    pub port: At<ServicePortSpec>,
    /// Namespace of the Service. Default: the one in which the document looks names up. Another one needs a `ReferenceGrant` there.
    #[serde(default)]
    pub namespace: Option<At<String>>,
}

/// Name or number of a port of a Service, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePortSpec(pub String);

impl Serialize for ServicePortSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.parse::<u16>() {
            Ok(number) => serializer.serialize_u16(number),
            Err(_) => serializer.serialize_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for ServicePortSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortVisitor)
    }
}

struct PortVisitor;

impl Visitor<'_> for PortVisitor {
    type Value = ServicePortSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port of a Service, like http or 80")
    }

    fn visit_u64<E: Error>(self, port: u64) -> Result<ServicePortSpec, E> {
        Ok(ServicePortSpec(port.to_string()))
    }

    fn visit_i64<E: Error>(self, port: i64) -> Result<ServicePortSpec, E> {
        Ok(ServicePortSpec(port.to_string()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ServicePortSpec, E> {
        Ok(ServicePortSpec(text.to_owned()))
    }
}

impl JsonSchema for ServicePortSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ServicePortSpec".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Name or number of a port of a Service.",
            "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 65535 }, { "type": "string" }]
        })
    }
}

impl ServicePortSpec {
    /// Returns whether it can be the name or number of a port, with a protocol or without.
    #[must_use]
    pub fn is_port(&self) -> bool {
        let named = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let (port, protocol) = with_protocol(&self.0);
        let is_protocol = protocol.is_none_or(|protocol| PROTOCOLS.contains(&protocol));
        (1..=15).contains(&port.len()) && port.bytes().all(named) && is_protocol
    }
}

/// Protocols that a port of a Service may have.
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// Splits the name or number of a port from the protocol, as in `53/UDP`.
#[must_use]
pub fn with_protocol(port: &str) -> (&str, Option<&str>) {
    match port.split_once('/') {
        Some((port, protocol)) => (port, Some(protocol)),
        None => (port, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_a_name_or_number_and_at_most_one_known_protocol() {
        for (written, is_port) in [
            ("http", true),
            ("80", true),
            ("53/UDP", true),
            ("dns/TCP", true),
            ("", false),
            ("/UDP", false),
            ("53/", false),
            ("53/udp", false),
            ("53/UDP/TCP", false),
            ("53/../x", false),
        ] {
            assert_eq!(ServicePortSpec(written.to_owned()).is_port(), is_port, "{written}");
        }
    }
}
