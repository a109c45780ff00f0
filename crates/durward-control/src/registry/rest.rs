//! Registrations over REST: bodies of `register`, `sync` and `unregister`, and their answers.
//!
//! Reading a body is separate from carrying it out, so that claims are not locked while a long one is read.

use durward_model::egress::{Guarded, guard};
use durward_model::link::{Link, LinkPath, LinkRoute};
use durward_model::route::HostPattern;
use durward_model::upstream::Target;
use serde_json::{Value, json};

use super::fields::{BadField, Object};
use super::{Caller, Changed, Documents, Now, Registration, Registry, Rejection, RouteOwner};
use crate::spec::object_name::is_namespace;
use crate::words;

/// Mode in which all registered routes are served; `direct` is not offered.
const MODE: &str = "tunnel";
/// Bytes of a path at most.
const PATH: usize = 1024;
/// Paths of one `sync` at most: as many as a document may let a link register.
const PATHS: usize = 10_000;

/// An operation on registrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Adds one route.
    Register,
    /// Says all routes.
    Sync,
    /// Withdraws the routes of a host.
    Unregister,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Register, Self::Sync, Self::Unregister];

    /// Returns its name in a path.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Sync => "sync",
            Self::Unregister => "unregister",
        }
    }

    /// Returns the operation of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// Answer to an operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON body.
    pub body: Value,
    /// Seconds after which to try again.
    pub retry_after: Option<u32>,
    /// Links whose claims differ now.
    pub changed: Changed,
}

impl Answer {
    /// Builds the answer of a failure.
    #[must_use]
    pub fn failure(status: u16, code: &str, field: &str, message: &str) -> Self {
        let body =
            json!({"success": false, "error": {"code": code, "field": field, "message": message}});
        Self { status, body, retry_after: None, changed: Changed::default() }
    }

    /// Builds the answer to a call for tunnels, which changes nothing.
    pub(super) fn tunnels(body: Value) -> Self {
        Self { status: 200, body, retry_after: None, changed: Changed::default() }
    }

    fn success(changed: Changed, routes: usize) -> Self {
        let body = json!({"success": true, "routing_mode": MODE, "routes": routes});
        Self { status: 200, body, retry_after: None, changed }
    }
}

impl From<BadField> for Answer {
    fn from(bad: BadField) -> Self {
        Self::failure(400, "bad_request", &bad.field, &bad.to_string())
    }
}

/// Body of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// One route of a cluster.
    Register(String, Registration),
    /// All routes of a cluster, with a revision if it has one.
    Sync(String, Option<u64>, Vec<Registration>),
    /// The routes to withdraw.
    Unregister(Withdrawal),
}

/// Routes to withdraw: those of a host, for which everything else that is there is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    host: HostPattern,
    path: Option<LinkPath>,
    ingress: Option<String>,
    namespace: Option<String>,
    cluster: Option<String>,
}

impl Body {
    /// Reads the body of an operation.
    ///
    /// # Errors
    /// Fails with the answer to a body that cannot be used.
    pub fn read(operation: Operation, body: &[u8]) -> Result<Self, Answer> {
        let body: Value = serde_json::from_slice(body).map_err(|error| {
            Answer::failure(400, "bad_request", "", &format!("the body is not JSON: {error}"))
        })?;
        let body = Object::of(&body)?;
        let read = match operation {
            Operation::Register => register(&body),
            Operation::Sync => sync(&body),
            Operation::Unregister => unregister(&body),
        };
        Ok(read?)
    }
}

fn register(body: &Object<'_>) -> Result<Body, BadField> {
    let cluster = body.text("cluster_uuid")?.to_owned();
    let registration = Registration {
        owner: owner(body)?,
        route: LinkRoute {
            host: host(body, "hostname")?,
            path: path(body)?,
            target: target(body, body.text("namespace")?)?.into(),
            port: body.port("service_port")?,
            tunnel_only: mode(body)?,
            backend_tls: None,
        },
    };
    unused(body)?;
    Ok(Body::Register(cluster, registration))
}

fn sync(body: &Object<'_>) -> Result<Body, BadField> {
    let cluster = body.text("cluster_uuid")?.to_owned();
    let revision = body.optional_number("revision")?;
    let tunnel_only = mode(body)?;
    body.ignored_object("ingress_controller")?;
    if !body.has("ingresses") {
        return Err(body.bad("ingresses", "is missing: write [] to withdraw all"));
    }
    let mut wanted = Vec::new();
    for ingress in body.objects("ingresses")? {
        ingress.ignored_object("annotations")?;
        let owner = owner(&ingress)?;
        for rule in ingress.objects("rules")? {
            rule.flag("tls")?;
            let host = host(&rule, "host")?;
            for one in rule.objects("paths")? {
                if wanted.len() == PATHS {
                    let sentence = format!("has more than {PATHS} paths: use several links");
                    return Err(body.bad("ingresses", sentence));
                }
                wanted.push(Registration {
                    owner: owner.clone(),
                    route: LinkRoute {
                        host: host.clone(),
                        path: path(&one)?,
                        target: target(&one, &owner.namespace)?.into(),
                        port: one.port("service_port")?,
                        tunnel_only,
                        backend_tls: None,
                    },
                });
            }
        }
    }
    Ok(Body::Sync(cluster, revision, wanted))
}

