//! Connection under HTTP/2 that is read in portions, so that a peer's frames neither keep a core nor fill memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Bytes of a frame's header (RFC 9113, section 4.1).
const HEADER: usize = 9;
/// Bytes of the preface that a client sends before its frames.
const PREFACE: usize = 24;
/// Bytes that reading one frame counts as, besides its own.
const FRAME: usize = 256;
/// Bytes read at once.
const PORTION: usize = 256 * 1024;
/// Frames read at once while the peer does not take what we send. Some ask for an answer, and answers that wait are held.
const UNANSWERED: usize = 1024;
/// Pause after which as many are read once more. Two ends that both wait for the other to read would wait forever.
const PAUSE: Duration = Duration::from_secs(1);
/// Pauses after which a peer that has taken nothing is dead.
const PAUSES: u32 = 30;

/// Budget of one portion.
pub trait Budget {
    /// Takes bytes out of the present portion.
    fn spend(&mut self, bytes: usize);

    /// Returns true if other tasks should run before more is read.
    fn is_over(&mut self) -> bool;
}

/// Budget of a program in which nobody else's work has to be waited for: 256 KiB.
#[derive(Debug, Default)]
pub struct Portion(usize);

impl Budget for Portion {
    fn spend(&mut self, bytes: usize) {
        self.0 = self.0.saturating_add(bytes);
    }

    fn is_over(&mut self) -> bool {
        let over = self.0 >= PORTION;
        if over {
            self.0 = 0;
        }
        over
    }
}

/// Connection whose frames are counted as they are read.
#[derive(Debug)]
pub struct Paced<I, B> {
    inner: I,
    budget: B,
    frames: Frames,
    unanswered: Unanswered,
}

/// Count of the frames that were read since the socket took nothing more of what is written.
#[derive(Debug, Default)]
pub struct Unanswered {
    read: Option<usize>,
    pause: Option<Pin<Box<Sleep>>>,
    pauses: u32,
}

impl Unanswered {
    /// Takes note of an attempt to write.
    pub fn wrote<T>(&mut self, cx: &Context<'_>, sent: &Poll<T>) {
        if sent.is_pending() {
            self.read.get_or_insert(0);
            return;
        }
        if self.is_full() {
            // Reading was put off without a look at the socket, so nothing else would bring it back.
            cx.waker().wake_by_ref();
        }
        *self = Self::default();
    }

    /// Takes note of frames that were read.
    pub fn read(&mut self, frames: usize) {
        self.read = self.read.map(|read| read.saturating_add(frames));
    }

    /// Completes when more may be read: at once, or after a pause where the socket takes nothing. [`wrote`](Self::wrote) wakes the connection before, once
    /// it takes something.
    ///
    /// # Errors
    /// Fails if the peer has taken nothing for half a minute of pauses.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_full() {
            return Poll::Ready(Ok(()));
        }
        let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(PAUSE)));
        ready!(pause.as_mut().poll(cx));
        self.pauses += 1;
        (self.read, self.pause) = (Some(0), None);
        if self.pauses < PAUSES {
            return Poll::Ready(Ok(()));
        }
        let dead = "the peer sends, and takes nothing";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, dead)))
    }

    fn is_full(&self) -> bool {
        self.read.is_some_and(|read| read >= UNANSWERED)
    }
}

/// Counter of the frames in a stream of bytes.
#[derive(Debug)]
struct Frames {
    skip: usize,
    header: [u8; HEADER],
    have: usize,
    left: usize,
}

impl Frames {
    /// Returns the number of frames that begin in the next bytes.
    fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut begun = 0;
        while !bytes.is_empty() {
            let over = (self.skip + self.left).min(bytes.len());
            let skipped = self.skip.min(over);
            self.skip -= skipped;
            self.left -= over - skipped;
            bytes = &bytes[over..];
            let taken = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER {
                let [high, middle, low, ..] = self.header;
                (self.have, self.left) = (0, u32::from_be_bytes([0, high, middle, low]) as usize);
                begun += 1;
            }
        }
        begun
    }
}

impl<I, B: Budget> Paced<I, B> {
    /// Wraps the connection of a peer that is the HTTP/2 server.
    pub fn of_server(inner: I, budget: B) -> Self {
        let frames = Frames { skip: 0, header: [0; HEADER], have: 0, left: 0 };
        Self { inner, budget, frames, unanswered: Unanswered::default() }
    }

    /// Wraps the connection of a peer that is the HTTP/2 client.
    pub fn of_client(inner: I, budget: B) -> Self {
        let mut paced = Self::of_server(inner, budget);
        paced.frames.skip = PREFACE;
        paced
    }
}

impl<I: AsyncRead + Unpin, B: Budget + Unpin> AsyncRead for Paced<I, B> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.unanswered.poll_room(cx))?;
        if this.budget.is_over() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        let frames = this.frames.count(new);
        this.budget.spend(new.len() + frames * FRAME);
        this.unanswered.read(frames);
        read
    }
}

impl<I: AsyncWrite + Unpin, B: Budget + Unpin> AsyncWrite for Paced<I, B> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.unanswered.wrote(cx, &written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.unanswered.wrote(cx, &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.unanswered.wrote(cx, &flushed);
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::task::{Wake, Waker};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    fn frames() -> Frames {
        Frames { skip: 0, header: [0; HEADER], have: 0, left: 0 }
    }

    #[test]
    fn frames_are_counted_however_their_bytes_come() {
        let wire: Vec<u8> =
            [&[0, 0, 3, 0, 0, 0, 0, 0, 1, 7, 7, 7][..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        for size in 1..=wire.len() {
            let mut counter = frames();
            assert_eq!(wire.chunks(size).map(|bytes| counter.count(bytes)).sum::<usize>(), 2);
        }
        let mut after_preface = Frames { skip: PREFACE, ..frames() };
        assert_eq!(after_preface.count(&[&[b'P'; PREFACE][..], &wire].concat()), 2);
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_not_read_without_end() {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let mut paced = Paced::of_server(ours, Portion::default());
        let tiny = [0, 0, 0, 8, 0, 0, 0, 0, 0].repeat(7_000);
        theirs.write_all(&tiny).await.unwrap();
        let blocked = std::future::poll_fn(|cx| {
            while Pin::new(&mut paced).poll_write(cx, &[0; 4096])?.is_ready() {}
            let mut read = 0;
            let mut room = [0; 4096];
            // Self-wakes of the budget are not what ends it.
            for _ in 0..100 {
                let mut buf = ReadBuf::new(&mut room);
                if Pin::new(&mut paced).poll_read(cx, &mut buf)?.is_ready() {
                    read += buf.filled().len();
                }
            }
            Poll::Ready(io::Result::Ok(read))
        });
        let read = blocked.await.unwrap();
        assert!((1..16 * 1024).contains(&read), "{read}");

        let mut room = vec![0; 64 * 1024];
        theirs.read_exact(&mut room).await.unwrap();
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let written = Pin::new(&mut paced).poll_write(&mut Context::from_waker(&waker), b"on");
        assert!(written.is_ready() && woken.0.load(Relaxed), "reading is taken up again");
        let mut rest = vec![0; tiny.len() - read];
        paced.read_exact(&mut rest).await.unwrap();
    }
}
