//! A simulated cluster: peers with a memory disk each, on one simulated network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use dfs::base::task::{Pool, spawn};
use dfs::base::time::{SimClock, sleep};
use dfs::base::{ChunkId, Clock, Ino, Rng, Timespec};
use dfs::crypto::{Identity, VolumeKeys};
use dfs::daemon::peer::{Member, Parts, Peer};
use dfs::daemon::{DaemonError, Fsync};
use dfs::fs::{Caller, FsConfig, FsError, OpenFlags, RenameMode, WriteFlags};
use dfs::node::{InviteToken, Node, NodeConfig, NodeError, Role};
use dfs::replica::ReplicaConfig;
use dfs::store::memory::MemoryDisk;
use dfs::store::{Batch, Store, Table};
use dfs::transport::Transport;
use dfs::transport::sim::SimNet;
use dfs::volume::Source;
use dfs::wire::{RecordRef, SealedSegment};

use crate::tree;

/// 2026-11-21, when the simulated clocks start.
const START_MS: u64 = 1_795_219_200_000;

/// Most hosts of one cluster, and how far their identities are turned from seed to seed.
const HOSTS_MAX: usize = 12;
const IDENTITIES_TURNED: usize = 8;

/// How long a cluster may take to settle, in its own time.
const SETTLE_MAX: Duration = Duration::from_secs(600);

/// Identities that all seeds share, as making an RSA key takes a while.
static IDENTITIES: LazyLock<Mutex<Vec<Arc<Identity>>>> = LazyLock::new(Mutex::default);

/// Returns the identity at an index.
fn identity(index: usize) -> Arc<Identity> {
    let mut made = IDENTITIES.lock().expect("nobody panics with it");
    while made.len() <= index {
        let rng = Rng::from_seed(made.len() as u64);
        made.push(Arc::new(Identity::generate(&rng).expect("an identity")));
    }
    Arc::clone(&made[index])
}

/// A machine.
pub(crate) struct Host {
    name: String,
    pub(crate) addr: SocketAddr,
    pub(crate) identity: Arc<Identity>,
    /// The keys that it got when it joined.
    joined_keys: Option<Vec<u8>>,
    /// Those that it has since its last start.
    keys: Option<Arc<VolumeKeys>>,
    pub(crate) disk: MemoryDisk,
    pub(crate) store: Store,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) peer: Option<Arc<Peer>>,
    /// Whether its power is gone and nobody has noticed.
    pub(crate) is_dark: Arc<AtomicBool>,
}

/// Peers, the network between them, and what they did.
pub struct Cluster {
    /// The network.
    pub net: SimNet,
    rng: Rng,
    pub(crate) hosts: Vec<Host>,
    seed: u64,
    /// Who admits and removes: the founder, until another took its place.
    admin: usize,
    /// What `flush` acknowledged under a name that nobody touches again, with the member's number.
    acknowledged: BTreeMap<Vec<u8>, Vec<u8>>,
    operations: u64,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("seed", &self.seed)
            .field("hosts", &self.hosts.len())
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Returns a cluster of `members` with the key and `storage` peers without, all joined.
    pub async fn new(seed: u64, members: usize, storage: usize) -> Self {
        Self::founded_ahead(seed, members, storage, Duration::ZERO).await
    }

    /// Returns one whose founder's clock was ahead while it was alone, and was set right before others
    /// joined.
    pub async fn founded_ahead(seed: u64, members: usize, storage: usize, ahead: Duration) -> Self {
        let net = SimNet::new(seed);
        let mut cluster = Self {
            net,
            rng: Rng::from_seed(seed),
            hosts: Vec::new(),
            seed,
            admin: 0,
            acknowledged: BTreeMap::new(),
            operations: 0,
        };
        cluster.found(ahead).await;
        for index in 1..members + storage {
            let role = if index < members {
                Role::Writer
            } else {
                Role::Storage
            };
            cluster.join(role).await;
        }
        cluster
    }

