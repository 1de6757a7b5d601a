//! One pass over one object: observe, plan, apply, observe again, write the status.
//!
//! A pass holds nothing that the next one needs, but for times: whatever it finds half done, by itself or by another
//! operator, it goes on with. Each step can be repeated without harm.

mod apply;
mod departure;
mod kubernetes;

use crate::brokers::Brokers;
use crate::config::Config;
use crate::crd::{FINALIZER, GroupsStatus, Topic};
use crate::metrics::{Metrics, OutcomeLabel, SourceLabel};
use crate::owner::Owner;
use crate::plan::{Claim, Objection, Observed, Plan, plan};
use crate::status::{self, Outcome, Seen};
use kube::runtime::events::Recorder;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// How often counters of one topic are written at most.
const COUNTERS_INTERVAL: Duration = Duration::from_secs(30);
/// Longest pass: an API server that hangs must not hold up an object for ever.
const PASS_TIME_MAX: Duration = Duration::from_secs(60);

/// What passes work with.
pub struct Context {
    /// The API server.
    pub kube: kube::Client,
    /// The brokers.
    pub brokers: Brokers,
    /// Publishes Kubernetes Events.
    pub recorder: Recorder,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Settings.
    pub config: Arc<Config>,
}

/// One object, and what is remembered of it.
#[derive(Clone, Debug)]
pub struct Job {
    /// The object.
    pub topic: Arc<Topic>,
    /// The oldest other object that wants the same topic.
    pub rival: Option<Owner>,
    /// The groups that read the topic, if known.
    pub groups: Option<GroupsStatus>,
    /// When brokers were last seen for it.
    pub observed_at: Option<Instant>,
    /// When its counters were last written.
    pub counters_at: Option<Instant>,
}

/// When to look at an object again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// When something happens, or at the next resync.
    Resync,
    /// Soon: something is under way.
    Soon,
    /// Later with every failure in a row.
    BackOff,
    /// Never: it is gone.
    Never,
}

/// What came of a pass.
#[derive(Debug)]
pub struct Done {
    /// The newest version of the object, if the pass wrote it.
    pub topic: Option<Topic>,
    /// When to look again.
    pub again: Again,
    /// When brokers were last seen for it.
    pub observed_at: Option<Instant>,
    /// When its counters were last written.
    pub counters_at: Option<Instant>,
}

/// The state of a pass.
struct Pass<'a> {
    context: &'a Context,
    job: Job,
    topic: Topic,
    name: String,
    me: Owner,
    observed: Option<Observed>,
    wrote: bool,
}

/// What a pass found out.
struct Found {
    outcome: Outcome,
    again: Again,
}

impl Found {
    fn new(outcome: Outcome, again: Again) -> Self {
        Self { outcome, again }
    }
}

/// Makes one pass over an object.
///
/// # Cancel safety
/// Dropping the future leaves a step perhaps done and perhaps not; the next pass goes on.
pub async fn reconcile(context: &Context, job: Job) -> Done {
    let (observed_at, counters_at) = (job.observed_at, job.counters_at);
    let failed = Done { topic: None, again: Again::BackOff, observed_at, counters_at };
    let Some(me) = Owner::of(&job.topic) else { return failed };
    let (topic, name) = ((*job.topic).clone(), job.topic.topic_name().to_owned());
    let mut pass = Pass { context, job, topic, name, me, observed: None, wrote: false };
    let made = tokio::time::timeout(PASS_TIME_MAX, pass.run()).await;
    let again = match made {
        Ok(Ok(again)) => again,
        Ok(Err(error)) => {
            // What is gone or was changed meanwhile comes back by the watch.
            let passing =
                matches!(&error, kube::Error::Api(status) if status.code == 404 || status.code == 409);
            if passing {
                debug!(topic = %pass.me, %error, "object changed during a pass");
            } else {
                warn!(topic = %pass.me, %error, "api server refused or did not answer");
                context.metrics.errors.get_or_create(&SourceLabel { source: "api_server" }).inc();
            }
            Again::BackOff
        }
        Err(_) => {
            warn!(topic = %pass.me, "pass took too long");
            context.metrics.errors.get_or_create(&SourceLabel { source: "api_server" }).inc();
            Again::BackOff
        }
    };
    Done {
        topic: pass.wrote.then_some(pass.topic),
        again,
        observed_at: pass.job.observed_at,
        counters_at: pass.job.counters_at,
    }
}

