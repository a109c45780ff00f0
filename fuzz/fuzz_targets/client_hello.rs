//! Any bytes through our ClientHello parser, whole and cut short, against the TLS library's own reading of them.
#![no_main]

use durward_proxy::peek::client_hello::{MAX_WIRE, Progress, parse};
use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(Progress::Complete(ours)) => {
            // What is complete stays so when more follows, and was not complete a byte earlier than it says.
            let more = [bytes, b"\x17\x03\x03\x00\x01\x00"].concat();
            assert_eq!(parse(&more), Ok(Progress::Complete(ours.clone())));
            if let Some(theirs) = read_by_library(bytes) {
                // Ours is the name without the dot that may end it.
                let theirs = theirs.map(|name| name.trim_end_matches('.').to_owned());
                assert_eq!(ours.server_name, theirs, "{bytes:?}");
            }
        }
        Ok(Progress::Missing(total)) => {
            assert!(total > bytes.len());
            assert!(bytes.len() <= MAX_WIRE + 16 * 1024 + 5, "kept waiting beyond the bound");
        }
        Err(_) => {}
    }
});

/// The name the TLS library reads; `None` when it refuses the hello or wants more.
fn read_by_library(mut bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).ok()?;
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return Some(hello.server_name().map(str::to_ascii_lowercase));
            }
            Ok(None) => {}
            Err(_) => return None,
        }
    }
    None
}
