//! `durward agent lint`: what is worth mending in the Ingresses of a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, ToSocketAddrs};

use durward_agent::ingress::IngressHosts;
use durward_agent::status::Report;
use durward_model::link::MOST_ROUTES;
use serde::Serialize;

use super::status::{admin, ask};
use crate::cli::AgentLint;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen, Tone};

/// Hosts that are looked up at most.
const LOOKED_UP: usize = 100;

/// Piece of advice.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Advice {
    /// The Ingress, or the link as a whole.
    about: String,
    sentence: String,
}

/// Addresses of hosts, or why there are none.
type Found = BTreeMap<String, Result<BTreeSet<IpAddr>, String>>;

/// Asks the agent and prints its advice; any is a failed check.
pub(crate) fn lint(arguments: &AgentLint) -> Result<Exit, Failure> {
    let address = admin(arguments.admin)?;
    let ingresses: Vec<IngressHosts> = ask(address, "/ingresses")?;
    let report: Report = ask(address, "/status")?;
    let wanted: BTreeSet<IpAddr> = match arguments.addresses.as_slice() {
        [] => report.carriers.iter().flat_map(|carrier| dialled(&carrier.gateway)).collect(),
        given => given.iter().map(IpAddr::to_canonical).collect(),
    };
    let found = if arguments.no_dns { Found::new() } else { look_up(&ingresses) };
    let mut advice: Vec<Advice> =
        ingresses.iter().flat_map(|one| of_ingress(one, &wanted, &found)).collect();
    advice.extend(of_routes(&report));
    let mut screen = Screen::stdout();
    match arguments.output.format {
        format @ (Format::Json | Format::Yaml) => screen.value(&advice, format)?,
        Format::Table | Format::Wide => {
            for one in &advice {
                let about = Tone::Warn.paint(&one.about);
                screen.line(format!("{about}: {}", one.sentence))?;
            }
            let (ingresses, routes) = (ingresses.len(), report.routes_served);
            let advice = advice.len();
            screen.line(format!(
                "{ingresses} Ingresses, {routes} routes served, {advice} things to mend"
            ))?;
        }
    }
    Ok(if advice.is_empty() { Exit::Ok } else { Exit::FailedCheck })
}

/// Returns the addresses of a gateway by its URL.
fn dialled(gateway: &str) -> Vec<IpAddr> {
    let host = gateway.split_once("://").map_or(gateway, |(_, rest)| rest);
    addresses(host).unwrap_or_default().into_iter().collect()
}

fn look_up(ingresses: &[IngressHosts]) -> Found {
    let hosts: BTreeSet<&str> =
        ingresses.iter().flat_map(|one| &one.hosts).map(|one| one.host.as_str()).collect();
    let hosts = hosts.into_iter().filter(|host| !host.starts_with('*')).take(LOOKED_UP);
    hosts.map(|host| (host.to_owned(), addresses(&format!("{host}:443")))).collect()
}

fn addresses(place: &str) -> Result<BTreeSet<IpAddr>, String> {
    let found = place.to_socket_addrs().map_err(|error| error.to_string())?;
    Ok(found.map(|address| address.ip().to_canonical()).collect())
}

fn of_ingress(one: &IngressHosts, wanted: &BTreeSet<IpAddr>, found: &Found) -> Vec<Advice> {
    let advice = |sentence: String| Advice { about: one.ingress.clone(), sentence };
    let mut all = Vec::new();
    if one.without_host > 0 {
        let number = one.without_host;
        all.push(advice(format!(
            "{number} of its rules have no host, and a link carries requests for named hosts: add `host`"
        )));
    }
    for host in &one.hosts {
        let name = &host.host;
        if !host.tls {
            all.push(advice(format!("{name} is not in spec.tls: add it, so that it is served by HTTPS wherever the Ingress moves")));
        }
        match found.get(name) {
            Some(Ok(at)) if !wanted.is_empty() && at.is_disjoint(wanted) => {
                all.push(advice(format!(
                    "{name} leads to {}, and the gateway is at {}: point its A or AAAA record there, or name the tenant's listener with --address",
                    list(at),
                    list(wanted)
                )));
            }
            Some(Err(error)) => all.push(advice(format!(
                "{name} cannot be looked up ({error}): add an A or AAAA record for the tenant's address"
            ))),
            Some(Ok(_)) | None => {}
        }
    }
    all
}

fn of_routes(report: &Report) -> Vec<Advice> {
    let advice = |about: &str, sentence: String| Advice { about: about.to_owned(), sentence };
    let left_out = report.left_out.iter().map(|one| advice(&one.ingress, one.reason.clone()));
    let rejected = report.routes_rejected.iter().map(|one| {
        advice("gateway", format!("does not serve {}{}: {}", one.host, one.path, one.reason))
    });
    let number = report.routes_served;
    // Four fifths of the default.
    let many = (number * 5 >= MOST_ROUTES as usize * 4).then(|| {
        advice("link", format!("has {number} routes, and {MOST_ROUTES} are the default of `maxRoutes`: raise it in the tenant's document, or use several links"))
    });
    left_out.chain(rejected).chain(many).collect()
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use durward_agent::ingress::HostTls;

    use super::*;

    // S3.67+
    #[test]
    fn hosts_without_tls_or_with_dns_that_leads_elsewhere_are_named() {
        let host = |host: &str, tls: bool| HostTls { host: host.to_owned(), tls };
        let hosts = vec![
            host("good.example", true),
            host("bare.example", false),
            host("astray.example", true),
            host("nowhere.example", true),
        ];
        let one = IngressHosts { ingress: "shop/a".to_owned(), hosts, without_host: 2 };
        let at = |ip: [u8; 4]| Ok(BTreeSet::from([IpAddr::from(ip)]));
        let found = Found::from([
            ("good.example".to_owned(), at([192, 0, 2, 1])),
            ("bare.example".to_owned(), at([192, 0, 2, 1])),
            ("astray.example".to_owned(), at([192, 0, 2, 9])),
            ("nowhere.example".to_owned(), Err("no such name".to_owned())),
        ]);

        let advice = of_ingress(&one, &BTreeSet::from([IpAddr::from([192, 0, 2, 1])]), &found);

        let expected = [
            "2 of its rules",
            "bare.example is not",
            "astray.example leads to 192.0.2.9, and the gateway is at 192.0.2.1",
            "nowhere.example cannot",
        ];
        assert_eq!(advice.len(), expected.len(), "{advice:?}");
        for (one, words) in advice.iter().zip(expected) {
            assert!(one.sentence.starts_with(words), "{one:?}");
        }
    }
}
