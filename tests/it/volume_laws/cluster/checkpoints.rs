//! Checkpoints: what devices make of them, and who takes one over.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dfs::base::ChunkId;
use dfs::crypto::chunk_id;
use dfs::log::checkpoint::Checkpoint;
use dfs::replica::ReplicaError;
use dfs::volume::checkpoint::{Base, Keeper, Made};
use dfs::volume::{Anew, VolumeError};
use parking_lot::Mutex;

use super::Device;

/// What a device keeps of checkpoints.
#[derive(Default)]
pub(crate) struct Kept {
    nodes: Mutex<BTreeMap<ChunkId, Bytes>>,
    made: Mutex<BTreeMap<u64, Made>>,
}

struct Keeping(Arc<Kept>);

impl Keeper for Keeping {
    fn put(&self, plain: Bytes) -> Result<ChunkId, ReplicaError> {
        let id = chunk_id(&plain);
        self.0.nodes.lock().insert(id, plain);
        Ok(id)
    }

    fn made(&self, record: u64, made: Option<Made>) {
        if let Some(made) = made {
            assert_eq!(made.checkpoint.record.number, record);
            self.0.made.lock().insert(record, made);
        }
    }
}

impl Device {
    /// Keeps from now on the checkpoints that its volume makes.
    pub(super) fn keep_checkpoints(&self) {
        let keeping = Keeping(Arc::clone(&self.kept));
        self.volume.keep_checkpoints(Box::new(keeping));
    }

    /// Returns the checkpoints that it made of its chain, by record.
    pub(crate) fn checkpoints(&self) -> BTreeMap<u64, Checkpoint> {
        let made = self.kept.made.lock();
        let of_chain = |made: &&Made| self.chain.has(made.checkpoint.record).unwrap();
        let of_chain = made.values().filter(of_chain);
        let checkpoints = of_chain.map(|made| (made.checkpoint.record.number, made.checkpoint));
        checkpoints.collect()
    }

    /// Takes over what another made at a record.
    pub(crate) fn take_over(&self, from: &Self, number: u64) -> Result<Anew, VolumeError> {
        let made = from.kept.made.lock().get(&number).cloned().unwrap();
        let nodes = &from.kept.nodes;
        let mut get = |id: &ChunkId| Ok(nodes.lock().get(id).cloned());
        self.volume.take_over(Base {
            checkpoint: made.checkpoint,
            tree: made.tree,
            starts: &made.starts,
            get: &mut get,
        })
    }
}
