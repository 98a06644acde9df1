//! Finding peers: signed node records, and lookups over sessions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Node;
use super::peers::Learned;
use super::roster::Roster;
use super::session::Session;
use super::sign_record;
use crate::base::PeerId;
use crate::base::limits::{K, RPC_TIMEOUT};
use crate::base::time::{sleep, timeout};
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::kad::{Contact, Key, Lookup, Next};
use crate::wire::limits::RECORDS_MAX;
use crate::wire::{NodeRecord, Request, Response, SignedRecord};

/// How often peers that are not connected are asked after.
const DISCOVER_EVERY: Duration = Duration::from_secs(15);

/// How often the own record is signed anew, so that its age tells whether a peer lives.
const RECORD_AGE_MAX_MS: u64 = 600_000;

/// Members that are asked after in one round.
const MISSING_MAX: usize = 3;

/// Age at which a bucket of the routing table is looked into again (an hour, as in the paper).
const REFRESH_AGE: Duration = Duration::from_secs(3600);

/// Addresses at which this peer was seen that are kept.
const OBSERVED_MAX: usize = 4;

/// Returns the record where it is what a member of the roster says of itself in this volume.
pub(super) fn verify(roster: &Roster, signed: SignedRecord) -> Option<(NodeRecord, SignedRecord)> {
    let record = NodeRecord::decode(&signed.record).ok()?;
    let member = roster.member(&record.peer)?;
    let identity = &member.identity;
    let holds = identity.verify(NodeRecord::DOMAIN, &signed.record, &signed.signature);
    (record.volume == roster.volume() && holds.is_ok()).then_some((record, signed))
}

/// Returns up to `n` of the peers closest to a key by XOR, closest first.
pub(super) fn closest(
    peers: impl Iterator<Item = PeerId>,
    key: &[u8; 32],
    n: usize,
) -> Vec<PeerId> {
    let mut peers: Vec<PeerId> = peers.collect();
    let distance = |peer: &PeerId| {
        let mut distance = peer.0;
        for (byte, key) in distance.iter_mut().zip(key) {
            *byte ^= key;
        }
        distance
    };
    peers.sort_by_cached_key(distance);
    peers.truncate(n);
    peers
}

impl Node {
    /// Signs what this peer tells of itself now.
    pub(super) fn sign_own_record(&self) {
        let addrs = self.addrs();
        let room = (self.capacity_bytes(), self.free_bytes());
        let mut own = self.own.lock();
        let signed_ms = self.clock.wall_ms().max(own.signed_ms + 1);
        own.signed = sign_record(&self.config, self.volume, &addrs, room, signed_ms);
        own.signed_ms = signed_ms;
    }

    /// Takes note of an address at which a peer sees this one; the others are told where it is new.
    pub(super) fn observed_at(self: &Arc<Self>, addr: std::net::SocketAddr) {
        if addr.ip().is_unspecified() || addr.port() == 0 {
            return;
        }
        let before = self.addrs();
        {
            let mut own = self.own.lock();
            own.observed.retain(|known| *known != addr);
            own.observed.insert(0, addr);
            own.observed.truncate(OBSERVED_MAX);
        }
        let mut after = self.addrs();
        after.retain(|addr| !before.contains(addr));
        if !after.is_empty() {
            self.sign_own_record();
            self.spread_own_record();
        }
    }

    /// Hands the own record to all peers with a session.
    pub(super) fn spread_own_record(self: &Arc<Self>) {
        let record = self.own.lock().signed.clone();
        for session in self.table.lock().sessions() {
            let request = Request::PutRecords {
                records: vec![record.clone()],
            };
            self.tasks.spawn(async move {
                // A peer that misses this hears it at the next hello.
                let _ = session.request(&request, Bytes::new(), RPC_TIMEOUT).await;
            });
        }
    }

    /// Takes over records of others; returns how many were not authentic.
    pub(super) fn learn_records(self: &Arc<Self>, records: Vec<SignedRecord>) -> usize {
        let roster = self.roster();
        let mut refused = 0;
        let mut addresses = false;
        let mut own_ms = 0;
        for signed in records.into_iter().take(RECORDS_MAX) {
            match verify(&roster, signed) {
                Some((record, _)) if record.peer == self.id => {
                    own_ms = own_ms.max(record.signed_ms);
                }
                Some((record, signed)) => {
                    let peer = record.peer;
                    let mut table = self.table.lock();
                    let learned = table.peers.entry(peer).or_default().learn(record, signed);
                    drop(table);
                    addresses |= learned == Learned::Address;
                }
                None => refused += 1,
            }
        }
        if addresses {
            self.dial_wake.notify_one();
        }
        self.outdate(own_ms);
        refused
    }

    /// Signs the own record anew where others have one that a clock dated which was ahead: they would keep
    /// that, and where this peer was then, until its time has come.
    fn outdate(self: &Arc<Self>, known_ms: u64) {
        {
            let mut own = self.own.lock();
            if known_ms <= own.signed_ms.max(self.clock.wall_ms()) {
                return;
            }
            own.signed_ms = known_ms;
        }
        self.sign_own_record();
        self.spread_own_record();
    }

    /// Returns the records of the peers closest to a key that this peer can vouch for.
    pub(super) fn records_near(&self, key: &[u8; 32]) -> Vec<SignedRecord> {
        let own = self.own.lock().signed.clone();
        let table = self.table.lock();
        let known = table.peers.iter().filter(|(_, peer)| peer.record.is_some());
        let known = known.map(|(id, _)| *id).chain([self.id]);
        closest(known, key, K)
            .into_iter()
            .filter_map(|id| match table.peers.get(&id) {
                Some(peer) => peer.record.as_ref().map(|(_, signed)| signed.clone()),
                None => Some(own.clone()),
            })
            .collect()
    }

