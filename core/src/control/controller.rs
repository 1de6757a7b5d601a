//! The controller at work: turns what it heard and was asked for into the next proposal.

use super::election::Role;
use super::image::{BrokerState, Draft};
use super::machine::Control;
use super::machine::too_new;
use super::session::Session;
use super::{Action, Event, Ticket, drain, elect, moves, policy, voters};
use crate::Mono;
use crate::ids::{At, BrokerId, TopicId};
use crate::wire::internal::Message;
use std::collections::BTreeSet;

impl Control {
    /// Makes the next proposal of the controller, if there is anything to propose. Returns whether it was committed
    /// at once.
    pub(super) fn pump(&mut self, now: Mono) -> bool {
        let due = match &self.election.role {
            Role::Leading(leading) => {
                let wanted = leading.review || !leading.alters.is_empty() || !leading.commands.is_empty();
                leading.ready && leading.inflight.is_none() && wanted
            }
            Role::Follower | Role::Probing(_) | Role::Yielding { .. } | Role::Claiming(_) => false,
        };
        if !due {
            return false;
        }
        let Role::Leading(leading) = &mut self.election.role else { return false };
        leading.review = false;
        let at = At { epoch: leading.epoch, version: leading.current.at.version + 1 };
        let mut draft = Draft::new(leading.current.clone(), at);
        let mut events = Vec::new();
        self.review_sessions(now, &mut draft, &mut events);
        self.admit_processes(now, &mut draft);
        self.change_isrs(&mut draft);
        let replies = self.run_commands(&mut draft);
        self.reconcile(now, &mut draft);
        if draft.is_empty() && replies.is_empty() {
            return false;
        }
        self.propose(now, draft, replies, events);
        matches!(&self.election.role, Role::Leading(leading) if leading.inflight.is_none())
    }

    /// Fences the silent and the leaving, lets the returned take part again, moves leaderships off broken storage.
    fn review_sessions(&mut self, now: Mono, draft: &mut Draft, events: &mut Vec<Event>) {
        let (mut silent, mut leaving, mut back, mut broken) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let Role::Leading(leading) = &mut self.election.role else { return };
        for (id, entry) in &draft.image().brokers {
            let own = *id == self.me;
            let session = leading.sessions.entry(*id).or_insert_with(|| Session::new(now, false));
            if own {
                session.last_ack = now;
                session.gone = false;
                session.applied = self.applied.as_ref().map_or_else(At::default, |image| image.at);
                session.stopping = self.stop.is_some();
                session.storage_ok = self.healthy;
            }
            let fenced = entry.state == BrokerState::Fenced;
            let answers = own || (session.alive(now, &self.timing) && session.applied > At::default());
            let caught_up = session.applied >= session.must_apply.max(leading.barrier)
                && session.applied.version >= entry.broker_epoch.0
                && (!own || entry.run_id == self.config.run_id);
            if !fenced && !session.alive(now, &self.timing) {
                silent.insert(*id);
            } else if !fenced && session.stopping {
                leaving.insert(*id);
            } else if fenced && answers && caught_up && !session.stopping {
                back.insert(*id);
            }
            if !session.storage_ok {
                broken.insert(*id);
            }
        }
        for id in silent.iter().chain(&leaving) {
            if let Some(session) = leading.sessions.get_mut(id) {
                session.must_apply = draft.at();
                session.since = now;
            }
        }
        self.counters.failures_detected += u64::try_from(silent.len()).expect("a cluster has few brokers");
        events.extend(silent.iter().map(|broker| Event::BrokerSilent { broker: *broker }));
        silent.extend(leaving);
        self.fence_all(draft, &silent);
        for id in back {
            let op = policy::unfence(draft.image(), id);
            draft.extend(op.into_iter().collect());
        }
        let moves = policy::evacuate(draft.image(), &broken, self.lapses);
        draft.extend(moves);
    }

    pub(super) fn fence_all(&self, draft: &mut Draft, gone: &BTreeSet<BrokerId>) {
        if !gone.is_empty() {
            let ops = policy::fence(draft.image(), gone, self.lapses);
            draft.extend(ops);
        }
    }

