//! Inputs that the PROXY header parser accepts and refuses.

use proptest::prelude::*;

use super::*;

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([0x20 | command, family]);
    bytes.extend((block.len() as u16).to_be_bytes());
    bytes.extend(block);
    bytes
}

fn v4_block(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut block = vec![192, 0, 2, 7, 198, 51, 100, 2, 0xc0, 0x00, 0x01, 0xbb];
    for (kind, value) in fields {
        block.push(*kind);
        block.extend((value.len() as u16).to_be_bytes());
        block.extend(*value);
    }
    block
}

fn with_checksum(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = crc32c(bytes.iter().copied()).to_be_bytes();
    bytes[at..at + 4].copy_from_slice(&sum);
    bytes
}

fn proxied() -> Header {
    Header::Proxied {
        client: "192.0.2.7:49152".parse().unwrap(),
        destination: "198.51.100.2:443".parse().unwrap(),
        extensions: Extensions::default(),
    }
}

fn proxied_with(authority: Option<&str>, unique_id: &str) -> Header {
    let mut header = proxied();
    if let Header::Proxied { extensions, .. } = &mut header {
        extensions.authority = authority.map(str::to_owned);
        extensions.unique_id = Some(unique_id.to_owned());
    }
    header
}

#[test]
fn the_checksum_is_castagnolis() {
    assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
}

fn headers_of_addresses() -> Vec<(Vec<u8>, Header)> {
    vec![
        (b"PROXY TCP4 192.0.2.7 198.51.100.2 49152 443\r\n".to_vec(), proxied()),
        (b"PROXY UNKNOWN\r\n".to_vec(), Header::Local),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), Header::Local),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::2 1 65535\r\n".to_vec(),
            Header::Proxied {
                client: "[2001:db8::7]:1".parse().unwrap(),
                destination: "[2001:db8::2]:65535".parse().unwrap(),
                extensions: Extensions::default(),
            },
        ),
        (v2(1, 0x11, &v4_block(&[])), proxied()),
        (v2(0, 0x00, b""), Header::Local),
        (v2(0, 0x11, &v4_block(&[])), Header::Local),
        (v2(1, 0x00, b""), Header::Local),
        (
            v2(1, 0x21, &[[0x20; 32].as_slice(), &[0, 1, 0, 2]].concat()),
            Header::Proxied {
                client: "[2020:2020:2020:2020:2020:2020:2020:2020]:1".parse().unwrap(),
                destination: "[2020:2020:2020:2020:2020:2020:2020:2020]:2".parse().unwrap(),
                extensions: Extensions::default(),
            },
        ),
    ]
}

fn headers_with_fields() -> Vec<(Vec<u8>, Header)> {
    let sum_at = 16 + 12 + 3;
    vec![
        (
            v2(
                1,
                0x11,
                &v4_block(&[
                    (0x01, b"h2"),
                    (0x02, b"bank.example"),
                    (0x05, &[7; 128]),
                    (0x20, &[1, 0, 0, 0, 0, 0x21, 0, 3, b'1', b'.', b'3']),
                    (0x04, &[0; 9]),
                    (0x04, b""),
                    (0x30, b"blue"),
                    (0xe0, b"private"),
                ]),
            ),
            proxied_with(Some("bank.example"), &format!("0x{}", "07".repeat(128))),
        ),
        (
            v2(1, 0x11, &v4_block(&[(0x05, b"7f-01.a:9"), (0x04, b"")])),
            proxied_with(None, "7f-01.a:9"),
        ),
        (
            v2(1, 0x11, &v4_block(&[(0x05, b"two words")])),
            proxied_with(None, "0x74776f20776f726473"),
        ),
        (v2(1, 0x11, &v4_block(&[(0x05, b"")])), proxied()),
        (v2(0, 0x11, &v4_block(&[(0x02, b"bank.example")])), Header::Local),
        (with_checksum(v2(1, 0x11, &v4_block(&[(0x03, &[0; 4])])), sum_at), proxied()),
    ]
}

// S1.25
#[test]
fn good_headers_are_read_whole_and_no_further() {
    for (bytes, header) in [headers_of_addresses(), headers_with_fields()].concat() {
        let length = bytes.len();
        let followed = [bytes.as_slice(), b"\x16\x03\x01junk"].concat();
        assert_eq!(parse(&followed), Ok(Progress::Complete(header.clone(), length)), "{bytes:?}");
        for cut in 0..length {
            match parse(&bytes[..cut]) {
                Ok(Progress::Missing(more)) => assert!(more > 0 && cut + more <= length, "{cut}"),
                Ok(Progress::MissingLineEnd) => assert!(bytes.starts_with(b"PROXY ")),
                other => panic!("{bytes:?} cut at {cut}: {other:?}"),
            }
        }
    }
}

