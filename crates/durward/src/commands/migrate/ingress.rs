//! Translates Ingresses into documents; `kubectl get ingress,service,endpointslice,secret -A -o yaml` writes them.

use std::io::Write as _;
use std::path::PathBuf;

use durward_migrate::Effect;
use durward_migrate::ingress::{self, IngressOptions};

use crate::cli::MigrateIngress;
use crate::commands::migrate::{hand_over, read};
use crate::failure::{Exit, Failure};
use crate::output::count;

/// Prints or writes the documents; fails if they let through what the Ingresses did not.
pub(super) fn migrate(arguments: &MigrateIngress) -> Result<Exit, Failure> {
    let texts = read(&arguments.files)?;
    let (address, passthrough) = match *arguments.address {
        [address] => (address, None),
        [address, passthrough] => (address, Some(passthrough)),
        _ => return Err(Failure::usage("--address may be given once or twice")),
    };
    let options = IngressOptions {
        address,
        passthrough,
        egress: arguments.egress_address.clone(),
        tenant: arguments.tenant.clone(),
        class: arguments.class.clone(),
    };
    let migrated = ingress::migrate(&texts, &options)
        .map_err(|fault| Failure::InvalidConfig { message: fault.to_string() })?;
    hand_over(arguments.out.as_deref(), &migrated.documents, &migrated.files)?;
    let mut notes = anstream::stderr();
    for note in &migrated.notes {
        writeln!(notes, "{note}")?;
    }
    let of = |effect| migrated.notes.iter().filter(|note| note.effect == effect).count();
    let wider = of(Effect::Wider);
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from("FILE"));
    writeln!(
        notes,
        "{}; {wider} wider than it was, {} narrower; next: durward validate -c {}",
        count(migrated.documents.len(), "tenant"),
        of(Effect::Narrower),
        out.display()
    )?;
    Ok(if wider == 0 { Exit::Ok } else { Exit::FailedCheck })
}
