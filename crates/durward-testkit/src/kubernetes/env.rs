//! Where a test of Kubernetes runs: against the double, a control plane from binaries, or a cluster.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderName, HeaderValue};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams, ValidationDirective};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::Scope;
use kube::{Client, Config};
use serde_json::{Value, json};

use super::control_plane::{self, ControlPlane};
use super::server::{ApiServer, Settings};
use crate::process::eventually;

/// Directory with etcd and kube-apiserver.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// Set to run against the cluster of the current kubeconfig.
const CLUSTER: &str = "USE_EXISTING_CLUSTER";

/// Time that a real server is given for what it does in its own time.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Server behind a `TestEnv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Double in this process.
    Double,
    /// Binaries in the directory `$KUBEBUILDER_ASSETS`, one control plane per test binary.
    Assets,
    /// Cluster of the current kubeconfig, if `$USE_EXISTING_CLUSTER` is `true` or 1.
    Cluster,
}

/// Server of a test, with a namespace of its own.
pub struct TestEnv {
    backend: Backend,
    double: Option<ApiServer>,
    has_controllers: bool,
    kubeconfig: Value,
    config: Config,
    client: Client,
    namespace: String,
}

impl Backend {
    /// Returns the server that the environment asks for.
    #[must_use]
    pub fn chosen() -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match std::env::var(CLUSTER).as_deref() {
            Ok("true" | "1") => Self::Cluster,
            _ if is_set(ASSETS) => Self::Assets,
            _ => Self::Double,
        }
    }
}

impl TestEnv {
    /// Starts on the server that the environment asks for.
    ///
    /// # Panics
    /// If that server cannot be had.
    pub async fn start() -> Self {
        match Backend::chosen() {
            Backend::Double => Self::on_double(ApiServer::settings()).await,
            Backend::Assets => {
                let assets = PathBuf::from(std::env::var_os(ASSETS).unwrap_or_default());
                // Starting blocks; other tests go on meanwhile.
                let plane = tokio::task::spawn_blocking(move || control_plane::shared(&assets));
                Self::on_plane(plane.await.expect("the control plane starts")).await
            }
            Backend::Cluster => {
                let read = Kubeconfig::read().expect("a kubeconfig can be read");
                let kubeconfig = serde_json::to_value(&read).expect("a kubeconfig is JSON");
                Self::with(Backend::Cluster, None, kubeconfig, true).await
            }
        }
    }

    /// Starts on a control plane of the test's own.
    pub async fn on_plane(plane: &ControlPlane) -> Self {
        let authority = plane.authority().pem();
        let kubeconfig = kubeconfig(&plane.url(), Some(&authority), &plane.admin());
        Self::with(Backend::Assets, None, kubeconfig, plane.has_controllers()).await
    }

    /// Starts on a double with settings of its own, whatever the environment asks for.
    pub async fn on_double(settings: Settings) -> Self {
        let controllers = settings.has_controllers();
        let double = settings.start();
        let token = double.token("kubernetes-admin", &["system:masters"]);
        let authority = double.url().starts_with("https").then(|| double.authority());
        let kubeconfig = kubeconfig(&double.url(), authority.as_deref(), &json!({"token": token}));
        Self::with(Backend::Double, Some(double), kubeconfig, controllers).await
    }

    async fn with(
        backend: Backend,
        double: Option<ApiServer>,
        kubeconfig: Value,
        has_controllers: bool,
    ) -> Self {
        install_provider();
        let config = config_of(&kubeconfig).await;
        let client = Client::try_from(config.clone()).expect("a client is made");
        let mut env = Self {
            backend,
            double,
            has_controllers,
            kubeconfig,
            config,
            client,
            namespace: String::new(),
        };
        env.namespace = env.new_namespace(&json!({})).await;
        env
    }

    /// Server behind it.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Double behind it, if it is one.
    #[must_use]
    pub fn double(&self) -> Option<&ApiServer> {
        self.double.as_ref()
    }

    /// Returns the double; without one, it prints that the test is skipped and why.
    #[must_use]
    pub fn need_double(&self, test: &str) -> Option<&ApiServer> {
        if self.double.is_none() {
            skip(test, "it needs what only the double can do");
        }
        self.double.as_ref()
    }

