//! Checkpoints: those that the volume makes are signed, and one is taken over where what led there is not to be
//! had any more.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::error::DaemonError;
use super::peer::{Member, Peer};
use crate::base::limits::{CHUNK_BYTES, FETCH_TIMEOUT};
use crate::base::task::Pool;
use crate::base::{ChunkId, DeviceId};
use crate::crypto::VolumeKeys;
use crate::data::{Data, DataError};
use crate::log::checkpoint::{Checkpoint, LogStarts, Tree};
use crate::node::{Counted, Node};
use crate::replica::{Replica, ReplicaError};
use crate::volume::checkpoint::{Base, Keeper, Made, nodes_of};
use crate::volume::{Anew, Volume, VolumeError};
use crate::wire::RecordRef;

/// Nodes of a tree that are fetched at once.
const FETCHES_MAX: usize = 8;

/// Where the volume keeps the checkpoints that it makes.
pub(super) struct Keeping {
    node: Arc<Node>,
    /// It has what refers to the volume.
    replica: Weak<Replica>,
    keys: Arc<VolumeKeys>,
    unsigned: Arc<Unsigned>,
}

/// Checkpoints that were made here and are not signed: others let go of what led there as soon as they count, so
/// their trees are on as many peers before as any content.
#[derive(Debug, Default)]
pub(super) struct Unsigned(Mutex<VecDeque<Made>>);

/// So many peers have each node of a tree before it is signed, where not all have it yet that should.
const COPIES_MIN: usize = 2;

/// Most of them.
const UNSIGNED_MAX: usize = 16;

impl Keeping {
    pub(super) fn new(
        node: &Arc<Node>,
        replica: &Arc<Replica>,
        keys: &Arc<VolumeKeys>,
        unsigned: &Arc<Unsigned>,
    ) -> Self {
        Self {
            unsigned: Arc::clone(unsigned),
            node: Arc::clone(node),
            replica: Arc::downgrade(replica),
            keys: Arc::clone(keys),
        }
    }
}

impl Keeper for Keeping {
    fn put(&self, plain: Bytes) -> Result<ChunkId, ReplicaError> {
        let sealed = self.keys.seal_chunk(&plain);
        if let Some(replica) = self.replica.upgrade() {
            replica.put(sealed.id, &sealed.bytes)?;
        }
        Ok(sealed.id)
    }

    fn wants(&self, record: RecordRef) -> bool {
        self.node.wants_checkpoint(record)
    }

    fn made(&self, record: u64, made: Option<Made>) {
        let Some(made) = made else {
            // Another one, as soon as there is something new.
            self.node.ask_checkpoint();
            return;
        };
        tracing::debug!(record, "made a checkpoint");
        let mut unsigned = self.unsigned.0.lock();
        if unsigned.len() == UNSIGNED_MAX {
            unsigned.pop_front();
        }
        unsigned.push_back(made);
    }
}

/// What of the newest checkpoint that counts is left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing: the volume is past it.
    Nothing,
    /// It is folded by what is here, or on its way.
    Folding,
    /// What leads there is not here; nothing at all is, or something.
    TakingOver {
        /// Whether the volume is as good as empty.
        is_new: bool,
    },
}

impl Peer {
    /// Signs what was made here, each as soon as enough peers have its tree.
    pub(super) async fn sign_checkpoints(&self, member: &Member) -> Result<(), DaemonError> {
        let unsigned: Vec<Made> = member.unsigned.0.lock().iter().cloned().collect();
        for made in unsigned {
            let (volume, replica) = (Arc::clone(&member.volume), Arc::clone(self.replica()));
            let (node, checkpoint) = (Arc::clone(self.node()), made.checkpoint);
            let sign = move || -> Result<bool, DaemonError> {
                for id in volume.tree_ids(checkpoint.record.number)? {
                    let status = replica.status(id).map_err(DataError::from)?;
                    // One that is away is waited for no longer than until another has it. What is not here any
                    // more is where it is to be.
                    if status.pending && status.holders.len() < COPIES_MIN {
                        return Ok(false);
                    }
                }
                if !node.sign_checkpoint(checkpoint, made.tree, &made.starts)? {
                    let number = checkpoint.record.number;
                    tracing::warn!(
                        number,
                        "a checkpoint is not signed: another was, or none may be"
                    );
                }
                Ok(true)
            };
            let is_done = self.asking_pool().call(sign).await;
            if is_done.ok_or(DaemonError::WorkerFailed)?? {
                let mut unsigned = member.unsigned.0.lock();
                unsigned.retain(|of| of.checkpoint != checkpoint);
            }
        }
        Ok(())
    }

