//! The rules of Pubsub: identifiers, limits, wire types and state machines.
//!
//! Nothing here performs IO, reads a clock or is asynchronous. Every machine is a step function
//! `(state, now, input) -> actions`; time enters as milliseconds, randomness as a seed at construction and
//! storage as actions whose completion comes back as an input. The broker, the simulator and the tests run
//! the very same machines.

pub mod control;
pub mod group;
pub mod ids;
pub mod invariants;
pub mod limits;
pub mod partition;
pub mod record;
pub mod wire;

/// Milliseconds of a local monotonic clock, counted from an arbitrary start. Never wall-clock time.
pub type Mono = u64;
