//! A connection with a read buffer and a deadline, below the HTTP/1 client.
//! It knows lines and counts, not HTTP.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::DEADLINE;
use crate::transport::Transport;

/// Why nothing, or not enough, could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer ended the connection in order, before the first byte of what was expected.
    #[error("the peer closed the connection instead of answering")]
    Closed,
    /// The peer ended the connection in the middle.
    #[error("the peer closed the connection within {within}, after {received:?}")]
    Truncated {
        /// What was being read.
        within: &'static str,
        /// What of it had arrived.
        received: String,
    },
    /// Nothing more came in time.
    #[error("nothing within {deadline:?}, after {received:?}")]
    Timeout {
        /// How long was waited.
        deadline: Duration,
        /// What had arrived.
        received: String,
    },
    /// The bytes are not what the protocol allows.
    #[error("malformed {what}: {found:?}")]
    Malformed {
        /// The element that is wrong.
        what: &'static str,
        /// The bytes in question.
        found: String,
    },
    /// The connection broke.
    #[error("the connection broke")]
    Broken {
        /// What the kernel or TLS said.
        #[source]
        source: io::Error,
    },
}

impl ReadError {
    /// Whether the peer ended the connection, in order or by a reset, before answering.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Broken { source } => matches!(
                source.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            ),
            Self::Truncated { .. } | Self::Timeout { .. } | Self::Malformed { .. } => false,
        }
    }
}

pub(super) struct Wire {
    pub(super) transport: Transport,
    pub(super) deadline: Duration,
    unread: Vec<u8>,
}

impl Wire {
    pub(super) fn new(transport: Transport) -> Self {
        Self { transport, deadline: DEADLINE, unread: Vec::new() }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sending = async {
            self.transport.write_all(bytes).await?;
            self.transport.flush().await
        };
        tokio::time::timeout(self.deadline, sending)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// One line without its CRLF. A bare CR or LF in it is an error.
    pub(super) async fn line(&mut self, what: &'static str) -> Result<String, ReadError> {
        let end = loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                break end;
            }
            self.fill_within(what).await?;
        };
        let line: Vec<u8> = self.unread.drain(..=end).collect();
        let malformed = || ReadError::Malformed { what, found: lossy(&line) };
        let content = line.strip_suffix(b"\r\n").ok_or_else(malformed)?;
        if content.contains(&b'\r') || content.contains(&0) {
            return Err(malformed());
        }
        Ok(lossy(content))
    }

    pub(super) async fn exactly(
        &mut self,
        count: usize,
        what: &'static str,
    ) -> Result<Vec<u8>, ReadError> {
        while self.unread.len() < count {
            self.fill_within(what).await?;
        }
        Ok(self.unread.drain(..count).collect())
    }

    /// Everything until the peer ends its direction in order.
    pub(super) async fn until_end(&mut self) -> Result<Vec<u8>, ReadError> {
        while self.fill().await? {}
        Ok(std::mem::take(&mut self.unread))
    }

    /// Whatever is there, waiting for at least one byte; empty at the end of the stream.
    pub(super) async fn some(&mut self) -> Result<Vec<u8>, ReadError> {
        if self.unread.is_empty() {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.unread))
    }

    /// Waits for a first byte of a new message.
    pub(super) async fn expect_more(&mut self) -> Result<(), ReadError> {
        if self.unread.is_empty() && !self.fill().await? {
            return Err(ReadError::Closed);
        }
        Ok(())
    }

    async fn fill_within(&mut self, within: &'static str) -> Result<(), ReadError> {
        if self.fill().await? {
            return Ok(());
        }
        Err(ReadError::Truncated { within, received: lossy(&self.unread) })
    }

    /// Reads once; false at the end of the stream.
    async fn fill(&mut self) -> Result<bool, ReadError> {
        let read =
            tokio::time::timeout(self.deadline, self.transport.read_buf(&mut self.unread)).await;
        match read {
            Ok(Ok(count)) => Ok(count > 0),
            Ok(Err(source)) => Err(ReadError::Broken { source }),
            Err(_) => {
                Err(ReadError::Timeout { deadline: self.deadline, received: lossy(&self.unread) })
            }
        }
    }
}

/// The beginning of some bytes as text, for messages and header values.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
