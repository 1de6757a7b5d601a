//! Replication of one partition, as `core/src/partition` and `core/src/control/policy.rs` do it.
//!
//! The controller is one atomic register (its own safety is the other model's matter) that may elect any in-sync replica
//! at any moment. Messages stay for ever. A request carries the whole log, where the code sends a suffix after a search
//! for the agreement; a write is synced at once. Sources: KIP-101, KIP-279, KIP-903, KIP-966.

pub use self::state::*;
use stateright::{Model, Property};
use std::collections::BTreeSet;

const MIN_ISR: u32 = 2;

mod state;

/// The rule that a variant weakens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Rule {
    /// Nothing is weakened.
    Correct,
    TruncateToHighWatermark,
    AcknowledgeOwnEnd,
    ShrinkBeforeCommit,
    PendingNotCounted,
    JoinAtHighWatermark,
    IgnoreLeaderEpoch,
    NoBrokerEpoch,
    LostVolumeStaysInIsr,
    NoIsrFloor,
    CommitBelowMinIsr,
    UncleanElection,
    /// A restarted leader keeps its leader epoch. Safe as long as logs are durable.
    LeaderResumesEpoch,
}

/// A rule set with its bounds.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Replication {
    pub rule: Rule,
    pub records: usize,
    pub epochs: u8,
    pub wishes: u8,
    pub crashes: u8,
    pub losses: u8,
    /// Begins where two replicas committed a record after the third had left the ISR.
    pub after_commit: bool,
}

fn has(set: Set, replica: usize) -> bool {
    set & (1 << replica) != 0
}

fn length(log: &[Record]) -> u8 {
    u8::try_from(log.len()).unwrap_or(u8::MAX)
}

impl Replication {
    fn is(&self, rule: Rule) -> bool {
        self.rule == rule
    }

    /// Moves the high watermark to the lowest match of the maximal ISR.
    fn advance(&self, state: &mut State, me: usize) {
        let replica = &mut state.replicas[me];
        let Some(leading) = &replica.leading else { return };
        let needed = if self.is(Rule::CommitBelowMinIsr) { 1 } else { MIN_ISR };
        if leading.isr.count_ones() < needed {
            return;
        }
        let adding = if self.is(Rule::PendingNotCounted) { 0 } else { leading.adding };
        let others = (0..REPLICAS).filter(|other| *other != me && has(leading.isr | adding, *other));
        let end = others.map(|other| leading.matched[other]).fold(length(&replica.log), u8::min);
        if end <= replica.high_watermark {
            return;
        }
        replica.high_watermark = end;
        let committed = &replica.log[..usize::from(end)];
        if committed.starts_with(&state.committed) {
            state.committed = committed.to_vec();
        } else if !state.committed.starts_with(committed) {
            state.forked = true;
        }
    }

    fn adopt(&self, replica: &mut Replica, leader_epoch: u8) {
        replica.leader_epoch = leader_epoch;
        replica.leading = None;
        if self.is(Rule::TruncateToHighWatermark) {
            replica.log.truncate(usize::from(replica.high_watermark));
        }
    }

    /// A broker learns the newest image.
    fn learn(&self, state: &mut State, me: usize) {
        let entry = state.entry.clone();
        let replica = &mut state.replicas[me];
        if entry.leader_epoch < replica.leader_epoch || entry.registered[me] != replica.process {
            return;
        }
        let newer = entry.leader_epoch > replica.leader_epoch;
        let leads = entry.leader.map(usize::from) == Some(me);
        match &mut replica.leading {
            Some(leading) if leads && !newer => refresh(leading, &entry),
            _ if leads && (newer || self.is(Rule::LeaderResumesEpoch)) => {
                replica.leader_epoch = entry.leader_epoch;
                replica.leading = Some(Leading {
                    isr: entry.isr,
                    part_epoch: entry.part_epoch,
                    adding: 0,
                    matched: [0; REPLICAS],
                    epoch_start: length(&replica.log),
                    registered: entry.registered,
                });
            }
            _ if newer => self.adopt(replica, entry.leader_epoch),
            _ => {}
        }
        self.advance(state, me);
    }

