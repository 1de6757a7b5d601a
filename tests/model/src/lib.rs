//! Models of the two cores of Pubsub, small enough to look at every state within bounds: the election with its register
//! of metadata, and the replication of a partition. A third one shows why the classic Bully algorithm is not enough.
//!
//! Each rule set is checked as it is (it must hold) and with one rule weakened (it must be refuted): a model that finds
//! nothing proves nothing. `docs/protocol.md` has the results.

pub mod bully;
pub mod checks;
pub mod election;
pub mod explore;
pub mod replication;
