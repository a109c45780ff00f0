//! Datagrams over a stream: each is a DATAGRAM capsule (RFC 9297 §3.5) whose payload is a UDP payload with context identifier 0 (RFC 9298 §5).
//!
//! A datagram arrives whole or not at all. A reader skips capsules and contexts that it does not know, and holds one capsule at most.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a UDP payload at most: 65,535 of an IPv6 payload without the UDP header.
pub const PAYLOAD: usize = 65_527;
/// Type of a DATAGRAM capsule.
const DATAGRAM: u64 = 0;
/// Context identifier of UDP payloads.
const UDP_PAYLOAD: u64 = 0;
/// Bytes of a varint at most (RFC 9000 §16).
const VARINT: usize = 8;
/// Bytes of a capsule that is skipped at most. A peer that sends longer ones is not one of ours.
const SKIPPED: u64 = 1024 * 1024;
/// Bytes read from a stream at once.
const READ: usize = 16 * 1024;
/// Bytes of an empty buffer that is kept.
const KEPT: usize = 4 * 1024;

/// Fault of a peer's capsules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCapsule {
    /// A DATAGRAM capsule longer than a UDP payload and its context identifier.
    #[error("a datagram of {0} bytes, more than UDP carries")]
    LongDatagram(u64),
    /// An unknown capsule that is too long to be skipped.
    #[error("a capsule of {0} bytes of an unknown type")]
    LongCapsule(u64),
    /// A DATAGRAM capsule without a whole context identifier.
    #[error("a datagram without a context identifier")]
    NoContext,
    /// The stream ended within a capsule.
    #[error("the stream ended within a capsule")]
    Cut,
}

impl From<BadCapsule> for io::Error {
    fn from(fault: BadCapsule) -> Self {
        Self::new(io::ErrorKind::InvalidData, fault)
    }
}

/// Appends the capsule of a UDP payload of [`PAYLOAD`] bytes at most.
///
/// ```
/// # use bytes::BytesMut;
/// let mut wire = BytesMut::new();
/// durward_link::datagram::encode(b"abc", &mut wire);
/// assert_eq!(&wire[..], b"\x00\x04\x00abc");
/// ```
pub fn encode(payload: &[u8], to: &mut BytesMut) {
    debug_assert!(payload.len() <= PAYLOAD);
    to.reserve(2 + VARINT + payload.len());
    put_varint(DATAGRAM, to);
    put_varint(payload.len() as u64 + 1, to);
    put_varint(UDP_PAYLOAD, to);
    to.put_slice(payload);
}

/// Appends a varint in its shortest form.
fn put_varint(value: u64, to: &mut BytesMut) {
    match value {
        0..=0x3f => to.put_u8(value as u8),
        0x40..=0x3fff => to.put_u16(value as u16 | 0x4000),
        0x4000..=0x3fff_ffff => to.put_u32(value as u32 | 0x8000_0000),
        _ => to.put_u64(value | 0xc000_0000_0000_0000),
    }
}

/// Returns a varint at the beginning of `bytes` and its length; `None` while it is not whole.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = 1usize << (first >> 6);
    let rest = bytes.get(1..len)?;
    let begin = u64::from(first & 0x3f);
    Some((rest.iter().fold(begin, |value, byte| (value << 8) | u64::from(*byte)), len))
}

/// Reader of capsules from pieces of a stream.
#[derive(Debug, Default)]
pub struct Decoder {
    received: BytesMut,
    /// Bytes of an unknown capsule that are still to come.
    skip: u64,
}

impl Decoder {
    /// Takes in what came.
    pub fn push(&mut self, piece: &[u8]) {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
        self.skip -= skipped as u64;
        self.received.extend_from_slice(&piece[skipped..]);
    }

