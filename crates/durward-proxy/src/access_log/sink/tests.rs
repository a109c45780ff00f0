//! Syslog and OTLP receivers that listen, go away and come back; and the lines they get.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::{Duration, Instant};

use durward_testkit::certificates::{Authority, CertSpec, server_config};
use serde_json::Value;

use super::*;

const LINE: &str = r#"{"ts":"2026-11-21T01:00:00.000042Z","kind":"egress-open","tenant":"acme","host":"b.example","port":443,"resolved":["192.0.2.1"],"verdict":"allowed","total_ms":1.500}"#;
const DENIED: &str = r#"{"ts":"2026-11-21T01:00:01.000000Z","kind":"egress-open","tenant":"acme","host":"bücher.example","verdict":"denied"}"#;
const DEADLINE: Duration = Duration::from_secs(20);

fn give(sink: &Sink, lines: &[&str]) {
    let buffer = sink.buffer();
    for line in lines {
        buffer.add(|out, _| writeln!(out, "{line}").unwrap());
    }
}

fn to(carrier: Carrier) -> Sink {
    Sink::syslog(SyslogTo { carrier, facility: 13 }).unwrap()
}

fn is_message(message: &str, priority: u8, line: &str) {
    let words: Vec<&str> = message.splitn(8, ' ').collect();
    let time = &line[7..34];
    assert_eq!(words[0], format!("<{priority}>1"), "{message}");
    assert_eq!((words[1], words[3]), (time, "durward"), "{message}");
    assert!(!words[2].is_empty(), "{message}");
    assert_eq!(words[4], std::process::id().to_string());
    assert_eq!((words[5], words[6]), ("egress-open", "-"));
    let text = if line.is_ascii() { line.to_owned() } else { format!("\u{feff}{line}") };
    assert_eq!(words[7], text);
}

// S2.49+
#[test]
fn syslog_over_udp_is_one_datagram_per_line() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(DEADLINE)).unwrap();
    let sink = to(Carrier::Udp(receiver.local_addr().unwrap().to_string()));

    give(&sink, &[LINE, DENIED]);

    let mut buffer = [0; 4096];
    for (line, priority) in [(LINE, 13 * 8 + 6), (DENIED, 13 * 8 + 4)] {
        let length = receiver.recv(&mut buffer).unwrap();
        is_message(std::str::from_utf8(&buffer[..length]).unwrap(), priority, line);
    }
    sink.close();
    assert_eq!(sink.lost(), 0);
}

// S2.49+
#[test]
fn syslog_over_tcp_counts_octets_and_survives_a_receiver_that_restarts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sink = to(Carrier::Tcp(listener.local_addr().unwrap().to_string()));

    give(&sink, &[LINE, DENIED]);
    let mut first = BufReader::new(accept(&listener));
    let received = [counted(&mut first), counted(&mut first)];
    drop(first);
    // The end of the connection has to be here before the next line is.
    std::thread::sleep(Duration::from_millis(200));
    give(&sink, &[LINE]);
    let again = counted(&mut BufReader::new(accept(&listener)));
    sink.close();

    is_message(&received[0], 13 * 8 + 6, LINE);
    is_message(&received[1], 13 * 8 + 4, DENIED);
    is_message(&again, 13 * 8 + 6, LINE);
    assert_eq!(sink.lost(), 0);
}

// S2.49+
#[test]
fn syslog_takes_the_local_socket_as_it_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let (datagrams, stream) = (dir.path().join("log"), dir.path().join("stream"));
    let receiver = UnixDatagram::bind(&datagrams).unwrap();
    receiver.set_read_timeout(Some(DEADLINE)).unwrap();
    let listener = UnixListener::bind(&stream).unwrap();

    let (one, other) = (to(Carrier::Unix(datagrams)), to(Carrier::Unix(stream)));
    give(&one, &[LINE]);
    give(&other, &[LINE]);

    let mut buffer = [0; 4096];
    let length = receiver.recv(&mut buffer).unwrap();
    is_message(std::str::from_utf8(&buffer[..length]).unwrap(), 110, LINE);
    let (accepted, _) = listener.accept().unwrap();
    is_message(&counted(&mut BufReader::new(accepted)), 110, LINE);
}

