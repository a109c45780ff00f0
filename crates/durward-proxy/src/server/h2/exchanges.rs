//! Exchanges of one connection: which of them are ready, and in which order they run.
//!
//! An exchange is woken by its own connections and timers, through its waker, and by the session, which runs in the same task and only notes the slot.
//! Wake-ups while the connection is polled do not schedule the task again: the poll itself looks for them.

use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

use crate::memory::Part;
use crate::server::h2::pool::Pooled;
use crate::turns;
use crate::watch::{Watch, Watchdog};

/// Slots whose wake-ups share a word.
const GROUP: usize = u64::BITS as usize;
/// Slots that are kept while the connection is idle, and those of them whose watch is.
const KEPT: (usize, usize) = (16, 1);

/// Exchanges by the slots of their streams.
pub(super) struct Exchanges<F: Future<Output = ()> + 'static> {
    slots: Vec<Slot<F>>,
    groups: Vec<Arc<AtomicU64>>,
    shared: Arc<Shared>,
    /// Slots that run next, in this order.
    ready: VecDeque<usize>,
    /// Number of exchanges.
    running: usize,
    /// Waker of the connection's task, as `shared` has it.
    task: Option<Waker>,
}

struct Slot<F: Future<Output = ()> + 'static> {
    /// Future, and the memory charged for it.
    exchange: Option<(Pooled<F>, Part)>,
    /// True while the slot is among the ready ones.
    queued: bool,
    waker: Waker,
    /// Deadlines of the slot's exchanges, one after the other.
    watch: Option<Rc<Watch>>,
}

