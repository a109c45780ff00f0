//! Files of certificates that authorities issue: the pair in one file, and answers to challenges.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use durward_model::Certificate;
use durward_model::acme::Answer;

use super::super::keys::KeyUse;
use super::super::report::{Field, Report};
use super::{Files, Names, Purpose};
use crate::certificate::identity;
use crate::issuance;
use crate::place::Place;

/// A file in which an authority's certificate is kept.
#[derive(Clone, Copy)]
pub(crate) struct IssuedFile<'a> {
    pub(crate) path: &'a Path,
    /// The certificate's name in findings and metrics.
    pub(crate) name: &'a str,
    /// Place in the document that asks for it.
    pub(crate) place: Place,
}

impl Files<'_> {
    /// Returns the certificate in a file of an authority's certificates; `None` if there is none that can be served.
    pub(crate) fn issued(
        &mut self,
        report: &mut Report<'_>,
        issued: IssuedFile<'_>,
        field: &Field<'_>,
    ) -> Option<Arc<Certificate>> {
        let IssuedFile { path, name, place } = issued;
        let warn = |report: &mut Report<'_>, fault: &dyn fmt::Display| {
            let sentence = format!("{} {fault}: a new one will be ordered", path.display());
            report.warning("CertificateUnreadable", place, field, &sentence);
        };
        let found = match self.store.issued_file(path) {
            Ok(found) => found?,
            Err(fault) => {
                warn(report, &fault);
                return None;
            }
        };
        let old = self.old.map(|old| &old.identities);
        // One file holds both, so that a renewal replaces both at once.
        let read = || identity::read(found.bytes, found.bytes);
        let identity = self.fresh.identities.get(old, &[&found, &found], read);
        let identity = match &*identity {
            Ok(identity) if !self.denied.contains_key(&identity.key_id) => identity,
            Ok(_) => {
                warn(report, &"holds the private key of another tenant");
                return None;
            }
            Err(fault) => {
                warn(report, fault);
                return None;
            }
        };
        let origin = report.source().origin(place);
        let key = identity.key_id;
        self.used.push(KeyUse { key, shared: false, is_authority: false, origin, age: None });
        let names = Names { certificate: name.to_owned(), key: name.to_owned(), place };
        self.remark(report, &names, field, identity, Purpose::Server { shared: false });
        let files = (found.place.to_path(), found.place.to_path());
        Some(Arc::new(names.certificate_of(report, identity, files)))
    }

    /// Returns the answers in a file of answers to challenges.
    pub(crate) fn answers(&self, path: &Path) -> Vec<Answer> {
        let found = self.store.issued_file(path).ok().flatten();
        found.map_or_else(Vec::new, |found| issuance::answers(found.bytes))
    }
}
