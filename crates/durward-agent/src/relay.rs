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

/// Copies both ways; returns the bytes to the backend and from it. Each direction ends by itself. Where one breaks, both ends see a reset.
pub(crate) async fn copy(stream: &mut LinkStream, backend: &mut TcpStream) -> (u64, u64) {
    let copied = {
        let shared = Mutex::new(&mut *stream);
        let mut end = Shared(&shared);
        tokio::select! {
            biased;
            copied = tokio::io::copy_bidirectional_with_sizes(&mut end, backend, COPY, COPY) => Some(copied),
            // Once all bytes have gone to the backend the copy hears of the gateway only when the backend answers, which it may never do.
            () = poll_fn(|cx| lock(&shared).poll_given_up(cx)) => None,
        }
    };
    match copied {
        Some(Ok(bytes)) => return bytes,
        Some(Err(error)) => {
            tracing::debug!(%error, "a stream broke");
            reset(stream, backend);
        }
        None => {
            tracing::debug!("the gateway gave a stream up");
            // Not the backend: what it was sent is whole.
            stream.reset();
        }
    }
    (0, 0)
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
