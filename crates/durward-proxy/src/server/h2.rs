//! Client side over HTTP/2: many requests at once, all inside the connection's own task.
//!
//! There is no task per stream: dropping the connection drops its streams, and their upstream work with them.

mod down;
mod exchanges;
mod gather;
mod pool;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use self::down::Down;
use self::exchanges::{Exchanges, Streams};
use self::gather::Gather;
use self::pool::Pooled;
pub(crate) use self::pool::shrink as shrink_pool;
use crate::exchange::{Account, Ended, Http, note_refusal};
use crate::http::buffer::Buffer;
use crate::http::h2::head::Rules;
use crate::http::h2::session::{AT_ONCE, Announced, Begun, Broken, Event, Session, code};
use crate::io::Io;
use crate::memory::HTTP2_CONNECTION;
use crate::refusal::Refusal;
use crate::server::requests;
use crate::turns;
use crate::watch::{Expired, Watch};

/// Bytes charged for a stream besides its head, its data and its task.
const STREAM: usize = 4 * 1024;
/// Streams started in a row before other connections of the core run.
const BURST: u32 = 16;
/// Time for the GOAWAY exchange of a connection without streams.
const GOODBYE: Duration = Duration::from_secs(2);

/// Serves streams until the connection ends.
pub(crate) async fn serve(http: &Rc<Http>, watch: &Watch, io: Io, early: &[u8]) {
    let Ok(_codec) = http.memory.take(HTTP2_CONNECTION) else {
        return note_refusal(http, &Refusal::Memory);
    };
    let limits = http.limits();
    let announced = Announced {
        streams: limits.http2_streams,
        window: http.core.shared.memory.stream_window(),
        // Our own limit is half of it: a head above that is answered and recorded, and one above this is not even stored.
        list: limits.header_bytes.saturating_mul(2),
    };
    let session = Session::new(announced, Rc::clone(&http.memory), Instant::now());
    let mut buffer = Buffer::default();
    buffer.preload(early);
    let mut connection = Connection {
        http: Rc::clone(http),
        watch,
        io,
        buffer,
        session: Rc::new(RefCell::new(session)),
        exchanges: Exchanges::new(),
        begun: false,
        leaving: false,
        incomplete: None,
        fresh: true,
        drained: false,
        unflushed: false,
        wrote: false,
        gather: Gather::default(),
        serve: exchange,
    };
    connection.run().await;
    connection.drop_exchanges().await;
}

struct Connection<'a, F: Future<Output = ()> + 'static, S> {
    http: Rc<Http>,
    watch: &'a Watch,
    io: Io,
    buffer: Buffer,
    session: Shared,
    exchanges: Exchanges<F>,
    /// True once the preface has come.
    begun: bool,
    /// True once GOAWAY was sent.
    leaving: bool,
    /// Header block that is incomplete: its rest has the deadline of a head.
    incomplete: Option<u64>,
    /// True until the first stream begins; a connection that was just made does not count as idle.
    fresh: bool,
    /// True if the last read found neither bytes in the socket nor any that TLS had decrypted.
    drained: bool,
    /// True while TLS may hold bytes back that were written.
    unflushed: bool,
    /// True if bytes have left since the deadline was last set.
    wrote: bool,
    gather: Gather,
    /// Serves a stream: [`exchange`], whose future has no other name.
    serve: S,
}

/// Reason to end the connection.
enum End {
    /// The client has ended it, or we are done.
    Over,
    /// The client broke a rule of the connection, a budget is exceeded, or there is no memory for what the connection holds.
    ThrowOut(Broken),
}

impl From<Broken> for End {
    fn from(broken: Broken) -> Self {
        Self::ThrowOut(broken)
    }
}

/// State of the socket after a read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Everything that has come was handled.
    Empty,
    /// More may be there, but other work comes first.
    Paused,
    /// Answers wait for a client that does not read.
    Stuffed,
}

impl Streams for RefCell<Session> {
    fn enter(&self, at: usize) {
        self.borrow_mut().enter(at);
    }

    fn leave(&self, at: usize) {
        self.borrow_mut().grant(Some(at));
    }

    fn woken(&self, ready: &mut impl Extend<usize>) {
        self.borrow_mut().take_woken(ready);
    }
}

/// Session of a connection, as its exchanges have it.
type Shared = Rc<RefCell<Session>>;

