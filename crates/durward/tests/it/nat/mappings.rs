//! SmartNat's Mappings of a cluster: the kernel carries them straight to the pods, and each object says so until it is gone.

use durward_testkit::kubernetes::TestEnv;
use durward_testkit::netns::{Namespace, in_namespace, on_host, veth};
use durward_testkit::process::{Child, eventually_blocking};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{ADMIN, HERE, Lab, OPTIONS, PARTNER, POD, greet, hear, said};
use crate::support::{DEADLINE, durward, get};

/// Address of a second gateway.
const THERE: &str = "203.0.113.2";
const FINALIZER: &str = "mapping.finalizers.aureacentral.com";

/// Processes in which the API is read and the kernel written.
#[derive(Clone, Copy)]
enum Processes {
    One,
    Two,
}

/// A lab with an API server, in whose namespace there is a Service `echo` with the lab's pod.
struct Cluster {
    lab: Lab,
    runtime: Runtime,
    env: TestEnv,
    /// Namespace of the tenant `acme`.
    theirs: String,
}

impl Cluster {
    fn new() -> Self {
        let lab = Lab::new();
        greet(&lab.pod, "second", 9001);
        // The API server answers while the test waits for the gateway.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let env = runtime.block_on(TestEnv::start());
        let labels = json!({"durward.dev/tenant": "acme"});
        let theirs = runtime.block_on(env.new_namespace(&labels));
        let cluster = Self { lab, runtime, env, theirs };
        let definitions = String::from_utf8(durward(&["crds"]).output().unwrap().stdout).unwrap();
        for definition in definitions.split("---\n").filter(|part| !part.trim().is_empty()) {
            cluster.define(definition);
        }
        cluster.define(&crate::text("deploy/smartnat/config/crds/smartnat_v1alpha1_mapping.yaml"));
        cluster.create(&json!({
            "apiVersion": "durward.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme"}, "spec": {},
        }));
        cluster.create(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo", "namespace": cluster.theirs},
            "spec": {"ports": [{"name": "web", "port": 80, "targetPort": 9000}]},
        }));
        cluster.slice(&[9000]);
        cluster
    }

    fn define(&self, definition: &str) {
        self.runtime.block_on(self.env.define(&serde_saphyr::from_str(definition).unwrap()));
    }

    fn create(&self, object: &Value) {
        self.runtime.block_on(self.env.create(object));
    }

    /// Makes the pod ready at these ports, in a slice for each.
    fn slice(&self, ports: &[u16]) {
        for (at, port) in [9000, 9001].into_iter().enumerate() {
            let ready = ports.contains(&port);
            self.create(&json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": format!("echo-{at}"), "namespace": self.theirs,
                    "labels": {"kubernetes.io/service-name": "echo"}},
                "addressType": "IPv4", "ports": [{"name": "web", "port": port, "protocol": "TCP"}],
                "endpoints": [{"addresses": [POD], "conditions": {"ready": ready}}],
            }));
        }
    }

    fn mapping(&self, name: &str, spec: &Value) {
        self.create(&json!({
            "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping",
            "metadata": {"name": name, "namespace": self.theirs}, "spec": spec,
        }));
    }

    fn path(&self, name: &str) -> String {
        let namespace = &self.theirs;
        format!("/apis/smartnat.aureacentral.com/v1alpha1/namespaces/{namespace}/mappings/{name}")
    }

    fn read(&self, name: &str) -> Option<Value> {
        self.runtime.block_on(self.env.raw("GET", &self.path(name), None)).ok()
    }

    fn delete(&self, name: &str) {
        self.runtime.block_on(self.env.raw("DELETE", &self.path(name), None)).unwrap();
    }

    /// Makes a kubeconfig with the rights of the manifests and no others, and returns its path.
    fn account(&self) -> String {
        let kubeconfig = self.runtime.block_on(self.env.service_account("durward"));
        for file in [
            "deploy/kubernetes/rbac.yaml",
            "deploy/smartnat/config/rbac/rbac_role.yaml",
            "deploy/smartnat/config/rbac/rbac_role_binding.yaml",
        ] {
            let install = crate::kubernetes::install(&self.env, file, &self.theirs);
            self.runtime.block_on(install);
        }
        let file = self.lab.dir.join("kubeconfig");
        std::fs::write(&file, kubeconfig).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// Starts a gateway, or `durward kube` and a gateway without any right.
    fn start(&self, processes: Processes) -> Vec<Child> {
        let (file, admin) = (self.account(), ADMIN.to_string());
        let reads = ["--smartnat-mappings", "--kubeconfig", &file];
        let serves = ["--admin", &admin, "--access-log", "off", "--workers", "1"];
        match processes {
            Processes::One => {
                let arguments = [&["run", "--kubernetes"][..], &reads, &serves, &OPTIONS];
                vec![Child::spawn(durward(&arguments.concat()))]
            }
            Processes::Two => {
                let socket = self.lab.dir.join("kube.sock");
                let socket = socket.to_str().unwrap();
                let kube = [&["kube", "--admin", "off", "--socket", socket][..], &reads];
                let gateway = [&["run", "--kube-socket", socket][..], &serves, &OPTIONS];
                vec![
                    Child::spawn(durward(&gateway.concat())),
                    Child::spawn(durward(&kube.concat())),
                ]
            }
        }
    }

    /// Waits until the status of a Mapping is so.
    fn until(&self, name: &str, is_so: impl Fn(&Value) -> bool) {
        let mut last = None;
        let mut is_there = || {
            last = self.read(name);
            last.as_ref().is_some_and(|object| is_so(&object["status"]))
        };
        let came = eventually_blocking(DEADLINE, &mut is_there);
        assert!(came, "{last:#?} {:?}", get(ADMIN, "/readyz?verbose"));
    }

    /// Returns whether the gateway's service account may do this in the tenant's namespace.
    fn may(&self, verb: &str, group: &str, resource: &str) -> bool {
        let account = format!("system:serviceaccount:{}:durward", self.env.namespace());
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": account, "resourceAttributes": {
                "verb": verb, "group": group, "resource": resource, "namespace": self.theirs,
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer = self.runtime.block_on(self.env.raw("POST", path, Some(&review))).unwrap();
        answer["status"]["allowed"] == true
    }

    fn heard(&self, port: u16) -> Result<String, String> {
        said(hear(&self.lab.partner, (HERE, port)))
    }
}

