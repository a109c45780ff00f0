//! Metrics of the gateway as a whole, beside those of the proxy and the kernel plane.

use std::time::UNIX_EPOCH;

use durward_control::Compiled;
use durward_control::source::file::LoadHealth;
use durward_model::verdict::Outcome;
use durward_proxy::metrics::openmetrics::{Kind, Text};

use super::health::Health;

/// Writes the outcomes of the documents.
pub(crate) fn documents(text: &mut Text, view: &Compiled, failures: u64) {
    let verdicts = view.verdicts.iter();
    let rejected = verdicts.filter(|verdict| verdict.outcome != Outcome::Accepted).count();
    let help = "Whether every document was accepted when last read.";
    text.family("durward_config_last_reload_success", Kind::Gauge, help)
        .row(&[], u64::from(view.verdicts.all_accepted()));
    let help = "Documents that are not wholly accepted.";
    text.family("durward_config_rejected", Kind::Gauge, help).row(&[], rejected);
    let help = "Times documents were read and not wholly accepted.";
    text.family("durward_config_reload_failures", Kind::Counter, help).row(&[], failures);
}

/// Writes the number of conditions by tenant and kind: the same that `/readyz?verbose` shows.
pub(crate) fn problems(text: &mut Text, health: &Health) {
    let help = "Things that do not work now, by tenant and kind.";
    let mut family = text.family("durward_problems", Kind::Gauge, help);
    for ((tenant, kind), count) in health.counts() {
        let tenant = tenant.map_or("", |tenant| tenant.as_str());
        family.row(&[("tenant", tenant), ("kind", kind.word())], count);
    }
    text.family("durward_ready", Kind::Gauge, "1 when /readyz answers 200.")
        .row(&[], u64::from(health.fault().is_none()));
}

/// Writes the state of the loads of configuration files.
pub(crate) fn files(text: &mut Text, loads: &LoadHealth) {
    let loaded = loads.unchanged.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let families = [
        (
            "durward_config_last_load_timestamp_seconds",
            "Time at which all files were last read, or found unchanged; 0 before.",
            loaded.map_or(0, |time| time.as_secs()),
        ),
        (
            "durward_config_paths_not_answering",
            "Paths whose file system does not answer.",
            loads.stuck.len() as u64,
        ),
        (
            "durward_config_named_file_bytes",
            "Bytes held of files that documents name.",
            loads.named_bytes,
        ),
        (
            "durward_config_named_files_over_budget",
            "Files that are not read because a tenant's share of the budget for named files is used.",
            loads.over_budget,
        ),
    ];
    for (name, help, value) in families {
        text.family(name, Kind::Gauge, help).row(&[], value);
    }
}
