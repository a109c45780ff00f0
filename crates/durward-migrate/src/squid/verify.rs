//! The documents against Squid: they are compiled, and asked about a request of each kind that Squid's lines tell apart.
//!
//! A difference is reported at the line of squid.conf that decides, so nothing is wider, narrower or at another address without a note.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use durward_control::Compiled;
use durward_model::egress::{
    Asked, Decided, Host, NO_HOST, Neighbours, Outcome, Policy, Surroundings, guard,
};
use durward_model::verdict::Severity;
use durward_model::{Service, Tenant as Served};

use super::access::{Leaves, Rule, Test};
use super::acl::{Acl, Acls};
use super::addresses::{self, AddressSet};
use super::document::Translated;
use super::doors::Door;
use super::fault::SquidFault;
use super::kinds::{Kinds, NameKinds, name_kinds, port_kinds};
use super::lines::Line;
use super::notes::Notes;

/// Most requests that one tenant's rules are asked about.
const REQUESTS: usize = 200_000;
const GUARD: &str = "addresses of this host, of private networks and of clouds' metadata stay closed: a rule with cidrs opens them";

/// The comparison of all tenants.
pub(super) struct Comparison<'a> {
    pub(super) lines: &'a [Line],
    pub(super) acls: &'a Acls,
    pub(super) doors: &'a [Door],
    pub(super) compiled: &'a Compiled,
    /// True if the configuration names IPv6 addresses anywhere.
    pub(super) uses_v6: bool,
}

/// A request, as Squid's lists see it.
#[derive(Clone, Copy)]
struct Request<'a> {
    method: &'a str,
    port: u16,
    host: &'a Host,
    address: IpAddr,
}

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, port, host, address } = self;
        match host {
            Host::Name(name) => write!(f, "{method} {name}:{port} at {address}"),
            Host::Address(IpAddr::V6(address)) => write!(f, "{method} [{address}]:{port}"),
            Host::Address(address) => write!(f, "{method} {address}:{port}"),
        }
    }
}

/// Kinds of differences; each is reported once a line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    NotAllowed,
    NotDenied,
    Opened,
    Elsewhere,
    NoFamily,
    Guarded,
    Closed,
}

/// Differences reported about one tenant.
struct Said<'a> {
    lines: &'a [Line],
    seen: BTreeSet<(usize, Kind)>,
    notes: &'a mut Notes,
}

impl Said<'_> {
    fn once(&mut self, line: usize, kind: Kind, text: impl FnOnce() -> String) {
        if !self.seen.insert((line, kind)) {
            return;
        }
        let line = &self.lines[line];
        match kind {
            Kind::NotDenied | Kind::Opened => self.notes.wider(line, text()),
            Kind::Elsewhere => self.notes.other_address(line, text()),
            Kind::NotAllowed | Kind::NoFamily | Kind::Guarded | Kind::Closed => {
                self.notes.narrower(line, text());
            }
        }
    }
}

/// Squid's decision on a request, and the lines before it that cannot be evaluated.
struct Decision {
    allow: bool,
    line: usize,
    undecided: Vec<(bool, usize)>,
}

