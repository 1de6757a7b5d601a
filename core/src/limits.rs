//! Every bound of the system, with its unit and its reason.

/// Longest topic name, bytes: fits a file name with a suffix, as in other brokers.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// Longest group or consumer id, bytes.
pub const GROUP_NAME_BYTES_MAX: usize = 255;
/// Largest single record (key, headers and value together), bytes.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Largest record batch as stored and replicated, bytes. One replication request always holds at least one.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Most records in one batch.
pub const BATCH_RECORDS_MAX: usize = 10_000;
/// Largest request body on the client port, bytes: one batch and its JSON overhead.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Largest request body that the discovery service reads, bytes: one endpoint, generously.
pub const DISCOVERY_BODY_BYTES_MAX: usize = 16 << 10;
/// Most brokers that the discovery service keeps: one connection and one short text each.
pub const DISCOVERY_BROKERS_MAX: usize = 256;
/// Longest URL or host name that the discovery service takes, bytes.
pub const DISCOVERY_ADDRESS_BYTES_MAX: usize = 2_048;
/// Most partitions of one topic.
pub const PARTITIONS_MAX: u32 = 1_000;
/// Highest replication factor.
pub const REPLICATION_FACTOR_MAX: u32 = 9;
/// Most topics created by one request.
pub const TOPICS_BATCH_MAX: usize = 1_000;
/// Most partitions created by one such request: the change goes to every broker in one message.
pub const BATCH_PARTITIONS_MAX: u64 = 10_000;
/// Largest owner of a topic, bytes of JSON: it is in every image.
pub const OWNER_BYTES_MAX: usize = 4_096;
/// Deepest nesting of it: an image that holds it is nested itself, and JSON readers have a bound.
pub const OWNER_DEPTH_MAX: usize = 16;
/// Most records in one poll answer.
pub const POLL_RECORDS_MAX: u32 = 1_000;
/// Longest long-poll, milliseconds.
pub const POLL_TIMEOUT_MS_MAX: u64 = 60_000;
/// Most payload bytes in one poll answer; one record always fits.
pub const POLL_BYTES_MAX: usize = 4 << 20;
/// Records waiting to be appended on one broker, bytes: past it publishers are told to come back (503).
pub const INFLIGHT_BYTES_MAX: usize = 64 << 20;
/// Bytes gathered for one partition past which no further publishers are waited for, bytes: large batches gain nothing.
pub const GATHER_BYTES_MAX: usize = 256 << 10;
/// Idempotent producers that a replica remembers in one partition; the longest silent ones are forgotten first. About
/// 1 MiB when full.
pub const PRODUCERS_MAX: usize = 4_096;
/// Committed batches that are remembered of each, so that one that is sent again is answered with its offset.
pub const PRODUCER_BATCHES_MAX: usize = 5;
/// Requests waiting in front of a task's inbox.
pub const INBOX_MAX: usize = 4_096;
/// Bytes of one replication request between two brokers.
pub const REPLICATE_BYTES_MAX: usize = 4 << 20;
/// Recent batches kept in memory per partition for followers and tail readers, bytes.
pub const TAIL_BYTES_MAX: usize = 1 << 20;
/// The same over all partitions of a broker, bytes: past it followers are served from disk.
pub const TAILS_BYTES_MAX: usize = 16 << 20;
/// Writes waiting in front of the store's writer; past it whoever writes waits.
pub const STORE_QUEUE_MAX: usize = 1_024;
/// Bytes of one transaction of the store, past which no more waiting writes join it: the write-ahead log keeps its size.
pub const STORE_GROUP_BYTES_MAX: usize = 16 << 20;
/// Read-only connections of the store; each may block one thread.
pub const STORE_READERS: usize = 3;
/// Batches deleted in one piece when a log is trimmed or dropped, so that writes get in between.
pub const STORE_CLEAR_BATCHES_MAX: i64 = 1_000;
/// Bytes deleted in one piece; see [`STORE_CLEAR_BATCHES_MAX`].
pub const STORE_CLEAR_BYTES_MAX: i64 = 16 << 20;
/// Cluster events kept by each broker: an hour of a busy day, or several thousand new topics.
pub const EVENTS_MAX: u64 = 10_000;
/// Events told of one image, past which the others are counted.
pub const EVENTS_PER_IMAGE_MAX: usize = 2_000;
/// Most events in one answer.
pub const EVENTS_LIST_MAX: u32 = 1_000;
/// Streams of events that a broker serves at once; each holds a connection.
pub const EVENT_STREAMS_MAX: usize = 64;
/// Streams of records that a broker serves at once; each holds a connection and about [`STREAM_PIECE_BYTES`].
pub const STREAMS_MAX: usize = 256;
/// Records that a stream sends in one piece, bytes; one record always fits.
pub const STREAM_PIECE_BYTES: usize = 256 << 10;
/// Bytes of an item of a replication request without its batches, at most.
pub const REPLICATE_ITEM_BYTES: usize = 64;
/// Largest body of a replication request, bytes: a full one, or one with a single largest batch.
pub const REPLICATE_BODY_BYTES_MAX: usize = REPLICATE_BYTES_MAX + BATCH_BYTES_MAX;
/// Bytes read from disk at once for a follower that is behind; one batch always fits.
pub const LOAD_BYTES_MAX: usize = 1 << 20;
/// Partitions read from disk at the same time for one follower's broker, read and not yet sent ones together.
pub const LOADS_MAX: usize = 4;
/// Committed image changes kept to bring lagging brokers up to date without a full image.
pub const IMAGE_DELTAS_MAX: usize = 1_000;
/// Partitions of the internal topic of consumer groups; fixed for the life of a cluster.
pub const GROUP_PARTITIONS: u32 = 8;
/// Name of the internal topic of consumer groups.
pub const GROUPS_TOPIC: &str = "__groups";
/// Version of the messages between brokers.
pub const PROTO: u16 = 1;
/// A member that is not heard for this long loses its partitions, milliseconds.
pub const GROUP_SESSION_MS: u64 = 10_000;
/// Largest record of a group's members, bytes: it is one record of the internal topic.
pub const GROUP_RECORD_BYTES_MAX: usize = RECORD_BYTES_MAX;
/// What a record of the internal topic of groups takes besides its key and value, about, bytes.
pub const GROUP_RECORD_FRAME_BYTES: usize = 64;
/// Bytes that a partition of the internal topic of groups may hold besides twice what is true: then all that is true is
/// written again, and the rest deleted. Enough for some two thousand commits, which a new coordinator reads in no time.
pub const GROUP_LOG_SPARE_BYTES: usize = 256 << 10;
/// Control messages that wait for one peer; more are dropped, the machines send again.
pub const MESSAGES_MAX: usize = 256;
/// Deepest nesting of a JSON value: within what parsers with a recursion limit read back inside of a poll answer.
pub const JSON_DEPTH_MAX: usize = 100;
/// Time that a publish may take when its sender does not say, milliseconds: outlasts a failover.
pub const PUBLISH_TIMEOUT_MS_DEFAULT: u64 = 10_000;
/// Longest time that a publish or an admin request may ask for, milliseconds.
pub const REQUEST_TIMEOUT_MS_MAX: u64 = 60_000;
/// Time for a request's body to arrive, milliseconds: a stalled sender frees its buffer.
pub const BODY_TIMEOUT_MS: u64 = 30_000;
/// Bytes of a body past the limit that are still read, so that its sender gets the refusal and not a broken connection.
pub const BODY_DISCARDED_MAX: usize = 64 << 20;
/// Partitions that one poll waits on at once; further ones take turns.
pub const POLL_PARTITIONS_MAX: usize = 64;
/// Largest answer that is taken over from another broker, bytes: a page whose first batch is as large as batches get.
pub const FORWARD_ANSWER_BYTES_MAX: usize = POLL_BYTES_MAX + BATCH_BYTES_MAX + (1 << 20);
