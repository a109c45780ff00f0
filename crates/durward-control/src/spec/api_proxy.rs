//! `spec.apiProxy` of a `HostedApi`: how the API proxies of its tenant cluster are installed, checked and made ready for whoever installs them.
//!
//! The gateway reads none of the Secrets that are named here.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::field::Field;
use crate::place::{At, Place};
use crate::spec::hosted_api::{HostedApiSpec, ModeSpec};
use crate::spec::object_name::is_object_name;

/// Port of the proxies unless another is written: the API server's own.
const PORT: u16 = 6443;
/// Port of a gateway that is written without one.
const GATEWAY: u16 = 443;
/// Most entries of a list.
const MOST: usize = 32;

/// Installation of API proxies in the tenant cluster.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiProxySpec {
    /// The Secret whose `ca.crt`, `tls.crt` and `tls.key` the proxies get: the authority of the gateway's relay certificate, and their client certificate. In
    /// mode Reoriginate `ca.crt` is the tenant cluster's authority, and there is no client certificate.
    pub certificate_secret_name: At<String>,
    /// Mode Reoriginate: the Secret with the API server's own certificate and key, which clients are shown.
    #[serde(default)]
    pub serving_secret_name: Option<At<String>>,
    /// The image. Default: that of whoever installs.
    #[serde(default)]
    pub image: Option<At<String>>,
    /// Mode Advertised: the address that kube-apiserver has in `--advertise-address`, one for each family; outside the networks of pods and Services.
    #[serde(default)]
    pub advertise_addresses: Vec<At<String>>,
    /// The port of the proxies; in mode Advertised the API server's own. Default: 6443.
    #[serde(default)]
    pub port: Option<At<u16>>,
    /// Networks of the tenant cluster's pods.
    #[serde(default)]
    pub pod_cidrs: Vec<At<String>>,
    /// Networks of the tenant cluster's Services.
    #[serde(default)]
    pub service_cidrs: Vec<At<String>>,
    /// Gateways that the proxies connect to, `HOST` or `HOST:PORT`, the preferred one first. Default: the first of `names`, at `port`.
    #[serde(default)]
    pub gateways: Vec<At<String>>,
    /// Host, or host and port, that is dialled in place of the gateways' names, unless a host alias knows them.
    #[serde(default)]
    pub internal_endpoint: Option<At<String>>,
    /// Addresses of names, for nodes on which DNS does not answer yet.
    #[serde(default)]
    pub host_aliases: Vec<At<HostAliasSpec>>,
    /// Modes Slice and Reoriginate: a Deployment of so many, in place of a proxy on every node.
    #[serde(default)]
    pub replicas: Option<At<u16>>,
    /// Requests and limits of a proxy. Default: requests of 10m CPU and 32Mi memory, and no limit.
    #[serde(default)]
    pub resources: Option<ResourcesSpec>,
}

/// An address and the names it has.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostAliasSpec {
    /// The address.
    pub ip: At<String>,
    /// The names.
    pub hostnames: Vec<At<String>>,
}

/// Requests and limits, as a container has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourcesSpec {
    /// Requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<QuantitiesSpec>,
    /// Limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<QuantitiesSpec>,
}

/// Quantities of CPU and memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuantitiesSpec {
    /// CPU: `10m`, `0.5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory: `32Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

/// Plan of what is installed in a tenant cluster, and the Secrets that are needed for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiProxyPlan {
    /// Secret with a kubeconfig of the tenant cluster.
    pub kubeconfig_secret: String,
    /// Secret with the authority and client certificate of the proxies.
    pub certificate_secret: String,
    /// Secret with the API server's certificate, if the proxies end TLS.
    pub serving_secret: Option<String>,
    /// How the proxies become the endpoints of `kubernetes`.
    pub mode: ModeSpec,
    /// Name of the API server.
    pub server_name: String,
    /// Image, if it is not the installer's.
    pub image: Option<String>,
    /// Addresses that the API server advertises.
    pub advertise: Vec<IpAddr>,
    /// Port of the proxies.
    pub port: u16,
    /// Networks of pods.
    pub pods: Vec<IpNet>,
    /// Networks of Services.
    pub services: Vec<IpNet>,
    /// Gateways with their ports; at least one.
    pub gateways: Vec<(String, u16)>,
    /// Dialled in place of the gateways' names.
    pub internal_endpoint: Option<String>,
    /// Addresses of names.
    pub host_aliases: Vec<(IpAddr, Vec<String>)>,
    /// Size of a Deployment; `None` for a proxy on every node.
    pub replicas: Option<u16>,
    /// Requests and limits, if they are not the usual ones.
    pub resources: Option<ResourcesSpec>,
}

