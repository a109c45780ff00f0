//! Two real control planes behind one address of a gateway, and a node of each cluster with real kube-proxy, where `KUBEBUILDER_ASSETS` names the programs.
//!
//! All of it is in namespaces of the network: the gateway and the API servers in one, each cluster's node in another, joined by a link. No container runs: pods are kubectl on the
//! node, and kubelets are stand-ins.

mod kubelet;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use durward_testkit::certificates::{Authority, CertSpec, Identity};
use durward_testkit::kubernetes::{Backend, ControlPlane, PlaneSettings};
use durward_testkit::netns::{Namespace, block_on, in_namespace, ip, veth};
use durward_testkit::process::{Child, TempDir, eventually};
use serde_json::{Value, json};

use crate::support::{durward, get, spawn, status};

/// Longer than control planes take on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(180);
const GATEWAY: &str = "10.77.0.1:443";
const ADMIN: &str = "127.0.0.1:9440";
/// Admin listener of an API proxy, on its node.
const ADMIN_OF_PROXY: &str = "127.0.0.1:9441";
/// Address of the Service `kubernetes`.
const SERVICE: &str = "https://10.96.0.1:443";
const INSIDE: &str = "kubernetes.default.svc";
/// Address of kube-proxy's health, by which its readiness is known.
const PROXY_HEALTH: &str = "127.0.0.1:10256";

/// A cluster: its control plane, and a node of it.
struct Cluster {
    tenant: &'static str,
    host: &'static str,
    plane: ControlPlane,
    /// A user of this cluster alone.
    user: Identity,
    proxies: Authority,
    node: Namespace,
    node_ip: Ipv4Addr,
    /// Log of the API proxy, which its node's kubelet hands out.
    logs: kubelet::Logs,
}

/// A way to an API server: what kubectl is given.
#[derive(Clone, Copy)]
struct Way<'a> {
    url: &'a str,
    /// Name that the server's certificate is verified for; `None` for that of the URL.
    name: Option<&'a str>,
    /// False where client certificates are lost, and a token is shown instead.
    by_certificate: bool,
}

struct Stage {
    assets: PathBuf,
    dir: TempDir,
    clusters: Vec<Cluster>,
    gateway: Child,
}

/// Returns the directory of the programs, or says that the test is skipped.
fn assets(test: &str, programs: &[&str]) -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let assets = assets.filter(|_| Backend::chosen() == Backend::Assets);
    let has = |dir: &PathBuf| programs.iter().all(|program| dir.join(program).is_file());
    let found = assets.filter(has);
    if found.is_none() {
        eprintln!("SKIPPED {test} (KUBEBUILDER_ASSETS has not all of {programs:?})");
    }
    found
}

impl Cluster {
    /// Starts a control plane whose node is the `number`th.
    fn start(
        assets: &Path,
        (tenant, host, number): (&'static str, &'static str, u8),
        advertise: Option<Ipv4Addr>,
    ) -> Self {
        let settings = PlaneSettings {
            address: SocketAddr::from(([127, 0, 0, 10 + number], 6443)),
            names: vec![host.to_owned()],
            advertise,
            controllers: false,
        };
        let plane = ControlPlane::start(assets, settings);
        let user = CertSpec::new().common_name(&format!("admin of {tenant}"));
        let user = plane.authority().issue(&user.organization("system:masters").client());
        let (node, node_ip) = (Namespace::new(), Ipv4Addr::new(10, 77, number, 2));
        let device = format!("node{number}");
        veth(&device, "eth0", &node);
        ip(&format!("address add 10.77.{number}.1/24 dev {device}"));
        node.add_address("eth0", &format!("{node_ip}/24"));
        node.add_route("default", &format!("10.77.{number}.1"));
        Self {
            tenant,
            host,
            plane,
            user,
            proxies: Authority::new(tenant),
            node,
            node_ip,
            logs: kubelet::Logs::default(),
        }
    }

