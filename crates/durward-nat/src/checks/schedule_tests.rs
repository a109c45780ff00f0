//! Tests of the schedule without sockets, with a simulated clock.

use durward_model::health::Probe;
use durward_model::mapping::{Affinity, Endpoints, MappedPort, PortMapping, PortRange, SourceMode};
use durward_model::transport::Transport;
use durward_model::{IngressAddress, Origin, SourceSet};

use super::super::slots::{COMMON, MORE, MOST, OWN};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const FILES: usize = 1_000_000;

fn check() -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp,
        interval: 10 * SECOND,
        timeout: 2 * SECOND,
        unhealthy_after: 3,
        healthy_after: 2,
    }
}

fn mapping(tenant: &str, name: &str, endpoints: &[&str]) -> PortMapping {
    let at = endpoints.iter().map(|at| at.parse().unwrap()).collect();
    let ports = PortRange::one(80).unwrap();
    PortMapping {
        tenant: TenantId::new(tenant).unwrap(),
        name: name.into(),
        addresses: vec![IngressAddress("203.0.113.1".parse().unwrap())],
        ports: vec![MappedPort { protocol: Transport::Tcp, ports, endpoints: Endpoints::At(at) }],
        allowed_sources: SourceSet::default(),
        mode: SourceMode::PreserveSource,
        affinity: Affinity::None,
        drain: Duration::ZERO,
        egress: false,
        health_check: Some(check()),
        origin: Origin::default(),
    }
}

/// Schedule and simulated clock.
struct Bench {
    schedule: Schedule,
    now: Instant,
    events: Vec<String>,
}

impl Bench {
    fn new(mappings: Vec<PortMapping>) -> Self {
        let schedule = Schedule::new(Slots::new(FILES), 7);
        let mut bench = Self { schedule, now: Instant::now(), events: Vec::new() };
        bench.follow(mappings);
        bench
    }

    fn follow(&mut self, mappings: Vec<PortMapping>) -> Vec<Target> {
        let mappings = mappings.into_iter().map(Arc::new).collect();
        let model = NatModel { mappings, ..NatModel::default() };
        self.schedule.follow(&model, &BTreeSet::new(), &Ejected::default(), self.now)
    }

    /// Starts the due checks and gives each the outcome that `outcome` returns.
    fn round(&mut self, outcome: impl Fn(&str) -> Outcome) -> usize {
        let due = self.schedule.start(self.now);
        for one in &due {
            let outcome = outcome(&one.endpoint.to_string());
            if let Some(event) = self.schedule.finish(one.target, outcome, self.now) {
                let word = match event.transition {
                    Transition::Out(_) => "out",
                    Transition::In => "in",
                    Transition::Unknown(_) => "unknown",
                    Transition::Known => "known",
                };
                self.events.push(format!("{} {word}", event.endpoint));
            }
        }
        self.now += 2 * check().interval;
        due.len()
    }

    fn rounds(&mut self, count: usize, outcome: impl Fn(&str) -> Outcome) {
        (0..count).for_each(|_| {
            self.round(&outcome);
        });
    }

    fn out(&self) -> Vec<String> {
        let all = self.schedule.checked().into_iter().flat_map(|one| one.endpoints);
        all.filter(|one| one.out).map(|one| one.at.to_string()).collect()
    }
}

fn refused() -> Outcome {
    Outcome::Failed("Connection refused".to_owned())
}

/// Returns an outcome function by which all endpoints but one accept connections.
fn without(dead: &'static str) -> impl Fn(&str) -> Outcome {
    move |at| if at == dead { refused() } else { Outcome::Passed }
}

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";

