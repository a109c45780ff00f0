//! Bytes of a stream to and from its backend.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use durward_link::session::LinkStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes copied at once in each direction.
const COPY: usize = 16 * 1024;

/// Time in which a backend may take what came of a stream that was given up.
const TAKE: Duration = Duration::from_secs(5);

/// Copies both ways; returns the bytes to the backend and from it. Each direction ends by itself. Where one breaks, both ends see a reset.
pub(crate) async fn copy(stream: &mut LinkStream, backend: &mut TcpStream) -> (u64, u64) {
    let copied = {
        let shared = Mutex::new(&mut *stream);
        let mut end = Shared(&shared);
        tokio::select! {
            biased;
            copied = tokio::io::copy_bidirectional_with_sizes(&mut end, backend, COPY, COPY) => Some(copied),
            // Once all bytes have gone to the backend, or while it takes none, the copy hears of the gateway only when the backend does something, which may be never.
            () = given_up(&shared) => None,
        }
    };
    match copied {
        Some(Ok(bytes)) => return bytes,
        Some(Err(error)) => tracing::debug!(%error, "a stream broke"),
        None => tracing::debug!("a stream was given up"),
    }
    // Not the end of the bytes: what is half must not look whole.
    reset(stream, backend);
    (0, 0)
}

/// Completes when the gateway has given the stream up, and the backend has had time to take what came before that.
async fn given_up(stream: &Mutex<&mut LinkStream>) {
    poll_fn(|cx| lock(stream).poll_given_up(cx)).await;
    tokio::time::sleep(TAKE).await;
}

/// Resets both ends.
pub(crate) fn reset(stream: &mut LinkStream, backend: &TcpStream) {
    stream.reset();
    let _ = socket2::SockRef::from(backend).set_linger(Some(Duration::ZERO));
}

/// Stream that is read and written by one part of a task while another looks whether it was given up. Never contended.
struct Shared<'s, 'm>(&'m Mutex<&'s mut LinkStream>);

fn lock<'m, 's>(shared: &'m Mutex<&'s mut LinkStream>) -> MutexGuard<'m, &'s mut LinkStream> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for Shared<'_, '_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut **lock(self.0)).poll_read(cx, buf)
    }
}

impl AsyncWrite for Shared<'_, '_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut **lock(self.0)).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **lock(self.0)).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **lock(self.0)).poll_shutdown(cx)
    }
}
