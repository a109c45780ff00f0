//! Ingresses of a cluster as our documents: what they ask for, with the endpoints as they are now, and a note for each difference.
//!
//! Objects are given as text, as `kubectl get ingress,service,endpointslice,secret -A -o yaml` writes it. No key is read out of a Secret; the
//! documents name files, and a note says where each Secret's belong.

mod document;
mod lookup;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use durward_control::foreign::asked::{Asked, Host, IngressId};
use durward_control::foreign::{self, Merged, Place, Surroundings, extract, merge};
use durward_model::verdict::Severity;
use thiserror::Error;

use super::{Effect, Migrated, Note};
use lookup::Cluster;
use read::{Found, Kinds};

/// Options for what the objects leave open.
#[derive(Clone, Debug)]
pub struct IngressOptions {
    /// The address clients connect to.
    pub address: IpAddr,
    /// The address of TLS that is carried through unopened, where both are wanted.
    pub passthrough: Option<IpAddr>,
    /// Addresses that connections to endpoints leave from.
    pub egress: Vec<IpAddr>,
    /// The tenant of all namespaces; `None` makes a tenant of each.
    pub tenant: Option<String>,
    /// The class to take; `None` takes all.
    pub class: Option<String>,
}

/// Reason why no documents could be produced.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IngressFault {
    /// A text is neither YAML nor JSON.
    #[error("{0}")]
    Unreadable(String),
    /// No Ingress, or none of the class.
    #[error("there is no Ingress {of} among the objects")]
    NoIngress {
        /// `of class "x"`, or of which API.
        of: String,
    },
    /// Connections to endpoints would leave from whatever address the host has.
    #[error("no address to leave from is named: say with --egress-address which one")]
    NoEgress,
}

/// An Ingress with its place in the texts.
struct Taken {
    asked: Asked,
    file: Arc<str>,
    line: u32,
}

/// Returns documents for the Ingresses in `texts`, each a name and a text.
///
/// # Errors
/// When a text cannot be read, there is no Ingress in them, or an option is missing.
pub fn migrate(
    texts: &[(String, String)],
    options: &IngressOptions,
) -> Result<Migrated, IngressFault> {
    if options.egress.is_empty() {
        return Err(IngressFault::NoEgress);
    }
    let mut notes = Vec::new();
    let kinds = read::kinds(texts, &mut notes).map_err(IngressFault::Unreadable)?;
    let mut taken = taken(&kinds, options);
    if taken.is_empty() {
        let of = match &options.class {
            Some(class) => format!("of class {class:?}"),
            None => "of networking.k8s.io/v1".to_owned(),
        };
        return Err(IngressFault::NoIngress { of });
    }
    for one in &taken {
        let findings = one.asked.findings.iter();
        notes
            .extend(findings.map(|finding| one.note(effect(finding.effect), &finding.to_string())));
    }
    let tenant_of =
        |asked: &Asked| options.tenant.clone().unwrap_or_else(|| asked.id.namespace.to_string());
    let tenants: BTreeSet<String> = taken.iter().map(|one| tenant_of(&one.asked)).collect();
    let is_shared = tenants.len() > 1;
    if is_shared {
        one_tenant_per_host(&mut taken, &tenant_of, &mut notes);
    }
    let place = Place { address: options.address, passthrough: options.passthrough, is_shared };
    let mut documents = Vec::new();
    for tenant in tenants {
        let of_tenant: Vec<&Taken> =
            taken.iter().filter(|one| tenant_of(&one.asked) == tenant).collect();
        let cluster = Cluster::new(&kinds, &options.egress);
        let asked: Vec<Asked> = of_tenant.iter().map(|one| one.asked.clone()).collect();
        let merged = merge(&asked, &place, &cluster);
        notes.extend(of_merge(&merged, &of_tenant));
        notes.extend(of_secrets(&cluster, of_tenant[0]));
        let text = document::tenant(&tenant, &merged, &options.egress, is_shared);
        documents.push((tenant, text));
    }
    notes.extend(not_accepted(&documents));
    notes.dedup();
    Ok(Migrated { documents, files: Vec::new(), notes, left_out: Vec::new() })
}

fn taken(kinds: &Kinds, options: &IngressOptions) -> Vec<Taken> {
    let service = |namespace: &str, name: &str| kinds.service(namespace, name);
    let middleware = |namespace: &str, name: &str| kinds.middleware(namespace, name);
    let around =
        Surroundings { classes: &kinds.classes, service: &service, middleware: &middleware };
    let read = kinds.ingresses.iter().map(|Found { object, file, line }| Taken {
        asked: extract(object, around),
        file: Arc::clone(file),
        line: *line,
    });
    let is_wanted = |one: &Taken| match &options.class {
        Some(class) => one.asked.class.as_deref() == Some(&**class),
        None => true,
    };
    read.filter(is_wanted).collect()
}

