//! Reports on objects: the verdict on each, and whether the planes serve it.
//!
//! A plane has confirmed an object only when it serves the configuration that the verdict is part of; what was compiled and is not served yet is pending.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_control::stream::{ObjectReport, PlaneReport};
use durward_control::{Compiled, Document, Store};
use durward_model::verdict::Verdict;
use durward_model::{DocumentKey, Kind as ObjectKind, ResourceId, TenantId};

use super::ingresses::IngressAddresses;
use super::mappings::{Carried, Configured};
use super::objects::Objects;
use crate::app::Gateway;
use crate::app::condition::{Condition, Kind};
use crate::app::health::{Health, KernelFacts, keeping_from};

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

/// Time after which everything is compared again, whatever seems to be as before.
const THOROUGH: Duration = Duration::from_secs(60);

/// Reporter of the results for objects, each once.
///
/// Among many objects few differ from one look to the next; only these are compared with what was said.
#[derive(Default)]
pub(super) struct Reporter {
    said: BTreeMap<ResourceId, Reported>,
    ingresses: IngressAddresses,
    last: Option<Look>,
}

/// Report on an object that was sent last.
struct Reported {
    verdict: Arc<Verdict>,
    planes: Vec<PlaneReport>,
    addresses: Vec<IpAddr>,
    configured: Option<Configured>,
}

/// State that was served at the last look.
struct Look {
    view: Arc<Compiled>,
    /// True if the proxy served it, and if the kernel carried it.
    by: (bool, bool),
    problems: Problems,
    /// Time when everything was compared last.
    thorough: Instant,
}

/// Problems that keep tenants from being served: for each plane, its first condition in the words of a status.
type Problems = BTreeMap<TenantId, OfPlanes>;

/// For each plane, a problem: a reason and a sentence.
type OfPlanes = [Option<(Arc<str>, Arc<str>)>; 2];

impl Reporter {
    /// Returns what became of each object by what is served, if that is not what was said.
    pub(super) fn reports(&mut self, served: &Served, objects: &impl Objects) -> Vec<ObjectReport> {
        let problems = problems(served);
        let moved = self.ingresses.look(&served.view.snapshot);
        let like = self.last.as_ref().filter(|last| last.is_like(served));
        let thorough = like.map_or_else(Instant::now, |last| last.thorough);
        let due: BTreeSet<ResourceId> = match like {
            Some(last) => {
                let tenants = moved.iter().chain(last.differing_tenants(&problems));
                let mut due = last.differing_verdicts(served);
                due.extend(tenants.flat_map(|tenant| objects_of(served, tenant)));
                // What the kernel carries of them changes without a change of the configuration.
                due.extend(objects.of_kind(ObjectKind::Mapping).cloned());
                due
            }
            None => {
                self.said.retain(|id, _| objects.has(id));
                objects.all().cloned().collect()
            }
        };
        let reports = self.compare(served, objects, due, &problems);
        let (view, by) = (Arc::clone(&served.view), (served.by_proxy, served.by_kernel));
        self.last = Some(Look { view, by, problems, thorough });
        reports
    }

    /// Compares the results for objects with what was said of them.
    fn compare(
        &mut self,
        served: &Served,
        objects: &impl Objects,
        due: BTreeSet<ResourceId>,
        problems: &Problems,
    ) -> Vec<ObjectReport> {
        let (mut reports, mut carried) = (Vec::new(), None);
        for id in due {
            let key = DocumentKey::Object(id.clone());
            let verdict = served.view.verdicts.on(&key).filter(|_| objects.has(&id));
            let Some(verdict) = verdict else {
                self.said.remove(&id);
                continue;
            };
            let tenant = served.store.document(&key).and_then(Document::tenant);
            let problems = tenant.as_ref().and_then(|tenant| problems.get(tenant));
            let configured = if id.kind == ObjectKind::Mapping {
                let carried = carried.get_or_insert_with(|| Carried::of(served)).as_ref();
                carried.map(|carried| carried.configured(&id, tenant.as_ref()))
            } else {
                None
            };
            let now = Reported {
                planes: planes(served, verdict, problems),
                addresses: self.ingresses.of(&id, tenant.as_ref()),
                verdict: Arc::clone(verdict),
                configured,
            };
            if !self.said.get(&id).is_some_and(|said| said.is_same_as(&now)) {
                reports.extend(now.report());
                self.said.insert(id, now);
            }
        }
        reports
    }
}

