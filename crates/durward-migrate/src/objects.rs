//! The objects in texts: documents of a stream, items of lists, each with its file and line.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// An object of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) value: Value,
    pub(crate) file: Arc<str>,
    /// The line its document begins at.
    pub(crate) line: u32,
}

impl Object {
    pub(crate) fn is(&self, group: &str, kind: &str) -> bool {
        self.text("apiVersion").starts_with(group) && self.kind() == kind
    }

    pub(crate) fn kind(&self) -> &str {
        self.text("kind")
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.value[field].as_str().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> &str {
        self.value["metadata"]["namespace"].as_str().unwrap_or("default")
    }

    pub(crate) fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}/{}", self.file, self.line, self.namespace(), self.name())
    }
}

/// All objects. What is no object is named in `left_out`.
pub(crate) fn read(
    texts: &[(String, String)],
    left_out: &mut Vec<String>,
) -> Result<Vec<Object>, String> {
    let mut objects = Vec::new();
    for (file, text) in texts {
        let file: Arc<str> = Arc::from(file.as_str());
        for part in durward_control::spec::document::split(text) {
            let value: Value = serde_saphyr::from_str(part.text).map_err(|error| {
                let first = error.to_string();
                let first = first.lines().next().unwrap_or_default().to_owned();
                format!("{file}:{}: {first}", part.first_line)
            })?;
            let object = Object { value, file: Arc::clone(&file), line: part.first_line };
            flatten(object, None, &mut objects, left_out);
        }
    }
    Ok(objects)
}

/// Lists become their items. Items of an API server's own list leave out what the list says of all of them.
fn flatten(
    mut object: Object,
    of: Option<(&str, &str)>,
    into: &mut Vec<Object>,
    left_out: &mut Vec<String>,
) {
    let (file, line) = (Arc::clone(&object.file), object.line);
    let item = |value: Value| Object { value, file: Arc::clone(&file), line };
    match &mut object.value {
        Value::Array(items) => {
            for value in std::mem::take(items) {
                flatten(item(value), of, into, left_out);
            }
        }
        Value::Object(fields) => {
            if let Some((version, kind)) = of {
                fields.entry("apiVersion").or_insert_with(|| version.into());
                fields.entry("kind").or_insert_with(|| kind.into());
            }
            let text = |field: &str| fields.get(field).and_then(Value::as_str).map(str::to_owned);
            let (version, kind) = (text("apiVersion").unwrap_or_default(), text("kind"));
            let Some(kind) = kind.as_deref().and_then(|kind| kind.strip_suffix("List")) else {
                into.push(object);
                return;
            };
            match fields.remove("items") {
                Some(Value::Array(items)) => {
                    let of = (!kind.is_empty()).then_some((&*version, kind));
                    for value in items {
                        flatten(item(value), of, into, left_out);
                    }
                }
                None | Some(Value::Null) => {}
                Some(_) => {
                    left_out.push(format!("{file}:{line}: items of a {kind}List must be a list"))
                }
            }
        }
        Value::Null => {}
        _ => left_out.push(format!("{file}:{line}: neither an object nor a list of objects")),
    }
}
