//! Keepers against a simulated API server that restarts, an editor, and proxies that become ready and not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::step::{Keeper, MANAGER, Outcome, Step, Write, Written};
use super::{Family, Observation, Seen, SliceOptions, Target};
use crate::object::ObjectName;

const TICK: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);

fn address(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number])
}

fn options(number: u8) -> SliceOptions {
    SliceOptions {
        proxy: Arc::from(format!("node-{number}")),
        own: BTreeSet::from([address(number)]),
        port: 6443,
        service: ObjectName::new("kube-system", "durward-api-proxy"),
        excluded: vec!["10.96.0.0/16".parse().unwrap()],
        primary: Family::V4,
    }
}

/// Numbers that look random and are the same each time (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn time(&mut self, from_millis: u64, to_millis: u64) -> Duration {
        Duration::from_millis(from_millis + self.roll(to_millis - from_millis + 1))
    }
}

type Objects = BTreeMap<Target, Option<Seen>>;

/// The simulated API server.
struct Server {
    version: u64,
    objects: Objects,
    /// Down until then; `None` while it is up.
    down_until: Option<Duration>,
    up_since: Duration,
}

impl Server {
    fn new() -> Self {
        Self {
            version: 1,
            objects: Target::ALL.into_iter().map(|target| (target, None)).collect(),
            down_until: None,
            up_since: Duration::ZERO,
        }
    }

    fn put(&mut self, target: Target, object: Option<Seen>) {
        self.version += 1;
        let version = Arc::from(self.version.to_string());
        self.objects.insert(target, object.map(|object| Seen { version, ..object }));
    }

    /// Does what a server does with an apply that names a version.
    fn apply(&mut self, keeper: &Keeper, write: &Write) -> Outcome {
        if self.down_until.is_some() {
            return Outcome::Failed;
        }
        match write {
            Write::Content { target, family, addresses, version, before } => {
                let held = self.objects[target].clone();
                if held.as_ref().map(|held| &held.version) != version.as_ref() {
                    return Outcome::Conflict;
                }
                let seen = Seen {
                    family: (*target != Target::Endpoints).then_some(*family),
                    addresses: addresses.clone(),
                    in_form: true,
                    withdrawn: held.map(|held| held.withdrawn).unwrap_or_default(),
                    kept: true,
                    writer: Some(Arc::from(MANAGER)),
                    before: before.clone(),
                    ports: BTreeSet::from([6443]),
                    version: Arc::default(),
                };
                self.put(*target, Some(seen));
            }
            Write::Mark { addresses, family, .. } => {
                let mut held = self.objects[&Target::Primary]
                    .clone()
                    .unwrap_or_else(|| Seen { family: Some(*family), ..Seen::default() });
                held.withdrawn.remove(keeper.mark());
                if !addresses.is_empty() {
                    held.withdrawn.insert(keeper.mark().to_owned(), addresses.clone());
                }
                self.put(Target::Primary, Some(held));
            }
            Write::Unmark { marks, version } => {
                let held = self.objects[&Target::Primary].clone();
                let Some(mut held) = held.filter(|held| held.version == *version) else {
                    return Outcome::Conflict;
                };
                held.withdrawn.retain(|mark, _| !marks.contains(mark));
                self.put(Target::Primary, Some(held));
            }
        }
        Outcome::Done
    }

    fn addresses(&self, target: Target) -> BTreeSet<IpAddr> {
        self.objects[&target].as_ref().map(|seen| seen.addresses.clone()).unwrap_or_default()
    }
}

/// A proxy with its delayed view of the server.
struct Proxy {
    address: IpAddr,
    keeper: Keeper,
    ready: bool,
    since: Duration,
    /// Has stopped to serve: from now on an endpoint of it is an outage.
    stopped: bool,
    withdrawn_since: Option<Duration>,
    view: Objects,
    members: BTreeSet<IpAddr>,
    news: VecDeque<(Duration, Objects, BTreeSet<IpAddr>)>,
    writing: VecDeque<(Duration, Write)>,
    wrote: Vec<Duration>,
    next: Option<Duration>,
    dirty: bool,
}