impl Taken {
    fn note(&self, effect: Effect, text: &str) -> Note {
        let text = printable(&format!("{}: {text}", self.asked.id));
        Note { file: Arc::clone(&self.file), line: self.line as usize, effect, text }
    }

    fn age(&self) -> (bool, Option<&str>, &IngressId) {
        let created = self.asked.created.as_deref();
        (created.is_none(), created, &self.asked.id)
    }
}

/// Escapes what a terminal would act on; names are as the files have them.
fn printable(text: &str) -> String {
    let is_plain = |c: char| matches!(c, '"' | '\'' | '\\') || c.escape_debug().count() == 1;
    let escaped = |c: char| if is_plain(c) { c.to_string() } else { c.escape_debug().to_string() };
    text.chars().map(escaped).collect()
}

fn effect(effect: foreign::Effect) -> Effect {
    match effect {
        foreign::Effect::Weaker => Effect::Wider,
        foreign::Effect::Refused => Effect::Narrower,
        foreign::Effect::Otherwise | foreign::Effect::Noted => Effect::Elsewhere,
    }
}

/// A name at a shared address has one tenant: the oldest Ingress decides which, and rules of others for it are left out.
fn one_tenant_per_host(
    taken: &mut [Taken],
    tenant_of: &dyn Fn(&Asked) -> String,
    notes: &mut Vec<Note>,
) {
    let mut owners: BTreeMap<Host, (String, IngressId)> = BTreeMap::new();
    let mut by_age: Vec<&Taken> = taken.iter().collect();
    by_age.sort_by(|a, b| a.age().cmp(&b.age()));
    for one in by_age {
        for rule in &one.asked.rules {
            let owner = || (tenant_of(&one.asked), one.asked.id.clone());
            owners.entry(rule.host.clone()).or_insert_with(owner);
        }
    }
    for one in taken {
        let tenant = tenant_of(&one.asked);
        let rules = std::mem::take(&mut one.asked.rules);
        let (own, foreign): (Vec<_>, Vec<_>) =
            rules.into_iter().partition(|rule| owners[&rule.host].0 == tenant);
        let mut hosts: Vec<&Host> = foreign.iter().map(|rule| &rule.host).collect();
        hosts.dedup();
        for host in hosts {
            let (owner, first) = &owners[host];
            let text = format!(
                "{host} is served for tenant {owner} by the older Ingress {first}, and a name has one tenant at a shared address: make both one tenant with --tenant"
            );
            notes.push(one.note(Effect::Narrower, &text));
        }
        one.asked.rules = own;
    }
}

fn of_merge<'a>(merged: &'a Merged, taken: &'a [&Taken]) -> impl Iterator<Item = Note> + 'a {
    merged.findings.iter().filter_map(|(id, finding)| {
        let one = taken.iter().find(|one| one.asked.id == *id)?;
        Some(one.note(effect(finding.effect), &finding.to_string()))
    })
}

/// One note per Secret: where its files belong, and how to get them.
fn of_secrets(cluster: &Cluster<'_>, first: &Taken) -> Vec<Note> {
    let notes = cluster.used().into_iter().map(|(secret, files)| {
        let files: Vec<String> =
            files.iter().map(|(key, file)| format!("its {key} to {file}")).collect();
        let missing = if cluster.has_secret(&secret) {
            ""
        } else {
            " (it is not among the objects)"
        };
        let text = format!(
            "Secret {secret}{missing}: write {} beside the document, as kubectl get secret -n {} {} -o yaml has them in base64",
            files.join(" and "),
            secret.namespace,
            secret.name
        );
        Note {
            file: Arc::clone(&first.file),
            line: first.line as usize,
            effect: Effect::Elsewhere,
            text,
        }
    });
    notes.collect()
}

/// Returns the reasons why documents are not accepted, beyond files that are still to be written.
fn not_accepted(documents: &[(String, String)]) -> Vec<Note> {
    let of_files = |field: &str| ["ertificate", "caFile"].iter().any(|part| field.contains(part));
    let compiled = super::compiled(documents, &[]);
    let findings = compiled.verdicts.findings();
    let errors = findings
        .filter(|(_, finding)| finding.severity == Severity::Error && !of_files(&finding.field));
    let notes = errors.map(|(verdict, finding)| {
        let text =
            format!("the document of tenant {} is not accepted: {finding}", verdict.resource.name);
        let file = finding.origin.file().cloned().unwrap_or_default();
        Note { file, line: finding.origin.line() as usize, effect: Effect::Narrower, text }
    });
    notes.collect()
}
