//! The state of a running gateway as others see it: health, the report of `/snapshot`, and metrics. Reading it changes nothing.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use durward_control::Compiled;
use durward_proxy::metrics::openmetrics::Text;
use durward_proxy::present::PresentAddresses;
use durward_proxy::proxy::{Proxy, Served};

use super::Gateway;
use crate::app::acme::Acme;
use crate::app::cluster::{self, Cluster};
use crate::app::exposition;
use crate::app::health::{Facts, Health, KernelFacts};
use crate::app::report::{self, Part, Report, Selection, Unanswerable};
use crate::inspect::now;
use crate::state_file::StateFile;

/// Time for which a reader waits until the proxy serves the configuration that was compiled last.
const PATIENCE: Duration = Duration::from_secs(2);

impl Gateway {
    /// Judges what works and what does not.
    pub(crate) fn health(&self) -> Health {
        let (view, served) = self.moment();
        self.judge(&view, served.as_ref(), self.kernel.facts().as_ref())
    }

    /// Returns the compiled configuration, and the generation that the proxy serves: the same one, unless the proxy takes longer than [`PATIENCE`] to
    /// take up a new one.
    fn moment(&self) -> (Arc<Compiled>, Option<Served>) {
        let began = Instant::now();
        loop {
            let served = self.with_proxy(Proxy::served);
            let view = self.view();
            let same = |served: &Served| served.snapshot().generation == view.snapshot.generation;
            if served.as_ref().is_none_or(same) || began.elapsed() > PATIENCE {
                return (view, served);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Returns what is served at this moment, and what does not work of it.
    pub(crate) fn served(&self) -> cluster::Served {
        // A change that waits is applied first: an object that was added and removed again would count as out of the planes before it has come into them.
        self.follow();
        // All parts are of one configuration, which both planes were given.
        let applied = self.applied();
        let (store, view) = (applied.store.clone(), self.view());
        let served = self.with_proxy(Proxy::served);
        let (by_kernel, kernel) = self.kernel.carries(&view.snapshot.nat);
        drop(applied);
        let same = |served: &Served| served.snapshot().generation == view.snapshot.generation;
        let by_proxy = served.as_ref().is_some_and(same);
        let health = self.judge(&view, served.as_ref(), kernel.as_ref());
        cluster::Served { store, view, by_proxy, by_kernel, kernel, health }
    }

    fn judge(
        &self,
        view: &Compiled,
        served: Option<&Served>,
        kernel: Option<&KernelFacts>,
    ) -> Health {
        let loads = self.source.health();
        let status = served.map(Served::status);
        Health::judge(&Facts {
            view,
            status: status.as_ref(),
            kernel,
            state_file: self.state_file.as_ref().map(StateFile::status),
            acme: self.acme.as_ref().map(Acme::status),
            cluster: self.cluster.as_ref().map(Cluster::status),
            loads: &loads,
            draining: self.draining.load(Relaxed),
            present: &PresentAddresses::now(),
            now: now(),
        })
    }

    /// Collects what `selection` asks for of the configuration served, rejections and conditions; nothing secret.
    ///
    /// # Errors
    /// Fails if the tenant that is asked for is neither served nor in a document.
    pub(crate) fn report(&self, selection: Selection) -> Result<Report, Unanswerable> {
        let (view, served) = self.moment();
        if selection.tenant.as_ref().is_some_and(|tenant| !report::is_known(tenant, &view)) {
            return Err(Unanswerable::Tenant);
        }
        let judged = selection.is_judged();
        let kernel = (judged || selection.has(Part::Kernel)).then(|| self.kernel.facts()).flatten();
        let health = judged.then(|| self.judge(&view, served.as_ref(), kernel.as_ref()));
        let draining = self.draining.load(Relaxed);
        let acme = self.acme.as_ref().map(Acme::status);
        Ok(Report { selection, view, served, kernel, health, acme, draining })
    }

    /// Returns the exposition: the proxy's metrics, the kernel plane's and the gateway's own.
    pub(crate) fn metrics_text(&self) -> String {
        let mut text = Text::default();
        if self.with_proxy(|proxy| proxy.write_metrics(&mut text)).is_none() {
            return self.last_metrics.lock().unwrap_or_else(PoisonError::into_inner).clone();
        }
        exposition::documents(&mut text, &self.view(), self.reload_failures.load(Relaxed));
        self.kernel.write_metrics(&mut text);
        exposition::problems(&mut text, &self.health());
        exposition::files(&mut text, &self.source.health());
        self.acme.iter().for_each(|acme| acme.status().write_metrics(&mut text));
        self.cluster.iter().for_each(|cluster| cluster.status().write_metrics(&mut text));
        text.end()
    }
}
