//! The settings of a peer: what was said at its first start, or decided there, and holds at the later
//! ones; shown and changed while it runs.
//!
//! They lie in a file of the state folder, to be read before the store is opened: what a start may be
//! refused for, as a port that is taken, comes before anything in the folder changes.
//!
//! The file is one line with a checksum, and then JSON.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::config::{Config, Fsync, host_name};
use super::control::Change;
use super::error::DaemonError;
use super::members;
use super::peer::Peer;
use super::report::ConfigReport;
use crate::base::limits::DEFAULT_PORT;
use crate::base::memory::CACHES_BYTES;
use crate::crypto::Identity;
use crate::node::Setting;
use crate::replica::ReplicaConfig;
use crate::store::state::{read_private, write_private};
use crate::transport::{Quic, TransportError};

/// Begins the first line of the file; the version of what follows is its last letter.
const HEAD: &str = "dfs settings 1 ";

/// Longest file of settings: a name and a few numbers.
const SETTINGS_MAX_BYTES: usize = 16 << 10;

/// What a start needs not be told again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// Where to listen, as it was asked for.
    listen: Option<SocketAddr>,
    /// The port that was free where none, or any, was asked for.
    port: Option<u16>,
    /// This machine's name for the others.
    name: Option<String>,
    /// Disk space offered: asked for, or half of what was free at the first start. Taken anew at each
    /// start it would shrink by what this peer holds.
    capacity_bytes: Option<u64>,
    /// Disk space for chunks beyond what must be held; `None` means the same again.
    cache_bytes: Option<u64>,
    /// What fsync waits for.
    fsync: Option<Fsync>,
    /// Memory of the caches of rows and contents.
    #[serde(default)]
    memory_bytes: Option<u64>,
}

impl Settings {
    /// Returns what earlier starts left in the file at `path`.
    pub(super) fn load(path: &Path) -> Result<Self, DaemonError> {
        let Some(bytes) = read_private(path)? else {
            return Ok(Self::default());
        };
        Self::decode(&bytes).ok_or_else(|| DaemonError::Settings {
            path: path.to_owned(),
        })
    }

    /// Keeps them for later starts; durable on return.
    pub(super) fn keep(&self, path: &Path) -> Result<(), DaemonError> {
        let bytes = self.encode().ok_or(DaemonError::Unprintable)?;
        Ok(write_private(path, &bytes)?)
    }

    fn encode(&self) -> Option<Vec<u8>> {
        let mut json = serde_json::to_string(self).ok()?;
        json.push('\n');
        Some(format!("{HEAD}{}\n{json}", checksum(json.as_bytes())).into_bytes())
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, json) = text
            .strip_prefix(HEAD)
            .filter(|text| text.len() <= SETTINGS_MAX_BYTES)?
            .split_once('\n')?;
        (head == checksum(json.as_bytes())).then_some(())?;
        serde_json::from_str(json).ok()
    }

    /// Takes over what this start was told, and decides what none was.
    pub(super) fn resolve(&mut self, config: &Config) {
        if config.listen.is_some() && config.listen != self.listen {
            self.listen = config.listen;
            self.port = None;
        }
        let name = config.name.as_ref().or(self.name.as_ref()).cloned();
        self.name = Some(name.unwrap_or_else(host_name));
        self.capacity_bytes = config
            .capacity_bytes
            .or(self.capacity_bytes)
            .or_else(|| half_of_free(&config.state));
        self.cache_bytes = config.cache_bytes.or(self.cache_bytes);
        self.fsync = config.fsync.or(self.fsync);
    }

    pub(super) fn name(&self) -> String {
        self.name.clone().unwrap_or_else(host_name)
    }

    pub(super) fn fsync(&self) -> Fsync {
        self.fsync.unwrap_or_default()
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes.unwrap_or(CACHES_BYTES)
    }

    pub(super) fn replica(&self) -> ReplicaConfig {
        let capacity_bytes = self.capacity_bytes.unwrap_or(0);
        ReplicaConfig {
            capacity_bytes,
            cache_bytes: self.cache_bytes.unwrap_or(capacity_bytes),
        }
    }

    /// Binds the port that was asked for; where none was, the one of the last time, the default one,
    /// or any that is free, and notes which. A volume that is known (`is_known`) does not wait for a
    /// network that gives this machine its address later.
    pub(super) fn bind(
        &mut self,
        identity: &Identity,
        is_known: bool,
    ) -> Result<Quic, DaemonError> {
        if let Some(asked) = self.listen {
            return match self.bind_at(asked, identity) {
                Err(DaemonError::Transport(TransportError::Bind { source, .. }))
                    if is_known && source.kind() == std::io::ErrorKind::AddrNotAvailable =>
                {
                    let port = match asked.port() {
                        0 => self.port.unwrap_or(0),
                        port => port,
                    };
                    let addr = SocketAddr::new(asked.ip(), port);
                    Ok(Quic::bind_later(addr, identity)?)
                }
                outcome => outcome,
            };
        }
        let all = |ip: IpAddr| SocketAddr::new(ip, DEFAULT_PORT);
        // IPv6, and IPv4 with it.
        match self.bind_at(all(Ipv6Addr::UNSPECIFIED.into()), identity) {
            // A kernel without IPv6.
            Err(DaemonError::Transport(TransportError::Bind { .. })) => {
                self.bind_at(all(Ipv4Addr::UNSPECIFIED.into()), identity)
            }
            outcome => outcome,
        }
    }

    fn bind_at(&mut self, asked: SocketAddr, identity: &Identity) -> Result<Quic, DaemonError> {
        let any = self.listen.is_none_or(|listen| listen.port() == 0);
        let last = self.port.filter(|_| any);
        if let Some(port) = last {
            match Quic::bind(SocketAddr::new(asked.ip(), port), false, identity) {
                Err(TransportError::PortTaken { .. }) => {}
                outcome => return Ok(outcome?),
            }
        }
        let transport = Quic::bind(asked, any, identity)?;
        let port = crate::transport::Transport::local_addr(&transport).port();
        if let Some(last) = last {
            tracing::warn!(
                last,
                port,
                "the port of the last time is taken: another is used"
            );
        }
        self.port = (port != asked.port()).then_some(port);
        Ok(transport)
    }
}

