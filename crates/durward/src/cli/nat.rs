//! Options of the kernel plane on the command line or in the environment: interfaces, gateways, numbers.
//!
//! SmartNat's `SNCTRLR_*` variables are read where ours are not set.

mod steer;
mod trace;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Args, Subcommand};
use durward_control::spec::smartnat::SmartNatOptions;
use durward_kube::smartnat;
use durward_model::transport::Transport;
use durward_nat::Options;
use durward_nat::interface::full_match;
use durward_nat::options::{AssignedAddress, GatewayRule, LocalService};
use ipnet::IpNet;

use super::{ConfigArgs, OutputArgs, parse_duration};
use crate::failure::Failure;
pub(crate) use steer::SteerArgs;
pub(crate) use trace::TraceArgs;

const HEADING: &str = "Options for port mappings and egress.sources";

/// What a host decides for the kernel's share.
#[derive(Args, Clone, Debug)]
pub(crate) struct NatArgs {
    /// External interfaces: a regular expression that matches the whole name, such as `eth[1-9][0-9]*`. Packets that arrive there are dropped unless they are mapped, let in, or replies
    #[arg(long, value_name = "PATTERN", env = "DURWARD_NAT_EXTERNAL", hide_env_values = true, help_heading = HEADING)]
    pub(crate) nat_external: Option<String>,
    /// Interfaces that are not external even if --nat-external matches them, comma-separated
    #[arg(long, value_name = "NAME", env = "DURWARD_NAT_NOT_EXTERNAL", hide_env_values = true, value_delimiter = ',', help_heading = HEADING)]
    pub(crate) nat_not_external: Vec<String>,
    /// Gateways of external interfaces: `learned` (from the host's default routes), an offset in the interface's network (1 is its first address, -1 its last), or INTERFACE=IP, comma-separated [default: learned]
    #[arg(long, value_name = "HOW", env = "DURWARD_NAT_GATEWAY", hide_env_values = true, allow_hyphen_values = true, help_heading = HEADING)]
    pub(crate) nat_gateway: Option<String>,
    /// Networks of pods and nodes, comma-separated; what is sent there is not egress, and packets from outside with such a source are dropped
    #[arg(long, value_name = "CIDR", env = "DURWARD_NAT_CLUSTER", hide_env_values = true, value_delimiter = ',', help_heading = HEADING)]
    pub(crate) nat_cluster: Vec<IpNet>,
    /// This host's addresses towards the cluster, one per family, comma-separated; endpoints of mappings with `source: Gateway` see them [default: the interface's own]
    #[arg(long, value_name = "IP", env = "DURWARD_NAT_CLUSTER_ADDRESS", hide_env_values = true, value_delimiter = ',', help_heading = HEADING)]
    pub(crate) nat_cluster_address: Vec<IpAddr>,
    /// Services of this host, besides Durward's listeners, that are reachable from outside: PORT/tcp or ADDRESS:PORT/udp, comma-separated
    #[arg(long, value_name = "SERVICE", env = "DURWARD_NAT_LET_IN", hide_env_values = true, value_delimiter = ',', value_parser = parse_service, help_heading = HEADING)]
    pub(crate) nat_let_in: Vec<LocalService>,
    /// Addresses to assign to interfaces and to announce by ARP and neighbour discovery: INTERFACE=IP/LEN, comma-separated
    #[arg(long, value_name = "ADDRESS", env = "DURWARD_NAT_ADDRESS", hide_env_values = true, value_delimiter = ',', value_parser = parse_address, help_heading = HEADING)]
    pub(crate) nat_address: Vec<(IpAddr, AssignedAddress)>,
    /// Bits of the packet mark that Durward uses: eight adjoining ones
    #[arg(long, value_name = "MASK", env = "DURWARD_NAT_MARK_MASK", hide_env_values = true, default_value = "0xff00", value_parser = parse_mask, help_heading = HEADING)]
    pub(crate) nat_mark_mask: u32,
    /// Number of the first routing table; the tables of external interfaces have the numbers after it
    #[arg(long, value_name = "NUMBER", env = "DURWARD_NAT_ROUTING_TABLE", hide_env_values = true, default_value_t = 10100, help_heading = HEADING)]
    pub(crate) nat_routing_table: u32,
    /// Priority of the first of six groups of routing rules
    #[arg(long, value_name = "NUMBER", env = "DURWARD_NAT_RULE_PRIORITY", hide_env_values = true, default_value_t = 999, help_heading = HEADING)]
    pub(crate) nat_rule_priority: u32,
    /// Name of Durward's nftables table
    #[arg(long, value_name = "NAME", env = "DURWARD_NAT_TABLE", hide_env_values = true, default_value = "durward", help_heading = HEADING)]
    pub(crate) nat_table: String,
    /// Let other programs change the nftables table; their changes are undone. Without this flag the kernel (Linux 6.9 or newer) keeps them from it
    #[arg(long, env = "DURWARD_NAT_SHARED_TABLE", hide_env_values = true, help_heading = HEADING)]
    pub(crate) nat_shared_table: bool,
    /// Only check kernel parameters (sysctl), do not set them
    #[arg(long, env = "DURWARD_NAT_KEEP_SYSCTLS", hide_env_values = true, help_heading = HEADING)]
    pub(crate) nat_keep_sysctls: bool,
    /// Interval at which the kernel's state is compared with the configuration even if nothing changed [default: 60s]
    #[arg(long, value_name = "DURATION", env = "DURWARD_NAT_AUDIT", hide_env_values = true, value_parser = parse_duration, help_heading = HEADING)]
    pub(crate) nat_audit: Option<Duration>,
}

