//! Secrets in the forms they are shown and stored in.

use aws_lc_rs::digest::{SHA256, digest};
use base64::prelude::{BASE64_STANDARD, Engine as _};

/// The value of `Authorization` or `Proxy-Authorization` for a name and a secret.
#[must_use]
pub fn basic(user: &str, secret: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{secret}")))
}

/// SHA-256 in lower-case hexadecimal.
#[must_use]
pub fn sha256_hex(secret: &str) -> String {
    digest(&SHA256, secret.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
