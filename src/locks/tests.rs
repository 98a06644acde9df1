//! Machines that ask for locks over a network that loses, doubles and overtakes; managers that are cut off,
//! end, and follow one another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::range::conflict;
use super::{Ask, Client, Effect, Manager, Outcome, Reach, Standing, TICK, Voter};
use crate::base::{DeviceId, LogId, Rng};
use crate::wire::{LockHow, LockKey, LockRange, LockWord};

/// Steps are so long.
const STEP: Duration = Duration::from_millis(50);

struct Machine {
    client: Client,
    manager: Manager,
    voter: Voter,
    leads: bool,
    /// At which ballot it leads, or did.
    round: u64,
    is_alive: bool,
    run: u64,
    next_tick: Duration,
    /// How far its log goes, and when what is to be handed over is.
    end: u64,
    publishes: Option<Duration>,
    folds: Option<(Duration, BTreeMap<LogId, u64>)>,
    folded: BTreeMap<LogId, u64>,
}

/// What a program has.
#[derive(Debug, Clone, Copy)]
struct Hold {
    machine: usize,
    ask: Ask,
    /// The machine's lease was over since.
    lapsed: bool,
}

/// What a program had, exclusively.
#[derive(Debug, Clone, Copy)]
struct Past {
    machine: usize,
    ask: Ask,
    /// What the log has once it is handed over.
    end: u64,
}

struct World {
    rng: Rng,
    now: Duration,
    machines: Vec<Machine>,
    voters: Vec<DeviceId>,
    /// Where each machine is: those in one place hear each other.
    place: Vec<u64>,
    words: Vec<(Duration, usize, usize, LockWord)>,
    is_rough: bool,
    /// Machines that reach no majority know it, and go on alone where they may.
    goes_on: bool,
    holds: Vec<Hold>,
    pasts: Vec<Past>,
    waits: BTreeMap<(usize, u64), Ask>,
    granted: u64,
    said: u64,
    trace: Vec<String>,
}

fn device(machine: usize) -> DeviceId {
    DeviceId(machine as u64 + 1)
}

fn log_of(machine: usize) -> LogId {
    LogId(machine as u64 + 1)
}

fn ask(owner: u64, key: u8, range: (u64, u64, bool), how: LockHow) -> Ask {
    let (start, end, exclusive) = range;
    let range = LockRange {
        start,
        end,
        exclusive,
    };
    Ask {
        key: LockKey([key; 16]),
        ..Ask::new(owner, owner, 1, range, how)
    }
}

impl World {
    fn new(seed: u64, machines: usize, voters: usize) -> Self {
        let rng = Rng::from_seed(seed);
        let now = Duration::from_secs(100);
        let one = |machine: usize| Machine {
            client: new_client(1),
            manager: Manager::default(),
            voter: Voter::new(Duration::ZERO, device(machine)),
            leads: machine == 0,
            round: u64::from(machine == 0),
            is_alive: true,
            run: 1,
            next_tick: now,
            end: 0,
            publishes: None,
            folds: None,
            folded: BTreeMap::new(),
        };
        Self {
            rng,
            now,
            machines: (0..machines).map(one).collect(),
            voters: (0..voters).map(device).collect(),
            place: vec![0; machines],
            words: Vec::new(),
            is_rough: false,
            goes_on: false,
            holds: Vec::new(),
            pasts: Vec::new(),
            waits: BTreeMap::new(),
            granted: 0,
            said: 0,
            trace: Vec::new(),
        }
    }

    fn send(&mut self, from: usize, to: usize, word: &LockWord) {
        self.said += u64::from(from != to);
        let copies = match self.is_rough && from != to {
            true if self.rng.below(10) == 0 => 0,
            true if self.rng.below(20) == 0 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let most = match (from == to, self.is_rough && self.rng.below(30) == 0) {
                (true, _) => 1,
                (false, true) => 9_000,
                (false, false) => 60,
            };
            let at = self.now + Duration::from_millis(self.rng.below(most));
            self.words.push((at, from, to, word.clone()));
        }
    }

