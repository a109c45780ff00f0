//! Addresses of a connection before admission: client and destination by PROXY header or original destination; and for pass-through its ClientHello.
//!
//! Bytes and time are bounded. Never consumes a byte beyond the PROXY header; what follows belongs to TLS or HTTP.

pub mod client_hello;
pub mod proxy_header;
pub(crate) mod sni;

use std::net::SocketAddr;
use std::time::Duration;

use durward_model::address::canonical;
use durward_model::{ClientAddr, Destination, DestinationMode};
use tokio::net::TcpStream;

use crate::connection::ProxyFacts;
use crate::io::scratch::{SCRATCH, read_some};
use crate::memory::Hold;
use crate::refusal::{HandshakeFailure, Refusal};
use client_hello::{Assembly, ClientHello};
use proxy_header::{Extensions, Header};

/// Most PROXY headers after the first.
const INNER: usize = 3;
/// Wait for the rest of a header's first bytes, which come in one segment but for a strange sender.
const PAUSE: Duration = Duration::from_millis(10);

/// Client and destination of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peeked {
    /// Client, by PROXY header where one is trusted.
    pub(crate) client: ClientAddr,
    /// Address and port the client connected to.
    pub(crate) destination: Destination,
    /// Destination of the first header, or the same where there is no other.
    pub(crate) first: Destination,
    /// Further statements of PROXY headers.
    pub(crate) proxied: ProxyFacts,
}

/// Determines client and destination as the bind's mode says.
///
/// `local` is the accepted socket's own address.
pub(crate) async fn peek(
    stream: &TcpStream,
    mode: &DestinationMode,
    peer: SocketAddr,
    local: SocketAddr,
) -> Result<Peeked, Refusal> {
    let proxied = ProxyFacts::default();
    let destination = Destination(local);
    let socket = Peeked { client: ClientAddr(peer), destination, first: destination, proxied };
    match mode {
        DestinationMode::Bound
        | DestinationMode::Transparent
        | DestinationMode::Port
        | DestinationMode::Anywhere => Ok(socket),
        DestinationMode::OriginalDestination => {
            let destination = original_destination(stream, local)?;
            Ok(Peeked { destination, first: destination, ..socket })
        }
        DestinationMode::ProxyProtocol { trusted, inner } => {
            if !trusted.contains(peer.ip()) {
                return Err(Refusal::ProxyHeader { detail: "peer is not trusted" });
            }
            let headers = proxy_headers(stream, socket, *inner);
            // Separate, as other connections need no room for this future.
            Box::pin(headers).await
        }
    }
}

/// Reads the header of a trusted peer, and those after it where `inner` says that clients send their own.
async fn proxy_headers(
    stream: &TcpStream,
    mut peeked: Peeked,
    inner: bool,
) -> Result<Peeked, Refusal> {
    if let Header::Proxied { client, destination, extensions } = proxy_header(stream).await? {
        peeked.client = ClientAddr(canonical(client));
        peeked.destination = Destination(canonical(destination));
        peeked.first = peeked.destination;
        note(&mut peeked.proxied, extensions);
    }
    // Who sent the others is not known, so they say nothing of the client.
    let mut left = INNER;
    while inner && another_header(stream).await? {
        let detail = "too many headers";
        left = left.checked_sub(1).ok_or(Refusal::ProxyHeader { detail })?;
        if let Header::Proxied { client, destination, extensions } = proxy_header(stream).await? {
            peeked.destination = Destination(canonical(destination));
            peeked.proxied.inner = Some((canonical(client), canonical(destination)));
            note(&mut peeked.proxied, extensions);
        }
    }
    Ok(peeked)
}

/// Takes over the fields of a header; those of an earlier one stay where it has none.
pub(crate) fn note(facts: &mut ProxyFacts, Extensions { authority, unique_id }: Extensions) {
    facts.authority = authority.or_else(|| facts.authority.take());
    facts.connection_id = unique_id.or_else(|| facts.connection_id.take());
}

/// Returns the destination before DNAT or REDIRECT (`SO_ORIGINAL_DST`). Without a connection-tracking entry there is none, and the connection is
/// refused.
fn original_destination(stream: &TcpStream, local: SocketAddr) -> Result<Destination, Refusal> {
    let socket = socket2::SockRef::from(stream);
    let original =
        if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    original
        .ok()
        .and_then(|address| address.as_socket())
        .map(|address| Destination(canonical(address)))
        .ok_or(Refusal::UnknownAddress { destination: local })
}

/// Returns whether another PROXY header follows. Nothing is consumed.
async fn another_header(stream: &TcpStream) -> Result<bool, Refusal> {
    let mut window = [0; proxy_header::BEGINNING];
    loop {
        let got = stream.peek(&mut window).await.map_err(|_| Refusal::ClientClosed)?;
        match proxy_header::begins(&window[..got]) {
            Some(begins) => return Ok(begins && got > 0),
            // What is here stays readable, so more of it cannot be waited for.
            None => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn proxy_header(stream: &TcpStream) -> Result<Header, Refusal> {
    let mut bytes = Vec::new();
    loop {
        let progress =
            proxy_header::parse(&bytes).map_err(|detail| Refusal::ProxyHeader { detail })?;
        let more = match progress {
            proxy_header::Progress::Complete(header, _) => return Ok(header),
            proxy_header::Progress::Missing(more) => more,
            proxy_header::Progress::MissingLineEnd => line_remainder(stream).await?,
        };
        take(stream, &mut bytes, more).await?;
    }
}

/// Returns the bytes in the socket's buffer that belong to the line: up to its end, or all.
async fn line_remainder(stream: &TcpStream) -> Result<usize, Refusal> {
    let mut window = [0; proxy_header::MAX_V1];
    let got = stream.peek(&mut window).await.map_err(|_| Refusal::ClientClosed)?;
    let end = window[..got].iter().position(|byte| *byte == b'\n');
    match end {
        Some(end) => Ok(end + 1),
        None if got > 0 => Ok(got),
        None => Err(Refusal::ProxyHeader { detail: "closed midway" }),
    }
}

/// Reads at most `most` bytes and appends them.
async fn take(stream: &TcpStream, bytes: &mut Vec<u8>, most: usize) -> Result<(), Refusal> {
    let appended = read_some(stream, most, |read| bytes.extend_from_slice(read)).await;
    match appended {
        Ok(0) => Err(Refusal::ProxyHeader { detail: "closed midway" }),
        Ok(_) => Ok(()),
        Err(_) => Err(Refusal::ClientClosed),
    }
}

/// Reads a ClientHello by our own parser; returns it with all bytes read, which `memory`, if given, pays for.
pub(crate) async fn client_hello(
    stream: &TcpStream,
    mut memory: Option<&mut Hold>,
) -> Result<(ClientHello, Vec<u8>), Refusal> {
    let (mut bytes, mut assembly) = (Vec::new(), Assembly::default());
    let mut wanted = 0;
    loop {
        if bytes.len() >= wanted {
            let progress = assembly.advance(&bytes);
            match progress.map_err(|detail| Refusal::ClientHello { detail })? {
                client_hello::Progress::Complete(hello) => return Ok((hello, bytes)),
                client_hello::Progress::Missing(total) => wanted = total,
            }
        }
        let read = read_some(stream, SCRATCH, |read| bytes.extend_from_slice(read)).await;
        if let Some(memory) = &mut memory {
            memory.resize(bytes.capacity() + assembly.held())?;
        }
        if !read.is_ok_and(|read| read > 0) {
            return Err(Refusal::Handshake { reason: HandshakeFailure::Closed, source: None });
        }
    }
}
