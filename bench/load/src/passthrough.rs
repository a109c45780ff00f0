//! Both ends of a pass-through or a tunnel: a real ClientHello with SNI, then as many bytes back as were asked for.
//! After the ClientHello nothing is encrypted: the proxy must not look, and the two ends stay cheap.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};

use crate::{Options, json_string, tls, tunnel};

const PATIENCE: Duration = Duration::from_secs(10);
const APPLICATION_DATA: u8 = 23;
const RECORD_HEADER: usize = 5;
const BLOCK: usize = 256 * 1024;
static BYTES: [u8; BLOCK] = [0x17; BLOCK];
/// Thousands of idle connections have a thread each.
const STACK: usize = 64 * 1024;

/// Asks for `--bytes` on each of `--connections` connections, counts what comes, and prints one JSON line.
pub fn sink(options: &Options) -> Result<(), String> {
    let target = options.address("target")?;
    let origin = options.has("origin").then(|| options.address("origin")).transpose()?;
    let bytes = options.number("bytes")?;
    let opening = opening(options.text("sni")?, bytes as u64)?;
    let begin = Instant::now();

    let workers: Vec<_> = (0..options.number("connections")?)
        .map(|_| {
            let opening = opening.clone();
            thread::spawn(move || drain(target, origin, &opening))
        })
        .collect();
    let (mut total, mut errors, mut first_error) = (0, 0, None);
    for worker in workers {
        let outcome = worker.join().map_err(|_| "a thread failed")?;
        total += outcome.as_ref().map_or(0, |count| *count);
        let complaint = match outcome {
            Ok(count) if count == bytes => continue,
            Ok(count) => format!("{count} bytes came, not {bytes}"),
            Err(error) => error,
        };
        errors += 1;
        first_error.get_or_insert(complaint);
    }

    println!(
        "{{\"bytes\":{total},\"errors\":{errors},\"seconds\":{:.4},\"first_error\":{}}}",
        begin.elapsed().as_secs_f64(),
        first_error.as_deref().map_or("null".to_owned(), json_string),
    );
    Ok(())
}

/// The ClientHello, then one record that carries the number of bytes wanted.
fn opening(sni: &str, bytes: u64) -> Result<Vec<u8>, String> {
    let mut opening = tls::client_hello(sni)?;
    opening.extend_from_slice(&wish(bytes, false));
    Ok(opening)
}

/// A record with the number of bytes wanted, and whether more of them follow on the same connection.
fn wish(bytes: u64, keep: bool) -> Vec<u8> {
    let mut record = vec![APPLICATION_DATA, 3, 3, 0, if keep { 9 } else { 8 }];
    record.extend_from_slice(&bytes.to_be_bytes());
    record.extend(keep.then_some(1));
    record
}

/// Asks for bytes on an open connection and reads them; the source closes after the last ones.
pub fn ask(
    stream: &mut (impl Read + Write + ?Sized),
    body: usize,
    close: bool,
) -> Result<(), String> {
    stream.write_all(&wish(body as u64, !close)).map_err(|error| format!("write: {error}"))?;
    let mut answer = vec![0; body];
    stream.read_exact(&mut answer).map_err(|error| format!("read: {error}"))
}

/// Reads to the end without copying: MSG_TRUNC on TCP discards in the kernel.
fn drain(target: SocketAddr, origin: Option<SocketAddr>, opening: &[u8]) -> Result<usize, String> {
    let mut socket = match origin {
        Some(origin) => tunnel::connect(target, origin)?,
        None => tunnel::dial(target)?,
    };
    socket.write_all(opening).map_err(|error| format!("write: {error}"))?;
    let mut scratch = vec![0_u8; 4 * BLOCK];
    let mut total = 0;
    loop {
        match recv(&socket, scratch.as_mut_slice(), RecvFlags::TRUNC) {
            Ok((_, 0)) => return Ok(total),
            Ok((_, count)) => total += count,
            Err(error) => return Err(format!("read after {total} bytes: {error}")),
        }
    }
}

/// Answers pass-through connections until it is ended.
pub fn source(options: &Options) -> Result<(), String> {
    let listener = TcpListener::bind(options.address("listen")?)
        .map_err(|error| format!("listen: {error}"))?;
    for socket in listener.incoming().flatten() {
        let thread = thread::Builder::new().stack_size(STACK);
        let spawned = thread.spawn(move || {
            let _ = answer(socket);
        });
        spawned.map_err(|error| format!("thread: {error}"))?;
    }
    Ok(())
}

fn answer(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    read_record(&mut socket)?;
    loop {
        let wanted = read_record(&mut socket)?;
        let (number, keep) = wanted.split_at(wanted.len().min(8));
        let mut left = number.try_into().map(u64::from_be_bytes).unwrap_or(0) as usize;
        while left > 0 {
            let count = left.min(BLOCK);
            socket.write_all(&BYTES[..count])?;
            left -= count;
        }
        if keep.is_empty() {
            return Ok(());
        }
        // It is idle now, for as long as its client likes.
        socket.set_read_timeout(None)?;
    }
}

fn read_record(socket: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut header = [0; RECORD_HEADER];
    socket.read_exact(&mut header)?;
    let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    socket.read_exact(&mut body)?;
    Ok(body)
}
