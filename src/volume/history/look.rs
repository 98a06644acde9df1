//! Reading history back: the versions of a file, and what was removed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::super::record::Record;
use super::super::rows::{RowKey, Stored, Value, Xattr};
use super::super::types::{DirKey, Dirent, Extent, FileKind, Inode};
use super::super::view::{as_inode, xattr_range};
use super::super::{Result, Volume, VolumeError};
use super::{
    BAD_KEY, EXTENT_TAG, GONE_EXTENT_TAG, GONE_TAG, GONE_XATTR_TAG, Gone, LOST_TAG, Lost, Parts,
    Version, decode, end_of, extents_prefix, ino_in, node_prefix, offset_in, op_in, version_key,
};
use crate::base::{ChunkId, Ino, OpId};
use crate::store::Table;
use crate::volume::types::Source;

/// What takes the key and the value of a row.
type RowTaker<'a> = dyn FnMut(&[u8], &[u8]) -> Result<()> + 'a;

/// Most contents that are gone back through, one after the other.
const STEPS_MAX: usize = 1 << 20;

/// How often a file is looked at that is written meanwhile.
const LOOKS_MAX: usize = 8;

/// A content that a file has or had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// The inode of then.
    pub inode: Inode,
    /// The op that made the content: when, and by whom.
    pub by: OpId,
    /// The op that replaced it, and when; `None` for the last one.
    pub until: Option<(OpId, u64)>,
}

/// What a file held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastContent {
    /// The inode of then.
    pub inode: Inode,
    /// Its extents, in order.
    pub extents: Vec<Extent>,
}

/// An entry that was removed, or whose place another node took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The directory.
    pub parent: Ino,
    /// The name in it.
    pub name: Bytes,
    /// The node.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// The op that did.
    pub by: OpId,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
}

/// What was removed and can be had back: that of which undo records are here, and the rest by rows.
#[derive(Debug)]
pub struct Removals<'a> {
    volume: &'a Volume,
    recent: BTreeMap<Ino, Vec<Removed>>,
}

/// One step back from a content.
struct Step {
    inode: Inode,
    at_ms: u64,
    is_version: bool,
    /// Where the extents of before are; the record has them where there is one.
    record: Option<Record>,
}

impl Volume {
    /// Returns a node that is there, or that was removed and can be had back.
    pub fn node_or_gone(&self, ino: Ino) -> Result<Option<Inode>> {
        // Not what a program makes of it that has it open still.
        let row = self.view.row(&RowKey::Inode(ino))?;
        let inode = row.as_ref().map(as_inode).transpose()?;
        if let Some(inode) = inode.filter(|inode| inode.kin.twin.is_none()) {
            return Ok(Some(inode.clone()));
        }
        match self.view.inode(ino)? {
            Some(inode) => Ok(Some(inode)),
            None => self.gone_node(ino),
        }
    }

    fn gone_node(&self, ino: Ino) -> Result<Option<Inode>> {
        let row = self
            .view
            .rows
            .get(Table::History, &node_prefix(GONE_TAG, ino))?;
        let Some(row) = row else { return Ok(None) };
        let gone: Gone = decode(&row)?;
        let row = Stored::decode(&RowKey::Inode(ino), gone.inode)?;
        Ok(Some(as_inode(&row)?.clone()))
    }

    /// Says whether a directory is another one, or below it.
    pub fn is_below(&self, dir: Ino, top: Ino) -> Result<bool> {
        self.view.is_within(dir, top)
    }

    /// Returns the contents that a file has or had, newest first; none where it is not known.
    pub fn revisions(&self, ino: Ino) -> Result<Vec<Revision>> {
        let Some(head) = self.node_or_gone(ino)? else {
            return Ok(Vec::new());
        };
        let mut revisions = vec![Revision {
            by: head.written_by,
            until: None,
            inode: head.clone(),
        }];
        let mut at = head;
        for _ in 0..STEPS_MAX {
            let replaced_by = at.written_by;
            let Some(step) = self.step_back(at.ino, replaced_by)? else {
                break;
            };
            if step.is_version {
                revisions.push(Revision {
                    by: step.inode.written_by,
                    until: Some((replaced_by, step.at_ms)),
                    inode: step.inode.clone(),
                });
            }
            at = step.inode;
        }
        Ok(revisions)
    }

