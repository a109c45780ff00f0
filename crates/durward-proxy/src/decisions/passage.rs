//! One request or tunnel of the forward proxy, or one connection to a hosted API server, and its two lines in the record: when it is connected or refused, and
//! when it has ended.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use durward_model::{ClientAddr, TenantId, UpstreamAddr};

use super::{Decision, Decisions, Kind, Verdict};
use crate::refusal::Refusal;

/// Request or tunnel, as far as it is known.
pub(crate) struct Passage {
    pub(crate) id: String,
    pub(crate) tenant: TenantId,
    pub(crate) identity: Option<String>,
    pub(crate) client: ClientAddr,
    pub(crate) method: String,
    /// Original destination, for a transparent connection.
    pub(crate) transparent: Option<SocketAddr>,
    /// Source and destination that an inner PROXY header names.
    pub(crate) inner: Option<(SocketAddr, SocketAddr)>,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) sni: Option<String>,
    pub(crate) resolved: Arc<[IpAddr]>,
    pub(crate) rule: Arc<str>,
    pub(crate) verdict: Verdict,
    /// True for a connection to a hosted API server.
    of_api: bool,
    began: Instant,
    dialled: Cell<Option<(SocketAddr, SocketAddr)>>,
}

impl Passage {
    /// Creates an undecided passage: were it to end now, it would be recorded as denied.
    pub(crate) fn new(id: &str, tenant: &TenantId, client: ClientAddr) -> Self {
        Self {
            id: id.to_owned(),
            tenant: tenant.clone(),
            identity: None,
            client,
            method: String::new(),
            transparent: None,
            inner: None,
            host: String::new(),
            port: 0,
            sni: None,
            resolved: Arc::default(),
            rule: Arc::from(""),
            verdict: Verdict::Denied,
            of_api: false,
            began: Instant::now(),
            dialled: Cell::new(None),
        }
    }

    /// Creates the passage of a connection that was admitted to a hosted API server.
    pub(crate) fn to_api(id: &str, tenant: &TenantId, client: ClientAddr) -> Self {
        Self { verdict: Verdict::Allowed, of_api: true, ..Self::new(id, tenant, client) }
    }

    /// Records the connection from `egress` to `dialled`. If it replaces a stale one, that one is recorded as ended first.
    pub(crate) fn opened(&self, decisions: &Decisions, dialled: UpstreamAddr, egress: SocketAddr) {
        let now = Some((dialled.0, egress));
        if self.dialled.get() == now {
            return;
        }
        if let Some((peer, _)) = self.dialled.get() {
            let stale = Refusal::UpstreamClosed { peer };
            self.write(decisions, Kind::Close, (&self.rule, self.verdict), Some(&stale), (0, 0));
        }
        self.dialled.set(now);
        self.write(decisions, Kind::Open, (&self.rule, self.verdict), None, (0, 0));
    }

    /// Records the end: a refusal before there was a connection, or the bytes from and to the client.
    pub(crate) fn ended(
        &self,
        decisions: &Decisions,
        refusal: Option<&Refusal>,
        bytes: (u64, u64),
    ) {
        if self.dialled.get().is_some() {
            // The first bytes of a tunnel (its SNI) are judged after it is connected.
            let decided = match refusal {
                Some(Refusal::PolicyDenied { rule, .. }) => (&**rule, Verdict::Denied),
                _ => (&*self.rule, self.verdict),
            };
            return self.write(decisions, Kind::Close, decided, refusal, bytes);
        }
        let denied =
            matches!(refusal, Some(Refusal::PolicyDenied { .. } | Refusal::ProxyAuthentication));
        let verdict = if denied { Verdict::Denied } else { Verdict::Failed };
        self.write(decisions, Kind::Open, (&self.rule, verdict), refusal, bytes);
    }

    fn write(
        &self,
        decisions: &Decisions,
        kind: Kind,
        (rule, verdict): (&str, Verdict),
        refusal: Option<&Refusal>,
        bytes: (u64, u64),
    ) {
        let connection = self.dialled.get();
        decisions.write(&Decision {
            kind: match kind {
                Kind::Open if self.of_api => Kind::ApiOpen,
                Kind::Close if self.of_api => Kind::ApiClose,
                kind => kind,
            },
            at: SystemTime::now(),
            id: &self.id,
            tenant: &self.tenant,
            identity: self.identity.as_deref(),
            client: self.client,
            method: &self.method,
            transparent: self.transparent,
            inner: self.inner,
            host: &self.host,
            port: self.port,
            sni: self.sni.as_deref(),
            resolved: &self.resolved,
            dialled: connection.map(|(dialled, _)| dialled),
            egress: connection.map(|(_, egress)| egress),
            rule,
            verdict,
            refusal,
            bytes_up: bytes.0,
            bytes_down: bytes.1,
            duration: self.began.elapsed(),
        });
    }
}