    fn host(&self, keys: Option<&VolumeKeys>) -> Host {
        let index = self.hosts.len();
        let first = self.hosts.first();
        // The time that is right, whatever the clock of the first shows.
        let since = first.map_or(Duration::ZERO, |host| host.clock.monotonic());
        let now_ms = START_MS + u64::try_from(since.as_millis()).unwrap();
        // Another order of the ids with each seed.
        let which = (index + self.seed as usize % IDENTITIES_TURNED) % HOSTS_MAX;
        let disk = MemoryDisk::new();
        Host {
            name: format!("host{index}"),
            addr: format!("10.0.0.{}:4750", index + 1).parse().unwrap(),
            identity: identity(which),
            joined_keys: keys.map(|keys| keys.to_bytes().to_vec()),
            keys: None,
            store: disk.store(),
            disk,
            is_dark: Arc::default(),
            // Up to 40 s of skew: clocks are never the same.
            clock: SimClock::new(now_ms + 10_000 * index as u64),
            peer: None,
        }
    }

    fn config(&self, host: &Host) -> NodeConfig {
        NodeConfig {
            identity: Arc::clone(&host.identity),
            name: host.name.clone(),
            seeds: Vec::new(),
            machine: Arc::new(vec![host.addr]),
            capacity_bytes: 1 << 40,
            pool: Pool::inline(),
        }
    }

    fn transport(&self, host: &Host) -> Arc<dyn Transport> {
        self.net
            .transport(host.addr, host.identity.id(), host.identity.public().spki)
    }

    async fn found(&mut self, ahead: Duration) {
        let keys = VolumeKeys::generate(&self.rng);
        let host = self.host(Some(&keys));
        host.clock.set_ahead(ahead);
        let config = self.config(&host);
        Node::create_volume(&config, &host.store, &*host.clock, &self.rng).unwrap();
        self.hosts.push(host);
        self.restart(0).await;
        self.member(0).volume.format(0, 0, 0o755).unwrap();
        if ahead > Duration::ZERO {
            self.write(0, b"n0", b"of a time to come").await;
        }
        self.peer(0).flush().await.unwrap();
        self.hosts[0].clock.set_ahead(Duration::ZERO);
    }

    async fn join(&mut self, role: Role) {
        let index = self.admit(role).await;
        self.restart(index).await;
        self.peer(index).caught_up().await.unwrap();
    }

    /// Admits a new host, which has not started yet; returns its number.
    pub async fn admit(&mut self, role: Role) -> usize {
        let admitted = self.try_admit(self.admin, role).await;
        admitted.unwrap_or_else(|error| panic!("the admin does not admit: {error}"))
    }

    /// Admits a new host by the word of another, which is an admin.
    pub async fn admit_by(&mut self, by: usize, role: Role) -> usize {
        let admitted = self.try_admit(by, role).await;
        admitted.unwrap_or_else(|error| panic!("host{by} does not admit: {error}"))
    }

    /// Tries the same.
    ///
    /// # Errors
    ///
    /// What kept it from being admitted.
    pub async fn try_admit(&mut self, by: usize, role: Role) -> Result<usize, NodeError> {
        let invited = self.peer(by).node();
        let token: InviteToken = invited.invite(role, Duration::from_secs(3_600)).await?;
        let mut host = self.host(None);
        let transport = self.transport(&host);
        let clock: Arc<dyn Clock> = host.clock.clone();
        let founder = [self.hosts[by].addr];
        let config = self.config(&host);
        let joined = Node::join(&transport, &config, &host.store, &clock, &token, &founder).await;
        transport.close().await;
        let joined = joined?;
        host.joined_keys = joined
            .wrapped_keys
            .as_ref()
            .map(|wrapped| host.identity.unwrap_key(wrapped).unwrap().to_vec());
        joined.found(&host.store, Batch::new()).unwrap();
        self.hosts.push(host);
        Ok(self.hosts.len() - 1)
    }

    /// Starts a peer on what its disk holds.
    pub async fn restart(&mut self, index: usize) {
        let started = self.try_restart(index).await;
        started.unwrap_or_else(|error| panic!("host{index} does not start: {error}"));
    }

