//! Ends of responses: every combination of method, status, versions on both sides and form of content, byte by byte.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use durward_model::upstream::UpstreamProtocol;
use durward_testkit::client::h2_frames::{flag, frame, header_block, kind, read_frame};
use durward_testkit::origin::{RawConnection, RawOrigin};
use http::Method;

use super::support::{Rig, Setup};

/// Form in which an upstream announces the end of a response. A response without content by its method or status is sent without any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `Content-Length`, also where there is no content.
    Length,
    Chunked,
    UntilClose,
    /// HTTP/2: END_STREAM on HEADERS, without a length.
    EndOnHead,
    /// HTTP/2: an empty DATA frame ends the stream.
    EmptyData,
    /// HTTP/2: a length is named and an empty DATA frame ends the stream.
    LengthEmptyData,
    /// HTTP/2: DATA without a length.
    Data,
    /// HTTP/2: DATA and trailers.
    Trailers,
}

const BODY: &str = "hello";
const METHODS: [&str; 3] = ["GET", "HEAD", "POST"];
const STATUSES: [u16; 10] = [200, 201, 203, 204, 205, 302, 304, 401, 404, 500];
const HTTP1: [Form; 3] = [Form::Length, Form::Chunked, Form::UntilClose];
pub(super) const HTTP2: [Form; 6] = [
    Form::Length,
    Form::EndOnHead,
    Form::EmptyData,
    Form::LengthEmptyData,
    Form::Data,
    Form::Trailers,
];

#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) method: &'static str,
    pub(super) status: u16,
    form: Form,
}

impl Case {
    pub(super) fn all(forms: &'static [Form]) -> Vec<Self> {
        let cases = METHODS.into_iter().flat_map(|method| {
            STATUSES.into_iter().flat_map(move |status| {
                forms.iter().map(move |form| Self { method, status, form: *form })
            })
        });
        cases.collect()
    }

    /// Returns true if the response ends with its head (RFC 9112 section 6.3, items 1 and 2; RFC 9110 section 15.3.6).
    fn bare(self) -> bool {
        self.method == "HEAD" || matches!(self.status, 204 | 205 | 304)
    }

    pub(super) fn content(self) -> &'static str {
        let empty = matches!(self.form, Form::EndOnHead | Form::EmptyData | Form::LengthEmptyData);
        if self.bare() || empty { "" } else { BODY }
    }

    /// Returns the length that a sender announces: that of a GET's content, if the response itself has none.
    fn named(self) -> usize {
        match self.form {
            Form::LengthEmptyData if !self.bare() => 0,
            _ if self.status == 205 => 0,
            _ => BODY.len(),
        }
    }

    fn reason(self) -> &'static str {
        http::StatusCode::from_u16(self.status).unwrap().canonical_reason().unwrap()
    }

    fn http1(self, version: &str) -> Vec<u8> {
        let framing = match self.form {
            Form::Length => format!("Content-Length: {}\r\n", self.named()),
            Form::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            _ => String::new(),
        };
        let body = match self.form {
            // Chunks without data are content of a 205, too.
            Form::Chunked if self.status == 205 && self.method != "HEAD" => "0\r\n\r\n".to_owned(),
            Form::Chunked if !self.bare() => format!("5\r\n{BODY}\r\n0\r\n\r\n"),
            _ => self.content().to_owned(),
        };
        format!("{version} {} {}\r\n{framing}\r\n{body}", self.status, self.reason()).into()
    }

    fn http2(self, stream: u32) -> Vec<u8> {
        let status = self.status.to_string();
        let length = self.named().to_string();
        let mut fields = vec![(":status", status.as_str())];
        if matches!(self.form, Form::Length | Form::LengthEmptyData) {
            fields.push(("content-length", &length));
        }
        let head =
            |end: u8| frame(kind::HEADERS, flag::END_HEADERS | end, stream, &header_block(&fields));
        let end = flag::END_STREAM_OR_ACK;
        let data = |end| frame(kind::DATA, end, stream, self.content().as_bytes());
        match self.form {
            Form::EndOnHead => head(end),
            Form::Length if self.bare() => head(end),
            Form::Trailers => {
                let trailers = header_block(&[("x-sum", "1")]);
                let trailers = frame(kind::HEADERS, flag::END_HEADERS | end, stream, &trailers);
                [head(0), data(0), trailers].concat()
            }
            _ => [head(0), data(end)].concat(),
        }
    }

    /// Returns the bytes that an HTTP/1 client must read, and whether its connection ends there.
    fn expected(self, version: &str) -> (String, bool) {
        let length = |length: usize| format!("Content-Length: {length}\r\n");
        let names = matches!(self.form, Form::Length | Form::LengthEmptyData);
        let old = version == "HTTP/1.0";
        let open = !self.bare() && !names && self.form != Form::EndOnHead;
        let framing = match self.status {
            204 => String::new(),
            205 => length(0),
            _ if names => length(self.named()),
            _ if self.bare() => String::new(),
            _ if self.form == Form::EndOnHead => length(0),
            _ if old => String::new(),
            _ => "Transfer-Encoding: chunked\r\n".to_owned(),
        };
        let trailer = if self.form == Form::Trailers { "x-sum: 1\r\n" } else { "" };
        let body = match self.content() {
            "" if open && !old => format!("0\r\n{trailer}\r\n"),
            body if open && !old => format!("5\r\n{body}\r\n0\r\n{trailer}\r\n"),
            body => body.to_owned(),
        };
        let connection = if old { "Connection: close\r\n" } else { "" };
        let head =
            format!("HTTP/1.1 {} {}\r\n{framing}{connection}\r\n", self.status, self.reason());
        (head + &body, old)
    }
}

