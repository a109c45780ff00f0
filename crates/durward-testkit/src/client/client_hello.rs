//! TLS ClientHellos as bytes, with server names no library would send, and a look at what a server answers.
//! No handshake is completed here; for that there is `tls_connect`.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{tcp_connect, within};

/// A ClientHello under construction; it offers TLS 1.2 only unless told otherwise.
#[derive(Clone, Debug, Default)]
pub struct ClientHello {
    server_names: Vec<Vec<u8>>,
    alpn: Vec<Vec<u8>>,
    tls13: bool,
    padding: Option<usize>,
}

impl ClientHello {
    /// Without a server name.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a server name, any bytes: an IP literal, upper case, nonsense. Two are two entries of one list.
    #[must_use]
    pub fn server_name(mut self, name: impl AsRef<[u8]>) -> Self {
        self.server_names.push(name.as_ref().to_vec());
        self
    }

    /// Adds an application protocol.
    #[must_use]
    pub fn alpn(mut self, name: &str) -> Self {
        self.alpn.push(name.as_bytes().to_vec());
        self
    }

    /// Offers TLS 1.3 too.
    #[must_use]
    pub fn tls13(mut self) -> Self {
        self.tls13 = true;
        self
    }

    /// Adds a padding extension of this many bytes, at most about 65,000.
    #[must_use]
    pub fn padding(mut self, bytes: usize) -> Self {
        self.padding = Some(bytes);
        self
    }

    /// The handshake message without record framing.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend(random());
        body.push(0);
        let mut suites = vec![0xc02b_u16, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8];
        if self.tls13 {
            suites.splice(0..0, [0x1301, 0x1302, 0x1303]);
        }
        body.extend(vector16(
            &suites.iter().flat_map(|suite| suite.to_be_bytes()).collect::<Vec<u8>>(),
        ));
        body.extend([1, 0]);
        body.extend(vector16(&self.extensions()));

        let length = u32::try_from(body.len()).expect("a ClientHello is short").to_be_bytes();
        let mut message = vec![1, length[1], length[2], length[3]];
        message.extend(body);
        message
    }

    /// The message in as few records as allowed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.encode_split(16_384)
    }

    /// The message in records of at most this many bytes.
    #[must_use]
    pub fn encode_split(&self, record: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for fragment in self.message().chunks(record) {
            bytes.extend([22, 3, 1]);
            bytes.extend(vector16(fragment));
        }
        bytes
    }

    fn extensions(&self) -> Vec<u8> {
        let mut all = Vec::new();
        if !self.server_names.is_empty() {
            let entry = |name: &Vec<u8>| [vec![0], vector16(name)].concat();
            all.extend(extension(
                0,
                &vector16(&self.server_names.iter().flat_map(entry).collect::<Vec<u8>>()),
            ));
        }
        all.extend(extension(10, &vector16(&[0, 29, 0, 23, 0, 24])));
        all.extend(extension(11, &[1, 0]));
        let algorithms = [4, 3, 5, 3, 8, 7, 8, 4, 8, 5, 8, 6, 4, 1, 5, 1, 6, 1];
        all.extend(extension(13, &vector16(&algorithms)));
        if !self.alpn.is_empty() {
            let entry = |name: &Vec<u8>| [vec![name.len() as u8], name.clone()].concat();
            all.extend(extension(
                16,
                &vector16(&self.alpn.iter().flat_map(entry).collect::<Vec<u8>>()),
            ));
        }
        all.extend(extension(23, &[]));
        if self.tls13 {
            all.extend(extension(43, &[4, 3, 4, 3, 3]));
            let share = [vec![0, 29], vector16(&random())].concat();
            all.extend(extension(51, &vector16(&share)));
        }
        if let Some(padding) = self.padding {
            all.extend(extension(21, &vec![0; padding]));
        }
        all
    }
}

/// What a server did with a ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// It showed this chain (TLS 1.2).
    Chain(Vec<CertificateDer<'static>>),
    /// It went on with TLS 1.3, whose certificates are encrypted.
    Encrypted,
    /// It sent an alert with this description, for example 40 `handshake_failure` or 112 `unrecognized_name`.
    Alert(u8),
    /// It ended the connection without a word.
    Closed,
}

/// Sends a hello and reads how the server reacts, within the usual deadline.
///
/// # Errors
/// When the connection is refused, or the server says nothing or something that is not TLS.
pub async fn probe(
    address: SocketAddr,
    source: Option<IpAddr>,
    hello: &ClientHello,
) -> io::Result<Reaction> {
    let mut stream = tcp_connect(address, source).await?;
    stream.write_all(&hello.encode()).await?;
    within(reaction(&mut stream)).await
}

/// Reads how a server reacts to a hello that was sent by hand.
///
/// # Errors
/// When the server says something that is not TLS.
pub async fn reaction(stream: &mut TcpStream) -> io::Result<Reaction> {
    let mut flight = Vec::new();
    loop {
        let Some((kind, content)) = read_record(stream).await? else { return Ok(Reaction::Closed) };
        match kind {
            21 => return Ok(Reaction::Alert(content.get(1).copied().unwrap_or_default())),
            22 => flight.extend(content),
            _ => return Ok(Reaction::Encrypted),
        }
        if let Some(chain) = chain_in(&flight) {
            return Ok(Reaction::Chain(chain));
        }
    }
}

/// One record; nothing when the stream ends before it.
async fn read_record(stream: &mut TcpStream) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut head = [0; 5];
    match stream.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    let mut content = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut content).await?;
    Ok(Some((head[0], content)))
}

/// The chain of a Certificate message (type 11), once it is complete.
fn chain_in(mut flight: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    loop {
        let (&kind, rest) = flight.split_first()?;
        let (message, rest) = split24(rest)?;
        if kind != 11 {
            flight = rest;
            continue;
        }
        let (mut list, _) = split24(message)?;
        let mut chain = Vec::new();
        while !list.is_empty() {
            let (der, rest) = split24(list)?;
            chain.push(CertificateDer::from(der.to_vec()));
            list = rest;
        }
        return Some(chain);
    }
}

/// Splits off a vector with a length of three octets.
fn split24(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[a, b, c], rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_be_bytes([0, a, b, c]) as usize)
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector16(content)].concat()
}

/// A vector with a length of two octets.
fn vector16(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a TLS vector has at most 65535 bytes");
    [length.to_be_bytes().as_slice(), content].concat()
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
    bytes
}
