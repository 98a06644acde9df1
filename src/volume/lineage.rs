//! Which file a number stands for that the kernel has.
//!
//! The kernel has one cache of pages for a number, whatever the programs that hold it open have done. So
//! a file that was open here to be written stays with its content: where that loses its name in a
//! merge, the number goes along to the conflict file, and who looks the name up gets another number,
//! which is known on this machine alone. No op and no row says so; nothing of it outlives the mount.
//!
//! A *number* below is what the kernel has, a *file* what ops and rows are about. Nearly always the
//! two are one.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::aside::not_aside;
use super::fold::locate;
use super::overlay::{Base, Overlay};
use super::rows::{RowKey, Value};
use super::state::State;
use super::types::{Change, DirKey, Inode, Place};
use super::view::{as_inode, is_private, private_of};
use super::{Result, Volume};
use crate::base::{Ino, OpId, Rng};
use crate::store::Batch;

/// Longest chain of files that stand for one another that is followed.
const HOPS_MAX: usize = 64;

/// Numbers that are tried for a file that cannot have its own.
const NUMBERS_TRIED_MAX: usize = 64;

/// Which number stands for which file.
#[derive(Debug, Default)]
pub(super) struct Lineages {
    /// A leaf lock, but for those of the view.
    tables: RwLock<Tables>,
    /// How many numbers stand for another file than that of the same number: nearly always none.
    others: AtomicUsize,
}

#[derive(Debug, Default)]
struct Tables {
    /// Numbers that stay with their content.
    kept: HashSet<Ino>,
    /// Numbers that stand for another file than that of the same number, and for which.
    files: HashMap<Ino, Ino>,
    /// Files that are shown under another number than their own, and under which.
    numbers: HashMap<Ino, Ino>,
    /// Numbers that are no file's own, of those in `files`.
    local: HashSet<Ino>,
    /// Numbers that are about to stand for the file of the same number again.
    returning: HashSet<Ino>,
}

/// A number that goes to another file.
#[derive(Debug)]
pub(super) struct Move {
    number: Ino,
    from: Ino,
    to: Ino,
}

impl Tables {
    fn file(&self, number: Ino) -> Ino {
        self.files.get(&number).copied().unwrap_or(number)
    }

    /// Lets a number stand for a file, which is shown under it from then on.
    fn move_number(&mut self, number: Ino, to: Ino) {
        let from = self.file(number);
        if self.numbers.get(&from) == Some(&number) {
            self.numbers.remove(&from);
        }
        if number == to {
            self.files.remove(&number);
            self.numbers.remove(&to);
        } else {
            self.files.insert(number, to);
            self.numbers.insert(to, number);
        }
    }

    /// Lets a number stand for the file of the same number, if any.
    fn free(&mut self, number: Ino) {
        if let Some(file) = self.files.remove(&number)
            && self.numbers.get(&file) == Some(&number)
        {
            self.numbers.remove(&file);
        }
        self.local.remove(&number);
        self.returning.remove(&number);
    }

    /// Returns the number under which a file is shown; `None` where its own is another's.
    fn number(&self, file: Ino) -> Option<Ino> {
        match self.numbers.get(&file) {
            Some(number) => Some(*number),
            None => (!self.files.contains_key(&file)).then_some(file),
        }
    }
}

impl Lineages {
    /// Returns the file that a number stands for.
    pub(super) fn file(&self, number: Ino) -> Ino {
        match self.others.load(Ordering::SeqCst) {
            0 => number,
            _ => self.tables.read().file(number),
        }
    }

    /// Returns what stands for what now, of which nothing goes anywhere.
    pub(super) fn as_they_are(&self) -> Self {
        let tables = self.tables.read();
        let (files, numbers) = (tables.files.clone(), tables.numbers.clone());
        Self {
            others: AtomicUsize::new(files.len() + numbers.len()),
            tables: RwLock::new(Tables {
                files,
                numbers,
                ..Tables::default()
            }),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Tables) -> T) -> T {
        let mut tables = self.tables.write();
        let result = change(&mut tables);
        let others = tables.files.len() + tables.numbers.len();
        self.others.store(others, Ordering::SeqCst);
        result
    }
}

