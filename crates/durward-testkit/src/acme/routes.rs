//! Resources of the double: directory, nonces, accounts, orders, authorizations, challenges, certificates, renewal information.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::jws::{self, Signed, Signer};
use super::state::{Account, Authorization, Order};
use super::{Shared, validation};

/// Problem document.
#[derive(Debug)]
pub(crate) struct Problem {
    status: u16,
    kind: &'static str,
    detail: String,
    retry_after: Option<u64>,
}

impl Problem {
    pub(crate) fn new(status: u16, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into(), retry_after: None }
    }
}

/// Answer to be sent: status, content type, body, location, and `Retry-After`.
struct Answer {
    status: u16,
    content_type: &'static str,
    body: String,
    location: Option<String>,
    retry_after: Option<u64>,
}

impl Answer {
    fn json(status: u16, body: &Value) -> Self {
        let (location, retry_after) = (None, None);
        let (content_type, body) = ("application/json", body.to_string());
        Self { status, content_type, body, location, retry_after }
    }
}

/// Serves one connection.
pub(crate) async fn serve(shared: Arc<Shared>, config: Arc<ServerConfig>, stream: TcpStream) {
    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(respond(&shared, request).await) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A client that goes away is none of the double's business.
    drop(connection.await);
}

async fn respond(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let path = head.uri.path().to_owned();
    let answer = match head.method {
        Method::POST => post(shared, &path, &body),
        _ => get(shared, &path),
    };
    let answer = answer.unwrap_or_else(|problem| {
        let kind = format!("urn:ietf:params:acme:error:{}", problem.kind);
        let body = json!({"type": kind, "detail": problem.detail, "status": problem.status});
        Answer {
            content_type: "application/problem+json",
            retry_after: problem.retry_after,
            ..Answer::json(problem.status, &body)
        }
    });
    let nonce = {
        let mut state = shared.state();
        let nonce = format!("nonce-{}", state.number());
        state.nonces.insert(nonce.clone());
        nonce
    };
    let now = SystemTime::now() - Duration::from_secs(shared.behaviour().clock_behind);
    let mut response = Response::builder()
        .status(answer.status)
        .header(header::CONTENT_TYPE, answer.content_type)
        .header(header::DATE, http_date(now))
        .header("replay-nonce", nonce);
    if let Some(location) = answer.location {
        response = response.header(header::LOCATION, location);
    }
    if let Some(seconds) = answer.retry_after {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    response.body(Full::new(answer.body.into())).expect("the fields of an answer are valid")
}

/// Formats a time as an HTTP date.
fn http_date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    let (year, month, day) = civil(days);
    let months =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months[month as usize - 1];
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Returns the date of a day since the Unix epoch, of the years from 1970 on.
fn civil(days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

fn rfc3339(seconds: i64) -> String {
    let seconds = seconds.max(0).cast_unsigned();
    let ((year, month, day), rest) = (civil(seconds / 86_400), seconds % 86_400);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn get(shared: &Shared, path: &str) -> Result<Answer, Problem> {
    let behaviour = shared.behaviour();
    match path {
        "/dir" => {
            let profiles: serde_json::Map<String, Value> =
                behaviour.profiles.keys().map(|name| (name.clone(), "about it".into())).collect();
            let mut directory = json!({
                "newNonce": shared.url("/nonce"),
                "newAccount": shared.url("/account"),
                "newOrder": shared.url("/order"),
                "meta": {"profiles": profiles},
            });
            if behaviour.renewal.is_some() {
                directory["renewalInfo"] = shared.url("/renewal").into();
            }
            Ok(Answer::json(200, &directory))
        }
        "/nonce" => Ok(Answer::json(200, &Value::Null)),
        path if path.starts_with("/renewal/") => {
            let (from, to, again) =
                behaviour.renewal.ok_or_else(|| Problem::new(404, "malformed", "no such thing"))?;
            shared.seen().renewal_looks += 1;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now = now.as_secs().cast_signed();
            let window = json!({"start": rfc3339(now + from), "end": rfc3339(now + to)});
            let answer = Answer::json(200, &json!({"suggestedWindow": window}));
            Ok(Answer { retry_after: Some(again), ..answer })
        }
        _ => Err(Problem::new(404, "malformed", "there is no such resource")),
    }
}

fn post(shared: &Arc<Shared>, path: &str, body: &[u8]) -> Result<Answer, Problem> {
    let Signed { signer, payload } = jws::check(shared, path, body)?;
    if path == "/account" {
        return account(shared, signer, &payload);
    }
    let Signer::Account(account) = signer else {
        return Err(Problem::new(400, "malformed", "signed by a key, not by an account"));
    };
    let missing = || Problem::new(404, "malformed", "there is no such resource");
    let mut parts = path.trim_start_matches('/').splitn(3, '/');
    let (kind, id) = (parts.next().unwrap_or_default(), parts.next());
    let id = id.and_then(|id| id.parse::<u64>().ok());
    match (kind, id) {
        ("account", Some(_)) => Ok(Answer::json(200, &json!({"status": "valid"}))),
        ("order", None) => place(shared, account, &payload),
        ("order", Some(id)) => {
            let order = shared.state().order_json(shared, id).ok_or_else(missing)?;
            Ok(Answer::json(200, &order))
        }
        ("authz", Some(id)) => {
            let found = shared.state().authorization_json(shared, id).ok_or_else(missing)?;
            Ok(Answer::json(200, &found))
        }
        ("chall", Some(id)) => challenge(shared, id, parts.next().unwrap_or_default()),
        ("finalize", Some(id)) => finalize(shared, (account, id), &payload),
        ("cert", Some(id)) => {
            let chain = shared.state().certificates.get(&id).cloned().ok_or_else(missing)?;
            let content_type = "application/pem-certificate-chain";
            Ok(Answer { content_type, body: chain, ..Answer::json(200, &Value::Null) })
        }
        _ => Err(missing()),
    }
}

fn account(shared: &Shared, signer: Signer, payload: &Value) -> Result<Answer, Problem> {
    let Signer::Key(key, thumbprint) = signer else {
        return Err(Problem::new(400, "malformed", "an account is made with its key"));
    };
    if payload["termsOfServiceAgreed"] != true {
        return Err(Problem::new(403, "userActionRequired", "agree to the terms of service"));
    }
    let mut state = shared.state();
    let known = state.accounts.iter().find(|(_, account)| account.thumbprint == thumbprint);
    if let Some((id, account)) = known {
        if !account.valid {
            return Err(Problem::new(401, "unauthorized", "the account is deactivated"));
        }
        let location = Some(shared.url(&format!("/account/{id}")));
        return Ok(Answer { location, ..Answer::json(200, &json!({"status": "valid"})) });
    }
    let id = state.number();
    let validated = std::collections::BTreeSet::new();
    state.accounts.insert(id, Account { key, thumbprint, valid: true, validated });
    let contacts = payload["contact"].as_array().cloned().unwrap_or_default();
    let contacts = contacts.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect();
    shared.seen().accounts.push(contacts);
    let location = Some(shared.url(&format!("/account/{id}")));
    Ok(Answer { location, ..Answer::json(201, &json!({"status": "valid"})) })
}

fn place(shared: &Shared, account: u64, payload: &Value) -> Result<Answer, Problem> {
    let behaviour = shared.behaviour();
    if let Some(seconds) = behaviour.rate_limit {
        shared.seen().limited += 1;
        let problem = Problem::new(429, "rateLimited", "too many certificates for these names");
        return Err(Problem { retry_after: Some(seconds), ..problem });
    }
    let identifiers = payload["identifiers"].as_array().cloned().unwrap_or_default();
    let profile = payload["profile"].as_str().map(str::to_owned);
    if let Some(profile) = profile.as_ref().filter(|name| !behaviour.profiles.contains_key(*name)) {
        return Err(Problem::new(400, "invalidProfile", format!("no profile {profile}")));
    }
    let has_address = identifiers.iter().any(|identifier| identifier["type"] == "ip");
    if has_address
        && behaviour.addresses_are_short_lived
        && profile.as_deref() != Some("shortlived")
    {
        let sentence = "IP addresses are issued in the profile shortlived only";
        return Err(Problem::new(400, "rejectedIdentifier", sentence));
    }
    let mut state = shared.state();
    let mut authorizations = Vec::new();
    for identifier in &identifiers {
        let (id, token) = (state.number(), format!("token-{}", state.number()));
        let mut authorization = Authorization {
            account,
            identifier: identifier.clone(),
            token,
            status: "pending",
            error: None,
        };
        let is_known = |account: &Account| account.validated.contains(&authorization.name());
        if behaviour.remembers && state.accounts.get(&account).is_some_and(is_known) {
            authorization.status = "valid";
        }
        state.authorizations.insert(id, authorization);
        authorizations.push(id);
    }
    let id = state.number();
    let replaces = payload["replaces"].as_str().map(str::to_owned);
    let mut names: Vec<String> = identifiers
        .iter()
        .filter_map(|identifier| identifier["value"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    let mut seen = shared.seen();
    seen.replacements += u64::from(replaces.is_some());
    seen.orders.push((names, profile.clone()));
    let (certificate, failed) = (None, false);
    let order =
        Order { account, identifiers, profile, replaces, authorizations, certificate, failed };
    state.orders.insert(id, order);
    seen.most_open = seen.most_open.max(state.open_orders());
    let json = state.order_json(shared, id).unwrap_or_default();
    let location = Some(shared.url(&format!("/order/{id}")));
    Ok(Answer { location, ..Answer::json(201, &json) })
}

fn challenge(shared: &Arc<Shared>, id: u64, kind: &str) -> Result<Answer, Problem> {
    let mut state = shared.state();
    let Some(authorization) = state.authorizations.get_mut(&id) else {
        return Err(Problem::new(404, "malformed", "there is no such challenge"));
    };
    if authorization.status == "pending" && authorization.error.is_none() {
        tokio::spawn(validation::validate(Arc::clone(shared), id, kind.to_owned()));
    }
    let json = state.authorization_json(shared, id).unwrap_or_default();
    let all = json["challenges"].as_array().cloned().unwrap_or_default();
    let one = all.into_iter().find(|challenge| challenge["type"] == kind).unwrap_or_default();
    Ok(Answer::json(200, &one))
}

fn finalize(
    shared: &Shared,
    (account, id): (u64, u64),
    payload: &Value,
) -> Result<Answer, Problem> {
    let behaviour = shared.behaviour();
    let mut state = shared.state();
    let Some(order) = state.orders.get(&id).filter(|order| order.account == account) else {
        return Err(Problem::new(404, "malformed", "there is no such order"));
    };
    if state.status(order) != "ready" {
        return Err(Problem::new(403, "orderNotReady", "not all names are validated"));
    }
    if behaviour.refuses_to_issue {
        return Err(Problem::new(403, "caa", "CAA forbids it"));
    }
    let csr = payload["csr"].as_str().and_then(jws::decode);
    let csr = csr.ok_or_else(|| Problem::new(400, "badCSR", "the CSR cannot be read"))?;
    let profile = order.profile.as_ref().and_then(|name| behaviour.profiles.get(name));
    let lifetime = profile.copied().unwrap_or(behaviour.lifetime);
    let from = SystemTime::now() - Duration::from_secs(behaviour.clock_behind);
    let chain = shared.issuer.sign_request(&csr, (from, from + lifetime));
    let chain = chain.map_err(|error| Problem::new(400, "badCSR", error.to_string()))?;
    let mut ordered: Vec<String> = order
        .identifiers
        .iter()
        .filter_map(|one| Some(one["value"].as_str()?.to_owned()))
        .collect();
    ordered.sort();
    if names_in(&chain) != ordered {
        return Err(Problem::new(400, "badCSR", "the CSR has other names than the order"));
    }
    let certificate = state.number();
    state.certificates.insert(certificate, chain);
    if let Some(order) = state.orders.get_mut(&id) {
        order.certificate = Some(certificate);
    }
    shared.seen().issued += 1;
    let json = state.order_json(shared, id).unwrap_or_default();
    Ok(Answer::json(200, &json))
}

/// Returns the names in the first certificate of a chain, in order.
fn names_in(chain: &str) -> Vec<String> {
    let Ok(leaf) = CertificateDer::from_pem_slice(chain.as_bytes()) else { return Vec::new() };
    let Ok((_, leaf)) = X509Certificate::from_der(&leaf) else { return Vec::new() };
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.clone()).unwrap_or_default();
    let mut names: Vec<String> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let v6 = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
                v4.or_else(|_| v6()).ok().map(|address| address.to_string())
            }
            _ => None,
        })
        .collect();
    names.sort();
    names
}
