//! Folding anew: the rows of the view from record 0 on, out of the signed segments and the records of
//! the chain alone, and what differs put in the place of what was there.
//!
//! A second volume over the same logs and chain folds into rows beside those that are used, by the one
//! path by which everything is folded. So whatever is wrong with the rows in use goes in. What only
//! this machine has stays: drafts that no segment holds yet are folded last, and times of access and
//! arrival, private copies, pins and settings lie in rows that are not looked at here.
//!
//! A crash or a full disk leaves the rows as they were until all that differs lies in a layer of rows; one
//! batch says that it counts, and it is moved to its tables from then on ([`super::large`]). A volume with
//! the mark of one that is to be folded anew is, when it is opened.

use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::changes::Changes;
use super::committed::Rank;
use super::drafts::{self, Group};
use super::feed::{Feed, Merged};
use super::folded::RECORD_KEY;
use super::merge::Merge;
use super::record::Record as Undo;
use super::rows::{RowKey, Stored};
use super::sight::{self, Past, Sights};
use super::state::{self, State};
use super::todo::Todo;
use super::types::{Change, DirKey, Field, Inode};
use super::view::is_private;
use super::{Result, Volume, VolumeConfig, VolumeContext, VolumeError};
use crate::base::{DeviceId, Ino, LogId, OpId};
use crate::log::chain::Record;
use crate::store::{Batch, BesideRows, LayeredRows, Rows, Table};
use crate::wire::RecordRef;

/// The tables that a fold fills.
pub(super) const FOLDED: &[Table] = &[
    Table::Meta,
    Table::Inode,
    Table::Dirent,
    Table::Extent,
    Table::Xattr,
    Table::Orphan,
    Table::Alias,
    Table::Fork,
    Table::Conflict,
    Table::Device,
    Table::Op,
    Table::Draft,
    Table::Applied,
    Table::Volume,
    Table::OpPart,
    Table::Committed,
    Table::Arrival,
    Table::Dated,
    Table::Undone,
    Table::History,
];

/// Those of them that all members share.
pub(super) const SHARED: &[Table] = &[
    Table::Inode,
    Table::Dirent,
    Table::Extent,
    Table::Xattr,
    Table::Orphan,
    Table::Alias,
    Table::Fork,
    Table::Conflict,
    Table::Device,
    Table::Volume,
];

/// Those that say how far it is, and what can still be folded again.
const LOCAL: &[Table] = &[
    Table::Op,
    Table::OpPart,
    Table::Draft,
    Table::Applied,
    Table::Committed,
    Table::Dated,
    Table::History,
];

/// The mark: what is here is to be folded anew.
const ANEW_KEY: &[u8] = b"volume/anew";

/// Rows, and bytes of them, that are compared in one go.
const SLICE_ROWS: usize = 1024;
const SLICE_BYTES: usize = 4 << 20;

/// What differs is put beside in batches of about so many bytes.
const STEP_BYTES: usize = 256 << 10;

/// Drafts folded in one batch.
const DRAFTS_SLICE: usize = 512;

/// What [`Volume::fold_anew`] found and did.
#[derive(Debug, Default)]
pub struct Anew {
    /// What kernel caches have to forget.
    pub changes: Changes,
    /// How many rows of those that all members share were others than they have to be; they are mended.
    pub differing: usize,
    /// Own changes that no segment held yet and that cannot be read any more.
    pub lost: usize,
}

/// A row that is not as it has to be.
struct Difference<'a> {
    table: Table,
    key: &'a [u8],
    used: Option<&'a [u8]>,
    anew: Option<&'a [u8]>,
}

impl Volume {
    /// Puts that the next opening of the volume folds it anew.
    pub fn ask_anew(batch: &mut Batch) {
        batch.put(Table::Meta, ANEW_KEY, []);
    }

    /// Tells whether a checkpoint is to be taken over before anything is folded: where the rows are to be made
    /// anew, or do not reach to where the logs begin.
    pub fn awaits_checkpoint(&self) -> Result<bool> {
        let floors = self.config.log.floors();
        if floors.is_empty() {
            return Ok(false);
        }
        let is_below = |record: Record| {
            let mut names = record.segments.iter();
            names.any(|name| floors.get(&name.log) >= Some(&name.seg_no))
        };
        Ok(Self::is_anew_asked(&*self.view.rows)?
            || !self.unfolded(&floors).is_empty()
            || self.unfolded_record()?.is_some_and(is_below))
    }

