//! UDP sessions: the datagrams of one client address and port, over one stream of a link, until neither side has sent any for a while.
//!
//! Nothing here waits for a slow side: what finds no room is dropped, as a network would.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use durward_link::Datagrams;
use durward_link::session::LinkStream;
use durward_model::Service;
use durward_model::limits::Limits;
use tokio::net::UdpSocket;

use crate::admitted::AdmittedSession;
use crate::core::Core;
use crate::io::Io;
use crate::limits::Usage;
use crate::metrics::{Cells, Counter};
use crate::outcome::{Outcome, upstream_record};
use crate::prepared::TenantView;
use crate::refusal::Refusal;
use crate::tcp;
use crate::turns;
use crate::upstream::Lease;
use crate::watch::{Expired, Watch};

/// Datagrams of a client that wait for its stream at most.
const QUEUED: usize = 64;
/// Bytes of datagrams that wait; one datagram may always.
const QUEUED_BYTES: usize = 32 * 1024;
/// Datagrams of each direction carried in a row before other tasks run.
const BURST: usize = 32;
/// Time for which a session that gets no datagrams any more still passes answers on.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Longest pause of a client that has sent one datagram only.
const UNCONFIRMED: Duration = Duration::from_secs(30);
/// Pause after a session that could not be connected, during which its client's datagrams are dropped: one attempt and one log line a second.
const REST: Duration = Duration::from_secs(1);

/// Datagrams of one client on their way to its session. Dropped or closed, it takes no more.
#[derive(Debug, Default)]
pub(crate) struct Inlet {
    waiting: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    closed: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl Inlet {
    /// Takes a datagram; returns false if it is dropped for lack of room.
    pub(crate) fn push(&self, datagram: &[u8]) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let fits = waiting.is_empty() || self.bytes.get() + datagram.len() <= QUEUED_BYTES;
        if self.closed.get() || waiting.len() >= QUEUED || !fits {
            return false;
        }
        self.bytes.set(self.bytes.get() + datagram.len());
        waiting.push_back(Bytes::copy_from_slice(datagram));
        drop(waiting);
        let reader = self.reader.borrow_mut().take();
        reader.into_iter().for_each(Waker::wake);
        true
    }

    /// Drops what waits, and takes no more.
    fn close(&self) {
        self.closed.set(true);
        self.waiting.borrow_mut().clear();
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if let Some(datagram) = self.waiting.borrow_mut().pop_front() {
            self.bytes.set(self.bytes.get() - datagram.len());
            return Poll::Ready(datagram);
        }
        *self.reader.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Serves a session to its end. `leave` takes the session out of the table of its socket, so that the client's next datagram begins another.
pub(crate) async fn serve(
    session: AdmittedSession,
    inlet: Rc<Inlet>,
    socket: Rc<UdpSocket>,
    leave: impl Fn(),
) {
    let AdmittedSession { core, view, facts, watch, counted } = session;
    let Service::Udp(service) = &view.listener().service else { return leave() };
    let choice = tcp::choose(&service.upstreams, core.random());
    let connecting = tcp::connect(&core, &view, choice, (&facts, false));
    let connected = match watch.guard(connecting).await {
        Ok(connected) => connected,
        Err(_) => Err((Refusal::closing(&watch), 0)),
    };
    let mut carried = Carried::default();
    let (ended, lease, retries) = match connected {
        Ok((Io::Link(stream), lease, retries)) => {
            let client = facts.client.0;
            let mut carrying = Carrying {
                core: &core,
                view: &view,
                watch: &watch,
                inlet: &inlet,
                socket: &socket,
                client,
                idle: view.tenant().tenant.limits.timeouts.udp_idle,
            };
            let ended = carrying.run(*stream, &mut carried, &lease, &leave).await;
            match &ended {
                Some(refusal) if carried.to_client.bytes == 0 => lease.failed(refusal),
                _ => lease.served(200),
            }
            (ended, Some(lease), retries)
        }
        // The configuration has no upstreams for datagrams but those of links.
        Ok((_, _, retries)) => (Some(Refusal::NoRoute), None, retries),
        Err((refusal, retries)) => (Some(refusal), None, retries),
    };
    let bytes = (carried.from_client.bytes, carried.to_client.bytes);
    let upstream = choice.and_then(|choice| view.tenant().upstreams.get(choice.upstream.0));
    let upstream = upstream
        .zip(lease.as_ref())
        .map(|(upstream, lease)| upstream_record(&upstream.upstream.name, lease, retries));
    let outcome = Outcome { kind: "udp", upstream, bytes, refusal: ended.as_ref() };
    outcome.record(&core, Some(view.tenant()), &facts);
    inlet.close();
    if lease.is_none() {
        // The place in the table keeps what follows from one attempt per datagram.
        let _ = watch.guard(tokio::time::sleep(REST)).await;
    }
    leave();
    drop(counted);
}

/// Amount carried.
#[derive(Debug, Default)]
struct Carried {
    from_client: Amount,
    to_client: Amount,
}

#[derive(Debug, Default)]
struct Amount {
    bytes: u64,
}

/// A session that is connected.
struct Carrying<'a> {
    core: &'a Core,
    view: &'a TenantView,
    watch: &'a Watch,
    inlet: &'a Inlet,
    socket: &'a UdpSocket,
    client: SocketAddr,
    idle: Duration,
}

impl Carrying<'_> {
    /// Carries datagrams both ways until the session ends; returns the reason unless that is a pause of both sides, or the agent's end.
    async fn run(
        &mut self,
        stream: LinkStream,
        carried: &mut Carried,
        lease: &Lease,
        leave: &impl Fn(),
    ) -> Option<Refusal> {
        let mut datagrams = Datagrams::new(stream);
        self.watch.arm(Some(self.idle.min(UNCONFIRMED)), false);
        let both = poll_fn(|cx| self.poll_carry(cx, &mut datagrams, carried));
        let left = async {
            self.watch.leaving().await;
            // What the client sends from now on belongs to another session: of the new configuration, or of the next process.
            leave();
            tokio::time::sleep(LAST_ANSWERS).await;
        };
        let ended = self.watch.guard(async {
            tokio::select! {
                ended = both => ended.map(Some),
                () = left => Ok(None),
            }
        });
        match ended.await {
            Ok(Ok(Some(()))) => None,
            Ok(Ok(None)) => Some(Refusal::closing(self.watch)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a UDP session's stream broke");
                Some(Refusal::UpstreamClosed { peer: lease.peer.0 })
            }
            Err(Expired::Deadline) => None,
            Err(Expired::Closing) => Some(Refusal::closing(self.watch)),
        }
    }

