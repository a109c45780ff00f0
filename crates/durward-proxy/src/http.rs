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

use durward_model::Service;
use durward_model::limits::Limits;
use durward_model::listener::{Alpn, HttpService};

use crate::core::Core;
use crate::http::forward::Texts;
use crate::metrics::Cells;
use crate::prepared::TenantView;
use crate::session::{Admitted, ConnectionFacts};

/// What all exchanges of one connection share.
pub(crate) struct Http {
    core: Rc<Core>,
    view: TenantView,
    facts: Rc<ConnectionFacts>,
    texts: Texts,
}

impl Http {
    /// What is served; empty for a listener that is not HTTP, which never gets here.
    fn service(&self) -> Option<&HttpService> {
        match &self.view.listener().service {
            Service::Http(service) => Some(service),
            Service::PassThrough(_) | Service::Tcp(_) => None,
        }
    }

    fn limits(&self) -> &Limits {
        &self.view.tenant().tenant.limits
    }

    fn cells(&self) -> &Cells {
        self.view.tenant().metrics.core(self.core.id)
    }
}

/// Serves an admitted connection until it ends.
pub(crate) async fn serve(admitted: Admitted) {
    let Admitted { io, early, view, facts, watch, core } = admitted;
    let Service::Http(service) = &view.listener().service else { return };
    let trusted = service.trusted_proxies.contains(facts.client.0.ip());
    let texts = Texts::new(&facts, view.listener(), trusted, service.identity_headers.xfcc);
    let http = Rc::new(Http { core, view, facts, texts });
    if io.alpn() == Some(Alpn::Http2.id()) {
        return Box::pin(h2::server::serve(&http, &watch, io, &early)).await;
    }
    match h1::server::serve(&http, &watch, io, &early).await {
        h1::server::Served::Closed => {}
        h1::server::Served::Http2(io, early) => {
            Box::pin(h2::server::serve(&http, &watch, io, &early)).await;
        }
    }
}
