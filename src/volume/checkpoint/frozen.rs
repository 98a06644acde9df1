//! The rows at a record, out of the rows as they are: without what no record names yet, what each machine has
//! for itself, and what nothing can bring back.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;

use super::tree::{Item, Shared};
use crate::base::{Ino, OpId};
use crate::crypto::VolumeKeys;
use crate::log::checkpoint::LogStart;
use crate::store::{FrozenRow, FrozenRows, Rows, Table, codec};
use crate::volume::anew::{SHARED, is_of_private};
use crate::volume::committed::Committed;
use crate::volume::overlay::Delta;
use crate::volume::record::Record;
use crate::volume::rows::{Removed, RowKey, Stored, Value};
use crate::volume::settled::{CUT_KEY, Settled};
use crate::volume::state::State;
use crate::volume::sums::{Sum, hash_stored};
use crate::volume::types::{FileKind, Inode};
use crate::volume::view::{View, is_private};
use crate::volume::{Result, VolumeError};
use crate::wire::RecordRef;

/// Ops that no record names, and bytes of what they replaced, of which there may be no more: a checkpoint is
/// made later then.
const TENTATIVE_MAX: usize = 1 << 16;
const TENTATIVE_MAX_BYTES: usize = 32 << 20;

/// The rows as they were when a record had just been folded, and what it takes to tell those at the record.
pub(in crate::volume) struct Frozen<'a> {
    pub(super) record: RecordRef,
    pub(super) starts: Vec<LogStart>,
    committed: Arc<Committed>,
    /// What the rows add up to that were put here.
    sum: Sum,
    /// Up to where what ops replaced is not in it, of a volume of one author.
    cut: Option<OpId>,
    settled: Settled,
    /// No applied op before this one is tentative.
    tentative: OpId,
    ops: FrozenRows<'a>,
    parts: FrozenRows<'a>,
    orphans: FrozenRows<'a>,
    dated: FrozenRows<'a>,
    rows: FrozenRows<'a>,
}

/// What takes an op back that touched a row.
#[derive(Debug)]
struct Step {
    /// The row as it was before; `None` where only counts changed.
    before: Option<Option<Bytes>>,
    delta: Option<Delta>,
}

/// By row, the last op first.
type Steps = BTreeMap<(Table, Vec<u8>), Vec<Step>>;

/// Some of them.
type SomeSteps<'a> = Vec<(&'a (Table, Vec<u8>), &'a Vec<Step>)>;

impl<'a> Frozen<'a> {
    /// Freezes the rows behind a record that was just folded; `None` where what it takes is not here, or
    /// cannot be told now.
    pub(in crate::volume) fn of(
        view: &'a View,
        state: &State,
        starts: Vec<LogStart>,
    ) -> Result<Option<Self>> {
        if !has_all_records(state) {
            return Ok(None);
        }
        let rows: &'a dyn Rows = &*view.rows;
        let frozen = (
            rows.freeze(Table::Op, Table::Op)?,
            rows.freeze(Table::OpPart, Table::OpPart)?,
            rows.freeze(Table::Orphan, Table::Orphan)?,
            rows.freeze(Table::Dated, Table::Dated)?,
            rows.freeze(Table::Inode, Table::Committed)?,
        );
        let (Some(ops), Some(parts), Some(orphans), Some(dated), Some(rows)) = frozen else {
            return Ok(None);
        };
        Ok(Some(Self {
            record: state.chain.record,
            starts,
            committed: Arc::clone(&state.chain.committed),
            sum: state.totals.sum(),
            cut: state.trimmed.alone.then_some(state.trimmed.cut),
            settled: state.settled(),
            tentative: state.chain.tentative,
            ops,
            parts,
            orphans,
            dated,
            rows,
        }))
    }

