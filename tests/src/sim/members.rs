//! Consumers that share the partitions of one topic: they join, read, commit, stop, wake up and die. Whatever happens to
//! them and to brokers, a partition has one of them (G1), and in the end everything is processed (G2).

use super::checks::groups::GroupChecks;
use super::checks::{Checked, ensure};
use super::world::{Flow, World};
use pubsub_core::control::Ticket;
use pubsub_core::group::{GroupError, GroupReply, GroupRequest, Held, Reader};
use pubsub_core::ids::{BrokerId, ConsumerId, GroupId, Offset, TopicId, TopicName, TopicPartition};
use pubsub_core::invariants::Invariant;
use pubsub_core::limits::GROUP_SESSION_MS;
use std::collections::{BTreeMap, BTreeSet};

/// How many consumers there are at a time; the topic has two partitions at most.
const MEMBERS: usize = 3;
/// How long a consumer waits for an answer, ms.
const PATIENCE_MS: u64 = 3_000;
/// For so long after it asked, whoever was told that it has a partition can be sure of it: a coordinator's clock may be
/// fast by a twentieth.
const LEASE_MS: u64 = GROUP_SESSION_MS * 9 / 10;
/// Longest time until everything is processed: sessions of the dead have to end, after a coordinator may have just begun.
const FINISH_MS: u64 = 3 * GROUP_SESSION_MS;

/// One consumer, in one life.
#[derive(Clone, Debug, Default)]
struct Member {
    name: String,
    epoch: Option<u64>,
    /// What it reads, and which offset comes next.
    owned: BTreeMap<u32, Offset>,
    /// Until then what it reads is its own for certain.
    lease: u64,
    /// The request that it waits for, and since when.
    waiting: Option<(u64, u64)>,
    rests_until: u64,
}

#[derive(Clone, Debug)]
enum Asked {
    Join,
    Commit { member_epoch: u64, partition: u32, offset: i64 },
    Leave,
}

/// A request that is not answered.
#[derive(Clone, Debug)]
struct Ask {
    name: String,
    what: Asked,
    sent: u64,
    /// The positions that had been told to anybody before.
    told: BTreeMap<u32, i64>,
}

/// All consumers of the group.
#[derive(Debug, Default)]
pub struct Members {
    list: Vec<Member>,
    asks: BTreeMap<u64, Ask>,
    lives: u64,
    told: BTreeMap<u32, i64>,
    processed: BTreeMap<u32, BTreeSet<Offset>>,
    /// What is committed.
    pub checks: GroupChecks,
    /// Commits that were acknowledged.
    pub commits: u64,
    /// Requests that were refused because their sender had lost its membership or partition.
    pub fenced: u64,
}

fn group() -> GroupId {
    GroupId::try_from("readers").expect("a valid name")
}

fn consumer(name: &str) -> ConsumerId {
    ConsumerId::try_from(name.to_owned()).expect("a valid name")
}

impl Members {
    fn fill(&mut self) {
        while self.list.len() < MEMBERS {
            let member = self.born();
            self.list.push(member);
        }
    }

    fn born(&mut self) -> Member {
        self.lives += 1;
        Member { name: format!("c{}", self.lives), ..Member::default() }
    }

    /// Returns whether a consumer takes a partition for its own.
    pub fn owns(&self, which: usize, partition: u32) -> bool {
        self.list.get(which).is_some_and(|member| member.owned.contains_key(&partition))
    }

    /// Returns whether a consumer is told that it is a member.
    pub fn is_member(&self, which: usize) -> bool {
        self.list.get(which).is_some_and(|member| member.epoch.is_some())
    }

    /// Returns the newest position that anybody was told.
    pub fn told(&self, partition: u32) -> i64 {
        self.told.get(&partition).copied().unwrap_or(-1)
    }

    fn tell(&mut self, partition: u32, offset: i64) {
        let told = self.told.entry(partition).or_insert(-1);
        *told = offset.max(*told);
    }

    /// Checks that nobody else can be sure of what a member takes for its own.
    fn exclusive(&self, which: usize, now: u64) -> Checked {
        let member = &self.list[which];
        for other in self.list.iter().filter(|other| other.name != member.name && other.lease > now) {
            let both: Vec<_> = member.owned.keys().filter(|no| other.owned.contains_key(no)).collect();
            ensure(both.is_empty(), Invariant::G1, || {
                format!("{member:?} was given {both:?}, which {other:?} reads")
            })?;
        }
        Ok(())
    }
}

impl World {
    fn shared_topic(&self) -> Option<TopicId> {
        let name = TopicName::try_from("orders").expect("a valid name");
        self.clients.topics.get(&name).copied()
    }

