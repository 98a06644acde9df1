//! Kademlia, sans-IO: finds peers and small signed records by closeness in the XOR metric.
//!
//! Owns: [`Key`] and [`Distance`], [`KBucket`] and [`RoutingTable`], the [`Lookup`] state machine,
//! [`Record`] and [`RecordStore`]. Must never know: tokio, sockets, clocks. Time is passed in as
//! `now`, chance as an rng, and what the network said as `on_*` events.
//!
//! ```text
//!             seen / failed                 closest
//! node ------------------------> RoutingTable ----> Lookup --next(now)--> Ask(contact) --> node
//!                                                     ^---- on_success / on_failure -------'
//! ```
//!
//! After P. Maymounkov and D. Mazières, "Kademlia: A Peer-to-peer Information System Based on the
//! XOR Metric" (2002). Departures from the paper:
//!
//! 1. Ids are 256 bits and proven by TLS, so nobody chooses where in the space it stands but by
//!    making keys.
//! 2. A bucket covers one bit of distance from the local key and is never split; the 256 of them
//!    that a table could have are all there, and mostly empty.
//! 3. A contact of a full bucket waits as *pending* while the least recently seen one is checked;
//!    there is one pending place a bucket, for the newest.
//! 4. Lookups end when the K closest live peers have answered, and give up after a bound on peers
//!    asked, so that a hostile peer that invents ever closer ones cannot hold one open.
//! 5. Chunks are not announced: where one lives follows from its id.

use std::net::SocketAddr;

use crate::base::PeerId;

mod bucket;
mod key;
mod lookup;
mod record;
mod store;
mod table;

pub use crate::base::limits::{ALPHA, K};
pub use bucket::{KBucket, Seen};
pub use key::{Distance, Key};
pub use lookup::{Lookup, Next};
pub use record::{Record, RecordError, RecordKind};
pub use store::{Put, RecordStore};
pub use table::RoutingTable;

/// Addresses kept of one contact: IPv4 and IPv6 on four interfaces.
pub const ADDRS_MAX: usize = 8;

/// Unanswered requests in a row after which a contact leaves its bucket.
pub const FAILURES_MAX: u32 = 3;

/// A peer and where it was last reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// The peer.
    pub peer: PeerId,
    /// Its addresses, the likeliest first; at most [`ADDRS_MAX`] are kept.
    pub addrs: Vec<SocketAddr>,
}

impl Contact {
    /// Returns a contact with the first [`ADDRS_MAX`] of the addresses.
    pub fn new(peer: PeerId, addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            peer,
            addrs: addrs.into_iter().take(ADDRS_MAX).collect(),
        }
    }

    /// Returns where in the space of keys the peer stands.
    pub fn key(&self) -> Key {
        self.peer.into()
    }
}
