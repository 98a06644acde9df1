//! Places that strangers share: whoever has few pushes out who has many.
//!
//! New identities are free and addresses are nearly so, thus a bound alone would let one machine
//! keep all others out. Where places are scarce each network (an IPv4 /24, an IPv6 /64) has as many
//! as each other one, and within it each address. No tasks and no clock here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::session::Session;
use crate::base::PeerId;

/// Connections of strangers that are kept at once.
pub(super) const STRANGERS_MAX: usize = 64;

/// Connections of one member that have not said hello.
const GREETINGS_MAX: usize = 4;

/// Where the holder of a place comes from, in three steps from the widest to the narrowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    /// The member that told of it; `None` for who came here.
    via: Option<PeerId>,
    net: [u8; 8],
    addr: IpAddr,
}

impl Origin {
    pub(super) fn new(addr: SocketAddr, via: Option<PeerId>) -> Self {
        let addr = addr.ip().to_canonical();
        let mut net = [0; 8];
        match addr {
            IpAddr::V4(ip) => net[..3].copy_from_slice(&ip.octets()[..3]),
            IpAddr::V6(ip) => net.copy_from_slice(&ip.octets()[..8]),
        }
        Self { via, net, addr }
    }

    /// Returns whether two come from one place as far as `steps` steps tell.
    fn is_with(&self, other: &Self, steps: usize) -> bool {
        self.via == other.via
            && (steps < 2 || (self.addr.is_ipv4(), self.net) == (other.addr.is_ipv4(), other.net))
            && (steps < 3 || self.addr == other.addr)
    }
}

/// What there is for somebody who wants a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A free one.
    Free,
    /// That of the holder with this index, whose like have more than their share.
    InsteadOf(usize),
    /// None.
    Taken,
}

/// Decides on a place among `max`; `held` has the longest holder first.
pub(super) fn place(held: &[Origin], new: &Origin, max: usize) -> Place {
    if held.len() < max {
        return Place::Free;
    }
    let mut among: Vec<usize> = (0..held.len()).collect();
    for steps in 1..=3 {
        let largest = largest_group(held, &among, steps);
        let own = among
            .iter()
            .filter(|at| held[**at].is_with(new, steps))
            .count();
        if own < largest.len() {
            // With one more the newcomer's group is still not the larger one.
            if own + 1 >= largest.len() {
                return Place::Taken;
            }
            let mut victims = largest;
            for steps in steps + 1..=3 {
                victims = largest_group(held, &victims, steps);
            }
            return victims
                .last()
                .map_or(Place::Taken, |at| Place::InsteadOf(*at));
        }
        among.retain(|at| held[*at].is_with(new, steps));
    }
    Place::Taken
}

/// Returns the largest group of those that come from one place.
fn largest_group(held: &[Origin], among: &[usize], steps: usize) -> Vec<usize> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for at in among {
        let own = groups.iter_mut().find(|group| {
            group
                .first()
                .is_some_and(|one| held[*one].is_with(&held[*at], steps))
        });
        match own {
            Some(group) => group.push(*at),
            None => groups.push(vec![*at]),
        }
    }
    groups.into_iter().max_by_key(Vec::len).unwrap_or_default()
}

/// The connections without a hello: those of strangers share [`STRANGERS_MAX`] places, members have
/// a few each.
#[derive(Default)]
pub(super) struct Strangers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Longest first.
    strangers: Vec<Held>,
    members: BTreeMap<PeerId, usize>,
}

struct Held {
    key: u64,
    origin: Origin,
    session: Weak<Session>,
}

