//! Which processes belong to the cluster, and which of them are alive.
//!
//! HEARTBEAT and its answer are the controller's lease and the broker's session at once. The echoed sequence is the
//! controller's own clock, so that a late answer proves life only as of its question.

use super::election::Role;
use super::image::BrokerState;
use super::machine::{Control, Stop};
use super::register::Leading;
use super::timing::Timing;
use super::{Action, Command, Refusal, Ticket, Weakening};
use crate::Mono;
use crate::ids::{At, BrokerId, ControllerEpoch, RunId, StorageId, Voter};
use crate::limits::INBOX_MAX;
use crate::wire::internal::{AlterIsr, Message, Registration};

/// What the controller knows of one broker. Deadlines begin afresh with every controller.
#[derive(Debug)]
pub(super) struct Session {
    /// Last sign of life of the registered process.
    pub(super) last_ack: Mono,
    /// Last sign of life of the voter, whichever process.
    heard: Option<Mono>,
    /// Another process than the registered one: since when it answers, and its last answer.
    pub(super) newcomer: Option<(RunId, Mono, Mono)>,
    pub(super) applied: At,
    can_lead: bool,
    pub(super) stopping: bool,
    pub(super) storage_ok: bool,
    /// First refused connection since the last answer.
    first_refusal: Option<Mono>,
    /// Connections were refused twice: its process is gone.
    pub(super) gone: bool,
    /// It may take part again once it has applied this.
    pub(super) must_apply: At,
    /// When the registered process was admitted by this controller; 0 if an earlier one did.
    admitted: Mono,
    /// Since when it answers without a gap.
    pub(super) since: Mono,
    /// The newest image sent to it, and when.
    pub(super) sent: Option<(At, Mono)>,
}

impl Session {
    pub(super) fn new(now: Mono, heard: bool) -> Self {
        Self {
            last_ack: now,
            heard: heard.then_some(now),
            newcomer: None,
            applied: At::default(),
            can_lead: false,
            stopping: false,
            storage_ok: true,
            first_refusal: None,
            gone: false,
            must_apply: At::default(),
            admitted: 0,
            since: now,
            sent: None,
        }
    }

    pub(super) fn alive(&self, now: Mono, timing: &Timing) -> bool {
        !self.gone && now < self.last_ack + timing.session
    }

    /// Begins the session of a process that was just admitted.
    pub(super) fn admit(&mut self, now: Mono, at: At) {
        *self = Self { must_apply: at, heard: self.heard, admitted: now, ..Self::new(now, false) };
    }
}

impl Leading {
    /// Gives everybody time to be heard after this process itself did not run.
    pub(super) fn bear_with_all(&mut self, now: Mono, timing: &Timing) {
        let earliest = (now + timing.grace).saturating_sub(timing.lease);
        for session in self.sessions.values_mut() {
            session.last_ack = session.last_ack.max(earliest);
            session.heard = session.heard.map(|heard| heard.max(earliest));
        }
    }

    pub(super) fn refused(&mut self, now: Mono, peer: BrokerId, timing: &Timing) {
        let Some(session) = self.sessions.get_mut(&peer) else { return };
        match session.first_refusal {
            None => session.first_refusal = Some(now),
            Some(first) => session.gone |= now >= first + timing.refusals,
        }
        self.review |= session.gone;
    }
}

impl Control {
    pub(super) fn leading_deadline(&self, leading: &Leading) -> Mono {
        let alive = |(id, session): &(&BrokerId, &super::session::Session)| {
            leading.current.is_alive(**id) && !session.gone
        };
        let sessions = leading.sessions.iter().filter(alive);
        let expiry = sessions.map(|(_, session)| session.last_ack + self.timing.session).min();
        leading.next_heartbeat.min(expiry.unwrap_or(Mono::MAX))
    }

    pub(super) fn tick_leading(&mut self, now: Mono) {
        let classic = self.weakened(Weakening::NoMajority);
        let Role::Leading(leading) = &mut self.election.role else { return };
        leading.review = true;
        let image = match &leading.inflight {
            Some(proposal) => proposal.image.clone(),
            None => leading.current.clone(),
        };
        let lease = self.timing.lease;
        let heard = |id: &BrokerId| {
            let session = leading.sessions.get(id);
            *id == self.me || session.and_then(|session| session.heard).is_some_and(|at| now < at + lease)
        };
        let hearing = image.voters.keys().filter(|id| heard(id)).count();
        if hearing * 2 <= image.voters.len() && !classic {
            self.resign("no majority of the voters answers");
            let wait = self.patience();
            return self.withdraw(now, wait);
        }
        if now >= leading.next_heartbeat {
            leading.next_heartbeat = now + self.timing.heartbeat;
            self.resend_accepts();
            self.send_heartbeats(now);
            self.hand_over(now);
        }
    }

