//! The tables of the row database and their tags.

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident = $tag:literal,)*) => {
        /// A table of the row database. Its tag is the first byte of each stored key and never
        /// changes or is reused: it is part of the format (docs/format.md).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[repr(u8)]
        pub enum Table {
            $($(#[$doc])* $name = $tag,)*
        }

        impl Table {
            /// Every table, in tag order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the table with this tag, `None` for an unknown one.
            pub fn from_tag(tag: u8) -> Option<Self> {
                match tag {
                    $($tag => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

tables! {
    /// Single values of the peer and the volume, by name.
    Meta = 1,
    /// Inodes of the view.
    Inode = 2,
    /// Directory entries, by parent and keyed hash of the name.
    Dirent = 3,
    /// Extents of files, by inode and offset.
    Extent = 4,
    /// Extended attributes.
    Xattr = 5,
    /// Inodes without a name that are still kept.
    Orphan = 6,
    /// Inodes that were merged into another.
    Alias = 7,
    /// Losing lineages of files and their conflict file.
    Fork = 8,
    /// Conflicts.
    Conflict = 9,
    /// Devices that author ops.
    Device = 10,
    /// Applied ops with their before-images.
    Op = 11,
    /// What had been seen when ops were issued, by log and the first of them.
    Draft = 12,
    /// Newest segment of each device that is folded into the view.
    Applied = 13,
    /// Free for the volume.
    Volume = 14,
    /// What records of ops hold beyond what one row takes, by op and number.
    OpPart = 15,
    /// Which record of the chain names the ops of a log, by log and the last of them.
    Committed = 16,
    /// Rows that are made anew beside those of the other tables, by table and key.
    Beside = 17,
    /// What is left of changes of this device that count nowhere: rows of their files, by table and key.
    Aside = 18,
    /// Records of a chain that this peer left, or that others left, with their certificates, by hash.
    Left = 19,
    /// Sealed segments, by device and number.
    Segment = 20,
    /// Newest segment of each device's log.
    LogHead = 21,
    /// Signed roster statements.
    Roster = 22,
    /// Remembered peers.
    Peers = 23,
    /// Signed records of the DHT.
    Records = 24,
    /// Invites that this peer issued or redeemed.
    Invite = 25,
    /// Free for the node.
    Node = 26,
    /// Records of the commit chain with their certificates, by number.
    Chain = 27,
    /// The last segment of each log that a record of the chain names.
    Named = 28,
    /// Statements of the roster that records of the chain took into account, with the record's number.
    Taken = 29,
    /// Chunks that this peer must hold or caches.
    Held = 30,
    /// Chunks that are not yet on enough holders.
    Pending = 31,
    /// Free for replication.
    Replica = 32,
    /// Up to where the segments of each log are not needed here, as the rows of a checkpoint have them.
    Floor = 33,
    /// What members say of checkpoints, and where logs go on behind these.
    Checkpoint = 34,
    /// Where each chunk lies; written by the chunk store alone.
    ChunkIndex = 40,
    /// Totals of each chunk file; written by the chunk store alone.
    ChunkFile = 41,
    /// Chunks whose bytes are not known to be durable; written by the chunk store alone.
    ChunkFresh = 42,
    /// Deleted chunks whose space is not yet returned; written by the chunk store alone.
    ChunkDead = 43,
    /// Access times, which every machine keeps for itself.
    Atime = 50,
    /// When nodes changed here by what others did, which every machine keeps for itself.
    Arrival = 51,
    /// When directories changed by what named them, which are a part of another.
    Dated = 52,
    /// What was replaced or removed and can be had back.
    History = 53,
    /// Chunks of the trees of checkpoints, by record and number.
    Tree = 54,
    /// What nodes of the trees of snapshots name, by their chunk.
    SnapshotNode = 55,
    /// Changes of a batch that is too great to go as one; written by the store alone.
    Staged = 60,
    /// Rows of a merge that is made beside the others, by table and key, until they are moved there.
    Layer = 61,
    /// What ops want that are undone, until they are folded again by who makes a layer, or all anew.
    Undone = 62,
}

impl Table {
    /// Returns the first byte of this table's stored keys.
    pub fn tag(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_distinct_and_ascending() {
        for pair in Table::ALL.windows(2) {
            assert!(pair[0].tag() < pair[1].tag());
        }
        for table in Table::ALL {
            assert_eq!(Table::from_tag(table.tag()), Some(*table));
        }
        assert_eq!(Table::from_tag(0), None);
    }
}
