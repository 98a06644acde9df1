//! Applies operations to the filesystem and to the naive tree, and compares everything after each.

use std::collections::BTreeSet;

use super::content::Content;
use super::executor::{Errno, Executor, Flags, Kind, Outcome, Place, Subject};
use super::look::{After, look, look_open};
use super::op::Op;
use super::tree::{Body, Stamp, Tree};

/// An open file on both sides.
#[derive(Debug)]
pub(super) struct Open<F> {
    pub(super) node: usize,
    pub(super) append: bool,
    pub(super) file: F,
}

/// A listing in progress: what is there all the time must come, what was never there must not.
struct Listing<D> {
    node: usize,
    dir: D,
    seen: Vec<Vec<u8>>,
    lasting: BTreeSet<Vec<u8>>,
    ever: BTreeSet<Vec<u8>>,
}

/// Both sides of a comparison.
pub struct Run<E: Executor> {
    pub(super) executor: E,
    pub(super) tree: Tree,
    pub(super) open: Vec<Open<E::File>>,
    listings: Vec<Listing<E::Dir>>,
    /// The trees since all was durable, oldest first: what a power cut may bring back.
    history: Vec<Tree>,
    /// Operations applied, and how many of them were when all of those were durable.
    steps: usize,
    durable_steps: usize,
    /// Whether a user without privileges changes contents.
    pub(super) is_user: bool,
    /// Whether files are closed after each operation.
    closes: bool,
    /// Whether operations may fail for want of room, and how many did.
    pub(super) is_failing: bool,
    failed: usize,
}

impl<E: Executor> std::fmt::Debug for Run<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("nodes", &self.tree.nodes.len())
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

/// What an operation led to on both sides.
pub(super) struct Met {
    pub(super) seen: Outcome,
    pub(super) expected: Outcome,
}

impl<E: Executor> Run<E> {
    /// Returns a run over an empty filesystem, whose root is taken as it is.
    ///
    /// # Errors
    ///
    /// Where it cannot be read or is not empty.
    pub fn new(mut executor: E) -> Result<Self, String> {
        let mut tree = Tree::new(Stamp::exact(0));
        let attr = executor
            .stat(Subject::Path(&[]))
            .map_err(|e| e.to_string())?;
        let root = &mut tree.nodes[0];
        root.mode = attr.mode;
        root.mtime = Stamp::exact(attr.mtime);
        root.ctime = Stamp::exact(attr.ctime);
        (root.uid, root.gid) = (attr.uid, attr.gid);
        tree.meet(&look(&mut executor, &[])?, After::Operation)?;
        Ok(Self {
            executor,
            history: vec![tree.clone()],
            tree,
            open: Vec::new(),
            listings: Vec::new(),
            steps: 0,
            durable_steps: 0,
            is_user: false,
            closes: false,
            is_failing: false,
            failed: 0,
        })
    }

    /// Closes all files after each operation from now on: what is handed over is published, and
    /// another mount can be compared.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    /// Lets operations fail for want of room from now on: those have changed nothing.
    #[must_use]
    pub fn failing(mut self) -> Self {
        self.is_failing = true;
        self
    }

    /// Returns how many operations failed for want of room.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Returns the filesystem.
    pub fn executor(&mut self) -> &mut E {
        &mut self.executor
    }

    /// Ends the run and returns the filesystem.
    pub fn into_executor(self) -> E {
        self.executor
    }

    /// Returns how many of the operations applied survive any crash.
    pub fn durable_steps(&self) -> usize {
        self.durable_steps
    }

    /// Returns the naive tree as it is now.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Applies an operation to both sides and compares outcome and tree.
    ///
    /// # Errors
    ///
    /// What is different.
    pub fn step(&mut self, op: &Op) -> Result<(), String> {
        self.apply(op)?;
        self.compare()
    }