    /// Calls `f` with each row at the record, by table and in key order; says whether that was possible:
    /// not where very much is tentative, nor where the rows are not those that were put here. Nobody signs what
    /// his disk made of them.
    pub(super) fn each(
        self,
        keys: &VolumeKeys,
        f: &mut dyn FnMut(Item) -> Result<()>,
    ) -> Result<bool> {
        let Self {
            committed, settled, ..
        } = self;
        let parts = Parts::read(self.parts)?;
        let Some(steps) = steps(self.ops, self.tentative, &committed, &parts)? else {
            return Ok(false);
        };
        let mut gone = HashSet::new();
        let is_orphan = |(table, _): &(Table, Vec<u8>)| *table == Table::Orphan;
        let of_orphans = steps.iter().filter(|(key, _)| is_orphan(key));
        let mut unseen = |_: &FrozenRow| {};
        Merged::new(self.orphans, of_orphans.collect()).each(
            &mut unseen,
            &mut |_, key, value| {
                let key = RowKey::parse(&RowKey::Orphan(Ino(0)), &key)?;
                let row = Stored::decode(&key, value.into())?;
                if let (RowKey::Orphan(ino), Value::Orphan(Removed { by, .. })) = (key, &row.value)
                    && settled.has(*by)
                {
                    gone.insert(ino);
                }
                Ok(())
            },
        )?;
        let mut put = |item| f(item);
        if let Some(cut) = self.cut {
            put(Item {
                table: Table::Meta,
                key: CUT_KEY.to_vec(),
                value: codec::encode(&cut),
                shared: Shared::Whole,
            })?;
        }
        let is_dated = |(table, _): &(Table, Vec<u8>)| *table == Table::Dated;
        let of_dated = steps.iter().filter(|(key, _)| is_dated(key)).collect();
        let others = steps.iter().filter(|(key, _)| !is_dated(key)).collect();
        let mut sum = Sum::default();
        let mut add = |(table, key, value): &FrozenRow| {
            if SHARED.contains(table) && !is_of_private(*table, key) {
                sum.add(hash_stored(keys, *table, key, value));
            }
        };
        Merged::new(self.rows, others).each(&mut add, &mut |table, key, value| match table {
            Table::Op => op_at(&committed, &parts, key, value)?.map_or(Ok(()), &mut put),
            Table::Committed => run_at(&committed, key, value).map_or(Ok(()), &mut put),
            table if SHARED.contains(&table) => {
                shared_at(&gone, table, key, value)?.map_or(Ok(()), &mut put)
            }
            _ => Ok(()),
        })?;
        Merged::new(self.dated, of_dated).each(&mut unseen, &mut |table, key, value| {
            put(Item {
                table,
                key,
                value,
                shared: Shared::Nothing,
            })
        })?;
        Ok(sum == self.sum)
    }
}

/// Tells whether what the ops replaced that can still be looked up is here of all of them: of a volume that
/// only one author had it is given up sooner. That author makes checkpoints all the same, until there is
/// another.
fn has_all_records(state: &State) -> bool {
    let committed = &state.chain.committed;
    let cut = state.trimmed.cut;
    let mut is_tentative_gone = state.progress.iter().map(|(log, at)| {
        let stamp = committed.end(*log).next();
        at.stamp >= stamp && OpId { stamp, log: *log } <= cut
    });
    if is_tentative_gone.any(|is_gone| is_gone) {
        return false;
    }
    state.trimmed.alone || committed.firsts_above_base_line().all(|first| first > cut)
}

/// Rows of records that are longer than one takes.
struct Parts(BTreeMap<OpId, Vec<u8>>);

impl Parts {
    fn read(rows: FrozenRows<'_>) -> Result<Self> {
        let mut parts: BTreeMap<OpId, Vec<u8>> = BTreeMap::new();
        let mut ended = BTreeSet::new();
        for row in rows {
            let (_, key, value) = row?;
            let id = key.get(..OpId::KEY_BYTES).and_then(OpId::from_key);
            let id = id.ok_or(BAD_OP)?;
            // What is behind the end is left of a longer one.
            if !ended.contains(&id) {
                if value.len() < Record::PART_BYTES {
                    ended.insert(id);
                }
                parts.entry(id).or_default().extend(value);
            }
        }
        Ok(Self(parts))
    }

