//! Who grants locks to machines, and who lets it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::range::{ALL, conflict, is_covered};
use super::{RENEW, TERM, millis};
use crate::base::{DeviceId, LogId};
use crate::wire::limits::{LOCK_HEADS_MAX, LOCK_RANGES_MAX};
use crate::wire::{LockAnswer, LockHow, LockKey, LockRange, LockWant, LockWish, LockWord};

/// How long machines have, from when they are answered, to say what they hold: they ask each [`RENEW`], and look
/// at it twice a second.
const CLAIM_TIME: Duration = Duration::from_secs(4);

/// How long nobody else may have asked for a file that a machine is given the whole of.
const QUIET: Duration = Duration::from_secs(2);

/// Files that nobody has locked of which it is known what has to be folded; of more, what is to be folded for
/// one is for all.
const IDLE_MAX: usize = 16_384;

/// Managers have numbers this far apart: what is between counts what was taken from machines meanwhile.
const STRIDE: u64 = 1 << 20;

/// Greatest number of a manager that is taken from others: who says a greater one lies.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// What who decides records says of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Whether this device leads.
    pub leads: bool,
    /// At which ballot it does, which no other start of it did, and none before another leader.
    pub round: u64,
    /// Who decides the next record.
    pub voters: Vec<DeviceId>,
    /// Whether this device has accepted a record that is not known to be decided, by which others decide: the
    /// word of those who decided before counts no more.
    pub is_changing: bool,
}

/// Lets one manager grant at a time.
///
/// What was vouched for is in memory alone, so who starts vouches for no other device for a term. For the
/// manager of its own device it does at once: that began no earlier, and grants nothing for a term by itself.
#[derive(Debug)]
pub struct Voter {
    own: DeviceId,
    silent_until: Duration,
    /// Whom this device vouched for last, and until when.
    vouched: Option<(DeviceId, u64, Duration)>,
}

impl Voter {
    /// Begins at `now`, on a device.
    pub fn new(now: Duration, own: DeviceId) -> Self {
        Self {
            own,
            silent_until: now + TERM,
            vouched: None,
        }
    }

    /// Answers a manager that wants to be vouched for; `None` where it is not.
    pub fn vouch(
        &mut self,
        now: Duration,
        (from, manager, sent_ms): (DeviceId, u64, u64),
        voters: &[DeviceId],
        standing: &Standing,
    ) -> Option<LockWord> {
        let is_known = voters == standing.voters && voters.contains(&from);
        let is_silent = now < self.silent_until && from != self.own;
        if !is_known || standing.is_changing || is_silent {
            return None;
        }
        if let Some((device, last, until)) = self.vouched
            && (device, last) != (from, manager)
        {
            // A device has one manager: with the next the one before is over.
            if until > now && device != from {
                return None;
            }
            if manager <= last {
                let manager = last.saturating_add(1);
                return Some(LockWord::Vouched { manager, sent_ms });
            }
        }
        self.vouched = Some((from, manager, now + TERM));
        Some(LockWord::Vouched { manager, sent_ms })
    }
}

/// What a machine has of a file.
#[derive(Debug, Default)]
struct Part {
    whole: bool,
    held: Vec<LockRange>,
    granted: Vec<LockWant>,
    refused: Vec<(u64, LockRange)>,
    lost: bool,
    /// That of the wish.
    fence: u64,
}

impl Part {
    /// Returns what no other machine can have.
    fn ranges(&self) -> Vec<LockRange> {
        match self.whole {
            true => vec![ALL],
            false => {
                let granted = self.granted.iter();
                let granted = granted.filter(|want| want.how != LockHow::Test);
                let mut ranges = self.held.clone();
                ranges.extend(granted.map(|want| want.range));
                ranges
            }
        }
    }

    fn is_met(&self, range: LockRange) -> bool {
        self.ranges()
            .into_iter()
            .any(|theirs| conflict(theirs, range))
    }

