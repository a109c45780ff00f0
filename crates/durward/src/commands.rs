//! One file per command; each takes its arguments and returns an exit status.

mod agent;
mod api;
mod api_addons;
mod api_proxy;
mod audit;
mod certs;
mod check;
mod completions;
mod crds;
mod demo;
mod egress;
pub(crate) mod explain;
mod init;
mod kube;
mod lab;
mod migrate;
mod nat;
mod prove;
mod run;
mod schema;
mod tenant;
mod top;
mod validate;
mod version;
mod who;

use crate::cli::{Cli, Command};
use crate::failure::{Exit, Failure};

/// Runs the command.
pub(crate) fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    let log = cli.log_format;
    match cli.command {
        Command::Demo(arguments) => demo::demo(&arguments, log),
        Command::Lab(arguments) => lab::lab(&arguments, log),
        Command::Run(arguments) => run::run(&arguments, log),
        Command::Agent(arguments) => agent::agent(&arguments, log),
        Command::Init(arguments) => init::init(&arguments),
        Command::Kube(arguments) => kube::kube(&arguments, log),
        Command::Validate(arguments) => validate::validate(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Check(arguments) => check::check(*arguments),
        Command::Top(arguments) => top::top(&arguments),
        Command::Who(arguments) => who::who(&arguments),
        Command::Audit(arguments) => audit::audit(&arguments),
        Command::Nat(arguments) => nat::nat(&arguments, log),
        Command::Certs(arguments) => certs::certs(&arguments),
        Command::Tenant(arguments) => tenant::tenant(&arguments),
        Command::Prove(arguments) => prove::prove(&arguments),
        Command::Egress(arguments) => egress::egress(&arguments),
        Command::ApiProxy(arguments) => api_proxy::api_proxy(&arguments, log),
        Command::ApiAddons(arguments) => api_addons::api_addons(&arguments, log),
        Command::Api(arguments) => api::api(&arguments),
        Command::Migrate(arguments) => migrate::migrate(&arguments),
        Command::Schema => schema::schema(),
        Command::Crds(arguments) => crds::run(&arguments),
        Command::Completions(arguments) => completions::completions(&arguments),
        Command::Version(arguments) => version::version(&arguments),
    }
}