    /// Returns the next UDP payload; `None` until one is whole.
    ///
    /// # Errors
    /// Fails on a capsule that no peer of ours sends; nothing after it can be read.
    pub fn datagram(&mut self) -> Result<Option<Bytes>, BadCapsule> {
        loop {
            let Some((kind, of_kind)) = varint(&self.received) else { return Ok(None) };
            let Some((len, of_len)) = varint(&self.received[of_kind..]) else { return Ok(None) };
            let head = of_kind + of_len;
            if kind != DATAGRAM {
                if len > SKIPPED {
                    return Err(BadCapsule::LongCapsule(len));
                }
                self.received.advance(head);
                let here = usize::try_from(len).unwrap_or(usize::MAX).min(self.received.len());
                self.received.advance(here);
                self.skip = len - here as u64;
                continue;
            }
            if len > (PAYLOAD + VARINT) as u64 {
                return Err(BadCapsule::LongDatagram(len));
            }
            let len = usize::try_from(len).map_err(|_| BadCapsule::LongDatagram(len))?;
            if self.received.len() < head + len {
                return Ok(None);
            }
            self.received.advance(head);
            let mut datagram = self.received.split_to(len);
            let (context, of_context) = varint(&datagram).ok_or(BadCapsule::NoContext)?;
            datagram.advance(of_context);
            // RFC 9298 §5: datagrams of unknown contexts are dropped.
            if context == UDP_PAYLOAD {
                if datagram.len() > PAYLOAD {
                    return Err(BadCapsule::LongDatagram(datagram.len() as u64));
                }
                return Ok(Some(datagram.freeze()));
            }
        }
    }

    /// Returns true if no part of a capsule waits for the rest.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.received.is_empty() && self.skip == 0
    }
}

