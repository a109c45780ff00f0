//! Who may do what by the roles of the repository: every subject against every action, as `kubectl auth can-i` answers.

use std::collections::BTreeSet;

use durward_testkit::kubernetes::TestEnv;
use serde_json::{Value, json};

use super::cases::install;

/// Something that somebody may do or not: verb, group, resource with its subresource, and the name of one object.
type Action = (&'static str, &'static str, &'static str, &'static str);

const DURWARD: &str = "durward.dev";
const NETWORKING: &str = "networking.k8s.io";

/// Actions in the namespace of a tenant, or on objects without a namespace.
const ACTIONS: &[Action] = &[
    ("list", DURWARD, "tenants", ""),
    ("watch", DURWARD, "tenants", ""),
    ("create", DURWARD, "tenants", ""),
    ("patch", DURWARD, "tenants", "acme"),
    ("delete", DURWARD, "tenants", "acme"),
    ("patch", DURWARD, "tenants/status", "acme"),
    ("list", DURWARD, "portmappings", ""),
    ("create", DURWARD, "portmappings", ""),
    ("delete", DURWARD, "portmappings", "web"),
    ("patch", DURWARD, "portmappings/status", "web"),
    ("list", DURWARD, "egresspolicies", ""),
    ("create", DURWARD, "egresspolicies", ""),
    ("patch", DURWARD, "egresspolicies/status", "pay"),
    ("list", DURWARD, "hostedapis", ""),
    ("create", DURWARD, "hostedapis", ""),
    ("patch", DURWARD, "hostedapis/status", "t1"),
    ("list", "smartnat.aureacentral.com", "mappings", ""),
    ("patch", "smartnat.aureacentral.com", "mappings/status", "web"),
    ("list", NETWORKING, "ingresses", ""),
    ("watch", NETWORKING, "ingresses", ""),
    ("create", NETWORKING, "ingresses", ""),
    ("patch", NETWORKING, "ingresses", "web"),
    ("patch", NETWORKING, "ingresses/status", "web"),
    ("watch", NETWORKING, "ingressclasses", ""),
    ("create", NETWORKING, "ingressclasses", ""),
    ("list", "", "namespaces", ""),
    ("patch", "", "namespaces", "acme"),
    ("watch", "", "services", ""),
    ("patch", "", "services/status", "pay"),
    ("watch", "discovery.k8s.io", "endpointslices", ""),
    ("create", "discovery.k8s.io", "endpointslices", ""),
    ("watch", "gateway.networking.k8s.io", "referencegrants", ""),
    ("create", "gateway.networking.k8s.io", "referencegrants", ""),
    ("get", "apps", "controllerrevisions", "any"),
    ("list", "apps", "controllerrevisions", ""),
    ("create", "apps", "controllerrevisions", ""),
    ("delete", "apps", "controllerrevisions", "any"),
    ("create", "events.k8s.io", "events", ""),
    ("create", "coordination.k8s.io", "leases", ""),
    ("update", "coordination.k8s.io", "leases", "durward-statuses"),
    ("update", "coordination.k8s.io", "leases", "kube-scheduler"),
    ("get", "", "secrets", "shop"),
    ("watch", "", "secrets", "shop"),
    ("get", "", "secrets", "other"),
    ("list", "", "secrets", ""),
    ("get", "", "configmaps", "any"),
    ("create", "", "pods", ""),
    ("create", "", "pods/exec", ""),
    ("create", "", "serviceaccounts/token", "durward"),
    ("create", "rbac.authorization.k8s.io", "rolebindings", ""),
    ("update", "admissionregistration.k8s.io", "validatingadmissionpolicies", "durward-tenants"),
];

/// What the account may do that reads the API.
const READER: &[Action] = &[
    ("list", DURWARD, "tenants", ""),
    ("watch", DURWARD, "tenants", ""),
    ("patch", DURWARD, "tenants/status", "acme"),
    ("list", DURWARD, "portmappings", ""),
    ("patch", DURWARD, "portmappings/status", "web"),
    ("list", DURWARD, "egresspolicies", ""),
    ("patch", DURWARD, "egresspolicies/status", "pay"),
    ("list", DURWARD, "hostedapis", ""),
    ("patch", DURWARD, "hostedapis/status", "t1"),
    ("list", "", "namespaces", ""),
    ("watch", "", "services", ""),
    ("watch", "discovery.k8s.io", "endpointslices", ""),
    ("watch", "gateway.networking.k8s.io", "referencegrants", ""),
    ("get", "apps", "controllerrevisions", "any"),
    ("create", "apps", "controllerrevisions", ""),
    ("delete", "apps", "controllerrevisions", "any"),
    ("create", "events.k8s.io", "events", ""),
    ("get", "", "secrets", "shop"),
    ("watch", "", "secrets", "shop"),
];

const OPERATOR: &[Action] = &[
    ("list", DURWARD, "tenants", ""),
    ("watch", DURWARD, "tenants", ""),
    ("create", DURWARD, "tenants", ""),
    ("patch", DURWARD, "tenants", "acme"),
    ("delete", DURWARD, "tenants", "acme"),
    ("list", DURWARD, "portmappings", ""),
    ("create", DURWARD, "portmappings", ""),
    ("delete", DURWARD, "portmappings", "web"),
    ("list", DURWARD, "egresspolicies", ""),
    ("create", DURWARD, "egresspolicies", ""),
    ("list", DURWARD, "hostedapis", ""),
    ("create", DURWARD, "hostedapis", ""),
];

