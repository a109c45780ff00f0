//! Probes for expressions that the kernel supports, by adding a rule and removing it in the same transaction.
//!
//! Kernel versions are not compared, because modules may be missing from any of them.

use std::time::Duration;

use rustix::io::Errno;

use super::batch::Batch;
use super::encode;
use super::expression::{Expression, Meta};
use super::ruleset::Chain;
use super::table::{Ownership, Table, TableError};
use super::uapi::msg;
use crate::netlink::flags;

/// Table name that no other program uses; the table is never visible to others.
const NAME: &str = "durward-probe";
/// Tries, because other programs may change rulesets at the same time.
const ATTEMPTS: usize = 20;

/// Returns true if the kernel supports TPROXY and the type of destination addresses.
///
/// # Errors
/// Fails without CAP_NET_ADMIN, or if the kernel does not answer.
pub(crate) fn hand_over(timeout: Duration) -> Result<bool, TableError> {
    let destination = Expression::DestinationKind { to: 8 };
    let rules = [true, false].map(|ipv4| {
        let value = vec![0; if ipv4 { 4 } else { 16 }];
        let family = vec![if ipv4 { 2 } else { 10 }];
        vec![
            Expression::Meta { key: Meta::Family, to: 8 },
            Expression::Compare { from: 8, equal: true, value: family },
            Expression::Meta { key: Meta::Transport, to: 8 },
            Expression::Compare { from: 8, equal: true, value: vec![6] },
            destination.clone(),
            Expression::Immediate { to: 12, value },
            Expression::Immediate { to: 9, value: vec![0; 2] },
            Expression::HandOver { ipv4, address: 12, port: 9 },
        ]
    });
    let table = Table::open(NAME, Ownership::Shared, timeout)?;
    for _ in 0..ATTEMPTS {
        match attempt(&table, &rules) {
            Ok(()) => return Ok(true),
            // The kernel does not have an expression (ENOENT), or not for this family (EOPNOTSUPP).
            Err(TableError::Refused { errno: Errno::NOENT | Errno::OPNOTSUPP, .. }) => {
                return Ok(false);
            }
            Err(TableError::Outdated) => {}
            Err(error) => return Err(error),
        }
    }
    Err(TableError::Outdated)
}

fn attempt(table: &Table, rules: &[Vec<Expression>]) -> Result<(), TableError> {
    let chain = "probe";
    let mut batch = Batch::begin(table.socket(), table.generation()?);
    batch.add("the table", msg::NEWTABLE, flags::CREATE | flags::EXCL, |to| {
        to.text(1, NAME);
    });
    batch.add("a chain", msg::NEWCHAIN, flags::CREATE, |to| {
        to.text(1, NAME);
        encode::chain(to, chain, &Chain::default());
    });
    for rule in rules {
        batch.add("a rule", msg::NEWRULE, flags::CREATE | flags::APPEND, |to| {
            to.text(1, NAME);
            encode::rule(to, chain, rule);
        });
    }
    batch.add("the table", msg::DELTABLE, 0, |to| {
        to.text(1, NAME);
    });
    batch.commit().map(|_| ())
}
