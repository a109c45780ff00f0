//! Certificates that authorities issue: which authorities documents may name, where the files are, and how answers to challenges are written in them.
//!
//! The files are read like those that documents name. Deliberately absent: orders; whoever places them writes the files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use durward_model::Secret;
use durward_model::acme::{Answer, Challenge, Name};
use serde::{Deserialize, Serialize};

use crate::spec::ingress::{AcmeSpec, ChallengeSpec};
use crate::words::{address, host_name};

/// Directory URL of Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Directory URL of Let's Encrypt's staging environment.
pub const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";
/// Profile in which Let's Encrypt issues IP addresses.
const SHORT_LIVED: &str = "shortlived";

/// Operator's settings for certificates by ACME.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issuance {
    /// Directory of the files.
    pub directory: PathBuf,
    /// Directory URLs that documents may name besides Let's Encrypt's; the first is the default.
    pub authorities: Vec<String>,
}

/// Certificate that a document asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Identifier; a file name.
    pub(crate) id: String,
    pub(crate) names: Vec<Name>,
    pub(crate) directory: String,
    pub(crate) profile: Option<String>,
}

/// Field of [`AcmeSpec`] with a fault, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The name at this position.
    Name(usize, String),
    /// The listener's address, which is the default name.
    Address(String),
    /// The directory URL.
    Directory(String),
}

impl Issuance {
    /// Returns what is asked for by `spec` for a listener of `tenant` at `listener`.
    pub(crate) fn wanted(
        &self,
        tenant: &str,
        listener: &str,
        spec: &AcmeSpec,
    ) -> Result<Wanted, Fault> {
        let mut names = spec
            .names
            .iter()
            .enumerate()
            .map(|(at, written)| name(written).map_err(|fault| Fault::Name(at, fault)))
            .collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() {
            names.push(Name::Ip(address(listener).map_err(Fault::Address)?));
        }
        names.sort();
        names.dedup();
        let directory = self.authority(spec)?.to_owned();
        let has_address = names.iter().any(|name| matches!(name, Name::Ip(_)));
        let is_lets_encrypt = [LETS_ENCRYPT, LETS_ENCRYPT_STAGING].contains(&&*directory);
        let profile = spec.profile.as_ref().map(|profile| profile.value.clone());
        let profile =
            profile.or_else(|| (has_address && is_lets_encrypt).then(|| SHORT_LIVED.to_owned()));
        let id = id(tenant, &names, &directory, profile.as_deref());
        Ok(Wanted { id, names, directory, profile })
    }

    fn authority<'a>(&'a self, spec: &'a AcmeSpec) -> Result<&'a str, Fault> {
        let Some(written) = &spec.directory else {
            return Ok(self.authorities.first().map_or(LETS_ENCRYPT, String::as_str));
        };
        let known = self.authorities.iter().map(String::as_str);
        let mut known = known.chain([LETS_ENCRYPT, LETS_ENCRYPT_STAGING]);
        known.find(|known| *known == written.value).ok_or_else(|| {
            Fault::Directory(
                "is no authority that the operator allows: start durward with --acme-directory URL"
                    .to_owned(),
            )
        })
    }

    /// Returns the file of a certificate with its key.
    #[must_use]
    pub fn certificate_file(&self, id: &str) -> PathBuf {
        self.directory.join("certificates").join(format!("{id}.pem"))
    }

    /// Returns the file of answers to the challenges of an order.
    #[must_use]
    pub fn answers_file(&self, id: &str) -> PathBuf {
        self.directory.join("challenges").join(format!("{id}.json"))
    }

    /// Returns both files of a certificate that `spec` asks for; none if it is faulty.
    pub(crate) fn files(
        &self,
        tenant: &str,
        listener: &str,
        spec: &AcmeSpec,
    ) -> Option<[Arc<Path>; 2]> {
        let id = self.wanted(tenant, listener, spec).ok()?.id;
        Some([self.certificate_file(&id).into(), self.answers_file(&id).into()])
    }
}

fn name(written: &str) -> Result<Name, String> {
    if let Ok(address) = address(written) {
        return Ok(Name::Ip(address));
    }
    if written.starts_with("*.") {
        return Err(
            "is a wildcard, which authorities validate by DNS alone: name each host".to_owned()
        );
    }
    host_name(written).map(Name::Dns)
}

/// Returns the identifier of a certificate: the tenant, so that no two tenants share a file, and a hash of what is ordered.
fn id(tenant: &str, names: &[Name], directory: &str, profile: Option<&str>) -> String {
    let names: Vec<String> = names.iter().map(Name::to_string).collect();
    let what = [tenant, &names.join(","), directory, profile.unwrap_or_default()].join("\n");
    let hash = digest::digest(&digest::SHA256, what.as_bytes());
    let hash: String = hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{tenant}-{hash}")
}

/// Returns the challenge in the words of the model.
pub(crate) fn challenge(spec: ChallengeSpec) -> Challenge {
    match spec {
        ChallengeSpec::Http01 => Challenge::Http01,
        ChallengeSpec::TlsAlpn01 => Challenge::TlsAlpn01,
    }
}

