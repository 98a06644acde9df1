//! The shape of an op: all that is asked about ops beside what they do.
//!
//! Everything that treats some ops in another way than others asks here, and the answer for a new
//! kind of op is given in one place, which does not compile without it.

#![deny(clippy::wildcard_enum_match_arm)]

use bytes::Bytes;

use super::op::{Append, Kept, OpKind, Write};
use super::types::{Piece, Place, Source};
use crate::base::{ChunkId, Ino};

/// What an op is about, whatever its kind.
#[derive(Debug)]
pub(super) struct OpShape<'a> {
    target: Target,
    content: Content<'a>,
    /// The names that it gives, takes or means.
    places: [Option<&'a Place>; 2],
    /// Bytes of variable length beside content and places.
    loose_bytes: usize,
}

/// How an op meets the node of which it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// It speaks of none, or it is the root.
    None,
    /// It makes one, whose number follows from its own name.
    Makes,
    /// It names one, and changes where it is.
    Names(Ino),
    /// It changes the content or the attributes of one.
    Changes(Ino),
}

/// What an op does to the content of a file.
#[derive(Debug, Clone, Copy)]
enum Content<'a> {
    Same,
    Overwritten(&'a Write),
    Appended(&'a Append),
}

/// What an op takes beside its contents: its numbers, times and lengths.
const OP_ROOM_BYTES: usize = 256;

/// What a piece takes beside inline bytes: two numbers and the id of a chunk.
const PIECE_ROOM_BYTES: usize = 64;

impl OpKind {
    /// Returns what the op is about.
    pub(super) fn shape(&self) -> OpShape<'_> {
        use Content::{Appended, Overwritten, Same};
        let shape = |target| OpShape {
            target,
            content: Same,
            places: [None, None],
            loose_bytes: 0,
        };
        match self {
            Self::Format { .. } => shape(Target::None),
            Self::Device { name } => OpShape {
                loose_bytes: name.len(),
                ..shape(Target::None)
            },
            Self::Create(create) => {
                let xattrs = create.xattrs.iter();
                let xattrs = xattrs.map(|(name, value)| name.len() + value.len());
                let target = create.target.as_ref().map_or(0, Bytes::len);
                OpShape {
                    places: [Some(&create.at), None],
                    loose_bytes: xattrs.sum::<usize>() + target,
                    ..shape(Target::Makes)
                }
            }
            Self::Link { ino, to, .. } => OpShape {
                places: [Some(to), None],
                ..shape(Target::Names(*ino))
            },
            Self::Unlink { ino, from, .. } => OpShape {
                places: [Some(from), None],
                ..shape(Target::Names(*ino))
            },
            Self::Rmdir { ino, from, .. } => OpShape {
                places: [Some(from), None],
                ..shape(Target::Names(*ino))
            },
            Self::Rename { ino, from, to, .. } => OpShape {
                places: [Some(from), Some(to)],
                ..shape(Target::Names(*ino))
            },
            Self::SetAttr { ino, .. } => shape(Target::Changes(*ino)),
            Self::Write(write) => OpShape {
                content: Overwritten(write),
                ..shape(Target::Changes(write.ino))
            },
            Self::Append(append) => OpShape {
                content: Appended(append),
                ..shape(Target::Changes(append.ino))
            },
            Self::SetXattr {
                ino, name, value, ..
            } => OpShape {
                loose_bytes: name.len() + value.len(),
                ..shape(Target::Changes(*ino))
            },
            Self::RemoveXattr { ino, name, .. } => OpShape {
                loose_bytes: name.len(),
                ..shape(Target::Changes(*ino))
            },
            Self::Resolve { .. } | Self::DropSnapshot { .. } => shape(Target::None),
            Self::Snapshot(kept) => OpShape {
                loose_bytes: kept.name.len(),
                ..shape(Target::None)
            },
        }
    }

    /// Returns the same change of another node, where it changes one.
    pub(super) fn with_target(mut self, target: Ino) -> Self {
        match &mut self {
            Self::SetAttr { ino, .. }
            | Self::SetXattr { ino, .. }
            | Self::RemoveXattr { ino, .. }
            | Self::Write(Write { ino, .. })
            | Self::Append(Append { ino, .. }) => *ino = target,
            Self::Format { .. }
            | Self::Device { .. }
            | Self::Create(_)
            | Self::Link { .. }
            | Self::Unlink { .. }
            | Self::Rmdir { .. }
            | Self::Rename { .. }
            | Self::Resolve { .. }
            | Self::Snapshot(_)
            | Self::DropSnapshot { .. } => {}
        }
        self
    }

    /// Returns about how many bytes the op takes when encoded, rather more than fewer.
    pub(super) fn room(&self) -> usize {
        self.shape().room()
    }

    /// Returns the overwriting that the op is.
    pub(super) fn as_write(&self) -> Option<&Write> {
        match self.shape().content {
            Content::Overwritten(write) => Some(write),
            Content::Same | Content::Appended(_) => None,
        }
    }

    /// Returns the appending that the op is.
    pub(super) fn as_append(&self) -> Option<&Append> {
        match self.shape().content {
            Content::Appended(append) => Some(append),
            Content::Same | Content::Overwritten(_) => None,
        }
    }

    /// Returns the snapshot that the op makes: the chunks of its tree, and all that their rows name, stay.
    pub(super) fn as_snapshot(&self) -> Option<&Kept> {
        match self {
            Self::Snapshot(kept) => Some(kept),
            Self::Format { .. }
            | Self::Device { .. }
            | Self::Create(_)
            | Self::Link { .. }
            | Self::Unlink { .. }
            | Self::Rmdir { .. }
            | Self::Rename { .. }
            | Self::SetAttr { .. }
            | Self::Write(_)
            | Self::Append(_)
            | Self::SetXattr { .. }
            | Self::RemoveXattr { .. }
            | Self::Resolve { .. }
            | Self::DropSnapshot { .. } => None,
        }
    }

    /// Returns the emptying of a file that the op is.
    pub(super) fn as_emptying(&self) -> Option<&Write> {
        match self.shape().content {
            Content::Overwritten(write) => Some(write).filter(|write| write.is_emptying()),
            Content::Same | Content::Appended(_) => None,
        }
    }
}

