//! Storms: four devices on a network that loses, doubles and reorders, with cuts in one direction,
//! crashes at any write, folders put back from copies and voters that change; then calm, in which a
//! record must come soon.
//!
//! `DFS_STORM_SEED=N` repeats one storm, `DFS_STORM_SEEDS=N` runs the first N.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use super::super::{Agreement, Certificate, Message, Notary, Record, Row, Tip, Vote, Voter};
use super::{Stub, first_row, genesis, next, volume_of, voters};
use crate::base::{DeviceId, Rng, VolumeId};
use crate::crypto::Signature;

/// How many storms are run where nothing else is asked for.
const STORMS: u64 = 200;

/// Four ticks make a beat.
const TICK: Duration = Duration::from_millis(500);
const BEAT_TICKS: u64 = 4;

const STORM_TICKS: u64 = 500;

/// Within so many ticks of calm a new record is decided: a lease and the longest patience behind
/// it, and three elections that fail because two ask at once.
const CALM_TICKS: u64 = 120;

/// Longest way of a message, in ticks.
const DELAY_MAX: u64 = 6;

const DEVICES: usize = 4;

/// Sets of voters that a leader may name.
const SETS: [&[u64]; 4] = [&[1], &[1, 2, 3], &[2, 3, 4], &[3]];

/// What is on a device's disk: the row, and the records with their proofs.
#[derive(Clone)]
struct Disk {
    row: Row,
    chain: Vec<(Record, Certificate)>,
}

struct Device {
    id: DeviceId,
    agreement: Agreement,
    disk: Disk,
    /// What a power cut leaves of the disk.
    synced: Disk,
    /// Copies of the folder, one of which may be put back.
    copy: Disk,
    /// Writes until the machine loses its power.
    fuel: Option<u64>,
    /// Until when it is off.
    off_until: u64,
    led: bool,
    notary: Witness,
}

/// A notary that endorses a record a while after it saw it first: the segments are on their way.
struct Witness {
    stub: Stub,
    rng: Rng,
    now: u64,
    ready_at: RefCell<BTreeMap<[u8; 32], u64>>,
    delay_max: u64,
}

impl Notary for Witness {
    fn sign(&self, vote: &Vote) -> Signature {
        self.stub.sign(vote)
    }
    fn verify(&self, device: DeviceId, vote: &Vote, signature: &Signature) -> bool {
        self.stub.verify(device, vote, signature)
    }
    fn may_begin_era(&self, _: DeviceId) -> bool {
        false
    }
    fn seniority(&self, _: DeviceId) -> Option<u64> {
        None
    }
    fn ends(&self, _: &Record, _: DeviceId) -> bool {
        false
    }

    fn endorses(&self, record: &Record) -> bool {
        let mut ready_at = self.ready_at.borrow_mut();
        let later = || self.now + self.rng.below(self.delay_max + 1);
        *ready_at.entry(record.hash()).or_insert_with(later) <= self.now
    }
}

