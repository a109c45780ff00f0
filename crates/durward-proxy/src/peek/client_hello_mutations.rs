//! Real ClientHellos, bent at random: each is read by our parser, whole and in pieces, and by the TLS library.
//!
//! `DURWARD_HELLO_EXECUTIONS` says how many; it needs nothing but the parser, so it can be built alone with optimisation.

use rustls::server::Acceptor;

use super::{Assembly, MAX_WIRE, Progress, parse};

/// Bytes that parsers trip over.
const ODD: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
const RECORD: usize = 16 * 1024 + 5;

/// Numbers that look random and are the same each time (xorshift).
pub(super) struct Dice(u64);

/// Number of inputs by what became of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) complete: u64,
    pub(super) missing: u64,
    pub(super) refused: u64,
    /// Complete ones that the TLS library read as well.
    pub(super) compared: u64,
}

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or_default() % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        match self.below(2) {
            0 => ODD[self.below(ODD.len())],
            _ => u8::try_from(self.below(256)).unwrap_or_default(),
        }
    }

    /// Returns a range within a length, mostly a short one.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length);
        let longest = if self.below(8) == 0 { length } else { 24 };
        start..length.min(start + self.below(longest))
    }

    /// Changes one thing.
    fn bend(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let at = self.below(bytes.len());
        match self.below(8) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 | 2 => bytes[at] = self.byte(),
            3 => {
                // A length that says a little more or less than there is.
                let up = self.below(2) == 0;
                bytes[at] = if up { bytes[at].wrapping_add(1) } else { bytes[at].wrapping_sub(1) };
            }
            4 => drop(bytes.drain(self.range(bytes.len()))),
            5 => {
                let copied = bytes[self.range(bytes.len())].to_vec();
                bytes.splice(at..at, copied);
            }
            6 => {
                let added: Vec<u8> = (0..self.below(16)).map(|_| self.byte()).collect();
                bytes.splice(at..at, added);
            }
            _ => {
                let range = self.range(other.len());
                let end = bytes.len().min(at + range.len());
                bytes.splice(at..end, other[range].iter().copied());
            }
        }
    }

    /// Puts a message into records of one size, whose lengths are right.
    fn records(&mut self, message: &[u8]) -> Vec<u8> {
        let size = [1, 5, 100, 1_400, 16_384][self.below(5)];
        let mut bytes = Vec::with_capacity(message.len() * 6 / 5 + 64);
        for chunk in message.chunks(size) {
            bytes.extend([22, 3, 1]);
            bytes.extend(u16::try_from(chunk.len()).unwrap_or_default().to_be_bytes());
            bytes.extend(chunk);
        }
        bytes
    }

    /// Makes the next input of these ClientHellos.
    fn input(&mut self, hellos: &[Vec<u8>]) -> Vec<u8> {
        if self.below(64) == 0 {
            return (0..self.below(600)).map(|_| self.byte()).collect();
        }
        let (mut bytes, other) =
            (hellos[self.below(hellos.len())].clone(), self.below(hellos.len()));
        // Half of them keep the frame of records, so that what is inside is reached.
        let is_inside = self.below(2) == 0;
        if is_inside {
            bytes.drain(..5);
        }
        for _ in 0..self.below(5) {
            self.bend(&mut bytes, &hellos[other]);
        }
        if is_inside {
            if self.below(2) == 0 && bytes.len() >= 4 {
                let length = u32::try_from(bytes.len() - 4).unwrap_or_default().to_be_bytes();
                bytes[1..4].copy_from_slice(&length[1..]);
            }
            bytes = self.records(&bytes);
        }
        if self.below(8) == 0 {
            bytes.truncate(self.below(bytes.len()));
        }
        bytes
    }
}

/// Returns the ClientHellos of programs, each in one record.
pub(super) fn hellos() -> Vec<Vec<u8>> {
    let lines = include_str!("client_hellos.txt").lines().filter(|line| !line.starts_with('#'));
    let bytes = |line: &str| {
        let hex = line.rsplit(" | ").next().unwrap_or_default();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap_or_default();
        (0..hex.len()).step_by(2).map(byte).collect()
    };
    lines.map(bytes).collect()
}

/// Reads as many inputs.
pub(super) fn run(executions: u64, seed: u64) -> Seen {
    let (hellos, mut dice, mut seen) = (hellos(), Dice(seed), Seen::default());
    for _ in 0..executions {
        let input = dice.input(&hellos);
        check(&input, &mut dice, &mut seen);
    }
    seen
}

fn check(bytes: &[u8], dice: &mut Dice, seen: &mut Seen) {
    let read = parse(bytes);
    match &read {
        Ok(Progress::Complete(ours)) => {
            seen.complete += 1;
            let more = [bytes, b"\x17\x03\x03\x00\x01\x00"].concat();
            assert_eq!(parse(&more), read, "more follows: {bytes:?}");
            if let Some(theirs) = by_library(bytes) {
                seen.compared += 1;
                let theirs = theirs.map(|name| name.trim_end_matches('.').to_owned());
                assert_eq!(ours.server_name, theirs, "{bytes:?}");
            }
        }
        Ok(Progress::Missing(total)) => {
            seen.missing += 1;
            assert!(*total > bytes.len(), "{bytes:?}");
            assert!(bytes.len() <= MAX_WIRE + RECORD, "kept waiting beyond the bound");
        }
        Err(_) => seen.refused += 1,
    }
    if dice.below(8) == 0 {
        in_pieces(bytes, &read, dice);
    }
}

/// Reads the same bytes as they come, piece by piece.
fn in_pieces(bytes: &[u8], whole: &Result<Progress, &'static str>, dice: &mut Dice) {
    let (mut assembly, mut held) = (Assembly::default(), 0);
    while held < bytes.len() {
        held = bytes.len().min(held + 1 + dice.below(200));
        match assembly.advance(&bytes[..held]) {
            Ok(Progress::Missing(total)) => assert!(total > held, "{held} of {bytes:?}"),
            // Complete, or refused, as the whole is; what follows is not looked at.
            verdict => {
                assert_eq!(&verdict, whole, "{held} of {bytes:?}");
                return;
            }
        }
    }
    assert!(matches!(whole, Ok(Progress::Missing(_))) || bytes.is_empty(), "{bytes:?}");
}

/// Returns the name that the TLS library reads; `None` when it refuses the hello or wants more.
fn by_library(mut bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some(accepted.client_hello().server_name().map(str::to_ascii_lowercase));
        }
    }
    None
}

// S4.64+
#[test]
fn bent_real_hellos_are_read_alike_whole_in_pieces_and_by_the_tls_library() {
    let asked = std::env::var("DURWARD_HELLO_EXECUTIONS").ok();
    let executions = asked.map_or(20_000, |count| count.parse().expect("a number"));

    let seen = run(executions, 0x9e37_79b9_7f4a_7c15);

    assert_eq!(seen.complete + seen.missing + seen.refused, executions);
    for count in [seen.complete, seen.missing, seen.refused, seen.compared] {
        assert!(count > executions / 100, "{seen:?}");
    }
}
