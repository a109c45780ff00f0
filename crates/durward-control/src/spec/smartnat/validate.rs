//! Repeats SmartNat's own validation of a `Mapping`, in its order and its words. Claims of others are settled by `compile`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{MappingPort, MappingSpec, network};

/// Longest name of a Service that SmartNat's definition allows.
const LONGEST_SERVICE: usize = 62;

/// Checks a `Mapping` by itself.
///
/// # Errors
/// Fails with the text for `status.invalid`.
pub(super) fn validate(spec: &MappingSpec, most_ports: usize) -> Result<(), String> {
    service(&spec.service_name)?;
    if spec.addresses.is_empty() {
        return Err("No address in SmartNat.Spec.Addresses.".to_owned());
    }
    if let Some(bad) = spec.addresses.iter().find(|address| address.parse::<IpAddr>().is_err()) {
        return Err(format!("Invalid address in SmartNat.Spec.Addresses: {bad}"));
    }
    if let Some(bad) = spec.allowed_sources.iter().find(|source| network(source).is_none()) {
        return Err(format!("Invalid CIDR in SmartNat.Spec.AllowedSources: {bad}"));
    }
    if !spec.mode.eq_ignore_ascii_case("service") {
        return Err(format!("Invalid mode '{}' specified. Valid is 'service'.", spec.mode));
    }
    ports(&spec.ports, most_ports)
}

fn service(name: &str) -> Result<(), String> {
    let fault = |why: &str| Err(format!("Invalid service name format in SmartNat.Spec. {why}"));
    if name.len() > LONGEST_SERVICE {
        return fault("must be no more than 62 characters");
    }
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = name.bytes().all(inner)
        && name.starts_with(|letter: char| letter.is_ascii_lowercase())
        && !name.ends_with('-');
    if is_label {
        return Ok(());
    }
    fault(
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
    )
}

fn ports(ports: &[MappingPort], most: usize) -> Result<(), String> {
    if ports.is_empty() {
        return Err("No port in SmartNat.Spec.Ports.".to_owned());
    }
    let mut known = BTreeSet::new();
    for port in ports {
        let is_port = |number: i64| (1..=65_535).contains(&number);
        if !is_port(port.port) {
            let text = "Wrong port value in SmartNat.Spec.Ports. Can't be <=0 or >65535.";
            return Err(text.to_owned());
        }
        if !is_port(port.service_port()) {
            let text = "Wrong servicePort value in SmartNat.Spec.Ports. Can't be <=0 or >65535.";
            return Err(text.to_owned());
        }
        let protocol = port.protocol();
        if !matches!(&*protocol, "tcp" | "udp") {
            return Err(format!(
                "Wrong protocol value in SmartNat.Spec.Ports. Only 'Tcp' and 'Udp' are supported. Found: {}",
                port.protocol
            ));
        }
        let key = format!("{protocol}-{}", port.port);
        if !known.insert(key.clone()) {
            return Err(format!(
                "Wrong value in SmartNat.Spec.Ports. Port '{key}' is used multiple times"
            ));
        }
    }
    if ports.len() > most {
        let found = ports.len();
        return Err(format!("Too many ports configured. Max is {most}, found {found}"));
    }
    Ok(())
}
