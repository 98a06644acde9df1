//! The embedded peer: sessions, requests, the roster, joining, log sync, discovery.
//!
//! Owns: [`Node`], what it keeps of the others ([`PeerInfo`], [`LogStore`], [`roster::Roster`]), and
//! what it tells its owner ([`NodeEvent`]). Must never know: plaintext, names of files.
//!
//! | Part | Does |
//! |---|---|
//! | `peers` | the table of peers: addresses, sessions, who is dialled when; no tasks, no clock |
//! | `session` | one connection, from the first byte to the last |
//! | `dial`, `hello` | how sessions come to be, from either side, and how two dials become one |
//! | `serve` | what other peers ask |
//! | `bulk`, `pieces`, `flow` | large messages: in pieces, as fast as the line, the urgent ones first |
//! | `pulse`, `sync` | what the two ends of a session tell each other; pushing and pulling segments |
//! | `chain`, `branch`, `letters` | the commit chain: making its records together, and pulling those of others |
//! | `checkpoints` | which checkpoint counts, and logs that begin behind it where there are no keys |
//! | `locks` | who grants locks, and the words about them |
//! | `voters`, `presence` | who is to make them: those that are there most of the time |
//! | `membership`, [`roster`], [`token`] | who belongs to the volume |
//! | `join`, `admit` | becoming a member by an invite, from either side |
//! | `manage` | roles, names, leaves, invites and phrases afterwards |
//! | `recovery` | coming in by a recovery phrase, from either side |
//! | `introduce` | telling a newer member from a stranger, without telling it anything |
//! | `ask`, `askings`, `approve` | becoming a member by asking, from either side |
//! | `places` | places that strangers share |
//! | `discover` | node records, lookups |
//! | `moves` | a machine whose addresses change, or that was asleep |
//!
//! Invariants: nothing is accepted from a peer that is not on the roster but roster statements
//! (which prove themselves), the redemption of an invite, and the wish to be admitted; no lock is
//! held across a wait; every request has a deadline; each session has tasks of its own, so a slow
//! peer slows only itself.

mod admit;
mod approve;
mod ask;
mod askings;
mod book;
mod branch;
mod bulk;
mod chain;
mod checkpoints;
mod config;
mod dial;
mod discover;
mod error;
mod event;
mod flow;
mod hello;
mod introduce;
mod join;
mod letters;
mod locks;
mod manage;
mod membership;
mod moves;
mod peers;
mod pieces;
mod places;
mod presence;
mod pulse;
mod recovery;
mod refused;
mod restore;
pub mod roster;
mod serve;
mod session;
mod sync;
mod tasks;
pub mod token;
mod transfer;
mod voters;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, broadcast};

pub use approve::AskingInfo;
pub use ask::{Admission, AskedAt};
pub use checkpoints::Counted;
pub use config::{Machine, NodeConfig};
pub use error::NodeError;
pub use event::{ChunkHandler, EpochDrawer, KeyWrapper, NodeEvent, PeerInfo, PeerState, Shower};
pub use join::Joined;
pub use peers::SUSPECT_AFTER;
pub use restore::Restored;
pub use roster::{
    InviteInfo, Member, Recovery, RecoveryId, Role, Roster, RosterError, Schedule, Setting,
};
pub use token::{InviteSecret, InviteToken, TokenError};
pub use transfer::Transfer;

use crate::base::memory::Budget;
use crate::base::time::{Hlc, timeout};
use crate::base::worker::{Worker, Workers};
use crate::base::{Clock, DeviceId, LogId, PeerId, Rng, Stamp, VolumeId};
use crate::kad::{Contact, RoutingTable};
use crate::log::LogStore;
use crate::log::chain::{Chain, Founding, Roll};
use crate::log::checkpoints::Checkpoints;
use crate::store::{Batch, Store, Table};
use crate::transport::{Priority, Transport};
use crate::wire::limits::{ADDRS_MAX, NAME_MAX_BYTES};
use crate::wire::{
    LogRefusal, NodeRecord, RecordRef, Request, Response, SealedSegment, Settled, SignedRecord,
    Vector,
};
use askings::Askings;
use membership::Membership;
use peers::{Peer, PeerTable, Remembered, Seed};
use places::Strangers;
use refused::RefusedLogs;
use tasks::Tasks;

