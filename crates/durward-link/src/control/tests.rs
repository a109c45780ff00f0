//! Both machines against each other, and each against an adversary.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::route::{Route, RouteSet, RoutesId};

fn hello(versions: Versions, purpose: Purpose) -> Hello {
    Hello {
        versions,
        capabilities: [ROUTES, DRAIN, "later"].map(str::to_owned).into(),
        link: "onprem".to_owned(),
        instance: "one".to_owned(),
        purpose,
        agent: String::new(),
        token: None,
    }
}

fn admitted(carriers: u32, core: u32) -> Admitted<'static> {
    Admitted { carriers, core, replica: "gateway", proof_key: ProofKey::random() }
}

fn routes(revision: u64, hosts: &[&str]) -> Arc<RouteSet> {
    let route = |host: &&str| Route {
        host: (*host).to_owned(),
        path: "/".to_owned(),
        exact: false,
        target: "app:80".parse().unwrap(),
        tunnel_only: false,
        passthrough: false,
        backend_tls: None,
        ingress: String::new(),
    };
    Arc::new(RouteSet::new(revision, hosts.iter().map(route).collect()))
}

/// Both ends of one carrier. Messages pass by their encoding.
struct Pair {
    agent: AgentControl,
    gateway: GatewayControl,
    now: Instant,
}

impl Pair {
    fn new(of_agent: Versions, of_gateway: Versions, held: &Arc<RouteSet>) -> Self {
        let now = Instant::now();
        let agent = AgentControl::new(hello(of_agent, Purpose::Control), Arc::clone(held), now);
        Self { agent, gateway: GatewayControl::new(of_gateway, now), now }
    }