    fn admit_processes(&mut self, now: Mono, draft: &mut Draft) {
        let own = self.registration();
        let (me, timing, lapses) = (self.me, self.timing, self.lapses);
        let mut refused = Vec::new();
        let Role::Leading(leading) = &mut self.election.role else { return };
        leading.registrations.insert(me, own);
        for (id, wish) in std::mem::take(&mut leading.registrations) {
            let image = draft.image();
            if image.registered(id, wish.run_id).is_some() {
                continue;
            }
            let session = leading.sessions.entry(id).or_insert_with(|| Session::new(now, false));
            let newcomer =
                session.newcomer.filter(|(run, _, last)| *run == wish.run_id && now < *last + timing.session);
            let Some(since) = newcomer.map(|(_, since, _)| since).or((id == me).then_some(now)) else {
                continue;
            };
            let (oldest, newest) = wish.versions;
            if !(oldest..=newest).contains(&image.feature_level) && !lapses.any_level {
                refused.push((id, wish.run_id, too_new(image.feature_level, wish.versions)));
                continue;
            }
            let known = image.brokers.get(&id);
            let successor =
                known.is_none_or(|known| known.storage_id == wish.storage_id && wish.boot > known.boot);
            let taken =
                known.is_some_and(|known| known.state != BrokerState::Fenced) && session.alive(now, &timing);
            if !successor && taken && id != me {
                // Two processes of one id answer: the registered one stays, the other one has to go.
                if now >= since + 2 * timing.session {
                    let reason =
                        format!("broker {id} is another process, which is alive; give this one its own id");
                    refused.push((id, wish.run_id, reason));
                } else {
                    leading.registrations.insert(id, wish);
                }
                continue;
            }
            session.admit(now, draft.at());
            let ops = policy::register(draft.image(), &wish, draft.at().version, lapses);
            draft.extend(ops);
        }
        for (to, run_id, reason) in refused {
            self.send(to, Message::RegisterRefused { run_id, reason });
        }
    }

    fn change_isrs(&mut self, draft: &mut Draft) {
        let Role::Leading(leading) = &mut self.election.role else { return };
        for request in std::mem::take(&mut leading.alters).into_values() {
            let op = policy::alter_isr(draft.image(), &request, self.lapses);
            draft.extend(op.into_iter().collect());
        }
    }

    fn run_commands(&mut self, draft: &mut Draft) -> Vec<(Ticket, TopicId, bool)> {
        let Role::Leading(leading) = &mut self.election.role else { return Vec::new() };
        let (mut replies, mut load) = (Vec::new(), None);
        for (ticket, command) in std::mem::take(&mut leading.commands) {
            match policy::command_after(draft.image(), &command, &mut load) {
                Ok(change) => {
                    // Even "nothing to do" is answered by a commit: an unnoticed successor may have undone it.
                    replies.push((ticket, change.topic, !change.ops.is_empty()));
                    draft.extend(change.ops);
                }
                Err(refusal) => self.act(Action::Reply { ticket, result: Err(refusal) }),
            }
        }
        replies
    }

    /// Mends what nobody asked for: leaders for leaderless partitions, the internal topic, lost votes, balance.
    fn reconcile(&mut self, now: Mono, draft: &mut Draft) {
        let Role::Leading(leading) = &mut self.election.role else { return };
        let timing = &self.timing;
        let weak = leading.sessions.iter().filter(|(_, session)| session.stopping || !session.storage_ok);
        let avoid: BTreeSet<_> = weak.map(|(id, _)| *id).collect();
        let image = draft.image();
        let settled =
            now >= leading.since + timing.settle || image.voters.keys().all(|id| image.is_alive(*id));
        let ops = policy::reconcile(image, &avoid, settled, self.lapses);
        draft.extend(ops);
        let lost = leading.sessions.iter().filter(|(_, session)| now >= session.last_ack + timing.abandon);
        let lost: BTreeSet<_> = lost.map(|(id, _)| *id).collect();
        draft.extend(elect::by_setting(draft.image(), &lost));
        let ops = moves::finish(draft.image(), &avoid, self.lapses);
        draft.extend(ops);
        let ops = drain::step(draft.image(), self.lapses);
        draft.extend(ops);

        let newest = leading.current.at;
        let since = |wait: Mono| {
            let stable = move |(id, session): (&BrokerId, &Session)| {
                (session.alive(now, timing) && session.applied == newest && now >= session.since + wait)
                    .then_some(*id)
            };
            leading.sessions.iter().filter_map(stable).collect::<BTreeSet<_>>()
        };
        let founders = self.genesis.as_deref().unwrap_or_default();
        let op = voters::restore(draft.image(), self.me, &since(timing.replace), founders);
        let stable: BTreeSet<_> = since(timing.balance).difference(&avoid).copied().collect();
        draft.extend(op.into_iter().collect());
        let op = voters::raise_level(draft.image(), &since(timing.raise), self.config.versions);
        draft.extend(op.into_iter().collect());
        if now >= leading.next_balance {
            leading.next_balance = now + timing.balance;
            let ops = policy::prefer(draft.image(), &stable);
            draft.extend(ops);
        }
    }
}
