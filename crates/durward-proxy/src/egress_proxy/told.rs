//! Access-log line and counter of a connection that is one tunnel as a whole: SOCKS or transparent TLS.

use std::time::SystemTime;

use crate::access_log::{Record, UpstreamRecord};
use crate::connection::ConnectionFacts;
use crate::core::Core;
use crate::prepared::TenantView;
use crate::relay::Relayed;
use crate::upstream::Lease;

/// Records a connection that has ended; `kind` is the log's word for its protocol.
pub(crate) fn tell(
    core: &Core,
    view: &TenantView,
    facts: &ConnectionFacts,
    kind: &'static str,
    (relayed, lease): (&Relayed, Option<&Lease>),
) {
    if let Some(refusal) = &relayed.ended {
        view.tenant().metrics.core(core.id).refused(refusal);
    }
    let duration = facts.accepted.elapsed();
    core.log.write(&Record {
        began: SystemTime::now() - duration,
        kind,
        tenant: Some(view.tenant().tenant.id.as_str()),
        facts,
        request: None,
        upstream: lease.map(|lease| UpstreamRecord {
            name: "outside",
            peer: lease.peer,
            source: lease.source,
            reused: false,
            connect: lease.connect,
            first_byte: None,
            retries: 0,
        }),
        bytes_in: relayed.from_client,
        bytes_out: relayed.from_upstream,
        duration,
        refusal: relayed.ended.as_ref(),
    });
}
