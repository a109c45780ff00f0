//! Lists of host names that are too long to be compared one by one.

use std::fmt;

use serde::{Serialize, Serializer};

/// Names from a file, sorted so that a lookup costs a binary search per label of the name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NameList {
    exact: Sorted,
    /// `.example.com`, without the dot: the name and all names below it.
    suffixes: Sorted,
    /// `*.example.com`, without `*.`: all names below it.
    below: Sorted,
}

/// A form in which a list has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedName<'a> {
    /// This name alone.
    Exact(&'a str),
    /// The name and all names below it.
    Suffix(&'a str),
    /// All names below it.
    Below(&'a str),
}

impl NameList {
    /// Returns whether the list has the name, or a name above it that stands for all below. `name` is in lower case.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let mut above = Some(name);
        let mut is_whole = true;
        while let Some(suffix) = above {
            if self.suffixes.has(suffix) || (!is_whole && self.below.has(suffix)) {
                return true;
            }
            is_whole = false;
            above = suffix.split_once('.').map(|(_, above)| above);
        }
        self.exact.has(name)
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len() + self.suffixes.len() + self.below.len()
    }

    /// Returns whether the list has no entry, and so matches no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One name that each of the first entries matches.
    pub fn examples(&self) -> impl Iterator<Item = String> {
        let below = self.below.iter().map(|parent| format!("name.{parent}"));
        self.exact.iter().chain(self.suffixes.iter()).map(str::to_owned).chain(below)
    }
}

impl<'a> FromIterator<ListedName<'a>> for NameList {
    fn from_iter<I: IntoIterator<Item = ListedName<'a>>>(names: I) -> Self {
        let (mut exact, mut suffixes, mut below) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            match name {
                ListedName::Exact(name) => exact.push(name),
                ListedName::Suffix(name) => suffixes.push(name),
                ListedName::Below(name) => below.push(name),
            }
        }
        Self {
            exact: Sorted::new(exact),
            suffixes: Sorted::new(suffixes),
            below: Sorted::new(below),
        }
    }
}

impl fmt::Debug for NameList {
    /// The number alone: a list may have a million entries.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NameList({})", self.len())
    }
}

impl Serialize for NameList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.len() as u64)
    }
}

/// Names in order in one allocation: eight bytes a name would double what short names take.
#[derive(Clone, Default, PartialEq, Eq)]
struct Sorted {
    text: Box<str>,
    /// The end of each name in `text`; a list file is smaller than 4 GiB.
    ends: Box<[u32]>,
}

impl Sorted {
    fn new(mut names: Vec<&str>) -> Self {
        names.sort_unstable();
        names.dedup();
        let mut text = String::with_capacity(names.iter().map(|name| name.len()).sum());
        let mut ends = Vec::with_capacity(names.len());
        for name in names {
            // What does not fit is left out of both, never cut.
            let Ok(end) = u32::try_from(text.len() + name.len()) else { break };
            text.push_str(name);
            ends.push(end);
        }
        Self { text: text.into(), ends: ends.into() }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn at(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start as usize..self.ends[index] as usize]
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|index| self.at(index))
    }

    fn has(&self, name: &str) -> bool {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.at(middle).cmp(name) {
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_matches_names_suffixes_and_what_is_below() {
        let list: NameList = [
            ListedName::Exact("pay.example"),
            ListedName::Suffix("bank.example"),
            ListedName::Below("hub.example"),
        ]
        .into_iter()
        .collect();

        for (name, wanted) in [
            ("pay.example", true),
            ("www.pay.example", false),
            ("bank.example", true),
            ("a.b.bank.example", true),
            ("evilbank.example", false),
            ("hub.example", false),
            ("x.hub.example", true),
            ("example", false),
        ] {
            assert_eq!(list.matches(name), wanted, "{name}");
        }
        assert_eq!(format!("{list:?}"), "NameList(3)");
    }

    #[test]
    fn an_empty_list_matches_nothing() {
        let list = NameList::default();

        assert!(list.is_empty() && !list.matches("example.com") && !list.matches(""));
    }

    #[test]
    fn every_one_of_many_names_is_found() {
        let names: Vec<String> = (0..5_000).map(|number| format!("n{number}.example")).collect();

        let list: NameList = names.iter().map(|name| ListedName::Suffix(name)).collect();

        assert!(names.iter().all(|name| list.matches(&format!("www.{name}"))));
        assert!(!list.matches("n5000.example") && list.len() == 5_000);
    }
}
