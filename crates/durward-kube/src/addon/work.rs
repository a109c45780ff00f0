//! What is done for one `HostedApi`: its objects are applied, changed or removed, and its condition says so.

mod replaced;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use durward_control::spec::api_proxy::ApiProxyPlan;
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use self::replaced::Clusters;
use super::cluster::{Found, Readiness, TenantCluster, is_workload, path_of, shown};
use super::failure::{Failure, of_cluster};
use super::kubeconfig::of_tenant;
use super::management::{Held, Management, judgement};
use super::places::Share;
use super::routes::{Published, Routes};
use super::target::Target;
use super::{AddonOptions, MANAGED_BY, Material, OWNER, SecretEntries};
use crate::request::ApiError;
use crate::status::{Judgement, Truth, bounded};

/// Keys of a Secret that may hold a kubeconfig: ours, Kamaji's and the Cluster API's.
const KUBECONFIG_KEYS: [&str; 4] = ["kubeconfig", "admin.conf", "admin.svc", "value"];

/// Requests for which an attempt at a tenant cluster has time, if each of them takes as long as one may.
const REQUESTS: u32 = 6;

/// Result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is nothing to install, and nothing of ours in the cluster.
    Nothing,
    /// Everything is there, and so many proxies are ready; the cluster, if it is known.
    Installed(u64, Option<Arc<str>>),
    /// Everything is there; not all proxies are ready.
    Progressing(u64, u64),
    /// It failed: a word for programs, and a sentence.
    Failed(&'static str, String),
}

