//! Reads an Ingress: `extract` takes hosts, paths, backends, TLS and annotations once, for all consumers.
//!
//! The function is pure and total: what cannot be served is a finding, and where requests for it could fall to a broader rule, a rule that
//! refuses them.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::annotations;
use super::asked::{
    Action, Asked, Backend, BackendProtocol, Host, IngressId, PathRule, RedirectTo, Rule,
    SecretRef, Settings, Tls,
};
use super::finding::{self, Effect, Findings};
use super::objects::{
    BackendPort, HttpPath, Ingress, IngressBackend, IngressClass, IngressRule, IngressTls, Service,
    ServiceBackend,
};
use super::text::{self, shown};

/// Annotation that names a class; it comes before `spec.ingressClassName`.
const CLASS: &str = "kubernetes.io/ingress.class";

/// Objects that an Ingress refers to.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The classes of the cluster.
    pub classes: &'a [IngressClass],
    /// Returns a Service by namespace and name; `None` where it is not known.
    pub service: &'a dyn Fn(&str, &str) -> Option<&'a Service>,
    /// Returns the fields of the spec of a Traefik `Middleware` by namespace and name; `None` where it is not known.
    pub middleware: &'a dyn Fn(&str, &str) -> Option<Vec<String>>,
}

/// Returns what an Ingress asks for.
#[must_use]
pub fn extract(ingress: &Ingress, around: Surroundings<'_>) -> Asked {
    let mut findings = Findings::default();
    if !text::is_label(&ingress.metadata.namespace) || !text::is_subdomain(&ingress.metadata.name) {
        let sentence = "has no namespace and name as an API server gives them: nothing is served";
        findings.add(Effect::Refused, "BadName", "metadata", sentence);
        return Asked { id: id(ingress), findings: findings.into_vec(), ..Asked::default() };
    }
    let class = class(ingress, around.classes, &mut findings);
    let settings = annotations::read(&ingress.metadata, around, &mut findings);
    let mut reader = Reader { ingress, around, settings: &settings, findings };
    let mut rules = reader.rules();
    rules.extend(reader.app_root(&rules));
    // The sort is stable: of two rules for one path the first written comes first.
    rules.sort_by_cached_key(Rule::precedence);
    let tls = reader.tls();
    reader.say_uncovered(&tls);
    let findings = reader.findings.into_vec();
    Asked {
        id: id(ingress),
        created: ingress.metadata.creation_timestamp.as_deref().map(Arc::from),
        class,
        rules,
        tls,
        settings,
        findings,
    }
}

fn id(ingress: &Ingress) -> IngressId {
    let metadata = &ingress.metadata;
    IngressId { namespace: Arc::from(&*metadata.namespace), name: Arc::from(&*metadata.name) }
}

/// The annotation comes before the field, as the API has it, and a default class last.
fn class(ingress: &Ingress, classes: &[IngressClass], findings: &mut Findings) -> Option<Arc<str>> {
    let annotation = ingress.metadata.annotations.get(CLASS);
    let written = annotation.or(ingress.spec.ingress_class_name.as_ref());
    if let Some(name) = written.filter(|name| !name.is_empty()) {
        return Some(Arc::from(&**name));
    }
    let mut defaults = classes.iter().filter(|class| class.is_default());
    let first = defaults.next()?;
    if defaults.next().is_some() {
        let sentence = "is missing, and several classes are marked as the default one: name one";
        findings.add(Effect::Refused, "ClassUnknown", "spec.ingressClassName", sentence);
        return None;
    }
    Some(Arc::from(&*first.metadata.name))
}

struct Reader<'a, 's> {
    ingress: &'a Ingress,
    around: Surroundings<'s>,
    settings: &'a Settings,
    findings: Findings,
}

impl Reader<'_, '_> {
    fn rules(&mut self) -> Vec<Rule> {
        let spec = &self.ingress.spec;
        let mut rules = Vec::new();
        for (at, rule) in spec.rules.iter().enumerate() {
            let field = format!("spec.rules[{at}]");
            let Some(host) = self.host(rule, &field) else { continue };
            let paths = rule.http.as_ref().map(|http| &http.paths[..]).unwrap_or_default();
            if paths.is_empty() {
                rules.extend(self.without_paths(&host, field));
            }
            for (path_at, path) in paths.iter().enumerate() {
                let field = finding::path(at, path_at);
                rules.extend(self.path(&host, path, field));
            }
        }
        if let Some(backend) = &spec.default_backend {
            let field = "spec.defaultBackend".to_owned();
            let action = self.action(backend, &field);
            let path = PathRule::Prefix(Arc::from(""));
            rules.push(Rule { host: Host::Any, path, action, is_fallback: true, field });
        }
        if rules.is_empty() {
            let sentence = "has no rule and no defaultBackend that can be served";
            self.findings.add(Effect::Refused, "NothingServed", "spec", sentence);
        }
        rules
    }

