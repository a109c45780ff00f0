//! The lines of a squid.conf as words: comments and continuations gone, included files in their place.
//!
//! Deliberately absent: what the words mean, and conditional lines (`if`), which are noted.

use std::sync::Arc;

use super::Notes;

/// How deep files may include each other.
const DEPTH: usize = 16;

/// One line that says something.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) file: Arc<str>,
    pub(super) number: usize,
    pub(super) words: Vec<String>,
}

impl Line {
    /// The directive.
    pub(super) fn name(&self) -> &str {
        &self.words[0]
    }

    /// What follows it.
    pub(super) fn arguments(&self) -> &[String] {
        &self.words[1..]
    }
}

/// Reads lines; `open` gives the text of files named in them.
pub(super) struct Reader<'a> {
    pub(super) open: &'a dyn Fn(&str) -> Result<String, String>,
    pub(super) notes: &'a mut Notes,
}

impl Reader<'_> {
    /// The lines of `text`, which is called `file`.
    pub(super) fn lines(&mut self, file: &str, text: &str, depth: usize) -> Vec<Line> {
        let file: Arc<str> = Arc::from(file);
        let mut lines = Vec::new();
        for (number, joined) in logical(text) {
            let mut words = words(&joined);
            if words.is_empty() {
                continue;
            }
            if words[0] == "acl" {
                self.expand(&file, number, &mut words);
            }
            let line = Line { file: Arc::clone(&file), number, words };
            if line.name() == "include" {
                lines.extend(self.included(&line, depth));
            } else {
                lines.push(line);
            }
        }
        lines
    }

    fn included(&mut self, line: &Line, depth: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        for path in line.arguments() {
            if depth >= DEPTH {
                self.notes.wider(line, "files include each other too deep");
                continue;
            }
            match (self.open)(path) {
                Ok(text) => lines.extend(self.lines(path, &text, depth + 1)),
                Err(error) => {
                    self.notes.wider(line, format!("{path} is not included: {error}"));
                }
            }
        }
        lines
    }

    /// In an ACL, `"file"` stands for the words in the file.
    fn expand(&mut self, file: &Arc<str>, number: usize, words: &mut Vec<String>) {
        let quoted = |word: &str| {
            word.strip_prefix('"').and_then(|word| word.strip_suffix('"')).map(str::to_owned)
        };
        if !words.iter().any(|word| quoted(word).is_some()) {
            return;
        }
        let mut expanded = Vec::new();
        for word in std::mem::take(words) {
            let Some(path) = quoted(&word) else {
                expanded.push(word);
                continue;
            };
            match (self.open)(&path) {
                Ok(text) => {
                    expanded.extend(
                        logical(&text).into_iter().flat_map(|(_, line)| self::words(&line)),
                    );
                }
                Err(error) => {
                    let line = Line { file: Arc::clone(file), number, words: Vec::new() };
                    self.notes.wider(&line, format!("{path} is not read: {error}"));
                }
            }
        }
        *words = expanded;
    }
}

/// Lines with their continuations, each with the number of its first.
fn logical(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end();
        let (line, continued) = match line.strip_suffix('\\') {
            Some(line) if !line.trim_start().starts_with('#') => (line, true),
            _ => (line, false),
        };
        match lines.last_mut() {
            Some((_, before)) if open => {
                before.push(' ');
                before.push_str(line);
            }
            _ => lines.push((index + 1, line.to_owned())),
        }
        open = continued;
    }
    lines
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().take_while(|word| !word.starts_with('#')).map(str::to_owned).collect()
}
