//! Transparent TLS: the server name of the ClientHello is the destination, and the original destination address only selects one of the name's
//! addresses.
//!
//! Without a server name the address itself is judged.

use std::net::SocketAddr;
use std::rc::Rc;

use durward_model::Service;
use durward_model::egress::{Asked, Host, Policy};
use tokio::net::TcpStream;

use crate::admitted::Admitted;
use crate::connection::{ConnectionFacts, TlsFacts};
use crate::core::Core;
use crate::decisions::Passage;
use crate::dial;
use crate::dial::Reached;
use crate::egress_proxy::gate;
use crate::egress_proxy::tunnel_log;
use crate::exchange::new_request_id;
use crate::io::Io;
use crate::peek;
use crate::prepared::TenantView;
use crate::refusal::{HandshakeFailure, Refusal};
use crate::reject::{Farewell, INTERNAL_ERROR, UNRECOGNIZED_NAME, reset, say};
use crate::relay::{Relayed, Side, relay};
use crate::watch::{Expired, Watch};

/// Kind in the access log.
const KIND: &str = "transparent";
/// Alert descriptions of RFC 8446 section 6.
const ACCESS_DENIED: u8 = 49;
const DECODE_ERROR: u8 = 50;

/// Serves a connection whose client is expected to speak TLS, to its end.
pub(crate) async fn serve(admitted: Admitted) {
    let Admitted { io, view, facts, watch, core, .. } = admitted;
    let Service::Forward(service) = &view.listener().service else { return };
    let Io::Tcp(stream) = io else { return };
    let id = new_request_id(&core);
    let mut passage = Passage::new(&id, &view.tenant().tenant.id, facts.client);
    "TLS".clone_into(&mut passage.method);
    let destination = facts.destination.0;
    passage.transparent = Some(destination);
    (passage.host, passage.port) = (destination.ip().to_string(), destination.port());
    let client = Client { core: &core, view: &view, watch: &watch, destination };
    let opened = client.open(&stream, &service.policy, &mut passage).await;
    let (relayed, lease) = match opened {
        Ok((early, Reached { side, lease })) => {
            let client = Side { io: Io::Tcp(stream), early };
            let relayed = relay(&core, &view, &watch, client, side, &lease).await;
            (relayed, Some(lease))
        }
        Err(refusal) => {
            say(stream, farewell(&refusal), &watch).await;
            (Relayed { from_client: 0, from_upstream: 0, ended: Some(refusal) }, None)
        }
    };
    let traffic = (relayed.from_client, relayed.from_upstream);
    passage.ended(&core.decisions, relayed.ended.as_ref(), traffic);
    let facts = with_name(&facts, passage.sni);
    tunnel_log::record(&core, &view, &facts, KIND, (&relayed, lease.as_ref()));
}

/// Refuses a connection to a port that is not the proxy's: the kernel plane has not applied a change yet, or a local process connects to the socket.
pub(crate) fn turn_away(admitted: Admitted) {
    let Admitted { io, view, facts, core, .. } = admitted;
    if let Some(socket) = io.socket() {
        reset(socket);
    }
    let refusal = Refusal::UnknownAddress { destination: facts.destination.0 };
    let ended = Relayed { from_client: 0, from_upstream: 0, ended: Some(refusal) };
    tunnel_log::record(&core, &view, &facts, KIND, (&ended, None));
}

/// Context of a client, with its original destination.
struct Client<'a> {
    core: &'a Rc<Core>,
    view: &'a TenantView,
    watch: &'a Watch,
    destination: SocketAddr,
}

impl Client<'_> {
    /// Reads the ClientHello, applies the policy and connects to the destination; returns the bytes read and the connection.
    async fn open(
        &self,
        stream: &TcpStream,
        policy: &Policy,
        passage: &mut Passage,
    ) -> Result<(Vec<u8>, Reached), Refusal> {
        let limits = &self.view.tenant().tenant.limits;
        self.watch.arm(Some(limits.timeouts.handshake), false);
        let (hello, early) =
            self.watch.guard(peek::client_hello(stream, None)).await.map_err(late)??;
        passage.sni = hello.server_name;
        let host = self.host(passage.sni.as_deref())?;
        passage.host = host.to_string();
        self.view.tenant().usage.request(limits)?;
        self.watch.arm(None, false);
        let asked = Asked { host: &host, port: self.destination.port(), method: None };
        let reaching = self.reach(policy, asked, passage);
        let reached = self.watch.guard(reaching).await.map_err(late)??;
        Ok((early, reached))
    }

    fn host(&self, name: Option<&str>) -> Result<Host, Refusal> {
        let bad = |_| Refusal::BadRequest { detail: "SNI is no host in its usual form" };
        match name {
            Some(name) => Host::parse(name).map_err(bad),
            None => Ok(Host::Address(self.destination.ip().to_canonical())),
        }
    }

    async fn reach(
        &self,
        policy: &Policy,
        asked: Asked<'_>,
        passage: &mut Passage,
    ) -> Result<Reached, Refusal> {
        let mut cleared = gate::check(self.core, self.view, policy, asked, passage).await?;
        cleared.keep_to(self.destination);
        let reached = dial::connect(self.core, self.view, &cleared, asked, Some(passage)).await?;
        passage.opened(&self.core.decisions, reached.lease.peer, reached.lease.source);
        self.core.decisions.committed().await.map_err(Refusal::NotRecorded)?;
        Ok(reached)
    }
}

fn late(expired: Expired) -> Refusal {
    match expired {
        Expired::Deadline => Refusal::ClientTimeout { phase: "handshake" },
        Expired::Closing => Refusal::Draining,
    }
}

/// Returns how a refused client's connection ends: TLS alert, close or reset.
fn farewell(refusal: &Refusal) -> Farewell {
    match refusal {
        Refusal::PolicyDenied { .. } => Farewell::Alert(ACCESS_DENIED),
        Refusal::Unresolvable { .. } | Refusal::BadRequest { .. } => {
            Farewell::Alert(UNRECOGNIZED_NAME)
        }
        Refusal::ClientHello { .. } => Farewell::Alert(DECODE_ERROR),
        Refusal::Handshake { reason: HandshakeFailure::Closed, .. } => Farewell::Close,
        Refusal::ClientTimeout { .. } | Refusal::Draining => Farewell::Reset,
        _ => Farewell::Alert(INTERNAL_ERROR),
    }
}

fn with_name(facts: &ConnectionFacts, name: Option<String>) -> ConnectionFacts {
    ConnectionFacts {
        accepted: facts.accepted,
        client: facts.client,
        peer: facts.peer,
        destination: facts.destination,
        tls: name.map(|name| TlsFacts::asked_for(Some(name), facts.accepted.elapsed())),
        link: facts.link.clone(),
        proxied: facts.proxied.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_what_tls_has_words_for() {
        let denied = Refusal::PolicyDenied { rule: "default".into(), contact: None };
        let unknown = Refusal::Unresolvable { detail: String::new() };
        let junk = Refusal::ClientHello { detail: "no TLS" };

        assert_eq!(farewell(&denied), Farewell::Alert(49));
        assert_eq!(farewell(&unknown), Farewell::Alert(112));
        assert_eq!(farewell(&junk), Farewell::Alert(50));
        assert_eq!(farewell(&Refusal::CircuitOpen), Farewell::Alert(80));
    }
}
