//! Partner of the demo: a bank behind TLS that admits two source addresses only, and answers with the one it saw.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::stage::{ACME, GLOBEX};
use crate::failure::Failure;
use crate::inspect;

/// Requests that the bank has seen.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<IpAddr, u64>>);

impl Ledger {
    /// Returns requests by source address.
    pub(crate) fn seen(&self) -> BTreeMap<IpAddr, u64> {
        self.0.lock().map(|seen| seen.clone()).unwrap_or_default()
    }

    fn note(&self, source: IpAddr) {
        if let Ok(mut seen) = self.0.lock() {
            *seen.entry(source).or_default() += 1;
        }
    }
}

/// Starts the bank.
pub(crate) async fn open(
    address: SocketAddr,
    certificates: &Path,
    stopped: CancellationToken,
) -> Result<Arc<Ledger>, Failure> {
    let config = config(certificates, "bank")
        .map_err(|error| Failure::broken("making the bank's TLS", error))?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| Failure::broken(format!("opening the bank at {address}"), error))?;
    let ledger = Arc::<Ledger>::default();
    tokio::spawn(stopped.run_until_cancelled_owned(accept(
        listener,
        TlsAcceptor::from(Arc::new(config)),
        Arc::clone(&ledger),
    )));
    Ok(ledger)
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, ledger: Arc<Ledger>) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let (acceptor, ledger) = (acceptor.clone(), Arc::clone(&ledger));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let certificate =
                stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let subject =
                certificate.and_then(|der| inspect::facts(der).ok()).map(|facts| facts.subject);
            let service = service_fn(|request| {
                let answer = answer(&request, peer.ip(), subject.as_deref(), &ledger);
                async move { Ok::<_, io::Error>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // A client that disconnects is no error in a demo.
            drop(connection.await);
        });
    }
}

fn answer(
    request: &Request<Incoming>,
    source: IpAddr,
    subject: Option<&str>,
    ledger: &Ledger,
) -> Response<Full<Bytes>> {
    ledger.note(source);
    let (status, text) = if [ACME, GLOBEX].contains(&source) {
        let certificate =
            subject.map(|subject| format!(", client certificate {subject}")).unwrap_or_default();
        (
            StatusCode::OK,
            format!("{} paid: the bank saw {source}{certificate}\n", request.uri().path()),
        )
    } else {
        (
            StatusCode::FORBIDDEN,
            format!("the bank does not know {source}; it admits {ACME} and {GLOBEX}\n"),
        )
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

/// Returns the TLS of a server whose certificate and clients are of one authority.
pub(crate) fn config(
    certificates: &Path,
    stem: &str,
) -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificates.join("ca.crt"))?)?;
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
    let chain = CertificateDer::pem_file_iter(certificates.join(format!("{stem}.crt")))?
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(certificates.join(format!("{stem}.key")))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    Ok(config)
}
