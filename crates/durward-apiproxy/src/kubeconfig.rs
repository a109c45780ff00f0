//! A kubeconfig for a hosted API server.

use base64::Engine as _;
use serde::Serialize;

/// Facts that a kubeconfig is made of.
pub struct Access<'a> {
    /// Name of cluster, user and context.
    pub name: &'a str,
    /// URL of the API server.
    pub server: &'a str,
    /// Certificate authority of the API server, PEM.
    pub authority: &'a str,
    /// Name that the API server's certificate is verified against, if it is not the URL's host.
    pub tls_server_name: Option<&'a str>,
    /// Credential of the user.
    pub credential: Credential<'a>,
}

/// Credential of a user.
pub enum Credential<'a> {
    /// A client certificate and its key, PEM.
    Certificate {
        /// The chain.
        certificate: &'a str,
        /// The key.
        key: &'a str,
    },
    /// A file that holds a bearer token.
    TokenFile(&'a str),
}

/// The file of clients of Kubernetes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kubeconfig {
    api_version: &'static str,
    kind: &'static str,
    clusters: [Named<Cluster>; 1],
    users: [Named<User>; 1],
    contexts: [Named<Context>; 1],
    #[serde(rename = "current-context")]
    current_context: String,
}

#[derive(Serialize)]
struct Named<T> {
    name: String,
    #[serde(flatten)]
    value: T,
}

#[derive(Serialize)]
enum Cluster {
    #[serde(rename = "cluster")]
    Cluster {
        server: String,
        #[serde(rename = "certificate-authority-data")]
        authority: String,
        #[serde(rename = "tls-server-name", skip_serializing_if = "Option::is_none")]
        tls_server_name: Option<String>,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum User {
    User(UserFields),
}

#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct UserFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    client_certificate_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_key_data: Option<String>,
    // Camel case: the one field of a user that is not written with hyphens.
    #[serde(rename = "tokenFile", skip_serializing_if = "Option::is_none")]
    token_file: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Context {
    Context { cluster: String, user: String },
}

impl Kubeconfig {
    /// Builds the kubeconfig.
    #[must_use]
    pub fn new(access: &Access<'_>) -> Self {
        let base64 = |text: &str| base64::prelude::BASE64_STANDARD.encode(text);
        let name = access.name.to_owned();
        let user = match &access.credential {
            Credential::Certificate { certificate, key } => UserFields {
                client_certificate_data: Some(base64(certificate)),
                client_key_data: Some(base64(key)),
                token_file: None,
            },
            Credential::TokenFile(file) => {
                UserFields { token_file: Some((*file).to_owned()), ..UserFields::default() }
            }
        };
        let cluster = Cluster::Cluster {
            server: access.server.to_owned(),
            authority: base64(access.authority),
            tls_server_name: access.tls_server_name.map(str::to_owned),
        };
        let context = Context::Context { cluster: name.clone(), user: name.clone() };
        Self {
            api_version: "v1",
            kind: "Config",
            clusters: [Named { name: name.clone(), value: cluster }],
            users: [Named { name: name.clone(), value: User::User(user) }],
            contexts: [Named { name: name.clone(), value: context }],
            current_context: name,
        }
    }
}