    /// Says whether there is nothing to remember: that a lock is lost is, as it is told with each answer.
    fn is_empty(&self) -> bool {
        !self.whole
            && !self.lost
            && self.held.is_empty()
            && self.granted.is_empty()
            && self.refused.is_empty()
    }
}

#[derive(Debug, Default)]
struct File {
    parts: BTreeMap<DeviceId, Part>,
    /// What waits, oldest first.
    queue: VecDeque<(DeviceId, LockWant)>,
    /// Who asked last, and when.
    asked: BTreeMap<DeviceId, Duration>,
    heads: BTreeMap<LogId, u64>,
    /// The newest wish of each machine that was read, also of one that has nothing.
    versions: BTreeMap<DeviceId, u64>,
}

#[derive(Debug)]
struct Machine {
    run: u64,
    /// Wishes below are not read any more.
    since: u64,
    until: Duration,
}

/// Grants locks to machines, while it may.
///
/// To drive it: [`Manager::tick`] every [`super::TICK`] and where the standing changed, [`Manager::receive`] for
/// each word; then say what [`Manager::poll`] returns. `now` is of a clock that never goes back.
#[derive(Debug, Default)]
pub struct Manager {
    id: u64,
    /// No number up to this is one of a manager to come.
    taken: u64,
    voters: Vec<DeviceId>,
    /// Since when it wants to grant; `None` where another leads.
    since: Option<Duration>,
    /// Since when a majority vouches, so that it answers machines.
    heard_since: Option<Duration>,
    /// When it asked who vouched.
    vouched: BTreeMap<DeviceId, Duration>,
    next_vouch: Duration,
    machines: BTreeMap<DeviceId, Machine>,
    files: BTreeMap<LockKey, File>,
    idle: usize,
    /// What is to be folded before anything is used that is granted, and its number.
    heads: BTreeMap<LogId, u64>,
    base: u64,
    out: Vec<(DeviceId, LockWord)>,
}

impl Manager {
    /// Returns what is to be said, and to whom.
    pub fn poll(&mut self) -> Vec<(DeviceId, LockWord)> {
        std::mem::take(&mut self.out)
    }

    /// Returns until when a majority has vouched.
    fn until(&self) -> Duration {
        let mut asked: Vec<Duration> = self
            .voters
            .iter()
            .filter_map(|voter| self.vouched.get(voter).copied())
            .collect();
        asked.sort_unstable_by(|one, other| other.cmp(one));
        let majority = asked.get(self.voters.len() / 2);
        // The clocks of those who vouch may run a little faster.
        majority.map_or(Duration::ZERO, |asked| *asked + TERM * 9 / 10)
    }

    fn is_vouched(&self, now: Duration) -> bool {
        self.since.is_some() && now < self.until()
    }

    /// Says whether it may grant locks: the leases of before are over, and all machines had the time to say
    /// what they hold. They are answered from when it was vouched for, and not before.
    fn grants(&self, now: Duration) -> bool {
        let waited = |since: Duration| now >= since + TERM * 11 / 10;
        let is_said = |heard: Duration| now >= heard + CLAIM_TIME;
        self.is_vouched(now)
            && !self.is_used_up()
            && self.since.is_some_and(waited)
            && self.heard_since.is_some_and(is_said)
    }

    /// Says whether it can count no further.
    fn is_used_up(&self) -> bool {
        self.base >= self.id.saturating_add(STRIDE - 1)
    }

    /// Counts on, where it can: who has an answer of before is told by it from who has one of later.
    fn count(&mut self) {
        if self.base > 0 && !self.is_used_up() {
            self.base += 1;
        }
    }

    fn begin(&mut self, now: Duration, round: u64) {
        let next = (self.taken.max(self.id) / STRIDE).saturating_add(1);
        // A start knows nothing of those before, but leads at a greater ballot.
        let of_round = round.min(1 << 30) << 12;
        self.id = next.max(of_round).saturating_mul(STRIDE);
        self.since = Some(now);
        self.heard_since = None;
        self.vouched.clear();
        self.machines.clear();
        self.files.clear();
        self.idle = 0;
        self.base = 0;
        self.next_vouch = now;
        // What was to be folded still is.
    }

