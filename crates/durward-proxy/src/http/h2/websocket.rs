//! What HTTP/1.1 wants of a WebSocket handshake and extended CONNECT (RFC 8441 §5) does not carry: key and proof.
//!
//! Deliberately absent: frames of the protocol itself.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::random::Random;

/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// `Sec-WebSocket-Key`: 16 bytes in base64.
pub(crate) fn new_key(random: &Random) -> String {
    let mut bytes = [0; 16];
    for word in bytes.chunks_exact_mut(4) {
        word.copy_from_slice(&random.next().to_ne_bytes());
    }
    base64(&bytes)
}

/// Whether `accept` proves that `key` was read.
pub(crate) fn accepts(key: &[u8], accept: &[u8]) -> bool {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    base64(hash.as_ref()).as_bytes() == accept
}

/// RFC 4648 section 4.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .chain(std::iter::repeat(&0))
            .take(3)
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        for at in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        assert!(accepts(b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(!accepts(b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOp="));
    }

    #[test]
    fn base64_is_padded() {
        let texts: Vec<_> =
            ["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes())).into();

        assert_eq!(texts, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }
}
