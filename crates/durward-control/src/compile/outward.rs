//! `spec.egress`: where a tenant may go, and who may use its forward proxy.
//!
//! A bad rule leaves the proxy out: without it something would be let through, or not, that was meant otherwise. Deliberately absent:
//! lookups.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use durward_model::ForwardService;
use durward_model::client_auth::HolderMatch;
use durward_model::egress::{Host, HostMatch, Mode, NameServer, Parent, Policy, Rule};
use durward_model::secret::Secret;

use super::certificates::Files;
use super::listener::{Outward, Workshop};
use super::report::{Field, Report};
use super::{credentials, keys, trust, words};
use crate::place::{At, Place};
use crate::spec::egress::{EgressSpec, ModeSpec, ParentSpec, PortsSpec, RuleSpec};
use crate::spec::ingress::IngressSpec;

/// Returns the tenant's egress policy, or `None` after an error.
pub(crate) fn policy(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    spec: &EgressSpec,
) -> Option<Arc<Policy>> {
    let field = &Field::SPEC.name("egress");
    let before = report.errors();
    let deny = rules(report, files, spec.deny.as_ref(), field, "deny");
    let allow = rules(report, files, spec.allow.as_ref(), field, "allow");
    let contact = spec.contact.as_ref();
    let contact = report.check_optional("BadContact", contact, &field.name("contact"), printable);
    let list = field.name("resolvers");
    let resolvers = each(&spec.resolvers, &list, |written, field| {
        report.check("BadResolver", written, field, name_server)
    });
    let roots_field = field.name("resolverCaFile");
    let roots = trust::roots(report, files, spec.resolver_ca_file.as_ref(), &roots_field);
    let secured = spec.resolvers.iter().any(|server| server.starts_with("tls://"));
    if let Some(file) = spec.resolver_ca_file.as_ref().filter(|_| !secured) {
        let sentence = "means nothing here: none of the resolvers is asked by TLS";
        report.error("FieldUnfitting", file.place, &roots_field, sentence);
    }
    let list = field.name("parents");
    let parents =
        each(&spec.parents, &list, |written, field| parent(report, files, written, field));
    let mode = mode(report, spec, field);
    if report.errors() > before {
        return None;
    }
    Some(Arc::new(Policy {
        mode,
        deny,
        allow,
        contact: contact?,
        sni_must_match: spec.sni_must_match.is_some_and(|wanted| wanted.value),
        resolvers,
        resolver_roots: roots?,
        parents,
    }))
}

fn mode(report: &mut Report<'_>, spec: &EgressSpec, field: &Field<'_>) -> Mode {
    let Some(mode) = spec.mode else { return Mode::Enforce };
    match mode.value {
        ModeSpec::Enforce => Mode::Enforce,
        ModeSpec::Report => Mode::Report,
        ModeSpec::Open => {
            if let Some(rules) = &spec.deny {
                let sentence = "is not asked in mode Open: write Report or Enforce, or remove it";
                report.warning("RulesUnused", rules.place, &field.name("deny"), sentence);
            }
            Mode::Open
        }
    }
}

/// Rules that no proxy evaluates mostly mean that the proxy was forgotten.
pub(crate) fn unasked(report: &mut Report<'_>, spec: &EgressSpec) {
    let field = Field::SPEC.name("egress");
    let lists = [("allow", spec.allow.as_ref()), ("deny", spec.deny.as_ref())];
    for (name, rules) in lists {
        if let Some(rules) = rules {
            let sentence =
                "is asked by nobody: the tenant has neither egress.proxy nor egress.transparent";
            report.warning("RulesUnused", rules.place, &field.name(name), sentence);
        }
    }
}

/// All values, even when one is bad, so that each error is reported.
fn each<T, V>(
    written: &[At<T>],
    list: &Field<'_>,
    mut read: impl FnMut(&At<T>, &Field<'_>) -> Option<V>,
) -> Vec<V> {
    written.iter().enumerate().filter_map(|(at, item)| read(item, &list.index(at))).collect()
}

/// Returns the rules of a list that are sound; the others are reported.
pub(crate) fn rules(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    written: Option<&At<Vec<At<RuleSpec>>>>,
    parent: &Field<'_>,
    name: &'static str,
) -> Vec<Rule> {
    let Some(written) = written else { return Vec::new() };
    let list = parent.name(name);
    let rules = written.iter().enumerate();
    rules
        .filter_map(|(at, spec)| {
            let place = RulePlace { field: &list.index(at), list: name, at };
            rule(report, files, spec, &place)
        })
        .collect()
}

/// The list a rule is in, and its place there.
struct RulePlace<'a> {
    field: &'a Field<'a>,
    list: &'static str,
    at: usize,
}

