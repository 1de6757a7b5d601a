//! What the model of the election consists of.

use std::collections::BTreeSet;

/// A data volume with the process that runs on it. Several volumes may bear one broker id.
pub type Volume = u8;
/// A set of volumes, one bit each.
pub type Volumes = u8;
/// An image: every change since the beginning.
pub type Image = Vec<Change>;

/// One proposed change of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Change {
    /// Epoch of the controller that proposed it.
    pub epoch: u8,
    /// Volume of that controller.
    pub by: Volume,
    /// Who votes from here on.
    pub voters: Volumes,
}

/// What a volume does about the controller's role. Lost when the process ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Neither claims nor leads.
    Follower,
    /// Collects promises, and the freshest image that came with them.
    Claiming {
        /// Who promised.
        grants: Volumes,
        /// The freshest image of theirs.
        best: Image,
    },
    /// Has proposed its newest image.
    Leading {
        /// Who accepted it.
        accepted: Volumes,
        /// A majority did.
        committed: bool,
    },
}

/// What is on a volume, and the role of its process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Voter {
    /// Promised epoch.
    pub epoch: u8,
    /// Broker id that has the promise.
    pub voted_for: Option<u8>,
    /// Accepted image.
    pub accepted: Image,
    /// What the process does.
    pub role: Role,
    /// The volume came back empty: no storage id in an image is its own.
    pub lost: bool,
    /// The volume came back as an older copy of itself.
    pub rolled_back: bool,
}

/// A message; see `core/src/wire/internal.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Message {
    Claim {
        epoch: u8,
        from: Volume,
        voters: Volumes,
        founding: bool,
    },
    Grant {
        epoch: u8,
        from: Volume,
        to: u8,
        image: Image,
    },
    Accept {
        epoch: u8,
        from: Volume,
        image: Image,
    },
    /// Names the asked place by its image's length; the epoch is the image's.
    Accepted {
        from: Volume,
        to: u8,
        image: Image,
    },
}

/// All volumes and all messages ever sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct State {
    pub voters: Vec<Voter>,
    pub sent: BTreeSet<Message>,
    pub crashes: u8,
    pub losses: u8,
    pub rollbacks: u8,
    /// An older copy of one volume.
    pub copy: Option<(Volume, Voter)>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Step {
    Claim(Volume),
    Crash(Volume),
    Lose(Volume),
    Copy(Volume),
    RollBack,
    Propose(Volume, Volumes),
    Deliver(Message, Volume),
}
