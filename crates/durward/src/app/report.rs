//! The answer of `/snapshot`: the configuration served, rejections, and conditions by tenant.
//!
//! Rows are made while they are written, from values that the report holds: nothing is as long as the answer, and all of it is of one generation.

mod selection;

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use durward_control::Compiled;
use durward_model::verdict::{Outcome, Verdict};
use durward_model::{Kind, Snapshot, TenantId};
use durward_nat::{CheckedEndpoint, MappingReport};
use durward_proxy::proxy::{BindReport, BindState, Served, SinkStatus};
use durward_proxy::{EndpointHealth, UpstreamReport, audit};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::acme;
use super::condition::Condition;
use super::health::{Health, KernelFacts};
use crate::digest::{Computed, Entries, is_wanted, tenants};
pub(crate) use selection::{Part, Selection, Unanswerable};

/// Facts of one moment, and the parts of them that are asked for.
pub(crate) struct Report {
    /// Parts that are written.
    pub(crate) selection: Selection,
    /// Compiled configuration, with the verdicts of the documents.
    pub(crate) view: Arc<Compiled>,
    /// Generation that the proxy serves; `None` once it has drained.
    pub(crate) served: Option<Served>,
    /// State of the kernel plane; `None` if it is not used.
    pub(crate) kernel: Option<KernelFacts>,
    /// Judged health; `None` if no part shows it.
    pub(crate) health: Option<Health>,
    /// State of certificates by ACME; `None` if they are not used.
    pub(crate) acme: Option<acme::status::Status>,
    /// True if the process is stopping.
    pub(crate) draining: bool,
}

/// Endpoint of an upstream.
#[derive(Serialize)]
struct EndpointRow {
    tenant: TenantId,
    upstream: Arc<str>,
    endpoint: String,
    state: EndpointHealth,
    active: u32,
    failures: u32,
}

/// State of the kernel plane.
struct KernelReport<'a> {
    facts: &'a KernelFacts,
    only: Option<&'a TenantId>,
}

impl Serialize for KernelReport<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { facts, only } = *self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("fault", &facts.fault)?;
        map.serialize_entry("ownsTable", &facts.owns_table)?;
        map.serialize_entry("host", &facts.report.host)?;
        map.serialize_entry("mappings", &Rows(|| mapping_rows(facts, only)))?;
        map.serialize_entry("egress", &Rows(|| kernel_rows(&facts.report.egress, only)))?;
        map.end()
    }
}

/// Mapping or egress rule.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KernelRow<'a> {
    tenant: &'a TenantId,
    name: &'a str,
    state: String,
    addresses_not_here: &'a [std::net::IpAddr],
    /// Endpoints of a mapping with a health check.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<CheckedRow<'a>>,
}

/// Endpoint of a mapping with the results of its checks.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckedRow<'a> {
    endpoint: SocketAddr,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_checked: Option<&'a str>,
}

/// State of the audit file.
#[derive(Serialize)]
struct AuditReport {
    failing: bool,
    sequence: u64,
    written: u64,
    lost: u64,
}

/// State of one sink.
#[derive(Serialize)]
struct LogReport {
    log: &'static str,
    sink: &'static str,
    failing: bool,
    lost: u64,
}

impl Report {
    /// Writes the selected parts as one JSON object.
    ///
    /// # Errors
    /// Fails if the writer does.
    pub(crate) fn write(&self, out: impl Write) -> serde_json::Result<()> {
        serde_json::to_writer(out, self)
    }

    /// Returns the snapshot that is served: that of the proxy, which has the states of its tenants.
    fn snapshot(&self) -> &Snapshot {
        self.served.as_ref().map_or(&self.view.snapshot, |served| served.snapshot())
    }

    fn binds(&self) -> impl Iterator<Item = (String, String)> {
        let only = self.selection.tenant.as_ref();
        let binds = self.served.iter().flat_map(Served::binds);
        let of_tenant = move |bind: &BindReport| {
            let configured = bind.configured(self.snapshot());
            configured
                .is_some_and(|bind| bind.listeners.iter().any(|one| is_wanted(only, &one.tenant)))
        };
        let binds = binds.filter(move |bind| only.is_none() || of_tenant(bind));
        let rows: BTreeMap<_, _> =
            binds.map(|bind| (bind.to_string(), state(&bind.state))).collect();
        rows.into_iter()
    }

