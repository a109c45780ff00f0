//! TLS to upstreams: always verified, with the tenant's client certificate.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use durward_model::certificate::{Certificate, KeyEncoding, PrivateKey};
use durward_model::upstream::{TrustRoots, UpstreamProtocol, UpstreamTls};
use durward_model::{Origin as Written, Secret, Upstream};
use durward_testkit::certificates::{Authority, CertSpec, Identity, server_config};
use durward_testkit::origin::Origin;
use tokio::task::yield_now;

use super::super::UpstreamRuntime;
use super::support::{get, on_a_core, take, take_io, upstream, view};

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

pub(super) fn trusting(authority: &Authority) -> UpstreamTls {
    let root = authority.root_der();
    UpstreamTls {
        roots: TrustRoots::Private {
            roots: vec![Arc::from(&root[..])],
            generation: format!("{:x}", root.iter().map(|b| u64::from(*b)).sum::<u64>()).into(),
        },
        verify_name: None,
        client_certificate: None,
        tls13_only: false,
    }
}

pub(super) fn over_tls(origin: &Origin, tls: UpstreamTls) -> Upstream {
    Upstream { tls: Some(tls), ..upstream(&[origin.address()], "127.0.0.2") }
}

fn certificate(identity: &Identity) -> Arc<Certificate> {
    let text = |text: &str| Arc::<str>::from(text);
    Arc::new(Certificate {
        name: text("acme"),
        chain: identity.chain_der.iter().map(|der| Arc::from(&der[..])).collect(),
        key: PrivateKey {
            encoding: KeyEncoding::Pkcs8,
            der: Secret::new(identity.key_der.secret_der().to_vec()),
        },
        ip_names: Vec::new(),
        dns_names: Vec::new(),
        subject: text("CN=acme"),
        issuer: text("CN=ca"),
        key_type: text("ECDSA-P256"),
        not_before: 0,
        not_after: i64::MAX,
        fingerprint: text("aa"),
        origin: Written::default(),
        chain_file: PathBuf::new(),
        key_file: PathBuf::new(),
    })
}

// S1.4
#[tokio::test]
async fn an_address_is_verified_by_its_ip_name() {
    on_a_core(|core| async move {
        let authority = Authority::new("bank");
        let good = authority.issue(&CertSpec::new().ip(LOCAL));
        let other = authority.issue(&CertSpec::new().ip([127, 0, 0, 8]).dns("localhost"));
        let good = Origin::tls("127.0.0.1:0", &good, None, &["http/1.1"]);
        let other = Origin::tls("127.0.0.1:0", &other, None, &["http/1.1"]);

        let (mut io, lease) =
            take_io(&core, &view("a", over_tls(&good, trusting(&authority)))).await;
        assert_eq!(get(&mut io).await.unwrap(), 200);
        assert_eq!(lease.source.ip(), IpAddr::from([127, 0, 0, 2]));
        let refusal =
            take(&core, &view("a", over_tls(&other, trusting(&authority)))).await.err().unwrap();

        assert_eq!(refusal.word(), "upstream_tls");
        assert_eq!(other.requests(), 0);
    })
    .await;
}

// S1.4
#[tokio::test]
async fn a_configured_name_is_verified_instead_of_the_address() {
    on_a_core(|core| async move {
        let authority = Authority::new("bank");
        let identity = authority.issue(&CertSpec::new().dns("pay.bank.example"));
        let origin = Origin::tls("127.0.0.1:0", &identity, None, &[]);
        let named =
            |name: &str| UpstreamTls { verify_name: Some(name.into()), ..trusting(&authority) };

        let good = take(&core, &view("a", over_tls(&origin, named("pay.bank.example")))).await;
        let bad = take(&core, &view("a", over_tls(&origin, named("other.bank.example")))).await;

        assert!(good.is_ok());
        assert_eq!(bad.err().unwrap().word(), "upstream_tls");
    })
    .await;
}

// S1.41 S1.60
#[tokio::test]
async fn what_cannot_be_verified_is_refused() {
    on_a_core(|core| async move {
        let (authority, stranger) = (Authority::new("bank"), Authority::new("stranger"));
        let expired = authority.issue(&CertSpec::new().ip(LOCAL).expired());
        let unknown = stranger.issue(&CertSpec::new().ip(LOCAL));
        for identity in [expired, unknown] {
            let origin = Origin::tls("127.0.0.1:0", &identity, None, &["http/1.1"]);
            let view = view("a", over_tls(&origin, trusting(&authority)));

            let refusal = take(&core, &view).await.err().unwrap();

            assert_eq!(refusal.word(), "upstream_tls");
            assert!(std::error::Error::source(&refusal).is_some());
            assert_eq!(view.tenant().upstreams[0].report().endpoints[0].failures, 1);
        }
    })
    .await;
}

// S1.70
#[tokio::test]
async fn the_tenant_shows_its_own_certificate_from_its_own_address() {
    on_a_core(|core| async move {
        let (bank, clients) = (Authority::new("bank"), Authority::new("clients"));
        let server = bank.issue(&CertSpec::new().ip(LOCAL));
        let origin = Origin::tls("127.0.0.1:0", &server, Some(&clients), &["http/1.1"]);
        let shown = certificate(&clients.issue(&CertSpec::new().common_name("acme").client()));
        let with = UpstreamTls { client_certificate: Some(shown), ..trusting(&bank) };

        let (mut io, lease) = take_io(&core, &view("a", over_tls(&origin, with))).await;
        assert_eq!(get(&mut io).await.unwrap(), 200);
        assert_eq!(origin.peers(), [lease.source]);
        assert_eq!(lease.source.ip(), IpAddr::from([127, 0, 0, 2]));
        let without = match take(&core, &view("a", over_tls(&origin, trusting(&bank)))).await {
            Ok((super::super::Carrier::Http1(mut io), _lease)) => get(&mut io).await.is_ok(),
            _ => false,
        };

        assert!(!without);
        assert_eq!(origin.requests(), 1);
    })
    .await;
}

