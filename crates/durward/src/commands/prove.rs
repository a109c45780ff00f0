//! `durward prove`: that no connection can leave with another tenant's address, by reading, by counting and by trying.
//!
//! Deliberately absent: trust in the compile and in the engine; the first is read again, the second attacked.

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

/// Proves and reports.
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

/// How often something held, and how often it did not.
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
