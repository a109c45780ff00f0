//! Stream of a connection, with or without TLS, to clients and upstreams alike.

pub(crate) mod scratch;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use durward_link::session::LinkStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsStream, client};

use crate::memory::{Hold, TLS_BACKLOG};
use crate::refusal::Refusal;

/// Connected stream.
#[derive(Debug)]
pub(crate) enum Io {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<Tls>),
    /// Stream of a link, to an upstream.
    Link(Box<LinkStream>),
    /// TLS over a stream of a link.
    LinkTls(Box<client::TlsStream<LinkStream>>),
}

/// TLS session over a socket, and the memory charged for it.
#[derive(Debug)]
pub(crate) struct Tls {
    stream: TlsStream<TcpStream>,
    /// Charge for TLS records that the socket does not take; `None` until a tenant is known.
    backlog: Option<Hold>,
    /// True if the charge stays for the life of the connection.
    prepaid: bool,
}

impl Tls {
    /// Returns the socket and the TLS library's state.
    #[cfg(test)]
    pub(crate) fn get_ref(&self) -> (&TcpStream, &rustls::CommonState) {
        self.stream.get_ref()
    }

    /// Charges [`TLS_BACKLOG`] while records wait for the socket. A response is charged once, however often it waits.
    fn charge(&mut self) -> io::Result<()> {
        let Some(backlog) = self.backlog.as_mut().filter(|backlog| backlog.bytes() == 0) else {
            return Ok(());
        };
        if !self.stream.get_ref().1.wants_write() {
            return Ok(());
        }
        backlog.grow(TLS_BACKLOG).map_err(io::Error::other)
    }

    fn flushed(&mut self) {
        if let Some(backlog) = self.backlog.as_mut().filter(|_| !self.prepaid) {
            backlog.shrink(backlog.bytes());
        }
    }
}

