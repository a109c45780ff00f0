//! Any bytes as the head of a request; the promises are in `http::fuzzing`.
#![no_main]

use durward_proxy::fuzzing::request_head;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| request_head(bytes));
