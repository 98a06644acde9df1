//! The inodes that the kernel knows, with what this mount alone knows about them.
//!
//! An inode is here while the kernel holds lookups of it, a handle is open, or changes wait to be
//! written: nothing else makes the table grow. Most are no more than a slot of a few words: a
//! [`Node`] hangs on one as soon as there is something to know that is not in the volume.
//!
//! The table is in shards, so that whoever goes through it, and a shard that grows or shrinks,
//! keeps nobody waiting for long.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};

use super::FsError;
use super::atimes::Atime;
use super::dirty::Dirty;
use crate::base::{Ino, OpId};

/// An inode of which this mount knows something that is not in the volume, or may soon.
#[derive(Debug)]
pub(super) struct Node {
    /// Its number.
    pub(super) ino: Ino,
    /// What is not in the volume.
    ///
    /// Lock order: the contents of two nodes by ascending number, then the volume's writer, then
    /// the tables (leaves).
    content: Mutex<Content>,
}

/// What this mount alone knows about an inode; the default is to know nothing.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Changes that are not written yet.
    pub(super) dirty: Option<Box<Dirty>>,
    /// Bytes that the dirty data is charged with against the limit of all.
    pub(super) charged: u64,
    /// Last access.
    pub(super) atime: Atime,
    /// The content version that the kernel's pages show.
    pub(super) cached: Option<OpId>,
    /// The content version that they show, where that is not the present one and the kernel has not
    /// said yet that it dropped them: what it writes from its pages is built on that.
    pub(super) stale: Option<OpId>,
    /// A write in the background failed: the next flush or fsync tells, once.
    pub(super) failed: Option<Box<FsError>>,
}

impl Content {
    /// Returns whether nothing is lost with it: what is left is found again where it is asked for.
    fn is_plain(&self) -> bool {
        self.dirty.is_none()
            && self.charged == 0
            && matches!(self.atime, Atime::Unknown | Atime::Saved(None))
            && self.cached.is_none()
            && self.stale.is_none()
            && self.failed.is_none()
    }
}

impl Node {
    fn new(ino: Ino) -> Arc<Self> {
        Arc::new(Self {
            ino,
            content: Mutex::default(),
        })
    }

    /// Locks what is not in the volume.
    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock()
    }

    /// Locks what is not in the volume, if nobody else does.
    pub(super) fn try_content(&self) -> Option<MutexGuard<'_, Content>> {
        self.content.try_lock()
    }
}

/// One inode. There may be hundreds of thousands: what few of them need belongs into the node.
#[derive(Debug, Default)]
struct Slot {
    /// `None` while nothing is known that is not in the volume. All who ask get the same one: it
    /// stays while anybody but the slot has it.
    node: Option<Arc<Node>>,
    /// Lookups that the kernel has not given back.
    nlookup: u64,
    /// Open handles.
    opens: u32,
    /// One of them may write, or one that was open beside them did.
    writes: bool,
    /// Changes wait to be written.
    dirty: bool,
    /// The volume keeps the rows for us, also without a name.
    held: bool,
    /// The kernel asked for it since the last search for spare inodes.
    used: bool,
}

impl Slot {
    fn is_unused(&self) -> bool {
        self.nlookup == 0 && self.is_idle()
    }

    /// Returns whether nothing but the kernel's lookups keeps it here.
    fn is_idle(&self) -> bool {
        self.opens == 0 && !self.dirty
    }

    /// Lets go of a node in which there is nothing to know.
    fn rest(&mut self) {
        let idle = self.is_idle();
        // Nobody gets a new hold of it meanwhile: those are given out under the lock of the shard.
        if let Some(node) = &mut self.node
            && idle
            && let Some(node) = Arc::get_mut(node)
            && node.content.get_mut().is_plain()
        {
            self.node = None;
        }
    }
}

/// The table. Its locks are leaves: nothing is called under them.
#[derive(Debug)]
pub(super) struct InodeTable {
    shards: Box<[Mutex<Shard>]>,
    /// `None`: as many as the kernel likes.
    limit: OnceLock<Limit>,
    /// Where the search for spare inodes goes on.
    hand: AtomicUsize,
}

/// What is done about a kernel that never forgets.
struct Limit {
    /// Most inodes that are well.
    most: usize,
    /// Called when there are more.
    crowded: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Limit({})", self.most)
    }
}

/// The inodes with the same low bits.
#[derive(Debug, Default)]
struct Shard {
    slots: HashMap<Ino, Slot>,
    /// Most slots since the memory was fitted to them. The map does not tell how much it has: what
    /// it calls its capacity goes down with removals.
    most: usize,
    /// Those with changes that wait, for those who write them.
    dirty: BTreeMap<Ino, Arc<Node>>,
}

