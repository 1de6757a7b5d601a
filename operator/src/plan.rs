//! What is to be done so that the brokers have what an object declares: a pure function of both.
//!
//! A topic is changed only for the object that owns it. The brokers keep the owner with the generation of its spec that was
//! written last, in the same change as the settings: if the generation is the present one and a setting differs all the
//! same, someone else changed it, and it is put right as drift.

pub mod desired;

use crate::crd::{AdoptionPolicy, CleanupPolicy, Encryption, TopicSpec};
use crate::owner::Owner;
use desired::{Desired, Difference};
use pubsub_core::wire::admin::{
    AlterTopicRequest, BrokerDescription, BrokerStanding, CreateTopicRequest, TopicDescription,
};

/// What the brokers say at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The topic, if there is one of that name.
    pub topic: Option<TopicDescription>,
    /// The registered brokers.
    pub brokers: Vec<BrokerDescription>,
    /// Whether a controller is known.
    pub controller: bool,
    /// Identity of the cluster, if brokers tell it.
    pub cluster_id: Option<String>,
}

impl Observed {
    fn active(&self) -> u32 {
        let active = self.brokers.iter().filter(|broker| broker.state == BrokerStanding::Active);
        u32::try_from(active.count()).unwrap_or(u32::MAX)
    }

    /// Returns the owner that the brokers keep of the topic.
    pub fn owner(&self) -> Option<Owner> {
        self.topic.as_ref().and_then(|topic| topic.config.owner.as_ref()).and_then(Owner::read)
    }
}

/// Who wants the topic, and who else does.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The object.
    pub me: Owner,
    /// The oldest other object in the watched namespaces that declares a topic of this name.
    pub rival: Option<Owner>,
    /// Whether the owner that the brokers keep would be in a watched namespace, and is not there.
    pub owner_is_gone: bool,
}

/// Why an object can't have its topic; becomes the reason of `Accepted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// Another object owns the topic or goes before this one.
    NameConflict,
    /// The topic is there, nobody owns it, and the policy forbids to take it.
    ExistsUnmanaged,
    /// This cluster can't do what is declared.
    NotSupported,
}

/// Why nothing can be done for now; becomes the reason of `Programmed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Fewer brokers are active than replicas are wanted.
    InsufficientBrokers,
    /// It could only be done by throwing records away.
    RejectedByBroker,
}

/// Why a topic is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The spec is another one than was written last.
    Updated,
    /// The topic was changed by someone else.
    Drifted,
    /// Nobody owned it, or an object that is gone.
    Adopted,
    /// A younger object owned it.
    TakenOver,
}

/// A change of a topic that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What is asked of the brokers; contains the owner.
    pub request: AlterTopicRequest,
    /// Whether the brokers shall take the topic from the owner that they keep.
    pub take_ownership: bool,
    /// Why.
    pub why: Why,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// The brokers have what is declared.
    Nothing,
    /// Make the topic.
    Create(Box<CreateTopicRequest>),
    /// Change the topic.
    Alter(Box<Change>),
    /// Leave it: it is not this object's, or can never be as declared.
    Refuse {
        /// Why.
        objection: Objection,
        /// For people.
        message: String,
    },
    /// Leave it for now.
    Wait {
        /// Why.
        obstacle: Obstacle,
        /// For people.
        message: String,
    },
}

fn refuse(objection: Objection, message: impl Into<String>) -> Plan {
    Plan::Refuse { objection, message: message.into() }
}

/// Decides what to do for an object.
pub fn plan(spec: &TopicSpec, name: &str, claim: &Claim, observed: &Observed) -> Plan {
    let desired = match supported(spec, observed) {
        Ok(desired) => desired,
        Err(message) => return refuse(Objection::NotSupported, message),
    };
    if let Some(rival) = claim.rival.as_ref().filter(|rival| rival.goes_before(&claim.me)) {
        return refuse(Objection::NameConflict, conflict(name, rival));
    }
    let Some(topic) = &observed.topic else {
        return match too_few(&desired, None, observed) {
            Some(message) => Plan::Wait { obstacle: Obstacle::InsufficientBrokers, message },
            None => Plan::Create(Box::new(desired.creation(name, claim.me.to_value()))),
        };
    };
    match &topic.config.owner {
        None => adopt(spec.adoption_policy, name, false, &desired, claim, topic, observed),
        Some(stored) => match Owner::read(stored) {
            None => refuse(
                Objection::NameConflict,
                format!("topic {name} is managed by something else than a Topic: {stored}"),
            ),
            Some(owner) if owner.uid == claim.me.uid => {
                let drifted = owner.generation == claim.me.generation;
                let why = if drifted { Why::Drifted } else { Why::Updated };
                change(&desired, claim, topic, observed, why, false)
            }
            Some(owner) if claim.owner_is_gone || same_place(&owner, &claim.me) => {
                let _ = owner;
                adopt(spec.adoption_policy, name, true, &desired, claim, topic, observed)
            }
            Some(owner) if claim.me.goes_before(&owner) => {
                change(&desired, claim, topic, observed, Why::TakenOver, true)
            }
            Some(owner) => refuse(Objection::NameConflict, conflict(name, &owner)),
        },
    }
}

