//! An agent's carriers: one for control and as many for data as the gateway wants, each dialled again when it ends or drains.
//!
//! A carrier that the gateway wants to be left is replaced first: the new one is up before the old one takes no more streams.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use durward_link::backoff::Backoff;
use durward_link::carrier::{DialError, Dialled, GatewayUrl};
use durward_link::control::{
    AgentEvent, DIRECT, DRAIN, Drain, Hello, OUT, Purpose, ROUTES, Token, VERDICTS, Versions,
};
use durward_link::session::agent::{self, Declined, Opening, Setup};
use durward_link::session::pace::{Paced, Portion};
use durward_link::session::{Account, SessionError};
use durward_link::{Kind, RouteSet};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{self, Around, Asked};
use crate::lookup::Lookups;
use crate::status::{Counted, Status};
use crate::{Settings, TokenSource};

/// Time that a new carrier has to come up before the old one is left anyway.
const REPLACEMENT: Duration = Duration::from_secs(15);
/// Longest time that a gateway can ask a carrier to stay once it was replaced.
const STAY: Duration = Duration::from_secs(60);
/// Time after which a carrier that ends or drains counts as one that worked: the next is dialled at once, and at the same gateway.
const SETTLED: Duration = Duration::from_secs(5);
/// Replaced carriers of one place whose streams may finish. One more ends the oldest.
const REPLACED: usize = 8;
/// Time in which a file with a token must be read.
const READ: Duration = Duration::from_secs(10);
/// Interval at which files of credentials are looked at while the agent waits.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after a change of the network, in which addresses and routes settle.
const RETRY: Duration = Duration::from_millis(200);
/// Characters of an error that are shown.
const SHOWN: usize = 400;

/// State shared by all carriers of an agent to one gateway, or to the first of several that takes it.
#[derive(Clone)]
struct Shared {
    settings: Arc<Settings>,
    /// Addresses that are tried in turn.
    gateways: Arc<[GatewayUrl]>,
    routes: watch::Receiver<Arc<RouteSet>>,
    status: Arc<Status>,
    lookups: Arc<Lookups>,
    /// Random text of this process.
    instance: String,
    /// Number of data carriers that the gateway wants.
    wanted: watch::Sender<u32>,
    /// Gateway at which control came up last.
    home: watch::Sender<Option<GatewayUrl>>,
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
    let (grace, exits) = (settings.grace, settings.exits.clone());
    let all: Arc<[GatewayUrl]> = settings.gateways.clone().into();
    let groups = match settings.every_gateway {
        true => all.iter().map(|url| Arc::from([url.clone()])).collect(),
        false => vec![all],
    };
    let tasks = TaskTracker::new();
    let shared = Shared {
        settings,
        gateways: Arc::default(),
        routes,
        status,
        lookups: Arc::default(),
        instance: format!("{:08x}{:08x}", random(), random()),
        wanted: watch::Sender::new(0),
        home: watch::Sender::new(None),
        stopped: stopped.clone(),
        tasks: tasks.clone(),
    };
    for gateways in groups {
        let (wanted, home) = (watch::Sender::new(0), watch::Sender::new(None));
        tasks.spawn(group(Arc::new(Shared { gateways, wanted, home, ..shared.clone() })));
    }
    stopped.cancelled().await;
    if let Some(exits) = &exits {
        exits.give_up();
    }
    tasks.close();
    if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
        tracing::warn!(open = tasks.len(), "the grace is over: closing the remaining streams");
    }
}

/// Keeps the carriers to one group of gateways until the agent ends.
async fn group(shared: Arc<Shared>) {
    let (stopped, mut wants) = (shared.stopped.clone(), shared.wanted.subscribe());
    shared.tasks.spawn(slot(Arc::clone(&shared), Purpose::Control, stopped.child_token()));
    let mut slots: Vec<CancellationToken> = Vec::new();
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
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
}

