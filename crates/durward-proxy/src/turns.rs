//! Run time of one core, shared out among tenants.
//!
//! Ready tasks of a core run in the order in which they became ready, so a tenant with a thousand busy connections would make all others wait for all
//! of them. A round is one pass over the ready tasks: in it the connections of one tenant use up [`MOST`] shares, and later ones wait for the next round
//! without having run. The work of one turn is bounded by its task. While all turns of a core belong to one tenant there is nobody to be kept waiting, and
//! turns and rounds are longer.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use durward_model::TenantId;
use pin_project_lite::pin_project;

/// Shares of a round that one owner has. A turn uses up at least one.
const MOST: u32 = 16;
/// Shares that may be used up in advance.
const LONGEST: u32 = 8 * MOST;
/// Bytes of bodies and streams that are moved in one turn.
pub(crate) const BYTES: usize = 256 * 1024;
/// Longest turn of which the work is not counted in bytes, such as opening and closing connections for many streams. A request of another tenant takes two turns or more, so it waits
/// for all owners that are busy twice.
const TIME: Duration = Duration::from_micros(100);
/// Time of one share: all turns of an owner in a round take little more than [`TIME`].
const SHARE: Duration = TIME.checked_div(MOST).unwrap();
/// Bytes of one share.
const SHARE_BYTES: usize = 4 * BYTES / MOST as usize;
/// Shares that time uses up, at most: it also passes while the kernel runs another process.
const LATEST: u32 = 2 * MOST;
/// Time after which the runtime looks at the sockets again while ready connections wait for their round. Each look is a call of the kernel.
const LOOK: Duration = Duration::from_micros(200);
/// Length of a turn while one owner has the core to itself. In a shorter one, an HTTP/2 connection with 16 busy streams could not answer all of them with
/// one write.
const TIME_ALONE: Duration = Duration::from_millis(1);
/// Questions whether such a turn is over for each look at the clock: the work between two of them takes microseconds.
const ASKED_ALONE: u8 = 8;
/// Length of a round while one owner has the core to itself. More rounds are more looks at the sockets, each of which finds fewer frames.
const ROUND_ALONE: Duration = Duration::from_millis(4);
/// Waiting connections, beyond those that turns are kept for, that try again in such a round.
const MOST_ALONE: usize = 256;
/// Time without a turn of anybody else after which an owner has the core to itself.
const CALM: Duration = Duration::from_millis(250);
/// Bytes that moving one piece of a body counts as, at least.
pub(crate) const PIECE: usize = 2 * 1024;
/// Bytes that reading one frame of HTTP/2 counts as.
pub(crate) const FRAME: usize = 256;

thread_local! {
    /// Present turn; `None` outside of turns.
    static PRESENT: Cell<Option<Present>> = const { Cell::new(None) };
}

/// Turn that runs now.
#[derive(Clone, Copy)]
struct Present {
    /// Begin of the turn.
    began: Instant,
    /// End of its time; `None` once that was seen to be over.
    until: Option<Instant>,
    /// Bytes moved.
    moved: usize,
    /// True if one owner has the core to itself.
    alone: bool,
    /// Questions since the clock was read.
    asked: u8,
}

/// Takes bytes out of those of the present turn. If they are more than a turn has, the connection's owner has fewer turns left in this round.
pub(crate) fn spend(bytes: usize) {
    let spent = |turn: Present| Present { moved: turn.moved.saturating_add(bytes), ..turn };
    PRESENT.set(PRESENT.get().map(spent));
}

/// Returns the begin of the present turn, or outside of turns the time: exact to a millisecond, which suits deadlines and costs no look at the clock.
pub(crate) fn now() -> Instant {
    PRESENT.get().map_or_else(Instant::now, |turn| turn.began)
}

/// Returns true if the present turn has moved bytes. Where only these cost time, the clock need not be asked before.
pub(crate) fn has_moved() -> bool {
    PRESENT.get().is_some_and(|turn| turn.moved > 0)
}

/// Returns true if the present turn has spent its bytes or its time: other ready work waits for the next. While one owner has the core to itself most
/// questions are answered without a look at the clock.
pub(crate) fn is_over() -> bool {
    let Some(mut turn) = PRESENT.get() else { return false };
    let Some(until) = turn.until.filter(|_| turn.moved < BYTES) else { return true };
    turn.asked += 1;
    if !turn.alone || turn.asked >= ASKED_ALONE {
        turn.asked = 0;
        turn.until = Some(until).filter(|until| Instant::now() < *until);
    }
    PRESENT.set(Some(turn));
    turn.until.is_none()
}