    fn connections(&self) -> impl Iterator<Item = (&TenantId, u64)> {
        let only = self.selection.tenant.as_ref();
        self.served.iter().flat_map(move |served| served.connections(only))
    }

    /// Returns every endpoint with its state.
    fn upstreams(&self) -> impl Iterator<Item = EndpointRow> {
        let only = self.selection.tenant.as_ref();
        let reports = self.served.iter().flat_map(move |served| served.upstreams(only));
        reports.flat_map(endpoint_rows)
    }

    /// Returns the verdicts of the selected documents that are wholly accepted, or of the others.
    fn verdicts(&self, accepted: bool) -> impl Iterator<Item = &Verdict> {
        let only = self.selection.tenant.as_ref();
        let verdicts = self.view.verdicts.iter();
        let verdicts = verdicts.filter(move |one| (one.outcome == Outcome::Accepted) == accepted);
        verdicts.filter(move |one| only.is_none_or(|only| one.resource.is_of(only.as_str())))
    }

    /// Returns the state of certificates by ACME; `None` if none is wanted.
    fn acme(&self) -> Option<acme::status::Status> {
        let only = self.selection.tenant.as_ref();
        let mut acme = self.acme.clone()?;
        acme.certificates.retain(|row| is_wanted(only, &row.tenant));
        (!acme.certificates.is_empty()).then_some(acme)
    }

    /// Returns conditions by tenant; a tenant without any is left out.
    fn tenant_conditions(&self) -> impl Iterator<Item = (&TenantId, Vec<&Condition>)> {
        let by_tenant = self.health.as_ref().map(by_tenant).unwrap_or_default();
        let only = self.selection.tenant.as_ref();
        by_tenant.into_iter().filter(move |(tenant, _)| is_wanted(only, tenant))
    }

    /// Returns the conditions of the process as a whole.
    fn conditions(&self) -> impl Iterator<Item = &Condition> {
        let conditions = self.health.iter().flat_map(Health::conditions);
        conditions.filter(|one| one.tenant.is_none())
    }

    fn part<M: SerializeMap>(&self, part: Part, map: &mut M) -> Result<(), M::Error> {
        let (key, only) = (part.word(), self.selection.tenant.as_ref());
        let served = self.served.as_ref();
        match part {
            Part::Ready => {
                let fault = self.health.as_ref().and_then(Health::fault);
                map.serialize_entry(key, &fault.is_none())
            }
            Part::Draining => map.serialize_entry(key, &self.draining),
            Part::Binds => map.serialize_entry(key, &Entries(|| self.binds())),
            Part::Connections => map.serialize_entry(key, &Entries(|| self.connections())),
            Part::Upstreams => map.serialize_entry(key, &Rows(|| self.upstreams())),
            Part::Accepted => map.serialize_entry(key, &Rows(|| self.verdicts(true))),
            Part::Rejected => map.serialize_entry(key, &Rows(|| self.verdicts(false))),
            Part::Tenants => map.serialize_entry(key, &Entries(|| tenants(self.snapshot(), only))),
            Part::TenantConditions => {
                map.serialize_entry(key, &Entries(|| self.tenant_conditions()))
            }
            Part::Conditions => map.serialize_entry(key, &Rows(|| self.conditions())),
            Part::Digests => {
                map.serialize_entry(key, &Computed { snapshot: self.snapshot(), only })
            }
            Part::Kernel => match &self.kernel {
                Some(facts) => map.serialize_entry(key, &KernelReport { facts, only }),
                None => Ok(()),
            },
            Part::Audit => match served.and_then(Served::audit) {
                Some(status) => map.serialize_entry(key, &AuditReport::of(status)),
                None => Ok(()),
            },
            Part::Logs => {
                let sinks = || served.iter().flat_map(|served| served.sinks()).map(log);
                map.serialize_entry(key, &Rows(sinks))
            }
            Part::Acme => match self.acme() {
                Some(status) => map.serialize_entry(key, &status),
                None => Ok(()),
            },
        }
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("version", env!("CARGO_PKG_VERSION"))?;
        map.serialize_entry("generation", &self.snapshot().generation)?;
        for part in Part::ALL.into_iter().filter(|part| self.selection.has(*part)) {
            self.part(part, &mut map)?;
        }
        map.end()
    }
}

