//! Connections that must end because of a change: exactly those that could not be opened again.
//!
//! The judgement compares with what is allowed now, so changes made while no process watched are caught too.

use std::net::SocketAddr;
use std::time::Duration;

use durward_model::egress::Taken;
use durward_model::mapping::Affinity;

use super::Flow;
use crate::desired::Policy;
use crate::mark::{EGRESS, MAPPED, PICKED_UP, SLOT_MASK, TRANSPARENT, slot_bits, tenant};

const UDP: u8 = 17;

/// Fate of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The connection goes on.
    Keep,
    /// The connection ends now.
    Cut,
    /// The connection ends after this time, unless it is allowed again before.
    Drain(Duration),
}

/// Returns the fate of a connection with our mark under `new`; `old` is the policy before the change.
#[must_use]
pub fn judge(flow: &Flow, old: &Policy, new: &Policy) -> Fate {
    if flow.mark & MAPPED != 0 {
        return judge_mapped(flow, old, new);
    }
    if flow.mark & EGRESS != 0 {
        return judge_leaving(flow, new);
    }
    if flow.mark & TRANSPARENT != 0 {
        return judge_taken(flow, new);
    }
    Fate::Keep
}

/// Splits `flows` into connections to cut now and connections to drain.
#[must_use]
pub fn sort(flows: Vec<Flow>, old: &Policy, new: &Policy) -> (Vec<Flow>, Vec<(Flow, Duration)>) {
    let (mut cut, mut drain) = (Vec::new(), Vec::new());
    for flow in flows {
        match judge(&flow, old, new) {
            Fate::Keep => {}
            Fate::Cut => cut.push(flow),
            Fate::Drain(grace) => drain.push((flow, grace)),
        }
    }
    (cut, drain)
}

/// Returns true if one of the policy's mappings admitted the connection.
pub(crate) fn is_mapped_by(flow: &Flow, policy: &Policy) -> bool {
    let (external, _, _) = ends(flow);
    flow.mark & MAPPED != 0
        && policy.mapped(external.ip(), flow.protocol, external.port()).is_some()
}

fn judge_mapped(flow: &Flow, old: &Policy, new: &Policy) -> Fate {
    let (external, client, endpoint) = ends(flow);
    let known = new.mapped(external.ip(), flow.protocol, external.port());
    let Some(mapped) = known.filter(|mapped| mapped.tenant == tenant(flow.mark)) else {
        return Fate::Cut;
    };
    if !mapped.sources.contains(client.ip()) {
        return Fate::Cut;
    }
    if !mapped.reaches(endpoint.ip(), endpoint.port(), external.port()) {
        // A datagram has no connection to finish: the next one finds another endpoint.
        let waits = flow.protocol != UDP && !mapped.drain.is_zero();
        return if waits { Fate::Drain(mapped.drain) } else { Fate::Cut };
    }
    let before = old.mapped(external.ip(), flow.protocol, external.port());
    let spread = before.is_some_and(|before| before.endpoints != mapped.endpoints);
    if flow.protocol == UDP && spread && mapped.affinity == Affinity::None {
        return Fate::Cut;
    }
    Fate::Keep
}

/// Returns external address, client and endpoint. In an entry picked up from another gateway the endpoint's answer is the original direction.
const fn ends(flow: &Flow) -> (SocketAddr, SocketAddr, SocketAddr) {
    if flow.mark & PICKED_UP != 0 {
        (flow.reply_destination, flow.destination, flow.source)
    } else {
        (flow.destination, flow.source, flow.reply_source)
    }
}

fn judge_leaving(flow: &Flow, new: &Policy) -> Fate {
    let known = new.leaving(flow.source.ip());
    let Some(rule) = known.filter(|rule| rule.tenant == tenant(flow.mark)) else {
        return Fate::Cut;
    };
    if rule.take(flow.protocol, flow.destination.port()) != Taken::Translated {
        return Fate::Cut;
    }
    let slot = rule.slots[usize::from(flow.source.is_ipv6())];
    if slot.map(slot_bits) != Some(flow.mark & SLOT_MASK) {
        return Fate::Cut;
    }
    let address = flow.reply_destination.ip();
    if rule.addresses.iter().any(|range| range.contains(address)) {
        return Fate::Keep;
    }
    if rule.drain.is_zero() { Fate::Cut } else { Fate::Drain(rule.drain) }
}

