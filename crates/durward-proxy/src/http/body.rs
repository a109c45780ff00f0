//! Framing of a body: by length, by chunks, or by the end of the connection.
//!
//! Looks only at bytes that have been read, and asks for more if they do not suffice. Chunk framing ends here: on the way out bodies are chunked again.

use crate::http::fields::Fields;
use crate::http::message::Framing;
use crate::http::names::Known;
use crate::http::parse::{Line, Progress, field_line};

/// Longest chunk-size line in bytes, extensions included.
const SIZE_LINE: usize = 256;
/// Bytes of chunk extensions per body at most.
const EXTENSIONS: usize = 16 * 1024;
/// Bytes and fields of a trailer section at most.
const TRAILERS: (usize, usize) = (8 * 1024, 32);

/// Meaning of the next buffered bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The first so many bytes are content.
    Data(usize),
    /// The first so many bytes are framing, to be skipped.
    Skip(usize),
    /// More bytes are needed.
    More,
    /// The body has ended.
    End,
}

/// Decoder of one body's framing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Decoder {
    /// The body has ended.
    #[default]
    Done,
    /// Bytes left.
    Length(u64),
    /// Chunked transfer coding (RFC 9112 section 7.1).
    Chunked {
        /// Position within a chunk.
        at: Chunk,
        /// Bytes of extensions so far.
        extensions: usize,
    },
    /// All bytes until the connection ends.
    UntilClose,
}

/// Position of a decoder within a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Chunk {
    /// Before the size line.
    Size,
    /// Within the data, so many bytes left.
    Data(u64),
    /// Before the CRLF after the data.
    DataEnd,
    /// Within the trailer section.
    Trailers(Progress),
}

impl Decoder {
    /// Creates the decoder for a framing.
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked { at: Chunk::Size, extensions: 0 },
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Returns true if the body has ended.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Returns true if exactly `count` bytes of content are left.
    pub(crate) fn ends_after(&self, count: usize) -> bool {
        matches!(self, Self::Length(left) if *left == count as u64)
    }

    /// Classifies the bytes read so far. Trailer fields are put into `trailers`, which becomes their buffer.
    pub(crate) fn step(
        &mut self,
        input: &[u8],
        trailers: &mut Option<Box<Fields>>,
    ) -> Result<Step, &'static str> {
        match self {
            Self::Done => Ok(Step::End),
            _ if input.is_empty() => Ok(Step::More),
            Self::Length(left) => Ok(Step::Data(clamp(*left, input.len()))),
            Self::UntilClose => Ok(Step::Data(input.len())),
            Self::Chunked { at: Chunk::Data(left), .. } => {
                Ok(Step::Data(clamp(*left, input.len())))
            }
            Self::Chunked { at, extensions } if matches!(at, Chunk::Size) => {
                let Some((size, line, extension)) = chunk_size(input)? else {
                    return Ok(Step::More);
                };
                *extensions += extension;
                if *extensions > EXTENSIONS {
                    return Err("too many chunk extensions");
                }
                *at = match size {
                    0 => Chunk::Trailers(Progress::default()),
                    size => Chunk::Data(size),
                };
                Ok(Step::Skip(line))
            }
            Self::Chunked { at, .. } if matches!(at, Chunk::DataEnd) => match input {
                [b'\r', b'\n', ..] => {
                    *at = Chunk::Size;
                    Ok(Step::Skip(2))
                }
                [b'\r'] => Ok(Step::More),
                _ => Err("chunk data not followed by CRLF"),
            },
            Self::Chunked { at: Chunk::Trailers(progress), .. } => {
                let ended = read_trailers(input, progress, trailers)?;
                if ended.is_some() {
                    *self = Self::Done;
                }
                Ok(ended.map_or(Step::More, Step::Skip))
            }
            Self::Chunked { .. } => Ok(Step::More),
        }
    }

    /// Consumes `count` bytes of content.
    pub(crate) fn taken(&mut self, count: usize) {
        let count = count as u64;
        match self {
            Self::Length(left) if *left == count => *self = Self::Done,
            Self::Length(left) => *left -= count,
            Self::Chunked { at, .. } => {
                if let Chunk::Data(left) = at {
                    *at = if *left == count { Chunk::DataEnd } else { Chunk::Data(*left - count) };
                }
            }
            Self::Done | Self::UntilClose => {}
        }
    }
}

fn clamp(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

/// Parses a chunk-size line: the size, the length of the line, and the bytes of extensions in it; `None` if the line is not complete.
fn chunk_size(input: &[u8]) -> Result<Option<(u64, usize, usize)>, &'static str> {
    let mut size = 0u64;
    let mut digits = 0;
    for byte in input {
        let Some(digit) = char::from(*byte).to_digit(16) else { break };
        digits += 1;
        // 15 digits keep the size below 2^60, so the shift cannot overflow.
        if digits > 15 {
            return Err("chunk size overflows");
        }
        size = size << 4 | u64::from(digit);
    }
    let rest = &input[digits..];
    match rest.first() {
        None => return Ok(None),
        Some(_) if digits == 0 => return Err("invalid chunk size"),
        Some(b'\r' | b';' | b' ' | b'\t') => {}
        Some(_) => return Err("invalid chunk size"),
    }
    let window = &rest[..rest.len().min(SIZE_LINE)];
    let Some(end) =
        window.iter().position(|byte| *byte == b'\r' || !crate::syntax::is_value_byte(*byte))
    else {
        return if rest.len() < SIZE_LINE { Ok(None) } else { Err("chunk extension too long") };
    };
    let extension = &rest[..end];
    if extension.trim_ascii_start().first().is_some_and(|byte| *byte != b';')
        || (!extension.is_empty() && extension.trim_ascii_start().is_empty())
    {
        return Err("invalid chunk size");
    }
    match &rest[end..] {
        [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some((size, digits + end + 2, end))),
        _ => Err("invalid line end after chunk size"),
    }
}

