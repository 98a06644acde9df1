//! The room's view of file contents: sealing bytes into chunks and reading them back.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::FsError;
use crate::base::ChunkId;
use crate::data::{ChunkRef, Data, DataError, SealTicket};
use crate::replica::{Collection, ReplicaError};
use crate::store::StoreError;

/// Seals and reads contents.
#[derive(Clone)]
pub(super) struct Contents {
    data: Arc<Data>,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Contents")
    }
}

impl Contents {
    pub(super) fn new(data: Arc<Data>) -> Self {
        Self { data }
    }

    /// Starts sealing `plain`, which is at most a chunk.
    pub(super) fn seal(&self, plain: Bytes) -> SealTicket {
        self.data.seal(plain)
    }

    /// Waits until the chunk is in the local store. Takes a core's time, never the network's.
    pub(super) fn wait(ticket: SealTicket) -> Result<ChunkRef, FsError> {
        Ok(ticket.wait()?)
    }

    /// Returns a range of a chunk's plaintext if the chunk is here.
    ///
    /// A chunk whose copy here is damaged counts as not here: the holders have good ones.
    pub(super) fn read_local(
        &self,
        id: ChunkId,
        range: Range<u32>,
    ) -> Result<Option<Bytes>, FsError> {
        let bytes = self.data.read_local(id, usizes(&range))?;
        // A chunk shorter than its extent says is not the chunk that the extent means.
        Ok(bytes.filter(|bytes| bytes.len() == range.len()))
    }

    /// Fetches a range of a chunk's plaintext.
    pub(super) async fn read(
        &self,
        id: ChunkId,
        range: Range<u32>,
        limit: Duration,
    ) -> Result<Bytes, FsError> {
        let bytes = self.data.read(id, usizes(&range), limit).await?;
        if bytes.len() != range.len() {
            return Err(FsError::Corrupt(id));
        }
        Ok(bytes)
    }

    /// Begins a collection of chunks that nothing needs.
    pub(super) fn collection(&self) -> Collection<'_> {
        self.data.collection()
    }

    /// Returns the bytes of the chunks that are here.
    pub(super) fn stored_bytes(&self) -> u64 {
        let usage = self.data.replica().usage();
        usage.held_bytes.saturating_add(usage.cached_bytes)
    }

    /// Gives up about so many bytes of chunks that are here only because they were read; returns
    /// whether there were any.
    pub(super) fn evict(&self, bytes: u64) -> bool {
        self.data.replica().evict(bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "what was only read stays");
            false
        })
    }

    /// Returns when the room of what was given up is free on the disk.
    pub(super) fn give_back(&self) -> Result<(), FsError> {
        let given = self.data.replica().give_back();
        given.map_err(|error| FsError::from(DataError::from(error)))
    }

    /// Asks for chunks that will be read soon.
    pub(super) fn prefetch(&self, ids: &[ChunkId]) {
        self.data.prefetch(ids);
    }
}

impl From<DataError> for FsError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Replica(ReplicaError::Missing { id }) => Self::Missing(id),
            DataError::Replica(ReplicaError::Unreachable { id, .. }) => Self::Unreachable(id),
            DataError::Replica(ReplicaError::Corrupt { id }) => Self::Corrupt(id),
            DataError::Replica(ReplicaError::TimedOut { .. }) => Self::TimedOut,
            DataError::Replica(ReplicaError::Store(source))
                if matches!(*source, StoreError::Full) =>
            {
                Self::NoSpace
            }
            DataError::Open { id, .. } => Self::Unauthentic(id),
            error => Self::Data(error),
        }
    }
}

fn usizes(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}