const LIST_HELP: &str = "\
Exit codes: 1 if the kernel lacks a mapping, 3 if a document is not wholly accepted.
Without --nat-external the running gateway is asked; with it the kernel is read, which needs CAP_NET_ADMIN.";

const DIFF_HELP: &str = "\
Exit codes: 1 if something would change, 3 if a document is not wholly accepted.
Of a rejected document a running gateway keeps what it served before.";

const STEER_HELP: &str = "\
The pod's own address is kept as the source. The command runs until SIGTERM or SIGINT; \
what it set up in the kernel stays and goes on working.";

/// `durward nat`
#[derive(Args, Debug)]
pub(crate) struct NatCommand {
    #[command(subcommand)]
    pub(crate) what: NatWhat,
}

/// What is done with the kernel's share.
#[derive(Debug, Subcommand)]
pub(crate) enum NatWhat {
    /// List port mappings: whether the kernel has each, and how many connections it began
    #[command(after_help = LIST_HELP)]
    List {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        nat: NatArgs,
        /// Admin listener of the running gateway, which is asked if --nat-external is not given
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9440", value_parser = super::parse_admin)]
        admin: super::Admin,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show what a configuration would change in the kernel, without changing it
    #[command(after_help = DIFF_HELP)]
    Diff {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        nat: NatArgs,
        /// Also show the rules and sets of a table that does not exist yet
        #[arg(long)]
        program: bool,
    },
    /// Trace packets through all nftables tables of the kernel; Durward's rules are shown in words
    #[command(
        after_help = "All packets of the host are slowed down a little while the trace runs."
    )]
    Trace(Box<TraceArgs>),
    /// Run one end of the tunnel that takes egress traffic of pods from their node to the gateway
    #[command(after_help = STEER_HELP)]
    Steer(Box<SteerArgs>),
    /// Remove everything of Durward's from the kernel (tables, routes, rules, links, addresses), and restore kernel parameters
    Cleanup {
        #[command(flatten)]
        nat: NatArgs,
    },
}

impl NatArgs {
    /// Converts to the options of the kernel plane.
    ///
    /// # Errors
    /// Fails if values contradict each other or make no sense; the message names them.
    pub(crate) fn options(&self) -> Result<Options, Failure> {
        self.options_with(&Seed::environment())
    }

