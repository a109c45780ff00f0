//! `Programmed` says what a client would see at that very moment, however changes follow one another and whoever is in the way of a listener.

use std::net::TcpListener;

use super::*;

/// How often an object is changed and its status is held to what a client sees; `DURWARD_MOMENTS` says another number.
const MOMENTS: usize = 40;

/// Numbers without pattern, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Returns whether the tenant is said to be programmed as it is now. If it is, a client is answered so at once.
async fn is_programmed(cluster: &Cluster, name: &str, at: SocketAddr, says: &str) -> bool {
    let condition = cluster.condition(name, "Programmed").await;
    let programmed = condition.as_deref() == Some("True Programmed");
    if programmed {
        let answer = get(at, "/").map(|(_, body)| body);
        assert_eq!(answer.as_deref(), Some(says), "{name} is said to be programmed at {at}");
    }
    programmed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programmed_is_never_true_before_a_client_is_answered_by_that_revision() {
    let moments = std::env::var("DURWARD_MOMENTS").ok().and_then(|text| text.parse().ok());
    let (cluster, mut dice) = (Cluster::start(Form::OneProcess).await, Dice(0x9e37_79b9_7f4a_7c15));
    let doors: Vec<[SocketAddr; 2]> = (0..3).map(|_| [door(), door()]).collect();

    for moment in 0..moments.unwrap_or(MOMENTS) {
        let tenant = dice.below(3) as usize;
        let (name, mut at) = (format!("tenant-{tenant}"), doors[tenant][0]);
        let mut says = String::new();
        // Somebody else has the socket meanwhile, if it is free: then the tenant has no listener.
        let in_the_way = match dice.below(3) {
            0 => TcpListener::bind(doors[tenant][1]).ok(),
            _ => None,
        };
        for step in 0..=dice.below(3) {
            at = doors[tenant][if in_the_way.is_some() { 1 } else { dice.below(2) as usize }];
            says = format!("{moment}.{step}");
            cluster.tenant(&name, at, &says).await;
            tokio::time::sleep(Duration::from_micros(dice.below(20_000))).await;
        }
        if in_the_way.is_some() {
            for _ in 0..dice.below(20) {
                let programmed = cluster.condition(&name, "Programmed").await;
                assert_ne!(programmed.as_deref(), Some("True Programmed"), "{name} at {at}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        drop(in_the_way);
        let programmed =
            eventually(DEADLINE, async || is_programmed(&cluster, &name, at, &says).await).await;
        assert!(programmed, "{:?}", cluster.condition(&name, "Programmed").await);
    }
}
