//! Which field is written at a place of a text, for findings about a document whose form is wrong.
//!
//! Deliberately absent: what the fields mean; any YAML has fields.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::DuplicateKeyPolicy;

use crate::field::Step;
use crate::place::{At, Place};

/// Element that a parser's position points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sought {
    /// A name.
    Name,
    /// A value.
    Value,
    /// Beginning of a mapping, or its first name.
    Mapping,
}

/// The names and positions that lead to a field, the outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Name(String),
    Index(usize),
}

impl Path {
    /// The way to what is written at `place` of a YAML text; `None` when the text is not YAML or nothing is there.
    pub(super) fn to(text: &str, place: Place, sought: Sought) -> Option<Self> {
        if place.line == 0 {
            return None;
        }
        let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
        let root: At<Node> = serde_saphyr::from_str_with_options(text, options).ok()?;
        let mut path = Self::default();
        path.seek(&root, place.start, sought).then_some(path)
    }

    /// Returns true if it leads to all of the text.
    pub(super) fn is_whole(&self) -> bool {
        self.0.is_empty()
    }

    /// The field of this name in it.
    pub(super) fn with(mut self, name: &str) -> Self {
        self.0.push(Part::Name(name.to_owned()));
        self
    }

    /// The steps of the way.
    pub(super) fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        self.0.iter().enumerate().map(|(at, part)| match part {
            Part::Name(name) if at == 0 => Step::Root(name),
            Part::Name(name) => Step::Name(name),
            Part::Index(index) => Step::Index(*index),
        })
    }

    fn seek(&mut self, node: &At<Node>, start: u32, sought: Sought) -> bool {
        let is_here = node.place.start == start;
        match &node.value {
            Node::Mapping(entries) => {
                for (name, value) in entries {
                    self.0.push(Part::Name(name.value.clone()));
                    if self.seek(value, start, sought)
                        || (sought == Sought::Name && name.place.start == start)
                    {
                        return true;
                    }
                    self.0.pop();
                }
                let begins = entries.first().is_some_and(|(name, _)| name.place.start == start);
                match sought {
                    Sought::Name => false,
                    Sought::Value => is_here,
                    Sought::Mapping => is_here || begins,
                }
            }
            Node::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    self.0.push(Part::Index(at));
                    if self.seek(item, start, sought) {
                        return true;
                    }
                    self.0.pop();
                }
                sought == Sought::Value && is_here
            }
            Node::Scalar => sought == Sought::Value && is_here,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps().try_for_each(|step| step.fmt(f))
    }
}

/// Whatever is written.
#[derive(Debug, Default)]
enum Node {
    Mapping(Vec<(At<String>, At<Self>)>),
    List(Vec<At<Self>>),
    #[default]
    Scalar,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Mapping(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Node, D::Error> {
        Node::deserialize(inner)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_at_a_place_is_named() {
        let text = "a: 1\nlist:\n  - {x: 5, 'odd name': [6, 7]}\n  - y: &z 8\nlast: *z\n";
        let at = |what: &str, sought| {
            let start = text.find(what).unwrap();
            let place = Place::within(text, &(start..start + 1));
            Path::to(text, place, sought).map(|path| path.to_string())
        };

        for (what, sought, field) in [
            ("1", Sought::Value, "a"),
            ("5", Sought::Value, "list[0].x"),
            ("7", Sought::Value, "list[0].\"odd name\"[1]"),
            ("- {x", Sought::Value, "list"),
            ("{x", Sought::Value, "list[0]"),
            ("x:", Sought::Name, "list[0].x"),
            ("x:", Sought::Mapping, "list[0]"),
            ("y:", Sought::Name, "list[1].y"),
            ("y:", Sought::Value, "list[1]"),
            ("y:", Sought::Mapping, "list[1]"),
            ("last", Sought::Name, "last"),
            ("a: 1", Sought::Mapping, ""),
        ] {
            assert_eq!(at(what, sought).as_deref(), Some(field), "{what}");
        }
        assert_eq!(Path::to("a: [", Place { line: 1, start: 3, len: 1 }, Sought::Value), None);
        assert_eq!(Path::to(text, Place::default(), Sought::Value), None);
    }
}
