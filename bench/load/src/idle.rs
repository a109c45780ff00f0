//! Opens many connections, by TLS or through tunnels, uses each once, and holds them idle until told otherwise on stdin.
//! `check` on stdin sends a request on a sample, so that "idle" is known to mean "alive"; end of input closes all.

use std::io::BufRead;
use std::sync::Arc;
use std::thread;

use crate::tunnel::{Stream, Way};
use crate::{Options, json_string};

const SAMPLE: usize = 200;

/// Opens the connections, then answers commands with one JSON line each.
pub fn run(options: &Options) -> Result<(), String> {
    let way = Arc::new(Way::of(options)?);
    let wanted = options.number("connections")?;
    let threads = options.number("threads")?.max(1);
    let body = options.number("body")?;

    let workers: Vec<_> = (0..threads)
        .map(|index| {
            let way = Arc::clone(&way);
            let share = wanted / threads + usize::from(index < wanted % threads);
            thread::spawn(move || open(&way, share, body))
        })
        .collect();
    let mut held = Vec::with_capacity(wanted);
    let mut error = None;
    for worker in workers {
        let (connections, failure) = worker.join().map_err(|_| "a thread failed")?;
        held.extend(connections);
        error = error.or(failure);
    }
    report("open", held.len(), error.as_deref());

    for line in std::io::stdin().lock().lines() {
        if line.map_err(|error| error.to_string())? == "check" {
            check(&mut held, &way, body);
        }
    }
    Ok(())
}

fn open(way: &Way, share: usize, body: usize) -> (Vec<Box<dyn Stream>>, Option<String>) {
    let mut connections = Vec::with_capacity(share);
    for _ in 0..share {
        let opened = way.open().and_then(|mut connection| {
            way.get(&mut *connection, body, false)?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => connections.push(connection),
            Err(error) => return (connections, Some(error)),
        }
    }
    (connections, None)
}

fn check(held: &mut [Box<dyn Stream>], way: &Way, body: usize) {
    let step = (held.len() / SAMPLE).max(1);
    let mut alive = 0;
    let mut error = None;
    for connection in held.iter_mut().step_by(step) {
        match way.get(&mut **connection, body, false) {
            Ok(()) => alive += 1,
            Err(failure) => error = error.or(Some(failure)),
        }
    }
    report("alive", alive, error.as_deref());
}

fn report(what: &str, count: usize, error: Option<&str>) {
    println!(
        "{{\"{what}\":{count},\"first_error\":{}}}",
        error.map_or("null".to_owned(), json_string)
    );
}
