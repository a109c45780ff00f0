//! The rule of a keeper: from what it sees to what it writes. No clock, no I/O.
//!
//! The first of the ready proxies, in the order of addresses, mends at once; each other one waits a little longer, so that one of them writes and not all. A write names the version
//! that it was computed from, so a proxy that sees an old state cannot undo a newer one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Contest, Family, MOST_ADDRESSES, Observation, Seen, SliceOptions, Target};

/// Field manager of what all keepers write alike.
pub const MANAGER: &str = "durward-api-proxy";
/// Begin of the annotations by which a proxy withdraws its addresses.
pub(super) const WITHDRAWN: &str = "api-proxy.durward.dev/withdrawn-";

/// Least time between two writes of one kind to one object; it doubles while the object does not stay as it was written.
const SHORTEST: Duration = Duration::from_millis(100);
/// Most of that time. A mistake is mended within a second, so nobody may wait for longer than a part of it.
const LONGEST: Duration = Duration::from_millis(400);
/// Quiet time after which an object counts as left alone.
const QUIET: Duration = Duration::from_secs(10);
/// Time for the watch to show what a write has changed, after which the write is repeated.
const UNSEEN: Duration = Duration::from_secs(1);
/// Time by which each proxy waits longer than the one before it in the order.
const TURN: Duration = Duration::from_millis(120);
/// Proxies with a turn of their own; all others wait for the last turn.
const TURNS: usize = 4;
/// Time for which no address of a mark has been a member, after which the mark is removed: its node is gone.
const ABANDONED: Duration = Duration::from_secs(60);
/// Time in which undone writes count together.
const CONTEST_WINDOW: Duration = Duration::from_secs(60);
/// Undone writes within that time that make a contest. A person edits once or twice.
const CONTEST: usize = 3;

/// What a write does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Applies endpoints, ports and labels, on behalf of all proxies.
    Content {
        /// The object.
        target: Target,
        /// Family of a slice.
        family: Family,
        /// Addresses.
        addresses: BTreeSet<IpAddr>,
        /// Version that this was computed from; `None` if there is no object.
        version: Option<Arc<str>>,
        /// Endpoints from before the first keeper, to be kept in an annotation.
        before: Option<Arc<str>>,
    },
    /// Adds or removes the annotation by which this proxy withdraws its addresses.
    Mark {
        /// Family of the primary slice.
        family: Family,
        /// Addresses that are withdrawn; none removes the annotation.
        addresses: BTreeSet<IpAddr>,
        /// Version that was seen. The write does not depend on it: only this proxy writes this annotation, and a proxy that does not know yet that it is to be left out would win
        /// every race for the version.
        seen: Option<Arc<str>>,
    },
    /// Removes annotations by which proxies of nodes that are gone withdrew their addresses.
    Unmark {
        /// Keys of the annotations.
        marks: BTreeSet<String>,
        /// Version of the slice that this was computed from.
        version: Arc<str>,
    },
}

/// A write without its content, for the book-keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Written {
    /// Content of an object.
    Content(Target),
    /// The own annotation.
    Mark,
    /// Annotations of nodes that are gone.
    Unmark,
}

impl Written {
    fn target(self) -> Target {
        match self {
            Self::Content(target) => target,
            Self::Mark | Self::Unmark => Target::Primary,
        }
    }
}

impl Write {
    /// Returns which write this is.
    #[must_use]
    pub fn which(&self) -> Written {
        match self {
            Self::Content { target, .. } => Written::Content(*target),
            Self::Mark { .. } => Written::Mark,
            Self::Unmark { .. } => Written::Unmark,
        }
    }

