//! The life of a daemon: state folder, identity, volume (made, joined or known), peer, mount,
//! control socket; then waiting; then the same backwards.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::addresses::{Interfaces, resolve};
use super::asking::{self, Starter};
use super::birth::{Birth, Origin, Way, load_identity};
use super::config::Config;
use super::ending::{Heard, Last, Wishes};
use super::error::DaemonError;
use super::facts::Surroundings;
use super::logging;
use super::notify;
use super::past;
use super::peer::{Parts, Peer, Sink};
use super::place;
use super::repair;
use super::rescue;
use super::server::Server;
use super::settings::{self, Live, Settings};
use crate::base::limits::MEMORY_CACHE_BYTES;
use crate::base::memory::Budget;
use crate::base::task::{Pool, spawn};
use crate::base::time::{SystemClock, sleep, timeout};
use crate::base::{Clock, Ino, Rng};
use crate::fs::{FsConfig, Invalidation};
use crate::fuse::{self, FuseError, Invalidator, MountOptions, Mounted, Prepared};
use crate::log::chain::Chain;
use crate::node::{Node, NodeConfig, NodeError, Role};
use crate::replica::Replica;
use crate::store::{StateDir, Store, StoreError};
use crate::transport::Transport;

/// How long a start waits for a peer named with --peer, where the volume is known already.
const CONTACT_MAX: Duration = Duration::from_secs(5);

/// Permissions of the root folder of a new volume.
const ROOT_MODE: u32 = 0o755;

/// How long a new member waits for the tree while no more of it comes: the log of a large volume
/// takes as long as the line does.
const FIRST_SYNC_STALL: Duration = Duration::from_secs(600);

/// How long a member that was interrupted while it got the tree waits for the rest, while none of it
/// comes, before it mounts what it has read-only.
const RESUME_STALL: Duration = Duration::from_secs(5);

/// Jobs that may wait for a worker. More than the chunks that `data` seals at once, as a full queue
/// would make the network's thread wait.
pub(super) const SEAL_QUEUE_MAX: usize = 64;

/// Folding jobs that may wait: one of each worker, and requests.
pub(super) const FOLD_QUEUE_MAX: usize = 16;

/// What a daemon tells when it is up.
#[derive(Debug, Clone)]
pub struct Started {
    /// The volume, 64 hex digits.
    pub volume: String,
    /// The state folder.
    pub state: PathBuf,
    /// The UDP address that it listens on.
    pub listen: SocketAddr,
    /// Where it is mounted.
    pub mountpoint: Option<PathBuf>,
    /// Whether the volume was made by this start.
    pub new_volume: bool,
    /// Whether this peer became a member by this start.
    pub joined: bool,
    /// What could be read of a damaged state folder, where that is shown.
    pub rescued: Option<String>,
}

/// What is to be done for a call of `dfs-mount`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountCall {
    /// A daemon is to be started.
    Start,
    /// `-o remount`: done, the flags of the mount that is there are changed.
    Remounted,
}

/// Checks whether a volume could be mounted there with these options, as far as that can be told
/// without opening anything; carries a remount out.
pub fn check_mount(mountpoint: &Path, options: &[String]) -> Result<MountCall, DaemonError> {
    let mount = parse_options(mountpoint, options)?;
    if mount.remount {
        fuse::remount(&mount)?;
        return Ok(MountCall::Remounted);
    }
    Prepared::new(mount)?;
    Ok(MountCall::Start)
}

fn parse_options(mountpoint: &Path, options: &[String]) -> Result<MountOptions, DaemonError> {
    let mut mount = MountOptions::new(mountpoint);
    for option in options {
        mount.parse_one(option)?;
    }
    Ok(mount)
}

