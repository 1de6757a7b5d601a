//! pubsub-tests

pub mod cluster;
pub mod history;
pub mod http;
pub mod proxy;
