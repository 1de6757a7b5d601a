//! What a broker's shell does, in the simulation: it performs the machines' actions in order and carries inputs to
//! them. It decides nothing; what it sees, it shows the checks.

use super::checks::{Checked, ensure};
use super::network::{Body, Packet, kind, role_name};
use super::world::{Happening, World};
use pubsub_core::control::{self, Event, Hard, Outcome, Refusal, Ticket};
use pubsub_core::ids::{BrokerId, TopicPartition};
use pubsub_core::invariants::Invariant;
use pubsub_core::partition::{self, ReplicaView, RequestId};
use pubsub_core::wire::internal::{Message, ReplicateReply, ReplicateRequest, misdirected};

/// After how long a leader gives up on the answer to a push, ms.
const PUSH_TIMEOUT_MS: u64 = 1_000;
/// Wall clock at the start of a run, ms since 1970.
const WALL_START_MS: i64 = 1_790_000_000_000;

impl World {
    /// Gives a broker's control plane one input and performs what it says.
    pub(crate) fn control_input(&mut self, id: BrokerId, input: control::Input) -> Checked {
        let now = self.now;
        self.note(id, "control", 0, || format!("{input:?}"));
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let Some(process) = node.process.as_mut() else { return Ok(()) };
        let serial = process.serial;
        if let control::Input::Message {
            message: Message::Grant { epoch, granted: true, image: Some(image), .. },
            ..
        } = &input
            && *epoch == node.disk.hard.epoch
        {
            self.metadata.offered(serial, image);
        }
        let actions = process.control.step(process.clock.local(now), input);
        self.steps += 1;
        self.reschedule(id);
        for action in actions {
            if self.crashes_here(id) {
                return Ok(());
            }
            self.perform_control(id, serial, action)?;
        }
        self.crashes_here(id);
        Ok(())
    }

    /// Kills the broker now, between two actions, if the dice say so; also says whether it is gone already.
    fn crashes_here(&mut self, id: BrokerId) -> bool {
        if self.crash_rate > 0 && self.rng.below(100_000) < self.crash_rate {
            self.kill(id);
        }
        self.nodes.get(&id).is_none_or(|node| node.process.is_none())
    }

    fn perform_control(&mut self, id: BrokerId, serial: u64, action: control::Action) -> Checked {
        self.note(id, "does", 1, || format!("{action:?}"));
        match action {
            control::Action::Persist(hard) => self.persist(id, serial, *hard),
            control::Action::Send { to, message } => self.send(id, serial, to, message),
            control::Action::Apply(image) => {
                let Some(process) = self.nodes.get_mut(&id).and_then(|node| node.process.as_mut()) else {
                    return Ok(());
                };
                self.metadata.applied(id, process.applied, &image)?;
                process.applied = image.at;
                let input = Box::new(partition::Input::Image(image));
                self.schedule_inner(id, Happening::Replicas { process: serial, input });
                Ok(())
            }
            control::Action::Reply { ticket, result } => self.answered(ticket, result),
            control::Action::Event(event) => self.observe(id, serial, &event),
            control::Action::Stopped | control::Action::Halt { .. } => {
                self.kill(id);
                Ok(())
            }
        }
    }

    fn persist(&mut self, id: BrokerId, serial: u64, hard: Hard) -> Checked {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if node.promises_full && node.disk.hard != hard {
            // Nothing after a failed write may happen.
            self.kill(id);
            return Ok(());
        }
        let level = hard.accepted.as_ref().map_or(0, |image| image.feature_level);
        ensure(level <= node.versions.1, Invariant::M1, || {
            format!("broker {id} holds metadata of level {level} and would drop what it does not know")
        })?;
        let settled = self.metadata.persisted(serial, &node.disk.hard, &hard, self.volumes_lost > 0)?;
        node.disk.hard = hard;
        if settled { self.check_in_sync(None) } else { Ok(()) }
    }

    fn send(&mut self, id: BrokerId, serial: u64, to: BrokerId, message: Message) -> Checked {
        let node = &self.nodes[&id];
        let hard = &node.disk.hard;
        self.metadata.sent(hard, serial, to, &message)?;
        if let (Message::Accepted { epoch, .. }, Some(process)) = (&message, &node.process) {
            let electing = process.control.status(process.clock.local(self.now)).electing;
            ensure(!electing, Invariant::E1, || {
                format!("broker {id} accepts for {to} in {epoch} and stays candidate")
            })?;
        }
        let packet = Packet {
            from: id,
            from_storage: hard.storage_id,
            cluster: hard.cluster_id,
            to,
            body: Body::Control(message),
        };
        self.transmit(packet);
        Ok(())
    }

