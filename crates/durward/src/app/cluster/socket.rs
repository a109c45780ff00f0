//! Receives the objects from `durward kube` through a socket: the gateway needs no permission in the cluster.
//!
//! While the other process is away, what it sent last stays in service. After a reconnect only the differences are received.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use durward_control::change::Change;
use durward_control::stream::{
    Answered, Asked, Frames, FromGateway, ItemDigest, ItemKey, Received, SourceState, ToGateway,
    VERSION, frame,
};
use durward_control::{Cluster, Feed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::time::timeout;

use super::in_process::{CARRIED, SOON};
use super::looks::{LOOK, Looks};
use super::reporter::Reporter;
use super::routing::RoutingDocuments;
use super::{First, Routing, Served, Serving, Shared, Status, foreign, until_taken};
use crate::app::local_socket::{Peers, connect};
use crate::app::{Gateway, sentence};

/// Silence after which the other process counts as gone. It says its state more often.
const SILENCE: Duration = Duration::from_secs(30);
/// First and longest pause before the next attempt to connect.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// Names of held things in one message.
const NAMES: usize = 1000;

/// Settings of the socket by which objects come.
#[derive(Clone, Debug)]
pub(crate) struct SocketOptions {
    /// Path of the socket.
    pub(crate) path: PathBuf,
    /// User that the other process runs as.
    pub(crate) peers: Peers,
    /// A `ConfigMap` that holds a `routing.json`.
    pub(crate) routing: Option<Routing>,
}

/// State of the connection.
#[derive(Clone)]
pub(super) struct Link {
    /// True once everything was received.
    synced: bool,
    /// Since when there is no connection, and why; `None` while there is one.
    away: Option<(Instant, String)>,
    /// State of the other process, as it said last.
    state: SourceState,
}

impl Link {
    /// Returns the state of the source.
    pub(super) fn status(self) -> Status {
        let SourceState { lag, mut faults, objects, unwritten, cached } = self.state;
        let away = self.away.map(|(since, why)| (since.elapsed(), why));
        if let Some((_, why)) = &away {
            faults = vec![("durward kube".to_owned(), why.clone())];
        }
        let lag = Duration::from_secs(lag);
        let (synced, metrics) = (self.synced, Vec::new());
        Status {
            synced,
            lag,
            faults,
            away,
            cached,
            objects,
            unwritten,
            metrics,
            ..Status::default()
        }
    }
}

/// Receives for ever. `first` is notified once the feed holds everything.
pub(super) async fn run(
    options: SocketOptions,
    cluster: Cluster,
    (feed, shared): (Arc<Feed>, Arc<Shared>),
    (first, serving): (First, Serving),
) {
    let since = Instant::now();
    shared.state().link = Some(Link {
        synced: false,
        away: Some((since, "was not reached yet".to_owned())),
        state: SourceState::default(),
    });
    let mut receiver = Receiver {
        feed,
        shared,
        first: Some(first),
        serving,
        cluster,
        received: Received::default(),
        waiting: Change::default(),
        is_complete: false,
        settled: false,
        routing: RoutingDocuments::new(options.routing.clone()),
        asked: Asked::default(),
        is_asked: false,
    };
    let mut pause = PAUSES[0];
    loop {
        let connected = connect(&options.path, options.peers).await;
        let ended = match connected {
            Ok(stream) => receiver.session(stream, &mut pause).await,
            Err(error) => Err(error.to_string()),
        };
        receiver.received.break_off();
        let why = match ended {
            Ok(()) => return,
            Err(why) => format!("{}: {why}", options.path.display()),
        };
        receiver.note_away(why);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES[1]);
    }
}

struct Receiver {
    feed: Arc<Feed>,
    shared: Arc<Shared>,
    /// Told when everything was received.
    first: Option<First>,
    serving: Serving,
    cluster: Cluster,
    received: Received,
    /// A change that came before the gateway served.
    waiting: Change,
    /// True once the other process has said everything on this connection.
    is_complete: bool,
    /// True once the first change was compiled: it has the last accepted revisions of objects that are broken now.
    settled: bool,
    routing: RoutingDocuments,
    /// What the other process asks.
    asked: Asked,
    /// True if that was not answered yet.
    is_asked: bool,
}

