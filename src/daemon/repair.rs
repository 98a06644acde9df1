//! `dfs repair`: a state folder that cannot be opened is rebuilt from the other members and from what
//! can still be read of it, under the same identity. It needs no daemon, and none may run.
//!
//! Nothing is changed before the new contents are whole; then they change places with the old ones,
//! which stay beside. The rows of the view are folded anew by the next start.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::addresses::{Interfaces, resolve};
use super::birth::{keys_in, keys_row};
use super::error::DaemonError;
use super::place;
use super::run::{SEAL_QUEUE_MAX, pool, runtime};
use super::settings::Settings;
use crate::base::time::{SystemClock, sleep};
use crate::base::{Clock, PeerId, Rng};
use crate::crypto::{Identity, VolumeKeys};
use crate::node::{Node, NodeConfig, NodeError, PeerState, Restored, Role};
use crate::store::state::read_private;
use crate::store::{Rebuild, Rescued, Store, StoreError};
use crate::transport::Transport;
use crate::volume::Volume;

/// How long members are waited for where none was met yet, and where no more comes from those that were.
const MEET_MAX: Duration = Duration::from_secs(15);
const STALL_MAX: Duration = Duration::from_secs(30);

/// How often it is looked whether all is there.
const POLL: Duration = Duration::from_millis(200);

/// How long everything stands still that is taken for all.
const SETTLED: Duration = Duration::from_secs(3);

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Repaired {
    /// Where the old contents lie.
    pub aside: PathBuf,
    /// Whether nothing but a change of places that was cut short was to be done.
    pub is_resumed: bool,
    /// The volume, 64 hex digits.
    pub volume: String,
    /// What was wrong, a line each.
    pub damages: Vec<String>,
    /// Members that gave what they have.
    pub members: Vec<String>,
    /// Segments that are here, and those that could be read and do not fit what is here.
    pub segments: u64,
    /// Segments that could be read and do not continue what is here.
    pub loose_segments: usize,
    /// Own changes that no segment held yet.
    pub drafts: usize,
    /// Chunks that are whole.
    pub chunks: u64,
    /// Chunks that are not, which are fetched anew from whoever has them.
    pub damaged_chunks: u64,
}

/// Rebuilds a state folder; `peers` are addresses of other members, beside those that can still be read.
pub fn repair(
    state: &Path,
    peers: &[String],
    told: &mut dyn FnMut(&str),
) -> Result<Repaired, DaemonError> {
    runtime()?.block_on(rebuild(state, peers, told))
}

async fn rebuild(
    state: &Path,
    peers: &[String],
    told: &mut dyn FnMut(&str),
) -> Result<Repaired, DaemonError> {
    let path = state.join("identity.key");
    if !state.is_dir() {
        let state = state.to_owned();
        return Err(DaemonError::NothingToRepair { state });
    }
    let Some(bytes) = read_private(&path)? else {
        return Err(DaemonError::IdentityLost { path });
    };
    let identity = Identity::from_bytes(&bytes);
    let identity = Arc::new(identity.map_err(|_| DaemonError::IdentityLost { path })?);
    let (folder, done) = Rebuild::begin(state)?;
    if let Some(aside) = done {
        return Ok(Repaired {
            aside,
            is_resumed: true,
            ..Repaired::default()
        });
    }
    told("reading what is left");
    let (old, rescued) = Store::rescue(state, &identity.local_key())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut settings = Settings::load(&state.join("settings")).unwrap_or_default();
    let transport: Arc<dyn Transport> = Arc::new(settings.bind(&identity, true)?);
    let node = NodeConfig {
        identity: Arc::clone(&identity),
        name: settings.name(),
        seeds: peers.to_vec(),
        machine: Arc::new(Interfaces),
        capacity_bytes: settings.replica().capacity_bytes,
        pool: pool("node", 1, SEAL_QUEUE_MAX)?,
    };
    let (addrs, unresolved) = resolve(peers).await;
    let known = Known {
        old,
        rescued,
        node,
        transport,
        clock,
    };
    let asked = known.ask(&addrs, told).await;
    let restored = asked.map_err(|error| unresolved.unwrap_or(error))?;
    let keys = known.keys(&restored, state)?;
    told("making the rows anew");
    let (store, adopted) = folder.make(&identity.local_key())?;
    let mut repaired = known.fill(&restored, keys, &store, &addrs, told).await?;
    drop(store);
    (repaired.chunks, repaired.damaged_chunks) = (adopted.kept, adopted.damaged);
    drop(known);
    repaired.aside = folder.finish()?;
    Ok(repaired)
}

/// What is at hand.
struct Known {
    old: Store,
    rescued: Rescued,
    node: NodeConfig,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
}

impl Known {
    /// Returns the roster as far as it can be read and as others tell it, and the keys that they give.
    async fn ask(
        &self,
        addrs: &[SocketAddr],
        told: &mut dyn FnMut(&str),
    ) -> Result<Restored, DaemonError> {
        let identity = &*self.node.identity;
        let mut known = Restored::of_store(&self.old)?;
        let volume = known.as_ref().map(Restored::volume);
        let mut failure = None;
        for addr in addrs {
            told(&format!("asking {addr}"));
            let asked = Node::restore(&self.transport, &self.clock, *addr, volume, identity);
            match (asked.await, &mut known) {
                (Ok(asked), Some(known)) => known.merge(asked),
                (Ok(asked), None) => known = Some(asked),
                (Err(error), _) => failure = Some(error),
            }
            let reads = |known: &Restored| known.role_of(identity).is_some_and(Role::reads);
            let has_all = |known: &&Restored| known.is_whole(identity);
            let has_keys = |known: &Restored| known.wrapped_keys.is_some() || !reads(known);
            if known.as_ref().filter(has_all).is_some_and(has_keys) {
                break;
            }
        }
        match known.filter(|known| known.is_whole(identity)) {
            Some(known) => Ok(known),
            None => Err(match failure {
                Some(error) => error.into(),
                None => DaemonError::RepairNeedsPeer,
            }),
        }
    }

