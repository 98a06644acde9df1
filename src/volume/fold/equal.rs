//! What says the same twice: of two nodes of one kind and content that met at one name, one has it
//! and stands for the other.
//!
//! The other keeps its rows. Who had seen that they are one means the one that has the name, by
//! whichever number; who had not acts on the node that he knew: if he removes or moves that, the
//! other is still there. Where one goes on from what both said, it has the name; where both do, and
//! differently, each has a name of its own.

use super::{Fold, Result};
use crate::base::{Ino, OpId, Timespec};
use crate::volume::extents::same_content;
use crate::volume::rows::{Fork, Removed, RowKey, Value};
use crate::volume::types::{Conflict, Dirent, FileKind, Inode, Place, Twin};
use crate::volume::view::is_private;

/// Most nodes that are compared with one that has the name; what is beside it beyond that stays.
const BESIDE_MAX: usize = 16;

/// Most ops that are known to have made one content.
const MADE_MAX: usize = 16;

/// The setuid and setgid bits.
const PRIVILEGES: u32 = 0o6000;

impl Fold<'_> {
    /// Tells whether the author of this op had seen that two are one.
    pub(super) fn knows(&self, twin: &Twin) -> bool {
        twin.seen.iter().all(|op| self.saw(*op))
    }

    /// Tells whether two nodes are of one kind and say the same.
    pub(super) fn is_same(&mut self, a: &Inode, b: &Inode) -> Result<bool> {
        let facts = |node: &Inode| (node.kind, node.rdev, node.size);
        if a.is_dir() || facts(a) != facts(b) || a.target != b.target {
            return Ok(false);
        }
        if a.kind != FileKind::File || (a.stored, b.stored) == (0, 0) {
            return Ok(true);
        }
        let [a, b] = [a.ino, b.ino].map(|ino| self.extents_in(ino, 0, u64::MAX));
        Ok(same_content(&a?, &b?))
    }

    /// Returns the content of `main` that a node has as well: the present one, or one from which
    /// those went on who had not seen the node.
    fn said(&mut self, node: &Inode, main: &Inode) -> Result<Option<OpId>> {
        if self.is_same(node, main)? {
            return Ok(Some(main.version));
        }
        if node.kind != FileKind::File || main.kind != FileKind::File {
            return Ok(None);
        }
        let all = self.extents_in(node.ino, 0, u64::MAX)?;
        self.past_like(main, node.size, &all)
    }

    /// Lets `main`, which has a place, stand for a node that `by` would have put there, or that for
    /// `main`, where they say the same: what has another name is not hidden.
    pub(super) fn stand_for(
        &mut self,
        node: &Inode,
        main: &Inode,
        there: &Dirent,
        place: &Place,
        by: OpId,
    ) -> Result<bool> {
        let room = |node: &Inode| node.kin.beside.len() < BESIDE_MAX;
        if node.is_dir() || is_private(node.ino) || !room(node) || !room(main) {
            return Ok(false);
        }
        if node.nlink > 0 {
            return self.stand_instead(node, main, there, place, by);
        }
        let Some(said) = self.said(node, main)? else {
            return Ok(false);
        };
        let same = (node.version, said);
        let twin = self.twin(main, same, by, there.by, node.written_by);
        self.hide(node.ino, place, twin)?;
        Ok(true)
    }

    /// Lets a node with other names take the place of what says the same.
    fn stand_instead(
        &mut self,
        node: &Inode,
        main: &Inode,
        there: &Dirent,
        place: &Place,
        by: OpId,
    ) -> Result<bool> {
        if main.nlink != 1 || !self.is_same(node, main)? {
            return Ok(false);
        }
        self.detach(main.ino, place, main.ctime)?;
        self.attach_by(node.ino, place, by, node.ctime)?;
        let same = (main.version, node.version);
        let twin = self.twin(node, same, there.by, by, main.written_by);
        self.hide(main.ino, place, twin)?;
        Ok(true)
    }

    /// Returns what makes a node one with `of`, which has its place from `there_by`.
    fn twin(
        &self,
        of: &Inode,
        same: (OpId, OpId),
        by: OpId,
        there_by: OpId,
        written_by: OpId,
    ) -> Twin {
        let mut seen = vec![self.id, there_by, of.written_by, written_by];
        seen.sort_unstable();
        seen.dedup();
        let of = of.ino;
        Twin { of, by, same, seen }
    }

    /// Hides a node without a name behind another one that has `place`.
    fn hide(&mut self, ino: Ino, place: &Place, twin: Twin) -> Result<()> {
        let of = twin.of;
        let (Some(mut node), Some(main)) = (self.row_of(ino)?, self.row_of(of)?) else {
            return Ok(());
        };
        // Nobody may do more with it than with each of them; what is set later holds.
        let (mine, other) = (self.rights(&main)?, self.rights(&node)?);
        if !mine.is_equal(&other) {
            self.narrow(of, &other, self.id)?;
        }
        for other in std::mem::take(&mut node.kin.beside) {
            self.stand_behind(other, ino, of)?;
        }
        if node.created_by != self.id {
            self.tx.delete(RowKey::Orphan(ino))?;
        }
        let (theirs, ours) = twin.same;
        let conflict = node.conflict.take();
        node.kin.twin = Some(twin);
        node.home = Some(place.clone());
        let (mode, mtime, ctime) = (node.mode, node.mtime, node.ctime);
        self.save(node)?;
        if let Some(conflict) = conflict {
            self.resolve_conflict(conflict)?;
        }
        self.tx.put(RowKey::Alias(ino), Value::Alias(of))?;
        self.stand_beside(of, ino)?;
        if let Some(mut main) = self.row_of(of)? {
            main.joined = main.joined.max(Some(self.id));
            main.mode &= mode | !PRIVILEGES;
            main.mtime = main.mtime.max(mtime);
            main.ctime = main.ctime.max(ctime);
            let is_file = main.kind == FileKind::File;
            self.save(main)?;
            if is_file {
                self.name_same(of, theirs, ours)?;
            }
        }
        Ok(())
    }

    /// Says that a content that a node had which `main` stands for is one that `main` has or had: who had
    /// the node open goes on from that.
    fn name_same(&mut self, main: Ino, theirs: OpId, ours: OpId) -> Result<()> {
        if theirs == ours {
            return Ok(());
        }
        let key = RowKey::Fork(main, theirs);
        self.tx.put(key, Value::Fork(Fork::Same(ours)))
    }

    /// Lets what stood behind or beside a node, which another one stands for now, stand there.
    fn stand_behind(&mut self, other: Ino, from: Ino, of: Ino) -> Result<()> {
        let Some(mut node) = self.row_of(other)? else {
            return Ok(());
        };
        if let Some(twin) = node.kin.twin.as_mut().filter(|twin| twin.of == from) {
            twin.of = of;
            twin.seen.retain(|op| *op != self.id);
            twin.seen.push(self.id);
            self.save(node)?;
            self.tx.put(RowKey::Alias(other), Value::Alias(of))?;
        }
        self.stand_beside(of, other)
    }

    /// Notes that a node is compared with another one from now on.
    pub(super) fn stand_beside(&mut self, main: Ino, other: Ino) -> Result<()> {
        let Some(mut main) = self.row_of(main)?.filter(|main| !main.is_dir()) else {
            return Ok(());
        };
        if main.kin.beside.contains(&other) || main.ino == other {
            return Ok(());
        }
        let mut kept = Vec::new();
        for ino in std::mem::take(&mut main.kin.beside) {
            if self.is_beside(ino, main.ino)? {
                kept.push(ino);
            }
        }
        main.kin.beside = kept;
        let beside = &mut main.kin.beside;
        let is_full = beside.len() >= BESIDE_MAX;
        let is_behind = self.is_behind(other, main.ino)?;
        if is_behind && is_full {
            // Whom it stands for it has to know: one that is only compared gives way.
            for ino in beside.clone() {
                if !self.is_behind(ino, main.ino)? {
                    beside.retain(|beside| *beside != ino);
                    break;
                }
            }
        }
        if is_behind || !is_full {
            beside.push(other);
        }
        self.save(main)
    }

    /// Tells whether `main` stands for a node.
    fn is_behind(&mut self, ino: Ino, main: Ino) -> Result<bool> {
        let node = self.row_of(ino)?;
        let twin = node.and_then(|node| node.kin.twin.clone());
        Ok(twin.is_some_and(|twin| twin.of == main))
    }

    /// Tells whether a node stands aside of another, or that stands for it.
    fn is_beside(&mut self, ino: Ino, main: Ino) -> Result<bool> {
        let Some(node) = self.row_of(ino)? else {
            return Ok(false);
        };
        Ok(match (&node.kin.twin, node.conflict) {
            (Some(twin), _) => twin.of == main,
            (None, Some(conflict)) => self.kept_beside(conflict, ino)? == Some(main),
            (None, None) => false,
        })
    }

    /// Returns what has the name that a node stands aside of by a conflict.
    fn kept_beside(&mut self, conflict: OpId, ino: Ino) -> Result<Option<Ino>> {
        Ok(match self.tx.get(RowKey::Conflict(conflict))? {
            Some(Value::Conflict(conflict)) => {
                let Conflict {
                    other, ino: kept, ..
                } = conflict;
                (*other == Some(ino)).then_some(*kept)
            }
            _ => None,
        })
    }

    /// Takes a node out from behind another one; returns that and the op that put the node where it
    /// was. It has no name then.
    fn reveal(&mut self, ino: Ino) -> Result<Option<Twin>> {
        let node = self.row_of(ino)?;
        let Some(mut node) = node.filter(|node| node.kin.twin.is_some()) else {
            return Ok(None);
        };
        let Some(twin) = node.kin.twin.take() else {
            return Ok(None);
        };
        self.save(node)?;
        self.tx.delete(RowKey::Alias(ino))?;
        if let Some(mut main) = self.row_of(twin.of)? {
            main.kin.beside.retain(|beside| *beside != ino);
            self.save(main)?;
        }
        // Until it has a name, it is as one that lost it.
        let (by, had) = (self.id, twin.by);
        let removed = Value::Orphan(Removed { by, had });
        self.tx.put(RowKey::Orphan(ino), removed)?;
        Ok(Some(twin))
    }

    /// Takes a node out from behind another one because its author, who had not seen that, moves it.
    pub(super) fn stand_alone(&mut self, ino: Ino) -> Result<()> {
        self.reveal(ino).map(|_| ())
    }

    /// Returns the node that stands for a node, or that itself.
    pub(super) fn standing(&mut self, node: Option<Inode>) -> Result<Option<Inode>> {
        match node.as_ref().and_then(|node| node.kin.twin.as_ref()) {
            Some(twin) => self.row_of(twin.of),
            None => Ok(node),
        }
    }

    /// Removes a node behind another one, which its author had not seen; says whether it was one.
    pub(super) fn unlink_twin(&mut self, from: &Place, ino: Ino, saw: OpId) -> Result<bool> {
        let Some(node) = self.inode(ino)?.filter(|node| node.kin.twin.is_some()) else {
            return Ok(false);
        };
        let parent = self.inode(from.parent)?.map_or(from.parent, |dir| dir.ino);
        let home = match &node.home {
            Some(home) => self
                .inode(home.parent)?
                .map(|dir| (dir.ino, home.name.clone())),
            None => None,
        };
        let is_there = home == Some((parent, from.name.clone()));
        let (holder, version) = self.locate(node.ino, saw)?;
        if is_there && (node.version == saw || (holder, version) == (node.ino, node.version)) {
            self.reveal(node.ino)?;
        }
        Ok(true)
    }

    /// Gives the place that a node lost to one that it stood for, unless the author of the op meant
    /// both: then that goes the same way.
    pub(super) fn succeed(&mut self, ino: Ino, place: &Place, time: Timespec) -> Result<()> {
        let Some((heir, by)) = self.heir(ino, place)? else {
            return Ok(());
        };
        if self.entry(place.parent, &place.name)?.is_none() {
            self.attach_by(heir, place, by, time)
        } else {
            let node = self.row_of(heir)?;
            let aside = node.map(|node| self.attach_aside(&node, place, by, time));
            aside.transpose().map(|_| ())
        }
    }

    /// Does the same where another node takes the place.
    pub(super) fn succeed_aside(
        &mut self,
        ino: Ino,
        kept: Ino,
        place: &Place,
        time: Timespec,
    ) -> Result<()> {
        let Some((heir, by)) = self.heir(ino, place)? else {
            return Ok(());
        };
        let Some(node) = self.row_of(heir)? else {
            return Ok(());
        };
        let aside = self.attach_aside(&node, place, by, time)?;
        self.name_conflict(kept, place, &node, aside, by)
    }

    /// Returns the node that is to have the place that another one lost, of those that it stood for,
    /// and the op that put it there; the others stand behind that then.
    fn heir(&mut self, ino: Ino, place: &Place) -> Result<Option<(Ino, OpId)>> {
        let Some(main) = self.row_of(ino)? else {
            return Ok(None);
        };
        let mut heir: Option<(Ino, OpId)> = None;
        for other in main.kin.beside.clone() {
            let Some(node) = self.row_of(other)? else {
                continue;
            };
            let Some(twin) = node.kin.twin.clone().filter(|twin| twin.of == ino) else {
                continue;
            };
            if self.knows(&twin) {
                if main.is_orphan() {
                    self.follow_removed(other, &main)?;
                }
                continue;
            }
            // One that was put elsewhere goes where the other is.
            if main.nlink > 0 && node.home.as_ref() != Some(place) {
                continue;
            }
            match heir {
                None => {
                    self.reveal(other)?;
                    heir = Some((other, twin.by));
                }
                Some((heir, _)) => self.stand_behind(other, ino, heir)?,
            }
        }
        Ok(heir)
    }

    /// Lets a node that is removed together with the one that stood for it be kept as that is.
    fn follow_removed(&mut self, ino: Ino, main: &Inode) -> Result<()> {
        // A move takes the last name off for a moment.
        if self.tx.get(RowKey::Orphan(main.ino))?.is_some() {
            self.reveal(ino)?;
        }
        Ok(())
    }

    /// Compares a node whose content changed with those that say or may say the same.
    pub(super) fn settle_equal(&mut self, ino: Ino, time: Timespec) -> Result<()> {
        let Some(mut node) = self.row_of(ino)?.filter(|node| !is_private(node.ino)) else {
            return Ok(());
        };
        if let Some(mut twin) = node.kin.twin.clone() {
            let Some(main) = self.row_of(twin.of)? else {
                return self.come_out(ino, time);
            };
            if let Some(said) = self.said(&node, &main)? {
                let (of, version) = (twin.of, node.version);
                twin.same = (version, said);
                twin.seen.push(self.id);
                node.kin.twin = Some(twin);
                self.save(node)?;
                return self.name_same(of, version, said);
            }
            // What both said is what the other still says: it is this one that went on from it.
            let is_next = main.version == twin.same.1 && main.nlink == 1;
            return match main.home.clone() {
                Some(place) if is_next => self.change_places(ino, &main, &place, time),
                _ => self.come_out(ino, time),
            };
        }
        if let Some(conflict) = node.conflict
            && let Some(kept) = self.kept_beside(conflict, ino)?
            && self.become_one(ino, kept, time)?
        {
            return Ok(());
        }
        for other in node.kin.beside.clone() {
            let beside = self.row_of(other)?;
            let conflict = beside.and_then(|beside| beside.conflict);
            if let Some(conflict) = conflict
                && self.kept_beside(conflict, other)? == Some(ino)
            {
                self.become_one(other, ino, time)?;
            }
        }
        Ok(())
    }

    /// Lets what stood aside of a file stand aside of the one that was moved over that: a file that is
    /// saved by moves over itself stays one lineage.
    pub(super) fn stay_beside(&mut self, replaced: Ino, ino: Ino, time: Timespec) -> Result<()> {
        let Some(before) = self.row_of(replaced)? else {
            return Ok(());
        };
        for other in before.kin.beside.clone() {
            let node = self.row_of(other)?;
            let Some(op) = node.and_then(|node| node.conflict) else {
                continue;
            };
            let key = RowKey::Conflict(op);
            let row = match self.tx.get(key)? {
                Some(Value::Conflict(row)) => row.clone(),
                _ => continue,
            };
            if row.ino == replaced && row.other == Some(other) {
                self.tx.put(key, Value::Conflict(Conflict { ino, ..row }))?;
                self.stand_beside(ino, other)?;
            }
        }
        self.settle_equal(ino, time)
    }

    /// Returns where a node met the one that it stands aside of, where that is still there; else a
    /// place of that.
    fn place_met(&mut self, node: &Inode, main: &Inode) -> Result<Option<Place>> {
        let row = match node.conflict {
            Some(conflict) => self.tx.get(RowKey::Conflict(conflict))?,
            None => None,
        };
        if let Some(Value::Conflict(Conflict {
            place: Some(place), ..
        })) = row
        {
            let place = place.clone();
            let there = self.entry(place.parent, &place.name)?;
            if there.is_some_and(|there| there.ino == main.ino) {
                return Ok(Some(place));
            }
        }
        Ok(main.home.clone())
    }

    /// Lets a node take the place of the one that stood for it, and stand for that.
    fn change_places(
        &mut self,
        ino: Ino,
        main: &Inode,
        place: &Place,
        time: Timespec,
    ) -> Result<()> {
        let there = self.entry(place.parent, &place.name)?;
        let (Some(there), Some(twin)) = (there, self.reveal(ino)?) else {
            return Ok(());
        };
        self.detach(main.ino, place, time)?;
        self.attach_by(ino, place, twin.by, time)?;
        let Some(node) = self.row_of(ino)? else {
            return Ok(());
        };
        let (theirs, ours) = twin.same;
        let back = self.twin(&node, (ours, theirs), there.by, twin.by, main.written_by);
        self.hide(main.ino, place, back)
    }

    /// Lets `kept` stand for a node that stood aside of it, where they say the same.
    fn become_one(&mut self, ino: Ino, kept: Ino, time: Timespec) -> Result<bool> {
        let (Some(node), Some(main)) = (self.row_of(ino)?, self.row_of(kept)?) else {
            return Ok(false);
        };
        let place = self.place_met(&node, &main)?;
        let (Some(home), Some(place)) = (node.home.clone(), place) else {
            return Ok(false);
        };
        let is_pair = ino != kept && node.nlink == 1 && main.nlink > 0 && main.kin.twin.is_none();
        let beside = &main.kin.beside;
        let has_room = beside.len() < BESIDE_MAX || beside.contains(&ino);
        if !is_pair || !has_room {
            return Ok(false);
        }
        let Some(said) = self.said(&node, &main)? else {
            return Ok(false);
        };
        let (Some(aside), Some(there)) = (
            self.entry(home.parent, &home.name)?,
            self.entry(place.parent, &place.name)?,
        ) else {
            return Ok(false);
        };
        self.detach(ino, &home, time)?;
        let same = (node.version, said);
        let twin = self.twin(&main, same, aside.by, there.by, node.written_by);
        self.hide(ino, &place, twin)?;
        Ok(true)
    }

    /// Gives a node that differs from the one that stood for it a name beside that.
    fn come_out(&mut self, ino: Ino, time: Timespec) -> Result<()> {
        let Some(twin) = self.reveal(ino)? else {
            return Ok(());
        };
        let Some(node) = self.row_of(ino)? else {
            return Ok(());
        };
        let home = match self.row_of(twin.of)? {
            Some(main) if !main.is_orphan() => main.home,
            _ => node.home.clone(),
        };
        let place = self.beside(home, ino, time)?;
        let there = self.entry(place.parent, &place.name)?;
        if let Some(there) = there.filter(|there| there.ino == twin.of && there.by < twin.by)
            && let Some(main) = self.row_of(twin.of)?
        {
            // The later one has the name.
            self.detach(main.ino, &place, time)?;
            let aside = self.attach_aside(&main, &place, there.by, time)?;
            self.attach_by(ino, &place, twin.by, time)?;
            return self.name_conflict(ino, &place, &main, aside, there.by);
        }
        let aside = self.attach_aside(&node, &place, twin.by, time)?;
        self.name_conflict(twin.of, &place, &node, aside, twin.by)
    }

    /// Notes that this op made the content that a file has as well.
    pub(super) fn made_as_well(&mut self, node: &mut Inode) {
        if node.kin.made.is_empty() {
            node.kin.made.push(node.written_by);
        }
        if node.kin.made.len() < MADE_MAX {
            node.kin.made.push(self.id);
        }
    }

    /// Takes a content from those who made it and whom the author of this op had seen; tells whether
    /// others are left whose content it is.
    pub(super) fn leave_unseen(&mut self, node: &Inode) -> Result<bool> {
        let unseen: Vec<OpId> = node
            .kin
            .made
            .iter()
            .copied()
            .filter(|op| !self.saw(*op))
            .collect();
        if unseen.is_empty() {
            return Ok(false);
        }
        if let Some(mut node) = self.row_of(node.ino)? {
            node.kin.made = unseen;
            self.save(node)?;
        }
        Ok(true)
    }
}
