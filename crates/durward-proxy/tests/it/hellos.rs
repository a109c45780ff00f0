//! ClientHellos in every form that clients write, wherever the name in one decides: at a port that tenants share, and at pass-through routes.

use std::net::SocketAddr;
use std::time::Duration;

use durward_proxy::Proxy;
use durward_testkit::certificates::{Authority, CertSpec, Identity, client_config_insecure};
use durward_testkit::client::client_hello::{ClientHello, Reaction, reaction};
use durward_testkit::client::{RawHttp, tcp_connect, tls_connect};
use durward_testkit::origin::RawOrigin;
use durward_testkit::process::{eventually, unique_loopback};
use rustls::NamedGroup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::edge::{SOON, await_refusals, http, https, pass, refused, serve, tenant};

const KEY_SHARE: u16 = 51;
const SUPPORTED_GROUPS: u16 = 10;
const SUPPORTED_VERSIONS: u16 = 43;
const ALPN: u16 = 16;
/// RFC 9849 section 5.
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// A code point for private use (RFC 8446 section 4.2.7), with a key share as long as FrodoKEM-1344's.
const LARGE_GROUP: (u16, usize) = (0xfe00, 21_520);
/// One of RFC 8701's values, which a server must ignore.
const GREASE: u16 = 0x2a2a;

fn vector16(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes()[..], content].concat()
}

/// Splits off a vector with a length of two octets.
fn take16(bytes: &[u8]) -> (&[u8], &[u8]) {
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    bytes[2..].split_at(length)
}

/// A ClientHello in parts, for what the test kit's builder does not write.
struct Parts {
    /// Version, random and an empty session id.
    start: Vec<u8>,
    suites: Vec<u8>,
    extensions: Vec<(u16, Vec<u8>)>,
}

impl Parts {
    fn of(hello: &ClientHello) -> Self {
        let message = hello.message();
        let (start, rest) = message[4..].split_at(35);
        let (suites, rest) = take16(rest);
        // One compression method, with its length.
        let (mut list, _) = take16(&rest[2..]);
        let mut extensions = Vec::new();
        while !list.is_empty() {
            let kind = u16::from_be_bytes([list[0], list[1]]);
            let (value, rest) = take16(&list[2..]);
            extensions.push((kind, value.to_vec()));
            list = rest;
        }
        Self { start: start.to_vec(), suites: suites.to_vec(), extensions }
    }

    /// Puts an entry at the front of the list that an extension holds, whose length has this many octets.
    fn prepend(&mut self, kind: u16, octets: usize, entry: &[u8]) {
        let Some((_, value)) = self.extensions.iter_mut().find(|(known, _)| *known == kind) else {
            return;
        };
        let list = [entry, &value[octets..]].concat();
        let length = (list.len() as u16).to_be_bytes();
        *value = [&length[2 - octets..], &list].concat();
    }

    fn add(&mut self, kind: u16, value: Vec<u8>) {
        self.extensions.push((kind, value));
    }

    fn message(&self) -> Vec<u8> {
        let entry = |(kind, value): &(u16, Vec<u8>)| {
            [kind.to_be_bytes().to_vec(), vector16(value)].concat()
        };
        let extensions: Vec<u8> = self.extensions.iter().flat_map(entry).collect();
        let body = [self.start.clone(), vector16(&self.suites), vec![1, 0], vector16(&extensions)]
            .concat();
        let length = (body.len() as u32).to_be_bytes();
        [&[1], &length[1..], &body].concat()
    }
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [vec![22, 3, 1], vector16(part)].concat()).collect()
}

fn with_grease(parts: &mut Parts) {
    let value = GREASE.to_be_bytes();
    parts.suites.splice(0..0, value);
    parts.prepend(SUPPORTED_GROUPS, 2, &value);
    parts.prepend(SUPPORTED_VERSIONS, 1, &value);
    parts.prepend(ALPN, 2, &[2, value[0], value[1]]);
    parts.prepend(KEY_SHARE, 2, &[value[0], value[1], 0, 1, 0]);
    parts.extensions.insert(0, (GREASE, Vec::new()));
    parts.add(0x3a3a, vec![0]);
}