    /// Does what a machine wants done.
    fn work(&mut self, at: usize) {
        let now = self.now;
        for (to, word) in self.machines[at].manager.poll() {
            self.send(at, to.0 as usize - 1, &word);
        }
        for effect in self.machines[at].client.poll() {
            match effect {
                Effect::Say { to, word } => {
                    let all = match to {
                        Some(to) => vec![to],
                        None => self.voters.clone(),
                    };
                    for to in all {
                        self.send(at, to.0 as usize - 1, &word);
                    }
                }
                Effect::Publish => {
                    assert!(self.machines[at].publishes.is_none());
                    let pause = Duration::from_millis(self.rng.below(200));
                    self.machines[at].end += 1;
                    self.machines[at].publishes = Some(now + pause);
                }
                Effect::Fold { heads } => {
                    assert!(self.machines[at].folds.is_none());
                    let pause = Duration::from_millis(self.rng.below(200));
                    self.machines[at].folds = Some((now + pause, heads));
                }
                Effect::Done { ticket, outcome } => self.done(at, ticket, outcome),
            }
        }
    }

    fn done(&mut self, at: usize, ticket: u64, outcome: Outcome) {
        let asked = self.waits.remove(&(at, ticket)).expect("it was asked");
        self.decided(at, asked, outcome);
    }

    fn decided(&mut self, at: usize, asked: Ask, outcome: Outcome) {
        self.trace
            .push(format!("{:?} {at} {asked:?} {outcome:?}", self.now));
        if outcome != Outcome::Granted || asked.how == LockHow::Test {
            return;
        }
        self.granted += 1;
        self.holds.retain(|hold| {
            hold.machine != at || hold.ask.owner != asked.owner || hold.ask.key != asked.key
        });
        let lapsed = !self.machines[at].client.is_valid(self.now);
        // What was written under locks of others is here, but with who goes on alone.
        for past in self.pasts.iter().filter(|_| !lapsed) {
            let is_seen = self.machines[at].folded.get(&log_of(past.machine)) >= Some(&past.end);
            let is_met = past.ask.key == asked.key && conflict(past.ask.range, asked.range);
            assert!(
                past.machine == at || !is_met || is_seen,
                "{:?}: {at} was granted {asked:?} without {past:?}\n{}",
                self.now,
                self.told()
            );
        }
        self.holds.push(Hold {
            machine: at,
            ask: asked,
            lapsed,
        });
    }

    fn ask(&mut self, at: usize, asked: Ask) -> Option<Outcome> {
        let outcome = self.machines[at].client.ask(self.now, asked);
        match outcome {
            Ok(outcome) => self.decided(at, asked, outcome),
            Err(ticket) => {
                self.waits.insert((at, ticket), asked);
            }
        }
        self.work(at);
        outcome.ok()
    }

    fn unlock(&mut self, hold: Hold) {
        let Hold { machine, ask, .. } = hold;
        self.holds.retain(|one| {
            (one.machine, one.ask.owner, one.ask.key) != (machine, ask.owner, ask.key)
        });
        let at = &mut self.machines[machine];
        if ask.range.exclusive && !hold.lapsed && at.client.is_valid(self.now) {
            // What is under way may have begun before.
            let end = at.end + 1;
            self.pasts.push(Past { machine, ask, end });
        }
        at.client.unlock(self.now, ask.key, ask.owner, ask.range);
        self.work(machine);
    }

    fn kill(&mut self, at: usize) {
        self.machines[at].is_alive = false;
        self.holds.retain(|hold| hold.machine != at);
        self.pasts.retain(|past| past.machine != at);
        self.waits.retain(|(machine, _), _| *machine != at);
    }

