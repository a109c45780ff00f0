//! `durward api`: checks of hosted API servers, and what their clients need.

mod check;
mod dns;
mod endpoints;
mod kubeconfig;
mod routes;

use durward_kube::{Clients, Limits, Location};

use crate::app::sentence;
use crate::cli::{Api, ApiHandBack};
use crate::failure::{Exit, Failure};
use crate::output::Screen;

/// Runs the subcommand.
pub(crate) fn api(arguments: &Api) -> Result<Exit, Failure> {
    match arguments {
        Api::Check(arguments) => check::check(arguments),
        Api::Kubeconfig(arguments) => kubeconfig::kubeconfig(arguments),
        Api::Dns(arguments) => dns::dns(arguments),
        Api::Hosts(arguments) => dns::hosts(arguments),
        Api::Routes(arguments) => routes::routes(arguments),
        Api::HandBack(arguments) => hand_back(arguments),
    }
}

/// Gives the endpoints of `kubernetes` back.
fn hand_back(arguments: &ApiHandBack) -> Result<Exit, Failure> {
    let location = Location::infer(arguments.kubeconfig.clone(), None);
    let changed = runtime()?.block_on(async {
        let clients = clients(location).await?;
        let changed = durward_kube::slice::hand_back(&clients.write).await;
        changed.map_err(|error| unreachable(&error))
    })?;
    let mut screen = Screen::stdout();
    if changed.is_empty() {
        screen.line(
            "nothing to give back: no proxy has written the endpoints of default/kubernetes",
        )?;
    }
    for (kind, name) in changed {
        screen.line(format!("gave back {kind} default/{name}"))?;
    }
    Ok(Exit::Ok)
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::broken("starting", error))
}

async fn clients(location: Location) -> Result<Clients, Failure> {
    let clients = Clients::new(location, Limits::default()).await;
    clients.map_err(|error| {
        let message = format!("cannot use the kubeconfig: {}", sentence(&error));
        Failure::InvalidConfig { message }
    })
}

fn unreachable(error: &durward_kube::request::ApiError) -> Failure {
    let message = format!("the API server of the tenant's cluster: {error}");
    match error.is_passing() {
        true => Failure::Unreachable { message },
        false => Failure::broken("reading the endpoints of default/kubernetes", message),
    }
}
