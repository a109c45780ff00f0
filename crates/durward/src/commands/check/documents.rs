//! Checks that the documents are accepted, and that they do not conflict.

use durward_model::verdict::{Outcome, Severity};

use crate::commands::check::Category;
use crate::config::Loaded;
use crate::output::count;

/// Reasons of warnings about the lifetime of a certificate.
const LIFETIME: [&str; 3] = ["CertificateExpired", "CertificateNotYetValid", "CertificateEndsSoon"];

/// Adds one line per document that is not wholly accepted, and one for the rest.
pub(crate) fn check(loaded: &Loaded) -> Category {
    let mut category = Category::new("configuration");
    let verdicts = &loaded.verdicts;
    let good = verdicts.iter().filter(|verdict| verdict.outcome == Outcome::Accepted).count();
    if good > 0 {
        category.ok(format!("{} accepted", count(good, "document")));
    }
    for verdict in verdicts.iter().filter(|verdict| verdict.outcome != Outcome::Accepted) {
        let mut errors =
            verdict.findings.iter().filter(|finding| finding.severity == Severity::Error);
        let why = errors.next().map(|first| format!("{}: {first}", first.origin));
        let why = why.unwrap_or_else(|| verdict.origin.to_string());
        let more = match errors.count() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        category.error(
            format!("{}: {}", verdict.subject(), verdict.outcome),
            format!("{why}{more}; see: durward validate"),
        );
    }
    for (verdict, finding) in loaded.verdicts.findings() {
        // The category `certificates` reports the lifetimes of certificates being served.
        let reported = verdict.outcome == Outcome::Accepted && LIFETIME.contains(&&*finding.reason);
        if finding.severity == Severity::Warning && !reported {
            category.warn(format!("{}: {finding}", verdict.subject()), finding.origin.to_string());
        }
    }
    let (snapshot, nat) = (&loaded.snapshot, &loaded.snapshot.nat);
    // Mappings and egress rules need no listener.
    if snapshot.binds.is_empty() && nat.mappings.is_empty() && nat.egress.is_empty() {
        category.error("nothing would be served", "see: durward validate");
    }
    category
}
