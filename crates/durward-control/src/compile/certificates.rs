//! Certificates a document names: found among the files and the Secrets, read once, checked for what they are used for.
//!
//! Results of an earlier compile are reused as long as the bytes are the same. Deliberately absent: reading files.

mod issued;
mod named;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use durward_model::certificate::{ends_soon, span_text};
use durward_model::egress::NameList;
use durward_model::link::LinkRoute;
use durward_model::{Certificate, Origin, SharedMap, TenantId};

use super::keys::{Denied, KeyId, KeyUse};
use super::name_list::{self, ListFault};
use super::report::{Field, Report};
use crate::certificate::authority::{self, AuthorityFault};
use crate::certificate::identity::{self, IdentityFault};
use crate::certificate::{Authority, Identity, Revocations};
use crate::change::Fact;
use crate::document::link_routes_of;
use crate::named_file::Digest;
use crate::place::{At, Place};
use crate::reference::Reference;
use crate::spec::ingress::CertificateSpec;
use crate::store::{Asker, Found, Place as FoundAt, Store};
pub(crate) use issued::IssuedFile;

/// Parsed files and entries, by place, valid while the bytes are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Certificates {
    identities: Cache<Result<Identity, IdentityFault>>,
    authorities: Cache<Result<Vec<Authority>, AuthorityFault>>,
    revocations: Cache<Result<Vec<Revocations>, AuthorityFault>>,
    names: Cache<Result<Arc<NameList>, ListFault>>,
}

impl Certificates {
    /// Returns true if these contain all of the others.
    pub(crate) fn hold(&self, others: &Self) -> bool {
        self.identities.holds(&others.identities)
            && self.authorities.holds(&others.authorities)
            && self.revocations.holds(&others.revocations)
            && self.names.holds(&others.names)
    }

    /// Lets go of what was read from any of these files; a later compile that needs it reads it again.
    pub(crate) fn forget(&mut self, files: &BTreeSet<Reference>) {
        if files.is_empty() {
            return;
        }
        self.identities.forget(files);
        self.authorities.forget(files);
        self.revocations.forget(files);
        self.names.forget(files);
    }

    /// Takes the others in.
    pub(crate) fn take_in(&mut self, others: &Self) {
        self.identities.take_in(&others.identities);
        self.authorities.take_in(&others.authorities);
        self.revocations.take_in(&others.revocations);
        self.names.take_in(&others.names);
    }
}

struct Cache<T>(SharedMap<Vec<FoundAt>, Known<T>>);

/// The digests of the files that were read, and what came of them.
type Known<T> = (Vec<Digest>, Arc<T>);

impl<T> fmt::Debug for Cache<T> {
    /// Only the names: what was read may be keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self(SharedMap::new())
    }
}

// What was read is shared, so it need not be one that can be copied.
impl<T> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Cache<T> {
    fn holds(&self, others: &Self) -> bool {
        let same = |known: &Known<T>, other: &Known<T>| Arc::ptr_eq(&known.1, &other.1);
        let mut others = others.0.iter();
        others.all(|(paths, other)| self.0.get(paths).is_some_and(|known| same(known, other)))
    }

    fn take_in(&mut self, others: &Self) {
        for (paths, known) in &others.0 {
            self.0.insert(paths.clone(), known.clone());
        }
    }

    fn forget(&mut self, files: &BTreeSet<Reference>) {
        self.0.retain(|places, _| !places.iter().any(|place| place.is_of(files)));
    }

    /// Returns the result of `read` on the files, from this compile or the one before.
    fn get(
        &mut self,
        old: Option<&Self>,
        files: &[&Found<'_>],
        read: impl FnOnce() -> T,
    ) -> Arc<T> {
        let paths: Vec<_> = files.iter().map(|found| found.place.clone()).collect();
        if let Some((_, value)) = self.0.get(&paths) {
            return Arc::clone(value);
        }
        let digests: Vec<_> = files.iter().map(|found| found.digest).collect();
        let reused = old.and_then(|old| old.0.get(&paths)).filter(|(known, _)| *known == digests);
        let value = reused.map_or_else(|| Arc::new(read()), |(_, value)| Arc::clone(value));
        self.0.insert(paths, (digests, Arc::clone(&value)));
        value
    }
}

/// The files of one compile, and what is known of them.
pub(crate) struct Files<'a> {
    store: &'a Store,
    old: Option<&'a Certificates>,
    fresh: Certificates,
    now: i64,
    /// Keys used by the document that is read now.
    used: Vec<KeyUse>,
    /// Keys of other tenants, which the document that is read now may not use.
    denied: Denied,
    /// On whose behalf objects are looked up now.
    asker: Option<Asker>,
    /// True if the document that is read now was denied an object since this was last asked.
    is_denied: bool,
}

