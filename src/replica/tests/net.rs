//! A swarm of replicas in one thread: disks in memory, and a network with delay, loss and cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use crate::base::task::{Pool, spawn};
use crate::base::time::{SimClock, sleep};
use crate::base::worker::Workers;
use crate::base::{ChunkId, PeerId, Rng};
use crate::node::{NodeEvent, Transfer};
use crate::replica::peers::{Answer, Ask, AskError, Link, Peers};
use crate::replica::placement::Candidate;
use crate::replica::{Replica, ReplicaConfig};
use crate::store::memory::MemoryDisk;

/// One peer of the simulated network, alive or not.
struct Station {
    events: broadcast::Sender<NodeEvent>,
    /// `None` while it is down.
    replica: Option<Arc<Replica>>,
    delay: Duration,
    is_liar: bool,
}

#[derive(Default)]
struct NetState {
    stations: BTreeMap<PeerId, Station>,
    members: Vec<Candidate>,
    cuts: BTreeSet<(PeerId, PeerId)>,
    loss_percent: u64,
    gets: u64,
    parts: u64,
    puts: u64,
    /// The newest record that each peer knows.
    records: BTreeMap<PeerId, u64>,
}

/// The network that all stations share.
pub(crate) struct Net {
    state: Mutex<NetState>,
    rng: Rng,
}

/// What one station sees of the network.
struct View {
    net: Arc<Net>,
    me: PeerId,
}

impl Net {
    fn is_linked(state: &NetState, a: PeerId, b: PeerId) -> bool {
        let is_up = |peer| {
            state
                .stations
                .get(peer)
                .is_some_and(|s| s.replica.is_some())
        };
        a != b && is_up(&a) && is_up(&b) && !state.cuts.contains(&(a.min(b), a.max(b)))
    }

    fn tell(&self, event: impl Fn(&PeerId, PeerId) -> Option<NodeEvent>, about: PeerId) {
        let state = self.state.lock();
        for (peer, station) in &state.stations {
            if let Some(event) = event(peer, about) {
                let _ = station.events.send(event);
            }
        }
    }
}

#[async_trait]
impl Peers for View {
    fn me(&self) -> PeerId {
        self.me
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.net.state.lock().members.clone()
    }

    fn links(&self) -> Vec<Link> {
        let state = self.net.state.lock();
        let linked = state
            .stations
            .iter()
            .filter(|(p, _)| Net::is_linked(&state, self.me, **p));
        linked
            .map(|(peer, station)| Link {
                peer: *peer,
                rtt: station.delay * 2,
                sent_rate: u64::MAX,
            })
            .collect()
    }

    fn newest_record(&self) -> u64 {
        let state = self.net.state.lock();
        state.records.get(&self.me).copied().unwrap_or(0)
    }

    async fn ask_for(
        &self,
        peer: PeerId,
        ask: Ask,
        timeout: Duration,
        _: &Transfer,
    ) -> Result<Answer, AskError> {
        let (delay, replica, is_liar, is_lost) = {
            let mut state = self.net.state.lock();
            if !Net::is_linked(&state, self.me, peer) {
                return Err(AskError::Unreachable);
            }
            match &ask {
                Ask::Get(_) => state.gets += 1,
                Ask::GetPart(..) => state.parts += 1,
                Ask::Put(chunks, _) => state.puts += chunks.len() as u64,
                Ask::Hold(..) | Ask::Query(_) | Ask::Lost(_) | Ask::Named(_) | Ask::Collect => {}
            }
            let is_lost = self.net.rng.below(100) < state.loss_percent;
            let station = &state.stations[&peer];
            (
                station.delay,
                station.replica.clone().unwrap(),
                station.is_liar,
                is_lost,
            )
        };
        if delay * 2 > timeout {
            sleep(timeout).await;
            return Err(AskError::TimedOut);
        }
        sleep(delay).await;
        // What is lost is the answer as often as the question.
        let is_answer_lost = is_lost && self.net.rng.below(2) == 0;
        let answer = match is_lost && !is_answer_lost {
            true => None,
            false => replica.serve(self.me, ask).await,
        };
        sleep(delay).await;
        if is_lost {
            sleep(timeout - delay * 2).await;
            return Err(AskError::TimedOut);
        }
        if !Net::is_linked(&self.net.state.lock(), self.me, peer) {
            return Err(AskError::Unreachable);
        }
        match answer.ok_or(AskError::Refused)? {
            Answer::Get(Some(sealed)) if is_liar => {
                let mut wrong = sealed.to_vec();
                wrong[0] ^= 1;
                Ok(Answer::Get(Some(Bytes::from(wrong))))
            }
            // Its length, a hash or a byte: whatever it may lie about.
            Answer::GetPart(Some(mut part)) if is_liar => {
                match self.net.rng.below(3) {
                    0 => part.len += 1,
                    1 if !part.hashes.is_empty() => part.hashes[0][0] ^= 1,
                    _ => {
                        let mut wrong = part.bytes.to_vec();
                        wrong[0] ^= 1;
                        part.bytes = Bytes::from(wrong);
                    }
                }
                Ok(Answer::GetPart(Some(part)))
            }
            answer => Ok(answer),
        }
    }

