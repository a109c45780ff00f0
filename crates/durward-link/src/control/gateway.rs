//! State machine of a gateway's end of one carrier.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::codec::encode;
use super::message::{
    ClusterState, DIRECT, DRAIN, Drain, Heartbeat, Hello, OUT, Purpose, ROUTES, Refused, ToAgent,
    ToGateway, VERDICTS, Verdicts, Versions, Welcome,
};
use super::proof::ProofKey;
use super::{FIRST_MESSAGE, HEARTBEAT, UNANSWERED, Violation};
use crate::route::{ROUTES as MOST_ROUTES, RouteSet, RoutesId};

/// Bytes of rejected routes in one message at most: less than an agent may leave unread.
const VERDICT_BYTES: usize = 32 * 1024;

/// Something that the gateway must act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayEvent {
    /// The agent said who it is; [`welcome`](GatewayControl::welcome) or [`refuse`](GatewayControl::refuse) it.
    Hello(Hello),
    /// The agent's routes are these now.
    Routes(RouteSet),
    /// The agent's cluster is in this state now.
    Cluster(ClusterState),
    /// The agent asks for no new streams; answer with [`drained`](GatewayControl::drained).
    Drain,
}

/// Answer to an agent that is accepted.
#[derive(Clone, Debug)]
pub struct Admitted<'a> {
    /// Data carriers wanted of it.
    pub carriers: u32,
    /// Core that serves this carrier.
    pub core: u32,
    /// Random text of this process.
    pub replica: &'a str,
    /// Key of proofs, for agents that know them.
    pub proof_key: Option<ProofKey>,
}

/// Gateway's end of one carrier.
#[derive(Debug)]
pub struct GatewayControl {
    versions: Versions,
    offered: BTreeSet<String>,
    state: State,
    pub(super) held: RoutesId,
    /// State of the cluster that the agent said last.
    cluster: Option<ClusterState>,
    /// Request to leave that waits for the welcome.
    leave: Option<Drain>,
    due: Instant,
    interval: Duration,
    outgoing: VecDeque<ToAgent>,
    events: VecDeque<GatewayEvent>,
}

#[derive(Debug)]
enum State {
    /// The agent has not said anything yet.
    Greeting,
    /// It said this, and waits for the answer.
    Judging {
        version: u16,
        capabilities: BTreeSet<String>,
        purpose: Purpose,
    },
    Open {
        capabilities: BTreeSet<String>,
        purpose: Purpose,
        draining: bool,
    },
    Ended,
}

