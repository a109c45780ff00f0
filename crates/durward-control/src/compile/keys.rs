//! Claims to private keys and files of secrets: each belongs to one tenant, whatever its file is called.
//!
//! Proxies of several tenants at one address and port show clients the same certificate, so where all of them say `shared` they share its key.

use std::collections::{BTreeMap, HashMap};

use durward_model::Origin;

use super::claim_table::Claim;
use super::roster::Roster;

/// SHA-256 of a public key, so that two files with one private key have one of these; of a file of credentials, that of the file.
pub(crate) type KeyId = [u8; 32];

/// A key that a tenant was granted, as the next compile must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HeldKey {
    pub(crate) key: KeyId,
    /// True if it is used at shared proxies only.
    pub(crate) shared: bool,
}

/// One place where a tenant's document uses a key.
#[derive(Clone, Debug)]
pub(crate) struct KeyUse {
    pub(crate) key: KeyId,
    pub(crate) shared: bool,
    pub(crate) origin: Origin,
}

/// The keys that a tenant may not use, each with its holder in the words of a finding.
pub(crate) type Denied = BTreeMap<KeyId, String>;

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
        let mut losers: BTreeMap<(usize, KeyId), String> = BTreeMap::new();
        for (key, mut users) in users.into_iter().filter(|(_, users)| users.len() > 1) {
            users.sort_by_cached_key(|(at, _)| {
                let entrant = &roster.entrants[*at];
                entrant.precedence(entrant.past.keys.iter().any(|held| held.key == key))
            });
            let (holder, first) = users[0];
            let id = &roster.entrants[holder].id;
            let sentence = format!("of tenant {id} ({}), which asked first", first.origin);
            for (at, used) in &users[1..] {
                if !(used.shared && first.shared) {
                    losers.insert((*at, key), sentence.clone());
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
            let held = entrant.past.keys.iter();
            let held = held.map(|held| Claim::Key { key: held.key, shared: held.shared });
            entrant.claims.extend(held);
        }
    }
}

/// Returns the keys of a list of uses, for the next compile.
fn held(used: &[KeyUse]) -> Vec<HeldKey> {
    let mut held: Vec<HeldKey> =
        used.iter().map(|used| HeldKey { key: used.key, shared: used.shared }).collect();
    held.sort();
    held.dedup_by_key(|held| held.key);
    held
}
