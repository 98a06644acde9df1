//! The new peer's side of admission by asking: no invite, only the address of some member.
//!
//! Whoever answers there is not known, and is told a name and a public key. It tells the mark of a
//! volume; the four words that follow from that and from the own key stand on an admin's screen
//! only if this very key asks for that very volume. The roster that comes with the admission must
//! begin with the genesis of that volume, and hold keys that only this peer can unwrap.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::error::NodeError;
use super::hello::{CONTACTS_MAX, check_clock, not_a_peer, refused, unanswered};
use super::join::{remember, rest_of_roster};
use super::membership::rows_of;
use super::roster::{Role, Roster};
use super::session::{AskError, Session, ask};
use super::{Joined, Node, NodeConfig, display_name};
use crate::base::limits::{ASKING_MAX, RPC_TIMEOUT};
use crate::base::time::{sleep, timeout};
use crate::base::{Clock, PeerId, VolumeId};
use crate::crypto::spoken;
use crate::transport::{Transport, TransportError};
use crate::wire::{
    Asked, Asking, JoinInfo, Refusal, Request, Response, SignedAsking, SignedRecord, VolumeMark,
};

/// How long an answer may take: it is held back while nothing changes.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// Askings on one connection: a member serves a stranger so many requests and a few more.
const ASKINGS_OF_A_CONNECTION: usize = 48;

/// Pause before the addresses are tried again, once one of them has answered.
const AGAIN: Duration = Duration::from_secs(1);

/// That a peer answers, and what is to be shown while this one waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedAt {
    /// Where the peer is.
    pub addr: SocketAddr,
    /// What an admin types.
    pub code: String,
    /// What stands on the admin's screen, too.
    pub words: String,
}

/// That this peer was admitted: all that its store is to know.
#[derive(Debug, Clone)]
pub struct Admission {
    roster: Roster,
    role: Role,
    wrapped_keys: Option<Vec<u8>>,
    records: Vec<SignedRecord>,
    contact: PeerId,
    addr: SocketAddr,
}

impl Admission {
    /// Returns what the peer may do.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns what the peer has by it; nothing is stored yet, see [`Joined::found`].
    pub fn settle(self) -> Joined {
        let mut rows = rows_of(&self.roster);
        remember(
            &mut rows,
            &self.roster,
            self.records,
            self.contact,
            self.addr,
        );
        Joined {
            volume: self.roster.volume(),
            role: self.role,
            wrapped_keys: self.wrapped_keys,
            rows,
        }
    }
}

impl Node {
    /// Asks at `peers`, one after the other, to be admitted, and waits for the decision, for at
    /// most [`ASKING_MAX`]. `told` is called once, as soon as a peer answers. Nothing is stored.
    ///
    /// # Errors
    ///
    /// While nobody has answered yet, after one round: [`NodeError::Unreachable`] or what tells
    /// more; later [`NodeError::Denied`], [`NodeError::AskedTooLong`], [`NodeError::Removed`],
    /// [`NodeError::ClockSkew`], [`NodeError::Version`], [`NodeError::BadRoster`] where no address
    /// is left that says anything else.
    pub async fn ask(
        transport: &Arc<dyn Transport>,
        config: &NodeConfig,
        clock: &Arc<dyn Clock>,
        peers: &[SocketAddr],
        told: impl FnMut(AskedAt) + Send,
    ) -> Result<Admission, NodeError> {
        let mut asker = Asker {
            transport,
            config,
            clock,
            since_ms: clock.wall_ms(),
            volume: None,
            told,
        };
        let asked = timeout(ASKING_MAX, asker.run(peers)).await;
        asked.unwrap_or(Err(NodeError::AskedTooLong))
    }
}

struct Asker<'a, F> {
    transport: &'a Arc<dyn Transport>,
    config: &'a NodeConfig,
    clock: &'a Arc<dyn Clock>,
    since_ms: u64,
    /// The volume of the first peer that answered; others are asked for that one alone.
    volume: Option<VolumeMark>,
    told: F,
}

