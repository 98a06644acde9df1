//! The locks of the programs of one machine, and what it asks of who grants them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::held::{Ask, File, Said, Title, Waiter};
use super::range::{conflict, is_covered, union};
use super::{RENEW, millis};
use crate::base::{DeviceId, LogId};
use crate::wire::limits::LOCK_RANGES_MAX;
use crate::wire::{LockAnswer, LockHow, LockKey, LockRange, LockWant, LockWish, LockWord};

/// How long a wish waits for its answer before it is said again.
const SAY_AGAIN: Duration = Duration::from_millis(700);

/// How often is asked what became of a want.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// How long nobody who grants may be heard before a machine goes on as one that reaches no majority: an
/// election takes twenty seconds, and who is elected waits for a term.
const UNHEARD_MAX: Duration = Duration::from_secs(45);

/// How long who grants locks is looked for by way of others, where no majority has a session with this
/// machine.
const CUT_AFTER: Duration = Duration::from_secs(3);

/// Files that this machine has the whole of though nobody has them locked; of more, all are given back.
const IDLE_MAX: usize = 4_096;

/// What became of an [`Ask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is locked, or could be.
    Granted,
    /// Something is in the way, of a process of this machine where one is named.
    Refused {
        /// What.
        range: LockRange,
        /// Whose; 0 where it is of another machine.
        pid: u32,
    },
    /// The owner would wait for itself.
    Deadlock,
    /// Nobody grants locks, or there are too many.
    Unavailable,
}

/// Whether this machine has somebody to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// There is no other machine.
    Alone,
    /// It is to ask.
    Guarded,
    /// It reaches no majority of those who decide.
    Cut,
}

/// What the client wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Says something to who grants locks; to all who may where `to` is `None`.
    Say {
        /// To whom.
        to: Option<DeviceId>,
        /// What.
        word: LockWord,
    },
    /// All that programs wrote is to be handed to the others: [`Client::published`] comes then.
    Publish,
    /// These are to be folded, and the kernel is to know: [`Client::folded`] comes then.
    Fold {
        /// Up to where.
        heads: BTreeMap<LogId, u64>,
    },
    /// Something became of what was asked.
    Done {
        /// The number that [`Client::ask`] returned.
        ticket: u64,
        /// What.
        outcome: Outcome,
    },
}

/// The locks of one machine.
///
/// To drive it: [`Client::ask`] and its like for programs, [`Client::receive`] for words, [`Client::tick`] every
/// [`super::TICK`], and after each of them do what [`Client::poll`] returns.
#[derive(Debug)]
pub struct Client {
    run: u64,
    is_strict: bool,
    reach: Reach,
    /// Since when it is [`Reach::Cut`], where it is.
    cut_since: Duration,
    /// Since when somebody is to be asked and nobody was heard who grants locks.
    unheard_since: Option<Duration>,
    manager: Option<(DeviceId, u64)>,
    valid_until: Duration,
    next_renew: Duration,
    version: u64,
    /// Wishes from this version on were for who grants locks now.
    since: u64,
    /// The number of what is to be folded first that is folded, and that was told.
    base: u64,
    base_told: u64,
    base_heads: BTreeMap<LogId, u64>,
    /// How far is folded, as far as it was asked for.
    folded: BTreeMap<LogId, u64>,
    /// What was not to be had, and was not asked for since.
    gone: BTreeMap<LogId, u64>,
    folding: bool,
    publishing: bool,
    /// Something was given back since, by a machine that knows nobody to tell so.
    publishes_again: bool,
    head: Option<(LogId, u64)>,
    next_ticket: u64,
    files: BTreeMap<LockKey, File>,
    handles: BTreeMap<u64, BTreeSet<LockKey>>,
    out: Vec<Effect>,
}

