//! A squid.conf as tenants with a forward proxy: who comes in, where they may go, which address they leave from.
//!
//! The documents are compiled and compared with Squid's lines before they are handed out: a difference is a note with file and line. A request
//! that Squid sends from another address than the tenant's is denied, never sent from the tenant's.

mod access;
mod acl;
mod addresses;
mod directives;
mod document;
mod doors;
mod fault;
mod kinds;
mod lines;
mod names;
mod notes;
mod options;
mod ports;
mod rules;
mod tenants;
mod verify;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Effect, Migrated, Note};
use access::Rule;
use acl::{Acl, Acls};
use directives::Class;
use document::{Passwords, Translated, Writer};
use lines::{Line, Reader};
use notes::Notes;
use tenants::{Clients, Tenant};
use verify::Comparison;

pub use fault::SquidFault;
pub use options::{SquidFiles, SquidOptions};

/// The documents for the squid.conf `text`, which is called `file`.
///
/// # Errors
/// When something is missing without which no tenant can be written.
pub fn migrate(
    file: &str,
    text: &str,
    options: &SquidOptions,
    files: &dyn SquidFiles,
) -> Result<Migrated, SquidFault> {
    let mut notes = Notes::default();
    let lines = Reader::new(files).lines(file, text, 0)?;
    let mut acls = acl::read(&lines, &mut notes);
    let doors = doors::read(&lines, &acls, &options.addresses, &mut notes)?;
    let rules = access::rules(&lines, &mut acls);
    let outgoing = access::outgoing(&lines, &mut acls, &mut notes);
    let clients = Clients {
        lines: &lines,
        acls: &acls,
        doors: &doors,
        rules: &rules,
        outgoing: &outgoing,
        options,
    };
    let tenants = clients.tenants(&mut notes)?;
    if tenants.is_empty() && !notes.has(Effect::OtherAddress) {
        return Err(SquidFault::NoClient);
    }
    let tenants: Vec<Translated> =
        tenants.into_iter().map(|tenant| translate(tenant, &clients)).collect();
    let general = general(&lines, &acls, &mut notes);
    let passwords = passwords(&lines, files, &mut notes);
    let mut writer = Writer::new((&lines, &acls, &doors), &tenants, general, passwords);
    let documents = writer.documents(&mut notes);
    let beside = writer.files;
    let compiled = super::compiled(&documents, &beside);
    let comparison = Comparison {
        lines: &lines,
        acls: &acls,
        doors: &doors,
        compiled: &compiled,
        uses_v6: uses_v6(&lines, &acls, options),
    };
    if let Some(fault) = comparison.fault(&tenants) {
        return Err(fault);
    }
    comparison.compare(&tenants, &mut notes);
    for line in &lines {
        directives::report(line, &mut notes);
    }
    let left_out = left_out(&lines);
    Ok(Migrated { documents, files: beside, notes: notes.in_order(&lines), left_out })
}

/// The rules of a tenant; what Squid sends from another address is denied first.
fn translate(tenant: Tenant, clients: &Clients<'_>) -> Translated {
    let closed = clients.elsewhere(&tenant.profile).map(|line| {
        let known = |test: &&access::Test| !tenants::is_unknown(clients.acls, test.acl);
        let tests = line.tests.iter().filter(known).copied().collect();
        Rule { allow: false, line: line.line, tests }
    });
    let closed: Vec<Rule> = closed.collect();
    let rules = rules::of(&tenant.profile, &closed, clients.acls);
    Translated { tenant, rules }
}

/// Returns whether IPv6 is named anywhere, also by a line that matches no request.
fn uses_v6(lines: &[Line], acls: &Acls, options: &SquidOptions) -> bool {
    let mut sets = acls.iter().filter(|acl| acl.kind == "src" || acl.kind == "dst");
    let named = sets.any(|acl| match &acl.acl {
        Acl::Destinations(networks) | Acl::Sources(networks) => {
            networks.set.has_v6() && !acl.name.starts_with("to_") && acl.name != "localhost"
        }
        _ => false,
    });
    let leaves_by = |line: &Line| {
        line.name() == "tcp_outgoing_address"
            && line.arguments().first().is_some_and(|address| address.contains(':'))
    };
    named || lines.iter().any(leaves_by) || options.egress.iter().any(IpAddr::is_ipv6)
}

