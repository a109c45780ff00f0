//! Relay between two plain sockets: large transfers go through a kernel pipe and never through this process; small ones are read and written, which
//! needs fewer system calls.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use super::meter::Meter;
use super::pipe::Pipe;
use super::{Broken, SCRATCH, SCRATCH_BYTES, Way};
use crate::turns;

/// Bytes ready at once above which splicing starts, and below which it ends.
const MUCH: usize = 16 * 1024;
const LITTLE: usize = 1024;
/// Steps of a turn, however little each of them moves. As long as all that is ready is moved at once it is still in the processor's caches: with
/// a quarter of these steps the same bytes cost half as much again.
const STEPS: usize = 16;
/// A byte that is spliced costs about a quarter of one that is copied and encrypted.
const CHEAPER: usize = 4;

/// Relays bytes until both directions have ended.
pub(super) async fn both(
    meter: &Meter<'_>,
    client: &mut TcpStream,
    upstream: &mut TcpStream,
    to_upstream: Vec<u8>,
    to_client: Vec<u8>,
) -> Result<(), Broken> {
    let (mut client, mut upstream) = (client.split(), upstream.split());
    let up = one(meter, Way::ToUpstream, &mut client.0, upstream.1.as_ref(), to_upstream);
    let down = one(meter, Way::ToClient, &mut upstream.0, client.1.as_ref(), to_client);
    let (up, down) = futures_util::future::try_join(up, down).await?;
    up.and(down)
}

/// Relays one direction to its end. The outer error ends the other direction too: the sender is gone. The inner error says that only the receiver is
/// gone; bytes that it sent before are still delivered.
async fn one(
    meter: &Meter<'_>,
    way: Way,
    from: &mut ReadHalf<'_>,
    to: &TcpStream,
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
                let _ = socket2::SockRef::from(to).shutdown(Shutdown::Write);
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
            Poll::Ready(Ok::<_, io::Error>(pass_on(meter, way, buffer.filled(), to)))
        })
    });
    let (moved, rest) = attempt.await.map_err(|_| way.source())?;
    let Moved::Some(read) = moved else { return Ok(moved) };
    let _memory = match rest.len() {
        0 => None,
        waiting => Some(meter.hold(waiting).ok_or(Broken::Memory)?),
    };
    if write_all(meter, way, to, &rest).await.is_err() {
        return Ok(Moved::Refused);
    }
    if let Some(wait) = meter.wait(way, read) {
        tokio::time::sleep(wait).await;
    }
    Ok(Moved::Some(read))
}

/// Writes bytes; returns those not taken at once as the second value.
fn pass_on(meter: &Meter<'_>, way: Way, bytes: &[u8], to: &TcpStream) -> (Moved, Vec<u8>) {
    if bytes.is_empty() {
        return (Moved::End, Vec::new());
    }
    meter.read(way, bytes.len());
    let written = match to.try_write(bytes) {
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
