//! Connections to the admin listener: a bounded number, each with deadlines.
//!
//! A flood of connections must neither keep the operator out nor take file descriptors that tenants' connections need: when all places are taken, the
//! connection that has been idle longest is closed.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Ends;

/// Open connections at most.
pub(super) const MOST: usize = 64;
/// Time for a request's head, the wait since the previous request included.
const HEAD: Duration = Duration::from_secs(10);
/// Longest life of a connection; the request under way is answered before it closes.
const WHOLE: Duration = Duration::from_secs(240);
/// Time for that last answer.
const LAST_ANSWER: Duration = Duration::from_secs(60);
/// Pause of accepting after an error such as EMFILE.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until `stopped`, then lets the requests under way finish.
pub(crate) async fn accept(
    listener: TcpListener,
    router: Router,
    stopped: impl Future<Output = ()> + Send,
) {
    let places = Arc::new(Places::default());
    let (tasks, ending) = (TaskTracker::new(), CancellationToken::new());
    let mut stopped = std::pin::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            () = &mut stopped => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let local = stream.local_addr().ok().map(|local| local.ip().to_canonical());
        let ends = Ends { peer: peer.ip().to_canonical(), local };
        let place = places.take();
        let (router, ending) = (router.clone(), ending.clone());
        tasks.spawn(async move {
            let served = serve(stream, ends, router, &place, &ending);
            place.closed.run_until_cancelled(served).await;
        });
        // Lets connections that are being closed end before the next one is accepted.
        tokio::task::yield_now().await;
    }
    ending.cancel();
    tasks.close();
    tasks.wait().await;
}

/// Serves the requests of one connection.
async fn serve(
    stream: TcpStream,
    ends: Ends,
    router: Router,
    place: &Place,
    ending: &CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let activity = Arc::clone(&place.activity);
    let answer = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(ends));
        let (answered, activity) = (router.call(request), Arc::clone(&activity));
        async move {
            let body = InUse::new(activity);
            let response: Result<Response, Infallible> = answered.await;
            response.map(|response| response.map(|inner| Body::new(Tracked { inner, body })))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = ending.cancelled() => {}
        () = tokio::time::sleep(WHOLE) => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(tokio::time::timeout(LAST_ANSWER, connection).await);
}

/// Open connections.
#[derive(Default)]
struct Places {
    open: Mutex<Vec<Open>>,
}

struct Open {
    activity: Arc<Activity>,
    closed: CancellationToken,
}

impl Places {
    /// Takes a place, and closes the connection that has been idle longest if all are taken.
    fn take(self: &Arc<Self>) -> Place {
        let (activity, closed) = (Arc::new(Activity::new()), CancellationToken::new());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MOST
            && let Some(at) = longest_idle(&open)
        {
            open.swap_remove(at).closed.cancel();
        }
        open.push(Open { activity: Arc::clone(&activity), closed: closed.clone() });
        Place { places: Arc::clone(self), activity, closed }
    }
}

/// Returns the connection without a request under way that was last active earliest; a busy one only if all are busy.
fn longest_idle(open: &[Open]) -> Option<usize> {
    let rank = |one: &Open| (one.activity.busy.load(Relaxed), one.activity.last.load(Relaxed));
    (0..open.len()).min_by_key(|at| rank(&open[*at]))
}

/// Place of one connection; released on drop.
struct Place {
    places: Arc<Places>,
    activity: Arc<Activity>,
    closed: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|one| !Arc::ptr_eq(&one.activity, &self.activity));
    }
}

/// Time of a connection's last use, and its present use.
struct Activity {
    busy: AtomicBool,
    /// Nanoseconds on the clock of the process.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        let activity = Self { busy: AtomicBool::new(false), last: AtomicU64::new(0) };
        activity.touch();
        activity
    }

    fn touch(&self) {
        self.last.store(nanoseconds(), Relaxed);
    }
}

/// Request under way, up to the last piece of its answer.
struct InUse(Arc<Activity>);

impl InUse {
    fn new(activity: Arc<Activity>) -> Self {
        activity.busy.store(true, Relaxed);
        activity.touch();
        Self(activity)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.busy.store(false, Relaxed);
        self.0.touch();
    }
}

/// Body of an answer. A long one is no idle connection while its reader goes on; of many that are read, the one that has stood still longest is closed
/// first.
struct Tracked {
    inner: Body,
    body: InUse,
}

impl hyper::body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if frame.is_ready() {
            self.body.0.touch();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Returns the nanoseconds since the first call in this process.
fn nanoseconds() -> u64 {
    static BEGAN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
