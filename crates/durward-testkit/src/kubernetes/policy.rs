//! ValidatingAdmissionPolicies.
//!
//! Deliberately absent: the variable `authorizer`; an expression that uses it fails.

use std::collections::BTreeSet;

use kube_cel::cel::{self, Context, Program};
use serde_json::{Value, json};

use super::cel::{context, value};
use super::failure::{Cause, Denial, Failure};
use super::kind::GroupResource;
use super::request::Call;
use super::rules::Writing;
use super::selector::label_selector_matches;
use super::state::{Place, State};
use super::store::Key;

fn resource(plural: &str) -> GroupResource {
    GroupResource::new("admissionregistration.k8s.io", plural)
}

/// Write that policies judge.
struct Request<'r> {
    call: &'r Call,
    place: &'r Place,
    operation: &'static str,
    object: &'r Value,
    old: &'r Value,
    namespace: Value,
}

/// Asks the policies about a create or an update.
///
/// # Errors
/// If one of them denies it.
pub(crate) fn check(state: &State, writing: &Writing<'_>, object: &Value) -> Result<(), Failure> {
    let operation = if writing.old.is_some() { "UPDATE" } else { "CREATE" };
    let old = writing.old.unwrap_or(&Value::Null);
    judge(state, writing.call, writing.place, operation, (object, old))
}

/// Asks the policies about a deletion.
///
/// # Errors
/// If one of them denies it.
pub(crate) fn check_deletion(
    state: &State,
    call: &Call,
    place: &Place,
    old: &Value,
) -> Result<(), Failure> {
    judge(state, call, place, "DELETE", (&Value::Null, old))
}

fn judge(
    state: &State,
    call: &Call,
    place: &Place,
    operation: &'static str,
    (object, old): (&Value, &Value),
) -> Result<(), Failure> {
    // Policies do not judge each other.
    if place.resource().group == "admissionregistration.k8s.io" {
        return Ok(());
    }
    let bindings = state.store.objects(&resource("validatingadmissionpolicybindings"));
    let bindings: Vec<Value> = bindings.map(|binding| binding.value()).collect();
    if bindings.is_empty() {
        return Ok(());
    }
    let namespaces = GroupResource::new("", "namespaces");
    let namespace = state.store.get(&namespaces, &Key::new("", &place.target.namespace));
    let namespace = namespace.map(|namespace| namespace.value()).unwrap_or_default();
    let request = Request { call, place, operation, object, old, namespace };
    for binding in &bindings {
        let spec = &binding["spec"];
        let name = spec["policyName"].as_str().unwrap_or_default();
        let policy = resource("validatingadmissionpolicies");
        let Some(policy) = state.store.get(&policy, &Key::new("", name)) else { continue };
        let policy = policy.value();
        let actions = spec["validationActions"].as_array();
        let denies = actions.is_some_and(|actions| actions.contains(&"Deny".into()));
        let applies = matches(&policy["spec"]["matchConstraints"], &request, false)
            && matches(&spec["matchResources"], &request, true);
        if !denies || !applies {
            continue;
        }
        for params in params(state, &policy, binding, &request) {
            request.evaluate(&policy, binding, &params)?;
        }
    }
    Ok(())
}

/// Returns the parameters of a binding, or one null without any.
fn params(state: &State, policy: &Value, binding: &Value, request: &Request<'_>) -> Vec<Value> {
    let kind = &policy["spec"]["paramKind"];
    let reference = &binding["spec"]["paramRef"];
    if kind.is_null() || reference.is_null() {
        return vec![Value::Null];
    }
    let version = kind["apiVersion"].as_str().unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let found =
        state.kinds().find(|known| known.kind == kind["kind"] && known.resource.group == group);
    let Some(found) = found else { return Vec::new() };
    let namespace = match found.namespaced {
        true => reference["namespace"].as_str().unwrap_or(&request.place.target.namespace),
        false => "",
    };
    let objects = state.store.objects(&found.resource);
    let objects = objects.filter(|object| object.key.namespace == namespace);
    let objects =
        objects.map(|object| object.value()).filter(|object| match reference["name"].as_str() {
            Some(name) => object["metadata"]["name"] == name,
            None => label_selector_matches(&reference["selector"], &object["metadata"]["labels"]),
        });
    objects.collect()
}

