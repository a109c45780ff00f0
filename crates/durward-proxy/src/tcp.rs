//! TCP listeners: relays to an upstream, after TLS where that is terminated here.

use std::rc::Rc;
use std::time::Instant;

use durward_model::Service;
use durward_model::route::WeightedUpstream;

use crate::admitted::Admitted;
use crate::core::Core;
use crate::decisions::Passage;
use crate::io::Io;
use crate::metrics::Counter;
use crate::outcome::{Outcome, upstream_record};
use crate::prepared::TenantView;
use crate::refusal::Refusal;
use crate::reject::{INTERNAL_ERROR, alert, reset, say_inside};
use crate::relay::{Relayed, Side, relay};
use crate::upstream::{self, Lease, Tried};
use crate::watch::Watch;

/// Serves a connection of a TCP listener to its end.
pub(crate) async fn serve(admitted: Admitted) {
    let view = admitted.view.clone();
    let Service::Tcp(service) = &view.listener().service else { return };
    carry(admitted, "tcp", &service.upstreams, (GiveUp::Reset, None)).await;
}

/// Way to end a client's connection if no upstream can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GiveUp {
    /// Reset.
    Reset,
    /// TLS alert to a client whose TLS is carried through.
    Alert,
}

impl GiveUp {
    async fn end(self, io: &mut Io, watch: &Watch) {
        match (self, io) {
            (Self::Reset, io) => io.socket().into_iter().for_each(reset),
            (Self::Alert, Io::Tcp(stream)) => {
                let _ = stream.try_write(&alert(INTERNAL_ERROR));
            }
            (Self::Alert, io) => say_inside(io, INTERNAL_ERROR, watch).await,
        }
    }
}

/// Relays the connection to one of the upstreams and records the outcome. `passage` is recorded where it
/// is given, and nothing is relayed before its record is written.
pub(crate) async fn carry(
    admitted: Admitted,
    kind: &'static str,
    upstreams: &[WeightedUpstream],
    (give_up, passage): (GiveUp, Option<&Passage>),
) {
    let Admitted { mut io, early, view, facts, watch, core, .. } = admitted;
    let choice = choose(upstreams, core.random());
    // Connecting has its own deadline; until then only the end of the configuration ends it.
    watch.arm(None, false);
    let connecting = async {
        let (upstream, lease, retries) =
            connect(&core, &view, choice, (&facts, !early.is_empty())).await?;
        match opened(&core, passage, &lease).await {
            Ok(()) => Ok((upstream, lease, retries)),
            Err(refusal) => Err((refusal, retries)),
        }
    };
    let connected = match watch.guard(connecting).await {
        Ok(connected) => connected,
        Err(_) => Err((Refusal::closing(&watch), 0)),
    };
    let (relayed, lease, retries) = match connected {
        Ok((upstream, lease, retries)) => {
            let (client, upstream) = (Side { io, early }, Side { io: upstream, early: Vec::new() });
            let relayed = relay(&core, &view, &watch, client, upstream, &lease).await;
            match &relayed.ended {
                Some(refusal) if relayed.from_upstream == 0 => lease.failed(refusal),
                _ => lease.served(200),
            }
            (relayed, Some(lease), retries)
        }
        Err((refusal, retries)) => {
            Box::pin(give_up.end(&mut io, &watch)).await;
            let ended = Some(refusal);
            (Relayed { from_client: 0, from_upstream: 0, ended }, None, retries)
        }
    };
    let bytes = (relayed.from_client, relayed.from_upstream);
    if let Some(passage) = passage {
        passage.ended(&core.decisions, relayed.ended.as_ref(), bytes);
    }
    let upstream = choice.and_then(|choice| view.tenant().upstreams.get(choice.upstream.0));
    let upstream = upstream
        .zip(lease.as_ref())
        .map(|(upstream, lease)| upstream_record(&upstream.upstream.name, lease, retries));
    let outcome = Outcome { kind, upstream, bytes, refusal: relayed.ended.as_ref() };
    outcome.record(&core, Some(view.tenant()), &facts);
}

/// Records an upstream connection that is open, and waits until the record is written.
async fn opened(core: &Rc<Core>, passage: Option<&Passage>, lease: &Lease) -> Result<(), Refusal> {
    let Some(passage) = passage else { return Ok(()) };
    passage.opened(&core.decisions, lease.peer, lease.source);
    core.decisions.committed().await.map_err(Refusal::NotRecorded)
}

/// Draws one of the upstreams by weight.
pub(crate) fn choose(upstreams: &[WeightedUpstream], random: u32) -> Option<&WeightedUpstream> {
    let total: u64 = upstreams.iter().map(|choice| u64::from(choice.weight)).sum();
    let mut drawn = u64::from(random) % total.max(1);
    upstreams.iter().find(|choice| {
        let hit = drawn < u64::from(choice.weight);
        drawn = drawn.saturating_sub(u64::from(choice.weight));
        hit
    })
}

/// Opens a connection, trying further endpoints where the upstream allows that. Nothing was sent, so a retry is always safe.
pub(crate) async fn connect(
    core: &Rc<Core>,
    view: &TenantView,
    choice: Option<&WeightedUpstream>,
    (facts, speaks_first): (&crate::connection::ConnectionFacts, bool),
) -> Result<(Io, Lease, u32), (Refusal, u32)> {
    let Some(choice) = choice else { return Err((Refusal::NoRoute, 0)) };
    let Some(runtime) = view.tenant().upstreams.get(choice.upstream.0) else {
        return Err((Refusal::NoRoute, 0));
    };
    let (mut tried, began) = (Tried::default(), Instant::now());
    let mut retries = 0;
    runtime.count_request();
    loop {
        let (client, destination) = (facts.client, facts.destination);
        match upstream::open(
            &core.upstreams,
            view.access(),
            choice.upstream,
            client,
            destination,
            (&mut tried, speaks_first),
        )
        .await
        {
            Ok((io, lease)) => return Ok((io, lease, retries)),
            Err(refusal) => {
                // Refusals for lack of our own resources would be the same at every endpoint.
                let elsewhere = matches!(
                    refusal,
                    Refusal::ConnectFailed { .. }
                        | Refusal::LinkFailed { .. }
                        | Refusal::ConnectTimeout { .. }
                        | Refusal::UpstreamTls { .. }
                );
                let left = || retries < runtime.upstream.retry.attempts && runtime.may_retry();
                let again = elsewhere && (runtime.may_connect_elsewhere(&tried, began) || left());
                if !again {
                    return Err((refusal, retries));
                }
                view.tenant().metrics.core(core.id).add(Counter::Retries, 1);
                retries += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use durward_model::upstream::UpstreamIndex;

    use super::*;

    #[test]
    fn draws_follow_the_weights() {
        let upstreams = [(0, 1), (1, 3)]
            .map(|(at, weight)| WeightedUpstream { upstream: UpstreamIndex(at), weight });

        let drawn: Vec<_> =
            (0..8).map(|random| choose(&upstreams, random).unwrap().upstream.0).collect();

        assert_eq!(drawn, [0, 1, 1, 1, 0, 1, 1, 1]);
        assert!(choose(&[], 7).is_none());
    }
}