    fn restart(&mut self, at: usize) {
        let now = self.now;
        let machine = &mut self.machines[at];
        machine.run += 1;
        machine.client = new_client(machine.run);
        machine
            .client
            .set_strict(!self.goes_on || at.is_multiple_of(2));
        machine.manager = Manager::default();
        machine.voter = Voter::new(now, device(at));
        machine.leads = false;
        machine.is_alive = true;
        (machine.publishes, machine.folds) = (None, None);
    }

    fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.words)
            .into_iter()
            .partition(|(at, ..)| *at <= now);
        self.words = later;
        let mut due: Vec<_> = due;
        due.sort_by_key(|(at, ..)| *at);
        for (_, from, to, word) in due {
            if self.place[from] == self.place[to] && self.machines[to].is_alive {
                self.hear(from, to, word);
            }
        }
        let here: BTreeMap<LogId, u64> = (0..self.machines.len())
            .map(|at| (log_of(at), self.machines[at].end))
            .collect();
        for at in 0..self.machines.len() {
            if !self.machines[at].is_alive {
                continue;
            }
            if now >= self.machines[at].next_tick {
                let standing = self.standing(at);
                let machine = &mut self.machines[at];
                machine.next_tick = now + TICK;
                // It hears of what the others of its place have.
                machine.manager.tick(now, &standing, &here);
                let reach = self.reach(at);
                self.machines[at].client.tick(now, reach);
            }
            let machine = &mut self.machines[at];
            if machine.publishes.is_some_and(|until| now >= until) {
                machine.publishes = None;
                let head = Some((log_of(at), machine.end));
                machine.folded.insert(log_of(at), machine.end);
                machine.client.published(now, head);
            }
            if let Some((until, heads)) = machine.folds.take() {
                if now >= until {
                    for (log, end) in &heads {
                        let folded = machine.folded.entry(*log).or_default();
                        *folded = (*end).max(*folded);
                    }
                    machine.client.folded(now, &heads, &BTreeMap::new());
                } else {
                    machine.folds = Some((until, heads));
                }
            }
            self.work(at);
        }
        self.check();
    }

    fn reach(&self, at: usize) -> Reach {
        let is_here = |voter: &&DeviceId| {
            let voter = voter.0 as usize - 1;
            self.machines[voter].is_alive && self.place[voter] == self.place[at]
        };
        let here = self.voters.iter().filter(is_here).count();
        match self.goes_on && here <= self.voters.len() / 2 {
            true => Reach::Cut,
            false => Reach::Guarded,
        }
    }

    /// A machine leads: at no ballot of its own before, and none below that of another.
    fn lead(&mut self, at: usize) {
        let newest = self.machines.iter().map(|machine| machine.round).max();
        let newest = newest.unwrap_or_default() + self.rng.below(2);
        let machine = &mut self.machines[at];
        machine.leads = true;
        machine.round = newest.max(machine.round + 1);
    }

    fn standing(&self, at: usize) -> Standing {
        Standing {
            leads: self.machines[at].leads,
            round: self.machines[at].round,
            voters: self.voters.clone(),
            is_changing: false,
        }
    }

    fn hear(&mut self, from: usize, to: usize, word: LockWord) {
        let now = self.now;
        let standing = self.standing(to);
        let machine = &mut self.machines[to];
        match word {
            LockWord::Vouch {
                manager,
                sent_ms,
                voters,
            } => {
                let asked = (device(from), manager, sent_ms);
                if let Some(word) = machine.voter.vouch(now, asked, &voters, &standing) {
                    self.send(to, from, &word);
                }
            }
            LockWord::Answer(_) | LockWord::Renewed { .. } => {
                machine.client.receive(now, device(from), word);
            }
            word => machine.manager.receive(now, device(from), word),
        }
        self.work(to);
    }

    /// No two machines whose leases hold have locks that stand against each other.
    fn check(&mut self) {
        for at in 0..self.machines.len() {
            let is_valid = self.machines[at].client.is_valid(self.now);
            if !is_valid {
                for hold in self.holds.iter_mut().filter(|hold| hold.machine == at) {
                    hold.lapsed = true;
                }
                // What it wrote, and may not have said that it did, comes when it is heard again.
                self.pasts.retain(|past| past.machine != at);
                continue;
            }
            // Once it was answered what it said of a lock, that is as good as any.
            let client = &self.machines[at].client;
            for hold in self.holds.iter_mut().filter(|hold| hold.machine == at) {
                hold.lapsed &= !client.is_confirmed(hold.ask.key, hold.ask.owner);
            }
        }
        for (place, one) in self.holds.iter().enumerate() {
            for other in self.holds.iter().skip(place + 1) {
                let is_met = one.ask.key == other.ask.key
                    && (one.machine, one.ask.owner) != (other.machine, other.ask.owner)
                    && conflict(one.ask.range, other.ask.range);
                assert!(
                    !is_met || one.lapsed || other.lapsed,
                    "{:?}: {one:?} and {other:?}\n{}",
                    self.now,
                    self.told()
                );
            }
        }
    }

    fn told(&self) -> String {
        let last = self.trace.len().saturating_sub(60);
        self.trace[last..].join("\n")
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.step();
        }
    }

    /// Runs until a machine has a lock.
    fn lock(&mut self, at: usize, asked: Ask) -> Hold {
        let began = self.now;
        if self.ask(at, asked).is_none() {
            while self.waits.values().any(|wait| *wait == asked) {
                self.step();
                assert!(
                    self.now < began + Duration::from_secs(60),
                    "{}",
                    self.told()
                );
            }
        }
        let is_it = |hold: &&Hold| hold.machine == at && hold.ask == asked;
        *self.holds.iter().find(is_it).expect("granted")
    }
}