/// Mounts and serves until the mount is taken away or the process is told to end.
///
/// `told` is called once, when the mount is up; `starter` is shown what a start waits for that asks
/// to be admitted.
pub fn run_mount(
    config: Config,
    mountpoint: &Path,
    options: &[String],
    starter: &dyn Starter,
    told: impl FnOnce(&Started),
) -> Result<(), DaemonError> {
    // First what costs nothing and changes nothing: a wrong mountpoint makes no volume.
    let prepared = Prepared::new(parse_options(mountpoint, options)?)?;
    let inside = |path: &Path| path.starts_with(prepared.mountpoint());
    // Its own files would be asked of itself.
    if inside(&config.state)
        || config
            .state
            .canonicalize()
            .is_ok_and(|state| inside(&state))
    {
        return Err(DaemonError::StateInMount {
            state: config.state,
        });
    }
    if prepared.is_rescue() {
        return runtime()?.block_on(rescue::serve(config, prepared, told));
    }
    run(config, Some(prepared), starter, told)
}

/// Serves without a mount until the process is told to end.
pub fn run_node(
    config: Config,
    starter: &dyn Starter,
    told: impl FnOnce(&Started),
) -> Result<(), DaemonError> {
    run(config, None, starter, told)
}

fn run(
    config: Config,
    mount: Option<Prepared>,
    starter: &dyn Starter,
    told: impl FnOnce(&Started),
) -> Result<(), DaemonError> {
    let runtime = runtime()?;
    let mut last = Last::default();
    let outcome = runtime.block_on(serve(config, mount, starter, told, &mut last));
    // Its tasks have parts of the store. A name that is looked up is not waited for.
    runtime.shutdown_timeout(RUNTIME_END_MAX);
    last.let_go(&outcome);
    outcome
}

/// How long threads that wait for the system may delay the end.
const RUNTIME_END_MAX: Duration = Duration::from_millis(100);

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, DaemonError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io("start", "the runtime"))
}

fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> DaemonError {
    let path = path.into();
    move |source| DaemonError::Io { what, path, source }
}

/// Takes hold of the state folder. A peer that is ending there is waited for: its mount is gone
/// before its last bytes are on the disk, so a script that mounts again comes too early.
async fn hold(folder: &Path) -> Result<StateDir, StoreError> {
    let ended = async {
        loop {
            match StateDir::open_or_create(folder) {
                Err(StoreError::InUse { .. }) => sleep(ENDING_POLL).await,
                outcome => return outcome,
            }
        }
    };
    let held = timeout(ENDING_MAX, ended).await;
    held.unwrap_or_else(|_| StateDir::open_or_create(folder))
}

/// How long a peer that ends is waited for, and how often it is looked at.
const ENDING_MAX: Duration = Duration::from_secs(3);
const ENDING_POLL: Duration = Duration::from_millis(20);

async fn serve(
    config: Config,
    mount: Option<Prepared>,
    starter: &dyn Starter,
    told: impl FnOnce(&Started),
    last: &mut Last,
) -> Result<(), DaemonError> {
    // Asked for before anything is there to be cleaned up.
    let mut stop = Stop::new()?;
    let way = Way::choose(&config, mount.is_some())?;
    let state = last.state.insert(hold(&config.state).await?);
    let joins = !matches!(way, Way::Open | Way::Make);
    let outcome = live(&config, state, way, mount, (starter, told), &mut stop).await;
    let outcome = outcome.map_err(|error| repair::advised(error, &config.state));
    last.may_be_member = joins
        && matches!(
            &outcome,
            Err(DaemonError::Store(_)
                | DaemonError::Node(NodeError::NoAnswer { .. } | NodeError::Store(_)))
        );
    last.keep(stop.heard);
    outcome
}