    /// A leader wishes that a replica leaves or joins the ISR.
    fn wish(&self, state: &mut State, me: usize, other: usize) -> Option<()> {
        let replica = &mut state.replicas[me];
        let leading = replica.leading.as_mut()?;
        let isr = leading.isr ^ (1 << other);
        let matched = leading.matched[other];
        if has(leading.isr, other) {
            let floored = !self.is(Rule::NoIsrFloor) && !self.is(Rule::CommitBelowMinIsr);
            if floored && isr.count_ones() < MIN_ISR {
                return None;
            }
        } else {
            let start = if self.is(Rule::JoinAtHighWatermark) { 0 } else { leading.epoch_start };
            if matched < replica.high_watermark.max(start) {
                return None;
            }
            leading.adding |= 1 << other;
        }
        state.wishes += 1;
        let (part_epoch, registered) = (leading.part_epoch, leading.registered);
        let leader_epoch = replica.leader_epoch;
        if self.is(Rule::ShrinkBeforeCommit) {
            leading.isr &= isr;
        }
        state.sent.insert(Message::AlterIsr { leader_epoch, part_epoch, isr, registered });
        self.advance(state, me);
        Some(())
    }

    /// The controller does a wish, unless anything in it does not match the image.
    fn alter(&self, entry: &mut Entry, message: Message) -> Option<()> {
        let Message::AlterIsr { leader_epoch, part_epoch, isr, registered } = message else { return None };
        let same = |member: usize| !has(isr, member) || registered[member] == entry.registered[member];
        let known = self.is(Rule::NoBrokerEpoch) || (0..REPLICAS).all(same);
        if !known
            || entry.leader.is_none()
            || (leader_epoch, part_epoch) != (entry.leader_epoch, entry.part_epoch)
        {
            return None;
        }
        entry.isr = isr;
        entry.part_epoch += 1;
        Some(())
    }

    /// The controller admits a process: it never leads on in its old epoch, and an emptied volume leaves the ISR.
    fn register(&self, state: &mut State, me: usize) {
        let replica = &mut state.replicas[me];
        let entry = &mut state.entry;
        let before = (entry.isr, entry.leader);
        entry.registered[me] = replica.process;
        let last = self.is(Rule::NoIsrFloor) && entry.isr == 1 << me;
        if replica.emptied && !self.is(Rule::LostVolumeStaysInIsr) && !last {
            entry.isr &= !(1 << me);
        }
        let resumes = self.is(Rule::LeaderResumesEpoch) && !replica.emptied;
        if entry.leader.map(usize::from) == Some(me) && !resumes {
            entry.leader = None;
        }
        if before != (entry.isr, entry.leader) {
            entry.part_epoch += 1;
        }
        replica.emptied = false;
    }

    /// A follower appends what is new, and cuts its log only where it conflicts.
    fn replicate(&self, state: &mut State, me: usize, message: Message) -> Option<()> {
        let Message::Replicate { leader_epoch, from, log, high_watermark, to } = message else { return None };
        let current = to[me] == state.replicas[me].process || self.is(Rule::NoBrokerEpoch);
        if state.entry.registered[me] != state.replicas[me].process || !current {
            return None;
        }
        let replica = &mut state.replicas[me];
        if leader_epoch < replica.leader_epoch && !self.is(Rule::IgnoreLeaderEpoch) {
            return None;
        }
        if leader_epoch > replica.leader_epoch {
            self.adopt(replica, leader_epoch);
        }
        if replica.leading.is_some() {
            return None;
        }
        let same = replica.log.iter().zip(&log).take_while(|(mine, theirs)| mine == theirs).count();
        if same < log.len() {
            replica.log.truncate(same);
            replica.log.extend_from_slice(&log[same..]);
        }
        let told = high_watermark.min(length(&log));
        replica.high_watermark = replica.high_watermark.max(told).min(length(&replica.log));
        let proven = if self.is(Rule::AcknowledgeOwnEnd) { &replica.log } else { &log };
        let (end, process) = (length(proven), replica.process);
        let me = u8::try_from(me).ok()?;
        state.sent.insert(Message::Matched { leader_epoch, from: me, to: from, end, process });
        Some(())
    }