impl Proxy {
    fn new(number: u8) -> Self {
        Self {
            address: address(number),
            keeper: Keeper::new(options(number)),
            ready: true,
            since: Duration::ZERO,
            stopped: false,
            withdrawn_since: None,
            view: Objects::new(),
            members: BTreeSet::new(),
            news: VecDeque::new(),
            writing: VecDeque::new(),
            wrote: Vec::new(),
            next: None,
            dirty: true,
        }
    }

    fn take_news(&mut self, now: Duration) {
        while self.news.front().is_some_and(|(at, _, _)| *at <= now) {
            let Some((_, view, members)) = self.news.pop_front() else { return };
            (self.view, self.members) = (view, members);
            self.dirty = true;
        }
    }

    fn step(&mut self, now: Duration, dice: &mut Dice) {
        let is_due = self.dirty || self.next.is_some_and(|next| next <= now);
        if !self.writing.is_empty() || !is_due || self.view.is_empty() {
            return;
        }
        self.dirty = false;
        let seen = Observation {
            now,
            own_ready: self.ready,
            members: Some(self.members.clone()),
            objects: self.view.clone(),
        };
        let Step { writes, next, withdrawn, .. } = self.keeper.step(&seen);
        self.next = next;
        self.withdrawn_since =
            withdrawn.then(|| self.withdrawn_since.unwrap_or(now)).filter(|_| !self.ready);
        let mut at = now;
        for write in writes {
            at += dice.time(10, 40);
            self.writing.push_back((at, write));
        }
    }

    /// Most writes within any time of this length.
    fn most_within(&self, window: Duration) -> usize {
        let mut first = 0;
        let most = self.wrote.iter().enumerate().map(|(last, at)| {
            while self.wrote[first] + window < *at {
                first += 1;
            }
            last - first + 1
        });
        most.max().unwrap_or_default()
    }
}

