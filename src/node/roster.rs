//! Who belongs to a volume: a set of signed statements, the same on every peer.
//!
//! [`Roster`] keeps statements whose signatures lead back to the genesis, and a few whose issuer is
//! not known yet. Merging is the union of two sets, so it does not matter in which order statements
//! arrive; what a set means is computed from it (see `view`): members, invites, keys left for
//! members. Statements never change, and those of admins are never dropped, so two rosters with one
//! [`Roster::digest`] say the same. Of what a member that is no admin says of itself the roster keeps
//! its newest name and its leave: it cannot fill the roster.
//!
//! Storage peers keep and check rosters too: nothing in them is sealed but the keys in
//! [`Claim::Grant`], which are wrapped for one member each, and the secrets in [`Claim::Recovery`],
//! which a phrase opens. A roster tells who the members are, what they are called, and who admitted
//! whom.

mod bound;
mod endings;
mod issue;
mod statement;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::{DeviceId, PeerId, Stamp, VolumeId};
use crate::crypto::{CryptoError, PublicIdentity};
use crate::store::codec;
use crate::wire::Vector;
use crate::wire::limits::{NAME_MAX_BYTES, VECTOR_MAX};

pub use issue::Issuer;
pub use statement::{Claim, InviteId, KEEP_MAX, RecoveryId, Schedule, Setting, StatementId};
use statement::{Statement, Voice};
use view::{Statements, View};

/// Most statements of a roster: 4096 members, each invited, admitted, granted keys and removed.
pub const STATEMENTS_MAX: usize = 16_384;

/// How long what was replaced or removed is kept where nobody has said otherwise, milliseconds: 30 days.
const HISTORY_MS: u64 = 30 * 86_400_000;

/// Most peers that are or were members: one entry each in every version vector.
pub const MEMBERS_MAX: usize = VECTOR_MAX;

/// Most statements that are kept although their issuer is not known yet: a batch that came before
/// what it builds on. What is dropped comes again with the next exchange.
pub const UNATTACHED_MAX: usize = 256;

/// Largest roster in bytes.
pub const ROSTER_MAX_BYTES: usize = 64 << 20;

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Keeps sealed bytes for the others and holds no keys.
    Storage,
    /// Reads.
    Reader,
    /// Reads and writes.
    Writer,
    /// Reads, writes, admits and removes.
    Admin,
}

impl Role {
    /// All roles, the least first.
    pub const ALL: [Self; 4] = [Self::Storage, Self::Reader, Self::Writer, Self::Admin];

    /// Says whether members with this role hold the volume's keys.
    pub fn reads(self) -> bool {
        self >= Self::Reader
    }

    /// Says whether the others take this member's segments.
    pub fn writes(self) -> bool {
        self >= Self::Writer
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Storage => "storage",
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Admin => "admin",
        })
    }
}

/// Says that a text names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a role is one of admin, writer, reader, storage")]
pub struct ParseRoleError;

impl FromStr for Role {
    type Err = ParseRoleError;
    fn from_str(text: &str) -> Result<Self, ParseRoleError> {
        Self::ALL
            .into_iter()
            .find(|role| role.to_string() == text)
            .ok_or(ParseRoleError)
    }
}

/// A peer that is, or was, a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The peer.
    pub id: PeerId,
    /// Its keys, checked.
    pub identity: PublicIdentity,
    /// What it may do.
    pub role: Role,
    /// Whether it writes or wrote once: what is in its log then goes on to hold.
    pub wrote: bool,
    /// Its name for people; names need not differ.
    pub name: String,
    /// When it was admitted.
    pub admitted: Stamp,
    /// The statement that admitted it.
    pub admission: StatementId,
}

/// An admin behind a phrase: no member, no machine, but with an admin's authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The statement that made it.
    pub statement: StatementId,
    /// As whom the phrase acts.
    pub admin: PeerId,
    /// By what it is found.
    pub lookup: RecoveryId,
    /// When it was made.
    pub made: Stamp,
    /// Who made it.
    pub by: PeerId,
}

/// An invite that an admin has issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteInfo {
    /// Its name on the roster.
    pub id: InviteId,
    /// The role that it gives.
    pub role: Role,
    /// Who issued it.
    pub by: PeerId,
    /// When.
    pub issued: Stamp,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: u64,
    /// Whom it admitted.
    pub used_by: Option<PeerId>,
    /// Whether an admin has taken it back.
    pub revoked: bool,
}

