//! Statements that this peer issues.

use std::sync::Arc;

use super::statement::{Claim, Content, KEEP_MAX, Statement, StatementId, check_name};
use super::view::heads;
use super::{InviteId, MEMBERS_MAX, Member, Role, Roster, RosterError, STATEMENTS_MAX};
use crate::base::{DeviceId, PeerId, Rng, Stamp, VolumeId};
use crate::crypto::{Identity, PublicIdentity};

/// An issuer and the moment of issuing.
#[derive(Debug, Clone, Copy)]
pub struct Issuer<'a> {
    /// Who issues; must be an admin.
    pub identity: &'a Identity,
    /// When.
    pub stamp: Stamp,
}

impl Roster {
    /// Returns the roster of a new volume: its maker is the first admin.
    pub fn create(issuer: Issuer<'_>, name: &str, rng: &Rng) -> Result<Self, RosterError> {
        let claim = Claim::Genesis {
            identity: issuer.identity.public(),
            name: name.to_owned(),
            salt: rng.bytes(),
        };
        let content = Content {
            authority: None,
            prev: None,
            stamp: issuer.stamp,
            claim,
        };
        let genesis = Statement::sign(issuer.identity, content)?;
        let mut roster = Self::empty(VolumeId(genesis.id.0));
        roster.attach(Arc::new(genesis));
        roster.judge();
        Ok(roster)
    }

    /// Issues an invite for one peer, and returns the statement's bytes.
    pub fn invite(
        &mut self,
        issuer: Issuer<'_>,
        invite: InviteId,
        role: Role,
        expires_ms: u64,
    ) -> Result<Vec<u8>, RosterError> {
        let claim = Claim::Invite {
            invite,
            role,
            expires_ms,
        };
        self.issue(issuer, claim)
    }

    /// Redeems an invite for `identity`, and returns the bytes of the statement that admits it.
    ///
    /// The secret's hash and the time (milliseconds since 1970) decide: fails with
    /// [`RosterError::InviteUnknown`], [`RosterError::InviteExpired`] or
    /// [`RosterError::InviteUsed`]. The latter names the peer that used it: where that is the one
    /// that asks again, its first answer was lost, and it can be told that it is a member.
    pub fn redeem(
        &mut self,
        issuer: Issuer<'_>,
        invite: InviteId,
        identity: &PublicIdentity,
        name: &str,
    ) -> Result<Vec<u8>, RosterError> {
        let role = self.invite_role(invite, issuer.stamp.ms())?;
        self.admit(issuer, identity, role, name, Some(invite))
    }

    /// Admits a peer, by an invite or by the issuer's decision, and returns the statement's bytes.
    pub fn admit(
        &mut self,
        issuer: Issuer<'_>,
        identity: &PublicIdentity,
        role: Role,
        name: &str,
        invite: Option<InviteId>,
    ) -> Result<Vec<u8>, RosterError> {
        identity.check().map_err(RosterError::Signature)?;
        check_name(name)?;
        let (peer, device) = (identity.id(), DeviceId::from(identity.id()));
        if self.member(&peer).is_some() {
            return Err(RosterError::AlreadyMember(peer));
        }
        match self.view.devices.get(&device) {
            Some(known) if *known != peer => return Err(RosterError::DuplicateDevice(device)),
            None if self.view.devices.len() >= MEMBERS_MAX => return Err(RosterError::Full),
            _ => {}
        }
        let claim = Claim::Admit {
            identity: identity.clone(),
            role,
            name: name.to_owned(),
            invite,
        };
        self.issue(issuer, claim)
    }

    /// Ends the membership of a peer, and returns the statements' bytes.
    ///
    /// Of what an admin that is removed has issued, that which is known here goes on to hold.
    /// An admin may remove itself: it leaves. The last admin cannot be removed, for nobody could
    /// admit anybody again.
    pub fn remove(
        &mut self,
        issuer: Issuer<'_>,
        peer: &PeerId,
    ) -> Result<Vec<Vec<u8>>, RosterError> {
        let admissions = match self.view.admissions.get(peer) {
            Some(live) => live.clone(),
            None => return Err(RosterError::NotMember(*peer)),
        };
        let is_admin = |member: &Member| member.role == Role::Admin;
        if !self
            .members()
            .any(|member| is_admin(member) && member.id != *peer)
        {
            return Err(RosterError::LastAdmin);
        }
        let authority = self.authority(&issuer.identity.id())?;
        // One's own authority goes last, or the removals behind it would be void.
        let (own, others): (Vec<_>, Vec<_>) = admissions
            .into_iter()
            .partition(|admission| *admission == authority);
        let mut issued = Vec::new();
        for admission in others.into_iter().chain(own) {
            let mut keep = heads(&self.attached, admission);
            keep.truncate(KEEP_MAX);
            let claim = Claim::Remove { admission, keep };
            let statement = self.sign(issuer, authority, claim)?;
            issued.push(self.take(statement));
        }
        Ok(issued)
    }

    /// Leaves wrapped keys for a member, and returns the statement's bytes.
    ///
    /// So a new epoch's keys reach members that are offline, through any peer.
    pub fn grant(
        &mut self,
        issuer: Issuer<'_>,
        peer: PeerId,
        wrapped: Vec<u8>,
    ) -> Result<Vec<u8>, RosterError> {
        if self.member(&peer).is_none() {
            return Err(RosterError::NotMember(peer));
        }
        self.issue(issuer, Claim::Grant { peer, wrapped })
    }

    fn issue(&mut self, issuer: Issuer<'_>, claim: Claim) -> Result<Vec<u8>, RosterError> {
        let authority = self.authority(&issuer.identity.id())?;
        let statement = self.sign(issuer, authority, claim)?;
        Ok(self.take(statement))
    }

    /// Returns the admission by which a peer may issue.
    fn authority(&self, peer: &PeerId) -> Result<StatementId, RosterError> {
        self.view
            .admissions
            .get(peer)
            .into_iter()
            .flatten()
            .copied()
            .find(|id| {
                let claim = self.attached.get(id).map(|found| &found.content.claim);
                let admission = claim.and_then(Claim::admission);
                admission.is_some_and(|(_, role, _)| role == Role::Admin)
            })
            .ok_or(RosterError::NotAdmin)
    }

    fn sign(
        &self,
        issuer: Issuer<'_>,
        authority: StatementId,
        claim: Claim,
    ) -> Result<Statement, RosterError> {
        if self.attached.len() >= STATEMENTS_MAX {
            return Err(RosterError::Full);
        }
        let content = Content {
            authority: Some(authority),
            prev: heads(&self.attached, authority).first().copied(),
            stamp: issuer.stamp,
            claim,
        };
        Statement::sign(issuer.identity, content)
    }

    fn take(&mut self, statement: Statement) -> Vec<u8> {
        let bytes = statement.bytes.clone();
        self.attach(Arc::new(statement));
        self.judge();
        bytes
    }
}
