//! Several gateways: the healthy ones first, the next one at once.

use std::time::Duration;

use durward_apiproxy::resolve::{Resolution, parse_host_alias};
use durward_apiproxy::settings::Target;
use tokio::net::TcpListener;

use crate::stage::{
    Gateway, NAME, PATIENCE, Pki, api_server, connect, eventually, greeting, settings, start,
};

#[tokio::test]
async fn a_gateway_that_refuses_or_hangs_costs_a_client_nothing() {
    let pki = Pki::new();
    let api = api_server(&pki).await;
    let gateway = Gateway::start(&pki, api).await;
    let refusing = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    // The kernel accepts for it, and nobody answers.
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = (hanging.local_addr().unwrap(), hanging);
    let mut settings = settings(pki.outer(), &[refusing, hanging.0, gateway.address]);
    // The first client comes before any check has ended.
    settings.limits.attempt = PATIENCE;
    let running = start(settings);

    let mut client = connect(&pki, running.address, Some("admin")).await.unwrap();

    assert!(greeting(&mut client).await.starts_with("user=admin "));
    assert_eq!(gateway.seen().len(), 1);
}

#[tokio::test]
async fn connections_go_to_the_first_gateway_while_it_answers_and_return_to_it() {
    let pki = Pki::new();
    let api = api_server(&pki).await;
    let (mut first, second) = (Gateway::start(&pki, api).await, Gateway::start(&pki, api).await);
    let running = start(settings(pki.outer(), &[first.address, second.address]));
    let gateways = running.proxy.gateways();
    eventually("both answer", async || gateways.report().iter().all(|it| it.is_healthy())).await;

    let talk = async || {
        let mut client = connect(&pki, running.address, None).await.unwrap();
        greeting(&mut client).await;
    };
    talk().await;
    assert_eq!((first.seen().len(), second.seen().len()), (1, 0));

    first.stop().await;
    talk().await;
    assert_eq!(second.seen().len(), 1);
    eventually("the first is out", async || !gateways.report()[0].is_healthy()).await;
    assert!(gateways.is_ready());
}

#[tokio::test]
async fn without_a_gateway_that_answers_the_proxy_is_not_ready_and_with_one_it_is() {
    let pki = Pki::new();
    let mut gateway = Gateway::start(&pki, api_server(&pki).await).await;
    let running = start(settings(pki.outer(), &[gateway.address]));
    let gateways = running.proxy.gateways();

    eventually("it is ready", async || gateways.is_ready()).await;
    gateway.stop().await;
    eventually("it is not ready", async || !gateways.is_ready()).await;

    assert!(connect(&pki, running.address, None).await.is_err());
    let text = running.proxy.metrics_text();
    assert!(text.contains("connections_total{outcome=\"unreachable\"} 1"), "{text}");
    assert!(
        text.contains(&format!("gateway_healthy{{gateway=\"{}\"}} 0", gateway.address)),
        "{text}"
    );
}

// S4.30+ S4.57
#[tokio::test]
async fn a_name_that_dns_does_not_know_is_reached_by_its_host_alias() {
    let pki = Pki::new();
    let gateway = Gateway::start(&pki, api_server(&pki).await).await;
    let mut settings = settings(pki.outer(), &[]);
    settings.gateways = vec![Target { host: NAME.to_owned(), port: gateway.address.port() }];
    settings.limits.connect = PATIENCE;
    let mut without = settings.clone();
    without.resolution = Resolution::default();
    without.limits.connect = Duration::from_secs(20);
    parse_host_alias(&format!("127.0.0.1={NAME}"), &mut settings.resolution.host_aliases).unwrap();

    let (known, unknown) = (start(settings), start(without));

    let mut client = connect(&pki, known.address, None).await.unwrap();
    assert!(greeting(&mut client).await.starts_with("user=anonymous "));
    assert!(connect(&pki, unknown.address, None).await.is_err());
    let report = unknown.proxy.gateways().report();
    assert!(report[0].resolve_error.as_deref().is_some_and(|error| error.contains(NAME)));
}