/// Events that a subscriber may be behind before it loses the oldest.
const EVENTS_MAX: usize = 1024;

/// Own segments that are kept in memory, so that pushing to many peers reads no disk.
const RECENT_MAX: usize = 64;

/// Bytes of them.
const RECENT_BYTES_MAX: usize = 4 << 20;

/// A running peer.
///
/// Made by [`Node::start`], in a store that [`Node::create_volume`] or [`Node::join`] has prepared;
/// ended by [`Node::shutdown`]. All other methods may be called at any time from any thread; those
/// that are not `async` never wait for the network.
pub struct Node {
    config: NodeConfig,
    id: PeerId,
    volume: VolumeId,
    /// A random number of this run.
    incarnation: u64,
    transport: Arc<dyn Transport>,
    store: Store,
    clock: Arc<dyn Clock>,
    rng: Rng,
    hlc: Hlc,
    membership: Arc<Membership>,
    log: Arc<LogStore>,
    chain: Arc<Chain>,
    /// Wakes the making of records: there is more to name than the last one took.
    workers: Arc<Workers>,
    chain_wake: Notify,
    /// How much of the time each member is there.
    attendance: Mutex<presence::Attendance>,
    /// Whether this peer removed who decided, so that it begins an era.
    begins_era: AtomicBool,
    /// Members that are on another chain, and a record of it in whose place this one has another.
    parted: Mutex<BTreeMap<PeerId, RecordRef>>,
    /// Letters to those who decide records.
    post: Mutex<letters::Post>,
    /// Words about locks.
    locks: locks::Words,
    /// Words on checkpoints.
    checkpoints: checkpoints::Pending,
    /// Whether another member said since the start how long its chain is.
    heard_chain: AtomicBool,
    /// Taken before any of the others where two are held; those are all leaves.
    table: Mutex<PeerTable>,
    /// Peers by closeness, for lookups.
    routing: Mutex<RoutingTable>,
    own: Mutex<OwnRecord>,
    events: broadcast::Sender<NodeEvent>,
    tasks: Tasks,
    handler: RwLock<Option<Arc<dyn ChunkHandler>>>,
    wrapper: RwLock<Option<KeyWrapper>>,
    shower: RwLock<Option<Shower>>,
    epoch_drawer: RwLock<Option<EpochDrawer>>,
    capacity_bytes: AtomicU64,
    free_bytes: AtomicU64,
    /// The least record that the fold of an op of this peer may look back to.
    /// The era of the chain by which it counts, and the least record that own ops may look back to.
    needs: Mutex<(u64, u64)>,
    /// What follows from this peer's rows.
    settled: Mutex<Option<Settled>>,
    /// Devices whose segments are being pulled from some peer, and since when.
    pulling: Mutex<BTreeMap<LogId, Duration>>,
    /// Logs whose next segment was not taken, and why; until one is.
    refused_logs: Mutex<RefusedLogs>,
    /// Large messages that are under way.
    bulk: bulk::Bulk,
    recent: Mutex<Recent>,
    /// Wakes the dialling: an address or a member is new.
    dial_wake: Notify,
    /// Peers that broke the rules too often, until when they are not listened to.
    bans: Mutex<BTreeMap<PeerId, Duration>>,
    /// Connections that have not said hello.
    strangers: Arc<Strangers>,
    /// Machines that ask to be admitted.
    askings: Mutex<Askings>,
}

/// What this peer tells of itself.
struct OwnRecord {
    /// What the machine said last of its addresses.
    local: Vec<SocketAddr>,
    /// Addresses at which others have seen this peer, the newest first.
    observed: Vec<SocketAddr>,
    signed: SignedRecord,
    signed_ms: u64,
}

#[derive(Default)]
struct Recent {
    segments: VecDeque<SealedSegment>,
    bytes: usize,
}

