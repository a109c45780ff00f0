//! Obstacles to handing connections to this host's forward proxy.
//!
//! They are reported and not removed, because these parameters belong to network plugins.

use crate::interface::Link;

/// Parameters by which bridged packets pass nftables at the bridge already, and lose the socket that TPROXY assigned when they reach the IP layer.
const PARAMETERS: [&str; 2] = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"];

/// Returns one message per obstacle.
pub(crate) fn obstacles(links: &[Link]) -> Vec<String> {
    let bridges: Vec<&str> =
        links.iter().filter(|link| link.bridge).map(|link| link.name.as_str()).collect();
    if bridges.is_empty() {
        return Vec::new();
    }
    let is_on = |parameter: &&&str| {
        let path = format!("/proc/sys/net/bridge/{parameter}");
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
    };
    let on = PARAMETERS.iter().filter(is_on);
    let bridges = bridges.join(", ");
    on.map(|parameter| {
        format!("what arrives by {bridges} cannot be handed to the proxy while net.bridge.{parameter} is 1")
    })
    .collect()
}
