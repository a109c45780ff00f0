//! `durward nat trace`: prints the way of matching packets through all tables, one block for each, or one JSON object per line.
//!
//! Deliberately absent: what a configuration would do with them; `explain` shows that without any packet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use durward_nat::NatError;
use durward_nat::nftables::TableError;
use durward_nat::trace::header::end as place;
use durward_nat::trace::{End, Options, Packet, Step, Tally, Tracer};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::sentence;
use crate::cli::TraceArgs;
use crate::config;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen, Tone, count};

/// Interval at which signals are checked.
const GLANCE: Duration = Duration::from_millis(200);

/// Traces until the time is over, enough packets were seen, or a signal came.
pub(super) fn trace(arguments: &TraceArgs) -> Result<Exit, Failure> {
    // Without a configuration there are no names of mappings; that is an error only if the user named one.
    let named = !arguments.config.config.is_empty() || config::paths(&arguments.config).is_ok();
    let model = match named {
        true => Some(Arc::clone(&config::load(&arguments.config)?.snapshot.nat)),
        false => None,
    };
    let options = Options {
        table: arguments.nat_table.clone(),
        filter: arguments.filter()?,
        per_second: arguments.rate,
        model,
        timeout: durward_nat::Options::default().timeout,
    };
    let stop = stopped_by_signal()?;
    let mut tracer = Tracer::start(options).map_err(failed)?;
    let until = Instant::now() + arguments.time;
    let mut screen = Screen::stdout();
    let format = arguments.output.format;
    if matches!(format, Format::Table | Format::Wide) {
        let seconds = arguments.time.as_secs_f32();
        screen.line(Tone::Faint.paint(&format!("tracing for {seconds} s; Ctrl-C ends it")))?;
    }
    let mut shown = 0;
    let mut show = |packet: &Packet, screen: &mut Screen| {
        shown += 1;
        print(packet, format, screen).map(|()| shown >= arguments.packets)
    };
    let mut enough = false;
    while !enough && Instant::now() < until && !stop.load(Ordering::Relaxed) {
        let soon = until.min(Instant::now() + GLANCE);
        if let Some(packet) = tracer.next(soon).map_err(failed)? {
            enough = show(&packet, &mut screen)?;
        }
    }
    while !enough && let Some(packet) = tracer.rest().map_err(failed)? {
        enough = show(&packet, &mut screen)?;
    }
    let tally = tracer.tally().map_err(failed)?;
    drop(tracer);
    sum_up(shown, tally, format, &mut screen)
}

fn sum_up(shown: u64, tally: Tally, format: Format, screen: &mut Screen) -> Result<Exit, Failure> {
    let plural = count(usize::try_from(tally.matched).unwrap_or(usize::MAX), "matching packet");
    let mut text = format!("{plural}, {} traced, {shown} shown", tally.traced);
    if tally.lost > 0 {
        text +=
            &format!("; messages of the kernel were lost {} times: steps are missing", tally.lost);
    }
    if matches!(format, Format::Table | Format::Wide) {
        screen.line(Tone::Faint.paint(&text))?;
    } else if tally.lost > 0 {
        // To standard error: standard output is for programs.
        drop(std::io::Write::write_all(&mut anstream::stderr(), format!("{text}\n").as_bytes()));
    }
    Ok(Exit::Ok)
}

fn print(packet: &Packet, format: Format, screen: &mut Screen) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let text = serde_json::to_string(&Told::of(packet));
            screen.line(text.map_err(|error| Failure::broken("writing JSON", error))?)
        }
        Format::Yaml => {
            screen.line("---")?;
            screen.value(&Told::of(packet), format)
        }
        Format::Table => block(packet, false, screen),
        Format::Wide => block(packet, true, screen),
    }
}

fn block(packet: &Packet, all: bool, screen: &mut Screen) -> Result<(), Failure> {
    let from = packet
        .input
        .as_ref()
        .map_or_else(|| "from this host".to_owned(), |link| format!("in {link}"));
    screen.line(Tone::Bold.paint(&format!("{} {from}", packet.first)))?;
    for step in packet.steps.iter().filter(|step| all || step.telling) {
        screen.line(format!("  {}", line(step)))?;
    }
    let tone = match &packet.end {
        End::Left | End::Delivered => Tone::Good,
        End::Dropped { .. } => Tone::Bad,
        End::Vanished { .. } => Tone::Warn,
    };
    screen.line(format!("  {}", tone.paint(&ending(packet))))?;
    screen.line("")
}

