//! Thread that queries DNS servers, so that lookups do not depend on any core's runtime.
//!
//! IPv6 and IPv4 are asked for at once. An answer for one family is used after a short delay, and the other family is added when it arrives (RFC 8305
//! section 3): a server that drops AAAA queries must not cost the A answer. The cache in `resolve` is the only one.

mod servers;

use std::fs;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::sync::mpsc;

use super::{Answer, Memory, Source};
use servers::{FamilyAnswer, Servers};

/// Files that the host's answers depend on.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Resolution Delay of RFC 8305: the wait of one family's answer for the other's.
const GRACE: Duration = Duration::from_millis(50);

/// Further wait for the other family's answer, while the first one is used already.
const LATE: Duration = Duration::from_secs(2);

/// Starts the thread; it ends when the last sender is dropped.
pub(super) fn start(source: Source, memory: Arc<Memory>) -> mpsc::UnboundedSender<Arc<str>> {
    let (sender, questions) = mpsc::unbounded_channel();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(serve(source, memory, questions)),
            Err(error) => tracing::error!(%error, "the resolver has no runtime"),
        }
    };
    if let Err(error) = std::thread::Builder::new().name("durward-resolver".to_owned()).spawn(work)
    {
        tracing::error!(%error, "the resolver has no thread");
    }
    sender
}

async fn serve(
    source: Source,
    memory: Arc<Memory>,
    mut questions: mpsc::UnboundedReceiver<Arc<str>>,
) {
    let mut made: Option<(Arc<Servers>, Vec<Option<SystemTime>>)> = None;
    while let Some(host) = questions.recv().await {
        // All callers may have given up while the question was queued.
        if !memory.is_asked(&host) {
            continue;
        }
        let seen = FILES.map(|file| fs::metadata(file).and_then(|m| m.modified()).ok()).to_vec();
        if made.as_ref().is_none_or(|(_, before)| *before != seen) {
            made = match Servers::of(&source) {
                Ok(servers) => Some((Arc::new(servers), seen)),
                Err(error) => {
                    let _resolved = memory.answer(&host, Answer::Failed(error));
                    continue;
                }
            };
        }
        let Some((servers, _)) = &made else { continue };
        let (servers, answered, asked) =
            (Arc::clone(servers), Arc::clone(&memory), Arc::clone(&host));
        let task = tokio::spawn(async move {
            let answer = ask(&servers, &asked, &answered).await;
            let _resolved = answered.answer(&asked, answer);
        });
        memory.began(&host, task.abort_handle());
    }
}

/// Resolves a host: the hosts file, then each name that the search list makes of it. Both families are always those of one name.
async fn ask(servers: &Servers, host: &Arc<str>, memory: &Memory) -> Answer {
    if let Some((addresses, ttl)) = servers.in_hosts_file(host) {
        return Answer::Addresses(addresses, ttl);
    }
    let mut last = Answer::Nothing(None);
    for name in servers.names(host) {
        match both(servers, &name, |addresses, ttl| memory.early(host, addresses, ttl)).await {
            found @ Answer::Addresses(..) => return found,
            // The next name may still succeed after a failure, but if none does, the result is the failure.
            failed @ Answer::Failed(_) => last = failed,
            nothing => last = if matches!(last, Answer::Failed(_)) { last } else { nothing },
        }
    }
    last
}

/// Asks for both families of a name. `early` gets the addresses of one if the other's answer is late.
async fn both(servers: &Servers, name: &Name, early: impl FnOnce(Vec<IpAddr>, Duration)) -> Answer {
    let mut v6 = pin!(servers.ask(name, RecordType::AAAA));
    let mut v4 = pin!(servers.ask(name, RecordType::A));
    tokio::select! {
        found = &mut v6 => {
            let other = second(&found, v4, early).await;
            combine(found, other)
        }
        found = &mut v4 => {
            let other = second(&found, v6, early).await;
            combine(other, found)
        }
    }
}

/// Waits for the second family's answer, as long as it may take after the first.
async fn second(
    first: &FamilyAnswer,
    mut other: impl Future<Output = FamilyAnswer> + Unpin,
    early: impl FnOnce(Vec<IpAddr>, Duration),
) -> FamilyAnswer {
    let FamilyAnswer::Addresses(addresses, ttl) = first else { return other.await };
    if let Ok(found) = tokio::time::timeout(GRACE, &mut other).await {
        return found;
    }
    early(addresses.clone(), *ttl);
    let late = tokio::time::timeout(LATE, other).await;
    late.unwrap_or_else(|_| FamilyAnswer::Failed("no answer in time".to_owned()))
}

/// Combines the answers for both families, IPv6 first.
fn combine(v6: FamilyAnswer, v4: FamilyAnswer) -> Answer {
    match (v6, v4) {
        (FamilyAnswer::Addresses(mut all, ttl), FamilyAnswer::Addresses(more, other)) => {
            all.extend(more);
            Answer::Addresses(all, ttl.min(other))
        }
        (FamilyAnswer::Addresses(all, ttl), _) | (_, FamilyAnswer::Addresses(all, ttl)) => {
            Answer::Addresses(all, ttl)
        }
        (FamilyAnswer::Nothing { ttl, .. }, FamilyAnswer::Nothing { ttl: other, .. }) => {
            Answer::Nothing(ttl.into_iter().chain(other).min())
        }
        // NXDOMAIN denies the name, and with it both families; an empty answer denies one of them only.
        (FamilyAnswer::Nothing { ttl, denies_name: true }, _)
        | (_, FamilyAnswer::Nothing { ttl, denies_name: true }) => Answer::Nothing(ttl),
        (FamilyAnswer::Failed(cause), _) | (_, FamilyAnswer::Failed(cause)) => {
            Answer::Failed(cause)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_familys_answer_counts_whatever_became_of_the_other() {
        let ttl = Duration::from_secs(9);
        let found = || FamilyAnswer::Addresses(vec![IpAddr::from([192, 0, 2, 1])], ttl);
        let nothing = |denies_name| FamilyAnswer::Nothing { ttl: Some(ttl), denies_name };
        let failed = || FamilyAnswer::Failed("SERVFAIL".to_owned());

        for other in [nothing(false), nothing(true), failed()] {
            let there =
                matches!(combine(other, found()), Answer::Addresses(one, _) if one.len() == 1);
            assert!(there);
        }
        assert!(matches!(combine(found(), found()), Answer::Addresses(two, _) if two.len() == 2));
        assert!(matches!(combine(nothing(false), nothing(false)), Answer::Nothing(Some(_))));
        assert!(matches!(combine(nothing(false), failed()), Answer::Failed(_)));
        assert!(matches!(combine(failed(), nothing(true)), Answer::Nothing(Some(_))));
        assert!(matches!(combine(failed(), failed()), Answer::Failed(_)));
    }
}