impl Node {
    /// Returns the volume that a store belongs to, `None` for a fresh one.
    pub fn volume_of(store: &Store) -> Result<Option<VolumeId>, NodeError> {
        membership::volume_of(store)
    }

    /// Makes a new volume with this peer as its admin, in the store; durable on return.
    ///
    /// # Errors
    ///
    /// [`NodeError::HasVolume`] where the store belongs to one.
    pub fn create_volume(
        config: &NodeConfig,
        store: &Store,
        clock: &dyn Clock,
        rng: &Rng,
    ) -> Result<VolumeId, NodeError> {
        if let Some(volume) = membership::volume_of(store)? {
            return Err(NodeError::HasVolume { volume });
        }
        let issuer = roster::Issuer {
            identity: &config.identity,
            stamp: Stamp::from_ms(clock.wall_ms()),
            shown: &Vector::new(),
        };
        let roster = Roster::create(issuer, &display_name(&config.name), rng)?;
        let mut rows = membership::rows_of(&roster);
        let founding = Founding {
            volume: roster.volume(),
            founder: config.identity.device(),
        };
        Chain::found(&mut rows, founding)?;
        store.rows.commit(rows)?;
        store.rows.sync()?;
        Ok(roster.volume())
    }

    /// Starts the peer: its sessions, its syncing, its answers.
    ///
    /// # Errors
    ///
    /// [`NodeError::NoVolume`] in a fresh store, [`NodeError::DamagedRoster`], or the store's errors.
    pub fn start(
        transport: Arc<dyn Transport>,
        config: NodeConfig,
        store: Store,
        clock: Arc<dyn Clock>,
        rng: Rng,
    ) -> Result<Arc<Self>, NodeError> {
        let membership = Arc::new(Membership::load(&store)?);
        let volume = membership.roster().volume();
        let device = config.identity.device();
        let incarnation = u64::from_le_bytes(rng.bytes());
        let rows = Arc::clone(&store.rows);
        let log = Arc::new(LogStore::open(rows, volume, device, incarnation)?);
        let founder = membership.roster().founder();
        let founding = Founding {
            volume,
            founder: founder.ok_or(NodeError::DamagedRoster)?,
        };
        let seed = u64::from_le_bytes(rng.bytes());
        let (rows, now) = (Arc::clone(&store.rows), clock.monotonic());
        let roll: Arc<dyn Roll> = Arc::<Membership>::clone(&membership);
        let of = Arc::clone(&log);
        let chain = Chain::open(rows, of, founding, device, now, seed)?.with_roll(roll);
        let chain = Arc::new(chain);
        membership.pin(chain.statements())?;
        let words = Checkpoints::open(Arc::clone(&store.rows))?;
        if let Some(counted) = words.counted() {
            chain.settle_at(counted.record.number);
        }
        let own = config.identity.id();
        let attendance = presence::Attendance::load(&*store.rows, own, clock.wall_ms())?;
        let config = NodeConfig {
            name: display_name(&config.name),
            ..config
        };
        let own = OwnRecord {
            local: config.machine.addrs(transport.local_addr()),
            observed: Vec::new(),
            signed: sign_record(&config, volume, &[], (config.capacity_bytes, 0), 0),
            signed_ms: 0,
        };
        let node = Arc::new(Self {
            id: config.identity.id(),
            volume,
            incarnation,
            capacity_bytes: AtomicU64::new(config.capacity_bytes),
            free_bytes: AtomicU64::new(config.capacity_bytes),
            hlc: Hlc::default(),
            routing: Mutex::new(RoutingTable::new(config.identity.id())),
            own: Mutex::new(own),
            events: broadcast::channel(EVENTS_MAX).0,
            tasks: Tasks::new(),
            handler: RwLock::new(None),
            wrapper: RwLock::new(None),
            shower: RwLock::new(None),
            epoch_drawer: RwLock::new(None),
            pulling: Mutex::default(),
            refused_logs: Mutex::default(),
            bulk: bulk::Bulk::within(Budget::of_process()),
            recent: Mutex::default(),
            dial_wake: Notify::new(),
            bans: Mutex::default(),
            strangers: Arc::default(),
            askings: Mutex::default(),
            table: Mutex::new(PeerTable::default()),
            config,
            transport,
            store,
            workers: Workers::new(Arc::clone(&clock)),
            clock,
            rng,
            membership,
            log,
            chain,
            chain_wake: Notify::new(),
            attendance: Mutex::new(attendance),
            begins_era: AtomicBool::new(false),
            parted: Mutex::default(),
            post: Mutex::default(),
            locks: locks::Words::default(),
            checkpoints: checkpoints::Pending::new(words),
            heard_chain: AtomicBool::new(false),
            needs: Mutex::default(),
            settled: Mutex::default(),
        });
        node.fill_table()?;
        node.stand();
        node.sign_own_record();
        node.employ(serve::Accept::new(&node));
        node.employ(dial::Dialler::new(&node));
        node.employ(discover::Discovery::new(&node));
        node.employ(chain::Chaining::new(&node));
        node.employ(locks::Granting::new(&node));
        node.employ(checkpoints::Judging(Arc::clone(&node)));
        Ok(node)
    }

