//! Strings that mean no good, on their whole way: into statuses, Events, the exposition, the snapshot and the log.

use durward_testkit::kubernetes::ApiServer;

use super::*;

/// Everything in one string that some format or shell gives a meaning.
const HOSTILE: &str = "a\n\"b'$(id)${X}{x}\\\u{0}\u{1b}[31m\r\u{7f}\u{202e}\u{2028} # - %s";
const OURS: [&str; 4] = [
    "tenants.durward.dev",
    "portmappings.durward.dev",
    "egresspolicies.durward.dev",
    "hostedapis.durward.dev",
];
/// Fields whose keys are names.
const MAPS: [&str; 3] = ["upstreams", "set", "add"];

/// A tenant with a string in many fields. Nothing of it is on this host.
fn tenant(number: usize) -> Value {
    let address = format!("10.50.{}.{}", number / 250, number % 250 + 1);
    let headers = json!({"set": {"X-T": "t"}, "add": {"X-A": "a"}, "remove": ["X-D"]});
    json!({
        "namespace": format!("n{number}"),
        "ingress": [{"address": address, "port": 8080, "protocol": "HTTP", "allowedSources": ["192.0.2.0/24"], "routes": [
            {"name": "api", "host": "api.example", "pathPrefix": "/v1", "methods": ["GET"], "upstream": "pay",
             "headers": [{"name": "X-V", "value": "1"}], "requestHeaders": headers, "responseHeaders": headers,
             "rewrite": {"host": "pay.internal", "pathPrefix": "/"}, "timeout": "30s"},
            {"path": "/status", "respond": {"status": 200, "body": "fine"}},
            {"pathPrefix": "/old", "redirect": {"status": 301, "scheme": "https", "host": "new.example", "path": "/"}},
        ]}],
        "upstreams": {"pay": {"endpoints": ["10.51.0.1:80"], "balance": "RoundRobin",
            "healthCheck": {"path": "/healthz", "host": "pay.internal", "interval": "5s"}}},
        "egress": {"addresses": [address], "contact": "ops@example", "proxy": [{"address": address, "port": 3128}],
            "allow": [{"name": "bank", "host": "bank.example", "ports": ["443"]}], "deny": [{"name": "net", "cidr": "10.9.0.0/16"}]},
        "limits": {"bandwidthOut": "1Mbit/s", "headerBytes": "64KiB", "timeouts": {"idle": "75s"}},
    })
}

/// Objects of a namespace, each with a string in many fields.
fn parts() -> [(&'static str, Value); 3] {
    [
        (
            "PortMapping",
            json!({"addresses": ["10.52.0.1"], "allowedSources": ["192.0.2.0/24"], "endpoints": ["10.53.0.1"],
                   "affinity": "None", "drain": "30s", "ports": [{"port": 80, "protocol": "TCP"}]}),
        ),
        (
            "EgressPolicy",
            json!({"allow": [{"name": "one", "host": "one.example", "methods": ["GET"], "ports": ["80"]}],
                   "deny": [{"name": "net", "cidr": "10.9.0.0/16"}]}),
        ),
        (
            "HostedApi",
            json!({"names": ["t1.api.example"], "address": "10.54.0.1", "idleTimeout": "2h", "kubeconfigSecretName": "t1",
                   "upstream": {"service": {"name": "pay", "port": "https"}, "verifyName": "t1.internal"}}),
        ),
    ]
}

/// Returns copies of a spec, each with [`HOSTILE`] in the place of another string or of another name.
fn spoilt(spec: &Value) -> Vec<Value> {
    fn places(value: &Value, at: &str, found: &mut Vec<(String, Option<String>)>) {
        match value {
            Value::String(_) => found.push((at.to_owned(), None)),
            Value::Array(items) => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(n, item)| places(item, &format!("{at}/{n}"), found));
            }
            Value::Object(fields) => {
                for (key, value) in fields {
                    if MAPS.iter().any(|map| at.ends_with(&format!("/{map}"))) {
                        found.push((at.to_owned(), Some(key.clone())));
                    }
                    places(value, &format!("{at}/{key}"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    places(spec, "", &mut found);
    let with = |(at, key): (String, Option<String>)| {
        let mut spec = spec.clone();
        let place = spec.pointer_mut(&at).unwrap();
        match key {
            None => *place = json!(HOSTILE),
            Some(key) => {
                let map = place.as_object_mut().unwrap();
                let value = map.remove(&key).unwrap();
                map.insert(HOSTILE.to_owned(), value);
            }
        }
        spec
    };
    found.into_iter().map(with).collect()
}

fn object(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": kind, "spec": spec,
        "metadata": {"name": name, "namespace": namespace, "generation": 1},
    })
}

fn namespace_of(tenant: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"durward.dev/tenant": tenant}}})
}

