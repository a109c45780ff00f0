//! Conditions of an object: what became of it, from the verdict of `compile` and the reports of the planes.
//!
//! `Accepted` is what `compile` says. `Programmed` is true only when every plane has confirmed this very revision; a plane that serves an earlier one confirms nothing.
//! `Ready` sums both up.

mod digest;
mod writer;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use durward_model::verdict::{Finding, Outcome, Severity, Verdict};
use serde::{Deserialize, Serialize};

pub use durward_control::stream::PlaneReport;
pub use writer::{Desired, Writer, WriterOptions, WriterReport};

/// Condition that says what `compile` says.
pub const ACCEPTED: &str = "Accepted";
/// Condition that says whether the planes serve it.
pub const PROGRAMMED: &str = "Programmed";
/// Condition that sums the others up.
pub const READY: &str = "Ready";

/// Longest message of a condition, in bytes. The API allows 32 KiB; people read less.
const LONGEST_MESSAGE: usize = 1_024;
/// Findings that are written out.
const FINDINGS: usize = 8;

/// Status of a condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Truth {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// Not known yet.
    #[default]
    Unknown,
}

/// A condition, as objects carry it (`metav1.Condition`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Type of the condition.
    pub r#type: Arc<str>,
    /// Status of the condition.
    pub status: Truth,
    /// A stable word for programs.
    #[serde(default)]
    pub reason: Arc<str>,
    /// A sentence for people.
    #[serde(default)]
    pub message: Arc<str>,
    /// The generation of the object that this was said of.
    #[serde(default)]
    pub observed_generation: u64,
    /// When `status` last changed, in RFC 3339.
    #[serde(default)]
    pub last_transition_time: Arc<str>,
}

/// A condition without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Type of the condition.
    pub r#type: &'static str,
    /// Status of the condition.
    pub status: Truth,
    /// A stable word for programs.
    pub reason: Arc<str>,
    /// A sentence for people.
    pub message: Arc<str>,
}

/// Returns the conditions of an object in the revision that the verdict is on: `Accepted`, `Programmed` and `Ready`, in this order.
#[must_use]
pub fn judge(verdict: &Verdict, planes: &[PlaneReport]) -> [Judgement; 3] {
    let accepted = accepted(verdict);
    let programmed = programmed(verdict, planes);
    let ready = ready(&accepted, &programmed);
    [accepted, programmed, ready]
}

/// Returns the conditions with their times: that of the former condition where its status was the same, else `now`.
#[must_use]
pub fn with_times(
    judgements: &[Judgement],
    generation: u64,
    former: &[Condition],
    now: &Arc<str>,
) -> Vec<Condition> {
    let time = |judgement: &Judgement| {
        let same = former.iter().find(|former| {
            *former.r#type == *judgement.r#type && former.status == judgement.status
        });
        let time = same.map(|former| &former.last_transition_time).filter(|time| !time.is_empty());
        Arc::clone(time.unwrap_or(now))
    };
    judgements
        .iter()
        .map(|judgement| Condition {
            r#type: Arc::from(judgement.r#type),
            status: judgement.status,
            reason: Arc::clone(&judgement.reason),
            message: Arc::clone(&judgement.message),
            observed_generation: generation,
            last_transition_time: time(judgement),
        })
        .collect()
}

fn accepted(verdict: &Verdict) -> Judgement {
    let worst = worst(&verdict.findings);
    let findings = || sentences(&verdict.findings);
    let (status, reason, message) = match verdict.outcome {
        Outcome::Accepted if verdict.findings.is_empty() => {
            (Truth::True, "Accepted", "all of it is served".to_owned())
        }
        Outcome::Accepted => (Truth::True, "Accepted", format!("with warnings: {}", findings())),
        Outcome::Partial => {
            let message = format!("some of it is left out: {}", findings());
            (Truth::False, worst.unwrap_or("PartlyAccepted"), message)
        }
        Outcome::KeptLastGood => {
            let message = format!("the last accepted revision is served on: {}", findings());
            (Truth::False, worst.unwrap_or("Rejected"), message)
        }
        Outcome::Rejected => {
            let message = format!("nothing of it is served: {}", findings());
            (Truth::False, worst.unwrap_or("Rejected"), message)
        }
    };
    Judgement::new(ACCEPTED, status, reason, &message)
}

/// Returns the reason of the first error, or else of the first warning.
fn worst(findings: &[Finding]) -> Option<&str> {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    errors.chain(findings).next().map(|finding| &*finding.reason)
}

