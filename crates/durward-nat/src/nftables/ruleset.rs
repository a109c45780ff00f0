//! Contents of one nftables table: chains of rules, sets and maps with their elements, counters.
//!
//! Handles, positions and statistics are left out: two rulesets are equal if they treat all packets alike.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::expression::{Expression, Hex, Verdict};

/// Contents of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
    /// Named counters.
    pub counters: BTreeSet<String>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Hook of a base chain; `None` for a chain that others jump to.
    pub hook: Option<Hook>,
    /// Rules in order.
    pub rules: Vec<Vec<Expression>>,
}

/// Hook of a base chain. The policy is always to accept; rules decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter`, `nat` or `route`.
    pub kind: &'static str,
    /// Netfilter hook.
    pub point: Point,
    /// Priority; lower ones come first.
    pub priority: i32,
}

/// Netfilter hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Packets that have arrived.
    Prerouting,
    /// Packets for this host.
    Input,
    /// Packets for another host.
    Forward,
    /// Packets from this host.
    Output,
    /// Packets about to leave.
    Postrouting,
}

/// Set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Bytes of a key.
    pub key_len: u32,
    /// Type of the key for listing programs such as `nft`.
    pub key_type: u32,
    /// Data of an element.
    pub data: Data,
    /// True if elements are ranges of keys.
    pub interval: bool,
    /// True if each element counts its packets.
    pub counting: bool,
    /// Largest number of elements, which lets the kernel choose its fastest kind of table; 0 for no limit.
    pub size: u32,
    /// Elements, by key or first key.
    pub elements: BTreeMap<Vec<u8>, Element>,
}

/// Data of a set's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing: a set.
    Nothing,
    /// A verdict.
    Verdict,
    /// Bytes.
    Bytes {
        /// Length in bytes.
        len: u32,
        /// Type of the data for listing programs such as `nft`.
        kind: u32,
    },
    /// A named counter.
    Counter,
}

/// An element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// First key after the element, in an interval set; `None` if the element reaches to the last key of all.
    pub end: Option<Vec<u8>>,
    /// Data of the element.
    pub value: Value,
}

/// Data of an element.
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
    /// Returns the kernel's number of the hook.
    pub(super) const fn number(self) -> u32 {
        match self.point {
            Point::Prerouting => 0,
            Point::Input => 1,
            Point::Forward => 2,
            Point::Output => 3,
            Point::Postrouting => 4,
        }
    }

    /// Returns the hook of these numbers, unless Durward has no such chains.
    pub(super) fn from_numbers(kind: &str, number: u32, priority: i32) -> Option<Self> {
        let kind = ["filter", "nat", "route"].into_iter().find(|known| *known == kind)?;
        let points =
            [Point::Prerouting, Point::Input, Point::Forward, Point::Output, Point::Postrouting];
        let point = *points.get(number as usize)?;
        Some(Self { kind, point, priority })
    }
}

impl Set {
    /// Creates an empty set with keys of this length.
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

    /// Makes elements ranges of keys.
    #[must_use]
    pub fn interval(mut self) -> Self {
        self.interval = true;
        self
    }

    /// Makes each element count its packets.
    #[must_use]
    pub fn counting(mut self) -> Self {
        self.counting = true;
        self
    }

    /// Limits the number of elements.
    #[must_use]
    pub const fn sized(mut self, size: u32) -> Self {
        self.size = size;
        self
    }

    /// Returns true if the sets differ in elements only.
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

/// Rule formatted on one line.
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

/// Element formatted on one line.
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
