//! Loads a compiled configuration from the user's paths, for commands that do not serve it.

use std::path::PathBuf;
use std::sync::Arc;

use durward_control::compile::retained;
use durward_control::{FileSource, Issuance, RoutingJsonOptions, compile};
use durward_model::{Snapshot, Verdicts};

use crate::cli::ConfigArgs;
use crate::failure::Failure;
use crate::inspect::now;
use crate::state_file;

/// Compiled configuration.
pub(crate) struct Loaded {
    /// Snapshot that would be served.
    pub(crate) snapshot: Arc<Snapshot>,
    /// Verdicts of the documents.
    pub(crate) verdicts: Verdicts,
}

/// Returns the paths the user names as [`paths`] does, or none where documents come from elsewhere as well.
pub(crate) fn paths_if_any(arguments: &ConfigArgs) -> Result<Vec<PathBuf>, Failure> {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let named =
        !arguments.config.is_empty() || is_set("DURWARD_CONFIG") || is_set("ROUTING_CONFIG_PATH");
    if named { paths(arguments) } else { Ok(Vec::new()) }
}

/// Returns the paths the user names: on the command line, else in `DURWARD_CONFIG`, else in `ROUTING_CONFIG_PATH`, the variable of routing.json's readers.
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

/// Converts the arguments for a `routing.json`.
pub(crate) fn routing(arguments: &ConfigArgs) -> RoutingJsonOptions {
    RoutingJsonOptions {
        bind: arguments.routing_bind,
        destination: arguments.routing_destination,
        trusted_proxies: arguments.routing_trusted_proxies.clone(),
        default_backend_port: arguments.routing_backend_port,
        certs_dir: arguments.routing_certs.clone(),
    }
}

/// Returns the directory in which `run` keeps claims and last good documents: the user's, or else systemd's.
pub(crate) fn state_dir(arguments: &ConfigArgs) -> Option<PathBuf> {
    match &arguments.state_dir {
        Some(off) if off.as_os_str() == "off" => None,
        Some(directory) => Some(directory.clone()),
        None => std::env::split_paths(&std::env::var_os("STATE_DIRECTORY")?)
            .next()
            .filter(|directory| !directory.as_os_str().is_empty()),
    }
}

/// Returns what is decided about certificates by ACME; `None` without a state directory for their files.
pub(crate) fn issuance(arguments: &ConfigArgs) -> Option<Issuance> {
    let directory = state_dir(arguments)?.join("acme");
    Some(Issuance { directory, authorities: arguments.acme_directory.clone() })
}

/// Builds the source of the user's documents.
pub(crate) fn source(arguments: &ConfigArgs) -> FileSource {
    let source = FileSource::new(routing(arguments)).with_files_from(&arguments.files_root);
    match issuance(arguments) {
        Some(issuance) => source.with_issuance(issuance),
        None => source,
    }
}

/// Loads and compiles the user's documents, after the state in the same state directory: existing holders keep their claims.
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
