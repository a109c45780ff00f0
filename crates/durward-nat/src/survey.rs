//! Survey of a host for anything that would keep mappings from working, without changing it: firewalls, gateways, parameters.
//!
//! Deliberately absent: rules of legacy iptables, which netlink does not report.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use durward_model::mapping::NatModel;
use ipnet::IpNet;
use rustix::io::Errno;

use crate::error::NatError;
use crate::hand_over;
use crate::interface::{Interfaces, Link};
use crate::nftables::{others, probe};
use crate::options::Options;
use crate::rtnetlink::Rtnetlink;
use crate::sysctl::{self, Sysctl, Wrong};

/// Time for a gateway to answer.
const PATIENCE: Duration = Duration::from_millis(1200);

/// Result of a survey.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// External interfaces.
    pub interfaces: Interfaces,
    /// Chains of other programs that drop forwarded packets unless one of their rules accepts them, such as `ip filter FORWARD`.
    pub dropping: Vec<String>,
    /// External interfaces without a gateway, which reach their own networks only.
    pub without_gateway: Vec<String>,
    /// Gateways that do not answer, by interface.
    pub silent_gateways: Vec<(String, IpAddr)>,
    /// Kernel parameters with a wrong value, such as `net/ipv4/ip_forward is 0 instead of 1`.
    pub parameters: Vec<String>,
    /// Interfaces, separated by commas, whose clients `rp_filter` drops because no route leads to them.
    pub no_way_back: Option<String>,
    /// True if the kernel can hand connections to the forward proxy; `None` if none are to be.
    pub hand_over: Option<bool>,
    /// Obstacles that keep some of them from being handed over.
    pub obstacles: Vec<String>,
    /// Bridges towards the cluster without a check of source addresses.
    pub believing: Vec<String>,
    /// External addresses of the model that this host does not have.
    pub missing: BTreeSet<IpAddr>,
}

/// Surveys the host of the calling thread's network namespace; takes a little more than a second where there are gateways.
///
/// # Errors
/// Fails without CAP_NET_ADMIN, or if the kernel does not answer.
pub fn survey(options: &Options, model: &NatModel) -> Result<Survey, NatError> {
    let kernel = |what| move |errno: Errno| NatError::Kernel { what, errno };
    let socket = |what| move |error| NatError::Socket { what, error };
    let route = Rtnetlink::open(options.timeout).map_err(socket("routing"))?;
    let links = route.links(options.protocol).map_err(kernel("interfaces"))?;
    let interfaces = Interfaces::pick(&links, options, &model.slots, &Default::default());
    let dropping = others::dropping_chains(&options.table, options.timeout)?;
    let gateways: Vec<(String, u32, IpAddr)> = interfaces
        .external
        .iter()
        .flat_map(|(name, external)| {
            let v4 = external.gateway_v4.map(IpAddr::V4);
            let all = v4.into_iter().chain(external.gateway_v6.map(IpAddr::V6));
            all.map(move |gateway| (name.clone(), external.index, gateway))
        })
        .collect();
    let without_gateway =
        interfaces.external.keys().filter(|name| !gateways.iter().any(|(with, ..)| with == *name));
    let without_gateway = without_gateway.cloned().collect();
    // Only of a neighbour that was asked does the kernel know whether it answers.
    ask(&gateways);
    let neighbours = route.neighbours().map_err(kernel("neighbours"))?;
    let silent = |(_, index, gateway): &(String, u32, IpAddr)| {
        let known = neighbours.iter().find(|one| one.index == *index && one.address == *gateway);
        known.is_some_and(|known| !known.answered)
    };
    let silent_gateways = gateways.iter().filter(|one| silent(one));
    let silent_gateways = silent_gateways.map(|(name, _, ip)| (name.clone(), *ip)).collect();
    let addresses = model.mappings.iter().flat_map(|mapping| &mapping.addresses).map(|ip| ip.0);
    let missing = addresses.filter(|address| !interfaces.has(*address)).collect();
    let wanted = Sysctl::wanted(&interfaces);
    let (parameters, no_way_back) = (parameters(&wanted), sysctl::no_way_back(&wanted));
    let wanted = model.egress.iter().any(|rule| rule.transparent.is_some());
    let can = wanted.then(|| probe::hand_over(options.timeout)).transpose()?;
    Ok(Survey {
        interfaces,
        dropping,
        without_gateway,
        silent_gateways,
        parameters,
        no_way_back,
        hand_over: can,
        obstacles: if wanted { hand_over::obstacles(&links) } else { Vec::new() },
        believing: believing(&links, &options.cluster),
        missing,
    })
}

/// Returns the bridges towards the cluster without a strict `rp_filter`.
fn believing(links: &[Link], cluster: &[IpNet]) -> Vec<String> {
    let inward = |link: &&Link| {
        let meets = |net: &IpNet| {
            cluster
                .iter()
                .any(|block| block.contains(&net.network()) || net.contains(&block.network()))
        };
        link.bridge && link.addresses.iter().any(meets)
    };
    let bridges = links.iter().filter(inward).filter(|link| !sysctl::is_strict(&link.name));
    bridges.map(|link| link.name.clone()).collect()
}

fn parameters(wanted: &BTreeMap<Sysctl, u32>) -> Vec<String> {
    let wrong = sysctl::wrong(wanted);
    let line = |(sysctl, Wrong { held, wanted }): (&Sysctl, &Wrong)| {
        format!("{sysctl} is {held} instead of {wanted}")
    };
    wrong.iter().map(line).collect()
}

/// Sends each gateway a datagram that expects no answer, so that the kernel resolves its hardware address, and waits for that.
fn ask(gateways: &[(String, u32, IpAddr)]) {
    const DISCARD: u16 = 9;
    let mut asked = false;
    for (name, _, gateway) in gateways {
        let any = if gateway.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let Ok(socket) = UdpSocket::bind((any, 0)) else { continue };
        let bound = socket2::SockRef::from(&socket).bind_device(Some(name.as_bytes()));
        asked |= bound.is_ok() && socket.send_to(&[0], SocketAddr::new(*gateway, DISCARD)).is_ok();
    }
    if asked {
        std::thread::sleep(PATIENCE);
    }
}