    fn observe(&mut self, id: BrokerId, serial: u64, event: &Event) -> Checked {
        match event {
            Event::ControllerElected { broker, epoch } if *broker == id => {
                self.metadata.proposes(id, serial, *epoch)
            }
            Event::ControllerElected { epoch, .. } => {
                self.metadata.follows(&self.nodes[&id].disk.hard, *epoch)
            }
            Event::ElectionStarted
            | Event::BrokerRolledBack { .. }
            | Event::ControllerResigned { .. }
            | Event::BrokerSilent { .. }
            | Event::BrokerRegistered { .. }
            | Event::BrokerFenced { .. }
            | Event::BrokerActive { .. }
            | Event::BrokerDraining { .. }
            | Event::TopicCreated { .. }
            | Event::TopicAltered { .. }
            | Event::TopicDeleted { .. }
            | Event::LeaderChanged { .. }
            | Event::IsrChanged { .. }
            | Event::ReplicasChanged { .. }
            | Event::MoreChanged { .. } => Ok(()),
        }
    }

    fn answered(&mut self, ticket: Ticket, result: Result<Outcome, Refusal>) -> Checked {
        let Some(admin) = self.clients.admins.get_mut(&ticket.0) else { return Ok(()) };
        admin.outcome = Some(result.clone());
        match (&admin.command, result) {
            (control::Command::CreateTopic { name, id, .. }, Ok(outcome)) => {
                self.clients.topics.insert(name.clone(), outcome.topic);
                let fresh = outcome.topic == *id || !outcome.changed;
                ensure(fresh, Invariant::M2, || format!("{outcome:?} for the creation of {id}"))?;
                self.metadata.acknowledged(&outcome, name, false)
            }
            (control::Command::DeleteTopic { name, .. }, Ok(outcome)) => {
                self.clients.topics.remove(name);
                self.metadata.acknowledged(&outcome, name, true)
            }
            (control::Command::CreateTopic { id, .. }, Err(refusal)) if refusal != Refusal::Unknown => {
                self.metadata.refused(*id)
            }
            _ => Ok(()),
        }
    }

    /// Gives a broker's replicas one input and performs what they say.
    pub(crate) fn replicas_input(&mut self, id: BrokerId, input: partition::Input) -> Checked {
        let now = self.now;
        self.note(id, "replicas", 0, || format!("{input:?}"));
        let appended = matches!(input, partition::Input::Append { .. });
        let Some(process) = self.nodes.get_mut(&id).and_then(|node| node.process.as_mut()) else {
            return Ok(());
        };
        let serial = process.serial;
        let actions = process.replicas.step(process.clock.local(now), input);
        self.steps += 1;
        self.reschedule(id);
        if appended {
            let now_ms = WALL_START_MS + i64::try_from(now).expect("a run is short");
            self.schedule_inner(
                id,
                Happening::Replicas { process: serial, input: Box::new(partition::Input::Flush { now_ms }) },
            );
        }
        // What the machine decided is a fact even if the process dies while it carries it out.
        for action in &actions {
            self.watch_replicas(id, serial, action)?;
        }
        for action in actions {
            if self.crashes_here(id) {
                return Ok(());
            }
            self.perform_replicas(id, serial, action)?;
        }
        self.crashes_here(id);
        Ok(())
    }

    fn watch_replicas(&mut self, id: BrokerId, serial: u64, action: &partition::Action) -> Checked {
        self.note(id, "does", 2, || format!("{action:?}"));
        match action {
            partition::Action::Write { id: write, writes } => {
                let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
                for write in writes {
                    let tombstoned = self.metadata.is_tombstoned(write.partition.topic);
                    if !self.logs.is_excused(write.partition, u32::MAX) {
                        self.logs.written(id, node.disk.hard.storage_id, write, tombstoned)?;
                    }
                }
                node.disk
                    .write(*write, writes.clone())
                    .map_err(|why| (Invariant::R2, format!("broker {id}: {why}")))
            }
            partition::Action::Visible { partition, view } => {
                self.visible(id, serial, *partition, view.as_ref())
            }
            partition::Action::Alarm { id: invariant, partition, detail } => {
                let excused = self.logs.is_excused(*partition, self.min_isr(*partition));
                ensure(excused, *invariant, || format!("broker {id} alarms on {partition}: {detail}"))
            }
            partition::Action::Push { .. }
            | partition::Action::Load { .. }
            | partition::Action::Answer { .. }
            | partition::Action::Acked { .. }
            | partition::Action::Confirmed { .. }
            | partition::Action::AlterIsr(_) => Ok(()),
        }
    }

