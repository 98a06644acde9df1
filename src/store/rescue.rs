//! Reading out what is left of a state folder that cannot be opened any more.
//!
//! Nothing in the folder is changed. The rows that can be read go into a store in memory, those of
//! the log over those of the tree; chunks are read where they lie. What cannot be read is left out
//! and counted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::chunks::LocalChunks;
use super::disk::Folder;
use super::gate::Gate;
use super::local::LocalTree;
use super::tree::{Tree, TreeRow};
use super::trial::Twin;
use super::{Batch, Rows, Store, StoreError, StoreOptions, Table, state, wal, whole};
use crate::base::panics;
use crate::crypto::LocalKey;

/// What could be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Rows that could be read.
    pub rows: u64,
    /// Commits of the log that do not open, and files of the row database left out; how many rows
    /// were in them nobody knows.
    pub lost: u64,
    /// What is wrong with the folder, a line each.
    pub damages: Vec<String>,
}

/// Returns a store in memory with everything that can be read of the folder.
pub(super) fn open(folder: &Path, key: &LocalKey) -> Result<(Store, Rescued), StoreError> {
    let mut rescued = Rescued::default();
    let memory = Store::memory();
    let rows = folder.join(state::ROWS_FOLDER);
    if let Err(error) = read_tree(&rows, key, &*memory.rows, &mut rescued) {
        rescued.lost += 1;
        rescued.damages.push(error.to_string());
    }
    let log = folder.join(state::WAL_FOLDER);
    if let Err(error) = read_log(&log, key, &*memory.rows, &mut rescued) {
        rescued.damages.push(error.to_string());
    }
    let gate = Gate::default();
    gate.close();
    let path = folder.join(state::CHUNKS_FOLDER);
    if !path.is_dir() {
        rescued
            .damages
            .push("the folder of chunks is gone".to_owned());
        return Ok((Store { gate, ..memory }, rescued));
    }
    let options = StoreOptions::default();
    let chunks = LocalChunks::open_with_thread(
        Arc::new(Folder::read_only(&path)),
        Arc::clone(&memory.rows),
        options.chunk_file_max_bytes,
        gate.clone(),
    )?;
    let store = Store {
        rows: memory.rows,
        chunks: Arc::new(chunks),
        gate,
    };
    Ok((store, rescued))
}

fn read_tree(
    rows: &Path,
    key: &LocalKey,
    memory: &dyn Rows,
    rescued: &mut Rescued,
) -> Result<(), StoreError> {
    let trial = Twin::of(rows)?;
    for (path, content) in whole::mend(rows, &mut rescued.damages)? {
        let inside = path.strip_prefix(rows).unwrap_or(&path);
        state::write_private(&trial.path.join(inside), &content)?;
    }
    rescued.lost += rescued.damages.len() as u64;
    let options = StoreOptions::default();
    let tree = LocalTree::open(&trial.path, key.sealer(0), &options, Gate::default())?;
    let mut sink = Sink::new(memory);
    // Where no more can be read from one end, from the other.
    let lost = sink.take(tree.range(&[1], &[255], false));
    let lost = match lost {
        Ok(lost) => lost,
        Err(lost) => {
            lost + sink
                .take(tree.range(&[1], &[255], true))
                .unwrap_or_else(|more| more)
        }
    };
    if lost > 0 {
        rescued.lost += lost;
        let what = format!("{lost} rows of the row database cannot be read");
        rescued.damages.push(what);
    }
    rescued.rows += sink.finish()?;
    Ok(())
}

fn read_log(
    log: &Path,
    key: &LocalKey,
    memory: &dyn Rows,
    rescued: &mut Rescued,
) -> Result<(), StoreError> {
    let mut commits = BTreeMap::new();
    let disk = Folder::read_only(log);
    rescued.lost += wal::salvage(&disk, log, &key.sealer(0), &mut |seq, changes| {
        commits.insert(seq, changes);
    })?;
    let mut sink = Sink::new(memory);
    for (key, value) in commits.into_values().flatten() {
        sink.put(&key, value.map(Vec::from))?;
    }
    rescued.rows += sink.finish()?;
    Ok(())
}

/// Gathers rows into batches.
struct Sink<'a> {
    rows: &'a dyn Rows,
    batch: Batch,
    count: u64,
}

impl<'a> Sink<'a> {
    fn new(rows: &'a dyn Rows) -> Self {
        Self {
            rows,
            batch: Batch::new(),
            count: 0,
        }
    }

    /// Takes the rows that can be read, and returns how many cannot; as an error where so many in
    /// a row cannot that the rest is given up.
    fn take<'b>(&mut self, rows: Box<dyn Iterator<Item = TreeRow> + 'b>) -> Result<u64, u64> {
        let mut rows = rows;
        let (mut lost, mut in_a_row) = (0, 0);
        loop {
            // The database asserts what its files say about themselves.
            let row = panics::caught(|| rows.next());
            let taken = match row {
                Ok(None) => return Ok(lost),
                Ok(Some(Ok((key, value)))) => self.put(&key, Some(value)).is_ok(),
                Ok(Some(Err(_))) | Err(_) => false,
            };
            if taken {
                in_a_row = 0;
                continue;
            }
            lost += 1;
            in_a_row += 1;
            if in_a_row > LOST_IN_A_ROW_MAX {
                return Err(lost);
            }
        }
    }

    fn put(&mut self, key: &[u8], value: Option<Vec<u8>>) -> Result<(), StoreError> {
        let Some((table, key)) = key
            .split_first()
            .and_then(|(tag, key)| Some((Table::from_tag(*tag)?, key)))
        else {
            return Ok(());
        };
        match value {
            Some(value) => self.batch.put(table, key, value),
            None => self.batch.delete(table, key),
        }
        self.count += 1;
        if self.batch.len() >= BATCH_ROWS {
            self.rows.commit(std::mem::take(&mut self.batch))?;
        }
        Ok(())
    }

    fn finish(self) -> Result<u64, StoreError> {
        self.rows.commit(self.batch)?;
        Ok(self.count)
    }
}

const BATCH_ROWS: usize = 1000;

/// After so many the iterator does not get any further.
const LOST_IN_A_ROW_MAX: u64 = 10_000;
