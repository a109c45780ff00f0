//! Kernel parameters that forwarding needs, and their former values.
//!
//! Former values are kept in a set of the nftables table, so that they outlive this process and are deleted with the table.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::interface::Interfaces;
use crate::nftables::ruleset::{Data, Value};
use crate::nftables::{Element, Ruleset, Set};

/// Name of the set of former values.
pub(crate) const REMEMBERED: &str = "remembered";

/// Kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sysctl {
    kind: usize,
    interface: String,
}

/// Values of a parameter that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Present value.
    pub held: u32,
    /// Wanted value.
    pub wanted: u32,
}

/// Paths under `/proc/sys/net`, `*` for an external interface, and the wanted value. The set of former values refers to positions in this list, so new
/// entries go to the end.
pub const WANTED: [(&str, u32); 7] = [
    ("ipv4/ip_forward", 1),
    ("ipv6/conf/all/forwarding", 1),
    // Loose: packets may arrive by another interface than that of the host's route back.
    ("ipv4/conf/*/rp_filter", 2),
    // ARP requests are answered by the interface that has the address only, although several are in one network.
    ("ipv4/conf/*/arp_ignore", 1),
    ("ipv4/conf/*/arp_announce", 2),
    // Lets connection tracking pick up TCP connections of another gateway in mid-stream.
    ("netfilter/nf_conntrack_tcp_loose", 1),
    // Makes `rp_filter` look up with the packet mark: without it, the rules that confine enrolled networks would answer.
    ("ipv4/conf/all/src_valid_mark", 1),
];

/// Position of `rp_filter`.
const RP_FILTER: usize = 2;
/// Position of `src_valid_mark`.
const SRC_VALID_MARK: usize = 6;

/// Reads `rp_filter` of all interfaces; the kernel applies the larger of it and the interface's own.
fn way_back_everywhere() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").ok()?;
    text.trim().parse().ok()
}

impl Sysctl {
    /// Returns the parameters these interfaces need, with their values.
    #[must_use]
    pub fn wanted(interfaces: &Interfaces) -> BTreeMap<Self, u32> {
        let mut wanted = BTreeMap::new();
        for (kind, (path, value)) in WANTED.iter().enumerate() {
            if path.contains('*') {
                for interface in interfaces.external.keys() {
                    wanted.insert(Self { kind, interface: interface.clone() }, *value);
                }
            } else {
                wanted.insert(Self { kind, interface: String::new() }, *value);
            }
        }
        wanted
    }

    /// Returns the parameter that makes `rp_filter` look up by packet mark, with its value.
    pub(crate) fn way_back_by_mark() -> BTreeMap<Self, u32> {
        let value = WANTED[SRC_VALID_MARK].1;
        [(Self { kind: SRC_VALID_MARK, interface: String::new() }, value)].into()
    }

    /// Returns the path under `/proc`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        // An interface's name may contain a dot, never a slash.
        let path = WANTED.get(self.kind).map_or("", |(path, _)| path);
        PathBuf::from("/proc/sys/net").join(path.replace('*', &self.interface))
    }

    /// Reads the value.
    ///
    /// # Errors
    /// Fails if the parameter does not exist here.
    pub fn read(&self) -> io::Result<u32> {
        let text = std::fs::read_to_string(self.path())?;
        text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Returns true if a value serves as well as the wanted one. A strict reverse-path check is loosened, but none is ever turned on: even a loose
    /// one drops clients to whom the host's own routes do not lead.
    #[must_use]
    pub fn suffices(&self, held: u32, wanted: u32) -> bool {
        held == wanted || (self.kind == RP_FILTER && held == 0 && way_back_everywhere() != Some(1))
    }

    /// Returns the interface whose packets undergo the reverse-path check.
    fn checked(&self) -> Option<&str> {
        let checked = |held| held != 0 || way_back_everywhere() != Some(0);
        (self.kind == RP_FILTER && self.read().is_ok_and(checked)).then_some(&self.interface)
    }

    /// Writes the value.
    ///
    /// # Errors
    /// Fails if the parameter does not exist here or may not be written.
    pub fn write(&self, value: u32) -> io::Result<()> {
        std::fs::write(self.path(), value.to_string())
    }

    /// Encodes an element of the set of former values.
    pub(crate) fn remember(&self, value: u32) -> Vec<u8> {
        let mut key = (self.kind as u32).to_be_bytes().to_vec();
        key.extend(crate::program::step::name_key(&self.interface));
        key.extend(value.to_be_bytes());
        key
    }

    /// Decodes an element of that set.
    pub(crate) fn recall(key: &[u8]) -> Option<(Self, u32)> {
        let number = |at: usize| Some(u32::from_be_bytes(key.get(at..at + 4)?.try_into().ok()?));
        let name = key.get(4..20)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let interface = String::from_utf8(name[..end].to_vec()).ok()?;
        let kind = number(0)? as usize;
        (kind < WANTED.len()).then_some((Self { kind, interface }, number(20)?))
    }
}