fn capabilities(settings: &Settings) -> BTreeSet<String> {
    let out = settings.exits.as_ref().map(|_| OUT);
    let all = [ROUTES, VERDICTS, DRAIN, DIRECT].into_iter().chain(out);
    all.map(str::to_owned).collect()
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
    let mut replaced = Replaced::default();
    while !kept.is_cancelled() {
        let gateways = &*shared.gateways;
        let mut home = Home { at: shared.home.subscribe(), purpose };
        let url = match alternates.pop() {
            Some(alternate) => alternate,
            None => home.url(gateways).unwrap_or_else(|| gateways[next % gateways.len()].clone()),
        };
        let dialling = tokio::select! {
            dialled = shared.settings.dialler.dial(&url) => dialled,
            () = kept.cancelled() => break,
        };
        let wait = match dialling {
            Ok(dialled) => {
                shared.status.dialled(Ok(()));
                match shared.carry(&url, &mut home, dialled, &kept, &mut replaced).await {
                    Carried::Drains { drain, lived, carrier } => {
                        alternates = configured(&drain, gateways);
                        let after = Duration::from_millis(drain.after_ms).min(STAY);
                        replaced.present = Some(Old { carrier, after });
                        backoff.lived(lived);
                        // One that drains as soon as it is up is no better than one that ends.
                        if lived > SETTLED { Duration::ZERO } else { backoff.next(random(), None) }
                    }
                    Carried::Ended { lived, retry_after } => {
                        // Refused, or of no use: another gateway may be.
                        next += usize::from(lived <= SETTLED);
                        backoff.lived(lived);
                        backoff.next(random(), retry_after)
                    }
                }
            }
            Err(error) => {
                shared.failed(&url, &error);
                // The gateway ends without a successor: what it has under way may finish, but it need not wait for us.
                shared.leave(&mut replaced);
                next += 1;
                backoff.next(random(), error.retry_after())
            }
        };
        let changed = shared.settings.retry.notified();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = credentials_change(&shared.settings) => {}
            // By another network the gateway may be reached at once.
            () = changed => tokio::time::sleep(RETRY.min(wait)).await,
            () = kept.cancelled() => {}
            () = home.is_elsewhere(&url, gateways) => {}
        }
    }
    if let Some(old) = replaced.present {
        old.carrier.drain.cancel();
    }
}

/// Completes when a file of token, certificate or key is another than now: what was refused may be admitted.
async fn credentials_change(settings: &Settings) {
    let read = || -> Vec<_> {
        let of = |path| std::fs::metadata(path).and_then(|data| Ok((data.modified()?, data.len())));
        settings.credentials.iter().map(|path| of(path).ok()).collect()
    };
    let now = read();
    loop {
        tokio::time::sleep(LOOK).await;
        if read() != now {
            return;
        }
    }
}

/// Returns the gateways to go to, the first last: of those that the gateway names the ones that the agent's own file has. It connects to no other place.
fn configured(drain: &Drain, gateways: &[GatewayUrl]) -> Vec<GatewayUrl> {
    let named = drain.alternates.iter().take(gateways.len());
    let named = named.filter_map(|url| url.parse().ok()).filter(|url| gateways.contains(url));
    let mut named: Vec<GatewayUrl> = named.collect();
    named.reverse();
    named
}

/// Gateway of a link among several, as one carrier sees it: routes are registered where control is, so data goes there, too.
struct Home {
    at: watch::Receiver<Option<GatewayUrl>>,
    purpose: Purpose,
}

impl Home {
    /// Returns the gateway that a carrier for data is to dial.
    fn url(&mut self, gateways: &[GatewayUrl]) -> Option<GatewayUrl> {
        let at = self.at.borrow_and_update().clone();
        at.filter(|url| self.purpose == Purpose::Data && gateways.contains(url))
    }

    /// Completes when control has come up at another gateway than that of a carrier for data.
    async fn is_elsewhere(&mut self, url: &GatewayUrl, gateways: &[GatewayUrl]) {
        while self.at.changed().await.is_ok() {
            if self.url(gateways).is_some_and(|home| home != *url) {
                return;
            }
        }
        std::future::pending().await
    }
}

/// Handles of a running carrier.
#[derive(Clone, Debug, Default)]
struct Running {
    /// Cancelled when it should end after its last stream.
    drain: CancellationToken,
    /// Cancelled when it should end at once.
    cut: CancellationToken,
}

