//! What became of objects: the verdict on each, and whether the planes serve it.
//!
//! A plane has confirmed an object only when it serves the configuration that the verdict is part of; what was compiled and is not served yet is pending.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use durward_control::stream::{ObjectReport, PlaneReport};
use durward_control::{Compiled, Document, Store};
use durward_model::verdict::Verdict;
use durward_model::{DocumentKey, ResourceId, TenantId};
use tokio::time::Instant;

use crate::app::Gateway;
use crate::app::condition::{Condition, Kind};
use crate::app::health::{Health, KernelFacts, keeping_from};

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

impl Served {
    /// Looks at a gateway; `None` if it has ended.
    pub(super) async fn by(gateway: Arc<Gateway>) -> Option<Self> {
        // The kernel may have to be asked.
        tokio::task::spawn_blocking(move || gateway.served()).await.ok()
    }
}

/// Pause between two looks at what is served.
pub(super) const LOOK: Duration = Duration::from_secs(2);

/// Time after which everything is compared again, whatever seems to be as before.
const THOROUGH: Duration = Duration::from_secs(60);
/// After a look follow at least so many times of what it took without one, so that looks take a tenth of a core at most, however fast things change.
const REST: u32 = 9;

/// Times of looks at what is served.
pub(super) struct Looks {
    next: Instant,
    /// Until then a change is no reason to look.
    rests_until: Instant,
}

impl Looks {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { next: now, rests_until: now }
    }

    /// Returns the time of the next look.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Has a look follow soon, because something changed.
    pub(super) fn hurry(&mut self) {
        self.next = self.next.min(self.rests_until);
    }

    /// Puts the next look off.
    pub(super) fn wait(&mut self, pause: Duration) {
        self.next = Instant::now() + pause;
    }

    /// Notes that a look that began then is over, and that the next one is due after a pause.
    pub(super) fn looked(&mut self, began: Instant, pause: Duration) {
        let now = Instant::now();
        self.rests_until = now + (now - began) * REST;
        self.next = self.rests_until.max(now + pause);
    }
}

/// Reporter of what became of objects. It says each thing once.
///
/// Among many objects few differ from one look to the next; only these are compared with what was said.
#[derive(Default)]
pub(super) struct Reporter {
    said: BTreeMap<ResourceId, Reported>,
    last: Option<Look>,
}

/// What was said last of an object.
struct Reported {
    verdict: Arc<Verdict>,
    planes: Vec<PlaneReport>,
}

/// What was served at the last look.
struct Look {
    view: Arc<Compiled>,
    /// True if the proxy serves it, and if the kernel carries it.
    by: (bool, bool),
    problems: Problems,
    /// When everything was compared last.
    thorough: Instant,
}

/// What keeps tenants from being served: for each plane, its first condition in the words of a status.
type Problems = BTreeMap<TenantId, [Option<(Arc<str>, Arc<str>)>; 2]>;

impl Reporter {
    /// Returns what became of each object by what is served, if that is not what was said. `is_known` tells which objects there are.
    pub(super) fn reports<'a, I: Iterator<Item = &'a ResourceId>>(
        &mut self,
        served: &Served,
        (objects, is_known): (impl FnOnce() -> I, impl Fn(&ResourceId) -> bool),
        store: &Store,
    ) -> Vec<ObjectReport> {
        let problems = problems(served);
        let due: BTreeSet<ResourceId> = match &self.last {
            Some(last) if last.is_like(served) => last.differing(served, &problems, store),
            _ => {
                self.said.retain(|id, _| is_known(id));
                objects().cloned().collect()
            }
        };
        let mut reports = Vec::new();
        for id in due {
            let key = DocumentKey::Object(id.clone());
            let verdict = served.view.verdicts.on(&key).filter(|_| is_known(&id));
            let Some(verdict) = verdict else {
                self.said.remove(&id);
                continue;
            };
            let tenant = store.document(&key).and_then(Document::tenant);
            let planes = planes(served, verdict, tenant.and_then(|tenant| problems.get(&tenant)));
            let is_same = |said: &Reported| said.verdict == *verdict && said.planes == planes;
            if !self.said.get(&id).is_some_and(is_same) {
                reports.extend(ObjectReport::new(verdict, planes.clone()));
            }
            self.said.insert(id, Reported { verdict: Arc::clone(verdict), planes });
        }
        self.note(served, problems);
        reports
    }

    fn note(&mut self, served: &Served, problems: Problems) {
        let thorough = self.last.as_ref().filter(|last| last.is_like(served));
        let thorough = thorough.map_or_else(Instant::now, |last| last.thorough);
        let (view, by) = (Arc::clone(&served.view), (served.by_proxy, served.by_kernel));
        self.last = Some(Look { view, by, problems, thorough });
    }
}

impl Look {
    /// Returns whether what is served now can be compared with this one alone.
    fn is_like(&self, served: &Served) -> bool {
        self.by == (served.by_proxy, served.by_kernel) && self.thorough.elapsed() < THOROUGH
    }

    /// Returns the objects with another verdict, and those of tenants with other problems.
    fn differing(
        &self,
        served: &Served,
        problems: &Problems,
        store: &Store,
    ) -> BTreeSet<ResourceId> {
        let judged = served.view.verdicts.differences(&self.view.verdicts).into_iter();
        let tenants = problems.keys().chain(self.problems.keys());
        let tenants = tenants.filter(|one| problems.get(*one) != self.problems.get(*one));
        let of_tenants = tenants.flat_map(|tenant| store.of_tenant(tenant));
        judged.chain(of_tenants).filter_map(|key| key.object().cloned()).collect()
    }
}

/// Returns what keeps tenants from being served.
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
fn planes(
    served: &Served,
    verdict: &Verdict,
    problems: Option<&[Option<(Arc<str>, Arc<str>)>; 2]>,
) -> Vec<PlaneReport> {
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