/// Returns whether rules of a policy or binding take in a request.
fn matches(rules: &Value, request: &Request<'_>, if_empty: bool) -> bool {
    if rules.is_null() {
        return if_empty;
    }
    let any =
        |key: &str| rules[key].as_array().into_iter().flatten().any(|rule| takes_in(rule, request));
    let has_rules = rules["resourceRules"].as_array().is_some_and(|rules| !rules.is_empty());
    let labels = &request.namespace["metadata"]["labels"];
    let in_namespace = rules["namespaceSelector"].is_null()
        || request.namespace.is_null()
        || label_selector_matches(&rules["namespaceSelector"], labels);
    let selector = &rules["objectSelector"];
    let has_labels =
        |object: &Value| label_selector_matches(selector, &object["metadata"]["labels"]);
    let is_selected = selector.is_null() || has_labels(request.object) || has_labels(request.old);
    (any("resourceRules") || (if_empty && !has_rules))
        && !any("excludeResourceRules")
        && in_namespace
        && is_selected
}

fn takes_in(rule: &Value, request: &Request<'_>) -> bool {
    let target = &request.place.target;
    let has = |key: &str, fits: &dyn Fn(&str) -> bool| {
        let list = rule[key].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).any(|entry| entry == "*" || fits(entry))
    };
    let is_resource = |entry: &str| {
        let (resource, subresource) = entry.split_once('/').unwrap_or((entry, ""));
        (resource == "*" || resource == target.resource.resource)
            && (subresource == target.subresource || subresource == "*")
    };
    let resources = rule["resources"].as_array().into_iter().flatten();
    let is_resource = resources.filter_map(Value::as_str).any(is_resource);
    let names = rule["resourceNames"].as_array().filter(|names| !names.is_empty());
    has("apiGroups", &|group| group == target.resource.group)
        && has("apiVersions", &|version| version == target.version)
        && has("operations", &|operation| operation == request.operation)
        && is_resource
        && names.is_none_or(|names| names.contains(&target.name.as_str().into()))
}

/// Variables that an expression of a policy may use.
const VARIABLES: &[&str] =
    &["object", "oldObject", "request", "params", "namespaceObject", "authorizer", "variables"];

/// Returns what is wrong with a policy.
pub(crate) fn causes(policy: &Value) -> Vec<Cause> {
    let spec = &policy["spec"];
    let mut causes = Vec::new();
    if spec["matchConstraints"].is_null() {
        causes.push(Cause::required("spec.matchConstraints", ""));
    }
    for list in ["variables", "matchConditions", "validations"] {
        for (index, part) in spec[list].as_array().into_iter().flatten().enumerate() {
            let expression = part["expression"].as_str().unwrap_or_default();
            if let Err(error) = compile(expression) {
                let field = format!("spec.{list}[{index}].expression");
                let detail = format!("compilation failed: {error}");
                causes.push(Cause::invalid(field, &expression.into(), &detail));
            }
        }
    }
    causes
}

/// Compiles an expression that uses known variables only.
fn compile(expression: &str) -> Result<(), String> {
    let program = Program::compile(expression).map_err(|error| error.to_string())?;
    let (references, bound) = (program.references(), bound(expression));
    let is_known = |name: &str| VARIABLES.contains(&name) || bound.contains(name);
    let unknown = references.variables().into_iter().find(|name| !is_known(name));
    match unknown {
        None => Ok(()),
        Some(name) => {
            Err(format!("ERROR: <input>:1:1: undeclared reference to '{name}' (in container '')"))
        }
    }
}

/// Macros whose first argument is a name for each entry.
const MACROS: &[&str] = &[".all(", ".exists(", ".exists_one(", ".filter(", ".map("];

/// Returns the names that macros of an expression bind.
fn bound(expression: &str) -> BTreeSet<&str> {
    let after = MACROS.iter().flat_map(|name| {
        expression.match_indices(name).map(move |(at, found)| &expression[at + found.len()..])
    });
    let names = after.filter_map(|rest| rest.split_once(',')).map(|(name, _)| name.trim());
    names.filter(|name| name.chars().all(|one| one.is_alphanumeric() || one == '_')).collect()
}