/// Says why a statement is not taken, or not issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// Only admins issue statements.
    #[error("only an admin of the volume may do this")]
    NotAdmin,
    /// The volume would have no admin left.
    #[error(
        "this is the last admin of the volume, without which nobody could invite or remove: make \
         another member one first, with dfs members role NAME admin"
    )]
    LastAdmin,
    /// A name is empty, too long, or cannot be shown.
    #[error("a member's name has 1 to {NAME_MAX_BYTES} bytes, and nothing that is not seen in it")]
    BadName,
    /// The member has this role.
    #[error("the member's role is {0} already")]
    SameRole(Role),
    /// The peer is a member already.
    #[error("peer {} is a member already", .0.short())]
    AlreadyMember(PeerId),
    /// The peer is not a member.
    #[error("peer {} is not a member", .0.short())]
    NotMember(PeerId),
    /// Another peer has the same device id.
    #[error("another member has the device id {:016x}", .0.0)]
    DuplicateDevice(DeviceId),
    /// No admin has issued this invite.
    #[error("the invite is not known to the volume")]
    InviteUnknown,
    /// The invite has admitted a peer.
    #[error("the invite was used already, by peer {}", by.short())]
    InviteUsed {
        /// The peer that it admitted.
        by: PeerId,
    },
    /// The invite's time is over.
    #[error("the invite has expired")]
    InviteExpired,
    /// An admin has taken the invite back.
    #[error("the invite was revoked")]
    InviteRevoked,
    /// No phrase of the volume is known by this.
    #[error("the volume has no such recovery phrase")]
    NoRecovery,
    /// The roster has as many statements or members as it can.
    #[error("the roster is full")]
    Full,
    /// The bytes have not the shape of what they should be.
    #[error("malformed {what}")]
    Malformed {
        /// What they should be.
        what: &'static str,
    },
    /// The bytes were made by a newer release.
    #[error("a roster statement has version {found}, this release knows {known}")]
    TooNew {
        /// Their version.
        found: u8,
        /// The newest version that is known here.
        known: u8,
    },
    /// The statement is of a kind that only a newer release knows.
    #[error("a roster statement is of kind {kind}, which takes a newer dfs: update dfs")]
    UnknownClaim {
        /// The number of its kind.
        kind: u32,
    },
    /// A signature or a certificate in a statement does not hold.
    #[error("a roster statement is not authentic: {0}")]
    Signature(CryptoError),
}

/// What a merge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Merged {
    /// Statements that are new here and hang below the genesis; above zero, the digest changed.
    pub added: usize,
    /// Statements that are kept aside now, for their issuer is not known.
    pub unattached: usize,
    /// Statements that are malformed, not authentic, or beyond a limit.
    pub refused: usize,
    /// Statements that only a newer program knows: they count once it is updated.
    pub newer: usize,
}

/// What a member says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Name,
    Leave,
}

/// Who belongs to a volume; see the module's text.
#[derive(Clone)]
pub struct Roster {
    volume: VolumeId,
    /// Statements that hang below the genesis by signatures that hold.
    attached: Statements,
    /// Statements that nothing is known of but their shape.
    unattached: Statements,
    /// What members that are no admins say of themselves, by admission: one statement of each kind.
    words: BTreeMap<(StatementId, Word), StatementId>,
    /// Those that records of the chain name.
    pinned: Arc<BTreeSet<StatementId>>,
    /// What `attached` means; computed anew when that changes.
    view: View,
}

impl Roster {
    /// Returns the roster of a volume of which only the id is known; statements come by merging.
    pub fn empty(volume: VolumeId) -> Self {
        Self {
            volume,
            attached: BTreeMap::new(),
            unattached: BTreeMap::new(),
            words: BTreeMap::new(),
            pinned: Arc::default(),
            view: View::default(),
        }
    }

    /// Returns the volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Says whether the genesis is here: without it there are no members.
    pub fn has_genesis(&self) -> bool {
        self.attached.contains_key(&self.genesis())
    }