impl Client {
    /// Returns one that is alone. `run` is greater than at each start before.
    pub fn new(run: u64) -> Self {
        Self {
            run,
            is_strict: false,
            reach: Reach::Alone,
            cut_since: Duration::ZERO,
            unheard_since: None,
            manager: None,
            valid_until: Duration::ZERO,
            next_renew: Duration::ZERO,
            version: 0,
            since: 0,
            base: 0,
            base_told: 0,
            base_heads: BTreeMap::new(),
            folded: BTreeMap::new(),
            gone: BTreeMap::new(),
            folding: false,
            publishing: false,
            publishes_again: false,
            head: None,
            next_ticket: 0,
            files: BTreeMap::new(),
            handles: BTreeMap::new(),
            out: Vec::new(),
        }
    }

    /// Sets whether locks fail where nobody grants them; else they are of this machine alone then.
    pub fn set_strict(&mut self, is_strict: bool) {
        self.is_strict = is_strict;
    }

    /// Says that nothing was asked yet: the run is another one.
    pub fn set_run(&mut self, run: u64) {
        self.run = run;
    }

    /// Returns what is to be done.
    pub fn poll(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out)
    }

    /// Returns how many files are locked though nobody grants it, and of how many another has locks that
    /// are held here, too.
    pub fn told(&self, now: Duration) -> (usize, usize) {
        let is_cut = !self.is_strict && self.is_cut(now);
        let held = self.files.values().filter(|file| !file.held.is_empty());
        let unguarded = if is_cut { held.count() } else { 0 };
        let lost = self.files.values().filter(|file| file.is_lost()).count();
        (unguarded, lost)
    }

    /// Asks for a lock: `Err` with its number where it is not decided yet.
    pub fn ask(&mut self, now: Duration, ask: Ask) -> Result<Outcome, u64> {
        if ask.how == LockHow::Wait && ask.can_deadlock && self.is_deadlock(&ask) {
            return Ok(Outcome::Deadlock);
        }
        let file = self.files.entry(ask.key).or_default();
        if file.waiters.len() >= LOCK_RANGES_MAX || file.held.len() >= LOCK_RANGES_MAX / 2 {
            return Ok(Outcome::Unavailable);
        }
        self.gone.clear();
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        file.waiters.push_back(Waiter {
            ticket,
            ask,
            is_wanted: false,
            is_granted: false,
        });
        if self.reach != Reach::Alone && !self.is_valid(now) && now >= self.next_renew {
            self.lapse(now);
            self.renew(now);
        }
        self.settle(now, ask.key);
        let is_done =
            |effect: &Effect| matches!(effect, Effect::Done { ticket: of, .. } if *of == ticket);
        match self.out.iter().position(is_done) {
            Some(at) => match self.out.remove(at) {
                Effect::Done { outcome, .. } => Ok(outcome),
                _ => Err(ticket),
            },
            None => Err(ticket),
        }
    }

    /// Gives back what an owner has locked in another way: flock(2) does that before it locks anew.
    pub fn convert(&mut self, now: Duration, key: LockKey, owner: u64, exclusive: bool) {
        let file = self.files.get(&key);
        let mut held = file.iter().flat_map(|file| &file.held);
        if held.any(|held| held.owner == owner && held.range.exclusive != exclusive) {
            self.unlock_owner(now, key, owner);
        }
    }

    /// Gives a range back that an owner has locked.
    pub fn unlock(&mut self, now: Duration, key: LockKey, owner: u64, range: LockRange) {
        if let Some(file) = self.files.get_mut(&key) {
            file.give_back(owner, range);
            self.settle(now, key);
        }
    }

    /// Gives all back that an owner has locked of a file.
    pub fn unlock_owner(&mut self, now: Duration, key: LockKey, owner: u64) {
        if let Some(file) = self.files.get_mut(&key) {
            let before = file.held.len();
            file.held.retain(|held| held.owner != owner);
            if file.held.len() < before {
                self.settle(now, key);
            }
        }
    }

    /// Gives all back that was locked through a handle, which is closed.
    pub fn close(&mut self, now: Duration, handle: u64) {
        for key in self.handles.remove(&handle).unwrap_or_default() {
            if let Some(file) = self.files.get_mut(&key) {
                file.held.retain(|held| held.handle != handle);
                self.settle(now, key);
            }
        }
    }

    /// Gives up waiting; false where it is decided already.
    pub fn cancel(&mut self, now: Duration, ticket: u64) -> bool {
        let of = |file: &File| file.waiters.iter().any(|waiter| waiter.ticket == ticket);
        let key = self
            .files
            .iter()
            .find(|(_, file)| of(file))
            .map(|(key, _)| *key);
        let Some(file) = key.and_then(|key| self.files.get_mut(&key)) else {
            return false;
        };
        file.waiters.retain(|waiter| waiter.ticket != ticket);
        if let Some(key) = key {
            self.settle(now, key);
        }
        true
    }

    /// Says whether anybody has locks of a file.
    pub fn is_locked(&self, key: LockKey) -> bool {
        self.files
            .get(&key)
            .is_some_and(|file| !file.held.is_empty())
    }

    /// Says whether a file is of no use here any more.
    pub fn is_unknown(&self, key: LockKey) -> bool {
        !self.files.contains_key(&key)
    }

    /// Does what is due, as things are with the others.
    pub fn tick(&mut self, now: Duration, reach: Reach) {
        let was = std::mem::replace(&mut self.reach, reach);
        if reach == Reach::Alone {
            self.forget_manager();
        }
        let is_needed = self.files.values().any(|file| !file.is_empty());
        if reach == Reach::Alone {
            self.unheard_since = None;
        } else if is_needed && !self.is_valid(now) {
            self.unheard_since.get_or_insert(now);
        }
        if reach == Reach::Cut && was != Reach::Cut {
            self.cut_since = now;
        }
        self.lapse(now);
        // One who is not heard, or whom no session leads to, may be heard yet: by way of others, say.
        let is_looked_for = self.unheard_since.is_some() || reach == Reach::Cut;
        if reach != Reach::Alone && (is_needed || is_looked_for) && now >= self.next_renew {
            self.renew(now);
        }
        let idle = self
            .files
            .values()
            .filter(|file| file.whole && file.held.is_empty());
        if idle.count() > IDLE_MAX {
            for file in self.files.values_mut() {
                file.giving |= file.whole && file.held.is_empty();
            }
        }
        let keys: Vec<LockKey> = self.files.keys().copied().collect();
        for key in keys {
            self.settle(now, key);
        }
    }

    /// Takes note that the lease is over: whoever grants locks now is to be told all.
    fn lapse(&mut self, now: Duration) {
        let has_told = self.files.values().any(|file| file.said.is_some());
        if self.manager.is_some() && !self.is_valid(now) && has_told {
            self.forget_manager();
        }
    }

    fn renew(&mut self, now: Duration) {
        self.next_renew = now + RENEW;
        let word = LockWord::Renew {
            run: self.run,
            since: self.since,
            base: self.base_told,
            sent_ms: millis(now),
        };
        self.say(now, word);
    }

    fn say(&mut self, now: Duration, word: LockWord) {
        let known = self.manager.filter(|_| self.is_valid(now));
        let to = known.map(|(device, _)| device);
        self.out.push(Effect::Say { to, word });
    }

    /// Says whether who grants locks knows all that an owner holds of a file.
    #[cfg(test)]
    pub(super) fn is_confirmed(&self, key: LockKey, owner: u64) -> bool {
        self.files.get(&key).is_some_and(|file| {
            let mut held = file.held.iter().filter(|held| held.owner == owner);
            held.all(|held| held.title == Title::Sure)
        })
    }

    pub(super) fn is_valid(&self, now: Duration) -> bool {
        now < self.valid_until
    }

    /// Says whether locks are of this machine alone for now.
    fn is_cut(&self, now: Duration) -> bool {
        let is_cut = match self.reach {
            Reach::Alone => false,
            Reach::Guarded => self
                .unheard_since
                .is_some_and(|since| now >= since + UNHEARD_MAX),
            Reach::Cut => now >= self.cut_since + CUT_AFTER,
        };
        is_cut && !self.is_valid(now)
    }

    /// Begins anew with whoever grants locks: what is held is to be said to him.
    fn forget_manager(&mut self) {
        // What was given back since it was told is handed over before another grants any of it.
        let is_told =
            |file: &File| !file.whole && file.handing.is_none() && file.remote == file.ranges();
        if self.reach != Reach::Alone && !self.files.values().all(is_told) {
            self.publish();
        }
        self.manager = None;
        self.valid_until = Duration::ZERO;
        (self.base, self.base_told) = (0, 0);
        self.base_heads.clear();
        self.version += 1;
        self.since = self.version;
        for file in self.files.values_mut() {
            (file.whole, file.giving, file.handing) = (false, false, None);
            file.said = None;
            for held in &mut file.held {
                if held.title == Title::Sure {
                    held.title = Title::Claimed;
                }
            }
            file.remote = file.claims(false);
            for waiter in &mut file.waiters {
                (waiter.is_wanted, waiter.is_granted) = (false, false);
            }
        }
    }

    /// Takes what somebody says who grants locks.
    pub fn receive(&mut self, now: Duration, from: DeviceId, word: LockWord) {
        match word {
            LockWord::Renewed {
                manager,
                run,
                sent_ms,
                valid_ms,
                base,
                heads,
            } if run == self.run => {
                let sent = Duration::from_millis(sent_ms);
                let until = sent + Duration::from_millis(valid_ms.min(millis(super::TERM)));
                if sent > now || until <= now || self.reach == Reach::Alone {
                    return;
                }
                if self.manager != Some((from, manager)) {
                    // The lease of one who grants is over before another grants any.
                    if self.manager.is_some() && self.is_valid(now) {
                        return;
                    }
                    self.forget_manager();
                    self.manager = Some((from, manager));
                    self.next_renew = now;
                }
                self.valid_until = until.max(self.valid_until);
                self.unheard_since = None;
                if base > self.base_told {
                    self.base_told = base;
                    self.base_heads.extend(heads);
                    self.fold();
                }
                let keys: Vec<LockKey> = self.files.keys().copied().collect();
                for key in keys {
                    self.settle(now, key);
                }
            }
            LockWord::Answer(answer) if answer.run == self.run => self.answer(now, from, answer),
            _ => {}
        }
    }

    fn answer(&mut self, now: Duration, from: DeviceId, answer: LockAnswer) {
        // One who is not known says so again when it is, and nothing stands that is said before it grants.
        if self.manager != Some((from, answer.manager)) || answer.base == 0 {
            return;
        }
        let Some(file) = self.files.get_mut(&answer.key) else {
            return;
        };
        let Some(said) = &mut file.said else {
            return;
        };
        if said.wish.version != answer.version {
            return;
        }
        said.is_answered = true;
        let told = said.wish.held.clone();
        file.judge(&told, answer.lost);
        file.fence = answer.base;
        for (log, end) in answer.heads {
            let head = file.heads.entry(log).or_default();
            *head = end.max(*head);
        }
        if answer.whole && !file.whole {
            file.whole = true;
            // What is written from now on is not among what is being handed over.
            file.handing = None;
        }
        file.giving |= answer.recall;
        for waiter in &mut file.waiters {
            waiter.is_granted |= waiter.is_wanted && answer.granted.contains(&waiter.ticket);
        }
        for (id, range) in answer.refused {
            if file
                .waiters
                .iter()
                .any(|waiter| waiter.ticket == id && waiter.is_wanted)
            {
                file.waiters.retain(|waiter| waiter.ticket != id);
                let outcome = Outcome::Refused { range, pid: 0 };
                let ticket = id;
                self.out.push(Effect::Done { ticket, outcome });
            }
        }
        if answer.base > self.base_told {
            self.renew(now);
        }
        self.fold();
        self.settle(now, answer.key);
    }

    /// Has folded what is to be folded before anything is used.
    fn fold(&mut self) {
        if self.folding {
            return;
        }
        let mut heads = self.base_heads.clone();
        for file in self.files.values() {
            for (log, end) in &file.heads {
                let head = heads.entry(*log).or_default();
                *head = (*end).max(*head);
            }
        }
        heads.retain(|log, end| {
            self.folded.get(log).is_none_or(|folded| folded < end) && !self.gone.contains_key(log)
        });
        if heads.is_empty() {
            self.base_folded();
            return;
        }
        self.folding = true;
        self.out.push(Effect::Fold { heads });
    }

    fn base_folded(&mut self) {
        let mut heads = self.base_heads.iter();
        if heads.all(|(log, end)| self.folded.get(log) >= Some(end)) {
            self.base = self.base_told;
        }
    }

    /// Says which of what was to be folded is, and the kernel knows; and what is not to be had, as who wrote
    /// it is gone. The rest is asked for again.
    pub fn folded(
        &mut self,
        now: Duration,
        done: &BTreeMap<LogId, u64>,
        gone: &BTreeMap<LogId, u64>,
    ) {
        self.folding = false;
        if self.is_strict {
            self.refuse_waiting(gone);
            self.gone.extend(gone);
        }
        let given_up = gone.iter().filter(|_| !self.is_strict);
        for (log, end) in done.iter().chain(given_up) {
            let folded = self.folded.entry(*log).or_default();
            *folded = (*end).max(*folded);
        }
        self.base_folded();
        self.fold();
        let keys: Vec<LockKey> = self.files.keys().copied().collect();
        for key in keys {
            self.settle(now, key);
        }
    }

    /// Refuses all that waits for what is not to be had; who asks again has it looked for again.
    fn refuse_waiting(&mut self, gone: &BTreeMap<LogId, u64>) {
        let lacks = |heads: &BTreeMap<LogId, u64>| heads.keys().any(|log| gone.contains_key(log));
        let is_base = self.base != self.base_told && lacks(&self.base_heads);
        for file in self.files.values_mut() {
            let mut heads = file.heads.clone();
            heads.retain(|log, end| self.folded.get(log).is_none_or(|folded| folded < end));
            if !is_base && !lacks(&heads) {
                continue;
            }
            for waiter in std::mem::take(&mut file.waiters) {
                self.out.push(Effect::Done {
                    ticket: waiter.ticket,
                    outcome: Outcome::Unavailable,
                });
            }
        }
    }

    /// Says that all that was written before [`Effect::Publish`] is handed to the others, up to `head`.
    pub fn published(&mut self, now: Duration, head: Option<(LogId, u64)>) {
        self.publishing = false;
        if std::mem::take(&mut self.publishes_again) {
            self.publish();
        }
        self.head = head;
        if let Some((log, end)) = head {
            let folded = self.folded.entry(log).or_default();
            *folded = end.max(*folded);
        }
        let is_granted = self.base_told > 0;
        let keys: Vec<LockKey> = self.files.keys().copied().collect();
        for key in &keys {
            let Some(file) = self.files.get_mut(key) else {
                continue;
            };
            if let Some(held) = file.handing.take() {
                // What was given back since then is handed over the next time.
                let is_held = held.into_iter().chain(file.claims(is_granted));
                file.remote = union(is_held);
                if file.giving {
                    (file.whole, file.giving) = (false, false);
                }
            }
        }
        for key in keys {
            self.settle(now, key);
        }
    }

    /// Brings a file to rest: answers what can be answered, and says what is to be said.
    fn settle(&mut self, now: Duration, key: LockKey) {
        let is_cut = self.is_cut(now);
        let is_alone = self.reach == Reach::Alone || is_cut && !self.is_strict;
        let is_valid = self.is_valid(now)
            && self.manager.is_some()
            && self.base > 0
            && self.base == self.base_told;
        let Some(file) = self.files.get_mut(&key) else {
            return;
        };
        let mut heads = file.heads.iter();
        let is_folded = heads.all(|(log, end)| self.folded.get(log) >= Some(end));
        let mut left: VecDeque<Waiter> = VecDeque::with_capacity(file.waiters.len());
        for mut waiter in std::mem::take(&mut file.waiters) {
            let ask = waiter.ask;
            let (ticket, mut outcome) = (waiter.ticket, None);
            if let Some(met) = file.met(&ask) {
                if ask.how != LockHow::Wait {
                    outcome = Some(Outcome::Refused {
                        range: met.range,
                        pid: met.pid,
                    });
                }
            } else if is_cut && self.is_strict {
                outcome = Some(Outcome::Unavailable);
            } else {
                // What others of this machine ask for first, and who grants locks decides, is theirs.
                let before = left.iter().any(|other| {
                    other.is_wanted
                        && other.ask.owner != ask.owner
                        && conflict(other.ask.range, ask.range)
                });
                let is_ours = file.whole && !file.giving || is_covered(ask.range, &file.sure());
                let may = is_valid && is_folded && (waiter.is_granted || is_ours && !before);
                if is_alone || may {
                    outcome = Some(Outcome::Granted);
                } else {
                    waiter.is_wanted |= !before;
                }
            }
            let Some(outcome) = outcome else {
                left.push_back(waiter);
                continue;
            };
            if outcome == Outcome::Granted && ask.how != LockHow::Test {
                let title = match (self.reach, is_alone) {
                    (Reach::Alone, _) => Title::Claimed,
                    (_, true) => Title::Local,
                    (_, false) => Title::Sure,
                };
                file.lock(&ask, title);
                self.handles.entry(ask.handle).or_default().insert(key);
            }
            self.out.push(Effect::Done { ticket, outcome });
        }
        file.waiters = left;
        self.tell(now, key);
        let file = self.files.get(&key);
        if file.is_some_and(|file| file.is_empty() && file.is_settled()) {
            self.files.remove(&key);
        }
    }

    /// Says what is held of a file and wanted, where that is something new or was not answered.
    fn tell(&mut self, now: Duration, key: LockKey) {
        let is_known = self.manager.is_some() && self.is_valid(now);
        let Some(file) = self.files.get_mut(&key) else {
            return;
        };
        if self.reach == Reach::Alone {
            for held in &mut file.held {
                held.title = Title::Claimed;
            }
            file.remote = file.ranges();
            return;
        }
        if !is_known {
            // Nobody has to be asked for it; but who grants next finds what was written.
            let is_given_back = file.remote != file.ranges();
            file.remote = file.ranges();
            if is_given_back {
                self.publish();
            }
            return;
        }
        let ranges = file.claims(self.base_told > 0);
        if !file.whole {
            // What is locked was granted to this machine.
            file.remote = union(file.remote.iter().copied().chain(ranges.iter().copied()));
        }
        let gives = match file.whole {
            true => file.giving,
            false => file.remote != ranges,
        };
        let has_handed = gives && file.handing.is_none() && !self.publishing;
        if has_handed {
            file.handing = Some(ranges.clone());
        }
        let wants = file.waiters.iter().filter(|waiter| waiter.is_wanted);
        let wants: Vec<LockWant> = wants.map(Waiter::want).take(LOCK_RANGES_MAX).collect();
        let held = bounded(match file.whole {
            true => ranges,
            false => file.remote.clone(),
        });
        let is_due = file.said.as_ref().is_none_or(|said| {
            let pause = match said.is_answered {
                true => ASK_AGAIN,
                false => SAY_AGAIN,
            };
            let is_news = said.wish.whole != file.whole
                || !file.whole && said.wish.held != held
                || said.wish.wants != wants;
            let is_open = !said.is_answered || !wants.is_empty();
            is_news || is_open && now >= said.at + pause
        });
        let is_nothing = file.said.is_none() && held.is_empty() && wants.is_empty() && !file.whole;
        if is_due && !is_nothing {
            self.version += 1;
            let wish = LockWish {
                run: self.run,
                key,
                version: self.version,
                fence: file.fence,
                whole: file.whole,
                held,
                wants,
                head: self.head,
            };
            file.said = Some(Said {
                wish: wish.clone(),
                at: now,
                is_answered: false,
            });
            self.say(now, LockWord::Wish(wish));
        }
        if has_handed {
            self.hand_over();
        }
    }

    /// Has all that was written handed to the others, whatever locks it was written under.
    fn publish(&mut self) {
        self.publishes_again |= self.publishing;
        if !self.publishing {
            self.publishing = true;
            self.out.push(Effect::Publish);
        }
    }

    /// Has all that was written handed to the others, for all files of which something is to be given up.
    fn hand_over(&mut self) {
        self.publishing = true;
        let is_granted = self.base_told > 0;
        for file in self.files.values_mut() {
            let ranges = file.claims(is_granted);
            let gives = if file.whole {
                file.giving
            } else {
                file.remote != ranges
            };
            if gives && file.handing.is_none() {
                file.handing = Some(ranges);
            }
        }
        self.out.push(Effect::Publish);
    }

    /// Says whether an owner who waits for this would wait for itself.
    fn is_deadlock(&self, ask: &Ask) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = self.in_the_way(ask);
        while let Some(owner) = next.pop() {
            if owner == ask.owner {
                return true;
            }
            if seen.insert(owner) {
                let waits = self.files.values().flat_map(|file| file.waiters.iter());
                let waits = waits.filter(|one| one.ask.owner == owner && one.ask.can_deadlock);
                next.extend(waits.flat_map(|one| self.in_the_way(&one.ask)));
            }
        }
        false
    }

    fn in_the_way(&self, ask: &Ask) -> Vec<u64> {
        let held = self.files.get(&ask.key).map_or(&[][..], |file| &file.held);
        let met = held
            .iter()
            .filter(|held| held.owner != ask.owner && conflict(held.range, ask.range));
        met.map(|held| held.owner).collect()
    }
}

