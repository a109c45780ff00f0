//! `durward egress env`: the variables by which programs find a tenant's forward proxy, in upper and lower case.
//!
//! Deliberately absent: secrets from documents, which hold hashes only; the user names the file with the secret.

use durward_model::{Listener, Service, Tenant};
use serde::Serialize;

use crate::cli::{EgressEnv, EnvFormat};
use crate::config;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen};
use crate::percent::encoded;
use durward_control::source::regular::{self, FileKind};

/// Environment variable of a container.
#[derive(Serialize)]
struct Variable {
    name: &'static str,
    value: String,
}

/// Prints the variables.
pub(crate) fn env(arguments: &EgressEnv) -> Result<Exit, Failure> {
    let loaded = config::load(&arguments.config)?;
    let with_proxy: Vec<&Tenant> = loaded
        .snapshot
        .tenants
        .values()
        .map(|tenant| &**tenant)
        .filter(|tenant| proxies(tenant).next().is_some())
        .collect();
    let tenant = choose(&with_proxy, arguments.tenant.as_deref())?;
    let listener = pick(tenant, arguments)?;
    let secret = arguments.credential_file.as_ref().map(|path| {
        let text = regular::read_text(path, FileKind::Key);
        text.map(|text| text.trim().to_owned())
            .map_err(|error| Failure::broken(format!("reading {}", path.display()), error))
    });
    let secret = secret.transpose()?;
    let needed =
        matches!(&listener.service, Service::Forward(service) if !service.credentials.is_empty());
    if needed && secret.is_none() {
        let text = format!(
            "{} requires a credential: name a file with NAME:SECRET by --credential-file",
            listener
        );
        return Err(Failure::usage(text));
    }
    let variables = variables(listener, secret.as_deref(), &arguments.no_proxy);
    let mut screen = Screen::stdout();
    match arguments.format {
        EnvFormat::Json => screen.value(&variables, Format::Json)?,
        EnvFormat::Kubernetes => screen.value(&variables, Format::Yaml)?,
        EnvFormat::Sh => {
            for Variable { name, value } in variables {
                screen.line(format!("export {name}='{}'", value.replace('\'', "'\\''")))?;
            }
        }
        EnvFormat::Dotenv => {
            for Variable { name, value } in variables {
                screen.line(format!("{name}={value}"))?;
            }
        }
    }
    Ok(Exit::Ok)
}

fn choose<'a>(tenants: &[&'a Tenant], name: Option<&str>) -> Result<&'a Tenant, Failure> {
    let names: Vec<&str> = tenants.iter().map(|tenant| tenant.id.as_str()).collect();
    let wrong = |message: String| Failure::usage(message);
    match (name, tenants) {
        (_, []) => Err(wrong("no tenant has a forward proxy: write spec.egress.proxy".to_owned())),
        (None, [one]) => Ok(one),
        (None, _) => Err(wrong(format!(
            "several tenants have a forward proxy: name one with --tenant: {}",
            names.join(", ")
        ))),
        (Some(name), _) => {
            let found = tenants.iter().find(|tenant| tenant.id.as_str() == name).copied();
            found.ok_or_else(|| {
                wrong(format!(
                    "no tenant {name} with a forward proxy: there is {}",
                    names.join(", ")
                ))
            })
        }
    }
}

fn proxies(tenant: &Tenant) -> impl Iterator<Item = &Listener> {
    let listeners = tenant.listeners.iter().map(|listener| &**listener);
    listeners.filter(|listener| matches!(listener.service, Service::Forward(_)))
}

fn pick<'a>(tenant: &'a Tenant, arguments: &EgressEnv) -> Result<&'a Listener, Failure> {
    let mut all = proxies(tenant);
    match &arguments.proxy {
        None => all.next().ok_or_else(|| Failure::usage("the tenant has no forward proxy")),
        Some(wanted) => all.find(|listener| listener.to_string() == *wanted).ok_or_else(|| {
            let known: Vec<String> = proxies(tenant).map(ToString::to_string).collect();
            Failure::usage(format!(
                "{} has no proxy {wanted}: there is {}",
                tenant.id,
                known.join(", ")
            ))
        }),
    }
}

fn variables(listener: &Listener, secret: Option<&str>, direct: &str) -> Vec<Variable> {
    let tls = matches!(&listener.service, Service::Forward(service) if service.tls.is_some());
    let scheme = if tls { "https" } else { "http" };
    let user = secret.map(|secret| format!("{}@", escaped(secret))).unwrap_or_default();
    let proxy = format!("{scheme}://{user}{listener}");
    let through = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"];
    let through = through.map(|name| Variable { name, value: proxy.clone() });
    let beside = ["NO_PROXY", "no_proxy"].map(|name| Variable { name, value: direct.to_owned() });
    through.into_iter().chain(beside).collect()
}

/// Encodes a credential for a URL. The first colon stays: it separates name and secret.
fn escaped(credential: &str) -> String {
    match credential.split_once(':') {
        Some((name, secret)) => format!("{}:{}", encoded(name), encoded(secret)),
        None => encoded(credential),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_survives_a_url() {
        assert_eq!(escaped("ci:a:b@c/d é"), "ci:a%3Ab%40c%2Fd%20%C3%A9");
    }
}
