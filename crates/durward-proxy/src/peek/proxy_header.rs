//! Parser of the PROXY protocol header, versions 1 and 2, as load balancers send it.
//!
//! Strict: what the specification forbids is refused, never guessed at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest text header in bytes, its line end included.
pub const MAX_V1: usize = 107;
/// Longest binary header accepted, in bytes, its first 16 included.
pub const MAX_V2: usize = 16 + 4096;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const PREFIX: &[u8] = b"PROXY ";
/// Types of fields (section 2.2 of the protocol).
const AUTHORITY: u8 = 0x02;
const NOOP: u8 = 0x04;
const UNIQUE_ID: u8 = 0x05;
/// Signature by which a header is recognised.
pub(crate) const BEGINNING: usize = SIGNATURE.len();

/// Returns whether the bytes begin with a header; `None` while they are too few to tell. No bytes are no header.
pub(crate) fn begins(bytes: &[u8]) -> Option<bool> {
    let is = |begin: &[u8]| bytes.starts_with(begin);
    let may_be = |begin: &[u8]| begin.starts_with(bytes);
    match bytes {
        [] => Some(false),
        _ if is(PREFIX) || is(&SIGNATURE) => Some(true),
        _ if may_be(PREFIX) || may_be(&SIGNATURE) => None,
        _ => Some(false),
    }
}

/// Meaning of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    /// Connection of a client.
    Proxied {
        /// Client address.
        client: SocketAddr,
        /// Address and port the client connected to.
        destination: SocketAddr,
        /// Fields after the addresses.
        extensions: Extensions,
    },
    /// The sender's own connection (LOCAL, a health check), or one it cannot describe: the socket's addresses apply.
    Local,
}

/// Type-length-value fields of a version 2 header, as far as they are used. Their sender is believed no more than a client's SNI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Host name that the client asked the sender for (`PP2_TYPE_AUTHORITY`), as it was written; 1 to 255 bytes without blanks and control characters.
    pub authority: Option<String>,
    /// Identifier of the connection (`PP2_TYPE_UNIQUE_ID`), at most 128 bytes: as it was sent where it is printable ASCII, else `0x` and hexadecimal digits.
    pub unique_id: Option<String>,
}

/// Result of parsing the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The header is complete and this many bytes long.
    Complete(Header, usize),
    /// At least this many more bytes belong to it.
    Missing(usize),
    /// The header goes on to the end of a line (version 1).
    MissingLineEnd,
}

/// Parses a header at the start of `bytes`.
///
/// # Errors
/// Returns the rule that is broken, as a phrase.
pub fn parse(bytes: &[u8]) -> Result<Progress, &'static str> {
    let begin = &bytes[..bytes.len().min(SIGNATURE.len())];
    if SIGNATURE.starts_with(begin) {
        return if begin.len() < SIGNATURE.len() {
            Ok(Progress::Missing(SIGNATURE.len() - begin.len()))
        } else {
            binary(bytes)
        };
    }
    let begin = &bytes[..bytes.len().min(PREFIX.len())];
    if PREFIX.starts_with(begin) { text(bytes) } else { Err("no PROXY header") }
}

fn text(bytes: &[u8]) -> Result<Progress, &'static str> {
    let window = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if window.len() == MAX_V1 {
            Err("line too long")
        } else {
            Ok(Progress::MissingLineEnd)
        };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or("bare line feed")?;
    let line = std::str::from_utf8(line).map_err(|_| "not ASCII")?;
    if line.contains('\r') || !line.is_ascii() {
        return Err("not ASCII");
    }
    Ok(Progress::Complete(text_header(line)?, end + 1))
}

fn text_header(line: &str) -> Result<Header, &'static str> {
    let rest = line.strip_prefix("PROXY ").ok_or("no PROXY header")?;
    if rest == "UNKNOWN" || rest.starts_with("UNKNOWN ") {
        return Ok(Header::Local);
    }
    let fields: Vec<&str> = rest.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = fields[..] else {
        return Err("not six fields");
    };
    let address: fn(&str) -> Result<IpAddr, &'static str> = match family {
        "TCP4" => |text| text.parse().map(IpAddr::V4).map_err(|_| "not an IPv4 address"),
        "TCP6" => |text| text.parse().map(IpAddr::V6).map_err(|_| "not an IPv6 address"),
        _ => return Err("unknown family"),
    };
    Ok(Header::Proxied {
        client: SocketAddr::new(address(source)?, port(source_port)?),
        destination: SocketAddr::new(address(destination)?, port(destination_port)?),
        extensions: Extensions::default(),
    })
}

fn port(text: &str) -> Result<u16, &'static str> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    if !plain || padded {
        return Err("not a port");
    }
    text.parse().map_err(|_| "not a port")
}

fn binary(bytes: &[u8]) -> Result<Progress, &'static str> {
    let Some(&[version_command, family, high, low]) = bytes.get(12..16) else {
        return Ok(Progress::Missing(16 - bytes.len()));
    };
    if version_command >> 4 != 2 {
        return Err("unknown version");
    }
    let length = 16 + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_V2 {
        return Err("header too long");
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(Progress::Missing(length - bytes.len()));
    };
    match version_command & 0x0f {
        0 => Ok(Progress::Complete(Header::Local, length)),
        1 => Ok(Progress::Complete(binary_header(family, header)?, length)),
        _ => Err("unknown command"),
    }
}

