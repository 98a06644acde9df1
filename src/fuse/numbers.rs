//! The numbers by which the kernel knows inodes: their own of 63 bits or, with `-o ino32`, such as fit
//! in 32 bits, since a 32-bit program without large-file support gets EOVERFLOW for a longer one.
//!
//! A short number is the upper half of the long one, which is as good as drawn by chance. So nothing
//! has to be remembered of most inodes to give each the same number again, after a remount too: what
//! a number stands for is in the volume, and its lower half is the generation, so that a file
//! handle names one inode. Of those few that share an upper half the one that was made first has it;
//! the others get a free number, which they keep as long as the mount lives.
//!
//! What the kernel knows is in a table: there a number stands for one inode until the kernel has
//! given back its last lookup of it, whatever happens in the volume.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use fuser::INodeNo;
use parking_lot::{Mutex, MutexGuard};

use super::positions::Positions;
use crate::base::Ino;
use crate::fs::Fs;

/// Turns inodes into the numbers that the kernel is shown, and back. Clones share one table.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    /// `None`: each inode has its own number.
    short: Option<Arc<Short>>,
}

impl Numbers {
    /// Returns those of a mount with `-o ino32`.
    pub(super) fn short(fs: Arc<Fs>) -> Self {
        Self {
            short: Some(Arc::new(Short::new(Box::new(fs), BITS))),
        }
    }

    /// Returns the inode that a request is about. For a number that stands for none it is
    /// [`NOBODY`], which `fs` does not know.
    pub(super) fn ino(&self, number: INodeNo) -> Ino {
        match &self.short {
            None => Ino(number.0),
            Some(short) => short.ino(number.0),
        }
    }

    /// Returns the number to show for an inode of which the kernel takes no notice.
    pub(super) fn shown(&self, ino: Ino) -> INodeNo {
        match &self.short {
            None => INodeNo(ino.0),
            Some(short) => INodeNo(short.number(ino, 0)),
        }
    }

    /// Returns number and generation to show for an inode, and counts one lookup.
    pub(super) fn looked_up(&self, ino: Ino, generation: u64) -> (INodeNo, u64) {
        match &self.short {
            None => (INodeNo(ino.0), generation),
            // The kernel's own root has none.
            Some(_) if ino == Ino::ROOT => (INodeNo(ino.0), 0),
            Some(short) => (INodeNo(short.number(ino, 1)), ino.0 & u64::from(u32::MAX)),
        }
    }

    /// Takes back lookups.
    pub(super) fn forget(&self, number: INodeNo, nlookup: u64) {
        if let Some(short) = &self.short {
            short.forget(number.0, nlookup);
        }
    }

    /// Returns the number by which the kernel knows an inode, if it may.
    pub(super) fn known(&self, ino: Ino) -> Option<INodeNo> {
        match &self.short {
            None => Some(INodeNo(ino.0)),
            Some(short) => short.table.lock().number(ino).map(INodeNo),
        }
    }

    /// Returns what makes positions in directories short, too, where they are to be.
    pub(super) fn positions(&self) -> Option<&Positions> {
        Some(&self.short.as_ref()?.positions)
    }
}

/// Tells which inodes there are: an [`Fs`], and one for tests.
trait Inodes: std::fmt::Debug + Send + Sync {
    /// Returns those of a range, in the order in which they were made.
    fn within(&self, range: RangeInclusive<u64>) -> Vec<Ino>;
}

impl Inodes for Arc<Fs> {
    fn within(&self, range: RangeInclusive<u64>) -> Vec<Ino> {
        // Where rows cannot be read, the operation that needs them fails for itself.
        self.inodes_within(&range).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for inodes of the same short number");
            Vec::new()
        })
    }
}

/// Short numbers.
#[derive(Debug)]
struct Short {
    inodes: Box<dyn Inodes>,
    /// Of a number; fewer in tests, where many inodes are to have the same.
    bits: u32,
    /// The volume is read under its lock, only where inodes share an upper half; reading waits for
    /// nobody who waits for the lock.
    table: Mutex<Table>,
    positions: Positions,
}

#[derive(Debug)]
struct Table {
    bits: u32,
    /// What the kernel knows, by number.
    known: HashMap<u64, Known>,
    /// Most of them since the memory was fitted to them. The map does not tell how much it has: what
    /// it calls its capacity goes down with removals.
    most: usize,
    /// Those with a number that is not the upper half of their own; and back.
    others: HashMap<Ino, u64>,
    owners: HashMap<u64, Ino>,
}

#[derive(Debug)]
struct Known {
    ino: Ino,
    /// Lookups that the kernel has not given back.
    nlookup: u64,
}

impl Short {
    fn new(inodes: Box<dyn Inodes>, bits: u32) -> Self {
        Self {
            inodes,
            bits,
            table: Mutex::new(Table {
                bits,
                known: HashMap::new(),
                most: 0,
                others: HashMap::new(),
                owners: HashMap::new(),
            }),
            positions: Positions::default(),
        }
    }

