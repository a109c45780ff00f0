//! Percent-encoding of URLs and of OpenTelemetry's variables (RFC 3986 §2.1).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// All characters except the unreserved ones of RFC 3986 §2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encodes every byte of `text` that is no unreserved character.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Decodes `text`, and returns `None` where two hexadecimal digits do not follow a `%`.
pub(crate) fn decoded(text: &str) -> Option<Vec<u8>> {
    // The library leaves a `%` without two digits as it is.
    let sound = |rest: &str| matches!(rest.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    text.split('%').skip(1).all(sound).then(|| percent_decode_str(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_again_and_a_lone_percent_sign_is_not() {
        let text = "a:b@c/d é%~";

        assert_eq!(encoded(text), "a%3Ab%40c%2Fd%20%C3%A9%25~");
        assert_eq!(decoded(&encoded(text)).as_deref(), Some(text.as_bytes()));
        assert_eq!(decoded("%ff").as_deref(), Some(&b"\xff"[..]));
        for odd in ["%", "a%2", "%zz", "%%41", "%+1", "%é"] {
            assert_eq!(decoded(odd), None, "{odd}");
        }
    }
}