    fn documents(&self) -> String {
        let Self { tenant, host, plane, .. } = self;
        let (address, port) = GATEWAY.split_once(':').unwrap();
        let [.., last] = self.node_ip.octets().map(|octet| octet.to_string());
        let egress = format!("127.1.{}.{last}", self.node_ip.octets()[2]);
        format!(
            "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {tenant}}}\nspec: {{egress: {{addresses: [{egress}]}}}}\n\
             ---\napiVersion: durward.dev/v1alpha1\nkind: HostedApi\nmetadata: {{name: {tenant}}}\nspec:\n  tenant: {tenant}\n  names: [{host}]\n  \
             address: {address}\n  port: {port}\n  upstream: {{endpoints: [\"{}\"], caFile: {tenant}-cluster.crt}}\n  \
             relay: {{certificate: {{file: {tenant}-relay}}, clientAuthorities: {{caFile: {tenant}-proxies.crt}}}}\n",
            plane.address()
        )
    }

    /// Returns kubectl with the user's certificate, on this cluster's node.
    fn kubectl(&self, stage: &Stage, way: Way<'_>, arguments: &[&str]) -> Command {
        let mut kubeconfig = self.plane.kubeconfig(way.url, way.name, &self.user);
        if !way.by_certificate {
            let token = std::fs::read_to_string(stage.dir.join(format!("{}-token", self.tenant)));
            kubeconfig["users"][0]["user"] = json!({"token": token.unwrap()});
        }
        let name =
            format!("{}-{}-{}", self.tenant, way.by_certificate, way.url.replace(['/', ':'], "-"));
        let file = stage.dir.write(name, kubeconfig.to_string());
        let mut command = Command::new(stage.assets.join("kubectl"));
        command.env_clear().env("HOME", stage.dir.path()).arg("--kubeconfig").arg(file);
        command.args(["--namespace", "default", "--request-timeout", "120s"]).args(arguments);
        command
    }

