//! Any bytes as messages of SOCKS 5: read whole and byte by byte alike, and never beyond their own end.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| durward_proxy::fuzzing::socks(bytes));
