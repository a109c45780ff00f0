//! Rounds and turns, with tasks that count their runs.

use std::pin::pin;

use tokio::task::{LocalSet, spawn_local};

use super::*;

fn tenant(name: &str) -> Owner {
    Owner::Tenant(TenantId::new(name).unwrap())
}

/// Becomes ready again as soon as it has run, `times` times, and records each run.
async fn busy(name: &'static str, times: usize, ran: Rc<RefCell<Vec<&'static str>>>) {
    let mut left = times;
    poll_fn(|cx| {
        ran.borrow_mut().push(name);
        left -= 1;
        if left == 0 {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn spawn(
    turns: &Rc<Turns>,
    name: &'static str,
    times: usize,
    ran: &Rc<RefCell<Vec<&'static str>>>,
) {
    let place = QueueEntry::new(turns.of(&tenant(name)));
    spawn_local(place.run(busy(name, times, Rc::clone(ran))));
}

async fn until_ran(ran: &Rc<RefCell<Vec<&'static str>>>, count: usize) {
    while ran.borrow().len() < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_tenant_with_many_busy_connections_lets_another_wait_for_a_few() {
    let (turns, ran) = (Rc::<Turns>::default(), Rc::default());
    LocalSet::new()
        .run_until(async {
            (0..500).for_each(|_| spawn(&turns, "greedy", 20, &ran));
            spawn(&turns, "modest", 20, &ran);
            until_ran(&ran, 500 * 20 + 20).await;
        })
        .await;

    let ran = ran.borrow();
    let modest: Vec<_> = (0..ran.len()).filter(|at| ran[*at] == "modest").collect();
    assert_eq!(modest.len(), 20);
    assert!(modest[0] <= MOST as usize, "waited for {}", modest[0]);
    let longest = modest.windows(2).map(|pair| pair[1] - pair[0] - 1).max().unwrap();
    assert!(longest <= 2 * MOST as usize, "waited for {longest}");
}

#[tokio::test]
async fn a_tenant_whose_turns_take_long_has_fewer_of_them() {
    let (turns, ran) = (Rc::<Turns>::default(), Rc::<RefCell<Vec<_>>>::default());
    LocalSet::new()
        .run_until(async {
            for _ in 0..16 {
                let (ran, mut left) = (Rc::clone(&ran), 20);
                spawn_local(QueueEntry::new(turns.of(&tenant("slow"))).run(poll_fn(move |cx| {
                    std::thread::sleep(TIME);
                    ran.borrow_mut().push("slow");
                    left -= 1;
                    cx.waker().wake_by_ref();
                    if left == 0 { Poll::Ready(()) } else { Poll::Pending }
                })));
            }
            spawn(&turns, "modest", 100, &ran);
            until_ran(&ran, 100).await;
        })
        .await;

    let ran = ran.borrow();
    let slow = ran.iter().take(100).filter(|name| **name == "slow").count();
    // Were turns not paid for by time, it would be half of them.
    assert!(slow <= 35, "{slow} of the first 100 turns");
}

#[tokio::test]
async fn bytes_that_come_while_others_have_long_turns_are_noticed_soon() {
    let (turns, ran) = (Rc::<Turns>::default(), Rc::<RefCell<Vec<_>>>::default());
    let (mut writes, reads) = std::os::unix::net::UnixStream::pair().unwrap();
    reads.set_nonblocking(true).unwrap();
    LocalSet::new()
        .run_until(async {
            let reads = tokio::net::UnixStream::from_std(reads).unwrap();
            let modest = Rc::clone(&ran);
            spawn_local(QueueEntry::new(turns.of(&tenant("modest"))).run(async move {
                reads.readable().await.unwrap();
                modest.borrow_mut().push("modest");
            }));
            tokio::task::yield_now().await;
            for _ in 0..100 {
                let (ran, mut left) = (Rc::clone(&ran), 20);
                spawn_local(QueueEntry::new(turns.of(&tenant("greedy"))).run(poll_fn(move |cx| {
                    std::thread::sleep(TIME / 4);
                    ran.borrow_mut().push("greedy");
                    left -= 1;
                    cx.waker().wake_by_ref();
                    if left == 0 { Poll::Ready(()) } else { Poll::Pending }
                })));
            }
            // Somebody else has turns as well, so that no owner has the core to itself.
            spawn(&turns, "third", 2_000, &Rc::default());
            until_ran(&ran, 500).await;
            std::io::Write::write_all(&mut writes, b"x").unwrap();
            ran.borrow_mut().push("written");
            until_ran(&ran, 100 * 20 + 2).await;
        })
        .await;

    let ran = ran.borrow();
    let at = |name| ran.iter().position(|one| *one == name).unwrap();
    let waited = at("modest") - at("written");
    assert!(waited <= 12, "waited for {waited}");
}

#[tokio::test]
async fn what_is_dropped_takes_turns_too() {
    struct Costly(Rc<Cell<usize>>);
    impl Drop for Costly {
        fn drop(&mut self) {
            std::thread::sleep(TIME);
            self.0.set(self.0.get() + 1);
        }
    }
    let (turns, dropped) = (Rc::<Turns>::default(), Rc::<Cell<usize>>::default());
    let costly: Vec<_> = (0..10).map(|_| Costly(Rc::clone(&dropped))).collect();
    let mut dropping = pin!(QueueEntry::new(turns.of(&tenant("one"))).run(drop_all(costly)));
    let mut cx = Context::from_waker(Waker::noop());

    assert!(dropping.as_mut().poll(&mut cx).is_pending());

    assert_eq!(dropped.get(), 1);
}

#[tokio::test]
async fn a_turn_that_moves_more_than_its_bytes_uses_up_several() {
    let (turns, ran) = (Rc::<Turns>::default(), Rc::<RefCell<Vec<_>>>::default());
    LocalSet::new()
        .run_until(async {
            for name in ["large", "small"] {
                for _ in 0..20 {
                    let place = QueueEntry::new(turns.of(&tenant(name)));
                    let (ran, mut left) = (Rc::clone(&ran), 20);
                    spawn_local(place.run(poll_fn(move |cx| {
                        ran.borrow_mut().push(name);
                        spend(if name == "large" { 4 * BYTES } else { BYTES });
                        left -= 1;
                        cx.waker().wake_by_ref();
                        if left == 0 { Poll::Ready(()) } else { Poll::Pending }
                    })));
                }
            }
            until_ran(&ran, 2 * 20 * 20).await;
        })
        .await;

    let ran = ran.borrow();
    let half = ran[..200].iter().filter(|name| **name == "large").count();
    assert!((30..=60).contains(&half), "{half} of 200 turns were large");
}

#[tokio::test]
async fn no_connection_of_a_busy_tenant_waits_for_ever() {
    let (turns, ran) = (Rc::<Turns>::default(), Rc::<RefCell<Vec<_>>>::default());
    let order: Vec<&'static str> =
        vec!["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"];
    LocalSet::new()
        .run_until(async {
            for name in &order {
                let place = QueueEntry::new(turns.of(&tenant("one")));
                spawn_local(place.run(busy(name, 50, Rc::clone(&ran))));
            }
            until_ran(&ran, order.len() * 50).await;
        })
        .await;

    let ran = ran.borrow();
    for name in order {
        let half = ran[..ran.len() / 2].iter().filter(|who| **who == name).count();
        // Who has waited comes first, so that nobody waits for ever.
        assert!(half >= 10, "{name} had {half} of its 50 turns");
    }
}

#[tokio::test]
async fn what_ends_while_it_waits_or_moves_to_another_tenant_holds_nobody_up() {
    let (turns, ran) = (Rc::<Turns>::default(), Rc::<RefCell<Vec<_>>>::default());
    LocalSet::new()
        .run_until(async {
            let ended: Vec<_> = (0..100)
                .map(|_| {
                    let place = QueueEntry::new(turns.of(&tenant("one")));
                    spawn_local(place.run(busy("ended", 1000, Rc::clone(&ran))))
                })
                .collect();
            let moving = QueueEntry::new(
                turns.of(&Owner::Socket(SocketAddr::from(([192, 0, 2, 1], 80)), 0)),
            );
            spawn_local(Rc::clone(&moving).run(busy("moved", 30, Rc::clone(&ran))));
            until_ran(&ran, 50).await;
            moving.belong_to(turns.of(&tenant("one")));
            ended.iter().for_each(tokio::task::JoinHandle::abort);
            drop(moving);
            for task in ended {
                let _ = task.await;
            }
            spawn(&turns, "one", 40, &ran);
            while ran.borrow().iter().filter(|who| **who == "one").count() < 40
                || ran.borrow().iter().filter(|who| **who == "moved").count() < 30
            {
                tokio::task::yield_now().await;
            }
            // Those that ended while they waited are forgotten in their turn.
            while !turns.queues.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
}

/// Gives `name` the core to itself, and returns its queue.
async fn leave_alone(turns: &Rc<Turns>, name: &'static str) -> Rc<Queue> {
    let queue = turns.of(&tenant(name));
    spawn(turns, name, 1, &Rc::default());
    tokio::task::yield_now().await;
    tokio::time::sleep(CALM).await;
    queue
}

#[tokio::test]
async fn who_has_the_core_to_itself_runs_on_without_rounds() {
    let (turns, ran) = (Rc::<Turns>::default(), Rc::<RefCell<Vec<_>>>::default());
    LocalSet::new()
        .run_until(async {
            let _queue = leave_alone(&turns, "only").await;
            let (round, start) = (turns.round.get(), Instant::now());
            (0..100).for_each(|_| spawn(&turns, "only", 20, &ran));
            until_ran(&ran, 100 * 20).await;

            let rounds = u128::from(turns.round.get() - round);
            let room = start.elapsed().as_nanos() / ROUND_ALONE.as_nanos();
            assert!(rounds <= 2 + room, "{rounds} rounds");
        })
        .await;
}

#[tokio::test]
async fn a_newcomer_waits_for_one_long_round_of_who_had_the_core_to_itself() {
    const TURN: Duration = Duration::from_micros(500);
    let (turns, ran) = (Rc::<Turns>::default(), Rc::<RefCell<Vec<_>>>::default());
    LocalSet::new()
        .run_until(async {
            let _queue = leave_alone(&turns, "greedy").await;
            for _ in 0..100 {
                let (ran, mut left) = (Rc::clone(&ran), 5);
                spawn_local(QueueEntry::new(turns.of(&tenant("greedy"))).run(poll_fn(move |cx| {
                    std::thread::sleep(TURN);
                    ran.borrow_mut().push("greedy");
                    left -= 1;
                    cx.waker().wake_by_ref();
                    if left == 0 { Poll::Ready(()) } else { Poll::Pending }
                })));
            }
            spawn(&turns, "modest", 20, &ran);
            until_ran(&ran, 100 * 5 + 20).await;
        })
        .await;

    let ran = ran.borrow();
    let modest: Vec<_> = (0..ran.len()).filter(|at| ran[*at] == "modest").collect();
    let one_round = ROUND_ALONE.div_duration_f64(TURN) as usize + 2 * MOST as usize;
    assert!(modest[0] <= one_round, "waited for {}", modest[0]);
    let longest = modest.windows(2).map(|pair| pair[1] - pair[0] - 1).max().unwrap();
    assert!(longest <= one_round, "waited for {longest}");
}

/// Wrappers copy what they wrap each time it is called with, and hold it as long as a connection lives: a future of many KiB only once.
#[test]
fn what_takes_turns_is_kept_once() {
    let large = || std::future::ready([0_u8; 8192]);
    let size = size_of_val(&large());
    let turns = Rc::<Turns>::default();

    let taking = QueueEntry::new(turns.of(&tenant("one"))).run(large());
    assert!(size_of_val(&taking) <= size + 2 * size_of::<usize>());
}
