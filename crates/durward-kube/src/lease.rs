//! A Lease, which one of several gateways holds: the one that writes statuses.
//!
//! The holder is decided by a pure step. No clock is compared with another's: a holder counts as gone when its Lease has not changed for its duration by our own clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::request::{self, ApiError};
use crate::resource_type::LEASES;

/// Name and duration of a Lease.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// Name of the Lease.
    pub name: Arc<str>,
    /// Namespace that it is in.
    pub namespace: Arc<str>,
    /// Name of this process, which no other has.
    pub identity: Arc<str>,
    /// Time after which a holder counts as gone; at least a second.
    pub duration: Duration,
}

/// Right of this process to write, as it is known at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tenure {
    /// Another has it, or nobody knows.
    None,
    /// The right ends at this moment, unless it is renewed: a process that was stopped meanwhile finds it over when it goes on.
    Until(Instant),
    /// There is no Lease to hold.
    Always,
}

impl Tenure {
    fn holds(self) -> bool {
        match self {
            Self::None => false,
            Self::Until(end) => Instant::now() < end,
            Self::Always => true,
        }
    }
}

/// Right of this process to write statuses, which comes and goes with a Lease.
#[derive(Clone, Debug)]
pub struct MayWrite(watch::Receiver<Tenure>);

impl MayWrite {
    pub(crate) fn new(tenure: watch::Receiver<Tenure>) -> Self {
        Self(tenure)
    }

    /// Waits until this process may write.
    pub(crate) async fn granted(&mut self) {
        let granted = self.0.wait_for(|tenure| tenure.holds()).await.is_ok();
        // A right that held when its giver ended is lost at once, so it must not be granted again.
        if !granted || self.0.has_changed().is_err() {
            std::future::pending().await
        }
    }

    /// Waits until this process may not write any more.
    pub(crate) async fn lost(&mut self) {
        loop {
            let tenure = *self.0.borrow_and_update();
            let end = match tenure {
                _ if !tenure.holds() => return,
                Tenure::Until(end) => Some(end),
                _ => None,
            };
            tokio::select! {
                changed = self.0.changed() => if changed.is_err() { return },
                () = until(end) => {}
            }
        }
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Claim of this process to a Lease.
#[derive(Clone)]
pub struct Lease {
    shared: Arc<Shared>,
}

struct Shared {
    client: kube::Client,
    options: LeaseOptions,
    /// The Lease as this process wrote it last, if it holds it.
    held: Mutex<Option<Held>>,
}

#[derive(Clone, Debug)]
struct Held {
    version: Arc<str>,
    transitions: u64,
}

/// A Lease as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    holder: Arc<str>,
    version: Arc<str>,
    transitions: u64,
}

/// Next action on a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// There is none: make it.
    Create,
    /// It is ours, or was let go, or its holder is gone: write our name into this version.
    Take,
    /// Another holds it.
    Wait,
}

/// Observed state of a Lease.
#[derive(Default)]
struct Election {
    /// Version of another's Lease, and since when it is that one.
    unchanged: Option<(Arc<str>, Instant)>,
}

impl Election {
    fn step(&mut self, lease: Option<&Seen>, options: &LeaseOptions, now: Instant) -> Step {
        let Some(seen) = lease else { return Step::Create };
        if seen.holder == options.identity || seen.holder.is_empty() {
            return Step::Take;
        }
        match &self.unchanged {
            Some((version, since)) if *version == seen.version => {
                let is_gone = now.saturating_duration_since(*since) >= options.duration;
                if is_gone { Step::Take } else { Step::Wait }
            }
            _ => {
                self.unchanged = Some((Arc::clone(&seen.version), now));
                Step::Wait
            }
        }
    }
}

