//! A squid.conf as tenants with a forward proxy: who comes in, where they may go, which address they leave from.
//!
//! Squid asks its lines in order; here what is denied is denied, whatever else allows it. Where that makes a difference, or a list has no
//! equal, a note says so. Deliberately absent: caching, reverse proxying and interception.

mod acl;
mod clients;
mod doors;
mod lines;
mod ports;
mod rules;

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use thiserror::Error;

use super::{Effect, Migrated, Note};
use clients::Client;
use doors::Door;
use lines::{Line, Reader};
use rules::Rules;

/// What a squid.conf may leave open.
#[derive(Clone, Debug, Default)]
pub struct SquidOptions {
    /// The address clients know, where `http_port` names none.
    pub address: Option<IpAddr>,
    /// The addresses of clients for which no `tcp_outgoing_address` is there.
    pub egress: Vec<IpAddr>,
}

/// Why there are no documents.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SquidFault {
    /// No `http_port`, or none of use.
    #[error("there is no http_port or https_port that clients could be configured with")]
    NoDoor,
    /// `http_port 3128`.
    #[error(
        "{file}:{line}: {door} is a port of every address: say with --address which one clients know"
    )]
    NoAddress {
        /// The file.
        file: Arc<str>,
        /// The line.
        line: usize,
        /// What is written.
        door: String,
    },
    /// Clients that would leave from whatever address the host has.
    #[error(
        "clients {clients} leave from an address that no tcp_outgoing_address names: say with --egress-address which one"
    )]
    NoEgress {
        /// Their name.
        clients: String,
    },
    /// Nobody is let in.
    #[error("no http_access line lets anybody in")]
    NoClient,
}

/// The documents for the squid.conf `text`, which is called `file`. `open` gives the text of the files it names.
///
/// # Errors
/// When something is missing without which no tenant can be written.
pub fn migrate(
    file: &str,
    text: &str,
    options: &SquidOptions,
    open: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Migrated, SquidFault> {
    let mut notes = Notes::default();
    let lines = Reader { open, notes: &mut notes }.lines(file, text, 0);
    let acls = acl::read(&lines, &mut notes);
    let doors = doors::read(&lines, options.address, &mut notes)?;
    let mut clients = clients::read(&lines, &acls, &doors, options, &mut notes)?;
    let general = general(&lines, &mut notes);
    let rules: Vec<Rules> = clients
        .iter_mut()
        .map(|client| rules::of(client, &lines, &acls, &doors, &mut notes))
        .collect();
    let all = All { clients: &clients, doors: &doors };
    let documents = clients.iter().zip(rules).map(|(client, rules)| {
        let egress = all.egress(client, rules, general.clone());
        (client.name.clone(), document(&client.name, &egress))
    });
    let documents = documents.collect();
    for line in &lines {
        say_rest(line, &mut notes);
    }
    say_left_out(&lines, &mut notes);
    Ok(Migrated { documents, notes: notes.in_order(&lines) })
}

fn document(name: &str, egress: &Value) -> String {
    let value = json!({
        "apiVersion": crate::spec::tenant::API_VERSION,
        "kind": crate::spec::tenant::KIND,
        "metadata": {"name": name},
        "spec": {"egress": egress},
    });
    // A tree of strings, numbers and lists has a YAML form.
    serde_saphyr::to_string(&value).unwrap_or_default()
}

/// What is the same for all clients.
fn general(lines: &[Line], notes: &mut Notes) -> Value {
    let mut egress = json!({});
    let mut parents = Vec::new();
    for line in lines {
        match (line.name(), line.arguments()) {
            ("dns_nameservers", servers) => egress["resolvers"] = json!(servers),
            ("cache_mgr", [contact, ..]) => egress["contact"] = json!(contact),
            ("cache_peer", [host, kind, port, _, options @ ..]) if kind == "parent" => {
                parents.push(json!({"address": format!("{host}:{port}")}));
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
                notes.narrower(line, "only parents are asked; siblings have caches")
            }
            ("cache_peer_access", _) => {
                notes.narrower(line, "write the parent's names as its hosts");
            }
            _ => {}
        }
    }
    if !parents.is_empty() {
        egress["parents"] = Value::Array(parents);
    }
    egress
}

/// All clients, and where they come in: what several have in common they must say they share.
struct All<'a> {
    clients: &'a [Client],
    doors: &'a [Door],
}

impl All<'_> {
    fn egress(&self, client: &Client, rules: Rules, mut egress: Value) -> Value {
        egress["addresses"] = json!(client.egress);
        egress["proxy"] = self.proxies(client);
        egress["allow"] = Value::Array(rules.allow);
        if !rules.deny.is_empty() {
            egress["deny"] = Value::Array(rules.deny);
        }
        if client
            .egress
            .iter()
            .any(|address| self.is_shared(|other| other.egress.contains(address)))
        {
            egress["shared"] = json!(true);
        }
        egress
    }

    fn is_shared(&self, has: impl Fn(&Client) -> bool) -> bool {
        self.clients.iter().filter(|client| has(client)).count() > 1
    }

    fn proxies(&self, client: &Client) -> Value {
        let used = self.doors.iter().filter(|door| client.uses(door));
        let proxies = used.map(|door| {
            let mut proxy = json!({"address": door.address, "port": door.port});
            if !client.sources.is_empty() {
                proxy["allowedSources"] = json!(client.sources);
            }
            if let Some((chain, key)) = &door.certificate {
                proxy["certificate"] = json!({"certificateFile": chain, "keyFile": key});
            }
            if client.credentials {
                proxy["credentials"] = json!({"file": format!("{}.credentials", client.name)});
            }
            let at_address = |other: &Client| {
                let mut doors = self.doors.iter().filter(|one| one.address == door.address);
                doors.any(|one| other.uses(one))
            };
            if self.is_shared(at_address) {
                proxy["shared"] = json!(true);
            }
            proxy
        });
        Value::Array(proxies.collect())
    }
}