fn rule(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    spec: &At<RuleSpec>,
    place: &RulePlace<'_>,
) -> Option<Rule> {
    let field = place.field;
    let before = report.errors();
    let name = report.check_optional("BadName", spec.name.as_ref(), &field.name("name"), rule_name);
    let hosts =
        one_and_more(&spec.host, &spec.hosts, (field, "host", "hosts"), |written, field| {
            report.check("BadHost", written, field, host_match)
        });
    let file = spec.hosts_file.as_ref();
    let list = file.and_then(|file| files.names(report, file, &field.name("hostsFile")));
    let blocks =
        one_and_more(&spec.cidr, &spec.cidrs, (field, "cidr", "cidrs"), |written, field| {
            report.network(written, field)
        });
    let ports =
        each(&spec.ports, &field.name("ports"), |written, field| ports(report, written, field));
    let methods = each(&spec.methods, &field.name("methods"), |written, field| {
        report.check("BadMethod", written, field, words::method)
    });
    let names_nothing = hosts.is_empty() && spec.hosts_file.is_none() && blocks.is_empty();
    if names_nothing && ports.is_empty() && methods.is_empty() {
        let all = if place.list == "deny" {
            "denies everything"
        } else {
            "allows every name and address"
        };
        let sentence = format!("says nothing, and so {all}: name a host or cidr");
        if report.errors() == before {
            report.error("RuleEmpty", spec.place, field, &sentence);
        }
    }
    if report.errors() > before {
        return None;
    }
    Some(Rule {
        opens_guarded: true,
        name: name?.unwrap_or_else(|| Arc::from(format!("{}[{}]", place.list, place.at))),
        hosts,
        lists: list.into_iter().collect(),
        blocks,
        ports,
        methods,
        origin: report.source().origin(spec.place),
    })
}

