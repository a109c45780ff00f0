//! Where clients come in: `http_port` and `https_port`.
//!
//! Deliberately absent: intercepted traffic and reverse proxying, which are not this.

use std::net::IpAddr;

use super::lines::Line;
use super::{Notes, SquidFault};

/// One port.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// What `myportname` calls it.
    pub(super) name: String,
    /// Chain and key, where it speaks TLS.
    pub(super) certificate: Option<(String, String)>,
}

impl Door {
    /// Whether `localport` or `myportname` with this value means it.
    pub(super) fn is_called(&self, value: &str) -> bool {
        self.name == value || self.port.to_string() == value
    }
}

pub(super) fn read(
    lines: &[Line],
    address: Option<IpAddr>,
    notes: &mut Notes,
) -> Result<Vec<Door>, SquidFault> {
    let mut doors = Vec::new();
    for line in lines.iter().filter(|line| matches!(line.name(), "http_port" | "https_port")) {
        let Some((place, options)) = line.arguments().split_first() else { continue };
        let other = ["intercept", "transparent", "tproxy", "accel", "ssl-bump"];
        if let Some(mode) = options.iter().find(|option| other.contains(&&***option)) {
            notes.narrower(
                line,
                format!("{place} is not for clients that know a proxy ({mode}): left out"),
            );
            continue;
        }
        let Some((written, port)) = split(place) else {
            notes.narrower(line, format!("{place} is no address and port: left out"));
            continue;
        };
        let Some(address) = written.or(address) else {
            return Err(SquidFault::NoAddress {
                file: line.file.clone(),
                line: line.number,
                door: place.clone(),
            });
        };
        let option = |names: [&str; 2]| {
            let mut values = options.iter().filter_map(|option| option.split_once('='));
            values.find(|(name, _)| names.contains(name)).map(|(_, value)| value.to_owned())
        };
        let certificate = option(["tls-cert", "cert"])
            .map(|chain| (chain.clone(), option(["tls-key", "key"]).unwrap_or(chain)));
        if line.name() == "https_port" && certificate.is_none() {
            notes.narrower(line, "a port with TLS needs a certificate: left out");
            continue;
        }
        let name = option(["name", "name"]).unwrap_or_else(|| place.clone());
        doors.push(Door { address, port, name, certificate });
    }
    if doors.is_empty() { Err(SquidFault::NoDoor) } else { Ok(doors) }
}

/// `3128`, `192.0.2.1:3128`, `[2001:db8::1]:3128`; a name in place of the address counts as none.
fn split(place: &str) -> Option<(Option<IpAddr>, u16)> {
    match place.rsplit_once(':') {
        None => Some((None, place.parse().ok()?)),
        Some((address, port)) => {
            let address = address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            let address = address.ok().filter(|address| !address.is_unspecified());
            Some((address, port.parse().ok()?))
        }
    }
}
