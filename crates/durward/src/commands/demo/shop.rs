//! Tenants' application in the demo: answers with a greeting and the fields in which the gateway describes the client.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// Starts the shop.
pub(crate) async fn open(address: SocketAddr, stopped: CancellationToken) -> Result<(), Failure> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| Failure::broken(format!("opening the shop at {address}"), error))?;
    tokio::spawn(stopped.run_until_cancelled_owned(accept(listener)));
    Ok(())
}

async fn accept(listener: TcpListener) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let service =
            service_fn(move |request| async move { Ok::<_, Infallible>(answer(&request, peer)) });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        // A client that disconnects is no error in a demo.
        tokio::spawn(async move { drop(connection.await) });
    }
}

fn answer(request: &Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
    let told = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned()
    };
    let certificate = if request.headers().contains_key("client-cert") { "shown" } else { "none" };
    let text = format!(
        "shop {}: the gateway came from {}, the client from {}, client certificate {certificate}\n",
        request.uri().path(),
        peer.ip(),
        told("x-forwarded-for"),
    );
    Response::new(Full::new(Bytes::from(text)))
}
