//! Hellos: how a connection becomes a session, from either side.
//!
//! Between two peers there is one session. Where both dialled at one time, the connection of the
//! peer with the smaller id stays: while its own hello is on the way it refuses the other's as a
//! duplicate. A hello that comes later means that the other side has lost the session, so the newer
//! connection wins, except where the older one was dialled from here and still answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::error::NodeError;
use super::event::NodeEvent;
use super::membership::page;
use super::peers::Dial;
use super::pulse::Pulse;
use super::roster::Roster;
use super::session::{AskError, Session, ask};
use super::sync::Exchange;
use super::{Node, discover};
use crate::base::limits::{CLOCK_SKEW_MAX, RPC_TIMEOUT, STAMP_BEYOND_RECORD_MAX, STAMPS_BEGIN_MS};
use crate::base::{Clock, PeerId};
use crate::wire::{
    FEATURES, Hello, NodeRecord, Refusal, Request, Response, SignedRecord, StatementBytes,
    WireError,
};

/// How long the older of two sessions may take to show that it lives.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Sessions that a peer has at most; each costs a connection (37 KiB when idle) and three tasks.
const SESSIONS_MAX: usize = 256;

/// How often a first contact with an address is made where each time somebody was there and gave no
/// answer in time. On a long way a packet that is lost three times takes longer than a request may, and
/// a connection whose handshake did not come through never carries one: each contact is a new one.
pub(super) const CONTACTS_MAX: u32 = 4;

/// What is to be done with a hello from a peer.
enum Verdict {
    /// The session opens.
    Open,
    /// There is one already, or it is about to open.
    Duplicate,
    /// There is one already; whether it still lives is to be asked.
    Probe(Arc<Session>),
    /// There is room for no more sessions.
    Full,
}

impl Node {
    /// Answers the hello of a peer that dialled.
    pub(super) async fn greeted(
        self: &Arc<Self>,
        session: &Arc<Session>,
        hello: Hello,
    ) -> Response {
        let refuse = |refusal: Refusal| Response::Refused(refusal);
        if let Err(refusal) = self.check_hello(&hello) {
            self.note_refusal(&session.peer(), session.remote_addr(), &refusal);
            return refuse(refusal);
        }
        session.know_volume();
        let peer = session.peer();
        let roster = self.roster();
        if let Err(refusal) = check_member(&roster, &peer) {
            return refuse(refusal);
        }
        let Some((record, signed)) = own_word(&roster, peer, hello.record.clone()) else {
            session.strike(1);
            return refuse(Refusal::Malformed);
        };
        match self.judge(session, &hello) {
            Verdict::Open => {}
            Verdict::Duplicate => return refuse(Refusal::Duplicate),
            Verdict::Full => return refuse(Refusal::Busy),
            Verdict::Probe(older) => {
                let request = Request::Sync(self.sync_state());
                let answer = older.request(&request, Bytes::new(), PROBE_TIMEOUT).await;
                if answer.is_ok() {
                    return refuse(Refusal::Duplicate);
                }
            }
        }
        self.install(session, &hello, record, signed);
        Response::Hello(self.hello(session.remote_addr()))
    }

    /// Says hello on a connection that this side dialled; `Ok(None)` where a session stands
    /// already or is about to.
    pub(super) async fn greet(
        self: &Arc<Self>,
        session: &Arc<Session>,
        addr: SocketAddr,
    ) -> Result<Option<PeerId>, NodeError> {
        let peer = session.peer();
        // A hello names the volume, so it is for members alone.
        if self.roster().member(&peer).is_none() {
            self.introduce(session, addr).await?;
        }
        let mut pushed = false;
        let hello = loop {
            let request = Request::Hello(self.hello(session.remote_addr()));
            let answer = ask(session, &request, Bytes::new(), RPC_TIMEOUT).await;
            match answer.map_err(|error| not_a_peer(addr, error))?.0 {
                Response::Hello(hello) => break hello,
                Response::Refused(Refusal::Duplicate) => return Ok(None),
                // The peer may not have heard of this one's admission yet.
                Response::Refused(Refusal::NotOnRoster) if !pushed => {
                    pushed = true;
                    self.push_roster(session).await;
                }
                Response::Refused(refusal) => {
                    if refusal == Refusal::Removed {
                        // The word of one peer proves nothing: the statement of an admin does.
                        self.pull_roster(session).await;
                    }
                    return Err(self.refused_by(peer, addr, refusal));
                }
                _ => return Err(NodeError::Protocol { peer }),
            }
        };
        if let Err(refusal) = self.check_hello(&hello) {
            return Err(self.refused_by(peer, addr, refusal));
        }
        let roster = self.roster();
        let Some((record, signed)) = own_word(&roster, peer, hello.record.clone()) else {
            session.close("not on the roster");
            let why = "it is not a member of this volume".to_owned();
            return Err(NodeError::NotAPeer { addr, why });
        };
        self.install(session, &hello, record, signed);
        Ok(Some(peer))
    }

