//! The kubeconfig of a tenant cluster, which its owner wrote: it gets no file, program or proxy of this host, and no way around verification.

use kube::config::{AuthInfo, Cluster, Kubeconfig};
use thiserror::Error;

use crate::client::Reach;

/// A kubeconfig that is not used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KubeconfigFault {
    /// It cannot be read.
    #[error("is no kubeconfig: {0}")]
    Unreadable(String),
    /// A part is missing.
    #[error("has no {0}")]
    Missing(&'static str),
    /// A field names a thing of this host, or switches verification off.
    #[error("has {field}, which is not used here: {cure}")]
    Refused {
        /// The field.
        field: &'static str,
        /// What to write in its place.
        cure: &'static str,
    },
}

/// Largest kubeconfig that is read.
const LONGEST: usize = 256 << 10;

/// Returns what of a tenant's kubeconfig is used: the server, authority and credentials of its current context.
///
/// # Errors
/// Fails if it asks for anything else: files, programs, proxies, an unverified server, or an address that `reach` does not allow.
pub fn of_tenant(text: &[u8], reach: &Reach) -> Result<Kubeconfig, KubeconfigFault> {
    let unreadable = |why: &str| KubeconfigFault::Unreadable(why.to_owned());
    if text.len() > LONGEST {
        return Err(unreadable("it is longer than 256 KiB"));
    }
    let text = std::str::from_utf8(text).map_err(|_| unreadable("it is not UTF-8"))?;
    // The library's own words quote what is written, which may be a secret.
    let read = Kubeconfig::from_yaml(text).map_err(|_| unreadable("its YAML has another form"))?;
    let current =
        read.current_context.clone().ok_or(KubeconfigFault::Missing("current-context"))?;
    let context = read.contexts.iter().find(|context| context.name == current);
    let context = context.and_then(|named| named.context.as_ref());
    let context = context.ok_or(KubeconfigFault::Missing("context of its current-context"))?;
    let cluster = read.clusters.iter().find(|named| named.name == context.cluster);
    let cluster = cluster.and_then(|named| named.cluster.as_ref());
    check_cluster(cluster.ok_or(KubeconfigFault::Missing("cluster of its context"))?, reach)?;
    let user = read.auth_infos.iter().find(|named| Some(&named.name) == context.user.as_ref());
    let user = user.and_then(|named| named.auth_info.as_ref());
    check_user(user.ok_or(KubeconfigFault::Missing("user of its context"))?)?;
    let (cluster, user) = (context.cluster.clone(), context.user.clone());
    let mut used = read;
    used.clusters.retain(|named| named.name == cluster);
    used.auth_infos.retain(|named| Some(&named.name) == user.as_ref());
    used.contexts.retain(|named| named.name == current);
    Ok(used)
}

fn refused(field: &'static str, cure: &'static str) -> KubeconfigFault {
    KubeconfigFault::Refused { field, cure }
}

fn check_cluster(cluster: &Cluster, reach: &Reach) -> Result<(), KubeconfigFault> {
    if cluster.insecure_skip_tls_verify == Some(true) {
        return Err(refused(
            "insecure-skip-tls-verify",
            "write the authority into certificate-authority-data",
        ));
    }
    if cluster.certificate_authority.is_some() {
        return Err(refused(
            "certificate-authority",
            "write the authority itself into certificate-authority-data",
        ));
    }
    if cluster.proxy_url.is_some() {
        return Err(refused("proxy-url", "name a server that is reached directly"));
    }
    let server = cluster.server.as_deref().ok_or(KubeconfigFault::Missing("server"))?;
    let server: http::Uri = server
        .parse()
        .map_err(|_| KubeconfigFault::Unreadable("its server is no URL".to_owned()))?;
    if server.scheme_str() != Some("https") {
        return Err(refused("server without https", SERVER));
    }
    let authority = server.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let has_path = !matches!(server.path(), "" | "/") || server.query().is_some();
    if has_path || authority.contains('@') {
        return Err(refused("server with more than host and port", SERVER));
    }
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    if host.is_empty() {
        return Err(KubeconfigFault::Missing("host in its server"));
    }
    // Names are judged when they are dialled, by the addresses that they have then.
    if host.parse().is_ok_and(|address| !reach.allows(address)) {
        return Err(refused("server at an address that is not connected to", OWN_ADDRESS));
    }
    // Without it the authorities of this host would vouch for the server, and those are everybody's.
    let authority = cluster.certificate_authority_data.as_deref().unwrap_or_default();
    if authority.trim().is_empty() {
        return Err(KubeconfigFault::Missing("certificate-authority-data"));
    }
    Ok(())
}

const SERVER: &str = "write https://HOST:PORT";
const OWN_ADDRESS: &str =
    "write the API server's own address, in a network that the installer connects to";

