//! One connection of a scripted origin: read this much, send these bytes, leave in that way.
//! Reads have no deadline of their own; the test has one.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use crate::transport::Transport;

/// What every connection of a scripted origin has received.
#[derive(Default)]
pub(super) struct Captures {
    received: Mutex<Vec<Vec<u8>>>,
    changed: Notify,
}

impl Captures {
    pub(super) fn all(&self) -> Vec<Vec<u8>> {
        self.lock().clone()
    }

    /// Resolves at the next change after this call, even before it is first polled.
    pub(super) fn changed(&self) -> impl Future<Output = ()> {
        let mut notified = Box::pin(self.changed.notified());
        notified.as_mut().enable();
        notified
    }

    fn open(&self) -> usize {
        let mut received = self.lock();
        received.push(Vec::new());
        self.changed.notify_waiters();
        received.len() - 1
    }

    fn add(&self, index: usize, bytes: &[u8]) {
        self.lock()[index].extend_from_slice(bytes);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection a script works on.
pub struct RawConnection {
    transport: Transport,
    peer: SocketAddr,
    number: u64,
    unread: Vec<u8>,
    captures: Arc<Captures>,
    capture: usize,
}

impl RawConnection {
    pub(super) fn new(
        transport: Transport,
        peer: SocketAddr,
        number: u64,
        captures: &Arc<Captures>,
    ) -> Self {
        let capture = captures.open();
        Self { transport, peer, number, unread: Vec::new(), captures: captures.clone(), capture }
    }

    /// The connection's place in the order of acceptance, from 0.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Where the connection came from.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The connection below.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Reads whatever comes next; empty at the end of the stream.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn read_some(&mut self) -> io::Result<Vec<u8>> {
        if self.unread.is_empty() {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.unread))
    }

    /// Reads exactly this many bytes.
    ///
    /// # Errors
    /// When the connection ends or breaks first.
    pub async fn read_exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < count {
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.unread.drain(..count).collect())
    }

    /// Reads up to and including the first occurrence of `end`; nothing when the stream ends before it.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn read_until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                return Ok(Some(self.unread.drain(..at + end.len()).collect()));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Reads to the end of the stream.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        while self.fill().await? {}
        Ok(std::mem::take(&mut self.unread))
    }

    /// Reads one head, its empty line included; nothing when the stream ends before it.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn read_head(&mut self) -> io::Result<Option<String>> {
        let head = self.read_until(b"\r\n\r\n").await?;
        Ok(head.map(|head| String::from_utf8_lossy(&head).into_owned()))
    }

    /// Reads one request with the body its framing announces, raw; nothing when the stream ends before it.
    ///
    /// # Errors
    /// When the connection breaks inside a body.
    pub async fn read_request(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(head) = self.read_head().await? else { return Ok(None) };
        let lower = head.to_ascii_lowercase();
        let field =
            |name: &str| lower.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let mut request = head.clone().into_bytes();
        if field("transfer-encoding:").is_some_and(|value| value.contains("chunked")) {
            request.extend(self.read_chunks().await?);
        } else if let Some(length) = field("content-length:").and_then(|value| value.parse().ok()) {
            request.extend(self.read_exactly(length).await?);
        }
        Ok(Some(request))
    }

    /// Sends these bytes and flushes them.
    ///
    /// # Errors
    /// When the peer no longer takes them.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.transport.write_all(bytes.as_ref()).await?;
        self.transport.flush().await
    }

    /// Sends these bytes in pieces, with a pause after each.
    ///
    /// # Errors
    /// When the peer no longer takes them.
    pub async fn send_slowly(
        &mut self,
        bytes: &[u8],
        piece: usize,
        pause: Duration,
    ) -> io::Result<()> {
        for piece in bytes.chunks(piece) {
            self.send(piece).await?;
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Ends our direction and leaves the other open.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn half_close(&mut self) -> io::Result<()> {
        self.transport.shutdown().await
    }

    /// Ends the connection with a reset (RST).
    pub fn reset(self) {
        self.transport.reset_on_drop();
    }

    /// Keeps the connection open until the origin is stopped or dropped.
    pub async fn hold(self) {
        std::future::pending::<()>().await;
        drop(self);
    }

    async fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.read_until(b"\r\n").await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let text = String::from_utf8_lossy(&line);
            let size = text.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            body.extend_from_slice(&line);
            if size == 0 {
                break;
            }
            body.extend(self.read_exactly(size + 2).await?);
        }
        loop {
            let line = self.read_until(b"\r\n").await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            body.extend_from_slice(&line);
            if line == b"\r\n" {
                return Ok(body);
            }
        }
    }

    /// Reads once; false at the end of the stream.
    async fn fill(&mut self) -> io::Result<bool> {
        let before = self.unread.len();
        self.transport.read_buf(&mut self.unread).await?;
        self.captures.add(self.capture, &self.unread[before..]);
        Ok(self.unread.len() > before)
    }
}
