//! Lines as syslog messages (RFC 5424): over UDP (RFC 5426), TCP with octet counting (RFC 6587), or the local socket.
//!
//! Deliberately absent: structured data, because the message is JSON already; and TLS, for which there is OTLP.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use super::remote::{Deliver, Delivered, Undelivered};
use crate::json_line::scan;

/// Timeout of connecting and of sending.
const PATIENCE: Duration = Duration::from_secs(3);
const WARNING: u8 = 4;
const INFORMATIONAL: u8 = 6;

/// Syslog receiver and the facility of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyslogTo {
    /// Transport.
    pub carrier: Carrier,
    /// The facility's code, 0 to 23 (RFC 5424, table 1); 16 is `local0`.
    pub facility: u8,
}

/// Transport of syslog messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// One datagram per message, to `HOST:PORT`.
    Udp(String),
    /// With octet counting, to `HOST:PORT`.
    Tcp(String),
    /// To a local socket: datagrams, or a stream with octet counting when that is what listens.
    Unix(PathBuf),
}

pub(super) struct Syslog {
    to: SyslogTo,
    host: String,
    open: Option<Open>,
    message: Vec<u8>,
}

enum Open {
    Udp(UdpSocket),
    Tcp(TcpStream),
    UnixDatagram(UnixDatagram),
    UnixStream(UnixStream),
}

impl Syslog {
    pub(super) fn new(to: SyslogTo) -> Self {
        let name = rustix::system::uname();
        let host = name.nodename().to_string_lossy();
        let host: String = host.chars().filter(char::is_ascii_graphic).take(255).collect();
        let host = if host.is_empty() { "-".to_owned() } else { host };
        Self { to, host, open: None, message: Vec::new() }
    }

    /// Formats `<PRI>1 TIME HOST durward PID KIND - JSON` (RFC 5424 section 6).
    fn format(&mut self, line: &[u8]) {
        let severity = if scan::is_unwell(line) { WARNING } else { INFORMATIONAL };
        let priority = self.to.facility * 8 + severity;
        let time = scan::text(line, b"{\"ts\":\"").filter(|time| time.len() <= 40);
        let kind = scan::text(line, b",\"kind\":\"").filter(|kind| kind.len() <= 32);
        self.message.clear();
        let _infallible = write!(self.message, "<{priority}>1 ");
        self.message.extend(time.unwrap_or(b"-"));
        let _infallible = write!(self.message, " {} durward {} ", self.host, std::process::id());
        self.message.extend(kind.unwrap_or(b"-"));
        self.message.extend(b" - ");
        if !line.is_ascii() {
            self.message.extend("\u{feff}".as_bytes());
        }
        self.message.extend(line);
    }

    fn send(&mut self) -> io::Result<()> {
        if self.open.as_mut().is_some_and(Open::has_hung_up) {
            self.open = None;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(connect(&self.to.carrier)?),
        };
        let sent = open.send(&self.message);
        if sent.as_ref().is_err_and(|error| !is_too_long(error)) {
            self.open = None;
        }
        sent
    }
}

impl Deliver for Syslog {
    fn deliver(&mut self, lines: &[u8]) -> Result<Delivered, Undelivered> {
        let mut delivered = Delivered::default();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            self.format(line.strip_suffix(b"\n").unwrap_or(line));
            match self.send() {
                Ok(()) => {}
                Err(error) if is_too_long(&error) => delivered.refused += 1,
                Err(error) => {
                    return Err(Undelivered { bytes: delivered.bytes, error, pause: None });
                }
            }
            delivered.bytes += line.len();
        }
        Ok(delivered)
    }

    fn name(&self) -> String {
        match &self.to.carrier {
            Carrier::Udp(to) => format!("syslog+udp://{to}"),
            Carrier::Tcp(to) => format!("syslog+tcp://{to}"),
            Carrier::Unix(path) => format!("syslog+unix://{}", path.display()),
        }
    }
}

impl Open {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(message).map(drop),
            Self::UnixDatagram(socket) => socket.send(message).map(drop),
            Self::Tcp(stream) => counted(stream, message),
            Self::UnixStream(stream) => counted(stream, message),
        }
    }

    /// Returns true if the peer has closed a stream: receivers never answer, so anything but `WouldBlock` is an end.
    fn has_hung_up(&mut self) -> bool {
        let read = match self {
            Self::Udp(_) | Self::UnixDatagram(_) => return false,
            Self::Tcp(stream) => silent(stream, TcpStream::set_nonblocking),
            Self::UnixStream(stream) => silent(stream, UnixStream::set_nonblocking),
        };
        !read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

fn silent<S: Read>(stream: &mut S, set: fn(&S, bool) -> io::Result<()>) -> io::Result<usize> {
    set(stream, true)?;
    let read = stream.read(&mut [0]);
    set(stream, false)?;
    read
}

/// Writes a message with octet counting (RFC 6587 section 3.4.1).
fn counted(stream: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let mut frame = format!("{} ", message.len()).into_bytes();
    frame.extend(message);
    stream.write_all(&frame)
}

fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

fn connect(carrier: &Carrier) -> io::Result<Open> {
    match carrier {
        Carrier::Udp(to) => {
            let to = resolve(to)?;
            let here = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(here)?;
            socket.connect(to)?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok(Open::Udp(socket))
        }
        Carrier::Tcp(to) => {
            let stream = TcpStream::connect_timeout(&resolve(to)?, PATIENCE)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(Open::Tcp(stream))
        }
        Carrier::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            match socket.connect(path) {
                Ok(()) => {
                    socket.set_write_timeout(Some(PATIENCE))?;
                    Ok(Open::UnixDatagram(socket))
                }
                Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => {
                    let stream = UnixStream::connect(path)?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    Ok(Open::UnixStream(stream))
                }
                Err(error) => Err(error),
            }
        }
    }
}

/// Resolves `HOST:PORT` to its first address.
pub(super) fn resolve(to: &str) -> io::Result<std::net::SocketAddr> {
    let missing = || io::Error::new(ErrorKind::NotFound, format!("{to} has no address"));
    to.to_socket_addrs()?.next().ok_or_else(missing)
}