    /// A random consumer does one thing.
    pub(crate) fn random_member(&mut self) {
        self.members.fill();
        let which = usize::try_from(self.rng.below(3)).expect("a small number") % MEMBERS;
        if self.members.list[which].rests_until > self.now {
            return;
        }
        match self.rng.below(100) {
            0..2 => self.members.list[which].rests_until = self.now + self.rng.between((500, 15_000)),
            2..4 => self.member_dies(which),
            4 | 5 => self.member_leaves(which),
            _ => self.member_acts(which),
        }
    }

    /// A consumer joins or beats, reads, or commits, unless it waits for an answer.
    pub(crate) fn member_acts(&mut self, which: usize) {
        self.members.fill();
        let member = &mut self.members.list[which];
        if member.waiting.is_some_and(|(_, since)| since + PATIENCE_MS > self.now) {
            return;
        }
        member.waiting = None;
        match self.rng.below(10) {
            0..4 => self.member_joins(which),
            4..7 => self.member_reads(which),
            _ => {
                if let Some((ticket, request)) = self.commit_of(which) {
                    self.members.list[which].waiting = Some((ticket.0, self.now));
                    self.send_to_coordinator(0, ticket, request);
                }
            }
        }
    }

    fn member_joins(&mut self, which: usize) {
        let Some(topic) = self.shared_topic() else { return };
        let partitions = self.image().and_then(|image| Some(image.topics.get(&topic)?.partitions.len()));
        let member = &self.members.list[which];
        let owned = Some(member.owned.keys().copied().collect());
        let request = GroupRequest::Join {
            reader: Reader::Group(group()),
            consumer: Some(consumer(&member.name)),
            topic,
            partitions: partitions.and_then(|count| u32::try_from(count).ok()).unwrap_or_default(),
            standby: true,
            held: member.epoch.map(|member_epoch| Held { member_epoch, owned }),
            anew: false,
        };
        let ticket = self.note_ask(which, Asked::Join);
        self.members.list[which].waiting = Some((ticket.0, self.now));
        self.send_to_coordinator(0, ticket, request);
    }

    fn note_ask(&mut self, which: usize, what: Asked) -> Ticket {
        let ticket = self.clients.ticket();
        let name = self.members.list[which].name.clone();
        let ask = Ask { name, what, sent: self.now, told: self.members.told.clone() };
        self.members.asks.insert(ticket.0, ask);
        ticket
    }

    /// Asks whom some broker takes for the coordinator, or that broker itself.
    pub(crate) fn send_to_coordinator(&mut self, after_ms: u64, ticket: Ticket, request: GroupRequest) {
        let ids = self.ids();
        let (Some(asked), Some(partition)) = (self.rng.pick(&ids), self.groups_partition()) else { return };
        let image = self.nodes[&asked].process.as_ref().and_then(|process| process.control.image().cloned());
        let topic = image.as_ref().and_then(|image| image.topics.get(&partition.topic));
        let leader = topic.and_then(|topic| topic.partitions.first()).and_then(|entry| entry.leader);
        let to: BrokerId = if self.rng.chance(50) { asked } else { leader.unwrap_or(asked) };
        if !self.ask_group(to, after_ms, ticket, request) {
            let refused = self.member_answered(ticket, Err(GroupError::Unavailable));
            self.judge(refused);
        }
    }

    /// Reads from any replica what comes next in a partition that it takes for its own.
    fn member_reads(&mut self, which: usize) {
        let Some(topic) = self.shared_topic() else { return };
        let owned: Vec<_> = self.members.list[which].owned.iter().map(|(no, next)| (*no, *next)).collect();
        let Some((no, next)) = self.rng.pick(&owned) else { return };
        let partition = TopicPartition { topic, partition: no };
        let replicas = self.entry(partition).map(|entry| entry.replicas).unwrap_or_default();
        let Some(replica) = self.rng.pick(&replicas) else { return };
        let from = next.max(self.logs.start(partition));
        let batches = self.readable(replica, partition, from);
        let end = batches.last().map_or(from, pubsub_core::record::Batch::end_offset);
        self.members.processed.entry(no).or_default().extend(from..end);
        self.members.list[which].owned.insert(no, end.max(from));
    }

    /// Makes the commit of what a consumer has processed in one of its partitions.
    pub(crate) fn commit_of(&mut self, which: usize) -> Option<(Ticket, GroupRequest)> {
        let topic = self.shared_topic()?;
        let member = &self.members.list[which];
        let (member_epoch, name) = (member.epoch?, member.name.clone());
        let owned: Vec<_> = member.owned.iter().map(|(no, next)| (*no, *next)).collect();
        let (partition, next) = self.rng.pick(&owned)?;
        let offset = i64::try_from(next).ok()?.checked_sub(1).filter(|offset| *offset >= 0)?;
        let request = GroupRequest::Commit {
            reader: Reader::Group(group()),
            consumer: Some(consumer(&name)),
            topic,
            partition,
            offset,
            member_epoch: Some(member_epoch),
        };
        let ticket = self.note_ask(which, Asked::Commit { member_epoch, partition, offset });
        Some((ticket, request))
    }

