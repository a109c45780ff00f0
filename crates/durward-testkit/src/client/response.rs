//! Strict reading of HTTP/1 responses: what RFC 9112 forbids is an error here, never repaired.
//! The order and the case of header fields are kept.

use super::wire::{ReadError, Wire};
use crate::origin::Echo;

type Fields = Vec<(String, String)>;

/// One final response with everything that came before and after it.
#[derive(Clone, Debug)]
pub struct RawResponse {
    /// The status code.
    pub status: u16,
    /// The reason phrase, often empty.
    pub reason: String,
    /// `HTTP/1.0` or `HTTP/1.1`.
    pub version: String,
    /// Header fields in order, names as they came.
    pub headers: Fields,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// Trailer fields in order.
    pub trailers: Fields,
    /// Interim (1xx) responses before it.
    pub interim: Vec<Interim>,
    /// The size of each chunk, when the body was chunked.
    pub chunks: Option<Vec<usize>>,
}

/// An interim (1xx) response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interim {
    /// The status code, 100 to 199.
    pub status: u16,
    /// Header fields in order, names as they came.
    pub headers: Fields,
}

impl RawResponse {
    /// The first value of a header field.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        first(&self.headers, name)
    }

    /// Every value of a header field, in order.
    #[must_use]
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        all(&self.headers, name).collect()
    }

    /// The first value of a trailer field.
    #[must_use]
    pub fn trailer(&self, name: &str) -> Option<&str> {
        first(&self.trailers, name)
    }

    /// The body as text; bytes outside UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON; the message carries its text.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("status {}, no JSON ({error}): {}", self.status, self.text())
        })
    }

    /// The body as the request an origin saw.
    ///
    /// # Panics
    /// When it is not an [`Echo`]; the message carries its text.
    #[must_use]
    #[track_caller]
    pub fn echo(&self) -> Echo {
        Echo::parse(&self.body)
    }
}

/// A status line and its header fields.
struct Head {
    version: String,
    status: u16,
    reason: String,
    headers: Fields,
}

/// How the end of a body is known.
enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

/// Reads interim responses and the final one, which answers a request with this method.
pub(super) async fn read(wire: &mut Wire, method: &str) -> Result<RawResponse, ReadError> {
    wire.expect_more().await?;
    let mut interim = Vec::new();
    let head = loop {
        let head = read_head(wire).await?;
        if head.status >= 200 || head.status == 101 {
            break head;
        }
        interim.push(Interim { status: head.status, headers: head.headers });
    };
    let framing = framing(&head, method)?;
    let Head { version, status, reason, headers } = head;
    let mut response = RawResponse {
        status,
        reason,
        version,
        headers,
        body: Vec::new(),
        trailers: Vec::new(),
        interim,
        chunks: None,
    };
    match framing {
        Framing::None => {}
        Framing::Length(length) => response.body = wire.exactly(length, "a body").await?,
        Framing::UntilClose => response.body = wire.until_end().await?,
        Framing::Chunked => read_chunks(wire, &mut response).await?,
    }
    Ok(response)
}

async fn read_head(wire: &mut Wire) -> Result<Head, ReadError> {
    let line = wire.line("status line").await?;
    let malformed = || ReadError::Malformed { what: "status line", found: line.clone() };
    let (version, rest) = line.split_once(' ').ok_or_else(malformed)?;
    let (code, reason) = rest.split_once(' ').ok_or_else(malformed)?;
    if !matches!(version, "HTTP/1.0" | "HTTP/1.1") || code.len() != 3 {
        return Err(malformed());
    }
    let status =
        code.parse().ok().filter(|status| (100..600).contains(status)).ok_or_else(malformed)?;
    let headers = read_fields(wire, "header field").await?;
    Ok(Head { version: version.to_owned(), status, reason: reason.to_owned(), headers })
}

async fn read_fields(wire: &mut Wire, what: &'static str) -> Result<Fields, ReadError> {
    let mut fields = Vec::new();
    loop {
        let line = wire.line(what).await?;
        if line.is_empty() {
            return Ok(fields);
        }
        let malformed = || ReadError::Malformed { what, found: line.clone() };
        let (name, value) = line.split_once(':').ok_or_else(malformed)?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(malformed());
        }
        fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
}

fn framing(head: &Head, method: &str) -> Result<Framing, ReadError> {
    let codings: Vec<&str> = all(&head.headers, "transfer-encoding").collect();
    let lengths: Vec<&str> = all(&head.headers, "content-length").collect();
    let bodiless = head.status == 101 || head.status == 204 || head.status == 304;
    if method.eq_ignore_ascii_case("HEAD") || bodiless {
        return Ok(Framing::None);
    }
    if method.eq_ignore_ascii_case("CONNECT") && (200..300).contains(&head.status) {
        return Ok(Framing::None);
    }
    match (codings.as_slice(), lengths.as_slice()) {
        ([], []) => Ok(Framing::UntilClose),
        ([], [length])
            if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            let malformed =
                || ReadError::Malformed { what: "content-length", found: (*length).to_owned() };
            length.parse().map(Framing::Length).map_err(|_| malformed())
        }
        ([], lengths) => {
            Err(ReadError::Malformed { what: "content-length", found: lengths.join(", ") })
        }
        ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        (codings, lengths) => {
            let found = format!("transfer-encoding {codings:?} with content-length {lengths:?}");
            Err(ReadError::Malformed { what: "framing", found })
        }
    }
}

async fn read_chunks(wire: &mut Wire, response: &mut RawResponse) -> Result<(), ReadError> {
    let mut sizes = Vec::new();
    loop {
        let line = wire.line("chunk size").await?;
        let malformed = || ReadError::Malformed { what: "chunk size", found: line.clone() };
        let digits = line.split(';').next().unwrap_or_default();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(malformed());
        }
        let size = usize::from_str_radix(digits, 16).map_err(|_| malformed())?;
        if size == 0 {
            break;
        }
        sizes.push(size);
        response.body.extend(wire.exactly(size, "a chunk").await?);
        let end = wire.line("chunk end").await?;
        if !end.is_empty() {
            return Err(ReadError::Malformed { what: "chunk end", found: end });
        }
    }
    response.chunks = Some(sizes);
    response.trailers = read_fields(wire, "trailer field").await?;
    Ok(())
}

fn all<'a>(fields: &'a Fields, name: &str) -> impl Iterator<Item = &'a str> {
    fields
        .iter()
        .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

fn first<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// `tchar` of RFC 9110.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