    /// Returns a living topic's `min_isr`; a dead one's promises nothing.
    pub(crate) fn min_isr(&self, partition: TopicPartition) -> u32 {
        let topic = self.metadata.newest().and_then(|image| image.topics.get(&partition.topic));
        topic.map_or(0, |topic| topic.config.min_isr)
    }

    fn visible(
        &mut self,
        id: BrokerId,
        serial: u64,
        partition: TopicPartition,
        view: Option<&ReplicaView>,
    ) -> Checked {
        let excused = self.logs.is_excused(partition, self.min_isr(partition));
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let Some(process) = node.process.as_mut() else { return Ok(()) };
        let Some(view) = view else {
            process.views.remove(&partition);
            self.logs.hidden(id, partition);
            return Ok(());
        };
        process.views.insert(partition, view.clone());
        if excused {
            self.logs.excuse(partition);
            return Ok(());
        }
        let empty = super::disk::Log::default();
        let log = node.disk.written.get(&partition).unwrap_or(&empty);
        let Some(extended) = self.logs.shows(id, serial, partition, view, log)? else { return Ok(()) };
        self.note(id, "committed", view.high_watermark, || {
            format!("{partition} as {}", role_name(view.role))
        });
        let start = self.logs.start(partition);
        self.clients.committed(&extended, start)?;
        self.producers.committed(&extended, start)?;
        if self.is_groups(partition) {
            self.members.checks.committed(&extended)?;
        }
        self.check_in_sync(Some(partition))?;
        self.check_copies(id, partition, &extended.batches)?;
        let Some((newest, process)) = self.logs.newest_leader(partition) else { return Ok(()) };
        let newest = &self.nodes[&newest];
        if !newest.runs(process) {
            return Ok(());
        }
        let log = newest.disk.written.get(&partition).unwrap_or(&empty);
        self.logs.leader_has(partition, &extended.batches, log)
    }

    fn perform_replicas(&mut self, id: BrokerId, serial: u64, action: partition::Action) -> Checked {
        match action {
            partition::Action::Write { .. } => self.sync(id, serial),
            partition::Action::Push { to, request } => self.push(id, serial, to, request)?,
            partition::Action::Load { to, partition, from, bytes_max } => {
                let log = self.nodes[&id].disk.written.get(&partition);
                let batches = log.map(|log| log.load(from, bytes_max)).unwrap_or_default();
                let input = Box::new(partition::Input::Loaded { to, partition, from, batches });
                let at = self.now + self.rng.between((1, 4));
                self.schedule(at, id, Happening::Replicas { process: serial, input });
            }
            partition::Action::Answer { id: request, reply } => self.answer(id, request, reply),
            partition::Action::Acked { ticket, result } => {
                if self.groups_appended(id, serial, ticket, &result)? || self.produced(ticket, &result)? {
                    return Ok(());
                }
                let partition = self.clients.publishes.get(&ticket.0).map(|publish| publish.partition);
                let excused = partition.is_none_or(|at| self.logs.is_excused(at, self.min_isr(at)));
                let logs = &self.logs;
                let committed = |partition, offset| logs.publish_at(partition, offset);
                self.clients.published(ticket, result, committed, excused)?;
            }
            partition::Action::Confirmed { ticket, leads } => {
                if !self.groups_confirmed(id, serial, ticket, leads)? {
                    self.confirmed(id, ticket, leads)?;
                }
            }
            partition::Action::AlterIsr(request) => {
                let input = Box::new(control::Input::AlterIsr(request));
                self.schedule_inner(id, Happening::Control { process: serial, input });
            }
            partition::Action::Visible { partition, .. } => self.follow_groups(id, partition)?,
            // Seen before.
            partition::Action::Alarm { .. } => {}
        }
        Ok(())
    }

    /// Begins a sync of everything queued, unless one is under way: what comes meanwhile shares the next.
    fn sync(&mut self, id: BrokerId, serial: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.disk.syncing > 0 || node.disk.queued() == 0 {
            return;
        }
        node.disk.syncing = node.disk.queued();
        let done = self.now + self.rng.between(node.disk.delay);
        self.schedule(done, id, Happening::Synced { process: serial });
    }

    pub(crate) fn synced(&mut self, id: BrokerId) -> Checked {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let Some(serial) = node.process.as_ref().map(|process| process.serial) else { return Ok(()) };
        let done: Vec<_> =
            (0..std::mem::take(&mut node.disk.syncing)).filter_map(|_| node.disk.sync_one()).collect();
        for write in done {
            let input = Box::new(partition::Input::Written { id: write });
            self.schedule(self.now, id, Happening::Replicas { process: serial, input });
        }
        self.sync(id, serial);
        Ok(())
    }

