//! `durward check`: looks for anything that would keep a configuration from working on this host, and suggests a cure for each. Changes nothing.

mod addresses;
mod certificates;
mod dial;
mod documents;
mod egress;
mod host;
mod kernel;
mod mappings;
pub(crate) mod report;
mod route;
pub(crate) mod running;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cli::{Check, CheckArgs, CheckWhat};
use crate::config::Loaded;
use crate::failure::{Exit, Failure};
use crate::{inspect, live};

pub(crate) use report::{Category, Report};

/// Runs the checks and prints them.
pub(crate) fn check(arguments: Check) -> Result<Exit, Failure> {
    let (arguments, listener) = match arguments.what {
        None => (arguments.common, None),
        Some(CheckWhat::Route { listener, common }) => (common, Some(listener)),
    };
    let loaded = live::load(&arguments.config, &arguments.live)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::broken("starting", error))?;
    let kernel = kernel::check(&loaded.snapshot.nat, &arguments.nat.options()?);
    let report = runtime.block_on(async {
        match listener {
            Some(listener) => route::follow(&loaded.snapshot, listener, arguments.timeout).await,
            None => everything(&loaded, &arguments, kernel).await,
        }
    });
    report.print(arguments.format)?;
    Ok(if report.failed() { Exit::FailedCheck } else { Exit::Ok })
}

async fn everything(loaded: &Loaded, arguments: &CheckArgs, kernel: Category) -> Report {
    let snapshot = &loaded.snapshot;
    let running = running::ask(arguments.admin, Duration::from_secs(2)).await;
    let missing = addresses::missing(snapshot);
    Report::new(vec![
        documents::check(loaded),
        addresses::check(snapshot, &missing),
        addresses::ports(snapshot, &missing, &running),
        host::check(snapshot),
        kernel,
        certificates::check(snapshot, inspect::now()),
        egress::check(snapshot),
        dial::check(snapshot, &missing, arguments.timeout).await,
        mappings::check(snapshot, arguments.timeout).await,
        running::check(arguments.admin, &running, snapshot),
    ])
}

/// Addresses of a configuration that are not on this host.
pub(crate) type Missing = BTreeSet<std::net::IpAddr>;
