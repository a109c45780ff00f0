//! Answers that are written piece by piece while they are read, and the turn that all costly answers of the admin listener take.
//!
//! A writer runs on a blocking thread, never on a core of the data path. It is a few pieces ahead of its reader and then sleeps, so a slow reader costs that
//! thread and those pieces until a deadline of its connection. One answer at a time is computed: any number of readers take one core at most.

use std::io::{Error, ErrorKind, Result, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};

/// Bytes of a piece.
const PIECE: usize = 64 * 1024;
/// Pieces that wait for the reader.
const AHEAD: usize = 2;

/// Turn to compute an answer; taken in the order of asking.
#[derive(Clone, Default)]
pub(super) struct Turn(Arc<Mutex<()>>);

impl Turn {
    /// Waits for the turn, which lasts until the guard is dropped. Called on a blocking thread.
    pub(super) fn wait(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.0).blocking_lock_owned()
    }
}

/// Returns a body that `write` fills. It is called when the body is first asked for: that of a HEAD request never is.
///
/// The body breaks off, without its proper end, if `write` fails.
pub(super) fn body(
    turn: Turn,
    write: impl FnOnce(&mut Pieces) -> Result<()> + Send + 'static,
) -> Body {
    let begin = move |sender: mpsc::Sender<Option<Bytes>>| {
        tokio::task::spawn_blocking(move || {
            let held = Some(turn.wait());
            let mut pieces = Pieces { gathered: Vec::with_capacity(PIECE), sender, turn, held };
            // Without its last message the body is known to be broken off. There is no point in reporting to a client that has left.
            if write(&mut pieces).is_ok() {
                drop(pieces.end());
            }
        });
    };
    Body::new(Streamed::Waiting(Box::new(begin)))
}

/// Writer of a body.
pub(super) struct Pieces {
    gathered: Vec<u8>,
    sender: mpsc::Sender<Option<Bytes>>,
    turn: Turn,
    held: Option<OwnedMutexGuard<()>>,
}

impl Pieces {
    fn send(&mut self, message: Option<Bytes>) -> Result<()> {
        // Others have their turn while this reader takes its time.
        self.held = None;
        let sent = self.sender.blocking_send(message);
        sent.map_err(|_| Error::new(ErrorKind::BrokenPipe, "the reader has left"))
    }

    fn end(mut self) -> Result<()> {
        let last = Bytes::from(std::mem::take(&mut self.gathered));
        self.send(Some(last))?;
        self.send(None)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let room = PIECE - self.gathered.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.gathered.extend_from_slice(taken);
        if self.gathered.len() == PIECE {
            let full = std::mem::replace(&mut self.gathered, Vec::with_capacity(PIECE));
            self.send(Some(Bytes::from(full)))?;
            self.held = Some(self.turn.wait());
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

type Begin = Box<dyn FnOnce(mpsc::Sender<Option<Bytes>>) + Send>;

/// Body whose pieces come from another thread; `None` in the channel is its proper end.
enum Streamed {
    Waiting(Begin),
    Running(mpsc::Receiver<Option<Bytes>>),
    Ended,
}

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let mut receiver = match std::mem::replace(&mut *self, Self::Ended) {
            Self::Waiting(begin) => {
                let (sender, receiver) = mpsc::channel(AHEAD);
                begin(sender);
                receiver
            }
            Self::Running(receiver) => receiver,
            Self::Ended => return Poll::Ready(None),
        };
        let message = receiver.poll_recv(context);
        match message {
            Poll::Pending => {
                *self = Self::Running(receiver);
                Poll::Pending
            }
            Poll::Ready(Some(Some(piece))) => {
                *self = Self::Running(receiver);
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Poll::Ready(Some(None)) => Poll::Ready(None),
            Poll::Ready(None) => {
                let broken = Error::new(ErrorKind::UnexpectedEof, "the answer broke off");
                Poll::Ready(Some(Err(broken)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A body of `count` numbers of four bytes, and how many of them are written.
    fn numbers(turn: &Turn, count: u32) -> (Body, Arc<AtomicUsize>) {
        let written = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&written);
        let body = body(turn.clone(), move |pieces| {
            for number in 0..count {
                pieces.write_all(&number.to_be_bytes())?;
                counter.fetch_add(4, SeqCst);
            }
            Ok(())
        });
        (body, written)
    }

    async fn until(mut is_so: impl FnMut() -> bool) {
        let waiting = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("it never came about");
    }

    #[tokio::test]
    async fn all_that_is_written_arrives_in_order() {
        let (body, _) = numbers(&Turn::default(), 100_000);

        let read = body.collect().await.unwrap().to_bytes();

        let expected: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
        assert!(read == expected, "{} bytes", read.len());
    }

    #[tokio::test]
    async fn a_writer_is_a_few_pieces_ahead_of_its_reader_and_others_have_their_turn() {
        let turn = Turn::default();
        let (mut slow, written) = numbers(&turn, 4_000_000);
        assert!(slow.frame().await.unwrap().unwrap().is_data());

        let (quick, _) = numbers(&turn, 100_000);
        let read = tokio::time::timeout(PATIENCE, quick.collect()).await.unwrap().unwrap();

        assert_eq!(read.to_bytes().len(), 400_000);
        assert!(written.load(SeqCst) <= (AHEAD + 2) * PIECE, "{} ahead", written.load(SeqCst));
    }

    #[tokio::test]
    async fn a_reader_that_leaves_ends_its_writer() {
        let (mut body, written) = numbers(&Turn::default(), u32::MAX);
        assert!(body.frame().await.unwrap().is_ok());

        drop(body);

        until(|| Arc::strong_count(&written) == 1).await;
    }

    #[tokio::test]
    async fn a_body_that_is_not_read_is_not_written() {
        let (body, written) = numbers(&Turn::default(), 10);

        drop(body);

        until(|| Arc::strong_count(&written) == 1).await;
        assert_eq!(written.load(SeqCst), 0);
    }

    #[tokio::test]
    async fn an_answer_whose_writer_fails_has_no_proper_end() {
        let failing = body(Turn::default(), |pieces| {
            pieces.write_all(b"{")?;
            Err(Error::other("no more"))
        });

        assert!(failing.collect().await.is_err());
    }
}