    /// Returns the device that founded the volume, `None` where the genesis is not here.
    pub fn founder(&self) -> Option<DeviceId> {
        let genesis = self.attached.get(&self.genesis())?;
        genesis
            .content
            .claim
            .voice()
            .map(|(identity, _)| identity.device())
    }

    /// Returns a member.
    pub fn member(&self, peer: &PeerId) -> Option<&Member> {
        self.view.members.get(peer)
    }

    /// Returns what a peer may do, `None` for one that is not a member.
    pub fn role_of(&self, peer: &PeerId) -> Option<Role> {
        self.member(peer).map(|member| member.role)
    }

    /// Says whether a peer is an admin and no other member is one.
    pub fn is_last_admin(&self, peer: &PeerId) -> bool {
        let mut admins = self.members().filter(|member| member.role == Role::Admin);
        self.role_of(peer) == Some(Role::Admin) && admins.all(|admin| admin.id == *peer)
    }

    /// Returns what a member has to have folded before it changes anything: what they had folded who
    /// admitted it, or gave it its role.
    pub fn shown_to(&self, peer: &PeerId) -> Vector {
        let mut all = Vector::new();
        let live = self.view.admissions.get(peer).into_iter().flatten();
        let claims = live.filter_map(|id| self.attached.get(id)?.content.claim.shown());
        for (log, seg_no) in claims.flatten() {
            let last = all.entry(*log).or_default();
            *last = (*last).max(*seg_no);
        }
        all
    }

    /// Returns who is to have the keys of an epoch that begins: the members that read, and those behind
    /// phrases that hold.
    pub fn heirs(&self) -> Vec<PublicIdentity> {
        let readers = self.members().filter(|member| member.role.reads());
        let readers = readers.map(|member| member.identity.clone());
        let behind = self.view.recoveries.iter();
        let behind = behind.filter_map(|recovery| {
            let statement = self.attached.get(&recovery.statement)?;
            Some(statement.content.claim.voice()?.0.clone())
        });
        readers.chain(behind).collect()
    }

    /// Says whether no other peer than this one has written, or can have without this one's having
    /// heard of it. Once somebody else may have, it never holds again: ops of a member that was removed
    /// may still be on their way. Nor does it where a phrase admits through another peer.
    pub fn is_sole_author(&self, peer: &PeerId) -> bool {
        let known = self.view.members.values().chain(self.view.former.values());
        let mut others = known.filter(|member| member.id != *peer).peekable();
        let has_others = others.peek().is_some();
        let had_phrase = !self.view.recoveries.is_empty() || !self.view.ended_phrases.is_empty();
        !(others.any(|other| other.wrote) || has_others && had_phrase)
    }

    /// Says whether no other member has the keys of the volume.
    pub fn is_sole_reader(&self, peer: &PeerId) -> bool {
        let mut others = self.members().filter(|member| member.id != *peer);
        !others.any(|member| member.role.reads())
    }

    /// Returns a peer that was a member and is not now.
    pub fn former(&self, peer: &PeerId) -> Option<&Member> {
        self.view.former.get(peer)
    }

