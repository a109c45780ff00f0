//! How long changes of many mappings take from the model to the kernel: all of them, one of them, none.
//!
//! `bench/nat` runs it in a namespace with the interfaces it needs; alone it does nothing, since it would change the host's packet
//! filter. Deliberately absent: files and documents.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_model::mapping::{
    Affinity, Endpoints, MappedPort, NatModel, PortMapping, PortRange, SourceMode,
};
use durward_model::transport::Transport;
use durward_model::{IngressAddress, Origin, SourceSet, TenantId};
use durward_nat::{Nat, Options};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketType, bind, netlink, recv, socket, sockopt};
use rustix::time::{ClockId, clock_gettime};

const MANY: u16 = 10_000;
const SOME: u16 = 500;
const FIRST: u16 = 10_000;
const EXTERNAL: &str = "203.0.113.1";
/// The kernel frees what was taken out when it has answered already, and the next transaction waits for that.
const REST: Duration = Duration::from_millis(500);
const HERE: u8 = 11;
const ELSEWHERE: u8 = 12;
/// `NFT_MSG_NEWGEN`, and the group that hears it.
const NEW_GENERATION: u16 = 10 << 8 | 15;
const CHANGES_OF_RULES: u32 = 1 << 6;

fn main() {
    if std::env::var_os("DURWARD_BENCH_INSIDE").is_none() {
        say(format_args!("bench/nat runs this in a namespace of its own"));
        return;
    }
    let kernel = Kernel::listen().expect("a namespace has netlink");
    for count in [SOME, MANY] {
        report("all put into an empty table", count, None, &from_nothing(&kernel, count));
    }
    let model = mappings(MANY, HERE);
    let nat = Nat::start(options()).expect("a namespace has a packet filter");
    apply(&nat, &kernel, &model);
    let other = mappings(MANY, ELSEWHERE);
    let replaced = alternate(&nat, &kernel, (20, REST), [&other, &model]);
    report("all replaced by others, in one transaction", MANY, Some(150.0), &replaced);
    let at_once = alternate(&nat, &kernel, (20, Duration::ZERO), [&other, &model]);
    report("the same again and again without a pause", MANY, None, &at_once);
    let changed = with(&model, |mappings| mappings[5_000] = mapping(5_000, ELSEWHERE));
    let one = alternate(&nat, &kernel, (200, Duration::ZERO), [&changed, &model]);
    report("one changed", MANY, Some(5.0), &one);
    let fewer = with(&model, |mappings| drop(mappings.pop()));
    let one = alternate(&nat, &kernel, (200, Duration::ZERO), [&fewer, &model]);
    report("one more or one less", MANY, Some(5.0), &one);
}

/// How long it took until the kernel had a change, until the connections were cut that it forbids, and the processor's time for both.
struct Took {
    kernel: Duration,
    whole: Duration,
    cpu: Duration,
}

/// The processor's time of this thread.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The kernel's word that its rules have a new generation.
struct Kernel(OwnedFd);

impl Kernel {
    fn listen() -> rustix::io::Result<Self> {
        let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER))?;
        // Every element is announced, too.
        sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, 64 << 20))?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, CHANGES_OF_RULES))?;
        Ok(Self(socket))
    }

    /// Forgets what was announced.
    fn drain(&self) {
        let mut buffer = [0u8; 64];
        while !matches!(recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT), Err(Errno::AGAIN)) {}
    }

    /// Waits for the end of a transaction. Everything is announced when it ends, so where that is too much for the socket, it has ended.
    fn wait(&self) {
        let mut buffer = vec![0u8; 1 << 16];
        loop {
            match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) if kinds(&buffer[..length]).contains(&NEW_GENERATION) => return,
                Err(Errno::NOBUFS) => return,
                other => drop(other.expect("netlink speaks")),
            }
        }
    }
}

fn kinds(mut datagram: &[u8]) -> Vec<u16> {
    let mut found = Vec::new();
    while let [a, b, c, d, e, f, ..] = *datagram {
        found.push(u16::from_ne_bytes([e, f]));
        let length = u32::from_ne_bytes([a, b, c, d]).max(16).next_multiple_of(4) as usize;
        datagram = datagram.get(length..).unwrap_or_default();
    }
    found
}