/// The life of a daemon that holds its state folder.
async fn live(
    config: &Config,
    state: &StateDir,
    way: Way,
    mount: Option<Prepared>,
    (starter, told): (&dyn Starter, impl FnOnce(&Started)),
    stop: &mut Stop,
) -> Result<(), DaemonError> {
    logging::start(&config.state, config.verbose, config.log_to_stderr)?;
    let rng = Rng::from_entropy();
    let identity = Arc::new(load_identity(state, &rng)?);
    // What can be refused without the store comes before it: opening it changes the folder.
    let before = Settings::load(&state.settings())?;
    let mut settings = before.clone();
    settings.resolve(config);
    // Before anything that takes a part of it.
    Budget::set_caches(settings.memory_bytes());
    let is_known = matches!(way, Way::Open);
    let transport: Arc<dyn Transport> = Arc::new(settings.bind(&identity, is_known)?);
    let store = Store::open(&config.state, &identity.local_key())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let seal_pool = pool("seal", cores(), SEAL_QUEUE_MAX)?;
    let (seeds, unresolved) = resolve(&config.peers).await;
    // A known volume mounts without them.
    if let (None, Some(error)) = (Node::volume_of(&store)?, unresolved) {
        return Err(error);
    }
    let node = NodeConfig {
        identity: Arc::clone(&identity),
        name: settings.name(),
        seeds: config.peers.clone(),
        machine: Arc::new(Interfaces),
        capacity_bytes: settings.replica().capacity_bytes,
        // Of its own: behind chunks that wait to be sealed its small jobs would wait, too.
        pool: pool("node", 1, SEAL_QUEUE_MAX)?,
    };
    let birth = Birth {
        store: &store,
        node: &node,
        transport: &transport,
        clock: &clock,
        rng: &rng,
        seeds: &seeds,
    };
    let asks = matches!(way, Way::Ask);
    let show = |at| starter.asks(&asking::report(at, &node.name, mount.is_some()));
    let (keys, origin) = tokio::select! {
        biased;
        came = birth.membership(config, &way, show) => came?,
        _ = stop.wait(), if asks => return Err(DaemonError::GivenUp),
        () = asking::abandoned(starter), if asks => return Err(DaemonError::GivenUp),
    };
    if origin == Origin::Joined {
        state.founded()?;
    }
    if mount.is_some() && keys.is_none() {
        return Err(DaemonError::StorageCannotMount {
            state: config.state.clone(),
        });
    }
    let budget = Budget::of_caches();
    let usual = FsConfig::default();
    let fs = FsConfig {
        state: Some(config.state.clone()),
        rows: Some(Arc::clone(&store.rows)),
        groups: Some(Arc::new(fuse::groups_of)),
        owner: Some(Arc::new(fuse::owner_of)),
        dirty_bytes_max: budget.part(usual.dirty_bytes_max, 4),
        ..usual
    };
    if settings != before
        && let Err(error) = settings.keep(&state.settings())
    {
        // On a full disk, say: nothing of it is needed now.
        tracing::warn!(%error, "the settings are not kept for the next start");
    }
    let live = Live::new(settings.clone(), state.settings());
    place::check(&config.state, &*store.rows, || {
        tracing::warn!(
            "the state folder was moved or put back: what was decided meanwhile is asked for"
        );
        Replica::doubt(&store)?;
        Ok(Chain::doubt(&*store.rows).map_err(NodeError::from)?)
    })?;
    let peer = Peer::start(Parts {
        identity,
        keys,
        store,
        transport: Arc::clone(&transport),
        clock,
        rng,
        node,
        replica: settings.replica(),
        fs,
        memory_cache_bytes: budget.part(MEMORY_CACHE_BYTES, 2),
        seal_pool,
        fold_pool: pool("fold", 1, FOLD_QUEUE_MAX)?,
        fsync: settings.fsync(),
    })
    .await?;
    let outcome = match found(state, &peer, origin).await {
        Ok(()) if peer.node().roster().has_left(&peer.node().id()) => Err(DaemonError::Left {
            state: config.state.clone(),
        }),
        Ok(()) => {
            if origin == Origin::Known {
                settings::rename(&peer, config).await;
            }
            up(config, &peer, live, mount, origin, told, stop).await
        }
        failed => failed,
    };
    let ended = peer.shutdown().await;
    outcome.and(ended)
}

