//! A traced packet as it is shown: its steps in words, its end, and its tenant.

use std::net::{IpAddr, SocketAddr};

use durward_model::mapping::PortMapping;

use super::event::{Event, TraceVerdict};
use super::header::{Header, has_ports};
use super::packet::Way;
use super::{Tracer, words};
use crate::conntrack::Flow;
use crate::desired::counted_tenant;
use crate::mark;
use crate::nftables::listing::ListedRule;
use crate::nftables::ruleset::Point;
use crate::nftables::{Expression, Ruleset};

/// Finished packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Headers when it arrived.
    pub first: Header,
    /// Headers when it was last seen.
    pub last: Header,
    /// Incoming interface; `None` if this host sent the packet.
    pub input: Option<String>,
    /// Outgoing interface, as far as known.
    pub output: Option<String>,
    /// Connection mark when it was last seen.
    pub mark: u32,
    /// Steps of the packet.
    pub steps: Vec<Step>,
    /// End of the packet.
    pub end: End,
    /// Tenant of the packet.
    pub tenant: Option<String>,
    /// Mapping or egress rule it belongs to, if the configuration is known.
    pub name: Option<String>,
    /// Place in the configuration where that is written.
    pub written_at: Option<String>,
}

/// Step of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Netfilter hook.
    pub hook: Option<&'static str>,
    /// Family of the table.
    pub family: &'static str,
    /// Name of the table.
    pub table: String,
    /// Name of the chain.
    pub chain: String,
    /// Handle of the rule; `None` at the chain's end.
    pub rule: Option<u64>,
    /// Verdict of the step.
    pub verdict: String,
    /// Comment of the rule.
    pub comment: Option<String>,
    /// Effect of the rule in words.
    pub words: Option<String>,
    /// True if the step is worth a line.
    pub telling: bool,
}

/// End of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The packet left by an interface.
    Left,
    /// The packet reached this host.
    Delivered,
    /// A rule, or the policy of a chain, dropped it.
    Dropped {
        /// Family, table and chain.
        by: String,
        /// Reason as in the metrics, if the rule is Durward's.
        reason: Option<String>,
        /// Reason in words.
        why: String,
        /// Answer to the sender.
        answer: Option<&'static str>,
    },
    /// The packet was not seen again after this point, and no rule dropped it.
    Vanished {
        /// Last hook at which it was seen.
        after: &'static str,
        /// Probable reason.
        why: &'static str,
    },
}

impl Tracer {
    pub(super) fn report(&self, way: &Way) -> Option<Packet> {
        let (first, last) = way.headers()?;
        let mut hook = None;
        let steps = way.events.iter().map(|event| {
            let chain = ((event.family, event.table.clone()), event.chain.clone());
            hook = self.listing.hooks.get(&chain).copied().or(hook);
            self.step(event, hook)
        });
        let steps: Vec<Step> = steps.collect();
        let flow = self.flow(first);
        let translated = way.events.iter().any(|event| {
            event.verdict == TraceVerdict::Accept
                && self.rule(event).is_some_and(words::translates_source)
        });
        let end = match way.dropped() {
            Some(event) => self.dropped(way, event, first),
            None => {
                passed(way.reached, hook, translated && has_ports(first.protocol) && flow.is_none())
            }
        };
        let (tenant, name, written_at) = self.whose(first, flow.as_ref());
        let link = |index: Option<u32>| {
            let index = index?;
            Some(self.links.get(&index).cloned().unwrap_or_else(|| format!("#{index}")))
        };
        Some(Packet {
            first,
            last,
            input: link(way.first.input),
            output: link(way.last.output),
            mark: way.last.mark,
            steps,
            end,
            tenant,
            name,
            written_at,
        })
    }

    fn is_ours(&self, event: &Event) -> bool {
        let name = self.options.table.as_str();
        let rest = event.table.strip_prefix(name);
        event.family == "inet" && matches!(rest, Some("" | "-steer"))
    }

    fn rule(&self, event: &Event) -> Option<&ListedRule> {
        let key = ((event.family, event.table.clone()), event.handle?);
        self.listing.rules.get(&key).filter(|rule| rule.chain == event.chain)
    }

    fn step(&self, event: &Event, hook: Option<Point>) -> Step {
        let rule = self.rule(event);
        let ours = self.is_ours(event);
        let words = rule.and_then(|rule| match ours {
            true => words::ours(rule, &event.verdict),
            false => words::did(rule, &event.verdict),
        });
        let policy = event.handle.is_none()
            && matches!(event.verdict, TraceVerdict::Accept | TraceVerdict::Drop);
        let ends = matches!(
            event.verdict,
            TraceVerdict::Accept | TraceVerdict::Drop | TraceVerdict::Queue
        );
        let telling = match (policy, ours) {
            (true, _) => event.verdict == TraceVerdict::Drop,
            (false, true) => words.is_some() || event.verdict == TraceVerdict::Drop,
            (false, false) => ends,
        };
        Step {
            hook: hook.map(hook_name),
            family: event.family,
            table: event.table.clone(),
            chain: event.chain.clone(),
            rule: event.handle,
            verdict: if policy {
                format!("policy {}", event.verdict)
            } else {
                event.verdict.to_string()
            },
            comment: rule.and_then(|rule| rule.comment.clone()),
            words: words.map(str::to_owned),
            telling,
        }
    }