impl<F, S> Connection<'_, F, S>
where
    F: Future<Output = ()> + 'static,
    S: Fn(Rc<Http>, Rc<Watch>, Shared, Begun) -> F,
{
    async fn run(&mut self) {
        // Until the preface has come, the connection has the deadline of a head.
        self.watch.arm(Some(self.http.limits().timeouts.header), false);
        loop {
            let watch = self.watch;
            let expired = match watch.guard(poll_fn(|cx| self.poll(cx))).await {
                Ok(End::Over) => return,
                Ok(End::ThrowOut(broken)) => return self.throw_out(broken).await,
                Err(expired) => expired,
            };
            match expired {
                _ if !self.begun => return,
                Expired::Closing if self.watch.cut() => return,
                Expired::Deadline if self.incomplete.is_some() => {
                    let refusal = Refusal::ClientTimeout { phase: "head" };
                    return self.throw_out(Broken { code: code::ENHANCE_YOUR_CALM, refusal }).await;
                }
                // The GOAWAY exchange took too long.
                Expired::Deadline if self.leaving => return,
                // The last poll has sent GOAWAY already.
                Expired::Closing if self.leaving => {}
                Expired::Deadline | Expired::Closing => self.leave(),
            }
            self.arm();
        }
    }

    fn arm(&self) {
        let idle = self.exchanges.is_empty();
        let is_sending = self.unflushed || !self.session.borrow().pending().is_empty();
        let after = match (idle, self.leaving) {
            // The end of a response may take long to leave.
            (true, _) if is_sending => Some(self.http.limits().timeouts.stream_idle),
            (true, true) => Some(GOODBYE),
            _ if self.incomplete.is_some() => Some(self.http.limits().timeouts.header),
            (true, false) => Some(self.http.limits().timeouts.idle),
            (false, _) => None,
        };
        // Busy connections get GOAWAY as soon as idle ones do.
        self.watch.arm(after, !self.leaving && !self.fresh);
    }

    fn leave(&mut self) {
        self.leaving = true;
        self.session.borrow_mut().leave();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.exchanges.begin(cx.waker());
        let polled = self.poll_all(cx);
        self.exchanges.end();
        polled.map(|end| match end {
            Ok(()) => End::Over,
            Err(end) => end,
        })
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let idle = self.exchanges.is_empty();
        let mut begun = 0;
        loop {
            let reading = self.poll_read(cx, &mut begun)?;
            self.session.borrow_mut().grant(None);
            self.exchanges.poll(&*self.session);
            if !self.leaving && self.begun && self.watch.closing() {
                self.leave();
            }
            let unsent = self.session.borrow().pending().len();
            let sent = match self.gather.keeps(unsent, self.exchanges.len(), cx) {
                true => Poll::Pending,
                false => self.poll_send(cx),
            };
            if matches!(sent, Poll::Ready(Err(_))) {
                return Poll::Ready(Ok(()));
            }
            if self.exchanges.is_empty() && self.session.borrow().is_left() {
                self.leaving = true;
                let ended = self.poll_end(cx);
                if ended.is_pending() && (!idle || std::mem::take(&mut self.wrote)) {
                    self.arm();
                }
                return ended;
            }
            // Room in the buffer lets streams go on that wait for it, and lets us read on.
            let more = sent.is_ready()
                && (reading == Reading::Stuffed || self.session.borrow().has_waiting());
            if !more && reading != Reading::Paused {
                break;
            }
            if begun >= BURST || turns::is_over() {
                cx.waker().wake_by_ref();
                break;
            }
        }
        let (settled, incomplete, has_begun) = {
            let mut session = self.session.borrow_mut();
            (session.settle(), session.incomplete(), session.has_begun())
        };
        if let Err(refusal) = settled {
            let broken = Broken { code: code::ENHANCE_YOUR_CALM, refusal };
            return Poll::Ready(Err(broken.into()));
        }
        let is_other = std::mem::replace(&mut self.incomplete, incomplete) != incomplete;
        let is_first = has_begun && !std::mem::replace(&mut self.begun, has_begun);
        let wrote = std::mem::take(&mut self.wrote) && self.exchanges.is_empty();
        let is_another = begun > 0 || self.exchanges.is_empty() != idle || is_other;
        if has_begun && (is_first || is_another || wrote) {
            self.arm();
        }
        Poll::Pending
    }

    /// Reads frames until nothing more has come, or other work comes first. Requests that begin become exchanges.
    fn poll_read(&mut self, cx: &mut Context<'_>, begun: &mut u32) -> Result<Reading, End> {
        loop {
            while !self.buffer.is_empty() {
                // Beyond a burst only what ends streams is read, so that those are not served in vain.
                let begins = *begun < BURST;
                let received = {
                    let mut session = self.session.borrow_mut();
                    let (http, fresh, watch) = (&mut self.http, &mut self.fresh, self.watch);
                    session
                        .receive(self.buffer.filled(), begins, &mut || rules(http, fresh, watch))?
                };
                turns::spend(received.used + received.frames * turns::FRAME);
                self.buffer.consume(received.used);
                match received.event {
                    Some(Event::Begun(request)) => {
                        self.begin(request);
                        *begun += 1;
                    }
                    Some(Event::Rejected(fault)) => {
                        note_refusal(&self.http, &fault.of_request().0);
                    }
                    // What waits for the socket has to leave first.
                    None if received.waits && begins => return Ok(Reading::Stuffed),
                    None if received.frames < AT_ONCE => break,
                    None if turns::is_over() => return Ok(Reading::Paused),
                    None => {}
                }
            }
            if self.session.borrow().is_stuffed() {
                return Ok(Reading::Stuffed);
            }
            if *begun >= BURST {
                return Ok(Reading::Paused);
            }
            // Each frame costs time, however small it is.
            if turns::has_moved() && turns::is_over() {
                return Ok(Reading::Paused);
            }
            // Most polls are for responses: nothing has come since the last one, and TLS need not be asked.
            let ready = |socket: &TcpStream| socket.poll_read_ready(cx).is_ready();
            if self.drained && !self.io.socket().is_none_or(ready) {
                return Ok(Reading::Empty);
            }
            let read = self.buffer.poll_read(cx, &mut self.io);
            self.drained = read.is_pending();
            match read {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.session.borrow_mut().renew_budget(turns::now());
                }
                Poll::Ready(_) => return Err(End::Over),
                Poll::Pending => return Ok(Reading::Empty),
            }
        }
    }

    /// Hands all gathered bytes to the kernel.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut session = self.session.borrow_mut();
        while !session.pending().is_empty() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, session.pending()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            session.written(count);
            (self.unflushed, self.wrote) = (true, true);
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the connection in order.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        self.session.borrow_mut().leave_finally(code::NO_ERROR);
        if ready!(self.poll_send(cx)).is_ok() {
            let _ = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
        }
        Poll::Ready(Ok(()))
    }

    /// Starts an exchange, unless the configuration that admitted the connection has changed: a client that ignores GOAWAY would go on by the old rules.
    fn begin(&mut self, begun: Begun) {
        let at = begun.at;
        // The request was not processed, so the client may retry elsewhere (RFC 9113 section 8.7).
        if self.watch.outdated() {
            note_refusal(&self.http, &Refusal::Draining);
            return self.session.borrow_mut().refuse(at);
        }
        let Ok(mut held) = self.http.memory.take(STREAM) else {
            note_refusal(&self.http, &Refusal::Memory);
            return self.session.borrow_mut().refuse(at);
        };
        let watch = self.exchanges.watch(at, &self.http.core.watchdog);
        let http = Rc::clone(&self.http);
        // If this exceeds the budget, the head, which comes next, is refused with a response.
        let _ = held.raise(STREAM + size_of::<F>());
        let exchange = Pooled::new((self.serve)(http, watch, Rc::clone(&self.session), begun));
        self.exchanges.insert(at, exchange, held);
    }

    /// Ends the exchanges that are left, each of which may have a connection to an upstream.
    async fn drop_exchanges(&mut self) {
        self.session.borrow_mut().give_up_all();
        turns::drop_all(self.exchanges.take_all()).await;
    }

    async fn throw_out(&mut self, broken: Broken) {
        note_refusal(&self.http, &broken.refusal);
        self.drop_exchanges().await;
        self.session.borrow_mut().leave_finally(broken.code);
        self.watch.arm(Some(GOODBYE), false);
        let watch = self.watch;
        let _ = watch.guard(poll_fn(|cx| self.poll_end(cx))).await;
    }
}