fn checksum(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Returns this machine's name on the roster, where an admin may have changed it.
fn own_name(peer: &Peer) -> Option<String> {
    let roster = peer.node().roster();
    Some(roster.member(&peer.node().id())?.name.clone())
}

/// Makes the roster say the name that this start was given, if it was given one.
pub(super) async fn rename(peer: &Arc<Peer>, config: &Config) {
    let Some(name) = &config.name else { return };
    if own_name(peer).is_some_and(|known| known != *name)
        && let Err(error) = members::rename(peer, None, name).await
    {
        tracing::warn!(%error, name, "this machine keeps its name");
    }
}

fn half_of_free(state: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(state).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize) / 2)
}

/// The settings of a peer that runs.
#[derive(Debug)]
pub(super) struct Live {
    settings: Mutex<Settings>,
    path: PathBuf,
}

impl Live {
    pub(super) fn new(settings: Settings, path: PathBuf) -> Self {
        Self {
            settings: Mutex::new(settings),
            path,
        }
    }

    pub(super) fn report(&self, peer: &Arc<Peer>) -> ConfigReport {
        let settings = self.settings.lock();
        let listening = peer.node().local_addr();
        let replica = settings.replica();
        let asked = settings.listen;
        ConfigReport {
            listen: asked.map(|listen| listen.to_string()),
            listening: listening.to_string(),
            listens_later: asked.is_some_and(|asked| {
                asked.ip() != listening.ip() || ![0, listening.port()].contains(&asked.port())
            }),
            name: own_name(peer).unwrap_or_else(|| settings.name()),
            capacity_bytes: replica.capacity_bytes,
            cache_bytes: replica.cache_bytes,
            fsync: settings.fsync(),
            memory_bytes: settings.memory_bytes(),
            history_ms: peer.node().roster().history_ms(),
            snapshots: peer.node().roster().schedule(),
        }
    }