    /// Returns whether garbage collection and the end of namespaces can be waited for; if not, it prints that the test is skipped.
    #[must_use]
    pub fn need_controllers(&self, test: &str) -> bool {
        if !self.has_controllers {
            skip(test, "there is no kube-controller-manager");
        }
        self.has_controllers
    }

    /// Namespace of this test.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// API group that no other test uses, for custom kinds.
    #[must_use]
    pub fn group(&self) -> String {
        format!("{}.durward.test", self.namespace)
    }

    /// Makes another namespace with these labels and returns its name.
    pub async fn new_namespace(&self, labels: &Value) -> String {
        let namespace = json!({"metadata": {"generateName": "durward-", "labels": labels}});
        let namespace: Namespace =
            serde_json::from_value(namespace).expect("a namespace with labels");
        let api: Api<Namespace> = Api::all(self.client());
        let made = api.create(&PostParams::default(), &namespace).await;
        made.expect("a namespace is made").metadata.name.expect("it has a name")
    }

    /// Client of the administrator.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Configuration of the administrator's client, to be changed by the test.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// Client of another user, by impersonation.
    ///
    /// # Panics
    /// If a name is no value of a header.
    #[must_use]
    pub fn client_as(&self, user: &str, groups: &[&str]) -> Client {
        let mut config = self.config();
        // A refusal is an answer here, not a reason to try again.
        config.default_retry = false;
        let value = |text: &str| HeaderValue::from_str(text).expect("a name is a header's value");
        config.headers.push((HeaderName::from_static("impersonate-user"), value(user)));
        for group in groups {
            config.headers.push((HeaderName::from_static("impersonate-group"), value(group)));
        }
        Client::try_from(config).expect("a client is made")
    }