    /// Says what is left to do about a checkpoint that counts.
    pub(super) async fn left_of(
        &self,
        member: &Member,
        counted: &Counted,
    ) -> Result<Left, DaemonError> {
        let volume = &member.volume;
        let is_new = volume.record().number == 0;
        let log = self.node().log();
        if volume.awaits_checkpoint()? {
            return Ok(Left::TakingOver { is_new: true });
        }
        if !volume.is_of_chain()? {
            return Ok(Left::Folding);
        }
        if volume.record().number >= counted.checkpoint.record.number {
            return Ok(Left::Nothing);
        }
        let starts = self.node().checkpoint_starts().await?;
        let have = log.vector();
        let is_here = |log, seg_no| have.get(&log).copied().unwrap_or(0) >= seg_no;
        let mut starts = starts.iter();
        Ok(match starts.all(|start| is_here(start.log, start.seg_no)) {
            true => Left::Folding,
            false => Left::TakingOver { is_new },
        })
    }

    /// Folds everything anew: from the newest checkpoint on, where the logs begin at one.
    pub(super) async fn anew(&self, member: &Member) -> Result<Anew, VolumeError> {
        let volume = Arc::clone(&member.volume);
        let counted = self.node().checkpoint();
        let counted = counted.filter(|_| !self.node().log().floors().is_empty());
        let Some(counted) = counted else {
            let folded = self.fold_pool().call(move || volume.fold_anew()).await;
            return folded.unwrap_or(Err(VolumeError::Busy));
        };
        let mut failure = None;
        for tree in counted.trees {
            if let Err(error) = fetch_tree(self.replica(), &member.data, tree, true).await {
                tracing::warn!(%error, "a checkpoint cannot be had");
            }
            let starts = self.node().checkpoint_starts().await;
            let starts = starts.map_err(|error| {
                tracing::warn!(%error, "where logs begin cannot be had");
                VolumeError::NoNode { id: tree.root }
            })?;
            let from = (counted.checkpoint, tree, starts);
            let taken = with_tree(self.fold_pool(), member, from, Volume::take_over);
            match taken.await {
                Ok(anew) => return Ok(anew),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or(VolumeError::Busy))
    }

    /// Lets go of what led to a checkpoint that counts, which the volume is past: segments, and older trees.
    pub(super) async fn settle_on(
        &self,
        member: &Member,
        counted: &Counted,
    ) -> Result<(), DaemonError> {
        let number = counted.checkpoint.record.number;
        let own = DeviceId::from(self.node().id());
        let words = self.node().checkpoint_words();
        let differs = words.iter().any(|word| {
            let is_own = word.device == own && word.checkpoint.record.number == number;
            is_own && word.checkpoint != counted.checkpoint
        });
        if differs {
            // That is told; what shows who is right stays here.
            return Ok(());
        }
        // Each member names the nodes of all trees that somebody may take over: they differ in what is each
        // machine's own.
        let mut ids: BTreeSet<ChunkId> = member.volume.tree_ids(number)?.into_iter().collect();
        let others = counted
            .trees
            .iter()
            .filter(|tree| !ids.contains(&tree.root));
        for tree in others.copied().collect::<Vec<Tree>>() {
            match fetch_tree(self.replica(), &member.data, tree, false).await {
                Ok(nodes) => ids.extend(nodes),
                Err(error) => tracing::debug!(%error, "a tree cannot be had"),
            }
        }
        if ids.is_empty() {
            let root = counted.trees.first().map(|tree| tree.root);
            let id = root.unwrap_or(ChunkId([0; 32]));
            return Err(VolumeError::NoNode { id }.into());
        }
        let ids: Vec<ChunkId> = ids.into_iter().collect();
        member.volume.note_tree(number, &ids)?;
        member.volume.drop_trees_before(number)?;
        // What was folded is durable before what it was folded from goes.
        member.volume.sync()?;
        self.node().start_logs_at_checkpoint().await?;
        Ok(())
    }

    /// Takes the newest checkpoint that counts over in the place of what is here.
    pub(super) async fn take_over(
        &self,
        member: &Member,
        counted: &Counted,
    ) -> Result<(), DaemonError> {
        let mut failure = None;
        for tree in &counted.trees {
            match self.try_take_over(member, counted, *tree).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "a checkpoint is not taken over");
                    failure = Some(error);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn try_take_over(
        &self,
        member: &Member,
        counted: &Counted,
        tree: Tree,
    ) -> Result<(), DaemonError> {
        let number = counted.checkpoint.record.number;
        tracing::info!(number, "takes a checkpoint over");
        let ids = fetch_tree(self.replica(), &member.data, tree, true).await?;
        // Nobody collects them from now on.
        member.volume.note_tree(number, &ids)?;
        let starts = self.node().checkpoint_starts().await?;
        let from = (counted.checkpoint, tree, starts);
        with_tree(self.asking_pool(), member, from.clone(), Volume::prove).await?;
        self.node().start_logs_at_checkpoint().await?;
        let _turn = self.fold_turn.lock().await;
        let taken = with_tree(self.fold_pool(), member, from, Volume::take_over).await?;
        tracing::info!(rows = taken.differing, "a checkpoint is taken over");
        self.invalidate(member.fs.apply_changes(&taken.changes));
        self.rights_changed();
        self.shown.notify_waiters();
        Ok(())
    }
}

/// Does something with a checkpoint whose tree is here.
async fn with_tree<T: Send + 'static>(
    pool: &Pool,
    member: &Member,
    (checkpoint, tree, starts): (Checkpoint, Tree, LogStarts),
    act: impl FnOnce(&Volume, Base<'_>) -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    let (volume, data) = (Arc::clone(&member.volume), Arc::clone(&member.data));
    let acted = pool.call(move || {
        let base = Base {
            checkpoint,
            tree,
            starts: &starts,
            get: &mut |id| node_of(&data, id),
        };
        act(&volume, base)
    });
    acted.await.unwrap_or(Err(VolumeError::Busy))
}

/// Returns the plaintext of a node that is here.
pub(super) fn node_of(data: &Data, id: &ChunkId) -> Result<Option<Bytes>, ReplicaError> {
    match data.read_local(*id, 0..CHUNK_BYTES as usize) {
        Ok(plain) => Ok(plain),
        Err(DataError::Replica(error)) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "a node of a checkpoint");
            Err(ReplicaError::Corrupt { id: *id })
        }
    }
}

