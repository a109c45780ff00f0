//! Parser of the TLS ClientHello, without a TLS library, for connections whose TLS is not terminated here.

/// Longest ClientHello message accepted, in bytes. FrodoKEM-1344, the post-quantum group with the longest key share that clients send, takes 21 KiB.
pub const MAX_MESSAGE: usize = 32 * 1024;
/// Largest ClientHello on the wire in bytes, record headers included.
pub const MAX_WIRE: usize = MAX_MESSAGE + 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Parsed ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Server name, lower case; `None` without one or with an IP literal in its place.
    pub server_name: Option<String>,
    /// Application protocols offered, in order.
    pub alpn: Vec<Vec<u8>>,
    /// Versions offered: `supported_versions`, or the legacy field without that.
    pub versions: Vec<u16>,
}

/// Result of parsing the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The ClientHello is complete.
    Complete(ClientHello),
    /// At least this many bytes in all are needed before the next try.
    Missing(usize),
}

/// Measures a ClientHello while its bytes arrive, so that the limits on its size do not depend on how it is cut into segments and records. Bytes
/// after it are not counted.
#[derive(Debug, Default)]
pub struct Gauge {
    wire: usize,
    header: [u8; 5],
    /// Bytes read of the record header.
    got: usize,
    /// Bytes to come of the record's body.
    left: usize,
    start: [u8; 4],
    /// Bytes read of the message.
    message: usize,
}

impl Gauge {
    /// Counts more bytes.
    ///
    /// # Errors
    /// Returns the limit that is exceeded, as a phrase.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() && !self.is_complete() {
            if self.wire > MAX_WIRE {
                return Err("ClientHello in too many records");
            }
            if self.left == 0 {
                self.wire += 1;
                self.header[self.got] = bytes[0];
                self.got += 1;
                bytes = &bytes[1..];
                if self.got == self.header.len() {
                    self.got = 0;
                    self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                }
                continue;
            }
            let (body, rest) = bytes.split_at(self.left.min(bytes.len()));
            let wanted = self.start.get_mut(self.message..).unwrap_or_default();
            let known = wanted.len().min(body.len());
            wanted[..known].copy_from_slice(&body[..known]);
            self.message += body.len();
            self.left -= body.len();
            self.wire += body.len();
            bytes = rest;
            if self.length().is_some_and(|length| length > 4 + MAX_MESSAGE) {
                return Err("ClientHello too long");
            }
        }
        Ok(())
    }

    /// Returns the length in the message's header, that header included.
    fn length(&self) -> Option<usize> {
        let [_, high, middle, low] = self.start;
        (self.message >= 4).then(|| 4 + u32::from_be_bytes([0, high, middle, low]) as usize)
    }

    fn is_complete(&self) -> bool {
        self.length().is_some_and(|length| self.message >= length)
    }
}

/// Parses a ClientHello at the start of `bytes`, in any number of records.
///
/// # Errors
/// Returns the rule that is broken, as a phrase.
pub fn parse(bytes: &[u8]) -> Result<Progress, &'static str> {
    Assembly::default().advance(bytes)
}

/// Joins the records of a ClientHello while its bytes arrive. Each record is read once, whatever the number of segments: there may be thousands of
/// records of one byte.
#[derive(Debug, Default)]
pub struct Assembly {
    message: Vec<u8>,
    /// Bytes of the records that are joined.
    at: usize,
}

impl Assembly {
    /// Reads on in `bytes`, which are all bytes so far.
    ///
    /// # Errors
    /// Returns the rule that is broken, as a phrase.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Progress, &'static str> {
        loop {
            if let Some(length) = message_length(&self.message)? {
                match self.message.len() {
                    got if got == length => {
                        return hello(&self.message[4..]).map(Progress::Complete);
                    }
                    got if got > length => return Err("bytes after the ClientHello"),
                    _ => {}
                }
            }
            let Some(record) = record(bytes, self.at)? else {
                return Ok(Progress::Missing(needed(bytes, self.at)));
            };
            self.message.extend_from_slice(record);
            self.at += 5 + record.len();
            if self.at > MAX_WIRE {
                return Err("ClientHello in too many records");
            }
        }
    }

    /// Returns the memory that the joined records take, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.message.capacity()
    }
}

/// Returns the total number of bytes with which the record at `at` is complete.
fn needed(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at + 3..at + 5) {
        Some(&[high, low]) => at + 5 + usize::from(u16::from_be_bytes([high, low])),
        _ => at + 5,
    }
}