impl Outcome {
    /// Returns whether nothing is left to do until something changes.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Self::Nothing | Self::Installed(..))
    }

    pub(super) fn judgement(&self) -> Option<Judgement> {
        Some(match self {
            Self::Nothing => return None,
            Self::Installed(ready, cluster) => {
                let cluster = cluster.as_ref().map(|uid| format!(" in cluster {uid}"));
                let cluster = cluster.unwrap_or_default();
                let message = format!("installed{cluster}, {ready} proxies are ready");
                judgement(Truth::True, "Installed", &message)
            }
            Self::Progressing(_, 0) => {
                let message = "applied, but no node takes a proxy yet";
                judgement(Truth::False, "Progressing", message)
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
    share: Share,
    /// What was applied last, once all proxies were ready.
    applied: Option<Applied>,
    /// When this process first tried to leave a cluster that is to be left.
    leaving: Option<Instant>,
    clusters: Clusters,
    routes: Routes,
    hasher: RandomState,
}

/// What was applied in a cluster. The Secrets themselves are not kept.
#[derive(Clone, Copy)]
struct Applied {
    digest: u64,
    ready: u64,
    at: Instant,
}

/// What is to be applied, and where.
struct Ready {
    kubeconfig: Kubeconfig,
    objects: Vec<Value>,
    /// Digest of both.
    digest: u64,
}

impl Work {
    pub(super) fn new(management: Management, options: AddonOptions, share: Share) -> Self {
        let (applied, leaving, hasher) = (None, None, RandomState::new());
        let (clusters, routes) = (Clusters::default(), Routes::default());
        Self { management, options, share, applied, leaving, clusters, routes, hasher }
    }

    /// Brings the routes for another controller to what the `HostedApi` says.
    pub(super) async fn publish(&mut self, target: &Target) -> Published {
        self.routes.attempt(&self.management.write, &self.options, target).await
    }

    /// Returns whether the last attempt left everything there and ready.
    pub(super) fn is_applied(&self) -> bool {
        self.applied.is_some_and(|applied| applied.at.elapsed() < self.options.recheck)
    }

    /// Brings a tenant cluster to what its `HostedApi` says.
    pub(super) async fn attempt(&mut self, target: &Target) -> Outcome {
        let done = match &target.plan {
            Ok(Some(plan)) if !target.is_deleted => self.install(target, plan).await,
            Err(why) if !target.is_deleted => Err(Failure::new("Invalid", why.clone())),
            Ok(_) | Err(_) => self.uninstall(target).await,
        };
        done.unwrap_or_else(|failure| Outcome::Failed(failure.reason, bounded(&failure.sentence)))
    }

    async fn install(&mut self, target: &Target, plan: &ApiProxyPlan) -> Result<Outcome, Failure> {
        if let Some(ready) = self.current(target, plan).await? {
            self.retry_replaced(target).await?;
            return Ok(Outcome::Installed(ready, target.cluster.clone()));
        }
        self.applied = None;
        // Secrets are read once there is a place: those who wait for one hold none.
        let share = self.share.clone();
        let _place = share.take().await;
        let Ready { kubeconfig, objects, digest } = self.read(target, plan).await?;
        let was_left = self.leave_former(target, plan, &kubeconfig).await?;
        let cluster = self.connect(target, kubeconfig.clone()).await?;
        let uid = cluster.identity().await.map_err(|error| of_cluster(&error))?;
        let place = (uid.as_ref(), &kubeconfig);
        let abandoned = self.leave_replaced(target, plan, place, was_left).await;
        let secret = plan.kubeconfig_secret.clone();
        let held = Held { kubeconfig: secret, cluster: uid.clone() };
        self.hold(target, Some(held), &abandoned).await?;
        self.clusters.enter(uid.as_ref(), kubeconfig);
        let readiness = self.in_time(self.apply(&cluster, &objects)).await?;
        if !readiness.is_complete() {
            return Ok(Outcome::Progressing(readiness.ready, readiness.wanted));
        }
        let ready = readiness.ready;
        self.applied = Some(Applied { digest, ready, at: Instant::now() });
        Ok(Outcome::Installed(ready, uid))
    }

    /// Notes in the `HostedApi` where its objects are, unless that is noted.
    async fn hold(
        &self,
        target: &Target,
        held: Option<Held>,
        abandoned: &[Arc<str>],
    ) -> Result<(), Failure> {
        let is_noted = held.as_ref().is_some_and(|held| {
            target.is_held()
                && target.installed_by.as_ref() == Some(&held.kubeconfig)
                && target.cluster == held.cluster
        });
        if is_noted && target.abandoned == abandoned {
            return Ok(());
        }
        let noted = self.management.hold(target, held.as_ref(), abandoned).await;
        noted.map_err(|error| Failure::new("HostedApiUnwritable", error.to_string()))
    }

    /// Tries once more to leave a cluster whose kubeconfig was replaced.
    async fn retry_replaced(&mut self, target: &Target) -> Result<(), Failure> {
        let Some(kubeconfig) = target.installed_by.clone().filter(|_| self.has_replaced()) else {
            return Ok(());
        };
        let share = self.share.clone();
        let _place = share.take().await;
        let mut abandoned = target.abandoned.clone();
        self.leave_again(target, &mut abandoned).await;
        let held = Held { kubeconfig, cluster: target.cluster.clone() };
        self.hold(target, Some(held), &abandoned).await
    }

    /// Returns how many proxies were ready, if nothing is to be done.
    async fn current(&self, target: &Target, plan: &ApiProxyPlan) -> Result<Option<u64>, Failure> {
        let Some(applied) = self.applied.filter(|_| self.is_applied()) else { return Ok(None) };
        if !target.is_held() || target.installed_by.as_ref() != Some(&plan.kubeconfig_secret) {
            return Ok(None);
        }
        let _place = self.share.reading().await;
        let now = self.read(target, plan).await?;
        Ok(Some(applied.ready).filter(|_| now.digest == applied.digest))
    }

    async fn read(&self, target: &Target, plan: &ApiProxyPlan) -> Result<Ready, Failure> {
        let namespace = &target.name.namespace;
        let (text, kubeconfig) = self.kubeconfig(namespace, &plan.kubeconfig_secret).await?;
        let certificate = self.secret(namespace, &plan.certificate_secret).await?;
        let serving = match &plan.serving_secret {
            Some(name) => Some(self.secret(namespace, name).await?),
            None => None,
        };
        let material = Material { plan, certificate, serving };
        let rendered = (self.options.render)(&material);
        let mut objects = rendered.map_err(|why| Failure::new("Invalid", why))?;
        for object in &mut objects {
            object["metadata"]["annotations"][OWNER] = json!(&*target.uid);
        }
        let texts: Vec<String> = objects.iter().map(Value::to_string).collect();
        let digest = self.hasher.hash_one((&text, texts));
        Ok(Ready { kubeconfig, objects, digest })
    }

    async fn apply(
        &self,
        cluster: &TenantCluster,
        objects: &[Value],
    ) -> Result<Readiness, Failure> {
        let Some((first, workload)) = objects.first().zip(objects.last()) else {
            return Err(Failure::new("Invalid", "nothing to install"));
        };
        // All are looked at before one is written: a cluster that is another's is left as it is.
        let mut found = Vec::new();
        for object in objects {
            found.push(self.own(cluster, object).await?);
        }
        match &found[0] {
            Found::Nothing => cluster.claim(first).await.map_err(|error| of_cluster(&error))?,
            claimed => cluster.adopt(first, claimed).await.map_err(|error| of_cluster(&error))?,
        }
        if found[0] == Found::Nothing {
            found[0] = self.own(cluster, first).await?;
        }
        for (object, found) in objects.iter().zip(&found) {
            cluster.apply(object, found).await.map_err(|error| of_cluster(&error))?;
        }
        self.remove_stale(cluster, objects).await?;
        cluster.readiness(workload).await.map_err(|error| of_cluster(&error))
    }

    /// Looks at what is in place of an object, and fails if that is not ours.
    async fn own(&self, cluster: &TenantCluster, object: &Value) -> Result<Found, Failure> {
        let (label, value) = MANAGED_BY;
        match cluster.look(object).await.map_err(|error| of_cluster(&error))? {
            Found::OfAnother => Err(Failure::of_cluster(
                "ClusterTaken",
                format!(
                    "{} was installed for another HostedApi with the same cluster: keep one of them; if that one is gone, take the annotation {OWNER} away there",
                    shown(object)
                ),
            )),
            Found::Foreign => Err(Failure::of_cluster(
                "ObjectForeign",
                format!(
                    "{} is there and was not installed from here: remove it, or label it {label}={value} to hand it over",
                    shown(object)
                ),
            )),
            found => Ok(found),
        }
    }

    /// Removes what another mode had.
    async fn remove_stale(
        &self,
        cluster: &TenantCluster,
        objects: &[Value],
    ) -> Result<(), Failure> {
        let wanted: Vec<String> = objects.iter().map(path_of).collect();
        let is_stale = |object: &&Value| !wanted.contains(&path_of(object));
        let stale: Vec<&Value> = self.options.known.iter().filter(is_stale).collect();
        // Rights go first: a proxy that still runs must not undo what is given back.
        for object in stale.iter().rev() {
            let found = cluster.look(object).await.map_err(|error| of_cluster(&error))?;
            cluster.remove(object, &found).await.map_err(|error| of_cluster(&error))?;
        }
        if stale.iter().any(|object| object["kind"] == "RoleBinding") {
            cluster.hand_back().await.map_err(|error| of_cluster(&error))?;
        }
        Ok(())
    }

    /// Removes the objects from the cluster of before, if another Secret has the kubeconfig now. Returns false if they are left there.
    async fn leave_former(
        &mut self,
        target: &Target,
        plan: &ApiProxyPlan,
        now: &Kubeconfig,
    ) -> Result<bool, Failure> {
        let former = target.installed_by.as_deref();
        let Some(former) = former.filter(|former| *former != plan.kubeconfig_secret) else {
            self.leaving = None;
            return Ok(true);
        };
        let left = self.leave(target, former, Some(now)).await;
        let left = left.map_err(|failure| {
            let sentence = format!(
                "the cluster of Secret {former:?}, where they were installed before: {}",
                failure.sentence
            );
            Failure { sentence, ..failure }
        });
        self.unless_given_up(target, left, true)
    }

    async fn uninstall(&mut self, target: &Target) -> Result<Outcome, Failure> {
        self.applied = None;
        if !target.has_finalizer {
            self.leaving = None;
            return Ok(Outcome::Nothing);
        }
        let planned = target.plan.as_ref().ok().and_then(Option::as_ref);
        let planned = planned.map(|plan| &plan.kubeconfig_secret);
        match target.installed_by.as_ref().or(planned) {
            Some(kubeconfig) => {
                let share = self.share.clone();
                let _place = share.take().await;
                let left = self.leave(target, kubeconfig, None).await;
                self.unless_given_up(target, left, target.is_deleted)?;
            }
            None => {
                tracing::warn!(hosted_api = %target.name, "what was installed in the tenant's cluster stays there: the annotation that names its kubeconfig was taken away");
            }
        }
        self.hold(target, None, &target.abandoned).await?;
        Ok(Outcome::Nothing)
    }

    /// Removes the objects from the cluster of a kubeconfig, unless that is the one of `now`.
    async fn leave(
        &mut self,
        target: &Target,
        kubeconfig: &str,
        now: Option<&Kubeconfig>,
    ) -> Result<(), Failure> {
        self.leaving.get_or_insert_with(Instant::now);
        let (_, kubeconfig) = self.kubeconfig(&target.name.namespace, kubeconfig).await?;
        if now.is_some_and(|now| is_same_cluster(now, &kubeconfig)) {
            return Ok(());
        }
        let cluster = self.connect(target, kubeconfig).await?;
        self.in_time(self.remove(&cluster)).await
    }

    async fn remove(&self, cluster: &TenantCluster) -> Result<(), Failure> {
        let mut there = Vec::new();
        for object in &self.options.known {
            let found = cluster.look(object).await.map_err(|error| of_cluster(&error))?;
            there.push((object, found));
        }
        // The endpoints are those of another HostedApi's proxies then.
        let is_anothers = there.iter().any(|(_, found)| *found == Found::OfAnother);
        // Rights first, so that no proxy undoes what is given back.
        let (rights, others): (Vec<_>, Vec<_>) =
            there.into_iter().partition(|(object, _)| object["kind"] == "RoleBinding");
        for (object, found) in &rights {
            cluster.remove(object, found).await.map_err(|error| of_cluster(&error))?;
        }
        if !is_anothers {
            cluster.hand_back().await.map_err(|error| of_cluster(&error))?;
        }
        for (object, found) in others.iter().rev() {
            cluster.remove(object, found).await.map_err(|error| of_cluster(&error))?;
        }
        for (object, _) in others.iter().filter(|(object, _)| is_workload(object)) {
            let found = cluster.look(object).await.map_err(|error| of_cluster(&error))?;
            if matches!(found, Found::Ours { .. }) {
                let sentence = "waiting for the pods of the proxies to end in the tenant cluster";
                return Err(Failure::of_cluster("Removing", sentence));
            }
        }
        // A proxy may have written once more before it ended.
        if !is_anothers && cluster.hand_back().await.map_err(|error| of_cluster(&error))? {
            let sentence = "the endpoints of kubernetes were written once more: looking again";
            return Err(Failure::of_cluster("Removing", sentence));
        }
        Ok(())
    }

    /// Returns false in place of a failure of a cluster that was waited for long enough, if it may be given up.
    fn unless_given_up(
        &mut self,
        target: &Target,
        left: Result<(), Failure>,
        may_give_up: bool,
    ) -> Result<bool, Failure> {
        let was_left = left.is_ok();
        let waited = self.leaving.map(|since| since.elapsed()).unwrap_or_default();
        if let Err(failure) = left {
            // Nobody waits for a cluster because the API server of the HostedApis is away.
            if !(may_give_up && failure.is_of_cluster && waited >= self.options.longest_wait) {
                return Err(failure);
            }
            let Failure { reason, sentence, .. } = failure;
            tracing::warn!(hosted_api = %target.name, reason, sentence, "the objects in the tenant's cluster are left there: they could not be removed for too long");
        }
        self.leaving = None;
        Ok(was_left)
    }

    /// Bounds the time that a tenant cluster is worked on. Each request has a time of its own, and there are many.
    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let done = timeout(self.options.patience * REQUESTS, work).await;
        done.unwrap_or_else(|_| {
            let sentence =
                "the server of the kubeconfig answers too slowly: see that it is not overloaded";
            Err(Failure::of_cluster("ClusterUnreachable", sentence))
        })
    }

    async fn connect(
        &self,
        target: &Target,
        kubeconfig: Kubeconfig,
    ) -> Result<TenantCluster, Failure> {
        let cluster = TenantCluster::new(kubeconfig, &self.options, target.uid.clone()).await;
        cluster.map_err(|error| of_cluster(&error))
    }

    /// Reads a kubeconfig, and returns its text with it.
    async fn kubeconfig(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<(Vec<u8>, Kubeconfig), Failure> {
        let unusable = |sentence| Failure::of_cluster("KubeconfigUnusable", sentence);
        let mut entries = self.secret(namespace, name).await?;
        let text = KUBECONFIG_KEYS.iter().find_map(|key| entries.0.remove(*key));
        let text = text.ok_or_else(|| {
            let keys = KUBECONFIG_KEYS.join(", ");
            unusable(format!("Secret {name:?} has none of the keys {keys}"))
        })?;
        let used = of_tenant(&text, &self.options.reach)
            .map_err(|fault| unusable(format!("the kubeconfig of Secret {name:?} {fault}")))?;
        Ok((text, used))
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<SecretEntries, Failure> {
        self.management.secret(namespace, name).await.map_err(|error| match error {
            ApiError::NotFound(_) => Failure::of_cluster(
                "SecretMissing",
                format!("Secret {name:?} does not exist: create it"),
            ),
            error => {
                Failure::new("SecretUnreadable", format!("Secret {name:?} cannot be read: {error}"))
            }
        })
    }
}

/// Returns whether two kubeconfigs lead to one server, whatever their credentials.
fn is_same_cluster(one: &Kubeconfig, other: &Kubeconfig) -> bool {
    let place = |kubeconfig: &Kubeconfig| {
        let cluster = kubeconfig.clusters.first().and_then(|named| named.cluster.as_ref());
        cluster.map(|cluster| (cluster.server.clone(), cluster.certificate_authority_data.clone()))
    };
    place(one).is_some() && place(one) == place(other)
}
