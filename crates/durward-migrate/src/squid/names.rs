//! Sets of host names as `dstdomain` has them: names, and names with all below them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    /// `.example.com`: the name and all names below it.
    pub(super) below: bool,
}

impl Entry {
    /// The entry as both Squid and rules write it.
    pub(super) fn written(&self) -> String {
        format!("{}{}", if self.below { "." } else { "" }, self.name)
    }
}

/// A set of names, and of addresses that are asked for as such.
#[derive(Clone, Debug, Default)]
pub(super) struct NameSet {
    entries: Vec<Entry>,
    /// Which forms of a name there are: itself, and with all below it.
    forms: HashMap<Arc<str>, (bool, bool)>,
    pub(super) literals: BTreeSet<IpAddr>,
}

impl PartialEq for NameSet {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries && self.literals == other.literals
    }
}

impl Eq for NameSet {}

impl FromIterator<Entry> for NameSet {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut set = Self::default();
        set.extend(entries);
        set
    }
}

impl NameSet {
    pub(super) fn extend(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            let forms = self.forms.entry(Arc::clone(&entry.name)).or_default();
            let form = if entry.below { &mut forms.1 } else { &mut forms.0 };
            if !std::mem::replace(form, true) {
                self.entries.push(entry);
            }
        }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns whether no name is in it; it may have addresses.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.forms.get(name).is_some_and(|forms| forms.0) || self.has_all_below(name)
    }

    fn has_all_below(&self, name: &str) -> bool {
        let mut above = Some(name);
        while let Some(suffix) = above {
            if self.forms.get(suffix).is_some_and(|forms| forms.1) {
                return true;
            }
            above = suffix.split_once('.').map(|(_, above)| above);
        }
        false
    }

    /// Returns whether all names that the entry means are in it.
    fn covers(&self, entry: &Entry) -> bool {
        if entry.below { self.has_all_below(&entry.name) } else { self.has(&entry.name) }
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.extend(other.entries.iter().cloned());
        all.literals.extend(&other.literals);
        all
    }

    /// Names in both.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        let mine = self.entries.iter().filter(|entry| other.covers(entry));
        let theirs = other.entries.iter().filter(|entry| self.covers(entry));
        let mut common: Self = mine.chain(theirs).cloned().collect();
        common.literals = self.literals.intersection(&other.literals).copied().collect();
        common
    }

    pub(super) fn touches(&self, other: &Self) -> bool {
        self.entries.iter().any(|entry| other.covers(entry))
            || other.entries.iter().any(|entry| self.covers(entry))
            || !self.literals.is_disjoint(&other.literals)
    }

    /// Returns the difference to `other`, and the names of `other` that remaining entries still cover: those must be denied as well.
    pub(super) fn minus(&self, other: &Self) -> (Self, Self) {
        let left = self.entries.iter().filter(|entry| !other.covers(entry));
        let mut left: Self = left.cloned().collect();
        left.literals = self.literals.difference(&other.literals).copied().collect();
        let inner = other.entries.iter().filter(|entry| left.covers(entry));
        let inner = inner.cloned().collect();
        (left, inner)
    }
}

/// The form of a name that DNS and clients use, of one that is written in other letters (RFC 3492).
pub(super) fn a_labels(name: &str) -> Option<String> {
    let label = |label: &str| {
        if label.is_ascii() {
            return Some(label.to_ascii_lowercase());
        }
        let lower: String = label.chars().flat_map(char::to_lowercase).collect();
        punycode(&lower).map(|coded| format!("xn--{coded}"))
    };
    let labels: Option<Vec<String>> = name.split('.').map(label).collect();
    labels.map(|labels| labels.join("."))
}

/// RFC 3492 section 6.3.
fn punycode(label: &str) -> Option<String> {
    const BASE: u32 = 36;
    let (mut next, mut delta, mut bias) = (128u32, 0u32, 72u32);
    let mut coded: String = label.chars().filter(char::is_ascii).collect();
    let basic = u32::try_from(coded.len()).ok()?;
    let total = u32::try_from(label.chars().count()).ok()?;
    let mut done = basic;
    if basic > 0 {
        coded.push('-');
    }
    while done < total {
        let least = label.chars().map(u32::from).filter(|code| *code >= next).min()?;
        delta = delta.checked_add((least - next).checked_mul(done + 1)?)?;
        next = least;
        for code in label.chars().map(u32::from) {
            if code < next {
                delta = delta.checked_add(1)?;
            }
            if code != next {
                continue;
            }
            let (mut rest, mut step) = (delta, BASE);
            loop {
                let threshold = step.saturating_sub(bias).clamp(1, 26);
                if rest < threshold {
                    break;
                }
                coded.push(digit(threshold + (rest - threshold) % (BASE - threshold)));
                rest = (rest - threshold) / (BASE - threshold);
                step += BASE;
            }
            coded.push(digit(rest));
            bias = adapted(delta, done + 1, done == basic);
            delta = 0;
            done += 1;
        }
        delta = delta.checked_add(1)?;
        next += 1;
    }
    Some(coded)
}

fn digit(value: u32) -> char {
    let code = if value < 26 { u32::from(b'a') + value } else { u32::from(b'0') + value - 26 };
    char::from_u32(code).unwrap_or('a')
}

fn adapted(delta: u32, points: u32, first: bool) -> u32 {
    let mut delta = if first { delta / 700 } else { delta / 2 };
    delta += delta / points;
    let mut bias = 0;
    while delta > 455 {
        delta /= 35;
        bias += 36;
    }
    bias + 36 * delta / (delta + 38)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> NameSet {
        let entry = |word: &str| Entry {
            name: Arc::from(word.trim_start_matches('.')),
            below: word.starts_with('.'),
        };
        text.split_whitespace().map(entry).collect()
    }

    fn words(set: &NameSet) -> String {
        let words: Vec<String> = set.entries().iter().map(Entry::written).collect();
        words.join(" ")
    }

    #[test]
    fn sets_of_names_are_sets() {
        let (sites, bad) = (set(".a.example b.example"), set("x.a.example .b.example"));

        assert!(sites.has("a.example") && sites.has("x.a.example") && !sites.has("c.b.example"));
        assert_eq!(words(&sites.intersection(&bad)), "b.example x.a.example");
        let (left, inner) = sites.minus(&bad);
        assert_eq!((words(&left), words(&inner)), (".a.example".into(), "x.a.example".into()));
        assert!(sites.touches(&bad) && !sites.touches(&set("z.example")));
    }

    #[test]
    fn names_in_other_letters_have_a_form_in_ascii() {
        for (name, wanted) in [
            ("bücher.example", "xn--bcher-kva.example"),
            ("München.de", "xn--mnchen-3ya.de"),
            ("例え.jp", "xn--r8jz45g.jp"),
            ("faß.de", "xn--fa-hia.de"),
            ("плохой.example", "xn--i1adjac2b.example"),
            ("plain.example", "plain.example"),
        ] {
            let read = a_labels(name).unwrap();
            assert_eq!(read, wanted, "{name}");
        }
    }
}