/// Carrier that is being replaced, and the time that its gateway gave.
struct Old {
    carrier: Running,
    after: Duration,
}

/// Carriers of one place that have been replaced or are about to be.
#[derive(Default)]
struct Replaced {
    present: Option<Old>,
    /// Earlier ones, whose streams finish.
    left: VecDeque<CancellationToken>,
}

/// State of a carrier when its task reports.
enum Carried {
    /// The gateway wants to be left; the carrier lives on until it is told to drain.
    Drains {
        drain: Drain,
        lived: Duration,
        carrier: Running,
    },
    Ended {
        lived: Duration,
        retry_after: Option<Duration>,
    },
}

impl Shared {
    fn around(&self) -> Around {
        Around {
            settings: Arc::clone(&self.settings),
            lookups: Arc::clone(&self.lookups),
            status: Arc::clone(&self.status),
            stopped: self.stopped.clone(),
        }
    }

    fn failed(&self, url: &GatewayUrl, error: &DialError) {
        let why = chain(error);
        // In the words of the original, by which people look for it.
        tracing::warn!(gateway = %url, error = %why, "API request failed: cannot dial the gateway");
        self.status.dialled(Err(why));
    }

    /// Serves a carrier in a task of its own until it ends or its gateway drains. Once it is up, or after a while, the one it replaces is left.
    async fn carry(
        self: &Arc<Self>,
        url: &GatewayUrl,
        home: &mut Home,
        dialled: Dialled,
        kept: &CancellationToken,
        replaced: &mut Replaced,
    ) -> Carried {
        let (news_in, mut news) = mpsc::unbounded_channel();
        let (carrier, began) = (Running::default(), Instant::now());
        self.tasks.spawn(serve(
            Arc::clone(self),
            (url.clone(), home.purpose),
            dialled,
            carrier.clone(),
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
                    carrier.drain.cancel();
                    continue;
                }
                () = home.is_elsewhere(url, &self.gateways), if !asked => {
                    self.leave(replaced);
                    let drain = Drain { after_ms: 0, alternates: Vec::new() };
                    return Carried::Drains { drain, lived: began.elapsed(), carrier };
                }
                () = &mut replacement, if replaced.present.is_some() => {
                    self.leave(replaced);
                    continue;
                }
            };
            match told {
                Some(News::Welcomed) => self.leave(replaced),
                Some(News::Drain(drain)) if !asked => {
                    // A carrier that never came up keeps the one before it from waiting any longer, too.
                    self.leave(replaced);
                    return Carried::Drains { drain, lived: began.elapsed(), carrier };
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
    fn leave(self: &Arc<Self>, replaced: &mut Replaced) {
        let Some(Old { carrier, after }) = replaced.present.take() else { return };
        replaced.left.push_back(carrier.cut);
        if replaced.left.len() > REPLACED
            && let Some(oldest) = replaced.left.pop_front()
        {
            oldest.cancel();
        }
        let (stopped, drain) = (self.stopped.clone(), carrier.drain);
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(after) => {}
                () = stopped.cancelled() => {}
            }
            drain.cancel();
        });
    }
}

/// Program around one carrier.
struct Host {
    shared: Arc<Shared>,
    /// Gateway, if the carrier is for control.
    home: Option<GatewayUrl>,
    news: mpsc::UnboundedSender<News>,
    counted: Counted,
}

impl agent::Host for Host {
    fn stream(&self, opening: Opening) {
        let Shared { settings, routes, tasks, .. } = &*self.shared;
        if opening.kind() == Kind::Out {
            match &settings.exits {
                Some(exits) => exits.keep(opening),
                None => opening.decline(&Declined::Forbidden(
                    "the agent's configuration lets nothing out".to_owned(),
                )),
            }
            return;
        }
        let asked = Asked::new(&opening, routes.clone(), settings.services.clone());
        tasks.spawn(backend::serve(opening, asked, self.shared.around()));
    }

    fn account(&self) -> Option<Box<dyn Account>> {
        let account = self.shared.settings.memory.stream();
        if account.is_none() {
            tracing::info!("a stream was declined: no memory is left for it");
            self.shared.status.declined_for_memory();
        }
        account
    }

