//! Authentication: tokens, client certificates, and impersonation.

use std::collections::BTreeMap;

use http::{HeaderMap, header};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::failure::Failure;
use super::kind::GroupResource;
use super::rbac::{self, Attributes, MASTERS};
use super::request::User;
use super::state::State;

/// Users by token.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    tokens: BTreeMap<String, User>,
}

impl Auth {
    /// Makes a token for a user.
    pub(crate) fn token(&mut self, user: User) -> String {
        let token = format!("token-{}-{}", self.tokens.len(), user.name.replace(':', "-"));
        self.tokens.insert(token.clone(), user);
        token
    }

    /// Forgets all tokens of a user.
    pub(crate) fn revoke(&mut self, name: &str) {
        self.tokens.retain(|_, user| user.name != name);
    }

    /// Returns who a request is from; `peer` is what the connection says.
    ///
    /// # Errors
    /// If the token is not known.
    pub(crate) fn user(&self, headers: &HeaderMap, peer: &User) -> Result<User, Failure> {
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match value.map(|value| value.strip_prefix("Bearer ").unwrap_or(value)) {
            None => Ok(peer.clone()),
            Some(token) => self.tokens.get(token).cloned().ok_or_else(Failure::unauthorized),
        }
    }
}

/// User without credentials, over TLS.
pub(crate) fn anonymous() -> User {
    let groups = vec!["system:unauthenticated".to_owned()];
    User { name: "system:anonymous".to_owned(), uid: String::new(), groups }
}

/// User of the unencrypted port, and of the administrator's certificate.
pub(crate) fn administrator() -> User {
    let groups = vec![MASTERS.to_owned(), "system:authenticated".to_owned()];
    User { name: "kubernetes-admin".to_owned(), uid: String::new(), groups }
}

/// User of a client certificate: its common name, its organizations as groups.
pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let organizations = subject.iter_organization().filter_map(|name| name.as_str().ok());
    let mut groups: Vec<String> = organizations.map(str::to_owned).collect();
    groups.push("system:authenticated".to_owned());
    Some(User { name, uid: String::new(), groups })
}

/// Returns whom a user acts as.
///
/// # Errors
/// If the user may not.
pub(crate) fn impersonated(
    state: &State,
    headers: &HeaderMap,
    user: User,
) -> Result<User, Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(name) = text("impersonate-user") else { return Ok(user) };
    let groups = headers.get_all("impersonate-group").iter();
    let mut groups: Vec<String> =
        groups.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
    let wanted = Attributes {
        verb: "impersonate".to_owned(),
        resource: "users".to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    if !rbac::allows(state, &user, &wanted) {
        let detail = format!(
            "User \"{}\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.name
        );
        return Err(Failure::forbidden(&GroupResource::new("", "users"), name, &detail));
    }
    let is_anonymous = name == "system:anonymous";
    let implied = if is_anonymous { "system:unauthenticated" } else { "system:authenticated" };
    if !groups.iter().any(|group| group == implied) {
        groups.push(implied.to_owned());
    }
    Ok(User { name: name.to_owned(), uid: String::new(), groups })
}
