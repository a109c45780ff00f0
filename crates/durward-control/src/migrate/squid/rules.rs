//! Where clients may go: the `http_access` lines that concern them, as rules that deny and rules that allow.
//!
//! Deliberately absent: order. Lines after one that decides about everything are not asked, as in Squid.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::Notes;
use super::acl::{Acl, Acls};
use super::clients::{Client, covers, touches};
use super::doors::Door;
use super::lines::Line;
use super::ports::Ports;

/// Methods other than CONNECT, where a rule is not for tunnels.
const PLAIN: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// A client's rules, as documents have them.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) allow: Vec<Value>,
    pub(super) deny: Vec<Value>,
}

/// The rules of `client`, who is found out to need credentials where a line that lets it in asks for them.
pub(super) fn of(
    client: &mut Client,
    lines: &[Line],
    acls: &Acls,
    doors: &[Door],
    notes: &mut Notes,
) -> Rules {
    let access: Vec<&Line> = lines.iter().filter(|line| line.name() == "http_access").collect();
    let mut writer = Writer { rules: Rules::default(), limit: None, notes };
    for line in &access {
        let Some((word, lists)) = line.arguments().split_first() else { continue };
        let view = View { client, acls, doors };
        let scope = view.scope(lists);
        if scope.fit == Fit::No {
            continue;
        }
        let allows = word == "allow";
        if allows && scope.users.is_some() {
            client.credentials = true;
        }
        let done = if allows { writer.allow(line, &scope) } else { writer.deny(line, &scope) };
        if done {
            return writer.rules;
        }
    }
    if let Some(last) = access.last().filter(|line| line.words.get(1).is_some_and(|w| w == "deny"))
    {
        let text =
            "Squid lets through what no line names when the last one denies; here it is denied";
        writer.notes.narrower(last, text);
    }
    writer.rules
}

/// Whether a line is about the client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    No,
    Partly,
    Yes,
}

/// What a line is about.
#[derive(Clone)]
struct Scope {
    fit: Fit,
    names: Option<Vec<String>>,
    blocks: Option<Vec<IpNet>>,
    /// Names and blocks the line is not about.
    other: Limit,
    /// The ports of tunnels.
    tunnel: Ports,
    /// The ports of plain requests.
    plain: Ports,
    methods: Option<Vec<String>>,
    users: Option<Vec<String>>,
    /// Lists that have no equal.
    lost: Vec<String>,
}

/// Names and blocks.
#[derive(Clone, Default)]
struct Limit {
    names: Option<Vec<String>>,
    blocks: Option<Vec<IpNet>>,
}

impl Limit {
    fn is_none(&self) -> bool {
        self.names.is_none() && self.blocks.is_none()
    }
}

struct View<'a> {
    client: &'a Client,
    acls: &'a Acls,
    doors: &'a [Door],
}

impl View<'_> {
    fn scope(&self, lists: &[String]) -> Scope {
        let mut scope = Scope {
            fit: Fit::Yes,
            names: None,
            blocks: None,
            other: Limit::default(),
            tunnel: Ports::all(),
            plain: Ports::all(),
            methods: None,
            users: None,
            lost: Vec::new(),
        };
        for word in lists.iter().take_while(|word| !word.starts_with('#')) {
            let (not, name) = word.strip_prefix('!').map_or((false, &**word), |name| (true, name));
            match self.acls.get(name) {
                Some(acl) => self.narrow(&mut scope, acl, not, word),
                None => scope.lost.push(word.clone()),
            }
        }
        scope
    }

    fn narrow(&self, scope: &mut Scope, acl: &Acl, not: bool, word: &str) {
        match acl {
            Acl::All if not => scope.fit = Fit::No,
            Acl::Nothing if !not => scope.fit = Fit::No,
            Acl::All | Acl::Nothing => {}
            Acl::Sources(nets) => scope.fit = scope.fit.min(negated(self.from(nets), not)),
            Acl::Doors(names) => scope.fit = scope.fit.min(negated(self.by(names), not)),
            Acl::Names(names) if not => add(&mut scope.other.names, names),
            Acl::Destinations(blocks) if not => add(&mut scope.other.blocks, blocks),
            Acl::Names(names) if scope.names.is_none() => scope.names = Some(names.clone()),
            Acl::Destinations(blocks) if scope.blocks.is_none() => {
                scope.blocks = Some(blocks.clone());
            }
            Acl::Ports(ports) => {
                let ports = if not { ports.complement() } else { ports.clone() };
                scope.tunnel = scope.tunnel.intersection(&ports);
                scope.plain = scope.plain.intersection(&ports);
            }
            Acl::Methods(methods) => scope.by_method(methods, not, word),
            Acl::Users(users) if !not => scope.users = Some(users.clone()),
            Acl::Names(_) | Acl::Destinations(_) | Acl::Users(_) | Acl::Unknown(_) => {
                scope.lost.push(word.to_owned());
            }
        }
    }

    fn from(&self, nets: &[IpNet]) -> Fit {
        let sources = &self.client.sources;
        if sources.is_empty() {
            let loopback = nets.iter().all(|net| net.network().is_loopback());
            return if loopback { Fit::No } else { Fit::Partly };
        }
        match (covers(nets, sources), touches(nets, sources)) {
            (true, _) => Fit::Yes,
            (false, true) => Fit::Partly,
            (false, false) => Fit::No,
        }
    }

    fn by(&self, names: &[String]) -> Fit {
        let used: Vec<&Door> = self.doors.iter().filter(|door| self.client.uses(door)).collect();
        let named = |door: &&&Door| names.iter().any(|name| door.is_called(name));
        match used.iter().filter(named).count() {
            0 => Fit::No,
            count if count == used.len() => Fit::Yes,
            _ => Fit::Partly,
        }
    }
}