    /// Runs kubectl on the node with this input, and returns its output or what it complained of.
    fn run(
        &self,
        stage: &Stage,
        way: Way<'_>,
        arguments: &[&str],
        input: &[u8],
    ) -> Result<String, String> {
        let mut command = self.kubectl(stage, way, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.node.run(|| {
            let mut child = command.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            std::thread::scope(|scope| {
                // It may end before it has read everything.
                scope.spawn(move || stdin.write_all(input));
                child.wait_with_output().unwrap()
            })
        });
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        match output.status.success() {
            true => Ok(text(output.stdout)),
            false => Err(text(output.stderr)),
        }
    }

    fn done(&self, stage: &Stage, way: Way<'_>, arguments: &[&str], input: &[u8]) -> String {
        let done = self.run(stage, way, arguments, input);
        done.unwrap_or_else(|error| panic!("kubectl {arguments:?} at {}: {error}", way.url))
    }

    fn apply(&self, stage: &Stage, object: &Value) {
        let of_gateway = self.by_name();
        self.done(stage, of_gateway.way(), &["apply", "-f", "-"], object.to_string().as_bytes());
    }

    /// The way by the API server's outer name.
    fn by_name(&self) -> OwnWay {
        OwnWay { url: format!("https://{GATEWAY}"), name: Some(self.host.to_owned()) }
    }

    /// Makes the objects that the checks look at: a pod on a node whose kubelet stands in, and an account with a token.
    fn furnish(&self, stage: &Stage) {
        let kubelet = kubelet::start(self.plane.authority(), self.logs.clone());
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "pod"}});
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "pod"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "pod", "namespace": "default"}],
        });
        let whose = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "whose"}, "data": {"tenant": self.tenant},
        });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
            "spec": {"nodeName": "n1", "containers": [{"name": "web", "image": "none"}]},
        });
        for object in [&node, &account, &binding, &whose, &pod] {
            self.apply(stage, object);
        }
        let of_node = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": kubelet.ip()}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port()}},
        }});
        let of_pod = json!({"status": {"phase": "Running"}});
        for (object, status) in [("node/n1", &of_node), ("pod/web", &of_pod)] {
            let patch = [
                "patch",
                object,
                "--subresource=status",
                "--type=merge",
                "-p",
                &status.to_string(),
            ];
            self.done(stage, self.by_name().way(), &patch, b"");
        }
        let token = self.done(stage, self.by_name().way(), &["create", "token", "pod"], b"");
        stage.dir.write(format!("{}-token", self.tenant), token.trim());
    }

    /// Shows that kubectl is the right user at the right cluster, that a watch outlives a reload of the gateway, and that logs and exec last.
    async fn serves(&self, stage: &Stage, way: Way<'_>) {
        let context = format!("{} at {} as {:?}", self.tenant, way.url, way.name);
        let whoami = self.done(stage, way, &["auth", "whoami", "-o", "json"], b"");
        let whoami: Value = serde_json::from_str(&whoami).unwrap();
        let user = match way.by_certificate {
            true => format!("admin of {}", self.tenant),
            false => "system:serviceaccount:default:pod".to_owned(),
        };
        assert_eq!(whoami["status"]["userInfo"]["username"], user, "{context}");
        let whose = self.done(
            stage,
            way,
            &["get", "configmap", "whose", "-o", "jsonpath={.data.tenant}"],
            b"",
        );
        assert_eq!(whose, self.tenant, "{context}");

        let watching = self.kubectl(
            stage,
            way,
            &["get", "configmaps", "--watch", "-o", "name", "--request-timeout=0"],
        );
        let watch = self.node.run(|| Child::spawn(watching));
        watch.wait_for_line("configmap/whose", DEADLINE).await;
        stage.reload().await;
        let name = format!("seen-{}", std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos());
        self.done(stage, way, &["create", "configmap", &name], b"");
        watch.wait_for_line(&format!("configmap/{name}"), DEADLINE).await;

        let log = self.done(stage, way, &["logs", "-f", "web"], b"");
        assert_eq!(log.matches("line ").count(), kubelet::LINES, "{context}: {log}");
        let sent: String = (0..40_000).map(|number| format!("{number}\n")).collect();
        let echoed = self.done(stage, way, &["exec", "-i", "web", "--", "cat"], sent.as_bytes());
        assert!(echoed == sent, "{context}: {} bytes of {}", echoed.len(), sent.len());
    }

    /// Starts this cluster's API proxy on its node.
    async fn proxy(&self, stage: &Stage, mode: &[&str]) -> Child {
        let file =
            |name: &str| stage.dir.join(format!("{}-{name}", self.tenant)).display().to_string();
        let is_end_to_end = !mode.contains(&"re-originate");
        let authority = if is_end_to_end {
            "gateways.crt".to_owned()
        } else {
            format!("{}-cluster.crt", self.tenant)
        };
        let authority = stage.dir.join(authority).display().to_string();
        let mut arguments = vec!["--log-format", "json", "api-proxy", "--server-name", self.host];
        arguments.extend([
            "--gateway",
            GATEWAY,
            "--ca",
            &authority,
            "--admin",
            ADMIN_OF_PROXY,
            "--drain-delay",
            "0s",
        ]);
        let (certificate, key) = (file("proxy.crt"), file("proxy.key"));
        if is_end_to_end {
            arguments.extend(["--cert", &certificate, "--key", &key]);
        }
        arguments.extend(mode);
        let mut proxy = self.node.run(|| Child::spawn(durward(&arguments)));
        let address = ADMIN_OF_PROXY.parse().unwrap();
        let is_ready = eventually(DEADLINE, async || {
            self.node.run(|| status(address, "/readyz")) == Some(200)
        })
        .await;
        assert!(is_ready && proxy.is_running(), "{mode:?}: {}", proxy.output());
        proxy
    }

    /// Shows that the three commands of the guide's section on trouble find the proxy's pod, the slice and the proxy's log.
    fn is_diagnosed(&self, stage: &Stage, proxy: &Child) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "durward-api-proxy", "namespace": "kube-system", "labels": {"app": "durward-api-proxy"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "proxy", "image": "none"}]},
        });
        let way = self.by_name();
        let of_system = ["apply", "--namespace", "kube-system", "-f", "-"];
        self.done(stage, way.way(), &of_system, pod.to_string().as_bytes());
        *self.logs.lock().unwrap() = proxy.output();

        for (command, expected) in [
            ("get pods -n kube-system -l app=durward-api-proxy", "durward-api-proxy "),
            ("get endpointslice -n default kubernetes -o yaml", &*self.node_ip.to_string()),
            (
                "logs -n kube-system -l app=durward-api-proxy --tail=-1",
                "\"server_name\":\"t2.k8s.test\"",
            ),
        ] {
            let arguments: Vec<_> = command.split(' ').collect();
            let shown = self.done(stage, way.way(), &arguments, b"");
            assert!(shown.contains(expected), "{command}: {shown}");
            assert!(crate::text("docs/guide/api-proxy.md").contains(command), "{command}");
        }
    }

    /// Starts kube-proxy on this cluster's node.
    async fn kube_proxy(&self, stage: &Stage, mode: &str) -> Child {
        let kubeconfig = self.plane.kubeconfig(&self.by_name().url, Some(self.host), &self.user);
        let file = stage.dir.write(format!("{}-kube-proxy", self.tenant), kubeconfig.to_string());
        let mut command = Command::new(stage.assets.join("kube-proxy"));
        command.arg("--kubeconfig").arg(file).args([
            "--proxy-mode",
            mode,
            "--hostname-override",
            "n1",
        ]);
        command.args([
            "--healthz-bind-address",
            PROXY_HEALTH,
            "--metrics-bind-address",
            "127.0.0.1:10249",
        ]);
        // Limits of the whole host are not a namespace's to set.
        command.args(["--conntrack-max-per-core", "0", "--conntrack-min", "0"]);
        command.args([
            "--conntrack-tcp-timeout-established",
            "0s",
            "--conntrack-tcp-timeout-close-wait",
            "0s",
        ]);
        let (mut proxy, health) =
            (self.node.run(|| Child::spawn(command)), PROXY_HEALTH.parse().unwrap());
        let is_ready = eventually(DEADLINE, async || {
            self.node.run(|| status(health, "/healthz")) == Some(200)
        })
        .await;
        assert!(is_ready && proxy.is_running(), "{mode}: {}", proxy.output());
        proxy
    }

    /// Shows that a pod that connects to the Service `kubernetes` reaches this cluster's API server, in each mode of kube-proxy that the machine has.
    async fn serves_pods(&self, stage: &Stage, by_certificate: bool) {
        for (mode, program) in [("nftables", "nft"), ("iptables", "iptables")] {
            if Command::new(program).arg("--version").output().is_err() {
                eprintln!("SKIPPED {TEST} with kube-proxy in {mode} mode ({program} is missing)");
                continue;
            }
            let mut proxy = self.kube_proxy(stage, mode).await;
            let way = Way { url: SERVICE, name: Some(INSIDE), by_certificate };
            let is_led = async || {
                self.run(stage, way, &["get", "--raw", "/readyz", "--request-timeout=5s"], b"")
                    .is_ok()
            };
            let is_served = eventually(DEADLINE, is_led).await;
            assert!(
                is_served,
                "{} {mode}: {:?}\n{}",
                self.tenant,
                self.run(stage, way, &["get", "--raw", "/readyz"], b""),
                proxy.output()
            );
            self.serves(stage, way).await;
            eprintln!(
                "{}: the Service kubernetes leads through kube-proxy ({mode}), client certificates {by_certificate}",
                self.tenant
            );
            proxy.terminate();
            proxy.wait(DEADLINE).await;
            self.node.run(|| {
                let cleaning = [Path::new("kube-proxy"), Path::new("--cleanup")];
                drop(Command::new(stage.assets.join(cleaning[0])).arg(cleaning[1]).output());
            });
            let left =
                self.run(stage, way, &["get", "--raw", "/readyz", "--request-timeout=2s"], b"");
            assert!(left.is_err(), "kube-proxy's rules are gone: the next mode leads by its own");
        }
    }
}

