//! Ends of a carrier that misbehave, and clients that give up.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use http::Response;

use super::*;
use crate::control::{BadMessage, LONG, Violation, encode};

/// Agent that speaks HTTP/2 by hand.
struct RawAgent {
    send: h2::SendStream<Bytes>,
    receive: h2::RecvStream,
}

impl RawAgent {
    /// Answers the control stream and drives the connection in a task.
    async fn start(io: DuplexStream) -> Self {
        // What it leaves unread must not end its own HTTP/2.
        let mut builder = h2::server::Builder::new();
        let opening = builder.data_frame_budget(usize::MAX).handshake(io);
        let mut connection = opening.await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let send = respond.send_response(Response::new(()), false).unwrap();
        tokio::task::spawn_local(
            async move { while let Some(Ok(_)) = connection.accept().await {} },
        );
        Self { send, receive: request.into_body() }
    }

    async fn say(&mut self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            self.send.reserve_capacity(bytes.len());
            if self.send.capacity() == 0 {
                match poll_fn(|cx| self.send.poll_capacity(cx)).await {
                    Some(Ok(_)) => continue,
                    _ => return,
                }
            }
            let piece = bytes.split_to(self.send.capacity().min(bytes.len()));
            if self.send.send_data(piece, false).is_err() {
                return;
            }
        }
    }

    async fn hello(&mut self, purpose: Purpose) {
        self.say(encode(&crate::control::ToGateway::Hello(hello(purpose)))).await;
        let welcome = self.receive.data().await.unwrap().unwrap();
        assert!(welcome.len() > 4);
    }
}

/// Pair whose carrier takes nothing while the sender holds false.
fn gated() -> (Pair, watch::Sender<bool>) {
    let (ours, mut one) = tokio::io::duplex(64 * 1024);
    let (mut other, theirs) = tokio::io::duplex(64 * 1024);
    let (gate, mut open) = watch::channel(true);
    tokio::task::spawn_local(async move {
        let mut copying = pin!(tokio::io::copy_bidirectional(&mut one, &mut other));
        loop {
            let is_open = *open.borrow_and_update();
            tokio::select! {
                _ = &mut copying, if is_open => return,
                changed = open.changed() => if changed.is_err() { return },
            }
        }
    });
    (Pair::over(hello(Purpose::Data), Bounds::default(), ours, theirs), gate)
}

/// Runs a gateway with `room` for long messages against a raw agent; returns how it ended and the most that it held.
async fn against<F: Future<Output = RawAgent>>(
    room: usize,
    agent: impl FnOnce(RawAgent) -> F,
) -> (Result<(), SessionError>, usize) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut host = Gateway::new(mpsc::unbounded_channel().0, mpsc::unbounded_channel().0);
    host.room = room;
    let held = Rc::clone(&host.held);
    let serving = gateway::serve(ours, Bounds::default(), &mut host, std::future::pending());
    let talking = async {
        // Dropped, it would reset the control stream.
        let _kept = agent(RawAgent::start(theirs).await).await;
        std::future::pending::<()>().await;
    };
    let ended = tokio::time::timeout(PATIENCE * 5, async {
        tokio::select! { ended = serving => ended, () = talking => unreachable!() }
    });
    let ended = ended.await.expect("the gateway ends the carrier");
    let held = *held.borrow();
    (ended, held)
}

#[test]
fn a_long_message_of_an_agent_that_was_not_accepted_ends_the_carrier_unread() {
    test(async {
        let (ended, held) = against(usize::MAX, |mut agent| async move {
            agent.say(Bytes::copy_from_slice(&(LONG as u32).to_be_bytes())).await;
            agent
        })
        .await;

        let too_long = matches!(ended, Err(SessionError::Message(BadMessage::TooLong(_))));
        assert!(too_long && held == 0, "{ended:?} {held}");
    });
}

#[test]
fn a_long_message_on_a_data_carrier_ends_it() {
    test(async {
        let carriers = mpsc::unbounded_channel();
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let mut host = Gateway::new(carriers.0, mpsc::unbounded_channel().0);
        let serving = gateway::serve(ours, Bounds::default(), &mut host, std::future::pending());
        let talking = async {
            let mut agent = RawAgent::start(theirs).await;
            agent.hello(Purpose::Data).await;
            agent.say(Bytes::copy_from_slice(&(LONG as u32).to_be_bytes())).await;
            std::future::pending::<()>().await;
        };

        let ended = tokio::select! { ended = serving => ended, () = talking => unreachable!() };

        assert!(matches!(ended, Err(SessionError::Message(BadMessage::TooLong(_)))), "{ended:?}");
    });
}

#[test]
fn a_long_message_is_held_for_its_tenant_before_it_is_read() {
    test(async {
        let long = |mut agent: RawAgent| async move {
            agent.hello(Purpose::Control).await;
            agent.say(Bytes::copy_from_slice(&(LONG as u32).to_be_bytes())).await;
            agent
        };

        let (refused, asked) = against(LONG - 1, long).await;
        let (silent, held) = against(LONG, long).await;

        assert!(matches!(refused, Err(SessionError::NoMemory)), "{refused:?}");
        assert_eq!((asked, held), (LONG, LONG));
        // It never came: the next heartbeat was missed.
        assert!(matches!(silent, Err(SessionError::Protocol(Violation::Silent(_)))), "{silent:?}");
    });
}

