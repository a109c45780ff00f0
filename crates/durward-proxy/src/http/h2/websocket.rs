//! WebSocket handshake fields of HTTP/1.1 that extended CONNECT (RFC 8441 §5) does not carry: key and accept value.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::prelude::{BASE64_STANDARD, Engine as _};

use crate::random::Random;

/// GUID that is hashed with the key (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Generates a `Sec-WebSocket-Key`: 16 random bytes in base64.
pub(crate) fn new_key(random: &Random) -> String {
    let mut bytes = [0; 16];
    for word in bytes.chunks_exact_mut(4) {
        word.copy_from_slice(&random.next().to_ne_bytes());
    }
    BASE64_STANDARD.encode(bytes)
}

/// Returns true if `accept` is the value for `key` (RFC 6455 §4.2.2).
pub(crate) fn accepts(key: &[u8], accept: &[u8]) -> bool {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    BASE64_STANDARD.encode(hash).as_bytes() == accept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        assert!(accepts(b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(!accepts(b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOp="));
    }
}
