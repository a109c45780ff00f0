//! Any text as a host: what is taken has one form, and nothing that is taken as a name could be read as an address by anybody else.
#![no_main]

use std::net::IpAddr;

use durward_model::egress::Host;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    durward_proxy::fuzzing::connect_target(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(host) = Host::parse(text) else { return };
    assert_eq!(Host::parse(&host.to_string()).as_ref(), Ok(&host), "{text:?} has two forms");
    match &host {
        Host::Address(address) => assert_eq!(*address, address.to_canonical()),
        Host::Name(name) => {
            assert!(name.parse::<IpAddr>().is_err());
            assert!(!aton(name), "{text:?} is an address to the C library");
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
        }
    }
});

/// Whether `inet_aton` would take it: one to four numbers, decimal, octal or hexadecimal.
fn aton(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let number = |part: &&str| {
        let (digits, radix) = match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
            Some(digits) => (digits, 16),
            None if part.len() > 1 && part.starts_with('0') => (&part[1..], 8),
            None => (*part, 10),
        };
        !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix))
    };
    (1..=4).contains(&parts.len()) && parts.iter().all(number)
}
