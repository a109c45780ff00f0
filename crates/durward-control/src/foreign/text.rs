//! Texts of foreign objects, held to the rules of the API server that took them in.
//!
//! An object may also come from a file, or from a server that checks less. A text that breaks the rules is rejected; it is never repaired,
//! unquoted or expanded.

use std::net::IpAddr;

use durward_model::path;
use ipnet::IpNet;

/// Returns the text in quotes with everything escaped that a terminal or a log would act on, at most 80 characters of it.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(80) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

/// Returns whether the text is a DNS subdomain (RFC 1123) in lower case.
pub(super) fn is_subdomain(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.split('.').all(is_label)
}

/// Returns whether the text is a DNS label (RFC 1123) in lower case.
pub(super) fn is_label(text: &str) -> bool {
    let edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let bytes = text.as_bytes();
    text.len() <= 63
        && bytes.iter().all(|byte| inner(*byte))
        && edge(bytes.first())
        && edge(bytes.last())
}

/// Returns whether the text is the name of a port: a label with a letter in it and at most 15 characters.
pub(super) fn is_port_name(text: &str) -> bool {
    text.len() <= 15 && is_label(text) && text.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// Reads a path as the API server lets it in: absolute, without a sequence that servers read differently.
///
/// # Errors
/// When it is none; the phrase follows the field.
pub(super) fn path(text: &str) -> Result<String, String> {
    let refused = ["//", "/./", "/../", "%2f", "%2F"].into_iter().find(|part| text.contains(part));
    if let Some(part) = refused {
        return Err(format!("{} has {part:?} in it, which an Ingress must not have", shown(text)));
    }
    if text.contains(['?', '#']) {
        return Err(format!(
            "{} has a query or fragment, which no path of a request has",
            shown(text)
        ));
    }
    let path = path::normalise(text).map_err(|fault| format!("{}: {fault}", shown(text)))?;
    Ok(path.into_owned())
}

/// Reads `true` or `false` as Go's `strconv.ParseBool` does, which controllers use.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Reads networks between commas.
///
/// # Errors
/// When one of them is none, or there is none; the phrase follows the field.
pub(super) fn networks(text: &str) -> Result<Vec<String>, String> {
    let mut networks = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let network = part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
        let network = network.map_err(|_| format!("{} is no network", shown(part)))?;
        networks.push(network.trunc().to_string());
    }
    if networks.is_empty() {
        return Err(format!("{} names no network", shown(text)));
    }
    Ok(networks)
}
