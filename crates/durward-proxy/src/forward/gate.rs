//! May it go, and to which addresses exactly: by name, then looked up once, then every address checked.
//!
//! What comes out is dialled as it is. Deliberately absent: a second lookup, which could answer otherwise.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use durward_model::egress::{Asked, Decided, Guarded, Host, Outcome, Policy};

use crate::core::Core;
use crate::forward::passage::Passage;
use crate::forward::record::Verdict;
use crate::prepared::TenantView;
use crate::refusal::Refusal;

/// The addresses to dial, all of them checked.
///
/// # Errors
/// [`Refusal::PolicyDenied`] with the rule, or why the name has no address.
pub(crate) async fn check(
    core: &Rc<Core>,
    view: &TenantView,
    policy: &Policy,
    asked: Asked<'_>,
    passage: &mut Passage,
) -> Result<Vec<SocketAddr>, Refusal> {
    if let Some(decided) = policy.before_lookup(asked) {
        return judge(policy, &decided, passage).map(|()| Vec::new());
    }
    let addresses = lookup(core, asked.host).await?;
    passage.resolved = Arc::clone(&addresses);
    let decided = {
        let prepared = core.shared.prepared.load();
        let neighbours = &prepared.neighbours;
        let itself = neighbours.accepts_everywhere(asked.port)
            && addresses.iter().any(|address| is_ours(*address));
        if itself {
            at_the_gateway()
        } else {
            policy.decide(&view.tenant().tenant.id, asked, &addresses, neighbours)
        }
    };
    judge(policy, &decided, passage)?;
    Ok(addresses.iter().map(|address| SocketAddr::new(*address, asked.port)).collect())
}

async fn lookup(core: &Core, host: &Host) -> Result<Arc<[IpAddr]>, Refusal> {
    let name = match host {
        Host::Address(address) => return Ok(Arc::from([*address])),
        Host::Name(name) => name,
    };
    let resolved = core.shared.resolver.lookup(name).await;
    let resolved = resolved.map_err(|error| Refusal::Unresolvable { detail: error.to_string() })?;
    Ok(resolved.addresses.iter().map(IpAddr::to_canonical).collect())
}

fn judge(policy: &Policy, decided: &Decided, passage: &mut Passage) -> Result<(), Refusal> {
    passage.rule = Arc::clone(&decided.rule);
    match decided.outcome {
        Outcome::Allow => passage.verdict = Verdict::Allowed,
        Outcome::Report => passage.verdict = Verdict::Reported,
        Outcome::Deny => {
            let (rule, contact) = (Arc::clone(&decided.rule), policy.contact.clone());
            return Err(Refusal::PolicyDenied { rule, contact });
        }
    }
    Ok(())
}

fn at_the_gateway() -> Decided {
    let rule = Arc::from(format!("guard:{}", Guarded::Gateway.word()));
    Decided { rule, outcome: Outcome::Deny, origin: None }
}

/// Whether the host itself has the address: then a socket can be bound to it.
fn is_ours(address: IpAddr) -> bool {
    std::net::UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}
