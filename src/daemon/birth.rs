//! How a peer comes to its volume: known from an earlier start, made, joined, or asked for.

use std::net::SocketAddr;
use std::sync::Arc;

use super::config::Config;
use super::error::DaemonError;
use crate::base::{Clock, Rng};
use crate::crypto::{Identity, RecoveryPhrase, VolumeKeys};
use crate::node::{AskedAt, InviteToken, Joined, Node, NodeConfig, Role};
use crate::store::state::{StateDir, write_private};
use crate::store::{Batch, Store, Table, is_founded};
use crate::transport::Transport;

/// Where the volume's keys lie in the local store (sealed as every row is).
const KEYS_ROW: &[u8] = b"volume keys";

/// How this peer came to its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// By an earlier start.
    Known,
    /// This start made it.
    Made,
    /// This start joined it.
    Joined,
}

/// What a start is to do about its volume.
#[derive(Debug)]
pub(super) enum Way {
    /// Open the one that the state folder holds.
    Open,
    /// Make one.
    Make,
    /// Join the one of a token.
    Join(InviteToken),
    /// Enter the one of a recovery phrase.
    Recover(Arc<RecoveryPhrase>),
    /// Ask the peers that were named to be admitted.
    Ask,
}

impl Way {
    /// Chooses by what was asked for and what the state folder holds, without changing anything: a
    /// start without a way leaves no trace.
    pub(super) fn choose(config: &Config, mounts: bool) -> Result<Self, DaemonError> {
        let token = config.invite.as_deref().map(parse_token).transpose()?;
        if mounts
            && token
                .as_ref()
                .is_some_and(|token| token.role == Role::Storage)
        {
            return Err(DaemonError::StorageInvite);
        }
        let state = || config.state.clone();
        if is_founded(&config.state)? {
            if config.new_volume {
                return Err(DaemonError::NewButKnown { state: state() });
            }
            return Ok(Self::Open);
        }
        if let Some(words) = &config.recovery {
            let phrase = Arc::new(words.parse::<RecoveryPhrase>()?);
            if config.peers.is_empty() {
                return Err(DaemonError::RecoveryNeedsPeer);
            }
            return Ok(Self::Recover(phrase));
        }
        match token {
            Some(token) => Ok(Self::Join(token)),
            // A machine that starts by itself may find its disk missing: then to make an empty
            // volume, or to ask for a place in one, would look as if all went well.
            None if config.unattended => Err(DaemonError::NoStateUnattended { state: state() }),
            None if config.new_volume => Ok(Self::Make),
            None if config.peers.is_empty() && mounts => {
                Err(DaemonError::NoState { state: state() })
            }
            None if config.peers.is_empty() => Err(DaemonError::NodeNeedsInvite),
            None => Ok(Self::Ask),
        }
    }
}

/// What a first start needs.
pub(super) struct Birth<'a> {
    pub(super) store: &'a Store,
    pub(super) node: &'a NodeConfig,
    pub(super) transport: &'a Arc<dyn Transport>,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) rng: &'a Rng,
    pub(super) seeds: &'a [SocketAddr],
}

