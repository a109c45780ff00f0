//! `durward prove`: shows that no connection can leave with another tenant's address, by the configuration, by counters and by an attack.
//!
//! Deliberately absent: trust in the compile step and in the proxy; the first is checked again, the second attacked.

mod attack;
mod counted;
mod stage;
mod written;

use serde::Serialize;

use crate::cli::{CheckFormat, Prove};
use crate::commands::check::report::{Category, Item, Mark, Report};
use crate::config;
use crate::failure::{Exit, Failure};
use crate::output::{Screen, Tone};

/// Runs the proof and prints the report.
pub(crate) fn prove(arguments: &Prove) -> Result<Exit, Failure> {
    let mut categories = Vec::new();
    if let Some(config) = arguments.config() {
        let loaded = config::load(config)?;
        categories.push(written::prove(&loaded.snapshot, &loaded.verdicts));
    }
    categories.push(counted::prove(arguments.admin, arguments.timeout));
    if !arguments.no_attack {
        categories.push(attack::prove(arguments.requests)?);
    }
    let report = Report::new(categories.clone());
    match arguments.format {
        CheckFormat::Table | CheckFormat::Wide => print(&categories)?,
        format => report.print(format)?,
    }
    Ok(if report.failed() { Exit::FailedCheck } else { Exit::Ok })
}

fn print(categories: &[Category]) -> Result<(), Failure> {
    let mut screen = Screen::stdout();
    for Category { category, checks } in categories {
        for Item { result, sentence, hint } in checks {
            let (sign, tone) = match result {
                Mark::Ok => ("√", Tone::Good),
                Mark::Warning => ("–", Tone::Warn),
                Mark::Error => ("×", Tone::Bad),
            };
            screen.line(format!("  {category:<9} {} {sentence}", tone.paint(sign)))?;
            if let Some(hint) = hint {
                screen.line(format!("  {:<9}   {}", "", Tone::Faint.paint(hint)))?;
            }
        }
    }
    Ok(())
}

/// Numbers of attempts and of crossings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Tally {
    tried: u64,
    crossed: u64,
}

impl Tally {
    fn add(&mut self, crossed: bool) {
        self.tried += 1;
        self.crossed += u64::from(crossed);
    }
}
