//! The access lists (`acl`) a configuration names, and those that Squid knows without being told.
//!
//! Deliberately absent: lists that ask somebody else (`external`), and those about URLs, times and headers; they are `Unknown`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::Notes;
use super::lines::Line;
use super::ports::Ports;

/// One list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Acl {
    /// Everybody, everywhere.
    All,
    /// What never comes here.
    Nothing,
    /// Clients' networks.
    Sources(Vec<IpNet>),
    /// Networks gone to.
    Destinations(Vec<IpNet>),
    /// Names gone to.
    Names(Vec<String>),
    /// Ports gone to.
    Ports(Ports),
    /// Methods.
    Methods(Vec<String>),
    /// Clients that have proven who they are; empty means any of them.
    Users(Vec<String>),
    /// Ports clients come in by, or their names.
    Doors(Vec<String>),
    /// Of a type that has no equal here.
    Unknown(String),
}

/// All lists, by name.
pub(super) type Acls = BTreeMap<String, Acl>;

/// The lists that `acl` lines make; several lines of one name add up.
pub(super) fn read(lines: &[Line], notes: &mut Notes) -> Acls {
    let mut acls = builtin();
    for line in lines.iter().filter(|line| line.name() == "acl") {
        let [name, kind, values @ ..] = line.arguments() else {
            notes.wider(line, "an acl without name and type is left out");
            continue;
        };
        let values: Vec<String> = values
            .iter()
            .filter(|value| !value.starts_with('-') || value.len() == 1)
            .cloned()
            .collect();
        let read = one(kind, &values).unwrap_or_else(|why| {
            notes.wider(line, format!("acl {name}: {why}"));
            Acl::Unknown(kind.clone())
        });
        let joined = match acls.remove(name) {
            Some(before) => join(before, read),
            None => read,
        };
        acls.insert(name.clone(), joined);
    }
    acls
}

fn builtin() -> Acls {
    let blocks = |texts: &[&str]| texts.iter().filter_map(|text| text.parse().ok()).collect();
    [
        ("all", Acl::All),
        ("manager", Acl::Nothing),
        ("localhost", Acl::Sources(blocks(&["127.0.0.1/32", "::1/128"]))),
        (
            "to_localhost",
            Acl::Destinations(blocks(&["127.0.0.0/8", "0.0.0.0/32", "::1/128", "::/128"])),
        ),
        ("to_linklocal", Acl::Destinations(blocks(&["169.254.0.0/16", "fe80::/10"]))),
        ("CONNECT", Acl::Methods(vec!["CONNECT".to_owned()])),
    ]
    .map(|(name, acl)| (name.to_owned(), acl))
    .into()
}

fn one(kind: &str, values: &[String]) -> Result<Acl, String> {
    Ok(match kind {
        "src" if values.iter().any(|value| value == "all") => Acl::All,
        "dst" if values.iter().any(|value| value == "all") => Acl::All,
        "src" => Acl::Sources(networks(values)?),
        "dst" => Acl::Destinations(networks(values)?),
        "dstdomain" => Acl::Names(names(values)?),
        "port" => Acl::Ports(
            Ports::parse(values).map_err(|word| format!("{word} is no port or range of ports"))?,
        ),
        "method" => Acl::Methods(values.iter().map(|value| value.to_ascii_uppercase()).collect()),
        "proxy_auth" if values.iter().any(|value| value == "REQUIRED") => Acl::Users(Vec::new()),
        "proxy_auth" => Acl::Users(values.to_vec()),
        "localport" | "myport" | "myportname" => Acl::Doors(values.to_vec()),
        // The cache manager is not here.
        "proto" if values == ["cache_object"] => Acl::Nothing,
        "url_regex" if values.iter().any(|value| value.contains("cache_object")) => Acl::Nothing,
        _ => Acl::Unknown(kind.to_owned()),
    })
}

fn join(before: Acl, more: Acl) -> Acl {
    match (before, more) {
        (Acl::Sources(mut all), Acl::Sources(more)) => {
            all.extend(more);
            Acl::Sources(all)
        }
        (Acl::Destinations(mut all), Acl::Destinations(more)) => {
            all.extend(more);
            Acl::Destinations(all)
        }
        (Acl::Names(mut all), Acl::Names(more)) => {
            all.extend(more);
            Acl::Names(all)
        }
        (Acl::Methods(mut all), Acl::Methods(more)) => {
            all.extend(more);
            Acl::Methods(all)
        }
        (Acl::Ports(all), Acl::Ports(more)) => {
            let neither = all.complement().intersection(&more.complement());
            Acl::Ports(neither.complement())
        }
        // Squid's own lists may be written out again; the text is then the list.
        (_, more) => more,
    }
}

fn names(values: &[String]) -> Result<Vec<String>, String> {
    for value in values {
        if value.trim_start_matches('.').parse::<IpAddr>().is_ok() {
            return Err(format!("{value} is an address among names: write it as dst"));
        }
    }
    Ok(values.iter().map(|value| value.to_ascii_lowercase()).collect())
}

/// `192.0.2.1`, `192.0.2.0/24`, `192.0.2.0/255.255.255.0`, `192.0.2.1-192.0.2.9`.
fn networks(values: &[String]) -> Result<Vec<IpNet>, String> {
    let mut networks = Vec::with_capacity(values.len());
    for value in values {
        let read = network(value);
        networks.extend(read.ok_or_else(|| {
            format!("{value} is no network: names are looked up once by Squid, write the addresses")
        })?);
    }
    Ok(networks)
}

fn network(value: &str) -> Option<Vec<IpNet>> {
    if let Some((from, to)) = value.split_once('-') {
        return match (from.parse().ok()?, to.parse().ok()?) {
            (IpAddr::V4(from), IpAddr::V4(to)) if from <= to => {
                Some(Ipv4Subnets::new(from, to, 0).map(IpNet::V4).collect())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) if from <= to => {
                Some(Ipv6Subnets::new(from, to, 0).map(IpNet::V6).collect())
            }
            _ => None,
        };
    }
    let net = match value.split_once('/') {
        None => IpNet::from(value.parse::<IpAddr>().ok()?),
        Some((address, mask)) => {
            let address = address.parse().ok()?;
            match mask.parse::<IpAddr>() {
                Ok(mask) => IpNet::with_netmask(address, mask).ok()?,
                Err(_) => IpNet::new(address, mask.parse().ok()?).ok()?,
            }
        }
    };
    Some(vec![net.trunc()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_in_every_spelling() {
        for (value, nets) in [
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.9/24", "192.0.2.0/24"),
            ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
            ("192.0.2.4-192.0.2.6", "192.0.2.4/31 192.0.2.6/32"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            let read: Vec<String> =
                network(value).unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(read.join(" "), nets, "{value}");
        }
        for value in ["example.com", "192.0.2.9-192.0.2.1", "192.0.2.0/33", ""] {
            assert_eq!(network(value), None, "{value}");
        }
    }
}