/// Fetches the nodes of a tree, the leaves too where that is asked for; returns all of their chunks. Those
/// that are fetched are kept here, sealed.
async fn fetch_tree(
    replica: &Arc<Replica>,
    data: &Arc<Data>,
    tree: Tree,
    with_leaves: bool,
) -> Result<Vec<ChunkId>, DaemonError> {
    let mut ids = Vec::new();
    let mut known = BTreeSet::new();
    let mut waiting = vec![tree];
    let mut fetches: JoinSet<Result<Tree, ReplicaError>> = JoinSet::new();
    loop {
        while fetches.len() < FETCHES_MAX
            && let Some(node) = waiting.pop()
        {
            // One that stands in several places is one.
            if !known.insert(node.root) {
                continue;
            }
            ids.push(node.root);
            if node.level == 0 && !with_leaves {
                continue;
            }
            let replica = Arc::clone(replica);
            fetches.spawn(async move {
                replica.fetch(node.root, FETCH_TIMEOUT).await?;
                Ok(node)
            });
        }
        let Some(fetched) = fetches.join_next().await else {
            return Ok(ids);
        };
        let node = fetched.map_err(|_| DaemonError::WorkerFailed)?;
        let node = node.map_err(DataError::from)?;
        if node.level > 0 {
            let plain = node_of(data, &node.root).map_err(DataError::from)?;
            let plain = plain.ok_or(VolumeError::NoNode { id: node.root })?;
            waiting.extend(nodes_of(&node, &plain)?);
        }
    }
}
