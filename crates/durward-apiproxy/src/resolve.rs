//! Addresses of a gateway: by host alias, else the internal endpoint, else DNS.
//!
//! A proxy that starts before the cluster's DNS does needs the first two; a name server that is away costs nothing of what is known already.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::settings::{Malformed, Target};

/// Destination of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// An address that is connected to.
    Direct(SocketAddr),
    /// A host that the network's HTTP proxy connects to.
    Proxied(Target),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct(address) => address.fmt(f),
            Self::Proxied(target) => target.fmt(f),
        }
    }
}

/// Name resolution.
#[derive(Clone, Debug, Default)]
pub struct Resolution {
    /// Addresses of names, as in a pod's `hostAliases`.
    pub host_aliases: BTreeMap<String, Vec<IpAddr>>,
    /// Gateway as it is reached from inside, in place of what DNS says.
    pub internal_endpoint: Option<Target>,
}

impl Resolution {
    /// Returns the endpoints of `target` in the order in which they are tried. With `proxied` they are reached through the network's HTTP proxy, and a name that needs DNS
    /// is left to it.
    ///
    /// # Errors
    /// Fails if DNS is needed and has no answer.
    pub async fn endpoints(&self, target: &Target, proxied: bool) -> io::Result<Vec<Endpoint>> {
        if let Some(known) = self.without_dns(target) {
            let endpoint = |address: SocketAddr| match proxied {
                true => Endpoint::Proxied(address.into()),
                false => Endpoint::Direct(address),
            };
            return Ok(known.into_iter().map(endpoint).collect());
        }
        // An internal endpoint may be a name of its own.
        let looked_up = self.internal_endpoint.as_ref().unwrap_or(target);
        if proxied {
            return Ok(vec![Endpoint::Proxied(looked_up.clone())]);
        }
        let found = tokio::net::lookup_host((looked_up.host.as_str(), looked_up.port)).await?;
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for address in found.map(Endpoint::Direct) {
            if !endpoints.contains(&address) {
                endpoints.push(address);
            }
        }
        if endpoints.is_empty() {
            let message = format!("{} has no address", looked_up.host);
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        Ok(endpoints)
    }

    /// Returns what is known of `target` without DNS.
    fn without_dns(&self, target: &Target) -> Option<Vec<SocketAddr>> {
        let addresses =
            |ips: &[IpAddr], port| ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        if let Some(ip) = target.ip() {
            return Some(addresses(&[ip], target.port));
        }
        if let Some(ips) = self.host_aliases.get(&target.host) {
            return Some(addresses(ips, target.port));
        }
        let inside = self.internal_endpoint.as_ref()?;
        if let Some(ip) = inside.ip() {
            return Some(addresses(&[ip], inside.port));
        }
        self.host_aliases.get(&inside.host).map(|ips| addresses(ips, inside.port))
    }
}

/// Reads `IP=NAME[,NAME…]`, an entry of `hostAliases`, into `aliases`.
///
/// # Errors
/// Fails if the address or a name is none.
pub fn parse_host_alias(
    text: &str,
    aliases: &mut BTreeMap<String, Vec<IpAddr>>,
) -> Result<(), Malformed> {
    let fault = || Malformed(format!("{text:?} is not IP=NAME[,NAME]"));
    let (ip, names) = text.split_once('=').ok_or_else(fault)?;
    let ip: IpAddr = ip.trim_matches(['[', ']']).parse().map_err(|_| fault())?;
    for name in names.split(',') {
        let name = name.trim().trim_end_matches('.').to_ascii_lowercase();
        if !crate::settings::is_host_name(&name) {
            return Err(fault());
        }
        aliases.entry(name).or_default().push(ip);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        Target::parse(text, 443).unwrap()
    }

    async fn first(resolution: &Resolution, name: &str) -> String {
        let found = resolution.endpoints(&target(name), false).await;
        found.map_or_else(|error| error.to_string(), |found| found[0].to_string())
    }

    // S4.31 S4.57+
    #[tokio::test]
    async fn a_host_alias_comes_before_the_internal_endpoint_and_that_before_dns() {
        let mut resolution = Resolution::default();
        assert_eq!(
            first(&resolution, "localhost").await.split_once(':').map(|it| it.1.ends_with("443")),
            Some(true)
        );

        resolution.internal_endpoint = Some(target("10.9.9.9:8443"));
        assert_eq!(first(&resolution, "localhost").await, "10.9.9.9:8443");

        parse_host_alias("192.0.2.7=other.example,LOCALHOST", &mut resolution.host_aliases)
            .unwrap();
        assert_eq!(first(&resolution, "localhost").await, "192.0.2.7:443");
        assert_eq!(first(&resolution, "unknown.example").await, "10.9.9.9:8443");
    }

    #[tokio::test]
    async fn behind_a_proxy_only_a_name_without_alias_is_left_to_it() {
        let mut resolution = Resolution::default();
        parse_host_alias("192.0.2.7=api.example", &mut resolution.host_aliases).unwrap();

        let known = resolution.endpoints(&target("api.example"), true).await.unwrap();
        let unknown = resolution.endpoints(&target("b.example:6443"), true).await.unwrap();

        assert_eq!(known, [Endpoint::Proxied(target("192.0.2.7"))]);
        assert_eq!(unknown, [Endpoint::Proxied(target("b.example:6443"))]);
    }

    #[test]
    fn a_host_alias_has_an_address_and_names() {
        let mut aliases = BTreeMap::new();

        parse_host_alias("fd00::1=a.example,b.example", &mut aliases).unwrap();

        assert_eq!(aliases["b.example"], ["fd00::1".parse::<IpAddr>().unwrap()]);
        for bad in ["", "a.example=10.0.0.1", "10.0.0.1=", "10.0.0.1=a b", "10.0.0.1"] {
            assert!(parse_host_alias(bad, &mut aliases).is_err(), "{bad:?}");
        }
    }
}
