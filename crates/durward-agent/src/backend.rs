//! One stream of the gateway: judged, connected to its backend, and copied to its end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use durward_link::session::agent::{Declined, Opening};
use durward_link::{Kind, RouteSet, Target};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::lookup::Lookups;
use crate::policy::{Denied, Policy};
use crate::status::Status;
use crate::{Services, Settings};
use crate::{datagrams, relay};

/// Backend that a stream asks for, and what allows the agent to connect it.
pub(crate) struct Asked {
    kind: Kind,
    target: Target,
    routes: watch::Receiver<Arc<RouteSet>>,
    services: watch::Receiver<Arc<Services>>,
}

impl Asked {
    /// Reads what a stream asks for.
    pub(crate) fn new(
        opening: &Opening,
        routes: watch::Receiver<Arc<RouteSet>>,
        services: watch::Receiver<Arc<Services>>,
    ) -> Self {
        Self { kind: opening.kind(), target: opening.target().clone(), routes, services }
    }

    /// Returns true if a route or service has the target. Routes are for bytes, and a service for streams of its kind.
    fn is_allowed(&mut self, lookups: &Lookups) -> bool {
        let services = self.services.borrow_and_update();
        // A service of TCP may be one of HTTP, too.
        let kind = if self.kind == Kind::Udp { Kind::Udp } else { Kind::Tcp };
        services.contains(&(kind, self.target.clone()))
            || kind == Kind::Tcp
                && lookups.is_target(&self.routes.borrow_and_update(), &self.target)
    }

    /// Completes when neither a route nor a service has the target any more.
    async fn removed(&mut self, lookups: &Lookups) {
        while self.is_allowed(lookups) {
            let changed = tokio::select! {
                changed = self.routes.changed() => changed,
                Ok(()) = self.services.changed() => Ok(()),
            };
            if changed.is_err() {
                // The agent ends: its streams may finish.
                return std::future::pending().await;
            }
        }
    }
}

/// Surroundings of all streams of an agent.
#[derive(Clone)]
pub(crate) struct Around {
    pub(crate) settings: Arc<Settings>,
    pub(crate) lookups: Arc<Lookups>,
    pub(crate) status: Arc<Status>,
    /// Cancelled when the agent ends.
    pub(crate) stopped: CancellationToken,
}

/// Connection to a backend.
enum Backend {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

/// Serves one stream until it ends, or its target is no route or service any more.
pub(crate) async fn serve(
    mut opening: Opening,
    mut asked: Asked,
    Around { settings, lookups, status, stopped }: Around,
) {
    let connected = tokio::select! {
        connected = connect(&settings, &mut asked, &lookups) => connected,
        // The gateway waits no longer. A backend that does not answer must not pile up attempts.
        () = opening.given_up() => return,
    };
    let target = asked.target.clone();
    let mut backend = match connected {
        Ok(backend) => backend,
        Err(declined) => {
            tracing::info!(%target, reason = %declined, "declined a stream");
            status.declined(&declined);
            return opening.decline(&declined);
        }
    };
    let Ok(mut stream) = opening.accept() else { return };
    let _counted = status.stream();
    let carrying = async {
        match &mut backend {
            Backend::Tcp(backend) => relay::copy(&mut stream, backend).await,
            Backend::Udp(backend) => datagrams::carry(&mut stream, backend, &stopped).await,
        }
    };
    let carried = tokio::select! {
        carried = carrying => Some(carried),
        () = asked.removed(&lookups) => None,
    };
    let (sent, received) = carried.unwrap_or_else(|| {
        tracing::info!(%target, "a stream is reset: its target is no route or service any more");
        match &backend {
            Backend::Tcp(backend) => relay::reset(&mut stream, backend),
            Backend::Udp(_) => stream.reset(),
        }
        (0, 0)
    });
    status.bytes(sent, received);
}

async fn connect(
    settings: &Settings,
    asked: &mut Asked,
    lookups: &Lookups,
) -> Result<Backend, Declined> {
    let forbidden = |denied: Denied| Declined::Forbidden(denied.to_string());
    if !asked.is_allowed(lookups) {
        return Err(forbidden(match asked.kind {
            Kind::Udp => Denied::NoUdpService(asked.target.clone()),
            Kind::Http | Kind::Tcp | Kind::Out => Denied::NotRegistered(asked.target.clone()),
        }));
    }
    let target = &asked.target;
    match asked.kind {
        Kind::Udp => dial(settings, lookups, target, associate).await.map(Backend::Udp),
        Kind::Http | Kind::Tcp | Kind::Out => {
            dial(settings, lookups, target, connect_tcp).await.map(Backend::Tcp)
        }
    }
}

/// Connects to a target as for a stream of TCP, and returns the address that answered.
pub(crate) async fn probe(
    settings: &Settings,
    routes: &RouteSet,
    lookups: &Lookups,
    target: &Target,
) -> Result<SocketAddr, Declined> {
    if !lookups.is_target(&Arc::new(routes.clone()), target) {
        return Err(Declined::Forbidden(Denied::NotRegistered(target.clone()).to_string()));
    }
    let connected = dial(settings, lookups, target, connect_tcp).await?;
    let peer = connected.peer_addr();
    peer.map_err(|error| Declined::Unreachable(format!("{target}: {error}")))
}

/// Connects to a target by `connect` within the time that the agent's file allows.
async fn dial<S, F>(
    settings: &Settings,
    lookups: &Lookups,
    target: &Target,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<S, Declined>
where
    F: Future<Output = io::Result<S>>,
{
    let forbidden = |denied: Denied| Declined::Forbidden(denied.to_string());
    settings.policy.judge_name(target).map_err(forbidden)?;
    let known = settings.addresses.borrow().get(target).copied();
    let connecting = reach(&settings.policy, lookups, (target, known), connect);
    match tokio::time::timeout(settings.connect_timeout, connecting).await {
        Ok(reached) => reached,
        Err(_) => {
            let seconds = settings.connect_timeout.as_secs_f32();
            Err(Declined::Unreachable(format!("{target} does not answer within {seconds} s")))
        }
    }
}

async fn connect_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Returns a socket whose datagrams go to one address and come from there alone.
async fn associate(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    Ok(socket)
}

/// Looks the target up unless its address is known, judges each address, and connects to the first that is allowed and answers.
async fn reach<S, F>(
    policy: &Policy,
    lookups: &Lookups,
    (target, known): (&Target, Option<SocketAddr>),
    connect: impl Fn(SocketAddr) -> F,
) -> Result<S, Declined>
where
    F: Future<Output = io::Result<S>>,
{
    let unreachable = |error: io::Error| Declined::Unreachable(format!("{target}: {error}"));
    let addresses: Vec<SocketAddr> = match known {
        Some(known) => vec![known],
        None => {
            let found = lookups.find(target.host()).await.map_err(unreachable)?;
            found.iter().map(|ip| SocketAddr::new(*ip, target.port())).collect()
        }
    };
    let (mut denied, mut failed) = (None, None);
    for address in addresses {
        if let Err(why) = policy.judge(address) {
            denied = Some(why);
            continue;
        }
        match connect(address).await {
            Ok(connected) => return Ok(connected),
            Err(error) => failed = Some(error),
        }
    }
    match (failed, denied) {
        (Some(error), _) => Err(unreachable(error)),
        (None, Some(denied)) => Err(Declined::Forbidden(denied.to_string())),
        (None, None) => Err(Declined::Unreachable(format!("{target} has no address"))),
    }
}
