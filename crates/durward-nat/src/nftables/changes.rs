//! Changes from one ruleset to another: only what differs, in an order that the kernel accepts as one transaction.

use std::collections::BTreeMap;
use std::fmt;

use super::ruleset::{Chain, Element, Entry, Ruleset, Set};

/// Difference between two rulesets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Chains to create; their rules are in `rewritten`.
    pub new_chains: BTreeMap<String, Chain>,
    /// Counters to create.
    pub new_counters: Vec<String>,
    /// Sets to create; their elements are in `added`.
    pub new_sets: BTreeMap<String, Set>,
    /// Elements to remove, by set.
    pub removed: BTreeMap<String, Vec<(Vec<u8>, Element)>>,
    /// Chains whose rules are replaced, with the new rules.
    pub rewritten: BTreeMap<String, Chain>,
    /// Elements to add, by set.
    pub added: BTreeMap<String, Vec<(Vec<u8>, Element)>>,
    /// Chains to delete.
    pub old_chains: Vec<String>,
    /// Sets to delete.
    pub old_sets: Vec<String>,
    /// Counters to delete.
    pub old_counters: Vec<String>,
    /// True if something cannot be changed in place, so that the whole table must be created again.
    pub whole_table: bool,
    /// True if there was no table before.
    pub first: bool,
}

/// Detail of the listing of a new table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Elements; of chains and sets only their number.
    Elements,
    /// Everything.
    All,
}

impl Changes {
    /// Returns the changes from `current` to `desired`.
    #[must_use]
    pub fn between(current: &Ruleset, desired: &Ruleset) -> Self {
        let mut changes = Self::default();
        changes.compare_chains(current, desired);
        changes.compare_sets(current, desired);
        changes.new_counters = desired.counters.difference(&current.counters).cloned().collect();
        changes.old_counters = current.counters.difference(&desired.counters).cloned().collect();
        if changes.whole_table {
            changes = Self::anew(desired);
        }
        changes.first |= current.chains.is_empty() && !desired.chains.is_empty();
        changes
    }

    /// Returns the changes from any existing table to `desired`.
    #[must_use]
    pub fn anew(desired: &Ruleset) -> Self {
        Self { whole_table: true, ..Self::between(&Ruleset::default(), desired) }
    }

    /// Returns true if nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Applies these changes of elements to a ruleset as to the table.
    pub(crate) fn exchange_elements(&self, ruleset: &mut Ruleset) {
        for (set, elements) in &self.removed {
            if let Some(set) = ruleset.sets.get_mut(set) {
                elements.iter().for_each(|(key, _)| drop(set.elements.remove(key)));
            }
        }
        for (set, elements) in &self.added {
            if let Some(set) = ruleset.sets.get_mut(set) {
                set.elements.extend(elements.iter().cloned());
            }
        }
    }

    fn compare_chains(&mut self, current: &Ruleset, desired: &Ruleset) {
        for (name, chain) in &desired.chains {
            let known = current.chains.get(name);
            if known.is_some_and(|known| known.hook != chain.hook) {
                self.whole_table = true;
            }
            if known.is_none() {
                let bare = Chain { hook: chain.hook, rules: Vec::new() };
                self.new_chains.insert(name.clone(), bare);
            }
            if known.map_or(&[][..], |known| &known.rules) != chain.rules {
                self.rewritten.insert(name.clone(), chain.clone());
            }
        }
        let old = current.chains.keys().filter(|name| !desired.chains.contains_key(*name));
        self.old_chains = old.cloned().collect();
    }

    fn compare_sets(&mut self, current: &Ruleset, desired: &Ruleset) {
        let none = BTreeMap::new();
        for (name, set) in &desired.sets {
            let known = current.sets.get(name);
            if known.is_some_and(|known| !known.same_shape(set)) {
                self.whole_table = true;
            }
            if known.is_none() {
                self.new_sets
                    .insert(name.clone(), Set { elements: BTreeMap::new(), ..set.clone() });
            }
            let known = known.map_or(&none, |known| &known.elements);
            let removed = difference(known, &set.elements);
            if !removed.is_empty() {
                self.removed.insert(name.clone(), removed);
            }
            let added = difference(&set.elements, known);
            if !added.is_empty() {
                self.added.insert(name.clone(), added);
            }
        }
        for (name, set) in &current.sets {
            if !desired.sets.contains_key(name) {
                self.old_sets.push(name.clone());
                // A verdict element holds a reference to its chain: within one transaction the elements must go first.
                let elements = difference(&set.elements, &none);
                if !elements.is_empty() {
                    self.removed.insert(name.clone(), elements);
                }
            }
        }
    }
}

