//! The harness of the tests that span crates.

pub mod sim;