/// The whole world.
struct World {
    dice: Dice,
    now: Duration,
    server: Server,
    proxies: Vec<Proxy>,
    /// What the Service counts as ready, later than it is so.
    members: BTreeSet<IpAddr>,
    members_due: Option<Duration>,
    /// Since when the Service counts right; `None` while it does not.
    members_told: Option<Duration>,
    last_version_told: u64,
    last_edit: Duration,
    edits: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let proxies = vec![Proxy::new(1), Proxy::new(2)];
        let members = proxies.iter().map(|proxy| proxy.address).collect();
        let server = Server::new();
        Self {
            dice: Dice(seed),
            now: Duration::ZERO,
            server,
            proxies,
            members,
            members_due: None,
            members_told: Some(Duration::ZERO),
            last_version_told: 0,
            last_edit: Duration::ZERO,
            edits: 0,
        }
    }

    fn tick(&mut self) {
        self.now += TICK;
        self.restart();
        self.serve_writes();
        self.change_readiness();
        self.tell();
        for proxy in &mut self.proxies {
            proxy.take_news(self.now);
            proxy.step(self.now, &mut self.dice);
        }
    }

    fn restart(&mut self) {
        match self.server.down_until {
            Some(until) if until <= self.now => {
                self.server.down_until = None;
                self.server.up_since = self.now;
                self.last_version_told = 0;
            }
            None if self.dice.roll(3_000) == 0 => {
                self.server.down_until = Some(self.now + self.dice.time(300, 3_000));
                // What is on its way when the server stops does not arrive.
                self.proxies.iter_mut().for_each(|proxy| proxy.news.clear());
            }
            _ => {}
        }
    }

    fn serve_writes(&mut self) {
        for at in 0..self.proxies.len() {
            while self.proxies[at].writing.front().is_some_and(|(due, _)| *due <= self.now) {
                let Some((_, write)) = self.proxies[at].writing.pop_front() else { break };
                let outcome = self.server.apply(&self.proxies[at].keeper, &write);
                if let (Outcome::Done, Write::Content { addresses, .. }) = (outcome, &write) {
                    let stopped = self
                        .proxies
                        .iter()
                        .find(|it| it.stopped && addresses.contains(&it.address));
                    assert!(
                        stopped.is_none(),
                        "a proxy that has stopped was written at {:?}",
                        self.now
                    );
                }
                let proxy = &mut self.proxies[at];
                proxy.keeper.outcome(write.which(), outcome);
                proxy.wrote.push(self.now);
                proxy.dirty = true;
            }
        }
    }

    /// Proxies become ready and not; one that is not stops once nothing has led to it for a second.
    fn change_readiness(&mut self) {
        for proxy in &mut self.proxies {
            let stays = if proxy.ready { 1_500 } else { 600 };
            let is_free = proxy.ready || proxy.stopped;
            if is_free && self.dice.roll(stays) == 0 {
                proxy.ready = !proxy.ready;
                proxy.since = self.now;
                proxy.stopped = false;
                proxy.withdrawn_since = None;
                proxy.dirty = true;
                self.members_due = Some(self.now + self.dice.time(50, 3_000));
                self.members_told = None;
            }
            let has_withdrawn =
                proxy.withdrawn_since.is_some_and(|since| since + SECOND <= self.now);
            proxy.stopped |= !proxy.ready && has_withdrawn;
        }
    }

    /// The Service's slices change, and the watches show everything a little later.
    fn tell(&mut self) {
        if self.server.down_until.is_some() {
            return;
        }
        if self.members_due.is_some_and(|due| due <= self.now) {
            self.members_due = None;
            self.members_told = Some(self.now);
            self.members = self.proxies.iter().filter(|it| it.ready).map(|it| it.address).collect();
            self.last_version_told = 0;
        }
        if self.last_version_told == self.server.version {
            return;
        }
        // After a restart each watch begins anew, some time later.
        let is_anew = self.server.up_since + TICK >= self.now && self.now > SECOND;
        self.last_version_told = self.server.version;
        for proxy in &mut self.proxies {
            let delay = if is_anew { self.dice.time(100, 500) } else { self.dice.time(5, 60) };
            let earliest = proxy.news.back().map_or(self.now, |(at, _, _)| *at);
            let at = earliest.max(self.now + delay);
            proxy.news.push_back((at, self.server.objects.clone(), self.members.clone()));
        }
    }

    /// Somebody changes something.
    fn edit(&mut self) {
        if self.server.down_until.is_some() {
            return;
        }
        self.edits += 1;
        self.last_edit = self.now;
        let target = if self.dice.roll(3) == 0 { Target::Endpoints } else { Target::Primary };
        let held = self.server.objects[&target].clone();
        let writer = Some(Arc::from("kubectl-edit"));
        let edited = match (self.dice.roll(5), held) {
            (0, _) => None,
            (1, Some(held)) => Some(Seen { in_form: false, writer, ..held }),
            (2, Some(held)) => Some(Seen { withdrawn: BTreeMap::new(), ..held }),
            (3, Some(held)) => Some(Seen { addresses: BTreeSet::new(), writer, ..held }),
            (_, held) => {
                let other = IpAddr::from([192, 168, 0, u8::try_from(self.dice.roll(250)).unwrap()]);
                let addresses = BTreeSet::from([other, address(1)]);
                let family = (target == Target::Primary).then_some(Family::V4);
                let held = held.unwrap_or_default();
                Some(Seen { addresses, family, writer, in_form: true, ..held })
            }
        };
        self.server.put(target, edited);
    }

    /// Returns whether nothing has disturbed the keepers for a second.
    fn is_calm(&self) -> bool {
        let calm = |since: Duration| self.now >= since + SECOND;
        self.server.down_until.is_none()
            && calm(self.last_edit)
            // The watches begin anew within half a second, and then everything has its second.
            && calm(self.server.up_since + SECOND / 2)
            && self.proxies.iter().all(|proxy| calm(proxy.since))
    }

    fn check(&self) {
        let of = |is_wanted: &dyn Fn(&Proxy) -> bool| -> BTreeSet<IpAddr> {
            let proxies = self.proxies.iter().filter(|proxy| is_wanted(proxy));
            proxies.map(|proxy| proxy.address).collect()
        };
        let (ready, unready) = (of(&|proxy| proxy.ready), of(&|proxy| !proxy.ready));
        // A proxy that became ready is written once its Service counts it, which takes its time.
        let counted = self.members_told.is_some_and(|at| self.now >= at + SECOND);
        for target in [Target::Primary, Target::Endpoints] {
            let found = self.server.addresses(target);
            let context = format!("{target:?} at {:?}, last edit {:?}", self.now, self.last_edit);
            assert!(found.is_disjoint(&unready), "{found:?} has {unready:?}: {context}");
            if counted {
                assert_eq!(found, ready, "{context}");
            }
        }
    }
}

