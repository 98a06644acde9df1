//! The new peer's side of joining: from a token to a place on the roster.
//!
//! The secret goes to nobody but an admin: the contacted peer shows the roster first, which must
//! begin with the genesis that the token's volume id names and lead by signatures to the very peer
//! that TLS has proved. It must hold the invite, and all that its issuer and those that made it an
//! admin had said before: so no removal can be left out that the issuer knew of. Whether the peer
//! is an admin is judged by what all contacted peers together know, and the issuer of the token is
//! preferred. Where a peer is no admin, it says where the admins are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::ask::connect;
use super::error::NodeError;
use super::hello::{CONTACTS_MAX, check_clock, refused, unanswered};
use super::membership;
use super::peers::Remembered;
use super::roster::{Role, Roster};
use super::session::{Session, ask};
use super::token::InviteToken;
use super::{Node, NodeConfig, discover, display_name};
use crate::base::limits::RPC_TIMEOUT;
use crate::base::task;
use crate::base::time::timeout;
use crate::base::{Clock, PeerId, VolumeId};
use crate::store::{Batch, Store, Table, codec};
use crate::transport::{Transport, canonical};
use crate::wire::bounded::BoundedBytes;
use crate::wire::{
    InviteRefusal, JoinInfo, NodeRecord, Redeem, Redeemed, Refusal, Request, Response,
    SignedRecord, StatementBytes,
};

/// Longest time that a join takes. Each step ends by itself where nothing comes; a large roster takes
/// as long as the line does.
pub(super) const JOIN_MAX: Duration = Duration::from_secs(600);

/// Most addresses that one join tries: the token's, the given ones, and the admins' that peers name.
const VISITS_MAX: usize = 64;

/// How long another admin that answers waits for the issuer of the token.
const ISSUER_PATIENCE: Duration = Duration::from_secs(1);

/// What a peer has when it has joined.
#[derive(Clone, PartialEq, Eq)]
pub struct Joined {
    /// The volume.
    pub volume: VolumeId,
    /// What the peer may do.
    pub role: Role,
    /// The volume keys, wrapped for this peer; `None` for a storage peer.
    pub wrapped_keys: Option<Vec<u8>>,
    /// What makes a store one of the volume.
    pub(super) rows: Batch,
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joined")
            .field("volume", &self.volume)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Redeems an invite at any admin that can be reached from `extra_peers` or the addresses in the
    /// token. Nothing is stored yet, see [`Joined::found`]; until then the same token may be redeemed
    /// again by the same peer.
    ///
    /// # Errors
    ///
    /// After as long as contacts may take, while no bytes come: [`NodeError::NoAddress`], [`NodeError::Unreachable`],
    /// [`NodeError::WrongInvite`], [`NodeError::UsedInvite`], [`NodeError::ExpiredInvite`],
    /// [`NodeError::OtherVolume`], [`NodeError::ClockSkew`], [`NodeError::BadRoster`],
    /// [`NodeError::NoAdmin`], [`NodeError::NoKeys`], [`NodeError::Removed`],
    /// [`NodeError::HasVolume`], and what else the contacted peers say.
    pub async fn join(
        transport: &Arc<dyn Transport>,
        config: &NodeConfig,
        store: &Store,
        clock: &Arc<dyn Clock>,
        token: &InviteToken,
        extra_peers: &[SocketAddr],
    ) -> Result<Joined, NodeError> {
        match Self::volume_of(store)? {
            Some(volume) if volume != token.volume => return Err(NodeError::HasVolume { volume }),
            _ => {}
        }
        let (results, incoming) = mpsc::channel(VISITS_MAX);
        let mut joiner = Joiner {
            transport,
            config,
            clock,
            token,
            roster: Roster::empty(token.volume),
            visited: BTreeMap::new(),
            waiting: 0,
            others: Vec::new(),
            results,
            incoming,
            redeeming: None,
            failure: None,
        };
        for addr in extra_peers.iter().chain(&token.addrs) {
            joiner.visit(*addr);
        }
        if joiner.visited.is_empty() {
            return Err(NodeError::NoAddress);
        }
        let Ok(Some(admitted)) = timeout(JOIN_MAX, joiner.run()).await else {
            return Err(joiner.verdict());
        };
        let roster = joiner.roster;
        let me = config.identity.id();
        let role = roster.role_of(&me).ok_or(NodeError::NotOnRoster)?;
        let Redeemed {
            records,
            wrapped_keys,
            ..
        } = admitted.redeemed;
        let mut rows = membership::rows_of(&roster);
        remember(&mut rows, &roster, records, admitted.admin, admitted.addr);
        Ok(Joined {
            volume: token.volume,
            role,
            wrapped_keys: wrapped_keys.map(|keys| keys.into_inner().to_vec()),
            rows,
        })
    }
}

