//! The excerpt of a document with a caret under what a finding is about.
//!
//! Deliberately absent: colours and the sentence itself; whoever prints a finding has both.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use durward_model::verdict::Severity;

use crate::place::Place;

/// Text of a document, and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    /// File.
    pub file: &'a str,
    /// The line of the file at which it begins.
    pub first_line: u32,
    /// The text.
    pub text: &'a str,
}

/// The lines around `place` with what is there underlined; `None` when the place is unknown.
#[must_use]
pub fn excerpt(source: Written<'_>, place: Place, severity: Severity) -> Option<String> {
    if place.line == 0 {
        return None;
    }
    let level = match severity {
        Severity::Warning => Level::WARNING,
        Severity::Error => Level::ERROR,
    };
    let (window, first_line, span) = window(source, place)?;
    let snippet = Snippet::source(window)
        .line_start(first_line)
        .path(source.file)
        .annotation(AnnotationKind::Primary.span(span));
    Some(Renderer::plain().render(&[Group::with_level(level).element(snippet)]))
}

/// The line of `place` and one before it, so that rendering costs the same however long the text is.
fn window(source: Written<'_>, place: Place) -> Option<(&str, usize, Range<usize>)> {
    let text = source.text;
    let span = underlined(text, place)?;
    let line_start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let start = text[..line_start.saturating_sub(1)].rfind('\n').map_or(0, |at| at + 1);
    let end = text[span.end..].find('\n').map_or(text.len(), |at| span.end + at);
    let line = text[..start].matches('\n').count() + source.first_line as usize;
    Some((&text[start..end], line, span.start - start..span.end - start))
}

/// Returns the range to underline: at most to the end of the line, and the whole word if only its beginning is known.
fn underlined(text: &str, place: Place) -> Option<Range<usize>> {
    let start = if place.start == 0 && place.line > 1 {
        line_start(text, place.line)
    } else {
        place.start as usize
    };
    let rest = text.get(start..)?;
    let line_end = rest.find('\n').unwrap_or(rest.len());
    let word = rest.find([' ', ',', '}', ']', '\n', '\r']).unwrap_or(rest.len()).max(1);
    let len = if place.len == 0 { word } else { place.len as usize }.min(line_end);
    let end = (start..=start + len).rev().find(|&end| text.is_char_boundary(end))?;
    Some(start..end)
}

fn line_start(text: &str, line: u32) -> usize {
    let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
    breaks.take(line as usize - 1).last().unwrap_or(0)
}
