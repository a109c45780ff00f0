//! Policy check of a destination: by name, then by every address of one lookup.
//!
//! The checked addresses are dialled as they are. There is no second lookup, which could answer otherwise (DNS rebinding).

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use durward_model::egress::{Asked, Decided, Host, Outcome, Parent, Policy, Surroundings};

use crate::core::Core;
use crate::decisions::Passage;
use crate::decisions::Verdict;
use crate::dial::{self, Cleared, Reached};
use crate::files::Asker;
use crate::prepared::TenantView;
use crate::refusal::Refusal;
use crate::upstream::resolve::{Families, Unresolved};

/// Checks a requested destination and returns its allowed addresses.
///
/// # Errors
/// [`Refusal::PolicyDenied`] with the rule, or why the name does not resolve.
pub(crate) async fn check<'p>(
    core: &Rc<Core>,
    view: &TenantView,
    policy: &'p Policy,
    asked: Asked<'_>,
    passage: &mut Passage,
) -> Result<Cleared<'p>, Refusal> {
    if let Some(decided) = policy.before_lookup(asked) {
        judge(policy, &decided, passage)?;
    }
    match policy.parent(asked.host) {
        Some(parent) => through(core, view, (policy, parent), asked, passage).await,
        None => directly(core, view, policy, asked, passage).await,
    }
}

/// Opens a tunnel to a requested destination.
///
/// # Errors
/// Returns why the tunnel is denied or cannot be opened.
pub(crate) async fn tunnel(
    core: &Rc<Core>,
    view: &TenantView,
    policy: &Policy,
    asked: Asked<'_>,
    passage: &mut Passage,
) -> Result<Reached, Refusal> {
    let cleared = check(core, view, policy, asked, passage).await?;
    dial::connect(core, view, &cleared, asked, Some(passage)).await
}

async fn directly<'p>(
    core: &Rc<Core>,
    view: &TenantView,
    policy: &Policy,
    asked: Asked<'_>,
    passage: &mut Passage,
) -> Result<Cleared<'p>, Refusal> {
    let addresses = lookup(core, view, asked.host).await?;
    passage.resolved = Arc::clone(&addresses);
    let decided = around(core, view, |around| policy.decide(around, asked, &addresses))?;
    judge(policy, &decided, passage)?;
    Ok(Cleared { addresses: with_port(&addresses, asked.port), parent: None })
}

/// Checks a destination behind a parent proxy. The parent resolves names itself, so only a requested IP address can be checked here.
async fn through<'p>(
    core: &Rc<Core>,
    view: &TenantView,
    (policy, parent): (&Policy, &'p Parent),
    asked: Asked<'_>,
    passage: &mut Passage,
) -> Result<Cleared<'p>, Refusal> {
    let decided = match asked.host {
        Host::Name(_) => policy.decide_unresolved(asked),
        Host::Address(address) => {
            around(core, view, |around| policy.decide(around, asked, &[*address]))?
        }
    };
    judge(policy, &decided, passage)?;
    let addresses = lookup(core, view, &parent.host).await?;
    let met = around(core, view, |near| {
        addresses.iter().find_map(|address| near.guards(*address, parent.port))
    });
    if let Some(guarded) = met? {
        let rule = Arc::from(format!("guard:{}", guarded.word()));
        let decided = Decided { rule, outcome: Outcome::Deny, origin: None };
        judge(policy, &decided, passage)?;
    }
    Ok(Cleared { addresses: with_port(&addresses, parent.port), parent: Some(parent) })
}

fn with_port(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()
}

fn around<T>(
    core: &Core,
    view: &TenantView,
    with: impl FnOnce(Surroundings<'_>) -> T,
) -> Result<T, Refusal> {
    let prepared = core.shared.prepared.load();
    let host = core.shared.host.now().map_err(Refusal::Socket)?;
    let tenant = &view.tenant().tenant.id;
    Ok(with(Surroundings { tenant, neighbours: &prepared.neighbours, host: &host }))
}

async fn lookup(core: &Core, view: &TenantView, host: &Host) -> Result<Arc<[IpAddr]>, Refusal> {
    let name = match host {
        Host::Address(address) => return Ok(Arc::from([*address])),
        Host::Name(name) => name,
    };
    let resolver = view.resolver().unwrap_or(&core.shared.resolver);
    let shared = &core.shared;
    let asker = Asker { files: &shared.files, memory: &shared.memory, usage: &view.tenant().usage };
    let families = Families::of(&view.tenant().tenant.egress);
    let resolved = resolver.lookup_for(name, Some(asker), families).await;
    let resolved = resolved.map_err(|error| match error {
        Unresolved::TooMany => Refusal::FairShare { of: "lookups" },
        Unresolved::Memory => Refusal::Memory,
        error => Refusal::Unresolvable { detail: error.to_string() },
    })?;
    Ok(resolved.addresses.iter().map(IpAddr::to_canonical).collect())
}

fn judge(policy: &Policy, decided: &Decided, passage: &mut Passage) -> Result<(), Refusal> {
    passage.rule = Arc::clone(&decided.rule);
    match decided.outcome {
        Outcome::Allow => passage.verdict = Verdict::Allowed,
        Outcome::Report => passage.verdict = Verdict::Reported,
        Outcome::Deny => {
            passage.verdict = Verdict::Denied;
            let (rule, contact) = (Arc::clone(&decided.rule), policy.contact.clone());
            return Err(Refusal::PolicyDenied { rule, contact });
        }
    }
    Ok(())
}
