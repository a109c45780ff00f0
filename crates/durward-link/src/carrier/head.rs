//! Reading the head of an HTTP/1.1 message during the handshake of a carrier.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a head at most.
const HEAD: usize = 8 * 1024;

/// Head of an HTTP/1.1 message: its first line and its fields, names in lower case.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) first: String,
    fields: Vec<(String, String)>,
}

impl Head {
    /// Returns the value of a field that is there once.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(field, _)| field == name);
        let only = found.next()?;
        found.next().is_none().then_some(only.1.as_str())
    }

    /// Returns true if a field is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(field, _)| field == name)
    }

    /// Returns true if a field with a list of words contains `word`, in whatever case.
    pub(super) fn lists(&self, name: &str, word: &str) -> bool {
        let of = self.fields.iter().filter(|(field, _)| field == name);
        of.flat_map(|(_, value)| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(word))
    }

    /// Returns the status of a response.
    pub(super) fn status(&self) -> Option<u16> {
        let mut words = self.first.split(' ');
        words.next().filter(|version| version.starts_with("HTTP/1."))?;
        words.next().filter(|status| status.len() == 3)?.parse().ok()
    }
}

/// Reads a head; returns it with bytes that came after it.
///
/// # Errors
/// Fails with `InvalidData` if it is none, or longer than 8 KiB.
pub(super) async fn read<R: AsyncRead + Unpin>(from: &mut R) -> io::Result<(Head, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((parse(&bytes[..end]).ok_or_else(bad)?, rest));
        }
        if bytes.len() >= HEAD {
            return Err(bad());
        }
        if from.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn bad() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not the head of an HTTP/1.1 message")
}

fn parse(bytes: &[u8]) -> Option<Head> {
    let text = std::str::from_utf8(bytes).ok()?;
    if text.bytes().any(|byte| byte == 0) {
        return None;
    }
    let mut lines = text.split("\r\n");
    let first = lines.next()?.to_owned();
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let token = |byte: u8| byte.is_ascii_graphic();
        (!name.is_empty() && name.bytes().all(token))
            .then(|| (name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Some(Head { first, fields: lines.map(field).collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_head_is_read_with_what_follows_it() {
        let mut text = &b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\r\nrest"[..];

        let (head, rest) = read(&mut text).await.unwrap();

        assert_eq!((head.status(), rest.as_slice()), (Some(101), &b"rest"[..]));
        assert!(head.lists("connection", "upgrade") && !head.lists("connection", "up"));
        assert_eq!(head.field("upgrade"), Some("WebSocket"));
    }

    #[tokio::test]
    async fn what_is_no_head_is_refused() {
        let endless = [b'a'; 20_000];
        let cases: [&[u8]; 4] =
            [b"HTTP/1.1 200\r\nno colon\r\n\r\n", b"a\r\n b: c\r\n\r\n", b"\xff\r\n\r\n", &endless];
        for mut case in cases {
            assert_eq!(read(&mut case).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let mut half = &b"HTTP/1.1 200 OK\r\n"[..];
        assert_eq!(read(&mut half).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