/// Returns the elements of `these` that are not equal in `others`. Both are sorted, so one walk is enough.
pub(crate) fn difference(
    these: &BTreeMap<Vec<u8>, Element>,
    others: &BTreeMap<Vec<u8>, Element>,
) -> Vec<(Vec<u8>, Element)> {
    let mut found = Vec::new();
    let mut others = others.iter().peekable();
    for (key, element) in these {
        while others.next_if(|(other, _)| *other < key).is_some() {}
        if others.peek().is_none_or(|(other, same)| *other != key || *same != element) {
            found.push((key.clone(), element.clone()));
        }
    }
    found
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, Detail::All, |_, key, element| Some(Entry { key, element }.to_string()))
    }
}

impl Changes {
    /// Formats one line per change; `words` describes an element of a set, or returns nothing for a set that is the same everywhere, whose elements
    /// are not listed when it is created.
    pub(crate) fn write(
        &self,
        f: &mut fmt::Formatter<'_>,
        detail: Detail,
        words: impl Fn(&str, &[u8], &Element) -> Option<String>,
    ) -> fmt::Result {
        if self.whole_table {
            writeln!(f, "! the table is made anew")?;
        }
        if self.first && detail == Detail::Elements {
            let (chains, sets) = (self.new_chains.len(), self.new_sets.len());
            let rules: usize = self.rewritten.values().map(|chain| chain.rules.len()).sum();
            let counters = self.new_counters.len();
            writeln!(f, "+ {chains} chains with {rules} rules, {sets} sets, {counters} counters")?;
        } else {
            self.write_program(f)?;
        }
        for (sign, elements) in [('-', &self.removed), ('+', &self.added)] {
            for (set, elements) in elements {
                for (key, element) in elements {
                    match words(set, key, element) {
                        Some(words) => writeln!(f, "{sign} {set} {words}")?,
                        None if self.new_sets.contains_key(set) => {}
                        None => writeln!(f, "{sign} {set} {}", Entry { key, element })?,
                    }
                }
            }
        }
        Ok(())
    }

    fn write_program(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, sign, names) in [
            ("counter", '+', &self.new_counters),
            ("chain", '-', &self.old_chains),
            ("set", '-', &self.old_sets),
            ("counter", '-', &self.old_counters),
        ] {
            names.iter().try_for_each(|name| writeln!(f, "{sign} {kind} {name}"))?;
        }
        for name in self.new_sets.keys() {
            writeln!(f, "+ set {name}")?;
        }
        for (name, chain) in &self.rewritten {
            let sign = if self.new_chains.contains_key(name) { '+' } else { '~' };
            writeln!(f, "{sign} chain {name}")?;
            for rule in &chain.rules {
                writeln!(f, "    {}", super::words::rule(rule))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ruleset::{Data, Value};
    use super::*;

    fn with(elements: &[(u8, &[u8])]) -> Ruleset {
        let mut set = Set::new(1, 0, Data::Bytes { len: 1, kind: 0 });
        for (key, value) in elements {
            let element = Element { end: None, value: Value::Bytes(value.to_vec()) };
            set.elements.insert(vec![*key], element);
        }
        Ruleset { sets: [("s".to_owned(), set)].into(), ..Ruleset::default() }
    }

    #[test]
    fn only_what_differs_is_changed() {
        let changes = Changes::between(
            &with(&[(1, b"a"), (2, b"b"), (4, b"d")]),
            &with(&[(1, b"a"), (2, b"x"), (3, b"c")]),
        );

        let keys = |part: &BTreeMap<String, Vec<(Vec<u8>, Element)>>| {
            part["s"].iter().map(|(key, _)| key[0]).collect::<Vec<_>>()
        };
        assert_eq!(keys(&changes.removed), [2, 4]);
        assert_eq!(keys(&changes.added), [2, 3]);
        assert!(changes.new_sets.is_empty() && changes.old_sets.is_empty());
    }

    #[test]
    fn equal_rulesets_need_no_change() {
        assert!(Changes::between(&with(&[(1, b"a")]), &with(&[(1, b"a")])).is_empty());
    }
}
