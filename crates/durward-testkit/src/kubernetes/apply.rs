//! Server-side apply: merging what a manager wants into what is there, with its conflicts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::failure::{Cause, Failure};
use super::fields::{Containers, FieldSet, Path, Step, leaves, path_text, step_of, take_out};
use super::managed::{self, Entry, Manager, difference};
use super::shape::{ListKind, Shape};

/// Applies a manager's configuration to an object and records who owns what.
///
/// # Errors
/// If another manager owns a field that would change and `force` is not set.
pub(crate) fn apply(
    live: Option<&Value>,
    applied: &Value,
    shape: &Shape,
    manager: &Manager,
    (force, now): (bool, &str),
) -> Result<Value, Failure> {
    let empty = Value::Object(Map::new());
    let live = live.unwrap_or(&empty);
    let mut entries = managed::read(live);
    let mut merged = merge(live, applied, shape);

    let applied_set = FieldSet::of(&leaves(applied, shape, Containers::LeftOut));
    let is_own = |entry: &Entry| entry.manager.is_same(manager);
    let last_set = entries.iter().find(|entry| is_own(entry)).map(|entry| entry.fields.clone());
    prune(&mut merged, shape, last_set.as_ref(), &applied_set, &others(&entries, is_own));

    let live_leaves = leaves(live, shape, Containers::Counted);
    let difference = difference(&live_leaves, &leaves(&merged, shape, Containers::Counted));
    let conflicts = conflicts(&entries, &difference.changed, is_own);
    if !conflicts.is_empty() && !force {
        return Err(conflict(&conflicts));
    }
    managed::take_from_others(&mut entries, &difference, is_own);
    let unchanged = last_set.as_ref() == Some(&applied_set);
    match entries.iter_mut().find(|entry| is_own(entry)) {
        Some(own) => {
            own.fields = applied_set;
            own.manager.api_version.clone_from(&manager.api_version);
            if !unchanged {
                now.clone_into(&mut own.time);
            }
        }
        None => entries.push(Entry {
            manager: manager.clone(),
            fields: applied_set,
            time: now.to_owned(),
        }),
    }
    managed::write(&mut merged, entries);
    Ok(merged)
}

/// Fields of all managers but one.
fn others(entries: &[Entry], is_own: impl Fn(&Entry) -> bool) -> BTreeSet<Path> {
    let others = entries.iter().filter(|entry| !is_own(entry));
    others.flat_map(|entry| entry.fields.0.iter().cloned()).collect()
}

/// Takes out what the manager applied before and no longer does, unless someone else owns it or something below it.
fn prune(
    merged: &mut Value,
    shape: &Shape,
    last: Option<&FieldSet>,
    applied: &FieldSet,
    others: &BTreeSet<Path>,
) {
    let Some(last) = last else { return };
    let is_kept = |path: &Path| {
        let kept_below = |set: &BTreeSet<Path>| {
            set.range(path.clone()..).next().is_some_and(|first| first.starts_with(path))
        };
        kept_below(&applied.0) || kept_below(others)
    };
    let gone: Vec<&[Step]> =
        last.0.iter().filter(|path| !is_kept(path)).map(Vec::as_slice).collect();
    if !gone.is_empty() {
        let is_owned = |path: &Path| applied.0.contains(path) || others.contains(path);
        take_out(merged, shape, &gone, is_owned);
    }
}

fn conflicts<'e>(
    entries: &'e [Entry],
    changed: &BTreeSet<Path>,
    is_own: impl Fn(&Entry) -> bool,
) -> Vec<(&'e Manager, &'e Path)> {
    let others = entries.iter().filter(|entry| !is_own(entry));
    let pairs = others.flat_map(|entry| entry.fields.0.iter().map(|path| (&entry.manager, path)));
    pairs.filter(|(_, path)| changed.contains(*path)).collect()
}

fn conflict(conflicts: &[(&Manager, &Path)]) -> Failure {
    let causes = conflicts.iter().map(|(manager, path)| {
        let message = format!("conflict with {}", manager.words());
        Cause::new("FieldManagerConflict", path_text(path), message)
    });
    let causes: Vec<Cause> = causes.collect();
    let message = match conflicts {
        [(manager, path)] => {
            format!(
                "Apply failed with 1 conflict: conflict with {}: {}",
                manager.words(),
                path_text(path)
            )
        }
        several => {
            let mut by_manager: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (manager, path) in several {
                by_manager
                    .entry(manager.words())
                    .or_default()
                    .push(format!("- {}", path_text(path)));
            }
            let parts: Vec<String> = by_manager
                .into_iter()
                .map(|(words, paths)| format!("conflicts with {words}:\n{}", paths.join("\n")))
                .collect();
            format!("Apply failed with {} conflicts: {}", several.len(), parts.join("\n"))
        }
    };
    Failure::apply_conflict(message, causes)
}

