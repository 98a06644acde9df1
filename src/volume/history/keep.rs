//! What goes to history as undo records and removed nodes are given up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::super::overlay::Overlay;
use super::super::record::Record;
use super::super::rows::{RowKey, Value};
use super::super::view::{as_inode, is_private};
use super::super::{Result, Volume};
use super::{
    EXTENT_TAG, GONE_EXTENT_TAG, GONE_TAG, GONE_XATTR_TAG, Gone, Lost, Parts, Replaced, Times,
    VERSION_TAG, Version, extent_key, lost_key, node_prefix, version_key,
};
use crate::base::{Ino, OpId};
use crate::store::{Batch, Table, codec};

/// Where the disk takes less than this, nothing goes to history: removing frees it.
const ROOM_BYTES: u64 = 32 << 20;

/// Bytes of extents that are put in one batch, about.
const STEP_BYTES: usize = 1 << 20;

impl Volume {
    /// Puts into history what some settled ops replaced and removed, whose undo records are about to go with
    /// the same batch. What one op replaced may be more than a batch takes: the most of it goes ahead.
    pub(in super::super) fn keep_replaced<'a>(
        &self,
        ids: impl Iterator<Item = &'a OpId>,
        batch: &mut Batch,
    ) -> Result<()> {
        if !self.keeps_history() {
            return Ok(());
        }
        if !self.has_history_room()? {
            return self.forget_versions(ids);
        }
        let mut keeper = Keeper {
            volume: self,
            times: self.times(),
            kept: BTreeMap::new(),
            bytes: 0,
        };
        for id in ids {
            if let Some(record) = Record::load(&*self.view.rows, *id)? {
                keeper.keep(*id, &record, batch)?;
            }
        }
        Ok(())
    }

    /// Puts into history the rows of removed nodes that an overlay is about to remove.
    pub(in super::super) fn keep_removed(
        &self,
        overlay: &Overlay,
        batch: &mut Batch,
        times: &mut Option<RemovalTimes<'_>>,
    ) -> Result<()> {
        let Some(times) = times else { return Ok(()) };
        let mut kept: BTreeMap<Ino, bool> = BTreeMap::new();
        let gone = overlay.rows().iter().filter(|(_, row)| row.now.is_none());
        for (key, _) in gone {
            let (RowKey::Inode(ino) | RowKey::Extent(ino, _) | RowKey::Xattr(ino, _)) = key else {
                continue;
            };
            if !kept.contains_key(ino) {
                kept.insert(*ino, self.is_history(*ino)?);
            }
            if kept.get(ino) != Some(&true) {
                continue;
            }
            let Some(row) = self.view.row(key)? else {
                continue;
            };
            match key {
                RowKey::Inode(_) => {
                    let removed = self.view.row(&RowKey::Orphan(*ino))?;
                    let by = match removed.as_ref().map(|row| &row.value) {
                        Some(Value::Orphan(removed)) => removed.by,
                        _ => continue,
                    };
                    let gone = Gone {
                        inode: row.bytes.clone(),
                        by,
                        at_ms: times.0.of(by)?,
                    };
                    let key = node_prefix(GONE_TAG, *ino);
                    batch.put(Table::History, key, codec::encode(&gone));
                }
                RowKey::Extent(_, offset) => {
                    let mut key = node_prefix(GONE_EXTENT_TAG, *ino);
                    key.extend_from_slice(&offset.to_be_bytes());
                    batch.put_bytes(Table::History, key, row.bytes.clone());
                }
                RowKey::Xattr(_, hash) => {
                    let mut key = node_prefix(GONE_XATTR_TAG, *ino);
                    key.extend_from_slice(&hash.0);
                    batch.put_bytes(Table::History, key, row.bytes.clone());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns what tells when nodes were removed, where that is history.
    pub(in super::super) fn removal_times(&self) -> Result<Option<RemovalTimes<'_>>> {
        let is_kept = self.keeps_history() && self.has_history_room()?;
        Ok(is_kept.then(|| RemovalTimes(self.times())))
    }

    /// Tells whether there is room for more of it. Where there is not it is told that what is replaced and
    /// removed now cannot be had back.
    fn has_history_room(&self) -> Result<bool> {
        let has_room = self.history.is_beside || self.view.rows.has_room(ROOM_BYTES);
        if !has_room {
            let short_ms = &self.history.short_ms;
            short_ms.fetch_max(self.history_now()?, Ordering::Relaxed);
        }
        Ok(has_room)
    }

    /// Gives up the versions of those of some nodes that are gone, as they were not kept themselves.
    pub(in super::super) fn forget_gone(&self, nodes: &[Ino]) -> Result<()> {
        if !self.keeps_history() {
            return Ok(());
        }
        for ino in nodes {
            if self.view.row(&RowKey::Inode(*ino))?.is_some() {
                continue;
            }
            self.drop_versions(*ino)?;
            // A long one whose first part went when there was room still.
            let rows = &self.view.rows;
            let gone = node_prefix(GONE_TAG, *ino);
            if rows.get(Table::History, &gone)?.is_none() {
                for tag in [GONE_EXTENT_TAG, GONE_XATTR_TAG] {
                    self.drop_rows(&node_prefix(tag, *ino))?;
                }
            }
        }
        Ok(())
    }

    fn drop_versions(&self, ino: Ino) -> Result<()> {
        for tag in [VERSION_TAG, EXTENT_TAG] {
            self.drop_rows(&node_prefix(tag, ino))?;
        }
        Ok(())
    }

    /// Gives up all versions of the files of which some ops replaced content, as what these did is not kept:
    /// what was before could be had back by way of that alone.
    fn forget_versions<'a>(&self, ids: impl Iterator<Item = &'a OpId>) -> Result<()> {
        let mut files = BTreeSet::new();
        for id in ids {
            if let Some(record) = Record::load(&*self.view.rows, *id)? {
                let contents = Parts::of(*id, &record)?.contents;
                files.extend(contents.into_iter().map(|content| content.ino));
            }
        }
        files
            .into_iter()
            .try_for_each(|ino| self.drop_versions(ino))
    }

    /// Says whether a removed node is one that people had: what stood aside for another that says the same is
    /// there by that.
    fn is_history(&self, ino: Ino) -> Result<bool> {
        let row = self.view.row(&RowKey::Inode(ino))?;
        let inode = row.as_ref().map(as_inode).transpose()?;
        Ok(!is_private(ino) && inode.is_some_and(|inode| inode.kin.twin.is_none()))
    }
}

/// When nodes were removed.
pub(in super::super) struct RemovalTimes<'a>(Times<'a>);