    /// Delivers everything, and welcomes the agent; returns the events of both.
    fn settle(&mut self) -> (Vec<AgentEvent>, Vec<GatewayEvent>) {
        let (mut of_agent, mut of_gateway) = (Vec::new(), Vec::new());
        loop {
            let mut progress = false;
            while let Some(message) = self.agent.next_message() {
                let mut decoder = Decoder::default();
                decoder.push(&encode(&message));
                self.gateway.receive(decoder.take().unwrap().unwrap(), self.now).unwrap();
                progress = true;
            }
            while let Some(event) = self.gateway.next_event() {
                match event {
                    GatewayEvent::Hello(_) => self.gateway.welcome(admitted(2, 1), self.now),
                    GatewayEvent::Drain => self.gateway.drained(),
                    GatewayEvent::Routes(_) | GatewayEvent::Cluster(_) => {}
                }
                of_gateway.push(event);
                progress = true;
            }
            while let Some(message) = self.gateway.next_message() {
                let mut decoder = Decoder::default();
                decoder.push(&encode(&message));
                self.agent.receive(decoder.take().unwrap().unwrap(), self.now).unwrap();
                progress = true;
            }
            while let Some(event) = self.agent.next_event() {
                of_agent.push(event);
                progress = true;
            }
            if !progress {
                return (of_agent, of_gateway);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.agent.tick(self.now).unwrap();
        self.gateway.tick(self.now).unwrap();
    }
}

const fn versions(lowest: u16, highest: u16) -> Versions {
    Versions { lowest, highest }
}

#[test]
fn neighbouring_versions_work_together_and_strangers_are_told_so() {
    let cases = [
        (versions(1, 1), versions(1, 1), Some(1)),
        (versions(1, 2), versions(1, 1), Some(1)),
        (versions(1, 2), versions(2, 3), Some(2)),
        (versions(2, 3), versions(1, 2), Some(2)),
        (versions(1, 1), versions(2, 3), None),
        (versions(3, 4), versions(1, 2), None),
    ];
    for (agent, gateway, spoken) in cases {
        let mut pair = Pair::new(agent, gateway, &routes(1, &["a.example"]));

        let (of_agent, _) = pair.settle();

        match (&of_agent[0], spoken) {
            (AgentEvent::Welcome(welcome), Some(version)) => {
                assert_eq!(welcome.version, version);
                assert_eq!(welcome.capabilities, [ROUTES, DRAIN].map(str::to_owned).into());
            }
            (AgentEvent::Refused(refused), None) => {
                assert!(refused.reason.contains("versions"), "{refused:?}");
                assert!(refused.retry_after_ms > 0);
            }
            (event, spoken) => panic!("{event:?} {spoken:?}"),
        }
    }
}

#[test]
fn an_agent_of_a_gateway_without_capabilities_sends_nothing_that_it_would_not_know() {
    let now = Instant::now();
    let mut agent =
        AgentControl::new(hello(versions(1, 1), Purpose::Control), routes(1, &["a.example"]), now);
    agent.next_message();
    let welcome = Welcome {
        version: 1,
        capabilities: Default::default(),
        carriers: 1,
        core: 0,
        replica: String::new(),
        heartbeat_ms: 30_000,
        proof_key: None,
    };
    agent.receive(ToAgent::Welcome(welcome), now).unwrap();
    agent.set_routes(routes(2, &["b.example"]));

    assert!(!agent.drain());

    assert_eq!(agent.next_message(), None);
}

#[test]
fn routes_are_registered_and_a_gateway_that_lost_them_gets_them_again() {
    let held = routes(1, &["a.example"]);
    let mut pair = Pair::new(versions(1, 1), versions(1, 1), &held);
    let (of_agent, of_gateway) = pair.settle();
    assert!(of_agent.contains(&AgentEvent::RoutesHeld(held.id())));
    assert!(of_gateway.contains(&GatewayEvent::Routes(RouteSet::clone(&held))));
    let changed = routes(2, &["a.example", "b.example"]);

    pair.agent.set_routes(Arc::clone(&changed));
    let (_, of_gateway) = pair.settle();
    assert_eq!(of_gateway, [GatewayEvent::Routes(RouteSet::clone(&changed))]);
    pair.pass(HEARTBEAT);
    assert_eq!(pair.settle().1, [], "both say the same: nothing is sent again");

    pair.gateway.held = RoutesId::default();
    pair.pass(HEARTBEAT);
    assert_eq!(pair.settle().1, [GatewayEvent::Routes(RouteSet::clone(&changed))]);
}

#[test]
fn an_agent_that_drains_is_told_when_no_new_stream_can_come() {
    let mut pair = Pair::new(versions(1, 1), versions(1, 1), &routes(1, &[]));
    pair.settle();

    assert!(pair.agent.drain());
    assert!(pair.agent.drain(), "a second time changes nothing");

    let (of_agent, of_gateway) = pair.settle();
    assert_eq!(of_gateway, [GatewayEvent::Drain]);
    assert_eq!(of_agent, [AgentEvent::Drained]);
}

#[test]
fn a_gateway_that_drains_names_places_to_go_to() {
    let mut pair = Pair::new(versions(1, 1), versions(1, 1), &routes(1, &[]));
    pair.settle();

    pair.gateway.drain(Duration::from_secs(3), vec!["tls://other:443".to_owned()]);

    let drain = Drain { after_ms: 3_000, alternates: vec!["tls://other:443".to_owned()] };
    assert_eq!(pair.settle().0, [AgentEvent::Drain(drain)]);
}

#[test]
fn an_agent_that_comes_while_its_gateway_drains_is_asked_to_leave_once_it_is_welcome() {
    let mut pair = Pair::new(versions(1, 1), versions(1, 1), &routes(1, &[]));
    pair.gateway.drain(Duration::from_secs(1), Vec::new());

    let (of_agent, _) = pair.settle();

    assert!(matches!(of_agent[0], AgentEvent::Welcome(_)), "{of_agent:?}");
    let drain = AgentEvent::Drain(Drain { after_ms: 1_000, alternates: Vec::new() });
    assert!(of_agent.contains(&drain), "{of_agent:?}");
}

#[test]
fn a_data_carrier_says_nothing_of_routes() {
    let now = Instant::now();
    let held = routes(1, &["a.example"]);
    let mut pair = Pair {
        agent: AgentControl::new(hello(versions(1, 1), Purpose::Data), held, now),
        gateway: GatewayControl::new(versions(1, 1), now),
        now,
    };
    pair.settle();

    pair.pass(HEARTBEAT);

    assert_eq!(pair.settle(), (Vec::new(), Vec::new()));
}

#[test]
fn silence_ends_a_carrier_on_both_sides() {
    let mut pair = Pair::new(versions(1, 1), versions(1, 1), &routes(1, &[]));
    pair.settle();
    for _ in 0..UNANSWERED {
        pair.now += HEARTBEAT;
        pair.agent.tick(pair.now).unwrap();
        assert!(pair.agent.next_message().is_some());
        pair.gateway.tick(pair.now).unwrap();
    }

    pair.now += HEARTBEAT;

    assert_eq!(pair.agent.tick(pair.now), Err(Violation::Silent("heartbeat_ack")));
    assert_eq!(pair.gateway.tick(pair.now), Err(Violation::Silent("heartbeat")));
    let late = pair.now + FIRST_MESSAGE;
    let mut mute = GatewayControl::new(versions(1, 1), pair.now);
    assert_eq!(mute.tick(late), Err(Violation::Silent("hello")));
}

#[test]
fn an_unknown_message_is_skipped() {
    let mut decoder = Decoder::default();
    decoder.push(&encode(&serde_json::json!({"type": "weather", "sun": true})));

    assert_eq!(decoder.take::<ToGateway>().unwrap(), Some(ToGateway::Unknown));
}

#[test]
fn a_message_that_is_too_long_is_refused_before_it_is_there() {
    let mut decoder = Decoder::default();
    decoder.push(&u32::MAX.to_be_bytes());

    assert!(matches!(decoder.take::<ToGateway>(), Err(BadMessage::TooLong(_))));
}

#[test]
fn before_it_is_accepted_an_end_may_say_little_and_afterwards_only_what_is_announced() {
    let mut decoder = Decoder::default();
    decoder.push(&(SHORT as u32 + 1).to_be_bytes());

    assert!(matches!(decoder.take::<ToGateway>(), Err(BadMessage::TooLong(_))));
    decoder.allow(LONG);
    assert_eq!(decoder.announced().unwrap(), Some(SHORT + 1));
}

#[test]
fn verdicts_arrive_and_name_no_more_rejected_routes_than_may_wait() {
    let now = Instant::now();
    let mut gateway = GatewayControl::new(Versions::OURS, now);
    let mut hello = hello(Versions::OURS, Purpose::Control);
    hello.capabilities.insert(VERDICTS.to_owned());
    gateway.receive(ToGateway::Hello(hello), now).unwrap();
    gateway.welcome(admitted(1, 0), now);
    while gateway.next_message().is_some() {}
    let one = Rejected { host: "a.example".to_owned(), path: "/".repeat(300), reason: "x".into() };

    gateway.judge(Verdicts { revision: 7, served: 3, rejected: vec![one.clone(); REJECTED] });

    let message = encode(&gateway.next_message().unwrap());
    assert!(message.len() < 40 * 1024, "{}", message.len());
    let mut decoder = Decoder::default();
    decoder.allow(LONG);
    decoder.push(&message);
    match decoder.take().unwrap() {
        Some(ToAgent::Verdicts(Verdicts { revision: 7, served: 3, rejected })) => {
            assert!(rejected.len() > 50 && rejected.iter().all(|other| *other == one));
        }
        other => panic!("{other:?}"),
    }
}

// S3.52 S3.55+
#[test]
fn the_state_of_a_cluster_goes_with_every_heartbeat_and_at_once_when_it_changes() {
    let held = routes(1, &["a.example"]);
    let mut pair = Pair::new(Versions::OURS, Versions::OURS, &held);
    let private = ClusterState { is_private: true, gateway_routes: 5, ..ClusterState::default() };
    pair.agent.set_metadata(Some(private.clone()));
    let said = |events: Vec<GatewayEvent>| -> Vec<ClusterState> {
        let state = |event| match event {
            GatewayEvent::Cluster(state) => Some(state),
            _ => None,
        };
        events.into_iter().filter_map(state).collect()
    };
    assert_eq!(said(pair.settle().1), std::slice::from_ref(&private));

    let public = ClusterState {
        routing_mode: RoutingMode::Direct,
        public_endpoint: Some("203.0.113.9:443".to_owned()),
        ..private
    };
    pair.agent.set_metadata(Some(public.clone()));
    assert_eq!(said(pair.settle().1), std::slice::from_ref(&public));
    let long = ClusterState { public_endpoint: Some("a".repeat(300)), ..public.clone() };
    pair.agent.set_metadata(Some(long));
    assert_eq!(said(pair.settle().1), [], "an endpoint that is none is not held");
    pair.agent.set_metadata(Some(public));
    pair.settle();

    pair.now += HEARTBEAT;
    pair.agent.tick(pair.now).unwrap();
    let beat = serde_json::to_value(pair.agent.next_message().unwrap()).unwrap();
    assert_eq!(
        beat["metadata"],
        serde_json::json!({"is_private": true, "gateway_routes": 5, "routing_mode": "direct",
            "public_endpoint": "203.0.113.9:443"})
    );
    let fields: Vec<&String> = beat.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["digest", "metadata", "revision", "type"]);
}

#[test]
fn a_long_message_leaves_no_memory_behind() {
    let mut decoder = Decoder::default();
    decoder.allow(LONG);
    let long = encode(&serde_json::json!({"type": "weather", "sun": "x".repeat(LONG - 100)}));
    decoder.push(&long);
    decoder.push(&encode(&ToGateway::Heartbeat(Heartbeat::default())));

    assert_eq!(decoder.take::<ToGateway>().unwrap(), Some(ToGateway::Unknown));

    assert!(decoder.capacity() < 1024, "{}", decoder.capacity());
    let next = decoder.take::<ToGateway>().unwrap();
    assert_eq!(next, Some(ToGateway::Heartbeat(Heartbeat::default())));
}

#[test]
fn routes_beyond_the_bounds_are_refused_while_they_are_read() {
    let route =
        |host: &str, path: &str| serde_json::json!({"host": host, "path": path, "target": "a:1"});
    let set = |routes: Vec<serde_json::Value>| {
        let mut decoder = Decoder::default();
        decoder.allow(LONG);
        decoder
            .push(&encode(&serde_json::json!({"type": "routes", "revision": 1, "routes": routes})));
        decoder.take::<ToGateway>().map(|message| message.is_some())
    };

    assert!(set(vec![route("a", "/"); 10_000]).unwrap());
    assert!(set(vec![route("a", "/"); 10_001]).is_err());
    assert!(set(vec![route(&"a".repeat(256), "/")]).is_err());
    assert!(set(vec![route("a", &format!("/{}", "a".repeat(4_096)))]).is_err());
}

fn to_gateway() -> impl Strategy<Value = ToGateway> {
    let purpose = prop_oneof![Just(Purpose::Control), Just(Purpose::Data)];
    prop_oneof![
        (0u16..4, 0u16..4, purpose).prop_map(|(lowest, highest, purpose)| ToGateway::Hello(hello(
            versions(lowest, highest),
            purpose
        ))),
        (0u64..4).prop_map(|revision| ToGateway::Routes(RouteSet::clone(&routes(
            revision,
            &["a.example"]
        )))),
        Just(ToGateway::Heartbeat(Heartbeat::default())),
        Just(ToGateway::Drain(Drain::default())),
        Just(ToGateway::Unknown),
    ]
}

fn to_agent() -> impl Strategy<Value = ToAgent> {
    prop_oneof![
        (0u16..4, any::<bool>()).prop_map(|(version, strange)| ToAgent::Welcome(Welcome {
            version,
            capabilities: [if strange { "strange" } else { DRAIN }.to_owned()].into(),
            carriers: 1,
            core: 0,
            replica: String::new(),
            heartbeat_ms: 0,
            proof_key: None,
        })),
        Just(ToAgent::Refused(Refused { reason: String::new(), retry_after_ms: 0 })),
        Just(ToAgent::RoutesKnown(RoutesId::default())),
        Just(ToAgent::HeartbeatAck(RoutesId::default())),
        Just(ToAgent::Drain(Drain::default())),
        Just(ToAgent::Drained),
        Just(ToAgent::Unknown),
    ]
}

proptest! {
    /// Whatever an agent sends: a gateway serves only one that it welcomed, answers one welcome at most, and nothing that was not agreed is believed.
    #[test]
    fn a_hostile_agent_gets_no_further_than_the_protocol(
        messages in proptest::collection::vec((to_gateway(), 0u64..40), 0..24),
        welcomes in any::<bool>(),
    ) {
        let mut now = Instant::now();
        let mut gateway = GatewayControl::new(versions(1, 2), now);
        let (mut welcomed, mut hellos) = (0, 0);
        for (message, seconds) in messages {
            now += Duration::from_secs(seconds);
            if gateway.receive(message, now).is_err() || gateway.tick(now).is_err() {
                break;
            }
            while let Some(event) = gateway.next_event() {
                match event {
                    GatewayEvent::Hello(hello) => {
                        hellos += 1;
                        prop_assert!(versions(1, 2).common(hello.versions).is_some());
                        if welcomes { gateway.welcome(admitted(1, 0), now) } else { gateway.refuse(String::new(), Duration::ZERO) }
                    }
                    GatewayEvent::Routes(_) | GatewayEvent::Cluster(_) | GatewayEvent::Drain => prop_assert!(welcomed == 1),
                }
            }
            while let Some(message) = gateway.next_message() {
                if let ToAgent::Welcome(welcome) = message {
                    welcomed += 1;
                    prop_assert!((1..=2).contains(&welcome.version));
                }
            }
            prop_assert!(hellos <= 1 && welcomed <= 1);
        }
    }

    /// Whatever a gateway sends: an agent opens for a version and capabilities that it offered, once.
    #[test]
    fn a_hostile_gateway_gets_no_further_than_the_protocol(
        messages in proptest::collection::vec((to_agent(), 0u64..40), 0..24),
    ) {
        let mut now = Instant::now();
        let mut agent = AgentControl::new(hello(versions(1, 2), Purpose::Data), routes(1, &["a"]), now);
        let (mut open, mut over) = (0, false);
        for (message, seconds) in messages {
            now += Duration::from_secs(seconds);
            if agent.receive(message, now).is_err() || agent.tick(now).is_err() {
                break;
            }
            prop_assert!(!over, "nothing is believed after the end");
            while let Some(event) = agent.next_event() {
                match event {
                    AgentEvent::Welcome(welcome) => {
                        open += 1;
                        prop_assert!((1..=2).contains(&welcome.version));
                        prop_assert!(!welcome.capabilities.contains("strange"));
                    }
                    AgentEvent::Refused(_) => { prop_assert!(open == 0); over = true; }
                    AgentEvent::Drained => prop_assert!(false, "it never drained"),
                    AgentEvent::RoutesHeld(_) | AgentEvent::Verdicts(_) | AgentEvent::Drain(_) => {
                        prop_assert!(open == 1);
                    }
                }
            }
            while let Some(message) = agent.next_message() {
                prop_assert!(!matches!(message, ToGateway::Routes(_)), "a data carrier has no routes");
            }
            prop_assert!(open <= 1);
        }
    }

    /// However the bytes are cut, the same messages come out.
    #[test]
    fn messages_come_whole_however_they_are_cut(
        messages in proptest::collection::vec(to_gateway(), 0..8),
        cut in 1usize..40,
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| encode(message).to_vec()).collect();
        let mut decoder = Decoder::default();
        let mut read = Vec::new();
        for piece in bytes.chunks(cut) {
            decoder.push(piece);
            while let Some(message) = decoder.take::<ToGateway>().unwrap() {
                read.push(message);
            }
        }
        prop_assert_eq!(read, messages);
    }

    /// Bytes of anybody never end in a panic.
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.take::<ToAgent>() {}
    }
}
