//! What `kubectl exec`, `attach`, `port-forward`, `logs -f` and a watch do, on every way to an API server: connections that change their protocol and last.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use durward_testkit::certificates::{CertSpec, client_config, server_config_optional_client};
use durward_testkit::process::{Child, eventually, unique_loopback};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, split};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::carried::{gateway, listening};
use super::{DEADLINE, NAME, Pki, command};
use crate::support::{admin_address, durward, status};

const RELAY: &str = "relay: {certificate: {file: relay}, clientAuthorities: {caFile: proxies.crt}}";
/// Bytes that a stream carries in each direction.
const BYTES: usize = 3 << 20;
const LINES: usize = 5;

type Server = BufReader<server::TlsStream<TcpStream>>;
type Client = BufReader<client::TlsStream<TcpStream>>;

/// Serves as kube-apiserver does where it hands a stream on to a kubelet.
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
                let stream = tls.accept(socket).await?;
                let user = stream.get_ref().1.peer_certificates().map_or("nobody", |_| "admin");
                serve(BufReader::new(stream), user).await
            });
        }
    });
    address
}

async fn serve(mut stream: Server, user: &str) -> std::io::Result<()> {
    let head = head(&mut stream).await?;
    let Some(protocol) = head.iter().find_map(|line| line.strip_prefix("Upgrade: ")) else {
        return follow(stream, user).await;
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\nX-User: {user}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await?;
    let (mut read, mut write) = split(stream);
    let echoed = tokio::io::copy(&mut read, &mut write).await?;
    // The client has ended its direction, and still reads.
    write.write_all(format!("exit after {echoed}").as_bytes()).await?;
    write.shutdown().await
}

/// Answers in chunks that come one by one, as a log or a watch does.
async fn follow(mut stream: Server, user: &str) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-User: {user}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    for number in 0..LINES {
        stream.write_all(format!("7\r\nline {number}\n\r\n").as_bytes()).await?;
        stream.flush().await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stream.write_all(b"0\r\n\r\n").await?;
    stream.shutdown().await
}

async fn head<S: tokio::io::AsyncBufRead + Unpin>(stream: &mut S) -> std::io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        match line.trim_end() {
            "" => return Ok(lines),
            text => lines.push(text.to_owned()),
        }
    }
}

/// Connects as a user with a client certificate.
async fn connect(pki: &Pki, at: SocketAddr, name: &'static str) -> Client {
    let user = pki.cluster.issue(&CertSpec::new().common_name("admin").client());
    let tls = TlsConnector::from(Arc::new(client_config(&pki.cluster, Some(&user))));
    let socket = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from(name).unwrap();
    BufReader::new(tls.connect(name, socket).await.unwrap())
}

fn user_of(head: &[String]) -> &str {
    head.iter().find_map(|line| line.strip_prefix("X-User: ")).unwrap()
}

/// Asks for another protocol, sends bytes and reads them at once, and then what comes after its own end. Returns the user.
async fn upgraded(mut stream: Client, request: &str, protocol: &str) -> String {
    let head_text = format!(
        "{request} HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    );
    stream.write_all(head_text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let head = head(&mut stream).await.unwrap();
    assert!(head[0].starts_with("HTTP/1.1 101"), "{head:?}");
    let sent: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
    let (mut read, mut write) = split(stream);
    let wanted = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut echoed = vec![0; BYTES];
    read.read_exact(&mut echoed).await.unwrap();
    let mut rest = String::new();
    read.read_to_string(&mut rest).await.unwrap();
    writer.await.unwrap();

    assert!(echoed == wanted, "the bytes are others");
    assert_eq!(rest, format!("exit after {BYTES}"));
    user_of(&head).to_owned()
}

/// Follows lines until they end. Returns the user.
async fn followed(mut stream: Client, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let head = head(&mut stream).await.unwrap();
    let mut body = String::new();
    stream.read_to_string(&mut body).await.unwrap();
    assert_eq!(body.matches("line ").count(), LINES, "{body}");
    user_of(&head).to_owned()
}

async fn all_streams(pki: &Pki, at: SocketAddr, name: &'static str, user: &str) {
    const POD: &str = "/api/v1/namespaces/default/pods/web";
    for (request, protocol) in [
        ("GET {}/exec?command=cat&stdin=true&stdout=true", "websocket"),
        ("POST {}/exec?command=cat&stdin=true&stdout=true", "SPDY/3.1"),
        ("POST {}/attach?stdin=true&stdout=true", "SPDY/3.1"),
        ("GET {}/portforward?ports=80", "websocket"),
        ("POST {}/portforward", "SPDY/3.1"),
    ] {
        let stream = connect(pki, at, name).await;
        let request = request.replace("{}", POD);
        assert_eq!(upgraded(stream, &request, protocol).await, user, "{request} at {at}");
    }
    for path in [&*format!("{POD}/log?follow=true"), "/api/v1/namespaces/default/pods?watch=1"] {
        let stream = connect(pki, at, name).await;
        assert_eq!(followed(stream, path).await, user, "{path} at {at}");
    }
}

/// Returns whether the guide's table of modes says of one that client certificates arrive.
fn claimed(mode: &str) -> bool {
    let guide = crate::text("docs/guide/api-proxy.md");
    let row = |start: &str| -> Vec<String> {
        let line = guide.lines().find(|line| line.starts_with(start)).unwrap();
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let header = row("| | `advertised`");
    let at = header.iter().position(|cell| cell.contains(&format!("`{mode}`"))).unwrap();
    !row("| client certificates and HTTP/2")[at].contains("client certificates lost")
}

async fn ready(proxy: &Child, admin: SocketAddr) {
    let is_up = eventually(DEADLINE, async || status(admin, "/readyz") == Some(200)).await;
    assert!(is_up, "{}", proxy.output());
}

// S4.11 S4.12+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_attach_port_forward_logs_and_watches_last_on_every_way_to_the_api_server() {
    let pki = Pki::new();
    let at = SocketAddr::from((unique_loopback(), 8443));
    let _gateway = gateway(&pki, at, api_server(&pki).await, RELAY).await;

    all_streams(&pki, at, NAME, "admin").await;

    let (own, admin) = (SocketAddr::from((unique_loopback(), 6443)), admin_address());
    let more = listening(&pki, own, admin);
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let proxy = Child::spawn(command(&pki, at, &more));
    ready(&proxy, admin).await;
    all_streams(&pki, own, "kubernetes.default.svc", "admin").await;
    assert!(claimed("slice") && claimed("advertised"));

    // Where TLS ends at the proxy, streams last as well; who the client is does not arrive.
    let (own, admin) = (SocketAddr::from((unique_loopback(), 6443)), admin_address());
    let serving = CertSpec::new().dns("kubernetes.default.svc").server();
    pki.cluster.issue(&serving).write(pki.dir.path(), "serving");
    let files = ["cluster.crt", "serving.crt", "serving.key"].map(|name| pki.file(name));
    let gateway = at.to_string();
    let mut arguments = vec!["--log-format", "json", "api-proxy", "--server-name", NAME];
    arguments.extend(["--gateway", &gateway, "--ca", &files[0]]);
    arguments.extend(["--serving-cert", &files[1], "--serving-key", &files[2]]);
    let more = listening(&pki, own, admin);
    let more = more.iter().map(|one| if one == "slice" { "re-originate" } else { one.as_str() });
    arguments.extend(more);
    let proxy = Child::spawn(durward(&arguments));
    ready(&proxy, admin).await;
    all_streams(&pki, own, "kubernetes.default.svc", "nobody").await;
    assert!(!claimed("re-originate"));
}
