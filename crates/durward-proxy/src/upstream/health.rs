//! Active health checks: requests to endpoints from the tenant's own address, never the node's.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use durward_model::health::{HealthCheck, Probe};
use durward_model::upstream::UpstreamProtocol;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::Attempt;
use super::endpoint::EndpointRuntime;
use super::path::Connected;
use super::per_core::Upstreams;
use super::proxy_header;
use super::runtime::UpstreamRuntime;
use super::tenant::TenantRuntime;
use super::tls_client::{self, Verify};
use crate::http::client::{self, Ask, HeadFault};
use crate::io::Io;
use crate::metrics::Counter;
use crate::refusal::Refusal;

/// Time for a checked endpoint to end its connection, and bytes that it may send meanwhile.
const GOODBYE: (Duration, u64) = (Duration::from_secs(1), 64 * 1024);

/// Bytes of a server's first record up to the type of its first message; types of records and of that message (RFC 8446, sections 4 and 5.1).
const SERVER_HELLO: usize = 6;
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
const SERVER_HELLO_MESSAGE: u8 = 2;

const AGENT: &str = "durward-health-check";

/// State of an upstream's checks, and the tenant on whose behalf they run.
#[derive(Default)]
pub(crate) struct Checks {
    running: AtomicBool,
    tenant: Mutex<Weak<TenantRuntime>>,
}

impl Checks {
    fn renew(&self, tenant: &Arc<TenantRuntime>) {
        *self.tenant.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(tenant);
    }

    fn tenant(&self) -> Option<Arc<TenantRuntime>> {
        self.tenant.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }
}

/// Starts the checks of these tenants that are not running yet. Called on core 0 after each apply; checks of removed upstreams end by themselves.
pub(crate) fn spawn_health_checks<'a>(
    upstreams: &Rc<Upstreams>,
    tenants: impl Iterator<Item = &'a Arc<TenantRuntime>>,
) {
    for tenant in tenants {
        for runtime in tenant.upstreams.iter().filter(|r| r.upstream.health_check.is_some()) {
            runtime.checks.renew(tenant);
            if !runtime.checks.running.swap(true, Relaxed) {
                tokio::task::spawn_local(check(Rc::downgrade(upstreams), Arc::downgrade(runtime)));
            }
        }
    }
}

/// Checks one upstream until it is retired, its tenant is gone, or the core drains.
async fn check(upstreams: std::rc::Weak<Upstreams>, runtime: Weak<UpstreamRuntime>) {
    loop {
        let pause = {
            let (Some(upstreams), Some(runtime)) = (upstreams.upgrade(), runtime.upgrade()) else {
                return;
            };
            let Some(check) = &runtime.upstream.health_check else { return };
            let tenant = runtime.checks.tenant();
            let (Some(tenant), false) = (tenant, upstreams.watchdog.draining()) else {
                runtime.checks.running.store(false, Relaxed);
                return;
            };
            if runtime.retired.load(Relaxed) {
                return;
            }
            round(&upstreams, &tenant, &runtime, check).await;
            jittered(check.interval, upstreams.random.next())
        };
        tokio::time::sleep(pause).await;
    }
}

/// Returns the interval, varied by up to a tenth.
fn jittered(interval: Duration, random: u32) -> Duration {
    let share = f64::from(random) / f64::from(u32::MAX);
    interval.mul_f64(0.9 + 0.2 * share)
}

/// Checks every endpoint once.
async fn round(
    upstreams: &Rc<Upstreams>,
    tenant: &TenantRuntime,
    runtime: &Arc<UpstreamRuntime>,
    check: &HealthCheck,
) {
    let mut probes: FuturesUnordered<_> = runtime
        .endpoints
        .iter()
        .map(|endpoint| async move {
            let _slot = tenant.usage.health_slot().await;
            let asked = ask(upstreams, tenant, runtime, endpoint);
            let outcome = match tokio::time::timeout(check.timeout, Box::pin(asked)).await {
                Ok(outcome) => outcome,
                Err(_) => Err("no answer in time".to_owned()),
            };
            (endpoint, outcome)
        })
        .collect();
    while let Some((endpoint, outcome)) = probes.next().await {
        record(upstreams.core, tenant, runtime, endpoint, &outcome);
    }
}