impl Volume {
    /// Keeps a number with its content from now on: it is open to be written.
    pub fn keep_lineage(&self, number: Ino) {
        self.lineages.tables.write().kept.insert(number);
    }

    /// Takes back [`Volume::keep_lineage`]: nobody has the number open any more.
    pub fn let_lineage_go(&self, number: Ino) {
        self.lineages.tables.write().kept.remove(&number);
    }

    /// Returns the file that a number stands for.
    pub fn file_of(&self, number: Ino) -> Ino {
        self.lineages.file(number)
    }

    /// Returns the number under which a file is shown.
    pub fn number_of(&self, file: Ino) -> Ino {
        if self.lineages.others.load(Ordering::SeqCst) == 0 {
            return file;
        }
        if let Some(number) = self.lineages.tables.read().number(file) {
            return number;
        }
        self.lineages.change(|tables| {
            // Somebody else may have been here.
            if let Some(number) = tables.number(file) {
                return number;
            }
            let number = self.free_number(tables);
            tables.files.insert(number, file);
            tables.numbers.insert(file, number);
            tables.local.insert(number);
            number
        })
    }

    /// Returns all numbers that stand for a file.
    pub fn numbers_of(&self, file: Ino) -> Vec<Ino> {
        if self.lineages.others.load(Ordering::SeqCst) == 0 {
            return vec![file];
        }
        let tables = self.lineages.tables.read();
        let own = (tables.file(file) == file).then_some(file);
        let others = tables.files.iter().filter(|(_, of)| **of == file);
        own.into_iter()
            .chain(others.map(|(number, _)| *number))
            .collect()
    }

    /// Lets a number stand for the file of the same number, if any, that the kernel has forgotten, as
    /// `is_known` says: not where it got to know it again.
    pub fn forget_number(&self, number: Ino, is_known: impl FnOnce() -> bool) {
        if self.lineages.others.load(Ordering::SeqCst) == 0 {
            return;
        }
        self.lineages.change(|tables| {
            if tables.files.contains_key(&number) && !is_known() {
                tables.free(number);
            }
        });
    }

    /// Shows files under their own numbers from now on whose numbers nobody has open, nor those of the
    /// files that have these by right: as `is_open` says. Returns these numbers, each with the names
    /// that are to be looked up anew.
    ///
    /// When the kernel has taken that in, [`Volume::restore_number`] gives a number back.
    pub fn retire_numbers(&self, is_open: impl Fn(Ino) -> bool) -> Vec<(Ino, Vec<Place>)> {
        if self.lineages.others.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let retired = self.lineages.change(|tables| {
            let all: Vec<(Ino, Ino)> = tables.files.iter().map(|(of, to)| (*of, *to)).collect();
            let mut retired = Vec::new();
            for (number, file) in all {
                let is_shown = tables.numbers.get(&file) == Some(&number);
                let other = tables.numbers.get(&number).copied();
                let is_in_use = is_open(number) || other.is_some_and(&is_open);
                let is_local = tables.local.contains(&number);
                let is_done = tables.returning.contains(&number) || is_local && !is_shown;
                if is_in_use || is_done || tables.files.contains_key(&file) {
                    continue;
                }
                if is_shown {
                    tables.numbers.remove(&file);
                }
                if !is_local {
                    tables.returning.insert(number);
                }
                retired.push((number, file));
            }
            retired
        });
        let retired = retired.into_iter();
        retired
            .map(|(number, file)| (number, self.places_or_none(file)))
            .collect()
    }

