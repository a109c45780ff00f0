//! Writer of the OpenMetrics text format, version 1.0.0.

use std::fmt::{Display, Write};

/// `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Types of metric families in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that grows; its samples end in `_total`.
    Counter,
    /// A number that grows and shrinks.
    Gauge,
    /// Observations in buckets.
    Histogram,
    /// Facts in labels; its samples end in `_info`.
    Info,
}

/// Exposition being written.
#[derive(Debug, Default)]
pub struct Text {
    out: String,
}

/// One metric family of a [`Text`].
#[derive(Debug)]
pub struct Family<'a> {
    out: &'a mut String,
    name: String,
    kind: Kind,
}

impl Text {
    /// Begins a family, which must be new. Its unit is the name's last word, if that is one.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) -> Family<'_> {
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        };
        let out = &mut self.out;
        put(out, format_args!("# TYPE {name} {word}\n"));
        for unit in ["seconds", "bytes"] {
            if name.ends_with(&format!("_{unit}")) {
                put(out, format_args!("# UNIT {name} {unit}\n"));
            }
        }
        put(out, format_args!("# HELP {name} {}\n", Escaped(help)));
        Family { out, name: name.to_owned(), kind }
    }

    /// Ends the text with `# EOF`.
    #[must_use]
    pub fn end(mut self) -> String {
        self.out.push_str("# EOF\n");
        self.out
    }
}

impl Family<'_> {
    /// Adds a sample.
    pub fn row(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.sample(suffix, labels, value);
    }

    /// Adds a histogram; `counts` are not cumulative.
    pub fn histogram(&mut self, labels: &[(&str, &str)], bounds: &[f64], counts: &[u64], sum: f64) {
        let mut total = 0;
        for (bound, count) in bounds.iter().zip(counts) {
            total += count;
            let bound = if bound.is_infinite() { "+Inf".to_owned() } else { format!("{bound:?}") };
            let labels: Vec<_> = labels.iter().copied().chain([("le", &*bound)]).collect();
            self.sample("_bucket", &labels, total);
        }
        self.sample("_count", labels, total);
        self.sample("_sum", labels, sum);
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.out.push_str(&self.name);
        self.out.push_str(suffix);
        for (at, (name, value)) in labels.iter().enumerate() {
            let begin = if at == 0 { '{' } else { ',' };
            put(self.out, format_args!("{begin}{name}=\"{}\"", Escaped(value)));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        put(self.out, format_args!("{end} {value}\n"));
    }
}

fn put(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _infallible = out.write_fmt(arguments);
}

/// Label value with backslash, quote and line feed escaped.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_backslashes_and_line_ends_of_labels_are_escaped() {
        let mut text = Text::default();

        text.family("a", Kind::Counter, "Of\nall.")
            .row(&[("tenant", "a\"} 1\nb"), ("name", "c\\")], 2);

        let expected = "# TYPE a counter\n# HELP a Of\\nall.\na_total{tenant=\"a\\\"} 1\\nb\",name=\"c\\\\\"} 2\n# EOF\n";
        assert_eq!(text.end(), expected);
    }
}