    /// Applies an operation to both sides and compares the outcome alone.
    ///
    /// # Errors
    ///
    /// What is different.
    pub fn apply(&mut self, op: &Op) -> Result<(), String> {
        self.executor.begin();
        self.steps += 1;
        let before = self.is_failing.then(|| self.tree.clone());
        let met = self.operate(op);
        let may_have_failed = self.executor.end();
        if let Some(met) = met? {
            match before {
                Some(before) if may_have_failed && met.seen == Err(Errno::NOSPC) => {
                    self.tree = before;
                    self.failed += 1;
                }
                _ if met.seen != met.expected => {
                    return Err(format!("{:?} instead of {:?}", met.seen, met.expected));
                }
                _ => {}
            }
        }
        if self.closes {
            self.close_all()?;
        }
        self.follow_listings();
        if !matches!(op, Op::CutPower) {
            self.history.push(self.tree.clone());
        }
        Ok(())
    }

    /// Compares everything that can be seen with the naive tree.
    ///
    /// # Errors
    ///
    /// What is different.
    pub fn compare(&mut self) -> Result<(), String> {
        let seen = look(&mut self.executor, &[])?;
        // Who closes all is compared on several machines.
        let after = match self.closes {
            true => After::Arrival,
            false => After::Operation,
        };
        self.tree.meet(&seen, after)?;
        for open in &self.open {
            if self.tree.nodes[open.node].nlink == 0 {
                let seen = look_open(&mut self.executor, &open.file)?;
                let node = &mut self.tree.nodes[open.node];
                node.meet(&seen, after)
                    .map_err(|what| format!("an open file without a name: {what}"))?;
            }
        }
        self.executor.check()
    }

    fn operate(&mut self, op: &Op) -> Result<Option<Met>, String> {
        Ok(match op {
            Op::Create { .. }
            | Op::Mknod { .. }
            | Op::Mkdir { .. }
            | Op::Symlink { .. }
            | Op::Link { .. }
            | Op::Unlink { .. }
            | Op::Rmdir { .. }
            | Op::Rename { .. } => self.change_names(op),
            Op::Open { .. }
            | Op::Close { .. }
            | Op::Write { .. }
            | Op::Truncate { .. }
            | Op::Ftruncate { .. }
            | Op::Allocate { .. }
            | Op::Copy { .. }
            | Op::Flush { .. }
            | Op::Fsync { .. } => self.change_contents(op),
            Op::Chmod { .. }
            | Op::Chown { .. }
            | Op::Utimes { .. }
            | Op::SetXattr { .. }
            | Op::RemoveXattr { .. }
            | Op::SetAcl { .. }
            | Op::RemoveAcl { .. } => self.change_attributes(op),
            Op::FsyncDir { dir } => {
                let dir = self.dir(*dir);
                let path = self.tree.path(dir);
                let seen = self.executor.fsync_dir(&path);
                self.all_is_durable();
                Some(Met::fine(seen))
            }
            Op::Sync => {
                let seen = self.executor.sync();
                if seen == Ok(true) {
                    let nodes = self.tree.nodes.iter_mut();
                    nodes.for_each(super::tree::Node::hand_over);
                }
                self.all_is_durable();
                Some(Met::fine(seen.map(drop)))
            }
            Op::Become { user } => {
                self.is_user = *user;
                Some(Met::fine(self.executor.become_user(*user)))
            }
            Op::Tick => Some(Met::fine(self.executor.tick())),
            Op::Publish => Some(Met::fine(self.executor.publish())),
            Op::ListStart { dir } => self.start_listing(*dir),
            Op::ListSome => self.go_on_listing()?,
            Op::Remount => {
                self.close_all()?;
                let seen = self.executor.remount();
                self.tree
                    .nodes
                    .iter_mut()
                    .for_each(super::tree::Node::hand_over);
                self.all_is_durable();
                Some(Met::fine(seen))
            }
            Op::Kill => {
                let (files, dirs) = self.abandon();
                let seen = self.executor.kill(files, dirs);
                let found = look(&mut self.executor, &[])?;
                self.tree.meet(&found, After::Crash)?;
                Some(Met::fine(seen))
            }
            Op::CutPower => {
                let (files, dirs) = self.abandon();
                let seen = self.executor.cut_power(files, dirs);
                let found = look(&mut self.executor, &[])?;
                self.tree = recovered(&self.history, &found)?.1;
                self.all_is_durable();
                Some(Met::fine(seen))
            }
        })
    }

