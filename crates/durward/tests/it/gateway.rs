//! A whole gateway in this process: documents in a directory, compiled and served as `durward run` does.
//!
//! Deliberately absent: the admin listener and signals; tests of those run the binary.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use durward_control::{FileSource, Publisher, RoutingJsonOptions};
use durward_model::Snapshot;
use durward_proxy::access_log::{Lines, Sink};
use durward_proxy::metrics::Counter;
use durward_proxy::metrics::openmetrics::Text;
use durward_proxy::proxy::{Options, Proxy};
use durward_testkit::process::{TempDir, allow_all_descriptors};

/// A directory that documents and certificates are put in before the gateway starts.
pub(crate) struct Preparation {
    dir: TempDir,
}

/// A running gateway.
pub(crate) struct Gateway {
    dir: TempDir,
    source: FileSource,
    publisher: Publisher,
    proxy: Proxy,
    log: Lines,
    decisions: Lines,
}

impl Preparation {
    /// Where documents and certificates are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A gateway of two cores that serves `documents`.
    pub(crate) fn start(self, documents: &str) -> Gateway {
        allow_all_descriptors();
        let (access_log, log) = Sink::memory().expect("a thread can be started");
        let (decision_log, decisions) = Sink::memory().expect("a thread can be started");
        let options = Options {
            workers: 2,
            access_log,
            decisions: decision_log,
            inherited: Vec::new(),
            shared: false,
            memory: None,
            drain_grace: Duration::from_secs(2),
            registry: None,
            direct_networks: Vec::new(),
        };
        let proxy = Proxy::start(options).expect("threads can be started");
        let source = FileSource::new(RoutingJsonOptions::default());
        let publisher = Publisher::new();
        let mut gateway = Gateway { dir: self.dir, source, publisher, proxy, log, decisions };
        gateway.reload(documents);
        gateway
    }
}

impl Gateway {
    /// An empty directory.
    pub(crate) fn prepare() -> Preparation {
        Preparation { dir: TempDir::new() }
    }

    /// Writes the documents and applies them at once.
    pub(crate) fn reload(&mut self, documents: &str) {
        std::fs::write(self.dir.join("gateway.yaml"), documents).expect("a file is written");
        self.load();
    }

    fn load(&mut self) {
        let resources = self.source.load(&[self.dir.path().to_owned()]);
        let compiled = self.publisher.reload(&resources, now());
        let applied = self.proxy.apply(Arc::clone(&compiled.snapshot));
        assert!(applied.problems.is_empty(), "{applied:?}");
    }

    /// The generation that is served.
    pub(crate) fn generation(&self) -> u64 {
        self.publisher.current().snapshot.generation
    }

    /// What is served.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.publisher.current().snapshot)
    }

    /// How often a connection would have left from another tenant's address.
    pub(crate) fn isolation_violations(&self) -> u64 {
        self.proxy
            .metrics()
            .tenants()
            .iter()
            .map(|(_, metrics)| metrics.total(Counter::IsolationViolations))
            .sum()
    }

    /// Where documents and certificates are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The lines of the access log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.read()
    }

    /// The decisions of the forward proxy so far.
    pub(crate) fn decisions(&self) -> Vec<String> {
        self.decisions.read()
    }

    /// The metrics as somebody who scrapes sees them.
    pub(crate) fn metrics_text(&self) -> String {
        let mut text = Text::default();
        self.proxy.write_metrics(&mut text);
        text.end()
    }

    /// What was found wrong with the documents.
    pub(crate) fn findings(&self) -> Vec<String> {
        let compiled = self.publisher.current();
        compiled.verdicts.findings().map(|(_, finding)| finding.to_string()).collect()
    }

    /// Ends it, after at most two seconds of draining.
    pub(crate) fn stop(self) {
        self.proxy.drain(Duration::from_secs(2));
    }
}

fn now() -> i64 {
    let since =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since.as_secs()).expect("the clock is sane")
}

/// A port nobody has at `address`.
pub(crate) fn free_port_on(address: &str) -> u16 {
    durward_testkit::process::free_port(address.parse::<IpAddr>().expect("an address"))
}