    /// Requests for a host without paths are the default backend's.
    fn without_paths(&mut self, host: &Host, field: String) -> Option<Rule> {
        let Some(backend) = &self.ingress.spec.default_backend else {
            let sentence = "has no paths, and the Ingress no defaultBackend: write one of them";
            self.findings.add(Effect::Refused, "NothingServed", field, sentence);
            return None;
        };
        let action = self.action(backend, "spec.defaultBackend");
        let path = PathRule::Prefix(Arc::from(""));
        Some(Rule { host: host.clone(), path, action, is_fallback: false, field })
    }

    fn host(&mut self, rule: &IngressRule, field: &str) -> Option<Host> {
        let written = rule.host.as_deref().unwrap_or_default();
        let host = if written.is_empty() { Ok(Host::Any) } else { host(written) };
        host.map_err(|sentence| {
            self.findings.add(Effect::Refused, "BadHost", format!("{field}.host"), sentence);
        })
        .ok()
    }

    fn path(&mut self, host: &Host, written: &HttpPath, field: String) -> Option<Rule> {
        let path = written.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let kind = written.path_type.as_deref();
        let is_loose = !matches!(kind, Some("Exact" | "Prefix"));
        let fixed = || path.find(is_regex).map(|end| &path[..end]);
        if let Some(fixed) = fixed().filter(|_| is_loose || self.settings.regex) {
            return self.regex(host, (path, fixed), field);
        }
        let read = match text::path(path) {
            Ok(read) => read,
            Err(sentence) => {
                self.findings.add(Effect::Refused, "BadPath", format!("{field}.path"), sentence);
                return None;
            }
        };
        if is_loose {
            self.say_loose(kind, &read, &field);
        }
        let path = if kind == Some("Exact") {
            PathRule::Exact(Arc::from(read))
        } else {
            PathRule::Prefix(Arc::from(read.strip_suffix('/').unwrap_or(&read)))
        };
        let action = self.action(&written.backend, &format!("{field}.backend"));
        Some(Rule { host: host.clone(), path, action, is_fallback: false, field })
    }

    fn say_loose(&mut self, kind: Option<&str>, path: &str, field: &str) {
        let field = format!("{field}.pathType");
        match kind {
            Some("ImplementationSpecific") if path == "/" => {}
            Some("ImplementationSpecific") => self.findings.add(
                Effect::Noted,
                "PathType",
                field,
                "is ImplementationSpecific: the path is taken as Prefix, by whole elements",
            ),
            None => {
                let sentence = "is missing: the path is taken as Prefix, by whole elements";
                self.findings.add(Effect::Noted, "PathType", field, sentence);
            }
            Some(other) => {
                let sentence =
                    format!("{} is no type of path: it is taken as Prefix", shown(other));
                self.findings.add(Effect::Otherwise, "PathType", field, sentence);
            }
        }
    }

    /// A regular expression is not served. Requests below its fixed part are refused, unless another rule is for just that path.
    fn regex(&mut self, host: &Host, (path, fixed): (&str, &str), field: String) -> Option<Rule> {
        let nearest = text::path(fixed).ok()?;
        let nearest = nearest.strip_suffix('/').unwrap_or(&nearest);
        let written = if nearest.is_empty() { "/" } else { nearest };
        let sentence = format!(
            "{} is a regular expression, which no route has: requests below {written} are answered 503; the route that comes nearest is pathPrefix: {written}{}",
            shown(path),
            self.nearest_rewrite(path),
        );
        self.findings.add(Effect::Refused, "RegularExpression", format!("{field}.path"), sentence);
        Some(Rule {
            host: host.clone(),
            path: PathRule::Prefix(Arc::from(nearest)),
            action: Action::Refuse,
            is_fallback: true,
            field,
        })
    }

