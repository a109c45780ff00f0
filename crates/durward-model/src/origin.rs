//! Origin of a value, for people: a line of a file, or a field of an object.
//!
//! Origins never take part in comparison: moving a document does not change what is true, so it must not retire a tenant.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::resource::ResourceId;

/// Place a value came from. All origins are equal to each other; [`Origin::is_at`] compares places.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(into = "Written", from = "Written")]
pub enum Origin {
    /// No document: a default, or a test.
    #[default]
    BuiltIn,
    /// A line of a file.
    File {
        /// The file as the user named it.
        file: Arc<str>,
        /// The line, counted from 1; 0 when the whole file is meant.
        line: u32,
    },
    /// A field of an object in an API server.
    Object {
        /// The object.
        id: ResourceId,
        /// The field, `spec.ports[0]`; empty when the whole object is meant.
        field: Arc<str>,
    },
}

impl Origin {
    /// Builds the origin of what is written at `line` of `file`.
    #[must_use]
    pub fn new(file: &str, line: u32) -> Self {
        Self::File { file: Arc::from(file), line }
    }

    /// Returns the file; `None` for what no file holds.
    #[must_use]
    pub fn file(&self) -> Option<&Arc<str>> {
        match self {
            Self::File { file, .. } => Some(file),
            Self::BuiltIn | Self::Object { .. } => None,
        }
    }

    /// Returns the line in the file, counted from 1; 0 when unknown.
    #[must_use]
    pub fn line(&self) -> u32 {
        match self {
            Self::File { line, .. } => *line,
            Self::BuiltIn | Self::Object { .. } => 0,
        }
    }

    /// Returns whether both are the same place.
    #[must_use]
    pub fn is_at(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::BuiltIn, Self::BuiltIn) => true,
            (Self::File { file, line }, Self::File { file: other, line: other_line }) => {
                (file, line) == (other, other_line)
            }
            (Self::Object { id, field }, Self::Object { id: other, field: other_field }) => {
                (id, field) == (other, other_field)
            }
            _ => false,
        }
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
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::File { file, line: 0 } => f.write_str(file),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Object { id, field } if field.is_empty() => write!(f, "{id}"),
            Self::Object { id, field } => write!(f, "{id} {field}"),
        }
    }
}

/// Form of an origin in JSON. File and line are always there, as programs that know only files expect.
#[derive(Default, Serialize, Deserialize)]
struct Written {
    file: Option<Arc<str>>,
    line: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object: Option<ResourceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    field: Option<Arc<str>>,
}

impl From<Origin> for Written {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::BuiltIn => Self::default(),
            Origin::File { file, line } => Self { file: Some(file), line, ..Self::default() },
            Origin::Object { id, field } => {
                Self { object: Some(id), field: Some(field), ..Self::default() }
            }
        }
    }
}

impl From<Written> for Origin {
    fn from(written: Written) -> Self {
        match written {
            Written { object: Some(id), field, .. } => {
                Self::Object { id, field: field.unwrap_or_default() }
            }
            Written { file: Some(file), line, .. } => Self::File { file, line },
            Written { .. } => Self::BuiltIn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Kind;

    fn object(field: &str) -> Origin {
        let id = ResourceId::namespaced(Kind::PortMapping, "pay", "web");
        Origin::Object { id, field: Arc::from(field) }
    }

    #[test]
    fn a_place_is_shown_as_its_source_names_it() {
        let cases = [
            (Origin::BuiltIn, "built in"),
            (Origin::new("d/a.yaml", 7), "d/a.yaml:7"),
            (Origin::new("d/a.yaml", 0), "d/a.yaml"),
            (object("spec.ports[0]"), "PortMapping/pay/web spec.ports[0]"),
            (object(""), "PortMapping/pay/web"),
        ];

        for (origin, shown) in cases {
            assert_eq!(origin.to_string(), shown);
        }
    }

    #[test]
    fn places_are_told_apart_though_all_origins_are_equal() {
        let places =
            [Origin::BuiltIn, Origin::new("a", 1), Origin::new("a", 2), object("x"), object("y")];

        for (at, one) in places.iter().enumerate() {
            for (other_at, other) in places.iter().enumerate() {
                assert_eq!(one, other);
                assert_eq!(one.is_at(other), at == other_at, "{one} and {other}");
            }
        }
    }
}