fn one_and_more<V>(
    one: &Option<At<String>>,
    more: &[At<String>],
    (field, single, several): (&Field<'_>, &str, &str),
    mut read: impl FnMut(&At<String>, &Field<'_>) -> Option<V>,
) -> Vec<V> {
    let first = one.as_ref().map(|written| read(written, &field.name(single)));
    let mut values: Vec<V> = first.flatten().into_iter().collect();
    values.extend(each(more, &field.name(several), read));
    values
}

/// A name goes into records and headers.
fn rule_name(text: &str) -> Result<Arc<str>, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !(1..=63).contains(&text.len()) || !text.bytes().all(plain) {
        return Err(
            "is not a name of a rule: use 1 to 63 letters, digits, '-', '_' or '.'".to_owned()
        );
    }
    if text == durward_model::egress::DEFAULT || text == durward_model::egress::OPEN {
        return Err("is the name of what is decided without a rule: use another".to_owned());
    }
    Ok(Arc::from(text))
}

fn printable(text: &str) -> Result<Arc<str>, String> {
    if (1..=200).contains(&text.len()) && text.chars().all(|character| !character.is_control()) {
        Ok(Arc::from(text))
    } else {
        Err("is not a contact: use 1 to 200 characters, none of them a control character"
            .to_owned())
    }
}

pub(super) fn host_match(text: &str) -> Result<HostMatch, String> {
    if text == "*" {
        return Ok(HostMatch::Any);
    }
    if words::local_address(text).is_ok() {
        return Err("is an address, and names are matched here: write it as cidr".to_owned());
    }
    if let Some(suffix) = text.strip_prefix('.') {
        return words::host_name(suffix).map(HostMatch::Suffix);
    }
    words::host_pattern(text).map(HostMatch::Pattern)
}

fn ports(
    report: &mut Report<'_>,
    written: &At<PortsSpec>,
    field: &Field<'_>,
) -> Option<(u16, u16)> {
    let text = &written.value.0;
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let port = |part: &str| part.trim().parse::<u16>().ok().filter(|port| *port > 0);
    match (port(from), port(to)) {
        (Some(from), Some(to)) if from <= to => Some((from, to)),
        _ => {
            let sentence =
                format!("{text:?} is no port from 1 to 65535 and no range of them like 8000-8100");
            report.error("BadPort", written.place, field, &sentence);
            None
        }
    }
}

fn name_server(text: &str) -> Result<NameServer, String> {
    let fault = || {
        "is no DNS server: write an address like 10.0.0.53, one with a port like 10.0.0.53:5353, or tls://10.0.0.53#dns.example"
            .to_owned()
    };
    let (rest, tls) = match text.strip_prefix("tls://") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let (place, name) = match rest.split_once('#') {
        Some((place, name)) if tls => (place, Some(words::host(name).map_err(|_| fault())?)),
        Some(_) => return Err(fault()),
        None => (rest, None),
    };
    let port = if tls { 853 } else { 53 };
    let bare = || words::local_address(place).map(|address| SocketAddr::new(address, port));
    let address = place.parse::<SocketAddr>().or_else(|_| bare()).map_err(|_| fault())?;
    if address.port() == 0 {
        return Err(fault());
    }
    let tls = tls.then(|| name.unwrap_or_else(|| Arc::from(address.ip().to_string())));
    Ok(NameServer { address, tls })
}

fn parent(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    spec: &At<ParentSpec>,
    field: &Field<'_>,
) -> Option<Parent> {
    let before = report.errors();
    let at = report.check("BadParent", &spec.address, &field.name("address"), parent_address);
    let hosts = each(&spec.hosts, &field.name("hosts"), |written, field| {
        report.check("BadHost", written, field, host_match)
    });
    let file_field = field.name("credentialFile");
    let credential = spec.credential_file.as_ref();
    let credential = credential.and_then(|file| pair(report, files, file, &file_field));
    if report.errors() > before {
        return None;
    }
    let (host, port) = at?;
    Some(Parent { host, port, hosts, credential })
}

fn parent_address(text: &str) -> Result<(Host, u16), String> {
    let fault =
        || "is no address of a proxy: write a host and a port, like proxy.example:3128".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(fault)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(fault)?;
    Host::parse(bare).map(|host| (host, port)).map_err(|_| fault())
}

/// `NAME:SECRET` in a file.
fn pair(
    report: &mut Report<'_>,
    files: &mut Files<'_>,
    file: &At<String>,
    field: &Field<'_>,
) -> Option<Secret> {
    let found = files.secrets(report, file, field)?;
    let pair = found.bytes.trim_ascii();
    let printable = pair.iter().all(|byte| *byte >= 0x20 && *byte != 0x7f);
    if !printable || !pair.contains(&b':') {
        let sentence = format!("{:?} does not hold one line NAME:SECRET", file.value);
        report.error("BadCredential", file.place, field, &sentence);
        return None;
    }
    // A line that can be read as a credential of clients counts as one: the parent would be sent the hash of their secret.
    let client = std::str::from_utf8(pair).ok().and_then(credentials::credential);
    let ids = [Some(keys::of_account(pair)), client.as_ref().map(keys::of_client)];
    let ids = ids.into_iter().flatten();
    if let Some(holder) = ids.clone().find_map(|id| files.holder(&id)) {
        let sentence = format!(
            "{:?} holds a secret {holder}: a secret is one tenant's, use another",
            file.value
        );
        report.error("SecretTaken", file.place, field, &sentence);
        return None;
    }
    let origin = report.source().origin(file.place);
    ids.for_each(|id| files.use_secret(id, false, origin.clone()));
    Some(Secret::new(pair.to_vec()))
}

impl Workshop<'_, '_, '_, '_> {
    /// The forward proxy an entry asks for, or `None` after an error.
    pub(super) fn forward(
        &mut self,
        spec: &At<IngressSpec>,
        address: Option<IpAddr>,
        field: &Field<'_>,
    ) -> Option<ForwardService> {
        let Outward { spec: written, policy } = self.outward?;
        let before = self.report.errors();
        let secured = spec.certificate.is_some() || !spec.certificates.is_empty();
        let tls = secured.then(|| self.tls(spec, address, field));
        let tls = tls.map_or(Some(None), |tls| tls.map(Some));
        let credentials = match &written.credentials {
            Some(credentials) => {
                let (parent, file) = (field.name("credentials"), &credentials.file);
                let (field, shared) = (parent.name("file"), written.shared);
                credentials::read(self.report, self.files, file, shared, &field)
            }
            None => Vec::new(),
        };
        let names = field.name("certificateNames");
        let holders = each(&written.certificate_names, &names, |name, field| {
            self.report.check("BadName", name, field, holder)
        });
        if let (Some(name), None) =
            (written.certificate_names.first(), &written.client_certificates)
        {
            let sentence =
                "means nothing here: no client certificate is asked for, write clientCertificates";
            self.report.error("FieldUnfitting", name.place, &names, sentence);
        }
        let open = written.credentials.is_none()
            && written.client_certificates.is_none()
            && written.allowed_sources.is_none();
        if open && self.report.errors() == before {
            self.everybody(written.address.place, field);
        }
        if self.report.errors() > before {
            return None;
        }
        let policy = Arc::clone(policy?);
        Some(ForwardService {
            tls: tls?,
            credentials,
            holders,
            shared: written.shared,
            policy,
            transparent: None,
        })
    }

    fn everybody(&mut self, place: Place, field: &Field<'_>) {
        let sentence = "is open to everybody who reaches it: write allowedSources, credentials or clientCertificates";
        self.report.warning("ProxyOpen", place, field, sentence);
    }
}

pub(super) fn holder(text: &str) -> Result<HolderMatch, String> {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let (name, prefix) = match text.strip_suffix('*') {
        Some(prefix) => (prefix, true),
        None => (text, false),
    };
    if name.is_empty() || name.contains('*') || !printable {
        return Err("is not a name of a certificate: write a common name, DNS name or URI, with a * at its end at most".to_owned());
    }
    Ok(if prefix {
        HolderMatch::Prefix(name.to_owned())
    } else {
        HolderMatch::Exact(name.to_owned())
    })
}