const EDITOR: &[Action] = &[
    ("list", DURWARD, "portmappings", ""),
    ("create", DURWARD, "portmappings", ""),
    ("delete", DURWARD, "portmappings", "web"),
    ("list", DURWARD, "egresspolicies", ""),
    ("create", DURWARD, "egresspolicies", ""),
    ("list", DURWARD, "hostedapis", ""),
    ("create", DURWARD, "hostedapis", ""),
];

const VIEWER: &[Action] = &[
    ("list", DURWARD, "portmappings", ""),
    ("list", DURWARD, "egresspolicies", ""),
    ("list", DURWARD, "hostedapis", ""),
];

/// What the account may do more that reads Ingresses.
const OF_INGRESSES: &[Action] = &[
    ("list", NETWORKING, "ingresses", ""),
    ("watch", NETWORKING, "ingresses", ""),
    ("patch", NETWORKING, "ingresses/status", "web"),
    ("watch", NETWORKING, "ingressclasses", ""),
];

/// Returns what a user may do in a namespace.
async fn allowed(env: &TestEnv, user: &str, namespace: &str) -> BTreeSet<Action> {
    let mut allowed = BTreeSet::new();
    for action in ACTIONS {
        let (verb, group, resource, name) = *action;
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": {
                "verb": verb, "group": group, "resource": resource, "subresource": subresource,
                "namespace": if ["tenants", "ingressclasses"].contains(&resource) { "" } else { namespace }, "name": name,
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer = env.raw("POST", path, Some(&review)).await.unwrap();
        if answer["status"]["allowed"] == true {
            allowed.insert(*action);
        }
    }
    allowed
}

/// Binds a role of the repository to a user, in a namespace or everywhere.
async fn bind(env: &TestEnv, role: &str, user: &str, namespace: Option<&str>) {
    let kind = if namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" };
    let mut binding: Value = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": {"name": format!("{role}-{}", env.namespace())},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    if let Some(namespace) = namespace {
        binding["metadata"]["namespace"] = json!(namespace);
    }
    env.create(&binding).await;
}

// S1.65+ S1.8+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_role_may_do_what_it_is_for_and_nothing_else() {
    let env = TestEnv::start().await;
    let own = env.namespace().to_owned();
    env.service_account("durward").await;
    let theirs = env.new_namespace(&json!({"durward.dev/tenant": "acme"})).await;
    let others = env.new_namespace(&json!({})).await;
    for file in ["rbac.yaml", "roles.yaml", "tenant-secrets.yaml"] {
        install(&env, &format!("deploy/kubernetes/{file}"), &theirs).await;
    }
    let user = |name: &str| format!("{name}-{own}");
    bind(&env, "durward-operator", &user("operator"), None).await;
    bind(&env, "durward-edit", &user("editor"), Some(&theirs)).await;
    bind(&env, "durward-view", &user("viewer"), Some(&theirs)).await;
    let account = |name: &str| format!("system:serviceaccount:{own}:{name}");
    let everywhere: Vec<Action> =
        READER.iter().filter(|action| action.2 != "secrets").copied().collect();

    let mut at_home = everywhere.clone();
    at_home.push(("create", "coordination.k8s.io", "leases", ""));
    at_home.push(("update", "coordination.k8s.io", "leases", "durward-statuses"));

    let matrix: [(String, &str, &[Action]); 11] = [
        (account("durward"), &own, &at_home),
        (account("durward"), &theirs, READER),
        (account("durward"), &others, &everywhere),
        // A gateway that `durward kube` reads for has no account of its own.
        (account("default"), &theirs, &[]),
        (account("default"), &own, &[]),
        (user("operator"), &theirs, OPERATOR),
        (user("operator"), &others, OPERATOR),
        (user("editor"), &theirs, EDITOR),
        (user("editor"), &others, &[]),
        (user("viewer"), &theirs, VIEWER),
        (user("viewer"), &others, &[]),
    ];
    for (user, namespace, wanted) in &matrix {
        assert_allowed(&env, (user, namespace), wanted).await;
    }

    install(&env, "deploy/kubernetes/ingresses/ingresses.yaml", &theirs).await;
    let reader = account("durward");
    assert_allowed(&env, (&reader, &theirs), &[READER, OF_INGRESSES].concat()).await;
    assert_allowed(&env, (&account("default"), &theirs), &[]).await;
}

async fn assert_allowed(env: &TestEnv, (user, namespace): (&str, &str), wanted: &[Action]) {
    let wanted: BTreeSet<Action> = wanted.iter().copied().collect();
    let mut has = allowed(env, user, namespace).await;
    for _ in 0..50 {
        if has == wanted {
            break;
        }
        // A server's authorizer has its rules from a watch.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        has = allowed(env, user, namespace).await;
    }
    assert_eq!(has, wanted, "{user} in {namespace}");
}
