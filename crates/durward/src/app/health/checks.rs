//! The checks one by one: pure functions of the facts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use durward_model::verdict::{Outcome, Severity, Verdict};
use durward_model::{EgressAddress, Listener, Service, Tenant, TenantId};
use durward_nat::{CheckedEndpoint, CheckedMapping, MappingReport};
use durward_proxy::UpstreamReport;
use durward_proxy::proxy::BindState;

use super::certificates::certificates;
use super::{Check, Facts};
use crate::app::condition::{Condition, Kind};
use crate::app::kernel::lines::named;
use crate::output::count;

/// Time after which a watch that is down is a condition.
const AWAY: Duration = Duration::from_secs(10);

pub(super) fn all(facts: &Facts<'_>) -> Vec<Check> {
    let draining = Check {
        fault: facts.draining.then(|| "the process is stopping".to_owned()),
        ..Check::new("draining", "no".to_owned())
    };
    let always = [configuration(facts), documents(facts), listeners(facts), draining];
    let asked = [egress(facts), certificates(facts), upstreams(facts), kernel(facts)];
    let records = [audit(facts), logs(facts), state_file(facts), acme(facts)];
    let sources = [Some(files(facts)), kubernetes(facts)];
    always.into_iter().chain(asked.into_iter().chain(records).chain(sources).flatten()).collect()
}

fn configuration(facts: &Facts<'_>) -> Check {
    let snapshot = &facts.view.snapshot;
    let (generation, tenants) = (snapshot.generation, snapshot.tenants.len());
    let mut check =
        Check::new("configuration", format!("generation {generation}, {tenants} tenants"));
    check.fault = (tenants == 0).then(|| "no tenant is served".to_owned());
    check
}

fn documents(facts: &Facts<'_>) -> Check {
    let verdicts = &facts.view.verdicts;
    let accepted = verdicts.iter().filter(|one| one.outcome == Outcome::Accepted).count();
    let kept = verdicts.iter().filter(|one| one.outcome == Outcome::KeptLastGood).count();
    let mut state = format!("{accepted} of {} accepted", verdicts.len());
    if kept > 0 {
        state.push_str(&format!(", {kept} kept last good"));
    }
    let warnings = facts.view.verdicts.count(Severity::Warning);
    if warnings > 0 {
        state.push_str(&format!(", {}", count(warnings, "warning")));
    }
    let bad = verdicts.iter().filter(|verdict| verdict.outcome != Outcome::Accepted);
    Check { conditions: bad.map(document).collect(), ..Check::new("documents", state) }
}

fn document(verdict: &Verdict) -> Condition {
    Condition {
        kind: Kind::Document,
        tenant: tenant_of(verdict),
        subject: verdict.subject(),
        sentence: format!("is {}: {}", verdict.outcome, why(verdict)),
    }
}

/// Returns the tenant that a document defines, if that is the document's own name.
pub(super) fn tenant_of(verdict: &Verdict) -> Option<TenantId> {
    let is_tenant = verdict.resource.kind == durward_model::Kind::Tenant;
    is_tenant.then(|| TenantId::new(&verdict.resource.name).ok()).flatten()
}

/// Returns the first error with its place, and the number of further ones.
pub(crate) fn why(verdict: &Verdict) -> String {
    let mut errors = verdict.findings.iter().filter(|one| one.severity == Severity::Error);
    let Some(first) = errors.next() else { return format!("see {}", verdict.origin) };
    match errors.count() {
        0 => format!("{}: {first}", first.origin),
        more => format!("{}: {first} (and {more} more)", first.origin),
    }
}

fn listeners(facts: &Facts<'_>) -> Check {
    let binds = facts.status.map_or(&[][..], |status| &status.binds);
    let bound = binds.iter().filter(|bind| bind.state == BindState::Bound).count();
    let mut check = Check::new("listeners", format!("{bound} of {} bound", binds.len()));
    let without = binds.is_empty() && has_kernel_share(facts);
    check.fault = (bound == 0 && !without).then(|| format!("none of {} is bound", binds.len()));
    for bind in binds {
        let sentence = match &bind.state {
            BindState::Bound => continue,
            BindState::AddressNotLocal => "is not on this host".to_owned(),
            BindState::Failed(error) => format!("cannot be bound: {error}"),
        };
        let configured = bind.configured(&facts.view.snapshot);
        let tenants: BTreeSet<&TenantId> =
            configured.iter().flat_map(|bind| &bind.listeners).map(|one| &one.tenant).collect();
        let of = |tenant| Condition::of(Kind::Listener, tenant, bind, &sentence);
        check.conditions.extend(tenants.into_iter().map(of));
    }
    for problem in facts.status.iter().flat_map(|status| &status.problems) {
        let subject = problem.listener.as_deref().unwrap_or("every listener");
        let sentence = format!("cannot be served: {}", problem.sentence);
        check.conditions.push(Condition::of(Kind::Listener, &problem.tenant, subject, sentence));
    }
    check
}

