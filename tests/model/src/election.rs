//! The election and the register of metadata, as `core/src/control` does them.
//!
//! Messages are kept for ever and may be delivered at any time, any number of times: that covers loss, delay, repetition
//! and reordering. A claim may begin at any moment, so what only postpones claims (ELECTION, leases, the order of ids)
//! is left out. An image is the chain of changes that made it. Sources: Viewstamped Replication, CASPaxos.

pub use self::state::*;
use stateright::{Model, Property};
use std::collections::{BTreeMap, BTreeSet};

mod state;

/// The rule that a variant weakens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Rule {
    /// Nothing is weakened.
    Correct,
    NoMajority,
    PromiseNotPersisted,
    DoubleVote,
    WinnerKeepsOwnImage,
    AcceptIgnoresEpoch,
    FreshestByVersionOnly,
    OldTagWithoutBarrier,
    LostVolumeVotes,
    VoterReplacedInOneStep,
    CandidateSurvivesAccept,
    /// F1 alone is missing; F2 still binds the vote.
    WithoutF1,
    /// F2 alone is missing; F1 still ends the candidacy.
    WithoutF2,
    /// A promise names a volume instead of a broker id.
    PromiseNamesBroker,
    /// An older copy is refused promises, but accepts images.
    RolledBackAccepts,
    /// An older copy promises and accepts nothing, but stands.
    RolledBackStands,
    /// The copy is of the present run: its `boot` is not lower than the registered one, and nothing notices.
    RolledBackUnnoticed,
}

/// A rule set with its bounds.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Election {
    pub rule: Rule,
    /// Broker id of each volume.
    pub ids: Vec<u8>,
    /// First voters.
    pub voters: Volumes,
    /// There is no image yet: every broker id has to promise.
    pub founding: bool,
    pub epochs: u8,
    pub versions: usize,
    pub crashes: u8,
    pub losses: u8,
    pub rollbacks: u8,
    /// Voter sets that a controller may propose.
    pub changes: Vec<Volumes>,
    /// Claims take an epoch that nobody claimed: deeper searches at the same cost.
    pub fresh_epochs: bool,
}

fn place(image: &Image) -> (u8, usize) {
    (image.last().map_or(0, |change| change.epoch), image.len())
}

fn has(set: Volumes, volume: Volume) -> bool {
    set & (1 << volume) != 0
}

fn is_majority(of: Volumes, set: Volumes) -> bool {
    (of & set).count_ones() * 2 > of.count_ones()
}

impl Election {
    /// Returns a rule set for that many voters, without faults.
    pub fn new(rule: Rule, count: u8, epochs: u8, versions: usize) -> Self {
        Self {
            rule,
            ids: (0..count).collect(),
            voters: (1 << count) - 1,
            founding: false,
            epochs,
            versions,
            crashes: 0,
            losses: 0,
            rollbacks: 0,
            changes: Vec::new(),
            fresh_epochs: false,
        }
    }

    fn is(&self, rule: Rule) -> bool {
        self.rule == rule
    }

    fn voters_of(&self, image: &Image) -> Volumes {
        image.last().map_or(self.voters, |change| change.voters)
    }

    /// Returns whom a promise to that volume names.
    fn name(&self, volume: Volume) -> u8 {
        if self.is(Rule::PromiseNamesBroker) { self.ids[usize::from(volume)] } else { volume }
    }

    fn fresher(&self, one: &Image, other: &Image) -> bool {
        if self.is(Rule::FreshestByVersionOnly) { one.len() > other.len() } else { place(one) > place(other) }
    }

    /// Only volumes that an image names vote, and none that was put back in time.
    fn may_promise(&self, voter: &Voter) -> bool {
        (!voter.lost || self.is(Rule::LostVolumeVotes))
            && (!voter.rolled_back || self.is(Rule::RolledBackUnnoticed))
    }

    fn may_accept(&self, voter: &Voter) -> bool {
        let old = voter.rolled_back && self.is(Rule::RolledBackAccepts);
        self.may_promise(voter) || (old && !voter.lost)
    }

    fn may_stand(&self, voter: &Voter, volume: Volume) -> bool {
        let old = voter.rolled_back && self.is(Rule::RolledBackStands);
        has(self.voters_of(&voter.accepted), volume) && (self.may_promise(voter) || old)
    }

