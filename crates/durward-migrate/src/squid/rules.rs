//! Rules without order for `http_access` lines that have one.
//!
//! Ports and methods are taken apart first, so that for each part only names and networks are left. There a line that denies becomes a `deny`
//! rule, or is taken out of the lines that allow after it where an earlier one already allowed some of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::access::{Rule, Test};
use super::acl::{Acl, Acls};
use super::addresses::AddressSet;
use super::names::NameSet;
use super::ports::Ports;
use super::tenants::{Profile, is_unknown};

/// Methods that a rule names where it is not for tunnels: those of RFC 9110 and WebDAV.
pub(super) const PLAIN: &[&str] = &[
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
];
/// Stands for every method that nothing names.
const OTHERS: &str = "";
/// Most alternatives of what lines like `deny !LIST` leave.
const LIMITS: usize = 16;

/// A rule for a document.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) allow: bool,
    pub(super) names: Option<Arc<NameSet>>,
    pub(super) blocks: Option<Vec<IpNet>>,
    pub(super) ports: Ports,
    /// `None` means all.
    pub(super) methods: Option<Vec<String>>,
    pub(super) line: usize,
}

/// The rules of a tenant. `closed` are requests that would leave from another address.
pub(super) fn of(profile: &Profile, closed: &[Rule], acls: &Acls) -> Vec<Written> {
    let mut rules = closed.to_vec();
    rules.extend(profile.access.rules.iter().cloned());
    let last = (profile.access.last, profile.access.last_line);
    let methods = methods(&rules, acls);
    let groups = by_destination(&rules, last, &methods, acls);
    let groups: Vec<(Vec<HostRule>, Parts)> = groups
        .into_iter()
        .map(|(list, parts)| (Translation::of(&list, acls), parts))
        .filter(|(rules, _)| rules.iter().any(|rule| rule.allow))
        .collect();
    let alone = groups.len() == 1;
    let mut written = Vec::new();
    for (rules, parts) in groups {
        for rule in rules {
            // What no other part allows is denied there anyway.
            if alone && !rule.allow {
                written.push(rule.written(Ports::all(), None));
                continue;
            }
            written.extend(
                parts
                    .rectangles(&methods)
                    .into_iter()
                    .map(|(ports, methods)| rule.written(ports, methods)),
            );
        }
    }
    written
}

/// The methods that rules tell apart.
fn methods(rules: &[Rule], acls: &Acls) -> Vec<String> {
    let mut methods: Vec<String> = vec!["CONNECT".to_owned()];
    methods.extend(PLAIN.iter().map(|method| (*method).to_owned()));
    for test in rules.iter().flat_map(|rule| &rule.tests) {
        let Acl::Methods(named) = &acls.at(test.acl).acl else { continue };
        for method in named {
            let token = method.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if token && !methods.contains(method) {
                methods.push(method.clone());
            }
        }
    }
    methods.push(OTHERS.to_owned());
    methods
}

/// Remaining rules for one method and port, and the default for the rest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct HostList {
    rules: Vec<Rule>,
    last: bool,
    last_line: usize,
}

/// The ports of each method, by its place.
#[derive(Clone, Debug, Default)]
struct Parts(BTreeMap<usize, Ports>);

impl Parts {
    fn add(&mut self, method: usize, ports: &Ports) {
        let known = self.0.entry(method).or_default();
        *known = known.union(ports);
    }

    /// Methods with the same ports, together.
    fn rectangles(&self, methods: &[String]) -> Vec<(Ports, Option<Vec<String>>)> {
        let mut by_ports: BTreeMap<&Ports, Vec<usize>> = BTreeMap::new();
        for (method, ports) in &self.0 {
            by_ports.entry(ports).or_default().push(*method);
        }
        let rectangle = |(ports, of): (&Ports, Vec<usize>)| {
            let names = of.iter().map(|method| methods[*method].clone());
            let names: Vec<String> = names.filter(|name| name != OTHERS).collect();
            let all = of.len() == methods.len();
            (all || !names.is_empty()).then(|| (ports.clone(), (!all).then_some(names)))
        };
        by_ports.into_iter().filter_map(rectangle).collect()
    }
}

fn by_destination(
    rules: &[Rule],
    last: (bool, usize),
    methods: &[String],
    acls: &Acls,
) -> BTreeMap<HostList, Parts> {
    let mut edges = BTreeSet::from([1u16]);
    for test in rules.iter().flat_map(|rule| &rule.tests) {
        if let Acl::Ports(ports) = &acls.at(test.acl).acl {
            edges.extend(ports.edges());
        }
    }
    let starts: Vec<u16> = edges.into_iter().collect();
    let mut groups: BTreeMap<HostList, Parts> = BTreeMap::new();
    for (at, from) in starts.iter().enumerate() {
        let to = starts.get(at + 1).map_or(u16::MAX, |next| next - 1);
        for (number, method) in methods.iter().enumerate() {
            let list = host_list(rules, last, (method, *from), acls);
            groups.entry(list).or_default().add(number, &Ports::range(*from, to));
        }
    }
    groups
}

