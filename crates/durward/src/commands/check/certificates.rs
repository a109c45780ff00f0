//! Checks that certificates name their address, are valid for long enough, have a complete chain and match their key; and the validity of client
//! authorities.

use std::net::IpAddr;
use std::sync::Arc;

use durward_model::certificate::{ends_soon, span_text};
use durward_model::{Certificate, Listener, Snapshot, Tenant};

use crate::commands::check::Category;
use crate::inspect::{self, Chain};
use crate::output::count;

/// Checks every certificate of the configuration.
pub(crate) fn check(snapshot: &Snapshot, now: i64) -> Category {
    let mut category = Category::new("certificates");
    for tenant in snapshot.tenants.values() {
        for listener in &tenant.listeners {
            listener_certificates(&mut category, listener, now);
        }
        for upstream in &tenant.upstreams {
            let certificate = upstream.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref());
            if let Some(certificate) = certificate {
                let what = format!(
                    "{} client certificate {} for {}",
                    tenant.id, certificate.name, upstream.name
                );
                judge(
                    &mut category,
                    &what,
                    certificate,
                    now,
                    "replace its files; they are picked up at once",
                );
            }
        }
        client_authorities(&mut category, tenant, now);
    }
    category
}

fn listener_certificates(category: &mut Category, listener: &Listener, now: i64) {
    let Some(tls) = listener.tls() else { return };
    for certificate in &tls.certificates {
        let what = format!("{} certificate {} at {listener}", listener.tenant, certificate.name);
        let mut remedy = "replace its files, they are picked up at once".to_owned();
        if is_by_acme(listener, certificate) {
            "its renewal is overdue: /readyz?verbose of the gateway says why"
                .clone_into(&mut remedy);
        } else if let Some(command) = reissue(certificate, listener.address.0) {
            remedy.push_str(&format!("; a local authority: {command}"));
        }
        judge(category, &what, certificate, now, &remedy);
    }
    for order in listener.acme.orders.iter().filter(|order| !order.issued) {
        let names = order.names_text();
        category.warn(
            format!("{} certificate for {names} at {listener} has not been issued yet", listener.tenant),
            "handshakes are refused until then; /readyz?verbose of the gateway says when it is tried next",
        );
    }
    // What is ordered names what the document says; clients that are told apart by name check the name.
    if listener.names.is_some() {
        return;
    }
    if let Some(first) = tls.certificates.first().filter(|first| !is_by_acme(listener, first)) {
        address_named(category, listener, first, listener.address.0);
    }
}

fn is_by_acme(listener: &Listener, certificate: &Certificate) -> bool {
    listener.acme.orders.iter().any(|order| order.file == certificate.chain_file)
}

fn address_named(
    category: &mut Category,
    listener: &Listener,
    certificate: &Certificate,
    address: IpAddr,
) {
    if !certificate.covers_ip(address) {
        let command =
            reissue(certificate, address).map(|command| format!("; a local authority: {command}"));
        category.warn(
            format!("{} certificate {} does not name {address}", listener.tenant, certificate.name),
            format!("clients that check the address refuse it{}", command.unwrap_or_default()),
        );
    }
}

/// Returns the command that issues the certificate again, with its names and `address`; `None` if its files have other names than that command would
/// give.
fn reissue(certificate: &Certificate, address: IpAddr) -> Option<String> {
    let file = &certificate.chain_file;
    let fits = file.extension()? == "crt" && certificate.key_file == file.with_extension("key");
    let stem = file.file_stem()?.to_str().filter(|stem| fits && *stem != "ca")?;
    let dir = match file.parent()?.to_str()? {
        "" => ".",
        dir => dir,
    };
    let mut words = vec![format!("--dir {} --name {}", quoted(dir), quoted(stem))];
    let others = certificate.ip_names.iter().filter(|known| **known != address);
    words.extend(std::iter::once(&address).chain(others).map(|ip| format!("--ip {ip}")));
    words.extend(certificate.dns_names.iter().map(|name| format!("--dns {}", quoted(name))));
    Some(format!("durward certs issue {} --force", words.join(" ")))
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@".contains(&byte);
    if word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn judge(category: &mut Category, what: &str, certificate: &Certificate, now: i64, remedy: &str) {
    let before = category.checks.len();
    lasts(category, what, certificate.not_before, certificate.not_after, now, remedy);
    let chain: Vec<&[u8]> = certificate.chain.iter().map(|der| &**der).collect();
    if let Chain::Broken { reason } = inspect::chain(&chain, &[]) {
        category.error(
            format!("{what}: the chain is broken: {reason}"),
            "the file holds the leaf first, then each issuer, without the root",
        );
    }
    if inspect::key_matches(certificate) == Some(false) {
        category.error(
            format!("{what}: the private key is another certificate's"),
            "replace both files together",
        );
    }
    if category.checks.len() == before {
        let names = certificate.ip_names.len() + certificate.dns_names.len();
        category.ok(format!(
            "{what}: {}, {}, {}",
            certificate.key_type,
            count(names, "name"),
            span_text(certificate.not_after - now)
        ));
    }
}

fn lasts(category: &mut Category, what: &str, from: i64, to: i64, now: i64, hint: &str) {
    if to <= now {
        category.error(format!("{what} ended on {}", inspect::date(to)), hint);
    } else if from > now {
        category.error(
            format!("{what} is valid only from {}", inspect::date(from)),
            "look at this host's clock, or wait",
        );
    } else if ends_soon(from, to, now) {
        category
            .warn(format!("{what} ends in {} ({})", span_text(to - now), inspect::date(to)), hint);
    }
}

fn client_authorities(category: &mut Category, tenant: &Tenant, now: i64) {
    let mut seen: Vec<Arc<str>> = Vec::new();
    for listener in &tenant.listeners {
        let Some(trust) = listener.tls().and_then(|tls| tls.client_auth.trust()) else { continue };
        if seen.contains(&trust.generation) {
            continue;
        }
        seen.push(Arc::clone(&trust.generation));
        for facts in trust.roots.iter().filter_map(|der| inspect::facts(der).ok()) {
            let what = format!("{} client authority {}", tenant.id, facts.subject);
            let before = category.checks.len();
            lasts(
                category,
                &what,
                facts.not_before,
                facts.not_after,
                now,
                "add the new authority beside it before it ends",
            );
            if category.checks.len() == before {
                category.ok(format!("{what}: {}", span_text(facts.not_after - now)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_command_as_they_are() {
        assert_eq!(quoted("/etc/durward/certs"), "/etc/durward/certs");
        assert_eq!(quoted("*.acme.example"), "'*.acme.example'");
        assert_eq!(quoted("a b's"), r"'a b'\''s'");
    }
}