fn unregister(body: &Object<'_>) -> Result<Body, BadField> {
    let text = |name: &str| body.optional_text(name).map(|text| text.map(str::to_owned));
    Ok(Body::Unregister(Withdrawal {
        host: host(body, "hostname")?,
        path: body.optional_text("path")?.map(|_| path(body)).transpose()?,
        ingress: text("ingress_name")?,
        namespace: text("namespace")?,
        cluster: text("cluster_uuid")?,
    }))
}

/// A rejected route, by the field that names its host.
struct Rejected<'r>(&'static str, &'r Registration, &'r Rejection);

impl From<Rejected<'_>> for Answer {
    fn from(Rejected(field, registration, rejection): Rejected<'_>) -> Self {
        let (status, code) = match rejection {
            Rejection::NotGranted => (403, "host_not_granted"),
            Rejection::Taken => (409, "host_taken"),
            Rejection::Released => (409, "host_released"),
            Rejection::TooMany(_) => (429, "too_many_routes"),
        };
        let message = format!("{} {rejection}", registration.route.host);
        Self::failure(status, code, field, &message)
    }
}

impl Registry {
    /// Carries an operation out.
    pub fn call(
        &mut self,
        caller: Caller<'_>,
        body: Body,
        documents: &dyn Documents,
        now: Now,
    ) -> Answer {
        let done = match body {
            Body::Register(cluster, registration) => {
                own_cluster(caller.link, &cluster).and_then(|()| {
                    let changed = self.register(caller, registration.clone(), documents, now);
                    let changed = changed
                        .map_err(|why| Answer::from(Rejected("hostname", &registration, &why)))?;
                    Ok(Answer::success(changed, self.count(caller.id)))
                })
            }
            Body::Sync(cluster, revision, wanted) => own_cluster(caller.link, &cluster)
                .and_then(|()| self.sync(caller, (revision, wanted), documents, now)),
            Body::Unregister(withdrawal) => self.unregister(caller, &withdrawal, now),
        };
        done.unwrap_or_else(|answer| answer)
    }

    fn sync(
        &mut self,
        caller: Caller<'_>,
        (revision, wanted): (Option<u64>, Vec<Registration>),
        documents: &dyn Documents,
        now: Now,
    ) -> Result<Answer, Answer> {
        let last = self.links.get(caller.id).and_then(|claims| claims.revision);
        if let Some((revision, last)) = revision.zip(last)
            && revision <= last
        {
            let message = format!("revision {revision} is not newer than {last}, which is served");
            return Err(Answer::failure(409, "old_revision", "revision", &message));
        }
        if self.must_confirm(caller.id, &wanted, now.instant) {
            let message = "ingresses would withdraw more than half of the routes: send it again within 10 seconds to confirm";
            let answer = Answer::failure(503, "confirmation_needed", "ingresses", message);
            return Err(Answer { retry_after: Some(1), ..answer });
        }
        let mut synced = self.replace(caller, &wanted, documents, now);
        if let Some(revision) = revision {
            self.links.entry(caller.id.clone()).or_default().revision = Some(revision);
            synced.changed.0.insert(caller.id.clone());
        }
        let Some((first, rejection)) = synced.rejected.first() else {
            return Ok(Answer::success(synced.changed, synced.routes));
        };
        // The others are served all the same: one name that is another's must not keep a cluster down.
        let mut answer = Answer::from(Rejected("ingresses", first, rejection));
        let rejected = synced.rejected.iter().take(100).map(|(one, why)| {
            json!({"hostname": one.route.host.to_string(), "path": one.route.path.to_string(), "reason": why.to_string()})
        });
        answer.body["rejected"] = rejected.collect();
        answer.body["routes"] = json!(synced.routes);
        answer.changed = synced.changed;
        Ok(answer)
    }

    fn unregister(
        &mut self,
        caller: Caller<'_>,
        withdrawal: &Withdrawal,
        now: Now,
    ) -> Result<Answer, Answer> {
        let Withdrawal { host, path, ingress, namespace, cluster } = withdrawal;
        if let Some(cluster) = cluster {
            own_cluster(caller.link, cluster)?;
        }
        let is_meant = |one: &Registration| {
            one.route.host == *host
                && path.as_ref().is_none_or(|path| one.route.path == *path)
                && ingress.as_ref().is_none_or(|name| *one.owner.name == **name)
                && namespace.as_ref().is_none_or(|name| *one.owner.namespace == **name)
        };
        let (changed, withdrawn) = self.withdraw(caller.id, is_meant, now);
        if withdrawn == 0 {
            let message = format!("hostname {host} has no route of this link");
            return Err(Answer::failure(404, "not_registered", "hostname", &message));
        }
        Ok(Answer::success(changed, self.count(caller.id)))
    }
}