impl GatewayControl {
    /// Waits for an agent.
    #[must_use]
    pub fn new(versions: Versions, now: Instant) -> Self {
        Self {
            versions,
            offered: [ROUTES, VERDICTS, DRAIN, DIRECT, OUT].map(str::to_owned).into(),
            state: State::Greeting,
            held: RoutesId::default(),
            cluster: None,
            leave: None,
            due: now + FIRST_MESSAGE,
            interval: HEARTBEAT,
            outgoing: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes in a message.
    ///
    /// # Errors
    /// Fails if the agent breaks the protocol; the carrier must end.
    pub fn receive(&mut self, message: ToGateway, now: Instant) -> Result<(), Violation> {
        let word = message.word();
        let out_of_order = |when| Err(Violation::OutOfOrder { message: word, when });
        match (&mut self.state, message) {
            // What was under way when the carrier was refused.
            (State::Ended, _) | (_, ToGateway::Unknown) => Ok(()),
            (State::Greeting, ToGateway::Hello(hello)) => {
                self.greet(hello);
                Ok(())
            }
            (State::Greeting, _) => out_of_order("before hello"),
            (State::Judging { .. }, _) => out_of_order("before welcome"),
            (State::Open { .. }, ToGateway::Hello(_)) => out_of_order("after hello"),
            (State::Open { purpose, capabilities, .. }, ToGateway::Routes(routes)) => {
                if *purpose != Purpose::Control || !capabilities.contains(ROUTES) {
                    return out_of_order("on a carrier that takes none");
                }
                self.take(routes, now)
            }
            (State::Open { purpose, .. }, ToGateway::Heartbeat(Heartbeat { metadata, .. })) => {
                let is_control = *purpose == Purpose::Control;
                self.due = now + self.interval * (UNANSWERED + 1);
                self.outgoing.push_back(ToAgent::HeartbeatAck(self.held.clone()));
                let state = metadata.filter(|state| is_control && state.is_bounded());
                if let Some(state) = state
                    && self.cluster.as_ref() != Some(&state)
                {
                    self.cluster = Some(state.clone());
                    self.events.push_back(GatewayEvent::Cluster(state));
                }
                Ok(())
            }
            (State::Open { draining, .. }, ToGateway::Drain(_)) => {
                if !std::mem::replace(draining, true) {
                    self.events.push_back(GatewayEvent::Drain);
                }
                Ok(())
            }
        }
    }

    fn greet(&mut self, hello: Hello) {
        let Some(version) = self.versions.common(hello.versions) else {
            let Versions { lowest, highest } = self.versions;
            let reason =
                format!("the gateway speaks versions {lowest} to {highest} of the protocol");
            return self.refuse(reason, Duration::from_secs(60));
        };
        let capabilities = self.offered.intersection(&hello.capabilities).cloned().collect();
        self.state = State::Judging { version, capabilities, purpose: hello.purpose };
        self.events.push_back(GatewayEvent::Hello(hello));
    }

    fn take(&mut self, routes: RouteSet, now: Instant) -> Result<(), Violation> {
        if routes.routes().len() > MOST_ROUTES {
            return Err(Violation::TooManyRoutes(routes.routes().len()));
        }
        self.due = now + self.interval * (UNANSWERED + 1);
        let id = routes.id();
        // Carriers keep the order of messages, so a lower revision means that the agent restarted: its routes apply.
        if id != self.held {
            self.held = id.clone();
            self.events.push_back(GatewayEvent::Routes(routes));
        }
        self.outgoing.push_back(ToAgent::RoutesKnown(id));
        Ok(())
    }

    /// Accepts the agent that said hello.
    pub fn welcome(&mut self, admitted: Admitted<'_>, now: Instant) {
        let State::Judging { version, capabilities, purpose } =
            std::mem::replace(&mut self.state, State::Ended)
        else {
            return;
        };
        self.due = now + self.interval * (UNANSWERED + 1);
        let Admitted { carriers, core, replica, proof_key } = admitted;
        let proof_key = proof_key.filter(|_| capabilities.contains(DIRECT));
        self.outgoing.push_back(ToAgent::Welcome(Welcome {
            version,
            capabilities: capabilities.clone(),
            carriers,
            core,
            replica: replica.to_owned(),
            heartbeat_ms: u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX),
            proof_key,
        }));
        self.state = State::Open { capabilities, purpose, draining: false };
        if let Some(Drain { after_ms, alternates }) = self.leave.take() {
            self.drain(Duration::from_millis(after_ms), alternates);
        }
    }

    /// Refuses the agent. The carrier ends once the message is sent.
    pub fn refuse(&mut self, reason: String, retry_after: Duration) {
        if matches!(self.state, State::Greeting | State::Judging { .. }) {
            let retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
            self.outgoing.push_back(ToAgent::Refused(Refused { reason, retry_after_ms }));
            self.state = State::Ended;
        }
    }

    /// Asks the agent to leave for one of `alternates`, or to dial the same address again. An agent that has not been welcomed yet is asked once it is.
    pub fn drain(&mut self, after: Duration, alternates: Vec<String>) {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let drain = Drain { after_ms, alternates };
        match &self.state {
            State::Greeting | State::Judging { .. } => self.leave = Some(drain),
            State::Open { capabilities, .. } if capabilities.contains(DRAIN) => {
                self.outgoing.push_back(ToAgent::Drain(drain));
            }
            State::Open { .. } | State::Ended => {}
        }
    }

    /// Says what became of routes, to an agent that knows such messages. Of rejected routes as many are named as fit into 32 KiB.
    pub fn judge(&mut self, mut verdicts: Verdicts) {
        if let State::Open { capabilities, .. } = &self.state
            && capabilities.contains(VERDICTS)
        {
            let mut bytes = 0;
            let fitting = verdicts.rejected.iter().take_while(|one| {
                bytes += encode(one).len();
                bytes <= VERDICT_BYTES
            });
            let fitting = fitting.count();
            verdicts.rejected.truncate(fitting);
            self.outgoing.push_back(ToAgent::Verdicts(verdicts));
        }
    }

    /// Confirms that no new stream will be opened.
    pub fn drained(&mut self) {
        if matches!(self.state, State::Open { draining: true, .. }) {
            self.outgoing.push_back(ToAgent::Drained);
            self.state = State::Ended;
        }
    }

    /// Ends an agent that is silent.
    ///
    /// # Errors
    /// Fails if it is time; the carrier must end.
    pub fn tick(&mut self, now: Instant) -> Result<(), Violation> {
        match self.state {
            _ if now < self.due => Ok(()),
            State::Greeting => Err(Violation::Silent("hello")),
            State::Open { .. } => Err(Violation::Silent("heartbeat")),
            // The gateway's own slowness, or the last streams of a carrier that drains.
            State::Judging { .. } | State::Ended => {
                self.due = now + self.interval;
                Ok(())
            }
        }
    }

    /// Returns true once the carrier is refused or drained.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Returns the time at which [`tick`](Self::tick) has something to do.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Takes the next message to send.
    pub fn next_message(&mut self) -> Option<ToAgent> {
        self.outgoing.pop_front()
    }

    /// Takes the next event.
    pub fn next_event(&mut self) -> Option<GatewayEvent> {
        self.events.pop_front()
    }
}