impl<F: FnMut(AskedAt) + Send> Asker<'_, F> {
    async fn run(&mut self, peers: &[SocketAddr]) -> Result<Admission, NodeError> {
        let mut left: Vec<SocketAddr> = peers.to_vec();
        let mut failure = NodeError::NoAddress;
        let mut rounds = 0;
        while !left.is_empty() {
            let mut is_silent = false;
            rounds += 1;
            for addr in left.clone() {
                match self.ask_at(addr).await {
                    Ok(admission) => return Ok(admission),
                    Err(error) => {
                        tracing::info!(%addr, %error, "asking led to nothing");
                        is_silent |= matches!(error, NodeError::NoAnswer { .. });
                        if !is_passing(&error) {
                            left.retain(|other| *other != addr);
                        }
                        if failure_rank(&error) >= failure_rank(&failure) {
                            failure = error;
                        }
                    }
                }
            }
            if self.volume.is_none() && !(is_silent && rounds < CONTACTS_MAX) {
                // Nobody answered: an address that is wrong is told at once.
                return Err(match failure {
                    NodeError::Unreachable { .. } | NodeError::NoAnswer { .. } => {
                        NodeError::Unreachable {
                            addrs: peers.to_vec(),
                        }
                    }
                    failure => failure,
                });
            }
            if !left.is_empty() {
                sleep(AGAIN).await;
            }
        }
        Err(failure)
    }

    /// Asks at one address until it is decided or the peer goes away.
    async fn ask_at(&mut self, addr: SocketAddr) -> Result<Admission, NodeError> {
        loop {
            let session = connect(self.transport, self.clock, addr).await?;
            self.knock(&session, addr).await?;
            for _ in 0..ASKINGS_OF_A_CONNECTION {
                let request = Request::Ask(self.word()?);
                match answer(&session, addr, &request, ANSWER_MAX).await? {
                    Response::Asked(Asked::Waiting) => {}
                    Response::Asked(Asked::Admitted(info)) => {
                        return self.admitted(&session, addr, info).await;
                    }
                    _ => {
                        let peer = session.peer();
                        return Err(NodeError::Protocol { peer });
                    }
                }
            }
            session.close("asking again");
        }
    }

    /// Learns the volume, and tells the owner what to show.
    async fn knock(&mut self, session: &Session, addr: SocketAddr) -> Result<(), NodeError> {
        let clock_ms = self.clock.wall_ms();
        let request = Request::Knock { clock_ms };
        let Response::Knocked { volume } = answer(session, addr, &request, RPC_TIMEOUT).await?
        else {
            let peer = session.peer();
            return Err(NodeError::Protocol { peer });
        };
        match self.volume {
            Some(known) if known != volume => return Err(NodeError::OtherVolume { addr }),
            Some(_) => {}
            None => {
                self.volume = Some(volume);
                let peer = self.config.identity.id();
                (self.told)(AskedAt {
                    addr,
                    code: spoken::peer_code(&peer),
                    words: spoken::four_words(&peer, &volume.0).join(" "),
                });
            }
        }
        Ok(())
    }

    /// Returns what this peer says of itself now.
    fn word(&self) -> Result<SignedAsking, NodeError> {
        let asking = Asking {
            volume: self.volume.ok_or(NodeError::NoAddress)?,
            identity: self.config.identity.public(),
            name: display_name(&self.config.name),
            since_ms: self.since_ms,
            clock_ms: self.clock.wall_ms(),
        };
        let bytes = asking.signed_bytes();
        let signature = self.config.identity.sign(Asking::DOMAIN, &bytes);
        Ok(SignedAsking { asking, signature })
    }

    /// Checks an admission: the roster is that of the volume, and holds keys for this peer.
    async fn admitted(
        &self,
        session: &Session,
        addr: SocketAddr,
        info: JoinInfo,
    ) -> Result<Admission, NodeError> {
        check_clock(self.clock.as_ref(), info.clock_ms)
            .map_err(|refusal| refused(addr, refusal))?;
        let bad = || NodeError::BadRoster { addr };
        let statements = rest_of_roster(session, info.statements, info.total).await?;
        session.close("done");
        let genesis = statements.first().ok_or_else(bad)?;
        let volume = VolumeId(blake3::hash(genesis).into());
        if self.volume != Some(VolumeMark::of(volume)) {
            return Err(bad());
        }
        let mut roster = Roster::empty(volume);
        roster.merge(statements.iter().map(|statement| &statement[..]));
        let identity = &self.config.identity;
        let me = identity.id();
        let role = roster.role_of(&me).ok_or_else(bad)?;
        // An admin that was removed meanwhile, or means harm, may have left something else.
        // All keys together are more than those of an epoch that began since.
        let opened = |wrapped: &[u8]| Some(identity.unwrap_key(wrapped).ok()?.len());
        let keys = roster
            .grants(&me)
            .filter(|wrapped| opened(wrapped).is_some());
        let keys = keys.max_by_key(|wrapped| opened(wrapped));
        let wrapped_keys = keys.map(<[u8]>::to_vec);
        if role.reads() && wrapped_keys.is_none() || roster.member(&session.peer()).is_none() {
            return Err(bad());
        }
        Ok(Admission {
            role,
            wrapped_keys,
            records: info.admins,
            contact: session.peer(),
            addr,
            roster,
        })
    }
}

/// Connects to an address, whoever is there.
pub(super) async fn connect(
    transport: &Arc<dyn Transport>,
    clock: &Arc<dyn Clock>,
    addr: SocketAddr,
) -> Result<Arc<Session>, NodeError> {
    let connected = transport.connect(addr).await;
    let connection = connected.map_err(|error| match error {
        TransportError::BadPeer { why, .. } => NodeError::NotAPeer { addr, why },
        error => not_a_peer(addr, AskError::Transport(error)),
    })?;
    Ok(Session::new(connection, Arc::clone(clock), true))
}

async fn answer(
    session: &Session,
    addr: SocketAddr,
    request: &Request,
    within: Duration,
) -> Result<Response, NodeError> {
    let answer = ask(session, request, Bytes::new(), within).await;
    match answer.map_err(|error| unanswered(session, addr, error))?.0 {
        Response::Refused(refusal) => Err(match refusal {
            Refusal::Denied => NodeError::Denied,
            Refusal::AskedTooLong => NodeError::AskedTooLong,
            Refusal::Busy => NodeError::Busy { addr },
            // What a release without this request says to it.
            Refusal::Malformed | Refusal::Unknown | Refusal::HelloFirst => NodeError::Version {
                addr,
                why: "it cannot pass an asking on: update it, or join with an invite".to_owned(),
            },
            refusal => refused(addr, refusal),
        }),
        response => Ok(response),
    }
}

/// Says whether an address is worth another try.
fn is_passing(error: &NodeError) -> bool {
    matches!(
        error,
        NodeError::Unreachable { .. }
            | NodeError::NoAnswer { .. }
            | NodeError::Busy { .. }
            | NodeError::NoAddress
    )
}

/// Orders failures by how much they tell of this machine.
fn failure_rank(error: &NodeError) -> u8 {
    match error {
        NodeError::Denied | NodeError::Removed => 5,
        NodeError::AskedTooLong => 4,
        NodeError::ClockSkew { .. } => 3,
        NodeError::NoAddress => 0,
        NodeError::Unreachable { .. } | NodeError::NoAnswer { .. } => 1,
        _ => 2,
    }
}
