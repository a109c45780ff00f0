//! Runtime form of an upstream: endpoints with health and load, and the TLS configuration, shared by all cores.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use durward_model::health::Probe;
use durward_model::upstream::UpstreamProtocol;
use durward_model::{ClientAddr, EgressAddress, TenantId, Upstream};
use rustls::ClientConfig;

use super::balance::{self, Tried};
use super::budget::Budget;
use super::endpoint::EndpointRuntime;
use super::health;
use super::tls_client::{self, Verify};
use crate::random::Random;
use crate::refusal::Refusal;

/// Time for which endpoints are tried one after the other for one request before its client is answered.
const ELSEWHERE: Duration = Duration::from_secs(10);

/// Runtime form of an upstream.
pub(crate) struct UpstreamRuntime {
    /// Upstream of the snapshot.
    pub(crate) upstream: Arc<Upstream>,
    pub(super) tenant: TenantId,
    pub(super) endpoints: Vec<EndpointRuntime>,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// TLS of checks, where connections for clients have none of ours.
    pub(super) check_tls: Option<Arc<ClientConfig>>,
    budget: Budget,
    turn: AtomicU32,
    /// True once a newer configuration has changed or removed the upstream: idle connections close.
    pub(super) retired: Arc<AtomicBool>,
    pub(super) checks: health::Checks,
}

impl UpstreamRuntime {
    /// Prepares an upstream. An equal one is `previous` itself; otherwise endpoints that stay keep their health and load.
    ///
    /// # Errors
    /// Fails if TLS cannot be set up as configured; the message is for users.
    pub(crate) fn prepare(
        upstream: &Arc<Upstream>,
        tenant: &TenantId,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, String> {
        if let Some(previous) = previous
            && previous.upstream == *upstream
            && previous.tenant == *tenant
        {
            return Ok(Arc::clone(previous));
        }
        let context = |error: String| format!("upstream {}: {error}", upstream.name);
        let tls = upstream.tls.as_ref();
        let config = tls.map(|tls| tls_client::client_config(tls, upstream.protocol)).transpose();
        let of_checks = upstream.check_tls.as_ref();
        let check_config = of_checks
            .map(|tls| tls_client::client_config(tls, UpstreamProtocol::Http1))
            .transpose();
        let probe = upstream.health_check.as_ref().map(|check| &check.probe);
        if tls.is_none() && of_checks.is_none() && probe == Some(&Probe::Tls) {
            return Err(context("a TLS health check needs TLS towards the upstream".to_owned()));
        }
        let runtime = Self {
            endpoints: endpoints(upstream, previous).map_err(context)?,
            upstream: Arc::clone(upstream),
            tenant: tenant.clone(),
            tls: config.map_err(context)?,
            check_tls: check_config.map_err(context)?,
            budget: Budget::new(upstream.retry.budget_percent),
            turn: AtomicU32::new(0),
            retired: Arc::default(),
            checks: health::Checks::default(),
        };
        runtime.forget_unchecked();
        // Last, so that a failed preparation does not retire the upstream being served.
        if let Some(previous) = previous {
            previous.retired.store(true, Relaxed);
        }
        Ok(Arc::new(runtime))
    }

    /// Takes the price of one more retry from the budget; false if there is not enough.
    pub(crate) fn may_retry(&self) -> bool {
        self.budget.take()
    }

    /// Returns true if another endpoint may be tried after one that could not be connected to. Nothing was sent, so it costs no budget: each endpoint
    /// is tried once, within [`ELSEWHERE`]. `retries.attempts: 0` turns this off with all retries.
    pub(crate) fn may_connect_elsewhere(&self, tried: &Tried, began: Instant) -> bool {
        self.upstream.retry.attempts > 0
            && began.elapsed() < ELSEWHERE
            && balance::is_any_left(&self.endpoints, tried)
    }

    /// Pays for a request into the retry budget.
    pub(crate) fn count_request(&self) {
        self.budget.pay();
    }

    /// Clears ejections of a kind that is no longer configured: nothing would ever end them.
    fn forget_unchecked(&self) {
        for endpoint in &self.endpoints {
            if self.upstream.health_check.is_none() {
                endpoint.state.unhealthy.store(false, Relaxed);
            }
            if self.upstream.outlier.is_none() || self.endpoints.len() < 2 {
                endpoint.state.ejected_until.store(0, Relaxed);
            }
        }
    }

    /// Returns the most ports in use to one destination, for each source address.
    pub(crate) fn busiest(&self) -> BTreeMap<EgressAddress, u32> {
        let mut busiest = BTreeMap::new();
        for (address, used) in self.endpoints.iter().flat_map(EndpointRuntime::busiest) {
            let most = busiest.entry(address).or_insert(0);
            *most = used.max(*most);
        }
        busiest
    }

    pub(super) fn choose(
        &self,
        random: &Random,
        client: ClientAddr,
        tried: &Tried,
    ) -> Result<usize, Refusal> {
        self.restore();
        let balance = self.upstream.balance;
        let random = || random.next();
        balance::choose(&self.endpoints, balance, &self.turn, client, tried, random).ok_or_else(
            || Refusal::NoEndpoint {
                upstream: self.upstream.name.to_string(),
                detail: "all endpoints are unhealthy or without weight".to_owned(),
            },
        )
    }
}

impl Drop for UpstreamRuntime {
    fn drop(&mut self) {
        self.retired.store(true, Relaxed);
    }
}

fn endpoints(
    upstream: &Upstream,
    previous: Option<&Arc<UpstreamRuntime>>,
) -> Result<Vec<EndpointRuntime>, String> {
    let before = previous.map_or(&[][..], |previous| &previous.endpoints);
    upstream
        .endpoints
        .iter()
        .map(|endpoint| {
            let target = &endpoint.target;
            let verify = upstream.tls.as_ref().map(|tls| Verify::new(tls, target)).transpose()?;
            let before = before.iter().find(|before| before.target == *target);
            Ok(EndpointRuntime::new(endpoint, verify, before))
        })
        .collect()
}
