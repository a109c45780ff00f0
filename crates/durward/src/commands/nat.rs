//! `durward nat`: lists the kernel's mappings, shows what a configuration would change, and removes everything.

mod steer;
mod trace;

use std::error::Error;
use std::io::{ErrorKind, Write as _};
use std::time::Duration;

use durward_model::verdict::{Outcome, Verdict, Verdicts};
use durward_nat::nftables::TableError;
use durward_nat::{Nat, NatError};
use rustix::io::Errno;

use crate::app::kernel::lines::{self, Line};
use crate::app::sentence;
use crate::cli::{Admin, ConfigArgs, LogFormat, NatArgs, NatCommand, NatWhat, OutputArgs};
use crate::commands::check::running;
use crate::commands::validate::findings_text;
use crate::config;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen, Table, Tone, count, plain};

/// Runs the subcommand.
pub(crate) fn nat(arguments: &NatCommand, log: LogFormat) -> Result<Exit, Failure> {
    match &arguments.what {
        NatWhat::List { nat, admin, output, .. } if nat.options()?.external.is_empty() => {
            list_running(*admin, *output)
        }
        NatWhat::List { config, nat, output, .. } => list(config, nat, *output),
        NatWhat::Diff { config, nat, program } => diff(config, nat, *program),
        NatWhat::Trace(arguments) => trace::trace(arguments),
        NatWhat::Steer(arguments) => steer::steer(arguments, log),
        NatWhat::Cleanup { nat } => cleanup(nat),
    }
}

/// Timeout of a running gateway, which reads the kernel to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lists the mappings of a running gateway: without external interfaces this command cannot know what the kernel should carry.
fn list_running(admin: Admin, output: OutputArgs) -> Result<Exit, Failure> {
    let Admin::At(address) = admin else {
        return Err(Failure::usage(
            "name the external interfaces with --nat-external, or a running gateway with --admin",
        ));
    };
    let unreachable = |why: String| Failure::Unreachable {
        message: format!(
            "{why}: name a running gateway with --admin, or read the kernel without one by --nat-external PATTERN"
        ),
    };
    let (status, body) = running::fetch(address, "/nat", PATIENCE)
        .map_err(|error| unreachable(format!("no gateway answers at {address} ({error})")))?;
    if status != 200 {
        let said = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(unreachable(format!("the gateway at {address} says: {said}")));
    }
    let lines: Vec<Line> = serde_json::from_slice(&body).map_err(|error| {
        unreachable(format!("{address} does not answer like a gateway of this version ({error})"))
    })?;
    let mut screen = Screen::stdout();
    match output.format {
        format @ (Format::Json | Format::Yaml) => screen.value(&lines, format)?,
        format => {
            print(&mut screen, &lines, format)?;
            screen.line(format!("as the gateway at {address} says"))?;
        }
    }
    let all = lines.iter().all(|line| line.carried);
    Ok(if all { Exit::Ok } else { Exit::FailedCheck })
}

fn list(config: &ConfigArgs, arguments: &NatArgs, output: OutputArgs) -> Result<Exit, Failure> {
    let loaded = config::load(config)?;
    let model = &loaded.snapshot.nat;
    let plane = open(arguments)?;
    let (wanted, _) = plane.preview(model).map_err(failed)?;
    let lines = lines::lines(&plane, model, &wanted.report).map_err(failed)?;
    let all = lines.iter().all(|line| line.carried);
    let mut screen = Screen::stdout();
    match output.format {
        format @ (Format::Json | Format::Yaml) => screen.value(&lines, format)?,
        format => print(&mut screen, &lines, format)?,
    }
    if tell_left_out(&loaded.verdicts)? {
        return Ok(Exit::InvalidConfig);
    }
    Ok(if all { Exit::Ok } else { Exit::FailedCheck })
}

fn print(screen: &mut Screen, lines: &[Line], format: Format) -> Result<(), Failure> {
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
            plain(&line.kind),
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
    let mappings = lines.iter().filter(|line| line.kind == "mapping").count();
    let rules = lines.len() - mappings;
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
        (true, true) => screen.line("the kernel matches the configuration")?,
        (true, false) => screen.line("the kernel matches the accepted documents")?,
    }
    if difference.is_first() && !program {
        screen
            .line("\nthe table does not exist; its rules and sets: durward nat diff --program")?;
    }
    let left_out = tell_left_out(&loaded.verdicts)?;
    let rejected = |verdict: &Verdict| verdict.outcome == Outcome::Rejected;
    if loaded.verdicts.iter().any(rejected) {
        let kept = "a running gateway keeps what rejected documents had before, even where this shows it as removed";
        writeln!(anstream::stderr(), "\n{kept}")?;
    }
    if left_out {
        return Ok(Exit::InvalidConfig);
    }
    Ok(if difference.is_empty() { Exit::Ok } else { Exit::FailedCheck })
}

/// Prints findings of documents that are not wholly accepted to standard error; returns true if there are any.
fn tell_left_out(verdicts: &Verdicts) -> Result<bool, Failure> {
    let left_out = |verdict: &&Verdict| verdict.outcome != Outcome::Accepted;
    let text = findings_text(verdicts.iter().filter(left_out));
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

/// Opens the kernel plane, which changes nothing yet.
fn open(arguments: &NatArgs) -> Result<Nat, Failure> {
    Nat::start(arguments.options()?).map_err(failed)
}

const RIGHTS: &str =
    "this needs CAP_NET_ADMIN: run it as root, or in a network namespace of your own";

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` passes")]
fn failed(error: NatError) -> Failure {
    match &error {
        NatError::Table(TableError::Forbidden) => Failure::broken(
            "reading the kernel's state",
            "the nftables table may not be changed: a running durward owns it, or CAP_NET_ADMIN is missing",
        ),
        NatError::Options { problem } => Failure::usage(problem.clone()),
        error if is_forbidden(error) => Failure::broken("reading the kernel's state", RIGHTS),
        error => Failure::broken("reading the kernel's state", sentence(error)),
    }
}

/// Returns true if the kernel denied permission.
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