/// Parses the trailer section; returns its length once it is complete.
fn read_trailers(
    input: &[u8],
    progress: &mut Progress,
    trailers: &mut Option<Box<Fields>>,
) -> Result<Option<usize>, &'static str> {
    loop {
        match progress.next_line(input).map_err(|_| "bare LF in trailers")? {
            Line::Incomplete if input.len() > TRAILERS.0 => return Err("trailers too large"),
            Line::Incomplete => return Ok(None),
            Line::Empty => break,
            Line::Text(start, end) => {
                let fields = trailers.get_or_insert_default();
                if fields.len() == TRAILERS.1 || end > TRAILERS.0 {
                    return Err("trailers too large");
                }
                field_line(input, start, end, fields).map_err(|_| "malformed trailer")?;
            }
        }
    }
    if let Some(fields) = trailers {
        fields.load(&input[..progress.read()]);
        fields.retain_fields(|field| {
            !field.known.forbidden_in_trailers()
                && Known::with_underscores(field.name) == Known::Other
        });
    }
    Ok(Some(progress.read()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `input` in pieces that end at `cuts` and tells body, trailers and how many bytes were left over.
    fn decode(
        framing: Framing,
        input: &[u8],
        cuts: &[usize],
    ) -> Result<(Vec<u8>, usize, usize), &'static str> {
        let (mut decoder, mut trailers, mut body) = (Decoder::new(framing), None, Vec::new());
        let (mut start, mut ends) = (0, cuts.iter().copied().chain([input.len()]));
        let mut end = 0;
        loop {
            match decoder.step(&input[start..end], &mut trailers)? {
                Step::Data(count) => {
                    body.extend_from_slice(&input[start..start + count]);
                    decoder.taken(count);
                    start += count;
                }
                Step::Skip(count) => start += count,
                Step::End => {
                    return Ok((
                        body,
                        trailers.map_or(0, |fields| fields.len()),
                        input.len() - start,
                    ));
                }
                Step::More => match ends.next() {
                    Some(next) => end = next.clamp(end, input.len()),
                    None => return Err("incomplete"),
                },
            }
        }
    }

    // S1.38
    #[test]
    fn chunks_are_joined_and_trailers_kept_apart() {
        let input = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Sum: 1\r\nHost: evil\r\n\r\nGET";

        assert_eq!(decode(Framing::Chunked, input, &[]), Ok((b"hello world".to_vec(), 1, 3)));
    }

    #[test]
    fn malformed_chunks_are_refused() {
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(400));
        let many = format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(100);
        let trailers = format!("0\r\nA: {}\r\n\r\n", "x".repeat(9000));
        let cases: &[&[u8]] = &[
            b"g\r\n",
            b"\r\n",
            b"-5\r\nhello\r\n",
            b"+5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b"5\nhello\r\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5 \r\nhello\r\n",
            b"5 x\r\nhello\r\n",
            b"5\rhello",
            b"5;a\nb\r\nhello\r\n",
            b"5;a\0\r\nhello\r\n",
            b"ffffffffffffffff\r\n",
            b"10000000000000000\r\n",
            b" 5\r\nhello\r\n",
            b"0\r\nA : b\r\n\r\n",
            b"0\r\n A: b\r\n\r\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\n\n",
            b"5\r\nhello\r\n\r\n0\r\n\r\n",
            long.as_bytes(),
            many.as_bytes(),
            trailers.as_bytes(),
        ];

        for case in cases {
            let ended = decode(Framing::Chunked, case, &[]);
            assert!(
                ended.is_err_and(|why| why != "incomplete"),
                "{:?}",
                case.escape_ascii().to_string()
            );
        }
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_body(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            extension in "(;[a-z]{0,9})?",
            trailers in proptest::collection::vec("[A-Z]-[a-z]{1,4}: [a-z]{0,5}", 0..3),
            mut cuts in proptest::collection::vec(0usize..400, 0..40),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n");
            trailers.iter().for_each(|line| wire.extend_from_slice(format!("{line}\r\n").as_bytes()));
            wire.extend_from_slice(b"\r\nrest");
            cuts.sort_unstable();

            let whole = decode(Framing::Chunked, &wire, &[]);
            let split = decode(Framing::Chunked, &wire, &cuts);

            prop_assert_eq!(&whole, &split);
            prop_assert_eq!(whole, Ok((chunks.concat(), trailers.len(), 4)));
        }

        #[test]
        fn junk_is_judged_alike_however_it_is_split(junk in proptest::collection::vec(prop::sample::select(b"05fF;\r\n aA:\0".to_vec()), 0..40), mut cuts in proptest::collection::vec(0usize..40, 0..20)) {
            cuts.sort_unstable();

            let whole = decode(Framing::Chunked, &junk, &[]).map(|(body, trailers, _)| (body, trailers));
            let split = decode(Framing::Chunked, &junk, &cuts).map(|(body, trailers, _)| (body, trailers));

            prop_assert_eq!(whole, split);
        }
    }
}
