//! What befalls machines: power cuts, kills, full and rotten disks, folders that are put back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dfs::base::{ChunkId, Rng};
use dfs::node::Role;
use dfs::store::memory::MemoryDisk;

use crate::Cluster;

impl Cluster {
    /// Says how many hosts there are, those that are down or gone included.
    pub fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// Says whether a peer runs on a host.
    pub fn is_up(&self, index: usize) -> bool {
        self.hosts[index].peer.is_some()
    }

    /// Cuts the power of a host behind so many more writes and syncs of its disk. It says nothing to
    /// anybody from then on.
    pub fn cut_power_after(&self, index: usize, writes: u64) {
        let told = self.goes_dark(index);
        self.hosts[index].disk.cut_power_after(writes, told);
    }

    /// Ends the peer of a host behind the next batch of so many rows, of which nothing is lost.
    pub fn end_behind(&self, index: usize, rows: usize) {
        let told = self.goes_dark(index);
        self.hosts[index].disk.end_behind(rows, told);
    }

    fn goes_dark(&self, index: usize) -> Box<dyn FnOnce() + Send> {
        let host = &self.hosts[index];
        let (net, addr) = (self.net.clone(), host.addr);
        let is_dark = Arc::clone(&host.is_dark);
        Box::new(move || {
            is_dark.store(true, Ordering::Relaxed);
            net.kill(addr);
        })
    }

    /// Says whether the power of a host is gone, which nothing there has noticed.
    pub fn is_dark(&self, index: usize) -> bool {
        self.hosts[index].is_dark.load(Ordering::Relaxed)
    }

    /// Says whether a host is an admin's, as it knows itself.
    pub fn is_admin(&self, index: usize) -> bool {
        let id = self.hosts[index].identity.id();
        let peer = self.hosts[index].peer.as_ref();
        peer.is_some_and(|peer| peer.node().roster().role_of(&id) == Some(Role::Admin))
    }

    /// Ends the peer of a host that lost its power, and leaves the disk as that may have left it.
    pub async fn lose_power(&mut self, index: usize, chance: &Rng) {
        self.crash(index).await;
        let host = &mut self.hosts[index];
        host.disk = host.disk.crash(chance);
        host.store = host.disk.store();
        host.is_dark.store(false, Ordering::Relaxed);
    }

    /// Ends a peer in order.
    pub async fn stop(&mut self, index: usize) {
        if let Some(peer) = self.hosts[index].peer.take() {
            // A full disk does not take the last changes: they are in the journal.
            let _ = peer.shutdown().await;
        }
        self.net.kill(self.hosts[index].addr);
    }

    /// Returns a copy of the disk of a host, as one taken behind its back.
    pub fn copy_of(&self, index: usize, chance: &Rng) -> MemoryDisk {
        self.hosts[index].disk.crash(chance)
    }

    /// Ends the peer of a host and puts a copy in the place of its disk.
    pub async fn put_back(&mut self, index: usize, copy: MemoryDisk) {
        self.crash(index).await;
        let host = &mut self.hosts[index];
        host.store = copy.store();
        host.disk = copy;
        host.is_dark.store(false, Ordering::Relaxed);
    }

    /// Makes the clock of a host wrong: so far ahead from now on.
    pub fn set_ahead(&self, index: usize, by: Duration) {
        self.hosts[index].clock.set_ahead(by);
    }

    /// Lets the disk of a host refuse all that is written, or none.
    pub fn fill(&self, index: usize, is_full: bool) {
        let disk = &self.hosts[index].disk;
        disk.set_writes_left(is_full.then_some(0));
    }

    /// Leaves so much room on the disk of a host from now on; `None` as much as comes.
    pub fn leave_room(&self, index: usize, bytes: Option<u64>) {
        let disk = &self.hosts[index].disk;
        disk.set_capacity(bytes.map(|bytes| disk.used_bytes() + bytes));
    }

    /// Spoils one chunk on the disk of a host that two others hold, too; says whether there is one.
    pub fn rot(&self, index: usize, chance: &Rng) -> bool {
        let mut held: Vec<ChunkId> = Vec::new();
        let mut take = |id, _| {
            held.push(id);
            std::ops::ControlFlow::Continue(())
        };
        let listed = self.hosts[index].store.chunks.for_each(&mut take);
        if listed.is_err() || held.is_empty() {
            return false;
        }
        let id = held[chance.below(held.len() as u64) as usize];
        let others = self.hosts.iter().enumerate();
        let others = others.filter(|(other, host)| {
            *other != index && host.store.chunks.len(id).is_ok_and(|len| len.is_some())
        });
        others.count() >= 2 && self.hosts[index].disk.rot(id)
    }

    /// Cuts the paths from some hosts to others alone, which are still heard.
    pub fn cut_one_way(&self, from: &[usize], to: &[usize]) {
        let addrs = |side: &[usize]| -> Vec<SocketAddr> {
            side.iter().map(|index| self.hosts[*index].addr).collect()
        };
        self.net.partition_one_way(&addrs(from), &addrs(to));
    }
}