impl fmt::Display for Sysctl {
    /// Formats the name for `sysctl`; with slashes, because an interface's name may contain a dot.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path();
        path.strip_prefix("/proc/sys").unwrap_or(&path).display().fmt(f)
    }
}

/// Returns the empty set of former values.
pub(crate) fn memory() -> Set {
    Set::new(24, 0, Data::Nothing)
}

/// Adds the values of kernel parameters to the set before they are changed; former values that are in it already stay.
pub(crate) fn remember(held: &Ruleset, wanted: &mut Ruleset, sysctls: &BTreeMap<Sysctl, u32>) {
    let Some(set) = wanted.sets.get_mut(REMEMBERED) else { return };
    if let Some(known) = held.sets.get(REMEMBERED) {
        set.elements.extend(known.elements.clone());
    }
    let known: Vec<Sysctl> =
        set.elements.keys().filter_map(|key| Some(Sysctl::recall(key)?.0)).collect();
    for (sysctl, value) in sysctls.iter().filter(|(sysctl, _)| !known.contains(sysctl)) {
        if let Ok(held) = sysctl.read()
            && !sysctl.suffices(held, *value)
        {
            let element = Element { end: None, value: Value::Nothing };
            set.elements.insert(sysctl.remember(held), element);
        }
    }
}

/// Restores the former values in the set.
pub(crate) fn restore(held: &Ruleset) {
    let remembered = held.sets.get(REMEMBERED);
    for key in remembered.iter().flat_map(|set| set.elements.keys()) {
        if let Some((sysctl, value)) = Sysctl::recall(key)
            && let Err(error) = sysctl.write(value)
        {
            tracing::warn!(path = %sysctl.path().display(), %error, "cannot restore a sysctl");
        }
    }
}

/// Returns the parameters that have a wrong value.
pub(crate) fn wrong(wanted: &BTreeMap<Sysctl, u32>) -> BTreeMap<Sysctl, Wrong> {
    let held = wanted.iter().filter_map(|(sysctl, wanted)| {
        let held = sysctl.read().ok().filter(|held| !sysctl.suffices(*held, *wanted))?;
        Some((sysctl.clone(), Wrong { held, wanted: *wanted }))
    });
    held.collect()
}

/// Formats two lines for each parameter that would be set: the present and the wanted value.
pub(crate) fn change_lines(wrong: &BTreeMap<Sysctl, Wrong>) -> impl Iterator<Item = String> {
    let both = |(sysctl, Wrong { held, wanted }): (&Sysctl, &Wrong)| {
        [format!("- sysctl {sysctl} = {held}"), format!("+ sysctl {sysctl} = {wanted}")]
    };
    wrong.iter().flat_map(both)
}

/// Returns true if the kernel drops packets that came in by the interface from a source that it would answer by another.
pub(crate) fn is_strict(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
    let own = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    own.max(way_back_everywhere()) == Some(1)
}

/// Returns the interfaces, separated by commas, whose clients are dropped if this host's main table has no route to them: `rp_filter` uses that
/// table.
pub(crate) fn no_way_back(wanted: &BTreeMap<Sysctl, u32>) -> Option<String> {
    let checked: Vec<&str> = wanted.keys().filter_map(Sysctl::checked).collect();
    if checked.is_empty() {
        return None;
    }
    let routes = std::fs::read_to_string("/proc/thread-self/net/route").ok()?;
    let is_default = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        [words.get(1), words.get(7)] == [Some(&"00000000"); 2]
    };
    (!routes.lines().any(is_default)).then(|| checked.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_value_is_recalled_as_it_was() {
        let sysctl = Sysctl { kind: 2, interface: "ext1.100".to_owned() };

        assert_eq!(Sysctl::recall(&sysctl.remember(1)), Some((sysctl.clone(), 1)));
        assert_eq!(sysctl.path(), PathBuf::from("/proc/sys/net/ipv4/conf/ext1.100/rp_filter"));
    }
}
