//! What the cluster owes its users: contents that were closed, and those that were synced.
//!
//! Contents of shared files carry tokens, `<host.number>`. Who overwrites or removes a content having seen
//! its tokens takes them off the books; all others must be in some file in the end. A file of the
//! folder of one host alone has to be what a naive copy of it says, all the time.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::UNREADABLE;

/// Contents below this are no chunks.
const SMALL_BYTES: usize = 10_000;

/// A content of a shared file.
struct Owed {
    host: usize,
    /// All of the file, where its author wrote all of it.
    whole: Option<Vec<u8>>,
    is_closed: bool,
    /// A power cut of its author does not take it.
    is_durable: bool,
    /// Another has it.
    is_spread: bool,
}

impl std::fmt::Debug for Owed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a content of host{}", self.host)
    }
}

/// A file of one host alone: all it has been, in order, since it was last known.
#[derive(Debug)]
pub(crate) struct Private {
    pub(crate) host: usize,
    /// `None`: not there.
    versions: Vec<Option<Vec<u8>>>,
    /// The first that a kill may leave, and the first that a power cut may.
    closed: usize,
    durable: usize,
    /// The first that others may have.
    spread: usize,
    /// Whether its host lost it by a folder that was put back: it may come back as others have it.
    is_left: bool,
}

/// What is owed.
#[derive(Debug, Default)]
pub(crate) struct Books {
    shared: BTreeMap<Vec<u8>, Owed>,
    private: BTreeMap<String, Private>,
    tokens: u64,
}

/// Returns the whole tokens in a content.
fn tokens(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'<');
    starts.filter_map(|(start, _)| {
        let rest = bytes.get(start..(start + 24).min(bytes.len()))?;
        let end = rest.iter().position(|byte| *byte == b'>')?;
        rest.get(..=end)
    })
}

impl Books {
    /// Returns a token that no content has.
    pub(crate) fn token(&mut self, host: usize) -> Vec<u8> {
        self.tokens += 1;
        format!("<{host}.{}>", self.tokens).into_bytes()
    }

    /// Returns the number of the newest token.
    pub(crate) fn newest(&self) -> u64 {
        self.tokens
    }

    /// A token was written; `whole` is all of the file where all of it was written.
    pub(crate) fn written(&mut self, host: usize, token: Vec<u8>, whole: Option<Vec<u8>>) {
        let owed = Owed {
            host,
            whole,
            is_closed: false,
            is_durable: false,
            is_spread: false,
        };
        self.shared.insert(token, owed);
    }

    /// Says whether nobody who has seen a token took it off the books.
    pub(crate) fn is_owed(&self, token: &[u8]) -> bool {
        self.shared.contains_key(token)
    }

    /// What was written is closed.
    pub(crate) fn closed(&mut self, token: &[u8]) {
        if let Some(owed) = self.shared.get_mut(token) {
            owed.is_closed = true;
        }
    }

    /// Somebody who has seen a content overwrites or removes it.
    pub(crate) fn superseded(&mut self, seen: &[u8]) {
        for token in tokens(seen) {
            self.shared.remove(token);
        }
    }

    /// Somebody who has seen a content adds to it: its tokens stay, not all of it.
    pub(crate) fn added_to(&mut self, seen: &[u8]) {
        for token in tokens(seen) {
            if let Some(owed) = self.shared.get_mut(token) {
                owed.whole = None;
            }
        }
    }

    /// A host was told that all it closed is on its disk.
    pub(crate) fn synced(&mut self, host: usize) {
        for owed in self.shared.values_mut() {
            owed.is_durable |= owed.host == host && owed.is_closed;
        }
        for file in self.private.values_mut().filter(|file| file.host == host) {
            file.durable = file.closed.max(file.durable);
        }
    }

    /// Another has all that a host closed.
    pub(crate) fn spread(&mut self, host: usize) {
        for owed in self.shared.values_mut() {
            owed.is_spread |= owed.host == host && owed.is_closed;
        }
        let own = self.private.values_mut();
        for file in own.filter(|file| file.host == host && !file.is_left) {
            file.spread = file.closed.max(file.spread);
        }
    }

    /// The programs of a host ended.
    pub(crate) fn killed(&mut self, host: usize) {
        self.shared
            .retain(|_, owed| owed.host != host || owed.is_closed);
        for file in self.private.values_mut().filter(|file| file.host == host) {
            file.durable = file.closed.max(file.durable);
        }
    }

    /// A host lost its power.
    pub(crate) fn lost_power(&mut self, host: usize) {
        self.shared.retain(|_, owed| {
            owed.host != host || owed.is_closed && (owed.is_durable || owed.is_spread)
        });
    }

    /// The folder of a host was put back. Of what others have from it the contents that are chunks may
    /// have been there alone.
    pub(crate) fn put_back(&mut self, host: usize) {
        self.shared.retain(|_, owed| {
            let is_small = matches!(&owed.whole, Some(whole) if whole.len() < SMALL_BYTES);
            owed.host != host || owed.is_spread && is_small
        });
        for file in self.private.values_mut().filter(|file| file.host == host) {
            file.is_left = true;
        }
        // Others may have what they have from this one alone.
        for owed in self.shared.values_mut() {
            owed.is_spread &= owed.host == host;
        }
    }

