//! The programs people use, through the proxy by nothing but their environment.
//!
//! Who is not installed is skipped, loudly. Deliberately absent: anything on the internet; the far side is here.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use durward_testkit::certificates::{Authority, CertSpec};
use durward_testkit::dns::DnsServer;
use durward_testkit::netns::in_namespace;
use durward_testkit::origin::Origin;
use durward_testkit::process::{TempDir, unique_loopback};

use super::document;
use crate::gateway::Gateway;

/// An echo of addresses at `ifconfig.me`, with and without TLS, that only the proxy can find.
struct World {
    gateway: Gateway,
    proxy: SocketAddr,
    egress: Ipv4Addr,
    plain: Origin,
    secure: Origin,
    dir: TempDir,
}

fn world() -> World {
    world_at(0)
}

/// The echo with TLS at this port.
fn world_at(secure: u16) -> World {
    let authority = Authority::new("root");
    let (address, far, egress) = (unique_loopback(), unique_loopback(), unique_loopback());
    let identity = authority.issue(&CertSpec::new().dns("ifconfig.me").server());
    let plain = Origin::http1((far, 0));
    let secure = Origin::tls((far, secure), &identity, None, &["http/1.1"]);
    let dns = Box::leak(Box::new(DnsServer::start("127.0.0.1:0")));
    dns.set("ifconfig.me", &[far.into()]);
    let rules = format!(
        "resolvers: [\"{}\"]\nallow: [{{host: ifconfig.me, cidr: {far}, ports: [{}, {}]}}]",
        dns.address(),
        plain.port(),
        secure.port()
    );
    let entry = format!("address: {address}, allowedSources: [127.0.0.0/8]");
    let gateway = Gateway::prepare().start(&document("acme", egress, &entry, &rules));
    let dir = TempDir::new();
    authority.write(dir.path(), "ca");
    World { gateway, proxy: (address, 3128).into(), egress, plain, secure, dir }
}

impl World {
    /// The program with nothing set but what a tenant's pods get.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let proxy = format!("http://{}", self.proxy);
        let ca = self.dir.join("ca.crt");
        let mut command = Command::new(program);
        command.args(arguments).env("HOME", self.dir.path()).current_dir(self.dir.path());
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env(name, &proxy);
        }
        for name in ["no_proxy", "NO_PROXY"] {
            command.env(name, "localhost,127.0.0.1,.svc.cluster.local");
        }
        for name in [
            "SSL_CERT_FILE",
            "CURL_CA_BUNDLE",
            "REQUESTS_CA_BUNDLE",
            "NODE_EXTRA_CA_CERTS",
            "GIT_SSL_CAINFO",
            "PIP_CERT",
            "CARGO_HTTP_CAINFO",
        ] {
            command.env(name, &ca);
        }
        command.env("NODE_USE_ENV_PROXY", "1").env("GIT_TERMINAL_PROMPT", "0").stdin(Stdio::null());
        command
    }

    fn urls(&self) -> [String; 2] {
        [
            format!("http://ifconfig.me:{}/ip", self.plain.port()),
            format!("https://ifconfig.me:{}/ip", self.secure.port()),
        ]
    }

    /// How often each of the two was asked.
    fn asked(&self) -> (u64, u64) {
        (self.plain.requests(), self.secure.requests())
    }
}

/// Runs it, or says that it is not here.
fn run(mut command: Command) -> Option<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Ok(output) = command.output() else {
        // Past the capture of the test harness: a test that did not run must not look like one that passed.
        let _ = writeln!(std::io::stderr(), "SKIPPED {program} (not installed)");
        return None;
    };
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Some(text)
}

// S2.24+ S2.27 S2.38
#[test]
fn common_clients_need_nothing_but_the_environment() {
    let world = world();
    let [plain, secure] = world.urls();
    let python = "import sys,urllib.request\nfor u in sys.argv[1:]: print(urllib.request.urlopen(u,timeout=20).read().decode())";
    let requests = "import sys\ntry:\n import requests\nexcept ImportError:\n print('MISSING'); sys.exit()\nfor u in sys.argv[1:]: print(requests.get(u,timeout=20).text)";
    let both: [&str; 2] = [&plain, &secure];
    for (program, first) in [
        ("curl", vec!["-sS", "--max-time", "20"]),
        ("wget", vec!["-qO-", "--timeout=20", "--tries=1"]),
        ("python3", vec!["-c", python]),
        ("python3", vec!["-c", requests]),
    ] {
        let before = world.asked();
        let arguments: Vec<&str> = first.into_iter().chain(both).collect();
        let mut command = world.command(program, &arguments);
        if program == "wget" {
            command.arg(format!("--ca-certificate={}", world.dir.join("ca.crt").display()));
        }
        let Some(told) = run(command) else { continue };
        if told.trim() == "MISSING" {
            let _ = writeln!(std::io::stderr(), "SKIPPED python3 requests (not installed)");
            continue;
        }
        assert_eq!(world.asked(), (before.0 + 1, before.1 + 1), "{program}: {told}");
        assert_eq!(told.matches(&format!("\"{}:", world.egress)).count(), 2, "{program}: {told}");
    }
    assert_eq!(world.gateway.isolation_violations(), 0);
}

/// The program of the deployment in `deploy/egress`, as it is written there.
fn seed_script() -> String {
    let path = "deploy/egress/base/client-egress-proxy-demo/deployment.yaml";
    let deployment: serde_json::Value = serde_saphyr::from_str(&crate::text(path)).unwrap();
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    container["args"][0].as_str().unwrap().to_owned()
}

