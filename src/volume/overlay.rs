//! Changes on top of the committed view: of a slice of ops, and of the one op that is being folded.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::committed::{Committed, Rank};
use super::op::OpKind;
use super::record::Record;
use super::rows::{Row, RowKey, Stored, Value};
use super::types::{DirKey, Extent, Inode, Source};
use super::view::View;
use super::{Result, VolumeError};
use crate::base::{DeviceId, Ino, LogId, OpId};

/// What ops folded since the last commit have changed.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    rows: BTreeMap<RowKey, Laid>,
    /// Records as they are now; `None` for an op that is undone.
    pub(super) records: BTreeMap<OpId, Option<Arc<Record>>>,
    /// What undone ops want which are to be folded again, where that is to lie in rows; `None` for one
    /// that waits no more.
    pub(super) undone: BTreeMap<OpId, Option<Arc<OpKind>>>,
}

/// A row of an overlay.
#[derive(Debug, Clone)]
pub(super) struct Laid {
    /// The committed row, where that was looked up.
    below: Option<Option<Row>>,
    /// As it is now; `None` for a row that is gone.
    pub(super) now: Option<Row>,
}

impl Laid {
    /// Returns the committed row.
    pub(super) fn below(&self, view: &View, key: &RowKey) -> Result<Option<Row>> {
        match &self.below {
            Some(below) => Ok(below.clone()),
            None => view.row(key),
        }
    }
}

impl Overlay {
    /// Sets a row as it is now.
    pub(super) fn put(&mut self, key: RowKey, now: Option<Row>) {
        match self.rows.entry(key) {
            Entry::Occupied(mut laid) => laid.get_mut().now = now,
            Entry::Vacant(vacant) => {
                vacant.insert(Laid { below: None, now });
            }
        }
    }

    /// Sets a row as an op leaves it that was folded on top of this overlay.
    pub(super) fn put_effect(&mut self, effect: Effect) {
        match self.rows.entry(effect.key) {
            Entry::Occupied(mut laid) => laid.get_mut().now = effect.after,
            Entry::Vacant(vacant) => {
                vacant.insert(Laid {
                    below: Some(effect.before),
                    now: effect.after,
                });
            }
        }
    }

    /// Returns a row as it is now, where it was changed; `Some(None)` for one that is gone.
    pub(super) fn row(&self, key: &RowKey) -> Option<&Option<Row>> {
        self.rows.get(key).map(|laid| &laid.now)
    }

    /// Returns the rows that were changed, in key order.
    pub(super) fn rows(&self) -> &BTreeMap<RowKey, Laid> {
        &self.rows
    }
}

/// The committed view with the changes on top of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base<'a> {
    pub(super) view: &'a View,
    pub(super) overlay: &'a Overlay,
    /// The order of the ops.
    pub(super) committed: &'a Committed,
}

impl Base<'_> {
    /// Returns a row as it is now.
    pub(super) fn row(&self, key: &RowKey) -> Result<Option<Row>> {
        match self.overlay.row(key) {
            Some(row) => Ok(row.clone()),
            None => self.view.row(key),
        }
    }

    /// Returns the record of an applied op, `None` where it is undone or trimmed.
    pub(super) fn record(&self, id: OpId) -> Result<Option<Arc<Record>>> {
        match self.overlay.records.get(&id) {
            Some(record) => Ok(record.clone()),
            None => Ok(Record::load(&*self.view.rows, id)?.map(Arc::new)),
        }
    }
}

/// How an op changed the counts of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Delta {
    /// Entries that came, less those that went.
    pub(super) entries: i64,
    /// The same of its links: subdirectories.
    pub(super) nlink: i32,
}

impl Delta {
    /// Applies the change.
    fn add_to(self, dir: &mut Inode) {
        dir.entries = dir.entries.saturating_add_signed(self.entries);
        dir.nlink = dir.nlink.saturating_add_signed(self.nlink);
    }