/// Returns the rules for the head of the request that begins now, under the newest configuration that the connection may have.
fn rules(http: &mut Rc<Http>, fresh: &mut bool, watch: &Watch) -> Rules {
    if std::mem::take(fresh)
        && let Ok(now) = http.fresh(watch)
    {
        *http = now;
    }
    if watch.outdated()
        && let Ok(now) = http.now(watch, false)
        && !watch.outdated()
    {
        *http = now;
    }
    let limits = http.limits();
    let (bytes, fields) = (limits.header_bytes as usize, limits.header_fields as usize);
    Rules { bytes, fields, connect: http.is_asked() }
}

/// Serves one stream.
async fn exchange(http: Rc<Http>, watch: Rc<Watch>, session: Rc<RefCell<Session>>, begun: Begun) {
    let Begun { at, request, fault } = begun;
    let tunnel = request.method() == "CONNECT";
    let limit = http.limits().body_bytes.filter(|_| !tunnel);
    let mut down = Down::new(session, at, limit);
    // What the client has reset at once costs no more than its line of the log (rapid reset).
    if down.is_gone() {
        return drop(Account::open(&http, request));
    }
    if let Some(fault) = fault {
        let (refusal, status) = fault.of_request();
        requests::refuse(&http, &watch, &mut down, request, refusal, status).await;
        return down.linger(&http, &watch).await;
    }
    match requests::run(&http, &watch, &mut down, request).await {
        Ended::Complete => {}
        Ended::Unread => down.linger(&http, &watch).await,
        Ended::Broken | Ended::Upgraded(_) => down.reset(code::INTERNAL_ERROR),
    }
}
