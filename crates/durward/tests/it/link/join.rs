//! Agents that get a client certificate for a token that is good for one.

use std::path::Path;

use durward_testkit::certificates::{Authority, CertSpec};
use durward_testkit::origin::Origin;
use durward_testkit::process::{Child, TempDir, eventually_blocking, unique_loopback};
use rustix::process::Signal;

use super::registry::digest;
use super::world::{HTTP, LINK};
use crate::support::{
    DEADLINE, HERE, admin_address, durward, get, output, spawn, status, stderr, stdout,
};

/// A gateway whose only link is for agents that join.
struct Joining {
    child: Child,
    dir: TempDir,
    address: std::net::IpAddr,
    state: &'static [&'static str],
}

impl Joining {
    /// Starts it; `tokens` are good for a certificate each.
    fn start(tokens: &[&str], origin: &Origin, keeps_state: bool) -> Self {
        let (dir, servers) = (TempDir::new(), Authority::new("servers"));
        let documents = dir.join("documents");
        std::fs::create_dir(&documents).unwrap();
        let address = std::net::IpAddr::from(unique_loopback());
        servers.issue(&CertSpec::new().ip(address).server()).write(&documents, "link");
        servers.write(dir.path(), "servers");
        // Makes ca.crt and ca.key.
        let agents = documents.join("agents");
        let made =
            ["certs", "issue", "--dir", agents.to_str().unwrap(), "--client", "--name", "nobody"];
        assert!(output(&made).status.success());
        let tokens = tokens.iter().map(|token| format!("'sha256:{}'", digest(token)));
        let tokens = tokens.collect::<Vec<_>>().join(", ");
        let text = format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec:\n  ingress:\n  \
             - {{address: {address}, port: {HTTP}, protocol: HTTP, upstream: app}}\n  \
             - {{address: {address}, port: {LINK}, protocol: LINK, certificate: {{file: link}}, agentAuthority: {{file: agents/ca}}, \
             clientCertificates: {{caFile: agents/ca.crt, mode: Optional}}, \
             links: [{{name: onprem, certificateNames: [agent.acme.example], joinTokens: [{tokens}]}}]}}\n  \
             upstreams: {{app: {{link: onprem, endpoints: ['{}']}}}}\n  egress: {{addresses: [{address}]}}\n",
            origin.address()
        );
        std::fs::write(documents.join("acme.yaml"), text).unwrap();
        let state: &[&str] = if keeps_state { &["--state-dir", "state"] } else { &[] };
        let child = Self::run(&dir, state);
        Self { child, dir, address, state }
    }

    fn run(dir: &TempDir, state: &[&'static str]) -> Child {
        let admin = admin_address();
        let path = dir.join("state");
        let state =
            if state.is_empty() { vec![] } else { vec!["--state-dir", path.to_str().unwrap()] };
        let child = spawn(&dir.join("documents"), admin, &state);
        let ready = || status(admin, "/readyz") == Some(200);
        assert!(eventually_blocking(DEADLINE, ready), "{}", child.output());
        child
    }

    /// Ends the gateway without a word, and starts another on the same state.
    fn crash(&mut self) {
        self.child.kill();
        self.child = Self::run(&self.dir, self.state);
    }

    /// Runs `durward agent join` for a directory; returns its exit code and what it says.
    fn join(&self, agent: &Path, token: Option<&str>) -> (Option<i32>, String) {
        let (gateway, ca) =
            (format!("wss://{}:{LINK}", self.address), self.dir.join("servers.crt"));
        let mut command = durward(&["agent", "join", &gateway]);
        command.args(["--ca-file".as_ref(), ca.as_os_str(), "--dir".as_ref(), agent.as_os_str()]);
        match token {
            Some(token) => command.env("DURWARD_JOIN_TOKEN", token),
            None => command.arg("--renew"),
        };
        let ended = command.output().unwrap();
        (ended.status.code(), stdout(&ended) + &stderr(&ended))
    }
}

