//! Reports on objects: the verdict on each, and whether the planes serve it.
//!
//! A plane has confirmed an object only when it serves the configuration that the verdict is part of; what was compiled and is not served yet is pending.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use durward_control::stream::{ObjectReport, PlaneReport};
use durward_control::{Compiled, Document, Store};
use durward_model::verdict::Verdict;
use durward_model::{DocumentKey, Kind as ObjectKind, ResourceId, TenantId};

use super::ingresses::IngressAddresses;
use super::mappings::{Carried, Configured};
use crate::app::Gateway;
use crate::app::condition::Kind;
use crate::app::health::{Health, KernelFacts};

/// The gateway at one moment.
pub(crate) struct Served {
    /// The documents that were compiled. What the API server says may be newer.
    pub(crate) store: Store,
    /// The compiled configuration.
    pub(crate) view: Arc<Compiled>,
    /// True if the proxy serves it.
    pub(crate) by_proxy: bool,
    /// True if the kernel carries it, as far as it asks anything of the kernel.
    pub(crate) by_kernel: bool,
    /// State of the kernel plane; `None` if it is not used.
    pub(crate) kernel: Option<KernelFacts>,
    /// Health of the gateway.
    pub(crate) health: Health,
}

impl Served {
    /// Reads the state of a gateway; `None` if it has ended.
    pub(super) async fn by(gateway: Arc<Gateway>) -> Option<Self> {
        // The kernel may have to be asked.
        tokio::task::spawn_blocking(move || gateway.served()).await.ok()
    }
}

/// Interval at which the served state is read.
pub(super) const LOOK: Duration = Duration::from_secs(2);

/// Reports the results for objects, each once.
#[derive(Default)]
pub(super) struct Reporter {
    said: BTreeMap<ResourceId, Reported>,
    ingresses: IngressAddresses,
}

/// Report on an object that was sent last.
struct Reported {
    verdict: Arc<Verdict>,
    planes: Vec<PlaneReport>,
    addresses: Vec<IpAddr>,
    configured: Option<Configured>,
}

impl Reporter {
    /// Returns what became of each object by what is served, if that is not what was said.
    pub(super) fn reports<'a>(
        &mut self,
        served: &Served,
        objects: impl Iterator<Item = &'a ResourceId>,
    ) -> Vec<ObjectReport> {
        let (mut reports, mut said) = (Vec::new(), BTreeMap::new());
        self.ingresses.look(&served.view.snapshot);
        let mut carried = None;
        for id in objects {
            let key = DocumentKey::Object(id.clone());
            let Some(verdict) = served.view.verdicts.on(&key) else { continue };
            let tenant = served.store.document(&key).and_then(Document::tenant);
            let planes = planes(served, verdict, tenant.as_ref());
            let addresses = self.ingresses.of(id, tenant.as_ref());
            let configured = if id.kind == ObjectKind::Mapping {
                let carried = carried.get_or_insert_with(|| Carried::of(served)).as_ref();
                carried.map(|carried| carried.configured(id, tenant.as_ref()))
            } else {
                None
            };
            let is_same = |said: &Reported| {
                (Arc::ptr_eq(&said.verdict, verdict) || said.verdict == *verdict)
                    && said.planes == planes
                    && said.addresses == addresses
                    && said.configured == configured
            };
            if !self.said.get(id).is_some_and(is_same) {
                let report = ObjectReport::new(verdict, planes.clone());
                let (addresses, configured) = (addresses.clone(), configured.clone());
                reports.extend(report.map(|report| ObjectReport {
                    addresses,
                    configured,
                    ..report
                }));
            }
            let verdict = Arc::clone(verdict);
            said.insert(id.clone(), Reported { verdict, planes, addresses, configured });
        }
        self.said = said;
        reports
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
