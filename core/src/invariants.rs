//! The invariants of `docs/protocol.md`, one name each, used by code, metrics and the simulator alike.

use serde::{Deserialize, Serialize};

/// An invariant's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Invariant {
    /// At most one controller per epoch.
    E1,
    /// A promise is synced before it is answered, and never regresses.
    E2,
    /// Committed images form one chain; the applied one never regresses.
    M1,
    /// Every acknowledged admin change is in all later committed images until undone.
    M2,
    /// Acknowledged `acks=all` records are never lost.
    R1,
    /// Equal offset below any two high watermarks: equal epoch and bytes.
    R2,
    /// Committed offsets are never reused; the high watermark grows within a leader epoch.
    R3,
    /// At most one leader per partition and leader epoch; a process leads an epoch once.
    R4,
    /// No truncation below the own high watermark.
    R5,
    /// Consumers see strictly increasing offsets of committed records only.
    R6,
    /// A producer's sequence is stored at most once per partition.
    P1,
    /// At most one member owns a partition; fenced members' commits are refused.
    G1,
    /// With commits after processing, everything produced is processed.
    G2,
    /// Data is removed only after a tombstone, or below a log start that is not above the high watermark.
    T1,
    /// After faults stop, leadership and ISRs recover.
    V1,
    /// Discovery and gossip never change a persisted decision.
    D1,
}