// S3.91+ S3.23+
#[test]
fn an_agent_joins_with_a_token_serves_and_renews_its_certificate() {
    let origin = Origin::http1(HERE);
    let gateway = Joining::start(&["once"], &origin, true);
    let agent = gateway.dir.join("agent");

    let (code, said) = gateway.join(&agent, Some("once"));

    assert_eq!(code, Some(0), "{said}{}", gateway.child.output());
    let config = agent.join("agent.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("onprem") && !text.contains("once"), "{text}");
    let route = format!(
        "{text}allow: ['{0}']\nroutes: [{{host: app.example, target: '{0}'}}]\n",
        origin.address()
    );
    std::fs::write(&config, route).unwrap();
    let admin = admin_address().to_string();
    let arguments = ["--log-format", "json", "agent", "run", "-c", config.to_str().unwrap()];
    let mut running = Child::spawn(durward(&[&arguments[..], &["--admin", &admin]].concat()));
    let served =
        || get((gateway.address, HTTP).into(), "/").is_some_and(|(status, _)| status == 200);
    assert!(eventually_blocking(DEADLINE, served), "{}", running.output());

    let first = std::fs::read(agent.join("agent.crt")).unwrap();
    let (code, said) = gateway.join(&agent, None);
    assert_eq!(code, Some(0), "{said}");
    assert_ne!(std::fs::read(agent.join("agent.crt")).unwrap(), first);
    running.signal(Signal::TERM);
    assert!(running.wait_blocking(DEADLINE).success());
    let again = Child::spawn(durward(&[&arguments[..], &["--admin", &admin]].concat()));
    assert!(eventually_blocking(DEADLINE, served), "{}", again.output());
}

// S3.91+ S3.23+
#[test]
fn a_token_to_join_is_good_for_one_key_and_nothing_else() {
    let origin = Origin::http1(HERE);
    let mut gateway = Joining::start(&["once", "other"], &origin, true);
    let (one, two) = (gateway.dir.join("one"), gateway.dir.join("two"));

    assert_eq!(gateway.join(&one, Some("once")).0, Some(0));
    let (code, said) = gateway.join(&two, Some("once"));
    assert!(code == Some(1) && said.contains("used before"), "{said}");
    // Neither a crash nor a second try of the thief makes it good again.
    gateway.crash();
    let (code, said) = gateway.join(&two, Some("once"));
    assert!(code == Some(1) && said.contains("used before"), "{said}");
    // The answer may have been lost.
    std::fs::remove_file(one.join("agent.crt")).unwrap();
    assert_eq!(gateway.join(&one, Some("once")).0, Some(0));
    let (code, said) = gateway.join(&two, Some("unknown"));
    assert!(code == Some(1) && said.contains("401"), "{said}");
    assert_eq!(gateway.join(&two, Some("other")).0, Some(0));
    let (code, said) = gateway.join(&two, Some("other"));
    assert!(code == Some(2) && said.contains("--renew"), "{said}");
    assert!(!gateway.child.output().contains("once"), "no token is logged");

    // A token to join opens no link.
    let config = gateway.dir.join("thief.yaml");
    let text = format!(
        "link: onprem\ngateways: ['wss://{}:{LINK}']\ncaFile: servers.crt\nroutes: [{{host: a.example, target: 'a.example:80'}}]\n",
        gateway.address
    );
    std::fs::write(&config, text).unwrap();
    let (config, admin) = (config.to_str().unwrap().to_owned(), admin_address().to_string());
    let mut command = durward(&["agent", "run", "-c", &config, "--admin", &admin]);
    command.env("DURWARD_AGENT_TOKEN", "other");
    let thief = Child::spawn(command);
    thief.wait_for_line_blocking("the gateway refused the agent", DEADLINE);
}

// S3.91+
#[test]
fn a_gateway_that_could_not_remember_a_token_takes_none() {
    let origin = Origin::http1(HERE);
    let gateway = Joining::start(&["once"], &origin, false);

    let (code, said) = gateway.join(&gateway.dir.join("agent"), Some("once"));

    assert!(code == Some(1) && said.contains("--state-dir"), "{said}");
}
