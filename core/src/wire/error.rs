//! Error codes of the client API, the status that each has, and the problem body (RFC 9457) that carries them.

use crate::ids::{BrokerId, LeaderEpoch, Offset};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Media type of a [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $title:literal;)*) => {
        /// Why a request was not done; stable, to be matched by programs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
            /// A code that this program does not know, from a newer broker. Never sent.
            #[serde(other, rename = "OTHER")]
            Other,
        }
        impl ErrorCode {
            /// Every code that a broker sends.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the code as it is written in a problem.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* Self::Other => "OTHER" }
            }
            /// Returns the HTTP status that answers with this code have.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* Self::Other => 500 }
            }
            /// Returns the short text that is the same for every problem of this code.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* Self::Other => "Unknown error" }
            }
        }
    };
}

codes! {
    /// The request is not what the route takes; `detail` lists the fields.
    ValidationFailed = "VALIDATION_FAILED", 422, "The request is not valid";
    /// Understood, but not offered by this broker.
    Unsupported = "UNSUPPORTED", 422, "Not supported";
    /// The body's `Content-Type` is not one that the route reads.
    UnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE", 415, "Unsupported media type";
    /// A group was named without the consumer that reads for it.
    ConsumerRequired = "CONSUMER_REQUIRED", 400, "A consumer id is required";
    /// An offset below −1.
    InvalidOffset = "INVALID_OFFSET", 400, "Invalid offset";
    /// A commit past the last readable record.
    OffsetOutOfRange = "OFFSET_OUT_OF_RANGE", 422, "Offset out of range";
    /// No broker of that id is registered.
    UnknownBroker = "UNKNOWN_BROKER", 400, "Unknown broker";
    /// A change of replicas that can't be done as asked.
    InvalidReplicas = "INVALID_REPLICAS", 400, "Invalid change of replicas";
    /// No such route.
    RouteNotFound = "ROUTE_NOT_FOUND", 404, "Not found";
    /// The route exists, but not with this method.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405, "Method not allowed";
    /// No such topic.
    TopicNotFound = "TOPIC_NOT_FOUND", 404, "Topic not found";
    /// The topic has no such partition.
    PartitionNotFound = "PARTITION_NOT_FOUND", 404, "Partition not found";
    /// No such group.
    GroupNotFound = "GROUP_NOT_FOUND", 404, "Group not found";
    /// A topic of that name has another shape.
    TopicExists = "TOPIC_EXISTS", 409, "Topic exists";
    /// The topic has another owner; `owner` says whose it is.
    TopicOwned = "TOPIC_OWNED", 409, "Topic owned by another";
    /// The topic holds records, and was to be deleted only without any.
    TopicNotEmpty = "TOPIC_NOT_EMPTY", 409, "Topic not empty";
    /// More replicas are asked for than brokers are alive.
    TooFewBrokers = "TOO_FEW_BROKERS", 409, "Too few brokers";
    /// The present state does not allow it; `detail` says why.
    Conflict = "CONFLICT", 409, "Conflict";
    /// Every partition has a consumer of that group already.
    GroupBusy = "GROUP_BUSY", 409, "Group busy";
    /// The consumer does not own the partition (any more).
    MemberFenced = "MEMBER_FENCED", 409, "Member fenced";
    /// The group still has members.
    GroupNotEmpty = "GROUP_NOT_EMPTY", 409, "Group not empty";
    /// An idempotent producer's records do not follow its last ones; nothing was written.
    OutOfOrder = "OUT_OF_ORDER", 409, "Out of order";
    /// An idempotent producer's records were published before; where they are is not remembered.
    DuplicateSequence = "DUPLICATE_SEQUENCE", 409, "Duplicate sequence";
    /// A producer of the same id and a higher epoch has taken over.
    ProducerFenced = "PRODUCER_FENCED", 403, "Producer fenced";
    /// The log does not end where the publisher expects.
    UnexpectedEnd = "UNEXPECTED_END", 412, "Unexpected end of the log";
    /// A record, or a batch of them, is larger than a broker takes.
    RecordTooLarge = "RECORD_TOO_LARGE", 413, "Record too large";
    /// The request's body is larger than a broker reads.
    BodyTooLarge = "BODY_TOO_LARGE", 413, "Body too large";
    /// Too much is waiting; nothing was written.
    Overloaded = "OVERLOADED", 503, "Overloaded";
    /// Another broker leads the partition, and the request was forwarded once already.
    NotLeader = "NOT_LEADER", 503, "Not the leader";
    /// Too few in-sync replicas are alive; nothing was written.
    NotEnoughReplicas = "NOT_ENOUGH_REPLICAS", 503, "Not enough replicas";
    /// No broker can serve this right now; nothing was done.
    Unavailable = "UNAVAILABLE", 503, "Unavailable";
    /// The broker that could serve it can't be reached; nothing was done.
    BrokerUnreachable = "BROKER_UNREACHABLE", 503, "Broker unreachable";
    /// Written, but not known to be committed in time.
    CommitTimeout = "COMMIT_TIMEOUT", 504, "Commit timeout";
    /// The request was passed on, and it is not known what became of it.
    OutcomeUnknown = "OUTCOME_UNKNOWN", 504, "Outcome unknown";
    /// The broker's storage takes no more.
    StorageFull = "STORAGE_FULL", 507, "Storage full";
    /// A stored batch is damaged on the broker that was asked: its checksum does not fit. Other replicas may be whole.
    CorruptRecord = "CORRUPT_RECORD", 500, "Corrupt record";
    /// A fault of the broker.
    Internal = "INTERNAL", 500, "Internal error";
}

