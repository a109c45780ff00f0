//! `durward certs list`: every certificate of a configuration or directory, with its expiry and its chain.
//!
//! Deliberately absent: private keys; only whether one belongs to its certificate is shown.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durward_model::acme::{Name, Order};
use durward_model::certificate::ends_soon;
use durward_model::upstream::TrustRoots;
use durward_model::{Certificate, Listener, Snapshot, Tenant};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;

use crate::app::acme::store::{Ledger, Store};
use crate::cli::CertsList;
use crate::config;
use crate::failure::{Exit, Failure};
use crate::inspect::{self, Facts};
use crate::live;
use crate::output::{Format, Screen, Table, Tone, count, plain};
use durward_control::source::regular::{self, FileKind};

/// Line of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// Tenant of the certificate; empty for a directory.
    tenant: String,
    /// File stem, or the document's name for it.
    name: String,
    /// Use of the certificate.
    used_for: String,
    #[serde(flatten)]
    facts: Facts,
    /// Whole days until it expires.
    days_left: i64,
    /// True in the last third of its lifetime, at most 14 days.
    ends_soon: bool,
    /// `ok`, the name of the last issuer, or the fault.
    chain: String,
    /// Place in the document that names it.
    origin: Option<String>,
    /// Orders of a certificate by ACME.
    #[serde(skip_serializing_if = "Option::is_none")]
    acme: Option<ByAcme>,
}

/// Orders of a certificate by ACME.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ByAcme {
    /// URL of the authority's directory.
    directory: Arc<str>,
    /// False while there is no certificate yet.
    issued: bool,
    /// Time of the next attempt in seconds since the Unix epoch, as the gateway planned it last.
    next_attempt: Option<i64>,
    /// Reason the last attempt failed.
    fault: Option<String>,
}

/// Lists certificates, the first to expire at the top.
pub(crate) fn list(arguments: &CertsList) -> Result<Exit, Failure> {
    let now = inspect::now();
    let (mut rows, rejected) = match &arguments.dir {
        Some(dir) => (of_directory(dir, now)?, 0),
        None => {
            let loaded = live::load(&arguments.config, &arguments.live)?;
            let rejected = loaded
                .verdicts
                .iter()
                .filter(|verdict| verdict.outcome != durward_model::verdict::Outcome::Accepted);
            let issuance = config::issuance(&arguments.config);
            let ledger = issuance.map(|issuance| Store::new(issuance.directory).ledger());
            let ledger = ledger.unwrap_or_default();
            (of_snapshot(&loaded.snapshot, &ledger, now), rejected.count())
        }
    };
    rows.sort_by(|a, b| {
        (a.facts.not_after, &a.tenant, &a.name).cmp(&(b.facts.not_after, &b.tenant, &b.name))
    });
    print(&rows, rejected, arguments.output.format)?;
    Ok(Exit::Ok)
}

fn print(rows: &[Row], rejected: usize, format: Format) -> Result<(), Failure> {
    let mut screen = Screen::stdout();
    if matches!(format, Format::Json | Format::Yaml) {
        return screen.value(&rows, format);
    }
    let wide = format == Format::Wide;
    let has_acme = rows.iter().any(|row| row.acme.is_some());
    let mut header =
        vec!["TENANT", "NAME", "USED FOR", "NAMES", "ISSUER", "KEY", "ENDS", "DAYS", "CHAIN"];
    if has_acme {
        header.push("NEXT ORDER");
    }
    if wide {
        header.extend(["SUBJECT", "WRITTEN AT"]);
    }
    let mut table = Table::new(&header);
    for row in rows {
        table.row(cells(row, wide, has_acme));
    }
    table.print(&mut screen)?;
    if rejected > 0 {
        let documents = count(rejected, "document");
        screen.line(format!("\n{documents} not wholly accepted; see: durward validate"))?;
    }
    Ok(())
}

fn cells(row: &Row, wide: bool, has_acme: bool) -> Vec<(String, Tone)> {
    let is_there = row.acme.as_ref().is_none_or(|acme| acme.issued);
    let days = match row.days_left {
        ..0 => Tone::Bad,
        _ if row.ends_soon => Tone::Warn,
        _ => Tone::Good,
    };
    let chain = if row.chain.starts_with("broken") { Tone::Bad } else { Tone::Plain };
    let dash = |text: &str| plain(if text.is_empty() { "-" } else { text });
    let mut cells = vec![
        dash(&row.tenant),
        plain(&row.name),
        dash(&row.used_for),
        dash(&row.facts.names.join(",")),
        dash(&row.facts.issuer),
        dash(&row.facts.key),
        if is_there { plain(inspect::date(row.facts.not_after)) } else { dash("") },
        if is_there { (row.days_left.to_string(), days) } else { dash("") },
        (row.chain.clone(), chain),
    ];
    if has_acme {
        let next = row.acme.as_ref().and_then(|acme| acme.next_attempt);
        cells.push(dash(&next.map(inspect::moment).unwrap_or_default()));
    }
    if wide {
        cells.push(plain(&row.facts.subject));
        cells.push(dash(row.origin.as_deref().unwrap_or_default()));
    }
    cells
}

fn of_snapshot(snapshot: &Snapshot, ledger: &Ledger, now: i64) -> Vec<Row> {
    snapshot.tenants.values().flat_map(|tenant| of_tenant(tenant, ledger, now)).collect()
}

