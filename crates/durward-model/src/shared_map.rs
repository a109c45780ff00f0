//! A sorted map of which copies are cheap: copies share their entries, chunk by chunk.
//!
//! A configuration of many tenants differs from the one before it in a few entries. Copying a map of the standard library would touch every entry,
//! and the counter behind every `Arc` in it, for each change.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Bound, Index, RangeBounds};
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Entries in a chunk at most; a chunk that becomes larger is cut in two.
const LARGEST: usize = 64;
/// A chunk that becomes smaller is joined to the next one, if both fit into one.
const SMALLEST: usize = LARGEST / 4;

/// Sorted map that shares its entries with its copies.
pub struct SharedMap<K, V> {
    /// None is empty; each has its keys in order, and all before those of the next chunk.
    chunks: Vec<Chunk<K, V>>,
    len: usize,
}

type Chunk<K, V> = Arc<Vec<(K, V)>>;

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<K, V> SharedMap<K, V> {
    /// Builds a map without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the entries in the order of their keys.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { chunks: self.chunks.iter(), front: [].iter(), back: [].iter(), left: self.len }
    }

    /// Returns the keys in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &K> + DoubleEndedIterator + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// Returns the values in the order of their keys.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> + DoubleEndedIterator + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// Returns whether both have the same entries because one is a copy of the other; other equal maps may be said to differ.
    #[must_use]
    pub fn is_copy_of(&self, other: &Self) -> bool {
        self.chunks.len() == other.chunks.len()
            && self.chunks.iter().zip(&other.chunks).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// Returns whether both have the same keys, and `same` is true of the values of each. Chunks that both share are skipped.
    pub fn is_same_by(&self, other: &Self, mut same: impl FnMut(&V, &V) -> bool) -> bool
    where
        K: PartialEq,
    {
        if self.len != other.len {
            return false;
        }
        let aligned = self.chunks.len() == other.chunks.len()
            && self.chunks.iter().zip(&other.chunks).all(|(one, two)| one.len() == two.len());
        let mut all = |mut one: Iter<'_, K, V>, two: Iter<'_, K, V>| {
            let mut two = two;
            one.all(|(key, value)| {
                two.next().is_some_and(|(other, known)| key == other && same(value, known))
            })
        };
        if !aligned {
            return all(self.iter(), other.iter());
        }
        self.chunks
            .iter()
            .zip(&other.chunks)
            .all(|(one, two)| Arc::ptr_eq(one, two) || all(Iter::of(one), Iter::of(two)))
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// Returns the keys that only one of both has, or of whose values `same` is not true, in order. Chunks that both have are not looked at, so that a copy with few
    /// changes costs little.
    pub fn differences<'m>(
        &'m self,
        other: &'m Self,
        mut same: impl FnMut(&V, &V) -> bool,
    ) -> Vec<&'m K> {
        let (mut one, mut two) = (Cursor::new(&self.chunks), Cursor::new(&other.chunks));
        let mut keys = Vec::new();
        loop {
            if let (Some(whole), Some(other)) = (one.at_start(), two.at_start())
                && Arc::ptr_eq(whole, other)
            {
                one.skip();
                two.skip();
                continue;
            }
            let (key, in_one, in_two) = match (one.entry(), two.entry()) {
                (None, None) => return keys,
                (Some((key, _)), None) => (key, true, false),
                (None, Some((key, _))) => (key, false, true),
                (Some((key, value)), Some((other, known))) => match key.cmp(other) {
                    Ordering::Less => (key, true, false),
                    Ordering::Greater => (other, false, true),
                    Ordering::Equal if same(value, known) => {
                        one.step();
                        two.step();
                        continue;
                    }
                    Ordering::Equal => (key, true, true),
                },
            };
            keys.push(key);
            if in_one {
                one.step();
            }
            if in_two {
                two.step();
            }
        }
    }

    /// Returns the value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// Returns an entry.
    #[must_use]
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.place(key))?;
        let at = chunk.binary_search_by(|(other, _)| other.borrow().cmp(key)).ok()?;
        chunk.get(at).map(|(key, value)| (key, value))
    }

    /// Returns whether there is an entry with this key.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).is_some()
    }

    /// Returns the entries whose keys are in a range, in order.
    pub fn range<Q, R>(&self, range: R) -> impl Iterator<Item = (&K, &V)>
    where
        Q: Ord + ?Sized,
        K: Borrow<Q>,
        R: RangeBounds<Q>,
    {
        let is_before = |key: &Q| match range.start_bound() {
            Bound::Unbounded => false,
            Bound::Included(start) => key < start,
            Bound::Excluded(start) => key <= start,
        };
        let first = self
            .chunks
            .partition_point(|chunk| chunk.last().is_some_and(|(key, _)| is_before(key.borrow())));
        let start = self
            .chunks
            .get(first)
            .map_or(0, |chunk| chunk.partition_point(|(key, _)| is_before(key.borrow())));
        let rest = self.chunks.get(first..).unwrap_or_default().iter().flat_map(|chunk| &**chunk);
        let within = move |(key, _): &&(K, V)| match range.end_bound() {
            Bound::Unbounded => true,
            Bound::Included(end) => key.borrow() <= end,
            Bound::Excluded(end) => key.borrow() < end,
        };
        rest.skip(start).take_while(within).map(|(key, value)| (key, value))
    }

    /// Returns the position of the chunk that has the key, or would have it.
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let starts_before =
            |chunk: &Chunk<K, V>| chunk.first().is_some_and(|(first, _)| first.borrow() <= key);
        // A map is often filled in order.
        if self.chunks.last().is_some_and(starts_before) {
            return self.chunks.len() - 1;
        }
        self.chunks.partition_point(starts_before).saturating_sub(1)
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Puts a value in; returns the one that was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (place, count) = (self.place(&key), self.chunks.len());
        let Some(chunk) = self.chunks.get_mut(place) else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        match chunk.binary_search_by(|(other, _)| other.cmp(&key)) {
            Ok(at) => Some(std::mem::replace(&mut Arc::make_mut(chunk)[at].1, value)),
            Err(at) => {
                self.len += 1;
                // Filled in order, chunks are full, not half full.
                if at == LARGEST && place + 1 == count {
                    self.chunks.push(Arc::new(vec![(key, value)]));
                    return None;
                }
                let entries = Arc::make_mut(chunk);
                entries.insert(at, (key, value));
                if entries.len() > LARGEST {
                    let rest = entries.split_off(entries.len() / 2);
                    self.chunks.insert(place + 1, Arc::new(rest));
                }
                None
            }
        }
    }

    /// Takes a value out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key);
        let chunk = self.chunks.get_mut(place)?;
        let at = chunk.binary_search_by(|(other, _)| other.borrow().cmp(key)).ok()?;
        let entries = Arc::make_mut(chunk);
        let (_, value) = entries.remove(at);
        self.len -= 1;
        let left = entries.len();
        if left == 0 {
            self.chunks.remove(place);
        } else if left < SMALLEST {
            self.join(place);
        }
        Some(value)
    }

    /// Returns the value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key);
        let chunk = self.chunks.get_mut(place)?;
        let at = chunk.binary_search_by(|(other, _)| other.borrow().cmp(key)).ok()?;
        Arc::make_mut(chunk).get_mut(at).map(|(_, value)| value)
    }

    /// Keeps the entries of which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        let gone: Vec<K> = self
            .iter()
            .filter(|(key, value)| !keep(key, value))
            .map(|(key, _)| key.clone())
            .collect();
        gone.iter().for_each(|key| drop(self.remove(key)));
    }

    /// Joins a chunk with the next one, if both fit into one.
    fn join(&mut self, place: usize) {
        let sizes = [place, place + 1].map(|at| self.chunks.get(at).map(|chunk| chunk.len()));
        if let [Some(one), Some(next)] = sizes
            && one + next <= LARGEST
        {
            let next = self.chunks.remove(place + 1);
            Arc::make_mut(&mut self.chunks[place]).extend_from_slice(&next);
        }
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<T: IntoIterator<Item = (K, V)>>(&mut self, entries: T) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<K: Ord + Clone, V: Clone, const N: usize> From<[(K, V); N]> for SharedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    /// Returns the value of a key.
    ///
    /// # Panics
    /// Without an entry of this key.
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("the map has the key")
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.is_same_by(other, V::eq)
    }
}

