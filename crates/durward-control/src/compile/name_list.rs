//! Files of host names for egress rules (`hostsFile`), one name a line.

use std::fmt;

use durward_model::egress::{HostMatch, ListedName, NameList};
use durward_model::route::HostPattern;

use super::outward;

/// The largest file that is taken, in bytes.
pub(crate) const LARGEST: usize = 32 * 1024 * 1024;
/// The most names that one file may have. They take about 30 MiB.
pub(crate) const MOST: usize = 1_000_000;

/// A file that is no list of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListFault {
    TooLarge,
    TooMany,
    NotText,
    /// `*` among the names: the rule then needs no list.
    Any {
        line: usize,
    },
    BadName {
        line: usize,
        written: String,
        why: String,
    },
}

impl fmt::Display for ListFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(f, "is larger than {} MiB: split it", LARGEST / 1024 / 1024),
            Self::TooMany => write!(f, "has more than {MOST} names: split it"),
            Self::NotText => f.write_str("is not UTF-8 text"),
            Self::Any { line } => write!(
                f,
                "has `*` in line {line}, which is every name: write it as host and drop the file"
            ),
            Self::BadName { line, written, why } => {
                write!(f, "has in line {line} {written:?}, which {why}")
            }
        }
    }
}

/// The names in a file. A file without a name is an empty list.
pub(crate) fn read(bytes: &[u8]) -> Result<NameList, ListFault> {
    read_at_most(bytes, MOST)
}

fn read_at_most(bytes: &[u8], most: usize) -> Result<NameList, ListFault> {
    if bytes.len() > LARGEST {
        return Err(ListFault::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| ListFault::NotText)?;
    let mut matches = Vec::new();
    for (line, written) in (1..).zip(text.lines()) {
        let name = written.split('#').next().unwrap_or_default().trim();
        if name.is_empty() {
            continue;
        }
        if matches.len() == most {
            return Err(ListFault::TooMany);
        }
        let read = outward::host_match(name).map_err(|why| {
            let written = name.chars().take(80).collect();
            ListFault::BadName { line, written, why }
        })?;
        if read == HostMatch::Any {
            return Err(ListFault::Any { line });
        }
        matches.push(read);
    }
    Ok(matches.iter().filter_map(listed).collect())
}

fn listed(name: &HostMatch) -> Option<ListedName<'_>> {
    match name {
        HostMatch::Any => None,
        HostMatch::Suffix(name) => Some(ListedName::Suffix(name)),
        HostMatch::Pattern(HostPattern::Exact(name)) => Some(ListedName::Exact(name)),
        HostMatch::Pattern(HostPattern::Wildcard(name)) => Some(ListedName::Below(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_names_is_read_line_by_line() {
        let list = read(b"# banned\n.Bad.example # all of it\n\nworse.example\n*.below.example\n");

        let list = list.unwrap();
        assert_eq!(list.len(), 3);
        assert!(list.matches("x.bad.example") && list.matches("worse.example"));
        assert!(list.matches("x.below.example") && !list.matches("below.example"));
    }

    #[test]
    fn a_file_without_names_is_an_empty_list() {
        assert!(read(b"").unwrap().is_empty());
        assert!(read(b"# nothing today\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_name_is_an_error_with_its_line() {
        for (text, sentence) in [
            (&b"a.example\n192.0.2.1\n"[..], "has in line 2 \"192.0.2.1\", which is an address"),
            (b"a b\n", "has in line 1 \"a b\", which is not a host name"),
            (b"*\n", "has `*` in line 1"),
            (b"\xff\n", "is not UTF-8 text"),
        ] {
            let fault = read(text).unwrap_err().to_string();
            assert!(fault.starts_with(sentence), "{fault}");
        }
        assert_eq!(read_at_most(b"a.x\nb.x\nc.x\n", 2), Err(ListFault::TooMany));
        assert!(read_at_most(b"a.x\nb.x\n# c.x\n", 2).is_ok());
        assert_eq!(read(&vec![b'#'; LARGEST + 1]), Err(ListFault::TooLarge));
    }
}
