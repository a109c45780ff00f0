//! From a JSON schema of schemars to the *structural* schema that a `CustomResourceDefinition` must have: no references, one type for each value, no alternatives of types.

use serde_json::{Map, Value, json};

/// Returns the structural form of a schema.
pub(super) fn schema(of: &Value) -> Value {
    let definitions = of.get("$defs").cloned().unwrap_or_default();
    Builder { definitions: &definitions }.value(of)
}

struct Builder<'a> {
    definitions: &'a Value,
}

impl Builder<'_> {
    fn value(&self, schema: &Value) -> Value {
        let Some(object) = schema.as_object() else { return any() };
        let mut object = object.clone();
        if let Some(resolved) = self.resolve(&object) {
            return with_description(self.value(&resolved), object.remove("description"));
        }
        if let Some(single) = single_alternative(&object) {
            return with_description(self.value(&single), object.remove("description"));
        }
        if let Some(words) = enumeration(&object) {
            let described = json!({ "type": "string", "enum": words });
            return with_description(described, object.remove("description"));
        }
        if let Some(alternatives) = object.get("anyOf").and_then(Value::as_array) {
            let union = union(alternatives);
            return with_description(union, object.remove("description"));
        }
        self.plain(&object)
    }

    fn resolve(&self, object: &Map<String, Value>) -> Option<Value> {
        let name = object.get("$ref")?.as_str()?.strip_prefix("#/$defs/")?;
        self.definitions.get(name).cloned()
    }

    fn plain(&self, object: &Map<String, Value>) -> Value {
        let mut plain = Map::new();
        for (key, value) in object {
            match key.as_str() {
                "description" | "required" | "minimum" | "maximum" | "pattern" => {
                    plain.insert(key.clone(), value.clone());
                }
                "enum" => {
                    let words: Vec<&Value> =
                        value.as_array().into_iter().flatten().filter(|it| !it.is_null()).collect();
                    plain.insert(key.clone(), json!(words));
                }
                "type" => {
                    plain.insert(key.clone(), single_type(value));
                }
                "properties" => {
                    let fields = value.as_object().into_iter().flatten();
                    let fields: Map<String, Value> =
                        fields.map(|(name, field)| (name.clone(), self.value(field))).collect();
                    plain.insert(key.clone(), Value::Object(fields));
                }
                "items" => {
                    plain.insert(key.clone(), self.value(value));
                }
                // Unknown fields are dropped or refused by the server in any case; `false` beside properties is not structural.
                "additionalProperties" if value.is_object() => {
                    plain.insert(key.clone(), self.value(value));
                }
                // Defaults would be written into each object; unknown formats are warned of.
                _ => {}
            }
        }
        number_format(&mut plain);
        Value::Object(plain)
    }
}

fn any() -> Value {
    json!({ "x-kubernetes-preserve-unknown-fields": true })
}

fn with_description(mut schema: Value, description: Option<Value>) -> Value {
    if let (Some(object), Some(description)) = (schema.as_object_mut(), description) {
        object.insert("description".to_owned(), description);
    }
    schema
}

/// Returns the one alternative that is not `null`.
fn single_alternative(object: &Map<String, Value>) -> Option<Value> {
    let alternatives = object.get("anyOf")?.as_array()?;
    let mut others = alternatives.iter().filter(|it| it["type"] != "null");
    let (first, second) = (others.next()?, others.next());
    second.is_none().then(|| first.clone())
}

/// Returns the words of an enumeration, whose variants schemars describes one by one.
fn enumeration(object: &Map<String, Value>) -> Option<Vec<Value>> {
    let variants = object.get("oneOf")?.as_array()?;
    let words: Vec<Value> = variants
        .iter()
        .flat_map(|variant| match (variant.get("const"), variant.get("enum")) {
            (Some(word), _) => vec![word.clone()],
            (None, Some(Value::Array(words))) => words.clone(),
            _ => vec![Value::Null],
        })
        .collect();
    words.iter().all(Value::is_string).then_some(words)
}

/// Returns the schema of a value with alternatives of different types: a number or text as Kubernetes has a word for it; anything else is left to us to check.
fn union(alternatives: &[Value]) -> Value {
    let types: Vec<&str> =
        alternatives.iter().filter_map(|alternative| alternative["type"].as_str()).collect();
    if types.len() == 2 && types.contains(&"integer") && types.contains(&"string") {
        return json!({ "x-kubernetes-int-or-string": true });
    }
    any()
}

fn single_type(written: &Value) -> Value {
    let types = written.as_array().into_iter().flatten();
    let mut types = types.filter(|it| *it != "null");
    types.next().unwrap_or(written).clone()
}

/// Sets the format by which the server keeps an integer whole.
fn number_format(schema: &mut Map<String, Value>) {
    if schema.get("type").and_then(Value::as_str) == Some("integer") {
        let most = schema.get("maximum").and_then(Value::as_u64).unwrap_or(u64::MAX);
        let format = if most <= i32::MAX as u64 { "int32" } else { "int64" };
        schema.insert("format".to_owned(), json!(format));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_enumerations_and_nulls_are_resolved() {
        let written = json!({
            "$defs": {
                "Mode": {"description": "How.", "oneOf": [
                    {"const": "On", "type": "string", "description": "x"}, {"const": "Off", "type": "string"}]},
                "Port": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                "Place": {"anyOf": [{"type": "string"}, {"type": "object"}]},
            },
            "title": "T", "type": "object", "additionalProperties": false, "required": ["a"],
            "properties": {
                "a": {"type": "integer", "format": "uint16", "minimum": 0, "maximum": 65535},
                "b": {"type": ["string", "null"], "default": null},
                "c": {"description": "Mine.", "anyOf": [{"$ref": "#/$defs/Mode"}, {"type": "null"}]},
                "d": {"type": "array", "items": {"$ref": "#/$defs/Port"}, "default": []},
                "e": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Place"}},
                "f": {"type": "integer", "format": "uint32", "minimum": 0},
            },
        });

        let expected = json!({
            "type": "object", "required": ["a"],
            "properties": {
                "a": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 65535},
                "b": {"type": "string"},
                "c": {"description": "Mine.", "type": "string", "enum": ["On", "Off"]},
                "d": {"type": "array", "items": {"x-kubernetes-int-or-string": true}},
                "e": {"type": "object", "additionalProperties": {"x-kubernetes-preserve-unknown-fields": true}},
                "f": {"type": "integer", "format": "int64", "minimum": 0},
            },
        });
        assert_eq!(schema(&written), expected);
    }
}
