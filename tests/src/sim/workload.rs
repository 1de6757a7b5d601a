//! What clients do by chance, one action after the other.

use super::checks::{Checked, logs};
use super::clients::Consumer;
use super::world::{Happening, World};
use pubsub_core::control::Command;
use pubsub_core::control::image::Image;
use pubsub_core::ids::{BrokerId, TopicName, TopicPartition};
use pubsub_core::partition::{self, Acks, Role};
use pubsub_core::record::Batch;

impl World {
    /// Lets clients work from now on, one action every so many ms.
    pub fn start_clients(&mut self, every: (u64, u64)) {
        let idle = self.workload_every.replace(every).is_none();
        self.clients.consumers.resize(2, Consumer::default());
        if idle {
            self.schedule(self.now, BrokerId(1), Happening::Workload);
        }
    }

    /// One client does one thing.
    pub(crate) fn workload(&mut self) -> Checked {
        let Some(every) = self.workload_every else { return Ok(()) };
        let at = self.now + self.rng.between(every);
        self.schedule(at, BrokerId(1), Happening::Workload);
        match self.rng.below(100) {
            0..2 => self.random_admin(),
            2..30 => return self.random_read(),
            30..55 => self.random_produce(),
            55..60 => self.random_confirm(),
            60..62 => self.random_trim(),
            62..82 if self.has_groups() => self.random_member(),
            _ => self.random_publish(),
        }
        Ok(())
    }

    /// Asks a random broker, which need not be right, who leads a random partition.
    pub(crate) fn ask_for_a_leader(&mut self) -> Option<(BrokerId, TopicPartition, Option<BrokerId>)> {
        let ids = self.ids();
        let asked = self.rng.pick(&ids)?;
        let image = self.nodes[&asked].process.as_ref()?.control.image()?.clone();
        let partitions = self.data_partitions(&image);
        let (partition, leader) = self.rng.pick(&partitions)?;
        Some((asked, partition, leader))
    }

    /// Publishes where a random broker says that the leader is, or to that broker.
    fn random_publish(&mut self) {
        let Some((asked, partition, leader)) = self.ask_for_a_leader() else { return };
        let to = if self.rng.chance(50) { Some(asked) } else { leader };
        let acks = match self.rng.below(10) {
            0 => Acks::Leader,
            1 => Acks::None,
            _ => Acks::All,
        };
        let burst = if self.rng.chance(100) { 5 } else { 1 };
        for _ in 0..burst {
            to.and_then(|to| self.publish(to, partition, acks));
        }
    }

    /// Retention of a broker that thinks it leads finds that the log should start at some batch.
    fn random_trim(&mut self) {
        let ids = self.ids();
        let Some(id) = self.rng.pick(&ids) else { return };
        let node = &self.nodes[&id];
        let Some(process) = node.process.as_ref() else { return };
        let led = process.views.iter().filter(|(_, view)| view.role == Role::Leader);
        // The coordinator of groups cuts its log itself.
        let led = led.filter(|(partition, _)| !self.is_groups(**partition));
        let led: Vec<_> = led.map(|(partition, view)| (*partition, view.leader_epoch)).collect();
        let serial = process.serial;
        let Some((partition, leader_epoch)) = self.rng.pick(&led) else { return };
        let starts = self.nodes[&id].disk.written.get(&partition).into_iter().flat_map(|log| &log.batches);
        let starts: Vec<_> = starts.map(Batch::base_offset).collect();
        // Mostly the older half, sometimes everything.
        let most = if self.rng.chance(100) { starts.len() } else { starts.len() / 2 };
        let Some(to) = self.rng.pick(&starts[..most]) else { return };
        let input = Box::new(partition::Input::Trim { partition, leader_epoch, to });
        self.schedule(self.now, id, Happening::Replicas { process: serial, input });
    }

    /// A consumer polls a random replica at its position (R6).
    fn random_read(&mut self) -> Checked {
        let Some(image) = self.image() else { return Ok(()) };
        let partitions: Vec<_> =
            logs::partitions(&image).map(|(partition, min_isr, _)| (partition, min_isr)).collect();
        let Some((partition, min_isr)) = self.rng.pick(&partitions) else { return Ok(()) };
        if self.logs.is_excused(partition, min_isr) {
            return Ok(());
        }
        let replicas = self.entry(partition).map(|entry| entry.replicas).unwrap_or_default();
        let Some(replica) = self.rng.pick(&replicas) else { return Ok(()) };
        let which = usize::from(self.rng.chance(500));
        let position = self.clients.consumers[which].positions.get(&partition).copied().unwrap_or_default();
        // What retention has deleted is passed over.
        let start = self.view(replica, partition).map_or(0, |view| view.log_start);
        let position = position.max(start);
        let batches = self.readable(replica, partition, position);
        self.logs.read(partition, position, &batches)?;
        let consumer = &mut self.clients.consumers[which];
        consumer.records += batches.iter().map(|batch| u64::from(batch.count())).sum::<u64>();
        if let Some(last) = batches.last() {
            consumer.positions.insert(partition, last.end_offset());
        }
        Ok(())
    }

    fn random_admin(&mut self) {
        let ids = self.ids();
        let Some(asked) = self.rng.pick(&ids) else { return };
        let to = self.status(asked).and_then(|status| status.controller).unwrap_or(asked);
        let name = format!("extra-{}", self.rng.below(4));
        let command = if self.rng.chance(400) {
            Command::DeleteTopic {
                name: TopicName::try_from(name).expect("a valid name"),
                owner_uid: None,
                empty: None,
            }
        } else {
            let factor = 1 + u32::try_from(self.rng.below(3)).expect("a small number");
            self.new_topic(&name, 1, factor, factor.saturating_sub(1).max(1))
        };
        self.admin(to, command);
    }

    /// Returns the partitions that clients publish to, with their leaders: all but those that hold groups.
    fn data_partitions(&self, image: &Image) -> Vec<(TopicPartition, Option<BrokerId>)> {
        let all = logs::partitions(image).filter(|(partition, ..)| !self.is_groups(*partition));
        all.map(|(partition, _, entry)| (partition, entry.leader)).collect()
    }
}
