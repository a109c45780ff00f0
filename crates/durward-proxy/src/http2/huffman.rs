//! Huffman code of HPACK (RFC 7541, appendix B).
//!
//! The code is canonical: the lengths of its words determine the words.

/// Code length of each octet, and of the end-of-string symbol.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
/// End-of-string symbol.
const END: u16 = 256;
/// Longest code in bits.
const LONGEST: usize = 30;
/// Code lengths in bits that are looked up in one step.
const SHORT: u32 = 8;

/// Code table: for each length, the first code, and the index of its first symbol in the sorted list.
struct Code {
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    start: [u32; LONGEST + 1],
    symbols: [u16; 257],
    /// Code of each octet, by its value.
    words: [u32; 256],
    /// Symbol and length by the next bits; length 0 if the code is longer.
    short: [(u8, u8); 1 << SHORT],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code = Code {
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
        symbols: [0; 257],
        words: [0; 256],
        short: [(0, 0); 1 << SHORT],
    };
    let (mut word, mut length, mut filled) = (0u32, 1, 0);
    while length <= LONGEST {
        word <<= 1;
        code.first[length] = word;
        code.start[length] = filled;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.symbols[filled as usize] = symbol as u16;
                if symbol < 256 {
                    code.words[symbol] = word;
                }
                if length as u32 <= SHORT {
                    let free = SHORT - length as u32;
                    let mut rest = 0;
                    while rest < 1 << free {
                        let at = (word << free | rest) as usize;
                        code.short[at] = (symbol as u8, length as u8);
                        rest += 1;
                    }
                }
                word += 1;
                filled += 1;
            }
            symbol += 1;
        }
        code.count[length] = filled - code.start[length];
        length += 1;
    }
    code
}

/// Returns the octets of `text` in this code.
pub(crate) fn encoded_length(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum();
    bits.div_ceil(8)
}

/// Encodes `text` and appends it.
pub(crate) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut have) = (0u64, 0u32);
    for byte in text {
        let at = usize::from(*byte);
        let length = u32::from(LENGTHS[at]);
        bits = bits << length | u64::from(CODE.words[at]);
        have += length;
        while have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    if have > 0 {
        // The padding is the beginning of the end-of-string symbol: ones.
        out.push((bits << (8 - have)) as u8 | (0xff >> have));
    }
}

/// Decodes `text` and appends it; `None` if it is no valid code.
pub(crate) fn decode(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (mut bits, mut have) = (0u64, 0u32);
    let mut rest = text.iter();
    loop {
        while have <= 56 {
            let Some(byte) = rest.next() else { break };
            bits = bits << 8 | u64::from(*byte);
            have += 8;
        }
        if have >= SHORT {
            let (symbol, length) = CODE.short[(bits >> (have - SHORT)) as usize & 0xff];
            if length > 0 {
                out.push(symbol);
                have -= u32::from(length);
                continue;
            }
        }
        match long(bits, have) {
            Some((END, _)) => return None,
            Some((symbol, length)) => {
                out.push(symbol as u8);
                have -= length;
            }
            // Padding is less than an octet of ones (RFC 7541 §5.2).
            None => {
                let ones = (1u64 << have) - 1;
                return (have < 8 && bits & ones == ones).then_some(());
            }
        }
    }
}

/// Decodes the next symbol bit by bit from `have` bits; `None` if they are incomplete.
fn long(bits: u64, have: u32) -> Option<(u16, u32)> {
    (1..=have.min(LONGEST as u32)).find_map(|length| {
        let word = (bits >> (have - length)) as u32 & ((1u64 << length) - 1) as u32;
        let at = length as usize;
        let offset = word.checked_sub(CODE.first[at]).filter(|offset| *offset < CODE.count[at])?;
        Some((CODE.symbols[(CODE.start[at] + offset) as usize], length))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc_are_decoded() {
        let cases: [(&[u8], &str); 3] = [
            (
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf], "custom-value"),
        ];
        for (coded, text) in cases {
            let (mut out, mut again) = (Vec::new(), Vec::new());
            decode(coded, &mut out).unwrap();
            encode(text.as_bytes(), &mut again);
            assert_eq!((out.as_slice(), again.as_slice()), (text.as_bytes(), coded));
        }
        // Padding with zeros, padding of an octet, the end of a string inside.
        for wrong in [&[0x00][..], &[0x1f, 0xff], &[0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(decode(wrong, &mut Vec::new()), None, "{wrong:x?}");
        }
    }

    proptest! {
        #[test]
        fn every_text_is_decoded_again(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let (mut coded, mut out) = (Vec::new(), Vec::new());
            encode(&text, &mut coded);

            prop_assert_eq!(coded.len(), encoded_length(&text));
            prop_assert_eq!(decode(&coded, &mut out), Some(()));
            prop_assert_eq!(out, text);
        }
    }
}
