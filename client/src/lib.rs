//! The client side of Pubsub, and what its processes need to talk to each other.

pub mod peer_auth;
