//! Random lives of a group: members that join, beat, commit, pause and vanish, coordinators that are replaced and do not
//! know it, appends of unknown outcome. Every step is checked, and every rule is missed when it is switched off.

use super::*;

const PARTITIONS: u32 = 3;
const MEMBERS: usize = 4;

/// A rule that a run does without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    /// A coordinator answers from memory without a proof that it leads.
    Proof,
    /// A coordinator takes an append of unknown outcome for committed.
    Commit,
    /// A new coordinator gives nobody a fresh session.
    FreshSessions,
    /// Commits do not name the epoch that the member knows.
    Epochs,
    /// A coordinator goes on with its memory after an append of unknown outcome.
    Reload,
}

/// Numbers that look random, the same for the same seed.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn chance(&mut self, of_hundred: u64) -> bool {
        self.below(100) < of_hundred
    }
}

#[derive(Default)]
struct Client {
    epoch: Option<u64>,
    owned: BTreeSet<u32>,
}

struct Life {
    rng: Rng,
    without: Option<Without>,
    now: Mono,
    log: Vec<Record>,
    /// Where the log starts.
    start: usize,
    /// The last one leads; the others were replaced and do not know it.
    coordinators: Vec<Groups>,
    clients: Vec<Client>,
    offset: i64,
    /// By partition, the newest position that anybody was told of.
    told: BTreeMap<u32, i64>,
}

/// What went wrong.
type Broken = String;
type Answer = Result<GroupReply, GroupError>;

impl Life {
    fn new(seed: u64, without: Option<Without>) -> Self {
        let clients = std::iter::repeat_with(Client::default).take(MEMBERS).collect();
        let coordinators = vec![Groups::new()];
        let (log, told) = (vec![], BTreeMap::new());
        Self { rng: Rng(seed), without, now: 0, log, start: 0, coordinators, clients, offset: 0, told }
    }

    fn fresh(&self) -> Groups {
        // Logs are cut much more often than they would be.
        let mut groups = Groups::with(1_000, vec![]);
        for (key, value) in &self.log[self.start..] {
            groups.replay(key, value.as_deref());
        }
        if self.without != Some(Without::FreshSessions) {
            groups.begin(self.now);
        }
        groups
    }

    /// Asks a coordinator, mostly the right one.
    fn ask(&mut self, request: GroupRequest) -> Result<Answer, Broken> {
        let last = self.coordinators.len() - 1;
        let replaced = last > 0 && self.rng.chance(20);
        let at = if replaced { last - 1 } else { last };
        let mut actions = self.coordinators[at].step(self.now, Input::Request { ticket: Ticket(1), request });
        let mut answer = Err(GroupError::Unavailable);
        while !actions.is_empty() {
            let mut snapshot_at = None;
            let sure = match actions.remove(0) {
                Action::Append { records, snapshot } => {
                    let unknown = replaced || self.rng.chance(10);
                    let some = !replaced && (!unknown || self.rng.chance(50));
                    let all = some && (!unknown || self.rng.chance(50));
                    if some {
                        self.append(records)?;
                    }
                    if all {
                        snapshot_at = (!snapshot.is_empty()).then_some(self.log.len());
                        self.append(snapshot)?;
                    }
                    !unknown || self.without == Some(Without::Commit)
                }
                Action::Trim { to } => {
                    self.start = usize::try_from(to).unwrap();
                    continue;
                }
                Action::Confirm => !replaced || self.without == Some(Without::Proof),
                Action::Reply { result, .. } => {
                    answer = result;
                    continue;
                }
                Action::Reload => {
                    // Only who leads can write the barrier.
                    if replaced {
                        self.coordinators.remove(at);
                    } else if self.without != Some(Without::Reload) {
                        self.coordinators[at] = self.fresh();
                    }
                    break;
                }
            };
            let snapshot_at = snapshot_at.filter(|_| sure).map(|at| u64::try_from(at).unwrap());
            actions.extend(self.coordinators[at].step(self.now, Input::Settled { sure, snapshot_at }));
        }
        Ok(answer)
    }

    /// Takes committed records, and checks what they say together with those before.
    fn append(&mut self, records: Vec<Record>) -> Result<(), Broken> {
        for (key, value) in records {
            match (Key::parse(&key), &value) {
                (Some(Key::Group(_)), Some(value)) => {
                    let membership: Membership = serde_json::from_slice(value).unwrap();
                    let members = membership.topics.values().flat_map(|sharing| sharing.members.values());
                    let owned: Vec<u32> =
                        members.flat_map(|member| member.assigned.keys().copied()).collect();
                    let once: BTreeSet<u32> = owned.iter().copied().collect();
                    if owned.len() != once.len() {
                        return Err(format!("a partition has two owners: {membership:?}"));
                    }
                }
                (Some(Key::Position(position)), Some(value)) => {
                    let finished: Finished = serde_json::from_slice(value).unwrap();
                    // Owners only go on: what is behind came from a member that had lost the partition.
                    let before = self.told.get(&position.2).copied().unwrap_or(-1);
                    if finished.offset < before {
                        return Err(format!("{before} was told, then {} was taken", finished.offset));
                    }
                }
                _ => {}
            }
            self.log.push((key, value));
        }
        Ok(())
    }

