//! Looking at a cluster and managing it: topics, brokers, groups.

use crate::events::EventStream;
use crate::transport::{CallError, Request, Transport, segment};
use pubsub_core::ids::{BrokerId, Offset};
use pubsub_core::limits::POLL_RECORDS_MAX;
use pubsub_core::wire::admin::{
    AlterTopicRequest, BrokerDescription, BrokerList, ControllerDescription, CreateTopicRequest,
    CreateTopicsRequest, EventList, GroupDeleted, GroupDetail, GroupList, GroupReset, ReassignRequest,
    ResetGroupRequest, TopicCreated, TopicDeleted, TopicDescription, TopicList, TopicReplicas, TopicsCreated,
};
use pubsub_core::wire::client::{FORWARDED_HEADER, Polled};
use reqwest::Method;
use reqwest::header::HeaderValue;
use std::time::Duration;

/// Makes a broker answer a read from its own replica, instead of passing it on.
const LOCAL_HEADER: &str = "x-pubsub-local";

/// What a change of a topic expects of the topic's owner: the `uid` in the JSON that whoever manages it left there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Refuse a topic whose owner has another `uid` than this.
    pub owner_uid: Option<String>,
    /// Let the owner in the request replace another one.
    pub take_ownership: bool,
}

impl Guard {
    fn on(&self, request: Request) -> Request {
        request
            .query_opt("owner_uid", self.owner_uid.as_deref())
            .query_opt("take_ownership", self.take_ownership.then_some(true))
    }
}

/// The admin calls. Any broker takes them; it passes on what only the controller can do.
///
/// Every call ends with [`CallError`] when it fails, and may be dropped at any time: whether a change that was sent is
/// made is then not known. All changes can be repeated without harm.
#[derive(Clone, Debug)]
pub struct Admin {
    transport: Transport,
}

