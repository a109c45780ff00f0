//! Who is let in by client certificate, and the reason counted for everybody else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use durward_model::ClientAuth;
use durward_proxy::metrics::Counter;
use durward_testkit::certificates::{
    Authority, CertSpec, Identity, client_config, client_config_insecure,
};
use durward_testkit::client::RawHttp;
use durward_testkit::process::{eventually, unique_loopback};

use crate::edge::{
    SOON, Wanted, assert_served, await_lines, await_refusals, bound, handshakes_failed, http,
    https, identity_for, serve, serve_with_log, tenant, total, trust,
};

/// One GET with this identity; whether it was answered.
pub(super) async fn is_served(
    address: SocketAddr,
    source: Option<IpAddr>,
    identity: Option<&Identity>,
) -> bool {
    let config = client_config_insecure(identity);
    let Ok(mut client) = RawHttp::connect_tls(address, source, config, None).await else {
        return false;
    };
    client.get("a", "/").await.is_ok_and(|response| response.status == 200)
}

fn with_clients(address: SocketAddr, server: &Identity, auth: ClientAuth) -> Wanted {
    let mut policy = https(server);
    policy.client_auth = auth;
    tenant("a").listen(address, http("A", Some(policy)))
}

// S1.49 S1.6 S1.54
#[tokio::test]
async fn only_a_valid_certificate_from_an_allowed_source_comes_in() {
    let (servers, partners, others) =
        (Authority::new("servers"), Authority::new("partners"), Authority::new("others"));
    let impostor = Authority::new("partners");
    let address = SocketAddr::from((unique_loopback(), 8443));
    let good = partners.issue(&CertSpec::new().client());
    let revoked = partners.issue(&CertSpec::new().client());
    let list = partners.revoke(&[&revoked]);
    let auth = ClientAuth::Required(trust(&[&partners], &[&list]));
    let server = identity_for(&servers, address.ip());
    let proxy = serve(&[with_clients(address, &server, auth).only_from("127.0.0.0/24")]);

    let spec = CertSpec::new;
    let cases = [
        (None, "client_certificate_missing"),
        (Some(others.issue(&spec().client())), "client_certificate_unknown_issuer"),
        (Some(impostor.issue(&spec().client())), "client_certificate_unknown_issuer"),
        (Some(partners.issue(&spec().client().expired())), "client_certificate_expired"),
        (
            Some(partners.issue(&spec().client().not_yet_valid())),
            "client_certificate_not_yet_valid",
        ),
        (Some(revoked), "client_certificate_revoked"),
        (Some(partners.issue(&spec().server())), "client_certificate_unacceptable"),
        (Some(partners.issue(&spec().client().version_1())), "client_certificate_unacceptable"),
    ];
    for (identity, reason) in &cases {
        let before = handshakes_failed(&proxy, "a", reason);
        assert!(!is_served(address, None, identity.as_ref()).await, "{reason}");
        let counted =
            eventually(SOON, async || handshakes_failed(&proxy, "a", reason) == before + 1);
        assert!(
            counted.await,
            "{reason}: {:?}",
            crate::edge::metrics(&proxy, "a").handshake_failures()
        );
    }
    await_refusals(&proxy, Some("a"), "tls_handshake", cases.len() as u64).await;

    let elsewhere = IpAddr::V4(unique_loopback());
    assert!(!is_served(address, Some(elsewhere), Some(&good)).await);
    await_refusals(&proxy, Some("a"), "source_not_allowed", 1).await;
    assert_eq!(total(&proxy, "a", Counter::ConnectionsOpened), 0);

    assert!(is_served(address, None, Some(&good)).await);
    let without_purpose = partners.issue(&spec().client().no_eku());
    assert!(is_served(address, None, Some(&without_purpose)).await);
    let through_intermediate = partners.intermediate("issuing").issue(&spec().client());
    assert!(is_served(address, None, Some(&through_intermediate)).await);
}

#[tokio::test]
async fn a_refused_certificate_is_named_in_the_access_log_with_readable_times() {
    let (servers, partners) = (Authority::new("servers"), Authority::new("partners"));
    let (others, address) = (Authority::new("others"), SocketAddr::from((unique_loopback(), 8443)));
    let auth = ClientAuth::Required(trust(&[&partners], &[]));
    let server = identity_for(&servers, address.ip());
    let (proxy, lines) = serve_with_log(&[with_clients(address, &server, auth)]);
    let spec = || CertSpec::new().client().common_name("bank\n{\"forged\":1}").serial(0x1f2e);

    let identities = [partners.issue(&spec().expired()), others.issue(&spec())];
    for identity in &identities {
        assert!(!is_served(address, None, Some(identity)).await);
    }

    let mut lines = await_lines(proxy, &lines, identities.len()).await;
    // Two cores write, each when it likes.
    lines.sort_by_key(|line| !line["detail"].to_string().contains("expired at"));
    for (line, issuer) in lines.iter().zip(["partners", "others"]) {
        assert_eq!(line["client_subject"], "CN=bank?{\"forged\":1}", "{line}");
        assert!(line["client_issuer"].as_str().unwrap().contains(issuer), "{line}");
        assert_eq!(line["client_serial"], "1f:2e", "{line}");
        for field in ["client_not_before", "client_not_after"] {
            let time = line[field].as_str().unwrap();
            assert!(time.starts_with("20") && time.ends_with('Z'), "{field}: {line}");
        }
    }
    let expired = lines[0]["detail"].as_str().unwrap();
    let end = lines[0]["client_not_after"].as_str().unwrap();
    assert!(expired.contains(&format!("serial 1f:2e: expired at {end}")), "{expired}");
    assert!(lines[1]["detail"].as_str().unwrap().contains("no trusted authority issued it"));
}

