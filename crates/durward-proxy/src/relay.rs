//! Relay of bytes between a client and an upstream until both directions end.
//!
//! Between two plain sockets large transfers are joined in the kernel by splice(2); small ones, and all with TLS on either side, are copied. An end
//! of stream is passed on to the other side; a broken connection breaks the other.

mod copy;
mod meter;
mod pipe;
mod splice;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use socket2::TcpKeepalive;
use tokio::net::TcpStream;

use crate::core::Core;
use crate::io::Io;
use crate::prepared::TenantView;
use crate::refusal::Refusal;
use crate::turns;
use crate::upstream::Lease;
use crate::watch::{Expired, Watch};
use meter::Meter;

/// Pause after which the kernel asks whether the peer is still there, and the pause between two such questions. Only for connections that may be idle for
/// hours: for them it is the only sign of a peer that is gone.
const ALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15));
/// Questions without an answer that break the connection.
const QUESTIONS: u32 = 4;

/// Bytes copied at once at most.
const SCRATCH: usize = 64 * 1024;
/// Steps that a direction takes in a row before other tasks run.
const BURST: usize = turns::BYTES / SCRATCH;

thread_local! {
    static SCRATCH_BYTES: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

fn keep_alive(socket: &TcpStream) {
    let how = TcpKeepalive::new().with_time(ALIVE.0).with_interval(ALIVE.1).with_retries(QUESTIONS);
    let _only_dead_peers_stay_longer = socket2::SockRef::from(socket).set_tcp_keepalive(&how);
}

/// Result of a relay.
#[derive(Debug)]
pub(crate) struct Relayed {
    /// Bytes received from the client.
    pub(crate) from_client: u64,
    /// Bytes received from the upstream.
    pub(crate) from_upstream: u64,
    /// Reason of an abort; `None` if both directions ended properly.
    pub(crate) ended: Option<Refusal>,
}

/// Direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToUpstream,
    ToClient,
}

/// Side that broke the connection, or resource that ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Client,
    Upstream,
    Memory,
}

impl Way {
    fn source(self) -> Broken {
        match self {
            Self::ToUpstream => Broken::Client,
            Self::ToClient => Broken::Upstream,
        }
    }

    fn sink(self) -> Broken {
        match self {
            Self::ToUpstream => Broken::Upstream,
            Self::ToClient => Broken::Client,
        }
    }
}

/// One of the two connections, and bytes read from it before.
pub(crate) struct Side {
    pub(crate) io: Io,
    pub(crate) early: Vec<u8>,
}

/// Relays bytes, beginning with those already read, until both directions end, a side breaks, or `watch` fires. `lease` is the upstream connection's.
pub(crate) async fn relay(
    core: &Rc<Core>,
    view: &TenantView,
    watch: &Watch,
    Side { io: mut client, early: to_upstream }: Side,
    Side { io: mut upstream, early: to_client }: Side,
    lease: &Lease,
) -> Relayed {
    let meter = Meter::new(core, view, watch, (to_upstream.len(), to_client.len()), lease);
    let may_be_idle = lease.upstream().upstream.stream_idle.is_some();
    watch.arm(Some(meter.patience()), false);
    let carried = match (&mut client, &mut upstream) {
        (Io::Tcp(client), Io::Tcp(upstream)) => {
            let early = (to_upstream, to_client);
            watch.guard(splice::both(&meter, client, upstream, early, may_be_idle)).await
        }
        (client, upstream) => {
            if may_be_idle {
                let sockets = [client.socket(), upstream.socket()];
                sockets.into_iter().flatten().for_each(keep_alive);
            }
            watch.guard(copy::both(&meter, client, upstream, to_upstream, to_client)).await
        }
    };
    let ended = match carried {
        Ok(Ok(())) => None,
        Ok(Err(Broken::Client)) => Some(Refusal::ClientClosed),
        Ok(Err(Broken::Upstream)) => Some(Refusal::UpstreamClosed { peer: lease.peer.0 }),
        Ok(Err(Broken::Memory)) => Some(Refusal::Memory),
        Err(Expired::Deadline) => Some(Refusal::ClientTimeout { phase: "stream" }),
        Err(Expired::Closing) => Some(Refusal::closing(watch)),
    };
    if ended.is_some() {
        // An abort must not look like a proper end of stream to either side.
        for io in [&client, &upstream] {
            io.reset_on_close();
        }
    }
    Relayed {
        from_client: meter.seen_from_client(),
        from_upstream: meter.seen_from_upstream(),
        ended,
    }
}