fn new_client(run: u64) -> Client {
    let mut client = Client::new(run);
    client.set_strict(true);
    client.tick(Duration::ZERO, Reach::Guarded);
    client
}

const WHOLE: (u64, u64, bool) = (0, u64::MAX, true);

/// One seed: programs ask for anything, and all that can go wrong with a network and with machines does.
/// Returns how many locks were granted.
fn storm(seed: u64) -> u64 {
    let (machines, voters) = if seed.is_multiple_of(4) {
        (2, 1)
    } else {
        (4, 3)
    };
    let mut world = World::new(seed, machines, voters);
    world.run(Duration::from_secs(12));
    world.is_rough = true;
    world.goes_on = seed.is_multiple_of(3);
    for (at, machine) in world.machines.iter_mut().enumerate() {
        let is_strict = !world.goes_on || at.is_multiple_of(2);
        machine.client.set_strict(is_strict);
    }
    for _ in 0..2_400 {
        let at = usize::try_from(world.rng.below(machines as u64)).expect("small");
        match world.rng.below(400) {
            0 => {
                world.place = (0..machines).map(|_| world.rng.below(2)).collect();
                world
                    .trace
                    .push(format!("{:?} places {:?}", world.now, world.place));
            }
            1 | 2 => {
                world.place.fill(0);
                world.trace.push(format!("{:?} one place", world.now));
            }
            3 if world.machines[at].is_alive => {
                world.kill(at);
                world.trace.push(format!("{:?} {at} is killed", world.now));
            }
            // Two may think that they lead.
            4 if at < voters && world.rng.below(3) == 0 => {
                let leads = !world.machines[at].leads;
                match leads {
                    true => world.lead(at),
                    false => world.machines[at].leads = false,
                }
                world
                    .trace
                    .push(format!("{:?} {at} leads: {leads}", world.now));
            }
            5..=8 if !world.machines[at].is_alive => world.restart(at),
            9..=60 if world.machines[at].is_alive => {
                let owner = world.rng.below(3);
                let is_waiting = |((machine, _), ask): (&(usize, u64), &Ask)| {
                    *machine == at && ask.owner == owner
                };
                if !world.waits.iter().any(is_waiting) {
                    let start = world.rng.below(3);
                    let range = match world.rng.below(2) {
                        0 => WHOLE,
                        _ => (start, start + world.rng.below(3), world.rng.below(2) == 0),
                    };
                    let how = match world.rng.below(5) {
                        0 => LockHow::Test,
                        1 | 2 => LockHow::Try,
                        _ => LockHow::Wait,
                    };
                    // One range an owner has of a file at a time here.
                    let key = u8::try_from(world.rng.below(2)).expect("small");
                    let asked = ask(owner, key, range, how);
                    let held = world.holds.iter().find(|hold| {
                        hold.machine == at && hold.ask.owner == owner && hold.ask.key == asked.key
                    });
                    if held.is_none() {
                        world.ask(at, asked);
                    }
                }
            }
            61..=110 if !world.holds.is_empty() => {
                let any = world.rng.below(world.holds.len() as u64);
                let hold = world.holds[usize::try_from(any).expect("small")];
                world.unlock(hold);
            }
            111..=115 => {
                let waits: Vec<_> = world.waits.keys().copied().collect();
                if let Some((machine, ticket)) = waits.first().copied() {
                    let now = world.now;
                    assert!(world.machines[machine].client.cancel(now, ticket));
                    world.waits.remove(&(machine, ticket));
                    world.work(machine);
                }
            }
            _ => {}
        }
        world.step();
    }
    // Once all is well, whoever waits has its lock.
    world.is_rough = false;
    world.place.fill(0);
    for at in 0..machines {
        if !world.machines[at].is_alive {
            world.restart(at);
        }
        world.machines[at].leads = false;
    }
    world.lead(0);
    let until = world.now + Duration::from_secs(120);
    while world.now < until && !(world.waits.is_empty() && world.holds.is_empty()) {
        if let Some(hold) = world.holds.first().copied() {
            world.unlock(hold);
        }
        world.step();
    }
    assert!(
        world.waits.is_empty(),
        "{:?}\n{}",
        world.waits,
        world.told()
    );
    world.granted
}

