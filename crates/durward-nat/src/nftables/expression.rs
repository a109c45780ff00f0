//! What a rule is made of: load into registers, compare, look up, act.
//!
//! Registers are numbered 8 to 23, four bytes each. Deliberately absent: expressions Durward has no use for.

use std::fmt;

/// One step of a rule; a step that does not hold ends the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Loads bytes of the packet.
    Payload {
        /// Where `offset` counts from.
        base: Base,
        /// Bytes from there.
        offset: u32,
        /// How many bytes.
        len: u32,
        /// The register to fill.
        to: u32,
    },
    /// Loads what is known beside the packet.
    Meta {
        /// Which fact.
        key: Meta,
        /// The register to fill.
        to: u32,
    },
    /// Sets the packet's mark.
    SetMark {
        /// The register to take it from.
        from: u32,
    },
    /// Loads what connection tracking knows.
    Ct {
        /// Which fact.
        key: Ct,
        /// The register to fill.
        to: u32,
    },
    /// Sets the connection's mark.
    SetCtMark {
        /// The register to take it from.
        from: u32,
    },
    /// Holds when the register equals the value (or does not).
    Compare {
        /// The register.
        from: u32,
        /// Equal or not.
        equal: bool,
        /// The value.
        value: Vec<u8>,
    },
    /// `to = (from & mask) ^ xor`, four bytes.
    Bitwise {
        /// The register read.
        from: u32,
        /// The register written.
        to: u32,
        /// Bits to keep.
        mask: [u8; 4],
        /// Bits to turn.
        xor: [u8; 4],
    },
    /// Looks the register up.
    Lookup {
        /// The set.
        set: String,
        /// Where the key begins.
        from: u32,
        /// What to do with the result.
        result: LookupResult,
    },
    /// A hash of registers, always the same for the same bytes.
    Hash {
        /// Where the bytes begin.
        from: u32,
        /// How many bytes.
        len: u32,
        /// The result is below it.
        modulus: u32,
        /// Two gateways agree when their seeds do.
        seed: u32,
        /// The register to fill.
        to: u32,
    },
    /// A random number.
    Random {
        /// The result is below it.
        modulus: u32,
        /// The register to fill.
        to: u32,
    },
    /// Loads a constant.
    Immediate {
        /// The register to fill.
        to: u32,
        /// The constant.
        value: Vec<u8>,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Rewrites source or destination.
    Nat {
        /// Source or destination.
        source: bool,
        /// Of IPv4 or IPv6.
        ipv4: bool,
        /// The register of the address.
        address: u32,
        /// The register of the last address of a range.
        last_address: Option<u32>,
        /// The register of the port.
        port: Option<u32>,
    },
    /// Counts with a named counter.
    Count(String),
    /// Counts with the counter the map gives.
    CountBy {
        /// The map.
        set: String,
        /// Where the key begins.
        from: u32,
    },
    /// Tells the sender.
    Reject(Reject),
    /// Gives the packet the address of the interface it leaves by.
    Masquerade,
    /// Loads what kind of address the destination is, as `linux/rtnetlink.h` numbers them: 1 another host's, 2 this host's.
    DestinationKind {
        /// The register to fill.
        to: u32,
    },
    /// Gives the packet to a socket of this host that listens for others; does not hold when there is none.
    HandOver {
        /// Of IPv4 or IPv6.
        ipv4: bool,
        /// The register of the address it listens at.
        address: u32,
        /// The register of the port.
        port: u32,
    },
    /// Holds so many times a second.
    Limit {
        /// How often.
        per_second: u64,
        /// At once.
        burst: u32,
    },
    /// Has the packet's further way told to whoever listens.
    SetTrace {
        /// The register to take 1 from.
        from: u32,
    },
    /// Loads the largest TCP segment that fits the ways there and back, two bytes in the processor's order.
    RouteSegment {
        /// The register to fill.
        to: u32,
    },
    /// Turns two bytes of a register into network order.
    NetworkOrder {
        /// The register.
        register: u32,
    },
    /// Lowers the maximum segment size a TCP SYN names.
    SetSegment {
        /// The register to take it from.
        from: u32,
    },
    /// Something this crate did not write.
    Foreign(String),
}

/// Where a payload offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The IP header.
    Network,
    /// The TCP, UDP, SCTP or ICMP header.
    Transport,
}

