//! `durward egress test`: checks that allowed URLs are allowed, denied ones are denied, and the partner sees the right address.
//!
//! The test needs only the variables that programs have, so it runs where they run, for instance as a Job.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::{TcpStream, lookup_host};

use super::proxy::ProxyUrl;
use super::reach::{Client, Reached};
use crate::cli::EgressTest;
use crate::commands::check::report::{Category, Report};
use crate::failure::{Exit, Failure};
use durward_control::source::regular::{self, FileKind};

/// Sends the requests and prints the report.
pub(crate) fn test(arguments: &EgressTest) -> Result<Exit, Failure> {
    let by_proxy =
        !arguments.allowed.is_empty() || !arguments.denied.is_empty() || arguments.echo.is_some();
    if !by_proxy && arguments.direct.is_empty() {
        return Err(Failure::usage(
            "nothing to test: name --allowed, --denied, --echo or --direct",
        ));
    }
    let client = by_proxy.then(|| client(arguments)).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::broken("starting the runtime", error))?;
    let report = runtime.block_on(async {
        let mut categories = Vec::new();
        if let Some(client) = &client {
            categories.push(allowed(client, &arguments.allowed).await);
            categories.push(denied(client, &arguments.denied).await);
            categories.push(echo(client, arguments.echo.as_ref(), &arguments.address).await);
        }
        categories.push(direct(&arguments.direct, arguments.timeout).await);
        Report::new(categories)
    });
    report.print(arguments.output)?;
    Ok(if report.failed() { Exit::FailedCheck } else { Exit::Ok })
}

fn client(arguments: &EgressTest) -> Result<Client, Failure> {
    Ok(Client { proxy: proxy(arguments)?, tls: tls(arguments)?, timeout: arguments.timeout })
}

/// Returns the proxy on the command line, or else that of the environment.
fn proxy(arguments: &EgressTest) -> Result<ProxyUrl, Failure> {
    let named = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let variables = ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"];
    let (source, text) = match &arguments.proxy {
        Some(text) => ("--proxy", text.clone()),
        None => variables.iter().find_map(|name| Some((*name, named(name)?))).ok_or_else(|| {
            Failure::usage("no proxy is named: use --proxy URL, or set https_proxy")
        })?,
    };
    text.parse().map_err(|error| Failure::usage(format!("{source} {error}")))
}

fn tls(arguments: &EgressTest) -> Result<Arc<ClientConfig>, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for path in &arguments.ca {
        let doing = || format!("reading {}", path.display());
        let (_, bundle) = regular::read(path, FileKind::Authorities)
            .map_err(|error| Failure::broken(doing(), error))?;
        let certificates = CertificateDer::pem_slice_iter(&bundle)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Failure::broken(doing(), error))?;
        for certificate in certificates {
            roots.add(certificate).map_err(|error| Failure::broken(doing(), error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::broken("making TLS", error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

async fn allowed(client: &Client, urls: &[Uri]) -> Category {
    let mut category = Category::new("allowed");
    for url in urls {
        match client.get(url).await {
            Reached::Answered(status, _) => category.ok(format!("{url}: answered {status}")),
            Reached::Refused(status, why) => {
                category.error(format!("{url}: refused with {status}"), why);
            }
            Reached::Nothing(why) => {
                category.error(format!("{url}: {why}"), "is the proxy reached from here?");
            }
        }
    }
    category
}

async fn denied(client: &Client, urls: &[Uri]) -> Category {
    let mut category = Category::new("denied");
    for url in urls {
        match client.get(url).await {
            Reached::Refused(403, why) => category.ok(format!("{url}: refused, {why}")),
            Reached::Refused(status, why) => {
                let hint = "only 403 says that the rules deny it";
                category.error(format!("{url}: refused with {status}, {why}"), hint);
            }
            Reached::Answered(status, _) => {
                category.error(
                    format!("{url}: was let through and answered {status}"),
                    "look at the rules: durward explain",
                );
            }
            // The proxy opened a tunnel that then failed, or there is no proxy at all: neither is a denial.
            Reached::Nothing(why) => {
                category.error(
                    format!("{url}: not denied: {why}"),
                    "only 403 says that the rules deny it",
                );
            }
        }
    }
    category
}

async fn echo(client: &Client, url: Option<&Uri>, wanted: &[IpAddr]) -> Category {
    let mut category = Category::new("address");
    let Some(url) = url else { return category };
    match client.get(url).await {
        Reached::Answered(200, body) => match body.parse::<IpAddr>() {
            Ok(seen) if wanted.is_empty() => category.ok(format!("{url} sees {seen}")),
            Ok(seen) if wanted.contains(&seen) => {
                category.ok(format!("{url} sees {seen}, the tenant's own"));
            }
            Ok(seen) => {
                let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
                let sentence = format!("{url} sees {seen} instead of {}", wanted.join(" or "));
                category.error(
                    sentence,
                    "does the request leave through this proxy, and from its tenant's egress address?",
                );
            }
            Err(_) => category.error(
                format!("{url} does not answer with an address"),
                "name one that does, such as https://ifconfig.me/ip",
            ),
        },
        Reached::Answered(status, _) => {
            category
                .error(format!("{url} answered {status}"), "name one that answers with an address");
        }
        Reached::Refused(status, why) => {
            category.error(format!("{url}: refused with {status}"), why);
        }
        Reached::Nothing(why) => {
            category.error(format!("{url}: {why}"), "is the proxy reached from here?");
        }
    }
    category
}

/// Checks that targets cannot be reached without the proxy. Where clients must not reach the proxy itself, the target is the proxy.
async fn direct(targets: &[String], timeout: Duration) -> Category {
    let mut category = Category::new("direct");
    for target in targets {
        match connect(target, timeout).await {
            Tried::Reached(peer) => category.error(
                format!("{target}: reached at {peer} without the proxy"),
                "a network policy or firewall must deny all but the proxy",
            ),
            Tried::Unreachable(error) => {
                category.ok(format!("{target}: not reached without the proxy ({error})"));
            }
            Tried::Unknown(error) => category.warn(
                format!("{target}: cannot be looked up, so nothing was tried ({error})"),
                "name an address and a port",
            ),
        }
    }
    category
}

/// Result of a connection that should be impossible.
enum Tried {
    Reached(SocketAddr),
    Unreachable(String),
    Unknown(String),
}

async fn connect(target: &str, timeout: Duration) -> Tried {
    let peers: Vec<SocketAddr> = match tokio::time::timeout(timeout, lookup_host(target)).await {
        Ok(Ok(peers)) => peers.collect(),
        Ok(Err(error)) => return Tried::Unknown(error.to_string()),
        Err(_) => return Tried::Unknown(format!("no answer within {timeout:?}")),
    };
    let mut last = None;
    for peer in peers {
        match tokio::time::timeout(timeout, TcpStream::connect(peer)).await {
            Ok(Ok(_)) => return Tried::Reached(peer),
            // A reset after the handshake means that the connection was accepted; a port without a listener refuses it.
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset => {
                return Tried::Reached(peer);
            }
            Ok(Err(error)) => last = Some(error.to_string()),
            Err(_) => last = Some(format!("nothing within {timeout:?}")),
        }
    }
    last.map_or_else(|| Tried::Unknown("the name has no address".to_owned()), Tried::Unreachable)
}