    /// Tells whether that was asked for.
    pub(super) fn is_anew_asked(rows: &dyn Rows) -> Result<bool> {
        Ok(rows.get(Table::Meta, ANEW_KEY)?.is_some())
    }

    /// Folds everything anew from record 0, and puts what differs in the place of what is there. Own
    /// changes go on in the meantime, but for the last moment, in which the rows are compared.
    ///
    /// # Errors
    ///
    /// [`VolumeError::NotHere`] where a segment that was folded is not here any more, or does not open:
    /// nothing is changed then. Else those of the store; a crash or an error in between leaves what was
    /// there.
    pub fn fold_anew(&self) -> Result<Anew> {
        self.fold_anew_on(|_| Ok(()))
    }

    /// Does that from what `lay` lays beside on.
    pub(super) fn fold_anew_on(&self, lay: impl FnOnce(&BesideRows) -> Result<()>) -> Result<Anew> {
        tracing::info!("folding everything anew");
        let beside = Arc::new(BesideRows::new(Arc::clone(&self.view.rows), FOLDED)?);
        let folded = lay(&beside).and_then(|()| {
            let is_whole = beside.get(Table::Meta, RECORD_KEY)?.is_none();
            self.fold_beside(&beside, is_whole)
        });
        if let Err(error) = beside.clear() {
            tracing::warn!(%error, "what was folded beside is not removed yet");
        }
        match &folded {
            Ok(anew) => {
                tracing::info!(rows = anew.differing, "folded anew: so many rows differed");
                let mut done = Batch::new();
                done.delete(Table::Meta, ANEW_KEY);
                if let Err(error) = self.view.rows.commit(done) {
                    tracing::warn!(%error, "the next opening folds it anew again");
                }
            }
            Err(error) => tracing::warn!(%error, "not folded anew"),
        }
        folded
    }

    /// Takes the state out of the rows as they are now.
    fn load_anew(&self, state: &mut State, own: &[LogId]) -> Result<()> {
        let first = self.config.chain.get(0)?.map(|record| record.reference());
        let alone = state.trimmed.alone;
        let mut fresh = State::load(&*self.view.rows, own, first.unwrap_or_default(), alone)?;
        fresh.keep_of(state);
        fresh.chain.last_ms = self.last_ms(&fresh)?;
        let fence = self.config.chain.fence_at(fresh.chain.record.number);
        fresh.chain.fence = Some(Arc::new(fence));
        self.hlc.observe(fresh.newest.stamp);
        *state = fresh;
        Ok(())
    }

    /// Lets `lay` lay rows into the tables of a volume that has folded nothing and has nothing of its own; returns
    /// `None` where it has. `lay` says how many rows all members share.
    ///
    /// Nothing has a time of arrival then: programs that look for changes have not looked at that volume here. At
    /// one that is mended they may have.
    pub(super) fn fill_on(
        &self,
        lay: &mut dyn FnMut(&dyn Rows) -> Result<usize>,
    ) -> Result<Option<Anew>> {
        let Some(layer) = &self.layer else {
            return Ok(None);
        };
        let _sealing = self.sealing.lock();
        let mut feed = self.feed.lock();
        if !self.state.lock().is_blank() || Self::is_anew_asked(&*self.view.rows)? {
            return Ok(None);
        }
        // History is this machine's own.
        let is_filled = |table: &&Table| **table != Table::History;
        let tables: Vec<Table> = FOLDED.iter().filter(is_filled).copied().collect();
        let Some(filling) = layer.fill(&tables)? else {
            return Ok(None);
        };
        // What was read ahead is read again.
        *feed = Feed::default();
        let laid = lay(filling.rows());
        let mut state = self.state.lock();
        let counts = laid.and_then(|differing| match state.is_blank() {
            true => Ok(differing),
            // Something was made here meanwhile.
            false => Err(VolumeError::Busy),
        });
        let differing = match counts {
            Ok(differing) => differing,
            Err(error) => {
                layer.abandon()?;
                return Err(error);
            }
        };
        {
            let _merging = self.view.merging.write();
            filling.end()?;
            self.view.forget();
        }
        self.each_alias(&mut |ino| self.view.arrivals.note_elsewhere(ino))?;
        let own = self.config.log.logs_of(self.device);
        self.load_anew(&mut state, &own)?;
        drop(state);
        tracing::info!(rows = differing, "took over what was laid");
        // Of an empty volume programs have seen that nothing is in its root.
        let mut changes = Changes::default();
        changes.push(&Change::Attr(Ino::ROOT));
        let key = |ino: Ino| ino.0.to_be_bytes();
        let (first, end) = (key(Ino::ROOT), key(Ino(Ino::ROOT.0 + 1)));
        let rows = &self.view.rows;
        rows.scan(Table::Dirent, &first, Some(&end), &mut |key, entry| {
            changes.extend(self.change_of(Table::Dirent, key, None, Some(entry)));
            ControlFlow::Continue(())
        })?;
        Ok(Some(Anew {
            changes,
            differing,
            lost: 0,
        }))
    }