/// Array whose elements are made while it is serialised.
struct Rows<F>(F);

impl<F, I> Serialize for Rows<F>
where
    F: Fn() -> I,
    I: Iterator<Item: Serialize>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0())
    }
}

fn state(state: &BindState) -> String {
    match state {
        BindState::Bound => "bound".to_owned(),
        BindState::AddressNotLocal => "the address is not on this host".to_owned(),
        BindState::Failed(error) => format!("failed: {error}"),
    }
}

fn endpoint_rows(report: UpstreamReport) -> impl Iterator<Item = EndpointRow> {
    let UpstreamReport { tenant, name, endpoints } = report;
    endpoints.into_iter().map(move |endpoint| EndpointRow {
        tenant: tenant.clone(),
        upstream: Arc::clone(&name),
        endpoint: endpoint.address,
        state: endpoint.state,
        active: endpoint.active,
        failures: endpoint.failures,
    })
}

/// Returns true if a tenant of this name is served, or a document defines it.
pub(crate) fn is_known(tenant: &TenantId, view: &Compiled) -> bool {
    let is_its =
        |one: &Verdict| one.resource.kind == Kind::Tenant && one.resource.is_of(tenant.as_str());
    view.snapshot.tenants.contains_key(tenant) || view.verdicts.iter().any(is_its)
}

fn by_tenant(health: &Health) -> BTreeMap<&TenantId, Vec<&Condition>> {
    let mut by_tenant: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for condition in health.conditions() {
        if let Some(tenant) = &condition.tenant {
            by_tenant.entry(tenant).or_default().push(condition);
        }
    }
    by_tenant
}

fn mapping_rows<'a>(
    facts: &'a KernelFacts,
    only: Option<&TenantId>,
) -> impl Iterator<Item = KernelRow<'a>> {
    let checked = facts.checked.iter();
    let checked: HashMap<_, _> =
        checked.map(|one| ((&one.tenant, &*one.name), &one.endpoints)).collect();
    kernel_rows(&facts.report.mappings, only).map(move |row| {
        let endpoints = checked.get(&(row.tenant, row.name)).into_iter().copied().flatten();
        KernelRow { endpoints: endpoints.map(checked_row).collect(), ..row }
    })
}

fn kernel_rows<'a>(
    reports: &'a [MappingReport],
    only: Option<&TenantId>,
) -> impl Iterator<Item = KernelRow<'a>> {
    reports.iter().filter(move |report| is_wanted(only, &report.tenant)).map(kernel_row)
}

fn checked_row(endpoint: &CheckedEndpoint) -> CheckedRow<'_> {
    CheckedRow {
        endpoint: endpoint.at,
        state: if endpoint.out { "unhealthy" } else { "healthy" },
        cause: endpoint.cause.as_deref(),
        not_checked: endpoint.unchecked.as_deref(),
    }
}

fn kernel_row(report: &MappingReport) -> KernelRow<'_> {
    let in_kernel = || match report.foreign_addresses.is_empty() {
        true => "in the kernel".to_owned(),
        false => "in the kernel, addresses not on this host".to_owned(),
    };
    KernelRow {
        tenant: &report.tenant,
        name: &report.name,
        state: report.rejected.as_ref().map_or_else(in_kernel, ToString::to_string),
        addresses_not_here: &report.foreign_addresses,
        endpoints: Vec::new(),
    }
}

impl AuditReport {
    fn of(status: audit::Status) -> Self {
        let (failing, sequence) = (status.failing, status.sequence);
        Self { failing, sequence, written: status.written, lost: status.lost }
    }
}

fn log(sink: &SinkStatus) -> LogReport {
    LogReport { log: sink.log, sink: sink.kind, failing: sink.failing, lost: sink.lost }
}
