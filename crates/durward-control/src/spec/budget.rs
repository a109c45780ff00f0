//! Limits on the number and nesting of values in one document, before it is parsed: the same in YAML, TOML and JSON.
//!
//! A parser makes some hundred bytes of each value, so a text of a few megabytes may take a gigabyte. YAML's parser counts by itself;
//! texts in TOML and JSON are counted here.

/// The most values a document may have: texts, numbers, lists and mappings, and the names of fields.
pub(crate) const VALUES: usize = 250_000;
/// The most levels of lists and mappings inside one another.
pub(crate) const LEVELS: usize = 64;

/// Reason why a text is not parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// It has too many values.
    Values,
    /// It nests too deeply.
    Levels,
}

impl Excess {
    /// The finding's sentence.
    pub(crate) fn sentence(self) -> String {
        match self {
            Self::Values => format!(
                "the document has more than {VALUES} values: split it into documents of several tenants"
            ),
            Self::Levels => format!("the document nests more than {LEVELS} levels"),
        }
    }
}

/// Counts the values of a text in TOML or JSON without parsing it; returns the byte at which it is too much.
pub(crate) fn check(text: &str) -> Result<(), (Excess, usize)> {
    let bytes = text.as_bytes();
    let (mut values, mut levels, mut dots, mut at) = (1, 0_usize, 0, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' | b'\'' => {
                at = after_string(bytes, at);
                continue;
            }
            b'#' => {
                let rest = &bytes[at..];
                at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                continue;
            }
            // A name and its value.
            b'=' | b':' => values += 2,
            b',' => values += 1,
            b'[' | b'{' => {
                values += 1;
                levels += 1;
            }
            b']' | b'}' => levels = levels.saturating_sub(1),
            // A name `a.b.c` is three mappings inside one another.
            b'.' => dots += 1,
            _ => {}
        }
        if matches!(byte, b'=' | b',' | b'\n' | b'[' | b'{') {
            dots = 0;
        }
        if values > VALUES {
            return Err((Excess::Values, at));
        }
        if levels > LEVELS || dots > LEVELS {
            return Err((Excess::Levels, at));
        }
        at += 1;
    }
    Ok(())
}

/// The position after the string that begins at `at`, on one line or in three quotes.
fn after_string(bytes: &[u8], at: usize) -> usize {
    let quote = bytes[at];
    let triple = bytes[at..].starts_with(&[quote; 3]);
    let mut end = at + if triple { 3 } else { 1 };
    while let Some(&byte) = bytes.get(end) {
        if byte == b'\\' && quote == b'"' {
            end += 2;
            continue;
        }
        if triple && bytes[end..].starts_with(&[quote; 3]) {
            return end + 3;
        }
        if !triple && (byte == quote || byte == b'\n') {
            return end + 1;
        }
        end += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_strings_and_comments() {
        let many = |entry: &str| check(&entry.repeat(VALUES)).map_err(|(excess, _)| excess);

        for text in ["[[a]]\n", "a = 1\n", "{\"a\": 1},", "1,", "[],"] {
            assert_eq!(many(text), Err(Excess::Values), "{text}");
        }
        for text in ["# a = 1, 2\n", "\"a,b=c\"\n", "'''a,b\n,'''\n", "\"\\\"=,\"\n"] {
            assert_eq!(many(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded_in_brackets_and_in_names() {
        let deep = |open: &str, close: &str| {
            let text = format!("a = {}{}", open.repeat(65), close.repeat(65));
            check(&text).map_err(|(excess, _)| excess)
        };

        assert_eq!(deep("[", "]"), Err(Excess::Levels));
        assert_eq!(deep("{a = ", "}"), Err(Excess::Levels));
        assert_eq!(check(&format!("{}a = 1", "a.".repeat(70))), Err((Excess::Levels, 129)));
        assert_eq!(check(&format!("{}a = 1", "a.".repeat(60))), Ok(()));
    }
}
