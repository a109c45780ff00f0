//! Output of results: plain tables when piped, colour only on a terminal, JSON and YAML for programs.

use std::io::{self, Write};

use anstream::AutoStream;
use clap::ValueEnum;
use serde::Serialize;

use crate::failure::Failure;

/// Format of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns.
    Table,
    /// Columns, all of them.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Style of a cell or word on a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Plain.
    #[default]
    Plain,
    /// Emphasised.
    Bold,
    /// Dimmed.
    Faint,
    /// Good.
    Good,
    /// Warning.
    Warn,
    /// Error.
    Bad,
}

impl Tone {
    /// Returns `text` with the terminal's codes around it; the screen strips them where they do not belong.
    pub(crate) fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            Self::Bold => "1",
            Self::Faint => "2",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Standard output, with colour only where it is wanted (terminal, `NO_COLOR`, `CLICOLOR_FORCE`).
pub(crate) struct Screen {
    out: AutoStream<io::Stdout>,
}

impl Screen {
    /// Opens standard output.
    pub(crate) fn stdout() -> Self {
        Self { out: AutoStream::auto(io::stdout()) }
    }

    /// Prints one line.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        writeln!(self.out, "{}", text.as_ref())?;
        Ok(())
    }

    /// Prints text without adding a line feed.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(())
    }

    /// Prints a value as JSON or YAML.
    pub(crate) fn value(&mut self, value: &impl Serialize, format: Format) -> Result<(), Failure> {
        let text = match format {
            Format::Yaml => serde_saphyr::to_string(value)
                .map_err(|error| Failure::broken("writing YAML", error))?,
            _ => serde_json::to_string_pretty(value)
                .map_err(|error| Failure::broken("writing JSON", error))?,
        };
        self.line(text.trim_end())
    }
}

/// Rows under a header, as wide as their content.
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    /// Creates a table without rows.
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; it has as many cells as the header.
    pub(crate) fn row(&mut self, cells: Vec<(String, Tone)>) {
        self.rows.push(cells);
    }

    /// Returns the lines, the header first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let widths: Vec<usize> = (0..self.header.len()).map(|column| self.width(column)).collect();
        let header =
            self.header.iter().map(|name| ((*name).to_owned(), Tone::Faint)).collect::<Vec<_>>();
        std::iter::once(&header)
            .chain(&self.rows)
            .map(|row| {
                let cells = row.iter().zip(&widths).map(|(cell, width)| pad(cell, *width));
                cells.collect::<String>().trim_end().to_owned()
            })
            .collect()
    }

    /// Prints the table.
    pub(crate) fn print(&self, screen: &mut Screen) -> Result<(), Failure> {
        self.lines().into_iter().try_for_each(|line| screen.line(line))
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|(text, _)| text.chars().count()).max().unwrap_or(0);
        widest.max(self.header[column].chars().count())
    }
}

fn pad((text, tone): &(String, Tone), width: usize) -> String {
    let blanks = width.saturating_sub(text.chars().count()) + 3;
    format!("{}{}", tone.paint(text), " ".repeat(blanks))
}

/// Builds a cell without colour.
#[expect(clippy::needless_pass_by_value, reason = "most callers pass what they have just made")]
pub(crate) fn plain(text: impl ToString) -> (String, Tone) {
    (text.to_string(), Tone::Plain)
}

/// Formats a count: `1 tenant`, `2 tenants`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(vec![plain("a-long-name"), plain("ok")]);
        table.row(vec![plain("b"), ("√ fine".to_owned(), Tone::Plain)]);

        let lines = table.lines();

        assert_eq!(lines[1], "a-long-name   ok");
        assert_eq!(lines[2], "b             √ fine");
    }
}
