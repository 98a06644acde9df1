//! One statement of the roster: what it claims, and its bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Role, RosterError};
use crate::base::text::is_unseen;
use crate::base::{PeerId, Stamp, variants};
use crate::crypto::{Identity, PublicIdentity, Signature};
use crate::store::codec;
use crate::wire::Vector;
use crate::wire::limits::{NAME_MAX_BYTES, SHOWN_MAX, STATEMENT_MAX_BYTES};

/// Most heads that a removal keeps: one, or a few where an admin's state was restored from a copy.
pub const KEEP_MAX: usize = 16;

/// Names a statement: the BLAKE3 of its bytes, signature included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StatementId(pub [u8; 32]);

impl fmt::Debug for StatementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "StatementId({a:02x}{b:02x}{c:02x}{d:02x})")
    }
}

/// Names an invite: a hash of its secret, so that the roster gives nothing away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InviteId(pub [u8; 32]);

impl InviteId {
    /// Returns the name of the invite that has this secret.
    pub fn of_secret(secret: &[u8]) -> Self {
        Self(blake3::derive_key("dfs/1 invite", secret))
    }
}

impl fmt::Debug for InviteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "InviteId({a:02x}{b:02x}{c:02x}{d:02x})")
    }
}

/// Names a recovery phrase: a hash of what only the phrase yields, so that the roster gives nothing
/// away, not even to who would ask for a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecoveryId(pub [u8; 32]);

impl RecoveryId {
    /// Returns the name of the phrase that yields this secret.
    pub fn of_secret(secret: &[u8]) -> Self {
        Self(blake3::derive_key("dfs/1 recovery", secret))
    }
}

/// What a statement says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// The volume exists, and who makes it is its first admin. The hash of this statement is the
    /// volume's id.
    Genesis {
        /// Who makes the volume.
        identity: PublicIdentity,
        /// The maker's name for people.
        name: String,
        /// Tells volumes of one maker apart.
        salt: [u8; 16],
    },
    /// A peer is a member.
    Admit {
        /// The member.
        identity: PublicIdentity,
        /// What it may do.
        role: Role,
        /// Its name for people.
        name: String,
        /// The invite that was redeemed, if one was.
        invite: Option<InviteId>,
        /// What the issuer had folded by then: the last segments, of which none is in the past of
        /// another. The member changes nothing before it has folded all of that.
        shown: Vector,
    },
    /// Who knows a secret may become a member, once.
    Invite {
        /// The secret's hash.
        invite: InviteId,
        /// The role that it gives.
        role: Role,
        /// When it ends, milliseconds since 1970.
        expires_ms: u64,
    },
    /// An admission ends.
    Remove {
        /// The admission (or the genesis) that ends.
        admission: StatementId,
        /// The newest statements made under that admission that go on to hold, with all that they
        /// follow. Others are void where the remover is senior.
        keep: Vec<StatementId>,
    },
    /// The keys of an epoch for a member.
    Grant {
        /// The member.
        peer: PeerId,
        /// The keys, wrapped for it.
        wrapped: Vec<u8>,
    },
    /// A member's role changes: it has this admission in the place of another one of its own.
    Reassign {
        /// The admission (or the genesis) whose place this takes.
        replaces: StatementId,
        /// The member.
        identity: PublicIdentity,
        /// What it may do from now on.
        role: Role,
        /// Its name for people.
        name: String,
        /// As in [`Claim::Remove`]: what was made under the replaced admission and goes on to hold.
        keep: Vec<StatementId>,
        /// As in [`Claim::Admit`].
        shown: Vector,
    },
    /// A member has another name. Said by an admin, or by the member under its own admission.
    Rename {
        /// The member.
        peer: PeerId,
        /// Its name for people.
        name: String,
    },
    /// An invite admits nobody any more.
    Revoke {
        /// The secret's hash.
        invite: InviteId,
    },
    /// Whoever knows a phrase can act as this admin, which is no member and has no machine.
    Recovery {
        /// The keys that the phrase opens.
        identity: PublicIdentity,
        /// By what whoever knows the phrase asks for the roster.
        lookup: RecoveryId,
        /// The secrets of the identity, sealed under the phrase.
        sealed: Vec<u8>,
    },
    /// A setting of the volume has another value.
    Set(Setting),
}

/// A setting of a volume, and its value. Grows at its end alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// How long what was replaced or removed is kept, milliseconds.
    HistoryMs(u64),
    /// How many snapshots are made by themselves and kept.
    Snapshots(Schedule),
}

/// How many snapshots are kept of those that are made each hour, day and week; none where that is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Schedule {
    /// One for each hour.
    pub hourly: u16,
    /// One for each day.
    pub daily: u16,
    /// One for each week.
    pub weekly: u16,
}

impl Schedule {
    /// Tells whether none are made.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }
}

/// What statements that name a statement as their authority may claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    /// Everything.
    Admin,
    /// What a member may say of itself: its name, and that it leaves.
    Own,
}

impl Claim {
    /// Returns whom this makes a member, and as what.
    pub(super) fn admission(&self) -> Option<(&PublicIdentity, Role, &str)> {
        match self {
            Self::Genesis { identity, name, .. } => Some((identity, Role::Admin, name)),
            Self::Admit {
                identity,
                role,
                name,
                ..
            }
            | Self::Reassign {
                identity,
                role,
                name,
                ..
            } => Some((identity, *role, name)),
            Self::Invite { .. }
            | Self::Remove { .. }
            | Self::Grant { .. }
            | Self::Rename { .. }
            | Self::Revoke { .. }
            | Self::Recovery { .. }
            | Self::Set(_) => None,
        }
    }

