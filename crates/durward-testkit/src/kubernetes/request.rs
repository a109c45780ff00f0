//! Requests to an API server: path, verb, and options.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, header};
use percent_encoding::percent_decode_str;

use super::failure::Failure;
use super::kind::GroupResource;

/// Who sends a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
}

/// Path of an object or of a resource type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) resource: GroupResource,
    pub(crate) version: String,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub(crate) namespace: String,
    /// Empty for the whole collection.
    pub(crate) name: String,
    pub(crate) subresource: String,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: String,
    /// Verb as RBAC names it.
    pub(crate) verb: &'static str,
    /// `None` for a path that is no resource.
    pub(crate) target: Option<Target>,
    pub(crate) query: Query,
    pub(crate) content_type: String,
    pub(crate) accept: String,
    pub(crate) user_agent: String,
    pub(crate) body: Bytes,
    pub(crate) user: User,
}

/// Options of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    fn read(text: &str) -> Self {
        let decode = |text: &str| {
            percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Self(pairs.map(|(key, value)| (decode(key), decode(value))).collect())
    }

    /// Returns an option; empty if it is not given.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        matches!(self.text(key), "true" | "1")
    }

    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.text(key).parse().ok()
    }

    pub(crate) fn is_dry_run(&self) -> bool {
        self.text("dryRun") == "All"
    }

    /// Returns the resource version that is asked for; 0 and none are told apart.
    ///
    /// # Errors
    /// If it is no number.
    pub(crate) fn resource_version(&self) -> Result<Option<u64>, Failure> {
        match self.text("resourceVersion") {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Failure::bad_request(format!(
                    "invalid resource version: resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
                ))),
        }
    }
}

impl Call {
    pub(crate) fn new(head: &Parts, body: Bytes, user: User) -> Self {
        let text = |name: header::HeaderName| {
            let value = head.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let path = percent_decode_str(head.uri.path()).decode_utf8_lossy().into_owned();
        let query = Query::read(head.uri.query().unwrap_or_default());
        let target = Target::read(&path);
        let verb = verb(&head.method, target.as_ref(), &query);
        Self {
            path,
            verb,
            target,
            query,
            content_type: text(header::CONTENT_TYPE),
            accept: text(header::ACCEPT),
            user_agent: text(header::USER_AGENT),
            body,
            user,
        }
    }

    /// Returns who is named as the writer of fields.
    pub(crate) fn manager(&self) -> String {
        match self.query.text("fieldManager") {
            "" => self.user_agent.split('/').next().unwrap_or_default().to_owned(),
            manager => manager.to_owned(),
        }
    }

    /// Returns whether only the metadata of objects is asked for.
    pub(crate) fn wants_metadata(&self) -> bool {
        self.accept.contains("as=PartialObjectMetadata")
    }
}

fn verb(method: &Method, target: Option<&Target>, query: &Query) -> &'static str {
    let Some(target) = target else { return verb_of_path(method) };
    let is_collection = target.name.is_empty();
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if is_collection => "deletecollection",
        Method::DELETE => "delete",
        // On one object the option means nothing.
        _ if is_collection && query.flag("watch") => "watch",
        _ if is_collection => "list",
        _ => "get",
    }
}

fn verb_of_path(method: &Method) -> &'static str {
    match *method {
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

impl Target {
    /// Reads a path of the form `/api/v1/...` or `/apis/GROUP/VERSION/...`.
    pub(crate) fn read(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            // These are of the Namespace itself.
            ["namespaces", _, "status" | "finalize"] | ["namespaces", _] => ("", rest),
            ["namespaces", namespace, rest @ ..] => (*namespace, rest),
            _ => ("", rest),
        };
        let (resource, name, subresource) = match rest {
            [resource] => (*resource, "", ""),
            [resource, name] => (*resource, *name, ""),
            [resource, name, subresource] => (*resource, *name, *subresource),
            _ => return None,
        };
        Some(Self {
            resource: GroupResource::new(group, resource),
            version: version.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_in_all_forms() {
        let cases: &[(&str, Option<[&str; 5]>)] = &[
            ("/api/v1/namespaces", Some(["namespaces", "v1", "", "", ""])),
            ("/api/v1/namespaces/a", Some(["namespaces", "v1", "", "a", ""])),
            ("/api/v1/namespaces/a/status", Some(["namespaces", "v1", "", "a", "status"])),
            ("/api/v1/namespaces/a/secrets", Some(["secrets", "v1", "a", "", ""])),
            (
                "/apis/x.y/v2/namespaces/a/things/b/status",
                Some(["things.x.y", "v2", "a", "b", "status"]),
            ),
            ("/apis/x.y/v2/things", Some(["things.x.y", "v2", "", "", ""])),
            ("/apis/x.y", None),
            ("/version", None),
        ];

        for (path, expected) in cases {
            let target = Target::read(path);

            let read = target.as_ref().map(|target| {
                let parts = [&target.version, &target.namespace, &target.name, &target.subresource];
                (target.resource.to_string(), parts.map(String::as_str))
            });
            let read = read.as_ref().map(|(resource, [version, namespace, name, subresource])| {
                [resource.as_str(), version, namespace, name, subresource]
            });
            assert_eq!(read, *expected, "{path}");
        }
    }
}
