//! Octets allowed in an HTTP head, and the faults of one; shared by HTTP/1 and HTTP/2.

use crate::refusal::Refusal;

/// Reason to refuse a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The head breaks this rule.
    Malformed(&'static str),
    /// The head has more bytes or fields than allowed.
    TooLarge,
    /// The request line alone is too long.
    TargetTooLong,
    /// The method is CONNECT, which only a forward proxy accepts.
    Connect,
    /// The HTTP version is not supported.
    Version,
    /// The request asks for an unsupported feature.
    NotSupported(&'static str),
}

impl Fault {
    /// Converts to a refusal, with the status where it is not the reason's own.
    pub(crate) fn of_request(self) -> (Refusal, Option<u16>) {
        match self {
            Self::Malformed(detail) => (Refusal::BadRequest { detail }, None),
            Self::TooLarge => (Refusal::HeadTooLarge, None),
            Self::TargetTooLong => (Refusal::HeadTooLarge, Some(414)),
            Self::Connect => (Refusal::NotSupported { detail: "CONNECT" }, Some(405)),
            Self::Version => (Refusal::NotSupported { detail: "version" }, Some(505)),
            Self::NotSupported(detail) => (Refusal::NotSupported { detail }, None),
        }
    }

    /// Converts to a refusal for an upstream's fault.
    pub(crate) fn of_response(self) -> Refusal {
        let detail = match self {
            Self::Malformed(detail) | Self::NotSupported(detail) => detail,
            Self::TooLarge | Self::TargetTooLong => "head too large",
            Self::Version | Self::Connect => "version",
        };
        Refusal::BadResponse { detail }
    }
}

const TOKEN: u8 = 1;
const VALUE: u8 = 2;
const TARGET: u8 = 4;

const CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            )
        {
            table[byte] |= TOKEN;
        }
        if b == b'\t' || (b >= b' ' && b != 0x7f) {
            table[byte] |= VALUE;
        }
        if b > b' ' && b < 0x7f && b != b'#' {
            table[byte] |= TARGET;
        }
        byte += 1;
    }
    table
}

/// Returns true if a byte may occur in a token (RFC 9110 §5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    CLASSES[byte as usize] & TOKEN != 0
}

/// Returns true if a byte may occur in a field value (RFC 9110 §5.5).
pub(crate) fn is_value_byte(byte: u8) -> bool {
    CLASSES[byte as usize] & VALUE != 0
}

/// Returns true for a field value. Without an early exit, so that the compiler vectorises the loop.
pub(crate) fn is_value(text: &[u8]) -> bool {
    text.iter()
        .fold(true, |good, byte| good & ((*byte >= b' ') & (*byte != 0x7f) | (*byte == b'\t')))
}

/// Returns true if a byte may occur in a request target.
pub(crate) fn is_target_byte(byte: u8) -> bool {
    CLASSES[byte as usize] & TARGET != 0
}

/// Returns true for a token.
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

/// Parses `Content-Length`: digits, nothing else.
pub(crate) fn content_length(value: &[u8]) -> Result<u64, Fault> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Fault::Malformed("invalid Content-Length"));
    }
    value
        .iter()
        .try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
        .filter(|length| *length <= i64::MAX as u64)
        .ok_or(Fault::Malformed("Content-Length overflows"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_are_judged_alike_one_by_one_and_together(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(is_value(&bytes), bytes.iter().all(|byte| is_value_byte(*byte)));
        }
    }
}