fn of_tenant(tenant: &Tenant, ledger: &Ledger, now: i64) -> Vec<Row> {
    let mut rows = Vec::new();
    for listener in &tenant.listeners {
        let Some(tls) = listener.tls() else { continue };
        for certificate in &tls.certificates {
            let order =
                listener.acme.orders.iter().find(|order| order.file == certificate.chain_file);
            let row = leaf(tenant, certificate, &format!("listener {listener}"), &[], now);
            rows.extend(
                row.map(|row| Row { acme: order.map(|order| by_acme(order, ledger)), ..row }),
            );
        }
        let missing = listener.acme.orders.iter().filter(|order| !order.issued);
        rows.extend(missing.map(|order| not_issued(tenant, listener, order, ledger)));
        if let Some(trust) = tls.client_auth.trust() {
            rows.extend(roots(tenant, &trust.roots, &format!("clients of {listener}"), now));
        }
    }
    for upstream in &tenant.upstreams {
        let Some(tls) = &upstream.tls else { continue };
        if let TrustRoots::Private { roots: trusted, .. } = &tls.roots {
            rows.extend(roots(tenant, trusted, &format!("upstream {}", upstream.name), now));
        }
        if let Some(certificate) = &tls.client_certificate {
            rows.extend(leaf(tenant, certificate, &format!("to {}", upstream.name), &[], now));
        }
    }
    let mut seen = BTreeSet::new();
    rows.retain(|row| seen.insert((row.name.clone(), row.used_for.clone())));
    rows
}

fn by_acme(order: &Order, ledger: &Ledger) -> ByAcme {
    let record = ledger.certificates.get(&*order.id).cloned().unwrap_or_default();
    ByAcme {
        directory: Arc::clone(&order.directory),
        issued: order.issued,
        next_attempt: record.next,
        fault: record.fault,
    }
}

/// Returns the row of a certificate that has not been issued yet.
fn not_issued(tenant: &Tenant, listener: &Listener, order: &Order, ledger: &Ledger) -> Row {
    let names = order.names.iter().map(|name| match name {
        Name::Dns(name) => format!("DNS:{name}"),
        Name::Ip(address) => format!("IP:{address}"),
    });
    let acme = by_acme(order, ledger);
    let fault = acme.fault.as_ref().map_or_else(String::new, |fault| format!(": {fault}"));
    Row {
        tenant: tenant.id.to_string(),
        name: order.names.first().map(Name::to_string).unwrap_or_default(),
        used_for: format!("listener {listener}"),
        facts: Facts { names: names.collect(), ..Facts::default() },
        days_left: 0,
        ends_soon: false,
        chain: format!("not issued yet{fault}"),
        origin: Some(order.origin.to_string()),
        acme: Some(acme),
    }
}

fn leaf(
    tenant: &Tenant,
    of: &Certificate,
    used_for: &str,
    roots: &[&[u8]],
    now: i64,
) -> Option<Row> {
    let ders: Vec<&[u8]> = of.chain.iter().map(|der| &**der).collect();
    let mut row = row(&of.name, used_for, &ders, roots, now).ok()?;
    if inspect::key_matches(of) == Some(false) {
        row.chain = "broken: the private key is another's".to_owned();
    }
    row.tenant = tenant.id.to_string();
    row.origin = Some(of.origin.to_string());
    Some(row)
}

fn roots(tenant: &Tenant, ders: &[Arc<[u8]>], used_for: &str, now: i64) -> Vec<Row> {
    let rows = ders.iter().filter_map(|der| row("authority", used_for, &[der], &[], now).ok());
    rows.map(|row| Row { tenant: tenant.id.to_string(), ..row }).collect()
}

fn row(
    name: &str,
    used_for: &str,
    ders: &[&[u8]],
    roots: &[&[u8]],
    now: i64,
) -> Result<Row, String> {
    let first = ders.first().ok_or_else(|| "no certificate".to_owned())?;
    let facts = inspect::facts(first)?;
    let chain = inspect::chain(ders, roots);
    Ok(Row {
        tenant: String::new(),
        name: name.to_owned(),
        used_for: used_for.to_owned(),
        days_left: facts.days_left(now),
        ends_soon: ends_soon(facts.not_before, facts.not_after, now),
        facts,
        chain: chain.word(),
        origin: None,
        acme: None,
    })
}

fn of_directory(dir: &Path, now: i64) -> Result<Vec<Row>, Failure> {
    let files = pem_files(dir)?;
    let roots: Vec<&[u8]> = files
        .iter()
        .flat_map(|(_, chain)| chain)
        .map(|der| &**der)
        .filter(|der| inspect::facts(der).is_ok_and(|facts| facts.authority))
        .collect();
    let rows = files.iter().filter_map(|(path, chain)| {
        let ders: Vec<&[u8]> = chain.iter().map(|der| &**der).collect();
        let name = path.strip_prefix(dir).unwrap_or(path).display().to_string();
        row(&name, "", &ders, &roots, now).ok()
    });
    Ok(rows.collect())
}

/// Returns the files with certificates in `dir`, sorted by name; subdirectories are ignored.
fn pem_files(dir: &Path) -> Result<Vec<(PathBuf, Vec<CertificateDer<'static>>)>, Failure> {
    let fault = |error| Failure::broken(format!("reading {}", dir.display()), error);
    let mut paths = fs::read_dir(dir)
        .map_err(fault)?
        .map(|entry| entry.map(|entry| entry.path()).map_err(fault))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    let certificates = |path: PathBuf| {
        let unread = |error: &regular::Unread| {
            // Skipped silently, a file would look as if it held no certificate.
            drop(writeln!(anstream::stderr(), "durward: {} {error}", path.display()));
        };
        let read = regular::read(&path, FileKind::Authorities).inspect_err(unread);
        let (_, bytes) = read.ok()?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes).flatten().collect();
        (!chain.is_empty()).then_some((path, chain))
    };
    Ok(paths.into_iter().filter(|path| path.is_file()).filter_map(certificates).collect())
}