    /// `is_whole` says that nothing was laid there: else history of before is in the rows in use alone.
    fn fold_beside(&self, beside: &Arc<BesideRows>, is_whole: bool) -> Result<Anew> {
        let layer = self.layer.as_ref().ok_or(VolumeError::TooMuch)?;
        let shadow = self.shadow(beside)?;
        shadow.state.lock().drafts.anchors = self.state.lock().drafts.seen();
        shadow.fold_all()?;
        let _sealing = self.sealing.lock();
        let mut feed = self.feed.lock();
        // What was read ahead and is not folded is read again.
        *feed = Feed::default();
        // Else what counts were lost. Who merges moves it, and tells what changes by that.
        self.check_moved()?;
        shadow.state.lock().drafts.anchors = self.state.lock().drafts.seen();
        let merged = shadow.fold_all()?;
        let mut state = self.state.lock();
        if merged.refused.is_empty() && merged.waiting.is_empty() {
            shadow.has_all(&self.config.log.vector())?;
        }
        self.is_covered_by(&shadow, &state)?;
        let alone = state.trimmed.alone;
        if alone {
            shadow.forget_sealed()?;
        }
        let own = self.config.log.logs_of(self.device);
        let lost = self.fold_drafts_into(&shadow, &own)?;
        let aside = {
            let anew = shadow.state.lock();
            let lost = self.lost_beside(&state, &shadow, &anew)?;
            self.keep_aside(lost.into_iter())?
        };
        // A file that is open stays what it is, whoever has its name now.
        let moves = self.moves_beside(&state, &shadow, &shadow.state.lock())?;
        let differing = self.lay_over(layer, beside, is_whole);
        if differing.is_err() {
            layer.abandon()?;
        }
        let differing = differing?;
        // What became one is asked for under the numbers of both as soon as it counts.
        shadow.each_alias(&mut |ino| self.view.arrivals.note_elsewhere(ino))?;
        {
            let _merging = self.view.merging.write();
            if let Err(error) = layer.turn() {
                layer.abandon()?;
                return Err(error.into());
            }
            self.view.forget();
            self.move_numbers(&moves);
        }
        self.load_anew(&mut state, &own)?;
        drop(state);
        let mut moved = Merged::default();
        if let Err(error) = self.move_layer(&mut moved) {
            // It counts: whoever merges next moves it.
            tracing::warn!(%error, "what was folded anew is not in its place yet");
        }
        moved.changes.extend(aside);
        moved.changes.extend(self.renamed_by(moves));
        Ok(Anew {
            changes: moved.changes,
            differing,
            lost,
        })
    }

    /// Returns a volume of the same logs and chain that has folded nothing, over the rows beside.
    fn shadow(&self, beside: &Arc<BesideRows>) -> Result<Self> {
        let mut config: VolumeConfig = self.config.clone();
        config.store.rows = Arc::<BesideRows>::clone(beside);
        let context = VolumeContext {
            clock: Arc::clone(&self.context.clock),
            rng: self.context.rng.clone(),
        };
        let mut shadow = Self::open_beside(config, context)?;
        // What has no name and is in use here stays.
        shadow.holds = Arc::clone(&self.holds);
        shadow.lineages = self.lineages.as_they_are();
        shadow.history = self.history.beside();
        Ok(shadow)
    }

