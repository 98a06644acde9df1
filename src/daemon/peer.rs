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
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::config::Fsync;
use super::epochs::Epochs;
use super::error::DaemonError;
use super::room::Room;
use super::troubles::{Trouble, Troubles};
use super::waiting::Waiting;
use crate::base::limits::{DRAFT_AGE_MAX, REPLICAS};
use crate::base::task::{Pool, spawn};
use crate::base::time::{Backoff, sleep, timeout};
use crate::base::{ChunkId, Clock, DeviceId, Ino, PeerId, Rng};
use crate::crypto::{Identity, VolumeKeys};
use crate::data::Data;
use crate::fs::{Fs, FsConfig, FsError, Invalidation, ReplicationWait, RoomSource};
use crate::node::{Node, NodeConfig, NodeEvent, PeerState, Role};
use crate::replica::{NodePeers, Replica, ReplicaConfig};
use crate::store::{Gate, Store, StoreError};
use crate::transport::Transport;
use crate::volume::{Volume, VolumeConfig, VolumeContext, VolumeError};
use crate::wire::Vector;

/// How long the first draft waits for what belongs to it: a create, its write and its close come
/// within this time and go out as one segment.
const PUBLISH_GATHER: Duration = Duration::from_millis(2);

/// How long drafts gather while there is a stream of them: at most forty segments, and so forty
/// flushes of the disk, a second.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(25);

/// Drafts that take so much memory are sealed although nobody hears: what undoes them is given up
/// then, and is best given up before it goes from memory into the row database.
const DRAFTS_MAX_BYTES: usize = 1 << 20;

/// How long drafts gather while no other peer is connected.
const UNHEARD_INTERVAL: Duration = Duration::from_millis(500);

/// Bytes that no file seems to have any more before chunks are collected, where the capacity is
/// not small; else this fraction of it.
const COLLECT_MIN_BYTES: u64 = 64 << 20;
const COLLECT_MIN_FRACTION: u64 = 32;

/// How long after a failure drafts are sealed and segments folded again, at first and at most.
const PUBLISH_AGAIN: Duration = Duration::from_millis(250);
const AGAIN_MAX: Duration = Duration::from_secs(10);

/// Files that are named where chunks are lost.
const LOST_FILES_MAX: usize = 5;

/// How often dirty data is looked at, of which none may be older than [`DRAFT_AGE_MAX`] for long.
const TICK_INTERVAL: Duration = Duration::from_millis(500);

/// How long an fsync waits for other holders, where it was asked to, while nothing moves.
const REPLICATED_MAX: Duration = Duration::from_secs(30);

/// How long a shutdown waits for connected peers to take the last segments.
const FAREWELL_MAX: Duration = Duration::from_secs(3);

/// Takes what the kernel must drop from its caches.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Resolves when more may be pushed: folding waits for a kernel that is slow to forget.
    async fn has_room(&self);

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
}

/// Who waits for drafts.
#[derive(Debug, Default)]
struct Drafts {
    /// Told of each.
    any: Notify,
    /// Told when they are many.
    many: Notify,
}

