//! The namespace: rows, ops, their fold in one total order, logs, merge, conflicts.
//!
//! Owns: [`Volume`] (reading), [`Writer`] (applying), [`OpKind`] (what can be wanted), the rows of
//! the view, the records that undo needs, and what is inside a segment. Must never know: FUSE,
//! sockets, how bytes are sealed into chunks.
//!
//! ```text
//! Writer::apply ── fold ──> rows + record, one batch ── seal_drafts ──> segment in the own log
//! other logs ── apply_segments ──> merge: undo, fold, redo ──> rows + records, one batch a slice
//! ```
//!
//! An op names what its author wanted and saw. Devices exchange ops in sealed segments and fold
//! them in one total order, by stamp and log; so the view is a function of the set of ops, the
//! same everywhere. docs/semantics.md says what becomes of ops that crossed.

mod acl;
mod anew;
mod arrivals;
mod aside;
mod back;
mod body;
mod changes;
pub mod checkpoint;
mod coalesce;
mod collect;
mod committed;
mod drafts;
mod error;
mod extents;
mod feed;
mod fence;
mod fold;
mod folded;
mod history;
mod index;
mod large;
mod lineage;
mod merge;
mod op;
mod overlay;
mod past;
mod past_view;
mod private;
mod progress;
mod record;
mod records;
mod rows;
mod segments;
mod settled;
mod shape;
mod sight;
mod snapshot;
mod state;
mod sums;
mod todo;
mod totals;
mod touches;
mod trim;
mod types;
mod view;
mod writer;

use std::collections::HashMap;
use std::ops::{ControlFlow, Range, RangeInclusive};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

pub use acl::Acl;
pub use anew::Anew;
pub use aside::{DFS_NAME, is_aside, is_past};
pub use changes::Changes;
pub use error::VolumeError;
pub use feed::{Merged, Missing};
pub use history::{PastContent, Removals, Removed, Revision};
pub use op::{
    Append, Create, Kept, OP_INLINE_MAX_BYTES, OP_PIECES_MAX, Op, OpKind, Replaced, Write, ino_of,
};
pub use past_view::{PastVolume, is_fleeting};
pub use snapshot::{Keep, Snapshot};
pub use sums::Checked;
pub use types::{
    Change, Conflict, ConflictKind, Counts, DirKey, Dirent, Extent, FileKind, Inode, Piece, Place,
    Source,
};
pub use writer::{Applied, Together, Writer};

use crate::base::limits::WRITER_WAIT_MAX;
use crate::base::time::Hlc;
use crate::base::{ChunkId, Clock, DeviceId, Ino, LogId, Rng, Timespec, VolumeId};
use crate::crypto::{Identity, VolumeKeys};
use crate::log::LogStore;
use crate::log::chain::Chain;
use crate::replica::ReplicaError;
use crate::store::{LayeredRows, Store, StoreError};
use aside::Aside;
use feed::Feed;
use history::History;
use lineage::Lineages;
use past_view::Pasts;
use state::State;
use view::View;

/// The result type of the room.
pub type Result<T> = std::result::Result<T, VolumeError>;

/// What a volume is opened with.
#[derive(Debug, Clone)]
pub struct VolumeConfig {
    /// Rows and chunks of this peer.
    pub store: Store,
    /// All devices' logs, in the rows of the same store.
    pub log: Arc<LogStore>,
    /// The commit chain over them.
    pub chain: Arc<Chain>,
    /// The volume's secrets.
    pub keys: Arc<VolumeKeys>,
    /// Who signs the segments of this device.
    pub identity: Arc<Identity>,
    /// Which volume.
    pub volume: VolumeId,
    /// What people call this device; others see it in conflict names.
    pub name: String,
}

/// Clock and chance of a volume.
pub struct VolumeContext {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// The source of salts.
    pub rng: Rng,
}

impl std::fmt::Debug for VolumeContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VolumeContext")
    }
}

/// How long the sums of the volume are waited for before older ones do.
const COUNTS_WAIT_MAX: Duration = Duration::from_millis(50);

