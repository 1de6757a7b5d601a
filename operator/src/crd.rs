//! The `Topic` resource as Kubernetes keeps it: fields, defaults, columns and the rules that the API server checks itself.
//!
//! The definition that is installed is made from these types; `manifests/crd.yaml` is what [`yaml`] prints, and a test
//! fails when they differ. What only the brokers can judge is no rule here but a condition ([`crate::status`]): a topic may
//! be declared before its cluster is up.

#![allow(unreachable_pub, reason = "the derived schema repeats the types in a place that nobody can reach")]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;

/// API group of all resources of Pubsub.
pub const GROUP: &str = "pubsub.dev";
/// Version of the API.
pub const VERSION: &str = "v1alpha1";
/// The finalizer that holds a `Topic` until its topic is deleted. It is set only where the deletion policy needs it.
pub const FINALIZER: &str = "pubsub.dev/topic";
/// Partitions that the status describes; of topics with more it says `truncated`.
pub const STATUS_PARTITIONS_MAX: usize = 64;

/// A topic that the brokers shall have.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "pubsub.dev",
    version = "v1alpha1",
    kind = "Topic",
    plural = "topics",
    shortname = "pst",
    category = "pubsub",
    namespaced,
    status = "TopicStatus",
    derive = "PartialEq",
    doc = "A topic of a Pubsub cluster. Its status tells what the brokers have.",
    printcolumn(name = "Parts", type_ = "integer", json_path = ".status.partitionCount"),
    printcolumn(name = "RF", type_ = "integer", json_path = ".status.replicationFactor"),
    printcolumn(name = "ISR", type_ = "string", json_path = ".status.isr"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Topic", type_ = "string", json_path = ".status.topicName", priority = 1),
    printcolumn(name = "Leaders", type_ = "string", json_path = ".status.leaders", priority = 1),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.maxLeaderEpoch", priority = 1),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.groups.maxLag", priority = 1),
    printcolumn(name = "Policy", type_ = "string", json_path = ".spec.deletionPolicy", priority = 1),
    validation = Rule::new(
        "(has(self.spec.topicName) ? self.spec.topicName : self.metadata.name) == \
         (has(oldSelf.spec.topicName) ? oldSelf.spec.topicName : oldSelf.metadata.name)"
    ).message("topicName can't be changed: create another Topic"),
    validation = Rule::new("has(self.spec.topicName) || size(self.metadata.name) <= 200")
        .message("a name of more than 200 characters needs a topicName of its own"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "!has(self.minInSyncReplicas) || !has(self.replicationFactor) || \
         self.minInSyncReplicas <= self.replicationFactor"
    ).message("minInSyncReplicas must not be more than replicationFactor"),
    validation = Rule::new("self.partitions >= oldSelf.partitions")
        .message("partitions can only grow: records are kept where they are"),
    validation = Rule::new("oldSelf.encryption != 'Required' || self.encryption == 'Required'")
        .message("encryption that was Required stays Required: create another Topic"),
    validation = Rule::new("!has(self.topicName) || !(self.topicName in ['.', '..'])")
        .message("topicName must not be '.' or '..'"),
)]
pub struct TopicSpec {
    /// The topic's name at the brokers; that of this object if not given. It can't be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "topic_name_schema")]
    pub topic_name: Option<String>,
    /// Number of partitions. It can only grow.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256))]
    pub partitions: u32,
    /// Copies of each record, on as many brokers. If not given, the brokers choose at creation: 3, or one a broker if there are fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "replicas_schema")]
    pub replication_factor: Option<u32>,
    /// Fewest in-sync replicas with which a record is taken. If not given: 2 from a replication factor of 3, else 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "replicas_schema")]
    pub min_in_sync_replicas: Option<u32>,
    /// How long records are kept. If not given, for ever.
    #[serde(default)]
    pub retention: Retention,
    /// What happens to old records. Compact is not offered by brokers yet.
    #[serde(default)]
    pub cleanup_policy: CleanupPolicy,
    /// Largest record that is taken, bytes, as in 512Ki or 1Mi. If not given, the brokers' own limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "byte_size_schema")]
    pub max_record_bytes: Option<ByteSize>,
    /// Whether records must be encrypted at rest. Inherit takes what the brokers do. Required can't be taken back.
    #[serde(default)]
    pub encryption: Encryption,
    /// Whether a replica that lacks acknowledged records may lead when no other is left: available again, with records lost.
    #[serde(default)]
    pub unclean_election: bool,
    /// What to do with a topic of that name that no Topic owns: take it if it is as declared, take and change it, or leave it.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,
    /// What becomes of the topic and its records when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Only look, change nothing. Deleting the object still follows deletionPolicy.
    #[serde(default)]
    pub paused: bool,
}

fn one() -> u32 {
    1
}

