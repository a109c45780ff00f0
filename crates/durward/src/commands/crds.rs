//! `durward crds`: the definitions of our kinds for a Kubernetes API server.

use crate::failure::{Exit, Failure};
use crate::output::Screen;

/// Prints them as YAML.
pub(crate) fn run() -> Result<Exit, Failure> {
    let yaml = durward_kube::crds::yaml();
    let yaml = yaml.map_err(|error| Failure::broken("writing the definitions", error))?;
    Screen::stdout().text(&yaml)?;
    Ok(Exit::Ok)
}
