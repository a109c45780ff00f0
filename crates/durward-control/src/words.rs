//! Words of documents become values: addresses, networks, host names, header names and values, paths.
//!
//! Whatever reaches a socket later is checked here against its grammar, so that no text of a document can forge a header, a line or a
//! name. Deliberately absent: findings; each function says in a sentence what is wrong, the caller says where.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use durward_model::route::HostPattern;
use durward_model::upstream::Target;
use durward_model::{ResourceId, path};
use ipnet::IpNet;

use crate::quantity;

/// Parses the address of a host: not unspecified, not multicast, not broadcast. An IPv4-mapped one is the IPv4 one.
pub(crate) fn address(text: &str) -> Result<IpAddr, String> {
    let address = local_address(text)?;
    if address.is_unspecified() {
        return Err("means every address of the host, not one of a tenant".to_owned());
    }
    if address.is_multicast() || address == IpAddr::from([255, 255, 255, 255]) {
        return Err("is a multicast or broadcast address".to_owned());
    }
    Ok(address)
}

/// Any IP address.
pub(crate) fn local_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse()
        .map(|address: IpAddr| address.to_canonical())
        .map_err(|_| "is not an IP address".to_owned())
}

/// A block of addresses, `192.0.2.0/24`, or one address.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let one = text.parse().map(|address: IpAddr| IpNet::from(address.to_canonical()));
    text.parse::<IpNet>().or(one).map_err(|_| {
        "is not a network: write a CIDR block like 192.0.2.0/24 or an address".to_owned()
    })
}

/// A host name: labels of letters, digits, `-` and `_`; lower case, without trailing dot. Or an IP address, as it is compared.
pub(crate) fn host(text: &str) -> Result<Arc<str>, String> {
    if let Ok(address) = local_address(text) {
        return Ok(Arc::from(address.to_string()));
    }
    host_name(text)
}

/// A host name that is no address.
pub(crate) fn host_name(text: &str) -> Result<Arc<str>, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.is_empty() || name.len() > 253 || !name.split('.').all(label) {
        return Err(
            "is not a host name: use labels of letters, digits and '-', joined by dots".to_owned()
        );
    }
    let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = name.split('.').filter(|label| numeric(label)).count();
    // `10.0.0.300` and `10.0.0.x` are slips in an address, not names.
    if numeric(name.rsplit('.').next().unwrap_or(name)) || numbers >= 3 {
        return Err("is neither an IP address nor a host name".to_owned());
    }
    Ok(Arc::from(name.to_ascii_lowercase()))
}

/// A host name, an IP address, or `*.` and a host name.
pub(crate) fn host_pattern(text: &str) -> Result<HostPattern, String> {
    match text.strip_prefix("*.") {
        Some(parent) => host_name(parent).map(HostPattern::Wildcard),
        None if text.contains('*') => {
            Err("has a wildcard that is not its whole first label: write *.example.com".to_owned())
        }
        None => host(text).map(HostPattern::Exact),
    }
}

/// A host name or a wildcard that routes are registered for; no address, which names no host.
pub(crate) fn route_host(text: &str) -> Result<HostPattern, String> {
    match host_pattern(text)? {
        HostPattern::Exact(_) if address(text).is_ok() => {
            Err("is an address: write a host name".to_owned())
        }
        pattern => Ok(pattern),
    }
}

/// A name of an upstream.
pub(crate) fn upstream_name(text: &str) -> Result<(), String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=63).contains(&text.len()) && text.bytes().all(inner) {
        Ok(())
    } else {
        Err("is not a name of an upstream: use 1 to 63 letters, digits, '-', '_' or '.'".to_owned())
    }
}

/// A host, with or without a port, as sent in `Host`.
pub(crate) fn authority(text: &str) -> Result<Arc<str>, String> {
    let (name, _port) = split_port(text)?;
    host(name).map(|_| Arc::from(text))
}

/// An endpoint: an address or name, with or without a port.
pub(crate) fn endpoint(text: &str, default_port: Option<u16>) -> Result<Target, String> {
    let (name, port) = split_port(text)?;
    let Some(port) = port.or(default_port) else {
        return Err(
            "names no port: write it behind a colon, or `port:` for all endpoints".to_owned()
        );
    };
    if let Ok(ip) = local_address(name) {
        let ip = address(&ip.to_string())?;
        return Ok(Target::Address(SocketAddr::new(ip, port)));
    }
    let host = host_name(name).map_err(|_| {
        "is not an endpoint: write an address or host name and a port, like 10.0.0.1:8080 or pay.internal:8080"
            .to_owned()
    })?;
    Ok(Target::Name { host, port })
}

