//! Label and field selectors.

use std::collections::BTreeMap;

use serde_json::Value;

use super::store::Stored;

/// What a list or watch is limited to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    /// Namespace; empty for all.
    pub(crate) namespace: String,
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRequirement {
    field: String,
    value: String,
    /// True if the field must have the value.
    equal: bool,
}

impl Selector {
    /// Reads the selectors of a request.
    ///
    /// # Errors
    /// If a selector cannot be read.
    pub(crate) fn read(namespace: &str, labels: &str, fields: &str) -> Result<Self, String> {
        let labels = split(labels).into_iter().map(|part| {
            requirement(part).ok_or_else(|| format!("unable to parse requirement: {part}"))
        });
        let fields = fields.split(',').filter(|part| !part.is_empty()).map(|part| {
            field_requirement(part)
                .ok_or_else(|| format!("invalid selector: '{part}'; can't understand '{part}'"))
        });
        Ok(Self {
            namespace: namespace.to_owned(),
            labels: labels.collect::<Result<_, _>>()?,
            fields: fields.collect::<Result<_, _>>()?,
        })
    }

    /// Names of the fields that are selected by.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|requirement| requirement.field.as_str())
    }

    /// Returns the name that a field selector limits to.
    pub(crate) fn name(&self) -> Option<&str> {
        let names = self.fields.iter().filter(|one| one.equal && one.field == "metadata.name");
        names.map(|one| one.value.as_str()).next()
    }

    pub(crate) fn matches(&self, object: &Stored) -> bool {
        let in_namespace = self.namespace.is_empty() || self.namespace == object.key.namespace;
        in_namespace
            && self.labels.iter().all(|one| one.matches(&object.labels))
            && self.fields_match(object)
    }

    fn fields_match(&self, object: &Stored) -> bool {
        let mut parsed: Option<Value> = None;
        self.fields.iter().all(|one| {
            let found = match one.field.as_str() {
                "metadata.name" => object.key.name.clone(),
                "metadata.namespace" => object.key.namespace.clone(),
                field => text_at(parsed.get_or_insert_with(|| object.value()), field),
            };
            (found == one.value) == one.equal
        })
    }
}

/// Returns a field as selectors compare it; a missing one is empty.
fn text_at(object: &Value, field: &str) -> String {
    let found = field.split('.').try_fold(object, |value, key| value.get(key));
    match found {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

impl Requirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::Missing(key) => !labels.contains_key(key),
        }
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let parts = text.split(move |letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn requirement(part: &str) -> Option<Requirement> {
    let key = |text: &str| text.trim().to_owned();
    if let Some((left, list)) = part.split_once('(') {
        let values = list.strip_suffix(')')?.split(',').map(|value| value.trim().to_owned());
        let mut words = left.split_whitespace();
        let (name, operator) = (words.next()?.to_owned(), words.next()?);
        return match operator {
            "in" => Some(Requirement::In(name, values.collect())),
            "notin" => Some(Requirement::NotIn(name, values.collect())),
            _ => None,
        };
    }
    if let Some((name, value)) = part.split_once("!=") {
        return Some(Requirement::NotIn(key(name), vec![key(value)]));
    }
    if let Some((name, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Requirement::In(key(name), vec![key(value)]));
    }
    match part.strip_prefix('!') {
        Some(name) => Some(Requirement::Missing(key(name))),
        None => Some(Requirement::Exists(key(part))),
    }
}

fn field_requirement(part: &str) -> Option<FieldRequirement> {
    let (equal, (field, value)) = match part.split_once("!=") {
        Some(pair) => (false, pair),
        None => (true, part.split_once("==").or_else(|| part.split_once('='))?),
    };
    Some(FieldRequirement { field: field.to_owned(), value: value.to_owned(), equal })
}

/// Returns whether a `LabelSelector` object matches labels; an empty one matches all.
pub(crate) fn label_selector_matches(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels[key].as_str();
    let exact = selector["matchLabels"].as_object().into_iter().flatten();
    let mut expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    exact.into_iter().all(|(key, value)| label(key) == value.as_str())
        && expressions.all(|expression| {
            let found = label(expression["key"].as_str().unwrap_or_default());
            let listed = expression["values"].as_array().is_some_and(|values| {
                values.iter().any(|value| found.is_some() && value.as_str() == found)
            });
            match expression["operator"].as_str() {
                Some("In") => listed,
                Some("NotIn") => !listed,
                Some("Exists") => found.is_some(),
                Some("DoesNotExist") => found.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_selectors_are_read_in_all_forms() {
        let selector =
            Selector::read("", "a=b,c in (d, e),!f,g,h!=i, j notin (k)", "").expect("valid");
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        let matches = |labels: &BTreeMap<String, String>| {
            selector.labels.iter().all(|one| one.matches(labels))
        };

        assert!(matches(&labels(&[("a", "b"), ("c", "e"), ("g", "")])));
        assert!(!matches(&labels(&[("a", "b"), ("c", "x"), ("g", "")])));
        assert!(!matches(&labels(&[("a", "b"), ("c", "e"), ("g", ""), ("f", "")])));
        assert!(!matches(&labels(&[("a", "b"), ("c", "e"), ("g", ""), ("h", "i")])));
    }
}
