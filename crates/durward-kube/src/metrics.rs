//! Metrics of this crate, as families. The program that serves all metrics writes their text.

use tokio::time::Instant;

use crate::client::Traffic;
use crate::health::{Health, Phase, Report};
use crate::source::NamedReport;
use crate::status::WriterReport;

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Only grows.
    Counter,
    /// Rises and falls.
    Gauge,
}

/// Metrics of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// The name, without the suffix `_total` of counters.
    pub name: &'static str,
    /// Help text.
    pub help: &'static str,
    /// Kind: counter or gauge.
    pub metric: Metric,
    /// The values, each with its labels. Labels have few values: kinds and words from here.
    pub samples: Vec<(Vec<(&'static str, &'static str)>, f64)>,
}

type Value = fn(&Report) -> f64;

/// The families about watches, one sample for each kind.
const WATCHES: &[(&str, &str, Metric, Value)] = &[
    ("durward_kube_watch_up", "Whether the watch of a kind is up.", Metric::Gauge, |report| {
        f64::from(u8::from(report.phase == Phase::Live))
    }),
    (
        "durward_kube_watch_lag_seconds",
        "Time for which changes of a kind may have been missed.",
        Metric::Gauge,
        |report| report.lag(Instant::now()).as_secs_f64(),
    ),
    ("durward_kube_objects", "Objects of a kind that are kept.", Metric::Gauge, |report| {
        count(report.objects)
    }),
    (
        "durward_kube_undecodable_objects",
        "Objects of a kind that cannot be decoded and keep their former content.",
        Metric::Gauge,
        |report| count(report.undecodable.len()),
    ),
    (
        "durward_kube_watch_events",
        "Events and bookmarks of the watch of a kind.",
        Metric::Counter,
        |report| whole(report.events),
    ),
    ("durward_kube_lists", "Whole lists of a kind that were read.", Metric::Counter, |report| {
        whole(report.lists)
    }),
    (
        "durward_kube_watch_failures",
        "Attempts to list or watch a kind that failed.",
        Metric::Counter,
        |report| whole(report.failures),
    ),
];

/// Returns the families about the watches.
#[must_use]
pub fn of_watches(health: &Health) -> Vec<Family> {
    let reports = health.reports();
    let family = |(name, help, metric, value): &(&'static str, &'static str, Metric, Value)| {
        let samples = reports.iter().map(|(kind, report)| (vec![("kind", *kind)], value(report)));
        Family { name, help, metric: *metric, samples: samples.collect() }
    };
    WATCHES.iter().map(family).collect()
}

/// Returns the family about objects that documents name: Secrets and `ConfigMap`s.
#[must_use]
pub fn of_named(reports: &[NamedReport; 2]) -> Family {
    let mut samples = Vec::new();
    for (kind, report) in ["Secret", "ConfigMap"].into_iter().zip(reports) {
        for (state, number) in [
            ("wanted", report.wanted),
            ("watches", report.watches),
            ("failing", report.failing),
            ("polled", report.polled),
        ] {
            samples.push((vec![("kind", kind), ("state", state)], count(number)));
        }
    }
    let help = "Objects that documents name, and how they are read.";
    Family { name: "durward_kube_named_objects", help, metric: Metric::Gauge, samples }
}

type Counted = fn(&Traffic) -> f64;