impl Io {
    /// Wraps a TLS session that is not charged yet.
    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(Tls { stream, backlog: None, prepaid: false }))
    }

    /// Charges records that wait for a slow peer to `hold`, which must be empty.
    pub(crate) fn count(&mut self, hold: Hold) {
        if let Self::Tls(tls) = self {
            tls.backlog = Some(hold);
        }
    }

    /// Charges records that may wait for a slow peer once, for the life of the connection: one that many streams share must not end because one write finds
    /// no room.
    ///
    /// # Errors
    /// [`Refusal::Memory`] if the tenant has no room.
    pub(crate) fn prepay(&mut self) -> Result<(), Refusal> {
        if let Self::Tls(tls) = self
            && let Some(backlog) = &mut tls.backlog
        {
            backlog.resize(TLS_BACKLOG)?;
            tls.prepaid = true;
        }
        Ok(())
    }

    /// Returns the socket; `None` for a stream of a link.
    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(tls) => Some(tls.stream.get_ref().0),
            Self::Link(_) | Self::LinkTls(_) => None,
        }
    }

    /// Returns the stream of a link that this is, or that TLS is over.
    pub(crate) fn link(&self) -> Option<&LinkStream> {
        match self {
            Self::Link(stream) => Some(stream),
            Self::LinkTls(tls) => Some(tls.get_ref().0),
            Self::Tcp(_) | Self::Tls(_) => None,
        }
    }

    /// Ends the connection with a reset once it is dropped. A stream of a link does so by itself, unless both directions have ended.
    pub(crate) fn reset_on_close(&self) {
        if let Some(socket) = self.socket() {
            let _ = socket.set_zero_linger();
        }
    }

    /// Returns the remote address; unspecified for a stream of a link.
    ///
    /// # Errors
    /// Fails if the socket does not know it any more.
    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        let nowhere = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, 0));
        self.socket().map_or(Ok(nowhere), TcpStream::peer_addr)
    }

    /// Returns the application protocol agreed by ALPN.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Tcp(_) | Self::Link(_) => None,
            Self::Tls(tls) => tls.stream.get_ref().1.alpn_protocol(),
            Self::LinkTls(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_read(cx, buf),
            Self::Link(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::LinkTls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(tls) => {
                let written = Pin::new(&mut tls.stream).poll_write(cx, buf);
                tls.charge()?;
                written
            }
            Self::Link(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::LinkTls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => {
                let written = Pin::new(&mut tls.stream).poll_write_vectored(cx, bufs);
                tls.charge()?;
                written
            }
            Self::Link(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::LinkTls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(tls) => {
                ready!(Pin::new(&mut tls.stream).poll_flush(cx))?;
                tls.flushed();
                Poll::Ready(Ok(()))
            }
            Self::Link(stream) => Pin::new(stream).poll_flush(cx),
            Self::LinkTls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_shutdown(cx),
            Self::Link(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::LinkTls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use durward_testkit::certificates::{Authority, CertSpec, client_config, server_config};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::memory::{Kind, Memory};

    /// Returns both ends of a TLS session, ours first.
    async fn session() -> (Io, client::TlsStream<TcpStream>) {
        let authority = Authority::new("servers");
        let server = authority.issue(&CertSpec::new().ip([127, 0, 0, 1]).server());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connecting = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let connector = TlsConnector::from(Arc::new(client_config(&authority, None)));
            connector.connect(address.ip().into(), stream).await.unwrap()
        };
        let accepting = async {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(server_config(&server, None)));
            acceptor.accept(stream).await.unwrap()
        };
        let (client, server) = tokio::join!(connecting, accepting);
        (Io::tls(server.into()), client)
    }

    /// Writes until the peer's silence keeps bytes back.
    async fn fill(io: &mut Io) -> io::Result<()> {
        let chunk = vec![b'x'; 64 * 1024];
        loop {
            let writing =
                std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *io).poll_write(cx, &chunk)));
            match writing.await {
                Poll::Ready(Ok(_)) => tokio::task::yield_now().await,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
    }

    #[tokio::test]
    async fn what_tls_keeps_back_for_a_peer_that_does_not_read_is_counted_until_it_is_sent() {
        let memory = Arc::new(Memory::new(0));
        let (mut io, mut client) = session().await;
        io.count(memory.hold(&Arc::default(), Kind::Clients));
        io.write_all(b"a little").await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(memory.used(), 0, "nothing is kept back");

        fill(&mut io).await.unwrap();

        assert_eq!(memory.used(), TLS_BACKLOG);
        let (flushed, read) = tokio::join!(
            async {
                io.flush().await.unwrap();
                let used = memory.used();
                io.shutdown().await.unwrap();
                used
            },
            async {
                let mut bytes = Vec::new();
                let _ = client.read_to_end(&mut bytes).await;
                bytes.len()
            }
        );
        assert_eq!(flushed, 0);
        assert!(read > TLS_BACKLOG, "{read}");
        drop(io);
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn a_tenant_without_room_for_what_tls_keeps_back_loses_the_connection() {
        let memory = Arc::new(Memory::new(0));
        let usage = Arc::default();
        let mut taken = memory.hold(&usage, Kind::Clients);
        taken.grow(memory.budget()).unwrap();
        let (mut io, _client) = session().await;
        io.count(memory.hold(&usage, Kind::Clients));

        let error = fill(&mut io).await.unwrap_err();

        assert!(matches!(
            error.get_ref().and_then(|inner| inner.downcast_ref()),
            Some(Refusal::Memory)
        ));
        assert_eq!(memory.used(), taken.bytes());
    }

    #[tokio::test]
    async fn a_connection_that_was_paid_for_ahead_survives_a_full_budget() {
        let memory = Arc::new(Memory::new(0));
        let usage = Arc::default();
        let (mut io, _client) = session().await;
        io.count(memory.hold(&usage, Kind::Clients));
        io.prepay().unwrap();
        let mut taken = memory.hold(&usage, Kind::Clients);
        taken.grow(memory.budget() - TLS_BACKLOG).unwrap();
        io.flush().await.unwrap();

        fill(&mut io).await.unwrap();

        assert_eq!(memory.used(), memory.budget());
        drop(io);
        assert_eq!(memory.used(), taken.bytes());
    }
}
