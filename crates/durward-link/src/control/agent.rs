//! State machine of an agent's end of one carrier.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::message::{
    ClusterState, DRAIN, Drain, Heartbeat, Hello, Purpose, ROUTES, Refused, ToAgent, ToGateway,
    VERDICTS, Verdicts, Versions, Welcome,
};
use super::{FIRST_MESSAGE, UNANSWERED, Violation};
use crate::route::{RouteSet, RoutesId};

/// Shortest interval of heartbeats that a gateway can ask for.
const SHORTEST: Duration = Duration::from_secs(1);
/// Longest interval of heartbeats that a gateway can ask for.
const LONGEST: Duration = Duration::from_secs(300);

/// Something that the agent's program must act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent {
    /// The gateway accepted the carrier.
    Welcome(Welcome),
    /// The gateway refused the carrier: it ends.
    Refused(Refused),
    /// The gateway holds these routes now.
    RoutesHeld(RoutesId),
    /// The gateway has judged the routes.
    Verdicts(Verdicts),
    /// The gateway asks the agent to leave: dial another carrier first.
    Drain(Drain),
    /// No new stream will come.
    Drained,
}

/// Agent's end of one carrier.
#[derive(Debug)]
pub struct AgentControl {
    versions: Versions,
    offered: BTreeSet<String>,
    purpose: Purpose,
    routes: Arc<RouteSet>,
    metadata: Option<ClusterState>,
    state: State,
    /// Time of the next heartbeat, or by which the first message must come.
    due: Instant,
    interval: Duration,
    unanswered: u32,
    outgoing: VecDeque<ToGateway>,
    events: VecDeque<AgentEvent>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Open { capabilities: BTreeSet<String>, draining: bool },
    Ended,
}

impl AgentControl {
    /// Greets the gateway. `routes` are sent on a control carrier.
    #[must_use]
    pub fn new(hello: Hello, routes: Arc<RouteSet>, now: Instant) -> Self {
        Self {
            versions: hello.versions,
            offered: hello.capabilities.clone(),
            purpose: hello.purpose,
            routes,
            metadata: None,
            state: State::Greeting,
            due: now + FIRST_MESSAGE,
            interval: FIRST_MESSAGE,
            unanswered: 0,
            outgoing: VecDeque::from([ToGateway::Hello(hello)]),
            events: VecDeque::new(),
        }
    }

    /// Takes in a message.
    ///
    /// # Errors
    /// Fails if the gateway breaks the protocol; the carrier must end.
    pub fn receive(&mut self, message: ToAgent, now: Instant) -> Result<(), Violation> {
        let word = message.word();
        let out_of_order = |when| Err(Violation::OutOfOrder { message: word, when });
        match (&mut self.state, message) {
            (State::Ended, _) => out_of_order("after the end"),
            (_, ToAgent::Unknown) => Ok(()),
            (State::Greeting, ToAgent::Welcome(welcome)) => self.open(welcome, now),
            (State::Greeting, ToAgent::Refused(refused)) => {
                self.state = State::Ended;
                self.events.push_back(AgentEvent::Refused(refused));
                Ok(())
            }
            (State::Greeting, _) => out_of_order("before welcome"),
            (State::Open { .. }, ToAgent::Welcome(_) | ToAgent::Refused(_)) => {
                out_of_order("after welcome")
            }
            (State::Open { .. }, ToAgent::RoutesKnown(held)) => {
                self.events.push_back(AgentEvent::RoutesHeld(held));
                Ok(())
            }
            (State::Open { capabilities, .. }, ToAgent::Verdicts(verdicts)) => {
                if !capabilities.contains(VERDICTS) {
                    return Err(Violation::NotOffered(format!("capability {VERDICTS}")));
                }
                self.events.push_back(AgentEvent::Verdicts(verdicts));
                Ok(())
            }
            (State::Open { .. }, ToAgent::HeartbeatAck(held)) => {
                self.unanswered = 0;
                if self.purpose != Purpose::Control {
                    // Routes are the control carrier's.
                    return Ok(());
                }
                if held.digest != self.routes.id().digest {
                    self.register();
                }
                self.events.push_back(AgentEvent::RoutesHeld(held));
                Ok(())
            }
            (State::Open { .. }, ToAgent::Drain(drain)) => {
                self.events.push_back(AgentEvent::Drain(drain));
                Ok(())
            }
            (State::Open { draining, .. }, ToAgent::Drained) => {
                if !*draining {
                    return out_of_order("unasked");
                }
                self.state = State::Ended;
                self.events.push_back(AgentEvent::Drained);
                Ok(())
            }
        }
    }