    /// Starts a worker that ends with the node.
    fn employ(&self, worker: impl Worker) {
        self.tasks.spawn(self.workers.run(worker));
    }

    /// Returns the background work of this peer: the node's, and what the rooms above add to it.
    pub fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// Ends all tasks and sessions and closes the transport; what is known of the peers is kept.
    pub async fn shutdown(&self) {
        self.tasks.close().await;
        let sessions = self.table.lock().sessions();
        for session in sessions {
            self.remember(&session.peer());
            session.close("shutting down");
        }
        self.keep_presence();
        self.transport.close().await;
    }

    /// Returns this peer.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Returns the volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Returns what this peer may do, `None` where it was removed from the volume.
    pub fn role(&self) -> Option<Role> {
        self.roster().role_of(&self.id)
    }

    /// Returns the members and all that admins have said of them.
    pub fn roster(&self) -> Arc<Roster> {
        self.membership.roster()
    }

    /// Returns the address that the transport listens at.
    pub fn local_addr(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    /// Returns why the transport neither sends nor hears now; `None` while it does.
    pub fn transport_trouble(&self) -> Option<String> {
        self.transport.trouble()
    }

    /// Returns what is known of each other peer of the roster, in the order of their ids.
    pub fn peers(&self) -> Vec<PeerInfo> {
        let roster = self.roster();
        let table = self.table.lock();
        let unknown = Peer::default();
        let others = roster.members().filter(|member| member.id != self.id);
        others
            .map(|member| info(member, table.peers.get(&member.id).unwrap_or(&unknown)))
            .collect()
    }

    /// Returns the peers with a session that answer, in the order of their ids.
    pub fn connected(&self) -> Vec<PeerId> {
        let table = self.table.lock();
        let up = table.peers.iter().filter(|(_, peer)| peer.up);
        up.map(|(id, _)| *id).collect()
    }

    /// Tells whether a peer without a session may have one in a moment: it is being dialled, and that
    /// has not failed since it was met.
    pub fn expects_peers(&self) -> bool {
        self.table.lock().expects_any()
    }

    /// Returns up to `n` peers of the roster closest to a key, this one included, closest first.
    pub fn closest(&self, key: &[u8; 32], n: usize) -> Vec<PeerId> {
        let roster = self.roster();
        discover::closest(roster.members().map(|member| member.id), key, n)
    }

    /// Sends a request to a peer; `within` counts from the last byte that moved.
    ///
    /// In a swarm too large to be fully connected a peer without a session is dialled for it.
    ///
    /// # Errors
    ///
    /// [`NodeError::NotConnected`], in a small swarm at once; [`NodeError::NoAnswer`] (it may have
    /// been executed); [`NodeError::Refused`]; [`NodeError::Protocol`]; [`NodeError::TooLarge`].
    pub async fn request(
        self: &Arc<Self>,
        peer: PeerId,
        request: Request,
        payload: Bytes,
        within: Duration,
    ) -> Result<(Response, Bytes), NodeError> {
        let transfer = Transfer::new(Priority::Awaited);
        self.request_for(peer, request, payload, within, &transfer)
            .await
    }

    /// Sends a request for somebody who watches it, and may make it more urgent; see
    /// [`Node::request`].
    pub async fn request_for(
        self: &Arc<Self>,
        peer: PeerId,
        request: Request,
        payload: Bytes,
        within: Duration,
        transfer: &Transfer,
    ) -> Result<(Response, Bytes), NodeError> {
        let session = self.table.lock().session(&peer);
        if let Some(session) = session {
            let _turn = session.owner_turn().await;
            return self
                .exchange(&session, request, payload, within, transfer)
                .await;
        }
        if self.roster().members().len() <= dial::SESSIONS_TARGET {
            return Err(NodeError::NotConnected { peer });
        }
        let session = timeout(within, self.session_with(peer)).await;
        let session = session.map_err(|_| NodeError::NoAnswer { peer })?;
        let session = session.ok_or(NodeError::NotConnected { peer })?;
        let _turn = session.owner_turn().await;
        self.exchange(&session, request, payload, within, transfer)
            .await
    }

    /// Sets who answers what others ask about chunks; until then they are told to try later.
    pub fn set_chunk_handler(&self, handler: Arc<dyn ChunkHandler>) {
        *self.handler.write() = Some(handler);
    }

    /// Sets how the volume keys are wrapped for a new member; an admin without one admits only
    /// storage peers.
    pub fn set_key_wrapper(&self, wrapper: KeyWrapper) {
        *self.wrapper.write() = Some(wrapper);
    }

    /// Sets how an epoch of keys is begun when a member that reads is removed; without it, none is.
    pub fn set_epoch_drawer(&self, drawer: EpochDrawer) {
        *self.epoch_drawer.write() = Some(drawer);
    }

    /// Sets what new members are told that they have to fold first; without it, nothing.
    pub fn set_shower(&self, shower: Shower) {
        *self.shower.write() = Some(shower);
    }

    /// Says how many bytes this peer could still take; the others hear it with the next pulse.
    pub fn set_free_bytes(&self, free_bytes: u64) {
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
    }

    /// Returns how many bytes this peer gives to the swarm.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes.load(Ordering::Relaxed)
    }

