//! Which addresses an agent connects to, whatever the gateway asks for and a name resolves to.

use std::net::{IpAddr, SocketAddr};

use durward_link::Target;
use durward_model::egress::Guarded;
use durward_model::egress::guard::classify;
use ipnet::IpNet;

/// Names of the API server within a cluster.
const API_SERVER: [&str; 4] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// Addresses that the agent's own configuration allows or denies.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Networks, with a port or for all ports, that are allowed though they are guarded.
    allow: Vec<(IpNet, Option<u16>)>,
    /// Addresses of the API server.
    api_server: Vec<IpAddr>,
    /// Name of the API server besides those that every cluster has.
    api_server_name: Option<String>,
}

/// Reason for which an address or name is denied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No route has this target.
    #[error("{0} is not registered")]
    NotRegistered(Target),
    /// No UDP service has this target.
    #[error("{0} is no UDP service of the agent")]
    NoUdpService(Target),
    /// The API server of the agent's cluster.
    #[error("{0} is the API server")]
    ApiServer(String),
    /// An address of a guarded range.
    #[error("{address} is {}", .class.word())]
    Guarded {
        /// Address.
        address: IpAddr,
        /// Class of its range.
        class: Guarded,
    },
}

impl Policy {
    /// Creates a policy that allows `allow` in spite of everything else; the API server only by an entry with its very address. `api_server` are addresses
    /// of the API server.
    #[must_use]
    pub fn new(allow: Vec<(IpNet, Option<u16>)>, api_server: Vec<IpAddr>) -> Self {
        let api_server = api_server.into_iter().map(|ip| ip.to_canonical()).collect();
        Self { allow, api_server, api_server_name: None }
    }

    /// Names the API server, where it has a name of its own.
    #[must_use]
    pub fn with_api_server_name(self, name: Option<String>) -> Self {
        Self { api_server_name: name.map(|name| name.to_ascii_lowercase()), ..self }
    }

    /// Judges the name of a target before it is looked up.
    ///
    /// # Errors
    /// Returns why it is denied.
    pub fn judge_name(&self, target: &Target) -> Result<(), Denied> {
        let is_api_server = API_SERVER.contains(&target.host())
            || self.api_server_name.as_deref() == Some(target.host());
        // The name stands for the addresses that are known; only all of them being allowed allows it.
        let allowed = |ip: &IpAddr| self.allows_alone(SocketAddr::new(*ip, target.port()));
        if is_api_server
            && !(self.api_server.iter().any(allowed) && self.api_server.iter().all(allowed))
        {
            return Err(Denied::ApiServer(target.to_string()));
        }
        Ok(())
    }

    /// Judges an address before it is connected to.
    ///
    /// # Errors
    /// Returns why it is denied.
    pub fn judge(&self, address: SocketAddr) -> Result<(), Denied> {
        let ip = address.ip().to_canonical();
        if self.api_server.contains(&ip) && !self.allows_alone(address) {
            return Err(Denied::ApiServer(address.to_string()));
        }
        if self.allows(address) {
            return Ok(());
        }
        match classify(ip) {
            // Backends of a cluster have such addresses.
            None | Some((Guarded::Private | Guarded::Shared, _)) => Ok(()),
            Some((class, _)) => Err(Denied::Guarded { address: ip, class }),
        }
    }

    fn allows(&self, address: SocketAddr) -> bool {
        self.allow.iter().any(|entry| has(entry, address))
    }

    /// Returns true if an entry allows this address and no other.
    fn allows_alone(&self, address: SocketAddr) -> bool {
        let alone = |(net, _): &&(IpNet, Option<u16>)| net.prefix_len() == net.max_prefix_len();
        self.allow.iter().filter(alone).any(|entry| has(entry, address))
    }
}