    /// Returns what a member has to have folded before it changes anything.
    pub(super) fn shown(&self) -> Option<&Vector> {
        match self {
            Self::Admit { shown, .. } | Self::Reassign { shown, .. } => Some(shown),
            Self::Genesis { .. }
            | Self::Invite { .. }
            | Self::Remove { .. }
            | Self::Grant { .. }
            | Self::Rename { .. }
            | Self::Revoke { .. }
            | Self::Recovery { .. }
            | Self::Set(_) => None,
        }
    }

    /// Returns who may issue statements under this one, and which.
    pub(super) fn voice(&self) -> Option<(&PublicIdentity, Voice)> {
        match (self, self.admission()) {
            (Self::Recovery { identity, .. }, _) | (_, Some((identity, Role::Admin, _))) => {
                Some((identity, Voice::Admin))
            }
            (_, Some((identity, ..))) => Some((identity, Voice::Own)),
            (_, None) => None,
        }
    }

    /// Says whether a member that is admitted by `admission` may say this of itself.
    pub(super) fn is_own_word(&self, admission: StatementId, member: PeerId) -> bool {
        match self {
            Self::Rename { peer, .. } => *peer == member,
            Self::Remove {
                admission: ends, ..
            } => *ends == admission,
            _ => false,
        }
    }
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    /// The admission by which the issuer is an admin; `None` for the genesis.
    pub(super) authority: Option<StatementId>,
    /// The issuer's statement before this one, under the same authority.
    pub(super) prev: Option<StatementId>,
    /// When it was issued.
    pub(super) stamp: Stamp,
    pub(super) claim: Claim,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Signed {
    content: Content,
    signature: Signature,
}

/// A statement of the right shape; whether its signature holds is known once its authority is.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) id: StatementId,
    pub(super) bytes: Vec<u8>,
    pub(super) content: Content,
    signature: Signature,
}

impl Statement {
    /// Returns the statement that `identity` signs.
    pub(super) fn sign(identity: &Identity, content: Content) -> Result<Self, RosterError> {
        content.check()?;
        let signature = identity.sign(DOMAIN, &codec::encode(&content));
        let signed = Signed { content, signature };
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&codec::encode(&signed));
        if bytes.len() > STATEMENT_MAX_BYTES {
            return Err(MALFORMED);
        }
        Ok(Self::new(bytes, signed))
    }

    /// Returns the statement of its bytes, which may come from anybody.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RosterError> {
        let (&version, body) = bytes.split_first().ok_or(MALFORMED)?;
        if version > VERSION {
            return Err(RosterError::TooNew {
                found: version,
                known: VERSION,
            });
        }
        let signed: Signed = codec::decode(body, STATEMENT_MAX_BYTES - 1).map_err(|_| {
            let unknown = unknown_kind(body);
            unknown.map_or(MALFORMED, |kind| RosterError::UnknownClaim { kind })
        })?;
        // One statement must have one id, so its encoding must be the canonical one.
        if version != VERSION || codec::encode(&signed) != body {
            return Err(MALFORMED);
        }
        signed.content.check()?;
        Ok(Self::new(bytes.to_vec(), signed))
    }

    /// Checks that `issuer` has signed this, and that a peer that it admits is what it says.
    pub(super) fn verify(&self, issuer: &PublicIdentity) -> Result<(), RosterError> {
        issuer
            .verify(DOMAIN, &codec::encode(&self.content), &self.signature)
            .map_err(RosterError::Signature)?;
        match self.content.claim.voice() {
            Some((identity, _)) => identity.check().map_err(RosterError::Signature),
            None => Ok(()),
        }
    }

    /// Returns what the statements of one issuer are ordered by.
    pub(super) fn order(&self) -> (Stamp, StatementId) {
        (self.content.stamp, self.id)
    }

    fn new(bytes: Vec<u8>, signed: Signed) -> Self {
        Self {
            id: StatementId(blake3::hash(&bytes).into()),
            bytes,
            content: signed.content,
            signature: signed.signature,
        }
    }
}

impl Content {
    /// Checks what follows from the content alone.
    fn check(&self) -> Result<(), RosterError> {
        let is_genesis = matches!(self.claim, Claim::Genesis { .. });
        if is_genesis != self.authority.is_none() || is_genesis && self.prev.is_some() {
            return Err(MALFORMED);
        }
        if let Some((_, _, name)) = self.claim.admission() {
            check_name(name)?;
        }
        if let Claim::Rename { name, .. } = &self.claim {
            check_name(name)?;
        }
        if self
            .claim
            .shown()
            .is_some_and(|shown| shown.len() > SHOWN_MAX)
        {
            return Err(MALFORMED);
        }
        match &self.claim {
            Claim::Remove { keep, .. } | Claim::Reassign { keep, .. } if keep.len() > KEEP_MAX => {
                Err(MALFORMED)
            }
            _ => Ok(()),
        }
    }
}

/// Returns the number of what a statement claims, where that is beyond what is known here.
fn unknown_kind(body: &[u8]) -> Option<u32> {
    type Before = (Option<StatementId>, Option<StatementId>, Stamp);
    let mut rest = body;
    let (_, kind): (Before, u32) = codec::take(&mut rest)?;
    (kind >= variants::count::<Claim>()).then_some(kind)
}

/// Checks that a name can be shown: neither blank nor long, and every character in it is seen.
pub(super) fn check_name(name: &str) -> Result<(), RosterError> {
    let is_blank = name.trim().is_empty();
    if is_blank || name.len() > NAME_MAX_BYTES || name.chars().any(is_unseen) {
        return Err(RosterError::BadName);
    }
    Ok(())
}

const VERSION: u8 = 1;
const DOMAIN: &str = "dfs/1 roster statement";
const MALFORMED: RosterError = RosterError::Malformed {
    what: "roster statement",
};
