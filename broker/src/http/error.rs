//! The one place that turns errors into answers: a code, a status and a sentence that a person can act on.

use crate::store::StoreError;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use pubsub_core::control::Refusal;
use pubsub_core::group::GroupError;
use pubsub_core::ids::{BrokerId, InvalidName};
use pubsub_core::partition::AppendError;
use pubsub_core::wire::error::{Detail, ErrorCode, FieldError, PROBLEM_JSON, Problem};

/// A request that was not done, ready to be answered. Boxed, because the good path carries its size too.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ApiError(pub(crate) Box<Problem>);

/// What handlers return.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// Makes an error with a sentence.
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)))
    }

    /// Makes a validation error of one field.
    pub(crate) fn field(kind: &str, loc: &[&str], msg: impl Into<String>) -> Self {
        let loc = loc.iter().map(|part| (*part).to_owned()).collect();
        Self::fields(vec![FieldError { kind: kind.to_owned(), loc, msg: msg.into() }])
    }

    /// Makes a validation error of several fields.
    pub(crate) fn fields(fields: Vec<FieldError>) -> Self {
        let mut error = Self::new(ErrorCode::ValidationFailed, "");
        error.0.detail = Detail::Fields(fields);
        error
    }

    /// Says that trying again is worth it after `ms`.
    pub(crate) fn retry_after_ms(mut self, ms: u64) -> Self {
        self.0.retry_after_ms = Some(ms);
        self
    }

    /// Says whether the request may have taken effect all the same.
    pub(crate) fn ambiguous(mut self, ambiguous: bool) -> Self {
        self.0.ambiguous = Some(ambiguous);
        self
    }

    /// Names the partition that failed.
    pub(crate) fn partition(mut self, partition: u32) -> Self {
        self.0.partition = Some(partition);
        self
    }

    /// Names the leader and its address.
    pub(crate) fn leader(mut self, leader: Option<BrokerId>, api_base: Option<String>) -> Self {
        self.0.leader = leader;
        self.0.leader_api_base = api_base;
        self
    }

    /// Returns the code.
    pub(crate) fn code(&self) -> ErrorCode {
        self.0.code
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = self.0;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&problem).expect("a problem has only string keys");
        let mut response =
            (status, [(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON))], body).into_response();
        if let Some(ms) = problem.retry_after_ms {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1)));
        }
        response
    }
}

/// No topic of that name.
pub(crate) fn topic_not_found(name: &str) -> ApiError {
    let given: String = name.chars().take(80).collect();
    ApiError::new(
        ErrorCode::TopicNotFound,
        format!("Topic not found: there is no topic {given:?}; create it with POST /admin/topics?name=…"),
    )
}

/// The topic has no such partition.
pub(crate) fn partition_not_found(topic: &str, partition: u32, partitions: usize) -> ApiError {
    ApiError::new(
        ErrorCode::PartitionNotFound,
        format!("topic {topic} has partitions 0 to {}, not {partition}", partitions.saturating_sub(1)),
    )
}

/// A group without a consumer.
pub(crate) fn consumer_required() -> ApiError {
    ApiError::new(
        ErrorCode::ConsumerRequired,
        "group_id requires consumer_id: name the consumer that reads for the group",
    )
}

/// This broker can't serve right now, and nothing was done.
pub(crate) fn unavailable(detail: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, detail).ambiguous(false).retry_after_ms(500)
}

/// A name that is not valid, at its place in the request.
pub(crate) fn invalid_name(error: &InvalidName, loc: &[&str]) -> ApiError {
    ApiError::field("value_error", loc, error.to_string())
}

