//! Writing, and what crosses it.
//!
//! Each content of a file is named by the op that made it. A write says which content its author
//! built on; where that is not the present one, two lineages crossed. The one that began later by its
//! stamp keeps the file, the other one goes on in a conflict file: `Fork` rows say where its
//! versions are, so that one lineage never makes two files.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Fold, Result, WRONG_KIND};
use crate::base::limits::CHUNK_BYTES;
use crate::base::{Ino, OpId, Timespec};
use crate::volume::committed::Rank;
use crate::volume::extents::{
    check_pieces, covers, gathered, groups, overwrite, same_content, shifted, stored_bytes, touched,
};
use crate::volume::op::{Append, Write, fork_ino_of, joined_version};
use crate::volume::record::Record;
use crate::volume::rows::{Fork, RowKey, Stored, Value};
use crate::volume::types::{
    Conflict, ConflictKind, Extent, Field, FileKind, Inode, Kin, Piece, Place,
};
use crate::volume::view::{as_inode, is_private, xattr_range};

/// Attributes that go with new content.
struct Stamps {
    mtime: Timespec,
    ctime: Timespec,
    mode: Option<u32>,
}

/// A content that a file had before.
struct Past {
    extents: Vec<Extent>,
    size: u64,
    /// The contents since, newest first: their names and the ops that made them.
    since: Vec<(OpId, OpId)>,
}

/// A position in the history of a file's content.
struct Walk {
    /// The file whose rows held it.
    ino: Ino,
    origin: Option<Ino>,
    version: OpId,
    written_by: OpId,
    size: u64,
}

/// What is left of a file that somebody empties who had not seen all of it.
struct Left {
    /// The ranges that were appended unseen.
    ranges: Vec<Range<u64>>,
    /// Whether it is known that one device alone appended them.
    is_of_one: bool,
}

/// Most contents that a file had before which are compared with one that was made elsewhere.
const PAST_MAX: usize = 16;

/// The setuid and setgid bits.
const PRIVILEGES: u32 = 0o6000;

impl Walk {
    /// Starts at the present.
    fn new(node: &Inode) -> Self {
        Self {
            ino: node.ino,
            origin: node.origin,
            version: node.version,
            written_by: node.written_by,
            size: node.size,
        }
    }
}

