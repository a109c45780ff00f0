//! DNS servers of a resolver, asked one after the other, and the names that the host's search list makes of a host.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Hosts, Resolver, TokioResolver};

use super::super::{Asking, Source, TIMEOUT};
use crate::upstream::tls_client::dns_client_config;

/// Silence of a server after which the next one is asked as well.
const STAGGER: Duration = Duration::from_millis(500);

/// TTL of answers from the hosts file.
const HOSTS_TTL: Duration = Duration::from_secs(60);

/// Answer for one family of addresses.
pub(super) enum FamilyAnswer {
    /// Addresses and their TTL.
    Addresses(Vec<IpAddr>, Duration),
    /// No address of this family.
    Nothing {
        /// Time for which that may be cached.
        ttl: Option<Duration>,
        /// True if the name itself does not exist (NXDOMAIN).
        denies_name: bool,
    },
    /// No answer, or an error.
    Failed(String),
}

/// Servers of one resolver.
pub(super) struct Servers {
    /// One resolver per server, in the order they are asked: an error of one must not end the query.
    each: Vec<TokioResolver>,
    hosts: Hosts,
    search: Vec<Name>,
    ndots: usize,
}

impl Servers {
    /// Reads the host's configuration, or uses the tenant's.
    ///
    /// # Errors
    /// Returns what cannot be set up, as a message.
    pub(super) fn of(source: &Source) -> Result<Self, String> {
        let (config, options, hosts) = match source {
            // Without resolv.conf only the hosts file answers.
            Source::Host => {
                let (config, options) = read_system_conf().unwrap_or_default();
                (config, options, Hosts::from_system().unwrap_or_default())
            }
            Source::Own(asking) => (of(asking), own(), Hosts::default()),
            #[cfg(test)]
            Source::Fixed(_) => Default::default(),
        };
        let tls = match source {
            Source::Own(asking) if asking.servers.iter().any(|server| server.tls.is_some()) => {
                Some(&asking.roots)
            }
            _ => None,
        };
        let ndots = options.ndots;
        let (domain, mut search, servers) = config.into_parts();
        search.extend(domain.filter(|domain| !search.contains(domain)));
        let each = servers.into_iter().map(|server| {
            let config = ResolverConfig::from_name_servers(vec![server]);
            let mut builder =
                Resolver::builder_with_config(config, TokioRuntimeProvider::default());
            *builder.options_mut() = alone(options.clone());
            if let Some(roots) = tls {
                builder = builder.with_tls_config(dns_client_config(roots)?);
            }
            builder.build().map_err(|error| error.to_string())
        });
        Ok(Self { each: each.collect::<Result<_, _>>()?, hosts, search, ndots })
    }

    /// Returns the addresses of a host in the hosts file; DNS servers are not asked then.
    pub(super) fn in_hosts_file(&self, host: &str) -> Option<(Vec<IpAddr>, Duration)> {
        let name = Name::from_utf8(host).ok()?;
        let lookup = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let found = [RecordType::AAAA, RecordType::A].into_iter().filter_map(lookup);
        let records = found.flat_map(|found| found.answers().to_vec());
        let addresses = distinct(records.filter_map(|record| record.data.ip_addr()));
        (!addresses.is_empty()).then_some((addresses, HOSTS_TTL))
    }

    /// Returns the names to ask for, in order: as written first if it has enough dots, and below each search domain.
    pub(super) fn names(&self, host: &str) -> Vec<Name> {
        let Ok(mut name) = Name::from_utf8(host) else { return Vec::new() };
        if name.is_fqdn() {
            return vec![name];
        }
        let below = self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
        let mut names: Vec<Name> = below.collect();
        let first = usize::from(name.num_labels()) > self.ndots || name.is_localhost();
        name.set_fqdn(true);
        names.insert(if first { 0 } else { names.len() }, name);
        names.iter_mut().for_each(|name| name.set_fqdn(true));
        names
    }

    /// Asks the servers for one family of a name: the next one if one fails or is silent for [`STAGGER`].
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> FamilyAnswer {
        let mut waiting = self.each.iter();
        let mut running = FuturesUnordered::new();
        let mut failed = "no DNS server is configured".to_owned();
        loop {
            running.extend(waiting.next().map(|server| ask_one(server, name, kind)));
            if running.is_empty() {
                return FamilyAnswer::Failed(failed);
            }
            let silent = tokio::time::sleep(STAGGER);
            tokio::select! {
                Some(found) = running.next() => match found {
                    FamilyAnswer::Failed(cause) => failed = cause,
                    found => return found,
                },
                () = silent, if waiting.len() > 0 => {}
            }
        }
    }
}

async fn ask_one(server: &TokioResolver, name: &Name, kind: RecordType) -> FamilyAnswer {
    match server.lookup(name.clone(), kind).await {
        Ok(found) => {
            let addresses = found.answers().iter().filter_map(|record| record.data.ip_addr());
            let ttl = found.valid_until().saturating_duration_since(Instant::now());
            let addresses = distinct(addresses);
            if addresses.is_empty() {
                return FamilyAnswer::Nothing { ttl: None, denies_name: false };
            }
            FamilyAnswer::Addresses(addresses, ttl)
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => FamilyAnswer::Nothing {
            ttl: nothing.negative_ttl.map(|ttl| Duration::from_secs(u64::from(ttl))),
            denies_name: nothing.response_code == ResponseCode::NXDomain,
        },
        Err(error) => FamilyAnswer::Failed(error.to_string()),
    }
}

fn distinct(found: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|address| address.to_canonical()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Returns the options for one server by itself: no cache, no files, and a query that fails well before the whole lookup does.
fn alone(mut options: ResolverOpts) -> ResolverOpts {
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = options.timeout.min(TIMEOUT / 2);
    options
}

/// Returns the servers of a tenant, each asked by TLS, or by UDP and for long answers by TCP, from the tenant's own address.
fn of(asking: &Asking) -> ResolverConfig {
    let servers = asking.servers.iter().filter_map(|server| {
        let ip = server.address.ip();
        let source = asking.sources.iter().find(|source| source.reaches(ip))?;
        let mut connections = match &server.tls {
            Some(name) => vec![ConnectionConfig::tls(Arc::clone(name))],
            None => vec![ConnectionConfig::udp(), ConnectionConfig::tcp()],
        };
        for way in &mut connections {
            way.port = server.address.port();
            way.bind_addr = Some(SocketAddr::new(source.0, 0));
        }
        Some(NameServerConfig::new(ip, true, connections))
    });
    ResolverConfig::from_name_servers(servers.collect())
}

/// Returns the options of a tenant's servers: no search list.
fn own() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.ndots = 0;
    options
}