impl Topic {
    /// Returns the name that the topic has at the brokers.
    pub fn topic_name(&self) -> &str {
        self.spec.topic_name.as_deref().or(self.metadata.name.as_deref()).unwrap_or_default()
    }
}

/// How long records are kept; the first limit that is reached counts.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Records older than this are deleted, as in 168h, 7d or 90m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub duration: Option<String>,
    /// The oldest records of a partition that is larger than this are deleted; bytes, as in 1Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "byte_size_schema")]
    pub bytes_per_partition: Option<ByteSize>,
}

/// What happens to old records.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CleanupPolicy {
    /// They are deleted as the retention says.
    #[default]
    Delete,
    /// The newest of each key is kept.
    Compact,
}

/// Whether records must be encrypted at rest.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// As the brokers do it.
    #[default]
    Inherit,
    /// The topic is refused where a broker does not encrypt.
    Required,
    /// The topic is refused where a broker encrypts.
    Disabled,
}

/// What to do with a topic that was there first and that no `Topic` owns.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdoptionPolicy {
    /// Take it if it is as declared.
    #[default]
    AdoptIfMatching,
    /// Take it and change it to what is declared.
    Adopt,
    /// Leave it alone.
    Never,
}

/// What becomes of the topic when its object is deleted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionPolicy {
    /// It is deleted with its records.
    #[default]
    Delete,
    /// It is deleted if it has no records; else the object stays until it has none.
    DeleteIfEmpty,
    /// It stays, and nobody owns it any more.
    Retain,
}

/// A number of bytes as it was written: a number, or a number with a unit (`512Ki`, `1Gi`, `20M`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ByteSize(pub String);

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(i64),
            Text(String),
        }
        Ok(Self(match Written::deserialize(from)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        }))
    }
}

/// What the brokers have, and how it is.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// Generation of the object that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Identity of the cluster; another one once the cluster was built anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The topic's name at the brokers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,
    /// Identity of the topic; another one once it was deleted and made anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Number of partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_count: Option<u32>,
    /// Copies of each record, as the brokers were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<u32>,
    /// In-sync replicas and replicas of the partition that is worst off, as in 3/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isr: Option<String>,
    /// The brokers that lead partitions, as in 1,2,3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaders: Option<String>,
    /// Highest leader epoch of all partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_leader_epoch: Option<u32>,
    /// Each partition, the first 64 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub partitions: Vec<PartitionStatus>,
    /// Whether there are more partitions than are listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// The consumer groups that read the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupsStatus>,
    /// The complete set from the first write on: Accepted, Programmed, Available, Replicated, Ready, Reconciling, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

/// One partition.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionStatus {
    /// Index within the topic.
    pub id: u32,
    /// The broker that takes writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<u32>,
    /// Grows with every change of leader.
    pub leader_epoch: u32,
    /// Brokers that hold it, preferred leader first.
    pub replicas: Vec<u32>,
    /// Replicas that hold every committed record.
    pub isr: Vec<u32>,
    /// Records below it are committed. Refreshed now and then, and only if the broker that was asked knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_watermark: Option<i64>,
}

/// The consumer groups of a topic.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupsStatus {
    /// How many there are.
    pub count: u32,
    /// Records of one partition that the group furthest behind has not finished. Refreshed now and then.
    pub max_lag: i64,
    /// That group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lag_group: Option<String>,
}

fn topic_name_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 200,
        "pattern": "^[a-zA-Z0-9.-][a-zA-Z0-9._-]{0,199}$",
    })
}

fn replicas_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "uint32", "minimum": 1, "maximum": 9})
}

fn duration_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 32,
        "pattern": "^([0-9]{1,9}(d|h|m|s|ms))+$",
    })
}

fn byte_size_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "maxLength": 16,
        "pattern": "^[1-9][0-9]{0,11}(Ki|Mi|Gi|Ti|k|M|G|T)?$",
    })
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        byte_size_schema(generator)
    }
}

/// Returns the definition that is installed in a cluster.
pub fn definition() -> CustomResourceDefinition {
    Topic::crd()
}

