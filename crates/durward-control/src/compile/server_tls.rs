//! TLS towards clients: certificates that name the address, protocols offered, and what is asked of clients.
//!
//! Deliberately absent: TLS itself.

use std::net::IpAddr;
use std::sync::Arc;

use durward_model::server_tls::{Alpn, ServerTls};
use durward_model::{Certificate, ClientAuth};

use super::certificates::Purpose;
use super::listener::{Workshop, protocol};
use super::report::Field;
use super::{server_names, trust};
use crate::place::At;
use crate::spec::ingress::{AlpnSpec, IngressSpec, IpSanSpec, ProtocolSpec, TlsVersionSpec};

impl Workshop<'_, '_, '_, '_> {
    /// TLS of a listener that terminates it, or `None` after an error.
    pub(super) fn tls(
        &mut self,
        spec: &At<IngressSpec>,
        address: Option<IpAddr>,
        field: &Field<'_>,
    ) -> Option<ServerTls> {
        let before = self.report.errors();
        let certificates = self.certificates(spec, address, field);
        let client_auth = trust::client_auth(self.report, self.files, spec, field);
        let alpn = self.alpn(spec, field);
        if self.report.errors() > before {
            return None;
        }
        Some(ServerTls {
            certificates,
            client_auth: client_auth.unwrap_or(ClientAuth::Off),
            tls13_only: spec
                .min_tls_version
                .is_some_and(|version| version.value == TlsVersionSpec::Tls13),
            alpn,
        })
    }

    fn alpn(&mut self, spec: &IngressSpec, field: &Field<'_>) -> Vec<Alpn> {
        if protocol(spec) == ProtocolSpec::Link {
            return vec![Alpn::Link, Alpn::Http11];
        }
        let bytes = protocol(spec) == ProtocolSpec::Tcp;
        let Some(written) = &spec.alpn else {
            return match bytes {
                true => Vec::new(),
                false if self.only_http1() => vec![Alpn::Http11],
                false => vec![Alpn::Http2, Alpn::Http11],
            };
        };
        if bytes {
            let sentence = "means nothing here: this listener does not carry HTTP";
            self.report.error("FieldUnfitting", written.place, &field.name("alpn"), sentence);
        } else if written.is_empty() {
            let sentence = "is empty: name h2, http/1.1 or both, or remove it";
            self.report.error("BadAlpn", written.place, &field.name("alpn"), sentence);
        }
        let mut alpn = Vec::with_capacity(written.len());
        for protocol in &written.value {
            let protocol = match protocol.value {
                AlpnSpec::H2 => Alpn::Http2,
                AlpnSpec::Http11 => Alpn::Http11,
            };
            if !alpn.contains(&protocol) {
                alpn.push(protocol);
            }
        }
        if alpn.contains(&Alpn::Http2) && self.only_http1() {
            let sentence = "names h2, but where credentials tell tenants apart only http/1.1 is spoken: remove it, or tell them apart by \
                            allowedSources or certificateNames";
            self.report.error("BadAlpn", written.place, &field.name("alpn"), sentence);
        }
        alpn
    }

    /// A first request must be seen to know whose a connection is, and with HTTP/2 it is not seen before much is agreed on.
    fn only_http1(&self) -> bool {
        self.outward.is_some_and(|outward| {
            let spec = outward.spec;
            spec.shared
                && spec.credentials.is_some()
                && spec.certificate_names.is_empty()
                && spec.allowed_sources.is_none()
        })
    }

    fn certificates(
        &mut self,
        spec: &At<IngressSpec>,
        address: Option<IpAddr>,
        field: &Field<'_>,
    ) -> Vec<Arc<Certificate>> {
        let list = field.name("certificates");
        let one = spec.certificate.iter().map(|spec| (spec, field.name("certificate")));
        let more = spec.certificates.iter().enumerate().map(|(at, spec)| (spec, list.index(at)));
        let address = address.filter(|address| server_names::has_address(spec, *address));
        let shared = self.outward.is_some_and(|outward| outward.spec.shared);
        let mut certificates = Vec::new();
        for (position, (written, field)) in one.chain(more).enumerate() {
            if let Some(acme) = &written.acme {
                // It names what the document says, so the address need not be among it.
                certificates.extend(self.by_acme((spec, position), written, acme, &field));
                continue;
            }
            let read =
                self.files.certificate(self.report, written, &field, Purpose::Server { shared });
            let Some(certificate) = read else { continue };
            let fault =
                address.and_then(|address| trust::names_address(&certificate, address).err());
            let place = trust::place_of(written);
            if position > 0 {
                if certificate.dns_names.is_empty() {
                    let sentence =
                        format!("{:?} names no host, so no SNI ever chooses it", certificate.name);
                    self.report.warning("CertificateUnused", place, &field, &sentence);
                }
            } else if let Some(fault) = fault {
                match spec.ip_san.unwrap_or_default() {
                    IpSanSpec::Refuse => self.report.error("IpSanMissing", place, &field, &fault),
                    IpSanSpec::Warn => {
                        let sentence = fault.trim_end_matches(", or set ipSan: Warn");
                        self.report.warning("IpSanMissing", place, &field, sentence);
                    }
                }
            }
            certificates.push(certificate);
        }
        // Those of Ingresses come later; until then there is none to show, and handshakes are refused.
        if spec.certificate.is_none() && spec.certificates.is_empty() && !spec.takes_ingresses() {
            let sentence = "is missing: HTTPS needs one, for instance {file: certs/name} for certs/name.crt and certs/name.key";
            self.report.error(
                "CertificateMissing",
                spec.place,
                &field.name("certificate"),
                sentence,
            );
        }
        certificates
    }
}
