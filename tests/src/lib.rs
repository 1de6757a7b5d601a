//! pubsub-tests