    /// Tries the same; a start may meet a power cut.
    ///
    /// # Errors
    ///
    /// What kept it from starting.
    pub async fn try_restart(&mut self, index: usize) -> Result<(), DaemonError> {
        self.start(index, Pool::inline()).await
    }

    /// Starts a peer that folds nothing before so long has passed: what the others tell it meanwhile is there
    /// before its workers listen.
    pub async fn restart_held(&mut self, index: usize, held: Duration) {
        let pool = Pool::threads("held", 1, 8).expect("a thread");
        let (release, released) = std::sync::mpsc::channel::<()>();
        pool.run(move || {
            let _ = released.recv();
        });
        drop(spawn(async move {
            sleep(held).await;
            drop(release);
        }));
        let started = self.start(index, pool).await;
        started.unwrap_or_else(|error| panic!("host{index} does not start: {error}"));
    }

    async fn start(&mut self, index: usize, fold_pool: Pool) -> Result<(), DaemonError> {
        let host = &mut self.hosts[index];
        let keys = host.joined_keys.as_ref();
        host.keys = keys.map(|bytes| Arc::new(VolumeKeys::from_bytes(bytes).unwrap()));
        let host = &self.hosts[index];
        let parts = Parts {
            identity: Arc::clone(&host.identity),
            keys: host.keys.clone(),
            store: host.store.clone(),
            transport: self.transport(host),
            clock: host.clock.clone(),
            rng: Rng::from_seed(self.rng.below(u64::MAX)),
            node: self.config(host),
            replica: ReplicaConfig::default(),
            fs: FsConfig::default(),
            memory_cache_bytes: 16 << 20,
            seal_pool: Pool::inline(),
            fold_pool,
            fsync: Fsync::Local,
        };
        let peer = Peer::start(parts).await?;
        self.hosts[index].peer = Some(peer);
        Ok(())
    }

    /// Returns the newest segment of a member's own log.
    pub fn newest(&self, index: usize) -> SealedSegment {
        let log = self.peer(index).node().log();
        let end = log.head(log.own_log()).unwrap();
        log.get(log.own_log(), end.seg_no).unwrap().unwrap()
    }

    /// Tells whether the keys that a host has open a segment.
    pub fn opens(&self, index: usize, segment: &SealedSegment) -> bool {
        let keys = self.hosts[index].keys.as_ref().unwrap();
        let opened = keys.open_segment(&segment.header.to_bytes(), &segment.body);
        opened.is_ok()
    }

    /// Returns who admits and removes.
    pub fn admin(&self) -> usize {
        self.admin
    }

    /// Lets another admin admit and remove from now on.
    pub(crate) fn set_admin(&mut self, index: usize) {
        self.admin = index;
    }

    /// Gives a member another role, by the admin's word.
    pub async fn set_role(&self, index: usize, role: Role) {
        self.try_set_role(index, role).await.unwrap();
    }

    /// Tries the same.
    pub(crate) async fn try_set_role(&self, index: usize, role: Role) -> Result<(), NodeError> {
        let id = self.hosts[index].identity.id();
        self.peer(self.admin).node().set_role(id, role).await
    }

    /// Removes a member by another's word.
    pub async fn remove(&self, by: usize, gone: usize) {
        self.try_remove(by, gone).await.expect("it is removed");
    }

    /// Tries the same.
    pub async fn try_remove(&self, by: usize, gone: usize) -> Option<()> {
        let gone = self.hosts[gone].identity.id();
        self.peer(by).remove_member(gone).await.ok()
    }

