//! Options of the Kubernetes API as a source of tenants.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use durward_control::cluster::Cluster;
use durward_kube::source::Reading;

/// How `durward run` comes by the objects of Kubernetes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub(crate) struct KubernetesArgs {
    /// Read tenants from the Kubernetes API too, and write what became of each object into its status
    #[arg(long, env = "DURWARD_KUBERNETES", hide_env_values = true)]
    pub(crate) kubernetes: bool,
    /// Have the objects of `durward kube`, which listens at this Unix socket: this process then needs no right in the cluster
    #[arg(long, value_name = "PATH", conflicts_with = "kubernetes")]
    pub(crate) kube_socket: Option<PathBuf>,
    /// User id of that process [default: this process's own]
    #[arg(long, value_name = "UID", requires = "kube_socket")]
    pub(crate) kube_peer: Option<u32>,
    #[command(flatten)]
    pub(crate) routing: RoutingArgs,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
}

/// A `routing.json` in the cluster.
#[derive(Args, Clone, Debug)]
pub(crate) struct RoutingArgs {
    /// Read the tenants of a `routing.json` in this ConfigMap of the gateway's own namespace, and their certificates from the Secrets NAME-cert. Two processes need the same name
    #[arg(long, value_name = "CONFIGMAP", env = "DURWARD_KUBE_ROUTING", hide_env_values = true)]
    pub(crate) kube_routing: Option<String>,
}

/// How an API server is read.
#[derive(Args, Clone, Debug)]
pub(crate) struct ApiArgs {
    /// The kubeconfig [default: in a pod its service account, else $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub(crate) kube_context: Option<String>,
    /// Read namespaced objects of this namespace only
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) kube_namespace: Option<String>,
    /// Read Ingresses of the classes whose controller is durward.dev/ingress, and write the addresses of their listeners into their status
    #[arg(long, env = "DURWARD_KUBE_INGRESSES", hide_env_values = true)]
    pub(crate) kube_ingresses: bool,
    /// Write the addresses of tenants into the status of their Services of type LoadBalancer and class durward.dev/gateway
    #[arg(long, env = "DURWARD_KUBE_LOAD_BALANCERS", hide_env_values = true)]
    pub(crate) kube_load_balancers: bool,
    /// Read SmartNat's Mapping objects too, and write what SmartNat writes into them
    #[arg(long, env = "DURWARD_SMARTNAT_MAPPINGS", hide_env_values = true)]
    pub(crate) smartnat_mappings: bool,
    /// How Secrets are read: each by its name (`names`), all of one namespace (`namespace/NAME`), or all there are (`cluster`) [default: names]
    #[arg(long, value_name = "HOW", value_parser = parse_secrets)]
    pub(crate) kube_secrets: Option<Secrets>,
    /// Read objects of other controllers that name hosted API servers, too: TenantControlPlane of Kamaji and Steward, IngressRouteTCP of Traefik, TLSRoute
    #[arg(long, env = "DURWARD_FOREIGN_HOSTED_APIS", hide_env_values = true)]
    pub(crate) foreign_hosted_apis: bool,
    /// Objects in its namespaces that a tenant may have; of more the oldest count. Two processes need the same number
    #[arg(long, value_name = "N", default_value_t = Cluster::OBJECTS_PER_TENANT)]
    pub(crate) kube_objects_per_tenant: usize,
    /// Statuses written within a second, at most; 0 writes none [default: 50]
    #[arg(long, value_name = "N")]
    pub(crate) status_rate: Option<u32>,
    /// Encrypted file in which all that was read is kept, so that a start while the API server is away serves it [default: none]
    #[arg(long, value_name = "FILE", requires = "kube_cache_key")]
    pub(crate) kube_cache: Option<PathBuf>,
    /// File with the key of --kube-cache: 32 random bytes, as they are or in base64
    #[arg(long, value_name = "FILE", requires = "kube_cache")]
    pub(crate) kube_cache_key: Option<PathBuf>,
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

impl ApiArgs {
    /// Returns the cluster, with the gateway's own namespace.
    pub(crate) fn cluster(&self) -> Cluster {
        Cluster {
            namespace: Arc::from(self.gateway_namespace.as_str()),
            objects_per_tenant: self.kube_objects_per_tenant,
        }
    }

