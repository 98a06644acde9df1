//! What the kernel has to forget after a merge: of a large one very much, and so in few bytes each.

use bytes::Bytes;

use super::types::Change;
use crate::base::Ino;

/// Things that changed, in their order.
///
/// They lie encoded in blocks: a name that came takes some 30 bytes where a [`Change`] takes 150.
#[derive(Default, Clone)]
pub struct Changes {
    blocks: Vec<Vec<u8>>,
    len: usize,
}

const BLOCK_BYTES: usize = 64 << 10;

const ATTR: u8 = 0;
const CONTENT: u8 = 1;
const ENTRY: u8 = 2;
const ENTRY_GONE: u8 = 3;

/// What one takes beside its name: what it is, two inodes, and the length of the name.
const HEAD_MAX_BYTES: usize = 1 + 8 + 8 + 4;

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl Changes {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a change.
    pub(super) fn push(&mut self, change: &Change) {
        let name: &[u8] = match change {
            Change::Entry { name, .. } => name,
            Change::Attr(_) | Change::Content(_) => &[],
        };
        let bytes = HEAD_MAX_BYTES + name.len();
        let has_room = |block: &Vec<u8>| block.capacity() - block.len() >= bytes;
        if !self.blocks.last().is_some_and(has_room) {
            self.blocks.push(Vec::with_capacity(BLOCK_BYTES.max(bytes)));
        }
        let Some(block) = self.blocks.last_mut() else {
            return;
        };
        let mut put = |what, ino: Ino| {
            block.push(what);
            block.extend_from_slice(&ino.0.to_le_bytes());
        };
        match change {
            Change::Attr(ino) => put(ATTR, *ino),
            Change::Content(ino) => put(CONTENT, *ino),
            Change::Entry { parent, gone, .. } => {
                let what = gone.map_or(ENTRY, |_| ENTRY_GONE);
                put(what, *parent);
                if let Some(gone) = gone {
                    block.extend_from_slice(&gone.0.to_le_bytes());
                }
                let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
                block.extend_from_slice(&len.to_le_bytes());
                block.extend_from_slice(name);
            }
        }
        self.len += 1;
    }

    /// Visits them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Change> + '_ {
        self.blocks.iter().flat_map(|block| {
            let mut rest = block.as_slice();
            std::iter::from_fn(move || take(&mut rest))
        })
    }

    /// Returns them one by one.
    pub fn to_vec(&self) -> Vec<Change> {
        self.iter().collect()
    }

    /// Returns how many bytes they take, about.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.blocks.iter().map(Vec::capacity).sum()
    }
}

/// Takes the first change from what is left of a block; `None` where nothing is.
fn take(rest: &mut &[u8]) -> Option<Change> {
    let (what, after) = rest.split_first()?;
    let (ino, after) = after.split_first_chunk()?;
    let ino = Ino(u64::from_le_bytes(*ino));
    *rest = after;
    if *what == ATTR {
        return Some(Change::Attr(ino));
    }
    if *what == CONTENT {
        return Some(Change::Content(ino));
    }
    let gone = match *what {
        ENTRY_GONE => {
            let (gone, after) = rest.split_first_chunk()?;
            *rest = after;
            Some(Ino(u64::from_le_bytes(*gone)))
        }
        _ => None,
    };
    let (len, after) = rest.split_first_chunk()?;
    let (name, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    *rest = after;
    Some(Change::Entry {
        parent: ino,
        name: Bytes::copy_from_slice(name),
        gone,
    })
}

impl Extend<Change> for Changes {
    fn extend<T: IntoIterator<Item = Change>>(&mut self, changes: T) {
        for change in changes {
            self.push(&change);
        }
    }
}

impl<'a> IntoIterator for &'a Changes {
    type Item = Change;
    type IntoIter = Box<dyn Iterator<Item = Change> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;

    #[test]
    fn changes_are_told_as_they_came_and_take_little_more_than_their_names() {
        let rng = Rng::from_seed(1);
        let ino = || Ino(u64::from_be_bytes(rng.bytes()));
        let (mut all, mut expected) = (Changes::default(), Vec::new());
        let mut names = 0;
        for _ in 0..20_000 {
            let change = match rng.below(3) {
                0 => Change::Attr(ino()),
                1 => Change::Content(ino()),
                _ => Change::Entry {
                    parent: ino(),
                    name: Bytes::from(vec![7; 1 + rng.below(255) as usize]),
                    gone: (rng.below(2) == 0).then(ino),
                },
            };
            if let Change::Entry { name, .. } = &change {
                names += name.len();
            }
            all.extend([change.clone()]);
            expected.push(change);
        }
        assert_eq!(all.len(), expected.len());
        assert_eq!(all.to_vec(), expected);
        assert!(all.bytes() <= names + all.len() * HEAD_MAX_BYTES + BLOCK_BYTES);
    }
}
