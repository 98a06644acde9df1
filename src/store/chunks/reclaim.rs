//! Room of deleted chunks goes back to the disk: holes in files, and files as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::layout::{self, Place};
use super::{Core, FileState, failed};
use crate::base::task;
use crate::store::{Batch, StoreError, Table};

/// The thread that gives back room; ends, at the next hole, when dropped.
#[derive(Debug)]
pub(super) struct Reclaimer {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Signal {
    state: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SignalState {
    due: bool,
    closed: bool,
}

impl Reclaimer {
    pub(super) fn start(core: Arc<Core>) -> io::Result<Self> {
        let signal = Arc::new(Signal::default());
        let of_thread = Arc::clone(&signal);
        let thread = task::thread("store-reclaim", move || of_thread.serve(&core))?;
        Ok(Self {
            signal,
            thread: Some(thread),
        })
    }

    /// Makes the thread look for room to give back.
    pub(super) fn wake(&self) {
        self.signal.state.lock().due = true;
        self.signal.changed.notify_one();
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        self.signal.state.lock().closed = true;
        self.signal.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic over there has been reported over there.
            let _ = thread.join();
        }
    }
}

impl Signal {
    fn serve(&self, core: &Core) {
        loop {
            {
                let mut state = self.state.lock();
                while !state.due && !state.closed {
                    self.changed.wait(&mut state);
                }
                if state.closed {
                    return;
                }
                state.due = false;
            }
            // What is left over is given back after the next opening; nothing else depends on it.
            if let Err(error) = core.reclaim(&mut || self.state.lock().closed) {
                tracing::warn!(%error, "cannot give back the room of deleted chunks");
            }
        }
    }
}

impl Core {
    /// Gives back the room of chunks deleted before this call, until `stop` says so.
    pub(super) fn reclaim(&self, stop: &mut dyn FnMut() -> bool) -> Result<(), StoreError> {
        let _one_at_a_time = self.reclaiming.lock();
        let mut dead = std::mem::take(&mut self.state.lock().dead);
        if dead.is_empty() {
            return Ok(());
        }
        // From here on no crash brings an index row of these back.
        self.rows.sync()?;
        if !self.gate.is_open() {
            self.state.lock().dead.extend(dead);
            return Ok(());
        }
        self.reclaims.fetch_add(1, Ordering::AcqRel);
        self.drop_dead_files(&mut dead)?;
        dead.sort_unstable();
        let mut rest = dead.as_slice();
        while !rest.is_empty() && !stop() {
            if !self.gate.is_open() {
                break;
            }
            let (run, later) = rest.split_at(run_len(rest));
            rest = later;
            self.punch(run)?;
            let mut batch = Batch::new();
            for place in run {
                batch.delete(Table::ChunkDead, place.to_key());
            }
            self.rows.commit(batch)?;
        }
        self.state.lock().dead.extend_from_slice(rest);
        Ok(())
    }

    /// Waits until the disk counts as free what was given back: many do so only with a commit of
    /// their own.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        self.disk.sync_names().map_err(|e| failed("sync", e))?;
        let files: Vec<_> = {
            let mut handles = self.handles.lock();
            let used = handles.iter_mut().take(SETTLED_MAX);
            used.map(|(_, file)| Arc::clone(file)).collect()
        };
        files
            .iter()
            .try_for_each(|file| file.sync_data())
            .map_err(|e| failed("sync", e))
    }

    /// Makes one hole of places that follow one another.
    fn punch(&self, run: &[Place]) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(());
        };
        match self.handle(first.file) {
            Ok(file) => file
                .punch(first.offset, last.end() - first.offset)
                .map_err(|e| failed("give back room of", e)),
            // A file that the disk lost has no room to give back.
            Err(StoreError::Corrupt { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Removes those files of the dead places in which nothing is alive, and these places.
    fn drop_dead_files(&self, dead: &mut Vec<Place>) -> Result<(), StoreError> {
        let mut gone: BTreeMap<u32, Batch> = BTreeMap::new();
        {
            let mut state = self.state.lock();
            let tail = state.tail.as_ref().map(|tail| tail.number);
            // What was deleted after this began may come back, and its file with it.
            let waiting: BTreeSet<u32> = state.dead.iter().map(|place| place.file).collect();
            for place in dead.iter() {
                let idle = |file: &FileState| file.totals.count == 0 && file.writing == 0;
                if Some(place.file) != tail
                    && !waiting.contains(&place.file)
                    && state.files.get(&place.file).is_some_and(idle)
                {
                    state.files.remove(&place.file);
                    gone.insert(place.file, Batch::new());
                }
            }
        }
        dead.retain(|place| match gone.get_mut(&place.file) {
            Some(batch) => {
                batch.delete(Table::ChunkDead, place.to_key());
                false
            }
            None => true,
        });
        for (number, mut batch) in gone {
            self.handles.lock().pop(&number);
            match self.disk.remove(&layout::file_name(number)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", e)),
                _ => {}
            }
            batch.delete(Table::ChunkFile, number.to_be_bytes());
            self.rows.commit(batch)?;
        }
        Ok(())
    }
}

/// Returns how many of the places, in order, lie one directly behind the other.
fn run_len(places: &[Place]) -> usize {
    let follows = |pair: &[Place]| match pair {
        [one, next] => next.file == one.file && next.offset == one.end(),
        _ => false,
    };
    let run = places.windows(2).take_while(|pair| follows(pair)).count() + 1;
    run.min(RUN_MAX).min(places.len())
}

/// Most chunks in one hole, so that closing the store never waits long for one.
const RUN_MAX: usize = 64;

/// Chunk files that are synced for what was given back in them: one would do on most disks.
const SETTLED_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_make_one_hole() {
        let place = |file, offset: u64| Place {
            file,
            offset: offset * 4096,
            len: 100,
        };
        let places = [place(1, 1), place(1, 2), place(1, 4), place(2, 5)];
        assert_eq!(run_len(&places), 2);
        assert_eq!(run_len(&places[2..]), 1);
        assert_eq!(run_len(&places[3..]), 1);
        assert_eq!(run_len(&[]), 0);
    }
}
