//! `durward top`: traffic of each tenant, read from a running gateway's metrics; as CSV it is the ledger.

mod ledger;

use std::fmt::Display;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use self::ledger::{Ledger, Totals};
use crate::cli::{Admin, Top, TopFormat};
use crate::commands::check::running;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen, Table, Tone, plain};

/// Timeout of the gateway's answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lines assumed for a terminal that does not report its height.
const LINES: usize = 24;

/// Reads once, or repeatedly.
pub(crate) fn top(arguments: &Top) -> Result<Exit, Failure> {
    let live = arguments.format == TopFormat::Table && std::io::stdout().is_terminal();
    let count = arguments.count.unwrap_or(if live { u64::MAX } else { 1 });
    let mut screen = Screen::stdout();
    let mut before: Option<(Instant, Ledger)> = None;
    for turn in 0..count {
        if turn > 0 {
            std::thread::sleep(arguments.interval);
        }
        let (now, ledger) = (Instant::now(), ask(arguments.admin)?);
        match arguments.format {
            TopFormat::Table if live => {
                let since = before.as_ref().map(|(then, old)| (now - *then, old));
                show(&mut screen, &ledger, since)?;
            }
            TopFormat::Table => totals(&ledger).print(&mut screen)?,
            TopFormat::Csv => screen
                .text(&ledger.csv(turn == 0 && !arguments.no_header, &jiff::Timestamp::now()))?,
            TopFormat::Json => screen.value(&ledger, Format::Json)?,
            TopFormat::Yaml => screen.value(&ledger, Format::Yaml)?,
        }
        before = Some((now, ledger));
    }
    Ok(Exit::Ok)
}

fn ask(admin: Admin) -> Result<Ledger, Failure> {
    let Admin::At(address) = admin else {
        return Err(Failure::usage("--admin off leaves no gateway to ask"));
    };
    let text = running::get(address, "/metrics", PATIENCE).ok_or_else(|| Failure::Unreachable {
        message: format!(
            "no gateway answers at {address}: name its admin listener with --admin ADDRESS:PORT"
        ),
    })?;
    let text = String::from_utf8_lossy(&text);
    if !text.contains("durward_build_info") {
        // Another program's metrics would look like a gateway without tenants.
        let message = format!(
            "{address} does not answer like a gateway: name its admin listener with --admin ADDRESS:PORT"
        );
        return Err(Failure::Unreachable { message });
    }
    Ok(Ledger::read(&text))
}

fn totals(ledger: &Ledger) -> Table {
    let mut table = Table::new(&[
        "TENANT",
        "OPEN",
        "CONNECTIONS",
        "REQUESTS",
        "IN",
        "OUT",
        "EGRESS OPEN",
        "EGRESS",
        "UP",
        "DOWN",
        "DENIED",
        "REFUSED",
    ]);
    for (tenant, totals) in &ledger.tenants {
        table.row(vec![
            plain(name(tenant)),
            plain(totals.connections_open),
            plain(totals.connections),
            plain(totals.requests),
            plain(bytes(totals.client_in_bytes as f64)),
            plain(bytes(totals.client_out_bytes as f64)),
            plain(totals.egress_open),
            plain(totals.egress),
            plain(bytes(totals.egress_up_bytes as f64)),
            plain(bytes(totals.egress_down_bytes as f64)),
            plain(totals.egress_denied),
            plain(totals.refused),
        ]);
    }
    table
}

/// Prints a screen of rates, the busiest tenant first; totals until there are two readings to compare.
fn show(
    screen: &mut Screen,
    ledger: &Ledger,
    since: Option<(Duration, &Ledger)>,
) -> Result<(), Failure> {
    let (table, what) = match since {
        None => (totals(ledger), "since the start"),
        Some((elapsed, old)) => (rates(ledger, old, elapsed.as_secs_f64()), "per second"),
    };
    let lines = table.lines();
    let room = height().saturating_sub(3).max(1);
    let mut text = format!(
        "\u{1b}[H\u{1b}[J{}\n",
        Tone::Faint.paint(&format!("durward top, {what}; Ctrl-C ends it"))
    );
    for line in lines.iter().take(room) {
        text.push_str(line);
        text.push('\n');
    }
    if lines.len() > room {
        text.push_str(&format!("… {} more", lines.len() - room));
    }
    screen.text(&text)
}

