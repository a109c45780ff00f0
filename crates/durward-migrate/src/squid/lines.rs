//! The lines of a squid.conf as words: comments and continuations gone, included files in their place.

use std::sync::Arc;

use super::fault::SquidFault;
use super::options::SquidFiles;

/// Deepest nesting of included files; Squid's own bound.
const DEPTH: usize = 16;
/// Most files that may be included in all: sixteen levels of two each would be 65,536.
const FILES: usize = 10_000;

/// A line with a directive.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) file: Arc<str>,
    pub(super) number: usize,
    pub(super) words: Vec<String>,
    /// Values of an `acl` line that come from files.
    pub(super) listed: Vec<Listed>,
}

/// The values in a file that an `acl` line names.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) path: String,
    /// One value a line, or the reason why there are none.
    pub(super) values: Result<Vec<String>, String>,
}

impl Line {
    /// The directive.
    pub(super) fn name(&self) -> &str {
        &self.words[0]
    }

    /// Words after the directive.
    pub(super) fn arguments(&self) -> &[String] {
        &self.words[1..]
    }
}

/// Reads lines; `files` gives the text of files named in them.
pub(super) struct Reader<'a> {
    files: &'a dyn SquidFiles,
    included: usize,
    /// For each open `if`, whether its lines count.
    conditions: Vec<bool>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(files: &'a dyn SquidFiles) -> Self {
        Self { files, included: 0, conditions: Vec::new() }
    }

    /// The lines of `text`, which is called `file`.
    pub(super) fn lines(
        &mut self,
        file: &str,
        text: &str,
        depth: usize,
    ) -> Result<Vec<Line>, SquidFault> {
        let file: Arc<str> = Arc::from(file);
        let mut lines = Vec::new();
        for (number, joined) in logical(text) {
            let words = words(&joined);
            if words.is_empty() {
                continue;
            }
            let mut line = Line { file: Arc::clone(&file), number, words, listed: Vec::new() };
            if self.is_condition(&line)? || self.conditions.contains(&false) {
                continue;
            }
            if line.name() == "acl" {
                self.take_lists(&mut line);
            }
            if line.name() == "include" {
                lines.extend(self.included(&line, depth)?);
            } else {
                lines.push(line);
            }
        }
        Ok(lines)
    }

    /// Takes `if`, `else` and `endif`. What cannot be decided here may hide any line, so nothing is translated.
    fn is_condition(&mut self, line: &Line) -> Result<bool, SquidFault> {
        let fault = || SquidFault::Condition {
            file: Arc::clone(&line.file),
            line: line.number,
            written: line.words.join(" "),
        };
        match (line.name(), line.arguments()) {
            ("if", condition) => {
                let condition: Vec<&str> = condition.iter().map(String::as_str).collect();
                let holds = match &*condition {
                    ["true"] => true,
                    ["false"] => false,
                    [one, "=", other] => {
                        let number = |word: &str| word.parse::<i64>().map_err(|_| fault());
                        number(one)? == number(other)?
                    }
                    _ => return Err(fault()),
                };
                self.conditions.push(holds);
            }
            ("else", []) => {
                let last = self.conditions.last_mut().ok_or_else(fault)?;
                *last = !*last;
            }
            ("endif", []) => drop(self.conditions.pop().ok_or_else(fault)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn included(&mut self, line: &Line, depth: usize) -> Result<Vec<Line>, SquidFault> {
        let fault = |path: &str, why: String| SquidFault::Include {
            file: Arc::clone(&line.file),
            line: line.number,
            path: path.to_owned(),
            why,
        };
        let mut lines = Vec::new();
        for pattern in line.arguments() {
            let pattern = pattern.trim_matches('"');
            if depth >= DEPTH {
                return Err(fault(pattern, format!("files include each other {DEPTH} deep")));
            }
            let paths = self.files.matching(pattern).map_err(|why| fault(pattern, why))?;
            if paths.is_empty() {
                return Err(fault(pattern, "no file has such a name".to_owned()));
            }
            for path in paths {
                self.included += 1;
                if self.included > FILES {
                    return Err(fault(&path, format!("more than {FILES} files are included")));
                }
                let text = self.files.read(&path).map_err(|why| fault(&path, why))?;
                lines.extend(self.lines(&path, &text, depth + 1)?);
            }
        }
        Ok(lines)
    }

    /// In an `acl` line, `"file"` stands for the values in the file.
    fn take_lists(&mut self, line: &mut Line) {
        let quoted = |word: &String| {
            let inner = word.strip_prefix('"').and_then(|word| word.strip_suffix('"'));
            inner.map(str::to_owned)
        };
        let paths: Vec<String> = line.words.iter().filter_map(quoted).collect();
        line.words.retain(|word| quoted(word).is_none());
        line.listed = paths
            .into_iter()
            .map(|path| {
                let values = self.files.read(&path).map(|text| values(&text));
                Listed { path, values }
            })
            .collect();
    }
}

/// The values in a file of an access list: one a line, as Squid reads them.
fn values(text: &str) -> Vec<String> {
    let value = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
    text.lines().map(value).filter(|value| !value.is_empty()).collect()
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
