//! `durward schema`: the JSON Schema of the documents, for editors and pipelines.
//!
//! Deliberately absent: routing.json, which has no schema other than its parser.

use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen};

/// Prints the schema.
pub(crate) fn schema() -> Result<Exit, Failure> {
    Screen::stdout().value(&durward_control::schema(), Format::Json)?;
    Ok(Exit::Ok)
}
