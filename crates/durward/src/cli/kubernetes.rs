//! Options of the Kubernetes API as a source of tenants.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use durward_control::cluster::Cluster;
use durward_kube::source::Reading;

/// How `durward run` reads the Kubernetes API.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub(crate) struct KubernetesArgs {
    /// Read tenants from the Kubernetes API too, and write what became of each object into its status
    #[arg(long, env = "DURWARD_KUBERNETES", hide_env_values = true)]
    pub(crate) kubernetes: bool,
    /// The kubeconfig [default: in a pod its service account, else $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    pub(crate) kube_context: Option<String>,
    /// Read namespaced objects of this namespace only
    #[arg(long, value_name = "NAMESPACE", requires = "kubernetes")]
    pub(crate) kube_namespace: Option<String>,
    /// How Secrets are read: each by its name (`names`), all of one namespace (`namespace/NAME`), or all there are (`cluster`)
    #[arg(long, value_name = "HOW", default_value = "names", value_parser = parse_secrets, requires = "kubernetes")]
    pub(crate) kube_secrets: Secrets,
    /// Read the tenants of a `routing.json` in this ConfigMap of the gateway's own namespace, and their certificates from the Secrets NAME-cert
    #[arg(
        long,
        value_name = "CONFIGMAP",
        env = "DURWARD_KUBE_ROUTING",
        hide_env_values = true,
        requires = "kubernetes"
    )]
    pub(crate) kube_routing: Option<String>,
    /// Write the addresses of tenants into the status of their Services of type LoadBalancer and class durward.dev/gateway
    #[arg(
        long,
        env = "DURWARD_KUBE_LOAD_BALANCERS",
        hide_env_values = true,
        requires = "kubernetes"
    )]
    pub(crate) kube_load_balancers: bool,
    /// Read SmartNat's Mapping objects too, and write what SmartNat writes into them
    #[arg(
        long,
        env = "DURWARD_SMARTNAT_MAPPINGS",
        hide_env_values = true,
        requires = "kubernetes"
    )]
    pub(crate) smartnat_mappings: bool,
    /// Objects in its namespaces that a tenant may have; of more the oldest count
    #[arg(long, value_name = "N", default_value_t = Cluster::OBJECTS_PER_TENANT, requires = "kubernetes")]
    pub(crate) kube_objects_per_tenant: usize,
    /// Statuses written within a second, at most; 0 writes none
    #[arg(long, value_name = "N", default_value_t = 50, requires = "kubernetes")]
    pub(crate) status_rate: u32,
    /// The gateway's own namespace: revisions and Events of tenants are kept there, and every tenant may name its Secrets
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "POD_NAMESPACE",
        hide_env_values = true,
        default_value = "default"
    )]
    pub(crate) gateway_namespace: String,
}

/// Which Secrets are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Secrets {
    /// Those that documents name, one by one.
    Names,
    /// All of a namespace.
    Namespace(Arc<str>),
    /// All of the cluster.
    Cluster,
}

impl Secrets {
    /// Returns how they are read; `names` is how it is done one by one.
    pub(crate) fn reading(&self, names: Reading) -> Reading {
        match self {
            Self::Names => names,
            Self::Namespace(namespace) => Reading::Namespace(Arc::clone(namespace)),
            Self::Cluster => Reading::Cluster,
        }
    }
}

fn parse_secrets(text: &str) -> Result<Secrets, String> {
    match (text, text.strip_prefix("namespace/")) {
        ("names", _) => Ok(Secrets::Names),
        ("cluster", _) => Ok(Secrets::Cluster),
        (_, Some(namespace)) if !namespace.is_empty() => {
            Ok(Secrets::Namespace(Arc::from(namespace)))
        }
        _ => Err("write names, namespace/NAME or cluster".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_by_name_of_a_namespace_or_all() {
        assert_eq!(parse_secrets("names"), Ok(Secrets::Names));
        assert_eq!(parse_secrets("cluster"), Ok(Secrets::Cluster));
        assert_eq!(parse_secrets("namespace/certs"), Ok(Secrets::Namespace(Arc::from("certs"))));
        for other in ["", "namespace/", "all", "Names"] {
            assert!(parse_secrets(other).is_err(), "{other}");
        }
    }
}
