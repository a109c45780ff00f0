//! `durward api-proxy` and `durward api` from outside: a cluster's half of a hosted API server.

mod carried;
mod kubectl;
mod names;
mod real;
mod streams;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use durward_testkit::certificates::{
    Authority, CertSpec, client_config, server_config, server_config_optional_client,
};
use durward_testkit::netns::{block_on, in_namespace, ip};
use durward_testkit::process::{Child, TempDir, eventually, unique_loopback};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::{durward, get, output, status, stderr, stdout};

const DEADLINE: Duration = Duration::from_secs(60);
const NAME: &str = "acme.k8s.test";

/// Authorities and certificates of a hosted API server, in a directory.
struct Pki {
    /// Name of the API server.
    name: &'static str,
    dir: TempDir,
    gateways: Authority,
    proxies: Authority,
    cluster: Authority,
}

impl Pki {
    fn new() -> Self {
        Self::named(NAME)
    }

    fn named(name: &'static str) -> Self {
        let pki = Self {
            name,
            dir: TempDir::new(),
            gateways: Authority::new("gateways"),
            proxies: Authority::new("proxies"),
            cluster: Authority::new("kubernetes"),
        };
        pki.gateways.write(pki.dir.path(), "gateways");
        pki.cluster.write(pki.dir.path(), "cluster");
        let proxy = pki.proxies.issue(&CertSpec::new().common_name("acme").client());
        proxy.write(pki.dir.path(), "proxy");
        pki.proxies.write(pki.dir.path(), "proxies");
        pki.gateways.issue(&CertSpec::new().dns(name).server()).write(pki.dir.path(), "relay");
        pki
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

/// Serves TLS at a loopback address; the API server behind it says who the client is.
async fn api_server(pki: &Pki) -> SocketAddr {
    let spec = CertSpec::new().dns(NAME).dns("kubernetes.default.svc").server();
    let tls = server_config_optional_client(&pki.cluster.issue(&spec), &pki.cluster);
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind((unique_loopback(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let mut stream = tls.accept(socket).await?;
                let known = stream.get_ref().1.peer_certificates().is_some();
                stream.write_all(if known { b"known" } else { b"nobody" }).await?;
                stream.shutdown().await
            });
        }
    });
    address
}

/// Stands in for the gateway: ends the outer connection and skips the header.
async fn gateway(pki: &Pki, api: SocketAddr) -> SocketAddr {
    let identity = pki.gateways.issue(&CertSpec::new().dns(NAME).server());
    let mut tls = server_config(&identity, Some(&pki.proxies));
    tls.alpn_protocols = vec![b"durward-api/1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind((unique_loopback(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let mut outer = tls.accept(socket).await?;
                let mut fixed = [0; 16];
                outer.read_exact(&mut fixed).await?;
                let length = u16::from_be_bytes([fixed[14], fixed[15]]);
                outer.read_exact(&mut vec![0; usize::from(length)]).await?;
                let mut inner = TcpStream::connect(api).await?;
                copy_bidirectional(&mut outer, &mut inner).await
            });
        }
    });
    address
}

/// Asks the API server at `address` who we are.
async fn ask(pki: &Pki, address: SocketAddr, user: bool) -> std::io::Result<String> {
    let user = user.then(|| pki.cluster.issue(&CertSpec::new().common_name("admin").client()));
    let tls = client_config(&pki.cluster, user.as_ref());
    let name = ServerName::try_from("kubernetes.default.svc").unwrap();
    let socket = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, socket).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn command(pki: &Pki, gateway: SocketAddr, more: &[&str]) -> Command {
    let gateway = gateway.to_string();
    let files = ["gateways.crt", "proxy.crt", "proxy.key"].map(|name| pki.file(name));
    let arguments = [
        "--log-format",
        "json",
        "api-proxy",
        "--server-name",
        pki.name,
        "--gateway",
        &gateway,
        "--ca",
        &files[0],
        "--cert",
        &files[1],
        "--key",
        &files[2],
    ];
    let mut command = durward(&[&arguments[..], more].concat());
    for name in ["HTTPS_PROXY", "NO_PROXY", "https_proxy", "no_proxy", "POD_IPS", "NODE_NAME"] {
        command.env_remove(name);
    }
    command
}

// S4.71 S4.69 S4.55
#[test]
fn at_an_advertised_address_on_a_device_of_its_own_the_proxy_serves_and_drains() {
    in_namespace(
        "api_proxy::at_an_advertised_address_on_a_device_of_its_own_the_proxy_serves_and_drains",
        || block_on(advertised()),
    );
}

