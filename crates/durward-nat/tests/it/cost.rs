//! What a packet costs: the processor time of a thread whose packets travel the whole way to a pod, which drops them.
//!
//! Rounds are interleaved and the least of each is taken, so that a busy machine changes little. The rule layouts of others are made
//! of the same kernel's rules, by this crate. Deliberately absent: iptables itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use durward_model::mapping::{NatModel, Transport};
use durward_nat::Nat;
use durward_nat::nftables::expression::{Base, LookupResult};
use durward_nat::nftables::ruleset::{Chain, Data, Hook, Point};
use durward_nat::nftables::table::{Ownership, Table};
use durward_nat::nftables::{Changes, Element, Expression, Ruleset, Set, Value, Verdict};
use durward_testkit::netns::{Namespace, in_namespace};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};
use std::sync::Arc;

use crate::lab::{EXT1, Lab, P1, apply, at, mapping, model, options, port};

const FIRST: u16 = 10_000;

/// A way to bring packets to the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// The kernel forwards; nobody looks.
    Plain,
    /// Ours, with so many mappings.
    Ours(u16),
    /// One rule for each mapping.
    Linear(u16),
    /// For each mapping a rule with a set for every packet, and one for new connections.
    SmartNat(u16),
}

/// Nanoseconds per packet.
#[derive(Clone, Copy, Debug)]
struct Cost {
    established: f64,
    new: f64,
}

impl Default for Cost {
    fn default() -> Self {
        Self { established: f64::INFINITY, new: f64::INFINITY }
    }
}

/// What holds a way up until it is dropped.
enum Held {
    Nothing,
    Ours(Nat),
    Others(Table),
}

impl Way {
    fn target(self) -> SocketAddr {
        match self {
            Self::Plain => format!("{P1}:9").parse().unwrap(),
            Self::Ours(count) | Self::Linear(count) | Self::SmartNat(count) => {
                SocketAddr::new(EXT1.parse().unwrap(), FIRST + count - 1)
            }
        }
    }

    fn build(self) -> Held {
        match self {
            Self::Plain => Held::Nothing,
            Self::Ours(count) => {
                let nat = Nat::start(options()).unwrap();
                apply(&nat, &mappings(count));
                Held::Ours(nat)
            }
            Self::Linear(count) => Held::Others(install(&linear(count))),
            Self::SmartNat(count) => Held::Others(install(&smartnat(count))),
        }
    }
}

impl Held {
    fn end(self) {
        match self {
            Self::Nothing => {}
            Self::Ours(nat) => nat.cleanup().unwrap(),
            Self::Others(mut table) => table.delete().unwrap(),
        }
    }
}

fn mappings(count: u16) -> Arc<NatModel> {
    let one = |number: u16| {
        let port = port(Transport::Udp, FIRST + number, &[&at(P1, 9)]);
        mapping(&format!("m{number}"), &[EXT1], vec![port])
    };
    model((0..count).map(one).collect(), vec![])
}

fn install(ruleset: &Ruleset) -> Table {
    let mut table = Table::open("others", Ownership::Shared, Duration::from_secs(60)).unwrap();
    let generation = table.read().unwrap().generation;
    table.change(generation, &Changes::between(&Ruleset::default(), ruleset)).unwrap();
    table
}

fn hooked(kind: &'static str, priority: i32, rules: Vec<Vec<Expression>>) -> Chain {
    Chain { hook: Some(Hook { kind, point: Point::Prerouting, priority }), rules }
}

fn network(offset: u32) -> Expression {
    Expression::Payload { base: Base::Network, offset, len: 4, to: 8 }
}

fn is(value: Vec<u8>) -> Expression {
    Expression::Compare { from: 8, equal: true, value }
}

/// The destination is the external address; its port goes to register 8.
fn external() -> Vec<Expression> {
    let port = Expression::Payload { base: Base::Transport, offset: 2, len: 2, to: 8 };
    vec![network(16), is(octets(EXT1)), port]
}

