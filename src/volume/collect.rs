//! Collection: which chunks anything names here.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;

use super::op::OpKind;
use super::record::Record;
use super::rows::{RowKey, Stored, Value};
use super::segments::open;
use super::snapshot::{Trees, key_of_tree};
use super::types::Source;
use super::view::{View, private_of};
use super::{Result, Volume, VolumeError};
use crate::base::{ChunkId, ChunkSet, Ino, LogId, OpId};
use crate::replica::Named;
use crate::store::Table;

/// How long a look at all that is named waits for what is being folded.
const FEED_WAIT_MAX: Duration = Duration::from_millis(250);

/// Records of ops that are read under one look at their table.
const RECORDS_SLICE: usize = 1024;

impl Volume {
    /// Returns which chunks anything names here as of now: files, what undo may bring back, what is known
    /// and not folded. Reads the places of all contents: some seconds for a million files. Nothing is
    /// folded meanwhile; own changes go on, are noted, and what they replace is found where it is kept for
    /// undo.
    ///
    /// On return what is folded is durable: a power cut does not bring back what is not named now.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Busy`] while something is folded, or another looks, and until it is known what
    /// snapshots name; where a segment cannot be read, as
    /// what it names cannot be told; and the store's.
    pub fn named(&self) -> Result<Named> {
        let feed = self.feed.try_lock_for(FEED_WAIT_MAX);
        let _feed = feed.ok_or(VolumeError::Busy)?;
        // What is here says nothing of what is named.
        if self.awaits_checkpoint()? {
            return Err(VolumeError::Busy);
        }
        // Before all else is read for nothing.
        if !self.knows_snapshots()? {
            return Err(VolumeError::Busy);
        }
        let mut named = Named::default();
        let progress = {
            let mut state = self.state.lock();
            state.named = Some(ChunkSet::default());
            named.base_line = state.chain.committed.base_line;
            named.is_alone = state.trimmed.alone;
            state.progress.clone()
        };
        let noting = Noting(self);
        let gone = self.nameless()?;
        self.each_chunk(&self.view, &mut |ino, id| match gone.contains(&ino) {
            false => named.files.insert(id),
            true => named.past.insert(id),
        })?;
        self.each_chunk(&self.aside.view, &mut |_, id| named.files.insert(id))?;
        self.each_of_trees(&mut |id| named.files.insert(id))?;
        let (mut trees, mut gone_trees) = (self.snapshot_trees()?, Trees::new());
        // Behind the files: an own change moves what it replaces from there to here.
        self.each_record(&mut |_, record| {
            for (key, before) in &record.writes {
                if let (RowKey::Snapshot(_), Some(before)) = (key, before)
                    && let Value::Snapshot(kept) = &Stored::decode(key, before.clone())?.value
                {
                    gone_trees.insert(key_of_tree(&kept.tree), kept.tree);
                }
                if let (RowKey::Extent(..), Some(before)) = (key, before)
                    && let Value::Extent(extent) = &Stored::decode(key, before.clone())?.value
                    && let Source::Chunk { id, .. } = &extent.src
                {
                    named.past.insert(id);
                }
            }
            record
                .kind
                .shape()
                .chunks()
                .for_each(|id| named.past.insert(&id));
            if let Some(kept) = record.kind.as_snapshot() {
                gone_trees.insert(key_of_tree(&kept.tree), kept.tree);
            }
            Ok(())
        })?;
        // Behind the records: what is given up there goes to history.
        self.each_past_chunk(&mut |id| named.history.insert(id))?;
        for (log, head) in self.config.log.vector() {
            let folded = progress.get(&log).map_or(0, |at| at.seg_no);
            self.each_unfolded(log, folded, head, &mut |kind| {
                kind.shape().chunks().for_each(|id| named.past.insert(&id));
                if let Some(kept) = kind.as_snapshot() {
                    trees.insert(key_of_tree(&kept.tree), kept.tree);
                }
            })?;
        }
        self.name_snapshots(&trees, &gone_trees, &mut named.history)?;
        named.noted = self.state.lock().named.take().unwrap_or_default();
        drop(noting);
        self.sync()?;
        Ok(named)
    }

