//! What opening finds out: totals, the tail, and which of the fresh chunks made it to the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::layout::{self, ALIGN_BYTES, FIRST_OFFSET, Place, Totals};
use super::{FileState, LOST, State, Tail, failed};
use crate::base::ChunkId;
use crate::crypto::chunk_id;
use crate::store::disk::{Disk, DiskFile};
use crate::store::{Batch, Rows, StoreError, Table};

/// Returns the state of the chunk files after an orderly end or any crash.
///
/// Forgets the fresh chunks whose bytes are not there; those that cannot be read stay. A file that no
/// row names stays, and is gone on with if it is the last: it was made for a put that did not get as
/// far as its rows, or somebody put it there, who may want it back.
pub(super) fn recover(disk: &dyn Disk, rows: &dyn Rows) -> Result<State, StoreError> {
    let mut state = State::default();
    for_rows(rows, Table::ChunkFile, |key, row| {
        let number = u32::from_be_bytes(key.try_into().map_err(|_| LOST)?);
        let file = state.files.entry(number).or_default();
        file.totals = Totals::from_row(row)?;
        Ok(())
    })?;
    for_rows(rows, Table::ChunkDead, |key, row| {
        state.dead.push(Place::from_key(key, row)?);
        Ok(())
    })?;
    let mut fresh = Vec::new();
    for_rows(rows, Table::ChunkFresh, |key, row| {
        fresh.push(layout::parse_fresh(key, row)?);
        Ok(())
    })?;
    let present = files(disk)?;
    keep_whole(disk, rows, &present, fresh, &mut state)?;
    settle_files(rows, &present, &mut state)?;
    state.tail = tail(disk, &state)?;
    // Names that a crash may still take back are synced with the fresh chunks.
    state.new_names = true;
    Ok(state)
}

pub(super) fn files(disk: &dyn Disk) -> Result<BTreeSet<u32>, StoreError> {
    let names = disk.names().map_err(|e| failed("list", e))?;
    let numbers = names.iter().filter_map(|name| layout::file_number(name));
    Ok(numbers.collect())
}

/// Reads the fresh chunks and forgets those that do not match their id.
fn keep_whole(
    disk: &dyn Disk,
    rows: &dyn Rows,
    present: &BTreeSet<u32>,
    fresh: Vec<(ChunkId, Place)>,
    state: &mut State,
) -> Result<(), StoreError> {
    let mut batch = Batch::new();
    let mut lost_count = 0;
    let mut handles: BTreeMap<u32, Arc<dyn DiskFile>> = BTreeMap::new();
    for (id, place) in fresh {
        if !handles.contains_key(&place.file) && present.contains(&place.file) {
            let file = disk.open(&layout::file_name(place.file), false);
            handles.insert(place.file, file.map_err(|e| failed("open", e))?);
        }
        if let Some(file) = handles.get(&place.file) {
            match is_whole(&**file, id, place) {
                Ok(true) => {
                    state.fresh.insert(place);
                    state.dirty.insert(place.file, Arc::clone(file));
                    continue;
                }
                Ok(false) => {}
                // It stays fresh for the next opening, and whoever reads it is told.
                Err(error) => {
                    tracing::error!(%error, chunk = %id, "a chunk cannot be read");
                    continue;
                }
            }
        }
        lost_count += 1;
        let file = state.files.entry(place.file).or_default();
        file.totals.remove(id, place);
        batch.delete(Table::ChunkIndex, id.as_bytes());
        batch.delete(Table::ChunkFresh, place.to_key());
        batch.put(Table::ChunkDead, place.to_key(), place.len.to_le_bytes());
        batch.put(
            Table::ChunkFile,
            place.file.to_be_bytes(),
            file.totals.to_row(),
        );
        state.dead.push(place);
    }
    if lost_count > 0 {
        tracing::warn!(
            lost_count,
            "chunks that were never synced did not survive the crash"
        );
        unless_full(rows.commit(batch))?;
    }
    Ok(())
}

/// Tells whether what lies at a place is the chunk.
pub(super) fn is_whole(file: &dyn DiskFile, id: ChunkId, place: Place) -> io::Result<bool> {
    let bytes = file.read_at(place.len as usize, place.body())?;
    Ok(chunk_id(&bytes) == id)
}

/// Brings the files that there are and those that the rows name into line.
fn settle_files(
    rows: &dyn Rows,
    present: &BTreeSet<u32>,
    state: &mut State,
) -> Result<(), StoreError> {
    for number in present {
        state.files.entry(*number).or_default();
    }
    // A file that is gone was removed when nothing in it was alive, or was lost by the disk: in
    // that case its chunks are reported as damaged one by one, and its number is not used again.
    let mut batch = Batch::new();
    for (number, file) in &state.files {
        if !present.contains(number) && file.totals.count > 0 {
            let name = layout::file_name(*number);
            let chunks = file.totals.count;
            tracing::error!(name, chunks, "a chunk file is missing");
        }
    }
    let gone = |number: &u32, file: &FileState| !present.contains(number) && file.totals.count == 0;
    state.dead.retain(|place| {
        let keep = present.contains(&place.file);
        if !keep {
            batch.delete(Table::ChunkDead, place.to_key());
        }
        keep
    });
    state.files.retain(|number, file| {
        let keep = !gone(number, file);
        if !keep {
            batch.delete(Table::ChunkFile, number.to_be_bytes());
        }
        keep
    });
    if batch.is_empty() {
        return Ok(());
    }
    unless_full(rows.commit(batch))
}

/// Rows that say again what opening found out can be left for the next opening.
fn unless_full(outcome: Result<(), StoreError>) -> Result<(), StoreError> {
    match outcome {
        Err(StoreError::Full) => Ok(()),
        outcome => outcome,
    }
}

/// Returns where to go on: behind everything in the newest file, whatever it is.
fn tail(disk: &dyn Disk, state: &State) -> Result<Option<Tail>, StoreError> {
    let Some((&number, _)) = state.files.last_key_value() else {
        return Ok(None);
    };
    let file = match disk.open(&layout::file_name(number), false) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|e| failed("open", e))?,
    };
    let size = file.size().map_err(|e| failed("look at", e))?;
    // A crash can take the length of bytes that were never synced, but their place is dead and must
    // not be given to a new chunk before it is given back.
    let in_file = |place: &&Place| place.file == number;
    let dead = state.dead.iter().filter(in_file).map(|place| place.end());
    let offset = dead.fold(size.next_multiple_of(ALIGN_BYTES), u64::max);
    Ok(Some(Tail {
        number,
        offset: offset.max(FIRST_OFFSET),
        file,
    }))
}

fn for_rows(
    rows: &dyn Rows,
    table: Table,
    mut f: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut result = Ok(());
    rows.scan(table, &[], None, &mut |key, row| match f(key, row) {
        Ok(()) => ControlFlow::Continue(()),
        Err(e) => {
            result = Err(e);
            ControlFlow::Break(())
        }
    })?;
    result
}
