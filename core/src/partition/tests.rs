//! The machines of a small cluster against each other: the scenarios of `docs/protocol.md` §5 that concern replication,
//! and random interleavings.
#![allow(clippy::unwrap_used)]

mod proofs;
mod random;
mod scenarios;
mod world;