/// The address of an endpoint, with or without a port. Names are not looked up for the kernel.
pub(crate) fn endpoint_address(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let (name, port) = split_port(text)?;
    let ip = local_address(name).map_err(|_| {
        "is not the address of an endpoint: write an IP address with or without a port, like 10.0.0.1:8080"
            .to_owned()
    })?;
    forwarded(address(&ip.to_string())?).map(|ip| (ip, port))
}

/// An address that the kernel can forward packets to: none of the host itself, of one link, or of a block that is not in use.
fn forwarded(address: IpAddr) -> Result<IpAddr, String> {
    let (own_or_reserved, link_local) = match address {
        IpAddr::V4(ip) => {
            let first = ip.octets()[0];
            (first == 0 || first == 127 || first >= 240, ip.is_link_local())
        }
        IpAddr::V6(ip) => (ip.is_loopback(), ip.is_unicast_link_local()),
    };
    if own_or_reserved {
        return Err("is a loopback or reserved address, to which the kernel forwards nothing: write the address of a pod or host".to_owned());
    }
    if link_local {
        return Err("is a link-local address, which is not forwarded to: write the address of a pod or host that is routed".to_owned());
    }
    Ok(address)
}

/// A name of an object, as Kubernetes would have it: RFC 1123, with dots.
pub(crate) fn object_name(text: &str) -> Result<Arc<str>, String> {
    if ResourceId::is_name(text) {
        Ok(Arc::from(text))
    } else {
        Err("is not a name: use up to 253 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit".to_owned())
    }
}

/// `host:port`, `[v6]:port`, `v6` or `host`.
fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text, None));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !text.ends_with(']') => (name, port),
        _ => return Ok((text, None)),
    };
    match port.parse() {
        Ok(0) | Err(_) => Err(format!("has {port:?} where a port from 1 to 65535 is expected")),
        Ok(port) => Ok((name, Some(port))),
    }
}

/// A duration.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    quantity::duration(text).map_err(|fault| strip_quoted(&fault.to_string()))
}

/// A size in bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    quantity::size(text).map_err(|fault| strip_quoted(&fault.to_string()))
}

/// A rate in bytes per second.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    quantity::rate(text).map_err(|fault| strip_quoted(&fault.to_string()))
}

/// A message without the quotation it begins with; whoever prints it quotes the text already.
fn strip_quoted(message: &str) -> String {
    message.find("\" ").map_or_else(|| message.to_owned(), |at| message[at + 2..].to_owned())
}

/// A header name (RFC 9110 token), lower case.
pub(crate) fn header_name(text: &str) -> Result<Arc<str>, String> {
    if is_token(text) && text.len() <= 256 {
        Ok(Arc::from(text.to_ascii_lowercase()))
    } else {
        Err("is not a header name: use letters, digits and '-'".to_owned())
    }
}

/// A header value: printable ASCII and tabs inside, so no line can be forged with it.
pub(crate) fn header_value(text: &str) -> Result<Arc<str>, String> {
    if text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Err("has a line break or NUL in it, which would forge header lines".to_owned());
    }
    if text.bytes().any(|byte| byte != b'\t' && !(0x20..0x7f).contains(&byte)) {
        return Err(
            "has a character that header values cannot carry: use printable ASCII".to_owned()
        );
    }
    if text.trim() != text {
        return Err("begins or ends with a space, which receivers strip".to_owned());
    }
    if text.len() > 8192 {
        return Err("is longer than 8 KiB".to_owned());
    }
    Ok(Arc::from(text))
}

/// A method (RFC 9110 token), in capitals.
pub(crate) fn method(text: &str) -> Result<Arc<str>, String> {
    if !is_token(text) {
        return Err("is not a method".to_owned());
    }
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(format!(
            "is not a method: methods are in capitals, {}",
            text.to_ascii_uppercase()
        ));
    }
    Ok(Arc::from(text))
}

fn is_token(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}

/// A path as requests are matched: normalised, without query.
pub(crate) fn exact_path(text: &str) -> Result<Arc<str>, String> {
    if text.contains(['?', '#']) {
        return Err("has a query or fragment; routes look at the path only".to_owned());
    }
    path::normalise(text).map(Arc::from).map_err(|fault| format!("is not a path: {fault}"))
}

/// A prefix as requests are matched: normalised, without trailing slash.
pub(crate) fn path_prefix(text: &str) -> Result<Arc<str>, String> {
    let path = exact_path(text)?;
    Ok(path.strip_suffix('/').map_or_else(|| Arc::clone(&path), Arc::from))
}

/// A path with or without a query, as sent.
pub(crate) fn origin_form(text: &str) -> Result<Arc<str>, String> {
    let printable = text.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'#');
    if text.starts_with('/') && printable {
        Ok(Arc::from(text))
    } else {
        Err("is not a path: begin with a slash and use printable ASCII without spaces".to_owned())
    }
}

