//! `durward agent status`: what a running agent says of itself.

use std::time::Duration;

use durward_agent::status::Report;

use crate::cli::{Admin, AgentStatus};
use crate::commands::check::running;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen, Table, Tone, plain};

/// Time within which the agent must answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks and prints; an agent without a carrier is a failed check.
pub(crate) fn status(arguments: &AgentStatus) -> Result<Exit, Failure> {
    let Admin::At(address) = arguments.admin else {
        return Err(Failure::usage("--admin names the agent's admin listener: it cannot be off"));
    };
    let unreachable = |why: String| Failure::Unreachable {
        message: format!(
            "no agent answers at {address} ({why}): name its admin listener with --admin"
        ),
    };
    let (status, body) = running::fetch(address, "/status", PATIENCE).map_err(unreachable)?;
    if status != 200 {
        return Err(unreachable(format!("it answers {status}")));
    }
    let report: Report =
        serde_json::from_slice(&body).map_err(|error| unreachable(error.to_string()))?;
    let mut screen = Screen::stdout();
    match arguments.output.format {
        format @ (Format::Json | Format::Yaml) => screen.value(&report, format)?,
        Format::Table | Format::Wide => print(&mut screen, &report)?,
    }
    Ok(if report.ready { Exit::Ok } else { Exit::FailedCheck })
}

fn print(screen: &mut Screen, report: &Report) -> Result<(), Failure> {
    let mut table = Table::new(&["CARRIER", "GATEWAY", "STATE", "SECONDS"]);
    for carrier in &report.carriers {
        let tone = if carrier.state == "up" { Tone::Good } else { Tone::Warn };
        table.row(vec![
            plain(carrier.purpose.word()),
            plain(&carrier.gateway),
            (carrier.state.clone(), tone),
            plain(carrier.seconds),
        ]);
    }
    table.print(screen)?;
    let routes = report.routes_held.as_ref();
    let held =
        routes.map_or_else(|| "none".to_owned(), |held| format!("revision {}", held.revision));
    screen.line(format!("routes held by the gateway: {held}"))?;
    if let Some(kind) = &report.cluster {
        let served = report.routes_served;
        screen.line(format!("cluster: {kind}, routing mode: tunnel, routes served: {served}"))?;
    }
    for one in &report.routes_rejected {
        let sentence = format!("not served: {}{}: {}", one.host, one.path, one.reason);
        screen.line(Tone::Bad.paint(&sentence))?;
    }
    for one in &report.left_out {
        let sentence = format!("not registered: {}: {}", one.ingress, one.reason);
        screen.line(Tone::Warn.paint(&sentence))?;
    }
    screen.line(format!(
        "streams: {} open, {} connected, {} forbidden, {} unreachable",
        report.streams, report.streams_opened, report.streams_forbidden, report.streams_unreachable
    ))?;
    if let Some(error) = &report.last_error {
        screen.line(format!("last error: {error}"))?;
    }
    if !report.ready {
        screen.line(
            Tone::Bad.paint("no data carrier is up: requests to this link are answered with 503"),
        )?;
    }
    Ok(())
}
