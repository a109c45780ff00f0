//! Certificates by ACME: what an entry asks for, what has been issued, and where the authority can validate its names.
//!
//! Deliberately absent: orders; the snapshot says what is wanted, and whoever places orders writes files that are read here.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::acme::{Answer, Challenge, Name, Order};
use durward_model::{Certificate, Listener, Secret, Service};

use super::body::Candidate;
use super::certificates::IssuedFile;
use super::keys;
use super::listener::{self, Workshop, protocol};
use super::report::{Field, Report};
use crate::certificate::key;
use crate::issuance::{self, Fault, Issuance, Wanted};
use crate::place::{At, Place};
use crate::spec::ingress::{AcmeSpec, CertificateSpec, IngressSpec, ProtocolSpec};

/// Port at which HTTP-01 validates.
const HTTP: u16 = 80;
/// Port at which TLS-ALPN-01 validates.
const HTTPS: u16 = 443;

/// Addresses of a tenant at which an authority can validate; true for those that admit every source.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    http: BTreeSet<(IpAddr, bool)>,
    tls: BTreeSet<(IpAddr, bool)>,
}

impl Doors {
    /// Returns the doors that entries of `spec.ingress` open.
    pub(crate) fn of(entries: &[At<IngressSpec>]) -> Self {
        let mut doors = Self::default();
        for entry in entries {
            let Some((address, port, _)) = listener::key(entry) else { continue };
            let door = (address, entry.allowed_sources.is_none());
            let ends_tls = match protocol(entry) {
                ProtocolSpec::Https | ProtocolSpec::Link => true,
                ProtocolSpec::Tcp => entry.certificate.is_some() || !entry.certificates.is_empty(),
                _ => false,
            };
            match (port, protocol(entry)) {
                (HTTP, ProtocolSpec::Http) => drop(doors.http.insert(door)),
                (HTTPS, _) if ends_tls => drop(doors.tls.insert(door)),
                _ => {}
            }
        }
        doors
    }

    /// Returns whether a name can be validated: `None` if nowhere, `Some(false)` if only allowed sources get there.
    fn open_for(&self, challenge: Challenge, name: &Name) -> Option<bool> {
        let doors = match challenge {
            Challenge::Http01 => &self.http,
            Challenge::TlsAlpn01 => &self.tls,
        };
        let fits = |door: &&(IpAddr, bool)| match name {
            Name::Ip(address) => door.0 == *address,
            // Where a host name leads is not known here.
            Name::Dns(_) => true,
        };
        doors.iter().filter(fits).map(|(_, is_open)| *is_open).max()
    }
}

impl Workshop<'_, '_, '_, '_> {
    /// Notes what an entry wants of an authority; returns the certificate if it has been issued. Errors are in the report.
    pub(super) fn by_acme(
        &mut self,
        (entry, position): (&IngressSpec, usize),
        written: &At<CertificateSpec>,
        spec: &At<AcmeSpec>,
        field: &Field<'_>,
    ) -> Option<Arc<Certificate>> {
        let before = self.report.errors();
        let field = &field.name("acme");
        self.unfitting_acme(written, spec, field);
        if spec.names.is_empty() && !entry.names.is_empty() {
            let sentence = "is missing: this entry is found by its names, so say for which of them the certificate is";
            self.report.error("BadAcme", spec.place, &field.name("names"), sentence);
        }
        let contacts = self.contacts(spec, field);
        let account_key = self.account_key(spec, field);
        let issuance = self.issuance(spec, field)?;
        let wanted = issuance.wanted(self.tenant.as_str(), &entry.address, spec);
        let wanted = wanted.map_err(|fault| self.faulty(spec, fault, field)).ok()?;
        let challenge = spec.challenge.map(|challenge| issuance::challenge(challenge.value));
        let is_https = listener::key(entry).is_some_and(|(_, port, _)| port == HTTPS);
        let by_port = if is_https { Challenge::TlsAlpn01 } else { Challenge::Http01 };
        let challenge = challenge.unwrap_or(by_port);
        self.validated(&wanted, challenge, spec, field);
        if self.report.errors() > before {
            return None;
        }
        let file = issuance.certificate_file(&wanted.id);
        let answers_file = issuance.answers_file(&wanted.id);
        let name = short_name(&wanted.names);
        let issued = IssuedFile { path: &file, name: &name, place: spec.place };
        let certificate = self.files.issued(self.report, issued, field);
        self.acme.answers.extend(self.files.answers(&answers_file));
        self.acme.orders.push(Arc::new(Order {
            id: wanted.id.into(),
            names: wanted.names,
            directory: wanted.directory.into(),
            contacts,
            challenge,
            profile: wanted.profile.map(Arc::from),
            account_key,
            file,
            answers_file,
            issued: certificate.is_some(),
            first: position == 0,
            origin: self.report.source().origin(spec.place),
        }));
        certificate
    }

