//! `durward tenant passport`: what a tenant's partners have to know of it: the addresses its connections come from, where it is reached, and its certificates.
//!
//! Private keys, routes and upstreams are not shown: they are the tenant's own.

use std::collections::BTreeSet;
use std::net::IpAddr;

use durward_model::client_auth::ClientAuth;
use durward_model::listener::Service;
use durward_model::mapping::PortMapping;
use durward_model::{Certificate, Listener, Snapshot, Tenant, TenantId};
use serde::Serialize;

use crate::cli::{Passport as Arguments, TenantCommand, TenantWhat};
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen, Table, plain};
use crate::{inspect, live};

/// Facts that partners of a tenant need.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Passport {
    tenant: String,
    /// Addresses that its connections to partners come from.
    egress_addresses: Vec<String>,
    /// Addresses and ports at which partners reach it.
    doors: Vec<Door>,
    certificates: Vec<Identity>,
}

/// An address and port.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Door {
    address: IpAddr,
    /// A port, or a range.
    port: String,
    protocol: String,
    /// Names that clients have to ask for; empty if any will do.
    names: Vec<String>,
    /// Client certificate requirement: `no`, `optional` or `required`.
    client_certificate: &'static str,
    /// Subjects of the authorities that issue those.
    client_authorities: Vec<String>,
    /// Networks that may connect; absent if all may.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_sources: Option<Vec<String>>,
}

/// A certificate that the tenant shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    /// `server` at its doors, `client` towards partners.
    role: &'static str,
    subject: String,
    issuer: String,
    names: Vec<String>,
    key: String,
    not_before: String,
    not_after: String,
    /// SHA-256 of the certificate in lower-case hexadecimal.
    sha256: String,
}

/// Runs the command.
pub(crate) fn tenant(arguments: &TenantCommand) -> Result<Exit, Failure> {
    match &arguments.what {
        TenantWhat::Passport(arguments) => passport(arguments),
    }
}

fn passport(arguments: &Arguments) -> Result<Exit, Failure> {
    let loaded = live::load(&arguments.config, &arguments.live)?;
    let id = TenantId::new(&arguments.name);
    let tenant = id.ok().and_then(|id| loaded.snapshot.tenants.get(&id).cloned());
    let Some(tenant) = tenant else {
        let known = loaded.snapshot.tenants.keys().map(ToString::to_string);
        let known: Vec<String> = known.take(10).collect();
        let others = match known.is_empty() {
            true => "none is served".to_owned(),
            false => format!("served are {}", known.join(", ")),
        };
        let name = &arguments.name;
        let message = format!("no tenant {name:?} is served: {others}; see durward validate");
        return Err(Failure::InvalidConfig { message });
    };
    let passport = Passport::of(&tenant, &loaded.snapshot);
    let mut screen = Screen::stdout();
    match arguments.output.format {
        format @ (Format::Json | Format::Yaml) => screen.value(&passport, format)?,
        Format::Table | Format::Wide => passport.print(&mut screen)?,
    }
    Ok(Exit::Ok)
}

