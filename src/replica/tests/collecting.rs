//! Collection beside members that put the same contents again and again: a model of ops, records and base
//! line around replicas that are the real ones.

use std::collections::BTreeSet;
use std::time::Duration;

use super::net::Swarm;
use crate::base::time::sleep;
use crate::base::{ChunkId, Clock};
use crate::crypto::chunk_id;
use crate::replica::ReplicaConfig;
use crate::replica::collect::{Named, Terms};

const PEERS: usize = 5;

/// The name of an op.
type OpNo = usize;

/// An op of the model: it names a content, or removes what some ops named.
struct Op {
    author: usize,
    /// The record that its author had folded.
    behind: u64,
    kind: Kind,
    /// Its holders were asked again, and it may be told to others.
    is_sealed: bool,
    /// The record that names it.
    named_by: Option<u64>,
}

enum Kind {
    Names(usize),
    Removes(BTreeSet<OpNo>),
}

/// What one member has folded.
#[derive(Default)]
struct Member {
    ops: BTreeSet<OpNo>,
    record: u64,
    /// Contents that it has put, and that no op of its names yet.
    unwritten: BTreeSet<usize>,
}

/// A record: what it names, and its base line.
struct Record {
    names: BTreeSet<OpNo>,
    base_line: u64,
}

struct Model {
    swarm: Swarm,
    seed: u64,
    contents: Vec<(ChunkId, Vec<u8>)>,
    ops: Vec<Op>,
    /// Record 0 names nothing.
    records: Vec<Record>,
    members: Vec<Member>,
    /// Who is cut off.
    cut: Option<usize>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut swarm = Swarm::empty(seed);
        // What may be evicted is.
        let config = ReplicaConfig {
            cache_bytes: 0,
            ..ReplicaConfig::default()
        };
        swarm.add_many(PEERS, config);
        let content = |n: u8| vec![n; 2_000 + usize::from(n)];
        let contents = (0..8).map(content).map(|bytes| (chunk_id(&bytes), bytes));
        Self {
            contents: contents.collect(),
            swarm,
            seed,
            ops: Vec::new(),
            records: vec![Record {
                names: BTreeSet::new(),
                base_line: 0,
            }],
            members: (0..PEERS).map(|_| Member::default()).collect(),
            cut: None,
        }
    }

    fn any(&self, of: usize) -> usize {
        self.swarm.rng.below(of as u64) as usize
    }

    fn base_line(&self, of: usize) -> u64 {
        self.records[self.members[of].record as usize].base_line
    }

    /// The ops that name a content in what a member has folded, and whether one that was removed is
    /// looked back to.
    fn names(&self, of: usize, content: usize) -> (BTreeSet<OpNo>, bool) {
        let member = &self.members[of];
        let mut standing = BTreeSet::new();
        for no in &member.ops {
            if matches!(self.ops[*no].kind, Kind::Names(named) if named == content) {
                standing.insert(*no);
            }
        }
        let mut looked_back = false;
        for no in &member.ops {
            let Kind::Removes(removed) = &self.ops[*no].kind else {
                continue;
            };
            let is_settled = self.ops[*no]
                .named_by
                .is_some_and(|by| by <= self.base_line(of) && by <= member.record);
            for gone in removed {
                if standing.remove(gone) {
                    looked_back |= !is_settled;
                }
            }
        }
        (standing, looked_back)
    }

    fn issue(&mut self, author: usize, kind: Kind) -> OpNo {
        let behind = self.members[author].record;
        self.ops.push(Op {
            author,
            behind,
            kind,
            is_sealed: false,
            named_by: None,
        });
        self.members[author].ops.insert(self.ops.len() - 1);
        self.ops.len() - 1
    }

    fn put(&mut self, by: usize) {
        let content = self.any(self.contents.len());
        let (id, bytes) = &self.contents[content];
        self.swarm.at(by).put(*id, bytes).unwrap();
        self.members[by].unwritten.insert(content);
        // In time: a look at what is named here alone comes every ten seconds, and a base line takes a minute.
        self.pin(by);
    }

    /// What is written, and in no op that was told, is not evicted.
    fn pin(&self, by: usize) {
        let unwritten = self.members[by].unwritten.iter().copied();
        let untold = self
            .ops
            .iter()
            .filter(|op| op.author == by && !op.is_sealed);
        let untold = untold.filter_map(|op| match op.kind {
            Kind::Names(content) => Some(content),
            Kind::Removes(_) => None,
        });
        let ids = unwritten
            .chain(untold)
            .map(|content| self.contents[content].0);
        let elsewhere = self.swarm.at(by).pin(ids.collect());
        assert_eq!(elsewhere.unwrap(), [], "it was put here");
    }

    /// An op names what was put.
    fn write(&mut self, by: usize) {
        if let Some(content) = self.members[by].unwritten.pop_first() {
            self.issue(by, Kind::Names(content));
        }
    }

    fn remove(&mut self, by: usize) {
        let content = self.any(self.contents.len());
        let (standing, _) = self.names(by, content);
        if !standing.is_empty() {
            self.issue(by, Kind::Removes(standing));
        }
    }

    fn seal(&mut self, by: usize) {
        for op in self
            .ops
            .iter_mut()
            .filter(|op| op.author == by && !op.is_sealed)
        {
            if let Kind::Names(content) = op.kind {
                let ids = [self.contents[content].0];
                self.swarm.at(by).renew(&ids, op.behind).unwrap();
            }
            op.is_sealed = true;
        }
        self.pin(by);
    }

    /// Brings a sealed op to a member that has what it was built on.
    fn deliver(&mut self, to: usize) {
        let known = &self.members[to];
        let missing = |(no, op): &(usize, &Op)| op.is_sealed && !known.ops.contains(no);
        let missing: Vec<OpNo> = self
            .ops
            .iter()
            .enumerate()
            .filter(missing)
            .filter(|(_, op)| match &op.kind {
                Kind::Names(_) => op.behind <= known.record,
                Kind::Removes(of) => op.behind <= known.record && of.is_subset(&known.ops),
            })
            .map(|(no, _)| no)
            .collect();
        if !missing.is_empty() {
            let no = missing[self.any(missing.len())];
            self.members[to].ops.insert(no);
        }
    }

    /// The first member makes a record of what it knows and no record names.
    fn make_record(&mut self) {
        let number = self.records.len() as u64;
        let known = self.members[0].ops.iter().copied();
        let new = known.filter(|no| self.ops[*no].named_by.is_none() && self.ops[*no].is_sealed);
        let names: BTreeSet<OpNo> = new.collect();
        let issued = self.ops.iter().filter(|op| op.named_by.is_none());
        let needs = issued.map(|op| op.behind);
        let needs = needs.chain(self.members.iter().map(|member| member.record));
        let needs = needs.min().unwrap_or(0);
        let last = self.records.last().map_or(0, |last| last.base_line);
        for no in &names {
            self.ops[*no].named_by = Some(number);
        }
        self.records.push(Record {
            names,
            base_line: needs.max(last),
        });
        self.fold(0);
    }

    /// A member folds the next record.
    fn fold(&mut self, by: usize) {
        let next = self.members[by].record + 1;
        if let Some(record) = self.records.get(next as usize) {
            let member = &mut self.members[by];
            member.ops.extend(&record.names);
            member.record = next;
            self.swarm.set_record(by, next);
        }
    }

    fn collect(&self, by: usize, wait_ms: u64) {
        let replica = self.swarm.at(by);
        let mut named = Named {
            base_line: self.base_line(by),
            ..Named::default()
        };
        for (number, (id, _)) in self.contents.iter().enumerate() {
            let (standing, looked_back) = self.names(by, number);
            if !standing.is_empty() || self.members[by].unwritten.contains(&number) {
                named.files.insert(id);
            }
            if looked_back {
                named.past.insert(id);
            }
        }
        let terms = Terms {
            now_ms: self.swarm.clock().wall_ms(),
            wait_ms,
            base_line: named.base_line,
        };
        replica.collection().run(&named, &terms).unwrap();
    }

    /// What an op names that was issued, and that no op removes, is somewhere.
    fn check(&self, when: &str) {
        let mut standing: BTreeSet<OpNo> = (0..self.ops.len()).collect();
        for op in &self.ops {
            if let Kind::Removes(removed) = &op.kind {
                standing.retain(|no| !removed.contains(no));
            }
        }
        for no in standing {
            if let Kind::Names(content) = self.ops[no].kind {
                let (id, _) = self.contents[content];
                let is_here = |index| self.swarm.at(index).is_local(id).unwrap();
                let author = self.ops[no].author;
                assert!(
                    (0..PEERS).any(is_here),
                    "seed {} {when}: what op {no} of peer {author} names is nowhere",
                    self.seed
                );
            }
        }
    }

    async fn run(&mut self) {
        for step in 0..400 {
            let by = self.any(PEERS);
            match self.any(32) {
                0..=2 => self.put(by),
                3..=5 => self.write(by),
                6..=9 => self.remove(by),
                10 | 11 => self.seal(by),
                12..=15 if self.cut != Some(by) => self.deliver(by),
                16 | 17 => self.make_record(),
                18..=22 if self.cut != Some(by) => self.fold(by),
                23..=26 => self.collect(by, 0),
                27 if by > 0 => {
                    let others: Vec<usize> = (0..PEERS).filter(|other| *other != by).collect();
                    self.swarm.heal();
                    self.swarm.cut(&[by], &others);
                    self.cut = Some(by);
                }
                28 => {
                    self.swarm.heal();
                    self.cut = None;
                }
                29 => self.swarm.set_loss(self.swarm.rng.below(30)),
                _ => sleep(Duration::from_millis(self.swarm.rng.below(200))).await,
            }
            self.check(&format!("step {step}"));
        }
        self.come_to_rest().await;
    }

    /// All is written, told, named and folded; then exactly what is named is on three peers.
    async fn come_to_rest(&mut self) {
        self.swarm.heal();
        self.swarm.set_loss(0);
        for by in 0..PEERS {
            while !self.members[by].unwritten.is_empty() {
                self.write(by);
            }
            self.seal(by);
        }
        for _ in 0..3 {
            while self.members.iter().any(|member| {
                member.ops.len() < self.ops.len() || member.record + 1 < self.records.len() as u64
            }) {
                (0..PEERS).for_each(|by| {
                    self.deliver(by);
                    self.fold(by);
                });
            }
            self.make_record();
        }
        self.swarm.sync().await;
        self.check("at rest");
        for _ in 0..3 {
            (0..PEERS).for_each(|by| {
                self.fold(by);
                self.collect(by, 0);
            });
            self.swarm.sync().await;
        }
        self.swarm.check_books();
        for (number, (id, _)) in self.contents.iter().enumerate() {
            let (standing, _) = self.names(0, number);
            let holders = self.swarm.holders(*id).len();
            let is_right = match standing.is_empty() {
                true => (0..PEERS).all(|index| !self.swarm.at(index).is_local(*id).unwrap()),
                false => holders >= 3,
            };
            let seed = self.seed;
            assert!(
                is_right,
                "seed {seed}: {standing:?} name it, {holders} have it"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_put_again_while_it_goes_is_never_lost_and_what_nothing_names_goes() {
    let seeds = match std::env::var("DFS_SEED") {
        Ok(seed) => vec![seed.parse().expect("DFS_SEED is a number")],
        Err(_) => (0..300).collect(),
    };
    for seed in seeds {
        Model::new(seed).run().await;
    }
}
