//! Gateway's end of a carrier: it opens streams, and talks to the agent on the control stream.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use h2::Reason;
use h2::client::{Builder, SendRequest};
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::channel::{Inbox, Outbox, Received};
use super::inbound::{Account, Pump, Pumps};
use super::liveness::{self, Rhythm};
use super::outgoing::Frame;
use super::stream::{Counted, LinkStream};
use super::windows::Windows;
use super::wire::Wire;
use super::{CONTROL, DATA_FRAMES, KIND, REASON, RESETS, SessionError};
use crate::bounds::{Bounds, HEADERS};
use crate::control::{
    Admitted, ClusterState, FIRST_MESSAGE, GatewayControl, GatewayEvent, Hello, LONG, ProofKey,
    Purpose, Refused, ToGateway, Verdicts, Versions, Violation,
};
use crate::route::RouteSet;
use crate::target::{Kind, Target};

/// Time that an agent has to read our last message.
const FAREWELL: Duration = Duration::from_secs(5);
/// Bytes of messages that an agent may leave unread.
const UNREAD: usize = 64 * 1024;

/// Grace period for an agent that was asked to leave, beyond the time it was given. Then its carrier takes no new streams, whatever the agent wants.
const STAY: Duration = Duration::from_secs(20);

/// Answer to an agent that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Data carriers wanted of it.
    pub carriers: u32,
    /// Core that serves this carrier.
    pub core: u32,
    /// Random text of this process.
    pub replica: String,
    /// Key of the proofs of a public endpoint, where direct routes are allowed.
    pub proof_key: Option<ProofKey>,
}

/// Gateway's program around a carrier.
pub trait Host {
    /// Judges an agent by what it says. Its certificate was verified before.
    ///
    /// # Errors
    /// Returns why it is refused.
    fn admit(&mut self, hello: &Hello) -> Result<Admission, Refused>;

    /// Takes a carrier for data into use.
    fn opened(&mut self, carrier: &Arc<Carrier>);

    /// Holds so many bytes in all for a long message of the agent, 0 once it was taken in. Returns false if its tenant has no memory left for them.
    fn hold(&mut self, bytes: usize) -> bool;

    /// Returns the time at which a long message of so many bytes may be read: all carriers of an agent share a rate. At once by default.
    fn begins(&mut self, _bytes: usize) -> Instant {
        Instant::now()
    }

    /// Takes in the agent's routes.
    fn routes(&mut self, routes: RouteSet);

    /// Takes note of the state of the agent's cluster.
    fn cluster(&mut self, state: ClusterState);

    /// Registers routes that were taken in, and completes with what became of them; pending where none wait. Dropped and called again at any time.
    fn registered(&mut self) -> impl Future<Output = Verdicts>;

    /// Takes a carrier out of use: it drains or has ended. Called once for each [`opened`](Self::opened), or more often.
    fn closed(&mut self, carrier: &Arc<Carrier>);
}

/// Reason for which a stream was not opened. Nothing was sent to a backend.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The carrier takes no new streams; another may.
    #[error("the carrier takes no new streams")]
    Gone,
    /// The agent refuses the target.
    #[error("the agent refuses the target: {0}")]
    Refused(String),
    /// The agent has no memory for one more stream; another may.
    #[error("the agent takes no more streams: {0}")]
    Full(String),
    /// The agent could not connect to the backend.
    #[error("the agent cannot connect to the backend: {0}")]
    Unreachable(String),
}

/// Carrier, as those see it who open streams. May be used from any thread.
pub struct Carrier {
    requests: Mutex<Option<SendRequest<Frame>>>,
    pumps: mpsc::UnboundedSender<Pump>,
    streams: AtomicU32,
    most: u32,
    closed: AtomicBool,
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").field("streams", &self.streams()).finish_non_exhaustive()
    }
}