    /// `/app(/|$)(.*)` with the target `/$2`, which many copy from the manual, takes the prefix away.
    fn nearest_rewrite(&self, path: &str) -> &'static str {
        let target = self.ingress.metadata.annotations.get(annotations::REWRITE_TARGET);
        let takes_prefix_away = path.ends_with("(/|$)(.*)") && target.is_some_and(|to| to == "/$2");
        if takes_prefix_away { " with rewrite: {pathPrefix: /}" } else { "" }
    }

    fn action(&mut self, backend: &IngressBackend, field: &str) -> Action {
        if let Some(redirect) =
            self.settings.redirect.as_ref().filter(|_| !self.settings.is_refused)
        {
            return Action::Redirect(redirect.clone());
        }
        let backend = match self.backend(backend, field) {
            Ok(backend) => {
                self.say_verified(&backend, field);
                backend
            }
            Err((reason, field, sentence)) => {
                self.findings.add(Effect::Refused, reason, field, sentence);
                return Action::Refuse;
            }
        };
        if self.settings.is_refused { Action::Refuse } else { Action::Forward(backend) }
    }

    /// A Service may say that TLS is spoken at its port; other controllers do not verify it.
    fn say_verified(&mut self, backend: &Backend, field: &str) {
        let is_tls = backend.protocol.is_some_and(BackendProtocol::is_tls);
        let settings = self.settings;
        if is_tls && settings.protocol.is_none() && settings.backend_tls.authorities.is_none() {
            let sentence = "is spoken to by TLS, as the Service's appProtocol says, and verified with the host's own authorities: name another with proxy-ssl-secret or server-ca";
            self.findings.add(Effect::Otherwise, "AlwaysVerified", field, sentence);
        }
    }

    fn backend(&self, backend: &IngressBackend, field: &str) -> Result<Backend, Fault> {
        if let Some(resource) = &backend.resource {
            let sentence = format!(
                "names a {} called {}: only Services are served",
                shown(&resource.kind),
                shown(&resource.name)
            );
            return Err(("ResourceBackend", format!("{field}.resource"), sentence));
        }
        let Some(service) = &backend.service else {
            return Err(("BadBackend", field.to_owned(), "names no Service".to_owned()));
        };
        let field = format!("{field}.service");
        if !text::is_label(&service.name) {
            let sentence = format!("{} is no name of a Service", shown(&service.name));
            return Err(("BadBackend", format!("{field}.name"), sentence));
        }
        self.port(service, &format!("{field}.port"))
    }

    fn port(&self, service: &ServiceBackend, field: &str) -> Result<Backend, Fault> {
        let fault = |reason, sentence| (reason, field.to_owned(), sentence);
        let namespace = &self.ingress.metadata.namespace;
        let mut backend = Backend {
            namespace: Arc::from(&**namespace),
            service: Arc::from(&*service.name),
            number: None,
            port_name: None,
            protocol: None,
        };
        match port(&service.port).map_err(|sentence| fault("BadBackend", sentence))? {
            Wanted::Number(number) => backend.number = Some(number),
            Wanted::Name(name) => backend.port_name = Some(Arc::from(name)),
        }
        let Some(known) = (self.around.service)(namespace, &service.name) else {
            return Ok(backend);
        };
        // A Service that stands for a host may be without ports: the number is used as it is.
        if known.external_name().is_some()
            && known.spec.ports.is_empty()
            && backend.number.is_some()
        {
            return Ok(backend);
        }
        let found = known.port(&service.port);
        let number = found.and_then(|port| u16::try_from(port.port).ok()).filter(|port| *port > 0);
        let (Some(found), Some(number)) = (found, number) else {
            let sentence = format!(
                "{} is no TCP port of Service {namespace}/{}",
                backend.port(),
                service.name
            );
            return Err(fault("PortUnknown", sentence));
        };
        backend.number = Some(number);
        backend.port_name = Some(Arc::from(&*found.name));
        backend.protocol = found.app_protocol.as_deref().and_then(BackendProtocol::of_service);
        Ok(backend)
    }

    /// A redirect from `/` for each host.
    fn app_root(&self, rules: &[Rule]) -> Vec<Rule> {
        let Some(path) = self.settings.app_root.as_deref() else { return Vec::new() };
        let mut hosts: Vec<&Host> = rules.iter().map(|rule| &rule.host).collect();
        hosts.sort();
        hosts.dedup();
        let to = RedirectTo { status: 302, path: Some(Arc::from(path)), ..RedirectTo::default() };
        let rule = |host: &Host| Rule {
            host: host.clone(),
            path: PathRule::Exact(Arc::from("/")),
            action: Action::Redirect(to.clone()),
            is_fallback: false,
            field: finding::annotation(annotations::APP_ROOT),
        };
        hosts.into_iter().map(rule).collect()
    }

    fn tls(&mut self) -> Vec<Tls> {
        let entries = self.ingress.spec.tls.iter().enumerate();
        entries.filter_map(|(at, entry)| self.tls_entry(entry, format!("spec.tls[{at}]"))).collect()
    }

    fn tls_entry(&mut self, entry: &IngressTls, field: String) -> Option<Tls> {
        let mut hosts = Vec::with_capacity(entry.hosts.len());
        for (at, written) in entry.hosts.iter().enumerate() {
            match host(written) {
                Ok(host) => hosts.push(host),
                Err(sentence) => {
                    let field = format!("{field}.hosts[{at}]");
                    self.findings.add(Effect::Refused, "BadHost", field, sentence);
                }
            }
        }
        // An entry whose hosts are all wrong must not become one for every host.
        if hosts.is_empty() && !entry.hosts.is_empty() {
            return None;
        }
        let secret = match entry.secret_name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) if text::is_subdomain(name) => Some(SecretRef {
                namespace: Arc::from(&*self.ingress.metadata.namespace),
                name: Arc::from(name),
            }),
            Some(name) => {
                let sentence = format!("{} is no name of a Secret", shown(name));
                let field = format!("{field}.secretName");
                self.findings.add(Effect::Refused, "BadSecret", field, sentence);
                return None;
            }
            None => {
                let sentence = "names no secretName, and there is no other certificate: its hosts are served without TLS";
                self.findings.add(Effect::Otherwise, "CertificateMissing", &*field, sentence);
                None
            }
        };
        Some(Tls { hosts, secret, field })
    }

    /// Says which hosts of an Ingress with TLS are served without.
    fn say_uncovered(&mut self, tls: &[Tls]) {
        if tls.is_empty() || self.settings.passthrough {
            return;
        }
        let covered: HashSet<&Host> = tls.iter().flat_map(|tls| &tls.hosts).collect();
        let has_all = tls.iter().any(|tls| tls.hosts.is_empty());
        for (at, rule) in self.ingress.spec.rules.iter().enumerate() {
            let Some(Ok(host)) = rule.host.as_deref().filter(|host| !host.is_empty()).map(host)
            else {
                continue;
            };
            let is_below = || host.parent().is_some_and(|parent| covered.contains(&parent));
            if !has_all && !covered.contains(&host) && !is_below() {
                let sentence = format!("{host} is in no spec.tls: it is served without TLS");
                let field = format!("spec.rules[{at}].host");
                self.findings.add(Effect::Noted, "HostWithoutTls", field, sentence);
            }
        }
    }
}

