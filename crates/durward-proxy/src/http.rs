//! HTTP from clients to upstreams: HTTP/1.1 and HTTP/2 on either side, one exchange for all four.
//!
//! Deliberately absent: a way for bytes of a head to pass unread. Heads are parsed once and written anew.

mod body;
mod buffer;
mod exchange;
mod fields;
mod flow;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod h1;
mod h2;
mod message;
mod names;
mod parse;
mod problem;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use durward_model::limits::Limits;
use durward_model::listener::{Alpn, HttpService};
use durward_model::{ForwardService, Service};

use crate::core::Core;
use crate::forward::socks;
use crate::http::forward::Texts;
use crate::http::parse::{HeadLimits, Parsed, Progress};

pub(crate) use h2::base64;

use crate::metrics::Cells;
use crate::prepared::TenantView;
use crate::session::{Admitted, ConnectionFacts};

/// What all exchanges of one connection share.
pub(crate) struct Http {
    pub(crate) core: Rc<Core>,
    pub(crate) view: TenantView,
    pub(crate) facts: Rc<ConnectionFacts>,
    texts: Texts,
}

impl Http {
    /// What is served; empty for a listener that is not HTTP, which never gets here.
    fn service(&self) -> Option<&HttpService> {
        match &self.view.listener().service {
            Service::Http(service) => Some(service),
            Service::Forward(_) | Service::PassThrough(_) | Service::Tcp(_) => None,
        }
    }

    /// The forward proxy, on a listener that is one.
    pub(crate) fn outward(&self) -> Option<&ForwardService> {
        match &self.view.listener().service {
            Service::Forward(service) => Some(service),
            Service::Http(_) | Service::PassThrough(_) | Service::Tcp(_) => None,
        }
    }

    /// Whether its clients know that they ask a proxy.
    pub(crate) fn is_asked(&self) -> bool {
        self.outward().is_some_and(|service| service.transparent.is_none())
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.view.tenant().tenant.limits
    }

    pub(crate) fn cells(&self) -> &Cells {
        self.view.tenant().metrics.core(self.core.id)
    }
}

/// Serves an admitted connection until it ends.
pub(crate) async fn serve(admitted: Admitted) {
    let Admitted { io, early, view, facts, watch, core, greeted } = admitted;
    let (trusted, xfcc) = match &view.listener().service {
        Service::Http(service) => {
            (service.trusted_proxies.contains(facts.client.0.ip()), service.identity_headers.xfcc)
        }
        _ => (false, false),
    };
    let texts = Texts::new(&facts, view.listener(), trusted, xfcc);
    let http = Rc::new(Http { core, view, facts, texts });
    if greeted.is_some() {
        return Box::pin(socks::serve(&http, &watch, io, early, greeted)).await;
    }
    if io.alpn() == Some(Alpn::Http2.id()) {
        return Box::pin(h2::server::serve(&http, &watch, io, &early)).await;
    }
    match h1::server::serve(&http, &watch, io, &early).await {
        h1::server::Served::Closed => {}
        h1::server::Served::Socks(io, early) => {
            Box::pin(socks::serve(&http, &watch, io, early, None)).await;
        }
        h1::server::Served::Http2(io, early) => {
            Box::pin(h2::server::serve(&http, &watch, io, &early)).await;
        }
    }
}

/// The `Proxy-Authorization` of the request that `bytes` begin with, empty without one; `None` while its head is incomplete.
///
/// # Errors
/// When it is no request.
pub(crate) fn first_request_authorization(bytes: &[u8]) -> Result<Option<Vec<u8>>, parse::Fault> {
    let limits = HeadLimits { outward: true, ..HeadLimits::RESPONSE };
    let mut request = message::PooledRequest::new();
    Ok(match parse::parse_request(bytes, &mut Progress::default(), limits, &mut request)? {
        Parsed::Incomplete => None,
        Parsed::Head(_) => Some(request.fields.bytes(request.proxy_authorization).to_vec()),
    })
}

/// A new name for a tunnel that no request asks for.
pub(crate) fn new_request_id(core: &Core) -> String {
    forward::RequestId::new(core).as_str().to_owned()
}
