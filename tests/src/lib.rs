//! The harness of the tests that span crates.

pub mod apiserver;
pub mod brokers;
pub mod chaos;
pub mod cluster;
pub mod history;
pub mod http;
pub mod kind;
pub mod proxy;
pub mod sim;
pub mod sse;
pub mod workload;