    fn version(&self) -> Option<Arc<str>> {
        match self {
            Self::Content { version, .. } => version.clone(),
            Self::Mark { seen, .. } => seen.clone(),
            Self::Unmark { version, .. } => Some(Arc::clone(version)),
        }
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server has taken it.
    Done,
    /// The object is another by now: the watch will show it.
    Conflict,
    /// The server did not take it, or did not answer.
    Failed,
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Writes, in this order.
    pub writes: Vec<Write>,
    /// Time at which to look again even if nothing happens.
    pub next: Option<Duration>,
    /// Everything is as it should be.
    pub right: bool,
    /// No object leads to this proxy.
    pub withdrawn: bool,
    /// Somebody else writes too.
    pub contest: Option<Contest>,
    /// The Service counts this proxy as ready. Only then it writes for all proxies.
    pub counted: bool,
}

/// Memory of a keeper.
#[derive(Debug)]
pub struct Keeper {
    options: SliceOptions,
    mark: String,
    pace: BTreeMap<Written, Pace>,
    /// Since when each object has not been right.
    wrong: BTreeMap<Target, Duration>,
    /// Objects that were right the last time, after a keeper had written them.
    settled: BTreeMap<Target, bool>,
    undone: VecDeque<(Duration, Arc<str>)>,
    /// Since when no address of another proxy's mark has been a member.
    abandoned: BTreeMap<String, Duration>,
}

#[derive(Clone, Debug, Default)]
struct Pace {
    last: Option<Duration>,
    /// Writes in a row without a quiet time between them.
    streak: u32,
    /// Version that the last write was computed from, while the watch has not shown another.
    of: Option<Option<Arc<str>>>,
}

impl Keeper {
    /// Builds a keeper that has seen nothing yet.
    #[must_use]
    pub fn new(options: SliceOptions) -> Self {
        let mark = format!("{WITHDRAWN}{:016x}", fnv(options.proxy.as_bytes()));
        Self {
            options,
            mark,
            pace: BTreeMap::new(),
            wrong: BTreeMap::new(),
            settled: BTreeMap::new(),
            undone: VecDeque::new(),
            abandoned: BTreeMap::new(),
        }
    }

    /// Returns the settings.
    #[must_use]
    pub fn options(&self) -> &SliceOptions {
        &self.options
    }

    /// Returns the key of the annotation by which this proxy withdraws its addresses.
    #[must_use]
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Returns what is to be done. Each write is reported back by [`Self::outcome`].
    pub fn step(&mut self, seen: &Observation) -> Step {
        let Some(members) = &seen.members else { return Step::default() };
        if Target::ALL.iter().any(|target| !seen.objects.contains_key(target)) {
            return Step::default();
        }
        self.note_seen(seen);
        let mut step = Step { right: true, ..Step::default() };
        let is_counted = !self.options.own.is_disjoint(members);
        let is_named = seen.objects.values().flatten().any(|object| self.leads_here(object));
        // As long as the Service counts this proxy, another one may write its addresses again.
        step.withdrawn = !is_counted && !is_named;
        step.counted = is_counted;
        let ready = self.ready(seen, members);
        let must_wait = self.turn(&ready);
        // The mark comes first: without it another proxy would write our addresses again.
        let marks = self.step_mark(seen, is_counted || is_named, &mut step)
            || self.step_unmark(seen, (members, must_wait), &mut step);
        for target in Target::ALL {
            // Both would write the same object, and the second would only meet a conflict.
            if marks && target == Target::Primary {
                continue;
            }
            self.step_target(target, seen, &ready, must_wait, &mut step);
        }
        step.contest = self.contest(seen.now);
        step
    }

    /// Forgets what was sent for versions that the watches have left behind. An object that is made and deleted has the same version twice: none.
    fn note_seen(&mut self, seen: &Observation) {
        for (which, pace) in &mut self.pace {
            let object = seen.objects.get(&which.target()).and_then(Option::as_ref);
            let version = object.map(|object| Arc::clone(&object.version));
            pace.of = pace.of.take().filter(|of| *of == version);
        }
    }

    /// Takes note of what became of a write.
    pub fn outcome(&mut self, which: Written, outcome: Outcome) {
        if outcome == Outcome::Failed
            && let Some(pace) = self.pace.get_mut(&which)
        {
            pace.of = None;
        }
    }

    fn leads_here(&self, object: &Seen) -> bool {
        !object.addresses.is_disjoint(&self.options.own)
    }

    /// Returns the addresses that serve, in their order.
    fn ready(&self, seen: &Observation, members: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let primary = seen.objects.get(&Target::Primary).and_then(Option::as_ref);
        let marks = primary.map(|primary| &primary.withdrawn);
        let is_withdrawn = |address: &IpAddr| {
            if self.options.own.contains(address) {
                return !seen.own_ready;
            }
            marks.is_some_and(|marks| marks.values().any(|withdrawn| withdrawn.contains(address)))
        };
        let is_excluded = |address: &IpAddr| {
            self.options.excluded.iter().any(|network| network.contains(address))
                || address.is_loopback()
        };
        let fit = members.iter().filter(|it| !is_withdrawn(it) && !is_excluded(it));
        fit.copied().collect()
    }

