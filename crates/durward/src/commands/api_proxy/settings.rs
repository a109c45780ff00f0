//! Settings of the proxy from its command line.

use durward_apiproxy::Settings;
use durward_apiproxy::address::{ClusterNetworks, advertisable};
use durward_apiproxy::resolve::{Resolution, parse_host_alias};
use durward_apiproxy::settings::{
    Carrier, HttpProxy, IdentityFiles, Limits, Target, Trust, is_host_name,
};
use rustix::process::{Resource, getrlimit};

use crate::cli::{ApiProxy, CarrierArgs, Mode};
use crate::failure::Failure;

/// Sentence on the flag of steward-tcp-proxy that turned verification off.
const INSECURE: &str = "--upstream-insecure is not supported: the API server's certificate is always verified, since the token of every pod goes to it: \
name the cluster's authority with --ca (it is in every kubeconfig), or its key with --pin";

/// Returns the settings.
pub(super) fn settings(arguments: &ApiProxy) -> Result<Settings, Failure> {
    let server_name = arguments.server_name.trim_end_matches('.').to_ascii_lowercase();
    if !is_host_name(&server_name) {
        return Err(Failure::usage(format!("--server-name {server_name:?} is not a host name")));
    }
    let mut gateways = arguments.gateway.clone();
    if gateways.is_empty() {
        gateways.push(Target { host: server_name.clone(), port: 443 });
    }
    let count = |limit: Option<u32>| limit.and_then(|limit| usize::try_from(limit).ok());
    let limits = Limits {
        connections: count(arguments.max_connections),
        per_client: count(arguments.max_connections_per_client),
        idle: arguments.idle_timeout,
        ..Limits::default()
    };
    let descriptors = getrlimit(Resource::Nofile).current;
    let limits = limits
        .within(descriptors.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX));
    let way = &arguments.way;
    let http_proxy = HttpProxy::parse(
        way.https_proxy.as_deref().unwrap_or_default(),
        way.no_proxy.as_deref().unwrap_or_default(),
    );
    let mut resolution =
        Resolution { internal_endpoint: way.internal_endpoint.clone(), ..Resolution::default() };
    for alias in &way.host_alias {
        parse_host_alias(alias, &mut resolution.host_aliases)
            .map_err(|fault| Failure::usage(format!("--host-alias: {fault}")))?;
    }
    Ok(Settings {
        server_name,
        gateways,
        resolution,
        http_proxy: http_proxy.map_err(|fault| Failure::usage(fault.to_string()))?,
        carrier: carrier(arguments.mode, &arguments.carrier)?,
        limits,
    })
}

fn carrier(mode: Mode, arguments: &CarrierArgs) -> Result<Carrier, Failure> {
    if arguments.upstream_insecure.is_some() {
        return Err(Failure::usage(INSECURE));
    }
    let identity = |certificate: &Option<_>, key: &Option<_>| {
        let (certificate, key) = (certificate.clone()?, key.clone()?);
        Some(IdentityFiles { certificate, key })
    };
    if mode == Mode::ReOriginate {
        if arguments.proxy_header {
            return Err(Failure::usage("--proxy-header has no meaning with --mode re-originate"));
        }
        let serving = identity(&arguments.serving_cert, &arguments.serving_key);
        let serving = serving.ok_or_else(|| {
            Failure::usage("--mode re-originate needs --serving-cert and --serving-key: the API server's certificate and key")
        })?;
        return Ok(Carrier::Reoriginate { serving, trust: trust(arguments)? });
    }
    if arguments.serving_cert.is_some() {
        return Err(Failure::usage(
            "--serving-cert is for --mode re-originate: in the other modes the API server shows its certificate itself",
        ));
    }
    if arguments.proxy_header {
        return Ok(Carrier::ProxyHeader);
    }
    let identity = identity(&arguments.cert, &arguments.key).ok_or_else(|| {
        Failure::usage("--cert and --key are missing: the gateway admits proxies that its HostedApi's relay.clientAuthorities verify; on a trusted network use --proxy-header")
    })?;
    Ok(Carrier::OuterTls { trust: trust(arguments)?, identity })
}

fn trust(arguments: &CarrierArgs) -> Result<Trust, Failure> {
    match (&arguments.ca, arguments.pin.as_slice()) {
        (Some(file), _) => Ok(Trust::Authorities(file.clone())),
        (None, []) => {
            Err(Failure::usage("--ca or --pin is missing: what the other side must prove"))
        }
        (None, pins) => Ok(Trust::Pins(pins.to_vec())),
    }
}

/// Checks the addresses that the proxy listens on.
pub(super) fn check_addresses(arguments: &ApiProxy) -> Result<(), Failure> {
    let networks = ClusterNetworks {
        pods: arguments.pod_cidr.clone(),
        services: arguments.service_cidr.clone(),
        nodes: Vec::new(),
    };
    if !arguments.keeps_slice() {
        if arguments.advertise_address.is_empty() {
            return Err(Failure::usage(
                "--advertise-address is missing: the IP that kube-apiserver has in its own --advertise-address; --mode slice needs none",
            ));
        }
        for address in &arguments.advertise_address {
            advertisable(*address, &networks)
                .map_err(|fault| Failure::usage(format!("--advertise-address: {fault}")))?;
        }
        return Ok(());
    }
    if arguments.mode == Mode::Slice && !arguments.advertise_address.is_empty() {
        return Err(Failure::usage("--advertise-address is for --mode advertised"));
    }
    let in_service = arguments
        .node_ip
        .iter()
        .find(|ip| arguments.service_cidr.iter().any(|net| net.contains(*ip)));
    match (arguments.node_ip.as_slice(), in_service) {
        ([], _) => Err(Failure::usage(
            "--node-ip is missing: the address on which this proxy listens, from status.podIPs (POD_IPS)",
        )),
        (_, Some(ip)) => Err(Failure::usage(format!(
            "--node-ip {ip} is an address of a Service: kube-proxy cannot lead to one from an EndpointSlice; use the node's or the pod's"
        ))),
        _ if arguments.service_cidr.is_empty() => Err(Failure::usage(
            "--service-cidr is missing: the cluster's Service network, from which no address is ever written to the endpoints of `kubernetes`",
        )),
        _ => Ok(()),
    }
}
