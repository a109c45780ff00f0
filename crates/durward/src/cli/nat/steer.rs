//! Options of steering: the side of the tunnel, and the tunnel's numbers.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use clap::Args;
use durward_nat::steer::{Options, RULE_GROUPS, Side, table_beside};
use ipnet::IpNet;

use crate::cli::ConfigArgs;
use crate::failure::Failure;

/// Largest priority of the first group of rules: the last group precedes the rule of the host's main table, 32766.
const LAST_RULE: i64 = 32_766 - RULE_GROUPS as i64 + 1;

/// `durward nat steer`
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("side").required(true))]
pub(crate) struct SteerArgs {
    /// Run on a node: send egress traffic of pods in egress.sources to the gateway with this underlay address
    #[arg(long, value_name = "IP", group = "side")]
    pub(crate) gateway: Option<Ipv4Addr>,
    /// Run on the gateway: underlay address of a node and the networks of its pods, IP=CIDR,CIDR; once per node
    #[arg(long, value_name = "IP=CIDR", group = "side", value_parser = parse_node)]
    pub(crate) node: Vec<(Ipv4Addr, Vec<IpNet>)>,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Networks of pods, nodes and services, comma-separated; packets to them are not sent to the gateway. Required on a node
    #[arg(
        long,
        value_name = "CIDR",
        env = "DURWARD_NAT_CLUSTER",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub(crate) nat_cluster: Vec<IpNet>,
    /// Underlay address of this host [default: the source address of the route to the other end]
    #[arg(long, value_name = "IP")]
    pub(crate) local: Option<Ipv4Addr>,
    /// VXLAN network identifier (VNI) of the tunnel, the same at both ends
    #[arg(long, value_name = "N", default_value_t = 157, value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    pub(crate) vni: u32,
    /// UDP port of the tunnel, the same at both ends
    #[arg(long, value_name = "PORT", default_value_t = 4789, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// MTU of the tunnel in bytes [default: the underlay's less 50]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1280..=65_535))]
    pub(crate) mtu: Option<u32>,
    /// Name of the tunnel's network interface
    #[arg(long, value_name = "NAME", default_value = "durward0", value_parser = parse_link)]
    pub(crate) link: String,
    /// Bit of the packet mark for packets to be sent to the gateway
    #[arg(long, value_name = "BIT", default_value = "0x20", value_parser = parse_mark)]
    pub(crate) mark: u32,
    /// Bit of the packet mark for packets that keep the node's own routes: replies of node ports and packets to pods
    #[arg(long, value_name = "BIT", default_value = "0x40", value_parser = parse_mark)]
    pub(crate) pass_mark: u32,
    /// Number of the routing table with the route to the gateway
    #[arg(long, value_name = "NUMBER", default_value_t = 10099)]
    pub(crate) routing_table: u32,
    /// Priority of the first of five groups of routing rules
    #[arg(long, value_name = "NUMBER", default_value_t = 994, value_parser = clap::value_parser!(u32).range(1..LAST_RULE))]
    pub(crate) rule_priority: u32,
    /// Name of Durward's nftables table; the table of this command has -steer appended
    #[arg(
        long,
        value_name = "NAME",
        env = "DURWARD_NAT_TABLE",
        hide_env_values = true,
        default_value = "durward"
    )]
    pub(crate) nat_table: String,
    /// Let other programs change that table; their changes are undone
    #[arg(long, env = "DURWARD_NAT_SHARED_TABLE", hide_env_values = true)]
    pub(crate) nat_shared_table: bool,
    /// Show what would change in the kernel, without changing it, and exit with code 1 if anything would
    #[arg(long)]
    pub(crate) diff: bool,
}

impl SteerArgs {
    /// Converts to the options of the tunnel.
    ///
    /// # Errors
    /// Fails if a required value is missing.
    pub(crate) fn options(&self) -> Result<Options, Failure> {
        if self.gateway.is_some() && self.nat_cluster.is_empty() {
            let message = "--nat-cluster is missing: without the networks of pods, nodes and services the node could not reach them any more";
            return Err(Failure::usage(message));
        }
        if self.mark == self.pass_mark {
            let message =
                format!("--mark and --pass-mark are both {:#x}: choose two bits", self.mark);
            return Err(Failure::usage(message));
        }
        Ok(Options {
            table: table_beside(&self.nat_table),
            own_table: !self.nat_shared_table,
            link: self.link.clone(),
            vni: self.vni,
            port: self.port,
            local: self.local,
            mtu: self.mtu,
            cluster: self.nat_cluster.clone(),
            mark: self.mark,
            pass_mark: self.pass_mark,
            routing_table: self.routing_table,
            rule_priority: self.rule_priority,
            ..Options::default()
        })
    }

