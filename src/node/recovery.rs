//! Entering a volume with a recovery phrase, from either side.
//!
//! The phrase goes to nobody. Whoever is asked gets a secret that follows from it and names the
//! identity that it opens; the answer is the roster, with that identity sealed in it. What opens for
//! the phrase and the volume of that roster was sealed by who knew the phrase, so a false roster is
//! found out here. The rest needs no network: the identity behind the phrase admits this peer.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::ask::connect;
use super::error::NodeError;
use super::hello::{CONTACTS_MAX, check_clock, refused, unanswered};
use super::join::{JOIN_MAX, Joined, put_peer, rest_of_roster};
use super::membership::rows_of;
use super::roster::{Issuer, RecoveryId, Role, Roster};
use super::session::{Session, ask};
use super::{Node, NodeConfig, display_name};
use crate::base::limits::RPC_TIMEOUT;
use crate::base::time::timeout;
use crate::base::{Clock, Rng, Stamp, VolumeId};
use crate::crypto::{Identity, RecoveryPhrase};
use crate::store::Store;
use crate::transport::Transport;
use crate::wire::{JoinInfo, RecoveryRefusal, Refusal, Request, Response, Vector};

/// Offence of naming a phrase that is not known: guesses are hopeless, but cost this peer a hash.
const GUESS_WEIGHT: u32 = 4;

