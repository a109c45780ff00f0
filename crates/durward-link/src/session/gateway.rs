//! Gateway's end of a carrier: it opens streams, and talks to the agent on the control stream.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::{Builder, SendRequest};
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::channel::{Inbox, Outbox};
use super::liveness;
use super::stream::{Counted, LinkStream};
use super::{CONTROL, KIND, REASON, SessionError};
use crate::bounds::{Bounds, HEADERS};
use crate::control::{
    GatewayControl, GatewayEvent, Hello, Purpose, Refused, ToGateway, Verdicts, Versions,
};
use crate::route::RouteSet;
use crate::target::{Kind, Target};

/// Time that the agent of a refused carrier has to read why.
const FAREWELL: Duration = Duration::from_secs(5);

/// Time that an agent has to leave once it was asked to, beyond what it was told. Then its carrier takes no new streams, whatever the agent wants.
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

    /// Takes in the agent's routes.
    fn routes(&mut self, routes: RouteSet);

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
    /// The agent could not connect to the backend.
    #[error("the agent cannot connect to the backend: {0}")]
    Unreachable(String),
}

/// Carrier, as those see it who open streams. May be used from any thread.
pub struct Carrier {
    requests: Mutex<Option<SendRequest<Bytes>>>,
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
    /// Opens a stream to a backend. Completes when the agent has connected to it.
    ///
    /// # Errors
    /// Fails if the carrier takes no streams, or the agent refuses or cannot connect.
    pub async fn open(
        self: &Arc<Self>,
        target: &Target,
        kind: Kind,
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
            StatusCode::OK => Ok(LinkStream::new(send, answer.into_body(), Some(counted))),
            StatusCode::FORBIDDEN => Err(OpenError::Refused(reason())),
            StatusCode::SERVICE_UNAVAILABLE => Err(OpenError::Gone),
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

    fn requests(&self) -> MutexGuard<'_, Option<SendRequest<Bytes>>> {
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
    let (requests, mut connection) = Builder::new()
        .enable_push(false)
        .initial_window_size(bounds.stream_window)
        .initial_connection_window_size(bounds.connection_window())
        .initial_max_send_streams(bounds.streams as usize)
        .max_send_buffer_size(bounds.send_buffer)
        .max_header_list_size(HEADERS)
        .handshake::<I, Bytes>(io)
        .await?;
    let pings = connection.ping_pong();
    let carrier = Arc::new(Carrier {
        requests: Mutex::new(Some(requests)),
        streams: AtomicU32::new(0),
        most: bounds.streams,
        closed: AtomicBool::new(false),
    });
    let ended = tokio::select! {
        ended = connection => match ended {
            // An agent that has left closes when it wants.
            Err(error) if !carrier.is_current() && error.is_io() => Ok(()),
            ended => Ok(ended?),
        },
        () = liveness::lost(pings) => Err(SessionError::Dead),
        ended = converse(&carrier, host, drain) => ended,
    };
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
    let (mut outbox, mut inbox) = control_stream(carrier).await?;
    let mut control = GatewayControl::new(Versions::OURS, now());
    let mut drain = pin!(drain);
    let mut leave_by = None;
    while !control.is_over() {
        tokio::select! {
            message = inbox.next::<ToGateway>() => control.receive(message?, now())?,
            flushed = outbox.flush(), if !outbox.is_empty() => flushed?,
            () = tokio::time::sleep_until(control.due().into()) => control.tick(now())?,
            verdicts = host.registered() => control.judge(verdicts),
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
            match event {
                GatewayEvent::Hello(hello) => match host.admit(&hello) {
                    Ok(Admission { carriers, core, replica }) => {
                        control.welcome(carriers, core, &replica, now());
                        if hello.purpose == Purpose::Data {
                            host.opened(carrier);
                        }
                    }
                    Err(Refused { reason, retry_after_ms }) => {
                        control.refuse(reason, Duration::from_millis(retry_after_ms));
                    }
                },
                GatewayEvent::Routes(routes) => host.routes(routes),
                GatewayEvent::Drain => {
                    // Before the agent hears that no stream will come.
                    carrier.close();
                    host.closed(carrier);
                    control.drained();
                }
            }
        }
        while let Some(message) = control.next_message() {
            outbox.queue(&message)?;
        }
    }
    outbox.finish().await?;
    let leaving = async { while inbox.next::<ToGateway>().await.is_ok() {} };
    if carrier.is_current() {
        // Refused: its message must arrive before the connection ends.
        let _ = tokio::time::timeout(FAREWELL, leaving).await;
        return Ok(());
    }
    leaving.await;
    std::future::pending().await
}

async fn control_stream(carrier: &Carrier) -> Result<(Outbox, Inbox), SessionError> {
    let requests = carrier.requests().clone().ok_or(SessionError::ControlEnded)?;
    let mut requests = requests.ready().await?;
    let request = Request::post(CONTROL).body(()).expect("the address is one");
    let (answer, send) = requests.send_request(request, false)?;
    let answer = answer.await?;
    if answer.status() != StatusCode::OK {
        return Err(h2::Error::from(Reason::PROTOCOL_ERROR).into());
    }
    Ok((Outbox::new(send), Inbox::new(answer.into_body())))
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
