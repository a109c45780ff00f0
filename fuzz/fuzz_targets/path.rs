//! Any text as a path: its normal form is stable, and no spelling of a dot segment survives.
#![no_main]

use durward_model::path::normalise;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(normal) = normalise(text) else { return };
    assert!(normal.starts_with('/') && normal.bytes().all(|byte| byte > b' ' && byte < 0x7f));
    assert_eq!(normalise(&normal).as_deref(), Ok(&*normal));
    let decoded =
        normal.replace("%2f", "/").replace("%2F", "/").replace("%5c", "/").replace("%5C", "/");
    assert!(decoded.split('/').all(|segment| segment != "." && segment != ".."), "{text}");
});