    /// Returns the first voters of a founded cluster, if every broker id promised (unanimity instead of a majority).
    fn founders(&self, me: Volume, grants: Volumes) -> Option<Volumes> {
        let mut chosen = BTreeMap::from([(self.ids[usize::from(me)], me)]);
        for volume in (0..).take(self.ids.len()).filter(|volume| has(grants, *volume)) {
            chosen.entry(self.ids[usize::from(volume)]).or_insert(volume);
        }
        let all: BTreeSet<_> = self.ids.iter().collect();
        (chosen.len() == all.len()).then(|| chosen.values().fold(0, |set, volume| set | 1 << volume))
    }

    /// Wins if the promises suffice, and proposes the barrier.
    fn try_win(&self, state: &mut State, me: Volume) {
        let voter = &state.voters[usize::from(me)];
        let Role::Claiming { grants, best } = &voter.role else { return };
        let mut image = if self.is(Rule::WinnerKeepsOwnImage) { &voter.accepted } else { best }.clone();
        let voters = if self.founding && image.is_empty() {
            let Some(founders) = self.founders(me, *grants) else { return };
            founders
        } else {
            let voters = self.voters_of(&image);
            let enough = is_majority(voters, *grants) || self.is(Rule::NoMajority);
            if !has(voters, me) || !enough {
                return;
            }
            voters
        };
        if !self.is(Rule::OldTagWithoutBarrier) || image.is_empty() {
            if image.len() >= self.versions {
                return;
            }
            image.push(Change { epoch: voter.epoch, by: me, voters });
        }
        self.propose(state, me, image);
    }

    fn propose(&self, state: &mut State, me: Volume, image: Image) {
        let voter = &mut state.voters[usize::from(me)];
        let committed = is_majority(self.voters_of(&image), 1 << me);
        voter.accepted.clone_from(&image);
        voter.role = Role::Leading { accepted: 1 << me, committed };
        state.sent.insert(Message::Accept { epoch: voter.epoch, from: me, image: image.clone() });
        state.sent.insert(Message::Accepted { from: me, to: self.ids[usize::from(me)], image });
    }

    fn claim(&self, state: &mut State, me: Volume) -> Option<()> {
        let claimed = state.sent.iter().filter_map(|message| match message {
            Message::Claim { epoch, .. } => Some(*epoch),
            Message::Grant { .. } | Message::Accept { .. } | Message::Accepted { .. } => None,
        });
        let newest = if self.fresh_epochs { claimed.max().unwrap_or(0) } else { 0 };
        let voter = &mut state.voters[usize::from(me)];
        voter.epoch = voter.epoch.max(newest) + 1;
        if voter.epoch > self.epochs {
            return None;
        }
        voter.voted_for = Some(self.name(me));
        voter.role = Role::Claiming { grants: 1 << me, best: voter.accepted.clone() };
        let founding = self.founding && voter.accepted.is_empty();
        let voters = self.voters_of(&voter.accepted);
        state.sent.insert(Message::Claim { epoch: voter.epoch, from: me, voters, founding });
        self.try_win(state, me);
        Some(())
    }

    /// A claim names the volume that it expects (`expect_storage`); a candidate repeats it to the voters of its image.
    fn is_asked(&self, state: &State, from: Volume, voters: Volumes, to: Volume) -> bool {
        let claimant = &state.voters[usize::from(from)];
        let again = matches!(claimant.role, Role::Claiming { .. });
        let loose = self.is(Rule::LostVolumeVotes);
        loose || has(voters, to) || (again && has(self.voters_of(&claimant.accepted), to))
    }

    fn on_claim(&self, state: &mut State, to: Volume, claim: (u8, Volume, bool)) -> Option<()> {
        let (epoch, from, founding) = claim;
        let voter = &mut state.voters[usize::from(to)];
        let name = self.name(from);
        let free = voter.voted_for.is_none_or(|to| to == name) || self.is(Rule::DoubleVote);
        let open = epoch > voter.epoch || (epoch == voter.epoch && free);
        if !open || !self.may_promise(voter) || (founding && !voter.accepted.is_empty()) {
            return None;
        }
        if (epoch, Some(name)) != (voter.epoch, voter.voted_for) {
            voter.role = Role::Follower;
            (voter.epoch, voter.voted_for) = (epoch, Some(name));
        }
        let image = voter.accepted.clone();
        state.sent.insert(Message::Grant { epoch, from: to, to: name, image });
        Some(())
    }

