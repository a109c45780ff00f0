//! What is in the cluster of a world, and the source that says it.

use super::*;
use crate::cluster::{Cluster, TENANT_LABEL};

/// What is in a cluster. Each tenant has a namespace of its name, and there is one more, `n`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Objects {
    /// Whose `n` and the namespaces of the first two tenants are: a tenant's, nobody's (5), or there is none (6).
    pub(super) labels: [u8; 3],
    /// What is in each third namespace's Secret: one of the identities, or there is none.
    pub(super) secrets: [u8; 3],
    /// Endpoints of each third namespace's Service, or there is none (3).
    pub(super) services: [u8; 3],
}

impl Objects {
    /// Returns what is true of a thing.
    fn fact(&self, reference: &Reference) -> Fact {
        let place = |namespace: &str| match namespace.strip_prefix('t') {
            Some(number) => number.parse::<usize>().map_or(9, |number| number + 1),
            None => 0,
        };
        match reference {
            Reference::Namespace(namespace) => {
                let at = place(namespace);
                let own = || at.saturating_sub(1);
                let number = self.labels.get(at).map_or_else(own, |one| usize::from(*one));
                match number {
                    0..=4 => Fact::Labels(BTreeMap::from([(
                        Arc::from(TENANT_LABEL),
                        Arc::from(format!("t{number}")),
                    )])),
                    5 => Fact::Labels(BTreeMap::new()),
                    _ => Fact::Missing,
                }
            }
            Reference::Secret { namespace, .. } => {
                let identity = IDENTITIES.get(usize::from(self.secrets[place(namespace) % 3]));
                identity.map_or(Fact::Missing, |pem| {
                    let entry = |key: &str| (Arc::from(key), Arc::from(pem.as_bytes()));
                    Fact::Bytes(BTreeMap::from(["tls.crt", "tls.key"].map(entry)).into())
                })
            }
            Reference::Service { namespace, .. } => {
                let at = place(namespace);
                let count = self.services[at % 3];
                if count == 3 {
                    return Fact::Missing;
                }
                let endpoint = |last| SocketAddr::from(([10, 244, 3 + at as u8, last], 8080));
                Fact::Endpoints((0..count).map(endpoint).collect())
            }
            _ => Fact::Missing,
        }
    }

    /// Says all that documents ask for, and takes back what they ask for no more, as a source does that reads what it is asked for.
    pub(super) fn say(&self, store: &mut Store) {
        store.read_cluster(Some(Cluster::new("durward")));
        let is_file = |reference: &Reference| matches!(reference, Reference::File(_));
        loop {
            let wanted: BTreeSet<Reference> =
                store.wanted().filter(|one| !is_file(one)).cloned().collect();
            let known: BTreeSet<Reference> =
                store.facts().map(|(one, _)| one).filter(|one| !is_file(one)).cloned().collect();
            let news = wanted.iter().map(|one| (one.clone(), self.fact(one)));
            let news = news.filter(|(one, fact)| store.fact(one) != Some(fact));
            let news = news.map(|(one, fact)| (one, Some(fact)));
            let gone = known.difference(&wanted).map(|one| (one.clone(), None));
            let facts: Vec<_> = news.chain(gone).collect();
            if facts.is_empty() {
                return;
            }
            store.apply(Change { facts, ..Change::default() });
        }
    }
}
