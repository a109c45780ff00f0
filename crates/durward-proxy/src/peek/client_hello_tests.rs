//! Inputs that the ClientHello parser accepts and refuses.

use proptest::prelude::*;

use super::*;

fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes
}

fn sni(name: &[u8]) -> Vec<u8> {
    let mut value = ((name.len() + 3) as u16).to_be_bytes().to_vec();
    value.push(0);
    value.extend((name.len() as u16).to_be_bytes());
    value.extend(name);
    extension(0, &value)
}

fn message(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1];
    message.extend(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend(body);
    message
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in message.chunks(size) {
        bytes.extend([22, 3, 1]);
        bytes.extend((chunk.len() as u16).to_be_bytes());
        bytes.extend(chunk);
    }
    bytes
}

fn usual() -> Vec<u8> {
    let extensions = [
        sni(b"API.Bank.example"),
        extension(16, b"\x00\x0c\x02h2\x08http/1.1"),
        extension(43, &[4, 3, 4, 3, 3]),
        extension(10, &[0, 2, 0, 29]),
    ];
    message(&extensions.concat())
}

fn expected() -> ClientHello {
    ClientHello {
        server_name: Some("api.bank.example".to_owned()),
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        versions: vec![0x0304, 0x0303],
    }
}

// S4.64+
#[test]
fn a_hello_cut_at_every_byte_is_read_once_it_is_whole() {
    let bytes = records(&usual(), 16 * 1024);

    for cut in 0..bytes.len() {
        match parse(&bytes[..cut]) {
            Ok(Progress::Missing(total)) => assert!(total > cut && total <= bytes.len()),
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
    assert_eq!(parse(&bytes), Ok(Progress::Complete(expected())));
}

// S4.64+
#[test]
fn a_hello_in_records_of_any_size_is_the_same_hello() {
    let message = usual();

    for size in 1..=message.len() {
        let bytes = records(&message, size);
        assert_eq!(parse(&bytes), Ok(Progress::Complete(expected())), "records of {size}");
    }
}

// S4.64+
#[test]
fn records_that_have_been_read_are_not_read_again() {
    let whole = records(&usual(), 1);
    let (mut assembly, mut bytes) = (Assembly::default(), Vec::new());

    let found = whole.iter().find_map(|byte| {
        bytes.push(*byte);
        match assembly.advance(&bytes).unwrap() {
            Progress::Complete(hello) => Some(hello),
            Progress::Missing(_) => {
                // A second look at them would fail.
                let read = bytes.len() / 6 * 6;
                bytes[..read].fill(0);
                None
            }
        }
    });

    assert_eq!(found, Some(expected()));
}

// With each type compared with all before it this takes a minute.
#[test]
fn thousands_of_extensions_are_told_apart_in_one_pass() {
    let all: Vec<u8> = (100..8_100).flat_map(|kind| extension(kind, &[])).collect();
    let once = records(&message(&all), 16 * 1024);
    let twice = records(&message(&[all, extension(100, &[])].concat()), 16 * 1024);

    for _ in 0..100 {
        assert!(matches!(parse(&once), Ok(Progress::Complete(_))));
        assert_eq!(parse(&twice), Err("extension given twice"));
    }
}

#[test]
fn early_data_behind_the_hello_does_no_harm() {
    let bytes = [records(&usual(), 16 * 1024), vec![20, 3, 3, 0, 1, 1]].concat();

    assert_eq!(parse(&bytes), Ok(Progress::Complete(expected())));
}

// S1.33
#[test]
fn no_name_and_an_address_in_its_place_are_both_no_name() {
    for extensions in [Vec::new(), sni(b"127.0.0.2"), sni(b"2001:db8::2")] {
        let Ok(Progress::Complete(hello)) = parse(&records(&message(&extensions), 100)) else {
            panic!("{extensions:?}");
        };
        assert_eq!(hello.server_name, None);
        assert_eq!(hello.versions, [0x0303]);
    }
}

// S4.64+
#[test]
fn junk_is_refused() {
    let twice = [sni(b"a.example"), sni(b"b.example")].concat();
    let mut long_id = message(&[]);
    long_id[38] = 33;
    let mut trailing = usual();
    trailing.push(0);
    let mut server_hello = usual();
    server_hello[0] = 2;
    let mut oversized = usual();
    oversized[1..4].copy_from_slice(&[0, 0x80, 1]);
    let long_name = format!("{}.example", "a".repeat(64));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("SSHv2", b"SSH-2.0-OpenSSH_9\r\n".to_vec()),
        ("SSL 2", vec![0x80, 0x2e, 1, 0, 2]),
        ("alert", vec![21, 3, 1, 0, 2, 2, 40]),
        ("major version", vec![22, 2, 0, 0, 5]),
        ("empty record", vec![22, 3, 1, 0, 0]),
        ("record too long", vec![22, 3, 1, 0x40, 1]),
        ("second record", [records(&usual()[..9], 9), vec![23, 3, 3, 0, 1, 0]].concat()),
        ("other message", records(&server_hello, 500)),
        ("too long", records(&oversized, 500)),
        ("trailing bytes", records(&trailing, 500)),
        ("session id", records(&long_id, 500)),
        ("extension twice", records(&message(&twice), 500)),
        ("empty name", records(&message(&sni(b"")), 500)),
        ("dots", records(&message(&sni(b"a..b")), 500)),
        ("two trailing dots", records(&message(&sni(b"a.example..")), 500)),
        ("zero byte", records(&message(&sni(b"a\0.example")), 500)),
        ("blank", records(&message(&sni(b"a b")), 500)),
        ("not UTF-8", records(&message(&sni(b"a\xff")), 500)),
        ("label too long", records(&message(&sni(long_name.as_bytes())), 500)),
        ("empty ALPN", records(&message(&extension(16, &[0, 0])), 500)),
        ("empty protocol", records(&message(&extension(16, &[0, 1, 0])), 500)),
        ("odd versions", records(&message(&extension(43, &[3, 3, 4, 3])), 500)),
        ("extension cut short", records(&message(&[0, 0, 0, 9, 1]), 500)),
        ("no body", records(&[1, 0, 0, 0], 500)),
    ];

    for (name, bytes) in cases {
        assert!(parse(&bytes).is_err(), "{name}: {:?}", parse(&bytes));
    }
}

#[test]
fn a_hello_of_single_byte_records_is_given_up_within_bounds() {
    let mut long = usual();
    long.truncate(4);
    long[1..4].copy_from_slice(&[0, 0x30, 0]);
    long.extend(vec![0; 0x3000]);

    assert_eq!(parse(&records(&long, 1)), Err("ClientHello in too many records"));
}

/// Returns the name that rustls reads; `None` if it refuses the hello or needs more bytes.
fn read_by_library(mut bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = rustls::server::Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            return Some(hello.server_name().map(str::to_ascii_lowercase));
        }
    }
    None
}

