//! The numbers by which the kernel knows inodes: such as fit in 32 bits, since a 32-bit program
//! without large-file support gets EOVERFLOW for a longer one; or, with `-o ino64`, their own of 63.
//!
//! A short number is the upper half of the long one, which is as good as drawn by chance. So nothing
//! has to be remembered of most inodes to give each the same number again, after a remount too: what
//! a number stands for is in the volume, and its lower half is the generation, so that a file
//! handle names one inode.
//!
//! Few share an upper half. Two that the kernel knows at a time never have one number: what it knows is
//! in a table, where a number stands for one inode until the kernel has given back its last lookup of
//! it, whatever happens in the volume. That is all there is to know of a file with one name, since
//! programs do not compare its number with one that they saw earlier. They do so with the numbers of
//! directories and of files with several names (`tar`, `rsync -H`, `du`): those the table remembers
//! when the kernel has forgotten them. Where they are too many for it, the volume is asked who shares
//! an upper half, and the one that was made first has it. That costs as much as three lookups; so it is
//! not asked before. Whoever cannot have his upper half gets a free number, which he keeps as long as
//! the mount lives.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::ops::RangeInclusive;
use std::sync::Arc;

use fuser::INodeNo;
use parking_lot::{Mutex, MutexGuard};

use super::positions::Positions;
use crate::base::{Ino, Rng};
use crate::fs::{Attr, Entry, FileKind, Fs};
use crate::volume::is_past;

/// Turns inodes into the numbers that the kernel is shown, and back. Clones share one table.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    /// `None`: each inode has its own number.
    short: Option<Arc<Short>>,
}

/// What there is to know of an inode that is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// Programs compare its number with those that they see at the same time, if at all.
    Once,
    /// Programs remember its number to compare it with others.
    Remembered,
    /// As [`Shown::Remembered`], of a directory that was made just now. The volume is never asked: no
    /// program has seen another number of it, and those that the kernel knows or that it forgot of
    /// late have theirs. One that was made before, shares its upper half and comes later gets another
    /// number.
    New,
}

impl Shown {
    /// Returns what holds for an inode with these attributes.
    pub(super) fn of(attr: &Attr) -> Self {
        match attr.nlink {
            2.. => Self::Remembered,
            _ => Self::of_kind(attr.kind),
        }
    }

    /// Returns what holds for an inode of which no more is known than its kind.
    pub(super) fn of_kind(kind: FileKind) -> Self {
        match kind {
            FileKind::Dir => Self::Remembered,
            _ => Self::Once,
        }
    }
}

