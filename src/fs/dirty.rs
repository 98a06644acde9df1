//! Unwritten changes of one file: what differs from the volume until the next commit.

mod fragments;
mod hidden;

pub(super) use fragments::{Body, Fragment, Fragments};
use hidden::Hidden;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::FsError;
use super::contents::Contents;
use crate::base::{OpId, Timespec};
use crate::data::{ChunkRef, SealTicket};
use crate::volume::Inode;

/// The unwritten changes of a file, from the first one after a commit to the next commit.
#[derive(Debug)]
pub(super) struct Dirty {
    /// The content version that the changes build on; the op names it as its base, so that the
    /// fold can tell when somebody else wrote in between.
    pub(super) base: OpId,
    /// Size of the file at `base`.
    pub(super) base_size: u64,
    /// Size of the file with the changes.
    pub(super) size: u64,
    /// Content time with the changes.
    pub(super) mtime: Timespec,
    /// Change time with the changes.
    pub(super) ctime: Timespec,
    /// When the oldest change came (monotonic).
    pub(super) since: Duration,
    /// True while the changes are nothing but appends through `O_APPEND` handles.
    pub(super) appends_only: bool,
    /// True while the changes are that the file was emptied, and nothing but such appends since: what others
    /// appended meanwhile loses nothing by either.
    pub(super) is_emptied: bool,
    /// True where nothing is left of the content at `base`, and what was written since is in no op yet.
    pub(super) is_anew: bool,
    /// True when the content changed, and not the times alone.
    pub(super) content_changed: bool,
    /// True where a change takes so much away that its ops are many.
    pub(super) is_long: bool,
    /// True when the space that the file takes was told roughly.
    pub(super) is_rough: bool,
    /// True when the mode is known to have no setuid and setgid to clear.
    pub(super) privileges_clear: bool,
    /// The changed ranges.
    pub(super) fragments: Fragments,
    /// What is known of the bytes that the changed ranges hide.
    pub(super) hidden: Hidden,
}

impl Dirty {
    /// Returns no changes yet of a file as the volume shows it.
    pub(super) fn new(inode: &Inode, now: Duration) -> Self {
        Self {
            base: inode.version,
            base_size: inode.size,
            size: inode.size,
            mtime: inode.mtime,
            ctime: inode.ctime,
            since: now,
            appends_only: true,
            is_emptied: false,
            is_anew: inode.size == 0,
            content_changed: false,
            is_long: false,
            is_rough: false,
            privileges_clear: false,
            fragments: Fragments::default(),
            hidden: Hidden::default(),
        }
    }

    /// Takes note of a change of the content at `time`.
    pub(super) fn touch(&mut self, time: Timespec) {
        self.content_changed = true;
        self.mtime = time;
        self.ctime = self.ctime.max(time);
    }

    /// Puts `data` at `offset`, growing the file as needed.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        self.fragments.write(offset, data);
        self.size = self.size.max(offset + data.len() as u64);
    }

    /// Takes note that something else is done than to append.
    pub(super) fn rewrite(&mut self) {
        (self.appends_only, self.is_emptied) = (false, false);
    }

    /// Sets the size: what lies beyond is cut, growing makes a hole.
    pub(super) fn set_size(&mut self, size: u64) {
        self.rewrite();
        self.is_emptied = size == 0;
        self.is_anew |= size == 0;
        if size < self.size {
            self.fragments.remove(size..u64::MAX);
            // What the volume holds beyond must not come back when the file grows again.
            if size < self.base_size {
                self.fragments.punch(size..self.base_size);
            }
        }
        self.size = size;
    }

    /// Makes a range a hole; the size stays.
    pub(super) fn punch(&mut self, start: u64, end: u64) {
        self.rewrite();
        let end = end.min(self.size);
        if start < end {
            self.fragments.punch(start..end);
        }
    }
}

/// A full cell on its way into a chunk: readable all the time.
pub(super) struct Sealing {
    len: u32,
    /// A leaf lock, held while the pool seals.
    state: Mutex<SealState>,
}

impl std::fmt::Debug for Sealing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealing({} bytes)", self.len)
    }
}

enum SealState {
    /// Entered at the start: the pool is at work, the bytes are here.
    Running(SealTicket, Bytes),
    /// Entered when sealing failed: the bytes are here, the next settling tries again.
    Failed(Bytes),
    /// Final: the chunk is in the store, the bytes are given back.
    Done(ChunkRef),
}

impl Sealing {
    /// Starts sealing.
    pub(super) fn start(contents: &Contents, plain: Bytes) -> Arc<Self> {
        let len = u32::try_from(plain.len()).expect("a fragment lies within a cell");
        let ticket = contents.seal(plain.clone());
        Arc::new(Self {
            len,
            state: Mutex::new(SealState::Running(ticket, plain)),
        })
    }

    /// Returns how many bytes it holds in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        match &*self.state.lock() {
            SealState::Running(..) | SealState::Failed(_) => u64::from(self.len),
            SealState::Done(_) => 0,
        }
    }

    /// Returns where its bytes are now.
    pub(super) fn place(&self) -> SealedPlace {
        match &*self.state.lock() {
            SealState::Running(_, plain) | SealState::Failed(plain) => {
                SealedPlace::Memory(plain.clone())
            }
            SealState::Done(sealed) => SealedPlace::Chunk(*sealed),
        }
    }

    /// Waits until the chunk is in the store. Takes a core's time, never the network's.
    pub(super) fn settle(&self, contents: &Contents) -> Result<ChunkRef, FsError> {
        let mut state = self.state.lock();
        let (ticket, plain) = match std::mem::replace(&mut *state, SealState::Failed(Bytes::new()))
        {
            SealState::Done(sealed) => {
                *state = SealState::Done(sealed);
                return Ok(sealed);
            }
            SealState::Running(ticket, plain) => (ticket, plain),
            SealState::Failed(plain) => (contents.seal(plain.clone()), plain),
        };
        match Contents::wait(ticket) {
            Ok(sealed) => {
                *state = SealState::Done(sealed);
                Ok(sealed)
            }
            Err(error) => {
                *state = SealState::Failed(plain);
                Err(error)
            }
        }
    }
}

/// Where the bytes of a [`Sealing`] are.
#[derive(Debug)]
pub(super) enum SealedPlace {
    /// In memory.
    Memory(Bytes),
    /// In a chunk.
    Chunk(ChunkRef),
}
