//! A whole gateway and the double of an authority, which connects to the gateway's listeners to validate.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use durward_acme::schedule::Pace;
use durward_control::{Issuance, RoutingJsonOptions};
use durward_testkit::acme::{AcmeAuthority, Behaviour};
use durward_testkit::certificates::{client_config, client_config_insecure};
use durward_testkit::client::client_hello::{ClientHello, Reaction, probe};
use durward_testkit::client::{RawHttp, tls_connect};
use durward_testkit::process::{TempDir, eventually, eventually_blocking, unique_loopback};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::Options;
use super::status::Row;
use crate::app::{Gateway, Logs, Settings};
use crate::cli::AccessLog;

/// Ports of listeners behind 443 and 80, which a test may not bind.
const TLS_PORT: u16 = 8443;
const HTTP_PORT: u16 = 8080;
/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// Waits that fit a test.
fn quick() -> Pace {
    Pace {
        first: Duration::from_secs(1),
        unreachable: Duration::from_secs(2),
        refused: Duration::from_secs(2),
        between_certificates: Duration::ZERO,
        look: Duration::from_millis(200),
    }
}

/// Authority, and places for documents and state.
struct Stage {
    authority: AcmeAuthority,
    documents: TempDir,
    state: TempDir,
    pace: Pace,
}

impl Stage {
    fn new(behave: impl FnOnce(&mut Behaviour)) -> Self {
        let authority = AcmeAuthority::start(HTTP_PORT, TLS_PORT);
        authority.behave(behave);
        Self { authority, documents: TempDir::new(), state: TempDir::new(), pace: quick() }
    }

    /// Writes a tenant with a listener by TLS and one at port 80, and returns its address.
    fn tenant(&self, name: &str, acme: &str) -> IpAddr {
        let address = IpAddr::from(unique_loopback());
        self.write(name, address, acme);
        address
    }

    fn write(&self, name: &str, address: IpAddr, acme: &str) {
        let document = format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress:\n    \
             - address: {address}\n      listen: {{port: {TLS_PORT}}}\n      \
             certificate: {{acme: {{termsOfServiceAgreed: true, contacts: [ops@{name}.example], {acme}}}}}\n      \
             routes: [{{pathPrefix: /, respond: {{body: {name}}}}}]\n    \
             - {{address: {address}, protocol: HTTP, listen: {{port: {HTTP_PORT}}}, redirectToHttps: true}}\n  \
             egress: {{addresses: [{address}]}}\n"
        );
        self.documents.write(format!("{name}.yaml"), document);
    }

    fn options(&self) -> Options {
        let root = CertificateDer::from_pem_slice(self.authority.web_root().as_bytes()).unwrap();
        Options {
            issuance: Issuance {
                directory: self.state.path().join("acme"),
                authorities: vec![self.authority.directory()],
            },
            roots: Arc::new(vec![root]),
            orders_per_hour: 1_000,
            pace: self.pace,
        }
    }

    /// Starts a gateway; it reads documents when it is told to.
    fn gateway(&self) -> Arc<Gateway> {
        durward_testkit::process::allow_all_descriptors();
        let settings = Settings {
            paths: vec![self.documents.path().to_owned()],
            routing: RoutingJsonOptions::default(),
            files_roots: Vec::new(),
            workers: 2,
            logs: Logs::access(AccessLog::Off),
            memory: None,
            drain_grace: Duration::ZERO,
            drain_delay: Duration::ZERO,
            watch: false,
            strict: false,
            state_dir: None,
            handed: None,
            sockets: Vec::new(),
            shared: true,
            direct_networks: Vec::new(),
            nat: durward_nat::Options::default(),
            acme: Some(self.options()),
            cluster: None,
        };
        let gateway = Gateway::start(settings).unwrap();
        gateway.order_certificates().unwrap();
        gateway
    }

    /// Waits until a certificate of this many has been issued.
    fn await_issued(&self, gateway: &Gateway, count: u64) {
        let issued = eventually_blocking(DEADLINE, || {
            self.authority.seen().issued >= count
                && rows(gateway).iter().all(|row| row.not_after.is_some())
        });
        assert!(issued, "{:#?}\n{:#?}", rows(gateway), self.authority.seen());
    }
}