/// A gateway that has not read everything yet could turn clients of tenants away that it does not know.
fn kubernetes(facts: &Facts<'_>) -> Option<Check> {
    let cluster = facts.cluster.as_ref()?;
    let mut check = Check::new("kubernetes", count(cluster.objects, "object"));
    check.fault = (!cluster.synced).then(|| {
        let first = cluster.faults.first();
        let why = first.map(|(kind, fault)| format!(": {kind}: {fault}")).unwrap_or_default();
        format!("not everything was read yet{why}")
    });
    if let Some(written) = cluster.cached {
        let sentence = format!(
            "was not read since the start: a cache of {} is served",
            crate::inspect::moment(written)
        );
        check.conditions.push(Condition::process(Kind::Kubernetes, "Kubernetes API", sentence));
    }
    if let Some((since, why)) = cluster.away.as_ref().filter(|_| cluster.synced)
        && *since >= AWAY
    {
        let seconds = since.as_secs();
        let sentence = format!("is away for {seconds} s: {why}; what it said last is served on");
        check.conditions.push(Condition::process(Kind::Kubernetes, "durward kube", sentence));
    } else if cluster.synced && cluster.lag >= AWAY {
        let sentence = |fault: &str| {
            let seconds = cluster.lag.as_secs();
            format!("cannot be watched for {seconds} s: {fault}; what was read is served on")
        };
        check.conditions.extend(
            cluster
                .faults
                .iter()
                .map(|(kind, fault)| Condition::process(Kind::Kubernetes, kind, sentence(fault))),
        );
    }
    check.conditions.extend(cluster.unread.iter().map(|(kind, fault)| {
        let sentence = format!("cannot be read: {fault}; what documents name of it is not served");
        Condition::process(Kind::Kubernetes, kind, sentence)
    }));
    if let Some(fault) = &cluster.unwritten {
        let sentence = match cluster.refused {
            0 => format!("cannot be written: {fault}"),
            refused => format!("of {} are refused: {fault}", count(refused, "object")),
        };
        check.conditions.push(Condition::process(Kind::Kubernetes, "statuses", sentence));
    }
    Some(check)
}

fn has_kernel_share(facts: &Facts<'_>) -> bool {
    let nat = &facts.view.snapshot.nat;
    !(nat.mappings.is_empty() && nat.egress.is_empty())
}

fn forwards(listener: &Arc<Listener>) -> bool {
    matches!(listener.service, Service::Forward(_))
}

/// Returns true if the proxy opens connections for the tenant. Traffic that only the kernel carries is judged by the kernel plane.
fn dials_out(tenant: &Tenant) -> bool {
    let mut listeners = tenant.listeners.iter().chain(&tenant.transparent).peekable();
    let accepts = listeners.peek().is_some();
    accepts && (!tenant.upstreams.is_empty() || listeners.any(forwards))
}

fn egress(facts: &Facts<'_>) -> Option<Check> {
    let tenants = facts.view.snapshot.tenants.values();
    let dialling: Vec<_> = tenants.filter(|tenant| dials_out(tenant)).collect();
    if dialling.is_empty() {
        return None;
    }
    let (mut conditions, mut addresses, mut cut_off) = (Vec::new(), 0, 0);
    for tenant in &dialling {
        let is_absent = |address: &&EgressAddress| !facts.present.has(address.0);
        let absent: Vec<_> = tenant.egress.iter().filter(is_absent).collect();
        addresses += tenant.egress.len();
        let all = absent.len() == tenant.egress.len();
        cut_off += usize::from(all);
        let sentence = if all {
            "is not on this host: every request and tunnel of the tenant is refused with egress_address"
        } else {
            "is not on this host: nothing leaves from it"
        };
        let of = |address| Condition::of(Kind::EgressAddress, &tenant.id, address, sentence);
        conditions.extend(absent.into_iter().map(of));
    }
    let here = addresses - conditions.len();
    let mut check = Check::new("egress", format!("{here} of {addresses} addresses on this host"));
    let nothing_else =
        dialling.len() == facts.view.snapshot.tenants.len() && !has_kernel_share(facts);
    let nothing = cut_off == dialling.len() && nothing_else;
    let fault = "no tenant has an egress address on this host: every request is refused";
    check.fault = nothing.then(|| fault.to_owned());
    check.conditions = conditions;
    Some(check)
}

