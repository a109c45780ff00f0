//! `durward agent status`: state of a running agent, or the way of one host's requests.

use std::net::SocketAddr;
use std::time::Duration;

use durward_agent::status::Report;
use durward_agent::way::Piece;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;

use crate::cli::{Admin, AgentStatus};
use crate::commands::check::running;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen, Table, Tone, plain};

/// Time within which the agent must answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Asks and prints; an agent without a carrier is a failed check.
pub(crate) fn status(arguments: &AgentStatus) -> Result<Exit, Failure> {
    let address = admin(arguments.admin)?;
    if let Some(host) = &arguments.host {
        return way(arguments, address, host);
    }
    let report: Report = ask(address, "/status")?;
    let mut screen = Screen::stdout();
    match arguments.output.format {
        format @ (Format::Json | Format::Yaml) => screen.value(&report, format)?,
        Format::Table | Format::Wide => print(&mut screen, &report)?,
    }
    Ok(if report.ready { Exit::Ok } else { Exit::FailedCheck })
}

/// Returns the address of an agent's admin listener.
pub(super) fn admin(admin: Admin) -> Result<SocketAddr, Failure> {
    match admin {
        Admin::At(address) => Ok(address),
        Admin::Off => {
            Err(Failure::usage("--admin names the agent's admin listener: it cannot be off"))
        }
    }
}

/// Fetches a page of the agent's admin listener.
pub(super) fn ask<T: DeserializeOwned>(address: SocketAddr, page: &str) -> Result<T, Failure> {
    let unreachable = |why: String| Failure::Unreachable {
        message: format!(
            "no agent answers at {address} ({why}): name its admin listener with --admin"
        ),
    };
    let (status, body) = running::fetch(address, page, PATIENCE).map_err(unreachable)?;
    if status != 200 {
        return Err(unreachable(format!("it answers {status}")));
    }
    serde_json::from_slice(&body).map_err(|error| unreachable(error.to_string()))
}

/// Prints the way of requests for a host; a broken piece is a failed check.
fn way(arguments: &AgentStatus, address: SocketAddr, host: &str) -> Result<Exit, Failure> {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let page = format!("/way?host={}&path={}", encoded(host), encoded(&arguments.path));
    let pieces: Vec<Piece> = ask(address, &page)?;
    let mut screen = Screen::stdout();
    match arguments.output.format {
        format @ (Format::Json | Format::Yaml) => screen.value(&pieces, format)?,
        Format::Table | Format::Wide => print_way(&mut screen, (host, &arguments.path), &pieces)?,
    }
    let works = pieces.iter().all(|piece| piece.works);
    Ok(if works { Exit::Ok } else { Exit::FailedCheck })
}

fn print_way(
    screen: &mut Screen,
    (host, path): (&str, &str),
    pieces: &[Piece],
) -> Result<(), Failure> {
    let mut table = Table::new(&["PIECE", "STATE", "DETAIL"]);
    for piece in pieces {
        let state = if piece.works { ("works", Tone::Good) } else { ("broken", Tone::Bad) };
        table.row(vec![plain(&piece.name), (state.0.to_owned(), state.1), plain(&piece.sentence)]);
    }
    table.print(screen)?;
    match pieces.iter().find(|piece| !piece.works) {
        Some(piece) => {
            let sentence = format!("first broken piece: {}: {}", piece.name, piece.sentence);
            screen.line(Tone::Bad.paint(&sentence))?;
        }
        None => screen.line(format!(
            "nothing is broken from the Ingress to the backend; for {host}{path} look at the gateway next (durward explain), and at DNS: dig +short {host}"
        ))?,
    }
    Ok(())
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
    if let Some(cluster) = &report.cluster {
        let (kind, mode, served) = (&cluster.kind, &cluster.routing_mode, report.routes_served);
        screen.line(format!("cluster: {kind}, routing mode: {mode}, routes served: {served}"))?;
        let endpoint = cluster.public_endpoint.as_ref();
        let offered =
            endpoint.map_or_else(String::new, |at| format!("; offered to the gateway: {at}"));
        screen.line(format!("{kind} because {}{offered}", cluster.reason))?;
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
