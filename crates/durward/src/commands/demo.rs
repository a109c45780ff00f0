//! `durward demo`: three tenants and a partner on loopback addresses, with the real gateway between them.
//!
//! Everything lives in one process and one temporary directory. Deliberately absent: simulation; every request goes through real sockets and real
//! TLS.

mod bank;
mod caller;
mod screen;
mod shop;
mod stage;

use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use durward_control::RoutingJsonOptions;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::{Gateway, Logs, Settings};
use crate::cli::{AccessLog, Demo, LogFormat};
use crate::failure::{Exit, Failure};
use crate::output::{Screen, Tone};
use crate::{admin, telemetry};
use bank::Ledger;
use caller::Caller;
use screen::Live;
use stage::{ACME, GLOBEX, NAMES, Ports, SHARED, Stage};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Time for open connections to finish.
const GRACE: Duration = Duration::from_secs(2);

/// Runs the demo until it is interrupted, or once.
pub(crate) fn demo(arguments: &Demo, log: LogFormat) -> Result<Exit, Failure> {
    let mut screen = Screen::stdout();
    if arguments.print_config {
        for (_, text) in stage::documents(&Ports::WISHED) {
            screen.text(&format!("---\n{text}"))?;
        }
        return Ok(Exit::Ok);
    }
    // Log lines would break the live table of a terminal, which itself shows a bad edit.
    telemetry::start(log, if std::io::stdout().is_terminal() { "off" } else { "error" });
    let stage = Stage::build()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::broken("starting", error))?;
    let ended = runtime.block_on(perform(arguments, &stage, screen));
    runtime.shutdown_background();
    ended
}

async fn perform(arguments: &Demo, stage: &Stage, screen: Screen) -> Result<Exit, Failure> {
    let interrupted = interruption()?;
    let stopped = CancellationToken::new();
    let at = |port| SocketAddr::new(HERE, port);
    let certificates = stage.certificate("");
    let ledger = bank::open(at(stage.ports.bank), &certificates, stopped.clone()).await?;
    shop::open(at(stage.ports.shop), stopped.clone()).await?;
    let gateway = Gateway::start(settings(stage))?;
    gateway.watch()?;
    admin_interface(stage, &gateway, &stopped).await?;

    let ended = if arguments.once {
        once(stage, screen).await
    } else {
        live(arguments, stage, screen, &gateway, &ledger, interrupted).await
    };
    let gateway = Arc::clone(&gateway);
    // A panic while draining does not change the demo's result.
    drop(tokio::task::spawn_blocking(move || gateway.drain(GRACE)).await);
    stopped.cancel();
    ended
}

fn settings(stage: &Stage) -> Settings {
    Settings {
        paths: vec![stage.path().to_owned()],
        routing: RoutingJsonOptions::default(),
        files_roots: Vec::new(),
        workers: 2,
        logs: Logs::access(AccessLog::Off),
        memory: None,
        drain_grace: GRACE,
        drain_delay: Duration::ZERO,
        watch: true,
        strict: true,
        state_dir: None,
        handed: None,
        sockets: Vec::new(),
        shared: false,
        direct_networks: Vec::new(),
        acme: None,
        cluster: None,
        nat: durward_nat::Options::default(),
    }
}

async fn admin_interface(
    stage: &Stage,
    gateway: &Arc<Gateway>,
    stopped: &CancellationToken,
) -> Result<(), Failure> {
    let address = SocketAddr::new(HERE, stage.ports.admin);
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| {
        Failure::broken(format!("opening the admin interface at {address}"), error)
    })?;
    tokio::spawn(admin::serve(listener, Arc::clone(gateway), stopped.clone().cancelled_owned()));
    Ok(())
}

/// Completes when the demo should end: Ctrl-C, SIGTERM, or the terminal is closed.
pub(super) fn interruption() -> Result<impl Future<Output = ()>, Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::broken("listening for signals", error));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

