//! What members change on the roster once they are there: roles, names, leaves, invites taken back,
//! recovery phrases.

use std::sync::Arc;

use super::Node;
use super::error::NodeError;
use super::membership::Membership;
use super::roster::{InviteId, RecoveryId, Role, RosterError, Setting};
use crate::base::PeerId;
use crate::crypto::{Identity, RecoveryPhrase};
use crate::store::Store;

impl Node {
    /// Returns the wrapped keys that admins have left for a peer that reads, as far as a store knows:
    /// before a start.
    ///
    /// # Errors
    ///
    /// Those of a start.
    pub fn grants_in(store: &Store, peer: &PeerId) -> Result<Vec<Vec<u8>>, NodeError> {
        let roster = Membership::load(store)?.roster();
        if !roster.role_of(peer).is_some_and(Role::reads) {
            return Ok(Vec::new());
        }
        Ok(roster.grants(peer).map(<[u8]>::to_vec).collect())
    }

    /// Gives a member another role, and one that reads from now on the volume keys; durable on
    /// return, and told to all peers.
    ///
    /// # Errors
    ///
    /// [`RosterError::NotAdmin`], [`RosterError::NotMember`], [`RosterError::SameRole`],
    /// [`RosterError::LastAdmin`], [`NodeError::NoKeys`], or the store's errors.
    pub async fn set_role(self: &Arc<Self>, peer: PeerId, role: Role) -> Result<(), NodeError> {
        let roster = self.roster();
        let member = roster.member(&peer).ok_or(RosterError::NotMember(peer))?;
        let grant = if role.reads() && !member.role.reads() {
            Some(self.wrapped_for(&member.identity)?)
        } else {
            None
        };
        let shuts_out = member.role.reads() && !role.reads() && peer != self.id();
        let node = Arc::clone(self);
        self.admit(role, move |roster, issuer| {
            // The role first: what is wrong with it is told before what is wrong with the keys.
            roster.set_role(issuer, &peer, role)?;
            if let Some(wrapped) = grant {
                roster.grant(issuer, peer, wrapped)?;
            }
            if shuts_out {
                node.begin_epoch(roster, issuer)?;
            }
            Ok(())
        })
        .await
    }

    /// Gives a member another name; admins may name anybody, others themselves.
    ///
    /// # Errors
    ///
    /// [`RosterError::BadName`], [`RosterError::NotAdmin`], [`RosterError::NotMember`], or the
    /// store's errors.
    pub async fn rename(self: &Arc<Self>, peer: PeerId, name: String) -> Result<(), NodeError> {
        self.issue(move |roster, issuer| roster.rename(issuer, &peer, &name))
            .await?;
        Ok(())
    }

    /// Gives a setting of the volume another value; durable on return, and told to all peers.
    ///
    /// # Errors
    ///
    /// [`RosterError::NotAdmin`], or the store's errors.
    pub async fn set(self: &Arc<Self>, setting: Setting) -> Result<(), NodeError> {
        self.issue(move |roster, issuer| roster.set(issuer, setting))
            .await?;
        Ok(())
    }

    /// Ends this peer's own membership.
    ///
    /// # Errors
    ///
    /// [`RosterError::LastAdmin`] while others are there, [`RosterError::NotMember`], or the store's
    /// errors.
    pub async fn leave(self: &Arc<Self>) -> Result<(), NodeError> {
        self.remove_member(self.id()).await
    }

    /// Takes an invite back: nobody is admitted by it wherever the news arrives.
    ///
    /// # Errors
    ///
    /// [`RosterError::NotAdmin`], [`RosterError::InviteUnknown`], [`RosterError::InviteUsed`],
    /// [`RosterError::InviteRevoked`], or the store's errors.
    pub async fn revoke_invite(self: &Arc<Self>, invite: InviteId) -> Result<(), NodeError> {
        self.issue(move |roster, issuer| roster.revoke(issuer, invite))
            .await?;
        Ok(())
    }

    /// Makes a recovery phrase in the place of all before it: whoever knows it enters the volume as
    /// an admin, through any peer that stores the roster. Takes some tenths of a second.
    ///
    /// # Errors
    ///
    /// [`RosterError::NotAdmin`], [`NodeError::NoKeys`], or the store's errors.
    pub async fn make_recovery(self: &Arc<Self>) -> Result<RecoveryPhrase, NodeError> {
        if self.role() != Some(Role::Admin) {
            return Err(RosterError::NotAdmin.into());
        }
        let node = Arc::clone(self);
        let make = move || -> Result<_, NodeError> {
            let phrase = RecoveryPhrase::generate(&node.rng);
            let identity = Identity::generate(&node.rng)?;
            let sealed = phrase.seal(node.volume, &identity);
            Ok((phrase, identity.public(), sealed))
        };
        let made = self.config.pool.call(make).await;
        let (phrase, identity, sealed) = made.ok_or(NodeError::ShutDown)??;
        let wrapped = self.wrapped_for(&identity)?;
        let lookup = RecoveryId::of_secret(&phrase.lookup_secret());
        self.issue(move |roster, issuer| {
            roster.set_recovery(issuer, &identity, lookup, sealed)?;
            roster.grant(issuer, identity.id(), wrapped)
        })
        .await?;
        Ok(phrase)
    }

    /// Ends all recovery phrases; returns how many there were.
    ///
    /// # Errors
    ///
    /// [`RosterError::NotAdmin`], or the store's errors.
    pub async fn end_recovery(self: &Arc<Self>) -> Result<usize, NodeError> {
        self.issue(|roster, issuer| roster.end_recovery(issuer))
            .await
    }

    fn wrapped_for(&self, identity: &crate::crypto::PublicIdentity) -> Result<Vec<u8>, NodeError> {
        let wrapper = self.wrapper.read();
        let wrapped = wrapper.as_ref().and_then(|wrap| wrap(identity));
        wrapped.ok_or(NodeError::NoKeys)
    }
}
