//! `durward api check`: what is wrong with a hosted API server, and what to write instead.

use std::net::{IpAddr, SocketAddr};

use durward_apiproxy::address::{ClusterNetworks, advertisable};
use durward_apiproxy::certificate::{self, Name, ShownCertificate, automatic_names};
use durward_apiproxy::dns::CLOUDFLARE_WARNING;
use durward_apiproxy::settings::{ALPN, Target};
use durward_apiproxy::tls;
use tokio::time::timeout;

use super::endpoints;
use crate::cli::ApiCheck;
use crate::commands::check::{Category, Report};
use crate::failure::{Exit, Failure};
use crate::inspect;

/// Cure for a gateway that admits no API proxies.
const NO_RELAY: &str = "give the HostedApi spec.relay, or run the proxies with --proxy-header from a trusted network, or with --mode re-originate";

/// Days before its end from which a certificate is worth a warning.
const SOON: i64 = 14;

/// Runs the checks and prints them.
pub(super) fn check(arguments: &ApiCheck) -> Result<Exit, Failure> {
    if let Some(file) = &arguments.ca {
        tls::authorities(file)
            .map_err(|fault| Failure::InvalidConfig { message: fault.to_string() })?;
    }
    let (report, reached) = super::runtime()?.block_on(everything(arguments));
    report.print(arguments.format)?;
    Ok(match (reached, report.failed()) {
        (false, _) => Exit::Unreachable,
        (true, true) => Exit::FailedCheck,
        (true, false) => Exit::Ok,
    })
}

/// Returns the report, and whether the API server showed a certificate.
async fn everything(arguments: &ApiCheck) -> (Report, bool) {
    let mut route = Category::new("route");
    let mut names = Category::new("certificate");
    let address = resolve(arguments, &arguments.server, &mut route).await;
    let shown = match address {
        Some(address) => look(arguments, address, &arguments.server, &mut route).await,
        None => None,
    };
    if let Some(shown) = &shown {
        api_certificate(arguments, shown, &mut names);
    }
    if let Some(address) = address {
        outer_connection(arguments, address, &mut route).await;
    }
    let mut categories = vec![route, names];
    if let Some(konnectivity) = &arguments.konnectivity {
        categories.push(konnectivity_server(arguments, konnectivity).await);
    }
    categories.push(networks(arguments));
    if let Some(kubeconfig) = &arguments.kubeconfig {
        categories.push(endpoints::check(kubeconfig, arguments).await);
    }
    (Report::new(categories), shown.is_some())
}

async fn resolve(
    arguments: &ApiCheck,
    target: &Target,
    category: &mut Category,
) -> Option<SocketAddr> {
    if let Some(ip) = arguments.address.or_else(|| target.ip()) {
        return Some(SocketAddr::new(ip, target.port));
    }
    let found = tokio::net::lookup_host((target.host.as_str(), target.port));
    let found = timeout(arguments.timeout, found).await;
    let first = found.ok().and_then(Result::ok).and_then(|mut found| found.next());
    match first {
        Some(address) => category.ok(format!("{} is {}", target.host, address.ip())),
        None => category.error(
            format!("{} has no address in DNS", target.host),
            format!("durward api dns --zone DOMAIN --address GATEWAY --for SERVER prints the records; until then: durward api hosts {} --address GATEWAY", target.host),
        ),
    }
    first
}

async fn look(
    arguments: &ApiCheck,
    address: SocketAddr,
    target: &Target,
    category: &mut Category,
) -> Option<ShownCertificate> {
    match certificate::shown(address, &target.host, &[b"h2", b"http/1.1"], arguments.timeout).await
    {
        Ok(shown) => {
            category.ok(format!("{address} answers TLS for {}", target.host));
            Some(shown)
        }
        Err(error) => {
            category.error(
                format!("{address} shows no certificate for {}: {error}", target.host),
                "the gateway refuses names that nobody has: its access log has the reason and the name (server_name), durward explain --sni NAME what would decide",
            );
            None
        }
    }
}

/// Checks whether the gateway accepts outer connections of API proxies for this name.
async fn outer_connection(arguments: &ApiCheck, address: SocketAddr, category: &mut Category) {
    let host = &arguments.server.host;
    match certificate::shown(address, host, &[ALPN], arguments.timeout).await {
        Ok(shown) if shown.alpn.as_deref() != Some(ALPN) => category.warn(
            format!("{address} takes no connections of API proxies for {host}"),
            NO_RELAY,
        ),
        Ok(shown) if shown.covers(&Name::of(host)) => {
            category.ok(format!("{address} answers connections of API proxies for {host}"));
        }
        Ok(_) => category.warn(
            format!("{address} answers connections of API proxies with a certificate that lacks {host}"),
            "API proxies verify the name: issue relay.certificate of the HostedApi for it, or give the proxies --pin",
        ),
        Err(_) => category.warn(
            format!("{address} takes no connections of API proxies for {host}"),
            NO_RELAY,
        ),
    }
}