/// Puts records into history.
struct Keeper<'a> {
    volume: &'a Volume,
    times: Times<'a>,
    /// The versions that were put, and whether the op emptied the file.
    kept: BTreeMap<(Ino, OpId), bool>,
    /// Bytes of extents in the batch.
    bytes: usize,
}

impl Keeper<'_> {
    fn keep(&mut self, id: OpId, record: &Record, batch: &mut Batch) -> Result<()> {
        let parts = Parts::of(id, record)?;
        for content in parts.contents {
            self.keep_content(id, record, content, batch)?;
        }
        for (parent, hash, entry) in parts.lost {
            let at_ms = self.times.of(id)?;
            let lost = codec::encode(&Lost { entry, at_ms });
            batch.put(Table::History, lost_key(parent, hash, id), lost);
        }
        Ok(())
    }

    fn keep_content(
        &mut self,
        id: OpId,
        record: &Record,
        content: Replaced,
        batch: &mut Batch,
    ) -> Result<()> {
        let Replaced {
            ino, image, inode, ..
        } = content;
        let of = inode.written_by;
        let below = self.below(ino, of)?;
        let empties = record.kind.as_emptying().is_some();
        // A long file is emptied in steps.
        let is_cut_on = below == Some(true) && empties && of.log == id.log;
        let passes = content.passes || is_cut_on;
        if passes && below.is_none() {
            // Nothing is behind it.
            return Ok(());
        }
        for (key, before) in &record.writes {
            if let RowKey::Extent(at, offset) = key
                && *at == ino
            {
                self.bytes += before.as_ref().map_or(0, Bytes::len) + EXTENT_ROOM_BYTES;
                let value = codec::encode(before);
                batch.put(Table::History, extent_key(ino, id, *offset), value);
                if self.bytes > STEP_BYTES {
                    // Without the row of the version they count for nothing, and are put again.
                    self.flush(batch)?;
                }
            }
        }
        let version = Version {
            image,
            of,
            at_ms: self.times.of(id)?,
            passes,
            empties,
            merges: false,
        };
        let value = codec::encode(&version);
        batch.put(Table::History, version_key(ino, id), value);
        self.kept.insert((ino, id), empties);
        Ok(())
    }

    /// Says whether the op that made a content emptied the file, where there is a row that leads on from it.
    fn below(&self, ino: Ino, of: OpId) -> Result<Option<bool>> {
        if let Some(empties) = self.kept.get(&(ino, of)) {
            return Ok(Some(*empties));
        }
        let row = self.volume.version_row(ino, of)?;
        Ok(row.map(|version| version.empties))
    }

    fn flush(&mut self, batch: &mut Batch) -> Result<()> {
        let rows = &self.volume.view.rows;
        let _state = self.volume.state.lock();
        rows.commit(std::mem::take(batch))?;
        self.bytes = 0;
        Ok(())
    }
}

/// What the row of an extent takes beside the extent, about.
const EXTENT_ROOM_BYTES: usize = 48;
