//! pubsub-client
