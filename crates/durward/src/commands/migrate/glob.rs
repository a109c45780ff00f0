//! Matches file names by patterns with `*`, `?` and `[…]`, as in `include` lines.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Files that one pattern may match at most.
const MOST: usize = 10_000;

/// Returns true if the text is a pattern.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Returns the files whose paths match, in order of their names; relative ones are looked for in `folder` and stay relative.
pub(super) fn matching(folder: &Path, pattern: &str) -> Result<Vec<String>, String> {
    let root = if pattern.starts_with('/') { "/" } else { "" };
    let mut paths = vec![root.to_owned()];
    let mut parts = pattern.split('/').filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.next() {
        let mut next = Vec::new();
        for path in &paths {
            let joined = |name: &str| match &**path {
                "" | "/" => format!("{path}{name}"),
                _ => format!("{path}/{name}"),
            };
            if !is_pattern(part) {
                next.push(joined(part));
                continue;
            }
            let names = names(&folder.join(path)).map_err(|why| format!("{path}: {why}"))?;
            let hidden = |name: &str| name.starts_with('.') && !part.starts_with('.');
            let matched = names.iter().filter(|name| !hidden(name) && is_match(part, name));
            next.extend(matched.map(|name| joined(name)));
            if next.len() > MOST {
                return Err(format!("names more than {MOST} files"));
            }
        }
        let is_last = parts.peek().is_none();
        next.retain(|path| {
            let path = folder.join(path);
            if is_last { path.is_file() } else { path.is_dir() }
        });
        paths = next;
    }
    paths.sort_unstable();
    Ok(paths)
}

fn names(directory: &Path) -> Result<Vec<String>, String> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let name = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    Ok(entries.filter_map(name).collect())
}

/// Returns true if a name matches. A star that matches too little is extended by one character at a time, so the time is bounded by the product of
/// both lengths.
fn is_match(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while read < name.len() {
        let step = one(&pattern[at..], name[read]);
        match (pattern.get(at), step, star) {
            (Some('*'), ..) => {
                star = Some((at, read));
                at += 1;
            }
            (_, Some(width), _) => {
                at += width;
                read += 1;
            }
            (_, None, Some((pattern_at, from))) => {
                star = Some((pattern_at, from + 1));
                at = pattern_at + 1;
                read = from + 1;
            }
            (_, None, None) => return false,
        }
    }
    pattern[at..].iter().all(|character| *character == '*')
}

/// Returns the part of the pattern that matches one character; `None` if it does not.
fn one(pattern: &[char], character: char) -> Option<usize> {
    match pattern.first()? {
        '?' => Some(1),
        '[' => set(pattern, character),
        literal => (*literal == character).then_some(1),
    }
}

fn set(pattern: &[char], character: char) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let start = if negated { 2 } else { 1 };
    // A bracket right after the opening one is a literal character.
    let Some(length) = pattern[start..].iter().skip(1).position(|c| *c == ']') else {
        return (character == '[').then_some(1);
    };
    let inner = &pattern[start..start + length + 1];
    let mut found = false;
    let mut at = 0;
    while at < inner.len() {
        match inner.get(at..at + 3) {
            Some([from, '-', to]) => {
                found |= (*from..=*to).contains(&character);
                at += 3;
            }
            _ => {
                found |= inner[at] == character;
                at += 1;
            }
        }
    }
    (found != negated).then_some(start + length + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_patterns() {
        for (pattern, name, wanted) in [
            ("*.conf", "site.conf", true),
            ("*.conf", "site.conf~", false),
            ("*", "", true),
            ("[0-9]*-*.conf", "10-site.conf", true),
            ("[!0-9]*.conf", "10-site.conf", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[]x]", "]", true),
            ("[", "[", true),
            ("*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(is_match(pattern, name), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn files_are_named_in_order_and_relative_to_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        fs::create_dir_all(place("conf.d/sub.conf")).unwrap();
        for name in ["conf.d/20.conf", "conf.d/10.conf", "conf.d/10.conf.bak", "conf.d/.x.conf"] {
            fs::write(place(name), "").unwrap();
        }

        let found = matching(folder.path(), "conf.d/*.conf").unwrap();
        let absolute = place("conf.d/1*.conf").display().to_string();

        assert_eq!(found, ["conf.d/10.conf", "conf.d/20.conf"]);
        assert_eq!(
            matching(Path::new("elsewhere"), &absolute).unwrap(),
            [place("conf.d/10.conf").display().to_string()]
        );
        assert!(matching(folder.path(), "none.d/*.conf").unwrap().is_empty());
        assert_eq!(matching(folder.path(), "*/20.conf").unwrap(), ["conf.d/20.conf"]);
    }
}
