//! Formats elements of the program's maps in words, to read a difference.
//!
//! An element that is not understood is shown as its bytes.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::mark;
use crate::nftables::changes::Detail;
use crate::nftables::ruleset::{Entry, Value};
use crate::nftables::words::protocol;
use crate::nftables::{Changes, Element, Verdict};

/// Formats an element of `set` on one line.
pub(crate) fn element(set: &str, key: &[u8], element: &Element) -> String {
    in_words(set, key, element).unwrap_or_else(|| Entry { key, element }.to_string())
}

/// Formats a changed element; `None` in a set that is the same everywhere.
pub(crate) fn change(set: &str, key: &[u8], one: &Element) -> Option<String> {
    (set != super::TWINS).then(|| element(set, key, one))
}

/// Formats one line per change of a table; elements of Durward's own sets in words.
pub(crate) fn changes(changes: &Changes) -> String {
    struct Words<'a>(&'a Changes);
    impl fmt::Display for Words<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.write(f, Detail::All, change)
        }
    }
    Words(changes).to_string()
}

fn in_words(set: &str, key: &[u8], element: &Element) -> Option<String> {
    let (base, v4) = match set.split_once('_') {
        Some(("src4", _)) => ("src", true),
        Some(("src6", _)) => ("src", false),
        _ if set.ends_with('4') => (&set[..set.len() - 1], true),
        _ if set.ends_with('6') => (&set[..set.len() - 1], false),
        _ => (set, true),
    };
    let words = match base {
        "svc" | "svcr" | "rng" | "ep" | "rev" | "revs" | "local" => {
            ports(key, element.end.as_deref(), v4)?
        }
        "src" | "cluster" | "eg" | "enrolled" | "near" | "pods" | "peers" | "routers" => {
            block(key, element.end.as_deref(), v4)?
        }
        "ext" | "ext_in" | "out_ok" => name(key)?,
        "ctr" | "slot_out" => format!("{:#x}", number(key, 0)?),
        "taken" => taken(key)?,
        "l4" => protocol(*key.first()?),
        "discovery" => format!("icmpv6 type {}", key.first()?),
        "others" => format!("tenant {} all else", tenant(key)?),
        "here" => format!("kind {}", number(key, 0)?),
        "ends" => format!("{:#x} direction {}", number(key, 0)?, number(key, 4)?),
        "same" => address(key, v4)?.0.to_string(),
        "back" => format!("list {}", digest(key)?),
        "egt" | "egs" | "egn" => rule(key)?,
        "egp" => format!("{} range {}", rule(key)?, number(key, 12)?),
        _ => return None,
    };
    let value = match (&element.value, base) {
        (Value::Nothing, _) => String::new(),
        (Value::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)), _) => format!(" -> {chain}"),
        (Value::Counter(name), _) => format!(" -> {name}"),
        (Value::Bytes(bytes), "ep") => {
            let (ip, rest) = address(bytes, v4)?;
            let mark = number(rest, 4)?;
            format!(" -> {} mark {mark:#x}", SocketAddr::new(ip, port(rest)?))
        }
        (Value::Bytes(bytes), "revs") => {
            let (ip, rest) = address(bytes, v4)?;
            format!(" -> {}", SocketAddr::new(ip, port(rest)?))
        }
        (Value::Bytes(bytes), "eg" | "rev") => {
            format!(" -> mark {:#x} {}", number(bytes, 0)?, digest(bytes.get(4..)?)?)
        }
        (Value::Bytes(bytes), "rng") => format!(" -> {}", port(bytes)?),
        (Value::Bytes(bytes), "egp" | "egs") => {
            let (first, rest) = address(bytes, v4)?;
            let (last, _) = address(rest, v4)?;
            if first == last { format!(" -> {first}") } else { format!(" -> {first}-{last}") }
        }
        _ => return None,
    };
    Some(words + &value)
}

/// Formats address, protocol and port, a range of ports, or a port with the number of one of its endpoints.
fn ports(key: &[u8], end: Option<&[u8]>, v4: bool) -> Option<String> {
    let (ip, rest) = address(key, v4)?;
    let protocol = protocol(*rest.first()?);
    let first = port(rest.get(4..)?)?;
    let last = match end {
        Some(end) => port(address(end, v4)?.1.get(4..)?)?.wrapping_sub(1),
        None => first,
    };
    let range = if last == first { String::new() } else { format!("-{last}") };
    let more = match (number(rest, 8), rest.get(12..).and_then(digest)) {
        (Some(index), Some(list)) => format!(" endpoint {index} list {list}"),
        (Some(mark), None) => format!(" mark {mark:#x}"),
        (None, _) => String::new(),
    };
    Some(format!("{ip} {protocol} {first}{range}{more}"))
}

/// Formats the digest of a list or rule.
fn digest(bytes: &[u8]) -> Option<String> {
    Some(format!("{:016x}", u64::from_be_bytes(*bytes.first_chunk()?)))
}

/// Formats the marks and digest of an egress rule.
fn rule(key: &[u8]) -> Option<String> {
    Some(format!("{:#x} {}", number(key, 0)?, digest(key.get(4..)?)?))
}

fn tenant(key: &[u8]) -> Option<u16> {
    Some(mark::tenant(number(key, 0)?))
}

/// Formats a tenant, a protocol and a port.
fn taken(key: &[u8]) -> Option<String> {
    let protocol = protocol(*key.get(4)?);
    Some(format!("tenant {} {protocol} {}", tenant(key)?, port(key.get(8..)?)?))
}

fn block(key: &[u8], end: Option<&[u8]>, v4: bool) -> Option<String> {
    let (first, _) = address(key, v4)?;
    let last = match (end.map(|end| address(end, v4)), v4) {
        (Some(end), _) => before(end?.0),
        (None, true) => IpAddr::from([0xff; 4]),
        (None, false) => IpAddr::from([0xff; 16]),
    };
    Some(if first == last { first.to_string() } else { format!("{first}-{last}") })
}

fn before(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4(u32::from(address).wrapping_sub(1).into()),
        IpAddr::V6(address) => IpAddr::V6(u128::from(address).wrapping_sub(1).into()),
    }
}

fn address(bytes: &[u8], v4: bool) -> Option<(IpAddr, &[u8])> {
    if v4 {
        let (address, rest) = bytes.split_first_chunk::<4>()?;
        return Some((IpAddr::from(*address), rest));
    }
    let (address, rest) = bytes.split_first_chunk::<16>()?;
    Some((IpAddr::from(*address), rest))
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.first_chunk()?))
}

/// Decodes a number in host order.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Formats an interface's name and its slot.
fn name(key: &[u8]) -> Option<String> {
    let (name, slot) = key.split_at_checked(16)?;
    let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
    Some(match number(slot, 0) {
        Some(slot) => format!("{name} slot {}", slot >> 8),
        None => name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_shown_as_bytes() {
        let nothing = Element { end: None, value: Value::Nothing };

        assert_eq!(element("svc4", &[1, 2, 3], &nothing), "010203");
        assert_eq!(element("theirs", &[1, 2, 3], &nothing), "010203");
        assert_eq!(element("cluster4", &[10, 0, 0, 0], &nothing), "10.0.0.0-255.255.255.255");
    }
}