// S4.51 S4.52
#[test]
fn for_ten_thousand_edits_the_slice_is_right_within_a_second_and_never_leads_to_a_proxy_that_stopped()
 {
    for seed in 1..=8 {
        let mut world = World::new(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut calm_ticks = 0_u32;
        let mut until = Duration::ZERO;
        let mut edits = true;
        while world.edits < 10_000 {
            if world.now >= until {
                edits = !edits;
                let length = if edits { (3_000, 8_000) } else { (1_000, 3_000) };
                until = world.now + world.dice.time(length.0, length.1);
            }
            world.tick();
            if edits && world.now.as_millis().is_multiple_of(100) {
                world.edit();
            }
            if world.is_calm() {
                calm_ticks += 1;
                world.check();
            }
        }

        assert!(calm_ticks > 1_000, "the world was calm for {calm_ticks} ticks only");
        for proxy in &world.proxies {
            // Three objects, each 4 times in the first second of trouble and 2.5 times a second then.
            let most = [SECOND, 10 * SECOND].map(|window| proxy.most_within(window));
            assert!(most[0] <= 12 && most[1] <= 90, "{} wrote {most:?}", proxy.address);
        }
    }
}

#[test]
fn while_nobody_disturbs_nothing_is_written() {
    let mut world = World::new(7);
    world.dice = Dice(u64::MAX);
    let mut proxies = std::mem::take(&mut world.proxies);
    for _ in 0..100 {
        world.now += TICK;
        let view = world.server.objects.clone();
        for proxy in &mut proxies {
            proxy.members = world.members.clone();
            proxy.view = view.clone();
            proxy.dirty = true;
            proxy.step(world.now, &mut world.dice);
            while let Some((_, write)) = proxy.writing.pop_front() {
                let outcome = world.server.apply(&proxy.keeper, &write);
                proxy.keeper.outcome(write.which(), outcome);
                proxy.wrote.push(world.now);
            }
        }
    }

    // One slice and one Endpoints, by the first of the two.
    assert_eq!(proxies.iter().map(|proxy| proxy.wrote.len()).collect::<Vec<_>>(), [2, 0]);
}

fn observation(now: Duration, members: &[IpAddr], primary: Option<Seen>) -> Observation {
    let mut objects: Objects = Target::ALL.into_iter().map(|target| (target, None)).collect();
    objects.insert(Target::Primary, primary);
    Observation { now, own_ready: true, members: Some(members.iter().copied().collect()), objects }
}

fn by(writer: &str, addresses: &[IpAddr], version: &str) -> Seen {
    Seen {
        version: Arc::from(version),
        family: Some(addresses.first().map_or(Family::V4, |address| Family::of(*address))),
        addresses: addresses.iter().copied().collect(),
        in_form: true,
        kept: writer == MANAGER,
        writer: Some(Arc::from(writer)),
        ports: BTreeSet::from([6443]),
        ..Seen::default()
    }
}

fn contents(step: &Step) -> Vec<(Target, Family, Vec<String>)> {
    let of = |write: &Write| match write {
        Write::Content { target, family, addresses, .. } => {
            Some((*target, *family, addresses.iter().map(ToString::to_string).collect()))
        }
        Write::Mark { .. } | Write::Unmark { .. } => None,
    };
    step.writes.iter().filter_map(of).collect()
}

#[test]
fn nothing_is_written_before_everything_was_read_or_while_no_proxy_is_ready() {
    let mut keeper = Keeper::new(options(1));
    let mut unread = observation(SECOND, &[address(1)], None);
    unread.objects.remove(&Target::Endpoints);
    let mut unknown = observation(SECOND, &[], None);
    unknown.members = None;
    let api_server = by("kube-apiserver", &[IpAddr::from([172, 16, 0, 1])], "1");

    assert_eq!(keeper.step(&unread).writes, []);
    assert_eq!(keeper.step(&unknown).writes, []);
    // What the API server wrote before the first proxy was ready stays until then.
    assert_eq!(keeper.step(&observation(SECOND, &[], Some(api_server))).writes, []);
}

#[test]
fn the_last_proxy_that_goes_leaves_no_address_behind() {
    let mut keeper = Keeper::new(options(1));
    let own = by(MANAGER, &[address(1)], "1");
    let mut seen = observation(SECOND, &[], Some(own));
    seen.own_ready = false;

    let step = keeper.step(&seen);

    assert_eq!(contents(&step), [(Target::Primary, Family::V4, vec![])]);
}

#[test]
fn a_proxy_that_the_service_does_not_count_writes_no_endpoints() {
    let mut keeper = Keeper::new(options(1));
    let of_dns = [IpAddr::from([10, 244, 0, 7]), IpAddr::from([10, 244, 0, 8])];
    let right = by(MANAGER, &[address(2)], "1");

    for (at, members) in [(1, &of_dns[..]), (9, &of_dns[..]), (18, &[][..])] {
        let step = keeper.step(&observation(at * SECOND, members, Some(right.clone())));

        assert_eq!((step.writes, step.counted), (vec![], false), "{members:?}");
    }
}

fn marked(primary: Seen, mark: &str, addresses: &[IpAddr]) -> Seen {
    let addresses = addresses.iter().copied().collect();
    Seen { withdrawn: BTreeMap::from([(mark.to_owned(), addresses)]), ..primary }
}

fn unmarks(step: &Step) -> Vec<&str> {
    let of = |write: &Write| match write {
        Write::Unmark { marks, .. } => Some(marks.clone()),
        _ => None,
    };
    assert!(step.writes.iter().filter_map(of).count() <= 1);
    step.writes
        .iter()
        .flat_map(|write| match write {
            Write::Unmark { marks, .. } => marks.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        })
        .collect()
}

#[test]
fn a_mark_of_a_node_that_is_gone_does_not_keep_its_address_from_the_next_node() {
    let both = [address(1), address(2)];
    let gone = Keeper::new(SliceOptions { proxy: Arc::from("node-gone"), ..options(1) });
    let primary = |version| marked(by(MANAGER, &[address(2)], version), gone.mark(), &[address(1)]);
    let seen = |at| {
        let mut seen = observation(at, &both, Some(primary("1")));
        seen.objects.insert(Target::Endpoints, Some(by(MANAGER, &[address(2)], "2")));
        seen
    };

    let step = Keeper::new(options(1)).step(&seen(SECOND));
    let mut starting = seen(SECOND);
    starting.own_ready = false;
    let too_early = Keeper::new(options(1)).step(&starting);
    let other = Keeper::new(options(2)).step(&seen(SECOND));

    assert_eq!(unmarks(&step), [gone.mark()]);
    assert_eq!((unmarks(&too_early), unmarks(&other)), (vec![], vec![]));
}

// Without the removal all keepers rewrite the slice for ever.
#[test]
fn keepers_come_to_rest_where_a_node_has_the_address_of_one_that_is_gone() {
    let mut world = World::new(7);
    world.dice = Dice(u64::MAX);
    let gone = Keeper::new(SliceOptions { proxy: Arc::from("node-gone"), ..options(1) });
    let primary = marked(by(MANAGER, &[address(2)], "1"), gone.mark(), &[address(1)]);
    world.server.put(Target::Primary, Some(primary));
    let mut proxies = std::mem::take(&mut world.proxies);
    let mut last = Duration::ZERO;
    for _ in 0..2_000 {
        world.now += TICK;
        let view = world.server.objects.clone();
        for proxy in &mut proxies {
            proxy.members = world.members.clone();
            proxy.view = view.clone();
            proxy.dirty = true;
            proxy.step(world.now, &mut world.dice);
            while let Some((_, write)) = proxy.writing.pop_front() {
                let outcome = world.server.apply(&proxy.keeper, &write);
                proxy.keeper.outcome(write.which(), outcome);
                last = world.now;
            }
        }
    }

    assert_eq!(world.server.addresses(Target::Primary), BTreeSet::from([address(1), address(2)]));
    assert!(last < 2 * SECOND, "still written at {last:?}");
}

#[test]
fn marks_whose_addresses_are_no_members_for_a_minute_are_removed() {
    let mut keeper = Keeper::new(options(1));
    let members = [address(1), address(2)];
    let seen = |at: u32, of: u8| {
        let primary = marked(by(MANAGER, &members, "1"), "gone", &[address(of)]);
        let mut seen = observation(at * SECOND, &members, Some(primary));
        seen.objects.insert(Target::Endpoints, Some(by(MANAGER, &members, "2")));
        seen
    };

    let early = keeper.step(&seen(1, 9));
    let still = keeper.step(&seen(60, 9));
    let due = keeper.step(&seen(62, 9));
    assert_eq!((unmarks(&early), unmarks(&still)), (vec![], vec![]));
    assert_eq!(unmarks(&due), ["gone"]);

    let mut keeper = Keeper::new(options(1));
    for at in [1, 100, 200] {
        let step = keeper.step(&seen(at, 2));
        assert_eq!(unmarks(&step), Vec::<&str>::new(), "a member that is about to go");
    }
}

#[test]
fn a_write_whose_effect_is_not_seen_is_repeated_after_a_second_only() {
    let mut keeper = Keeper::new(options(1));
    let wrong = || Some(by("kubectl-edit", &[address(9)], "1"));
    let millis = |millis: u64| SECOND + Duration::from_millis(millis);
    let mut writes = Vec::new();
    for at in [0, 300, 900, 1_000] {
        let mut seen = observation(millis(at), &[address(1)], wrong());
        seen.objects.insert(Target::Endpoints, Some(by(MANAGER, &[address(1)], "2")));
        writes.push(contents(&keeper.step(&seen)).len());
    }

    assert_eq!(writes, [1, 0, 0, 1]);
}

// S4.53
#[test]
fn each_family_has_a_slice_and_the_endpoints_are_of_the_primary_one() {
    let mut keeper = Keeper::new(options(1));
    let v6: IpAddr = "fd00::1".parse().unwrap();
    let existing = by("kube-apiserver", &["fd00::99".parse().unwrap()], "1");

    let fresh = keeper.step(&observation(SECOND, &[address(1), v6], None));
    let taken_over =
        Keeper::new(options(1)).step(&observation(SECOND, &[address(1), v6], Some(existing)));

    let text = |target, family, address: &str| (target, family, vec![address.to_owned()]);
    assert_eq!(
        contents(&fresh),
        [
            text(Target::Primary, Family::V4, "10.0.0.1"),
            text(Target::Secondary(Family::V6), Family::V6, "fd00::1"),
            text(Target::Endpoints, Family::V4, "10.0.0.1"),
        ]
    );
    // The address type of a slice cannot be changed.
    assert_eq!(
        contents(&taken_over),
        [
            text(Target::Primary, Family::V6, "fd00::1"),
            text(Target::Secondary(Family::V4), Family::V4, "10.0.0.1"),
            text(Target::Endpoints, Family::V6, "fd00::1"),
        ]
    );
    let before = taken_over.writes.iter().find_map(|write| match write {
        Write::Content { before, .. } => before.clone(),
        Write::Mark { .. } | Write::Unmark { .. } => None,
    });
    assert_eq!(before.as_deref(), Some("fd00::99 6443"));
}

// S4.7+
#[test]
fn the_address_of_a_service_is_never_written() {
    let mut keeper = Keeper::new(options(1));
    let cluster_ip = IpAddr::from([10, 96, 0, 17]);

    let step = keeper.step(&observation(SECOND, &[cluster_ip, address(1)], None));

    assert!(contents(&step).iter().all(|(_, _, addresses)| *addresses == ["10.0.0.1"]));
    assert_eq!(contents(&step).len(), 2);
}

#[test]
fn a_proxy_that_is_not_ready_withdraws_before_its_service_knows() {
    let mut keeper = Keeper::new(options(1));
    let both = [address(1), address(2)];
    let mut seen = observation(SECOND, &both, Some(by(MANAGER, &both, "5")));
    seen.objects.insert(Target::Endpoints, Some(by(MANAGER, &both, "6")));
    seen.own_ready = false;

    let first = keeper.step(&seen);
    keeper.outcome(Written::Mark, Outcome::Done);
    let marked = Seen {
        withdrawn: BTreeMap::from([(keeper.mark().to_owned(), BTreeSet::from([address(1)]))]),
        ..by(MANAGER, &both, "7")
    };
    let mut later = observation(SECOND + TICK, &both, Some(marked.clone()));
    later.own_ready = false;
    let second = keeper.step(&later);
    // The other proxy, which the mark tells.
    let other = Keeper::new(options(2)).step(&observation(SECOND, &both, Some(marked)));

    assert!(
        matches!(&first.writes[0], Write::Mark { addresses, .. } if addresses.contains(&address(1)))
    );
    let text = |target| (target, Family::V4, vec!["10.0.0.2".to_owned()]);
    assert_eq!(contents(&second)[0], text(Target::Primary));
    assert_eq!(contents(&other)[0], text(Target::Primary));
    assert!(!first.withdrawn && !second.withdrawn);
}

// S4.49
#[test]
fn an_api_server_that_reconciles_is_reported_with_the_flag_to_set() {
    let mut keeper = Keeper::new(options(1));
    let members = [address(1)];
    let theirs = |version| Some(by("kube-apiserver", &[IpAddr::from([172, 16, 0, 1])], version));
    let ours = |version| Some(by(MANAGER, &members, version));

    // Taking over what it wrote before is no contest.
    let taken = keeper.step(&observation(SECOND, &members, theirs("1")));
    let settled = keeper.step(&observation(2 * SECOND, &members, ours("2")));
    let undone = keeper.step(&observation(10 * SECOND, &members, theirs("3")));
    let later = keeper.step(&observation(90 * SECOND, &members, ours("4")));

    assert_eq!((taken.contest, settled.contest, later.contest), (None, None, None));
    let contest = undone.contest.unwrap();
    assert!(contest.is_api_server());
    assert!(contest.to_string().contains("--endpoint-reconciler-type=none"), "{contest}");
}

#[test]
fn a_person_who_edits_once_is_no_contest_and_one_who_goes_on_is() {
    let mut keeper = Keeper::new(options(1));
    let members = [address(1)];
    let mut contests = Vec::new();
    for round in 0..4_u32 {
        let now = SECOND * (2 * round + 1);
        let version = (2 * round).to_string();
        keeper.step(&observation(now, &members, Some(by(MANAGER, &members, &version))));
        let edited = by("kubectl-edit", &[address(9)], &(2 * round + 1).to_string());
        let step = keeper.step(&observation(now + SECOND, &members, Some(edited)));
        contests.push(step.contest.map(|contest| contest.times));
    }

    assert_eq!(contests, [None, None, Some(3), Some(4)]);
}
