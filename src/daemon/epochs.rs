//! Epochs of the volume's keys: one begins when a member is removed, and those who stay find its keys on
//! the roster, whenever they come back.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::birth::keep_keys;
use super::error::DaemonError;
use crate::crypto::{Identity, VolumeKeys};
use crate::node::{Role, Roster};
use crate::store::Store;

/// What a member knows of the keys that were left for it.
pub(super) struct Epochs {
    identity: Arc<Identity>,
    keys: Arc<VolumeKeys>,
    /// Hashes of what was unwrapped: that takes some milliseconds each.
    tried: Mutex<BTreeSet<[u8; 32]>>,
}

impl Epochs {
    pub(super) fn new(identity: Arc<Identity>, keys: Arc<VolumeKeys>) -> Self {
        Self {
            identity,
            keys,
            tried: Mutex::default(),
        }
    }

    /// Takes over what admins left for this member; says whether there was anything new.
    pub(super) fn adopt(&self, roster: &Roster, store: &Store) -> Result<bool, DaemonError> {
        let me = self.identity.id();
        if !roster.role_of(&me).is_some_and(Role::reads) {
            return Ok(false);
        }
        // As many as the roster has statements at most.
        let mut tried = self.tried.lock();
        let mut any = false;
        for wrapped in roster.grants(&me) {
            if !tried.insert(blake3::hash(wrapped).into()) {
                continue;
            }
            let adopted = self
                .identity
                .unwrap_key(wrapped)
                .and_then(|bytes| self.keys.adopt_grant(&bytes));
            match adopted {
                Ok(is_new) => any |= is_new,
                Err(error) => tracing::warn!(%error, "keys that an admin left do not open"),
            }
        }
        if any {
            keep_keys(store, &self.keys)?;
            tracing::info!("an epoch of keys has begun");
        }
        Ok(any)
    }
}