/// Returns the findings as one line, errors first.
fn sentences(findings: &[Finding]) -> String {
    let mut ordered: Vec<&Finding> = findings.iter().collect();
    ordered.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut line = String::new();
    for (at, finding) in ordered.iter().take(FINDINGS).enumerate() {
        let separator = if at == 0 { "" } else { "; " };
        // Writing to a string cannot fail.
        let _ = write!(line, "{separator}{finding}");
    }
    if let Some(more) = ordered.len().checked_sub(FINDINGS).filter(|more| *more > 0) {
        let _ = write!(line, "; and {more} more");
    }
    line
}

fn programmed(verdict: &Verdict, planes: &[PlaneReport]) -> Judgement {
    let no =
        |reason: &str, message: &str| Judgement::new(PROGRAMMED, Truth::False, reason, message);
    match verdict.outcome {
        Outcome::Rejected => return no("NotAccepted", "nothing of it is served"),
        Outcome::KeptLastGood => {
            return no("NotAccepted", "an earlier revision is served, not this one");
        }
        Outcome::Accepted | Outcome::Partial => {}
    }
    if let Some((plane, (reason, message))) =
        planes.iter().find_map(|plane| Some((&plane.plane, plane.problem.as_ref()?)))
    {
        return no(reason, &format!("{plane}: {message}"));
    }
    let waiting: Vec<&str> = planes
        .iter()
        .filter(|plane| plane.confirmed.as_ref() != Some(&verdict.observed))
        .map(|plane| &*plane.plane)
        .collect();
    if planes.is_empty() {
        return no("Pending", "no plane has reported yet");
    }
    if !waiting.is_empty() {
        return no("Pending", &format!("waiting for {}", waiting.join(", ")));
    }
    Judgement::new(PROGRAMMED, Truth::True, "Programmed", "every plane serves this revision")
}

fn ready(accepted: &Judgement, programmed: &Judgement) -> Judgement {
    let lacking = [accepted, programmed].into_iter().find(|it| it.status != Truth::True);
    match lacking {
        None => Judgement::new(READY, Truth::True, "Ready", "accepted and served"),
        Some(lacking) => Judgement { r#type: READY, ..lacking.clone() },
    }
}

impl Judgement {
    /// Builds a judgement, with no more of the message than a condition holds.
    pub(crate) fn new(r#type: &'static str, status: Truth, reason: &str, message: &str) -> Self {
        let message = bounded(&printable(message));
        Self { r#type, status, reason: Arc::from(reason), message: Arc::from(message) }
    }
}

/// Returns `message` with control characters escaped: it is shown on terminals, and in Events, which are a line each.
fn printable(message: &str) -> Cow<'_, str> {
    if !message.contains(char::is_control) {
        return Cow::Borrowed(message);
    }
    let escaped = |letter: char| match letter.is_control() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    Cow::Owned(message.chars().map(escaped).collect())
}

/// Returns `message`, cut where it is too long.
pub(crate) fn bounded(message: &str) -> String {
    if message.len() <= LONGEST_MESSAGE {
        return message.to_owned();
    }
    let mut end = LONGEST_MESSAGE - 4;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} ...", &message[..end])
}

#[cfg(test)]
mod tests {
    use durward_model::{DocumentKey, Kind, Origin, ResourceId, Revision};

    use super::*;

    /// A verdict on this generation of the object with uid `u`.
    fn verdict(generation: u64, outcome: Outcome, findings: Vec<Finding>) -> Verdict {
        let resource = ResourceId::new(Kind::Tenant, "acme");
        let document = DocumentKey::Object(resource.clone());
        let (observed, origin) = (revision("u", generation), Origin::default());
        Verdict { document, resource, observed, outcome, findings, origin }
    }

    fn finding(severity: Severity, reason: &str, field: &str) -> Finding {
        Finding {
            severity,
            reason: Arc::from(reason),
            field: Arc::from(field),
            sentence: Arc::from("is wrong"),
            origin: Origin::default(),
            excerpt: None,
        }
    }

    fn revision(uid: &str, generation: u64) -> Revision {
        Revision { uid: Some(Arc::from(uid)), generation }
    }

    fn plane(name: &str, confirmed: Option<Revision>) -> PlaneReport {
        PlaneReport { plane: Arc::from(name), confirmed, problem: None }
    }

    fn of(judgement: &Judgement) -> (Truth, &str) {
        (judgement.status, &judgement.reason)
    }

