//! Agent's end of a carrier: it takes streams, and talks to the gateway on the control stream.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use h2::RecvStream;
use h2::server::{Builder, Connection, SendResponse};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::channel::{Inbox, Outbox, Received};
use super::inbound::{Account, Pump, Pumps};
use super::liveness::{self, Rhythm};
use super::outgoing::Frame;
use super::stream::LinkStream;
use super::windows::Windows;
use super::wire::Wire;
use super::{DATA_FRAMES, KIND, REASON, RESETS, SessionError};
use crate::bounds::{Bounds, HEADERS};
use crate::control::{AgentControl, AgentEvent, ClusterState, Hello, LONG, ToAgent, Violation};
use crate::route::RouteSet;
use crate::target::{Kind, Target};

/// Bytes of messages that a gateway may leave unread: all routes, twice.
const UNREAD: usize = 8 * 1024 * 1024;
/// Reason that the gateway is given for a stream that there is no memory for.
const NO_MEMORY: &str = "no memory is left for another stream";
/// Time that a gateway has to read our last message.
const FAREWELL: Duration = Duration::from_secs(5);

/// Agent's program around a carrier.
pub trait Host {
    /// Takes a stream that the gateway opens. Must not wait: what needs time runs in a task of its own.
    fn stream(&self, opening: Opening);

    /// Takes note of something that the gateway said.
    fn event(&self, event: &AgentEvent);

    /// Returns the account that pays for a new stream and for what it has received and nobody reads; `None` if there is no memory for one more stream.
    fn account(&self) -> Option<Box<dyn Account>> {
        Some(Box::new(Unbounded))
    }
}

/// Account of streams whose memory is not counted.
struct Unbounded;

impl Account for Unbounded {
    fn hold(&mut self, _: usize) -> bool {
        true
    }
}

/// Account of a stream that is not connected yet.
struct Paid(Box<dyn Account>);

impl fmt::Debug for Paid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Paid")
    }
}

/// Stream that the gateway asks for. Dropped, it is reset.
#[derive(Debug)]
pub struct Opening {
    target: Target,
    kind: Kind,
    body: RecvStream,
    respond: SendResponse<Frame>,
    pumps: mpsc::UnboundedSender<Pump>,
    account: Paid,
}

/// Reason for which an agent does not connect a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    /// The target is not registered, or forbidden by the agent's configuration.
    #[error("{0}")]
    Forbidden(String),
    /// The backend cannot be connected to.
    #[error("{0}")]
    Unreachable(String),
}

impl Opening {
    /// Returns the backend asked for.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns what the stream carries.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Tells the gateway that the backend is connected.
    ///
    /// # Errors
    /// Fails if the gateway has reset the stream, or the carrier ended.
    pub fn accept(mut self) -> Result<LinkStream, h2::Error> {
        let send = self.respond.send_response(Response::new(()), false)?;
        Ok(LinkStream::new(send, self.body, &self.pumps, Some(self.account.0), None))
    }

    /// Completes when the gateway has reset the stream, or the carrier ended: nobody waits for an answer any more.
    pub async fn given_up(&mut self) {
        // What ended it makes no difference.
        let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }

    /// Returns true if the gateway has reset the stream, or the carrier ended.
    pub fn is_given_up(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.respond.poll_reset(&mut cx).is_ready()
    }

    /// Tells the gateway why the backend is not connected.
    pub fn decline(mut self, why: &Declined) {
        let status = match why {
            Declined::Forbidden(_) => StatusCode::FORBIDDEN,
            Declined::Unreachable(_) => StatusCode::BAD_GATEWAY,
        };
        answer(&mut self.respond, status, &why.to_string());
    }
}

fn answer(respond: &mut SendResponse<Frame>, status: StatusCode, reason: &str) {
    let reason =
        HeaderValue::from_str(reason).unwrap_or_else(|_| HeaderValue::from_static("unprintable"));
    let answer = Response::builder().status(status).header(REASON, reason).body(());
    // Fails if the gateway has gone already.
    let _ = respond.send_response(answer.expect("status and header are valid"), true);
}