    /// Returns the first option that is given and says how an API server is read.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.kubeconfig.is_some(), "--kubeconfig"),
            (self.kube_context.is_some(), "--kube-context"),
            (self.kube_namespace.is_some(), "--kube-namespace"),
            (self.kube_ingresses, "--kube-ingresses"),
            (self.kube_load_balancers, "--kube-load-balancers"),
            (self.smartnat_mappings, "--smartnat-mappings"),
            (self.kube_secrets.is_some(), "--kube-secrets"),
            (self.foreign_hosted_apis, "--foreign-hosted-apis"),
            (self.status_rate.is_some(), "--status-rate"),
            (self.kube_cache.is_some(), "--kube-cache"),
        ];
        given.into_iter().find_map(|(is_given, option)| is_given.then_some(option))
    }
}

/// `durward kube`
#[derive(Args, Clone, Debug)]
pub(crate) struct Kube {
    /// Unix socket that gateways connect to, with `durward run --kube-socket`
    #[arg(long, value_name = "PATH", env = "DURWARD_KUBE_SOCKET", hide_env_values = true)]
    pub(crate) socket: PathBuf,
    /// User id that gateways run as; their group and this process's must have one in common [default: this process's own]
    #[arg(long, value_name = "UID")]
    pub(crate) peer: Option<u32>,
    /// Address and port of the admin listener (/livez, /readyz, /metrics); `off` disables it
    #[arg(long, value_name = "ADDRESS:PORT|off", default_value = "127.0.0.1:9441", value_parser = super::parse_admin)]
    pub(crate) admin: super::Admin,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    #[command(flatten)]
    pub(crate) routing: RoutingArgs,
}

/// Heading of options for objects of a cluster.
const OBJECTS: &str = "Kubernetes";

/// Objects of a cluster in place of files, for commands that look at a configuration.
#[derive(Args, Clone, Debug)]
pub(crate) struct LiveArgs {
    /// Look at the objects of a cluster, with the user's own rights, instead of files; `kubectl durward` does so unless -c names files
    #[arg(long, conflicts_with = "config", help_heading = OBJECTS)]
    pub(crate) kubernetes: bool,
    /// The kubeconfig [default: in a pod its service account, else $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE", help_heading = OBJECTS)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", help_heading = OBJECTS)]
    pub(crate) kube_context: Option<String>,
    /// Read namespaced objects of this namespace only
    #[arg(long, value_name = "NAMESPACE", help_heading = OBJECTS)]
    pub(crate) kube_namespace: Option<String>,
    /// Read Ingresses of the classes whose controller is durward.dev/ingress, as a gateway with --kube-ingresses does
    #[arg(long, help_heading = OBJECTS)]
    pub(crate) kube_ingresses: bool,
    /// The gateway's own namespace
    #[arg(long, value_name = "NAMESPACE", default_value = "durward", help_heading = OBJECTS)]
    pub(crate) gateway_namespace: String,
}

impl LiveArgs {
    /// Returns the first option that is given and says how an API server is read.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.kubeconfig.is_some(), "--kubeconfig"),
            (self.kube_context.is_some(), "--kube-context"),
            (self.kube_namespace.is_some(), "--kube-namespace"),
            (self.kube_ingresses, "--kube-ingresses"),
        ];
        given.into_iter().find_map(|(is_given, option)| is_given.then_some(option))
    }
}

/// `durward init`
#[derive(Args, Clone, Debug)]
pub(crate) struct Init {
    /// Write manifests for a Kubernetes cluster: definitions, rights, a gateway in two processes, a first tenant
    #[arg(long)]
    pub(crate) kubernetes: bool,
    /// Directory to write them to
    #[arg(short = 'd', long, value_name = "DIR", default_value = "durward-kubernetes")]
    pub(crate) out: PathBuf,
    /// Namespace of the gateway
    #[arg(long, value_name = "NAMESPACE", default_value = "durward")]
    pub(crate) namespace: String,
    /// Image of the gateway; there is no official one, deploy/Dockerfile builds it
    #[arg(long, value_name = "IMAGE", default_value = concat!("registry.example/durward:", env!("CARGO_PKG_VERSION")))]
    pub(crate) image: String,
    /// The gateway reads the API itself, in place of `durward kube` beside it
    #[arg(long)]
    pub(crate) one_process: bool,
    /// Add the policies of `durward crds --admission`
    #[arg(long)]
    pub(crate) admission: bool,
    /// Overwrite files that are there
    #[arg(long)]
    pub(crate) force: bool,
}

/// `durward crds`
#[derive(Args, Clone, Debug)]
pub(crate) struct Crds {
    /// Print ValidatingAdmissionPolicies too: the API server (1.30 or newer) then refuses objects that name what is another tenant's
    #[arg(long)]
    pub(crate) admission: bool,
    /// The gateway's own namespace, where objects may be for any tenant
    #[arg(long, value_name = "NAMESPACE", default_value = "durward")]
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