/// Drops values that are costly to drop, such as streams with connections of their own, in as many turns as that takes.
pub(crate) async fn drop_all<T>(values: impl IntoIterator<Item = T>) {
    let mut values = values.into_iter();
    poll_fn(|cx| {
        while !is_over() {
            if values.next().is_none() {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Owner of connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// Tenant.
    Tenant(TenantId),
    /// Listening socket of a bind, by its number on the core, for connections that belong to no tenant yet.
    Socket(SocketAddr, usize),
}

/// Rounds of one core.
pub(crate) struct Turns {
    round: Cell<u64>,
    /// Begin of the round.
    began: Cell<Instant>,
    /// Queue that had the last turn; only compared.
    last: Cell<*const Queue>,
    /// Time at which a turn last belonged to another queue than the one before.
    contested: Cell<Instant>,
    /// True if it was long before the last turn.
    alone: Cell<bool>,
    queues: RefCell<HashMap<Owner, Weak<Queue>>>,
    /// Queues with waiting connections.
    pressed: RefCell<VecDeque<Rc<Queue>>>,
    /// True once [`Turns::run`] was started.
    running: Cell<bool>,
    /// Waker of [`Turns::run`].
    waker: RefCell<Option<Waker>>,
}

/// Turns of one owner.
pub(crate) struct Queue {
    owner: Owner,
    turns: Weak<Turns>,
    /// Round that `used` belongs to.
    round: Cell<u64>,
    /// Shares used up in it. Those of more than a round are taken from the rounds after it.
    used: Cell<u32>,
    /// Shares that the last turn used up, which the next one is expected to use, too.
    price: Cell<u32>,
    waiting: RefCell<VecDeque<(Rc<QueueEntry>, Waker)>>,
}

/// Entry of one connection in a queue.
pub(crate) struct QueueEntry {
    queue: RefCell<Rc<Queue>>,
    waits: Cell<bool>,
    /// Shares of this round that are kept for it, after it has waited.
    granted: Cell<u32>,
}

impl Default for Turns {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            round: Cell::default(),
            began: Cell::new(now),
            last: Cell::new(std::ptr::null()),
            contested: Cell::new(now),
            alone: Cell::default(),
            queues: RefCell::default(),
            pressed: RefCell::default(),
            running: Cell::default(),
            waker: RefCell::default(),
        }
    }
}

impl Turns {
    /// Notes whose connection is ready at `now`. Returns true if nobody else's has been for a while.
    fn note(&self, queue: &Rc<Queue>, now: Instant) -> bool {
        let queue = Rc::as_ptr(queue);
        if self.last.replace(queue) != queue {
            self.contested.set(now);
            self.alone.set(false);
        } else if !self.alone.get() {
            self.alone.set(now.duration_since(self.contested.get()) >= CALM);
        }
        self.alone.get()
    }

    /// Returns the queue of `owner`.
    pub(crate) fn of(self: &Rc<Self>, owner: &Owner) -> Rc<Queue> {
        let mut queues = self.queues.borrow_mut();
        if let Some(queue) = queues.get(owner).and_then(Weak::upgrade) {
            return queue;
        }
        let queue = Rc::new(Queue {
            owner: owner.clone(),
            turns: Rc::downgrade(self),
            round: Cell::new(0),
            used: Cell::new(0),
            price: Cell::new(1),
            waiting: RefCell::default(),
        });
        queues.insert(owner.clone(), Rc::downgrade(&queue));
        queue
    }

    /// Notes that `queue` has its first waiting connection.
    fn press(self: &Rc<Self>, queue: Rc<Queue>) {
        self.pressed.borrow_mut().push_back(queue);
        if !self.running.replace(true) {
            tokio::task::spawn_local(Rc::clone(self).run());
        }
        let waker = self.waker.borrow_mut().take();
        waker.into_iter().for_each(Waker::wake);
    }

    /// Begins a new round whenever a connection waits for one.
    async fn run(self: Rc<Self>) {
        let mut looked = Instant::now();
        loop {
            poll_fn(|cx| {
                if !self.pressed.borrow().is_empty() {
                    return Poll::Ready(());
                }
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
            self.next_round();
            // All tasks that are ready now run before the next round begins. Who becomes ready meanwhile is in it only if the runtime has looked at the
            // sockets, which it does by itself after dozens of tasks: a busy tenant's turns may take milliseconds.
            if looked.elapsed() < LOOK {
                behind_ready_tasks().await;
            } else {
                tokio::task::yield_now().await;
                looked = Instant::now();
            }
        }
    }

    /// Begins the next round in which somebody may run: rounds that all who wait have used up in advance are passed over.
    fn next_round(&self) {
        let mut woken = false;
        while !woken && !self.pressed.borrow().is_empty() {
            self.round.set(self.round.get() + 1);
            self.began.set(Instant::now());
            let pressed = self.pressed.borrow().len();
            for _ in 0..pressed {
                let Some(queue) = self.pressed.borrow_mut().pop_front() else { return };
                woken |= queue.grant(self.round.get(), self.alone.get());
                if !queue.waiting.borrow().is_empty() {
                    self.pressed.borrow_mut().push_back(queue);
                }
            }
        }
    }
}

impl Queue {
    fn begin(&self, round: u64) {
        let passed = round.saturating_sub(self.round.replace(round));
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        self.used.set(self.used.get().saturating_sub(passed.saturating_mul(MOST)));
    }

    /// Wakes those that have waited longest, and keeps turns of the round that begins for them; `alone`, wakes many more to try again. Returns whether
    /// there were any.
    fn grant(&self, round: u64, alone: bool) -> bool {
        self.begin(round);
        let mut woken = false;
        while self.used.get() < MOST {
            let Some((place, waker)) = self.waiting.borrow_mut().pop_front() else { break };
            woken = true;
            place.waits.set(false);
            place.granted.set(self.price.get());
            self.used.set(self.used.get() + self.price.get());
            waker.wake();
        }
        let more = if alone && woken { MOST_ALONE } else { 0 };
        let mut waiting = self.waiting.borrow_mut();
        let more = more.min(waiting.len());
        for (place, waker) in waiting.drain(..more) {
            place.waits.set(false);
            waker.wake();
        }
        woken
    }

    /// Takes a share of this round; false if all are used up.
    fn take(&self, round: u64) -> bool {
        self.begin(round);
        let used = self.used.get();
        self.used.set(used + u32::from(used < MOST));
        used < MOST
    }

    /// Settles what a turn has cost that so many shares were kept for.
    fn settle(&self, kept: u32, cost: u32) {
        self.price.set(cost.clamp(1, MOST));
        self.used.set((self.used.get() + cost).saturating_sub(kept).min(LONGEST));
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let Some(turns) = self.turns.upgrade() else { return };
        let mut queues = turns.queues.borrow_mut();
        if queues.get(&self.owner).is_some_and(|queue| queue.strong_count() == 0) {
            queues.remove(&self.owner);
        }
    }
}

impl QueueEntry {
    /// Creates a place in `queue`.
    pub(crate) fn new(queue: Rc<Queue>) -> Rc<Self> {
        let (waits, granted) = (Cell::new(false), Cell::new(0));
        Rc::new(Self { queue: RefCell::new(queue), waits, granted })
    }

    /// Moves the connection to another queue. A waiting one stays where it waits.
    pub(crate) fn belong_to(&self, queue: Rc<Queue>) {
        *self.queue.borrow_mut() = queue;
    }

    /// Runs `future`, each poll as a turn of its queue.
    pub(crate) fn run<F: Future>(self: Rc<Self>, future: F) -> TakingTurns<F> {
        TakingTurns { entry: self, future }
    }

    /// Begins a turn at `now`. Returns how many shares are kept for it, and whether nobody else has used the core for a while; `None` while it must wait.
    fn begin_turn(self: &Rc<Self>, cx: &mut Context<'_>, now: Instant) -> Option<(u32, bool)> {
        let granted = self.granted.replace(0);
        let queue = self.queue.borrow();
        let Some(turns) = queue.turns.upgrade() else { return Some((granted.max(1), false)) };
        let alone = turns.note(&queue, now);
        if granted > 0 {
            return Some((granted, alone));
        }
        if self.waits.get() {
            return None;
        }
        let round_lasts = || now.duration_since(turns.began.get()) < ROUND_ALONE;
        if queue.take(turns.round.get()) || (alone && round_lasts()) {
            return Some((1, alone));
        }
        self.waits.set(true);
        let mut waiting = queue.waiting.borrow_mut();
        if waiting.is_empty() {
            turns.press(Rc::clone(&queue));
        }
        waiting.push_back((Rc::clone(self), cx.waker().clone()));
        None
    }
}

pin_project! {
    /// A connection's future, each poll of which is a turn of its queue. A type of its own, for an `async fn` keeps its argument
    /// twice: as what it was called with, and where it is pinned.
    pub(crate) struct TakingTurns<F> {
        entry: Rc<QueueEntry>,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for TakingTurns<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let now = Instant::now();
        let Some((kept, alone)) = this.entry.begin_turn(cx, now) else {
            return Poll::Pending;
        };
        let (polled, moved) = poll(this.future, cx, now, alone);
        let bytes = u32::try_from(moved / SHARE_BYTES).unwrap_or(LONGEST);
        let time = if alone { 0 } else { shares_of(now.elapsed()) };
        this.entry.queue.borrow().settle(kept, bytes.max(time).max(1));
        polled
    }
}

/// Returns the shares that a turn of this length uses up.
fn shares_of(time: Duration) -> u32 {
    let shares = time.as_nanos() / SHARE.as_nanos();
    u32::try_from(shares).unwrap_or(LATEST).min(LATEST)
}

/// Waits until all tasks have run that are ready now. Unlike `yield_now`, it does not make the runtime look at the sockets.
async fn behind_ready_tasks() {
    let mut waited = false;
    poll_fn(|cx| {
        if mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Polls the future in a turn that begins `now`, and returns the bytes it moved as well.
fn poll<F: Future>(
    future: Pin<&mut F>,
    cx: &mut Context<'_>,
    now: Instant,
    alone: bool,
) -> (Poll<F::Output>, usize) {
    let until = Some(now + if alone { TIME_ALONE } else { TIME });
    PRESENT.set(Some(Present { began: now, until, moved: 0, alone, asked: 0 }));
    let polled = future.poll(cx);
    (polled, PRESENT.take().map_or(0, |turn| turn.moved))
}

#[cfg(test)]
mod tests;
