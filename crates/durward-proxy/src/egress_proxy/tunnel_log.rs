//! Access-log line and counter of a connection that is one tunnel as a whole: SOCKS or transparent TLS.

use crate::connection::ConnectionFacts;
use crate::core::Core;
use crate::outcome::{Outcome, upstream_record};
use crate::prepared::TenantView;
use crate::relay::Relayed;
use crate::upstream::Lease;

/// Records a connection that has ended; `kind` is the log's word for its protocol.
pub(crate) fn record(
    core: &Core,
    view: &TenantView,
    facts: &ConnectionFacts,
    kind: &'static str,
    (relayed, lease): (&Relayed, Option<&Lease>),
) {
    let upstream = lease.map(|lease| upstream_record("outside", lease, 0));
    let bytes = (relayed.from_client, relayed.from_upstream);
    let outcome = Outcome { kind, upstream, bytes, refusal: relayed.ended.as_ref() };
    outcome.record(core, Some(view.tenant()), facts);
}
