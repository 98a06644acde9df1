//! POSIX access control lists: what creating, chmod and setxattr do to them (acl(5)).
//!
//! The kernel checks access by them; they are stored as the extended attributes
//! `system.posix_acl_access` and `system.posix_acl_default`. The filesystem lets new nodes inherit
//! them; the fold keeps the mode bits and the list in step, whoever changed which.

use std::collections::BTreeSet;

/// An access control list as the kernel encodes it in an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    entries: Vec<AclEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AclEntry {
    tag: u16,
    perm: u16,
    id: u32,
}

impl Acl {
    /// The attribute that holds a node's list.
    pub const ACCESS: &[u8] = b"system.posix_acl_access";

    /// The attribute that holds what a directory hands on to what is created in it.
    pub const DEFAULT: &[u8] = b"system.posix_acl_default";

    /// Tells whether an attribute's value encodes a list in a way that is not known here.
    pub fn is_foreign(value: &[u8]) -> bool {
        let version = value.first_chunk::<4>();
        version.is_some_and(|version| u32::from_le_bytes(*version) != VERSION)
    }

    /// Returns the list that an attribute's value encodes, `None` for one that is malformed.
    pub fn decode(value: &[u8]) -> Option<Self> {
        let (version, rest) = value.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION {
            return None;
        }
        let (entries, tail) = rest.as_chunks::<8>();
        if !tail.is_empty() || entries.len() > ENTRIES_MAX {
            return None;
        }
        let entries = entries
            .iter()
            .map(|[t0, t1, p0, p1, id @ ..]| AclEntry {
                tag: u16::from_le_bytes([*t0, *t1]),
                perm: u16::from_le_bytes([*p0, *p1]) & 7,
                id: u32::from_le_bytes(*id),
            })
            .collect();
        Some(Self { entries })
    }

