//! What scripts do with a world besides faults: client traffic, questions about its state, and the check that it heals.

use super::checks::logs;
use super::checks::{Checked, ensure};
use super::clients::{Admin, Clients, Publish};
use super::network::Packet;
use super::world::{Flow, Happening, Stop, World};
use pubsub_core::control::image::{BrokerState, Image, PartitionEntry, TopicConfig};
use pubsub_core::control::{self, Command, Outcome, Refusal, Ticket, Weakening};
use pubsub_core::ids::{BrokerId, TopicId, TopicName, TopicPartition};
use pubsub_core::invariants::Invariant;
use pubsub_core::partition::{self, Acks, AppendError, Appended, ReplicaView, Role};
use pubsub_core::record::Batch;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Longest time in which a healed cluster has to be whole again, ms (V1).
pub const HEAL_MS_MAX: u64 = 10_000;
/// Longest time that a healed cluster may take to acknowledge one publish.
pub const CONVERGE_MS: u64 = 3_000;

impl World {
    /// Breaks the run off because a script found what should not be.
    ///
    /// # Errors
    /// Always.
    pub fn fail<T>(&mut self, invariant: Invariant, detail: String) -> Flow<T> {
        self.judge(Err((invariant, detail)));
        Err(Stop)
    }

    /// Breaks the run off unless `holds`.
    ///
    /// # Errors
    /// [`Stop`] if it does not hold.
    pub fn expect(&mut self, holds: bool, invariant: Invariant, detail: impl FnOnce() -> String) -> Flow {
        if holds { Ok(()) } else { self.fail(invariant, detail()) }
    }

    /// Returns the broker that leads the control plane with the highest epoch, among running processes.
    pub fn controller(&self) -> Option<BrokerId> {
        let leading = self.nodes.values().filter_map(|node| {
            let process = node.process.as_ref()?;
            let status = process.control.status(process.clock.local(self.now));
            status.leading.then_some((status.epoch, node.id))
        });
        leading.max().map(|(_, id)| id)
    }

    /// Returns all brokers that believe to be controller.
    pub fn controllers(&self) -> Vec<BrokerId> {
        let status = |id: &BrokerId| self.status(*id);
        self.ids().into_iter().filter(|id| status(id).is_some_and(|status| status.leading)).collect()
    }

    /// Returns a running broker's own account of its control plane.
    pub fn status(&self, id: BrokerId) -> Option<control::Status> {
        let process = self.nodes.get(&id)?.process.as_ref()?;
        Some(process.control.status(process.clock.local(self.now)))
    }

    /// Returns the newest committed image.
    pub fn image(&self) -> Option<Arc<Image>> {
        self.metadata.newest().cloned()
    }

    /// Returns a partition as the newest committed image has it.
    pub fn entry(&self, partition: TopicPartition) -> Option<PartitionEntry> {
        let image = self.metadata.newest()?;
        let index = usize::try_from(partition.partition).ok()?;
        image.topics.get(&partition.topic)?.partitions.get(index).cloned()
    }

    /// Returns what a running broker shows of a replica.
    pub fn view(&self, id: BrokerId, partition: TopicPartition) -> Option<&ReplicaView> {
        self.nodes.get(&id)?.process.as_ref()?.views.get(&partition)
    }

    /// Returns the number of brokers.
    pub fn setup_brokers(&self) -> u32 {
        self.setup.brokers
    }

    /// Returns whether the newest image registers the very process and volume of a broker, unfenced.
    pub fn is_active(&self, id: BrokerId) -> bool {
        let Some(node) = self.nodes.get(&id) else { return false };
        let run_id = node.process.as_ref().map(|process| process.run_id);
        let entry = self.metadata.newest().and_then(|image| image.brokers.get(&id));
        entry.is_some_and(|entry| Some(entry.run_id) == run_id && entry.state == BrokerState::Active)
    }

