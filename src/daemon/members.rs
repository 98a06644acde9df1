//! The members of the volume, as the verbs show and change them: who is meant, what they may do and
//! are called, invites, phrases, and this machine's own leave.

use std::sync::Arc;
use std::time::Duration;

use super::error::DaemonError;
use super::peer::Peer;
use super::protection::sync;
use super::report::{
    InviteEntry, InviteReport, MemberReport, RecoveryEntry, RecoveryReport, SyncReport,
};
use crate::base::PeerId;
use crate::base::id::to_hex;
use crate::base::text::shown;
use crate::node::{InviteInfo, Member, PeerInfo, PeerState, Role, Roster, RosterError};

/// Fewest digits of an id that name somebody.
const PREFIX_MIN: usize = 4;

/// Longest time for which an invite may hold: beyond ten years a typing error is likelier.
const INVITE_MAX: Duration = Duration::from_secs(3_650 * 86_400);

/// Returns all members.
pub(super) fn list(peer: &Arc<Peer>) -> Vec<MemberReport> {
    let roster = peer.node().roster();
    let peers = peer.node().peers();
    roster
        .members()
        .map(|member| report(peer, &peers, member))
        .collect()
}

fn report(peer: &Arc<Peer>, peers: &[PeerInfo], member: &Member) -> MemberReport {
    let this = member.id == peer.node().id();
    let info = peers.iter().find(|info| info.id == member.id);
    let now_ms = peer.clock().wall_ms();
    let last_contact = info.and_then(|info| info.last_contact_ms);
    MemberReport {
        peer_id: member.id.to_string(),
        name: member.name.clone(),
        role: member.role.to_string(),
        this,
        state: match info.map(|info| info.state) {
            _ if this => "this",
            Some(PeerState::Connected) => "connected",
            Some(PeerState::Suspect) => "suspect",
            Some(PeerState::Offline) | None => "offline",
        }
        .to_owned(),
        last_contact_ms: last_contact.map(|then| now_ms.saturating_sub(then)),
        admitted_ms: member.admitted.ms(),
        role_before: None,
    }
}

/// Returns the member that is meant by a name, or by the first digits of an id.
///
/// # Errors
///
/// One line that names the candidates where several fit.
fn find<'a>(roster: &'a Roster, who: &str) -> Result<&'a Member, DaemonError> {
    let prefix = who.to_ascii_lowercase();
    let by_id =
        |member: &Member| prefix.len() >= PREFIX_MIN && member.id.to_string().starts_with(&prefix);
    let fitting = |member: &&Member| member.name == who || by_id(member);
    let found: Vec<&Member> = roster.members().filter(fitting).collect();
    match found.as_slice() {
        [member] => Ok(member),
        [] => Err(DaemonError::BadRequest {
            what: format!(
                "no member is called {} or has an id that begins so: see dfs members",
                shown(who)
            ),
        }),
        several => {
            let several: Vec<String> = several.iter().map(|member| label(member)).collect();
            Err(DaemonError::BadRequest {
                what: format!(
                    "{} may be {}: say the first digits of the id",
                    shown(who),
                    several.join(" or ")
                ),
            })
        }
    }
}

/// Returns a member's name with the digits that tell it from others of that name.
fn label(member: &Member) -> String {
    format!("{} ({})", shown(&member.name), member.id.short())
}

/// Fails unless this peer is an admin.
fn check_admin(peer: &Arc<Peer>) -> Result<(), DaemonError> {
    match peer.node().role() {
        Some(Role::Admin) => Ok(()),
        _ => Err(RosterError::NotAdmin.into()),
    }
}

fn parse_role(role: &str) -> Result<Role, DaemonError> {
    role.parse().map_err(|_| DaemonError::BadRequest {
        what: format!("unknown role {}", shown(role)),
    })
}

/// Returns a member as it is on the roster now.
fn now(peer: &Arc<Peer>, id: &PeerId) -> Result<MemberReport, DaemonError> {
    let roster = peer.node().roster();
    let member = roster.member(id).or_else(|| roster.former(id));
    let member = member.ok_or(RosterError::NotMember(*id))?;
    Ok(report(peer, &peer.node().peers(), member))
}