fn rows(gateway: &Gateway) -> Vec<Row> {
    gateway.certificates_by_acme().certificates
}

/// Waits until the only certificate's state is as a test wants it, and returns it.
fn await_row(gateway: &Gateway, wanted: impl Fn(&Row) -> bool) -> Row {
    let is_there = || rows(gateway).first().is_some_and(&wanted);
    assert!(eventually_blocking(DEADLINE, is_there), "{:#?}", rows(gateway));
    rows(gateway).remove(0)
}

/// Asks by TLS, verified by the authority's root and for `name`, or for the address where it is `None`.
async fn get(stage: &Stage, address: IpAddr, name: Option<&str>) -> std::io::Result<String> {
    let config = Arc::new(client_config(stage.authority.issuer(), None));
    let at = SocketAddr::new(address, TLS_PORT);
    let mut http = RawHttp::connect_tls(at, None, config, name).await?;
    let host = name.map_or_else(|| address.to_string(), str::to_owned);
    let response = http.get(&host, "/").await.map_err(std::io::Error::other)?;
    Ok(response.text())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Serial number of the certificate that is shown, as bytes of the leaf.
async fn leaf(address: IpAddr) -> std::io::Result<Vec<u8>> {
    let config = Arc::new(client_config_insecure(None));
    let stream = tls_connect(SocketAddr::new(address, TLS_PORT), None, config, None).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(chain[0].to_vec())
}

fn modes(directory: &Path) -> Vec<(String, u32)> {
    use std::os::unix::fs::PermissionsExt;
    let entries = std::fs::read_dir(directory).unwrap().flatten();
    let mode = |entry: &std::fs::DirEntry| entry.metadata().unwrap().permissions().mode() & 0o777;
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), mode(&entry))).collect()
}

// S3.48+
#[test]
fn names_and_addresses_are_issued_by_both_challenges_at_the_tenants_own_listeners() {
    let stage = Stage::new(|_| ());
    let by_tls = stage.tenant("tls", "names: [tls.example], challenge: TLS-ALPN-01");
    let by_http = stage.tenant("http", "names: [http.example], challenge: HTTP-01");
    let both = IpAddr::from(unique_loopback());
    let names = format!("profile: shortlived, names: [both.example, {both}]");
    stage.write("both", both, &names);
    let address = stage.tenant("address", "profile: shortlived, challenge: HTTP-01");
    for (name, at) in [("tls.example", by_tls), ("http.example", by_http), ("both.example", both)] {
        stage.authority.resolve(name, at);
    }

    let gateway = stage.gateway();
    stage.await_issued(&gateway, 4);

    runtime().block_on(async {
        assert_eq!(get(&stage, by_tls, Some("tls.example")).await.unwrap(), "tls");
        assert_eq!(get(&stage, by_http, Some("http.example")).await.unwrap(), "http");
        assert_eq!(get(&stage, both, Some("both.example")).await.unwrap(), "both");
        assert_eq!(get(&stage, both, None).await.unwrap(), "both");
        assert_eq!(get(&stage, address, None).await.unwrap(), "address");
    });
    let seen = stage.authority.seen();
    assert_eq!(
        (seen.most_open, seen.accounts.len()),
        (1, 4),
        "one order at a time, an account each"
    );
    assert!(seen.validations.iter().all(|(_, _, outcome)| outcome.is_ok()), "{seen:#?}");
    let acme = stage.state.path().join("acme");
    for part in ["accounts", "certificates"] {
        let modes = modes(&acme.join(part));
        assert_eq!(modes.len(), 4, "{part}: {modes:?}");
        assert!(modes.iter().all(|(_, mode)| *mode == 0o600), "{modes:?}");
    }
    assert_eq!(modes(&acme.join("challenges")), [], "answers are gone with their challenges");
    let listeners = gateway
        .view()
        .snapshot
        .tenants
        .values()
        .flat_map(|tenant| tenant.listeners.clone())
        .collect::<Vec<_>>();
    assert!(listeners.iter().all(|listener| listener.acme.answers.is_empty()));
    gateway.drain(Duration::ZERO);
}

