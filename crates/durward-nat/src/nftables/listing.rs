//! Chains and rules of all tables by their handles, to name the rules that a trace reports.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decode;
use super::expression::Expression;
use super::ruleset::Point;
use super::table::{Ownership, Table, TableError};
use super::uapi::{HEADER, msg};
use crate::netlink::{Attributes, Message};

/// Family and table.
pub(crate) type TableName = (&'static str, String);

/// Contents of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Hooks of base chains.
    pub(crate) hooks: BTreeMap<(TableName, String), Point>,
    /// Rules by handle.
    pub(crate) rules: BTreeMap<(TableName, u64), ListedRule>,
}

/// Rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedRule {
    pub(crate) chain: String,
    pub(crate) expressions: Vec<Expression>,
    /// Comment of the rule.
    pub(crate) comment: Option<String>,
}

impl Listing {
    /// Reads the listing in the thread's network namespace.
    pub(crate) fn read(timeout: Duration) -> Result<Self, TableError> {
        let table = Table::open("", Ownership::Shared, timeout)?;
        let mut found = Self::default();
        for message in table.dump_all(msg::GETCHAIN)? {
            let from = message.attributes(HEADER);
            let point = from.nested(4).be32(1).and_then(point);
            if let (Some(table), Some(chain), Some(point)) =
                (table_of(&message), from.text(3), point)
            {
                found.hooks.insert((table, chain), point);
            }
        }
        for message in table.dump_all(msg::GETRULE)? {
            let from = message.attributes(HEADER);
            let handle = from.get(3).and_then(|handle| handle.value.try_into().ok());
            if let (Some(table), Some(handle), Some((chain, expressions))) =
                (table_of(&message), handle.map(u64::from_be_bytes), decode::rule(from))
            {
                let rule = ListedRule { chain, expressions, comment: comment(from) };
                found.rules.insert((table, handle), rule);
            }
        }
        Ok(found)
    }
}

/// Returns the names of all tables of family `inet`.
pub(crate) fn tables(timeout: Duration) -> Result<Vec<String>, TableError> {
    let found = Table::open("", Ownership::Shared, timeout)?.dump_all(msg::GETTABLE)?;
    let inet = found.iter().filter(|message| message.payload.first() == Some(&super::uapi::INET));
    Ok(inet.filter_map(|message| message.attributes(HEADER).text(1)).collect())
}

/// Returns the name of a family number.
pub(crate) const fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "other",
    }
}

fn table_of(message: &Message) -> Option<TableName> {
    Some((family(*message.payload.first()?), message.attributes(HEADER).text(1)?))
}

fn point(number: u32) -> Option<Point> {
    let points =
        [Point::Prerouting, Point::Input, Point::Forward, Point::Output, Point::Postrouting];
    points.get(number as usize).copied()
}

/// Parses the comment from a rule's user data: type and length of one byte each, then the value; type 0 is a comment.
fn comment(from: Attributes<'_>) -> Option<String> {
    let mut rest = from.get(7)?.value;
    while let [kind, length, more @ ..] = rest {
        let value = more.get(..usize::from(*length))?;
        if *kind == 0 {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = &more[value.len()..];
    }
    None
}
