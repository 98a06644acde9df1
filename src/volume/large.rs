//! Merges that are too large for the writer's lock: made beside the view, and shown by one short commit.
//!
//! A merge that has to undo many ops, or of which one op meets very many rows, is no work of some
//! milliseconds. It is made by a second volume over a layer of rows that nobody else sees, from the view as
//! it is when that begins; own ops go on meanwhile, and are folded there as well at the end. Then the layer
//! counts: from that commit on everybody sees all of it. Until then everybody sees what was there, own ops
//! included. The ops of the own tail that records undo wait there until the records at hand are folded, so
//! that each is folded again once.
//!
//! Nothing is sealed in between, so what is a draft stays one. A crash before the layer counts leaves what
//! was there, and the merge begins again; a crash behind it leaves the rest to the next opening.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::anew::{FOLDED, SHARED, is_of_private};
use super::committed::Rank;
use super::drafts::groups_in;
use super::feed::{Feed, Merged};
use super::lineage::Move;
use super::overlay::{Base, Overlay};
use super::record::Record;
use super::rows::RowKey;
use super::state::{META_KEYS, State};
use super::todo::Todo;
use super::{Result, Volume, VolumeConfig, VolumeContext, VolumeError};
use crate::base::OpId;
use crate::store::{Batch, LayerRows, LayeredRows, MoveVisitor, Rows, StoreError, Table};

/// Own ops that are folded while nobody else may change anything; of more the first are folded before.
const LAST_OPS: usize = 64;

/// Own ops folded in one go.
const OWN_SLICE: usize = 512;

/// Says whether a row belongs to what a fold makes, and not to this machine alone.
pub(super) fn is_layered(table: Table, key: &[u8]) -> bool {
    match table {
        Table::Meta => META_KEYS.contains(&key),
        // Put when the rows are moved.
        Table::Arrival => false,
        table => FOLDED.contains(&table) && !is_of_private(table, key),
    }
}

impl Volume {
    /// Folds all that is here and not folded, however much is undone and folded again.
    pub(super) fn merge_large(&self, merged: &mut Merged) -> Result<()> {
        let Some(layer) = &self.layer else {
            return Err(VolumeError::TooMuch);
        };
        let _sealing = self.sealing.lock();
        let mut feed = self.feed.lock();
        // What was taken and not committed is read again.
        *feed = Feed::default();
        tracing::info!("a large merge begins");
        let made = self.make_beside(layer, merged);
        if made.is_err() && !layer.is_turned() {
            layer.abandon()?;
        }
        made?;
        self.move_layer(merged)
    }

    /// Moves what counts already to its place, where something was left.
    pub(super) fn move_layer(&self, merged: &mut Merged) -> Result<()> {
        let Some(layer) = &self.layer else {
            return Ok(());
        };
        let now = self.context.clock.wall();
        let changes = &mut merged.changes;
        let mut visit =
            |table, key: &[u8], before: Option<&[u8]>, after: Option<&[u8]>, batch: &mut Batch| {
                changes.extend(self.change_of(table, key, before, after));
                let moved = (before, after);
                self.view.arrivals.put_moved(table, key, moved, now, batch);
                Ok(())
            };
        let visit: &mut MoveVisitor<'_> = &mut visit;
        let is_shown = |table| table == Table::Dated || SHARED.contains(&table);
        while layer.is_turned() && layer.move_some(&is_shown, visit)? {
            layer.settle()?;
        }
        Ok(())
    }

    /// Fails while rows lie in a layer that counts and that a full disk does not let move: the logs write
    /// some rows without it.
    pub(super) fn check_moved(&self) -> Result<()> {
        match &self.layer {
            Some(layer) if layer.is_turned() => Err(StoreError::Full.into()),
            _ => Ok(()),
        }
    }

