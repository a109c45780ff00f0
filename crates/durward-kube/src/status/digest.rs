//! Digest of an object's status: a few bytes that tell whether the status is current and from what to continue.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::{ACCEPTED, Condition, Judgement, PROGRAMMED, READY, Truth};

/// The conditions that are ours, in order.
const OURS: [&str; 3] = [ACCEPTED, PROGRAMMED, READY];

/// The status that an object has in the API server.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    digest: u64,
    conditions: [Option<Remembered>; 3],
    /// The generation that `Accepted` was last said of.
    pub(super) generation: u64,
}

/// A condition without its message.
#[derive(Clone, Debug)]
struct Remembered {
    status: Truth,
    reason: Arc<str>,
    time: Arc<str>,
}

impl Seen {
    pub(super) fn of(conditions: &[Condition]) -> Self {
        let ours = OURS.map(|ours| conditions.iter().find(|it| *it.r#type == *ours));
        let mut hasher = DefaultHasher::new();
        for condition in ours.iter().flatten() {
            let Condition { r#type, status, reason, message, observed_generation, .. } = condition;
            hash(&mut hasher, r#type, *status, reason, message, *observed_generation);
        }
        let remembered = |condition: &Condition| Remembered {
            status: condition.status,
            reason: Arc::clone(&condition.reason),
            time: Arc::clone(&condition.last_transition_time),
        };
        Self {
            digest: hasher.finish(),
            generation: ours[0].map_or(0, |accepted| accepted.observed_generation),
            conditions: ours.map(|condition| condition.map(remembered)),
        }
    }

    /// Returns whether the status says this already, at whatever time it began to.
    pub(super) fn says(&self, judgements: &[Judgement; 3], generation: u64) -> bool {
        let mut hasher = DefaultHasher::new();
        for Judgement { r#type, status, reason, message } in judgements {
            hash(&mut hasher, r#type, *status, reason, message, generation);
        }
        hasher.finish() == self.digest && self.conditions.iter().all(Option::is_some)
    }

    /// Returns whether a condition had this status and reason.
    pub(super) fn had(&self, judgement: &Judgement) -> bool {
        self.of_type(judgement.r#type)
            .is_some_and(|it| it.status == judgement.status && it.reason == judgement.reason)
    }

    /// Returns the conditions as far as their times matter.
    pub(super) fn conditions(&self) -> Vec<Condition> {
        OURS.iter()
            .zip(&self.conditions)
            .filter_map(|(r#type, remembered)| {
                let Remembered { status, reason, time } = remembered.clone()?;
                Some(Condition {
                    r#type: Arc::from(*r#type),
                    status,
                    reason,
                    message: Arc::default(),
                    observed_generation: self.generation,
                    last_transition_time: time,
                })
            })
            .collect()
    }

    fn of_type(&self, r#type: &str) -> Option<&Remembered> {
        let at = OURS.iter().position(|ours| *ours == r#type)?;
        self.conditions[at].as_ref()
    }
}

fn hash(
    hasher: &mut DefaultHasher,
    r#type: &str,
    status: Truth,
    reason: &str,
    message: &str,
    generation: u64,
) {
    (r#type, status, reason, message, generation).hash(hasher);
}