/// Why records were not acknowledged.
pub(crate) fn append(error: &AppendError, partition: u32) -> ApiError {
    let text = error.to_string();
    match error {
        AppendError::NotLeader { leader } => {
            let detail = "the partition's leader is changing and nothing was written; try again";
            ApiError::new(ErrorCode::NotLeader, detail)
                .leader(*leader, None)
                .ambiguous(false)
                .retry_after_ms(200)
        }
        AppendError::NotEnoughReplicas { .. } => {
            let detail =
                format!("{text}; nothing was written; wait for replicas to return, or lower min_isr");
            ApiError::new(ErrorCode::NotEnoughReplicas, detail).ambiguous(false).retry_after_ms(1_000)
        }
        AppendError::UnexpectedEnd { log_end } => {
            let mut refused = ApiError::new(ErrorCode::UnexpectedEnd, format!("{text}; nothing was written"));
            refused.0.log_end = Some(*log_end);
            refused.ambiguous(false)
        }
        AppendError::OutOfOrder { expected } => {
            let detail = format!(
                "{text}; nothing was written; send what is missing first (if the records before were acknowledged, a replaced leader answered: try again)"
            );
            let mut refused = ApiError::new(ErrorCode::OutOfOrder, detail);
            refused.0.next_sequence = Some(*expected);
            refused.ambiguous(false)
        }
        AppendError::ProducerFenced { .. } => {
            let detail = format!("{text}; nothing was written; stop, or begin again with a higher epoch");
            ApiError::new(ErrorCode::ProducerFenced, detail).ambiguous(false)
        }
        AppendError::Duplicate => ApiError::new(ErrorCode::DuplicateSequence, text).ambiguous(false),
        AppendError::StorageFull => {
            let detail = "the leader's storage is full and nothing was written; free or add space";
            ApiError::new(ErrorCode::StorageFull, detail).ambiguous(false)
        }
        AppendError::Unknown => ApiError::new(ErrorCode::OutcomeUnknown, text).ambiguous(true),
        AppendError::TimedOut => ApiError::new(ErrorCode::CommitTimeout, text).ambiguous(true),
        AppendError::Overloaded => {
            let detail = format!("{text}; nothing was written; slow down");
            ApiError::new(ErrorCode::Overloaded, detail).ambiguous(false).retry_after_ms(1_000)
        }
    }
    .partition(partition)
}

/// Why an admin request was not done.
pub(crate) fn refusal(refusal: &Refusal) -> ApiError {
    let text = refusal.to_string();
    match refusal {
        Refusal::NotController { controller } => {
            unavailable("the controller is changing and nothing was changed; try again")
                .leader(*controller, None)
        }
        Refusal::Unknown => ApiError::new(ErrorCode::OutcomeUnknown, text).ambiguous(true),
        Refusal::TopicExists { name } => {
            let mut error = ApiError::new(ErrorCode::TopicExists, "");
            let (topic, message) =
                (name.to_string(), format!("{text}; change it with PATCH /admin/topics/{name}"));
            error.0.detail = Detail::Topic { error: ErrorCode::TopicExists, topic, message };
            error
        }
        Refusal::TopicOwned { name, owner } => {
            let mut error = ApiError::new(
                ErrorCode::TopicOwned,
                format!("{text}; leave {name} to it, or take the topic over with take_ownership=true"),
            );
            error.0.owner = Some(owner.clone());
            error
        }
        Refusal::LeadersMoved { .. } => unavailable(text),
        Refusal::Overloaded => {
            ApiError::new(ErrorCode::Overloaded, text).ambiguous(false).retry_after_ms(1_000)
        }
        Refusal::TopicNotFound { name } => topic_not_found(name.as_str()),
        Refusal::BrokerNotFound { broker } => {
            let detail =
                format!("Unknown broker_id {broker}: no such broker is registered; see GET /admin/brokers");
            ApiError::new(ErrorCode::UnknownBroker, detail)
        }
        Refusal::TooFewBrokers { .. } => ApiError::new(ErrorCode::TooFewBrokers, text),
        Refusal::Conflict { .. } => ApiError::new(ErrorCode::Conflict, text),
        Refusal::Invalid { .. } => ApiError::field("value_error", &["body"], text),
    }
}

/// Why a group's coordinator did not do it.
pub(crate) fn group(error: &GroupError) -> ApiError {
    let text = error.to_string();
    match error {
        GroupError::Busy => {
            let detail =
                format!("Group already has an active consumer: {text}; subscribe with standby, or wait");
            ApiError::new(ErrorCode::GroupBusy, detail).retry_after_ms(1_000)
        }
        GroupError::Full => ApiError::new(ErrorCode::GroupBusy, text).retry_after_ms(1_000),
        GroupError::Fenced => {
            ApiError::new(ErrorCode::MemberFenced, format!("{text}; poll or subscribe again"))
        }
        GroupError::NotFound => ApiError::new(ErrorCode::GroupNotFound, text),
        GroupError::NotEmpty => ApiError::new(ErrorCode::GroupNotEmpty, format!("{text}; stop them first")),
        GroupError::ConsumerRequired => consumer_required(),
        GroupError::Unavailable => unavailable(text),
        GroupError::Unknown => ApiError::new(ErrorCode::OutcomeUnknown, text).ambiguous(true),
    }
}