    fn options_with(&self, seed: &Seed) -> Result<Options, Failure> {
        let defaults = Options::default();
        let mut not_external = self.nat_not_external.clone();
        not_external.extend(seed.text("DEFAULT_GW_INTERFACE"));
        let mut inner = self.nat_cluster_address.iter();
        let cluster_address_v4 = inner.clone().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let cluster_address_v6 = inner.find_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        });
        let external = self.nat_external.clone().or_else(|| seed.text("INTERFACES_PATTERN"));
        let unreadable = |pattern: &&String| !pattern.is_empty() && full_match(pattern).is_none();
        if let Some(pattern) = external.as_ref().filter(unreadable) {
            return Err(Failure::usage(format!(
                "--nat-external {pattern:?} is not a regular expression such as eth[1-9][0-9]*"
            )));
        }
        let audit = seed.seconds("AUTOREFRESH_PERIOD_SEC")?;
        Ok(Options {
            table: self.nat_table.clone(),
            own_table: !self.nat_shared_table,
            external: external.unwrap_or_default(),
            not_external,
            gateway: self.gateway(seed)?,
            cluster: self.nat_cluster.clone(),
            cluster_address_v4,
            cluster_address_v6,
            local: self.nat_let_in.clone(),
            mark_mask: self.nat_mark_mask,
            routing_table: self.nat_routing_table,
            rule_priority: self.nat_rule_priority,
            addresses: self.nat_address.iter().cloned().collect(),
            set_sysctls: !self.nat_keep_sysctls,
            audit: self.nat_audit.or(audit).unwrap_or(defaults.audit),
            timeout: seed.seconds("IPTABLES_TIMEOUT_SEC")?.unwrap_or(defaults.timeout),
            ..defaults
        })
    }

    fn gateway(&self, seed: &Seed) -> Result<GatewayRule, Failure> {
        if let Some(text) = &self.nat_gateway {
            return parse_gateway(text)
                .map_err(|fault| Failure::usage(format!("--nat-gateway {text:?} {fault}")));
        }
        // Users of SmartNat's variables get its documented default: the first address.
        let from_there = self.nat_external.is_none() && seed.text("INTERFACES_PATTERN").is_some();
        match seed.text("GW_ADDRESS_OFFSET") {
            Some(text) => match text.parse() {
                Ok(offset) if offset != 0 => Ok(GatewayRule::Offset(offset)),
                _ => Err(Failure::usage(format!(
                    "SNCTRLR_GW_ADDRESS_OFFSET {text:?} is not an offset such as 1 or -1"
                ))),
            },
            None if from_there => Ok(GatewayRule::Offset(1)),
            None => Ok(GatewayRule::Learned),
        }
    }
}

/// SmartNat's variables, `SNCTRLR_*`, without the prefix. They mean what SmartNat's documentation says, even if its code differs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seed(BTreeMap<String, String>);

