//! Fields of a JSON body, read one by one, so that a wrong one is named.

use std::fmt;

use serde_json::{Map, Value};

/// A JSON object and the path at which it stands in the body.
#[derive(Clone, Debug)]
pub(super) struct Object<'v> {
    path: String,
    fields: &'v Map<String, Value>,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadField {
    /// Path of the field; empty for the body itself.
    pub field: String,
    /// Phrase that follows the field.
    pub sentence: String,
}

impl fmt::Display for BadField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = if self.field.is_empty() { "the body" } else { &self.field };
        write!(f, "{field} {}", self.sentence)
    }
}

impl<'v> Object<'v> {
    /// Reads the object of a body.
    pub(super) fn of(value: &'v Value) -> Result<Self, BadField> {
        Self::at(value, String::new())
    }

    fn at(value: &'v Value, path: String) -> Result<Self, BadField> {
        match value {
            Value::Object(fields) => Ok(Self { path, fields }),
            other => Err(wrong(path, "an object", other)),
        }
    }

    /// Returns the path of one of its fields.
    pub(super) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Builds the fault of a field.
    pub(super) fn bad(&self, name: &str, sentence: impl Into<String>) -> BadField {
        BadField { field: self.path(name), sentence: sentence.into() }
    }

    fn get(&self, name: &str) -> Option<&'v Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// Reads a text; an empty one is as if it were not there.
    pub(super) fn optional_text(&self, name: &str) -> Result<Option<&'v str>, BadField> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(other) => Err(wrong(self.path(name), "a text", other)),
        }
    }

    /// Reads a text that must be there.
    pub(super) fn text(&self, name: &str) -> Result<&'v str, BadField> {
        self.optional_text(name)?.ok_or_else(|| self.bad(name, "is missing"))
    }

    /// Reads a number of a port.
    pub(super) fn port(&self, name: &str) -> Result<u16, BadField> {
        let value = self.get(name).ok_or_else(|| self.bad(name, "is missing"))?;
        let Value::Number(number) = value else {
            return Err(wrong(self.path(name), "a number", value));
        };
        let port = number.as_u64().and_then(|port| u16::try_from(port).ok());
        port.filter(|port| *port > 0)
            .ok_or_else(|| self.bad(name, format!("is {number}: a port is from 1 to 65535")))
    }

    /// Reads a whole number that is not negative.
    pub(super) fn optional_number(&self, name: &str) -> Result<Option<u64>, BadField> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => match number.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.bad(name, format!("is {number}: use a whole number from 0 on"))),
            },
            Some(other) => Err(wrong(self.path(name), "a number", other)),
        }
    }

    /// Checks that a field is true, false or not there.
    pub(super) fn flag(&self, name: &str) -> Result<bool, BadField> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(wrong(self.path(name), "true or false", other)),
        }
    }

    /// Reads a list of objects; one that is not there is empty.
    pub(super) fn objects(&self, name: &str) -> Result<Vec<Self>, BadField> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                let of = |(at, value)| Object::at(value, format!("{}[{at}]", self.path(name)));
                list.iter().enumerate().map(of).collect()
            }
            Some(other) => Err(wrong(self.path(name), "a list", other)),
        }
    }

    /// Checks that a field is an object or not there; what is in it is not looked at.
    pub(super) fn ignored_object(&self, name: &str) -> Result<(), BadField> {
        match self.get(name) {
            None | Some(Value::Object(_)) => Ok(()),
            Some(other) => Err(wrong(self.path(name), "an object", other)),
        }
    }

    /// Returns whether a field is there, whatever it says.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

fn wrong(field: String, expected: &str, found: &Value) -> BadField {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    BadField { field, sentence: format!("must be {expected}, not {found}") }
}
