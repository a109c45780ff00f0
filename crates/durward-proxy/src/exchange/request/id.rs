//! Id of one request, for logs here and at upstreams.
//!
//! The ids are not secret; they only have to differ.

use crate::core::Core;

/// Longest id in bytes that is accepted from a trusted peer.
const LONGEST: usize = 64;

/// Value of `X-Request-Id`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestId {
    text: [u8; LONGEST],
    length: usize,
}

impl RequestId {
    /// Generates an id: 32 hexadecimal digits.
    pub(crate) fn new(core: &Core) -> Self {
        let mut text = [0; LONGEST];
        for word in 0..4 {
            let mut random = core.random();
            for digit in &mut text[word * 8..word * 8 + 8] {
                *digit = b"0123456789abcdef"[(random & 15) as usize];
                random >>= 4;
            }
        }
        Self { text, length: 32 }
    }

    /// Accepts a trusted peer's id if it is short and printable.
    pub(crate) fn kept(value: &[u8]) -> Option<Self> {
        let fits = !value.is_empty() && value.len() <= LONGEST;
        if !fits || !value.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        let mut text = [0; LONGEST];
        text[..value.len()].copy_from_slice(value);
        Some(Self { text, length: value.len() })
    }

    /// Returns the text.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.length]).unwrap_or_default()
    }
}