fn spec(port: u16) -> Value {
    json!({
        "addresses": [HERE, "203.0.113.99"], "allowedSources": [format!("{PARTNER}/32")],
        "serviceName": "echo", "mode": "service", "ports": [{"port": port, "servicePort": 80}],
    })
}

fn is_carried(status: &Value, pods: &[&str]) -> bool {
    status["invalid"] == "no" && status["configuredAddresses"] == json!({HERE: {"podIPs": pods}})
}

// S5.10+ S5.17 S5.32 S5.34 S5.35 S5.45 S5.46 S5.47+ S5.53
#[test]
fn a_mapping_of_a_cluster_is_carried_to_its_pods_and_gone_when_it_is_deleted() {
    let name =
        "nat::mappings::a_mapping_of_a_cluster_is_carried_to_its_pods_and_gone_when_it_is_deleted";
    carried_and_gone(name, Processes::One);
}

// S5.17+ S5.34+ S5.45+ S5.53+
#[test]
fn a_mapping_is_carried_and_gone_by_a_gateway_without_any_right() {
    let name = "nat::mappings::a_mapping_is_carried_and_gone_by_a_gateway_without_any_right";
    carried_and_gone(name, Processes::Two);
}

fn carried_and_gone(name: &str, processes: Processes) {
    in_namespace(name, || {
        let cluster = Cluster::new();
        let gateways = cluster.start(processes);
        let gateway = &gateways[0];
        cluster.mapping("desk", &spec(8080));

        cluster.until("desk", |status| is_carried(status, &[POD]));
        let object = cluster.read("desk").unwrap();
        assert_eq!(object["metadata"]["finalizers"], json!([FINALIZER]));
        let path = format!("/api/v1/namespaces/{}/services/echo", cluster.theirs);
        let service = cluster.runtime.block_on(cluster.env.raw("GET", &path, None)).unwrap();
        assert_eq!(object["status"]["serviceVIP"], service["spec"]["clusterIP"]);
        assert_eq!(cluster.heard(8080), Ok("pod 10.244.0.1".to_owned()), "{}", gateway.output());
        // It may write Mappings, but not make or delete any, and nothing of what SmartNat asked for beside them.
        let group = "smartnat.aureacentral.com";
        assert!(cluster.may("patch", group, "mappings"));
        for (verb, group, resource) in [
            ("create", group, "mappings"),
            ("delete", group, "mappings"),
            ("get", "", "secrets"),
            ("update", "", "services"),
            ("get", "admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
        ] {
            assert!(!cluster.may(verb, group, resource), "{verb} {resource}");
        }
        // Several slices, none ready, and the Service itself gone. At no moment before it is meant to be is none ready: a status that says so would be of that moment.
        cluster.slice(&[9000, 9001]);
        cluster.slice(&[9001]);
        let is_second = || cluster.heard(8080) == Ok("second 10.244.0.1".to_owned());
        assert!(eventually_blocking(DEADLINE, is_second));
        cluster.slice(&[]);
        cluster.until("desk", |status| is_carried(status, &[]));
        assert!(cluster.heard(8080).is_err());
        cluster.runtime.block_on(cluster.env.raw("DELETE", &path, None)).unwrap();
        cluster.until("desk", |status| status["conditions"][0]["reason"] == "ServiceMissing");

        cluster.delete("desk");
        assert!(eventually_blocking(DEADLINE, || cluster.read("desk").is_none()));
        let (_, ready) = get(ADMIN, "/readyz?verbose").unwrap();
        assert!(ready.contains("0 of 0 mappings"), "{ready}");
    });
}

// S5.36 S5.42+ S5.55 S5.72
#[test]
fn an_invalid_mapping_says_why_leaves_the_other_alone_and_can_be_deleted() {
    let name =
        "nat::mappings::an_invalid_mapping_says_why_leaves_the_other_alone_and_can_be_deleted";
    invalid_and_deleted(name, Processes::One);
}

// S5.36+ S5.55+
#[test]
fn an_invalid_mapping_says_why_where_the_gateway_has_no_right() {
    let name = "nat::mappings::an_invalid_mapping_says_why_where_the_gateway_has_no_right";
    invalid_and_deleted(name, Processes::Two);
}

fn invalid_and_deleted(name: &str, processes: Processes) {
    in_namespace(name, || {
        let cluster = Cluster::new();
        let _gateways = cluster.start(processes);
        cluster.mapping("first", &spec(8080));
        cluster.until("first", |status| is_carried(status, &[POD]));

        cluster.mapping("second", &spec(8080));
        let conflict = format!(
            "Found conflicting external endpoint: IP(s): {HERE},203.0.113.99; protocol: tcp; port: 8080 ("
        );
        cluster.until("second", |status| {
            status["invalid"].as_str().is_some_and(|text| text.starts_with(&conflict))
        });
        assert!(is_carried(&cluster.read("first").unwrap()["status"], &[POD]));
        let mut bad = spec(8081);
        bad["addresses"] = json!([HERE, "gateway"]);
        cluster.mapping("third", &bad);
        let text = "Invalid address in SmartNat.Spec.Addresses: gateway";
        cluster.until("third", |status| status["invalid"] == text);
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", cluster.theirs);
        let has_event = |reason: &str, of: &str| {
            let events = cluster.runtime.block_on(cluster.env.raw("GET", &path, None)).unwrap();
            let events = events["items"].as_array().cloned().unwrap_or_default();
            events.iter().any(|event| event["reason"] == reason && event["regarding"]["name"] == of)
        };
        for (reason, of) in
            [("Configured", "first"), ("PortTaken", "second"), ("InvalidMapping", "third")]
        {
            assert!(eventually_blocking(DEADLINE, || has_event(reason, of)), "{reason} of {of}");
        }

        cluster.mapping("first", &bad);
        cluster.until("first", |status| status["invalid"] == text);
        for name in ["third", "first"] {
            cluster.delete(name);
            assert!(eventually_blocking(DEADLINE, || cluster.read(name).is_none()), "{name}");
        }
        cluster.until("second", |status| is_carried(status, &[POD]));
        assert_eq!(cluster.heard(8080), Ok("pod 10.244.0.1".to_owned()));
    });
}

/// A second gateway at the same networks, in a namespace of its own: `durward kube` and a gateway without any right, on a host of another name.
struct Second {
    namespace: Namespace,
    kubeconfig: String,
}

impl Second {
    fn new(cluster: &Cluster) -> Self {
        let namespace = Namespace::new();
        namespace.veth("ext1", "wan2", &cluster.lab.partner);
        namespace.add_address("ext1", &format!("{THERE}/24"));
        cluster.lab.partner.link_up("wan2");
        cluster.lab.partner.ip(&format!("route add {THERE}/32 dev wan2"));
        veth("v2", "pods", &namespace);
        durward_testkit::netns::ip("link set v2 master br0");
        namespace.add_address("pods", "10.244.0.2/24");
        namespace.add_route("default", PARTNER);
        let kubeconfig = cluster.lab.dir.join("kubeconfig").to_str().unwrap().to_owned();
        Self { namespace, kubeconfig }
    }

    fn start(&self, cluster: &Cluster) -> Vec<Child> {
        let socket = cluster.lab.dir.join("second.sock");
        let socket = socket.to_str().unwrap();
        let admin = ADMIN.to_string();
        let kube = [
            "kube",
            "--admin",
            "off",
            "--socket",
            socket,
            "--smartnat-mappings",
            "--kubeconfig",
            &self.kubeconfig,
        ];
        let serves = ["--admin", &admin, "--access-log", "off", "--workers", "1"];
        let mut options = OPTIONS;
        options[OPTIONS.len() - 1] = "--nat-cluster-address=10.244.0.2";
        let gateway = [&["run", "--kube-socket", socket][..], &serves, &options].concat();
        on_host("second", || {
            let gateway = self.namespace.run(|| Child::spawn(durward(&gateway)));
            vec![gateway, Child::spawn(durward(&kube))]
        })
    }
}

// S5.10+ S5.53+ S5.54 S5.56
#[test]
fn two_gateways_carry_a_mapping_and_a_dead_one_cleans_its_kernel_when_it_returns() {
    let name = "nat::mappings::two_gateways_carry_a_mapping_and_a_dead_one_cleans_its_kernel_when_it_returns";
    in_namespace(name, || {
        let cluster = Cluster::new();
        let _first = cluster.start(Processes::One);
        let second = Second::new(&cluster);
        let mut running = second.start(&cluster);
        let mut both = spec(8080);
        both["addresses"] = json!([HERE, THERE]);
        let carried = json!({HERE: {"podIPs": [POD]}, THERE: {"podIPs": [POD]}});
        let heard = |address: &str| said(hear(&cluster.lab.partner, (address, 8080)));
        let by = |node: &str| Ok(format!("pod {node}"));

        cluster.mapping("desk", &both);
        cluster.until("desk", |status| status["configuredAddresses"] == carried);
        assert_eq!((heard(HERE), heard(THERE)), (by("10.244.0.1"), by("10.244.0.2")));
        cluster.delete("desk");
        assert!(eventually_blocking(DEADLINE, || cluster.read("desk").is_none()));
        assert!(heard(HERE).is_err() && heard(THERE).is_err(), "both kernels let go of it");

        cluster.mapping("desk", &both);
        cluster.until("desk", |status| status["configuredAddresses"] == carried);
        running.iter_mut().for_each(Child::kill);
        cluster.delete("desk");
        cluster.until("desk", |status| {
            status["configuredAddresses"] == json!({THERE: {"podIPs": [POD]}})
        });
        assert!(heard(HERE).is_err());
        // The kernel goes on without its process, and the object with it.
        assert_eq!(heard(THERE), by("10.244.0.2"));
        assert_eq!(cluster.read("desk").unwrap()["metadata"]["finalizers"], json!([FINALIZER]));

        let _again = second.start(&cluster);

        assert!(eventually_blocking(DEADLINE, || cluster.read("desk").is_none()));
        assert!(heard(THERE).is_err());
    });
}