    pub(super) fn send_heartbeats(&mut self, now: Mono) {
        for peer in self.everybody() {
            if let Role::Leading(leading) = &mut self.election.role {
                leading.sessions.entry(peer).or_insert_with(|| Session::new(now, false));
            }
            self.send_heartbeat(now, peer);
        }
    }

    fn send_heartbeat(&mut self, now: Mono, to: BrokerId) {
        let (epoch, committed) = (self.hard.epoch, self.hard.committed);
        self.send(to, Message::Heartbeat { epoch, sequence: now, committed });
    }

    /// Passes the controller's role to the highest voter that could take it, if this process wants to be rid of it, or
    /// to a higher one that has been back for a while if this process yields to those.
    fn hand_over(&mut self, now: Mono) {
        let Role::Leading(leading) = &mut self.election.role else { return };
        let cleared =
            leading.current.brokers.get(&self.me).is_none_or(|own| own.state == BrokerState::Fenced);
        let leaving = self.stop.is_some() && cleared;
        let wanted = leaving || !self.healthy;
        if !(wanted || self.config.preempt)
            || !leading.ready
            || leading.inflight.is_some()
            || now < leading.next_handover
        {
            return;
        }
        let eligible = leading.current.voters.keys().rev().find(|id| {
            let session = leading.sessions.get(id);
            session.is_some_and(|session| {
                session.can_lead
                    && session.heard.is_some()
                    && !session.gone
                    && session.applied == leading.current.at
                    && (wanted || (**id > self.me && now >= session.since + self.timing.preempt))
            })
        });
        if let Some(to) = eligible.copied().filter(|id| *id != self.me) {
            leading.next_handover = now + if wanted { self.timing.heartbeat } else { self.timing.preempt };
            self.send(to, Message::Handover { epoch: self.hard.epoch });
        }
    }

    /// Answers the controller's last HEARTBEAT (again).
    pub(super) fn acknowledge(&mut self, now: Mono) {
        let Some(to) = self.election.controller.filter(|id| *id != self.me) else { return };
        let ack = Message::HeartbeatAck {
            epoch: self.hard.epoch,
            sequence: self.last_sequence,
            broker_epoch: self.registered_as.unwrap_or_default(),
            run_id: self.config.run_id,
            applied: self.applied_at(),
            can_lead: self.can_lead(now),
            stopping: self.stop.is_some(),
            storage_ok: self.healthy,
        };
        self.send(to, ack);
    }

    pub(super) fn on_heartbeat(
        &mut self,
        now: Mono,
        controller: Voter,
        epoch: ControllerEpoch,
        sequence: u64,
        committed: At,
    ) {
        let from = controller.id;
        if epoch < self.hard.epoch && !self.weakened(Weakening::ObeyStaleCoordinator) {
            return self.send(from, Message::Fenced { epoch: self.hard.epoch });
        }
        self.counters.heartbeats_received += 1;
        if self.adopt_epoch(controller, epoch) {
            self.persist();
        }
        self.follow(now, from, epoch);
        self.last_sequence = sequence;
        self.learn_committed(committed);
        self.acknowledge(now);
        if !self.is_registered() {
            self.send(from, Message::Register(self.registration()));
        }
    }

    pub(super) fn on_register_refused(&mut self, run_id: RunId, reason: String) {
        if run_id == self.config.run_id {
            self.halt(reason);
        }
    }

    pub(super) fn on_ack(&mut self, now: Mono, from: BrokerId, storage: StorageId, message: &Message) {
        let Message::HeartbeatAck {
            epoch, sequence, run_id, applied, can_lead, stopping, storage_ok, ..
        } = message
        else {
            return;
        };
        let votes = match &self.election.role {
            Role::Leading(leading) if leading.epoch == *epoch => {
                self.votes_in(&leading.current, from, storage)
            }
            _ => return,
        };
        let Role::Leading(leading) = &mut self.election.role else { return };
        let session = leading.sessions.entry(from).or_insert_with(|| Session::new(now, false));
        let asked = (*sequence).min(now);
        if votes {
            session.heard = Some(session.heard.map_or(asked, |heard| heard.max(asked)));
        }
        if leading.current.registered(from, *run_id).is_some() {
            if asked >= session.last_ack {
                session.last_ack = asked;
                // A refused connection is newer than an answer to what was asked before it.
                if session.first_refusal.is_none_or(|at| asked >= at) {
                    session.first_refusal = None;
                    session.gone = false;
                }
                session.stopping = *stopping;
                session.storage_ok = *storage_ok;
                session.can_lead = *can_lead;
            }
        } else if asked > session.admitted {
            // Answers to older questions are late words of a predecessor: it must not displace its successor.
            let since =
                session.newcomer.filter(|(run, _, _)| run == run_id).map_or(asked, |(_, since, _)| since);
            session.newcomer = Some((*run_id, since, asked));
        }
        session.applied = session.applied.max(*applied);
        let lags = session.applied < leading.current.at;
        leading.review = true;
        if lags {
            self.send_committed(now, from);
        }
    }

