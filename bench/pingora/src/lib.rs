//! A reverse proxy on Pingora, for comparison: TLS and plain listeners in front of one HTTP/1.1 origin.
//! It has none of Durward's tenants, limits or logs; whatever it costs is the price of the foundation alone.

use std::net::SocketAddr;
use std::process::exit;

use async_trait::async_trait;
use pingora_core::Result;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

const USAGE: &str =
    "usage: bench-pingora --origin ADDR [--threads N] [--plain ADDR] [--tls ADDR CERT KEY]...";

struct ToOrigin {
    origin: SocketAddr,
}

#[async_trait]
impl ProxyHttp for ToOrigin {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.origin, false, String::new())))
    }
}

struct TlsListener {
    address: String,
    certificate: String,
    key: String,
}

struct Arguments {
    origin: SocketAddr,
    threads: usize,
    plain: Vec<String>,
    tls: Vec<TlsListener>,
}

/// Serves until a signal ends the process.
pub fn run() {
    let Some(arguments) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        exit(2);
    };
    if let Err(error) = serve(&arguments) {
        eprintln!("bench-pingora: {error}");
        exit(1);
    }
}

fn serve(arguments: &Arguments) -> Result<()> {
    let mut server = Server::new_with_opt_and_conf(None, configuration(arguments.threads));
    server.bootstrap();

    let mut proxy =
        http_proxy_service(&server.configuration, ToOrigin { origin: arguments.origin });
    for address in &arguments.plain {
        proxy.add_tcp(address);
    }
    for listener in &arguments.tls {
        let mut settings = TlsSettings::intermediate(&listener.certificate, &listener.key)?;
        settings.enable_h2();
        proxy.add_tls_with_settings(&listener.address, None, settings);
    }

    server.add_service(proxy);
    server.run_forever()
}

/// Work stealing off is the cheapest setting Pingora has for one thread.
fn configuration(threads: usize) -> ServerConf {
    ServerConf {
        threads,
        work_stealing: false,
        upstream_keepalive_pool_size: 1024,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
    let mut origin = None;
    let mut threads = 1;
    let mut plain = Vec::new();
    let mut tls = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--origin" => origin = Some(words.next()?.parse().ok()?),
            "--threads" => threads = words.next()?.parse().ok()?,
            "--plain" => plain.push(words.next()?),
            "--tls" => tls.push(TlsListener {
                address: words.next()?,
                certificate: words.next()?,
                key: words.next()?,
            }),
            _ => return None,
        }
    }
    Some(Arguments { origin: origin?, threads, plain, tls })
}
