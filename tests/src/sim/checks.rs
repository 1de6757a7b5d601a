//! The invariants of `docs/protocol.md`, checked on every step of a run from the outside: what was synced, what was
//! sent, what was applied and what was shown to readers.

mod copies;
pub mod groups;
pub mod logs;
pub mod metadata;

use pubsub_core::invariants::Invariant;

/// A broken invariant.
pub type Broken = (Invariant, String);

/// The outcome of one check.
pub type Checked = Result<(), Broken>;

/// Fails with `invariant` unless `holds`.
pub(crate) fn ensure(holds: bool, invariant: Invariant, detail: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err((invariant, detail())) }
}
