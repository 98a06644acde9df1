//! Where the nodes of snapshots come from when a program looks at what the volume was.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::peer::Member;
use crate::base::ChunkId;
use crate::base::limits::{CHUNK_BYTES, FETCH_TIMEOUT};
use crate::data::DataError;
use crate::replica::ReplicaError;

/// Shows what the volume was in the mount. What is not here is waited for on the thread that asks, which is none
/// of `runtime`, for as long as a read waits.
pub(super) fn show(member: &Member, runtime: Handle) {
    // What it refers to has the volume.
    let data = Arc::downgrade(&member.data);
    member.volume.show_past(Arc::new(move |id: &ChunkId| {
        let Some(data) = data.upgrade() else {
            return Ok(None);
        };
        let whole = 0..CHUNK_BYTES as usize;
        let read = match data.read_local(*id, whole.clone()) {
            Ok(None) => runtime
                .block_on(data.read(*id, whole, FETCH_TIMEOUT))
                .map(Some),
            read => read,
        };
        read.map_err(|error| match error {
            DataError::Replica(error) => error,
            error => {
                tracing::warn!(%error, "a node of a snapshot");
                ReplicaError::Corrupt { id: *id }
            }
        })
    }));
}