/// The answers an upstream gives, in order; `None` is 200 with `second`.
#[derive(Clone, Default)]
pub(super) struct Script(Arc<Mutex<VecDeque<Option<Case>>>>);

impl Script {
    pub(super) fn push(&self, case: Option<Case>) {
        self.0.lock().unwrap().push_back(case);
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    fn next(&self) -> Option<Case> {
        self.0.lock().unwrap().pop_front().expect("a request nobody sent")
    }
}

fn http1_origin(version: &'static str, script: Script) -> RawOrigin {
    RawOrigin::start("127.0.0.1:0", move |mut connection: RawConnection| {
        let script = script.clone();
        async move {
            while let Ok(Some(_)) = connection.read_request().await {
                let case = script.next();
                let answer = match case {
                    Some(case) => case.http1(version),
                    None => b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond".to_vec(),
                };
                let closes = case.is_some_and(|case| {
                    version == "HTTP/1.0"
                        || (case.form == Form::UntilClose && (!case.bare() || case.status == 205))
                });
                if connection.send(answer).await.is_err() || closes {
                    return;
                }
            }
        }
    })
}

/// Starts an HTTP/2 upstream that sends the frames `answer` returns for each stream.
pub(super) fn http2_origin(answer: impl Fn(u32) -> Vec<u8> + Clone + Send + 'static) -> RawOrigin {
    http2_origin_with(&[], Duration::ZERO, answer)
}

/// The same, with these settings, which come late.
pub(super) fn http2_origin_with(
    settings: &'static [u8],
    late: Duration,
    answer: impl Fn(u32) -> Vec<u8> + Clone + Send + 'static,
) -> RawOrigin {
    RawOrigin::start("127.0.0.1:0", move |mut connection: RawConnection| {
        let answer = answer.clone();
        async move {
            if connection.read_exactly(24).await.is_err() {
                return;
            }
            tokio::time::sleep(late).await;
            connection.send(frame(kind::SETTINGS, 0, 0, settings)).await.unwrap();
            loop {
                let Ok(head) = connection.read_exactly(9).await else { return };
                let length = usize::from(head[1]) << 8 | usize::from(head[2]);
                let Ok(payload) = connection.read_exactly(length).await else { return };
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                let reply = match head[3] {
                    kind::HEADERS => answer(stream),
                    kind::SETTINGS if head[4] & 1 == 0 => frame(kind::SETTINGS, 1, 0, &[]),
                    kind::PING if head[4] & 1 == 0 => frame(kind::PING, 1, 0, &payload),
                    _ => continue,
                };
                if connection.send(reply).await.is_err() {
                    return;
                }
            }
        }
    })
}

/// Starts an HTTP/2 upstream that answers by a script.
pub(super) fn scripted(script: Script) -> RawOrigin {
    http2_origin(move |stream| match script.next() {
        Some(case) => case.http2(stream),
        None => answer(stream, &[(":status", "200"), ("content-length", "6")], b"second"),
    })
}

/// Builds HEADERS with these fields, and DATA that ends the stream.
pub(super) fn answer(stream: u32, fields: &[(&str, &str)], data: &[u8]) -> Vec<u8> {
    let head = frame(kind::HEADERS, flag::END_HEADERS, stream, &header_block(fields));
    [head, frame(kind::DATA, flag::END_STREAM_OR_ACK, stream, data)].concat()
}

async fn http1_clients(rig: &Rig, cases: &[Case], script: &Script) {
    for case in cases {
        for version in ["HTTP/1.0", "HTTP/1.1"] {
            let (expected, ends) = case.expected(version);
            script.push(Some(*case));
            if !ends {
                script.push(None);
            }
            let mut client = rig.client().await;
            let length = if case.method == "POST" { "Content-Length: 0\r\n" } else { "" };
            let first = format!("{} / {version}\r\nHost: a\r\n{length}\r\n", case.method);
            let second = "GET /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

            client.send(first + second).await.unwrap();
            let read = client.read_until_close().await.unwrap();

            let next = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecond";
            let all = if ends { expected } else { expected + next };
            assert_eq!(String::from_utf8_lossy(&read), all, "{case:?} {version}");
        }
    }
}

async fn http2_clients(rig: &Rig, cases: &[Case], script: &Script) {
    let builder = h2::client::Builder::new();
    let stream = rig.stream().await;
    let client = durward_testkit::client::H2Client::over(stream, &builder, "a").await.unwrap();
    for case in cases {
        script.push(Some(*case));
        script.push(None);
        let method = Method::from_bytes(case.method.as_bytes()).unwrap();
        let request = client.request(method, "/");

        let read = client.send(request, "".into(), None).await.unwrap();

        assert_eq!((read.status, read.text().as_str()), (case.status, case.content()), "{case:?}");
        let named = matches!(case.form, Form::Length | Form::LengthEmptyData);
        let length = match case.status {
            204 => None,
            205 => Some(0),
            _ if named => Some(case.named()),
            _ if case.form == Form::EndOnHead && !case.bare() => Some(0),
            _ => None,
        };
        let length = length.map(|length| length.to_string());
        assert_eq!(read.header("content-length"), length.as_deref(), "{case:?}");
        assert_eq!(client.get("/second").await.unwrap().text(), "second", "{case:?}");
    }
}

// S1.38
#[tokio::test]
async fn every_response_of_an_http1_upstream_ends_where_the_rfc_says() {
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let forms: &'static [Form] =
            if version == "HTTP/1.0" { &[Form::Length, Form::UntilClose] } else { &HTTP1 };
        let (cases, script) = (Case::all(forms), Script::default());
        assert_eq!(cases.len(), METHODS.len() * STATUSES.len() * forms.len());
        let origin = http1_origin(version, script.clone());
        Setup::to(origin.address())
            .run(|rig| async move {
                http1_clients(&rig, &cases, &script).await;
                http2_clients(&rig, &cases, &script).await;
            })
            .await;
    }
}

