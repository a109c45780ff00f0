#![cfg(test)]
//! What is promised about the whole: the layers, the acceptance list, the deployment artefacts,
//! whole gateways in one process, random worlds, reloads under load; and the binary seen from outside: its command line, its admin
//! interface, its signals, its demo. Deliberately absent: tests of one crate's behaviour; they live there.

mod acceptance;
mod acme;
mod admin;
mod behind;
mod bench;
mod certificates;
mod cli;
mod demo;
mod dependencies;
mod deploy;
mod docs;
mod egress;
mod examples;
mod explained;
mod gateway;
mod handshakes;
mod hosted;
mod isolation;
mod kubernetes;
mod lab;
mod layering;
mod memory;
mod moves;
mod named;
mod nat;
mod odd_files;
mod pressed;
mod records;
mod reload;
mod replicas;
mod rotation;
mod run_log;
mod scrapes;
mod snapshot;
mod state_dir;
mod supervise;

mod support;
mod transparent;
mod truth;
mod walkthrough;

/// The root of the repository.
fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A file of the repository as text.
fn text(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
