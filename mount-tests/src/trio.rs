//! The usual company: two members with mounts and a storage peer.

use crate::{Peer, Scenario, Start};

/// Two members and a storage peer of one volume, all up.
#[derive(Debug)]
pub struct Trio {
    /// Made the volume.
    pub a: Peer,
    /// Joined as a writer.
    pub b: Peer,
    /// Joined as a storage peer, without the volume's key.
    pub storage: Peer,
}

impl Trio {
    /// Makes a volume and lets the other two join.
    pub fn start(scenario: &mut Scenario) -> Self {
        let mut a = scenario.peer("a");
        let mut b = scenario.peer("b");
        let mut storage = scenario.peer("storage");
        a.mount(&Start::new_volume());
        b.mount(&Start::join(&a, &a.invite("writer")));
        storage.serve(&Start::join(&a, &a.invite("storage")));
        Self { a, b, storage }
    }

    /// Returns the three, in the order in which they came.
    pub fn all(&mut self) -> [&mut Peer; 3] {
        [&mut self.a, &mut self.b, &mut self.storage]
    }

    /// Waits until what either member wrote is at all its holders.
    pub fn sync(&self) {
        self.a.sync();
        self.b.sync();
    }
}