/// Returns ranges that a word can tell: where there are too many, one over all of them.
fn bounded(ranges: Vec<LockRange>) -> Vec<LockRange> {
    if ranges.len() <= LOCK_RANGES_MAX {
        return ranges;
    }
    let starts = ranges.iter().map(|range| range.start);
    let ends = ranges.iter().map(|range| range.end);
    vec![LockRange {
        start: starts.min().unwrap_or(0),
        end: ends.max().unwrap_or(u64::MAX),
        exclusive: ranges.iter().any(|range| range.exclusive),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_what_another_file_does_not_need_is_not_refused_for_it() {
        let now = Duration::from_secs(100);
        let (from, manager) = (DeviceId(9), 1 << 20);
        let mut client = Client::new(1);
        client.set_strict(true);
        client.tick(now, Reach::Guarded);
        let range = LockRange {
            start: 0,
            end: u64::MAX,
            exclusive: true,
        };
        let tickets = [1, 2].map(|file| {
            let ask = Ask {
                key: LockKey([file; 16]),
                ..Ask::new(1, 1, 1, range, LockHow::Wait)
            };
            client.ask(now, ask).expect_err("it is asked for")
        });
        let renewed = LockWord::Renewed {
            manager,
            run: 1,
            sent_ms: millis(now),
            valid_ms: 5_000,
            base: manager + 1,
            heads: Vec::new(),
        };
        client.receive(now, from, renewed);
        for effect in client.poll() {
            if let Effect::Say {
                word: LockWord::Wish(wish),
                ..
            } = effect
            {
                let answer = LockAnswer {
                    manager,
                    run: 1,
                    key: wish.key,
                    version: wish.version,
                    whole: false,
                    recall: false,
                    lost: false,
                    granted: wish.wants.iter().map(|want| want.id).collect(),
                    refused: Vec::new(),
                    base: manager + 1,
                    heads: vec![(LogId(u64::from(wish.key.0[0])), 5)],
                };
                client.receive(now, from, LockWord::Answer(answer));
            }
        }
        let heads = |log| BTreeMap::from([(LogId(log), 5)]);
        client.poll();
        client.folded(now, &BTreeMap::new(), &heads(1));
        let done = |at: usize, outcome| Effect::Done {
            ticket: tickets[at],
            outcome,
        };
        let fold = Effect::Fold { heads: heads(2) };
        let effects = client.poll();
        assert!(effects.contains(&done(0, Outcome::Unavailable)));
        assert!(effects.contains(&fold));
        assert!(!effects.contains(&done(1, Outcome::Unavailable)));
        client.folded(now, &heads(2), &BTreeMap::new());
        assert!(client.poll().contains(&done(1, Outcome::Granted)));
    }
}
