//! One peer, composed: the same for a mount, a storage peer, and a simulated one.
//!
//! ```text
//! changes of programs --> fs --> volume --(draft)--> [publish] --> node.publish
//! segments of others --> node --(event)--> [fold] --> volume --> fs --> sink (kernel)
//! chunks --> replica [push, its own worker]
//! ```
//!
//! Everything that touches the outside (transport, store, clock, rng, pools) comes in through
//! [`Parts`], so a simulation composes exactly what a daemon does.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::checkpoints::{Keeping, Unsigned};
use super::config::Fsync;
use super::epochs::Epochs;
use super::error::DaemonError;
use super::rights::{admits, is_alone, may_write};
use super::room::Room;
use super::troubles::{Trouble, Troubles};
use super::waiting::Waiting;
use super::workers::{self, Collections, Drafts};
use crate::base::limits::{DRAFT_AGE_MAX, REPLICAS};
use crate::base::task::Pool;
use crate::base::time::timeout;
use crate::base::{Clock, DeviceId, Ino, PeerId, Rng};
use crate::crypto::{Identity, VolumeKeys};
use crate::data::Data;
use crate::fs::{Fs, FsConfig, FsError, Invalidation, ReplicationWait};
use crate::locks::LockSpace;
use crate::node::{Node, NodeConfig, PeerState};
use crate::replica::{Names, NodePeers, Replica, ReplicaConfig};
use crate::store::{Gate, Store};
use crate::transport::Transport;
use crate::volume::{Volume, VolumeConfig, VolumeContext};
use crate::wire::LockKey;

/// How long an fsync waits for other holders, where it was asked to, while nothing moves.
const REPLICATED_MAX: Duration = Duration::from_secs(30);

/// How long a shutdown waits for connected peers to take the last segments.
const FAREWELL_MAX: Duration = Duration::from_secs(3);

/// Takes what the kernel must drop from its caches.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Resolves when more may be pushed: folding waits for a kernel that is slow to forget.
    async fn has_room(&self);

    /// Resolves when the kernel has dropped what was pushed before.
    async fn settled(&self);

    /// Takes invalidations without waiting.
    fn push(&self, invalidations: Vec<Invalidation>);
}

/// What a peer is composed of.
pub struct Parts {
    /// The peer's secret.
    pub identity: Arc<Identity>,
    /// The volume's keys; `None` for a storage peer.
    pub keys: Option<Arc<VolumeKeys>>,
    /// The local disk; holds a volume, made or joined.
    pub store: Store,
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Rng,
    /// How the node presents itself.
    pub node: NodeConfig,
    /// What this peer gives to the swarm.
    pub replica: ReplicaConfig,
    /// Settings of the filesystem; not used by a storage peer.
    pub fs: FsConfig,
    /// Bytes of plaintext kept in memory.
    pub memory_cache_bytes: u64,
    /// Where chunks are sealed and opened.
    pub seal_pool: Pool,
    /// Where ops are folded and drafts are sealed, one job at a time.
    pub fold_pool: Pool,
    /// What fsync waits for.
    pub fsync: Fsync,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("peer", &self.identity.id())
            .finish_non_exhaustive()
    }
}

/// What only a peer with the volume's key has.
#[derive(Debug, Clone)]
pub struct Member {
    /// The namespace.
    pub volume: Arc<Volume>,
    /// The contents.
    pub data: Arc<Data>,
    /// The filesystem.
    pub fs: Arc<Fs>,
    /// Checkpoints that were made here and are not signed yet.
    pub(super) unsigned: Arc<Unsigned>,
    /// The volume's keys.
    pub(super) keys: Arc<VolumeKeys>,
}

