//! Runtime form of an upstream: endpoints with health and load, and the TLS configuration, shared by all cores.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use durward_model::health::Probe;
use durward_model::upstream::{Target, UpstreamProtocol};
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
    /// TLS of direct routes, with the name to verify.
    pub(super) direct_tls: Option<(Arc<ClientConfig>, Verify)>,
    budget: Budget,
    turn: AtomicU32,
    /// True once a newer configuration has changed or removed the upstream: its checks end.
    pub(super) retired: Arc<AtomicBool>,
    pub(super) checks: health::Checks,
}

impl UpstreamRuntime {
    /// Prepares an upstream. An equal one is `previous` itself; otherwise endpoints that stay keep their health and load, and their connections where nothing but endpoints
    /// changed.
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
        let same = previous.filter(|previous| {
            previous.tenant == *tenant && differ_in_endpoints_only(&previous.upstream, upstream)
        });
        let config = match same {
            // Its sessions are resumed.
            Some(previous) => Ok(previous.tls.clone()),
            None => tls.map(|tls| tls_client::client_config(tls, upstream.protocol)).transpose(),
        };
        let of_checks = upstream.check_tls.as_ref();
        let check_config = of_checks
            .map(|tls| tls_client::client_config(tls, UpstreamProtocol::Http1))
            .transpose();
        let probe = upstream.health_check.as_ref().map(|check| &check.probe);
        if tls.is_none() && of_checks.is_none() && probe == Some(&Probe::Tls) {
            return Err(context("a TLS health check needs TLS towards the upstream".to_owned()));
        }
        let mut endpoints = endpoints(upstream, tenant, previous).map_err(context)?;
        if let Some(previous) = same {
            for endpoint in &mut endpoints {
                let before = &mut previous.endpoints.iter();
                if let Some(before) = before.find(|before| before.target == endpoint.target) {
                    endpoint.go_on(before);
                }
            }
        }
        let runtime = Self {
            endpoints,
            upstream: Arc::clone(upstream),
            tenant: tenant.clone(),
            tls: config.map_err(context)?,
            check_tls: check_config.map_err(context)?,
            direct_tls: direct_tls(upstream, same).map_err(context)?,
            budget: Budget::new(upstream.retry.budget_percent),
            turn: AtomicU32::new(0),
            retired: Arc::default(),
            checks: health::Checks::default(),
        };
        runtime.forget_unchecked();
        // Last, so that a failed preparation does not retire the upstream being served.
        if let Some(previous) = previous {
            previous.retired.store(true, Relaxed);
            previous.end_lives_but_those_of(&runtime);
        }
        Ok(Arc::new(runtime))
    }

    /// Ends the use of connections to endpoints that the next configuration does not go on with.
    fn end_lives_but_those_of(&self, next: &Self) {
        for endpoint in &self.endpoints {
            let goes_on = |next: &EndpointRuntime| Arc::ptr_eq(&next.life, &endpoint.life);
            if !next.endpoints.iter().any(goes_on) {
                endpoint.life.end();
            }
        }
    }

    /// Returns the endpoint that a connection is to, by the flag that it looks at; `None` for a connection of another upstream, or of this one before it changed.
    pub(super) fn endpoint_of(&self, retired: &Arc<AtomicBool>) -> Option<usize> {
        self.endpoints.iter().position(|endpoint| Arc::ptr_eq(endpoint.life.retired(), retired))
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

/// Returns the TLS of direct routes; that of the same upstream before is used again.
fn direct_tls(
    upstream: &Upstream,
    same: Option<&Arc<UpstreamRuntime>>,
) -> Result<Option<(Arc<ClientConfig>, Verify)>, String> {
    let Some(direct) = &upstream.direct else { return Ok(None) };
    if let Some(same) = same {
        return Ok(same.direct_tls.clone());
    }
    let target = Target::Name { host: Arc::clone(&direct.host), port: 443 };
    let verify = Verify::new(&direct.tls, &target)?;
    Ok(Some((tls_client::client_config(&direct.tls, upstream.protocol)?, verify)))
}

/// Returns whether connections to an endpoint of one may serve the other.
fn differ_in_endpoints_only(one: &Upstream, other: &Upstream) -> bool {
    let but_endpoints =
        |upstream: &Upstream| Upstream { endpoints: Vec::new(), ..upstream.clone() };
    but_endpoints(one) == but_endpoints(other)
}

fn endpoints(
    upstream: &Upstream,
    tenant: &TenantId,
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
            let runtime = EndpointRuntime::new(endpoint, verify, before);
            Ok(runtime.behind(tenant, upstream))
        })
        .collect()
}
