//! Proofs that a public endpoint leads to the cluster of a link: an answer that only its agents can compute.
//!
//! The answer covers the endpoint as the agent knows it. So an old address that another host has by now cannot pass the question on to the cluster.

use std::fmt;

use aws_lc_rs::{hmac, rand};
use serde::{Deserialize, Serialize};

/// Path under which an agent answers, with the key's name, a slash and the question after it.
pub const PROOF_PATH: &str = "/.well-known/durward-link/";

/// Bytes of a key.
const KEY: usize = 32;

/// Key that a gateway gives to the agents of one link.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProofKey(String);

impl ProofKey {
    /// Makes a random key; `None` where the kernel gives no random bytes.
    #[must_use]
    pub fn random() -> Option<Self> {
        random().map(Self)
    }

    /// Makes a random question.
    #[must_use]
    pub fn question() -> Option<String> {
        random()
    }

    /// Returns the name of the key, which tells nothing of it.
    #[must_use]
    pub fn name(&self) -> String {
        self.sign(b"name")[..16].to_owned()
    }

    /// Returns the answer to a question about an endpoint.
    #[must_use]
    pub fn answer(&self, question: &str, endpoint: &str) -> String {
        // A newline is in neither part.
        self.sign(format!("answer\n{question}\n{endpoint}").as_bytes())
    }

    fn sign(&self, text: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes());
        hex(hmac::sign(&key, text).as_ref())
    }
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProofKey(redacted)")
    }
}

fn random() -> Option<String> {
    let mut bytes = [0; KEY];
    rand::fill(&mut bytes).ok()?;
    Some(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // S3.90+
    #[test]
    fn an_answer_is_for_one_key_question_and_endpoint() {
        let (key, other) = (ProofKey::random().unwrap(), ProofKey::random().unwrap());
        let answer = key.answer("q", "192.0.2.1:80");

        assert_eq!(answer, key.answer("q", "192.0.2.1:80"));
        for different in [
            other.answer("q", "192.0.2.1:80"),
            key.answer("r", "192.0.2.1:80"),
            key.answer("q", "192.0.2.2:80"),
            key.answer("q\n192.0.2.1", "80"),
        ] {
            assert_ne!(answer, different);
        }
        assert_ne!(key.name(), other.name());
        assert_eq!(format!("{key:?}"), "ProofKey(redacted)");
    }
}
