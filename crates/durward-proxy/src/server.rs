//! Client side of HTTP: reads requests over HTTP/1.1 or HTTP/2, one exchange type for both.

mod h1;
mod h2;
mod linger;
mod requests;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use durward_model::server_tls::Alpn;

use crate::admitted::Admitted;
use crate::egress_proxy::socks;
use crate::exchange::{self, Http};
use crate::memory::{ConnectionMemory, Kind};

/// Releases this core's unused memory of exchanges.
pub(crate) fn shrink_pools() {
    h2::shrink_pool();
}

/// Serves an admitted connection until it ends.
pub(crate) async fn serve(admitted: Admitted) {
    let Admitted { io, early, view, facts, watch, core, greeted } = admitted;
    let hold = core.shared.memory.hold(&view.tenant().usage, Kind::Clients);
    let http = Rc::new(Http::new(core, view, facts, (Rc::default(), ConnectionMemory::new(hold))));
    if greeted.is_some() {
        return Box::pin(socks::serve(&http, &watch, io, early, greeted)).await;
    }
    if io.alpn() == Some(Alpn::Http2.id()) {
        return Box::pin(h2::serve(&http, &watch, io, &early)).await;
    }
    match h1::serve(&http, &watch, io, &early).await {
        h1::Served::Closed => {}
        h1::Served::Socks(io, early) => match http.fresh(&watch) {
            Ok(http) => Box::pin(socks::serve(&http, &watch, io, early, None)).await,
            Err(refusal) => exchange::note_refusal(&http, &refusal),
        },
        h1::Served::Http2(io, early) => {
            Box::pin(h2::serve(&http, &watch, io, &early)).await;
        }
    }
}