    /// Returns the time for which something must have been wrong before this proxy mends it.
    fn turn(&self, ready: &BTreeSet<IpAddr>) -> Duration {
        let at = ready.iter().position(|address| self.options.own.contains(address));
        TURN * u32::try_from(at.unwrap_or(TURNS).min(TURNS)).unwrap_or_default()
    }

    /// Writes or removes the own annotation where it is due. Returns whether it does so now.
    fn step_mark(&mut self, seen: &Observation, is_counted: bool, step: &mut Step) -> bool {
        // Where there is no slice, the write makes one: without the mark another proxy would make it with our addresses.
        let primary = seen.objects.get(&Target::Primary).and_then(Option::as_ref);
        let has = primary.and_then(|primary| primary.withdrawn.get(&self.mark));
        let wanted = match seen.own_ready {
            // A proxy that its Service does not count, and that no slice names, has nothing to withdraw.
            false if is_counted || has.is_some() => self.options.own.clone(),
            _ => BTreeSet::new(),
        };
        if has.cloned().unwrap_or_default() == wanted {
            return false;
        }
        step.right = false;
        let family = self.primary_family(seen);
        let version = primary.map(|primary| Arc::clone(&primary.version));
        let write = Write::Mark { family, addresses: wanted, seen: version };
        self.issue(write, seen.now, step)
    }

    /// Removes marks that nobody else will remove. Returns whether it does so now.
    ///
    /// Only a proxy of the same name removes its mark. Where the node is gone and another one has its address, the mark would keep that address out; and marks
    /// of nodes that are gone would fill the object.
    fn step_unmark(
        &mut self,
        seen: &Observation,
        (members, must_wait): (&BTreeSet<IpAddr>, Duration),
        step: &mut Step,
    ) -> bool {
        let primary = seen.objects.get(&Target::Primary).and_then(Option::as_ref);
        let Some(primary) = primary.filter(|_| seen.own_ready) else { return false };
        self.abandoned.retain(|mark, _| primary.withdrawn.contains_key(mark));
        let mut due = BTreeSet::new();
        for (mark, addresses) in primary.withdrawn.iter().filter(|(mark, _)| **mark != self.mark) {
            if !addresses.is_disjoint(&self.options.own) {
                // The address is this proxy's, which serves.
                due.insert(mark.clone());
            } else if !step.counted || !addresses.is_disjoint(members) {
                self.abandoned.remove(mark);
            } else {
                let since = *self.abandoned.entry(mark.clone()).or_insert(seen.now);
                let at = since + ABANDONED + must_wait;
                if seen.now >= at {
                    due.insert(mark.clone());
                } else {
                    wake(step, at);
                }
            }
        }
        if due.is_empty() {
            return false;
        }
        step.right = false;
        let write = Write::Unmark { marks: due, version: Arc::clone(&primary.version) };
        self.issue(write, seen.now, step)
    }

    fn step_target(
        &mut self,
        target: Target,
        seen: &Observation,
        ready: &BTreeSet<IpAddr>,
        must_wait: Duration,
        step: &mut Step,
    ) {
        let object = seen.objects.get(&target).and_then(Option::as_ref);
        let primary = self.primary_family(seen);
        let family = match target {
            Target::Primary | Target::Endpoints => primary,
            Target::Secondary(family) => family,
        };
        // There is no secondary slice of the primary one's family; one that somebody made leads nowhere of ours.
        let wanted: BTreeSet<IpAddr> = match target {
            Target::Secondary(family) if family == primary => BTreeSet::new(),
            _ => ready
                .iter()
                .filter(|it| Family::of(**it) == family)
                .take(MOST_ADDRESSES)
                .copied()
                .collect(),
        };
        if is_right(object, &wanted, &self.options.own) {
            self.wrong.remove(&target);
            let is_ours = object.is_some_and(|object| object.writer.as_deref() == Some(MANAGER));
            self.settled.insert(target, is_ours);
            return;
        }
        step.right = false;
        if self.settled.insert(target, false) == Some(true) {
            self.note_undone(object, seen.now);
        }
        let since = *self.wrong.entry(target).or_insert(seen.now);
        // Nobody else may know yet that this proxy does not serve.
        let leads_astray = !seen.own_ready && object.is_some_and(|it| self.leads_here(it));
        if !step.counted && !leads_astray {
            // A proxy that the Service does not count knows less than those that it counts, or the Service is not that of the proxies.
            return;
        }
        let must_wait = if leads_astray { Duration::ZERO } else { must_wait };
        if seen.now < since + must_wait {
            wake(step, since + must_wait);
            return;
        }
        let write = Write::Content {
            target,
            family,
            addresses: wanted,
            version: object.map(|object| Arc::clone(&object.version)),
            before: object.and_then(before),
        };
        self.issue(write, seen.now, step);
    }

