//! Links of several tenants: no agent serves, and no request reaches, anybody else's.

use std::net::SocketAddr;

use durward_testkit::origin::Origin;
use durward_testkit::process::eventually_blocking;

use super::world::{AgentOf, LINK, Tenant, World, agent};
use crate::support::{DEADLINE, HERE, get, nowhere};

// S3.23+
#[test]
fn a_link_of_one_name_is_another_with_every_tenant() {
    let world = World::new();
    let (a, b) = (world.tenant("acme"), world.tenant("bolt"));
    let origins = [Origin::http1(HERE), Origin::http1(HERE)];
    let at = [origins[0].address(), origins[1].address()];
    // Both documents have a link called onprem, and both upstreams name the same two backends.
    let documents = a.document(at[0], nowhere()) + &b.document(at[0], nowhere());
    let (gateway, servers) = world.start(&documents);

    // Tenant by tenant an agent of its own; only the agent of the first has the backend.
    let of_a = agent(&a, "agent.acme.example", &at).start(&servers);
    of_a.wait_ready();
    assert_eq!(get(a.http(), "/").unwrap().0, 200);
    assert_eq!(get(b.http(), "/").unwrap().0, 503, "the other tenant's link has no agent");

    let of_b = agent(&b, "agent.bolt.example", &at[1..]).start(&servers);
    of_b.wait_ready();
    assert_eq!(get(b.http(), "/").unwrap().0, 502, "its own agent does not have the backend");
    assert_eq!(get(a.http(), "/").unwrap().0, 200);
    assert_eq!(origins[0].requests(), 2);
    assert_eq!(origins[1].requests(), 0);
    assert_eq!(of_b.status.report().streams_opened, 0);

    of_a.stop();
    assert_eq!(get(a.http(), "/").unwrap().0, 503, "no other agent takes the link over");
    assert_eq!(of_b.status.report().streams_opened, 0);
    gateway.stop();
}

// S3.23
#[test]
fn an_agent_is_admitted_by_its_certificate_for_its_own_link_and_tenant_alone() {
    let world = World::new();
    let (a, b) = (world.tenant("acme"), world.tenant("bolt"));
    let origin = Origin::http1(HERE);
    let at = [origin.address()];
    let documents = a.document(at[0], nowhere()) + &b.document(at[0], nowhere());
    let (gateway, servers) = world.start(&documents);
    let dials = |tenant: &Tenant| SocketAddr::new(tenant.address, LINK);
    // The certificate's tenant and name, the link that is said, and where it dials.
    let strangers = [
        (&b, "agent.acme.example", "onprem", dials(&a)),
        (&a, "agent.acme.example", "onprem", dials(&b)),
        (&a, "agent.bolt.example", "onprem", dials(&a)),
        (&a, "agent.acme.example", "other", dials(&a)),
        (&a, "agent.acme.example.evil", "onprem", dials(&a)),
    ];

    for (tenant, certificate, link, gateway) in strangers {
        let scheme = "tls";
        let stranger =
            AgentOf { tenant, certificate, link, gateway, scheme, backends: &at, services: &[] }
                .start(&servers);
        let refused = || stranger.status.report().last_error.is_some();
        assert!(eventually_blocking(DEADLINE, refused), "{certificate} {link} {gateway}");
        assert!(!stranger.status.report().ready, "{certificate} {link} {gateway}");
    }

    let metrics = gateway.metrics_text();
    assert!(metrics.contains("reason=\"link_denied\""), "{metrics}");
    assert!(!metrics.contains("durward_link_carriers{tenant=\"acme\",link=\"onprem\"} 1"));
    assert_eq!(origin.requests(), 0);
    let own = agent(&a, "agent.acme.example", &at).start(&servers);
    own.wait_ready();
    assert_eq!(get(a.http(), "/").unwrap().0, 200);
    gateway.stop();
}

// S3.83+
#[test]
fn other_names_of_one_link_end_no_carrier_of_another_link_at_the_same_listener() {
    let world = World::new();
    let (tenant, origin) = (world.tenant("acme"), Origin::http1(HERE));
    let at = [origin.address()];
    let two = "certificateNames: [agent.acme.example]}, {name: second, certificateNames: [second.acme.example]";
    let document = tenant.document(at[0], nowhere());
    let document = document.replace("certificateNames: [agent.acme.example]", two);
    let (mut gateway, servers) = world.start(&document);
    let first = agent(&tenant, "agent.acme.example", &at).start(&servers);
    let second = AgentOf { link: "second", ..agent(&tenant, "second.acme.example", &at) };
    let second = second.start(&servers);
    first.wait_ready();
    second.wait_ready();
    let dials =
        || first.status.metrics().lines().filter(|line| line.contains("dials")).collect::<String>();
    let before = dials();

    gateway.reload(&document.replace("[second.acme.example]", "[other.acme.example]"));

    let ended = || !second.status.report().ready;
    assert!(eventually_blocking(DEADLINE, ended), "{:?}", second.status.report());
    assert_eq!(get(tenant.http(), "/").unwrap().0, 200);
    assert_eq!(dials(), before, "the other agent keeps its carriers");
    gateway.stop();
}
