//! A reason why nothing is installed or removed, as the condition of a `HostedApi` gives it.

use crate::request::ApiError;

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// A word for programs.
    pub(super) reason: &'static str,
    /// A sentence for people.
    pub(super) sentence: String,
    /// True if the tenant's cluster or kubeconfig is at fault: one that is to be left is given up after a while.
    pub(super) is_of_cluster: bool,
}

impl Failure {
    /// Builds a failure that lasts until somebody else changes something.
    pub(super) fn new(reason: &'static str, sentence: impl Into<String>) -> Self {
        Self { reason, sentence: sentence.into(), is_of_cluster: false }
    }

    /// Builds a failure of a tenant's cluster or kubeconfig.
    pub(super) fn of_cluster(reason: &'static str, sentence: impl Into<String>) -> Self {
        Self { is_of_cluster: true, ..Self::new(reason, sentence) }
    }
}

/// Returns what is said of a tenant cluster that did not do what it was asked for.
pub(super) fn of_cluster(error: &ApiError) -> Failure {
    match error {
        // How a connection failed says something of the network that this process is in, and a tenant chooses the address.
        ApiError::Unreachable(why) => {
            tracing::debug!(why, "tenant cluster cannot be reached");
            let sentence = "the server of the kubeconfig does not answer over TLS that its authority verifies, at an address that the installer connects to: see that it is reached from here";
            Failure::of_cluster("ClusterUnreachable", sentence)
        }
        ApiError::Unauthorized(_) => {
            let sentence = "the server does not accept the credentials of the kubeconfig: they were revoked or have expired, renew them";
            Failure::of_cluster("CredentialsRefused", sentence)
        }
        error => Failure::of_cluster("ClusterRefused", printable(&error.to_string())),
    }
}

/// Returns a server's words without what would control a terminal, and not too long.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(300).collect()
}