/// Removes a member; where that is not `confirmed`, only says who it would be.
pub(super) async fn remove(
    peer: &Arc<Peer>,
    who: &str,
    confirmed: bool,
) -> Result<MemberReport, DaemonError> {
    check_admin(peer)?;
    let roster = peer.node().roster();
    let id = find(&roster, who)?.id;
    if roster.is_last_admin(&id) && roster.members().len() > 1 {
        return Err(RosterError::LastAdmin.into());
    }
    if id == peer.node().id() {
        return Err(DaemonError::BadRequest {
            what: "this is the machine that you are on: dfs leave takes it out".to_owned(),
        });
    }
    let member = now(peer, &id)?;
    if confirmed {
        peer.remove_member(id).await?;
    }
    Ok(member)
}

/// Gives a member another role.
pub(super) async fn set_role(
    peer: &Arc<Peer>,
    who: &str,
    role: &str,
) -> Result<MemberReport, DaemonError> {
    let role = parse_role(role)?;
    check_admin(peer)?;
    let roster = peer.node().roster();
    let member = find(&roster, who)?;
    peer.node().set_role(member.id, role).await?;
    peer.adopt_keys();
    Ok(MemberReport {
        role_before: Some(member.role.to_string()),
        ..now(peer, &member.id)?
    })
}

/// Gives a member another name: this machine where `who` is absent.
pub(super) async fn rename(
    peer: &Arc<Peer>,
    who: Option<&str>,
    name: &str,
) -> Result<MemberReport, DaemonError> {
    let id = match who {
        None => peer.node().id(),
        Some(who) => {
            check_admin(peer)?;
            find(&peer.node().roster(), who)?.id
        }
    };
    peer.node().rename(id, name.trim().to_owned()).await?;
    now(peer, &id)
}

/// Makes an invite.
pub(super) async fn invite(
    peer: &Arc<Peer>,
    role: &str,
    expires: Duration,
) -> Result<InviteReport, DaemonError> {
    let role = parse_role(role)?;
    if expires.is_zero() {
        return Err(DaemonError::BadRequest {
            what: "an invite that ends at once admits nobody: say how long it is to hold, as 2h"
                .to_owned(),
        });
    }
    if expires > INVITE_MAX {
        return Err(DaemonError::BadRequest {
            what: "an invite holds for ten years (3650d) at most".to_owned(),
        });
    }
    let token = peer.node().invite(role, expires).await?;
    Ok(InviteReport {
        id: to_hex(&token.secret.invite().0),
        role: token.role.to_string(),
        expires_ms: token.expires_ms,
        addresses: token.addrs.iter().map(ToString::to_string).collect(),
        token: token.to_string(),
    })
}

/// Returns the invites, the newest last.
pub(super) fn invites(peer: &Arc<Peer>) -> Vec<InviteEntry> {
    let roster = peer.node().roster();
    let now_ms = peer.clock().wall_ms();
    let invites = roster.invites();
    let entry = |invite: &InviteInfo| invite_entry(&roster, invite, now_ms);
    invites.iter().map(entry).collect()
}

fn invite_entry(roster: &Roster, invite: &InviteInfo, now_ms: u64) -> InviteEntry {
    let called = |peer: &PeerId| {
        let member = roster.member(peer).or_else(|| roster.former(peer));
        member.map_or_else(|| peer.short(), label)
    };
    let state = match &invite.used_by {
        Some(_) => "used",
        None if invite.revoked => "revoked",
        None if invite.expires_ms <= now_ms => "expired",
        None => "open",
    };
    InviteEntry {
        id: to_hex(&invite.id.0),
        role: invite.role.to_string(),
        issued_by: called(&invite.by),
        issued_ms: invite.issued.ms(),
        expires_ms: invite.expires_ms,
        state: state.to_owned(),
        used_by: invite.used_by.as_ref().map(called),
    }
}

