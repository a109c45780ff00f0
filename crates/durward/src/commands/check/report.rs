//! Report of checks: by category, a mark and a message each, and a hint where something should be done.

use serde::Serialize;

use crate::cli::CheckFormat;
use crate::failure::Failure;
use crate::output::{Format, Screen, Tone, count};

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mark {
    /// Works as it should.
    Ok,
    /// Works, but deserves a look.
    Warning,
    /// Does not work.
    Error,
}

impl Mark {
    fn sign(self) -> (&'static str, Tone) {
        match self {
            Self::Ok => ("√", Tone::Good),
            Self::Warning => ("‼", Tone::Warn),
            Self::Error => ("×", Tone::Bad),
        }
    }
}

/// Check with its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Item {
    /// Result of the check.
    pub(crate) result: Mark,
    /// Finding, as a message.
    pub(crate) sentence: String,
    /// Hint what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

/// Checks that belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Category {
    /// Subject of the checks.
    pub(crate) category: &'static str,
    /// Checks of the category.
    pub(crate) checks: Vec<Item>,
}

impl Category {
    /// Creates a category without checks.
    pub(crate) fn new(category: &'static str) -> Self {
        Self { category, checks: Vec::new() }
    }

    /// Adds a check that passed.
    pub(crate) fn ok(&mut self, sentence: impl Into<String>) {
        self.checks.push(Item { result: Mark::Ok, sentence: sentence.into(), hint: None });
    }

    /// Adds a warning.
    pub(crate) fn warn(&mut self, sentence: impl Into<String>, hint: impl Into<String>) {
        self.add(Mark::Warning, sentence, hint);
    }

    /// Adds an error.
    pub(crate) fn error(&mut self, sentence: impl Into<String>, hint: impl Into<String>) {
        self.add(Mark::Error, sentence, hint);
    }

    /// Adds a check with any result.
    pub(crate) fn add(
        &mut self,
        result: Mark,
        sentence: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        self.checks.push(Item { result, sentence: sentence.into(), hint });
    }
}

/// Report of all checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// Worst result of all checks.
    result: Mark,
    /// Categories; those without checks are left out.
    categories: Vec<Category>,
}

impl Report {
    /// Builds a report of these categories.
    pub(crate) fn new(mut categories: Vec<Category>) -> Self {
        categories.retain(|category| !category.checks.is_empty());
        let marks = categories.iter().flat_map(|category| &category.checks).map(|item| item.result);
        let result = marks.max().unwrap_or(Mark::Ok);
        Self { result, categories }
    }

    /// Returns true if a check failed.
    pub(crate) fn failed(&self) -> bool {
        self.result == Mark::Error
    }

    /// Prints the report.
    pub(crate) fn print(&self, format: CheckFormat) -> Result<(), Failure> {
        let mut screen = Screen::stdout();
        match format {
            CheckFormat::Json => screen.value(self, Format::Json),
            CheckFormat::Yaml => screen.value(self, Format::Yaml),
            CheckFormat::Short => self.print_short(&mut screen),
            CheckFormat::Table | CheckFormat::Wide => self.print_all(&mut screen),
        }
    }

    fn print_all(&self, screen: &mut Screen) -> Result<(), Failure> {
        for category in &self.categories {
            screen.line(Tone::Bold.paint(category.category))?;
            screen.line("-".repeat(category.category.chars().count()))?;
            for item in &category.checks {
                print_item(screen, "", item)?;
            }
            screen.line("")?;
        }
        self.print_summary(screen)
    }

    fn print_short(&self, screen: &mut Screen) -> Result<(), Failure> {
        for category in &self.categories {
            for item in category.checks.iter().filter(|item| item.result != Mark::Ok) {
                print_item(screen, category.category, item)?;
            }
        }
        self.print_summary(screen)
    }

    fn print_summary(&self, screen: &mut Screen) -> Result<(), Failure> {
        let number = |mark| {
            let items = self.categories.iter().flat_map(|category| &category.checks);
            items.filter(|item| item.result == mark).count()
        };
        let (sign, tone) = self.result.sign();
        screen.line(format!(
            "Status check results are {}: {}, {}, {} ok",
            tone.paint(sign),
            count(number(Mark::Error), "error"),
            count(number(Mark::Warning), "warning"),
            number(Mark::Ok)
        ))
    }
}

fn print_item(screen: &mut Screen, category: &str, item: &Item) -> Result<(), Failure> {
    let (sign, tone) = item.result.sign();
    let category = if category.is_empty() { String::new() } else { format!("{category}: ") };
    screen.line(format!("{} {category}{}", tone.paint(sign), item.sentence))?;
    match &item.hint {
        Some(hint) => screen.line(format!("    {}", Tone::Faint.paint(hint))),
        None => Ok(()),
    }
}
