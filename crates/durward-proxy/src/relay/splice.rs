//! Relay between two plain sockets: large transfers go through a kernel pipe and never through this process; small ones are read and written, which
//! needs fewer system calls.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use super::meter::Meter;
use super::pipe::Pipe;
use super::{ALIVE, Broken, SCRATCH, SCRATCH_BYTES, Way, keep_alive};
use crate::turns;

/// Bytes ready at once above which splicing starts, and below which it ends.
const MUCH: usize = 16 * 1024;
const LITTLE: usize = 1024;
/// Steps of a turn, however little each of them moves. As long as all that is ready is moved at once it is still in the processor's caches: with
/// a quarter of these steps the same bytes cost half as much again.
const STEPS: usize = 16;
/// A byte that is spliced costs about a quarter of one that is copied and encrypted.
const CHEAPER: usize = 4;

/// Relays bytes, beginning with those already read for the upstream and for the client, until both directions have ended. Where the connection
/// `may_be_idle` for hours the kernel asks for its peers; most are over before that matters, and cost no system calls for it.
pub(super) async fn both(
    meter: &Meter<'_>,
    client: &mut TcpStream,
    upstream: &mut TcpStream,
    (to_upstream, to_client): (Vec<u8>, Vec<u8>),
    may_be_idle: bool,
) -> Result<(), Broken> {
    let (mut client, mut upstream) = (client.split(), upstream.split());
    let (to_the_client, to_the_upstream) = (client.1.as_ref(), upstream.1.as_ref());
    let is_last = Cell::new(false);
    let up = one(meter, Way::ToUpstream, &mut client.0, (to_the_upstream, &is_last), to_upstream);
    let down = one(meter, Way::ToClient, &mut upstream.0, (to_the_client, &is_last), to_client);
    let relaying = futures_util::future::try_join(up, down);
    let (up, down) = if may_be_idle {
        let mut relaying = pin!(relaying);
        match tokio::time::timeout(ALIVE.0, &mut relaying).await {
            Ok(relayed) => relayed?,
            Err(_) => {
                [to_the_client, to_the_upstream].into_iter().for_each(keep_alive);
                relaying.await?
            }
        }
    } else {
        relaying.await?
    };
    up.and(down)
}

/// Relays one direction to its end; `is_last` is true once the other has ended. The outer error ends the other direction too: the sender is gone. The inner error says that only the receiver is
/// gone; bytes that it sent before are still delivered.
async fn one(
    meter: &Meter<'_>,
    way: Way,
    from: &mut ReadHalf<'_>,
    (to, is_last): (&TcpStream, &Cell<bool>),
    first: Vec<u8>,
) -> Result<Result<(), Broken>, Broken> {
    if write_all(meter, way, to, &first).await.is_err() {
        return Ok(Err(way.sink()));
    }
    drop(first);
    let mut much = false;
    loop {
        let pipe = if much { Pipe::take() } else { None };
        let moved = match pipe {
            Some(pipe) => splice_ready(meter, way, from.as_ref(), to, pipe).await?,
            None => copy_ready(meter, way, from, to, if much { SCRATCH } else { MUCH }).await?,
        };
        match moved {
            Moved::Some(bytes) => much = bytes >= if much { LITTLE } else { MUCH },
            Moved::End => {
                // Of the direction that ends last, closing the sockets tells the receiver: it has sent its own end before.
                if !is_last.replace(true) {
                    let _ = socket2::SockRef::from(to).shutdown(Shutdown::Write);
                }
                return Ok(Ok(()));
            }
            Moved::Refused => return Ok(Err(way.sink())),
        }
    }
}

enum Moved {
    /// Number of bytes moved: all that were ready, or a good part of them.
    Some(usize),
    /// The sender has ended its direction.
    End,
    /// The receiver is gone.
    Refused,
}

