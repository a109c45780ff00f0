//! Chains of other tables that drop forwarded packets by default.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decode;
use super::expression::{Expression, Verdict};
use super::table::{Ownership, Table, TableError};
use super::uapi::{HEADER, INET, msg};
use crate::netlink::Message;

const FORWARD: u32 = 2;
const DROP_POLICY: u32 = 0;

/// Family, table and chain.
type Name = (&'static str, String, String);

/// Returns chains that drop forwarded packets unless a rule accepts them, by policy or by their last rule, as `family table chain`.
pub(crate) fn dropping_chains(own: &str, timeout: Duration) -> Result<Vec<String>, TableError> {
    let table = Table::open(own, Ownership::Shared, timeout)?;
    // True if the chain drops packets that reach its end.
    let mut chains: BTreeMap<Name, bool> = BTreeMap::new();
    for message in table.dump_all(msg::GETCHAIN)? {
        let from = message.attributes(HEADER);
        let hooked = from.get(4).is_some() && from.nested(4).be32(1) == Some(FORWARD);
        let name = family(&message).zip(from.text(1).zip(from.text(3)));
        if let (true, Some((family, (table, chain)))) =
            (hooked && from.text(1).as_deref() != Some(own), name)
        {
            chains.insert((family, table, chain), from.be32(5) == Some(DROP_POLICY));
        }
    }
    let mut last: BTreeMap<Name, bool> = BTreeMap::new();
    for message in table.dump_all(msg::GETRULE)? {
        let from = message.attributes(HEADER);
        let rule = decode::rule(from);
        if let (Some(family), Some(table), Some((chain, rule))) =
            (family(&message), from.text(1), rule)
        {
            last.insert((family, table, chain), drops_all(&rule));
        }
    }
    let dropping = chains
        .into_iter()
        .filter(|(name, by_policy)| *by_policy || last.get(name).copied().unwrap_or_default());
    Ok(dropping.map(|((family, table, chain), _)| format!("{family} {table} {chain}")).collect())
}

fn family(message: &Message) -> Option<&'static str> {
    match message.payload.first()? {
        &INET => Some("inet"),
        2 => Some("ip"),
        10 => Some("ip6"),
        _ => None,
    }
}

/// Returns true if the rule drops or rejects every packet.
fn drops_all(rule: &[Expression]) -> bool {
    let counts = |one: &Expression| matches!(one, Expression::Foreign(name) if name == "counter");
    let mut rest = rule.iter().filter(|one| !counts(one));
    let ends = match rest.next() {
        Some(Expression::Verdict(Verdict::Drop) | Expression::Reject(_)) => true,
        Some(Expression::Foreign(name)) => name == "reject",
        _ => false,
    };
    ends && rest.next().is_none()
}