/// Returns the families about connections to the API server: those for reading, and those for writing.
#[must_use]
pub fn of_traffic(traffic: &[Traffic; 2]) -> Vec<Family> {
    let families: [(&str, &str, Metric, Counted); 5] = [
        ("durward_kube_requests", "Requests to the API server.", Metric::Counter, |traffic| {
            whole(traffic.requests())
        }),
        (
            "durward_kube_request_failures",
            "Requests to the API server without a response.",
            Metric::Counter,
            |traffic| whole(traffic.failures()),
        ),
        (
            "durward_kube_connections_opened",
            "Connections to the API server that were opened.",
            Metric::Counter,
            |traffic| whole(traffic.connections()),
        ),
        (
            "durward_kube_connections",
            "Connections to the API server that accept requests.",
            Metric::Gauge,
            |traffic| count(traffic.open_connections()),
        ),
        (
            "durward_kube_streams",
            "Requests in progress, watches among them.",
            Metric::Gauge,
            |traffic| count(traffic.streams()),
        ),
    ];
    let uses = ["read", "write"];
    let family = |(name, help, metric, value): (&'static str, &'static str, Metric, Counted)| {
        let samples = uses.into_iter().zip(traffic);
        let samples = samples.map(|(purpose, traffic)| (vec![("use", purpose)], value(traffic)));
        Family { name, help, metric, samples: samples.collect() }
    };
    families.into_iter().map(family).collect()
}

/// Returns the families about statuses and Events.
#[must_use]
pub fn of_writer(report: &WriterReport) -> Vec<Family> {
    let WriterReport { pending, refused, written, unchanged, failed, revisions, events, .. } =
        report;
    let (sent, withheld) = *events;
    let labelled = |values: &[(&'static str, u64)]| {
        let samples =
            values.iter().map(|(result, value)| (vec![("result", *result)], whole(*value)));
        samples.collect()
    };
    vec![
        Family {
            name: "durward_kube_status_pending",
            help: "Statuses that wait to be written.",
            metric: Metric::Gauge,
            samples: vec![(Vec::new(), count(*pending))],
        },
        Family {
            name: "durward_kube_status_refused",
            help: "Statuses whose writing the API server refused; each is tried again every minute.",
            metric: Metric::Gauge,
            samples: vec![(Vec::new(), count(*refused))],
        },
        Family {
            name: "durward_kube_status_writes",
            help: "Statuses by what became of them.",
            metric: Metric::Counter,
            samples: labelled(&[
                ("written", *written),
                ("unchanged", *unchanged),
                ("failed", *failed),
            ]),
        },
        Family {
            name: "durward_kube_revisions_kept",
            help: "Accepted revisions that were kept.",
            metric: Metric::Counter,
            samples: vec![(Vec::new(), whole(*revisions))],
        },
        Family {
            name: "durward_kube_events",
            help: "Events by what became of them.",
            metric: Metric::Counter,
            samples: labelled(&[("sent", sent), ("withheld", withheld)]),
        },
    ]
}

/// Metrics are floats, and exact up to 2^53.
fn whole(number: u64) -> f64 {
    number as f64
}

fn count(number: usize) -> f64 {
    whole(number as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::request::ApiError;
    use crate::resource_type::TENANTS;

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_down_counts_the_time_since() {
        let health = Health::default();
        let watch = health.of(&TENANTS);
        watch.listed(3);
        watch.live();
        watch.failed(&ApiError::Gone("too old".to_owned()));
        tokio::time::advance(Duration::from_secs(7)).await;

        let families = of_watches(&health);

        let value = |name: &str| {
            let family = families.iter().find(|family| family.name == name).unwrap();
            assert_eq!(family.samples[0].0, [("kind", "Tenant")]);
            family.samples[0].1
        };
        let seen =
            ["up", "lag_seconds", "failures"].map(|it| value(&format!("durward_kube_watch_{it}")));
        assert_eq!((seen, value("durward_kube_objects")), ([0.0, 7.0, 1.0], 3.0));
    }

    #[test]
    fn names_are_unique_and_counters_have_no_suffix() {
        let mut families = of_watches(&Health::default());
        families.push(of_named(&Default::default()));
        families.extend(of_writer(&WriterReport::default()));

        let names: BTreeSet<&str> = families.iter().map(|family| family.name).collect();

        assert_eq!(names.len(), families.len());
        assert!(
            names.iter().all(|name| name.starts_with("durward_kube_") && !name.ends_with("_total"))
        );
    }
}
