//! Outbound direction of a client's connection: frames in the order in which they leave, gathered for one write.

use crate::http::buffer::{give_write, take_write};
use crate::http::fields::Fields;
use crate::http::h2::encoder::Encoder;
use crate::http::message::Response;
use crate::http::names::Known;
use crate::http2::frames::{END_HEADERS, END_STREAM, Frame, HEADER, LARGEST, kind};

/// Bytes that are gathered before streams wait for the socket.
pub(super) const GATHER: usize = 64 * 1024;
/// Largest payload of DATA in octets: with its header it fills one TLS record.
pub(super) const DATA: usize = LARGEST - HEADER;

/// Octets of room below which DATA waits: a frame of a few octets costs the client as much as a large one.
const LEAST: usize = 1024;

/// Frames that wait for the socket.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    start: usize,
    encoder: Encoder,
    /// Frames among those that wait that answer the client's: of them it may cause many without reading any.
    pub(super) replies: usize,
}

impl Output {
    /// Returns the bytes that wait.
    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Returns the octets of DATA for which there is room.
    pub(super) fn room(&self) -> usize {
        let room = GATHER.saturating_sub(self.pending().len() + HEADER);
        if room < LEAST { 0 } else { room }
    }

    /// Returns true if so much waits that nothing more may be begun.
    pub(super) fn is_full(&self) -> bool {
        self.pending().len() >= GATHER
    }

    /// Returns the memory held.
    pub(super) fn size(&self) -> usize {
        self.bytes.capacity()
    }

    /// Removes the first `count` bytes: they were written.
    pub(super) fn written(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.bytes.len() {
            give_write(std::mem::take(&mut self.bytes));
            (self.start, self.replies) = (0, 0);
        }
    }

    /// Returns the encoder of header blocks.
    pub(super) fn encoder(&mut self) -> &mut Encoder {
        &mut self.encoder
    }

    fn begin(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = take_write();
        } else if self.bytes.len() > GATHER / 2 && self.start >= self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        &mut self.bytes
    }

    /// Appends a frame.
    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let header = Frame { kind, flags, stream, length: payload.len() }.encode();
        let bytes = self.begin();
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(payload);
    }

    /// Appends a frame that answers one of the client's.
    pub(super) fn reply(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.replies += 1;
        self.frame(kind, flags, stream, payload);
    }

    /// Appends the head of a response, with `length` as its `Content-Length`. A tunnel that HTTP/1 opens with 101 is opened with 200 here.
    pub(super) fn head(
        &mut self,
        stream: u32,
        response: &Response,
        length: Option<u64>,
        ended: bool,
    ) {
        let switched = response.status == 101;
        let status = if switched { 200 } else { response.status };
        self.block(stream, ended, |encoder, out| {
            encoder.status(status, out);
            for field in response.fields.iter() {
                let replaced = match field.known {
                    Known::SecWebsocketAccept => switched,
                    Known::ContentLength => length.is_some(),
                    _ => false,
                };
                if !replaced {
                    encoder.field(field.known, field.name, field.value, out);
                }
            }
            if let Some(length) = length {
                let mut digits = [0; 20];
                let value = decimal(length, &mut digits);
                encoder.field(Known::ContentLength, b"content-length", value, out);
            }
        });
    }

    /// Appends trailers, which end the stream.
    pub(super) fn trailers(&mut self, stream: u32, fields: &Fields) {
        self.block(stream, true, |encoder, out| {
            for field in fields.iter() {
                encoder.field(field.known, field.name, field.value, out);
            }
        });
    }

    /// Appends a header block as HEADERS and, where one frame is not enough, CONTINUATION.
    fn block(&mut self, stream: u32, ended: bool, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        self.begin();
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEADER]);
        self.encoder.begin(&mut self.bytes);
        write(&mut self.encoder, &mut self.bytes);
        let flags = if ended { END_STREAM } else { 0 };
        let length = self.bytes.len() - at - HEADER;
        if length > LARGEST {
            let block = self.bytes.split_off(at + HEADER);
            self.bytes.truncate(at);
            let frames = crate::http2::frames::head(stream, flags, &block);
            return self.bytes.extend_from_slice(&frames);
        }
        let frame = Frame { kind: kind::HEADERS, flags: flags | END_HEADERS, stream, length };
        self.bytes[at..at + HEADER].copy_from_slice(&frame.encode());
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        give_write(std::mem::take(&mut self.bytes));
    }
}

/// Writes a number in decimal digits.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}
