//! `names` of an entry of `spec.ingress`: the server names that select the tenant where an address and port are shared.
//!
//! Deliberately absent: whether another tenant has a name; claims decide that.

use std::net::IpAddr;

use durward_model::route::HostPattern;
use durward_model::{Certificate, Listener, ServerNames, names};

use super::listener::Workshop;
use super::report::Field;
use super::words;
use crate::place::At;
use crate::spec::ingress::IngressSpec;

impl Workshop<'_, '_, '_, '_> {
    /// The names, or `None` where the entry has its address and port alone; also after an error.
    pub(super) fn names(
        &mut self,
        spec: &IngressSpec,
        address: Option<IpAddr>,
        field: &Field<'_>,
    ) -> Option<ServerNames> {
        let first = spec.names.first()?;
        let field = field.name("names");
        if !spec.shared {
            let sentence = "needs shared: true beside it: names tell tenants apart that share an address and port";
            self.report.error("FieldUnfitting", first.place, &field, sentence);
            return None;
        }
        let mut patterns = Vec::with_capacity(spec.names.len());
        for (at, written) in spec.names.iter().enumerate() {
            let read = |text: &str| server_name(text, address);
            patterns.extend(self.report.check("BadHost", written, &field.index(at), read));
        }
        Some(ServerNames::new(patterns))
    }

    /// Says what a listener with names cannot be, and which of its names no certificate is for.
    pub(super) fn check_names(
        &mut self,
        spec: &IngressSpec,
        listener: &Listener,
        field: &Field<'_>,
    ) {
        let Some(first) = spec.names.first() else { return };
        let field = field.name("names");
        if listener.opening().is_none() {
            let sentence = "means nothing here: UDP, and TCP without a certificate, have no names: write certificate or another port";
            self.report.error("FieldUnfitting", first.place, &field, sentence);
        }
        let Some(tls) = listener.tls() else { return };
        let ordered: Vec<_> = listener.acme.orders.iter().flat_map(|order| &order.names).collect();
        let is_ordered = |name: &HostPattern| {
            ordered.iter().any(|ordered| ordered.to_string() == name.to_string())
        };
        for (at, written) in spec.names.iter().enumerate() {
            // Of the address itself `ipSan` says what is done.
            let Ok(name) = words::host_pattern(&written.value) else { continue };
            if words::address(&written.value).is_ok() {
                continue;
            }
            let is_shown = tls.certificates.iter().any(|certificate| is_for(certificate, &name));
            if !is_shown && !is_ordered(&name) {
                let sentence = format!(
                    "{}: no certificate of this entry is for it, so clients that ask for it refuse the one they are shown",
                    written.value
                );
                self.report.warning(
                    "NameWithoutCertificate",
                    written.place,
                    &field.index(at),
                    &sentence,
                );
            }
        }
    }
}

/// Returns whether clients that connect to the address are shown a certificate that must name it.
pub(super) fn has_address(spec: &IngressSpec, address: IpAddr) -> bool {
    spec.names.is_empty() || spec.names.iter().any(|name| words::address(name) == Ok(address))
}

/// A name, a wildcard, or the entry's own address for clients that name nothing.
pub(super) fn server_name(text: &str, address: Option<IpAddr>) -> Result<HostPattern, String> {
    let Ok(written) = words::address(text) else { return words::host_pattern(text) };
    match address {
        Some(address) if address != written => Err(format!(
            "is another address than this entry's: write {address} for clients that name nothing, or leave it out"
        )),
        _ => Ok(HostPattern::Exact(names::unnamed(written).into())),
    }
}

fn is_for(certificate: &Certificate, name: &HostPattern) -> bool {
    match name {
        HostPattern::Exact(name) => certificate.covers_host(name),
        // A certificate's wildcard is for one label; deeper names are asked for one by one.
        HostPattern::Wildcard(parent) => {
            certificate.dns_names.iter().any(|known| known.strip_prefix("*.") == Some(&**parent))
        }
    }
}

/// The position and place of a name among those written.
pub(super) fn written<'s>(
    spec: &'s IngressSpec,
    name: &HostPattern,
) -> Option<(usize, &'s At<String>)> {
    let address = words::address(&spec.address).ok();
    let mut written = spec.names.iter().enumerate();
    written.find(|(_, written)| server_name(&written.value, address).as_ref() == Ok(name))
}