/// One volume's namespace on this device.
///
/// Reading waits for no writer; what it sees is the view as of some commit, row by row. Who needs
/// rows that fit each other, or wants to change them, takes the [`Writer`].
///
/// Locks, in the order in which they are taken: `sealing`, `feed`, `counted`, `state`, `holds`, those of
/// the lineages, those of the view.
pub struct Volume {
    config: VolumeConfig,
    context: VolumeContext,
    device: DeviceId,
    hlc: Hlc,
    view: View,
    aside: Aside,
    pasts: Pasts,
    /// The writer's lock.
    state: Mutex<State>,
    /// The sums as they were seen last.
    counted: Mutex<Counts>,
    /// Held while segments are sealed and made durable, so that they are published in order. Says
    /// which one was sealed last without that.
    sealing: Mutex<Option<u64>>,
    /// Held while segments are applied.
    feed: Mutex<Feed>,
    /// Numbers with local handles.
    holds: Arc<Mutex<HashMap<Ino, u64>>>,
    /// Which files the numbers stand for that the kernel has.
    lineages: Lineages,
    /// What was replaced or removed and can be had back.
    history: History,
    /// Trees of snapshots of which it was not known what they name when somebody asked.
    unread: Mutex<snapshot::Trees>,
    /// Told of new drafts.
    on_draft: OnceLock<Box<DraftHook>>,
    /// Told of what is about to be sealed.
    on_seal: OnceLock<Box<SealHook>>,
    /// Keeps the checkpoints that are made here.
    keeper: OnceLock<Box<dyn checkpoint::Keeper>>,
    /// Where merges are made that are too large for the writer's lock; `None` where nobody waits for that.
    layer: Option<Arc<LayeredRows>>,
    /// How many ops one may undo that is not.
    undone_max: AtomicUsize,
}

/// What [`Volume::on_draft`] sets: called with the bytes of all drafts.
pub type DraftHook = dyn Fn(usize) + Send + Sync;

