//! Frames of RFC 6455, section 5.

use std::io;

use bytes::{BufMut, BytesMut};

use super::Role;

/// Status of an ordinary close.
pub(super) const NORMAL: u16 = 1000;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// Lengths that say that the length follows in two or eight bytes.
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;
/// Payload of a control frame at most.
const CONTROL: u64 = 125;

/// Opcodes that a link has a use for. Text is none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation = 0x0,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xa,
}

impl Opcode {
    pub(super) fn is_data(self) -> bool {
        matches!(self, Self::Continuation | Self::Binary)
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::Continuation, Self::Binary, Self::Close, Self::Ping, Self::Pong]
            .into_iter()
            .find(|opcode| *opcode as u8 == byte)
    }
}

/// Header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) opcode: Opcode,
    pub(super) length: u64,
    pub(super) mask: Option<[u8; 4]>,
}

/// Header with its own size in bytes.
pub(super) struct Parsed {
    pub(super) header: Header,
    pub(super) size: usize,
}

/// Parses a header that `ours` receives; `None` if it is not whole yet.
pub(super) fn parse(bytes: &[u8], ours: Role) -> io::Result<Option<Parsed>> {
    let bad = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & RESERVED != 0 {
        return bad("a WebSocket frame uses an extension");
    }
    let Some(opcode) = Opcode::of(first & 0x0f) else {
        return bad("a WebSocket frame is not binary");
    };
    if (second & MASKED != 0) != (ours == Role::Server) {
        return bad("a WebSocket frame is masked by the server or not by the client");
    }
    let (length, taken) = match second & !MASKED {
        LENGTH_16 => match rest.first_chunk::<2>() {
            Some(length) => (u64::from(u16::from_be_bytes(*length)), 2),
            None => return Ok(None),
        },
        LENGTH_64 => match rest.first_chunk::<8>() {
            Some(length) => (u64::from_be_bytes(*length), 8),
            None => return Ok(None),
        },
        length => (u64::from(length), 0),
    };
    if !opcode.is_data() && (length > CONTROL || first & FIN == 0) {
        return bad("a WebSocket control frame is long or fragmented");
    }
    let (mask, masked) = match (second & MASKED != 0, rest[taken..].first_chunk::<4>()) {
        (false, _) => (None, 0),
        (true, Some(mask)) => (Some(*mask), 4),
        (true, None) => return Ok(None),
    };
    Ok(Some(Parsed { header: Header { opcode, length, mask }, size: 2 + taken + masked }))
}

/// Appends a frame.
pub(super) fn write(to: &mut BytesMut, opcode: Opcode, mask: Option<[u8; 4]>, payload: &[u8]) {
    to.reserve(14 + payload.len());
    to.put_u8(FIN | opcode as u8);
    let masked = if mask.is_some() { MASKED } else { 0 };
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length), _) if length < LENGTH_16 => to.put_u8(masked | length),
        (_, Ok(length)) => {
            to.put_u8(masked | LENGTH_16);
            to.put_u16(length);
        }
        _ => {
            to.put_u8(masked | LENGTH_64);
            to.put_u64(payload.len() as u64);
        }
    }
    to.put_slice(mask.as_ref().map_or(&[], |mask| mask.as_slice()));
    let from = to.len();
    to.put_slice(payload);
    unmask(&mut to[from..], mask, 0);
}

/// Applies a mask whose position `at` is that of the first byte. A second time undoes it.
pub(super) fn unmask(bytes: &mut [u8], mask: Option<[u8; 4]>, at: usize) {
    let Some(mut mask) = mask else { return };
    mask.rotate_left(at % 4);
    let word = u32::from_ne_bytes(mask);
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for chunk in words {
        *chunk = (u32::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}