    /// Changes how many bytes this peer gives to the swarm, and tells the others.
    pub fn set_capacity_bytes(self: &Arc<Self>, capacity_bytes: u64) {
        self.capacity_bytes.store(capacity_bytes, Ordering::Relaxed);
        self.free_bytes.fetch_min(capacity_bytes, Ordering::Relaxed);
        self.sign_own_record();
        self.spread_own_record();
    }

    /// Returns how many bytes this peer could still take, as it was told last.
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// Returns the logs.
    pub fn log(&self) -> &Arc<LogStore> {
        &self.log
    }

    /// Says what the least record is that the fold of an op of this peer may look back to, of those that
    /// no record names yet and of all to come.
    pub fn set_needs(&self, era: u64, needs: u64) {
        *self.needs.lock() = (era, needs);
    }

    /// Says what follows from the rows of this peer, where nothing of them is tentative.
    pub fn set_settled(&self, settled: Option<Settled>) {
        *self.settled.lock() = settled;
    }

    /// Returns what the connected peers said last of theirs.
    pub fn settled_of_peers(&self) -> Vec<(PeerId, Settled)> {
        let table = self.table.lock();
        let peers = table.peers.iter();
        let met = peers.filter(|(_, peer)| peer.session.is_some());
        met.filter_map(|(id, peer)| Some((*id, peer.settled?)))
            .collect()
    }

    /// Returns the commit chain.
    pub fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    /// Tells the peers of own segments that are in the log durably: they are pushed at once.
    pub fn publish(&self, segments: &[SealedSegment]) {
        let Some(last) = segments.last() else {
            return;
        };
        self.recent.lock().add(segments);
        self.log.publish(last.header.seg_no);
        for session in self.table.lock().sessions() {
            session.log_wake.notify_one();
        }
    }

