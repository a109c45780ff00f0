//! Traffic of partners and pods: minimal HTTP/1.1, answered with the server's name and the client address it saw.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use http::uri::Uri;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::client::{self, Client};

/// Timeout of an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Largest body in bytes.
const BODY: usize = 64 * 1024;
/// Time without an answer that counts as silence.
pub(super) const SILENCE: Duration = Duration::from_millis(1200);

/// Answers at these ports, in this thread's network namespace, with the name and the peer's address.
pub(super) fn serve(name: &'static str, ports: &[u16]) -> io::Result<()> {
    for port in ports {
        let listener = TcpListener::bind(("::", *port))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that disconnects is no error.
                std::thread::spawn(move || drop(answer(&stream, name)));
            }
        });
    }
    Ok(())
}

fn answer(stream: &TcpStream, name: &str) -> io::Result<()> {
    let peer = stream.peer_addr()?.ip().to_canonical();
    let mut reader = BufReader::new(stream);
    loop {
        if head(&mut reader)?.is_empty() {
            return Ok(());
        }
        let body = format!("{name} saw {peer}\n");
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let mut writer = stream;
        writer.write_all(text.as_bytes())?;
    }
}

/// Reads the lines up to the empty one; none at the end of the stream.
fn head(reader: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            return Ok(lines);
        }
        lines.push(line.trim_end().to_owned());
    }
}

/// Connection for repeated requests.
pub(super) struct Connection {
    client: Client,
    to: SocketAddr,
    /// Runtime that moves the bytes, on the calling thread.
    runtime: Runtime,
}

impl Connection {
    /// Connects from an address of this thread's network namespace.
    pub(super) fn open(from: IpAddr, to: SocketAddr, patience: Duration) -> Result<Self, String> {
        let runtime = client::runtime()?;
        let client = runtime.block_on(async {
            let connecting = timeout(patience, connect(from, to)).await;
            let stream = connecting.map_err(|_| "no answer".to_owned())?.map_err(|error| {
                let text = error.to_string();
                text.split(" (os error").next().unwrap_or_default().to_owned()
            })?;
            Client::on(stream, patience).await
        })?;
        Ok(Self { client, to, runtime })
    }

    /// Requests a target, a path or, of a proxy, a URL; returns the body, or the status if it is no success.
    pub(super) fn ask(&mut self, target: &str) -> Result<String, String> {
        let uri: Uri = target.parse().map_err(|error| format!("{target}: {error}"))?;
        let host = uri.authority().map_or_else(|| self.to.to_string(), ToString::to_string);
        let asking = self.client.send(client::get(target, &host)?, BODY);
        let answer = self.runtime.block_on(asking)?;
        let said = answer.status == 200;
        if said { Ok(answer.text().trim().to_owned()) } else { Err(answer.status.to_string()) }
    }
}

async fn connect(from: IpAddr, to: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

/// Sends one request on a connection of its own.
pub(super) fn ask(
    from: IpAddr,
    to: SocketAddr,
    target: &str,
    patience: Duration,
) -> Result<String, String> {
    Connection::open(from, to, patience)?.ask(target)
}
