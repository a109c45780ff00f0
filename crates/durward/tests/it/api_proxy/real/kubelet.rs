//! A stand-in for a kubelet: the part of its HTTPS server that `kubectl logs` and `kubectl exec` reach through an API server.
//!
//! Streams of `exec` come as SPDY/3.1 in the order error, stdin, stdout, stderr (protocol v4), so the headers that tell them apart need not be unpacked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use durward_testkit::certificates::{Authority, CertSpec, server_config};
use durward_testkit::netns::block_on;
use durward_testkit::process::unique_loopback;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Lines that a followed log has.
pub(super) const LINES: usize = 5;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const PING: u16 = 6;
const FIN: u8 = 1;
/// Header of a zlib stream, once a connection.
const ZLIB: [u8; 2] = [0x78, 0x01];
/// No headers: the number 0 as a stored block, and an empty block that flushes it.
const NO_HEADERS: [u8; 14] = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

type Stream = BufReader<TlsStream<TcpStream>>;

/// Log of the API proxy's container, as kubelets keep it.
pub(super) type Logs = Arc<Mutex<String>>;

/// Starts, for an API server of this authority, on a thread of its own, and returns its address.
pub(super) fn start(authority: &Authority, logs: Logs) -> SocketAddr {
    let ip = unique_loopback();
    let identity = authority.issue(&CertSpec::new().ip(ip).server());
    let tls = TlsAcceptor::from(Arc::new(server_config(&identity, Some(authority))));
    let listener = std::net::TcpListener::bind((ip, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                let (tls, logs) = (tls.clone(), Arc::clone(&logs));
                tokio::spawn(async move {
                    serve(BufReader::new(tls.accept(socket).await?), &logs).await
                });
            }
        });
    });
    address
}

async fn serve(mut stream: Stream, logs: &Logs) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        match line.trim_end() {
            "" => break,
            text => head.push(text.to_owned()),
        }
    }
    let path = head[0].split(' ').nth(1).unwrap_or_default();
    if path.starts_with("/containerLogs/default/web/web?") && path.contains("follow=true") {
        follow(stream).await
    } else if path.starts_with("/exec/default/web/web?") && path.contains("command=cat") {
        exec(stream).await
    } else if path.starts_with("/containerLogs/kube-system/durward-api-proxy/proxy?") {
        let log = logs.lock().unwrap().clone();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", log.len());
        stream.write_all((head + &log).as_bytes()).await?;
        stream.shutdown().await
    } else {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await?;
        stream.shutdown().await
    }
}

async fn follow(mut stream: Stream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    for number in 0..LINES {
        stream.write_all(format!("7\r\nline {number}\n\r\n").as_bytes()).await?;
        stream.flush().await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stream.write_all(b"0\r\n\r\n").await?;
    stream.shutdown().await
}

/// Returns on standard output what comes by standard input, and success at its end.
async fn exec(mut stream: Stream) -> std::io::Result<()> {
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    // Error, stdin, stdout, stderr.
    let mut streams = Vec::new();
    loop {
        let mut head = [0; 8];
        stream.read_exact(&mut head).await?;
        let [a, b, c, d, flags, high, middle, low] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        stream.read_exact(&mut payload).await?;
        let first = u16::from_be_bytes([a, b]);
        let (is_control, kind) = (first & 0x8000 != 0, u16::from_be_bytes([c, d]));
        match kind {
            SYN_STREAM if is_control => {
                let id = payload[..4].to_vec();
                let zlib: &[u8] = if streams.is_empty() { &ZLIB } else { &[] };
                let reply = [&id[..], zlib, &NO_HEADERS].concat();
                control(&mut stream, SYN_REPLY, &reply).await?;
                streams.push(id);
            }
            PING if is_control => control(&mut stream, PING, &payload).await?,
            _ if is_control => {}
            _ => {
                let is_input = streams.get(1).is_some_and(|id| id[..] == [a, b, c, d]);
                if !is_input {
                    continue;
                }
                data(&mut stream, &streams[2], 0, &payload).await?;
                if flags & FIN != 0 {
                    let status = br#"{"kind":"Status","apiVersion":"v1","status":"Success"}"#;
                    data(&mut stream, &streams[0], FIN, status).await?;
                    data(&mut stream, &streams[2], FIN, b"").await?;
                    if let Some(stderr) = streams.get(3) {
                        data(&mut stream, stderr, FIN, b"").await?;
                    }
                }
            }
        }
        stream.flush().await?;
    }
}

async fn control(stream: &mut Stream, kind: u16, payload: &[u8]) -> std::io::Result<()> {
    frame(stream, &[[0x80, 3], kind.to_be_bytes()].concat(), 0, payload).await
}

async fn data(stream: &mut Stream, id: &[u8], flags: u8, payload: &[u8]) -> std::io::Result<()> {
    frame(stream, id, flags, payload).await
}

async fn frame(stream: &mut Stream, head: &[u8], flags: u8, payload: &[u8]) -> std::io::Result<()> {
    let length = (payload.len() as u32).to_be_bytes();
    stream.write_all(&[head, &[flags], &length[1..], payload].concat()).await
}
