//! Tenants as documents, and the files that lie beside them: long lists of names, and users.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::access::Who;
use super::acl::{Acl, Acls};
use super::doors::Door;
use super::lines::Line;
use super::names::{Entry, NameSet};
use super::notes::Notes;
use super::rules::Written;
use super::tenants::Tenant;

/// Lists with more names than this are files beside the documents.
const INLINE: usize = 100;

/// A tenant with its rules.
pub(super) struct Translated {
    pub(super) tenant: Tenant,
    pub(super) rules: Vec<Written>,
}

/// Writes documents, and collects the files beside them.
pub(super) struct Writer<'a> {
    pub(super) lines: &'a [Line],
    pub(super) acls: &'a Acls,
    pub(super) doors: &'a [Door],
    pub(super) tenants: &'a [Translated],
    /// Settings that are the same for all.
    pub(super) general: Value,
    /// The users who have a password, where the file of passwords can be read.
    pub(super) passwords: Option<Passwords>,
    pub(super) files: Vec<(String, Vec<u8>)>,
    lists: Vec<(Arc<NameSet>, String)>,
    placeholders: u64,
}

/// The file that Squid's helper compares passwords with.
#[derive(Clone, Debug)]
pub(super) struct Passwords {
    pub(super) path: String,
    pub(super) users: Option<BTreeSet<String>>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        (lines, acls, doors): (&'a [Line], &'a Acls, &'a [Door]),
        tenants: &'a [Translated],
        general: Value,
        passwords: Option<Passwords>,
    ) -> Self {
        let (files, lists) = (Vec::new(), Vec::new());
        Self { lines, acls, doors, tenants, general, passwords, files, lists, placeholders: 0 }
    }

    /// The documents, each with the name its file should have.
    pub(super) fn documents(&mut self, notes: &mut Notes) -> Vec<(String, String)> {
        let tenants = self.tenants;
        let document = |translated: &Translated| {
            let egress = self.egress(translated, notes);
            let name = &translated.tenant.name;
            (name.clone(), text(name, &egress))
        };
        tenants.iter().map(document).collect()
    }

    fn egress(&mut self, translated: &Translated, notes: &mut Notes) -> Value {
        let Translated { tenant, rules } = translated;
        let mut egress = self.general.clone();
        egress["addresses"] = json!(tenant.egress);
        if tenant.egress.iter().any(|address| self.is_shared(*address)) {
            egress["shared"] = json!(true);
        }
        if tenant.users.is_some() {
            self.credentials(tenant, notes);
        }
        egress["proxy"] = self.proxies(tenant);
        let (allow, deny): (Vec<&Written>, Vec<&Written>) =
            rules.iter().partition(|rule| rule.allow);
        let allow: Vec<Value> = allow.into_iter().map(|rule| self.rule(rule)).collect();
        let deny: Vec<Value> = deny.into_iter().map(|rule| self.rule(rule)).collect();
        egress["allow"] = Value::Array(allow);
        if !deny.is_empty() {
            egress["deny"] = Value::Array(deny);
        }
        egress
    }

    /// Returns whether several tenants leave from the address or come in there.
    fn is_shared(&self, address: IpAddr) -> bool {
        let has = |one: &Tenant| {
            let mut doors = one.entries.iter().map(|(door, _)| self.doors[*door].address);
            one.egress.contains(&address) || doors.any(|door| door == address)
        };
        self.tenants.iter().filter(|known| has(&known.tenant)).count() > 1
    }

    fn proxies(&self, tenant: &Tenant) -> Value {
        let entry = |(at, sources): &(usize, Option<super::addresses::AddressSet>)| {
            let door = &self.doors[*at];
            let mut proxy = json!({"address": door.address, "port": door.port});
            if let Some(sources) = sources {
                proxy["allowedSources"] = json!(sources.nets());
            }
            if tenant.users.is_some() {
                proxy["credentials"] = json!({"file": format!("{}.credentials", tenant.name)});
            }
            if self.is_shared(door.address) {
                proxy["shared"] = json!(true);
            }
            proxy
        };
        Value::Array(tenant.entries.iter().map(entry).collect())
    }

    fn rule(&mut self, rule: &Written) -> Value {
        let line = &self.lines[rule.line];
        let file = line.file.rsplit('/').next().unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let file: String = file.chars().filter(|c| plain(*c)).take(50).collect();
        let mut value = json!({"name": format!("{file}-{}", line.number)});
        match &rule.names {
            Some(names) if names.entries().len() > INLINE => {
                value["hostsFile"] = json!(self.list(names));
            }
            Some(names) => {
                let written: Vec<String> = names.entries().iter().map(Entry::written).collect();
                value["hosts"] = json!(written);
            }
            None => {}
        }
        if let Some(blocks) = &rule.blocks {
            value["cidrs"] = json!(blocks);
        }
        let bare = rule.names.is_none() && rule.blocks.is_none() && rule.methods.is_none();
        if rule.allow || bare || !rule.ports.is_all() {
            value["ports"] = json!(rule.ports.words());
        }
        if let Some(methods) = &rule.methods {
            value["methods"] = json!(methods);
        }
        value
    }