#[test]
fn an_agent_that_does_not_read_its_control_stream_is_ended() {
    test(async {
        let (ended, _) = against(usize::MAX, |mut agent| async move {
            agent.hello(Purpose::Control).await;
            let beat = encode(&crate::control::ToGateway::Heartbeat(Default::default()));
            for _ in 0..20_000 {
                agent.say(beat.clone()).await;
            }
            agent
        })
        .await;

        assert!(matches!(ended, Err(SessionError::ControlEnded)), "{ended:?}");
    });
}

#[test]
fn an_agent_that_never_answers_the_control_stream_is_ended() {
    test(async {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let mut host = Gateway::new(mpsc::unbounded_channel().0, mpsc::unbounded_channel().0);
        // It answers to PING all the while.
        tokio::task::spawn_local(async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            let mut kept = Vec::new();
            while let Some(Ok(asked)) = connection.accept().await {
                kept.push(asked);
            }
        });
        let serving = gateway::serve(ours, Bounds::default(), &mut host, std::future::pending());

        let ended = tokio::time::timeout(PATIENCE, serving).await.expect("it has a deadline");

        assert!(matches!(ended, Err(SessionError::Protocol(Violation::Silent(_)))), "{ended:?}");
    });
}

// S3.77+
#[test]
fn single_bytes_for_a_reader_that_stalls_take_no_more_than_themselves() {
    test(async {
        let mut pair = Pair::start(hello(Purpose::Data), Bounds::default());
        let carrier = pair.carrier().await;
        let (stalled, mut dribbling) = pair.stream(&carrier).await;

        for _ in 0..100_000 {
            dribbling.write_all(b"x").await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;

        let held = stalled.held();
        assert!((100_000..200_000).contains(&held), "{held}");
        let (mut ours, mut theirs) = pair.stream(&carrier).await;
        theirs.write_all(b"others flow").await.unwrap();
        let mut read = [0; 11];
        ours.read_exact(&mut read).await.unwrap();
        drop(dribbling);
        let mut stalled = stalled;
        let mut all = Vec::new();
        assert!(stalled.read_to_end(&mut all).await.is_err());
        assert!(all == vec![b'x'; 100_000]);
    });
}

#[test]
fn a_stream_whose_account_has_no_room_breaks_alone() {
    struct Full;
    impl Account for Full {
        fn hold(&mut self, bytes: usize) -> bool {
            bytes == 0
        }
    }
    test(async {
        let mut pair = Pair::start(hello(Purpose::Data), Bounds::default());
        let carrier = pair.carrier().await;
        let target = target();
        let (ours, theirs) =
            tokio::join!(carrier.open(&target, Kind::Http, Some(Box::new(Full))), async {
                pair.streams.recv().await.unwrap().accept().unwrap()
            });
        let (mut ours, mut theirs) = (ours.unwrap(), theirs);

        let _ = theirs.write_all(&[7; 200_000]).await;
        tokio::time::sleep(Duration::from_millis(10)).await;

        let error = ours.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        assert_eq!(ours.held(), 0);
        drop(ours);
        assert!(theirs.read_u8().await.is_err());
        pair.stream(&carrier).await;
    });
}

#[test]
fn a_writer_of_single_bytes_waits_while_its_carrier_takes_nothing() {
    test(async {
        let (mut pair, gate) = gated();
        let carrier = pair.carrier().await;
        let (mut bulk, _bulk) = pair.stream(&carrier).await;
        let (mut small, _small) = pair.stream(&carrier).await;

        gate.send(false).unwrap();
        fill(&mut bulk).await;
        let mut written = 0;
        while let Ok(one) =
            tokio::time::timeout(Duration::from_millis(100), small.write(b"x")).await
        {
            written += one.unwrap();
        }

        assert!((1..=16).contains(&written), "{written}");
    });
}

// S3.77+
#[test]
fn clients_that_give_up_by_the_thousand_end_nobody_elses_streams() {
    test(async {
        let mut pair = Pair::start(hello(Purpose::Data), Bounds::default());
        let carrier = pair.carrier().await;
        let (mut ours, mut theirs) = pair.stream(&carrier).await;

        for _ in 0..6_000 {
            let (given_up, mut late) = pair.stream(&carrier).await;
            drop(given_up);
            // The agent has not heard of it yet.
            let _ = late.write(b"late").await;
        }

        theirs.write_all(b"still there").await.unwrap();
        let mut read = [0; 11];
        ours.read_exact(&mut read).await.unwrap();
        assert!(carrier.is_current());
    });
}

#[test]
fn streams_that_are_given_up_before_the_agent_saw_them_do_not_end_the_carrier() {
    test(async {
        let (mut pair, gate) = gated();
        let carrier = pair.carrier().await;
        let target = target();
        let settle = || tokio::time::sleep(Duration::from_millis(10));

        gate.send(false).unwrap();
        let mut asking = Vec::new();
        for _ in 0..200 {
            let mut opening = Box::pin(carrier.open(&target, Kind::Http, None));
            poll_fn(|cx| Poll::Ready(opening.as_mut().poll(cx).is_ready())).await;
            asking.push(opening);
        }
        settle().await;
        drop(asking);
        settle().await;
        // The agent reads all of it at once.
        gate.send(true).unwrap();
        settle().await;

        assert!(carrier.is_current());
        while let Ok(opening) = pair.streams.try_recv() {
            drop(opening);
        }
        pair.stream(&carrier).await;
    });
}
