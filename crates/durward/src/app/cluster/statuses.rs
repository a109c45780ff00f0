//! What the statuses of objects are to say: the verdict on each, and whether the planes serve it.
//!
//! A plane has confirmed an object only when it serves the configuration that the verdict is part of; what was compiled and is not served yet is pending.

use std::collections::BTreeMap;
use std::sync::Arc;

use durward_control::{Compiled, Document};
use durward_kube::status::{Desired, PlaneReport, WriterReport};
use durward_model::verdict::Verdict;
use durward_model::{DocumentKey, ResourceId, TenantId};

use super::load_balancers;
use super::mappings::{self, Cluster};
use super::writers::Writers;
use crate::app::Gateway;
use crate::app::condition::Kind;
use crate::app::health::{Health, KernelFacts};

/// The gateway at one moment.
pub(crate) struct Served {
    /// The compiled configuration.
    pub(crate) view: Arc<Compiled>,
    /// True if the proxy serves it.
    pub(crate) by_proxy: bool,
    /// True if the kernel carries it, as far as it asks anything of the kernel.
    pub(crate) by_kernel: bool,
    /// State of the kernel plane; `None` if it is not used.
    pub(crate) kernel: Option<KernelFacts>,
    /// What does not work.
    pub(crate) health: Health,
}

/// Result of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Settled,
    /// An object waits for what happens without a change of the configuration.
    Unsettled,
}

pub(super) struct Statuses<'a> {
    writers: &'a Writers,
    said: BTreeMap<ResourceId, Said>,
}

/// What was said last of an object.
struct Said {
    verdict: Arc<Verdict>,
    uid: Option<Arc<str>>,
    planes: Vec<PlaneReport>,
}

impl<'a> Statuses<'a> {
    pub(super) fn new(writers: &'a Writers) -> Self {
        Self { writers, said: BTreeMap::new() }
    }

    /// Looks at what is served, and says of each object what became of it, if that is not what was said.
    pub(super) async fn look(&mut self, gateway: Arc<Gateway>, cluster: Cluster<'_>) -> Look {
        // The kernel may have to be asked.
        let Ok(served) = tokio::task::spawn_blocking(move || gateway.served()).await else {
            return Look::Settled;
        };
        self.look_at_own(&served, cluster);
        if let Some(writer) = &self.writers.load_balancers {
            let (_, store, source) = cluster;
            load_balancers::look(writer, &served, store, source);
        }
        match &self.writers.mappings {
            Some(writer) => mappings::look(writer, &served, cluster),
            None => Look::Settled,
        }
    }

    fn look_at_own(&mut self, served: &Served, (objects, store, _): Cluster<'_>) {
        self.said.retain(|id, _| objects.contains_key(id));
        for (id, object) in objects.iter().filter(|(_, object)| object.mapping.is_none()) {
            let key = DocumentKey::Object(id.clone());
            let Some(verdict) = served.view.verdicts.on(&key) else { continue };
            if verdict.observed != object.revision {
                // It is compiled in a moment; until then nothing is known of this revision.
                continue;
            }
            let tenant = store.document(&key).and_then(Document::tenant);
            let planes = planes(served, verdict, tenant.as_ref());
            let is_same = |said: &Said| {
                (Arc::ptr_eq(&said.verdict, verdict) || said.verdict == *verdict)
                    && said.uid == object.revision.uid
                    && said.planes == planes
            };
            if self.said.get(id).is_some_and(is_same) {
                continue;
            }
            self.writers.own.want(id, Desired::new(object, verdict, &planes));
            let (verdict, uid) = (Arc::clone(verdict), object.revision.uid.clone());
            self.said.insert(id.clone(), Said { verdict, uid, planes });
        }
    }

    pub(super) fn report(&self) -> WriterReport {
        self.writers.report()
    }
}

/// Returns what the planes say of the resource that a verdict is on.
fn planes(served: &Served, verdict: &Verdict, tenant: Option<&TenantId>) -> Vec<PlaneReport> {
    let tenant = tenant.and_then(|tenant| served.view.snapshot.tenants.get(tenant));
    let keeping = tenant.map(|tenant| served.health.keeps_from(tenant)).unwrap_or_default();
    let report = |plane: &str, confirms: bool, is_its: fn(Kind) -> bool| {
        let problem = keeping.iter().find(|condition| is_its(condition.kind));
        PlaneReport {
            plane: Arc::from(plane),
            confirmed: confirms.then(|| verdict.observed.clone()),
            problem: problem.map(|condition| {
                let sentence = format!("{} {}", condition.subject, condition.sentence);
                (Arc::from(reason(condition.kind)), Arc::from(sentence))
            }),
        }
    };
    vec![
        report("proxy", served.by_proxy, |kind| kind != Kind::Kernel),
        report("kernel", served.by_kernel, |kind| kind == Kind::Kernel),
    ]
}

/// Returns the reason that a condition is in a status.
fn reason(kind: Kind) -> &'static str {
    match kind {
        Kind::Listener => "ListenerDown",
        Kind::EgressAddress => "AddressNotAssigned",
        Kind::Kernel => "KernelRefused",
        _ => "NotServed",
    }
}
