//! What partners and pods say: a few words of HTTP/1.1, with who answered and whom it saw.
//!
//! Deliberately absent: everything else of HTTP; the gateway between has it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

/// How long an answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long silence must last to count as such.
pub(super) const SILENCE: Duration = Duration::from_millis(1200);

/// Answers at these ports, on this thread's network, with the name and the peer's address.
pub(super) fn serve(name: &'static str, ports: &[u16]) -> io::Result<()> {
    for port in ports {
        let listener = TcpListener::bind(("::", *port))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who goes away is no event.
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

/// The lines up to the empty one; none at the end of the stream.
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

/// A connection that asks again and again.
pub(super) struct Connection {
    reader: BufReader<TcpStream>,
    to: SocketAddr,
}

impl Connection {
    /// Connects from an address of this thread's network.
    pub(super) fn open(from: IpAddr, to: SocketAddr, patience: Duration) -> Result<Self, String> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let opening = || {
            let socket = socket(family, SocketType::STREAM, None)?;
            set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
            set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
            bind(&socket, &SocketAddr::new(from, 0))?;
            connect(&socket, &to)?;
            Ok(socket)
        };
        let said = |errno: rustix::io::Errno| match errno {
            rustix::io::Errno::INPROGRESS => "no answer".to_owned(),
            other => {
                let text = io::Error::from(other).to_string();
                text.split(" (os error").next().unwrap_or_default().to_owned()
            }
        };
        let socket = opening().map_err(said)?;
        Ok(Self { reader: BufReader::new(TcpStream::from(socket)), to })
    }

    /// Asks for a target, a path or, of a proxy, a URL: the body, or the first line when it is no success.
    pub(super) fn ask(&mut self, target: &str) -> Result<String, String> {
        self.exchange(target).unwrap_or_else(|error| Err(error.to_string()))
    }

    fn exchange(&mut self, target: &str) -> io::Result<Result<String, String>> {
        let host = target.strip_prefix("http://").and_then(|rest| rest.split('/').next());
        let host = host.map_or_else(|| self.to.to_string(), str::to_owned);
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.reader.get_mut().write_all(request.as_bytes())?;
        let head = head(&mut self.reader)?;
        let first = head.first().cloned().unwrap_or_else(|| "the connection was closed".to_owned());
        let length =
            head.iter().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
        let mut body = vec![0; length.unwrap_or_default()];
        self.reader.read_exact(&mut body)?;
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        let code = first.strip_prefix("HTTP/1.1 ").unwrap_or(&first);
        Ok(if code.starts_with("200") { Ok(text) } else { Err(code.to_owned()) })
    }
}

/// One question on a connection of its own.
pub(super) fn ask(
    from: IpAddr,
    to: SocketAddr,
    target: &str,
    patience: Duration,
) -> Result<String, String> {
    Connection::open(from, to, patience)?.ask(target)
}
