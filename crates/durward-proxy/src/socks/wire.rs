//! Parser and encoder of SOCKS 5 messages (RFC 1928) and of username/password authentication (RFC 1929).
//!
//! Deliberately absent: GSSAPI, BIND, UDP, and SOCKS 4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Protocol version, the first byte a client sends.
pub(crate) const VERSION: u8 = 5;
/// Authentication methods (RFC 1928 section 3): none, username/password, no acceptable method.
pub(crate) const NOTHING: u8 = 0;
/// See [`NOTHING`].
pub(crate) const PAIR: u8 = 2;
/// See [`NOTHING`].
pub(crate) const UNACCEPTABLE: u8 = 0xff;

const CONNECT: u8 = 1;
const PAIR_VERSION: u8 = 1;

/// Result of parsing a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read<T> {
    /// The message is complete and so many bytes long.
    Complete(T, usize),
    /// More bytes are needed.
    More,
}

/// Username and password; neither is ever logged.
#[derive(PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) user: Vec<u8>,
    pub(crate) secret: Vec<u8>,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("redacted")
    }
}

/// Destination of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) host: Name,
    pub(crate) port: u16,
}

/// Host of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// As an address.
    Address(IpAddr),
    /// As text.
    Text(String),
}

/// Fault of a message, as a phrase and as its reply code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) &'static str, pub(crate) u8);

/// Parses the methods that a client offers.
pub(crate) fn greeting(bytes: &[u8]) -> Result<Read<Vec<u8>>, Fault> {
    let [version, rest @ ..] = bytes else { return Ok(Read::More) };
    if *version != VERSION {
        return Err(Fault("not SOCKS 5", 1));
    }
    Ok(match counted(rest) {
        Some((methods, _)) => Read::Complete(methods.to_vec(), 2 + methods.len()),
        None => Read::More,
    })
}

/// Parses a username and a password.
pub(crate) fn pair(bytes: &[u8]) -> Result<Read<Pair>, Fault> {
    let [version, rest @ ..] = bytes else { return Ok(Read::More) };
    if *version != PAIR_VERSION {
        return Err(Fault("not a SOCKS name and secret", 1));
    }
    let Some((user, rest)) = counted(rest) else { return Ok(Read::More) };
    Ok(match counted(rest) {
        Some((secret, _)) => {
            let length = 3 + user.len() + secret.len();
            Read::Complete(Pair { user: user.to_vec(), secret: secret.to_vec() }, length)
        }
        None => Read::More,
    })
}

/// Parses a request.
pub(crate) fn wish(bytes: &[u8]) -> Result<Read<Wish>, Fault> {
    if bytes.first().is_some_and(|version| *version != VERSION) {
        return Err(Fault("not SOCKS 5", 1));
    }
    if bytes.get(1).is_some_and(|command| *command != CONNECT) {
        return Err(Fault("SOCKS command other than CONNECT", 7));
    }
    // Octet 2 is reserved (RFC 1928 section 4).
    let (Some(kind), Some(rest)) = (bytes.get(3), bytes.get(4..)) else { return Ok(Read::More) };
    let host = match kind {
        1 => rest.first_chunk::<4>().map(|v4| (Name::Address(Ipv4Addr::from(*v4).into()), 4)),
        4 => rest.first_chunk::<16>().map(|v6| (Name::Address(Ipv6Addr::from(*v6).into()), 16)),
        3 => match counted(rest) {
            Some((text, _)) => {
                let name = std::str::from_utf8(text)
                    .map_err(|_| Fault("SOCKS host that is no text", 8))?;
                Some((Name::Text(name.to_owned()), 1 + text.len()))
            }
            None => None,
        },
        _ => return Err(Fault("SOCKS address of an unknown kind", 8)),
    };
    let Some((host, length)) = host else { return Ok(Read::More) };
    Ok(match rest.get(length..).and_then(|rest| rest.first_chunk::<2>()) {
        Some(port) => {
            Read::Complete(Wish { host, port: u16::from_be_bytes(*port) }, 4 + length + 2)
        }
        None => Read::More,
    })
}

/// Splits bytes after a length octet from the rest.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (count, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*count))
}

/// Encodes a reply: its code, and the local address of the connection.
pub(crate) fn answer(code: u8, source: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![VERSION, code, 0];
    match source.ip() {
        IpAddr::V4(address) => {
            bytes.push(1);
            bytes.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            bytes.push(4);
            bytes.extend_from_slice(&address.octets());
        }
    }
    bytes.extend_from_slice(&source.port().to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    // S2.9
    #[test]
    fn messages_are_read_as_they_come() {
        let wish_of = |bytes: &[u8]| match wish(bytes) {
            Ok(Read::Complete(wish, length)) => {
                Some((format!("{:?}", wish.host), wish.port, length))
            }
            _ => None,
        };
        let named = b"\x05\x01\x00\x03\x0cbank.example\x01\xbbX";
        let v6 = [&b"\x05\x01\x00\x04"[..], &[0; 15], &[1], &[0, 80]].concat();

        assert_eq!(greeting(b"\x05\x02\x00\x02rest"), Ok(Read::Complete(vec![0, 2], 4)));
        assert_eq!(wish_of(named), Some(("Text(\"bank.example\")".to_owned(), 443, 19)));
        assert_eq!(wish_of(&v6), Some(("Address(::1)".to_owned(), 80, 22)));
        assert_eq!(
            wish_of(b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x16"),
            Some(("Address(127.0.0.1)".to_owned(), 22, 10))
        );
        for end in 0..named.len() - 1 {
            assert_eq!(wish(&named[..end]), Ok(Read::More), "{end}");
        }
        let Ok(Read::Complete(pair, 9)) = pair(b"\x01\x02ci\x04passrest") else {
            panic!("no pair")
        };
        assert_eq!((&pair.user[..], &pair.secret[..]), (&b"ci"[..], &b"pass"[..]));
    }

    #[test]
    fn what_is_not_served_is_answered_with_its_code() {
        assert_eq!(greeting(b"\x04\x01").unwrap_err().1, 1);
        assert_eq!(wish(b"\x05\x02").unwrap_err().1, 7);
        assert_eq!(wish(b"\x05\x03\x00\x01").unwrap_err().1, 7);
        assert_eq!(wish(b"\x05\x01\x00\x09a").unwrap_err().1, 8);
        assert_eq!(wish(b"\x05\x01\x00\x03\x01\xff\x00\x50").unwrap_err().1, 8);
        assert_eq!(
            answer(2, "10.0.0.1:258".parse().unwrap()),
            b"\x05\x02\x00\x01\x0a\x00\x00\x01\x01\x02"
        );
    }
}
