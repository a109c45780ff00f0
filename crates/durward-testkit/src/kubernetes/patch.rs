//! Patches of objects: JSON patch, merge patch, and the strategic merge of built-in kinds.

use serde_json::{Map, Value};

use super::fields::step_of;
use super::shape::{ListKind, Shape};

/// Applies a JSON patch (RFC 6902) as the Go library of the API server does.
///
/// # Errors
/// If an operation cannot be applied, in the library's words.
pub(crate) fn json_patch(object: &Value, patch: &Value) -> Result<Value, String> {
    let mut object = object.clone();
    let operations = patch.as_array().ok_or("a JSON patch is a list of operations")?;
    for operation in operations {
        apply(&mut object, operation)?;
    }
    Ok(object)
}

fn apply(object: &mut Value, operation: &Value) -> Result<(), String> {
    let path = operation["path"].as_str().ok_or("operation has no path")?;
    let from = || operation["from"].as_str().ok_or_else(|| "operation has no from".to_owned());
    let value = || operation.get("value").cloned().unwrap_or_default();
    match operation["op"].as_str().unwrap_or_default() {
        "add" => add(object, path, value()),
        "remove" => remove(object, path).map(drop),
        "replace" => {
            let place = object.pointer_mut(path).ok_or_else(|| {
                format!(
                    "replace operation does not apply: doc is missing key: {path}: missing value"
                )
            })?;
            *place = value();
            Ok(())
        }
        "move" => {
            let moved = remove(object, from()?)?;
            add(object, path, moved)
        }
        "copy" => {
            let from = from()?;
            let copied = object.pointer(from).cloned();
            let copied = copied.ok_or_else(|| {
                format!(
                    "copy operation does not apply: doc is missing from path: {from}: missing value"
                )
            })?;
            add(object, path, copied)
        }
        // A missing value is equal to null here, unlike in RFC 6902.
        "test" => match object.pointer(path).unwrap_or(&Value::Null) == &value() {
            true => Ok(()),
            false => Err(format!("testing value {path} failed: test failed")),
        },
        other => Err(format!("Unexpected kind: {other}")),
    }
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let missing =
        || format!("add operation does not apply: doc is missing path: \"{path}\": missing value");
    let Some((parent, last)) = split(path) else {
        *object = value;
        return Ok(());
    };
    match object.pointer_mut(parent) {
        Some(Value::Object(map)) => drop(map.insert(last, value)),
        Some(Value::Array(items)) if last == "-" => items.push(value),
        Some(Value::Array(items)) => {
            let index = last.parse::<usize>().ok().filter(|&index| index <= items.len());
            items.insert(index.ok_or_else(missing)?, value);
        }
        _ => return Err(missing()),
    }
    Ok(())
}

fn remove(object: &mut Value, path: &str) -> Result<Value, String> {
    let missing = || {
        format!("remove operation does not apply: doc is missing path: \"{path}\": missing value")
    };
    let (parent, last) = split(path).ok_or_else(missing)?;
    match object.pointer_mut(parent) {
        Some(Value::Object(map)) => map.remove(&last).ok_or_else(missing),
        Some(Value::Array(items)) => {
            let index = last.parse::<usize>().ok().filter(|&index| index < items.len());
            Ok(items.remove(index.ok_or_else(missing)?))
        }
        _ => Err(missing()),
    }
}

/// Applies a JSON merge patch (RFC 7396).
pub(crate) fn merge_patch(object: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut merged = object.as_object().cloned().unwrap_or_default();
    for (key, change) in changes {
        match change {
            Value::Null => drop(merged.remove(key)),
            _ => {
                let present = merged.remove(key).unwrap_or_default();
                merged.insert(key.clone(), merge_patch(&present, change));
            }
        }
    }
    merged.into()
}

/// Applies a strategic merge patch: lists that are maps by keys are merged item by item.
pub(crate) fn strategic_merge(object: &Value, patch: &Value, shape: &Shape) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut merged = match changes.get("$patch").and_then(Value::as_str) {
        Some("replace") => Map::new(),
        _ => object.as_object().cloned().unwrap_or_default(),
    };
    for (key, change) in changes.iter().filter(|(key, _)| !key.starts_with('$')) {
        let shape = shape.field(key).0;
        let present = merged.remove(key);
        let value = match change {
            Value::Null => continue,
            Value::Array(items) => merge_list(present, items, shape),
            _ => strategic_merge(&present.unwrap_or_default(), change, shape),
        };
        merged.insert(key.clone(), value);
    }
    merged.into()
}

fn merge_list(present: Option<Value>, changes: &[Value], shape: &Shape) -> Value {
    let Some(Value::Array(mut items)) = present else { return changes.to_vec().into() };
    if shape.list == ListKind::Atomic {
        return changes.to_vec().into();
    }
    for change in changes {
        let step = step_of(change, &shape.list);
        let at = items.iter().position(|item| step_of(item, &shape.list) == step);
        match (at, change["$patch"].as_str()) {
            (Some(at), Some("delete")) => drop(items.remove(at)),
            (None, Some("delete")) => {}
            (Some(at), _) => items[at] = strategic_merge(&items[at], change, shape.items()),
            (None, _) => items.push(change.clone()),
        }
    }
    items.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_test_for_null_passes_where_nothing_is() {
        let object = json!({"metadata": {}});
        let patch = json!([
            {"op": "test", "path": "/metadata/finalizers", "value": null},
            {"op": "add", "path": "/metadata/finalizers", "value": ["a"]},
        ]);

        let patched = json_patch(&object, &patch);

        assert_eq!(patched, Ok(json!({"metadata": {"finalizers": ["a"]}})));
        let failed =
            json_patch(&json!({"a": 1}), &json!([{"op": "test", "path": "/a", "value": 2}]));
        assert_eq!(failed, Err("testing value /a failed: test failed".to_owned()));
    }

    #[test]
    fn a_merge_patch_removes_by_null() {
        let merged =
            merge_patch(&json!({"a": {"b": 1, "c": 2}}), &json!({"a": {"b": null, "d": 3}}));

        assert_eq!(merged, json!({"a": {"c": 2, "d": 3}}));
    }
}
