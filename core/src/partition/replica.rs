//! One replica: its log and what it does at present.

use super::leader::Leading;
use super::log::Log;
use super::rules::Rules;
use super::{ReplicaView, Role};
use crate::Mono;
use crate::ids::BrokerId;

/// One replica held by this broker.
#[derive(Debug, Default)]
pub(super) struct Replica {
    pub(super) log: Log,
    pub(super) part: Part,
    /// When the leader was last heard.
    pub(super) leader_seen: Option<Mono>,
    /// The same, as last shown: contact alone is not worth showing at every message.
    pub(super) leader_seen_shown: Option<Mono>,
    /// A broken invariant was reported in this leader epoch.
    pub(super) alarmed: bool,
}

/// What a replica does at present.
#[derive(Debug, Default)]
pub(super) enum Part {
    #[default]
    Offline,
    Follower,
    Leader(Box<Leading>),
}

impl Replica {
    pub(super) fn new(log: Log) -> Self {
        Self { log, ..Self::default() }
    }

    pub(super) fn leading(&self) -> Option<&Leading> {
        match &self.part {
            Part::Leader(leading) => Some(leading),
            Part::Follower | Part::Offline => None,
        }
    }

    /// Returns the log together with the leader's state.
    pub(super) fn led(&mut self) -> Option<(&mut Log, &mut Leading)> {
        match &mut self.part {
            Part::Leader(leading) => Some((&mut self.log, leading)),
            Part::Follower | Part::Offline => None,
        }
    }

    pub(super) fn view(&self, me: BrokerId, rules: &Rules) -> ReplicaView {
        let (role, followers) = match &self.part {
            Part::Offline => (Role::Offline, None),
            Part::Follower => (Role::Follower, None),
            Part::Leader(leading) => (Role::Leader, Some(leading)),
        };
        ReplicaView {
            role,
            leader_epoch: self.log.leader_epoch,
            log_start: self.log.start,
            high_watermark: self.log.readable_end(),
            log_end: self.log.end,
            followers: followers.into_iter().flat_map(|leading| leading.matches()).collect(),
            leader_seen: self.leader_seen,
            proven: followers.map_or(0, |leading| leading.proven(me, rules)),
        }
    }
}
