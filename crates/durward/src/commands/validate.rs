//! `durward validate`: compiles as `run` does, offline, and prints the outcome of each document.

use durward_model::Snapshot;
use durward_model::verdict::{Finding, Outcome, Severity, Verdict, Verdicts};
use serde::Serialize;

use crate::cli::Validate;
use crate::failure::{Exit, Failure};
use crate::live;
use crate::output::{Format, Screen, Table, Tone, count, plain};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    valid: bool,
    tenants: usize,
    listeners: usize,
    mappings: usize,
    verdicts: &'a Verdicts,
}

/// Compiles and prints the report.
pub(crate) fn validate(arguments: &Validate) -> Result<Exit, Failure> {
    let loaded = live::load(&arguments.config, &arguments.live)?;
    let mut screen = Screen::stdout();
    match arguments.output.format {
        format @ (Format::Json | Format::Yaml) => {
            screen.value(&report(&loaded.snapshot, &loaded.verdicts), format)?;
        }
        format => print(&mut screen, &loaded.snapshot, &loaded.verdicts, format)?,
    }
    Ok(exit(&loaded.verdicts))
}

fn report<'a>(snapshot: &Snapshot, verdicts: &'a Verdicts) -> Report<'a> {
    Report {
        valid: exit(verdicts) == Exit::Ok,
        tenants: snapshot.tenants.len(),
        listeners: listeners(snapshot),
        mappings: snapshot.nat.mappings.len(),
        verdicts,
    }
}

fn exit(verdicts: &Verdicts) -> Exit {
    if verdicts.all_accepted() { Exit::Ok } else { Exit::InvalidConfig }
}

fn listeners(snapshot: &Snapshot) -> usize {
    snapshot.tenants.values().map(|tenant| tenant.listeners.len()).sum()
}

fn print(
    screen: &mut Screen,
    snapshot: &Snapshot,
    verdicts: &Verdicts,
    format: Format,
) -> Result<(), Failure> {
    let wide = format == Format::Wide;
    let mut header = vec!["KIND", "NAME", "OUTCOME", "FINDINGS"];
    if wide {
        header.push("WRITTEN AT");
    }
    let mut table = Table::new(&header);
    for verdict in verdicts.iter() {
        table.row(row(verdict, wide));
    }
    table.print(screen)?;
    screen.text(&findings_text(verdicts.iter()))?;
    screen.line("")?;
    let summary = match snapshot.tenants.len() {
        0 => "nothing would be served".to_owned(),
        tenants => {
            let listeners = count(listeners(snapshot), "listener");
            let mappings = match snapshot.nat.mappings.len() {
                0 => String::new(),
                mappings => format!(" and {}", count(mappings, "mapping")),
            };
            format!("{} with {listeners}{mappings} would be served", count(tenants, "tenant"))
        }
    };
    let next = match exit(verdicts) {
        _ if verdicts.iter().next().is_none() => {
            "no documents were found: files that end in .yaml, .yml, .json or .toml are read, and routing.json"
        }
        Exit::Ok => "next: durward check, then durward run",
        _ => "correct what is marked as error and validate again",
    };
    screen.line(format!("{summary}; {next}"))
}

fn row(verdict: &Verdict, wide: bool) -> Vec<(String, Tone)> {
    let tone = match verdict.outcome {
        Outcome::Accepted => Tone::Good,
        Outcome::Partial => Tone::Warn,
        Outcome::KeptLastGood | Outcome::Rejected => Tone::Bad,
    };
    let mut cells = vec![
        plain(verdict.resource.kind.as_str()),
        plain(&verdict.resource.name),
        (verdict.outcome.to_string(), tone),
        plain(findings(verdict)),
    ];
    if wide {
        cells.push(plain(&verdict.origin));
    }
    cells
}

fn findings(verdict: &Verdict) -> String {
    let parts: Vec<String> =
        [(verdict.count(Severity::Error), "error"), (verdict.count(Severity::Warning), "warning")]
            .into_iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, noun)| count(number, noun))
            .collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

/// Formats each finding with its excerpt, errors first, as a compiler does.
pub(crate) fn findings_text<'a>(verdicts: impl IntoIterator<Item = &'a Verdict>) -> String {
    let of = |verdict: &'a Verdict| verdict.findings.iter().map(move |finding| (verdict, finding));
    let mut findings: Vec<_> = verdicts.into_iter().flat_map(of).collect();
    findings.sort_by_key(|(_, finding)| std::cmp::Reverse(finding.severity));
    findings.into_iter().map(|(verdict, finding)| finding_text(verdict, finding)).collect()
}

fn finding_text(verdict: &Verdict, finding: &Finding) -> String {
    let (word, tone) = match finding.severity {
        Severity::Error => ("error", Tone::Bad),
        Severity::Warning => ("warning", Tone::Warn),
    };
    let head = tone.paint(&format!("{word}[{}]", finding.reason));
    let place = match &finding.excerpt {
        Some(excerpt) => excerpt.trim_end().to_owned(),
        None => format!("  --> {}", finding.origin),
    };
    format!("\n{head}: {}: {finding}\n{place}\n", verdict.subject())
}
