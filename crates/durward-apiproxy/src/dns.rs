//! DNS records that lead clients of hosted API servers to the gateway, in the language of each name server.

use std::fmt::Write as _;
use std::net::IpAddr;

/// A zone whose names all lead to the gateway.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    /// Zones, such as `k8s.example.com` and `konnectivity.example.com`.
    pub zones: &'a [String],
    /// Addresses of the gateway.
    pub addresses: &'a [IpAddr],
    /// Time to live in seconds.
    pub ttl: u32,
    /// Serial number of the zone, for BIND.
    pub serial: u32,
}

/// A kind of name server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameServer {
    /// BIND 9: a zone file for each zone.
    Bind,
    /// dnsmasq and Pi-hole.
    Dnsmasq,
    /// CoreDNS: server blocks with the `template` plugin.
    CoreDns,
    /// Windows Server DNS, in PowerShell.
    Windows,
    /// Infoblox: a file for its CSV import.
    Infoblox,
    /// Cloudflare Tunnel: rules for `cloudflared` that leave TLS alone.
    Cloudflare,
    /// A hosts file, which knows no wildcards: the zones are taken for names.
    Hosts,
}

/// Sentence on tunnels that end TLS.
pub const CLOUDFLARE_WARNING: &str = "An HTTPS rule of a Cloudflare Tunnel (service: https://…) ends TLS at Cloudflare: client certificates do not arrive, tokens can be read there, \
and noTLSVerify lets anybody answer in the gateway's place. Use a TCP rule (service: tcp://…) or a private network with WARP.";

impl Records<'_> {
    /// Returns the records in the language of `server`.
    #[must_use]
    pub fn text(&self, server: NameServer) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = match server {
            NameServer::Bind => self.bind(&mut text),
            NameServer::Dnsmasq => self.dnsmasq(&mut text),
            NameServer::CoreDns => self.coredns(&mut text),
            NameServer::Windows => self.windows(&mut text),
            NameServer::Infoblox => self.infoblox(&mut text),
            NameServer::Cloudflare => self.cloudflare(&mut text),
            NameServer::Hosts => self.hosts(&mut text),
        };
        text
    }

    fn bind(&self, to: &mut String) -> std::fmt::Result {
        for (at, zone) in self.zones.iter().enumerate() {
            let gap = if at == 0 { "" } else { "\n" };
            writeln!(
                to,
                "{gap}; zone file of {zone}: zone \"{zone}\" {{ type primary; file \"{zone}.zone\"; }};"
            )?;
            writeln!(to, "$ORIGIN {zone}.\n$TTL {}", self.ttl)?;
            writeln!(to, "@ IN SOA ns hostmaster {} 3600 1800 604800 {}", self.serial, self.ttl)?;
            writeln!(to, "@ IN NS ns")?;
            for name in ["ns", "*"] {
                for address in self.addresses {
                    writeln!(to, "{name} IN {} {address}", record_type(*address))?;
                }
            }
        }
        Ok(())
    }

    fn dnsmasq(&self, to: &mut String) -> std::fmt::Result {
        for zone in self.zones {
            for address in self.addresses {
                writeln!(to, "address=/{zone}/{address}")?;
            }
        }
        Ok(())
    }

    fn coredns(&self, to: &mut String) -> std::fmt::Result {
        for zone in self.zones {
            writeln!(to, "{zone}:53 {{")?;
            for kind in ["A", "AAAA"] {
                let of_kind =
                    self.addresses.iter().filter(|address| record_type(**address) == kind);
                writeln!(to, "    template IN {kind} {{")?;
                for address in of_kind {
                    writeln!(
                        to,
                        "        answer \"{{{{ .Name }}}} {} IN {kind} {address}\"",
                        self.ttl
                    )?;
                }
                // Without it a query of a type that has no record is an error to the client, which may not ask for the other type then.
                writeln!(to, "        rcode NOERROR\n    }}")?;
            }
            writeln!(to, "    template ANY ANY {{\n        rcode NOERROR\n    }}\n}}")?;
        }
        Ok(())
    }

    fn windows(&self, to: &mut String) -> std::fmt::Result {
        for zone in self.zones {
            writeln!(to, "Add-DnsServerPrimaryZone -Name \"{zone}\" -ZoneFile \"{zone}.dns\"")?;
            for address in self.addresses {
                let (command, option) = match address {
                    IpAddr::V4(_) => ("Add-DnsServerResourceRecordA", "IPv4Address"),
                    IpAddr::V6(_) => ("Add-DnsServerResourceRecordAAAA", "IPv6Address"),
                };
                writeln!(
                    to,
                    "{command} -ZoneName \"{zone}\" -Name \"*\" -{option} \"{address}\" -TimeToLive ([TimeSpan]::FromSeconds({}))",
                    self.ttl
                )?;
            }
        }
        Ok(())
    }

    fn infoblox(&self, to: &mut String) -> std::fmt::Result {
        for (header, is_v4) in [
            ("header-arecord,address*,fqdn*,ttl", true),
            ("header-aaaarecord,address*,fqdn*,ttl", false),
        ] {
            let of_family: Vec<_> =
                self.addresses.iter().filter(|address| address.is_ipv4() == is_v4).collect();
            if of_family.is_empty() {
                continue;
            }
            writeln!(to, "{header}")?;
            let kind = if is_v4 { "arecord" } else { "aaaarecord" };
            for zone in self.zones {
                for address in &of_family {
                    writeln!(to, "{kind},{address},*.{zone},{}", self.ttl)?;
                }
            }
        }
        Ok(())
    }

    fn cloudflare(&self, to: &mut String) -> std::fmt::Result {
        writeln!(to, "# {CLOUDFLARE_WARNING}")?;
        writeln!(
            to,
            "# Clients connect with: cloudflared access tcp --hostname NAME --url 127.0.0.1:6443"
        )?;
        writeln!(to, "# DNS: *.DOMAIN CNAME TUNNEL-ID.cfargotunnel.com, for each domain below")?;
        writeln!(to, "ingress:")?;
        let Some(address) = self.addresses.first() else { return Ok(()) };
        for zone in self.zones {
            let service = std::net::SocketAddr::new(*address, 443);
            writeln!(to, "  - hostname: \"*.{zone}\"\n    service: tcp://{service}")?;
        }
        writeln!(to, "  - service: http_status:404")
    }

    fn hosts(&self, to: &mut String) -> std::fmt::Result {
        for address in self.addresses {
            writeln!(to, "{address} {}", self.zones.join(" "))?;
        }
        Ok(())
    }
}