/// Settings of an agent for one carrier.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Bounds of our end.
    pub bounds: Bounds,
    /// First message.
    pub hello: Hello,
    /// Routes, as they change.
    pub routes: watch::Receiver<Arc<RouteSet>>,
    /// State of the cluster, as it changes.
    pub cluster: watch::Receiver<Option<ClusterState>>,
    /// Cancelled when the carrier should end after its last stream.
    pub drain: CancellationToken,
}

/// Serves one carrier to its end.
///
/// # Errors
/// Fails if the gateway refused the carrier, broke the protocol or is silent, or the connection broke.
pub async fn serve<I, H>(io: I, setup: Setup, host: &H) -> Result<(), SessionError>
where
    I: AsyncRead + AsyncWrite + Unpin,
    H: Host,
{
    let bounds = setup.bounds.fitting();
    let (io, signs) = Wire::new(io);
    let mut connection = Builder::new()
        .initial_window_size(bounds.stream_window)
        .initial_connection_window_size(bounds.connection_window())
        // The control stream is one more.
        .max_concurrent_streams(bounds.streams + 1)
        .max_send_buffer_size(bounds.send_buffer)
        .max_header_list_size(HEADERS)
        .data_frame_budget(DATA_FRAMES)
        // Clients that give up are no fault of the carrier, however many they are.
        .max_local_error_reset_streams(None)
        .max_concurrent_reset_streams(RESETS)
        .max_pending_accept_reset_streams(RESETS)
        .handshake::<Wire<I>, Frame>(io)
        .await?;
    let pings = connection.ping_pong();
    let (hand_in, mut pumps) = Pumps::new();
    let (found, control) = oneshot::channel();
    let leave = CancellationToken::new();
    let windows = Windows::new(bounds.stream_window, pumps.open());
    let talk = converse(control, setup, host, leave.clone());
    let ended = tokio::select! {
        biased;
        ended = drive(&mut connection, &windows, (found, hand_in), host, leave) => ended,
        () = poll_fn(|cx| pumps.poll_run(cx)) => Ok(()),
        () = liveness::lost(pings, signs, Rhythm::CARRIER, |bytes| windows.round(bytes)) => Err(SessionError::Dead),
        error = talk => Err(error),
    };
    pumps.finish();
    ended
}

/// A stream that the gateway opened, with the handle for its answer.
type Asked = (Request<RecvStream>, SendResponse<Frame>);

/// Drives the connection and hands its streams on.
async fn drive<I, H>(
    connection: &mut Connection<I, Frame>,
    windows: &Windows,
    (found, pumps): (oneshot::Sender<Asked>, mpsc::UnboundedSender<Pump>),
    host: &H,
    leave: CancellationToken,
) -> Result<(), SessionError>
where
    I: AsyncRead + AsyncWrite + Unpin,
    H: Host,
{
    let (mut found, mut leaving) = (Some(found), false);
    loop {
        let (request, mut respond) = tokio::select! {
            asked = poll_fn(|cx| {
                windows.apply(|window| connection.set_initial_window_size(window));
                connection.poll_accept(cx)
            }) => match asked {
                // A gateway that was left closes when it wants.
                Some(Err(error)) if leaving && error.is_io() => return Ok(()),
                Some(asked) => asked?,
                None => return Ok(()),
            },
            () = leave.cancelled(), if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        if request.method() == Method::POST
            && let Some(found) = found.take()
        {
            let _ = found.send((request, respond));
            continue;
        }
        match opening(&request) {
            Ok((target, kind)) => {
                let Some(account) = host.account() else {
                    answer(&mut respond, StatusCode::SERVICE_UNAVAILABLE, NO_MEMORY);
                    continue;
                };
                let (body, pumps, account) = (request.into_body(), pumps.clone(), Paid(account));
                host.stream(Opening { target, kind, body, respond, pumps, account });
            }
            Err(reason) => answer(&mut respond, StatusCode::BAD_REQUEST, reason),
        }
    }
}

/// Returns what a CONNECT asks for.
fn opening(request: &Request<RecvStream>) -> Result<(Target, Kind), &'static str> {
    if request.method() != Method::CONNECT {
        return Err("streams are opened by CONNECT");
    }
    let authority = request.uri().authority().ok_or("no target")?;
    let target = authority.as_str().parse().map_err(|_| "the target is not HOST:PORT")?;
    let kind = request.headers().get(KIND).and_then(|kind| kind.to_str().ok()).and_then(Kind::of);
    Ok((target, kind.ok_or("a stream of an unknown kind")?))
}

