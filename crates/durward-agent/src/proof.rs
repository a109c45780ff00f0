//! Answers to the gateway's proofs: that a public endpoint leads to this cluster.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use durward_link::control::{PROOF_PATH, ProofKey};

/// Keys that are kept; one for each process of the gateway.
const KEYS: usize = 32;
/// Characters of a question at most.
const QUESTION: usize = 128;

/// Keys that gateways gave. Their names are in the questions.
#[derive(Debug, Default)]
pub struct Proofs(Mutex<VecDeque<ProofKey>>);

impl Proofs {
    /// Keeps a key; beyond a number of them the oldest is forgotten.
    pub fn keep(&self, key: ProofKey) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|known| *known != key);
        keys.push_back(key);
        if keys.len() > KEYS {
            keys.pop_front();
        }
    }

    /// Answers the request for a path, where the cluster is reached at `endpoint`; `None` if it is no question or of no key that is known.
    #[must_use]
    pub fn answer(&self, path: &str, endpoint: &str) -> Option<String> {
        let (name, question) = path.strip_prefix(PROOF_PATH)?.split_once('/')?;
        let is_one = question.len() <= QUESTION && question.bytes().all(|b| b.is_ascii_hexdigit());
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = keys.iter().find(|key| key.name() == name).filter(|_| is_one)?;
        Some(key.answer(question, endpoint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S3.90+
    #[test]
    fn questions_are_answered_with_the_key_that_they_name_for_the_endpoint_of_the_cluster() {
        let (proofs, key) = (Proofs::default(), ProofKey::random().unwrap());
        let path = |question: &str| format!("{PROOF_PATH}{}/{question}", key.name());
        assert_eq!(proofs.answer(&path("0a"), "192.0.2.1:80"), None, "no key is known");

        proofs.keep(key.clone());

        let answer = proofs.answer(&path("0a"), "192.0.2.1:80");
        assert_eq!(answer, Some(key.answer("0a", "192.0.2.1:80")));
        for bad in [path("x"), path(&"0".repeat(129)), "/".to_owned(), format!("{PROOF_PATH}x/0a")]
        {
            assert_eq!(proofs.answer(&bad, "192.0.2.1:80"), None, "{bad}");
        }
        for _ in 0..KEYS {
            proofs.keep(ProofKey::random().unwrap());
        }
        assert_eq!(proofs.answer(&path("0a"), "192.0.2.1:80"), None, "the oldest is forgotten");
    }
}
