//! Lines of JSON for logs and audit files, field by field.
//!
//! A serialiser is not needed: the fields are known, and a peer's input is escaped so that it cannot end the line.

pub(crate) mod scan;

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use rustls::CertificateError;

use crate::refusal::Refusal;

/// Writer of a line's fields.
pub(crate) struct Fields<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Fields<'a> {
    /// Begins a line with its time.
    pub(crate) fn begin(out: &'a mut Vec<u8>, clock: &mut Clock, at: SystemTime) -> Self {
        out.extend(b"{\"ts\":\"");
        clock.write(out, at);
        out.push(b'"');
        Self { out }
    }

    /// Adds the reason of a refusal or abort: its word, and its message with its causes.
    pub(crate) fn refusal(&mut self, refusal: Option<&Refusal>) {
        let Some(refusal) = refusal else { return };
        self.text("reason", refusal.word());
        if let Some(certificate) = refusal.client_certificate() {
            self.text("client_subject", &certificate.subject);
            self.text("client_issuer", &certificate.issuer);
            self.text("client_serial", &certificate.serial);
            self.text("client_not_before", &certificate.not_before);
            self.text("client_not_after", &certificate.not_after);
        }
        self.key("detail");
        string(self.out, |out| detail(out, refusal));
    }

    /// Ends the line.
    pub(crate) fn end(self) {
        self.out.extend(b"}\n");
    }

    /// Adds an array of strings.
    pub(crate) fn list(&mut self, name: &str, values: &[impl std::fmt::Display]) {
        self.key(name);
        self.out.push(b'[');
        for (at, value) in values.iter().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            string(self.out, |out| write!(out, "{value}"));
        }
        self.out.push(b']');
    }

    fn key(&mut self, name: &str) {
        self.out.extend(b",\"");
        self.out.extend(name.as_bytes());
        self.out.extend(b"\":");
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.key(name);
        self.out.push(b'"');
        escape(self.out, value.as_bytes());
        self.out.push(b'"');
    }

    pub(crate) fn maybe_text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    pub(crate) fn display(&mut self, name: &str, value: &dyn std::fmt::Display) {
        self.key(name);
        string(self.out, |out| write!(out, "{value}"));
    }

    pub(crate) fn number(&mut self, name: &str, value: u64) {
        self.key(name);
        let _infallible = write!(self.out, "{value}");
    }

    pub(crate) fn flag(&mut self, name: &str, value: bool) {
        self.key(name);
        self.out.extend(if value { &b"true"[..] } else { b"false" });
    }

    /// Adds a duration in milliseconds, with microseconds as decimals.
    pub(crate) fn milliseconds(&mut self, name: &str, value: Duration) {
        self.key(name);
        let micros = value.as_micros();
        let _infallible = write!(self.out, "{}.{:03}", micros / 1000, micros % 1000);
    }
}

/// Writes a JSON string whose text `write` writes.
fn string(out: &mut Vec<u8>, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) {
    out.push(b'"');
    let _infallible = write(&mut Escaping(out));
    out.push(b'"');
}

struct Escaping<'a>(&'a mut Vec<u8>);

impl Write for Escaping<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        escape(self.0, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Escapes what JSON requires, and every control character that a terminal could interpret. Bytes that are not UTF-8 become `\u00XX`, so that they
/// can be told apart.
pub(crate) fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.iter().all(|byte| plain(*byte)) {
        out.extend(bytes);
        return;
    }
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => out.extend([b'\\', character as u8]),
                _ if character.is_ascii() && plain(character as u8) => out.push(character as u8),
                _ if obeyed(character) => {
                    let _infallible = write!(out, "\\u{:04x}", u32::from(character));
                }
                _ => out.extend(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for byte in chunk.invalid() {
            let _infallible = write!(out, "\\u{byte:04x}");
        }
    }
}

fn plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// Returns true for characters that a terminal interprets: control characters, line and paragraph separators, and those that change the direction of
/// text.
fn obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
}

/// Formatter of RFC 3339 times in UTC with microseconds; formats each second once.
#[derive(Default)]
pub(crate) struct Clock {
    second: u64,
    text: String,
}

impl Clock {
    fn write(&mut self, out: &mut Vec<u8>, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second || self.text.is_empty() {
            self.second = since.as_secs();
            let second = i64::try_from(self.second).unwrap_or(0);
            let timestamp = Timestamp::from_second(second).unwrap_or_default();
            self.text = timestamp.to_string();
            self.text.pop();
        }
        out.extend(self.text.as_bytes());
        let _infallible = write!(out, ".{:06}Z", since.subsec_micros());
    }
}

/// Writes the refusal's message and its causes.
fn detail(out: &mut dyn Write, refusal: &Refusal) -> std::io::Result<()> {
    write!(out, "{refusal}")?;
    let mut cause = std::error::Error::source(refusal);
    while let Some(error) = cause {
        match error.downcast_ref::<std::io::Error>().and_then(out_of_time) {
            Some(sentence) => write!(out, ": {sentence}")?,
            None => write!(out, ": {error}")?,
        }
        cause = error.source();
    }
    Ok(())
}

/// Formats the TLS library's certificate errors with readable times instead of seconds since 1970.
fn out_of_time(error: &std::io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let time = |at: rustls::pki_types::UnixTime| {
        let second = i64::try_from(at.as_secs()).ok()?;
        Some(Timestamp::from_second(second).ok()?.to_string())
    };
    match error {
        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after, ..
        }) => Some(format!("the certificate expired at {}", time(*not_after)?)),
        rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
            not_before,
            ..
        }) => Some(format!("the certificate is not valid before {}", time(*not_before)?)),
        _ => None,
    }
}
