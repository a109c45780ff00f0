//! `durward nat`: what the kernel carries, what a configuration would change, and taking all of it out.
//!
//! Deliberately absent: changing what `run` keeps, but by `cleanup`.

mod steer;
mod trace;

use std::error::Error;
use std::io::{ErrorKind, Write as _};

use durward_model::mapping::{KernelEgress, NatModel, PortMapping};
use durward_model::verdict::{Outcome, Verdict, Verdicts};
use durward_nat::nftables::TableError;
use durward_nat::{MappingReport, Nat, NatError};
use rustix::io::Errno;
use serde::Serialize;

use crate::app::sentence;
use crate::cli::{ConfigArgs, LogFormat, NatArgs, NatCommand, NatWhat, OutputArgs};
use crate::commands::validate::findings_text;
use crate::config;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen, Table, Tone, count, plain};

/// Does what is asked.
pub(crate) fn nat(arguments: &NatCommand, log: LogFormat) -> Result<Exit, Failure> {
    match &arguments.what {
        NatWhat::List { config, nat, output } => list(config, nat, *output),
        NatWhat::Diff { config, nat, program } => diff(config, nat, *program),
        NatWhat::Trace(arguments) => trace::trace(arguments),
        NatWhat::Steer(arguments) => steer::steer(arguments, log),
        NatWhat::Cleanup { nat } => cleanup(nat),
    }
}

/// One line of the list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    kind: &'static str,
    tenant: String,
    name: String,
    /// `addresses ports` or `sources`.
    from: Vec<String>,
    to: Vec<String>,
    state: String,
    carried: bool,
    /// Since the ports were last changed.
    connections: u64,
    written_at: String,
}

fn list(config: &ConfigArgs, arguments: &NatArgs, output: OutputArgs) -> Result<Exit, Failure> {
    let loaded = config::load(config)?;
    let model = &loaded.snapshot.nat;
    let plane = open(arguments)?;
    let (wanted, _) = plane.preview(model).map_err(failed)?;
    let carried = plane.carried(model).map_err(failed)?;
    let begun = plane.begun(model).map_err(failed)?;
    let leaving = plane.leaving().map_err(failed)?;
    let mut lines = Vec::with_capacity(model.mappings.len() + model.egress.len());
    for (((mapping, report), carried), begun) in
        model.mappings.iter().zip(&wanted.report.mappings).zip(carried).zip(begun)
    {
        lines.push(mapping_line(mapping, report, carried, begun));
    }
    for (rule, report) in model.egress.iter().zip(&wanted.report.egress) {
        let of_rule = leaving
            .iter()
            .filter(|(address, _)| rule.addresses.iter().any(|range| range.contains(**address)));
        lines.push(egress_line(
            rule,
            report,
            of_rule.map(|(_, leaving)| leaving.connections).sum(),
        ));
    }
    let all = lines.iter().all(|line| line.carried);
    let mut screen = Screen::stdout();
    match output.format {
        format @ (Format::Json | Format::Yaml) => screen.value(&lines, format)?,
        format => print(&mut screen, &lines, model, format)?,
    }
    if tell_left_out(&loaded.verdicts)? {
        return Ok(Exit::InvalidConfig);
    }
    Ok(if all { Exit::Ok } else { Exit::FailedCheck })
}

fn mapping_line(mapping: &PortMapping, report: &MappingReport, carried: bool, begun: u64) -> Line {
    let from = mapping.addresses.iter().flat_map(|address| {
        let ports = mapping.ports.iter();
        ports.map(move |port| format!("{address} {} {}", port.protocol, port.ports))
    });
    let to = mapping.ports.iter().flat_map(|port| {
        let all = port.endpoints(true).into_iter().chain(port.endpoints(false));
        all.map(|(address, port)| match port {
            Some(port) => std::net::SocketAddr::new(address, port).to_string(),
            None => address.to_string(),
        })
    });
    let mut to: Vec<String> = to.collect();
    to.sort();
    to.dedup();
    let state = match (&report.rejected, carried, report.foreign_addresses.as_slice()) {
        (Some(why), ..) => format!("left out: {why}"),
        (None, false, _) => "not in the kernel yet".to_owned(),
        (None, true, []) => "in the kernel".to_owned(),
        (None, true, foreign) => {
            let foreign: Vec<String> = foreign.iter().map(ToString::to_string).collect();
            format!("in the kernel, not on this host: {}", foreign.join(", "))
        }
    };
    Line {
        kind: "mapping",
        tenant: mapping.tenant.to_string(),
        name: mapping.name.to_string(),
        from: from.collect(),
        to,
        carried: carried && report.rejected.is_none(),
        state,
        connections: begun,
        written_at: mapping.origin.to_string(),
    }
}

fn egress_line(rule: &KernelEgress, report: &MappingReport, leaving: u64) -> Line {
    let rejected = report.rejected.as_ref();
    Line {
        kind: "egress",
        tenant: rule.tenant.to_string(),
        name: rule.name.to_string(),
        from: rule.sources.iter().map(ToString::to_string).collect(),
        to: rule.addresses.iter().map(ToString::to_string).collect(),
        carried: rejected.is_none(),
        state: rejected.map_or_else(|| "may leave".to_owned(), |why| format!("left out: {why}")),
        connections: leaving,
        written_at: rule.origin.to_string(),
    }
}

