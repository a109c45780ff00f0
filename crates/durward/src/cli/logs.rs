//! Parser for destinations of log lines on the command line.

use std::path::PathBuf;

use clap::ValueEnum;
use durward_proxy::access_log::{Carrier, OtlpTo, SyslogTo};

/// Destination of log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AccessLog {
    /// None.
    Off,
    /// Standard output.
    Stdout,
    /// File to append to.
    File(PathBuf),
    /// Syslog receiver.
    Syslog(SyslogTo),
    /// OpenTelemetry collector, without the settings in the environment.
    Otlp(OtlpTo),
}

/// Point at which an audit record counts as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuditSync {
    /// When the kernel has it.
    Kernel,
    /// When the disk has it.
    Disk,
}

/// Facilities in the order of their codes (RFC 5424, table 1); the last eight are `local0` to `local7`.
const FACILITIES: [&str; 16] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "ntp", "audit", "alert", "clock",
];
const LOCAL0: u8 = 16;

/// Parses `-`, `off`, a path, or one of our URLs.
pub(crate) fn parse(text: &str) -> Result<AccessLog, String> {
    match text.split_once("://") {
        Some((scheme, rest)) => url(scheme, rest),
        None if text == "-" => Ok(AccessLog::Stdout),
        None if text == "off" => Ok(AccessLog::Off),
        None if text.is_empty() => Err("it is empty".to_owned()),
        None => Ok(AccessLog::File(PathBuf::from(text))),
    }
}

fn url(scheme: &str, rest: &str) -> Result<AccessLog, String> {
    let (place, query) =
        rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let carrier = match scheme {
        "syslog+udp" => Carrier::Udp(with_port(place, None)?),
        "syslog+tcp" => Carrier::Tcp(with_port(place, None)?),
        "syslog+unix" if place.starts_with('/') => Carrier::Unix(PathBuf::from(place)),
        "syslog+unix" => return Err(format!("{place:?} is not an absolute path")),
        "otlp+http" | "otlp+https" => return otlp(place, query, scheme == "otlp+https"),
        _ => {
            return Err(format!(
                "{scheme:?} is not one of syslog+udp, syslog+tcp, syslog+unix, otlp+http, otlp+https"
            ));
        }
    };
    Ok(AccessLog::Syslog(SyslogTo { carrier, facility: facility(query)? }))
}

fn otlp(place: &str, query: Option<&str>, tls: bool) -> Result<AccessLog, String> {
    if let Some(query) = query {
        return Err(format!("{query:?} is not known here"));
    }
    let (authority, path) = match place.split_once('/') {
        Some((authority, path)) if !path.is_empty() => (authority, format!("/{path}")),
        Some((authority, _)) => (authority, "/v1/logs".to_owned()),
        None => (place, "/v1/logs".to_owned()),
    };
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{path:?} is not a path"));
    }
    Ok(AccessLog::Otlp(OtlpTo {
        authority: with_port(authority, Some(4318))?,
        path,
        tls,
        ..OtlpTo::default()
    }))
}

fn with_port(place: &str, default: Option<u16>) -> Result<String, String> {
    let wrong = || format!("{place:?} is not HOST:PORT");
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
        _ => (place, default.ok_or_else(wrong)?),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if host.is_empty() || !(bracketed || host.bytes().all(known)) {
        return Err(wrong());
    }
    Ok(format!("{host}:{port}"))
}

/// Parses `facility=NAME`, `local0` by default.
fn facility(query: Option<&str>) -> Result<u8, String> {
    let Some(query) = query else { return Ok(LOCAL0) };
    let name =
        query.strip_prefix("facility=").ok_or_else(|| format!("{query:?} is not facility=NAME"))?;
    let named = FACILITIES.iter().position(|known| *known == name);
    let local = || name.strip_prefix("local")?.parse::<u8>().ok().filter(|number| *number < 8);
    match (named, local()) {
        (Some(code), _) => Ok(u8::try_from(code).unwrap_or(LOCAL0)),
        (None, Some(number)) => Ok(LOCAL0 + number),
        (None, None) => Err(format!("{name:?} is not a syslog facility")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S2.49+
    #[test]
    fn places_are_told_apart_and_nonsense_is_refused() {
        let syslog = |carrier, facility| Ok(AccessLog::Syslog(SyslogTo { carrier, facility }));
        let otlp = |authority: &str, path: &str, tls| {
            let (authority, path) = (authority.to_owned(), path.to_owned());
            Ok(AccessLog::Otlp(OtlpTo { authority, path, tls, ..OtlpTo::default() }))
        };

        assert_eq!(parse("-"), Ok(AccessLog::Stdout));
        assert_eq!(parse("off"), Ok(AccessLog::Off));
        assert_eq!(parse("/var/log/x"), Ok(AccessLog::File("/var/log/x".into())));
        assert_eq!(parse("syslog+udp://h:514"), syslog(Carrier::Udp("h:514".into()), 16));
        assert_eq!(
            parse("syslog+tcp://[::1]:514?facility=audit"),
            syslog(Carrier::Tcp("[::1]:514".into()), 13)
        );
        assert_eq!(
            parse("syslog+unix:///dev/log?facility=local7"),
            syslog(Carrier::Unix("/dev/log".into()), 23)
        );
        assert_eq!(parse("otlp+http://h"), otlp("h:4318", "/v1/logs", false));
        assert_eq!(parse("otlp+https://h:1/x/y"), otlp("h:1", "/x/y", true));
        for junk in [
            "",
            "syslog://h:1",
            "syslog+udp://h",
            "syslog+tcp://:1",
            "syslog+unix://log",
            "http://h",
            "otlp+http://",
            "otlp+http://h:x",
            "otlp+http://u@h",
            "syslog+udp://h:1?facility=local8",
            "syslog+udp://h:1?x=y",
            "otlp+http://h/a b",
            "otlp+http://h?x",
        ] {
            assert!(parse(junk).is_err(), "{junk}");
        }
    }
}
