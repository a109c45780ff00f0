//! `requestHeaders` and `responseHeaders`: changes that cannot forge a header, frame a body or fool a proxy.
//!
//! Deliberately absent: variables; values are sent as written.

use std::sync::Arc;

use durward_model::route::HeaderRules;

use super::report::{Field, Report};
use super::words;
use crate::place::At;
use crate::spec::route::HeaderRulesSpec;

/// Which way the headers go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To an upstream.
    Request,
    /// To a client.
    Response,
}

/// Fields that say where a message ends or belong to one connection (RFC 9110 §7.6.1, RFC 9112 §6): the engine's own.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// The rules without those that are wrong, each of which is reported.
pub(crate) fn rules(
    report: &mut Report<'_>,
    spec: &HeaderRulesSpec,
    field: &Field<'_>,
    direction: Direction,
) -> HeaderRules {
    let remove_field = field.name("remove");
    let remove = spec.remove.iter().enumerate();
    let remove = remove
        .filter_map(|(at, written)| name(report, written, &remove_field.index(at), direction))
        .collect();
    let mut pairs = |entries: &std::collections::BTreeMap<At<String>, At<String>>, list: &str| {
        let list = field.name(list);
        let mut pairs: Vec<(Arc<str>, Arc<str>)> = Vec::with_capacity(entries.len());
        for (written, value) in entries {
            let field = list.name(written);
            let name = name(report, written, &field, direction);
            let value = report.check("BadHeader", value, &field, words::header_value);
            pairs.extend(name.zip(value));
        }
        pairs
    };
    let set = pairs(&spec.set, "set");
    let add = pairs(&spec.add, "add");
    HeaderRules { remove, set, add }
}

fn name(
    report: &mut Report<'_>,
    written: &At<String>,
    field: &Field<'_>,
    direction: Direction,
) -> Option<Arc<str>> {
    let name = report.check("BadHeader", written, field, words::header_name)?;
    let fault = if FRAMING.contains(&&*name) {
        "frames messages and is never changed by rules"
    } else if &*name == "host" && direction == Direction::Request {
        "is changed with rewrite.host, not with header rules"
    } else {
        return Some(name);
    };
    let sentence = format!("{:?} {fault}", written.value);
    report.error("HeaderReserved", written.place, field, &sentence);
    None
}
