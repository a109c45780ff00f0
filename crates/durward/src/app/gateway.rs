//! The running gateway: the publisher's latest configuration, applied to the proxy.

mod state;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use durward_control::compile::retained;
use durward_control::registry::Registry as Claims;
use durward_control::source::watch::{self as file_watch, Pace, Watching};
use durward_control::{Compiled, Feed, FileSource, Publisher, Reference, State, Store, compile};
use durward_model::TenantId;
use durward_model::explain::Question;
use durward_proxy::access_log::Sink;
use durward_proxy::proxy::{Options, Proxy};
use durward_proxy::registry::Registry;
use serde::Serialize;
use tokio::sync::watch;

use crate::app::Settings;
use crate::app::acme::Acme;
use crate::app::cluster::Cluster;
use crate::app::kernel::Kernel;
use crate::app::kernel::lines::Line;
use crate::app::links::{self, Links};
use crate::app::log::{self, Logged};
use crate::explained::Explained;
use crate::failure::Failure;
use crate::handover::Handed;
use crate::inspect::now;
use crate::state_file::{self, StateFile};

/// The running gateway.
pub(crate) struct Gateway {
    source: Arc<FileSource>,
    paths: Vec<PathBuf>,
    /// Changes that sources have said and that are not applied yet.
    feed: Arc<Feed>,
    watching: Mutex<Option<Watching>>,
    publisher: Publisher,
    proxy: RwLock<Option<Proxy>>,
    kernel: Kernel,
    /// Registry of the routes of agents.
    links: Arc<Links>,
    /// Locked while a configuration is applied.
    applying: Mutex<Applied>,
    /// Certificates by ACME.
    acme: Option<Acme>,
    /// The Kubernetes API as a source.
    cluster: Option<Cluster>,
    /// Exposition at the time when the proxy was drained.
    last_metrics: Mutex<String>,
    access_log: Sink,
    decisions: Sink,
    state_file: Option<StateFile>,
    draining: AtomicBool,
    reload_failures: AtomicU64,
    drain_grace: Duration,
}

/// State of the configuration that was applied last.
struct Applied {
    store: Store,
    /// Problems of the configuration that were logged.
    logged: Logged,
}

/// Result of a reload.
#[derive(Debug, Serialize)]
pub(crate) struct Reloaded {
    /// Generation being served.
    generation: u64,
    /// True if every document is accepted.
    accepted: bool,
    /// Findings as `file:line: message`.
    findings: Vec<String>,
}

impl Reloaded {
    fn of(compiled: &Compiled) -> Self {
        let findings = compiled.verdicts.findings();
        let findings = findings.map(|(_, finding)| format!("{}: {finding}", finding.origin));
        Self {
            generation: compiled.snapshot.generation,
            accepted: compiled.verdicts.all_accepted(),
            findings: findings.collect(),
        }
    }
}