fn record_type(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "A" } else { "AAAA" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(server: NameServer) -> String {
        let zones = ["k8s.example.com".to_owned(), "konnectivity.example.com".to_owned()];
        let addresses = ["10.0.0.50".parse().unwrap(), "fd00::50".parse().unwrap()];
        Records { zones: &zones, addresses: &addresses, ttl: 60, serial: 2_026_112_901 }
            .text(server)
    }

    // S4.36+
    #[test]
    fn a_bind_zone_has_an_soa_a_name_server_and_wildcards_of_both_families() {
        let text = text(NameServer::Bind);

        for line in [
            "$ORIGIN k8s.example.com.",
            "@ IN SOA ns hostmaster 2026112901 3600 1800 604800 60",
            "@ IN NS ns",
            "ns IN A 10.0.0.50",
            "* IN A 10.0.0.50",
            "* IN AAAA fd00::50",
        ] {
            assert_eq!(
                text.lines().filter(|it| *it == line).count(),
                if line.starts_with('$') { 1 } else { 2 },
                "{line}\n{text}"
            );
        }
    }

    #[test]
    fn every_other_name_server_gets_both_zones_and_both_addresses() {
        for server in [
            NameServer::Dnsmasq,
            NameServer::CoreDns,
            NameServer::Windows,
            NameServer::Infoblox,
            NameServer::Hosts,
        ] {
            let text = text(server);

            for part in ["k8s.example.com", "konnectivity.example.com", "10.0.0.50", "fd00::50"] {
                assert!(text.contains(part), "{server:?} lacks {part}:\n{text}");
            }
        }
        assert!(
            text(NameServer::Dnsmasq)
                .lines()
                .any(|line| line == "address=/k8s.example.com/10.0.0.50")
        );
        assert!(
            text(NameServer::Infoblox)
                .lines()
                .any(|line| line == "arecord,10.0.0.50,*.k8s.example.com,60")
        );
    }

    // S4.39+
    #[test]
    fn coredns_answers_queries_of_a_type_without_records_too() {
        let zones = ["k8s.example.com".to_owned()];
        let addresses = ["10.0.0.50".parse().unwrap()];
        let text = Records { zones: &zones, addresses: &addresses, ttl: 60, serial: 1 }
            .text(NameServer::CoreDns);

        let aaaa = text.split("template IN AAAA {").nth(1).unwrap();
        let block = aaaa.split('}').next().unwrap();
        assert!(!block.contains("answer") && block.contains("rcode NOERROR"), "{text}");
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }

    #[test]
    fn the_warning_on_tunnels_names_what_is_lost() {
        assert!(
            CLOUDFLARE_WARNING.contains("client certificates")
                && CLOUDFLARE_WARNING.contains("noTLSVerify")
        );
    }
}