    /// Returns the attribute's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            value.extend_from_slice(&entry.tag.to_le_bytes());
            value.extend_from_slice(&entry.perm.to_le_bytes());
            value.extend_from_slice(&entry.id.to_le_bytes());
        }
        value
    }

    /// Returns true when the list has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns true when mode bits say the same: no named users or groups, no mask.
    pub fn is_minimal(&self) -> bool {
        self.entries
            .iter()
            .all(|entry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// Returns `mode` with the permission bits that the list implies.
    pub fn apply_to(&self, mode: u32) -> u32 {
        let bits = |tag| self.perm(tag).map_or(0, u32::from);
        let group = self.perm(MASK).map_or_else(|| bits(GROUP_OBJ), u32::from);
        mode & !0o777 | bits(USER_OBJ) << 6 | group << 3 | bits(OTHER)
    }

    /// Takes over the permission bits of `mode`, as chmod(2) does.
    pub fn set_mode(&mut self, mode: u32) {
        self.for_class_entries(|perm, bits| *perm = bits, mode);
    }

    /// Limits a default list to what `mode` asks for and returns the mode of the new node.
    pub fn inherit(&mut self, mode: u32) -> u32 {
        self.for_class_entries(|perm, bits| *perm &= bits, mode);
        self.apply_to(mode)
    }

    /// Returns the list that lets nobody do more than either of two does. Where the nodes are not of
    /// `one_group`, those of one are others to the other.
    pub fn narrower(&self, other: &Self, one_group: bool) -> Self {
        let both = self.entries.iter().chain(&other.entries);
        let named: BTreeSet<(u16, u32)> = both
            .filter(|entry| matches!(entry.tag, USER | GROUP))
            .map(|entry| (entry.tag, entry.id))
            .collect();
        let of_both = |tag| self.perm(tag).unwrap_or(7) & other.perm(tag).unwrap_or(7);
        let entry = |tag, perm| AclEntry {
            tag,
            perm,
            id: u32::MAX,
        };
        let of_tag = |wanted| {
            let named = named.iter().filter(move |(tag, _)| *tag == wanted);
            named.map(|(tag, id)| AclEntry {
                tag: *tag,
                perm: self.named(*tag, *id) & other.named(*tag, *id),
                id: *id,
            })
        };
        let mut group = of_both(GROUP_OBJ);
        if !one_group {
            group &= of_both(OTHER);
        }
        let mut entries = vec![entry(USER_OBJ, of_both(USER_OBJ))];
        entries.extend(of_tag(USER));
        entries.push(entry(GROUP_OBJ, group));
        entries.extend(of_tag(GROUP));
        if self.perm(MASK).or_else(|| other.perm(MASK)).is_some() {
            entries.push(entry(MASK, of_both(MASK)));
        }
        entries.push(entry(OTHER, of_both(OTHER)));
        Self { entries }
    }

    /// Returns the list that says what permission bits say.
    pub fn of_mode(mode: u32) -> Self {
        let entry = |tag, shift: u32| AclEntry {
            tag,
            perm: u16::try_from(mode >> shift & 7).unwrap_or(0),
            id: u32::MAX,
        };
        Self {
            entries: vec![entry(USER_OBJ, 6), entry(GROUP_OBJ, 3), entry(OTHER, 0)],
        }
    }

    /// Returns what a user or a group may at least that is named, or belongs to those that are not.
    fn named(&self, tag: u16, id: u32) -> u16 {
        let is_it = |entry: &&AclEntry| entry.tag == tag && entry.id == id;
        let named = self.entries.iter().find(is_it).map(|entry| entry.perm);
        named.or_else(|| self.perm(OTHER)).unwrap_or(0)
    }

    fn for_class_entries(&mut self, change: impl Fn(&mut u16, u16), mode: u32) {
        let class = |shift: u32| u16::try_from(mode >> shift & 7).unwrap_or(0);
        let group_tag = if self.perm(MASK).is_some() {
            MASK
        } else {
            GROUP_OBJ
        };
        for entry in &mut self.entries {
            match entry.tag {
                USER_OBJ => change(&mut entry.perm, class(6)),
                OTHER => change(&mut entry.perm, class(0)),
                tag if tag == group_tag => change(&mut entry.perm, class(3)),
                _ => {}
            }
        }
    }

    fn perm(&self, tag: u16) -> Option<u16> {
        let entry = self.entries.iter().find(|entry| entry.tag == tag)?;
        Some(entry.perm)
    }
}

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// As many as fit in the largest attribute.
const ENTRIES_MAX: usize = (64 << 10) / 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Acl {
        Acl {
            entries: entries
                .iter()
                .map(|(tag, perm)| AclEntry {
                    tag: *tag,
                    perm: *perm,
                    id: u32::MAX,
                })
                .collect(),
        }
    }

    #[test]
    fn lists_round_trip_and_refuse_what_is_cut() {
        let list = acl(&[(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 0)]);
        let value = list.encode();
        assert_eq!(Acl::decode(&value).unwrap(), list);
        for len in 0..value.len() {
            if len != 4 && (len < 4 || (len - 4) % 8 != 0) {
                assert!(Acl::decode(&value[..len]).is_none(), "{len}");
            }
        }
    }

    #[test]
    fn the_mask_stands_for_the_group_bits() {
        let mut list = acl(&[
            (USER_OBJ, 7),
            (0x02, 7),
            (GROUP_OBJ, 5),
            (MASK, 6),
            (OTHER, 1),
        ]);
        assert!(!list.is_minimal());
        assert_eq!(list.apply_to(0o4000), 0o4761);
        list.set_mode(0o640);
        assert_eq!(list.apply_to(0), 0o640);
        assert_eq!(list.perm(GROUP_OBJ), Some(5));
    }

    #[test]
    fn of_two_lists_the_narrower_lets_nobody_do_more_than_either() {
        let mut named = acl(&[
            (USER_OBJ, 7),
            (USER, 7),
            (GROUP_OBJ, 5),
            (MASK, 7),
            (OTHER, 1),
        ]);
        let open = Acl::of_mode(0o755);
        let both = named.narrower(&open, true);
        assert_eq!((both.perm(USER), both.perm(MASK)), (Some(5), Some(7)));
        assert_eq!(both.apply_to(0), 0o771);
        assert_eq!(open.narrower(&named, true), both);
        let private = Acl::of_mode(0o700);
        assert_eq!(named.narrower(&private, true).perm(USER), Some(0));
        named
            .entries
            .retain(|entry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER));
        assert_eq!(named.narrower(&open, false).apply_to(0), 0o711);
    }

    #[test]
    fn a_new_node_gets_no_more_than_it_asks_for() {
        let mut list = acl(&[(USER_OBJ, 7), (GROUP_OBJ, 7), (OTHER, 5)]);
        assert_eq!(list.inherit(0o666), 0o664);
        assert!(list.is_minimal());
    }
}