/// A field that keeps proxies from being installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanFault {
    /// The field.
    pub field: String,
    /// Where it is written.
    pub place: Place,
    /// What is wrong, and the cure.
    pub sentence: String,
}

/// Returns what is to be installed; `None` if nothing is.
///
/// # Errors
/// Fails with each field that does not fit.
pub fn plan(spec: &HostedApiSpec) -> Result<Option<ApiProxyPlan>, Vec<PlanFault>> {
    let mut reading = Reading { faults: Vec::new() };
    let plan = match (&spec.api_proxy, &spec.kubeconfig_secret_name) {
        (Some(proxy), Some(kubeconfig)) => reading.plan(spec, proxy, kubeconfig),
        (Some(proxy), None) => {
            let sentence = "needs kubeconfigSecretName beside it: without a kubeconfig of the tenant cluster nothing is installed there";
            reading.fault(&Field::SPEC.name("apiProxy"), proxy.place, sentence);
            None
        }
        (None, Some(kubeconfig)) => {
            let sentence =
                "needs apiProxy beside it, which says what is installed in the tenant cluster";
            reading.fault(&Field::SPEC.name("kubeconfigSecretName"), kubeconfig.place, sentence);
            None
        }
        (None, None) => {
            if let Some(mode) = &spec.mode {
                let sentence = "needs apiProxy beside it: it says how proxies are installed";
                reading.fault(&Field::SPEC.name("mode"), mode.place, sentence);
            }
            None
        }
    };
    if reading.faults.is_empty() { Ok(plan) } else { Err(reading.faults) }
}

struct Reading {
    faults: Vec<PlanFault>,
}

impl Reading {
    fn fault(&mut self, field: &Field<'_>, place: Place, sentence: impl Into<String>) {
        let (field, sentence) = (field.to_string(), sentence.into());
        self.faults.push(PlanFault { field, place, sentence });
    }

    fn plan(
        &mut self,
        spec: &HostedApiSpec,
        proxy: &At<ApiProxySpec>,
        kubeconfig: &At<String>,
    ) -> Option<ApiProxyPlan> {
        let field = &Field::SPEC.name("apiProxy");
        let mode = spec.mode.map_or_else(ModeSpec::default, |mode| mode.value);
        self.secret(kubeconfig, &Field::SPEC.name("kubeconfigSecretName"));
        self.secret(&proxy.certificate_secret_name, &field.name("certificateSecretName"));
        self.serving(proxy, mode, field);
        let pods = self.networks(&proxy.pod_cidrs, &field.name("podCidrs"));
        let services = self.networks(&proxy.service_cidrs, &field.name("serviceCidrs"));
        let advertise = self.advertised(proxy, mode, field, &[&pods, &services]);
        self.size(proxy, mode, field);
        if spec.relay.is_none() && mode != ModeSpec::Reoriginate {
            let sentence = "needs relay beside it: the gateway admits no API proxies without";
            self.fault(field, proxy.place, sentence);
        }
        let server_name = spec.names.first()?.trim_end_matches('.').to_ascii_lowercase();
        let usual = spec.port.map_or(GATEWAY, |port| port.value);
        let mut gateways = self.gateways(&proxy.gateways, &field.name("gateways"));
        if proxy.gateways.is_empty() {
            gateways.push((server_name.clone(), usual));
        }
        let internal = proxy.internal_endpoint.as_ref();
        let internal = internal.and_then(|it| self.target(it, &field.name("internalEndpoint")));
        let port = proxy.port.map_or(PORT, |port| port.value);
        if port == 0 {
            let place = proxy.port.map(|port| port.place).unwrap_or_default();
            self.fault(&field.name("port"), place, "is 0: write the API server's port, 1 to 65535");
        }
        Some(ApiProxyPlan {
            kubeconfig_secret: kubeconfig.value.clone(),
            certificate_secret: proxy.certificate_secret_name.value.clone(),
            serving_secret: proxy.serving_secret_name.as_ref().map(|name| name.value.clone()),
            mode,
            server_name,
            image: self.image(proxy.image.as_ref(), &field.name("image")),
            advertise,
            port,
            pods,
            services,
            gateways,
            internal_endpoint: internal.map(|(host, port)| match port {
                Some(port) => shown(&host, port),
                None => host,
            }),
            host_aliases: self.aliases(&proxy.host_aliases, &field.name("hostAliases")),
            replicas: proxy.replicas.map(|replicas| replicas.value),
            resources: proxy.resources.clone(),
        })
    }