/// Counts a result, and changes the endpoint's state after enough equal ones in a row.
fn record(
    core: usize,
    tenant: &TenantRuntime,
    runtime: &UpstreamRuntime,
    endpoint: &EndpointRuntime,
    outcome: &Result<(), String>,
) {
    let Some(check) = &runtime.upstream.health_check else { return };
    let state = &endpoint.state;
    let unhealthy = state.unhealthy.load(Relaxed);
    // The result confirms the present state, so the run of contrary results ends.
    if outcome.is_ok() != unhealthy {
        state.checks.store(0, Relaxed);
        return;
    }
    let needed = if unhealthy { check.healthy_after } else { check.unhealthy_after };
    if state.checks.fetch_add(1, Relaxed) + 1 < needed {
        return;
    }
    state.checks.store(0, Relaxed);
    state.unhealthy.store(!unhealthy, Relaxed);
    let (metrics, upstream) = (&tenant.metrics, &runtime.upstream.name);
    let tenant = &runtime.tenant;
    match outcome {
        Ok(()) => {
            tracing::info!(%tenant, %upstream, endpoint = %endpoint.target, "endpoint restored: its checks pass");
        }
        Err(cause) => {
            metrics.core(core).add(Counter::Ejections, 1);
            tracing::warn!(%tenant, %upstream, endpoint = %endpoint.target, %cause, "endpoint ejected: its checks fail");
        }
    }
}

/// Performs one check, connect included.
async fn ask(
    upstreams: &Rc<Upstreams>,
    tenant: &TenantRuntime,
    runtime: &Arc<UpstreamRuntime>,
    endpoint: &EndpointRuntime,
) -> Result<(), String> {
    let Some(check) = &runtime.upstream.health_check else { return Ok(()) };
    let said = |error: Refusal| sentence(&error);
    let addresses =
        endpoint.addresses(&upstreams.resolver, &runtime.upstream).await.map_err(said)?;
    let attempt = Attempt {
        upstreams,
        tenant,
        runtime,
        endpoint,
        addresses: &addresses,
        speaks_first: false,
    };
    let header = runtime.upstream.send_proxy.map(proxy_header::own);
    let mut connected = attempt.connect(None, header, check.timeout).await.map_err(said)?;
    if check.probe == Probe::ServerHello {
        server_hello(&mut connected.io).await?;
    } else {
        connected = secured(runtime, endpoint, connected).await.map_err(said)?;
    }
    let Probe::Http { path, host, from, to } = &check.probe else {
        tokio::task::spawn_local(end(connected));
        return Ok(());
    };
    let host = match host {
        Some(host) => host.to_string(),
        None => endpoint.target.to_string(),
    };
    let status = match runtime.upstream.protocol {
        UpstreamProtocol::Http2 => http2_status(&attempt, connected, path, &host).await?,
        _ => http1_status(connected, path, &host).await?,
    };
    if (*from..=*to).contains(&status) { Ok(()) } else { Err(format!("status {status}")) }
}

/// Adds the TLS of checks, where connections for clients have none of ours.
async fn secured(
    runtime: &UpstreamRuntime,
    endpoint: &EndpointRuntime,
    connected: Connected,
) -> Result<Connected, Refusal> {
    let tls = runtime.check_tls.as_ref().zip(runtime.upstream.check_tls.as_ref());
    let (Some((config, tls)), Io::Tcp(_)) = (tls, &connected.io) else { return Ok(connected) };
    let peer = connected.io.peer_addr().map_err(Refusal::Socket)?;
    let verify = Verify::new(tls, &endpoint.target)
        .map_err(|detail| Refusal::UpstreamTls { peer, source: std::io::Error::other(detail) })?;
    let Connected { io, ticket, took } = connected;
    let Io::Tcp(stream) = io else { return Ok(Connected { io, ticket, took }) };
    let io = tls_client::handshake(config, &verify, stream, peer).await?;
    Ok(Connected { io, ticket, took })
}

