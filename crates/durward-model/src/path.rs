//! One form of a request path for matching and for forwarding, so that a spelling cannot slip past a route.
//!
//! Percent-encoded unreserved characters are decoded (RFC 3986 §6.2.2.2: always the same path). Dot segments are refused in every
//! spelling, never resolved: a client that means another path can ask for it.

use std::borrow::Cow;

use thiserror::Error;

/// Reason why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathFault {
    /// It does not begin with `/`.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// A `%` without two hexadecimal digits.
    #[error("a percent sign is not followed by two hexadecimal digits")]
    BadEscape,
    /// `.` or `..` as a segment, in any spelling, with or without a `;` parameter.
    #[error("the path has a dot segment")]
    DotSegment,
    /// A control character, space, backslash, or their encoded NUL.
    #[error("the path has a character that is not allowed")]
    BadCharacter,
}

/// The path (without query) in the one form that is matched and forwarded.
///
/// # Errors
/// When the path is one that different servers would read differently.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, PathFault> {
    if !path.starts_with('/') {
        return Err(PathFault::NotAbsolute);
    }
    if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'\\' || byte >= 0x80) {
        return Err(PathFault::BadCharacter);
    }
    let decoded =
        if path.contains('%') { Cow::Owned(decode_unreserved(path)?) } else { Cow::Borrowed(path) };
    if decoded.contains('.') && has_dot_segment(&decoded) {
        return Err(PathFault::DotSegment);
    }
    Ok(decoded)
}

fn decode_unreserved(path: &str) -> Result<String, PathFault> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let escape = rest.get(at..at + 3).ok_or(PathFault::BadEscape)?;
        let byte = hex(escape.as_bytes()[1])
            .zip(hex(escape.as_bytes()[2]))
            .map(|(high, low)| high << 4 | low);
        match byte.ok_or(PathFault::BadEscape)? {
            0 => return Err(PathFault::BadCharacter),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                out.push(char::from(byte))
            }
            _ => out.push_str(escape),
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Ok(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// `%2f` and `%5c` count as separators here, because the server behind may read them so.
fn has_dot_segment(path: &str) -> bool {
    let separators =
        path.replace("%2f", "/").replace("%2F", "/").replace("%5c", "/").replace("%5C", "/");
    separators
        .split('/')
        .map(|segment| segment.split(';').next().unwrap_or_default())
        .any(|name| name == "." || name == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_path_become_one_path() {
        let cases = [
            ("/admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/a%7Eb", "/a~b"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a..b/.well-known", "/a..b/.well-known"),
            ("/x%20y", "/x%20y"),
        ];

        for (written, expected) in cases {
            assert_eq!(normalise(written).unwrap(), expected, "{written}");
        }
    }

    #[test]
    fn paths_that_servers_read_differently_are_refused() {
        let cases = [
            "/a/../b",
            "/a/%2e%2e/b",
            "/a/.%2E/b",
            "/a/..;x=1/b",
            "/a/..%2fb",
            "/a%5c..%5cb",
            "/./a",
            "/..",
            "/a\\b",
            "/a%00b",
            "/a%zz",
            "/a%2",
            "a",
            "",
            "/a b",
            "/a\u{e9}",
        ];

        for written in cases {
            assert!(normalise(written).is_err(), "{written}");
        }
    }
}