// S3.48+
#[test]
fn until_the_first_certificate_is_there_tls_is_refused_and_the_reason_and_the_next_attempt_are_told()
 {
    let stage = Stage::new(|_| ());
    let address = stage.tenant("shop", "names: [shop.example]");
    // Nobody resolves the name, so it cannot be validated.
    let gateway = stage.gateway();
    let row = await_row(&gateway, |row| row.failures > 0);

    let shown = runtime().block_on(async {
        let hello = ClientHello::new().server_name("shop.example");
        probe(SocketAddr::new(address, TLS_PORT), None, &hello).await.unwrap()
    });
    assert_eq!(shown, Reaction::Alert(80));
    let fault = row.fault.unwrap();
    assert!(fault.contains("no address found for shop.example"), "{fault}");
    let ready = gateway.health().text();
    let expected = format!(
        "shop: certificate for shop.example at {address}:443 has not been issued yet, and handshakes are refused (certificate_pending): {fault}; next attempt at "
    );
    assert!(ready.contains(&expected), "{ready}");
    assert!(ready.contains("[!]acme warning: 0 of 1 issued"), "{ready}");
    assert!(
        gateway.health().fault().is_none(),
        "one tenant's certificate does not make it unready"
    );
    let report = gateway.report(crate::app::report::Selection::default()).ok().unwrap();
    let report = serde_json::to_value(report).unwrap();
    assert_eq!(report["acme"]["certificates"][0]["tenant"], "shop");
    assert!(report["acme"]["certificates"][0]["nextAttempt"].is_i64(), "{}", report["acme"]);
    for line in [
        "durward_tls_handshake_failures_total{tenant=\"shop\",reason=\"certificate_pending\"} 1",
        "durward_acme_attempts_total{tenant=\"shop\",outcome=\"failed\"} ",
        "durward_acme_next_attempt_timestamp_seconds{tenant=\"shop\",names=\"shop.example\"} ",
    ] {
        let is_told = || gateway.metrics_text().contains(line);
        assert!(eventually_blocking(DEADLINE, is_told), "{line}\n{}", gateway.metrics_text());
    }

    stage.authority.resolve("shop.example", address);
    stage.await_issued(&gateway, 1);
    assert!(!gateway.health().text().contains("[!]acme"), "{}", gateway.health().text());
    gateway.drain(Duration::ZERO);
}

// S3.48+
#[test]
fn a_hundred_renewals_under_load_fail_no_handshake() {
    const RENEWALS: u64 = 100;
    // The window is always in the past: each certificate is to be replaced at once.
    let stage = Stage::new(|behaviour| {
        behaviour.renewal = Some((-60, -30, 3_600));
        behaviour.bad_nonce_every = 7;
    });
    let address = stage.tenant("shop", "names: [shop.example]");
    stage.authority.resolve("shop.example", address);
    let gateway = stage.gateway();
    stage.await_issued(&gateway, 1);
    let (stop, served, failed) =
        (AtomicBool::new(false), AtomicU64::new(0), std::sync::Mutex::new(Vec::new()));

    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                runtime().block_on(async {
                    while !stop.load(SeqCst) {
                        match get(&stage, address, Some("shop.example")).await {
                            Ok(_) => drop(served.fetch_add(1, SeqCst)),
                            Err(error) => failed.lock().unwrap().push(error.to_string()),
                        }
                    }
                });
            });
        }
        let enough =
            eventually_blocking(DEADLINE * 10, || stage.authority.seen().issued > RENEWALS);
        stop.store(true, SeqCst);
        assert!(enough, "{:#?}", rows(&gateway));
    });

    let seen = stage.authority.seen();
    assert_eq!(*failed.lock().unwrap(), Vec::<String>::new());
    assert!(served.load(SeqCst) > RENEWALS, "{} handshakes", served.load(SeqCst));
    assert!(seen.replacements >= RENEWALS, "each says what it replaces: {}", seen.replacements);
    assert_eq!((seen.accounts.len(), seen.most_open), (1, 1));
    let metrics = gateway.metrics_text();
    let failures: Vec<_> = metrics
        .lines()
        .filter(|line| line.starts_with("durward_tls_handshake_failures_total{tenant=\"shop\""))
        .filter(|line| !line.ends_with(" 0") && !line.contains("certificate_pending"))
        .collect();
    assert_eq!(failures, Vec::<&str>::new());
    gateway.drain(Duration::ZERO);
}

