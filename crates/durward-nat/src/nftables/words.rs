//! Formats rules in the words of `nft`, to read a difference: registers are followed, and their contents named where they are used.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::expression::{Base, Ct, Expression, Hex, LookupResult, Meta, Reject};

/// Formats a rule on one line.
pub(crate) fn rule(rule: &[Expression]) -> String {
    let mut reader = Reader::default();
    let mut line = String::new();
    for expression in rule {
        if let Some(words) = reader.read(expression) {
            let separator = if line.is_empty() { "" } else { " " };
            let _ = write!(line, "{separator}{words}");
        }
    }
    line
}

/// Contents of the registers while a rule is read.
#[derive(Default)]
struct Reader {
    held: BTreeMap<u32, Held>,
    steps: u32,
}

#[derive(Clone)]
struct Held {
    words: String,
    len: u32,
    kind: Kind,
    /// Step that loaded it: the parts of a key are loaded one after another.
    step: u32,
    /// Constant formatted as an address.
    address: Option<String>,
}

/// Format of the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bytes,
    /// Number in host order.
    Number,
    /// Number with some bits masked off.
    Masked,
    State,
    StateMasked(u32),
    Family,
    Protocol,
    Name,
    /// Data of a map's element, which may fill several registers.
    Element,
}

impl Reader {
    fn read(&mut self, expression: &Expression) -> Option<String> {
        match expression {
            Expression::Payload { base, offset, len, to } => {
                let kind = if (*base, *offset, *len) == (Base::Transport, 13, 1) {
                    Kind::Number
                } else {
                    Kind::Bytes
                };
                self.hold(*to, payload(*base, *offset, *len), *len, kind)
            }
            Expression::Meta { key, to } => {
                let (words, len, kind) = meta(*key);
                self.hold(*to, words.to_owned(), len, kind)
            }
            Expression::Ct { key, to } => {
                let (words, len, kind) = tracked(*key);
                self.hold(*to, words.to_owned(), len, kind)
            }
            Expression::Bitwise { from, to, mask, xor } => {
                let (words, kind) = self.masked(*from, *mask, u32::from_ne_bytes(*xor));
                self.hold(*to, words, 4, kind)
            }
            Expression::Immediate { to, value } => {
                let len = u32::try_from(value.len()).unwrap_or(4);
                let words =
                    number(value).map_or_else(|| constant(value), |value| format!("{value:#x}"));
                self.hold(*to, words, len, Kind::Bytes);
                let held = self.held.get_mut(to)?;
                held.address = Some(constant(value));
                None
            }
            Expression::Hash { from, modulus, seed, to, .. } => {
                let words = format!("jhash {} mod {modulus} seed {seed:#x}", self.key(*from));
                self.hold(*to, words, 4, Kind::Number)
            }
            Expression::Random { modulus, to } => {
                self.hold(*to, format!("numgen random mod {modulus}"), 4, Kind::Number)
            }
            Expression::DestinationKind { to } => {
                self.hold(*to, "fib daddr type".to_owned(), 4, Kind::Number)
            }
            Expression::RouteSegment { to } => self.hold(*to, "rt mtu".to_owned(), 2, Kind::Number),
            Expression::NetworkOrder { .. } => None,
            Expression::Lookup { set, from, result } => {
                let key = self.key(*from);
                match result {
                    LookupResult::Present => Some(format!("{key} @{set}")),
                    LookupResult::Absent => Some(format!("{key} != @{set}")),
                    LookupResult::Verdict => Some(format!("{key} vmap @{set}")),
                    LookupResult::To(to) => {
                        self.hold(*to, format!("{key} map @{set}"), 4, Kind::Element)
                    }
                }
            }
            other => Some(self.acted(other)),
        }
    }

    fn masked(&self, from: u32, mask: [u8; 4], xor: u32) -> (String, Kind) {
        let bits = u32::from_ne_bytes(mask);
        let (words, kind) = match self.held.get(&from) {
            Some(held) if held.kind == Kind::State => (held.words.clone(), Kind::StateMasked(bits)),
            // Bytes of a packet are in network order, as in addresses.
            Some(held) if held.kind == Kind::Bytes => {
                (format!("{} & {}", held.words, constant(&mask)), Kind::Bytes)
            }
            _ => (format!("{} & {bits:#x}", self.words(from)), Kind::Masked),
        };
        (if xor == 0 { words } else { format!("{words} ^ {xor:#x}") }, kind)
    }

