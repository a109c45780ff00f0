//! Minimal blocking HTTP/1.1 client to post to a collector: one kept-alive connection, verified TLS.
//!
//! Runs on a writer's own thread. Redirects and proxies are not supported, and verification cannot be turned off.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::syslog::resolve;
use crate::regular;

/// Timeout of connecting, of each read and of each write.
const PATIENCE: Duration = Duration::from_secs(3);
/// Deadline of a whole response.
const WHOLE: Duration = Duration::from_secs(10);
const HEAD: usize = 16 * 1024;
/// Largest bundle of certificate authorities that is read.
const LARGEST_BUNDLE: u64 = 8 * 1024 * 1024;
const BODY: usize = 64 * 1024;

/// HTTP client with one connection.
pub(super) struct Client {
    /// `HOST:PORT`.
    authority: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    open: Option<Box<dyn Connection>>,
}

trait Connection: Read + Write + Send {}
impl<T: Read + Write + Send> Connection for T {}

/// Response of the collector.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    /// Empty when the body is too long or has no length.
    pub(super) body: Vec<u8>,
    keep: bool,
}

impl Client {
    /// Creates a client for plain HTTP, or for TLS verified by the host's authorities or by those in `ca`.
    pub(super) fn new(authority: String, tls: bool, ca: Option<&Path>) -> io::Result<Self> {
        let tls = if tls { Some(configure(&authority, ca)?) } else { None };
        Ok(Self { authority, tls, open: None })
    }

    /// Posts a body; retries once on a new connection if a kept connection was closed.
    pub(super) fn post(&mut self, head: &str, body: &[u8]) -> io::Result<Answer> {
        if let Some(kept) = self.open.take()
            && let Ok(answer) = self.exchange(kept, head, body)
        {
            return Ok(answer);
        }
        let fresh = self.connect()?;
        self.exchange(fresh, head, body)
    }

    fn exchange(
        &mut self,
        mut connection: Box<dyn Connection>,
        head: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        connection.write_all(head.as_bytes())?;
        connection.write_all(body)?;
        connection.flush()?;
        let answer = read(&mut *connection, Instant::now() + WHOLE)?;
        if answer.keep {
            self.open = Some(connection);
        }
        Ok(answer)
    }

    fn connect(&self) -> io::Result<Box<dyn Connection>> {
        let stream = TcpStream::connect_timeout(&resolve(&self.authority)?, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let Some((config, name)) = &self.tls else { return Ok(Box::new(stream)) };
        let session = ClientConnection::new(Arc::clone(config), name.clone()).map_err(other)?;
        Ok(Box::new(StreamOwned::new(session, stream)))
    }
}

fn configure(
    authority: &str,
    ca: Option<&Path>,
) -> io::Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let mut bundle = Vec::new();
            regular::open(path)?.take(LARGEST_BUNDLE).read_to_end(&mut bundle)?;
            for certificate in CertificateDer::pem_slice_iter(&bundle) {
                roots.add(certificate.map_err(other)?).map_err(other)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs().certs;
            roots.add_parsable_certificates(found);
        }
    }
    if roots.is_empty() {
        return Err(other("there is no certificate authority to verify the collector with"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((Arc::new(config), ServerName::try_from(host).map_err(other)?))
}

fn read(connection: &mut dyn Connection, deadline: Instant) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            break end + 4;
        }
        if bytes.len() > HEAD {
            return Err(other("the collector's answer has no end"));
        }
        more(connection, &mut bytes, deadline)?;
    };
    let body = bytes.split_off(end);
    let (mut answer, length) = parse(&String::from_utf8_lossy(&bytes))?;
    match length.filter(|length| *length <= BODY) {
        None => answer.keep = false,
        Some(length) => {
            answer.body = body;
            while answer.body.len() < length {
                more(connection, &mut answer.body, deadline)?;
            }
        }
    }
    Ok(answer)
}

fn more(connection: &mut dyn Connection, into: &mut Vec<u8>, deadline: Instant) -> io::Result<()> {
    if Instant::now() > deadline {
        return Err(ErrorKind::TimedOut.into());
    }
    let mut chunk = [0; 4096];
    match connection.read(&mut chunk)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        count => {
            into.extend(&chunk[..count]);
            Ok(())
        }
    }
}

/// Parses a response head; returns the response without its body, and the body's length.
fn parse(head: &str) -> io::Result<(Answer, Option<usize>)> {
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.get(2..5))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| other("the collector does not speak HTTP/1.1"))?;
    let mut answer = Answer { status, retry_after: None, body: Vec::new(), keep: true };
    let mut length = (status == 204).then_some(0);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok(),
            "retry-after" => answer.retry_after = value.parse().ok().map(Duration::from_secs),
            "connection" if value.eq_ignore_ascii_case("close") => answer.keep = false,
            _ => {}
        }
    }
    answer.keep &= head.starts_with("HTTP/1.1");
    Ok((answer, length))
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_with_its_length_and_a_strange_one_refused() {
        let head = "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\ncontent-LENGTH: 2\r\n\r\n";

        let (answer, length) = parse(head).unwrap();

        assert_eq!((answer.status, answer.keep, length), (503, true, Some(2)));
        assert_eq!(answer.retry_after, Some(Duration::from_secs(7)));
        assert!(!parse("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").unwrap().0.keep);
        assert!(!parse("HTTP/1.0 200 OK\r\n\r\n").unwrap().0.keep);
        assert!(parse("SSH-2.0-x\r\n\r\n").is_err());
    }
}