impl<K: Eq, V: Eq> Eq for SharedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: Serialize, V: Serialize> Serialize for SharedMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}

impl<'a, K, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

/// Place in a map.
struct Cursor<'a, K, V> {
    chunks: &'a [Chunk<K, V>],
    /// Position in the first of these chunks.
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn new(chunks: &'a [Chunk<K, V>]) -> Self {
        Self { chunks, at: 0 }
    }

    /// Returns the chunk that begins here.
    fn at_start(&self) -> Option<&'a Chunk<K, V>> {
        self.chunks.first().filter(|_| self.at == 0)
    }

    fn entry(&self) -> Option<(&'a K, &'a V)> {
        self.chunks.first()?.get(self.at).map(|(key, value)| (key, value))
    }

    fn step(&mut self) {
        self.at += 1;
        if self.chunks.first().is_some_and(|chunk| self.at == chunk.len()) {
            self.skip();
        }
    }

    fn skip(&mut self) {
        self.chunks = self.chunks.get(1..).unwrap_or_default();
        self.at = 0;
    }
}

/// Entries of a map in the order of their keys.
pub struct Iter<'a, K, V> {
    chunks: std::slice::Iter<'a, Chunk<K, V>>,
    front: std::slice::Iter<'a, (K, V)>,
    back: std::slice::Iter<'a, (K, V)>,
    left: usize,
}

