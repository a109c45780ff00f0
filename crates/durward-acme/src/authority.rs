//! An authority: its directory, its clock, accounts at it, and its advice about renewals.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use instant_acme::{AccountCredentials, Error, NewAccount};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Deserialize;

use crate::fault::{Fault, Phase};
use crate::http::{Client, Roots};
use crate::identifier;
use crate::order::{Pending, Request};

/// Longest and shortest time between two looks at renewal information (RFC 9773 §4.3.3).
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(86_400));
/// Time between two looks where the authority says none.
const LOOK_AGAIN_BY_DEFAULT: Duration = Duration::from_secs(6 * 3_600);

/// Authority whose directory was read.
#[derive(Clone)]
pub struct Authority {
    client: Client,
    url: String,
    directory: Directory,
}

/// Fields of a directory that are used here; `instant-acme` reads the others.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    renewal_info: Option<String>,
    #[serde(default)]
    meta: Meta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    profiles: BTreeMap<String, String>,
    #[serde(default)]
    external_account_required: bool,
}

/// New account.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// Contacts as URIs, `mailto:…`.
    pub contacts: Vec<String>,
    /// Key in PKCS#8; `None` makes a new one.
    pub key: Option<Vec<u8>>,
}

/// Account at an authority.
#[derive(Clone)]
pub struct Account {
    pub(crate) inner: instant_acme::Account,
    authority: Authority,
}

/// Time in which the authority wants a certificate to be renewed, in seconds since the Unix epoch (RFC 9773 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Begin; in the past if the certificate should be replaced now.
    pub start: i64,
    /// End.
    pub end: i64,
    /// Time until the next look.
    pub look_again: Duration,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("url", &self.url).finish_non_exhaustive()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("id", &self.inner.id()).finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads the directory at an https URL.
    ///
    /// # Errors
    /// If the authority does not answer, or with something else than a directory.
    pub async fn open(url: &str, roots: &Roots) -> Result<Self, Fault> {
        let client = Client::new(roots)?;
        let body = client.get(url).await?;
        let directory = serde_json::from_slice(&body)
            .map_err(|error| Fault::Unreachable(format!("{url} is not a directory: {error}")))?;
        Ok(Self { client, url: url.to_owned(), directory })
    }

    /// Returns the seconds by which the clock of this host is ahead of the authority's; negative if it is behind.
    #[must_use]
    pub fn clock_ahead(&self) -> i64 {
        self.client.seen().clock_ahead.unwrap_or(0)
    }

    /// Checks that the authority has a profile.
    ///
    /// # Errors
    /// If it does not, with the names of those it has.
    pub fn check_profile(&self, profile: &str) -> Result<(), Fault> {
        let profiles = &self.directory.meta.profiles;
        if profiles.contains_key(profile) {
            return Ok(());
        }
        let names: Vec<&str> = profiles.keys().map(String::as_str).collect();
        let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Err(Fault::Unsupported(format!("the authority has no profile {profile:?}: it has {has}")))
    }

    /// Makes an account; returns it with its credentials as JSON, which hold its private key.
    ///
    /// # Errors
    /// If the authority refuses.
    pub async fn register(&self, registration: Registration) -> Result<(Account, String), Fault> {
        if self.directory.meta.external_account_required {
            let sentence = "the authority wants accounts that were made elsewhere (external account binding), which is not supported";
            return Err(Fault::Unsupported(sentence.to_owned()));
        }
        let fault = |error| self.fault(error, Phase::Account);
        let contacts: Vec<&str> = registration.contacts.iter().map(String::as_str).collect();
        let builder = instant_acme::Account::builder_with_http(Box::new(self.client.clone()));
        let (inner, credentials) = match registration.key {
            None => {
                let account = NewAccount {
                    contact: &contacts,
                    terms_of_service_agreed: true,
                    only_return_existing: false,
                };
                builder.create(&account, self.url.clone(), None).await.map_err(fault)?
            }
            Some(key) => {
                let pkcs8 = PrivatePkcs8KeyDer::from(key);
                let parsed = instant_acme::Key::from_pkcs8_der(pkcs8.clone_key()).map_err(fault)?;
                let key = (parsed, PrivateKeyDer::Pkcs8(pkcs8));
                let made = builder.create_from_key(key, self.url.clone()).await.map_err(fault)?;
                if !contacts.is_empty() {
                    made.0.update_contacts(&contacts).await.map_err(fault)?;
                }
                made
            }
        };
        let credentials = serde_json::to_string(&credentials)
            .map_err(|error| Fault::Unreachable(error.to_string()))?;
        Ok((Account { inner, authority: self.clone() }, credentials))
    }

    /// Returns the account with these credentials; the authority is not asked whether it still is valid.
    ///
    /// # Errors
    /// If the credentials cannot be read.
    pub async fn account(&self, credentials: &str) -> Result<Account, Fault> {
        let credentials: AccountCredentials = serde_json::from_str(credentials)
            .map_err(|_| Fault::AccountGone("its file cannot be read".to_owned()))?;
        let builder = instant_acme::Account::builder_with_http(Box::new(self.client.clone()));
        let inner = builder.from_credentials(credentials).await;
        let inner = inner.map_err(|error| self.fault(error, Phase::Account))?;
        Ok(Account { inner, authority: self.clone() })
    }

    /// Returns when a certificate (DER) should be renewed; `None` from an authority that gives no such advice.
    ///
    /// # Errors
    /// If the authority does not answer.
    pub async fn renewal_window(&self, leaf: &[u8]) -> Result<Option<Window>, Fault> {
        let (Some(url), Some(id)) = (&self.directory.renewal_info, identifier::of(leaf)) else {
            return Ok(None);
        };
        let body = self.client.get(&format!("{}/{id}", url.trim_end_matches('/'))).await?;
        let advice: Advice = serde_json::from_slice(&body)
            .map_err(|error| Fault::Unreachable(format!("renewal information: {error}")))?;
        let look_again = self.client.seen().retry_after.unwrap_or(LOOK_AGAIN_BY_DEFAULT);
        let [start, end] = [&advice.suggested_window.start, &advice.suggested_window.end]
            .map(|time| time.parse::<jiff::Timestamp>());
        let (Ok(start), Ok(end)) = (start, end) else { return Ok(None) };
        Ok((start < end).then(|| Window {
            start: start.as_second(),
            end: end.as_second(),
            look_again: look_again.clamp(LOOK_AGAIN.0, LOOK_AGAIN.1),
        }))
    }

    fn fault(&self, error: Error, phase: Phase) -> Fault {
        Fault::of(error, phase, self.client.seen().retry_after)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Advice {
    suggested_window: Suggested,
}

#[derive(Deserialize)]
struct Suggested {
    start: String,
    end: String,
}

impl Account {
    /// Places an order.
    ///
    /// # Errors
    /// If the authority refuses, or validates in other ways only.
    pub async fn order(&self, request: &Request) -> Result<Pending, Fault> {
        if let Some(profile) = &request.profile {
            self.authority.check_profile(profile)?;
        }
        Pending::place(self, request).await
    }

    pub(crate) fn has_renewal_info(&self) -> bool {
        self.authority.directory.renewal_info.is_some()
    }

    pub(crate) fn fault(&self, error: Error, phase: Phase) -> Fault {
        self.authority.fault(error, phase)
    }
}