impl Receiver {
    /// Talks to the other process until the connection ends, with the reason; `Ok` if the gateway ended.
    async fn session(&mut self, stream: UnixStream, pause: &mut Duration) -> Result<(), String> {
        let (mut reading, mut writing) = stream.into_split();
        self.is_complete = false;
        self.asked = Asked::default();
        write(&mut writing, &self.greeting()?).await?;
        let (mut frames, mut bytes) = (Frames::default(), vec![0; 64 * 1024]);
        let (mut welcomed, mut saying) = (false, Saying::new());
        let mut heard = Instant::now();
        let mut compiled = None;
        loop {
            if compiled.is_none() {
                compiled = self.gateway().map(|gateway| gateway.changes());
            }
            let newly_compiled = async {
                match &mut compiled {
                    Some(compiled) => drop(compiled.changed().await),
                    None => drop(self.serving.changed().await),
                }
            };
            let is_due = tokio::select! {
                read = reading.read(&mut bytes) => {
                    let count = read.map_err(|error| error.to_string())?;
                    if count == 0 {
                        return Err("the other process ended the connection".to_owned());
                    }
                    heard = Instant::now();
                    frames.push(&bytes[..count]);
                    while let Some((message, json)) = frames.next_message().map_err(|e| sentence(&e))? {
                        welcomed = self.take(message, json, welcomed).await?;
                        *pause = PAUSES[0];
                    }
                    if !std::mem::take(&mut self.is_asked) {
                        continue;
                    }
                    saying.hurry()
                }
                () = newly_compiled => saying.hurry(),
                () = tokio::time::sleep_until(saying.looks.next()) => {
                    saying.looks.wait(LOOK);
                    true
                }
            };
            if heard.elapsed() > SILENCE {
                return Err(silent());
            }
            let Some(serving) = self.serving.borrow().clone() else { continue };
            let Some(gateway) = Weak::upgrade(&serving) else { return Ok(()) };
            self.release_waiting().await;
            // Until it has said everything, it does not know the objects that a report is on.
            if !self.is_complete || !is_due {
                continue;
            }
            let began = tokio::time::Instant::now();
            let Some(served) = Served::by(gateway).await else { continue };
            let pause = self.say(&mut saying, &served, &mut writing).await?;
            saying.looks.looked(began, pause);
        }
    }

    /// Says what became of the objects, and answers what was asked. Returns the pause until the next look.
    async fn say(
        &self,
        saying: &mut Saying,
        served: &Served,
        writing: &mut OwnedWriteHalf,
    ) -> Result<Duration, String> {
        for report in saying.reporter.reports(served, &self.received) {
            send(writing, &FromGateway::Report(Box::new(report))).await?;
        }
        let answered = foreign::answer(&self.asked, served);
        let waits = !served.by_kernel || answered.out.len() < self.asked.going.len();
        let is_soon = waits && saying.changed_at.elapsed() < CARRIED;
        if answered != saying.answered {
            saying.answered = answered.clone();
            send(writing, &FromGateway::Answer(answered)).await?;
        }
        Ok(if is_soon { SOON } else { LOOK })
    }

    /// Returns the first messages: the version, and what is held.
    fn greeting(&self) -> Result<Vec<u8>, String> {
        let held: Vec<(ItemKey, ItemDigest)> =
            self.received.held().map(|(key, digest)| (key.clone(), digest)).collect();
        let have = held.chunks(NAMES).map(|chunk| FromGateway::Have(chunk.to_vec()));
        let hello = FromGateway::Hello { version: VERSION };
        let mut bytes = Vec::new();
        for message in [hello].into_iter().chain(have).chain([FromGateway::Follow]) {
            bytes.extend(frame(&message).map_err(|error| sentence(&error))?);
        }
        Ok(bytes)
    }

