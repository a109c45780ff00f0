//! The objects of a tenant cluster, made from the manifests of the repository: what is installed differs from them in what the `HostedApi` says, and in nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use durward_control::spec::api_proxy::{ApiProxyPlan, shown};
use durward_control::spec::hosted_api::ModeSpec;
use durward_kube::addon::{MANAGED_BY, Material, SecretEntries};
use serde_json::{Value, json};

use crate::failure::Failure;

const DAEMON_SET: &str = include_str!("../../../../../deploy/api-proxy/base/daemonset.yaml");
const SERVICE_ACCOUNT: &str =
    include_str!("../../../../../deploy/api-proxy/base/serviceaccount.yaml");
const SERVICE: &str = include_str!("../../../../../deploy/api-proxy/slice/service.yaml");
const ROLES: &str = include_str!("../../../../../deploy/api-proxy/slice/role.yaml");

/// Name and namespace of everything that is installed.
const NAME: &str = "durward-api-proxy";
const SERVING: &str = "durward-api-proxy-serving";
const NAMESPACE: &str = "kube-system";
/// Directories in the container.
const CERTIFICATES: &str = "/etc/durward-api-proxy";
const SERVING_DIR: &str = "/etc/durward-api-proxy-serving";
/// Device of the advertised address.
const DEVICE: &str = "durward-api";
/// User of proxies that need no right of the node; nobody in the image has it.
const USER: u32 = 65_532;
/// Modes of files with keys: for root alone, and for the group of [`USER`].
const ROOT_ONLY: u32 = 0o400;
const GROUP: u32 = 0o440;

/// The manifests, and the image that is installed unless a `HostedApi` says another.
pub(super) struct Objects {
    image: String,
    daemon_set: Value,
    service_account: Value,
    service: Value,
    roles: Vec<Value>,
}

impl Objects {
    /// Reads the manifests.
    pub(super) fn new(image: &str) -> Result<Self, Failure> {
        let read = |text: &str| {
            serde_saphyr::from_str::<Value>(text)
                .map_err(|error| Failure::broken("reading the manifests of the API proxy", error))
        };
        Ok(Self {
            image: image.to_owned(),
            daemon_set: read(DAEMON_SET)?,
            service_account: read(SERVICE_ACCOUNT)?,
            service: read(SERVICE)?,
            roles: ROLES.split("---\n").map(read).collect::<Result<_, _>>()?,
        })
    }

    /// Returns kind, namespace and name of every object that may be installed.
    pub(super) fn known(&self) -> Vec<Value> {
        let secrets = [NAME, SERVING].map(|name| secret(name, "Opaque", &SecretEntries::default()));
        let workloads = [self.daemon_set.clone(), as_deployment(self.daemon_set.clone(), 1)];
        let others = [self.service_account.clone()].into_iter().chain(secrets);
        let all = others.chain([self.service.clone()]).chain(self.roles.iter().cloned());
        all.chain(workloads).map(|object| head(&object)).collect()
    }

    /// Makes the objects of a cluster, what runs last.
    pub(super) fn render(&self, material: &Material<'_>) -> Result<Vec<Value>, String> {
        let plan = material.plan;
        let mut objects = vec![self.service_account.clone()];
        objects.push(credentials(material)?);
        if let (Some(name), Some(serving)) = (&plan.serving_secret, &material.serving) {
            lacks(serving, name, &["tls.crt", "tls.key"])?;
            objects.push(secret(
                SERVING,
                "kubernetes.io/tls",
                &only(serving, &["tls.crt", "tls.key"]),
            ));
        }
        if keeps_slice(plan) {
            let mut service = self.service.clone();
            service["spec"]["ports"][0]["port"] = json!(plan.port);
            service["spec"]["ports"][0]["targetPort"] = json!(plan.port);
            objects.push(service);
            objects.extend(self.roles.iter().cloned());
        }
        objects.push(self.workload(plan));
        let (label, value) = MANAGED_BY;
        for object in &mut objects {
            object["metadata"]["labels"][label] = json!(value);
        }
        Ok(objects)
    }

    fn workload(&self, plan: &ApiProxyPlan) -> Value {
        let mut workload = self.daemon_set.clone();
        let pod = &mut workload["spec"]["template"]["spec"];
        let container = &mut pod["containers"][0];
        container["image"] = json!(plan.image.as_ref().unwrap_or(&self.image));
        container["args"] = json!(arguments(plan));
        remove(container, "envFrom");
        container["env"] = json!(environment(plan));
        if let Some(resources) = &plan.resources {
            container["resources"] = json!(resources);
        }
        if keeps_slice(plan) {
            container["ports"] = json!([{
                "name": "https", "containerPort": plan.port, "hostPort": plan.port, "protocol": "TCP",
            }]);
            container["securityContext"] = json!({
                "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER,
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            });
            pod["automountServiceAccountToken"] = json!(true);
            pod["securityContext"]["fsGroup"] = json!(USER);
        }
        volumes(pod, plan);
        if !plan.host_aliases.is_empty() {
            let aliases = plan.host_aliases.iter();
            let aliases = aliases.map(|(ip, names)| json!({"ip": ip, "hostnames": names}));
            pod["hostAliases"] = aliases.collect();
        }
        match plan.replicas {
            Some(replicas) => as_deployment(workload, replicas),
            None => workload,
        }
    }
}

