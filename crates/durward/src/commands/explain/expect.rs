//! Expectations that a script has of an explanation.

use std::net::IpAddr;

use durward_model::explain::{Ending, Explanation};

/// Expectation, as `--expect` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expectation {
    /// The request is served, without a condition.
    Served,
    /// The gateway itself answers, with this status if one is given.
    Answered(Option<u16>),
    /// The request is refused, for this reason if one is given.
    Refused(Option<String>),
    /// The request belongs to this tenant.
    Tenant(String),
    /// The request goes to this upstream.
    Upstream(String),
    /// The request leaves from this address, and from no other that is not expected as well.
    Egress(IpAddr),
}

/// Parses an expectation.
///
/// # Errors
/// Returns the fault of the text.
pub(crate) fn parse(text: &str) -> Result<Expectation, String> {
    let wrong = || {
        format!(
            "{text:?} is none of served, answered[:STATUS], refused[:REASON], tenant=NAME, upstream=NAME, egress=ADDRESS"
        )
    };
    if let Some((what, value)) = text.split_once('=') {
        return match what {
            "tenant" => Ok(Expectation::Tenant(value.to_owned())),
            "upstream" => Ok(Expectation::Upstream(value.to_owned())),
            "egress" => {
                let address =
                    value.parse().map_err(|_| format!("egress={value:?} is not an IP address"));
                address.map(Expectation::Egress)
            }
            _ => Err(wrong()),
        };
    }
    let (what, value) =
        text.split_once(':').map_or((text, None), |(what, value)| (what, Some(value)));
    match (what, value) {
        ("served", None) => Ok(Expectation::Served),
        ("answered", None) => Ok(Expectation::Answered(None)),
        ("answered", Some(status)) => {
            let status = status.parse().map_err(|_| format!("answered:{status:?} is not a status"));
            status.map(|status| Expectation::Answered(Some(status)))
        }
        ("refused", reason) => Ok(Expectation::Refused(reason.map(str::to_owned))),
        _ => Err(wrong()),
    }
}

/// Returns one message for each expectation that does not hold.
pub(super) fn failures(expected: &[Expectation], answer: &Explanation) -> Vec<String> {
    let mut failures: Vec<String> =
        expected.iter().filter_map(|one| failure(one, answer)).collect();
    failures.extend(wrong_egress(expected, answer));
    failures
}

fn failure(expected: &Expectation, answer: &Explanation) -> Option<String> {
    let (ending, tenant) = (&answer.ending, answer.tenant.as_deref());
    let (holds, wanted) = match expected {
        Expectation::Served => (matches!(ending, Ending::Served { .. }), "served".to_owned()),
        Expectation::Answered(status) => (
            matches!(ending, Ending::Answered { status: is } if status.is_none_or(|one| one == *is)),
            status.map_or_else(|| "answered".to_owned(), |status| format!("answered {status}")),
        ),
        Expectation::Refused(reason) => (
            matches!(ending, Ending::Refused { reason: is } if reason.as_ref().is_none_or(|one| one == is)),
            reason
                .as_ref()
                .map_or_else(|| "refused".to_owned(), |reason| format!("refused {reason}")),
        ),
        Expectation::Tenant(name) => {
            let is = tenant.unwrap_or("nothing's");
            let sentence = format!("expected tenant {name}, but it is {is}");
            return (tenant != Some(name)).then_some(sentence);
        }
        Expectation::Upstream(name) => (
            matches!(ending, Ending::Served { upstream } if **upstream == **name),
            format!("served by {name}"),
        ),
        Expectation::Egress(_) => return None,
    };
    (!holds).then(|| format!("expected {wanted}, but it is {}", said(ending)))
}

/// Formats the ending as a clause.
fn said(ending: &Ending) -> String {
    match ending {
        Ending::Served { upstream } => format!("served by {upstream}"),
        Ending::ServedIf { upstream, condition } => {
            format!("served by {upstream} only if {condition}")
        }
        Ending::Answered { status } => format!("answered {status}"),
        Ending::Refused { reason } => format!("refused {reason}"),
    }
}

fn wrong_egress(expected: &[Expectation], answer: &Explanation) -> Option<String> {
    let wanted: Vec<IpAddr> = expected
        .iter()
        .filter_map(|one| match one {
            Expectation::Egress(address) => Some(*address),
            _ => None,
        })
        .collect();
    if wanted.is_empty() {
        return None;
    }
    let is_wanted =
        |text: &String| text.parse::<IpAddr>().is_ok_and(|address| wanted.contains(&address));
    if !answer.leaves_from.is_empty() && answer.leaves_from.iter().all(is_wanted) {
        return None;
    }
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    let is = match answer.leaves_from.as_slice() {
        [] => "nothing leaves".to_owned(),
        from => format!("it leaves from {}", from.join(", ")),
    };
    Some(format!("expected egress {}, but {is}", wanted.join(", ")))
}

#[cfg(test)]
mod tests {
    use durward_model::explain::Kind;

    use super::*;

    fn answer(ending: Ending, leaves_from: &[&str]) -> Explanation {
        Explanation {
            kind: Kind::Request,
            target: None,
            tenant: Some("acme".into()),
            leaves_from: leaves_from.iter().map(|one| (*one).to_owned()).collect(),
            steps: Vec::new(),
            ending,
        }
    }

    #[test]
    fn expectations_hold_or_say_what_is_instead() {
        let served =
            answer(Ending::Served { upstream: "app".into() }, &["203.0.113.1", "203.0.113.2"]);
        let refused = answer(Ending::Refused { reason: "no_route".into() }, &[]);
        let maybe = Ending::ServedIf { upstream: "outside".into(), condition: "x".to_owned() };
        let cases = [
            (&served, "served", true),
            (&served, "upstream=app", true),
            (&served, "upstream=other", false),
            (&served, "tenant=acme", true),
            (&served, "tenant=globex", false),
            (&served, "egress=203.0.113.1,egress=203.0.113.2", true),
            (&served, "egress=203.0.113.1", false),
            (&served, "refused", false),
            (&refused, "refused", true),
            (&refused, "refused:no_route", true),
            (&refused, "refused:policy_denied", false),
            (&refused, "egress=203.0.113.1", false),
            (&refused, "answered:200", false),
            (&answer(maybe, &["203.0.113.1"]), "served", false),
        ];

        for (answer, text, holds) in cases {
            let expected: Vec<_> = text.split(',').map(|one| parse(one).unwrap()).collect();
            let failures = failures(&expected, answer);
            assert_eq!(failures.is_empty(), holds, "{text}: {failures:?}");
        }
        for junk in ["", "serve", "answered:x", "egress=x", "colour=red", "served:x"] {
            assert!(parse(junk).is_err(), "{junk}");
        }
    }
}