    /// Folds all that is here and not folded.
    fn fold_all(&self) -> Result<Merged> {
        let mut merged = Merged::default();
        self.feed_and_commit(&mut Feed::default(), &mut merged)?;
        self.state.lock().index = None;
        self.trim_settled()?;
        Ok(merged)
    }

    /// Fails where a segment that is here, and counts, is not folded.
    fn has_all(&self, ends: &crate::wire::Vector) -> Result<()> {
        let mut counting = ends.clone();
        counting.extend(self.limits(&mut Feed::default(), ends)?);
        counting.retain(|_, end| *end > 0);
        let missing = self.unfolded(&counting);
        let Some(log) = missing.keys().next().copied() else {
            return Ok(());
        };
        let state = self.state.lock();
        Err(not_here(log, &state))
    }

    /// Fails where something that is folded in `state` is not folded in `shadow`.
    fn is_covered_by(&self, shadow: &Self, state: &State) -> Result<()> {
        let anew = shadow.state.lock();
        for (log, at) in state.progress.iter() {
            let there = anew.progress.get(log).map_or(0, |at| at.seg_no);
            // The rows anew may have a removal behind them that those in use have not: that is no loss.
            if there < at.seg_no && !anew.is_over(self, *log) {
                return Err(not_here(*log, &anew));
            }
        }
        let record = self.config.chain.get(state.chain.record.number)?;
        let is_of_chain = record.is_some_and(|record| record.reference() == state.chain.record);
        if is_of_chain && anew.chain.record.number < state.chain.record.number {
            return Err(VolumeError::Corrupt {
                what: "a record of the chain is missing",
            });
        }
        Ok(())
    }

    /// Gives up what would undo sealed ops, of a volume of one author: nothing sorts before them.
    fn forget_sealed(&self) -> Result<()> {
        let newest = self.state.lock().newest;
        self.set_stable(newest)?;
        let mut batch = Batch::new();
        let rows = &self.view.rows;
        rows.scan_keys(Table::Draft, &[], None, &mut |key| {
            batch.delete(Table::Draft, key);
            ControlFlow::Continue(())
        })?;
        Ok(rows.commit(batch)?)
    }

    /// Folds the own ops that no segment holds yet; returns how many cannot be read.
    fn fold_drafts_into(&self, shadow: &Self, own: &[LogId]) -> Result<usize> {
        let rows = &*self.view.rows;
        let mut anew = shadow.state.lock();
        let ids = drafts::ids_in(rows, own, &anew.progress)?;
        let (over, ids): (Vec<OpId>, Vec<OpId>) =
            ids.into_iter().partition(|id| anew.is_over(self, id.log));
        tracing::info!(count = over.len(), "changes made here count no more");
        let mut groups: Vec<Group> = drafts::groups_in(rows, &ids)?;
        for group in &mut groups {
            self.put_in_terms_of_chain(group)?;
        }
        let mut lost = 0;
        for ids in ids.chunks(DRAFTS_SLICE) {
            let mut todo = Todo::default();
            for id in ids {
                match Undo::load(rows, *id) {
                    Ok(Some(record)) => {
                        todo.insert(Rank::tentative(*id), record.kind);
                    }
                    Ok(None) | Err(VolumeError::Corrupt { .. } | VolumeError::Store(_)) => {
                        tracing::error!(?id, "a change made here cannot be read any more");
                        lost += 1;
                    }
                    Err(error) => return Err(error),
                }
            }
            shadow.fold_todo(&mut anew, todo, &groups)?;
        }
        anew.index = None;
        Ok(lost)
    }

    /// Says in terms of the chain that counts now what had been seen at drafts: as everybody takes it who
    /// gets them sealed.
    fn put_in_terms_of_chain(&self, group: &mut Group) -> Result<()> {
        let past = std::mem::take(&mut group.past);
        group.past = match self.config.chain.footing(past.record)? {
            Some(footing) => self.past_of(past, group.first.log, footing)?,
            // What cannot be told it had not seen.
            None => Past {
                record: RecordRef::default(),
                ..past
            },
        };
        Ok(())
    }

