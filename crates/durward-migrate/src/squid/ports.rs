//! A set of ports as ranges in order that do not touch; 0 is no port to connect to.

/// The set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// Every port.
    pub(super) fn all() -> Self {
        Self(vec![(1, u16::MAX)])
    }

    /// The ports from one to another.
    pub(super) fn range(from: u16, to: u16) -> Self {
        Self(vec![(from, to)])
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

    pub(super) fn is_all(&self) -> bool {
        *self == Self::all()
    }

    pub(super) fn has(&self, port: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&port))
    }

    /// The first port of each range, and the first one after it: between two of them nothing changes.
    pub(super) fn edges(&self) -> impl Iterator<Item = u16> {
        self.0.iter().flat_map(|(from, to)| [Some(*from), to.checked_add(1)]).flatten()
    }

    /// Those in either.
    pub(super) fn union(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied().collect())
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
        assert_eq!(ports("80 443").union(&ports("81-442")).words(), ["80-443"]);
        assert!(ports("1-65535").is_all() && !ports("443").is_all());
        assert!(ports("80 443").has(443) && !ports("80 443").has(81));
        let edges: Vec<u16> = ports("80-81 65535").edges().collect();
        assert_eq!(edges, [80, 82, 65535]);
        assert!(Ports::parse(&["http".to_owned()]).is_err());
        assert!(Ports::parse(&["9-1".to_owned()]).is_err());
        assert!(Ports::parse(&["0".to_owned()]).is_err());
    }
}