fn host_list(
    rules: &[Rule],
    (last, last_line): (bool, usize),
    (method, port): (&str, u16),
    acls: &Acls,
) -> HostList {
    let mut list = HostList { rules: Vec::new(), last, last_line };
    for rule in rules {
        let mut left = Rule { tests: Vec::new(), ..rule.clone() };
        let matches = rule.tests.iter().all(|test| match &acls.at(test.acl).acl {
            Acl::Ports(ports) => ports.has(port) != test.not,
            Acl::Methods(named) => named.iter().any(|known| known == method) != test.not,
            _ => {
                left.tests.push(*test);
                true
            }
        });
        if !matches {
            continue;
        }
        if left.tests.is_empty() {
            (list.last, list.last_line) = (left.allow, left.line);
            break;
        }
        list.rules.push(left);
    }
    while list.rules.last().is_some_and(|rule| rule.allow == list.last) {
        list.rules.pop();
    }
    list
}

/// A rule about names and networks alone.
#[derive(Clone, Debug)]
struct HostRule {
    allow: bool,
    region: Region,
    line: usize,
}

impl HostRule {
    fn written(&self, ports: Ports, methods: Option<Vec<String>>) -> Written {
        Written {
            allow: self.allow,
            names: self.region.names.clone(),
            blocks: self.region.blocks.as_ref().map(Blocks::nets),
            ports,
            methods,
            line: self.line,
        }
    }
}

/// Names and networks; `None` means any.
#[derive(Clone, Debug, Default)]
struct Region {
    names: Option<Arc<NameSet>>,
    blocks: Option<Blocks>,
}

/// Networks, as they are written where nothing was taken out of them: a rule opens a guarded range by a block inside it.
#[derive(Clone, Debug)]
struct Blocks {
    set: AddressSet,
    written: Option<Vec<IpNet>>,
}

impl Blocks {
    fn nets(&self) -> Vec<IpNet> {
        self.written.clone().unwrap_or_else(|| self.set.nets())
    }

    fn of(set: AddressSet) -> Self {
        Self { set, written: None }
    }

    fn within(&self, other: &Self) -> Self {
        if other.set.covers(&self.set) {
            self.clone()
        } else {
            Self::of(self.set.intersection(&other.set))
        }
    }
}

impl Region {
    /// Returns whether nothing can be in it.
    fn is_nothing(&self) -> bool {
        self.names.as_ref().is_some_and(|names| names.is_empty())
            || self.blocks.as_ref().is_some_and(|blocks| blocks.set.is_empty())
    }

    fn within(&self, other: &Self) -> Self {
        let names = match (&self.names, &other.names) {
            (Some(one), Some(other)) => Some(Arc::new(one.intersection(other))),
            (one, other) => one.clone().or_else(|| other.clone()),
        };
        let blocks = match (&self.blocks, &other.blocks) {
            (Some(one), Some(other)) => Some(one.within(other)),
            (one, other) => one.clone().or_else(|| other.clone()),
        };
        Self { names, blocks }
    }

    fn touches(&self, other: &Self) -> bool {
        let names = match (&self.names, &other.names) {
            (Some(one), Some(other)) => one.touches(other),
            _ => true,
        };
        let blocks = match (&self.blocks, &other.blocks) {
            (Some(one), Some(other)) => !one.set.intersection(&other.set).is_empty(),
            _ => true,
        };
        names && blocks
    }
}

/// Combined condition of the tests of a line.
#[derive(Default)]
struct Condition {
    /// Region in which all positive tests hold.
    inside: Region,
    /// Of negated tests.
    outside: Region,
    unknown: bool,
}

impl Condition {
    fn of(tests: &[Test], acls: &Acls) -> Self {
        let mut all = Self::default();
        for test in tests {
            let mut region = Region::default();
            match &acls.at(test.acl).acl {
                Acl::Names(names) => region.names = Some(Arc::clone(names)),
                Acl::Destinations(networks) => {
                    let written = Some(networks.written.clone());
                    region.blocks = Some(Blocks { set: networks.set.clone(), written });
                }
                _ => all.unknown |= is_unknown(acls, test.acl),
            }
            if test.not {
                all.leave_out(region);
            } else {
                all.inside = all.inside.within(&region);
            }
        }
        all
    }

    fn leave_out(&mut self, region: Region) {
        if let Some(names) = region.names {
            let known = self.outside.names.take();
            let both = |known: Arc<NameSet>| Arc::new(known.union(&names));
            self.outside.names = Some(known.map_or_else(|| Arc::clone(&names), both));
        }
        if let Some(blocks) = region.blocks {
            let known = self.outside.blocks.take();
            let both = |known: Blocks| Blocks::of(known.set.union(&blocks.set));
            self.outside.blocks = Some(known.map_or_else(|| blocks.clone(), both));
        }
    }
}

