//! Flow control (RFC 9113 sections 5.2 and 6.9).

use super::*;
use crate::http2::inspect::PADDED;

// RFC 9113 sections 5.2 and 6.9.
#[test]
fn the_client_may_send_as_much_as_its_windows_allow() {
    let full = |id| frame(kind::DATA, 0, id, &[0; LARGEST]);
    let mut peer = Peer::new();
    let at = peer.open(1, flag::END_HEADERS, &[]);

    peer.send(&full(1).repeat(4)).unwrap();
    assert!(peer.sent().is_empty());
    peer.send(&frame(kind::DATA, 0, 1, b"x")).unwrap();

    assert_eq!(peer.resets(), [(1, code::FLOW_CONTROL_ERROR)]);
    assert_eq!(peer.read(at).err(), Some("more DATA than the window"));
    peer.session.close(at, 0);
    // What the stream did not take is the connection's again.
    for id in [3, 5, 7, 9] {
        let at = peer.open(id, flag::END_HEADERS, &[]);
        peer.send(&full(id).repeat(4)).unwrap();
        peer.session.close(at, 0);
    }
    let held: Vec<_> = [11, 13, 15, 17].map(|id| peer.open(id, flag::END_HEADERS, &[])).into();
    let ended =
        [11, 13, 15, 17, 19].into_iter().find_map(|id| peer.send(&full(id).repeat(4)).err());
    assert!(ended.is_some(), "five windows of four");
    held.into_iter().for_each(|at| peer.session.close(at, 0));
    drop(peer.session);
    assert_eq!(peer.memory.used(), 0);
}

#[test]
fn windows_are_opened_again_in_halves_and_padding_at_once() {
    let mut peer = Peer::new();
    let at = peer.open(1, flag::END_HEADERS, &[]);
    let (half, window) = (OURS / 2, OURS * WINDOWS);

    for _ in 0..2 {
        peer.send(&frame(kind::DATA, 0, 1, &[1; LARGEST])).unwrap();
    }
    assert!(peer.updates().is_empty());
    let (_, data) = peer.read(at).unwrap();
    assert_eq!((data.len(), peer.updates()), (half as usize, vec![(1, half)]));

    let padded = [&[255][..], &[1; 4], &[0; 255]].concat();
    for _ in 0..window / 2 / 260 {
        peer.send(&frame(kind::DATA, PADDED, 1, &padded)).unwrap();
        assert_eq!(peer.read(at).unwrap().1.len(), 4);
    }
    let updates = peer.updates();
    let of = |stream| updates.iter().filter(|(id, _)| *id == stream).map(|(_, by)| by).sum::<u32>();
    assert!(of(1) >= window / 2 - half && of(0) >= window / 2, "{updates:?}");
}

#[test]
fn we_send_as_much_as_the_clients_windows_allow() {
    let mut peer = Peer::new();
    let (one, two) = (peer.open(1, ENDS, &[]), peer.open(3, ENDS, &[]));
    let data = vec![7; 200_000];
    peer.respond(one);
    peer.respond(two);
    peer.sent();

    let mut sent = 0;
    for at in [one, one] {
        peer.session.enter(at);
        sent += peer.write(at, &data);
        peer.session.grant(Some(at));
        peer.sent();
        peer.session.grant(None);
    }
    assert_eq!(sent, 65_535, "both windows");
    assert_eq!(peer.write(two, &data), 0, "that of the connection is closed");

    peer.send(&update(0, 1_000)).unwrap();
    peer.session.grant(None);
    let mut woken = Vec::new();
    peer.session.take_woken(&mut woken);
    assert!(woken.contains(&two));
    peer.session.enter(two);
    assert_eq!(peer.write(two, &data), 1_000);
    assert_eq!(peer.sent().iter().map(|frame| frame.payload.len()).sum::<usize>(), 1_000);

    peer.session.grant(Some(two));
    peer.send(&[settings(setting::INITIAL_WINDOW_SIZE, 10), update(0, 5_000)].concat()).unwrap();
    assert_eq!(peer.write(two, &data), 0, "the window is negative");
    assert_eq!(peer.write(one, &data), 0);
}

// RFC 9113 section 6.9.1.
#[test]
fn windows_do_not_overflow() {
    let most = 0x7fff_ffff;
    assert_eq!(broken_by(&update(0, most)), code::FLOW_CONTROL_ERROR);
    assert_eq!(broken_by(&update(0, 0)), code::PROTOCOL_ERROR);
    assert_eq!(broken_by(&frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3])), code::FRAME_SIZE_ERROR);
    for (increment, expected) in [(most, code::FLOW_CONTROL_ERROR), (0, code::PROTOCOL_ERROR)] {
        let mut peer = Peer::new();
        peer.open(1, ENDS, &[]);
        peer.send(&update(1, increment)).unwrap();
        assert_eq!(peer.resets(), [(1, expected)]);
    }
    let mut peer = Peer::new();
    peer.open(1, ENDS, &[]);
    peer.send(&update(1, 1)).unwrap();
    let ended = peer.send(&settings(setting::INITIAL_WINDOW_SIZE, most)).err();
    assert_eq!(ended.map(|(code, _)| code), Some(code::FLOW_CONTROL_ERROR));
}

#[test]
fn a_settings_frame_wakes_a_stream_once_however_often_it_changes_the_windows() {
    let mut peer = Peer::new();
    peer.open(1, flag::END_HEADERS, &[]);
    peer.open(3, flag::END_HEADERS, &[]);
    let mut woken: Vec<usize> = Vec::new();
    peer.session.take_woken(&mut woken);
    woken.clear();
    let parameters: Vec<u8> = (0..100_u32)
        .flat_map(|number| {
            let value = 65_535 * (number % 2);
            [&[0, 4][..], &value.to_be_bytes()].concat()
        })
        .collect();

    peer.send(&frame(kind::SETTINGS, 0, 0, &parameters)).unwrap();

    peer.session.take_woken(&mut woken);
    assert_eq!(woken.len(), 2);
}

#[test]
fn no_request_begins_while_much_waits_for_a_client_that_does_not_read() {
    let mut peer = Peer::new();
    let at = peer.open(1, ENDS, &[]);
    let mut response =
        Response { status: 200, content: Content::Open(End::Marked), ..Response::default() };
    for _ in 0..20 {
        response.fields.append(b"X", &[b'x'; 8_000]);
    }
    peer.session.head(at, &response, None, true).unwrap();
    assert!(peer.session.pending().len() > output::GATHER);

    let events = peer.send(&frame(kind::HEADERS, ENDS, 3, &header_block(&get()))).unwrap();

    assert!(events.is_empty());
    let _read = peer.sent();
    assert!(matches!(peer.send(&[]).unwrap()[..], [Event::Begun(_)]));
}