/// Returns the body of the record at `at`; `None` while it is incomplete. A wrong header fails at once.
fn record(bytes: &[u8], at: usize) -> Result<Option<&[u8]>, &'static str> {
    let bytes = &bytes[at..];
    if bytes.first().is_some_and(|kind| *kind != HANDSHAKE) {
        return Err("not a TLS handshake");
    }
    if bytes.get(1).is_some_and(|major| *major != 3) {
        return Err("not TLS");
    }
    let Some(&[_, _, _, high, low]) = bytes.get(..5) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length == 0 || length > 16 * 1024 {
        return Err("record length");
    }
    Ok(bytes.get(5..5 + length))
}

/// Returns the length of the whole message, its 4-byte header included.
fn message_length(message: &[u8]) -> Result<Option<usize>, &'static str> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err("not a ClientHello");
    }
    let Some(&[_, high, middle, low]) = message.get(..4) else { return Ok(None) };
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    if length > MAX_MESSAGE {
        return Err("ClientHello too long");
    }
    Ok(Some(4 + length))
}

fn hello(body: &[u8]) -> Result<ClientHello, &'static str> {
    let mut body = Reader(body);
    let legacy_version = body.u16()?;
    body.take(32)?;
    if body.vector8()?.len() > 32 {
        return Err("session id too long");
    }
    let suites = body.vector16()?;
    if suites.is_empty() || suites.len() % 2 != 0 {
        return Err("cipher suites");
    }
    if body.vector8()?.is_empty() {
        return Err("compression methods");
    }
    let mut hello = ClientHello { versions: vec![legacy_version], ..ClientHello::default() };
    if body.0.is_empty() {
        return Ok(hello);
    }
    let extensions = body.vector16()?;
    if !body.0.is_empty() {
        return Err("bytes after the extensions");
    }
    read_extensions(Reader(extensions), &mut hello)?;
    Ok(hello)
}

fn read_extensions(
    mut extensions: Reader<'_>,
    hello: &mut ClientHello,
) -> Result<(), &'static str> {
    // A bit for each type: a message has room for eight thousand extensions.
    let mut seen = [0_u64; 1 << 10];
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let value = Reader(extensions.vector16()?);
        let (word, bit) = (&mut seen[usize::from(kind >> 6)], 1 << (kind & 63));
        if *word & bit != 0 {
            return Err("extension given twice");
        }
        *word |= bit;
        match kind {
            0 => hello.server_name = server_name(value)?,
            16 => hello.alpn = alpn(value)?,
            43 => hello.versions = versions(value)?,
            _ => {}
        }
    }
    Ok(())
}

/// Parses `server_name`: one name of type host_name (RFC 6066 section 3).
fn server_name(mut value: Reader<'_>) -> Result<Option<String>, &'static str> {
    let mut list = Reader(value.vector16()?);
    let kind = list.u8()?;
    let name = list.vector16()?;
    if !value.0.is_empty() || !list.0.is_empty() || kind != 0 {
        return Err("server name list");
    }
    let name = std::str::from_utf8(name).map_err(|_| "server name")?;
    durward_model::server_name::server_name(name).map_err(|_| "server name")
}

/// Parses `application_layer_protocol_negotiation` (RFC 7301 section 3.1).
fn alpn(mut value: Reader<'_>) -> Result<Vec<Vec<u8>>, &'static str> {
    let mut list = Reader(value.vector16()?);
    if !value.0.is_empty() || list.0.is_empty() {
        return Err("ALPN list");
    }
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let protocol = list.vector8()?;
        if protocol.is_empty() {
            return Err("ALPN list");
        }
        protocols.push(protocol.to_vec());
    }
    Ok(protocols)
}

/// Parses `supported_versions` (RFC 8446 section 4.2.1).
fn versions(mut value: Reader<'_>) -> Result<Vec<u16>, &'static str> {
    let list = value.vector8()?;
    if !value.0.is_empty() || list.is_empty() || list.len() % 2 != 0 {
        return Err("versions");
    }
    Ok(list.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect())
}

/// Cursor that takes values off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("message cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, &'static str> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Result<&'a [u8], &'static str> {
        let length = usize::from(self.u8()?);
        self.take(length)
    }

    fn vector16(&mut self) -> Result<&'a [u8], &'static str> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }
}

#[cfg(test)]
#[path = "client_hello_mutations.rs"]
mod mutations;
#[cfg(test)]
#[path = "client_hello_tests.rs"]
mod tests;
