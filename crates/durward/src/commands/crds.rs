//! `durward crds`: the definitions of our kinds for a Kubernetes API server, and the policies of admission.

use crate::cli::Crds;
use crate::failure::{Exit, Failure};
use crate::output::Screen;

/// Prints them as YAML.
pub(crate) fn run(arguments: &Crds) -> Result<Exit, Failure> {
    let broken = |error| Failure::broken("writing the definitions", error);
    let mut yaml = durward_kube::crds::yaml().map_err(broken)?;
    if arguments.admission {
        yaml += &durward_kube::admission::yaml(&arguments.gateway_namespace).map_err(broken)?;
    }
    Screen::stdout().text(&yaml)?;
    Ok(Exit::Ok)
}