    pub(super) fn on_register(&mut self, now: Mono, from: BrokerId, registration: Registration) {
        let id = registration.id;
        match &mut self.election.role {
            Role::Leading(leading) => {
                // A process is admitted only once it answered a heartbeat: a delayed request proves nothing.
                let session = leading.sessions.entry(id).or_insert_with(|| Session::new(now, false));
                let fresh = session.newcomer.is_none_or(|(run, _, _)| run != registration.run_id);
                if leading.current.registered(id, registration.run_id).is_none() {
                    leading.registrations.insert(id, registration);
                    leading.review = true;
                    if fresh {
                        self.send_heartbeat(now, id);
                    }
                }
            }
            Role::Follower | Role::Probing(_) | Role::Yielding { .. } | Role::Claiming(_) => {
                let heard = self.election.controller.filter(|_| self.hears_controller(now));
                if let Some(controller) = heard.filter(|to| from == id && *to != id) {
                    self.send(controller, Message::Register(registration));
                }
            }
        }
    }

    pub(super) fn route_alter_isr(&mut self, now: Mono, request: AlterIsr) {
        if matches!(self.election.role, Role::Leading(_)) {
            self.queue_alter_isr(request);
        } else if let Some(to) = self.election.controller.filter(|_| self.hears_controller(now)) {
            self.send(to, Message::AlterIsr(request));
        }
    }

    pub(super) fn queue_alter_isr(&mut self, request: AlterIsr) {
        if let Role::Leading(leading) = &mut self.election.role
            && leading.current.partition(request.partition).is_some()
        {
            leading.alters.insert(request.partition, request);
        }
    }

    pub(super) fn propose_command(&mut self, ticket: Ticket, command: Command) {
        let refusal = match &mut self.election.role {
            Role::Leading(leading) if leading.commands.len() < INBOX_MAX => {
                leading.commands.push_back((ticket, command));
                return;
            }
            Role::Leading(_) => Refusal::Overloaded,
            Role::Follower | Role::Probing(_) | Role::Yielding { .. } | Role::Claiming(_) => {
                Refusal::NotController { controller: self.election.controller }
            }
        };
        self.act(Action::Reply { ticket, result: Err(refusal) });
    }

    pub(super) fn storage_changed(&mut self, now: Mono, healthy: bool) {
        if self.healthy != healthy {
            self.healthy = healthy;
            self.acknowledge(now);
            if let Role::Leading(leading) = &mut self.election.role {
                leading.review = true;
            }
        }
    }

    pub(super) fn stop_requested(&mut self, now: Mono) {
        if self.stop.is_none() {
            self.stop = Some(Stop { until: now + self.timing.stop, done: false });
            self.acknowledge(now);
            if let Role::Leading(leading) = &mut self.election.role {
                leading.review = true;
            }
        }
    }

    /// Says so once nothing keeps this process from stopping any more.
    pub(super) fn progress_stop(&mut self, now: Mono) {
        let Some(stop) = self.stop.as_ref().filter(|stop| !stop.done) else { return };
        let cleared = self.applied.as_ref().is_none_or(|image| {
            let own = image.registered(self.me, self.config.run_id);
            own.is_none_or(|own| own.state == BrokerState::Fenced)
        });
        let passed = match &self.election.role {
            Role::Leading(leading) => {
                let alone = leading.ready && leading.current.voters.keys().all(|id| *id == self.me);
                alone && leading.inflight.is_none()
            }
            Role::Follower | Role::Probing(_) | Role::Yielding { .. } | Role::Claiming(_) => {
                self.hears_controller(now) || self.hard.accepted.is_none()
            }
        };
        let over = now >= stop.until;
        if over || (cleared && passed) {
            self.stop = Some(Stop { until: now, done: true });
            self.act(Action::Stopped);
        } else if cleared && !passed {
            self.hand_over(now);
        }
    }
}