    /// Kubeconfig of the administrator, as JSON, which is YAML.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig.to_string()
    }

    /// Makes a service account in this test's namespace and returns a kubeconfig with a token of it.
    pub async fn service_account(&self, name: &str) -> String {
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        self.create(&account).await;
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{name}/token", self.namespace);
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3_600},
        });
        let made = self.raw("POST", &path, Some(&request)).await.expect("a token is made");
        let token = made["status"]["token"].as_str().expect("it has a token");
        let mut kubeconfig = self.kubeconfig.clone();
        kubeconfig["users"] = json!([{"name": "account", "user": {"token": token}}]);
        for context in kubeconfig["contexts"].as_array_mut().into_iter().flatten() {
            context["context"]["user"] = "account".into();
        }
        kubeconfig.to_string()
    }

    /// Access to objects of any kind, in this test's namespace where they are in one.
    #[must_use]
    pub fn api(
        &self,
        api_version: &str,
        kind: &str,
        plural: &str,
        namespaced: bool,
    ) -> Api<DynamicObject> {
        api_of(self.client(), &self.namespace, (api_version, kind, plural), namespaced)
    }

    /// Sends a request as the administrator, past the types of the client.
    ///
    /// # Errors
    /// If the server refuses it or cannot be reached.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, kube::Error> {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .expect("a path and a method make a request");
        self.client.request(request).await
    }

    /// Applies an object by server-side apply, in this test's namespace where its kind is in one.
    ///
    /// # Panics
    /// If the server refuses it.
    pub async fn create(&self, object: &Value) -> DynamicObject {
        let version = object["apiVersion"].as_str().expect("an object has an apiVersion");
        let kind = object["kind"].as_str().expect("an object has a kind");
        let (resource, namespaced) = self.resource(version, kind).await;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&self.namespace);
        let api = api_of(self.client(), namespace, (version, kind, &resource), namespaced);
        let name = object["metadata"]["name"].as_str().expect("an object has a name");
        let params = PatchParams::apply("test").force();
        let made = api.patch(name, &params, &Patch::Apply(object)).await;
        made.unwrap_or_else(|error| panic!("cannot apply {kind} {name}: {error}"))
    }

    /// Asks the server to apply an object, in this test's namespace where its kind is in one, strictly and without storing it.
    ///
    /// # Errors
    /// If the server does not serve the kind, or refuses the object; the text says why.
    pub async fn would_accept(&self, object: &Value) -> Result<(), String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let (group, plain) = version.split_once('/').unwrap_or(("", &version));
        let wanted = GroupVersionKind::gvk(group, plain, &kind);
        let found = kube::discovery::pinned_kind(&self.client, &wanted).await;
        let (resource, capabilities) =
            found.map_err(|error| format!("{version} {kind} is not served: {error}"))?;
        let mut object = object.clone();
        let api: Api<DynamicObject> = match capabilities.scope {
            Scope::Cluster => Api::all_with(self.client(), &resource),
            Scope::Namespaced => {
                object["metadata"]["namespace"] = self.namespace.clone().into();
                Api::namespaced_with(self.client(), &self.namespace, &resource)
            }
        };
        let params = PatchParams {
            dry_run: true,
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::apply("dry-run").force()
        };
        let name = text(&object["metadata"]["name"]);
        let answer = api.patch(&name, &params, &Patch::Apply(&object)).await;
        answer.map(drop).map_err(|error| format!("{kind} {name}: {error}"))
    }

    /// Defines a custom kind and waits until it is served.
    ///
    /// # Panics
    /// If the definition is refused or not served in time.
    pub async fn define(&self, definition: &Value) {
        self.create(definition).await;
        let spec = &definition["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
        let version = text(&spec["versions"][0]["name"]);
        let path = format!("/apis/{group}/{version}/{plural}");
        let served =
            eventually(PATIENCE, async || self.raw("GET", &path, None).await.is_ok()).await;
        assert!(served, "{plural}.{group} is not served");
    }

    /// Returns the plural of a kind, and whether it is in namespaces.
    async fn resource(&self, api_version: &str, kind: &str) -> (String, bool) {
        let path = match api_version.contains('/') {
            true => format!("/apis/{api_version}"),
            false => format!("/api/{api_version}"),
        };
        let list = self.raw("GET", &path, None).await;
        let list = list.unwrap_or_else(|error| panic!("no {api_version}: {error}"));
        let resources = list["resources"].as_array().cloned().unwrap_or_default();
        let found = resources.into_iter().find(|resource| {
            resource["kind"] == kind && !resource["name"].as_str().unwrap_or("/").contains('/')
        });
        let found = found.unwrap_or_else(|| panic!("no {kind} in {api_version}"));
        (found["name"].as_str().unwrap_or_default().to_owned(), found["namespaced"] == true)
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        // Other servers end with the test.
        if self.backend != Backend::Cluster {
            return;
        }
        let (config, namespace) = (self.config.clone(), self.namespace.clone());
        let deletion = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime starts").block_on(async {
                let client = Client::try_from(config).expect("a client is made");
                let api: Api<Namespace> = Api::all(client);
                // What is left is found by its name, `durward-`.
                let _ = api.delete(&namespace, &kube::api::DeleteParams::default()).await;
            });
        });
        let _ = deletion.join();
    }
}

/// Prints which test does not run here, and why, past the capture of the test harness.
fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED {test} ({reason})\n");
    // Without an output there is nobody to be warned.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Makes the provider of this kit the one of the process, which kube's client asks for.
fn install_provider() {
    // An error means that there is one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn api_of(
    client: Client,
    namespace: &str,
    (api_version, kind, plural): (&str, &str, &str),
    namespaced: bool,
) -> Api<DynamicObject> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = GroupVersionKind::gvk(group, version, kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, plural);
    match namespaced {
        true => Api::namespaced_with(client, namespace, &resource),
        false => Api::all_with(client, &resource),
    }
}

fn kubeconfig(url: &str, authority: Option<&str>, user: &Value) -> Value {
    let mut cluster = json!({"server": url});
    if let Some(authority) = authority {
        cluster["certificate-authority-data"] = BASE64_STANDARD.encode(authority).into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "admin", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    })
}

async fn config_of(kubeconfig: &Value) -> Config {
    let kubeconfig: Kubeconfig =
        serde_json::from_value(kubeconfig.clone()).expect("a kubeconfig is read");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    config.expect("a kubeconfig makes a configuration")
}