impl Gateway {
    /// Reads the configuration, starts the proxy and applies it.
    ///
    /// # Errors
    /// Fails if nothing could be served, or with `strict` if anything is rejected.
    pub(crate) fn start(settings: Settings) -> Result<Arc<Self>, Failure> {
        let source = file_source(&settings);
        let acme = settings.acme.clone().map(Acme::new);
        let earlier = earlier(&settings)?;
        let (feed, mut store) = (Arc::new(Feed::default()), Store::default());
        let cluster = settings.cluster.clone();
        store.read_cluster(cluster.as_ref().map(|options| options.cluster.clone()));
        let cluster = cluster.map(|options| Cluster::start(options, Arc::clone(&feed)));
        let cluster = cluster.transpose()?;
        let claims = link_claims(&settings);
        feed.say(claims.everything());
        source.look(&settings.paths, &feed);
        store.apply(feed.take());
        let restored =
            earlier.map(|state| retained::restore_beside(&state, &source, &store, now()));
        let publisher = Publisher::after(restored.unwrap_or_default());
        let compiled = publisher.reload(&store, now());
        let rejected = store.files_of_rejected(&compiled.verdicts);
        source.release(&rejected);
        store.release(&rejected);
        refuse_bad_start(&compiled, &store, settings.strict)?;
        log::findings(&compiled.verdicts);
        let is_whole = cluster.as_ref().is_some_and(Cluster::began_whole);
        refuse_to_serve_less(&settings, &compiled, is_whole.then_some(&store))?;
        let state_file = state_file(settings.state_dir.as_deref())?;
        let (paths, drain_grace) = (settings.paths.clone(), settings.drain_grace);
        let (access_log, decisions) = settings.logs.open()?;
        let links = start_links(claims, &settings, &feed, &publisher)?;
        let kernel = Kernel::new(settings.nat.clone());
        let proxy = start_proxy(settings, (access_log.clone(), decisions.clone()), &links)?;
        let applied = proxy.apply(Arc::clone(&compiled.snapshot));
        let mut logged = Logged::default();
        logged.applied(&compiled, &applied, "start");
        kernel.apply(&compiled.snapshot);
        if let Some(file) = &state_file {
            file.save(&compiled);
        }
        Ok(Arc::new(Self {
            source,
            paths,
            feed,
            watching: Mutex::default(),
            publisher,
            proxy: RwLock::new(Some(proxy)),
            kernel,
            links,
            applying: Mutex::new(Applied { store, logged }),
            acme,
            cluster,
            last_metrics: Mutex::default(),
            access_log,
            decisions,
            state_file,
            draining: AtomicBool::new(false),
            reload_failures: AtomicU64::new(0),
            drain_grace,
        }))
    }

    /// Returns the compiled configuration with its verdicts.
    pub(crate) fn view(&self) -> Arc<Compiled> {
        self.publisher.current()
    }

    /// Starts to read files again whenever one changes, and to apply what all sources say. Called within a runtime, which applies it.
    ///
    /// # Errors
    /// Fails if no thread can be started for it.
    pub(crate) fn watch(self: &Arc<Self>) -> Result<(), Failure> {
        let (source, paths) = (Arc::clone(&self.source), self.paths.clone());
        let watching = file_watch::watch(source, paths, Pace::default(), Arc::clone(&self.feed))
            .map_err(|error| Failure::broken("watching the configuration", error))?;
        *self.watching.lock().unwrap_or_else(PoisonError::into_inner) = Some(watching);
        self.follow_sources();
        Ok(())
    }

