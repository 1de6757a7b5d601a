//! One operator acts at a time: whoever holds the Lease.
//!
//! The holder renews it several times in its duration, and stops acting by itself when it could not for
//! [`RENEW_SHARE`] of it. Everybody else takes it only once it was seen unchanged for all of its duration, by their own
//! clock: the holder has stopped by then, whatever the clocks of machines say. Each write names the version that was read,
//! so of two that take it at once one fails.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// Renewals in one duration.
const RENEWALS: u32 = 5;
/// Share of the duration, in thirds, after which a holder that could not renew has stopped.
pub const RENEW_SHARE: u32 = 2;
/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What to do about a Lease that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// It is free, runs out, or is ours: write our name.
    Take,
    /// Somebody else holds it: look again, at the latest after this time.
    Wait(Duration),
}

/// Decides about a Lease that was first seen as it is now `unchanged_for` ago.
fn decide(me: &str, spec: &LeaseSpec, unchanged_for: Duration) -> Decision {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder.is_empty() || holder == me {
        return Decision::Take;
    }
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
    match Duration::from_secs(seconds).checked_sub(unchanged_for) {
        Some(left) if !left.is_zero() => Decision::Wait(left),
        Some(_) | None => Decision::Take,
    }
}

/// Why a Lease could not be read or written.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no answer within {ANSWER_TIMEOUT:?}")]
    Timeout,
}

fn is_status(error: &LeaseError, code: u16) -> bool {
    matches!(error, LeaseError::Api(kube::Error::Api(status)) if status.code == code)
}

/// One operator's view of the Lease.
pub struct LeaseLock {
    api: Api<Lease>,
    name: String,
    identity: String,
    duration: Duration,
    /// Version last seen, and when it was seen first.
    seen: Option<(String, Instant)>,
    /// The Lease as it was written by this operator, and when the request for that began.
    held: Option<(Lease, Instant)>,
}