    /// Asks a peer for the records of those closest to a key, and learns them.
    /// Returns `None` where the peer does not answer.
    pub(super) async fn find_node(
        self: &Arc<Self>,
        session: &Session,
        key: [u8; 32],
    ) -> Option<Vec<NodeRecord>> {
        let request = Request::FindNode { key };
        match session.request(&request, Bytes::new(), RPC_TIMEOUT).await {
            Ok((Response::Nodes { records }, _)) => {
                let named = records
                    .iter()
                    .map(|signed| NodeRecord::decode(&signed.record));
                let named = named.filter_map(Result::ok).collect();
                self.learn_records(records);
                Some(named)
            }
            _ => None,
        }
    }

    /// Finds the peers closest to a key that answer, closest first, at most [`K`]; this one is not
    /// among them. Peers without a session are dialled on the way, so that they have one then.
    pub async fn lookup(self: &Arc<Self>, key: [u8; 32]) -> Vec<Contact> {
        let mut lookup = {
            let routing = self.routing.lock();
            let target = Key::new(key);
            Lookup::new(self.id, target, routing.closest(&target, K))
        };
        let (answers, mut answered) = mpsc::channel(K);
        loop {
            let until = match lookup.next(self.now()) {
                Next::Done => break,
                Next::Ask(contact) => {
                    let (node, answers) = (Arc::clone(self), answers.clone());
                    self.tasks.spawn(async move {
                        let closer = node.ask_closer(&contact, key).await;
                        // The lookup may have ended without this answer.
                        let _ = answers.send((contact.peer, closer)).await;
                    });
                    continue;
                }
                Next::Wait { until } => until,
            };
            let patience = until.saturating_sub(self.now());
            match timeout(patience, answered.recv()).await {
                Ok(Some((peer, Some(closer)))) => lookup.on_success(&peer, closer),
                Ok(Some((peer, None))) => lookup.on_failure(&peer),
                Ok(None) => break,
                Err(_) => {}
            }
        }
        self.routing.lock().looked_up(&lookup.target(), self.now());
        lookup.closest()
    }

    /// Asks a contact for those closer to a key, over a session that is made where there is none;
    /// `None` where it does not answer.
    async fn ask_closer(
        self: &Arc<Self>,
        contact: &Contact,
        key: [u8; 32],
    ) -> Option<Vec<Contact>> {
        let session = self.session_with(contact.peer).await?;
        let records = self.find_node(&session, key).await?;
        let roster = self.roster();
        let members = records
            .into_iter()
            .filter(|record| roster.member(&record.peer).is_some());
        Some(
            members
                .map(|record| Contact::new(record.peer, record.addrs))
                .collect(),
        )
    }

    /// Returns the session with a peer, made now where there is none and an address is known.
    pub(super) async fn session_with(self: &Arc<Self>, peer: PeerId) -> Option<Arc<Session>> {
        if let Some(session) = self.table.lock().session(&peer) {
            return Some(session);
        }
        if peer == self.id || !self.table.lock().claim_dial(&peer, self.now()) {
            return None;
        }
        Arc::clone(self).dial_peer(peer).await;
        self.table.lock().session(&peer)
    }

    /// Now and then signs the own record anew, looks for members that are not connected, and
    /// refreshes what nobody has looked into for long.
    async fn discover(self: &Arc<Self>) {
        if self.clock.wall_ms() > self.own.lock().signed_ms + RECORD_AGE_MAX_MS {
            self.sign_own_record();
            self.spread_own_record();
        }
        let missing: Vec<PeerId> = {
            let table = self.table.lock();
            let missing = table
                .peers
                .iter()
                .filter(|(_, peer)| peer.session.is_none());
            missing.map(|(id, _)| *id).collect()
        };
        for _ in 0..MISSING_MAX.min(missing.len()) {
            let pick = usize::try_from(self.rng.below(missing.len() as u64)).unwrap_or(0);
            if let Some(peer) = missing.get(pick) {
                self.lookup(peer.0).await;
            }
        }
        let stale = self
            .routing
            .lock()
            .stale(self.now(), REFRESH_AGE)
            .first()
            .copied();
        if let Some(bucket) = stale {
            let key = self.routing.lock().refresh_key(bucket, &self.rng);
            self.lookup(*key.as_bytes()).await;
        }
    }
}

/// The worker that looks for members without a session, and keeps what is known of the others fresh.
pub(super) struct Discovery {
    node: Arc<Node>,
    /// False before the first pause: who is known is dialled first.
    is_due: bool,
}

impl Discovery {
    pub(super) fn new(node: &Arc<Node>) -> Self {
        Self {
            node: Arc::clone(node),
            is_due: false,
        }
    }
}

impl Worker for Discovery {
    fn job(&self) -> Job {
        Job::new("discover", "looks for the addresses of members")
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        if self.is_due {
            self.node.discover().await;
        }
        Ok(Step::Idle("the next round"))
    }

    async fn wait(&mut self) {
        sleep(DISCOVER_EVERY).await;
        self.is_due = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_peers_come_first() {
        let peers = [
            PeerId([0b100; 32]),
            PeerId([0b010; 32]),
            PeerId([0b001; 32]),
        ];
        let near = closest(peers.into_iter(), &[0b011; 32], 2);
        assert_eq!(near, [PeerId([0b010; 32]), PeerId([0b001; 32])]);
    }
}
