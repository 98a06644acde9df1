//! The admin's side of membership: invites, their redemption, removals.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::error::NodeError;
use super::hello::{check_clock, check_member};
use super::membership::{admins, page};
use super::roster::{InviteId, Issuer, Role, Roster, RosterError, STATEMENTS_MAX};
use super::session::Session;
use super::token::{InviteSecret, InviteToken};
use super::{Node, display_name};
use crate::base::{PeerId, VolumeId};
use crate::wire::bounded::BoundedBytes;
use crate::wire::limits::RECORDS_MAX;
use crate::wire::{
    InviteRefusal, JoinInfo, Redeem, Redeemed, Refusal, Response, SignedRecord, Vector,
};

/// Offence of redeeming an invite that nobody issued: a few guesses end the connection.
const GUESS_WEIGHT: u32 = 4;

impl Node {
    /// Issues an invite for one new member, which ends after `expires`; durable on return, and
    /// told to all peers, so that any admin can redeem it.
    ///
    /// # Errors
    ///
    /// [`RosterError::NotAdmin`] for any other role, or the store's errors.
    pub async fn invite(
        self: &Arc<Self>,
        role: Role,
        expires: Duration,
    ) -> Result<InviteToken, NodeError> {
        let secret = InviteSecret::generate(&self.rng);
        let expires_ms = u64::try_from(expires.as_millis()).unwrap_or(u64::MAX);
        let expires_ms = self.clock.wall_ms().saturating_add(expires_ms);
        let invite = secret.invite();
        self.issue(move |roster, issuer| roster.invite(issuer, invite, role, expires_ms))
            .await?;
        Ok(InviteToken {
            volume: self.volume,
            issuer: self.id,
            role,
            expires_ms,
            secret,
            addrs: self.addrs(),
        })
    }

    /// Ends the membership of a peer; it is cut off at once wherever the news arrives. Where it had the
    /// volume keys, an epoch begins for all that is written wherever the news has arrived: the others
    /// find its keys on the roster.
    ///
    /// # Errors
    ///
    /// [`RosterError::NotAdmin`], [`RosterError::NotMember`], [`RosterError::LastAdmin`], or the
    /// store's errors.
    pub async fn remove_member(self: &Arc<Self>, peer: PeerId) -> Result<(), NodeError> {
        // Who leaves knows the keys that it would hand out.
        let reads = self.roster().role_of(&peer).is_some_and(Role::reads);
        let shuts_out = reads && peer != self.id;
        let node = Arc::clone(self);
        self.issue(move |roster, issuer| {
            roster.remove(issuer, &peer)?;
            if shuts_out {
                node.begin_epoch(roster, issuer)?;
            }
            Ok(())
        })
        .await?;
        if self.lacks_majority() {
            self.begins_era.store(true, Ordering::Relaxed);
            self.chain_wake.notify_one();
        }
        Ok(())
    }

    /// Leaves the keys of a new epoch for all that read.
    pub(super) fn begin_epoch(
        &self,
        roster: &mut Roster,
        issuer: Issuer<'_>,
    ) -> Result<(), RosterError> {
        let heirs = roster.heirs();
        let drawer = self.epoch_drawer.read();
        let has_room = roster.statement_count() + heirs.len() <= STATEMENTS_MAX;
        let drawer = drawer.as_ref().filter(|_| has_room);
        let drawn = drawer.and_then(|draw| draw(&heirs));
        // An admin without keys cuts off all the same, and one of a volume that has no room for more.
        let Some(drawn) = drawn else {
            tracing::warn!("no new epoch of keys begins");
            return Ok(());
        };
        for (heir, wrapped) in heirs.iter().zip(drawn) {
            roster.grant(issuer, heir.id(), wrapped)?;
        }
        Ok(())
    }