    /// Returns the number of an inode and counts lookups of it.
    fn number(&self, ino: Ino, lookups: u64) -> u64 {
        let mut table = self.table.lock();
        let number = match table.number(ino) {
            Some(number) => number,
            None => {
                drop(table);
                let upper = upper(ino, self.bits);
                let made = self.sharing(upper);
                table = self.table.lock();
                // Somebody else may have been here.
                let number = table.number(ino);
                number.unwrap_or_else(|| self.choose(&mut table, ino, upper, &made, lookups > 0))
            }
        };
        if lookups > 0 && ino != Ino::ROOT {
            let known = table.known.entry(number);
            let known = known.or_insert(Known { ino, nlookup: 0 });
            known.nlookup += lookups;
            table.most = table.most.max(table.known.len());
        }
        number
    }

    /// Chooses the number of an inode that has none, whose upper half those have that were `made`.
    fn choose(
        &self,
        table: &mut MutexGuard<'_, Table>,
        ino: Ino,
        upper: u64,
        made: &[Ino],
        keeps: bool,
    ) -> u64 {
        // One that has another number already does not claim this one.
        let mut claims = made.iter().filter(|one| !table.others.contains_key(one));
        let is_first = claims.next().is_none_or(|first| *first == ino);
        if is_first && table.is_free(upper) {
            return upper;
        }
        let free = (0..PROBES).map(|probe| probed(ino, probe, self.bits));
        let free = free
            .filter(|number| table.is_free(*number))
            .find(|number| self.sharing(*number).is_empty());
        // Not to be found while fewer than nine of ten numbers are in use.
        let number = free.unwrap_or(upper);
        if keeps || table.others.len() < OTHERS_MAX {
            table.others.insert(ino, number);
            table.owners.insert(number, ino);
        }
        number
    }

    /// Returns the inode that a number stands for.
    fn ino(&self, number: u64) -> Ino {
        if number == Ino::ROOT.0 {
            return Ino::ROOT;
        }
        if let Some(ino) = self.table.lock().ino(number) {
            return ino;
        }
        // Of a file handle, and not in the kernel's memory: it asks by a lookup of ".".
        let made = self.sharing(number);
        let found = made.into_iter().find(|ino| self.number(*ino, 0) == number);
        found.unwrap_or(NOBODY)
    }

    /// Returns the inodes with an upper half.
    fn sharing(&self, upper: u64) -> Vec<Ino> {
        let lower = INO_BITS - self.bits;
        match upper >> self.bits {
            0 => self
                .inodes
                .within(upper << lower..=(upper << lower) | ((1 << lower) - 1)),
            _ => Vec::new(),
        }
    }

    fn forget(&self, number: u64, nlookup: u64) {
        let mut table = self.table.lock();
        let Some(known) = table.known.get_mut(&number) else {
            return;
        };
        known.nlookup = known.nlookup.saturating_sub(nlookup);
        if known.nlookup > 0 {
            return;
        }
        let ino = known.ino;
        table.known.remove(&number);
        if table.others.len() > OTHERS_MAX && table.others.remove(&ino).is_some() {
            table.owners.remove(&number);
        }
        table.shrink();
    }
}

impl Table {
    /// Returns the number that an inode has.
    fn number(&self, ino: Ino) -> Option<u64> {
        if ino == Ino::ROOT {
            return Some(ino.0);
        }
        if let Some(number) = self.others.get(&ino) {
            return Some(*number);
        }
        let upper = upper(ino, self.bits);
        let known = self.known.get(&upper)?;
        (known.ino == ino).then_some(upper)
    }

    /// Returns the inode that has a number.
    fn ino(&self, number: u64) -> Option<Ino> {
        let known = self.known.get(&number).map(|known| known.ino);
        known.or_else(|| self.owners.get(&number).copied())
    }

    /// Tells whether no inode has a number, as far as this table goes.
    fn is_free(&self, number: u64) -> bool {
        // 0 means no file, all ones an error to some programs.
        let reserved = number <= Ino::ROOT.0 || number == (1 << self.bits) - 1;
        !reserved && self.ino(number).is_none()
    }

    /// Gives memory back when most of it is empty; not all, or the next inode would take it again.
    fn shrink(&mut self) {
        let len = self.known.len();
        if self.most > CAPACITY_MIN.max(4 * len) {
            self.most = CAPACITY_MIN.max(2 * len);
            self.known.shrink_to(self.most);
        }
    }
}

/// Returns the number that an inode has unless another one has it.
fn upper(ino: Ino, bits: u32) -> u64 {
    (ino.0 >> (INO_BITS - bits)) & ((1 << bits) - 1)
}

/// Returns another number for an inode: the same one for each inode and probe.
fn probed(ino: Ino, probe: u64, bits: u32) -> u64 {
    // The finisher of splitmix64.
    let mut mixed = ino
        .0
        .wrapping_add((probe + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) >> (u64::BITS - bits)
}

/// What a number stands for that stands for nothing: no inode has it.
const NOBODY: Ino = Ino(0);

/// Bits of a number that a program sees.
const BITS: u32 = 32;

/// Bits of an inode's own number.
const INO_BITS: u32 = 63;

/// Numbers that are tried for an inode which cannot have its first.
const PROBES: u64 = 256;

/// Inodes with a second number that are remembered though the kernel does not know them: as many as
/// are expected among twenty-four million. Of more, the rest may get another one when the kernel
/// asks for them again.
const OTHERS_MAX: usize = 65_536;

/// Inodes whose memory is not given back.
const CAPACITY_MIN: usize = 4096;

#[cfg(test)]
mod tests;