impl Seed {
    /// Reads the variables of this process.
    pub(crate) fn environment() -> Self {
        let ours = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.to_str()?.strip_prefix("SNCTRLR_")?.to_owned();
            Some((name, value.to_str()?.to_owned()))
        });
        Self(ours.collect())
    }

    /// Returns the text of a variable; an empty one is unset.
    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|value| !value.is_empty()).cloned()
    }

    fn seconds(&self, name: &str) -> Result<Option<Duration>, Failure> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(0) | Err(_) => {
                Err(Failure::usage(format!("SNCTRLR_{name} {text:?} is not a number of seconds")))
            }
            Ok(number) => Ok(Some(Duration::from_secs(number))),
        }
    }

    /// Returns how Mapping objects are read by the gateway of this name.
    ///
    /// # Errors
    /// Fails if a variable is not a number; the message names it.
    pub(crate) fn mappings(&self, instance: &str) -> Result<smartnat::Options, Failure> {
        let defaults = smartnat::Options::new(instance);
        let number = |name: &str, most: u64, what: &str| match self.text(name) {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
                _ => {
                    let message = format!(
                        "SNCTRLR_{name} {text:?} is not a number of {what} from 1 to {most}"
                    );
                    Err(Failure::usage(message))
                }
            },
        };
        let most_ports = number("MAX_PORTS_PER_MAPPING", 10_000, "ports")?;
        let minutes = number("MAX_FINALIZE_WAIT_MINUTES", 525_600, "minutes")?;
        let contents = defaults.contents;
        Ok(smartnat::Options {
            contents: SmartNatOptions {
                masquerade: self.switch("SETUP_MASQUERADE").unwrap_or(contents.masquerade),
                snat: self.switch("SETUP_SNAT").unwrap_or(contents.snat),
                most_ports: most_ports
                    .and_then(|most| usize::try_from(most).ok())
                    .unwrap_or(contents.most_ports),
            },
            longest_wait: minutes.map_or(defaults.longest_wait, Duration::from_mins),
            ..defaults
        })
    }

    /// Returns true if debug logging is on: `true`, `t` or `1`, in any case. Unset is off.
    pub(crate) fn debug(&self) -> bool {
        self.switch("DEBUG_ENABLED").unwrap_or(false)
    }

    /// Parses a switch; `None` if it is not set.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        let text = self.text(name)?.to_ascii_lowercase();
        Some(matches!(text.as_str(), "true" | "t" | "1"))
    }

    /// Returns the address for `/healthcheck`: port 8080 and loopback if only the other is set; an empty address means all.
    pub(crate) fn monitor(&self) -> Result<Option<SocketAddr>, Failure> {
        let (port, ip) = (self.text("MONITOR_PORT"), self.0.get("MONITOR_IP"));
        if port.is_none() && ip.is_none() {
            return Ok(None);
        }
        let fault = |name, text: &str, what| {
            Failure::usage(format!("SNCTRLR_MONITOR_{name} {text:?} is not {what}"))
        };
        let port = match &port {
            Some(text) => text.parse().map_err(|_| fault("PORT", text, "a port"))?,
            None => 8080,
        };
        let ip = match ip.map(String::as_str) {
            None => IpAddr::from([127, 0, 0, 1]),
            Some("") => IpAddr::from([0; 4]),
            Some(text) => text.parse().map_err(|_| fault("IP", text, "an IP address"))?,
        };
        Ok(Some(SocketAddr::new(ip, port)))
    }
}

fn parse_gateway(text: &str) -> Result<GatewayRule, &'static str> {
    const FAULT: &str = "is neither `learned`, an offset such as 1 or -1, nor INTERFACE=IP";
    if text == "learned" {
        return Ok(GatewayRule::Learned);
    }
    if let Ok(offset) = text.parse::<i32>() {
        return if offset == 0 { Err(FAULT) } else { Ok(GatewayRule::Offset(offset)) };
    }
    let mut gateways: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for part in text.split(',') {
        let (interface, address) = part.split_once('=').ok_or(FAULT)?;
        let address = address.parse().map_err(|_| FAULT)?;
        gateways.entry(interface.to_owned()).or_default().push(address);
    }
    Ok(GatewayRule::Configured(gateways))
}

fn parse_mask(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0x");
    let number = digits.map_or_else(|| text.parse(), |digits| u32::from_str_radix(digits, 16));
    let number: u32 = number.map_err(|_| format!("{text:?} is not a number such as 0xff00"))?;
    if number >> number.trailing_zeros().min(31) == 0xff {
        Ok(number)
    } else {
        Err(format!("{text:?} is not eight adjoining bits, such as 0xff00"))
    }
}

