//! New connections one after the other on each thread: TCP, full handshake or CONNECT, one GET, close.
//! It reports counts and latencies; it stops at its deadline, whatever the proxy does.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::tunnel::Way;
use crate::{Options, json_string};

#[derive(Default)]
struct Tally {
    micros: Vec<u64>,
    errors: usize,
    first_error: Option<String>,
}

/// Runs until `--seconds` have passed and prints one JSON line.
pub fn run(options: &Options) -> Result<(), String> {
    let way = Arc::new(Way::of(options)?);
    let threads = options.number("threads")?;
    let body = options.number("body")?;
    let begin = Instant::now();
    let end = begin
        + Duration::from_secs_f64(
            options.text("seconds")?.parse().map_err(|_| "--seconds is not a number")?,
        );

    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let way = Arc::clone(&way);
            thread::spawn(move || until(end, || once(&way, body)))
        })
        .collect();
    let mut all = Tally::default();
    for worker in workers {
        let part = worker.join().map_err(|_| "a thread failed")?;
        all.micros.extend(part.micros);
        all.errors += part.errors;
        all.first_error = all.first_error.or(part.first_error);
    }

    print(all, begin.elapsed());
    Ok(())
}

fn once(way: &Way, body: usize) -> Result<(), String> {
    let mut connection = way.open()?;
    way.get(&mut *connection, body, true)?;
    connection.finish();
    Ok(())
}

fn until(end: Instant, mut step: impl FnMut() -> Result<(), String>) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < end && tally.errors < 100 {
        let begin = Instant::now();
        match step() {
            Ok(()) => tally.micros.push(begin.elapsed().as_micros() as u64),
            Err(error) => {
                tally.errors += 1;
                tally.first_error.get_or_insert(error);
            }
        }
    }
    tally
}

fn print(mut all: Tally, took: Duration) {
    all.micros.sort_unstable();
    let percentile = |share: f64| {
        let at =
            ((all.micros.len() as f64 * share) as usize).min(all.micros.len().saturating_sub(1));
        all.micros.get(at).copied().unwrap_or(0) as f64 / 1000.0
    };
    println!(
        "{{\"done\":{},\"errors\":{},\"seconds\":{:.3},\"p50_ms\":{:.3},\"p99_ms\":{:.3},\"first_error\":{}}}",
        all.micros.len(),
        all.errors,
        took.as_secs_f64(),
        percentile(0.50),
        percentile(0.99),
        all.first_error.as_deref().map_or("null".to_owned(), json_string),
    );
}