    /// Formats an expression that acts rather than loads.
    fn acted(&self, expression: &Expression) -> String {
        match expression {
            Expression::Compare { from, equal, value } => self.compared(*from, *equal, value),
            Expression::SetMark { from } => format!("meta mark set {}", self.words(*from)),
            Expression::SetCtMark { from } => format!("ct mark set {}", self.words(*from)),
            Expression::SetTrace { .. } => "meta nftrace set 1".to_owned(),
            Expression::SetSegment { from } => {
                format!("tcp option maxseg size set {}", self.words(*from))
            }
            Expression::Nat { source, address, last_address, port, .. } => {
                let verb = if *source { "snat" } else { "dnat" };
                format!("{verb} to {}", self.target(*address, *last_address, *port))
            }
            Expression::HandOver { address, port, .. } => {
                format!("tproxy to {}", self.target(*address, None, Some(*port)))
            }
            Expression::Count(name) => format!("counter name {name}"),
            Expression::CountBy { set, from } => {
                format!("counter name {} map @{set}", self.key(*from))
            }
            Expression::Masquerade => "masquerade".to_owned(),
            Expression::Reject(Reject::Reset) => "reject with tcp reset".to_owned(),
            Expression::Reject(Reject::Port) => "reject with port-unreachable".to_owned(),
            Expression::Reject(Reject::Prohibited) => "reject with admin-prohibited".to_owned(),
            Expression::Limit { per_second, burst } => {
                format!("limit rate {per_second}/second burst {burst} packets")
            }
            other => other.to_string(),
        }
    }

    fn hold(&mut self, to: u32, words: String, len: u32, kind: Kind) -> Option<String> {
        self.steps += 1;
        self.held.insert(to, Held { words, len, kind, step: self.steps, address: None });
        None
    }

    /// Formats the contents of a register, which an earlier, longer load may have filled.
    fn words(&self, register: u32) -> String {
        if let Some(held) = self.held.get(&register) {
            return held.words.clone();
        }
        let before = self.held.range(..register).next_back().map(|(_, held)| held);
        let element = before.filter(|held| held.kind == Kind::Element);
        element.map_or_else(|| format!("register {register}"), |held| from_map(&held.words))
    }

    /// Formats the key that begins in a register: all parts that were loaded after it, one after another.
    fn key(&self, from: u32) -> String {
        let mut words = self.words(from);
        let mut at = from;
        while let Some(held) = self.held.get(&at) {
            let next = at + held.len.div_ceil(4);
            match self.held.get(&next) {
                Some(part) if part.step > held.step && part.kind != Kind::Element => {
                    let _ = write!(words, " . {}", part.words);
                    at = next;
                }
                _ => break,
            }
        }
        words
    }

    fn target(&self, address: u32, last: Option<u32>, port: Option<u32>) -> String {
        let constant = |register: u32| self.held.get(&register)?.address.clone();
        let mut words = constant(address).unwrap_or_else(|| self.words(address));
        for (register, sign) in [(last, "-"), (port, ":")] {
            // The rest of a map's element follows its beginning.
            if let Some(held) = register.and_then(|register| self.held.get(&register)) {
                let _ = write!(words, "{sign}{}", held.address.as_ref().unwrap_or(&held.words));
            }
        }
        words
    }

    fn compared(&self, from: u32, equal: bool, value: &[u8]) -> String {
        let sign = if equal { "" } else { "!= " };
        let Some(held) = self.held.get(&from) else {
            return format!("{} {sign}{}", self.words(from), constant(value));
        };
        let words = &held.words;
        let number = || number(value);
        match held.kind {
            Kind::StateMasked(bits) if number() == Some(0) => {
                let sign = if equal { "!= " } else { "" };
                format!("{words} {sign}{}", states(bits))
            }
            Kind::Masked | Kind::Number => {
                let sign = if equal { "==" } else { "!=" };
                let value = number().map_or_else(|| constant(value), |value| format!("{value:#x}"));
                format!("{words} {sign} {value}")
            }
            Kind::Family => format!("{words} {sign}{}", family(value)),
            Kind::Protocol => {
                let named = value.first().map_or_else(|| constant(value), |one| protocol(*one));
                format!("{words} {sign}{named}")
            }
            Kind::Name => {
                let name: Vec<u8> = value.iter().copied().take_while(|byte| *byte != 0).collect();
                format!("{words} {sign}{:?}", String::from_utf8_lossy(&name))
            }
            _ => format!("{words} {sign}{}", constant(value)),
        }
    }
}

/// Formats data of a map: `x map @set` the first time, later the name of the set alone.
fn from_map(words: &str) -> String {
    words.rsplit_once(" map ").map_or_else(|| words.to_owned(), |(_, set)| set.to_owned())
}

const fn meta(key: Meta) -> (&'static str, u32, Kind) {
    match key {
        Meta::Mark => ("meta mark", 4, Kind::Number),
        Meta::InputName => ("iifname", 16, Kind::Name),
        Meta::OutputName => ("oifname", 16, Kind::Name),
        Meta::Family => ("nfproto", 1, Kind::Family),
        Meta::Transport => ("l4proto", 1, Kind::Protocol),
    }
}

