//! Behind a foreign ingress controller: the client's TLS ends at the proxy, and new TLS begins.

use durward_apiproxy::metrics::Outcome;
use durward_apiproxy::settings::{Carrier, Trust};

use crate::stage::{NAME, Pki, api_server, connect, greeting, settings, start};

fn carrier(pki: &Pki, authority: &str) -> Carrier {
    let trust = Trust::Authorities(pki.dir.join(authority));
    Carrier::Reoriginate { serving: pki.identity("api"), trust }
}

// S4.9
#[tokio::test]
async fn the_client_sees_the_api_servers_certificate_and_the_ingress_gets_the_name_as_sni() {
    let pki = Pki::new();
    let ingress = api_server(&pki).await;
    let running = start(settings(carrier(&pki, "cluster.crt"), &[ingress]));

    let mut client = connect(&pki, running.address, Some("admin")).await.unwrap();

    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    // The price of this mode: the client certificate does not arrive.
    assert_eq!(greeting(&mut client).await, format!("user=anonymous protocol=h2 sni={NAME}\n"));
}

// S4.13
#[tokio::test]
async fn an_api_server_that_another_authority_vouches_for_gets_no_token() {
    let pki = Pki::new();
    let ingress = api_server(&pki).await;
    let running = start(settings(carrier(&pki, "gateways.crt"), &[ingress]));

    let refused = connect(&pki, running.address, None).await;

    assert!(refused.is_err());
    assert_eq!(running.proxy.metrics().count(Outcome::Unreachable), 1);
    assert!(!running.proxy.gateways().is_ready());
}