    fn secret(&mut self, written: &At<String>, field: &Field<'_>) {
        if !is_object_name(written) {
            let sentence = format!("{:?} is no name of a Secret", written.value);
            self.fault(field, written.place, sentence);
        }
    }

    fn serving(&mut self, proxy: &At<ApiProxySpec>, mode: ModeSpec, field: &Field<'_>) {
        let serving = &field.name("servingSecretName");
        match (&proxy.serving_secret_name, mode) {
            (Some(name), ModeSpec::Reoriginate) => self.secret(name, serving),
            (None, ModeSpec::Reoriginate) => {
                let sentence = "is missing: in mode Reoriginate the proxies show the API server's own certificate";
                self.fault(serving, proxy.place, sentence);
            }
            (Some(name), _) => {
                let sentence = "is for mode Reoriginate: in the others the API server shows its certificate itself, and its key stays where it is";
                self.fault(serving, name.place, sentence);
            }
            (None, _) => {}
        }
    }

    fn advertised(
        &mut self,
        proxy: &At<ApiProxySpec>,
        mode: ModeSpec,
        field: &Field<'_>,
        networks: &[&Vec<IpNet>],
    ) -> Vec<IpAddr> {
        let field = &field.name("advertiseAddresses");
        match (proxy.advertise_addresses.first(), mode) {
            (None, ModeSpec::Advertised) => {
                let sentence =
                    "is missing: write the address that kube-apiserver has in --advertise-address";
                self.fault(field, proxy.place, sentence);
            }
            (Some(first), ModeSpec::Slice) => {
                self.fault(field, first.place, "is for mode Advertised: remove it");
            }
            _ => {}
        }
        let mut addresses = Vec::new();
        for (at, written) in self.bounded(&proxy.advertise_addresses, field).iter().enumerate() {
            let field = &field.index(at);
            let Ok(address) = written.parse::<IpAddr>() else {
                let sentence = format!("{:?} is not an IP address", written.value);
                self.fault(field, written.place, sentence);
                continue;
            };
            if !is_advertisable(address) {
                let sentence = format!(
                    "{address} cannot be an endpoint: Kubernetes refuses loopback, link-local, multicast and unspecified addresses"
                );
                self.fault(field, written.place, sentence);
            }
            let within = networks.iter().flat_map(|list| list.iter());
            if let Some(network) = within.copied().find(|network| network.contains(&address)) {
                let sentence = format!(
                    "{address} is in {network}, which pods or Services have: write one outside of it"
                );
                self.fault(field, written.place, sentence);
            }
            addresses.push(address);
        }
        addresses
    }

    fn size(&mut self, proxy: &At<ApiProxySpec>, mode: ModeSpec, field: &Field<'_>) {
        let Some(replicas) = proxy.replicas else { return };
        let field = &field.name("replicas");
        let is_everywhere = mode == ModeSpec::Advertised || !proxy.advertise_addresses.is_empty();
        if is_everywhere {
            let sentence = "does not fit an advertised address, which is on every node: remove it, or use mode Slice";
            self.fault(field, replicas.place, sentence);
        } else if replicas.value == 0 {
            self.fault(field, replicas.place, "is 0: write 1 or more");
        }
    }

