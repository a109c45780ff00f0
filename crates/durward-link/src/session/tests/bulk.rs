//! Carriers that are full in both directions.

use tokio::io::{ReadHalf, WriteHalf};

use super::*;

/// Bytes that pass between two PINGs.
const BETWEEN: usize = 2 * 1024 * 1024;

/// Writes without end.
async fn pour(mut to: WriteHalf<LinkStream>) {
    while to.write_all(&[7; 16 * 1024]).await.is_ok() {}
}

/// Reads without end, and says how much.
async fn take(mut from: ReadHalf<LinkStream>, taken: mpsc::UnboundedSender<usize>) {
    let mut room = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut room).await {
        if taken.send(count).is_err() {
            return;
        }
    }
}

/// Fills a carrier in both directions; returns what is read, as it is.
async fn fill_both_ways(pair: &mut Pair, streams: usize) -> mpsc::UnboundedReceiver<usize> {
    let carrier = pair.carrier().await;
    let (taken_in, taken) = mpsc::unbounded_channel();
    for _ in 0..streams {
        let (ours, theirs) = pair.stream(&carrier).await;
        for end in [ours, theirs] {
            let (read, write) = tokio::io::split(end);
            tokio::task::spawn_local(pour(write));
            tokio::task::spawn_local(take(read, taken_in.clone()));
        }
    }
    taken
}

/// Waits until so many bytes were read.
async fn pass(taken: &mut mpsc::UnboundedReceiver<usize>, bytes: usize) {
    let mut passed = 0;
    while passed < bytes {
        let next = tokio::time::timeout(PATIENCE, taken.recv()).await;
        passed += next.expect("bytes pass").expect("the carrier lives");
    }
}

#[test]
fn pings_that_fall_due_while_both_directions_are_full_do_not_stop_either() {
    test(async {
        let mut pair = Pair::start(hello(Purpose::Data), Bounds::default());
        let mut taken = fill_both_ways(&mut pair, 64).await;

        for _ in 0..40 {
            pass(&mut taken, BETWEEN).await;
            tokio::time::advance(Duration::from_secs(5)).await;
        }

        assert!(!pair.agent_ended.is_finished() && !pair.gateway_ended.is_finished());
    });
}

#[test]
fn an_answer_that_comes_behind_bulk_is_not_missed_as_long_as_the_bulk_comes() {
    test(async {
        let mut pair = Pair::start(hello(Purpose::Data), Bounds::default());
        let mut taken = fill_both_ways(&mut pair, 64).await;
        pass(&mut taken, BETWEEN).await;

        // A machine so busy that only a few frames pass in a second.
        for _ in 0..200 {
            pass(&mut taken, 16 * 1024).await;
            tokio::time::advance(Duration::from_secs(1)).await;
        }

        assert!(!pair.agent_ended.is_finished() && !pair.gateway_ended.is_finished());
    });
}

#[test]
fn a_process_that_was_held_up_does_not_count_that_as_the_peers_silence() {
    test(async {
        let mut pair = Pair::start(hello(Purpose::Data), Bounds::default());
        let carrier = pair.carrier().await;
        // A PING is on its way.
        tokio::time::advance(Duration::from_millis(5_001)).await;

        tokio::time::advance(Duration::from_secs(15)).await;

        let (mut ours, mut theirs) = pair.stream(&carrier).await;
        ours.write_all(b"on").await.unwrap();
        let mut got = [0; 2];
        theirs.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"on");
    });
}
