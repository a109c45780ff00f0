//! A responder to challenges: a text at one port, certificates at another.

use std::sync::{Arc, Mutex};

use durward_acme::Answer;
use rustls::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::LazyConfigAcceptor;

/// Answers at two ports of 127.0.0.1.
pub(crate) struct Responder {
    pub(crate) http_port: u16,
    pub(crate) tls_port: u16,
    answers: Arc<Mutex<Vec<Answer>>>,
}

impl Responder {
    pub(crate) async fn start() -> Self {
        let (http, tls) = (listener().await, listener().await);
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let (http_port, tls_port) = (port(&http), port(&tls));
        let answers: Arc<Mutex<Vec<Answer>>> = Arc::default();
        tokio::spawn(serve_http(http, Arc::clone(&answers)));
        tokio::spawn(serve_tls(tls, Arc::clone(&answers)));
        Self { http_port, tls_port, answers }
    }

    /// Serves these answers and no others.
    pub(crate) fn serve(&self, answers: &[Answer]) {
        *self.answers.lock().unwrap() = answers.to_vec();
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn serve_http(listener: TcpListener, answers: Arc<Mutex<Vec<Answer>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut head = vec![0; 4096];
        let read = stream.read(&mut head).await.unwrap_or(0);
        let head = String::from_utf8_lossy(&head[..read]).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let found = answers.lock().unwrap().iter().find_map(|answer| match answer {
            Answer::Http { token, text } if path.ends_with(&format!("/{token}")) => {
                Some(text.clone())
            }
            _ => None,
        });
        let (status, text) =
            found.map_or(("404 Not Found", String::new()), |text| ("200 OK", text));
        let length = text.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
        );
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

async fn serve_tls(listener: TcpListener, answers: Arc<Mutex<Vec<Answer>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(start) = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await
        else {
            continue;
        };
        let asked = start.client_hello().server_name().unwrap_or_default().to_owned();
        let config = answers.lock().unwrap().iter().find_map(|answer| match answer {
            Answer::TlsAlpn { server_name, certificate, key } if *server_name == asked => {
                Some(config(certificate, key))
            }
            _ => None,
        });
        if let Some(config) = config {
            let _ = start.into_stream(Arc::new(config)).await;
        }
    }
}

fn config(certificate: &[u8], key: &[u8]) -> ServerConfig {
    let [certificate, key] = [certificate, key].map(<[u8]>::to_vec);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let key = provider.key_provider.load_private_key(key).unwrap();
    // Not `with_single_cert`, which refuses the critical extension of RFC 8737.
    let key = CertifiedKey::new(vec![CertificateDer::from(certificate)], key);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    config
}
