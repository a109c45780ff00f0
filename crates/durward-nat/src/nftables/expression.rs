//! Expressions of a rule: load into registers, compare, look up, act.
//!
//! Registers are numbered 8 to 23 (`NFT_REG32_*`), four bytes each.

use std::fmt;

/// One step of a rule; a step that does not match ends the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Loads bytes of the packet.
    Payload {
        /// Header that `offset` counts from.
        base: Base,
        /// Offset in bytes.
        offset: u32,
        /// Length in bytes.
        len: u32,
        /// Register to fill.
        to: u32,
    },
    /// Loads metadata of the packet.
    Meta {
        /// Metadata key.
        key: Meta,
        /// Register to fill.
        to: u32,
    },
    /// Sets the packet mark.
    SetMark {
        /// Register with the value.
        from: u32,
    },
    /// Loads a value of connection tracking.
    Ct {
        /// Connection-tracking key.
        key: Ct,
        /// Register to fill.
        to: u32,
    },
    /// Sets the connection mark.
    SetCtMark {
        /// Register with the value.
        from: u32,
    },
    /// Matches if the register equals the value (or does not).
    Compare {
        /// Register to compare.
        from: u32,
        /// True to match equality.
        equal: bool,
        /// Value to compare with.
        value: Vec<u8>,
    },
    /// `to = (from & mask) ^ xor`, four bytes.
    Bitwise {
        /// Register read.
        from: u32,
        /// Register written.
        to: u32,
        /// Bits to keep.
        mask: [u8; 4],
        /// Bits to invert.
        xor: [u8; 4],
    },
    /// Looks a key up in a set or map.
    Lookup {
        /// Name of the set.
        set: String,
        /// First register of the key.
        from: u32,
        /// Use of the result.
        result: LookupResult,
    },
    /// Hashes registers by Jenkins' hash, equal for equal bytes.
    Hash {
        /// First register of the bytes.
        from: u32,
        /// Number of bytes.
        len: u32,
        /// Upper bound of the result, which is below it.
        modulus: u32,
        /// Seed; gateways with equal seeds agree.
        seed: u32,
        /// Register to fill.
        to: u32,
    },
    /// Loads a random number.
    Random {
        /// Upper bound of the result, which is below it.
        modulus: u32,
        /// Register to fill.
        to: u32,
    },
    /// Loads a constant.
    Immediate {
        /// Register to fill.
        to: u32,
        /// Constant to load.
        value: Vec<u8>,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Rewrites source or destination address.
    Nat {
        /// True for the source.
        source: bool,
        /// True for IPv4.
        ipv4: bool,
        /// Register of the address.
        address: u32,
        /// Register of the last address of a range.
        last_address: Option<u32>,
        /// Register of the port.
        port: Option<u32>,
    },
    /// Counts with a named counter.
    Count(String),
    /// Counts with the counter that a map gives.
    CountBy {
        /// Name of the map.
        set: String,
        /// First register of the key.
        from: u32,
    },
    /// Rejects the packet with an answer to its sender.
    Reject(Reject),
    /// Rewrites the source address to that of the outgoing interface.
    Masquerade,
    /// Loads the type of the destination address (`RTN_*` of `linux/rtnetlink.h`): 1 another host's, 2 this host's.
    DestinationKind {
        /// Register to fill.
        to: u32,
    },
    /// Assigns the packet to a transparent socket of this host (TPROXY); does not match if there is none.
    HandOver {
        /// True for IPv4.
        ipv4: bool,
        /// Register of the socket's address.
        address: u32,
        /// Register of the socket's port.
        port: u32,
    },
    /// Matches up to a rate.
    Limit {
        /// Rate per second.
        per_second: u64,
        /// Burst above the rate.
        burst: u32,
    },
    /// Enables tracing of the packet (`nftrace`).
    SetTrace {
        /// Register that holds 1.
        from: u32,
    },
    /// Loads the largest TCP segment that fits both directions' routes, two bytes in host order.
    RouteSegment {
        /// Register to fill.
        to: u32,
    },
    /// Converts two bytes of a register to network order.
    NetworkOrder {
        /// Register to convert.
        register: u32,
    },
    /// Lowers the maximum segment size in a TCP SYN.
    SetSegment {
        /// Register with the value.
        from: u32,
    },
    /// Expression that this crate does not write.
    Foreign(String),
}

/// Header that a payload offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Network header (IP).
    Network,
    /// Transport header (TCP, UDP, SCTP or ICMP).
    Transport,
}

/// Metadata of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// Packet mark.
    Mark,
    /// Name of the incoming interface, 16 bytes.
    InputName,
    /// Name of the outgoing interface, 16 bytes.
    OutputName,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, one byte.
    Family,
    /// Transport protocol, one byte.
    Transport,
}

/// Value of connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ct {
    /// State bit: invalid 1, established 2, related 4, new 8.
    State,
    /// Connection mark.
    Mark,
    /// IPv4 destination of the original direction.
    OriginalDestination4,
    /// IPv6 destination of the original direction.
    OriginalDestination6,
    /// Direction of the packet: 0 original, 1 reply; one byte.
    Direction,
    /// Status bits, among them source NAT 16 and destination NAT 32.
    Status,
    /// IPv4 source of the original direction.
    OriginalSource4,
    /// IPv6 source of the original direction.
    OriginalSource6,
    /// IPv4 source of the reply direction.
    ReplySource4,
    /// IPv6 source of the reply direction.
    ReplySource6,
}

/// Use of a lookup's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupResult {
    /// Match if the key is present.
    Present,
    /// Match if the key is absent.
    Absent,
    /// Fill a register with the data.
    To(u32),
    /// Apply the verdict.
    Verdict,
}

/// Verdict on a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Continue with the next hook.
    Accept,
    /// Drop the packet.
    Drop,
    /// Return to the calling chain.
    Return,
    /// Continue in a chain, and return.
    Jump(String),
    /// Continue in a chain, without return.
    Goto(String),
}

/// Answer to the sender of a rejected packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// TCP reset.
    Reset,
    /// ICMP "port unreachable".
    Port,
    /// ICMP "administratively prohibited".
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

/// Bytes formatted in hexadecimal.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
