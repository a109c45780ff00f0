//! A value together with where it is written, so that every finding can point at it.
//!
//! Deliberately absent: the file; a place is relative to its document's text, which knows the file and its first line.

use std::cmp::Ordering;
use std::ops::{Deref, Range};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_saphyr::{Location, Spanned};

/// A place in a document's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The line, counted from 1 within the document; 0 when unknown.
    pub line: u32,
    /// The first byte within the document.
    pub start: u32,
    /// Length in bytes; 0 if only the beginning is known.
    pub len: u32,
}

impl Place {
    /// The bytes of `text` at `start..start + len`, with their line counted.
    #[must_use]
    pub fn within(text: &str, range: &Range<usize>) -> Self {
        let before = text.get(..range.start).unwrap_or(text);
        Self {
            line: small(before.matches('\n').count() + 1),
            start: small(range.start),
            len: small(range.len()),
        }
    }

    /// Returns the text at this position; `None` if only the beginning is known.
    #[must_use]
    pub fn of(self, text: &str) -> Option<&str> {
        let (start, len) = (self.start as usize, self.len as usize);
        text.get(start..start + len).filter(|_| len > 0)
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        let narrow = |number: Option<u64>| number.and_then(|at| u32::try_from(at).ok());
        let Some(start) = narrow(location.span().byte_offset()) else {
            return Self { line: narrow(Some(location.line())).unwrap_or(0), start: 0, len: 0 };
        };
        Self {
            line: narrow(Some(location.line())).unwrap_or(0),
            start,
            len: narrow(location.span().byte_len()).unwrap_or(0),
        }
    }
}

/// A value and its place. Comparison looks at the value only.
#[derive(Clone, Copy, Debug, Default)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Position in the text.
    pub place: Place,
}

impl<T> At<T> {
    /// `value`, written at `place`.
    pub const fn new(value: T, place: Place) -> Self {
        Self { value, place }
    }
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for At<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for At<T> {}

impl<T: PartialOrd> PartialOrd for At<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl<T: Ord> Ord for At<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.value.cmp(&other.value)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(deserializer)?;
        Ok(Self { value: spanned.value, place: Place::from(spanned.referenced) })
    }
}

impl<T: Serialize> Serialize for At<T> {
    /// Writes the value alone: a place means nothing in another text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}
