//! Random squid.conf files against a small model of Squid: the first `http_access` line that matches decides, the first `tcp_outgoing_address`
//! line of the destination's family that matches gives the address.
//!
//! The documents never send a request from another address than Squid does, and differ in no other way without a note.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use durward_control::Compiled;
use durward_migrate::squid::{SquidFault, SquidOptions, migrate};
use durward_migrate::{Effect, Migrated};
use durward_model::egress::{Asked, Host, NO_HOST, Neighbours, Outcome, Surroundings};
use durward_model::{Listener, Service};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::TestCaseError;

use crate::squid::{Texts, compiled};

/// An access list: its name, type and values.
#[derive(Clone, Copy, Debug)]
struct List {
    name: &'static str,
    kind: &'static str,
    values: &'static [&'static str],
}

const fn list(name: &'static str, kind: &'static str, values: &'static [&'static str]) -> List {
    List { name, kind, values }
}

const LISTS: &[List] = &[
    list("all", "src", &["0.0.0.0/0"]),
    list("staff", "src", &["10.0.0.0/8"]),
    list("dept", "src", &["10.1.0.0/16", "192.168.7.0/24"]),
    list("desk", "src", &["10.1.2.0-10.1.2.63"]),
    list("nobody", "src", &[]),
    list("pa", "myportname", &["pa"]),
    list("pb", "localport", &["3129"]),
    list("second", "localip", &["172.16.28.9"]),
    list("ann", "proxy_auth", &["ann"]),
    list("users", "proxy_auth", &["REQUIRED"]),
    list("site", "dstdomain", &[".example.com", "pay.example"]),
    list("www", "dstdomain", &["www.example.com", ".other.example"]),
    list("none", "dstdomain", &[]),
    list("bank", "dst", &["198.51.100.0/24"]),
    list("vault", "dst", &["198.51.100.128/25", "192.0.2.0/24"]),
    list("safe", "port", &["80", "443", "1025-65535"]),
    list("tls", "port", &["443"]),
    list("CONNECT", "method", &["CONNECT"]),
    list("reads", "method", &["GET", "HEAD"]),
    list("night", "time", &["22:00-23:59"]),
];

const DOORS: &[(&str, u16, &str)] =
    &[("172.16.28.8", 3128, "pa"), ("172.16.28.8", 3129, "pb"), ("172.16.28.9", 3128, "pc")];
const OUT: &[&str] = &["203.0.113.2", "203.0.113.3", "2001:db8::4"];
/// The address of clients that no line is for.
const REST: &str = "203.0.113.9";

/// A line: its first word, and the lists it names, some of them negated.
#[derive(Clone, Debug)]
struct Rule {
    word: &'static str,
    tests: Vec<(bool, &'static List)>,
}

#[derive(Clone, Debug)]
struct Config {
    access: Vec<Rule>,
    outgoing: Vec<Rule>,
}

impl Config {
    fn text(&self) -> String {
        let mut text = String::new();
        for (address, port, name) in DOORS {
            let _ = writeln!(text, "http_port {address}:{port} name={name}");
        }
        for list in LISTS.iter().filter(|list| !matches!(list.name, "all" | "CONNECT")) {
            let _ = writeln!(text, "acl {} {} {}", list.name, list.kind, list.values.join(" "));
        }
        for (directive, rules) in
            [("http_access", &self.access), ("tcp_outgoing_address", &self.outgoing)]
        {
            for rule in rules {
                let _ = write!(text, "{directive} {}", rule.word);
                for (not, list) in &rule.tests {
                    let _ = write!(text, " {}{}", if *not { "!" } else { "" }, list.name);
                }
                text.push('\n');
            }
        }
        text
    }
}

/// Who asks for what, and the time of day.
#[derive(Clone, Debug)]
struct Request {
    client: IpAddr,
    door: (&'static str, u16, &'static str),
    user: Option<&'static str>,
    method: &'static str,
    host: &'static str,
    port: u16,
    address: IpAddr,
    night: bool,
}

/// What Squid does: the address it leaves from, or nothing. `None` inside means the address the host chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Denied,
    Leaves(Option<IpAddr>),
}