    fn networks(&mut self, written: &[At<String>], field: &Field<'_>) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for (at, written) in self.bounded(written, field).iter().enumerate() {
            match written.parse::<IpNet>() {
                Ok(network) => networks.push(network.trunc()),
                Err(_) => {
                    let sentence =
                        format!("{:?} is not a network like 10.96.0.0/16", written.value);
                    self.fault(&field.index(at), written.place, sentence);
                }
            }
        }
        networks
    }

    fn gateways(&mut self, written: &[At<String>], field: &Field<'_>) -> Vec<(String, u16)> {
        let mut gateways = Vec::new();
        for (at, written) in self.bounded(written, field).iter().enumerate() {
            let target = self.target(written, &field.index(at));
            gateways.extend(target.map(|(host, port)| (host, port.unwrap_or(GATEWAY))));
        }
        gateways
    }

    /// Reads `HOST` or `HOST:PORT`.
    fn target(&mut self, written: &At<String>, field: &Field<'_>) -> Option<(String, Option<u16>)> {
        let target = read_target(&written.value);
        if target.is_none() {
            let sentence = format!("{:?} is not HOST or HOST:PORT", written.value);
            self.fault(field, written.place, sentence);
        }
        target
    }

    fn aliases(
        &mut self,
        written: &[At<HostAliasSpec>],
        field: &Field<'_>,
    ) -> Vec<(IpAddr, Vec<String>)> {
        let mut aliases = Vec::new();
        for (at, alias) in self.bounded(written, field).iter().enumerate() {
            let field = &field.index(at);
            let Ok(ip) = alias.ip.parse::<IpAddr>() else {
                let sentence = format!("{:?} is not an IP address", alias.ip.value);
                self.fault(&field.name("ip"), alias.ip.place, sentence);
                continue;
            };
            let names = &field.name("hostnames");
            for (at, name) in self.bounded(&alias.hostnames, names).iter().enumerate() {
                if !is_host(name) {
                    let sentence = format!("{:?} is no host name", name.value);
                    self.fault(&names.index(at), name.place, sentence);
                }
            }
            let hosts = alias.hostnames.iter().map(|name| name.value.clone());
            aliases.push((ip, hosts.collect()));
        }
        aliases
    }

    fn image(&mut self, written: Option<&At<String>>, field: &Field<'_>) -> Option<String> {
        let written = written?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@".contains(&byte);
        if written.is_empty() || written.len() > 512 || !written.bytes().all(is_plain) {
            let sentence = format!("{:?} is no name of an image", written.value);
            self.fault(field, written.place, sentence);
        }
        Some(written.value.clone())
    }

    /// Returns the first entries of a list, as many as are read.
    fn bounded<'s, T>(&mut self, list: &'s [At<T>], field: &Field<'_>) -> &'s [At<T>] {
        let Some(excess) = list.get(MOST) else { return list };
        let sentence = format!("has {} entries, and at most {MOST} are read", list.len());
        self.fault(field, excess.place, sentence);
        &list[..MOST]
    }
}

fn is_advertisable(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || is_link_local)
}

/// Returns host and port of `HOST`, `HOST:PORT` or `[IPv6]:PORT`.
fn read_target(text: &str) -> Option<(String, Option<u16>)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some((address.to_string(), None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, written)) => (host, Some(port(written)?)),
        None => (text, None),
    };
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_address = bare.unwrap_or(host).parse::<IpAddr>().is_ok();
    (is_address || is_host(host)).then(|| (bare.unwrap_or(host).to_owned(), port))
}

/// Writes a host and a port as one word.
#[must_use]
pub fn shown(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

pub(super) fn is_host(name: &str) -> bool {
    matches!(durward_model::server_name::server_name(name), Ok(Some(_)))
}

#[cfg(test)]
mod tests;