// S3.48+
#[test]
fn an_account_that_was_revoked_is_replaced_and_the_old_certificate_served_meanwhile() {
    let stage = Stage::new(|behaviour| behaviour.renewal = Some((3_600, 7_200, 60)));
    let address = stage.tenant("shop", "names: [shop.example]");
    stage.authority.resolve("shop.example", address);
    let gateway = stage.gateway();
    stage.await_issued(&gateway, 1);
    gateway.drain(Duration::ZERO);

    stage.authority.revoke_accounts();
    stage.authority.behave(|behaviour| behaviour.renewal = Some((-60, -30, 60)));
    let gateway = stage.gateway();
    runtime().block_on(async {
        let there =
            eventually(DEADLINE, async || get(&stage, address, Some("shop.example")).await.is_ok())
                .await;
        assert!(there, "the certificate of before is served from the start");
    });
    stage.await_issued(&gateway, 2);

    assert_eq!(stage.authority.seen().accounts.len(), 2);
    gateway.drain(Duration::ZERO);
}

// S3.48+
#[test]
fn a_rate_limit_is_waited_out_as_long_as_the_authority_says_and_over_a_restart() {
    let stage = Stage::new(|behaviour| behaviour.renewal = Some((3_600, 7_200, 60)));
    let address = stage.tenant("shop", "names: [shop.example]");
    stage.authority.resolve("shop.example", address);
    let gateway = stage.gateway();
    stage.await_issued(&gateway, 1);
    gateway.drain(Duration::ZERO);
    stage.authority.behave(|behaviour| {
        behaviour.renewal = Some((-60, -30, 60));
        behaviour.rate_limit = Some(5_000);
    });

    for _ in 0..2 {
        let gateway = stage.gateway();
        let row = await_row(&gateway, |row| row.failures == 1);
        let wait = row.next_attempt.unwrap() - crate::inspect::now();
        assert!((4_500..9_000).contains(&wait), "{wait} s");
        assert!(row.fault.unwrap().contains("rate limit"));
        let ready = gateway.health().text();
        assert!(ready.contains("is not renewed: the authority's rate limit is reached"), "{ready}");
        let served = runtime().block_on(get(&stage, address, Some("shop.example")));
        assert_eq!(served.unwrap(), "shop", "the old certificate is kept");
        gateway.drain(Duration::ZERO);
    }

    assert_eq!(stage.authority.seen().limited, 1, "a restart does not ask again");
}

// S3.48+
#[test]
fn a_clock_that_is_ahead_orders_nothing_early_and_is_told() {
    let day = 86_400;
    // Of 30 days, 25 have passed by this host's clock when the certificate is issued.
    let stage = Stage::new(|behaviour| {
        behaviour.clock_behind = 25 * day;
        behaviour.lifetime = Duration::from_secs(30 * day);
    });
    let address = stage.tenant("shop", "names: [shop.example]");
    stage.authority.resolve("shop.example", address);
    let gateway = stage.gateway();
    stage.await_issued(&gateway, 1);

    let clock = || {
        gateway
            .health()
            .text()
            .contains("the clock of this host is 25 days ahead of that of https://")
    };
    assert!(eventually_blocking(DEADLINE, clock), "{}", gateway.health().text());
    let row = await_row(&gateway, |row| {
        row.next_attempt.is_some_and(|next| next > crate::inspect::now() + 86_400)
    });
    // By its own clock it would be due at once, and after each renewal again.
    let looked = stage.authority.server().connections();
    let again = || stage.authority.server().connections() > looked + 2;
    assert!(eventually_blocking(DEADLINE, again), "the authority's time is asked for again");
    let seen = stage.authority.seen();
    assert_eq!((seen.issued, seen.orders.len()), (1, 1), "{row:#?}");
    gateway.drain(Duration::ZERO);
}