    fn join(&mut self, member: usize, heartbeat: bool) -> Result<(), Broken> {
        let client = &self.clients[member];
        let owned = (!heartbeat).then(|| client.owned.iter().copied().collect());
        let held = client.epoch.map(|member_epoch| Held { member_epoch, owned });
        let (reader, consumer) = (Reader::Group(group()), Some(name(&format!("c{member}"))));
        let before = self.told.clone();
        let known = held.is_some();
        let request = GroupRequest::Join {
            reader,
            consumer,
            topic: TOPIC,
            partitions: PARTITIONS,
            standby: true,
            held,
            anew: !known,
        };
        match self.ask(request)? {
            Ok(GroupReply::Joined { member_epoch, partitions, .. }) => {
                for (partition, told) in &partitions {
                    let least = before.get(partition).copied().unwrap_or(-1);
                    if *told < least {
                        return Err(format!("{least} was told in {partition}, then {told}"));
                    }
                    self.told.insert(*partition, *told);
                }
                if !heartbeat || !known {
                    let owned = partitions.into_iter().map(|(no, _)| no).collect();
                    self.clients[member] = Client { epoch: Some(member_epoch), owned };
                }
            }
            Err(GroupError::Fenced) => self.clients[member] = Client::default(),
            _ => {}
        }
        self.exclusive()
    }

    fn commit(&mut self, member: usize) -> Result<(), Broken> {
        let client = &self.clients[member];
        let Some(partition) = client.owned.first().copied() else { return Ok(()) };
        let member_epoch = client.epoch.filter(|_| self.without != Some(Without::Epochs));
        self.offset += 1;
        // Now and then a process of the same name that was stopped long ago wakes up and says what it had finished.
        let late = self.rng.chance(20);
        let (offset, member_epoch) =
            if late { (self.offset / 2, member_epoch.map(|_| 0)) } else { (self.offset, member_epoch) };
        let (reader, consumer) = (Reader::Group(group()), Some(name(&format!("c{member}"))));
        let commit = GroupRequest::Commit { reader, consumer, topic: TOPIC, partition, offset, member_epoch };
        match self.ask(commit)? {
            Ok(_) => {
                self.told.insert(partition, offset);
            }
            Err(GroupError::Fenced) if !late => self.clients[member] = Client::default(),
            Err(_) => {}
        }
        Ok(())
    }

    /// No partition is held by two clients that the present coordinator takes commits from.
    fn exclusive(&mut self) -> Result<(), Broken> {
        let leader = self.coordinators.last_mut().unwrap();
        let mut owners: BTreeMap<u32, usize> = BTreeMap::new();
        let Some(membership) = leader.groups.get(&group()) else { return Ok(()) };
        for (member, client) in self.clients.iter().enumerate() {
            let Some(epoch) = client.epoch else { continue };
            for partition in &client.owned {
                let own = (&name(&format!("c{member}")), Some(epoch));
                if membership.clone().owns(self.now, own, TOPIC, *partition)
                    && let Some(other) = owners.insert(*partition, member)
                {
                    return Err(format!("{other} and {member} both own {partition}"));
                }
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Broken> {
        let member = usize::try_from(self.rng.below(MEMBERS as u64)).unwrap();
        match self.rng.below(20) {
            0..7 => self.join(member, false),
            7..9 => self.join(member, true),
            9..15 => self.commit(member),
            15 => {
                let epoch = std::mem::take(&mut self.clients[member]).epoch;
                let consumer = name(&format!("c{member}"));
                let leave =
                    GroupRequest::Leave { group: group(), consumer, topic: None, member_epoch: epoch };
                self.ask(leave).map(drop)
            }
            16 => {
                self.clients[member] = Client::default();
                Ok(())
            }
            17 => {
                let fresh = self.fresh();
                self.coordinators.push(fresh);
                let lives = self.coordinators.len();
                self.coordinators.drain(..lives - 2);
                self.survivors(member)
            }
            _ => {
                self.now += self.rng.below(GROUP_SESSION_MS / 3);
                Ok(())
            }
        }
    }

    /// A failover ends nobody's membership.
    fn survivors(&mut self, member: usize) -> Result<(), Broken> {
        let leader = self.coordinators.last_mut().unwrap();
        let count = |groups: &Groups| {
            let members = groups.groups.get(&group()).and_then(|membership| membership.topics.get(&TOPIC));
            members.map_or(0, |sharing| sharing.members.len())
        };
        let before = count(leader);
        let mut epochs = leader.epochs;
        if let Some(membership) = leader.groups.get_mut(&group()) {
            membership.expire(self.now, &mut epochs);
        }
        let after = count(leader);
        if before == after {
            Ok(())
        } else {
            Err(format!("{} of {before} members were dropped, asked by {member}", before - after))
        }
    }
}

/// Returns where the log starts in the end.
fn live(seed: u64, without: Option<Without>) -> Result<usize, Broken> {
    let mut life = Life::new(seed, without);
    (0..300).try_for_each(|_| life.step())?;
    Ok(life.start)
}

#[test]
fn groups_keep_their_promises_through_random_lives() {
    let mut cut = 0;
    for seed in 0..400 {
        match live(seed, None) {
            Ok(start) => cut += usize::from(start > 0),
            Err(broken) => panic!("seed {seed}: {broken}"),
        }
    }
    assert!(cut > 100, "{cut} logs were cut");
}

#[test]
fn every_rule_is_missed_when_it_is_switched_off() {
    for without in [Without::Proof, Without::Commit, Without::FreshSessions, Without::Epochs, Without::Reload]
    {
        assert!((0..400).any(|seed| live(seed, Some(without)).is_err()), "nobody misses {without:?}");
    }
}
