//! Proofs of the public endpoint of a link's cluster: at first, and every 30 seconds.
//!
//! The endpoint is a stranger's word. It is judged like a forward proxy's destination, and used for a host only while it gives what the link gives: a
//! certificate for the host, or, without TLS, an answer that only the link's agents can compute; and the status of one HEAD.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use durward_link::control::{ClusterState, PROOF_PATH, ProofKey, RoutingMode};
use durward_model::egress::{Asked, Host, Mode, Policy, Rule};
use durward_model::{ClientAddr, Origin};
use futures_util::{StreamExt, stream};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::core::Core;
use crate::decisions::Passage;
use crate::egress_proxy;
use crate::http::client::{self, Ask};
use crate::prepared::TenantView;
use crate::upstream::direct::{self, ProvenEndpoint};
use crate::upstream::{ClusterReport, LinkState, UpstreamRuntime, visit};

/// Interval of proofs.
const AGAIN: Duration = Duration::from_secs(30);
/// Shortest interval of proofs, whatever the agent says.
const SOONEST: Duration = Duration::from_secs(3);
/// Interval at which hosts and endpoint are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Hosts of a link that are proven; the others go over the link.
const HOSTS: usize = 256;
/// Hosts that are proven at once.
const AT_ONCE: usize = 4;
/// Hosts that fail before the first one is proven, after which the others are not asked for.
const ENOUGH: usize = 8;
/// Time for all hosts.
const ROUND: Duration = Duration::from_secs(20);
/// Time for the agent's answer.
const ANSWER: Duration = Duration::from_secs(5);

/// What proves endpoints for one control carrier.
pub(super) struct Prover<'a> {
    pub(super) core: &'a Rc<Core>,
    pub(super) view: &'a TenantView,
    pub(super) client: ClientAddr,
    pub(super) link: Arc<LinkState>,
    pub(super) cluster: watch::Receiver<ClusterState>,
}

/// Takes the endpoint out of use when the carrier ends, or offers it no longer.
struct Ending(Arc<LinkState>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.set_direct(None);
    }
}

