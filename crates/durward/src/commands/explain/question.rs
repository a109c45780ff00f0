//! Builds the question from a command line: the destination, and everything that the client sends.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use durward_model::Snapshot;
use durward_model::explain::Question;

use crate::cli::Explain;
use crate::failure::Failure;

/// Builds the question. A name is resolved unless its address is given; of several addresses one with a listener in `snapshot` is taken.
pub(super) fn question(arguments: &Explain, snapshot: &Snapshot) -> Result<Question, Failure> {
    let target = target(arguments, snapshot)?;
    Ok(Question {
        client: arguments.client,
        destination: target.destination,
        transport: arguments.protocol.into(),
        sni: arguments.sni.clone().or(target.sni).map(|name| name.to_ascii_lowercase()),
        host: arguments.host.clone().or(target.host),
        path: arguments.path.clone().or(target.path).unwrap_or_else(|| "/".to_owned()),
        method: arguments.method.clone(),
        headers: arguments.headers.clone(),
        client_certificate: arguments.client_cert.clone().unwrap_or_default(),
        credential: arguments.credential.clone().unwrap_or_default(),
        resolved: target.resolved,
    })
}

/// Parts of the positional argument.
#[derive(Debug, Default, PartialEq, Eq)]
struct Url {
    port: u16,
    host: String,
    path: Option<String>,
    tls: bool,
}

struct Target {
    destination: SocketAddr,
    sni: Option<String>,
    host: Option<String>,
    path: Option<String>,
    /// Address of the name in `--host`.
    resolved: Option<IpAddr>,
}

fn target(arguments: &Explain, snapshot: &Snapshot) -> Result<Target, Failure> {
    if let Ok(destination) = arguments.destination.parse() {
        let resolved = arguments.address;
        if resolved.is_some() && arguments.host.is_none() && arguments.sni.is_none() {
            return Err(Failure::usage("--address says what a name stands for: say which, --host"));
        }
        return Ok(Target { destination, sni: None, host: None, path: None, resolved });
    }
    let url = parse_url(&arguments.destination)?;
    let literal = url.host.parse::<IpAddr>().ok();
    let ip = match arguments.address.or(literal) {
        Some(ip) => ip,
        None => look_up(&url, snapshot)?,
    };
    Ok(Target {
        destination: SocketAddr::new(ip, url.port),
        sni: (url.tls && literal.is_none()).then(|| url.host.clone()),
        host: Some(url.host),
        path: url.path,
        resolved: None,
    })
}

fn parse_url(text: &str) -> Result<Url, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "{text:?} is neither ADDRESS:PORT (198.51.100.2:443, [2001:db8::1]:443) nor a URL (https://198.51.100.2/pay)"
        ))
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let (tls, default_port) = match scheme {
        "https" => (true, 443),
        "http" => (false, 80),
        _ => return Err(wrong()),
    };
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) => (&rest[..at], Some(&rest[at..])),
        None => (rest, None),
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
        _ => (authority, default_port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    if host.is_empty() {
        return Err(wrong());
    }
    Ok(Url { port, host, path: path.map(str::to_owned), tls })
}

/// Resolves a name: to the first address that has a listener, or else to the first one.
fn look_up(url: &Url, snapshot: &Snapshot) -> Result<IpAddr, Failure> {
    let found = (url.host.as_str(), url.port).to_socket_addrs().map_err(|error| {
        let message = format!(
            "{} cannot be looked up ({error}); give its address with --address IP",
            url.host
        );
        Failure::Unreachable { message }
    })?;
    let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    let ours = |ip: &&IpAddr| {
        let listeners = snapshot.tenants.values().flat_map(|tenant| &tenant.listeners);
        listeners.into_iter().any(|listener| listener.address.0 == **ip)
    };
    let chosen = addresses.iter().find(ours).or_else(|| addresses.first());
    chosen.copied().ok_or_else(|| Failure::Unreachable {
        message: format!("{} has no address; say one with --address IP", url.host),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_address_port_host_and_path() {
        let cases = [
            ("https://198.51.100.2/pay?a=1", ("198.51.100.2", 443, Some("/pay?a=1"), true)),
            ("http://[2001:db8::1]:8080", ("2001:db8::1", 8080, None, false)),
            ("https://[2001:db8::1]/", ("2001:db8::1", 443, Some("/"), true)),
            ("https://Pay.Example:8443/x", ("pay.example", 8443, Some("/x"), true)),
        ];

        for (text, (host, port, path, tls)) in cases {
            let url = parse_url(text).unwrap();
            assert_eq!(
                (url.host.as_str(), url.port, url.path.as_deref(), url.tls),
                (host, port, path, tls),
                "{text}"
            );
        }
        for junk in ["198.51.100.2", "ftp://x/", "https://", "https://a:b/"] {
            assert!(parse_url(junk).is_err(), "{junk}");
        }
    }
}