/// Puts objects of all kinds there, and returns how many are ours.
fn put_all(double: &ApiServer) -> usize {
    let mut count = 0;
    for (number, spec) in spoilt(&tenant(0)).iter().enumerate() {
        // Each has its own address, unless that is what is spoilt.
        let own = format!("10.50.{}.{}", number / 250, number % 250 + 1);
        let text = spec.to_string().replace("10.50.0.1\"", &format!("{own}\""));
        let spec: Value = serde_json::from_str(&text).unwrap();
        let mut tenant = object("Tenant", "", &format!("t{number}"), &spec);
        tenant["metadata"].as_object_mut().unwrap().remove("namespace");
        double.put(&tenant);
        count += 1;
    }
    double.put(&namespace_of("parts", "parts"));
    let mut tenant =
        object("Tenant", "", "parts", &json!({"egress": {"addresses": ["10.55.0.1"]}}));
    tenant["metadata"].as_object_mut().unwrap().remove("namespace");
    double.put(&tenant);
    for (kind, spec) in parts() {
        for (number, spec) in spoilt(&spec).iter().enumerate() {
            double.put(&object(kind, "parts", &format!("p{number}"), spec));
            count += 1;
        }
    }
    double.put(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "durward"},
        "spec": {"controller": "durward.dev/ingress"},
    }));
    let backend = json!({"service": {"name": "pay", "port": {"name": "http"}}});
    let ingress = json!({"ingressClassName": "durward", "defaultBackend": backend, "rules": [
        {"host": "shop.example", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}},
    ]});
    for (number, spec) in spoilt(&ingress).into_iter().enumerate() {
        let annotations = json!({"nginx.ingress.kubernetes.io/rewrite-target": HOSTILE, (format!("x/{HOSTILE}")): "y"});
        double.put(&json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "spec": spec,
            "metadata": {"name": format!("i{number}"), "namespace": "parts", "generation": 1, "annotations": annotations},
        }));
    }
    double.put(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "balanced", "namespace": "parts", "annotations": {"durward.dev/addresses": HOSTILE}},
        "spec": {"type": "LoadBalancer", "loadBalancerClass": "durward.dev/gateway", "ports": [{"port": 80}]},
    }));
    count + 1
}

/// Returns what is wrong with a line of an exposition; nothing if it is well-formed.
fn fault_of_sample(line: &str) -> Option<String> {
    let fault = |what: &str| Some(format!("{what}: {line:?}"));
    let Some((series, value)) = line.rsplit_once(' ') else { return fault("no value") };
    if value.parse::<f64>().is_err() {
        return fault("no value");
    }
    let (name, labels) = series.split_once('{')?;
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return fault("no name");
    }
    let Some(labels) = labels.strip_suffix('}') else { return fault("no end of labels") };
    let mut rest = labels.chars().peekable();
    while rest.peek().is_some() {
        let label: String = std::iter::from_fn(|| rest.next_if(|one| *one != '=')).collect();
        if label.is_empty()
            || !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return fault("no label");
        }
        if rest.next() != Some('=') || rest.next() != Some('"') {
            return fault("no value of a label");
        }
        loop {
            match rest.next() {
                Some('"') => break,
                Some('\\') if matches!(rest.peek(), Some('\\' | '"' | 'n')) => drop(rest.next()),
                Some('\\') | None => return fault("no end of a label"),
                Some(_) => {}
            }
        }
        rest.next_if_eq(&',');
    }
    None
}

/// Returns the texts of an object that people read: of its conditions.
fn messages(object: &Value) -> Vec<String> {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.map(|condition| condition["message"].as_str().unwrap().to_owned()).collect()
}

fn assert_readable(text: &str, whose: &Value) {
    assert!(!text.contains(char::is_control), "{text:?} of {whose}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_strings_are_escaped_in_all_that_is_said_of_them_and_another_tenant_is_served() {
    let env = TestEnv::on_double(ApiServer::settings()).await;
    let (kubeconfig, victim) = (env.kubeconfig(), door());
    let reader = [
        "--kube-ingresses",
        "--kube-load-balancers",
        "--status-rate",
        "1000",
        "--log-format",
        "json",
    ];
    let more = Arguments::new(&reader, &[]);
    let cluster = Cluster::with(env, &kubeconfig, Form::OneProcess, more).await;
    cluster.tenant("victim", victim, "mine").await;
    until_served(victim, Some("mine")).await;
    let double = cluster.env.double().unwrap();

    let count = put_all(double);
    let ours = || OURS.iter().flat_map(|resource| double.objects(resource)).collect::<Vec<Value>>();
    let said = async || ours().iter().filter(|object| messages(object).len() == 3).count() > count;
    assert!(eventually(DEADLINE * 2, said).await, "{}", cluster.gateway.output());

    assert!(count > 60, "{count}");
    for object in ours() {
        messages(&object).iter().for_each(|message| assert_readable(message, &object));
    }
    let events = double.objects("events.events.k8s.io");
    assert!(!events.is_empty());
    for event in &events {
        assert_readable(event["note"].as_str().unwrap_or_default(), event);
    }
    let (_, metrics) = get(cluster.admin, "/metrics").unwrap();
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    let faults: Vec<String> = samples.filter_map(fault_of_sample).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    let (_, snapshot) = get(cluster.admin, "/snapshot").unwrap();
    serde_json::from_str::<Value>(&snapshot).unwrap();
    for line in cluster.gateway.output().lines().filter(|line| !line.is_empty()) {
        assert!(serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object()), "{line:?}");
    }
    until_served(victim, Some("mine")).await;
    assert_eq!(cluster.condition("victim", "Ready").await.as_deref(), Some("True Ready"));
}
