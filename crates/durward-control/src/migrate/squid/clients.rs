//! Who comes in, as tenants: those with an outgoing address of their own, and the rest by the lists that let them in.
//!
//! Deliberately absent: clients that are told apart by where they go.

use std::net::IpAddr;

use ipnet::IpNet;

use super::acl::{Acl, Acls};
use super::doors::Door;
use super::lines::Line;
use super::{Notes, SquidFault, SquidOptions};

/// Clients that become one tenant.
#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    pub(super) name: String,
    /// What they leave from.
    pub(super) egress: Vec<IpAddr>,
    /// Where they come from; empty means anywhere.
    pub(super) sources: Vec<IpNet>,
    /// The ports they come in by; `None` means all.
    pub(super) doors: Option<Vec<String>>,
    /// Whether they prove who they are.
    pub(super) credentials: bool,
}

impl Client {
    /// Whether they come in there.
    pub(super) fn uses(&self, door: &Door) -> bool {
        self.doors.as_ref().is_none_or(|doors| doors.iter().any(|name| door.is_called(name)))
    }

    fn is_same_set(&self, other: &Self) -> bool {
        self.sources == other.sources && self.doors == other.doors
    }

    /// Whether all of them are told by `other` too.
    fn is_within(&self, other: &Self) -> bool {
        let sources = other.sources.is_empty()
            || (!self.sources.is_empty() && covers(&other.sources, &self.sources));
        sources && (other.doors.is_none() || other.doors == self.doors)
    }
}

/// Whether each of `inner` lies in one of `outer`.
pub(super) fn covers(outer: &[IpNet], inner: &[IpNet]) -> bool {
    inner.iter().all(|inner| outer.iter().any(|outer| outer.contains(inner)))
}

/// Whether any of one touches any of the other.
pub(super) fn touches(one: &[IpNet], other: &[IpNet]) -> bool {
    one.iter().any(|one| other.iter().any(|other| one.contains(other) || other.contains(one)))
}

pub(super) fn read(
    lines: &[Line],
    acls: &Acls,
    doors: &[Door],
    options: &SquidOptions,
    notes: &mut Notes,
) -> Result<Vec<Client>, SquidFault> {
    let mut clients: Vec<Client> = Vec::new();
    let mut rest = options.egress.clone();
    for line in lines.iter().filter(|line| line.name() == "tcp_outgoing_address") {
        let Some((address, lists)) = line.arguments().split_first() else { continue };
        let Ok(address) = address.parse::<IpAddr>() else {
            notes.narrower(line, format!("{address} is no address: left out"));
            continue;
        };
        match select(lists, acls) {
            None => notes.narrower(
                line,
                "clients are told apart by where they come from and by the port they come in by, not by this: left out",
            ),
            Some(client) if client.sources.is_empty() && client.doors.is_none() => {
                rest.push(address);
            }
            Some(client) => match clients.iter_mut().find(|known| known.is_same_set(&client)) {
                Some(known) => known.egress.push(address),
                None => clients.push(Client { egress: vec![address], ..client }),
            },
        }
    }
    let others = let_in(lines, acls, &clients, notes);
    for other in others {
        if rest.is_empty() {
            return Err(SquidFault::NoEgress { clients: other.name });
        }
        clients.push(Client { egress: rest.clone(), ..other });
    }
    clients.retain(|client| doors.iter().any(|door| client.uses(door)));
    name_apart(&mut clients);
    if clients.is_empty() { Err(SquidFault::NoClient) } else { Ok(clients) }
}

/// Clients that `http_access allow` names and that are not yet among `known`.
fn let_in(lines: &[Line], acls: &Acls, known: &[Client], notes: &mut Notes) -> Vec<Client> {
    let mut others: Vec<Client> = Vec::new();
    let mut everybody = None;
    for line in lines.iter().filter(|line| line.name() == "http_access") {
        let Some((word, lists)) = line.arguments().split_first() else { continue };
        if word != "allow" {
            continue;
        }
        let about_clients: Vec<String> = lists
            .iter()
            .filter(|list| matches!(acls.get(&**list), Some(Acl::Sources(_) | Acl::Doors(_))))
            .cloned()
            .collect();
        let Some(client) = select(&about_clients, acls) else { continue };
        if is_loopback(&client) {
            notes.narrower(line, "programs on the host itself are no client: give them a tenant with its own address");
        } else if client.sources.is_empty() && client.doors.is_none() {
            everybody = Some(line);
        } else if !known.iter().chain(&others).any(|known| client.is_within(known)) {
            others.push(client);
        }
    }
    match everybody {
        Some(_) if known.is_empty() && others.is_empty() => {
            others.push(Client { name: "everybody".to_owned(), ..Client::default() });
        }
        Some(line) => notes.narrower(
            line,
            "it also lets in clients that no list names; only those that a list names are tenants",
        ),
        None => {}
    }
    others
}

fn is_loopback(client: &Client) -> bool {
    let loopback = |net: &IpNet| net.network().is_loopback();
    !client.sources.is_empty() && client.sources.iter().all(loopback)
}

/// The clients that all of the lists mean; `None` when some are about something else.
fn select(lists: &[String], acls: &Acls) -> Option<Client> {
    let mut client = Client { name: name(lists), ..Client::default() };
    for list in lists {
        match acls.get(list)? {
            Acl::All => {}
            Acl::Sources(nets) if client.sources.is_empty() => {
                client.sources.clone_from(nets);
                client.sources.sort();
                client.sources.dedup();
            }
            Acl::Doors(doors) if client.doors.is_none() => client.doors = Some(doors.clone()),
            _ => return None,
        }
    }
    Some(client)
}

/// A name that a document may have.
fn name(lists: &[String]) -> String {
    let joined = lists.join("-").to_ascii_lowercase();
    let plain = joined.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    let name: String = plain.take(60).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "everybody".to_owned() } else { name.to_owned() }
}

fn name_apart(clients: &mut [Client]) {
    for at in 1..clients.len() {
        let mut number = 2;
        while clients[..at].iter().any(|client| client.name == clients[at].name) {
            let name = clients[at].name.trim_end_matches(|c: char| c.is_ascii_digit());
            clients[at].name = format!("{}-{number}", name.trim_end_matches('-'));
            number += 1;
        }
    }
}
