//! Finds single fields of a line we wrote ourselves, without parsing all of it.
//!
//! Sound because every quote within a string of such a line is escaped: `,"name":` can only be a key. JSON of other writers and nested fields are not
//! supported.

use jiff::Timestamp;
use memchr::memmem;

/// Returns a text field's raw bytes, escapes included. `key` is written as in the line: `,"tenant":"`.
pub(crate) fn text<'a>(line: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let value = &line[memmem::find(line, key)? + key.len()..];
    Some(&value[..end_of_string(value)?])
}

/// Returns a number. `key` is written as in the line: `,"seq":`.
pub(crate) fn number(line: &[u8], key: &[u8]) -> Option<u64> {
    let value = &line[memmem::find(line, key)? + key.len()..];
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&value[..digits]).ok()?.parse().ok()
}

/// Returns the time at the beginning of the line, in microseconds since 1970.
pub(crate) fn time(line: &[u8]) -> Option<i64> {
    let value = line.strip_prefix(b"{\"ts\":\"")?;
    let text = std::str::from_utf8(&value[..end_of_string(value)?]).ok()?;
    text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond)
}

/// Returns true if the line records a refusal, denial or failure.
pub(crate) fn is_unwell(line: &[u8]) -> bool {
    let verdict = text(line, b",\"verdict\":\"");
    matches!(verdict, Some(b"denied" | b"failed"))
        || memmem::find(line, b",\"reason\":\"").is_some()
}

/// Returns the position of the closing quote of the string at the start of `value`.
fn end_of_string(value: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = value.get(from..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        if value[from + at] == b'"' {
            return Some(from + at);
        }
        from += at + 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = br#"{"ts":"2026-11-21T01:00:00.000042Z","kind":"egress-open","host":"a\",\"tenant\":\"evil\\","tenant":"acme","port":443,"reason":"dns"}"#;

    #[test]
    fn fields_are_found_and_cannot_be_forged_from_within_a_string() {
        assert_eq!(text(LINE, b",\"kind\":\""), Some(&b"egress-open"[..]));
        assert_eq!(text(LINE, b",\"tenant\":\""), Some(&b"acme"[..]));
        assert_eq!(text(LINE, b",\"host\":\""), Some(&br#"a\",\"tenant\":\"evil\\"#[..]));
        assert_eq!(number(LINE, b",\"port\":"), Some(443));
        assert_eq!(time(LINE), Some(1_795_222_800_000_042));
        assert!(is_unwell(LINE));
        assert_eq!(text(LINE, b",\"sni\":\""), None);
        assert_eq!(text(br#"{"ts":"","kind":"cut off\"#, b",\"kind\":\""), None);
        assert_eq!(time(b"{\"ts\":\"yesterday\"}"), None);
    }
}
