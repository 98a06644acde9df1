//! Collection: which chunks here no file has any more.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use super::op::OpKind;
use super::rows::{RowKey, Value};
use super::types::Source;
use super::{Result, Volume};
use crate::base::{ChunkId, Ino};

/// Chunks given up under one hold of the writer's lock.
const FORGET_SLICE: usize = 32;

impl Volume {
    /// Calls `forget` with each chunk of the local store that no file names, until it returns
    /// false; returns with how many it was called.
    ///
    /// For a volume with no other member: what another device may still ask for is not told from
    /// what nobody does. The caller protects chunks that are put from before this call on; `in_use`
    /// returns those that unwritten changes name, and is asked after the files were looked through.
    ///
    /// Mark and sweep: what the files name is read as of one moment, what ops name from before
    /// that moment on is noted, and `forget` runs while no op can be applied.
    pub fn collect(
        &self,
        in_use: impl FnOnce() -> HashSet<ChunkId>,
        mut forget: impl FnMut(ChunkId) -> bool,
    ) -> Result<usize> {
        self.state.lock().named = Some(HashSet::new());
        let noting = Noting(self);
        let mut needed = self.named_by_files()?;
        needed.extend(in_use());
        let mut unneeded = Vec::new();
        self.config.store.chunks.for_each(&mut |id, _| {
            if !needed.contains(&id) {
                unneeded.push(id);
            }
            ControlFlow::Continue(())
        })?;
        drop(needed);
        if unneeded.is_empty() {
            return Ok(0);
        }
        // Before: a power cut must not bring back a file as it was with what is given up now.
        self.sync()?;
        let mut count = 0;
        for slice in unneeded.chunks(FORGET_SLICE) {
            let state = self.state.lock();
            let is_named = |id| state.named.as_ref().is_some_and(|named| named.contains(id));
            let mut unnamed = slice.iter().filter(|id| !is_named(id));
            let goes_on = unnamed.all(|id| {
                let goes_on = forget(*id);
                count += usize::from(goes_on);
                goes_on
            });
            drop(state);
            if !goes_on {
                break;
            }
        }
        drop(noting);
        Ok(count)
    }

    /// Returns, of those chunks that files name, one file each.
    pub fn who_names(&self, ids: &[ChunkId]) -> Result<BTreeMap<ChunkId, Ino>> {
        let mut named = BTreeMap::new();
        if ids.is_empty() {
            return Ok(named);
        }
        let wanted: HashSet<&ChunkId> = ids.iter().collect();
        let (from, to) = (
            RowKey::Extent(Ino(0), 0),
            RowKey::Extent(Ino(u64::MAX), u64::MAX),
        );
        self.view.scan(&from, &to, &mut |key, row| {
            if let (RowKey::Extent(ino, _), Value::Extent(extent)) = (key, &row.value)
                && let Source::Chunk { id, .. } = extent.src
                && wanted.contains(&id)
            {
                named.insert(id, ino);
            }
            ControlFlow::Continue(())
        })?;
        Ok(named)
    }

    fn named_by_files(&self) -> Result<HashSet<ChunkId>> {
        let mut named = HashSet::new();
        let (from, to) = (
            RowKey::Extent(Ino(0), 0),
            RowKey::Extent(Ino(u64::MAX), u64::MAX),
        );
        self.view.scan(&from, &to, &mut |_, row| {
            if let Value::Extent(extent) = &row.value
                && let Source::Chunk { id, .. } = extent.src
            {
                named.insert(id);
            }
            ControlFlow::Continue(())
        })?;
        Ok(named)
    }
}

/// Ends the noting of chunks on each way out.
struct Noting<'a>(&'a Volume);

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().named = None;
    }
}

/// Adds the chunks that an op names.
pub(super) fn note(named: &mut HashSet<ChunkId>, kind: &OpKind) {
    named.extend(kind.shape().chunks());
}