impl Prover<'_> {
    /// Proves what the agent says, again and again.
    pub(super) async fn run(mut self) -> std::convert::Infallible {
        loop {
            let said = self.cluster.borrow_and_update().clone();
            if !offers(&said) {
                self.link.say_unless_proving(said);
                // The sender lives as long as the carrier.
                let _ = self.cluster.changed().await;
                continue;
            }
            // Another agent of the link may prove the same endpoint.
            let turn = self.link.prover().await;
            let ending = Ending(Arc::clone(&self.link));
            self.prove().await;
            drop((ending, turn));
        }
    }

    /// Proves endpoints until the agent offers none.
    async fn prove(&mut self) {
        let mut last: Option<(Instant, ClusterState, BTreeSet<Arc<str>>)> = None;
        loop {
            let said = self.cluster.borrow_and_update().clone();
            if !offers(&said) {
                return;
            }
            let routes = self.routes();
            let hosts: BTreeSet<Arc<str>> =
                routes.iter().map(|(host, _)| Arc::clone(host)).collect();
            let is_due = last.as_ref().is_none_or(|(at, before, known)| {
                let elapsed = at.elapsed();
                let is_other = *before != said_alike(&said) || *known != hosts;
                let is_lost = !known.is_empty() && !self.link.is_proven();
                elapsed >= AGAIN
                    || (elapsed >= SOONEST && (is_other || is_lost && elapsed >= LOOK * 5))
            });
            if is_due {
                let outcome = self.round(&said, &routes).await;
                self.report(&said, outcome);
                last = Some((Instant::now(), said_alike(&said), hosts));
            }
            tokio::select! {
                _ = self.cluster.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Returns the hosts that may be direct, with their upstreams, as the configuration of this moment has them.
    fn routes(&self) -> Vec<(Arc<str>, Arc<UpstreamRuntime>)> {
        let Some(view) = self.renewed() else { return Vec::new() };
        let name = self.link.name();
        let is_its =
            |runtime: &&Arc<UpstreamRuntime>| runtime.upstream.link.as_deref() == Some(name);
        let of = |runtime: &Arc<UpstreamRuntime>| {
            let direct = runtime.upstream.direct.as_ref()?;
            Some((Arc::clone(&direct.host), Arc::clone(runtime)))
        };
        let all = view.tenant().upstreams.iter().filter(is_its).filter_map(of);
        all.take(HOSTS).collect()
    }

    fn renewed(&self) -> Option<TenantView> {
        self.view.renewed(&self.core.shared.prepared.load(), self.client.0.ip())
    }

    /// Proves the endpoint for all hosts. Returns it with the hosts that it is proven for, and a reason where that are not all.
    async fn round(
        &self,
        said: &ClusterState,
        routes: &[(Arc<str>, Arc<UpstreamRuntime>)],
    ) -> Result<(ProvenEndpoint, Option<String>), String> {
        if routes.is_empty() {
            return Err("no registered route may be direct: write directRoutes beside linkRoutes"
                .to_owned());
        }
        let endpoint = said.public_endpoint.as_deref().unwrap_or_default();
        let candidate = self.judge(endpoint, said.public_tls).await?;
        if !said.public_tls {
            self.ask_agent(said, endpoint, &candidate).await?;
        }
        let view = self.renewed().ok_or("the listener is gone")?;
        let (proven, first) = self.hosts(&view, routes, &candidate).await;
        if proven.is_empty() {
            return Err(first.unwrap_or_else(|| "no host was proven in time".to_owned()));
        }
        Ok((candidate.with(proven), first))
    }

    /// Proves hosts, some at once. Returns those that are proven, and a reason for which the first of the others is not.
    async fn hosts(
        &self,
        view: &TenantView,
        routes: &[(Arc<str>, Arc<UpstreamRuntime>)],
        candidate: &ProvenEndpoint,
    ) -> (BTreeSet<Arc<str>>, Option<String>) {
        let (mut proven, mut failed) = (BTreeSet::new(), BTreeSet::new());
        let mut first = None;
        let proofs = stream::iter(routes).map(|(host, runtime)| {
            let (upstreams, tenant) = (&self.core.upstreams, view.tenant());
            async move { (host, direct::prove_host(upstreams, tenant, runtime, candidate).await) }
        });
        let mut proofs = std::pin::pin!(proofs.buffer_unordered(AT_ONCE));
        let deadline = Instant::now() + ROUND;
        while let Ok(Some((host, outcome))) = tokio::time::timeout_at(deadline, proofs.next()).await
        {
            match outcome {
                Ok(()) => drop(proven.insert(Arc::clone(host))),
                Err(why) => {
                    failed.insert(Arc::clone(host));
                    first.get_or_insert_with(|| format!("{host}: {why}"));
                    // An endpoint that gives nothing is not asked for every host.
                    if proven.is_empty() && failed.len() >= ENOUGH {
                        break;
                    }
                }
            }
        }
        // A host with several backends is direct if each gives the same.
        proven.retain(|host| !failed.contains(host));
        (proven, first)
    }

    /// Looks the endpoint up once, and judges every address.
    async fn judge(&self, endpoint: &str, tls: bool) -> Result<ProvenEndpoint, String> {
        let (host, port) = endpoint.rsplit_once(':').ok_or("is not HOST:PORT")?;
        let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or("has no port")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let host = Host::parse(&host).map_err(|_| "is no host in its usual form")?;
        let view = self.renewed().ok_or("the listener is gone")?;
        let policy = policy(&self.core.shared.direct_networks);
        let asked = Asked { host: &host, port, method: None };
        let mut passage = Passage::new("", &view.tenant().tenant.id, self.client);
        let judged = egress_proxy::check(self.core, &view, &policy, asked, &mut passage).await;
        let cleared = judged.map_err(|refusal| match refusal {
            crate::refusal::Refusal::PolicyDenied { rule, .. } => {
                format!("{endpoint} is refused: {rule}")
            }
            refusal => refusal.to_string(),
        })?;
        Ok(ProvenEndpoint::new(cleared.addresses, tls))
    }

    /// Asks through the endpoint what only an agent of the link can answer.
    async fn ask_agent(
        &self,
        said: &ClusterState,
        endpoint: &str,
        candidate: &ProvenEndpoint,
    ) -> Result<(), String> {
        let host = said.proof_host.as_deref();
        let host = host.ok_or(
            "the endpoint has no TLS, and the agent answers no proofs: set `proof` in its file",
        )?;
        let (key, question) =
            self.link.proof_key().zip(ProofKey::question()).ok_or("no random bytes")?;
        let path = format!("{PROOF_PATH}{}/{question}", key.name());
        let view = self.renewed().ok_or("the listener is gone")?;
        let asking = async {
            let opened = visit(&self.core.upstreams, view.access(), candidate.addresses()).await;
            let (io, _lease) = opened.map_err(|refusal| refusal.to_string())?;
            let ask = Ask {
                method: "GET",
                target: &path,
                host,
                fields: &[("User-Agent", "durward-proof")],
            };
            let answer =
                client::ask(io, ask).await.map_err(|_| "it gives no response to the proof")?;
            if answer.status != 200 {
                return Err(format!("it answers the proof with status {}", answer.status));
            }
            let expected = key.answer(&question, endpoint);
            let mut body = answer.early;
            let missing = expected.len().saturating_sub(body.len());
            let read = answer.io.take(missing as u64).read_to_end(&mut body).await;
            read.map_err(|error| error.to_string())?;
            let is_it = body.get(..expected.len()) == Some(expected.as_bytes());
            is_it
                .then_some(())
                .ok_or_else(|| "its answer to the proof is not that of the link's agent".to_owned())
        };
        tokio::time::timeout(ANSWER, asking)
            .await
            .map_err(|_| "it does not answer the proof in time")?
    }

    /// Uses what was proven, and says so where it is news.
    fn report(
        &self,
        said: &ClusterState,
        outcome: Result<(ProvenEndpoint, Option<String>), String>,
    ) {
        let (tenant, link) = (&self.view.tenant().tenant.id, self.link.name());
        let endpoint = said.public_endpoint.as_deref().unwrap_or_default();
        let was = self.link.is_proven();
        let (proven, reason) = match outcome {
            Ok((proven, reason)) => (Some(proven), reason),
            Err(reason) => (None, Some(reason)),
        };
        let direct_hosts = proven.as_ref().map(ProvenEndpoint::hosts).unwrap_or_default();
        let hosts = direct_hosts.len();
        match (&proven, was) {
            (Some(_), false) => {
                tracing::info!(%tenant, link, endpoint, hosts, "the public endpoint of a link is proven: requests go directly");
            }
            (None, true) => {
                let reason = reason.as_deref().unwrap_or_default();
                tracing::warn!(%tenant, link, endpoint, reason, "the public endpoint of a link is proven no longer: requests go over the link");
            }
            (None, false) => {
                let reason = reason.as_deref().unwrap_or_default();
                tracing::info!(%tenant, link, endpoint, reason, "the public endpoint of a link is not proven: requests go over the link");
            }
            (Some(_), true) => {}
        }
        self.link.set_direct(proven);
        self.link.set_cluster(Some(ClusterReport {
            said: said.clone(),
            direct_hosts,
            link_because: reason,
        }));
    }
}

fn offers(said: &ClusterState) -> bool {
    said.public_endpoint.is_some() && said.routing_mode != RoutingMode::Tunnel
}

/// Returns the parts of a state that a proof depends on.
fn said_alike(said: &ClusterState) -> ClusterState {
    ClusterState { gateway_routes: 0, is_private: false, ..said.clone() }
}

/// Returns the rules for endpoints: anywhere but guarded ranges, of which these networks are open.
fn policy(networks: &[ipnet::IpNet]) -> Policy {
    let rule = |blocks: Vec<ipnet::IpNet>| Rule {
        name: Arc::from("direct-routes"),
        hosts: Vec::new(),
        lists: Vec::new(),
        opens_guarded: !blocks.is_empty(),
        blocks,
        ports: vec![(1, u16::MAX)],
        methods: Vec::new(),
        origin: Origin::default(),
    };
    let mut allow = vec![rule(Vec::new())];
    if !networks.is_empty() {
        allow.push(rule(networks.to_vec()));
    }
    Policy { mode: Mode::Enforce, allow, ..Policy::default() }
}

#[cfg(test)]
mod tests {
    use durward_model::TenantId;
    use durward_model::egress::{NO_HOST, Neighbours, Outcome, Surroundings};

    use super::*;

    // S3.87+ S3.32+
    #[test]
    fn guarded_ranges_are_refused_and_only_networks_that_the_operator_named_are_open() {
        let (tenant, neighbours) = (TenantId::new("acme").unwrap(), Neighbours::default());
        let decide = |networks: &[&str], address: &str| {
            let networks: Vec<_> = networks.iter().map(|text| text.parse().unwrap()).collect();
            let address = address.parse().unwrap();
            let host = Host::Address(address);
            let asked = Asked { host: &host, port: 443, method: None };
            let around = Surroundings { tenant: &tenant, neighbours: &neighbours, host: &NO_HOST };
            policy(&networks).decide(around, asked, &[address]).outcome == Outcome::Allow
        };
        for good in ["203.0.113.9", "2001:db9::1"] {
            assert!(decide(&[], good), "{good}");
        }
        let guarded = [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.169.254",
            "fd00:ec2::254",
            "fe80::1",
            "224.0.0.1",
            "0.0.0.0",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "240.0.0.1",
            "fd00::1",
        ];
        for bad in guarded {
            assert!(!decide(&[], bad), "{bad}");
        }
        assert!(decide(&["10.1.0.0/16"], "10.1.2.3"));
        assert!(!decide(&["10.1.0.0/16"], "10.2.0.1"));
        assert!(
            !decide(&["0.0.0.0/0"], "10.2.0.1"),
            "a block must lie within the range that it opens"
        );
        assert!(!decide(&["169.254.0.0/16"], "169.254.169.254"));
    }
}
