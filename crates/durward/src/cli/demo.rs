//! Arguments of `durward demo` and `durward lab`.

use clap::Args;

/// `durward demo`
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Print the demo's configuration and exit
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Send no requests; only serve yours until interrupted
    #[arg(long)]
    pub(crate) no_traffic: bool,
    /// Send one request per tenant, print what the partner saw, and exit
    #[arg(long, conflicts_with = "no_traffic")]
    pub(crate) once: bool,
}

/// `durward lab`
#[derive(Args, Debug)]
pub(crate) struct Lab {
    /// Print the lab's configuration and exit
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Try everything once, print the results, and exit with code 0 if all was as expected
    #[arg(long)]
    pub(crate) once: bool,
    /// This is the process inside
    #[arg(long, hide = true)]
    pub(crate) inside: bool,
}