    fn record(&self, id: OpId, mut row: Vec<u8>) -> Result<Record> {
        if row.len() == Record::PART_BYTES
            && let Some(rest) = self.0.get(&id)
        {
            row.extend_from_slice(rest);
        }
        Record::decode(&row)
    }
}

/// Returns what takes the tentative ops back; `None` where they are very many.
fn steps(
    ops: FrozenRows<'_>,
    tentative: OpId,
    committed: &Committed,
    parts: &Parts,
) -> Result<Option<Steps>> {
    let mut records = Vec::new();
    let mut bytes = 0;
    for row in ops {
        let (_, key, value) = row?;
        let id = OpId::from_key(&key).ok_or(BAD_OP)?;
        if id < tentative || committed.number(id).is_some() {
            continue;
        }
        bytes += value.len();
        if records.len() == TENTATIVE_MAX || bytes > TENTATIVE_MAX_BYTES {
            return Ok(None);
        }
        records.push(parts.record(id, value)?);
    }
    let mut steps = Steps::new();
    for record in records.into_iter().rev() {
        let mut deltas: BTreeMap<Ino, Delta> = record.deltas.iter().copied().collect();
        for (key, before) in record.writes {
            let delta = match key {
                RowKey::Inode(ino) => deltas.remove(&ino),
                _ => None,
            };
            let before = Some(before);
            let at = (key.table(), key.bytes().as_ref().to_vec());
            steps.entry(at).or_default().push(Step { before, delta });
        }
        for (ino, delta) in deltas {
            let key = RowKey::Inode(ino);
            let at = (key.table(), key.bytes().as_ref().to_vec());
            let step = Step {
                before: None,
                delta: Some(delta),
            };
            steps.entry(at).or_default().push(step);
        }
    }
    Ok(Some(steps))
}

/// Takes back what tentative ops did to a row, the last of them first.
fn take_back(
    table: Table,
    key: &[u8],
    now: Option<Vec<u8>>,
    steps: &[Step],
) -> Result<Option<Vec<u8>>> {
    if table != Table::Inode {
        // The first of them found it as it was.
        let oldest = steps.iter().rev().find_map(|step| step.before.clone());
        return Ok(oldest.map_or(now, |before| before.map(Vec::from)));
    }
    let key = RowKey::parse(&RowKey::Inode(Ino(0)), key)?;
    let decode = |bytes: Vec<u8>| -> Result<Option<Inode>> {
        match &Stored::decode(&key, bytes.into())?.value {
            Value::Inode(inode) => Ok(Some(inode.clone())),
            _ => Ok(None),
        }
    };
    let mut now = now.map(decode).transpose()?.flatten();
    for step in steps {
        let Some(before) = &step.before else {
            if let (Some(dir), Some(delta)) = (&mut now, step.delta) {
                delta.take_from(dir);
            }
            continue;
        };
        let before = before.clone().map(Vec::from).map(decode).transpose()?;
        let mut before = before.flatten();
        if let (Some(dir), Some(now)) = (&mut before, &now)
            && dir.is_dir()
            && now.is_dir()
        {
            dir.count_back(now, step.delta);
        }
        now = before;
    }
    Ok(now.map(|inode| inode.to_row()))
}

/// Frozen rows with what takes tentative ops back.
struct Merged<'a, 'b> {
    rows: Peekable<FrozenRows<'a>>,
    steps: Peekable<<SomeSteps<'b> as IntoIterator>::IntoIter>,
}

impl<'a, 'b> Merged<'a, 'b> {
    fn new(rows: FrozenRows<'a>, steps: SomeSteps<'b>) -> Self {
        Self {
            rows: rows.peekable(),
            steps: steps.into_iter().peekable(),
        }
    }