    /// Does what is due. `here` is how far the logs go of which is known.
    pub fn tick(&mut self, now: Duration, standing: &Standing, here: &BTreeMap<LogId, u64>) {
        if !standing.leads {
            self.since = None;
            self.files.clear();
            self.machines.clear();
            (self.idle, self.base) = (0, 0);
            return;
        }
        let is_over = self.base > 0 && (!self.is_vouched(now) || self.is_used_up());
        let is_taken = self.base == 0 && self.id <= self.taken;
        if self.since.is_none() || self.voters != standing.voters || is_over || is_taken {
            self.voters.clone_from(&standing.voters);
            self.begin(now, standing.round);
        }
        if self.heard_since.is_none() && self.is_vouched(now) {
            self.heard_since = Some(now);
        }
        if self.base == 0 {
            // What was given up to who granted before is in the logs of which somebody told by now.
            merge(&mut self.heads, here.iter().map(|(log, end)| (*log, *end)));
            if self.grants(now) {
                self.base = self.id.saturating_add(1);
            }
        }
        if now >= self.next_vouch {
            self.next_vouch = now + RENEW;
            for voter in self.voters.clone() {
                let word = LockWord::Vouch {
                    manager: self.id,
                    sent_ms: millis(now),
                    voters: self.voters.clone(),
                };
                self.out.push((voter, word));
            }
        }
        let over: Vec<DeviceId> = self
            .machines
            .iter()
            .filter(|(_, machine)| machine.until <= now)
            .map(|(device, _)| *device)
            .collect();
        for device in over {
            self.machines.remove(&device);
            self.drop_parts(now, device, u64::MAX);
        }
        if self.base > 0 {
            let keys: Vec<LockKey> = self
                .files
                .iter()
                .filter(|(_, file)| !file.queue.is_empty())
                .map(|(key, _)| *key)
                .collect();
            for key in keys {
                self.serve(now, key, None);
            }
        }
    }

    /// Takes what a machine or one of those who decide says.
    pub fn receive(&mut self, now: Duration, from: DeviceId, word: LockWord) {
        match word {
            LockWord::Vouched { manager, sent_ms } if manager == self.id => {
                let sent = Duration::from_millis(sent_ms);
                if self.since.is_some() && sent <= now && self.voters.contains(&from) {
                    let newest = self.vouched.entry(from).or_default();
                    *newest = sent.max(*newest);
                }
            }
            LockWord::Vouched { manager, .. }
                if self.voters.contains(&from) && manager <= NUMBER_MAX =>
            {
                self.taken = manager.max(self.taken);
            }
            LockWord::Renew {
                run,
                since,
                base,
                sent_ms,
            } if self.since.is_some() && self.know(now, from, run, since) => {
                self.renew(now, from, (run, base, sent_ms));
            }
            LockWord::Wish(wish) if self.since.is_some() => self.wish(now, from, wish),
            _ => {}
        }
    }

    /// Tells a machine how long its lease holds.
    fn renew(&mut self, now: Duration, from: DeviceId, (run, base, sent_ms): (u64, u64, u64)) {
        if !self.is_vouched(now) {
            return;
        }
        let heads = self.heads.iter().map(|(log, end)| (*log, *end));
        let heads = heads.filter(|_| base < self.base).take(LOCK_HEADS_MAX);
        let valid = self.until().saturating_sub(now) * 9 / 10;
        let word = LockWord::Renewed {
            manager: self.id,
            run,
            sent_ms,
            valid_ms: millis(valid),
            base: self.base,
            heads: heads.collect(),
        };
        self.out.push((from, word));
    }