/// The file that holds users' passwords, where Squid's helper names one.
fn passwords(lines: &[Line], files: &dyn SquidFiles, notes: &mut Notes) -> Option<Passwords> {
    let mut found = None;
    for line in lines.iter().filter(|line| line.name() == "auth_param") {
        let [scheme, key, values @ ..] = line.arguments() else { continue };
        if scheme != "basic" {
            let text = format!(
                "{scheme} has no equal: clients show credentials as Basic, as Bearer or by SOCKS"
            );
            notes.narrower(line, text);
            continue;
        }
        let Some(path) = values.get(1..).and_then(<[String]>::last).filter(|_| key == "program")
        else {
            continue;
        };
        let user = |line: &str| Some(line.split_once(':')?.0.trim().to_owned());
        let read = files.read(path);
        if let Err(why) = &read {
            notes.elsewhere(
                line,
                format!("{path} cannot be read, so its users are not known: {why}"),
            );
        }
        let users = read.ok().map(|text| text.lines().filter_map(user).collect());
        found = Some(Passwords { path: path.clone(), users });
    }
    found
}

/// Translates the settings that are the same for all clients.
fn general(lines: &[Line], acls: &Acls, notes: &mut Notes) -> Value {
    let mut egress = json!({});
    let mut parents: Vec<(&Line, Value)> = Vec::new();
    for line in lines {
        match (line.name(), line.arguments()) {
            ("dns_nameservers", servers) => egress["resolvers"] = json!(servers),
            ("cache_mgr", [contact, ..]) => egress["contact"] = json!(contact),
            ("cache_peer", [host, kind, port, _, options @ ..]) if kind == "parent" => {
                parents.push((line, json!({"address": format!("{host}:{port}")})));
                if options.iter().any(|option| option.starts_with("login=")) {
                    notes.narrower(
                        line,
                        "put NAME:SECRET into a file and name it in the parent's credentialFile",
                    );
                }
                if options.iter().any(|option| matches!(&**option, "tls" | "ssl")) {
                    notes.narrower(
                        line,
                        "a parent is spoken to without TLS: reach it over a network you trust",
                    );
                }
            }
            ("cache_peer", _) => {
                notes.narrower(line, "only parents are asked; siblings have caches");
            }
            _ => {}
        }
    }
    say_of_parents(lines, acls, &parents, notes);
    if !parents.is_empty() {
        egress["parents"] = parents.into_iter().map(|(_, parent)| parent).collect();
    }
    egress
}

/// Through a parent, the destination sees the parent's address: here all traffic goes through the first parent, in Squid the choice depends on more.
fn say_of_parents(lines: &[Line], acls: &Acls, parents: &[(&Line, Value)], notes: &mut Notes) {
    let is_all = |line: &Line| match line.arguments() {
        [word, lists @ ..] => {
            let all =
                |list: &String| acls.find(list).is_some_and(|acl| acls.at(acl).acl == Acl::All);
            word == "allow" && lists.iter().all(all)
        }
        [] => false,
    };
    let never = lines.iter().find(|line| line.name() == "never_direct");
    let Some((first, _)) = parents.first() else {
        if let Some(line) =
            never.filter(|line| line.arguments().first().is_some_and(|w| w == "allow"))
        {
            notes.wider(line, "without a parent Squid refuses what it must not send directly; here it is sent directly");
        }
        return;
    };
    if !never.is_some_and(is_all) {
        notes.other_address(first, "Squid sends tunnels directly, from its own address, unless never_direct allows all; here everything goes through the parent");
    }
    for (line, _) in parents.iter().skip(1) {
        notes.other_address(line, "Squid chooses among parents; here everything goes through the first one that is for the name: write hosts");
    }
    for line in lines.iter().filter(|line| directives::PARENTS.contains(&line.name())) {
        if line.name() != "never_direct"
            && !matches!(line.name(), "prefer_direct" | "hierarchy_stoplist")
        {
            let text = format!(
                "{} chooses which names go through a parent: write them as the parent's hosts",
                line.name()
            );
            notes.other_address(line, text);
        }
    }
}

/// One note per directive without a say in who may go where, at its first line.
fn left_out(lines: &[Line]) -> Vec<Note> {
    let mut by_name: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    for line in lines.iter().filter(|line| directives::class(line.name()) == Class::Harmless) {
        by_name.entry(line.name()).or_default().push(line);
    }
    let mut notes = Notes::default();
    for (name, of_name) in by_name {
        let [first, more @ ..] = &*of_name else { continue };
        let more: Vec<String> = more.iter().map(|line| place(first, line)).collect();
        let also = match &*more {
            [] => String::new(),
            [one] => format!("; so is line {one}"),
            more => format!("; so are lines {}", more.join(", ")),
        };
        let text = format!("{name} is left out: it does not decide who may go where{also}");
        notes.elsewhere(first, text);
    }
    notes.in_order(lines)
}

/// The line's number, with its file where that is not the file of `beside`.
fn place(beside: &Line, line: &Line) -> String {
    let Line { file, number, .. } = line;
    if *file == beside.file { number.to_string() } else { format!("{file}:{number}") }
}