impl Joined {
    /// Makes `store` a store of the volume; durable on return. `own` is what the owner keeps with it,
    /// the volume keys above all: both come with one commit, as a peer that has a volume and no keys
    /// would be none of it, and its invite is spent.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn found(self, store: &Store, own: Batch) -> Result<(), NodeError> {
        let mut rows = self.rows;
        rows.append(own);
        store.rows.commit(rows)?;
        Ok(store.rows.sync()?)
    }
}

/// One attempt to join.
struct Joiner<'a> {
    transport: &'a Arc<dyn Transport>,
    config: &'a NodeConfig,
    clock: &'a Arc<dyn Clock>,
    token: &'a InviteToken,
    /// What all contacted peers together know.
    roster: Roster,
    /// Addresses, and how often each was turned to.
    visited: BTreeMap<SocketAddr, u32>,
    /// Visits under way.
    waiting: usize,
    /// Admins that answer while the issuer of the token is still looked for, and until when.
    others: Vec<(SocketAddr, Contact, Duration)>,
    results: mpsc::Sender<(SocketAddr, Result<Contact, NodeError>)>,
    incoming: mpsc::Receiver<(SocketAddr, Result<Contact, NodeError>)>,
    /// The admin that has the secret, and has not answered: it may have admitted this peer.
    redeeming: Option<PeerId>,
    /// The most telling failure so far.
    failure: Option<NodeError>,
}

/// A peer of the volume that answers, its claim to be one verified.
struct Contact {
    session: Arc<Session>,
    roster: Roster,
    /// Records of admins, verified.
    admins: Vec<(NodeRecord, SignedRecord)>,
}

/// The end of a join.
struct Admitted {
    redeemed: Redeemed,
    admin: PeerId,
    addr: SocketAddr,
}