impl Request<'_> {
    fn evaluate(&self, policy: &Value, binding: &Value, params: &Value) -> Result<(), Failure> {
        let spec = &policy["spec"];
        let ignores_errors = spec["failurePolicy"] == "Ignore";
        let mut context = self.context(params);
        let list = |key: &str| spec[key].as_array().cloned().unwrap_or_default();
        for condition in list("matchConditions") {
            match run(&context, &condition["expression"]) {
                Ok(cel::Value::Bool(true)) => {}
                Ok(_) => return Ok(()),
                Err(_) if ignores_errors => return Ok(()),
                Err(error) => return Err(self.denial(policy, binding, "Invalid", &error)),
            }
        }
        let mut variables = std::collections::HashMap::new();
        for variable in list("variables") {
            let name = variable["name"].as_str().unwrap_or_default().to_owned();
            // One that cannot be evaluated is missing; who uses it fails.
            if let Ok(value) = run(&context, &variable["expression"]) {
                variables.insert(name, value);
            }
            context.add_variable_from_value("variables", cel::Value::from(variables.clone()));
        }
        for validation in list("validations") {
            let expression = validation["expression"].as_str().unwrap_or_default().trim();
            let message = match run(&context, &validation["expression"]) {
                Ok(cel::Value::Bool(true)) => continue,
                Ok(_) => message(&context, &validation, expression),
                Err(_) if ignores_errors => continue,
                Err(error) => {
                    format!("expression '{expression}' resulted in error: {error}")
                }
            };
            let reason = validation["reason"].as_str().unwrap_or("Invalid");
            return Err(self.denial(policy, binding, reason, &message));
        }
        Ok(())
    }

    fn context(&self, params: &Value) -> Context<'static> {
        let (target, kind) = (&self.place.target, &self.place.kind);
        let user = &self.call.user;
        let name = match target.name.as_str() {
            "" => self.object["metadata"]["name"].clone(),
            name => name.into(),
        };
        let version = |key: &str, value: &str| json!({"group": target.resource.group, "version": target.version, key: value});
        let request = json!({
            "operation": self.operation,
            "name": name,
            "namespace": target.namespace,
            "subResource": target.subresource,
            "dryRun": self.call.query.is_dry_run(),
            "kind": version("kind", &kind.kind),
            "resource": version("resource", &target.resource.resource),
            "userInfo": {"username": user.name, "uid": user.uid, "groups": user.groups},
        });
        let mut context = context();
        let variables = [
            ("object", self.object),
            ("oldObject", self.old),
            ("request", &request),
            ("params", params),
            ("namespaceObject", &self.namespace),
        ];
        for (name, json) in variables {
            context.add_variable_from_value(name, value(json));
        }
        context.add_variable_from_value("variables", value(&json!({})));
        context
    }

    fn denial(&self, policy: &Value, binding: &Value, reason: &str, message: &str) -> Failure {
        let name =
            |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let message = format!(
            "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {message}",
            name(policy),
            name(binding)
        );
        let (code, reason) = match reason {
            "Unauthorized" => (401, "Unauthorized"),
            "Forbidden" => (403, "Forbidden"),
            "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
            _ => (422, "Invalid"),
        };
        let subject = match self.place.target.name.as_str() {
            "" => name(self.object),
            name => name.to_owned(),
        };
        let by = Denial { code, reason, message: message.clone() };
        Failure::denied(self.place.resource(), &subject, &message, by)
    }
}

fn message(context: &Context<'_>, validation: &Value, expression: &str) -> String {
    let made = match &validation["messageExpression"] {
        Value::Null => None,
        text => run(context, text).ok(),
    };
    match (made, validation["message"].as_str()) {
        (Some(cel::Value::String(text)), _) => text.as_ref().clone(),
        (_, Some(text)) if !text.is_empty() => text.to_owned(),
        _ => format!("failed expression: {expression}"),
    }
}

fn run(context: &Context<'_>, expression: &Value) -> Result<cel::Value, String> {
    let text = expression.as_str().unwrap_or_default();
    let program = Program::compile(text).map_err(|error| format!("compilation failed: {error}"))?;
    program.execute(context).map_err(|error| error.to_string())
}