/// Merges what is applied into what is there.
fn merge(live: &Value, applied: &Value, shape: &Shape) -> Value {
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) if !shape.atomic => {
            let mut merged = live.clone();
            for (key, value) in applied {
                let value = match merged.get(key) {
                    Some(present) => merge(present, value, shape.field(key).0),
                    None => value.clone(),
                };
                merged.insert(key.clone(), value);
            }
            merged.into()
        }
        (Value::Array(live), Value::Array(applied)) if shape.list != ListKind::Atomic => {
            merge_lists(live, applied, shape).into()
        }
        _ => applied.clone(),
    }
}

/// Merges two lists: in the order of the applied one, with foreign items where they were.
fn merge_lists(live: &[Value], applied: &[Value], shape: &Shape) -> Vec<Value> {
    let steps = |items: &[Value]| -> Vec<Option<Step>> {
        items.iter().map(|item| step_of(item, &shape.list)).collect()
    };
    let (left, right) = (steps(live), steps(applied));
    let place = |step: &Option<Step>| left.iter().position(|other| other == step && step.is_some());
    // Items of both lists, in the order in which they will come.
    let mut shared = right.iter().filter(|step| place(step).is_some()).peekable();
    let mut merged = Vec::new();
    let mut taken: Vec<&Option<Step>> = Vec::new();
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() {
            let step = &left[l];
            let is_foreign = !right.contains(step);
            let is_next = right.get(r) == Some(step);
            // An item of both whose turn is another one's comes later.
            let is_late = shared.peek().is_some_and(|next| *next != step) && r < right.len();
            if is_foreign {
                merged.push(live[l].clone());
            }
            if is_foreign || taken.contains(&step) || (!is_next && is_late) {
                l += 1;
                continue;
            }
        }
        let Some(step) = right.get(r) else { break };
        merged.push(match place(step) {
            Some(at) => merge(&live[at], &applied[r], shape.items()),
            None => applied[r].clone(),
        });
        shared.next_if(|next| *next == step);
        taken.push(step);
        r += 1;
    }
    merged
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::managed::Operation;
    use super::*;

    fn manager(name: &str) -> Manager {
        let (operation, api_version) = (Operation::Apply, "v1".to_owned());
        Manager { operation, name: name.to_owned(), api_version, subresource: String::new() }
    }

    fn applied(live: Option<&Value>, config: &Value, who: &str) -> Result<Value, Failure> {
        apply(live, config, &Shape::built_in("Service"), &manager(who), (false, "T"))
    }

    #[test]
    fn two_managers_own_their_ports_of_one_list() {
        let config = |port: u16| json!({"metadata": {}, "spec": {"ports": [{"port": port, "protocol": "TCP"}]}});
        let live = applied(None, &config(80), "a").expect("nobody else is there");
        let live = applied(Some(&live), &config(81), "b").expect("ports are told apart");

        let without = json!({"metadata": {}, "spec": {}});
        let live = applied(Some(&live), &without, "a").expect("one's own field may go");

        assert_eq!(live["spec"]["ports"], json!([{"port": 81, "protocol": "TCP"}]));
    }

    #[test]
    fn lists_merge_in_the_order_of_a_real_server() {
        let mut shape = Shape::field_of_type();
        shape.list = ListKind::Map(vec![("n".to_owned(), None)]);
        let list = |names: &str| -> Vec<Value> {
            names.chars().map(|name| json!({"n": name.to_string()})).collect()
        };
        let merged = |live: &str, applied: &str| -> String {
            let merged = merge_lists(&list(live), &list(applied), &shape);
            merged.iter().filter_map(|item| item["n"].as_str()).collect()
        };

        assert_eq!(merged("abc", "xby"), "axbcy");
        assert_eq!(merged("axbcy", "cqa"), "xbcyqa");
        assert_eq!(merged("ab", "ba"), "ba");
        assert_eq!(merged("", "ab"), "ab");
        assert_eq!(merged("ab", ""), "ab");
    }

    #[test]
    fn a_changed_field_of_someone_else_is_a_conflict() {
        let config = |kind: &str| json!({"metadata": {}, "spec": {"type": kind}});
        let live = applied(None, &config("ClusterIP"), "a").expect("nobody else is there");

        let same =
            applied(Some(&live), &config("ClusterIP"), "b").expect("the same value is shared");
        let refused = applied(Some(&same), &config("NodePort"), "b").expect_err("a owns it, too");

        assert_eq!(
            refused.message,
            "Apply failed with 1 conflict: conflict with \"a\": .spec.type"
        );
    }
}
