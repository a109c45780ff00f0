//! Arguments of `durward nat trace`: packets to trace, their number, and the time.
//!
//! Deliberately absent: a trace without bounds; a busy host would do nothing else.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Args, ValueEnum};
use durward_nat::trace::Filter;
use ipnet::IpNet;

use crate::cli::{ConfigArgs, OutputArgs, parse_duration};
use crate::failure::Failure;

/// `durward nat trace`
#[derive(Args, Debug)]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Source address or network of the packets [default: any]
    #[arg(long, value_name = "IP|CIDR", value_parser = parse_client)]
    pub(crate) client: Option<IpNet>,
    /// Destination address, with or without port [default: any]
    #[arg(long, value_name = "IP[:PORT]", value_parser = parse_to)]
    pub(crate) to: Option<SocketAddr>,
    /// Protocol: tcp, udp, sctp or icmp [default: any]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "NAME")]
    pub(crate) protocol: Option<Traced>,
    /// Also trace packets to --client
    #[arg(long, requires = "client")]
    pub(crate) answers: bool,
    /// Duration of the trace
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) time: Duration,
    /// Maximum number of packets to trace
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) packets: u64,
    /// Maximum number of packets to trace per second; others are only counted
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) rate: u64,
    /// Name of Durward's nftables table
    #[arg(
        long,
        value_name = "NAME",
        env = "DURWARD_NAT_TABLE",
        hide_env_values = true,
        default_value = "durward"
    )]
    pub(crate) nat_table: String,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// A protocol whose packets are traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Traced {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP of either family.
    Icmp,
}

impl TraceArgs {
    /// Builds the filter.
    ///
    /// # Errors
    /// Fails if no packet can match.
    pub(crate) fn filter(&self) -> Result<Filter, Failure> {
        if let (Some(client), Some(to)) = (self.client, self.to)
            && client.addr().is_ipv4() != to.is_ipv4()
        {
            let message =
                format!("--client {client} never sends to {}: they are of two families", to.ip());
            return Err(Failure::usage(message));
        }
        if self.protocol == Some(Traced::Icmp) && self.to.is_some_and(|to| to.port() != 0) {
            return Err(Failure::usage("--protocol icmp has no ports: --to is an address alone"));
        }
        let number = |protocol| match protocol {
            Traced::Icmp => 1,
            Traced::Tcp => 6,
            Traced::Udp => 17,
            Traced::Sctp => 132,
        };
        let (client, to, answers) = (self.client, self.to, self.answers);
        Ok(Filter { client, to, protocol: self.protocol.map(number), answers })
    }
}

fn parse_client(text: &str) -> Result<IpNet, String> {
    let net = text.parse().map(|net: IpNet| net.trunc());
    net.or_else(|_| text.parse().map(|ip: IpAddr| ip.into()))
        .map_err(|_| format!("{text:?} is neither an address nor a network"))
}

/// Parses an address with an optional port; without one the port is 0.
fn parse_to(text: &str) -> Result<SocketAddr, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, 0));
    }
    let at = text.parse().ok().filter(|at: &SocketAddr| at.port() != 0);
    at.ok_or_else(|| format!("{text:?} is neither an address nor ADDRESS:PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_addresses_with_or_without_a_port() {
        assert_eq!(parse_to("203.0.113.1:80").unwrap().port(), 80);
        assert_eq!(parse_to("2001:db8::1").unwrap().port(), 0);
        assert_eq!(parse_to("[2001:db8::1]:53").unwrap().port(), 53);
        assert_eq!(parse_client("192.0.2.9").unwrap().to_string(), "192.0.2.9/32");
        assert_eq!(parse_client("192.0.2.9/24").unwrap().to_string(), "192.0.2.0/24");
        for junk in ["", "x", "1.2.3.4:0", "1.2.3.4:99999", "1.2.3.4/40"] {
            assert!(parse_to(junk).is_err() && parse_client(junk).is_err(), "{junk}");
        }
    }
}