fn from_nothing(kernel: &Kernel, count: u16) -> Vec<Took> {
    let model = mappings(count, HERE);
    let once = || {
        let nat = Nat::start(options()).expect("a namespace has a packet filter");
        let took = apply(&nat, kernel, &model);
        nat.cleanup().expect("what was put in can be taken out");
        took
    };
    (0..5).map(|_| once()).collect()
}

fn alternate(
    nat: &Nat,
    kernel: &Kernel,
    (rounds, rest): (usize, Duration),
    models: [&Arc<NatModel>; 2],
) -> Vec<Took> {
    // What was announced before is heard to its end by whoever listens.
    std::thread::sleep(Duration::from_secs(1));
    let once = |round| {
        std::thread::sleep(rest);
        apply(nat, kernel, models[round % 2])
    };
    (0..rounds).map(once).collect()
}

fn apply(nat: &Nat, kernel: &Kernel, model: &Arc<NatModel>) -> Took {
    let model = Arc::clone(model);
    let count = model.mappings.len();
    kernel.drain();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let heard = scope.spawn(|| {
            kernel.wait();
            begin.elapsed()
        });
        let before = spent();
        let report = nat.apply(model).expect("the kernel takes it");
        let (whole, cpu) = (begin.elapsed(), spent() - before);
        let carried = report.mappings.iter().filter(|mapping| mapping.rejected.is_none()).count();
        assert_eq!(carried, count, "all are in the kernel");
        Took { kernel: heard.join().expect("the kernel says so"), whole, cpu }
    })
}

fn options() -> Options {
    Options {
        external: "ext1".to_owned(),
        cluster: vec!["10.244.0.0/16".parse().expect("a network")],
        ..Options::default()
    }
}

fn mappings(count: u16, pod: u8) -> Arc<NatModel> {
    Arc::new(NatModel {
        tenants: [(tenant(), 1)].into(),
        mappings: (0..count).map(|number| mapping(number, pod)).collect(),
        ..NatModel::default()
    })
}

/// The same model but for what is done to its mappings; the others are the same objects, as after a change of one document.
fn with(model: &Arc<NatModel>, change: impl FnOnce(&mut Vec<Arc<PortMapping>>)) -> Arc<NatModel> {
    let mut changed = NatModel::clone(model);
    change(&mut changed.mappings);
    Arc::new(changed)
}

fn mapping(number: u16, pod: u8) -> Arc<PortMapping> {
    let endpoint = format!("10.244.0.{pod}:8080").parse().expect("an endpoint");
    let protocol = if number.is_multiple_of(2) { Transport::Tcp } else { Transport::Udp };
    Arc::new(PortMapping {
        tenant: tenant(),
        name: format!("m{number}").into(),
        addresses: vec![IngressAddress(EXTERNAL.parse().expect("an address"))],
        ports: vec![MappedPort {
            protocol,
            ports: PortRange::one(FIRST + number).expect("a port"),
            endpoints: Endpoints::At(vec![endpoint]),
        }],
        allowed_sources: SourceSet::new(["0.0.0.0/0".parse().expect("a network")]),
        mode: SourceMode::PreserveSource,
        affinity: Affinity::None,
        drain: Duration::ZERO,
        egress: false,
        health_check: None,
        origin: Origin::default(),
    })
}

fn tenant() -> TenantId {
    TenantId::new("acme").expect("a name")
}

fn report(step: &str, mappings: u16, target_ms: Option<f64>, took: &[Took]) {
    let share = |of: fn(&Took) -> Duration, percent: usize| {
        let mut all: Vec<f64> = took.iter().map(|took| of(took).as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        all[(all.len() * percent / 100).min(all.len() - 1)]
    };
    let target = target_ms.map_or_else(String::new, |ms| format!(",\"target_ms\":{ms}"));
    say(format_args!(
        "{{\"step\":\"{step}\",\"mappings\":{mappings},\"p50_ms\":{:.3},\"p99_ms\":{:.3},\"cut_ms\":{:.3},\"cpu_ms\":{:.3}{target}}}",
        share(|took| took.kernel, 50),
        share(|took| took.kernel, 99),
        share(|took| took.whole, 50),
        share(|took| took.cpu, 50),
    ));
}

fn say(line: std::fmt::Arguments<'_>) {
    // Whoever closes our output does not want to know.
    let _ = writeln!(std::io::stdout(), "{line}");
}
