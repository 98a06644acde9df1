//! Writing, and what crosses it.
//!
//! Each content of a file is named by the op that made it. A write says which content its author
//! built on; where that is not the present one, two lineages crossed. The later op in the total
//! order keeps the file, the other lineage goes on in a conflict file: `Fork` rows say where its
//! versions are, so that one lineage never makes two files.

use std::collections::BTreeMap;

use super::{Fold, Result, WRONG_KIND};
use crate::base::{Ino, OpId, Timespec};
use crate::volume::extents::{check_pieces, overwrite, same_content, stored_bytes, touched};
use crate::volume::op::{Append, OpKind, Write, fork_ino_of};
use crate::volume::rows::{Fork, RowKey, Stored, Value};
use crate::volume::types::{Conflict, ConflictKind, Extent, FileKind, Inode, Piece, Place};
use crate::volume::view::xattr_range;

/// Attributes that go with new content.
struct Stamps {
    mtime: Timespec,
    ctime: Timespec,
    mode: Option<u32>,
}

/// A content that a file had before.
struct Past {
    extents: BTreeMap<u64, Extent>,
    size: u64,
    /// The versions made since, newest first; true for those made by appending.
    since: Vec<(OpId, bool)>,
}

impl Fold<'_> {
    pub(super) fn write(&mut self, write: &Write) -> Result<()> {
        let Some((named, mut node, base)) = self.target(write.ino, write.base)? else {
            return Ok(());
        };
        let stamps = Stamps {
            mtime: write.mtime,
            ctime: write.ctime,
            mode: write.mode,
        };
        if node.version == base || Self::is_private(&node) {
            self.splice(&mut node, &write.pieces, write.size)?;
        } else {
            let past = self.walk_back(&node, base)?;
            self.cross(&mut node, past, &write.pieces, write.size, write.ctime)?;
        }
        self.finish_write(named, node, &stamps)
    }

    pub(super) fn append(&mut self, append: &Append) -> Result<()> {
        let Some((named, mut node, base)) = self.target(append.ino, append.base)? else {
            return Ok(());
        };
        let stamps = Stamps {
            mtime: append.mtime,
            ctime: append.ctime,
            mode: append.mode,
        };
        let past = if node.version == base || Self::is_private(&node) {
            None
        } else {
            Some(self.walk_back(&node, base)?)
        };
        let crossed = match past {
            None => None,
            Some(None) => Some(None),
            Some(Some(past)) => {
                let mut appends_only = true;
                for (version, is_append) in &past.since {
                    appends_only &= *is_append || self.is_forked(node.ino, *version)?;
                }
                if appends_only { None } else { Some(Some(past)) }
            }
        };
        match crossed {
            None => {
                let start = node.size;
                let pieces = shifted(&append.pieces, start);
                let size = start.saturating_add(append.len);
                if check_pieces(&pieces, size).is_some() {
                    return Ok(());
                }
                self.splice(&mut node, &pieces, size)?;
            }
            Some(past) => {
                let start = past.as_ref().map_or(node.size, |past| past.size);
                let pieces = shifted(&append.pieces, start);
                let size = start.saturating_add(append.len);
                if check_pieces(&pieces, size).is_some() {
                    return Ok(());
                }
                self.cross(&mut node, past, &pieces, size, append.ctime)?;
            }
        }
        self.finish_write(named, node, &stamps)
    }

    /// Returns the file that a write named, the one that its base is in now, and that base.
    fn target(&mut self, ino: Ino, base: OpId) -> Result<Option<(Ino, Inode, OpId)>> {
        let Some(node) = self.inode(ino)?.filter(|n| n.kind == FileKind::File) else {
            return Ok(None);
        };
        let named = node.ino;
        if node.version == base || Self::is_private(&node) {
            return Ok(Some((named, node, base)));
        }
        let (holder, base) = self.locate(named, base)?;
        if holder != named
            && let Some(fork) = self.row_of(holder)?
        {
            return Ok(Some((named, fork, base)));
        }
        Ok(Some((named, node, base)))
    }

    fn finish_write(&mut self, named: Ino, mut node: Inode, stamps: &Stamps) -> Result<()> {
        if node.ino != named {
            // Whoever builds on this content builds on the conflict file.
            let key = RowKey::Fork(named, self.id);
            self.tx.put(key, Value::Fork(Fork::File(node.ino)))?;
        }
        node.mtime = stamps.mtime;
        node.ctime = stamps.ctime;
        node.mode = stamps.mode.unwrap_or(node.mode) & 0o7777;
        node.version = self.id;
        node.meta = self.id;
        let gone = node.is_orphan() && !Self::is_private(&node);
        let (ino, home) = (node.ino, node.home.clone());
        self.save(node)?;
        if gone {
            self.revive(ino, home, stamps.ctime)?;
        }
        Ok(())
    }

    /// Brings a removed file back that someone wrote who did not know.
    fn revive(&mut self, ino: Ino, home: Option<Place>, time: Timespec) -> Result<()> {
        let place = self.beside(home, ino, time)?;
        self.place(ino, &place, time)?;
        self.conflict(ConflictKind::WriteAgainstUnlink, ino, Some(place))
    }

    /// Returns a place with a live directory: `home`, or the root under the node's number.
    fn beside(&mut self, home: Option<Place>, ino: Ino, time: Timespec) -> Result<Place> {
        Ok(match home {
            Some(home) => Place {
                parent: self.live_dir(home.parent, time)?,
                name: home.name,
            },
            None => Place {
                parent: Ino::ROOT,
                name: format!("{:016x}", ino.0).into(),
            },
        })
    }

    /// Replaces ranges of a file and sets its size.
    fn splice(&mut self, node: &mut Inode, pieces: &[Piece], size: u64) -> Result<()> {
        if let Some((start, end)) = touched(pieces, node.size, size) {
            let old = if start >= node.size {
                Vec::new()
            } else {
                self.extents_in(node.ino, start, end)?
            };
            let new = overwrite(old.clone(), pieces, size);
            self.replace_extents(node, &old, new)?;
        }
        node.size = size;
        Ok(())
    }

    /// Returns the extents that overlap a range.
    fn extents_in(&mut self, ino: Ino, start: u64, end: u64) -> Result<Vec<Extent>> {
        let mut extents = Vec::new();
        if start > 0
            && let Some((_, Value::Extent(before))) = self
                .tx
                .last_before(RowKey::Extent(ino, 0), RowKey::Extent(ino, start))?
            && before.end() > start
        {
            extents.push(before);
        }
        let (from, to) = (RowKey::Extent(ino, start), RowKey::Extent(ino, end));
        for (_, value) in self.tx.scan(from, to)? {
            if let Value::Extent(extent) = value {
                extents.push(extent);
            }
        }
        Ok(extents)
    }

    /// Puts `new` in the place of `old`, all the extents that overlap one range.
    fn replace_extents(
        &mut self,
        node: &mut Inode,
        old: &[Extent],
        new: Vec<Extent>,
    ) -> Result<()> {
        node.stored = node
            .stored
            .saturating_sub(stored_bytes(old))
            .saturating_add(stored_bytes(&new));
        let mut before: BTreeMap<u64, &Extent> =
            old.iter().map(|extent| (extent.offset, extent)).collect();
        for extent in new {
            let key = RowKey::Extent(node.ino, extent.offset);
            match before.remove(&extent.offset) {
                Some(same) if *same == extent => {}
                Some(_) => self.tx.put(key, Value::Extent(extent))?,
                None => self.tx.put_fresh(key, Value::Extent(extent)),
            }
        }
        for offset in before.into_keys() {
            self.tx.delete(RowKey::Extent(node.ino, offset))?;
        }
        Ok(())
    }

    /// Returns the content of a file as of `base`, by the before-images of the ops since; `None`
    /// where that is not in its past.
    fn walk_back(&mut self, node: &Inode, base: OpId) -> Result<Option<Past>> {
        let all = self.extents_in(node.ino, 0, u64::MAX)?;
        let mut past = Past {
            extents: all.into_iter().map(|e| (e.offset, e)).collect(),
            size: node.size,
            since: Vec::new(),
        };
        let mut version = node.version;
        while version != base {
            if version < base {
                return Ok(None);
            }
            let Some(record) = self.tx.record(version)? else {
                return Ok(None);
            };
            past.since
                .push((version, matches!(*record.kind, OpKind::Append(_))));
            let mut before = None;
            for (key, image) in &record.writes {
                match (key, image) {
                    (RowKey::Inode(ino), Some(image)) if *ino == node.ino => {
                        before = Some(Stored::decode(key, image.clone())?);
                    }
                    (RowKey::Extent(ino, offset), None) if *ino == node.ino => {
                        past.extents.remove(offset);
                    }
                    (RowKey::Extent(ino, offset), Some(image)) if *ino == node.ino => {
                        let Value::Extent(extent) = &Stored::decode(key, image.clone())?.value
                        else {
                            return Err(WRONG_KIND);
                        };
                        past.extents.insert(*offset, extent.clone());
                    }
                    _ => {}
                }
            }
            match before.as_ref().map(|row| &row.value) {
                Some(Value::Inode(inode)) if inode.version < version => {
                    version = inode.version;
                    past.size = inode.size;
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(past))
    }

    fn is_forked(&mut self, ino: Ino, version: OpId) -> Result<bool> {
        Ok(self.tx.get(RowKey::Fork(ino, version))?.is_some())
    }

    /// Applies a write whose author had not seen the present content: that goes aside, unless
    /// nothing is lost without it.
    fn cross(
        &mut self,
        node: &mut Inode,
        past: Option<Past>,
        pieces: &[Piece],
        size: u64,
        time: Timespec,
    ) -> Result<()> {
        let current = self.extents_in(node.ino, 0, u64::MAX)?;
        // A base that nobody has any more: on top of what is here, which is kept aside as well.
        let past = past.unwrap_or_else(|| Past {
            extents: current.iter().map(|e| (e.offset, e.clone())).collect(),
            size: node.size,
            since: vec![(node.version, false)],
        });
        let built: Vec<Extent> = past.extents.into_values().collect();
        let new = overwrite(built, pieces, size);
        if node.size == size && same_content(&new, &current) {
            let key = RowKey::Fork(node.ino, node.version);
            return self.tx.put(key, Value::Fork(Fork::Same(self.id)));
        }
        if node.size > 0 {
            self.set_aside(node, &current, &past.since, time)?;
        }
        self.replace_extents(node, &current, new)?;
        node.size = size;
        Ok(())
    }

    /// Keeps the present content of a file in a conflict file beside it.
    fn set_aside(
        &mut self,
        node: &Inode,
        current: &[Extent],
        since: &[(OpId, bool)],
        time: Timespec,
    ) -> Result<()> {
        let ino = fork_ino_of(self.id);
        let fork = Inode {
            ino,
            nlink: 0,
            created_by: self.id,
            meta: self.id,
            home: None,
            ..node.clone()
        };
        for (version, _) in since {
            let key = RowKey::Fork(node.ino, *version);
            if self.tx.get(key)?.is_none() {
                self.tx.put(key, Value::Fork(Fork::File(ino)))?;
            }
        }
        for extent in current {
            let key = RowKey::Extent(ino, extent.offset);
            self.tx.put(key, Value::Extent(extent.clone()))?;
        }
        let (from, to) = xattr_range(node.ino);
        for (_, value) in self.tx.scan(from, to)? {
            if let Value::Xattr(xattr) = value {
                let key = RowKey::Xattr(ino, self.tx.dir_key(ino, &xattr.name));
                self.tx.put(key, Value::Xattr(xattr))?;
            }
        }
        self.save(fork.clone())?;
        let home = self.beside(node.home.clone(), node.ino, time)?;
        let device = node.version.device;
        let aside = self.attach_aside(&fork, &home, device, time)?;
        self.conflict_with(Conflict {
            op: self.id,
            kind: ConflictKind::Content,
            ino: node.ino,
            place: Some(home),
            other: Some(ino),
            other_name: Some(aside.name),
            device,
            resolved: false,
        })
    }
}

/// Returns pieces moved to where an append starts.
fn shifted(pieces: &[Piece], start: u64) -> Vec<Piece> {
    pieces
        .iter()
        .map(|piece| Piece {
            offset: piece.offset.saturating_add(start),
            ..piece.clone()
        })
        .collect()
}
