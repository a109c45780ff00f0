//! Opens many TLS connections, uses each once, and holds them idle until told otherwise on stdin.
//! `check` on stdin sends a request on a sample, so that "idle" is known to mean "alive"; end of input closes all.

use std::io::BufRead;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use rustls::client::ClientConfig;

use crate::tls::{self, Connection};
use crate::{Options, json_string};

const SAMPLE: usize = 200;

/// Opens the connections, then answers commands with one JSON line each.
pub fn run(options: &Options) -> Result<(), String> {
    let target = options.address("target")?;
    let wanted = options.number("connections")?;
    let threads = options.number("threads")?.max(1);
    let body = options.number("body")?;
    let config = tls::client_config()?;

    let workers: Vec<_> = (0..threads)
        .map(|index| {
            let config = Arc::clone(&config);
            let share = wanted / threads + usize::from(index < wanted % threads);
            thread::spawn(move || open(&config, target, share, body))
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
            check(&mut held, target, body);
        }
    }
    Ok(())
}

fn open(
    config: &Arc<ClientConfig>,
    target: SocketAddr,
    share: usize,
    body: usize,
) -> (Vec<Connection>, Option<String>) {
    let mut connections = Vec::with_capacity(share);
    for _ in 0..share {
        let opened = tls::connect(config, target).and_then(|mut connection| {
            tls::get(&mut connection, target, body, false)?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => connections.push(connection),
            Err(error) => return (connections, Some(error)),
        }
    }
    (connections, None)
}

fn check(held: &mut [Connection], target: SocketAddr, body: usize) {
    let step = (held.len() / SAMPLE).max(1);
    let mut alive = 0;
    let mut error = None;
    for connection in held.iter_mut().step_by(step) {
        match tls::get(connection, target, body, false) {
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