    /// Makes a change hold from now on, but for address and memory, which are of the next start; durable on
    /// return.
    pub(super) async fn change(
        &self,
        peer: &Arc<Peer>,
        change: Change,
    ) -> Result<ConfigReport, DaemonError> {
        if let Change::Name(name) = &change {
            members::rename(peer, None, name).await?;
        }
        if let Change::History(ms) = &change {
            peer.node().set(Setting::HistoryMs(*ms)).await?;
            peer.rights_changed();
        }
        if let Change::Snapshots(schedule) = &change {
            peer.node().set(Setting::Snapshots(*schedule)).await?;
        }
        let mut settings = self.settings.lock();
        let mut changed = settings.clone();
        match change {
            Change::Listen(listen) => {
                changed.listen = Some(listen);
                changed.port = None;
            }
            Change::Capacity(bytes) => changed.capacity_bytes = Some(bytes),
            Change::Cache(bytes) => changed.cache_bytes = Some(bytes),
            Change::Fsync(fsync) => changed.fsync = Some(fsync),
            Change::Name(name) => changed.name = Some(name),
            Change::Memory(bytes) => changed.memory_bytes = Some(bytes),
            Change::History(_) | Change::Snapshots(_) => {}
        }
        changed.keep(&self.path)?;
        *settings = changed;
        let replica = settings.replica();
        if peer.node().capacity_bytes() != replica.capacity_bytes {
            peer.node().set_capacity_bytes(replica.capacity_bytes);
        }
        peer.replica().set_config(replica)?;
        peer.set_fsync(settings.fsync());
        drop(settings);
        Ok(self.report(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;

    fn config(state: &Path) -> Config {
        Config {
            state: state.to_owned(),
            ..Config::default()
        }
    }

    #[test]
    fn what_was_said_or_decided_once_holds_until_something_else_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let first = Config {
            listen: Some("127.0.0.1:4801".parse().unwrap()),
            name: Some("anna".to_owned()),
            cache_bytes: Some(7),
            fsync: Some(Fsync::Replicated),
            ..config(folder.path())
        };
        let mut settings = Settings::default();
        settings.resolve(&first);
        let decided = settings.capacity_bytes.unwrap();
        assert!(decided > 0);
        settings.capacity_bytes = Some(decided + 1);

        let mut later = settings.clone();
        later.resolve(&config(folder.path()));
        assert_eq!(later, settings);
        later.resolve(&Config {
            name: Some("ben".to_owned()),
            capacity_bytes: Some(5),
            listen: Some("127.0.0.1:4802".parse().unwrap()),
            fsync: Some(Fsync::Local),
            ..config(folder.path())
        });
        assert_eq!(later.name(), "ben");
        assert_eq!(later.fsync(), Fsync::Local);
        let replica = later.replica();
        assert_eq!((replica.capacity_bytes, replica.cache_bytes), (5, 7));
        assert_eq!(later.listen.unwrap().port(), 4802);
    }

    #[test]
    fn a_file_keeps_them_and_every_changed_byte_of_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings");
        assert_eq!(Settings::load(&path).unwrap(), Settings::default());
        let mut settings = Settings::default();
        settings.resolve(&config(folder.path()));
        settings.keep(&path).unwrap();
        assert_eq!(Settings::load(&path).unwrap(), settings);
        let good = settings.encode().unwrap();
        for at in 0..good.len() {
            for bit in [0x01, 0x20, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= bit;
                assert_eq!(Settings::decode(&bad), None, "byte {at}");
            }
            assert_eq!(Settings::decode(&good[..at]), None, "cut at {at}");
        }
        write_private(&path, b"nonsense").unwrap();
        let told = Settings::load(&path).unwrap_err().to_string();
        assert!(told.contains(path.to_str().unwrap()), "{told}");
        let long = format!("{HEAD}{}", "x".repeat(20_000));
        assert_eq!(Settings::decode(long.as_bytes()), None);
    }

    #[tokio::test]
    async fn a_port_that_was_found_is_kept_while_it_is_free() {
        let identity = Identity::generate(&Rng::from_seed(1)).unwrap();
        let port_of = |quic: &Quic| crate::transport::Transport::local_addr(quic).port();
        let mut settings = Settings {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            ..Settings::default()
        };
        let first = settings.bind(&identity, false).unwrap();
        let port = port_of(&first);
        assert_eq!(settings.port, Some(port));
        // It is taken now, by the first: another is found.
        let mut other = settings.clone();
        let second = other.bind(&identity, false).unwrap();
        assert_ne!(port_of(&second), port);
        assert_eq!(other.port, Some(port_of(&second)));
        // An address that was asked for is that one or none.
        let mut asked = Settings {
            listen: Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
            ..Settings::default()
        };
        let taken = asked.bind(&identity, true).unwrap_err();
        assert!(taken.to_string().contains(&port.to_string()), "{taken}");
        // One that this machine does not have (of RFC 5737) keeps a new volume from being made, and no
        // known one from its mount.
        let mut away = Settings {
            listen: Some("192.0.2.1:4750".parse().unwrap()),
            ..Settings::default()
        };
        let refused = away.bind(&identity, false).unwrap_err().to_string();
        assert!(refused.contains("no such address"), "{refused}");
        let later = away.bind(&identity, true).unwrap();
        assert!(crate::transport::Transport::trouble(&later).is_some());
    }
}