/// Gives a volume that was just made its root folder; from then on the state folder is worth keeping.
async fn found(state: &StateDir, peer: &Arc<Peer>, origin: Origin) -> Result<(), DaemonError> {
    if origin == Origin::Made
        && let Some(member) = peer.member_parts()
    {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        member.volume.format(uid, gid, ROOT_MODE)?;
        peer.flush().await?;
        state.founded()?;
    }
    Ok(())
}

/// Mounts, opens the control socket, and waits for the end.
async fn up(
    config: &Config,
    peer: &Arc<Peer>,
    settings: Live,
    prepared: Option<Prepared>,
    origin: Origin,
    told: impl FnOnce(&Started),
    stop: &mut Stop,
) -> Result<(), DaemonError> {
    if origin == Origin::Known {
        contact(peer, &config.peers).await?;
    }
    if origin != Origin::Made {
        first_sync(peer, origin).await?;
    }
    let mounted = match (&prepared, peer.member_parts()) {
        (Some(prepared), Some(member)) => {
            let handle = tokio::runtime::Handle::current();
            past::show(member, handle.clone());
            Some(fuse::mount(prepared, Arc::clone(&member.fs), handle)?)
        }
        _ => None,
    };
    if let Some(mounted) = &mounted {
        peer.gate().watch(Box::new(mounted.watch()?));
        let invalidator = mounted.invalidator();
        peer.set_sink(Box::new(KernelCaches(invalidator)));
    }
    let mountpoint = prepared.map(|prepared| prepared.mountpoint().to_owned());
    let surroundings = Surroundings {
        state: config.state.clone(),
        mountpoint: mountpoint.clone(),
        settings,
        wishes: stop.wishes.clone(),
    };
    let server = Server::start(&config.state, Arc::clone(peer), Arc::new(surroundings))?;
    told(&Started {
        volume: peer.node().volume().to_string(),
        state: config.state.clone(),
        listen: peer.node().local_addr(),
        mountpoint,
        new_volume: origin == Origin::Made,
        joined: origin == Origin::Joined,
        rescued: None,
    });
    notify::ready();
    tracing::info!(listen = %peer.node().local_addr(), "up");
    let outcome = wait(mounted, stop).await;
    drop(server);
    outcome
}

/// The kernel's caches, told by the notifier's thread.
struct KernelCaches(Invalidator);

#[async_trait]
impl Sink for KernelCaches {
    async fn has_room(&self) {
        self.0.has_room().await;
    }

    async fn settled(&self) {
        self.0.settled().await;
    }

    fn push(&self, invalidations: Vec<Invalidation>) {
        invalidations.into_iter().for_each(|one| self.0.push(one));
    }
}

/// Waits until the mount has gone or the process is told to end, and takes the mount away.
pub(super) async fn wait(mounted: Option<Mounted>, stop: &mut Stop) -> Result<(), DaemonError> {
    let Some(mounted) = mounted else {
        stop.wait().await;
        return Ok(());
    };
    loop {
        let force = tokio::select! {
            biased;
            ended = mounted.ended() => return Ok(ended?),
            force = stop.wait() => force,
        };
        if force {
            break;
        }
        match mounted.unmount().await {
            Ok(()) => return Ok(mounted.ended().await?),
            Err(FuseError::Busy { path }) => stop.refuse(&DaemonError::Busy { path }),
            Err(error) => stop.refuse(&error.into()),
        }
    }
    if let Err(error) = mounted.close().await {
        tracing::warn!(%error, "the mount was in use");
    }
    Ok(())
}

