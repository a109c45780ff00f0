//! `durward api kubeconfig`: a kubeconfig for a hosted API server.

use std::path::Path;

use durward_apiproxy::kubeconfig::{Access, Credential, Kubeconfig};
use durward_apiproxy::tls;

use crate::cli::ApiKubeconfig;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Screen};

/// Prints it.
pub(super) fn kubeconfig(arguments: &ApiKubeconfig) -> Result<Exit, Failure> {
    tls::certificates(&arguments.ca).map_err(|fault| invalid(&fault))?;
    let authority = read(&arguments.ca)?;
    let pair = match (&arguments.cert, &arguments.key) {
        (Some(certificate), Some(key)) => {
            tls::certificates(certificate).map_err(|fault| invalid(&fault))?;
            Some((read(certificate)?, read(key)?))
        }
        _ => None,
    };
    let credential = match (&pair, &arguments.token_file) {
        (Some((certificate, key)), _) => Credential::Certificate { certificate, key },
        (None, Some(file)) => Credential::TokenFile(file),
        (None, None) => {
            return Err(Failure::usage("--cert and --key, or --token-file, are missing"));
        }
    };
    let server = format!("https://{}", arguments.server);
    let first = arguments.server.host.split('.').next().unwrap_or_default();
    let kubeconfig = Kubeconfig::new(&Access {
        name: arguments.name.as_deref().unwrap_or(first),
        server: &server,
        authority: &authority,
        tls_server_name: arguments.tls_server_name.as_deref(),
        credential,
    });
    Screen::stdout().value(&kubeconfig, Format::Yaml)?;
    Ok(Exit::Ok)
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| invalid(&format!("{}: {error}", file.display())))
}

fn invalid(fault: &dyn std::fmt::Display) -> Failure {
    Failure::InvalidConfig { message: fault.to_string() }
}
