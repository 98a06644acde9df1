//! Checkpoints: what devices make of them, and who takes one over.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dfs::base::ChunkId;
use dfs::crypto::chunk_id;
use dfs::log::checkpoint::{Checkpoint, LogStarts};
use dfs::replica::ReplicaError;
use dfs::volume::checkpoint::{Base, Keeper, Made};
use dfs::volume::{Anew, VolumeError};
use dfs::wire::RecordRef;
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
    fn wants(&self, _: RecordRef) -> bool {
        true
    }

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

    /// Returns where the logs go on behind what it made at a record.
    pub(crate) fn starts_at(&self, number: u64) -> LogStarts {
        let made = self.kept.made.lock();
        made[&number].starts.clone()
    }

    /// Puts other rows in the place of those in the tree that it made at a record.
    pub(crate) fn spoil_node(&self, number: u64) {
        let root = self.kept.made.lock()[&number].tree.root;
        let mut nodes = self.kept.nodes.lock();
        let mut plain = nodes[&root].to_vec();
        // The last value of the leaf: part of a time.
        *plain.last_mut().unwrap() ^= 1;
        nodes.insert(root, plain.into());
    }

    /// Loses the root of the tree that it made at a record.
    pub(crate) fn lose_node(&self, number: u64) {
        let root = self.kept.made.lock()[&number].tree.root;
        self.kept.nodes.lock().remove(&root);
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