    async fn lookup(&self, _id: &ChunkId) -> Vec<PeerId> {
        self.net
            .state
            .lock()
            .members
            .iter()
            .map(|member| member.peer)
            .collect()
    }

    fn subscribe(&self) -> broadcast::Receiver<NodeEvent> {
        self.net.state.lock().stations[&self.me].events.subscribe()
    }
}

/// The peers with their disks, and hands to break them.
pub(crate) struct Swarm {
    net: Arc<Net>,
    clock: Arc<SimClock>,
    pub(crate) rng: Rng,
    pub(crate) ids: Vec<PeerId>,
    disks: Vec<MemoryDisk>,
    configs: Vec<ReplicaConfig>,
    runs: Vec<Option<JoinHandle<()>>>,
}

impl Swarm {
    /// Returns `count` peers, all members, all linked, all running.
    pub(crate) fn new(count: usize, seed: u64) -> Self {
        let mut swarm = Self::empty(seed);
        swarm.add_many(count, ReplicaConfig::default());
        swarm
    }

    pub(crate) fn empty(seed: u64) -> Self {
        let rng = Rng::from_seed(seed);
        let net = Net {
            state: Mutex::new(NetState::default()),
            rng: rng.clone(),
        };
        Self {
            net: Arc::new(net),
            clock: SimClock::new(1_700_000_000_000),
            rng,
            ids: Vec::new(),
            disks: Vec::new(),
            configs: Vec::new(),
            runs: Vec::new(),
        }
    }

    /// Adds a member and starts it; returns its index.
    pub(crate) fn add(&mut self, config: ReplicaConfig) -> usize {
        let peer = PeerId(self.rng.bytes());
        let station = Station {
            events: broadcast::channel(1024).0,
            replica: None,
            delay: Duration::from_millis(5),
            is_liar: false,
        };
        {
            let mut state = self.net.state.lock();
            state.stations.insert(peer, station);
            state.members.push(Candidate {
                peer,
                weight: 1,
                host: 0,
            });
        }
        self.ids.push(peer);
        self.disks.push(MemoryDisk::new());
        self.configs.push(config);
        self.runs.push(None);
        let index = self.ids.len() - 1;
        self.start(index);
        self.net.tell(|_, _| Some(NodeEvent::RosterChanged), peer);
        index
    }

    /// Adds and starts `count` members.
    pub(crate) fn add_many(&mut self, count: usize, config: ReplicaConfig) {
        for _ in 0..count {
            self.add(config);
        }
    }

    /// Takes a member off the roster; it goes on running.
    pub(crate) fn dismiss(&self, index: usize) {
        self.net
            .state
            .lock()
            .members
            .retain(|member| member.peer != self.ids[index]);
        self.net
            .tell(|_, _| Some(NodeEvent::RosterChanged), self.ids[index]);
    }

    pub(crate) fn start(&mut self, index: usize) {
        let me = self.ids[index];
        let view = Arc::new(View {
            net: Arc::clone(&self.net),
            me,
        });
        let store = self.disks[index].store();
        let clock = Arc::clone(&self.clock);
        let replica = Replica::new(
            store,
            Some(view),
            self.configs[index],
            clock,
            Pool::inline(),
        )
        .unwrap();
        self.net.state.lock().stations.get_mut(&me).unwrap().replica = Some(Arc::clone(&replica));
        self.runs[index] = Some(spawn(replica.run(Workers::new(self.clock.clone()))));
        self.net.tell(
            |peer, about| (*peer != about).then_some(NodeEvent::PeerUp(about)),
            me,
        );
    }

