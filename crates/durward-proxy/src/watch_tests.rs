//! Deadlines, drains, and what an edit takes away.

use durward_model::route::HostPattern;

use super::*;

#[tokio::test]
async fn a_deadline_ends_a_wait() {
    let watchdog = Rc::new(Watchdog::default());
    let watch = watchdog.watch();
    watch.arm(Some(Duration::ZERO), false);

    let (ended, ()) = tokio::join!(watch.guard(std::future::pending::<()>()), async {
        watchdog.sweep(Instant::now())
    });

    assert_eq!(ended, Err(Expired::Deadline));
}

#[tokio::test]
async fn draining_ends_the_idle_and_spares_the_busy() {
    let watchdog = Rc::new(Watchdog::default());
    let (idle, busy) = (watchdog.watch(), watchdog.watch());
    idle.arm(None, true);
    busy.arm(None, false);

    watchdog.drain();

    assert_eq!(idle.guard(std::future::pending::<()>()).await, Err(Expired::Closing));
    assert_eq!(busy.guard(std::future::ready(7)).await, Ok(7));
    assert!(busy.closing());
}

#[tokio::test]
async fn a_removed_tenant_ends_the_busy_too() {
    let watchdog = Rc::new(Watchdog::default());
    let watch = watchdog.watch();
    let retirement = Arc::new(Retirement::default());
    watch.retire_with(&retirement, [192, 0, 2, 1].into());
    watch.arm(None, false);

    retirement.remove();
    watchdog.sweep(Instant::now());

    assert_eq!(watch.guard(std::future::pending::<()>()).await, Err(Expired::Closing));
}

#[tokio::test]
async fn narrower_sources_end_the_connections_of_others_alone() {
    let watchdog = Rc::new(Watchdog::default());
    let (inside, outside) = (watchdog.watch(), watchdog.watch());
    let retirement = Arc::new(Retirement::default());
    inside.retire_with(&retirement, [192, 0, 2, 1].into());
    outside.retire_with(&retirement, [192, 0, 2, 200].into());
    for watch in [&inside, &outside] {
        watch.arm(None, true);
    }

    let sources = |block: &str| Narrowing::Sources(SourceSet::new([block.parse().unwrap()]));
    retirement.narrow(&sources("192.0.2.0/25"));
    watchdog.sweep(Instant::now());

    assert_eq!(outside.guard(std::future::pending::<()>()).await, Err(Expired::Closing));
    assert!(outside.cut() && !inside.cut() && !inside.closing());
    assert_eq!(inside.guard(std::future::ready(7)).await, Ok(7));
    retirement.narrow(&sources("192.0.2.0/24"));
    assert!(outside.cut() && !inside.cut());
    for bits in 0..20u8 {
        retirement.narrow(&sources(&format!("192.0.2.0/{}", 4 + bits)));
    }
    assert!(inside.cut());
}

#[tokio::test]
async fn names_that_are_taken_away_end_the_connections_that_asked_for_them_alone() {
    let watchdog = Rc::new(Watchdog::default());
    let retirement = Arc::new(Retirement::default());
    let asked = |name: &str| {
        let watch = watchdog.watch();
        watch.found_by(name);
        watch.retire_with(&retirement, [192, 0, 2, 1].into());
        watch
    };
    let (kept, below, lost) = (asked("a.example"), asked("x.b.example"), asked("c.example"));

    let exact = HostPattern::Exact(Arc::from("a.example"));
    let wildcard = HostPattern::Wildcard(Arc::from("b.example"));
    retirement.narrow(&Narrowing::Names(ServerNames::new(vec![exact, wildcard])));

    assert_eq!([kept.cut(), below.cut(), lost.cut()], [false, false, true]);
}

fn exactly(name: &str) -> ServerNames {
    ServerNames::new(vec![HostPattern::Exact(Arc::from(name))])
}

#[tokio::test]
async fn a_thousand_names_that_go_one_by_one_end_the_connections_that_asked_for_them_alone() {
    let watchdog = Rc::new(Watchdog::default());
    let retirement = Arc::new(Retirement::default());
    let watches: Vec<_> = (0..1_000)
        .map(|at| {
            let watch = watchdog.watch();
            watch.retire_with(&retirement, [192, 0, 2, 1].into());
            watch.found_by(&format!("h{at}.example"));
            watch
        })
        .collect();

    (1..1_000).for_each(|at| {
        retirement.narrow(&Narrowing::NamesLost(exactly(&format!("h{at}.example"))));
    });

    let cut: Vec<_> = watches.iter().map(Watch::cut).collect();
    assert!(!cut[0] && cut[1..].iter().all(|cut| *cut));
    assert!(!watches[0].cut() && watches[1].cut(), "asked again");
}

#[tokio::test]
async fn what_a_hosted_api_admits_no_longer_ends_and_nothing_else_does() {
    let watchdog = Rc::new(Watchdog::default());
    let retirement = Arc::new(Retirement::default());
    let client = |name: &str, last: u8, is_proxy: bool| {
        let watch = watchdog.watch();
        watch.retire_with(&retirement, [192, 0, 2, last].into());
        watch.found_by(name);
        if is_proxy {
            watch.comes_by_proxy();
        }
        watch
    };
    let watches = [
        client("a.example", 1, false),
        client("a.example", 1, true),
        client("a.example", 200, false),
        client("b.example", 200, true),
    ];
    let cut = || watches.each_ref().map(Watch::cut);
    let (names, sources) =
        (exactly("a.example"), SourceSet::new(["192.0.2.0/25".parse().unwrap()]));
    let narrowing = |sources, without_proxies| Narrowing::Hosted {
        names: names.clone(),
        sources,
        without_proxies,
    };
    assert_eq!(cut(), [false; 4]);

    retirement.narrow(&narrowing(Some(sources), false));
    assert_eq!(cut(), [false, false, true, false]);

    retirement.narrow(&narrowing(None, true));
    assert_eq!(cut(), [false, true, true, false]);
}

#[test]
fn what_a_watch_guards_is_kept_once() {
    let watchdog = Rc::new(Watchdog::default());
    let watch = watchdog.watch();
    let large = std::future::ready([0_u8; 8192]);
    let size = size_of_val(&large);

    assert!(size_of_val(&watch.guard(large)) <= size + 2 * size_of::<usize>());
}