/// ClientHello as a program sent it.
struct Captured {
    client: String,
    expected: ClientHello,
    bytes: Vec<u8>,
}

/// Returns the ClientHellos of programs (`client_hellos.txt`), and that of our TLS library with its post-quantum group.
fn captured() -> Vec<Captured> {
    let lines = include_str!("client_hellos.txt").lines().filter(|line| !line.starts_with('#'));
    let mut all: Vec<_> = lines.map(of_line).collect();
    let mut bytes = Vec::new();
    let authority = durward_testkit::certificates::Authority::new("root");
    let mut config = durward_testkit::certificates::client_config(&authority, None);
    config.alpn_protocols = vec![durward_model::server_tls::API_PROXY.to_vec()];
    let name = "api.a.example".try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    connection.write_tls(&mut bytes).unwrap();
    let line = format!("rustls | api.a.example | durward-api/1 | {}", hex(&bytes));
    all.push(of_line(&line));
    all
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_line(line: &str) -> Captured {
    let fields: Vec<_> = line.split(" | ").collect();
    let [client, name, protocols, hex] = fields[..] else { panic!("{line}") };
    let given = |text: &'static str| move |field: &&str| *field != text;
    let protocols = Some(protocols).filter(given("-")).map(|all| all.split(','));
    let alpn = protocols.into_iter().flatten().map(|one| one.as_bytes().to_vec()).collect();
    let server_name = Some(name).filter(given("-")).map(str::to_owned);
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    Captured {
        client: client.to_owned(),
        expected: ClientHello { server_name, alpn, versions: Vec::new() },
        bytes: (0..hex.len()).step_by(2).map(byte).collect(),
    }
}

/// Returns the message in the records of a whole ClientHello.
fn message_of(mut wire: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = wire {
        let (body, next) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        message.extend_from_slice(body);
        wire = next;
    }
    message
}

// S4.64+
#[test]
fn real_hellos_are_read_whole_and_wait_for_more_wherever_they_are_cut() {
    let all = captured();

    assert!(all.len() >= 20);
    for program in
        ["Chromium", "Firefox", "curl", "openssl", "gnutls", "Go", "Java", "Python", "rustls"]
    {
        assert!(all.iter().any(|one| one.client.starts_with(program)), "{program}");
    }
    for Captured { client, expected, bytes } in all {
        let Ok(Progress::Complete(hello)) = parse(&bytes) else { panic!("{client}") };
        assert_eq!(hello.server_name, expected.server_name, "{client}");
        assert_eq!(hello.alpn, expected.alpn, "{client}");
        assert!(hello.versions.contains(&0x0303) || hello.versions.contains(&0x0304), "{client}");
        let theirs = read_by_library(&bytes).unwrap();
        let theirs = theirs.map(|name| name.trim_end_matches('.').to_owned());
        assert_eq!(hello.server_name, theirs, "{client}");
        for cut in 0..bytes.len() {
            match parse(&bytes[..cut]) {
                Ok(Progress::Missing(total)) => assert!(total > cut && total <= bytes.len()),
                other => panic!("{client} cut at {cut}: {other:?}"),
            }
        }
        let message = message_of(&bytes);
        for size in [1, 2, 3, 5, 97, 512, 1_400] {
            let again = parse(&records(&message, size));
            assert_eq!(again, Ok(Progress::Complete(hello.clone())), "{client}, records of {size}");
        }
    }
}

// S4.64+
#[test]
fn a_real_hello_that_ends_early_never_has_another_name() {
    for Captured { client, expected, bytes } in captured() {
        let message = message_of(&bytes);
        for cut in 4..message.len() {
            // The lengths of record and message say that this is all; those inside do not.
            let mut short = message[..cut].to_vec();
            short[1..4].copy_from_slice(&((cut - 4) as u32).to_be_bytes()[1..]);
            if let Ok(Progress::Complete(hello)) = parse(&records(&short, 16 * 1024)) {
                let is_other =
                    hello.server_name.is_some_and(|name| Some(name) != expected.server_name);
                assert!(!is_other, "{client} cut at {cut}");
            }
        }
    }
}

#[test]
fn the_tls_library_reads_the_same_name() {
    let hello = durward_testkit::client::client_hello::ClientHello::new().tls13();
    for name in ["one.example", "ONE.Example", "a-b_c.example", "127.0.0.1", "x"] {
        let bytes = hello.clone().server_name(name).encode_split(40);

        let Ok(Progress::Complete(ours)) = parse(&bytes) else { panic!("{name}") };

        assert_eq!(Some(ours.server_name), read_by_library(&bytes), "{name}");
    }
}

proptest! {
    // S4.64+
    #[test]
    fn bent_hellos_are_never_read_otherwise_than_by_the_tls_library(
        bends in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..4),
        size in 1usize..400,
    ) {
        let hello = durward_testkit::client::client_hello::ClientHello::new();
        let mut message = hello.tls13().server_name("one.example").alpn("h2").message();
        for (at, with) in bends {
            let at = usize::from(at) % message.len();
            message[at] = with;
        }
        let bytes = records(&message, size);

        if let (Ok(Progress::Complete(ours)), Some(theirs)) = (parse(&bytes), read_by_library(&bytes)) {
            // Ours is the name without the dot that may end it.
            let theirs = theirs.map(|name| name.trim_end_matches('.').to_owned());
            prop_assert_eq!(ours.server_name, theirs);
        }
    }

    #[test]
    fn any_bytes_end_in_a_verdict(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..300, with in any::<u8>()) {
        let _ = parse(&bytes);
        let mut bent = records(&usual(), 60);
        let at = at % bent.len();
        bent[at] = with;

        if let Ok(Progress::Missing(total)) = parse(&bent) {
            prop_assert!(total > bent.len() || total <= MAX_WIRE + 16 * 1024);
        }
    }
}
