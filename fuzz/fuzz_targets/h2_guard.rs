//! Any bytes as HTTP/2 frames; the promises are in `http::fuzzing`.
#![no_main]

use durward_proxy::fuzzing::h2_guard;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| h2_guard(bytes));
