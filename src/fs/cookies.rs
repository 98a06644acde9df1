//! Readdir cookies: a directory's order as 63-bit numbers that do not move when others change it.
//!
//! A cookie is made of the keyed hash of a name, so it depends on that name alone. The cookies 1
//! and 2 are `.` and `..`. Two names whose hashes share their first 63 bits get neighbouring
//! cookies, in the order of their full hashes: a reader goes on behind either of them.

use crate::volume::DirKey;

/// The cookie of `.`.
pub(super) const DOT: u64 = 1;

/// The cookie of `..`.
pub(super) const DOT_DOT: u64 = 2;

/// Turns the keys of a directory, visited in order, into cookies.
#[derive(Debug)]
pub(super) struct Cookies {
    last: u64,
}

impl Cookies {
    /// Returns the key after which to begin visiting so that every entry behind `cookie` is met
    /// with its right cookie; `None` for the first entry.
    ///
    /// The visit begins a little earlier, so that a run of equal hashes is counted from its start.
    pub(super) fn start(cookie: u64) -> Option<DirKey> {
        if cookie <= DOT_DOT + RUN_MAX {
            return None;
        }
        // The largest key below the first one with this prefix.
        let first = (cookie - RUN_MAX) << 1;
        let mut key = [0xffu8; 16];
        let (prefix, _) = key.split_at_mut(8);
        prefix.copy_from_slice(&(first - 1).to_be_bytes());
        Some(DirKey(key))
    }

    /// Returns the state before the first visited key.
    pub(super) fn new() -> Self {
        Self { last: DOT_DOT }
    }

    /// Returns the cookie of the next visited key.
    pub(super) fn next(&mut self, key: DirKey) -> u64 {
        let mut prefix = [0u8; 8];
        prefix.copy_from_slice(key.0.split_at(8).0);
        let own = u64::from_be_bytes(prefix) >> 1;
        self.last = own.max(self.last + 1).min(COOKIE_MAX);
        self.last
    }
}

/// Longest run of names with equal 63-bit hashes that is told apart. Two equal ones are expected
/// in a directory of three thousand million names; the hash is keyed, so nobody can make them.
const RUN_MAX: u64 = 8;

/// The largest offset that readdir(3) can carry in a signed number.
const COOKIE_MAX: u64 = i64::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(prefix: u64, rest: u8) -> DirKey {
        let mut key = [rest; 16];
        key[..8].copy_from_slice(&(prefix << 1).to_be_bytes());
        DirKey(key)
    }

    /// Lists everything in replies of `per_reply` entries, as a kernel does.
    fn list(keys: &[DirKey], per_reply: usize) -> Vec<DirKey> {
        let mut seen = Vec::new();
        let mut at = DOT_DOT;
        loop {
            let start = Cookies::start(at);
            let mut cookies = Cookies::new();
            let mut taken = 0;
            for key in keys
                .iter()
                .filter(|key| start.is_none_or(|start| **key > start))
            {
                let cookie = cookies.next(*key);
                if cookie <= at {
                    continue;
                }
                if taken == per_reply {
                    break;
                }
                seen.push(*key);
                at = cookie;
                taken += 1;
            }
            if taken == 0 {
                return seen;
            }
        }
    }

    #[test]
    fn every_entry_is_listed_once_also_where_hashes_are_equal() {
        let mut keys = vec![
            key(0, 1),
            key(1, 1),
            key(2, 1),
            key(3, 1),
            key(900, 1),
            key(900, 2),
            key(900, 3),
            key(901, 0),
            key(COOKIE_MAX - 2, 1),
            key(COOKIE_MAX - 1, 1),
        ];
        keys.sort();
        for per_reply in 1..=keys.len() {
            assert_eq!(list(&keys, per_reply), keys, "{per_reply} in a reply");
        }
    }

    #[test]
    fn cookies_do_not_depend_on_other_names() {
        let alone = Cookies::new().next(key(5_000, 0));
        let mut with_others = Cookies::new();
        with_others.next(key(10, 0));
        with_others.next(key(4_000, 0));
        assert_eq!(with_others.next(key(5_000, 0)), alone);
    }
}