fn api_certificate(arguments: &ApiCheck, shown: &ShownCertificate, category: &mut Category) {
    let mut needed = automatic_names(&arguments.cluster_domain);
    needed.push(Name::of(&arguments.server.host));
    needed.extend(arguments.san.iter().map(|name| Name::of(name)));
    // The first address of the Service network is that of the Service `kubernetes`, which programs in the cluster dial.
    needed.extend(arguments.service_cidr.iter().filter_map(|net| net.hosts().next()).map(Name::Ip));
    let missing = shown.missing(&needed);
    match missing.is_empty() {
        true => category
            .ok(format!("it has all {} names that clients call the API server by", needed.len())),
        false => {
            let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
            category.error(
                format!("it lacks {}", missing.join(", ")),
                format!(
                    "add to networkProfile.certSANs (or kubeadm's apiServer.certSANs): [{}]",
                    missing.join(", ")
                ),
            );
        }
    }
    verified(arguments, shown, &arguments.server.host, category);
    expiry(shown, category);
}

fn verified(arguments: &ApiCheck, shown: &ShownCertificate, name: &str, category: &mut Category) {
    let Some(file) = &arguments.ca else {
        return category.warn(
            "whether the cluster's authority has issued it was not checked",
            "name the authority with --ca; every kubeconfig has it in certificate-authority-data",
        );
    };
    let result = tls::authorities(file).map_err(|fault| fault.to_string());
    match result.and_then(|roots| shown.verify(roots, name)) {
        Ok(()) => category.ok(format!("{} vouches for it", file.display())),
        Err(fault) => category.error(
            format!("{} does not vouch for it: {fault}", file.display()),
            format!("something between here and the API server ends TLS, or the authority is another cluster's. {CLOUDFLARE_WARNING}"),
        ),
    }
}

fn expiry(shown: &ShownCertificate, category: &mut Category) {
    let days = (shown.not_after - inspect::now()).div_euclid(86_400);
    match days {
        ..0 => category.error("it has expired", "renew it and restart the API server"),
        0..SOON => category.warn(format!("it ends in {days} days"), "renew it"),
        _ => category.ok(format!("it is valid for {days} more days")),
    }
}

async fn konnectivity_server(arguments: &ApiCheck, target: &Target) -> Category {
    let mut category = Category::new("konnectivity");
    if *target == arguments.server {
        category.error(
            format!("{target} is the API server's own name: agents would reach the API server"),
            "give konnectivity a name of its own, and a route to its server's port (8132)",
        );
        return category;
    }
    let Some(address) = resolve(arguments, target, &mut category).await else { return category };
    let Some(shown) = look(arguments, address, target, &mut category).await else {
        return category;
    };
    match shown.covers(&Name::of(&target.host)) {
        true => category.ok(format!("its certificate has {}", target.host)),
        false => category.error(
            format!("its certificate lacks {}: agents will not connect", target.host),
            format!("add {} to networkProfile.certSANs; konnectivity-server shows the API server's certificate or one of its own (--cluster-cert)", target.host),
        ),
    }
    expiry(&shown, &mut category);
    category
}

fn networks(arguments: &ApiCheck) -> Category {
    let mut category = Category::new("addresses");
    let networks = ClusterNetworks {
        pods: arguments.pod_cidr.clone(),
        services: arguments.service_cidr.clone(),
        nodes: arguments.node_cidr.clone(),
    };
    for [(what, net), (other_what, other)] in networks.overlaps() {
        category.error(
            format!("{net} ({what}) and {other} ({other_what}) overlap"),
            "packets to addresses in both go to one of the two: choose another network",
        );
    }
    for text in &arguments.advertise_address {
        match text.parse::<IpAddr>() {
            Err(_) => category.error(
                format!("--advertise-address {text:?} is a name: kube-apiserver takes an IP address only and does not start with it"),
                "put the name into certSANs and the ingress's hostname, and give an address here",
            ),
            Ok(address) => match advertisable(address, &networks) {
                Ok(()) => category.ok(format!("{address} can be advertised on every node")),
                Err(fault) => category.error(fault.to_string(), ""),
            },
        }
    }
    category
}