/// A new member waits until it has the tree. A known one shows what it has; where that is not yet all
/// that it has to have before it changes anything, it waits while more of it comes.
async fn first_sync(peer: &Arc<Peer>, origin: Origin) -> Result<(), DaemonError> {
    let Some(member) = peer.member_parts() else {
        return Ok(());
    };
    let is_new = origin == Origin::Joined || member.volume.inode(Ino::ROOT)?.is_none();
    if !is_new && peer.awaited().is_empty() {
        return Ok(());
    }
    let stall = if is_new {
        FIRST_SYNC_STALL
    } else {
        RESUME_STALL
    };
    let mut synced = std::pin::pin!(peer.caught_up());
    let had = || (peer.node().log().vector(), peer.node().chain().tip());
    loop {
        let before = had();
        match timeout(stall, synced.as_mut()).await {
            Ok(done) => break done?,
            Err(_) if had() != before => {}
            Err(_) if is_new => return Err(DaemonError::FirstSync),
            Err(_) => return Ok(()),
        }
    }
    if peer.node().role().is_some_and(Role::writes) {
        member.volume.announce()?;
    }
    Ok(())
}

/// Turns to the peers named with --peer, to all at once, until one is met. Who is not there, or is
/// none of the volume's members, is no error: offline is normal, the volume is known, and an address
/// may have gone to anybody. It is one where every member that answers says no.
async fn contact(peer: &Arc<Peer>, peers: &[String]) -> Result<(), DaemonError> {
    let (addrs, _) = resolve(peers).await;
    let (sender, mut answers) = tokio::sync::mpsc::channel(addrs.len().max(1));
    for addr in addrs {
        let (node, sender) = (Arc::clone(peer.node()), sender.clone());
        spawn(async move {
            let _ = sender.send((addr, node.contact(addr).await)).await;
        });
    }
    drop(sender);
    let mut refused = None;
    let met = async {
        while let Some((addr, answer)) = answers.recv().await {
            match answer {
                Ok(_) => return true,
                // Only members are told enough to say so: see `Node::contact`.
                Err(
                    error @ (NodeError::NotOnRoster
                    | NodeError::Removed
                    | NodeError::ClockSkew { .. }),
                ) => refused = Some(error),
                Err(error) => tracing::warn!(%addr, %error, "no contact"),
            }
        }
        false
    };
    let is_met = timeout(CONTACT_MAX, met).await == Ok(true);
    match refused {
        Some(error) if !is_met => Err(error.into()),
        Some(_) | None => Ok(()),
    }
}

pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

pub(super) fn pool(name: &str, threads: usize, queue_max: usize) -> Result<Pool, DaemonError> {
    Pool::threads(name, threads, queue_max).map_err(io("start", "worker threads"))
}

/// What ends a daemon: signals, and clients of its control socket; and the signal at which it opens
/// its log anew.
pub(super) struct Stop {
    signals: Vec<Signal>,
    hangup: Signal,
    wishes: Wishes,
    heard: Heard,
}

impl Stop {
    pub(super) fn new() -> Result<Self, DaemonError> {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
        let failed = io("listen for", "signals");
        let (wishes, heard) = Wishes::new();
        let listen = || -> std::io::Result<Self> {
            Ok(Self {
                signals: kinds.into_iter().map(signal).collect::<Result<_, _>>()?,
                hangup: signal(SignalKind::hangup())?,
                wishes,
                heard,
            })
        };
        listen().map_err(failed)
    }

    /// Resolves when it is to end; to whether open files in the mount do not matter.
    async fn wait(&mut self) -> bool {
        let (signals, hangup) = (&mut self.signals, &mut self.hangup);
        let signalled = std::future::poll_fn(|context| {
            while hangup.poll_recv(context).is_ready() {
                logging::reopen();
            }
            let any = signals
                .iter_mut()
                .any(|signal| signal.poll_recv(context).is_ready());
            if any {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        });
        let force = tokio::select! {
            biased;
            () = signalled => true,
            force = self.heard.any() => force,
        };
        self.wishes.set_told(true);
        force
    }

    /// Goes on all the same, and tells who wished otherwise.
    fn refuse(&mut self, error: &DaemonError) {
        self.wishes.set_told(false);
        self.heard.refuse(error);
    }
}
