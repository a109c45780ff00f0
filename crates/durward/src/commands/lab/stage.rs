//! Directory of the lab: its two documents, and shell functions to enter its namespaces; removed when the lab ends.

use std::path::{Path, PathBuf};

use super::world::{self, World};
use crate::authority::write;
use crate::failure::Failure;

/// Documents by the names of their files.
pub(super) const DOCUMENTS: [(&str, &str); 2] =
    [("acme.yaml", include_str!("acme.yaml")), ("globex.yaml", include_str!("globex.yaml"))];

/// Options of the gateway's host, also as variables.
pub(super) const HOST: [(&str, &str); 4] = [
    ("external", "ext[0-9]+"),
    ("gateway", "ext1=203.0.113.254,ext1=2001:db8:1::254,ext2=198.51.100.254,ext2=2001:db8:2::254"),
    ("cluster", "10.244.0.0/16,fd00:244::/48"),
    ("cluster-address", world::INSIDE),
];

/// Directory of the lab, which the process outside removes.
pub(super) struct Stage {
    dir: PathBuf,
    /// Id of the process outside, by which other programs enter the gateway's namespaces.
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

    /// Returns the directory.
    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    /// Returns the directory of documents.
    pub(super) fn documents(&self) -> PathBuf {
        self.path().join("documents")
    }

    /// Changes a document as an editor does: a new file replaces the old one.
    pub(super) fn edit(&self, name: &str, text: &str) -> Result<(), Failure> {
        write(&self.documents().join(name), text, 0o644, true)
    }

    /// Stores the process id of the gateway.
    pub(super) fn note_process(&self, process: &str) -> Result<(), Failure> {
        write(&self.path().join("gateway.pid"), process, 0o644, true)
    }

    /// Returns commands that need no shell functions.
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

    /// Returns shell functions that shorten the commands.
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
