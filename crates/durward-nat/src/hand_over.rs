//! What keeps this host from handing connections to its forward proxy.
//!
//! Deliberately absent: curing it; these parameters belong to network plugins.

use crate::interface::Link;

/// With one of these, a bridge's packets pass the filter before they arrive, and forget their socket when they do.
const PARAMETERS: [&str; 2] = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"];

/// One sentence for each obstacle.
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