    fn issuance(&mut self, spec: &At<AcmeSpec>, field: &Field<'_>) -> Option<Issuance> {
        let issuance = self.report.source().roots.issuance().cloned();
        if issuance.is_none() {
            let sentence = "needs a directory for its account and its keys: start durward with --state-dir DIR";
            self.report.error("AcmeWithoutState", spec.place, field, sentence);
        }
        issuance
    }

    fn unfitting_acme(
        &mut self,
        written: &CertificateSpec,
        spec: &At<AcmeSpec>,
        field: &Field<'_>,
    ) {
        if written.file.is_some()
            || written.certificate_file.is_some()
            || written.key_file.is_some()
            || written.secret_name.is_some()
        {
            let sentence = "is written beside files: keep one of the two";
            self.report.error("BadCertificate", spec.place, field, sentence);
        }
        if self.outward.is_some_and(|outward| outward.spec.shared) {
            let sentence = "means nothing here: tenants that share a proxy show the same certificate, which no one of them can order";
            self.report.error("FieldUnfitting", spec.place, field, sentence);
        }
        let agreed = spec.terms_of_service_agreed;
        if !agreed.is_some_and(|agreed| agreed.value) {
            let place = agreed.map_or(spec.place, |agreed| agreed.place);
            let sentence = "must be true: an authority issues nothing unless its terms of service are agreed to";
            let field = field.name("termsOfServiceAgreed");
            self.report.error("AcmeTerms", place, &field, sentence);
        }
        if let Some(profile) = &spec.profile
            && !profile.bytes().all(|byte| byte.is_ascii_graphic())
        {
            let sentence = format!("{:?} is not the name of a profile", profile.value);
            self.report.error("BadAcme", profile.place, &field.name("profile"), &sentence);
        }
    }

    fn contacts(&mut self, spec: &AcmeSpec, field: &Field<'_>) -> Vec<Arc<str>> {
        let list = field.name("contacts");
        let mut contacts = Vec::with_capacity(spec.contacts.len());
        for (at, written) in spec.contacts.iter().enumerate() {
            contacts.extend(self.report.check("BadAcme", written, &list.index(at), contact));
        }
        contacts
    }

