//! The members' side of admission by asking: whoever is asked passes it on, an admin decides.
//!
//! The machine proves its key to the member that it asks and signs each word, so that those who
//! pass it on can only leave it out. The answer comes by the roster: the admission and the keys,
//! wrapped for the new member, are statements, and any member that has them hands them out. So the
//! admin and the machine need not be there at one time, nor know each other's address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::MutexGuard;
use tokio::sync::broadcast::error::RecvError;

use super::askings::{Askings, Taken, is_over};
use super::error::NodeError;
use super::event::NodeEvent;
use super::hello::{check_clock, check_member};
use super::roster::{Issuer, Member, Role, Roster, RosterError};
use super::session::Session;
use super::{Node, display_name};
use crate::base::PeerId;
use crate::base::limits::RPC_TIMEOUT;
use crate::base::time::timeout;
use crate::crypto::spoken;
use crate::wire::{
    Asked, Asking, Denial, PassedAsking, Refusal, Request, Response, SignedAsking, VolumeMark,
};

/// How long an asking is held before it is answered that nothing has changed.
const ASK_HOLD: Duration = Duration::from_secs(5);

/// A machine that asks to be admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskingInfo {
    /// Its id.
    pub peer: PeerId,
    /// The name that it gives itself.
    pub name: String,
    /// Where the member that it asks sees it.
    pub addr: SocketAddr,
    /// The member by which this peer heard of it; `None` where it asks here.
    pub via: Option<PeerId>,
    /// When it began to ask by its own clock, milliseconds since 1970.
    pub since_ms: u64,
    volume: VolumeMark,
}

impl AskingInfo {
    /// Returns the code that names it; takes some milliseconds.
    pub fn code(&self) -> String {
        spoken::peer_code(&self.peer)
    }

    /// Returns the words that stand on its screen, too, if it asks for this volume; takes some
    /// milliseconds.
    pub fn words(&self) -> String {
        spoken::four_words(&self.peer, &self.volume.0).join(" ")
    }
}

impl Node {
    /// Returns the machines that ask to be admitted, who has done so for longest first.
    pub fn askings(&self) -> Vec<AskingInfo> {
        let roster = self.roster();
        let askings = self.live_askings();
        askings
            .open()
            .filter(|open| !is_admitted(&roster, &open.peer()))
            .map(|open| AskingInfo {
                peer: open.peer(),
                name: display_name(&open.passed.signed.asking.name),
                addr: open.passed.addr,
                via: open.via,
                since_ms: open.passed.signed.asking.since_ms,
                volume: self.mark(),
            })
            .collect()
    }