/// Answer as it is written in a file.
#[derive(Serialize, Deserialize)]
#[serde(tag = "challenge", deny_unknown_fields)]
enum Written {
    #[serde(rename = "http-01")]
    Http { token: String, text: String },
    #[serde(rename = "tls-alpn-01", rename_all = "camelCase")]
    Tls { server_name: String, certificate: String, key: String },
}

/// Formats answers for a file, which holds private keys of challenges.
#[must_use]
pub fn answers_json(answers: &[Answer]) -> Vec<u8> {
    let written = answers.iter().map(|answer| match answer {
        Answer::Http { token, text } => {
            Written::Http { token: (**token).to_owned(), text: (**text).to_owned() }
        }
        Answer::Tls { server_name, certificate, key } => Written::Tls {
            server_name: (**server_name).to_owned(),
            certificate: BASE64_STANDARD.encode(certificate),
            key: BASE64_STANDARD.encode(key.expose()),
        },
    });
    serde_json::to_vec(&written.collect::<Vec<_>>()).unwrap_or_default()
}

/// Parses a file of answers; none of a file that is damaged, so that the authority is refused and the order tried again.
pub(crate) fn answers(bytes: &[u8]) -> Vec<Answer> {
    let written: Vec<Written> = serde_json::from_slice(bytes).unwrap_or_default();
    let decode = |text: &str| BASE64_STANDARD.decode(text).ok();
    let answers = written.into_iter().filter_map(|written| match written {
        Written::Http { token, text } => {
            Some(Answer::Http { token: token.into(), text: text.into() })
        }
        Written::Tls { server_name, certificate, key } => Some(Answer::Tls {
            server_name: server_name.into(),
            certificate: decode(&certificate)?.into(),
            key: Secret::new(decode(&key)?),
        }),
    });
    answers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{At, Place};

    fn written(text: &str) -> At<String> {
        At::new(text.to_owned(), Place::default())
    }

    fn spec(names: &[&str]) -> AcmeSpec {
        AcmeSpec { names: names.iter().map(|name| written(name)).collect(), ..AcmeSpec::default() }
    }

    #[test]
    fn one_certificate_is_one_file_however_its_names_are_written_and_never_another_tenants() {
        let issuance = Issuance::default();
        let id = |tenant: &str, names: &[&str]| {
            issuance.wanted(tenant, "192.0.2.1", &spec(names)).unwrap().id
        };

        let first = id("acme", &["B.example", "a.example."]);

        assert_eq!(first, id("acme", &["a.example", "b.example", "a.example"]));
        assert_ne!(first, id("acme", &["a.example"]));
        assert_ne!(first, id("bank", &["a.example", "b.example"]));
        assert_eq!(id("acme", &[]), id("acme", &["192.0.2.1"]));
        assert!(first.starts_with("acme-") && first.len() == "acme-".len() + 16, "{first}");
    }

    #[test]
    fn addresses_are_ordered_from_lets_encrypt_in_its_short_lived_profile() {
        let other = "https://ca.example/dir".to_owned();
        let profile = |authorities: &[String], names: &[&str]| {
            let issuance = Issuance { authorities: authorities.to_vec(), ..Issuance::default() };
            let wanted = issuance.wanted("acme", "192.0.2.1", &spec(names)).unwrap();
            (wanted.directory, wanted.profile)
        };

        let short = Some("shortlived".to_owned());
        assert_eq!(profile(&[], &[]), (LETS_ENCRYPT.to_owned(), short));
        assert_eq!(profile(&[], &["a.example"]), (LETS_ENCRYPT.to_owned(), None));
        assert_eq!(profile(std::slice::from_ref(&other), &[]), (other, None));
    }

    #[test]
    fn a_document_names_only_authorities_that_the_operator_allows() {
        let issuance = Issuance {
            authorities: vec!["https://ca.example/dir".to_owned()],
            ..Issuance::default()
        };
        let at = |url: &str| {
            let spec = AcmeSpec { directory: Some(written(url)), ..spec(&["a.example"]) };
            issuance.wanted("acme", "192.0.2.1", &spec).map(|wanted| wanted.directory)
        };

        assert_eq!(at("https://ca.example/dir").unwrap(), "https://ca.example/dir");
        assert_eq!(at(LETS_ENCRYPT_STAGING).unwrap(), LETS_ENCRYPT_STAGING);
        assert!(matches!(at("https://169.254.169.254/"), Err(Fault::Directory(_))));
    }

    #[test]
    fn answers_are_read_as_they_were_written_and_damage_is_no_answer() {
        let all = vec![
            Answer::Http { token: "t".into(), text: "t.k".into() },
            Answer::Tls {
                server_name: "a.example".into(),
                certificate: Arc::from([1, 2].as_slice()),
                key: Secret::new(vec![3]),
            },
        ];

        let json = answers_json(&all);

        assert_eq!(answers(&json), all);
        assert!(answers(&json[1..]).is_empty());
    }
}