    /// Returns the gateway's side, if this is it.
    ///
    /// # Errors
    /// Fails if two nodes claim one network.
    pub(crate) fn gateway_side(&self) -> Result<Option<Side>, Failure> {
        if self.gateway.is_some() {
            return Ok(None);
        }
        let mut nodes: BTreeMap<Ipv4Addr, Vec<IpNet>> = BTreeMap::new();
        for (node, networks) in &self.node {
            for network in networks {
                let taken = |other: &IpNet| other.contains(network) || network.contains(other);
                let holder = nodes.iter().find(|(_, theirs)| theirs.iter().any(taken));
                if let Some((holder, _)) = holder {
                    let message = format!(
                        "--node {node}={network}: {holder} has that network, or part of it"
                    );
                    return Err(Failure::usage(message));
                }
                nodes.entry(*node).or_default().push(*network);
            }
        }
        Ok(Some(Side::Gateway { nodes }))
    }
}

fn parse_node(text: &str) -> Result<(Ipv4Addr, Vec<IpNet>), String> {
    let fault = || format!("{text:?} is not IP=CIDR, with commas between networks");
    let (node, networks) = text.split_once('=').ok_or_else(fault)?;
    let node = node.parse().map_err(|_| fault())?;
    let networks = networks.split(',').map(|net| net.parse::<IpNet>().map(|net| net.trunc()));
    Ok((node, networks.collect::<Result<_, _>>().map_err(|_| fault())?))
}

/// Parses an interface name as Linux accepts it.
fn parse_link(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    let sound = (1..16).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('.');
    sound.then(|| text.to_owned()).ok_or_else(|| format!("{text:?} is not a valid interface name"))
}

fn parse_mark(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0x");
    let number = digits.map_or_else(|| text.parse(), |digits| u32::from_str_radix(digits, 16));
    let bit = number.ok().filter(|number: &u32| number.is_power_of_two());
    bit.ok_or_else(|| format!("{text:?} is not one bit, such as 0x20"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &[&str]) -> Result<SteerArgs, clap::Error> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            steer: SteerArgs,
        }
        let line = clap::Parser::try_parse_from([&["durward"], line].concat());
        line.map(|line: Line| line.steer)
    }

    #[test]
    fn a_host_is_one_side_and_nothing_overlaps() {
        let gateway = |nodes: &[&str]| {
            let line: Vec<&str> = nodes.iter().flat_map(|node| ["--node", node]).collect();
            arguments(&line).unwrap().gateway_side()
        };

        let Ok(Some(Side::Gateway { nodes })) =
            gateway(&["192.0.2.1=10.1.0.0/24,fd00:1::/64", "192.0.2.2=10.2.0.9/24"])
        else {
            panic!("both are sound")
        };
        assert_eq!(nodes.len(), 2);
        assert_eq!(nodes[&Ipv4Addr::new(192, 0, 2, 2)][0].to_string(), "10.2.0.0/24");
        let taken = gateway(&["192.0.2.1=10.1.0.0/16", "192.0.2.2=10.1.2.0/24"]).unwrap_err();
        assert!(taken.to_string().contains("192.0.2.1 has that network"), "{taken}");
        assert!(arguments(&[]).is_err());
        assert!(arguments(&["--gateway", "192.0.2.9", "--node", "192.0.2.1=10.1.0.0/16"]).is_err());
        let node = ["--gateway", "192.0.2.9", "--nat-cluster", "10.0.0.0/8"];
        let same = arguments(&[&node[..], &["--mark", "0x40"]].concat()).unwrap().options();
        assert!(same.unwrap_err().to_string().contains("--pass-mark are both 0x40"));
        assert!(arguments(&[&node[..], &["--rule-priority", "32762"]].concat()).is_err());
        assert!(arguments(&[&node[..], &["--rule-priority", "32761"]].concat()).is_ok());
        let bare = arguments(&["--gateway", "192.0.2.9"]).unwrap().options().unwrap_err();
        assert!(bare.to_string().contains("--nat-cluster"), "{bare}");
    }

    #[test]
    fn links_and_marks_are_read_strictly() {
        assert_eq!(parse_mark("0x20"), Ok(0x20));
        for junk in ["0", "0x30", "red", "0x1ffffffff"] {
            assert!(parse_mark(junk).is_err(), "{junk}");
        }
        assert!(parse_link("durward0").is_ok());
        for junk in ["", "a/b", "a b", "sixteen-is-plenty", "."] {
            assert!(parse_link(junk).is_err(), "{junk}");
        }
        for junk in ["192.0.2.1", "192.0.2.1=", "192.0.2.1=x", "::1=10.0.0.0/8"] {
            assert!(parse_node(junk).is_err(), "{junk}");
        }
    }
}