    /// Returns how many own segments are not yet on `copies` peers of the roster, this one
    /// included; where there are fewer peers, on all of them. Nobody takes those of a peer whose
    /// role does not write, so they do not count.
    pub fn unpushed_segments(&self, copies: usize) -> u64 {
        if !self.role().is_some_and(Role::writes) {
            return 0;
        }
        let others = self.roster().members().len().saturating_sub(1);
        let Some(nth) = copies.min(others + 1).checked_sub(2) else {
            return 0;
        };
        let table = self.table.lock();
        let lacking = |(log, last): (LogId, u64)| {
            let peers = table.peers.values();
            let mut have: Vec<u64> = peers
                .map(|peer| peer.vector.get(&log).copied().unwrap_or(0))
                .collect();
            have.sort_unstable_by(|a, b| b.cmp(a));
            last.saturating_sub(have.get(nth).copied().unwrap_or(0))
        };
        self.own_ends().into_iter().map(lacking).sum()
    }

    /// Returns how many own segments no other peer is known to have.
    pub fn segments_nobody_has(&self) -> u64 {
        let table = self.table.lock();
        let lacking = |(log, last): (LogId, u64)| {
            let peers = table.peers.values();
            let have = peers.filter_map(|peer| peer.vector.get(&log).copied());
            last.saturating_sub(have.max().unwrap_or(0))
        };
        self.own_ends().into_iter().map(lacking).sum()
    }

    /// Returns the logs of this device with their last segments.
    pub fn own_ends(&self) -> Vec<(LogId, u64)> {
        let logs = self.log.logs_of(DeviceId::from(self.id)).into_iter();
        logs.filter_map(|log| Some((log, self.log.head(log)?.seg_no)))
            .collect()
    }

    /// Returns the devices of which a log's next segment was not taken from anybody, and why.
    pub fn refused_logs(&self) -> BTreeMap<DeviceId, LogRefusal> {
        self.refused_logs.lock().all()
    }

    /// Says whether the next segment of a log wants for a record that nobody hands over.
    pub fn is_unfounded(&self, log: LogId) -> bool {
        self.refused_logs.lock().is_unfounded(log)
    }

    /// Returns a receiver of everything that happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<NodeEvent> {
        self.events.subscribe()
    }

    fn emit(&self, event: NodeEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    /// Fills the table with the members and what the rows remember of them.
    fn fill_table(&self) -> Result<(), NodeError> {
        let roster = self.roster();
        let mut table = self.table.lock();
        for member in roster.members().filter(|member| member.id != self.id) {
            let peer = table.peers.entry(member.id).or_default();
            let row = self.store.rows.get(Table::Peers, &member.id.0)?;
            // What does not decode is forgotten: it is found again.
            let Some(known) = row.and_then(|row| Remembered::decode(&row).ok()) else {
                continue;
            };
            peer.addrs.recall(known.addrs);
            if let Some((record, signed)) = known
                .record
                .and_then(|signed| discover::verify(&roster, signed))
            {
                peer.learn(record, signed);
            }
            peer.last_contact_ms = known.last_contact_ms;
            (peer.needs, peer.needs_era) = (known.needs, known.needs_era);
            peer.vector = known.vector;
        }
        for host in &self.config.seeds {
            table.seeds.insert(host.clone(), Seed::default());
        }
        Ok(())
    }

    /// Takes note in the routing table that a peer was reached.
    fn routing_seen(&self, id: &PeerId) {
        let addrs = self
            .table
            .lock()
            .peers
            .get(id)
            .map(|peer| peer.addrs.to_vec());
        if let Some(addrs) = addrs {
            // A contact that waits for a place in a full bucket gets it when an older one fails.
            self.routing
                .lock()
                .seen(Contact::new(*id, addrs), self.now());
        }
    }

    /// Keeps what is known of a peer for the next start; not synced, as it can be found again.
    fn remember(&self, peer: &PeerId) {
        let remembered = self.table.lock().peers.get(peer).map(Peer::remember);
        if let Some(remembered) = remembered {
            let mut batch = Batch::new();
            batch.put(
                Table::Peers,
                peer.0,
                crate::store::codec::encode(&remembered),
            );
            if let Err(error) = self.store.rows.commit(batch) {
                tracing::warn!(%error, "cannot remember a peer");
            }
        }
    }

    fn now(&self) -> Duration {
        self.clock.monotonic()
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id)
            .field("volume", &self.volume)
            .finish_non_exhaustive()
    }
}