/// A running peer.
pub struct Peer {
    node: Arc<Node>,
    replica: Arc<Replica>,
    room: Arc<Room>,
    member: Option<Member>,
    store: Store,
    clock: Arc<dyn Clock>,
    started: Duration,
    fold_pool: Pool,
    /// Where what admins left for this member opens; what was tried of it.
    epochs: Option<Epochs>,
    drafts: Arc<Drafts>,
    collections: Arc<Collections>,
    sink: OnceLock<Box<dyn Sink>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    troubles: Arc<Troubles>,
    pub(super) waiting: Waiting,
    /// Told when changes of others are shown.
    pub(super) shown: tokio::sync::Notify,
    /// Held from when they are folded until the kernel's caches are told of them.
    pub(super) fold_turn: tokio::sync::Mutex<()>,
    /// Who waits for snapshots.
    pub(super) snapshots: super::snapshots::Waiting,
    /// What was seen of the rows.
    pub(super) sums: super::sums::Watch,
    /// Where this peer keeps its state; `None` where that is in memory.
    state: Option<PathBuf>,
    /// Where what somebody asks for is looked up.
    asking_pool: Pool,
    /// Files that name chunks that are lost, a few of them.
    lost_files: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Peer {
    /// Composes and starts a peer on the current runtime.
    ///
    /// What the logs brought while this peer was away is folded before it returns.
    pub async fn start(parts: Parts) -> Result<Arc<Self>, DaemonError> {
        let started = parts.clock.monotonic();
        let node = Node::start(
            Arc::clone(&parts.transport),
            parts.node.clone(),
            parts.store.clone(),
            Arc::clone(&parts.clock),
            parts.rng.clone(),
        )?;
        let swarm = NodePeers::new(Arc::clone(&node));
        let replica = Replica::new(
            parts.store.clone(),
            Some(swarm),
            parts.replica,
            Arc::clone(&parts.clock),
            parts.seal_pool.clone(),
        )?;
        node.set_chunk_handler(replica.handler());
        let room = Arc::new(Room::new(parts.fs.state.as_deref(), &node, &replica));
        let of_disk = Arc::clone(&room);
        replica.set_room(move || of_disk.offered_bytes());
        let drafts = Arc::new(Drafts::default());
        let collections = Collections::new(&parts.clock);
        let this: Arc<OnceLock<Weak<Self>>> = Arc::default();
        let wait = replication_wait(&this);
        let member = match &parts.keys {
            Some(keys) => Some(Self::member(
                &parts, keys, &node, &replica, &room, &drafts, wait,
            )?),
            None => None,
        };
        let names: Arc<dyn Names> = Arc::<Collections>::clone(&collections);
        replica.set_names(names);
        let troubles = Arc::new(Troubles::new(Arc::clone(&parts.clock)));
        let peer = Arc::new(Self {
            node,
            replica,
            room,
            member,
            store: parts.store,
            clock: parts.clock,
            started,
            fold_pool: parts.fold_pool,
            epochs: parts.keys.map(|keys| Epochs::new(parts.identity, keys)),
            drafts,
            collections,
            sink: OnceLock::new(),
            tasks: Mutex::new(Vec::new()),
            troubles,
            waiting: Waiting::default(),
            shown: tokio::sync::Notify::new(),
            fold_turn: tokio::sync::Mutex::default(),
            snapshots: super::snapshots::Waiting::default(),
            sums: super::sums::Watch::default(),
            state: parts.fs.state,
            asking_pool: parts.seal_pool,
            lost_files: Mutex::default(),
        });
        let _ = this.set(Arc::downgrade(&peer));
        peer.adopt_keys();
        // What cannot be folded now, as on a full disk, is tried again and again: without a mount
        // nothing could be removed.
        if let Err(error) = peer.fold().await {
            peer.note_failure(Trouble::Folding, &error);
        }
        workers::start(&peer);
        Ok(peer)
    }

    fn member(
        parts: &Parts,
        keys: &Arc<VolumeKeys>,
        node: &Arc<Node>,
        replica: &Arc<Replica>,
        room: &Arc<Room>,
        drafts: &Arc<Drafts>,
        replicated: ReplicationWait,
    ) -> Result<Member, DaemonError> {
        let volume = Volume::open(
            VolumeConfig {
                store: parts.store.clone(),
                log: Arc::clone(node.log()),
                chain: Arc::clone(node.chain()),
                keys: Arc::clone(keys),
                identity: Arc::clone(&parts.identity),
                volume: node.volume(),
                name: parts.node.name.clone(),
            },
            VolumeContext {
                clock: Arc::clone(&parts.clock),
                rng: parts.rng.clone(),
            },
            is_alone(node),
        )?;
        let drafts = Arc::clone(drafts);
        volume.on_draft(Box::new(move |bytes| drafts.tell(bytes)));
        let holders = Arc::downgrade(replica);
        volume.on_seal(Box::new(move |chunks, record| {
            let holders = holders.upgrade();
            holders.map_or(Ok(()), |holders| holders.renew(chunks, record))
        }));
        let unsigned = Arc::default();
        let keeping = Keeping::new(node, replica, keys, &unsigned);
        volume.keep_checkpoints(Box::new(keeping));
        let volume = Arc::new(volume);
        admits(node, keys, &volume, &parts.rng);
        let data = Data::new(
            Arc::clone(keys),
            Arc::clone(replica),
            parts.seal_pool.clone(),
            Arc::clone(&parts.clock),
            parts.memory_cache_bytes,
        );
        let mut config = parts.fs.clone();
        config.replicated = Some(replicated);
        let of_volume = Arc::clone(room);
        config.capacity = Some(Arc::new(move || of_volume.capacity()));
        config.room = Some(Arc::<Room>::clone(room));
        let fs = Fs::new(
            Arc::clone(&volume),
            Arc::clone(&data),
            Arc::clone(&parts.clock),
            config,
        );
        fs.wait_for_holders(parts.fsync == Fsync::Replicated);
        fs.set_read_only(!may_write(node, &volume));
        let (keys, of_member) = (Arc::clone(keys), Arc::clone(keys));
        let of_volume = Arc::clone(&volume);
        fs.locks().open(parts.clock.wall_ms(), move |space, ino| {
            let kind = match space {
                LockSpace::Record => 0,
                LockSpace::Whole => 1,
            };
            // Both numbers of what is one lead to one.
            let ino = of_volume.file_of(ino);
            let of_file = of_volume.inode(ino).ok().flatten();
            LockKey(keys.lock_hash(kind, of_file.map_or(ino, |inode| inode.ino)))
        });
        Ok(Member {
            volume,
            data,
            fs: Arc::new(fs),
            unsigned,
            keys: of_member,
        })
    }

    /// Returns what stopped and has not gone on.
    pub fn troubles(&self) -> &Arc<Troubles> {
        &self.troubles
    }

    /// Returns the state folder, `None` for a peer in memory.
    pub(super) fn state_folder(&self) -> Option<&Path> {
        self.state.as_deref()
    }

    /// Returns the pool for what somebody asks, and may take a while.
    pub(super) fn asking_pool(&self) -> &Pool {
        &self.asking_pool
    }

    /// Returns the pool where ops are folded.
    pub(super) fn fold_pool(&self) -> &Pool {
        &self.fold_pool
    }

    /// Returns files that name chunks that are lost, a few of them.
    pub(super) fn lost_files(&self) -> Vec<String> {
        self.lost_files.lock().clone()
    }

    /// Takes note of them.
    pub(super) fn set_lost_files(&self, files: Vec<String>) {
        *self.lost_files.lock() = files;
    }

    /// Has chunks collected soon that nothing names any more, whatever they are worth.
    pub fn collect_soon(&self) {
        self.collections.ask();
    }

    /// Tells the others that are there, or of them those that cannot see what names chunks, that there is
    /// something to collect.
    pub(super) async fn tell_to_collect(&self, all: bool) {
        let peers = self.node.peers().into_iter();
        let there = peers.filter(|of| of.state == PeerState::Connected);
        for of in there.filter(|of| all || !of.role.reads()) {
            self.replica.tell_to_collect(of.id).await;
        }
    }

    /// Returns who asks for collections, and what they did.
    pub(super) fn collections(&self) -> &Arc<Collections> {
        &self.collections
    }

    /// Returns who is told of drafts.
    pub(super) fn drafts(&self) -> &Drafts {
        &self.drafts
    }

    /// Returns where invalidations go, once there is a mount.
    pub(super) fn sink(&self) -> Option<&dyn Sink> {
        self.sink.get().map(|sink| &**sink)
    }

    /// Returns where the keys of later epochs open, for a member.
    pub(super) fn epochs(&self) -> Option<&Epochs> {
        self.epochs.as_ref()
    }

    /// Returns the store.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Keeps a task that ends with this peer.
    pub(super) fn keep_task(&self, task: JoinHandle<()>) {
        self.tasks.lock().push(task);
    }

    /// Returns the gate of the store, which closes when the mount is gone.
    pub fn gate(&self) -> &Gate {
        &self.store.gate
    }

    /// Returns the embedded node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Returns the chunks.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// Returns the room of this peer.
    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    /// Returns what a peer with the key has.
    pub fn member_parts(&self) -> Option<&Member> {
        self.member.as_ref()
    }

    /// Returns the clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// Changes what fsync waits for, from the next one on.
    pub fn set_fsync(&self, fsync: Fsync) {
        if let Some(member) = &self.member {
            member.fs.wait_for_holders(fsync == Fsync::Replicated);
        }
    }

    /// Returns when this peer was started, on the monotonic clock.
    pub fn started(&self) -> Duration {
        self.started
    }

    /// Returns how many copies of each chunk are wanted with today's roster.
    pub fn replicas_wanted(&self) -> usize {
        REPLICAS.min(self.node.roster().members().len()).max(1)
    }

    /// Sets where invalidations go from now on: the kernel, once there is a mount. Set once.
    pub fn set_sink(&self, sink: Box<dyn Sink>) {
        let _ = self.sink.set(sink);
    }

    /// Hands everything that programs wrote to the journal, and that to the connected peers.
    pub async fn flush(&self) -> Result<(), DaemonError> {
        self.write_out().await?;
        self.publish().await
    }

    /// Waits until everything that is durable here is on as many peers as wanted.
    ///
    /// # Errors
    ///
    /// [`DaemonError::NotReplicated`] where that is not so within the time an fsync waits.
    pub async fn replicated(&self) -> Result<(), DaemonError> {
        self.publish().await?;
        let mut everywhere = std::pin::pin!(async {
            let mut changes = self.replica.watch();
            while !self.replica.progress().is_synced() {
                changes.changed().await;
            }
            let mut events = self.node.subscribe();
            while self.node.unpushed_segments(self.replicas_wanted()) > 0 {
                let _ = timeout(DRAFT_AGE_MAX, events.recv()).await;
            }
        });
        let started = self.clock.monotonic();
        loop {
            let since = self.node.moved_at().max(started);
            let left = (since + REPLICATED_MAX).saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                return Err(DaemonError::NotReplicated);
            }
            if timeout(left, everywhere.as_mut()).await.is_ok() {
                return Ok(());
            }
        }
    }