    /// Leaves all keys for those whom another admin admitted that may not have known of an epoch which this
    /// one began: they find them on the roster.
    pub(super) fn grant_missed(self: &Arc<Self>, roster: &Roster) {
        if self.role() != Some(Role::Admin) {
            return;
        }
        let room = STATEMENTS_MAX.saturating_sub(roster.statement_count());
        let mut lacking = roster.lacks_keys_of(&self.id);
        lacking.truncate(room);
        if lacking.is_empty() {
            return;
        }
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            let of = Arc::clone(&node);
            let granted = node.issue(move |roster, issuer| {
                let wrapper = of.wrapper.read();
                let Some(wrap) = wrapper.as_ref() else {
                    return Ok(());
                };
                // Another call of this may have been first.
                let still = roster.lacks_keys_of(&of.id);
                for peer in lacking.iter().filter(|peer| still.contains(peer)) {
                    if let Some(wrapped) = wrap(peer) {
                        roster.grant(issuer, peer.id(), wrapped)?;
                    }
                }
                Ok(())
            });
            if let Err(error) = granted.await {
                tracing::warn!(%error, "a member may lack keys: they are not left for it yet");
            }
        });
    }

    /// Leaves wrapped keys of a new epoch for a member, who finds them on the roster.
    ///
    /// # Errors
    ///
    /// [`RosterError::NotAdmin`], [`RosterError::NotMember`], or the store's errors.
    pub async fn grant(self: &Arc<Self>, peer: PeerId, wrapped: Vec<u8>) -> Result<(), NodeError> {
        self.issue(move |roster, issuer| roster.grant(issuer, peer, wrapped))
            .await?;
        Ok(())
    }

    /// Tells a stranger that knows the volume's id what it needs to join.
    pub(super) fn answer_join(
        &self,
        session: &Session,
        volume: VolumeId,
        clock_ms: u64,
    ) -> Response {
        if volume != self.volume {
            return Response::Refused(Refusal::WrongVolume);
        }
        if let Err(refusal) = check_clock(self.clock.as_ref(), clock_ms) {
            return Response::Refused(refusal);
        }
        session.know_volume();
        let roster = self.roster();
        if check_member(&roster, &session.peer()) == Err(Refusal::Removed) {
            return Response::Refused(Refusal::Removed);
        }
        if !session.may_ask_roster() {
            return Response::Refused(Refusal::Busy);
        }
        let table = self.table.lock();
        let records = admins(&roster).filter_map(|admin| table.peers.get(&admin)?.record.as_ref());
        let records = records.take(RECORDS_MAX).map(|(_, signed)| signed.clone());
        Response::Join(self.join_info(&roster, records.collect()))
    }

    /// Returns the beginning of the roster and these records, for a machine that is to join.
    pub(super) fn join_info(&self, roster: &Roster, records: Vec<SignedRecord>) -> JoinInfo {
        JoinInfo {
            clock_ms: self.clock.wall_ms(),
            statements: page(roster, 0),
            total: u32::try_from(roster.statement_count()).unwrap_or(u32::MAX),
            admins: records,
            shown: Vector::new(),
        }
    }

    /// Redeems an invite: the peer is a member when it hears the answer.
    pub(super) async fn answer_redeem(
        self: &Arc<Self>,
        session: &Session,
        redeem: Redeem,
    ) -> Response {
        match self.redeem(session, redeem).await {
            Ok(redeemed) => Response::Redeemed(redeemed),
            Err(refusal) => {
                match refusal {
                    Refusal::Invite(InviteRefusal::Unknown) => self.strike(session, GUESS_WEIGHT),
                    Refusal::Malformed => self.strike(session, 1),
                    _ => {}
                }
                tracing::info!(peer = %session.peer().short(), "an invite was not accepted: {refusal}");
                Response::Refused(refusal)
            }
        }
    }

    async fn redeem(
        self: &Arc<Self>,
        session: &Session,
        redeem: Redeem,
    ) -> Result<Redeemed, Refusal> {
        let peer = session.peer();
        if redeem.volume != self.volume {
            return Err(Refusal::WrongVolume);
        }
        if !session.may_ask_roster() {
            return Err(Refusal::Busy);
        }
        if redeem.identity.id() != peer || redeem.identity.check().is_err() {
            return Err(Refusal::Malformed);
        }
        if self.role() != Some(Role::Admin) {
            return Err(Refusal::NotAdmin);
        }
        let invite = InviteId::of_secret(&redeem.secret);
        let known = self.roster();
        let now_ms = self.clock.wall_ms();
        let role = granted(&known, invite, peer, now_ms)?;
        // Keys first: who gets none must not find itself a member that can read nothing.
        let wrapped_keys = if role.reads() {
            let wrapper = self.wrapper.read();
            let wrapped = wrapper.as_ref().and_then(|wrap| wrap(&redeem.identity));
            Some(wrapped.and_then(BoundedBytes::new).ok_or(Refusal::NoKeys)?)
        } else {
            None
        };
        if known.member(&peer).is_none() {
            let (identity, name) = (redeem.identity, display_name(&redeem.name));
            let admit = move |roster: &mut Roster, issuer: Issuer<'_>| {
                roster.redeem(issuer, invite, &identity, &name, now_ms)
            };
            self.admit(role, admit).await.map_err(|error| match error {
                NodeError::Roster(error) => refusal_of(&error),
                _ => Refusal::Busy,
            })?;
        }
        tracing::info!(peer = %peer.short(), %role, "a new member was admitted");
        Ok(Redeemed {
            statements: self.admission_of(&peer),
            records: self.records_near(&peer.0),
            wrapped_keys,
        })
    }

    /// Returns the end of the roster, where a fresh admission stands.
    ///
    /// The order of statements is by authority, so the new one need not be the last: all that fit
    /// one message go, and the new member reconciles the rest in its first session.
    fn admission_of(&self, peer: &PeerId) -> Vec<crate::wire::StatementBytes> {
        let roster = self.roster();
        let first = page(&roster, 0);
        let mut trial = Roster::empty(self.volume);
        trial.merge(first.iter().map(|statement| &statement[..]));
        if trial.member(peer).is_some() {
            return first;
        }
        let last = roster.statement_count().saturating_sub(first.len());
        page(&roster, last)
    }

    /// Returns what a member of a role has to fold first.
    pub(super) fn shown(&self, role: Role) -> Result<Vector, NodeError> {
        let shower = self.shower.read();
        shower
            .as_ref()
            .map_or_else(|| Ok(Vector::new()), |shown| shown(role))
    }

    /// Issues statements that give a role to a peer, as [`Node::issue`] does.
    pub(super) async fn admit<T: Send + 'static>(
        self: &Arc<Self>,
        role: Role,
        issue: impl FnOnce(&mut Roster, Issuer<'_>) -> Result<T, RosterError> + Send + 'static,
    ) -> Result<T, NodeError> {
        let node = Arc::clone(self);
        let shown = self.config.pool.call(move || node.shown(role)).await;
        let shown = shown.ok_or(NodeError::ShutDown)??;
        self.issue(move |roster, issuer| {
            let shown = &shown;
            issue(roster, Issuer { shown, ..issuer })
        })
        .await
    }

    /// Issues statements of this admin, stores them, and tells all peers.
    pub(super) async fn issue<T: Send + 'static>(
        self: &Arc<Self>,
        issue: impl FnOnce(&mut Roster, Issuer<'_>) -> Result<T, RosterError> + Send + 'static,
    ) -> Result<T, NodeError> {
        let node = Arc::clone(self);
        let work = move || {
            let issuer = Issuer {
                identity: &node.config.identity,
                stamp: node.hlc.tick(node.clock.wall_ms()),
                shown: &Vector::new(),
            };
            node.membership.issue(|roster| issue(roster, issuer))
        };
        let issued = self.config.pool.call(work).await;
        let (issued, change) = issued.ok_or(NodeError::ShutDown)??;
        self.roster_changed(change, None);
        Ok(issued)
    }
}

/// Returns the role that an invite gives to a peer.
///
/// A peer that was admitted by this invite, or is a member already, may ask again: its first answer
/// was lost, and it needs the keys.
fn granted(roster: &Roster, invite: InviteId, peer: PeerId, now_ms: u64) -> Result<Role, Refusal> {
    let role = match roster.invite_role(invite, now_ms) {
        Ok(role) => role,
        Err(RosterError::InviteUsed { by }) if by == peer => {
            return roster.role_of(&peer).ok_or(Refusal::Removed);
        }
        Err(error) => return Err(refusal_of(&error)),
    };
    Ok(roster.role_of(&peer).unwrap_or(role))
}

fn refusal_of(error: &RosterError) -> Refusal {
    match error {
        RosterError::InviteUnknown => Refusal::Invite(InviteRefusal::Unknown),
        RosterError::InviteUsed { .. } => Refusal::Invite(InviteRefusal::Used),
        RosterError::InviteExpired => Refusal::Invite(InviteRefusal::Expired),
        RosterError::InviteRevoked => Refusal::Invite(InviteRefusal::Revoked),
        RosterError::NotAdmin => Refusal::NotAdmin,
        _ => Refusal::NotAllowed,
    }
}