    fn on_grant(&self, state: &mut State, to: Volume, epoch: u8, grant: (Volume, &Image)) -> Option<()> {
        let (from, image) = grant;
        let voter = &mut state.voters[usize::from(to)];
        let founding = self.founding && voter.accepted.is_empty();
        let Role::Claiming { grants, best } = &mut voter.role else { return None };
        if epoch != voter.epoch || (founding && !image.is_empty()) {
            return None;
        }
        *grants |= 1 << from;
        if self.fresher(image, best) {
            best.clone_from(image);
        }
        self.try_win(state, to);
        Some(())
    }

    fn on_accept(&self, state: &mut State, to: Volume, proposal: (u8, Volume, &Image)) -> Option<()> {
        let (epoch, from, image) = proposal;
        let name = self.name(from);
        let voter = &mut state.voters[usize::from(to)];
        if !self.may_accept(voter) || (epoch < voter.epoch && !self.is(Rule::AcceptIgnoresEpoch)) {
            return None;
        }
        // Another cluster's image is refused.
        if self.founding && !voter.accepted.is_empty() && voter.accepted[0] != image[0] {
            return None;
        }
        let newer = epoch > voter.epoch;
        let survives = self.is(Rule::CandidateSurvivesAccept);
        if newer || !(survives || self.is(Rule::WithoutF1)) {
            voter.role = Role::Follower;
        }
        if newer || !(survives || self.is(Rule::WithoutF2)) {
            voter.voted_for = Some(name);
        }
        voter.epoch = epoch;
        let retagged = self.is(Rule::OldTagWithoutBarrier) && place(image).0 != epoch;
        if place(image) > place(&voter.accepted) || (retagged && place(&voter.accepted).0 != epoch) {
            voter.accepted.clone_from(image);
        }
        if place(image) == place(&voter.accepted) {
            let image = voter.accepted.clone();
            state.sent.insert(Message::Accepted { from: to, to: self.ids[usize::from(from)], image });
        }
        Some(())
    }

    /// The answer names a place, not a content: what counts is that the proposal in flight is at that place.
    fn on_accepted(&self, state: &mut State, to: Volume, from: Volume, image: &Image) -> Option<()> {
        let voter = &mut state.voters[usize::from(to)];
        let voters = self.voters_of(&voter.accepted);
        let same = place(&voter.accepted) == place(image);
        let Role::Leading { accepted, committed } = &mut voter.role else { return None };
        if !same {
            return None;
        }
        *accepted |= 1 << from;
        *committed = is_majority(voters, *accepted);
        Some(())
    }

    fn deliver(&self, state: &mut State, message: Message, to: Volume) -> Option<()> {
        match message {
            Message::Claim { epoch, from, voters, founding } => {
                let asked = self.is_asked(state, from, voters, to);
                asked.then(|| self.on_claim(state, to, (epoch, from, founding)))?
            }
            Message::Grant { epoch, from, to: _, image } => self.on_grant(state, to, epoch, (from, &image)),
            Message::Accept { epoch, from, image } => self.on_accept(state, to, (epoch, from, &image)),
            Message::Accepted { from, to: _, image } => self.on_accepted(state, to, from, &image),
        }
    }

    /// Returns the images that a majority of their own voters ever accepted.
    fn chosen(&self, state: &State) -> Vec<Image> {
        let mut by: BTreeMap<&Image, Volumes> = BTreeMap::new();
        for message in &state.sent {
            if let Message::Accepted { from, image, .. } = message {
                *by.entry(image).or_default() |= 1 << from;
            }
        }
        let chosen = by.into_iter().filter(|(image, by)| is_majority(self.voters_of(image), *by));
        chosen.map(|(image, _)| image.clone()).collect()
    }

    fn receivers(&self, message: &Message) -> Vec<Volume> {
        let is_meant = |volume: Volume| match message {
            Message::Claim { from, .. } => volume != *from,
            Message::Accept { from, image, .. } => volume != *from && has(self.voters_of(image), volume),
            Message::Grant { from, to, .. } => volume != *from && self.name(volume) == *to,
            Message::Accepted { from, to, .. } => volume != *from && self.ids[usize::from(volume)] == *to,
        };
        (0..).take(self.ids.len()).filter(|volume| is_meant(*volume)).collect()
    }

    fn faults(&self, state: &State, volume: Volume, steps: &mut Vec<Step>) {
        let voter = &state.voters[usize::from(volume)];
        let forgets = self.is(Rule::PromiseNotPersisted);
        if state.crashes < self.crashes && (voter.role != Role::Follower || forgets) {
            steps.push(Step::Crash(volume));
        }
        if state.losses < self.losses {
            steps.push(Step::Lose(volume));
        }
        if state.rollbacks < self.rollbacks && state.copy.is_none() {
            steps.push(Step::Copy(volume));
        }
    }

