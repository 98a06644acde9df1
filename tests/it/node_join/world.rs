//! Machines on a simulated network, for the tests of whole nodes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use dfs::base::task::Pool;
use dfs::base::time::{SimClock, sleep, timeout};
use dfs::base::{Clock, DeviceId, LogId, PeerId, Rng, Stamp};
use dfs::crypto::Identity;
use dfs::node::{InviteToken, Joined, Node, NodeConfig, NodeError, Role};
use dfs::store::{Batch, Store};
use dfs::transport::{SimNet, Transport};
use dfs::wire::bounded::BoundedBytes;
use dfs::wire::{
    Hello, NodeRecord, RecordRef, SEGMENT_DOMAIN, SealedSegment, Seen, SegmentHeader, SignedRecord,
};

/// The seed of network and chance: `DFS_SEED=n` runs another one.
pub(super) static SEED: LazyLock<u64> = LazyLock::new(|| {
    let asked = std::env::var("DFS_SEED").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(7)
});
pub(super) const START_MS: u64 = 1_800_000_000_000;

/// RSA keys take long to make, so all tests share these.
pub(super) static IDENTITIES: LazyLock<Vec<Arc<Identity>>> = LazyLock::new(|| {
    let rng = Rng::from_seed(7);
    (0..5)
        .map(|_| Arc::new(Identity::generate(&rng).unwrap()))
        .collect()
});

/// One network, and the machines on it.
pub(super) struct World {
    pub(super) net: SimNet,
    pub(super) clock: Arc<SimClock>,
    pub(super) rng: Rng,
}

/// A machine: its disk outlives its node.
pub(super) struct Machine {
    pub(super) at: usize,
    pub(super) store: Store,
    pub(super) clock: Arc<SimClock>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) node: Option<Arc<Node>>,
}

pub(super) fn addr(at: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + at as u8], 4750))
}

pub(super) fn id(at: usize) -> PeerId {
    IDENTITIES[at].id()
}

pub(super) fn device(at: usize) -> DeviceId {
    IDENTITIES[at].device()
}

/// Returns a log of a device that no machine here writes.
pub(super) fn log_of(at: usize) -> LogId {
    LogId::of(device(at), 1)
}

pub(super) fn config(at: usize) -> NodeConfig {
    NodeConfig {
        identity: Arc::clone(&IDENTITIES[at]),
        name: format!("machine {at}"),
        seeds: Vec::new(),
        machine: Arc::new(Vec::new()),
        capacity_bytes: 1 << 30,
        pool: Pool::inline(),
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::seeded(*SEED)
    }

    pub(super) fn seeded(seed: u64) -> Self {
        let net = SimNet::new(seed);
        net.set_delay(Duration::from_millis(2), Duration::from_millis(20));
        Self {
            net,
            clock: SimClock::new(START_MS),
            rng: Rng::from_seed(seed),
        }
    }

    pub(super) fn transport(&self, at: usize) -> Arc<dyn Transport> {
        self.transport_at(at, addr(at))
    }

    /// Returns the socket of a machine that is somewhere else than it used to be.
    pub(super) fn transport_at(&self, at: usize, place: SocketAddr) -> Arc<dyn Transport> {
        let identity = IDENTITIES[at].public();
        self.net.transport(place, identity.id(), identity.spki)
    }

    /// Returns what the machine at `from` says first to another.
    pub(super) fn hello(&self, to: &Machine, from: usize) -> Hello {
        let record = NodeRecord {
            volume: to.node().volume(),
            peer: id(from),
            signed_ms: self.clock.wall_ms() + 1_000,
            name: "liar".to_owned(),
            addrs: vec![addr(from)],
            capacity_bytes: 0,
            free_bytes: 0,
        };
        let bytes = record.encode();
        let signature = IDENTITIES[from].sign(NodeRecord::DOMAIN, &bytes);
        Hello {
            volume: to.node().volume(),
            incarnation: 1,
            clock_ms: self.clock.wall_ms(),
            roster_digest: to.node().roster().digest(),
            record: SignedRecord {
                record: BoundedBytes::new(bytes).unwrap(),
                signature,
            },
            observed: addr(to.at),
            vector: BTreeMap::new(),
            features: u64::MAX,
        }
    }

    pub(super) fn machine(&self, at: usize) -> Machine {
        Machine {
            at,
            store: Store::memory(),
            clock: Arc::clone(&self.clock),
            transport: self.transport(at),
            node: None,
        }
    }

    /// Returns machine 0 with a new volume that runs.
    pub(super) fn founder(&self) -> Machine {
        let mut machine = self.machine(0);
        Node::create_volume(&config(0), &machine.store, self.clock.as_ref(), &self.rng).unwrap();
        machine.start(self);
        machine
    }

    /// Returns a machine that has joined over `contact` and runs.
    pub(super) async fn member(
        &self,
        at: usize,
        role: Role,
        admin: &Machine,
        contact: usize,
    ) -> Machine {
        let token = admin
            .node()
            .invite(role, Duration::from_secs(3600))
            .await
            .unwrap();
        let mut machine = self.machine(at);
        machine.join(&token, &[addr(contact)]).await.unwrap();
        machine.start(self);
        machine
    }

    /// Starts a machine anew, with the disk that it had.
    pub(super) fn restart(&self, machine: &mut Machine) {
        machine.transport = self.transport(machine.at);
        machine.start(self);
    }
}