fn upstreams(facts: &Facts<'_>) -> Option<Check> {
    let tenants = facts.status.iter().flat_map(|status| &status.tenants);
    let all: Vec<&UpstreamReport> = tenants.flat_map(|tenant| &tenant.upstreams).collect();
    if all.is_empty() {
        return None;
    }
    let is_down = |one: &&&UpstreamReport| !one.endpoints.iter().any(|one| one.state.is_usable());
    let conditions: Vec<_> = all.iter().filter(is_down).map(|one| upstream(one)).collect();
    let usable = all.len() - conditions.len();
    let state = format!("{usable} of {} with a usable endpoint", all.len());
    Some(Check { conditions, ..Check::new("upstreams", state) })
}

fn upstream(report: &UpstreamReport) -> Condition {
    let endpoints: Vec<String> =
        report.endpoints.iter().map(|one| format!("{} is {}", one.address, one.state)).collect();
    let sentence = format!("has no usable endpoint: {}", endpoints.join(", "));
    Condition::of(Kind::Upstream, &report.tenant, format!("upstream {}", report.name), sentence)
}

fn kernel(facts: &Facts<'_>) -> Option<Check> {
    let kernel = facts.kernel?;
    let carried = |of: &[MappingReport]| of.iter().filter(|one| one.rejected.is_none()).count();
    let (report, (mappings, rules)) = (&kernel.report, kernel.wanted);
    let all = || report.mappings.iter().chain(&report.egress);
    let absent: usize = all().map(|one| one.foreign_addresses.len()).sum();
    let mut state = format!(
        "{} of {mappings} mappings, {} of {rules} egress rules in the kernel",
        carried(&report.mappings),
        carried(&report.egress),
    );
    if absent > 0 {
        state.push_str(&format!(", {absent} of their addresses not on this host"));
    }
    let mut check = Check::new("kernel", state);
    for one in all() {
        let of = |sentence| Condition::of(Kind::Kernel, &one.tenant, &one.name, sentence);
        if let Some(why) = &one.rejected {
            check.conditions.push(of(format!("is left out of the kernel: {why}")));
        } else {
            let absent = one.foreign_addresses.iter();
            let sentence = |ip| format!("uses {ip}, which is not on this host");
            check.conditions.extend(absent.map(|ip| of(sentence(ip))));
        }
    }
    check.conditions.extend(kernel.checked.iter().flat_map(mapping));
    let host = report.host.iter();
    check.conditions.extend(host.map(|one| Condition::process(Kind::Kernel, "host:", one)));
    // Mappings in a tenant's document must not make the gateway unready for others, unless the operator enabled the kernel plane.
    let nothing_else = facts.view.snapshot.binds.is_empty();
    match &kernel.fault {
        Some(fault) if kernel.enabled || nothing_else => check.fault = Some(fault.clone()),
        Some(fault) => check.conditions.push(Condition::process(Kind::Kernel, "plane:", fault)),
        None => {}
    }
    Some(check)
}

/// Returns the conditions of a mapping's endpoint checks; none if all pass.
fn mapping(checked: &CheckedMapping) -> Vec<Condition> {
    let list = |why: fn(&CheckedEndpoint) -> Option<&str>| {
        let found = checked.endpoints.iter().filter_map(|one| Some(named(one.at, Some(why(one)?))));
        found.collect::<Vec<_>>()
    };
    let out = list(|one| one.out.then(|| one.cause.as_deref().unwrap_or("its checks fail")));
    let unknown = list(|one| one.unchecked.as_deref());
    let all = checked.endpoints.len();
    let mut sentences = Vec::new();
    match out.len() {
        0 => {}
        count if count == all => sentences.push(format!(
            "refuses connections, because all its endpoints are out: {}",
            out.join(", ")
        )),
        count => {
            sentences.push(format!("has {count} of {all} endpoints out: {}", out.join(", ")));
        }
    }
    if !unknown.is_empty() {
        sentences.push(format!("has endpoints that cannot be checked: {}", unknown.join(", ")));
    }
    let of = |sentence| Condition::of(Kind::Kernel, &checked.tenant, &checked.name, sentence);
    sentences.into_iter().map(of).collect()
}

