//! Options of certificates by ACME.

use std::path::PathBuf;

use clap::Args;

/// How `durward run` orders certificates.
#[derive(Args, Clone, Debug)]
pub(crate) struct AcmeArgs {
    /// PEM file of CA certificates to verify ACME authorities with, instead of the system's
    #[arg(long = "acme-ca", value_name = "FILE", env = "DURWARD_ACME_CA", hide_env_values = true)]
    pub(crate) ca: Option<PathBuf>,
    /// Maximum number of certificates ordered from one ACME authority per hour
    #[arg(long = "acme-orders-per-hour", value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) orders_per_hour: u32,
}

/// Parses an https URL.
pub(super) fn parse_https(text: &str) -> Result<String, String> {
    let uri: http::Uri = text.parse().map_err(|_| format!("{text:?} is not a URL"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is not an https URL")),
    }
}