impl Recent {
    fn add(&mut self, segments: &[SealedSegment]) {
        for segment in segments {
            self.bytes += segment.body.len();
            self.segments.push_back(segment.clone());
        }
        while self.segments.len() > RECENT_MAX || self.bytes > RECENT_BYTES_MAX {
            match self.segments.pop_front() {
                Some(old) => self.bytes -= old.body.len(),
                None => break,
            }
        }
    }

    /// Returns the segments of a log from number `from` on, `None` where the first of them is not here.
    fn from(&self, log: LogId, from: u64, max_bytes: usize) -> Option<Vec<SealedSegment>> {
        let is_first = |s: &SealedSegment| s.header.seg_no == from && s.header.log() == log;
        let first = self.segments.iter().position(is_first)?;
        let mut bytes = 0;
        let fitting = self.segments.iter().skip(first).take_while(|segment| {
            bytes += segment.body.len() + SealedSegment::OVERHEAD_BYTES;
            bytes <= max_bytes || segment.header.seg_no == from
        });
        Some(fitting.cloned().collect())
    }
}

/// Returns a name that a roster takes: neither blank nor too long, and all of it is seen.
fn display_name(name: &str) -> String {
    let mut shown = crate::base::text::seen(name);
    while shown.len() > NAME_MAX_BYTES {
        shown.pop();
    }
    if shown.trim().is_empty() {
        return "peer".to_owned();
    }
    shown
}

fn sign_record(
    config: &NodeConfig,
    volume: VolumeId,
    addrs: &[SocketAddr],
    (capacity_bytes, free_bytes): (u64, u64),
    signed_ms: u64,
) -> SignedRecord {
    let record = NodeRecord {
        volume,
        peer: config.identity.id(),
        signed_ms,
        name: config.name.clone(),
        addrs: addrs.iter().copied().take(ADDRS_MAX).collect(),
        capacity_bytes,
        free_bytes,
    };
    let bytes = record.encode();
    let signature = config.identity.sign(NodeRecord::DOMAIN, &bytes);
    SignedRecord {
        record: crate::wire::bounded::BoundedBytes::new(bytes)
            .expect("a name and a few addresses are shorter than a record may be"),
        signature,
    }
}

fn info(member: &Member, peer: &Peer) -> PeerInfo {
    let session = peer.session.as_ref();
    let state = match session {
        None => PeerState::Offline,
        Some(_) if peer.up => PeerState::Connected,
        Some(_) => PeerState::Suspect,
    };
    let met_at = session.map(|session| session.remote_addr());
    let rtt = session.map(|session| session.rtt().as_millis());
    PeerInfo {
        id: member.id,
        name: member.name.clone(),
        role: member.role,
        addr: met_at.or_else(|| peer.addrs.first()),
        state,
        sent_rate: session.map_or(0, |session| session.out.rate()),
        received_rate: session.map_or(0, |session| session.inward.rate()),
        rtt_ms: rtt.map(|rtt| u64::try_from(rtt).unwrap_or(u64::MAX)),
        last_contact_ms: peer.last_contact_ms,
        capacity_bytes: peer
            .record
            .as_ref()
            .map_or(0, |(record, _)| record.capacity_bytes),
        free_bytes: peer.free_bytes,
        vector: peer.vector.clone(),
        clock_ahead_ms: peer.clock_ahead_ms,
        refusal: peer.refusal.clone(),
        refuses_log: peer.refuses_log,
        says_newer: session.is_some_and(|session| session.says_newer()),
    }
}
