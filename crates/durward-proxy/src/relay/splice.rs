//! Two plain sockets joined: much goes through a pipe in the kernel and never through this process; a little is read and written, which
//! needs fewer calls.
//!
//! Deliberately absent: a pipe or a buffer for a direction in which nothing moves.

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

/// What a direction has to have ready for a pipe to be worth its calls, and how little ends that.
const MUCH: usize = 16 * 1024;
const LITTLE: usize = 1024;
/// Steps of a turn, however little each of them moves. As long as all that is ready is moved at once it is still in the processor's caches: with
/// a quarter of these steps the same bytes cost half as much again.
const STEPS: usize = 16;
/// A byte that is spliced costs about a quarter of one that is copied and encrypted.
const CHEAPER: usize = 4;

/// Carries bytes both ways until both directions have ended.
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

/// Carries bytes one way to its end. The outer error ends the other way too: the peer that sends is gone. With the inner one only the peer
/// that receives is; what it sent before is still delivered.
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
    /// What was ready, or a good part of it: so many bytes.
    Some(usize),
    /// The sender has said its last.
    End,
    /// The receiver is gone.
    Refused,
}

/// Moves what is ready now through the kernel; the pipe is given back when nothing is left.
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

/// One read into the core's scratch space as soon as there is something, written at once or kept until it is. A read that leaves room in the
/// buffer has taken all there was, and so saves the call that would say so.
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

/// Writes what was read; what is not taken at once is the second value.
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
