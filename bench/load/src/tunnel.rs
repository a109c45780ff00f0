//! Ways to an origin: TLS to a proxy's door, or through a forward proxy by CONNECT or absolute-form request, or passed through by SNI, nothing encrypted.
//! The proxy's answer to CONNECT is read to its end and no further, so that no byte of the tunnel is lost.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::ClientConfig;

use crate::{Options, passthrough, tls};

const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST_ANSWER: usize = 4096;

/// How the origin is reached, and which one the requests name.
pub enum Way {
    Tls { config: Arc<ClientConfig>, target: SocketAddr },
    Tunnel { proxy: SocketAddr, origin: SocketAddr },
    Absolute { proxy: SocketAddr, origin: SocketAddr },
    Pass { target: SocketAddr, hello: Vec<u8> },
}

/// What is read and written, whichever way it goes.
pub trait Stream: Read + Write + Send {
    /// Says that nothing more comes, where the protocol has a word for it.
    fn finish(&mut self) {}
}

impl Stream for TcpStream {}

impl Stream for tls::Connection {
    fn finish(&mut self) {
        self.conn.send_close_notify();
        let _ = self.conn.complete_io(&mut self.sock);
    }
}

impl Way {
    /// `--target` alone is TLS to it; with `--origin` the target is a forward proxy, and `--form` says how it is asked; with `--sni` it passes TLS through.
    pub fn of(options: &Options) -> Result<Self, String> {
        let target = options.address("target")?;
        if options.has("sni") {
            return Ok(Self::Pass { target, hello: tls::client_hello(options.text("sni")?)? });
        }
        if !options.has("origin") {
            return Ok(Self::Tls { config: tls::client_config()?, target });
        }
        let origin = options.address("origin")?;
        if options.has("form") && options.text("form")? == "absolute" {
            return Ok(Self::Absolute { proxy: target, origin });
        }
        Ok(Self::Tunnel { proxy: target, origin })
    }

    pub fn open(&self) -> Result<Box<dyn Stream>, String> {
        match self {
            Self::Tls { config, target } => Ok(Box::new(tls::connect(config, *target)?)),
            Self::Tunnel { proxy, origin } => Ok(Box::new(connect(*proxy, *origin)?)),
            Self::Absolute { proxy, .. } => Ok(Box::new(dial(*proxy)?)),
            Self::Pass { target, hello } => {
                let mut socket = dial(*target)?;
                socket.write_all(hello).map_err(|error| format!("write: {error}"))?;
                Ok(Box::new(socket))
            }
        }
    }

    /// One GET on an open connection; anything but 200 with `body` bytes is an error.
    pub fn get(&self, stream: &mut dyn Stream, body: usize, close: bool) -> Result<(), String> {
        match self {
            Self::Tls { target, .. } => tls::get(stream, *target, "", body, close),
            Self::Tunnel { origin, .. } => tls::get(stream, *origin, "", body, close),
            Self::Absolute { origin, .. } => {
                tls::get(stream, *origin, &format!("http://{origin}"), body, close)
            }
            Self::Pass { .. } => passthrough::ask(stream, body, close),
        }
    }
}

/// A TCP connection that gives up after a while.
pub fn dial(target: SocketAddr) -> Result<TcpStream, String> {
    let socket = TcpStream::connect_timeout(&target, PATIENCE)
        .map_err(|error| format!("connect: {error}"))?;
    socket.set_nodelay(true).map_err(|error| error.to_string())?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    socket.set_write_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    Ok(socket)
}

/// A tunnel to `origin`; anything but a status of 200 is an error.
pub fn connect(proxy: SocketAddr, origin: SocketAddr) -> Result<TcpStream, String> {
    let mut socket = dial(proxy)?;
    let request = format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n");
    socket.write_all(request.as_bytes()).map_err(|error| format!("write CONNECT: {error}"))?;
    let mut answer = Vec::with_capacity(256);
    let mut chunk = [0; 1024];
    while !answer.ends_with(b"\r\n\r\n") {
        // both origins speak only when spoken to, so that whatever comes now is the proxy's
        let count = socket.read(&mut chunk).map_err(|error| format!("read CONNECT: {error}"))?;
        answer.extend_from_slice(&chunk[..count]);
        if count == 0 || answer.len() > LONGEST_ANSWER {
            return Err(format!("answer to CONNECT: {}", first_line(&answer)));
        }
    }
    if answer.starts_with(b"HTTP/1.1 200 ") || answer.starts_with(b"HTTP/1.0 200 ") {
        return Ok(socket);
    }
    Err(format!("answer to CONNECT: {}", first_line(&answer)))
}

fn first_line(answer: &[u8]) -> String {
    let line = answer.split(|&byte| byte == b'\r').next().unwrap_or_default();
    String::from_utf8_lossy(line).into_owned()
}
