//! Handling of one parsed request: answered here, or passed to the route's upstream or to the forward proxy.

use std::future::poll_fn;
use std::time::Duration;

use crate::egress_proxy;
use crate::exchange::request::{self as routed, Plan};
use crate::exchange::{self, Account, Ended, Http, Stop, Way};
use crate::http::flow::{BodyCopy, Downstream, PollBody};
use crate::http::message::{Framing, PooledRequest, PooledResponse, Request};
use crate::http::problem::{Answer, is_grpc};
use crate::refusal::Refusal;
use crate::watch::{Expired, Watch};

/// Time for the client to read an answer made here.
const ANSWER: Duration = Duration::from_secs(10);
/// Largest request body that is read before an answer made here, to keep the connection, and the time for that.
const SMALL_BODY: (u64, Duration) = (64 * 1024, Duration::from_secs(1));

/// Serves one request.
pub(crate) async fn run<'a, D: Downstream>(
    http: &'a Http,
    watch: &Watch,
    down: &mut D,
    request: PooledRequest,
) -> Ended<'a> {
    let mut account = Account::open(http, request);
    let mut response = PooledResponse::new();
    let served = match account.hold_request() {
        Ok(()) => serve(http, watch, down, &mut account, &mut response).await,
        Err(refusal) => Err(Stop::Refuse(refusal)),
    };
    let ended = match served {
        Ok(ended) => ended,
        Err(Stop::Refuse(refusal)) => {
            // A request that breaks one rule may break another that we do not detect (request smuggling).
            account.request.keep_alive &=
                !matches!(refusal, Refusal::BadRequest { .. } | Refusal::ClientTimeout { .. });
            let answer = refusal_answer(&account.request, &refusal, None, account.id.as_str());
            account.refusal = Some(refusal);
            answer_here(watch, down, &mut account, &mut response, &answer).await
        }
        Err(Stop::Break(refusal)) => {
            account.refusal = Some(refusal);
            Ended::Broken
        }
    };
    if let Ended::Upgraded(mut switched) = ended {
        switched.account = Some(account.upgrade(down.traffic()));
        return Ended::Upgraded(switched);
    }
    account.close(down.traffic());
    ended
}

/// Answers that the bytes are no request.
pub(crate) async fn refuse<D: Downstream>(
    http: &Http,
    watch: &Watch,
    down: &mut D,
    mut request: PooledRequest,
    refusal: Refusal,
    status: Option<u16>,
) {
    request.keep_alive = false;
    request.framing = Framing::None;
    let mut account = Account::open(http, request);
    let answer = refusal_answer(&account.request, &refusal, status, account.id.as_str());
    account.refusal = Some(refusal);
    // A client that does not read the answer must not keep an oversized head in memory.
    account.forget_request();
    let mut response = PooledResponse::new();
    answer_here(watch, down, &mut account, &mut response, &answer).await;
    account.close(down.traffic());
}

fn refusal_answer(request: &Request, refusal: &Refusal, status: Option<u16>, id: &str) -> Answer {
    let answer = Answer::refusal(refusal, status, id);
    if is_grpc(request) { answer.for_grpc(refusal) } else { answer }
}

async fn serve<'a, D: Downstream>(
    http: &'a Http,
    watch: &Watch,
    down: &mut D,
    account: &mut Account<'a>,
    response: &mut PooledResponse,
) -> Result<Ended<'a>, Stop> {
    if let Some(service) = http.outward() {
        return egress_proxy::serve(http, watch, down, account, response, service).await;
    }
    let (id, chain) = (account.id, account.chain);
    // Before routes and redirects: the authority compares the text it finds here.
    if let Some(answer) = challenge(http, &account.request) {
        return Ok(answer_here(watch, down, account, response, &answer).await);
    }
    let plan = match routed::plan(http, &mut account.request, &chain, &id) {
        Ok((plan, route, path)) => {
            account.note_route(route, path);
            plan
        }
        Err(refusal) => {
            // These are refused before routing, but the response carries the route's fields all the same.
            if matches!(refusal, Refusal::RateLimit { .. } | Refusal::BodyTooLarge)
                && let Some((route, path)) = routed::locate(http, &mut account.request, &chain)
            {
                account.note_route(route, path);
            }
            return Err(Stop::Refuse(refusal));
        }
    };
    if watch.closing() {
        account.request.keep_alive = false;
    }
    match plan {
        Plan::Forward(forward, upstream) => {
            let way = Way::Upstream(forward, upstream);
            exchange::forward(http, watch, down, account, response, way).await
        }
        Plan::Answer(answer) => Ok(answer_here(watch, down, account, response, &answer).await),
    }
}

/// Returns the answer to a request for the text of an ACME challenge.
fn challenge(http: &Http, request: &Request) -> Option<Answer> {
    let acme = &http.view.listener().acme;
    if acme.answers.is_empty() || !request.query.is_empty() {
        return None;
    }
    acme.http_answer(request.method(), request.path()).map(|text| Answer::text(200, text))
}

/// Writes an answer made here.
async fn answer_here<'a, D: Downstream>(
    watch: &Watch,
    down: &mut D,
    account: &mut Account<'a>,
    response: &mut PooledResponse,
    answer: &Answer,
) -> Ended<'a> {
    if !down.is_read() {
        let request = &mut account.request;
        let small = matches!(request.framing, Framing::Length(length) if length <= SMALL_BODY.0);
        // A client that waits for 100 Continue sends no body, so nothing would be read.
        if small && !request.expects_continue && request.keep_alive {
            discard(watch, down).await;
        }
        request.keep_alive &= down.is_read();
    }
    watch.arm(Some(ANSWER), false);
    let request = &account.request;
    answer.write(response);
    if let Some(rules) = account.response_rules() {
        routed::rewrite(&mut response.fields, rules);
    }
    account.status = answer.status;
    let mut body = answer.body(request);
    if down.head(request, response).is_err() {
        return Ended::Broken;
    }
    let mut copy = BodyCopy::default();
    let sent = watch.guard(poll_fn(|cx| copy.poll(cx, &mut body, down, &|_| None))).await;
    match sent {
        Ok(Ok(())) if down.is_read() => Ended::Complete,
        Ok(Ok(())) => Ended::Unread,
        Ok(Err(_)) | Err(Expired::Deadline | Expired::Closing) => Ended::Broken,
    }
}

/// Reads and discards the rest of a small body.
async fn discard<D: Downstream>(watch: &Watch, down: &mut D) {
    let all = poll_fn(|cx| {
        while let std::task::Poll::Ready(filled) = down.poll_fill(cx) {
            match filled {
                Ok(PollBody::Data) => down.consume(down.data().len()),
                Ok(PollBody::End) | Err(_) => return std::task::Poll::Ready(()),
            }
        }
        std::task::Poll::Pending
    });
    watch.arm(Some(SMALL_BODY.1), false);
    let _ = watch.guard(all).await;
}