    fn push(&mut self, id: BrokerId, serial: u64, to: BrokerId, request: ReplicateRequest) -> Checked {
        self.pushes += 1;
        let push = self.pushes;
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let (storage, cluster) = (node.disk.hard.storage_id, node.disk.hard.cluster_id);
        let Some(process) = node.process.as_mut() else { return Ok(()) };
        let before = process.outstanding.insert(to, push);
        ensure(before.is_none(), Invariant::R2, || {
            format!("broker {id} pushes to {to} before the last push ended")
        })?;
        let body = Body::Push { push, process: serial, request };
        let packet = Packet { from: id, from_storage: storage, cluster, to, body };
        let refused = self.nodes.get(&to).is_none_or(|node| node.process.is_none());
        let after = if refused && self.network.open(to, id) { 2 } else { PUSH_TIMEOUT_MS };
        self.transmit(packet);
        self.schedule(
            self.now + after,
            id,
            Happening::PushEnds { process: serial, from: to, push, reply: None },
        );
        Ok(())
    }

    pub(crate) fn push_ends(
        &mut self,
        id: BrokerId,
        from: BrokerId,
        push: u64,
        reply: Option<ReplicateReply>,
    ) -> Checked {
        let Some(process) = self.nodes.get_mut(&id).and_then(|node| node.process.as_mut()) else {
            return Ok(());
        };
        if process.outstanding.get(&from) != Some(&push) {
            return Ok(());
        }
        process.outstanding.remove(&from);
        self.replicas_input(id, partition::Input::Reply { from, reply })
    }

    fn answer(&mut self, id: BrokerId, request: RequestId, reply: ReplicateReply) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some((to, process, push)) =
            node.process.as_mut().and_then(|process| process.asked.remove(&request))
        else {
            return;
        };
        let (from_storage, cluster) = (node.disk.hard.storage_id, node.disk.hard.cluster_id);
        let body = Body::Answer { push, process, request, reply };
        self.transmit(Packet { from: id, from_storage, cluster, to, body });
    }

    /// Puts a packet onto the network.
    pub fn transmit(&mut self, packet: Packet) {
        let (from, to) = (packet.from, packet.to);
        let known = self.network.known.get(&from).is_some_and(|known| known.contains(&to));
        if !known || !self.network.judge(&packet) || !self.network.open(from, to) {
            return;
        }
        let up = self.nodes.get(&to).is_some_and(|node| node.process.is_some());
        let sender =
            self.nodes.get(&from).and_then(|node| node.process.as_ref()).map(|process| process.serial);
        if let (false, Some(process), Body::Control(_)) = (up, sender, &packet.body) {
            if self.network.open(to, from) {
                self.schedule(self.now + 1, from, Happening::Refused { process, peer: to });
            }
            return;
        }
        let there = self.network.address(to);
        for way in self.network.ways(&mut self.rng) {
            self.schedule(self.now + way, there, Happening::Packet(packet.clone()));
        }
    }

    /// Sends what a script's rule held back.
    pub fn release_held(&mut self) {
        for packet in self.network.take_held() {
            self.schedule(self.now + 1, packet.to, Happening::Packet(packet));
        }
    }

    pub(crate) fn arrive(&mut self, at: BrokerId, packet: Packet) -> Checked {
        self.note(at, kind(&packet.body), u64::from(packet.from.0), || format!("from {}", packet.from));
        let Some(node) = self.nodes.get_mut(&at) else { return Ok(()) };
        if misdirected(at, node.disk.hard.cluster_id, packet.to, packet.cluster).is_some() {
            self.network.misdirected += 1;
            return Ok(());
        }
        let Some(process) = node.process.as_mut() else { return Ok(()) };
        match packet.body {
            Body::Control(message) => {
                let (from, from_storage) = (packet.from, packet.from_storage);
                self.control_input(packet.to, control::Input::Message { from, from_storage, message })
            }
            Body::Push { push, process: asking, request } => {
                self.pushes += 1;
                let id = RequestId(self.pushes);
                process.asked.insert(id, (packet.from, asking, push));
                self.replicas_input(packet.to, partition::Input::Request { id, from: packet.from, request })
            }
            Body::Answer { push, process: asking, reply, .. } => {
                if process.serial == asking {
                    self.push_ends(packet.to, packet.from, push, Some(reply))
                } else {
                    Ok(())
                }
            }
        }
    }
}
