//! Tunnel inside one HTTP/2 stream: bytes in both directions until both are closed.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;

use crate::exchange::context::Http;
use crate::http::flow::{BodyCopy, CopyFault, Downstream, PollBody, Source, Upstream};
use crate::http::h1::Conn;
use crate::memory::Part;
use crate::refusal::Refusal;
use crate::watch::{Expired, Watch};

/// Relays bytes between a stream and a connection.
pub(crate) async fn carry<D: Downstream>(
    http: &Http,
    watch: &Watch,
    down: &mut D,
    up: &mut Conn,
) -> Result<(), Refusal> {
    up.tunnel();
    let (upload, download) = (BodyCopy::default(), BodyCopy::default());
    let mut tunnel = Tunnel { http, down, up, upload, download, shut: false, waiting: None };
    let mut moved = None;
    let idle = http.limits().timeouts.stream_idle;
    watch.arm(Some(idle), false);
    let carried = watch.guard(poll_fn(|cx| {
        let polled = tunnel.poll(cx);
        let now = tunnel.upload.moved + tunnel.download.moved;
        if moved.replace(now) != Some(now) {
            watch.extend(idle);
        }
        polled
    }));
    match carried.await {
        Ok(ended) => ended,
        Err(Expired::Deadline) => Err(Refusal::ClientTimeout { phase: "stream" }),
        Err(Expired::Closing) => Err(Refusal::closing(watch)),
    }
}

/// Reads the first bytes of a stream until `enough` returns true or the stream ends.
pub(crate) async fn take_first<D: Downstream>(
    down: &mut D,
    mut enough: impl FnMut(&[u8]) -> bool,
) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    loop {
        match poll_fn(|cx| down.poll_fill(cx)).await {
            Ok(PollBody::Data) => bytes.extend_from_slice(&down.take(down.data().len())),
            Ok(PollBody::End) | Err(_) => return Err(Refusal::ClientClosed),
        }
        if enough(&bytes) {
            return Ok(bytes);
        }
    }
}

struct Tunnel<'t, D> {
    http: &'t Http,
    down: &'t mut D,
    up: &'t mut Conn,
    upload: BodyCopy,
    download: BodyCopy,
    /// True once the upstream's write side was shut down after the client's end of stream.
    shut: bool,
    /// Memory charged for bytes that wait for a slow side.
    waiting: Option<Part>,
}

impl<D: Downstream> Tunnel<'_, D> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        let (usage, limits) = (&self.http.view.tenant().usage, self.http.limits());
        if !self.download.is_done() {
            let meter = |bytes| -> Option<Duration> { usage.bandwidth_out(limits, bytes) };
            match self.download.poll(cx, self.up, self.down, &meter) {
                Poll::Ready(Err(CopyFault::Source(_))) => return Poll::Ready(Err(self.broken())),
                Poll::Ready(Err(CopyFault::Sink)) => {
                    return Poll::Ready(Err(Refusal::ClientClosed));
                }
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        if !self.upload.is_done() {
            let meter = |bytes| -> Option<Duration> { usage.bandwidth_in(limits, bytes) };
            match self.upload.poll(cx, self.down, self.up, &meter) {
                Poll::Ready(Err(CopyFault::Source(_))) => {
                    return Poll::Ready(Err(Refusal::ClientClosed));
                }
                Poll::Ready(Err(CopyFault::Sink)) => return Poll::Ready(Err(self.broken())),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        // Half-close: the client has ended its direction, the other one goes on.
        if self.upload.is_done() && !self.shut {
            let shut: io::Result<()> = ready!(Pin::new(&mut self.up.io).poll_shutdown(cx));
            self.shut = shut.is_ok();
            if shut.is_err() {
                return Poll::Ready(Err(self.broken()));
            }
        }
        if self.upload.is_done() && self.download.is_done() {
            return Poll::Ready(Ok(()));
        }
        if self.down.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Refusal::ClientClosed));
        }
        let held = self.down.held() + self.up.held();
        match self.http.hold_waiting(&mut self.waiting, held) {
            Ok(()) => Poll::Pending,
            Err(refusal) => Poll::Ready(Err(refusal)),
        }
    }

    fn broken(&self) -> Refusal {
        match self.up.io.peer_addr() {
            Ok(peer) => Refusal::UpstreamClosed { peer },
            Err(error) => Refusal::Socket(error),
        }
    }
}
