//! What a member may do and which keys it has, as the roster says; and what it gives to who is admitted.

use std::sync::Arc;

use super::error::DaemonError;
use super::peer::Peer;
use crate::base::{PeerId, Rng};
use crate::crypto::VolumeKeys;
use crate::node::{Node, Role};
use crate::volume::Volume;
use crate::wire::Vector;

impl Peer {
    /// Returns what this member has to fold before it changes anything, and has not: the last segments
    /// that they had folded who admitted it.
    pub fn awaited(&self) -> Vector {
        let shown = self.node().roster().shown_to(&self.node().id());
        let member = self.member_parts();
        member.map_or_else(Vector::new, |member| member.volume.unfolded(&shown))
    }

    /// Ends the membership of a peer. What is written here afterwards is sealed in the epoch of keys that
    /// begins with it.
    pub async fn remove_member(self: &Arc<Self>, peer: PeerId) -> Result<(), DaemonError> {
        self.node().remove_member(peer).await?;
        self.adopt_keys();
        Ok(())
    }

    /// Takes over the keys that admins left on the roster; says whether there were new ones.
    pub(super) fn adopt_keys(&self) -> bool {
        let Some(epochs) = self.epochs() else {
            return false;
        };
        match epochs.adopt(&self.node().roster(), self.store()) {
            Ok(any) => any,
            Err(error) => {
                tracing::error!(%error, "new keys are not kept yet");
                true
            }
        }
    }

    /// Lets programs change the volume, or not: as the roster says, and once all is folded that this
    /// member was shown.
    pub(super) fn rights_changed(&self) {
        let Some(member) = self.member_parts() else {
            return;
        };
        let history_ms = self.node().roster().history_ms();
        if let Err(error) = member.volume.keep_history(history_ms) {
            tracing::error!(%error, "for how long history is kept stays as it was");
        }
        let was = member.fs.is_read_only();
        member
            .fs
            .set_read_only(!may_write(self.node(), &member.volume));
        let is = member.fs.is_read_only();
        if was != is {
            tracing::warn!(read_only = is, "what this peer may do has changed");
        }
        if !is_alone(self.node()) {
            member.volume.end_alone();
        }
        if was
            && !is
            && let Err(error) = member.volume.announce()
        {
            tracing::error!(%error, "this device has no name in the volume yet");
        }
    }
}

/// Says whether nobody else ever wrote, and nobody else makes checkpoints: what an op replaced is given up as
/// soon as it is sealed then, and is in no checkpoint.
pub(super) fn is_alone(node: &Node) -> bool {
    let (roster, id) = (node.roster(), node.id());
    roster.is_sole_author(&id) && roster.is_sole_reader(&id)
}

/// Says whether changes made here count: those of a reader, or of who was removed, would be accepted by
/// nobody; and who has not seen yet what the others build on would change what is not there any more.
pub(super) fn may_write(node: &Node, volume: &Volume) -> bool {
    let shown = node.roster().shown_to(&node.id());
    node.role().is_some_and(Role::writes)
        && volume.unfolded(&shown).is_empty()
        && !volume.is_over()
        && !volume.awaits_fence()
        && !volume.awaits_checkpoint().unwrap_or(true)
}

/// Lets a node admit members that read. Not before this no peer gets keys, so none is admitted before the
/// volume hears of it first.
pub(super) fn admits(node: &Node, keys: &Arc<VolumeKeys>, volume: &Arc<Volume>, rng: &Rng) {
    let showing = Arc::clone(volume);
    node.set_shower(Box::new(move |role| {
        if !role.reads() {
            return Ok(Vector::new());
        }
        showing.end_alone();
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