/// A status or a range of them.
pub(crate) fn status_range(text: &str) -> Result<(u16, u16), String> {
    let fault = || "is not a status or range of them: write 200 or 200-299".to_owned();
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let status =
        |part: &str| part.trim().parse::<u16>().ok().filter(|status| (100..=599).contains(status));
    match (status(from), status(to)) {
        (Some(from), Some(to)) if from <= to => Ok((from, to)),
        _ => Err(fault()),
    }
}

/// A moment in RFC 3339 as Kubernetes writes it, `2025-01-31T12:00:00Z`: such texts sort by time.
pub(crate) fn moment(text: &str) -> Result<Arc<str>, String> {
    const SHAPE: &[u8; 20] = b"0000-00-00T00:00:00Z";
    let fits = |(byte, shape): (u8, &u8)| {
        if *shape == b'0' { byte.is_ascii_digit() } else { byte == *shape }
    };
    if text.len() == SHAPE.len() && text.bytes().zip(SHAPE).all(fits) {
        Ok(Arc::from(text))
    } else {
        Err("is not a time: write RFC 3339 in UTC, like 2025-01-31T12:00:00Z".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_would_forge_lines_are_refused() {
        for bad in ["a\r\nX-Evil: 1", "a\nb", "a\0b", " a", "a ", "\u{e9}", "a\u{7f}"] {
            assert!(header_value(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "x y", "x:y", "x\r\n", "\u{e9}", "(x)"] {
            assert!(header_name(bad).is_err(), "{bad:?}");
        }
        for bad in ["/a b", "/a\r\nX: 1", "a", "/a#b", ""] {
            assert!(origin_form(bad).is_err(), "{bad:?}");
        }
        assert_eq!(&*header_value("max-age=1; x\ty").unwrap(), "max-age=1; x\ty");
    }

    #[test]
    fn hosts_are_names_or_addresses_in_one_form() {
        assert_eq!(&*host("Example.COM.").unwrap(), "example.com");
        assert_eq!(&*host("[2001:DB8::1]").unwrap(), "2001:db8::1");
        assert_eq!(host_pattern("*.a.example"), Ok(HostPattern::Wildcard(Arc::from("a.example"))));
        for bad in [
            "",
            ".",
            "a..b",
            "-a.b",
            "a_b.-",
            "*.",
            "a.*.b",
            "a*b",
            "a b",
            "a\r\nb",
            "10.0.0.256",
            "10.0.0.x",
            "a/b",
            "a:b@c",
        ] {
            assert!(host_pattern(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_endpoint_of_a_mapping_is_an_address_that_can_be_forwarded_to() {
        for good in ["10.0.0.1", "1.0.0.1:80", "223.255.255.255", "[fd00::1]:80", "169.253.0.1"] {
            assert!(endpoint_address(good).is_ok(), "{good}");
        }
        for bad in [
            "127.0.0.1:80",
            "127.255.0.1",
            "0.0.0.0",
            "0.1.2.3:80",
            "240.0.0.1",
            "255.255.255.254:1",
            "169.254.169.254:80",
            "::1",
            "[::1]:80",
            "::ffff:127.0.0.1",
            "[fe80::1]:80",
            "febf::1",
        ] {
            assert!(endpoint_address(bad).is_err(), "{bad}");
        }
        // The proxy dials from the host itself.
        assert!(endpoint("127.0.0.1:80", None).is_ok());
    }

    #[test]
    fn endpoints_have_a_port_from_somewhere() {
        let target = |text: &str| endpoint(text, Some(80)).map(|target| target.to_string());

        assert_eq!(target("10.244.1.5"), Ok("10.244.1.5:80".to_owned()));
        assert_eq!(target("10.244.1.5:8080"), Ok("10.244.1.5:8080".to_owned()));
        assert_eq!(target("2001:db8::1"), Ok("[2001:db8::1]:80".to_owned()));
        assert_eq!(target("[2001:db8::1]:8080"), Ok("[2001:db8::1]:8080".to_owned()));
        assert_eq!(target("[2001:db8::1]"), Ok("[2001:db8::1]:80".to_owned()));
        assert_eq!(target("Pay.internal"), Ok("pay.internal:80".to_owned()));
        assert!(endpoint("10.0.0.1", None).is_err());
        for bad in [
            "",
            ":80",
            "10.0.0.1:0",
            "10.0.0.1:70000",
            "http://a",
            "a b:1",
            "0.0.0.0:80",
            "a:80:80",
            "10.0.0.256",
        ] {
            assert!(target(bad).is_err(), "{bad:?}");
        }
    }
}
