//! A spec in the brokers' terms, and how a topic differs from it.

use crate::amount;
use crate::crd::{ByteSize, TopicSpec};
use pubsub_core::limits::RECORD_BYTES_MAX;
use pubsub_core::wire::admin::{AlterTopicRequest, CreateTopicRequest, TopicDescription};
use serde_json::Value;
use std::fmt;

/// Replication factor from which two replicas must hold a record, unless the spec says otherwise; as brokers do it.
const SAFE_REPLICATION_FACTOR: u32 = 3;

/// A spec in the brokers' terms. What is `None` of the first two is left to the brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Number of partitions.
    pub partitions: u32,
    /// Copies of each record.
    pub replication_factor: Option<u32>,
    /// Fewest in-sync replicas.
    pub min_isr: Option<u32>,
    /// Age at which records go; `None` is never.
    pub retention_ms: Option<u64>,
    /// Size past which records go; `None` is never.
    pub retention_bytes: Option<u64>,
    /// Largest record; `None` is the brokers' own limit.
    pub max_record_bytes: Option<u64>,
    /// Whether a replica that lacks records may lead.
    pub unclean_election: bool,
}

/// A setting that a topic has otherwise than declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The spec's field.
    pub field: &'static str,
    /// What the topic has.
    pub found: String,
    /// What is declared.
    pub declared: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} instead of {}", self.field, self.found, self.declared)
    }
}

/// Returns differences in one line.
pub fn listed(differences: &[Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn size(field: &str, given: Option<&ByteSize>) -> Result<Option<u64>, String> {
    let read = |size: &ByteSize| {
        amount::bytes(&size.0).ok_or_else(|| {
            format!("{field} {:?} is no number of bytes that brokers know; write it as in 1Gi", size.0)
        })
    };
    given.map(read).transpose()
}

impl Desired {
    /// Reads a spec.
    ///
    /// # Errors
    /// Says what no broker can do. The schema lets through only a few such values, such as a duration of zero.
    pub fn of(spec: &TopicSpec) -> Result<Self, String> {
        let duration = |text: &String| {
            amount::milliseconds(text).ok_or_else(|| {
                format!("retention.duration {text:?} is no duration that brokers know; write it as in 168h")
            })
        };
        let max_record_bytes = size("maxRecordBytes", spec.max_record_bytes.as_ref())?;
        let largest = u64::try_from(RECORD_BYTES_MAX).unwrap_or(u64::MAX);
        if let Some(bytes) = max_record_bytes.filter(|bytes| *bytes > largest) {
            return Err(format!("maxRecordBytes {bytes} is more than brokers take, {largest}; lower it"));
        }
        if let (Some(fewest), None) = (spec.min_in_sync_replicas, spec.replication_factor)
            && fewest > SAFE_REPLICATION_FACTOR
        {
            return Err(format!(
                "minInSyncReplicas {fewest} needs a replicationFactor of its own: brokers choose {SAFE_REPLICATION_FACTOR} at most"
            ));
        }
        Ok(Self {
            partitions: spec.partitions,
            replication_factor: spec.replication_factor,
            min_isr: spec.min_in_sync_replicas,
            retention_ms: spec.retention.duration.as_ref().map(duration).transpose()?,
            retention_bytes: size(
                "retention.bytesPerPartition",
                spec.retention.bytes_per_partition.as_ref(),
            )?,
            max_record_bytes,
            unclean_election: spec.unclean_election,
        })
    }

    /// Returns the fewest in-sync replicas of a topic with that replication factor.
    fn min_isr(&self, replication_factor: u32) -> u32 {
        self.min_isr.unwrap_or(if replication_factor >= SAFE_REPLICATION_FACTOR { 2 } else { 1 })
    }

    /// Returns the request that makes the topic.
    pub fn creation(&self, name: &str, owner: Value) -> CreateTopicRequest {
        CreateTopicRequest {
            name: name.to_owned(),
            partitions: Some(self.partitions),
            replication_factor: self.replication_factor,
            min_isr: self.min_isr,
            retention_ms: self.retention_ms,
            retention_bytes: self.retention_bytes,
            max_record_bytes: self.max_record_bytes,
            unclean_election: self.unclean_election.then_some(true),
            owner: Some(owner),
            ..CreateTopicRequest::default()
        }
    }

    /// Returns what a topic has otherwise than declared.
    pub fn differences(&self, topic: &TopicDescription) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut compare = |field, is: Option<String>, declared: Option<String>| {
            if is != declared {
                let shown = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
                found.push(Difference { field, found: shown(is), declared: shown(declared) });
            }
        };
        let text = |number: Option<u64>| number.map(|number| number.to_string());
        let config = &topic.config;
        compare("partitions", Some(topic.partition_count.to_string()), Some(self.partitions.to_string()));
        let factor = self.replication_factor.unwrap_or(config.replication_factor);
        compare("replicationFactor", Some(config.replication_factor.to_string()), Some(factor.to_string()));
        compare(
            "minInSyncReplicas",
            Some(config.min_isr.to_string()),
            Some(self.min_isr(factor).to_string()),
        );
        compare("retention.duration", text(config.retention_ms), text(self.retention_ms));
        compare("retention.bytesPerPartition", text(config.retention_bytes), text(self.retention_bytes));
        compare("maxRecordBytes", text(config.max_record_bytes), text(self.max_record_bytes));
        let unclean = (config.unclean_election.to_string(), self.unclean_election.to_string());
        compare("uncleanElection", Some(unclean.0), Some(unclean.1));
        compare("cleanupPolicy", Some(policy(config.compact)), Some(policy(false)));
        found
    }

    /// Says so if the topic has more partitions than declared: they hold records.
    pub fn shrinks(&self, topic: &TopicDescription) -> Option<String> {
        let declared = usize::try_from(self.partitions).unwrap_or(usize::MAX);
        (topic.partition_count > declared).then(|| {
            format!(
                "the topic has {} partitions and {declared} are declared; partitions are never taken away, so declare {} or delete the topic",
                topic.partition_count, topic.partition_count
            )
        })
    }

    /// Returns the request that puts differences right and writes the owner down.
    pub fn alteration(&self, differences: &[Difference], owner: Value) -> AlterTopicRequest {
        let differs = |field: &str| differences.iter().any(|difference| difference.field == field);
        let factor = self.replication_factor.filter(|_| differs("replicationFactor"));
        AlterTopicRequest {
            partitions: differs("partitions").then_some(self.partitions),
            replication_factor: factor,
            // Where the factor falls, what was the fewest before may be more than the factor now.
            min_isr: differences
                .iter()
                .find(|difference| difference.field == "minInSyncReplicas")
                .and_then(|difference| difference.declared.parse().ok()),
            retention_ms: differs("retention.duration").then_some(self.retention_ms),
            retention_bytes: differs("retention.bytesPerPartition").then_some(self.retention_bytes),
            compact: differs("cleanupPolicy").then_some(false),
            max_record_bytes: differs("maxRecordBytes").then_some(self.max_record_bytes),
            unclean_election: differs("uncleanElection").then_some(self.unclean_election),
            owner: Some(Some(owner)),
        }
    }
}

fn policy(compact: bool) -> String {
    if compact { "Compact" } else { "Delete" }.to_owned()
}