/// A fact beside the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// The mark.
    Mark,
    /// The name of the interface it came in by, 16 bytes.
    InputName,
    /// The name of the interface it leaves by, 16 bytes.
    OutputName,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, one byte.
    Family,
    /// The transport protocol, one byte.
    Transport,
}

/// A fact of connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ct {
    /// A bit: invalid 1, established 2, related 4, new 8.
    State,
    /// The connection's mark.
    Mark,
    /// The IPv4 address the first packet was sent to.
    OriginalDestination4,
    /// The IPv6 address the first packet was sent to.
    OriginalDestination6,
    /// 0 on the way of the first packet, 1 on the way back; one byte.
    Direction,
    /// Bits, among them source translated 16 and destination translated 32.
    Status,
    /// The IPv4 address the first packet came from.
    OriginalSource4,
    /// The IPv6 address the first packet came from.
    OriginalSource6,
    /// The IPv4 address answers come from.
    ReplySource4,
    /// The IPv6 address answers come from.
    ReplySource6,
}

/// What a lookup does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupResult {
    /// Holds when the key is there.
    Present,
    /// Holds when the key is not there.
    Absent,
    /// Fills a register with the data.
    To(u32),
    /// Takes the verdict.
    Verdict,
}

/// Where a packet goes on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// On to the next hook.
    Accept,
    /// Nowhere.
    Drop,
    /// Back to the calling chain.
    Return,
    /// To a chain, and back.
    Jump(String),
    /// To a chain, for good.
    Goto(String),
}

/// How a sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// A TCP reset.
    Reset,
    /// "Port unreachable".
    Port,
    /// "Administratively prohibited".
    Prohibited,
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload { base, offset, len, to } => {
                let base = if *base == Base::Network { "network" } else { "transport" };
                write!(f, "r{to} = {base}[{offset}..{}]", offset + len)
            }
            Self::Meta { key, to } => write!(f, "r{to} = meta {key:?}"),
            Self::SetMark { from } => write!(f, "mark = r{from}"),
            Self::Ct { key, to } => write!(f, "r{to} = ct {key:?}"),
            Self::SetCtMark { from } => write!(f, "ct mark = r{from}"),
            Self::Compare { from, equal, value } => {
                write!(f, "r{from} {} {}", if *equal { "==" } else { "!=" }, Hex(value))
            }
            Self::Bitwise { from, to, mask, xor } => {
                write!(f, "r{to} = r{from} & {} ^ {}", Hex(mask), Hex(xor))
            }
            Self::Lookup { set, from, result } => match result {
                LookupResult::Present => write!(f, "r{from} in @{set}"),
                LookupResult::Absent => write!(f, "r{from} not in @{set}"),
                LookupResult::To(to) => write!(f, "r{to} = @{set}[r{from}]"),
                LookupResult::Verdict => write!(f, "verdict @{set}[r{from}]"),
            },
            Self::Hash { from, len, modulus, seed, to } => {
                write!(f, "r{to} = hash(r{from}, {len} bytes, seed {seed:#x}) mod {modulus}")
            }
            Self::Random { modulus, to } => write!(f, "r{to} = random mod {modulus}"),
            Self::Immediate { to, value } => write!(f, "r{to} = {}", Hex(value)),
            Self::Verdict(verdict) => verdict.fmt(f),
            Self::Nat { source, address, last_address, port, .. } => {
                write!(f, "{} to r{address}", if *source { "snat" } else { "dnat" })?;
                if let Some(last) = last_address {
                    write!(f, "-r{last}")?;
                }
                port.map_or(Ok(()), |port| write!(f, " port r{port}"))
            }
            Self::Count(name) => write!(f, "count {name}"),
            Self::CountBy { set, from } => write!(f, "count @{set}[r{from}]"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Reject(how) => write!(f, "reject {how:?}"),
            Self::DestinationKind { to } => write!(f, "r{to} = kind of destination"),
            Self::HandOver { address, port, .. } => {
                write!(f, "hand over to r{address} port r{port}")
            }
            Self::Limit { per_second, burst } => write!(f, "limit {per_second}/s burst {burst}"),
            Self::SetTrace { from } => write!(f, "trace = r{from}"),
            Self::RouteSegment { to } => write!(f, "r{to} = route's segment size"),
            Self::NetworkOrder { register } => write!(f, "r{register} = network order"),
            Self::SetSegment { from } => write!(f, "tcp maxseg = r{from}"),
            Self::Foreign(name) => write!(f, "foreign {name}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

/// Bytes as a person can compare them.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