// S3.48+
#[test]
fn while_the_authority_is_away_the_old_certificate_is_served_and_the_new_one_comes_when_it_is_back()
{
    let stage = Stage::new(|behaviour| behaviour.renewal = Some((3_600, 7_200, 60)));
    let address = stage.tenant("shop", "names: [shop.example]");
    stage.authority.resolve("shop.example", address);
    // Renewed after eight seconds.
    stage.authority.behave(|behaviour| {
        behaviour.renewal = None;
        behaviour.lifetime = Duration::from_secs(12);
    });
    let gateway = stage.gateway();
    stage.await_issued(&gateway, 1);
    let first = runtime().block_on(leaf(address)).unwrap();
    stage.authority.server().stop();

    let row = await_row(&gateway, |row| row.failures >= 3);
    assert!(row.fault.unwrap().starts_with("the authority does not answer: cannot connect to"));
    assert!(row.next_attempt.is_some());
    assert_eq!(
        runtime().block_on(leaf(address)).unwrap(),
        first,
        "kept, though it has ended or will"
    );

    stage.authority.behave(|behaviour| behaviour.lifetime = Duration::from_secs(86_400));
    stage.authority.server().restart();
    stage.await_issued(&gateway, 2);
    await_row(&gateway, |row| row.failures == 0);
    assert_ne!(runtime().block_on(leaf(address)).unwrap(), first);
    gateway.drain(Duration::ZERO);
}

// S3.48+
#[test]
fn of_two_gateways_with_one_state_directory_one_orders_and_both_serve() {
    let stage = Stage::new(|_| ());
    let address = stage.tenant("shop", "names: [shop.example]");
    let first = stage.gateway();
    await_row(&first, |row| row.failures > 0);
    let second = stage.gateway();
    let elsewhere = || second.certificates_by_acme().elsewhere;
    assert!(eventually_blocking(DEADLINE, elsewhere));
    let ready = second.health().text();
    assert!(ready.contains("another process with this state directory orders them"), "{ready}");

    // The first leaves, as after a hand-over: the second takes over.
    first.drain(Duration::ZERO);
    stage.authority.resolve("shop.example", address);
    stage.await_issued(&second, 1);
    assert_eq!(runtime().block_on(get(&stage, address, Some("shop.example"))).unwrap(), "shop");
    second.drain(Duration::ZERO);
}

#[test]
fn nothing_is_ordered_for_a_document_that_is_rejected_or_a_claim_that_is_not_held() {
    let stage = Stage::new(|_| ());
    let address = stage.tenant("shop", "names: [shop.example]");
    // A younger tenant claims the same address.
    stage.write("thief", address, "names: [thief.example]");
    stage.authority.resolve("thief.example", address);
    let gateway = stage.gateway();
    await_row(&gateway, |row| row.failures > 0);
    assert!(
        rows(&gateway).iter().all(|row| row.tenant.as_str() == "shop"),
        "{:#?}",
        rows(&gateway)
    );

    stage.documents.write("shop.yaml", "kind: Tenant\nmetadata: {name: shop}\nspec: [\n");
    gateway.reload("test");
    let row = await_row(&gateway, |row| row.next_attempt.is_none());
    assert!(row.fault.unwrap().contains("rejected"));
    let orders = stage.authority.seen().orders;
    assert!(orders.iter().all(|(names, _)| names == &["shop.example"]), "{orders:?}");
    gateway.drain(Duration::ZERO);
}
