//! The room over whole nodes on the simulated network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::task::{Pool, spawn};
use crate::base::time::{SimClock, sleep};
use crate::base::{ChunkId, Clock, Rng};
use crate::crypto::Identity;
use crate::node::{Node, NodeConfig, Role};
use crate::replica::{NodePeers, Replica, ReplicaConfig, ReplicaError};
use crate::store::{Batch, Store};
use crate::transport::{SimNet, Transport};

const CAPACITY_BYTES: u64 = 4 << 30;

pub(super) struct World {
    pub(super) net: SimNet,
    pub(super) clock: Arc<SimClock>,
    rng: Rng,
    pub(super) replicas: Vec<Arc<Replica>>,
    pub(super) nodes: Vec<Arc<Node>>,
}

pub(super) fn addr(at: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + at as u8], 4750))
}

impl World {
    pub(super) async fn new(count: usize) -> Self {
        let net = SimNet::new(1);
        net.set_delay(Duration::from_millis(2), Duration::from_millis(20));
        let (clock, rng) = (SimClock::new(1_800_000_000_000), Rng::from_seed(1));
        let mut world = Self {
            net,
            clock,
            rng,
            replicas: Vec::new(),
            nodes: Vec::new(),
        };
        for at in 0..count {
            world.add(at).await;
        }
        world
    }

    async fn add(&mut self, at: usize) {
        let identity = Arc::new(Identity::generate(&self.rng).unwrap());
        let public = identity.public();
        let transport: Arc<dyn Transport> = self.net.transport(addr(at), public.id(), public.spki);
        let config = NodeConfig {
            identity,
            name: format!("machine {at}"),
            seeds: Vec::new(),
            machine: Arc::new(Vec::new()),
            capacity_bytes: CAPACITY_BYTES,
            pool: Pool::inline(),
        };
        let store = Store::memory();
        let clock: Arc<dyn Clock> = self.clock.clone();
        if let Some(admin) = self.nodes.first() {
            let token = admin
                .invite(Role::Storage, Duration::from_secs(60))
                .await
                .unwrap();
            let joined = Node::join(&transport, &config, &store, &clock, &token, &[addr(0)])
                .await
                .unwrap();
            joined.found(&store, Batch::new()).unwrap();
        } else {
            Node::create_volume(&config, &store, clock.as_ref(), &self.rng).unwrap();
        }
        let node = Node::start(
            transport,
            config,
            store.clone(),
            clock.clone(),
            self.rng.clone(),
        )
        .unwrap();
        let peers = NodePeers::new(Arc::clone(&node));
        let replica = Replica::new(
            store,
            Some(peers),
            ReplicaConfig::default(),
            clock,
            Pool::inline(),
        )
        .unwrap();
        node.set_chunk_handler(replica.handler());
        let workers = Arc::clone(node.workers());
        drop(spawn(Arc::clone(&replica).run(workers)));
        self.replicas.push(replica);
        self.nodes.push(node);
    }

    pub(super) fn put(&self, at: usize, len: usize) -> ChunkId {
        let mut sealed = vec![0; len];
        let seed: [u8; 32] = self.rng.bytes();
        blake3::Hasher::new_keyed(&seed)
            .finalize_xof()
            .fill(&mut sealed);
        let id = ChunkId(*blake3::hash(&sealed).as_bytes());
        self.replicas[at].put(id, &sealed).unwrap();
        id
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_reach_their_holders_and_outlive_all_but_one() {
    let world = World::new(4).await;
    sleep(Duration::from_secs(30)).await;
    let ids: Vec<ChunkId> = (0..30).map(|n| world.put(n % 4, 100_000 + n)).collect();
    for replica in &world.replicas {
        assert_eq!(replica.wait_synced(Duration::from_secs(60)).await, Ok(()));
        assert_eq!(replica.wanted(), 3);
    }
    let copies: u64 = world
        .replicas
        .iter()
        .map(|replica| replica.usage().held_count)
        .sum();
    assert!(copies >= 90, "{copies} copies of 30 chunks");

    world.net.kill(addr(1));
    world.net.kill(addr(2));
    sleep(Duration::from_secs(30)).await;
    for id in &ids {
        let sealed: Bytes = world.replicas[3]
            .fetch(*id, Duration::from_secs(20))
            .await
            .unwrap();
        assert_eq!(ChunkId(*blake3::hash(&sealed).as_bytes()), *id);
    }
    let nowhere = world.replicas[0]
        .fetch(ChunkId([9; 32]), Duration::from_secs(20))
        .await;
    assert!(
        matches!(nowhere, Err(ReplicaError::Unreachable { .. })),
        "{nowhere:?}"
    );
}