// S1.41
#[tokio::test]
async fn a_tls_connection_is_pooled_and_dropped_once_the_peer_closes() {
    on_a_core(|core| async move {
        let authority = Authority::new("bank");
        let identity = authority.issue(&CertSpec::new().ip(LOCAL));
        let origin = Origin::tls("127.0.0.1:0", &identity, None, &["http/1.1"]);
        let view = view("a", over_tls(&origin, trusting(&authority)));

        let (io, lease) = take_io(&core, &view).await;
        lease.release(io);
        // The server's session tickets are read and are no reason to give the connection up.
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        let (io, lease) = take_io(&core, &view).await;
        assert!(lease.reused);
        lease.release(io);
        origin.stop();
        super::support::until(|| origin.open_connections() == 0).await;
        origin.restart();
        yield_now().await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;

        assert!(!take_io(&core, &view).await.1.reused);
    })
    .await;
}

// S1.64
#[tokio::test]
async fn a_switch_refuses_tls_1_2() {
    on_a_core(|core| async move {
        let authority = Authority::new("bank");
        let identity = authority.issue(&CertSpec::new().ip(LOCAL));
        let provider = durward_testkit::certificates::provider();
        let old = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(identity.chain_der.clone(), identity.key_der.clone_key())
            .unwrap();
        let origin = Origin::tls_with("127.0.0.1:0", old);
        let strict = UpstreamTls { tls13_only: true, ..trusting(&authority) };

        assert!(take(&core, &view("a", over_tls(&origin, trusting(&authority)))).await.is_ok());
        let refusal = take(&core, &view("a", over_tls(&origin, strict))).await.err().unwrap();

        assert_eq!(refusal.word(), "upstream_tls");
    })
    .await;
}

// S1.41
#[tokio::test]
async fn sessions_are_resumed_within_an_upstream_and_never_by_another_tenant() {
    on_a_core(|core| async move {
        let authority = Authority::new("bank");
        let identity = authority.issue(&CertSpec::new().ip(LOCAL));
        let origin = Origin::tls_with("127.0.0.1:0", server_config(&identity, None));
        let (a, b) = (
            view("a", over_tls(&origin, trusting(&authority))),
            view("b", over_tls(&origin, trusting(&authority))),
        );
        let mut resumed = Vec::new();

        for view in [&a, &a, &b, &b] {
            let (mut io, _lease) = take_io(&core, view).await;
            get(&mut io).await.unwrap();
            let crate::io::Io::Tls(stream) = &io else { panic!("TLS was asked for") };
            let kind = stream.get_ref().1.handshake_kind().unwrap();
            resumed.push(kind == rustls::HandshakeKind::Resumed);
        }

        assert_eq!(resumed, [false, true, false, true]);
    })
    .await;
}

// S1.21
#[test]
fn tls_that_cannot_work_is_a_sentence_at_load() {
    let authority = Authority::new("bank");
    let address = "127.0.0.1:443".parse().unwrap();
    let base = || Upstream { tls: Some(trusting(&authority)), ..upstream(&[address], "127.0.0.2") };
    let tls = |change: &dyn Fn(&mut UpstreamTls)| {
        let mut changed = base();
        change(changed.tls.as_mut().unwrap());
        changed
    };
    let empty = TrustRoots::Private { roots: Vec::new(), generation: "x".into() };
    let junk = TrustRoots::Private { roots: vec![Arc::from(&b"x"[..])], generation: "x".into() };
    let mut keyless = Certificate::clone(&certificate(&authority.issue(&CertSpec::new().client())));
    keyless.key.der = Secret::new(Vec::new());
    let keyless = Arc::new(keyless);
    let check = durward_model::health::HealthCheck {
        probe: durward_model::health::Probe::Tls,
        interval: std::time::Duration::from_secs(1),
        timeout: std::time::Duration::from_secs(1),
        unhealthy_after: 1,
        healthy_after: 1,
    };
    let tenant = durward_model::TenantId::new("a").unwrap();

    for (upstream, word) in [
        (tls(&|tls| tls.verify_name = Some("not a name".into())), "neither a DNS name"),
        (tls(&|tls| tls.roots = empty.clone()), "no root is trusted"),
        (tls(&|tls| tls.roots = junk.clone()), "cannot be used"),
        (tls(&|tls| tls.client_certificate = Some(keyless.clone())), "no private key"),
        (Upstream { tls: None, health_check: Some(check), ..base() }, "needs TLS"),
    ] {
        let error = UpstreamRuntime::prepare(&Arc::new(upstream), &tenant, None).err().unwrap();

        assert!(error.starts_with("upstream pay: ") && error.contains(word), "{error}");
    }
    assert!(UpstreamRuntime::prepare(&Arc::new(base()), &tenant, None).is_ok());
}

// S1.38
#[tokio::test]
async fn http2_is_not_spoken_to_who_did_not_agree() {
    on_a_core(|core| async move {
        let authority = Authority::new("bank");
        let identity = authority.issue(&CertSpec::new().ip(LOCAL));
        for alpn in [&[][..], &["http/1.1"]] {
            let origin = Origin::tls("127.0.0.1:0", &identity, None, alpn);
            let mut config = over_tls(&origin, trusting(&authority));
            config.protocol = UpstreamProtocol::Http2;

            let refusal = take(&core, &view("a", config)).await.err().unwrap();

            assert_eq!(refusal.word(), "upstream_tls");
        }
    })
    .await;
}
