//! Reasons why an authority gave no certificate: one variant per reaction.

use std::time::Duration;

use instant_acme::{Error, Problem};

/// Prefix of ACME's problem types (RFC 8555 §6.7).
const TYPES: &str = "urn:ietf:params:acme:error:";
/// Characters of an authority's text that are kept: it goes to logs and terminals.
const LONGEST: usize = 500;

/// Reason why something was not done, as a sentence without full stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No answer came, or none that is ACME: retried soon.
    #[error("the authority does not answer: {0}")]
    Unreachable(String),
    /// The authority asks to wait.
    #[error("the authority's rate limit is reached: {detail}")]
    RateLimited {
        /// Sentence of the authority.
        detail: String,
        /// Time to wait, if the authority names one.
        retry_after: Option<Duration>,
    },
    /// The account does not exist, or was deactivated or revoked: a new one is needed.
    #[error("the account is not valid: {0}")]
    AccountGone(String),
    /// The authority refuses: a name could not be validated, or may not be issued.
    #[error("the authority refuses: {0}")]
    Refused(String),
    /// Something on this host is in the way, such as a full disk: retried soon.
    #[error("{0}")]
    Here(String),
    /// The request cannot be made as asked: a profile or challenge that the authority does not have.
    #[error("{0}")]
    Unsupported(String),
}

/// Step in which an error came up; `unauthorized` means something else in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Requests in which the account is what is authorized.
    Account,
    /// Requests about an order, where a name is.
    Order,
}

impl Fault {
    /// Classifies an error of a phase. `retry_after` is what the last response asked for.
    pub(crate) fn of(error: Error, phase: Phase, retry_after: Option<Duration>) -> Self {
        match error {
            Error::Api(problem) => Self::of_problem(&problem, phase, retry_after),
            Error::Timeout(_) => Self::Unreachable("the order was not decided in time".to_owned()),
            Error::Unsupported(what) => {
                Self::Unsupported(format!("the authority does not support {what}"))
            }
            Error::KeyRejected | Error::Crypto => Self::Unsupported(
                "the account key cannot be used: it must be ECDSA P-256 in PKCS#8".to_owned(),
            ),
            other => Self::Unreachable(printable(&other.to_string())),
        }
    }

    fn of_problem(problem: &Problem, phase: Phase, retry_after: Option<Duration>) -> Self {
        let kind = problem.r#type.as_deref().unwrap_or_default();
        let kind = kind.strip_prefix(TYPES).unwrap_or(kind);
        let detail = detail(problem, kind);
        match kind {
            "rateLimited" => Self::RateLimited { detail, retry_after },
            "accountDoesNotExist" => Self::AccountGone(detail),
            "unauthorized" if phase == Phase::Account => Self::AccountGone(detail),
            "serverInternal" | "badNonce" => Self::Unreachable(detail),
            // Authorities that are busy answer 503 with whatever type (RFC 8555 §6.7 allows it).
            _ if problem.status == Some(503) || problem.status == Some(429) => {
                Self::RateLimited { detail, retry_after }
            }
            _ => Self::Refused(detail),
        }
    }
}

/// Returns what a problem document says, subproblems included.
fn detail(problem: &Problem, kind: &str) -> String {
    let mut text = problem.detail.clone().unwrap_or_else(|| kind.to_owned());
    for sub in &problem.subproblems {
        text.push_str(&format!("; {sub}"));
    }
    if !kind.is_empty() && !text.contains(kind) {
        text.push_str(&format!(" ({kind})"));
    }
    printable(&text)
}

/// Returns a peer's text, bounded and without characters that a terminal would interpret.
pub(crate) fn printable(text: &str) -> String {
    let plain = |character: char| if character.is_control() { ' ' } else { character };
    let mut shown: String = text.chars().take(LONGEST).map(plain).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> Error {
        Error::Api(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn each_problem_is_known_by_the_reaction_it_asks_for() {
        let wait = Some(Duration::from_secs(7));
        let cases = [
            (
                r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many","status":429}"#,
                Phase::Order,
                Fault::RateLimited { detail: "too many (rateLimited)".into(), retry_after: wait },
            ),
            (
                r#"{"type":"urn:ietf:params:acme:error:unauthorized","detail":"deactivated"}"#,
                Phase::Account,
                Fault::AccountGone("deactivated (unauthorized)".into()),
            ),
            (
                r#"{"type":"urn:ietf:params:acme:error:unauthorized","detail":"wrong answer"}"#,
                Phase::Order,
                Fault::Refused("wrong answer (unauthorized)".into()),
            ),
            (
                r#"{"type":"urn:ietf:params:acme:error:serverInternal","detail":"down","status":500}"#,
                Phase::Order,
                Fault::Unreachable("down (serverInternal)".into()),
            ),
            (
                r#"{"type":"about:blank","detail":"busy","status":503}"#,
                Phase::Order,
                Fault::RateLimited { detail: "busy (about:blank)".into(), retry_after: wait },
            ),
        ];

        for (json, phase, expected) in cases {
            assert_eq!(Fault::of(problem(json), phase, wait), expected, "{json}");
        }
    }

    #[test]
    fn what_an_authority_says_is_shown_short_and_harmless() {
        let hostile = format!("a\n\u{1b}[2J{}", "x".repeat(10_000));

        let shown = printable(&hostile);

        assert!(shown.chars().count() <= LONGEST + 1 && !shown.contains(['\n', '\u{1b}']));
    }
}
