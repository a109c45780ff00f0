//! Registrations over REST: bodies of `register`, `sync` and `unregister`, and their answers.

use std::time::Instant;

use durward_model::link::{Link, LinkPath, LinkRoute};
use durward_model::route::HostPattern;
use serde_json::{Value, json};

use super::fields::{BadField, Object};
use super::{Caller, Changed, IsGranted, Registration, Registry, Rejection, RouteOwner};
use crate::spec::object_name::is_namespace;
use crate::words;

/// Mode in which all registered routes are served; `direct` is not offered.
const MODE: &str = "tunnel";

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

/// A rejected route, by the field that names its host.
struct Rejected<'r>(String, &'r Registration, &'r Rejection);

impl From<Rejected<'_>> for Answer {
    fn from(Rejected(field, registration, rejection): Rejected<'_>) -> Self {
        let (status, code) = match rejection {
            Rejection::NotGranted => (403, "host_not_granted"),
            Rejection::Taken => (409, "host_taken"),
            Rejection::TooMany(_) => (429, "too_many_routes"),
        };
        let message = format!("{} {rejection}", registration.route.host);
        Self::failure(status, code, &field, &message)
    }
}

impl Registry {
    /// Carries an operation out.
    pub fn call(
        &mut self,
        caller: Caller<'_>,
        (operation, body): (Operation, &[u8]),
        is_granted: IsGranted<'_>,
        now: Instant,
    ) -> Answer {
        let body: Value = match serde_json::from_slice(body) {
            Ok(body) => body,
            Err(error) => {
                let message = format!("the body is not JSON: {error}");
                return Answer::failure(400, "bad_request", "", &message);
            }
        };
        let done = Object::of(&body).map_err(Answer::from).and_then(|body| match operation {
            Operation::Register => self.register_body(caller, &body, is_granted),
            Operation::Sync => self.sync_body(caller, &body, is_granted, now),
            Operation::Unregister => self.unregister_body(caller, &body),
        });
        done.unwrap_or_else(|answer| answer)
    }

    fn register_body(
        &mut self,
        caller: Caller<'_>,
        body: &Object<'_>,
        is_granted: IsGranted<'_>,
    ) -> Result<Answer, Answer> {
        let cluster = body.text("cluster_uuid")?;
        let registration = Registration {
            owner: owner(body)?,
            route: LinkRoute {
                host: host(body, "hostname")?,
                path: path(body)?,
                target: target(body, body.text("namespace")?)?.into(),
                port: body.port("service_port")?,
            },
        };
        unused(body)?;
        own_cluster(caller.link, cluster)?;
        let changed = self.register(caller, registration.clone(), is_granted);
        let changed = changed
            .map_err(|why| Answer::from(Rejected(body.path("hostname"), &registration, &why)))?;
        Ok(Answer::success(changed, self.served(caller.id).len()))
    }

    fn sync_body(
        &mut self,
        caller: Caller<'_>,
        body: &Object<'_>,
        is_granted: IsGranted<'_>,
        now: Instant,
    ) -> Result<Answer, Answer> {
        let cluster = body.text("cluster_uuid")?;
        mode(body)?;
        body.ignored_object("ingress_controller")?;
        if !body.has("ingresses") {
            return Err(body.bad("ingresses", "is missing: write [] to withdraw all").into());
        }
        let mut wanted = Vec::new();
        for ingress in body.objects("ingresses")? {
            ingress.ignored_object("annotations")?;
            let owner = owner(&ingress)?;
            for rule in ingress.objects("rules")? {
                rule.flag("tls")?;
                let host = host(&rule, "host")?;
                for one in rule.objects("paths")? {
                    wanted.push(Registration {
                        owner: owner.clone(),
                        route: LinkRoute {
                            host: host.clone(),
                            path: path(&one)?,
                            target: target(&one, &owner.namespace)?.into(),
                            port: one.port("service_port")?,
                        },
                    });
                }
            }
        }
        own_cluster(caller.link, cluster)?;
        if self.must_confirm(caller.id, &wanted, now) {
            let message = "ingresses would withdraw more than half of the routes: send it again within 10 seconds to confirm";
            let answer = Answer::failure(503, "confirmation_needed", "ingresses", message);
            return Err(Answer { retry_after: Some(1), ..answer });
        }
        let synced = self.replace(caller, wanted, is_granted);
        let Some((first, rejection)) = synced.rejected.first() else {
            return Ok(Answer::success(synced.changed, synced.routes));
        };
        // The others are served all the same: one name that is another's must not keep a cluster down.
        let mut answer = Answer::from(Rejected("ingresses".to_owned(), first, rejection));
        let rejected = synced.rejected.iter().take(100).map(|(one, why)| {
            json!({"hostname": one.route.host.to_string(), "path": one.route.path.to_string(), "reason": why.to_string()})
        });
        answer.body["rejected"] = rejected.collect();
        answer.body["routes"] = json!(synced.routes);
        answer.changed = synced.changed;
        Ok(answer)
    }

    fn unregister_body(&mut self, caller: Caller<'_>, body: &Object<'_>) -> Result<Answer, Answer> {
        let host = host(body, "hostname")?;
        if let Some(cluster) = body.optional_text("cluster_uuid")? {
            own_cluster(caller.link, cluster)?;
        }
        let path = body.optional_text("path")?.map(|_| path(body)).transpose()?;
        let ingress = body.optional_text("ingress_name")?;
        let namespace = body.optional_text("namespace")?;
        let (changed, withdrawn) = self.withdraw(caller.id, |one| {
            one.route.host == host
                && path.as_ref().is_none_or(|path| one.route.path == *path)
                && ingress.is_none_or(|name| *one.owner.name == *name)
                && namespace.is_none_or(|name| *one.owner.namespace == *name)
        });
        if withdrawn == 0 {
            let message = format!("hostname {host} has no route of this link");
            return Err(Answer::failure(404, "not_registered", "hostname", &message));
        }
        Ok(Answer::success(changed, self.served(caller.id).len()))
    }
}

/// Fields that are checked for their form, and have no effect here.
fn unused(body: &Object<'_>) -> Result<(), BadField> {
    body.flag("tls")?;
    body.ignored_object("annotations")?;
    body.optional_text("deployment_id")?;
    body.optional_text("deployment_name")?;
    mode(body)
}

/// Checks `routing_mode` and `public_endpoint` against each other. The endpoint is a stranger's word: nothing is ever dialled because of it.
fn mode(body: &Object<'_>) -> Result<(), BadField> {
    let endpoint = body.optional_text("public_endpoint")?;
    match (body.optional_text("routing_mode")?, endpoint) {
        (None, _) | (Some("direct"), Some(_)) | (Some("tunnel"), None) => Ok(()),
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

fn own_cluster(link: &Link, cluster: &str) -> Result<(), Answer> {
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

fn label<'v>(body: &Object<'v>, name: &str) -> Result<&'v str, BadField> {
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