impl Carrier {
    /// Opens a stream to a backend. Completes when the agent has connected to it. `account` pays for what the backend sends and nobody reads.
    ///
    /// # Errors
    /// Fails if the carrier takes no streams, or the agent refuses or cannot connect.
    pub async fn open(
        self: &Arc<Self>,
        target: &Target,
        kind: Kind,
        account: Option<Box<dyn Account>>,
    ) -> Result<LinkStream, OpenError> {
        let gone = |_: h2::Error| OpenError::Gone;
        let requests = self.requests().clone().ok_or(OpenError::Gone)?;
        let counted = self.count().ok_or(OpenError::Gone)?;
        let mut requests = requests.ready().await.map_err(gone)?;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(target.to_string())
            .header(KIND, kind.word())
            .body(())
            .expect("a target is an authority");
        let (answer, send) = requests.send_request(request, false).map_err(gone)?;
        let answer = answer.await.map_err(gone)?;
        let reason = || {
            let reason = answer.headers().get(REASON).and_then(|reason| reason.to_str().ok());
            reason.unwrap_or("no reason given").chars().take(200).collect()
        };
        match answer.status() {
            StatusCode::OK => {
                let receive = answer.into_body();
                Ok(LinkStream::new(send, receive, &self.pumps, account, Some(counted)))
            }
            // An agent of an older version does not know every kind of stream; another may.
            StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => Err(OpenError::Refused(reason())),
            StatusCode::SERVICE_UNAVAILABLE => Err(OpenError::Full(reason())),
            _ => Err(OpenError::Unreachable(reason())),
        }
    }

    /// Returns the number of open streams.
    #[must_use]
    pub fn streams(&self) -> u32 {
        self.streams.load(Relaxed)
    }

    /// Returns true if streams may be opened, and idle ones used again.
    #[must_use]
    pub fn is_current(&self) -> bool {
        !self.closed.load(Relaxed)
    }

    /// Returns true if there is room for one more stream.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.is_current() && self.streams() < self.most
    }

    /// Counts a new stream, unless there are as many as the carrier may have. A race of several cores is settled by HTTP/2, which lets the last wait.
    fn count(self: &Arc<Self>) -> Option<Counted> {
        if !self.has_room() {
            return None;
        }
        self.streams.fetch_add(1, Relaxed);
        Some(Counted(Arc::clone(self)))
    }

    pub(super) fn stream_ended(&self) {
        self.streams.fetch_sub(1, Relaxed);
    }

    fn requests(&self) -> MutexGuard<'_, Option<SendRequest<Frame>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no more streams. The connection ends with its last stream.
    fn close(&self) {
        self.closed.store(true, Relaxed);
        self.requests().take();
    }
}

/// Serves one carrier to its end. `drain` completes when the gateway wants the agent to leave, with the time it has and addresses to go to.
///
/// # Errors
/// Fails if the agent broke the protocol or is silent, or the connection broke.
pub async fn serve<I, H>(
    io: I,
    bounds: Bounds,
    host: &mut H,
    drain: impl Future<Output = (Duration, Vec<String>)>,
) -> Result<(), SessionError>
where
    I: AsyncRead + AsyncWrite + Unpin,
    H: Host,
{
    let bounds = bounds.fitting();
    let (io, signs) = Wire::new(io);
    let (requests, mut connection) = Builder::new()
        .enable_push(false)
        .initial_window_size(bounds.stream_window)
        .initial_connection_window_size(bounds.connection_window())
        .initial_max_send_streams(bounds.streams as usize)
        .max_send_buffer_size(bounds.send_buffer)
        .max_header_list_size(HEADERS)
        .data_frame_budget(DATA_FRAMES)
        // A lifetime's count would end the carrier of everybody because of clients that give up.
        .max_local_error_reset_streams(None)
        .max_concurrent_reset_streams(RESETS)
        .handshake::<Wire<I>, Frame>(io)
        .await?;
    let pings = connection.ping_pong();
    let (hand_in, mut pumps) = Pumps::new();
    let carrier = Arc::new(Carrier {
        requests: Mutex::new(Some(requests)),
        pumps: hand_in,
        streams: AtomicU32::new(0),
        most: bounds.streams,
        closed: AtomicBool::new(false),
    });
    let windows = Windows::new(bounds.stream_window, pumps.open());
    let driven = poll_fn(|cx| {
        windows.apply(|window| connection.set_initial_window_size(window));
        Pin::new(&mut connection).poll(cx)
    });
    let ended = tokio::select! {
        biased;
        ended = driven => match ended {
            // An agent that has left closes when it wants.
            Err(error) if !carrier.is_current() && error.is_io() => Ok(()),
            ended => Ok(ended?),
        },
        () = poll_fn(|cx| pumps.poll_run(cx)) => Ok(()),
        () = liveness::lost(pings, signs, Rhythm::CARRIER, |bytes| windows.round(bytes)) => Err(SessionError::Dead),
        ended = converse(&carrier, host, drain) => ended,
    };
    pumps.finish();
    carrier.close();
    host.closed(&carrier);
    ended
}