/// Reason, field and phrase of a finding.
type Fault = (&'static str, String, String);

enum Wanted<'a> {
    Number(u16),
    Name(&'a str),
}

fn port(port: &BackendPort) -> Result<Wanted<'_>, String> {
    let number = port.number.filter(|number| *number != 0);
    match (port.name.as_deref().filter(|name| !name.is_empty()), number) {
        (Some(name), None) if text::is_port_name(name) => Ok(Wanted::Name(name)),
        (Some(name), None) => Err(format!("{} is no name of a port", shown(name))),
        (None, Some(number)) => match u16::try_from(number) {
            Ok(number) => Ok(Wanted::Number(number)),
            Err(_) => Err(format!("{number} is out of range: 1 to 65535")),
        },
        (Some(_), Some(_)) => Err("has a name and a number: keep one".to_owned()),
        (None, None) => Err("has neither name nor number".to_owned()),
    }
}

/// A host as the API server lets it in: a DNS name, or `*.` and one. Names that end in digits are left out, as addresses with a slip in them.
fn host(written: &str) -> Result<Host, String> {
    let (name, is_wildcard) =
        written.strip_prefix("*.").map_or((written, false), |parent| (parent, true));
    let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    let looks_like_address = || {
        name.parse::<IpAddr>().is_ok()
            || name.rsplit('.').next().is_some_and(numeric)
            || name.split('.').filter(|label| numeric(label)).count() >= 3
    };
    if !text::is_subdomain(name) || looks_like_address() {
        return Err(format!(
            "{} is no host name: write lower-case letters, digits and '-', joined by dots, or *. and such a name",
            shown(written)
        ));
    }
    let name = Arc::from(name);
    Ok(if is_wildcard { Host::Wildcard(name) } else { Host::Exact(name) })
}

fn is_regex(character: char) -> bool {
    "()[]{}*^$|\\?".contains(character)
}
