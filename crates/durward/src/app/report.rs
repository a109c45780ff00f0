//! The answer of `/snapshot`: the configuration served, rejections, and conditions by tenant.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use durward_model::verdict::{Outcome, Verdict};
use durward_model::{Tenant, TenantId};
use durward_nat::{CheckedEndpoint, MappingReport};
use durward_proxy::EndpointHealth;
use durward_proxy::proxy::{BindState, Status};
use serde::Serialize;

use super::acme;
use super::condition::Condition;
use super::health::{Facts, Health, KernelFacts};
use crate::digest::Digests;

/// Whole answer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report<'a> {
    version: &'static str,
    generation: u64,
    ready: bool,
    draining: bool,
    binds: BTreeMap<String, String>,
    connections: BTreeMap<&'a TenantId, u64>,
    upstreams: Vec<EndpointRow<'a>>,
    accepted: Vec<&'a Verdict>,
    rejected: Vec<&'a Verdict>,
    tenants: &'a BTreeMap<TenantId, Arc<Tenant>>,
    /// Conditions by tenant; a tenant without any is left out.
    tenant_conditions: BTreeMap<&'a TenantId, Vec<&'a Condition>>,
    /// Conditions of the process as a whole.
    conditions: Vec<&'a Condition>,
    digests: Digests,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<KernelReport<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<AuditReport>,
    logs: Vec<LogReport>,
    /// Certificates by ACME; left out where none is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    acme: Option<&'a acme::status::Status>,
}

/// Endpoint of an upstream.
#[derive(Serialize)]
struct EndpointRow<'a> {
    tenant: &'a TenantId,
    upstream: &'a str,
    endpoint: &'a str,
    state: EndpointHealth,
    active: u32,
    failures: u32,
}

/// State of the kernel plane.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KernelReport<'a> {
    fault: Option<&'a str>,
    owns_table: bool,
    host: &'a [String],
    mappings: Vec<KernelRow<'a>>,
    egress: Vec<KernelRow<'a>>,
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

impl<'a> Report<'a> {
    /// Builds the report from the facts.
    pub(crate) fn new(facts: &'a Facts<'a>, health: &'a Health) -> Self {
        let Facts { view, status, kernel, draining, .. } = *facts;
        let verdicts = view.verdicts.iter();
        let (accepted, rejected) =
            verdicts.partition(|verdict| verdict.outcome == Outcome::Accepted);
        let tenants = status.iter().flat_map(|status| &status.tenants);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            generation: view.snapshot.generation,
            ready: health.fault().is_none(),
            draining,
            binds: binds(status),
            connections: tenants.map(|tenant| (&tenant.tenant, tenant.connections)).collect(),
            upstreams: upstreams(status),
            accepted,
            rejected,
            tenants: &view.snapshot.tenants,
            tenant_conditions: by_tenant(health),
            conditions: health.conditions().filter(|one| one.tenant.is_none()).collect(),
            digests: Digests::of(&view.snapshot),
            kernel: kernel.map(kernel_report),
            audit: status.and_then(audit),
            logs: status.map(logs).unwrap_or_default(),
            acme: facts.acme.as_ref().filter(|acme| !acme.certificates.is_empty()),
        }
    }
}

fn binds(status: Option<&Status>) -> BTreeMap<String, String> {
    let state = |state: &BindState| match state {
        BindState::Bound => "bound".to_owned(),
        BindState::AddressNotLocal => "the address is not on this host".to_owned(),
        BindState::Failed(error) => format!("failed: {error}"),
    };
    let binds = status.iter().flat_map(|status| &status.binds);
    binds.map(|bind| (bind.address.to_string(), state(&bind.state))).collect()
}

/// Returns every endpoint with its state.
fn upstreams(status: Option<&Status>) -> Vec<EndpointRow<'_>> {
    let tenants = status.into_iter().flat_map(|status| &status.tenants);
    let reports = tenants.flat_map(|tenant| &tenant.upstreams);
    reports
        .flat_map(|report| {
            report.endpoints.iter().map(move |endpoint| EndpointRow {
                tenant: &report.tenant,
                upstream: &report.name,
                endpoint: &endpoint.address,
                state: endpoint.state,
                active: endpoint.active,
                failures: endpoint.failures,
            })
        })
        .collect()
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

fn kernel_report(facts: &KernelFacts) -> KernelReport<'_> {
    KernelReport {
        fault: facts.fault.as_deref(),
        owns_table: facts.owns_table,
        host: &facts.report.host,
        mappings: mapping_rows(facts),
        egress: facts.report.egress.iter().map(kernel_row).collect(),
    }
}

fn mapping_rows(facts: &KernelFacts) -> Vec<KernelRow<'_>> {
    let checked = facts.checked.iter();
    let checked: HashMap<_, _> =
        checked.map(|one| ((&one.tenant, &*one.name), &one.endpoints)).collect();
    let row = |report| {
        let row = kernel_row(report);
        let endpoints = checked.get(&(row.tenant, row.name)).into_iter().copied().flatten();
        KernelRow { endpoints: endpoints.map(checked_row).collect(), ..row }
    };
    facts.report.mappings.iter().map(row).collect()
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

fn audit(status: &Status) -> Option<AuditReport> {
    let audit = status.audit?;
    let (failing, sequence) = (audit.failing, audit.sequence);
    Some(AuditReport { failing, sequence, written: audit.written, lost: audit.lost })
}

fn logs(status: &Status) -> Vec<LogReport> {
    let sinks = status.sinks.iter();
    sinks
        .map(|sink| LogReport {
            log: sink.log,
            sink: sink.kind,
            failing: sink.failing,
            lost: sink.lost,
        })
        .collect()
}