impl Numbers {
    /// Returns short ones.
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
            Some(short) => u32::try_from(number.0).map_or(NOBODY, |number| short.ino(number)),
        }
    }

    /// Returns the number to show for an inode of which the kernel takes no notice.
    pub(super) fn shown(&self, ino: Ino, shown: Shown) -> INodeNo {
        match &self.short {
            None => INodeNo(ino.0),
            Some(short) => INodeNo(short.number(ino, shown, 0).into()),
        }
    }

    /// Returns number and generation to show for an entry, and counts one lookup.
    pub(super) fn looked_up(&self, entry: &Entry, shown: Shown) -> (INodeNo, u64) {
        let ino = entry.attr.ino;
        match &self.short {
            None => (INodeNo(ino.0), entry.generation),
            // The kernel's own root has none.
            Some(_) if ino == Ino::ROOT => (INodeNo(ino.0), 0),
            Some(short) => {
                let number = short.number(ino, shown, 1);
                (INodeNo(number.into()), lower(ino).into())
            }
        }
    }

    /// Takes back lookups.
    pub(super) fn forget(&self, number: INodeNo, nlookup: u64) {
        if let Some(short) = &self.short
            && let Ok(number) = u32::try_from(number.0)
        {
            short.forget(number, nlookup);
        }
    }

    /// Returns the number by which the kernel knows an inode, if it may.
    pub(super) fn known(&self, ino: Ino) -> Option<INodeNo> {
        match &self.short {
            None => Some(INodeNo(ino.0)),
            Some(short) => {
                let number = short.table.lock().number(ino)?;
                Some(INodeNo(number.into()))
            }
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

/// Hashes numbers: they are as good as drawn by chance, so it takes no more than to keep others from
/// choosing such as collide.
#[derive(Debug, Clone)]
struct Mix(u64);

impl Default for Mix {
    fn default() -> Self {
        Self(Rng::from_entropy().below(u64::MAX))
    }
}

impl BuildHasher for Mix {
    type Hasher = Mixed;

    fn build_hasher(&self) -> Mixed {
        Mixed(self.0)
    }
}

#[derive(Debug)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u32(&mut self, number: u32) {
        let product = u128::from(self.0 ^ u64::from(number)) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Short numbers.
#[derive(Debug)]
struct Short {
    inodes: Box<dyn Inodes>,
    /// The volume is read under its lock, only where inodes share an upper half; reading waits for
    /// nobody who waits for the lock.
    table: Mutex<Table>,
    positions: Positions,
}

#[derive(Debug)]
struct Table {
    /// Of a number that is not an upper half; fewer in tests, where there are to be few.
    bits: u32,
    /// What the kernel knows, by number.
    known: HashMap<u32, Known, Mix>,
    /// Most of them since the memory was fitted to them. The map does not tell how much it has: what
    /// it calls its capacity goes down with removals.
    most: usize,
    /// Those with a number that is not the upper half of their own; and back.
    others: HashMap<Ino, u32>,
    owners: HashMap<u32, Ino>,
    remembered: Remembered,
}

/// Inodes that the kernel has forgotten, and of which programs remember that their upper half is their
/// number: nobody else gets it. Lower halves by upper ones.
#[derive(Debug, Default)]
struct Remembered {
    young: HashMap<u32, u32, Mix>,
    /// Those from before, no more than [`GENERATION`] either.
    old: HashMap<u32, u32, Mix>,
    /// Some have been dropped.
    has_gaps: bool,
}

impl Remembered {
    /// Returns the inode that has a number.
    fn ino(&self, number: u32) -> Option<Ino> {
        let lower = self.young.get(&number).or_else(|| self.old.get(&number));
        Some(joined(number, *lower?))
    }

    fn insert(&mut self, ino: Ino) {
        if self.young.len() >= GENERATION {
            let old = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            self.has_gaps |= !old.is_empty();
        }
        self.young.insert(upper(ino), lower(ino));
    }
}

/// One inode. There may be hundreds of thousands: as small as can be.
#[derive(Debug)]
struct Known {
    /// The lower half of the inode's own number, and [`IS_REMEMBERED`].
    lower: u32,
    /// Lookups that the kernel has not given back. One that had [`u32::MAX`] stays for good.
    nlookup: u32,
}

impl Short {
    fn new(inodes: Box<dyn Inodes>, bits: u32) -> Self {
        Self {
            inodes,
            table: Mutex::new(Table {
                bits,
                known: HashMap::default(),
                most: 0,
                others: HashMap::new(),
                owners: HashMap::new(),
                remembered: Remembered::default(),
            }),
            positions: Positions::default(),
        }
    }

    /// Returns the number of an inode and counts lookups of it.
    fn number(&self, ino: Ino, shown: Shown, lookups: u32) -> u32 {
        let upper = upper(ino);
        let mut table = self.table.lock();
        let mut number = table.number(ino);
        let mut is_taken = false;
        let is_asked = number.is_none() && shown == Shown::Remembered && table.remembered.has_gaps;
        if is_asked && table.remembered.ino(upper) != Some(ino) {
            drop(table);
            let made = self.sharing(upper);
            table = self.table.lock();
            // Somebody else may have been here.
            number = table.number(ino);
            // One that has another number already does not claim this one.
            let mut claims = made.iter().filter(|one| !table.others.contains_key(one));
            is_taken = claims.next().is_some_and(|first| *first != ino);
        }
        let number = match number {
            Some(number) => number,
            None if !is_taken && table.is_free(upper, ino) => upper,
            None => self.another(&mut table, ino, lookups > 0),
        };
        if lookups > 0 && ino != Ino::ROOT {
            table.count(number, ino, shown, lookups);
        }
        number
    }

    /// Returns a number that no inode has, for one that cannot have the upper half of its own.
    fn another(&self, table: &mut MutexGuard<'_, Table>, ino: Ino, keeps: bool) -> u32 {
        let free = (0..PROBES).map(|probe| probed(ino, probe, table.bits));
        let free = free
            .filter(|number| table.is_free(*number, ino))
            .find(|number| self.sharing(*number).is_empty());
        // Not to be found while fewer than nine of ten numbers are in use.
        let number = free.unwrap_or_else(|| upper(ino));
        if keeps || table.others.len() < OTHERS_MAX {
            table.others.insert(ino, number);
            table.owners.insert(number, ino);
        }
        number
    }

    /// Returns the inode that a number stands for.
    fn ino(&self, number: u32) -> Ino {
        if u64::from(number) == Ino::ROOT.0 {
            return Ino::ROOT;
        }
        if let Some(ino) = self.table.lock().ino(number) {
            return ino;
        }
        // Of a file handle, and not in the kernel's memory: it asks by a lookup of ".".
        let made = self.sharing(number);
        let is_his = |ino: &Ino| self.number(*ino, Shown::Once, 0) == number;
        made.into_iter().find(is_his).unwrap_or(NOBODY)
    }

    /// Returns the inodes with an upper half.
    fn sharing(&self, upper: u32) -> Vec<Ino> {
        let range = joined(upper, 0).0..=joined(upper, LOWER).0;
        self.inodes.within(range)
    }

    fn forget(&self, number: u32, nlookup: u64) {
        let mut table = self.table.lock();
        let Some(known) = table.known.get_mut(&number) else {
            return;
        };
        if known.nlookup == u32::MAX {
            return;
        }
        let nlookup = u32::try_from(nlookup).unwrap_or(u32::MAX);
        known.nlookup = known.nlookup.saturating_sub(nlookup);
        if known.nlookup > 0 {
            return;
        }
        let ino = joined(number, known.lower & LOWER);
        let is_remembered = known.lower & IS_REMEMBERED != 0;
        table.known.remove(&number);
        table.shrink();
        match table.owners.get(&number).copied() {
            Some(other) if table.others.len() > OTHERS_MAX || is_past(other) => {
                table.owners.remove(&number);
                table.others.remove(&other);
            }
            None if is_remembered => table.remembered.insert(ino),
            _ => {}
        }
    }
}

impl Table {
    /// Returns the number that an inode has.
    fn number(&self, ino: Ino) -> Option<u32> {
        if ino == Ino::ROOT {
            return Some(ROOT);
        }
        if let Some(number) = self.others.get(&ino) {
            return Some(*number);
        }
        let known = self.known.get(&upper(ino))?;
        // Under the number of one that has another stands its lower half as well.
        let is_his = known.lower & LOWER == lower(ino) && !self.owners.contains_key(&upper(ino));
        is_his.then_some(upper(ino))
    }

    /// Returns the inode that has a number.
    fn ino(&self, number: u32) -> Option<Ino> {
        if let Some(ino) = self.owners.get(&number) {
            return Some(*ino);
        }
        match self.known.get(&number) {
            Some(known) => Some(joined(number, known.lower & LOWER)),
            None => self.remembered.ino(number),
        }
    }

    /// Tells whether an inode can have a number, as far as this table goes.
    fn is_free(&self, number: u32, of: Ino) -> bool {
        // 0 means no file, all ones an error to some programs.
        let reserved = number <= ROOT || number == u32::MAX >> (BITS - self.bits);
        !reserved && self.ino(number).is_none_or(|ino| ino == of)
    }

    fn count(&mut self, number: u32, ino: Ino, shown: Shown, lookups: u32) {
        let lower = lower(ino);
        let known = self.known.entry(number);
        let known = known.or_insert(Known { lower, nlookup: 0 });
        known.nlookup = known.nlookup.saturating_add(lookups);
        if shown != Shown::Once {
            known.lower |= IS_REMEMBERED;
        }
        self.most = self.most.max(self.known.len());
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
fn upper(ino: Ino) -> u32 {
    (ino.0 >> LOWER_BITS) as u32
}

/// Returns the other half.
fn lower(ino: Ino) -> u32 {
    ino.0 as u32 & LOWER
}

/// Returns the inode of two halves.
fn joined(upper: u32, lower: u32) -> Ino {
    Ino(u64::from(upper) << LOWER_BITS | u64::from(lower))
}

/// Returns another number for an inode: the same one for each inode and probe.
fn probed(ino: Ino, probe: u64, bits: u32) -> u32 {
    // The finisher of splitmix64.
    let mut mixed = ino
        .0
        .wrapping_add((probe + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> (u64::BITS - bits)) as u32
}

/// What a number stands for that stands for nothing: no inode has it.
const NOBODY: Ino = Ino(0);

/// The root's, the first that there is.
const ROOT: u32 = Ino::ROOT.0 as u32;

/// Bits of a number that a program sees.
const BITS: u32 = 32;

/// Bits of an inode's own number, of 63, that are not in the short one.
const LOWER_BITS: u32 = 31;
const LOWER: u32 = (1 << LOWER_BITS) - 1;

/// Beside a lower half: programs remember the number.
const IS_REMEMBERED: u32 = 1 << LOWER_BITS;

/// Half of those that are remembered though the kernel has forgotten them, in 1.2 MB at the most.
const GENERATION: usize = 32_768;

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