    fn event(&self, event: &AgentEvent) {
        match event {
            AgentEvent::Welcome(welcome) => {
                self.counted.welcomed(&printable(&welcome.replica));
                // Before carriers for data are asked for.
                if self.home.is_some() {
                    self.shared.home.send_if_modified(|home| {
                        let is_other = *home != self.home;
                        home.clone_from(&self.home);
                        is_other
                    });
                }
                if let Some(key) = &welcome.proof_key {
                    self.shared.settings.proofs.keep(key.clone());
                }
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
        // The receiver is gone once the carrier has been replaced.
        let _ = self.news.send(news);
    }
}

async fn serve(
    shared: Arc<Shared>,
    (url, purpose): (GatewayUrl, Purpose),
    dialled: Dialled,
    carrier: Running,
    news: mpsc::UnboundedSender<News>,
) {
    let Running { drain, cut } = carrier;
    let began = Instant::now();
    let token = match shared.settings.token.clone() {
        Some(source) => read_token(source).await,
        None => None,
    };
    let hello = Hello {
        versions: Versions::OURS,
        capabilities: capabilities(&shared.settings),
        link: shared.settings.link.clone(),
        instance: shared.instance.clone(),
        purpose,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        token,
    };
    let setup = Setup {
        bounds: shared.settings.bounds,
        hello,
        routes: shared.routes.clone(),
        cluster: shared.settings.cluster.clone(),
        drain,
    };
    let counted = shared.status.carrier(purpose, url.to_string());
    let home = (purpose == Purpose::Control).then(|| url.clone());
    let host = Host { shared: Arc::clone(&shared), home, news, counted };
    let io = Paced::of_client(dialled, Portion::default());
    let ended = tokio::select! {
        ended = Box::pin(agent::serve(io, setup, &host)) => ended,
        () = cut.cancelled() => Ok(()),
    };
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

/// Reads a token beside the streams, which go on while a volume hangs.
async fn read_token(source: TokenSource) -> Option<Token> {
    let read = tokio::task::spawn_blocking(move || source.read());
    let error = match tokio::time::timeout(READ, read).await {
        Ok(Ok(Ok(token))) => return Some(token),
        Ok(Ok(Err(error))) => error,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("its file cannot be read within {} s", READ.as_secs()),
    };
    tracing::error!(error, "the token cannot be read");
    None
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
    printable(&text)
}

/// Returns a text of the other end as it may be shown: of bounded length, and without what a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::new();
    for letter in text.chars().take(SHOWN) {
        match letter.is_control() {
            true => shown.extend(letter.escape_default()),
            false => shown.push(letter),
        }
    }
    shown
}

/// Returns an evenly spread number; 0 where the kernel gives none.
fn random() -> u32 {
    let mut bytes = [0; 4];
    let _ = rand::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_sends_its_agent_to_no_place_that_the_agents_file_does_not_name() {
        let url = |text: &str| text.parse::<GatewayUrl>().unwrap();
        let gateways = [url("tls://a.example"), url("tls://b.example"), url("wss://c.example")];
        let named = [
            "tls://169.254.169.254:80",
            "wss://c.example",
            "tls://127.0.0.1:6443",
            "tls://b.example",
        ];
        let drain = Drain { after_ms: 0, alternates: named.map(str::to_owned).into() };

        let order = configured(&drain, &gateways);

        assert_eq!(order, [url("wss://c.example")], "as many are looked at as there are");
        let drain = Drain {
            after_ms: 0,
            alternates: ["tls://b.example", "tls://a.example"].map(str::to_owned).into(),
        };
        assert_eq!(configured(&drain, &gateways), [url("tls://a.example"), url("tls://b.example")]);
    }

    #[test]
    fn what_a_gateway_says_does_not_reach_a_terminal_as_it_is() {
        let refused = durward_link::control::Refused {
            reason: format!("\x1b]0;owned\x07{}", "x".repeat(10_000)),
            retry_after_ms: 0,
        };

        let shown = chain(&SessionError::Refused(refused));

        assert!(
            shown.starts_with("the gateway refused the link: \\u{1b}]0;owned\\u{7}xxx"),
            "{shown}"
        );
        assert!(shown.len() < 500);
    }
}