    pub(super) fn fold_todo(
        &self,
        state: &mut MutexGuard<'_, State>,
        todo: Todo,
        groups: &[Group],
    ) -> Result<()> {
        let mut batch = Batch::new();
        for group in groups {
            sight::put(&mut batch, group.first, &group.past);
        }
        self.view.rows.commit(batch)?;
        let mut merge = Merge::new(&self.view, state, todo, Sights::default(), self.bound());
        merge.run()?;
        let overlay = merge.overlay;
        state.commit(&self.view, overlay, Batch::new(), None)?;
        Ok(())
    }

    /// Puts what differs of the rows beside into a layer over those that are used; returns how many rows that
    /// all members share are others than they have to be.
    fn lay_over(
        &self,
        layer: &Arc<LayeredRows>,
        beside: &BesideRows,
        is_whole: bool,
    ) -> Result<usize> {
        let rows = layer.begin()?;
        let (mut differing, mut batch, mut bytes) = (0, Batch::new(), 0);
        for table in SHARED.iter().chain(LOCAL) {
            self.compare(*table, beside, &mut |difference| {
                let Difference {
                    table,
                    key,
                    used,
                    anew,
                } = difference;
                if table == Table::History && !is_whole && used.is_some() {
                    return Ok(());
                }
                if SHARED.contains(&table) && !is_same(table, used, anew) {
                    differing += 1;
                }
                bytes += key.len() + anew.map_or(0, <[u8]>::len);
                put(&mut batch, table, key, anew);
                if bytes >= STEP_BYTES {
                    bytes = 0;
                    rows.commit(std::mem::take(&mut batch))?;
                }
                Ok(())
            })?;
        }
        for key in state::META_KEYS {
            let value = beside.get(Table::Meta, key)?;
            put(&mut batch, Table::Meta, key, value.as_deref());
        }
        rows.commit(batch)?;
        Ok(differing)
    }