// S1.38
#[tokio::test]
async fn every_response_of_an_http2_upstream_ends_where_the_rfc_says() {
    let (cases, script) = (Case::all(&HTTP2), Script::default());
    assert_eq!(cases.len(), METHODS.len() * STATUSES.len() * HTTP2.len());
    let origin = scripted(script.clone());
    let mut setup = Setup::to(origin.address());
    setup.upstream.protocol = UpstreamProtocol::Http2;
    setup
        .run(|rig| async move {
            http1_clients(&rig, &cases, &script).await;
            http2_clients(&rig, &cases, &script).await;
        })
        .await;
}

/// Content that would pass for the next response.
const POISON: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON";

// S1.38
#[tokio::test]
async fn content_where_none_may_be_never_reaches_a_client() {
    for (method, status) in [("HEAD", "200"), ("GET", "204"), ("GET", "205"), ("GET", "304")] {
        let origin = http2_origin(move |stream| answer(stream, &[(":status", status)], POISON));
        let mut setup = Setup::to(origin.address());
        setup.upstream.protocol = UpstreamProtocol::Http2;
        setup
            .run(|rig| async move {
                let mut client = rig.client().await;
                let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");

                client.send(request.repeat(2)).await.unwrap();
                let read = client.read_until_close().await.unwrap();

                let read = String::from_utf8_lossy(&read);
                assert!(read.starts_with(&format!("HTTP/1.1 {status} ")), "{read}");
                assert!(
                    !read.contains("POISON") && read.matches("HTTP/1.1").count() == 1,
                    "{read}"
                );
                assert_eq!(rig.log(1).await[0]["reason"], "bad_response");
            })
            .await;
    }
}