/// Sends a ClientHello and reads the first record of the answer. Nothing of the answer is believed but that a TLS server gave it.
async fn server_hello(io: &mut Io) -> Result<(), String> {
    let hello = tls_client::client_hello()?;
    let said = |error: std::io::Error| error.to_string();
    io.write_all(&hello).await.map_err(said)?;
    let mut start = [0; SERVER_HELLO];
    io.read_exact(&mut start).await.map_err(said)?;
    match start {
        [HANDSHAKE, 3, _, _, _, SERVER_HELLO_MESSAGE] => Ok(()),
        [ALERT, 3, _, _, _, _] => Err("a TLS alert is the answer to a ClientHello".to_owned()),
        _ => Err("what answers a ClientHello is not TLS".to_owned()),
    }
}

async fn http1_status(connected: Connected, path: &str, host: &str) -> Result<u16, String> {
    let fields = &[("User-Agent", AGENT), ("Connection", "close")];
    let ask = Ask { method: "GET", target: path, host, fields };
    let Connected { io, ticket, took } = connected;
    let answer = client::ask(io, ask).await.map_err(|fault| match fault {
        HeadFault::Malformed(refusal) | HeadFault::Unfit(refusal) => sentence(&refusal),
        HeadFault::Closed | HeadFault::Refused | HeadFault::Reset(_) => {
            "connection closed before the end of a response head".to_owned()
        }
    })?;
    tokio::task::spawn_local(end(Connected { io: answer.io, ticket, took }));
    Ok(answer.status)
}

/// Ends a connection so that the endpoint sees no reset: shuts the write side down (in TLS, too), and reads what still arrives. A socket that is
/// closed with unread bytes sends a reset.
async fn end(mut connected: Connected) {
    let io = &mut connected.io;
    let goodbye = async {
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(GOODBYE.1), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(GOODBYE.0, goodbye).await;
}

async fn http2_status(
    attempt: &Attempt<'_>,
    connected: Connected,
    path: &str,
    host: &str,
) -> Result<u16, String> {
    let scheme = if matches!(connected.io, Io::Tls(_)) { "https" } else { "http" };
    let shared = attempt.http2(connected).await.map_err(|refusal| sentence(&refusal))?;
    let (send, stream) = shared.stream();
    let request = http::Request::get(format!("{scheme}://{host}{path}"))
        .version(http::Version::HTTP_2)
        .header("user-agent", AGENT)
        .body(())
        .map_err(|error| error.to_string())?;
    let mut send = send.ready().await.map_err(|error| error.to_string())?;
    let (answer, _) = send.send_request(request, true).map_err(|error| error.to_string())?;
    let answer = answer.await.map_err(|error| error.to_string())?;
    let status = answer.status().as_u16();
    tokio::task::spawn_local(async move {
        let _connection = (shared, send, stream);
        let _ = tokio::time::timeout(GOODBYE.0, read_out(answer.into_body())).await;
    });
    Ok(status)
}

/// Reads a response's body to its end: a stream that is dropped earlier is reset.
async fn read_out(mut body: h2::RecvStream) {
    let mut left = GOODBYE.1;
    while let Some(Ok(data)) = body.data().await {
        left = left.saturating_sub(data.len() as u64);
        if left == 0 || body.flow_control().release_capacity(data.len()).is_err() {
            return;
        }
    }
}

/// Formats an error with its causes.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        sentence.push_str(": ");
        sentence.push_str(&error.to_string());
        cause = error.source();
    }
    sentence
}
