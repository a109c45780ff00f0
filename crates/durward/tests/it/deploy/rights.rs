//! Every kind of `durward crds` is in every role that is delivered: a kind that a role lacks is read by nobody, and its status never written.

use serde_json::{Value, json};

use super::{find, kustomize, objects};
use crate::support::durward;

const GROUP: &str = "durward.dev";
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete"];

/// Resources of our group, as the definitions name them.
struct Resources {
    all: Vec<String>,
    namespaced: Vec<String>,
    /// Those with a status, as a rule names it.
    statuses: Vec<String>,
}

fn resources() -> Resources {
    let printed = String::from_utf8(durward(&["crds"]).output().unwrap().stdout).unwrap();
    let definitions = objects(&printed);
    let plural = |one: &Value| one["spec"]["names"]["plural"].as_str().unwrap().to_owned();
    let namespaced = definitions.iter().filter(|one| one["spec"]["scope"] == "Namespaced");
    let has_status =
        |one: &&Value| one["spec"]["versions"][0]["subresources"].get("status").is_some();
    let statuses = definitions.iter().filter(has_status);
    Resources {
        all: definitions.iter().map(plural).collect(),
        namespaced: namespaced.map(plural).collect(),
        statuses: statuses.map(|one| plural(one) + "/status").collect(),
    }
}

/// Returns what a role lacks of these verbs on these resources.
fn lacking(role: &Value, resources: &[String], verbs: &[&str]) -> Vec<String> {
    let allows = |resource: &str, verb: &str| {
        let has = |list: &Value, wanted: &str| {
            list.as_array().is_some_and(|list| list.contains(&json!(wanted)))
        };
        role["rules"].as_array().unwrap().iter().any(|rule| {
            has(&rule["apiGroups"], GROUP)
                && has(&rule["resources"], resource)
                && has(&rule["verbs"], verb)
                && rule.get("resourceNames").is_none()
        })
    };
    let wanted =
        resources.iter().flat_map(|resource| verbs.iter().map(move |verb| (resource, verb)));
    let lacking = wanted.filter(|(resource, verb)| !allows(resource, verb));
    lacking.map(|(resource, verb)| format!("{verb} {resource}")).collect()
}

/// Returns what the role of whoever reads the API lacks.
fn lacking_of_reader(role: &Value) -> Vec<String> {
    let Resources { all, statuses, .. } = resources();
    [lacking(role, &all, READ), lacking(role, &statuses, &["patch"])].concat()
}

/// The chart's first ClusterRole, without what depends on values. It can be read where nothing renders the chart.
fn role_of_chart() -> Value {
    let template = crate::text("deploy/helm/durward/templates/rbac.yaml");
    let role = template.split("\n---").next().unwrap();
    let plain: Vec<&str> = role.lines().filter(|line| !line.contains("{{")).collect();
    let role: Value = serde_saphyr::from_str(&plain.join("\n")).unwrap();
    assert_eq!(role["kind"], "ClusterRole");
    role
}

#[test]
fn every_kind_of_the_definitions_is_in_every_role() {
    let Resources { all, namespaced, statuses } = resources();
    assert!(all.contains(&"tenants".to_owned()) && !namespaced.contains(&"tenants".to_owned()));
    assert_eq!(all.len(), statuses.len());
    let none: Vec<String> = Vec::new();

    let rights = objects(&crate::text("deploy/kubernetes/rbac.yaml"));
    assert_eq!(lacking_of_reader(find(&rights, "ClusterRole", "durward").unwrap()), none);
    assert_eq!(lacking_of_reader(&role_of_chart()), none);
    let roles = objects(&crate::text("deploy/kubernetes/roles.yaml"));
    let role = |name: &str| find(&roles, "ClusterRole", name).unwrap();
    assert_eq!(lacking(role("durward-operator"), &all, WRITE), none);
    assert_eq!(lacking(role("durward-edit"), &namespaced, WRITE), none);
    assert_eq!(lacking(role("durward-view"), &namespaced, READ), none);

    let place = durward_testkit::process::TempDir::new();
    let out = place.join("out");
    let init = durward(&["init", "--kubernetes", "-d", out.to_str().unwrap()]).output().unwrap();
    assert!(init.status.success(), "{}", crate::support::stderr(&init));
    let written = objects(&std::fs::read_to_string(out.join("rights.yaml")).unwrap());
    assert_eq!(lacking_of_reader(find(&written, "ClusterRole", "durward").unwrap()), none);

    let Some(rendered) = kustomize("deploy/kustomize/overlays/kubernetes") else { return };
    assert_eq!(lacking_of_reader(find(&rendered, "ClusterRole", "durward").unwrap()), none);
}

/// The chart's role once had `tenants` and `portmappings` alone.
#[test]
fn a_kind_that_a_role_lacks_is_found() {
    let mut role = role_of_chart();
    role["rules"][0]["resources"] = json!(["tenants", "portmappings"]);
    role["rules"][1]["resources"] = json!(["tenants/status", "portmappings/status"]);

    let lacking = lacking_of_reader(&role);

    for wanted in ["list egresspolicies", "watch hostedapis", "patch hostedapis/status"] {
        assert!(lacking.contains(&wanted.to_owned()), "{lacking:?}");
    }
}
