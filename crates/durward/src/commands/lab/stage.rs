//! The lab's directory: its two documents, and words for a shell to get into its namespaces; gone when the lab ends.
//!
//! Deliberately absent: anything outside that directory.

use std::path::{Path, PathBuf};

use super::world::{self, World};
use crate::authority::write;
use crate::failure::Failure;

/// The documents by their files' names.
pub(super) const DOCUMENTS: [(&str, &str); 2] =
    [("acme.yaml", include_str!("acme.yaml")), ("globex.yaml", include_str!("globex.yaml"))];

/// What the gateway is told of its host, as options and as variables.
pub(super) const HOST: [(&str, &str); 4] = [
    ("external", "ext[0-9]+"),
    ("gateway", "ext1=203.0.113.254,ext1=2001:db8:1::254,ext2=198.51.100.254,ext2=2001:db8:2::254"),
    ("cluster", "10.244.0.0/16,fd00:244::/48"),
    ("cluster-address", world::INSIDE),
];

/// The directory, which somebody else removes.
pub(super) struct Stage {
    dir: PathBuf,
    /// The process outside, by which others enter the gateway's namespaces.
    entrance: String,
}

impl Stage {
    /// Fills an empty directory.
    pub(super) fn build(world: &World, dir: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::broken("filling the lab's directory", error);
        let own = std::fs::read_link("/proc/self").map_err(failed)?;
        let stage = Self { dir: dir.to_owned(), entrance: own.display().to_string() };
        std::fs::create_dir(stage.documents()).map_err(failed)?;
        for (name, text) in DOCUMENTS {
            write(&stage.documents().join(name), text, 0o644, false)?;
        }
        write(&stage.path().join("env"), &stage.environment(world), 0o644, false)?;
        Ok(stage)
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    /// The directory of documents.
    pub(super) fn documents(&self) -> PathBuf {
        self.path().join("documents")
    }

    /// Changes a document the way an editor does: a new file takes the old one's name.
    pub(super) fn edit(&self, name: &str, text: &str) -> Result<(), Failure> {
        write(&self.documents().join(name), text, 0o644, true)
    }

    /// Notes which process the gateway is.
    pub(super) fn note_process(&self, process: &str) -> Result<(), Failure> {
        write(&self.path().join("gateway.pid"), process, 0o644, true)
    }

    /// Commands that need no shell functions.
    pub(super) fn plain_commands(&self, world: &World) -> Vec<String> {
        let enter = |thread: &str| format!("nsenter -U -n --preserve-credentials -t {thread}");
        let documents = self.documents();
        let (gateway, documents) = (enter(&self.entrance), documents.display());
        vec![
            format!("{} curl -s http://{}:8080/", enter(world.bank.thread()), world::ACME),
            format!("{gateway} {} nat list -c {documents} {}", program(), options()),
            format!(
                "{} explain -c {documents} {}:8080 --client {}",
                program(),
                world::ACME,
                world::BANK
            ),
        ]
    }

    /// Shell functions that make the commands short.
    fn environment(&self, world: &World) -> String {
        let dir = self.path().display();
        let variables: String = HOST
            .iter()
            .map(|(name, value)| {
                let name = name.replace('-', "_").to_uppercase();
                format!("export DURWARD_NAT_{name}='{value}'\n")
            })
            .collect();
        format!(
            "# Read this into a shell: . {dir}/env\n\
             export DURWARD_CONFIG='{documents}'\n{variables}\
             within() {{ nsenter -U -n --preserve-credentials -t \"$@\"; }}\n\
             gateway() {{ within {entrance} \"$@\"; }}\n\
             gateway_process() {{ cat '{dir}/gateway.pid'; }}\n\
             durward() {{ gateway '{program}' \"$@\"; }}\n\
             bank() {{ within {bank} \"$@\"; }}\n\
             stranger() {{ within {stranger} \"$@\"; }}\n\
             acme() {{ within {acme} \"$@\"; }}\n\
             globex() {{ within {globex} \"$@\"; }}\n\
             unenrolled() {{ within {unenrolled} \"$@\"; }}\n",
            documents = self.documents().display(),
            entrance = self.entrance,
            program = program(),
            bank = world.bank.thread(),
            stranger = world.stranger.thread(),
            acme = world.acme().thread(),
            globex = world.globex().thread(),
            unenrolled = world.unenrolled().thread(),
        )
    }
}

fn options() -> String {
    HOST.map(|(name, value)| format!("--nat-{name}='{value}'")).join(" ")
}

fn program() -> String {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("durward")).display().to_string()
}