fn bad_lines() -> [&'static [u8]; 24] {
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"proxy TCP4 192.0.2.7 198.51.100.2 1 443\r\n",
        b"PROXY  TCP4 192.0.2.7 198.51.100.2 1 443\r\n",
        b"PROXY TCP5 192.0.2.7 198.51.100.2 1 443\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.2 1 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.2 1\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.2 1 443 x\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.2 1 443 \r\n",
        b"PROXY TCP4 192.0.2.7\t198.51.100.2 1 443\r\n",
        b"PROXY TCP4 192.0.2.07 198.51.100.2 1 443\r\n",
        b"PROXY TCP4 192.0.2 198.51.100.2 1 443\r\n",
        b"PROXY TCP4 2001:db8::7 198.51.100.2 1 443\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.2 1 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.2 65536 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.2 01 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.2 +1 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.2 -1 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.2 1 \r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.2 1 443\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.2 1\r443\r\n",
        b"PROXY UNKNOWN \xff\r\n",
        b"PROXY UNKNOWNX\r\n",
    ]
}

fn bad_blocks() -> Vec<Vec<u8>> {
    let mut version = v2(1, 0x11, &v4_block(&[]));
    version[12] = 0x11;
    let mut command = v2(1, 0x11, &v4_block(&[]));
    command[12] = 0x22;
    let mut length = v2(1, 0x11, &v4_block(&[]));
    length[14..16].copy_from_slice(&4097u16.to_be_bytes());
    vec![
        format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)).into_bytes(),
        version,
        command,
        length,
        v2(1, 0x12, &v4_block(&[])),
        v2(1, 0x31, &[0; 216]),
        v2(1, 0x41, &v4_block(&[])),
        v2(1, 0x11, &v4_block(&[])[..11]),
        v2(1, 0x21, &v4_block(&[])),
        v2(1, 0x11, &[v4_block(&[]).as_slice(), &[0x01, 0]].concat()),
        v2(1, 0x11, &[v4_block(&[]).as_slice(), &[0x01, 0, 9, b'h']].concat()),
        v2(1, 0x11, &v4_block(&[(0x01, b"")])),
        v2(1, 0x11, &v4_block(&[(0x02, b"bank\0example")])),
        v2(1, 0x11, &v4_block(&[(0x02, &[b'a'; 256])])),
        v2(1, 0x11, &v4_block(&[(0x02, b"a"), (0x02, b"b")])),
        v2(1, 0x11, &v4_block(&[(0x03, &[0; 4])])),
        v2(1, 0x11, &v4_block(&[(0x03, &[0; 3])])),
        v2(1, 0x11, &v4_block(&[(0x05, &[0; 129])])),
        v2(1, 0x11, &v4_block(&[(0x20, &[0; 4])])),
        v2(1, 0x11, &v4_block(&[(0x20, &[1, 0, 0, 0, 0, 0x21, 0, 9])])),
        v2(1, 0x11, &v4_block(&[(0x30, b"")])),
    ]
}

// S1.25
#[test]
fn bad_headers_are_refused() {
    let lines = bad_lines();
    let cases: Vec<_> = lines.iter().map(|line| line.to_vec()).chain(bad_blocks()).collect();

    assert!(cases.len() >= 30);
    for case in cases {
        assert!(parse(&case).is_err(), "{:?}: {:?}", String::from_utf8_lossy(&case), parse(&case));
    }
}

#[test]
fn a_line_that_never_ends_is_refused_at_its_limit() {
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();

    assert_eq!(parse(&endless[..MAX_V1 - 1]), Ok(Progress::MissingLineEnd));
    assert_eq!(parse(&endless), Err("line too long"));
}

proptest! {
    #[test]
    fn a_bent_header_is_refused_or_read_the_same_however_it_is_cut(
        binary in any::<bool>(),
        bends in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = match binary {
            true => v2(1, 0x11, &v4_block(&[(0x01, b"h2"), (0x02, b"bank.example"), (0x04, b"")])),
            false => b"PROXY TCP4 192.0.2.7 198.51.100.2 49152 443\r\n".to_vec(),
        };
        for (at, with) in bends {
            let at = usize::from(at) % bytes.len();
            bytes[at] = with;
        }

        if let Ok(Progress::Complete(header, length)) = parse(&bytes) {
            prop_assert_eq!(parse(&bytes[..length]), Ok(Progress::Complete(header, length)));
            for cut in 0..length {
                let part = parse(&bytes[..cut]);
                let reads_on = match part {
                    Ok(Progress::Missing(more)) => more > 0 && cut + more <= length,
                    Ok(Progress::MissingLineEnd) => length <= MAX_V1,
                    _ => false,
                };
                prop_assert!(reads_on, "{:?} at {} of {}", part, cut, length);
            }
        }
    }
}
