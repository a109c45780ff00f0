//! What of the bytes that arrived the codec is given, and when: a header block at once when it is whole, and in a form that it can take.
//!
//! Bytes stay where they are unless a header block is cut by the end of a read, or has to be rewritten (`hpack/rewrite.rs`).

use tokio::io::ReadBuf;

use crate::http2::frames::{END_HEADERS, Piece, kind};
use crate::http2::inspect::Incoming;

/// Memory kept for the next bytes.
const KEPT: usize = 4096;

/// Looks at what a peer sends before the codec does.
#[derive(Debug)]
pub(crate) struct Intake {
    incoming: Incoming,
    /// Bytes of earlier reads that wait for the end of a header block, or of a frame's header.
    held: Vec<u8>,
    /// Bytes to hand over, and how many of them were.
    ready: Vec<u8>,
    served: usize,
    /// Where in the present bytes those begin that cannot be handed over yet.
    open: Option<usize>,
    /// Bytes of the present ones that were copied or replaced.
    copied: usize,
}

impl Intake {
    pub(crate) fn new(incoming: Incoming) -> Self {
        Self { incoming, held: Vec::new(), ready: Vec::new(), served: 0, open: None, copied: 0 }
    }

    /// Forgets a stream that was reset.
    pub(crate) fn reset(&mut self, stream: u32) {
        self.incoming.reset(stream);
    }

    /// Hands bytes over that are ready; false if none are.
    pub(crate) fn serve(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let left = &self.ready[self.served..];
        if left.is_empty() {
            return false;
        }
        let count = left.len().min(buf.remaining());
        buf.put_slice(&left[..count]);
        self.served += count;
        if self.served == self.ready.len() {
            self.served = 0;
            self.ready.clear();
            self.ready.shrink_to(KEPT);
        }
        true
    }

    /// Looks at a piece of the bytes that have just arrived.
    pub(crate) fn received(&mut self, piece: Piece<'_>, bytes: &[u8]) {
        self.incoming.received(piece);
        let frame = piece.frame;
        let open = *self.open.get_or_insert(if self.held.is_empty() { piece.at.0 } else { 0 });
        let of_block = matches!(frame.kind, kind::HEADERS | kind::CONTINUATION);
        if !of_block || self.incoming.is_lost() {
            return self.release();
        }
        if !piece.last || frame.flags & END_HEADERS == 0 {
            return;
        }
        match self.incoming.take_rewritten() {
            Some(mut frames) => {
                self.held.clear();
                self.ready.extend_from_slice(&bytes[self.copied..open]);
                self.ready.append(&mut frames);
                self.copied = piece.at.1;
                self.open = None;
            }
            None => self.release(),
        }
    }

    fn release(&mut self) {
        self.ready.append(&mut self.held);
        self.open = None;
    }

    /// Leaves in `buf`, of the bytes that arrived behind `before`, those that may be handed over; false if there are none. The last `partial` bytes
    /// belong to a frame's header that is not whole.
    pub(crate) fn finish(&mut self, buf: &mut ReadBuf<'_>, before: usize, partial: usize) -> bool {
        let new = &buf.filled()[before..];
        if new.is_empty() {
            // The end: the codec judges what it is left with.
            self.release();
            return self.serve(buf) || self.ready.is_empty();
        }
        let cut = new.len().saturating_sub(partial);
        let open = match self.open.take() {
            Some(open) => open.min(cut),
            None if self.held.is_empty() => cut,
            None => 0,
        };
        if open == new.len() && self.copied == 0 && self.ready.is_empty() {
            return true;
        }
        self.ready.extend_from_slice(&new[self.copied..open]);
        self.held.extend_from_slice(&new[open..]);
        self.copied = 0;
        buf.set_filled(before);
        self.serve(buf)
    }
}
