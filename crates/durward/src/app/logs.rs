//! Opens the destinations of log lines.

use std::path::PathBuf;

use durward_proxy::access_log::{OtlpTo, Sink};
use durward_proxy::audit::{Audit, Durability};

use crate::cli::{AccessLog, AuditSync};
use crate::failure::Failure;
use crate::percent;

/// Destinations of log lines.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    /// Destination of access-log lines.
    pub(crate) access: AccessLog,
    /// Destinations of the forward proxy's decisions; empty for that of the access log.
    pub(crate) decisions: Vec<AccessLog>,
    /// Audit file, for decisions too.
    pub(crate) audit: Option<PathBuf>,
    /// Point at which an audit record counts as written.
    pub(crate) audit_sync: AuditSync,
}

impl Logs {
    /// Sends access-log lines, and decisions with them, to one destination.
    pub(crate) fn access(access: AccessLog) -> Self {
        Self { access, decisions: Vec::new(), audit: None, audit_sync: AuditSync::Kernel }
    }

    /// Opens the access log and the decision log.
    ///
    /// # Errors
    /// Fails if one of them cannot be opened.
    pub(crate) fn open(&self) -> Result<(Sink, Sink), Failure> {
        let access = open(&self.access, "access log")?;
        let mut decisions = if self.decisions.is_empty() { access.clone() } else { Sink::none() };
        for place in &self.decisions {
            decisions = decisions.and(open(place, "decision log")?);
        }
        if let Some(path) = &self.audit {
            let durability = match self.audit_sync {
                AuditSync::Kernel => Durability::Kernel,
                AuditSync::Disk => Durability::Disk,
            };
            let audit = Audit::open(path, durability).map_err(|error| {
                Failure::broken(format!("opening the audit file {}", path.display()), error)
            })?;
            decisions = decisions.with_audit(audit);
        }
        Ok((access, decisions))
    }
}

fn open(place: &AccessLog, what: &str) -> Result<Sink, Failure> {
    let broken = |error| Failure::broken(format!("opening the {what}"), error);
    match place {
        AccessLog::Off => Ok(Sink::none()),
        AccessLog::Stdout => Sink::stdout().map_err(broken),
        AccessLog::File(path) => Sink::file(path).map_err(|error| {
            Failure::broken(format!("opening the {what} {}", path.display()), error)
        }),
        AccessLog::Syslog(to) => Sink::syslog(to.clone()).map_err(broken),
        AccessLog::Otlp(to) => {
            let variable = |name: &str| std::env::var(name).unwrap_or_default();
            Sink::otlp(with_environment(to.clone(), variable)?).map_err(broken)
        }
    }
}

/// Adds the settings in OpenTelemetry's own variables: headers, authorities, attributes of the resource.
fn with_environment(mut to: OtlpTo, variable: impl Fn(&str) -> String) -> Result<OtlpTo, Failure> {
    to.headers = pairs("OTEL_EXPORTER_OTLP_HEADERS", &variable)?;
    to.resource = pairs("OTEL_RESOURCE_ATTRIBUTES", &variable)?;
    to.resource.retain(|(name, _)| name != "service.name" && name != "service.version");
    let ca = variable("OTEL_EXPORTER_OTLP_CERTIFICATE");
    to.ca = (!ca.is_empty()).then(|| PathBuf::from(ca));
    Ok(to)
}

/// Parses `name=value,name=value`, values with percent-encoding. Errors do not show the text: it may be secret.
fn pairs(name: &str, variable: impl Fn(&str) -> String) -> Result<Vec<(String, String)>, Failure> {
    let wrong = || Failure::usage(format!("{name} is not NAME=VALUE,NAME=VALUE"));
    let text = variable(name);
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let (name, value) = entry.split_once('=').ok_or_else(wrong)?;
            let value = percent::decoded(value.trim()).ok_or_else(wrong)?;
            let value = String::from_utf8(value).map_err(|_| wrong())?;
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let sound = !name.is_empty()
                && name.trim().bytes().all(token)
                && !value.chars().any(char::is_control);
            sound.then(|| (name.trim().to_owned(), value)).ok_or_else(wrong)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opentelemetrys_variables_are_understood_and_cannot_smuggle_headers() {
        let variable = |name: &str| match name {
            "OTEL_EXPORTER_OTLP_HEADERS" => "api-key=a%20b, x=1".to_owned(),
            "OTEL_RESOURCE_ATTRIBUTES" => "service.name=other,zone=b".to_owned(),
            _ => String::new(),
        };

        let to = with_environment(OtlpTo::default(), variable).unwrap();

        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(to.headers, [pair("api-key", "a b"), pair("x", "1")]);
        assert_eq!(to.resource, [pair("zone", "b")]);
        assert_eq!(to.ca, None);
        for junk in ["x", "=1", "x=%0d%0ay: z", "x=%", "x y=1", "x:y=1", "x=%+1", "x=%ff"] {
            assert!(pairs("", |_| junk.to_owned()).is_err(), "{junk}");
        }
    }
}