impl<'a, K, V> Iter<'a, K, V> {
    fn of(chunk: &'a Chunk<K, V>) -> Self {
        Self { chunks: [].iter(), front: chunk.iter(), back: [].iter(), left: chunk.len() }
    }
}

impl<K, V> fmt::Debug for Iter<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("left", &self.left).finish_non_exhaustive()
    }
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        let Self { chunks, front, back, left } = self;
        Self { chunks: chunks.clone(), front: front.clone(), back: back.clone(), left: *left }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.front.next() {
                self.left -= 1;
                return Some((key, value));
            }
            match self.chunks.next() {
                Some(chunk) => self.front = chunk.iter(),
                None => {
                    let (key, value) = self.back.next()?;
                    self.left -= 1;
                    return Some((key, value));
                }
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K, V> DoubleEndedIterator for Iter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.back.next_back() {
                self.left -= 1;
                return Some((key, value));
            }
            match self.chunks.next_back() {
                Some(chunk) => self.back = chunk.iter(),
                None => {
                    let (key, value) = self.front.next_back()?;
                    self.left -= 1;
                    return Some((key, value));
                }
            }
        }
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Every chunk is within its bounds, and all keys are in order.
    fn is_sound(map: &SharedMap<u16, u32>) -> bool {
        let sizes = map.chunks.iter().map(|chunk| chunk.len());
        let keys: Vec<_> = map.keys().collect();
        sizes.clone().all(|size| (1..=LARGEST).contains(&size))
            && sizes.sum::<usize>() == map.len()
            && keys.is_sorted_by(|one, next| one < next)
    }

    proptest! {
        #[test]
        fn a_map_has_what_a_map_of_the_standard_library_has(
            edits in prop::collection::vec((prop::bool::weighted(0.6), 0..400_u16, any::<u32>()), 0..1500),
            (first, last) in (0..400_u16, 0..400_u16),
        ) {
            let (mut map, mut expected) = (SharedMap::new(), BTreeMap::new());
            for (puts_in, key, value) in edits {
                let (former, expected_former) = if puts_in {
                    (map.insert(key, value), expected.insert(key, value))
                } else {
                    (map.remove(&key), expected.remove(&key))
                };
                prop_assert_eq!(former, expected_former);
            }

            prop_assert!(is_sound(&map), "{:?}", map);
            prop_assert!(map.iter().eq(&expected));
            prop_assert!(map.iter().rev().eq(expected.iter().rev()));
            prop_assert_eq!(map.len(), expected.len());
            for key in 0..400 {
                prop_assert_eq!(map.get(&key), expected.get(&key));
            }
            prop_assert!(map.range(first..).eq(expected.range(first..)));
            if first <= last {
                prop_assert!(map.range(first..=last).eq(expected.range(first..=last)));
                prop_assert!(map.range(first..last).eq(expected.range(first..last)));
            }
            let same: SharedMap<_, _> = expected.clone().into_iter().collect();
            prop_assert_eq!(&map, &same);
            expected.retain(|key, _| key % 3 == 0);
            map.retain(|key, _| key % 3 == 0);
            prop_assert!(is_sound(&map) && map.iter().eq(&expected));
        }
    }

    proptest! {
        #[test]
        fn differences_are_the_keys_that_one_lacks_or_that_have_another_value(
            entries in prop::collection::btree_map(0..600_u16, 0..3_u32, 0..500),
            edits in prop::collection::vec((prop::bool::ANY, 0..600_u16, 0..3_u32), 0..60),
        ) {
            let original: SharedMap<u16, u32> = entries.clone().into_iter().collect();
            let (mut copy, mut expected) = (original.clone(), entries.clone());
            for (puts_in, key, value) in edits {
                if puts_in {
                    copy.insert(key, value);
                    expected.insert(key, value);
                } else {
                    copy.remove(&key);
                    expected.remove(&key);
                }
            }

            let differ: Vec<u16> = copy.differences(&original, u32::eq).into_iter().copied().collect();

            let all = (0..600).filter(|key| entries.get(key) != expected.get(key));
            prop_assert_eq!(differ, all.collect::<Vec<u16>>());
        }
    }

    #[test]
    fn of_a_copy_only_chunks_that_differ_are_compared() {
        let original: SharedMap<u32, u32> = (0..10_000).map(|at| (at, at)).collect();
        let mut copy = original.clone();
        copy.insert(20_000, 1);
        copy.insert(4_000, 1);
        copy.remove(&77);
        let mut compared = 0;

        let differ = copy.differences(&original, |one, other| {
            compared += 1;
            one == other
        });

        assert_eq!(differ, [&77, &4_000, &20_000]);
        assert!(compared < 4 * LARGEST, "{compared} of 10000 are compared");
    }

    #[test]
    fn a_copy_keeps_its_entries_when_the_other_changes() {
        let original: SharedMap<u16, u32> = (0..1000).map(|at| (at, u32::from(at))).collect();
        let mut copy = original.clone();
        assert!(copy.is_copy_of(&original));

        copy.insert(500, 7);
        copy.remove(&1);
        *copy.get_mut(&2).unwrap() = 9;

        assert_eq!((original[&500], original.len(), original[&2]), (500, 1000, 2));
        assert_eq!((copy[&500], copy.get(&1), copy[&2]), (7, None, 9));
        assert!(!copy.is_copy_of(&original) && copy != original);
        let shared = copy
            .chunks
            .iter()
            .filter(|one| original.chunks.iter().any(|other| Arc::ptr_eq(one, other)));
        assert!(shared.count() + 3 >= original.chunks.len(), "a change copies a chunk, not all");
    }

    #[test]
    fn both_ends_meet_in_the_middle() {
        let map: SharedMap<u16, ()> = (0..300).map(|at| (at, ())).collect();
        let mut keys = map.keys();
        let mut seen = Vec::new();

        while let (Some(first), last) = (keys.next(), keys.next_back()) {
            seen.push(*first);
            seen.extend(last);
        }

        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..300));
    }
}
