//! Address and credentials of the API server, read from a kubeconfig or from the service account of a pod.
//!
//! A switch that turns verification of the server off is deliberately absent.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Config;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use secrecy::ExposeSecret as _;
use thiserror::Error;

use super::reach::Reach;

/// Source of the API server's address and credentials.
#[derive(Clone, Debug)]
pub enum Location {
    /// The service account of the pod.
    InCluster,
    /// A kubeconfig that others wrote, and that was judged already.
    Inline {
        /// The kubeconfig.
        kubeconfig: Arc<Kubeconfig>,
        /// Addresses that its server may have.
        reach: Arc<Reach>,
    },
    /// A kubeconfig.
    Kubeconfig {
        /// The file; `None` for `$KUBECONFIG` or `~/.kube/config`.
        file: Option<PathBuf>,
        /// The context; `None` for the current one.
        context: Option<String>,
    },
}

/// A reason why an API server cannot be accessed.
#[derive(Debug, Error)]
pub enum AccessError {
    /// The kubeconfig cannot be read.
    #[error("kubeconfig cannot be read")]
    Kubeconfig(#[source] Box<KubeconfigError>),
    /// The service account of the pod cannot be read.
    #[error("service account of the pod cannot be read")]
    ServiceAccount(#[source] Box<InClusterError>),
    /// The kubeconfig asks for something that is not supported.
    #[error("{field} of the kubeconfig is not supported: {cure}")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// A way out.
        cure: &'static str,
    },
    /// A value of the kubeconfig cannot be used.
    #[error("{field} of the kubeconfig cannot be used: {fault}")]
    Unusable {
        /// The field.
        field: &'static str,
        /// Error, as a phrase.
        fault: String,
    },
}

impl Location {
    /// Returns the location that the environment names: a service account if the process runs in a pod and no kubeconfig is given.
    #[must_use]
    pub fn infer(file: Option<PathBuf>, context: Option<String>) -> Self {
        let is_given = file.is_some() || std::env::var_os("KUBECONFIG").is_some();
        let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        if in_pod && !is_given { Self::InCluster } else { Self::Kubeconfig { file, context } }
    }

    /// Returns the addresses that the server may have; `None` where whoever runs the process chose it.
    pub(super) fn reach(&self) -> Option<&Reach> {
        match self {
            Self::Inline { reach, .. } => Some(reach),
            Self::InCluster | Self::Kubeconfig { .. } => None,
        }
    }

    /// Reads address, authorities and credentials as they are now.
    pub(super) async fn load(&self) -> Result<Config, AccessError> {
        let config = match self {
            Self::InCluster => {
                Config::incluster().map_err(|error| AccessError::ServiceAccount(Box::new(error)))?
            }
            Self::Inline { kubeconfig, .. } => {
                let options = KubeConfigOptions::default();
                let read = Config::from_custom_kubeconfig(Kubeconfig::clone(kubeconfig), &options);
                read.await.map_err(|error| AccessError::Kubeconfig(Box::new(error)))?
            }
            Self::Kubeconfig { file, context } => {
                let fault = |error| AccessError::Kubeconfig(Box::new(error));
                let read = match file {
                    Some(file) => Kubeconfig::read_from(file),
                    None => Kubeconfig::read(),
                };
                let options =
                    KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
                let read = read.map_err(fault)?;
                Config::from_custom_kubeconfig(read, &options).await.map_err(fault)?
            }
        };
        supported(config)
    }
}

fn supported(config: Config) -> Result<Config, AccessError> {
    let unsupported = |field, cure| Err(AccessError::Unsupported { field, cure });
    if config.accept_invalid_certs {
        return unsupported(
            "insecure-skip-tls-verify",
            "name the authority in certificate-authority",
        );
    }
    if config.proxy_url.is_some() {
        return unsupported("proxy-url", "connect to the API server directly");
    }
    Ok(config)
}

/// Returns the file that the bearer token is read from, if it is read from one.
pub(super) fn token_file(config: &Config) -> Option<PathBuf> {
    let auth = &config.auth_info;
    let other = auth.token.is_some() || auth.username.is_some() || auth.auth_provider.is_some();
    auth.token_file.as_ref().filter(|_| !other).map(PathBuf::from)
}

/// A client certificate.
pub(super) struct ClientIdentity {
    /// The chain, PEM.
    pub(super) certificate: Vec<u8>,
    /// Private key, PEM.
    pub(super) key: Vec<u8>,
}

/// Returns the client certificate, if there is one.
pub(super) fn identity(config: &Config) -> Result<Option<ClientIdentity>, AccessError> {
    let auth = &config.auth_info;
    let key_data = auth.client_key_data.as_ref().map(|key| key.expose_secret());
    let certificate = pem(
        "client-certificate",
        auth.client_certificate_data.as_deref(),
        auth.client_certificate.as_deref(),
    )?;
    let key = pem("client-key", key_data, auth.client_key.as_deref())?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(ClientIdentity { certificate, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(missing("client-key")),
        (None, Some(_)) => Err(missing("client-certificate")),
    }
}

fn missing(field: &'static str) -> AccessError {
    AccessError::Unusable { field, fault: "is missing".to_owned() }
}

/// Returns what a field holds itself in base64, or the file it names.
fn pem(
    field: &'static str,
    data: Option<&str>,
    file: Option<&str>,
) -> Result<Option<Vec<u8>>, AccessError> {
    let unusable = |fault: String| AccessError::Unusable { field, fault };
    match (data, file) {
        (Some(data), _) => STANDARD
            .decode(data.split_ascii_whitespace().collect::<String>())
            .map(Some)
            .map_err(|error| unusable(error.to_string())),
        (None, Some(file)) => {
            std::fs::read(file).map(Some).map_err(|error| unusable(format!("{file}: {error}")))
        }
        (None, None) => Ok(None),
    }
}
