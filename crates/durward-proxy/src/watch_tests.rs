//! Deadlines, drains, and what an edit takes away.

use durward_model::route::HostPattern;
use durward_model::{ServerNames, SourceSet};

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
}

/// A list that is as long as one may be; one address tells it from others.
fn long_list(own: u8) -> SourceSet {
    let block = |at: u32| ipnet::IpNet::new(std::net::Ipv4Addr::from(at << 9).into(), 24).unwrap();
    let own = format!("255.255.255.{own}/32").parse().unwrap();
    SourceSet::new((0..49_998).map(block).chain(["192.0.2.0/24".parse().unwrap(), own]))
}

#[tokio::test]
async fn edits_of_long_lists_end_all_connections_before_they_pile_up() {
    let kinds: [fn(SourceSet) -> Narrowing; 2] = [Narrowing::Sources, |sources| {
        let left = Left::These { sources: Some(sources), names: None, proxies: None };
        Narrowing::Hosted(Arc::from("a"), left)
    }];
    for narrowing in kinds {
        let watchdog = Rc::new(Watchdog::default());
        let watch = watchdog.watch();
        let retirement = Arc::new(Retirement::default());
        watch.retire_with(&retirement, [192, 0, 2, 1].into());

        (0..16).for_each(|own| retirement.narrow(&narrowing(long_list(own))));
        assert!(!watch.cut());

        retirement.narrow(&narrowing(long_list(16)));
        assert!(watch.cut());
    }
}

#[test]
fn retirements_share_a_list_that_an_edit_leaves() {
    let list = long_list(0);
    let (one, two) = (Narrowing::Sources(list.clone()), Narrowing::Sources(list.clone()));
    let all = [&one, &two].map(|narrowing| match narrowing {
        Narrowing::Sources(sources) => sources.blocks().as_ptr(),
        _ => unreachable!(),
    });

    assert_eq!(all, [list.blocks().as_ptr(); 2]);
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

/// Admits a chain if its leaf is this one.
#[derive(Debug)]
struct Leaf(u8);

impl Judge for Leaf {
    fn admits(&self, shown: &ShownChain) -> bool {
        shown.chain[0].as_ref() == [self.0]
    }
}

fn trusting(leaf: u8) -> Trusted {
    Trusted {
        generation: Arc::from(leaf.to_string()),
        size: 1 << 20,
        judge: Some(Arc::new(Leaf(leaf))),
    }
}

fn chain(leaf: u8) -> Arc<ShownChain> {
    let at = rustls_pki_types::UnixTime::since_unix_epoch(Duration::ZERO);
    Arc::new(ShownChain { chain: vec![vec![leaf].into()], at })
}

#[tokio::test]
async fn what_a_hosted_api_admits_no_longer_ends_and_nothing_else_does() {
    let watchdog = Rc::new(Watchdog::default());
    let retirement = Arc::new(Retirement::default());
    let client = |api: &str, name: Option<&str>, last: u8, shown: Option<u8>| {
        let watch = watchdog.watch();
        watch.retire_with(&retirement, [192, 0, 2, last].into());
        name.iter().for_each(|name| watch.found_by(name));
        watch.let_in_by(&Arc::from(api), shown.is_some());
        shown.iter().for_each(|leaf| watch.has_shown(&chain(*leaf)));
        watch
    };
    let own = Some("a.example");
    let watches = [
        client("a", own, 1, None),
        client("a", own, 1, Some(1)),
        client("a", own, 1, Some(2)),
        client("a", own, 200, None),
        client("a", None, 200, None),
        client("a", Some("foreign.example"), 200, None),
        client("b", own, 200, Some(1)),
    ];
    let cut = || watches.each_ref().map(|watch| u8::from(watch.cut()));
    let sources = SourceSet::new(["192.0.2.0/25".parse().unwrap()]);
    let narrow = |sources, names, proxies| {
        let left = Left::These { sources, names, proxies };
        retirement.narrow(&Narrowing::Hosted(Arc::from("a"), left));
    };
    assert_eq!(cut(), [0; 7]);

    narrow(Some(sources), None, None);
    assert_eq!(cut(), [0, 0, 0, 1, 1, 1, 0], "sources, whatever was named");

    narrow(None, None, Some(trusting(2)));
    assert_eq!(cut(), [0, 1, 0, 1, 1, 1, 0], "authorities");

    narrow(None, Some(exactly("other.example")), None);
    assert_eq!(cut(), [1, 1, 1, 1, 1, 1, 0], "names");

    retirement.narrow(&Narrowing::Hosted(Arc::from("b"), Left::Nobody));
    assert_eq!(cut(), [1; 7], "gone");
}

#[tokio::test]
async fn lists_of_revoked_certificates_do_not_pile_up() {
    let watchdog = Rc::new(Watchdog::default());
    let retirement = Arc::new(Retirement::default());
    let [kept, other, without] = [Some(7), Some(8), None].map(|shown| {
        let watch = watchdog.watch();
        watch.retire_with(&retirement, [192, 0, 2, 1].into());
        shown.iter().for_each(|leaf| watch.has_shown(&chain(*leaf)));
        watch
    });

    // Each is as long as a megabyte.
    for _ in 0..50 {
        retirement.narrow(&Narrowing::Certificates(trusting(8)));
        retirement.narrow(&Narrowing::Certificates(trusting(7)));
    }

    assert_eq!([kept.cut(), other.cut(), without.cut()], [false, true, false]);
}

#[test]
fn what_a_watch_guards_is_kept_once() {
    let watchdog = Rc::new(Watchdog::default());
    let watch = watchdog.watch();
    let large = std::future::ready([0_u8; 8192]);
    let size = size_of_val(&large);

    assert!(size_of_val(&watch.guard(large)) <= size + 2 * size_of::<usize>());
}

#[tokio::test]
async fn a_watch_that_is_over_is_used_again_as_a_new_one() {
    let watchdog = Rc::new(Watchdog::default());
    let first = watchdog.watch();
    let retirement = Arc::new(Retirement::default());
    first.retire_with(&retirement, [192, 0, 2, 1].into());
    first.found_by("a.example");
    first.arm(Some(Duration::ZERO), true);
    retirement.remove();
    watchdog.sweep(Instant::now());
    drop(first);

    let second = watchdog.watch();
    watchdog.sweep(Instant::now());

    assert_eq!(watchdog.watches.borrow().len(), 1);
    assert!(!second.cut() && !second.outdated());
    assert_eq!(second.guard(std::future::ready(7)).await, Ok(7));
    let (closer, crowded) = (second.closer(), second);
    drop(crowded);
    closer.close();
    assert!(!watchdog.watch().is_crowded(), "a closer keeps its entry");
}
