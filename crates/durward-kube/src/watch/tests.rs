//! What does not need a server.

use super::*;

#[test]
fn resource_versions_are_compared_as_numbers_of_any_length() {
    assert!(is_later("10", "9") && is_later("2", "1") && !is_later("9", "10"));
    assert!(!is_later("7", "7") && !is_later("", "1") && is_later("1", ""));
    assert!(is_later(
        "100000000000000000000000000000000001",
        "100000000000000000000000000000000000"
    ));
}