/// A way with its own texts.
struct OwnWay {
    url: String,
    name: Option<String>,
}

impl OwnWay {
    fn way(&self) -> Way<'_> {
        Way { url: &self.url, name: self.name.as_deref(), by_certificate: true }
    }
}

impl Stage {
    async fn start(assets: PathBuf, clusters: Vec<Cluster>) -> Self {
        ip("link add edge0 type bridge");
        ip("address add 10.77.0.1/32 dev edge0");
        ip("link set edge0 up");
        let (dir, gateways) = (TempDir::new(), Authority::new("gateways"));
        gateways.write(dir.path(), "gateways");
        for Cluster { tenant, host, plane, proxies, .. } in &clusters {
            gateways
                .issue(&CertSpec::new().dns(host).server())
                .write(dir.path(), &format!("{tenant}-relay"));
            proxies.write(dir.path(), &format!("{tenant}-proxies"));
            proxies
                .issue(&CertSpec::new().common_name(tenant).client())
                .write(dir.path(), &format!("{tenant}-proxy"));
            plane.authority().write(dir.path(), &format!("{tenant}-cluster"));
        }
        let documents: String = clusters.iter().map(Cluster::documents).collect();
        let file = dir.write("documents.yaml", documents);
        let admin = ADMIN.parse().unwrap();
        let gateway = spawn(&file, admin, &[]);
        let is_ready = eventually(DEADLINE, async || status(admin, "/readyz") == Some(200)).await;
        assert!(is_ready, "{}", gateway.output());
        let stage = Self { assets, dir, clusters, gateway };
        for cluster in &stage.clusters {
            cluster.furnish(&stage);
        }
        stage
    }

