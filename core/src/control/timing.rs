//! How long each wait is, after scaling. All of it is for liveness only; no rule of safety looks at a clock.

use crate::Mono;

/// Scaled waits, ms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Between two HEARTBEATs to the same broker.
    pub(crate) heartbeat: Mono,
    /// Silence of the controller after which the highest voter stands; at least four heartbeats.
    pub(crate) elect: Mono,
    /// Added for each higher voter, so that normally one candidate stands.
    pub(crate) rank: Mono,
    /// A controller that a majority has not answered for so long steps down; less than `elect`.
    pub(crate) lease: Mono,
    /// Wait for OKs.
    pub(crate) ok: Mono,
    /// Wait for the COORDINATOR of a higher voter.
    pub(crate) coordinator: Mono,
    /// Wait for GRANTs.
    pub(crate) claim: Mono,
    /// A higher voter that did not become controller is passed over for so long.
    pub(crate) skip: Mono,
    /// Silence after which a broker is fenced.
    pub(crate) session: Mono,
    /// Two refused connections so far apart end a session at once.
    pub(crate) refusals: Mono,
    /// Silence after which a follower pokes its controller's port, to learn of a refused connection.
    pub(crate) poke: Mono,
    /// A tick later than this means that the process, not the controller, was silent.
    pub(crate) late: Mono,
    /// Time for the inbox to be processed after a late tick.
    pub(crate) grace: Mono,
    /// Between two gossip rounds.
    pub(crate) gossip: Mono,
    /// Between two announcements of an unregistered process.
    pub(crate) announce: Mono,
    /// Longest wait for a handover before stopping anyway.
    pub(crate) stop: Mono,
    /// Gossip entries are dropped when unchanged for so long.
    pub(crate) forget: Mono,
    /// A founder that lost its volume votes again after being followed without a gap for so long.
    pub(crate) replace: Mono,
    /// A feature level is raised once all brokers that can read it have been back for so long.
    pub(crate) raise: Mono,
    /// A higher voter must have been back for so long before a controller that yields hands over to it.
    pub(crate) preempt: Mono,
    /// Between two rounds of moving leaderships back, and how long a broker must be back for that.
    pub(crate) balance: Mono,
    /// Silence after which a broker is not waited for any more, where that costs records and a topic says so.
    pub(crate) abandon: Mono,
    /// Voters that have not registered so long after an election are not waited for any more.
    pub(crate) settle: Mono,
}

impl Timing {
    /// Returns the waits of `docs/protocol.md`, multiplied by `scale` (0 counts as 1).
    pub(crate) fn scaled(scale: u32) -> Self {
        let scale = Mono::from(scale.max(1));
        Self {
            heartbeat: 250 * scale,
            elect: 1_000 * scale,
            rank: 150 * scale,
            lease: 800 * scale,
            ok: 250 * scale,
            coordinator: 750 * scale,
            claim: 500 * scale,
            skip: 10_000 * scale,
            session: 1_500 * scale,
            refusals: 200 * scale,
            poke: 350 * scale,
            late: 300 * scale,
            grace: 250 * scale,
            gossip: 1_000 * scale,
            announce: 500 * scale,
            stop: 2_000 * scale,
            forget: 3_600_000 * scale,
            replace: 30_000 * scale,
            raise: 600_000 * scale,
            preempt: 30_000 * scale,
            balance: 60_000 * scale,
            abandon: 15_000 * scale,
            settle: 5_000 * scale,
        }
    }
}
