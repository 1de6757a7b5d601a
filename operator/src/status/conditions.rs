//! One verdict for each condition. Every condition says what is, for the reason that is nearest to what a person can do.

use super::topic::{in_sync, worst};
use super::{Outcome, Seen, TYPES};
use crate::plan::{Objection, Observed, Obstacle};
use pubsub_core::wire::admin::TopicDescription;

const TRUE: &str = "True";
const FALSE: &str = "False";
const UNKNOWN: &str = "Unknown";

/// One condition's status, reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn verdict(status: &'static str, reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict { status, reason, message: message.into() }
}

/// Returns the verdicts in the order of [`TYPES`].
pub(super) fn judge(seen: &Seen<'_>) -> [Verdict; TYPES.len()] {
    let accepted = accepted(seen.outcome);
    let programmed = programmed(seen.outcome);
    let described = described(seen);
    let available = described.map_or_else(|verdict| verdict, available);
    let replicated = match self::described(seen) {
        Ok(topic) => replicated(topic),
        Err(verdict) => verdict,
    };
    let ready = ready(seen.outcome, [&accepted, &programmed, &available], seen.observed);
    let stalled = stalled(seen.outcome);
    let reconciling = reconciling(seen.outcome, &ready, &stalled);
    [accepted, programmed, available, replicated, ready, reconciling, stalled]
}

fn objection(objection: Objection) -> &'static str {
    match objection {
        Objection::NameConflict => "NameConflict",
        Objection::ExistsUnmanaged => "ExistsUnmanaged",
        Objection::NotSupported => "NotSupported",
    }
}

fn obstacle(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::InsufficientBrokers => "InsufficientBrokers",
        Obstacle::RejectedByBroker => "RejectedByBroker",
    }
}

fn accepted(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Refused(why, message) => verdict(FALSE, objection(*why), message),
        // Whether this cluster can do what is declared, only its brokers tell.
        Outcome::Unreachable(message) => verdict(UNKNOWN, "BrokersUnreachable", message),
        Outcome::Settled
        | Outcome::Pending(_)
        | Outcome::Paused(_)
        | Outcome::Waiting(..)
        | Outcome::Rejected(_)
        | Outcome::NoController(_)
        | Outcome::Deleting(_)
        | Outcome::NotEmpty(_) => verdict(TRUE, "Accepted", "the topic belongs to this object"),
    }
}

fn programmed(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Settled => verdict(TRUE, "Programmed", "the brokers report what is declared"),
        Outcome::Pending(message) => verdict(FALSE, "Pending", message),
        Outcome::Paused(message) => verdict(FALSE, "Paused", message),
        Outcome::Refused(why, message) => verdict(FALSE, objection(*why), message),
        Outcome::Waiting(why, message) => verdict(FALSE, obstacle(*why), message),
        Outcome::Rejected(message) => verdict(FALSE, "RejectedByBroker", message),
        Outcome::NoController(message) => verdict(FALSE, "NoController", message),
        Outcome::Unreachable(message) => verdict(UNKNOWN, "BrokersUnreachable", message),
        Outcome::Deleting(message) => verdict(FALSE, "Deleting", message),
        Outcome::NotEmpty(message) => verdict(FALSE, "NotEmpty", message),
    }
}

/// Returns the topic if there is one and it is this object's; else the verdict on all that would be said about it.
fn described<'a>(seen: &Seen<'a>) -> Result<&'a TopicDescription, Verdict> {
    let topic = seen.observed.and_then(|observed| observed.topic.as_ref());
    match (seen.outcome, topic) {
        (Outcome::Unreachable(message), _) => Err(verdict(UNKNOWN, "BrokersUnreachable", message)),
        (Outcome::Refused(why @ (Objection::NameConflict | Objection::ExistsUnmanaged), message), _) => {
            Err(verdict(FALSE, objection(*why), message))
        }
        (_, Some(topic)) => Ok(topic),
        (_, None) => Err(verdict(FALSE, "NoLeader", "the topic does not exist")),
    }
}

fn numbers(ids: &[u32]) -> String {
    const SHOWN: usize = 8;
    let mut text = ids.iter().take(SHOWN).map(u32::to_string).collect::<Vec<_>>().join(", ");
    if ids.len() > SHOWN {
        text.push_str(&format!(" and {} more", ids.len() - SHOWN));
    }
    text
}

