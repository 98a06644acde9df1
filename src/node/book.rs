//! The addresses of one peer: those of its newest record and those where it was met, the likeliest
//! first. What is neither, or has failed for long, is forgotten, so that there is always room for
//! what is new.

use std::net::SocketAddr;

use crate::transport::canonical;
use crate::wire::limits::ADDRS_MAX;

/// Most addresses kept for a peer: those of its record and as many where it was met.
pub(super) const KNOWN_ADDRS_MAX: usize = 2 * ADDRS_MAX;

/// Dials in a row that an address outside the peer's record may fail.
const MISSES_MAX: u32 = 20;

/// Where a peer may be.
#[derive(Debug, Clone, Default)]
pub(super) struct AddressBook {
    known: Vec<Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    addr: SocketAddr,
    /// Whether the newest record names it.
    named: bool,
    /// Dials that failed since the peer was met there.
    misses: u32,
}

impl AddressBook {
    /// Takes what an earlier run remembered, behind what is known.
    pub(super) fn recall(&mut self, addrs: Vec<SocketAddr>) {
        for addr in addrs {
            self.add(addr, false);
        }
        self.shorten();
    }

    /// Puts an address at which the peer was met first in line, and says whether it is new.
    pub(super) fn met_at(&mut self, addr: SocketAddr) -> bool {
        let addr = canonical(addr);
        let at = self.known.iter().position(|known| known.addr == addr);
        let named = at.is_some_and(|at| self.known.remove(at).named);
        let met = Known {
            addr,
            named,
            misses: 0,
        };
        self.known.insert(0, met);
        self.shorten();
        at.is_none()
    }

    /// Takes note of a dial that did not lead to the peer; the address goes last in line.
    pub(super) fn missed_at(&mut self, addr: SocketAddr) {
        let addr = canonical(addr);
        let Some(at) = self.known.iter().position(|known| known.addr == addr) else {
            return;
        };
        let mut known = self.known.remove(at);
        known.misses = known.misses.saturating_add(1);
        if known.named || known.misses < MISSES_MAX {
            self.known.push(known);
        }
    }

    /// Takes the addresses of a newer record, and says whether one of them is new.
    pub(super) fn learn(&mut self, addrs: &[SocketAddr]) -> bool {
        for known in &mut self.known {
            known.named = false;
        }
        let mut is_new = false;
        for addr in addrs.iter().take(ADDRS_MAX) {
            let addr = canonical(*addr);
            match self.known.iter_mut().find(|known| known.addr == addr) {
                Some(known) => known.named = true,
                None => {
                    self.add(addr, true);
                    is_new = true;
                }
            }
        }
        self.shorten();
        is_new
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn first(&self) -> Option<SocketAddr> {
        self.known.first().map(|known| known.addr)
    }

    /// Returns all addresses, the likeliest first.
    pub(super) fn to_vec(&self) -> Vec<SocketAddr> {
        self.known.iter().map(|known| known.addr).collect()
    }

    /// Returns the addresses that one dial tries: those that have not failed before the others, and
    /// of equals those that the peer names itself.
    pub(super) fn to_dial(&self, max: usize) -> Vec<SocketAddr> {
        let mut order: Vec<&Known> = self.known.iter().collect();
        order.sort_by_key(|known| (known.misses > 0, !known.named));
        order
            .into_iter()
            .take(max)
            .map(|known| known.addr)
            .collect()
    }

    fn add(&mut self, addr: SocketAddr, named: bool) {
        let addr = canonical(addr);
        if !self.known.iter().any(|known| known.addr == addr) {
            self.known.push(Known {
                addr,
                named,
                misses: 0,
            });
        }
    }

    /// Forgets the last in line of those that the record does not name. It names at most half of
    /// what is kept, so that there always is one.
    fn shorten(&mut self) {
        while self.known.len() > KNOWN_ADDRS_MAX {
            match self.known.iter().rposition(|known| !known.named) {
                Some(at) => self.known.remove(at),
                None => return,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn addresses_are_bounded_and_the_last_that_worked_comes_first() {
        let mut book = AddressBook::default();
        for port in 0..100 {
            assert!(book.met_at(addr(port)));
        }
        assert_eq!(book.to_vec().len(), KNOWN_ADDRS_MAX);
        assert!(!book.met_at(addr(95)));
        assert_eq!(book.first(), Some(addr(95)));
        book.missed_at(addr(95));
        assert_eq!(book.to_vec().last(), Some(&addr(95)));
    }

    #[test]
    fn a_full_book_takes_what_the_peer_says_now_and_not_what_it_said_once() {
        let mut book = AddressBook::default();
        for start in 0..40 {
            let now: Vec<SocketAddr> = (0..4).map(|n| addr(1000 + 10 * start + n)).collect();
            assert!(book.learn(&now), "start {start}");
            assert!(!book.learn(&now));
            book.met_at(now[1]);
            let dialled = book.to_dial(ADDRS_MAX);
            assert!(
                now.iter().all(|addr| dialled.contains(addr)),
                "start {start}"
            );
            assert!(book.to_vec().len() <= KNOWN_ADDRS_MAX);
            for addr in &now {
                book.missed_at(*addr);
            }
        }
    }

    #[test]
    fn what_fails_for_long_is_forgotten_unless_the_peer_names_it() {
        let mut book = AddressBook::default();
        book.learn(&[addr(1)]);
        book.met_at(addr(2));
        for _ in 0..MISSES_MAX {
            book.missed_at(addr(1));
            book.missed_at(addr(2));
        }
        assert_eq!(book.to_vec(), [addr(1)]);
    }

    #[test]
    fn an_address_has_one_form() {
        let mut book = AddressBook::default();
        book.learn(&["[::ffff:10.0.0.1]:1".parse().unwrap()]);
        assert!(!book.met_at("10.0.0.1:1".parse().unwrap()));
        assert_eq!(book.to_vec().len(), 1);
    }
}
