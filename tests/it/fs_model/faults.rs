//! A disk that refuses writes at random: that is full at some byte, or at some write.

use dfs::base::Rng;
use dfs::store::memory::MemoryDisk;

/// What a disk refuses.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// More bytes than so many.
    Bytes(u64),
    /// Further writes than so many.
    Writes(u64),
}

/// Refuses writes during some of the operations, never while the result is looked at.
#[derive(Debug)]
pub(crate) struct Faults {
    disk: MemoryDisk,
    dice: Rng,
    /// The present fault, and for how many operations it stays.
    present: Option<(Fault, u64)>,
    refused: u64,
    /// A write was refused, so that an operation may be told of it later.
    is_owing: bool,
}

impl Faults {
    pub(crate) fn new(disk: MemoryDisk, dice: Rng) -> Self {
        Self {
            refused: disk.refused(),
            disk,
            dice,
            present: None,
            is_owing: false,
        }
    }

    /// Begins an operation.
    pub(crate) fn begin(&mut self) {
        self.present = match self.present {
            Some((fault, left)) if left > 1 => Some((fault, left - 1)),
            Some(_) => None,
            None if self.dice.below(3) == 0 => {
                let fault = match self.dice.below(2) {
                    0 => Fault::Writes(self.dice.below(4)),
                    _ => {
                        let most = [500, 20_000, 2_000_000][self.dice.below(3) as usize];
                        Fault::Bytes(self.disk.used_bytes() + self.dice.below(most))
                    }
                };
                Some((fault, [1, 1, 1, 6][self.dice.below(4) as usize]))
            }
            None => None,
        };
        match self.present {
            Some((Fault::Bytes(bytes), _)) => self.disk.set_capacity(Some(bytes)),
            Some((Fault::Writes(count), _)) => self.disk.set_writes_left(Some(count)),
            None => {}
        }
    }

    /// Makes room.
    pub(crate) fn lift(&self) {
        self.disk.set_capacity(None);
        self.disk.set_writes_left(None);
    }

    /// Ends an operation: there is room again. Tells whether it may have failed.
    pub(crate) fn end(&mut self) -> bool {
        self.lift();
        let refused = self.disk.refused();
        self.is_owing |= refused > self.refused;
        self.refused = refused;
        self.is_owing
    }
}