    /// Takes a message in, and returns whether the other process has said who it is.
    async fn take(
        &mut self,
        message: ToGateway,
        json: Json<'_>,
        welcomed: bool,
    ) -> Result<bool, String> {
        match message {
            ToGateway::Welcome { version, namespace } => self.welcome(version, &namespace)?,
            _ if !welcomed => return Err("its first message is not a welcome".to_owned()),
            ToGateway::Item(item) => {
                self.received.item(*item, json).map_err(|error| sentence(&error))?;
            }
            ToGateway::Gone(key) => self.received.gone(key),
            ToGateway::Commit => self.commit().await,
            ToGateway::Ask(asked) => {
                self.asked = asked;
                self.is_asked = true;
            }
            ToGateway::State(state) => {
                if let Some(link) = &mut self.shared.state().link {
                    link.state = state;
                }
            }
        }
        Ok(true)
    }

    fn welcome(&self, version: u32, namespace: &str) -> Result<(), String> {
        if version != VERSION {
            return Err(format!(
                "it speaks version {version} and this process version {VERSION}: run the same release of both"
            ));
        }
        let own = &*self.cluster.namespace;
        if namespace != own {
            return Err(format!(
                "its own namespace is {namespace} and this gateway's is {own}: give both the same --gateway-namespace"
            ));
        }
        if let Some(link) = &mut self.shared.state().link {
            link.away = None;
        }
        tracing::info!("connected to durward kube");
        Ok(())
    }

    /// Ends a change: it goes into the feed.
    async fn commit(&mut self) {
        let mut change = self.received.commit();
        self.routing.follow(&mut change);
        if self.first.is_some() {
            self.routing.miss(&mut change);
        }
        self.is_complete = true;
        if let Some(first) = self.first.take() {
            self.feed.say(change);
            if let Some(link) = &mut self.shared.state().link {
                link.synced = true;
            }
            // Whoever has waited may have lost patience.
            drop(first.try_send(Ok(())));
        } else {
            self.waiting.then(change);
            self.release_waiting().await;
        }
    }

    /// Lets changes into the feed that came after the first one, once that one was compiled.
    async fn release_waiting(&mut self) {
        if self.waiting.is_empty() || self.gateway().is_none() {
            return;
        }
        if !self.settled {
            until_taken(&self.feed).await;
            self.settled = true;
        }
        self.feed.say(std::mem::take(&mut self.waiting));
    }

    fn gateway(&self) -> Option<Arc<Gateway>> {
        self.serving.borrow().as_ref().and_then(Weak::upgrade)
    }

    fn note_away(&self, why: String) {
        let mut state = self.shared.state();
        let Some(link) = &mut state.link else { return };
        match &mut link.away {
            Some((_, known)) => *known = why,
            None => {
                tracing::warn!(why, "durward kube is away: what it said last is served on");
                link.away = Some((Instant::now(), why));
            }
        }
    }
}

/// What was said to the other process on one connection, and when to look again.
struct Saying {
    reporter: Reporter,
    answered: Answered,
    looks: Looks,
    changed_at: Instant,
}

impl Saying {
    fn new() -> Self {
        let (reporter, answered) = (Reporter::default(), Answered::default());
        Self { reporter, answered, looks: Looks::new(), changed_at: Instant::now() }
    }

    /// Has a look follow soon, because something changed. Returns that none is due at this moment.
    fn hurry(&mut self) -> bool {
        self.changed_at = Instant::now();
        self.looks.hurry();
        false
    }
}

async fn send(writing: &mut OwnedWriteHalf, message: &FromGateway) -> Result<(), String> {
    write(writing, &frame(message).map_err(|error| sentence(&error))?).await
}

/// Writes bytes. The other process reads all the time, so this ends soon or never.
async fn write(writing: &mut OwnedWriteHalf, bytes: &[u8]) -> Result<(), String> {
    let sent = timeout(SILENCE, writing.write_all(bytes)).await;
    sent.map_err(|_| silent())?.map_err(|error| error.to_string())
}

/// JSON of a message.
type Json<'a> = &'a [u8];

fn silent() -> String {
    format!("the other process has said nothing for {SILENCE:?}")
}
