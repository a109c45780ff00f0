//! Validation of a name: a real connection to the address it stands for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Shared, locked, verifier};

/// Time for one validation.
const PATIENCE: Duration = Duration::from_secs(20);

/// Validates an authorization by a challenge, and notes the outcome.
pub(crate) async fn validate(shared: Arc<Shared>, id: u64, kind: String) {
    let Some((name, identifier, token, thumb)) = asked(&shared, id) else { return };
    let expected = format!("{token}.{thumb}");
    let outcome = async {
        let address = address_of(&shared, &identifier)
            .ok_or_else(|| ("dns", format!("no address found for {name}")))?;
        match kind.as_str() {
            "http-01" => {
                http(SocketAddr::new(address, shared.ports.0), &name, &token, &expected).await
            }
            _ => tls(SocketAddr::new(address, shared.ports.1), &identifier, &expected).await,
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, outcome).await;
    let outcome = outcome.unwrap_or_else(|_| Err(("connection", "no answer in time".to_owned())));
    let mut state = shared.state();
    if let Some(authorization) = state.authorizations.get_mut(&id) {
        let account = authorization.account;
        match &outcome {
            Ok(()) => authorization.status = "valid",
            Err((kind, detail)) => {
                authorization.status = "invalid";
                let kind = format!("urn:ietf:params:acme:error:{kind}");
                authorization.error = Some(json!({"type": kind, "detail": detail, "status": 403}));
            }
        }
        if outcome.is_ok()
            && let Some(account) = state.accounts.get_mut(&account)
        {
            account.validated.insert(name.clone());
        }
    }
    let outcome = outcome.map_err(|(_, detail)| detail);
    shared.seen().validations.push((kind, name, outcome));
}

fn asked(shared: &Shared, id: u64) -> Option<(String, Value, String, String)> {
    let state = shared.state();
    let authorization = state.authorizations.get(&id)?;
    let thumb = state.accounts.get(&authorization.account)?.thumbprint.clone();
    let (name, token) = (authorization.name(), authorization.token.clone());
    Some((name, authorization.identifier.clone(), token, thumb))
}

fn address_of(shared: &Shared, identifier: &Value) -> Option<IpAddr> {
    let value = identifier["value"].as_str()?;
    match identifier["type"].as_str()? {
        "ip" => value.parse().ok(),
        _ => locked(&shared.names).get(value).copied(),
    }
}

type Outcome = Result<(), (&'static str, String)>;

async fn http(address: SocketAddr, name: &str, token: &str, expected: &str) -> Outcome {
    let failed = |error: std::io::Error| ("connection", format!("{address}: {error}"));
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    let host = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
    let request = format!(
        "GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    if !head.starts_with("HTTP/1.1 200 ") {
        let line = head.lines().next().unwrap_or_default();
        return Err(("unauthorized", format!("{address} answered {line:?}")));
    }
    if body.trim_end() != expected {
        return Err(("unauthorized", format!("{address} answered another text")));
    }
    Ok(())
}

async fn tls(address: SocketAddr, identifier: &Value, expected: &str) -> Outcome {
    let failed = |error: std::io::Error| ("connection", format!("{address}: {error}"));
    let value = identifier["value"].as_str().unwrap_or_default();
    let ip = value.parse::<IpAddr>().ok();
    let asked = ip.map_or_else(|| value.to_owned(), reverse_name);
    let name = ServerName::try_from(asked)
        .map_err(|_| ("malformed", format!("{value} is no server name")))?;
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    let connector = TlsConnector::from(Arc::new(verifier::config()));
    let stream = connector.connect(name, stream).await.map_err(failed)?;
    let session = stream.get_ref().1;
    let wrong = |what: &str| ("unauthorized", format!("{address} {what}"));
    if session.alpn_protocol() != Some(b"acme-tls/1") {
        return Err(wrong("does not speak acme-tls/1"));
    }
    let chain = session.peer_certificates().unwrap_or_default();
    let leaf = chain.first().ok_or_else(|| wrong("shows no certificate"))?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| wrong("shows no certificate"))?;
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = names.map(|names| &names.value.general_names[..]).unwrap_or_default();
    let is_it = match (names, ip) {
        ([GeneralName::DNSName(found)], None) => *found == value,
        ([GeneralName::IPAddress(found)], Some(IpAddr::V4(ip))) => **found == ip.octets(),
        ([GeneralName::IPAddress(found)], Some(IpAddr::V6(ip))) => **found == ip.octets(),
        _ => false,
    };
    if !is_it {
        return Err(wrong("shows a certificate that is not for this name alone"));
    }
    let expected = digest(&SHA256, expected.as_bytes());
    let holds = |extension: &x509_parser::extensions::X509Extension<'_>| {
        extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31"
            && extension.critical
            && extension.value == [&[4, 32], expected.as_ref()].concat()
    };
    if !leaf.extensions().iter().any(holds) {
        return Err(wrong("shows a certificate without the digest"));
    }
    Ok(())
}

/// Returns the name for reverse look-ups, by which an address is asked for (RFC 8738 §6).
fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let text: String = address.octets().iter().map(|byte| format!("{byte:02x}")).collect();
            text.chars().rev().map(|nibble| format!("{nibble}.")).collect::<String>() + "ip6.arpa"
        }
    }
}
