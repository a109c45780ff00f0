//! Requests and responses: bodies, trailers, heads, and whose turn it is to send.

use super::*;

// RFC 9113 section 8.1.1.
#[test]
fn a_body_has_its_declared_length() {
    let length = [("content-length", "5")];
    let trailers = frame(kind::HEADERS, ENDS, 1, &header_block(&[("x", "y")]));
    for (frames, sound) in [
        (vec![frame(kind::DATA, 1, 1, b"hello")], true),
        (vec![frame(kind::DATA, 0, 1, b"hello"), frame(kind::DATA, 1, 1, b"")], true),
        (vec![frame(kind::DATA, 0, 1, b"hello"), trailers.clone()], true),
        (vec![frame(kind::DATA, 1, 1, b"hell")], false),
        (vec![frame(kind::DATA, 0, 1, b"hello!")], false),
        (vec![frame(kind::DATA, 0, 1, b"hell"), trailers], false),
    ] {
        let mut peer = Peer::new();
        let at = peer.open(1, flag::END_HEADERS, &length);
        peer.send(&frames.concat()).unwrap();

        let resets = peer.resets();
        assert_eq!(resets.is_empty(), sound, "{frames:x?}");
        if !sound {
            assert_eq!(resets, [(1, code::PROTOCOL_ERROR)]);
            let read = peer.read(at).and_then(|_| peer.read(at));
            assert_eq!(read.err(), Some("body differs from its declared length"));
        }
    }
}

// RFC 9113 section 8.1.
#[test]
fn trailers_end_a_request_and_are_taken_after_its_data() {
    let trailers =
        |flags, fields: &[(&str, &str)]| frame(kind::HEADERS, flags, 1, &header_block(fields));
    let mut peer = Peer::new();
    let at = peer.open(1, flag::END_HEADERS, &[]);
    peer.send(
        &[frame(kind::DATA, 0, 1, b"hi"), trailers(ENDS, &[("x", "y"), ("via", "z")])].concat(),
    )
    .unwrap();

    assert!(!peer.session.is_drained(at));
    assert_eq!(peer.read(at).unwrap().1, b"hi");
    let taken = peer.session.take(at, &mut Vec::new());
    let Taken::End(Some(fields)) = taken else { panic!("no trailers") };
    let names: Vec<_> = fields.iter().map(|field| field.name).collect();
    assert_eq!(names, [b"x"]);

    for (flags, fields) in [
        (flag::END_HEADERS, [("x", "y")]),
        (ENDS, [(":path", "/")]),
        (ENDS, [("connection", "close")]),
        (ENDS, [("x", " y")]),
        (ENDS, [("X", "y")]),
    ] {
        let mut peer = Peer::new();
        peer.open(1, flag::END_HEADERS, &[]);
        peer.send(&trailers(flags, &fields)).unwrap();
        assert_eq!(peer.resets(), [(1, code::PROTOCOL_ERROR)], "{fields:?}");
    }
}

// RFC 9113 section 8.2.3 and 8.3.1; RFC 8441.
#[test]
fn heads_become_requests() {
    let mut peer = Peer::new();
    peer.rules.connect = true;
    let post = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/a?b=c"),
        ("cookie", "a=1"),
        ("host", "A.example:8443"),
        ("content-length", "3"),
        ("cookie", "b=2"),
        ("te", "trailers"),
        ("expect", "100-continue"),
        ("x_y", "z"),
        ("x_forwarded_for", "evil"),
    ];
    let websocket = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/ws"),
    ];
    let tunnel = [(":method", "CONNECT"), (":authority", "[::1]:443")];
    let mut begun = |id, flags, fields: &[(&str, &str)]| {
        let events = peer.send(&frame(kind::HEADERS, flags, id, &header_block(fields))).unwrap();
        match events.into_iter().next() {
            Some(Event::Begun(Begun { request, fault: None, .. })) => request,
            _ => panic!("{fields:?}"),
        }
    };

    let request = begun(1, flag::END_HEADERS, &post);
    let fields = &request.fields;
    assert_eq!((request.method(), request.path(), request.host()), ("POST", "/a", "A.example"));
    assert_eq!((fields.text(request.query), request.framing), ("?b=c", Framing::Length(3)));
    assert!(request.te_trailers && request.expects_continue && request.scheme.is_empty());
    let named: Vec<_> = fields.iter().map(|field| (field.name, field.value)).collect();
    assert_eq!(named, [(&b"x_y"[..], &b"z"[..]), (b"cookie", b"a=1; b=2")]);

    let request = begun(3, flag::END_HEADERS, &websocket);
    assert!(request.upgrade.is_extended() && request.framing == Framing::None);
    assert_eq!((request.path(), fields_of(&request, request.scheme)), ("/ws", "http".to_owned()));

    let request = begun(5, flag::END_HEADERS, &tunnel);
    assert_eq!((request.host(), request.framing), ("::1", Framing::Chunked));
}