/// Judges a connection of the forward proxy: it stays as long as it would be handed over again; the proxy itself ends what its rules no longer allow.
fn judge_taken(flow: &Flow, new: &Policy) -> Fate {
    let known = new.leaving(flow.source.ip());
    let known = known.filter(|rule| rule.tenant == tenant(flow.mark));
    match known.map(|rule| rule.take(flow.protocol, flow.destination.port())) {
        Some(Taken::Http | Taken::Tls) => Fate::Keep,
        _ => Fate::Cut,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use durward_model::egress::{Others, Transparent};
    use durward_model::mapping::{Endpoints, MappedPort, NatModel, PortMapping, PortRange};
    use durward_model::transport::Transport;
    use durward_model::{IngressAddress, Origin, SourceSet, TenantId};

    use super::*;
    use crate::{Interfaces, Options, desired};

    const CLIENT: &str = "192.0.2.10:5000";
    const EXTERNAL: &str = "203.0.113.1:80";
    const POD: &str = "10.244.0.5:8080";

    fn policy(sources: &str, endpoints: &[&str], drain: u64) -> Policy {
        let at = endpoints.iter().map(|at| at.parse().unwrap()).collect();
        let port = |protocol| MappedPort {
            protocol,
            ports: PortRange::one(80).unwrap(),
            endpoints: Endpoints::At(Vec::clone(&at)),
        };
        let tenant = TenantId::new("acme").unwrap();
        let mapping = PortMapping {
            tenant: tenant.clone(),
            name: "web".into(),
            addresses: vec![IngressAddress("203.0.113.1".parse().unwrap())],
            ports: vec![port(Transport::Tcp), port(Transport::Udp)],
            allowed_sources: SourceSet::new([sources.parse().unwrap()]),
            mode: durward_model::mapping::SourceMode::PreserveSource,
            affinity: Affinity::None,
            drain: Duration::from_secs(drain),
            egress: false,
            health_check: None,
            origin: Origin::default(),
        };
        let model = NatModel {
            tenants: [(tenant, 1)].into(),
            mappings: vec![Arc::new(mapping)],
            ..NatModel::default()
        };
        desired(&model, &Options::default(), &Interfaces::default()).policy
    }

    fn mapped(protocol: u8, tenant: u16) -> Flow {
        let mark = crate::mark::mark(tenant, 1, MAPPED);
        Flow::imagined(protocol, mark, [CLIENT, EXTERNAL, POD, CLIENT])
    }

    // S5.44+ S5.47+ S5.50+
    #[test]
    fn a_connection_ends_when_it_could_not_be_made_anew() {
        let before = policy("0.0.0.0/0", &[POD], 0);
        let cases = [
            ("nothing changed", policy("0.0.0.0/0", &[POD], 0), Fate::Keep, Fate::Keep),
            ("still allowed", policy("192.0.2.0/24", &[POD], 0), Fate::Keep, Fate::Keep),
            ("source gone", policy("198.51.100.0/24", &[POD], 9), Fate::Cut, Fate::Cut),
            ("endpoint gone", policy("0.0.0.0/0", &["10.244.0.6:8080"], 0), Fate::Cut, Fate::Cut),
            (
                "endpoint drains",
                policy("0.0.0.0/0", &["10.244.0.6:8080"], 9),
                Fate::Drain(Duration::from_secs(9)),
                Fate::Cut,
            ),
            ("one more", policy("0.0.0.0/0", &[POD, "10.244.0.6:8080"], 0), Fate::Keep, Fate::Cut),
            ("all gone", Policy::default(), Fate::Cut, Fate::Cut),
        ];

        for (name, now, tcp, udp) in cases {
            assert_eq!(judge(&mapped(6, 1), &before, &now), tcp, "{name}: tcp");
            assert_eq!(judge(&mapped(17, 1), &before, &now), udp, "{name}: udp");
        }
    }

    #[test]
    fn what_is_handed_over_now_ends_where_it_went_by_itself_and_the_other_way_round() {
        let external = crate::interface::External {
            index: 7,
            slot: 1,
            up: true,
            addresses: vec!["203.0.113.1/24".parse().unwrap()],
            gateway_v4: None,
            gateway_v6: None,
        };
        let external = [("ext1".to_owned(), external)].into();
        let host = Interfaces { external, ..Interfaces::default() };
        let rule = |others| durward_model::mapping::KernelEgress {
            tenant: TenantId::new("acme").unwrap(),
            name: "egress".into(),
            sources: vec!["10.244.0.0/24".parse().unwrap()],
            addresses: vec![EXTERNAL.parse::<SocketAddr>().unwrap().ip().into()],
            transparent: others,
            enrolled: true,
            drain: Duration::ZERO,
            origin: Origin::default(),
        };
        let policy = |others: Option<Others>| {
            let (http, tls) = ([80].into(), [443].into());
            let others = others.map(|others| Arc::new(Transparent { http, tls, others }));
            let model = NatModel {
                tenants: [(TenantId::new("acme").unwrap(), 1)].into(),
                egress: vec![Arc::new(rule(others))],
                ..NatModel::default()
            };
            desired(&model, &Options::default(), &host).policy
        };
        let flow = |protocol, flag, to: &str| {
            let mark = crate::mark::mark(1, 1, flag);
            Flow::imagined(protocol, mark, ["10.244.0.5:999", to, to, EXTERNAL])
        };
        let (deny, translate) = (Some(Others::Deny), Some(Others::Translate));
        let cases = [
            (None, flow(6, EGRESS, "192.0.2.1:443"), Fate::Keep),
            (translate, flow(6, EGRESS, "192.0.2.1:443"), Fate::Cut),
            (translate, flow(17, EGRESS, "192.0.2.1:443"), Fate::Cut),
            (translate, flow(6, EGRESS, "192.0.2.1:22"), Fate::Keep),
            (deny, flow(6, EGRESS, "192.0.2.1:22"), Fate::Cut),
            (deny, flow(6, TRANSPARENT, "192.0.2.1:443"), Fate::Keep),
            (deny, flow(6, TRANSPARENT, "192.0.2.1:22"), Fate::Cut),
            (None, flow(6, TRANSPARENT, "192.0.2.1:443"), Fate::Cut),
        ];

        for (others, flow, fate) in cases {
            let now = policy(others);
            assert_eq!(judge(&flow, &Policy::default(), &now), fate, "{others:?} {flow:?}");
        }
    }

    #[test]
    fn a_connection_of_another_tenant_ends_and_one_picked_up_is_read_backwards() {
        let now = policy("192.0.2.0/24", &[POD], 0);
        let mark = crate::mark::mark(1, 1, MAPPED | PICKED_UP);
        let picked_up = Flow::imagined(6, mark, [POD, CLIENT, CLIENT, EXTERNAL]);

        assert_eq!(judge(&mapped(6, 2), &now, &now), Fate::Cut);
        assert_eq!(judge(&picked_up, &now, &now), Fate::Keep);
    }
}
