//! Bytes both ways between a client and an upstream until both have said their last.
//!
//! Two plain sockets are joined in the kernel by splice(2); with TLS on either side bytes are copied. A side that is done writing is told to
//! the other; one that breaks off breaks the other off. Deliberately absent: buffers for connections that are silent.

mod copy;
mod meter;
mod pipe;
mod splice;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::core::Core;
use crate::io::Io;
use crate::prepared::TenantView;
use crate::refusal::Refusal;
use crate::watch::{Expired, Watch};
use meter::Meter;

/// The most bytes copied at once.
const SCRATCH: usize = 64 * 1024;
/// Turns a direction takes in a row before others get theirs.
const BURST: u32 = 16;

thread_local! {
    static SCRATCH_BYTES: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// How a relay went.
#[derive(Debug)]
pub(crate) struct Relayed {
    /// Bytes received from the client.
    pub(crate) from_client: u64,
    /// Bytes received from the upstream.
    pub(crate) from_upstream: u64,
    /// Why it was broken off; `None` when both sides had said their last.
    pub(crate) ended: Option<Refusal>,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToUpstream,
    ToClient,
}

/// The side that broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Client,
    Upstream,
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

/// Carries bytes both ways, beginning with those already read, until both sides are done, one breaks off, or `watch` fires.
#[expect(
    clippy::too_many_arguments,
    reason = "two streams and what was read ahead of each, beside what every connection has"
)]
pub(crate) async fn relay(
    core: &Rc<Core>,
    view: &TenantView,
    watch: &Watch,
    mut client: Io,
    mut upstream: Io,
    to_upstream: Vec<u8>,
    to_client: Vec<u8>,
) -> Relayed {
    let meter = Meter::new(core, view, watch, to_upstream.len(), to_client.len());
    watch.arm(Some(meter.patience()), false);
    // Once it has reset, a socket does not know its peer any more.
    let peer = upstream.socket().peer_addr();
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
        Ok(Err(Broken::Upstream)) => Some(upstream_closed(peer)),
        Err(Expired::Deadline) => Some(Refusal::ClientTimeout { phase: "stream" }),
        Err(Expired::Closing) => Some(Refusal::Draining),
    };
    if ended.is_some() {
        // Not a normal end, so neither side may take it for one.
        for io in [&client, &upstream] {
            let _ = io.socket().set_zero_linger();
        }
    }
    Relayed {
        from_client: meter.seen_from_client(),
        from_upstream: meter.seen_from_upstream(),
        ended,
    }
}

fn upstream_closed(peer: io::Result<SocketAddr>) -> Refusal {
    match peer {
        Ok(peer) => Refusal::UpstreamClosed { peer },
        Err(error) => Refusal::Socket(error),
    }
}