    fn proposals(&self, voter: &Voter, me: Volume, steps: &mut Vec<Step>) {
        let Role::Leading { committed: true, .. } = voter.role else { return };
        if voter.accepted.len() >= self.versions {
            return;
        }
        let voters = self.voters_of(&voter.accepted);
        steps.push(Step::Propose(me, voters));
        for change in self.changes.iter().filter(|change| has(**change, me)) {
            let distance = (change ^ voters).count_ones();
            if distance == 1 || (distance > 1 && self.is(Rule::VoterReplacedInOneStep)) {
                steps.push(Step::Propose(me, *change));
            }
        }
    }

    fn fault(&self, state: &mut State, step: &Step) -> Option<()> {
        match step {
            Step::Crash(volume) => {
                state.crashes += 1;
                let voter = &mut state.voters[usize::from(*volume)];
                voter.role = Role::Follower;
                if self.is(Rule::PromiseNotPersisted) {
                    (voter.epoch, voter.voted_for) = (place(&voter.accepted).0, None);
                }
            }
            Step::Lose(volume) => {
                state.losses += 1;
                state.voters[usize::from(*volume)] = Voter { lost: true, ..empty() };
            }
            Step::Copy(volume) => {
                let voter = state.voters[usize::from(*volume)].clone();
                state.copy = Some((*volume, Voter { role: Role::Follower, rolled_back: true, ..voter }));
            }
            Step::RollBack => {
                let (volume, copy) = state.copy.clone()?;
                state.rollbacks += 1;
                state.voters[usize::from(volume)] = copy;
            }
            Step::Claim(_) | Step::Propose(..) | Step::Deliver(..) => return None,
        }
        Some(())
    }
}

fn empty() -> Voter {
    Voter {
        epoch: 0,
        voted_for: None,
        accepted: Vec::new(),
        role: Role::Follower,
        lost: false,
        rolled_back: false,
    }
}

fn one_controller_an_epoch(state: &State) -> bool {
    let mut controllers = BTreeMap::new();
    state.sent.iter().all(|message| match message {
        Message::Accept { epoch, from, .. } => *controllers.entry(*epoch).or_insert(*from) == *from,
        Message::Claim { .. } | Message::Grant { .. } | Message::Accepted { .. } => true,
    })
}

fn one_chain(images: &[Image]) -> bool {
    images.iter().all(|one| images.iter().all(|other| one.starts_with(other) || other.starts_with(one)))
}

impl Model for Election {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let voters = vec![empty(); self.ids.len()];
        vec![State { voters, sent: BTreeSet::new(), crashes: 0, losses: 0, rollbacks: 0, copy: None }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for (volume, voter) in (0..).zip(&state.voters) {
            if self.may_stand(voter, volume) && voter.epoch < self.epochs {
                steps.push(Step::Claim(volume));
            }
            self.faults(state, volume, steps);
            self.proposals(voter, volume, steps);
        }
        if state.copy.is_some() && state.rollbacks < self.rollbacks {
            steps.push(Step::RollBack);
        }
        for message in &state.sent {
            let receivers = self.receivers(message);
            steps.extend(receivers.into_iter().map(|to| Step::Deliver(message.clone(), to)));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Claim(volume) => self.claim(&mut state, volume)?,
            Step::Propose(me, voters) => {
                let voter = &state.voters[usize::from(me)];
                let mut image = voter.accepted.clone();
                image.push(Change { epoch: voter.epoch, by: me, voters });
                self.propose(&mut state, me, image);
            }
            Step::Deliver(message, to) => self.deliver(&mut state, message, to)?,
            fault @ (Step::Crash(_) | Step::Lose(_) | Step::Copy(_) | Step::RollBack) => {
                self.fault(&mut state, &fault)?;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one controller an epoch", |_: &Self, state: &State| {
                one_controller_an_epoch(state)
            }),
            Property::always("committed images form one chain", |model: &Self, state: &State| {
                one_chain(&model.chosen(state))
            }),
            Property::sometimes("commits in several epochs", |model: &Self, state: &State| {
                model
                    .chosen(state)
                    .iter()
                    .any(|image| image.windows(2).any(|two| two[0].epoch < two[1].epoch))
            }),
        ]
    }
}