    /// Lets a number stand for the file of the same number that [`Volume::retire_numbers`] took from
    /// another, where still nobody has it open. Returns the names of the file, which are to be looked up
    /// anew.
    pub fn restore_number(&self, number: Ino, is_open: impl Fn(Ino) -> bool) -> Option<Vec<Place>> {
        if self.lineages.others.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let is_restored = self.lineages.change(|tables| {
            let other = tables.numbers.get(&number).copied();
            if !tables.returning.remove(&number) || is_open(number) || other.is_some_and(is_open) {
                return false;
            }
            tables.free(number);
            tables.numbers.remove(&number);
            true
        });
        if !is_restored {
            return None;
        }
        self.drop_unheld();
        Some(self.places_or_none(number))
    }

    /// Reads what belongs together of the file that a number stands for, so that no merge comes in
    /// between where the number is kept with its content. `read` waits for no writer and looks up no
    /// names.
    pub fn undisturbed<T>(&self, number: Ino, read: impl FnOnce() -> T) -> T {
        let _merging = self.is_kept(number).then(|| self.view.merging.read());
        read()
    }

    fn is_kept(&self, number: Ino) -> bool {
        self.lineages.tables.read().kept.contains(&number)
    }

    /// Returns a number that neither a file nor anything else has.
    fn free_number(&self, tables: &Tables) -> Ino {
        let drawn = |rng: &Rng| Ino(not_aside(rng.below(1 << 63)));
        for _ in 0..NUMBERS_TRIED_MAX {
            let number = drawn(&self.context.rng);
            let is_taken = number <= Ino::ROOT
                || tables.files.contains_key(&number)
                || !matches!(self.view.row(&RowKey::Inode(number)), Ok(None));
            if !is_taken {
                return number;
            }
        }
        // Where rows cannot be read: of 63 bits the next draw is as good.
        drawn(&self.context.rng)
    }

    /// Lets a number stand for another file from now on.
    pub(super) fn move_number(&self, number: Ino, to: Ino) {
        self.lineages
            .change(|tables| tables.move_number(number, to));
    }

    /// Commits what a merge did; returns what kernel caches have to forget. Numbers that are kept go
    /// where their content goes, at once with it.
    pub(super) fn commit_merge(
        &self,
        state: &mut State,
        overlay: Overlay,
        batch: Batch,
    ) -> Result<Vec<Change>> {
        let (view, nothing) = (&self.view, Overlay::default());
        let base = |overlay| Base {
            view,
            overlay,
            committed: &state.chain.committed,
        };
        let differs = |ino| overlay.row(&RowKey::Inode(ino)).is_some();
        let moves = self.moves(base(&nothing), base(&overlay), &differs)?;
        // Of what is made beside the view nobody is told.
        let now = self.layer.is_some().then(|| self.context.clock.wall());
        let merging = self.view.merging.write();
        let mut changes = state.commit(&self.view, overlay, batch, now)?;
        self.move_numbers(&moves);
        drop(merging);
        changes.extend(self.renamed_by(moves));
        Ok(changes)
    }

    /// Lets numbers go to other files.
    pub(super) fn move_numbers(&self, moves: &[Move]) {
        if moves.is_empty() {
            return;
        }
        self.lineages.change(|tables| {
            for Move { number, to, .. } in moves {
                tables.move_number(*number, *to);
            }
        });
    }

    /// Returns what is to be looked up anew after numbers went to other files.
    pub(super) fn renamed_by(&self, moves: Vec<Move>) -> Vec<Change> {
        let files = moves.into_iter().flat_map(|moved| [moved.from, moved.to]);
        files.flat_map(|file| self.renamed(file)).collect()
    }

