//! `durward explain`: the fate of a connection or request and its reason, each step with file and line.
//!
//! The answer comes from the functions that serve: from the files, or from a running gateway. Nothing is sent anywhere else.

pub(crate) mod expect;
mod question;

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use durward_model::Snapshot;
use durward_model::explain::{Ending, Kind, Question};
use durward_model::transport::Transport;

use crate::cli::{Admin, Explain};
use crate::commands::check::running;
use crate::explained::Explained;
use crate::failure::{Exit, Failure};
use crate::live;
use crate::output::{Format, Screen, Tone};

/// Timeout of a running gateway's answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers the question on the command line.
pub(crate) fn explain(arguments: &Explain) -> Result<Exit, Failure> {
    let (question, explained) = match arguments.running {
        Some(Admin::Off) => return Err(Failure::usage("--running off leaves no gateway to ask")),
        Some(Admin::At(address)) => {
            let question = question::question(arguments, &Snapshot::default())?;
            let explained = ask(address, &question)?;
            (question, explained)
        }
        None => {
            let loaded = live::load(&arguments.config, &arguments.live)?;
            let question = question::question(arguments, &loaded.snapshot)?;
            let explained = Explained::new(&loaded.snapshot, &loaded.verdicts, &question);
            (question, explained)
        }
    };
    let mut screen = Screen::stdout();
    match arguments.output.format {
        format @ (Format::Json | Format::Yaml) => screen.value(&explained, format)?,
        Format::Table | Format::Wide => print(&mut screen, &question, &explained)?,
    }
    let failures = expect::failures(&arguments.expect, &explained.explanation);
    for failure in &failures {
        writeln!(anstream::stderr(), "durward: {failure}")?;
    }
    Ok(if failures.is_empty() { Exit::Ok } else { Exit::FailedCheck })
}

/// Asks the gateway with this admin listener.
fn ask(address: SocketAddr, question: &Question) -> Result<Explained, Failure> {
    let unreachable = |why: String| Failure::Unreachable { message: why };
    let json = serde_json::to_string(question)
        .map_err(|error| Failure::broken("writing the question", error))?;
    let (status, body) = running::post(address, "/explain", &json, PATIENCE).map_err(|error| {
        unreachable(format!("no gateway answers at {address} ({error}): name its admin listener with --running=ADDRESS:PORT"))
    })?;
    if status != 200 {
        let said = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(unreachable(format!("the gateway at {address} answers {status}: {said}")));
    }
    serde_json::from_slice(&body).map_err(|error| {
        unreachable(format!("{address} does not answer like a gateway of this version ({error})"))
    })
}

fn print(screen: &mut Screen, question: &Question, explained: &Explained) -> Result<(), Failure> {
    let answer = &explained.explanation;
    let (word, tone) = ending(&answer.ending);
    let title = title(question, explained);
    let gap = " ".repeat(72_usize.saturating_sub(title.chars().count()).max(2));
    screen.line(format!("{}{gap}{}", Tone::Bold.paint(&title), tone.paint(&word)))?;
    for (number, step) in answer.steps.iter().enumerate() {
        let place = step.origin.as_ref().map(ToString::to_string).unwrap_or_default();
        let head = format!("{:>3} {:<19}{}", number + 1, step.stage, step.sentence);
        let gap = " ".repeat(72_usize.saturating_sub(head.chars().count()).max(2));
        screen.line(format!("{head}{gap}{}", Tone::Faint.paint(&place)).trim_end())?;
    }
    if let Some(generation) = explained.generation {
        screen.line(format!("    by the running gateway, generation {generation}"))?;
    }
    if !explained.not_accepted.is_empty() {
        screen.line("    not wholly accepted, and so not or only partly in this answer:")?;
    }
    for document in &explained.not_accepted {
        let (kind, name) = (&document.kind, &document.name);
        let head = format!("      {kind} {name}: {}", document.outcome);
        screen.line(format!("{}: {}", Tone::Warn.paint(&head), document.why))?;
    }
    if explained.more_not_accepted > 0 {
        screen.line(format!("      and {} more", explained.more_not_accepted))?;
    }
    Ok(())
}

/// Formats the subject of the question, by the kind of the answer: a request, a tunnel, a port mapping.
fn title(question: &Question, explained: &Explained) -> String {
    let client = question.client.map_or_else(|| "anyone".to_owned(), |client| client.to_string());
    let sni = question.sni.as_ref().map(|name| format!(", SNI {name}")).unwrap_or_default();
    let (to, transport) = (question.destination, question.transport);
    let target = explained.explanation.target.as_deref().unwrap_or_default();
    let (method, path) = (&question.method, &question.path);
    match explained.explanation.kind {
        Kind::Request => format!("{client} → {to}{sni}: {method} {path}"),
        Kind::Connection => format!("{client} → {to}{sni}: TCP connection"),
        Kind::Datagrams => format!("{client} → {to}: UDP"),
        Kind::PassThrough => format!("{client} → {to}{sni}: TLS passed through"),
        Kind::Tunnel if target.is_empty() => format!("{client} → {to}{sni}: tunnel"),
        Kind::Tunnel => format!("{client} → {to}{sni}: tunnel to {target}"),
        Kind::ProxiedRequest => format!("{client} → {to}{sni}: {method} to {target}"),
        Kind::PortMapping => format!("{client} → {to} {transport}: port mapping {target}"),
        Kind::KernelEgress => format!("{client} → {to} {transport}: kernel egress"),
        Kind::TransparentEgress => format!("{client} → {to} {transport}: transparent egress"),
        Kind::Unknown if transport == Transport::Tcp => format!("{client} → {to}{sni}"),
        Kind::Unknown => format!("{client} → {to} {transport}"),
    }
}

fn ending(ending: &Ending) -> (String, Tone) {
    match ending {
        Ending::Served { upstream } => (format!("SERVED by {upstream}"), Tone::Good),
        Ending::ServedIf { upstream, condition } => {
            (format!("SERVED by {upstream} IF {condition}"), Tone::Warn)
        }
        Ending::Answered { status } => (format!("ANSWERED {status}"), Tone::Good),
        Ending::Refused { reason } => (format!("REFUSED {reason}"), Tone::Bad),
    }
}