    /// The file of a list of names; lists with the same names have the same file.
    fn list(&mut self, names: &Arc<NameSet>) -> String {
        let same = |known: &Arc<NameSet>| Arc::ptr_eq(known, names) || known == names;
        if let Some((_, file)) = self.lists.iter().find(|(known, _)| same(known)) {
            return file.clone();
        }
        let named = self.acls.iter().find(|acl| match &acl.acl {
            Acl::Names(known) => same(known),
            _ => false,
        });
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name = named.map_or("names", |acl| &acl.name).chars().map(plain).take(50);
        let name: String = name.collect();
        let mut file = format!("{name}.names");
        for number in 2.. {
            if !self.files.iter().any(|(known, _)| *known == file) {
                break;
            }
            file = format!("{name}-{number}.names");
        }
        let mut text = String::with_capacity(names.entries().len() * 24);
        for entry in names.entries() {
            text.push_str(&entry.written());
            text.push('\n');
        }
        self.files.push((file.clone(), text.into_bytes()));
        self.lists.push((Arc::clone(names), file.clone()));
        file
    }

    /// The file of a tenant's users. Squid's passwords cannot be turned into hashes, so each gets a hash that no secret has.
    fn credentials(&mut self, tenant: &Tenant, notes: &mut Notes) {
        let file = format!("{}.credentials", tenant.name);
        let line = &self.lines[tenant.profile.access.first_allow()];
        let (names, odd): (Vec<String>, Vec<String>) =
            self.users(tenant).into_iter().partition(|name| is_credential_name(name));
        let path = self.passwords.as_ref().map_or("Squid's passwords", |passwords| &passwords.path);
        let mut text = format!(
            "# Users of tenant {}, from {}:{}: NAME:HASH, the hash being the SHA-256 of a secret in hexadecimal.\n\
             # No SHA-256 can be made of {path}. Give each user a new secret that cannot be guessed, and put the output of\n\
             #   printf %s \"$secret\" | sha256sum\n\
             # in place of the zeros. Until then no secret fits and nobody is let in.\n",
            tenant.name, line.file, line.number
        );
        for name in &names {
            self.placeholders += 1;
            let _ = writeln!(text, "{name}:{:064x}", self.placeholders);
        }
        let unknown = tenant.users.as_ref().is_some_and(|users| users.contains(&Who::Other))
            && self.passwords.as_ref().is_none_or(|passwords| passwords.users.is_none());
        if unknown || names.is_empty() {
            self.placeholders += 1;
            let _ = writeln!(text, "# Write a line for each user of {path} in place of this one.");
            let _ = writeln!(text, "replace-me:{:064x}", self.placeholders);
        }
        if !odd.is_empty() {
            let text = format!(
                "{} cannot be the name of a credential: use letters, digits, '-', '_', '.' and '@'",
                odd.join(", ")
            );
            notes.narrower(line, text);
        }
        let users = match unknown {
            true => format!("write a line for each user of {path} into {file}"),
            false => format!("write the hash of a new secret for each user into {file}"),
        };
        notes.narrower(line, format!("users become credentials of tenant {}, but their passwords cannot be taken over: {users}", tenant.name));
        self.files.push((file, text.into_bytes()));
    }

    fn users(&self, tenant: &Tenant) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let named: BTreeSet<&String> = self.acls.iter().flat_map(named_users).collect();
        for user in tenant.users.iter().flatten() {
            match user {
                Who::Named(name) => drop(names.insert(name.clone())),
                Who::Other => {
                    let known = self.passwords.iter().filter_map(|known| known.users.as_ref());
                    let others = known.flatten().filter(|name| !named.contains(name));
                    names.extend(others.cloned());
                }
                Who::Unasked | Who::Anonymous => {}
            }
        }
        names
    }
}

fn named_users(acl: &super::acl::NamedAcl) -> impl Iterator<Item = &String> {
    let users = match &acl.acl {
        Acl::Users(users) => Some(&users.names),
        _ => None,
    };
    users.into_iter().flatten()
}

fn is_credential_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    (1..=63).contains(&name.len()) && name.bytes().all(plain)
}

fn text(name: &str, egress: &Value) -> String {
    let value = json!({
        "apiVersion": durward_control::spec::tenant::API_VERSION,
        "kind": durward_control::spec::tenant::KIND,
        "metadata": {"name": name},
        "spec": {"egress": egress},
    });
    serde_saphyr::to_string(&value).expect("texts, numbers and lists have a YAML form")
}