fn negated(fit: Fit, not: bool) -> Fit {
    match fit {
        Fit::Yes if not => Fit::No,
        Fit::No if not => Fit::Yes,
        fit => fit,
    }
}

fn add<T: Clone>(all: &mut Option<Vec<T>>, more: &[T]) {
    all.get_or_insert_default().extend_from_slice(more);
}

impl Scope {
    fn by_method(&mut self, methods: &[String], not: bool, word: &str) {
        let (tunnels, plain): (Vec<&String>, Vec<&String>) =
            methods.iter().partition(|method| *method == "CONNECT");
        if tunnels.is_empty() != not {
            self.tunnel = Ports::default();
        }
        match (not, plain.is_empty()) {
            (false, true) => self.plain = Ports::default(),
            (false, false) if self.methods.is_none() => {
                self.methods = Some(plain.into_iter().cloned().collect());
            }
            (true, true) => {}
            _ => self.lost.push(word.to_owned()),
        }
    }

    fn is_everything(&self) -> bool {
        self.names.is_none()
            && self.blocks.is_none()
            && self.other.is_none()
            && self.methods.is_none()
            && self.tunnel.is_all()
            && self.plain.is_all()
    }

    /// The rules for it: one, or one for tunnels and one for plain requests.
    fn rules(&self, line: &Line, ports: impl Fn(&Ports) -> Option<Value>) -> Vec<Value> {
        let rule = |which: &Ports, methods: Option<Value>| {
            let file = line.file.rsplit('/').next().unwrap_or_default();
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let file: String = file.chars().filter(|c| plain(*c)).take(50).collect();
            let name = format!("{file}-{}", line.number);
            let mut rule = json!({"name": name});
            if let Some(names) = &self.names {
                rule["hosts"] = json!(names);
            }
            if let Some(blocks) = &self.blocks {
                rule["cidrs"] = json!(blocks);
            }
            if let Some(ports) = ports(which) {
                rule["ports"] = ports;
            }
            if let Some(methods) = methods {
                rule["methods"] = methods;
            }
            rule
        };
        if self.tunnel == self.plain && self.methods.is_none() {
            return if self.plain.is_empty() { Vec::new() } else { vec![rule(&self.plain, None)] };
        }
        let mut rules = Vec::new();
        if !self.tunnel.is_empty() {
            rules.push(rule(&self.tunnel, Some(json!(["CONNECT"]))));
        }
        if !self.plain.is_empty() {
            let methods = self.methods.as_ref().map_or_else(|| json!(PLAIN), |list| json!(list));
            rules.push(rule(&self.plain, Some(methods)));
        }
        rules
    }
}

struct Writer<'a> {
    rules: Rules,
    /// What lines like `deny !LIST` leave of what later ones allow.
    limit: Option<Limit>,
    notes: &'a mut Notes,
}