fn has((net, port): &(IpNet, Option<u16>), address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    net.contains(&ip) && port.is_none_or(|port| port == address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(policy: &Policy, address: &str) -> Result<(), Denied> {
        policy.judge(address.parse().unwrap())
    }

    // S3.81+
    #[test]
    fn what_is_near_the_agent_is_denied_in_every_spelling_and_backends_are_not() {
        let policy = Policy::new(Vec::new(), vec!["10.96.0.1".parse().unwrap()]);
        for good in [
            "10.0.0.7:80",
            "172.16.3.4:443",
            "192.168.1.1:1",
            "[fd00::7]:80",
            "203.0.113.9:80",
            "100.64.3.4:80",
        ] {
            assert_eq!(judged(&policy, good), Ok(()), "{good}");
        }
        let bad = [
            "127.0.0.1:80",
            "127.8.9.1:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "0.0.0.0:80",
            "[::]:80",
            "169.254.169.254:80",
            "[::ffff:169.254.169.254]:80",
            "169.254.1.1:80",
            "[fe80::1]:80",
            "100.100.100.200:80",
            "[fd00:ec2::254]:80",
            "224.0.0.1:80",
            "[ff02::1]:80",
            "255.255.255.255:80",
            "[64:ff9b::7f00:1]:80",
            "[2002:7f00:1::]:80",
            "10.96.0.1:443",
            "10.96.0.1:80",
            "[::ffff:10.96.0.1]:443",
        ];
        for bad in bad {
            assert!(judged(&policy, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_agents_own_configuration_allows_single_places() {
        let one = ("127.0.0.1/32".parse().unwrap(), Some(8080));
        let api = ("10.96.0.1/32".parse().unwrap(), None);
        let policy = Policy::new(vec![one, api], vec!["10.96.0.1".parse().unwrap()]);

        assert_eq!(judged(&policy, "127.0.0.1:8080"), Ok(()));
        assert_eq!(judged(&policy, "10.96.0.1:443"), Ok(()));
        assert!(judged(&policy, "127.0.0.1:8081").is_err());
        assert!(judged(&policy, "127.0.0.2:8080").is_err());
    }

    #[test]
    fn the_api_server_is_denied_by_name_unless_its_address_is_allowed() {
        let other = ("10.0.0.0/16".parse().unwrap(), None);
        let policy = Policy::new(vec![other], vec!["10.96.0.1".parse().unwrap()]);
        let itself = ("10.96.0.1/32".parse().unwrap(), Some(443));
        let allowing = Policy::new(vec![itself], vec!["10.96.0.1".parse().unwrap()]);
        let target = |text: &str| text.parse::<Target>().unwrap();
        assert_eq!(allowing.judge_name(&target("kubernetes.default.svc:443")), Ok(()));
        assert!(allowing.judge_name(&target("kubernetes.default.svc:6443")).is_err());
        for name in ["kubernetes.default.svc:443", "kubernetes:443", "KUBERNETES.default:443"] {
            assert!(policy.judge_name(&name.parse().unwrap()).is_err(), "{name}");
        }
        assert_eq!(policy.judge_name(&"kubernetes-dashboard.default:443".parse().unwrap()), Ok(()));
    }

    #[test]
    fn a_broad_entry_does_not_open_the_api_server() {
        let broad = ("10.0.0.0/8".parse().unwrap(), None);
        let policy = Policy::new(vec![broad], vec!["10.96.0.1".parse().unwrap()]);
        assert_eq!(judged(&policy, "10.96.0.2:443"), Ok(()));
        assert!(judged(&policy, "10.96.0.1:443").is_err());
        assert!(judged(&policy, "[::ffff:10.96.0.1]:443").is_err());
        assert!(policy.judge_name(&"kubernetes.default:443".parse().unwrap()).is_err());
    }

    #[test]
    fn the_api_servers_own_name_is_denied() {
        let named = Policy::new(Vec::new(), vec!["192.0.2.7".parse().unwrap()])
            .with_api_server_name(Some("Api.hcp.example".to_owned()));
        assert!(named.judge_name(&"api.hcp.example:443".parse().unwrap()).is_err());
        assert!(judged(&named, "192.0.2.7:443").is_err());
    }
}