    /// Takes note that a machine is there; what an earlier run of it had it has no more, nor what it said
    /// before `since`. False where this is of an earlier run.
    fn know(&mut self, now: Duration, from: DeviceId, run: u64, since: u64) -> bool {
        let until = now + TERM;
        let known = self
            .machines
            .get(&from)
            .map(|known| (known.run, known.since));
        let known_run = known.map_or(run, |(known, _)| known);
        if run < known_run {
            return false;
        }
        let before = known.filter(|_| run == known_run);
        let before = before.map_or(0, |(_, before)| before);
        let since = since.max(before);
        self.machines.insert(from, Machine { run, since, until });
        if run > known_run {
            self.drop_parts(now, from, u64::MAX);
        } else if since > before {
            self.drop_parts(now, from, since);
        }
        true
    }

    /// Drops what a machine has by wishes below a version.
    fn drop_parts(&mut self, now: Duration, device: DeviceId, below: u64) {
        let mut keys = Vec::new();
        for (key, file) in &mut self.files {
            if file
                .versions
                .get(&device)
                .is_none_or(|version| *version >= below)
            {
                continue;
            }
            file.versions.remove(&device);
            let had = file.parts.remove(&device).is_some();
            let queued = file.queue.len();
            file.queue.retain(|(of, _)| *of != device);
            if had || file.queue.len() < queued {
                keys.push(*key);
            }
        }
        if !keys.is_empty() {
            self.count();
        }
        for key in keys {
            self.serve(now, key, None);
        }
    }

    fn wish(&mut self, now: Duration, from: DeviceId, wish: LockWish) {
        if !self.know(now, from, wish.run, 0) {
            return;
        }
        let since = self.machines.get(&from).map_or(0, |machine| machine.since);
        let is_new = !self.files.contains_key(&wish.key);
        let file = self.files.entry(wish.key).or_default();
        let was_idle = !is_new && file.is_idle();
        if file
            .versions
            .get(&from)
            .is_none_or(|version| *version < wish.version)
            && wish.version >= since
        {
            file.versions.insert(from, wish.version);
            merge(&mut file.heads, wish.head);
            if !wish.wants.is_empty() {
                file.asked.insert(from, now);
            }
            file.take(from, &wish, self.base > 0);
        }
        self.idle = self.idle.saturating_sub(usize::from(was_idle));
        self.serve(now, wish.key, Some(from));
    }

    /// Grants of a file what can be granted, and tells whom it concerns, and `asker`.
    fn serve(&mut self, now: Duration, key: LockKey, asker: Option<DeviceId>) {
        let grants = self.base > 0 && self.grants(now);
        let Some(file) = self.files.get_mut(&key) else {
            return;
        };
        // Before it grants, somebody else may yet say what he holds.
        let asker = asker.filter(|_| self.base > 0);
        let mut told: BTreeSet<DeviceId> = asker.into_iter().collect();
        if grants {
            told.extend(file.decide(now));
        }
        let heads = file.heads.iter().map(|(log, end)| (*log, *end));
        let heads: Vec<(LogId, u64)> = heads.take(LOCK_HEADS_MAX).collect();
        for device in told {
            let Some(machine) = self.machines.get(&device) else {
                continue;
            };
            let Some(version) = file.versions.get(&device).copied() else {
                continue;
            };
            let nothing = Part::default();
            let part = file.parts.get(&device).unwrap_or(&nothing);
            let waits = file.queue.iter().any(|(of, _)| *of != device);
            let answer = LockAnswer {
                manager: self.id,
                run: machine.run,
                key,
                version,
                whole: part.whole,
                recall: part.whole && waits,
                lost: part.lost,
                granted: part.granted.iter().map(|want| want.id).collect(),
                refused: part.refused.clone(),
                base: self.base,
                heads: heads.clone(),
            };
            self.out.push((device, LockWord::Answer(answer)));
        }
        file.parts.retain(|_, part| !part.is_empty());
        if file.is_idle() {
            self.idle += 1;
            if self.idle > IDLE_MAX {
                self.forget_idle();
            }
        }
    }