    /// Ends a peer as a kill does; its disk stays.
    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(run) = self.runs[index].take() {
            run.abort();
        }
        let me = self.ids[index];
        self.net.state.lock().stations.get_mut(&me).unwrap().replica = None;
        self.net.tell(
            |peer, about| (*peer != about).then_some(NodeEvent::PeerDown(about)),
            me,
        );
    }

    /// Ends a peer as a power cut does.
    pub(crate) fn crash(&mut self, index: usize) {
        self.kill(index);
        self.disks[index] = self.disks[index].crash(&self.rng);
    }

    /// Takes the disk of a peer that is down out, and puts an empty one in.
    pub(crate) fn wipe(&mut self, index: usize) {
        self.disks[index] = MemoryDisk::new();
    }

    pub(crate) fn is_up(&self, index: usize) -> bool {
        self.runs[index].is_some()
    }

    pub(crate) fn at(&self, index: usize) -> Arc<Replica> {
        self.net.state.lock().stations[&self.ids[index]]
            .replica
            .clone()
            .unwrap()
    }

    pub(crate) fn disk(&self, index: usize) -> &MemoryDisk {
        &self.disks[index]
    }

    pub(crate) fn clock(&self) -> Arc<SimClock> {
        Arc::clone(&self.clock)
    }

    /// Cuts each peer of one side off each of the other.
    pub(crate) fn cut(&self, one: &[usize], other: &[usize]) {
        let mut pairs = Vec::new();
        for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
            let (a, b) = (self.ids[a], self.ids[b]);
            self.net.state.lock().cuts.insert((a.min(b), a.max(b)));
            pairs.extend([(a, b), (b, a)]);
        }
        for (a, b) in pairs {
            self.net.tell(
                |peer, about| (*peer == a).then_some(NodeEvent::PeerDown(about)),
                b,
            );
        }
    }

    pub(crate) fn heal(&self) {
        let cuts = std::mem::take(&mut self.net.state.lock().cuts);
        for (a, b) in cuts {
            self.net.tell(
                |peer, about| (*peer == a).then_some(NodeEvent::PeerUp(about)),
                b,
            );
            self.net.tell(
                |peer, about| (*peer == b).then_some(NodeEvent::PeerUp(about)),
                a,
            );
        }
    }

    /// Lets a peer know the chain up to a record.
    pub(crate) fn set_record(&self, index: usize, record: u64) {
        let mut state = self.net.state.lock();
        state.records.insert(self.ids[index], record);
    }

    pub(crate) fn set_loss(&self, percent: u64) {
        self.net.state.lock().loss_percent = percent;
    }

    pub(crate) fn set_delay(&self, index: usize, delay: Duration) {
        self.net
            .state
            .lock()
            .stations
            .get_mut(&self.ids[index])
            .unwrap()
            .delay = delay;
    }

    /// Makes a peer send wrong bytes for every chunk.
    pub(crate) fn set_liar(&self, index: usize) {
        self.net
            .state
            .lock()
            .stations
            .get_mut(&self.ids[index])
            .unwrap()
            .is_liar = true;
    }

    /// Returns how many parts of chunks were asked for.
    pub(crate) fn parts(&self) -> u64 {
        self.net.state.lock().parts
    }

    /// Returns how many chunks were asked for, and how many were sent to holders.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        let state = self.net.state.lock();
        (state.gets, state.puts)
    }

    /// Makes a chunk at a peer, durably.
    pub(crate) fn put(&self, index: usize, len: usize) -> ChunkId {
        let mut sealed = vec![0; len];
        let seed: [u8; 32] = self.rng.bytes();
        blake3::Hasher::new_keyed(&seed)
            .finalize_xof()
            .fill(&mut sealed);
        let id = ChunkId(*blake3::hash(&sealed).as_bytes());
        self.at(index).put(id, &sealed).unwrap();
        self.disks[index].store().sync().unwrap();
        id
    }

    /// Returns which peers hold a chunk: with a row that says so, and good bytes on the disk.
    pub(crate) fn holders(&self, id: ChunkId) -> Vec<usize> {
        (0..self.ids.len())
            .filter(|index| self.holds(*index, id))
            .collect()
    }

    fn holds(&self, index: usize, id: ChunkId) -> bool {
        let store = self.disks[index].store();
        let sealed = store.chunks.get(id).unwrap();
        let is_held = crate::replica::ledger::is_held(&store, &id);
        is_held && sealed.is_some_and(|sealed| *blake3::hash(&sealed).as_bytes() == id.0)
    }

    /// Waits until every peer that is up says that all is on R holders.
    pub(crate) async fn sync(&self) {
        for index in (0..self.ids.len()).filter(|index| self.is_up(*index)) {
            let synced = self.at(index).wait_synced(Duration::from_secs(3600)).await;
            assert_eq!(synced, Ok(()), "peer {index}");
        }
    }

    /// Checks that the books of every peer agree with themselves.
    pub(crate) fn check_books(&self) {
        for index in (0..self.ids.len()).filter(|index| self.is_up(*index)) {
            self.at(index).ledger.check();
        }
    }
}