/// Returns whether the proxies write the endpoints of `kubernetes`.
fn keeps_slice(plan: &ApiProxyPlan) -> bool {
    plan.advertise.is_empty()
}

fn volumes(pod: &mut Value, plan: &ApiProxyPlan) {
    let mode = if keeps_slice(plan) { GROUP } else { ROOT_ONLY };
    pod["volumes"][0]["secret"]["defaultMode"] = json!(mode);
    if plan.serving_secret.is_none() {
        return;
    }
    let volume = json!({"name": "serving", "secret": {"secretName": SERVING, "defaultMode": mode}});
    let mount = json!({"name": "serving", "mountPath": SERVING_DIR, "readOnly": true});
    let lists = [("/volumes", volume), ("/containers/0/volumeMounts", mount)];
    for (list, entry) in lists {
        if let Some(list) = pod.pointer_mut(list).and_then(Value::as_array_mut) {
            list.push(entry);
        }
    }
}

/// Returns the arguments of a proxy. None of them is a secret.
fn arguments(plan: &ApiProxyPlan) -> Vec<String> {
    let mode = match plan.mode {
        ModeSpec::Advertised => "advertised",
        ModeSpec::Slice => "slice",
        ModeSpec::Reoriginate => "re-originate",
    };
    let mut arguments = vec!["api-proxy".to_owned(), "--drain-grace=45s".to_owned()];
    // One word each: what is written begins no option of its own.
    let mut add = |option: &str, value: String| arguments.push(format!("--{option}={value}"));
    add("server-name", plan.server_name.clone());
    add("mode", mode.to_owned());
    add("port", plan.port.to_string());
    for address in &plan.advertise {
        add("advertise-address", address.to_string());
    }
    if !keeps_slice(plan) {
        add("device", DEVICE.to_owned());
    }
    plan.pods.iter().for_each(|network| add("pod-cidr", network.to_string()));
    plan.services.iter().for_each(|network| add("service-cidr", network.to_string()));
    plan.gateways.iter().for_each(|(host, port)| add("gateway", shown(host, *port)));
    if let Some(endpoint) = &plan.internal_endpoint {
        add("internal-endpoint", endpoint.clone());
    }
    add("ca", format!("{CERTIFICATES}/ca.crt"));
    if plan.mode == ModeSpec::Reoriginate {
        add("serving-cert", format!("{SERVING_DIR}/tls.crt"));
        add("serving-key", format!("{SERVING_DIR}/tls.key"));
    } else {
        add("cert", format!("{CERTIFICATES}/tls.crt"));
        add("key", format!("{CERTIFICATES}/tls.key"));
    }
    arguments
}

fn environment(plan: &ApiProxyPlan) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
    let mut environment =
        vec![field("NODE_NAME", "spec.nodeName"), field("POD_IPS", "status.podIPs")];
    if keeps_slice(plan) {
        // A proxy does not reach the API by the endpoints that it writes.
        let port = plan.gateways.first().map_or(443, |(_, port)| *port);
        environment.push(json!({"name": "KUBERNETES_SERVICE_HOST", "value": plan.server_name}));
        environment.push(json!({"name": "KUBERNETES_SERVICE_PORT", "value": port.to_string()}));
    }
    environment
}

fn as_deployment(mut workload: Value, replicas: u16) -> Value {
    workload["kind"] = json!("Deployment");
    let spec = &mut workload["spec"];
    spec["replicas"] = json!(replicas);
    remove(spec, "updateStrategy");
    // Each has a port of its node: a new one needs a node that has none, or the place of an old one.
    spec["strategy"] = json!({
        "type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    });
    workload
}

/// Returns the Secret that proxies verify the gateway with, and show it.
fn credentials(material: &Material<'_>) -> Result<Value, String> {
    let keys: &[&str] = match material.plan.mode {
        ModeSpec::Reoriginate => &["ca.crt"],
        ModeSpec::Advertised | ModeSpec::Slice => &["ca.crt", "tls.crt", "tls.key"],
    };
    lacks(&material.certificate, &material.plan.certificate_secret, keys)?;
    Ok(secret(NAME, "Opaque", &only(&material.certificate, keys)))
}

fn lacks(entries: &SecretEntries, name: &str, keys: &[&str]) -> Result<(), String> {
    let is_missing = |key: &&&str| entries.0.get(**key).is_none_or(Vec::is_empty);
    match keys.iter().find(is_missing) {
        Some(key) => Err(format!("Secret {name:?} has no {key}: add it")),
        None => Ok(()),
    }
}

/// Returns the entries of these keys: whatever else a Secret has stays where it is.
fn only(entries: &SecretEntries, keys: &[&str]) -> SecretEntries {
    let there = keys.iter().filter_map(|key| entries.0.get_key_value(*key));
    SecretEntries(there.map(|(key, value)| (key.clone(), value.clone())).collect())
}

fn secret(name: &str, r#type: &str, entries: &SecretEntries) -> Value {
    let data = entries.0.iter().map(|(key, value)| (key.clone(), json!(STANDARD.encode(value))));
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": NAME}},
        "type": r#type, "data": data.collect::<serde_json::Map<_, _>>(),
    })
}

fn remove(object: &mut Value, field: &str) {
    if let Some(object) = object.as_object_mut() {
        object.remove(field);
    }
}

fn head(object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": {"namespace": metadata["namespace"], "name": metadata["name"]},
    })
}

#[cfg(test)]
mod tests;