    /// Returns chunks that this machine alone may name, whatever all have folded: those of files without a
    /// name that are open here, and of what was set aside.
    pub fn named_here(&self) -> Result<Vec<ChunkId>> {
        let mut ids = Vec::new();
        let all = 0..u64::MAX;
        let gone = self
            .nameless()?
            .into_iter()
            .filter(|ino| self.is_held(*ino));
        for ino in gone.chain(self.view.private_files().into_iter().map(private_of)) {
            self.view.each_extent(ino, all.clone(), &mut |extent| {
                if let Source::Chunk { id, .. } = extent.src {
                    ids.push(id);
                }
                ControlFlow::Continue(())
            })?;
        }
        self.each_chunk(&self.aside.view, &mut |_, id| ids.push(*id))?;
        Ok(ids)
    }

    /// Returns, of those chunks that files name, one file each.
    pub fn who_names(&self, ids: &[ChunkId]) -> Result<BTreeMap<ChunkId, Ino>> {
        let mut named = BTreeMap::new();
        if ids.is_empty() {
            return Ok(named);
        }
        let wanted: HashSet<&ChunkId> = ids.iter().collect();
        self.each_chunk(&self.view, &mut |ino, id| {
            if wanted.contains(id) {
                named.insert(*id, ino);
            }
        })?;
        Ok(named)
    }

    fn each_chunk(&self, view: &View, each: &mut dyn FnMut(Ino, &ChunkId)) -> Result<()> {
        let (from, to) = (
            RowKey::Extent(Ino(0), 0),
            RowKey::Extent(Ino(u64::MAX), u64::MAX),
        );
        view.scan(&from, &to, &mut |key, row| {
            if let (RowKey::Extent(ino, _), Value::Extent(extent)) = (key, &row.value)
                && let Source::Chunk { id, .. } = &extent.src
            {
                each(ino, id);
            }
            ControlFlow::Continue(())
        })
    }

    /// Returns the nodes without a name.
    fn nameless(&self) -> Result<BTreeSet<Ino>> {
        let mut gone = BTreeSet::new();
        let (from, to) = (RowKey::Orphan(Ino(0)), RowKey::Orphan(Ino(u64::MAX)));
        self.view.scan(&from, &to, &mut |key, _| {
            if let RowKey::Orphan(ino) = key {
                gone.insert(ino);
            }
            ControlFlow::Continue(())
        })?;
        Ok(gone)
    }

    /// Reads what is kept for undo of all ops.
    pub(super) fn each_record(
        &self,
        each: &mut dyn FnMut(OpId, Record) -> Result<()>,
    ) -> Result<()> {
        let rows = &*self.view.rows;
        let mut from = Some(OpId::default());
        while let Some(start) = from {
            let mut ids = Vec::with_capacity(RECORDS_SLICE);
            rows.scan_keys(Table::Op, &start.to_key(), None, &mut |key| {
                ids.extend(OpId::from_key(key));
                match ids.len() < RECORDS_SLICE {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            from = ids.last().copied().map(super::trim::after);
            from = from.filter(|_| ids.len() == RECORDS_SLICE);
            for id in ids {
                // One that is gone meanwhile was settled: nobody looks back to it.
                if let Some(record) = Record::load(rows, id)? {
                    each(id, record)?;
                }
            }
        }
        Ok(())
    }

    /// Reads which ops the segments of a log hold behind `folded`, up to `head`.
    fn each_unfolded(
        &self,
        log: LogId,
        folded: u64,
        head: u64,
        each: &mut dyn FnMut(&OpKind),
    ) -> Result<()> {
        for seg_no in folded.saturating_add(1)..=head {
            let Some(segment) = self.config.log.get(log, seg_no)? else {
                continue;
            };
            match open(&self.config.keys, &segment) {
                Ok(ops) => {
                    ops.iter().for_each(|(_, kind)| each(kind));
                }
                // By its author's fault it has no ops, for anybody.
                Err(VolumeError::BadSegment { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Ends the noting of chunks on each way out.
struct Noting<'a>(&'a Volume);

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().named = None;
    }
}
