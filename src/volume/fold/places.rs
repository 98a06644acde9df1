//! Names and nodes: how a node gets and loses a place, what happens where the place is taken or its
//! directory is gone.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::names::conflict_names;
use super::{Fold, Result};
use crate::base::{Ino, OpId, Timespec};
use crate::volume::overlay::Delta;
use crate::volume::rows::{Dated, Removed, RowKey, Value};
use crate::volume::sight::Sight;
use crate::volume::types::{Conflict, ConflictKind, DirKey, Dirent, Field, Inode, Place};
use crate::volume::view::{DEPTH_MAX, dirent_range, is_private, xattr_range};

/// By what a node is given a name.
#[derive(Debug, Clone, Copy)]
struct Claim {
    /// The op that gives it.
    by: OpId,
    /// The op from which it is the node's: of two nodes the one that has it since the later one keeps it.
    since: OpId,
}

impl Fold<'_> {
    /// Adjusts a directory to entries that came or went. Its mtime is left to [`Fold::touch`]: what
    /// comes and goes where histories meet depends on the order in which they are heard of, and the mtime
    /// is the same on all members.
    fn shift_dir(&mut self, dir: Ino, entries: i64, subdirs: i64, time: Timespec) -> Result<()> {
        let delta = Delta {
            entries,
            nlink: i32::try_from(subdirs).unwrap_or(0),
        };
        self.tx
            .count(dir, delta, |dir| dir.ctime = dir.ctime.max(time))
    }

    /// Gives a node a name that is free. A node without any is back by that.
    pub(super) fn attach(&mut self, ino: Ino, place: &Place, time: Timespec) -> Result<()> {
        self.attach_by(ino, place, self.id, time)
    }

    /// Gives a node a free name that it has from op `by`.
    pub(super) fn attach_by(
        &mut self,
        ino: Ino,
        place: &Place,
        by: OpId,
        time: Timespec,
    ) -> Result<()> {
        let Some(mut node) = self.row_of(ino)? else {
            return Ok(());
        };
        debug_assert!(
            node.kin.twin.is_none(),
            "what another node stands for has no name"
        );
        debug_assert_eq!(
            self.entry(place.parent, &place.name)?,
            None,
            "the name is free"
        );
        let hash = self.tx.dir_key(place.parent, &place.name);
        let dirent = Dirent {
            name: place.name.clone(),
            ino,
            kind: node.kind,
            by,
        };
        self.tx
            .put(RowKey::Dirent(place.parent, hash), Value::Dirent(dirent))?;
        if node.is_orphan() && node.created_by != self.id {
            self.tx.delete(RowKey::Orphan(ino))?;
        }
        if node.is_dir() {
            node.nlink = node.nlink.max(2);
            node.home = Some(place.clone());
        } else {
            node.nlink = node.nlink.saturating_add(1);
            if node.nlink == 1 {
                node.home = Some(place.clone());
            } else {
                if node.nlink == 2
                    && let Some(home) = node.home.clone()
                {
                    self.put_link(ino, home)?;
                }
                self.put_link(ino, place.clone())?;
            }
        }
        let subdirs = i64::from(node.is_dir());
        node.ctime = time;
        self.save(node)?;
        self.shift_dir(place.parent, 1, subdirs, time)
    }

    /// Takes a name off a node; returns the op that it had it from. The caller gives it another or
    /// buries it.
    pub(super) fn detach(&mut self, ino: Ino, place: &Place, time: Timespec) -> Result<OpId> {
        let had = self.entry(place.parent, &place.name)?;
        let had = had.map_or(self.id, |entry| entry.by);
        let Some(mut node) = self.row_of(ino)? else {
            return Ok(had);
        };
        debug_assert_eq!(
            self.entry(place.parent, &place.name)?
                .map(|there| there.ino),
            Some(ino),
            "only a name that it has is taken off a node"
        );
        let hash = self.tx.dir_key(place.parent, &place.name);
        self.tx.delete(RowKey::Dirent(place.parent, hash))?;
        if !node.is_dir() {
            match node.nlink {
                0 | 1 => node.home = Some(place.clone()),
                2 => {
                    self.tx.delete(RowKey::Link(ino, place.parent, hash))?;
                    node.home = self.take_last_link(ino)?;
                }
                _ => {
                    self.tx.delete(RowKey::Link(ino, place.parent, hash))?;
                    if node.home.as_ref() == Some(place) {
                        node.home = self.last_link(ino)?;
                    }
                }
            }
            node.nlink = node.nlink.saturating_sub(1);
        }
        let subdirs = -i64::from(node.is_dir());
        node.ctime = time;
        self.save(node)?;
        self.shift_dir(place.parent, -1, subdirs, time)?;
        Ok(had)
    }

    /// Keeps a node that may have lost its last name, which it had from op `had`, so that a write
    /// elsewhere can bring it back.
    pub(super) fn bury(&mut self, ino: Ino, had: OpId) -> Result<()> {
        let Some(mut node) = self.row_of(ino)? else {
            return Ok(());
        };
        if node.is_dir() {
            node.nlink = 0;
            self.save(node)?;
        } else if node.nlink > 0 {
            return Ok(());
        }
        // A node that has a name has no such row, and this one had a name until now.
        let removed = Removed { by: self.id, had };
        self.tx
            .put_fresh(RowKey::Orphan(ino), Value::Orphan(removed));
        Ok(())
    }

    /// Gives a node that was removed its name again. It has that from the op that it had it from: who
    /// moved the node unaware of the removal, later than that, moves it still; and what was put there
    /// since keeps the name.
    pub(super) fn put_back(&mut self, ino: Ino, place: &Place, time: Timespec) -> Result<()> {
        let had = match self.tx.get(RowKey::Orphan(ino))? {
            Some(Value::Orphan(removed)) => removed.had,
            _ => return self.place(ino, place, time),
        };
        if self.entry(place.parent, &place.name)?.is_none() {
            return self.attach_by(ino, place, had, time);
        }
        let claim = Claim {
            since: had,
            ..self.claim()
        };
        self.place_by(ino, place, claim, time)
    }

    fn put_link(&mut self, ino: Ino, place: Place) -> Result<()> {
        let hash = self.tx.dir_key(place.parent, &place.name);
        self.tx
            .put(RowKey::Link(ino, place.parent, hash), Value::Link(place))
    }

    /// Returns one of the places of a file that has several.
    fn last_link(&mut self, ino: Ino) -> Result<Option<Place>> {
        let low = DirKey([0; 16]);
        let from = RowKey::Link(ino, Ino(0), low);
        let to = RowKey::Link(Ino(ino.0.saturating_add(1)), Ino(0), low);
        Ok(match self.tx.last_before(from, to)? {
            Some((_, Value::Link(place))) => Some(place),
            _ => None,
        })
    }

    /// Removes the only row of a place that is left, which becomes the home.
    fn take_last_link(&mut self, ino: Ino) -> Result<Option<Place>> {
        let low = DirKey([0; 16]);
        let from = RowKey::Link(ino, Ino(0), low);
        let to = RowKey::Link(Ino(ino.0.saturating_add(1)), Ino(0), low);
        let mut home = None;
        for (key, value) in self.tx.scan(from, to)? {
            self.tx.delete(key)?;
            if let Value::Link(place) = value {
                home = Some(place);
            }
        }
        Ok(home)
    }

    /// Gives a node a name that what its author had not seen may hold.
    pub(super) fn place(&mut self, ino: Ino, place: &Place, time: Timespec) -> Result<()> {
        self.place_by(ino, place, self.claim(), time)
    }

    fn claim(&self) -> Claim {
        Claim {
            by: self.id,
            since: self.id,
        }
    }

    fn place_by(&mut self, ino: Ino, place: &Place, claim: Claim, time: Timespec) -> Result<()> {
        let mut merges = Vec::new();
        self.place_or_merge(ino, place, claim, time, &mut merges)?;
        while let Some((from, into)) = merges.pop() {
            self.merge_dir(from, into, time, &mut merges)?;
        }
        Ok(())
    }

    fn place_or_merge(
        &mut self,
        ino: Ino,
        place: &Place,
        claim: Claim,
        time: Timespec,
        merges: &mut Vec<(Ino, Ino)>,
    ) -> Result<()> {
        let Some(there) = self.entry(place.parent, &place.name)? else {
            return self.attach(ino, place, time);
        };
        let Some(node) = self.row_of(ino)? else {
            return Ok(());
        };
        if there.ino == ino {
            return Ok(());
        }
        let other = self.row_of(there.ino)?;
        if let Some(other) = &other
            && self.stand_for(&node, other, &there, place, claim.by)?
        {
            return Ok(());
        }
        match (node.is_dir(), other) {
            (true, Some(other)) if other.is_dir() => {
                merges.push((ino, there.ino));
                Ok(())
            }
            (true, Some(other)) => {
                self.detach(other.ino, place, time)?;
                let aside = self.attach_aside(&other, place, there.by, time)?;
                self.attach(ino, place, time)?;
                self.name_conflict(ino, place, &other, aside, there.by)
            }
            (is_dir, other) => {
                let other = other.filter(|other| !is_dir && !other.is_dir());
                self.step_aside(&node, other, &there, place, claim, time)
            }
        }
    }

    /// Puts a directory at a place that another one has which is not to become one with it.
    pub(super) fn place_beside(
        &mut self,
        node: &Inode,
        place: &Place,
        time: Timespec,
    ) -> Result<()> {
        let Some(there) = self.entry(place.parent, &place.name)? else {
            return self.attach(node.ino, place, time);
        };
        let other = self.row_of(there.ino)?;
        self.step_aside(node, other, &there, place, self.claim(), time)
    }

    /// Of a node and the `other` one that has its place, gives the earlier one a conflict name; the node
    /// where the other is none that may.
    fn step_aside(
        &mut self,
        node: &Inode,
        other: Option<Inode>,
        there: &Dirent,
        place: &Place,
        claim: Claim,
        time: Timespec,
    ) -> Result<()> {
        if let Some(other) = other.filter(|_| claim.since > there.by) {
            self.detach(other.ino, place, time)?;
            let aside = self.attach_aside(&other, place, there.by, time)?;
            self.attach(node.ino, place, time)?;
            return self.name_conflict(node.ino, place, &other, aside, there.by);
        }
        let aside = self.attach_aside(node, place, claim.by, time)?;
        self.name_conflict(there.ino, place, node, aside, claim.by)
    }

    pub(super) fn name_conflict(
        &mut self,
        kept: Ino,
        place: &Place,
        other: &Inode,
        aside: Place,
        by: OpId,
    ) -> Result<()> {
        // Who wrote it after it had got the name meant it to have that.
        let wrote = match other.is_dir() {
            true => by,
            false => by.max(other.written_by),
        };
        let device = self.tx.device_of(wrote.log);
        self.conflict_with(Conflict {
            op: self.id,
            kind: ConflictKind::Name,
            ino: kept,
            place: Some(place.clone()),
            other: Some(other.ino),
            other_name: Some(aside.name),
            device,
            resolved: false,
        })
    }

    /// Gives a node a free conflict name beside `place` and returns that. It names device and day of
    /// `by`, the op that made what stands aside: so it is the same wherever histories met.
    pub(super) fn attach_aside(
        &mut self,
        node: &Inode,
        place: &Place,
        by: OpId,
        time: Timespec,
    ) -> Result<Place> {
        let label = self.device_name(self.tx.device_of(by.log))?;
        let mut aside = place.clone();
        for name in conflict_names(&place.name, node.is_dir(), &label, by) {
            aside.name = name;
            if self.entry(aside.parent, &aside.name)?.is_none() {
                self.attach_by(node.ino, &aside, by, time)?;
                return Ok(aside);
            }
        }
        // No program makes this name, so it is free.
        aside.parent = Ino::ROOT;
        aside.name = Bytes::from(format!(".conflict-{:016x}", node.ino.0));
        self.attach_by(node.ino, &aside, by, time)?;
        Ok(aside)
    }

    /// Moves the entries of a directory without a name into another, which takes its place.
    fn merge_dir(
        &mut self,
        from: Ino,
        into: Ino,
        time: Timespec,
        merges: &mut Vec<(Ino, Ino)>,
    ) -> Result<()> {
        if let Some(dir) = self.row_of(from)? {
            let rights = self.rights(&dir)?;
            self.narrow(into, &rights, self.id)?;
            let by = dir.cells.by(Field::Mtime, dir.created_by);
            let mtime = dir.mtime;
            self.make_part(from, &dir.kin.beside, into, Dated { mtime, by })?;
            self.list_for(&dir, into)?;
        }
        let (low, high) = dirent_range(from);
        for (_, value) in self.tx.scan(low, high)? {
            let Value::Dirent(child) = value else {
                continue;
            };
            let mut at = Place {
                parent: from,
                name: child.name,
            };
            self.detach(child.ino, &at, time)?;
            at.parent = into;
            let claim = Claim {
                by: child.by,
                since: child.by,
            };
            self.place_or_merge(child.ino, &at, claim, time, merges)?;
        }
        let (low, high) = xattr_range(from);
        for (key, _) in self.tx.scan(low, high)? {
            self.tx.delete(key)?;
        }
        self.tx.delete(RowKey::Orphan(from))?;
        self.tx.delete(RowKey::Inode(from))?;
        self.tx.put(RowKey::Alias(from), Value::Alias(into))
    }

    /// Returns the directory that `ino` names, brought back at its last place where it was removed.
    /// A directory that nobody knows of becomes the root, so that nothing put into it is lost.
    pub(super) fn live_dir(&mut self, ino: Ino, time: Timespec) -> Result<Ino> {
        let Some(dir) = self.inode(ino)?.filter(Inode::is_dir) else {
            return Ok(Ino::ROOT);
        };
        if !dir.is_orphan() {
            return Ok(dir.ino);
        }
        let mut seen = BTreeSet::from([dir.ino]);
        let mut removed = vec![dir];
        let mut parent = Ino::ROOT;
        while let Some(home) = removed.last().and_then(|dir| dir.home.clone()) {
            match self.inode(home.parent)?.filter(Inode::is_dir) {
                Some(up) if !up.is_orphan() => {
                    parent = up.ino;
                    break;
                }
                Some(up) if seen.len() < DEPTH_MAX && seen.insert(up.ino) => removed.push(up),
                _ => break,
            }
        }
        for dir in removed.into_iter().rev() {
            let name = match dir.home {
                Some(home) => home.name,
                None => Bytes::from(format!("{:016x}", dir.ino.0)),
            };
            let place = Place { parent, name };
            let removed = self.removed_by(dir.ino)?.unwrap_or(self.id);
            self.put_back(dir.ino, &place, time)?;
            // It may have become one with a directory that is there now.
            parent = self.inode(dir.ino)?.map_or(Ino::ROOT, |dir| dir.ino);
            let kind = ConflictKind::DirRevived;
            self.conflict_against(kind, parent, Some(place), removed)?;
        }
        Ok(parent)
    }

    /// Brings back what was removed from a directory that this op moves, by ops whose authors had not
    /// seen the move, which had not seen them: who removes takes only what is where it was seen.
    pub(super) fn keep_contents(&mut self, moved: Ino, time: Timespec) -> Result<()> {
        self.tx.depend_on_nameless();
        // Who had seen everything had seen what was removed.
        if matches!(self.sight, Sight::Everything { .. }) {
            return Ok(());
        }
        let all = (RowKey::Orphan(Ino(0)), RowKey::Orphan(Ino(u64::MAX)));
        let mut removed = Vec::new();
        for (key, value) in self.tx.scan(all.0, all.1)? {
            if let (RowKey::Orphan(ino), Value::Orphan(Removed { by, .. })) = (key, value)
                && !is_private(ino)
                && !self.saw(by)
                && !self.tx.is_settled(by)
                && let Some(depth) = self.depth_below(moved, ino)?
            {
                removed.push((depth, ino));
            }
        }
        // Directories before what was in them.
        removed.sort_unstable();
        for (_, ino) in removed {
            let Some(node) = self.row_of(ino)?.filter(Inode::is_orphan) else {
                continue;
            };
            if let Some(home) = node.home {
                let place = Place {
                    parent: self.live_dir(home.parent, time)?,
                    name: home.name,
                };
                self.put_back(ino, &place, time)?;
            }
        }
        Ok(())
    }

    /// Returns how deep below a directory a node is, or was last.
    fn depth_below(&mut self, dir: Ino, ino: Ino) -> Result<Option<usize>> {
        let mut at = ino;
        for depth in 0..DEPTH_MAX {
            let Some(home) = self.inode(at)?.and_then(|inode| inode.home) else {
                return Ok(None);
            };
            at = self.inode(home.parent)?.map_or(home.parent, |up| up.ino);
            if at == dir {
                return Ok(Some(depth));
            }
        }
        Ok(None)
    }

    /// Tells whether the author of this op had seen the places of the directory that he `named` and of
    /// all above it.
    pub(super) fn saw_way_to(&mut self, named: Ino) -> Result<bool> {
        let mut named = named;
        let mut at = self.inode(named)?.map_or(named, |dir| dir.ino);
        for _ in 0..DEPTH_MAX {
            let Some(dir) = self.inode(at)? else {
                return Ok(true);
            };
            let Some(home) = dir.home.clone() else {
                return Ok(true);
            };
            let Some(entry) = self.entry(home.parent, &home.name)? else {
                return Ok(true);
            };
            if entry.ino == at && !self.saw(entry.by) && !self.met_at(&dir, &entry, named) {
                return Ok(false);
            }
            named = home.parent;
            at = self.inode(home.parent)?.map_or(home.parent, |up| up.ino);
        }
        Ok(true)
    }

    /// Tells whether a directory is where another one became one with it that the author of this op
    /// meant, and has not moved since: he named that, or had not seen this one made.
    fn met_at(&self, dir: &Inode, entry: &Dirent, named: Ino) -> bool {
        let is_first = entry.by == dir.created_by || dir.joined.is_some_and(|by| entry.by < by);
        is_first && (named != dir.ino || !self.saw(dir.created_by))
    }

    /// Returns true when `ino` is `dir` or one of its ancestors.
    pub(super) fn is_within(&mut self, dir: Ino, ino: Ino) -> Result<bool> {
        let mut at = dir;
        for _ in 0..DEPTH_MAX {
            if at == ino {
                return Ok(true);
            }
            match self.inode(at)?.and_then(|inode| inode.home) {
                Some(home) => {
                    at = self
                        .inode(home.parent)?
                        .map_or(home.parent, |inode| inode.ino);
                }
                None => return Ok(false),
            }
        }
        Ok(false)
    }
}