/// Takes an invite back that is named by the first digits of its id.
pub(super) async fn revoke(peer: &Arc<Peer>, id: &str) -> Result<InviteEntry, DaemonError> {
    check_admin(peer)?;
    let bad = |what: &str| DaemonError::BadRequest {
        what: format!("{what} {}: see dfs invite --list", shown(id)),
    };
    let prefix = id.to_ascii_lowercase();
    let invites = peer.node().roster().invites();
    let mut found = invites
        .iter()
        .filter(|invite| prefix.len() >= PREFIX_MIN && to_hex(&invite.id.0).starts_with(&prefix));
    let invite = found.next().ok_or_else(|| bad("no invite has the id"))?;
    if found.next().is_some() {
        return Err(bad("several invites have ids that begin with"));
    }
    peer.node().revoke_invite(invite.id).await?;
    let mut entry = invite_entry(&peer.node().roster(), invite, peer.clock().wall_ms());
    "revoked".clone_into(&mut entry.state);
    Ok(entry)
}

/// Makes a recovery phrase in the place of all before it.
pub(super) async fn make_recovery(peer: &Arc<Peer>) -> Result<RecoveryReport, DaemonError> {
    let replaced = peer.node().roster().recoveries().len();
    let phrase = peer.node().make_recovery().await?;
    Ok(RecoveryReport {
        phrase: phrase.to_string(),
        replaced,
        addresses: peer
            .node()
            .addrs()
            .iter()
            .map(ToString::to_string)
            .collect(),
    })
}

/// Returns the recovery phrases that hold: one, or as many as were made at one time.
pub(super) fn recoveries(peer: &Arc<Peer>) -> Vec<RecoveryEntry> {
    let roster = peer.node().roster();
    let recoveries = roster.recoveries().iter();
    let entry = |recovery: &crate::node::Recovery| {
        let by = &recovery.by;
        let member = roster.member(by).or_else(|| roster.former(by));
        RecoveryEntry {
            id: recovery.admin.to_string(),
            made_by: member.map_or_else(|| by.short(), label),
            made_ms: recovery.made.ms(),
        }
    };
    recoveries.map(entry).collect()
}

/// Ends all recovery phrases.
pub(super) async fn end_recovery(peer: &Arc<Peer>) -> Result<Vec<RecoveryEntry>, DaemonError> {
    check_admin(peer)?;
    let ended = recoveries(peer);
    peer.node().end_recovery().await?;
    Ok(ended)
}

/// Takes this machine out of the volume; where that is not `confirmed`, only says whether it can.
///
/// What is written here goes to the others first; it may be left behind where that is `forced`.
/// After a leave that was carried out there is nothing left to do for the daemon.
pub(super) async fn leave(
    peer: &Arc<Peer>,
    confirmed: bool,
    forced: bool,
) -> Result<MemberReport, DaemonError> {
    let id = peer.node().id();
    let roster = peer.node().roster();
    let alone = roster.members().len() == 1;
    if roster.is_last_admin(&id) && !alone {
        return Err(RosterError::LastAdmin.into());
    }
    let this = now(peer, &id)?;
    if !confirmed {
        return Ok(this);
    }
    if !forced {
        if alone {
            return Err(DaemonError::OnlyHere {
                what: "this is the only member, so all of the volume".to_owned(),
            });
        }
        peer.flush().await?;
        if peer.replicated().await.is_err() {
            let pending = sync(peer)?;
            if !pending.is_done() {
                return Err(DaemonError::OnlyHere {
                    what: only_here(&pending),
                });
            }
        }
    }
    peer.node().leave().await?;
    Ok(this)
}

/// Says what is not on enough other machines.
fn only_here(pending: &SyncReport) -> String {
    let mut what = format!(
        "{} chunks and {} log segments ({} bytes)",
        pending.pending_chunks, pending.pending_segments, pending.pending_bytes
    );
    if !pending.unreachable.is_empty() {
        let names: Vec<String> = pending.unreachable.iter().map(|name| shown(name)).collect();
        what.push_str(&format!(" (cannot reach {})", names.join(", ")));
    }
    what
}

/// Returns what is to be done so that the loss of one machine does not lock the others out, `None`
/// where that is done, or is another's to do.
pub(super) fn second_admin(peer: &Arc<Peer>) -> Option<String> {
    let roster = peer.node().roster();
    let is_sole = roster.is_last_admin(&peer.node().id());
    let others = roster.members().len() > 1;
    (is_sole && others && roster.recoveries().is_empty()).then(|| {
        "only this machine can invite or remove: lose it and nobody can. dfs members role NAME \
         admin, or dfs recovery"
            .to_owned()
    })
}