struct Storm {
    seed: u64,
    rng: Rng,
    volume: VolumeId,
    now: u64,
    devices: Vec<Device>,
    /// Arrival, order of sending, from, to, what.
    net: BTreeMap<(u64, u64), (usize, usize, Message)>,
    sent: u64,
    /// Links that carry nothing, in one direction.
    cut: Vec<(usize, usize)>,
    is_calm: bool,
    /// The one order.
    order: BTreeMap<u64, [u8; 32]>,
    trace: blake3::Hasher,
    crashes: u64,
    restores: u64,
    changes: u64,
    elections: u64,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let rng = Rng::from_seed(seed);
        let set = SETS[rng.below(SETS.len() as u64) as usize];
        let genesis = genesis(set);
        let volume = volume_of(&genesis);
        let device = |index: usize| {
            let row = first_row(index as u64 + 1, &genesis);
            let disk = Disk {
                row: row.clone(),
                chain: Vec::new(),
            };
            let id = row.own.device;
            let notary = Witness {
                stub: Stub(id),
                rng: rng.clone(),
                now: 0,
                ready_at: RefCell::default(),
                delay_max: 8,
            };
            Device {
                id,
                agreement: Agreement::new(volume, row, Duration::ZERO, rng.below(u64::MAX)),
                synced: disk.clone(),
                copy: disk.clone(),
                disk,
                fuel: None,
                off_until: 0,
                led: false,
                notary,
            }
        };
        let devices = (0..DEVICES).map(device).collect();
        Self {
            seed,
            volume,
            now: 0,
            devices,
            net: BTreeMap::new(),
            sent: 0,
            cut: Vec::new(),
            is_calm: false,
            order: BTreeMap::new(),
            trace: blake3::Hasher::new(),
            crashes: 0,
            restores: 0,
            changes: 0,
            elections: 0,
            rng,
        }
    }

    fn time(&self) -> Duration {
        TICK * u32::try_from(self.now).unwrap()
    }

    fn is_off(&self, index: usize) -> bool {
        self.devices[index].off_until > self.now
    }

    fn passes(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to)) && !self.is_off(from) && !self.is_off(to)
    }

    /// Sends a message directly, or over one other device.
    fn send(&mut self, from: usize, to: DeviceId, message: &Message) {
        let to = to.0 as usize - 1;
        let over = |over: usize| self.passes(from, over) && self.passes(over, to);
        if to >= DEVICES || !self.passes(from, to) && !(0..DEVICES).any(over) {
            return;
        }
        let storms = !self.is_calm;
        if storms && self.rng.below(10) == 0 {
            return;
        }
        let copies = if storms && self.rng.below(20) == 0 {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let arrival = self.now + 1 + self.rng.below(if storms { DELAY_MAX } else { 1 });
            self.sent += 1;
            let packet = (from, to, message.clone());
            self.net.insert((arrival, self.sent), packet);
        }
    }

    /// Does what the agreement of a device left to do; the power may go at any write.
    fn settle(&mut self, index: usize) {
        let device = &mut self.devices[index];
        let output = device.agreement.poll();
        let leads = device.agreement.leads();
        self.elections += u64::from(leads && !device.led);
        device.led = leads;
        if let Some(row) = output.row {
            if let Some(fuel) = &mut device.fuel {
                if *fuel == 0 {
                    self.crash(index);
                    return;
                }
                *fuel -= 1;
            }
            device.disk.row = row;
            device.disk.chain.extend(output.decided.iter().cloned());
            if output.must_sync || self.rng.below(4) == 0 {
                device.synced = device.disk.clone();
            }
            // Between the write and all that follows from it.
            if device.fuel == Some(0) && self.rng.below(2) == 0 {
                self.crash(index);
                return;
            }
        } else {
            assert!(output.decided.is_empty(), "seed {}", self.seed);
        }
        for (record, certificate) in &output.decided {
            let id = self.devices[index].id.0;
            let known = self
                .order
                .entry(record.number)
                .or_insert_with(|| record.hash());
            assert_eq!(
                *known,
                record.hash(),
                "seed {}: two records of one number",
                self.seed
            );
            self.trace.update(&record.hash());
            self.trace.update(&certificate.ballot.round.to_le_bytes());
            self.trace.update(&[id as u8, self.now as u8]);
        }
        for (to, message) in &output.messages {
            self.trace.update(&[index as u8, to.0 as u8]);
            self.send(index, *to, message);
        }
        for (to, have) in output.lacking {
            self.feed(index, to, have.number);
        }
    }

    /// Sends records to one that lacks them, as who keeps the chain does.
    fn feed(&mut self, index: usize, to: DeviceId, have: u64) {
        let chain = &self.devices[index].disk.chain;
        let skip = chain.partition_point(|(record, _)| record.number <= have);
        let missing: Vec<_> = chain[skip..].iter().take(16).cloned().collect();
        for (record, certificate) in missing {
            let decided = Message::Decided {
                record,
                certificate,
            };
            self.send(index, to, &decided);
        }
    }

    fn crash(&mut self, index: usize) {
        self.crashes += 1;
        let off_for = 1 + self.rng.below(40);
        let keeps_all = self.rng.below(2) == 0;
        // Only where a majority remains that knows what the restored one forgot.
        let puts_back = !self.is_calm && self.rng.below(4) == 0 && self.may_restore(index);
        let volume = self.volume;
        let seed = self.rng.below(u64::MAX);
        let now = self.time() + TICK * off_for as u32;
        let device = &mut self.devices[index];
        if keeps_all {
            device.synced = device.disk.clone();
        }
        if puts_back {
            self.restores += 1;
            device.synced = device.copy.clone();
            device.synced.row.is_unsure = true;
        }
        device.disk = device.synced.clone();
        device.fuel = None;
        device.off_until = self.now + off_for;
        device.agreement = Agreement::new(volume, device.disk.row.clone(), now, seed);
    }

    /// A lone voter that is put back is an admin's business, and so are two of three.
    fn may_restore(&self, index: usize) -> bool {
        let newest = self.newest();
        let others_are_sure = self
            .devices
            .iter()
            .enumerate()
            .all(|(other, device)| other == index || !device.disk.row.is_unsure);
        others_are_sure
            && self
                .devices
                .iter()
                .all(|device| device.disk.row.tip.voters.len() == 3)
            && newest.voters.len() == 3
    }

    fn newest(&self) -> &Tip {
        let tips = self.devices.iter().map(|device| device.agreement.tip());
        tips.max_by_key(|tip| tip.at).unwrap()
    }

    /// Returns whom a leader names: mostly those that there are.
    fn choose_voters(&mut self, index: usize) -> Vec<Voter> {
        let tip = self.devices[index].agreement.tip();
        let set = voters(SETS[self.rng.below(SETS.len() as u64) as usize]);
        let own = self.devices[index].disk.row.own;
        let is_whole = !self.devices[index].disk.row.is_unsure;
        // To one alone only where that one has the newest record, and never forgot any.
        let is_fine = set.len() == 3 || set == [own] && is_whole;
        if self.is_calm || self.rng.below(12) > 0 || !is_fine || set == tip.voters {
            return tip.voters.clone();
        }
        self.changes += 1;
        set
    }

    fn weather(&mut self) {
        match self.rng.below(120) {
            0 => {
                let from = self.rng.below(DEVICES as u64) as usize;
                let to = self.rng.below(DEVICES as u64) as usize;
                self.cut.push((from, to));
            }
            1 | 2 if !self.cut.is_empty() => {
                let at = self.rng.below(self.cut.len() as u64) as usize;
                self.cut.remove(at);
            }
            // One that nobody hears, or that hears nobody, or both.
            3 => {
                let alone = self.rng.below(DEVICES as u64) as usize;
                let ways = 1 + self.rng.below(3);
                for other in (0..DEVICES).filter(|other| *other != alone) {
                    if ways & 1 != 0 {
                        self.cut.push((alone, other));
                    }
                    if ways & 2 != 0 {
                        self.cut.push((other, alone));
                    }
                }
            }
            4..=8 => self.cut.clear(),
            9 => {
                let index = self.rng.below(DEVICES as u64) as usize;
                self.devices[index].fuel = Some(self.rng.below(4));
            }
            10 => {
                let index = self.rng.below(DEVICES as u64) as usize;
                self.devices[index].copy = self.devices[index].synced.clone();
            }
            11 => {
                let index = self.rng.below(DEVICES as u64) as usize;
                if !self.is_off(index) {
                    self.crash(index);
                }
            }
            _ => {}
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        if !self.is_calm {
            self.weather();
        }
        for device in &mut self.devices {
            device.notary.now = self.now;
        }
        let now = self.time();
        while let Some(entry) = self.net.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (from, to, message) = entry.remove();
            if self.is_off(to) {
                continue;
            }
            let from = self.devices[from].id;
            let Device {
                agreement, notary, ..
            } = &mut self.devices[to];
            agreement.receive(now, from, message, notary);
            self.settle(to);
        }
        for index in 0..DEVICES {
            if self.is_off(index) {
                continue;
            }
            let Device {
                agreement, notary, ..
            } = &mut self.devices[index];
            // An admin is asked whether a lone voter has lost nothing.
            let newest = self.order.last_key_value().map_or(0, |(number, _)| *number);
            let is_lone = agreement.tip().voters == [agreement.row().own];
            if self.is_calm && is_lone && agreement.tip().at.number == newest {
                agreement.trust_row();
            }
            agreement.tick(now, notary);
            if agreement.is_free() && self.rng.below(2) == 0 {
                let voters = self.choose_voters(index);
                let device = &mut self.devices[index];
                let mark = self.now * 10 + index as u64;
                let record = next(device.agreement.tip(), mark, voters);
                // Its maker has what it names.
                let ready_at = device.notary.ready_at.get_mut();
                ready_at.insert(record.hash(), self.now);
                assert!(device.agreement.propose(now, record, &device.notary));
            }
            self.settle(index);
            // The pulse of a session tells the newest record.
            if !self.is_off(index) && (self.now + index as u64).is_multiple_of(BEAT_TICKS) {
                let to = DeviceId(1 + self.rng.below(DEVICES as u64));
                let have = self.devices[index].agreement.tip().at;
                self.send(index, to, &Message::Behind { have });
            }
        }
    }

    /// Ends the storm: all links carry, all machines are on, but that one voter of three may stay
    /// away. Returns the ticks until a new record was known to all that are there.
    fn calm(&mut self) -> u64 {
        self.is_calm = true;
        self.cut.clear();
        for device in &mut self.devices {
            device.off_until = 0;
            device.fuel = None;
        }
        let voters = self.newest().voters.clone();
        // One may stay away where all agree on who decides, and on who will.
        let agrees = |device: &Device| {
            let row = &device.disk.row;
            let accepted = row.accepted.as_ref();
            let is_settled = accepted.is_none_or(|(_, record)| record.voters == voters);
            !row.is_unsure && row.tip.voters == voters && is_settled
        };
        let may_stay = voters.len() == 3 && self.devices.iter().all(agrees);
        let absent =
            (may_stay && self.rng.below(2) == 0).then(|| voters[self.rng.below(3) as usize].device);
        if let Some(absent) = absent {
            self.devices[absent.0 as usize - 1].off_until = u64::MAX;
        }
        let start = self.now;
        let before = self.order.keys().max().copied().unwrap_or(0);
        loop {
            self.tick();
            let there = self.devices.iter().filter(|d| Some(d.id) != absent);
            let reached = there
                .map(|d| d.agreement.tip().at.number)
                .min()
                .unwrap_or(0);
            if reached > before + 1 {
                return self.now - start;
            }
            assert!(
                self.now - start < CALM_TICKS,
                "seed {}: no record within {CALM_TICKS} ticks, {absent:?} away: {:#?}",
                self.seed,
                self.devices
                    .iter()
                    .map(|d| &d.agreement)
                    .collect::<Vec<_>>()
            );
        }
    }

    fn check_proofs(&self) {
        for device in &self.devices {
            let mut before: Option<Tip> = None;
            for (record, certificate) in &device.disk.chain {
                if let Some(before) = before {
                    let checked = certificate.check(self.volume, &before, record, &device.notary);
                    assert!(checked.is_ok(), "seed {}: {checked:?}", self.seed);
                }
                before = Some(Tip::of(record));
            }
        }
    }

    fn digest(&self) -> [u8; 32] {
        *self.trace.finalize().as_bytes()
    }
}