/// Fields that are checked for their form, and have no effect here.
fn unused(body: &Object<'_>) -> Result<(), BadField> {
    body.flag("tls")?;
    body.ignored_object("annotations")?;
    body.optional_text("deployment_id")?;
    body.optional_text("deployment_name")?;
    Ok(())
}

/// Checks `routing_mode` and `public_endpoint` against each other, and returns true if the route must not be direct. Nothing is ever dialled because of an endpoint that is
/// said here: the agent says the one that is proven.
fn mode(body: &Object<'_>) -> Result<bool, BadField> {
    let endpoint = public_endpoint(body)?;
    match (body.optional_text("routing_mode")?, endpoint) {
        (None, _) | (Some("direct"), Some(_)) => Ok(false),
        (Some("tunnel"), None) => Ok(true),
        (Some("direct"), None) => {
            Err(body.bad("public_endpoint", "is missing: routing_mode direct needs one"))
        }
        (Some("tunnel"), Some(_)) => {
            let sentence = "is there beside routing_mode tunnel, which has none: remove it";
            Err(body.bad("public_endpoint", sentence))
        }
        (Some(_), _) => Err(body.bad("routing_mode", "is neither direct nor tunnel")),
    }
}

/// Reads `public_endpoint`. It is refused where no cluster can be: at a guarded address, except that private ones may be what the operator has named.
fn public_endpoint<'v>(body: &Object<'v>) -> Result<Option<&'v str>, BadField> {
    let name = "public_endpoint";
    let Some(text) = body.optional_text(name)? else { return Ok(None) };
    let endpoint = words::endpoint(text, None).map_err(|_| {
        body.bad(name, "is no address or host name with a port, like 203.0.113.45:443")
    })?;
    let class = match endpoint {
        Target::Address(at) => guard::classify(at.ip()).map(|(class, _)| class),
        Target::Name { .. } => None,
    };
    match class {
        None | Some(Guarded::Private | Guarded::Shared) => Ok(Some(text)),
        Some(class) => {
            let sentence =
                format!("is {}: write the address by which the cluster is reached", class.word());
            Err(body.bad(name, sentence))
        }
    }
}

pub(super) fn own_cluster(link: &Link, cluster: &str) -> Result<(), Answer> {
    if link.cluster.as_deref().is_none_or(|own| own == cluster) {
        return Ok(());
    }
    let message = "cluster_uuid is not the cluster of this link";
    Err(Answer::failure(403, "wrong_cluster", "cluster_uuid", message))
}

fn owner(body: &Object<'_>) -> Result<RouteOwner, BadField> {
    let name = body.text("ingress_name")?;
    if !(1..=253).contains(&name.len()) || !name.split('.').all(is_namespace) {
        return Err(body.bad("ingress_name", "is no name of an Ingress"));
    }
    Ok(RouteOwner { namespace: label(body, "namespace")?.into(), name: name.into() })
}

pub(super) fn label<'v>(body: &Object<'v>, name: &str) -> Result<&'v str, BadField> {
    let label = body.text(name)?;
    let sentence = "is not 1 to 63 lower-case letters, digits or '-'";
    if is_namespace(label) { Ok(label) } else { Err(body.bad(name, sentence)) }
}

fn host(body: &Object<'_>, name: &str) -> Result<HostPattern, BadField> {
    let text = body.text(name)?.to_ascii_lowercase();
    words::route_host(&text).map_err(|sentence| body.bad(name, sentence))
}

fn path(body: &Object<'_>) -> Result<LinkPath, BadField> {
    let text = body.optional_text("path")?.unwrap_or("/");
    let bad = |sentence| body.bad("path", sentence);
    if text.len() > PATH {
        return Err(bad(format!("is longer than {PATH} bytes")));
    }
    match body.optional_text("path_type")? {
        Some("Exact") => words::exact_path(text).map(LinkPath::Exact).map_err(bad),
        Some("Prefix" | "ImplementationSpecific") | None => {
            words::path_prefix(text).map(LinkPath::Prefix).map_err(bad)
        }
        Some(_) => Err(body.bad("path_type", "is not Exact, Prefix or ImplementationSpecific")),
    }
}

/// Returns the name of a Service as every cluster's DNS has it.
fn target(body: &Object<'_>, namespace: &str) -> Result<String, BadField> {
    if !is_namespace(namespace) {
        return Err(body.bad("namespace", "is no name of a namespace"));
    }
    Ok(format!("{}.{namespace}.svc.cluster.local", label(body, "service_name")?))
}