async fn advertised() {
    let pki = Pki::new();
    let gateway = gateway(&pki, api_server(&pki).await).await;
    let admin = SocketAddr::from(([127, 0, 0, 1], 9441));
    let more = [
        "--advertise-address",
        "172.31.255.1,fd00:d::1",
        "--device",
        "durward-api",
        "--drain-delay",
        "0s",
    ];
    let mut proxy = Child::spawn(command(&pki, gateway, &more));
    let is_ready = eventually(DEADLINE, async || status(admin, "/readyz") == Some(200)).await;
    assert!(is_ready, "{}", proxy.output());

    let address = SocketAddr::from(([172, 31, 255, 1], 6443));
    assert_eq!(ask(&pki, address, true).await.unwrap(), "known");
    let sixth: SocketAddr = "[fd00:d::1]:6443".parse().unwrap();
    assert_eq!(ask(&pki, sixth, false).await.unwrap(), "nobody");

    let (_, metrics) = get(admin, "/metrics").unwrap();
    assert!(
        metrics.contains("durward_api_proxy_connections_total{outcome=\"closed\"}"),
        "{metrics}"
    );
    assert!(metrics.ends_with("# EOF\n"));
    let (_, verbose) = get(admin, "/readyz?verbose").unwrap();
    assert!(verbose.contains(&format!("[+] gateway {gateway}")), "{verbose}");
    let line = proxy.wait_for_line("\"destination\":\"172.31.255.1:6443\"", DEADLINE).await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (line["outcome"].as_str(), line["server_name"].as_str()),
        (Some("closed"), Some(NAME))
    );
    assert!(line["id"].as_str().is_some_and(|id| !id.is_empty()), "{line}");

    proxy.terminate();
    assert!(proxy.wait(DEADLINE).await.success());
    assert!(TcpStream::connect(address).await.is_err());
    // While the next process starts, packets to the address stay on this host.
    assert!(ip("addr show dev durward-api").contains("172.31.255.1"));
}

// S4.13+ S4.19+
#[test]
fn a_command_line_that_cannot_work_is_an_error_that_names_the_cure() {
    let pki = Pki::new();
    let nowhere: SocketAddr = "192.0.2.1:443".parse().unwrap();
    let fault = |more: &[&str]| {
        let output = command(&pki, nowhere, more).output().unwrap();
        (output.status.code(), stderr(&output))
    };
    for (more, cure) in [
        (&["--advertise-address", "127.0.0.1"][..], "is a loopback address"),
        (&["--advertise-address", "203.0.113.9"], "is not a private address"),
        (
            &["--advertise-address", "10.96.0.7", "--service-cidr", "10.96.0.0/16"],
            "the cluster's Service network",
        ),
        (&[], "--advertise-address is missing"),
        (&["--mode", "slice"], "--node-ip is missing"),
        (&["--mode", "slice", "--node-ip", "10.0.0.7"], "--service-cidr is missing"),
        (
            &["--mode", "slice", "--node-ip", "10.96.0.7", "--service-cidr", "10.96.0.0/16"],
            "is an address of a Service",
        ),
        (&["--mode", "re-originate", "--node-ip", "127.0.0.2"], "needs --serving-cert"),
        (
            &["--advertise-address", "172.31.255.1", "--upstream-insecure"],
            "the API server's certificate is always verified",
        ),
        (&["--advertise-address", "172.31.255.1", "--host-alias", "acme"], "IP=NAME"),
    ] {
        let (code, text) = fault(more);
        assert_eq!(code, Some(2), "{more:?}: {text}");
        assert!(text.contains(cure), "{more:?}: {text}");
    }

    std::fs::remove_file(pki.file("gateways.crt")).unwrap();
    let address = unique_loopback().to_string();
    let (code, text) = fault(&[
        "--mode",
        "slice",
        "--node-ip",
        &address,
        "--service-cidr",
        "10.96.0.0/16",
        "--admin",
        "off",
    ]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("gateways.crt"), "{text}");
}

fn api_check(pki: &Pki, at: SocketAddr, more: &[&str]) -> (Option<i32>, String) {
    let server = format!("{NAME}:{}", at.port());
    let (address, ca) = (at.ip().to_string(), pki.file("cluster.crt"));
    let arguments =
        ["api", "check", &server, "--address", &address, "--ca", &ca, "--timeout", "60s"];
    let output = output(&[&arguments[..], more].concat());
    (output.status.code(), stdout(&output) + &stderr(&output))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubeconfig_that_cannot_be_used_is_one_finding_of_check_among_others() {
    let pki = Pki::new();
    let api = api_server(&pki).await;
    let missing = pki.file("admin.conf");

    let (code, text) = api_check(&pki, api, &["--kubeconfig", &missing]);

    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("answers TLS for") && text.contains("× they cannot be read: "), "{text}");
}