/// Speaks with the agent. Returns after a refusal; after a drain the connection's end ends this.
async fn converse<H: Host>(
    carrier: &Arc<Carrier>,
    host: &mut H,
    drain: impl Future<Output = (Duration, Vec<String>)>,
) -> Result<(), SessionError> {
    let mut control = GatewayControl::new(Versions::OURS, now());
    let (mut drain, mut leave_by) = (pin!(drain), None);
    let (mut outbox, mut inbox) = {
        let mut opening = pin!(timeout(FIRST_MESSAGE, control_stream(carrier)));
        loop {
            tokio::select! {
                opened = &mut opening => break opened.unwrap_or(Err(Violation::Silent("an answer to the control stream").into()))?,
                (after, alternates) = &mut drain, if leave_by.is_none() => {
                    leave_by = Some(Instant::now() + after + STAY);
                    control.drain(after, alternates);
                }
            }
        }
    };
    while !control.is_over() {
        tokio::select! {
            received = inbox.next() => match received? {
                Received::Message(message) => control.receive(message, now())?,
                Received::Long(bytes) if host.hold(bytes) => {
                    inbox.expect(bytes);
                    inbox.rest_until(host.begins(bytes));
                }
                Received::Long(_) => return Err(SessionError::NoMemory),
            },
            flushed = outbox.flush(), if !outbox.is_empty() => flushed?,
            () = tokio::time::sleep_until(control.due().into()) => control.tick(now())?,
            // One message at a time, so that an agent which reads none ends by its silence and not by ours.
            verdicts = host.registered(), if outbox.is_empty() => control.judge(verdicts),
            (after, alternates) = &mut drain, if leave_by.is_none() => {
                leave_by = Some(Instant::now() + after + STAY);
                control.drain(after, alternates);
            }
            () = until(leave_by), if leave_by.is_some() => {
                carrier.close();
                host.closed(carrier);
                // Its streams may finish; the connection ends with the last of them.
                drop((outbox, inbox));
                return std::future::pending().await;
            }
        }
        while let Some(event) = control.next_event() {
            act(event, &mut control, &mut inbox, carrier, host);
        }
        if inbox.is_idle() {
            host.hold(0);
        }
        while let Some(message) = control.next_message() {
            outbox.queue(&message)?;
        }
    }
    part(carrier, outbox, inbox).await
}

/// Acts on an event of the control stream.
fn act<H: Host>(
    event: GatewayEvent,
    control: &mut GatewayControl,
    inbox: &mut Inbox<ToGateway>,
    carrier: &Arc<Carrier>,
    host: &mut H,
) {
    match event {
        GatewayEvent::Hello(hello) => match host.admit(&hello) {
            Ok(Admission { carriers, core, replica, proof_key }) => {
                let admitted = Admitted { carriers, core, replica: &replica, proof_key };
                control.welcome(admitted, now());
                match hello.purpose {
                    Purpose::Data => host.opened(carrier),
                    Purpose::Control => inbox.allow(LONG),
                }
            }
            Err(Refused { reason, retry_after_ms }) => {
                control.refuse(reason, Duration::from_millis(retry_after_ms));
            }
        },
        GatewayEvent::Routes(routes) => host.routes(routes),
        GatewayEvent::Cluster(state) => host.cluster(state),
        GatewayEvent::Drain => {
            // Before the agent hears that no stream will come.
            carrier.close();
            host.closed(carrier);
            control.drained();
        }
    }
}

/// Sends the last messages to an agent that is refused or leaves.
async fn part(
    carrier: &Carrier,
    mut outbox: Outbox,
    mut inbox: Inbox<ToGateway>,
) -> Result<(), SessionError> {
    let read = timeout(FAREWELL, outbox.finish()).await;
    read.unwrap_or(Err(Violation::Silent("a window for the last message").into()))?;
    let leaving = async { while inbox.next().await.is_ok() {} };
    if carrier.is_current() {
        // Refused: its message must arrive before the connection ends.
        let _ = timeout(FAREWELL, leaving).await;
        return Ok(());
    }
    leaving.await;
    std::future::pending().await
}

async fn control_stream(carrier: &Carrier) -> Result<(Outbox, Inbox<ToGateway>), SessionError> {
    let requests = carrier.requests().clone().ok_or(SessionError::ControlEnded)?;
    let mut requests = requests.ready().await?;
    let request = Request::post(CONTROL).body(()).expect("the address is one");
    let (answer, send) = requests.send_request(request, false)?;
    let answer = answer.await?;
    if answer.status() != StatusCode::OK {
        return Err(h2::Error::from(Reason::PROTOCOL_ERROR).into());
    }
    Ok((Outbox::new(send, UNREAD), Inbox::new(answer.into_body())))
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn now() -> std::time::Instant {
    // Tokio's clock, so that tests may pause it.
    Instant::now().into_std()
}
