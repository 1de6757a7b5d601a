//! The broker as its HTTP handlers see it: one cheap handle onto the tasks that own the state.

use crate::store::StoreError;
use pubsub_core::control::image::Image;
use pubsub_core::control::{Command, Outcome, Refusal, Status};
use pubsub_core::group::{GroupError, GroupReply, GroupRequest};
use pubsub_core::ids::{BrokerId, Offset, TopicPartition};
use pubsub_core::partition::{Acks, AppendError, Appended, ReplicaView};
use pubsub_core::record::Batch;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Where a broker can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Base URL of its client listener.
    pub api_base: String,
    /// Base URL of its peer listener.
    pub peer_base: String,
}

/// A handle onto a running broker; cloning is cheap.
#[derive(Clone)]
pub struct Broker {
    _later: (),
}

impl Broker {
    /// Returns this broker's id.
    pub fn id(&self) -> BrokerId {
        unimplemented!()
    }

    /// Returns the newest committed image that this broker acts on; `None` until it has joined a cluster.
    pub fn image(&self) -> Option<Arc<Image>> {
        unimplemented!()
    }

    /// Returns a watch on [`Broker::image`].
    pub fn images(&self) -> watch::Receiver<Option<Arc<Image>>> {
        unimplemented!()
    }

    /// Returns what the control plane shows.
    pub fn status(&self) -> Status {
        unimplemented!()
    }

    /// Returns every endpoint known from the image, discovery, configuration and gossip (in that order of trust).
    pub fn endpoints(&self) -> BTreeMap<BrokerId, Endpoint> {
        unimplemented!()
    }

    /// Asks the controller machine of this broker. Not forwarded: `Refusal::NotController` names who may.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the request.
    pub async fn propose(&self, _command: Command) -> Result<Outcome, Refusal> {
        unimplemented!()
    }

    /// Appends records to a partition led here and waits as `acks` says, at most `timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo the append.
    pub async fn append(
        &self,
        _partition: TopicPartition,
        _batch: Batch,
        _acks: Acks,
        _expected_offset: Option<Offset>,
        _timeout: Duration,
    ) -> Result<Appended, AppendError> {
        unimplemented!()
    }

    /// Returns a watch on one replica held here; `None` if there is none.
    pub fn view(&self, _partition: TopicPartition) -> Option<watch::Receiver<ReplicaView>> {
        unimplemented!()
    }

    /// Returns whole batches that hold records of `[from, end)`, oldest first; the first may begin before `from` and the
    /// last may end after `end`: the caller trims. Stops after about `bytes_max`, but never before one batch.
    ///
    /// # Errors
    /// When the store can't be read or a batch is damaged.
    pub async fn read(
        &self,
        _partition: TopicPartition,
        _from: Offset,
        _end: Offset,
        _bytes_max: usize,
    ) -> Result<Vec<Batch>, StoreError> {
        unimplemented!()
    }

    /// Asks the coordinator of a group, wherever it is.
    pub async fn group(&self, _request: GroupRequest) -> Result<GroupReply, GroupError> {
        unimplemented!()
    }

    /// Returns what gossip says of each broker; hints, for people to look at.
    pub fn gossip(&self) -> Vec<serde_json::Value> {
        unimplemented!()
    }

    /// Returns counters of gossip, replication and storage for `/stats`: an object with a field for each of them.
    pub fn stats(&self) -> serde_json::Value {
        unimplemented!()
    }

    /// Returns this process's metrics in the Prometheus text format.
    pub fn metrics_text(&self) -> String {
        unimplemented!()
    }

    /// Says whether this broker should be sent requests.
    ///
    /// # Errors
    /// Why not, for people: it has not joined a cluster, its storage takes no writes, or it is stopping.
    pub fn ready(&self) -> Result<(), String> {
        unimplemented!()
    }
}