/// Purpose of a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Shown to clients.
    Server {
        /// At a proxy beside those of other tenants, where all show the same certificate.
        shared: bool,
    },
    /// Shown to upstreams.
    Client,
    /// Never shown: it signs others.
    Authority,
}

impl<'a> Files<'a> {
    pub(crate) fn new(store: &'a Store, old: Option<&'a Certificates>, now: i64) -> Self {
        let fresh = Certificates::default();
        let (used, denied) = (Vec::new(), Denied::new());
        Self { store, old, fresh, now, used, denied, asker: None, is_denied: false }
    }

    /// Returns the routes that agents of a tenant's link have registered.
    pub(crate) fn link_routes(
        &self,
        tenant: &TenantId,
        link: &str,
    ) -> Option<&'a Arc<[LinkRoute]>> {
        let reference = link_routes_of(&Arc::from(tenant.as_str()), link);
        match self.store.fact(&reference)? {
            Fact::LinkRoutes(routes) => Some(routes),
            _ => None,
        }
    }

    /// Refuses these keys from now on.
    pub(crate) fn deny(&mut self, keys: Denied) {
        self.denied = keys;
    }

    /// Returns the keys used since this was last asked.
    pub(crate) fn keys_used(&mut self) -> Vec<KeyUse> {
        std::mem::take(&mut self.used)
    }

    /// Returns what was read, for reuse by the next compile.
    pub(crate) fn into_certificates(self) -> Certificates {
        self.fresh
    }

    /// Returns true if the file exists.
    pub(crate) fn has(&self, report: &Report<'_>, written: &str) -> bool {
        self.store.has_file(report.source(), written)
    }

    /// The certificate `spec` names, or `None` after an error.
    pub(crate) fn certificate(
        &mut self,
        report: &mut Report<'_>,
        spec: &At<CertificateSpec>,
        field: &Field<'_>,
        purpose: Purpose,
    ) -> Option<Arc<Certificate>> {
        let is_servers = matches!(purpose, Purpose::Server { .. });
        if let Some(acme) = spec.acme.as_ref().filter(|_| !is_servers) {
            let sentence = "means nothing here: authorities issue certificates for servers";
            report.error("FieldUnfitting", acme.place, &field.name("acme"), sentence);
            return None;
        }
        let names = Names::of(report, spec, field)?;
        if spec.secret_name.is_some()
            && !self.is_tls_secret(report, &names.certificate, names.place, field)
        {
            return None;
        }
        let certificate = self.bytes(report, &names.certificate, names.place, field);
        // What is wrong with a Secret is said once.
        let is_one_object = spec.secret_name.is_some() && certificate.is_none();
        let key =
            if is_one_object { None } else { self.bytes(report, &names.key, names.place, field) };
        let (certificate, key) = (certificate?, key?);
        let old = self.old.map(|old| &old.identities);
        let read = || identity::read(certificate.bytes, key.bytes);
        let identity = self.fresh.identities.get(old, &[&certificate, &key], read);
        let files = (certificate.place.to_path(), key.place.to_path());
        match &*identity {
            Err(fault) => {
                let sentence = format!("{:?}: {fault}", names.certificate);
                report.error(fault.reason(), names.place, field, &sentence);
                None
            }
            Ok(identity) if self.denied.contains_key(&identity.key_id) => {
                let sentence = format!(
                    "{:?} holds the private key {}: a key is one tenant's, issue another",
                    names.key, self.denied[&identity.key_id]
                );
                report.error("KeyTaken", names.place, field, &sentence);
                None
            }
            Ok(identity) => {
                self.used.push(KeyUse {
                    key: identity.key_id,
                    shared: purpose == Purpose::Server { shared: true },
                    is_authority: false,
                    origin: report.source().origin(names.place),
                    age: None,
                });
                self.remark(report, &names, field, identity, purpose);
                Some(Arc::new(names.certificate_of(report, identity, files)))
            }
        }
    }

    /// Reports warnings about a certificate that is served all the same.
    fn remark(
        &self,
        report: &mut Report<'_>,
        names: &Names,
        field: &Field<'_>,
        identity: &Identity,
        purpose: Purpose,
    ) {
        let leaf = &identity.leaf;
        let mut warn = |reason: &str, sentence: &str| {
            report.warning(
                reason,
                names.place,
                field,
                &format!("{:?} {sentence}", names.certificate),
            );
        };
        for remark in &identity.remarks {
            warn(remark.reason(), &remark.to_string());
        }
        let left = leaf.not_after - self.now;
        if left <= 0 {
            warn(
                "CertificateExpired",
                &format!("ended {} ago: peers refuse it, renew it", span_text(-left)),
            );
        } else if leaf.not_before > self.now {
            let ahead = span_text(leaf.not_before - self.now);
            warn(
                "CertificateNotYetValid",
                &format!("is valid only in {ahead}: peers refuse it until then"),
            );
        } else if ends_soon(leaf.not_before, leaf.not_after, self.now) {
            warn("CertificateEndsSoon", &format!("ends in {}: renew it", span_text(left)));
        }
        match (purpose, leaf.usage) {
            (Purpose::Server { .. }, Some(usage)) if !usage.server => warn(
                "CertificateUsage",
                "is not for servers (its extended key usage lacks serverAuth): clients refuse it, reissue it",
            ),
            (Purpose::Client, Some(usage)) if !usage.client => warn(
                "CertificateUsage",
                "is not for clients (its extended key usage lacks clientAuth): upstreams refuse it, reissue it",
            ),
            _ => {}
        }
    }

    /// The authorities in the file, or `None` after an error.
    pub(crate) fn authorities(
        &mut self,
        report: &mut Report<'_>,
        written: &At<String>,
        field: &Field<'_>,
    ) -> Option<Vec<Authority>> {
        let file = self.bytes(report, written, written.place, field)?;
        let old = self.old.map(|old| &old.authorities);
        let read = || authority::read(file.bytes);
        let found = self.fresh.authorities.get(old, &[&file], read);
        let authorities = match &*found {
            Ok(authorities) => authorities.clone(),
            Err(fault) => {
                let sentence = format!("{:?}: {fault}", written.value);
                report.error("AuthorityUnreadable", written.place, field, &sentence);
                return None;
            }
        };
        for authority in &authorities {
            self.remark_authority(report, written, field, authority);
        }
        Some(authorities)
    }

    fn remark_authority(
        &self,
        report: &mut Report<'_>,
        written: &At<String>,
        field: &Field<'_>,
        authority: &Authority,
    ) {
        let mut warn = |reason: &str, sentence: &str| {
            let sentence =
                format!("{:?} holds {:?}, which {sentence}", written.value, authority.subject);
            report.warning(reason, written.place, field, &sentence);
        };
        if !authority.is_v3 {
            warn(
                "AuthorityVersion1",
                "is X.509 version 1: it is trusted, but certificates that are version 1 themselves are refused; \
                 issue certificates with extensions (`openssl x509 -req -extfile …`)",
            );
        } else if !authority.is_authority {
            warn(
                "NotAnAuthority",
                "is no authority (CA:FALSE): name the certificate that issued it",
            );
        }
        let left = authority.not_after - self.now;
        if left <= 0 {
            warn("AuthorityExpired", &format!("ended {} ago: replace it", span_text(-left)));
        } else if ends_soon(authority.not_before, authority.not_after, self.now) {
            warn(
                "AuthorityEndsSoon",
                &format!("ends in {}: add its successor beside it", span_text(left)),
            );
        }
    }

    /// The revocation lists in the file, or `None` after an error.
    pub(crate) fn revocations(
        &mut self,
        report: &mut Report<'_>,
        written: &At<String>,
        field: &Field<'_>,
    ) -> Option<Vec<Revocations>> {
        let file = self.bytes(report, written, written.place, field)?;
        let old = self.old.map(|old| &old.revocations);
        let read = || authority::read_revocations(file.bytes);
        let found = self.fresh.revocations.get(old, &[&file], read);
        match &*found {
            Err(fault) => {
                let sentence = format!("{:?}: {fault}", written.value);
                report.error("RevocationsUnreadable", written.place, field, &sentence);
                None
            }
            Ok(lists) => {
                for list in lists
                    .iter()
                    .filter(|list| list.next_update.is_some_and(|next| next <= self.now))
                {
                    let sentence = format!(
                        "{:?}: the revocation list of {:?} is out of date: fetch its successor, newer revocations are not known",
                        written.value, list.issuer
                    );
                    report.warning("RevocationsOutdated", written.place, field, &sentence);
                }
                Some(lists.clone())
            }
        }
    }

    /// The names in the file, or `None` after an error.
    pub(crate) fn names(
        &mut self,
        report: &mut Report<'_>,
        written: &At<String>,
        field: &Field<'_>,
    ) -> Option<Arc<NameList>> {
        let file = self.bytes(report, written, written.place, field)?;
        let old = self.old.map(|old| &old.names);
        let read = || name_list::read(file.bytes).map(Arc::new);
        let found = self.fresh.names.get(old, &[&file], read);
        match &*found {
            Ok(list) => Some(Arc::clone(list)),
            Err(fault) => {
                let sentence = format!("{:?} {fault}", written.value);
                report.error("BadNameList", written.place, field, &sentence);
                None
            }
        }
    }

    /// Returns a file of secrets, or `None` after an error.
    pub(crate) fn secrets(
        &mut self,
        report: &mut Report<'_>,
        written: &At<String>,
        field: &Field<'_>,
    ) -> Option<Found<'a>> {
        self.bytes(report, written, written.place, field)
    }

    /// Returns the other tenant to whom a secret belongs, in the words of a finding: its clients would be let in, or its account be used.
    pub(crate) fn holder(&self, secret: &KeyId) -> Option<&str> {
        self.denied.get(secret).map(|holder| &**holder)
    }

    /// Records that the document uses a secret.
    pub(crate) fn use_secret(&mut self, key: KeyId, shared: bool, origin: Origin) {
        self.used.push(KeyUse { key, shared, is_authority: false, origin, age: None });
    }

    /// Takes note that the document admits whoever has a certificate of an authority, as no other tenant may.
    pub(crate) fn trust_alone(&mut self, key: KeyId, origin: Origin) {
        self.used.push(KeyUse { key, shared: false, is_authority: true, origin, age: None });
    }
}