/// Turns lines about names and networks into rules, in the order of the lines.
struct Translation {
    rules: Vec<HostRule>,
    /// What later lines may allow at most: one of these.
    limits: Vec<Region>,
    /// Regions that later lines must not allow.
    holes: Vec<(Region, usize)>,
}

impl Translation {
    fn of(list: &HostList, acls: &Acls) -> Vec<HostRule> {
        let mut translation =
            Self { rules: Vec::new(), limits: vec![Region::default()], holes: Vec::new() };
        for rule in &list.rules {
            let condition = Condition::of(&rule.tests, acls);
            // A line that cannot be judged neither allows nor denies here; the comparison with Squid reports it.
            if condition.unknown {
                continue;
            }
            if rule.allow {
                translation.allow(&condition, rule.line);
            } else {
                translation.deny(condition, rule.line);
            }
        }
        if list.last {
            translation.allow(&Condition::default(), list.last_line);
        }
        translation.finish()
    }

    fn push(&mut self, allow: bool, region: Region, line: usize) {
        if !region.is_nothing() {
            self.rules.push(HostRule { allow, region, line });
        }
    }

    fn allow(&mut self, condition: &Condition, line: usize) {
        let mut holes = self.holes.clone();
        let names = condition.outside.names.clone().map(|names| (Some(names), None));
        let blocks = condition.outside.blocks.clone().map(|blocks| (None, Some(blocks)));
        let own = names.into_iter().chain(blocks);
        holes.extend(own.map(|(names, blocks)| (Region { names, blocks }, line)));
        for limit in self.limits.clone() {
            let mut region = condition.inside.within(&limit);
            for (hole, line) in &holes {
                self.cut(&mut region, hole, *line);
            }
            self.push(true, region, line);
        }
    }

    /// Takes a hole out of what is allowed, or denies it beside that where a list cannot say it.
    fn cut(&mut self, region: &mut Region, hole: &Region, line: usize) {
        if !region.touches(hole) {
            return;
        }
        match (&mut region.names, &mut region.blocks, &hole.names, &hole.blocks) {
            (Some(names), _, Some(hole), None) => {
                let (left, inner) = names.minus(hole);
                *names = Arc::new(left);
                let inner = Some(Arc::new(inner));
                let region = Region { names: inner, blocks: region.blocks.clone() };
                self.push(false, region, line);
            }
            (_, Some(blocks), None, Some(hole)) => {
                *blocks = Blocks::of(blocks.set.minus(&hole.set))
            }
            _ => {
                self.deny_literals(hole, line);
                self.push(false, hole.within(region), line);
            }
        }
    }

    fn deny(&mut self, condition: Condition, line: usize) {
        let Condition { mut inside, outside, .. } = condition;
        let negated = outside.names.is_some() || outside.blocks.is_some();
        if inside.names.is_none() && inside.blocks.is_none() && negated {
            return self.limit(&outside);
        }
        if let (Some(names), Some(outside)) = (&mut inside.names, &outside.names) {
            *names = Arc::new(names.minus(outside).0);
        }
        if let (Some(blocks), Some(outside)) = (&mut inside.blocks, &outside.blocks) {
            *blocks = Blocks::of(blocks.set.minus(&outside.set));
        }
        let allowed = |rule: &HostRule| rule.allow && rule.region.touches(&inside);
        if self.rules.iter().any(allowed) {
            self.holes.push((inside, line));
        } else {
            self.deny_literals(&inside, line);
            self.push(false, inside, line);
        }
    }

    /// Addresses among names are asked for as such; a rule names them by block.
    fn deny_literals(&mut self, region: &Region, line: usize) {
        let Some(names) = region.names.as_ref().filter(|_| region.blocks.is_none()) else { return };
        let set = AddressSet::of(names.literals.iter().map(|address| (*address, *address)));
        let region = Region { names: None, blocks: Some(Blocks::of(set)) };
        self.push(false, region, line);
    }

    /// `deny !LIST`: later lines allow what is in the list only; of several lists, what is in any of them.
    fn limit(&mut self, outside: &Region) {
        let names = outside.names.clone().map(|names| Region { names: Some(names), blocks: None });
        let blocks =
            outside.blocks.clone().map(|blocks| Region { names: None, blocks: Some(blocks) });
        let alternatives: Vec<Region> = names.into_iter().chain(blocks).collect();
        let both =
            self.limits.iter().flat_map(|one| alternatives.iter().map(|two| one.within(two)));
        let mut limits: Vec<Region> = both.collect();
        limits.truncate(LIMITS);
        self.limits = limits;
    }

    fn finish(mut self) -> Vec<HostRule> {
        let is_everything = |rule: &HostRule| {
            rule.allow && rule.region.names.is_none() && rule.region.blocks.is_none()
        };
        if self.rules.iter().any(is_everything) {
            // Rules with networks stay: they open what is guarded.
            self.rules
                .retain(|rule| !rule.allow || rule.region.blocks.is_some() || is_everything(rule));
        }
        self.rules
    }
}