/// Squid asks the client for credentials and decides nothing else.
struct Challenge;

impl Request {
    fn is_in(&self, list: &List) -> Result<bool, Challenge> {
        let net = |address: IpAddr| {
            list.values.iter().any(|value| match value.split_once('-') {
                Some((from, to)) => {
                    from.parse::<IpAddr>().unwrap() <= address
                        && address <= to.parse::<IpAddr>().unwrap()
                }
                None => value.parse::<IpNet>().unwrap().contains(&address),
            })
        };
        Ok(match list.kind {
            "src" => list.name == "all" || net(self.client),
            "dst" => net(self.address),
            "myportname" => list.values.contains(&self.door.2),
            "localport" => list.values.contains(&&*self.door.1.to_string()),
            "localip" => list.values.contains(&self.door.0),
            "proxy_auth" => match self.user {
                None => return Err(Challenge),
                Some(user) => {
                    list.values.iter().any(|value| *value == "REQUIRED" || *value == user)
                }
            },
            "dstdomain" => list.values.iter().any(|value| match value.strip_prefix('.') {
                Some(parent) => self.host == parent || self.host.ends_with(value),
                None => self.host == *value,
            }),
            "port" => list.values.iter().any(|value| {
                let (from, to) = value.split_once('-').unwrap_or((value, value));
                (from.parse().unwrap()..=to.parse().unwrap()).contains(&self.port)
            }),
            "method" => list.values.contains(&self.method),
            "time" => self.night,
            other => panic!("{other}"),
        })
    }