    fn make_beside(&self, layer: &Arc<LayeredRows>, merged: &mut Merged) -> Result<()> {
        // Else what counts were lost.
        self.move_layer(merged)?;
        let (rows, mut folded, anchors) = {
            let state = self.state.lock();
            (layer.begin()?, state.newest, state.drafts.seen())
        };
        let rows: Arc<LayerRows> = Arc::new(rows);
        let beside = self.beside(&rows)?;
        beside.state.lock().drafts.anchors = anchors;
        let mut news = Merged::default();
        beside.feed_and_commit(&mut Feed::default(), &mut news)?;
        loop {
            let own = self.own_behind(&self.state.lock(), folded);
            if own.len() <= LAST_OPS {
                break;
            }
            folded = own.last().copied().unwrap_or(folded);
            self.fold_own(&beside, &own)?;
        }
        beside.each_alias(&mut |ino| self.view.arrivals.note_elsewhere(ino))?;

        let mut state = self.state.lock();
        let own = self.own_behind(&state, folded);
        self.fold_own(&beside, &own)?;
        let mut anew = beside.state.lock();
        let lost = self.lost_beside(&state, &beside, &anew)?;
        merged.changes.extend(self.keep_aside(lost.into_iter())?);
        self.drop_over(&mut state, &anew);
        let moves = self.moves_beside(&state, &beside, &anew)?;
        {
            let _merging = self.view.merging.write();
            layer.turn()?;
            self.view.forget();
            self.move_numbers(&moves);
        }
        let mut anew = std::mem::take(&mut *anew);
        anew.take_own_of(&mut state);
        self.hlc.observe(anew.newest.stamp);
        *state = anew;
        self.drop_public(&mut state)?;
        MutexGuard::unlock_fair(state);
        merged.changes.extend(self.renamed_by(moves));
        merged.op_count += news.op_count;
        merged.undone_count += news.undone_count;
        merged.waiting_bytes = merged.waiting_bytes.max(news.waiting_bytes);
        merged.waiting = news.waiting;
        merged.refused = news.refused;
        merged.lacks_statements = news.lacks_statements;
        Ok(())
    }

    /// Returns which of the numbers that are kept go to another file with what is folded beside.
    pub(super) fn moves_beside(
        &self,
        state: &State,
        beside: &Self,
        anew: &State,
    ) -> Result<Vec<Move>> {
        let nothing = Overlay::default();
        let overlay = &nothing;
        let (view, committed) = (&self.view, &state.chain.committed);
        let before = Base {
            view,
            overlay,
            committed,
        };
        let (view, committed) = (&beside.view, &anew.chain.committed);
        let after = Base {
            view,
            overlay,
            committed,
        };
        let differs = |ino| {
            let key = RowKey::Inode(ino);
            let rows = (
                before.row(&key).ok().flatten(),
                after.row(&key).ok().flatten(),
            );
            rows.0.map(|row| row.bytes.clone()) != rows.1.map(|row| row.bytes.clone())
        };
        self.moves(before, after, &differs)
    }

    /// Returns a volume of the same logs and chain over a layer.
    fn beside(&self, rows: &Arc<LayerRows>) -> Result<Self> {
        let mut config: VolumeConfig = self.config.clone();
        config.store.rows = Arc::<LayerRows>::clone(rows);
        let context = VolumeContext {
            clock: Arc::clone(&self.context.clock),
            rng: self.context.rng.clone(),
        };
        let mut beside = Self::open_beside(config, context)?;
        beside.holds = Arc::clone(&self.holds);
        beside.lineages = self.lineages.as_they_are();
        beside.history = self.history.beside();
        Ok(beside)
    }

    /// Returns the own ops behind one that no segment holds.
    fn own_behind(&self, state: &State, folded: OpId) -> Vec<OpId> {
        state
            .drafts
            .iter_rev()
            .take_while(|id| *id > folded)
            .collect::<Vec<OpId>>()
            .into_iter()
            .rev()
            .collect()
    }

    /// Folds own ops that no segment holds.
    fn fold_own(&self, beside: &Self, own: &[OpId]) -> Result<()> {
        let rows = &*self.view.rows;
        let mut anew = beside.state.lock();
        let own: Vec<OpId> = own
            .iter()
            .copied()
            .filter(|id| !anew.is_over(self, id.log))
            .collect();
        let groups = groups_in(rows, &own)?;
        for ids in own.chunks(OWN_SLICE) {
            let mut todo = Todo::default();
            for id in ids {
                if let Some(record) = Record::load(rows, *id)? {
                    todo.insert(Rank::tentative(*id), record.kind);
                }
            }
            beside.fold_todo(&mut anew, todo, &groups)?;
        }
        Ok(())
    }

    /// Calls `f` with each node that is a part of another.
    pub(super) fn each_alias(&self, f: &mut dyn FnMut(crate::base::Ino)) -> Result<()> {
        let rows = &self.view.rows;
        rows.scan_keys(Table::Alias, &[], None, &mut |key| {
            if let Ok(ino) = key.try_into().map(u64::from_be_bytes) {
                f(crate::base::Ino(ino));
            }
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(())
    }
}
