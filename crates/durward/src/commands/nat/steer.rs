//! `durward nat steer`: keeps one side of the tunnel; on a node it follows the documents' `egress.sources`.
//!
//! Deliberately absent: removing anything from the kernel at the end; `durward nat cleanup` does that.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use durward_control::source::watch::{self as file_watch, Pace};
use durward_control::{Feed, FileSource, Publisher, Store};
use durward_nat::NatError;
use durward_nat::steer::{Side, Steer};
use ipnet::IpNet;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::failed;
use crate::app::sentence;
use crate::cli::{LogFormat, SteerArgs};
use crate::config;
use crate::failure::{Exit, Failure};
use crate::inspect::now;
use crate::output::Screen;
use crate::telemetry;

/// Interval of retries after a refusal of the kernel.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps a side until a termination signal.
pub(super) fn steer(arguments: &SteerArgs, log: LogFormat) -> Result<Exit, Failure> {
    let options = arguments.options()?;
    telemetry::start(log, if arguments.diff { "error" } else { "info" });
    let kept = Steer::start(options).map_err(failed)?;
    let follower = Follower::new(arguments, kept.enrolled().map_err(failed)?)?;
    if arguments.diff {
        let text = kept.preview(&follower.side()).map_err(failed)?;
        let mut screen = Screen::stdout();
        if text.is_empty() {
            screen.line("the kernel matches the configuration")?;
            return Ok(Exit::Ok);
        }
        screen.text(&text)?;
        return Ok(Exit::FailedCheck);
    }
    follower.tell();
    let keeper = Keeper { steer: kept, fault: None, ready: false };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::broken("starting", error))?;
    let ended = runtime.block_on(keep(keeper, follower));
    runtime.shutdown_background();
    ended
}

async fn keep(mut keeper: Keeper, mut follower: Follower) -> Result<Exit, Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::broken("listening for signals", error));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let mut beats = tokio::time::interval(RETRY);
    let _watching = follower.watch()?;
    let mut changes = follower.feed.subscribe();
    keeper.bring(follower.side())?;
    drop(sd_notify::notify(&[NotifyState::Ready]));
    loop {
        let changed = tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => follower.reload(),
            _ = changes.changed() => follower.adopt(),
            _ = beats.tick(), if keeper.fault.is_some() => false,
        };
        if changed {
            follower.tell();
        }
        keeper.bring(follower.side())?;
    }
    tracing::info!("stopped; the kernel goes on steering");
    Ok(Exit::Ok)
}

/// Kernel state of a side, and the last fault.
struct Keeper {
    steer: Steer,
    fault: Option<String>,
    ready: bool,
}

impl Keeper {
    /// Brings the kernel to the state of a side. A temporary fault is logged once and retried; a permanent one ends the command.
    fn bring(&mut self, side: Side) -> Result<(), Failure> {
        match self.steer.apply(side) {
            Ok(problems) => {
                for problem in problems {
                    tracing::warn!(problem, "problem on this host");
                }
                if !std::mem::replace(&mut self.ready, true) {
                    tracing::info!("the kernel matches the configuration");
                }
                self.fault = None;
                Ok(())
            }
            Err(error @ NatError::Table(durward_nat::nftables::TableError::Forbidden)) => {
                Err(failed(error))
            }
            Err(error) => {
                let fault = sentence(&error);
                if self.fault.as_ref() != Some(&fault) {
                    tracing::error!(
                        fault,
                        "cannot set up steering: tenants' pods on this node reach nothing outside; retrying"
                    );
                }
                (self.fault, self.ready) = (Some(fault), false);
                Ok(())
            }
        }
    }
}

/// Side that the command line and the documents ask for.
struct Follower {
    kind: Kind,
    source: Arc<FileSource>,
    paths: Vec<PathBuf>,
    publisher: Publisher,
    store: Store,
    feed: Arc<Feed>,
    /// Networks being steered.
    networks: BTreeSet<IpNet>,
}

enum Kind {
    Node(std::net::Ipv4Addr),
    Gateway(Side),
}

impl Follower {
    /// Creates a follower; `enrolled` are the networks that an earlier process left.
    fn new(arguments: &SteerArgs, enrolled: BTreeSet<IpNet>) -> Result<Self, Failure> {
        let source = Arc::new(config::source(&arguments.config));
        let (kind, paths) = match (arguments.gateway, arguments.gateway_side()?) {
            (Some(gateway), _) => (Kind::Node(gateway), config::paths(&arguments.config)?),
            (None, Some(side)) => (Kind::Gateway(side), Vec::new()),
            (None, None) => return Err(Failure::usage("either --gateway or --node")),
        };
        let feed = Arc::new(Feed::default());
        source.look(&paths, &feed);
        let mut follower = Self {
            kind,
            source,
            paths,
            publisher: Publisher::new(),
            store: Store::default(),
            feed,
            networks: enrolled,
        };
        follower.adopt();
        Ok(follower)
    }

    /// Starts to watch the files, if there are any.
    fn watch(&self) -> Result<Option<file_watch::Watching>, Failure> {
        if self.paths.is_empty() {
            return Ok(None);
        }
        let (source, paths) = (Arc::clone(&self.source), self.paths.clone());
        file_watch::watch(source, paths, Pace::default(), Arc::clone(&self.feed))
            .map(Some)
            .map_err(|error| Failure::broken("watching the configuration", error))
    }

    fn side(&self) -> Side {
        match &self.kind {
            Kind::Gateway(side) => side.clone(),
            Kind::Node(gateway) => {
                let networks = self.networks.iter().copied().collect();
                Side::Node { gateway: *gateway, networks }
            }
        }
    }

    fn reload(&mut self) -> bool {
        self.source.look(&self.paths, &self.feed);
        self.adopt()
    }

    /// Applies what the files say, and takes the sources of all tenants, also of those that may not leave yet, which the gateway refuses. While anything is rejected no network is
    /// given up, because the rejected part may still want it. Returns true if the networks have changed.
    fn adopt(&mut self) -> bool {
        self.store.apply(self.feed.take());
        let before = self.publisher.current();
        let compiled = self.publisher.reload(&self.store, now());
        let sources = compiled.snapshot.nat.egress.iter().flat_map(|rule| &rule.sources);
        let mut networks: BTreeSet<IpNet> = sources.copied().collect();
        if !compiled.verdicts.all_accepted() {
            networks.extend(&self.networks);
        }
        if before.verdicts != compiled.verdicts {
            for (_, finding) in compiled.verdicts.findings() {
                tracing::warn!(at = %finding.origin, %finding, "document rejected: networks that were steered stay steered");
            }
        }
        std::mem::replace(&mut self.networks, networks.clone()) != networks
    }

    fn tell(&self) {
        match &self.kind {
            Kind::Node(gateway) => {
                let networks: Vec<String> = self.networks.iter().map(ToString::to_string).collect();
                tracing::info!(%gateway, networks = networks.join(","), "egress traffic of these networks is sent to the gateway");
            }
            Kind::Gateway(Side::Gateway { nodes }) => {
                tracing::info!(nodes = nodes.len(), "accepts tunnels of these nodes");
            }
            Kind::Gateway(_) => {}
        }
    }
}