// Not derived: the derivation does not see names that a macro hands on, and would describe those of the variants.
#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for ErrorCode {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("Why a request was not done; stable, to be matched by programs."))
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
            .into()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for ErrorCode {}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldError {
    /// Kind of the fault, e.g. `missing`, `json_invalid`, `greater_than_equal`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it is: `["query", "max_records"]`, `["body", "records", "2", "value"]`.
    pub loc: Vec<String>,
    /// What would be right.
    pub msg: String,
}

/// What a person should know about a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Detail {
    /// A sentence.
    Text(String),
    /// Of `VALIDATION_FAILED`: every fault that was found.
    Fields(Vec<FieldError>),
    /// Of `TOPIC_EXISTS`, in the form that older clients read.
    Topic {
        /// The code again.
        error: ErrorCode,
        /// The topic.
        topic: String,
        /// A sentence.
        message: String,
    },
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Topic { message: text, .. } => f.write_str(text),
            Self::Fields(fields) => {
                for (index, field) in fields.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "; " };
                    write!(f, "{separator}{}: {}", field.loc.join("."), field.msg)?;
                }
                Ok(())
            }
        }
    }
}

/// The body of every error answer (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// Address of the code's description, relative to the broker.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Short text of the code.
    #[serde(default)]
    pub title: String,
    /// The HTTP status again.
    pub status: u16,
    /// What happened and what to do.
    pub detail: Detail,
    /// To be matched by programs.
    pub code: ErrorCode,
    /// Who leads the partition, as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub leader: Option<BrokerId>,
    /// Base URL of the leader's client listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_api_base: Option<String>,
    /// The leader's epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub current_epoch: Option<LeaderEpoch>,
    /// Of `UNEXPECTED_END` and `OFFSET_OUT_OF_RANGE`: where the log ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_end: Option<Offset>,
    /// Of `OUT_OF_ORDER`: the producer's next sequence as far as the answering broker knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_sequence: Option<u64>,
    /// Of a publish of several records to several partitions: the partition that failed. Others may have succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// Of `TOPIC_OWNED`: the topic's owner, as whoever manages it described itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<serde_json::Value>))]
    pub owner: Option<serde_json::Value>,
    /// Trying again is worth it after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Whether the request may have taken effect all the same. Missing where nothing would be changed anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ambiguous: Option<bool>,
}

impl Problem {
    /// Makes a problem with only a sentence; the other fields are for the caller to fill.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("/docs#{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.status(),
            detail: Detail::Text(detail.into()),
            code,
            leader: None,
            leader_api_base: None,
            current_epoch: None,
            log_end: None,
            next_sequence: None,
            partition: None,
            owner: None,
            retry_after_ms: None,
            ambiguous: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.detail, self.status, self.code)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_code_survives_json_and_has_an_error_status() {
        for code in ErrorCode::ALL {
            let text = serde_json::to_string(code).unwrap();
            assert_eq!(text, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<ErrorCode>(&text).unwrap(), *code);
            assert!((400..600).contains(&code.status()), "{code}");
        }
    }

    #[test]
    fn a_code_of_a_newer_broker_is_read_as_other() {
        assert_eq!(serde_json::from_str::<ErrorCode>("\"FROM_THE_FUTURE\"").unwrap(), ErrorCode::Other);
    }

    #[test]
    fn every_form_of_detail_is_read_back() {
        let field = FieldError { kind: "missing".into(), loc: vec!["body".into()], msg: "add it".into() };
        let topic = Detail::Topic { error: ErrorCode::TopicExists, topic: "a".into(), message: "b".into() };
        for detail in [Detail::Text("text".into()), Detail::Fields(vec![field]), topic] {
            let problem = Problem { detail, ..Problem::new(ErrorCode::Conflict, "") };
            let text = serde_json::to_string(&problem).unwrap();
            assert_eq!(serde_json::from_str::<Problem>(&text).unwrap(), problem);
        }
    }
}
