//! Frames of a stream on their way to the carrier's socket, counted: HTTP/2 bounds the bytes that wait, but not the frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::AcqRel, Ordering::Acquire};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;

/// Frames of one stream that may wait. Each takes hundreds of bytes besides its own.
const MOST: u32 = 16;
/// Frames at which a writer that waited goes on.
const FEW: u32 = MOST / 2;

/// Bytes of one frame.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Bytes,
    counted: Option<Arc<Waiting>>,
}

/// Frames of one stream that HTTP/2 has not written yet.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    frames: AtomicU32,
    writer: AtomicWaker,
}

impl Waiting {
    /// Completes when the stream may send another frame.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.frames.load(Acquire) < MOST {
            return Poll::Ready(());
        }
        self.writer.register(cx.waker());
        if self.frames.load(Acquire) < MOST { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Frame {
    /// Wraps bytes of a stream whose frames are counted.
    pub(super) fn counted(bytes: Bytes, waiting: &Arc<Waiting>) -> Self {
        waiting.frames.fetch_add(1, AcqRel);
        Self { bytes, counted: Some(Arc::clone(waiting)) }
    }
}

impl From<Bytes> for Frame {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, counted: None }
    }
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let Some(waiting) = self.counted.take() else { return };
        if waiting.frames.fetch_sub(1, AcqRel) <= FEW {
            waiting.writer.wake();
        }
    }
}