    /// Takes the change back.
    pub(super) fn take_from(self, dir: &mut Inode) {
        let back = Self {
            entries: -self.entries,
            nlink: -self.nlink,
        };
        back.add_to(dir);
    }
}

impl Inode {
    /// Gives a directory as it was before an op the counts of now less what the op added: others count side
    /// by side with it.
    pub(super) fn count_back(&mut self, now: &Self, delta: Option<Delta>) {
        let before = self.nlink;
        // Whether it has a name is no count.
        let is_named = !self.is_orphan() && !now.is_orphan();
        (self.entries, self.nlink) = (now.entries, now.nlink);
        if let Some(delta) = delta {
            delta.take_from(self);
        }
        if !is_named {
            self.nlink = before;
        }
    }
}

/// One row as an op leaves it.
#[derive(Debug, Clone)]
pub(super) struct Effect {
    /// The row.
    pub(super) key: RowKey,
    /// As the op found it.
    pub(super) before: Option<Row>,
    /// As the op leaves it.
    pub(super) after: Option<Row>,
    /// True where the op changed more than counts.
    pub(super) is_write: bool,
    /// How it changed the counts.
    pub(super) delta: Option<Delta>,
}

/// What an op depends on and does.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Digests of the rows that it read and left alone.
    pub(super) reads: Vec<u64>,
    /// The rows that it changed, in key order.
    pub(super) writes: Vec<Effect>,
}

/// The rows that the op being folded has met.
#[derive(Debug)]
pub(super) struct Tx<'a> {
    base: Base<'a>,
    met: BTreeMap<RowKey, Met>,
    /// What the rows may take as they were before; less with each that is met.
    room: Room,
    /// True where it looked for all nodes without a name.
    looks_for_nameless: bool,
}

/// How much an op may meet of what is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Bytes of rows.
    pub(super) bytes: usize,
    /// Rows.
    pub(super) rows: usize,
}

impl Room {
    /// Any.
    pub(super) const ENDLESS: Self = Self::of_bytes(usize::MAX);

    /// Returns room for any rows that take no more bytes.
    pub(super) const fn of_bytes(bytes: usize) -> Self {
        let rows = usize::MAX;
        Self { bytes, rows }
    }

    /// Returns the room that the row of an extent leaves, about; `None` where there was less.
    pub(super) fn after_extent(self, extent: &Extent) -> Option<Self> {
        let bytes = match &extent.src {
            Source::Inline(bytes) => bytes.len(),
            Source::Chunk { .. } => 0,
        };
        Some(Self {
            bytes: self.bytes.checked_sub(bytes + EXTENT_ROW_BYTES)?,
            rows: self.rows.checked_sub(1)?,
        })
    }

    /// Returns the room that a row leaves, `None` where there was less.
    fn after(self, row: Option<&Row>) -> Option<Self> {
        match row {
            Some(row) => self.after_bytes(row.bytes.len()),
            None => Some(self),
        }
    }

    /// Returns the room that a row of so many bytes leaves, `None` where there was less.
    pub(super) fn after_bytes(self, bytes: usize) -> Option<Self> {
        Some(Self {
            bytes: self.bytes.checked_sub(bytes)?,
            rows: self.rows.checked_sub(1)?,
        })
    }
}

/// What the row of an extent takes beside inline bytes.
const EXTENT_ROW_BYTES: usize = 64;

#[derive(Debug)]
struct Met {
    before: Option<Row>,
    /// What the op has made of it, encoded once at the end.
    now: Option<Option<Value>>,
    /// True for a row that only a scan met: the row of its inode stands for it among the reads.
    scanned: bool,
    /// True once the op put or removed the row.
    is_written: bool,
    /// How the op changed the counts.
    delta: Option<Delta>,
    /// True once the op depends on the counts.
    counts_read: bool,
}

impl Met {
    /// Returns a row that was met in a scan.
    fn scanned(before: Option<Row>) -> Self {
        Self {
            before,
            now: None,
            scanned: true,
            is_written: false,
            delta: None,
            counts_read: false,
        }
    }