fn check_user(user: &AuthInfo) -> Result<(), KubeconfigFault> {
    const INLINE: &str = "write the contents into the field of the same name with -data";
    let fields = [
        ("exec", user.exec.is_some(), "no program is run: use a token or a client certificate"),
        ("auth-provider", user.auth_provider.is_some(), "use a token or a client certificate"),
        ("tokenFile", user.token_file.is_some(), "write the token into token"),
        ("client-certificate", user.client_certificate.is_some(), INLINE),
        ("client-key", user.client_key.is_some(), INLINE),
        (
            "username",
            user.username.is_some() || user.password.is_some(),
            "use a token or a client certificate",
        ),
    ];
    match fields.into_iter().find(|(_, is_there, _)| *is_there) {
        Some((field, _, cure)) => Err(refused(field, cure)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: c, user: u}}}}, {{name: b, context: {{cluster: d, user: v}}}}]\nclusters: [{{name: c, cluster: {{{cluster}}}}}, {{name: d, cluster: {{server: 'http://169.254.169.254'}}}}]\nusers: [{{name: u, user: {{{user}}}}}, {{name: v, user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: id}}}}}}]\n"
        )
    }

    #[test]
    fn server_authority_and_credentials_of_the_current_context_are_used_and_nothing_else() {
        let text = kubeconfig(
            "server: 'https://10.0.0.1:6443', certificate-authority-data: QQ==",
            "token: t",
        );

        let used = of_tenant(text.as_bytes(), &Reach::default()).unwrap();

        assert_eq!((used.clusters.len(), used.auth_infos.len(), used.contexts.len()), (1, 1, 1));
        assert_eq!(used.auth_infos[0].name, "u");
    }

    #[test]
    fn a_tenant_gets_no_file_program_or_proxy_of_the_installers_host() {
        let server = "server: 'https://10.0.0.1:6443', certificate-authority-data: QQ==";
        for (cluster, user, field) in [
            (server, "exec: {apiVersion: client.authentication.k8s.io/v1, command: id}", "exec"),
            (server, "auth-provider: {name: oidc, config: {}}", "auth-provider"),
            (server, "tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token", "tokenFile"),
            (server, "client-certificate: /etc/x", "client-certificate"),
            (server, "client-key: /etc/x", "client-key"),
            (server, "username: a, password: b", "username"),
            ("server: 'https://10.0.0.1', proxy-url: 'http://10.0.0.2'", "token: t", "proxy-url"),
            (
                "server: 'https://10.0.0.1', insecure-skip-tls-verify: true",
                "token: t",
                "insecure-skip-tls-verify",
            ),
            (
                "server: 'https://10.0.0.1', certificate-authority: /etc/x",
                "token: t",
                "certificate-authority",
            ),
        ] {
            let text = kubeconfig(cluster, user);
            let fault = of_tenant(text.as_bytes(), &Reach::default()).unwrap_err();

            let KubeconfigFault::Refused { field: said, .. } = &fault else { panic!("{fault}") };
            assert_eq!(*said, field);
        }
        for text in [
            "",
            "[",
            "a: b",
            "current-context: a",
            "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]",
        ] {
            assert!(of_tenant(text.as_bytes(), &Reach::default()).is_err(), "{text}");
        }
        let long = vec![b'#'; LONGEST + 1];
        for text in [&[0xff][..], &long] {
            assert!(of_tenant(text, &Reach::default()).is_err());
        }
    }

    #[test]
    fn a_server_is_a_host_and_a_port_that_the_installer_connects_to() {
        const FOREIGN: &str = "server at an address that is not connected to";
        const MORE: &str = "server with more than host and port";
        for (server, field) in [
            ("http://10.0.0.1", "server without https"),
            ("https://169.254.169.254", FOREIGN),
            ("https://[::ffff:169.254.169.254]:443", FOREIGN),
            ("https://127.0.0.1:6443", FOREIGN),
            ("https://0.0.0.0:6443", FOREIGN),
            ("https://10.0.0.1/api/v1/namespaces", MORE),
            ("https://10.0.0.1?a=b", MORE),
            ("https://a@10.0.0.1", MORE),
        ] {
            let text = kubeconfig(&format!("server: '{server}'"), "token: t");
            let fault = of_tenant(text.as_bytes(), &Reach::default()).unwrap_err();

            let KubeconfigFault::Refused { field: said, .. } = &fault else { panic!("{fault}") };
            assert_eq!(*said, field, "{server}");
        }
    }

    #[test]
    fn the_authorities_of_the_installers_host_vouch_for_no_server_of_a_tenant() {
        for authority in ["", ", certificate-authority-data: ''"] {
            let text = kubeconfig(&format!("server: 'https://10.0.0.1'{authority}"), "token: t");

            let fault = of_tenant(text.as_bytes(), &Reach::default()).unwrap_err();

            assert_eq!(fault, KubeconfigFault::Missing("certificate-authority-data"));
        }
    }
}