impl Reported {
    fn is_same_as(&self, other: &Self) -> bool {
        (Arc::ptr_eq(&self.verdict, &other.verdict) || self.verdict == other.verdict)
            && self.planes == other.planes
            && self.addresses == other.addresses
            && self.configured == other.configured
    }

    fn report(&self) -> Option<ObjectReport> {
        let report = ObjectReport::new(&self.verdict, self.planes.clone())?;
        let (addresses, configured) = (self.addresses.clone(), self.configured.clone());
        Some(ObjectReport { addresses, configured, ..report })
    }
}

impl Look {
    /// Returns whether what is served now has to be compared with this only where it differs.
    fn is_like(&self, served: &Served) -> bool {
        self.by == (served.by_proxy, served.by_kernel) && self.thorough.elapsed() < THOROUGH
    }

    /// Returns the objects with another verdict.
    fn differing_verdicts(&self, served: &Served) -> BTreeSet<ResourceId> {
        let keys = served.view.verdicts.differences(&self.view.verdicts).into_iter();
        keys.filter_map(|key| key.object().cloned()).collect()
    }

    /// Returns the tenants with other problems.
    fn differing_tenants<'a>(
        &'a self,
        problems: &'a Problems,
    ) -> impl Iterator<Item = &'a TenantId> {
        let tenants = problems.keys().chain(self.problems.keys());
        tenants.filter(|one| problems.get(*one) != self.problems.get(*one))
    }
}

/// Returns the objects of a tenant.
fn objects_of(served: &Served, tenant: &TenantId) -> impl Iterator<Item = ResourceId> {
    served.store.of_tenant(tenant).filter_map(|key| key.object().cloned())
}

/// Returns the problems that keep tenants from being served.
fn problems(served: &Served) -> Problems {
    let mut conditions: BTreeMap<&TenantId, Vec<&Condition>> = BTreeMap::new();
    for condition in served.health.conditions() {
        if let Some(tenant) = &condition.tenant {
            conditions.entry(tenant).or_default().push(condition);
        }
    }
    let tenants = &served.view.snapshot.tenants;
    let of_tenant = |(id, conditions): (&TenantId, Vec<&Condition>)| {
        let keeping = keeping_from(tenants.get(id)?, &conditions);
        let first = |is_its: fn(Kind) -> bool| {
            let condition = keeping.iter().find(|condition| is_its(condition.kind))?;
            let sentence = format!("{} {}", condition.subject, condition.sentence);
            Some((Arc::from(reason(condition.kind)), Arc::from(sentence)))
        };
        let problems = [first(|kind| kind != Kind::Kernel), first(|kind| kind == Kind::Kernel)];
        problems.iter().any(Option::is_some).then(|| (id.clone(), problems))
    };
    conditions.into_iter().filter_map(of_tenant).collect()
}

/// Returns what the planes say of the resource that a verdict is on.
fn planes(served: &Served, verdict: &Verdict, problems: Option<&OfPlanes>) -> Vec<PlaneReport> {
    let report = |at: usize, plane: &str, confirms: bool| PlaneReport {
        plane: Arc::from(plane),
        confirmed: confirms.then(|| verdict.observed.clone()),
        problem: problems.and_then(|problems| problems[at].clone()),
    };
    vec![report(0, "proxy", served.by_proxy), report(1, "kernel", served.by_kernel)]
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