#[derive(Deserialize)]
struct Read {
    metadata: ReadMetadata,
    #[serde(default)]
    spec: ReadSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadMetadata {
    resource_version: Arc<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadSpec {
    #[serde(default)]
    holder_identity: Option<Arc<str>>,
    #[serde(default)]
    lease_transitions: Option<u64>,
}

impl Lease {
    /// Builds the claim.
    pub(crate) fn new(client: kube::Client, options: LeaseOptions) -> Self {
        Self { shared: Arc::new(Shared { client, options, held: Mutex::default() }) }
    }

    /// Claims the Lease for ever, and says for how long it is held. A process that may not use Leases reports it once and counts as holder: it may be the only one.
    pub(crate) async fn claim(self, says: watch::Sender<Tenure>) {
        let mut election = Election::default();
        let mut is_warned = false;
        let options = self.shared.options.clone();
        loop {
            let begun = Instant::now();
            match self.attempt(&mut election).await {
                Ok(true) => {
                    // The right ends before another process counts this one as gone.
                    says.send_replace(Tenure::Until(begun + options.duration * 2 / 3));
                }
                Ok(false) => {
                    says.send_replace(Tenure::None);
                }
                Err(ApiError::Forbidden(why) | ApiError::NotFound(why)) => {
                    if !std::mem::replace(&mut is_warned, true) {
                        tracing::warn!(
                            why,
                            "no Lease can be used: statuses are written without asking whether another gateway writes them"
                        );
                    }
                    says.send_replace(Tenure::Always);
                }
                // A right that is held ends by itself.
                Err(error) => tracing::debug!(%error, "the Lease was not renewed"),
            }
            sleep(options.duration / 3).await;
        }
    }

    /// Lets the Lease go, if this process holds it: another need not wait.
    ///
    /// # Errors
    /// Fails if the API server cannot be asked, or another has the Lease.
    pub async fn release(&self) -> Result<(), ApiError> {
        let Some(held) = self.held().take() else { return Ok(()) };
        self.write("", Some(&held.version), held.transitions).await.map(drop)
    }

    /// Reads the Lease, and writes it where it may be taken. Returns whether it is held.
    async fn attempt(&self, election: &mut Election) -> Result<bool, ApiError> {
        let seen = self.read().await?;
        let options = &self.shared.options;
        let (version, transitions) = match election.step(seen.as_ref(), options, Instant::now()) {
            Step::Wait => {
                self.held().take();
                return Ok(false);
            }
            Step::Create => (None, 0),
            Step::Take => {
                let seen = seen.unwrap_or_default();
                let is_new = seen.holder != options.identity;
                (Some(seen.version), seen.transitions + u64::from(is_new))
            }
        };
        match self.write(&options.identity, version.as_deref(), transitions).await {
            Ok(version) => {
                *self.held() = Some(Held { version, transitions });
                Ok(true)
            }
            // Another was faster.
            Err(ApiError::Conflict(_)) => {
                self.held().take();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn read(&self) -> Result<Option<Seen>, ApiError> {
        let options = &self.shared.options;
        let path = LEASES.object_path("v1", Some(&options.namespace), &options.name);
        let bytes = match request::get(&self.shared.client, &path).await {
            Err(ApiError::NotFound(_)) => return Ok(None),
            bytes => bytes?,
        };
        let unreadable = |error: serde_json::Error| ApiError::Unreadable(error.to_string());
        let Read { metadata, spec } = serde_json::from_slice(&bytes).map_err(unreadable)?;
        Ok(Some(Seen {
            holder: spec.holder_identity.unwrap_or_default(),
            version: metadata.resource_version,
            transitions: spec.lease_transitions.unwrap_or_default(),
        }))
    }

    /// Writes the Lease in place of a version, or makes it; returns its new version.
    async fn write(
        &self,
        holder: &str,
        version: Option<&str>,
        transitions: u64,
    ) -> Result<Arc<str>, ApiError> {
        let LeaseOptions { name, namespace, duration, .. } = &self.shared.options;
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let mut body = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": name, "namespace": namespace },
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": duration.as_secs().max(1),
                "leaseTransitions": transitions,
                "renewTime": now,
            },
        });
        let (method, path) = match version {
            Some(version) => {
                body["metadata"]["resourceVersion"] = json!(version);
                (Method::PUT, LEASES.object_path("v1", Some(namespace), name))
            }
            None => (Method::POST, LEASES.path("v1", Some(namespace))),
        };
        let body = Bytes::from(body.to_string());
        let client = &self.shared.client;
        let answer = request::send(client, method, &path, "application/json", body).await?;
        let unreadable = |error: serde_json::Error| ApiError::Unreadable(error.to_string());
        let Read { metadata, .. } = serde_json::from_slice(&answer).map_err(unreadable)?;
        Ok(metadata.resource_version)
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> LeaseOptions {
        LeaseOptions {
            name: Arc::from("l"),
            namespace: Arc::from("n"),
            identity: Arc::from("me"),
            duration: Duration::from_secs(10),
        }
    }

    fn seen(holder: &str, version: &str) -> Seen {
        Seen { holder: Arc::from(holder), version: Arc::from(version), transitions: 0 }
    }

    #[test]
    fn a_lease_that_nobody_has_is_taken_and_our_own_is_renewed() {
        let (mut election, now) = (Election::default(), Instant::now());

        assert_eq!(election.step(None, &options(), now), Step::Create);
        assert_eq!(election.step(Some(&seen("", "1")), &options(), now), Step::Take);
        assert_eq!(election.step(Some(&seen("me", "2")), &options(), now), Step::Take);
    }

    #[test]
    fn anothers_lease_is_taken_only_when_it_has_not_changed_for_its_duration() {
        let (mut election, start) = (Election::default(), Instant::now());
        let mut at = |seconds: u64, version: &str| {
            let now = start + Duration::from_secs(seconds);
            election.step(Some(&seen("other", version)), &options(), now)
        };

        assert_eq!(at(0, "1"), Step::Wait);
        assert_eq!(at(9, "1"), Step::Wait);
        assert_eq!(at(9, "2"), Step::Wait, "it was renewed");
        assert_eq!(at(18, "2"), Step::Wait);
        assert_eq!(at(19, "2"), Step::Take);
    }
}
