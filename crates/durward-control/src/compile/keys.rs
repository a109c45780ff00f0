//! Claims to private keys and secrets: each belongs to one tenant, whatever its file is called and whatever else the file holds.
//!
//! Proxies of several tenants at one address and port show clients the same certificate, so where all of them say `shared` they share its key.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use durward_model::Origin;
use durward_model::egress::Credential;

use super::claim_table::Claim;
use super::precedence::Age;
use super::roster::Roster;
use crate::certificate::{Authority, sha256_bytes};

/// SHA-256 of a public key, so that two files with one private key have one of these; of a secret, see [`of_client`] and [`of_account`].
pub(crate) type KeyId = [u8; 32];

/// Returns the id of a credential of clients: its name and the hash of its secret. The name is part of it: what many choose for a password is not
/// one credential, and a finding must not tell a tenant that its password is that of somebody with another name.
pub(crate) fn of_client(credential: &Credential) -> KeyId {
    sha256_bytes([b"client\0", credential.name.as_bytes(), b"\0", &credential.sha256[..]])
}

/// Returns the id of an account at a parent proxy, which is written `NAME:SECRET`.
pub(crate) fn of_account(pair: &[u8]) -> KeyId {
    sha256_bytes([b"account\0", pair])
}

/// Returns the id of the key of an account at a certificate authority.
pub(crate) fn of_acme_account(pkcs8: &[u8]) -> KeyId {
    sha256_bytes([b"acme account\0", pkcs8])
}

/// Returns the id of an authority by whose certificates API proxies reach a hosted API server. Certificates of one key are one authority.
pub(crate) fn of_proxies(authority: &Authority) -> KeyId {
    sha256_bytes([b"api proxies\0", &authority.public_key[..]])
}

/// A key that a tenant was granted, as the next compile must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HeldKey {
    pub(crate) key: KeyId,
    /// True if it is used at shared proxies only.
    pub(crate) shared: bool,
}

/// One place where a tenant's document uses a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyUse {
    pub(crate) key: KeyId,
    pub(crate) shared: bool,
    /// True if it is the key of an authority, which is trusted and not used.
    pub(crate) is_authority: bool,
    pub(crate) origin: Origin,
    /// Age of the object that uses it, if that adds to its tenant.
    pub(crate) age: Option<Arc<Age>>,
}

/// The keys that a tenant may not use, each with its holder in the words of a finding.
pub(crate) type Denied = BTreeMap<KeyId, Arc<str>>;

/// The keys of all tenants.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// By entrant.
    used: Vec<Vec<KeyUse>>,
    denied: BTreeMap<usize, Denied>,
}

impl Keys {
    /// Takes down what the entrant at this position uses, in the place of what it was known to use.
    pub(crate) fn note(&mut self, entrant: usize, mut used: Vec<KeyUse>) {
        used.sort_by_key(|used| used.key);
        used.dedup_by(|next, first| {
            let same = next.key == first.key;
            first.shared &= next.shared || !same;
            same
        });
        if self.used.len() <= entrant {
            self.used.resize_with(entrant + 1, Vec::new);
        }
        self.used[entrant] = used;
    }

    /// Keys that the entrant at this position may not use.
    pub(crate) fn denied(&self, entrant: usize) -> Denied {
        self.denied.get(&entrant).cloned().unwrap_or_default()
    }

    /// Decides which entrants use a key of an older tenant, and returns those of whom that was not known yet.
    pub(crate) fn conflicts(&mut self, roster: &Roster<'_>) -> Vec<usize> {
        let mut users: HashMap<KeyId, Vec<(usize, &KeyUse)>> = HashMap::new();
        for (at, used) in self.used.iter().enumerate() {
            for used in used {
                users.entry(used.key).or_default().push((at, used));
            }
        }
        let mut losers: BTreeMap<(usize, KeyId), Arc<str>> = BTreeMap::new();
        for (key, mut users) in users.into_iter().filter(|(_, users)| users.len() > 1) {
            users.sort_by_cached_key(|(at, used)| {
                let entrant = &roster.entrants[*at];
                let held = entrant.past.keys.binary_search_by_key(&key, |held| held.key);
                entrant.precedence_as(used.age.as_ref(), held.is_ok())
            });
            let (holder, first) = users[0];
            let id = &roster.entrants[holder].id;
            let sentence = format!("of tenant {id} ({}), which asked first", first.origin);
            let sentence: Arc<str> = Arc::from(sentence);
            for (at, used) in &users[1..] {
                if !(used.shared && first.shared) {
                    losers.insert((*at, key), Arc::clone(&sentence));
                }
            }
        }
        let mut new = Vec::new();
        for ((at, key), sentence) in losers {
            if self.denied.entry(at).or_default().insert(key, sentence).is_none() {
                new.push(at);
            }
        }
        new.dedup();
        new
    }

    /// Writes down with each tenant the keys it asked for and those it was granted.
    pub(crate) fn remember(self, roster: &mut Roster<'_>) {
        for (at, denied) in self.denied {
            let denied = denied.into_keys().map(|key| Claim::Key { key, shared: false });
            roster.entrants[at].claims.extend(denied);
        }
        for (entrant, used) in roster.entrants.iter_mut().zip(self.used) {
            entrant.past.keys = held(&used);
            used.iter().for_each(|used| entrant.cite(&used.origin));
            let held = entrant.past.keys.iter();
            let held = held.map(|held| Claim::Key { key: held.key, shared: held.shared });
            entrant.claims.extend(held);
        }
    }
}

/// Returns the keys of a list of uses in their order, for the next compile.
fn held(used: &[KeyUse]) -> Vec<HeldKey> {
    let mut held: Vec<HeldKey> =
        used.iter().map(|used| HeldKey { key: used.key, shared: used.shared }).collect();
    held.sort();
    held.dedup_by_key(|held| held.key);
    held
}