impl Fold<'_> {
    pub(super) fn write(&mut self, write: &Write) -> Result<()> {
        let Some((named, mut node, base)) = self.target(write.ino, write.base)? else {
            return self.write_anew(write);
        };
        let stamps = Stamps {
            mtime: write.mtime,
            ctime: write.ctime,
            mode: write.mode,
        };
        let mut version = self.id;
        let made = node.kin.take_made();
        if node.version == base || Self::is_private(&node) {
            if write.size < node.size || covers(&write.pieces, write.size) {
                self.unjoin(&mut node)?;
            }
            self.splice(&mut node, &write.pieces, write.size)?;
        } else if let Some(kept) = self.appended_unseen(&node, write, base)? {
            if kept.is_of_one {
                self.unjoin(&mut node)?;
            }
            let all = self.extents_in(node.ino, 0, u64::MAX)?;
            let (left, size) = gathered(&all, &kept.ranges);
            self.replace_extents(&mut node, &all, left)?;
            node.size = size;
            if size > 0 {
                version = joined_version(node.version, self.id);
                let key = RowKey::Fork(node.ino, self.id);
                self.tx.put(key, Value::Fork(Fork::Joined))?;
            }
        } else {
            let past = self.content_of(&node, base)?;
            if !self.cross(
                &mut node,
                past,
                made,
                &write.pieces,
                write.size,
                write.ctime,
            )? {
                return Ok(());
            }
        }
        let ino = node.ino;
        self.finish_write(named, node, version, &stamps)?;
        self.settle_equal(ino, stamps.ctime)
    }

    /// Keeps what is written to a file that is gone so long that nothing is left of it, under its number:
    /// whoever wrote it was away for longer than anybody keeps what was there.
    fn write_anew(&mut self, write: &Write) -> Result<()> {
        // A directory, or a file that is one with another, is there under its number.
        if self.inode(write.ino)?.is_some() || write.pieces.is_empty() || is_private(write.ino) {
            return Ok(());
        }
        self.forget(write.ino)?;
        let mut node = self.new_inode(write.ino, FileKind::File, write.mtime);
        node.mode = 0o600;
        self.splice(&mut node, &write.pieces, write.size)?;
        node.ctime = write.ctime;
        self.save(node)?;
        let place = self.beside(None, write.ino, write.ctime)?;
        self.place(write.ino, &place, write.ctime)?;
        self.conflict(ConflictKind::WriteAgainstUnlink, write.ino, Some(place))
    }

    /// Removes what is still here of a node that is gone.
    fn forget(&mut self, ino: Ino) -> Result<()> {
        let (from, to) = (RowKey::Extent(ino, 0), RowKey::Extent(ino, u64::MAX));
        let mut rows = self.tx.scan(from, to)?;
        let (from, to) = xattr_range(ino);
        rows.extend(self.tx.scan(from, to)?);
        for (key, _) in rows {
            self.tx.delete(key)?;
        }
        self.tx.delete(RowKey::Orphan(ino))?;
        self.tx.delete(RowKey::Inode(ino))
    }

    pub(super) fn append(&mut self, append: &Append) -> Result<()> {
        let Some((named, mut node, base)) = self.target(append.ino, append.base)? else {
            // Of what it was appended to nobody has anything any more.
            return self.write_anew(&Write {
                ino: append.ino,
                base: append.base,
                size: append.len,
                pieces: append.pieces.clone(),
                mtime: append.mtime,
                ctime: append.ctime,
                mode: append.mode,
                empties: false,
            });
        };
        let stamps = Stamps {
            mtime: append.mtime,
            ctime: append.ctime,
            mode: append.mode,
        };
        let mut version = self.id;
        let made = node.kin.take_made();
        let fits = node.version == base || Self::is_private(&node);
        let mut is_joined = false;
        if fits || self.appended_only(&node, base)? {
            is_joined = !fits && self.follows_unseen(&node)?;
            let size = node.size.saturating_add(append.len);
            let pieces = shifted(&append.pieces, node.size);
            if check_pieces(&pieces, size).is_some() {
                return Ok(());
            }
            if !fits {
                version = joined_version(node.version, self.id);
                let key = RowKey::Fork(node.ino, self.id);
                self.tx.put(key, Value::Fork(Fork::Joined))?;
            }
            self.splice(&mut node, &pieces, size)?;
        } else {
            let past = self.content_of(&node, base)?;
            let start = past.as_ref().map_or(node.size, |past| past.size);
            let size = start.saturating_add(append.len);
            let pieces = shifted(&append.pieces, start);
            if check_pieces(&pieces, size).is_some() {
                return Ok(());
            }
            if !self.cross(&mut node, past, made, &pieces, size, append.ctime)? {
                return Ok(());
            }
        }
        let ino = node.ino;
        self.finish_write(named, node, version, &stamps)?;
        self.settle_equal(ino, stamps.ctime)?;
        if is_joined {
            self.note_joined(ino)?;
        }
        Ok(())
    }

    /// Tells whether all that came to a file since `base` was appended, so that one more append
    /// loses nothing. Content that was set aside since does not count.
    fn appended_only(&mut self, node: &Inode, base: OpId) -> Result<bool> {
        let mut walk = Walk::new(node);
        while walk.version != base && !self.is_before(&walk, base) {
            let is_aside = self.is_aside(node, &walk)?;
            let Some(record) = self.step_back(&mut walk)? else {
                return Ok(false);
            };
            // Who empties a file says nothing of what is appended to it.
            if !is_aside && record.kind.as_append().is_none() && record.kind.as_emptying().is_none()
            {
                return Ok(false);
            }
        }
        if walk.version == base || self.compare(&walk, base) != Some(Ordering::Less) {
            return Ok(true);
        }
        // A record may have put what joined there before what its stamp is behind.
        for _ in 0..PAST_MAX {
            if !self.saw(walk.written_by) || self.step_back(&mut walk)?.is_none() {
                break;
            }
            if walk.written_by.stamp == base.stamp {
                return Ok(true);
            }
        }
        // One that is in no place of the history is another's: what is here is not what it was.
        Ok(false)
    }

    /// Tells whether what an append comes behind was appended, too, unseen by its author. Of what it had seen so
    /// much is passed over as the fold can look up whoever folds it.
    fn follows_unseen(&mut self, node: &Inode) -> Result<bool> {
        let mut walk = Walk::new(node);
        for _ in 0..PAST_MAX {
            let (by, size) = (walk.written_by, walk.size);
            if self.tx.rank(by).record <= self.sight.record() {
                break;
            }
            let is_aside = self.is_aside(node, &walk)?;
            let Some(record) = self.step_back(&mut walk)? else {
                break;
            };
            if is_aside {
                continue;
            }
            if record.kind.as_append().is_some() {
                if !self.saw(by) {
                    return Ok(true);
                }
            } else if record.kind.as_emptying().is_none() || size == 0 {
                break;
            }
        }
        Ok(false)
    }

    /// Returns the ranges of a file that an op empties which were appended, unseen by the op's author;
    /// `None` where it empties nothing, or other changes crossed it.
    fn appended_unseen(&mut self, node: &Inode, write: &Write, base: OpId) -> Result<Option<Left>> {
        if !write.is_emptying() || node.size == 0 {
            return Ok(None);
        }
        let mut ranges = Vec::new();
        let mut authors = BTreeSet::new();
        let mut is_known = true;
        let mut walk = Walk::new(node);
        while walk.version != base {
            // What its author's machine had folded since was not in what he emptied, or in another file.
            let by = walk.written_by;
            let (end, is_seen) = (walk.size, self.saw(by) && by.stamp <= base.stamp);
            let is_aside = self.is_aside(node, &walk)?;
            let Some(record) = self.step_back(&mut walk)? else {
                if is_seen {
                    break;
                }
                return Ok(None);
            };
            let kind = &record.kind;
            if is_aside {
                continue;
            }
            if let Some(append) = kind.as_append() {
                if !is_seen {
                    ranges.push(end.saturating_sub(append.len)..end);
                    authors.insert(self.tx.device_of(by.log));
                }
            } else if kind.as_emptying().is_some() {
                // What it left was appended, unseen by its author.
                ranges.push(0..end);
                is_known = end == 0;
                break;
            } else if is_seen {
                break;
            } else {
                return Ok(None);
            }
        }
        ranges.reverse();
        let is_of_one = is_known && authors.len() <= 1;
        Ok(Some(Left { ranges, is_of_one }))
    }

    /// Says how a position in the history of a file stands to where content `base` was made, `None`
    /// where that is not known.
    fn compare(&self, walk: &Walk, base: OpId) -> Option<Ordering> {
        let (at, base) = (self.tx.rank(walk.written_by), self.tx.rank(base));
        // What a join made has the stamp of the op that joined, and is not known to any record.
        match (at.record, base.record) {
            (Rank::TENTATIVE, Rank::TENTATIVE) => Some(at.id.stamp.cmp(&base.id.stamp)),
            (_, Rank::TENTATIVE) => None,
            _ => Some(at.cmp(&base)),
        }
    }

    /// Tells whether a position in the history of a file is where content `base` was made, or before. That
    /// is not known of a content which a join made elsewhere, and which is nowhere once more is known of
    /// before it: what its author had seen up to then was in it.
    fn is_before(&self, walk: &Walk, base: OpId) -> bool {
        match self.compare(walk, base) {
            Some(order) => order.is_le(),
            None => self.saw(walk.written_by) && walk.written_by.stamp <= base.stamp,
        }
    }

    /// Tells whether a content in the history of a file was set aside since. The history of a
    /// conflict file begins in that of another.
    fn is_aside(&mut self, node: &Inode, walk: &Walk) -> Result<bool> {
        Ok(match self.tx.get(RowKey::Fork(walk.ino, walk.version))? {
            Some(Value::Fork(Fork::File(file))) => *file != node.ino,
            _ => false,
        })
    }

    /// Goes back to the content before; returns the record of the op between, `None` where there is
    /// no content before or it cannot be told any more.
    fn step_back(&mut self, walk: &mut Walk) -> Result<Option<Arc<Record>>> {
        let Some(record) = self.tx.record(walk.written_by)? else {
            return Ok(None);
        };
        let mut before = before_image(&record, walk.ino)?;
        if before.is_none()
            && let Some(origin) = walk.origin
        {
            before = before_image(&record, origin)?;
            walk.ino = origin;
        }
        match before {
            Some(before) if self.tx.rank(before.written_by) < self.tx.rank(walk.written_by) => {
                walk.version = before.version;
                walk.written_by = before.written_by;
                walk.size = before.size;
                walk.origin = before.origin;
                Ok(Some(record))
            }
            _ => Ok(None),
        }
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

    fn finish_write(
        &mut self,
        named: Ino,
        mut node: Inode,
        version: OpId,
        stamps: &Stamps,
    ) -> Result<()> {
        if node.ino != named {
            // Whoever builds on this content builds on the conflict file.
            self.fork(named, version, node.ino)?;
            self.fork(named, self.id, node.ino)?;
        }
        if node.cells.wins(Field::Mtime, self.id) {
            node.mtime = stamps.mtime;
        }
        node.ctime = stamps.ctime;
        if let Some(mode) = stamps.mode {
            // A write takes privileges away, and says nothing of who may do what.
            node.mode &= mode & PRIVILEGES | !PRIVILEGES;
        }
        self.keep_unprivileged(&mut node)?;
        node.version = version;
        node.written_by = self.id;
        let gone = node.is_orphan() && node.kin.twin.is_none() && !Self::is_private(&node);
        let (ino, home) = (node.ino, node.home.clone());
        self.save(node)?;
        if gone {
            self.revive(ino, home, stamps.ctime)?;
        }
        Ok(())
    }

    /// Brings a removed file back that someone wrote who did not know.
    fn revive(&mut self, ino: Ino, home: Option<Place>, time: Timespec) -> Result<()> {
        let removed = self.removed_by(ino)?.unwrap_or(self.id);
        let place = self.beside(home, ino, time)?;
        self.put_back(ino, &place, time)?;
        let node = self.row_of(ino)?;
        if node.is_some_and(|node| node.kin.twin.is_some()) {
            // What is there by now says the same.
            return Ok(());
        }
        let kind = ConflictKind::WriteAgainstUnlink;
        self.conflict_against(kind, ino, Some(place), removed)
    }

    /// Returns a place with a live directory: `home`, or the root under the node's number.
    pub(super) fn beside(
        &mut self,
        home: Option<Place>,
        ino: Ino,
        time: Timespec,
    ) -> Result<Place> {
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
        for group in groups(pieces) {
            self.replace_in(node, &group, size)?;
        }
        if size < node.size {
            self.replace_in(node, &[], size)?;
        }
        node.size = size;
        Ok(())
    }

    /// Replaces ranges that lie close together, and cuts the file where it becomes shorter.
    fn replace_in(&mut self, node: &mut Inode, pieces: &[Piece], size: u64) -> Result<()> {
        let old_size = if pieces.is_empty() { node.size } else { size };
        let Some((start, end)) = touched(pieces, old_size, size) else {
            return Ok(());
        };
        let old = if start >= node.size {
            Vec::new()
        } else {
            // Behind its end there is nothing but what was cut off.
            self.extents_in(node.ino, start, end.min(node.size))?
        };
        let new = overwrite(old.clone(), pieces, size);
        self.replace_extents(node, &old, new)
    }

    /// Returns the extents that overlap a range.
    pub(super) fn extents_in(&mut self, ino: Ino, start: u64, end: u64) -> Result<Vec<Extent>> {
        let mut extents = Vec::new();
        // No extent is longer than a chunk.
        let first = RowKey::Extent(ino, start.saturating_sub(CHUNK_BYTES));
        if start > 0
            && let Some((_, Value::Extent(before))) =
                self.tx.last_before(first, RowKey::Extent(ino, start))?
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

    /// Returns content `base` as its author saw it; `None` where that cannot be told any more.
    fn content_of(&mut self, node: &Inode, base: OpId) -> Result<Option<Past>> {
        // What joined appends of others is laid on what its author saw.
        let mut joined = Vec::new();
        let mut base = base;
        while let Some(Value::Fork(Fork::Joined)) = self.tx.get(RowKey::Fork(node.ino, base))? {
            let Some(record) = self.tx.record(base)? else {
                return Ok(None);
            };
            let kind = &record.kind;
            let appended = kind.as_append().map(|append| append.base);
            let Some(before) = appended.or_else(|| kind.as_emptying().map(|write| write.base))
            else {
                return Ok(None);
            };
            if before >= base {
                return Ok(None);
            }
            base = before;
            joined.push(record);
        }
        let Some(mut past) = self.walk_back(node, base)? else {
            return Ok(None);
        };
        for record in joined.into_iter().rev() {
            let Some(append) = record.kind.as_append() else {
                (past.extents, past.size) = (Vec::new(), 0);
                continue;
            };
            let pieces = shifted(&append.pieces, past.size);
            past.size = past.size.saturating_add(append.len);
            past.extents = overwrite(past.extents, &pieces, past.size);
        }
        Ok(Some(past))
    }

    /// Returns the content that a file had under the name `base`, by the before-images of the ops
    /// since; `None` where it never had that.
    fn walk_back(&mut self, node: &Inode, base: OpId) -> Result<Option<Past>> {
        let all = self.extents_in(node.ino, 0, u64::MAX)?;
        let mut extents: BTreeMap<u64, Extent> = all.into_iter().map(|e| (e.offset, e)).collect();
        let mut since = Vec::new();
        let mut walk = Walk::new(node);
        while walk.version != base {
            if self.compare(&walk, base) == Some(Ordering::Less) {
                return Ok(None);
            }
            since.push((walk.version, walk.written_by));
            let Some(record) = self.step_back(&mut walk)? else {
                return Ok(None);
            };
            for (key, image) in &record.writes {
                match (key, image) {
                    (RowKey::Extent(ino, offset), None) if *ino == walk.ino => {
                        extents.remove(offset);
                    }
                    (RowKey::Extent(ino, offset), Some(image)) if *ino == walk.ino => {
                        let row = Stored::decode(key, image.clone())?;
                        let Value::Extent(extent) = &row.value else {
                            return Err(WRONG_KIND);
                        };
                        extents.insert(*offset, extent.clone());
                    }
                    _ => {}
                }
            }
        }
        Ok(Some(Past {
            extents: extents.into_values().collect(),
            size: walk.size,
            since,
        }))
    }

    /// Returns the newest content that a file had before which is the given one, of those from which
    /// others went on whom the author of this op had not seen.
    pub(super) fn past_like(
        &mut self,
        node: &Inode,
        size: u64,
        extents: &[Extent],
    ) -> Result<Option<OpId>> {
        let mut walk = Walk::new(node);
        for _ in 0..PAST_MAX {
            if self.saw(walk.written_by) || self.step_back(&mut walk)?.is_none() {
                break;
            }
            // What was set aside is kept for itself.
            if walk.size != size || self.is_aside(node, &walk)? {
                continue;
            }
            let past = self.walk_back(node, walk.version)?;
            if past.is_some_and(|past| same_content(&past.extents, extents)) {
                return Ok(Some(walk.version));
            }
        }
        Ok(None)
    }

    /// Says that content `version` of a file goes on in a conflict file, unless it went elsewhere
    /// before.
    fn fork(&mut self, ino: Ino, version: OpId, file: Ino) -> Result<()> {
        let key = RowKey::Fork(ino, version);
        match self.tx.get(key)? {
            None => {}
            Some(Value::Fork(Fork::Joined)) => {
                let there = RowKey::Fork(file, version);
                self.tx.put(there, Value::Fork(Fork::Joined))?;
            }
            Some(_) => return Ok(()),
        }
        self.tx.put(key, Value::Fork(Fork::File(file)))
    }

    /// Applies a write whose author had not seen the present content: what began earlier goes aside,
    /// unless nothing is lost without it. Returns false where `node` stays as it is.
    fn cross(
        &mut self,
        node: &mut Inode,
        past: Option<Past>,
        made: Vec<OpId>,
        pieces: &[Piece],
        size: u64,
        time: Timespec,
    ) -> Result<bool> {
        let current = self.extents_in(node.ino, 0, u64::MAX)?;
        // A base that nobody has any more: on top of what is here, which is kept aside as well.
        let past = past.unwrap_or_else(|| Past {
            extents: current.clone(),
            size: node.size,
            since: vec![(node.version, node.written_by)],
        });
        let new = overwrite(past.extents, pieces, size);
        if node.size == size && same_content(&new, &current) {
            // What was removed is nobody's but of who writes it now.
            if !node.is_orphan() {
                node.kin.made = made;
                self.made_as_well(node);
            }
            let key = RowKey::Fork(node.ino, node.version);
            self.tx.put(key, Value::Fork(Fork::Same(self.id)))?;
            return Ok(true);
        }
        let first = self.first_of_present(node, &past.since)?;
        if first > self.id && size == 0 {
            // Nothing is left of it; who goes on from it goes on from what it left.
            let key = RowKey::Fork(node.ino, self.id);
            self.tx.put(key, Value::Fork(Fork::Joined))?;
            return Ok(false);
        }
        // Who removed it had seen what is in it; who put a conflict file in its place chose of the two.
        let is_removed = node.is_orphan() && node.kin.twin.is_none();
        if first > self.id && (!is_removed || self.is_settled_by_choice(node)?) {
            self.stand_aside(node, new, size, time)?;
            return Ok(true);
        }
        if node.size > 0 && is_removed {
            self.leave_removed(node, &current, &past.since, first)?;
        } else if node.size > 0 {
            self.set_aside(node, &current, &past.since, first, time)?;
            // What stands beside it now is compared with it from now on.
            if let Some(now) = self.row_of(node.ino)? {
                node.kin = now.kin;
                node.kin.take_made();
            }
        }
        // What was joined in it stands aside now.
        self.unjoin(node)?;
        self.replace_extents(node, &current, new)?;
        node.size = size;
        Ok(true)
    }

    /// Says whether who took the last name off a file gave it to a conflict file.
    fn is_settled_by_choice(&mut self, node: &Inode) -> Result<bool> {
        let removed = match self.tx.get(RowKey::Orphan(node.ino))? {
            Some(Value::Orphan(removed)) => removed.by,
            _ => return Ok(false),
        };
        let Some(home) = node.home.clone() else {
            return Ok(false);
        };
        let there = self.entry(home.parent, &home.name)?;
        let Some(there) = there.filter(|there| there.by == removed) else {
            return Ok(false);
        };
        let chosen = self.row_of(there.ino)?;
        Ok(chosen.is_some_and(|chosen| chosen.origin == Some(node.ino)))
    }

    /// Returns the op with which the lineage of the present content begins, behind the content that
    /// both have in common. Of two lineages the one that began later keeps the file, whichever of
    /// them a record named first.
    fn first_of_present(&mut self, node: &Inode, since: &[(OpId, OpId)]) -> Result<OpId> {
        for (version, written_by) in since.iter().rev() {
            let key = RowKey::Fork(node.ino, *version);
            if !matches!(self.tx.get(key)?, Some(Value::Fork(Fork::File(_)))) {
                return Ok(*written_by);
            }
        }
        Ok(node.written_by)
    }

    /// Keeps what this op writes in a conflict file beside the present content, which is that of a
    /// later lineage: `node` is the conflict file then.
    fn stand_aside(
        &mut self,
        node: &mut Inode,
        extents: Vec<Extent>,
        size: u64,
        time: Timespec,
    ) -> Result<()> {
        let of = node.clone();
        let stored = stored_bytes(&extents);
        let mut fork = self.conflict_file(&of, &extents, self.id, time)?;
        (fork.size, fork.stored) = (size, stored);
        *node = fork;
        Ok(())
    }

    /// Keeps the present content of a file in a conflict file beside it, as that of the lineage that
    /// began with `first`.
    fn set_aside(
        &mut self,
        node: &Inode,
        current: &[Extent],
        since: &[(OpId, OpId)],
        first: OpId,
        time: Timespec,
    ) -> Result<()> {
        let fork = self.conflict_file(node, current, first, time)?;
        self.fork_all(node.ino, since, fork.ino)
    }

    /// Leaves the present content of a removed file, which is back with another one, as removed: under the
    /// number that its conflict file has wherever the two met before the removal, so that who wrote to that
    /// brings it back.
    fn leave_removed(
        &mut self,
        node: &Inode,
        current: &[Extent],
        since: &[(OpId, OpId)],
        first: OpId,
    ) -> Result<()> {
        let Some(Value::Orphan(removed)) = self.tx.get(RowKey::Orphan(node.ino))?.cloned() else {
            return Ok(());
        };
        let mut fork = self.conflict_rows(node, current, first)?;
        fork.home = node.home.clone();
        let ino = fork.ino;
        self.save(fork)?;
        self.tx.put(RowKey::Orphan(ino), Value::Orphan(removed))?;
        self.fork_all(node.ino, since, ino)
    }

    /// Says that contents of a file, by their names and the ops that made them, go on in a conflict file.
    fn fork_all(&mut self, ino: Ino, since: &[(OpId, OpId)], file: Ino) -> Result<()> {
        for (version, written_by) in since {
            self.fork(ino, *version, file)?;
            self.fork(ino, *written_by, file)?;
        }
        Ok(())
    }

    /// Makes the conflict file of the lineage that began with `first`, with the attributes of `node`.
    ///
    /// Whatever other histories come, what stands aside has this number and this name.
    fn conflict_file(
        &mut self,
        node: &Inode,
        extents: &[Extent],
        first: OpId,
        time: Timespec,
    ) -> Result<Inode> {
        let fork = self.conflict_rows(node, extents, first)?;
        let ino = fork.ino;
        let home = self.beside(node.home.clone(), node.ino, time)?;
        let device = self.tx.device_of(first.log);
        let name = self.name_of(node, &home)?;
        let beside = Place {
            name,
            ..home.clone()
        };
        let aside = self.attach_aside(&fork, &beside, first, time)?;
        self.conflict_with(Conflict {
            op: first,
            kind: ConflictKind::Content,
            ino: node.ino,
            place: Some(home),
            other: Some(ino),
            other_name: Some(aside.name),
            device,
            resolved: false,
        })?;
        // It has a name and a conflict by now.
        Ok(self.row_of(ino)?.unwrap_or(fork))
    }

    /// Returns the name that a file had before it got that of a conflict file, if it has one.
    fn name_of(&mut self, node: &Inode, home: &Place) -> Result<Bytes> {
        let name = match node.conflict {
            Some(conflict) => match self.tx.get(RowKey::Conflict(conflict))? {
                Some(Value::Conflict(Conflict {
                    place: Some(place),
                    other: Some(other),
                    other_name: Some(name),
                    ..
                })) if *other == node.ino && *name == home.name => Some(place.name.clone()),
                _ => None,
            },
            None => None,
        };
        Ok(name.unwrap_or_else(|| home.name.clone()))
    }

    /// Makes the rows of a conflict file, which has no name yet.
    fn conflict_rows(&mut self, node: &Inode, extents: &[Extent], first: OpId) -> Result<Inode> {
        let mut ino = fork_ino_of(first);
        if self.row_of(ino)?.is_some() {
            ino = fork_ino_of(self.id);
        }
        let fork = Inode {
            ino,
            nlink: 0,
            created_by: first,
            conflict: None,
            origin: Some(node.ino),
            home: None,
            kin: Kin::default(),
            ..node.clone()
        };
        for extent in extents {
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
        Ok(fork)
    }
}

/// Returns an inode as it was before a recorded op.
fn before_image(record: &Record, ino: Ino) -> Result<Option<Inode>> {
    let key = RowKey::Inode(ino);
    for (written, image) in &record.writes {
        if let (true, Some(image)) = (*written == key, image) {
            let row = Stored::decode(&key, image.clone())?;
            return Ok(Some(as_inode(&row)?.clone()));
        }
    }
    Ok(None)
}