fn octets(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(_) => unreachable!("the bench is of IPv4"),
    }
}

fn to_pod() -> Vec<Expression> {
    vec![
        Expression::Immediate { to: 8, value: octets(P1) },
        Expression::Nat { source: false, ipv4: true, address: 8, last_address: None, port: None },
    ]
}

fn linear(count: u16) -> Ruleset {
    let rule = |number: u16| {
        [external(), vec![is((FIRST + number).to_be_bytes().to_vec())], to_pod()].concat()
    };
    let chain = hooked("nat", -100, (0..count).map(rule).collect());
    Ruleset { chains: [("pre".to_owned(), chain)].into(), ..Ruleset::default() }
}

fn smartnat(count: u16) -> Ruleset {
    let mut ruleset = Ruleset::default();
    let (mut mangle, mut nat) = (Vec::new(), Vec::new());
    let member = |key: Vec<u8>| [(key, Element { end: None, value: Value::Nothing })].into();
    let present = |set: String| Expression::Lookup { set, from: 8, result: LookupResult::Present };
    for number in 0..count {
        let [pods, ports, chain] = ["pods", "ports", "map"].map(|kind| format!("{kind}{number}"));
        let mut set = Set::new(4, 7, Data::Nothing);
        set.elements = member(octets("10.244.9.9"));
        ruleset.sets.insert(pods.clone(), set);
        let mut set = Set::new(2, 13, Data::Nothing);
        set.elements = member((FIRST + number).to_be_bytes().to_vec());
        ruleset.sets.insert(ports.clone(), set);
        let mark = Expression::Immediate { to: 8, value: vec![1, 8, 0, 0] };
        mangle.push(vec![network(12), present(pods), mark, Expression::SetMark { from: 8 }]);
        let go = Expression::Verdict(Verdict::Goto(chain.clone()));
        nat.push([external(), vec![present(ports), go]].concat());
        ruleset.chains.insert(chain, Chain { hook: None, rules: vec![to_pod()] });
    }
    ruleset.chains.insert("mangle".to_owned(), hooked("filter", -150, mangle));
    ruleset.chains.insert("nat".to_owned(), hooked("nat", -100, nat));
    ruleset
}

/// Sources nobody has used yet, so that a connection is new.
struct Sources(u8);

impl Sources {
    fn next(&mut self, world: &Namespace) -> IpAddr {
        self.0 += 1;
        let address = format!("192.0.2.{}", self.0);
        world.add_address("lo", &format!("{address}/32"));
        address.parse().unwrap()
    }
}

/// Sends a datagram from each of these ports; nanoseconds of this thread for each.
fn send(
    world: &Namespace,
    source: IpAddr,
    to: SocketAddr,
    ports: impl Iterator<Item = u16> + Send,
) -> f64 {
    world.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        let address = SocketAddr::new(to.ip(), 0).into();
        let mut packet = [0u8; 26];
        packet[2..4].copy_from_slice(&to.port().to_be_bytes());
        packet[4..6].copy_from_slice(&26u16.to_be_bytes());
        let now = || {
            let time = clock_gettime(ClockId::ThreadCPUTime);
            time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
        };
        let (begin, mut count) = (now(), 0.0);
        for port in ports {
            packet[..2].copy_from_slice(&port.to_be_bytes());
            socket.send_to(&packet, &address).unwrap();
            count += 1.0;
        }
        (now() - begin) / count
    })
}