fn line(step: &Step) -> String {
    let Step { family, table, chain, rule, verdict, .. } = step;
    let rule = rule.map(|rule| format!(" rule {rule}")).unwrap_or_default();
    let at = format!("{family} {table} {chain}{rule}");
    let said = step.words.as_ref().map(|words| format!(", {words}")).unwrap_or_default();
    let comment = step.comment.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
    format!("{:<12} {at:<40} {verdict}{said}{comment}", step.hook.unwrap_or(""))
}

/// Formats the end of a packet in one sentence.
fn ending(packet: &Packet) -> String {
    let mut text = match &packet.end {
        End::Delivered => "reached this host".to_owned(),
        End::Left => {
            let by = packet.output.as_deref().unwrap_or("an interface");
            let (first, last) = (&packet.first, &packet.last);
            let mut text = format!("left by {by} to {}", place(last.destination));
            if last.source != first.source {
                text += &format!(", as from {}", place(last.source));
            }
            text
        }
        End::Dropped { by, reason, why, answer } => {
            let answer =
                answer.map(|answer| format!("; the sender got: {answer}")).unwrap_or_default();
            match reason {
                Some(reason) => format!("dropped: {reason}: {why} ({by}){answer}"),
                None => format!("dropped by {by}, {why}{answer}"),
            }
        }
        End::Vanished { after, why } => format!("not seen after {after}: {why}"),
    };
    for (what, value) in [("tenant", &packet.tenant), ("", &packet.name), ("", &packet.written_at)]
    {
        if let Some(value) = value {
            text += &format!(", {what}{}{value}", if what.is_empty() { "" } else { " " });
        }
    }
    text
}

/// Packet as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    client: String,
    to: String,
    protocol: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    input: Option<&'a str>,
    #[serde(rename = "out", skip_serializing_if = "Option::is_none")]
    output: Option<&'a str>,
    mark: u32,
    /// Client address when the packet was last seen.
    last_client: String,
    last_to: String,
    steps: Vec<ToldStep<'a>>,
    /// `left`, `delivered`, `dropped` or `vanished`.
    end: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    sentence: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    written_at: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToldStep<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    hook: Option<&'static str>,
    family: &'static str,
    table: &'a str,
    chain: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<u64>,
    verdict: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<&'a str>,
}

impl<'a> Told<'a> {
    fn of(packet: &'a Packet) -> Self {
        let step = |step: &'a Step| ToldStep {
            hook: step.hook,
            family: step.family,
            table: &step.table,
            chain: &step.chain,
            rule: step.rule,
            verdict: &step.verdict,
            comment: step.comment.as_deref(),
            words: step.words.as_deref(),
        };
        let (end, reason) = match &packet.end {
            End::Left => ("left", None),
            End::Delivered => ("delivered", None),
            End::Dropped { reason, .. } => ("dropped", reason.as_deref()),
            End::Vanished { .. } => ("vanished", None),
        };
        Self {
            client: place(packet.first.source),
            to: place(packet.first.destination),
            protocol: packet.first.protocol_name(),
            kind: packet.first.kind(),
            input: packet.input.as_deref(),
            output: packet.output.as_deref(),
            mark: packet.mark,
            last_client: place(packet.last.source),
            last_to: place(packet.last.destination),
            steps: packet.steps.iter().map(step).collect(),
            end,
            reason,
            sentence: ending(packet),
            tenant: packet.tenant.as_deref(),
            name: packet.name.as_deref(),
            written_at: packet.written_at.as_deref(),
        }
    }
}

/// Returns a flag that SIGINT or SIGTERM sets, so that the summary is printed and, on older kernels, the table is deleted.
fn stopped_by_signal() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let broken = |error| Failure::broken("listening for signals", error);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::terminate()).map_err(broken)?,
            signal(SignalKind::interrupt()).map_err(broken)?,
        )
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        told.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new().name("durward-signals".to_owned()).spawn(wait).map_err(broken)?;
    Ok(stop)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` passes")]
fn failed(error: NatError) -> Failure {
    let permission = |error: &std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
    match &error {
        NatError::Table(TableError::Forbidden) => {
            Failure::broken("tracing", "CAP_NET_ADMIN is missing")
        }
        NatError::Socket { error, .. } if permission(error) => {
            Failure::broken("tracing", "CAP_NET_ADMIN is missing")
        }
        NatError::Table(TableError::Refused { object, .. }) if object.starts_with("rule") => {
            Failure::broken(
                "tracing",
                "this kernel cannot trace packets (nf_tables with meta nftrace)",
            )
        }
        error => Failure::broken("tracing", sentence(error)),
    }
}
