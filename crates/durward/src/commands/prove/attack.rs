//! Attack: the proxy of this program, with two made-up tenants, gets requests that it must refuse.
//!
//! Each part begins with a request that must work, because a gateway that refuses everything proves nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;

use super::Tally;
use super::stage::{Side, Stage};
use crate::client::{self, Tunnel};
use crate::commands::check::report::Category;
use crate::commands::egress::proxy::ProxyUrl;
use crate::commands::egress::reach::{Client, Reached};
use crate::failure::Failure;

const PATIENCE: Duration = Duration::from_secs(10);
/// Largest body in bytes.
const BODY: usize = 64 * 1024;

pub(super) fn prove(requests: u64) -> Result<Category, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::broken("starting the runtime", error))?;
    runtime.block_on(async {
        let stage = Stage::open().await?;
        let mut category = Category::new("attack");
        interleaved(&mut category, &stage, requests).await;
        forbidden(&mut category, &stage).await;
        credentials(&mut category, &stage).await;
        checks(&mut category, &stage);
        stage.close();
        Ok(category)
    })
}

/// Builds a client without TLS of its own.
fn client(proxy: SocketAddr, side: Option<Side>) -> Client {
    let user = side.map(|side| format!("{}:{}@", side.name, side.secret)).unwrap_or_default();
    let config = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .map(|builder| builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    let url = format!("http://{user}{proxy}").parse::<ProxyUrl>();
    Client {
        proxy: url.expect("an address and a plain word make a URL"),
        tls: Arc::new(config.expect("the provider has the default versions")),
        timeout: PATIENCE,
    }
}

/// Sends requests of both tenants in turn, by ingress and by proxy, to one partner that keeps connections open.
async fn interleaved(category: &mut Category, stage: &Stage, requests: u64) {
    let mut tally = Tally::default();
    let mut failed = 0_u64;
    let url = format!("http://{}/", stage.partner).parse().expect("an address makes a URL");
    for turn in 0..requests {
        let side = stage.sides[usize::from(turn % 2 == 1)];
        let seen = if turn % 4 < 2 {
            ingress((side.address, stage.ports.ingress).into()).await
        } else {
            match client((side.address, stage.ports.proxy).into(), None).get(&url).await {
                Reached::Answered(200, body) => Some(body),
                _ => None,
            }
        };
        match seen.map(|seen| seen.parse::<Ipv4Addr>()) {
            Some(Ok(seen)) => tally.add(seen != side.address),
            _ => failed += 1,
        }
    }
    let names = stage.sides.map(|side| side.name).join("/");
    let sentence = format!(
        "{} interleaved requests {names} to one partner over reused connections: {} crossings",
        tally.tried, tally.crossed
    );
    if failed > 0 {
        category.error(
            format!("{sentence}, {failed} without an answer"),
            "requests without an answer prove nothing",
        );
    } else if tally.crossed == 0 {
        category.ok(sentence);
    } else {
        category.error(sentence, "this is a fault of durward: please report it");
    }
}

/// Returns the source address that the partner saw of a request that came in at `address`.
async fn ingress(address: SocketAddr) -> Option<String> {
    let stream = TcpStream::connect(address).await.ok()?;
    let mut client = client::Client::on(stream, PATIENCE).await.ok()?;
    let answer = client.send(client::get("/", &address.to_string()).ok()?, BODY).await.ok()?;
    (answer.status == 200).then(|| answer.text())
}

/// Asks for tunnels to near destinations in every spelling.
async fn forbidden(category: &mut Category, stage: &Stage) {
    let [one, other] = stage.sides;
    let proxy = SocketAddr::from((one.address, stage.ports.proxy));
    let open = opens(proxy, &stage.partner.to_string()).await;
    if open != Ok(true) {
        category.error(
            "the tunnel that is allowed does not open",
            "while this fails, refusals prove nothing",
        );
        return;
    }
    let mut tally = Tally::default();
    let mut reached = Vec::new();
    for target in targets(stage, other) {
        let crossed = opens(proxy, &target).await == Ok(true);
        tally.add(crossed);
        if crossed {
            reached.push(target);
        }
    }
    let sentence = format!(
        "{} spellings of loopback, private, metadata and the other tenant's addresses: {} reached",
        tally.tried, tally.crossed
    );
    if reached.is_empty() {
        category.ok(sentence);
    } else {
        category.error(sentence, reached.join(" "));
    }
}

fn targets(stage: &Stage, other: Side) -> Vec<String> {
    let near = [
        "127.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "169.254.170.2",
        "100.64.0.1",
        "100.100.100.200",
        "224.0.0.1",
        "255.255.255.255",
    ];
    let near = near.iter().filter_map(|text| text.parse::<Ipv4Addr>().ok());
    let mut targets: Vec<String> = near
        .chain([other.address])
        .flat_map(|address| spellings(address).map(|host| format!("{host}:443")))
        .collect();
    let ports = stage.ports;
    for port in [ports.ingress, ports.proxy, ports.guarded, 22, 80, 9440] {
        targets.push(format!("{}:{port}", other.address));
    }
    for text in [
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::1",
    ] {
        targets.push(format!("[{text}]:443"));
    }
    targets.extend(["localhost:22".to_owned(), format!("{}:22", stage.partner.ip())]);
    targets
}

fn spellings(address: Ipv4Addr) -> [String; 10] {
    let number = u32::from(address);
    let [a, b, c, d] = address.octets();
    [
        address.to_string(),
        format!("{address}."),
        format!("[::ffff:{address}]"),
        format!("[::{address}]"),
        number.to_string(),
        format!("{number:#x}"),
        format!("0{number:o}"),
        format!("{a}.{}", number & 0xff_ffff),
        format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
    ]
}

/// Returns true if a proxy opens a tunnel to `target`.
async fn opens(proxy: SocketAddr, target: &str) -> Result<bool, String> {
    let stream = TcpStream::connect(proxy).await.map_err(|error| error.to_string())?;
    let answer = client::tunnel(stream, target, None, PATIENCE).await?;
    Ok(matches!(answer, Tunnel::Open(_)))
}

/// Shows each tenant's secret at its own proxy, at the other's, and none.
async fn credentials(category: &mut Category, stage: &Stage) {
    let url = format!("http://{}/", stage.partner).parse().expect("an address makes a URL");
    let mut tally = Tally::default();
    for (door, shown, own) in [
        (0, Some(0), true),
        (1, Some(1), true),
        (0, Some(1), false),
        (1, Some(0), false),
        (0, None, false),
        (1, None, false),
    ] {
        let address = SocketAddr::from((stage.sides[door].address, stage.ports.guarded));
        let reached = client(address, shown.map(|side| stage.sides[side])).get(&url).await;
        if own && !matches!(reached, Reached::Answered(200, _)) {
            category.error(
                "a tenant's own credential is refused",
                "while this fails, refusals prove nothing",
            );
            return;
        }
        if !own {
            tally.add(!matches!(reached, Reached::Refused(407, _)));
        }
    }
    let sentence = format!(
        "{} tries with the other tenant's credential or none: {} accepted",
        tally.tried, tally.crossed
    );
    if tally.crossed == 0 {
        category.ok(sentence);
    } else {
        category.error(sentence, "this is a fault of durward: please report it");
    }
}

/// Reads the proxy's own counters of the attack.
fn checks(category: &mut Category, stage: &Stage) {
    let text = stage.metrics_text();
    let (checks, violations) = super::counted::sums(&text);
    let sentence = format!(
        "{checks} of its connections were checked by getsockname(): {violations} mismatches"
    );
    if checks > 0 && violations == 0 {
        category.ok(sentence);
    } else {
        category.error(sentence, "this is a fault of durward: please report it");
    }
}

#[cfg(test)]
mod tests {
    use http::uri::Authority;

    use super::*;

    #[test]
    fn every_spelling_can_be_asked_for() {
        for host in spellings(Ipv4Addr::new(10, 0, 0, 1)) {
            let target = format!("{host}:443");

            let sent: Authority = target.parse().unwrap();
            assert_eq!(sent.as_str(), target);
        }
    }
}
