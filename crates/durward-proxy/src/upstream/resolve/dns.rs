//! The thread that asks the DNS, so that names do not depend on any core's runtime.
//!
//! Deliberately absent: a cache; the memory beside it is the only one.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
    ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::sync::mpsc;

use super::{Answer, Asking, Memory, Source};
use crate::upstream::tls_client::dns_client_config;

/// The files the host's answers depend on.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Starts the thread; it ends when the last sender is dropped.
pub(super) fn start(source: Source, memory: Arc<Memory>) -> mpsc::UnboundedSender<Arc<str>> {
    let (sender, questions) = mpsc::unbounded_channel();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(serve(source, memory, questions)),
            Err(error) => tracing::error!(%error, "the resolver has no runtime"),
        }
    };
    if let Err(error) = std::thread::Builder::new().name("durward-resolver".to_owned()).spawn(work)
    {
        tracing::error!(%error, "the resolver has no thread");
    }
    sender
}

async fn serve(
    source: Source,
    memory: Arc<Memory>,
    mut questions: mpsc::UnboundedReceiver<Arc<str>>,
) {
    let mut made: Option<(TokioResolver, Vec<Option<SystemTime>>)> = None;
    while let Some(host) = questions.recv().await {
        if !memory.is_asked(&host) {
            continue;
        }
        let seen = FILES.map(|file| fs::metadata(file).and_then(|m| m.modified()).ok()).to_vec();
        if made.as_ref().is_none_or(|(_, before)| *before != seen) {
            made = match build(&source) {
                Ok(resolver) => Some((resolver, seen)),
                Err(error) => {
                    let _told = memory.answer(&host, Answer::Failed(error));
                    continue;
                }
            };
        }
        let Some((resolver, _)) = &made else { continue };
        let (resolver, told, asked) = (resolver.clone(), Arc::clone(&memory), Arc::clone(&host));
        let task = tokio::spawn(async move {
            let answer = ask(&resolver, &asked).await;
            let _told = told.answer(&asked, answer);
        });
        memory.began(&host, task.abort_handle());
    }
}

fn build(source: &Source) -> Result<TokioResolver, String> {
    let (config, mut options) = match source {
        // Without resolv.conf the hosts file still answers; nobody else is asked.
        Source::Host => read_system_conf()
            .unwrap_or_else(|_| (ResolverConfig::default(), ResolverOpts::default())),
        Source::Own(asking) => (of(asking), own()),
        #[cfg(test)]
        Source::Fixed(_) => (ResolverConfig::default(), ResolverOpts::default()),
    };
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    options.use_hosts_file = match source {
        Source::Own(_) => ResolveHosts::Never,
        _ => ResolveHosts::Always,
    };
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    if let Source::Own(asking) = source
        && asking.servers.iter().any(|server| server.tls.is_some())
    {
        builder = builder.with_tls_config(dns_client_config(&asking.roots)?);
    }
    builder.build().map_err(|error| error.to_string())
}

/// The servers of a tenant, each asked by TLS, or by UDP and for long answers by TCP, from the tenant's own address.
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

/// In the order written, and names as they are: nothing is appended to them.
fn own() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options.ndots = 0;
    options
}

async fn ask(resolver: &TokioResolver, host: &str) -> Answer {
    match resolver.lookup_ip(host).await {
        Ok(found) => {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for address in found.iter().map(|ip| ip.to_canonical()) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            Answer::Addresses(addresses, found.valid_until().duration_since(Instant::now()))
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
            Answer::Nothing(nothing.negative_ttl.map(|ttl| Duration::from_secs(u64::from(ttl))))
        }
        Err(error) => Answer::Failed(error.to_string()),
    }
}
