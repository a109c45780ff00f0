//! What every set of objects we ship must keep to, as sentences about what does not.
//!
//! Deliberately absent: taste. Each rule is one that an API server, a cluster's operator or an auditor would insist on.

use std::collections::BTreeSet;

use serde_json::Value;

/// API groups that are generally available in every release from 1.25 on.
const VERSIONS: &[&str] = &[
    "v1",
    "apps/v1",
    "policy/v1",
    "autoscaling/v2",
    "networking.k8s.io/v1",
    "rbac.authorization.k8s.io/v1",
];

/// Where a container has the token of its service account.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What is wrong with the objects.
pub(super) fn complaints(objects: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    let reads = workloads(objects).any(reads_objects);
    for object in objects {
        found.extend(object_complaints(object, reads));
    }
    for workload in workloads(objects) {
        found.extend(workload_complaints(objects, workload));
    }
    found.extend(selector_complaints(objects));
    found
}

/// Kinds that a set meant for production lacks.
pub(super) fn missing_kinds(objects: &[Value]) -> Vec<&'static str> {
    let wanted = [
        "Deployment",
        "Service",
        "ConfigMap",
        "ServiceAccount",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
    ];
    wanted.into_iter().filter(|kind| of_kind(objects, kind).next().is_none()).collect()
}

/// What would let one node or zone take all replicas down.
pub(super) fn availability_complaints(objects: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    for deployment in of_kind(objects, "Deployment") {
        let pod = &deployment["spec"]["template"]["spec"];
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        let replicas = deployment["spec"]["replicas"].as_u64();
        if replicas.is_some_and(|replicas| replicas < 3) {
            found.push(format!("{replicas:?} replicas"));
        }
        let apart = &pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
            [0]["podAffinityTerm"];
        if apart["topologyKey"] != "kubernetes.io/hostname"
            || !selects(&apart["labelSelector"]["matchLabels"], labels)
        {
            found.push("replicas do not keep off each other's node".to_owned());
        }
        let spread = &pod["topologySpreadConstraints"][0];
        if spread["topologyKey"] != "topology.kubernetes.io/zone"
            || !selects(&spread["labelSelector"]["matchLabels"], labels)
        {
            found.push("replicas are not spread over zones".to_owned());
        }
    }
    found
}

/// An object by kind and name.
pub(crate) fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    of_kind(objects, kind).find(|object| object["metadata"]["name"] == name)
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// What runs pods of the gateway.
fn workloads(objects: &[Value]) -> impl Iterator<Item = &Value> {
    of_kind(objects, "Deployment").chain(of_kind(objects, "DaemonSet"))
}

/// Whether tenants are objects of the cluster.
fn reads_objects(workload: &Value) -> bool {
    let containers = list(&workload["spec"]["template"]["spec"]["containers"]);
    let mut arguments = containers.flat_map(|container| list(&container["args"]));
    arguments.any(|argument| argument == "--kube-socket" || argument == "--kubernetes")
}

/// What a role opens that nobody needs.
fn role_complaints(role: &Value) -> Vec<&'static str> {
    let has = |rule: &Value, field: &str, wanted: &[&str]| {
        list(&rule[field]).any(|entry| wanted.iter().any(|wanted| entry == wanted))
    };
    let rules: Vec<&Value> = list(&role["rules"]).collect();
    let any = |broken: &dyn Fn(&Value) -> bool| rules.iter().any(|rule| broken(rule));
    let demands = [
        (
            any(&|rule| has(rule, "verbs", &["*"]) || has(rule, "resources", &["*"])),
            "opens everything",
        ),
        (
            any(&|rule| {
                has(rule, "resources", &["secrets", "configmaps"])
                    && rule["resourceNames"].is_null()
            }),
            "opens every Secret or ConfigMap",
        ),
        (
            any(&|rule| has(rule, "resources", &["pods/exec", "serviceaccounts/token"])),
            "opens pods",
        ),
    ];
    demands.into_iter().filter(|(broken, _)| *broken).map(|(_, complaint)| complaint).collect()
}

