//! What is done for one `HostedApi`: its objects are applied, changed or removed, and its condition says so.

use std::sync::Arc;

use durward_control::spec::api_proxy::ApiProxyPlan;
use jiff::Timestamp;
use kube::config::Kubeconfig;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::cluster::{Readiness, TenantCluster, path_of};
use super::kubeconfig::of_tenant;
use super::management::{Management, judgement};
use super::target::Target;
use super::{AddonOptions, Material, SecretEntries};
use crate::request::ApiError;
use crate::status::{Judgement, Truth};

/// Keys of a Secret that may hold a kubeconfig: ours, Kamaji's and the Cluster API's.
const KUBECONFIG_KEYS: [&str; 4] = ["kubeconfig", "admin.conf", "admin.svc", "value"];

/// Result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is nothing to install, and nothing of ours in the cluster.
    Nothing,
    /// Everything is there, and so many proxies are ready.
    Installed(u64),
    /// Everything is there; not all proxies are ready.
    Progressing(u64, u64),
    /// It failed: a word for programs, and a sentence.
    Failed(&'static str, String),
}

impl Outcome {
    /// Returns whether nothing is left to do until something changes.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Self::Nothing | Self::Installed(_))
    }

    pub(super) fn judgement(&self) -> Option<Judgement> {
        Some(match self {
            Self::Nothing => return None,
            Self::Installed(ready) => {
                let message = format!("installed, {ready} proxies are ready");
                judgement(Truth::True, "Installed", &message)
            }
            Self::Progressing(ready, wanted) => {
                let message = format!("applied, {ready} of {wanted} proxies are ready");
                judgement(Truth::False, "Progressing", &message)
            }
            Self::Failed(reason, sentence) => judgement(Truth::False, reason, sentence),
        })
    }
}

/// One `HostedApi` while it is looked after.
pub(super) struct Work {
    pub(super) management: Management,
    pub(super) options: AddonOptions,
    /// Tenant clusters that are worked on.
    pub(super) at_once: Arc<Semaphore>,
    /// The kubeconfig and the objects that were applied last, once all proxies were ready.
    pub(super) applied: Option<Applied>,
}

/// What was applied in a cluster.
pub(super) struct Applied {
    /// The text of the kubeconfig.
    kubeconfig: Vec<u8>,
    objects: Vec<Value>,
    ready: u64,
}

