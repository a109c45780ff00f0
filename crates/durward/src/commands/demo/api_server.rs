//! Stand-in for a Kubernetes API server in the demo: it says to each client whom it takes it for, as `kubectl auth whoami` asks.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::bank;
use crate::failure::Failure;
use crate::inspect;

/// Starts an API server whose certificate and clients are of the authority in a directory.
pub(crate) async fn open(
    address: SocketAddr,
    cluster: &Path,
    stopped: CancellationToken,
) -> Result<(), Failure> {
    let config = bank::config(cluster, "server")
        .map_err(|error| Failure::broken("making an API server's TLS", error))?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| Failure::broken(format!("opening an API server at {address}"), error))?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(stopped.run_until_cancelled_owned(accept(listener, acceptor)));
    Ok(())
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let subject = shown.and_then(|der| inspect::facts(der).ok()).map(|facts| facts.subject);
            let service = service_fn(move |_| {
                let answer = answer(subject.as_deref());
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // A client that disconnects is no error in a demo.
            drop(connection.await);
        });
    }
}

fn answer(subject: Option<&str>) -> Response<Full<Bytes>> {
    let user = subject.map_or("system:anonymous", |subject| subject.trim_start_matches("CN="));
    let groups = if subject.is_some() { "system:authenticated" } else { "system:unauthenticated" };
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview",
        "status": {"userInfo": {"username": user, "groups": [groups]}},
    });
    let mut response = Response::new(Full::new(Bytes::from(review.to_string())));
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