/// Speaks with the gateway until the carrier must end in an error. Cancels `leave` once no new stream can come.
async fn converse<H: Host>(
    control: oneshot::Receiver<Asked>,
    setup: Setup,
    host: &H,
    leave: CancellationToken,
) -> SessionError {
    match talk(control, setup, host, leave).await {
        Err(error) => error,
        // The connection's end is the driver's to see.
        Ok(()) => std::future::pending().await,
    }
}

async fn talk<H: Host>(
    control: oneshot::Receiver<Asked>,
    setup: Setup,
    host: &H,
    leave: CancellationToken,
) -> Result<(), SessionError> {
    let Setup { hello, mut routes, mut cluster, drain, .. } = setup;
    let held = Arc::clone(&routes.borrow_and_update());
    let mut control_state = AgentControl::new(hello, held, now());
    control_state.set_metadata(cluster.borrow_and_update().clone());
    let asked = tokio::time::timeout_at(control_state.due().into(), control).await;
    let (request, mut respond) = match asked {
        Ok(asked) => asked.map_err(|_| SessionError::ControlEnded)?,
        Err(_) => return Err(Violation::Silent("the control stream").into()),
    };
    let mut outbox = Outbox::new(respond.send_response(Response::new(()), false)?, UNREAD);
    let mut inbox = Inbox::<ToAgent>::new(request.into_body());
    inbox.allow(LONG);
    let (mut draining, mut asked_to_leave) = (false, false);
    loop {
        while let Some(message) = control_state.next_message() {
            outbox.queue(&message)?;
        }
        tokio::select! {
            message = inbox.next() => match message {
                // The gateway has waited long enough: nothing new comes, and what is under way may finish.
                Err(SessionError::ControlEnded | SessionError::Http2(_)) if asked_to_leave => {
                    leave.cancel();
                    return Ok(());
                }
                received => match received? {
                Received::Message(message) => control_state.receive(message, now())?,
                Received::Long(bytes) => inbox.expect(bytes),
            },
            },
            flushed = outbox.flush(), if !outbox.is_empty() => flushed?,
            () = tokio::time::sleep_until(control_state.due().into()) => control_state.tick(now())?,
            Ok(()) = routes.changed() => {
                control_state.set_routes(Arc::clone(&routes.borrow_and_update()));
            }
            Ok(()) = cluster.changed() => {
                control_state.set_metadata(cluster.borrow_and_update().clone());
            }
            () = drain.cancelled(), if !draining => {
                draining = true;
                if !control_state.drain() {
                    // A gateway that cannot be asked sees GOAWAY alone.
                    leave.cancel();
                }
            }
        }
        while let Some(event) = control_state.next_event() {
            host.event(&event);
            match event {
                AgentEvent::Refused(refused) => return Err(SessionError::Refused(refused)),
                AgentEvent::Drained => {
                    // A gateway that reads nothing more does not keep the agent.
                    timeout(FAREWELL, outbox.finish()).await.unwrap_or(Ok(()))?;
                    leave.cancel();
                    return Ok(());
                }
                AgentEvent::Drain(_) => asked_to_leave = true,
                AgentEvent::Welcome(_) | AgentEvent::RoutesHeld(_) | AgentEvent::Verdicts(_) => {}
            }
        }
    }
}

fn now() -> std::time::Instant {
    // Tokio's clock, so that tests may pause it.
    Instant::now().into_std()
}