    /// Calls `f` for each row of a table that is not as it is beside.
    fn compare(
        &self,
        table: Table,
        beside: &BesideRows,
        f: &mut dyn FnMut(Difference<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut from = Vec::new();
        loop {
            let used = slice(&*self.view.rows, table, &from)?;
            let anew = slice(beside, table, &from)?;
            let ends = [&used, &anew].map(|slice| slice.next.clone());
            // Up to where both were read.
            let end = ends.into_iter().flatten().min();
            let is_within =
                |(key, _): &&(Vec<u8>, Vec<u8>)| end.as_ref().is_none_or(|end| key < end);
            let mut used = used.rows.iter().take_while(is_within).peekable();
            let mut anew = anew.rows.iter().take_while(is_within).peekable();
            loop {
                let order = match (used.peek(), anew.peek()) {
                    (None, None) => break,
                    (Some(_), None) => std::cmp::Ordering::Less,
                    (None, Some(_)) => std::cmp::Ordering::Greater,
                    (Some((used, _)), Some((anew, _))) => used.cmp(anew),
                };
                let used = used.next_if(|_| order.is_le());
                let anew = anew.next_if(|_| order.is_ge());
                let Some((key, _)) = used.or(anew) else {
                    break;
                };
                let used = used.map(|(_, value)| &**value);
                let anew = anew.map(|(_, value)| &**value);
                let differs = !is_same(table, used, anew) || is_dated_later(table, used, anew);
                if differs && !is_of_private(table, key) {
                    f(Difference {
                        table,
                        key,
                        used,
                        anew,
                    })?;
                }
            }
            match end {
                Some(end) => from = end,
                None => return Ok(()),
            }
        }
    }

    /// Returns what a kernel cache has to forget of a row that is mended.
    pub(super) fn change_of(
        &self,
        table: Table,
        key: &[u8],
        used: Option<&[u8]>,
        anew: Option<&[u8]>,
    ) -> Option<Change> {
        let key = RowKey::parse(&like(table)?, key).ok()?;
        let decode = |bytes: &[u8]| Stored::decode(&key, bytes.to_vec().into()).ok();
        let (used, anew) = (used.and_then(decode), anew.and_then(decode));
        match key {
            RowKey::Extent(ino, _) => Some(Change::Content(ino)),
            RowKey::Xattr(ino, _) | RowKey::Link(ino, ..) => Some(Change::Attr(ino)),
            RowKey::Alias(ino) => {
                self.view.arrivals.note_elsewhere(ino);
                Some(Change::Attr(ino))
            }
            RowKey::Dated(part) => self.view.dir(part).ok().map(Change::Attr),
            RowKey::Inode(ino) if used.is_none() => Some(Change::Content(ino)),
            _ => state::change(&key, used.as_ref(), anew.as_ref())
                .ok()
                .flatten(),
        }
    }

    /// Returns the latest time that ops are dated by.
    pub(super) fn last_ms(&self, state: &State) -> Result<u64> {
        let record = self.config.chain.get(state.chain.record.number)?;
        Ok(super::records::last_ms(
            record.map_or(0, |record| record.time_ms),
        ))
    }
}

fn put(batch: &mut Batch, table: Table, key: &[u8], value: Option<&[u8]>) {
    match value {
        Some(value) => batch.put(table, key, value),
        None => batch.delete(table, key),
    }
}

/// Rows of a table, and where the next ones begin.
#[derive(Default)]
struct Slice {
    rows: Vec<(Vec<u8>, Vec<u8>)>,
    next: Option<Vec<u8>>,
}

fn slice(rows: &dyn Rows, table: Table, from: &[u8]) -> Result<Slice> {
    let mut slice = Slice::default();
    let mut bytes = 0;
    rows.scan(table, from, None, &mut |key, value| {
        if slice.rows.len() >= SLICE_ROWS || bytes >= SLICE_BYTES {
            slice.next = Some(key.to_vec());
            return ControlFlow::Break(());
        }
        bytes += key.len() + value.len();
        slice.rows.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(slice)
}

/// Tells whether two rows say the same, but for what each machine has for itself.
fn is_same(table: Table, used: Option<&[u8]>, anew: Option<&[u8]>) -> bool {
    match (used, anew) {
        _ if used == anew => true,
        (Some(used), Some(anew)) if table == Table::Inode => {
            let (used, anew) = (shared_dir(used), shared_dir(anew));
            used.is_some() && used == anew
        }
        _ => false,
    }
}

/// Returns the row of a directory without its times; `None` for others.
fn shared_dir(bytes: &[u8]) -> Option<Inode> {
    dir(bytes).map(Inode::without_times)
}

fn dir(bytes: &[u8]) -> Option<Inode> {
    let inode = Inode::of_row(Ino(0), bytes).ok()?;
    inode.is_dir().then_some(inode)
}

/// Tells whether a later op has dated a directory than the one that did in the row in use: what is folded
/// for the first time. An earlier one is left as it is, as what was taken back has moved it on.
fn is_dated_later(table: Table, used: Option<&[u8]>, anew: Option<&[u8]>) -> bool {
    let by = |row: Option<&[u8]>| {
        let dir = row.filter(|_| table == Table::Inode).and_then(dir);
        dir.map(|dir| dir.cells.by(Field::Mtime, dir.created_by))
    };
    match (by(used), by(anew)) {
        (Some(used), Some(anew)) => anew > used,
        _ => false,
    }
}

/// Tells whether a row belongs to the private copy of a file without a name.
pub(super) fn is_of_private(table: Table, key: &[u8]) -> bool {
    let ino = key.first_chunk().map(|ino| Ino(u64::from_be_bytes(*ino)));
    matches!(table, Table::Inode | Table::Extent | Table::Xattr) && ino.is_some_and(is_private)
}

/// Returns a key of a table.
pub(super) fn like(table: Table) -> Option<RowKey> {
    let (ino, hash) = (Ino(0), DirKey([0; 16]));
    Some(match table {
        Table::Inode => RowKey::Inode(ino),
        Table::Dirent => RowKey::Dirent(ino, hash),
        Table::Extent => RowKey::Extent(ino, 0),
        Table::Xattr => RowKey::Xattr(ino, hash),
        Table::Volume => RowKey::Link(ino, ino, hash),
        Table::Orphan => RowKey::Orphan(ino),
        Table::Alias => RowKey::Alias(ino),
        Table::Fork => RowKey::Fork(ino, OpId::default()),
        Table::Conflict => RowKey::Conflict(OpId::default()),
        Table::Device => RowKey::Device(DeviceId::default()),
        Table::Dated => RowKey::Dated(ino),
        _ => return None,
    })
}

/// Says that the segment behind those that are folded of a log is not here.
fn not_here(log: LogId, state: &State) -> VolumeError {
    let seg_no = state.progress.get(&log).map_or(0, |at| at.seg_no) + 1;
    VolumeError::NotHere { log, seg_no }
}
