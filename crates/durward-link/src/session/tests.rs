//! Both ends of a carrier over memory.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::agent::{Declined, Opening, Setup};
use super::gateway::{Admission, Carrier, OpenError};
use super::*;
use crate::bounds::Bounds;
use crate::control::{
    AgentEvent, ClusterState, DRAIN, Hello, Purpose, ROUTES, Refused, VERDICTS, Verdicts, Versions,
};
use crate::route::{Route, RouteSet};
use crate::target::{Kind, Target};

/// Generous bound of waits.
const PATIENCE: Duration = Duration::from_secs(60);

fn hello(purpose: Purpose) -> Hello {
    Hello {
        versions: Versions::OURS,
        capabilities: [ROUTES, VERDICTS, DRAIN].map(str::to_owned).into(),
        link: "onprem".to_owned(),
        instance: "one".to_owned(),
        purpose,
        agent: String::new(),
        token: None,
    }
}

fn target() -> Target {
    "app:80".parse().unwrap()
}

/// Gateway that admits every agent of the link `onprem`.
struct Gateway {
    carriers: mpsc::UnboundedSender<Arc<Carrier>>,
    routes: mpsc::UnboundedSender<RouteSet>,
    closed: Rc<RefCell<usize>>,
    waiting: Option<RouteSet>,
    /// Most bytes held for long messages; more are refused than `room`.
    held: Rc<RefCell<usize>>,
    room: usize,
}

impl gateway::Host for Gateway {
    fn admit(&mut self, hello: &Hello) -> Result<Admission, Refused> {
        if hello.link != "onprem" {
            return Err(Refused { reason: "no such link".to_owned(), retry_after_ms: 7_000 });
        }
        Ok(Admission { carriers: 3, core: 0, replica: "gateway".to_owned(), proof_key: None })
    }

    fn opened(&mut self, carrier: &Arc<Carrier>) {
        self.carriers.send(Arc::clone(carrier)).unwrap();
    }

    fn hold(&mut self, bytes: usize) -> bool {
        let mut held = self.held.borrow_mut();
        *held = bytes.max(*held);
        bytes <= self.room
    }

    fn routes(&mut self, routes: RouteSet) {
        self.waiting = Some(routes.clone());
        self.routes.send(routes).unwrap();
    }

    fn cluster(&mut self, _: ClusterState) {}

    async fn registered(&mut self) -> Verdicts {
        let Some(routes) = self.waiting.take() else { return std::future::pending().await };
        let served = u32::try_from(routes.routes().len()).unwrap();
        Verdicts { revision: routes.revision, served, rejected: Vec::new() }
    }

    fn closed(&mut self, _: &Arc<Carrier>) {
        *self.closed.borrow_mut() += 1;
    }
}

impl Gateway {
    fn new(
        carriers: mpsc::UnboundedSender<Arc<Carrier>>,
        routes: mpsc::UnboundedSender<RouteSet>,
    ) -> Self {
        let (closed, held) = (Rc::default(), Rc::default());
        Self { carriers, routes, closed, waiting: None, held, room: 64 * 1024 * 1024 }
    }
}

/// Agent that hands streams to the test.
struct Agent {
    streams: mpsc::UnboundedSender<Opening>,
    events: Mutex<Vec<AgentEvent>>,
}

impl agent::Host for Agent {
    fn stream(&self, opening: Opening) {
        self.streams.send(opening).unwrap();
    }

    fn event(&self, event: &AgentEvent) {
        self.events.lock().unwrap().push(event.clone());
    }
}

/// Both ends of one carrier, served by tasks.
struct Pair {
    carriers: mpsc::UnboundedReceiver<Arc<Carrier>>,
    routes: mpsc::UnboundedReceiver<RouteSet>,
    streams: mpsc::UnboundedReceiver<Opening>,
    set_routes: watch::Sender<Arc<RouteSet>>,
    agent: Arc<Agent>,
    drain_agent: CancellationToken,
    drain_gateway: CancellationToken,
    agent_ended: tokio::task::JoinHandle<Result<(), SessionError>>,
    gateway_ended: tokio::task::JoinHandle<Result<(), SessionError>>,
}

impl Pair {
    fn start(hello: Hello, bounds: Bounds) -> Self {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        Self::over(hello, bounds, ours, theirs)
    }