    /// Starts to apply what sources say, where files are not watched. Called within a runtime, which applies it.
    pub(crate) fn follow_sources(self: &Arc<Self>) {
        let mut changes = self.feed.subscribe();
        let gateway = Arc::downgrade(self);
        if let Some(cluster) = &self.cluster {
            cluster.serve(gateway.clone());
        }
        // What came between the start and now.
        changes.mark_changed();
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                let Some(gateway) = gateway.upgrade() else { return };
                let adopted = tokio::task::spawn_blocking(move || gateway.follow());
                if let Err(error) = adopted.await {
                    tracing::error!(%error, "cannot apply a change of the configuration");
                }
            }
        });
    }

    /// Returns whether the Kubernetes API is a source.
    pub(crate) fn reads_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// Returns what documents of files name in the cluster.
    pub(crate) fn wanted_of_cluster(&self) -> BTreeSet<Reference> {
        if self.paths.is_empty() {
            return BTreeSet::new();
        }
        let applied = self.applied();
        let wanted = applied.store.wanted();
        let is_elsewhere =
            |one: &&Reference| matches!(one, Reference::File(_) | Reference::LinkRoutes { .. });
        wanted.filter(|one| !is_elsewhere(one)).cloned().collect()
    }

    /// Opens the access log's file again, after log rotation has moved the old one.
    pub(crate) fn reopen_access_log(&self) {
        self.access_log.reopen();
        self.decisions.reopen();
    }

    /// Reads the configuration again because of `cause`, and applies the changes.
    pub(crate) fn reload(&self, cause: &str) -> Reloaded {
        self.source.look(&self.paths, &self.feed);
        let (compiled, rejected) = self.apply(&mut self.applied(), cause);
        self.source.release(&rejected);
        Reloaded::of(&compiled)
    }

    /// Applies files that this process wrote or removed, without looking at any file.
    pub(crate) fn adopt_files(&self, files: &[(&Path, Option<&[u8]>)], cause: &str) {
        self.source.say_written(files, &self.feed);
        self.apply(&mut self.applied(), cause);
    }

    /// Applies what sources have said, if another call has not done so meanwhile.
    fn follow(&self) {
        let mut applied = self.applied();
        if self.feed.is_empty() {
            return;
        }
        let (_, rejected) = self.apply(&mut applied, "a source changed");
        drop(applied);
        self.source.release(&rejected);
    }

    fn applied(&self) -> MutexGuard<'_, Applied> {
        self.applying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to order certificates, if the configuration may want any.
    ///
    /// # Errors
    /// Fails if no thread can be started for it.
    pub(crate) fn order_certificates(self: &Arc<Self>) -> Result<(), Failure> {
        self.acme.iter().try_for_each(|acme| acme.start(Arc::downgrade(self)))
    }

    /// Returns the state of certificates by ACME.
    #[cfg(test)]
    pub(crate) fn certificates_by_acme(&self) -> crate::app::acme::status::Status {
        self.acme.as_ref().map(Acme::status).unwrap_or_default()
    }

    /// Returns a receiver of later configurations.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Compiled>> {
        self.publisher.subscribe()
    }

    /// Applies what sources have said, one change after the other, so that the proxy never goes back to an older generation. Returns the files
    /// that only rejected documents name as well.
    fn apply(&self, applied: &mut Applied, cause: &str) -> (Arc<Compiled>, Vec<Arc<Path>>) {
        let Applied { store, logged } = applied;
        store.apply(self.feed.take());
        let before = self.view();
        let compiled = self.publisher.reload(store, now());
        let rejected = store.files_of_rejected(&compiled.verdicts);
        store.release(&rejected);
        if let Some(file) = &self.state_file {
            file.save(&compiled);
        }
        log::changed_findings(&before.verdicts, &compiled.verdicts);
        log::mended(&before.verdicts, &compiled.verdicts);
        if before.snapshot.generation != compiled.snapshot.generation {
            let applied = self.with_proxy(|proxy| proxy.apply(Arc::clone(&compiled.snapshot)));
            if let Some(applied) = applied {
                logged.applied(&compiled, &applied, cause);
            }
            if Arc::ptr_eq(&before.snapshot.nat, &compiled.snapshot.nat) {
                self.kernel.follow_owners(&compiled.snapshot);
            } else {
                self.kernel.apply(&compiled.snapshot);
            }
            self.links.note_presence();
        }
        if !compiled.verdicts.all_accepted() {
            self.reload_failures.fetch_add(1, Relaxed);
        }
        (compiled, rejected)
    }

    /// Returns true for an egress address of a tenant.
    pub(crate) fn is_egress(&self, address: IpAddr) -> bool {
        let view = self.view();
        view.snapshot
            .tenants
            .values()
            .any(|tenant| tenant.egress.iter().any(|egress| egress.0 == address))
    }

    /// Returns true for an ingress or egress address of a tenant.
    pub(crate) fn is_tenants(&self, address: IpAddr) -> bool {
        let view = self.view();
        let mut tenants = view.snapshot.tenants.values();
        let listens = tenants
            .any(|tenant| tenant.listeners.iter().any(|listener| listener.address.0 == address));
        listens || self.is_egress(address)
    }

    /// Returns the state for a younger process that reads the same files, computed from the files as they are now. From now on the state file is left
    /// to it, until [`Self::take_back`].
    pub(crate) fn handed(&self) -> Handed {
        self.state_file.iter().for_each(StateFile::pause);
        let links = self.links.hand_over();
        self.source.look(&self.paths, &self.feed);
        let applied = self.applied();
        let (mut store, view) = (applied.store.clone(), self.view());
        // What is said stays in the feed: this process goes on, and applies it in its turn.
        store.apply(self.feed.peek());
        drop(applied);
        let compiled = compile(&store, Some(&view), now());
        Handed { state: compiled.state(), served: compiled.served(), links: Some(links) }
    }

    /// Resumes writing the state file: the younger process did not take over.
    pub(crate) fn take_back(&self) {
        self.state_file.iter().for_each(StateFile::resume);
        self.links.resume();
    }

    /// Duplicates the listening sockets, for a younger process.
    pub(crate) fn listening_sockets(&self) -> std::io::Result<Vec<OwnedFd>> {
        let sockets =
            self.with_proxy(Proxy::listening_sockets).unwrap_or_else(|| Ok(Vec::new()))?;
        Ok(sockets.into_iter().map(|(_, socket)| socket).collect())
    }

    /// Makes the gateway not ready from now on.
    pub(crate) fn announce_end(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Stops accepting connections; clients in the accept queues are left to the process that has the same sockets.
    pub(crate) fn stop_accepting(&self) {
        self.announce_end();
        self.acme.iter().for_each(Acme::stop);
        self.cluster.iter().for_each(Cluster::stop);
        self.with_proxy(Proxy::stop_accepting);
        self.kernel.close();
        self.state_file.iter().for_each(StateFile::leave);
    }

    /// Lets connections finish for `grace`, and closes the rest.
    pub(crate) fn drain(&self, grace: Duration) {
        self.draining.store(true, Relaxed);
        self.acme.iter().for_each(Acme::stop);
        self.cluster.iter().for_each(Cluster::stop);
        *self.last_metrics.lock().unwrap_or_else(PoisonError::into_inner) = self.metrics_text();
        let proxy = self.proxy.write().unwrap_or_else(PoisonError::into_inner).take();
        self.state_file.iter().for_each(StateFile::close);
        if let Some(proxy) = proxy {
            log::drained(proxy.drain(grace));
            self.access_log.close();
            self.decisions.close();
        }
    }

    /// Retries sockets that could not be bound, and the kernel where it refused; logs addresses that came or went.
    pub(crate) fn retry(&self) {
        self.kernel.retry();
        self.with_proxy(Proxy::retry);
        // If a configuration is being applied, that call logs the addresses.
        if let Ok(mut applied) = self.applying.try_lock() {
            applied.logged.absent_egress(&self.view().snapshot);
        }
    }

    /// Returns the time for connections to finish at a drain.
    pub(crate) fn drain_grace(&self) -> Duration {
        self.drain_grace
    }

    /// Returns the time when the kernel last matched the configuration, for RFC 3339.
    pub(crate) fn last_applied(&self) -> jiff::Timestamp {
        self.kernel.last_applied()
    }

    /// Answers `question` from the configuration being served.
    pub(crate) fn explain(&self, question: &Question) -> Explained {
        let view = self.view();
        let generation = Some(view.snapshot.generation);
        let explained = Explained::new(&view.snapshot, &view.verdicts, question);
        let links = |tenant: &TenantId| self.with_proxy(|proxy| proxy.links(tenant));
        let explained =
            explained.with_links(&view.snapshot, |tenant| links(tenant).unwrap_or_default());
        Explained { generation, ..explained }
    }

    /// Returns every mapping and egress rule with its present state in the kernel.
    ///
    /// # Errors
    /// Fails if there is no kernel plane, or the kernel cannot be read.
    pub(crate) fn kernel_lines(&self) -> Result<Vec<Line>, String> {
        self.kernel.lines()
    }

    fn with_proxy<T>(&self, ask: impl FnOnce(&Proxy) -> T) -> Option<T> {
        self.proxy.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(ask)
    }
}