/// Datagrams that travel over a stream, in both directions. Neither direction waits for the other.
#[derive(Debug)]
pub struct Datagrams<S> {
    stream: S,
    decoder: Decoder,
    /// Capsule that the stream has not taken yet.
    unsent: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Datagrams<S> {
    /// Wraps a stream.
    pub fn new(stream: S) -> Self {
        Self { stream, decoder: Decoder::default(), unsent: BytesMut::new() }
    }

    /// Returns the stream.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Returns the next datagram that came; `None` at the end of the stream.
    ///
    /// # Errors
    /// Fails if the stream broke, or its peer sent something else than capsules.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            if let Some(datagram) = self.decoder.datagram()? {
                return Poll::Ready(Ok(Some(datagram)));
            }
            let mut piece = [std::mem::MaybeUninit::uninit(); READ];
            let mut piece = ReadBuf::uninit(&mut piece);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                let whole = self.decoder.is_between();
                return Poll::Ready(if whole { Ok(None) } else { Err(BadCapsule::Cut.into()) });
            }
            self.decoder.push(piece.filled());
        }
    }

    /// Completes when the stream has taken what was queued, so that [`queue`](Self::queue) may be called.
    ///
    /// # Errors
    /// Fails if the stream broke.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unsent))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(written);
        }
        // A long datagram must not leave its buffer with a session that sends short ones.
        if self.unsent.capacity() > KEPT {
            self.unsent = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Queues a datagram for [`poll_ready`](Self::poll_ready) to send. The caller queues one at a time, so that what waits here is bounded.
    pub fn queue(&mut self, payload: &[u8]) {
        encode(payload, &mut self.unsent);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn decoded(pieces: &[&[u8]]) -> Result<Vec<Bytes>, BadCapsule> {
        let (mut decoder, mut all) = (Decoder::default(), Vec::new());
        for piece in pieces {
            decoder.push(piece);
            while let Some(datagram) = decoder.datagram()? {
                all.push(datagram);
            }
        }
        Ok(all)
    }

    proptest! {
        // S3.79+
        #[test]
        fn datagrams_stay_whole_however_the_stream_cuts_them(
            lengths in proptest::collection::vec(prop_oneof![0usize..100, 16_300usize..16_500, Just(PAYLOAD)], 1..6),
            cut in 1usize..20_000,
        ) {
            let sent: Vec<Vec<u8>> =
                lengths.iter().map(|len| (0..*len).map(|at| (at * 7 + len) as u8).collect()).collect();
            let mut wire = BytesMut::new();
            sent.iter().for_each(|datagram| encode(datagram, &mut wire));

            let pieces: Vec<&[u8]> = wire.chunks(cut).collect();
            prop_assert_eq!(decoded(&pieces).unwrap(), sent);
        }

        #[test]
        fn no_bytes_make_the_decoder_hold_more_than_a_capsule(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = Decoder::default();
            for byte in &bytes {
                decoder.push(&[*byte]);
                if decoder.datagram().is_err() {
                    break;
                }
                prop_assert!(decoder.received.len() <= PAYLOAD + 3 * VARINT);
            }
        }
    }

    // S3.79+
    #[test]
    fn hostile_lengths_are_refused_before_anything_is_held() {
        let longest = [0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(decoded(&[&longest]), Err(BadCapsule::LongDatagram((1 << 62) - 1)));
        let unknown = [0x21, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(decoded(&[&unknown]), Err(BadCapsule::LongCapsule((1 << 62) - 1)));
        assert_eq!(decoded(&[&[0x00, 0x00]]), Err(BadCapsule::NoContext));
        // A context identifier of eight bytes in a capsule of one.
        assert_eq!(decoded(&[&[0x00, 0x01, 0xc0]]), Err(BadCapsule::NoContext));
        let mut long = BytesMut::from(&[0x00][..]);
        put_varint(PAYLOAD as u64 + 2, &mut long);
        long.resize(long.len() + PAYLOAD + 2, 0);
        assert_eq!(decoded(&[&long]), Err(BadCapsule::LongDatagram(PAYLOAD as u64 + 1)));
    }

    #[test]
    fn capsules_and_contexts_that_are_not_known_are_skipped() {
        let mut wire = BytesMut::new();
        // Capsule of type 0x21 with four bytes, a datagram of context 2, then one of ours in longer varints than needed.
        wire.extend_from_slice(&[0x21, 0x04, 1, 2, 3, 4, 0x00, 0x03, 0x02, 9, 9]);
        wire.extend_from_slice(&[0x40, 0x00, 0x80, 0x00, 0x00, 0x03, 0x40, 0x00, b'a']);

        let pieces: Vec<&[u8]> = wire.chunks(3).collect();
        assert_eq!(decoded(&pieces).unwrap(), [Bytes::from_static(b"a")]);
    }

    #[tokio::test]
    async fn a_writer_that_waits_does_not_keep_datagrams_from_being_read() {
        let (near, mut far) = tokio::io::duplex(32);
        let mut datagrams = Datagrams::new(near);
        datagrams.queue(&[7; 1000]);
        assert!(poll_fn(|cx| Poll::Ready(datagrams.poll_ready(cx).is_pending())).await);

        let mut wire = BytesMut::new();
        encode(b"", &mut wire);
        encode(b"answer", &mut wire);
        far.write_all(&wire).await.unwrap();
        let received = poll_fn(|cx| datagrams.poll_receive(cx)).await.unwrap();
        assert_eq!(received.as_deref(), Some(&b""[..]), "an empty datagram is one");
        let received = poll_fn(|cx| datagrams.poll_receive(cx)).await.unwrap();
        assert_eq!(received.as_deref(), Some(&b"answer"[..]));
        assert!(poll_fn(|cx| Poll::Ready(datagrams.poll_ready(cx).is_pending())).await);
    }

    #[tokio::test]
    async fn a_stream_that_ends_within_a_capsule_is_broken() {
        let (near, mut far) = tokio::io::duplex(64);
        far.write_all(&[0x00, 0x05, 0x00, b'a']).await.unwrap();
        far.shutdown().await.unwrap();

        let mut datagrams = Datagrams::new(near);
        let ended = poll_fn(|cx| datagrams.poll_receive(cx)).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
