//! `Status` objects that an API server answers a failed request with, in its words.

use serde_json::{Map, Value, json};

use super::kind::GroupResource;

/// Failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// HTTP status.
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    details: Option<Box<Details>>,
    /// The body is plain text instead of a `Status`.
    pub(crate) is_plain_text: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Details {
    name: String,
    group: String,
    /// Resource, or the kind where the object is invalid.
    kind: String,
    causes: Vec<Cause>,
    retry_after: Option<u64>,
}

/// One of the causes of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) field: String,
}

impl Cause {
    /// Error of a field: `detail` without the field's path.
    pub(crate) fn new(
        reason: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { reason, message: message.into(), field: field.into() }
    }

    /// Value that is not allowed and not shown.
    pub(crate) fn invalid_unshown(field: impl Into<String>, detail: &str) -> Self {
        Self::new("FieldValueInvalid", field, format!("Invalid value: {detail}"))
    }

    /// List or map with too many items.
    pub(crate) fn too_many(field: impl Into<String>, count: u64, most: u64) -> Self {
        let word = if most == 1 { "item" } else { "items" };
        let message = format!("Too many: {count}: must have at most {most} {word}");
        Self::new("FieldValueTooMany", field, message)
    }

    /// Value that is not allowed, as JSON shows it.
    pub(crate) fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let message = format!("Invalid value: {}: {detail}", shown(value));
        Self::new("FieldValueInvalid", field, message)
    }

    pub(crate) fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = match detail {
            "" => "Required value".to_owned(),
            detail => format!("Required value: {detail}"),
        };
        Self::new("FieldValueRequired", field, message)
    }

    pub(crate) fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new("FieldValueForbidden", field, format!("Forbidden: {detail}"))
    }

    pub(crate) fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::new("FieldValueDuplicate", field, format!("Duplicate value: {}", shown(value)))
    }

    fn sentence(&self) -> String {
        match self.field.as_str() {
            "" => self.message.clone(),
            field => format!("{field}: {}", self.message),
        }
    }
}

/// Formats a value as field errors do: text in quotes, lists and objects as JSON.
fn shown(value: &Value) -> String {
    value.to_string()
}