    fn matches(&self, rule: &Rule) -> Result<bool, Challenge> {
        for (not, list) in &rule.tests {
            if self.is_in(list)? == *not {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn squid(&self, config: &Config) -> Answer {
        let mut allowed = config.access.last().is_some_and(|last| last.word == "deny");
        for rule in &config.access {
            match self.matches(rule) {
                Ok(true) => {
                    allowed = rule.word == "allow";
                    break;
                }
                Ok(false) => {}
                Err(Challenge) => return Answer::Denied,
            }
        }
        if !allowed {
            return Answer::Denied;
        }
        let mut addresses = config.outgoing.iter().filter_map(|rule| {
            let address: IpAddr = rule.word.parse().unwrap();
            let fits = address.is_ipv4() == self.address.is_ipv4();
            (fits && self.matches(rule).is_ok_and(|matches| matches)).then_some(address)
        });
        Answer::Leaves(addresses.next())
    }

    /// What the documents do. `Err` when two tenants could take the client.
    fn here(&self, compiled: &Compiled) -> Result<Answer, String> {
        let doors: Vec<&Arc<Listener>> = compiled
            .snapshot
            .tenants
            .values()
            .flat_map(|tenant| &tenant.listeners)
            .filter(|listener| self.comes_in(listener))
            .collect();
        let listener = match &*doors {
            [] => return Ok(Answer::Denied),
            [one] => one,
            more => return Err(format!("{self:?} is the client of {} tenants", more.len())),
        };
        let Service::Forward(service) = &listener.service else { return Err("no proxy".into()) };
        let tenant = compiled.snapshot.tenants.values().find(|known| known.id == listener.tenant);
        let tenant = tenant.unwrap();
        let own: Vec<IpAddr> = tenant.egress.iter().map(|address| address.0).collect();
        let own: Vec<&IpAddr> =
            own.iter().filter(|own| own.is_ipv4() == self.address.is_ipv4()).collect();
        let host = Host::parse(self.host).unwrap();
        let method = (self.method != "CONNECT").then_some(self.method);
        let asked = Asked { host: &host, port: self.port, method };
        let neighbours = Neighbours::of(&compiled.snapshot);
        let around = Surroundings { tenant: &tenant.id, neighbours: &neighbours, host: &NO_HOST };
        let decided = service.policy.before_lookup(asked);
        let decided =
            decided.unwrap_or_else(|| service.policy.decide(around, asked, &[self.address]));
        match (decided.outcome, &*own) {
            (Outcome::Allow, [one]) => Ok(Answer::Leaves(Some(**one))),
            (Outcome::Allow, []) | (Outcome::Deny | Outcome::Report, _) => Ok(Answer::Denied),
            (Outcome::Allow, more) => Err(format!("{} addresses of one family", more.len())),
        }
    }

    fn comes_in(&self, listener: &Listener) -> bool {
        let Service::Forward(service) = &listener.service else { return false };
        let sources = listener.allowed_sources.as_ref();
        let known = |user: &str| service.credentials.iter().any(|one| &*one.name == user);
        listener.address.0.to_string() == self.door.0
            && listener.port == self.door.1
            && sources.is_none_or(|sources| sources.contains(self.client))
            && (service.credentials.is_empty() || self.user.is_some_and(known))
    }
}

fn rule(word: &'static str, lists: Vec<&'static List>) -> impl Strategy<Value = Rule> {
    let count = lists.len();
    (subsequence(lists, 0..=2.min(count)), any::<[bool; 2]>(), any::<[bool; 2]>()).prop_map(
        move |(lists, one, two)| {
            // One in four is negated.
            let tests = lists.into_iter().enumerate();
            let tests = tests.map(|(at, list)| (one[at] && two[at], list)).collect();
            Rule { word, tests }
        },
    )
}

fn config(lists: &'static [&'static str]) -> impl Strategy<Value = Config> {
    let chosen = move || -> Vec<&'static List> {
        LISTS.iter().filter(|list| lists.contains(&list.name)).collect()
    };
    let access = prop_oneof![rule("allow", chosen()), rule("deny", chosen())];
    let access = prop::collection::vec(access, 1..7);
    let outgoing = select(OUT).prop_flat_map(move |word| rule(word, chosen()));
    let outgoing = prop::collection::vec(outgoing, 0..4);
    (access, outgoing, any::<bool>()).prop_map(|(mut access, outgoing, closed)| {
        if closed {
            access.push(Rule { word: "deny", tests: vec![(false, &LISTS[0])] });
        }
        Config { access, outgoing }
    })
}

fn request() -> impl Strategy<Value = Request> {
    const CLIENTS: &[&str] =
        &["10.1.2.9", "10.1.9.9", "10.9.9.9", "192.168.7.7", "198.18.0.7", "2001:db8:1::7"];
    const HOSTS: &[&str] = &[
        "example.com",
        "www.example.com",
        "a.www.example.com",
        "pay.example",
        "x.pay.example",
        "x.other.example",
        "unlisted.test",
        "198.51.100.7",
    ];
    const ADDRESSES: &[&str] =
        &["198.51.100.7", "198.51.100.200", "192.0.2.7", "8.8.4.4", "2001:4860::8844"];
    let names = (select(&HOSTS[..7]), select(ADDRESSES));
    let target = prop_oneof![4 => names, 1 => Just((HOSTS[7], "198.51.100.7"))];
    (
        select(CLIENTS),
        select(DOORS),
        select(&[None, Some("ann"), Some("ben")][..]),
        select(&["CONNECT", "GET", "POST", "PROPFIND"][..]),
        target,
        select(&[80, 443, 22, 8443][..]),
        any::<bool>(),
    )
        .prop_map(|(client, door, user, method, (host, address), port, night)| Request {
            client: client.parse().unwrap(),
            door,
            user,
            method,
            host,
            port,
            address: address.parse().unwrap(),
            night,
        })
}

/// The notes that say that something is so, by effect.
fn counts(migrated: &Migrated) -> BTreeMap<Effect, usize> {
    let mut counts = BTreeMap::new();
    for note in &migrated.notes {
        *counts.entry(note.effect).or_default() += 1;
    }
    counts
}

fn agrees(config: &Config, requests: &[Request]) -> Result<(), TestCaseError> {
    let text = config.text();
    let options = SquidOptions { addresses: Vec::new(), egress: vec![REST.parse().unwrap()] };
    // The users are known: ann, whom a list names, and ben, whom none does.
    let files = Texts(vec![("/passwd", "ann:x\nben:x\n".to_owned())]);
    let text = format!("auth_param basic program /auth /passwd\n{text}");
    let migrated = match migrate("squid.conf", &text, &options, &files) {
        Ok(migrated) => migrated,
        Err(SquidFault::NoClient) => Migrated::default(),
        Err(fault) => return Err(TestCaseError::fail(format!("{fault}\n{text}"))),
    };
    let compiled = compiled(&migrated);
    prop_assert!(compiled.verdicts.all_accepted(), "{:#?}\n{text}", compiled.verdicts);
    let counts = counts(&migrated);
    let said = |effect| counts.contains_key(&effect);
    for request in requests {
        let squid = request.squid(config);
        let here = request.here(&compiled).map_err(TestCaseError::fail)?;
        let rest = REST.parse::<IpAddr>().unwrap();
        let fault = || {
            format!(
                "{request:?}\nSquid: {squid:?}\nhere: {here:?}\n{text}\n{:#?}\n{:#?}",
                migrated.notes, migrated.documents
            )
        };
        match (squid, here) {
            (Answer::Denied, Answer::Denied) => {}
            (Answer::Denied, Answer::Leaves(_)) => prop_assert!(said(Effect::Wider), "{}", fault()),
            (Answer::Leaves(from), Answer::Denied) => {
                // The reference says it once for all: without an IPv6 address nothing goes to one.
                let without_v6 = config.outgoing.iter().all(|rule| !rule.word.contains(':'));
                let documented = request.address.is_ipv6() && from.is_none() && without_v6;
                let named = said(Effect::Narrower) || said(Effect::OtherAddress);
                prop_assert!(named || documented, "{}", fault());
            }
            (Answer::Leaves(from), Answer::Leaves(own)) => {
                prop_assert_eq!(Some(from.unwrap_or(rest)), own, "{}", fault());
            }
        }
    }
    Ok(())
}

/// Lists that documents can say the same of.
const EXACT: &[&str] = &["all", "staff", "dept", "desk", "nobody", "pa", "pb", "second"];
const DESTINATIONS: &[&str] = &[
    "all", "staff", "dept", "pa", "site", "www", "none", "bank", "vault", "safe", "tls", "CONNECT",
    "reads", "night",
];
const EVERYTHING: &[&str] = &[
    "all", "staff", "dept", "desk", "nobody", "pa", "pb", "second", "ann", "users", "site", "www",
    "none", "bank", "vault", "safe", "tls", "CONNECT", "reads", "night",
];

fn requests() -> impl Strategy<Value = Vec<Request>> {
    prop::collection::vec(request(), 120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    // S2.15+
    #[test]
    fn no_request_leaves_from_another_address_than_squids(
        config in config(EVERYTHING),
        requests in requests(),
    ) {
        agrees(&config, &requests)?;
    }

    #[test]
    fn destinations_are_judged_as_squid_does_or_a_note_says_so(
        config in config(DESTINATIONS),
        requests in requests(),
    ) {
        agrees(&config, &requests)?;
    }

    #[test]
    fn clients_that_lists_tell_apart_are_told_apart_without_a_difference(
        config in config(EXACT),
        requests in requests(),
    ) {
        agrees(&config, &requests)?;
        let text = config.text();
        let options = SquidOptions { addresses: Vec::new(), egress: vec![REST.parse().unwrap()] };
        if let Ok(migrated) = migrate("squid.conf", &text, &options, &Texts(Vec::new())) {
            let worse = migrated.notes.iter().filter(|note| note.effect <= Effect::Wider);
            prop_assert_eq!(worse.count(), 0, "{:?}\n{}", migrated.notes, text);
        }
    }
}
