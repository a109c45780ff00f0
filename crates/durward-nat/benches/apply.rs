//! How long changes of many mappings take from the model to the kernel: all of them, one of them, none.
//!
//! `bench/nat` runs it in a namespace with the interfaces it needs; alone it does nothing, since it would change the host's packet
//! filter. Deliberately absent: files and documents.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_model::mapping::{
    Affinity, Endpoints, MappedPort, NatModel, PortMapping, PortRange, SourceMode, Transport,
};
use durward_model::{IngressAddress, Origin, SourceSet, TenantId};
use durward_nat::{Nat, Options};

const MANY: u16 = 10_000;
const SOME: u16 = 500;
const FIRST: u16 = 10_000;
const EXTERNAL: &str = "203.0.113.1";
const HERE: u8 = 11;
const ELSEWHERE: u8 = 12;

fn main() {
    if std::env::var_os("DURWARD_BENCH_INSIDE").is_none() {
        say(format_args!("bench/nat runs this in a namespace of its own"));
        return;
    }
    for count in [SOME, MANY] {
        report("all put into an empty table", count, None, &from_nothing(count));
    }
    let model = mappings(MANY, HERE);
    let nat = Nat::start(options()).expect("a namespace has a packet filter");
    apply(&nat, &model);
    let other = mappings(MANY, ELSEWHERE);
    let replaced = alternate(&nat, 20, [&other, &model]);
    report("all replaced by others, in one transaction", MANY, Some(150.0), &replaced);
    let changed = with(&model, |mappings| mappings[5_000] = mapping(5_000, ELSEWHERE));
    let one = alternate(&nat, 200, [&changed, &model]);
    report("one changed", MANY, Some(5.0), &one);
    let fewer = with(&model, |mappings| drop(mappings.pop()));
    report("one more or one less", MANY, Some(5.0), &alternate(&nat, 200, [&fewer, &model]));
    report("none changed", MANY, None, &alternate(&nat, 50, [&model, &model]));
}

fn from_nothing(count: u16) -> Vec<Duration> {
    let model = mappings(count, HERE);
    let once = || {
        let nat = Nat::start(options()).expect("a namespace has a packet filter");
        let took = apply(&nat, &model);
        nat.cleanup().expect("what was put in can be taken out");
        took
    };
    (0..5).map(|_| once()).collect()
}

fn alternate(nat: &Nat, rounds: usize, models: [&Arc<NatModel>; 2]) -> Vec<Duration> {
    (0..rounds).map(|round| apply(nat, models[round % 2])).collect()
}

fn apply(nat: &Nat, model: &Arc<NatModel>) -> Duration {
    let model = Arc::clone(model);
    let count = model.mappings.len();
    let begin = Instant::now();
    let report = nat.apply(model).expect("the kernel takes it");
    let took = begin.elapsed();
    let carried = report.mappings.iter().filter(|mapping| mapping.rejected.is_none()).count();
    assert_eq!(carried, count, "all are in the kernel");
    took
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
    let protocol = if number % 2 == 0 { Transport::Tcp } else { Transport::Udp };
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
        origin: Origin::default(),
    })
}

fn tenant() -> TenantId {
    TenantId::new("acme").expect("a name")
}

fn report(step: &str, mappings: u16, target_ms: Option<f64>, took: &[Duration]) {
    let mut took: Vec<f64> = took.iter().map(|took| took.as_secs_f64() * 1e3).collect();
    took.sort_by(f64::total_cmp);
    let share = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    let target = target_ms.map_or_else(String::new, |ms| format!(",\"target_ms\":{ms}"));
    say(format_args!(
        "{{\"step\":\"{step}\",\"mappings\":{mappings},\"p50_ms\":{:.3},\"p99_ms\":{:.3}{target}}}",
        share(50),
        share(99)
    ));
}

fn say(line: std::fmt::Arguments<'_>) {
    // Whoever closes our output does not want to know.
    let _ = writeln!(std::io::stdout(), "{line}");
}
