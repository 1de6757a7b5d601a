//! Bodies about many topics at once.

use super::{CreateTopicRequest, TopicCreated};
use crate::wire::error::Problem;
use serde::{Deserialize, Serialize};

/// Body of `POST /admin/topics:batch`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateTopicsRequest {
    /// At most a thousand; each is created or refused by itself.
    pub topics: Vec<CreateTopicRequest>,
}

/// Answer to `POST /admin/topics:batch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TopicsCreated {
    /// One for each topic of the request, in its order.
    pub results: Vec<TopicResult>,
}

/// What became of one topic of a [`CreateTopicsRequest`]: either it is there, or a problem says why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TopicResult {
    /// Its name, as it was given.
    pub topic: String,
    /// The HTTP status that it would have got alone.
    pub status: u16,
    /// It is there: as `POST /admin/topics` answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<TopicCreated>,
    /// Why it was not created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}