// S1.66
#[tokio::test]
async fn an_optional_certificate_may_be_missing_but_not_bad() {
    let (servers, partners, others) =
        (Authority::new("servers"), Authority::new("partners"), Authority::new("others"));
    let address = SocketAddr::from((unique_loopback(), 8443));
    let server = identity_for(&servers, address.ip());
    let auth = ClientAuth::Optional(trust(&[&partners], &[]));
    let _proxy = serve(&[with_clients(address, &server, auth)]);

    assert!(is_served(address, None, None).await);
    assert!(is_served(address, None, Some(&partners.issue(&CertSpec::new().client()))).await);
    assert!(!is_served(address, None, Some(&others.issue(&CertSpec::new().client()))).await);
}

// S1.67
#[tokio::test]
async fn two_authorities_overlap_and_the_old_one_goes_for_new_and_open_connections() {
    let servers = Authority::new("servers");
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let address = SocketAddr::from((unique_loopback(), 8443));
    let server = identity_for(&servers, address.ip());
    let client = |authority: &Authority| authority.issue(&CertSpec::new().client());
    let (by_old, by_new) = (client(&old), client(&new));
    let config = Arc::new(client_config(&servers, Some(&by_old)));
    let stage = |authorities: &[&Authority]| {
        [with_clients(address, &server, ClientAuth::Required(trust(authorities, &[])))]
    };
    let proxy = serve(&stage(&[&old]));
    let mut open = RawHttp::connect_tls(address, None, Arc::clone(&config), None).await.unwrap();
    assert_eq!(open.get("a", "/").await.unwrap().status, 200);

    assert_served(&proxy.apply(bound(2, &stage(&[&old, &new]))));
    assert!(is_served(address, None, Some(&by_old)).await);
    assert!(is_served(address, None, Some(&by_new)).await);
    let mut overlap = RawHttp::connect_tls(address, None, config, None).await.unwrap();
    assert_eq!(overlap.get("a", "/").await.unwrap().status, 200);

    assert_served(&proxy.apply(bound(3, &stage(&[&new]))));
    assert!(!is_served(address, None, Some(&by_old)).await);
    assert!(is_served(address, None, Some(&by_new)).await);
    assert!(overlap.is_closed().await);
}

// S1.49
#[tokio::test]
async fn an_authority_without_a_revocation_list_is_not_troubled_by_anothers() {
    let servers = Authority::new("servers");
    let (listed, unlisted) = (Authority::new("listed"), Authority::new("unlisted"));
    let address = SocketAddr::from((unique_loopback(), 8443));
    let server = identity_for(&servers, address.ip());
    let list = listed.revoke(&[]);
    let auth = ClientAuth::Required(trust(&[&listed, &unlisted], &[&list]));
    let _proxy = serve(&[with_clients(address, &server, auth)]);

    for authority in [&listed, &unlisted] {
        let client = authority.issue(&CertSpec::new().client());
        assert!(is_served(address, None, Some(&client)).await);
    }
}

// S1.49+ S1.67+
#[tokio::test]
async fn two_keys_of_one_authority_are_each_judged_by_their_own_revocation_list() {
    let servers = Authority::new("servers");
    let keys = [Authority::new("partners"), Authority::new("partners")];
    let address = SocketAddr::from((unique_loopback(), 8443));
    let server = identity_for(&servers, address.ip());
    let client = |authority: &Authority| authority.issue(&CertSpec::new().client());
    let (good, revoked) = (keys.each_ref().map(client), keys.each_ref().map(client));
    let lists = [keys[0].revoke(&[&revoked[0]]), keys[1].revoke(&[&revoked[1]])];
    let mut both = (*trust(&[&keys[0], &keys[1]], &[&lists[0], &lists[1]])).clone();
    both.signers = vec![vec![0], vec![1]];
    let auth = ClientAuth::Required(Arc::new(both));
    let proxy = serve(&[with_clients(address, &server, auth)]);

    for at in 0..2 {
        assert!(is_served(address, None, Some(&good[at])).await, "key {at}");
        assert!(!is_served(address, None, Some(&revoked[at])).await, "key {at}");
    }
    let reason = "client_certificate_revoked";
    let counted = eventually(SOON, async || handshakes_failed(&proxy, "a", reason) == 2);
    assert!(counted.await);
    let impostor = client(&Authority::new("partners"));
    assert!(!is_served(address, None, Some(&impostor)).await);
}
