//! Upstreams: one per backend and way of speaking to it.

use std::collections::BTreeMap;

use super::{Backends, Endpoints, Lookup, at};
use crate::foreign::asked::{Asked, Backend, BackendProtocol, BackendTls};
use crate::place::At;
use crate::spec::upstream::{
    BalanceSpec, EndpointSpec, UpstreamProtocolSpec, UpstreamSpec, UpstreamTlsSpec,
};

/// Longest name of an upstream.
const LONGEST: usize = 63;

/// Upstreams by what makes them one.
pub(super) struct Upstreams<'a> {
    lookup: &'a dyn Lookup,
    known: BTreeMap<Key, Result<String, String>>,
    named: BTreeMap<At<String>, At<UpstreamSpec>>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    backend: Backend,
    speech: Speech,
    tls: Option<BackendTls>,
    by_client: bool,
}

/// Protocol spoken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Speech {
    /// HTTP, as the Ingress or the Service says.
    Requests(BackendProtocol),
    /// Whatever the client speaks.
    Bytes,
}

impl<'a> Upstreams<'a> {
    pub(super) fn new(lookup: &'a dyn Lookup) -> Self {
        Self { lookup, known: BTreeMap::new(), named: BTreeMap::new() }
    }

    pub(super) fn into_map(self) -> BTreeMap<At<String>, At<UpstreamSpec>> {
        self.named
    }

    fn of(&mut self, asked: &Asked, key: Key) -> Result<String, String> {
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let named = self.spec(asked, &key).map(|spec| {
            let name = self.free_name(&key.backend);
            self.named.insert(at(name.clone()), at(spec));
            name
        });
        self.known.insert(key, named.clone());
        named
    }

    fn spec(&self, asked: &Asked, key: &Key) -> Result<UpstreamSpec, String> {
        let tls = match &key.tls {
            Some(tls) => Some(self.tls(asked, &key.backend, tls)?),
            None => None,
        };
        let endpoints = match self.lookup.endpoints(&key.backend) {
            Endpoints::Addresses(addresses) => addresses.iter().map(ToString::to_string).collect(),
            Endpoints::Host { name, port } => vec![format!("{name}:{port}")],
            Endpoints::Nowhere(why) => return Err(format!("{} {why}", key.backend)),
        };
        if endpoints.is_empty() {
            return Err(format!("{} has no endpoint that is ready", key.backend));
        }
        let endpoint = |address| at(EndpointSpec { address: at(address), weight: None });
        Ok(UpstreamSpec {
            endpoints: endpoints.into_iter().map(endpoint).collect(),
            protocol: match key.speech {
                Speech::Requests(BackendProtocol::Http | BackendProtocol::Https) => None,
                Speech::Requests(_) => Some(at(UpstreamProtocolSpec::Http2)),
                Speech::Bytes => Some(at(UpstreamProtocolSpec::Tcp)),
            },
            tls: tls.map(at),
            balance: key.by_client.then_some(BalanceSpec::ClientHash),
            ..UpstreamSpec::default()
        })
    }

    /// Endpoints are addresses, which no certificate carries: without a name it is that of the Service.
    fn tls(
        &self,
        asked: &Asked,
        backend: &Backend,
        tls: &BackendTls,
    ) -> Result<UpstreamTlsSpec, String> {
        let namespace = &asked.id.namespace;
        let authorities = tls.authorities.as_ref().map(|secret| {
            let found = self.lookup.authorities(namespace, secret);
            found.map_err(|why| format!("Secret {secret} {why}"))
        });
        let certificate = tls.client_certificate.as_ref().map(|secret| {
            let found = self.lookup.certificate(namespace, secret);
            found.map_err(|why| format!("Secret {secret} {why}"))
        });
        let of_service = || format!("{}.{}.svc", backend.service, backend.namespace);
        let name = tls.name.as_deref().map_or_else(of_service, str::to_owned);
        Ok(UpstreamTlsSpec {
            ca_file: authorities.transpose()?.map(at),
            verify_name: Some(at(name)),
            client_certificate: certificate.transpose()?.map(at),
            min_tls_version: None,
        })
    }

    /// `namespace.service.port`, which only two ways of speaking to one port have in common.
    fn free_name(&self, backend: &Backend) -> String {
        let full = format!("{}.{}.{}", backend.namespace, backend.service, backend.port());
        let base = if full.len() > LONGEST - 4 { shortened(&full) } else { full };
        let mut name = base.clone();
        let mut next = 2;
        while self.named.contains_key(&at(name.clone())) {
            name = format!("{base}-{next}");
            next += 1;
        }
        name
    }
}

impl Backends for Upstreams<'_> {
    fn of_requests(&mut self, asked: &Asked, backend: &Backend) -> Result<String, String> {
        let protocol = asked.settings.protocol.or(backend.protocol).unwrap_or_default();
        let key = Key {
            backend: backend.clone(),
            speech: Speech::Requests(protocol),
            tls: protocol.is_tls().then(|| asked.settings.backend_tls.clone()),
            by_client: asked.settings.by_client,
        };
        self.of(asked, key)
    }

    fn of_bytes(&mut self, asked: &Asked, backend: &Backend) -> Result<String, String> {
        let by_client = asked.settings.by_client;
        let key = Key { backend: backend.clone(), speech: Speech::Bytes, tls: None, by_client };
        self.of(asked, key)
    }
}

/// The beginning of a long name, and a hash that distinguishes it from others with the same beginning (FNV-1a, 64 bits: the same in every process).
fn shortened(full: &str) -> String {
    let hash = full.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{}-{hash:016x}", &full[..LONGEST - 4 - 17])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_shortened_to_one_of_its_own() {
        let long = |port: u16| format!("{}.{}.{port}", "n".repeat(63), "s".repeat(63));

        let (first, second) = (shortened(&long(80)), shortened(&long(81)));

        assert_eq!(first.len(), LONGEST - 4);
        assert_ne!(first, second);
    }
}