fn conflict(name: &str, other: &Owner) -> String {
    format!(
        "topic {name} belongs to Topic {other}, which is older; delete one of the two, or give this one another topicName"
    )
}

/// Two objects of one name can't be there at once: the owner is what this object was before it was deleted and made anew.
fn same_place(owner: &Owner, me: &Owner) -> bool {
    owner.namespace == me.namespace && owner.name == me.name
}

fn supported(spec: &TopicSpec, observed: &Observed) -> Result<Desired, String> {
    if spec.cleanup_policy == CleanupPolicy::Compact {
        return Err("cleanupPolicy Compact is not offered by these brokers yet; use Delete".to_owned());
    }
    let unlike = |sealed: bool| {
        let brokers = observed.brokers.iter().filter(|broker| broker.sealed != Some(sealed));
        brokers.map(|broker| broker.broker_id.to_string()).collect::<Vec<_>>().join(", ")
    };
    match spec.encryption {
        Encryption::Inherit => {}
        Encryption::Required if unlike(true).is_empty() => {}
        Encryption::Required => {
            return Err(format!(
                "encryption is Required, and brokers {} do not encrypt records at rest; give them a key ring",
                unlike(true)
            ));
        }
        Encryption::Disabled if observed.brokers.iter().any(|broker| broker.sealed == Some(true)) => {
            return Err("encryption is Disabled, and the brokers encrypt all records; use Inherit".to_owned());
        }
        Encryption::Disabled => {}
    }
    Desired::of(spec)
}

/// Says so if more replicas are wanted than there are brokers; what the topic has already is not asked for again.
fn too_few(desired: &Desired, topic: Option<&TopicDescription>, observed: &Observed) -> Option<String> {
    let wanted = desired.replication_factor?;
    if topic.is_some_and(|topic| topic.replication_factor >= wanted) || wanted <= observed.active() {
        return None;
    }
    Some(format!(
        "replicationFactor {wanted} needs as many active brokers, and there are {}; add brokers or lower it",
        observed.active()
    ))
}

fn adopt(
    policy: AdoptionPolicy,
    name: &str,
    take_ownership: bool,
    desired: &Desired,
    claim: &Claim,
    topic: &TopicDescription,
    observed: &Observed,
) -> Plan {
    let differences = desired.differences(topic);
    match policy {
        AdoptionPolicy::Never => refuse(
            Objection::ExistsUnmanaged,
            format!("topic {name} exists and no Topic owns it; adoptionPolicy Never leaves it alone"),
        ),
        AdoptionPolicy::AdoptIfMatching if !differences.is_empty() => refuse(
            Objection::ExistsUnmanaged,
            format!(
                "topic {name} exists, no Topic owns it, and it is not as declared ({}); change the spec, or use adoptionPolicy Adopt",
                desired::listed(&differences)
            ),
        ),
        AdoptionPolicy::AdoptIfMatching | AdoptionPolicy::Adopt => {
            change(desired, claim, topic, observed, Why::Adopted, take_ownership)
        }
    }
}

fn change(
    desired: &Desired,
    claim: &Claim,
    topic: &TopicDescription,
    observed: &Observed,
    why: Why,
    take_ownership: bool,
) -> Plan {
    let differences = desired.differences(topic);
    if differences.is_empty() && why == Why::Drifted {
        return Plan::Nothing;
    }
    if let Some(message) = desired.shrinks(topic) {
        return Plan::Wait { obstacle: Obstacle::RejectedByBroker, message };
    }
    if let Some(message) = too_few(desired, Some(topic), observed) {
        return Plan::Wait { obstacle: Obstacle::InsufficientBrokers, message };
    }
    let request = desired.alteration(&differences, claim.me.to_value());
    Plan::Alter(Box::new(Change { request, take_ownership, why, differences }))
}

#[cfg(test)]
mod tests;