    fn value(&self) -> Option<&Value> {
        match &self.now {
            Some(now) => now.as_ref(),
            None => self.before.as_ref().map(|row| &row.value),
        }
    }
}

impl<'a> Tx<'a> {
    /// Returns one that has met nothing, and meets what `room` allows.
    pub(super) fn new(base: Base<'a>, room: Room) -> Self {
        Self {
            base,
            met: BTreeMap::new(),
            room,
            looks_for_nameless: false,
        }
    }

    /// Returns the record of an op that was applied before, of those that may still be looked up.
    pub(super) fn record(&self, id: OpId) -> Result<Option<Arc<Record>>> {
        if self.is_settled(id) {
            return Ok(None);
        }
        self.base.record(id)
    }

    /// Tells whether no fold looks up any more what an op replaced or removed.
    pub(super) fn is_settled(&self, id: OpId) -> bool {
        self.base.committed.is_settled(id)
    }

    /// Returns where an op stands in the order.
    pub(super) fn rank(&self, id: OpId) -> Rank {
        self.base.committed.rank(id)
    }

    /// Returns the device that wrote a log.
    pub(super) fn device_of(&self, log: LogId) -> DeviceId {
        self.base.view.device_of(log)
    }

    /// Returns where `name` stands in a directory.
    pub(super) fn dir_key(&self, parent: Ino, name: &[u8]) -> DirKey {
        self.base.view.dir_key(parent, name)
    }

    /// Returns a row as the op has it now.
    pub(super) fn get(&mut self, key: RowKey) -> Result<Option<&Value>> {
        let met = self.meet(key)?;
        met.scanned = false;
        Ok(met.value())
    }

    /// Sets a row.
    pub(super) fn put(&mut self, key: RowKey, value: Value) -> Result<()> {
        let met = self.meet(key)?;
        met.now = Some(Some(value));
        met.is_written = true;
        Ok(())
    }

    /// Sets a row that the caller knows not to be there.
    pub(super) fn put_fresh(&mut self, key: RowKey, value: Value) {
        let met = self.met.entry(key).or_insert(Met::scanned(None));
        met.now = Some(Some(value));
        met.is_written = true;
    }

    /// Removes a row.
    pub(super) fn delete(&mut self, key: RowKey) -> Result<()> {
        let met = self.meet(key)?;
        met.now = Some(None);
        met.is_written = true;
        Ok(())
    }

    /// Changes the counts of a directory, and the row as `f` says beside; the op depends neither on the
    /// counts nor on those who change them. Nothing where there is no such directory.
    pub(super) fn count(
        &mut self,
        dir: Ino,
        delta: Delta,
        f: impl FnOnce(&mut Inode),
    ) -> Result<()> {
        let met = self.meet(RowKey::Inode(dir))?;
        let Some(Value::Inode(inode)) = met.value() else {
            return Ok(());
        };
        let mut inode = inode.clone();
        delta.add_to(&mut inode);
        f(&mut inode);
        met.scanned = false;
        met.now = Some(Some(Value::Inode(inode)));
        let before = met.delta.unwrap_or_default();
        met.delta = Some(Delta {
            entries: before.entries + delta.entries,
            nlink: before.nlink + delta.nlink,
        });
        Ok(())
    }

    /// Changes a row that is there as `f` says; the op depends on its being there, and neither on what is in it
    /// nor on those who change it so.
    pub(super) fn shift(&mut self, key: RowKey, f: impl FnOnce(&mut Value)) -> Result<()> {
        let met = self.meet(key)?;
        met.scanned = false;
        if let Some(mut value) = met.value().cloned() {
            f(&mut value);
            met.now = Some(Some(value));
            met.delta.get_or_insert_default();
        }
        Ok(())
    }

    /// Says that the op depends on which nodes have no name.
    pub(super) fn depend_on_nameless(&mut self) {
        self.looks_for_nameless = true;
    }

    /// Says that the op depends on how many entries a directory has.
    pub(super) fn depend_on_counts(&mut self, dir: Ino) -> Result<()> {
        self.meet(RowKey::Inode(dir))?.counts_read = true;
        Ok(())
    }