// S2.19
#[test]
fn the_seeds_script_prints_its_lines_through_the_proxy() {
    let name = "egress::clients::the_seeds_script_prints_its_lines_through_the_proxy";
    // Port 443 needs a namespace, and nobody there is at the real ifconfig.me.
    in_namespace(name, || {
        let world = world_at(443);
        if run(world.command("curl", &["--version"])).is_none() {
            return;
        }
        let mut script = world.command("sh", &["-c", &seed_script()]);
        let mut child = script.stdout(Stdio::piped()).spawn().unwrap();

        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = || lines.next().unwrap().unwrap();
        assert_eq!(next(), "=== Iniciando prueba de salida (egress) ===");
        assert_eq!(next(), format!("Proxy configurado: http://{}", world.proxy));
        assert!(next().starts_with("=== "));
        let answer = next();
        assert!(answer.starts_with("Código: 200, Duración: ") && answer.ends_with('s'), "{answer}");
        child.kill().unwrap();
        child.wait().unwrap();

        assert!(world.secure.peers().iter().all(|peer| peer.ip() == world.egress));
        assert_eq!(world.secure.requests(), 1);
    });
}

// S2.14
#[test]
fn what_no_proxy_names_goes_direct() {
    let world = world();
    let inside = Origin::http1("127.0.0.1:0");
    let url = format!("http://{}/", inside.address());

    for (program, arguments) in [("curl", ["-sS", &url]), ("wget", ["-qO-", &url])] {
        let before = inside.requests();
        if let Some(told) = run(world.command(program, &arguments)) {
            assert_eq!(inside.requests(), before + 1, "{program}: {told}");
        }
    }
    assert!(inside.peers().iter().all(|peer| peer.ip() == Ipv4Addr::LOCALHOST));
    assert!(world.gateway.decisions().is_empty(), "nothing came by the proxy");
}

// S2.38
#[test]
fn programs_that_fetch_for_others_go_through_it_too() {
    let world = world();
    let [plain, secure] = world.urls();
    let node = "fetch(process.argv[1]).then(r=>r.text()).then(t=>console.log(t)).catch(e=>console.log(String(e), String(e.cause)))";
    let https = "const http=require('http');const u=new URL(process.argv[1]);const p=new URL(process.env.https_proxy);\
        const q=http.request({host:p.hostname,port:p.port,method:'CONNECT',path:u.host});\
        q.on('connect',(r,s)=>{const t=require('tls');\
        require('https').get(u,{createConnection:()=>t.connect({socket:s,servername:u.hostname})},r=>r.pipe(process.stdout));});q.end();";
    let cases: [(&str, Vec<&str>, bool); 5] = [
        ("git", vec!["ls-remote", &secure], true),
        (
            "pip",
            vec![
                "download",
                "--no-cache-dir",
                "--no-deps",
                "--retries",
                "0",
                "--timeout",
                "20",
                "-i",
                &secure,
                "durward-nothing",
            ],
            true,
        ),
        ("node", vec!["-e", https, &secure], true),
        ("node", vec!["-e", node, &plain], false),
        ("cargo", vec!["search", "--index", &secure, "nothing"], true),
    ];
    for (program, arguments, tls) in cases {
        let before = world.asked();
        let modern = arguments.contains(&node);
        let Some(told) = run(world.command(program, &arguments)) else { continue };
        let after = world.asked();
        let came = if tls { after.1 > before.1 } else { after.0 > before.0 };
        // Older ones know nothing of the environment, and what cannot find the name has not gone past the proxy.
        if modern && !came {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED node fetch (this version does not read http_proxy)"
            );
            assert!(
                told.contains("ENOTFOUND")
                    || told.contains("EAI_AGAIN")
                    || told.contains("fetch failed"),
                "{told}"
            );
            continue;
        }
        if program == "cargo" && !came {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED cargo ({})",
                told.lines().next().unwrap_or_default()
            );
            continue;
        }
        assert!(came, "{program}: {told}");
    }
    let peers = world.secure.peers();
    assert!(!peers.is_empty() && peers.iter().all(|peer| peer.ip() == world.egress));
}

// S2.38
#[test]
fn apt_fetches_through_it() {
    let world = world();
    let [plain, _] = world.urls();
    let state = world.dir.path().display().to_string();
    for part in ["lists/partial", "archives/partial", "etc"] {
        std::fs::create_dir_all(world.dir.path().join(part)).unwrap();
    }
    std::fs::write(
        world.dir.path().join("etc/sources.list"),
        format!("deb [trusted=yes] {plain} ./\n"),
    )
    .unwrap();
    let options = [
        format!("Dir::Etc={state}/etc"),
        format!("Dir::Etc::sourcelist={state}/etc/sources.list"),
        format!("Dir::State::Lists={state}/lists"),
        format!("Dir::Cache::Archives={state}/archives"),
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Retries=0".to_owned(),
    ];
    let mut arguments: Vec<&str> = vec!["update"];
    for option in &options {
        arguments.extend(["-o", option]);
    }

    if let Some(told) = run(world.command("apt-get", &arguments)) {
        assert!(world.asked().0 > 0, "{told}");
        assert!(world.plain.peers().iter().all(|peer| peer.ip() == world.egress));
    }
}
