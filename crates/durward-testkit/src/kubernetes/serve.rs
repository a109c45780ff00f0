//! From a request to its answer: who, whether they may, faults on request, and what is done.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::Value;

use super::failure::Failure;
use super::faults::Fault;
use super::request::{Call, Target, User};
use super::state::State;
use super::write::Answer;
use super::{Shared, auth, delete, discovery, rbac, read, review, watch, write};

/// Body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers one request.
pub(crate) async fn respond(
    shared: &Arc<Shared>,
    peer: &User,
    request: Request<Incoming>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let call = match identify(shared, peer, &head, body) {
        Ok(call) => call,
        Err(failure) => return failed(shared, &failure),
    };
    shared.hangs_over().await;
    let fault = shared.faults().take(&call);
    match fault {
        None => {}
        Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Unavailable) => {
            shared.counters().record(&call, 503, false);
            return plain(503, "upstream connect error");
        }
        Some(fault) => {
            let failure = failure_of(&fault, &call);
            shared.counters().record(&call, failure.code, false);
            return failed(shared, &failure);
        }
    }
    if call.verb == "watch" {
        return begin_watch(shared, &call);
    }
    let result = answer(shared, &call);
    let (code, changed) = match &result {
        Ok(answer) => (answer.code, answer.changed),
        Err(failure) => (failure.code, false),
    };
    shared.counters().record(&call, code, changed);
    match result {
        Ok(answer) => succeeded(shared, answer),
        Err(failure) => failed(shared, &failure),
    }
}

fn identify(shared: &Shared, peer: &User, head: &Parts, body: Bytes) -> Result<Call, Failure> {
    let user = shared.auth().user(&head.headers, peer)?;
    let user = auth::impersonated(&shared.state(), &head.headers, user)?;
    Ok(Call::new(head, body, user))
}

fn failure_of(fault: &Fault, call: &Call) -> Failure {
    let target = call.target.clone().unwrap_or_default();
    match fault {
        Fault::TooManyRequests(seconds) => Failure::too_many_requests(*seconds),
        Fault::Conflict => Failure::stale(&target.resource, &target.name),
        Fault::Gone => Failure::expired("too old resource version: 1 (2)"),
        _ => Failure::internal("a fault was asked for"),
    }
}

fn begin_watch(shared: &Arc<Shared>, call: &Call) -> Response<Body> {
    let started = {
        let place = {
            let state = shared.state();
            rbac::authorize(&state, call).and_then(|()| {
                let target = call.target.clone().unwrap_or_default();
                // A watch of one object is a watch of the kind, limited to its name.
                state.place(&target)
            })
        };
        place.and_then(|place| watch::start(shared, call, &place))
    };
    let code = started.as_ref().map_or_else(|failure| failure.code, |_| 200);
    shared.counters().record(call, code, false);
    match started {
        Err(failure) => failed(shared, &failure),
        Ok(feed) => respond_with(shared, 200, StreamBody::new(feed).boxed_unsync()),
    }
}

/// Does what a request asks for.
fn answer(shared: &Shared, call: &Call) -> Result<Answer, Failure> {
    let mut state = shared.state();
    rbac::authorize(&state, call)?;
    let is_health = matches!(call.path.as_str(), "/healthz" | "/livez" | "/readyz");
    if is_health {
        return Ok(Answer { code: 200, body: "ok".into(), ..Answer::default() });
    }
    if let Some(review) = review::answer(&state, call) {
        return Ok(document(&review?, 201));
    }
    if let Some(list) = discovery::resources(&state, &call.path) {
        return Ok(document(&list, 200));
    }
    let Some(target) = &call.target else {
        let aggregated = discovery::wants_aggregated(&state, call);
        let content_type = if aggregated { Some(discovery::AGGREGATED) } else { None };
        let answer = discovery::answer(&state, call)?;
        return Ok(Answer { content_type, ..document(&answer, 200) });
    };
    on_resource(shared, &mut state, call, target)
}

/// Answer with a document that is no object.
fn document(value: &Value, code: u16) -> Answer {
    Answer { code, body: value.to_string().into(), ..Answer::default() }
}

/// Does what a request to a resource asks for.
fn on_resource(
    shared: &Shared,
    state: &mut State,
    call: &Call,
    target: &Target,
) -> Result<Answer, Failure> {
    // A built-in group answers what it does not have in its own way.
    let is_custom = |group: &str| group.contains('.') && !group.ends_with(".k8s.io");
    let place = state.place(target).map_err(|failure| {
        let group = &target.resource.group;
        let is_known = state.kinds().any(|kind| kind.resource.group == *group);
        if is_known && !is_custom(group) { Failure::no_such_resource() } else { failure }
    })?;
    let is_token =
        target.resource.to_string() == "serviceaccounts" && target.subresource == "token";
    if is_token && call.verb == "create" {
        let token = review::token(state, &mut shared.auth(), call)?;
        return Ok(document(&token, 201));
    }
    let is_known = match target.subresource.as_str() {
        "" => true,
        "status" => place.version.status,
        _ => false,
    };
    if !is_known {
        return Err(Failure::no_such_resource());
    }
    match (call.verb, target.subresource.as_str()) {
        ("get", _) => read::get(state, call, &place).map(|body| Answer {
            code: 200,
            body,
            ..Answer::default()
        }),
        ("list", _) => read::list(state, call, &place).map(|body| Answer {
            code: 200,
            body,
            ..Answer::default()
        }),
        ("create", "") if target.name.is_empty() => write::create(state, call, &place),
        ("update", _) => write::replace(state, call, &place),
        ("patch", _) => write::patch(state, call, &place),
        ("delete", "") => delete::delete(state, call, &place),
        ("deletecollection", "") => delete::delete_collection(state, call, &place),
        _ => Err(Failure::method_not_allowed()),
    }
}

fn succeeded(shared: &Shared, answer: Answer) -> Response<Body> {
    let mut response = respond_with(shared, answer.code, Full::new(answer.body).boxed_unsync());
    if let Some(content_type) = answer.content_type {
        let value = HeaderValue::from_static(content_type);
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    for warning in answer.warnings {
        let text = format!("299 - {:?}", warning);
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

fn failed(shared: &Shared, failure: &Failure) -> Response<Body> {
    if failure.is_plain_text {
        return plain(failure.code, &failure.message);
    }
    let body = Bytes::from(failure.status().to_string());
    let mut response = respond_with(shared, failure.code, Full::new(body).boxed_unsync());
    if let Some(seconds) = failure.retry_after_seconds() {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn respond_with(shared: &Shared, code: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).expect("an answer has a status of HTTP");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("audit-id", HeaderValue::from_static("double"));
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&shared.state().time());
    if let Some(value) = date.ok().and_then(|date| HeaderValue::from_str(&date).ok()) {
        headers.insert(header::DATE, value);
    }
    response
}

fn plain(code: u16, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("{text}\n"))).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).expect("an answer has a status of HTTP");
    let value = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}
