//! Registrations over REST at a listener for agents: `POST /api/v1/gateway/routes/{register,sync,unregister}`, and certificates for agents that join:
//! `POST /api/v1/gateway/join`, and ports of TCP and UDP services: `/api/v1/clusters/agent/CLUSTER/tunnels`. One request per connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use durward_link::carrier::websocket::Request;
use durward_link::control::Token;
use durward_model::Service;
use durward_model::link::TokenDigest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::credential::{self, AdmittedAgent, Shown};
use super::{Agent, CARRIER};
use crate::io::Io;
use crate::refusal::Refusal;
use crate::registry::{Answer, Caller, Joining, Tunnels};

/// Path of all operations.
const PATH: &str = "/api/v1/gateway/routes/";
/// Path of the tunnels of clusters, and the beginning of the names of those operations.
const CLUSTERS: &str = "/api/v1/clusters/agent/";
/// Path of certificates, and the name of that operation.
const JOIN: &str = "/api/v1/gateway/join";
/// Bytes of a certificate request at most.
const REQUEST: usize = 16 << 10;
/// Bytes of a body at most.
const BODY: usize = 4 << 20;
/// Time in which a body must arrive, and an answer must be taken.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time in which a client may go on sending what nobody reads.
const LINGER: Duration = Duration::from_secs(2);

/// Returns the operation that a request is for; `None` if it is no request of this interface.
pub(super) fn operation(request: &Request) -> Option<&str> {
    let (_, target) = request.method_and_target()?;
    let is_whole = target == JOIN || target.starts_with(CLUSTERS);
    if is_whole { Some(target) } else { target.strip_prefix(PATH) }
}

