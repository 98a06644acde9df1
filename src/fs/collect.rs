//! Collection: giving up the chunks here that nothing needs any more.

use std::collections::HashSet;
use std::sync::Arc;

use super::dirty::Body;
use super::{Fs, Result};
use crate::base::ChunkId;
use crate::volume::Source;

impl Fs {
    /// Gives up the chunks of the local store that no file and no unwritten change names, and
    /// returns how many. Reads the places of all contents: some seconds for a million files.
    ///
    /// For a volume with no other member ([`crate::volume::Volume::collect`]).
    pub fn collect(&self) -> Result<usize> {
        let collection = self.contents.collection();
        let count = self.volume.collect(
            || self.chunks_in_use(),
            |id| match collection.forget(id) {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(%id, %error, "a chunk that nothing needs stays");
                    false
                }
            },
        )?;
        Ok(count)
    }

    /// Returns the chunks that unwritten changes name. Waits for those that are being sealed.
    fn chunks_in_use(&self) -> HashSet<ChunkId> {
        let mut ids = HashSet::new();
        let mut sealings = Vec::new();
        for node in self.inodes.dirty() {
            let content = node.content();
            let fragments = content
                .dirty
                .iter()
                .flat_map(|dirty| dirty.fragments.iter());
            for (_, fragment) in fragments {
                match &fragment.body {
                    Body::Stored(Source::Chunk { id, .. }) => {
                        ids.insert(*id);
                    }
                    Body::Sealing(sealing, _) => sealings.push(Arc::clone(sealing)),
                    Body::Stored(Source::Inline(_)) | Body::Memory(_) | Body::Hole => {}
                }
            }
        }
        let settled = sealings
            .iter()
            .map(|sealing| sealing.settle(&self.contents));
        // One that fails has left no chunk that anybody will name.
        ids.extend(settled.flatten().map(|sealed| sealed.id));
        ids
    }
}