impl Joiner<'_> {
    /// Begins to ask whoever is at an address, unless that was done before.
    fn visit(&mut self, addr: SocketAddr) {
        let addr = canonical(addr);
        if self.visited.len() < VISITS_MAX && !self.visited.contains_key(&addr) {
            self.turn_to(addr);
        }
    }

    /// Turns to an address where somebody was there and gave no answer, unless that was done often.
    fn visit_again(&mut self, addr: SocketAddr) -> bool {
        let visits = self.visited.get(&canonical(addr)).copied();
        let is_due = visits.is_some_and(|visits| visits < CONTACTS_MAX);
        if is_due {
            self.turn_to(canonical(addr));
        }
        is_due
    }

    fn turn_to(&mut self, addr: SocketAddr) {
        *self.visited.entry(addr).or_default() += 1;
        self.waiting += 1;
        let (transport, clock) = (Arc::clone(self.transport), Arc::clone(self.clock));
        let (volume, results) = (self.token.volume, self.results.clone());
        task::spawn(async move {
            let visit = call(&transport, &clock, addr, volume);
            let result = tokio::select! {
                biased;
                () = results.closed() => return,
                result = visit => result,
            };
            // The joiner may have ended meanwhile.
            let _ = results.send((addr, result)).await;
        });
    }

    /// Takes the contacts as they come, until one admits this peer or none is left.
    async fn run(&mut self) -> Option<Admitted> {
        loop {
            let (addr, outcome) = match self.next().await? {
                (addr, Ok(contact)) => (addr, self.redeem_at(addr, contact).await),
                (addr, Err(error)) => (addr, Err(error)),
            };
            match outcome {
                Ok(admitted) => return Some(admitted),
                Err(NodeError::NoAnswer { .. }) if self.visit_again(addr) => {}
                Err(error) => {
                    let is_final = rank(&error) == FINAL;
                    self.failed(error);
                    if is_final {
                        return None;
                    }
                }
            }
        }
    }

    /// Returns the next admin at which to redeem, or the next failure; `None` where all is tried.
    async fn next(&mut self) -> Option<(SocketAddr, Result<Contact, NodeError>)> {
        loop {
            let patience = self.others.first().map(|(.., until)| *until);
            let patience = patience.map(|until| until.saturating_sub(self.clock.monotonic()));
            let came = match patience {
                _ if self.waiting == 0 => None,
                None => self.incoming.recv().await,
                Some(patience) => timeout(patience, self.incoming.recv()).await.ok().flatten(),
            };
            let Some((addr, result)) = came else {
                if self.others.is_empty() {
                    return None;
                }
                let (addr, contact, _) = self.others.remove(0);
                return Some((addr, Ok(contact)));
            };
            self.waiting -= 1;
            let contact = match result {
                Ok(contact) => contact,
                Err(error) => return Some((addr, Err(error))),
            };
            self.roster.merge_roster(&contact.roster);
            let peer = contact.session.peer();
            if contact.roster.role_of(&peer) != Some(Role::Admin) {
                contact.session.close("looking for an admin");
                for (record, _) in &contact.admins {
                    for addr in &record.addrs {
                        self.visit(*addr);
                    }
                }
                return Some((addr, Err(NodeError::NoAdmin)));
            }
            if peer == self.token.issuer {
                return Some((addr, Ok(contact)));
            }
            let until = self.clock.monotonic() + ISSUER_PATIENCE;
            self.others.push((addr, contact, until));
        }
    }

    /// Redeems the invite at a contact that is an admin by its own word.
    async fn redeem_at(
        &mut self,
        addr: SocketAddr,
        contact: Contact,
    ) -> Result<Admitted, NodeError> {
        let admin = contact.session.peer();
        // Others may have told of its removal.
        if self.roster.role_of(&admin) != Some(Role::Admin) {
            return Err(NodeError::NoAdmin);
        }
        let invite = self.token.secret.invite();
        if !contact.roster.vouches_for(invite, &self.token.issuer) {
            return Err(if contact.roster.has_invite(invite) {
                NodeError::PartialRoster { addr }
            } else {
                NodeError::WrongInvite
            });
        }
        let request = Request::Redeem(Redeem {
            volume: self.token.volume,
            secret: BoundedBytes::new(self.token.secret.0.to_vec())
                .ok_or(NodeError::WrongInvite)?,
            identity: self.config.identity.public(),
            name: display_name(&self.config.name),
        });
        self.redeeming = Some(admin);
        let session = contact.session;
        let answer = ask(&session, &request, Bytes::new(), RPC_TIMEOUT).await;
        session.close("done");
        if answer.is_ok() {
            self.redeeming = None;
        }
        match answer.map_err(|error| unanswered(&session, addr, error))?.0 {
            Response::Redeemed(redeemed) => {
                self.roster
                    .merge(redeemed.statements.iter().map(|statement| &statement[..]));
                Ok(Admitted {
                    redeemed,
                    admin,
                    addr,
                })
            }
            Response::Refused(refusal) => Err(match refusal {
                Refusal::Invite(InviteRefusal::Unknown) => NodeError::WrongInvite,
                Refusal::Invite(InviteRefusal::Used) => NodeError::UsedInvite,
                Refusal::Invite(InviteRefusal::Expired) => NodeError::ExpiredInvite,
                Refusal::Invite(InviteRefusal::Revoked) => NodeError::RevokedInvite,
                Refusal::NotAdmin => NodeError::NoAdmin,
                Refusal::NoKeys => NodeError::NoKeys,
                refusal => refused(addr, refusal),
            }),
            _ => Err(NodeError::Protocol { peer: admin }),
        }
    }

    /// Keeps the failure that tells the user most.
    fn failed(&mut self, error: NodeError) {
        if self
            .failure
            .as_ref()
            .is_none_or(|known| rank(&error) > rank(known))
        {
            self.failure = Some(error);
        }
    }

    fn verdict(&mut self) -> NodeError {
        match (self.failure.take(), self.redeeming) {
            (Some(error), _) if rank(&error) == FINAL => error,
            // The same token may be tried again with the same key, and with no other.
            (_, Some(peer)) => NodeError::NoAnswer { peer },
            (Some(error), None) if rank(&error) > 0 => error,
            _ => NodeError::Unreachable {
                addrs: self.visited.keys().copied().collect(),
            },
        }
    }
}

