//! What one table holds: chains of rules, sets and maps with their elements, counters.
//!
//! Deliberately absent: handles, positions and statistics; two rulesets are equal when packets cannot tell them apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::expression::{Expression, Hex, Verdict};

/// The contents of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// The sets and maps by name.
    pub sets: BTreeMap<String, Set>,
    /// The named counters.
    pub counters: BTreeSet<String>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter it; `None` for one that others jump to.
    pub hook: Option<Hook>,
    /// Its rules in order.
    pub rules: Vec<Vec<Expression>>,
}

/// Where packets enter a chain. The policy is always to accept; rules decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter`, `nat` or `route`.
    pub kind: &'static str,
    /// The point in the packet's way.
    pub point: Point,
    /// Lower ones come first.
    pub priority: i32,
}

/// A point in a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Arrived.
    Prerouting,
    /// For this host.
    Input,
    /// For another host.
    Forward,
    /// From this host.
    Output,
    /// About to leave.
    Postrouting,
}

/// A set or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Bytes of a key.
    pub key_len: u32,
    /// What listing programs take the key for.
    pub key_type: u32,
    /// What an element holds.
    pub data: Data,
    /// Whether elements are ranges of keys.
    pub interval: bool,
    /// Whether each element counts its packets.
    pub counting: bool,
    /// The most elements it can ever have, which lets the kernel take its fastest kind of table; 0 when it grows.
    pub size: u32,
    /// The elements, by key or first key.
    pub elements: BTreeMap<Vec<u8>, Element>,
}

/// What the elements of a set hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing: a set.
    Nothing,
    /// A verdict.
    Verdict,
    /// Bytes.
    Bytes {
        /// How many.
        len: u32,
        /// What listing programs take them for.
        kind: u32,
    },
    /// A named counter.
    Counter,
}

/// An element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// In an interval set the first key behind the element; `None` when it reaches to the last key of all.
    pub end: Option<Vec<u8>>,
    /// What it holds.
    pub value: Value,
}

/// What an element holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Nothing,
    /// A verdict.
    Verdict(Verdict),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A named counter.
    Counter(String),
}

impl Hook {
    /// The kernel's numbers of the hook.
    pub(super) const fn number(self) -> u32 {
        match self.point {
            Point::Prerouting => 0,
            Point::Input => 1,
            Point::Forward => 2,
            Point::Output => 3,
            Point::Postrouting => 4,
        }
    }

    /// The hook of these numbers, unless Durward has no such chains.
    pub(super) fn from_numbers(kind: &str, number: u32, priority: i32) -> Option<Self> {
        let kind = ["filter", "nat", "route"].into_iter().find(|known| *known == kind)?;
        let points =
            [Point::Prerouting, Point::Input, Point::Forward, Point::Output, Point::Postrouting];
        let point = *points.get(number as usize)?;
        Some(Self { kind, point, priority })
    }
}

impl Set {
    /// An empty set of keys of this length.
    #[must_use]
    pub const fn new(key_len: u32, key_type: u32, data: Data) -> Self {
        Self {
            key_len,
            key_type,
            data,
            interval: false,
            counting: false,
            size: 0,
            elements: BTreeMap::new(),
        }
    }

    /// The same, with ranges as elements.
    #[must_use]
    pub fn interval(mut self) -> Self {
        self.interval = true;
        self
    }

    /// The same, counting by element.
    #[must_use]
    pub fn counting(mut self) -> Self {
        self.counting = true;
        self
    }

    /// The same, with room for so many elements and no more.
    #[must_use]
    pub const fn sized(mut self, size: u32) -> Self {
        self.size = size;
        self
    }

    /// Whether both differ in nothing but elements.
    #[must_use]
    pub fn same_shape(&self, other: &Self) -> bool {
        self.key_len == other.key_len
            && self.data_class() == other.data_class()
            && self.interval == other.interval
            && self.counting == other.counting
            && self.size == other.size
    }

    const fn data_class(&self) -> (u8, u32) {
        match self.data {
            Data::Nothing => (0, 0),
            Data::Verdict => (1, 0),
            Data::Bytes { len, .. } => (2, len),
            Data::Counter => (3, 0),
        }
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for counter in &self.counters {
            writeln!(f, "counter {counter}")?;
        }
        for (name, set) in &self.sets {
            writeln!(f, "set {name} ({} elements)", set.elements.len())?;
            for (key, element) in &set.elements {
                writeln!(f, "  {}", Entry { key, element })?;
            }
        }
        for (name, chain) in &self.chains {
            match chain.hook {
                Some(hook) => {
                    writeln!(f, "chain {name} ({} {:?} {})", hook.kind, hook.point, hook.priority)?
                }
                None => writeln!(f, "chain {name}")?,
            }
            for rule in &chain.rules {
                writeln!(f, "  {}", Rule(rule))?;
            }
        }
        Ok(())
    }
}

/// A rule on one line.
pub(crate) struct Rule<'a>(pub(crate) &'a [Expression]);

impl fmt::Display for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, expression) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{expression}")?;
        }
        Ok(())
    }
}

/// An element on one line.
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) element: &'a Element,
}

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Hex(self.key))?;
        if let Some(end) = &self.element.end {
            write!(f, " ..< {}", Hex(end))?;
        }
        match &self.element.value {
            Value::Nothing => Ok(()),
            Value::Verdict(verdict) => write!(f, " : {verdict}"),
            Value::Bytes(bytes) => write!(f, " : {}", Hex(bytes)),
            Value::Counter(name) => write!(f, " : counter {name}"),
        }
    }
}
