//! pubsub-cli
