//! From the paths a user names to a compiled configuration, for the commands that look at one without serving it.
//!
//! Deliberately absent: watching; only `run` and `demo` do.

use std::path::PathBuf;
use std::sync::Arc;

use durward_control::compile::retained;
use durward_control::{FileSource, RoutingJsonOptions, compile};
use durward_model::{Snapshot, Verdicts};

use crate::cli::ConfigArgs;
use crate::failure::Failure;
use crate::inspect::now;
use crate::state_file;

/// A configuration compiled once.
pub(crate) struct Loaded {
    /// What would be served.
    pub(crate) snapshot: Arc<Snapshot>,
    /// What became of each document.
    pub(crate) verdicts: Verdicts,
}

/// The paths a user names: on the command line, else in `DURWARD_CONFIG`, else in seed 1's `ROUTING_CONFIG_PATH`.
pub(crate) fn paths(arguments: &ConfigArgs) -> Result<Vec<PathBuf>, Failure> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let paths = if !arguments.config.is_empty() {
        arguments.config.clone()
    } else if let Some(list) = variable("DURWARD_CONFIG") {
        std::env::split_paths(&list).collect()
    } else if let Some(path) = variable("ROUTING_CONFIG_PATH") {
        vec![PathBuf::from(path)]
    } else {
        let message = "no configuration: name it with -c FILE or -c DIR, or in DURWARD_CONFIG; `durward demo` needs none";
        return Err(Failure::usage(message));
    };
    match paths.iter().find(|path| !path.exists()) {
        Some(path) => {
            Err(Failure::InvalidConfig { message: format!("{} does not exist", path.display()) })
        }
        None => Ok(paths),
    }
}

/// What the user says about a `routing.json`.
pub(crate) fn routing(arguments: &ConfigArgs) -> RoutingJsonOptions {
    RoutingJsonOptions {
        bind: arguments.routing_bind,
        destination: arguments.routing_destination,
        trusted_proxies: arguments.routing_trusted_proxies.clone(),
        default_backend_port: arguments.routing_backend_port,
        certs_dir: arguments.routing_certs.clone(),
    }
}

/// Returns the directory in which `run` keeps claims and last good documents: where the user or else systemd says.
pub(crate) fn state_dir(arguments: &ConfigArgs) -> Option<PathBuf> {
    match &arguments.state_dir {
        Some(off) if off.as_os_str() == "off" => None,
        Some(directory) => Some(directory.clone()),
        None => std::env::split_paths(&std::env::var_os("STATE_DIRECTORY")?)
            .next()
            .filter(|directory| !directory.as_os_str().is_empty()),
    }
}

/// Builds the source of what the user names.
pub(crate) fn source(arguments: &ConfigArgs) -> FileSource {
    FileSource::new(routing(arguments)).with_files_from(&arguments.files_root)
}

/// Reads and compiles what the user names, after what a gateway with the same state directory had: whoever holds a claim there keeps it.
pub(crate) fn load(arguments: &ConfigArgs) -> Result<Loaded, Failure> {
    let (source, paths) = (source(arguments), paths(arguments)?);
    let earlier = match state_dir(arguments) {
        Some(directory) => state_file::look(&directory)?,
        None => None,
    };
    let earlier = earlier.map(|state| retained::restore(&state, &source, now()));
    let compiled = compile(&source.load(&paths), earlier.as_ref(), now());
    Ok(Loaded { snapshot: compiled.snapshot, verdicts: compiled.verdicts })
}
