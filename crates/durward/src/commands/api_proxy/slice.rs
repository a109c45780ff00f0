//! The keeper of the `kubernetes` EndpointSlice beside the proxy.

use std::fmt::Write as _;
use std::sync::Arc;

use durward_kube::object::ObjectName;
use durward_kube::slice::{Family, SliceKeeper, SliceOptions, SliceReport};
use durward_kube::{Clients, Limits, Location};
use tokio::sync::watch;

use crate::app::sentence;
use crate::cli::ApiProxy;
use crate::failure::Failure;

/// A running keeper.
pub(super) struct Slice {
    keeper: SliceKeeper,
    /// Service whose ready endpoints the proxies are, as `NAMESPACE/NAME`.
    pub(super) service: String,
}

impl Slice {
    /// Starts it. An API server that is away is no error.
    pub(super) async fn start(
        arguments: &ApiProxy,
        ready: watch::Receiver<bool>,
    ) -> Result<Self, Failure> {
        let location = Location::infer(arguments.slice.kubeconfig.clone(), None);
        let clients = Clients::new(location, Limits::default()).await.map_err(|error| {
            let message = format!("cannot use the Kubernetes API: {}", sentence(&error));
            Failure::InvalidConfig { message }
        })?;
        let (namespace, name) = &arguments.slice.service;
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let proxy = arguments.slice.proxy_name.clone().unwrap_or_else(host);
        let first = arguments.node_ip.first().map_or(Family::V4, |ip| Family::of(*ip));
        let options = SliceOptions {
            proxy: Arc::from(proxy),
            own: arguments.node_ip.iter().copied().collect(),
            port: arguments.port,
            service: ObjectName::new(namespace, name),
            excluded: arguments.service_cidr.clone(),
            primary: first,
        };
        let service = format!("{namespace}/{name}");
        Ok(Self { keeper: SliceKeeper::start(&clients, options, ready), service })
    }

    /// Returns the state.
    pub(super) fn report(&self) -> SliceReport {
        self.keeper.report().borrow().clone()
    }

    /// Waits until no endpoint leads to this proxy.
    pub(super) async fn withdrawn(&self) {
        let mut report = self.keeper.report();
        // The keeper lives as long as we do.
        drop(report.wait_for(|report| report.withdrawn).await);
    }

    /// Writes the families of metrics.
    pub(super) fn write_metrics(&self, to: &mut String) {
        let report = self.report();
        let gauges = [
            (
                "slice_right",
                "1 if the endpoints of default/kubernetes are as they should be, else 0.",
                u64::from(report.right),
            ),
            (
                "slice_contested",
                "1 if somebody else rewrites the endpoints of default/kubernetes, else 0.",
                u64::from(report.contest.is_some()),
            ),
            (
                "slice_members",
                "Ready proxies, as their Service counts them.",
                report.members as u64,
            ),
        ];
        let counters = [
            ("written", report.writes),
            ("conflict", report.conflicts),
            ("failed", report.failures),
        ];
        for (name, help, value) in gauges {
            // Writing to a String cannot fail.
            let _ = writeln!(
                to,
                "# TYPE durward_api_proxy_{name} gauge\n# HELP durward_api_proxy_{name} {help}\ndurward_api_proxy_{name} {value}"
            );
        }
        let name = "durward_api_proxy_slice_writes";
        let _ = writeln!(
            to,
            "# TYPE {name} counter\n# HELP {name} Writes to the endpoints of default/kubernetes, by result."
        );
        for (result, value) in counters {
            let _ = writeln!(to, "{name}_total{{result=\"{result}\"}} {value}");
        }
    }
}
