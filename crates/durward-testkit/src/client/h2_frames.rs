//! HTTP/2 frames as bytes, for floods and malformed sequences no library would send.
//! There is no state here, no HPACK beyond literal fields, and no check of anything.

use tokio::io::{AsyncRead, AsyncReadExt};

/// What a client sends before its first frame.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types of RFC 9113.
pub mod kind {
    /// DATA.
    pub const DATA: u8 = 0;
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// PRIORITY.
    pub const PRIORITY: u8 = 2;
    /// RST_STREAM.
    pub const RST_STREAM: u8 = 3;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// PING.
    pub const PING: u8 = 6;
    /// GOAWAY.
    pub const GOAWAY: u8 = 7;
    /// WINDOW_UPDATE.
    pub const WINDOW_UPDATE: u8 = 8;
    /// CONTINUATION.
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags of RFC 9113.
pub mod flag {
    /// END_STREAM on DATA and HEADERS, ACK on SETTINGS and PING.
    pub const END_STREAM_OR_ACK: u8 = 0x1;
    /// END_HEADERS on HEADERS and CONTINUATION.
    pub const END_HEADERS: u8 = 0x4;
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// See [`flag`].
    pub flags: u8,
    /// The stream, or 0 for the connection.
    pub stream: u32,
    /// What follows the nine octets of its head.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of a GOAWAY or RST_STREAM.
    #[must_use]
    pub fn error_code(&self) -> Option<u32> {
        let at = match self.kind {
            kind::GOAWAY => 4,
            kind::RST_STREAM => 0,
            _ => return None,
        };
        let octets = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(octets.try_into().ok()?))
    }
}

/// Encodes one frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The preface and an empty SETTINGS frame: a complete opening.
#[must_use]
pub fn opening() -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(kind::SETTINGS, 0, 0, &[]));
    bytes
}

/// RST_STREAM with CANCEL.
#[must_use]
pub fn reset(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// A header block of literal fields without indexing and without Huffman coding; pseudo-fields are fields too.
#[must_use]
pub fn header_block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        push_string(&mut block, name.as_bytes());
        push_string(&mut block, value.as_bytes());
    }
    block
}

/// HEADERS for a GET that ends its stream.
#[must_use]
pub fn get(stream: u32, scheme: &str, authority: &str, path: &str) -> Vec<u8> {
    let fields =
        [(":method", "GET"), (":scheme", scheme), (":authority", authority), (":path", path)];
    let flags = flag::END_STREAM_OR_ACK | flag::END_HEADERS;
    frame(kind::HEADERS, flags, stream, &header_block(&fields))
}

/// Reads one frame; an error at the end of the stream.
///
/// # Errors
/// When the connection ends or breaks before the frame is complete.
pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let [a, b, c, kind, flags, id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).await?;
    Ok(Frame { kind, flags, stream: u32::from_be_bytes(id) & 0x7fff_ffff, payload })
}

/// An HPACK string (RFC 7541, section 5.2) with its length in the seven-bit prefix form.
fn push_string(block: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push((length % 128) as u8 | 0x80);
            length /= 128;
        }
        block.push(length as u8);
    }
    block.extend(text);
}
