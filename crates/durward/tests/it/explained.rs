//! `explain` against the gateway that serves the same snapshot: random worlds, random requests, one answer.
//!
//! A request's own line of the access log says what became of it; the origin says where it came from.

mod asking;
mod world;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use durward_model::explain::{Ending, Explanation, explain};
use durward_testkit::process::eventually;
use serde_json::Value;

use crate::gateway::Gateway;
use crate::isolation::Random;

use self::asking::{Asked, Seen, ask};
use self::world::World;

/// Requests to each world.
const REQUESTS: usize = 60;
const DEADLINE: Duration = Duration::from_secs(20);

/// What became of a request, as `explain` says it and as it was.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    tenant: Option<String>,
    route: Option<String>,
    ending: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Served { upstream: String, egress: Option<IpAddr> },
    Answered(u64),
    Refused(String),
}

/// What `explain` says. Of several addresses that it may leave from, the one it left from counts.
fn said(answer: &Explanation, asked: &Asked, left: Option<IpAddr>) -> Outcome {
    let route = answer.steps.iter().rev().find(|step| step.stage == "route");
    let route = route.and_then(|step| Some(step.sentence.split_once(" takes ")?.0.to_owned()));
    let asks = answer.steps.iter().any(|step| step.stage == "client certificate");
    // A question says that a certificate is shown, not whose it is.
    let stranger = asks && asked.shows == Some(world::STRANGER);
    let ending = match &answer.ending {
        _ if stranger => End::Refused("client_certificate_unknown_issuer".to_owned()),
        Ending::Served { upstream } => {
            let may = |egress: &IpAddr| answer.leaves_from.contains(&egress.to_string());
            End::Served { upstream: upstream.to_string(), egress: left.filter(may) }
        }
        Ending::ServedIf { condition, .. } => End::Refused(format!("only if {condition}")),
        Ending::Answered { status } => End::Answered(u64::from(*status)),
        Ending::Refused { reason } => End::Refused(reason.to_string()),
    };
    let refused = matches!(ending, End::Refused(_));
    let tenant = answer.tenant.as_deref().map(str::to_owned);
    Outcome { tenant, route: route.filter(|_| !refused), ending }
}

/// What happened.
fn happened(seen: &Seen, line: Option<&Value>) -> Outcome {
    let Some(line) = line else {
        let ending = End::Refused("tenant_not_found".to_owned());
        return Outcome { tenant: None, route: None, ending };
    };
    let text = |name: &str| line[name].as_str().map(str::to_owned);
    let ending = match (text("reason"), text("upstream"), &line["status"]) {
        (Some(reason), ..) if reason == "tls_handshake" => End::Refused(handshake(line)),
        // A client that has all it wanted need not wait for the end.
        (Some(reason), Some(upstream), _) if reason == "client_closed" => {
            End::Served { upstream, egress: seen.egress }
        }
        // It was let out; whether anybody answers is not a question of documents.
        (Some(reason), ..) if reason == "connect_failed" => {
            End::Served { upstream: "outside".to_owned(), egress: None }
        }
        (Some(reason), ..) => End::Refused(reason),
        (None, Some(upstream), _) => End::Served { upstream, egress: seen.egress },
        (None, None, status) => End::Answered(status.as_u64().unwrap_or_default()),
    };
    let route = text("route").filter(|_| !matches!(ending, End::Refused(_)));
    Outcome { tenant: text("tenant"), route, ending }
}

fn handshake(line: &Value) -> String {
    let detail = line["detail"].as_str().unwrap_or_default();
    let reason =
        detail.strip_prefix("TLS handshake failed: ").and_then(|rest| rest.split_once(':'));
    reason.map_or_else(|| detail.to_owned(), |(reason, _)| reason.to_owned())
}

/// Whether what happened is one of the things that an answer says, which does not know whose credential is shown.
fn is_left_open(answer: &Explanation, happened: &Outcome) -> bool {
    match (&answer.ending, &happened.ending) {
        (Ending::Served { upstream }, End::Served { upstream: by, egress })
        | (Ending::ServedIf { upstream, .. }, End::Served { upstream: by, egress }) => {
            let may = |egress: &IpAddr| answer.leaves_from.contains(&egress.to_string());
            **upstream == **by && egress.as_ref().is_none_or(may)
        }
        (Ending::ServedIf { .. }, End::Refused(_)) => answer.tenant.is_none(),
        (Ending::Refused { reason }, End::Refused(why)) => {
            reason.split(" or ").any(|one| one == why)
        }
        (Ending::Answered { status }, End::Answered(seen)) => u64::from(*status) == *seen,
        _ => false,
    }
}

