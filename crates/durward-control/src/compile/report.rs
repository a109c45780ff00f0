//! Collects the findings about one document while it is compiled.
//!
//! Deliberately absent: deciding what is left out; callers do that with the `None` they get.

use std::fmt::Display;

use durward_model::verdict::{Finding, Severity};
use ipnet::IpNet;

use super::words;
use crate::document::Source;
pub(crate) use crate::field::Field;
use crate::foreign::{self, Effect};
use crate::place::{At, Place};

/// The findings about one document.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    source: &'a Source,
    findings: Vec<Finding>,
    errors: usize,
}

impl<'a> Report<'a> {
    pub(crate) fn new(source: &'a Source) -> Self {
        Self { source, findings: Vec::new(), errors: 0 }
    }

    /// The report of a document that is compiled: it begins with a warning when every user of the host could change the document.
    pub(crate) fn of_document(source: &'a Source) -> Self {
        let mut report = Self::new(source);
        if let Some(path) = &source.writable_by_all {
            let sentence =
                format!("every user of this host may change this document: chmod o-w {path}");
            let place = Place { line: 1, ..Place::default() };
            let finding = source.finding(Severity::Warning, "WritableByAll", place, "", &sentence);
            report.findings.push(finding);
        }
        report
    }

    /// The document's text and file.
    pub(crate) fn source(&self) -> &'a Source {
        self.source
    }

    /// Returns the number of errors so far.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    pub(crate) fn error(&mut self, reason: &str, place: Place, field: &Field<'_>, sentence: &str) {
        self.errors += 1;
        let finding =
            self.source.finding(Severity::Error, reason, place, &field.to_string(), sentence);
        self.findings.push(finding);
    }

    pub(crate) fn warning(
        &mut self,
        reason: &str,
        place: Place,
        field: &Field<'_>,
        sentence: &str,
    ) {
        let finding =
            self.source.finding(Severity::Warning, reason, place, &field.to_string(), sentence);
        self.findings.push(finding);
    }

    /// Adds a finding of a foreign object. Findings that make no difference are left out.
    pub(crate) fn foreign(&mut self, finding: &foreign::Finding) {
        let (field, place) = (Field::root(&finding.field), Place::default());
        match finding.effect {
            Effect::Refused => self.error(finding.reason, place, &field, &finding.sentence),
            Effect::Weaker | Effect::Otherwise => {
                self.warning(finding.reason, place, &field, &finding.sentence);
            }
            Effect::Noted => {}
        }
    }

    /// Returns the value of `read`; otherwise reports an error that quotes the text: `"203.0.113.x" is not an IP address`.
    pub(crate) fn check<T>(
        &mut self,
        reason: &str,
        written: &At<String>,
        field: &Field<'_>,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match read(written) {
            Ok(value) => Some(value),
            Err(fault) => {
                let sentence = format!("{:?} {fault}", written.value);
                self.error(reason, written.place, field, &sentence);
                None
            }
        }
    }

    /// As [`Self::check`], for an optional field; `None` only after an error.
    pub(crate) fn check_optional<T>(
        &mut self,
        reason: &str,
        written: Option<&At<String>>,
        field: &Field<'_>,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        match written {
            None => Some(None),
            Some(written) => self.check(reason, written, field, read).map(Some),
        }
    }

    /// A network, with a warning where what is written is an address within it: `10.1.2.3/8` opens more than it seems to.
    pub(crate) fn network(&mut self, written: &At<String>, field: &Field<'_>) -> Option<IpNet> {
        let network = self.check("BadNetwork", written, field, words::network)?;
        let meant = network.trunc();
        if network != meant {
            let (text, address) = (&written.value, network.addr());
            let sentence = format!(
                "{text:?} means the network {meant}: write that, or {address} alone for the one address"
            );
            self.warning("HostBits", written.place, field, &sentence);
        }
        Some(meant)
    }

    /// A number within its range, or the default; `None` only after an error.
    pub(crate) fn number<N: Copy + PartialOrd + Display>(
        &mut self,
        written: Option<At<N>>,
        field: &Field<'_>,
        range: (N, N),
        default: N,
    ) -> Option<N> {
        let Some(written) = written else { return Some(default) };
        if (range.0..=range.1).contains(&written.value) {
            return Some(written.value);
        }
        let sentence = format!("{} is out of range: {} to {}", written.value, range.0, range.1);
        self.error("OutOfRange", written.place, field, &sentence);
        None
    }

    /// Adds what was found when the document was read before, among it so many errors.
    pub(crate) fn take_in(&mut self, findings: &[Finding], errors: usize) {
        self.findings.extend_from_slice(findings);
        self.errors += errors;
    }

    /// Returns how much has been found, for [`Self::rewind`].
    pub(crate) fn mark(&self) -> (usize, usize) {
        (self.findings.len(), self.errors)
    }

    /// Forgets what was found after `mark`.
    pub(crate) fn rewind(&mut self, mark: (usize, usize)) {
        self.findings.truncate(mark.0);
        self.errors = mark.1;
    }

    pub(crate) fn into_findings(self) -> Vec<Finding> {
        self.findings
    }

    /// Takes the findings out, for a verdict that several parts contribute to.
    pub(crate) fn take(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }
}