impl Comparison<'_> {
    /// The first document that does not compile, with the line of squid.conf behind it.
    pub(super) fn fault(&self, tenants: &[Translated]) -> Option<SquidFault> {
        for verdict in self.compiled.verdicts.iter() {
            let errors = verdict.findings.iter().filter(|one| one.severity == Severity::Error);
            let Some(finding) = errors.into_iter().next() else { continue };
            let tenant = tenants.iter().find(|known| *known.tenant.name == *verdict.resource.name);
            let line = tenant.map_or(0, |tenant| self.line_behind(tenant, &finding.field));
            let line = self.lines.get(line)?;
            return Some(SquidFault::Invalid {
                file: Arc::clone(&line.file),
                line: line.number,
                tenant: verdict.resource.name.to_string(),
                why: format!("{} {}", finding.field, finding.sentence),
            });
        }
        None
    }

    /// The line that a field of a tenant comes from.
    fn line_behind(&self, translated: &Translated, field: &str) -> usize {
        let Translated { tenant, rules } = translated;
        let at = |list: &str| {
            let rest = field.strip_prefix("spec.egress.")?.strip_prefix(list)?.strip_prefix('[')?;
            rest.split(']').next()?.parse::<usize>().ok()
        };
        let rule = |allow: bool, at: usize| rules.iter().filter(|one| one.allow == allow).nth(at);
        let directive = |name: &str| self.lines.iter().position(|line| line.name() == name);
        let first = tenant.profile.access.first_allow();
        if let Some(rule) = at("allow").and_then(|at| rule(true, at)) {
            return rule.line;
        }
        if let Some(rule) = at("deny").and_then(|at| rule(false, at)) {
            return rule.line;
        }
        if let Some((door, _)) = at("proxy").and_then(|at| tenant.entries.get(at)) {
            return self.doors[*door].line;
        }
        let named = [
            ("addresses", "tcp_outgoing_address"),
            ("resolvers", "dns_nameservers"),
            ("contact", "cache_mgr"),
            ("parents", "cache_peer"),
        ];
        let named =
            named.iter().find(|(name, _)| field.starts_with(&format!("spec.egress.{name}")));
        let main = [true, false].into_iter().find_map(|is_v4| tenant.profile.main_line(is_v4));
        match named {
            Some(("addresses", _)) => main.unwrap_or(first),
            Some((_, name)) => directive(name).unwrap_or(first),
            None => first,
        }
    }

    /// Reports where the documents differ from Squid.
    pub(super) fn compare(&self, tenants: &[Translated], notes: &mut Notes) {
        let neighbours = Neighbours::of(&self.compiled.snapshot);
        let mut kinds = NameKinds::default();
        for translated in tenants {
            let served = self.compiled.snapshot.tenants.values();
            let served =
                served.into_iter().find(|known| known.id.as_str() == translated.tenant.name);
            let Some((served, policy)) = served.and_then(|served| Some((served, policy(served)?)))
            else {
                continue;
            };
            let around =
                Surroundings { tenant: &served.id, neighbours: &neighbours, host: &NO_HOST };
            let one = OneTenant { all: self, translated, policy, around };
            one.compare(&mut kinds, notes);
        }
    }
}

fn policy(served: &Served) -> Option<&Arc<Policy>> {
    served.listeners.iter().find_map(|listener| match &listener.service {
        Service::Forward(service) => Some(&service.policy),
        _ => None,
    })
}

/// The comparison of one tenant.
struct OneTenant<'a> {
    all: &'a Comparison<'a>,
    translated: &'a Translated,
    policy: &'a Policy,
    around: Surroundings<'a>,
}

