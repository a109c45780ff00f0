//! An API server with our kinds, and clients of ours at it.

use std::time::Duration;

use durward_control::reference::Reference;
use durward_kube::source::Observed;
use durward_kube::{Clients, Limits, Location, Source, Sources, crds};
use durward_testkit::kubernetes::{ApiServer, TestEnv};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

/// Longer than anything here takes, also on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Cluster {
    pub(crate) env: TestEnv,
    directory: tempfile::TempDir,
    pub(crate) clients: Clients,
}

impl Cluster {
    /// Starts with our kinds defined.
    pub(crate) async fn start() -> Self {
        let cluster = Self::on(TestEnv::start().await).await;
        cluster.install().await;
        cluster
    }

    /// Starts on a double whose clients show tokens.
    pub(crate) async fn with_tls() -> Self {
        let cluster = Self::on(TestEnv::on_double(ApiServer::settings().tls()).await).await;
        cluster.install().await;
        cluster
    }

    /// Starts without our kinds.
    pub(crate) async fn on(env: TestEnv) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clients = clients(&directory, &env.kubeconfig()).await;
        Self { env, directory, clients }
    }

    pub(crate) async fn install(&self) {
        for definition in crds::definitions() {
            self.env.define(&definition).await;
        }
    }

    /// Returns clients of the user of a kubeconfig.
    pub(crate) async fn clients_of(&self, kubeconfig: &str) -> Clients {
        clients(&self.directory, kubeconfig).await
    }

    pub(crate) fn source(&self, sources: &Sources) -> Source {
        Source::start(&self.clients, sources)
    }

    /// Makes or changes a tenant with an egress address.
    pub(crate) async fn tenant(&self, name: &str, address: &str) {
        self.env.create(&tenant(name, address)).await;
    }

    pub(crate) async fn delete(&self, path: &str) {
        self.env.raw("DELETE", path, None).await.unwrap();
    }
}

async fn clients(directory: &tempfile::TempDir, kubeconfig: &str) -> Clients {
    let file = tempfile::Builder::new().tempfile_in(directory.path()).unwrap();
    let (_, path) = file.keep().unwrap();
    std::fs::write(&path, kubeconfig).unwrap();
    let location = Location::Kubeconfig { file: Some(path), context: None };
    Clients::new(location, Limits::default()).await.unwrap()
}

/// Sources that look for missing kinds often.
pub(crate) fn sources() -> Sources {
    Sources { absent_pause: Duration::from_millis(50), ..Sources::default() }
}

pub(crate) fn tenant(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": name},
        "spec": {"egress": {"addresses": [address]}},
    })
}

/// Returns the next change.
pub(crate) async fn next(source: &Source) -> Observed {
    timeout(PATIENCE, source.next()).await.expect("something is seen")
}

/// Takes changes in until what was seen satisfies `is_enough`.
pub(crate) async fn gather(
    source: &Source,
    mut is_enough: impl FnMut(&Observed) -> bool,
) -> Observed {
    let mut all = Observed::default();
    let deadline = Instant::now() + PATIENCE;
    while !is_enough(&all) {
        let Ok(seen) = tokio::time::timeout_at(deadline, source.next()).await else {
            panic!("not enough was seen: {all:?}; {:?}", source.health().reports())
        };
        all.upserts.extend(seen.upserts);
        all.deletes.extend(seen.deletes);
        all.facts.extend(seen.facts);
    }
    all
}

/// Returns the names of the objects that came or changed, in order.
pub(crate) fn names(observed: &Observed) -> Vec<&str> {
    let mut names: Vec<&str> = observed.upserts.iter().map(|object| &*object.id.name).collect();
    names.sort_unstable();
    names
}

/// Returns what was last said of a reference.
pub(crate) fn fact<'a>(
    observed: &'a Observed,
    reference: &Reference,
) -> Option<&'a Option<durward_control::change::Fact>> {
    observed.facts.iter().rev().find(|(of, _)| of == reference).map(|(_, fact)| fact)
}

/// Waits until `is_so`.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
