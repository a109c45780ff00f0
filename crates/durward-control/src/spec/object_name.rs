//! Names of objects of a cluster, where a document has the name of a file: `secret:NAME/KEY`, `configMap:NAMESPACE/NAME/KEY`.
//!
//! A name is checked to its last letter before it is looked up, so that no spelling of it leads out of its namespace.

use durward_model::Kind;

/// Thing that a written name of a file stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrittenName<'a> {
    /// A file of the host.
    File(&'a str),
    /// An entry of a Secret or `ConfigMap`.
    Entry(EntryName<'a>),
}

/// Name of an entry of a Secret or `ConfigMap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryName<'a> {
    /// `Secret` or `ConfigMap`.
    pub kind: Kind,
    /// The namespace, if one is written.
    pub namespace: Option<&'a str>,
    /// Name of the object.
    pub name: &'a str,
    /// Key of the entry.
    pub key: &'a str,
}

/// Beginnings of names of entries.
const PREFIXES: [(&str, Kind); 2] = [("secret:", Kind::Secret), ("configMap:", Kind::ConfigMap)];

/// Returns what a name stands for.
///
/// # Errors
/// Fails if it begins like the name of an entry and is none: the phrase says what is wrong with it, and how it is written.
pub fn parse(written: &str) -> Result<WrittenName<'_>, String> {
    let known = PREFIXES
        .into_iter()
        .find_map(|(prefix, kind)| Some((prefix, kind, written.strip_prefix(prefix)?)));
    let Some((prefix, kind, rest)) = known else { return Ok(WrittenName::File(written)) };
    let parts: Vec<&str> = rest.split('/').collect();
    let (namespace, name, key) = match parts[..] {
        [name, key] => (None, name, key),
        [namespace, name, key] => (Some(namespace), name, key),
        _ => return Err(format!("names no entry: write {prefix}NAME/KEY")),
    };
    if let Some(namespace) = namespace.filter(|namespace| !is_namespace(namespace)) {
        return Err(format!("has {namespace:?} for a namespace, which is no name of one"));
    }
    if !is_object_name(name) {
        return Err(format!("has {name:?} for a name, which no {kind} can have"));
    }
    if !is_key(key) {
        return Err(format!("has {key:?} for a key, which no {kind} can have"));
    }
    Ok(WrittenName::Entry(EntryName { kind, namespace, name, key }))
}

/// Returns whether `text` can be the name of a namespace, or of a Service: a DNS label (RFC 1123).
#[must_use]
pub fn is_namespace(text: &str) -> bool {
    text.len() <= 63 && !text.contains('.') && is_object_name(text)
}

/// Returns whether `text` can be the name of a Secret or `ConfigMap`: a DNS subdomain (RFC 1123).
#[must_use]
pub fn is_object_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = |label: &str| {
        label.bytes().all(inner)
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Returns whether `text` can be a key of a Secret or `ConfigMap`.
fn is_key(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=253).contains(&text.len())
        && text.bytes().all(fits)
        && text != "."
        && !text.starts_with("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_an_entry_says_its_kind_and_its_namespace_if_it_has_one() {
        let entry = |kind, namespace, name, key| {
            Ok(WrittenName::Entry(EntryName { kind, namespace, name, key }))
        };
        for (written, expected) in [
            ("secret:shop/tls.crt", entry(Kind::Secret, None, "shop", "tls.crt")),
            ("configMap:a.b/CA_1", entry(Kind::ConfigMap, None, "a.b", "CA_1")),
            ("secret:other/shop/x", entry(Kind::Secret, Some("other"), "shop", "x")),
            ("certs/shop.crt", Ok(WrittenName::File("certs/shop.crt"))),
            ("Secret:a/b", Ok(WrittenName::File("Secret:a/b"))),
            ("./secret:a/b", Ok(WrittenName::File("./secret:a/b"))),
        ] {
            assert_eq!(parse(written), expected, "{written}");
        }
    }

    #[test]
    fn a_spelling_that_could_lead_elsewhere_is_no_name() {
        let long = format!("secret:{}/k", "a".repeat(254));
        for written in [
            "secret:",
            "secret:a",
            "secret:/a",
            "secret:a/",
            "secret:../x",
            "secret:../x/k",
            "secret:a/../k",
            "secret:a/b/c/d",
            "secret:a/..",
            "secret:a/..data",
            "secret:a/.",
            "secret:A/k",
            "secret:a b/k",
            "secret:a/k?watch=1",
            "secret:a/k\n",
            "secret:%2e%2e/k",
            "secret:a.b/c/k",
            "secret:-a/k",
            "configMap:a\0/k",
            "secret://a/k",
            "secret:a//k",
            &long,
        ] {
            assert!(parse(written).is_err(), "{written}");
        }
    }
}
