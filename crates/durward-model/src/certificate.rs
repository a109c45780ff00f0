//! A certificate with its private key, parsed once when configuration is loaded.
//!
//! Deliberately absent: a TLS library's types; the proxy makes those from the DER held here.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::origin::Origin;
use crate::secret::Secret;

/// A certificate chain, its key, and what people and checks need to know of the leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Name in the document: the file stem or the Secret's name.
    pub name: Arc<str>,
    /// DER, leaf first.
    #[serde(skip)]
    pub chain: Vec<Arc<[u8]>>,
    /// The private key in DER, and its container.
    #[serde(skip)]
    pub key: PrivateKey,
    /// Subject alternative names of type iPAddress.
    pub ip_names: Vec<IpAddr>,
    /// Subject alternative names of type dNSName, lower case, wildcards as written.
    pub dns_names: Vec<Arc<str>>,
    /// The subject's distinguished name, RFC 4514 order as printed by common tools.
    pub subject: Arc<str>,
    /// The issuer's distinguished name.
    pub issuer: Arc<str>,
    /// `RSA-2048`, `ECDSA-P256`, `Ed25519` …
    pub key_type: Arc<str>,
    /// Seconds since the Unix epoch.
    pub not_before: i64,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
    /// SHA-256 of the leaf, lower-case hexadecimal.
    pub fingerprint: Arc<str>,
    /// Origin of the reference in the document.
    pub origin: Origin,
    /// The file of the chain, as it was found.
    #[serde(skip)]
    pub chain_file: PathBuf,
    /// The file of the key, as it was found.
    #[serde(skip)]
    pub key_file: PathBuf,
}

/// A private key in DER with the container it was found in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateKey {
    /// The container.
    pub encoding: KeyEncoding,
    /// The DER.
    pub der: Secret,
}

/// The containers a private key comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEncoding {
    /// RFC 5958 `PRIVATE KEY`.
    Pkcs8,
    /// RFC 8017 `RSA PRIVATE KEY`.
    Pkcs1,
    /// RFC 5915 `EC PRIVATE KEY`.
    Sec1,
}

/// Longest time before the end of a certificate at which it counts as ending soon, in seconds (14 days).
const LONGEST_WARNING: i64 = 14 * 86_400;

/// Returns true in the last third of a lifetime, at most 14 days, and false after its end. All times are in seconds since the Unix epoch.
///
/// The rule is relative, because lifetimes differ: a certificate of 160 hours that is renewed in time always ends within 14 days.
#[must_use]
pub fn ends_soon(not_before: i64, not_after: i64, now: i64) -> bool {
    let warning = (not_after.saturating_sub(not_before) / 3).min(LONGEST_WARNING);
    let left = not_after.saturating_sub(now);
    (1..=warning).contains(&left)
}

/// Returns a time span in words, rounded down: days, or hours below two days, or minutes below two hours.
#[must_use]
pub fn span_text(seconds: i64) -> String {
    let (number, unit) = match seconds {
        172_800.. => (seconds / 86_400, "day"),
        7_200.. => (seconds / 3_600, "hour"),
        60.. => (seconds / 60, "minute"),
        _ => return "less than a minute".to_owned(),
    };
    if number == 1 { format!("1 {unit}") } else { format!("{number} {unit}s") }
}

impl Certificate {
    /// Returns true if the leaf names `address` in its subject alternative names.
    #[must_use]
    pub fn covers_ip(&self, address: IpAddr) -> bool {
        self.ip_names.contains(&address.to_canonical())
    }

    /// Returns true if the leaf names `host` (lower case, no trailing dot), a wildcard covering exactly one label (RFC 9525).
    #[must_use]
    pub fn covers_host(&self, host: &str) -> bool {
        self.dns_names.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
            None => **name == *host,
        })
    }

    /// Returns true in the last third of its lifetime, at most 14 days.
    #[must_use]
    pub fn ends_soon(&self, now_unix_seconds: i64) -> bool {
        ends_soon(self.not_before, self.not_after, now_unix_seconds)
    }

    /// Whole days until the certificate ends; negative once it has.
    #[must_use]
    pub fn days_left(&self, now_unix_seconds: i64) -> i64 {
        (self.not_after - now_unix_seconds).div_euclid(86_400)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;
    const DAY: i64 = 24 * HOUR;

    #[test]
    fn a_certificate_ends_soon_in_the_last_third_of_its_lifetime_and_at_most_14_days_before_its_end()
     {
        // Lifetime, time left, ends soon.
        let cases = [
            (160 * HOUR, 54 * HOUR, false),
            (160 * HOUR, 53 * HOUR, true),
            (90 * DAY, 15 * DAY, false),
            (90 * DAY, 14 * DAY, true),
            (3650 * DAY, 15 * DAY, false),
            (3650 * DAY, 14 * DAY, true),
            (160 * HOUR, 0, false),
            (160 * HOUR, -1, false),
        ];

        for (lifetime, left, expected) in cases {
            let from = 1_800_000_000;
            let now = from + lifetime - left;
            assert_eq!(ends_soon(from, from + lifetime, now), expected, "{lifetime} {left}");
        }
    }

    #[test]
    fn a_span_is_told_in_the_unit_that_fits() {
        let cases = [
            (59, "less than a minute"),
            (60, "1 minute"),
            (2 * HOUR - 1, "119 minutes"),
            (53 * HOUR, "2 days"),
            (47 * HOUR, "47 hours"),
            (9 * DAY - 1, "8 days"),
        ];

        for (seconds, text) in cases {
            assert_eq!(span_text(seconds), text);
        }
    }
}
