//! A disk that loses power: after a set number of steps nothing works any more, and what is left is
//! chosen by a seed among all that a disk may leave.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dfs::base::Rng;
use dfs::store::disk::{Disk, DiskFile, Room};
use dfs::store::{Batch, RowVisitor, Rows, StoreError, Table};
use parking_lot::Mutex;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// Counts the steps of everything that hangs on one plug, and fails them from one step on.
#[derive(Debug, Default)]
pub(super) struct Power {
    steps: AtomicU64,
    cut_at: Option<u64>,
}

impl Power {
    pub(super) fn cut_at(step: u64) -> Arc<Self> {
        Arc::new(Self {
            steps: AtomicU64::new(0),
            cut_at: Some(step),
        })
    }

    pub(super) fn steady() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    pub(super) fn step(&self) -> io::Result<()> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        match self.cut_at {
            Some(cut) if step >= cut => Err(io::Error::other("no power")),
            _ => Ok(()),
        }
    }
}

/// A folder of files in memory that knows what is durable.
#[derive(Debug, Clone)]
pub(super) struct ModelDisk {
    state: Arc<Mutex<State>>,
    power: Arc<Power>,
}

#[derive(Debug, Default, Clone)]
struct State {
    /// Contents by a number of their own: a name can come and go.
    contents: BTreeMap<u64, Contents>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    available: Option<u64>,
}

#[derive(Debug, Default, Clone)]
struct Contents {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync, in order; a hole is a write of zeros.
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl ModelDisk {
    pub(super) fn new(power: Arc<Power>) -> Self {
        Self {
            state: Arc::default(),
            power,
        }
    }

    /// Says how much room `Disk::room` reports.
    pub(super) fn set_available(&self, bytes: Option<u64>) {
        self.state.lock().available = bytes;
    }

    /// Returns the bytes that are in use, holes and tails left out.
    pub(super) fn used_bytes(&self) -> usize {
        let state = self.state.lock();
        let live = state.names.values().map(|id| &state.contents[id].live);
        live.map(|live| live.iter().filter(|byte| **byte != 0).count())
            .sum()
    }

    pub(super) fn file_count(&self) -> usize {
        self.state.lock().names.len()
    }

    /// Returns the disk as a killed process leaves it: all there.
    pub(super) fn killed(&self, power: Arc<Power>) -> Self {
        Self {
            state: Arc::new(Mutex::new(self.state.lock().clone())),
            power,
        }
    }

    /// Returns one of the disks that a power cut may leave.
    pub(super) fn crashed(&self, rng: &Rng, power: Arc<Power>) -> Self {
        let state = self.state.lock();
        let mut names = state.durable_names.clone();
        for name in state.names.keys().chain(state.durable_names.keys()) {
            if rng.below(2) == 0 {
                match state.names.get(name) {
                    Some(id) => names.insert(name.clone(), *id),
                    None => names.remove(name),
                };
            }
        }
        let mode = rng.below(4);
        let contents = state.contents.iter().map(|(id, contents)| {
            let bytes = contents.crashed(rng, mode);
            let survived = Contents {
                live: bytes.clone(),
                durable: bytes,
                unsynced: Vec::new(),
            };
            (*id, survived)
        });
        let survived = State {
            contents: contents.collect(),
            durable_names: names.clone(),
            names,
            available: state.available,
        };
        Self {
            state: Arc::new(Mutex::new(survived)),
            power,
        }
    }
}

impl Contents {
    fn write(&mut self, offset: usize, bytes: Vec<u8>) {
        patch(&mut self.live, offset, &bytes);
        self.unsynced.push((offset, bytes));
    }

    fn crashed(&self, rng: &Rng, mode: u64) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (offset, written) in &self.unsynced {
            let mut at = *offset;
            let mut rest = &written[..];
            let whole = rng.below(2) == 0;
            while !rest.is_empty() {
                let len = (SECTOR_BYTES - at % SECTOR_BYTES).min(rest.len());
                let keep = match mode {
                    0 => true,
                    1 => false,
                    2 => whole,
                    _ => rng.below(2) == 0,
                };
                if keep {
                    patch(&mut bytes, at, &rest[..len]);
                }
                at += len;
                rest = &rest[len..];
            }
        }
        // The length is written by itself.
        match rng.below(3) {
            0 if bytes.len() > self.durable.len() => bytes.truncate(
                self.durable.len() + rng.below((bytes.len() - self.durable.len()) as u64) as usize,
            ),
            1 => bytes.resize(self.live.len().max(bytes.len()), 0),
            _ => {}
        }
        bytes
    }
}

fn patch(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}

impl Disk for ModelDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        let id = match state.names.get(name) {
            Some(id) => *id,
            None if create => {
                self.power.step()?;
                let id = state.contents.len() as u64;
                state.contents.insert(id, Contents::default());
                state.names.insert(name.to_owned(), id);
                id
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(ModelFile {
            disk: self.clone(),
            id,
        }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.power.step()?;
        let removed = self.state.lock().names.remove(name);
        removed
            .map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.power.step()?;
        let mut state = self.state.lock();
        let moved = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), moved);
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.state.lock().names.keys().cloned().collect())
    }

    fn sync_names(&self) -> io::Result<()> {
        self.power.step()?;
        let mut state = self.state.lock();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn room(&self) -> io::Result<Room> {
        let available = self.state.lock().available.unwrap_or(1 << 40);
        Ok(Room {
            available,
            last: available,
            total: 0,
        })
    }
}

#[derive(Debug)]
struct ModelFile {
    disk: ModelDisk,
    id: u64,
}

impl ModelFile {
    fn with<T>(&self, f: impl FnOnce(&mut Contents) -> T) -> T {
        f(self.disk.state.lock().contents.get_mut(&self.id).unwrap())
    }
}

impl DiskFile for ModelFile {
    fn write_at(&self, first: &[u8], second: &[u8], offset: u64) -> io::Result<()> {
        let power = self.disk.power.step();
        // A write that meets the cut may have reached the disk in part.
        let after_cut =
            power.is_err() && self.disk.power.steps() > self.disk.power.cut_at.unwrap() + 1;
        if !after_cut {
            self.with(|file| file.write(offset as usize, [first, second].concat()));
        }
        power
    }

    fn read_at(&self, len: usize, offset: u64) -> io::Result<Bytes> {
        Ok(self.with(|file| {
            let start = (offset as usize).min(file.live.len());
            let end = (start + len).min(file.live.len());
            Bytes::copy_from_slice(&file.live[start..end])
        }))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.power.step()?;
        self.with(|file| {
            file.durable = file.live.clone();
            file.unsynced.clear();
        });
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.power.step()?;
        self.with(|file| {
            let start = (offset as usize).min(file.live.len());
            let end = (start + len as usize).min(file.live.len());
            file.write(start, vec![0; end - start]);
        });
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.with(|file| file.live.len() as u64))
    }
}

/// Rows that hang on the same plug.
#[derive(Debug)]
pub(super) struct PoweredRows {
    pub(super) rows: Arc<dyn Rows>,
    pub(super) power: Arc<Power>,
}

impl Rows for PoweredRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.rows.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.rows.scan(table, start, end, f)
    }

    fn scan_rev(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.rows.scan_rev(table, start, end, f)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.power.step().map_err(|_| StoreError::Poisoned)?;
        self.rows.commit(batch)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.power.step().map_err(|_| StoreError::Poisoned)?;
        self.rows.sync()
    }
}
