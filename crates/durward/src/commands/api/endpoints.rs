//! The endpoints of `default/kubernetes`, for `durward api check`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use durward_kube::Location;
use durward_kube::slice::{self, KEEPER, RECONCILER_FLAG, Seen, Target};
use tokio::time::timeout;

use crate::cli::ApiCheck;
use crate::commands::check::Category;
use crate::failure::Failure;

/// Looks who writes them, and where they lead.
pub(super) async fn check(kubeconfig: &Path, arguments: &ApiCheck) -> Category {
    let mut category = Category::new("endpoints of kubernetes");
    let objects = match read(kubeconfig, arguments).await {
        Ok(objects) => objects,
        Err(failure) => {
            let sentence = format!("they cannot be read: {failure}");
            category.error(sentence, "give --kubeconfig a file with which kubectl reaches the tenant's cluster from here, or leave it out");
            return category;
        }
    };
    for (target, object) in &objects {
        if let Some(object) = object {
            addresses(*target, object, arguments, &mut category);
        }
    }
    match objects.get(&Target::Primary).and_then(Option::as_ref) {
        Some(primary) => writer(primary, arguments, &mut category),
        None => category.error(
            "EndpointSlice default/kubernetes does not exist: kubernetes.default.svc leads nowhere",
            format!(
                "with {RECONCILER_FLAG} the proxies write it: run durward api-proxy --mode slice"
            ),
        ),
    }
    category
}

async fn read(
    kubeconfig: &Path,
    arguments: &ApiCheck,
) -> Result<BTreeMap<Target, Option<Seen>>, Failure> {
    let location = Location::Kubeconfig { file: Some(kubeconfig.to_owned()), context: None };
    let clients = super::clients(location).await?;
    match timeout(arguments.timeout, slice::read(&clients.watch)).await {
        Ok(objects) => objects.map_err(|error| super::unreachable(&error)),
        Err(_) => {
            let message = "the API server of the tenant's cluster does not answer".to_owned();
            Err(Failure::Unreachable { message })
        }
    }
}

fn addresses(target: Target, object: &Seen, arguments: &ApiCheck, category: &mut Category) {
    let what = format!("{} default/{}", target.kind(), target.name());
    let in_service = |ip: &&IpAddr| arguments.service_cidr.iter().any(|net| net.contains(*ip));
    if let Some(ip) = object.addresses.iter().find(in_service) {
        return category.error(
            format!(
                "{what} leads to {ip}, the address of a Service: kube-proxy drops such connections"
            ),
            "write the addresses of nodes or pods: durward api-proxy --mode slice does",
        );
    }
    let list: Vec<String> = object.addresses.iter().map(ToString::to_string).collect();
    match list.is_empty() {
        true => category.error(
            format!("{what} has no address"),
            "no proxy is ready: look at /readyz?verbose of each",
        ),
        false => category.ok(format!("{what} leads to {}", list.join(", "))),
    }
}

fn writer(primary: &Seen, arguments: &ApiCheck, category: &mut Category) {
    let writer = primary.writer.as_deref().unwrap_or("nobody");
    let advertised: Vec<IpAddr> =
        arguments.advertise_address.iter().filter_map(|text| text.parse().ok()).collect();
    let is_api_server = writer.starts_with("kube-apiserver");
    match (advertised.as_slice(), is_api_server) {
        ([], true) => category.error(
            "kube-apiserver writes these endpoints itself, and would undo what the proxies write",
            format!("start it with {RECONCILER_FLAG}, or use --mode advertised"),
        ),
        ([], false) if writer == KEEPER => category.ok("the proxies keep them"),
        ([], false) => category.warn(
            format!("{writer} wrote them last"),
            "run durward api-proxy --mode slice, or --mode advertised with the API server's --advertise-address",
        ),
        (advertised, _) if advertised.iter().any(|ip| primary.addresses.contains(ip)) => {
            category.ok(format!("the advertised address is in them, written by {writer}"));
        }
        (advertised, _) => category.error(
            format!("none of the advertised addresses is in them; {writer} wrote them last"),
            format!("start kube-apiserver with --advertise-address={}", advertised.first().map(ToString::to_string).unwrap_or_default()),
        ),
    }
}