    /// Forgets files that nobody has locked.
    fn forget_idle(&mut self) {
        let (heads, machines) = (&mut self.heads, &mut self.machines);
        self.files.retain(|_, file| {
            if file.is_idle() {
                for (device, version) in &file.versions {
                    if let Some(machine) = machines.get_mut(device) {
                        machine.since = machine.since.max(version.saturating_add(1));
                    }
                }
                merge(heads, std::mem::take(&mut file.heads));
            }
            !file.is_idle()
        });
        self.idle = 0;
        self.count();
    }
}

impl File {
    fn is_idle(&self) -> bool {
        self.parts.is_empty() && self.queue.is_empty()
    }

    /// Takes what a machine says of itself; before anything is granted, what several say that they hold is
    /// weighed.
    fn take(&mut self, from: DeviceId, wish: &LockWish, grants: bool) {
        let mut part = self.parts.remove(&from).unwrap_or_default();
        let before = part.ranges();
        part.fence = wish.fence;
        let is_wanted = |id: u64| wish.wants.iter().any(|want| want.id == id);
        part.granted.retain(|want| is_wanted(want.id));
        part.refused.retain(|(id, _)| is_wanted(*id));
        part.held.clear();
        part.lost = false;
        for range in &wish.held {
            // What was not granted here was by another manager, or the lease of the machine was over.
            if !is_covered(*range, &before) {
                let mut others = self.parts.values().filter(|other| other.is_met(*range));
                if others.any(|other| grants || other.fence >= wish.fence) {
                    part.lost = true;
                    continue;
                }
                for other in self.parts.values_mut() {
                    other.held.retain(|held| !conflict(*held, *range));
                }
            }
            part.held.push(*range);
        }
        part.whole = wish.whole && (part.whole || self.parts.values().all(Part::is_empty));
        self.queue
            .retain(|(of, want)| *of != from || is_wanted(want.id));
        for want in &wish.wants {
            let is_known = part.granted.iter().any(|known| known.id == want.id)
                || part.refused.iter().any(|(id, _)| *id == want.id)
                || self
                    .queue
                    .iter()
                    .any(|(of, known)| *of == from && known.id == want.id);
            if !is_known {
                self.queue.push_back((from, *want));
            }
        }
        self.parts.insert(from, part);
    }

    /// Grants and refuses what can be; returns who is to be told.
    fn decide(&mut self, now: Duration) -> BTreeSet<DeviceId> {
        let mut told = BTreeSet::new();
        let mut left = VecDeque::with_capacity(self.queue.len());
        for (device, want) in std::mem::take(&mut self.queue) {
            let others = self.parts.iter().filter(|(of, _)| **of != device);
            let mut others = others.flat_map(|(of, part)| {
                let ranges = part.ranges().into_iter();
                ranges.map(move |range| (*of, part.whole, range))
            });
            let met = others.find(|(_, _, range)| conflict(*range, want.range));
            let part = self.parts.entry(device).or_default();
            match met {
                None if part.granted.len() < LOCK_RANGES_MAX => {
                    part.granted.push(want);
                    told.insert(device);
                }
                // It is to say what it holds.
                Some((of, true, _)) => {
                    told.insert(of);
                    left.push_back((device, want));
                }
                Some((_, false, range)) if want.how != LockHow::Wait => {
                    part.refused.push((want.id, range));
                    told.insert(device);
                }
                _ => left.push_back((device, want)),
            }
        }
        self.queue = left;
        if self.queue.is_empty()
            && let [device] = self.parts.keys().copied().collect::<Vec<_>>()[..]
        {
            let is_quiet = self
                .asked
                .iter()
                .all(|(of, at)| *of == device || *at + QUIET <= now);
            let part = self.parts.entry(device).or_default();
            let locks = part.granted.iter().any(|want| want.how != LockHow::Test);
            if is_quiet && !part.whole && locks {
                self.asked.retain(|of, _| *of == device);
                part.whole = true;
                told.insert(device);
            }
        }
        told
    }
}

fn merge(heads: &mut BTreeMap<LogId, u64>, more: impl IntoIterator<Item = (LogId, u64)>) {
    for (log, end) in more {
        let head = heads.entry(log).or_default();
        *head = end.max(*head);
    }
}
