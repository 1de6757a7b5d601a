//! Bodies about what happened in the cluster, as one broker saw it.

use crate::ids::BrokerId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One event: an element of [`EventList`], and the `data` of a server-sent event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterEvent {
    /// Its place among the events of the broker that answers; means nothing to another one.
    pub id: String,
    /// Wall clock of that broker when it kept the event, ms since 1970.
    pub at_ms: i64,
    /// Its kind, e.g. `isr_changed`; new ones may come.
    pub event: String,
    /// The topic, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The partition, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// The broker, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub broker: Option<BrokerId>,
    /// What else its kind has.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub details: Map<String, Value>,
}

/// Answer to `GET /admin/events` that asks for JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventList {
    /// The broker that answers: what it saw itself.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub broker_id: BrokerId,
    /// Oldest first.
    pub events: Vec<ClusterEvent>,
    /// Events up to this one were looked at: `after` of the next request.
    pub last_id: String,
    /// Whether `after` was of another broker or volume, or too old, so that events may be missing: look at everything anew.
    pub reset: bool,
}
