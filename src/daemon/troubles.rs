//! What stopped and has not gone on: noted when it is met, with the time, told by `dfs status`,
//! and crossed out when it goes on.
//!
//! Who meets a failure that repeats says so here instead of in the log: a trouble is logged when it
//! begins and when it ends, not each time. What follows from the state of the rooms below is looked
//! for twice a second (`look.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::{Clock, DeviceId, LogId, PeerId};

/// What can be in trouble; there is one entry of each at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// This peer was removed from the volume.
    Removed,
    /// The clock of this machine cannot be right.
    Clock,
    /// The peers have another history of this device's log.
    Forked,
    /// Own changes cannot be sealed for the others.
    Sealing,
    /// The changes of others cannot be folded.
    Folding,
    /// A log cannot be folded.
    Log(LogId),
    /// The log of one device is not taken here.
    NotTaken(DeviceId),
    /// A peer does not take this device's log.
    LogRefused(PeerId),
    /// There is no session with a peer because one of the two refuses it.
    Refused(PeerId),
    /// The disk below the state folder is full.
    Disk,
    /// The store takes no writes until it is opened again.
    Store,
    /// What programs wrote cannot be written out.
    WriteOut,
    /// This peer holds all that it may.
    Capacity,
    /// Chunks that this peer has to hold or to send are gone from its disk.
    Chunks,
    /// A member without the volume's key.
    Keys,
    /// A background task ended.
    Worker(&'static str),
    /// Something else ended by a panic: a request, a task, a thread.
    Panicked,
    /// The control socket takes no clients.
    Control,
    /// The UDP socket failed.
    Socket,
    /// Not all is here yet that this member has to have before it changes anything.
    Joining,
    /// What is known of the members is less than what the order of the changes is made of.
    Statements,
    /// A record names changes that are not here.
    Named,
    /// Another chain counts, and what is shown is not folded by it yet.
    Anew,
    /// What this device wrote is left out, as it lost the right to before anybody had it.
    Over,
    /// A log cannot be folded before what its author had seen is here.
    Waiting(LogId),
    /// Rows of the view are not what was put there.
    Rows,
    /// A member makes something else of the same changes.
    Unequal(PeerId),
    /// A peer says what only a newer program knows.
    Newer(PeerId),
    /// The clocks of a peer and of this machine show different times.
    PeerClock(PeerId),
    /// Some members have another order of the changes.
    Parted,
    /// The files are to be taken from a checkpoint, and none is known.
    Takeover,
    /// Members signed different things of one record.
    Checkpoints,
    /// Locks hold on this machine alone.
    Locks,
    /// Another machine has locks that are held here, too.
    LostLocks,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// What happened.
    pub what: String,
    /// When, milliseconds since 1970.
    pub since_ms: u64,
    /// What to do.
    pub advice: String,
}

/// The troubles of one peer.
pub struct Troubles {
    clock: Arc<dyn Clock>,
    open: Mutex<BTreeMap<Trouble, Noted>>,
}

impl std::fmt::Debug for Troubles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.open.lock().iter()).finish()
    }
}

/// Most entries; a roster may be longer, and what it takes to be told of one is no longer short.
const OPEN_MAX: usize = 256;

impl Troubles {
    /// Returns a register without entries.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            open: Mutex::default(),
        }
    }

    /// Takes note; what is known already keeps its time and gets the new words.
    pub fn note(&self, trouble: Trouble, what: impl Into<String>, advice: impl Into<String>) {
        self.note_since(trouble, self.clock.wall_ms(), what, advice);
    }

    /// Takes note of what began at `since_ms`.
    pub fn note_since(
        &self,
        trouble: Trouble,
        since_ms: u64,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        let (what, advice) = (what.into(), advice.into());
        let mut open = self.open.lock();
        if let Some(noted) = open.get_mut(&trouble) {
            (noted.what, noted.advice) = (what, advice);
            return;
        }
        if open.len() >= OPEN_MAX {
            return;
        }
        tracing::warn!("{what}: {advice}");
        let noted = Noted {
            what,
            since_ms,
            advice,
        };
        open.insert(trouble, noted);
    }

    /// Crosses out what goes on again.
    pub fn clear(&self, trouble: Trouble) {
        self.clear_all(|other| *other == trouble);
    }

    /// Crosses out all that `is_over` names.
    pub fn clear_all(&self, is_over: impl Fn(&Trouble) -> bool) {
        self.open.lock().retain(|trouble, noted| {
            let stays = !is_over(trouble);
            if !stays {
                tracing::info!("over: {}", noted.what);
            }
            stays
        });
    }

    /// Notes or crosses out, as there is something to say or not.
    pub fn set(&self, trouble: Trouble, now: Option<(String, String)>) {
        match now {
            Some((what, advice)) => self.note(trouble, what, advice),
            None => self.clear(trouble),
        }
    }

    /// Returns whether there is such an entry.
    pub fn has(&self, trouble: Trouble) -> bool {
        self.open.lock().contains_key(&trouble)
    }

    /// Returns the entries, the worst first.
    pub fn open(&self) -> Vec<Noted> {
        self.open.lock().values().cloned().collect()
    }

    /// Returns which are open, with the same.
    pub fn entries(&self) -> Vec<(Trouble, Noted)> {
        let open = self.open.lock();
        let entries = open
            .iter()
            .map(|(trouble, noted)| (*trouble, noted.clone()));
        entries.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::SimClock;
    use std::time::Duration;

    #[test]
    fn a_trouble_keeps_its_time_until_it_is_over() {
        let clock = SimClock::new(1_000);
        let troubles = Troubles::new(clock.clone());
        troubles.note(Trouble::Disk, "full", "free some");
        clock.advance(Duration::from_secs(5));
        troubles.note(Trouble::Disk, "fuller", "free more");
        let open = troubles.open();
        assert_eq!(open.len(), 1);
        assert_eq!((&*open[0].what, open[0].since_ms), ("fuller", 1_000));
        troubles.clear(Trouble::Disk);
        troubles.clear(Trouble::Disk);
        assert!(troubles.open().is_empty());
        troubles.note(Trouble::Disk, "full", "free some");
        assert_eq!(troubles.open()[0].since_ms, 6_000);
    }

    #[test]
    fn there_is_a_bound() {
        let troubles = Troubles::new(SimClock::new(0));
        for log in 0..2 * OPEN_MAX as u64 {
            troubles.note(Trouble::Log(LogId(log)), "stands", "wait");
        }
        assert_eq!(troubles.open().len(), OPEN_MAX);
    }
}
