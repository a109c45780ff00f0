//! One order: placed, answered by whoever serves the names, and finished with a certificate.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use instant_acme::{
    AuthorizationStatus, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus, Problem,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use crate::answer::Answer;
use crate::authority::Account;
use crate::fault::{Fault, Phase};
use crate::identifier;
use crate::issued::Issued;

/// Time for an authority to validate all names of an order, or to issue.
const PATIENCE: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// Name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// Host name, lower case.
    Dns(String),
    /// IP address.
    Ip(IpAddr),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

impl Name {
    /// Returns the server name that a TLS-ALPN-01 validation asks for (RFC 8737 §3, RFC 8738 §6).
    pub(crate) fn server_name(&self) -> String {
        match self {
            Self::Dns(name) => name.clone(),
            Self::Ip(IpAddr::V4(address)) => {
                let [a, b, c, d] = address.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            Self::Ip(IpAddr::V6(address)) => {
                let nibbles = address.octets().into_iter().rev();
                let nibbles = nibbles.flat_map(|byte| [byte & 0xf, byte >> 4]);
                nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
            }
        }
    }

    fn identifier(&self) -> Identifier {
        match self {
            Self::Dns(name) => Identifier::Dns(name.clone()),
            Self::Ip(address) => Identifier::Ip(*address),
        }
    }

    fn of(identifier: &Identifier) -> Option<Self> {
        match identifier {
            Identifier::Dns(name) => Some(Self::Dns(name.to_ascii_lowercase())),
            Identifier::Ip(address) => Some(Self::Ip(*address)),
            _ => None,
        }
    }
}

/// Kind of challenge by which an authority validates names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A text at port 80.
    Http01,
    /// A certificate at port 443.
    TlsAlpn01,
}

/// Certificate to order.
#[derive(Clone, Debug)]
pub struct Request {
    /// Names of the certificate, at least one.
    pub names: Vec<Name>,
    /// Kind of challenge.
    pub method: Method,
    /// Profile of the authority, such as `shortlived`.
    pub profile: Option<String>,
    /// Leaf in DER that the new certificate replaces; sent only to authorities that offer renewal information.
    pub replaces: Option<Vec<u8>>,
}

/// Order whose challenges wait for their answers to be served.
pub struct Pending {
    order: Order,
    account: Account,
    names: Vec<Name>,
    method: Method,
    answers: Vec<Answer>,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("answers", &self.answers).finish_non_exhaustive()
    }
}

impl Pending {
    pub(crate) async fn place(account: &Account, request: &Request) -> Result<Self, Fault> {
        let identifiers: Vec<_> = request.names.iter().map(Name::identifier).collect();
        let wanted = || {
            let wanted = NewOrder::new(&identifiers);
            request.profile.iter().fold(wanted, |wanted, profile| wanted.profile(profile))
        };
        let replaced = request.replaces.as_deref().and_then(identifier::of);
        let replaced = replaced.filter(|_| account.has_renewal_info());
        let order = match replaced {
            None => account.inner.new_order(&wanted()).await,
            Some(replaced) => match account.inner.new_order(&wanted().replaces(replaced)).await {
                // Another order took that place, of a process that ended before it kept the certificate.
                Err(Error::Api(problem)) if is_about_replacement(&problem) => {
                    account.inner.new_order(&wanted()).await
                }
                placed => placed,
            },
        };
        let order = order.map_err(|error| account.fault(error, Phase::Account))?;
        let mut pending = Self {
            order,
            account: account.clone(),
            names: request.names.clone(),
            method: request.method,
            answers: Vec::new(),
        };
        pending.answers = pending.collect().await?;
        Ok(pending)
    }

