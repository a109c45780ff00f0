//! The whole kernel state of either side, as text.

use durward_nat::steer::{Host, Options, Side, desired};

use super::lab::{GATEWAY, NODE, node, options};
use crate::golden::assert_golden;

fn host(local: &str, link: Option<u32>) -> Host {
    Host { underlay: Some((local.parse().unwrap(), 1500)), link }
}

#[test]
fn a_node() {
    let wanted =
        desired(&options(), &node(&["10.244.3.0/25", "fd00:244:3::/64"]), host(NODE, Some(9)));

    assert_golden("steer_node", &wanted.to_string());
}

#[test]
fn a_gateway() {
    let pods = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
    let nodes = [
        (NODE.parse().unwrap(), pods(&["10.244.3.0/24", "fd00:244:3::/64"])),
        ("192.168.50.22".parse().unwrap(), pods(&["10.244.4.0/24"])),
    ];

    let side = Side::Gateway { nodes: nodes.into() };
    let wanted = desired(&options(), &side, host(&GATEWAY.to_string(), Some(9)));

    assert_golden("steer_gateway", &wanted.to_string());
}

// S2.56+
#[test]
fn without_a_way_to_the_gateway_the_refusals_are_left() {
    let side = node(&["10.244.3.0/25"]);
    let whole = desired(&options(), &side, host(NODE, Some(9)));

    let without = desired(&options(), &side, Host::default());

    assert_eq!(without.ruleset, whole.ruleset);
    assert_eq!(without.tunnel, None);
    let routes: Vec<String> = without.routing.routes.iter().map(ToString::to_string).collect();
    assert_eq!(
        routes,
        [
            "route 0.0.0.0/0 unreachable table 10099 metric 4294901760",
            "route 192.168.50.1/32 throw table 10099 metric 0"
        ]
    );
    let narrow = Options { mtu: Some(1280), ..options() };
    assert_eq!(desired(&narrow, &side, host(NODE, None)).tunnel.unwrap().mtu, 1280);
    assert_eq!(whole.tunnel.unwrap().mtu, 1450);
}
