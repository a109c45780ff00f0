//! The check of certificates: lifetimes by the present clock, and faults of their files at the last load.

use durward_model::Certificate;
use durward_model::verdict::Finding;

use super::checks::tenant_of;
use super::{Check, Facts};
use crate::app::condition::{Condition, Kind};
use crate::inspect;

pub(super) fn certificates(facts: &Facts<'_>) -> Option<Check> {
    let (mut conditions, mut number) = (Vec::new(), 0);
    for tenant in facts.view.snapshot.tenants.values() {
        let shown = tenant.listeners.iter().filter_map(|one| Some((one.to_string(), one.tls()?)));
        let to_clients = shown.flat_map(|(place, tls)| {
            tls.certificates.iter().map(move |certificate| (place.clone(), certificate))
        });
        let to_upstreams = tenant.upstreams.iter().filter_map(|upstream| {
            let certificate = upstream.tls.as_ref()?.client_certificate.as_ref()?;
            Some((format!("upstream {}", upstream.name), certificate))
        });
        for (place, certificate) in to_clients.chain(to_upstreams) {
            number += 1;
            let Some(sentence) = lifetime(certificate, facts.now) else { continue };
            let subject = format!("certificate {} at {place}", certificate.name);
            conditions.push(Condition::of(Kind::Certificate, &tenant.id, subject, sentence));
        }
    }
    let findings = facts.view.verdicts.findings();
    let of_files = findings.filter(|(_, finding)| is_about_certificates(finding));
    conditions.extend(of_files.map(|(verdict, finding)| Condition {
        kind: Kind::Certificate,
        tenant: tenant_of(verdict),
        subject: format!("{}:", finding.origin),
        sentence: finding.to_string(),
    }));
    if number == 0 && conditions.is_empty() {
        return None;
    }
    let faults = conditions.len();
    let state = format!("{number} served, {faults} with a fault");
    Some(Check { conditions, ..Check::new("certificates", state) })
}

/// Returns true for findings about certificates, except those about lifetimes: these are compared with the present clock instead.
fn is_about_certificates(finding: &Finding) -> bool {
    let of_files = ["Certificate", "IpSan", "Authority", "Revocations"];
    let lifetime = ["CertificateExpired", "CertificateNotYetValid", "CertificateEndsSoon"];
    of_files.iter().any(|prefix| finding.reason.starts_with(prefix))
        && !lifetime.contains(&&*finding.reason)
}

fn lifetime(certificate: &Certificate, now: i64) -> Option<String> {
    let (from, to) = (certificate.not_before, certificate.not_after);
    if now > to {
        return Some(format!("expired at {}", inspect::moment(to)));
    }
    if now < from {
        return Some(format!("is not valid before {}", inspect::moment(from)));
    }
    certificate.ends_soon(now).then(|| format!("ends at {}: renew it", inspect::moment(to)))
}