impl OneTenant<'_> {
    fn compare(&self, kinds: &mut NameKinds, notes: &mut Notes) {
        let kinds = self.kinds(kinds);
        let hosts =
            kinds.names.len() * kinds.addresses.len() + kinds.addresses.len() + kinds.near.len();
        let count = hosts * kinds.methods.len() * kinds.ports.len();
        if count > REQUESTS {
            let line = &self.all.lines[self.translated.tenant.profile.access.first_allow()];
            let text = format!(
                "the lines tell {count} kinds of requests apart for tenant {}, too many to compare: check its rules by hand",
                self.translated.tenant.name
            );
            notes.wider(line, text);
        }
        let literals = kinds.addresses.iter().chain(&kinds.near);
        let literals: Vec<(Host, IpAddr)> =
            literals.map(|address| (Host::Address(*address), *address)).collect();
        let mut left = REQUESTS;
        let mut said = Said { lines: self.all.lines, seen: BTreeSet::new(), notes };
        for method in &kinds.methods {
            for port in &kinds.ports {
                let by_name = kinds.names.iter().flat_map(|host| {
                    let literal = match host {
                        Host::Address(address) => Some(*address),
                        Host::Name(_) => None,
                    };
                    let addresses = kinds.addresses.iter().copied();
                    addresses
                        .filter(move |_| literal.is_none())
                        .chain(literal)
                        .map(move |a| (host, a))
                });
                let by_address = literals.iter().map(|(host, address)| (host, *address));
                for (host, address) in by_name.chain(by_address) {
                    if left == 0 {
                        return;
                    }
                    left -= 1;
                    let request = Request { method, port: *port, host, address };
                    self.judge(request, &mut said);
                }
            }
        }
    }

    fn judge(&self, request: Request<'_>, said: &mut Said<'_>) {
        let decision = self.squid(request);
        self.judge_undecided(&decision, said);
        let decided = self.here(request);
        let allowed = decided.as_ref().is_some_and(|decided| decided.outcome == Outcome::Allow);
        let tenant = &self.translated.tenant.name;
        if !decision.allow {
            if allowed {
                said.once(decision.line, Kind::Opened, || {
                    format!("{request} of tenant {tenant} is denied by Squid and allowed here")
                });
            }
            return;
        }
        if let Some((leaves, line)) = self.elsewhere(request) {
            let from = match leaves {
                Leaves::At(address) => address.to_string(),
                _ => "an address that the host chooses".to_owned(),
            };
            said.once(line, Kind::Elsewhere, || {
                format!(
                    "Squid sends {request} of tenant {tenant} from {from}, but one client leaves from one address: it is denied here"
                )
            });
            return;
        }
        if !allowed {
            self.judge_denied(request, &decision, decided.as_ref(), said);
        }
    }

    /// Reports lines without an equal that decide about the request in Squid.
    fn judge_undecided(&self, decision: &Decision, said: &mut Said<'_>) {
        for (allow, line) in &decision.undecided {
            let lists = || self.without_equal(*line);
            match (allow, decision.allow) {
                (true, false) => said.once(*line, Kind::NotAllowed, || {
                    format!("{} has no equal: what the line allows is denied", lists())
                }),
                (false, true) => said.once(*line, Kind::NotDenied, || {
                    format!("{} has no equal: what the line denies may be let through", lists())
                }),
                _ => {}
            }
        }
    }

    /// Reports a request that Squid allows and the documents deny.
    fn judge_denied(
        &self,
        request: Request<'_>,
        decision: &Decision,
        decided: Option<&Decided>,
        said: &mut Said<'_>,
    ) {
        let tenant = &self.translated.tenant;
        let Some(decided) = decided else {
            let number = if request.address.is_ipv4() { 4 } else { 6 };
            let mut main = tenant.profile.leaving.main.iter().flatten().map(|(_, line)| *line);
            said.once(main.next().unwrap_or(decision.line), Kind::NoFamily, || {
                format!("tenant {} has no IPv{number} address: such destinations are denied, Squid uses the host's own address", tenant.name)
            });
            return;
        };
        if decided.rule.starts_with("guard:") {
            said.once(decision.line, Kind::Guarded, || GUARD.to_owned());
            return;
        }
        said.once(decision.line, Kind::Closed, || {
            format!(
                "{request} of tenant {} is allowed by Squid and denied here (rule {})",
                tenant.name, decided.rule
            )
        });
    }

    /// Returns the decision of the documents; `None` if the tenant has no egress address.
    fn here(&self, request: Request<'_>) -> Option<Decided> {
        let egress = &self.translated.tenant.egress;
        if !egress.iter().any(|one| one.is_ipv4() == request.address.is_ipv4()) {
            return None;
        }
        let method = (request.method != "CONNECT").then_some(request.method);
        let asked = Asked { host: request.host, port: request.port, method };
        let decided = self.policy.before_lookup(asked);
        Some(decided.unwrap_or_else(|| self.policy.decide(self.around, asked, &[request.address])))
    }

    fn squid(&self, request: Request<'_>) -> Decision {
        let access = &self.translated.tenant.profile.access;
        let mut undecided = Vec::new();
        for rule in &access.rules {
            match self.holds(&rule.tests, request) {
                Some(true) => return Decision { allow: rule.allow, line: rule.line, undecided },
                Some(false) => {}
                None => undecided.push((rule.allow, rule.line)),
            }
        }
        Decision { allow: access.last, line: access.last_line, undecided }
    }

    /// The line by which Squid sends it from another address than the tenant's, as far as that can be judged.
    fn elsewhere(&self, request: Request<'_>) -> Option<(Leaves, usize)> {
        let leaving = &self.translated.tenant.profile.leaving;
        let is_v4 = request.address.is_ipv4();
        let main = leaving.main[usize::from(!is_v4)].map(|(leaves, _)| leaves);
        for line in leaving.others.iter().filter(|line| line.leaves.is_for(is_v4)) {
            let other = (Some(line.leaves) != main).then_some((line.leaves, line.line));
            match self.holds(&line.tests, request) {
                Some(true) => return other,
                None if other.is_some() => return other,
                _ => {}
            }
        }
        None
    }

    /// Returns whether all tests hold; `None` where that depends on one without an equal.
    fn holds(&self, tests: &[Test], request: Request<'_>) -> Option<bool> {
        let mut unknown = false;
        for test in tests {
            let holds = match &self.all.acls.at(test.acl).acl {
                Acl::Names(names) => match request.host {
                    Host::Name(name) => names.has(name),
                    Host::Address(address) => names.literals.contains(address),
                },
                Acl::Destinations(networks) => networks.set.contains(request.address),
                Acl::Ports(ports) => ports.has(request.port),
                Acl::Methods(methods) => methods.iter().any(|method| method == request.method),
                _ => {
                    unknown = true;
                    continue;
                }
            };
            if holds == test.not {
                return Some(false);
            }
        }
        (!unknown).then_some(true)
    }

    fn without_equal(&self, line: usize) -> String {
        let words = &self.all.lines[line].words;
        let lists = words.iter().skip(2).filter(|word| {
            let acl = self.all.acls.find(word.trim_start_matches('!'));
            acl.is_none_or(|acl| super::tenants::is_unknown(self.all.acls, acl))
        });
        let lists: Vec<&str> = lists.map(String::as_str).collect();
        if lists.is_empty() { "the combination".to_owned() } else { lists.join(" ") }
    }

    /// The lists that any line left for the tenant asks.
    fn used(&self) -> BTreeSet<usize> {
        let profile = &self.translated.tenant.profile;
        let rules = profile.access.rules.iter().flat_map(|rule: &Rule| &rule.tests);
        let others = profile.leaving.others.iter().flat_map(|line| &line.tests);
        rules.chain(others).map(|test| test.acl).collect()
    }

    fn kinds(&self, known: &mut NameKinds) -> Kinds {
        let used = self.used();
        let acls = self.all.acls;
        let mut methods: Vec<String> = ["CONNECT", "GET", "PUT"].map(str::to_owned).to_vec();
        let mut edges = BTreeSet::from([1, 80, 443]);
        let (mut names, mut blocks, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        for acl in used {
            match &acls.at(acl).acl {
                Acl::Methods(named) => {
                    let token = |name: &&String| name.bytes().all(|b| b.is_ascii_alphanumeric());
                    methods.extend(named.iter().filter(token).cloned());
                }
                Acl::Ports(set) => {
                    edges.extend(set.edges());
                    ports.push(set);
                }
                Acl::Names(_) => names.push(acl),
                Acl::Destinations(networks) => blocks.push(&networks.set),
                _ => {}
            }
        }
        methods.sort_unstable();
        methods.dedup();
        let hosts =
            known.entry(names).or_insert_with_key(|names| Arc::new(name_kinds(names, acls)));
        let (addresses, near) = self.address_kinds(&blocks);
        Kinds {
            methods,
            ports: port_kinds(&edges, &ports),
            names: Arc::clone(hosts),
            addresses,
            near,
        }
    }

    /// An address of each kind that is not near the gateway where there is one, and one of a private network.
    fn address_kinds(&self, blocks: &[&AddressSet]) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let (mut kinds, mut near): (Vec<IpAddr>, Vec<IpAddr>) = (Vec::new(), Vec::new());
        let far = |address: &IpAddr| {
            guard::classify(*address).is_none() && self.around.guards(*address, 443).is_none()
        };
        for set in addresses::split(blocks).values() {
            for is_v4 in [true, false] {
                if !is_v4 && !self.all.uses_v6 {
                    continue;
                }
                let part = set.family(is_v4);
                let preferred = ["198.51.100.77", "10.255.255.254", "2001:db8:ffff::77"];
                let preferred = preferred.iter().filter_map(|text| text.parse().ok());
                let all =
                    || preferred.clone().filter(|one| part.contains(*one)).chain(part.samples());
                kinds.extend(all().find(far).or_else(|| all().next()));
                near.extend(all().find(|one| guard::classify(*one).is_some()).filter(|_| is_v4));
            }
        }
        (kinds, near)
    }
}
