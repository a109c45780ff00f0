//! Every directive of Squid 5 and 6, by what becomes of it. A test counts them.

mod tables;

use super::lines::Line;
use super::notes::Notes;
pub(super) use tables::PARENTS;
use tables::{HARMLESS, LIMITS, REWRITES, TRANSLATED};

/// Treatment of a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It becomes part of documents, or its own notes say why not.
    Translated,
    /// It does not decide who may go where, nor from which address.
    Harmless,
    /// Configured in another place.
    Elsewhere(&'static str),
    /// Without it more is let through.
    Opens(&'static str),
    /// Without it less works.
    Closes(&'static str),
    /// Without it clients leave from other addresses, or are taken for others.
    ChangesAddress(&'static str),
    /// Squid has no directive of this name.
    Unknown,
}

/// The class of a directive.
pub(super) fn class(name: &str) -> Class {
    let is_in = |names: &[&str]| names.contains(&name);
    if is_in(TRANSLATED) || is_in(PARENTS) {
        return Class::Translated;
    }
    if is_in(LIMITS) {
        return Class::Elsewhere(
            "time, size, bandwidth and connections are limits of the tenant: spec.limits",
        );
    }
    if is_in(REWRITES) {
        return Class::Opens(
            "nothing looks into answers, rewrites requests or asks other programs",
        );
    }
    if is_in(HARMLESS) {
        return Class::Harmless;
    }
    let text = match name {
        "access_log" | "logformat" | "note" => {
            "every request and tunnel is recorded; the command line of run says where"
        }
        "deny_info" => "the page that says no names the rule and spec.egress.contact",
        "external_acl_type" => "no other program is asked; lines that use such a list are reported",
        "tcp_outgoing_tos"
        | "clientside_tos"
        | "qos_flows"
        | "zph_local"
        | "mark_client_connection"
        | "mark_client_packet" => "packets are not marked for queues",
        "spoof_client_ip" => "clients always leave from the tenant's addresses",
        "udp_outgoing_address" => "names are asked for from the tenant's own address",
        "auth_schemes" => "credentials are Basic or Bearer",
        "client_netmask" => "logs have the client's whole address",
        "max_filedesc" | "max_filedescriptors" | "max_open_disk_fds" => {
            "open files are shared out among tenants: docs/guide/operations.md"
        }
        _ => return other(name),
    };
    Class::Elsewhere(text)
}

fn other(name: &str) -> Class {
    match name {
        "append_domain" | "dns_defnames" | "hosts_file" => Class::Closes(
            "names are looked up as clients write them: by the host, or by spec.egress.resolvers",
        ),
        "ftp_port" => Class::Closes("clients cannot speak FTP to the proxy"),
        "on_unsupported_protocol" => Class::Closes("what is no HTTP, TLS or SOCKS is refused"),
        "request_header_add" | "request_header_replace" => {
            Class::Closes("requests are sent on with the client's own fields")
        }
        "follow_x_forwarded_for" | "proxy_protocol_access" => Class::ChangesAddress(
            "clients are told apart by the address they connect from: those behind another proxy or load balancer are that one's tenant",
        ),
        "tcp_outgoing_mark" => Class::ChangesAddress(
            "packets are not marked: where marks choose a route or an address, write a tenant for each",
        ),
        _ => Class::Unknown,
    }
}

/// Reports what becomes of a line, unless its translation does.
pub(super) fn report(line: &Line, notes: &mut Notes) {
    let name = line.name();
    let arguments: Vec<&str> = line.arguments().iter().map(String::as_str).collect();
    match (name, class(name)) {
        ("follow_x_forwarded_for" | "proxy_protocol_access", _)
            if arguments.first() == Some(&"deny") => {}
        ("ssl_bump", _) => bump(line, &arguments, notes),
        (_, Class::Translated | Class::Harmless) => {}
        (_, Class::Elsewhere(text)) => notes.elsewhere(line, format!("{name}: {text}")),
        (_, Class::Opens(text)) => notes.wider(line, format!("{name} has no equal: {text}")),
        (_, Class::Closes(text)) => notes.narrower(line, format!("{name}: {text}")),
        (_, Class::ChangesAddress(text)) => notes.other_address(line, format!("{name}: {text}")),
        (_, Class::Unknown) => {
            notes.wider(line, format!("{name} is no directive that is known here"))
        }
    }
}

/// TLS stays between client and server, which is what splicing means.
fn bump(line: &Line, arguments: &[&str], notes: &mut Notes) {
    match arguments.first() {
        Some(&("splice" | "peek" | "none")) => {
            notes.elsewhere(line, "ssl_bump: TLS is never opened, tunnels are judged by the name that is asked for");
        }
        _ => notes.wider(
            line,
            "ssl_bump: TLS is never opened, so requests inside tunnels are not judged; sniMustMatch: true at least compares names",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_directive_has_one_class() {
        let lists = [TRANSLATED, PARENTS, LIMITS, REWRITES, HARMLESS];

        let all: Vec<&str> = lists.iter().copied().flatten().copied().collect();

        let unique: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(unique.len(), all.len(), "a directive is in two lists");
        assert!(all.len() > 377, "{}", all.len());
        assert!(all.iter().all(|name| class(name) != Class::Unknown));
        assert_eq!(class("frobnicate"), Class::Unknown);
        assert_eq!(class("refresh_pattern"), Class::Harmless);
        assert!(matches!(class("tcp_outgoing_mark"), Class::ChangesAddress(_)));
        assert!(matches!(class("url_rewrite_program"), Class::Opens(_)));
    }
}