    fn account_key(&mut self, spec: &AcmeSpec, field: &Field<'_>) -> Option<Secret> {
        let written = spec.account_key_file.as_ref()?;
        let field = &field.name("accountKeyFile");
        let found = self.files.secrets(self.report, written, field)?;
        let refuse = |report: &mut Report<'_>, reason: &str, sentence: &str| {
            let sentence = format!("{:?} {sentence}", written.value);
            report.error(reason, written.place, field, &sentence);
        };
        let read = key::read(found.bytes).ok().filter(key::is_p256_pkcs8);
        let Some(read) = read else {
            let sentence = "is no ECDSA P-256 key in PKCS#8: make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`";
            refuse(self.report, "KeyUnsupported", sentence);
            return None;
        };
        let id = keys::of_acme_account(read.der.expose());
        if let Some(holder) = self.files.holder(&id) {
            let sentence = format!("holds the account key {holder}: an account is one tenant's");
            refuse(self.report, "KeyTaken", &sentence);
            return None;
        }
        self.files.use_secret(id, false, self.report.source().origin(written.place));
        Some(read.der)
    }

    fn faulty(&mut self, spec: &At<AcmeSpec>, fault: Fault, field: &Field<'_>) {
        let list = field.name("names");
        match fault {
            Fault::Name(at, sentence) => {
                let written = &spec.names[at];
                let sentence = format!("{:?} {sentence}", written.value);
                self.report.error("BadAcme", written.place, &list.index(at), &sentence);
            }
            // The address is an error of its own field.
            Fault::Address(sentence) => {
                let sentence = format!("are missing, and the entry's address {sentence}");
                self.report.error("BadAcme", spec.place, &list, &sentence);
            }
            Fault::Directory(sentence) => {
                let written = spec.directory.as_ref();
                let place = written.map_or(spec.place, |written| written.place);
                let text = written.map(|written| &*written.value).unwrap_or_default();
                let sentence = format!("{text:?} {sentence}");
                self.report.error("AcmeDirectory", place, &field.name("directory"), &sentence);
            }
        }
    }

    /// Reports names that the authority cannot validate here.
    fn validated(
        &mut self,
        wanted: &Wanted,
        challenge: Challenge,
        spec: &At<AcmeSpec>,
        field: &Field<'_>,
    ) {
        let place: Place = spec.challenge.map_or(spec.place, |challenge| challenge.place);
        let (port, cure) = match challenge {
            Challenge::Http01 => {
                (HTTP, "protocol: HTTP (with redirectToHttps it serves nothing else)")
            }
            Challenge::TlsAlpn01 => (HTTPS, "protocol: HTTPS, or use HTTP-01"),
        };
        let field = field.name("challenge");
        let mut closed = false;
        for name in &wanted.names {
            let Some(is_open) = self.doors.open_for(challenge, name) else {
                let at = match name {
                    Name::Ip(address) => format!(" at {address}"),
                    Name::Dns(_) => String::new(),
                };
                let sentence = format!(
                    "{} validates {name} at port {port}, where this tenant has no entry{at}: add one with {cure}",
                    challenge.name()
                );
                self.report.error("AcmeUnreachable", place, &field, &sentence);
                return;
            };
            closed |= !is_open;
        }
        if closed {
            let sentence = format!(
                "{} validates from addresses that authorities do not publish, and allowedSources keeps them out: leave it away at port {port}, \
                 or use the other challenge",
                challenge.name()
            );
            self.report.warning("AcmeSources", place, &field, &sentence);
        }
    }
}

/// Gives the answers to a tenant's challenges to those of its listeners that can answer: wherever one of its names leads, it is one of them.
pub(crate) fn share_answers(candidates: &mut [Candidate]) {
    let all: Vec<Answer> = candidates
        .iter()
        .flat_map(|candidate| candidate.listener.acme.answers.iter().cloned())
        .collect();
    if all.is_empty() {
        return;
    }
    for candidate in candidates {
        let listener = Arc::make_mut(&mut candidate.listener);
        let mut answers: Vec<Answer> = Vec::new();
        for answer in all.iter().filter(|answer| can_give(listener, answer)) {
            if !answers.contains(answer) {
                answers.push(answer.clone());
            }
        }
        listener.acme.answers = answers;
    }
}

fn can_give(listener: &Listener, answer: &Answer) -> bool {
    match answer {
        Answer::Http { .. } => {
            matches!(&listener.service, Service::Http(service) if service.tls.is_none())
        }
        Answer::Tls { .. } => listener.tls().is_some(),
    }
}

/// Returns what a certificate is called: its first name, and how many more there are.
fn short_name(names: &[Name]) -> String {
    let first = names.first().map(Name::to_string).unwrap_or_default();
    match names.len() {
        0 | 1 => first,
        count => format!("{first}+{}", count - 1),
    }
}

/// A mail address, as a URI.
fn contact(text: &str) -> Result<Arc<str>, String> {
    let address = text.strip_prefix("mailto:").unwrap_or(text);
    let is_plain = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_graphic() && !b",?@<>\"".contains(&byte))
    };
    match address.split_once('@') {
        Some((user, host)) if is_plain(user) && is_plain(host) => {
            Ok(format!("mailto:{address}").into())
        }
        _ => Err("is not a mail address".to_owned()),
    }
}
