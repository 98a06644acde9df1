//! What the programs of one machine hold of a file, wait for, and have told of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::range::{conflict, is_covered, meet, union, without};
use crate::base::LogId;
use crate::wire::{LockHow, LockKey, LockRange, LockWant, LockWish};

/// A lock that a program asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The file.
    pub key: LockKey,
    /// Whose lock it is to be: nobody's locks stand against his own.
    pub owner: u64,
    /// The open file by which it is asked for.
    pub handle: u64,
    /// The process, for who asks what is in his way.
    pub pid: u32,
    /// What is to be locked.
    pub range: LockRange,
    /// How.
    pub how: LockHow,
    /// Whether the owner waits for one lock at a time, so that a circle of owners who wait is a deadlock.
    pub can_deadlock: bool,
}

impl Ask {
    /// Returns what a program asks through a handle.
    pub fn new(owner: u64, handle: u64, pid: u32, range: LockRange, how: LockHow) -> Self {
        Self {
            key: LockKey([0; 16]),
            owner,
            handle,
            pid,
            range,
            how,
            can_deadlock: false,
        }
    }
}

/// What a lock that a program holds is worth on other machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Title {
    /// Who grants locks knows it.
    Sure,
    /// Who granted locks before knew it, or there was no other machine.
    Claimed,
    /// It was locked while nobody was to be had who grants.
    Local,
    /// Another machine has it.
    Lost,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) owner: u64,
    pub(super) handle: u64,
    pub(super) pid: u32,
    pub(super) range: LockRange,
    pub(super) title: Title,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub(super) ticket: u64,
    pub(super) ask: Ask,
    /// Who grants locks is to be asked.
    pub(super) is_wanted: bool,
    /// It was granted to this machine, and counts when what comes with that is folded.
    pub(super) is_granted: bool,
}

#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) held: Vec<Held>,
    pub(super) waiters: VecDeque<Waiter>,
    /// The whole file is this machine's.
    pub(super) whole: bool,
    /// Another wants it: it is given up as soon as what was written is handed over.
    pub(super) giving: bool,
    /// What who grants locks has been told that is held, or was granted.
    pub(super) remote: Vec<LockRange>,
    /// What was held when the handing over began that is under way, and what was locked since.
    pub(super) handing: Option<Vec<LockRange>>,
    pub(super) said: Option<Said>,
    /// What the newest answer said of what is to be folded.
    pub(super) heads: BTreeMap<LogId, u64>,
    /// The number of the newest answer.
    pub(super) fence: u64,
}

/// The newest wish.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) wish: LockWish,
    pub(super) at: Duration,
    pub(super) is_answered: bool,
}

impl Waiter {
    pub(super) fn want(&self) -> LockWant {
        LockWant {
            id: self.ticket,
            range: self.ask.range,
            how: self.ask.how,
        }
    }
}

impl File {
    /// Returns what the programs of this machine hold, whoever it is.
    pub(super) fn ranges(&self) -> Vec<LockRange> {
        union(self.held.iter().map(|held| held.range))
    }

    /// Returns what of it who grants locks knows.
    pub(super) fn sure(&self) -> Vec<LockRange> {
        let held = self.held.iter();
        let sure = held.filter(|held| held.title == Title::Sure);
        union(sure.map(|held| held.range))
    }

    /// Returns what who grants locks is to know: not what another machine has, and what was locked while
    /// nobody granted not before somebody does, as others have the right to it until then.
    pub(super) fn claims(&self, is_granted: bool) -> Vec<LockRange> {
        let held = self.held.iter();
        let claims = held.filter(|held| match held.title {
            Title::Sure | Title::Claimed => true,
            Title::Local => is_granted,
            Title::Lost => false,
        });
        union(claims.map(|held| held.range))
    }

    /// Says whether another machine has some of what is held.
    pub(super) fn is_lost(&self) -> bool {
        self.held.iter().any(|held| held.title == Title::Lost)
    }

    /// Takes note of what who grants locks said of what it was told that is held.
    pub(super) fn judge(&mut self, told: &[LockRange], is_lost: bool) {
        let title = match is_lost {
            true => Title::Lost,
            false => Title::Sure,
        };
        for held in &mut self.held {
            let is_open = matches!(held.title, Title::Claimed | Title::Local);
            if is_open && is_covered(held.range, told) {
                held.title = title;
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.waiters.is_empty() && !self.whole && self.remote.is_empty()
    }

    /// Says whether who grants locks knows that nothing is held or wanted.
    pub(super) fn is_settled(&self) -> bool {
        self.said.as_ref().is_none_or(|said| {
            let wish = &said.wish;
            said.is_answered && wish.held.is_empty() && wish.wants.is_empty() && !wish.whole
        })
    }

    /// Returns what another owner of this machine has that is in the way, of several the first.
    pub(super) fn met(&self, ask: &Ask) -> Option<Held> {
        let held = self.held.iter();
        let met = held.filter(|held| held.owner != ask.owner && conflict(held.range, ask.range));
        met.min_by_key(|held| held.range.start).copied()
    }

    /// Locks a range for an owner, in the place of what he had there.
    pub(super) fn lock(&mut self, ask: &Ask, title: Title) {
        self.give_back(ask.owner, ask.range);
        if let Some(handing) = &mut self.handing {
            // What is written under it is not among what is being handed over.
            handing.push(ask.range);
        }
        let mut range = ask.range;
        let exclusive = range.exclusive;
        // What adjoins is one with it.
        self.held.retain(|held| {
            let grown = LockRange {
                start: range.start.saturating_sub(1),
                end: range.end.saturating_add(1),
                exclusive,
            };
            let joins = held.owner == ask.owner
                && held.handle == ask.handle
                && held.range.exclusive == exclusive
                && held.title == title
                && meet(held.range, grown);
            if joins {
                range.start = range.start.min(held.range.start);
                range.end = range.end.max(held.range.end);
            }
            !joins
        });
        self.held.push(Held {
            owner: ask.owner,
            handle: ask.handle,
            pid: ask.pid,
            range,
            title,
        });
    }

    pub(super) fn give_back(&mut self, owner: u64, range: LockRange) {
        let mut left = Vec::with_capacity(self.held.len() + 1);
        for held in std::mem::take(&mut self.held) {
            if held.owner != owner {
                left.push(held);
                continue;
            }
            let ranges = without(held.range, range).into_iter().flatten();
            left.extend(ranges.map(|range| Held { range, ..held }));
        }
        self.held = left;
    }
}
