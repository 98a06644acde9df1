//! Dialling: peers without a session, with growing pauses, until they are there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::Node;
use super::error::NodeError;
use super::event::NodeEvent;
use super::hello::not_a_peer;
use super::moves::Watch;
use super::peers::{DEAD_AFTER, Dial, SUSPECT_AFTER};
use super::session::{AskError, Session};
use crate::base::PeerId;
use crate::base::limits::K;
use crate::base::time::sleep;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::transport::{Connection, TransportError};

/// How often silence and due dials are looked for.
const TICK: Duration = Duration::from_millis(500);

/// Dials that are begun in one tick; the rest follows in the next.
const DIALS_MAX: usize = 16;

/// Sessions up to which every known member is dialled: a small swarm is fully connected.
pub(super) const SESSIONS_TARGET: usize = 32;

/// Addresses of a peer that one dial tries, side by side.
const ADDRS_TRIED_MAX: usize = 8;

/// Addresses that one dial tries in all, where its name leads to others meanwhile.
const ADDRS_IN_ALL_MAX: usize = 2 * ADDRS_TRIED_MAX;

/// How long one address may take before the next is tried too (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// How often a name is looked up again while where it led does not answer: that takes most of the
/// ten seconds after which a peer that can be reached is to be found.
const LOOK_UP_EVERY: Duration = Duration::from_secs(2);

/// The worker that dials what is due, and gives up sessions whose peers are silent.
pub(super) struct Dialler {
    node: Arc<Node>,
    watch: Watch,
}

impl Dialler {
    pub(super) fn new(node: &Arc<Node>) -> Self {
        Self {
            node: Arc::clone(node),
            watch: node.watch(),
        }
    }
}

impl Worker for Dialler {
    fn job(&self) -> Job {
        Job::new("dial", "dials peers, and gives up those that are silent")
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        self.node.watch_silence();
        self.node.forgive();
        self.node.look_around(&mut self.watch);
        self.node.dial_due();
        Ok(Step::Idle("peers to dial"))
    }

    async fn wait(&mut self) {
        tokio::select! {
            biased;
            () = self.node.dial_wake.notified() => {}
            () = sleep(TICK) => {}
        }
    }
}

impl Node {
    /// Turns to whoever is at an address now, and returns who is there once a session stands.
    ///
    /// # Errors
    ///
    /// After as long as a dial may take, which ends by itself, the reason in this room's words: [`NodeError::Unreachable`],
    /// [`NodeError::OtherVolume`], [`NodeError::ClockSkew`], [`NodeError::NotOnRoster`],
    /// [`NodeError::Removed`], [`NodeError::Version`], [`NodeError::NotAPeer`].
    pub async fn contact(self: &Arc<Self>, addr: SocketAddr) -> Result<PeerId, NodeError> {
        let node = Arc::clone(self);
        let (sender, met) = oneshot::channel();
        // A task of its own: who waits no longer leaves no dial half done, which would keep the peer
        // from being dialled, and from getting in where it dials.
        self.tasks.spawn(async move {
            // Nobody may wait any more.
            let _ = sender.send(node.meet(addr, None).await);
        });
        met.await.unwrap_or(Err(NodeError::ShutDown))
    }

    fn dial_due(self: &Arc<Self>) {
        let now = self.now();
        let mut table = self.table.lock();
        let seeds = table.due_seeds(now);
        for host in seeds.into_iter().take(DIALS_MAX) {
            if let Some(seed) = table.seeds.get_mut(&host) {
                seed.dialling = true;
                self.tasks.spawn(Arc::clone(self).dial_seed(host));
            }
        }
        let sessions = table
            .peers
            .values()
            .filter(|peer| !peer.wants_session())
            .count();
        let room = SESSIONS_TARGET.saturating_sub(sessions).min(DIALS_MAX);
        if room == 0 {
            return;
        }
        let due = table.peers.iter().filter(|(_, peer)| peer.is_due(now));
        let due: Vec<PeerId> = due.map(|(id, _)| *id).collect();
        for id in self.preferred(due).into_iter().take(room) {
            if table.claim_dial(&id, now) {
                self.tasks.spawn(Arc::clone(self).dial_peer(id));
            }
        }
    }