impl Drafts {
    fn tell(&self, bytes: usize) {
        self.any.notify_one();
        if bytes >= DRAFTS_MAX_BYTES {
            self.many.notify_one();
        }
    }
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
    sink: OnceLock<Box<dyn Sink>>,
    tasks: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
    troubles: Arc<Troubles>,
    pub(super) waiting: Waiting,
    /// What was seen of the rows.
    pub(super) sums: super::sums::Watch,
    /// Where this peer keeps its state; `None` where that is in memory.
    state: Option<PathBuf>,
    /// Where what somebody asks for is looked up.
    asking_pool: Pool,
    /// The chunks that are lost, and files that name them.
    lost: Mutex<(Vec<ChunkId>, Vec<String>)>,
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
        let this: Arc<OnceLock<Weak<Self>>> = Arc::default();
        let wait = replication_wait(&this);
        let member = match &parts.keys {
            Some(keys) => Some(Self::member(
                &parts, keys, &node, &replica, &room, &drafts, wait,
            )?),
            None => None,
        };
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
            sink: OnceLock::new(),
            tasks: Mutex::new(Vec::new()),
            troubles,
            waiting: Waiting::default(),
            sums: super::sums::Watch::default(),
            state: parts.fs.state,
            asking_pool: parts.seal_pool,
            lost: Mutex::default(),
        });
        let _ = this.set(Arc::downgrade(&peer));
        peer.adopt_keys();
        // What cannot be folded now, as on a full disk, is tried again and again: without a mount
        // nothing could be removed.
        if let Err(error) = peer.fold().await {
            peer.note_failure(Trouble::Folding, &error);
        }
        peer.spawn_workers();
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
            node.roster().is_sole_author(&node.id()),
        )?;
        let drafts = Arc::clone(drafts);
        volume.on_draft(Box::new(move |bytes| drafts.tell(bytes)));
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
        Ok(Member {
            volume,
            data,
            fs: Arc::new(fs),
        })
    }

    /// Returns what this member has to fold before it changes anything, and has not: the last segments
    /// that they had folded who admitted it.
    pub fn awaited(&self) -> Vector {
        let shown = self.node.roster().shown_to(&self.node.id());
        let member = self.member.as_ref();
        member.map_or_else(Vector::new, |member| member.volume.unfolded(&shown))
    }

    fn spawn_workers(self: &Arc<Self>) {
        let mut tasks = self.tasks.lock();
        tasks.push(("push", spawn(Arc::clone(&self.replica).run())));
        tasks.push(("upkeep", spawn(Arc::clone(self).tick_loop())));
        if let Some(member) = &self.member {
            tasks.push(("prefetch", spawn(Arc::clone(&member.data).run())));
            tasks.push(("sealing", spawn(Arc::clone(self).publish_loop())));
            tasks.push(("folding", spawn(Arc::clone(self).fold_loop())));
        }
    }

    /// Returns the background tasks that have ended, which none does by itself.
    pub(super) fn ended_workers(&self) -> Vec<&'static str> {
        let tasks = self.tasks.lock();
        let ended = tasks.iter().filter(|(_, task)| task.is_finished());
        ended.map(|(name, _)| *name).collect()
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
        self.lost.lock().1.clone()
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

    /// Hands everything that programs wrote to the journal.
    async fn write_out(&self) -> Result<(), DaemonError> {
        let Some(member) = &self.member else {
            return Ok(());
        };
        let fs = Arc::clone(&member.fs);
        let written = self.fold_pool.call(move || fs.sync_all()).await;
        Ok(written.ok_or(DaemonError::WorkerFailed)??)
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

    /// Seals the drafts there are and pushes them.
    async fn publish(&self) -> Result<(), DaemonError> {
        let Some(member) = &self.member else {
            return Ok(());
        };
        let volume = Arc::clone(&member.volume);
        let sealed = self
            .fold_pool
            .call(move || volume.seal_drafts())
            .await
            .ok_or(DaemonError::WorkerFailed)??;
        if !sealed.is_empty() {
            self.node.publish(&sealed);
        }
        Ok(())
    }

    /// Seals full segments, for as long as it is polled.
    async fn seal_ahead(&self) {
        loop {
            self.drafts.many.notified().await;
            if let Some(member) = &self.member {
                let volume = Arc::clone(&member.volume);
                let sealed = self.fold_pool.call(move || volume.seal_ahead()).await;
                if let Some(Err(error)) = sealed {
                    self.note_failure(Trouble::Sealing, &error.into());
                    sleep(UNHEARD_INTERVAL).await;
                }
            }
        }
    }

    /// Folds what the logs have and the view does not, and tells the kernel.
    async fn fold(&self) -> Result<(), DaemonError> {
        let Some(member) = &self.member else {
            return Ok(());
        };
        loop {
            if let Some(sink) = self.sink.get() {
                sink.has_room().await;
            }
            let volume = Arc::clone(&member.volume);
            let merged = self
                .fold_pool
                .call(move || volume.apply_segments())
                .await
                .ok_or(DaemonError::WorkerFailed)??;
            self.waiting.set(&merged.waiting, self.clock.wall_ms());
            self.troubles.clear_all(|trouble| match trouble {
                Trouble::Log(log) => !merged.refused.contains_key(log),
                _ => false,
            });
            for (log, error) in &merged.refused {
                let name = self.device_name(member.volume.device_of(*log));
                let what = format!("the changes of {name} cannot be folded further: {error}");
                let advice = match error {
                    VolumeError::TooNew { .. } => "upgrade dfs on this machine",
                    _ => "see dfs log",
                };
                self.troubles.note(Trouble::Log(*log), what, advice);
            }
            self.waiting
                .set_statements(merged.lacks_statements, self.clock.wall_ms());
            if member.fs.is_read_only() || member.volume.is_over() {
                self.rights_changed();
            }
            if merged.is_nothing() {
                return Ok(());
            }
            tracing::debug!(
                ops = merged.op_count,
                undone = merged.undone_count,
                "folded"
            );
            self.invalidate(member.fs.apply_changes(&merged.changes));
        }
    }

    pub(super) fn invalidate(&self, invalidations: Vec<Invalidation>) {
        if let Some(sink) = self.sink.get() {
            sink.push(invalidations);
        }
    }

    async fn publish_loop(self: Arc<Self>) {
        let mut backoff = Backoff::new(PUBLISH_AGAIN, AGAIN_MAX);
        loop {
            if timeout(DRAFT_AGE_MAX, self.drafts.any.notified())
                .await
                .is_ok()
            {
                sleep(PUBLISH_GATHER).await;
            }
            match self.publish().await {
                Ok(()) => {
                    self.troubles.clear(Trouble::Sealing);
                    backoff.reset();
                }
                Err(error) => {
                    self.note_failure(Trouble::Sealing, &error);
                    sleep(backoff.failed()).await;
                }
            }
            // With nobody to tell, what is sealed now and not later only costs flushes of the disk.
            let is_heard = !self.node.connected().is_empty();
            if is_heard {
                sleep(PUBLISH_INTERVAL).await;
            } else {
                let _ = timeout(UNHEARD_INTERVAL, self.seal_ahead()).await;
            }
        }
    }

    /// Writes out what programs leave open and unflushed, and tells the others how much room there
    /// is.
    async fn tick_loop(self: Arc<Self>) {
        loop {
            sleep(TICK_INTERVAL).await;
            self.name_lost_files().await;
            self.look_around();
            self.node.set_free_bytes(self.room.offered_bytes());
            if let Some(member) = &self.member {
                self.node.set_needs(member.volume.needs());
                let fs = Arc::clone(&member.fs);
                let stale = self.fold_pool.call(move || fs.tick()).await;
                self.invalidate(stale.unwrap_or_default());
                self.collect(member).await;
                self.watch_rows(member).await;
            }
        }
    }

    /// Finds out which files name the chunks that are lost, where those are others than before. What
    /// no file names is not missed.
    async fn name_lost_files(&self) {
        let lost = self.replica.lost();
        let Some(member) = self.member.as_ref().filter(|_| self.lost.lock().0 != lost) else {
            return;
        };
        let (volume, ids) = (Arc::clone(&member.volume), lost.clone());
        let is_settled = member.fs.counts().dirty_inodes == 0;
        let named = self.asking_pool.call(move || volume.who_names(&ids)).await;
        let Some(Ok(named)) = named else {
            return;
        };
        let files = named.values().take(LOST_FILES_MAX);
        let files = files.filter_map(|ino| super::facts::path_of_inode(member, *ino));
        let files: Vec<String> = files.collect();
        let mut unnamed = lost.clone();
        unnamed.retain(|id| !named.contains_key(id));
        // Contents may be sealed before their op is applied.
        if is_settled && let Err(error) = self.replica.give_up_missing(&unnamed) {
            tracing::warn!(%error, "cannot take note of what is not missed");
        }
        *self.lost.lock() = (self.replica.lost(), files);
    }

    /// Gives up chunks that no file has any more, once they are worth looking for.
    async fn collect(&self, member: &Member) {
        let fs = Arc::clone(&member.fs);
        let may_collect = self.room.may_collect();
        let worth = COLLECT_MIN_BYTES.min(self.node.capacity_bytes() / COLLECT_MIN_FRACTION);
        let collected = move || {
            if may_collect {
                return fs.collect_if_worth(worth);
            }
            fs.forget_superfluous().map(|()| None)
        };
        match self.fold_pool.call(collected).await {
            Some(Ok(Some(count))) => {
                tracing::info!(chunks = count, "gave up what no file has any more");
            }
            Some(Err(error)) => tracing::warn!(%error, "nothing could be given up"),
            Some(Ok(None)) | None => {}
        }
    }

    async fn fold_loop(self: Arc<Self>) {
        let mut events = self.node.subscribe();
        let mut backoff = Backoff::new(PUBLISH_AGAIN, AGAIN_MAX);
        // The roster may have changed before anybody listened.
        self.rights_changed();
        loop {
            if let Err(error) = self.fold().await {
                self.note_failure(Trouble::Folding, &error);
                sleep(backoff.failed()).await;
                continue;
            }
            self.troubles.clear(Trouble::Folding);
            backoff.reset();
            loop {
                use tokio::sync::broadcast::error::RecvError;
                match events.recv().await {
                    Ok(NodeEvent::Segments { .. } | NodeEvent::Chain) => break,
                    Ok(NodeEvent::RosterChanged) => {
                        self.rights_changed();
                        if self.adopt_keys() {
                            break;
                        }
                        // Who has just joined asks for all that is written until now.
                        if let Err(error) = self.publish().await {
                            tracing::debug!(%error, "the last changes are not sealed yet");
                        }
                        // A record may have waited for what is known of the members now.
                        break;
                    }
                    Ok(NodeEvent::OwnLogForked { peer }) => self.forked(peer),
                    Err(RecvError::Lagged(_)) => {
                        self.rights_changed();
                        self.adopt_keys();
                        break;
                    }
                    Ok(_) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }

    /// Notes what keeps work from going on.
    fn note_failure(&self, trouble: Trouble, error: &DaemonError) {
        let advice = match error.store() {
            Some(StoreError::Full) => "free room on the disk of the state folder",
            Some(StoreError::Poisoned) => {
                let what = "the store takes no writes: an earlier write to the disk failed";
                let advice = "check the disk, unmount, and mount again";
                self.troubles.note(Trouble::Store, what, advice);
                advice
            }
            Some(_) | None => "see dfs log; if it goes on, unmount and mount again",
        };
        let what = match trouble {
            Trouble::Sealing => "the changes made here cannot be handed to the others",
            _ => "the changes of others cannot be shown",
        };
        self.troubles
            .note(trouble, format!("{what}: {error}"), advice);
    }

    /// A peer has another history of this device's log.
    fn forked(&self, peer: PeerId) {
        let name = self.peer_name(peer);
        let what = format!(
            "{name} has another history of this device's log: the others do not take what is written \
             here"
        );
        self.troubles
            .note(Trouble::Forked, what, super::look::FORK_ADVICE);
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

    /// Ends the membership of a peer. What is written here afterwards is sealed in the epoch of keys that
    /// begins with it.
    pub async fn remove_member(self: &Arc<Self>, peer: PeerId) -> Result<(), DaemonError> {
        self.node.remove_member(peer).await?;
        self.adopt_keys();
        Ok(())
    }

    /// Takes over the keys that admins left on the roster; says whether there were new ones.
    pub(super) fn adopt_keys(&self) -> bool {
        let Some(epochs) = &self.epochs else {
            return false;
        };
        match epochs.adopt(&self.node.roster(), &self.store) {
            Ok(any) => any,
            Err(error) => {
                tracing::error!(%error, "new keys are not kept yet");
                true
            }
        }
    }

    /// Lets programs change the volume, or not: as the roster says, and once all is folded that this
    /// member was shown.
    fn rights_changed(&self) {
        let Some(member) = &self.member else {
            return;
        };
        let was = member.fs.is_read_only();
        member
            .fs
            .set_read_only(!may_write(&self.node, &member.volume));
        let is = member.fs.is_read_only();
        if was != is {
            tracing::warn!(read_only = is, "what this peer may do has changed");
        }
        if !self.node.roster().is_sole_author(&self.node.id()) {
            member.volume.end_alone();
        }
        if was
            && !is
            && let Err(error) = member.volume.announce()
        {
            tracing::error!(%error, "this device has no name in the volume yet");
        }
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
                theirs.any(|(device, seg_no)| have.get(device).is_none_or(|have| have < seg_no))
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
        for (_, task) in self.tasks.lock().drain(..) {
            task.abort();
        }
        self.node.shutdown().await;
        self.store.sync()?;
        written
    }

    /// Ends the peer as a kill would: nothing is flushed, nobody is told. For simulations.
    pub async fn abandon(&self) {
        for (_, task) in self.tasks.lock().drain(..) {
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

/// Says whether changes made here count: those of a reader, or of who was removed, would be accepted by
/// nobody; and who has not seen yet what the others build on would change what is not there any more.
fn may_write(node: &Node, volume: &Volume) -> bool {
    let shown = node.roster().shown_to(&node.id());
    node.role().is_some_and(Role::writes)
        && volume.unfolded(&shown).is_empty()
        && !volume.is_over()
        && !volume.awaits_fence()
}

/// Lets a node admit members that read. Not before this no peer gets keys, so none is admitted before the
/// volume hears of it first.
fn admits(node: &Node, keys: &Arc<VolumeKeys>, volume: &Arc<Volume>, rng: &Rng) {
    let showing = Arc::clone(volume);
    node.set_shower(Box::new(move |role| {
        if !role.reads() {
            return Ok(Vector::new());
        }
        if role.writes() {
            showing.end_alone();
        }
        Ok(showing.shown()?)
    }));
    let (drawn_after, chance) = (Arc::clone(keys), rng.clone());
    node.set_epoch_drawer(Box::new(move |heirs| {
        let drawn = drawn_after.draw_epoch(&chance).ok()?;
        let wrapped = heirs.iter().map(|heir| heir.wrap_key(&chance, &drawn).ok());
        wrapped.collect()
    }));
    let (wrapped, rng) = (Arc::clone(keys), rng.clone());
    node.set_key_wrapper(Box::new(move |to| {
        to.wrap_key(&rng, &wrapped.to_bytes()).ok()
    }));
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