fn print(
    screen: &mut Screen,
    lines: &[Line],
    model: &NatModel,
    format: Format,
) -> Result<(), Failure> {
    let wide = format == Format::Wide;
    let mut header = vec!["KIND", "TENANT", "NAME", "FROM", "TO", "CONNECTIONS", "STATE"];
    if wide {
        header.push("WRITTEN AT");
    }
    let mut table = Table::new(&header);
    for line in lines {
        let some = |of: &[String]| match (of, wide) {
            ([], _) => "-".to_owned(),
            ([first, rest @ ..], false) if !rest.is_empty() => format!("{first} +{}", rest.len()),
            (all, _) => all.join(", "),
        };
        let tone = if line.carried { Tone::Good } else { Tone::Bad };
        let mut cells = vec![
            plain(line.kind),
            plain(&line.tenant),
            plain(&line.name),
            plain(some(&line.from)),
            plain(some(&line.to)),
            plain(line.connections),
            (line.state.clone(), tone),
        ];
        if wide {
            cells.push(plain(&line.written_at));
        }
        table.row(cells);
    }
    table.print(screen)?;
    screen.line("")?;
    let (mappings, rules) = (model.mappings.len(), model.egress.len());
    screen.line(format!(
        "{}, {}; next: durward nat diff",
        count(mappings, "mapping"),
        count(rules, "egress rule")
    ))
}

fn diff(config: &ConfigArgs, arguments: &NatArgs, program: bool) -> Result<Exit, Failure> {
    let loaded = config::load(config)?;
    let (_, difference) = open(arguments)?.preview(&loaded.snapshot.nat).map_err(failed)?;
    let mut screen = Screen::stdout();
    match (difference.is_empty(), loaded.verdicts.all_accepted()) {
        (false, _) if program => screen.text(&difference.in_full())?,
        (false, _) => screen.text(&difference.to_string())?,
        (true, true) => screen.line("the kernel is as the configuration says")?,
        (true, false) => screen.line("the kernel is as the accepted documents say")?,
    }
    if difference.is_first() && !program {
        screen
            .line("\nthe table is not there yet; its rules and sets: durward nat diff --program")?;
    }
    let left_out = tell_left_out(&loaded.verdicts)?;
    let rejected = |verdict: &Verdict| verdict.outcome == Outcome::Rejected;
    if loaded.verdicts.verdicts.iter().any(rejected) {
        let kept =
            "of what is rejected a running gateway keeps what it has, whatever is shown as removed";
        writeln!(anstream::stderr(), "\n{kept}")?;
    }
    if left_out {
        return Ok(Exit::InvalidConfig);
    }
    Ok(if difference.is_empty() { Exit::Ok } else { Exit::FailedCheck })
}

/// Findings of documents that are not wholly accepted, on standard error; whether there are such documents.
fn tell_left_out(verdicts: &Verdicts) -> Result<bool, Failure> {
    let left_out = |verdict: &&Verdict| verdict.outcome != Outcome::Accepted;
    let text = findings_text(verdicts.verdicts.iter().filter(left_out));
    anstream::stderr().write_all(text.as_bytes())?;
    Ok(!verdicts.all_accepted())
}

fn cleanup(arguments: &NatArgs) -> Result<Exit, Failure> {
    let beside = durward_nat::steer::Options {
        table: durward_nat::steer::table_beside(&arguments.nat_table),
        ..durward_nat::steer::Options::default()
    };
    durward_nat::steer::cleanup(&beside).map_err(failed)?;
    durward_nat::trace::cleanup(&arguments.nat_table, beside.timeout).map_err(failed)?;
    open(arguments)?.cleanup().map_err(failed)?;
    Screen::stdout().line("nothing of Durward's is left in the kernel")?;
    Ok(Exit::Ok)
}

/// The kernel plane, which changes nothing before it is told to.
fn open(arguments: &NatArgs) -> Result<Nat, Failure> {
    Nat::start(arguments.options()?).map_err(failed)
}

const RIGHTS: &str =
    "this needs CAP_NET_ADMIN: run it as root, or in a network namespace of your own";

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` passes")]
fn failed(error: NatError) -> Failure {
    match &error {
        NatError::Table(TableError::Forbidden) => Failure::broken(
            "asking the kernel",
            "it may not be changed: either a running durward owns it, or CAP_NET_ADMIN is missing",
        ),
        NatError::Options { problem } => Failure::usage(problem.clone()),
        error if is_forbidden(error) => Failure::broken("asking the kernel", RIGHTS),
        error => Failure::broken("asking the kernel", sentence(error)),
    }
}

/// Whether the kernel said that we may not.
fn is_forbidden(error: &NatError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let errno = error.downcast_ref::<Errno>().map(|errno| errno.kind());
        if io.or(errno) == Some(ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}
