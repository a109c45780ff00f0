//! Two plain sockets joined in the kernel: bytes go through a pipe and never through this process.
//!
//! Deliberately absent: a pipe for a direction in which nothing moves.

use std::io;
use std::net::Shutdown;

use tokio::net::TcpStream;

use super::meter::Meter;
use super::pipe::Pipe;
use super::{BURST, Broken, SCRATCH, SCRATCH_BYTES, Way};

/// Carries bytes both ways until both directions have ended.
pub(super) async fn both(
    meter: &Meter<'_>,
    client: &TcpStream,
    upstream: &TcpStream,
    to_upstream: Vec<u8>,
    to_client: Vec<u8>,
) -> Result<(), Broken> {
    let up = one(meter, Way::ToUpstream, client, upstream, to_upstream);
    let down = one(meter, Way::ToClient, upstream, client, to_client);
    let (up, down) = futures_util::future::try_join(up, down).await?;
    up.and(down)
}

/// Carries bytes one way to its end. The outer error ends the other way too: the peer that sends is gone. With the inner one only the peer
/// that receives is; what it sent before is still delivered.
async fn one(
    meter: &Meter<'_>,
    way: Way,
    from: &TcpStream,
    to: &TcpStream,
    first: Vec<u8>,
) -> Result<Result<(), Broken>, Broken> {
    if write_all(meter, way, to, &first).await.is_err() {
        return Ok(Err(way.sink()));
    }
    drop(first);
    loop {
        from.readable().await.map_err(|_| way.source())?;
        match move_ready(meter, way, from, to).await? {
            Moved::Some => {}
            Moved::End => {
                let _ = socket2::SockRef::from(to).shutdown(Shutdown::Write);
                return Ok(Ok(()));
            }
            Moved::Refused => return Ok(Err(way.sink())),
        }
    }
}

enum Moved {
    /// What was ready, or a good part of it.
    Some,
    /// The sender has said its last.
    End,
    /// The receiver is gone.
    Refused,
}

/// Moves what is ready now.
async fn move_ready(
    meter: &Meter<'_>,
    way: Way,
    from: &TcpStream,
    to: &TcpStream,
) -> Result<Moved, Broken> {
    let Some(mut pipe) = Pipe::take() else { return copy_ready(meter, way, from, to).await };
    let portion = meter.portion(way, pipe.size());
    for _ in 0..BURST {
        match pipe.fill(from, portion) {
            Ok(0) => return Ok(Moved::End),
            Ok(read) => {
                meter.read(way, read);
                if drain(meter, way, &mut pipe, to).await.is_err() {
                    return Ok(Moved::Refused);
                }
                if let Some(wait) = meter.wait(way, read) {
                    drop(pipe);
                    tokio::time::sleep(wait).await;
                    return Ok(Moved::Some);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Moved::Some),
            Err(_) => return Err(way.source()),
        }
    }
    drop(pipe);
    tokio::task::yield_now().await;
    Ok(Moved::Some)
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

/// The way without a pipe: one read into the core's scratch space, written at once or kept until it is.
async fn copy_ready(
    meter: &Meter<'_>,
    way: Way,
    from: &TcpStream,
    to: &TcpStream,
) -> Result<Moved, Broken> {
    let portion = meter.portion(way, SCRATCH);
    let attempt = SCRATCH_BYTES.with_borrow_mut(|scratch| {
        let read = from.try_read(&mut scratch[..portion])?;
        meter.read(way, read);
        let written = match to.try_write(&scratch[..read]) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Ok((read, None)),
        };
        meter.written(way, written);
        Ok::<_, io::Error>((read, Some(scratch[written..read].to_vec())))
    });
    match attempt {
        Ok((0, _)) => Ok(Moved::End),
        Ok((_, None)) => Ok(Moved::Refused),
        Ok((read, Some(rest))) => {
            if write_all(meter, way, to, &rest).await.is_err() {
                return Ok(Moved::Refused);
            }
            match meter.wait(way, read) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => tokio::task::yield_now().await,
            }
            Ok(Moved::Some)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Moved::Some),
        Err(_) => Err(way.source()),
    }
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