    /// Carries what is there. Completes at the end of the stream.
    fn poll_carry(
        &self,
        cx: &mut Context<'_>,
        datagrams: &mut Datagrams<LinkStream>,
        carried: &mut Carried,
    ) -> Poll<io::Result<()>> {
        let mut busy = 0;
        while busy < BURST && datagrams.poll_ready(cx)?.is_ready() {
            let Poll::Ready(datagram) = self.inlet.poll_next(cx) else { break };
            busy += 1;
            // Only the client keeps its session: the source of its first datagram may be forged, and answers to a stranger must end.
            let is_first = carried.from_client.bytes == 0;
            self.watch.extend(if is_first { self.idle.min(UNCONFIRMED) } else { self.idle });
            if self.allows(datagram.len(), Usage::admits_in) {
                datagrams.queue(&datagram);
                carried.from_client.bytes += datagram.len() as u64;
                self.count(Counter::UdpDatagramsIn, datagram.len());
            }
        }
        let mut answers = 0;
        while answers < BURST {
            let Poll::Ready(received) = datagrams.poll_receive(cx)? else { break };
            let Some(datagram) = received else { return Poll::Ready(Ok(())) };
            answers += 1;
            self.answer(&datagram, carried);
        }
        if busy == BURST || answers == BURST {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Sends a datagram to the client from the listener's own socket.
    fn answer(&self, datagram: &[u8], carried: &mut Carried) {
        if !self.allows(datagram.len(), Usage::admits_out) {
            return;
        }
        // A full socket buffer, or a datagram that the path does not carry, costs the datagram.
        match self.socket.try_send_to(datagram, self.client) {
            Ok(_) => {
                carried.to_client.bytes += datagram.len() as u64;
                self.count(Counter::UdpDatagramsOut, datagram.len());
            }
            Err(_) => self.cells().add(Counter::UdpDatagramsDropped, 1),
        }
    }

    /// Returns false for a datagram beyond the tenant's bandwidth, which is dropped.
    fn allows(&self, bytes: usize, admits: impl Fn(&Usage, &Limits, u64) -> bool) -> bool {
        let tenant = self.view.tenant();
        let allowed = admits(&tenant.usage, &tenant.tenant.limits, bytes as u64);
        if !allowed {
            self.cells().add(Counter::UdpDatagramsDropped, 1);
        }
        allowed
    }

    fn count(&self, counter: Counter, bytes: usize) {
        let [to_client, from_client] = [Counter::ClientBytesOut, Counter::ClientBytesIn];
        let of_bytes = if counter == Counter::UdpDatagramsIn { from_client } else { to_client };
        self.cells().add(counter, 1);
        self.cells().add(of_bytes, bytes as u64);
        turns::spend(bytes);
    }

    fn cells(&self) -> &Cells {
        self.view.tenant().metrics.core(self.core.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S3.79+
    #[test]
    fn datagrams_that_nobody_takes_are_dropped_and_those_before_stay_whole() {
        let inlet = Inlet::default();
        let taken = (0..1000u32).filter(|number| inlet.push(&number.to_be_bytes())).count();
        assert_eq!(taken, QUEUED);

        let mut cx = Context::from_waker(Waker::noop());
        for number in 0..QUEUED as u32 {
            assert_eq!(inlet.poll_next(&mut cx), Poll::Ready(number.to_be_bytes().to_vec().into()));
        }
        assert!(inlet.poll_next(&mut cx).is_pending());
    }

    #[test]
    fn long_datagrams_wait_up_to_a_number_of_bytes_and_one_of_any_length_does() {
        let inlet = Inlet::default();
        assert!(inlet.push(&[0; 65_507]));
        assert!(!inlet.push(b"another"));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(inlet.poll_next(&mut cx).is_ready());

        assert_eq!((0..100).filter(|_| inlet.push(&[0; 1024])).count(), QUEUED_BYTES / 1024);
    }

    #[test]
    fn a_closed_inlet_holds_nothing() {
        let inlet = Inlet::default();
        inlet.push(b"a");
        inlet.close();

        assert!(!inlet.push(b"b"));
        assert!(inlet.poll_next(&mut Context::from_waker(Waker::noop())).is_pending());
    }
}
