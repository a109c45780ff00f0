//! Bytes both ways between two streams, with back-pressure and half-close.
//!
//! A connection that is silent holds no buffer: bytes are read into one that belongs to the thread, and only what the other side did not take at once is kept.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::sleep;

/// Bytes of one read. A TLS record holds 16 KiB.
const READ: usize = 32 << 10;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// Bytes carried, counted while they are carried.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// From the client.
    pub(crate) up: AtomicU64,
    /// To the client.
    pub(crate) down: AtomicU64,
    /// Told when the first bytes to the client have arrived.
    pub(crate) heard: Notify,
}

impl Carried {
    fn sum(&self) -> u64 {
        self.up.load(Ordering::Relaxed).wrapping_add(self.down.load(Ordering::Relaxed))
    }
}

/// Reason why a relay ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides said that they have no more to send.
    Closed,
    /// One side failed.
    Broken(io::Error),
    /// Nothing was carried for too long.
    Idle,
}

/// Carries bytes until both directions have ended, one fails, or nothing was carried for `idle`.
pub(crate) async fn relay<A, B>(
    client: &mut A,
    gateway: &mut B,
    carried: &Carried,
    idle: Duration,
) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let both = poll_fn(|context| {
        let (client, gateway) = (Pin::new(&mut *client), Pin::new(&mut *gateway));
        both_ways((client, &mut up), (gateway, &mut down), carried, context)
    });
    tokio::select! {
        result = both => result.map_or_else(End::Broken, |()| End::Closed),
        () = silence(carried, idle) => End::Idle,
    }
}

