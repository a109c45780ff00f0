//! Names of fields in findings: `spec.ingress[0].address`.
//!
//! Deliberately absent: what it is called where a user wrote it in another form; the source of a document knows that.

use std::fmt::{self, Display};

/// The name of a field, written out only when a finding needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    parent: Option<&'a Self>,
    step: Step<'a>,
}

/// One step on the way to a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// The first name.
    Root(&'a str),
    Name(&'a str),
    /// Several names and positions, none of which a user chose.
    Way(&'a str),
    Index(usize),
}

impl<'a> Field<'a> {
    pub(crate) const SPEC: Field<'static> = Field { parent: None, step: Step::Root("spec") };
    pub(crate) const NAME: Field<'static> =
        Field { parent: None, step: Step::Root("metadata.name") };
    pub(crate) const CREATED: Field<'static> =
        Field { parent: None, step: Step::Root("metadata.creationTimestamp") };

    /// Builds the name of a field that was written out before.
    pub(crate) const fn root(name: &'a str) -> Self {
        Self { parent: None, step: Step::Root(name) }
    }

    pub(crate) fn name(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Name(name) }
    }

    /// Returns a field further down: `routes[0].match`. No part of it may be a user's.
    pub(crate) fn below(&'a self, way: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Way(way) }
    }

    pub(crate) fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }
}

impl Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        self.step.fmt(f)
    }
}

impl Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => f.write_str(name),
            Self::Name(name) if name.bytes().all(is_plain) => write!(f, ".{name}"),
            // A key of the user's may hold anything, and findings are printed on terminals.
            Self::Name(name) => write!(f, ".{name:?}"),
            Self::Way("") => Ok(()),
            Self::Way(way) => write!(f, ".{way}"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}