/// Runs one storm and returns it with the ticks that the calm took.
fn run(seed: u64) -> (Storm, u64) {
    let mut storm = Storm::new(seed);
    while storm.now < STORM_TICKS {
        storm.tick();
    }
    let ticks = storm.calm();
    storm.check_proofs();
    (storm, ticks)
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a number"))
}

#[test]
fn one_order_through_every_storm_and_a_record_soon_after() {
    let seeds = match number("DFS_STORM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("DFS_STORM_SEEDS").unwrap_or(STORMS),
    };
    let (mut records, mut worst, mut sum) = (0, 0, 0);
    let (mut crashes, mut restores, mut changes, mut elections) = (0, 0, 0, 0);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        println!("seed {seed}: DFS_STORM_SEED={seed} cargo test --lib log::chain::tests::storm");
        let (storm, ticks) = run(seed);
        records += storm.order.len();
        worst = worst.max(ticks);
        sum += ticks;
        crashes += storm.crashes;
        restores += storm.restores;
        changes += storm.changes;
        elections += storm.elections;
    }
    println!(
        "{count} storms: {records} records, {elections} elections, {crashes} crashes, \
         {restores} folders put back, {changes} changes of voters proposed; \
         calm: mean {} ticks, worst {worst}",
        sum / count
    );
    if number("DFS_STORM_SEED").is_none() {
        assert!(crashes > count && restores > 0 && changes > count && records as u64 > 20 * count);
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 1..4 {
        assert_eq!(run(seed).0.digest(), run(seed).0.digest(), "seed {seed}");
    }
}
