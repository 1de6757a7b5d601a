//! pubsub-discovery
