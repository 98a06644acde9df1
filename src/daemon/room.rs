//! The room of a peer: what it gives, what its disk takes, what lies in its state folder.

use std::path::Path;
use std::sync::{Arc, Weak};

use crate::base::limits::REPLICAS;
use crate::fs::{Capacity, OwnRoom, RoomSource};
use crate::node::Node;
use crate::replica::Replica;
use crate::store::{Footprint, Held};

/// Tells the room of a running peer.
#[derive(Debug)]
pub(super) struct Room {
    /// `None` for a peer without a state folder, as in simulations.
    footprint: Option<Footprint>,
    node: Weak<Node>,
    replica: Weak<Replica>,
}

impl Room {
    pub(super) fn new(state: Option<&Path>, node: &Arc<Node>, replica: &Arc<Replica>) -> Self {
        Self {
            footprint: state.map(Footprint::new),
            node: Arc::downgrade(node),
            replica: Arc::downgrade(replica),
        }
    }

    /// Returns the bytes of chunks that must stay, and of those that may go.
    fn chunks(&self) -> (u64, u64) {
        let usage = self.replica.upgrade().map(|replica| replica.usage());
        usage.map_or((0, 0), |usage| (usage.held_bytes, usage.cached_bytes))
    }

    fn rows_bytes(&self) -> u64 {
        self.footprint.as_ref().map_or(0, Footprint::rows_bytes)
    }

    /// Returns what rows, segments among them, and chunks take that must stay, as they were measured last.
    pub(super) fn kept_bytes(&self) -> u64 {
        let (kept, _) = self.chunks();
        kept.saturating_add(self.rows_bytes())
    }

    /// Returns how many bytes of contents fit here, once what may go has gone.
    pub(super) fn free_bytes(&self) -> u64 {
        let own = self.own();
        let (_, cached) = self.chunks();
        let disk = own.disk_bytes.saturating_add(cached);
        disk.min(own.allowed_bytes)
    }

    /// Returns how many bytes fit here that others have made.
    pub(super) fn offered_bytes(&self) -> u64 {
        let capacity = self.node.upgrade().map_or(0, |node| node.capacity_bytes());
        self.free_bytes().min(capacity)
    }

    /// Returns the smaller of what the swarm takes over the number of copies, and what this peer
    /// holds and takes.
    pub(super) fn capacity(&self) -> Capacity {
        let Some(node) = self.node.upgrade() else {
            return Capacity {
                total_bytes: 0,
                free_bytes: 0,
            };
        };
        let own_free = self.free_bytes();
        let (mut total, mut free) = (node.capacity_bytes(), self.offered_bytes());
        let peers = node.peers();
        for peer in &peers {
            total = total.saturating_add(peer.capacity_bytes);
            free = free.saturating_add(peer.free_bytes);
        }
        let copies = REPLICAS.min(peers.len() + 1) as u64;
        let (kept, _) = self.chunks();
        let own_total = own_free
            .saturating_add(kept)
            .saturating_add(self.rows_bytes());
        let total = (total / copies).min(own_total);
        Capacity {
            total_bytes: total,
            free_bytes: (free / copies).min(own_free).min(total),
        }
    }

    /// Returns what the state folder takes on its disk; looks at each of its files.
    pub(super) fn held(&self) -> Held {
        self.footprint
            .as_ref()
            .map_or_else(Held::default, Footprint::measure)
    }
}

impl RoomSource for Room {
    fn own(&self) -> OwnRoom {
        let capacity = self.node.upgrade().map_or(0, |node| node.capacity_bytes());
        let (kept, _) = self.chunks();
        let disk = self.footprint.as_ref().map(Footprint::free_bytes);
        OwnRoom {
            disk_bytes: disk.unwrap_or(u64::MAX),
            allowed_bytes: match capacity {
                // Who gives nothing to the others keeps what it writes until they have it.
                0 => u64::MAX,
                _ => capacity.saturating_sub(kept.saturating_add(self.rows_bytes())),
            },
        }
    }
}
