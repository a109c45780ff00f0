//! A Secret whose kubeconfig was replaced by that of another cluster: the first one is left if it can still be reached, and named if it cannot.
//!
//! Credentials of the first cluster are known to this process alone, so one that starts later can only say which cluster it was.

use std::sync::Arc;

use durward_control::spec::api_proxy::ApiProxyPlan;
use kube::config::Kubeconfig;
use tokio::time::Instant;

use super::{Work, is_same_cluster};
use crate::addon::failure::{Failure, of_cluster};
use crate::addon::target::{MOST_ABANDONED, Target};

/// Name of an abandoned cluster whose kubeconfig did not say which it is.
const UNKNOWN: &str = "unknown";

/// A cluster with objects, and the kubeconfig by which they were installed.
pub(super) struct Known {
    uid: Arc<str>,
    kubeconfig: Kubeconfig,
}

/// Clusters of one `HostedApi`.
#[derive(Default)]
pub(super) struct Clusters {
    current: Option<Known>,
    /// One that could not be left yet, and since when that was tried.
    replaced: Option<(Known, Instant)>,
}

impl Clusters {
    /// Notes the cluster in which objects are installed now.
    pub(super) fn enter(&mut self, uid: Option<&Arc<str>>, kubeconfig: Kubeconfig) {
        self.current = uid.map(|uid| Known { uid: Arc::clone(uid), kubeconfig });
    }
}

impl Work {
    /// Leaves the cluster whose kubeconfig was in the same Secret before. Returns the clusters in which objects are left.
    pub(super) async fn leave_replaced(
        &mut self,
        target: &Target,
        plan: &ApiProxyPlan,
        (uid, kubeconfig): (Option<&Arc<str>>, &Kubeconfig),
        was_left: bool,
    ) -> Vec<Arc<str>> {
        let mut abandoned = target.abandoned.clone();
        if !was_left {
            abandoned.push(target.cluster.clone().unwrap_or_else(|| Arc::from(UNKNOWN)));
        }
        let is_same_secret = target.installed_by.as_ref() == Some(&plan.kubeconfig_secret);
        let former = target.cluster.as_ref().filter(|_| is_same_secret);
        if let (Some(former), Some(now)) = (former, uid)
            && former != now
        {
            let known = self.clusters.current.take().filter(|known| known.uid == *former);
            let is_made_anew =
                known.as_ref().is_some_and(|known| is_same_cluster(&known.kubeconfig, kubeconfig));
            if !is_made_anew {
                abandoned.push(Arc::clone(former));
                self.clusters.replaced = known.map(|known| (known, Instant::now()));
            }
        }
        self.leave_again(target, &mut abandoned).await;
        // Objects are in this one again, and are looked after.
        abandoned.retain(|abandoned| Some(abandoned) != uid);
        abandoned.sort();
        abandoned.dedup();
        abandoned.truncate(MOST_ABANDONED);
        abandoned
    }

    /// Tries once more to leave a cluster of before, and takes it off the list.
    pub(super) async fn leave_again(&mut self, target: &Target, abandoned: &mut Vec<Arc<str>>) {
        let Some((known, since)) = self.clusters.replaced.take() else { return };
        if !abandoned.contains(&known.uid) {
            return;
        }
        match self.leave_known(target, &known).await {
            Ok(()) => abandoned.retain(|uid| *uid != known.uid),
            Err(failure) => {
                let Failure { reason, sentence, .. } = failure;
                tracing::warn!(hosted_api = %target.name, cluster = &*known.uid, reason, sentence, "objects are left in a cluster whose kubeconfig was replaced");
                if since.elapsed() < self.options.longest_wait {
                    self.clusters.replaced = Some((known, since));
                }
            }
        }
    }

    /// Returns whether a cluster of before is to be tried once more.
    pub(super) fn has_replaced(&self) -> bool {
        self.clusters.replaced.is_some()
    }

    async fn leave_known(&self, target: &Target, known: &Known) -> Result<(), Failure> {
        let cluster = self.connect(target, known.kubeconfig.clone()).await?;
        let uid = cluster.identity().await.map_err(|error| of_cluster(&error))?;
        // Another cluster has its place: nothing of ours is where this kubeconfig leads.
        if uid.as_ref() != Some(&known.uid) {
            return Ok(());
        }
        self.in_time(self.remove(&cluster)).await
    }
}
