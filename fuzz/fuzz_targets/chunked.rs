//! Any bytes as a body in chunks; the promises are in `http::fuzzing`.
#![no_main]

use durward_proxy::fuzzing::chunked;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| chunked(bytes));
