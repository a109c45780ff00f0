//! A set of ports as ranges in order that do not touch.
//!
//! Deliberately absent: 0, which is no port to connect to.

/// The set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// Every port.
    pub(super) fn all() -> Self {
        Self(vec![(1, u16::MAX)])
    }

    /// The ports of words like `443` and `1025-65535`; the word that is neither otherwise.
    pub(super) fn parse(words: &[String]) -> Result<Self, &str> {
        let mut ranges = Vec::with_capacity(words.len());
        for word in words {
            let (from, to) = word.split_once('-').unwrap_or((word, word));
            match (from.parse::<u16>(), to.parse::<u16>()) {
                (Ok(from), Ok(to)) if from <= to && to > 0 => ranges.push((from.max(1), to)),
                _ => return Err(word),
            }
        }
        Ok(Self::of(ranges))
    }

    fn of(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (from, to) in ranges {
            match joined.last_mut() {
                Some((_, last)) if from <= last.saturating_add(1) => *last = (*last).max(to),
                _ => joined.push((from, to)),
            }
        }
        Self(joined)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_all(&self) -> bool {
        *self == Self::all()
    }

    /// All others.
    pub(super) fn complement(&self) -> Self {
        let mut next = 1;
        let mut others = Vec::with_capacity(self.0.len() + 1);
        for (from, to) in &self.0 {
            if *from > next {
                others.push((next, from - 1));
            }
            let Some(after) = to.checked_add(1) else { return Self(others) };
            next = after;
        }
        others.push((next, u16::MAX));
        Self(others)
    }

    /// Those in both.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        let pairs = self.0.iter().flat_map(|one| other.0.iter().map(move |two| (one, two)));
        let common = pairs.map(|(one, two)| (one.0.max(two.0), one.1.min(two.1)));
        Self::of(common.filter(|(from, to)| from <= to).collect())
    }

    /// As rules have them.
    pub(super) fn words(&self) -> Vec<String> {
        let word = |(from, to): &(u16, u16)| {
            if from == to { from.to_string() } else { format!("{from}-{to}") }
        };
        self.0.iter().map(word).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Ports {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        Ports::parse(&words).unwrap()
    }

    #[test]
    fn sets_are_sets() {
        assert_eq!(ports("443 80 81 1025-65535 2000").words(), ["80-81", "443", "1025-65535"]);
        assert_eq!(ports("80 443").complement().words(), ["1-79", "81-442", "444-65535"]);
        assert!(Ports::all().complement().is_empty() && Ports::default().complement().is_all());
        assert_eq!(ports("1-100 443").intersection(&ports("80-443")).words(), ["80-100", "443"]);
        assert!(Ports::parse(&["http".to_owned()]).is_err());
        assert!(Ports::parse(&["9-1".to_owned()]).is_err());
        assert!(Ports::parse(&["0".to_owned()]).is_err());
    }
}