/// Returns the definition as YAML, as `pubsub-operator crd` prints it.
///
/// # Errors
/// None that was ever seen: the definition is a tree of plain values.
pub fn yaml() -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(&definition())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn version() -> Value {
        serde_json::to_value(definition()).unwrap()["spec"]["versions"][0].clone()
    }

    fn schema() -> Value {
        version()["schema"]["openAPIV3Schema"].clone()
    }

    /// Follows a JSON path of the kind that columns use through a schema.
    fn resolve<'a>(mut schema: &'a Value, path: &str) -> Option<&'a Value> {
        let mut rest = path;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("[?(@.") {
                let (test, after) = after.split_once(")]")?;
                let (field, _) = test.split_once("==")?;
                schema = schema.get("items")?;
                schema["properties"].get(field)?;
                rest = after;
            } else {
                let name = rest.strip_prefix('.')?;
                let end = name.find(['.', '[']).unwrap_or(name.len());
                schema = schema["properties"].get(&name[..end])?;
                rest = &name[end..];
            }
        }
        Some(schema)
    }

    #[test]
    fn every_column_shows_a_field_that_exists_and_has_its_type() {
        let (version, schema) = (version(), schema());
        let columns = version["additionalPrinterColumns"].as_array().unwrap();
        assert_eq!(columns.len(), 11);
        for column in columns {
            let path = column["jsonPath"].as_str().unwrap();
            // What every object has is not in the schema of a resource.
            if path == ".metadata.creationTimestamp" {
                continue;
            }
            let field = resolve(&schema, path).unwrap_or_else(|| panic!("{path} leads nowhere"));
            assert_eq!(field["type"], column["type"], "{path}");
        }
        assert!(resolve(&schema, ".status.nothing").is_none());
    }

    #[test]
    fn defaults_are_in_the_schema_so_that_every_reader_sees_them() {
        let schema = schema();
        let spec = &schema["properties"]["spec"]["properties"];
        let expected = [
            ("partitions", json!(1)),
            ("retention", json!({})),
            ("cleanupPolicy", json!("Delete")),
            ("encryption", json!("Inherit")),
            ("uncleanElection", json!(false)),
            ("adoptionPolicy", json!("AdoptIfMatching")),
            ("deletionPolicy", json!("Delete")),
            ("paused", json!(false)),
        ];
        for (field, default) in expected {
            assert_eq!(spec[field]["default"], default, "{field}");
        }
        for field in ["topicName", "replicationFactor", "minInSyncReplicas", "maxRecordBytes"] {
            assert!(spec[field]["default"].is_null(), "{field} depends on the cluster");
        }
    }

    #[test]
    fn rules_that_compare_with_the_object_before_are_on_what_can_not_be_left_out() {
        let schema = schema();
        let rules = |of: &Value| -> Vec<String> {
            let rules = of["x-kubernetes-validations"].as_array().unwrap();
            rules.iter().map(|rule| rule["rule"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(rules(&schema).len(), 2);
        assert_eq!(rules(&schema["properties"]["spec"]).len(), 4);
        assert!(schema["required"].as_array().unwrap().contains(&json!("spec")));
        for (name, field) in schema["properties"]["spec"]["properties"].as_object().unwrap() {
            let text = field["x-kubernetes-validations"].to_string();
            assert!(!text.contains("oldSelf"), "{name}: leaving the field out would dodge its rule");
        }
    }

    #[test]
    fn sizes_are_read_as_numbers_and_as_text() {
        let spec: TopicSpec = serde_json::from_value(
            json!({"maxRecordBytes": 1024, "retention": {"bytesPerPartition": "1Gi"}}),
        )
        .unwrap();
        assert_eq!(spec.max_record_bytes, Some(ByteSize("1024".to_owned())));
        assert_eq!(spec.retention.bytes_per_partition, Some(ByteSize("1Gi".to_owned())));
        assert_eq!(spec.partitions, 1, "what is not given has the schema's default");
    }

    #[test]
    fn the_group_and_the_names_are_the_constants() {
        let crd = definition();
        assert_eq!(crd.spec.group, GROUP);
        assert_eq!(crd.spec.versions[0].name, VERSION);
        assert_eq!(crd.metadata.name.as_deref(), Some("topics.pubsub.dev"));
        assert_eq!(crd.spec.names.short_names, Some(vec!["pst".to_owned()]));
        assert_eq!(crd.spec.names.categories, Some(vec!["pubsub".to_owned()]));
        assert_eq!(FINALIZER.split_once('/').unwrap().0, GROUP);
    }

    #[test]
    fn no_word_of_the_definition_is_a_boolean_to_older_readers() {
        // `kubectl` reads YAML 1.1, where these bare words are no text.
        const BOOLEANS: [&str; 6] = ["on", "off", "yes", "no", "y", "n"];
        let yaml = yaml().unwrap();
        let words = yaml.lines().filter_map(|line| line.trim_start().strip_prefix("- "));
        let mut words: Vec<_> = words.map(|word| word.trim_matches(['\'', '"']).to_lowercase()).collect();
        assert!(words.iter().any(|word| word == "disabled"), "the elements of lists were looked at");
        words.retain(|word| BOOLEANS.contains(&word.as_str()));
        assert!(words.is_empty(), "these need quotes whenever somebody writes them: {words:?}");
    }

    #[test]
    fn the_definition_in_manifests_is_the_generated_one() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crd.yaml");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        let again = "write it with: cargo run -p pubsub-operator -- crd > manifests/crd.yaml";
        assert_eq!(written, yaml().unwrap(), "{again}");
    }
}