#[test]
fn no_two_machines_have_locks_that_stand_against_each_other_whatever_is_lost() {
    let seeds = std::env::var("DFS_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    let seeds = seeds.unwrap_or(30_u64);
    let mut granted = 0;
    for seed in 0..seeds {
        println!("seed {seed}");
        granted += storm(seed);
    }
    assert!(granted > 20 * seeds, "{granted} granted");
}

#[test]
fn a_file_stays_with_its_machine_until_another_asks_and_costs_no_words_meanwhile() {
    let mut world = World::new(1, 2, 1);
    world.run(Duration::from_secs(12));
    let first = world.lock(1, ask(1, 0, WHOLE, LockHow::Wait));
    world.unlock(first);
    world.run(Duration::from_secs(1));
    let said = world.said;
    let now = world.now;
    for _ in 0..1_000 {
        let asked = ask(1, 0, WHOLE, LockHow::Wait);
        assert_eq!(world.ask(1, asked), Some(Outcome::Granted));
        let hold = *world.holds.first().expect("held");
        world.unlock(hold);
    }
    assert_eq!((world.said, world.now), (said, now));
    let other = world.lock(0, ask(1, 0, WHOLE, LockHow::Wait));
    assert_eq!(world.ask(1, ask(2, 0, WHOLE, LockHow::Try)), None);
    world.run(Duration::from_secs(1));
    assert!(world.waits.is_empty(), "refused");
    // What is read is read side by side.
    world.unlock(other);
    world.lock(0, ask(1, 0, (0, 9, false), LockHow::Wait));
    world.lock(1, ask(1, 0, (0, 9, false), LockHow::Wait));
    world.lock(1, ask(1, 0, (10, 10, true), LockHow::Wait));
    assert_eq!(world.holds.len(), 2);
}

#[test]
fn locks_stay_with_who_holds_them_while_one_who_grants_follows_another() {
    for seed in 0..20 {
        let mut world = World::new(seed, 4, 3);
        world.run(Duration::from_secs(12));
        // One machine has it alone, and one by asking for it.
        let alone = world.lock(1, ask(1, 0, WHOLE, LockHow::Wait));
        let asked = world.lock(2, ask(1, 1, (0, 9, true), LockHow::Wait));
        world.lock(3, ask(1, 1, (10, 19, true), LockHow::Wait));
        for key in [0, 1] {
            assert_eq!(world.ask(3, ask(2, key, WHOLE, LockHow::Wait)), None);
        }
        world.run(Duration::from_secs(1));
        world.kill(0);
        world.run(Duration::from_secs(9));
        world.lead(1);
        world.run(Duration::from_secs(30));
        assert_eq!(world.waits.len(), 2, "seed {seed}: {}", world.told());
        world.unlock(alone);
        world.unlock(asked);
        world.run(Duration::from_secs(5));
        // The other has a range of its own there.
        let left: BTreeSet<LockKey> = world.waits.values().map(|ask| ask.key).collect();
        assert_eq!(left, BTreeSet::from([LockKey([1; 16])]), "seed {seed}");
    }
}

#[test]
fn a_machine_that_is_gone_holds_nothing_for_long() {
    let mut world = World::new(3, 3, 1);
    world.run(Duration::from_secs(12));
    world.lock(1, ask(1, 0, WHOLE, LockHow::Wait));
    world.kill(1);
    let began = world.now;
    world.lock(2, ask(1, 0, WHOLE, LockHow::Wait));
    assert!(world.now < began + 2 * super::TERM);
    // One that is back has nothing.
    world.restart(1);
    assert_eq!(world.ask(1, ask(1, 0, WHOLE, LockHow::Try)), None);
    world.run(Duration::from_secs(5));
    assert_eq!((world.waits.len(), world.holds.len()), (0, 1));
}

#[test]
fn the_first_lock_after_a_start_waits_for_one_term_alone() {
    let mut world = World::new(5, 2, 1);
    for at in 0..2 {
        world.kill(at);
        world.restart(at);
    }
    world.lead(0);
    let began = world.now;
    world.lock(1, ask(1, 0, WHOLE, LockHow::Wait));
    assert!(world.now < began + 5 * super::TERM / 4);
}

#[test]
fn who_lost_a_lock_is_told_so_whatever_is_lost_of_what_is_said_twice() {
    for drops in [false, true] {
        let mut world = World::new(4, 2, 1);
        world.run(Duration::from_secs(12));
        world.lock(1, ask(1, 0, (0, 9, false), LockHow::Wait));
        world.run(Duration::from_secs(3));
        world.place[1] = 1;
        world.lock(0, ask(1, 0, WHOLE, LockHow::Wait));
        world.place[1] = 0;
        while !world.machines[1].client.is_valid(world.now) {
            world.step();
        }
        // What it held lets nobody in beside it until it is known whether it is still its own.
        assert_eq!(world.ask(1, ask(2, 0, (0, 9, false), LockHow::Try)), None);
        let claim = |(_, from, _, word): &&(Duration, usize, usize, LockWord)| {
            *from == 1 && matches!(word, LockWord::Wish(_))
        };
        let claim = world.words.iter().find(claim).expect("it is said").clone();
        let (at, from, to, word) = claim;
        let again = at + Duration::from_millis(300);
        world.words.push((again, from, to, word));
        while world.now < again {
            world.step();
            let is_answer = |word: &LockWord| matches!(word, LockWord::Answer(_));
            let kept = |(_, _, to, word): &_| !drops || *to != 1 || !is_answer(word);
            world.words.retain(kept);
        }
        world.run(Duration::from_secs(2));
        let client = &world.machines[1].client;
        assert_eq!(client.told(world.now).1, 1, "{}", world.told());
        assert!(!client.is_confirmed(LockKey([0; 16]), 1));
    }
}

#[test]
fn of_two_that_say_they_have_a_lock_it_stays_with_who_was_granted_it_last() {
    for seed in 0..40 {
        let mut world = World::new(seed, 4, 3);
        world.run(Duration::from_secs(12));
        world.lock(3, ask(1, 0, WHOLE, LockHow::Wait));
        world.run(Duration::from_secs(3));
        world.place[3] = 1;
        world.lock(2, ask(1, 0, WHOLE, LockHow::Wait));
        world.run(Duration::from_secs(1));
        world.machines[0].leads = false;
        world.lead(1);
        // It is back before the other has said to the next manager what it holds, or after.
        world.run(Duration::from_millis(500) * u32::try_from(seed).expect("small"));
        world.place[3] = 0;
        world.run(Duration::from_secs(30));
        let key = LockKey([0; 16]);
        let is_confirmed = [2, 3].map(|at| world.machines[at].client.is_confirmed(key, 1));
        assert_eq!(is_confirmed, [true, false], "seed {seed}: {}", world.told());
    }
}

#[test]
fn who_reaches_nobody_is_told_so_or_goes_on_alone() {
    let now = Duration::from_secs(100);
    for is_strict in [true, false] {
        let mut client = Client::new(1);
        client.set_strict(is_strict);
        client.tick(now, Reach::Guarded);
        let ticket = client
            .ask(now, ask(1, 0, WHOLE, LockHow::Wait))
            .expect_err("it is asked for");
        client.tick(now + TICK, Reach::Cut);
        let is_done = |effect: &Effect| matches!(effect, Effect::Done { .. });
        assert!(!client.poll().iter().any(is_done), "it is looked for");
        let now = now + Duration::from_secs(4);
        client.tick(now, Reach::Cut);
        let outcome = match is_strict {
            true => Outcome::Unavailable,
            false => Outcome::Granted,
        };
        let done = Effect::Done { ticket, outcome };
        assert!(client.poll().contains(&done));
        assert_eq!(client.told(now).0, usize::from(!is_strict));
        let again = client.ask(now + TICK, ask(2, 1, WHOLE, LockHow::Try));
        assert_eq!(again, Ok(outcome));
    }
    // One that reaches a majority that nobody leads.
    let mut client = Client::new(1);
    client.tick(now, Reach::Guarded);
    client
        .ask(now, ask(1, 0, WHOLE, LockHow::Wait))
        .expect_err("it is asked for");
    client.poll();
    let mut at = now;
    while !client
        .poll()
        .iter()
        .any(|effect| matches!(effect, Effect::Done { .. }))
    {
        at += TICK;
        client.tick(at, Reach::Guarded);
        assert!(at < now + Duration::from_secs(50));
    }
    assert!(at > now + Duration::from_secs(40));
    // Nobody waits for that again, and it is looked for on and on.
    let asked = ask(1, 0, WHOLE, LockHow::Wait);
    client.unlock(at, asked.key, asked.owner, asked.range);
    let at = at + Duration::from_secs(60);
    client.tick(at, Reach::Guarded);
    let looks = client.poll();
    let is_look = |effect: &Effect| match effect {
        Effect::Say { to, word } => to.is_none() && matches!(word, LockWord::Renew { .. }),
        _ => false,
    };
    assert!(looks.iter().any(is_look), "{looks:?}");
    assert_eq!(client.ask(at, asked), Ok(Outcome::Granted));
}

#[test]
fn what_is_not_to_be_had_refuses_a_lock_where_that_is_asked_for_and_else_is_gone_without() {
    for is_strict in [true, false] {
        let mut world = World::new(1, 2, 1);
        world.machines[1].client.set_strict(is_strict);
        world.run(Duration::from_secs(12));
        // What is to be folded first is.
        world.lock(1, ask(1, 9, WHOLE, LockHow::Wait));
        let hold = world.lock(0, ask(1, 0, WHOLE, LockHow::Wait));
        world.unlock(hold);
        let asked = ask(1, 0, WHOLE, LockHow::Wait);
        assert_eq!(world.ask(1, asked), None);
        while world.machines[1].folds.is_none() {
            world.step();
        }
        let (_, heads) = world.machines[1].folds.take().expect("it folds");
        // As if it had been: the check of what is seen is not what is asked here.
        world.machines[1].folded.extend(heads.clone());
        let now = world.now;
        let client = &mut world.machines[1].client;
        client.folded(now, &BTreeMap::new(), &heads);
        let done = world.machines[1].client.poll();
        let is_granted = done.iter().any(|effect| {
            matches!(
                effect,
                Effect::Done {
                    outcome: Outcome::Granted,
                    ..
                }
            )
        });
        let is_refused = done.iter().any(|effect| {
            matches!(
                effect,
                Effect::Done {
                    outcome: Outcome::Unavailable,
                    ..
                }
            )
        });
        assert_eq!((is_granted, is_refused), (!is_strict, is_strict));
    }
}

/// Locks of one machine against a table of bytes.
#[test]
fn locks_of_one_machine_are_those_of_a_table_of_bytes() {
    const BYTES: usize = 10;
    for seed in 0..200 {
        let rng = Rng::from_seed(seed);
        let mut client = Client::new(1);
        let now = Duration::ZERO;
        // Which owners have each byte, and how.
        let mut bytes: [BTreeMap<u64, bool>; BYTES] = Default::default();
        for step in 0..200 {
            let owner = rng.below(3);
            let start = rng.below(BYTES as u64);
            let end = start + rng.below(BYTES as u64 - start);
            let (exclusive, how) = (
                rng.below(2) == 0,
                [LockHow::Try, LockHow::Test][usize::from(rng.below(4) == 0)],
            );
            let mut asked = ask(owner, 0, (start, end, exclusive), how);
            asked.handle = owner * 2 + rng.below(2);
            let place = usize::try_from(start).unwrap()..=usize::try_from(end).unwrap();
            match rng.below(10) {
                0..=2 => {
                    client.unlock(now, asked.key, owner, asked.range);
                    for byte in &mut bytes[place] {
                        byte.remove(&owner);
                    }
                }
                3 => {
                    client.unlock_owner(now, asked.key, owner);
                    for byte in &mut bytes {
                        byte.remove(&owner);
                    }
                }
                _ => {
                    let met = |byte: &BTreeMap<u64, bool>| {
                        let mut others = byte.iter().filter(|(of, _)| **of != owner);
                        others.any(|(_, theirs)| *theirs || exclusive)
                    };
                    let is_free = !bytes[place.clone()].iter().any(met);
                    let outcome = client.ask(now, asked).expect("decided at once");
                    let is_granted = outcome == Outcome::Granted;
                    assert_eq!(is_granted, is_free, "seed {seed}, step {step}: {outcome:?}");
                    if is_free && how == LockHow::Try {
                        for byte in &mut bytes[place] {
                            byte.insert(owner, exclusive);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_circle_of_owners_who_wait_is_a_deadlock() {
    let now = Duration::ZERO;
    let mut client = Client::new(1);
    let wait = |owner, key| Ask {
        can_deadlock: true,
        ..ask(owner, key, WHOLE, LockHow::Wait)
    };
    for owner in 0..3_u8 {
        let locked = client.ask(now, wait(u64::from(owner), owner));
        assert_eq!(locked, Ok(Outcome::Granted));
    }
    let first = client.ask(now, wait(0, 1)).expect_err("it waits");
    let second = client.ask(now, wait(1, 2)).expect_err("it waits");
    assert_eq!(client.ask(now, wait(2, 0)), Ok(Outcome::Deadlock));
    client.close(now, 2);
    let done = |ticket| Effect::Done {
        ticket,
        outcome: Outcome::Granted,
    };
    assert_eq!(client.poll(), [done(second)]);
    client.close(now, 1);
    assert_eq!(client.poll(), [done(first)]);
}