// S1.38
#[tokio::test]
async fn a_length_that_disagrees_with_the_data_breaks_the_response_off() {
    for length in ["4", "6", "0"] {
        let fields = [(":status", "200"), ("content-length", length)];
        let origin = http2_origin(move |stream| answer(stream, &fields, b"hello"));
        let mut setup = Setup::to(origin.address());
        setup.upstream.protocol = UpstreamProtocol::Http2;
        setup
            .run(|rig| async move {
                let mut client = rig.client().await;
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();

                let read = client.read_response().await;

                let whole = read.as_ref().is_ok_and(|read| read.status == 200 && length != "0");
                assert!(!whole, "{length}: {read:?}");
            })
            .await;
    }
}

// S1.40
#[tokio::test]
async fn a_connection_on_which_content_was_announced_with_204_or_304_serves_nobody_else() {
    for head in [
        "HTTP/1.1 204 No Content\r\nContent-Length: 5",
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5",
    ] {
        let origin = RawOrigin::replying("127.0.0.1:0", format!("{head}\r\n\r\n"));
        Setup::to(origin.address())
            .run(|rig| async move {
                let mut client = rig.client().await;

                for _ in 0..2 {
                    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
                    assert!(matches!(client.read_response().await.unwrap().status, 204 | 304));
                }

                assert_eq!(origin.connections(), 2, "{head}");
            })
            .await;
    }
}

// S1.38
#[tokio::test]
async fn an_end_in_a_frame_of_its_own_does_not_hold_the_answer_up() {
    let block = header_block(&[(":status", "204")]);
    let origin =
        http2_origin(move |stream| frame(kind::HEADERS, flag::END_HEADERS, stream, &block));
    let mut setup = Setup::to(origin.address());
    setup.upstream.protocol = UpstreamProtocol::Http2;
    setup
        .run(|rig| async move {
            let mut stream = rig.stream().await;
            let opening = durward_testkit::client::h2_frames::opening();
            let get = durward_testkit::client::h2_frames::get(1, "http", "a", "/");
            tokio::io::AsyncWriteExt::write_all(&mut stream, &[opening, get].concat())
                .await
                .unwrap();

            let head = loop {
                let frame = read_frame(&mut stream).await.unwrap();
                if frame.kind == kind::HEADERS {
                    break frame;
                }
            };

            assert_eq!(head.flags & flag::END_STREAM_OR_ACK, 1);
        })
        .await;
}