/// What [`Volume::on_seal`] sets: called with the chunks that own ops name which are about to be sealed, and
/// the record behind which these were issued. Where it fails they are not sealed.
pub type SealHook = dyn Fn(&[ChunkId], u64) -> std::result::Result<(), ReplicaError> + Send + Sync;

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume")
            .field("volume", &self.config.volume)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl Volume {
    /// Opens the volume that the rows hold; an empty one where they hold none.
    ///
    /// `alone` says that no other device authors ops ([`Volume::end_alone`]). The first op is
    /// [`Volume::format`] for the device that makes the volume; the others get theirs by
    /// [`Volume::apply_segments`].
    ///
    /// # Errors
    ///
    /// [`VolumeError::Corrupt`] or the store's where its rows cannot be read.
    pub fn open(mut config: VolumeConfig, context: VolumeContext, alone: bool) -> Result<Self> {
        let layer = LayeredRows::open(Arc::clone(&config.store.rows), large::is_layered)?;
        let layer = Arc::new(layer);
        config.store.rows = Arc::<LayeredRows>::clone(&layer);
        if !layer.is_turned() {
            match layer.abandon() {
                Ok(()) | Err(StoreError::Full) => {}
                Err(error) => return Err(error.into()),
            }
        }
        while layer.is_turned() {
            match layer.move_some(&|_| false, &mut |_, _, _, _, _| Ok(())) {
                Ok(_) => {}
                // What is there can be read all the same.
                Err(StoreError::Full) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let volume = Self::open_over(config, context, alone, Some(layer))?;
        // No handle survives a restart, so no private copy does.
        volume.drop_private_rows()?;
        Ok(volume)
    }

    /// Opens a volume over rows that are made beside those in use: nobody waits for it.
    fn open_beside(config: VolumeConfig, context: VolumeContext) -> Result<Self> {
        Self::open_over(config, context, false, None)
    }

    fn open_over(
        config: VolumeConfig,
        context: VolumeContext,
        alone: bool,
        layer: Option<Arc<LayeredRows>>,
    ) -> Result<Self> {
        let device = config.identity.device();
        let rows = Arc::clone(&config.store.rows);
        let (keys, log) = (Arc::clone(&config.keys), Arc::clone(&config.log));
        let view = match &layer {
            Some(_) => View::new(rows, keys, log),
            None => View::beside(rows, keys, log),
        };
        let first = config.chain.get(0)?.map(|record| record.reference());
        let own = config.log.logs_of(device);
        let first = first.unwrap_or_default();
        let is_anew_asked = layer.is_some() && Self::is_anew_asked(&*config.store.rows)?;
        let state = match State::load(&*config.store.rows, &own, first, alone) {
            // All that it reads is about to be made anew.
            Err(VolumeError::Corrupt { .. } | VolumeError::Store(_)) if is_anew_asked => {
                State::new(first, alone)
            }
            loaded => loaded?,
        };
        let volume = Self {
            aside: Aside::open(&config),
            pasts: Pasts::default(),
            device,
            hlc: Hlc::new(state.newest.stamp),
            view,
            counted: Mutex::new(state.counts()),
            state: Mutex::new(state),
            sealing: Mutex::new(None),
            feed: Mutex::new(Feed::default()),
            holds: Arc::default(),
            lineages: Lineages::default(),
            history: History::load(&*config.store.rows)?,
            unread: Mutex::default(),
            on_draft: OnceLock::new(),
            on_seal: OnceLock::new(),
            keeper: OnceLock::new(),
            layer,
            undone_max: AtomicUsize::new(merge::UNDONE_MAX),
            config,
            context,
        };
        let last_ms = volume.last_ms(&volume.state.lock())?;
        {
            let mut state = volume.state.lock();
            state.chain.last_ms = last_ms;
            let fence = volume.config.chain.fence_at(state.chain.record.number);
            state.chain.fence = Some(Arc::new(fence));
        }
        // Where logs begin at a checkpoint that is taken over first: by who can fetch it.
        if is_anew_asked && volume.config.log.floors().is_empty() {
            volume.move_layer(&mut Merged::default())?;
            volume.fold_anew()?;
        }
        Ok(volume)
    }

    /// Sets how many ops a merge may undo under the writer's lock; one that has to undo more is made beside
    /// the view.
    pub fn undo_at_most(&self, count: usize) {
        self.undone_max.store(count, Ordering::Relaxed);
    }

    /// Makes the root directory of a new volume and names this device.
    pub fn format(&self, uid: u32, gid: u32, mode: u32) -> Result<()> {
        let time = self.context.clock.wall();
        let mut writer = self.write()?;
        writer.apply(OpKind::Format {
            uid,
            gid,
            mode,
            time,
        })?;
        drop(writer);
        self.announce()
    }

    /// Tells the others what people call this device, where they do not know yet. For devices that
    /// may change the volume.
    pub fn announce(&self) -> Result<()> {
        let mut writer = self.write()?;
        if self.view.device_name(self.device)?.as_deref() != Some(&*self.config.name) {
            writer.apply(OpKind::Device {
                name: self.config.name.clone(),
            })?;
        }
        Ok(())
    }

    /// Sets who is told, after the writer's lock is free again, that there are new drafts to seal,
    /// and how many bytes all of them take, about. Only the first one set is told.
    pub fn on_draft(&self, told: Box<DraftHook>) {
        let _ = self.on_draft.set(told);
    }

    /// Sets who is told of the chunks that are named by what is about to be sealed. Only the first one set
    /// is told.
    pub fn on_seal(&self, told: Box<SealHook>) {
        let _ = self.on_seal.set(told);
    }

    /// Returns which volume this is.
    pub fn id(&self) -> VolumeId {
        self.config.volume
    }

    /// Returns the device that authors ops here.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Returns the device that wrote a log.
    pub fn device_of(&self, log: LogId) -> DeviceId {
        self.view.device_of(log)
    }

    /// Returns what people call a device, `None` for one that has not said.
    pub fn device_name(&self, device: DeviceId) -> Result<Option<String>> {
        self.view.device_name(device)
    }

    /// Returns an inode; follows a directory that was merged into another.
    ///
    /// A file without a name is there until it is reaped: [`Volume::hold`].
    pub fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        match is_past(ino) {
            true => self.past_inode(ino),
            false => self.view_of(ino).inode(ino),
        }
    }

    /// Returns when a node changed here last by what others did, `None` where it never was: its ctime
    /// on this machine is no earlier. What this device did itself says so in the inode.
    pub fn arrived(&self, ino: Ino) -> Result<Option<Timespec>> {
        self.view.arrivals.get(&self.view, ino)
    }

    /// Returns the numbers of the inodes in a range, in order: the range is to be as small as not to
    /// hold many.
    pub fn inodes_within(&self, range: &RangeInclusive<u64>) -> Result<Vec<Ino>> {
        self.view.inodes_within(range)
    }

    /// Returns the entry `name` of a directory.
    pub fn dirent(&self, parent: Ino, name: &[u8]) -> Result<Option<Dirent>> {
        if parent == Ino::ROOT && name == DFS_NAME {
            return self.top_of_own();
        }
        match is_past(parent) {
            true => self.past_dirent(parent, name),
            false => self.view_of(parent).dirent(parent, name),
        }
    }

    /// Visits the entries of a directory in its order, those behind `after`; `f` returns false to
    /// stop. Without `.` and `..`.
    pub fn readdir(
        &self,
        parent: Ino,
        after: Option<DirKey>,
        f: &mut dyn FnMut(DirKey, &Dirent) -> bool,
    ) -> Result<()> {
        match is_past(parent) {
            true => self.past_readdir(parent, after, f),
            false => self.view_of(parent).readdir(parent, after, f),
        }
    }

    /// Returns the extents that overlap a range of a file, in order, uncut.
    pub fn extents(&self, ino: Ino, range: Range<u64>) -> Result<Vec<Extent>> {
        self.read_at(ino, |view, ino| view.extents(ino, range))
    }

    /// Visits the extents that overlap a range of a file, in order, uncut, until `f` breaks.
    pub fn each_extent(
        &self,
        ino: Ino,
        range: Range<u64>,
        f: &mut dyn FnMut(&Extent) -> ControlFlow<()>,
    ) -> Result<()> {
        self.read_at(ino, |view, ino| view.each_extent(ino, range, f))
    }

    /// Returns how many extents were looked at since the volume was opened: what an operation cost.
    pub fn extents_visited(&self) -> u64 {
        self.view.visits.load(Ordering::Relaxed)
    }

    /// Returns up to where `range` of a file is the work of a few milliseconds for an op that
    /// replaces it: its end, or where an extent begins.
    pub fn light_end(&self, ino: Ino, range: Range<u64>) -> Result<u64> {
        self.view_of(ino).light_end(ino, range)
    }

    /// Returns from where on what `range` of a file holds, which ends with the file, is the work of a
    /// few milliseconds for an op that cuts it off: its start, or where an extent ends.
    pub fn light_start(&self, ino: Ino, range: Range<u64>) -> Result<u64> {
        self.view_of(ino).light_start(ino, range)
    }

    /// Returns the value of an extended attribute.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Bytes>> {
        self.read_at(ino, |view, ino| view.xattr(ino, name))
    }

    /// Returns the names of the extended attributes of a node.
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<Bytes>> {
        self.read_at(ino, |view, ino| view.xattr_names(ino))
    }

    /// Returns the conflicts, oldest first, settled ones included.
    pub fn conflicts(&self) -> Result<Vec<Conflict>> {
        self.view.conflicts()
    }

    /// Returns the sums over the volume: where the writer is busy for long, as they were last. So who
    /// asks for them waits for no disk.
    pub fn counts(&self) -> Counts {
        let mut last = self.counted.lock();
        if let Some(state) = self.state.try_lock_for(COUNTS_WAIT_MAX) {
            *last = state.counts();
        }
        *last
    }

    /// Waits for the writer's lock.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Busy`] where it is not free within [`WRITER_WAIT_MAX`].
    pub fn write(&self) -> Result<Writer<'_>> {
        self.write_within(WRITER_WAIT_MAX)
    }

    /// Waits for the writer's lock as [`Volume::write`] does, for no longer than `limit`.
    pub fn write_within(&self, limit: Duration) -> Result<Writer<'_>> {
        let state = self.state.try_lock_for(limit);
        Ok(Writer::new(self, state.ok_or(VolumeError::Busy)?))
    }

    /// Makes the chunks that are in the store durable. An op that names them then keeps the writer
    /// no longer than one that names none.
    pub fn sync_chunks(&self) -> Result<()> {
        Ok(self.config.store.chunks.sync()?)
    }

    /// Makes everything applied so far durable, and the chunks that it names before it.
    pub fn sync(&self) -> Result<()> {
        Ok(self.config.store.sync()?)
    }
}