/// A fault of this broker. The cause goes to the log, not to the client.
pub(crate) fn internal(what: &'static str, cause: &(dyn std::error::Error + 'static)) -> ApiError {
    tracing::error!(what, cause, "request failed");
    ApiError::new(ErrorCode::Internal, format!("the broker could not {what}; its log has the cause"))
}

/// What readers are told when the log could not be read. A damaged batch is named: it is a matter for a person.
pub(crate) fn unreadable(error: &StoreError) -> ApiError {
    let StoreError::Corrupt { partition, base_offset, detail } = error else {
        return internal("read the log", error);
    };
    tracing::error!(%partition, base_offset, detail, "a stored batch is damaged");
    let text = format!(
        "the batch at offset {base_offset} is damaged on this broker ({detail}); other replicas may be whole: \
         run `pubsub check`, then replace this broker's volume"
    );
    ApiError::new(ErrorCode::CorruptRecord, text).partition(partition.partition).ambiguous(false)
}

/// What clients are told after a handler panicked.
pub(crate) fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    ApiError::new(
        ErrorCode::Internal,
        "the broker met a bug while it handled the request; its log has the cause",
    )
    .into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body_util::BodyExt;

    async fn body(error: ApiError) -> (u16, Option<String>, serde_json::Value) {
        let response = error.into_response();
        let status = response.status().as_u16();
        let retry =
            response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, retry, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn a_definite_refusal_says_so_and_when_to_come_back() {
        let (status, retry, body) =
            body(append(&AppendError::NotEnoughReplicas { alive: 1, min_isr: 2 }, 3)).await;
        assert_eq!((status, retry.as_deref()), (503, Some("1")));
        assert_eq!(body["code"], "NOT_ENOUGH_REPLICAS");
        assert_eq!((&body["ambiguous"], &body["partition"]), (&false.into(), &3.into()));
    }

    #[tokio::test]
    async fn who_is_too_many_is_told_when_to_come_back() {
        let (status, retry, body) = body(append(&AppendError::Overloaded, 0)).await;
        assert_eq!((status, retry.as_deref(), &body["code"]), (503, Some("1"), &"OVERLOADED".into()));
        assert_eq!(body["ambiguous"], false);
    }

    #[tokio::test]
    async fn a_damaged_batch_is_named() {
        let topic = pubsub_core::ids::TopicId(uuid::Uuid::nil());
        let partition = pubsub_core::ids::TopicPartition { topic, partition: 2 };
        let detail = "its checksum does not fit".to_owned();
        let (status, _, body) =
            body(unreadable(&StoreError::Corrupt { partition, base_offset: 7, detail })).await;
        assert_eq!((status, &body["code"], &body["partition"]), (500, &"CORRUPT_RECORD".into(), &2.into()));
        assert!(body["detail"].as_str().unwrap().contains("offset 7"), "{body}");
    }

    #[tokio::test]
    async fn an_ambiguous_outcome_says_so() {
        for error in [AppendError::Unknown, AppendError::TimedOut] {
            let (status, _, body) = body(append(&error, 0)).await;
            assert_eq!((status, &body["ambiguous"]), (504, &true.into()));
        }
    }

    #[tokio::test]
    async fn a_validation_error_lists_type_place_and_message() {
        let (status, _, body) = body(ApiError::field("missing", &["query", "topic"], "add it")).await;
        assert_eq!(status, 422);
        assert_eq!(body["detail"][0]["type"], "missing");
        assert_eq!(body["detail"][0]["loc"], serde_json::json!(["query", "topic"]));
        assert_eq!(body["detail"][0]["msg"], "add it");
        assert_eq!(body["code"], "VALIDATION_FAILED");
    }

    #[tokio::test]
    async fn an_existing_topic_is_told_in_the_older_form_too() {
        let name = pubsub_core::ids::TopicName::try_from("a").unwrap();
        let (status, _, body) = body(refusal(&Refusal::TopicExists { name })).await;
        assert_eq!(status, 409);
        assert_eq!(body["code"], "TOPIC_EXISTS");
        assert_eq!(
            (&body["detail"]["error"], &body["detail"]["topic"]),
            (&"TOPIC_EXISTS".into(), &"a".into())
        );
    }
}