impl Shard {
    fn slot(&mut self, ino: Ino) -> &mut Slot {
        // One more than there may be by now is near enough.
        self.most = self.most.max(self.slots.len() + 1);
        self.slots.entry(ino).or_default()
    }

    /// Changes a slot; one that is unused then leaves.
    fn leave(&mut self, ino: Ino, change: impl FnOnce(&mut Slot)) -> Option<Dropped> {
        let slot = self.slots.get_mut(&ino)?;
        change(slot);
        if !slot.is_unused() {
            return None;
        }
        let slot = self.slots.remove(&ino)?;
        self.shrink();
        Some(Dropped {
            ino,
            node: slot.node,
            held: slot.held,
        })
    }

    /// Gives memory back when most of it is empty; not all, or the next inode would take it again.
    fn shrink(&mut self) {
        let len = self.slots.len();
        if self.most > SHARD_CAPACITY_MIN.max(4 * len) {
            self.most = SHARD_CAPACITY_MIN.max(2 * len);
            self.slots.shrink_to(self.most);
        }
    }
}

/// An inode that left the table: the caller gives back what was kept for it elsewhere, with no
/// lock of the table held.
#[must_use]
#[derive(Debug)]
pub(super) struct Dropped {
    /// Its number.
    pub(super) ino: Ino,
    /// What this mount alone knew, if anything.
    pub(super) node: Option<Arc<Node>>,
    /// The volume keeps the rows for us.
    pub(super) held: bool,
}

/// What became of an inode when a handle of it was closed.
#[derive(Debug, Default)]
pub(super) struct Closed {
    /// The node, as [`InodeTable::known`].
    pub(super) node: Option<Arc<Node>>,
    /// It left the table.
    pub(super) dropped: Option<Dropped>,
    /// No handle is open any more, and one that might write was.
    pub(super) was_last_of_writers: bool,
}

impl Default for InodeTable {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            limit: OnceLock::new(),
            hand: AtomicUsize::new(0),
        }
    }
}

impl InodeTable {
    /// Returns the node of an inode, made where there is none.
    ///
    /// That of an inode which is not in the table is known to nobody else.
    pub(super) fn node(&self, ino: Ino) -> Arc<Node> {
        let mut shard = self.shard(ino);
        let Some(slot) = shard.slots.get_mut(&ino) else {
            return Node::new(ino);
        };
        Arc::clone(slot.node.get_or_insert_with(|| Node::new(ino)))
    }

    /// Returns the node of an inode; where there is none, nothing is known but what is in the
    /// volume.
    pub(super) fn known(&self, ino: Ino) -> Option<Arc<Node>> {
        self.shard(ino).slots.get(&ino)?.node.clone()
    }

    /// Gives back a node that the caller has no more to do with, where others need it as little.
    pub(super) fn rest(&self, node: Arc<Node>) {
        let mut shard = self.shard(node.ino);
        if let Some(slot) = shard.slots.get_mut(&node.ino) {
            drop(node);
            slot.rest();
        }
    }

    /// Counts one lookup. Returns the node, as [`InodeTable::known`].
    pub(super) fn remember(&self, ino: Ino) -> Option<Arc<Node>> {
        let mut shard = self.shard(ino);
        let slot = shard.slot(ino);
        slot.nlookup += 1;
        slot.used = true;
        let node = slot.node.clone();
        let len = shard.slots.len();
        drop(shard);
        // Where all have too many, some shard has: cheaper than to count them all.
        if let Some(limit) = self.limit.get()
            && len > limit.most / SHARDS
        {
            (limit.crowded)();
        }
        node
    }

    /// Takes back lookups.
    pub(super) fn forget(&self, ino: Ino, nlookup: u64) -> Option<Dropped> {
        self.shard(ino).leave(ino, |slot| {
            slot.nlookup = slot.nlookup.saturating_sub(nlookup);
        })
    }

    /// Counts an open handle, which may write or not. Returns true when the volume is to hold the inode
    /// from now on.
    pub(super) fn opened(&self, ino: Ino, writes: bool) -> bool {
        let mut shard = self.shard(ino);
        let slot = shard.slot(ino);
        slot.opens += 1;
        slot.writes |= writes;
        slot.used = true;
        !std::mem::replace(&mut slot.held, true)
    }

    /// Takes back an open handle.
    pub(super) fn closed(&self, ino: Ino) -> Closed {
        let mut closed = Closed::default();
        closed.dropped = self.shard(ino).leave(ino, |slot| {
            slot.opens = slot.opens.saturating_sub(1);
            closed.was_last_of_writers = slot.opens == 0 && slot.writes;
            slot.writes &= slot.opens > 0;
            slot.rest();
            closed.node.clone_from(&slot.node);
        });
        closed
    }