    /// Returns what this peer says first to one that is at `observed`.
    pub(super) fn hello(&self, observed: SocketAddr) -> Hello {
        Hello {
            volume: self.volume,
            incarnation: self.incarnation,
            clock_ms: self.clock.wall_ms(),
            roster_digest: self.roster().digest(),
            record: self.own.lock().signed.clone(),
            observed,
            vector: self.counting(self.log.offered()),
            features: FEATURES,
        }
    }

    /// Hands all roster statements to a peer whose session may not be open yet.
    pub(super) async fn push_roster(&self, session: &Session) {
        let roster = self.roster();
        let mut skip = 0;
        loop {
            let statements = page(&roster, skip);
            if statements.is_empty() {
                return;
            }
            skip += statements.len();
            let request = Request::RosterPush { statements };
            if session
                .request(&request, Bytes::new(), RPC_TIMEOUT)
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Takes over the roster statements of a peer whose session may not be open yet.
    pub(super) async fn pull_roster(self: &Arc<Self>, session: &Session) {
        let mut came: Vec<StatementBytes> = Vec::new();
        loop {
            let skip = u32::try_from(came.len()).unwrap_or(u32::MAX);
            let request = Request::RosterPull { skip };
            match session.request(&request, Bytes::new(), RPC_TIMEOUT).await {
                Ok((Response::Roster { statements, total }, _)) => {
                    let done = statements.is_empty();
                    came.extend(statements);
                    let limit = super::roster::STATEMENTS_MAX;
                    if done || came.len() >= limit.min(total as usize) {
                        break;
                    }
                }
                _ => break,
            }
        }
        self.merge_roster(came, Some(session)).await;
    }

    /// Puts an open session into the table, in the place of an older one, and starts its tasks.
    fn install(
        self: &Arc<Self>,
        session: &Arc<Session>,
        hello: &Hello,
        record: NodeRecord,
        signed: SignedRecord,
    ) {
        let id = session.peer();
        session.open(hello.incarnation);
        session.heard();
        let (older, came_up) = {
            let mut table = self.table.lock();
            let peer = table.peers.entry(id).or_default();
            peer.addrs.met_at(session.remote_addr());
            peer.learn(record, signed);
            peer.vector = hello.vector.clone();
            peer.clock_ahead_ms = self.ahead_ms(hello.clock_ms);
            peer.refusal = None;
            peer.dial = Dial::Idle;
            peer.dial_soon();
            peer.last_contact_ms = Some(self.clock.wall_ms());
            let older = peer.session.replace(Arc::clone(session));
            (older, !std::mem::replace(&mut peer.up, true))
        };
        self.routing_seen(&id);
        if came_up {
            // The network is there: who could not be reached may be there, too.
            self.dial_all_soon();
        }
        if let Some(older) = older {
            older.close("replaced by a newer session");
        }
        let (dialled, features) = (session.dialled, hello.features);
        tracing::debug!(peer = %id.short(), dialled, features, "session open");
        if came_up {
            self.emit(NodeEvent::PeerUp(id));
        }
        self.remember(&id);
        self.observed_at(hello.observed);
        self.employ(Pulse::new(self, session));
        self.employ(Exchange::new(self, session));
        self.tell_askings(session);
        let (node, session) = (Arc::clone(self), Arc::clone(session));
        self.tasks.spawn(async move {
            node.find_node(&session, node.id.0).await;
        });
    }

    /// Returns how far a clock that shows this time is ahead of the own one, milliseconds.
    pub(super) fn ahead_ms(&self, other_ms: u64) -> i64 {
        let own_ms = self.clock.wall_ms();
        let ahead = i64::try_from(other_ms.abs_diff(own_ms)).unwrap_or(i64::MAX);
        if other_ms < own_ms { -ahead } else { ahead }
    }

    fn check_hello(&self, hello: &Hello) -> Result<(), Refusal> {
        if hello.volume != self.volume {
            return Err(Refusal::WrongVolume);
        }
        check_session_clock(self.clock.as_ref(), hello.clock_ms)
    }

    fn judge(&self, session: &Session, hello: &Hello) -> Verdict {
        let mut table = self.table.lock();
        let sessions = table
            .peers
            .values()
            .filter(|peer| peer.session.is_some())
            .count();
        let peer = table.peers.entry(session.peer()).or_default();
        if peer.session.is_none() && sessions >= SESSIONS_MAX {
            return Verdict::Full;
        }
        if peer.dial == Dial::Greeting && self.id < session.peer() {
            return Verdict::Duplicate;
        }
        match &peer.session {
            Some(older) if older.dialled && older.incarnation() == Some(hello.incarnation) => {
                Verdict::Probe(Arc::clone(older))
            }
            _ => Verdict::Open,
        }
    }

    /// Takes note that a peer refuses this one, and returns the error for it.
    fn refused_by(&self, id: PeerId, addr: SocketAddr, refusal: Refusal) -> NodeError {
        self.note_refusal(&id, addr, &refusal);
        refused(addr, refusal)
    }

    /// Takes note that there is no session with a peer because one side refuses it.
    fn note_refusal(&self, id: &PeerId, addr: SocketAddr, refusal: &Refusal) {
        tracing::warn!(peer = %id.short(), %addr, "no session: {refusal}");
        if let Some(peer) = self.table.lock().peers.get_mut(id) {
            peer.refusal = Some(refusal.clone());
        }
        let refusal = refusal.clone();
        self.emit(NodeEvent::Refused { addr, refusal });
    }
}

/// Checks that a member's clock is not so far off that its changes would be waited for: one that is wrong by
/// less is told, and costs nothing but who keeps a name. A machine that has lost its clock shows a time before
/// any volume.
pub(super) fn check_session_clock(clock: &dyn Clock, other_ms: u64) -> Result<(), Refusal> {
    let own_ms = clock.wall_ms().max(STAMPS_BEGIN_MS);
    let skew_ms = own_ms.abs_diff(other_ms.max(STAMPS_BEGIN_MS));
    if u128::from(skew_ms) > STAMP_BEYOND_RECORD_MAX.as_millis() {
        return Err(Refusal::ClockSkew { skew_ms });
    }
    Ok(())
}

/// Checks that the clock of a machine that is to become a member is near enough for what has an end: invites
/// and askings.
pub(super) fn check_clock(clock: &dyn Clock, other_ms: u64) -> Result<(), Refusal> {
    let skew_ms = clock.wall_ms().abs_diff(other_ms);
    if u128::from(skew_ms) > CLOCK_SKEW_MAX.as_millis() {
        return Err(Refusal::ClockSkew { skew_ms });
    }
    Ok(())
}

/// Checks that a peer is a member.
pub(super) fn check_member(roster: &Roster, peer: &PeerId) -> Result<(), Refusal> {
    if roster.member(peer).is_some() {
        Ok(())
    } else if roster.former(peer).is_some() {
        Err(Refusal::Removed)
    } else {
        Err(Refusal::NotOnRoster)
    }
}

/// Returns a record where it is what `peer` says of itself.
fn own_word(
    roster: &Roster,
    peer: PeerId,
    signed: SignedRecord,
) -> Option<(NodeRecord, SignedRecord)> {
    discover::verify(roster, signed).filter(|(record, _)| record.peer == peer)
}

/// Returns the error for a refusal by whoever is at `addr`.
pub(super) fn refused(addr: SocketAddr, refusal: Refusal) -> NodeError {
    match refusal {
        Refusal::WrongVolume => NodeError::OtherVolume { addr },
        Refusal::ClockSkew { skew_ms } => NodeError::ClockSkew { addr, skew_ms },
        Refusal::NotOnRoster => NodeError::NotOnRoster,
        Refusal::Removed => NodeError::Removed,
        Refusal::TooNew { .. } | Refusal::Unknown => NodeError::Version {
            addr,
            why: refusal.to_string(),
        },
        _ => NodeError::NotAPeer {
            addr,
            why: refusal.to_string(),
        },
    }
}

/// Returns the error for a first contact whose request got no answer. Where that was lost on the way,
/// or the proof of this side was, the same may be asked once more: see [`CONTACTS_MAX`].
pub(super) fn unanswered(session: &Session, addr: SocketAddr, error: AskError) -> NodeError {
    match error {
        AskError::Transport(_) | AskError::TimedOut => NodeError::NoAnswer {
            peer: session.peer(),
        },
        AskError::Wire(_) => not_a_peer(addr, error),
    }
}

/// Returns the error for an address where a first request got no answer of the protocol.
pub(super) fn not_a_peer(addr: SocketAddr, error: AskError) -> NodeError {
    match error {
        AskError::Wire(error @ WireError::TooNew { .. }) => NodeError::Version {
            addr,
            why: error.to_string(),
        },
        AskError::Wire(error) => NodeError::NotAPeer {
            addr,
            why: error.to_string(),
        },
        AskError::Transport(_) | AskError::TimedOut => NodeError::Unreachable { addrs: vec![addr] },
    }
}