    fn over(hello: Hello, bounds: Bounds, ours: DuplexStream, theirs: DuplexStream) -> Self {
        let (carriers_in, carriers) = mpsc::unbounded_channel();
        let (routes_in, routes) = mpsc::unbounded_channel();
        let (streams_in, streams) = mpsc::unbounded_channel();
        let (set_routes, held) = watch::channel(Arc::default());
        let agent = Arc::new(Agent { streams: streams_in, events: Mutex::default() });
        let (drain_agent, drain_gateway) = (CancellationToken::new(), CancellationToken::new());
        let cluster = watch::channel(None).1;
        let setup = Setup { bounds, hello, routes: held, cluster, drain: drain_agent.clone() };
        let serving = Arc::clone(&agent);
        let agent_ended =
            tokio::task::spawn_local(async move { agent::serve(theirs, setup, &*serving).await });
        let mut host = Gateway::new(carriers_in, routes_in);
        let asked = drain_gateway.clone();
        let gateway_ended = tokio::task::spawn_local(async move {
            let drain = async {
                asked.cancelled().await;
                (Duration::from_secs(1), vec!["tls://other:443".to_owned()])
            };
            gateway::serve(ours, bounds, &mut host, drain).await
        });
        Self {
            carriers,
            routes,
            streams,
            set_routes,
            agent,
            drain_agent,
            drain_gateway,
            agent_ended,
            gateway_ended,
        }
    }

    async fn carrier(&mut self) -> Arc<Carrier> {
        tokio::time::timeout(PATIENCE, self.carriers.recv()).await.unwrap().unwrap()
    }

    /// Opens a stream; returns the gateway's and the agent's end.
    async fn stream(&mut self, carrier: &Arc<Carrier>) -> (LinkStream, LinkStream) {
        let target = target();
        let (ours, theirs) = tokio::join!(carrier.open(&target, Kind::Http, None), async {
            self.streams.recv().await.unwrap().accept().unwrap()
        });
        (ours.unwrap(), theirs)
    }
}

fn test(body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, body);
}

#[test]
fn bytes_go_both_ways_and_each_direction_ends_by_itself() {
    test(async {
        let mut pair = Pair::start(hello(Purpose::Data), Bounds::default());
        let carrier = pair.carrier().await;
        let (mut ours, mut theirs) = pair.stream(&carrier).await;

        ours.write_all(b"question").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut question = String::new();
        theirs.read_to_string(&mut question).await.unwrap();
        theirs.write_all(b"answer").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut answer = String::new();
        ours.read_to_string(&mut answer).await.unwrap();

        assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
        assert_eq!(carrier.streams(), 1);
        drop((ours, theirs));
        assert_eq!(carrier.streams(), 0);
    });
}

#[test]
fn the_target_and_kind_arrive_and_a_refusal_says_why() {
    test(async {
        let mut pair = Pair::start(hello(Purpose::Data), Bounds::default());
        let carrier = pair.carrier().await;
        let target: Target = "[fd00::1]:8080".parse().unwrap();

        let (forbidden, ()) = tokio::join!(carrier.open(&target, Kind::Tcp, None), async {
            let opening = pair.streams.recv().await.unwrap();
            assert_eq!((opening.target(), opening.kind()), (&target, Kind::Tcp));
            opening.decline(&Declined::Forbidden("not registered".to_owned()));
        });
        let (unreachable, ()) = tokio::join!(carrier.open(&target, Kind::Tcp, None), async {
            let opening = pair.streams.recv().await.unwrap();
            opening.decline(&Declined::Unreachable("refused".to_owned()));
        });
        let (dropped, ()) = tokio::join!(carrier.open(&target, Kind::Tcp, None), async {
            drop(pair.streams.recv().await.unwrap());
        });

        assert!(matches!(forbidden, Err(OpenError::Refused(why)) if why == "not registered"));
        assert!(matches!(unreachable, Err(OpenError::Unreachable(why)) if why == "refused"));
        assert!(matches!(dropped, Err(OpenError::Gone)));
        assert_eq!(carrier.streams(), 0);
    });
}