    /// Returns what a file held when its content was that which the op `by` made; `None` where that cannot be
    /// told any more.
    pub fn content_by(&self, ino: Ino, by: OpId) -> Result<Option<PastContent>> {
        for _ in 0..LOOKS_MAX {
            let Some(head) = self.node_or_gone(ino)? else {
                return Ok(None);
            };
            let content = self.walk_to(&head, by)?;
            let now = self.node_or_gone(ino)?;
            if now.is_some_and(|now| now.written_by == head.written_by) {
                return Ok(content);
            }
        }
        Err(VolumeError::Busy)
    }

    /// Returns the extended attributes of a node that is there, or that was removed and can be had back.
    pub fn xattrs_or_gone(&self, ino: Ino) -> Result<Vec<(Bytes, Bytes)>> {
        let mut found = Vec::new();
        let (from, to) = xattr_range(ino);
        self.view.scan(&from, &to, &mut |_, row| {
            if let Value::Xattr(xattr) = &row.value {
                found.push((xattr.name.clone(), xattr.value.clone()));
            }
            ControlFlow::Continue(())
        })?;
        if found.is_empty() {
            self.scan_history(&node_prefix(GONE_XATTR_TAG, ino), &mut |_, value| {
                let xattr: Xattr = decode(value)?;
                found.push((xattr.name, xattr.value));
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Returns what was removed. Reads all undo records.
    pub fn removals(&self) -> Result<Removals<'_>> {
        let mut recent: BTreeMap<Ino, Vec<Removed>> = BTreeMap::new();
        let mut times = self.times();
        self.each_record(&mut |id, record| {
            for (parent, _, entry) in Parts::of(id, &record)?.lost {
                let at_ms = times.of(id)?;
                let removed = removed(parent, id, at_ms, &entry)?;
                recent.entry(parent).or_default().push(removed);
            }
            Ok(())
        })?;
        Ok(Removals {
            volume: self,
            recent,
        })
    }

    /// Calls `each` for the chunks that history names.
    pub(in super::super) fn each_past_chunk(&self, each: &mut dyn FnMut(&ChunkId)) -> Result<()> {
        let mut take = |extent: &Extent| {
            if let Source::Chunk { id, .. } = &extent.src {
                each(id);
            }
        };
        self.scan_history(&[EXTENT_TAG], &mut |_, value| {
            let before: Option<Bytes> = decode(value)?;
            if let Some(before) = before {
                take(&decode(&before)?);
            }
            Ok(())
        })?;
        self.scan_history(&[GONE_EXTENT_TAG], &mut |_, value| {
            take(&decode(value)?);
            Ok(())
        })
    }

    /// Returns the row that leads back from the content that an op made.
    pub(super) fn version_row(&self, ino: Ino, op: OpId) -> Result<Option<Version>> {
        let row = self.view.rows.get(Table::History, &version_key(ino, op))?;
        row.map(|row| decode(&row)).transpose()
    }

    /// Calls `f` for the rows of history whose keys begin with some bytes.
    pub(super) fn scan_history(&self, prefix: &[u8], f: &mut RowTaker<'_>) -> Result<()> {
        let mut failed = None;
        let end = end_of(prefix);
        let rows = &self.view.rows;
        rows.scan(
            Table::History,
            prefix,
            end.as_deref(),
            &mut |key, value| match f(key, value) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        failed.map_or(Ok(()), Err)
    }

    fn step_back(&self, ino: Ino, by: OpId) -> Result<Option<Step>> {
        if by == OpId::default() {
            return Ok(None);
        }
        // In this order: what is given up here goes there.
        if let Some(record) = Record::load(&*self.view.rows, by)? {
            let parts = Parts::of(by, &record)?;
            let Some(content) = parts.contents.into_iter().find(|of| of.ino == ino) else {
                return Ok(None);
            };
            return Ok(Some(Step {
                is_version: !content.passes,
                inode: content.inode,
                at_ms: self.times().of(by)?,
                record: Some(record),
            }));
        }
        let Some(version) = self.version_row(ino, by)? else {
            return Ok(None);
        };
        let row = Stored::decode(&RowKey::Inode(ino), version.image)?;
        Ok(Some(Step {
            inode: as_inode(&row)?.clone(),
            at_ms: version.at_ms,
            is_version: !version.passes && !version.merges,
            record: None,
        }))
    }

    fn walk_to(&self, head: &Inode, by: OpId) -> Result<Option<PastContent>> {
        let mut extents = self.extents_or_gone(head.ino)?;
        let mut at = head.clone();
        for _ in 0..STEPS_MAX {
            if at.written_by == by {
                return Ok(Some(PastContent {
                    inode: at,
                    extents: extents.into_values().collect(),
                }));
            }
            let replaced_by = at.written_by;
            let Some(step) = self.step_back(head.ino, replaced_by)? else {
                return Ok(None);
            };
            match &step.record {
                Some(record) => {
                    for (key, before) in &record.writes {
                        if let RowKey::Extent(ino, offset) = key
                            && *ino == head.ino
                        {
                            set(&mut extents, *offset, before.as_deref())?;
                        }
                    }
                }
                None => {
                    let prefix = extents_prefix(head.ino, replaced_by);
                    self.scan_history(&prefix, &mut |key, value| {
                        let offset = offset_in(key.get(prefix.len()..).ok_or(BAD_KEY)?)?;
                        let before: Option<Bytes> = decode(value)?;
                        set(&mut extents, offset, before.as_deref())
                    })?;
                }
            }
            at = step.inode;
        }
        Ok(None)
    }

    /// Returns the extents of a node by their offsets. Those of a removed one may be on their way from the rows
    /// of files to those of history.
    fn extents_or_gone(&self, ino: Ino) -> Result<BTreeMap<u64, Extent>> {
        let mut extents = BTreeMap::new();
        let (from, to) = (
            RowKey::Extent(ino, 0),
            RowKey::Extent(Ino(ino.0.saturating_add(1)), 0),
        );
        self.view.scan(&from, &to, &mut |_, row| {
            if let Value::Extent(extent) = &row.value {
                extents.insert(extent.offset, extent.clone());
            }
            ControlFlow::Continue(())
        })?;
        let prefix = node_prefix(GONE_EXTENT_TAG, ino);
        self.scan_history(&prefix, &mut |_, value| {
            let extent: Extent = decode(value)?;
            extents.insert(extent.offset, extent);
            Ok(())
        })?;
        Ok(extents)
    }
}

impl Removals<'_> {
    /// Returns what was removed from a directory, newest first.
    pub fn of(&self, parent: Ino) -> Result<Vec<Removed>> {
        let mut found = self.recent.get(&parent).cloned().unwrap_or_default();
        self.volume
            .scan_history(&node_prefix(LOST_TAG, parent), &mut |key, value| {
                found.push(lost(key, value)?);
                Ok(())
            })?;
        found.sort_by_key(|removed| std::cmp::Reverse((removed.at_ms, removed.by)));
        found.dedup_by(|a, b| (a.by, &a.name) == (b.by, &b.name));
        Ok(found)
    }

    /// Returns the directories from which something was removed.
    pub fn parents(&self) -> Result<Vec<Ino>> {
        let mut parents: std::collections::BTreeSet<Ino> = self.recent.keys().copied().collect();
        self.volume.scan_history(&[LOST_TAG], &mut |key, _| {
            parents.insert(ino_in(key)?.0);
            Ok(())
        })?;
        Ok(parents.into_iter().collect())
    }
}

fn set(extents: &mut BTreeMap<u64, Extent>, offset: u64, before: Option<&[u8]>) -> Result<()> {
    match before {
        Some(before) => extents.insert(offset, decode(before)?),
        None => extents.remove(&offset),
    };
    Ok(())
}

fn lost(key: &[u8], value: &[u8]) -> Result<Removed> {
    let (parent, rest) = ino_in(key)?;
    let rest = rest.get(size_of::<DirKey>()..).ok_or(BAD_KEY)?;
    let (by, _) = op_in(rest)?;
    let lost: Lost = decode(value)?;
    removed(parent, by, lost.at_ms, &lost.entry)
}

fn removed(parent: Ino, by: OpId, at_ms: u64, entry: &[u8]) -> Result<Removed> {
    let Dirent {
        name, ino, kind, ..
    } = Dirent::of_row(entry)?;
    Ok(Removed {
        parent,
        name,
        ino,
        kind,
        by,
        at_ms,
    })
}
