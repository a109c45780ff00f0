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

use durward_model::UpstreamAddr;

use crate::core::Core;
use crate::io::Io;
use crate::prepared::TenantView;
use crate::refusal::Refusal;
use crate::turns;
use crate::watch::{Expired, Watch};
use meter::Meter;

/// Bytes copied at once at most.
const SCRATCH: usize = 64 * 1024;
/// Steps that a direction takes in a row before other tasks run.
const BURST: usize = turns::BYTES / SCRATCH;

thread_local! {
    static SCRATCH_BYTES: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
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

/// Relays bytes, beginning with those already read, until both directions end, a side breaks, or `watch` fires. `peer` is the upstream connection's
/// remote address.
pub(crate) async fn relay(
    core: &Rc<Core>,
    view: &TenantView,
    watch: &Watch,
    Side { io: mut client, early: to_upstream }: Side,
    Side { io: mut upstream, early: to_client }: Side,
    peer: UpstreamAddr,
) -> Relayed {
    let meter = Meter::new(core, view, watch, to_upstream.len(), to_client.len());
    watch.arm(Some(meter.patience()), false);
    let carried = match (&mut client, &mut upstream) {
        (Io::Tcp(client), Io::Tcp(upstream)) => {
            watch.guard(splice::both(&meter, client, upstream, to_upstream, to_client)).await
        }
        (client, upstream) => {
            watch.guard(copy::both(&meter, client, upstream, to_upstream, to_client)).await
        }
    };
    let ended = match carried {
        Ok(Ok(())) => None,
        Ok(Err(Broken::Client)) => Some(Refusal::ClientClosed),
        Ok(Err(Broken::Upstream)) => Some(Refusal::UpstreamClosed { peer: peer.0 }),
        Ok(Err(Broken::Memory)) => Some(Refusal::Memory),
        Err(Expired::Deadline) => Some(Refusal::ClientTimeout { phase: "stream" }),
        Err(Expired::Closing) => Some(Refusal::Draining),
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