    /// Admits a machine that asks, under the name that it gives itself or another one; durable on
    /// return, and told to all peers.
    ///
    /// # Errors
    ///
    /// [`NodeError::NotAsking`], [`RosterError::NotAdmin`], [`NodeError::NoKeys`], or the store's
    /// errors.
    pub async fn approve(
        self: &Arc<Self>,
        peer: PeerId,
        role: Role,
        name: Option<&str>,
    ) -> Result<Member, NodeError> {
        self.check_admin()?;
        let asking = {
            let askings = self.live_askings();
            let open = askings.get(&peer).ok_or(NodeError::NotAsking)?;
            open.passed.signed.asking.clone()
        };
        // Keys first: who gets none must not find itself a member that can read nothing.
        let wrapped = if role.reads() {
            let wrapper = self.wrapper.read();
            let wrapped = wrapper.as_ref().and_then(|wrap| wrap(&asking.identity));
            Some(wrapped.ok_or(NodeError::NoKeys)?)
        } else {
            None
        };
        let (identity, name) = (
            asking.identity,
            name.map_or_else(|| display_name(&asking.name), str::to_owned),
        );
        let admit = move |roster: &mut Roster, issuer: Issuer<'_>| {
            // A member that asks has lost the keys that it got by an invite.
            if roster.member(&peer).is_none() {
                roster.admit(issuer, &identity, role, &name, None)?;
            }
            if let Some(wrapped) = wrapped {
                roster.grant(issuer, peer, wrapped)?;
            }
            let admitted = roster.member(&peer).cloned();
            admitted.ok_or(RosterError::NotMember(peer))
        };
        let member = self.admit(role, admit).await?;
        self.askings.lock().forget(&peer);
        tracing::info!(peer = %peer.short(), role = %member.role, "a machine that asked was admitted");
        self.emit(NodeEvent::AskingsChanged);
        Ok(member)
    }

    /// Denies admission to a machine that asks, for as long as it may ask.
    ///
    /// # Errors
    ///
    /// [`NodeError::NotAsking`], [`RosterError::NotAdmin`].
    pub fn deny(self: &Arc<Self>, peer: PeerId) -> Result<(), NodeError> {
        self.check_admin()?;
        let mut denial = Denial {
            volume: self.mark(),
            peer,
            admin: self.id,
            denied_ms: self.clock.wall_ms(),
            signature: crate::crypto::Signature([0; 64]),
        };
        let signed = denial.signed_bytes();
        denial.signature = self.config.identity.sign(Denial::DOMAIN, &signed);
        {
            let mut askings = self.live_askings();
            if askings.get(&peer).is_none() {
                return Err(NodeError::NotAsking);
            }
            askings.deny(denial.clone());
        }
        tracing::info!(peer = %peer.short(), "a machine that asked was denied");
        self.emit(NodeEvent::AskingsChanged);
        self.pass_on(&[], &[denial], None);
        Ok(())
    }

    /// Tells a stranger of which volume this peer is, without naming it.
    pub(super) fn answer_knock(&self, session: &Session, clock_ms: u64) -> Response {
        if !session.takes_favour() {
            return Response::Refused(Refusal::Busy);
        }
        match check_clock(self.clock.as_ref(), clock_ms) {
            Ok(()) => Response::Knocked {
                volume: self.mark(),
            },
            Err(refusal) => Response::Refused(refusal),
        }
    }

    /// Answers a machine that asks to be admitted: as soon as it is decided, else after a while.
    pub(super) async fn answer_ask(
        self: &Arc<Self>,
        session: &Arc<Session>,
        signed: SignedAsking,
    ) -> Response {
        match self.asked(session, signed).await {
            Ok(asked) => Response::Asked(asked),
            Err(refusal) => {
                if refusal == Refusal::Malformed {
                    self.strike(session, 1);
                }
                Response::Refused(refusal)
            }
        }
    }

    async fn asked(
        self: &Arc<Self>,
        session: &Arc<Session>,
        signed: SignedAsking,
    ) -> Result<Asked, Refusal> {
        let peer = session.peer();
        if !session.takes_favour() {
            return Err(Refusal::Busy);
        }
        if signed.asking.identity.id() != peer {
            return Err(Refusal::Malformed);
        }
        self.check_asking(&signed.asking)?;
        let mut events = self.subscribe();
        if let Some(decided) = self.decided(session) {
            return decided;
        }
        let mut held = self.verified(vec![signed]).await.ok_or(Refusal::Busy)?;
        let signed = held.pop().ok_or(Refusal::Malformed)?;
        let addr = session.remote_addr();
        match self.take_asking(PassedAsking { signed, addr }, None) {
            Taken::Full => return Err(Refusal::Busy),
            Taken::New => tracing::info!(peer = %peer.short(), %addr, "asks to be admitted"),
            Taken::Refreshed | Taken::Old => {}
        }
        let decided = async {
            loop {
                match events.recv().await {
                    Ok(NodeEvent::RosterChanged | NodeEvent::AskingsChanged)
                    | Err(RecvError::Lagged(_)) => {
                        if let Some(decided) = self.decided(session) {
                            return decided;
                        }
                    }
                    Ok(_) => {}
                    Err(RecvError::Closed) => return Err(Refusal::Busy),
                }
            }
        };
        timeout(ASK_HOLD, decided)
            .await
            .unwrap_or(Ok(Asked::Waiting))
    }

    /// Takes over what a member says of machines that ask, and passes on what is new.
    pub(super) async fn take_askings(
        self: &Arc<Self>,
        session: &Arc<Session>,
        askings: Vec<PassedAsking>,
        denials: Vec<Denial>,
    ) {
        let from = Some(session.peer());
        let fresh = askings
            .into_iter()
            .filter(|passed| self.check_asking(&passed.signed.asking).is_ok());
        let (addrs, signed): (Vec<_>, Vec<_>) = fresh
            .map(|passed| ((passed.signed.signature, passed.addr), passed.signed))
            .unzip();
        let came = signed.len();
        let verified = self.verified(signed).await.unwrap_or_default();
        let mut is_forged = verified.len() < came;
        let mut news = Vec::new();
        for signed in verified {
            let addr = addrs.iter().find(|(of, _)| *of == signed.signature);
            let Some((_, addr)) = addr.copied() else {
                continue;
            };
            let passed = PassedAsking { signed, addr };
            // `take_asking` tells the others but one: who told it.
            self.take_asking(passed, from);
        }
        let roster = self.roster();
        for denial in denials {
            if denial.volume != self.mark() || is_over(denial.denied_ms, self.clock.wall_ms()) {
                continue;
            }
            let admin = roster.member(&denial.admin);
            let holds = admin.is_some_and(|admin| {
                let bytes = denial.signed_bytes();
                let signed = admin
                    .identity
                    .verify(Denial::DOMAIN, &bytes, &denial.signature);
                admin.role == Role::Admin && signed.is_ok()
            });
            // The admin may be one that this peer has not heard of, or that was removed.
            is_forged |= admin.is_some() && !holds;
            if holds && self.askings.lock().deny(denial.clone()) {
                news.push(denial);
            }
        }
        if is_forged {
            self.strike(session, 1);
        }
        if !news.is_empty() {
            self.emit(NodeEvent::AskingsChanged);
            self.pass_on(&[], &news, from);
        }
    }

    /// Tells a peer with which a session has just opened who asks and who was denied.
    pub(super) fn tell_askings(self: &Arc<Self>, session: &Arc<Session>) {
        let (askings, denials) = {
            let askings = self.live_askings();
            let open: Vec<_> = askings.open().map(|open| open.passed.clone()).collect();
            let denials: Vec<_> = askings.denials().cloned().collect();
            (open, denials)
        };
        if !askings.is_empty() || !denials.is_empty() {
            self.hand_over(session, askings, denials);
        }
    }

    /// Says whether a machine asks here and waits for the answer.
    pub(super) fn asks_here(&self, peer: &PeerId) -> bool {
        let askings = self.live_askings();
        askings.get(peer).is_some_and(|open| open.via.is_none())
    }

    /// Returns the table, without those whose time is over.
    fn live_askings(&self) -> MutexGuard<'_, Askings> {
        let mut askings = self.askings.lock();
        askings.expire(self.now(), self.clock.wall_ms());
        askings
    }

    fn mark(&self) -> VolumeMark {
        VolumeMark::of(self.volume)
    }

    fn check_admin(&self) -> Result<(), RosterError> {
        match self.role() {
            Some(Role::Admin) => Ok(()),
            _ => Err(RosterError::NotAdmin),
        }
    }

    /// Checks what costs nothing.
    fn check_asking(&self, asking: &Asking) -> Result<(), Refusal> {
        if asking.volume != self.mark() {
            return Err(Refusal::WrongVolume);
        }
        check_clock(self.clock.as_ref(), asking.clock_ms)?;
        if is_over(asking.since_ms, self.clock.wall_ms()) {
            return Err(Refusal::AskedTooLong);
        }
        Ok(())
    }

    /// Returns those whose keys and signatures hold; `None` where they cannot be checked now.
    async fn verified(self: &Arc<Self>, askings: Vec<SignedAsking>) -> Option<Vec<SignedAsking>> {
        if askings.is_empty() {
            return Some(askings);
        }
        let node = Arc::clone(self);
        let check = move || {
            let holds = |signed: &SignedAsking| {
                let identity = &signed.asking.identity;
                let is_known = {
                    let askings = node.askings.lock();
                    let open = askings.get(&identity.id());
                    open.is_some_and(|open| open.passed.signed.asking.identity == *identity)
                };
                let bytes = signed.asking.signed_bytes();
                let verified = identity.verify(Asking::DOMAIN, &bytes, &signed.signature);
                verified.is_ok() && (is_known || identity.check().is_ok())
            };
            askings.into_iter().filter(holds).collect()
        };
        self.config.pool.call(check).await
    }

    /// Takes a verified asking into the table, and passes it on where others have to hear it.
    fn take_asking(self: &Arc<Self>, passed: PassedAsking, via: Option<PeerId>) -> Taken {
        let taken = {
            let mut askings = self.live_askings();
            let peer = passed.signed.asking.identity.id();
            if askings.is_denied(&peer) {
                return Taken::Old;
            }
            askings.take(passed.clone(), via, self.now())
        };
        match taken {
            Taken::New => self.emit(NodeEvent::AskingsChanged),
            Taken::Refreshed => {}
            Taken::Old | Taken::Full => return taken,
        }
        self.pass_on(&[passed], &[], via);
        taken
    }

    fn pass_on(
        self: &Arc<Self>,
        askings: &[PassedAsking],
        denials: &[Denial],
        except: Option<PeerId>,
    ) {
        let sessions = self.table.lock().sessions();
        let others = sessions
            .iter()
            .filter(|session| Some(session.peer()) != except);
        for session in others {
            self.hand_over(session, askings.to_vec(), denials.to_vec());
        }
    }

    fn hand_over(&self, session: &Arc<Session>, askings: Vec<PassedAsking>, denials: Vec<Denial>) {
        let session = Arc::clone(session);
        self.tasks.spawn(async move {
            let request = Request::Askings { askings, denials };
            // Who misses this hears it with the machine's next word, or at the next hello.
            let _ = session.request(&request, Bytes::new(), RPC_TIMEOUT).await;
        });
    }

    /// Returns what became of the asking of a session's peer; `None` where nothing has yet.
    fn decided(&self, session: &Session) -> Option<Result<Asked, Refusal>> {
        let peer = session.peer();
        let roster = self.roster();
        match check_member(&roster, &peer) {
            Ok(()) if is_admitted(&roster, &peer) => {
                session.know_volume();
                let info = self.join_info(&roster, self.records_near(&peer.0));
                Some(Ok(Asked::Admitted(info)))
            }
            Err(Refusal::Removed) => Some(Err(Refusal::Removed)),
            _ if self.live_askings().is_denied(&peer) => Some(Err(Refusal::Denied)),
            _ => None,
        }
    }
}

/// Says whether a peer has all that it needs: a place on the roster and, where its role reads, keys.
fn is_admitted(roster: &Roster, peer: &PeerId) -> bool {
    let has_keys = roster.grants(peer).next().is_some();
    let role = roster.role_of(peer);
    role.is_some_and(|role| has_keys || !role.reads())
}