/// Splices the bytes that are ready now; gives the pipe back when nothing is left.
async fn splice_ready(
    meter: &Meter<'_>,
    way: Way,
    from: &TcpStream,
    to: &TcpStream,
    mut pipe: Pipe,
) -> Result<Moved, Broken> {
    let portion = meter.portion(way, pipe.size());
    let mut moved = 0;
    for _ in 0..STEPS {
        match pipe.fill(from, portion) {
            Ok(0) => return Ok(Moved::End),
            Ok(read) => {
                moved += read;
                turns::spend(read / CHEAPER);
                meter.read(way, read);
                if drain(meter, way, &mut pipe, to).await.is_err() {
                    return Ok(Moved::Refused);
                }
                // A pipe is scarce: it is not held during a pause.
                if let Some(wait) = meter.wait(way, read) {
                    drop(pipe);
                    tokio::time::sleep(wait).await;
                    return Ok(Moved::Some(moved));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                drop(pipe);
                from.readable().await.map_err(|_| way.source())?;
                return Ok(Moved::Some(moved));
            }
            Err(_) => return Err(way.source()),
        }
    }
    drop(pipe);
    tokio::task::yield_now().await;
    Ok(Moved::Some(moved))
}

async fn drain(meter: &Meter<'_>, way: Way, pipe: &mut Pipe, to: &TcpStream) -> io::Result<()> {
    while pipe.holds() > 0 {
        match pipe.drain(to) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => meter.written(way, written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// State of a sender after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// More may come.
    Maybe,
    /// Its direction has ended.
    End,
    /// The connection is broken.
    Broken,
}

/// Reads once into the core's scratch buffer as soon as bytes are ready, and writes or keeps them. A read that leaves room in the buffer has taken
/// all there was, which saves the read that would return `WouldBlock`.
async fn copy_ready(
    meter: &Meter<'_>,
    way: Way,
    from: &mut ReadHalf<'_>,
    to: &TcpStream,
    most: usize,
) -> Result<Moved, Broken> {
    let portion = meter.portion(way, most);
    let attempt = poll_fn(|cx| {
        SCRATCH_BYTES.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(&mut scratch[..portion]);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))?;
            let then = what_follows(from, cx, &mut buffer);
            let (moved, rest) = pass_on(meter, way, buffer.filled(), (to, then));
            Poll::Ready(Ok::<_, io::Error>((moved, rest, then)))
        })
    });
    let (moved, rest, then) = attempt.await.map_err(|_| way.source())?;
    let Moved::Some(read) = moved else { return Ok(moved) };
    let _memory = match rest.len() {
        0 => None,
        waiting => Some(meter.hold(waiting).ok_or(Broken::Memory)?),
    };
    if write_all(meter, way, to, &rest).await.is_err() {
        return Ok(Moved::Refused);
    }
    match then {
        Then::End => return Ok(Moved::End),
        Then::Broken => return Err(way.source()),
        Then::Maybe => {}
    }
    if let Some(wait) = meter.wait(way, read) {
        tokio::time::sleep(wait).await;
    }
    Ok(Moved::Some(read))
}

/// Looks for the sender's end behind the bytes just read, if the kernel has told of it, so that both can leave in one segment. Bytes that are found instead are
/// added to them.
fn what_follows(from: &mut ReadHalf<'_>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Then {
    let read = buffer.filled().len();
    let is_told = || from.ready(Interest::READABLE).now_or_never();
    if read == 0 || buffer.remaining() == 0 || !is_told().is_some_and(is_closed) {
        return Then::Maybe;
    }
    match Pin::new(from).poll_read(cx, buffer) {
        Poll::Ready(Ok(())) if buffer.filled().len() == read => Then::End,
        Poll::Ready(Ok(())) | Poll::Pending => Then::Maybe,
        // The kernel tells it once only.
        Poll::Ready(Err(_)) => Then::Broken,
    }
}

fn is_closed(ready: io::Result<Ready>) -> bool {
    ready.is_ok_and(Ready::is_read_closed)
}

/// Writes bytes, or leaves them for the end of stream to leave with; returns those not taken at once as the second value.
fn pass_on(
    meter: &Meter<'_>,
    way: Way,
    bytes: &[u8],
    (to, then): (&TcpStream, Then),
) -> (Moved, Vec<u8>) {
    if bytes.is_empty() {
        return (Moved::End, Vec::new());
    }
    meter.read(way, bytes.len());
    let attempt = match then {
        Then::End => to.try_io(Interest::WRITABLE, || {
            let flags = libc::MSG_MORE | libc::MSG_NOSIGNAL;
            socket2::SockRef::from(to).send_with_flags(bytes, flags)
        }),
        Then::Maybe | Then::Broken => to.try_write(bytes),
    };
    let written = match attempt {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(_) => return (Moved::Refused, Vec::new()),
    };
    meter.written(way, written);
    (Moved::Some(bytes.len()), bytes[written..].to_vec())
}

async fn write_all(
    meter: &Meter<'_>,
    way: Way,
    to: &TcpStream,
    mut bytes: &[u8],
) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                meter.written(way, written);
                bytes = &bytes[written..];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
