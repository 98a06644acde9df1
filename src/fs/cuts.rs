//! Where a file that is written from its start to its end was cut because a part of it became an op
//! before: by an fsync, or since it took a while.
//!
//! Chunks that are cut in other places are others, whatever they hold. So that what two machines unpack
//! or fetch is the same where it says the same, the last close of who wrote it lays together what
//! lies in one cell of the grid: it is cut then as if it had been written at once.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::dirty::Dirty;
use super::inode_table::{Content, Node};
use super::{Fs, Result};
use crate::base::limits::CHUNK_BYTES;
use crate::base::{Ino, OpId};
use crate::volume::{Inode, Piece};

/// The cells that are cut, of a file which was empty and to which nothing was done since but to write on.
#[derive(Debug)]
struct Cut {
    version: OpId,
    /// Where the next write goes on.
    end: u64,
    /// Where the cells begin, in order.
    cells: Vec<u64>,
}

/// Most cells that are remembered: who writes for so long that there are more is no copy.
const CELLS_MAX: usize = 1024;

/// Cells that are laid together in one go: so many megabytes of memory.
const TOGETHER: usize = 8;

/// The files that are written so and open. A leaf lock.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    files: Mutex<HashMap<Ino, Cut>>,
}

impl Fs {
    /// Takes note of the pieces of changes by which the content of a file became `version`.
    pub(super) fn note_cuts(&self, ino: Ino, dirty: &Dirty, pieces: &[Piece], version: OpId) {
        let (base, is_anew) = (dirty.base, dirty.is_anew);
        let size = if is_anew { 0 } else { dirty.base_size };
        let is_next = pieces.iter().all(|piece| piece.offset >= size);
        let is_open = self.inodes.is_open_to_write(ino);
        let mut files = self.cuts.files.lock();
        let before = files.remove(&ino);
        let begun = Cut {
            version,
            end: 0,
            cells: Vec::new(),
        };
        let cut = match is_anew {
            true => Some(begun),
            false => before.filter(|cut| (cut.version, cut.end) == (base, size)),
        };
        let Some(mut cut) = cut.filter(|_| is_next && is_open) else {
            return;
        };
        for piece in pieces {
            let cell = piece.offset - piece.offset % CHUNK_BYTES;
            let is_cut = piece.offset == cut.end && piece.offset > cell;
            if is_cut && cut.cells.last() != Some(&cell) && cut.cells.len() < CELLS_MAX {
                cut.cells.push(cell);
            }
            cut.end = piece.offset + piece.len;
        }
        cut.version = version;
        files.insert(ino, cut);
    }

    /// Returns whether a close of a file may be more than an op or two, as [`Fs::is_flush_slow`].
    pub fn is_close_slow(&self, ino: Ino) -> bool {
        let files = self.cuts.files.lock();
        let is_cut = files.get(&ino).is_some_and(|cut| !cut.cells.is_empty());
        drop(files);
        is_cut || self.is_flush_slow(ino)
    }

    /// Lays together what lies in one cell of a file that nobody has open any more.
    pub(super) fn unite_cuts(&self, ino: Ino) -> Result<()> {
        let cut = self.cuts.files.lock().remove(&ino);
        let cut = cut.filter(|cut| !cut.cells.is_empty());
        let (Some(cut), Some(node)) = (cut, self.inodes.known(ino)) else {
            return Ok(());
        };
        let mut version = cut.version;
        for cells in cut.cells.chunks(TOGETHER) {
            let mut content = node.content();
            let inode = self.inode(node.ino)?;
            if inode.version != version || content.dirty.is_some() || inode.is_orphan() {
                return Ok(());
            }
            for cell in cells {
                let range = *cell..(cell + CHUNK_BYTES).min(inode.size);
                let spans = self.spans(node.ino, None, range)?;
                for (start, bytes) in self.gather(*cell, &spans)? {
                    self.lay(&node, &mut content, &inode, start, &bytes);
                }
            }
            drop(content);
            self.write_out(&node)?;
            version = self.inode(node.ino)?.version;
        }
        Ok(())
    }

    /// Writes what a file holds already; no time of it changes.
    fn lay(
        &self,
        node: &Arc<Node>,
        content: &mut Content,
        inode: &Inode,
        start: u64,
        bytes: &[u8],
    ) {
        let dirty = self.dirty(node, content, inode);
        dirty.rewrite();
        dirty.write(start, bytes);
        dirty.content_changed = true;
        self.recharge(content);
    }
}