    pub(super) fn invalidate(&self, invalidations: Vec<Invalidation>) {
        if let Some(sink) = self.sink.get() {
            sink.push(invalidations);
        }
    }

    /// Returns what people call a peer.
    pub(super) fn peer_name(&self, peer: PeerId) -> String {
        let roster = self.node.roster();
        let member = roster.member(&peer).or_else(|| roster.former(&peer));
        member.map_or_else(|| peer.short(), |member| member.name.clone())
    }

    /// Returns what people call a device.
    pub(super) fn device_name(&self, device: DeviceId) -> String {
        let roster = self.node.roster();
        roster.author(device).map_or_else(
            || format!("{:016x}", device.0),
            |member| member.name.clone(),
        )
    }

    /// Resolves when this peer has folded all that it was shown when it was admitted, and all that the
    /// connected peers had when they greeted it: what a new member waits for before it shows anything.
    pub async fn caught_up(&self) -> Result<(), DaemonError> {
        let Some(member) = &self.member else {
            return Ok(());
        };
        let mut events = self.node.subscribe();
        loop {
            self.fold().await?;
            let have = self.node.log().vector();
            let connected = self
                .node
                .peers()
                .into_iter()
                .filter(|peer| peer.state == PeerState::Connected);
            let behind = connected.into_iter().any(|peer| {
                let theirs = self.node.counting(peer.vector);
                let mut theirs = theirs.iter();
                // What builds on a record that nobody hands over cannot be had.
                theirs
                    .any(|(id, seg_no)| have.get(id) < Some(seg_no) && !self.node.is_unfounded(*id))
            });
            let has_all = self.awaited().is_empty() && member.volume.inode(Ino::ROOT)?.is_some();
            if !behind && has_all {
                return Ok(());
            }
            let _ = timeout(DRAFT_AGE_MAX, events.recv()).await;
        }
    }

