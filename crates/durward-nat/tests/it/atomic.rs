//! No packet meets a half-made state: changes by the thousand under new connections and pings, and a control that must fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use durward_model::mapping::{NatModel, PortMapping};
use durward_nat::Nat;
use durward_testkit::netns::in_namespace;

use crate::lab::{
    EXT1, EXT2, Lab, P1, P2, REMOTE, SOON, apply, at, both, mapping, model, options, ping, tcp,
    tenant,
};

/// What the hammering clients saw.
#[derive(Debug, Default)]
struct Seen {
    right: AtomicUsize,
    wrong: AtomicUsize,
    failed: AtomicUsize,
    pings: AtomicUsize,
    lost: AtomicUsize,
}

/// Runs the work while both clients connect and ping without a pause.
fn hammered(lab: &Lab, work: impl FnOnce()) -> Seen {
    let seen = Seen::default();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (world, to, port, wanted) in [
            (&lab.c1, EXT1, 8080, format!("p1 {REMOTE}")),
            (&lab.c2, EXT2, 8081, format!("p2 {REMOTE}")),
        ] {
            let (seen, over) = (&seen, &over);
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    let count = match tcp(world, REMOTE, (to, port)) {
                        Ok(said) if said == wanted => &seen.right,
                        Ok(_) => &seen.wrong,
                        Err(_) => &seen.failed,
                    };
                    count.fetch_add(1, Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    let lost = ping(world, REMOTE, to, SOON * 4).is_err();
                    seen.pings.fetch_add(1, Relaxed);
                    seen.lost.fetch_add(usize::from(lost), Relaxed);
                    // Below the limit on pings to the gateway itself.
                    std::thread::sleep(Duration::from_millis(40));
                }
            });
        }
        work();
        over.store(true, Relaxed);
    });
    seen
}

/// The two mappings that are asked for, and others beside them.
fn with(others: impl Iterator<Item = PortMapping>) -> Arc<NatModel> {
    let asked = [
        mapping("first", &[EXT1], both(8080, &[&at(P1, 9000)])),
        mapping("second", &[EXT2], both(8081, &[&at(P2, 9000)])),
    ];
    model(asked.into_iter().chain(others).collect(), vec![])
}

fn other(number: u16, endpoint: &str) -> PortMapping {
    let ports = both(20_000 + number, &[&at(endpoint, 9000)]);
    PortMapping {
        tenant: tenant("bank"),
        ..mapping(&format!("other-{number}"), &[EXT1, EXT2], ports)
    }
}

// S5.60
#[test]
fn a_thousand_full_replacements_lose_nothing() {
    in_namespace("atomic::a_thousand_full_replacements_lose_nothing", || {
        let lab = Lab::new();
        lab.serve(9000);
        let nat = Nat::start(options()).unwrap();
        apply(&nat, &with(std::iter::empty()));
        let models = [P1, P2].map(|end| with((0..10).map(move |number| other(number, end))));

        let seen = hammered(&lab, || {
            for round in 0..1_000 {
                apply(&nat, &models[round % 2]);
            }
        });

        nothing_lost(seen);
    });
}

// S5.60
#[test]
fn ten_thousand_single_changes_lose_nothing() {
    in_namespace("atomic::ten_thousand_single_changes_lose_nothing", || {
        let lab = Lab::new();
        lab.serve(9000);
        let nat = Nat::start(options()).unwrap();
        // One more each time, and then none again.
        let models: Vec<_> =
            (0..20).map(|count| with((0..count).map(|number| other(number, P1)))).collect();

        apply(&nat, &models[0]);
        let seen = hammered(&lab, || {
            for round in 0..10_000 {
                apply(&nat, &models[round % models.len()]);
            }
        });

        nothing_lost(seen);
    });
}

fn nothing_lost(seen: Seen) {
    println!("{seen:?}");
    assert_eq!((seen.wrong.into_inner(), seen.failed.into_inner()), (0, 0));
    assert_eq!(seen.lost.into_inner(), 0);
    assert!(seen.right.into_inner() >= 500 && seen.pings.into_inner() >= 50);
}

// S5.60+
#[test]
fn the_control_that_takes_the_table_away_first_is_caught() {
    in_namespace("atomic::the_control_that_takes_the_table_away_first_is_caught", || {
        let lab = Lab::new();
        lab.serve(9000);
        let full = with((0..25).map(|number| other(number, P1)));

        let seen = hammered(&lab, || {
            for _ in 0..20 {
                let nat = Nat::start(options()).unwrap();
                apply(&nat, &full);
                nat.cleanup().unwrap();
            }
        });

        let bad = seen.wrong.into_inner() + seen.failed.into_inner();
        assert!(bad > 0, "the hammering sees nothing");
    });
}