/// Returns the state of an earlier process: the one that hands over, or else the one that wrote the state file.
fn earlier(settings: &Settings) -> Result<Option<State>, Failure> {
    match (&settings.handed, &settings.state_dir) {
        (Some(handed), _) => Ok(Some(handed.state.clone())),
        (None, Some(directory)) => state_file::read(directory),
        (None, None) => Ok(None),
    }
}

/// Returns the files of the settings as a source.
fn file_source(settings: &Settings) -> Arc<FileSource> {
    let source = FileSource::new(settings.routing.clone());
    let source = source.with_files_from(&settings.files_roots);
    Arc::new(match &settings.acme {
        Some(acme) => source.with_issuance(acme.issuance.clone()),
        None => source,
    })
}

/// Returns the claims of links: those that an older process hands over, or else those in the state directory.
fn link_claims(settings: &Settings) -> Claims {
    match &settings.handed {
        Some(Handed { links: Some(claims), .. }) => links::taken_over(claims),
        _ => links::read(settings.state_dir.as_deref()),
    }
}

/// Starts the registry of agents' routes.
fn start_links(
    claims: Claims,
    settings: &Settings,
    feed: &Arc<Feed>,
    publisher: &Publisher,
) -> Result<Arc<Links>, Failure> {
    let served = publisher.subscribe();
    let links = Links::start(claims, settings.state_dir.as_deref(), Arc::clone(feed), served);
    let links = links.map_err(|error| Failure::broken("keeping claims of links", error))?;
    if settings.handed.is_some() {
        links.store_all();
    }
    Ok(Arc::new(links))
}

