//! What goes over sockets: bodies of the client API, messages between brokers, and error codes.

pub mod admin;
pub mod client;
pub mod discovery;
pub mod error;
pub mod internal;
pub mod replicate;
