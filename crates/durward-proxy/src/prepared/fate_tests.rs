//! Effect of each kind of change on open connections.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use durward_model::certificate::{KeyEncoding, PrivateKey};
use durward_model::limits::Limits;
use durward_model::listener::TcpService;
use durward_model::{
    Certificate, EgressAddress, IngressAddress, Origin, Secret, SourceSet, TenantId,
};

use super::*;

fn trust(roots: &[u8], lists: &[u8]) -> Arc<ClientTrust> {
    let der = |bytes: &[u8]| bytes.iter().map(|byte| Arc::from([*byte].as_slice())).collect();
    Arc::new(ClientTrust {
        roots: der(roots),
        revocations: der(lists),
        signers: vec![Vec::new(); lists.len()],
        subjects: Vec::new(),
        generation: Arc::from(format!("{roots:?}{lists:?}")),
    })
}

fn certificate(key: u8) -> Arc<Certificate> {
    Arc::new(Certificate {
        name: Arc::from("c"),
        chain: vec![Arc::from([key].as_slice())],
        key: PrivateKey { encoding: KeyEncoding::Pkcs8, der: Secret::new(vec![key]) },
        ip_names: Vec::new(),
        dns_names: Vec::new(),
        subject: Arc::from(""),
        issuer: Arc::from(""),
        key_type: Arc::from(""),
        not_before: 0,
        not_after: 0,
        fingerprint: Arc::from(""),
        origin: Origin::default(),
        chain_file: PathBuf::new(),
        key_file: PathBuf::new(),
    })
}

fn listener(change: impl FnOnce(&mut Listener, &mut ServerTls)) -> Listener {
    let address: IpAddr = [127, 0, 0, 2].into();
    let mut listener = Listener {
        tenant: TenantId::new("a").unwrap(),
        address: IngressAddress(address),
        port: 443,
        bind: (address, 443).into(),
        names: None,
        allowed_sources: None,
        service: Service::PassThrough(Vec::new().into()),
        hosts_apis: false,
        acme: durward_model::Acme::default(),
        takes_ingresses: false,
        origin: Origin::default(),
    };
    let mut tls = ServerTls {
        certificates: vec![certificate(1)],
        client_auth: ClientAuth::Required(trust(&[1, 2], &[1])),
        tls13_only: false,
        alpn: Vec::new(),
    };
    change(&mut listener, &mut tls);
    listener.service = Service::Tcp(TcpService { tls: Some(tls), upstreams: Vec::new() });
    listener
}

fn challenge() -> durward_model::Acme {
    let answer =
        durward_model::acme::Answer::Http { token: "token".into(), text: "token.thumb".into() };
    durward_model::Acme { orders: Vec::new(), answers: vec![answer] }
}

fn with_auth(auth: ClientAuth) -> Listener {
    listener(|_, tls| tls.client_auth = auth)
}

fn sources(blocks: &[&str]) -> SourceSet {
    SourceSet::new(blocks.iter().map(|block| block.parse().unwrap()))
}

fn from(blocks: &[&str]) -> Listener {
    listener(|listener, _| listener.allowed_sources = Some(sources(blocks)))
}

