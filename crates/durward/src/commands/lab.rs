//! `durward lab`: partners, a gateway with two external interfaces, and pods, in network namespaces of their own and with real packets.
//!
//! The lab shows on real addresses, with nftables, what the demo shows on loopback. Deliberately absent: running other programs (`ip`, `nft`), and
//! anything outside those namespaces except one temporary directory.

mod enter;
mod gateway;
mod namespace;
mod round;
mod stage;
mod talk;
mod world;

use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::cli::{Lab, LogFormat};
use crate::commands::demo::interruption;
use crate::failure::{Exit, Failure};
use crate::output::{Screen, Table, Tone, plain};
use crate::telemetry;
use gateway::Gateway;
use stage::Stage;
use world::World;

/// Interval of checks that the gateway still runs, and the pause before it is started again after a kill.
const LOOK: Duration = Duration::from_millis(300);
const AWAY: Duration = Duration::from_secs(5);

/// Runs the lab until it is interrupted, or once.
pub(crate) fn lab(arguments: &Lab, log: LogFormat) -> Result<Exit, Failure> {
    if arguments.print_config {
        let mut screen = Screen::stdout();
        for (_, text) in stage::DOCUMENTS {
            screen.text(&format!("---\n{text}"))?;
        }
        return Ok(Exit::Ok);
    }
    if !arguments.inside {
        return enter::again_inside();
    }
    // Killing the program outside ends all of the lab.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::broken("tying this process to its parent", error))?;
    telemetry::start(log, "error");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::broken("starting", error))?;
    let ended = runtime.block_on(perform(arguments));
    runtime.shutdown_background();
    ended
}

async fn perform(arguments: &Lab) -> Result<Exit, Failure> {
    let interrupted = interruption()?;
    tokio::pin!(interrupted);
    let world = World::build()?;
    let directory = tempfile::Builder::new()
        .prefix("durward-lab-")
        .tempdir()
        .map_err(|error| Failure::broken("making a temporary directory", error))?;
    let stage = Stage::build(&world, directory.path())?;
    let mut gateway = Gateway::start(&stage)?;
    let mut screen = Screen::stdout();
    if !arguments.once {
        introduce(&mut screen, &stage)?;
    }
    let playing = tokio::task::spawn_blocking(move || {
        let held = round::play(&world, &stage, &mut gateway, &mut screen);
        held.map(|held| (held, world, stage, gateway, screen))
    });
    let (held, world, stage, gateway, mut screen) = tokio::select! {
        () = &mut interrupted => return Ok(Exit::Ok),
        played = playing => played.map_err(|error| Failure::broken("playing a round", error))??,
    };
    if arguments.once {
        return Ok(if held { Exit::Ok } else { Exit::FailedCheck });
    }
    suggest(&mut screen, &world, &stage)?;
    stay(&mut screen, &stage, gateway, interrupted).await
}

/// Waits for the end; a gateway that was killed is started again after a pause.
async fn stay(
    screen: &mut Screen,
    stage: &Stage,
    mut gateway: Gateway,
    interrupted: impl Future<Output = ()>,
) -> Result<Exit, Failure> {
    tokio::pin!(interrupted);
    loop {
        tokio::select! {
            () = &mut interrupted => return Ok(Exit::Ok),
            () = tokio::time::sleep(LOOK) => {}
        }
        let Some(how) = gateway.ended() else { continue };
        screen.line(format!(
            "the gateway has ended ({how}); the kernel goes on forwarding, and the gateway is started again in {} s",
            AWAY.as_secs()
        ))?;
        tokio::select! {
            () = &mut interrupted => return Ok(Exit::Ok),
            () = tokio::time::sleep(AWAY) => {}
        }
        gateway = Gateway::start(stage)?;
        screen.line(format!("the gateway serves again, as process {}", gateway.process()))?;
    }
}

fn introduce(screen: &mut Screen, stage: &Stage) -> Result<(), Failure> {
    screen.line(format!(
        "{} {} · two tenants, one gateway, one bank, in namespaces of their own · state in {} (removed on exit)",
        Tone::Bold.paint("durward lab"),
        env!("CARGO_PKG_VERSION"),
        stage.path().display()
    ))?;
    screen.line("")?;
    for line in world::PICTURE {
        screen.line(line)?;
    }
    screen.line("")?;
    let mut table = Table::new(&["TENANT", "ADDRESS", "INTERFACE", "PODS"]);
    for (name, address, interface, pods) in [
        ("acme", world::ACME, "ext1", "10.244.1.11, 10.244.1.12"),
        ("globex", world::GLOBEX, "ext2", "10.244.2.11"),
    ] {
        table.row(vec![
            (name.to_owned(), Tone::Bold),
            plain(address),
            plain(interface),
            plain(pods),
        ]);
    }
    table.print(screen)?;
    screen.line("")
}

fn suggest(screen: &mut Screen, world: &World, stage: &Stage) -> Result<(), Failure> {
    let dir = stage.path().display();
    screen.line("")?;
    screen.line("Try in another terminal:")?;
    for line in [
        format!(". {dir}/env"),
        format!(
            "bank curl -s http://{}:8080/      # from the partner to one of acme's pods",
            world::ACME
        ),
        format!(
            "stranger curl -sm1 http://{}:8080/   # from a source that is not allowed: no answer",
            world::ACME
        ),
        format!(
            "acme curl -s http://{}:9000/        # from a pod of acme's: the bank saw {}",
            world::BANK,
            world::ACME
        ),
        format!(
            "globex curl -s http://{}:9000/      # from a pod of globex's: the bank saw {}",
            world::BANK,
            world::GLOBEX
        ),
        format!(
            "unenrolled curl -s http://{}:9000/  # from a pod of nobody's: refused",
            world::BANK
        ),
        "durward nat list                            # mappings in the kernel".to_owned(),
        format!("durward explain {}:8080 --client 192.0.2.200", world::ACME),
        format!(
            "${{EDITOR:-vi}} {}/acme.yaml; kill -9 \"$(gateway_process)\"   # edits are live, and without the gateway the kernel goes on",
            stage.documents().display()
        ),
    ] {
        screen.line(format!("  {line}"))?;
    }
    screen.line("or, without changing your shell:")?;
    for line in stage.plain_commands(world) {
        screen.line(format!("  {line}"))?;
    }
    screen.line("")?;
    screen.line(Tone::Faint.paint("Ctrl-C ends the lab and removes everything it made"))
}