    /// A member was removed: what it wrote counts where others built on it.
    pub(crate) fn removed(&mut self, host: usize) {
        self.shared.retain(|_, owed| owed.host != host);
        self.private.retain(|_, file| file.host != host);
    }

    /// Returns the files of a host that it may go on with.
    pub(crate) fn files_of(&self, host: usize) -> Vec<String> {
        let own = self.private.iter();
        let own = own.filter(|(_, file)| file.host == host && !file.is_left);
        own.map(|(name, _)| name.clone()).collect()
    }

    /// Returns what a file of one host is.
    pub(crate) fn content(&self, name: &str) -> Option<&Vec<u8>> {
        self.private.get(name)?.versions.last()?.as_ref()
    }

    /// A file of one host becomes something else.
    pub(crate) fn becomes(&mut self, host: usize, name: &str, content: Option<Vec<u8>>) {
        let file = self
            .private
            .entry(name.to_owned())
            .or_insert_with(|| Private {
                host,
                versions: vec![None],
                closed: 0,
                durable: 0,
                spread: 0,
                is_left: false,
            });
        file.versions.push(content);
    }

    /// What a file of one host is now was handed over, or made by one op.
    pub(crate) fn handed_over(&mut self, name: &str) {
        if let Some(file) = self.private.get_mut(name) {
            file.closed = file.versions.len() - 1;
        }
    }

    /// A file of one host has another name: one of those that it may be under the old one.
    pub(crate) fn renamed(&mut self, host: usize, from: &str, to: &str) {
        let Some(file) = self.private.get(from) else {
            return;
        };
        let mut versions = vec![None];
        versions.extend(file.versions.iter().skip(file.closed).cloned());
        let moved = Private {
            host,
            versions,
            closed: 1,
            durable: 0,
            spread: 0,
            is_left: false,
        };
        self.private.insert(to.to_owned(), moved);
        self.becomes(host, from, None);
        self.handed_over(from);
    }

    /// Takes what a host has of its file when it starts; says what is wrong with that.
    pub(crate) fn found(&mut self, name: &str, content: Option<Vec<u8>>) -> Result<(), String> {
        let Some(file) = self.private.get_mut(name) else {
            return Ok(());
        };
        let known = file.versions.iter().enumerate().skip(file.durable);
        let at = known.filter(|(_, version)| **version == content);
        let Some(at) = at.map(|(at, _)| at).next_back() else {
            return Err(format!(
                "{name} is {} behind a start, not one of its last {} states from {}",
                shown(content.as_deref()),
                file.versions.len() - file.durable,
                shown(file.versions[file.durable].as_deref()),
            ));
        };
        if at + 1 < file.versions.len() && at < file.spread {
            // It is with others, and comes back: nothing is built on it before.
            file.is_left = true;
            return Ok(());
        }
        // Others may have one from before, and hand that back where this folder is put back.
        let first = file.spread.min(at);
        file.versions.truncate(at + 1);
        file.versions.drain(..first);
        (file.closed, file.durable) = (at - first, at - first);
        file.spread -= first;
        Ok(())
    }

    /// Says what is missing in the contents of the tree and among the files of single hosts.
    pub(crate) fn missing(&self, contents: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
        let mut wrong = Vec::new();
        let all: BTreeSet<&[u8]> = contents.values().map(Vec::as_slice).collect();
        let there: BTreeSet<&[u8]> = all.iter().flat_map(|content| tokens(content)).collect();
        for (token, owed) in self.shared.iter().filter(|(_, owed)| owed.is_closed) {
            let text = String::from_utf8_lossy(token);
            if !there.contains(token.as_slice()) {
                let (durable, spread) = (owed.is_durable, owed.is_spread);
                wrong.push(format!(
                    "{text} is lost (synced {durable}, with others {spread})"
                ));
            } else if let Some(whole) = &owed.whole
                && !all.contains(whole.as_slice())
            {
                wrong.push(format!("{text} is there, but not all of its file"));
            }
        }
        for (name, file) in &self.private {
            let content = contents.get(name);
            let first = match file.is_left {
                true => file.spread,
                false => file.versions.len() - 1,
            };
            let mut known = file.versions.iter().skip(first);
            if file.is_left && content.is_some_and(|content| content.starts_with(UNREADABLE)) {
                continue;
            }
            if !known.any(|version| version.as_ref() == content) {
                wrong.push(format!(
                    "{name} of host{} is {}, not {}",
                    file.host,
                    shown(content.map(Vec::as_slice)),
                    shown(file.versions[file.versions.len() - 1].as_deref()),
                ));
            }
        }
        wrong
    }
}

fn shown(content: Option<&[u8]>) -> String {
    let Some(content) = content else {
        return "not there".to_owned();
    };
    let start = content.get(..content.len().min(40)).unwrap_or_default();
    format!(
        "{} bytes {:?}",
        content.len(),
        String::from_utf8_lossy(start)
    )
}