impl Node {
    /// Enters the volume of a recovery phrase through any of `peers`, as an admin; nothing is stored
    /// yet, see [`Joined::found`]. May be done again by the same peer, as often as one likes.
    ///
    /// # Errors
    ///
    /// After as long as contacts may take, while no bytes come: [`NodeError::NoAddress`], [`NodeError::Unreachable`],
    /// [`NodeError::UnknownPhrase`], [`NodeError::EndedPhrase`], [`NodeError::BadRoster`],
    /// [`NodeError::NoKeys`], [`NodeError::HasVolume`], and what else the peers say.
    pub async fn recover(
        transport: &Arc<dyn Transport>,
        config: &NodeConfig,
        store: &Store,
        clock: &Arc<dyn Clock>,
        rng: &Rng,
        phrase: &RecoveryPhrase,
        peers: &[SocketAddr],
    ) -> Result<Joined, NodeError> {
        let mut failure = NodeError::NoAddress;
        for addr in peers {
            let called = timeout(JOIN_MAX, call_at(transport, clock, *addr, phrase)).await;
            let called =
                called.unwrap_or_else(|_| Err(NodeError::Unreachable { addrs: vec![*addr] }));
            match called.and_then(|roster| enter(roster, *addr, config, clock, rng, phrase)) {
                Ok(joined) => {
                    return match Self::volume_of(store)? {
                        Some(volume) if volume != joined.volume => {
                            Err(NodeError::HasVolume { volume })
                        }
                        _ => Ok(joined),
                    };
                }
                // One that answers says more than one that does not.
                Err(NodeError::Unreachable { .. }) if !matches!(failure, NodeError::NoAddress) => {}
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Answers who names a recovery phrase of the volume with the roster.
    pub(super) async fn answer_recover(
        self: &Arc<Self>,
        session: &Session,
        secret: &[u8; 32],
        clock_ms: u64,
    ) -> Response {
        let roster = self.roster();
        let lookup = RecoveryId::of_secret(secret);
        let refusal = if roster.recovery(lookup).is_some() {
            let node = Arc::clone(self);
            let shown = self.config.pool.call(move || node.shown(Role::Admin)).await;
            let Some(Ok(shown)) = shown else {
                return Response::Refused(Refusal::Busy);
            };
            return match self.answer_join(session, self.volume, clock_ms) {
                Response::Join(info) => Response::Join(JoinInfo { shown, ..info }),
                refused => refused,
            };
        } else if roster.was_recovery(lookup) {
            RecoveryRefusal::Ended
        } else {
            self.strike(session, GUESS_WEIGHT);
            RecoveryRefusal::Unknown
        };
        Response::Refused(Refusal::Recovery(refusal))
    }
}

/// A roster, and who showed it.
struct Shown {
    roster: Roster,
    peer: crate::base::PeerId,
    /// What that peer had folded.
    folded: Vector,
}

/// Asks whoever is at an address, again where no answer comes, for the roster of the volume of a phrase.
async fn call_at(
    transport: &Arc<dyn Transport>,
    clock: &Arc<dyn Clock>,
    addr: SocketAddr,
    phrase: &RecoveryPhrase,
) -> Result<Shown, NodeError> {
    for _ in 0..CONTACTS_MAX {
        match call(transport, clock, addr, phrase).await {
            Err(NodeError::NoAnswer { .. }) => {}
            called => return called,
        }
    }
    Err(NodeError::Unreachable { addrs: vec![addr] })
}

/// Asks whoever is at an address once.
async fn call(
    transport: &Arc<dyn Transport>,
    clock: &Arc<dyn Clock>,
    addr: SocketAddr,
    phrase: &RecoveryPhrase,
) -> Result<Shown, NodeError> {
    let session = connect(transport, clock, addr).await?;
    let request = Request::Recover {
        secret: phrase.lookup_secret(),
        clock_ms: clock.wall_ms(),
    };
    let answer = ask(&session, &request, Bytes::new(), RPC_TIMEOUT).await;
    let JoinInfo {
        statements,
        total,
        clock_ms,
        shown,
        ..
    } = match answer.map_err(|error| unanswered(&session, addr, error))?.0 {
        Response::Join(info) => info,
        Response::Refused(Refusal::Recovery(RecoveryRefusal::Unknown)) => {
            return Err(NodeError::UnknownPhrase { addr });
        }
        Response::Refused(Refusal::Recovery(RecoveryRefusal::Ended)) => {
            return Err(NodeError::EndedPhrase);
        }
        Response::Refused(refusal) => return Err(refused(addr, refusal)),
        _ => {
            let peer = session.peer();
            return Err(NodeError::Protocol { peer });
        }
    };
    check_clock(clock.as_ref(), clock_ms).map_err(|refusal| refused(addr, refusal))?;
    let statements = rest_of_roster(&session, statements, total).await?;
    // The volume is the one of the genesis, whichever that is: the phrase tells whether it is right.
    let genesis = statements.first().ok_or(NodeError::BadRoster { addr })?;
    let mut roster = Roster::empty(VolumeId(blake3::hash(genesis).into()));
    roster.merge(statements.iter().map(|statement| &statement[..]));
    let peer = session.peer();
    session.close("done");
    Ok(Shown {
        roster,
        peer,
        folded: shown,
    })
}

/// Acts as the admin behind a phrase: admits this peer to the volume of a roster.
fn enter(
    shown: Shown,
    addr: SocketAddr,
    config: &NodeConfig,
    clock: &Arc<dyn Clock>,
    rng: &Rng,
    phrase: &RecoveryPhrase,
) -> Result<Joined, NodeError> {
    let Shown {
        mut roster,
        peer,
        folded,
    } = shown;
    let lookup = RecoveryId::of_secret(&phrase.lookup_secret());
    let bad = NodeError::BadRoster { addr };
    let Some((public, sealed)) = roster.recovery(lookup) else {
        return Err(bad);
    };
    let volume = roster.volume();
    let opened = phrase.open(volume, sealed);
    let Ok(identity) = opened.and_then(|identity| same(identity, public)) else {
        return Err(bad);
    };
    let behind = identity.id();
    let opened: Vec<_> = roster
        .grants(&behind)
        .filter_map(|wrapped| identity.unwrap_key(wrapped).ok())
        .collect();
    // All that there were then, and an epoch each time that one began since.
    let keys = opened.iter().max_by_key(|keys| keys.len());
    let keys = keys.ok_or(NodeError::NoKeys)?;
    let own = config.identity.public();
    let wrapped_keys = own.wrap_key(rng, keys)?;
    let later = opened.iter().filter(|epoch| epoch.len() < keys.len());
    let issuer = Issuer {
        identity: &identity,
        stamp: Stamp::from_ms(clock.wall_ms()),
        shown: &folded,
    };
    match roster.role_of(&own.id()) {
        Some(Role::Admin) => {}
        Some(_) => {
            roster.set_role(issuer, &own.id(), Role::Admin)?;
        }
        None => {
            let name = display_name(&config.name);
            roster.admit(issuer, &own, Role::Admin, &name, None)?;
        }
    }
    for epoch in later {
        roster.grant(issuer, own.id(), own.wrap_key(rng, epoch)?)?;
    }
    let mut rows = rows_of(&roster);
    put_peer(&mut rows, peer, vec![addr], None);
    Ok(Joined {
        volume,
        role: Role::Admin,
        wrapped_keys: Some(wrapped_keys),
        rows,
    })
}

/// Returns an identity where it is the one that a statement names.
fn same(
    identity: Identity,
    public: &crate::crypto::PublicIdentity,
) -> crate::crypto::Result<Identity> {
    if identity.public() == *public {
        Ok(identity)
    } else {
        Err(crate::crypto::CryptoError::Unauthentic)
    }
}
