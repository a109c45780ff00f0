//! Looks up what Ingresses refer to among the objects: endpoints as they are now, and the files that Secrets become.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use durward_control::foreign::asked::{Backend, SecretRef};
use durward_control::foreign::merge::{Endpoints, Lookup};
use durward_control::foreign::objects;
use durward_control::place::{At, Place};
use durward_control::spec::ingress::CertificateSpec;

use super::read::Kinds;

/// Keys of a Secret with the files they are to be written to.
type Files = BTreeSet<(&'static str, String)>;

/// The objects, and what was used of them.
pub(super) struct Cluster<'a> {
    kinds: &'a Kinds,
    egress: &'a [IpAddr],
    used: RefCell<BTreeMap<SecretRef, Files>>,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(kinds: &'a Kinds, egress: &'a [IpAddr]) -> Self {
        Self { kinds, egress, used: RefCell::default() }
    }

    /// Returns the Secrets that documents name, with their files.
    pub(super) fn used(&self) -> BTreeMap<SecretRef, Files> {
        self.used.borrow().clone()
    }

    pub(super) fn has_secret(&self, secret: &SecretRef) -> bool {
        self.kinds.has_secret(&secret.namespace, &secret.name)
    }

    /// Returns the name of the Secret's file for a key.
    fn file(&self, secret: &SecretRef, key: &'static str, end: &str) -> String {
        let file = format!("certs/{}.{}{end}", secret.namespace, secret.name);
        let mut used = self.used.borrow_mut();
        used.entry(secret.clone()).or_default().insert((key, file.clone()));
        file
    }
}

impl Lookup for Cluster<'_> {
    /// Ready addresses of the families that can be reached; where there is none, the Service's name in the cluster's DNS.
    fn endpoints(&self, backend: &Backend) -> Endpoints {
        let service = self.kinds.service(&backend.namespace, &backend.service);
        if service.is_none() && backend.number.is_none() {
            let why = "is not among the objects, so the number of its port is not known";
            return Endpoints::Nowhere(why.to_owned());
        }
        let port = backend.number.unwrap_or_default();
        if let Some(host) = service.and_then(|service| service.external_name()) {
            return Endpoints::Host { name: host.to_owned(), port };
        }
        let slices = self.kinds.slices.iter();
        let slices = slices.filter(|slice| slice.is_of(&backend.namespace, &backend.service));
        let name = backend.port_name.as_deref().unwrap_or_default();
        let mut found = objects::endpoints(&slices, name);
        found.retain(|at| self.egress.iter().any(|from| from.is_ipv4() == at.is_ipv4()));
        if found.is_empty() {
            let name = format!("{}.{}.svc.cluster.local", backend.service, backend.namespace);
            return Endpoints::Host { name, port };
        }
        Endpoints::Addresses(found)
    }

    /// `file` is a stem, so that of a Secret whose name ends as a file's does is written out.
    fn certificate(&self, _: &str, secret: &SecretRef) -> Result<CertificateSpec, String> {
        let chain = self.file(secret, "tls.crt", ".crt");
        let key = self.file(secret, "tls.key", ".key");
        let stem = chain.strip_suffix(".crt").unwrap_or(&chain);
        let at = |value: String| At::new(value, Place::default());
        Ok(if stem.ends_with(".crt") || stem.ends_with(".pem") {
            CertificateSpec {
                certificate_file: Some(at(chain)),
                key_file: Some(at(key)),
                ..CertificateSpec::default()
            }
        } else {
            CertificateSpec { file: Some(at(stem.to_owned())), ..CertificateSpec::default() }
        })
    }

    fn authorities(&self, _: &str, secret: &SecretRef) -> Result<String, String> {
        Ok(self.file(secret, "ca.crt", ".ca.crt"))
    }
}