    /// A leader hears what a follower's synced log is proven to hold.
    fn matched(&self, state: &mut State, me: usize, message: &Message) -> Option<()> {
        let Message::Matched { leader_epoch, from, end, process, .. } = message else { return None };
        let replica = &mut state.replicas[me];
        if replica.leader_epoch != *leader_epoch {
            return None;
        }
        let leading = replica.leading.as_mut()?;
        let from = usize::from(*from);
        if leading.registered[from] != *process && !self.is(Rule::NoBrokerEpoch) {
            return None;
        }
        leading.matched[from] = leading.matched[from].max(*end);
        self.advance(state, me);
        Some(())
    }

    fn of_replica(&self, state: &State, me: u8, steps: &mut Vec<Step>) {
        let replica = &state.replicas[usize::from(me)];
        steps.push(Step::Learn(me));
        let in_sync = has(state.entry.isr, usize::from(me)) || self.is(Rule::UncleanElection);
        if state.entry.leader_epoch < self.epochs && in_sync {
            steps.push(Step::Elect(me));
        }
        if state.crashes < self.crashes && (replica.leading.is_some() || replica.high_watermark > 0) {
            steps.push(Step::Crash(me));
        }
        if state.losses < self.losses && !replica.log.is_empty() {
            steps.push(Step::Lose(me));
        }
        if replica.process != state.entry.registered[usize::from(me)] {
            steps.push(Step::Register(me));
        }
        if replica.leading.is_some() {
            if replica.log.len() < self.records {
                steps.push(Step::Publish(me));
            }
            steps.push(Step::Send(me));
            if state.wishes < self.wishes {
                steps.extend((0..3).filter(|other| *other != me).map(|other| Step::Wish(me, other)));
            }
        }
    }

    /// Does the first steps of a search that would be long: replica 2 leaves the ISR, then a record is committed.
    fn committed_by_two(&self, mut state: State) -> Option<State> {
        for step in [Step::Learn(0), Step::Publish(0), Step::Wish(0, 2)] {
            state = self.next_state(&state, step)?;
        }
        let wish = state.sent.first().cloned()?;
        for step in [Step::Alter(wish), Step::Learn(0), Step::Send(0)] {
            state = self.next_state(&state, step)?;
        }
        let request = state.sent.first().cloned()?;
        state = self.next_state(&state, Step::Deliver(request, 1))?;
        let answer = state.sent.iter().find(|message| matches!(message, Message::Matched { .. })).cloned()?;
        self.next_state(&state, Step::Deliver(answer, 0))
    }

    fn of_leader(&self, state: &mut State, me: usize, publish: bool) -> Option<()> {
        let replica = &mut state.replicas[me];
        if publish {
            replica.log.push((replica.leader_epoch, state.published));
            state.published += 1;
            self.advance(state, me);
            return Some(());
        }
        let (log, to) = (replica.log.clone(), replica.leading.as_ref()?.registered);
        let (leader_epoch, high_watermark) = (replica.leader_epoch, replica.high_watermark);
        let from = u8::try_from(me).ok()?;
        state.sent.insert(Message::Replicate { leader_epoch, from, log, high_watermark, to });
        Some(())
    }
}

/// Learns the outcome of a wish, or that a registration is over.
fn refresh(leading: &mut Leading, entry: &Entry) {
    for other in 0..REPLICAS {
        if entry.registered[other] != leading.registered[other] {
            leading.matched[other] = 0;
            leading.adding &= !(1 << other);
        }
    }
    leading.registered = entry.registered;
    if entry.part_epoch != leading.part_epoch {
        (leading.isr, leading.part_epoch, leading.adding) = (entry.isr, entry.part_epoch, 0);
    }
}

fn restart(replica: &mut Replica) {
    (replica.leading, replica.high_watermark) = (None, 0);
    replica.process += 1;
}