    /// Returns the members, ascending by id.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.view.members.values()
    }

    /// Returns the peer that authors ops as `device`, a member now or once: what a member wrote
    /// before it was removed can still be verified.
    pub fn author(&self, device: DeviceId) -> Option<&Member> {
        let peer = self.view.devices.get(&device)?;
        self.member(peer).or_else(|| self.former(peer))
    }

    /// Says whether a peer that is no member any more has ended its membership itself.
    pub fn has_left(&self, peer: &PeerId) -> bool {
        self.view.left.contains(peer)
    }

    /// Returns the recovery phrases that hold, most senior first.
    pub fn recoveries(&self) -> &[Recovery] {
        &self.view.recoveries
    }

    /// Returns how long what was replaced or removed is kept, milliseconds; 30 days where nobody has said
    /// otherwise.
    pub fn history_ms(&self) -> u64 {
        self.view.history.map_or(HISTORY_MS, |(_, ms)| ms)
    }

    /// Returns how many snapshots are made by themselves; none where nobody has said so.
    pub fn schedule(&self) -> Schedule {
        self.view
            .schedule
            .map_or_else(Schedule::default, |(_, of)| of)
    }

    /// Returns a phrase that holds, with the secrets that it opens.
    pub fn recovery(&self, lookup: RecoveryId) -> Option<(&PublicIdentity, &[u8])> {
        let mut holding = self.view.recoveries.iter();
        let found = holding.find(|recovery| recovery.lookup == lookup)?;
        match &self.attached.get(&found.statement)?.content.claim {
            Claim::Recovery {
                identity, sealed, ..
            } => Some((identity, sealed)),
            _ => None,
        }
    }

    /// Says whether a phrase held once and does not any more.
    pub fn was_recovery(&self, lookup: RecoveryId) -> bool {
        self.view.ended_phrases.contains(&lookup)
    }

    /// Returns the invites that were ever issued, the oldest first.
    pub fn invites(&self) -> Vec<InviteInfo> {
        let issued = self.view.invites.iter();
        let mut invites: Vec<InviteInfo> = issued
            .map(|(id, invite)| InviteInfo {
                id: *id,
                role: invite.role,
                by: invite.by,
                issued: invite.issued,
                expires_ms: invite.expires_ms,
                used_by: self.view.redeemed.get(id).copied(),
                revoked: self.view.revoked.contains(id),
            })
            .collect();
        invites.sort_by_key(|invite| (invite.issued, invite.id));
        invites
    }

    /// Returns the wrapped keys that admins have left for a peer, in the order of their seniority.
    pub fn grants(&self, peer: &PeerId) -> impl Iterator<Item = &[u8]> {
        let ids = self.view.grants.get(peer).into_iter().flatten();
        ids.filter_map(|id| match &self.attached.get(id)?.content.claim {
            Claim::Grant { wrapped, .. } => Some(wrapped.as_slice()),
            _ => None,
        })
    }

    /// Returns the members that read, for which an admin has left no keys and which it did not admit, where
    /// it has left keys for others: who admitted them may not have known of the epochs that it began.
    pub fn lacks_keys_of(&self, admin: &PeerId) -> Vec<PublicIdentity> {
        let author = |id: &StatementId| {
            let authority = self.attached.get(id)?.content.authority?;
            let (identity, _) = self.attached.get(&authority)?.content.claim.voice()?;
            Some(identity.id())
        };
        let is_of = |id: &StatementId| author(id).as_ref() == Some(admin);
        if !self.view.grants.values().flatten().any(is_of) {
            return Vec::new();
        }
        let has_none = |member: &&Member| {
            let grants = self.view.grants.get(&member.id);
            !grants.is_some_and(|grants| grants.iter().any(is_of))
        };
        let readers = self
            .members()
            .filter(|member| member.role.reads() && member.id != *admin);
        let others = readers.filter(|member| !is_of(&member.admission));
        others
            .filter(has_none)
            .map(|member| member.identity.clone())
            .collect()
    }

    /// Returns the role that an invite gives at a time (milliseconds since 1970).
    ///
    /// Fails where it is unknown, used, revoked or expired.
    pub fn invite_role(&self, invite: InviteId, now_ms: u64) -> Result<Role, RosterError> {
        if let Some(by) = self.view.redeemed.get(&invite) {
            return Err(RosterError::InviteUsed { by: *by });
        }
        let issued = self.view.invites.get(&invite);
        let issued = issued.ok_or(RosterError::InviteUnknown)?;
        if self.view.revoked.contains(&invite) {
            return Err(RosterError::InviteRevoked);
        }
        if now_ms >= issued.expires_ms {
            return Err(RosterError::InviteExpired);
        }
        Ok(issued.role)
    }

    /// Says whether anybody has issued this invite.
    pub fn has_invite(&self, invite: InviteId) -> bool {
        self.view.invites.contains_key(&invite)
    }

    /// Says whether `issuer` has issued this invite, and all is here that it and those that made it
    /// an admin had said before: nothing was left out of the middle, such as a removal.
    pub fn vouches_for(&self, invite: InviteId, issuer: &PeerId) -> bool {
        self.attached.values().any(|statement| {
            let content = &statement.content;
            let is_invite =
                matches!(&content.claim, Claim::Invite { invite: found, .. } if *found == invite);
            let authority = content.authority.and_then(|id| self.attached.get(&id));
            let author = authority.and_then(|found| found.content.claim.admission());
            is_invite
                && author.is_some_and(|(identity, ..)| identity.id() == *issuer)
                && self.has_all_before(statement)
        })
    }

    /// Says whether all that a statement follows is here, and so on up to the genesis.
    fn has_all_before(&self, statement: &Statement) -> bool {
        let mut at = statement;
        loop {
            // What was said before under one authority, then what made it one.
            let before = at.content.prev.or(at.content.authority);
            let Some(before) = before else {
                return true;
            };
            match self.attached.get(&before) {
                Some(found) => at = found,
                None => return false,
            }
        }
    }

    /// Returns whose membership, or right to write, a statement ends.
    pub fn ended_by(&self, statement: StatementId) -> Option<DeviceId> {
        let ends = match &self.attached.get(&statement)?.content.claim {
            Claim::Remove { admission, .. } => admission,
            Claim::Reassign { replaces, .. } => replaces,
            _ => return None,
        };
        let (identity, ..) = self.attached.get(ends)?.content.claim.admission()?;
        Some(identity.device())
    }

    /// Returns a hash over the statements (but those kept aside): equal for equal rosters.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for id in self.attached.keys() {
            hasher.update(&id.0);
        }
        hasher.finalize().into()
    }

    /// Returns how many statements there are, those kept aside not counted.
    pub fn statement_count(&self) -> usize {
        self.attached.len()
    }

    /// Returns the bytes of the statements, each behind the one that it takes its authority from:
    /// sent in this order, in batches of any size, none of them has to be kept aside.
    pub fn statements(&self) -> impl Iterator<Item = &[u8]> {
        let order = self.view.order.iter();
        order.filter_map(|id| Some(self.attached.get(id)?.bytes.as_slice()))
    }

    /// Takes over statements, which may come from anybody and in any order.
    pub fn merge<'a>(&mut self, statements: impl IntoIterator<Item = &'a [u8]>) -> Merged {
        self.merge_within(statements, STATEMENTS_MAX)
    }

    /// Takes over statements, and keeps `max` at most.
    fn merge_within<'a>(
        &mut self,
        statements: impl IntoIterator<Item = &'a [u8]>,
        max: usize,
    ) -> Merged {
        let mut merged = Merged::default();
        let mut came: Vec<Arc<Statement>> = Vec::new();
        for bytes in statements {
            match Statement::decode(bytes) {
                Ok(statement) if self.attached.contains_key(&statement.id) => {}
                Ok(statement) => came.push(Arc::new(statement)),
                Err(RosterError::TooNew { .. } | RosterError::UnknownClaim { .. }) => {
                    merged.newer += 1;
                }
                Err(_) => merged.refused += 1,
            }
        }
        if came.is_empty() {
            merged.unattached = self.unattached.len();
            return merged;
        }
        // What was kept aside may belong below what came now.
        let mut waiting = std::mem::take(&mut self.unattached);
        waiting.extend(came.into_iter().map(|statement| (statement.id, statement)));
        let new = self.attach_all(waiting, &mut merged);
        let is_less = self.drop_beyond(max);
        let kept = new.iter().filter(|id| self.attached.contains_key(id));
        merged.added = kept.count();
        if merged.added > 0 || is_less {
            self.judge();
        }
        merged
    }

    /// Takes over the statements of another roster of the same volume.
    pub fn merge_roster(&mut self, other: &Self) -> Merged {
        let aside = other.unattached.values();
        self.merge(
            other
                .statements()
                .chain(aside.map(|statement| statement.bytes.as_slice())),
        )
    }

    /// Returns the whole roster as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let aside = self.unattached.values();
        let aside = aside.map(|statement| statement.bytes.as_slice());
        let statements: Vec<&[u8]> = self.statements().chain(aside).collect();
        codec::encode(&(BYTES_VERSION, self.volume, statements))
    }

    /// Returns the roster of [`Roster::to_bytes`]; every signature is checked again.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RosterError> {
        const MALFORMED: RosterError = RosterError::Malformed { what: "roster" };
        if let Some(&found) = bytes.first().filter(|found| **found > BYTES_VERSION) {
            return Err(RosterError::TooNew {
                found,
                known: BYTES_VERSION,
            });
        }
        let (version, volume, statements): (u8, VolumeId, Vec<Vec<u8>>) =
            codec::decode(bytes, ROSTER_MAX_BYTES).map_err(|_| MALFORMED)?;
        let mut roster = Self::empty(volume);
        let merged = roster.merge(statements.iter().map(Vec::as_slice));
        if version != BYTES_VERSION || merged.refused + merged.newer > 0 {
            return Err(MALFORMED);
        }
        Ok(roster)
    }

    /// Attaches what can be attached, round by round; keeps a bounded rest aside.
    fn attach_all(&mut self, mut waiting: Statements, merged: &mut Merged) -> Vec<StatementId> {
        let mut new = Vec::new();
        loop {
            let mut rest = Statements::new();
            let before = waiting.len();
            for (id, statement) in waiting {
                match self.verify(&statement) {
                    Some(true) => {
                        if self.attach(statement) {
                            new.push(id);
                        }
                    }
                    Some(false) => merged.refused += 1,
                    None => {
                        rest.insert(id, statement);
                    }
                }
            }
            let progress = rest.len() < before;
            waiting = rest;
            if !progress {
                break;
            }
        }
        // Those with the smallest ids: the same ones in whichever order they came.
        while waiting.len() > UNATTACHED_MAX {
            waiting.pop_last();
            merged.refused += 1;
        }
        merged.unattached = waiting.len();
        self.unattached = waiting;
        new
    }

    /// Says whether a statement belongs below the genesis; `None` where its authority is not here.
    fn verify(&self, statement: &Statement) -> Option<bool> {
        let issuer = match statement.content.authority {
            None if statement.id == self.genesis() => statement,
            None => return Some(false),
            Some(authority) => self.attached.get(&authority)?,
        };
        Some(match issuer.content.claim.voice() {
            Some((identity, voice)) => {
                let claim = &statement.content.claim;
                let may = voice == Voice::Admin || claim.is_own_word(issuer.id, identity.id());
                may && statement.verify(identity).is_ok()
            }
            None => false,
        })
    }

    /// Takes over a statement; returns whether it is kept: of what a member says of itself only the
    /// newest name is, and one leave; but what a record names stays. What is kept of a set so does not
    /// depend on any order.
    fn attach(&mut self, statement: Arc<Statement>) -> bool {
        if let Some(place) = self.place_of(&statement) {
            let known = self.words.get(&place).and_then(|id| self.attached.get(id));
            if let Some(known) = known {
                let was_pinned = self.pinned.contains(&known.id);
                let order = |of: &Statement| (self.pinned.contains(&of.id), of.order());
                let is_newest = order(&statement) > order(known);
                if !is_newest && !self.pinned.contains(&statement.id) {
                    return false;
                }
                let known = known.id;
                if !was_pinned {
                    self.attached.remove(&known);
                }
                if !is_newest {
                    self.attached.insert(statement.id, statement);
                    return true;
                }
            }
            self.words.insert(place, statement.id);
        }
        self.attached.insert(statement.id, statement);
        true
    }

    /// Returns the place of what a member says of itself, `None` for what admins say.
    fn place_of(&self, statement: &Statement) -> Option<(StatementId, Word)> {
        let authority = statement.content.authority?;
        let issuer = self.attached.get(&authority)?;
        match issuer.content.claim.voice() {
            Some((_, Voice::Own)) => {}
            Some((_, Voice::Admin)) | None => return None,
        }
        let word = match statement.content.claim {
            Claim::Rename { .. } => Word::Name,
            _ => Word::Leave,
        };
        Some((authority, word))
    }

    fn judge(&mut self) {
        self.view = view::evaluate(&self.attached, self.genesis());
    }

    fn genesis(&self) -> StatementId {
        StatementId(self.volume.0)
    }
}

impl PartialEq for Roster {
    fn eq(&self, other: &Self) -> bool {
        self.volume == other.volume
            && self.attached.keys().eq(other.attached.keys())
            && self.unattached.keys().eq(other.unattached.keys())
    }
}

impl Eq for Roster {}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roster")
            .field("volume", &self.volume)
            .field("members", &self.view.members.len())
            .field("statements", &self.attached.len())
            .field("unattached", &self.unattached.len())
            .finish()
    }
}

const BYTES_VERSION: u8 = 1;