fn object_complaints(object: &Value, reads_objects: bool) -> Vec<String> {
    let mut found = Vec::new();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let what = format!("{} {name:?}", object["kind"].as_str().unwrap_or("object without kind"));
    if !object["apiVersion"].as_str().is_some_and(|version| VERSIONS.contains(&version)) {
        found.push(format!("{what}: apiVersion {} is not for all releases", object["apiVersion"]));
    }
    let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 63 || !name.bytes().all(label) || name.starts_with('-') {
        found.push(format!("{what}: not an RFC 1123 label"));
    }
    if object["kind"].as_str().is_some_and(|kind| kind.contains("Role")) {
        if !reads_objects {
            let complaint = "a gateway that reads mounted files needs no access to the API";
            found.push(format!("{what}: {complaint}"));
        }
        found.extend(role_complaints(object).iter().map(|end| format!("{what}: {end}")));
    }
    if object["kind"] == "ServiceAccount" && object["automountServiceAccountToken"] != false {
        found.push(format!("{what}: mounts a token"));
    }
    found
}

fn workload_complaints(objects: &[Value], workload: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut demand = |holds: bool, complaint: &str| {
        if !holds {
            let (kind, name) = (text(&workload["kind"]), &workload["metadata"]["name"]);
            found.push(format!("{kind} {name}: {complaint}"));
        }
    };
    let template = &workload["spec"]["template"];
    let pod = &template["spec"];
    demand(
        selects(&workload["spec"]["selector"]["matchLabels"], &template["metadata"]["labels"]),
        "its selector does not select its pods",
    );
    demand(pod["automountServiceAccountToken"] == false, "mounts a token");
    demand(pod["terminationGracePeriodSeconds"].as_u64() >= Some(30), "has no time to drain");
    let security = &pod["securityContext"];
    demand(security["runAsNonRoot"] == true, "may run as root");
    demand(security["runAsUser"] == 65532, "runs as another user than the image");
    demand(security["seccompProfile"]["type"] == "RuntimeDefault", "has no seccomp profile");
    for container in list(&pod["containers"]) {
        for complaint in container_complaints(container) {
            demand(false, complaint);
        }
        for complaint in mount_complaints(objects, pod, container) {
            demand(false, &complaint);
        }
    }
    found
}

fn container_complaints(container: &Value) -> Vec<&'static str> {
    let probe = |name: &str, path: &str| {
        let port = if container["name"] == "kube" { "kube-admin" } else { "admin" };
        container[name]["httpGet"]["path"] == path && container[name]["httpGet"]["port"] == port
    };
    let image = container["image"].as_str().unwrap_or_default();
    let security = &container["securityContext"];
    // It serves no client: whether a pod is ready is the gateway's word.
    let is_reader = container["name"] == "kube";
    let has_token = list(&container["volumeMounts"]).any(|mount| mount["mountPath"] == TOKEN);
    let is_fed = list(&container["args"]).any(|argument| argument == "--kube-socket");
    let demands = [
        (probe("startupProbe", "/livez"), "no start-up probe on /livez"),
        (probe("livenessProbe", "/livez"), "no liveness probe on /livez"),
        (is_reader || probe("readinessProbe", "/readyz"), "no readiness probe on /readyz"),
        (!(is_fed && has_token), "a token though another process reads for it"),
        (container["resources"]["requests"]["cpu"].is_string(), "no CPU request"),
        (container["resources"]["requests"]["memory"].is_string(), "no memory request"),
        (container["resources"]["limits"]["memory"].is_string(), "no memory limit"),
        (security["readOnlyRootFilesystem"] == true, "a writable root file system"),
        (security["allowPrivilegeEscalation"] == false, "privilege escalation"),
        (security["capabilities"]["drop"][0] == "ALL", "capabilities"),
        (security["capabilities"]["add"].is_null(), "added capabilities"),
        (image.contains(':') && !image.ends_with(":latest"), "an image without a fixed tag"),
        (is_reader || port_numbers(container).contains(&8443), "no port 8443"),
    ];
    demands.into_iter().filter(|(holds, _)| !holds).map(|(_, complaint)| complaint).collect()
}