// S2.49
#[test]
fn a_collector_gets_log_records_by_otlp_and_is_tried_again_when_it_is_busy() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let headers = vec![("Authorization".to_owned(), "Bearer canary".to_owned())];
    let resource = vec![("deployment.environment".to_owned(), "test".to_owned())];
    let to = OtlpTo { authority, path: "/v1/logs".into(), headers, resource, ..OtlpTo::default() };
    assert!(!format!("{to:?}").contains("canary"));
    let sink = Sink::otlp(to).unwrap();

    give(&sink, &[LINE, DENIED]);
    let mut connection = BufReader::new(accept(&listener));
    let busy = posted(&mut connection);
    answer(connection.get_mut(), "503 Busy\r\nContent-Length: 0");
    let (head, body) = posted(&mut connection);
    answer(connection.get_mut(), "200 OK\r\nContent-Length: 0");
    give(&sink, &[LINE]);
    let (_, kept) = posted(&mut connection);
    answer(connection.get_mut(), "400 Bad\r\nContent-Length: 0");
    sink.close();

    assert_eq!(busy.1, body, "the same lines, on the same connection");
    assert!(head.starts_with("POST /v1/logs HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("Content-Type: application/json\r\n") && head.contains("Bearer canary"));
    let logs = &body["resourceLogs"][0];
    assert_eq!(logs["resource"]["attributes"][0]["value"]["stringValue"], "durward");
    assert_eq!(logs["resource"]["attributes"][3]["value"]["stringValue"], "test");
    let records = logs["scopeLogs"][0]["logRecords"].as_array().unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0]["timeUnixNano"], "1795222800000042000");
    assert_eq!(
        (&records[0]["severityNumber"], &records[1]["severityNumber"]),
        (&9.into(), &13.into())
    );
    assert_eq!(records[1]["attributes"][1]["value"]["stringValue"], "acme");
    let fields = records[0]["body"]["kvlistValue"]["values"].as_array().unwrap();
    let field = |key: &str| &fields.iter().find(|field| field["key"] == key).unwrap()["value"];
    assert_eq!(field("port")["intValue"], "443");
    assert_eq!(field("total_ms")["doubleValue"], 1.5);
    assert_eq!(field("resolved")["arrayValue"]["values"][0]["stringValue"], "192.0.2.1");
    assert_eq!(kept["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap().len(), 1);
    assert_eq!(sink.lost(), 1, "what a collector does not want is lost and counted");
}

// S2.49+
#[test]
fn a_collector_is_verified() {
    let authority = Authority::new("collectors");
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, Authority::new("others").pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let issued = authority.issue(&CertSpec::new().ip(at.ip()).server());
    let server = std::thread::spawn(move || {
        let mut stream = accept(&listener);
        let config = server_config(&issued, None);
        let mut session = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        session.complete_io(&mut stream).is_err()
    });

    let to = OtlpTo { authority: at.to_string(), tls: true, ca: Some(ca), ..OtlpTo::default() };
    let sink = Sink::otlp(to).unwrap();
    give(&sink, &[LINE]);

    assert!(server.join().unwrap(), "the handshake must fail");
    sink.close();
    assert_eq!(sink.lost(), 1);
}

// S2.49+
#[test]
fn a_dead_collector_costs_lines_not_time_and_the_other_sinks_nothing() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (memory, lines) = Sink::memory().unwrap();
    let otlp = OtlpTo { authority: dead.clone(), path: "/v1/logs".into(), ..OtlpTo::default() };
    let sink = to(Carrier::Tcp(dead)).and(Sink::otlp(otlp).unwrap()).and(memory);
    let began = Instant::now();

    let buffer = sink.buffer();
    for _ in 0..100_000 {
        buffer.add(|out, _| writeln!(out, "{LINE}").unwrap());
    }
    let given = began.elapsed();
    drop(buffer);
    sink.close();

    assert!(given < Duration::from_secs(10), "{given:?}");
    let lost = sink.lost_by_kind();
    assert_eq!(lost[..2], [("syslog", 100_000), ("otlp", 100_000)]);
    assert_eq!(lines.read().len() as u64 + lost[2].1, 100_000);
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Reads one message with octet counting.
fn counted(stream: &mut impl BufRead) -> String {
    let mut length = Vec::new();
    stream.read_until(b' ', &mut length).unwrap();
    let length: usize = std::str::from_utf8(&length).unwrap().trim().parse().unwrap();
    let mut message = vec![0; length];
    stream.read_exact(&mut message).unwrap();
    String::from_utf8(message).unwrap()
}

/// Reads one request: its head and its body.
fn posted(stream: &mut impl BufRead) -> (String, Value) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).unwrap() > 0, "the end came too early: {head}");
    }
    let (_, rest) = head.split_once("Content-Length: ").unwrap();
    let length: usize = rest.split_once("\r\n").unwrap().0.parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, serde_json::from_slice(&body).unwrap())
}

fn answer(stream: &mut TcpStream, text: &str) {
    stream.write_all(format!("HTTP/1.1 {text}\r\n\r\n").as_bytes()).unwrap();
}

#[test]
fn lines_that_wait_are_bounded_by_their_bytes_too() {
    let (sink, lines) = Sink::memory().unwrap();
    let long = vec![b'x'; 1024 * 1024];
    let held = lines.hold();

    // The writer has taken one at the most, and waits.
    (0..20).for_each(|_| sink.offer([&long[..], b"\n"].concat(), 1));

    assert_eq!(sink.lost(), 17, "three of them are 4 MiB");
    drop(held);
    sink.close();
    assert_eq!(lines.read().len() as u64, 20 - sink.lost());
}