fn with_large_key_share(parts: &mut Parts) {
    let (group, length) = LARGE_GROUP;
    let share = [group.to_be_bytes().to_vec(), vector16(&vec![7; length])].concat();
    parts.prepend(SUPPORTED_GROUPS, 2, &group.to_be_bytes());
    if parts.extensions.iter().any(|(kind, _)| *kind == KEY_SHARE) {
        parts.prepend(KEY_SHARE, 2, &share);
    } else {
        parts.add(KEY_SHARE, vector16(&share));
    }
}

fn with_encrypted_client_hello(parts: &mut Parts) {
    // The outer hello: HKDF-SHA256, AES-128-GCM, a configuration's number, an encapsulated key, and what is encrypted.
    let sealed = [&[0, 0, 1, 0, 1, 9][..], &vector16(&[5; 32]), &vector16(&[6; 239])].concat();
    parts.add(ENCRYPTED_CLIENT_HELLO, sealed);
}

/// Messages that ask for `name`, each in a form of its own.
fn forms(name: &str, tls13: bool) -> Vec<(&'static str, Vec<u8>)> {
    let hello = |name: String| {
        let hello = ClientHello::new().server_name(name).alpn("h2").alpn("http/1.1");
        if tls13 { hello.tls13() } else { hello }
    };
    let bent = |bend: fn(&mut Parts)| {
        let mut parts = Parts::of(&hello(name.to_owned()));
        bend(&mut parts);
        parts.message()
    };
    let large = bent(with_large_key_share);
    assert!(large.len() > 20 * 1024, "{}", large.len());
    vec![
        ("as it is", hello(name.to_owned()).message()),
        ("upper case", hello(name.to_ascii_uppercase()).message()),
        ("trailing dot", hello(format!("{name}.")).message()),
        ("GREASE", bent(with_grease)),
        ("more than 16 KiB", large),
        ("ECH", bent(with_encrypted_client_hello)),
    ]
}

/// Ways to cut a message: into records of so many bytes, and those into segments.
const CUTS: [(usize, usize); 4] = [(16_384, usize::MAX), (16_384, 1_000), (1_200, 500), (97, 64)];

async fn react(address: SocketAddr, bytes: &[u8], segment: usize) -> Reaction {
    let mut stream = tcp_connect(address, None).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for part in bytes.chunks(segment) {
        // It may have been refused already.
        let _ = stream.write_all(part).await;
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(SOON, reaction(&mut stream)).await.unwrap().unwrap()
}

/// Where a name decides: at one port of two tenants, one of which ends TLS and one of which has it carried through, and at a port of one tenant's
/// own. What is carried through ends in another gateway.
struct Town {
    proxy: Proxy,
    _behind: Proxy,
    shared: SocketAddr,
    own: SocketAddr,
    ended: Identity,
    carried: Identity,
}

fn town() -> Town {
    let authority = Authority::new("root");
    let issue = |name: &str| authority.issue(&CertSpec::new().dns(name));
    let (ended, carried) = (issue("ended.example"), issue("carried.example"));
    let [shared, own, inner] = [(); 3].map(|()| SocketAddr::from((unique_loopback(), 8443)));
    let behind = serve(&[tenant("behind").listen(inner, http("", Some(https(&carried))))]);
    let proxy = serve(&[
        tenant("ended").listen(shared, http("", Some(https(&ended)))).named(&["ended.example"]),
        tenant("carried")
            .upstream(inner)
            .listen(shared, pass(&[("carried.example", 0)]))
            .named(&["carried.example"]),
        tenant("own").upstream(inner).listen(own, pass(&[("carried.example", 0)])),
    ]);
    Town { proxy, _behind: behind, shared, own, ended, carried }
}

// S4.64
#[tokio::test]
async fn the_name_is_read_of_a_hello_in_any_form_and_in_any_pieces() {
    let town = town();

    let places = [
        (town.shared, "ended.example", &town.ended),
        (town.shared, "carried.example", &town.carried),
        (town.own, "carried.example", &town.carried),
    ];
    let mut read = 0;
    for (address, name, identity) in places {
        for tls13 in [false, true] {
            let expected = match tls13 {
                false => Reaction::Chain(identity.chain_der.clone()),
                true => Reaction::Encrypted,
            };
            for (form, message) in forms(name, tls13) {
                for (record, segment) in CUTS {
                    let got = react(address, &records(&message, record), segment).await;
                    assert_eq!(got, expected, "{address} {name} {form}, {record} in {segment}");
                    read += 1;
                }
            }
        }
    }

    assert_eq!(read, 3 * 2 * 6 * 4);
    for tenant in [None, Some("ended"), Some("carried"), Some("own")] {
        for word in ["client_hello", "unknown_name", "no_route"] {
            assert_eq!(refused(&town.proxy, tenant, word), 0, "{tenant:?} {word}");
        }
    }
}

// S4.64
#[tokio::test]
async fn a_post_quantum_key_exchange_is_agreed_where_a_name_decides() {
    let town = town();

    for (address, name) in [
        (town.shared, "ended.example"),
        (town.shared, "carried.example"),
        (town.own, "carried.example"),
    ] {
        let config = client_config_insecure(None);
        let stream = tls_connect(address, None, config, Some(name)).await.unwrap();
        let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768, "{name}");
        assert_eq!(RawHttp::over(stream).get(name, "/").await.unwrap().status, 200, "{name}");
    }
}

