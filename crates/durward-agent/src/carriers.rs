//! An agent's carriers: one for control and as many for data as the gateway wants, each dialled anew when it ends or drains.
//!
//! A carrier that the gateway wants to be left is replaced first: the new one is up before the old one takes no more streams.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use durward_link::RouteSet;
use durward_link::backoff::Backoff;
use durward_link::carrier::{DialError, Dialled, GatewayUrl};
use durward_link::control::{AgentEvent, DRAIN, Drain, Hello, Purpose, ROUTES, VERDICTS, Versions};
use durward_link::session::SessionError;
use durward_link::session::agent::{self, Opening, Setup};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Settings;
use crate::backend;
use crate::status::{Counted, Status};

/// Time that a new carrier has to come up before the old one is left anyway.
const REPLACEMENT: Duration = Duration::from_secs(15);

/// State shared by all carriers of an agent.
struct Shared {
    settings: Arc<Settings>,
    routes: watch::Receiver<Arc<RouteSet>>,
    status: Arc<Status>,
    /// Random text of this process.
    instance: String,
    /// Number of data carriers that the gateway wants.
    wanted: watch::Sender<u32>,
    /// Cancelled when the agent ends.
    stopped: CancellationToken,
    /// Carriers and streams; the end waits for them.
    tasks: TaskTracker,
}

/// Keeps the carriers until `stopped`, then until the last stream has ended or the grace is over.
pub(crate) async fn keep(
    settings: Arc<Settings>,
    routes: watch::Receiver<Arc<RouteSet>>,
    status: Arc<Status>,
    stopped: CancellationToken,
) {
    let grace = settings.grace;
    let (wanted, mut wants) = watch::channel(0);
    let shared = Arc::new(Shared {
        settings,
        routes,
        status,
        instance: format!("{:08x}{:08x}", random(), random()),
        wanted,
        stopped: stopped.clone(),
        tasks: TaskTracker::new(),
    });
    shared.tasks.spawn(slot(Arc::clone(&shared), Purpose::Control, stopped.child_token()));
    let mut slots: Vec<CancellationToken> = Vec::new();
    loop {
        tokio::select! {
            () = stopped.cancelled() => break,
            Ok(()) = wants.changed() => {
                let wanted = *wants.borrow_and_update() as usize;
                slots.drain(wanted.min(slots.len())..).for_each(|slot| slot.cancel());
                while slots.len() < wanted {
                    let kept = stopped.child_token();
                    shared.tasks.spawn(slot(Arc::clone(&shared), Purpose::Data, kept.clone()));
                    slots.push(kept);
                }
            }
        }
    }
    shared.tasks.close();
    if tokio::time::timeout(grace, shared.tasks.wait()).await.is_err() {
        tracing::warn!(
            open = shared.tasks.len(),
            "the grace is over: closing the remaining streams"
        );
    }
}

/// News of a carrier.
enum News {
    Welcomed,
    Drain(Drain),
    Ended { lived: Duration, retry_after: Option<Duration> },
}

/// Keeps one carrier up until `kept` is cancelled.
async fn slot(shared: Arc<Shared>, purpose: Purpose, kept: CancellationToken) {
    let mut backoff = Backoff::default();
    // Address that is dialled next among those of the settings.
    let mut next = 0;
    let mut alternates: Vec<GatewayUrl> = Vec::new();
    // Carrier that is replaced, and the time that its gateway gave.
    let mut old: Option<(CancellationToken, Duration)> = None;
    while !kept.is_cancelled() {
        let gateways = &shared.settings.gateways;
        let url = match alternates.pop() {
            Some(alternate) => alternate,
            None => gateways[next % gateways.len()].clone(),
        };
        let dialling = tokio::select! {
            dialled = shared.settings.dialler.dial(&url) => dialled,
            () = kept.cancelled() => break,
        };
        let wait = match dialling {
            Ok(dialled) => {
                shared.status.dialled(Ok(()));
                match shared.carry(&url, purpose, dialled, &kept, &mut old).await {
                    Carried::Drains(drain, carrier) => {
                        let named =
                            drain.alternates.iter().rev().filter_map(|url| url.parse().ok());
                        alternates = named.collect();
                        old = Some((carrier, Duration::from_millis(drain.after_ms)));
                        Duration::ZERO
                    }
                    Carried::Ended { lived, retry_after } => {
                        backoff.lived(lived);
                        backoff.next(random(), retry_after)
                    }
                }
            }
            Err(error) => {
                shared.failed(&url, &error);
                // The gateway ends without a successor: what it has under way may finish, but it need not wait for us.
                shared.leave(old.take());
                next += 1;
                backoff.next(random(), error.retry_after())
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = kept.cancelled() => {}
        }
    }
    if let Some((old, _)) = old {
        old.cancel();
    }
}

/// State of a carrier when its task reports.
enum Carried {
    /// The gateway wants to be left; the carrier lives on until the token is cancelled.
    Drains(Drain, CancellationToken),
    Ended {
        lived: Duration,
        retry_after: Option<Duration>,
    },
}

impl Shared {
    fn failed(&self, url: &GatewayUrl, error: &DialError) {
        let why = chain(error);
        tracing::warn!(gateway = %url, error = %why, "API request failed: cannot dial the gateway");
        self.status.dialled(Err(why));
    }

    /// Serves a carrier in a task of its own until it ends or its gateway drains. Once it is up, or after a while, the one it replaces is left.
    async fn carry(
        self: &Arc<Self>,
        url: &GatewayUrl,
        purpose: Purpose,
        dialled: Dialled,
        kept: &CancellationToken,
        old: &mut Option<(CancellationToken, Duration)>,
    ) -> Carried {
        let (news_in, mut news) = mpsc::unbounded_channel();
        let drain = CancellationToken::new();
        self.tasks.spawn(serve(
            Arc::clone(self),
            (url.clone(), purpose),
            dialled,
            drain.clone(),
            news_in,
        ));
        let replacement = tokio::time::sleep(REPLACEMENT);
        tokio::pin!(replacement);
        let mut asked = false;
        loop {
            let told = tokio::select! {
                told = news.recv() => told,
                () = kept.cancelled(), if !asked => {
                    asked = true;
                    drain.cancel();
                    continue;
                }
                () = &mut replacement, if old.is_some() => {
                    self.leave(old.take());
                    continue;
                }
            };
            match told {
                Some(News::Welcomed) => self.leave(old.take()),
                Some(News::Drain(by_gateway)) if !asked => {
                    return Carried::Drains(by_gateway, drain);
                }
                Some(News::Drain(_)) => {}
                Some(News::Ended { lived, retry_after }) => {
                    return Carried::Ended { lived, retry_after };
                }
                None => return Carried::Ended { lived: Duration::ZERO, retry_after: None },
            }
        }
    }

    /// Leaves a carrier that has been replaced, when its gateway's time is over: its clients may have begun requests meanwhile.
    fn leave(self: &Arc<Self>, old: Option<(CancellationToken, Duration)>) {
        let Some((old, after)) = old else { return };
        let stopped = self.stopped.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(after) => {}
                () = stopped.cancelled() => {}
            }
            old.cancel();
        });
    }
}

