//! Traffic that leaves a cluster by its link: the gateway keeps a few streams open on which nothing was asked yet, the agent answers one for each connection
//! of a program in the cluster, and the gateway serves that as a client of the tenant's forward proxy.
//!
//! So the tenant's egress rules judge it, its records name the link, and it leaves from the tenant's egress address.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_link::session::gateway::{Carrier, OpenError};
use durward_link::session::{Account, LinkStream};
use durward_link::{Kind as StreamKind, Target};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use super::credential::AdmittedAgent;
use crate::admitted::Admitted;
use crate::connection::ConnectionFacts;
use crate::core::Core;
use crate::io::Io;
use crate::memory::{self, Hold, Kind};
use crate::prepared::TenantView;
use crate::refusal::Refusal;
use crate::server;
use crate::turns::{self, Owner};

/// Streams that wait for a connection of the cluster, on each carrier.
const OFFERED: usize = 4;
/// Connections out of the cluster on one carrier at most.
const MOST: usize = 512;
/// Interval at which the configuration is asked whether traffic may leave.
const LOOK: Duration = Duration::from_secs(1);

/// What lets traffic out of one data carrier.
pub(super) struct Exit<'a> {
    pub(super) core: &'a Rc<Core>,
    pub(super) view: &'a TenantView,
    pub(super) facts: &'a Rc<ConnectionFacts>,
    pub(super) agent: AdmittedAgent,
    pub(super) carrier: Arc<Carrier>,
}

/// Memory of the tenant for what waits unread on a stream.
struct Unread(Hold);

impl Account for Unread {
    fn hold(&mut self, bytes: usize) -> bool {
        self.0.resize(bytes).is_ok()
    }
}

/// What became of one of the streams and connections.
enum Event {
    /// The agent has a connection.
    Taken(LinkStream),
    /// The agent, or the carrier, takes no such streams.
    Declined,
    /// A connection has ended.
    Ended,
}

impl Exit<'_> {
    /// Offers streams while the configuration lets traffic out, and serves what comes on them.
    pub(super) async fn run(self) -> Infallible {
        let mut work: FuturesUnordered<futures_util::future::LocalBoxFuture<'_, Event>> =
            FuturesUnordered::new();
        let (is_open, _) = watch::channel(true);
        let (mut offered, mut served) = (0, 0);
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let open = self.view_of_now().is_some() && self.carrier.is_current();
                    // Streams that wait must not keep a carrier that is left.
                    is_open.send_replace(open);
                    while open && offered < OFFERED && offered + served < MOST {
                        offered += 1;
                        work.push(Box::pin(self.offer(is_open.subscribe())));
                    }
                }
                Some(event) = work.next() => match event {
                    Event::Taken(stream) => {
                        offered -= 1;
                        if let Some(view) = self.view_of_now() {
                            served += 1;
                            work.push(Box::pin(self.serve(view, stream)));
                            // The next connection must not wait for the tick.
                            if offered + served < MOST {
                                offered += 1;
                                work.push(Box::pin(self.offer(is_open.subscribe())));
                            }
                        }
                    }
                    Event::Declined => offered -= 1,
                    Event::Ended => served -= 1,
                },
            }
        }
    }

    /// Returns the listener of this moment, if it lets traffic of the link out.
    fn view_of_now(&self) -> Option<TenantView> {
        let prepared = self.core.shared.prepared.load();
        let view = self.view.renewed(&prepared, self.facts.client.0.ip())?;
        let lets_out = self.agent.link(&view).is_some_and(|link| link.egress);
        lets_out.then_some(view)
    }

    /// Opens a stream and waits until the agent has a connection for it.
    async fn offer(&self, mut is_open: watch::Receiver<bool>) -> Event {
        let usage = &self.view.tenant().usage;
        let hold = self.core.shared.memory.hold(usage, Kind::Clients);
        let account: Option<Box<dyn Account>> = Some(Box::new(Unread(hold)));
        let target = Target::out();
        let opening = self.carrier.open(&target, StreamKind::Out, account);
        let closed = is_open.wait_for(|open| !open);
        let opened: Result<LinkStream, OpenError> = tokio::select! {
            opened = opening => opened,
            _ = closed => return Event::Declined,
        };
        opened.map_or(Event::Declined, Event::Taken)
    }

    /// Serves one connection to its end.
    async fn serve(&self, view: TenantView, stream: LinkStream) -> Event {
        let (core, client) = (self.core, self.facts.client.0.ip());
        let tenant = view.tenant();
        let admitted = || {
            let guard = tenant.usage.connection(&tenant.tenant.limits, client)?;
            let mut hold = core.shared.memory.hold(&tenant.usage, Kind::Clients);
            hold.grow(memory::LINK_STREAM)?;
            Ok::<_, Refusal>((guard, hold))
        };
        let counted = match admitted() {
            Ok(counted) => counted,
            Err(refusal) => {
                tenant.metrics.core(core.id).refused(&refusal);
                return Event::Ended;
            }
        };
        let watch = core.watchdog.watch();
        watch.retire_with(view.retirement(), client);
        watch.arm(Some(tenant.tenant.limits.timeouts.header), false);
        let owner = Owner::Tenant(tenant.tenant.id.clone());
        let turn = turns::QueueEntry::new(core.turns.of(&owner));
        let facts = ConnectionFacts {
            accepted: Instant::now(),
            client: self.facts.client,
            peer: self.facts.peer,
            destination: self.facts.destination,
            tls: None,
            link: Some(Arc::from(self.agent.name())),
            proxied: None,
        };
        let admitted = Admitted {
            io: Io::Link(Box::new(stream)),
            early: Vec::new(),
            view,
            facts: Rc::new(facts),
            watch,
            core: Rc::clone(core),
            greeted: None,
        };
        // A task of its own has turns of its own; it ends with its stream, and so with the carrier.
        let task = tokio::task::spawn_local(turn.run(async move {
            server::serve(admitted).await;
            drop(counted);
        }));
        let _ = task.await;
        Event::Ended
    }
}
