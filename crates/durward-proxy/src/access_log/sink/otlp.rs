//! Lines as OpenTelemetry log records, posted to a collector as JSON (OTLP/HTTP).
//!
//! Deliberately absent: protobuf and gRPC. Every collector takes JSON on the same path, and no library is needed for it.

use std::io;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::http_client::Client;
use super::remote::{Deliver, Delivered, Undelivered};
use crate::json_line::scan;

/// Largest batch of lines per request in bytes; a longer line is a batch of its own.
const BATCH: usize = 512 * 1024;

/// Collector to which log records are posted.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OtlpTo {
    /// `HOST:PORT`; IPv6 addresses in brackets.
    pub authority: String,
    /// The path, usually `/v1/logs`.
    pub path: String,
    /// True to use TLS; the collector's certificate is always verified.
    pub tls: bool,
    /// PEM file of the authorities to verify it with, instead of the host's.
    pub ca: Option<PathBuf>,
    /// Headers to send, such as an API key.
    pub headers: Vec<(String, String)>,
    /// Attributes of the resource beside `service.name`.
    pub resource: Vec<(String, String)>,
}

/// Leaves header values out: they may be secret.
impl std::fmt::Debug for OtlpTo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("OtlpTo")
            .field("authority", &self.authority)
            .field("path", &self.path)
            .field("tls", &self.tls)
            .field("ca", &self.ca)
            .field("headers", &headers)
            .field("resource", &self.resource)
            .finish()
    }
}

pub(super) struct Otlp {
    client: Client,
    to: OtlpTo,
}

impl Otlp {
    pub(super) fn new(to: OtlpTo) -> io::Result<Self> {
        Ok(Self { client: Client::new(to.authority.clone(), to.tls, to.ca.as_deref())?, to })
    }

    fn head(&self, length: usize) -> String {
        let OtlpTo { path, authority, .. } = &self.to;
        let more: String =
            self.to.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let agent = env!("CARGO_PKG_VERSION");
        format!(
            "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nUser-Agent: durward/{agent}\r\n{more}\r\n"
        )
    }
}

impl Deliver for Otlp {
    fn deliver(&mut self, lines: &[u8]) -> Result<Delivered, Undelivered> {
        let lines = &lines[..batch(lines)];
        let body = request(lines, &self.to.resource).to_string();
        let failed = |error, pause| Undelivered { bytes: 0, error, pause };
        let head = self.head(body.len());
        let answer =
            self.client.post(&head, body.as_bytes()).map_err(|error| failed(error, None))?;
        match answer.status {
            200..=299 => Ok(Delivered { bytes: lines.len(), refused: refused(&answer.body) }),
            429 | 502 | 503 | 504 => {
                let error = io::Error::other(format!("the collector answers {}", answer.status));
                Err(failed(error, answer.retry_after))
            }
            // A retry would get the same answer.
            status => {
                tracing::warn!(status, "the collector does not take log records; they are lost");
                let refused = memchr::memchr_iter(b'\n', lines).count() as u64;
                Ok(Delivered { bytes: lines.len(), refused })
            }
        }
    }

    fn name(&self) -> String {
        let scheme = if self.to.tls { "https" } else { "http" };
        format!("otlp+{scheme}://{}{}", self.to.authority, self.to.path)
    }
}

/// Returns the length of the whole lines in the first [`BATCH`] bytes, at least one line.
fn batch(lines: &[u8]) -> usize {
    if lines.len() <= BATCH {
        return lines.len();
    }
    let end = memchr::memrchr(b'\n', &lines[..BATCH])
        .or_else(|| memchr::memchr(b'\n', lines))
        .unwrap_or(lines.len() - 1);
    end + 1
}

fn request(lines: &[u8], resource: &[(String, String)]) -> Value {
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let mut attributes = vec![
        text("service.name", "durward"),
        text("service.version", env!("CARGO_PKG_VERSION")),
        json!({"key": "process.pid", "value": {"intValue": std::process::id().to_string()}}),
    ];
    attributes.extend(resource.iter().map(|(key, value)| text(key, value)));
    let records: Vec<Value> =
        lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(record).collect();
    json!({"resourceLogs": [{
        "resource": {"attributes": attributes},
        "scopeLogs": [{"scope": {"name": "durward"}, "logRecords": records}],
    }]})
}

/// Converts one line: the whole line becomes the body, the fields to filter by become attributes.
fn record(line: &[u8]) -> Value {
    let nanoseconds = scan::time(line).unwrap_or(0).unsigned_abs().saturating_mul(1_000);
    let (number, text) = if scan::is_unwell(line) { (13, "WARN") } else { (9, "INFO") };
    let parsed = serde_json::from_slice::<Map<String, Value>>(line);
    let attributes = parsed.iter().flat_map(|fields| {
        [("kind", "event.name"), ("tenant", "durward.tenant"), ("verdict", "durward.verdict")]
            .into_iter()
            .filter_map(|(field, key)| Some(json!({"key": key, "value": any(fields.get(field)?)})))
    });
    json!({
        "timeUnixNano": nanoseconds.to_string(),
        "observedTimeUnixNano": nanoseconds.to_string(),
        "severityNumber": number,
        "severityText": text,
        "attributes": attributes.collect::<Vec<_>>(),
        "body": match &parsed {
            Ok(fields) => map(fields),
            Err(_) => json!({"stringValue": String::from_utf8_lossy(line)}),
        },
    })
}

fn map(fields: &Map<String, Value>) -> Value {
    let values: Vec<Value> =
        fields.iter().map(|(key, value)| json!({"key": key, "value": any(value)})).collect();
    json!({"kvlistValue": {"values": values}})
}

/// Converts to OTLP's `AnyValue`; its JSON mapping writes 64-bit integers as strings.
fn any(value: &Value) -> Value {
    match value {
        Value::Null => json!({}),
        Value::Bool(flag) => json!({"boolValue": flag}),
        Value::Number(number) if number.is_f64() => json!({"doubleValue": number}),
        Value::Number(number) => json!({"intValue": number.to_string()}),
        Value::String(text) => json!({"stringValue": text}),
        Value::Array(values) => {
            json!({"arrayValue": {"values": values.iter().map(any).collect::<Vec<_>>()}})
        }
        Value::Object(fields) => map(fields),
    }
}

/// Returns the number of records that a collector rejected in a successful response (`partialSuccess`).
fn refused(body: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let count = &answer["partialSuccess"]["rejectedLogRecords"];
    count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or(0)
}