impl Pass<'_> {
    async fn run(&mut self) -> Result<Again, kube::Error> {
        let found = if self.topic.metadata.deletion_timestamp.is_some() {
            match self.depart().await? {
                Some(found) => found,
                None => return Ok(Again::Never),
            }
        } else {
            self.arrive().await?
        };
        let label = OutcomeLabel { outcome: outcome_label(&found.outcome) };
        self.context.metrics.reconciles.get_or_create(&label).inc();
        self.tell(&found.outcome).await?;
        Ok(found.again)
    }

    /// Looks at the brokers; what they say is kept for the status.
    async fn observe(&mut self) -> Result<Observed, Outcome> {
        match self.context.brokers.observe(&self.name).await {
            Ok(observed) => {
                self.job.observed_at = Some(Instant::now());
                self.observed = Some(observed.clone());
                Ok(observed)
            }
            Err(error) => {
                debug!(topic = %self.me, %error, "no broker answered");
                self.observed = None;
                self.context.metrics.errors.get_or_create(&SourceLabel { source: "brokers" }).inc();
                Err(Outcome::Unreachable(self.unreachable()))
            }
        }
    }

    /// Says the same each time: a message that counted tries would make each of them a write.
    fn unreachable(&self) -> String {
        format!("no broker answers at {}", self.context.config.brokers.join(", "))
    }

    async fn claim(&self, observed: &Observed) -> Result<Claim, kube::Error> {
        let owner = observed.owner().filter(|owner| owner.uid != self.me.uid);
        let owner_is_gone = match owner {
            Some(owner) if self.context.config.place.watched.contains(&owner.namespace) => {
                !self.exists(&owner).await?
            }
            Some(_) | None => false,
        };
        Ok(Claim { me: self.me.clone(), rival: self.job.rival.clone(), owner_is_gone })
    }

    async fn arrive(&mut self) -> Result<Found, kube::Error> {
        let observed = match self.observe().await {
            Ok(observed) => observed,
            Err(outcome) => return Ok(Found::new(outcome, Again::BackOff)),
        };
        let claim = self.claim(&observed).await?;
        let plan = plan(&self.topic.spec, &self.name, &claim, &observed);
        debug!(topic = %self.me, ?plan, "planned");
        if matches!(plan, Plan::Nothing | Plan::Create(_) | Plan::Alter(_)) {
            // Before the topic is made: an object that is deleted right after must not leave it behind.
            self.set_finalizer(departure::needs_finalizer(self.topic.spec.deletion_policy)).await?;
        }
        match plan {
            Plan::Nothing => Ok(Found::new(Outcome::Settled, Again::Resync)),
            Plan::Refuse { objection, message } => {
                self.tell_refusal(objection, &message).await;
                Ok(Found::new(Outcome::Refused(objection, message), Again::Resync))
            }
            Plan::Wait { obstacle, message } => {
                Ok(Found::new(Outcome::Waiting(obstacle, message), Again::Resync))
            }
            Plan::Create(_) if self.topic.spec.paused => {
                Ok(Found::new(Outcome::Paused("paused; the topic would be made".to_owned()), Again::Resync))
            }
            Plan::Alter(change) if self.topic.spec.paused => {
                let differences = crate::plan::desired::listed(&change.differences);
                let message = format!("paused; would be changed: {differences}");
                Ok(Found::new(Outcome::Paused(message), Again::Resync))
            }
            Plan::Create(request) => {
                let failed = self.create(&request).await;
                self.look_again(&claim, failed).await
            }
            Plan::Alter(change) => {
                let failed = self.alter(&change).await;
                self.look_again(&claim, failed).await
            }
        }
    }

    /// Looks whether the brokers have what was just asked of them. `failed` is what came of asking, if it was no success.
    async fn look_again(&mut self, claim: &Claim, failed: Option<Found>) -> Result<Found, kube::Error> {
        let observed = match self.observe().await {
            Ok(observed) => observed,
            Err(outcome) => return Ok(Found::new(outcome, Again::BackOff)),
        };
        if plan(&self.topic.spec, &self.name, claim, &observed) == Plan::Nothing {
            return Ok(Found::new(Outcome::Settled, Again::Resync));
        }
        match failed {
            Some(found) if !observed.controller => {
                let message =
                    "no broker controls the cluster right now, so topics can't be changed".to_owned();
                Ok(Found::new(Outcome::NoController(message), found.again))
            }
            Some(found) => Ok(found),
            None => {
                let message = "the brokers took the change and do not report it yet".to_owned();
                Ok(Found::new(Outcome::Pending(message), Again::Soon))
            }
        }
    }

    async fn tell_refusal(&self, objection: Objection, message: &str) {
        let reason = match objection {
            Objection::NameConflict => "NameConflict",
            Objection::ExistsUnmanaged => "ExistsUnmanaged",
            Objection::NotSupported => "NotSupported",
        };
        let told = self.topic.status.iter().flat_map(|status| &status.conditions).any(|condition| {
            condition.type_ == "Accepted" && condition.reason == reason && condition.message == message
        });
        if !told {
            self.warn(reason, message).await;
        }
    }

    /// Writes the status if it says something new.
    async fn tell(&mut self, outcome: &Outcome) -> Result<(), kube::Error> {
        if let Outcome::Unreachable(_) = outcome
            && status::still_holds(
                &self.topic,
                self.job.observed_at.map(|at| at.elapsed()),
                self.context.config.observation_age,
            )
        {
            return Ok(());
        }
        let seen = Seen {
            topic: &self.topic,
            observed: self.observed.as_ref(),
            outcome,
            groups: self.job.groups.as_ref(),
            now: jiff::Timestamp::now(),
        };
        let status = status::status(&seen);
        let due = self.job.counters_at.is_none_or(|at| at.elapsed() >= COUNTERS_INTERVAL);
        let write = match status::compare(self.topic.status.as_ref(), &status) {
            status::Change::None => false,
            status::Change::Counters => due,
            status::Change::Facts => true,
        };
        if write {
            let ready = status::condition(&status, "Ready").unwrap_or_default().to_owned();
            let before = self.topic.status.as_ref().and_then(|status| status::condition(status, "Ready"));
            if before != Some(ready.as_str()) {
                info!(topic = %self.me, ready, outcome = outcome_label(outcome), "topic is ready or not");
            }
            self.write_status(&status).await?;
            self.job.counters_at = Some(Instant::now());
        }
        Ok(())
    }

    fn has_finalizer(&self) -> bool {
        self.topic.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
    }
}

fn outcome_label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Settled => "settled",
        Outcome::Pending(_) => "pending",
        Outcome::Paused(_) => "paused",
        Outcome::Refused(..) => "refused",
        Outcome::Waiting(..) => "waiting",
        Outcome::Rejected(_) => "rejected",
        Outcome::NoController(_) => "no_controller",
        Outcome::Unreachable(_) => "unreachable",
        Outcome::Deleting(_) => "deleting",
        Outcome::NotEmpty(_) => "not_empty",
    }
}
