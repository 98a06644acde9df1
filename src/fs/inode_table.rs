//! The inodes that the kernel knows, with what this mount alone knows about them.
//!
//! An inode is here while the kernel holds lookups of it, a handle is open, or changes wait to be
//! written: nothing else makes the table grow.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::FsError;
use super::atimes::Atime;
use super::dirty::Dirty;
use crate::base::{Ino, OpId};

/// An inode that this mount knows.
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

/// What this mount alone knows about an inode.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Changes that are not written yet.
    pub(super) dirty: Option<Dirty>,
    /// Bytes that the dirty data is charged with against the limit of all.
    pub(super) charged: u64,
    /// Last access.
    pub(super) atime: Atime,
    /// The content version that the kernel's pages show.
    pub(super) cached: Option<OpId>,
    /// A write in the background failed: the next flush or fsync tells, once.
    pub(super) failed: Option<FsError>,
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

#[derive(Debug)]
struct Slot {
    node: Arc<Node>,
    /// Lookups that the kernel has not given back.
    nlookup: u64,
    /// Open handles.
    opens: u32,
    /// Changes wait to be written.
    dirty: bool,
    /// The volume keeps the rows for us, also without a name.
    held: bool,
}

impl Slot {
    fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            nlookup: 0,
            opens: 0,
            dirty: false,
            held: false,
        }
    }

    fn is_unused(&self) -> bool {
        self.nlookup == 0 && self.opens == 0 && !self.dirty
    }
}

/// The table. Its lock is a leaf: nothing is called under it.
#[derive(Debug, Default)]
pub(super) struct InodeTable {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    slots: HashMap<Ino, Slot>,
    /// The slots with changes that wait, for those who write them in order.
    dirty: BTreeMap<Ino, Arc<Node>>,
}

impl Tables {
    fn slot(&mut self, ino: Ino) -> &mut Slot {
        self.slots
            .entry(ino)
            .or_insert_with(|| Slot::new(Node::new(ino)))
    }
}

/// An inode that left the table: the caller gives back what was kept for it elsewhere, with no
/// lock of the table held.
#[must_use]
#[derive(Debug)]
pub(super) struct Dropped {
    /// What this mount alone knew.
    pub(super) node: Arc<Node>,
    /// The volume keeps the rows for us.
    pub(super) held: bool,
}

impl InodeTable {
    /// Returns the node of an inode; one that is not in the table is known to nobody else.
    pub(super) fn node(&self, ino: Ino) -> Arc<Node> {
        self.known(ino).unwrap_or_else(|| Node::new(ino))
    }

    /// Returns the node of an inode that is in the table.
    pub(super) fn known(&self, ino: Ino) -> Option<Arc<Node>> {
        let tables = self.tables.lock();
        tables.slots.get(&ino).map(|slot| Arc::clone(&slot.node))
    }

    /// Counts one lookup.
    pub(super) fn remember(&self, ino: Ino) {
        self.tables.lock().slot(ino).nlookup += 1;
    }

    /// Takes back lookups.
    pub(super) fn forget(&self, ino: Ino, nlookup: u64) -> Option<Dropped> {
        self.leave(ino, |slot| {
            slot.nlookup = slot.nlookup.saturating_sub(nlookup);
        })
    }

    /// Counts an open handle. Returns true when the volume is to hold the inode from now on.
    pub(super) fn opened(&self, ino: Ino) -> bool {
        let mut tables = self.tables.lock();
        let slot = tables.slot(ino);
        slot.opens += 1;
        !std::mem::replace(&mut slot.held, true)
    }

    /// Takes back an open handle.
    pub(super) fn closed(&self, ino: Ino) -> Option<Dropped> {
        self.leave(ino, |slot| slot.opens = slot.opens.saturating_sub(1))
    }

    /// Returns how many handles of an inode are open.
    pub(super) fn opens(&self, ino: Ino) -> u32 {
        self.tables
            .lock()
            .slots
            .get(&ino)
            .map_or(0, |slot| slot.opens)
    }

    /// Says that an inode is about to lose its last name. Returns true when it is known and the
    /// volume is to hold it from now on.
    pub(super) fn outlives_its_name(&self, ino: Ino) -> bool {
        match self.tables.lock().slots.get_mut(&ino) {
            Some(slot) => !std::mem::replace(&mut slot.held, true),
            None => false,
        }
    }

    /// Says that changes of a node wait to be written: it stays in the table.
    pub(super) fn mark_dirty(&self, node: &Arc<Node>) {
        let mut tables = self.tables.lock();
        let slot = tables
            .slots
            .entry(node.ino)
            .or_insert_with(|| Slot::new(Arc::clone(node)));
        slot.dirty = true;
        tables.dirty.insert(node.ino, Arc::clone(node));
    }

    /// Says that nothing of a node waits to be written.
    pub(super) fn mark_clean(&self, ino: Ino) -> Option<Dropped> {
        self.tables.lock().dirty.remove(&ino);
        self.leave(ino, |slot| slot.dirty = false)
    }

    /// Returns the nodes with changes that wait to be written, by ascending number.
    pub(super) fn dirty(&self) -> Vec<Arc<Node>> {
        self.tables.lock().dirty.values().cloned().collect()
    }

    /// Returns all nodes, in no order.
    pub(super) fn all(&self) -> Vec<Arc<Node>> {
        let tables = self.tables.lock();
        let slots = tables.slots.values();
        slots.map(|slot| Arc::clone(&slot.node)).collect()
    }

    /// Returns the number of inodes, the sum of their lookups, and how many are dirty.
    pub(super) fn counts(&self) -> (usize, u64, usize) {
        let tables = self.tables.lock();
        let nlookup = tables.slots.values().map(|slot| slot.nlookup).sum();
        (tables.slots.len(), nlookup, tables.dirty.len())
    }

    /// Returns whether the kernel may hold something about the inode in its caches.
    pub(super) fn is_known(&self, ino: Ino) -> bool {
        ino == Ino::ROOT || self.tables.lock().slots.contains_key(&ino)
    }

    fn leave(&self, ino: Ino, change: impl FnOnce(&mut Slot)) -> Option<Dropped> {
        let mut tables = self.tables.lock();
        let slot = tables.slots.get_mut(&ino)?;
        change(slot);
        if !slot.is_unused() {
            return None;
        }
        let slot = tables.slots.remove(&ino)?;
        Some(Dropped {
            node: slot.node,
            held: slot.held,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INO: Ino = Ino(7);

    #[test]
    fn an_inode_stays_until_the_last_lookup_and_handle_are_given_back() {
        let table = InodeTable::default();
        table.remember(INO);
        table.remember(INO);
        assert!(table.opened(INO));
        assert!(!table.opened(INO));
        assert!(table.forget(INO, 2).is_none());
        assert!(table.closed(INO).is_none());
        assert_eq!(table.counts(), (1, 0, 0));
        assert!(table.closed(INO).is_some_and(|dropped| dropped.held));
        assert_eq!(table.counts(), (0, 0, 0));
        assert!(table.forget(INO, 1).is_none());
    }

    #[test]
    fn a_dirty_inode_stays_until_it_is_written() {
        let table = InodeTable::default();
        let node = table.node(INO);
        table.mark_dirty(&node);
        assert!(Arc::ptr_eq(&node, &table.node(INO)));
        assert_eq!(table.dirty().len(), 1);
        assert!(table.mark_clean(INO).is_some_and(|dropped| !dropped.held));
        assert!(table.known(INO).is_none());
    }
}