/// The least cost of each way over so many rounds.
fn costs(lab: &Lab, ways: &[Way], rounds: usize, packets: usize) -> BTreeMap<Way, Cost> {
    // Nothing answers and nothing is told: the pod drops what it gets.
    lab.p1.run(|| {
        let drop = hooked("filter", -300, vec![vec![Expression::Verdict(Verdict::Drop)]]);
        std::mem::forget(install(&Ruleset {
            chains: [("d".to_owned(), drop)].into(),
            ..Ruleset::default()
        }));
    });
    durward_testkit::netns::sysctl("net.ipv4.ip_forward", "1");
    let mut sources = Sources(100);
    let mut costs: BTreeMap<Way, Cost> = BTreeMap::new();
    for round in 0..rounds {
        let order: Vec<&Way> =
            if round % 2 == 0 { ways.iter().collect() } else { ways.iter().rev().collect() };
        for way in order {
            let held = way.build();
            let (to, source) = (way.target(), sources.next(&lab.c1));
            send(&lab.c1, source, to, std::iter::repeat_n(1, 200));
            let established = send(&lab.c1, source, to, std::iter::repeat_n(1, packets));
            let new =
                send(&lab.c1, source, to, (0..packets.min(3_000)).map(|at| 2_000 + at as u16));
            held.end();
            let least = costs.entry(*way).or_default();
            least.established = least.established.min(established);
            least.new = least.new.min(new);
        }
    }
    costs
}

// S5.67
#[test]
fn a_packet_costs_the_same_among_thousands_of_mappings() {
    in_namespace("cost::a_packet_costs_the_same_among_thousands_of_mappings", || {
        let lab = Lab::new();
        let ways = [Way::Ours(1), Way::Ours(4_000), Way::Linear(1), Way::Linear(400)];

        let costs = costs(&lab, &ways, 4, 4_000);

        println!("{costs:#?}");
        let ratio = |few, many, of: fn(&Cost) -> f64| of(&costs[&many]) / of(&costs[&few]);
        let ours = (Way::Ours(1), Way::Ours(4_000));
        assert!(ratio(ours.0, ours.1, |cost| cost.established) < 1.4);
        assert!(ratio(ours.0, ours.1, |cost| cost.new) < 1.4);
        // The control: rules that are walked do cost more, so the measure sees it.
        assert!(ratio(Way::Linear(1), Way::Linear(400), |cost| cost.new) > 1.5);
    });
}

/// The table of `bench/nat`.
// S5.68 S5.69 S5.70
#[test]
#[ignore = "a benchmark: bench/nat runs it"]
fn table() {
    in_namespace("cost::table", || {
        let lab = Lab::new();
        println!("mappings   program   one more   one less   none of it   resident");
        for count in [500, 10_000] {
            println!("{}", times(count));
        }
        let ways = [
            Way::Plain,
            Way::Ours(1),
            Way::Ours(100),
            Way::Ours(1_000),
            Way::Ours(10_000),
            Way::Linear(100),
            Way::Linear(1_000),
            Way::SmartNat(100),
            Way::SmartNat(1_000),
        ];
        let costs = costs(&lab, &ways, 5, 20_000);
        let plain = costs[&Way::Plain];
        println!("\nway               established ns   ratio   new ns   ratio");
        for (way, cost) in &costs {
            println!(
                "{:<17} {:>14.0} {:>7.2} {:>8.0} {:>7.2}",
                format!("{way:?}"),
                cost.established,
                cost.established / plain.established,
                cost.new,
                cost.new / plain.new
            );
        }
    });
}

/// How long it takes to program so many mappings, to add one, to take one away, and to find that nothing differs.
fn times(count: u16) -> String {
    let [all, fewer] = [mappings(count), mappings(count - 1)];
    let nat = Nat::start(options()).unwrap();
    let time = |model: &Arc<NatModel>| {
        let begin = Instant::now();
        apply(&nat, model);
        begin.elapsed()
    };
    let program = time(&all);
    let rounds = 20;
    let (mut one_more, mut one_less, mut nothing) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        one_less.push(time(&fewer));
        one_more.push(time(&all));
        nothing.push(time(&all));
    }
    let median = |mut of: Vec<Duration>| {
        of.sort();
        of[of.len() / 2]
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim();
    nat.cleanup().unwrap();
    let [more, less, nothing] = [median(one_more), median(one_less), median(nothing)];
    format!("{count:<8} {program:>9.1?} {more:>10.1?} {less:>10.1?} {nothing:>12.1?}   {resident}")
}