impl Birth<'_> {
    /// Returns the volume's keys, `None` for a storage peer, after making or joining the volume
    /// where the state folder holds none. `told` hears of the peer that is asked for admission.
    pub(super) async fn membership(
        &self,
        config: &Config,
        way: &Way,
        told: impl FnMut(AskedAt) + Send,
    ) -> Result<(Option<Arc<VolumeKeys>>, Origin), DaemonError> {
        if let Some(volume) = Node::volume_of(self.store)? {
            let origin = match way {
                Way::Open => Origin::Known,
                // A start before this one was cut short behind the point where it had a volume.
                Way::Make => Origin::Made,
                Way::Ask => Origin::Joined,
                Way::Join(token) if token.volume == volume => Origin::Joined,
                // Nothing is kept before all is, so that start had come in.
                Way::Recover(_) => Origin::Joined,
                Way::Join(_) => {
                    return Err(DaemonError::OtherVolume {
                        state: config.state.clone(),
                    });
                }
            };
            return Ok((self.stored_keys()?, origin));
        }
        match way {
            Way::Open => Err(crate::node::NodeError::NoVolume.into()),
            Way::Join(token) => Ok((self.join(token).await?, Origin::Joined)),
            Way::Recover(phrase) => Ok((self.recover(phrase).await?, Origin::Joined)),
            Way::Ask => Ok((self.ask(told).await?, Origin::Joined)),
            Way::Make => {
                // The key first: a volume whose key was lost by a crash here is of no use.
                let keys = VolumeKeys::generate(self.rng);
                self.store_keys(&keys)?;
                Node::create_volume(self.node, self.store, &**self.clock, self.rng)?;
                Ok((Some(Arc::new(keys)), Origin::Made))
            }
        }
    }

    async fn join(&self, token: &InviteToken) -> Result<Option<Arc<VolumeKeys>>, DaemonError> {
        let joined = Node::join(
            self.transport,
            self.node,
            self.store,
            self.clock,
            token,
            self.seeds,
        )
        .await?;
        self.found(joined)
    }

    async fn ask(
        &self,
        told: impl FnMut(AskedAt) + Send,
    ) -> Result<Option<Arc<VolumeKeys>>, DaemonError> {
        let asked = Node::ask(self.transport, self.node, self.clock, self.seeds, told);
        self.found(asked.await?.settle())
    }

    async fn recover(
        &self,
        phrase: &RecoveryPhrase,
    ) -> Result<Option<Arc<VolumeKeys>>, DaemonError> {
        let joined = Node::recover(
            self.transport,
            self.node,
            self.store,
            self.clock,
            self.rng,
            phrase,
            self.seeds,
        )
        .await?;
        self.found(joined)
    }

    /// Keeps what a peer has when it has joined, its keys included, with one commit.
    fn found(&self, joined: Joined) -> Result<Option<Arc<VolumeKeys>>, DaemonError> {
        let keys = match &joined.wrapped_keys {
            Some(wrapped) => {
                let bytes = self.node.identity.unwrap_key(wrapped)?;
                Some(VolumeKeys::from_bytes(&bytes)?)
            }
            None => None,
        };
        joined.found(self.store, keys.as_ref().map(keys_row).unwrap_or_default())?;
        Ok(keys.map(Arc::new))
    }

    fn stored_keys(&self) -> Result<Option<Arc<VolumeKeys>>, DaemonError> {
        let row = self.store.rows.get(Table::Meta, KEYS_ROW)?;
        if let Some(bytes) = row {
            return Ok(Some(Arc::new(VolumeKeys::from_bytes(&bytes)?)));
        }
        // A storage peer that may read by now: an admin left the keys for it.
        let wrapped = Node::grants_in(self.store, &self.node.identity.id())?;
        let identity = &self.node.identity;
        let opened = wrapped.iter();
        let opened: Vec<_> = opened
            .filter_map(|keys| identity.unwrap_key(keys).ok())
            .collect();
        let Some(keys) = VolumeKeys::of_grants(&opened) else {
            return Ok(None);
        };
        self.store_keys(&keys)?;
        Ok(Some(Arc::new(keys)))
    }

    fn store_keys(&self, keys: &VolumeKeys) -> Result<(), DaemonError> {
        keep_keys(self.store, keys)
    }
}

/// Keeps the volume's keys; durable on return.
pub(super) fn keep_keys(store: &Store, keys: &VolumeKeys) -> Result<(), DaemonError> {
    store.rows.commit(keys_row(keys))?;
    Ok(store.sync()?)
}

pub(super) fn keys_row(keys: &VolumeKeys) -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Meta, KEYS_ROW, keys.to_bytes().to_vec());
    batch
}

fn parse_token(text: &str) -> Result<InviteToken, DaemonError> {
    text.parse().map_err(DaemonError::Token)
}

/// Returns the volume's keys that lie in a store.
pub(super) fn keys_in(store: &Store) -> Result<Option<Arc<VolumeKeys>>, DaemonError> {
    let row = store.rows.get(Table::Meta, KEYS_ROW)?;
    let keys = row
        .map(|bytes| VolumeKeys::from_bytes(&bytes))
        .transpose()?;
    Ok(keys.map(Arc::new))
}

/// Returns the peer's secret, making one where the folder holds nothing yet.
pub(super) fn load_identity(state: &StateDir, rng: &Rng) -> Result<Identity, DaemonError> {
    let path = state.identity_key();
    if let Some(bytes) = state.read_key()? {
        return Identity::from_bytes(&bytes).map_err(|_| DaemonError::KeyDamaged { path });
    }
    let identity = Identity::generate(rng)?;
    write_private(&path, &identity.to_bytes())?;
    Ok(identity)
}