fn rates(ledger: &Ledger, old: &Ledger, seconds: f64) -> Table {
    let mut table = Table::new(&[
        "TENANT",
        "OPEN",
        "CONN/S",
        "REQ/S",
        "IN/S",
        "OUT/S",
        "EGRESS OPEN",
        "EGRESS/S",
        "UP/S",
        "DOWN/S",
        "DENIED/S",
        "REFUSED/S",
    ]);
    let seconds = seconds.max(0.001);
    let nothing = Totals::default();
    let mut rows: Vec<_> = ledger
        .tenants
        .iter()
        .map(|(tenant, now)| (tenant, now, old.tenants.get(tenant).unwrap_or(&nothing)))
        .collect();
    rows.sort_by_key(|(_, now, then)| {
        std::cmp::Reverse(now.traffic().saturating_sub(then.traffic()))
    });
    for (tenant, now, then) in rows {
        // A counter that fell was reset by a restart.
        let rate = |of: fn(&Totals) -> u64| of(now).saturating_sub(of(then)) as f64 / seconds;
        table.row(vec![
            plain(name(tenant)),
            plain(now.connections_open),
            plain(short(rate(|totals| totals.connections))),
            plain(short(rate(|totals| totals.requests))),
            plain(bytes(rate(|totals| totals.client_in_bytes))),
            plain(bytes(rate(|totals| totals.client_out_bytes))),
            plain(now.egress_open),
            plain(short(rate(|totals| totals.egress))),
            plain(bytes(rate(|totals| totals.egress_up_bytes))),
            plain(bytes(rate(|totals| totals.egress_down_bytes))),
            plain(short(rate(|totals| totals.egress_denied))),
            plain(short(rate(|totals| totals.refused))),
        ]);
    }
    table
}

/// Returns the name to show; traffic before a tenant is known has none.
fn name(tenant: &str) -> impl Display {
    if tenant.is_empty() { "(unknown)".to_owned() } else { tenant.to_owned() }
}

fn short(rate: f64) -> String {
    if rate == 0.0 || rate >= 10.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}

/// Formats bytes: `999 B`, `1.5 KiB`, `23 MiB`.
fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 10.0 {
        format!("{value:.0} {}", units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

fn height() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.ok().map(|size| usize::from(size.ws_row)).filter(|rows| *rows > 3).unwrap_or(LINES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_enough_to_compare() {
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(1023.0), "1023 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(1024.0 * 1024.0 - 1.0), "1.0 MiB");
        assert_eq!(bytes(25.0 * 1024.0 * 1024.0), "25 MiB");
        assert_eq!((short(0.0), short(0.25), short(31.4)), ("0".into(), "0.2".into(), "31".into()));
    }

    #[test]
    fn rates_are_differences_over_time_and_the_busiest_comes_first() {
        let text = |bytes: u64, requests: u64| {
            format!(
                "durward_bytes_total{{tenant=\"acme\",direction=\"client_in\"}} {bytes}\n\
                 durward_requests_total{{tenant=\"globex\",code_class=\"2xx\"}} {requests}\n\
                 durward_bytes_total{{tenant=\"globex\",direction=\"client_in\"}} 5\n"
            )
        };
        let (old, new) = (Ledger::read(&text(100, 10)), Ledger::read(&text(4196, 4)));

        let lines = rates(&new, &old, 2.0).lines();

        assert!(lines[1].starts_with("acme "), "{lines:?}");
        assert!(lines[1].contains("2.0 KiB"), "{lines:?}");
        assert!(!lines[2].contains('-'), "a counter that fell is no negative rate: {lines:?}");
    }
}