fn leader_holds_all(state: &State) -> bool {
    (0..).zip(&state.replicas).all(|(id, replica)| {
        let leads = replica.leading.is_some()
            && state.entry.leader == Some(id)
            && replica.leader_epoch == state.entry.leader_epoch;
        !leads || replica.log.starts_with(&state.committed)
    })
}

fn readable_is_committed(state: &State) -> bool {
    let readable = |replica: &Replica| replica.log[..usize::from(replica.high_watermark)].to_vec();
    state.replicas.iter().all(|replica| state.committed.starts_with(&readable(replica)))
}

fn some_member_holds_all(state: &State) -> bool {
    let holds = |id: usize| has(state.entry.isr, id) && state.replicas[id].log.starts_with(&state.committed);
    u32::from(state.losses) >= MIN_ISR || (0..REPLICAS).any(holds)
}

/// Returns the first state: everything is empty, replica 0 is to lead.
fn start() -> State {
    let replica = Replica {
        log: Vec::new(),
        high_watermark: 0,
        leader_epoch: 0,
        leading: None,
        process: 0,
        emptied: false,
    };
    let registered = [0; REPLICAS];
    State {
        entry: Entry { leader: Some(0), leader_epoch: 1, part_epoch: 0, isr: 0b111, registered },
        replicas: vec![replica; REPLICAS],
        sent: BTreeSet::new(),
        committed: Vec::new(),
        forked: false,
        published: 0,
        losses: 0,
        crashes: 0,
        wishes: 0,
    }
}

impl Model for Replication {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let start = start();
        if self.after_commit { self.committed_by_two(start).into_iter().collect() } else { vec![start] }
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for me in 0..3 {
            self.of_replica(state, me, steps);
        }
        for message in &state.sent {
            match message {
                Message::Replicate { from, .. } => {
                    let others = (0..3).filter(|other| other != from);
                    steps.extend(others.map(|to| Step::Deliver(message.clone(), to)));
                }
                Message::Matched { to, .. } => steps.push(Step::Deliver(message.clone(), *to)),
                Message::AlterIsr { .. } => steps.push(Step::Alter(message.clone())),
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Learn(me) => self.learn(&mut state, usize::from(me)),
            Step::Publish(me) => self.of_leader(&mut state, usize::from(me), true)?,
            Step::Send(me) => self.of_leader(&mut state, usize::from(me), false)?,
            Step::Wish(me, other) => self.wish(&mut state, usize::from(me), usize::from(other))?,
            Step::Elect(me) => {
                state.entry.leader = Some(me);
                state.entry.leader_epoch += 1;
                state.entry.part_epoch += 1;
            }
            Step::Crash(me) => {
                state.crashes += 1;
                restart(&mut state.replicas[usize::from(me)]);
            }
            Step::Lose(me) => {
                state.losses += 1;
                let replica = &mut state.replicas[usize::from(me)];
                restart(replica);
                (replica.log, replica.leader_epoch, replica.emptied) = (Vec::new(), 0, true);
            }
            Step::Register(me) => self.register(&mut state, usize::from(me)),
            Step::Alter(message) => self.alter(&mut state.entry, message)?,
            Step::Deliver(message @ Message::Replicate { .. }, to) => {
                self.replicate(&mut state, usize::from(to), message)?;
            }
            Step::Deliver(message, to) => self.matched(&mut state, usize::from(to), &message)?,
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("committed records never fork", |_: &Self, state: &State| !state.forked),
            Property::always("the leader holds every committed record", |_: &Self, state: &State| {
                leader_holds_all(state)
            }),
            Property::always("what can be read is committed", |_: &Self, state: &State| {
                readable_is_committed(state)
            }),
            Property::always("an in-sync replica holds every committed record", |_: &Self, state: &State| {
                some_member_holds_all(state)
            }),
            Property::sometimes("commits in several epochs", |_: &Self, state: &State| {
                state.committed.windows(2).any(|two| two[0].0 < two[1].0)
            }),
        ]
    }
}