    #[test]
    fn programmed_is_true_only_when_every_plane_confirmed_this_very_revision() {
        let verdict = verdict(4, Outcome::Accepted, Vec::new());
        let now = revision("u", 4);
        let programmed = |planes: &[PlaneReport]| of(&judge(&verdict, planes)[1]).0;
        let yes = || plane("proxy", Some(now.clone()));

        assert_eq!(programmed(&[yes()]), Truth::True);
        assert_eq!(programmed(&[yes(), plane("nat", Some(now.clone()))]), Truth::True);
        for other in [
            vec![],
            vec![yes(), plane("nat", None)],
            vec![yes(), plane("nat", Some(revision("u", 3)))],
            vec![plane("proxy", Some(revision("other", 4)))],
            vec![PlaneReport { problem: Some(("BindFailed".into(), "in use".into())), ..yes() }],
        ] {
            assert_eq!(programmed(&other), Truth::False, "{other:?}");
        }
    }

    #[test]
    fn a_revision_that_is_not_accepted_is_not_programmed_whatever_planes_say() {
        let now = revision("u", 4);
        for outcome in [Outcome::Rejected, Outcome::KeptLastGood] {
            let verdict =
                verdict(4, outcome, vec![finding(Severity::Error, "AddressTaken", "spec.x")]);

            let [accepted, programmed, ready] =
                judge(&verdict, &[plane("proxy", Some(now.clone()))]);

            assert_eq!(of(&accepted), (Truth::False, "AddressTaken"));
            assert_eq!(of(&programmed), (Truth::False, "NotAccepted"));
            assert_eq!(of(&ready), (Truth::False, "AddressTaken"));
            assert!(accepted.message.contains("spec.x is wrong"), "{}", accepted.message);
        }
    }

    #[test]
    fn a_partly_accepted_object_is_not_ready_though_the_rest_is_served() {
        let now = revision("u", 1);
        let findings =
            vec![finding(Severity::Warning, "Odd", "a"), finding(Severity::Error, "Bad", "b")];

        let [accepted, programmed, ready] =
            judge(&verdict(1, Outcome::Partial, findings), &[plane("proxy", Some(now))]);

        assert_eq!(of(&accepted), (Truth::False, "Bad"));
        assert_eq!(&*accepted.message, "some of it is left out: b is wrong; a is wrong");
        assert_eq!(of(&programmed), (Truth::True, "Programmed"));
        assert_eq!(of(&ready), (Truth::False, "Bad"));
    }

    #[test]
    fn warnings_do_not_make_an_object_less_ready() {
        let now = revision("u", 1);
        let warned = verdict(1, Outcome::Accepted, vec![finding(Severity::Warning, "Odd", "a")]);

        let judged = judge(&warned, &[plane("proxy", Some(now))]);

        assert!(judged.iter().all(|judgement| judgement.status == Truth::True));
        assert_eq!(&*judged[0].message, "with warnings: a is wrong");
    }

    #[test]
    fn a_message_is_bounded_however_many_findings_there_are() {
        let findings = vec![finding(Severity::Error, "Bad", &"é".repeat(400)); 50];

        let [accepted, ..] = judge(&verdict(1, Outcome::Rejected, findings), &[]);
        let few = vec![finding(Severity::Error, "Bad", "a"); 10];
        let [short, ..] = judge(&verdict(1, Outcome::Rejected, few), &[]);

        assert!(accepted.message.len() <= LONGEST_MESSAGE && accepted.message.ends_with(" ..."));
        assert!(short.message.ends_with("; and 2 more"), "{}", short.message);
    }

    #[test]
    fn the_time_of_a_condition_changes_only_with_its_status() {
        let judged = judge(&verdict(2, Outcome::Accepted, Vec::new()), &[]);
        let former = |r#type: &str, status| Condition {
            r#type: Arc::from(r#type),
            status,
            reason: Arc::from("Former"),
            message: Arc::default(),
            observed_generation: 1,
            last_transition_time: Arc::from("2026-01-01T00:00:00Z"),
        };

        let conditions = with_times(
            &judged,
            2,
            &[former(ACCEPTED, Truth::True), former(PROGRAMMED, Truth::True)],
            &Arc::from("2026-11-29T17:00:00Z"),
        );

        let times: Vec<(&str, &str)> =
            conditions.iter().map(|it| (&*it.r#type, &*it.last_transition_time)).collect();
        assert_eq!(
            times,
            [
                (ACCEPTED, "2026-01-01T00:00:00Z"),
                (PROGRAMMED, "2026-11-29T17:00:00Z"),
                (READY, "2026-11-29T17:00:00Z"),
            ]
        );
        assert!(conditions.iter().all(|it| it.observed_generation == 2));
    }
}
