//! `durward who`: finds the tenant, identity and client that used an egress address and port at a time, for abuse reports.

use std::io::{IsTerminal, Write, stderr};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use durward_proxy::audit::rotated;
use durward_proxy::audit::who::{self as search, Question, Use};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::cli::Who;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen, Table, Tone, count, plain};

/// Searches and prints; no result is a failed check.
pub(crate) fn who(arguments: &Who) -> Result<Exit, Failure> {
    let (from, to) = moment(&arguments.at, arguments.within)?;
    let egress = SocketAddr::new(arguments.ip, arguments.port);
    let question = Question { egress, from, to };
    let files = files(&arguments.audit)?;
    let uses = search::who(&files, &question, &mut progress())
        .map_err(|error| Failure::Unreachable { message: error.to_string() })?;
    let mut screen = Screen::stdout();
    match arguments.output.format {
        format @ (Format::Json | Format::Yaml) => {
            screen.value(&uses, format)?;
            if uses.is_empty() {
                note(
                    "only traffic of the forward proxy and to hosted API servers is recorded; other ingress is in the access log, kernel egress is not recorded",
                );
            }
        }
        format => print(&mut screen, &uses, &question, format == Format::Wide)?,
    }
    Ok(if uses.is_empty() { Exit::FailedCheck } else { Exit::Ok })
}

/// Returns the files named and their rotated ones.
fn files(named: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in named {
        let unreadable =
            |error| Failure::Unreachable { message: format!("{}: {error}", path.display()) };
        let former = rotated(path).map_err(unreadable)?;
        for compressed in former.compressed {
            note(&format!("{} is compressed and not searched", compressed.display()));
        }
        let alone = former.files.is_empty();
        files.extend(former.files);
        if alone || path.exists() {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn note(text: &str) {
    // Nothing is left to do if standard error is closed.
    drop(writeln!(anstream::stderr(), "durward: {text}"));
}

/// Shows the progress of reading, on a terminal and when it takes long.
fn progress() -> impl FnMut(u64, u64) -> bool {
    let terminal = stderr().is_terminal();
    move |done, all| {
        if terminal && all > 0 {
            let percent = done * 100 / all;
            let end = if done >= all { "\r\u{1b}[K" } else { "" };
            drop(write!(anstream::stderr(), "\rindexing {percent}%{end}"));
        }
        true
    }
}

/// Parses a time into the first and last microsecond it may mean: a time without fractions means all of its second, one without seconds all of its
/// minute.
fn moment(text: &str, within: Duration) -> Result<(i64, i64), Failure> {
    let wrong =
        || Failure::usage(format!("--at {text:?} is not a time such as 2026-11-21T14:03:05Z"));
    let clock = text.split(['T', 't', ' ']).nth(1).ok_or_else(wrong)?;
    let clock = clock.split(['Z', 'z', '+', '-', '[']).next().unwrap_or(clock);
    let last = match (clock.matches(':').count(), clock.contains('.')) {
        (1, false) => 59_999_999,
        (2, false) => 999_999,
        (2, true) => 0,
        _ => return Err(wrong()),
    };
    let civil = || Some(text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp());
    let time = text.parse::<Timestamp>().ok().or_else(civil).ok_or_else(wrong)?.as_microsecond();
    let within = i64::try_from(within.as_micros()).map_err(|_| wrong())?;
    Ok((time.saturating_sub(within), time.saturating_add(last).saturating_add(within)))
}

fn print(
    screen: &mut Screen,
    uses: &[Use],
    question: &Question,
    wide: bool,
) -> Result<(), Failure> {
    let egress = question.egress;
    if uses.is_empty() {
        return print_nothing(screen, egress);
    }
    let mut header = vec!["TENANT", "IDENTITY", "CLIENT", "METHOD", "HOST", "FROM", "TO"];
    if wide {
        header.extend(["ID", "RULE", "DIALLED", "UP", "DOWN", "RECORD"]);
    }
    let mut table = Table::new(&header);
    for used in uses {
        table.row(row(used, wide));
    }
    table.print(screen)?;
    screen.line("")?;
    screen.line(format!("{} of {egress}", count(uses.len(), "use")))?;
    let endless = uses.iter().filter(|used| used.closed.is_none()).count();
    if endless > 0 {
        screen.line(format!(
            "{endless} without a recorded end: still open, or ended with its process"
        ))?;
    }
    let set = uses.iter().filter(|used| used.clock_set).count();
    if set > 0 {
        screen.line(format!(
            "{set} during which the clock was set: their times may not fit their durations"
        ))?;
    }
    for used in uses.iter().filter(|used| used.altered) {
        let place = format!("{} at byte {}", used.file.display(), used.byte);
        screen
            .line(format!("{} {place}; next: durward audit verify", Tone::Bad.paint("altered:")))?;
    }
    Ok(())
}

/// Explains an empty result: only the forward proxy writes records; other traffic may leave from the address too, so the result proves no absence.
fn print_nothing(screen: &mut Screen, egress: SocketAddr) -> Result<(), Failure> {
    screen.line(format!(
        "no recorded request or tunnel of the forward proxy and no recorded connection to a hosted API server used {egress} at that time"
    ))?;
    screen.line("other traffic is not in audit files; look there too:")?;
    screen.line(format!(
        "  ingress: what the gateway sent to upstreams is in the access log: grep '\"egress\":\"{egress}\"'"
    ))?;
    screen.line(
        "  kernel egress and port mappings: no record is kept; while it lasts, conntrack -L has it",
    )
}

fn row(used: &Use, wide: bool) -> Vec<(String, Tone)> {
    let field = |name: &str| match used.record.get(name) {
        None => "-".to_owned(),
        Some(value) => value.as_str().map_or_else(|| value.to_string(), shown),
    };
    let time = |at: Option<i64>| {
        let time = at.and_then(|at| Timestamp::from_microsecond(at).ok());
        time.map_or_else(|| "-".to_owned(), |time| format!("{time:.3}"))
    };
    let host = format!("{}:{}", field("host"), field("port"));
    let mut cells: Vec<String> = ["tenant", "identity", "client", "method"].map(field).into();
    cells.extend([host, time(used.opened), time(used.closed)]);
    if wide {
        cells.extend(["id", "rule", "dialled", "bytes_up", "bytes_down"].map(field));
        cells.push(format!("{}:{}", used.file.display(), used.byte));
    }
    cells.into_iter().map(plain).collect()
}

/// Returns a client's text without control characters, which a terminal would interpret.
fn shown(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_means_all_it_does_not_say() {
        let at = |text: &str| moment(text, Duration::ZERO).ok();
        let (second, minute) = (1_795_269_785_000_000, 1_795_269_780_000_000);

        assert_eq!(at("2026-11-21T14:03:05Z"), Some((second, second + 999_999)));
        assert_eq!(at("2026-11-21T19:33:05+05:30"), at("2026-11-21T14:03:05Z"));
        assert_eq!(at("2026-11-21 14:03"), Some((minute, minute + 59_999_999)));
        assert_eq!(at("2026-11-21T14:03:05.5Z"), Some((second + 500_000, second + 500_000)));
        let within = moment("2026-11-21T14:03:05.0Z", Duration::from_secs(2)).ok();
        assert_eq!(within, Some((second - 2_000_000, second + 2_000_000)));
        for junk in ["", "yesterday", "2026-11-21", "2026-11-21T14Z", "14:03", "2026-13-01 00:00"] {
            assert_eq!(at(junk), None, "{junk}");
        }
    }
}
