//! HTTP/2 connections to upstreams, shared by the streams of one path on one core.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use durward_link::session::gateway::Carrier;
use durward_link::session::liveness::{self, Rhythm};
use durward_link::session::wire::{Signs, Wire};
use h2::client::{Builder, Connection, SendRequest};

use super::path::{Connected, Path, Ticket};
use crate::http2::inspect::Findings;
use crate::http2::{HEADER_LIST, Metered, Streams};
use crate::memory::{ConnectionMemory, HTTP2_CONNECTION, Hold};
use crate::refusal::Refusal;
use crate::turns::QueueEntry;

/// Concurrent streams on one connection at most.
const STREAMS: u32 = 100;

/// Streams that were reset and are remembered for a second, so that frames under way are not taken for faults.
const RESETS: usize = 1024;

/// Bytes of a request's body that may wait for a stream's window.
const SEND_BUFFER: usize = 128 * 1024;

/// Interval of pings, and the silence after one that ends the connection.
const PING_INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 20_000 });
/// Rhythm of pings.
const PINGS: Rhythm = Rhythm { interval: PING_INTERVAL, silence: PING_INTERVAL };

/// HTTP/2 connection and its streams.
pub(crate) struct Shared {
    send: SendRequest<Bytes>,
    streams: Streams,
    /// Rules that heads and trailers broke.
    findings: Rc<Findings>,
    /// Receive window of a stream in bytes.
    window: u32,
    life: Rc<Life>,
    /// Carrier of the link that it runs through.
    carrier: Option<Arc<Carrier>>,
    ticket: Ticket,
    idle_ticks: Cell<u32>,
    /// True if a client may have authenticated on the connection.
    bound: Cell<bool>,
}

#[derive(Default)]
struct Life {
    ended: Cell<bool>,
    streams: Cell<u32>,
}

/// One stream's share of a connection.
pub(crate) struct Stream {
    shared: Rc<Shared>,
}

impl Stream {
    /// Returns the memory accounts of the connection's streams.
    pub(crate) fn accounts(&self) -> Streams {
        self.shared.streams.clone()
    }

    /// Returns the faults noted of the connection's heads and trailers.
    pub(crate) fn findings(&self) -> Rc<Findings> {
        Rc::clone(&self.shared.findings)
    }

    /// Returns the receive window of the stream in bytes.
    pub(crate) fn window(&self) -> usize {
        self.shared.window as usize
    }

    /// Keeps further streams off this connection.
    pub(crate) fn close_to_others(&self) {
        self.shared.bound.set(true);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let streams = &self.shared.life.streams;
        streams.set(streams.get().saturating_sub(1));
    }
}

impl Shared {
    /// Sends the preface on a new connection and drives it from a task of its own until it ends. `hold` pays for its streams, `window` is each
    /// stream's receive window, a header block may take `block` from its first byte to its last, and the task runs in `turn`'s turns.
    pub(crate) async fn start(
        connected: Connected,
        hold: Hold,
        window: u32,
        block: Duration,
        turn: Rc<QueueEntry>,
    ) -> Result<Rc<Self>, Refusal> {
        let peer = connected.ticket.peer.0;
        let held = ConnectionMemory::new(hold);
        held.add(HTTP2_CONNECTION);
        let streams = Streams::new(held, HEADER_LIST as usize);
        let findings = Rc::<Findings>::default();
        let carrier = connected.io.link().and_then(|stream| stream.carrier()).cloned();
        let metered = Metered::new(connected.io, streams.clone(), Rc::clone(&findings), block);
        let (wire, signs) = Wire::new(metered);
        let (send, connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(window)
            // Connection window for all streams, so that a stalled client never stops the others.
            .initial_connection_window_size(window * STREAMS)
            .max_header_list_size(HEADER_LIST)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(RESETS)
            // Clients that give up are no fault of the upstream, however many they are in a connection's life.
            .max_local_error_reset_streams(None)
            .handshake::<Wire<Metered>, Bytes>(wire)
            .await
            .map_err(|error| Refusal::ConnectFailed {
                peer,
                source: std::io::Error::other(error),
            })?;
        let life = Rc::new(Life::default());
        tokio::task::spawn_local(turn.run(drive(connection, signs, Rc::clone(&life))));
        let (idle_ticks, bound) = (Cell::new(0), Cell::new(false));
        let ticket = connected.ticket;
        Ok(Rc::new(Self {
            send,
            streams,
            findings,
            window,
            life,
            carrier,
            ticket,
            idle_ticks,
            bound,
        }))
    }

    /// Returns the handle to send a request on, and the guard that counts the stream.
    pub(crate) fn stream(self: &Rc<Self>) -> (SendRequest<Bytes>, Stream) {
        self.life.streams.set(self.life.streams.get() + 1);
        (self.send.clone(), Stream { shared: Rc::clone(self) })
    }

    /// Returns true if a new stream may begin, now or once another has ended: not after GOAWAY, an error or the end of its upstream, nor on a connection
    /// without streams on which the peer accepts none, nor through a carrier that drains or has ended.
    pub(crate) fn usable(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        !self.life.ended.get()
            && !self.bound.get()
            && !self.ticket.retired()
            && self.carrier.as_ref().is_none_or(|carrier| carrier.is_current())
            && (self.limit() > 0 || self.life.streams.get() > 0)
            && !matches!(self.send.clone().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Returns true if the peer accepts one more stream now.
    pub(crate) fn has_room(&self) -> bool {
        (self.life.streams.get() as usize) < self.limit()
    }

    /// Returns the number of concurrent streams that both sides accept.
    fn limit(&self) -> usize {
        self.send.current_max_send_streams().min(STREAMS as usize)
    }

    /// Counts a sweep; true if there was no stream during more than `ticks` of them.
    pub(crate) fn idles_longer_than(&self, ticks: u32) -> bool {
        let idle = if self.life.streams.get() == 0 { self.idle_ticks.get() + 1 } else { 0 };
        self.idle_ticks.set(idle);
        idle > ticks
    }

    pub(crate) fn path(&self) -> &Arc<Path> {
        &self.ticket.port.0
    }

    pub(crate) fn peer(&self) -> durward_model::UpstreamAddr {
        self.ticket.peer
    }

    pub(crate) fn source(&self) -> std::net::SocketAddr {
        self.ticket.source
    }
}

/// Drives and pings the connection, until it ends, the peer is dead, or no handle is left.
async fn drive(mut connection: Connection<Wire<Metered>, Bytes>, signs: Signs, life: Rc<Life>) {
    let pings = connection.ping_pong();
    let ended = tokio::select! {
        biased;
        ended = connection => ended,
        () = liveness::lost(pings, signs, PINGS, |_| false) => Ok(()),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP/2 upstream connection ended");
    }
    life.ended.set(true);
}
