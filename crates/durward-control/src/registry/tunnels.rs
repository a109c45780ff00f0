//! TCP and UDP services of a link's cluster over REST, in the form of PipeOps' agent: which port of the tenant's address leads to which.
//!
//! Ports are the document's: a service has one if an upstream behind the link names it as its endpoint. Nothing is stored.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use durward_model::link::Link;
use durward_model::transport::Transport;
use durward_model::upstream::Target;
use durward_model::{Listener, Service, Tenant};
use serde_json::{Value, json};

use super::fields::{BadField, Object};
use super::rest::{Answer, label, own_cluster};

/// Tunnels of one `sync` at most.
const TUNNELS: usize = 1_000;

/// Request about the tunnels of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelCall {
    /// Names all of them.
    List,
    /// Asks for the port of one.
    Register,
    /// Asks for the ports of many.
    Sync,
    /// Gives one up.
    Withdraw,
}

/// Answers a call for the tunnels of `cluster`, from what is served of the tenant of `link`.
#[must_use]
pub fn answer(
    (tenant, link): (&Tenant, &Link),
    cluster: &str,
    call: &TunnelCall,
    body: &[u8],
) -> Answer {
    let ports = Ports::of(tenant, &link.name);
    let answered = own_cluster(link, cluster).and_then(|()| match call {
        TunnelCall::List => {
            let all = ports.0.iter().map(|(service, at)| listed(cluster, service, *at));
            Ok(Answer::tunnels(Value::Array(all.collect())))
        }
        TunnelCall::Register => {
            let body = read(body)?;
            let tunnel = Tunnel::read(&Object::of(&body)?, cluster)?;
            let at = ports.find(&tunnel).ok_or_else(|| {
                Answer::failure(403, "no_port", "service_name", &tunnel.without_port(link))
            })?;
            Ok(Answer::tunnels(registered(&body, at)))
        }
        TunnelCall::Sync => sync(&ports, link, cluster, &read(body)?),
        // The port stays the service's as long as the document says so.
        TunnelCall::Withdraw => Ok(Answer::tunnels(json!({"success": true}))),
    });
    answered.unwrap_or_else(|answer| answer)
}

fn read(body: &[u8]) -> Result<Value, Answer> {
    serde_json::from_slice(body).map_err(|error| {
        Answer::failure(400, "bad_request", "", &format!("the body is not JSON: {error}"))
    })
}

fn sync(ports: &Ports, link: &Link, cluster: &str, body: &Value) -> Result<Answer, Answer> {
    let object = Object::of(body)?;
    own_uuid(&object, cluster)?;
    let tunnels = object.objects("tunnels")?;
    if tunnels.len() > TUNNELS {
        let sentence = format!("has more than {TUNNELS}: send them in several parts");
        return Err(object.bad("tunnels", sentence).into());
    }
    let values = body["tunnels"].as_array().map_or(&[][..], Vec::as_slice);
    let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
    for (tunnel, value) in tunnels.iter().zip(values) {
        let tunnel = Tunnel::read(tunnel, cluster)?;
        match ports.find(&tunnel) {
            Some(at) => accepted.push(registered(value, at)),
            None => {
                rejected.push(json!({"tunnel_id": tunnel.id, "reason": tunnel.without_port(link)}))
            }
        }
    }
    Ok(Answer::tunnels(json!({"accepted": accepted, "rejected": rejected})))
}

/// A service as the agent asks for it.
struct Tunnel {
    id: String,
    service: ServiceKey,
}

/// Protocol, host and port of a service.
type ServiceKey = (Transport, String, u16);

impl Tunnel {
    fn read(body: &Object<'_>, cluster: &str) -> Result<Self, BadField> {
        own_uuid(body, cluster)?;
        let transport = match body.text("protocol")? {
            "tcp" | "TCP" => Transport::Tcp,
            "udp" | "UDP" => Transport::Udp,
            _ => return Err(body.bad("protocol", "is neither tcp nor udp")),
        };
        let (name, namespace) = (label(body, "service_name")?, label(body, "service_namespace")?);
        let host = format!("{name}.{namespace}.svc.cluster.local");
        let port = body.port("service_port")?;
        let id = body.optional_text("tunnel_id")?.unwrap_or_default().to_owned();
        Ok(Self { id, service: (transport, host, port) })
    }

    fn without_port(&self, link: &Link) -> String {
        let (transport, host, port) = &self.service;
        let protocol = transport.to_string().to_uppercase();
        format!(
            "no {protocol} entry of the tenant leads to {host}:{port} by the link {}: write one in spec.ingress with an upstream that has this endpoint",
            link.name
        )
    }
}

fn own_uuid(body: &Object<'_>, cluster: &str) -> Result<(), BadField> {
    match body.optional_text("cluster_uuid")? {
        Some(other) if other != cluster => {
            Err(body.bad("cluster_uuid", "is not the cluster of the path"))
        }
        _ => Ok(()),
    }
}

/// Places at which the services of a link are reached.
struct Ports(BTreeMap<ServiceKey, SocketAddr>);

impl Ports {
    fn of(tenant: &Tenant, link: &str) -> Self {
        let mut ports = BTreeMap::new();
        for listener in &tenant.listeners {
            for service in services(tenant, listener, link) {
                let at = SocketAddr::new(listener.address.0, listener.port);
                ports.entry(service).or_insert(at);
            }
        }
        Self(ports)
    }

    fn find(&self, tunnel: &Tunnel) -> Option<SocketAddr> {
        self.0.get(&tunnel.service).copied()
    }
}

/// Returns the services that a listener for bytes or datagrams leads to by a link.
fn services<'t>(
    tenant: &'t Tenant,
    listener: &'t Listener,
    link: &'t str,
) -> impl Iterator<Item = ServiceKey> + 't {
    let upstreams = match &listener.service {
        Service::Tcp(service) => &service.upstreams[..],
        Service::Udp(service) => &service.upstreams,
        Service::Http(_) | Service::PassThrough(_) | Service::Forward(_) | Service::Link(_) => &[],
    };
    let upstreams = upstreams.iter().map(|choice| tenant.upstream(choice.upstream));
    let own = upstreams.filter(move |upstream| upstream.link.as_deref() == Some(link));
    let transport = listener.transport();
    own.flat_map(|upstream| &upstream.endpoints).filter_map(move |endpoint| {
        match &endpoint.target {
            Target::Name { host, port } => Some((transport, full(host), *port)),
            Target::Address(_) => None,
        }
    })
}

/// Returns the name of a Service with the domain of clusters.
fn full(host: &str) -> String {
    if host.ends_with(".svc") { format!("{host}.cluster.local") } else { host.to_owned() }
}

/// Returns the body as it came, with the place at which clients reach the service.
fn registered(body: &Value, at: SocketAddr) -> Value {
    let mut body = body.clone();
    body["routing_mode"] = json!("tunnel");
    body["tunnel_port"] = json!(at.port());
    body["tunnel_endpoint"] = json!(at.to_string());
    body
}

fn listed(cluster: &str, (transport, host, port): &ServiceKey, at: SocketAddr) -> Value {
    let mut labels = host.split('.');
    let (name, namespace) = (labels.next().unwrap_or_default(), labels.next().unwrap_or_default());
    json!({
        "cluster_uuid": cluster, "protocol": transport.to_string(), "service_name": name, "service_namespace": namespace, "service_port": port,
        "tunnel_id": format!("{transport}-{cluster}-{name}-{}", at.port()), "routing_mode": "tunnel", "tunnel_port": at.port(), "tunnel_endpoint": at.to_string()
    })
}
