//! What machines say to each other about the locks of programs.

use serde::{Deserialize, Serialize};

use super::bounded;
use super::limits::{LOCK_HEADS_MAX, LOCK_RANGES_MAX, LOCK_VOTERS_MAX};
use crate::base::{DeviceId, LogId};

/// A file as far as locks go, by a keyed hash: who keeps the locks need not know which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LockKey(pub [u8; 16]);

/// Some bytes of a file and how they are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LockRange {
    /// The first byte.
    pub start: u64,
    /// The last byte.
    pub end: u64,
    /// Whether nobody else may have a lock there; else others may have such as this one.
    pub exclusive: bool,
}

/// How a lock is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LockHow {
    /// It is only asked what is in its way.
    Test,
    /// It is refused where something is.
    Try,
    /// It is waited for.
    Wait,
}

/// A lock that a machine wants for one of its programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LockWant {
    /// Its number on that machine.
    pub id: u64,
    /// What is wanted.
    pub range: LockRange,
    /// How.
    pub how: LockHow,
}

/// What the programs of a machine hold of a file and want of it: all of it, each time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LockWish {
    /// When this run of the machine began, so that a later one has a greater number.
    pub run: u64,
    /// The file.
    pub key: LockKey,
    /// Greater than that of all wishes of this run before.
    pub version: u64,
    /// [`LockAnswer::base`] of the newest answer for this file; 0 where there was none. Of two machines that say
    /// the same, what they hold is of the one with the greater.
    pub fence: u64,
    /// Whether the machine has the whole file, so that it asks nobody.
    pub whole: bool,
    /// What is locked, in order.
    #[serde(deserialize_with = "bounded::list::<_, _, LOCK_RANGES_MAX>")]
    pub held: Vec<LockRange>,
    /// What is wanted, in the order in which it was asked for.
    #[serde(deserialize_with = "bounded::list::<_, _, LOCK_RANGES_MAX>")]
    pub wants: Vec<LockWant>,
    /// Up to where the machine's log goes that holds all that was written under locks which it gave up.
    pub head: Option<(LogId, u64)>,
}

/// What becomes of a wish.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LockAnswer {
    /// The number of whoever grants locks, since it does.
    pub manager: u64,
    /// That of the wish.
    pub run: u64,
    /// The file.
    pub key: LockKey,
    /// That of the newest wish for this file that was read.
    pub version: u64,
    /// Whether the machine has the whole file.
    pub whole: bool,
    /// Whether it is to give that up, because another asks.
    pub recall: bool,
    /// Whether some of what the machine holds is held by another, as its lease was over.
    pub lost: bool,
    /// Wants that are granted.
    #[serde(deserialize_with = "bounded::list::<_, _, LOCK_RANGES_MAX>")]
    pub granted: Vec<u64>,
    /// Wants that are refused, and what is in their way.
    #[serde(deserialize_with = "bounded::list::<_, _, LOCK_RANGES_MAX>")]
    pub refused: Vec<(u64, LockRange)>,
    /// The number of what has to be folded first, whatever is granted. It grows, also from one who grants to
    /// the next, and does so before what one machine had is granted to another.
    pub base: u64,
    /// Up to where logs have to be folded, too, before what is granted of this file is used.
    #[serde(deserialize_with = "bounded::list::<_, _, LOCK_HEADS_MAX>")]
    pub heads: Vec<(LogId, u64)>,
}

/// What is said about locks. Any of these may be lost, doubled and overtaken by others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LockWord {
    /// Of a machine to who grants locks.
    Wish(LockWish),
    /// The answer, and what changes later.
    Answer(LockAnswer),
    /// Of a machine that has locks: its lease is to go on.
    Renew {
        /// That of its wishes.
        run: u64,
        /// Wishes of a smaller version count no more: they were for another who grants.
        since: u64,
        /// Up to which number it has what is to be folded first, whatever is granted.
        base: u64,
        /// When it says so, milliseconds by its own clock.
        sent_ms: u64,
    },
    /// The lease goes on.
    Renewed {
        /// The number of who grants locks.
        manager: u64,
        /// As asked.
        run: u64,
        /// As asked.
        sent_ms: u64,
        /// How long after that, milliseconds.
        valid_ms: u64,
        /// The number of what is to be folded first, whatever is granted; 0 while nothing is.
        base: u64,
        /// That, where its number is greater than the one of who asked.
        #[serde(deserialize_with = "bounded::list::<_, _, LOCK_HEADS_MAX>")]
        heads: Vec<(LogId, u64)>,
    },
    /// Of who leads those that decide records, to each of them: it is to be the only one that grants locks.
    Vouch {
        /// Its number, greater than those of all who granted locks before.
        manager: u64,
        /// When it says so, milliseconds by its own clock.
        sent_ms: u64,
        /// Who decides, as it knows.
        #[serde(deserialize_with = "bounded::list::<_, _, LOCK_VOTERS_MAX>")]
        voters: Vec<DeviceId>,
    },
    /// It is, for some seconds; or it is not, as its number is none that is greater than those of before.
    Vouched {
        /// As asked; or a number up to which all are taken.
        manager: u64,
        /// As asked.
        sent_ms: u64,
    },
}