/// Rank of the failures that no other admin can undo.
const FINAL: u8 = 5;

/// Orders failures by how much they tell.
fn rank(error: &NodeError) -> u8 {
    match error {
        NodeError::UsedInvite
        | NodeError::ExpiredInvite
        | NodeError::RevokedInvite
        | NodeError::Removed => FINAL,
        // Another admin may have heard of an invite that this one has not.
        NodeError::WrongInvite | NodeError::NoKeys => 4,
        NodeError::NoAdmin => 3,
        NodeError::Unreachable { .. } | NodeError::NoAnswer { .. } => 0,
        NodeError::NotAPeer { .. } => 1,
        _ => 2,
    }
}

/// Asks whoever is at an address for the roster of the volume, and verifies it.
async fn call(
    transport: &Arc<dyn Transport>,
    clock: &Arc<dyn Clock>,
    addr: SocketAddr,
    volume: VolumeId,
) -> Result<Contact, NodeError> {
    let session = connect(transport, clock, addr).await?;
    let clock_ms = clock.wall_ms();
    let request = Request::Join { volume, clock_ms };
    let answer = ask(&session, &request, Bytes::new(), RPC_TIMEOUT).await;
    let info = match answer.map_err(|error| unanswered(&session, addr, error))?.0 {
        Response::Join(info) => info,
        Response::Refused(refusal) => return Err(refused(addr, refusal)),
        _ => {
            let peer = session.peer();
            return Err(NodeError::Protocol { peer });
        }
    };
    check_clock(clock.as_ref(), info.clock_ms).map_err(|refusal| refused(addr, refusal))?;
    let JoinInfo {
        statements,
        total,
        admins,
        ..
    } = info;
    let statements = rest_of_roster(&session, statements, total).await?;
    let mut roster = Roster::empty(volume);
    roster.merge(statements.iter().map(|statement| &statement[..]));
    if roster.member(&session.peer()).is_none() {
        return Err(NodeError::BadRoster { addr });
    }
    let admins = admins
        .into_iter()
        .filter_map(|signed| discover::verify(&roster, signed));
    let admins = admins.collect();
    Ok(Contact {
        session,
        roster,
        admins,
    })
}

/// Fetches the statements of a roster that did not fit the first message.
///
/// # Errors
///
/// [`NodeError::NoAnswer`].
pub(super) async fn rest_of_roster(
    session: &Session,
    mut statements: Vec<StatementBytes>,
    total: u32,
) -> Result<Vec<StatementBytes>, NodeError> {
    let total = (total as usize).min(super::roster::STATEMENTS_MAX);
    while statements.len() < total {
        let skip = u32::try_from(statements.len()).unwrap_or(u32::MAX);
        let request = Request::RosterPull { skip };
        match session.request(&request, Bytes::new(), RPC_TIMEOUT).await {
            Ok((
                Response::Roster {
                    statements: more, ..
                },
                _,
            )) if !more.is_empty() => {
                statements.extend(more);
            }
            Err(error @ NodeError::NoAnswer { .. }) => return Err(error),
            // What is here may do; if not, the verification says so.
            _ => break,
        }
    }
    Ok(statements)
}

/// Keeps where the volume's peers are for the first start: `contact` was met at `addr`.
pub(super) fn remember(
    batch: &mut Batch,
    roster: &Roster,
    records: Vec<SignedRecord>,
    contact: PeerId,
    addr: SocketAddr,
) {
    let mut met = false;
    let records = records.into_iter();
    for (record, signed) in records.filter_map(|signed| discover::verify(roster, signed)) {
        let mut addrs = record.addrs;
        if record.peer == contact {
            met = true;
            addrs.retain(|known| *known != addr);
            addrs.insert(0, addr);
        }
        put_peer(batch, record.peer, addrs, Some(signed));
    }
    if !met {
        put_peer(batch, contact, vec![addr], None);
    }
}

/// Keeps where a peer is for the first start.
pub(super) fn put_peer(
    batch: &mut Batch,
    peer: PeerId,
    addrs: Vec<SocketAddr>,
    record: Option<SignedRecord>,
) {
    let known = Remembered {
        addrs,
        record,
        ..Remembered::default()
    };
    batch.put(Table::Peers, peer.0, codec::encode(&known));
}