    fn meet(&mut self, key: RowKey) -> Result<&mut Met> {
        match self.met.entry(key) {
            Entry::Occupied(met) => Ok(met.into_mut()),
            Entry::Vacant(vacant) => {
                let before = self.base.row(&key)?;
                self.room = self
                    .room
                    .after(before.as_ref())
                    .ok_or(VolumeError::TooMuch)?;
                Ok(vacant.insert(Met::scanned(before)))
            }
        }
    }

    /// Returns the rows of one table with `from <= key < to`, in order.
    ///
    /// The op does not depend on them one by one: whoever changes extents, attributes, places or
    /// entries of an inode changes its inode row too, which the caller has read.
    pub(super) fn scan(&mut self, from: RowKey, to: RowKey) -> Result<Vec<(RowKey, Value)>> {
        let Base { view, overlay, .. } = self.base;
        let met = &mut self.met;
        let mut room = Some(self.room);
        view.scan(&from, &to, &mut |key, row| {
            if let Entry::Vacant(vacant) = met.entry(key) {
                let before = match overlay.row(&key) {
                    Some(row) => row.clone(),
                    None => Some(row),
                };
                room = room.and_then(|room| room.after(before.as_ref()));
                vacant.insert(Met::scanned(before));
            }
            match room {
                Some(_) => ControlFlow::Continue(()),
                None => ControlFlow::Break(()),
            }
        })?;
        self.room = room.ok_or(VolumeError::TooMuch)?;
        let range = (Bound::Included(from), Bound::Excluded(to));
        for (key, row) in overlay.rows.range(range) {
            met.entry(*key)
                .or_insert_with(|| Met::scanned(row.now.clone()));
        }
        Ok(met
            .range(range)
            .filter_map(|(key, met)| Some((*key, met.value()?.clone())))
            .collect())
    }

    /// Returns the last row of one table with `from <= key < to`.
    pub(super) fn last_before(
        &mut self,
        from: RowKey,
        to: RowKey,
    ) -> Result<Option<(RowKey, Value)>> {
        let Base { view, overlay, .. } = self.base;
        let range = (Bound::Included(from), Bound::Excluded(to));
        for (key, row) in overlay.rows.range(range) {
            self.met
                .entry(*key)
                .or_insert_with(|| Met::scanned(row.now.clone()));
        }
        // A committed row that was removed since does not count.
        let met = &mut self.met;
        view.scan_rev(&from, &to, &mut |key, row| {
            let entry = met.entry(key).or_insert_with(|| Met::scanned(Some(row)));
            if entry.value().is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        Ok(met
            .range(range)
            .rev()
            .find_map(|(key, met)| Some((*key, met.value()?.clone()))))
    }

    /// Encodes what changed; rows that are again as they were count as read.
    pub(super) fn finish(self) -> Effects {
        let mut effects = Effects::default();
        if self.looks_for_nameless {
            effects.reads.push(RowKey::nameless_digest());
        }
        for (key, met) in self.met {
            if met.counts_read {
                effects.reads.push(key.counts_digest());
            }
            let Some(now) = met.now else {
                if !met.scanned {
                    effects.reads.push(key.digest());
                }
                continue;
            };
            let after = now.map(Stored::encode);
            let same = match (&met.before, &after) {
                (Some(before), Some(after)) => before.bytes == after.bytes,
                (None, None) => true,
                _ => false,
            };
            if same {
                effects.reads.push(key.digest());
                continue;
            }
            let is_write = met.is_written || met.delta.is_none();
            if !is_write {
                effects.reads.push(key.digest());
            } else if matches!(key, RowKey::Inode(_)) && (met.before.is_none() || after.is_none()) {
                // Whoever counts in a directory depends on its being there.
                effects.reads.push(key.counts_digest());
            }
            effects.writes.push(Effect {
                key,
                before: met.before,
                after,
                is_write,
                delta: met.delta.filter(|delta| *delta != Delta::default()),
            });
        }
        effects
    }
}