/// Program around one carrier.
struct Host {
    shared: Arc<Shared>,
    news: mpsc::UnboundedSender<News>,
    counted: Counted,
}

impl agent::Host for Host {
    fn stream(&self, opening: Opening) {
        let Shared { settings, routes, status, tasks, .. } = &*self.shared;
        let routes = Arc::clone(&routes.borrow());
        let (settings, status) = (Arc::clone(settings), Arc::clone(status));
        tasks.spawn(backend::serve(opening, settings, routes, status));
    }

    fn event(&self, event: &AgentEvent) {
        match event {
            AgentEvent::Welcome(welcome) => {
                self.counted.welcomed(&welcome.replica);
                let wanted = welcome.carriers.clamp(1, self.shared.settings.most_carriers.max(1));
                self.shared.wanted.send_if_modified(|was| std::mem::replace(was, wanted) != wanted);
                self.tell(News::Welcomed);
            }
            AgentEvent::RoutesHeld(routes) => self.shared.status.held(routes.clone()),
            AgentEvent::Verdicts(verdicts) => {
                let routes = Arc::clone(&self.shared.routes.borrow());
                self.shared.status.judged(&routes, verdicts);
            }
            AgentEvent::Drain(drain) => {
                self.counted.drains();
                self.tell(News::Drain(drain.clone()));
            }
            AgentEvent::Drained | AgentEvent::Refused(_) => {}
        }
    }
}

impl Host {
    fn tell(&self, news: News) {
        // Nobody listens any more once the carrier has been replaced.
        let _ = self.news.send(news);
    }
}

async fn serve(
    shared: Arc<Shared>,
    (url, purpose): (GatewayUrl, Purpose),
    dialled: Dialled,
    drain: CancellationToken,
    news: mpsc::UnboundedSender<News>,
) {
    let began = Instant::now();
    let token = shared.settings.token.as_ref().and_then(|source| match source.read() {
        Ok(token) => Some(token),
        Err(error) => {
            tracing::error!(error, "the token cannot be read");
            None
        }
    });
    let hello = Hello {
        versions: Versions::OURS,
        capabilities: [ROUTES, VERDICTS, DRAIN].map(str::to_owned).into(),
        link: shared.settings.link.clone(),
        instance: shared.instance.clone(),
        purpose,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        token,
    };
    let setup =
        Setup { bounds: shared.settings.bounds, hello, routes: shared.routes.clone(), drain };
    let counted = shared.status.carrier(purpose, url.to_string());
    let host = Host { shared: Arc::clone(&shared), news, counted };
    let ended = Box::pin(agent::serve(dialled, setup, &host)).await;
    let retry_after = match ended {
        Ok(()) => {
            tracing::info!(gateway = %url, ?purpose, "a carrier ended");
            None
        }
        Err(error) => {
            let why = chain(&error);
            if matches!(error, SessionError::Refused(_)) {
                // In the words of the original, by which people look for it.
                tracing::warn!(gateway = %url, ?purpose, status = 401, error = %why, "API request failed: the gateway refused the agent");
            } else {
                tracing::warn!(gateway = %url, ?purpose, error = %why, "a carrier ended");
            }
            shared.status.error(why);
            match error {
                SessionError::Refused(refused) => {
                    Some(Duration::from_millis(refused.retry_after_ms))
                }
                _ => None,
            }
        }
    };
    host.tell(News::Ended { lived: began.elapsed(), retry_after });
}

/// Returns an error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// Returns an evenly spread number; 0 where the kernel gives none.
fn random() -> u32 {
    let mut bytes = [0; 4];
    let _ = rand::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}
