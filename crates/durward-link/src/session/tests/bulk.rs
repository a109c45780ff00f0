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

/// Path between two ends.
#[derive(Clone, Copy)]
struct Path {
    /// Time from one end to the other.
    delay: Duration,
    /// Bytes in a second.
    rate: u64,
}

/// Moves bytes from one end to the other, as a path does.
async fn late(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, path: Path) {
    let (pieces_in, mut pieces) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        while let Some((due, bytes)) = pieces.recv().await {
            let bytes: Vec<u8> = bytes;
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let (mut room, mut free) = (vec![0; 16 * 1024], tokio::time::Instant::now());
    while let Ok(count @ 1..) = from.read(&mut room).await {
        free = free.max(tokio::time::Instant::now())
            + Duration::from_nanos(count as u64 * 1_000_000_000 / path.rate);
        if pieces_in.send((free + path.delay, room[..count].to_vec())).is_err() {
            return;
        }
    }
}

/// Starts a pair at the ends of a path.
fn at_the_ends_of(path: Path) -> Pair {
    let (ours, one) = tokio::io::duplex(1024 * 1024);
    let (other, theirs) = tokio::io::duplex(1024 * 1024);
    let ((one, to_one), (other, to_other)) = (tokio::io::split(one), tokio::io::split(other));
    tokio::task::spawn_local(late(one, to_other, path));
    tokio::task::spawn_local(late(other, to_one, path));
    Pair::over(hello(Purpose::Data), Bounds::default(), ours, theirs)
}

/// Sends so many bytes from one end of a stream to the other; returns the time that takes.
async fn carry(mut from: LinkStream, mut to: LinkStream, bytes: usize) -> Duration {
    let began = tokio::time::Instant::now();
    tokio::task::spawn_local(async move {
        let piece = vec![7; 64 * 1024];
        for _ in 0..bytes / piece.len() {
            from.write_all(&piece).await.unwrap();
        }
        from.shutdown().await.unwrap();
    });
    let (mut got, mut room) = (0, vec![0; 64 * 1024]);
    loop {
        match to.read(&mut room).await.unwrap() {
            0 => break,
            count => got += count,
        }
    }
    assert_eq!(got, bytes);
    began.elapsed()
}

// S3.80
#[test]
fn the_window_of_a_stream_grows_with_what_its_path_carries() {
    const BYTES: usize = 64 * 1024 * 1024;
    for to_gateway in [true, false] {
        test(async move {
            let path = Path { delay: Duration::from_millis(50), rate: 1 << 30 };
            let mut pair = at_the_ends_of(path);
            let carrier = pair.carrier().await;
            let (ours, theirs) = pair.stream(&carrier).await;
            let (from, to) = if to_gateway { (theirs, ours) } else { (ours, theirs) };

            // By the paused clock: what computing takes is no part of it.
            let took = carry(from, to, BYTES).await;

            let least = Bounds::default().stream_window as usize;
            let with_least = path.delay * 2 * u32::try_from(BYTES / least).unwrap();
            assert!(
                took < with_least / 2,
                "{took:?}, and {with_least:?} with the window of before"
            );
        });
    }
}

// S3.76
#[test]
fn readers_that_stall_leave_the_others_their_throughput() {
    const BYTES: usize = 32 * 1024 * 1024;
    let path = Path { delay: Duration::from_millis(1), rate: 16 << 20 };
    for to_gateway in [true, false] {
        test(async move {
            let mut pair = at_the_ends_of(path);
            let carrier = pair.carrier().await;
            let (ours, theirs) = pair.stream(&carrier).await;
            let (from, to) = if to_gateway { (theirs, ours) } else { (ours, theirs) };
            let alone = carry(from, to, BYTES).await;

            let mut stalled = Vec::new();
            for _ in 0..100 {
                let (ours, theirs) = pair.stream(&carrier).await;
                let (from, to) = if to_gateway { (theirs, ours) } else { (ours, theirs) };
                let (read, write) = tokio::io::split(from);
                tokio::task::spawn_local(pour(write));
                stalled.push((read, to));
            }
            // Until each has sent what nobody reads.
            tokio::time::sleep(Duration::from_secs(20)).await;
            let (ours, theirs) = pair.stream(&carrier).await;
            let (from, to) = if to_gateway { (theirs, ours) } else { (ours, theirs) };
            let beside = carry(from, to, BYTES).await;

            assert!(beside.mul_f64(0.95) <= alone, "{alone:?} alone, {beside:?} beside others");
        });
    }
}