/// Returns the cluster and the call that a path and method are for; an answer where there is no such call.
fn tunnels(path: &str, method: &str) -> Result<(String, Tunnels), Answer> {
    let unknown =
        || failure(404, "unknown", "there is CLUSTER/tunnels, tunnels/sync and tunnels/ID");
    let (cluster, rest) = path.split_once("/tunnels").ok_or_else(unknown)?;
    let call = match (method, rest) {
        ("GET", "") => Tunnels::List,
        ("POST", "") => Tunnels::Register,
        ("POST", "/sync") => Tunnels::Sync,
        ("DELETE", id) if id.len() > 1 && !id[1..].contains('/') => Tunnels::Withdraw,
        (_, "" | "/sync") => {
            return Err(failure(
                405,
                "bad_method",
                "the method must be POST, or GET for all tunnels",
            ));
        }
        _ => return Err(unknown()),
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if cluster.is_empty() || !cluster.bytes().all(is_plain) {
        return Err(unknown());
    }
    Ok((cluster.to_owned(), call))
}

/// Operation that a request asks for, and its caller.
enum Call {
    Routes(Box<Caller>),
    Tunnels(Box<Caller>, String, Tunnels),
    Join(Box<Joining>),
}

impl Call {
    fn caller(&self) -> &Caller {
        match self {
            Self::Routes(caller) | Self::Tunnels(caller, ..) => caller,
            Self::Join(joining) => &joining.caller,
        }
    }

    /// Returns the length of its body at most.
    fn longest(&self) -> usize {
        match self {
            Self::Routes(_) | Self::Tunnels(..) => BODY,
            Self::Join(_) => REQUEST,
        }
    }

    /// Returns true if a request without a length has no body, as one by GET or DELETE.
    fn may_lack_body(&self) -> bool {
        matches!(self, Self::Tunnels(_, _, Tunnels::List | Tunnels::Withdraw))
    }
}

/// Reads the body, carries the operation out and answers.
pub(super) async fn serve(
    agent: &mut Agent<'_>,
    mut io: Io,
    request: &Request,
    operation: &str,
) -> Result<(), Refusal> {
    let answered = async {
        let answer = match answer(agent, &mut io, request, operation).await? {
            Ok(answer) => answer,
            Err(answer) => answer,
        };
        write(&mut io, &answer).await?;
        io::Result::Ok(answer.status)
    };
    let status = match tokio::time::timeout(PATIENCE, answered).await {
        Ok(Ok(status)) => status,
        Ok(Err(_)) => return Ok(()),
        Err(_) => return Err(Refusal::ClientTimeout { phase: "body" }),
    };
    if status == 401 && agent.denied.is_none() {
        agent.deny("", "no link of this listener has the token or certificate");
    }
    Ok(())
}

/// Returns the answer; it is an `Err` where the operation was not carried out.
async fn answer(
    agent: &mut Agent<'_>,
    io: &mut Io,
    request: &Request,
    operation: &str,
) -> io::Result<Result<Answer, Answer>> {
    let asked = match judge(agent, request, operation) {
        Ok(asked) => asked,
        Err(answer) => return Ok(Err(answer)),
    };
    let is_bare = !request.has("content-length") && !request.has("transfer-encoding");
    let length = match length(request, asked.longest()) {
        _ if is_bare && asked.may_lack_body() => 0,
        Ok(length) => length,
        Err(answer) => return Ok(Err(answer)),
    };
    let state = agent.view.tenant().links.named(&asked.caller().link.name);
    let Some(call) = state.call() else {
        let busy = failure(429, "too_many_requests", "too many operations of this link at once");
        return Ok(Err(Answer { retry_after: Some(1), ..busy }));
    };
    if let Err(answer) = hold(agent, length) {
        return Ok(Err(answer));
    }
    if request.field("expect").is_some_and(|what| what.eq_ignore_ascii_case("100-continue")) {
        io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        io.flush().await?;
    }
    let mut body = request.early().to_vec();
    // What comes after the body is no part of it: the connection ends with the answer.
    body.truncate(length);
    let missing = length - body.len();
    (&mut *io).take(missing as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if let Err(answer) = hold(agent, body.len() + parsed(&body)) {
        return Ok(Err(answer));
    }
    let Some(registry) = agent.core.shared.registry.clone() else {
        return Ok(Err(failure(503, "no_registry", "this gateway takes no registrations")));
    };
    let operation = operation.to_owned();
    // Waits for the disk, which a core must not.
    let called = tokio::task::spawn_blocking(move || {
        let _until_it_ends = call;
        match asked {
            Call::Routes(caller) => registry.call(&caller, &operation, &body),
            Call::Tunnels(caller, cluster, call) => {
                Some(registry.tunnels(&caller, &cluster, call, &body))
            }
            Call::Join(joining) => Some(registry.join(&joining, &body)),
        }
    });
    let answer = called.await.map_err(io::Error::other)?;
    Ok(answer.ok_or_else(|| failure(404, "unknown", "there is no such operation")))
}

/// Charges the tenant for a body.
fn hold(agent: &mut Agent<'_>, bytes: usize) -> Result<(), Answer> {
    agent.memory.resize(CARRIER.saturating_add(bytes)).map_err(|_| {
        let message = "the tenant's share of memory has no room for this body: try again, or send fewer routes at once";
        Answer { retry_after: Some(1), ..failure(503, "no_memory", message) }
    })
}

/// Returns the memory that JSON takes when it is read, at most: an object has a node of a tree, and each field and value a place in one.
fn parsed(body: &[u8]) -> usize {
    let of = |byte: &u8| match byte {
        b'{' => 768,
        b',' | b'[' => 128,
        _ => 0,
    };
    body.iter().map(of).sum()
}

/// Judges the head: who calls, and whether the request is one of this interface.
fn judge(agent: &Agent<'_>, request: &Request, operation: &str) -> Result<Call, Answer> {
    if let Some(path) = operation.strip_prefix(CLUSTERS) {
        let method = request.method_and_target().map_or("", |(method, _)| method);
        let (cluster, call) = tunnels(path, method)?;
        let caller = caller(agent, request)?;
        if matches!(call, Tunnels::Register | Tunnels::Sync) {
            is_json(request)?;
        }
        return Ok(Call::Tunnels(Box::new(caller), cluster, call));
    }
    if !matches!(operation, "register" | "sync" | "unregister" | JOIN) {
        return Err(failure(404, "unknown", "there is register, sync and unregister"));
    }
    if request.method_and_target().is_none_or(|(method, _)| method != "POST") {
        return Err(failure(405, "bad_method", "the method must be POST"));
    }
    if operation == JOIN {
        return joining(agent, request).map(|joining| Call::Join(Box::new(joining)));
    }
    let caller = caller(agent, request)?;
    is_json(request)?;
    Ok(Call::Routes(Box::new(caller)))
}

fn is_json(request: &Request) -> Result<(), Answer> {
    let media = request.field("content-type").unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    if media.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(failure(415, "bad_media", "Content-Type must be application/json"))
}

/// Returns the link of a token to join, or of the certificate that is to be renewed.
fn joining(agent: &Agent<'_>, request: &Request) -> Result<Joining, Answer> {
    let unknown = || {
        let message = "send Authorization: Bearer with a token of joinTokens, or show the link's certificate to have it renewed";
        failure(401, "unauthorized", message)
    };
    let prepared = agent.core.shared.prepared.load();
    let view = agent.view.renewed(&prepared, agent.facts.client.0.ip()).ok_or_else(unknown)?;
    let Service::Link(service) = &view.listener().service else { return Err(unknown()) };
    let Some(authority) = service.authority.clone() else {
        let message =
            "this listener issues no certificates: write agentAuthority in the tenant's document";
        return Err(failure(404, "no_authority", message));
    };
    let Some(token) = bearer(request).ok_or_else(unknown)? else {
        let caller = caller(agent, request).map_err(|_| unknown())?;
        return Ok(Joining { caller, authority, token: None });
    };
    let token = TokenDigest::new(token.digest());
    let link = service.link_of_join_token(&token).ok_or_else(unknown)?;
    let caller = credential::caller(&view, link, agent.facts);
    Ok(Joining { caller, authority, token: Some(token) })
}

/// Returns the token of a request, or `None` for one without; nothing for a header that is no token's.
fn bearer(request: &Request) -> Option<Option<Token>> {
    match request.field("authorization").map(|value| value.split_once(' ')) {
        Some(Some((scheme, token))) if scheme.eq_ignore_ascii_case("bearer") => {
            Some(Some(Token::new(token.trim().to_owned())))
        }
        None if !request.has("authorization") => Some(None),
        _ => None,
    }
}

/// Returns the link of the token or certificate; a header names it where several have the same.
fn caller(agent: &Agent<'_>, request: &Request) -> Result<Caller, Answer> {
    let unknown =
        || failure(401, "unauthorized", "send Authorization: Bearer with a token of the link");
    let token = bearer(request).ok_or_else(unknown)?;
    let shown = Shown::by(agent.facts, token.as_ref()).ok_or_else(unknown)?;
    let prepared = agent.core.shared.prepared.load();
    let view = agent.view.renewed(&prepared, agent.facts.client.0.ip()).ok_or_else(unknown)?;
    let Service::Link(service) = &view.listener().service else { return Err(unknown()) };
    let named = request.field("durward-link");
    let mut links = shown.links(service);
    links.retain(|link| named.is_none_or(|name| *link.name == *name));
    let name = match &links[..] {
        [] => return Err(unknown()),
        [link] => Arc::clone(&link.name),
        _ => {
            let message = "the token or certificate is that of several links: name one in the header Durward-Link";
            return Err(failure(400, "ambiguous_link", message));
        }
    };
    AdmittedAgent::new(&name, shown).caller(&view, agent.facts).ok_or_else(unknown)
}

fn length(request: &Request, longest: usize) -> Result<usize, Answer> {
    if request.has("transfer-encoding") {
        return Err(failure(411, "length_required", "the body needs Content-Length"));
    }
    let text = request.field("content-length").unwrap_or_default();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<usize>() {
        Ok(length) if digits && length <= longest => Ok(length),
        // A number that is too long for one is too large, too.
        _ if digits => {
            let message = format!("the body is longer than {} KiB", longest >> 10);
            Err(failure(413, "too_large", &message))
        }
        _ => Err(failure(411, "length_required", "the body needs Content-Length")),
    }
}

fn failure(status: u16, code: &str, message: &str) -> Answer {
    let body = serde_json::json!({"success": false, "error": {"code": code, "field": "", "message": message}});
    Answer { status, body: body.to_string(), retry_after: None }
}

async fn write(io: &mut Io, answer: &Answer) -> io::Result<()> {
    let Answer { status, body, retry_after } = answer;
    let reason = http::StatusCode::from_u16(*status).ok();
    let reason: &'static str =
        reason.as_ref().and_then(http::StatusCode::canonical_reason).unwrap_or("Unknown");
    let challenge = if *status == 401 { "WWW-Authenticate: Bearer\r\n" } else { "" };
    let allow = if *status == 405 { "Allow: POST\r\n" } else { "" };
    let wait = retry_after.map_or_else(String::new, |after| format!("Retry-After: {after}\r\n"));
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n{challenge}{allow}{wait}\r\n",
        body.len()
    );
    io.write_all(head.as_bytes()).await?;
    io.write_all(body.as_bytes()).await?;
    io.flush().await?;
    io.shutdown().await?;
    // With bytes unread the kernel would reset the connection, and the client might never see the answer.
    let mut rest = (&mut *io).take(BODY as u64);
    let mut nowhere = tokio::io::sink();
    let drained = tokio::io::copy(&mut rest, &mut nowhere);
    drop(tokio::time::timeout(LINGER, drained).await);
    Ok(())
}
