//! One round of the lab: each property is tested with real sockets, and a line shows the result.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::gateway::Gateway;
use super::namespace::Namespace;
use super::stage::{DOCUMENTS, Stage};
use super::talk::{self, Connection, PATIENCE, SILENCE};
use super::world::{ACME, ACME_V6, BANK, BANK_PORT, BANK_V6, GLOBEX, INSIDE, STRANGER, World, ip};
use crate::failure::Failure;
use crate::output::{Screen, Tone};

/// New connections until both pods must have answered: the chance that one of them never does is one in 2⁶³.
const TRIES: usize = 64;
const PAUSE: Duration = Duration::from_millis(20);
const DOOR: u16 = 8080;
const SECOND_DOOR: u16 = 8081;

/// Description of a test and its result; a fault begins with the deviation.
type Told = Result<String, String>;

/// Plays the round; returns true if every test passed.
pub(super) fn play(
    world: &World,
    stage: &Stage,
    gateway: &mut Gateway,
    screen: &mut Screen,
) -> Result<bool, Failure> {
    let mut held = true;
    let mut tell = |name: &str, told: Told| -> Result<(), Failure> {
        held &= told.is_ok();
        let (sign, text) = match told {
            Ok(text) => (Tone::Good.paint("√"), text),
            Err(text) => (Tone::Bad.paint("×"), text),
        };
        screen.line(format!("{sign} {name:<11} {text}"))
    };
    tell("in", to_both_pods(world, BANK, ACME)?)?;
    tell("in, IPv6", to_both_pods(world, BANK_V6, ACME_V6)?)?;
    tell("denied", silence(&world.stranger, STRANGER, DOOR)?)?;
    tell("unmapped", silence(&world.bank, BANK, 8088)?)?;
    tell("out", leaves(world.acme(), "10.244.1.11", ACME)?)?;
    tell("out", leaves(world.globex(), "10.244.2.11", GLOBEX)?)?;
    tell("unenrolled", refused(world.unenrolled(), "10.244.9.9")?)?;
    tell("proxy in", door(world, ACME)?)?;
    tell("proxy in", door(world, GLOBEX)?)?;
    tell("proxy out", through_the_proxy(world)?)?;
    tell("change", change(world, stage)?)?;
    tell("crash", crash(world, stage, gateway)?)?;
    Ok(held)
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

fn ask(from: &Namespace, source: &str, to: SocketAddr, target: &str) -> Result<Told, Failure> {
    let (source, target) = (ip(source), target.to_owned());
    from.run(move || talk::ask(source, to, &target, PATIENCE))
}

/// Tests that connections from the bank are shared by both pods, which see the bank's own address.
fn to_both_pods(world: &World, from: &str, to: &str) -> Result<Told, Failure> {
    let (source, to) = (ip(from), at(to, DOOR));
    let heard = world.bank.run(move || answers(source, to))?;
    let expected: BTreeSet<String> =
        ["shop-1", "shop-2"].map(|pod| format!("{pod} saw {source}")).into();
    Ok(match heard {
        Ok(heard) => {
            let said = heard.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let text = format!("{from} -> {to}: {said}");
            if heard == expected { Ok(text) } else { Err(text) }
        }
        Err(why) => Err(format!("{from} -> {to}: {why}")),
    })
}

/// Returns the distinct answers to new connections, until there are two.
fn answers(from: IpAddr, to: SocketAddr) -> Result<BTreeSet<String>, String> {
    let mut heard = BTreeSet::new();
    for _ in 0..TRIES {
        heard.insert(talk::ask(from, to, "/", PATIENCE)?);
        if heard.len() > 1 {
            break;
        }
    }
    Ok(heard)
}

fn silence(at_home: &Namespace, from: &str, port: u16) -> Result<Told, Failure> {
    let (source, to) = (ip(from), at(ACME, port));
    let heard = at_home.run(move || talk::ask(source, to, "/", SILENCE))?;
    Ok(match heard {
        Err(why) if why == "no answer" => Ok(format!("{from} -> {to}: dropped, no answer")),
        Err(why) => Err(format!("{from} -> {to}: {why}, instead of silence")),
        Ok(answer) => Err(format!("{from} -> {to}: {answer}, instead of silence")),
    })
}

/// Checks that the bank saw this address.
fn seen(text: &str, answer: Told, address: &str) -> Told {
    match answer {
        Ok(said) if said == format!("the bank saw {address}") => Ok(format!("{text}: {said}")),
        Ok(said) | Err(said) => Err(format!("{text}: {said}, instead of {address}")),
    }
}

fn leaves(pod: &Namespace, source: &str, address: &str) -> Result<Told, Failure> {
    let to = at(BANK, BANK_PORT);
    let answer = ask(pod, source, to, "/")?;
    Ok(seen(&format!("pod {source} -> {to}"), answer, address))
}

fn refused(pod: &Namespace, source: &str) -> Result<Told, Failure> {
    let to = at(BANK, BANK_PORT);
    Ok(match ask(pod, source, to, "/")? {
        Ok(said) => Err(format!("pod {source} -> {to}: {said}")),
        Err(why) => Ok(format!("pod {source} -> {to}: refused, {why}")),
    })
}

/// Tests the tenant's own proxy listener, whose upstream is the bank.
fn door(world: &World, address: &str) -> Result<Told, Failure> {
    let to = at(address, 80);
    let answer = ask(&world.bank, BANK, to, "/pay")?;
    Ok(seen(&format!("http://{address}/pay"), answer, address))
}

fn through_the_proxy(world: &World) -> Result<Told, Failure> {
    let (proxy, source) = (at(INSIDE, 3128), "10.244.1.11");
    let bank = ask(world.acme(), source, proxy, &format!("http://{BANK}:{BANK_PORT}/"))?;
    let elsewhere = ask(world.acme(), source, proxy, &format!("http://{STRANGER}:{BANK_PORT}/"))?;
    let told = seen(&format!("-x http://{proxy} http://{BANK}:{BANK_PORT}/"), bank, ACME);
    Ok(match elsewhere {
        Err(why) if why.starts_with("403") => told.map(|told| format!("{told}; nowhere else")),
        Ok(said) | Err(said) => {
            Err(format!("-x http://{proxy} http://{STRANGER}:{BANK_PORT}/: {said}"))
        }
    })
}

/// Tests that a port added to the document is added to the kernel, and removed with it.
fn change(world: &World, stage: &Stage) -> Result<Told, Failure> {
    let (name, document) = DOCUMENTS[0];
    let changed =
        document.replace("    - {port: 8080}\n", "    - {port: 8080}\n    - {port: 8081}\n");
    let to = at(ACME, SECOND_DOOR);
    let open = |patience| {
        let source = ip(BANK);
        world.bank.run(move || talk::ask(source, to, "/", patience).is_ok())
    };
    if changed == document || open(SILENCE)? {
        return Ok(Err(format!("{to} is open before {name} says so")));
    }
    stage.edit(name, &changed)?;
    let begin = Instant::now();
    while !open(Duration::from_millis(200))? {
        if begin.elapsed() > PATIENCE {
            return Ok(Err(format!("{name}: a port was added, and {to} is still closed")));
        }
    }
    let served = begin.elapsed();
    stage.edit(name, document)?;
    let begin = Instant::now();
    while open(Duration::from_millis(200))? {
        if begin.elapsed() > PATIENCE {
            return Ok(Err(format!("{name}: a port was taken away, and {to} is still open")));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(Ok(format!(
        "{name}: port {SECOND_DOOR} added, served {} ms later; taken away, gone",
        served.as_millis()
    )))
}

/// Tests a crash: the gateway is killed during a connection; the kernel carries that one and new ones, also after the restart.
fn crash(world: &World, stage: &Stage, gateway: &mut Gateway) -> Result<Told, Failure> {
    let (source, to) = (ip(BANK), at(ACME, DOOR));
    let opened = world.bank.run(move || Connection::open(source, to, PATIENCE))?;
    let mut connection = match opened {
        Ok(connection) => connection,
        Err(why) => return Ok(Err(format!("before the crash, {to}: {why}"))),
    };
    let mut steps = vec![("before the crash", connection.ask("/"))];
    gateway.kill()?;
    steps.push(("the open connection without a gateway", connection.ask("/")));
    steps.push(("a new one without a gateway", ask(&world.bank, BANK, to, "/")?));
    steps.push((
        "egress of a pod without a gateway",
        ask(world.acme(), "10.244.1.11", at(BANK, BANK_PORT), "/")?,
    ));
    let proxied = ask(&world.bank, BANK, at(ACME, 80), "/pay")?;
    if proxied.is_ok() {
        return Ok(Err("the gateway was killed and its proxy still answers".to_owned()));
    }
    *gateway = Gateway::start(stage)?;
    steps.push(("the open connection after the restart", connection.ask("/")));
    steps.push(("a new one after the restart", ask(&world.bank, BANK, to, "/")?));
    steps.push(("the proxy after the restart", ask(&world.bank, BANK, at(ACME, 80), "/pay")?));
    let failed =
        steps.into_iter().find_map(|(what, told)| Some(format!("{what}: {}", told.err()?)));
    Ok(failed.map_or_else(
        || {
            Ok("gateway killed: the open connection and new ones go on, also after its restart"
                .to_owned())
        },
        Err,
    ))
}