fn mount_complaints(objects: &[Value], pod: &Value, container: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut files = BTreeSet::new();
    for mount in list(&container["volumeMounts"]) {
        let Some(volume) = list(&pod["volumes"]).find(|volume| volume["name"] == mount["name"])
        else {
            found.push(format!("mount {} has no volume", mount["name"]));
            continue;
        };
        // The state directory is bounded, or outlives the pod; the socket's is the pod's own. Everything else comes from outside and is only read.
        let is_bounded = volume["emptyDir"]["sizeLimit"].is_string();
        let outlives =
            volume["persistentVolumeClaim"].is_object() || volume["hostPath"].is_object();
        let is_state = mount["mountPath"] == "/var/lib/durward" && (is_bounded || outlives);
        let is_socket = mount["mountPath"] == "/run/durward" && is_bounded;
        if mount["readOnly"] != true && !is_state && !is_socket {
            found.push(format!("mount {} is writable", mount["name"]));
        }
        let place = mount["mountPath"].as_str().unwrap_or_default();
        match volume_files(objects, volume) {
            Ok(names) => files.extend(names.into_iter().map(|name| format!("{place}/{name}"))),
            Err(complaint) => found.push(complaint),
        }
    }
    for variable in list(&container["env"]) {
        let value = variable["value"].as_str().unwrap_or_default();
        if variable["name"] == "ROUTING_CONFIG_PATH" && !files.contains(value) {
            found.push(format!("ROUTING_CONFIG_PATH is {value}, but mounted are {files:?}"));
        }
    }
    found
}

/// The files a volume brings; a ConfigMap must be among the objects, Secrets are made by their owners.
fn volume_files(objects: &[Value], volume: &Value) -> Result<Vec<String>, String> {
    let single = std::slice::from_ref(volume);
    let sources = volume["projected"]["sources"].as_array().map_or(single, Vec::as_slice);
    let mut files = Vec::new();
    for source in sources {
        let items = |kind: &str| list(&source[kind]["items"]).map(|item| text(&item["path"]));
        files.extend(items("secret").chain(items("configMap")));
        let Some(name) = source["configMap"]["name"].as_str() else { continue };
        // The cluster puts it into every namespace.
        if name == "kube-root-ca.crt" {
            continue;
        }
        match find(objects, "ConfigMap", name) {
            Some(map) if source["configMap"]["items"].is_null() => {
                files.extend(
                    map["data"].as_object().into_iter().flat_map(|data| data.keys().cloned()),
                );
            }
            Some(_) => {}
            // The base leaves the tenants to its overlays.
            None if of_kind(objects, "ConfigMap").next().is_none() => {}
            None => return Err(format!("ConfigMap {name} is not among the objects")),
        }
    }
    Ok(files)
}

fn selector_complaints(objects: &[Value]) -> Vec<String> {
    let pods: Vec<&Value> =
        workloads(objects).map(|workload| &workload["spec"]["template"]).collect();
    let selected = |selector: &Value| {
        pods.iter().find(|pod| selects(selector, &pod["metadata"]["labels"])).copied()
    };
    let mut found = Vec::new();
    for object in objects {
        let selector = match object["kind"].as_str() {
            Some("Service") => &object["spec"]["selector"],
            Some("PodDisruptionBudget") => &object["spec"]["selector"]["matchLabels"],
            Some("NetworkPolicy") => &object["spec"]["podSelector"]["matchLabels"],
            Some("HorizontalPodAutoscaler") => {
                let target = text(&object["spec"]["scaleTargetRef"]["name"]);
                if find(objects, "Deployment", &target).is_none() {
                    found.push(format!("nothing is called {target}, which is to be scaled"));
                }
                continue;
            }
            _ => continue,
        };
        let what = format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]));
        match selected(selector) {
            None => found.push(format!("{what} selects no pods")),
            Some(pod) if object["kind"] == "Service" => {
                found.extend(
                    port_complaints(object, pod).into_iter().map(|end| what.clone() + &end),
                );
            }
            Some(_) => {}
        }
    }
    found
}

fn port_complaints(service: &Value, pod: &Value) -> Vec<String> {
    let container = &pod["spec"]["containers"][0];
    let named = |name: &str| list(&container["ports"]).any(|port| port["name"] == name);
    list(&service["spec"]["ports"])
        .map(|port| &port["targetPort"])
        .filter(|target| match (target.as_u64(), target.as_str()) {
            (Some(number), _) => !port_numbers(container).contains(&number),
            (None, Some(name)) => !named(name),
            (None, None) => true,
        })
        .map(|target| format!(" leads to port {target}, which no container has"))
        .collect()
}

fn port_numbers(container: &Value) -> Vec<u64> {
    list(&container["ports"]).filter_map(|port| port["containerPort"].as_u64()).collect()
}

/// Whether all of `selector` (not empty) is in `labels`.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value)
    })
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