// S1.56 S1.67
#[test]
fn what_no_longer_permits_a_connection_ends_it_and_a_new_certificate_does_not() {
    let usual = || listener(|_, _| ());
    let required =
        |roots: &[u8], lists: &[u8]| with_auth(ClientAuth::Required(trust(roots, lists)));
    let optional = || with_auth(ClientAuth::Optional(trust(&[1, 2], &[1])));
    let off = || with_auth(ClientAuth::Off);
    let moved = listener(|listener, _| listener.tenant = TenantId::new("b").unwrap());
    let cases = [
        ("nothing", usual(), usual(), Fate::Keep),
        (
            "certificate",
            usual(),
            listener(|_, tls| tls.certificates = vec![certificate(2)]),
            Fate::Keep,
        ),
        ("challenge", usual(), listener(|listener, _| listener.acme = challenge()), Fate::Keep),
        ("TLS 1.3 only", usual(), listener(|_, tls| tls.tls13_only = true), Fate::Change),
        ("tenant", usual(), moved, Fate::Remove),
        ("any source to some", usual(), from(&["192.0.2.0/24"]), Fate::Renew),
        ("some sources to any", from(&["192.0.2.0/24"]), usual(), Fate::Renew),
        ("fewer sources", from(&["192.0.2.0/24"]), from(&["192.0.2.0/25"]), Fate::Renew),
        ("more sources", from(&["192.0.2.0/25"]), from(&["192.0.2.0/24"]), Fate::Renew),
        ("authority added", usual(), required(&[1, 2, 3], &[1]), Fate::Renew),
        ("authority removed", usual(), required(&[2], &[1]), Fate::Change),
        ("revocation list", usual(), required(&[1, 2], &[2]), Fate::Change),
        ("required to optional", usual(), optional(), Fate::Change),
        ("required to off", usual(), off(), Fate::Change),
        ("optional to required", optional(), usual(), Fate::Remove),
        ("off to required", off(), usual(), Fate::Remove),
        ("off to optional", off(), optional(), Fate::Change),
    ];

    for (change, old, new, fate) in cases {
        assert_eq!(of_listener(&old, &new), fate, "{change}");
    }
}

/// Returns the digest of what certificates are judged by after a change.
fn judged_by(old: &Listener, new: &Listener) -> Option<Arc<str>> {
    narrowed(old, new).into_iter().find_map(|narrowing| match narrowing {
        Narrowing::Certificates(trusted) => Some(trusted.generation),
        _ => None,
    })
}

// S1.56+
#[test]
fn certificates_are_judged_anew_where_an_authority_goes_or_lists_are_others() {
    let required =
        |roots: &[u8], lists: &[u8]| with_auth(ClientAuth::Required(trust(roots, lists)));
    let usual = required(&[1, 2], &[1]);
    let optional = with_auth(ClientAuth::Optional(trust(&[2], &[1])));
    let cases = [
        ("authority added", required(&[1, 2, 3], &[1]), None),
        ("authority removed", required(&[2], &[1]), Some("[2][1]")),
        ("revocation list", required(&[1, 2], &[2]), Some("[1, 2][2]")),
        ("authority removed, and optional", optional, Some("[2][1]")),
        ("off", with_auth(ClientAuth::Off), None),
    ];

    for (change, new, expected) in cases {
        assert_eq!(judged_by(&usual, &new).as_deref(), expected, "{change}");
    }
}

fn hosting(api: Option<HostedApi>, any_name: bool) -> Listener {
    let route = |api: HostedApi| SniRoute {
        hosts: api.names.iter().filter(|_| !any_name).cloned().collect(),
        upstreams: Vec::new(),
        hosted: Some(Arc::new(api)),
        origin: Origin::default(),
    };
    let routes: Vec<_> = api.into_iter().map(route).collect();
    Listener { service: Service::PassThrough(routes.into()), ..listener(|_, _| ()) }
}

fn api(names: &[&str], blocks: Option<&[&str]>) -> HostedApi {
    let exact = |name: &&str| HostPattern::Exact(Arc::from(*name));
    HostedApi {
        name: Arc::from("t1"),
        names: ServerNames::new(names.iter().map(exact).collect()),
        allowed_sources: blocks.map(sources),
        relay: None,
        origin: Origin::default(),
    }
}

