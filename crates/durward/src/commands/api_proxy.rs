//! `durward api-proxy`: the proxy inside a tenant's cluster, until a termination signal.

mod admin;
mod settings;
mod slice;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use durward_apiproxy::Proxy;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cli::{Admin, ApiProxy, LogFormat};
use crate::failure::{Exit, Failure};
use crate::telemetry;
use slice::Slice;

/// Time between two looks at what nobody reports a change of.
const LOOK: Duration = Duration::from_millis(500);
/// Time for the endpoints to lead elsewhere before the proxy stops in spite of them.
const WITHDRAWAL: Duration = Duration::from_secs(10);

/// Serves until a signal arrives.
pub(crate) fn api_proxy(arguments: &ApiProxy, log: LogFormat) -> Result<Exit, Failure> {
    telemetry::start(log, "info,rustls=error");
    // The bounds on connections follow from it.
    crate::app::raise_descriptor_limit();
    let settings = settings::settings(arguments)?;
    settings::check_addresses(arguments)?;
    if let Some(device) = &arguments.device {
        durward_nat::local_address::ensure(device, &arguments.advertise_address)
            .map_err(|fault| Failure::broken("advertising the address", fault))?;
    }
    let listeners = listen(arguments)?;
    let admin = match arguments.admin {
        Admin::Off => None,
        Admin::At(address) => Some(bind("the admin listener", address)?),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::broken("starting", error))?;
    let ended = runtime.block_on(async {
        let signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
        let [terminate, interrupt] = signals;
        let fault = |error| Failure::broken("listening for signals", error);
        let signals =
            Signals { terminate: terminate.map_err(fault)?, interrupt: interrupt.map_err(fault)? };
        let proxy = Proxy::start(settings, listeners)
            .map_err(|error| Failure::InvalidConfig { message: crate::app::sentence(&error) })?;
        let running = Running::start(arguments, proxy).await?;
        running.serve(arguments, admin, signals).await
    });
    // A look-up of a name may hang in a thread of the runtime.
    runtime.shutdown_background();
    ended
}

fn listen(arguments: &ApiProxy) -> Result<Vec<TcpListener>, Failure> {
    arguments.listen().into_iter().map(|address| bind("the proxy's listener", address)).collect()
}

fn bind(what: &str, address: std::net::SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .map_err(|error| Failure::broken(format!("opening {what} at {address}"), error))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// State of the proxy for the admin listener.
pub(super) struct Running {
    proxy: Proxy,
    slice: Option<Slice>,
    draining: watch::Sender<bool>,
    /// Whether this proxy can serve: told to the keeper of the slice.
    ready: watch::Sender<bool>,
}

impl Running {
    async fn start(arguments: &ApiProxy, proxy: Proxy) -> Result<Arc<Self>, Failure> {
        let ready = watch::Sender::new(false);
        let slice = match arguments.keeps_slice() {
            true => Some(Slice::start(arguments, ready.subscribe()).await?),
            false => None,
        };
        Ok(Arc::new(Self { proxy, slice, draining: watch::Sender::new(false), ready }))
    }

    async fn serve(
        self: Arc<Self>,
        arguments: &ApiProxy,
        admin: Option<TcpListener>,
        mut signals: Signals,
    ) -> Result<Exit, Failure> {
        let stopped = CancellationToken::new();
        let following = Arc::clone(&self).follow_readiness();
        tokio::spawn(stopped.clone().run_until_cancelled_owned(following));
        let admin = match admin {
            Some(listener) => Some(admin::serve(listener, Arc::clone(&self), stopped.clone())?),
            None => None,
        };
        tracing::info!(listen = ?arguments.listen(), server_name = arguments.server_name, "serving");
        signals.stop().await;
        tracing::info!(connections = self.proxy.metrics().open(), "draining");
        self.draining.send_replace(true);
        // A second signal cuts the waiting short.
        tokio::select! {
            () = self.withdraw(arguments.drain_delay) => {}
            () = signals.stop() => {}
        }
        tokio::select! {
            () = self.proxy.drain(arguments.drain_grace) => {}
            () = signals.stop() => {}
        }
        stopped.cancel();
        if let Some(admin) = admin {
            // Only a hanging scrape could block this; it ends with the process.
            drop(timeout(Duration::from_secs(1), admin).await);
        }
        Ok(Exit::Ok)
    }

    /// Waits until no endpoint leads here, and for `delay` after that: nodes learn of a change a little later than we do.
    async fn withdraw(&self, delay: Duration) {
        if let Some(slice) = &self.slice
            && timeout(WITHDRAWAL, slice.withdrawn()).await.is_err()
        {
            tracing::warn!(
                "the endpoints of default/kubernetes still lead here: stopping all the same"
            );
        }
        tokio::time::sleep(delay).await;
    }

    async fn follow_readiness(self: Arc<Self>) {
        let mut draining = self.draining.subscribe();
        loop {
            let ready = self.can_serve();
            self.ready.send_if_modified(|before| std::mem::replace(before, ready) != ready);
            tokio::select! {
                () = self.proxy.gateways().changed() => {}
                _ = draining.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Returns whether a connection that is accepted now would be served.
    fn can_serve(&self) -> bool {
        !*self.draining.borrow() && self.proxy.gateways().is_ready()
    }
}