fn both_ways<A, B>(
    (mut client, up): (Pin<&mut A>, &mut Direction),
    (mut gateway, down): (Pin<&mut B>, &mut Direction),
    carried: &Carried,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let up = up.poll(client.as_mut(), gateway.as_mut(), &carried.up, context)?;
    let before = carried.down.load(Ordering::Relaxed);
    let down = down.poll(gateway.as_mut(), client.as_mut(), &carried.down, context)?;
    if before == 0 && carried.down.load(Ordering::Relaxed) > 0 {
        carried.heard.notify_one();
    }
    match (up, down) {
        (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
        _ => Poll::Pending,
    }
}

/// Waits until nothing was carried for `idle`.
async fn silence(carried: &Carried, idle: Duration) {
    let mut before = carried.sum();
    loop {
        sleep(idle).await;
        let now = carried.sum();
        if now == before {
            return;
        }
        before = now;
    }
}

/// One direction of a relay.
#[derive(Default)]
struct Direction {
    /// Bytes that were read and not yet written.
    held: Vec<u8>,
    written: usize,
    phase: Phase,
    /// Something was written that a TLS stream may still hold.
    needs_flush: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Reading,
    Closing,
    Done,
}

impl Direction {
    fn poll<R: AsyncRead, W: AsyncWrite>(
        &mut self,
        mut from: Pin<&mut R>,
        mut to: Pin<&mut W>,
        counter: &AtomicU64,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            // Nothing more is read while the other side has not taken what was: that is the back-pressure.
            ready!(self.write_held(to.as_mut(), context))?;
            match self.phase {
                Phase::Reading => match self.read(from.as_mut(), to.as_mut(), counter, context) {
                    Poll::Ready(result) => result?,
                    Poll::Pending => {
                        if self.needs_flush {
                            ready!(to.as_mut().poll_flush(context))?;
                            self.needs_flush = false;
                        }
                        return Poll::Pending;
                    }
                },
                Phase::Closing => {
                    ready!(to.as_mut().poll_shutdown(context))?;
                    self.phase = Phase::Done;
                }
                Phase::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    fn write_held<W: AsyncWrite>(
        &mut self,
        mut to: Pin<&mut W>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.written < self.held.len() {
            let count = ready!(to.as_mut().poll_write(context, &self.held[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.needs_flush = true;
        }
        // The allocation is given back, so that a silent connection holds none.
        self.held = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads once, and writes what the other side takes at once.
    fn read<R: AsyncRead, W: AsyncWrite>(
        &mut self,
        from: Pin<&mut R>,
        mut to: Pin<&mut W>,
        counter: &AtomicU64,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(from.poll_read(context, &mut read))?;
            let mut rest = read.filled();
            if rest.is_empty() {
                self.phase = Phase::Closing;
                return Poll::Ready(Ok(()));
            }
            counter.fetch_add(rest.len() as u64, Ordering::Relaxed);
            while !rest.is_empty() {
                match to.as_mut().poll_write(context, rest)? {
                    Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(count) => {
                        rest = &rest[count..];
                        self.needs_flush = true;
                    }
                    Poll::Pending => {
                        self.held.extend_from_slice(rest);
                        break;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[tokio::test(start_paused = true)]
    async fn megabytes_pass_both_ways_at_once_through_narrow_pipes() {
        let (client, mut near) = duplex(1_000);
        let (mut far, server) = duplex(700);
        let sent: Vec<u8> = (0..2_000_000_u32).map(|at| (at % 251) as u8).collect();
        let carried = Carried::default();

        let relaying = relay(&mut near, &mut far, &carried, DAY);
        let exchange = |side: tokio::io::DuplexStream, data: Vec<u8>| async move {
            let (mut reader, mut writer) = tokio::io::split(side);
            let write = async {
                writer.write_all(&data).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            tokio::join!(write, async { reader.read_to_end(&mut got).await.unwrap() });
            got
        };
        let answer: Vec<u8> = sent.iter().rev().copied().collect();
        let (end, at_client, at_server) = tokio::join!(
            relaying,
            exchange(client, sent.clone()),
            exchange(server, answer.clone()),
        );

        assert!(matches!(end, End::Closed), "{end:?}");
        assert_eq!(at_client, answer);
        assert_eq!(at_server, sent);
        assert_eq!(carried.sum(), 4_000_000);
    }

    // S4.65+
    #[tokio::test(start_paused = true)]
    async fn a_side_that_has_ended_still_receives() {
        let (mut client, mut near) = duplex(64);
        let (mut far, mut server) = duplex(64);
        let carried = Carried::default();

        let talk = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut question = Vec::new();
            server.read_to_end(&mut question).await.unwrap();
            sleep(Duration::from_hours(2)).await;
            server.write_all(b"answer").await.unwrap();
            server.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            (question, answer)
        };
        let (end, (question, answer)) =
            tokio::join!(relay(&mut near, &mut far, &carried, DAY), talk);

        assert!(matches!(end, End::Closed), "{end:?}");
        assert_eq!((&question[..], &answer[..]), (&b"question"[..], &b"answer"[..]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_stops_the_writer() {
        let (mut client, mut near) = duplex(1_000);
        let (mut far, _server) = duplex(1_000);
        let carried = Carried::default();

        let write = async {
            let mut written = 0;
            while let Ok(result) =
                tokio::time::timeout(Duration::from_secs(9), client.write(&[7; 500])).await
            {
                written += result.unwrap();
            }
            written
        };
        let written = tokio::select! {
            written = write => written,
            end = relay(&mut near, &mut far, &carried, DAY) => panic!("{end:?}"),
        };

        // Both pipes, and one read of the relay.
        assert!(written <= 2_000 + READ, "{written}");
    }

    // S4.65
    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_it_was_silent_for_too_long_and_not_before() {
        let (mut client, mut near) = duplex(64);
        let (mut far, mut server) = duplex(64);
        let carried = Carried::default();

        let talk = async {
            for _ in 0..5 {
                sleep(Duration::from_hours(20)).await;
                client.write_all(b"x").await.unwrap();
                server.read_exact(&mut [0]).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let started = tokio::time::Instant::now();
        let end = tokio::select! {
            end = relay(&mut near, &mut far, &carried, DAY) => end,
            () = talk => unreachable!(),
        };

        assert!(matches!(end, End::Idle), "{end:?}");
        assert!(started.elapsed() >= Duration::from_hours(100 + 24));
    }
}