    /// Everything up to now survives a power cut.
    pub(super) fn all_is_durable(&mut self) {
        self.durable_steps = self.steps;
        self.history.clear();
        self.history.push(self.tree.clone());
    }

    fn abandon(&mut self) -> (Vec<E::File>, Vec<E::Dir>) {
        let files = self.open.drain(..).map(|open| open.file).collect();
        let dirs = self.listings.drain(..).map(|listing| listing.dir).collect();
        (files, dirs)
    }

    fn close_all(&mut self) -> Result<(), String> {
        for listing in self.listings.drain(..) {
            let closed = self.executor.close_dir(listing.dir);
            closed.map_err(|e| format!("close a directory: {e}"))?;
        }
        for open in self.open.drain(..) {
            match self.executor.close(open.file) {
                Err(Errno::NOSPC) if self.is_failing => continue,
                closed => closed.map_err(|e| format!("close a file: {e}"))?,
            }
            self.tree.nodes[open.node].hand_over();
        }
        Ok(())
    }

    pub(super) fn dir(&self, index: usize) -> usize {
        let dirs = self.tree.live(|node| node.kind() == Kind::Dir);
        dirs[index % dirs.len()]
    }

    pub(super) fn stamp(&self, from: i128) -> Stamp {
        Stamp {
            from,
            to: self.executor.now(),
        }
    }

    fn start_listing(&mut self, dir: usize) -> Option<Met> {
        let node = self.dir(dir);
        let path = self.tree.path(node);
        let seen = self.executor.open_dir(&path);
        let names: BTreeSet<_> = self.tree.nodes[node].entries().keys().cloned().collect();
        Some(Met::fine(seen.map(|dir| {
            self.listings.push(Listing {
                node,
                dir,
                seen: Vec::new(),
                lasting: names.clone(),
                ever: names,
            });
        })))
    }

    fn go_on_listing(&mut self) -> Result<Option<Met>, String> {
        let Some(listing) = self.listings.last_mut() else {
            return Ok(None);
        };
        let is_gone = self.tree.nodes[listing.node].nlink == 0;
        let some = self.executor.read_dir(&mut listing.dir);
        if let Ok(some) = &some
            && !some.is_empty()
        {
            let names = some.iter().map(|(name, ..)| name.clone());
            listing
                .seen
                .extend(names.filter(|name| name != b"." && name != b".."));
            return Ok(Some(Met::fine(Ok(()))));
        }
        let listing = self.listings.pop().expect("seen above");
        let closed = self.executor.close_dir(listing.dir);
        if is_gone {
            // Linux says that there is no such directory any more; nothing is fine, too.
            return Ok(Some(Met::fine(closed)));
        }
        let seen: BTreeSet<_> = listing.seen.iter().cloned().collect();
        if seen.len() != listing.seen.len() {
            return Err("a listing had an entry twice".to_owned());
        }
        if let Some(name) = listing.lasting.difference(&seen).next() {
            let name = name.escape_ascii();
            return Err(format!(
                "a listing left out {name}, which was there all the time"
            ));
        }
        if let Some(name) = seen.difference(&listing.ever).next() {
            let name = name.escape_ascii();
            return Err(format!("a listing had {name}, which was never there"));
        }
        Ok(Some(Met::fine(some.map(drop).and(closed))))
    }

    fn follow_listings(&mut self) {
        for listing in &mut self.listings {
            let entries = self.tree.nodes[listing.node].entries();
            listing.lasting.retain(|name| entries.contains_key(name));
            listing.ever.extend(entries.keys().cloned());
        }
    }