// S4.22 S4.33+ S4.23+ S4.19+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_names_what_is_missing_in_the_certificate_and_what_overlaps() {
    let pki = Pki::new();
    let api = api_server(&pki).await;

    let (code, text) = api_check(
        &pki,
        api,
        &[
            "--san",
            "extra.test",
            "--pod-cidr",
            "10.244.0.0/16",
            "--service-cidr",
            "10.244.128.0/20",
            "--advertise-address",
            "tenant-01.k8s.example.com",
        ],
    );

    assert_eq!(code, Some(1), "{text}");
    let lacks = text.lines().find(|line| line.contains("it lacks")).unwrap();
    for name in [
        "kubernetes,",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
        "extra.test",
        "10.244.128.1",
    ] {
        assert!(lacks.contains(name), "{lacks} misses {name}");
    }
    assert!(!lacks.contains(NAME), "{lacks}");
    for told in [
        "cluster.crt vouches for it",
        "overlap",
        "is a name: kube-apiserver takes an IP address only",
        "takes no connections of API proxies",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_that_nobody_answers_with_a_code_of_its_own() {
    let pki = Pki::new();
    let at = SocketAddr::from((unique_loopback(), 1));

    let (code, text) = api_check(&pki, at, &[]);

    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("shows no certificate"), "{text}");
}

// S4.61+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_notices_that_somebody_on_the_way_ends_tls() {
    let pki = Pki::new();
    let middle = api_server(&Pki::new()).await;

    let (code, text) = api_check(&pki, middle, &[]);

    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("does not vouch for it") && text.contains("Cloudflare"), "{text}");
}

#[test]
fn a_kubeconfig_has_the_authority_and_the_users_certificate() {
    let pki = Pki::new();
    let files = ["cluster.crt", "proxy.crt", "proxy.key"].map(|name| pki.file(name));
    let arguments =
        ["api", "kubeconfig", NAME, "--ca", &files[0], "--cert", &files[1], "--key", &files[2]];

    let printed = stdout(&output(&arguments));

    let value: Value = serde_saphyr::from_str(&printed).unwrap();
    assert_eq!(value["clusters"][0]["cluster"]["server"], format!("https://{NAME}:443"));
    assert_eq!(
        (&value["current-context"], &value["contexts"][0]["context"]["user"]),
        (&"acme".into(), &"acme".into())
    );
    assert!(value["users"][0]["user"]["client-key-data"].is_string());
    let without = output(&[
        "api",
        "kubeconfig",
        NAME,
        "--ca",
        &pki.file("nothing.crt"),
        "--token-file",
        "/t",
    ]);
    assert_eq!(without.status.code(), Some(3));
}

// S4.36+ S4.38+
#[test]
fn dns_records_are_printed_for_each_name_server_and_a_tunnel_is_warned_of() {
    let run = |server: &str| {
        output(&[
            "api",
            "dns",
            "--zone",
            "*.k8s.example.com",
            "--address",
            "10.0.0.50",
            "--for",
            server,
            "--serial",
            "7",
        ])
    };

    for (server, line) in [
        ("bind", "* IN A 10.0.0.50"),
        ("dnsmasq", "address=/k8s.example.com/10.0.0.50"),
        ("coredns", "k8s.example.com:53 {"),
        (
            "windows",
            "Add-DnsServerPrimaryZone -Name \"k8s.example.com\" -ZoneFile \"k8s.example.com.dns\"",
        ),
        ("infoblox", "arecord,10.0.0.50,*.k8s.example.com,300"),
        ("cloudflare", "    service: tcp://10.0.0.50:443"),
    ] {
        let output = run(server);
        let text = stdout(&output);
        assert!(output.status.success() && text.lines().any(|it| it == line), "{server}: {text}");
    }
    assert!(stderr(&run("cloudflare")).contains("client certificates do not arrive"));
    let hosts =
        stdout(&output(&["api", "hosts", NAME, "konnectivity.test", "--address", "10.0.0.50"]));
    assert_eq!(hosts, format!("10.0.0.50 {NAME} konnectivity.test\n"));
    assert_eq!(output(&["api", "hosts", "a b", "--address", "10.0.0.50"]).status.code(), Some(2));
}