    /// Calls `as_is` with each row as it lies there, and `f` with it without what is tentative.
    fn each(
        mut self,
        as_is: &mut dyn FnMut(&FrozenRow),
        f: &mut dyn FnMut(Table, Vec<u8>, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        loop {
            let order = match (self.rows.peek(), self.steps.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) | (Some(Err(_)), _) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(Ok((table, key, _))), Some(((of, at), _))) => {
                    (table.tag(), key).cmp(&(of.tag(), at))
                }
            };
            let row = self.rows.next_if(|_| order.is_le());
            let row = row.transpose()?;
            if let Some(row) = &row {
                as_is(row);
            }
            let steps = self.steps.next_if(|_| order.is_ge());
            let (table, key, value) = match (row, steps) {
                (Some((table, key, value)), None) => (table, key, Some(value)),
                (row, Some(((table, key), steps))) => {
                    let now = row.map(|(_, _, value)| value);
                    (*table, key.clone(), take_back(*table, key, now, steps)?)
                }
                (None, None) => return Ok(()),
            };
            if let Some(value) = value {
                f(table, key, value)?;
            }
        }
    }
}

/// Returns the row of an op that can still be looked up: what it replaced in files.
fn op_at(
    committed: &Committed,
    parts: &Parts,
    key: Vec<u8>,
    value: Vec<u8>,
) -> Result<Option<Item>> {
    let id = OpId::from_key(&key).ok_or(BAD_OP)?;
    if committed.number(id).is_none() || committed.is_settled(id) {
        return Ok(None);
    }
    let mut record = parts.record(id, value)?;
    let mut writes = Vec::new();
    for (key, before) in std::mem::take(&mut record.writes) {
        let is_kept = match (&key, &before) {
            (RowKey::Extent(ino, _), _) => !is_private(*ino),
            (RowKey::Inode(ino), Some(before)) if !is_private(*ino) => {
                let row = Stored::decode(&key, before.clone())?;
                matches!(&row.value, Value::Inode(inode) if inode.kind == FileKind::File)
            }
            _ => false,
        };
        if is_kept {
            writes.push((key, before));
        }
    }
    let is_of_content = writes.iter().any(|(_, before)| before.is_some());
    if !is_of_content && record.kind.as_append().is_none() && record.kind.as_emptying().is_none() {
        return Ok(None);
    }
    let record = Record {
        kind: record.kind,
        reads: Vec::new(),
        writes,
        deltas: Vec::new(),
    };
    Ok(Some(Item {
        table: Table::Op,
        key,
        value: record.encode(),
        shared: Shared::Whole,
    }))
}

/// Returns the row that says which record names the ops of a log: of those up to the base line the last.
fn run_at(committed: &Committed, key: Vec<u8>, value: Vec<u8>) -> Option<Item> {
    let (log, last) = Committed::parse(&key)?;
    committed.is_run_needed(log, last).then_some(Item {
        table: Table::Committed,
        key,
        value,
        shared: Shared::Whole,
    })
}

/// Returns a row that all members share, of what is not gone.
fn shared_at(
    gone: &HashSet<Ino>,
    table: Table,
    key: Vec<u8>,
    value: Vec<u8>,
) -> Result<Option<Item>> {
    if is_of_private(table, &key) {
        return Ok(None);
    }
    let of = key.first_chunk().map(|ino| Ino(u64::from_be_bytes(*ino)));
    let may_be_gone = matches!(
        table,
        Table::Inode | Table::Extent | Table::Xattr | Table::Orphan
    );
    if may_be_gone && of.is_some_and(|ino| gone.contains(&ino)) {
        return Ok(None);
    }
    let mut item = Item {
        table,
        key,
        value,
        shared: Shared::Whole,
    };
    if table == Table::Inode {
        let key = RowKey::parse(&RowKey::Inode(Ino(0)), &item.key)?;
        item.share(&Stored::decode(&key, item.value.clone().into())?.value);
    }
    Ok(Some(item))
}

const BAD_OP: VolumeError = VolumeError::Corrupt {
    what: "the key of an op",
};