async fn live(
    arguments: &Demo,
    stage: &Stage,
    mut screen: Screen,
    gateway: &Gateway,
    ledger: &Ledger,
    interrupted: impl Future<Output = ()>,
) -> Result<Exit, Failure> {
    screen::introduce(&mut screen, stage)?;
    let traffic = CancellationToken::new();
    let _quiet = traffic.clone().drop_guard();
    if !arguments.no_traffic {
        let acme = Caller::new(
            SocketAddr::new(ACME, stage.ports.gateway),
            &stage.certificate(""),
            Some("partner"),
        )?;
        let globex = Caller::new(
            SocketAddr::new(GLOBEX, stage.ports.gateway),
            &stage.certificate(""),
            None,
        )?;
        tokio::spawn(
            traffic.clone().run_until_cancelled_owned(keep_asking(acme, Duration::from_millis(90))),
        );
        tokio::spawn(
            traffic
                .clone()
                .run_until_cancelled_owned(keep_asking(globex, Duration::from_millis(210))),
        );
    }
    let mut live = Live::new(screen);
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    tokio::pin!(interrupted);
    loop {
        tokio::select! {
            () = &mut interrupted => return Ok(Exit::Ok),
            _ = seconds.tick() => live.tick(gateway, ledger)?,
        }
    }
}

async fn keep_asking(mut caller: Caller, every: Duration) {
    let mut beats = tokio::time::interval(every);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        // A refused request shows in the table and in the metrics; the demo goes on.
        drop(caller.get("/pay").await);
    }
}

/// Sends one request per tenant and one that must be refused; prints the results.
async fn once(stage: &Stage, mut screen: Screen) -> Result<Exit, Failure> {
    let certificates = stage.certificate("");
    let at = |ip| SocketAddr::new(ip, stage.ports.gateway);
    let mut good = true;
    for (name, ip, shown) in [("acme", ACME, Some("partner")), ("globex", GLOBEX, None)] {
        let answer = Caller::new(at(ip), &certificates, shown)?.get("/pay").await;
        let expected = answer
            .as_ref()
            .is_ok_and(|(status, body)| *status == 200 && body.contains(&format!("saw {ip}")));
        let told =
            answer.map_or_else(|error| error, |(status, body)| format!("{status} {}", body.trim()));
        good &= expected;
        screen.line(format!("{} {name:<9} https://{}/pay  {told}", sign(expected), at(ip)))?;
    }
    for (tenant, name) in NAMES {
        let caller = Caller::new(at(SHARED), &certificates, None)?;
        let (line, served) = by_name(tenant, name, caller.named(name)).await;
        good &= served;
        screen.line(line)?;
    }
    let (outward, left) = out(stage, &certificates).await?;
    good &= left;
    screen.line(outward)?;
    let stranger = Caller::new(at(ACME), &certificates, None)?.get("/pay").await;
    let refused = stranger.is_err();
    let told = stranger.map_or_else(
        |error| format!("refused: {error}"),
        |(status, _)| format!("{status}: admitted"),
    );
    screen.line(format!("{} stranger  https://{}/pay  {told}", sign(refused), at(ACME)))?;
    Ok(if good && refused { Exit::Ok } else { Exit::FailedCheck })
}

/// Sends one request to the address that two tenants share, by the name of one of them.
async fn by_name(tenant: &str, name: &str, mut caller: Caller) -> (String, bool) {
    let answer = caller.get("/").await;
    let served = answer.as_ref().is_ok_and(|(status, _)| *status == 200);
    let told = answer.map_or_else(|error| error, |(status, _)| format!("{status}, at {SHARED}"));
    (format!("{} {tenant:<9} https://{name}/  {told}", sign(served)), served)
}

/// Sends one request through acme's forward proxy to the bank, and asks for one tunnel that must be denied.
async fn out(stage: &Stage, certificates: &std::path::Path) -> Result<(String, bool), Failure> {
    let proxy = SocketAddr::new(ACME, stage.ports.proxy);
    let to = |port| SocketAddr::new(HERE, port);
    let caller = |target| Caller::new(target, certificates, None).map(|one| one.through(proxy));
    let bank = to(stage.ports.bank);
    let answer = caller(bank)?.get("/pay").await;
    let shop = caller(to(stage.ports.shop))?.get("/").await;
    let expected = answer
        .as_ref()
        .is_ok_and(|(status, body)| *status == 200 && body.contains(&format!("saw {ACME}")));
    let denied = shop.as_ref().is_err_and(|told| told.contains("403"));
    let told =
        answer.map_or_else(|error| error, |(status, body)| format!("{status} {}", body.trim()));
    let good = expected && denied;
    let elsewhere = if denied { "nowhere else" } else { "but elsewhere too" };
    let line = format!(
        "{} proxy     -x http://{proxy} https://{bank}/pay  {told}; {elsewhere}",
        sign(good)
    );
    Ok((line, good))
}

fn sign(good: bool) -> String {
    if good { Tone::Good.paint("√") } else { Tone::Bad.paint("×") }
}