    fn open(&mut self, welcome: Welcome, now: Instant) -> Result<(), Violation> {
        if !self.versions.contains(welcome.version) {
            return Err(Violation::NotOffered(format!("version {}", welcome.version)));
        }
        if let Some(other) = welcome.capabilities.difference(&self.offered).next() {
            return Err(Violation::NotOffered(format!("capability {other}")));
        }
        self.interval = Duration::from_millis(welcome.heartbeat_ms).clamp(SHORTEST, LONGEST);
        self.due = now + self.interval;
        self.state = State::Open { capabilities: welcome.capabilities.clone(), draining: false };
        self.register();
        if self.purpose == Purpose::Control && self.metadata.is_some() {
            self.beat();
        }
        self.events.push_back(AgentEvent::Welcome(welcome));
        Ok(())
    }

    /// Sends all routes, where the gateway takes them on this carrier.
    fn register(&mut self) {
        if self.purpose == Purpose::Control && self.is_capable_of(ROUTES) {
            self.outgoing.push_back(ToGateway::Routes(RouteSet::clone(&self.routes)));
        }
    }

    fn is_capable_of(&self, capability: &str) -> bool {
        matches!(&self.state, State::Open { capabilities, .. } if capabilities.contains(capability))
    }

    /// Registers other routes.
    pub fn set_routes(&mut self, routes: Arc<RouteSet>) {
        if *self.routes != *routes {
            self.routes = routes;
            self.register();
        }
    }

    /// Says another state of the cluster, at once and with each heartbeat.
    pub fn set_metadata(&mut self, metadata: Option<ClusterState>) {
        if self.metadata != metadata {
            self.metadata = metadata;
            if self.purpose == Purpose::Control && matches!(self.state, State::Open { .. }) {
                self.beat();
            }
        }
    }

    fn beat(&mut self) {
        let metadata = self.metadata.clone().filter(|_| self.purpose == Purpose::Control);
        let beat = Heartbeat { routes: self.routes.id(), metadata };
        self.outgoing.push_back(ToGateway::Heartbeat(beat));
    }

    /// Asks for no new streams. Returns false if the gateway cannot be asked: the carrier ends without.
    pub fn drain(&mut self) -> bool {
        let capable = self.is_capable_of(DRAIN);
        if let State::Open { draining, .. } = &mut self.state
            && capable
            && !std::mem::replace(draining, true)
        {
            self.outgoing.push_back(ToGateway::Drain(Drain::default()));
        }
        capable
    }

    /// Sends heartbeats that are due.
    ///
    /// # Errors
    /// Fails if the gateway is silent; the carrier must end.
    pub fn tick(&mut self, now: Instant) -> Result<(), Violation> {
        if now < self.due {
            return Ok(());
        }
        match self.state {
            State::Greeting => Err(Violation::Silent("welcome")),
            State::Open { .. } if self.unanswered == UNANSWERED => {
                Err(Violation::Silent("heartbeat_ack"))
            }
            State::Open { .. } => {
                self.unanswered += 1;
                self.due = now + self.interval;
                self.beat();
                Ok(())
            }
            State::Ended => {
                self.due = now + self.interval;
                Ok(())
            }
        }
    }

    /// Returns the time at which [`tick`](Self::tick) has something to do.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Takes the next message to send.
    pub fn next_message(&mut self) -> Option<ToGateway> {
        self.outgoing.pop_front()
    }

    /// Takes the next event.
    pub fn next_event(&mut self) -> Option<AgentEvent> {
        self.events.pop_front()
    }
}
