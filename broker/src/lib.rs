//! The broker: SQLite storage, replication, the client API, and the tasks that own the core's machines.

pub mod handle;
pub mod http;
pub mod store;
