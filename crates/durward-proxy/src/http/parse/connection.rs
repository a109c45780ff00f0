//! Combined meaning of `Connection`, `Content-Length` and `Transfer-Encoding` in a head.
//!
//! Fields that contradict each other are refused; none of them is preferred.

use crate::http::fields::{Fields, Span, list};
use crate::http::message::Version;
use crate::http::names::Known;
use crate::syntax::{Fault, content_length, is_token};

/// Fields that frame a message and control its connection.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Value of `Content-Length`.
    pub(crate) length: Option<u64>,
    /// True for `Transfer-Encoding: chunked`.
    pub(crate) chunked: bool,
    /// True for `Connection: close`.
    pub(crate) close: bool,
    /// True for `Connection: keep-alive`.
    pub(crate) keep_alive: bool,
    /// True for `Connection: upgrade`.
    pub(crate) upgrades: bool,
    /// The last `Upgrade` field, and how many there are.
    pub(crate) upgrade: Option<Span>,
    pub(crate) upgrade_fields: u32,
    /// True for `TE: trailers`.
    pub(crate) te_trailers: bool,
    /// Number of `Host` fields, and the last one.
    pub(crate) hosts: (u32, Span),
    /// Last `Expect` field.
    pub(crate) expect: Option<Span>,
    /// Number of `Proxy-Authorization` fields, and the last one.
    pub(crate) proxy_authorization: (u32, Span),
    nominates: bool,
    disguised: bool,
}

impl Control {
    /// Reads all fields of a loaded head.
    pub(crate) fn read(fields: &Fields, version: Version) -> Result<Self, Fault> {
        let mut control = Self::default();
        for index in 0..fields.len() {
            let Some((known, name, value)) = fields.entry(index) else { break };
            if known != Known::Other {
                control.look_at(fields, version, known, value)?;
                continue;
            }
            let disguised = Known::with_underscores(fields.bytes(name));
            if disguised.framing() {
                return Err(Fault::Malformed("underscore in a framing field's name"));
            }
            control.disguised |= disguised != Known::Other;
        }
        if control.chunked && control.length.is_some() {
            return Err(Fault::Malformed("Content-Length with Transfer-Encoding"));
        }
        Ok(control)
    }

    fn look_at(
        &mut self,
        fields: &Fields,
        version: Version,
        known: Known,
        span: Span,
    ) -> Result<(), Fault> {
        let value = fields.bytes(span);
        match known {
            Known::ContentLength => {
                let before = self.length.replace(content_length(value)?);
                if before.is_some() {
                    return Err(Fault::Malformed("repeated Content-Length"));
                }
            }
            Known::TransferEncoding => self.transfer_encoding(value, version)?,
            Known::Connection => self.connection(value)?,
            Known::Upgrade => {
                self.upgrade = Some(span);
                self.upgrade_fields += 1;
            }
            Known::Te => {
                self.te_trailers |=
                    list(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
            }
            Known::Host => self.hosts = (self.hosts.0 + 1, span),
            Known::Expect => self.expect = Some(span),
            Known::ProxyAuthorization => {
                self.proxy_authorization = (self.proxy_authorization.0 + 1, span);
            }
            _ => {}
        }
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8], version: Version) -> Result<(), Fault> {
        if version == Version::Http10 {
            return Err(Fault::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Fault::Malformed("Transfer-Encoding is not exactly chunked"));
        }
        if std::mem::replace(&mut self.chunked, true) {
            return Err(Fault::Malformed("repeated Transfer-Encoding"));
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), Fault> {
        for option in list(value) {
            if !is_token(option) {
                return Err(Fault::Malformed("Connection option is not a token"));
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrades = true;
            } else if Known::of(option).framing() {
                return Err(Fault::Malformed("Connection names a framing field"));
            } else {
                self.nominates |= !option.eq_ignore_ascii_case(b"te");
            }
        }
        Ok(())
    }

    /// Removes hop-by-hop fields, those that `Connection` names, and names that a server may take for one of ours.
    pub(crate) fn strip(&self, fields: &mut Fields) {
        if self.nominates {
            let named: Vec<Vec<u8>> = fields
                .iter()
                .filter(|field| field.known == Known::Connection)
                .flat_map(|field| list(field.value).map(<[u8]>::to_ascii_lowercase))
                .collect();
            fields.retain_fields(|field| {
                !named.iter().any(|name| name.eq_ignore_ascii_case(field.name))
            });
        }
        if self.disguised {
            fields.retain_fields(|field| Known::with_underscores(field.name) == Known::Other);
        }
        fields.retain(|known| {
            !known.hop_by_hop() && !matches!(known, Known::ContentLength | Known::Expect)
        });
    }

    /// Returns true if the connection may be used again.
    pub(crate) fn persists(&self, version: Version) -> bool {
        !self.close && (version != Version::Http10 || self.keep_alive)
    }
}