impl Failure {
    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, is_plain_text: false }
    }

    fn about(mut self, resource: &GroupResource, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: resource.group.clone(),
            kind: resource.resource.clone(),
            ..Details::default()
        }));
        self
    }

    fn details(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }

    pub(crate) fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        self.details().causes = causes;
        self
    }

    /// Adds `Retry-After` in seconds.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.details().retry_after = Some(seconds);
        self
    }

    /// Seconds of the `Retry-After` header.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        self.details.as_ref().and_then(|details| details.retry_after)
    }

    pub(crate) fn not_found(resource: &GroupResource, name: &str) -> Self {
        let message = format!("{resource} \"{name}\" not found");
        Self::plain(404, "NotFound", message).about(resource, name)
    }

    /// Path that no handler is registered for; the real server answers it in plain text.
    pub(crate) fn no_such_path() -> Self {
        let failure = Self::plain(404, "", "404 page not found");
        Self { is_plain_text: true, ..failure }
    }

    /// Resource that a built-in group does not have.
    pub(crate) fn no_such_resource() -> Self {
        let message = "the server could not find the requested resource";
        Self::plain(404, "NotFound", message).with_causes(Vec::new())
    }

    pub(crate) fn already_exists(resource: &GroupResource, name: &str) -> Self {
        let message = format!("{resource} \"{name}\" already exists");
        Self::plain(409, "AlreadyExists", message).about(resource, name)
    }

    pub(crate) fn conflict(resource: &GroupResource, name: &str, detail: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {detail}");
        Self::plain(409, "Conflict", message).about(resource, name)
    }

    pub(crate) fn stale(resource: &GroupResource, name: &str) -> Self {
        let detail = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, detail)
    }

    pub(crate) fn apply_conflict(message: String, causes: Vec<Cause>) -> Self {
        Self::plain(409, "Conflict", message).with_causes(causes)
    }

    /// Object that breaks rules; `kind` is what the message calls it.
    pub(crate) fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let sentences: Vec<String> = causes.iter().map(Cause::sentence).collect();
        let errors = match sentences.as_slice() {
            [only] => only.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let subject = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let resource = GroupResource::new(group, kind);
        let message = format!("{subject} \"{name}\" is invalid: {errors}");
        Self::plain(422, "Invalid", message).about(&resource, name).with_causes(causes)
    }

    /// Options of a request that break rules.
    pub(crate) fn invalid_options(kind: &str, cause: Cause) -> Self {
        Self::invalid("meta.k8s.io", kind, "", vec![cause])
    }

    /// Patch that cannot be applied to the object; the server keeps the reason to itself.
    pub(crate) fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::plain(422, "Invalid", message).with_causes(Vec::new())
    }

    /// New object that says which version it is.
    pub(crate) fn new_with_version() -> Self {
        Self::plain(500, "", "resourceVersion should not be set on objects to be created")
    }

    /// Media type that no patch has.
    pub(crate) fn unknown_media_type() -> Self {
        let message = "415: Unsupported Media Type";
        Self::plain(415, "UnsupportedMediaType", message).with_causes(Vec::new())
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::plain(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(resource: &GroupResource, name: &str, detail: &str) -> Self {
        let subject = match name {
            "" => format!("{resource} is forbidden"),
            name => format!("{resource} \"{name}\" is forbidden"),
        };
        Self::plain(403, "Forbidden", format!("{subject}: {detail}")).about(resource, name)
    }

    /// Request to a path that is no resource.
    pub(crate) fn forbidden_path(detail: &str) -> Self {
        Self::plain(403, "Forbidden", format!("forbidden: {detail}")).with_causes(Vec::new())
    }

    /// Refusal of a ValidatingAdmissionPolicy.
    pub(crate) fn denied(resource: &GroupResource, name: &str, detail: &str, by: Denial) -> Self {
        let message = match name {
            "" => format!("{resource} is forbidden: {detail}"),
            name => format!("{resource} \"{name}\" is forbidden: {detail}"),
        };
        let cause = Cause::new("", "", by.message);
        Self::plain(by.code, by.reason, message).about(resource, name).with_causes(vec![cause])
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, "Expired", message)
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::plain(405, "MethodNotAllowed", message).with_causes(Vec::new())
    }

    pub(crate) fn unsupported_media_type(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        );
        Self::plain(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn not_acceptable(accepted: &str) -> Self {
        let message = format!("only the following media types are accepted: {accepted}");
        Self::plain(406, "NotAcceptable", message)
    }

    pub(crate) fn too_many_requests(retry_after: u64) -> Self {
        let message = "Too many requests, please try again later.";
        Self::plain(429, "TooManyRequests", message).retry_after(retry_after)
    }

    pub(crate) fn internal(message: &str) -> Self {
        let cause = Cause::new("", "", message);
        let sentence = format!("Internal error occurred: {message}");
        Self::plain(500, "InternalError", sentence).with_causes(vec![cause])
    }

    /// Resource version that this server has not reached.
    pub(crate) fn too_new(wanted: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {wanted}, current: {current}");
        let cause = Cause::new("ResourceVersionTooLarge", "", "Too large resource version");
        let failure = Self::plain(504, "Timeout", format!("Timeout: {message}"));
        failure.with_causes(vec![cause]).retry_after(1)
    }

    /// `Status` object.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.json();
        }
        status
    }
}

/// Answer to a request that a policy denies.
pub(crate) struct Denial {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Details {
    fn json(&self) -> Value {
        let mut json = Map::new();
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind)] {
            if !text.is_empty() {
                json.insert(key.to_owned(), text.as_str().into());
            }
        }
        let causes: Vec<Value> = self.causes.iter().map(Cause::json).collect();
        if !causes.is_empty() {
            json.insert("causes".to_owned(), causes.into());
        }
        if let Some(seconds) = self.retry_after {
            json.insert("retryAfterSeconds".to_owned(), seconds.into());
        }
        json.into()
    }
}

impl Cause {
    fn json(&self) -> Value {
        let mut json = Map::new();
        for (key, text) in
            [("reason", self.reason), ("message", &self.message), ("field", &self.field)]
        {
            if !text.is_empty() {
                json.insert(key.to_owned(), text.into());
            }
        }
        json.into()
    }
}
