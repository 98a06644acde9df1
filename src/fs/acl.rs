//! POSIX access control lists: what creating, chmod and setxattr do to them (acl(5)).
//!
//! The kernel checks access by them; the filesystem stores them as the extended attributes
//! `system.posix_acl_access` and `system.posix_acl_default`, lets new nodes inherit them, and
//! keeps the mode bits and the list in step.

use super::FsError;

/// The attribute that holds a node's list.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";

/// The attribute that holds what a directory hands on to what is created in it.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// An access control list as the kernel encodes it in an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl {
    entries: Vec<AclEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AclEntry {
    tag: u16,
    perm: u16,
    id: u32,
}

impl Acl {
    /// Returns the list that an attribute's value encodes.
    pub(super) fn decode(value: &[u8]) -> Result<Self, FsError> {
        let malformed = FsError::Invalid {
            what: "malformed access control list",
        };
        let Some((version, rest)) = value.split_first_chunk::<4>() else {
            return Err(malformed);
        };
        if u32::from_le_bytes(*version) != VERSION {
            return Err(FsError::Unsupported);
        }
        let (entries, tail) = rest.as_chunks::<8>();
        if !tail.is_empty() || entries.len() > ENTRIES_MAX {
            return Err(malformed);
        }
        let entries = entries
            .iter()
            .map(|[t0, t1, p0, p1, id @ ..]| AclEntry {
                tag: u16::from_le_bytes([*t0, *t1]),
                perm: u16::from_le_bytes([*p0, *p1]) & 7,
                id: u32::from_le_bytes(*id),
            })
            .collect();
        Ok(Self { entries })
    }

    /// Returns the attribute's value.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            value.extend_from_slice(&entry.tag.to_le_bytes());
            value.extend_from_slice(&entry.perm.to_le_bytes());
            value.extend_from_slice(&entry.id.to_le_bytes());
        }
        value
    }

    /// Returns true when the list has no entry.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns true when mode bits say the same: no named users or groups, no mask.
    pub(super) fn is_minimal(&self) -> bool {
        self.entries
            .iter()
            .all(|entry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// Returns `mode` with the permission bits that the list implies.
    pub(super) fn apply_to(&self, mode: u32) -> u32 {
        let bits = |tag| self.perm(tag).map_or(0, u32::from);
        let group = self.perm(MASK).map_or_else(|| bits(GROUP_OBJ), u32::from);
        mode & !0o777 | bits(USER_OBJ) << 6 | group << 3 | bits(OTHER)
    }

    /// Takes over the permission bits of `mode`, as chmod(2) does.
    pub(super) fn set_mode(&mut self, mode: u32) {
        self.for_class_entries(|perm, bits| *perm = bits, mode);
    }

    /// Limits a default list to what `mode` asks for and returns the mode of the new node.
    pub(super) fn inherit(&mut self, mode: u32) -> u32 {
        self.for_class_entries(|perm, bits| *perm &= bits, mode);
        self.apply_to(mode)
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
const GROUP_OBJ: u16 = 0x04;
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
                assert!(Acl::decode(&value[..len]).is_err(), "{len}");
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
    fn a_new_node_gets_no_more_than_it_asks_for() {
        let mut list = acl(&[(USER_OBJ, 7), (GROUP_OBJ, 7), (OTHER, 5)]);
        assert_eq!(list.inherit(0o666), 0o664);
        assert!(list.is_minimal());
    }
}
