//! Collection: which chunks anything names here.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;

use super::record::Record;
use super::rows::{RowKey, Stored, Value};
use super::segments::open;
use super::types::Source;
use super::view::View;
use super::{Result, Volume, VolumeError};
use crate::base::{ChunkId, Ino, LogId, OpId};
use crate::replica::Named;
use crate::store::Table;

/// Records of ops that are read under one look at their table.
const RECORDS_SLICE: usize = 1024;

impl Volume {
    /// Returns which chunks anything names here as of now: files, what undo may bring back, what is known
    /// and not folded. Reads the places of all contents: some seconds for a million files. Nothing is
    /// folded meanwhile; own changes go on, and what they replace is found where it is kept for undo.
    ///
    /// On return what is folded is durable: a power cut does not bring back what is not named now.
    ///
    /// # Errors
    ///
    /// Where a segment cannot be read, as what it names cannot be told, and the store's.
    pub fn named(&self) -> Result<Named> {
        let _feed = self.feed.lock();
        let mut named = Named::default();
        let progress = {
            let state = self.state.lock();
            // While nobody else writes, no op is on its way.
            named.base_line = match state.trimmed.alone {
                true => u64::MAX,
                false => state.chain.committed.base_line,
            };
            state.progress.clone()
        };
        let gone = self.nameless()?;
        self.each_chunk(&self.view, &mut |ino, id| match gone.contains(&ino) {
            false => named.files.insert(id),
            true => named.past.insert(id),
        })?;
        self.each_chunk(&self.aside.view, &mut |_, id| named.files.insert(id))?;
        // Behind the files: an own change moves what it replaces from there to here.
        self.each_record(&mut |record| {
            for (key, before) in &record.writes {
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
            Ok(())
        })?;
        for (log, head) in self.config.log.vector() {
            let folded = progress.get(&log).map_or(0, |at| at.seg_no);
            self.each_unfolded(log, folded, head, &mut |id| named.past.insert(id))?;
        }
        self.sync()?;
        Ok(named)
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
    fn each_record(&self, each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
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
                    each(record)?;
                }
            }
        }
        Ok(())
    }

    /// Reads which chunks the segments of a log name behind `folded`, up to `head`.
    fn each_unfolded(
        &self,
        log: LogId,
        folded: u64,
        head: u64,
        each: &mut dyn FnMut(&ChunkId),
    ) -> Result<()> {
        for seg_no in folded.saturating_add(1)..=head {
            let Some(segment) = self.config.log.get(log, seg_no)? else {
                continue;
            };
            match open(&self.config.keys, &segment) {
                Ok(ops) => {
                    for (_, kind) in &ops {
                        kind.shape().chunks().for_each(|id| each(&id));
                    }
                }
                // By its author's fault it has no ops, for anybody.
                Err(VolumeError::BadSegment { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
