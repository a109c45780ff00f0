//! One step of a traced packet, as nfnetlink reports it.

use super::header::Header;
use crate::netlink::Message;
use crate::nftables::listing::family;

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Trace id, the same for all steps of a packet.
    pub(crate) id: u32,
    pub(crate) family: &'static str,
    pub(crate) table: String,
    pub(crate) chain: String,
    /// Handle of the rule that matched; `None` at a chain's end.
    pub(crate) handle: Option<u64>,
    pub(crate) verdict: TraceVerdict,
    /// Packet at this step; reported with the first step in a base chain.
    pub(crate) seen: Option<Seen>,
}

/// Verdict of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TraceVerdict {
    /// Continue with the next rule.
    Continue,
    /// Return to the calling chain.
    Return,
    /// Continue in another chain.
    To(String),
    /// Continue with the next hook.
    Accept,
    /// Drop the packet.
    Drop,
    /// Queue to a user-space program.
    Queue,
}

/// Packet at one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) header: Option<Header>,
    pub(crate) input: Option<u32>,
    pub(crate) output: Option<u32>,
    pub(crate) mark: u32,
}

const RULE: u32 = 3;

/// Parses the step in a message.
pub(crate) fn read(message: &Message) -> Option<Event> {
    let from = message.attributes(4);
    let kind = from.be32(4)?;
    let handle = from.get(3).and_then(|handle| handle.value.try_into().ok());
    let verdict = match from.be32(16) {
        Some(policy) => code(policy as i32, None),
        None => code(from.nested(5).be32(1)? as i32, from.nested(5).text(2)),
    };
    let bytes = |kind| from.get(kind).map_or(&[][..], |attribute| attribute.value);
    let seen = from.get(8).is_some().then(|| Seen {
        header: Header::read(bytes(8), bytes(9)),
        input: from.be32(10),
        output: from.be32(12),
        mark: from.be32(14).unwrap_or_default(),
    });
    Some(Event {
        id: from.be32(6)?,
        family: family(*message.payload.first()?),
        table: from.text(1)?,
        chain: from.text(2)?,
        handle: handle.map(u64::from_be_bytes).filter(|_| kind == RULE),
        verdict,
        seen,
    })
}

fn code(code: i32, chain: Option<String>) -> TraceVerdict {
    match (code, chain) {
        (0, _) => TraceVerdict::Drop,
        (1, _) => TraceVerdict::Accept,
        (-3 | -4, Some(chain)) => TraceVerdict::To(chain),
        (-5, _) => TraceVerdict::Return,
        (2 | 3, _) => TraceVerdict::Queue,
        _ => TraceVerdict::Continue,
    }
}

impl std::fmt::Display for TraceVerdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Continue => f.write_str("continue"),
            Self::Return => f.write_str("return"),
            Self::To(chain) => write!(f, "to {chain}"),
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Queue => f.write_str("queue"),
        }
    }
}