impl Passport {
    fn of(tenant: &Tenant, snapshot: &Snapshot) -> Self {
        let rules = snapshot.nat.egress.iter().filter(|rule| rule.tenant == tenant.id);
        let by_kernel = rules.flat_map(|rule| rule.addresses.iter().map(ToString::to_string));
        let egress = tenant.egress.iter().map(|address| address.0.to_string()).chain(by_kernel);
        let mut known = BTreeSet::new();
        let egress_addresses = egress.filter(|address| known.insert(address.clone())).collect();
        let mapped = snapshot.nat.mappings.iter().filter(|one| one.tenant == tenant.id);
        let doors = tenant.listeners.iter().map(|listener| Door::of_listener(listener));
        let doors = doors.chain(mapped.flat_map(|mapping| Door::of_mapping(mapping)));
        let shown = tenant.listeners.iter().filter_map(|listener| listener.tls());
        let servers = shown.flat_map(|tls| &tls.certificates);
        let towards = tenant.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref());
        let clients = towards.filter_map(|tls| tls.client_certificate.as_ref());
        let identities = servers
            .map(|certificate| Identity::of("server", certificate))
            .chain(clients.map(|certificate| Identity::of("client", certificate)));
        let mut seen = BTreeSet::new();
        let certificates =
            identities.filter(|one| seen.insert((one.role, one.sha256.clone()))).collect();
        Self {
            tenant: tenant.id.to_string(),
            egress_addresses,
            doors: doors.collect(),
            certificates,
        }
    }

    fn print(&self, screen: &mut Screen) -> Result<(), Failure> {
        let dash = |text: &str| plain(if text.is_empty() { "-" } else { text });
        screen.line(format!("tenant {}", self.tenant))?;
        screen.line("\nits connections come from")?;
        for address in &self.egress_addresses {
            screen.line(format!("  {address}"))?;
        }
        if self.egress_addresses.is_empty() {
            screen.line("  nowhere: it has no egress address")?;
        }
        screen.line("\nit is reached at")?;
        let mut doors =
            Table::new(&["ADDRESS", "PORT", "PROTOCOL", "NAMES", "CLIENT CERTIFICATE", "FROM"]);
        for door in &self.doors {
            let from = door.allowed_sources.as_ref().map(|sources| sources.join(","));
            doors.row(vec![
                plain(door.address),
                plain(&door.port),
                plain(&door.protocol),
                dash(&door.names.join(",")),
                plain(door.client_certificate),
                plain(from.unwrap_or_else(|| "anywhere".to_owned())),
            ]);
        }
        doors.print(screen)?;
        screen.line("\nit shows these certificates")?;
        let mut certificates =
            Table::new(&["ROLE", "NAMES", "SUBJECT", "ISSUER", "KEY", "ENDS", "SHA-256"]);
        for one in &self.certificates {
            certificates.row(vec![
                plain(one.role),
                dash(&one.names.join(",")),
                dash(&one.subject),
                dash(&one.issuer),
                plain(&one.key),
                plain(&one.not_after),
                plain(&one.sha256),
            ]);
        }
        certificates.print(screen)
    }
}

impl Door {
    fn of_listener(listener: &Listener) -> Self {
        let (client_certificate, trust) = match listener.tls().map(|tls| &tls.client_auth) {
            None | Some(ClientAuth::Off) => ("no", None),
            Some(ClientAuth::Optional(trust)) => ("optional", Some(trust)),
            Some(ClientAuth::Required(trust)) => ("required", Some(trust)),
        };
        let subjects = trust.into_iter().flat_map(|trust| trust.subjects.iter());
        let names = listener.names.iter().flat_map(|names| names.iter());
        Self {
            address: listener.address.0,
            port: listener.port.to_string(),
            protocol: String::from(match (&listener.service, listener.tls().is_some()) {
                (Service::Http(_), true) => "HTTPS",
                (Service::Http(_), false) => "HTTP",
                (Service::PassThrough(_), _) => "TLS",
                (Service::Tcp(_), true) => "TCP+TLS",
                (Service::Tcp(_), false) => "TCP",
                (Service::Udp(_), _) => "UDP",
                (Service::Forward(_), _) => "forward proxy",
                (Service::Link(_), _) => "LINK",
            }),
            names: names.map(ToString::to_string).collect(),
            client_certificate,
            client_authorities: subjects.map(ToString::to_string).collect(),
            allowed_sources: listener
                .allowed_sources
                .as_ref()
                .map(|sources| sources.blocks().iter().map(ToString::to_string).collect()),
        }
    }

    fn of_mapping(mapping: &PortMapping) -> Vec<Self> {
        let sources: Vec<String> =
            mapping.allowed_sources.blocks().iter().map(ToString::to_string).collect();
        let everybody = sources.iter().any(|source| source.ends_with("/0"));
        let all = mapping.addresses.iter();
        let all = all.flat_map(|address| mapping.ports.iter().map(move |port| (address, port)));
        let doors = all.map(|(address, port)| Self {
            address: address.0,
            port: port.ports.to_string(),
            protocol: port.protocol.to_string().to_uppercase(),
            names: Vec::new(),
            client_certificate: "no",
            client_authorities: Vec::new(),
            allowed_sources: (!everybody).then(|| sources.clone()),
        });
        doors.collect()
    }
}

impl Identity {
    fn of(role: &'static str, certificate: &Certificate) -> Self {
        let facts = certificate.chain.first().and_then(|leaf| inspect::facts(leaf).ok());
        Self {
            role,
            subject: certificate.subject.to_string(),
            issuer: certificate.issuer.to_string(),
            names: facts.map(|facts| facts.names).unwrap_or_default(),
            key: certificate.key_type.to_string(),
            not_before: inspect::date(certificate.not_before),
            not_after: inspect::date(certificate.not_after),
            sha256: certificate.fingerprint.to_string(),
        }
    }
}
