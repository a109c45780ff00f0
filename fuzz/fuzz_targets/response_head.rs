//! Any bytes as the head of a response; the promises are in `http::fuzzing`.
#![no_main]

use durward_proxy::fuzzing::response_head;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| response_head(bytes));