fn state_file(directory: Option<&Path>) -> Result<Option<StateFile>, Failure> {
    let started = directory.map(StateFile::start).transpose();
    started.map_err(|error| Failure::broken("starting to keep the state", error))
}

/// Fails if this process would serve less than the older one that hands over. `objects` are those of the cluster, if all of them were read: of what is gone or changed since
/// the older one read it nothing is lost by the hand-over, so nobody can stop it by changing objects all the time.
fn refuse_to_serve_less(
    settings: &Settings,
    compiled: &Compiled,
    objects: Option<&Store>,
) -> Result<(), Failure> {
    let Some(older) = &settings.handed else { return Ok(()) };
    let only = settings.cluster.as_ref().and_then(|options| options.only_namespace());
    let changed = objects.map(|store| retained::changed_objects(&older.state, store, only));
    let had = older.served.clone().without(&changed.unwrap_or_default());
    let lost = had.lost_in(&compiled.served());
    for lost in &lost {
        tracing::error!("this process would serve less than the older one: {lost}");
    }
    let Some(first) = lost.first() else { return Ok(()) };
    let message =
        format!("this process would serve less than the older one, which keeps serving: {first}");
    Err(Failure::InvalidConfig { message })
}

/// Starts the proxy with its sockets and logs.
fn start_proxy(
    settings: Settings,
    (access_log, decisions): (Sink, Sink),
    links: &Arc<Links>,
) -> Result<Proxy, Failure> {
    let links: Arc<dyn Registry> = Arc::<Links>::clone(links);
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        workers: if settings.workers == 0 { processors() } else { settings.workers },
        access_log,
        decisions,
        inherited: settings.sockets,
        shared: settings.shared,
        memory: settings.memory,
        drain_grace: settings.drain_grace,
        registry: Some(links),
        direct_networks: settings.direct_networks,
    };
    Proxy::start(options).map_err(|error| Failure::broken("starting the proxy", error))
}

/// Fails if documents are there and nothing can be served, or with `strict` if anything is rejected: there is no last good configuration to fall
/// back to. Where an API server is read, only `strict` refuses: whoever may write objects must not keep the gateway from starting.
fn refuse_bad_start(compiled: &Compiled, store: &Store, strict: bool) -> Result<(), Failure> {
    if !strict && store.is_empty() {
        tracing::warn!("there are no documents yet: waiting for the first");
        return Ok(());
    }
    if !strict && store.cluster().is_some() {
        return Ok(());
    }
    let snapshot = &compiled.snapshot;
    let nothing = snapshot.sockets().next().is_none()
        && snapshot.nat.mappings.is_empty()
        && snapshot.nat.egress.is_empty();
    let refused = nothing || (strict && !compiled.verdicts.all_accepted());
    if !refused {
        return Ok(());
    }
    Err(Failure::InvalidConfig { message: log::refusal(&compiled.verdicts, strict) })
}