    /// Returns which of the numbers that are kept go to another file with a merge; the rows of which inodes
    /// it changes `differs` says.
    pub(super) fn moves(
        &self,
        before: Base<'_>,
        after: Base<'_>,
        differs: &dyn Fn(Ino) -> bool,
    ) -> Result<Vec<Move>> {
        let tables = self.lineages.tables.read();
        let mut moves = Vec::new();
        if tables.kept.is_empty() {
            return Ok(moves);
        }
        for number in &tables.kept {
            let from = tables.file(*number);
            // What is changed in private is nobody's but of who changes it, also when the file is back.
            if is_private(from) || self.view.effective(from) != from {
                let row = match differs(from) {
                    true => after.row(&RowKey::Inode(from))?,
                    false => None,
                };
                let inode = row.as_ref().map(as_inode).transpose()?;
                if inode.is_some_and(|inode| !inode.is_orphan()) {
                    let (number, to) = (*number, private_of(from));
                    moves.push(Move { number, from, to });
                }
                continue;
            }
            let Some(was) = stands_for(before, from)? else {
                continue;
            };
            if !differs(was.ino) && !differs(from) {
                continue;
            }
            let mut to = goes_on(after, from, was.version)?;
            if !has(after, to, was.version)? {
                // It was one with another file, and has its own content again; or where it goes on is said of
                // the file under whose number it was written.
                for file in [was.ino, *number].into_iter().chain(was.origin) {
                    let other = goes_on(after, file, was.version)?;
                    if has(after, other, was.version)? {
                        to = other;
                        break;
                    }
                }
            }
            if let (None, Some(origin)) = (to, was.origin) {
                // What stood aside does so no longer.
                to = goes_on(after, origin, was.version)?;
            }
            let Some(to) = to else {
                continue;
            };
            let is_there = |file: Ino| Ok(stands_for(after, file)?.is_some_and(|at| at.ino == to));
            let is_there: Result<bool> = is_there(from);
            if !is_there? {
                let number = *number;
                moves.push(Move { number, from, to });
            }
        }
        Ok(moves)
    }

    /// Returns the names of a file as what is to be looked up anew.
    fn renamed(&self, file: Ino) -> Vec<Change> {
        let places = self.places_or_none(file);
        let renamed = places.into_iter().map(|place| Change::Entry {
            parent: place.parent,
            name: place.name,
            gone: None,
        });
        renamed.collect()
    }

    /// Returns the names of a file; none where rows cannot be read: those stay in the kernel until their
    /// time is up.
    fn places_or_none(&self, file: Ino) -> Vec<Place> {
        self.places(file).unwrap_or_else(|error| {
            tracing::warn!(%error, "not all names of a file are looked up anew");
            Vec::new()
        })
    }

    fn places(&self, file: Ino) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        let Some(inode) = self.view.inode(file)?.filter(|inode| !inode.is_orphan()) else {
            return Ok(places);
        };
        let low = DirKey([0; 16]);
        let from = RowKey::Link(inode.ino, Ino(0), low);
        let to = RowKey::Link(Ino(inode.ino.0.saturating_add(1)), Ino(0), low);
        self.view.scan(&from, &to, &mut |_, row| {
            if let Value::Link(place) = &row.value {
                places.push(place.clone());
            }
            ControlFlow::Continue(())
        })?;
        if places.is_empty() {
            places.extend(inode.home);
        }
        Ok(places)
    }
}

/// Returns the file that stands for a file.
fn stands_for(base: Base<'_>, file: Ino) -> Result<Option<Inode>> {
    let mut at = file;
    for _ in 0..HOPS_MAX {
        let Some(row) = base.row(&RowKey::Inode(at))? else {
            return Ok(None);
        };
        let inode = as_inode(&row)?;
        match &inode.kin.twin {
            Some(twin) => at = twin.of,
            None => return Ok(Some(inode.clone())),
        }
    }
    Ok(None)
}

/// Returns in which file the content goes on that `version` of a file names; `None` where none has it.
fn goes_on(base: Base<'_>, file: Ino, version: OpId) -> Result<Option<Ino>> {
    let Some(at) = stands_for(base, file)? else {
        return Ok(None);
    };
    if at.version == version {
        return Ok(Some(at.ino));
    }
    let holder = locate(base, at.ino, version)?;
    Ok(stands_for(base, holder)?.map(|there| there.ino))
}

/// Says whether a file has the content that `version` names.
fn has(base: Base<'_>, file: Option<Ino>, version: OpId) -> Result<bool> {
    let inode = file.map(|file| stands_for(base, file)).transpose()?;
    Ok(inode
        .flatten()
        .is_some_and(|inode| inode.version == version))
}