fn audit(facts: &Facts<'_>) -> Option<Check> {
    let audit = facts.status?.audit?;
    let mut check = Check::new("audit", format!("record {} written", audit.sequence));
    if audit.failing {
        let sentence = "cannot be written: the forward proxy lets nothing new out";
        check.conditions.push(Condition::process(Kind::Audit, "the audit file", sentence));
        let mut all = facts.view.snapshot.binds.values().flat_map(|bind| &bind.listeners);
        let nothing_else = all.all(forwards) && !has_kernel_share(facts);
        let fault = "the audit file cannot be written, and all traffic needs a record in it";
        check.fault = nothing_else.then(|| fault.to_owned());
    }
    Some(check)
}

fn logs(facts: &Facts<'_>) -> Option<Check> {
    let sinks = facts.status.map_or(&[][..], |status| &status.sinks);
    if sinks.is_empty() {
        return None;
    }
    let lost: u64 = sinks.iter().map(|sink| sink.lost).sum();
    let failing = sinks.iter().filter(|sink| sink.failing);
    let conditions: BTreeSet<Condition> = failing
        .map(|sink| {
            let sentence = format!("of the {} log cannot be written: lines are lost", sink.log);
            Condition::process(Kind::Log, format!("{} sink", sink.kind), sentence)
        })
        .collect();
    let conditions = conditions.into_iter().collect();
    Some(Check { conditions, ..Check::new("logs", format!("{lost} lines lost since the start")) })
}

/// Checks the state file. Never fails readiness, because the served configuration does not depend on it.
fn state_file(facts: &Facts<'_>) -> Option<Check> {
    let status = facts.state_file.as_ref()?;
    let of = |sentence: &str| Condition::process(Kind::State, "the state file", sentence);
    let mut check = match &status.kept {
        Ok(state) => Check::new("state", state.clone()),
        Err(fault) => Check {
            conditions: vec![of(fault)],
            ..Check::new("state", "a restart would lose what is not kept".to_owned())
        },
    };
    check.conditions.extend(status.aside.iter().map(|aside| {
        let aside = aside.display();
        of(&format!(
            "was set aside as {aside}: claims were decided anew; compare, then remove that file"
        ))
    }));
    Some(check)
}

/// Checks certificates by ACME. Never fails readiness: without its certificate one tenant's listener refuses, and what was issued is served.
fn acme(facts: &Facts<'_>) -> Option<Check> {
    let status = facts.acme.as_ref()?;
    let conditions = status.conditions();
    if status.certificates.is_empty() && conditions.is_empty() {
        return None;
    }
    Some(Check { conditions, ..Check::new("acme", status.summary()) })
}

/// Checks the loads of files. Never fails readiness, because the last loaded configuration is served.
fn files(facts: &Facts<'_>) -> Check {
    let loads = facts.loads;
    let at = |time: SystemTime| {
        let time = jiff::Timestamp::try_from(time).unwrap_or_default();
        let age = facts.now.saturating_sub(time.as_second()).max(0);
        format!("{time:.0} ({age} s ago)")
    };
    let state = match (loads.succeeded, loads.unchanged) {
        (None, _) => "no load has been successful yet".to_owned(),
        (Some(loaded), None) => format!("last successful load {}", at(loaded)),
        (Some(loaded), Some(seen)) => {
            format!("last successful load {}, unchanged since, seen {}", at(loaded), at(seen))
        }
    };
    let mut check = Check::new("files", state);
    let of = |subject: String, sentence| Condition::process(Kind::Files, subject, sentence);
    let stuck = loads.stuck.iter().map(|path| {
        let sentence = "is on a file system that does not answer: what was loaded before is served";
        of(path.display().to_string(), sentence)
    });
    check.conditions.extend(stuck);
    if loads.overdue {
        let sentence = "was given up: too many files do not answer";
        check.conditions.push(of("the last load".to_owned(), sentence));
    }
    if loads.over_budget > 0 {
        let sentence = "are not read: a tenant's share of the memory for named files is used";
        check.conditions.push(of(format!("{} files", loads.over_budget), sentence));
    }
    check
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
