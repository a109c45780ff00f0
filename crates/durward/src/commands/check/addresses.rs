//! Checks that the configuration's addresses are on this host and its ports are free.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener, UdpSocket};

use durward_model::Snapshot;
use durward_model::transport::Transport;

use crate::commands::check::running::Running;
use crate::commands::check::{Category, Missing};

/// Returns the addresses of binds and egress that no interface of this host has.
pub(crate) fn missing(snapshot: &Snapshot) -> Missing {
    let binds = snapshot.sockets().map(|bind| bind.address.ip());
    let binds = binds.filter(|ip| !ip.is_unspecified());
    let egress = snapshot.tenants.values().flat_map(|tenant| &tenant.egress).map(|egress| egress.0);
    binds.chain(egress).filter(|ip| !is_local(*ip)).collect()
}

/// Returns true if an interface has the address: only then it can be bound without further rights.
fn is_local(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::AddrNotAvailable,
    }
}

/// Checks ingress and egress addresses of this host.
pub(crate) fn check(snapshot: &Snapshot, missing: &Missing) -> Category {
    let mut category = Category::new("addresses");
    let mut uses: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for bind in snapshot.sockets().filter(|bind| !bind.address.ip().is_unspecified()) {
        for listener in &bind.listeners {
            note(&mut uses, bind.address.ip(), format!("ingress of {}", listener.tenant));
        }
    }
    for tenant in snapshot.tenants.values() {
        for egress in &tenant.egress {
            note(&mut uses, egress.0, format!("egress of {}", tenant.id));
        }
    }
    for (address, uses) in uses {
        let uses = uses.join(", ");
        if missing.contains(&address) {
            let prefix = if address.is_ipv4() { 32 } else { 128 };
            category.error(
                format!("{address} ({uses}) is not on this host"),
                format!("ip address add {address}/{prefix} dev INTERFACE; it is used as soon as it is there"),
            );
        } else {
            category.ok(format!("{address} ({uses}) is on this host"));
        }
    }
    category
}

fn note(uses: &mut BTreeMap<IpAddr, Vec<String>>, address: IpAddr, of: String) {
    let uses = uses.entry(address).or_default();
    if !uses.contains(&of) {
        uses.push(of);
    }
}

/// Checks that each socket of the configuration can be bound, or is bound by our own running process.
pub(crate) fn ports(snapshot: &Snapshot, missing: &Missing, running: &Running) -> Category {
    let mut category = Category::new("ports");
    let of_tcp = snapshot.binds.keys().map(|address| (Transport::Tcp, *address));
    let of_udp = snapshot.udp.keys().map(|address| (Transport::Udp, *address));
    for (transport, address) in of_tcp.chain(of_udp) {
        if missing.contains(&address.ip()) {
            continue;
        }
        let (tried, sockets) = match transport {
            Transport::Udp => (UdpSocket::bind(address).map(drop), "u"),
            Transport::Tcp | Transport::Sctp => (TcpListener::bind(address).map(drop), "t"),
        };
        match tried {
            Ok(()) => category.ok(format!("{address} is free")),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                if running.serves(transport, address) {
                    category.ok(format!("{address} is served by the durward that runs here"));
                } else {
                    category.error(
                        format!("{address} is in use by another process"),
                        format!("see which: ss -l{sockets}np 'sport = :{}'", address.port()),
                    );
                }
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => category.error(
                format!("{address} may not be bound by this user"),
                "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE",
            ),
            Err(error) => category.error(format!("{address} cannot be bound: {error}"), ""),
        }
    }
    category
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_here_and_a_documentation_address_is_not() {
        assert!(is_local("127.0.0.77".parse().unwrap()));
        assert!(!is_local("203.0.113.77".parse().unwrap()));
    }
}