    /// Returns the family of the primary slice: it cannot be changed where the slice exists.
    fn primary_family(&self, seen: &Observation) -> Family {
        let primary = seen.objects.get(&Target::Primary).and_then(Option::as_ref);
        primary.and_then(|primary| primary.family).unwrap_or(self.options.primary)
    }

    /// Adds a write to the step, or the time at which it may be made. Returns whether it is made now.
    fn issue(&mut self, write: Write, now: Duration, step: &mut Step) -> bool {
        let (which, version) = (write.which(), write.version());
        // What was computed from this version has been sent already: another write could only meet a conflict.
        let of_object = self.pace.iter().filter(|(other, _)| other.target() == which.target());
        let sent = of_object.filter(|(_, pace)| pace.of.as_ref() == Some(&version));
        let unseen_until = sent.filter_map(|(_, pace)| pace.last).max().map(|last| last + UNSEEN);
        let pace = self.pace.entry(which).or_default();
        let paced_until = pace.last.map(|last| last + interval(pace.streak));
        if let Some(until) = unseen_until.max(paced_until).filter(|until| now < *until) {
            wake(step, until);
            return false;
        }
        let is_quiet = pace.last.is_none_or(|last| now >= last + QUIET);
        pace.streak = if is_quiet { 0 } else { pace.streak.saturating_add(1) };
        pace.last = Some(now);
        pace.of = Some(version);
        wake(step, now + UNSEEN);
        step.writes.push(write);
        true
    }

    /// Takes note of somebody else who has changed what a keeper had written.
    fn note_undone(&mut self, object: Option<&Seen>, now: Duration) {
        let writer = object.and_then(|object| object.writer.clone());
        if let Some(writer) = writer.filter(|writer| &**writer != MANAGER) {
            self.undone.push_back((now, writer));
        }
    }

    fn contest(&mut self, now: Duration) -> Option<Contest> {
        while self.undone.front().is_some_and(|(at, _)| *at + CONTEST_WINDOW < now) {
            self.undone.pop_front();
        }
        let mut times: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        self.undone.iter().for_each(|(_, writer)| *times.entry(writer).or_default() += 1);
        let all =
            times.into_iter().map(|(writer, times)| Contest { writer: Arc::clone(writer), times });
        // The API server reconciles every ten seconds whatever happens: once is proof enough.
        let contests = all.filter(|it| it.is_api_server() || it.times >= CONTEST);
        contests.max_by_key(|contest| (contest.is_api_server(), contest.times))
    }
}

/// Returns whether an object needs no write.
fn is_right(object: Option<&Seen>, wanted: &BTreeSet<IpAddr>, own: &BTreeSet<IpAddr>) -> bool {
    let Some(object) = object else { return wanted.is_empty() };
    if wanted.is_empty() {
        // While no proxy is ready, what was before the first keeper stays; only addresses of proxies go.
        return object.addresses.is_empty() || (!object.kept && object.addresses.is_disjoint(own));
    }
    object.in_form && object.addresses == *wanted
}

/// Returns the annotation with the endpoints from before the first keeper.
fn before(object: &Seen) -> Option<Arc<str>> {
    if object.before.is_some() || object.kept {
        return object.before.clone();
    }
    let addresses: Vec<String> = object.addresses.iter().map(ToString::to_string).collect();
    let port = object.ports.first()?;
    (!addresses.is_empty()).then(|| Arc::from(format!("{} {port}", addresses.join(","))))
}

fn interval(streak: u32) -> Duration {
    (SHORTEST * 2_u32.saturating_pow(streak.min(8))).min(LONGEST)
}

fn wake(step: &mut Step, at: Duration) {
    step.next = Some(step.next.map_or(at, |next| next.min(at)));
}

/// Returns the FNV-1a digest: the same in every process and release, unlike those of the standard library.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |digest, byte| {
        (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