#[test]
fn a_stream_that_breaks_does_not_look_like_one_that_ended() {
    test(async {
        let mut pair = Pair::start(hello(Purpose::Data), Bounds::default());
        let carrier = pair.carrier().await;
        let (mut ours, mut theirs) = pair.stream(&carrier).await;
        theirs.write_all(b"half").await.unwrap();

        drop(theirs);

        let mut read = Vec::new();
        let error = ours.read_to_end(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let (ours, mut theirs) = pair.stream(&carrier).await;
        drop(ours);
        let error = theirs.read_to_end(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}

/// Writes until the stream takes no more.
async fn fill(stream: &mut LinkStream) -> usize {
    let (chunk, mut written) = (vec![0; 64 * 1024], 0);
    loop {
        match tokio::time::timeout(Duration::from_secs(1), stream.write(&chunk)).await {
            Ok(more) => written += more.unwrap(),
            Err(_) => return written,
        }
    }
}

// S3.76+ S3.77
#[test]
fn a_thousand_stalled_streams_freeze_nobody_and_take_bounded_memory() {
    test(async {
        let mut pair = Pair::start(hello(Purpose::Data), Bounds::default());
        let carrier = pair.carrier().await;
        let mut stalled = Vec::new();
        for at in 0..1_000 {
            let (ours, mut theirs) = pair.stream(&carrier).await;
            // Each of the two directions, in turn: nobody reads.
            let written = if at % 2 == 0 {
                fill(&mut theirs).await
            } else {
                let mut ours = ours;
                let written = fill(&mut ours).await;
                stalled.push((ours, theirs));
                assert!(written <= 300 * 1024, "{written}");
                continue;
            };
            assert!(written <= 300 * 1024, "{written}");
            assert!(written >= 256 * 1024, "{written}");
            stalled.push((ours, theirs));
        }

        for _ in 0..10 {
            let (mut ours, mut theirs) = pair.stream(&carrier).await;
            let body = vec![7; 1 << 20];
            let sending = async {
                theirs.write_all(&body).await.unwrap();
                theirs.shutdown().await.unwrap();
            };
            let mut received = Vec::new();
            let flowing = async { tokio::join!(sending, ours.read_to_end(&mut received)) };
            tokio::time::timeout(PATIENCE, flowing).await.unwrap().1.unwrap();
            assert_eq!(received.len(), 1 << 20);
        }
        assert_eq!(carrier.streams(), 1_000);
    });
}

#[test]
fn a_carrier_that_is_full_is_refused_at_once() {
    test(async {
        let mut pair =
            Pair::start(hello(Purpose::Data), Bounds { streams: 2, ..Bounds::default() });
        let carrier = pair.carrier().await;
        let one = pair.stream(&carrier).await;
        let _other = pair.stream(&carrier).await;

        assert!(!carrier.has_room());
        assert!(matches!(carrier.open(&target(), Kind::Http, None).await, Err(OpenError::Gone)));

        drop(one);
        assert!(carrier.has_room());
        pair.stream(&carrier).await;
    });
}

#[test]
fn routes_reach_the_gateway_over_the_control_carrier_as_they_change() {
    test(async {
        let mut pair = Pair::start(hello(Purpose::Control), Bounds::default());
        assert_eq!(pair.routes.recv().await.unwrap(), RouteSet::default());
        let route = Route {
            host: "a.example".to_owned(),
            path: "/".to_owned(),
            exact: false,
            target: target(),
            tunnel_only: true,
            passthrough: false,
            backend_tls: Some("app.example".to_owned()),
            ingress: "shop/a".to_owned(),
        };
        let set = RouteSet::new(1, vec![route]);

        pair.set_routes.send(Arc::new(set.clone())).unwrap();

        assert_eq!(pair.routes.recv().await.unwrap(), set);
        assert!(pair.carriers.try_recv().is_err(), "a control carrier has no streams");
        // What became of them goes back.
        let judged =
            AgentEvent::Verdicts(Verdicts { revision: 1, served: 1, rejected: Vec::new() });
        let until = tokio::time::Instant::now() + PATIENCE;
        while !pair.agent.events.lock().unwrap().contains(&judged) {
            assert!(tokio::time::Instant::now() < until, "no verdict came");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

// S3.85+
#[test]
fn an_agent_that_drains_finishes_its_streams_and_gets_no_new_ones() {
    test(async {
        let mut pair = Pair::start(hello(Purpose::Data), Bounds::default());
        let carrier = pair.carrier().await;
        let (mut ours, mut theirs) = pair.stream(&carrier).await;

        pair.drain_agent.cancel();
        tokio::time::timeout(PATIENCE, async {
            while carrier.is_current() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();

        assert!(matches!(carrier.open(&target(), Kind::Http, None).await, Err(OpenError::Gone)));
        tokio::time::sleep(Duration::from_secs(300)).await;
        theirs.write_all(b"the rest").await.unwrap();
        theirs.shutdown().await.unwrap();
        ours.shutdown().await.unwrap();
        let mut rest = String::new();
        ours.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "the rest");
        drop((ours, theirs));
        tokio::time::timeout(PATIENCE, pair.agent_ended).await.unwrap().unwrap().unwrap();
        tokio::time::timeout(PATIENCE, pair.gateway_ended).await.unwrap().unwrap().unwrap();
        assert!(pair.agent.events.lock().unwrap().contains(&AgentEvent::Drained));
    });
}

#[test]
fn a_gateway_that_drains_is_left_when_the_agent_wants() {
    test(async {
        let mut pair = Pair::start(hello(Purpose::Data), Bounds::default());
        let carrier = pair.carrier().await;

        pair.drain_gateway.cancel();
        let heard = || {
            let events = pair.agent.events.lock().unwrap();
            events.iter().any(
                |event| matches!(event, AgentEvent::Drain(drain) if drain.alternates.len() == 1),
            )
        };
        tokio::time::timeout(PATIENCE, async {
            while !heard() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();

        assert!(carrier.is_current(), "requests under way may still open streams");
        pair.stream(&carrier).await;
        pair.drain_agent.cancel();
        tokio::time::timeout(PATIENCE, pair.gateway_ended).await.unwrap().unwrap().unwrap();
    });
}

#[test]
fn an_agent_that_does_not_leave_gets_no_new_streams_and_its_streams_finish() {
    test(async {
        let mut pair = Pair::start(hello(Purpose::Data), Bounds::default());
        let carrier = pair.carrier().await;
        let (mut ours, mut theirs) = pair.stream(&carrier).await;

        pair.drain_gateway.cancel();
        tokio::time::sleep(Duration::from_secs(60)).await;

        assert!(!carrier.is_current());
        assert!(matches!(carrier.open(&target(), Kind::Http, None).await, Err(OpenError::Gone)));
        theirs.write_all(b"the rest").await.unwrap();
        theirs.shutdown().await.unwrap();
        ours.shutdown().await.unwrap();
        let mut rest = String::new();
        ours.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "the rest");
        drop((ours, theirs));
        tokio::time::timeout(PATIENCE, pair.gateway_ended).await.unwrap().unwrap().unwrap();
    });
}

#[test]
fn a_link_that_is_not_known_is_refused_with_a_reason() {
    test(async {
        let pair = Pair::start(
            Hello { link: "other".to_owned(), ..hello(Purpose::Data) },
            Bounds::default(),
        );

        let ended = tokio::time::timeout(PATIENCE, pair.agent_ended).await.unwrap().unwrap();

        match ended {
            Err(SessionError::Refused(refused)) => {
                assert_eq!(
                    (refused.reason.as_str(), refused.retry_after_ms),
                    ("no such link", 7_000)
                );
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn an_end_that_does_not_answer_is_dead() {
    test(async {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let mut host = Gateway::new(mpsc::unbounded_channel().0, mpsc::unbounded_channel().0);
        let closed = Rc::clone(&host.closed);
        let _silent = theirs;

        let ended =
            gateway::serve(ours, Bounds::default(), &mut host, std::future::pending()).await;

        assert!(matches!(ended, Err(SessionError::Dead | SessionError::Protocol(_))), "{ended:?}");
        assert_eq!(*closed.borrow(), 1);
    });
}

#[test]
fn a_carrier_that_freezes_later_is_given_up_and_its_streams_break() {
    test(async {
        let (ours, between_ours) = tokio::io::duplex(64 * 1024);
        let (between_theirs, theirs) = tokio::io::duplex(64 * 1024);
        let frozen = CancellationToken::new();
        let freezing = frozen.clone();
        tokio::task::spawn_local(async move {
            let (mut one, mut other) = (between_ours, between_theirs);
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut one, &mut other) => {}
                () = freezing.cancelled() => std::future::pending::<()>().await,
            }
        });
        let mut pair = Pair::over(hello(Purpose::Data), Bounds::default(), ours, theirs);
        let carrier = pair.carrier().await;
        let (mut ours, _theirs) = pair.stream(&carrier).await;

        frozen.cancel();

        let ended = tokio::time::timeout(PATIENCE, &mut pair.gateway_ended).await.unwrap().unwrap();
        assert!(matches!(ended, Err(SessionError::Dead)), "{ended:?}");
        assert!(!carrier.is_current());
        assert!(ours.read_u8().await.is_err());
        let ended = tokio::time::timeout(PATIENCE, &mut pair.agent_ended).await.unwrap().unwrap();
        assert!(matches!(ended, Err(SessionError::Dead)), "{ended:?}");
    });
}

mod bulk;
mod hostile;