    fn dropped(&self, way: &Way, event: &Event, first: Header) -> End {
        let by = format!("{} {} {}", event.family, event.table, event.chain);
        let answer = self.rule(event).and_then(words::answer_to_sender);
        // The rule that counts may precede the one that drops.
        let mut counted = way.events.iter().rev().filter(|one| one.table == event.table);
        let reason = counted.find_map(|one| self.rule(one).and_then(words::counted));
        let reason = reason.filter(|_| self.is_ours(event)).map(str::to_owned);
        let in_words = reason.as_deref().and_then(words::reason);
        let why = match (in_words, event.handle) {
            (Some(_), _) if reason.as_deref() == Some("denied") => {
                let allowed = allowed(&self.ours, &event.chain);
                format!("{} is in none of {allowed}", first.source.ip())
            }
            (Some(words), _) => words.to_owned(),
            (None, Some(rule)) => format!("rule {rule}"),
            (None, None) => "the chain's policy".to_owned(),
        };
        End::Dropped { by, reason, why, answer }
    }

    fn flow(&self, first: Header) -> Option<Flow> {
        if !has_ports(first.protocol) {
            return None;
        }
        let found = self.conntrack.find(first.protocol, first.source, first.destination);
        found.inspect_err(|error| tracing::debug!(%error, "no connection")).ok().flatten()
    }

    /// Returns tenant, name and place: by the configuration, or else the tenant by the connection mark.
    fn whose(
        &self,
        first: Header,
        flow: Option<&Flow>,
    ) -> (Option<String>, Option<String>, Option<String>) {
        // The tuple of an answer is turned round to that of the connection's first packet.
        let (source, destination) =
            flow.map_or((first.source, first.destination), |flow| (flow.source, flow.destination));
        let model = self.options.model.iter();
        let mapping = model
            .clone()
            .flat_map(|model| &model.mappings)
            .find(|mapping| has(mapping, first.protocol, destination));
        if let Some(mapping) = mapping {
            let at = mapping.origin.to_string();
            return (Some(mapping.tenant.to_string()), Some(mapping.name.to_string()), Some(at));
        }
        let of = |ip: IpAddr| move |net: &ipnet::IpNet| net.contains(&ip);
        let egress = model
            .flat_map(|model| &model.egress)
            .find(|rule| rule.sources.iter().any(of(source.ip())));
        if let Some(rule) = egress {
            let at = rule.origin.to_string();
            return (Some(rule.tenant.to_string()), Some(rule.name.to_string()), Some(at));
        }
        let number = flow.map(|flow| mark::tenant(flow.mark)).filter(|number| *number != 0);
        let mut tenants = self.ours.counters.iter().filter_map(|name| counted_tenant(name));
        let tenant = number.and_then(|number| tenants.find(|(_, known)| *known == number));
        (tenant.map(|(tenant, _)| tenant.to_string()), None, None)
    }
}

fn passed(reached: Option<Point>, hook: Option<Point>, no_connection: bool) -> End {
    let vanished = |after, why| End::Vanished { after, why };
    match reached {
        Some(Point::Postrouting) if no_connection => vanished(
            "postrouting",
            "no connection was made: its address has no free port towards the destination, or another packet was faster",
        ),
        Some(Point::Postrouting) => End::Left,
        Some(Point::Input) => End::Delivered,
        Some(Point::Forward) => {
            vanished("forward", "too large for the next link, or an older iptables rule")
        }
        _ => vanished(
            reached.or(hook).map_or("prerouting", hook_name),
            "no route there or back (rp_filter), forwarding is off, or an older iptables rule",
        ),
    }
}

fn has(mapping: &PortMapping, protocol: u8, at: SocketAddr) -> bool {
    mapping.addresses.iter().any(|address| address.0 == at.ip())
        && mapping
            .ports
            .iter()
            .any(|port| port.protocol.number() == protocol && port.ports.contains(at.port()))
}

/// Formats the sources that a list of the table admits.
fn allowed(ours: &Ruleset, chain: &str) -> String {
    let sets = ours.chains.get(chain).into_iter().flat_map(|chain| chain.rules.iter().flatten());
    let set = sets.filter_map(|expression| match expression {
        Expression::Lookup { set, .. } if set.starts_with("src") => Some(set),
        _ => None,
    });
    let blocks = set.filter_map(|set| Some((set, ours.sets.get(set)?))).flat_map(|(name, set)| {
        set.elements.iter().map(move |(key, one)| crate::program::words::element(name, key, one))
    });
    let blocks: Vec<String> = blocks.collect();
    if blocks.is_empty() { "its mapping's allowedSources".to_owned() } else { blocks.join(", ") }
}

const fn hook_name(point: Point) -> &'static str {
    match point {
        Point::Prerouting => "prerouting",
        Point::Input => "input",
        Point::Forward => "forward",
        Point::Output => "output",
        Point::Postrouting => "postrouting",
    }
}