    /// A consumer's process ends; its last commit may still be on its way. Another begins under a name of its own.
    fn member_dies(&mut self, which: usize) {
        if let Some((ticket, request)) = self.commit_of(which) {
            let after = self.rng.between((1, 15_000));
            self.send_to_coordinator(after, ticket, request);
        }
        self.members.list[which] = self.members.born();
    }

    fn member_leaves(&mut self, which: usize) {
        let member = &self.members.list[which];
        let (name, member_epoch) = (consumer(&member.name), member.epoch);
        let request = GroupRequest::Leave { group: group(), consumer: name, topic: None, member_epoch };
        let ticket = self.note_ask(which, Asked::Leave);
        self.send_to_coordinator(0, ticket, request);
        self.members.list[which] = self.members.born();
    }

    /// Takes a coordinator's answer.
    ///
    /// # Errors
    /// G1 or G2.
    pub(crate) fn member_answered(
        &mut self,
        ticket: Ticket,
        result: Result<GroupReply, GroupError>,
    ) -> Checked {
        let Some(ask) = self.members.asks.remove(&ticket.0) else { return Ok(()) };
        let now = self.now;
        let void = self.groups_partition().is_none_or(|at| self.logs.is_excused(at, self.min_isr(at)));
        let members = &mut self.members;
        let current = |member: &Member| member.waiting.is_some_and(|(waits, _)| waits == ticket.0);
        let which = members.list.iter().position(current);
        if let Some(which) = which {
            members.list[which].waiting = None;
        }
        match (&ask.what, result) {
            (_, Err(GroupError::Fenced)) => {
                members.fenced += 1;
                if let Some(member) = which.map(|which| &mut members.list[which]) {
                    *member = Member { name: member.name.clone(), ..Member::default() };
                }
            }
            (Asked::Join, Ok(GroupReply::Joined { member_epoch, partitions, .. })) => {
                for (no, position) in &partitions {
                    let least = ask.told.get(no).copied().unwrap_or(-1);
                    ensure(void || *position >= least, Invariant::G2, || {
                        format!("{least} of partition {no} was told before {ask:?}, then {position}")
                    })?;
                    members.tell(*no, *position);
                }
                let Some(which) = which else { return Ok(()) };
                let member = &mut members.list[which];
                let next = |(no, position): (u32, i64)| {
                    let behind = Offset::try_from(position.saturating_add(1)).unwrap_or_default();
                    (no, member.owned.get(&no).copied().unwrap_or(behind))
                };
                member.owned = partitions.into_iter().map(next).collect();
                member.epoch = Some(member_epoch);
                member.lease = ask.sent + LEASE_MS;
                if !void {
                    members.exclusive(which, now)?;
                }
            }
            (Asked::Commit { member_epoch, partition, offset }, Ok(_)) => {
                members.commits += 1;
                if !void {
                    members.checks.acknowledged(&ask.name, *member_epoch, *partition, *offset)?;
                }
                members.tell(*partition, *offset);
                if let Some(which) = which {
                    members.list[which].lease = ask.sent + LEASE_MS;
                }
            }
            (Asked::Join | Asked::Leave, Ok(_)) | (_, Err(_)) => {}
        }
        Ok(())
    }

    /// Lets the consumers go on until everything in the partitions that live is processed and committed.
    ///
    /// # Errors
    /// [`super::world::Stop`] if an invariant broke, V1 if that takes too long, G2 if something was passed over.
    pub(crate) fn finish_members(&mut self, living: &BTreeSet<TopicPartition>) -> Flow {
        let (Some(groups), Some(topic)) = (self.groups_partition(), self.shared_topic()) else {
            return Ok(());
        };
        if !living.contains(&groups) {
            return Ok(());
        }
        let shared: Vec<_> = living.iter().copied().filter(|partition| partition.topic == topic).collect();
        self.members.list.iter_mut().for_each(|member| member.rests_until = 0);
        let left = |world: &Self| {
            let behind = |at: &&TopicPartition| {
                let end = i64::try_from(world.logs.committed_end(**at)).unwrap_or(i64::MAX);
                world.members.told(at.partition) + 1 < end
            };
            shared.iter().find(behind).copied()
        };
        let mut turn = 0;
        let done = self.run_until(FINISH_MS, |world| {
            turn += 1;
            world.member_acts(turn % MEMBERS);
            left(world).is_none()
        })?;
        if !done {
            let why = format!("{:?} is not processed: {:?}", left(self), self.members.list);
            return self.fail(Invariant::V1, why);
        }
        for at in &shared {
            let all = self.logs.start(*at)..self.logs.committed_end(*at);
            let processed = self.members.processed.get(&at.partition);
            let missed: Vec<_> =
                all.filter(|offset| processed.is_none_or(|done| !done.contains(offset))).take(5).collect();
            self.expect(missed.is_empty(), Invariant::G2, || format!("{missed:?} of {at} were passed over"))?;
        }
        Ok(())
    }
}
