//! Certificates, keys, authorities and revocation lists: bytes in, what we need to know of them out, or a sentence why not.
//!
//! Deliberately absent: files and clocks; whether a certificate has ended is asked where `now` is known.

pub mod authority;
pub mod identity;
pub mod key;
mod pem;
mod signature;
pub mod x509;

pub use authority::{Authority, Revocations};
pub use identity::{Identity, Remark};
pub use signature::Signature;

use aws_lc_rs::digest;

/// SHA-256 over `parts`, lower-case hexadecimal.
pub(crate) fn sha256<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    hex(&sha256_bytes(parts))
}

/// SHA-256 over `parts`.
pub(crate) fn sha256_bytes<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(context.finish().as_ref());
    sum
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
