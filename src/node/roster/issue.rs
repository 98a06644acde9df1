//! Statements that this peer issues.

use std::sync::Arc;

use super::statement::{
    Claim, Content, KEEP_MAX, Setting, Statement, StatementId, Voice, check_name,
};
use super::view::heads;
use super::{InviteId, MEMBERS_MAX, RecoveryId, Role, Roster, RosterError, STATEMENTS_MAX};
use crate::base::{DeviceId, PeerId, Rng, Stamp, VolumeId};
use crate::crypto::{Identity, PublicIdentity};
use crate::wire::Vector;

/// An issuer, the moment of issuing, and what the issuer had folded by then.
#[derive(Debug, Clone, Copy)]
pub struct Issuer<'a> {
    /// Who issues; must be an admin.
    pub identity: &'a Identity,
    /// When.
    pub stamp: Stamp,
    /// What a member that is admitted now has to fold before it changes anything.
    pub shown: &'a Vector,
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
    /// The secret's hash and the time of day (milliseconds since 1970; stamps stay ahead where a clock once
    /// was) decide: fails with
    /// [`RosterError::InviteUnknown`], [`RosterError::InviteExpired`] or
    /// [`RosterError::InviteUsed`]. The latter names the peer that used it: where that is the one
    /// that asks again, its first answer was lost, and it can be told that it is a member.
    pub fn redeem(
        &mut self,
        issuer: Issuer<'_>,
        invite: InviteId,
        identity: &PublicIdentity,
        name: &str,
        now_ms: u64,
    ) -> Result<Vec<u8>, RosterError> {
        let role = self.invite_role(invite, now_ms)?;
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
            shown: issuer.shown.clone(),
        };
        self.issue(issuer, claim)
    }

    /// Ends the membership of a peer, and returns the statements' bytes.
    ///
    /// Of what an admin that is removed has issued, that which is known here goes on to hold.
    /// Any member may remove itself: it leaves. The last admin cannot be removed, for nobody could
    /// admit anybody again, unless it is the last member.
    pub fn remove(
        &mut self,
        issuer: Issuer<'_>,
        peer: &PeerId,
    ) -> Result<Vec<Vec<u8>>, RosterError> {
        let leaves = *peer == issuer.identity.id();
        if leaves && self.role_of(peer).is_some_and(|role| role != Role::Admin) {
            return self.leave(issuer, peer);
        }
        let authority = self.authority(&issuer.identity.id())?;
        if self.member(peer).is_none() {
            return Err(RosterError::NotMember(*peer));
        }
        if self.is_last_admin(peer) && self.members().len() > 1 {
            return Err(RosterError::LastAdmin);
        }
        let admissions = self.line_of(peer);
        // One's own authority goes last, or the removals behind it would be void.
        let (own, others): (Vec<_>, Vec<_>) = admissions
            .into_iter()
            .partition(|admission| *admission == authority);
        let mut issued = Vec::new();
        for admission in others.into_iter().chain(own) {
            let keep = self.kept(admission);
            let claim = Claim::Remove { admission, keep };
            let statement = self.sign(issuer, authority, claim)?;
            issued.push(self.take(statement));
        }
        Ok(issued)
    }

    /// Ends all admissions of the issuer, which is no admin.
    fn leave(&mut self, issuer: Issuer<'_>, peer: &PeerId) -> Result<Vec<Vec<u8>>, RosterError> {
        let live = self.view.admissions.get(peer).cloned().unwrap_or_default();
        let mut issued = Vec::new();
        for admission in live {
            let claim = Claim::Remove {
                admission,
                keep: heads(&self.attached, admission),
            };
            let statement = self.sign(issuer, admission, claim)?;
            issued.push(self.take(statement));
        }
        Ok(issued)
    }

    /// Gives a member another role, and returns the statement's bytes.
    ///
    /// Of what an admin that is none any more has issued, that which is known here goes on to hold.
    pub fn set_role(
        &mut self,
        issuer: Issuer<'_>,
        peer: &PeerId,
        role: Role,
    ) -> Result<Vec<u8>, RosterError> {
        let authority = self.authority(&issuer.identity.id())?;
        let member = self.member(peer).ok_or(RosterError::NotMember(*peer))?;
        if member.role == role {
            return Err(RosterError::SameRole(role));
        }
        if self.is_last_admin(peer) {
            return Err(RosterError::LastAdmin);
        }
        let (identity, name) = (member.identity.clone(), member.name.clone());
        let live = self.view.admissions.get(peer).cloned().unwrap_or_default();
        // More than one where admins did this at one time: the others end.
        let (replaces, others) = live.split_first().ok_or(RosterError::NotMember(*peer))?;
        let claim = Claim::Reassign {
            replaces: *replaces,
            identity,
            role,
            name,
            keep: self.kept(*replaces),
            shown: issuer.shown.clone(),
        };
        let statement = self.sign(issuer, authority, claim)?;
        let id = statement.id;
        let bytes = self.take(statement);
        let own = if *replaces == authority {
            id
        } else {
            authority
        };
        for admission in others {
            // An admin that gave up its own role has nothing to say any more.
            if own == id && role != Role::Admin {
                break;
            }
            let keep = self.kept(*admission);
            let admission = *admission;
            let statement = self.sign(issuer, own, Claim::Remove { admission, keep })?;
            self.take(statement);
        }
        Ok(bytes)
    }

    /// Gives a member another name, and returns the statement's bytes. Admins may name anybody,
    /// others themselves.
    pub fn rename(
        &mut self,
        issuer: Issuer<'_>,
        peer: &PeerId,
        name: &str,
    ) -> Result<Vec<u8>, RosterError> {
        check_name(name)?;
        let member = self.member(peer).ok_or(RosterError::NotMember(*peer))?;
        let own = member.admission;
        let authority = match self.authority(&issuer.identity.id()) {
            Err(_) if *peer == issuer.identity.id() => own,
            found => found?,
        };
        // The newest name holds, so this one must be newer than the last, whatever that one's date.
        let stamp = self.view.named.get(peer).copied().unwrap_or_default();
        let issuer = Issuer {
            stamp: issuer.stamp.max(stamp.next()),
            ..issuer
        };
        let claim = Claim::Rename {
            peer: *peer,
            name: name.to_owned(),
        };
        let statement = self.sign(issuer, authority, claim)?;
        Ok(self.take(statement))
    }

    /// Takes an invite back, and returns the statement's bytes.
    pub fn revoke(&mut self, issuer: Issuer<'_>, invite: InviteId) -> Result<Vec<u8>, RosterError> {
        self.authority(&issuer.identity.id())?;
        // One that has expired may be taken back: clocks differ.
        match self.invite_role(invite, 0) {
            Ok(_) => self.issue(issuer, Claim::Revoke { invite }),
            Err(error) => Err(error),
        }
    }

    /// Gives a setting of the volume another value, and returns the statement's bytes.
    pub fn set(&mut self, issuer: Issuer<'_>, setting: Setting) -> Result<Vec<u8>, RosterError> {
        // The newest holds, so this one must be newer than the last, whatever that one's date.
        let last = match setting {
            Setting::HistoryMs(_) => self.view.history.map(|(said, _)| said),
            Setting::Snapshots(_) => self.view.schedule.map(|(said, _)| said),
        };
        let last = last.map_or(Stamp(0), |(stamp, _)| stamp);
        let issuer = Issuer {
            stamp: issuer.stamp.max(last.next()),
            ..issuer
        };
        self.issue(issuer, Claim::Set(setting))
    }

    /// Makes `recovery` an admin behind a phrase, in the place of all that were there, and returns
    /// the statement's bytes.
    pub fn set_recovery(
        &mut self,
        issuer: Issuer<'_>,
        recovery: &PublicIdentity,
        lookup: RecoveryId,
        sealed: Vec<u8>,
    ) -> Result<Vec<u8>, RosterError> {
        recovery.check().map_err(RosterError::Signature)?;
        let claim = Claim::Recovery {
            identity: recovery.clone(),
            lookup,
            sealed,
        };
        let before: Vec<StatementId> = self.phrases().collect();
        let bytes = self.issue(issuer, claim)?;
        self.end_phrases(issuer, &before)?;
        Ok(bytes)
    }

    /// Ends all recovery phrases; returns how many there were.
    pub fn end_recovery(&mut self, issuer: Issuer<'_>) -> Result<usize, RosterError> {
        let phrases: Vec<StatementId> = self.phrases().collect();
        self.end_phrases(issuer, &phrases)?;
        Ok(phrases.len())
    }

    fn phrases(&self) -> impl Iterator<Item = StatementId> {
        let phrases = self.view.recoveries.iter();
        phrases.map(|recovery| recovery.statement)
    }

    fn end_phrases(
        &mut self,
        issuer: Issuer<'_>,
        phrases: &[StatementId],
    ) -> Result<(), RosterError> {
        self.authority(&issuer.identity.id())?;
        for phrase in phrases {
            let keep = self.kept(*phrase);
            let admission = *phrase;
            self.issue(issuer, Claim::Remove { admission, keep })?;
        }
        Ok(())
    }

    /// Returns what of an ended admission's statements goes on to hold: all that are known here.
    fn kept(&self, admission: StatementId) -> Vec<StatementId> {
        let mut keep = heads(&self.attached, admission);
        keep.truncate(KEEP_MAX);
        keep
    }

    /// Returns the live admissions of a peer, each behind those whose place it took: with those,
    /// changes of role end that are not known here.
    fn line_of(&self, peer: &PeerId) -> Vec<StatementId> {
        let mut line = Vec::new();
        for live in self.view.admissions.get(peer).into_iter().flatten() {
            let mut at = Some(*live);
            while let Some(id) = at.filter(|id| !line.contains(id)) {
                line.push(id);
                let claim = self.attached.get(&id).map(|found| &found.content.claim);
                at = match claim {
                    Some(Claim::Reassign { replaces, .. }) => Some(*replaces),
                    _ => None,
                };
            }
        }
        line
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
        let mut phrases = self.view.recoveries.iter();
        if self.member(&peer).is_none() && !phrases.any(|recovery| recovery.admin == peer) {
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
            .or_else(|| {
                let mut phrases = self.view.recoveries.iter();
                let own = phrases.find(|recovery| recovery.admin == *peer)?;
                Some(own.statement)
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
        let above = self.attached.get(&authority);
        let voice = above.and_then(|above| above.content.claim.voice());
        // What a member says of itself stands alone: the next word may take its place.
        let prev = match voice {
            Some((_, Voice::Own)) => None,
            _ => heads(&self.attached, authority).first().copied(),
        };
        let content = Content {
            authority: Some(authority),
            prev,
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
