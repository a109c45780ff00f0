//! Configurations of other programs as our documents, with a note for each line that has no equal here.
//!
//! Nothing is let through that the other program denied without a note that says so. Deliberately absent: reading files.

pub mod smartnat;
pub mod squid;

use std::fmt;
use std::sync::Arc;

/// What became of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Migrated {
    /// The documents, as YAML, each with the name its file should have.
    pub documents: Vec<(String, String)>,
    /// What is different, in the order of the lines.
    pub notes: Vec<Note>,
}

/// One thing that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
    /// How it differs.
    pub effect: Effect,
    /// What it was, and what to do.
    pub text: String,
}

/// How the documents differ from the configuration they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// They let through what it denied.
    Wider,
    /// They deny what it let through, or something has to be added to them.
    Narrower,
    /// It is said elsewhere, or always so.
    Elsewhere,
}

impl Effect {
    /// The word in front of a note.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Wider => "wider",
            Self::Narrower => "narrower",
            Self::Elsewhere => "note",
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.effect.word(), self.text)
    }
}