    /// Brings a packet to its receiver now, whatever the network is like.
    pub fn deliver(&mut self, packet: Packet) {
        self.schedule(self.now, packet.to, Happening::Packet(packet));
    }

    /// Returns whether a broker's process is up.
    pub fn is_up(&self, id: BrokerId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.process.is_some())
    }

    /// Returns the end of what is committed in a partition.
    pub fn committed_end(&self, partition: TopicPartition) -> u64 {
        self.logs.committed_end(partition)
    }

    /// Returns the volume of a broker.
    pub fn disk_of(&self, id: BrokerId) -> &super::disk::Disk {
        &self.nodes[&id].disk
    }

    /// Sets how long one write of a broker's disk takes, ms.
    pub fn disk_delay(&mut self, id: BrokerId, delay: (u64, u64)) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.disk.delay = delay;
        }
    }

    /// Lets a broker's promise file take no more, or take more again.
    pub fn promises_full(&mut self, id: BrokerId, full: bool) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.promises_full = full;
        }
    }

    /// Lets a broker run another program from its next start on, which reads these feature levels.
    pub fn install(&mut self, id: BrokerId, versions: (u16, u16)) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.versions = versions;
        }
    }

    /// Lets a broker's clock run fast or slow from its next start on, per mille.
    pub fn drift(&mut self, id: BrokerId, drift: i64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.drift = drift;
        }
    }

    /// Stops a process for `ms` (SIGSTOP); a frozen one's clock stands still too, as in a paused virtual machine.
    pub fn pause(&mut self, id: BrokerId, ms: u64, frozen: bool) {
        let (now, until) = (self.now, self.now + ms);
        let node = self.nodes.get_mut(&id).expect("scripts name existing brokers");
        node.paused_until = node.paused_until.max(until);
        if let (true, Some(process)) = (frozen, node.process.as_mut()) {
            process.clock.freeze(now, until);
            (process.control_tick, process.replicas_tick) = (None, None);
        }
        self.note(id, "pause", ms, String::new);
        self.reschedule(id);
    }

    /// Lets a stopped process go on.
    pub fn resume(&mut self, id: BrokerId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("scripts name existing brokers");
        node.paused_until = node.paused_until.min(now);
        if let Some(process) = node.process.as_mut() {
            process.clock.thaw(now);
            (process.control_tick, process.replicas_tick) = (None, None);
        }
        self.reschedule(id);
    }

    /// Reads what a reader of one replica gets at `from`: whole batches below the high watermark that it shows.
    pub(crate) fn readable(&self, id: BrokerId, partition: TopicPartition, from: u64) -> Vec<Batch> {
        let Some(node) = self.nodes.get(&id) else { return Vec::new() };
        let Some(view) = node.process.as_ref().and_then(|process| process.views.get(&partition)) else {
            return Vec::new();
        };
        let batches =
            node.disk.written.get(&partition).map_or(&[][..], |log| log.range(from, view.high_watermark));
        batches.iter().filter(|batch| batch.end_offset() <= view.high_watermark).cloned().collect()
    }

    /// Gives a broker discovery's map of who is where: peers are added, and none is dropped for being absent.
    pub fn discover(&mut self, id: BrokerId, map: &[BrokerId]) {
        let known = self.network.known.entry(id).or_default();
        if self.setup.weakened.contains(&Weakening::DiscoveryReplaces) {
            known.clear();
        }
        known.extend(map.iter().copied());
        self.note(id, "discovered", 0, || format!("{map:?}"));
    }

    /// Gives a running broker's control plane an input now.
    pub fn inject(&mut self, id: BrokerId, input: control::Input) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(process) = node.process.as_ref().map(|process| process.serial) else { return };
        node.stopping |= matches!(input, control::Input::Stop);
        self.schedule(self.now, id, Happening::Control { process, input: Box::new(input) });
    }

    /// Sends an admin request to a broker; `None` if its process is down.
    pub fn admin(&mut self, id: BrokerId, command: Command) -> Option<Ticket> {
        let process = self.nodes.get(&id)?.process.as_ref()?.serial;
        let ticket = self.clients.ticket();
        if let Command::DeleteTopic { name, .. } = &command {
            self.metadata.delete_asked(name);
        }
        self.clients.admins.insert(ticket.0, Admin { command: command.clone(), outcome: None });
        let input = Box::new(control::Input::Propose { ticket, command });
        self.schedule(self.now, id, Happening::Control { process, input });
        Some(ticket)
    }

    /// Returns the answer to an admin request, if there is one yet.
    pub fn admin_outcome(&self, ticket: Ticket) -> Option<&Result<Outcome, Refusal>> {
        self.clients.admins.get(&ticket.0)?.outcome.as_ref()
    }

    /// Makes the request that creates a topic.
    pub fn new_topic(
        &mut self,
        name: &str,
        partitions: u32,
        replication_factor: u32,
        min_isr: u32,
    ) -> Command {
        Command::CreateTopic {
            name: TopicName::try_from(name).expect("scripts use valid names"),
            id: TopicId(self.rng.uuid()),
            partitions,
            config: TopicConfig::with_copies(replication_factor, min_isr),
            leader: None,
            take_ownership: false,
        }
    }

    /// Creates a topic at whichever broker is controller, again and again for 15 s.
    ///
    /// # Errors
    /// [`Stop`] if an invariant broke, or V1 if it could not be created.
    pub fn create_topic(&mut self, name: &str, partitions: u32, factor: u32, min_isr: u32) -> Flow<TopicId> {
        let mut asked: Option<Ticket> = None;
        let mut created = None;
        self.run_until(15_000, |world| {
            let answer = asked.and_then(|ticket| world.admin_outcome(ticket).cloned());
            match answer {
                Some(Ok(outcome)) => created = Some(outcome.topic),
                Some(Err(_)) => asked = None,
                None => {}
            }
            if let (None, None, Some(controller)) = (asked, created, world.controller()) {
                // A refusal is for good, so each try brings an identity of its own.
                let command = world.new_topic(name, partitions, factor, min_isr);
                asked = world.admin(controller, command);
            }
            created.is_some()
        })?;
        match created {
            Some(topic) => Ok(topic),
            None => {
                let last = asked.and_then(|ticket| self.admin_outcome(ticket).cloned());
                self.fail(Invariant::V1, format!("topic {name} could not be created in 15 s: {last:?}"))
            }
        }
    }

    /// Publishes one record through a broker, whether or not it leads the partition; `None` if its process is down.
    pub fn publish(&mut self, id: BrokerId, partition: TopicPartition, acks: Acks) -> Option<Ticket> {
        let filler = usize::try_from(self.rng.below(40)).expect("a small number");
        self.publish_sized(id, partition, acks, filler)
    }

    /// Publishes one record with `filler` bytes behind what makes it unique; `None` if the process is down.
    pub fn publish_sized(
        &mut self,
        id: BrokerId,
        partition: TopicPartition,
        acks: Acks,
        filler: usize,
    ) -> Option<Ticket> {
        let process = self.nodes.get(&id)?.process.as_ref()?.serial;
        let ticket = self.clients.ticket();
        let batch = Clients::batch(ticket, filler);
        self.clients
            .publishes
            .insert(ticket.0, Publish { partition, acks, outcome: None, committed_at: None });
        let input =
            Box::new(partition::Input::Append { ticket, partition, batch, acks, expected_offset: None });
        self.schedule(self.now, id, Happening::Replicas { process, input });
        Some(ticket)
    }

    /// Returns the answer to a publish, if there is one yet.
    pub fn publish_outcome(&self, ticket: Ticket) -> Option<&Result<Appended, AppendError>> {
        self.clients.publishes.get(&ticket.0)?.outcome.as_ref()
    }

    /// Publishes with `acks=all` through the leader and waits until it is acknowledged, trying again for `ms`.
    ///
    /// # Errors
    /// [`Stop`] if an invariant broke, or V1 if it was not acknowledged in time.
    pub fn publish_acked(&mut self, partition: TopicPartition, ms: u64) -> Flow<u64> {
        match self.publish_until(partition, ms)? {
            Some(offset) => Ok(offset),
            None => self.unserved(partition, ms),
        }
    }

    fn unserved<T>(&mut self, partition: TopicPartition, ms: u64) -> Flow<T> {
        let entry = self.entry(partition);
        let what = format!("a publish to {partition} was not acknowledged in {ms} ms: {entry:?}");
        self.fail(Invariant::V1, what)
    }

    /// The same, until the topic is deleted at most. Returns the offset, if it was acknowledged.
    fn publish_until(&mut self, partition: TopicPartition, ms: u64) -> Flow<Option<u64>> {
        let mut asked: Option<Ticket> = None;
        let mut offset = None;
        self.run_until(ms, |world| {
            let answer = asked.and_then(|ticket| world.publish_outcome(ticket).cloned());
            match answer {
                Some(Ok(appended)) => offset = Some(appended.base_offset),
                Some(Err(_)) => asked = None,
                None => {}
            }
            let leader = world.entry(partition).and_then(|entry| entry.leader);
            if let (None, None, Some(leader)) = (asked, offset, leader) {
                asked = world.publish(leader, partition, Acks::All);
            }
            offset.is_some() || world.metadata.is_tombstoned(partition.topic)
        })?;
        Ok(offset)
    }

    /// Ends all faults, starts what is down, and checks that the cluster is whole again in time, loses nothing that it
    /// acknowledged, and takes new records (V1, R1).
    ///
    /// # Errors
    /// [`Stop`] if it does not.
    pub fn heal_and_converge(&mut self) -> Flow {
        self.network.heal();
        self.network.no_rule();
        self.crash_rate = 0;
        self.workload_every = None;
        let ids = self.ids();
        for id in &ids {
            self.network.known.insert(*id, self.known_after_healing(*id));
            self.resume(*id);
            self.disk_delay(*id, (1, 4));
            self.promises_full(*id, false);
            self.inject(*id, control::Input::Storage { healthy: true });
            if self.nodes[id].stopping {
                // It would go on its own accord while others are counting on it.
                self.kill(*id);
            }
            self.start(*id);
        }
        let start = self.now;
        let mut restart = |world: &mut Self| {
            ids.iter().for_each(|id| world.start(*id));
            (world.now - start).is_multiple_of(50) && world.unhealed().is_none()
        };
        let healed = self.run_until(HEAL_MS_MAX, &mut restart)?;
        if !healed {
            let why = self.unhealed().unwrap_or_default();
            return self
                .fail(Invariant::V1, format!("not whole {HEAL_MS_MAX} ms after the faults ended: {why}"));
        }
        self.note(BrokerId(0), "healed", self.now - start, String::new);
        let image = self.image();
        let partitions: Vec<_> =
            image.iter().flat_map(|image| logs::partitions(image)).map(|(at, min, _)| (at, min)).collect();
        for (partition, min_isr) in &partitions {
            let lost = self.entry(*partition).is_none_or(|entry| self.is_lost(&entry, *min_isr));
            if !lost && !self.logs.is_excused(*partition, *min_isr) {
                let offset = self.publish_until(*partition, CONVERGE_MS)?;
                // A deletion that was asked for before the faults ended may be done only now.
                if offset.is_none() && !self.metadata.is_tombstoned(partition.topic) {
                    return self.unserved(*partition, CONVERGE_MS);
                }
            }
        }
        let whole = partitions.iter().copied().filter(|(partition, min_isr)| {
            let lost = self.entry(*partition).is_none_or(|entry| self.is_lost(&entry, *min_isr));
            !lost && !self.logs.is_excused(*partition, *min_isr)
        });
        let whole: BTreeSet<TopicPartition> = whole.map(|(partition, _)| partition).collect();
        self.finish_producers(&whole)?;
        self.finish_members(&whole)?;
        let kept = self.check_kept(&partitions);
        self.judge(kept);
        if self.broken.is_some() { Err(Stop) } else { Ok(()) }
    }

    /// Peers that discovery's mistakes removed stay removed: only merging protects from that.
    fn known_after_healing(&self, id: BrokerId) -> std::collections::BTreeSet<BrokerId> {
        self.network.known.get(&id).cloned().unwrap_or_default()
    }

    fn check_kept(&self, partitions: &[(TopicPartition, u32)]) -> Checked {
        let committed = |partition, offset| self.logs.publish_at(partition, offset);
        let living = |partition: &TopicPartition| partitions.iter().find(|(at, _)| at == partition);
        let excused =
            |partition| living(&partition).is_none_or(|(_, min)| self.logs.is_excused(partition, *min));
        self.clients.all_kept(committed, excused)?;
        for (partition, min_isr) in partitions {
            let leader = self.entry(*partition).and_then(|entry| entry.leader);
            let (Some(leader), false) = (leader, self.logs.is_excused(*partition, *min_isr)) else {
                continue;
            };
            let log = self.disk_of(leader).durable.get(partition).cloned().unwrap_or_default();
            let wanted = self.logs.committed(*partition, log.log_start, u64::MAX);
            let kept = wanted
                .iter()
                .all(|batch| log.range(batch.base_offset(), batch.end_offset()) == [batch.clone()]);
            ensure(kept, Invariant::R1, || {
                format!("the leader {leader} of {partition} lacks committed records")
            })?;
        }
        Ok(())
    }

    /// Says what is not whole, `None` if everything is.
    pub fn unhealed(&self) -> Option<String> {
        let Some(image) = self.metadata.newest() else { return Some("there is no image".to_owned()) };
        let controllers = self.controllers();
        let [controller] = controllers[..] else { return Some(format!("controllers: {controllers:?}")) };
        for id in self.ids() {
            let Some(status) = self.status(id) else { return Some(format!("broker {id} is down")) };
            let whole =
                status.controller == Some(controller) && status.registered && status.applied == image.at;
            if !whole {
                return Some(format!("broker {id}: {status:?}, newest image {}", image.at));
            }
        }
        logs::partitions(image).find_map(|(partition, min_isr, entry)| {
            if self.logs.is_excused(partition, min_isr) || self.is_lost(entry, min_isr) {
                return None;
            }
            self.unhealed_partition(partition, entry).map(|why| format!("{partition}: {why}; {entry:?}"))
        })
    }

    /// Returns whether its last in-sync copy was on a lost volume: of a topic made before that loss was seen.
    fn is_lost(&self, entry: &PartitionEntry, min_isr: u32) -> bool {
        entry.isr.is_empty() && self.volumes_lost >= min_isr.max(1)
    }

    fn unhealed_partition(&self, partition: TopicPartition, entry: &PartitionEntry) -> Option<String> {
        let Some(leader) = entry.leader else { return Some("no leader".to_owned()) };
        if !entry.adding.is_empty() || !entry.removing.is_empty() {
            return Some("a move is not over".to_owned());
        }
        if !entry.replicas.iter().all(|replica| entry.isr.contains(replica)) {
            return Some("replicas are out of sync".to_owned());
        }
        let Some(view) = self.view(leader, partition) else {
            return Some("the leader shows nothing".to_owned());
        };
        if view.role != Role::Leader
            || view.leader_epoch != entry.leader_epoch
            || view.high_watermark != view.log_end
        {
            return Some(format!("leader {leader} shows {view:?}"));
        }
        entry.replicas.iter().find_map(|replica| {
            let shown = self.view(*replica, partition);
            let whole = shown.is_some_and(|shown| shown.high_watermark == view.high_watermark);
            (!whole).then(|| format!("replica {replica} shows {shown:?}, the leader {view:?}"))
        })
    }
}