impl Writer<'_> {
    /// Adds what the line allows; whether it allowed everything.
    fn allow(&mut self, line: &Line, scope: &Scope) -> bool {
        if !scope.lost.is_empty() || !scope.other.is_none() {
            let lists = self.without_equal(scope);
            self.notes
                .narrower(line, format!("{lists} has no equal: what the line allows is denied"));
            return false;
        }
        if scope.fit == Fit::Partly {
            self.notes.narrower(
                line,
                "it is about some clients of a tenant only: what it allows is denied",
            );
            return false;
        }
        if let Some(users) = scope.users.as_ref().filter(|users| !users.is_empty()) {
            let users = users.join(", ");
            self.notes.wider(line, format!("every credential of the tenant may do what it allows to {users}: make them tenants"));
        }
        let limited = self.limited(scope);
        let everything = scope.is_everything() && self.limit.is_none();
        let nothing = limited.names.as_ref().is_some_and(Vec::is_empty)
            || limited.blocks.as_ref().is_some_and(Vec::is_empty);
        if nothing {
            self.notes.narrower(line, "nothing it allows is among what an earlier line leaves");
            return false;
        }
        self.rules.allow.extend(limited.rules(line, |ports| Some(json!(ports.words()))));
        if everything {
            let text = "addresses of this host, of private networks and of clouds' metadata stay closed: a rule with cidrs opens them";
            self.notes.narrower(line, text);
        }
        everything
    }

    fn limited(&self, scope: &Scope) -> Scope {
        let mut limited = scope.clone();
        let Some(limit) = &self.limit else { return limited };
        if let Some(allowed) = &limit.names {
            limited.names = Some(match &scope.names {
                None => allowed.clone(),
                Some(names) => {
                    names.iter().filter(|name| is_among(name, allowed)).cloned().collect()
                }
            });
        }
        if let Some(allowed) = &limit.blocks {
            let within = |block: &&IpNet| covers(allowed, std::slice::from_ref(*block));
            limited.blocks = Some(match &scope.blocks {
                None => allowed.clone(),
                Some(blocks) => blocks.iter().filter(within).copied().collect(),
            });
        }
        limited
    }

    /// Adds what the line denies; whether it denied everything.
    fn deny(&mut self, line: &Line, scope: &Scope) -> bool {
        if !scope.lost.is_empty() || scope.users.is_some() {
            let lists = self.without_equal(scope);
            self.notes.wider(
                line,
                format!("{lists} has no equal: what the line denies may be let through"),
            );
            return false;
        }
        if !scope.other.is_none() {
            return self.leave(line, scope);
        }
        if scope.is_everything() && scope.fit == Fit::Yes {
            return true;
        }
        if scope.fit == Fit::Partly {
            self.notes
                .narrower(line, "it is about some clients of a tenant; all of them are denied");
        }
        if !self.rules.allow.is_empty() {
            self.notes
                .narrower(line, "it comes after lines that allow; here it counts before them");
        }
        let bare = scope.names.is_none() && scope.blocks.is_none();
        let ports = |ports: &Ports| (bare || !ports.is_all()).then(|| json!(ports.words()));
        self.rules.deny.extend(scope.rules(line, ports));
        false
    }

    /// `deny !LIST`: later lines allow what is in the list only.
    fn leave(&mut self, line: &Line, scope: &Scope) -> bool {
        let bare = Scope { other: Limit::default(), ..scope.clone() };
        let both = scope.other.names.is_some() && scope.other.blocks.is_some();
        if !bare.is_everything() || both || self.limit.is_some() {
            let lists = self.without_equal(scope);
            self.notes.wider(
                line,
                format!("{lists} has no equal here: what the line denies may be let through"),
            );
            return false;
        }
        if scope.fit == Fit::Partly {
            self.notes
                .narrower(line, "it is about some clients of a tenant; all of them are denied");
        }
        self.limit = Some(scope.other.clone());
        false
    }

    fn without_equal(&self, scope: &Scope) -> String {
        if scope.lost.is_empty() { "the combination".to_owned() } else { scope.lost.join(" ") }
    }
}

/// Whether a name, or all below `.name`, is in the list.
fn is_among(name: &str, list: &[String]) -> bool {
    list.iter().any(|entry| {
        entry == name
            || entry.strip_prefix('.').is_some_and(|suffix| {
                let bare = name.trim_start_matches('.');
                bare == suffix || bare.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
            })
    })
}
