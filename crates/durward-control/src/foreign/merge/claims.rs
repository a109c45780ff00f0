//! Which rule of which Ingress gets a host and path.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Notes;
use crate::foreign::asked::{Asked, Host, IngressId, PathRule, Rule, SecretRef};
use crate::foreign::finding::Effect;

/// A rule with its Ingress.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) asked: &'a Asked,
    pub(super) rule: &'a Rule,
    /// The canary that gets a part of the requests.
    pub(super) canary: Option<(&'a Asked, &'a Rule)>,
}

/// Decisions for all Ingresses of a tenant.
pub(super) struct Claims<'a> {
    /// Rules for requests, in order of precedence.
    pub(super) rules: Vec<Claim<'a>>,
    /// Rules whose hosts are carried through by name.
    pub(super) passed: Vec<Claim<'a>>,
    /// Certificates of hosts, from the oldest Ingress on.
    pub(super) certificates: Vec<(&'a Asked, &'a SecretRef, &'a str)>,
    covered: Covered<'a>,
}

impl Claims<'_> {
    /// Returns whether a rule's host is served by TLS.
    pub(super) fn is_tls(&self, claim: &Claim<'_>) -> bool {
        self.covered.has(claim.asked, &claim.rule.host)
    }
}

/// Which entries of `spec.tls` make hosts ones that are served by TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsEntries {
    /// Those with a Secret: there is no other certificate.
    WithSecret,
    /// All: the listener may have a certificate of its own.
    All,
}

/// Hosts that are served by TLS. Looked up, not searched: a tenant may write thousands of both.
#[derive(Default)]
struct Covered<'a> {
    hosts: HashSet<&'a Host>,
    /// Ingresses with such an entry, and those with one that is for all of their hosts.
    some: HashSet<&'a IngressId>,
    all: HashSet<&'a IngressId>,
}

impl<'a> Covered<'a> {
    fn add(&mut self, asked: &'a Asked, hosts: &'a [Host]) {
        self.some.insert(&asked.id);
        if hosts.is_empty() {
            self.all.insert(&asked.id);
        }
        self.hosts.extend(hosts);
    }

    fn has(&self, asked: &Asked, host: &Host) -> bool {
        let is_listed = match host {
            Host::Any => return self.some.contains(&asked.id),
            Host::Wildcard(_) => self.hosts.contains(host),
            Host::Exact(_) => {
                let is_below = || host.parent().is_some_and(|parent| self.hosts.contains(&parent));
                self.hosts.contains(host) || is_below()
            }
        };
        is_listed || self.all.contains(&asked.id)
    }
}

type Key<'a> = (&'a Host, &'a PathRule);

/// Decides who gets each host and path; `asked` and `canaries` are in order of age.
pub(super) fn decide<'a>(
    asked: &[&'a Asked],
    canaries: &[&'a Asked],
    (entries, notes): (TlsEntries, &mut Notes),
) -> Claims<'a> {
    let passed = passed(asked, notes);
    let passed_hosts: BTreeSet<&Host> = passed.iter().map(|claim| &claim.rule.host).collect();
    let mut holders: BTreeMap<Key<'a>, Claim<'a>> = BTreeMap::new();
    let rules_of = |fallback: bool| {
        let of = move |asked: &&'a Asked| {
            let asked = *asked;
            let rules = asked.rules.iter().filter(move |rule| rule.is_fallback == fallback);
            rules.map(move |rule| Claim { asked, rule, canary: None })
        };
        asked.iter().filter(|asked| !asked.settings.passthrough).flat_map(of)
    };
    for claim in rules_of(false).chain(rules_of(true)) {
        if passed_hosts.contains(&claim.rule.host) {
            let sentence = "is for a host whose TLS another Ingress has carried through unopened: it is served by plain HTTP only as a redirect";
            notes.add(
                &claim.asked.id,
                (Effect::Refused, "HostPassedThrough"),
                &*claim.rule.field,
                sentence,
            );
            continue;
        }
        let key = (&claim.rule.host, &claim.rule.path);
        if let Some(holder) = holders.get(&key) {
            say_taken(&claim, holder, notes);
        } else {
            holders.insert(key, claim);
        }
    }
    for canary in canaries {
        give_part(canary, &mut holders, notes);
    }
    let mut rules: Vec<Claim<'a>> = holders.into_values().collect();
    rules.sort_by_cached_key(|claim| claim.rule.precedence());
    let (mut certificates, mut covered) = (Vec::new(), Covered::default());
    for asked in asked.iter().chain(canaries) {
        for tls in &asked.tls {
            certificates.extend(tls.secret.as_ref().map(|secret| (*asked, secret, &*tls.field)));
            if tls.secret.is_some() || entries == TlsEntries::All {
                covered.add(asked, &tls.hosts);
            }
        }
    }
    Claims { rules, passed, certificates, covered }
}

/// One rule per host: nothing but the name is seen of TLS that is carried through.
fn passed<'a>(asked: &[&'a Asked], notes: &mut Notes) -> Vec<Claim<'a>> {
    let mut holders: BTreeMap<&Host, Claim<'a>> = BTreeMap::new();
    for asked in asked.iter().filter(|asked| asked.settings.passthrough) {
        for rule in &asked.rules {
            let claim = Claim { asked, rule, canary: None };
            if rule.host == Host::Any {
                let sentence =
                    "has no host, by which TLS that is not opened could be told apart: write one";
                notes.add(&asked.id, (Effect::Refused, "HostMissing"), &*rule.field, sentence);
            } else if let Some(holder) = holders.get(&rule.host) {
                say_taken(&claim, holder, notes);
            } else {
                if rule.path != PathRule::Prefix("".into()) {
                    let sentence = "has a path, which nobody sees of TLS that is not opened: every path goes there";
                    notes.add(&asked.id, (Effect::Otherwise, "PathUnseen"), &*rule.field, sentence);
                }
                holders.insert(&rule.host, claim);
            }
        }
    }
    holders.into_values().collect()
}

fn say_taken(claim: &Claim<'_>, holder: &Claim<'_>, notes: &mut Notes) {
    // A default backend after a rule is no surprise and needs no finding.
    if claim.rule.is_fallback && !holder.rule.is_fallback {
        return;
    }
    let whose = if holder.asked.id == claim.asked.id {
        "this Ingress has it once more, written before".to_owned()
    } else {
        format!("Ingress {} has it, which is older", holder.asked.id)
    };
    let sentence = format!("is for {} {}: {whose}", claim.rule.host, claim.rule.path);
    notes.add(&claim.asked.id, (Effect::Refused, "PathTaken"), &*claim.rule.field, sentence);
}

/// Gives a canary its part of the rules with the same hosts and paths.
fn give_part<'a>(canary: &'a Asked, holders: &mut BTreeMap<Key<'a>, Claim<'a>>, notes: &mut Notes) {
    for rule in canary.rules.iter().filter(|rule| !rule.is_fallback) {
        let sentence = match holders.get_mut(&(&rule.host, &rule.path)) {
            Some(claim) if claim.canary.is_none() => {
                claim.canary = Some((canary, rule));
                continue;
            }
            Some(claim) => {
                let first = claim.canary.map(|(first, _)| first.id.to_string()).unwrap_or_default();
                format!("is a canary of a rule that has one already, Ingress {first}")
            }
            None => "is a canary, and no other Ingress has its host and path".to_owned(),
        };
        notes.add(&canary.id, (Effect::Refused, "Canary"), &*rule.field, sentence);
    }
}
