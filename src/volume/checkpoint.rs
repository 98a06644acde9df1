//! Checkpoints: the rows at a record as a tree of chunks, which whoever lacks what led there takes over.
//!
//! Where a record says that it is one, each member with keys makes the tree as soon as it has folded it, and
//! signs what it comes to. What the tree holds is a function of the record alone: the rows that all share,
//! with what no record names yet taken back ([`frozen`]), what replaced contents of files can still be looked
//! up, above the base line, and which records name which ops. So two who have folded the same have one hash.
//! The times of directories are each machine's own: they are in the tree, and not in the hash.
//!
//! Whoever takes a tree over folds anew, as [`super::anew`] does, from there instead of from record 0. Who has nothing
//! yet lays the rows where they stay, once, and nobody sees them before all are there.

mod frozen;
pub(super) mod tree;
mod tree_rows;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

pub use self::tree::{GetNode, nodes_of};
pub use self::tree_rows::{NodeSource, TreeRows};

pub(super) use self::frozen::Frozen;

use self::tree::{Growing, Item, Shared, Sizes};
use super::anew::{Anew, SHARED, is_of_private, like};
use super::committed::Committed;
use super::folded::FoldedChain;
use super::progress::Progress;
use super::record::Record as Undo;
use super::rows::{RowKey, Stored, Value};
use super::settled::{CUT_KEY, Trimmed};
use super::state::State;
use super::totals::Totals;
use super::{Result, Volume, VolumeError};
use crate::base::{ChunkId, Ino, LogId, OpId, Stamp};
use crate::crypto::VolumeKeys;
use crate::log::LogError;
use crate::log::chain::Record;
use crate::log::checkpoint::{Checkpoint, LogStart, LogStarts, Tree};
use crate::replica::ReplicaError;
use crate::store::{Batch, Rows, Table, codec};
use crate::wire::RecordRef;

/// Trees that are kept of those that do not count (yet): as many as members are told of.
const TREES_MAX: usize = 16;

/// Ids of chunks in one row.
const IDS_SLICE: usize = 1024;

/// Bytes of rows that are laid in one batch.
const LAID_BYTES: usize = 256 << 10;

/// A checkpoint that was made here.
#[derive(Debug, Clone)]
pub struct Made {
    /// What all who make it have.
    pub checkpoint: Checkpoint,
    /// Where the rows are.
    pub tree: Tree,
    /// Where the logs go on behind it.
    pub starts: LogStarts,
}

/// Keeps the checkpoints that a volume makes.
pub trait Keeper: Send + Sync {
    /// Tells whether one is to be made of the rows at a record that is one: not of each that who was away
    /// folds past.
    fn wants(&self, record: RecordRef) -> bool;

    /// Keeps a node of a tree as a chunk.
    fn put(&self, plain: Bytes) -> std::result::Result<ChunkId, ReplicaError>;

    /// Hears what was made at a record; `None` where that cannot be told now, though another time it can.
    /// What was put is durable.
    fn made(&self, record: u64, made: Option<Made>);
}

/// A checkpoint that is to be taken over.
pub struct Base<'a> {
    /// What its rows come to.
    pub checkpoint: Checkpoint,
    /// Where they are.
    pub tree: Tree,
    /// Where the logs go on behind it.
    pub starts: &'a LogStarts,
    /// Where the nodes of the tree come from.
    pub get: &'a mut GetNode<'a>,
}

impl std::fmt::Debug for Base<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base")
            .field("checkpoint", &self.checkpoint)
            .finish_non_exhaustive()
    }
}

impl Volume {
    /// Sets who keeps checkpoints; none is made without. Only the first one set is asked.
    pub fn keep_checkpoints(&self, keeper: Box<dyn Keeper>) {
        let _ = self.keeper.set(keeper);
    }