impl<'a> OpShape<'a> {
    /// Returns the node whose content or attributes the op changes.
    pub(super) fn changes(&self) -> Option<Ino> {
        match self.target {
            Target::Changes(ino) => Some(ino),
            Target::None | Target::Makes | Target::Names(_) => None,
        }
    }

    /// Says whether the op makes a node.
    pub(super) fn makes(&self) -> bool {
        self.target == Target::Makes
    }

    /// Returns the node that the op names, or the one that it makes.
    pub(super) fn node(&self, made: impl FnOnce() -> Ino) -> Option<Ino> {
        match self.target {
            Target::Names(ino) | Target::Changes(ino) => Some(ino),
            Target::Makes => Some(made()),
            Target::None => None,
        }
    }

    /// Tells whether there is a node, or more in a file, by the op.
    pub(super) fn gives(&self) -> bool {
        match self.content {
            Content::Same => self.target == Target::Makes,
            Content::Overwritten(_) | Content::Appended(_) => true,
        }
    }

    /// Returns the names that the op gives, takes or means.
    pub(super) fn places(&self) -> impl Iterator<Item = &'a Place> + use<'a> {
        self.places.into_iter().flatten()
    }

    /// Returns the chunks that the op names: they stay where they are while it may be applied.
    pub(super) fn chunks(&self) -> impl Iterator<Item = ChunkId> + use<'a> {
        self.pieces().iter().filter_map(|piece| match &piece.src {
            Some(Source::Chunk { id, .. }) => Some(*id),
            Some(Source::Inline(_)) | None => None,
        })
    }

    fn pieces(&self) -> &'a [Piece] {
        match self.content {
            Content::Same => &[],
            Content::Overwritten(write) => &write.pieces,
            Content::Appended(append) => &append.pieces,
        }
    }

    fn room(&self) -> usize {
        let room_of = |piece: &Piece| match &piece.src {
            Some(Source::Inline(bytes)) => bytes.len() + PIECE_ROOM_BYTES,
            Some(Source::Chunk { .. }) | None => PIECE_ROOM_BYTES,
        };
        let places = self.places.iter().flatten().map(|place| place.name.len());
        let pieces = self.pieces().iter().map(room_of);
        OP_ROOM_BYTES + self.loose_bytes + places.chain(pieces).sum::<usize>()
    }
}