const fn tracked(key: Ct) -> (&'static str, u32, Kind) {
    match key {
        Ct::State => ("ct state", 4, Kind::State),
        Ct::Mark => ("ct mark", 4, Kind::Number),
        Ct::OriginalDestination4 => ("ct original ip daddr", 4, Kind::Bytes),
        Ct::OriginalDestination6 => ("ct original ip6 daddr", 16, Kind::Bytes),
        Ct::Direction => ("ct direction", 1, Kind::Number),
        Ct::Status => ("ct status", 4, Kind::Number),
        Ct::OriginalSource4 => ("ct original ip saddr", 4, Kind::Bytes),
        Ct::OriginalSource6 => ("ct original ip6 saddr", 16, Kind::Bytes),
        Ct::ReplySource4 => ("ct reply ip saddr", 4, Kind::Bytes),
        Ct::ReplySource6 => ("ct reply ip6 saddr", 16, Kind::Bytes),
    }
}

fn payload(base: Base, offset: u32, len: u32) -> String {
    let known = match (base, offset, len) {
        (Base::Network, 12, 4) => "ip saddr",
        (Base::Network, 16, 4) => "ip daddr",
        (Base::Network, 8, 16) => "ip6 saddr",
        (Base::Network, 24, 16) => "ip6 daddr",
        (Base::Transport, 0, 1) => "icmp type",
        (Base::Transport, 0, 2) => "th sport",
        (Base::Transport, 2, 2) => "th dport",
        (Base::Transport, 13, 1) => "tcp flags",
        (base, ..) => {
            let base = if base == Base::Network { "nh" } else { "th" };
            return format!("@{base},{},{}", offset * 8, len * 8);
        }
    };
    known.to_owned()
}

fn number(value: &[u8]) -> Option<u32> {
    match value {
        [byte] => Some(u32::from(*byte)),
        [_, _, _, _] => Some(u32::from_ne_bytes(value.try_into().ok()?)),
        _ => None,
    }
}

/// Formats a constant: one that is as long as an address is taken for one.
fn constant(value: &[u8]) -> String {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Ipv4Addr::from(octets).to_string();
    }
    if let Ok(octets) = <[u8; 16]>::try_from(value) {
        return format!("[{}]", Ipv6Addr::from(octets));
    }
    match value {
        [high, low] => u16::from_be_bytes([*high, *low]).to_string(),
        _ => format!("0x{}", Hex(value)),
    }
}

fn states(bits: u32) -> String {
    let known = [(1, "invalid"), (2, "established"), (4, "related"), (8, "new")];
    let named = known.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| name);
    named.collect::<Vec<_>>().join(",")
}

fn family(value: &[u8]) -> String {
    match value {
        [2] => "ipv4".to_owned(),
        [10] => "ipv6".to_owned(),
        _ => constant(value),
    }
}

/// Returns the name of a transport protocol, or its number.
pub(crate) fn protocol(number: u8) -> String {
    let known = match number {
        1 => "icmp",
        2 => "igmp",
        6 => "tcp",
        17 => "udp",
        58 => "icmpv6",
        132 => "sctp",
        other => return other.to_string(),
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::expression::Verdict;
    use super::*;

    #[test]
    fn a_rule_reads_as_nft_would_write_it() {
        let load = |base, offset, len, to| Expression::Payload { base, offset, len, to };
        let key = [
            load(Base::Network, 16, 4, 8),
            Expression::Meta { key: Meta::Transport, to: 9 },
            load(Base::Transport, 2, 2, 10),
        ];
        let lookup = |from, result| Expression::Lookup { set: "m".to_owned(), from, result };
        let with = |rest: Vec<Expression>| rule(&[&key[..], &rest].concat());

        assert_eq!(
            with(vec![
                lookup(8, LookupResult::To(12)),
                Expression::SetCtMark { from: 14 },
                Expression::Nat {
                    source: false,
                    ipv4: true,
                    address: 12,
                    last_address: None,
                    port: Some(13)
                },
            ]),
            "ct mark set @m dnat to ip daddr . l4proto . th dport map @m"
        );
        // A register that is loaded anew begins a key of its own.
        assert_eq!(
            with(vec![
                Expression::Ct { key: Ct::Mark, to: 8 },
                Expression::Bitwise { from: 8, to: 8, mask: 0xff00_u32.to_ne_bytes(), xor: [0; 4] },
                lookup(8, LookupResult::Verdict),
            ]),
            "ct mark & 0xff00 vmap @m"
        );
        assert_eq!(
            rule(&[
                Expression::Immediate { to: 8, value: vec![203, 0, 113, 2] },
                Expression::Immediate { to: 9, value: vec![1, 187] },
                Expression::HandOver { ipv4: true, address: 8, port: 9 },
                Expression::Verdict(Verdict::Drop),
            ]),
            "tproxy to 203.0.113.2:443 drop"
        );
        assert_eq!(
            rule(&[
                Expression::Ct { key: Ct::State, to: 8 },
                Expression::Bitwise { from: 8, to: 8, mask: 6_u32.to_ne_bytes(), xor: [0; 4] },
                Expression::Compare { from: 8, equal: false, value: vec![0; 4] },
                Expression::Meta { key: Meta::Family, to: 8 },
                Expression::Compare { from: 8, equal: true, value: vec![10] },
            ]),
            "ct state established,related nfproto ipv6"
        );
    }
}