impl Machine {
    pub(super) fn node(&self) -> &Arc<Node> {
        self.node.as_ref().unwrap()
    }

    pub(super) fn start(&mut self, world: &World) {
        self.start_as(world, config(self.at));
    }

    pub(super) fn start_as(&mut self, world: &World, config: NodeConfig) {
        let node = Node::start(
            Arc::clone(&self.transport),
            config,
            self.store.clone(),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
            world.rng.clone(),
        );
        let node = node.unwrap();
        node.set_key_wrapper(Box::new(|_| Some(b"wrapped".to_vec())));
        self.node = Some(node);
    }

    pub(super) async fn join(
        &self,
        token: &InviteToken,
        peers: &[SocketAddr],
    ) -> Result<Joined, NodeError> {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let config = config(self.at);
        let joined =
            Node::join(&self.transport, &config, &self.store, &clock, token, peers).await?;
        joined.clone().found(&self.store, Batch::new())?;
        Ok(joined)
    }

    /// Writes `count` segments into the own log and publishes them.
    pub(super) fn write(&self, count: u64) {
        self.write_large(count, 2_000);
    }

    /// The same with segments of a size.
    pub(super) fn write_large(&self, count: u64, bytes: usize) {
        self.write_behind(&[], count, bytes);
    }

    /// The same, built on all that is here of some logs.
    pub(super) fn write_behind(&self, logs: &[LogId], count: u64, bytes: usize) {
        let node = self.node();
        let (log, fence) = (node.log(), node.chain().fence());
        if fence.is_over(log, log.own_log()) && !fence.ends(&log.standing()) {
            log.renew(log.incarnation() + 1);
        }
        let seen = |log: &LogId| {
            let head = node.log().head(*log).unwrap();
            Seen {
                log: *log,
                seg_no: head.seg_no,
                hash: head.hash,
                last: head.last,
            }
        };
        for _ in 0..count {
            let head = node.log().head(node.log().own_log());
            let last = head.map_or(Stamp(0), |head| head.last);
            let stamp = Stamp::from_ms(self.clock.wall_ms()).max(last.next());
            let header = SegmentHeader {
                volume: node.volume(),
                device: device(self.at),
                incarnation: node.log().incarnation(),
                origin: node.log().incarnation(),
                record: RecordRef::default(),
                seen: logs.iter().map(seen).collect(),
                seg_no: head.map_or(0, |head| head.seg_no) + 1,
                admission: head
                    .is_none()
                    .then(|| node.log().admission(node.log().own_log()).unwrap()),
                prev: head.map_or([0; 32], |head| head.hash),
                first: stamp,
                last: stamp,
                op_count: 1,
                epoch: 1,
            };
            let segment = sealed(self.at, header, bytes);
            node.log()
                .append(std::slice::from_ref(&segment), Batch::new())
                .unwrap();
            self.store.sync().unwrap();
            node.publish(&[segment]);
        }
    }

    /// Pulls the plug.
    pub(super) async fn kill(&mut self, world: &World) {
        world.net.kill(addr(self.at));
        if let Some(node) = self.node.take() {
            node.shutdown().await;
        }
    }
}

pub(super) fn sealed(at: usize, header: SegmentHeader, bytes: usize) -> SealedSegment {
    let body = Bytes::from(vec![at as u8; bytes]);
    let signed = SealedSegment::signed_bytes(&header, &body);
    SealedSegment {
        signature: IDENTITIES[at].sign(SEGMENT_DOMAIN, &signed),
        header,
        body,
    }
}

/// Waits, for at most `seconds` of the runtime's time, until `holds`; says how long that took.
pub(super) async fn until(seconds: u64, what: &str, holds: impl Fn() -> bool) -> Duration {
    let clock = SimClock::new(0);
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(Duration::from_secs(seconds), wait).await;
    assert!(
        waited.is_ok(),
        "seed {}: not within {seconds} s: {what}",
        *SEED
    );
    clock.monotonic()
}

pub(super) fn all_connected(machines: &[&Machine]) -> bool {
    machines
        .iter()
        .all(|machine| machine.node().connected().len() + 1 == machines.len())
}

/// Tells whether machines have so many segments of each device, in all its logs together.
pub(super) fn same_logs(machines: &[&Machine], counts: &[(usize, u64)]) -> bool {
    let counts: BTreeMap<_, _> = counts.iter().map(|(at, n)| (device(*at), *n)).collect();
    machines.iter().all(|machine| {
        let log = machine.node().log();
        let mut have = BTreeMap::new();
        for (name, seg_no) in log.vector() {
            *have.entry(log.author(name).unwrap()).or_insert(0) += seg_no;
        }
        have == counts
    })
}
