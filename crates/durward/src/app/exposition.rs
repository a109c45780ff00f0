//! Metrics that only the gateway as a whole knows, beside those of the proxy and the kernel plane.

use std::time::UNIX_EPOCH;

use durward_control::Compiled;
use durward_control::source::file::LoadHealth;
use durward_model::verdict::Outcome;

use super::health::Health;

/// The proxy's exposition with what only we know, and one end.
pub(crate) fn exposition(proxy: &str, view: &Compiled, failures: u64, kernel: &str) -> String {
    let mut text = proxy.trim_end().trim_end_matches("# EOF").to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let rejected = view
        .verdicts
        .verdicts
        .iter()
        .filter(|verdict| verdict.outcome != Outcome::Accepted)
        .count();
    let families = [
        (
            "durward_config_last_reload_success",
            "gauge",
            "Whether every document was accepted when last read.",
            u64::from(view.verdicts.all_accepted()),
        ),
        (
            "durward_config_rejected",
            "gauge",
            "Documents that are not wholly accepted.",
            rejected as u64,
        ),
    ];
    for (name, kind, help, value) in families {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
    }
    let name = "durward_config_reload_failures";
    text.push_str(&format!("# HELP {name} Times documents were read and not wholly accepted.\n# TYPE {name} counter\n{name}_total {failures}\n"));
    text.push_str(kernel);
    text.push_str("# EOF\n");
    text
}

/// Things that do not work now, by tenant and kind; the same that `/readyz?verbose` shows.
pub(crate) fn problems(health: &Health) -> String {
    let name = "durward_problems";
    let mut text = format!(
        "# HELP {name} Things that do not work now, by tenant and kind.\n# TYPE {name} gauge\n"
    );
    for ((tenant, kind), count) in health.counts() {
        // A tenant's name has no character that a label would have to escape.
        let (tenant, kind) = (tenant.map_or("", |tenant| tenant.as_str()), kind.word());
        text.push_str(&format!("{name}{{tenant=\"{tenant}\",kind=\"{kind}\"}} {count}\n"));
    }
    let ready = u64::from(health.fault().is_none());
    text.push_str("# HELP durward_ready 1 when /readyz answers 200.\n# TYPE durward_ready gauge\n");
    text.push_str(&format!("durward_ready {ready}\n"));
    text
}

/// State of the loads of configuration files.
pub(crate) fn files(loads: &LoadHealth) -> String {
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
    families
        .into_iter()
        .map(|(name, help, value)| {
            format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_ends_once() {
        let view = Compiled::default();

        let text = exposition("# TYPE a gauge\na 1\n# EOF\n", &view, 2, "");

        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.starts_with("# TYPE a gauge\na 1\n# HELP durward_config"));
        assert!(text.contains("durward_config_last_reload_success 1\n"));
        assert!(text.ends_with("durward_config_reload_failures_total 2\n# EOF\n"));
    }
}
