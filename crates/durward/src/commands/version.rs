//! `durward version`: prints the version.

use serde::Serialize;

use crate::cli::Version;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen};

#[derive(Serialize)]
struct Report {
    name: &'static str,
    version: &'static str,
    target: String,
}

/// Prints the version.
pub(crate) fn version(arguments: &Version) -> Result<Exit, Failure> {
    let report = Report {
        name: "durward",
        version: env!("CARGO_PKG_VERSION"),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
    };
    let mut screen = Screen::stdout();
    match arguments.output.format {
        Format::Table => screen.line(format!("{} {}", report.name, report.version))?,
        Format::Wide => {
            screen.line(format!("{} {} ({})", report.name, report.version, report.target))?;
        }
        format => screen.value(&report, format)?,
    }
    Ok(Exit::Ok)
}