fn fields_of(request: &PooledRequest, span: crate::http::fields::Span) -> String {
    request.fields.text(span).to_owned()
}

type Head = Vec<(&'static str, &'static str)>;

/// Returns the fields of a request, and more.
fn with(more: &[(&'static str, &'static str)]) -> Head {
    [get(), more.to_vec()].concat()
}

/// Returns the fields of a request without one of them.
fn without(name: &str) -> Head {
    get().into_iter().filter(|field| field.0 != name).collect()
}

/// Returns the fields of a request, of which one has another value.
fn instead(name: &str, value: &'static str) -> Head {
    let other = |field: (&'static str, _)| if field.0 == name { (field.0, value) } else { field };
    get().into_iter().map(other).collect()
}

#[test]
fn what_is_malformed_resets_its_stream() {
    let cases = [
        without(":method"),
        without(":scheme"),
        without(":path"),
        instead(":path", ""),
        instead(":path", "x"),
        instead(":path", "/#x"),
        instead(":path", "/<x>"),
        instead(":scheme", "a:b"),
        instead(":authority", ""),
        instead(":method", "GE T"),
        with(&[(":path", "/")]),
        with(&[("x", "y"), (":protocol", "websocket")]),
        with(&[(":status", "200")]),
        with(&[("connection", "close")]),
        with(&[("te", "gzip")]),
        with(&[("X", "y")]),
        with(&[("x", "a\nb")]),
        with(&[("content-length", "3")]),
        vec![(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")],
        [vec![(":protocol", "websocket")], get()].concat(),
    ];
    for fields in cases {
        let mut peer = Peer::new();
        let events = peer.send(&frame(kind::HEADERS, ENDS, 1, &header_block(&fields))).unwrap();

        assert!(matches!(events[..], [Event::Rejected(Fault::Malformed(_))]), "{fields:?}");
        assert_eq!(peer.resets(), [(1, code::PROTOCOL_ERROR)], "{fields:?}");
    }
}

#[test]
fn what_is_refused_is_answered() {
    let long = "x".repeat(LIST as usize);
    let malformed = Fault::Malformed;
    let cases = [
        (vec![(":method", "CONNECT"), (":authority", "a:1")], Fault::Connect),
        (with(&[("host", "b")]), malformed("Host differs from :authority")),
        (with(&[("host", "a"), ("host", "a")]), malformed("repeated Host")),
        (without(":authority"), malformed("missing or invalid :authority")),
        (with(&[("x", " y")]), malformed("white space around field value")),
        (with(&[("content-length", "+0")]), malformed("invalid Content-Length")),
        (with(&[("content_length", "0")]), malformed("underscore in a framing field's name")),
        (with(&[("expect", "x")]), Fault::NotSupported("expectation")),
        (instead(":path", "*"), malformed("asterisk target without OPTIONS")),
        ([get(), vec![("x", long.as_str())]].concat(), Fault::TooLarge),
        ([get(), vec![("x", "y"); 21]].concat(), Fault::TooLarge),
    ];
    for (fields, expected) in cases {
        let mut peer = Peer::new();
        let events = peer.send(&frame(kind::HEADERS, ENDS, 1, &header_block(&fields))).unwrap();

        let Some(Event::Begun(begun)) = events.into_iter().next() else { panic!("{fields:?}") };
        assert_eq!(begun.fault, Some(expected), "{fields:?}");
        assert!(peer.sent().is_empty());
    }
}

// RFC 9113 section 8.1: interim responses, the final one, data, trailers.
#[test]
fn responses_leave_in_order_and_end_once() {
    let mut peer = Peer::new();
    let at = peer.open(1, ENDS, &[]);
    let early = Response { status: 103, ..Response::default() };
    peer.session.head(at, &early, None, false).unwrap();
    peer.respond(at);
    assert_eq!(peer.write(at, b"hello"), 5);
    let mut trailers = Fields::default();
    trailers.append(b"x-sum", b"1");
    peer.session.finish(at, Some(&trailers)).unwrap();

    assert!(peer.session.finish(at, None).is_err());
    peer.session.close(at, 0);

    let sent: Vec<_> = peer.sent().iter().map(|frame| (frame.kind, frame.flags)).collect();
    assert_eq!(sent, [(kind::HEADERS, 4), (kind::HEADERS, 4), (kind::DATA, 0), (kind::HEADERS, 5)]);
}

#[test]
fn a_response_names_one_length_and_a_tunnel_is_opened_with_200() {
    let mut peer = Peer::new();
    let (one, two) = (peer.open(1, ENDS, &[]), peer.open(3, ENDS, &[]));
    let mut response = Response { status: 201, ..Response::default() };
    response.fields.append(b"Content-Length", b"99");
    response.fields.append(b"Sec-WebSocket-Accept", b"x");
    peer.session.head(one, &response, Some(7), false).unwrap();
    response = Response { status: 101, ..response };
    response.fields.remove(b"content-length");
    peer.session.head(two, &response, None, false).unwrap();

    let mut decoder = Decoder::default();
    let heads = peer.sent().into_iter().map(|head| {
        let mut fields = Vec::new();
        let mut add = |field: &[u8]| fields.push(String::from_utf8(field.to_vec()).unwrap());
        decoder
            .read(&head.payload, |field| [field.name, field.value].into_iter().for_each(&mut add))
            .unwrap();
        fields.join(" ")
    });

    let expected = [":status 201 sec-websocket-accept x content-length 7", ":status 200"];
    assert_eq!(heads.collect::<Vec<_>>(), expected);
}

#[test]
fn streams_that_wait_have_their_turns_one_after_the_other() {
    let mut peer = Peer::new();
    let window = [settings(setting::INITIAL_WINDOW_SIZE, 1 << 24), update(0, 1 << 24)];
    peer.send(&window.concat()).unwrap();
    let slots = [1, 3, 5].map(|id| peer.open(id, ENDS, &[]));
    let data = vec![0; 1 << 20];
    for at in slots {
        peer.respond(at);
    }
    let mut woken = VecDeque::from(slots);
    let mut turns = Vec::new();

    while turns.len() < 12 {
        peer.session.take_woken(&mut woken);
        let Some(at) = woken.pop_front() else {
            peer.sent();
            peer.session.grant(None);
            continue;
        };
        peer.session.enter(at);
        if peer.write(at, &data) > 0 {
            turns.push(at);
        }
        peer.session.grant(Some(at));
    }

    for at in slots {
        let count = turns.iter().filter(|turn| **turn == at).count();
        assert!((3..=5).contains(&count), "{turns:?}");
    }
}

#[test]
fn memory_of_data_that_is_not_read_is_counted_and_given_back() {
    let mut peer = Peer::new();
    let at = peer.open(1, flag::END_HEADERS, &[]);
    peer.send(&frame(kind::DATA, 0, 1, &[0; LARGEST]).repeat(4)).unwrap();
    peer.session.settle().unwrap();
    assert!(peer.memory.used() >= 48 * 1024, "{}", peer.memory.used());

    peer.session.close(at, 0);
    peer.session.settle().unwrap();
    drop(peer.session);

    assert_eq!(peer.memory.used(), 0);
}

#[test]
fn every_kind_of_frame_has_its_budget() {
    let settings = frame(kind::SETTINGS, 0, 0, &[]).repeat(50);

    assert_eq!(Peer::new().send(&settings).err(), Some((code::ENHANCE_YOUR_CALM, "flood")));
}
