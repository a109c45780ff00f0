//! The end of a connection, or of an attempt to serve one: counted and written to the access log, once and alike for all that serve.
//!
//! Requests are not recorded here; an exchange has an account of its own for each.

use std::time::SystemTime;

use crate::access_log::{Record, UpstreamRecord};
use crate::connection::ConnectionFacts;
use crate::core::Core;
use crate::refusal::Refusal;
use crate::upstream::{Lease, TenantRuntime};

/// Outcome of a connection.
pub(crate) struct Outcome<'a> {
    /// The log's word for how it was served.
    pub(crate) kind: &'static str,
    /// The upstream that served, if any.
    pub(crate) upstream: Option<UpstreamRecord<'a>>,
    /// Bytes from the client and to it.
    pub(crate) bytes: (u64, u64),
    /// The reason for which it was refused or broken off.
    pub(crate) refusal: Option<&'a Refusal>,
}

impl<'a> Outcome<'a> {
    /// A connection that was refused before anything was carried.
    pub(crate) fn refused(kind: &'static str, refusal: &'a Refusal) -> Self {
        Self { kind, upstream: None, bytes: (0, 0), refusal: Some(refusal) }
    }

    /// Counts and records it. Without a tenant it is counted for none.
    pub(crate) fn record(
        self,
        core: &Core,
        tenant: Option<&TenantRuntime>,
        facts: &ConnectionFacts,
    ) {
        let metrics = tenant.map_or(&core.shared.metrics.unknown, |tenant| &tenant.metrics);
        if let Some(refusal) = self.refusal {
            metrics.core(core.id).refused(refusal);
        }
        let duration = facts.accepted.elapsed();
        core.log.write(&Record {
            began: SystemTime::now() - duration,
            kind: self.kind,
            tenant: tenant.map(|tenant| tenant.tenant.id.as_str()),
            facts,
            request: None,
            upstream: self.upstream,
            bytes_in: self.bytes.0,
            bytes_out: self.bytes.1,
            duration,
            refusal: self.refusal,
        });
    }
}

/// Returns the upstream's part of the line about a connection that was opened for one client alone.
pub(crate) fn upstream_record<'a>(
    name: &'a str,
    lease: &'a Lease,
    retries: u32,
) -> UpstreamRecord<'a> {
    UpstreamRecord {
        name,
        link: lease.upstream().upstream.link.as_deref(),
        peer: lease.peer,
        source: lease.source,
        reused: false,
        connect: lease.connect,
        first_byte: None,
        retries,
    }
}
