//! What ends when a hosted API server admits fewer clients: those that it would refuse now, and no others.

use std::net::SocketAddr;

use durward_model::ClientAuth;
use tokio::io::{AsyncRead, AsyncWrite};

use super::*;

/// A byte there and back; false if the connection has ended.
async fn echoes(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    let exchange = async {
        stream.write_all(&[7]).await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await
    };
    tokio::time::timeout(SOON, exchange).await.is_ok_and(|exchanged| exchanged.is_ok())
}

async fn ends(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    eventually(SOON, async || !echoes(stream).await).await
}

/// Begins an outer connection whose client inside is connected.
async fn outer_open(
    address: SocketAddr,
    gateway: &Authority,
    credential: &Identity,
    host: &str,
) -> TlsStream<TcpStream> {
    let mut stream = outer(address, gateway, Some(credential), host).await.unwrap();
    stream.write_all(&of_pod(host).encode()).await.unwrap();
    assert!(echoes(&mut stream).await);
    stream
}

fn trusting(api: &mut HostedApi, authorities: &[&Authority], lists: &[&RevocationList]) {
    let trust = trust(authorities, lists);
    api.relay.as_mut().unwrap().client_auth = ClientAuth::Required(trust);
}

fn to_echo(address: SocketAddr, api: HostedApi, echo: &TcpEcho) -> Wanted {
    let routes = vec![route(api, 0)];
    let wanted = tenant("a").upstream(echo.address());
    wanted.listen(address, Service::PassThrough(routes.into())).named(&["api.a.example"])
}

// S4.70+
#[tokio::test]
async fn a_revoked_credential_ends_its_open_outer_connections_and_no_others() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = Api::new(&gateway, &clients, "a", "api.a.example");
    let (echo, address) = (TcpEcho::start("127.0.0.1:0"), address());
    let proxy = serve(&[to_echo(address, api.hosted(), &echo)]);
    let stolen = api.proxies.issue(&CertSpec::new().common_name("stolen").client());
    let mut kept = outer_open(address, &gateway, &api.credential, api.host).await;
    let mut cut = outer_open(address, &gateway, &stolen, api.host).await;

    let list = api.proxies.revoke(&[&stolen]);
    let mut hosted = api.hosted();
    trusting(&mut hosted, &[&api.proxies], &[&list]);
    assert_served(&proxy.apply(bound(2, &[to_echo(address, hosted, &echo)])));

    assert!(ends(&mut cut).await);
    assert!(echoes(&mut kept).await);
}

// S4.70+
#[tokio::test]
async fn the_last_step_of_a_change_of_authorities_disturbs_no_proxy_that_has_moved() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = Api::new(&gateway, &clients, "a", "api.a.example");
    let (echo, address) = (TcpEcho::start("127.0.0.1:0"), address());
    let next = Authority::new("proxies of api.a.example, second key");
    let mut both = api.hosted();
    trusting(&mut both, &[&api.proxies, &next], &[]);
    let proxy = serve(&[to_echo(address, both, &echo)]);
    let moved = next.issue(&CertSpec::new().client());
    let mut kept = outer_open(address, &gateway, &moved, api.host).await;
    let mut cut = outer_open(address, &gateway, &api.credential, api.host).await;

    let mut last = api.hosted();
    trusting(&mut last, &[&next], &[]);
    assert_served(&proxy.apply(bound(2, &[to_echo(address, last, &echo)])));

    assert!(ends(&mut cut).await);
    assert!(echoes(&mut kept).await);
}

/// A client that asks for a name, or with `None` for the address.
async fn client_of(address: SocketAddr, name: Option<&str>) -> RawHttp {
    let config = client_config_insecure(None);
    let mut client = RawHttp::connect_tls(address, None, config, name).await.unwrap();
    assert!(is_open(&mut client).await);
    client
}

// S4.70+
#[tokio::test]
async fn at_an_address_of_its_own_narrower_sources_end_what_asked_for_no_name_of_it() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = Api::new(&gateway, &clients, "a", "api.a.example");
    let address = address();
    let wanted = |sources: Option<&str>| {
        let sources = sources.map(|block| SourceSet::new([block.parse().unwrap()]));
        let own = HostedApi { allowed_sources: sources, ..api.hosted() };
        let name = Arc::from(format!("{}/unnamed", api.host));
        let unnamed = HostedApi { name, relay: None, ..own.clone() };
        let any_name = SniRoute { hosts: Vec::new(), ..route(unnamed, 0) };
        let routes = vec![route(own, 0), any_name];
        let wanted = tenant("a").upstream(api.server.address());
        wanted.listen(address, Service::PassThrough(routes.into()))
    };
    let proxy = serve(&[wanted(None)]);
    let names = [None, Some("foreign.example"), Some(api.host)];
    let mut open = Vec::new();
    for name in names {
        open.push(client_of(address, name).await);
    }

    assert_served(&proxy.apply(bound(2, &[wanted(Some("127.0.0.0/8"))])));
    for (client, name) in open.iter_mut().zip(names) {
        assert!(is_open(client).await, "{name:?} is admitted still");
    }

    assert_served(&proxy.apply(bound(3, &[wanted(Some("192.0.2.0/24"))])));
    for (client, name) in open.iter_mut().zip(names) {
        assert!(eventually(SOON, async || !is_open(client).await).await, "{name:?}");
    }
}

// S4.70+
#[tokio::test]
async fn a_name_that_moves_to_an_api_server_with_narrower_sources_is_judged_by_these() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = Api::new(&gateway, &clients, "a", "api.a.example");
    let address = address();
    let hosted = |name: &str, hosts: &[&str], sources: Option<SourceSet>| HostedApi {
        name: Arc::from(name),
        names: ServerNames::new(hosts.iter().map(|host| exact(host)).collect()),
        allowed_sources: sources,
        relay: None,
        origin: Place::default(),
    };
    let wanted = |apis: Vec<HostedApi>| {
        let routes: Vec<_> = apis.into_iter().map(|api| route(api, 0)).collect();
        let wanted = tenant("a").upstream(api.server.address());
        let wanted = wanted.listen(address, Service::PassThrough(routes.into()));
        wanted.named(&["stays.example", "moves.example"])
    };
    let both = ["stays.example", "moves.example"];
    let proxy = serve(&[wanted(vec![hosted("one", &both, None)])]);
    let mut stays = client_of(address, Some(both[0])).await;
    let mut moves = client_of(address, Some(both[1])).await;

    let narrow = SourceSet::new(["192.0.2.0/24".parse().unwrap()]);
    let apis = vec![hosted("one", &both[..1], None), hosted("two", &both[1..], Some(narrow))];
    assert_served(&proxy.apply(bound(2, &[wanted(apis)])));

    assert!(eventually(SOON, async || !is_open(&mut moves).await).await);
    assert!(is_open(&mut stays).await);
}