#[test]
fn an_endpoint_is_out_after_failures_in_a_row_and_in_after_successes_in_a_row() {
    let mut bench = Bench::new(vec![mapping("acme", "web", &[A, B])]);
    let fails = without(B);
    let passes = |_: &str| Outcome::Passed;

    // Two failures, a success: the count begins anew.
    bench.round(&fails);
    bench.round(&fails);
    bench.round(passes);
    bench.round(&fails);
    bench.round(&fails);
    assert_eq!(bench.out(), [""; 0]);
    bench.round(&fails);
    assert_eq!(bench.out(), [B]);
    bench.round(passes);
    bench.round(&fails);
    bench.round(passes);
    assert_eq!(bench.out(), [B]);
    bench.round(passes);

    assert_eq!(bench.out(), [""; 0]);
    assert_eq!(bench.events, [format!("{B} out"), format!("{B} in")]);
    assert_eq!(bench.schedule.ejections().values().sum::<u64>(), 1);
    assert!(bench.schedule.ejected().is_empty());
}

#[test]
fn what_is_out_and_why_can_be_seen() {
    let mut bench = Bench::new(vec![mapping("acme", "web", &[A, B])]);

    bench.rounds(3, without(B));

    let [web] = &bench.schedule.checked()[..] else { panic!("one mapping is checked") };
    assert_eq!((web.tenant.as_str(), &*web.name), ("acme", "web"));
    assert_eq!(web.endpoints[0].cause, None);
    assert_eq!(web.endpoints[1].cause.as_deref(), Some("Connection refused"));
    let id = MappingId { tenant: web.tenant.clone(), name: "web".into() };
    assert!(bench.schedule.ejected().has(&id, B.parse().unwrap()));
}

#[test]
fn a_changed_document_keeps_the_state_of_endpoints_that_stay() {
    let mut bench = Bench::new(vec![
        mapping("acme", "web", &[A, B]),
        mapping("acme", "other", &[B]),
        mapping("bank", "web", &[B]),
    ]);
    bench.rounds(3, without(B));
    assert_eq!(bench.out(), [B, B, B]);

    let mut changed = mapping("acme", "web", &["10.0.0.3:80", B]);
    changed.health_check = Some(HealthCheck { interval: 5 * SECOND, ..check() });
    changed.drain = SECOND;
    // The other tenant's mapping of the same name goes, and so does its state.
    bench.follow(vec![changed, mapping("acme", "other", &[B])]);

    assert_eq!(bench.out(), [B, B]);
    assert_eq!(bench.schedule.ejected().len(), 2);
    bench.follow(vec![mapping("bank", "web", &[B])]);
    assert_eq!(bench.out(), [""; 0], "it was forgotten, and begins in rotation");
}

#[test]
fn a_removed_mapping_is_not_checked_and_its_slots_are_given_back() {
    let mut bench = Bench::new(vec![mapping("acme", "web", &[A, B])]);
    let due = bench.schedule.start(bench.now);
    assert_eq!(due.len(), 2);

    let mut unchecked = mapping("acme", "web", &[A, B]);
    unchecked.health_check = None;
    let gone = bench.follow(vec![unchecked]);

    assert_eq!(gone, due.iter().map(|due| due.target).collect::<Vec<_>>());
    for target in gone {
        assert_eq!(bench.schedule.finish(target, refused(), bench.now), None);
    }
    assert_eq!(bench.schedule.slots.used(), 0);
    assert_eq!((bench.round(|_| refused()), bench.schedule.next_due()), (0, None));
}

#[test]
fn a_rejected_mapping_is_not_checked() {
    let one = mapping("acme", "web", &[A]);
    let id = MappingId::of(&one);
    let model = NatModel { mappings: vec![Arc::new(one)], ..NatModel::default() };
    let mut schedule = Schedule::new(Slots::new(FILES), 7);

    schedule.follow(&model, &[id].into(), &Ejected::default(), Instant::now());

    assert_eq!(schedule.next_due(), None);
}

