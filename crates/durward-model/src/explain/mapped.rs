//! Explains packets that reach no listener: those of a mapping, egress traffic of a tenant, or of no tenant.
//!
//! Deliberately absent: which endpoint a hash picks; the kernel knows.

use std::net::IpAddr;

use super::{Ending, Kind, Question, Trail, list};
use crate::mapping::{Affinity, KernelEgress, MappedPort, NatModel, PortMapping, SourceMode};
use crate::snapshot::Snapshot;
use crate::transport::Transport;

impl Trail {
    /// Explains how the kernel plane treats the packet; `None` if the kernel plane does not handle it.
    pub(super) fn mapped(&mut self, snapshot: &Snapshot, question: &Question) -> Option<Ending> {
        let model = &snapshot.nat;
        if let Some((mapping, port)) = find(model, question) {
            return Some(self.mapping(mapping, port, question));
        }
        let client = question.client?;
        let rule = model.egress.iter().find(|rule| holds(rule, client))?;
        Some(self.leaving(snapshot, rule, (client, question)))
    }

    fn mapping(&mut self, mapping: &PortMapping, port: &MappedPort, question: &Question) -> Ending {
        let origin = Some(&mapping.origin);
        let destination = question.destination;
        let name = &mapping.name;
        self.belongs_to(&mapping.tenant);
        self.kind = Kind::PortMapping;
        self.target = Some(name.to_string());
        self.note(
            "mapping",
            origin,
            format!("{destination} {} is {name} of tenant {}", port.protocol, mapping.tenant),
        );
        let sources = &mapping.allowed_sources;
        match question.client.map(|client| (client, sources.matching(client))) {
            Some((client, None)) => {
                let blocks = list(sources.blocks());
                let sentence =
                    format!("{client} is in none of {blocks}: dropped without an answer");
                return self.refuse("source", origin, "denied", sentence);
            }
            Some((client, Some(block))) => {
                self.note("source", origin, format!("{client} is in {block}"));
            }
            None => {
                let blocks = list(sources.blocks());
                let sentence = format!("only from {blocks}; name a client to have it checked");
                self.note("source", origin, sentence);
            }
        }
        let endpoints = port.endpoints(destination.is_ipv4());
        if endpoints.is_empty() {
            let sentence = "there is none of this family: refused at once".to_owned();
            return self.refuse("endpoint", origin, "no_endpoint", sentence);
        }
        let endpoints: Vec<String> = endpoints
            .iter()
            .map(|(address, port)| {
                let port = port.unwrap_or_else(|| destination.port());
                std::net::SocketAddr::new(*address, port).to_string()
            })
            .collect();
        let by = match mapping.affinity {
            Affinity::None => "the client's address and port",
            Affinity::ClientIp => "the client's address",
        };
        let chosen = if endpoints.len() > 1 { format!(", by {by}") } else { String::new() };
        let checked = if mapping.health_check.is_some() && port.protocol == Transport::Tcp {
            ", but those whose checks fail"
        } else {
            ""
        };
        self.note("endpoint", origin, format!("{}{checked}{chosen}", list(&endpoints)));
        let seen = match mapping.mode {
            SourceMode::PreserveSource => "the client",
            SourceMode::Snat => "this host's address towards the cluster",
        };
        self.note("seen as", origin, seen.to_owned());
        Ending::Served { upstream: name.clone() }
    }

    fn leaving(
        &mut self,
        snapshot: &Snapshot,
        rule: &KernelEgress,
        (client, question): (IpAddr, &Question),
    ) -> Ending {
        let origin = Some(&rule.origin);
        self.belongs_to(&rule.tenant);
        self.kind = Kind::KernelEgress;
        let block = rule.sources.iter().find(|block| block.contains(&client));
        let block = block.map(ToString::to_string).unwrap_or_default();
        self.note("egress", origin, format!("{client} is in {block} of tenant {}", rule.tenant));
        let of_family: Vec<String> = rule
            .addresses
            .iter()
            .filter(|range| range.first().is_ipv4() == client.is_ipv4())
            .map(ToString::to_string)
            .collect();
        if of_family.is_empty() {
            let sentence = "the tenant has no address of this family: refused".to_owned();
            return self.refuse("leaves from", origin, "unenrolled", sentence);
        }
        if let Some(ending) = self.taken_over(snapshot, rule, question) {
            return ending;
        }
        self.note("leaves from", origin, list(&of_family));
        self.leaves_from = of_family;
        Ending::Served { upstream: rule.name.clone() }
    }
}

fn holds(rule: &KernelEgress, client: IpAddr) -> bool {
    rule.sources.iter().any(|block| block.contains(&client))
}

fn find<'m>(model: &'m NatModel, question: &Question) -> Option<(&'m PortMapping, &'m MappedPort)> {
    let (address, number) = (question.destination.ip(), question.destination.port());
    model.mappings.iter().find_map(|mapping| {
        if !mapping.addresses.iter().any(|one| one.0 == address) {
            return None;
        }
        let fits =
            |port: &&MappedPort| port.protocol == question.transport && port.ports.contains(number);
        mapping.ports.iter().find(fits).map(|port| (&**mapping, port))
    })
}