fn available(topic: &TopicDescription) -> Verdict {
    let of = |test: &dyn Fn(&pubsub_core::wire::admin::PartitionDescription) -> bool| -> Vec<u32> {
        topic.partitions.iter().filter(|partition| test(partition)).map(|partition| partition.id).collect()
    };
    let leaderless = of(&|partition| partition.leader.is_none());
    if topic.partitions.is_empty() || !leaderless.is_empty() {
        let message = format!("no broker leads partition {}", numbers(&leaderless));
        return verdict(FALSE, "NoLeader", message);
    }
    let fewest = usize::try_from(topic.config.min_isr).unwrap_or(usize::MAX);
    let below = of(&|partition| in_sync(topic, partition).count() < fewest);
    if below.is_empty() {
        verdict(TRUE, "Available", "every partition takes and gives records")
    } else {
        let message = format!(
            "fewer than {fewest} replicas are in sync, so no records are taken by partition {}",
            numbers(&below)
        );
        verdict(FALSE, "BelowMinISR", message)
    }
}

fn replicated(topic: &TopicDescription) -> Verdict {
    let behind: Vec<u32> = topic
        .partitions
        .iter()
        .flat_map(|partition| {
            let here: Vec<_> = in_sync(topic, partition).collect();
            partition.replicas.iter().filter(move |id| !here.contains(id))
        })
        .map(|id| id.0)
        .collect();
    let down: std::collections::BTreeSet<u32> =
        behind.iter().copied().filter(|id| !topic.alive_brokers.iter().any(|alive| alive.0 == *id)).collect();
    let wanted = usize::try_from(topic.replication_factor).unwrap_or(usize::MAX);
    let few = topic.partitions.iter().any(|partition| partition.replicas.len() < wanted);
    let moving = topic
        .partitions
        .iter()
        .any(|partition| !partition.adding.is_empty() || !partition.removing.is_empty());
    if !down.is_empty() {
        let down: Vec<u32> = down.into_iter().collect();
        verdict(FALSE, "ReplicaDown", format!("broker {} is not up", numbers(&down)))
    } else if few && !moving {
        verdict(FALSE, "InsufficientBrokers", format!("not every partition has {wanted} replicas"))
    } else if !behind.is_empty() || moving || few {
        verdict(FALSE, "CatchingUp", "replicas are being filled")
    } else {
        verdict(TRUE, "Replicated", "every replica holds every acknowledged record")
    }
}

/// Says what the first condition says that is not `True`; a plain no goes before a doubt.
fn ready(outcome: &Outcome, conditions: [&Verdict; 3], observed: Option<&Observed>) -> Verdict {
    match outcome {
        Outcome::Deleting(message) => return verdict(FALSE, "Deleting", message),
        Outcome::NotEmpty(message) => return verdict(FALSE, "NotEmpty", message),
        Outcome::Settled
        | Outcome::Pending(_)
        | Outcome::Paused(_)
        | Outcome::Refused(..)
        | Outcome::Waiting(..)
        | Outcome::Rejected(_)
        | Outcome::NoController(_)
        | Outcome::Unreachable(_) => {}
    }
    let first = |status: &str| conditions.into_iter().find(|verdict| verdict.status == status);
    if let Some(failing) = first(FALSE).or_else(|| first(UNKNOWN)) {
        return failing.clone();
    }
    let topic = observed.and_then(|observed| observed.topic.as_ref());
    let (isr, replicas) = topic.and_then(worst).unwrap_or_default();
    let partitions = topic.map_or(0, |topic| topic.partition_count);
    verdict(TRUE, "Ready", format!("{partitions} partitions, {isr}/{replicas} replicas in sync at worst"))
}

fn stalled(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Refused(why, message) => verdict(TRUE, objection(*why), message),
        Outcome::Waiting(Obstacle::RejectedByBroker, message) | Outcome::Rejected(message) => {
            verdict(TRUE, "RejectedByBroker", message)
        }
        Outcome::NotEmpty(message) => verdict(TRUE, "NotEmpty", message),
        Outcome::Settled
        | Outcome::Pending(_)
        | Outcome::Paused(_)
        | Outcome::Waiting(Obstacle::InsufficientBrokers, _)
        | Outcome::NoController(_)
        | Outcome::Unreachable(_)
        | Outcome::Deleting(_) => verdict(FALSE, "Progressing", "nothing needs a person"),
    }
}

fn reconciling(outcome: &Outcome, ready: &Verdict, stalled: &Verdict) -> Verdict {
    if stalled.status == TRUE {
        return verdict(FALSE, "Stalled", "it waits for a change of the spec or of the topic");
    }
    if let Outcome::Paused(_) = outcome {
        return verdict(FALSE, "Paused", "the object is paused");
    }
    if ready.status == TRUE {
        return verdict(FALSE, "Settled", "the topic is as declared");
    }
    verdict(TRUE, ready.reason, ready.message.clone())
}