    /// Returns the peers that run, with their numbers.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (usize, &Arc<Peer>)> {
        let hosts = self.hosts.iter().enumerate();
        hosts.filter_map(|(index, host)| Some((index, host.peer.as_ref()?)))
    }

    /// Ends a peer as a kill does: nothing is flushed, nobody is told.
    pub async fn crash(&mut self, index: usize) {
        self.net.kill(self.hosts[index].addr);
        if let Some(peer) = self.hosts[index].peer.take() {
            peer.abandon().await;
        }
    }

    /// Returns a peer that is up.
    pub fn peer(&self, index: usize) -> &Arc<Peer> {
        self.hosts[index].peer.as_ref().expect("the peer is up")
    }

    pub(crate) fn member(&self, index: usize) -> Member {
        self.peer(index).member_parts().expect("a member").clone()
    }

    pub(crate) fn members_up(&self) -> Vec<usize> {
        let up = |index: &usize| {
            self.hosts[*index]
                .peer
                .as_ref()
                .is_some_and(|peer| peer.member_parts().is_some())
        };
        (0..self.hosts.len()).filter(up).collect()
    }

    /// Cuts all paths between two sides.
    pub fn partition(&self, left: &[usize], right: &[usize]) {
        let addrs = |side: &[usize]| -> Vec<SocketAddr> {
            side.iter().map(|index| self.hosts[*index].addr).collect()
        };
        self.net.partition(&addrs(left), &addrs(right));
    }

    /// Mends every cut and ends all loss.
    pub fn heal(&self) {
        self.net.heal();
        self.net.set_loss_permille(0);
    }

    /// Returns bytes that no other call returns.
    pub fn random_bytes(&self, len: usize) -> Vec<u8> {
        let word: [u8; 32] = self.rng.bytes();
        let mut bytes = vec![0u8; len];
        for (index, chunk) in bytes.chunks_mut(32).enumerate() {
            let salt = index.to_le_bytes();
            for (at, byte) in chunk.iter_mut().enumerate() {
                *byte = word[at] ^ salt[at % salt.len()];
            }
        }
        bytes
    }

    /// Writes a file in the root, as `cp` does: create or truncate, write, close.
    pub async fn write(&mut self, index: usize, name: &[u8], content: &[u8]) {
        write(&self.member(index), Ino::ROOT, name, content).unwrap();
    }

    /// Tries the same.
    pub fn try_write(&self, index: usize, name: &[u8], content: &[u8]) -> Result<(), FsError> {
        write(&self.member(index), Ino::ROOT, name, content)
    }

    /// Removes a name of the root.
    pub fn unlink(&self, index: usize, name: &[u8]) {
        let fs = self.member(index).fs;
        fs.unlink(Ino::ROOT, name).unwrap();
    }

    /// Returns what a file in the root holds on one member.
    pub async fn read(&self, index: usize, name: &[u8]) -> Option<Vec<u8>> {
        let member = self.member(index);
        let entry = member.volume.dirent(Ino::ROOT, name).unwrap()?;
        let size = member.volume.inode(entry.ino).unwrap()?.size;
        Some(tree::content(&member, entry.ino, size).await)
    }

    /// Returns how many chunks of a file in the root are on other peers alone.
    pub fn lacking(&self, index: usize, name: &[u8]) -> usize {
        let member = self.member(index);
        let entry = member.volume.dirent(Ino::ROOT, name).unwrap();
        let ino = entry.expect("the file is there").ino;
        let size = member.volume.inode(ino).unwrap().expect("it is").size;
        let replica = self.peer(index).replica();
        let extents = member.volume.extents(ino, 0..size).unwrap();
        let lacks = extents.iter().filter(|extent| match extent.src {
            Source::Inline(_) => false,
            Source::Chunk { id, .. } => !replica.is_local(id).unwrap(),
        });
        lacks.count()
    }

    /// Returns the chunks that a peer must keep or may evict.
    pub fn chunks(&self, index: usize) -> BTreeSet<ChunkId> {
        let mut ids = BTreeSet::new();
        let host = self.hosts.get(index).expect("a host");
        host.store
            .chunks
            .for_each(&mut |id, _| {
                ids.insert(id);
                ControlFlow::Continue(())
            })
            .unwrap();
        ids
    }

    /// Returns which of some chunks files name on a member.
    pub fn named(&self, index: usize, ids: &BTreeSet<ChunkId>) -> BTreeSet<ChunkId> {
        let ids: Vec<ChunkId> = ids.iter().copied().collect();
        let named = self.member(index).volume.who_names(&ids).unwrap();
        named.into_keys().collect()
    }

    /// Returns the ctime that programs on one member see of a file in the root.
    pub fn ctime(&self, index: usize, name: &[u8]) -> Timespec {
        let fs = self.member(index).fs;
        let attr = fs.lookup(Ino::ROOT, name).unwrap().attr;
        fs.forget(attr.ino, 1);
        attr.ctime
    }

    /// Forgets the plaintext that a member keeps in memory.
    pub fn forget_cached(&self, index: usize) {
        self.member(index).data.clear_cache();
    }

    /// Returns how many conflicts a member lists.
    pub fn conflicts(&self, index: usize) -> usize {
        self.member(index).volume.conflicts().unwrap().len()
    }

    /// Returns all that a member shows.
    pub async fn tree(&self, index: usize) -> BTreeMap<Vec<u8>, tree::Node> {
        tree::of(&self.member(index)).await
    }

    /// Does something that a program could do, on some member, and lets a little time pass.
    pub async fn random_operation(&mut self) {
        self.operations += 1;
        let up = self.members_up();
        let index = up[self.rng.below(up.len() as u64) as usize];
        let member = self.member(index);
        let caller = Caller::default();
        let dirs = directories(&member);
        let pick = |of: u64| self.rng.below(of);
        let dir = dirs[pick(dirs.len() as u64) as usize];
        let name = format!("n{}", pick(6)).into_bytes();
        let result = match pick(10) {
            0..=2 => {
                let text = format!("{} of host{index} in {}", self.operations, self.seed);
                write(&member, dir, &name, text.as_bytes())
            }
            3 => {
                let name = format!("kept-{}-{}", index, self.operations).into_bytes();
                let content = self.random_bytes(self.rng.below(40_000) as usize);
                let done = write(&member, Ino::ROOT, &name, &content);
                if done.is_ok() {
                    self.acknowledged.insert(name, content);
                }
                done
            }
            4 => member.fs.mkdir(caller, dir, &name, 0o755).map(|_| ()),
            5 => member.fs.unlink(dir, &name),
            6 => member.fs.rmdir(dir, &name),
            7 => {
                let to = dirs[pick(dirs.len() as u64) as usize];
                let new = format!("n{}", pick(6)).into_bytes();
                member
                    .fs
                    .rename((dir, &name), (to, &new), RenameMode::Replace)
            }
            8 => match member.volume.dirent(dir, &name).unwrap() {
                Some(entry) => {
                    let new = format!("l{}", pick(6)).into_bytes();
                    member.fs.link(entry.ino, dir, &new).map(|_| ())
                }
                None => Ok(()),
            },
            _ => match member.volume.dirent(dir, &name).unwrap() {
                Some(entry) => {
                    member
                        .fs
                        .setxattr(caller, entry.ino, b"user.mark", &name, Default::default())
                }
                None => Ok(()),
            },
        };
        // What POSIX refuses is refused; anything else must not happen here.
        if let Err(error) = result {
            assert!(
                matches!(
                    error,
                    FsError::NotFound
                        | FsError::Exists
                        | FsError::NotEmpty
                        | FsError::IsDirectory
                        | FsError::NotDirectory
                        | FsError::Invalid { .. }
                        | FsError::NotPermitted
                ),
                "unexpected {error:?}"
            );
        }
        sleep(Duration::from_millis(self.rng.below(400))).await;
    }

    /// Waits until no member has anything to tell another.
    pub async fn settle(&self) {
        let clock = Arc::clone(&self.hosts[0].clock);
        let start = clock.monotonic();
        let mut quiet = 0;
        loop {
            sleep(Duration::from_millis(500)).await;
            quiet = if self.is_settled() { quiet + 1 } else { 0 };
            if quiet >= 6 {
                return;
            }
            assert!(
                clock.monotonic() - start < SETTLE_MAX,
                "seed {}: the cluster does not settle: {:?}, {:?}, {:?}",
                self.seed,
                self.vectors(),
                self.chains(),
                self.troubles()
            );
        }
    }

    /// Changes the last byte of the first row of a table of a peer, by hand.
    pub fn damage(&self, index: usize, table: Table) {
        assert!(self.damage_nth(index, table, 0), "a row");
    }

    /// Does that to any row; says whether there is one.
    pub(crate) fn try_damage(&self, index: usize, table: Table, chance: &Rng) -> bool {
        let mut count = 0;
        let rows = &self.hosts[index].store.rows;
        let counted = rows.scan_keys(table, &[], None, &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        });
        counted.is_ok() && self.damage_nth(index, table, chance.below(count))
    }

    fn damage_nth(&self, index: usize, table: Table, nth: u64) -> bool {
        let rows = &self.hosts[index].store.rows;
        let (mut left, mut found) = (nth, None);
        let mut take = |key: &[u8], value: &[u8]| {
            if left == 0 {
                found = Some((key.to_vec(), value.to_vec()));
                return ControlFlow::Break(());
            }
            left -= 1;
            ControlFlow::Continue(())
        };
        rows.scan(table, &[], None, &mut take).unwrap();
        let Some((key, mut value)) = found else {
            return false;
        };
        // The last bytes of a folder's row may be its times, of which each machine has its own.
        let byte = match table {
            Table::Inode => value.first_mut(),
            _ => value.last_mut(),
        };
        if let Some(byte) = byte {
            *byte ^= 1;
        }
        let mut batch = Batch::new();
        batch.put(table, key, value);
        rows.commit(batch).unwrap();
        true
    }

    /// Returns how many ops a member still keeps what undoes them of.
    pub fn undo_count(&self, index: usize) -> usize {
        let mut count = 0;
        let rows = &self.hosts[index].store.rows;
        let counted = rows.scan_keys(Table::Op, &[], None, &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        });
        counted.unwrap();
        count
    }

    fn vectors(&self) -> Vec<String> {
        let up = self.hosts.iter().filter_map(|host| host.peer.as_ref());
        // What a removed member wrote and nobody built on is nobody's to fetch.
        let counting = |peer: &Arc<Peer>| peer.node().counting(peer.node().log().vector());
        up.map(|peer| format!("{:?}", counting(peer))).collect()
    }

    /// Returns the newest record of each peer, and that which it has folded.
    fn chains(&self) -> Vec<String> {
        let chains = self.peers().map(|(host, peer)| {
            let tip = peer.node().chain().tip();
            let member = peer.member_parts();
            let folded = member.map(|member| member.volume.record().number);
            let named = peer.node().chain();
            let unnamed: Vec<_> = peer
                .node()
                .log()
                .vector()
                .into_iter()
                .filter(|(log, seg_no)| named.named(*log) != *seg_no)
                .collect();
            format!(
                "host{host} {}.{} folded {folded:?} not named {unnamed:?}",
                tip.era, tip.number
            )
        });
        chains.collect()
    }

    /// Returns what stopped at each peer.
    fn troubles(&self) -> Vec<(usize, Vec<String>)> {
        let told = |peer: &Arc<Peer>| {
            let open = peer.troubles().open().into_iter();
            open.map(|noted| noted.what).collect()
        };
        self.peers()
            .map(|(host, peer)| (host, told(peer)))
            .collect()
    }

    /// Returns the newest record that a member has folded.
    pub fn folded(&self, index: usize) -> RecordRef {
        self.member(index).volume.record()
    }

    fn is_settled(&self) -> bool {
        let vectors = self.vectors();
        let drafts = self
            .members_up()
            .iter()
            .any(|index| self.member(*index).volume.counts().drafts > 0);
        !drafts && vectors.windows(2).all(|pair| pair[0] == pair[1]) && self.is_committed()
    }

    /// Says whether all that are up have one chain, the members have folded all of it, and where the
    /// admin is there and hears another it names every segment that counts.
    fn is_committed(&self) -> bool {
        let up: Vec<&Arc<Peer>> = self
            .hosts
            .iter()
            .filter_map(|host| host.peer.as_ref())
            .collect();
        let tips: Vec<_> = up.iter().map(|peer| peer.node().chain().tip()).collect();
        let folded = self.members_up().into_iter().all(|index| {
            let tip = self.peer(index).node().chain().tip();
            self.member(index).volume.record() == tip
        });
        let names_all = self.hosts[self.admin].peer.as_ref().is_none_or(|founder| {
            let node = founder.node();
            let vector = node.counting(node.log().vector());
            let chain = node.chain();
            let mut ends = vector.iter();
            founder.node().connected().is_empty()
                || ends.all(|(log, seg_no)| chain.named(*log) == *seg_no)
        });
        folded && names_all && tips.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Waits until every chunk is on as many peers as wanted.
    pub async fn synced(&self) {
        for index in 0..self.hosts.len() {
            let done = self.peer(index).replica().wait_synced(SETTLE_MAX).await;
            assert!(done.is_ok(), "seed {}: {done:?}", self.seed);
        }
    }

    /// Every member shows the same tree, and so does a new one that folds all logs from scratch.
    pub async fn assert_converged(&mut self) {
        // Who admits says otherwise that one of the two clocks is wrong.
        self.hosts[self.admin].clock.set_ahead(Duration::ZERO);
        self.join(Role::Reader).await;
        self.settle().await;
        let members = self.members_up();
        let scratch = members[members.len() - 1];
        let expected = self.tree(scratch).await;
        for index in members {
            let shown = self.tree(index).await;
            for (path, node) in &expected {
                let path_text = String::from_utf8_lossy(path);
                assert_eq!(
                    shown.get(path),
                    Some(node),
                    "seed {}: host{index} differs from the fold from scratch at {path_text}",
                    self.seed
                );
            }
            assert_eq!(
                shown.len(),
                expected.len(),
                "seed {}: host{index} has more",
                self.seed
            );
        }
    }

    /// What was acknowledged is there on every member that is up, as it was written.
    pub async fn assert_nothing_acknowledged_is_lost(&self) {
        assert!(!self.acknowledged.is_empty(), "nothing was acknowledged");
        for index in self.members_up() {
            let tree = self.tree(index).await;
            for (name, content) in &self.acknowledged {
                let path = [b"/", &name[..]].concat();
                let text = String::from_utf8_lossy(name);
                let node = tree.get(&path);
                let node = node
                    .unwrap_or_else(|| panic!("seed {}: {text} is lost on host{index}", self.seed));
                assert!(
                    node.content == *content,
                    "seed {}: {text} of host{index} is not what was written",
                    self.seed
                );
            }
        }
    }
}

pub(crate) fn directories(member: &Member) -> Vec<Ino> {
    let mut found = vec![Ino::ROOT];
    let mut next = 0;
    while let Some(dir) = found.get(next).copied() {
        next += 1;
        member
            .volume
            .readdir(dir, None, &mut |_, entry| {
                if entry.kind == dfs::volume::FileKind::Dir {
                    found.push(entry.ino);
                }
                true
            })
            .unwrap();
    }
    found
}

pub(crate) fn write(member: &Member, dir: Ino, name: &[u8], content: &[u8]) -> Result<(), FsError> {
    let flags = OpenFlags {
        write: true,
        truncate: true,
        ..OpenFlags::default()
    };
    let created = member
        .fs
        .create(Caller::default(), dir, name, 0o644, flags)?;
    let (ino, fh) = (created.entry.attr.ino, created.opened.fh);
    let written = member
        .fs
        .write(ino, fh, 0, content, WriteFlags::default())?;
    assert_eq!(written, content.len());
    member.fs.flush(ino, fh)?;
    member.fs.release(ino, fh)?;
    member.fs.forget(ino, 1);
    Ok(())
}