    /// Ends the peer in order: what is written goes to the disk and, within a few seconds, to the
    /// peers that are connected; then the sessions close.
    pub async fn shutdown(&self) -> Result<(), DaemonError> {
        let written = self.write_out().await;
        // What cannot be sealed, as on a full disk, is in the journal and goes out the next time.
        let published = self.publish().await;
        if let Err(error) = &published {
            tracing::warn!(%error, "the last changes are not sent yet");
        }
        if published.is_ok() && !self.node.connected().is_empty() {
            let _ = timeout(FAREWELL_MAX, self.pushed()).await;
        }
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        self.node.shutdown().await;
        self.store.sync()?;
        written
    }

    /// Ends the peer as a kill would: nothing is flushed, nobody is told. For simulations.
    pub async fn abandon(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        self.node.shutdown().await;
    }

    /// Resolves when every connected peer has all of this device's segments.
    async fn pushed(&self) {
        let mut events = self.node.subscribe();
        let copies = self.node.connected().len() + 1;
        while self.node.unpushed_segments(copies) > 0 {
            if events.recv().await.is_err() {
                return;
            }
        }
    }
}

/// Returns what an fsync awaits where other holders are part of its promise.
fn replication_wait(this: &Arc<OnceLock<Weak<Peer>>>) -> ReplicationWait {
    let this = Arc::clone(this);
    Arc::new(move || {
        let peer = this.get().and_then(Weak::upgrade);
        Box::pin(async move {
            let peer = peer.ok_or(FsError::TimedOut)?;
            peer.replicated().await.map_err(|error| {
                tracing::warn!(%error, "fsync");
                FsError::TimedOut
            })
        })
    })
}
