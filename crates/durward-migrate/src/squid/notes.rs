//! Notes on lines of a squid.conf.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::lines::Line;
use crate::{Effect, Note};

/// Notes as they come; what is true for several clients is said once.
#[derive(Debug, Default)]
pub(super) struct Notes {
    all: Vec<Note>,
    known: HashSet<Note>,
}

impl Notes {
    pub(super) fn wider(&mut self, line: &Line, text: impl Into<String>) {
        self.add(line, Effect::Wider, text.into());
    }

    pub(super) fn narrower(&mut self, line: &Line, text: impl Into<String>) {
        self.add(line, Effect::Narrower, text.into());
    }

    pub(super) fn other_address(&mut self, line: &Line, text: impl Into<String>) {
        self.add(line, Effect::OtherAddress, text.into());
    }

    pub(super) fn elsewhere(&mut self, line: &Line, text: impl Into<String>) {
        self.add(line, Effect::Elsewhere, text.into());
    }

    fn add(&mut self, line: &Line, effect: Effect, text: String) {
        let note = Note { file: Arc::clone(&line.file), line: line.number, effect, text };
        if self.known.insert(note.clone()) {
            self.all.push(note);
        }
    }

    pub(super) fn has(&self, effect: Effect) -> bool {
        self.all.iter().any(|note| note.effect == effect)
    }

    pub(super) fn in_order(self, lines: &[Line]) -> Vec<Note> {
        let places: BTreeMap<(&str, usize), usize> = lines
            .iter()
            .enumerate()
            .rev()
            .map(|(at, line)| ((&*line.file, line.number), at))
            .collect();
        let place = |note: &Note| places.get(&(&*note.file, note.line)).copied();
        let mut all = self.all;
        all.sort_by_key(|note| (place(note).unwrap_or(usize::MAX), note.effect));
        all
    }
}
