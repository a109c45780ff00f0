//! Read and write buffers shared by all connections of a core: held while they contain bytes, returned when empty.
//!
//! So ten thousand idle connections need no buffers at all. A buffer has one size; only a head that a tenant allows to be larger makes its buffer
//! grow, until the head is read.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Bytes of a read buffer, and of the largest head that is read without growing it.
pub(crate) const SIZE: usize = 64 * 1024;
/// Unused bytes below which a buffer is replaced, when reading stalls, by one of just that size.
const SMALL: usize = 32 * 1024;
/// Buffers of each kind kept per core.
const KEPT: usize = 64;

thread_local! {
    static READ: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static WRITE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that were read and not yet consumed.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Returns the unconsumed bytes.
    pub(crate) fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Returns true if no unconsumed bytes are left.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Returns the memory held now, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Consumes the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.is_empty() {
            self.release();
        }
    }

    /// Appends `bytes` to the unconsumed ones, as if they had been read.
    pub(crate) fn preload(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut all = Vec::with_capacity(self.filled().len() + bytes.len());
        all.extend_from_slice(self.filled());
        all.extend_from_slice(bytes);
        self.release();
        self.end = all.len();
        self.bytes = all.into_boxed_slice();
    }

    /// Takes the unconsumed bytes out.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let taken = self.filled().to_vec();
        self.consume(taken.len());
        taken
    }

    /// Reads more and returns the number of bytes: 0 at the end. `StorageFull` if there is no room.
    pub(crate) fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut R,
    ) -> Poll<io::Result<usize>> {
        self.make_room();
        if self.end == self.bytes.len() {
            return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
        }
        let mut into = ReadBuf::new(&mut self.bytes[self.end..]);
        let polled = Pin::new(io).poll_read(cx, &mut into);
        let count = into.filled().len();
        self.end += count;
        if count == 0 {
            self.park();
        }
        ready!(polled)?;
        Poll::Ready(Ok(count))
    }

    /// Enlarges a full buffer, up to `most` bytes; false if it is that large already.
    pub(crate) fn grow(&mut self, most: usize) -> bool {
        if self.bytes.len() >= most {
            return false;
        }
        let unused = self.filled();
        let mut larger = vec![0; (self.bytes.len() * 2).max(SIZE).min(most)].into_boxed_slice();
        let count = unused.len();
        larger[..count].copy_from_slice(unused);
        self.release();
        (self.bytes, self.end) = (larger, count);
        true
    }

    fn make_room(&mut self) {
        if self.bytes.len() < SIZE {
            let mut large =
                READ.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into_boxed_slice());
            let unused = self.filled();
            let count = unused.len().min(SIZE);
            large[..count].copy_from_slice(&unused[..count]);
            (self.bytes, self.start, self.end) = (large, 0, count);
        } else if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Returns the large buffer to the pool while waiting, so that a slow client holds no more than it sent.
    fn park(&mut self) {
        let unused = self.filled().len();
        if unused == 0 {
            self.release();
        } else if unused < SMALL && self.bytes.len() >= SIZE {
            let small: Box<[u8]> = self.filled().into();
            self.release();
            (self.bytes, self.end) = (small, unused);
        }
    }

    fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        (self.start, self.end) = (0, 0);
        if bytes.len() == SIZE {
            // At thread exit a connection may outlive the thread-local pool.
            let _ = READ.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.len() < KEPT {
                    pool.push(bytes);
                }
            });
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

/// Releases half of each kind of unused buffers, so that a peak is forgotten in a few calls.
pub(crate) fn shrink_pools() {
    READ.with_borrow_mut(|pool| pool.truncate(pool.len() / 2));
    WRITE.with_borrow_mut(|pool| pool.truncate(pool.len() / 2));
}

/// Takes an empty write buffer.
pub(crate) fn take_write() -> Vec<u8> {
    WRITE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(2048))
}

/// Returns a buffer from [`take_write`] to the pool.
pub(crate) fn give_write(mut bytes: Vec<u8>) {
    if bytes.capacity() == 0 || bytes.capacity() > SIZE {
        return;
    }
    bytes.clear();
    let _ = WRITE.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < KEPT {
            pool.push(bytes);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn read(buffer: &mut Buffer, mut bytes: &[u8]) -> Poll<io::Result<usize>> {
        buffer.poll_read(&mut Context::from_waker(Waker::noop()), &mut bytes)
    }

    #[test]
    fn an_empty_buffer_holds_no_memory() {
        let mut buffer = Buffer::default();

        assert!(matches!(read(&mut buffer, b"hello"), Poll::Ready(Ok(5))));
        buffer.consume(5);

        assert!(buffer.bytes.is_empty());
    }

    #[test]
    fn what_a_slow_client_sent_moves_to_a_small_buffer() {
        let mut buffer = Buffer::default();
        assert!(matches!(read(&mut buffer, b"GET"), Poll::Ready(Ok(3))));

        assert!(matches!(read(&mut buffer, b""), Poll::Ready(Ok(0))));

        assert_eq!((buffer.bytes.len(), buffer.filled()), (3, &b"GET"[..]));
    }

    #[test]
    fn a_full_buffer_grows_as_far_as_it_may_and_is_not_kept() {
        let mut buffer = Buffer::default();
        let all = vec![b'x'; SIZE * 4];
        assert!(matches!(read(&mut buffer, &all), Poll::Ready(Ok(SIZE))));

        assert!(!buffer.grow(SIZE) && buffer.grow(SIZE * 3));
        assert!(matches!(read(&mut buffer, &all), Poll::Ready(Ok(SIZE))));
        assert!(buffer.grow(SIZE * 3) && !buffer.grow(SIZE * 3));

        assert_eq!(buffer.filled(), &all[..SIZE * 2]);
        buffer.consume(SIZE * 2);
        assert!(buffer.bytes.is_empty());
    }

    #[test]
    fn a_full_buffer_says_so() {
        let mut buffer = Buffer::default();
        let all = vec![b'x'; SIZE + 1];
        assert!(matches!(read(&mut buffer, &all), Poll::Ready(Ok(SIZE))));

        let refused = read(&mut buffer, b"y");

        assert!(
            matches!(refused, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::StorageFull)
        );
        buffer.consume(1);
        assert!(matches!(read(&mut buffer, b"y"), Poll::Ready(Ok(1))));
    }
}