    /// Returns whether a handle is open that may write, or was open together with one that is.
    pub(super) fn is_open_to_write(&self, ino: Ino) -> bool {
        let shard = self.shard(ino);
        shard.slots.get(&ino).is_some_and(|slot| slot.writes)
    }

    /// Returns how many handles of an inode are open.
    pub(super) fn opens(&self, ino: Ino) -> u32 {
        let shard = self.shard(ino);
        shard.slots.get(&ino).map_or(0, |slot| slot.opens)
    }

    /// Says that an inode is about to lose its last name. Returns true when it is known and the
    /// volume is to hold it from now on.
    pub(super) fn outlives_its_name(&self, ino: Ino) -> bool {
        match self.shard(ino).slots.get_mut(&ino) {
            Some(slot) => !std::mem::replace(&mut slot.held, true),
            None => false,
        }
    }

    /// Says that changes of a node wait to be written: it stays in the table.
    pub(super) fn mark_dirty(&self, node: &Arc<Node>) {
        let mut shard = self.shard(node.ino);
        let slot = shard.slot(node.ino);
        slot.dirty = true;
        slot.node.get_or_insert_with(|| Arc::clone(node));
        shard.dirty.insert(node.ino, Arc::clone(node));
    }

    /// Says that nothing of a node waits to be written.
    pub(super) fn mark_clean(&self, ino: Ino) -> Option<Dropped> {
        let mut shard = self.shard(ino);
        shard.dirty.remove(&ino);
        shard.leave(ino, |slot| slot.dirty = false)
    }

    /// Returns the nodes with changes that wait to be written, by ascending number.
    pub(super) fn dirty(&self) -> Vec<Arc<Node>> {
        let mut dirty = Vec::new();
        for shard in &self.shards {
            dirty.extend(shard.lock().dirty.values().cloned());
        }
        dirty.sort_unstable_by_key(|node| node.ino);
        dirty
    }

    /// Returns all nodes, in no order.
    pub(super) fn all(&self) -> Vec<Arc<Node>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            all.extend(shard.slots.values().filter_map(|slot| slot.node.clone()));
        }
        all
    }

    /// Returns the number of inodes, the sum of their lookups, and how many are dirty.
    pub(super) fn counts(&self) -> (usize, u64, usize) {
        let mut counts = (0, 0, 0);
        for shard in &self.shards {
            let shard = shard.lock();
            counts.0 += shard.slots.len();
            counts.1 += shard.slots.values().map(|slot| slot.nlookup).sum::<u64>();
            counts.2 += shard.dirty.len();
        }
        counts
    }

    /// Sets the limit; the first one stays.
    pub(super) fn limit(&self, most: usize, crowded: Box<dyn Fn() + Send + Sync>) {
        let _ = self.limit.set(Limit { most, crowded });
    }

    /// Returns how many inodes are to go: none up to the limit, then so many that an eighth of it
    /// is free.
    pub(super) fn excess(&self) -> usize {
        let Some(Limit { most, .. }) = self.limit.get() else {
            return 0;
        };
        let shards = self.shards.iter();
        let len: usize = shards.map(|shard| shard.lock().slots.len()).sum();
        match len > *most {
            true => len - (most - most / 8),
            false => 0,
        }
    }

    /// Returns up to `count` inodes that nothing but the kernel's lookups keeps here.
    ///
    /// Goes round the shards as a clock does: an inode that was asked for since the last round
    /// stays for one more. A whole round finds what it can.
    pub(super) fn spare(&self, count: usize) -> Vec<Ino> {
        let mut spare = Vec::new();
        for _ in 0..2 * SHARDS {
            if spare.len() >= count {
                break;
            }
            let hand = self.hand.fetch_add(1, Ordering::Relaxed) % SHARDS;
            for (ino, slot) in &mut self.shards[hand].lock().slots {
                let used = std::mem::replace(&mut slot.used, false);
                slot.rest();
                if !used && slot.is_idle() && spare.len() < count {
                    spare.push(*ino);
                }
            }
        }
        spare
    }

    /// Returns whether the kernel may hold something about the inode in its caches.
    pub(super) fn is_known(&self, ino: Ino) -> bool {
        ino == Ino::ROOT || self.shard(ino).slots.contains_key(&ino)
    }

    fn shard(&self, ino: Ino) -> MutexGuard<'_, Shard> {
        // Numbers are drawn by a hash, so their low bits are as good as any.
        self.shards[ino.0 as usize % SHARDS].lock()
    }
}

/// Parts of the table: with a quarter of a million inodes one has 4096, through which it takes some
/// tens of microseconds to go.
const SHARDS: usize = 64;

/// Inodes of a shard whose memory is not given back: 300 KiB in all.
const SHARD_CAPACITY_MIN: usize = 112;

#[cfg(test)]
mod tests;
