//! Configurations of other programs as our documents, with a note for each line that has no equal here.
//!
//! Nothing is let through that the other program denied, and no client moves to another address, without a note that says so.

pub mod ingress;
mod objects;
pub mod smartnat;
pub mod squid;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use durward_control::named_file::NamedFile;
use durward_control::spec::document;
use durward_control::{Change, Compiled, Document, Fact, Reference, Store, compile};

/// Result of migrating a configuration.
#[derive(Clone, Debug, Default)]
pub struct Migrated {
    /// The documents, as YAML, each with the name its file should have.
    pub documents: Vec<(String, String)>,
    /// Files that the documents name, to lie beside them.
    pub files: Vec<(String, Vec<u8>)>,
    /// Differences, in the order of the lines.
    pub notes: Vec<Note>,
    /// Lines that decide neither who may go where nor from which address.
    pub left_out: Vec<Note>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
    /// Effect of the difference.
    pub effect: Effect,
    /// Description of the difference, and what to do about it.
    pub text: String,
}

/// Difference between the documents and the configuration they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// The other program lets clients leave from an address that the documents cannot give them.
    OtherAddress,
    /// They let through what it denied.
    Wider,
    /// They deny what it let through, or something has to be added to them.
    Narrower,
    /// It is configured in another place, or always so.
    Elsewhere,
}

impl Effect {
    /// The word in front of a note.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::OtherAddress => "other address",
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

/// Compiles documents with the files beside them, as if they lay in one directory. Each text has the name its file should have.
fn compiled(documents: &[(String, String)], files: &[(String, Vec<u8>)]) -> Compiled {
    let mut change = Change::default();
    for (name, text) in documents {
        let file: Arc<str> = Arc::from(name.as_str());
        for (position, part) in document::split(text).into_iter().enumerate() {
            let bases = vec![PathBuf::new()];
            let (kind, text) = (document::kind(part.text), Arc::from(part.text));
            let source = document::source(kind, &file, text, part.first_line, bases);
            let content = document::content(&source);
            change.upserts.push(Document::of_file(position, source, content));
        }
    }
    for (name, bytes) in files {
        let reference = Reference::File(Arc::from(PathBuf::from(name)));
        change.facts.push((reference, Some(Fact::File(NamedFile::new(bytes.clone())))));
    }
    let mut store = Store::default();
    store.apply(change);
    compile(&store, None, 0)
}