type Failure = (&'static str, String);

impl Work {
    /// Brings a tenant cluster to what its `HostedApi` says.
    pub(super) async fn attempt(&mut self, target: &Target) -> Outcome {
        let is_going = target.deleted.is_some();
        let done = match &target.plan {
            Ok(Some(plan)) if !is_going => self.install(target, plan).await,
            Err(why) if !is_going => Err(("Invalid", why.clone())),
            Ok(_) | Err(_) => self.uninstall(target).await,
        };
        done.unwrap_or_else(|(reason, sentence)| Outcome::Failed(reason, sentence))
    }

    async fn install(&mut self, target: &Target, plan: &ApiProxyPlan) -> Result<Outcome, Failure> {
        let namespace = &target.name.namespace;
        let (text, kubeconfig) = self.kubeconfig(namespace, &plan.kubeconfig_secret).await?;
        let certificate = self.secret(namespace, &plan.certificate_secret).await?;
        let serving = match &plan.serving_secret {
            Some(name) => Some(self.secret(namespace, name).await?),
            None => None,
        };
        let material = Material { plan, certificate, serving };
        let objects = (self.options.render)(&material).map_err(|why| ("Invalid", why))?;
        if let Some(applied) = &self.applied
            && (&applied.kubeconfig, &applied.objects) == (&text, &objects)
        {
            return Ok(Outcome::Installed(applied.ready));
        }
        self.applied = None;
        if target.installed_by.as_ref() != Some(&plan.kubeconfig_secret) {
            let held = self.management.hold(target, Some(&plan.kubeconfig_secret)).await;
            held.map_err(|error| ("HostedApiUnwritable", error.to_string()))?;
        }
        let readiness = self.apply(kubeconfig, &objects).await?;
        if !readiness.is_complete() {
            return Ok(Outcome::Progressing(readiness.ready, readiness.wanted));
        }
        let ready = readiness.ready;
        self.applied = Some(Applied { kubeconfig: text, objects, ready });
        Ok(Outcome::Installed(ready))
    }

    async fn apply(&self, kubeconfig: Kubeconfig, objects: &[Value]) -> Result<Readiness, Failure> {
        let permit = self.at_once.acquire().await;
        let cluster = self.connect(kubeconfig).await?;
        for object in objects {
            cluster.apply(object).await.map_err(|error| of_cluster(&error))?;
        }
        let wanted: Vec<String> = objects.iter().map(path_of).collect();
        let is_stale = |object: &&Value| !wanted.contains(&path_of(object));
        let stale: Vec<&Value> = self.options.known.iter().filter(is_stale).collect();
        // Rights go first: a proxy that still runs must not undo what is given back.
        for object in stale.iter().rev() {
            cluster.remove(object).await.map_err(|error| of_cluster(&error))?;
        }
        if stale.iter().any(|object| object["kind"] == "RoleBinding") {
            cluster.hand_back().await.map_err(|error| of_cluster(&error))?;
        }
        let workload =
            objects.last().ok_or_else(|| ("Invalid", "nothing to install".to_owned()))?;
        let readiness = cluster.readiness(workload).await.map_err(|error| of_cluster(&error))?;
        drop(permit);
        Ok(readiness)
    }

    async fn uninstall(&mut self, target: &Target) -> Result<Outcome, Failure> {
        self.applied = None;
        let Some(kubeconfig) = &target.installed_by else { return Ok(Outcome::Nothing) };
        let removed = self.remove(target, kubeconfig).await;
        if let Err(failure) = removed {
            if !self.is_given_up(target) {
                return Err(failure);
            }
            let (reason, sentence) = failure;
            tracing::warn!(hosted_api = %target.name, reason, sentence, "the objects in the tenant's cluster are left there: it could not be reached for too long");
        }
        let released = self.management.hold(target, None).await;
        released.map_err(|error| ("HostedApiUnwritable", error.to_string()))?;
        Ok(Outcome::Nothing)
    }

    async fn remove(&self, target: &Target, kubeconfig: &str) -> Result<(), Failure> {
        let (_, kubeconfig) = self.kubeconfig(&target.name.namespace, kubeconfig).await?;
        let _permit = self.at_once.acquire().await;
        let cluster = self.connect(kubeconfig).await?;
        // Rights first, so that no proxy undoes what is given back; what runs last but one, so that it is there until then.
        let (rights, others): (Vec<_>, Vec<_>) =
            self.options.known.iter().partition(|object| object["kind"] == "RoleBinding");
        for object in rights {
            cluster.remove(object).await.map_err(|error| of_cluster(&error))?;
        }
        cluster.hand_back().await.map_err(|error| of_cluster(&error))?;
        for object in others.into_iter().rev() {
            cluster.remove(object).await.map_err(|error| of_cluster(&error))?;
        }
        Ok(())
    }

    /// Returns whether a `HostedApi` has waited for its tenant cluster for long enough.
    fn is_given_up(&self, target: &Target) -> bool {
        let Some(deleted) = target.deleted else { return false };
        let waited = Timestamp::now().duration_since(deleted).as_secs();
        u64::try_from(waited).is_ok_and(|waited| waited >= self.options.longest_wait.as_secs())
    }

    async fn connect(&self, kubeconfig: Kubeconfig) -> Result<TenantCluster, Failure> {
        let cluster = TenantCluster::new(kubeconfig, self.options.patience).await;
        cluster.map_err(|error| of_cluster(&error))
    }

    /// Reads a kubeconfig, and returns its text with it.
    async fn kubeconfig(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<(Vec<u8>, Kubeconfig), Failure> {
        let mut entries = self.secret(namespace, name).await?;
        let text = KUBECONFIG_KEYS.iter().find_map(|key| entries.0.remove(*key));
        let text = text.ok_or_else(|| {
            let keys = KUBECONFIG_KEYS.join(", ");
            ("KubeconfigUnusable", format!("Secret {name:?} has none of the keys {keys}"))
        })?;
        let used = of_tenant(&text).map_err(|fault| {
            ("KubeconfigUnusable", format!("the kubeconfig of Secret {name:?} {fault}"))
        })?;
        Ok((text, used))
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<SecretEntries, Failure> {
        self.management.secret(namespace, name).await.map_err(|error| match error {
            ApiError::NotFound(_) => {
                ("SecretMissing", format!("Secret {name:?} does not exist: create it"))
            }
            error => ("SecretUnreadable", format!("Secret {name:?} cannot be read: {error}")),
        })
    }
}

/// Returns what is said of a tenant cluster that did not do what it was asked for.
fn of_cluster(error: &ApiError) -> Failure {
    match error {
        // How a connection failed says something of the network that this process is in, and a tenant chooses the address.
        ApiError::Unreachable(why) => {
            tracing::debug!(why, "tenant cluster cannot be reached");
            let sentence = "the server of the kubeconfig does not answer over TLS that its authority verifies: see that it is reached from here";
            ("ClusterUnreachable", sentence.to_owned())
        }
        ApiError::Unauthorized(_) => {
            let sentence = "the server does not accept the credentials of the kubeconfig: they were revoked or have expired, renew them";
            ("CredentialsRefused", sentence.to_owned())
        }
        error => ("ClusterRefused", printable(&error.to_string())),
    }
}

/// Returns a server's words without what would control a terminal, and not too long.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(300).collect()
}