#[test]
fn an_endpoint_that_was_out_before_this_process_is_out_until_its_checks_pass() {
    let one = mapping("acme", "web", &[A, B]);
    let mut ejected = Ejected::default();
    ejected.insert(MappingId::of(&one), B.parse().unwrap());
    let model = NatModel { mappings: vec![Arc::new(one)], ..NatModel::default() };
    let mut bench = Bench::new(vec![]);
    bench.schedule.follow(&model, &BTreeSet::new(), &ejected, bench.now);
    assert_eq!(bench.out(), [B]);

    bench.round(|_| Outcome::Passed);
    bench.round(|_| Outcome::Passed);

    assert_eq!(bench.out(), [""; 0]);
    assert_eq!(bench.schedule.ejections().len(), 0, "this process took none out");
}

#[test]
fn what_this_host_could_not_ask_says_nothing_about_the_endpoint() {
    let mut bench = Bench::new(vec![mapping("acme", "web", &[A])]);
    let files = |_: &str| Outcome::Unchecked("Too many open files".to_owned());

    bench.round(|_| refused());
    bench.round(|_| refused());
    bench.rounds(5, files);
    bench.round(|_| refused());

    assert_eq!(bench.out(), [""; 0]);
    assert_eq!(bench.events, [format!("{A} unknown"), format!("{A} known")]);
    bench.round(files);
    let seen = bench.schedule.checked();
    assert_eq!(seen[0].endpoints[0].unchecked.as_deref(), Some("Too many open files"));
}

// Ten thousand mappings of few tenants and of many: checks under way at once stay within the slots, and everybody's turn comes.
#[test]
fn checks_of_ten_thousand_mappings_stay_within_the_slots_and_all_are_made() {
    for (tenants, most) in [(1, OWN + MORE), (20, COMMON + 20 * OWN), (10_000, MOST)] {
        let mappings = (0..10_000).map(|at| {
            let endpoint = format!("10.{}.{}.1:80", at / 250, at % 250);
            mapping(&format!("t{}", at % tenants), &format!("m{at}"), &[&endpoint])
        });
        let mut bench = Bench::new(mappings.collect());
        let mut made = BTreeSet::new();
        let mut running: VecDeque<Due> = VecDeque::new();
        let mut highest = 0;

        while made.len() < 10_000 {
            running.extend(bench.schedule.start(bench.now));
            highest = highest.max(running.len());
            assert!(running.len() <= most, "{} of {tenants} tenants at once", running.len());
            let Some(one) = running.pop_front() else { panic!("nobody is checked") };
            assert!(made.insert(one.endpoint), "one is checked again before another's turn");
            bench.schedule.finish(one.target, Outcome::Passed, bench.now);
        }

        assert_eq!(highest, most, "{tenants} tenants");
        assert_eq!(bench.schedule.slots.used(), running.len());
    }
}

#[test]
fn a_tenant_whose_endpoints_hang_does_not_keep_anothers_waiting() {
    let hanging = (0..1_000).map(|at| {
        mapping("slow", &format!("m{at}"), &[&format!("10.1.{}.{}:80", at / 250, at % 250)])
    });
    let mut bench = Bench::new(hanging.collect::<Vec<_>>());
    assert_eq!(bench.schedule.start(bench.now).len(), OWN + MORE);

    let hanging = (0..1_000).map(|at| {
        mapping("slow", &format!("m{at}"), &[&format!("10.1.{}.{}:80", at / 250, at % 250)])
    });
    bench.follow(hanging.chain([mapping("acme", "web", &[A])]).collect());
    let started = bench.schedule.start(bench.now);

    assert_eq!(started.len(), 1);
    assert_eq!(started[0].endpoint.to_string(), A);
}

#[test]
fn a_shorter_interval_counts_at_once() {
    let mut bench = Bench::new(vec![mapping("acme", "web", &[A])]);
    let due = bench.schedule.start(bench.now);
    bench.schedule.finish(due[0].target, Outcome::Passed, bench.now);
    let mut soon = mapping("acme", "web", &[A]);
    soon.health_check = Some(HealthCheck { interval: SECOND, ..check() });

    bench.follow(vec![soon]);

    assert_eq!(bench.schedule.next_due(), Some(bench.now + SECOND));
}