fn parse_service(text: &str) -> Result<LocalService, String> {
    let fault = || format!("{text:?} is not PORT/tcp or ADDRESS:PORT/udp");
    let (place, protocol) = text.split_once('/').ok_or_else(fault)?;
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        "sctp" => Transport::Sctp,
        _ => return Err(fault()),
    };
    if let Ok(port) = place.parse() {
        return Ok(LocalService { address: IpAddr::from([0; 16]), protocol, port });
    }
    let at: SocketAddr = place.parse().map_err(|_| fault())?;
    Ok(LocalService { address: at.ip(), protocol, port: at.port() })
}

fn parse_address(text: &str) -> Result<(IpAddr, AssignedAddress), String> {
    let fault = || format!("{text:?} is not INTERFACE=IP/LEN");
    let (interface, net) = text.split_once('=').ok_or_else(fault)?;
    let net: IpNet = net.parse().map_err(|_| fault())?;
    let (interface, prefix_len) = (interface.to_owned(), net.prefix_len());
    Ok((net.addr(), AssignedAddress { interface, prefix_len, valid: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    // S5.23+
    #[test]
    fn gateways_are_learned_counted_or_written() {
        assert_eq!(parse_gateway("learned"), Ok(GatewayRule::Learned));
        assert_eq!(parse_gateway("-1"), Ok(GatewayRule::Offset(-1)));
        let written = parse_gateway("eth1=203.0.113.1,eth1=2001:db8::1,eth2=198.51.100.1").unwrap();
        let GatewayRule::Configured(written) = written else { panic!("{written:?}") };
        assert_eq!((written["eth1"].len(), written["eth2"].len()), (2, 1));
        for junk in ["", "0", "eth1", "eth1=x", "first"] {
            assert!(parse_gateway(junk).is_err(), "{junk}");
        }
    }

    #[test]
    fn masks_services_and_addresses_are_read_strictly() {
        assert_eq!(parse_mask("0xff00"), Ok(0xff00));
        assert_eq!(parse_mask("0xff000000"), Ok(0xff00_0000));
        for junk in ["0", "0xf00", "0xfff00", "0xff0f", "red"] {
            assert!(parse_mask(junk).is_err(), "{junk}");
        }
        assert_eq!(parse_service("22/tcp").unwrap().port, 22);
        assert_eq!(parse_service("[2001:db8::1]:53/UDP").unwrap().protocol, Transport::Udp);
        for junk in ["22", "22/icmp", "x/tcp", "1.2.3.4/tcp"] {
            assert!(parse_service(junk).is_err(), "{junk}");
        }
        assert_eq!(parse_address("eth1=203.0.113.9/24").unwrap().1.prefix_len, 24);
        assert!(parse_address("203.0.113.9/24").is_err());
    }

    #[test]
    fn a_pattern_that_cannot_be_meant_is_an_error_of_use() {
        let told = options(&["--nat-external", "eth["], &[]).unwrap_err();

        assert!(told.contains("--nat-external \"eth[\" is not a regular expression"), "{told}");
        assert!(options(&["--nat-external", "eth[0-9]"], &[]).is_ok());
    }

    fn seed(pairs: &[(&str, &str)]) -> Seed {
        Seed(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn options(arguments: &[&str], pairs: &[(&str, &str)]) -> Result<Options, String> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            nat: NatArgs,
        }
        let line: Line = clap::Parser::parse_from([&["durward"], arguments].concat());
        line.nat.options_with(&seed(pairs)).map_err(|failure| failure.to_string())
    }

    // S5.21+ S5.22+ S5.23 S5.28 S5.29+
    #[test]
    fn smartnats_variables_are_read_where_ours_are_not_set() {
        let theirs = [
            ("INTERFACES_PATTERN", "eth[1-9][0-9]*"),
            ("DEFAULT_GW_INTERFACE", "eth0"),
            ("GW_ADDRESS_OFFSET", "-1"),
            ("AUTOREFRESH_PERIOD_SEC", "30"),
            ("IPTABLES_TIMEOUT_SEC", "3"),
        ];

        let read = options(&[], &theirs).unwrap();
        let ours =
            options(&["--nat-external", "ext1", "--nat-gateway", "learned"], &theirs).unwrap();
        let few = options(&[], &theirs[..1]).unwrap();
        let none = options(&[], &[("INTERFACES_PATTERN", "")]).unwrap();

        assert_eq!(
            (read.external.as_str(), read.not_external.as_slice()),
            ("eth[1-9][0-9]*", &["eth0".to_owned()][..])
        );
        assert_eq!(read.gateway, GatewayRule::Offset(-1));
        assert_eq!((read.audit, read.timeout), (Duration::from_secs(30), Duration::from_secs(3)));
        assert_eq!((ours.external.as_str(), ours.gateway), ("ext1", GatewayRule::Learned));
        assert_eq!(few.gateway, GatewayRule::Offset(1), "its documented default");
        assert_eq!((few.audit, few.timeout), (Duration::from_secs(60), Duration::from_secs(10)));
        assert_eq!(none, Options::default());
        for junk in [("GW_ADDRESS_OFFSET", "0"), ("IPTABLES_TIMEOUT_SEC", "soon")] {
            assert!(options(&[], &[junk]).unwrap_err().contains(junk.0), "{junk:?}");
        }
    }

    // S5.30+ S5.31+
    #[test]
    fn smartnats_variables_say_what_mappings_mean_and_how_long_their_end_may_take() {
        let read = |pairs: &[(&str, &str)]| seed(pairs).mappings("a");
        let other = [
            ("SETUP_MASQUERADE", "false"),
            ("SETUP_SNAT", "true"),
            ("MAX_PORTS_PER_MAPPING", "3"),
            ("MAX_FINALIZE_WAIT_MINUTES", "5"),
        ];

        let (none, other) = (read(&[]).unwrap(), read(&other).unwrap());

        assert_eq!(none, smartnat::Options::new("a"));
        assert_eq!((none.contents.masquerade, none.contents.snat), (true, false));
        assert_eq!((none.contents.most_ports, none.longest_wait), (50, Duration::from_mins(60)));
        assert_eq!((other.contents.masquerade, other.contents.snat), (false, true));
        assert_eq!((other.contents.most_ports, other.longest_wait), (3, Duration::from_mins(5)));
        for junk in [("MAX_PORTS_PER_MAPPING", "0"), ("MAX_FINALIZE_WAIT_MINUTES", "soon")] {
            assert!(read(&[junk]).unwrap_err().to_string().contains(junk.0), "{junk:?}");
        }
    }

    // S5.20
    #[test]
    fn debug_is_off_unless_it_is_asked_for() {
        for on in ["true", "True", "t", "1"] {
            assert!(seed(&[("DEBUG_ENABLED", on)]).debug(), "{on}");
        }
        for off in ["false", "", "0", "no"] {
            assert!(!seed(&[("DEBUG_ENABLED", off)]).debug(), "{off:?}");
        }
        assert!(!Seed::default().debug(), "unset");
    }

    // S5.24+ S5.25+
    #[test]
    fn the_monitor_is_on_loopback_and_8080_unless_it_is_said_otherwise() {
        let at =
            |pairs: &[(&str, &str)]| seed(pairs).monitor().map(|at| at.map(|at| at.to_string()));
        let is = |text: &str| Some(text.to_owned());

        assert_eq!(at(&[]).unwrap(), None);
        assert_eq!(at(&[("MONITOR_PORT", "9000")]).unwrap(), is("127.0.0.1:9000"));
        assert_eq!(at(&[("MONITOR_IP", "")]).unwrap(), is("0.0.0.0:8080"));
        assert_eq!(
            at(&[("MONITOR_IP", "10.0.0.1"), ("MONITOR_PORT", "1")]).unwrap(),
            is("10.0.0.1:1")
        );
        assert!(at(&[("MONITOR_PORT", "many")]).is_err());
    }
}