/// The lines that connections left in the access log, by the client's end.
async fn lines_of(gateway: &Gateway, count: usize) -> HashMap<String, Value> {
    let written = eventually(DEADLINE, async || gateway.log().len() >= count).await;
    let lines = gateway.log();
    assert!(written && lines.len() == count, "{} lines of {count}: {lines:#?}", lines.len());
    let lines = lines.iter().map(|line| serde_json::from_str(line).expect("a line is JSON"));
    lines.map(|line: Value| (line["peer"].as_str().unwrap_or_default().to_owned(), line)).collect()
}

/// Returns how many requests were made, how many of them served, and those that went otherwise than explained.
async fn compare(seed: u64) -> (usize, usize, Vec<String>) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let world = World::new(&mut random, seed);
    let gateway = Gateway::prepare();
    world.write(gateway.dir());
    let gateway = gateway.start(&world.documents);
    let faults = gateway.findings();
    let known = ["is used by no", "no certificate of this entry is for it"];
    let faults = faults.iter().filter(|one| !known.iter().any(|known| one.contains(known)));
    let faults: Vec<_> = faults.collect();
    assert!(faults.is_empty(), "{faults:?}\n{}", world.documents);
    let (mut made, mut ends) = (Vec::new(), HashSet::new());
    for _ in 0..REQUESTS {
        let asked = Asked::random(&mut random, &world);
        let seen =
            tokio::time::timeout(DEADLINE, ask(&world, &asked, &mut ends)).await.expect("an end");
        made.push((asked, seen));
    }
    let heard = made.iter().filter(|(_, seen)| seen.client.is_some()).count();
    let lines = lines_of(&gateway, heard).await;

    let (snapshot, mut served, mut different) = (gateway.snapshot(), 0, Vec::new());
    for (asked, seen) in &made {
        let answer = explain(&snapshot, &asked.question());
        let line = seen.client.and_then(|client| lines.get(&client.to_string()));
        let (said, happened) = (said(&answer, asked, seen.egress), happened(seen, line));
        served += usize::from(matches!(happened.ending, End::Served { .. }));
        // A credential that is not valid for this client is no valid one.
        let is_nobody = happened.ending == End::Refused("proxy_authentication".to_owned());
        let unnamed = asked.unnamed().filter(|_| !is_nobody);
        let unnamed = unnamed.map(|question| explain(&snapshot, &question));
        if let Some(different_from) = unnamed.filter(|answer| !is_left_open(answer, &happened)) {
            different.push(format!(
                "world {seed}: without a name {different_from:?}\nhappened {happened:?}\n{asked:?}"
            ));
        }
        if said != happened {
            let steps = answer.steps.iter().map(|step| (&step.stage, &step.sentence));
            let steps: Vec<_> = steps.collect();
            different.push(format!(
                "world {seed}: said {said:?}\nhappened {happened:?}\n{asked:?}\n{steps:#?}\n{line:?}"
            ));
        }
    }
    assert_eq!(gateway.isolation_violations(), 0);
    if let Some(first) = different.first_mut() {
        first.push_str(&world.documents);
    }
    gateway.stop();
    (REQUESTS, served, different)
}

// S1.60+ S2.54+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_says_of_random_worlds_what_the_gateway_does() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (first, worlds) = (number("DURWARD_FIRST_WORLD", 1), number("DURWARD_WORLDS", 6));
    let (mut asked, mut served, mut different) = (0, 0, Vec::new());

    for seed in first..first + worlds {
        let (more, of_them, others) = compare(seed).await;
        asked += more;
        served += of_them;
        different.extend(others);
    }

    assert!(served * 5 > asked, "{served} of {asked} were served: that proves little");
    assert!(
        different.is_empty(),
        "{} of {asked} differ, the first:\n{}",
        different.len(),
        different.iter().take(6).map(String::as_str).collect::<Vec<_>>().join("\n\n")
    );
}