    /// Where no file stays open, opens one for an operation on open files.
    pub(super) fn open_for(&mut self, index: usize) {
        let files = self.tree.live(|node| node.kind() == Kind::File);
        let Some(index) = index.checked_rem(files.len()).filter(|_| self.closes) else {
            return;
        };
        let node = files[index];
        let path = self.tree.path(node);
        if let Ok(file) = self.executor.open(&path, Flags::default()) {
            self.open.push(Open {
                node,
                append: false,
                file,
            });
        }
    }

    /// Opens what is at a place where that is a regular file.
    pub(super) fn open_at(&mut self, at: (usize, &[u8]), flags: Flags) -> Option<Met> {
        let node = self.tree.child(at.0, at.1)?;
        if self.tree.nodes[node].kind() != Kind::File || self.open.len() >= OPEN_MAX {
            return None;
        }
        let path = self.tree.path(node);
        let from = self.executor.now();
        let opened = self.executor.open(&path, flags);
        let now = self.stamp(from);
        if flags.truncate {
            self.tree.nodes[node].change(now, |content| content.resize(0));
            self.drop_privileges(node);
        }
        let seen = opened.map(|file| {
            self.open.push(Open {
                node,
                append: flags.append,
                file,
            });
        });
        Some(Met::fine(seen))
    }

    /// Takes away what a change of a node's content does, where the user made it.
    pub(super) fn drop_privileges(&mut self, node: usize) {
        if self.is_user {
            self.tree.nodes[node].drop_privileges();
        }
    }

    /// Makes a node by `make` and the same in the tree.
    pub(super) fn make(
        &mut self,
        at: (usize, &[u8]),
        body: Body,
        mode: u32,
        make: impl FnOnce(&mut E, Place<'_>) -> Outcome,
    ) -> (Outcome, Outcome<usize>) {
        let dir = self.tree.path(at.0);
        let from = self.executor.now();
        let place = Place {
            dir: &dir,
            name: at.1,
        };
        let seen = make(&mut self.executor, place);
        let now = self.stamp(from);
        (seen, self.tree.make(at, body, mode, now))
    }

    /// Creates and opens a file.
    pub(super) fn create(&mut self, at: (usize, &[u8]), mode: u32, flags: Flags) -> Option<Met> {
        if self.open.len() >= OPEN_MAX {
            return None;
        }
        if !flags.exclusive && self.tree.child(at.0, at.1).is_some() {
            return self.open_at(at, flags);
        }
        let mut file = None;
        let body = Body::File(Content::default());
        let (seen, expected) = self.make(at, body, mode, |executor, place| {
            file = Some(executor.create(place, mode, flags)?);
            Ok(())
        });
        if let (Some(file), Ok(node)) = (file, &expected) {
            self.open.push(Open {
                node: *node,
                append: flags.append,
                file,
            });
        }
        Some(Met {
            seen,
            expected: expected.map(drop),
        })
    }
}

impl Met {
    /// Returns what has to be without an error.
    pub(super) fn fine(seen: Outcome) -> Self {
        Self {
            seen,
            expected: Ok(()),
        }
    }

    /// Returns what has to fail.
    pub(super) fn failing(seen: Outcome, errno: Errno) -> Self {
        Self {
            seen,
            expected: Err(errno),
        }
    }
}

/// Returns which of some trees in order was found after a power cut, and the tree as it was found.
///
/// # Errors
///
/// Why it is none of them.
pub fn recovered(history: &[Tree], found: &super::look::Seen) -> Result<(usize, Tree), String> {
    let mut reasons = Vec::new();
    for (index, tree) in history.iter().enumerate().rev() {
        let mut tree = tree.clone();
        if let Some(next) = history.get(index + 1) {
            tree.widen(next);
        }
        match tree.meet(found, After::Crash) {
            Ok(()) => {
                tree.nodes.iter_mut().for_each(super::tree::Node::hand_over);
                return Ok((index, tree));
            }
            Err(what) => reasons.push(format!("{index}: {what}")),
        }
    }
    reasons.reverse();
    Err(format!(
        "none of the trees that a power cut may leave:\n  {}",
        reasons.join("\n  ")
    ))
}

/// Files that are open at once.
const OPEN_MAX: usize = 8;