impl Strangers {
    /// Gives a connection a place until it says hello or ends; says whether there is one. Somebody
    /// whose like have more than their share may lose his.
    pub(super) fn admit(self: &Arc<Self>, session: &Arc<Session>, is_member: bool) -> bool {
        // Closed and dropped when the lock is free: its own place goes with it.
        let mut loser = None;
        let mut state = self.state.lock();
        let seat = if is_member {
            let count = state.members.entry(session.peer()).or_default();
            if *count >= GREETINGS_MAX {
                return false;
            }
            *count += 1;
            Seat::Member(session.peer())
        } else {
            let origin = Origin::new(session.remote_addr(), None);
            let held: Vec<Origin> = state.strangers.iter().map(|held| held.origin).collect();
            match place(&held, &origin, STRANGERS_MAX) {
                Place::Free => {}
                Place::InsteadOf(at) => loser = state.strangers.remove(at).session.upgrade(),
                Place::Taken => return false,
            }
            let key = state.next;
            state.next += 1;
            state.strangers.push(Held {
                key,
                origin,
                session: Arc::downgrade(session),
            });
            Seat::Stranger(key)
        };
        drop(state);
        if let Some(loser) = loser {
            loser.close("busy");
        }
        session.hold(StrangersPlace {
            of: Arc::clone(self),
            seat,
        });
        true
    }
}

enum Seat {
    Stranger(u64),
    Member(PeerId),
}

/// One connection without a hello; dropping it gives the place back.
pub(super) struct StrangersPlace {
    of: Arc<Strangers>,
    seat: Seat,
}

impl Drop for StrangersPlace {
    fn drop(&mut self) {
        let mut state = self.of.state.lock();
        match self.seat {
            Seat::Stranger(key) => state.strangers.retain(|held| held.key != key),
            Seat::Member(peer) => {
                if let Some(count) = state.members.get_mut(&peer) {
                    *count -= 1;
                    if *count == 0 {
                        state.members.remove(&peer);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::new(text.parse().unwrap(), None)
    }

    fn via(text: &str, member: u8) -> Origin {
        Origin::new(text.parse().unwrap(), Some(PeerId([member; 32])))
    }

    #[test]
    fn places_are_free_until_they_are_scarce() {
        let held = vec![origin("192.0.2.1:1"); 3];
        assert_eq!(place(&held, &held[0], 4), Place::Free);
        assert_eq!(place(&held, &held[0], 3), Place::Taken);
    }

    #[test]
    fn one_address_keeps_out_neither_its_neighbours_nor_others() {
        let held = vec![origin("192.0.2.1:1"); 8];
        // The newest of those with too many goes.
        for other in ["192.0.2.2:1", "192.0.3.1:1", "[2001:db8::1]:1"] {
            assert_eq!(place(&held, &origin(other), 8), Place::InsteadOf(7));
        }
        let mapped = origin("[::ffff:192.0.2.1]:7");
        assert_eq!(place(&held, &mapped, 8), Place::Taken);
    }

    #[test]
    fn a_network_full_of_addresses_is_one_network() {
        let net = |at: u8| origin(&format!("192.0.2.{at}:1"));
        let host = |at: u8| origin(&format!("[2001:db8::{at}]:1"));
        for held in [
            (0..8).map(net).collect::<Vec<_>>(),
            (0..8).map(host).collect(),
        ] {
            assert_eq!(
                place(&held, &origin("198.51.100.1:1"), 8),
                Place::InsteadOf(7)
            );
            assert_eq!(place(&held, &held[0], 8), Place::Taken);
        }
    }

    #[test]
    fn shares_come_to_rest_when_they_are_equal() {
        let origins = ["192.0.2.1:1", "198.51.100.1:1", "203.0.113.1:1"].map(origin);
        let mut held = vec![origins[0]; 9];
        let mut exchanged = 0;
        for round in 0..60 {
            match place(&held, &origins[round % 3], 9) {
                Place::InsteadOf(at) => {
                    held.remove(at);
                    held.push(origins[round % 3]);
                    exchanged += 1;
                }
                Place::Taken => {}
                Place::Free => panic!("all are held"),
            }
        }
        assert_eq!(exchanged, 6);
        for one in &origins {
            assert_eq!(held.iter().filter(|held| *held == one).count(), 3);
        }
    }

    #[test]
    fn a_member_that_tells_of_many_leaves_room_for_what_others_tell() {
        // It may name any address.
        let held: Vec<_> = (0..8)
            .map(|at| via(&format!("192.0.{at}.1:1"), 1))
            .collect();
        for other in [via("192.0.2.1:1", 2), origin("192.0.2.1:1")] {
            assert!(matches!(place(&held, &other, 8), Place::InsteadOf(_)));
        }
        assert_eq!(place(&held, &via("198.51.100.1:1", 1), 8), Place::Taken);
    }
}