    /// Freezes the rows where a record was just folded that is a checkpoint, to be made one of.
    pub(super) fn freeze_at(&self, record: &Record, state: &State) -> Option<Frozen<'_>> {
        let keeper = self.keeper.get().filter(|_| record.is_checkpoint)?;
        if !keeper.wants(record.reference()) {
            return None;
        }
        let frozen = self
            .starts_at(state)
            .and_then(|starts| Frozen::of(&self.view, state, starts));
        match frozen {
            Ok(Some(frozen)) => return Some(frozen),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "no checkpoint is made"),
        }
        keeper.made(record.number, None);
        None
    }

    /// Makes a checkpoint of what was frozen. Whatever fails, the fold goes on.
    pub(super) fn make_checkpoint(&self, frozen: Frozen<'_>) {
        let Some(keeper) = self.keeper.get() else {
            return;
        };
        let number = frozen.record.number;
        let made = self.try_make(frozen, &**keeper).unwrap_or_else(|error| {
            tracing::warn!(%error, "no checkpoint is made");
            None
        });
        keeper.made(number, made);
    }

    fn try_make(&self, frozen: Frozen<'_>, keeper: &dyn Keeper) -> Result<Option<Made>> {
        let record = frozen.record;
        let starts = LogStarts::new(frozen.starts.clone())?;
        let mut hasher = self.config.keys.checkpoint_hasher();
        let mut put = |plain: Bytes| keeper.put(plain);
        let mut growing = Growing::new(Sizes::WHOLE, &mut put);
        let is_whole = frozen.each(&self.config.keys, &mut |item| {
            item.hash_into(&mut hasher);
            growing.add(&item)
        })?;
        if !is_whole {
            return Ok(None);
        }
        let (tree, ids) = growing.end()?;
        self.note_tree(record.number, &ids)?;
        self.config.store.sync()?;
        let kept = self.trees()?;
        if let Some(first) = kept.iter().rev().nth(TREES_MAX - 1) {
            self.drop_trees_before(*first)?;
        }
        let checkpoint = Checkpoint {
            record,
            rows: hasher.finalize().into(),
            logs: starts.hash(),
        };
        Ok(Some(Made {
            checkpoint,
            tree,
            starts,
        }))
    }

    /// Returns where the logs go on behind the newest folded record.
    fn starts_at(&self, state: &State) -> Result<Vec<LogStart>> {
        let log = &self.config.log;
        let mut starts = Vec::new();
        for (id, at) in state.progress.iter() {
            let is_named = at.named > 0 || state.chain.committed.end(*id) > Stamp::default();
            if !is_named {
                continue;
            }
            let missing = |seg_no| LogError::Corrupt { log: *id, seg_no };
            let device = log.author(*id).ok_or_else(|| missing(0))?;
            let incarnation = log.incarnation_of(*id).ok_or_else(|| missing(0))?;
            let mut start = LogStart {
                log: *id,
                device,
                incarnation,
                admission: [0; 32],
                seg_no: at.named,
                hash: [0; 32],
                last: Stamp::default(),
            };
            if at.named > 0 {
                let last = log.end_at(*id, at.named)?;
                (start.hash, start.last) = last.ok_or_else(|| missing(at.named))?;
                start.admission = log.admission(*id).unwrap_or_default();
            }
            starts.push(start);
        }
        Ok(starts)
    }

    /// Returns of which chunks the trees at a record are made that are kept here.
    pub fn tree_ids(&self, number: u64) -> Result<Vec<ChunkId>> {
        let mut ids = Vec::new();
        let (start, end) = (number.to_be_bytes(), number.saturating_add(1).to_be_bytes());
        let rows = &self.view.rows;
        rows.scan(Table::Tree, &start, Some(&end), &mut |_, of| {
            ids.extend(of.as_chunks().0.iter().map(|id| ChunkId(*id)));
            ControlFlow::Continue(())
        })?;
        Ok(ids)
    }

    /// Keeps in mind of which chunks the tree at a record is made, so that they are not given up.
    pub fn note_tree(&self, number: u64, ids: &[ChunkId]) -> Result<()> {
        for (slice, ids) in ids.chunks(IDS_SLICE).enumerate() {
            let mut batch = Batch::new();
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.0).collect();
            let slice = u32::try_from(slice).unwrap_or(u32::MAX);
            let key = [&number.to_be_bytes()[..], &slice.to_be_bytes()].concat();
            batch.put(Table::Tree, key, bytes);
            self.view.rows.commit(batch)?;
        }
        Ok(())
    }

    /// Returns the records at which trees are kept here.
    pub fn trees(&self) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        self.view
            .rows
            .scan_keys(Table::Tree, &[], None, &mut |key| {
                let number = key.first_chunk().map(|number| u64::from_be_bytes(*number));
                numbers.extend(number.filter(|number| numbers.last() != Some(number)));
                ControlFlow::Continue(())
            })?;
        Ok(numbers)
    }

    /// Lets go of the trees at records before one.
    pub fn drop_trees_before(&self, number: u64) -> Result<()> {
        let end = number.to_be_bytes();
        loop {
            let mut batch = Batch::new();
            let rows = &self.view.rows;
            rows.scan_keys(Table::Tree, &[], Some(&end), &mut |key| {
                batch.delete(Table::Tree, key);
                match batch.len() < super::trim::TRIM_SLICE {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            if batch.is_empty() {
                return Ok(());
            }
            rows.commit(batch)?;
        }
    }

    /// Calls `each` with the chunks of the trees that are kept here.
    pub(super) fn each_of_trees(&self, each: &mut dyn FnMut(&ChunkId)) -> Result<()> {
        let rows = &self.view.rows;
        rows.scan(Table::Tree, &[], None, &mut |_, ids| {
            ids.as_chunks().0.iter().for_each(|id| each(&ChunkId(*id)));
            ControlFlow::Continue(())
        })?;
        Ok(())
    }

    /// Takes a checkpoint over in the place of what led there, and folds what comes behind it: for who joins,
    /// who was away for so long that nobody has those segments any more, and whose rows were damaged. Own
    /// changes that the others have not seen are folded behind it.
    ///
    /// The logs begin at the checkpoint already.
    ///
    /// # Errors
    ///
    /// [`VolumeError::NoNode`] where a node of the tree is not here, [`VolumeError::BadCheckpoint`] where the
    /// tree is not the one that was signed; those of [`Volume::fold_anew`]. Nothing is changed then.
    pub fn take_over(&self, base: Base<'_>) -> Result<Anew> {
        let record = self.config.chain.get(base.checkpoint.record.number)?;
        let is_of_chain = |record: &Record| record.reference() == base.checkpoint.record;
        let Some(record) = record.filter(is_of_chain) else {
            return Err(BAD_RECORD);
        };
        let mut base = base;
        let mut ids = Vec::new();
        let mut lay_on = |rows: &dyn Rows| {
            let laid = lay(&mut base, &record, &self.config.keys, Some(rows))?;
            ids = laid.ids;
            Ok(laid.shared)
        };
        let anew = match self.fill_on(&mut lay_on)? {
            Some(anew) => anew,
            None => self.fold_anew_on(|beside| lay_on(beside).map(drop))?,
        };
        self.note_tree(record.number, &ids)?;
        Ok(anew)
    }

    /// Reads the tree of a checkpoint, and says whether it is the one that was signed: before anything of what
    /// is here goes for it.
    ///
    /// # Errors
    ///
    /// Those of [`Volume::take_over`].
    pub fn prove(&self, mut base: Base<'_>) -> Result<()> {
        let record = self.config.chain.get(base.checkpoint.record.number)?;
        let record = record.ok_or(BAD_RECORD)?;
        lay(&mut base, &record, &self.config.keys, None)?;
        Ok(())
    }
}

/// What was laid of a checkpoint.
struct Laid {
    /// The chunks of its tree.
    ids: Vec<ChunkId>,
    /// Rows that all members share.
    shared: usize,
}

/// Lays the rows of a checkpoint where that is said, with what says how far they are.
fn lay(
    base: &mut Base<'_>,
    record: &Record,
    keys: &VolumeKeys,
    rows: Option<&dyn Rows>,
) -> Result<Laid> {
    let Base {
        checkpoint,
        tree,
        starts,
        get,
    } = base;
    let mut shared = 0;
    if starts.hash() != checkpoint.logs {
        return Err(BAD_LOGS);
    }
    let mut hasher = keys.checkpoint_hasher();
    let totals = Totals::default();
    let mut tally = totals.tally();
    let (mut batch, mut bytes) = (Batch::new(), 0);
    let mut ends: BTreeMap<LogId, Stamp> = BTreeMap::new();
    let ids = tree::read(tree, *get, &mut |table, key, value| {
        bytes += key.len() + value.len();
        let mut item = Item {
            table,
            key,
            value,
            shared: Shared::Whole,
        };
        match table {
            Table::Dated => {
                let key = RowKey::parse(&RowKey::Dated(Ino(0)), &item.key)?;
                Stored::decode(&key, item.value.clone().into())?;
                item.shared = Shared::Nothing;
                batch.put(table, &item.key, &*item.value);
            }
            Table::Meta if item.key == CUT_KEY => {
                let cut: OpId = codec::decode(&item.value, item.value.len())?;
                Trimmed::put_cut(&mut batch, cut);
            }
            Table::Op => {
                let id = OpId::from_key(&item.key).ok_or(BAD_ROWS)?;
                Undo::decode(&item.value)?.put(&mut batch, id);
            }
            Table::Committed => {
                let (log, last) = Committed::parse(&item.key).ok_or(BAD_ROWS)?;
                let end = ends.entry(log).or_default();
                *end = last.max(*end);
                batch.put(table, &item.key, &*item.value);
            }
            table if SHARED.contains(&table) && !is_of_private(table, &item.key) => {
                let like = like(table).ok_or(BAD_ROWS)?;
                let key = RowKey::parse(&like, &item.key)?;
                let row = Stored::decode(&key, item.value.clone().into())?;
                item.share(&row.value);
                tally.change(keys, &key, None, Some(&row));
                shared += 1;
                batch.put(table, &item.key, &*item.value);
            }
            _ => return Err(BAD_ROWS),
        }
        item.hash_into(&mut hasher);
        if bytes >= LAID_BYTES {
            bytes = 0;
            let laid = std::mem::take(&mut batch);
            if let Some(rows) = rows {
                rows.commit(laid)?;
                rows.settle()?;
            }
        }
        Ok(())
    })?;
    if hasher.finalize() != checkpoint.rows {
        return Err(BAD_ROWS);
    }
    for start in starts.iter() {
        let at = Progress {
            seg_no: start.seg_no,
            hash: start.hash,
            stamp: ends.remove(&start.log).unwrap_or_default(),
            named: start.seg_no,
        };
        at.put(&mut batch, start.log);
    }
    if !ends.is_empty() {
        return Err(BAD_LOGS);
    }
    totals.put(&mut batch, &tally);
    FoldedChain::put_record(&mut batch, record);
    if let Some(rows) = rows {
        rows.commit(batch)?;
    }
    Ok(Laid { ids, shared })
}

impl Item {
    /// Leaves out of what all have of the row what each machine has for itself.
    pub(super) fn share(&mut self, value: &Value) {
        if let Value::Inode(inode) = value
            && inode.is_dir()
        {
            let shared = inode.clone().without_times();
            self.shared = Shared::Value(shared.to_row());
        }
    }
}

const BAD_RECORD: VolumeError = VolumeError::BadCheckpoint { what: "its record" };
const BAD_ROWS: VolumeError = VolumeError::BadCheckpoint { what: "its rows" };
const BAD_LOGS: VolumeError = VolumeError::BadCheckpoint {
    what: "where its logs begin",
};
