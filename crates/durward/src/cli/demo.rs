//! Arguments of `durward demo` and `durward lab`.

use clap::Args;

/// `durward demo`
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Print the configuration the demo would serve, and end
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Send nothing; wait for requests
    #[arg(long)]
    pub(crate) no_traffic: bool,
    /// Send one request per tenant, print what the partner saw, and end
    #[arg(long, conflicts_with = "no_traffic")]
    pub(crate) once: bool,
}

/// `durward lab`
#[derive(Args, Debug)]
pub(crate) struct Lab {
    /// Print the configuration the lab serves, and end
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Try everything once, print what happened, and end: code 0 when all of it held
    #[arg(long)]
    pub(crate) once: bool,
    /// This is the process inside
    #[arg(long, hide = true)]
    pub(crate) inside: bool,
}