// S4.64
#[tokio::test]
async fn what_is_no_hello_reaches_nobody() {
    let origin = RawOrigin::start("127.0.0.1:0", |connection| connection.hold());
    let [shared, own] = [(); 2].map(|()| SocketAddr::from((unique_loopback(), 8443)));
    let carrying = |name| tenant(name).upstream(origin.address());
    let proxy = serve(&[
        carrying("shared").listen(shared, pass(&[("*", 0)])).named(&["a.example", "127.0.0.1"]),
        carrying("own").listen(own, pass(&[("*", 0)])),
    ]);
    // SSL 2's form of a hello, with a challenge and one suite, first for SSL 2 itself and then for TLS 1.0 (RFC 5246 appendix E.2).
    let ssl2 = |version: [u8; 2]| {
        let body = [&[1, version[0], version[1], 0, 3, 0, 0, 0, 16, 0, 0, 0x2f][..], &[9; 16]];
        [&[0x80, 28][..], &body.concat()].concat()
    };
    let junk: [(&str, Vec<u8>); 6] = [
        ("SSL 2", ssl2([0, 2])),
        ("SSL 2 for TLS 1.0", ssl2([3, 1])),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec()),
        ("zeroes", vec![0; 64]),
        ("33 KiB", ClientHello::new().server_name("a.example").padding(33 * 1024).encode()),
    ];

    for address in [shared, own] {
        for (name, bytes) in &junk {
            let got = react(address, bytes, usize::MAX).await;
            assert!(matches!(got, Reaction::Alert(_)), "{address} {name}: {got:?}");
        }
    }

    await_refusals(&proxy, None, "client_hello", 6).await;
    await_refusals(&proxy, Some("own"), "client_hello", 6).await;
    assert_eq!(origin.connections(), 0);
}

// S4.64
#[tokio::test]
async fn a_hello_that_never_ends_is_given_up_where_a_name_would_decide() {
    let origin = RawOrigin::start("127.0.0.1:0", |connection| connection.hold());
    let [shared, own] = [(); 2].map(|()| SocketAddr::from((unique_loopback(), 8443)));
    let carrying = |name| tenant(name).upstream(origin.address());
    let proxy = serve(&[
        carrying("shared").listen(shared, pass(&[("*", 0)])).named(&["a.example"]),
        carrying("own")
            .listen(own, pass(&[("*", 0)]))
            .limits(|limits| limits.timeouts.handshake = Duration::from_secs(1)),
    ]);
    let hello = ClientHello::new().server_name("a.example").encode();

    let mut open = Vec::new();
    for address in [shared, own] {
        let silent = tcp_connect(address, None).await.unwrap();
        let mut begun = tcp_connect(address, None).await.unwrap();
        begun.write_all(&hello[..hello.len() - 1]).await.unwrap();
        open.extend([silent, begun]);
    }

    // Until the name is known no tenant's deadline holds at the shared port, but the default of ten seconds.
    let ended = async || {
        let count = |tenant| refused(&proxy, tenant, "client_timeout");
        (count(None), count(Some("own"))) == (2, 2)
    };
    assert!(eventually(Duration::from_secs(60), ended).await);
    for mut stream in open {
        let mut said = Vec::new();
        let read = tokio::time::timeout(SOON, stream.read_to_end(&mut said)).await;
        assert!(read.is_ok() && said.is_empty(), "{said:?}");
    }
    assert_eq!(origin.connections(), 0);
}