/// State of the wake-ups of a connection.
struct Shared {
    /// True while the connection is polled.
    polled: AtomicBool,
    /// True after a wake-up that no poll has seen.
    noted: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Shared {
    fn note(&self) {
        // Another thread may come while the poll ends: either it sees the end, or `leave` sees the note.
        if !self.noted.swap(true, SeqCst) && !self.polled.load(SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        task.iter().for_each(Waker::wake_by_ref);
    }
}

/// Waker of one slot.
struct SlotWaker {
    group: Arc<AtomicU64>,
    bit: u64,
    shared: Arc<Shared>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.group.fetch_or(self.bit, SeqCst) & self.bit == 0 {
            self.shared.note();
        }
    }
}

/// Session of the exchanges' streams.
pub(super) trait Streams {
    /// Begins a run of a slot's exchange.
    fn enter(&self, at: usize);
    /// Ends the run.
    fn leave(&self, at: usize);
    /// Moves slots for which something has happened to `ready`.
    fn woken(&self, ready: &mut impl Extend<usize>);
}

impl<F: Future<Output = ()> + 'static> Exchanges<F> {
    pub(super) fn new() -> Self {
        let shared = Arc::new(Shared {
            polled: AtomicBool::new(false),
            noted: AtomicBool::new(false),
            task: Mutex::new(None),
        });
        let (slots, groups, ready) = (Vec::new(), Vec::new(), VecDeque::new());
        Self { slots, groups, shared, ready, running: 0, task: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running == 0
    }

    pub(super) fn len(&self) -> usize {
        self.running
    }

    /// Returns the watch of a slot's exchanges.
    pub(super) fn watch(&mut self, at: usize, watchdog: &Rc<Watchdog>) -> Rc<Watch> {
        while self.slots.len() <= at {
            let number = self.slots.len();
            if number.is_multiple_of(GROUP) && self.groups.len() == number / GROUP {
                self.groups.push(Arc::default());
            }
            let group = Arc::clone(&self.groups[number / GROUP]);
            let (bit, shared) = (1 << (number % GROUP), Arc::clone(&self.shared));
            self.slots.push(Slot {
                exchange: None,
                queued: false,
                waker: Waker::from(Arc::new(SlotWaker { group, bit, shared })),
                watch: None,
            });
        }
        let watch = &mut self.slots[at].watch;
        Rc::clone(watch.get_or_insert_with(|| Rc::new(watchdog.watch())))
    }

    /// Adds an exchange to a slot that has a watch; it runs in the next [`Self::poll`].
    pub(super) fn insert(&mut self, at: usize, exchange: Pooled<F>, held: Part) {
        let slot = &mut self.slots[at];
        slot.exchange = Some((exchange, held));
        self.running += 1;
        self.push(at);
    }

    /// Takes the exchanges out, to be dropped.
    pub(super) fn take_all(&mut self) -> Vec<(Pooled<F>, Part)> {
        self.running = 0;
        self.ready.clear();
        self.slots.drain(..).filter_map(|slot| slot.exchange).collect()
    }

    /// Begins a poll of the connection's task.
    pub(super) fn begin(&mut self, task: &Waker) {
        if !self.task.as_ref().is_some_and(|known| known.will_wake(task)) {
            self.task = Some(task.clone());
            let mut shared = self.shared.task.lock().unwrap_or_else(PoisonError::into_inner);
            *shared = Some(task.clone());
        }
        self.shared.polled.store(true, SeqCst);
    }

    /// Ends a poll. Wake-ups that came meanwhile, and exchanges that have not had their turn, schedule the task again.
    pub(super) fn end(&mut self) {
        self.shared.polled.store(false, SeqCst);
        if self.shared.noted.load(SeqCst) || !self.ready.is_empty() {
            self.shared.wake();
        }
    }

    /// Runs the exchanges that are ready, at least one of them, until the turn is over. Returns true if any ran.
    pub(super) fn poll(&mut self, streams: &impl Streams) -> bool {
        self.collect(streams);
        let mut ran = false;
        while let Some(at) = self.ready.front().copied() {
            if ran && turns::is_over() {
                break;
            }
            self.ready.pop_front();
            ran |= self.run(at, streams);
            streams.leave(at);
            streams.woken(&mut Ready(self));
        }
        if self.running == 0 {
            self.forget();
        }
        ran
    }

    fn run(&mut self, at: usize, streams: &impl Streams) -> bool {
        let slot = &mut self.slots[at];
        slot.queued = false;
        let Some((exchange, _)) = &mut slot.exchange else { return false };
        streams.enter(at);
        if exchange.poll(&mut Context::from_waker(&slot.waker)).is_ready() {
            slot.watch.iter().for_each(|watch| watch.arm(None, false));
            slot.exchange = None;
            self.running -= 1;
        }
        true
    }

    /// Queues what was woken since the last call.
    fn collect(&mut self, streams: &impl Streams) {
        streams.woken(&mut Ready(self));
        if !self.shared.noted.swap(false, SeqCst) {
            return;
        }
        for number in 0..self.groups.len() {
            let mut bits = self.groups[number].swap(0, SeqCst);
            while bits != 0 {
                self.push(number * GROUP + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }

    fn push(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        if !std::mem::replace(&mut slot.queued, true) {
            self.ready.push_back(at);
        }
    }

    /// Releases what many exchanges needed.
    fn forget(&mut self) {
        let (slots, watches) = KEPT;
        if self.slots.len() > slots {
            self.ready.clear();
            self.slots.truncate(slots);
            self.slots.iter_mut().for_each(|slot| slot.queued = false);
            self.slots.shrink_to(slots);
            self.groups.truncate(1);
        }
        self.slots.iter_mut().skip(watches).for_each(|slot| slot.watch = None);
    }
}

/// Queue of ready slots, for the session to extend.
struct Ready<'e, F: Future<Output = ()> + 'static>(&'e mut Exchanges<F>);

impl<F: Future<Output = ()> + 'static> Extend<usize> for Ready<'_, F> {
    fn extend<T: IntoIterator<Item = usize>>(&mut self, slots: T) {
        slots.into_iter().for_each(|at| self.0.push(at));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use std::task::Poll;

    use super::*;
    use crate::memory::{ConnectionMemory, Kind, Memory};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[derive(Default)]
    struct Session {
        woken: RefCell<Vec<usize>>,
    }

    impl Streams for Session {
        fn enter(&self, _: usize) {}

        fn leave(&self, _: usize) {}

        fn woken(&self, ready: &mut impl Extend<usize>) {
            ready.extend(self.woken.borrow_mut().drain(..));
        }
    }

    type Exchange = std::pin::Pin<Box<dyn Future<Output = ()>>>;

    struct Rig {
        exchanges: Exchanges<Exchange>,
        session: Session,
        watchdog: Rc<Watchdog>,
        memory: Rc<ConnectionMemory>,
        /// Slots that ran, and their wakers.
        ran: Rc<RefCell<Vec<usize>>>,
        wakers: Rc<RefCell<Vec<Waker>>>,
        task: Arc<Count>,
    }

    impl Rig {
        fn new() -> Self {
            let hold = Arc::new(Memory::new(1 << 30)).hold(&Arc::default(), Kind::Clients);
            Self {
                exchanges: Exchanges::new(),
                session: Session::default(),
                watchdog: Rc::default(),
                memory: ConnectionMemory::new(hold),
                ran: Rc::default(),
                wakers: Rc::default(),
                task: Arc::default(),
            }
        }

        /// Adds an exchange that is over after so many runs.
        fn add(&mut self, at: usize, mut runs: usize) {
            self.exchanges.watch(at, &self.watchdog);
            let (ran, wakers) = (Rc::clone(&self.ran), Rc::clone(&self.wakers));
            let exchange = poll_fn(move |cx| {
                ran.borrow_mut().push(at);
                wakers.borrow_mut().push(cx.waker().clone());
                runs -= 1;
                if runs == 0 { Poll::Ready(()) } else { Poll::Pending }
            });
            let exchange: Exchange = Box::pin(exchange);
            self.exchanges.insert(at, Pooled::new(exchange), self.memory.take(1).unwrap());
        }

        fn poll(&mut self) -> Vec<usize> {
            self.exchanges.begin(&Waker::from(Arc::clone(&self.task)));
            self.exchanges.poll(&self.session);
            self.exchanges.end();
            self.ran.take()
        }

        fn scheduled(&self) -> usize {
            self.task.0.swap(0, SeqCst)
        }
    }

    #[test]
    fn exchanges_run_in_the_order_in_which_they_were_woken() {
        let mut rig = Rig::new();
        (0..70).for_each(|at| rig.add(at, 2));
        assert_eq!(rig.poll(), (0..70).collect::<Vec<_>>());
        assert_eq!((rig.poll(), rig.scheduled()), (vec![], 0));

        rig.session.woken.borrow_mut().extend([9, 3, 9]);
        let waker = rig.wakers.borrow()[69].clone();
        waker.wake_by_ref();
        waker.wake();

        assert_eq!((rig.scheduled(), rig.poll()), (1, vec![9, 3, 69]));
        assert!(!rig.exchanges.is_empty());
    }

    #[test]
    fn wake_ups_within_a_poll_schedule_the_task_once_and_after_it() {
        let mut rig = Rig::new();
        rig.add(0, 3);
        rig.poll();
        let waker = rig.wakers.borrow()[0].clone();

        rig.exchanges.begin(&Waker::from(Arc::clone(&rig.task)));
        waker.wake_by_ref();
        assert_eq!(rig.scheduled(), 0);
        rig.exchanges.end();
        assert_eq!((rig.scheduled(), rig.poll()), (1, vec![0]));

        waker.wake_by_ref();
        waker.wake_by_ref();
        assert_eq!(rig.scheduled(), 1, "outside of a poll");
    }

    #[test]
    fn no_wake_up_of_another_thread_is_lost() {
        let mut rig = Rig::new();
        rig.add(0, usize::MAX);
        rig.poll();
        let waker = rig.wakers.borrow()[0].clone();
        for _ in 0..2_000 {
            rig.scheduled();
            rig.exchanges.begin(&Waker::from(Arc::clone(&rig.task)));
            let other = waker.clone();
            let other = std::thread::spawn(move || other.wake());
            rig.exchanges.end();
            other.join().unwrap();
            assert!(rig.scheduled() > 0);
            assert_eq!(rig.poll(), [0]);
        }
    }

    #[tokio::test]
    async fn a_turn_is_over_for_the_rest_of_many_exchanges_when_its_time_is() {
        let mut rig = Rig::new();
        (0..50).for_each(|at| rig.add(at, 1));
        let mut polls = 0;
        let ran = Rc::clone(&rig.ran);
        let connection = poll_fn(|cx| {
            polls += 1;
            rig.exchanges.begin(cx.waker());
            std::thread::sleep(std::time::Duration::from_millis(1));
            rig.exchanges.poll(&rig.session);
            rig.exchanges.end();
            if rig.exchanges.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        });
        let owner = turns::Owner::Socket("127.0.0.1:1".parse().unwrap(), 0);
        let turns = Rc::<turns::Turns>::default();

        let entry = turns::QueueEntry::new(turns.of(&owner));
        tokio::task::LocalSet::new().run_until(entry.run(connection)).await;

        assert_eq!(*ran.borrow(), (0..50).collect::<Vec<_>>());
        assert_eq!(polls, 50, "one in each turn");
    }

    #[test]
    fn what_many_exchanges_needed_is_not_kept() {
        let mut rig = Rig::new();
        (0..200).for_each(|at| rig.add(at, 1));

        rig.poll();

        assert_eq!((rig.exchanges.slots.len(), rig.exchanges.groups.len()), (KEPT.0, 1));
        let watches = rig.exchanges.slots.iter().filter(|slot| slot.watch.is_some()).count();
        assert_eq!(watches, KEPT.1);
        rig.add(0, 1);
        assert_eq!(rig.poll(), [0]);
    }
}