/// Directives that say nothing about who may go where.
const WITHOUT_EFFECT: &[&str] = &[
    "cache",
    "cache_dir",
    "cache_mem",
    "cache_log",
    "cache_effective_user",
    "cache_effective_group",
    "coredump_dir",
    "refresh_pattern",
    "maximum_object_size",
    "maximum_object_size_in_memory",
    "minimum_object_size",
    "pid_filename",
    "shutdown_lifetime",
    "visible_hostname",
    "unique_hostname",
    "hierarchy_stoplist",
    "dns_v4_first",
    "forwarded_for",
    "via",
    "request_header_access",
    "reply_header_access",
    "httpd_suppress_version_string",
    "error_directory",
    "error_default_language",
    "max_filedesc",
    "max_filedescriptors",
    "workers",
    "client_db",
    "half_closed_clients",
    "quick_abort_min",
    "quick_abort_max",
    "memory_pools",
    "logfile_rotate",
    "buffered_logs",
    "strip_query_terms",
    "positive_dns_ttl",
    "negative_dns_ttl",
    "ipcache_size",
    "fqdncache_size",
    "icp_port",
    "htcp_port",
    "icp_access",
    "snmp_port",
    "cache_replacement_policy",
    "memory_replacement_policy",
    "pipeline_prefetch",
    "log_mime_hdrs",
    "never_direct",
    "always_direct",
    "connect_retries",
    "cache_access_log",
    "cache_store_log",
];

/// Directives that were looked at.
const READ: &[&str] = &[
    "acl",
    "http_port",
    "https_port",
    "http_access",
    "tcp_outgoing_address",
    "dns_nameservers",
    "cache_mgr",
    "cache_peer",
    "cache_peer_access",
    "include",
];

fn say_rest(line: &Line, notes: &mut Notes) {
    let name = line.name();
    if READ.contains(&name) || WITHOUT_EFFECT.contains(&name) {
        return;
    }
    match name {
        "access_log" | "logformat" => {
            notes.elsewhere(line, "every request and tunnel is recorded; where, says the command line of run");
        }
        "auth_param" => notes.narrower(
            line,
            "passwords cannot be taken over, only hashes of new secrets: NAME:HASH lines in the file that credentials names",
        ),
        "connect_timeout" | "read_timeout" | "request_timeout" | "client_lifetime"
        | "pconn_timeout" | "persistent_request_timeout" | "request_body_max_size"
        | "request_header_max_size" | "client_request_buffer_max_size" => {
            notes.elsewhere(line, format!("{name} is a limit of the tenant: spec.limits"));
        }
        "delay_pools" | "delay_class" | "delay_access" | "delay_parameters" => {
            notes.wider(line, "bandwidth is a limit of the tenant: spec.limits");
        }
        "http_reply_access" | "adapted_http_access" | "http_access2" | "reply_body_max_size"
        | "url_rewrite_program" | "url_rewrite_access" | "icap_enable" | "ssl_bump"
        | "external_acl_type" | "deny_info" => {
            notes.wider(line, format!("{name} has no equal: nothing looks into answers or asks other programs"));
        }
        _ => notes.wider(line, format!("{name} is not known here")),
    }
}

/// One note per directive that has no effect here, at its first line.
fn say_left_out(lines: &[Line], notes: &mut Notes) {
    for name in WITHOUT_EFFECT {
        let mut of_name = lines.iter().filter(|line| line.name() == *name);
        let Some(first) = of_name.next() else { continue };
        let more: Vec<String> = of_name.map(|line| place(first, line)).collect();
        let also = match &*more {
            [] => String::new(),
            [one] => format!("; so is line {one}"),
            more => format!("; so are lines {}", more.join(", ")),
        };
        notes.elsewhere(
            first,
            format!("{name} is left out: it says nothing about who may go where{also}"),
        );
    }
}

/// The line's number, with its file where that is not the file of `beside`.
fn place(beside: &Line, line: &Line) -> String {
    let Line { file, number, .. } = line;
    if *file == beside.file { number.to_string() } else { format!("{file}:{number}") }
}

/// Notes as they come.
#[derive(Debug, Default)]
struct Notes(Vec<Note>);

impl Notes {
    fn wider(&mut self, line: &Line, text: impl Into<String>) {
        self.add(line, Effect::Wider, text.into());
    }

    fn narrower(&mut self, line: &Line, text: impl Into<String>) {
        self.add(line, Effect::Narrower, text.into());
    }

    fn elsewhere(&mut self, line: &Line, text: impl Into<String>) {
        self.add(line, Effect::Elsewhere, text.into());
    }

    /// What is true for several clients is said once.
    fn add(&mut self, line: &Line, effect: Effect, text: String) {
        let note = Note { file: Arc::clone(&line.file), line: line.number, effect, text };
        if !self.0.contains(&note) {
            self.0.push(note);
        }
    }

    fn in_order(mut self, lines: &[Line]) -> Vec<Note> {
        let place = |note: &Note| {
            let same = |line: &Line| line.file == note.file && line.number == note.line;
            lines.iter().position(same).unwrap_or(lines.len())
        };
        self.0.sort_by_key(|note| (place(note), note.effect));
        self.0
    }
}