    /// Returns the keys that could be read, or were given.
    fn keys(&self, restored: &Restored, state: &Path) -> Result<Option<VolumeKeys>, DaemonError> {
        let identity = &self.node.identity;
        if !restored.role_of(identity).is_some_and(Role::reads) {
            return Ok(None);
        }
        let given = restored.wrapped_keys.as_ref();
        let given = given.map(|wrapped| -> Result<VolumeKeys, DaemonError> {
            Ok(VolumeKeys::from_bytes(&identity.unwrap_key(wrapped)?)?)
        });
        let given = given.transpose()?;
        let kept = keys_in(&self.old).ok().flatten();
        let kept = kept.map(|kept| VolumeKeys::from_bytes(&kept.to_bytes()));
        match (kept.transpose()?, given) {
            (Some(kept), Some(given)) => {
                kept.adopt(&given)?;
                Ok(Some(kept))
            }
            (None, None) => Err(DaemonError::KeysLost {
                state: state.to_owned(),
            }),
            (kept, given) => Ok(kept.or(given)),
        }
    }

    /// Fills a new store with what is left and what others have.
    async fn fill(
        &self,
        restored: &Restored,
        keys: Option<VolumeKeys>,
        store: &Store,
        addrs: &[SocketAddr],
        told: &mut dyn FnMut(&str),
    ) -> Result<Repaired, DaemonError> {
        let mut own = keys.as_ref().map(keys_row).unwrap_or_default();
        Volume::ask_anew(&mut own);
        // What this device promised as a voter is not known any more.
        place::disown(&mut own);
        restored.lay(store, &self.old, own)?;
        let (members, loose_segments) = self.pull(store, addrs, told).await?;
        let drafts = restored.take_drafts(store, &self.old, self.node.identity.device())?;
        let segments = Node::segments_in(store)?;
        store.sync()?;
        Ok(Repaired {
            volume: restored.volume().to_string(),
            damages: self.rescued.damages.clone(),
            members,
            segments,
            loose_segments,
            drafts,
            ..Repaired::default()
        })
    }

    /// Takes what is left of the chain and the logs, and what the members have that can be reached; returns
    /// their names, and how many segments are left out.
    async fn pull(
        &self,
        store: &Store,
        addrs: &[SocketAddr],
        told: &mut dyn FnMut(&str),
    ) -> Result<(Vec<String>, usize), DaemonError> {
        let node = Node::start(
            Arc::clone(&self.transport),
            self.node.clone(),
            store.clone(),
            Arc::clone(&self.clock),
            Rng::from_entropy(),
        )?;
        node.take_chain(&self.old)?;
        node.take_logs(&self.old)?;
        told("waiting for the other members");
        for addr in addrs {
            let met: Result<PeerId, NodeError> = node.contact(*addr).await;
            if let Err(error) = met {
                told(&format!("{addr}: {error}"));
            }
        }
        let now = || self.clock.monotonic();
        let (began, mut moved) = (now(), now());
        let mut before = (node.log().vector(), node.chain().tip());
        let members = loop {
            sleep(POLL).await;
            let have = (node.log().vector(), node.chain().tip());
            if have != before {
                let count: u64 = have.0.values().sum();
                told(&format!("{count} segments"));
                (before, moved) = (have, now());
            }
            let peers = node.peers().into_iter();
            let met: Vec<_> = peers
                .filter(|peer| peer.state == PeerState::Connected)
                .collect();
            let has_all = met.iter().all(|peer| {
                let mut theirs = peer.vector.iter();
                theirs.all(|(log, seg_no)| before.0.get(log).is_some_and(|have| have >= seg_no))
            });
            let waited = match (met.is_empty(), has_all) {
                (true, _) => now() >= began + MEET_MAX,
                (false, true) => now() >= moved + SETTLED,
                (false, false) => now() >= moved + STALL_MAX,
            };
            if waited {
                break met.into_iter().map(|peer| peer.name).collect();
            }
        };
        // What others had may lie before what only this one has.
        let loose_segments = node.take_logs(&self.old)?;
        node.shutdown().await;
        Ok((members, loose_segments))
    }
}

/// Returns what an error of a start says, with what mends it where its rows are damaged.
pub(super) fn advised(error: DaemonError, state: &Path) -> DaemonError {
    use crate::log::LogError;
    use crate::volume::VolumeError;
    let is_damage = match &error {
        DaemonError::Volume(error) => matches!(
            error,
            VolumeError::Corrupt { .. }
                | VolumeError::NotHere { .. }
                | VolumeError::Log(LogError::Corrupt { .. } | LogError::MalformedRecord { .. })
                | VolumeError::Store(StoreError::Corrupt { .. })
        ),
        DaemonError::Node(error) => matches!(
            error,
            NodeError::DamagedRoster
                | NodeError::NoVolume
                | NodeError::Log(LogError::Corrupt { .. } | LogError::MalformedRecord { .. })
                | NodeError::Store(StoreError::Corrupt { .. })
        ),
        DaemonError::Crypto(_) => true,
        DaemonError::Store(error) => matches!(error, StoreError::Corrupt { .. }),
        _ => false,
    };
    if !is_damage {
        return error;
    }
    DaemonError::StateDamaged {
        what: error.to_string(),
        state: state.to_owned(),
    }
}