// S4.66+
#[test]
fn a_hosted_api_that_is_narrower_leaves_these_clients() {
    let usual = || api(&["a", "b"], None);
    let (block, names) = (["192.0.2.0/24"], ["a", "b"]);
    let these = |sources, names| Left::These { sources, names, proxies: None };
    let cases = [
        ("nothing", Some(usual()), None),
        ("a name more", Some(api(&["a", "b", "c"], None)), None),
        ("a name less", Some(api(&["a"], None)), Some(these(None, Some(api(&["a"], None).names)))),
        ("sources", Some(api(&names, Some(&block))), Some(these(Some(sources(&block)), None))),
        ("gone", None, Some(Left::Nobody)),
        ("renamed", Some(HostedApi { name: Arc::from("t2"), ..usual() }), Some(Left::Nobody)),
    ];

    for (change, new, expected) in cases {
        let found = narrowed(&hosting(Some(usual()), false), &hosting(new, false));
        let expected = expected.map(|left| Narrowing::Hosted(Arc::from("t1"), left));
        assert_eq!(found, Vec::from_iter(expected), "{change}");
    }
    let any_name = |api| hosting(Some(api), true);
    assert_eq!(narrowed(&any_name(usual()), &any_name(api(&["c"], None))), []);
    assert_eq!(
        narrowed(&any_name(usual()), &listener(|_, _| ())),
        [Narrowing::Hosted(Arc::from("t1"), Left::Nobody)],
        "another protocol"
    );
}

#[test]
fn sources_that_admit_fewer_clients_are_told_from_others() {
    let whole = ["192.0.2.0/24"];
    let halves = ["192.0.2.0/25", "192.0.2.128/25"];
    let more = ["192.0.2.0/24", "198.51.100.0/24"];
    let any = listener(|_, _| ());
    let cases = [
        ("any to some", any.clone(), from(&whole), true),
        ("some to any", from(&whole), any, false),
        ("to a half", from(&whole), from(&halves[..1]), true),
        ("to its halves", from(&whole), from(&halves), false),
        ("from its halves", from(&halves), from(&whole), false),
        ("to more", from(&whole), from(&more), false),
        ("to less", from(&more), from(&whole), true),
    ];

    for (change, old, new, narrower) in cases {
        let found = narrowed(&old, &new);
        let sources = new.allowed_sources.clone().filter(|_| narrower);
        let expected: Vec<_> = sources.into_iter().map(Narrowing::Sources).collect();
        assert_eq!(found, expected, "{change}");
    }
}

#[test]
fn a_tenant_that_loses_an_address_loses_its_connections() {
    let tenant = |egress: &[u8], limits: Limits| Tenant {
        id: TenantId::new("a").unwrap(),
        egress: egress.iter().map(|last| EgressAddress([127, 0, 0, *last].into())).collect(),
        upstreams: Vec::new(),
        listeners: vec![Arc::new(listener(|_, _| ()))],
        transparent: Vec::new(),
        limits,
        origin: Origin::default(),
    };
    let usual = || tenant(&[2, 3], Limits::default());
    let limited = tenant(&[2, 3], Limits { connections: Some(7), ..Limits::default() });
    let mut other_listeners = usual();
    other_listeners.listeners.clear();

    assert_eq!(of_tenant(&usual(), &usual()), Fate::Keep);
    assert_eq!(of_tenant(&usual(), &other_listeners), Fate::Keep);
    assert_eq!(of_tenant(&usual(), &limited), Fate::Renew);
    assert_eq!(of_tenant(&usual(), &tenant(&[2, 3, 4], Limits::default())), Fate::Renew);
    let fewer_streams = tenant(&[2, 3], Limits { http2_streams: 7, ..Limits::default() });
    assert_eq!(of_tenant(&usual(), &fewer_streams), Fate::Change);
    assert_eq!(of_tenant(&usual(), &tenant(&[3], Limits::default())), Fate::Remove);
}

#[test]
fn a_peer_that_is_no_longer_believed_loses_what_it_brought() {
    let header = |trusted: &[&str]| DestinationMode::ProxyProtocol {
        trusted: sources(trusted),
        inner: false,
    };
    let cases = [
        (DestinationMode::Bound, DestinationMode::Port, Fate::Keep),
        (header(&["192.0.2.0/25"]), header(&["192.0.2.0/24"]), Fate::Keep),
        (header(&["192.0.2.0/24"]), header(&["192.0.2.0/25"]), Fate::Remove),
        (header(&["192.0.2.0/24"]), DestinationMode::Bound, Fate::Remove),
        (DestinationMode::Bound, header(&["192.0.2.0/24"]), Fate::Remove),
    ];
    for (old, new, fate) in cases {
        assert_eq!(of_mode(&old, &new), fate, "{old:?} to {new:?}");
    }
}
