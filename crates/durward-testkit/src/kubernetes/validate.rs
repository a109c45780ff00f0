//! Validation of custom objects by their schema, with the messages of a real server.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::failure::Cause;
use super::fields::step_of;
use super::schema::{Schema, join};
use super::shape::ListKind;

/// How an object is validated.
pub(crate) struct Validation<'c> {
    /// Leaves out parts that are as they were, as servers do from 1.30 on.
    pub(crate) ratchets: bool,
    /// Minor version of the server.
    pub(crate) minor: u32,
    pub(crate) causes: &'c mut Vec<Cause>,
}

/// Reasons that keep a server from checking CEL rules.
const BLOCKING: &[&str] = &[
    "FieldValueRequired",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",
    "FieldValueNotSupported",
];

impl Validation<'_> {
    /// Validates an object against the schema of its kind, then its rules.
    pub(crate) fn object(&mut self, schema: &Schema, object: &Value, old: Option<&Value>) {
        self.value(schema, object, old, "", true);
        let is_blocked = self.causes.iter().any(|cause| BLOCKING.contains(&cause.reason));
        if is_blocked && schema.has_rules() {
            let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            let null = if self.minor >= 32 { Value::Null } else { Value::from("null") };
            self.causes.push(Cause::invalid("<nil>", &null, detail));
            return;
        }
        self.rules(schema, object, old, "");
    }

    fn value(
        &mut self,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        is_object: bool,
    ) {
        if self.ratchets && old == Some(value) {
            return;
        }
        if value.is_null() && (schema.nullable || schema.kind.is_empty()) {
            return;
        }
        if !has_type(schema, value) {
            let is_number = value.is_number() && schema.format.starts_with("int");
            let (wanted, found) = match () {
                () if schema.int_or_string => ("integer,string", type_name(value)),
                () if is_number => (schema.format.as_str(), "float64"),
                () => (schema.kind.as_str(), type_name(value)),
            };
            let detail = format!("{path} in body must be of type {wanted}: \"{found}\"");
            let mut cause = Cause::invalid(path, &found.into(), &detail);
            cause.reason = "FieldValueTypeInvalid";
            self.causes.push(cause);
            return;
        }
        self.constraints(schema, value, path);
        self.alternatives(schema, value, path);
        match value {
            Value::Object(map) => {
                let missing = schema.required.iter().filter(|name| !map.contains_key(*name));
                let missing: Vec<Cause> =
                    missing.map(|name| Cause::required(join(path, name), "")).collect();
                self.causes.extend(missing);
                for (key, value) in map {
                    if is_object && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                        continue;
                    }
                    let Some(child) = schema.child(key) else { continue };
                    let old = old.and_then(|old| old.get(key));
                    self.value(child, value, old, &join(path, key), child.embedded);
                }
            }
            Value::Array(items) => self.items(schema, items, old, path),
            _ => {}
        }
    }

    fn items(&mut self, schema: &Schema, items: &[Value], old: Option<&Value>, path: &str) {
        let mut seen = BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let step = step_of(item, &schema.list);
            if let Some(step) = &step
                && !seen.insert(step.clone())
            {
                let shown = match &schema.list {
                    ListKind::Map(keys) => {
                        keys.iter().map(|(key, _)| (key.clone(), item[key].clone())).collect()
                    }
                    _ => item.clone(),
                };
                self.causes.push(Cause::duplicate(path.as_str(), &shown));
            }
            let Some(child) = &schema.items else { continue };
            let old = old.and_then(|old| counterpart(old, item, &schema.list));
            self.value(child, item, old, &path, child.embedded);
        }
    }

    /// Checks the rules of each part.
    fn rules(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, path: &str) {
        if let Some(rules) = &schema.rules
            && !(self.ratchets && old == Some(value))
        {
            rules.check(value, old, path, (self.minor, self.causes));
        }
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let Some(child) = schema.child(key) else { continue };
                    let old = old.and_then(|old| old.get(key));
                    self.rules(child, value, old, &join(path, key));
                }
            }
            Value::Array(items) => {
                let Some(child) = &schema.items else { return };
                for (index, item) in items.iter().enumerate() {
                    let old = old.and_then(|old| counterpart(old, item, &schema.list));
                    self.rules(child, item, old, &format!("{path}[{index}]"));
                }
            }
            _ => {}
        }
    }

    fn constraints(&mut self, schema: &Schema, value: &Value, path: &str) {
        if !schema.values.is_empty() && !schema.values.contains(value) {
            let quoted = |value: &Value| {
                format!("{:?}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            };
            let known: Vec<String> = schema.values.iter().map(quoted).collect();
            let message =
                format!("Unsupported value: {value}: supported values: {}", known.join(", "));
            self.causes.push(Cause::new("FieldValueNotSupported", path, message));
        }
        match value {
            Value::String(text) => self.text(schema, text, path),
            Value::Number(_) => self.number(schema, value, path),
            Value::Array(items) => {
                let limits = &schema.limits;
                let count = items.len() as u64;
                self.at_least(limits.min_items, count, "items", path);
                self.at_most(limits.max_items, count, path);
            }
            Value::Object(map) => {
                let limits = &schema.limits;
                let count = map.len() as u64;
                self.at_least(limits.min_properties, count, "properties", path);
                self.at_most(limits.max_properties, count, path);
            }
            _ => {}
        }
    }

    fn invalid(&mut self, path: &str, value: &Value, rule: &str) {
        let detail = format!("{path} in body {rule}");
        self.causes.push(Cause::invalid(path, value, &detail));
    }

    fn text(&mut self, schema: &Schema, text: &str, path: &str) {
        let value = Value::from(text);
        let length = text.chars().count() as u64;
        if let Some(most) = schema.limits.max_length
            && length > most
        {
            let message = match (self.minor, most) {
                (..32, _) => format!("Too long: may not be longer than {most}"),
                (_, 1) => "Too long: may not be more than 1 byte".to_owned(),
                _ => format!("Too long: may not be more than {most} bytes"),
            };
            self.causes.push(Cause::new("FieldValueTooLong", path, message));
        }
        if let Some(least) = schema.limits.min_length
            && length < least
        {
            self.invalid(path, &value, &format!("should be at least {least} chars long"));
        }
        if let Some(pattern) = &schema.pattern
            && pattern.regex.as_ref().is_some_and(|regex| !regex.is_match(text))
        {
            self.invalid(path, &value, &format!("should match '{}'", pattern.text));
        }
        if !has_format(&schema.format, text) {
            let detail = format!("{path} in body must be of type {}: \"{text}\"", schema.format);
            let mut cause = Cause::invalid(path, &value, &detail);
            cause.reason = "FieldValueTypeInvalid";
            self.causes.push(cause);
        }
    }

    fn number(&mut self, schema: &Schema, value: &Value, path: &str) {
        let limits = &schema.limits;
        let Some(number) = value.as_f64() else { return };
        if schema.format == "int32" && i32::try_from(value.as_i64().unwrap_or(i64::MAX)).is_err() {
            let detail =
                format!("Checked value must be of type integer with format int32 in {path}");
            self.causes.push(Cause::invalid("<nil>", &"".into(), &detail));
        }
        if let Some(factor) = limits.multiple_of
            && (number / factor).fract() != 0.0
        {
            self.invalid(path, value, &format!("should be a multiple of {factor}"));
        }
        if let Some(least) = limits.minimum {
            let (is_low, word) = match limits.exclusive_minimum {
                true => (number <= least, "greater than"),
                false => (number < least, "greater than or equal to"),
            };
            if is_low {
                self.invalid(path, value, &format!("should be {word} {least}"));
            }
        }
        if let Some(most) = limits.maximum {
            let (is_high, word) = match limits.exclusive_maximum {
                true => (number >= most, "less than"),
                false => (number > most, "less than or equal to"),
            };
            if is_high {
                self.invalid(path, value, &format!("should be {word} {most}"));
            }
        }
    }

    fn at_least(&mut self, least: Option<u64>, count: u64, what: &str, path: &str) {
        if let Some(least) = least
            && count < least
        {
            self.invalid(path, &count.into(), &format!("should have at least {least} {what}"));
        }
    }

    fn at_most(&mut self, most: Option<u64>, count: u64, path: &str) {
        if let Some(most) = most
            && count > most
        {
            self.causes.push(Cause::too_many(path, count, most));
        }
    }

    fn alternatives(&mut self, schema: &Schema, value: &Value, path: &str) {
        let minor = self.minor;
        let causes_of = |one: &Schema| {
            let mut causes = Vec::new();
            let mut validation = Validation { ratchets: false, minor, causes: &mut causes };
            validation.value(one, value, None, path, false);
            causes
        };
        let matches = |one: &Schema| causes_of(one).is_empty();
        let refuse = |detail: String| Cause::invalid("<nil>", &"".into(), &detail);
        // The first alternative is the one that a server explains.
        let first = |all: &[Schema]| all.first().map(causes_of).unwrap_or_default();
        let one_of = schema.one_of.iter().filter(|one| matches(one)).count();
        if !schema.one_of.is_empty() && one_of != 1 {
            let found = match one_of {
                0 => "Found none valid".to_owned(),
                several => format!("Found {several} valid alternatives"),
            };
            let rule = "must validate one and only one schema (oneOf)";
            self.causes.push(refuse(format!("{path:?} {rule}. {found}")));
            self.causes.extend(if one_of == 0 { first(&schema.one_of) } else { Vec::new() });
        }
        if !schema.any_of.is_empty() && !schema.any_of.iter().any(matches) {
            self.causes.push(refuse(format!("{path:?} must validate at least one schema (anyOf)")));
            self.causes.extend(first(&schema.any_of));
        }
        let failed: Vec<Vec<Cause>> =
            schema.all_of.iter().map(causes_of).filter(|causes| !causes.is_empty()).collect();
        if !failed.is_empty() {
            let none = if failed.len() == schema.all_of.len() { ". None validated" } else { "" };
            self.causes.extend(failed.into_iter().flatten());
            let rule = "must validate all the schemas (allOf)";
            self.causes.push(refuse(format!("{path:?} {rule}{none}")));
        }
        if schema.not.as_ref().is_some_and(|not| matches(not)) {
            self.causes.push(refuse(format!("{path:?} must not validate the schema (not)")));
        }
    }
}

impl Schema {
    /// Returns whether any part has rules.
    fn has_rules(&self) -> bool {
        self.rules.is_some()
            || self.properties.values().any(Self::has_rules)
            || self.additional.as_ref().is_some_and(|schema| schema.has_rules())
            || self.items.as_ref().is_some_and(|schema| schema.has_rules())
    }
}

/// Returns the item of an old list that is the same as this one, which only a map by keys tells.
fn counterpart<'v>(old: &'v Value, item: &Value, list: &ListKind) -> Option<&'v Value> {
    if !matches!(list, ListKind::Map(_)) {
        return None;
    }
    let step = step_of(item, list)?;
    old.as_array()?.iter().find(|old| step_of(old, list).as_ref() == Some(&step))
}

fn has_type(schema: &Schema, value: &Value) -> bool {
    let is_integer = || value.as_f64().is_some_and(|number| number.fract() == 0.0);
    if schema.int_or_string {
        return value.is_string() || is_integer();
    }
    match schema.kind.as_str() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => is_integer(),
        _ => true,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Returns whether a text has the format; formats that are not listed are not checked.
fn has_format(format: &str, text: &str) -> bool {
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(address, length)| {
            let most = if address.contains(':') { 128 } else { 32 };
            address.parse::<std::net::IpAddr>().is_ok()
                && length.parse::<u8>().is_ok_and(|length| length <= most)
        }),
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        _ => true,
    }
}