    /// Returns the answers to serve before [`Self::finish`]; none where the authority remembers all validations.
    #[must_use]
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    async fn collect(&mut self) -> Result<Vec<Answer>, Fault> {
        let (account, kind) = (self.account.clone(), kind_of(self.method));
        let fault = |error| account.fault(error, Phase::Order);
        let mut answers = Vec::new();
        let mut authorizations = self.order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(fault)?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let name = Name::of(authorization.identifier().identifier);
            let name = name.ok_or_else(|| {
                Fault::Unsupported(
                    "the authority asks about a name that was not ordered".to_owned(),
                )
            })?;
            let Some(challenge) = authorization.challenge(kind.clone()) else {
                return Err(Fault::Unsupported(format!(
                    "the authority does not validate {name} by {}",
                    word(self.method)
                )));
            };
            let expected = challenge.key_authorization();
            answers.push(match self.method {
                Method::Http01 => Answer::Http {
                    token: challenge.token.clone(),
                    text: expected.as_str().to_owned(),
                },
                Method::TlsAlpn01 => Answer::tls_alpn(&name, expected.digest().as_ref())?,
            });
        }
        Ok(answers)
    }

    /// Lets the authority validate, which connects to whoever serves the answers, and orders the certificate for a new key.
    ///
    /// # Errors
    /// If a name cannot be validated, or the authority does not issue.
    pub async fn finish(mut self) -> Result<Issued, Fault> {
        self.validate().await?;
        let (key, request) = self.signing_request()?;
        let account = self.account.clone();
        let fault = |error| account.fault(error, Phase::Order);
        self.order.finalize_csr(&request).await.map_err(fault)?;
        let chain = self.order.poll_certificate(&PATIENCE).await.map_err(fault)?;
        Issued::new(&chain, &key, &self.names)
    }

    async fn validate(&mut self) -> Result<(), Fault> {
        let (account, kind) = (self.account.clone(), kind_of(self.method));
        let fault = |error| account.fault(error, Phase::Order);
        let mut authorizations = self.order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(fault)?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            if let Some(mut challenge) = authorization.challenge(kind.clone()) {
                challenge.set_ready().await.map_err(fault)?;
            }
        }
        match self.order.poll_ready(&PATIENCE).await {
            Ok(OrderStatus::Ready | OrderStatus::Valid) => Ok(()),
            Ok(_) => Err(self.refusal().await),
            Err(error) => Err(fault(error)),
        }
    }

    /// Returns why the order became invalid, which the authorizations say.
    async fn refusal(&mut self) -> Fault {
        let account = self.account.clone();
        let mut authorizations = self.order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let Ok(mut authorization) = authorization else { continue };
            let name = Name::of(authorization.identifier().identifier);
            let Ok(state) = authorization.refresh().await else { continue };
            let problem = state.challenges.iter().find_map(|challenge| challenge.error.clone());
            if let Some(problem) = problem {
                let about = name.map_or_else(String::new, |name| format!("{name}: "));
                return match account.fault(problem.into(), Phase::Order) {
                    Fault::Refused(detail) => Fault::Refused(format!("{about}{detail}")),
                    fault => fault,
                };
            }
        }
        Fault::Refused("the order became invalid, without a reason".to_owned())
    }

    /// Returns a new key in PEM, and a signing request for all names in DER.
    fn signing_request(&self) -> Result<(String, Vec<u8>), Fault> {
        let made = || {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.subject_alt_names =
                self.names.iter().map(Name::alternative).collect::<Result<_, _>>()?;
            let key = KeyPair::generate()?;
            let request = params.serialize_request(&key)?;
            Ok((key.serialize_pem(), request.der().to_vec()))
        };
        made().map_err(|error: rcgen::Error| {
            Fault::Unsupported(format!("no signing request can be made: {error}"))
        })
    }
}

/// Returns true if an authority refuses an order for what it would replace (RFC 9773 §5).
fn is_about_replacement(problem: &Problem) -> bool {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.ends_with(":alreadyReplaced")
}

fn kind_of(method: Method) -> ChallengeType {
    match method {
        Method::Http01 => ChallengeType::Http01,
        Method::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

fn word(method: Method) -> &'static str {
    match method {
        Method::Http01 => "HTTP-01",
        Method::TlsAlpn01 => "TLS-ALPN-01",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_validated_by_its_name_for_reverse_look_ups() {
        let name = |text: &str| Name::Ip(text.parse().unwrap()).server_name();

        assert_eq!(name("203.0.113.9"), "9.113.0.203.in-addr.arpa");
        let expected = "9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(name("2001:db8::9"), expected);
        assert_eq!(Name::Dns("a.example".into()).server_name(), "a.example");
    }
}
