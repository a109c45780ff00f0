//! Any bytes through the PROXY header parser, whole and cut short.
#![no_main]

use durward_proxy::peek::proxy_header::{Extensions, Header, MAX_V1, MAX_V2, Progress, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(Progress::Complete(header, length)) => {
            assert!(length <= bytes.len() && length <= MAX_V2);
            // The header alone says the same, and nothing shorter is complete.
            assert_eq!(parse(&bytes[..length]), Ok(Progress::Complete(header.clone(), length)));
            if let Header::Proxied { extensions: Extensions { authority, unique_id }, .. } = header {
                assert!(authority.is_none_or(|name| (1..=255).contains(&name.len())));
                assert!(unique_id.is_none_or(|id| id.len() <= 2 + 2 * 128 && id.is_ascii()));
            }
            for cut in 0..length {
                match parse(&bytes[..cut]) {
                    Ok(Progress::Missing(more)) => assert!(more > 0 && cut + more <= length),
                    Ok(Progress::MissingLineEnd) => assert!(length <= MAX_V1),
                    other => panic!("{other:?} at {cut} of {length}"),
                }
            }
        }
        Ok(Progress::Missing(more)) => assert!(more > 0 && bytes.len() + more <= MAX_V2),
        Ok(Progress::MissingLineEnd) => assert!(bytes.len() < MAX_V1),
        Err(_) => {}
    }
});