impl Admin {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport }
    }

    /// Creates a topic; a topic of the very same shape may be there already ([`TopicCreated::created`]).
    ///
    /// # Errors
    /// `TOPIC_EXISTS` for one of another shape, and whatever [`CallError`] tells.
    pub async fn create_topic(&self, request: &CreateTopicRequest) -> Result<TopicCreated, CallError> {
        self.create_topic_as(request, &Guard::default()).await
    }

    /// As [`Admin::create_topic`], minding the owner of a topic that is there already. Without
    /// [`Guard::take_ownership`] the owner in the request becomes the owner of a new topic only.
    ///
    /// # Errors
    /// `TOPIC_OWNED` if that is another one, `TOPIC_EXISTS` for another shape, and whatever [`CallError`] tells.
    pub async fn create_topic_as(
        &self,
        request: &CreateTopicRequest,
        guard: &Guard,
    ) -> Result<TopicCreated, CallError> {
        let call = Request::new(Method::POST, "/admin/topics").json(request);
        self.transport.json(call.query_opt("take_ownership", guard.take_ownership.then_some(true))).await
    }

    /// Creates topics, each as [`Admin::create_topic_as`] does, committed together.
    ///
    /// # Errors
    /// See [`CallError`], about the request as a whole; what became of each topic is in the answer.
    pub async fn create_topics(
        &self,
        request: &CreateTopicsRequest,
        guard: &Guard,
    ) -> Result<TopicsCreated, CallError> {
        let call = Request::new(Method::POST, "/admin/topics:batch").json(request);
        self.transport.json(call.query_opt("take_ownership", guard.take_ownership.then_some(true))).await
    }

    /// Returns all topics in order of name; internal ones only if asked for.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn topics(&self, internal: bool) -> Result<TopicList, CallError> {
        let request = Request::get("/admin/topics").query_opt("internal", internal.then_some(true));
        self.transport.json(request).await
    }

    /// Returns one topic.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn topic(&self, name: &str) -> Result<TopicDescription, CallError> {
        self.transport.json(Request::get(format!("/admin/topics/{}", segment(name)))).await
    }

    /// Changes a topic's settings.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn alter_topic(
        &self,
        name: &str,
        change: &AlterTopicRequest,
    ) -> Result<TopicDescription, CallError> {
        self.alter_topic_as(name, change, &Guard::default()).await
    }

    /// As [`Admin::alter_topic`], minding the topic's owner.
    ///
    /// # Errors
    /// `TOPIC_OWNED` if that is another one, and whatever [`CallError`] tells.
    pub async fn alter_topic_as(
        &self,
        name: &str,
        change: &AlterTopicRequest,
        guard: &Guard,
    ) -> Result<TopicDescription, CallError> {
        let path = format!("/admin/topics/{}", segment(name));
        self.transport.json(guard.on(Request::new(Method::PATCH, path).json(change))).await
    }

    /// Moves partitions of a topic to other brokers. It is over once their `adding` and `removing` are empty.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn reassign(
        &self,
        name: &str,
        request: &ReassignRequest,
    ) -> Result<TopicDescription, CallError> {
        let path = format!("/admin/topics/{}/reassign", segment(name));
        self.transport.json(Request::new(Method::POST, path).json(request)).await
    }

    /// Takes back every move of a topic that is under way.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn cancel_moves(&self, name: &str) -> Result<TopicDescription, CallError> {
        let path = format!("/admin/topics/{}/reassign", segment(name));
        self.transport.json(Request::new(Method::DELETE, path)).await
    }

    /// Deletes a topic and its records; with `if_empty` only one without records.
    ///
    /// # Errors
    /// `TOPIC_NOT_EMPTY` with `if_empty`, and whatever [`CallError`] tells.
    pub async fn delete_topic(&self, name: &str, if_empty: bool) -> Result<TopicDeleted, CallError> {
        self.delete_topic_as(name, if_empty, None).await
    }

    /// As [`Admin::delete_topic`], unless the topic's owner has another `uid` than the one given.
    ///
    /// # Errors
    /// `TOPIC_OWNED` if so, `TOPIC_NOT_EMPTY` with `if_empty`, and whatever [`CallError`] tells.
    pub async fn delete_topic_as(
        &self,
        name: &str,
        if_empty: bool,
        owner_uid: Option<&str>,
    ) -> Result<TopicDeleted, CallError> {
        let request = Request::new(Method::DELETE, format!("/admin/topics/{}", segment(name)))
            .query_opt("if_empty", if_empty.then_some(true))
            .query_opt("owner_uid", owner_uid);
        self.transport.json(request).await
    }

    /// Returns who holds a topic, and how far each partition's log reaches where the answering broker knows.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn replicas(&self, topic: &str) -> Result<TopicReplicas, CallError> {
        self.transport.json(Request::get(format!("/replicas/{}", segment(topic)))).await
    }

    /// Returns the registered brokers.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn brokers(&self) -> Result<BrokerList, CallError> {
        self.transport.json(Request::get("/admin/brokers")).await
    }

    /// Returns up to `limit` events behind the one with the id `after` (of the same broker), or the newest ones, as the
    /// answering broker saw them.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn events(&self, after: Option<&str>, limit: u32) -> Result<EventList, CallError> {
        let request = Request::get("/admin/events").query_opt("after", after).query("limit", limit);
        self.transport.json(request.header("accept", HeaderValue::from_static("application/json"))).await
    }

    /// Returns a stream of events behind the one with the id `after`, or from now on. Nothing is sent yet.
    pub fn follow_events(&self, after: Option<String>) -> EventStream {
        EventStream::new(self.transport.fork(), after)
    }

    /// Empties a broker. It is over once its state is [`BrokerStanding::Drained`](pubsub_core::wire::admin::BrokerStanding).
    ///
    /// # Errors
    /// `CONFLICT` if a topic's replicas would not fit on the other brokers, and whatever [`CallError`] tells.
    pub async fn drain(&self, broker: BrokerId) -> Result<BrokerDescription, CallError> {
        self.transport.json(Request::new(Method::POST, format!("/admin/brokers/{broker}/drain"))).await
    }

    /// Lets a broker that was being emptied take part again.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn cancel_drain(&self, broker: BrokerId) -> Result<BrokerDescription, CallError> {
        self.transport.json(Request::new(Method::DELETE, format!("/admin/brokers/{broker}/drain"))).await
    }

    /// Gives one partition of a topic, or all, another leader: `broker`, or the preferred replica where it is in sync.
    /// With `unclean`, partitions without a leader go to a live replica that may lack acknowledged records: those are lost.
    ///
    /// # Errors
    /// `CONFLICT` if no such replica is alive, and whatever [`CallError`] tells.
    pub async fn elect(
        &self,
        name: &str,
        partition: Option<u32>,
        broker: Option<BrokerId>,
        unclean: bool,
    ) -> Result<TopicDescription, CallError> {
        let request = Request::new(Method::POST, format!("/admin/topics/{}/elect", segment(name)))
            .query_opt("partition", partition)
            .query_opt("broker_id", broker)
            .query_opt("unclean", unclean.then_some(true));
        self.transport.json(request).await
    }

    /// Returns who controls the cluster, as the answering broker sees it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn controller(&self) -> Result<ControllerDescription, CallError> {
        self.transport.json(Request::get("/admin/leader")).await
    }

    /// Returns the consumer groups.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn groups(&self) -> Result<GroupList, CallError> {
        self.transport.json(Request::get("/groups")).await
    }

    /// Returns one group: members, positions, lag.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn group(&self, id: &str) -> Result<GroupDetail, CallError> {
        self.transport.json(Request::get(format!("/groups/{}", segment(id)))).await
    }

    /// Deletes a group without members, and its positions.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn delete_group(&self, id: &str) -> Result<GroupDeleted, CallError> {
        self.transport.json(Request::new(Method::DELETE, format!("/groups/{}", segment(id)))).await
    }

    /// Has a group that nobody reads for begin somewhere else.
    ///
    /// # Errors
    /// `GROUP_NOT_EMPTY` while a member reads one of the topics, and whatever [`CallError`] tells.
    pub async fn reset_group(&self, id: &str, request: &ResetGroupRequest) -> Result<GroupReset, CallError> {
        let path = format!("/groups/{}/reset", segment(id));
        self.transport.json(Request::new(Method::POST, path).json(request)).await
    }

    /// Returns records of a partition from the replica of the broker at `broker` itself, oldest first.
    ///
    /// [`Polled::replica_id`] says whether it was that replica indeed.
    ///
    /// # Errors
    /// See [`CallError`]; a broker that does not hold the partition, or whose copy is damaged, refuses.
    pub async fn local_records(
        &self,
        broker: &str,
        topic: &str,
        partition: u32,
        from: Offset,
    ) -> Result<Polled, CallError> {
        let only = self.transport.only(broker).map_err(|error| CallError::Unavailable {
            tries: 0,
            waited: Duration::ZERO,
            last: error.to_string(),
        })?;
        let request = Request::get(format!("/topics/{}/records", segment(topic)))
            .query("partition", partition)
            .query("from", from)
            .query("max_records", POLL_RECORDS_MAX)
            .query("local", true)
            .header(LOCAL_HEADER, HeaderValue::from_static("true"))
            // A request that was passed on already is not passed on again.
            .header(FORWARDED_HEADER, HeaderValue::from_static("pubsub-client"));
        only.json(request).await
    }
}