/// The two files a certificate is in.
pub(crate) struct Names {
    /// The chain's file, as written.
    pub(crate) certificate: String,
    /// The key's file, as written.
    pub(crate) key: String,
    place: Place,
}

impl Names {
    fn of(report: &mut Report<'_>, spec: &At<CertificateSpec>, field: &Field<'_>) -> Option<Self> {
        if let Some((certificate, key)) = spec.value.files() {
            let place = spec.named().map_or(spec.place, |named| named.place);
            return Some(Self { certificate, key, place });
        }
        report.error(
            "BadCertificate",
            spec.place,
            field,
            "needs either file, or certificateFile and keyFile, or secretName, or acme",
        );
        None
    }

    fn certificate_of(
        &self,
        report: &Report<'_>,
        identity: &Identity,
        (chain_file, key_file): (PathBuf, PathBuf),
    ) -> Certificate {
        let leaf = &identity.leaf;
        let ends = ["/tls.crt", ".crt", ".pem"];
        let is_secret = self.certificate.starts_with("secret:");
        let mut ends = ends.iter().skip(usize::from(!is_secret));
        let stem = ends.find_map(|end| self.certificate.strip_suffix(end));
        Certificate {
            name: Arc::from(stem.unwrap_or(&self.certificate)),
            chain: identity.chain.clone(),
            key: identity.key.clone(),
            ip_names: leaf.ip_names.clone(),
            dns_names: leaf.dns_names.clone(),
            subject: Arc::clone(&leaf.subject),
            issuer: Arc::clone(&leaf.issuer),
            key_type: Arc::from(leaf.key_kind.name()),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            fingerprint: Arc::clone(&leaf.fingerprint),
            origin: report.source().origin(self.place),
            chain_file,
            key_file,
        }
    }
}

#[cfg(test)]
mod tests;