    /// Orders peers by how much this one wants a session with them, where it cannot have one with
    /// all: first its neighbours in the space of keys, so that lookups end; then the others in an
    /// order of its own, so that the sessions of all peers together connect everybody.
    fn preferred(&self, peers: Vec<PeerId>) -> Vec<PeerId> {
        let near = self.closest(&self.id.0, K + 1);
        let mut order: Vec<(bool, [u8; 32], PeerId)> = Vec::with_capacity(peers.len());
        for peer in peers {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&self.id.0).update(&peer.0);
            order.push((!near.contains(&peer), *hasher.finalize().as_bytes(), peer));
        }
        order.sort_unstable();
        order.into_iter().map(|(_, _, peer)| peer).collect()
    }

    async fn dial_seed(self: Arc<Self>, host: String) {
        let mut addrs = self.config.machine.resolve(&host).await;
        addrs.truncate(ADDRS_TRIED_MAX);
        if let Some(seed) = self.table.lock().seeds.get_mut(&host) {
            seed.addrs.clone_from(&addrs);
        }
        let met = self.meet_any(addrs, None, Some(&host)).await;
        let now = self.now();
        let mut table = self.table.lock();
        let pause_max = table.pause_max();
        let Some(seed) = table.seeds.get_mut(&host) else {
            return;
        };
        seed.dialling = false;
        match met {
            // Whom another name leads to, too; where it is this peer itself, the name may move on.
            Some(peer) if peer != self.id => {
                seed.found = Some(peer);
                seed.backoff.reset();
            }
            Some(_) | None => {
                tracing::debug!(%host, "a seed leads to no session");
                seed.backoff.failed(now, pause_max, &self.rng);
            }
        }
    }

    /// Dials a peer that was claimed, at its likeliest addresses.
    pub(super) async fn dial_peer(self: Arc<Self>, id: PeerId) {
        let (addrs, number) = {
            let table = self.table.lock();
            let known = table.peers.get(&id);
            known.map_or_else(Default::default, |peer| {
                (peer.addrs.to_dial(ADDRS_TRIED_MAX), peer.dials)
            })
        };
        let met = self.meet_any(addrs, Some(id), None).await.is_some();
        let now = self.now();
        {
            let mut table = self.table.lock();
            let pause_max = table.pause_max();
            if let Some(peer) = table.peers.get_mut(&id)
                && peer.dials == number
            {
                if met {
                    peer.dial = Dial::Idle;
                }
                if peer.wants_session() {
                    // Where both dialled at one time, the other's connection is about to open.
                    peer.dial_failed(now, pause_max, &self.rng);
                }
            }
        }
        if !met {
            self.routing.lock().failed(&id);
        }
    }

    /// Turns to the first of several addresses that leads to a peer, `expected` where one is. The
    /// next is tried as soon as the one before fails or is slow; hellos are said one after another.
    /// Where a `name` led to them, what else it leads to meanwhile is tried, too.
    async fn meet_any(
        self: &Arc<Self>,
        addrs: Vec<SocketAddr>,
        expected: Option<PeerId>,
        name: Option<&str>,
    ) -> Option<PeerId> {
        let (sender, mut answers) = mpsc::channel(ADDRS_IN_ALL_MAX);
        let mut known = addrs;
        let (mut tried, mut open) = (0, 0);
        loop {
            if let Some(addr) = known.get(tried).copied() {
                tried += 1;
                open += 1;
                let (node, sender) = (Arc::clone(self), sender.clone());
                self.tasks.spawn(async move {
                    tokio::select! {
                        biased;
                        () = sender.closed() => {}
                        answer = node.reach(addr) => {
                            // A connection that nobody takes any more is closed.
                            let _ = sender.send((addr, answer)).await;
                        }
                    }
                });
            } else if open == 0 {
                return None;
            }
            let more = tried < known.len();
            let (addr, answer) = tokio::select! {
                biased;
                // A sender is kept here, so the channel is open.
                answer = answers.recv() => answer?,
                () = sleep(STAGGER), if more => continue,
                found = self.look_up_again(name), if !more => {
                    let mut new = found;
                    new.retain(|addr| !known.contains(addr));
                    known.append(&mut new);
                    known.truncate(ADDRS_IN_ALL_MAX);
                    continue;
                }
            };
            open -= 1;
            let met = match answer {
                Ok(connection) => self.welcome(connection, addr, expected).await,
                Err(error) => Err(error),
            };
            match met {
                Ok(peer) => return Some(peer),
                Err(error) => {
                    tracing::debug!(%addr, %error, "a dial failed");
                    let mut table = self.table.lock();
                    if let Some(peer) = expected.and_then(|id| table.peers.get_mut(&id)) {
                        peer.addrs.missed_at(addr);
                    }
                }
            }
        }
    }

    /// Looks up after a while where a name leads then; without a name it never ends.
    async fn look_up_again(&self, name: Option<&str>) -> Vec<SocketAddr> {
        let Some(name) = name else {
            return std::future::pending().await;
        };
        sleep(LOOK_UP_EVERY).await;
        let found = self.config.machine.resolve(name).await;
        if let Some(seed) = self.table.lock().seeds.get_mut(name)
            && !found.is_empty()
        {
            seed.addrs.clone_from(&found);
        }
        found
    }

    /// Connects to an address.
    async fn reach(&self, addr: SocketAddr) -> Result<Arc<dyn Connection>, NodeError> {
        let connected = self.transport.connect(addr).await;
        connected.map_err(|error| match error {
            TransportError::BadPeer { why, .. } => NodeError::NotAPeer { addr, why },
            error => not_a_peer(addr, AskError::Transport(error)),
        })
    }

    /// Connects to an address and says hello; returns who is there. A session stands with that
    /// peer then, or is about to.
    async fn meet(
        self: &Arc<Self>,
        addr: SocketAddr,
        expected: Option<PeerId>,
    ) -> Result<PeerId, NodeError> {
        let connection = self.reach(addr).await?;
        self.welcome(connection, addr, expected).await
    }

    /// Says hello on a connection that was dialled; returns who is there.
    async fn welcome(
        self: &Arc<Self>,
        connection: Arc<dyn Connection>,
        addr: SocketAddr,
        expected: Option<PeerId>,
    ) -> Result<PeerId, NodeError> {
        let id = connection.peer();
        let session = Session::new(connection, Arc::clone(&self.clock), true);
        if id == self.id {
            session.close("this is myself");
            return Ok(id);
        }
        if expected.is_some_and(|expected| expected != id) {
            session.close("looking for another peer");
            let why = "another peer is there now".to_owned();
            return Err(NodeError::NotAPeer { addr, why });
        }
        if self.is_banned(&id) {
            session.close("cut off");
            let why = "it broke the rules and is cut off for a while".to_owned();
            return Err(NodeError::NotAPeer { addr, why });
        }
        {
            let mut table = self.table.lock();
            if let Some(peer) = table.peers.get_mut(&id) {
                if !peer.wants_session() {
                    peer.addrs.met_at(addr);
                    drop(table);
                    session.close("there is a session already");
                    return Ok(id);
                }
                peer.dial = Dial::Greeting;
            }
        }
        let greeted = self.greet(&session, addr).await;
        if let Some(peer) = self.table.lock().peers.get_mut(&id) {
            if peer.dial == Dial::Greeting {
                peer.dial = Dial::Idle;
            }
            if matches!(greeted, Ok(Some(_))) {
                peer.addrs.met_at(addr);
            }
        }
        match greeted {
            Ok(Some(_)) => {
                self.tasks.spawn(Arc::clone(self).serve(session));
                Ok(id)
            }
            Ok(None) => {
                session.close("there is a session already");
                Ok(id)
            }
            Err(error) => {
                session.close("no session");
                Err(error)
            }
        }
    }

    /// Suspects peers that have been silent, and gives up those that stay so.
    fn watch_silence(&self) {
        let mut down = Vec::new();
        let mut dead = Vec::new();
        let mut back = Vec::new();
        for (id, peer) in &mut self.table.lock().peers {
            let Some(session) = &peer.session else {
                continue;
            };
            session.look();
            let silence = session.silence().saturating_sub(session.grace());
            if silence < SUSPECT_AFTER && !peer.up {
                back.push(Arc::clone(session));
            }
            if silence >= SUSPECT_AFTER && std::mem::replace(&mut peer.up, false) {
                down.push(*id);
            }
            if silence >= DEAD_AFTER {
                dead.push(Arc::clone(session));
            }
        }
        for id in down {
            tracing::debug!(peer = %id.short(), "suspected: no answer");
            self.emit(NodeEvent::PeerDown(id));
        }
        for session in back {
            self.heard_again(&session);
        }
        for session in dead {
            session.close("no answer");
        }
    }

    /// Takes note that a connection has ended; the peer is dialled anew.
    pub(super) fn ended(&self, session: &Arc<Session>) {
        let id = session.peer();
        let now = self.now();
        let went_down = {
            let mut table = self.table.lock();
            let pause_max = table.pause_max();
            let Some(peer) = table.peers.get_mut(&id) else {
                return;
            };
            if !peer
                .session
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, session))
            {
                return;
            }
            peer.session = None;
            peer.lost(now, pause_max, &self.rng);
            std::mem::replace(&mut peer.up, false)
        };
        tracing::debug!(peer = %id.short(), "session ended");
        if went_down {
            self.emit(NodeEvent::PeerDown(id));
        }
        self.remember(&id);
    }

    /// Takes note of a sign of life of a peer; one that was suspected is up again.
    pub(super) fn heard_from(&self, session: &Arc<Session>) {
        session.heard();
        self.heard_again(session);
    }

    fn heard_again(&self, session: &Arc<Session>) {
        let id = session.peer();
        let came_up = {
            let mut table = self.table.lock();
            let Some(peer) = table.peers.get_mut(&id) else {
                return;
            };
            if !peer
                .session
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, session))
            {
                return;
            }
            peer.last_contact_ms = Some(self.clock.wall_ms());
            !std::mem::replace(&mut peer.up, true)
        };
        if came_up {
            self.emit(NodeEvent::PeerUp(id));
        }
    }
}