impl LeaseLock {
    /// Makes a view; nothing is read yet.
    pub fn new(
        client: kube::Client,
        namespace: &str,
        name: &str,
        identity: &str,
        duration: Duration,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration,
            seen: None,
            held: None,
        }
    }

    fn interval(&self) -> Duration {
        self.duration / RENEWALS
    }

    /// Waits until this operator holds the Lease. An API server that does not answer is asked again.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the Lease in this operator's name; it runs out.
    pub async fn acquire(&mut self) {
        let mut told = None;
        loop {
            let wait = match self.try_acquire().await {
                Ok(Decision::Take) => {
                    info!(lease = %self.name, holder = %self.identity, "lease taken");
                    return;
                }
                Ok(Decision::Wait(left)) => left,
                Err(error) => {
                    let text = error.to_string();
                    if told.as_ref() != Some(&text) {
                        warn!(lease = %self.name, error = %text, "lease could not be read or written");
                        told = Some(text);
                    }
                    self.interval()
                }
            };
            tokio::time::sleep(wait.min(self.interval())).await;
        }
    }

    /// Takes the Lease from whoever holds it, for `duration`.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn seize(&mut self, duration: Duration) -> anyhow::Result<()> {
        self.duration = duration;
        let current = self.read().await?;
        self.write(current.as_ref(), &self.identity.clone(), duration).await?;
        Ok(())
    }

    async fn try_acquire(&mut self) -> Result<Decision, LeaseError> {
        let current = self.read().await?;
        if let Some(lease) = &current {
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            let since = match &self.seen {
                Some((seen, since)) if *seen == version => *since,
                Some(_) | None => Instant::now(),
            };
            self.seen = Some((version, since));
            let spec = lease.spec.clone().unwrap_or_default();
            let decision = decide(&self.identity, &spec, since.elapsed());
            if decision != Decision::Take {
                return Ok(decision);
            }
        }
        match self.write(current.as_ref(), &self.identity.clone(), self.duration).await {
            Ok(()) => Ok(Decision::Take),
            // Somebody was faster.
            Err(error) if is_status(&error, 409) => Ok(Decision::Wait(self.interval())),
            Err(error) => Err(error),
        }
    }

    async fn read(&self) -> Result<Option<Lease>, LeaseError> {
        let read = tokio::time::timeout(ANSWER_TIMEOUT, self.api.get_opt(&self.name));
        Ok(read.await.map_err(|_| LeaseError::Timeout)??)
    }

    /// Writes the Lease over the version that was read, and keeps what was written.
    async fn write(
        &mut self,
        current: Option<&Lease>,
        holder: &str,
        duration: Duration,
    ) -> Result<(), LeaseError> {
        let began = Instant::now();
        let old = current.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let now = MicroTime(jiff::Timestamp::now());
        let same = old.holder_identity.as_deref() == Some(holder);
        let transitions = old.lease_transitions.unwrap_or(0);
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(duration.as_secs().max(1)).ok(),
            acquire_time: if same { old.acquire_time.clone() } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(if same { transitions } else { transitions.saturating_add(1) }),
            ..old
        };
        let metadata = current.map_or_else(
            || ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            |lease| ObjectMeta { managed_fields: None, ..lease.metadata.clone() },
        );
        let lease = Lease { metadata, spec: Some(spec) };
        let params = PostParams::default();
        let sent = async {
            match current {
                None => self.api.create(&params, &lease).await,
                Some(_) => self.api.replace(&self.name, &params, &lease).await,
            }
        };
        let written = tokio::time::timeout(ANSWER_TIMEOUT, sent).await.map_err(|_| LeaseError::Timeout)??;
        self.held = Some((written, began));
        Ok(())
    }

    /// Renews the Lease until it is lost, and returns why.
    ///
    /// # Cancel safety
    /// Dropping the future stops renewing: the Lease runs out.
    pub async fn keep(&mut self) -> String {
        loop {
            tokio::time::sleep(self.interval()).await;
            let Some((lease, renewed)) = self.held.clone() else { return "it was never held".to_owned() };
            let until = renewed + self.duration * RENEW_SHARE / 3;
            let renewal = tokio::time::timeout_at(until, self.renew(lease)).await;
            match renewal {
                Ok(Ok(())) => {}
                Ok(Err(Some(lost))) => return self.lost(lost),
                Ok(Err(None)) if Instant::now() < until => {}
                Ok(Err(None)) | Err(_) => {
                    return self.lost("it could not be renewed in time".to_owned());
                }
            }
        }
    }

    fn lost(&mut self, why: String) -> String {
        self.held = None;
        self.seen = None;
        why
    }

    /// Renews once; `Err(Some)` if somebody else holds it, `Err(None)` if that is not known.
    async fn renew(&mut self, lease: Lease) -> Result<(), Option<String>> {
        let identity = self.identity.clone();
        let error = match self.write(Some(&lease), &identity, self.duration).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        debug!(%error, "lease was not renewed");
        if !is_status(&error, 409) && !is_status(&error, 404) {
            return Err(None);
        }
        // Another version is there: somebody took it, or only touched it.
        let current = self.read().await.map_err(|_| None)?;
        let holder = current.as_ref().and_then(|lease| lease.spec.as_ref()?.holder_identity.clone());
        match holder {
            Some(holder) if holder != identity => Err(Some(format!("{holder} holds it"))),
            Some(_) | None => self.write(current.as_ref(), &identity, self.duration).await.map_err(|_| None),
        }
    }

    /// Gives the Lease back, so that another operator need not wait until it runs out. A failure is harmless: then it does.
    pub async fn release(&mut self) {
        let Some((lease, _)) = self.held.take() else { return };
        match self.write(Some(&lease), "", Duration::from_secs(1)).await {
            Ok(()) => info!(lease = %self.name, "lease given back"),
            Err(error) => warn!(lease = %self.name, %error, "lease was not given back and runs out"),
        }
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str, seconds: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_it_is_free_ours_or_was_not_renewed_for_its_duration() {
        let seconds = Duration::from_secs;
        let cases = [
            (LeaseSpec::default(), 0, Decision::Take),
            (held_by("", 15), 0, Decision::Take),
            (held_by("me", 15), 0, Decision::Take),
            (held_by("other", 15), 0, Decision::Wait(seconds(15))),
            (held_by("other", 15), 14, Decision::Wait(seconds(1))),
            (held_by("other", 15), 15, Decision::Take),
            (held_by("other", 15), 99, Decision::Take),
            (held_by("other", -1), 0, Decision::Take),
        ];
        for (spec, unchanged_for, decision) in cases {
            assert_eq!(decide("me", &spec, seconds(unchanged_for)), decision, "{spec:?} {unchanged_for} s");
        }
    }

    #[test]
    fn a_holder_stops_before_another_may_begin() {
        let duration = Duration::from_secs(15);
        let stopped = duration * RENEW_SHARE / 3;
        assert!(stopped + ANSWER_TIMEOUT <= duration, "time is left for what is under way to end");
        assert!(duration / RENEWALS * 2 < stopped, "one renewal that fails is made good by the next");
    }
}
