//! Access control lists as the kernel encodes them in an attribute (acl(5)), naively.

/// The attribute that holds a node's own list.
pub const ACCESS: &[u8] = b"system.posix_acl_access";

/// The attribute that holds what a directory hands on.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Entries of tag, permissions, and whom the tag names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl(Vec<(u16, u16, u32)>);

impl Acl {
    /// Returns one of some lists: minimal ones, and ones that name a user.
    pub fn sample(index: usize) -> Self {
        let nobody = u32::MAX;
        let minimal = |user, group, other| {
            vec![
                (USER_OBJ, user, nobody),
                (GROUP_OBJ, group, nobody),
                (OTHER, other, nobody),
            ]
        };
        let named = |group, mask| {
            vec![
                (USER_OBJ, 7, nobody),
                (USER, 6, 1000),
                (GROUP_OBJ, group, nobody),
                (MASK, mask, nobody),
                (OTHER, 4, nobody),
            ]
        };
        Self(match index % 4 {
            0 => minimal(6, 4, 0),
            1 => minimal(7, 7, 5),
            2 => named(5, 7),
            _ => named(6, 4),
        })
    }

    /// Returns the list that a value of the attribute encodes.
    ///
    /// # Panics
    ///
    /// Where it is none.
    pub fn decode(value: &[u8]) -> Self {
        let (entries, rest) = value[4..].as_chunks::<8>();
        assert!(rest.is_empty());
        let entry = |[t0, t1, p0, p1, id @ ..]: &[u8; 8]| {
            let tag = u16::from_le_bytes([*t0, *t1]);
            let perm = u16::from_le_bytes([*p0, *p1]);
            (tag, perm, u32::from_le_bytes(*id))
        };
        Self(entries.iter().map(entry).collect())
    }

    /// Returns the value of the attribute.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, perm, id) in &self.0 {
            value.extend(tag.to_le_bytes());
            value.extend(perm.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    /// Returns whether mode bits say the same.
    pub fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// Returns `mode` with the permissions of the list.
    pub fn apply_to(&self, mode: u32) -> u32 {
        let perm = |tag| {
            let entry = self.0.iter().find(|entry| entry.0 == tag);
            entry.map(|entry| u32::from(entry.1))
        };
        let group = perm(MASK).or_else(|| perm(GROUP_OBJ)).unwrap_or(0);
        let user = perm(USER_OBJ).unwrap_or(0);
        mode & !0o777 | user << 6 | group << 3 | perm(OTHER).unwrap_or(0)
    }

    /// Follows a chmod.
    pub fn set_mode(&mut self, mode: u32) {
        self.change(|perm, bits| *perm = bits, mode);
    }

    /// Limits the list to what a new node asks for; returns the mode of the node.
    pub fn inherit(&mut self, mode: u32) -> u32 {
        self.change(|perm, bits| *perm &= bits, mode);
        self.apply_to(mode)
    }

    fn change(&mut self, change: impl Fn(&mut u16, u16), mode: u32) {
        let has_mask = self.0.iter().any(|entry| entry.0 == MASK);
        for (tag, perm, _) in &mut self.0 {
            let shift = match *tag {
                USER_OBJ => 6,
                MASK => 3,
                GROUP_OBJ if !has_mask => 3,
                OTHER => 0,
                _ => continue,
            };
            change(perm, (mode >> shift & 7) as u16);
        }
    }
}
