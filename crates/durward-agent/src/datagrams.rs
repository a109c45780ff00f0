//! Datagrams of a stream to and from their backend.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::task::{Context, Poll};
use std::time::Duration;

use durward_link::Datagrams;
use durward_link::session::LinkStream;
use tokio::io::{AsyncWriteExt, ReadBuf};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

/// Datagrams of each direction carried in a row before other tasks run.
const BURST: usize = 32;
/// Time for which an agent that ends still passes answers on.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Bytes of the longest datagram.
const LONGEST: usize = 65_535;

/// Bytes carried.
#[derive(Default)]
struct Carried {
    to_backend: u64,
    from_backend: u64,
}

/// Carries datagrams until the gateway ends the stream; returns the bytes to the backend and from it. The gateway knows when a session is over. Of an agent
/// that ends, no session waits for its client: the gateway makes another where the client goes on.
pub(crate) async fn carry(
    stream: &mut LinkStream,
    backend: &UdpSocket,
    stopped: &CancellationToken,
) -> (u64, u64) {
    let mut carried = Carried::default();
    let ended = {
        let mut datagrams = Datagrams::new(&mut *stream);
        let carrying = poll_fn(|cx| poll_carry(cx, &mut datagrams, backend, &mut carried));
        tokio::select! {
            ended = carrying => ended,
            () = last_answers(stopped) => Ok(()),
        }
    };
    let ended = match ended {
        Ok(()) => stream.shutdown().await,
        broken => broken,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a stream of datagrams broke");
        stream.reset();
    }
    (carried.to_backend, carried.from_backend)
}

/// Completes some time after the agent has begun to end.
async fn last_answers(stopped: &CancellationToken) {
    stopped.cancelled().await;
    tokio::time::sleep(LAST_ANSWERS).await;
}

fn poll_carry(
    cx: &mut Context<'_>,
    datagrams: &mut Datagrams<&mut LinkStream>,
    backend: &UdpSocket,
    carried: &mut Carried,
) -> Poll<io::Result<()>> {
    let mut received = 0;
    // Datagrams of the backend wait in the kernel while the stream takes none, and are dropped there when they are too many.
    while received < BURST && datagrams.poll_ready(cx)?.is_ready() {
        let mut bytes = [MaybeUninit::uninit(); LONGEST];
        let mut bytes = ReadBuf::uninit(&mut bytes);
        match backend.poll_recv(cx, &mut bytes) {
            Poll::Ready(Ok(())) => {
                datagrams.queue(bytes.filled());
                carried.from_backend += bytes.filled().len() as u64;
            }
            // An ICMP message about an earlier datagram: the backend may be back for the next.
            Poll::Ready(Err(_)) => {}
            Poll::Pending => break,
        }
        received += 1;
    }
    let mut sent = 0;
    while sent < BURST {
        let Poll::Ready(datagram) = datagrams.poll_receive(cx)? else { break };
        let Some(datagram) = datagram else { return Poll::Ready(Ok(())) };
        // What the socket does not take at once is dropped, as a network would.
        if backend.try_send(&datagram).is_ok() {
            carried.to_backend += datagram.len() as u64;
        }
        sent += 1;
    }
    if received == BURST || sent == BURST {
        cx.waker().wake_by_ref();
    }
    Poll::Pending
}