fn binary_header(family: u8, header: &[u8]) -> Result<Header, &'static str> {
    let block = &header[16..];
    let (addresses, width) = match family {
        0x00 => return Ok(Header::Local),
        0x11 => (v4_addresses(block), 12),
        0x21 => (v6_addresses(block), 36),
        0x12 | 0x22 | 0x31 | 0x32 => return Err("not a TCP connection"),
        _ => return Err("unknown family"),
    };
    let (client, destination) = addresses.ok_or("addresses cut short")?;
    let extensions = extensions(header, 16 + width)?;
    Ok(Header::Proxied { client, destination, extensions })
}

/// Source and destination.
type Addresses = (SocketAddr, SocketAddr);

fn v4_addresses(block: &[u8]) -> Option<Addresses> {
    let (source, rest) = block.split_first_chunk::<4>()?;
    let (destination, rest) = rest.split_first_chunk::<4>()?;
    ports(Ipv4Addr::from(*source).into(), Ipv4Addr::from(*destination).into(), rest)
}

fn v6_addresses(block: &[u8]) -> Option<Addresses> {
    let (source, rest) = block.split_first_chunk::<16>()?;
    let (destination, rest) = rest.split_first_chunk::<16>()?;
    ports(Ipv6Addr::from(*source).into(), Ipv6Addr::from(*destination).into(), rest)
}

fn ports(source: IpAddr, destination: IpAddr, rest: &[u8]) -> Option<Addresses> {
    let (&[s0, s1, d0, d1], _) = rest.split_first_chunk::<4>()?;
    let source = SocketAddr::new(source, u16::from_be_bytes([s0, s1]));
    Some((source, SocketAddr::new(destination, u16::from_be_bytes([d0, d1]))))
}

/// Checks the type-length-value fields that follow the addresses, and reads those that are used.
fn extensions(header: &[u8], mut at: usize) -> Result<Extensions, &'static str> {
    let mut seen = [false; 256];
    let mut found = Extensions::default();
    while at < header.len() {
        let (kind, value, next) = extension(header, at)?;
        if std::mem::replace(&mut seen[usize::from(kind)], true) && kind != NOOP {
            return Err("field given twice");
        }
        check_extension(kind, value, header, next)?;
        match kind {
            AUTHORITY => found.authority = String::from_utf8(value.to_vec()).ok(),
            UNIQUE_ID if !value.is_empty() => found.unique_id = Some(printable(value)),
            _ => {}
        }
        at = next;
    }
    Ok(found)
}

/// Returns an identifier as text. The specification has any bytes for it.
fn printable(id: &[u8]) -> String {
    match std::str::from_utf8(id) {
        Ok(text) if id.iter().all(u8::is_ascii_graphic) => text.to_owned(),
        _ => {
            let digits = id.iter().map(|byte| format!("{byte:02x}"));
            std::iter::once("0x".to_owned()).chain(digits).collect()
        }
    }
}

fn extension(bytes: &[u8], at: usize) -> Result<(u8, &[u8], usize), &'static str> {
    let Some(&[kind, high, low]) = bytes.get(at..at + 3) else { return Err("field cut short") };
    let next = at + 3 + usize::from(u16::from_be_bytes([high, low]));
    let value = bytes.get(at + 3..next).ok_or("field cut short")?;
    Ok((kind, value, next))
}

fn check_extension(kind: u8, value: &[u8], header: &[u8], next: usize) -> Result<(), &'static str> {
    match kind {
        0x01 if value.is_empty() || value.len() > 255 => Err("ALPN field"),
        AUTHORITY if !is_host(value) => Err("AUTHORITY field"),
        0x03 => checksum(value, header, next),
        UNIQUE_ID if value.len() > 128 => Err("UNIQUE_ID field"),
        0x20 => tls_extension(value),
        0x30 if value.is_empty() || !value.is_ascii() => Err("NETNS field"),
        _ => Ok(()),
    }
}

fn is_host(value: &[u8]) -> bool {
    let printable = |text: &str| !text.chars().any(|c| c.is_control() || c.is_whitespace());
    (1..=255).contains(&value.len()) && std::str::from_utf8(value).is_ok_and(printable)
}

fn checksum(value: &[u8], header: &[u8], next: usize) -> Result<(), &'static str> {
    let said: [u8; 4] = value.try_into().map_err(|_| "CRC32C field")?;
    let field = next - 4;
    let zeroed = header.iter().enumerate().map(|(at, byte)| match at {
        at if at >= field && at < next => 0,
        _ => *byte,
    });
    if crc32c(zeroed) == u32::from_be_bytes(said) { Ok(()) } else { Err("checksum differs") }
}

fn tls_extension(value: &[u8]) -> Result<(), &'static str> {
    if value.len() < 5 {
        return Err("SSL field");
    }
    let mut at = 5;
    while at < value.len() {
        let (_, _, next) = extension(value, at).map_err(|_| "SSL field")?;
        at = next;
    }
    Ok(())
}

/// Computes CRC-32C (Castagnoli), as section 2.2.4 of the protocol requires.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    let step = |state: u32, _| {
        if state & 1 == 1 { state >> 1 ^ 0x82f6_3b78 } else { state >> 1 }
    };
    !bytes.fold(u32::MAX, |state, byte| (0..8).fold(state ^ u32::from(byte), step))
}

#[cfg(test)]
#[path = "proxy_header_tests.rs"]
mod tests;