    fn generation() -> u64 {
        let (_, metrics) = get(ADMIN.parse().unwrap(), "/metrics").unwrap();
        let line =
            metrics.lines().find(|line| line.starts_with("durward_config_generation ")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Has the gateway serve a new configuration: a further tenant, or one less.
    async fn reload(&self) {
        let before = Self::generation();
        let mut documents: String = self.clusters.iter().map(Cluster::documents).collect();
        let more = format!(
            "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: more-{before}}}\nspec: {{egress: {{addresses: [127.9.9.9]}}}}\n"
        );
        documents.push_str(&more);
        let written = self.dir.write("documents.new", documents);
        std::fs::rename(written, self.dir.join("documents.yaml")).unwrap();
        let is_new = eventually(DEADLINE, async || Self::generation() > before).await;
        assert!(is_new, "{}", self.gateway.output());
    }
}

/// Address of acme's API server on each node of its cluster.
const ADVERTISED: Ipv4Addr = Ipv4Addr::new(172, 31, 255, 1);
const TEST: &str = "api_proxy::real::kubectl_is_the_right_user_on_every_way_to_two_control_planes_behind_one_address";

// S4.1 S4.8 S4.11+ S4.12+ S4.49 S4.60 S4.63+ S4.71+
#[test]
fn kubectl_is_the_right_user_on_every_way_to_two_control_planes_behind_one_address() {
    let programs = ["kube-apiserver", "etcd", "kubectl", "kube-proxy"];
    let Some(assets) = assets(TEST, &programs) else { return };
    in_namespace(TEST, || {
        let acme = Cluster::start(&assets, ("acme", "t1.k8s.test", 1), Some(ADVERTISED));
        let globex = Cluster::start(&assets, ("globex", "t2.k8s.test", 2), None);
        block_on(every_way(assets, vec![acme, globex]));
    });
}

async fn every_way(assets: PathBuf, clusters: Vec<Cluster>) {
    let stage = Stage::start(assets, clusters).await;
    let [acme, globex] = &stage.clusters[..] else { panic!("two clusters") };

    // Through the gateway alone; each user is nobody at the other's API server.
    for (cluster, other) in [(acme, globex), (globex, acme)] {
        cluster.serves(&stage, cluster.by_name().way()).await;
        let theirs = OwnWay { name: Some(other.host.to_owned()), ..cluster.by_name() };
        let refused = cluster.run(&stage, theirs.way(), &["auth", "whoami"], b"").unwrap_err();
        assert!(refused.contains("certificate"), "{refused}");
    }

    advertised(&stage, acme).await;
    contested(&stage, acme).await;
    sliced(&stage, globex).await;
    reoriginated(&stage, globex).await;
}

/// 3a: the API server advertises the address that the proxy has on each node, and writes it into the slice itself.
async fn advertised(stage: &Stage, acme: &Cluster) {
    let address = ADVERTISED.to_string();
    let mode = ["--advertise-address", &address, "--device", "durward-api"];
    let mut proxy = acme.proxy(stage, &mode).await;

    let url = format!("https://{ADVERTISED}:6443");
    acme.serves(stage, Way { url: &url, name: Some(INSIDE), by_certificate: true }).await;
    acme.has_slice(stage, ADVERTISED).await;
    acme.serves_pods(stage, true).await;

    proxy.terminate();
    proxy.wait(DEADLINE).await;
}

/// A proxy that keeps the slice of an API server that writes it, too, says so.
async fn contested(stage: &Stage, acme: &Cluster) {
    acme.member(stage, true);
    let proxy = acme.proxy(stage, &words(&acme.keeping(stage))).await;

    let admin = ADMIN_OF_PROXY.parse().unwrap();
    let verbose = || acme.node.run(|| get(admin, "/readyz?verbose")).map(|(_, text)| text);
    let is_told = eventually(DEADLINE, async || {
        verbose().is_some_and(|text| text.contains("SliceContested: kube-apiserver"))
    });
    assert!(is_told.await, "{:?}: {}", verbose(), proxy.output());
}

/// 3b: the proxies write the slice.
async fn sliced(stage: &Stage, globex: &Cluster) {
    globex.member(stage, true);
    let mut proxy = globex.proxy(stage, &words(&globex.keeping(stage))).await;

    let url = format!("https://{}:6443", globex.node_ip);
    globex.serves(stage, Way { url: &url, name: Some(INSIDE), by_certificate: true }).await;
    globex.has_slice(stage, globex.node_ip).await;
    globex.serves_pods(stage, true).await;
    globex.is_diagnosed(stage, &proxy);

    globex.member(stage, false);
    proxy.terminate();
    proxy.wait(DEADLINE).await;
}

/// 3c: TLS ends at the proxy. Tokens arrive, client certificates do not.
async fn reoriginated(stage: &Stage, globex: &Cluster) {
    globex.member(stage, true);
    let [certificate, key] = globex.plane.serving().map(|file| file.display().to_string());
    let mut mode = globex.keeping(stage);
    mode[1] = "re-originate".to_owned();
    mode.extend(["--serving-cert".to_owned(), certificate, "--serving-key".to_owned(), key]);
    let _proxy = globex.proxy(stage, &words(&mode)).await;

    let url = format!("https://{}:6443", globex.node_ip);
    let by_token = Way { url: &url, name: Some(INSIDE), by_certificate: false };
    globex.serves(stage, by_token).await;
    let by_certificate = Way { by_certificate: true, ..by_token };
    let lost = globex.run(stage, by_certificate, &["auth", "whoami", "-o", "json"], b"");
    assert!(!lost.as_ref().is_ok_and(|user| user.contains("admin of globex")), "{lost:?}");
    globex.serves_pods(stage, false).await;
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

impl Cluster {
    /// Returns the arguments of a proxy that keeps the slice on its node's address.
    fn keeping(&self, stage: &Stage) -> Vec<String> {
        let way = self.by_name();
        let kubeconfig = self.plane.kubeconfig(&way.url, Some(self.host), &self.user).to_string();
        let file = stage.dir.write(format!("{}-slice", self.tenant), kubeconfig);
        let (node, file) = (self.node_ip.to_string(), file.display().to_string());
        let arguments = ["--mode", "slice", "--node-ip", &node, "--kubeconfig", &file];
        let arguments = [&arguments[..], &["--service-cidr", "10.96.0.0/16"]].concat();
        arguments.into_iter().map(str::to_owned).collect()
    }

    /// Waits until the endpoints of `kubernetes` are this address alone.
    async fn has_slice(&self, stage: &Stage, address: Ipv4Addr) {
        let shown = "jsonpath={.endpoints[*].addresses[*]}:{.ports[*].port}";
        let slice = ["get", "endpointslice", "kubernetes", "-o", shown];
        let read = || self.run(stage, self.by_name().way(), &slice, b"");
        let is_right = eventually(DEADLINE, async || read() == Ok(format!("{address}:6443"))).await;
        assert!(is_right, "{:?}", read());
    }

    /// Says whether the node's proxy is ready, as the controllers of Kubernetes do from its pod.
    fn member(&self, stage: &Stage, is_ready: bool) {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "durward-api-proxy", "namespace": "kube-system"},
            "spec": {"ports": [{"name": "https", "port": 6443}]},
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "durward-api-proxy-1", "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "durward-api-proxy"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [self.node_ip], "conditions": {"ready": is_ready}}],
            "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
        });
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [service, slice]});
        let of_system = ["apply", "--namespace", "kube-system", "-f", "-"];
        self.done(stage, self.by_name().way(), &of_system, list.to_string().as_bytes());
    }
}
