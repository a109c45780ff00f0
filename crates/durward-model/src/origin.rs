//! Where a value was written, for people: file and line.
//!
//! Origins never take part in comparison: moving a document does not change what is true, so it must not retire a tenant.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The file and line a value came from. All origins are equal to each other.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Origin {
    /// The file as the user named it; `None` for values no file holds (defaults, tests).
    pub file: Option<Arc<str>>,
    /// The line, counted from 1; 0 when unknown.
    pub line: u32,
}

impl Origin {
    /// An origin at `line` of `file`.
    #[must_use]
    pub fn new(file: &str, line: u32) -> Self {
        Self { file: Some(Arc::from(file)), line }
    }
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (None, _) => f.write_str("built in"),
            (Some(file), 0) => f.write_str(file),
            (Some(file), line) => write!(f, "{file}:{line}"),
        }
    }
}
