//! Any bytes as the frames of an HTTP/2 client; the promises are in `http::fuzzing`.
#![no_main]

use durward_proxy::fuzzing::h2_session;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| h2_session(bytes));
