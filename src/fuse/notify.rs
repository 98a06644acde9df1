//! Notices to the kernel: what it must drop from its caches since it changed elsewhere.
//!
//! The kernel may hold a notice back until a request is answered that has the inode locked. So one
//! thread sends them, under no lock, and handlers never wait for it. Notices that wait merge: what
//! is pending is a set of inodes and names, as large as the number of different ones.
//!
//! A notice must not overtake an answer that was made from what was before the change: the kernel
//! would keep that answer for good. So the thread lets the answers that are being made go first
//! ([`Gate`]). What the kernel has received it may take a moment to take in, and a notice for an
//! inode that it does not know yet is lost; so those go out a second time a little later.
//!
//! The kernel takes away what is mounted below a name that it drops. Names on the way to something
//! mounted wait until that is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};
use tokio::sync::Notify;

use super::mountpoint;
use super::numbers::Numbers;
use crate::base::{Ino, task};
use crate::fs::{Fs, Invalidation};

/// Takes notices for the kernel from anywhere; clones feed the same queue.
///
/// [`Invalidator::push`] never waits, so it may be called wherever a change was applied. Whoever
/// applies many of them awaits [`Invalidator::has_room`] between batches: that is what bounds the
/// queue.
#[derive(Debug, Clone)]
pub struct Invalidator {
    shared: Arc<Shared>,
}

impl Invalidator {
    /// Adds a notice. One for the same inode or name that still waits is merged with it.
    pub fn push(&self, invalidation: Invalidation) {
        let mut queue = self.shared.queue.lock();
        if !queue.closed {
            queue.pending.add(invalidation);
            queue.pushed += 1;
            self.shared.wake.notify_one();
        }
    }

    /// Resolves when few enough notices wait that another batch may be pushed.
    pub async fn has_room(&self) {
        loop {
            let drained = self.shared.drained.notified();
            if self.shared.queue.lock().pending.len() < PENDING_MAX {
                return;
            }
            drained.await;
        }
    }

    /// Resolves when the kernel has taken in the notices that were pushed before.
    pub async fn settled(&self) {
        let pushed = self.shared.queue.lock().pushed;
        loop {
            let drained = self.shared.drained.notified();
            {
                let queue = self.shared.queue.lock();
                if queue.closed || queue.sent >= pushed {
                    return;
                }
            }
            drained.await;
        }
    }

    /// Ends the thread; notices from now on go nowhere.
    pub(super) fn close(&self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        queue.pending = Pending::default();
        self.shared.wake.notify_one();
        self.shared.drained.notify_waiters();
    }

    /// Starts the thread that sends; it passes `gate` before each batch.
    pub(super) fn start(kernel: impl Kernel, gate: Gate) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        task::thread("fuse-notify", move || of_thread.run(&kernel, &gate))?;
        Ok(Self { shared })
    }
}

/// Keeps notices behind the answers that are being made: a handler whose answer the kernel keeps
/// holds it open while it makes and sends the answer.
///
/// Nobody who begins an answer waits for those that were begun before: those hold one side, and
/// whoever comes while a notice waits for them holds the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate {
    sides: Arc<[RwLock<()>; 2]>,
    /// Which side is held by who begins an answer.
    side: Arc<AtomicUsize>,
    /// Held while answers are waited for.
    passing: Arc<Mutex<()>>,
}

impl Gate {
    /// Returns a guard for the time in which an answer is made and sent.
    pub(super) fn hold(&self) -> RwLockReadGuard<'_, ()> {
        loop {
            let side = self.side.load(Ordering::SeqCst);
            let held = self.sides.get(side).and_then(RwLock::try_read);
            // Who passed in between does not know of it.
            if let Some(held) = held
                && self.side.load(Ordering::SeqCst) == side
            {
                return held;
            }
            std::hint::spin_loop();
        }
    }

    /// Waits until every answer is sent that was begun before.
    fn pass(&self) {
        let _passing = self.passing.lock();
        let before = self.side.fetch_xor(1, Ordering::SeqCst);
        if let Some(side) = self.sides.get(before) {
            drop(side.write());
        }
    }
}

/// The three notices that FUSE knows, as the thread needs them: fuser's, and one for tests.
pub(super) trait Kernel: Send + 'static {
    /// Drops the attributes of an inode and, with `content`, its pages.
    fn inval_inode(&self, ino: Ino, content: bool) -> io::Result<()>;
    /// Drops a name.
    fn inval_entry(&self, parent: Ino, name: &[u8]) -> io::Result<()>;
    /// Drops a name and tells who watches that it is gone.
    fn delete(&self, parent: Ino, child: Ino, name: &[u8]) -> io::Result<()>;
    /// Tells whether the kernel knows a directory, which then has a name there.
    fn knows(&self, child: Ino) -> bool;
    /// Looks a directory up at its path, which moves it there in the kernel; says whether it is there.
    fn finds(&self, child: Ino, path: &[u8]) -> bool;
    /// Returns the names that lead to something mounted.
    fn names_in_use(&self) -> InUse;
    /// Says that the kernel is about to drop a name.
    fn lets_go(&self, parent: Ino, name: &[u8]);
}

/// The kernel of a mount. What it does not know it need not be told of.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) notifier: Notifier,
    pub(super) numbers: Numbers,
    pub(super) fs: Arc<Fs>,
    /// Where the mount is, and its device.
    pub(super) mountpoint: PathBuf,
    pub(super) device: Option<String>,
}

impl Kernel for Told {
    fn inval_inode(&self, ino: Ino, content: bool) -> io::Result<()> {
        // A negative offset means attributes alone, a length of 0 means to the end.
        let offset = if content { 0 } else { -1 };
        let told = match self.numbers.known(ino) {
            Some(number) => self.notifier.inval_inode(number, offset, 0),
            None => Ok(()),
        };
        if content {
            // What it wrote back has come before that.
            self.fs.pages_dropped(ino);
        }
        told
    }

    fn inval_entry(&self, parent: Ino, name: &[u8]) -> io::Result<()> {
        match self.numbers.known(parent) {
            Some(parent) => self.notifier.inval_entry(parent, OsStr::from_bytes(name)),
            None => Ok(()),
        }
    }

    fn delete(&self, parent: Ino, child: Ino, name: &[u8]) -> io::Result<()> {
        let known = self.numbers.known(parent).zip(self.numbers.known(child));
        // The name may stand there for something else that is known.
        let (parent, child) = known.ok_or(io::ErrorKind::NotFound)?;
        self.notifier.delete(parent, child, OsStr::from_bytes(name))
    }

    fn knows(&self, child: Ino) -> bool {
        self.numbers.known(child).is_some()
    }

    fn finds(&self, child: Ino, path: &[u8]) -> bool {
        let Some(number) = self.numbers.known(child) else {
            return false;
        };
        let path = self.mountpoint.join(OsStr::from_bytes(path));
        self.number_at(&path) == Some(number.0)
    }

    fn names_in_use(&self) -> InUse {
        let mut names = InUse::new();
        let device = self.device.as_deref();
        let mounted = device.map_or(Ok(Vec::new()), mountpoint::mounted_below);
        for path in mounted.unwrap_or_default() {
            let mut at = self.mountpoint.clone();
            for name in path.iter() {
                let Some(number) = self.number_at(&at) else {
                    break;
                };
                let dir = self.numbers.ino(INodeNo(number));
                names.insert((dir, name.as_bytes().to_vec()));
                at.push(name);
            }
        }
        names
    }

    fn lets_go(&self, parent: Ino, name: &[u8]) {
        self.fs.let_depart(parent, name);
    }
}

impl Told {
    /// Returns the number of what the kernel has at a path of this mount.
    fn number_at(&self, path: &Path) -> Option<u64> {
        let found = std::fs::symlink_metadata(path).ok()?;
        let device = found.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let device = format!("{major}:{minor}");
        let is_ours = self.device.as_ref().is_none_or(|ours| *ours == device);
        is_ours.then(|| found.ino())
    }
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to send, or the queue was closed.
    wake: Condvar,
    /// What was pending is being sent.
    drained: Notify,
}

impl Shared {
    fn run(&self, kernel: &impl Kernel, gate: &Gate) {
        let (mut again, mut waiting) = (Pending::default(), Pending::default());
        loop {
            let most = match (again.is_empty(), waiting.is_empty()) {
                (false, _) => Some(REPEAT_AFTER),
                (true, false) => Some(LOOK_AFTER),
                (true, true) => None,
            };
            let Some((mut pending, pushed)) = self.next(most) else {
                return;
            };
            let repeated = std::mem::replace(&mut again, pending.repeated());
            pending.add_waiting(waiting);
            let in_use = match pending.entries.is_empty() && pending.moved.is_empty() {
                true => InUse::new(),
                false => kernel.names_in_use(),
            };
            // Whoever looks one up from now on finds what there is.
            for at in pending.entries.keys().filter(|at| !in_use.contains(at)) {
                kernel.lets_go(at.0, &at.1);
            }
            gate.pass();
            repeated.send(kernel, &in_use);
            waiting = pending.send(kernel, &in_use);
            self.queue.lock().sent = pushed;
            self.drained.notify_waiters();
        }
    }

    /// Waits for notices, `most` so long; returns how many were ever pushed, too. `None` when closed.
    fn next(&self, most: Option<Duration>) -> Option<(Pending, u64)> {
        let mut queue = self.queue.lock();
        while queue.pending.is_empty() && !queue.closed {
            match most {
                Some(most) => {
                    if self.wake.wait_for(&mut queue, most).timed_out() {
                        break;
                    }
                }
                None => self.wake.wait(&mut queue),
            }
        }
        let pushed = queue.pushed;
        (!queue.closed).then(|| (std::mem::take(&mut queue.pending), pushed))
    }
}

#[derive(Debug, Default)]
struct Queue {
    pending: Pending,
    /// How many were ever pushed, and how many of these the kernel has been told.
    pushed: u64,
    sent: u64,
    closed: bool,
}

/// Notices that wait, each inode and each name once.
#[derive(Debug, Default)]
struct Pending {
    /// Whether the pages go, too.
    inodes: BTreeMap<Ino, bool>,
    /// Folders whose cached listing goes.
    folders: BTreeSet<Ino>,
    /// What the name stood for, where it is gone.
    entries: BTreeMap<(Ino, Vec<u8>), Option<Ino>>,
    /// Names of directories that are elsewhere now.
    moved: BTreeMap<(Ino, Vec<u8>), Moved>,
}

/// Where a directory is now.
#[derive(Debug)]
struct Moved {
    child: Ino,
    /// The directory that it is in.
    to: Ino,
    path: Vec<u8>,
}

impl Moved {
    /// Returns the name that it has now.
    fn last(&self) -> Vec<u8> {
        let mut names = self.path.rsplit(|byte| *byte == b'/');
        names.next().unwrap_or_default().to_vec()
    }
}

/// Names that lead to something mounted.
type InUse = BTreeSet<(Ino, Vec<u8>)>;

impl Pending {
    fn add(&mut self, invalidation: Invalidation) {
        match invalidation {
            Invalidation::Attr(ino) => {
                self.inodes.entry(ino).or_default();
            }
            Invalidation::Content(ino) => {
                self.inodes.insert(ino, true);
            }
            // The listing apart: the notice of a name does not reach it where the kernel does not
            // know the name.
            Invalidation::Entry { parent, name } => {
                self.entries.insert((parent, name), None);
                self.folders.insert(parent);
            }
            Invalidation::Moved {
                parent,
                name,
                child,
                to,
                path,
            } => {
                self.folders.extend([parent, to]);
                self.moved.insert((parent, name), Moved { child, to, path });
            }
            Invalidation::Delete {
                parent,
                child,
                name,
            } => {
                self.entries.insert((parent, name), Some(child));
                self.folders.insert(parent);
            }
        }
    }

    /// Returns what goes out a second time. Names do not: their folder's lock orders them. Nor do
    /// pages: an inode that was not known had none.
    fn repeated(&self) -> Self {
        Self {
            inodes: self.inodes.keys().map(|ino| (*ino, false)).collect(),
            folders: self.folders.clone(),
            entries: BTreeMap::new(),
            moved: BTreeMap::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.inodes.len() + self.folders.len() + self.entries.len() + self.moved.len()
    }

    /// Adds names that waited, where nothing newer is known of them.
    fn add_waiting(&mut self, waiting: Self) {
        for (at, moved) in waiting.moved {
            self.moved.entry(at).or_insert(moved);
        }
        for (at, child) in waiting.entries {
            self.entries.entry(at).or_insert(child);
        }
    }

    /// Sends all but the names that are `in_use`, which it returns.
    fn send(self, kernel: &impl Kernel, in_use: &InUse) -> Self {
        let mut waiting = Self {
            moved: send_moved(self.moved, kernel, in_use),
            ..Self::default()
        };
        for ((parent, name), child) in self.entries {
            if in_use.contains(&(parent, name.clone())) {
                waiting.entries.insert((parent, name), child);
                continue;
            }
            let deleted = child.map(|child| kernel.delete(parent, child, &name));
            // The kernel refuses a deletion where the name stands for something else there, or for
            // a folder in use; to drop the name is then the part that counts.
            if !matches!(deleted, Some(Ok(()))) {
                log_failure(kernel.inval_entry(parent, &name));
            }
        }
        for ino in self.folders {
            log_failure(kernel.inval_inode(ino, true));
        }
        for (ino, content) in self.inodes {
            log_failure(kernel.inval_inode(ino, content));
        }
        waiting
    }
}

/// Lets directories be where they are now. A name is dropped only where no directory is that was moved
/// there, and nothing is mounted below: that would go with it. Returns those that are to wait.
fn send_moved(
    moved: BTreeMap<(Ino, Vec<u8>), Moved>,
    kernel: &impl Kernel,
    in_use: &InUse,
) -> BTreeMap<(Ino, Vec<u8>), Moved> {
    let mut waiting = BTreeMap::new();
    let (mut known, unknown): (Vec<_>, Vec<_>) = moved
        .into_iter()
        .partition(|(_, moved)| kernel.knows(moved.child));
    // What is above before what is below it.
    known.sort_by_key(|(_, moved)| moved.path.len());
    let mut found = BTreeSet::new();
    for ((parent, name), moved) in known {
        let (from, to) = ((parent, name), (moved.to, moved.last()));
        let mut is_found = kernel.finds(moved.child, &moved.path);
        if !is_found && !in_use.contains(&to) {
            // The kernel may know that there is nothing, or something else.
            log_failure(kernel.inval_entry(to.0, &to.1));
            is_found = kernel.finds(moved.child, &moved.path);
        }
        if is_found {
            // It has left the old name, where something else may be by now.
            found.insert(to);
        } else if in_use.contains(&from) || in_use.contains(&to) {
            waiting.insert(from, moved);
        } else if !found.contains(&from) {
            log_failure(kernel.inval_entry(from.0, &from.1));
        }
    }
    for (from, moved) in unknown {
        let to = (moved.to, moved.last());
        if in_use.contains(&to) && !found.contains(&to) {
            waiting.insert(from, moved);
        } else if !found.contains(&to) {
            log_failure(kernel.inval_entry(to.0, &to.1));
        }
    }
    waiting
}

/// A notice fails when the mount has gone, which the session notices by itself, or where the kernel
/// cannot drop what is in use, which it then looks up anew when its time is up.
fn log_failure(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "the kernel did not take a notice");
    }
}

/// Different notices that wait at most before whoever applies changes has to wait: about 10 MB.
const PENDING_MAX: usize = 65_536;

/// How often is looked whether something is still mounted below a name that is to go.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// After how long a notice goes out again: far longer than a woken process takes to take in the
/// answer that it waited for, and shorter than anybody notices.
const REPEAT_AFTER: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[derive(Debug, PartialEq, Eq)]
    enum Sent {
        Inode(Ino, bool),
        Entry(Ino, Vec<u8>),
        Delete(Ino, Ino, Vec<u8>),
    }

    /// Waits for a permit before each notice, as a kernel with a locked inode does.
    struct SlowKernel {
        permits: mpsc::Receiver<()>,
        sent: mpsc::Sender<Sent>,
    }

    impl SlowKernel {
        fn send(&self, sent: Sent) -> io::Result<()> {
            self.permits.recv().map_err(io::Error::other)?;
            self.sent.send(sent).map_err(io::Error::other)
        }
    }

    impl Kernel for SlowKernel {
        fn inval_inode(&self, ino: Ino, content: bool) -> io::Result<()> {
            self.send(Sent::Inode(ino, content))
        }
        fn inval_entry(&self, parent: Ino, name: &[u8]) -> io::Result<()> {
            self.send(Sent::Entry(parent, name.to_vec()))
        }
        fn knows(&self, _: Ino) -> bool {
            true
        }
        fn finds(&self, _: Ino, _: &[u8]) -> bool {
            false
        }
        fn names_in_use(&self) -> InUse {
            InUse::new()
        }
        fn lets_go(&self, _: Ino, _: &[u8]) {}
        fn delete(&self, parent: Ino, child: Ino, name: &[u8]) -> io::Result<()> {
            self.send(Sent::Delete(parent, child, name.to_vec()))?;
            match name {
                b"refused" => Err(io::ErrorKind::ResourceBusy.into()),
                _ => Ok(()),
            }
        }
    }

    /// Has directories in the root by their names, as the kernel has, and takes note of those that lose
    /// theirs, and so what is mounted below them.
    #[derive(Default)]
    struct Names {
        there: Mutex<BTreeMap<Vec<u8>, Ino>>,
        lost: Mutex<Vec<Ino>>,
    }

    impl Kernel for Names {
        fn inval_inode(&self, _: Ino, _: bool) -> io::Result<()> {
            Ok(())
        }
        fn inval_entry(&self, _: Ino, name: &[u8]) -> io::Result<()> {
            self.lost.lock().extend(self.there.lock().remove(name));
            Ok(())
        }
        fn knows(&self, child: Ino) -> bool {
            self.there.lock().values().any(|there| *there == child)
        }
        fn finds(&self, child: Ino, path: &[u8]) -> bool {
            let mut there = self.there.lock();
            if !there.contains_key(path) {
                there.retain(|_, ino| *ino != child);
                there.insert(path.to_vec(), child);
            }
            there.get(path) == Some(&child)
        }
        fn names_in_use(&self) -> InUse {
            InUse::new()
        }
        fn lets_go(&self, _: Ino, _: &[u8]) {}
        fn delete(&self, parent: Ino, _: Ino, name: &[u8]) -> io::Result<()> {
            self.inval_entry(parent, name)
        }
    }

    #[test]
    fn of_directories_that_were_swapped_the_one_that_is_known_loses_nothing() {
        for (names, children) in [([b"a", b"b"], [3, 4]), ([b"b", b"a"], [3, 4])] {
            let kernel = Names::default();
            kernel
                .there
                .lock()
                .insert(names[0].to_vec(), Ino(children[0]));
            let mut pending = Pending::default();
            for at in [0, 1] {
                pending.add(Invalidation::Moved {
                    parent: Ino::ROOT,
                    name: names[at].to_vec(),
                    child: Ino(children[at]),
                    to: Ino::ROOT,
                    path: names[1 - at].to_vec(),
                });
            }
            pending.send(&kernel, &InUse::new());
            assert_eq!(*kernel.lost.lock(), []);
            let there = kernel.there.lock().get(&names[1][..]).copied();
            assert_eq!(there, Some(Ino(children[0])));
        }
    }

    #[test]
    fn a_name_below_which_something_is_mounted_waits_until_that_is_gone() {
        let kernel = Names::default();
        let mut pending = Pending::default();
        for (name, child) in [("removed", Ino(3)), ("another", Ino(4))] {
            let (parent, name) = (Ino::ROOT, name.as_bytes().to_vec());
            kernel.there.lock().insert(name.clone(), child);
            pending.add(Invalidation::Delete {
                parent,
                child,
                name,
            });
        }
        let in_use = (Ino::ROOT, b"removed".to_vec());
        let waiting = pending.send(&kernel, &InUse::from([in_use]));
        assert_eq!(*kernel.lost.lock(), [Ino(4)]);
        let mut pending = Pending::default();
        pending.add_waiting(waiting);
        assert!(pending.send(&kernel, &InUse::new()).is_empty());
        assert_eq!(*kernel.lost.lock(), [Ino(4), Ino(3)]);
    }

    #[test]
    fn notices_merge_while_the_kernel_keeps_one_waiting() {
        let (permit, permits) = mpsc::channel();
        let (sender, sent) = mpsc::channel();
        let kernel = SlowKernel {
            permits,
            sent: sender,
        };
        let invalidator = Invalidator::start(kernel, Gate::default()).unwrap();
        // The thread takes this one, perhaps with some that follow, and waits for a permit; what
        // comes meanwhile merges into one more round. Inodes and folders go out twice.
        invalidator.push(Invalidation::Attr(Ino(9)));
        for _ in 0..100 {
            invalidator.push(Invalidation::Attr(Ino(5)));
            invalidator.push(Invalidation::Content(Ino(5)));
            invalidator.push(Invalidation::Entry {
                parent: Ino(7),
                name: b"a".to_vec(),
            });
            invalidator.push(Invalidation::Delete {
                parent: Ino(7),
                child: Ino(8),
                name: b"refused".to_vec(),
            });
        }
        let expected = [
            Sent::Inode(Ino(9), false),
            Sent::Inode(Ino(5), true),
            Sent::Inode(Ino(7), true),
            Sent::Entry(Ino(7), b"a".to_vec()),
            Sent::Delete(Ino(7), Ino(8), b"refused".to_vec()),
            Sent::Entry(Ino(7), b"refused".to_vec()),
        ];
        let mut all = Vec::new();
        while !expected.iter().all(|one| all.contains(one)) {
            permit.send(()).unwrap();
            all.push(sent.recv_timeout(Duration::from_secs(10)).unwrap());
        }
        assert!(all.len() <= 4 * expected.len(), "not merged: {all:?}");
        invalidator.close();
        invalidator.push(Invalidation::Attr(Ino(1)));
        drop(permit);
        assert!(sent.recv().is_err());
    }

    #[test]
    fn a_notice_waits_for_the_answers_before_it_and_comes_twice() {
        let (permit, permits) = mpsc::channel();
        let (sender, sent) = mpsc::channel();
        let kernel = SlowKernel {
            permits,
            sent: sender,
        };
        let gate = Gate::default();
        let invalidator = Invalidator::start(kernel, gate.clone()).unwrap();
        for _ in 0..9 {
            permit.send(()).unwrap();
        }
        let answer = gate.hold();
        invalidator.push(Invalidation::Content(Ino(5)));
        let early = sent.recv_timeout(Duration::from_millis(20));
        assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout));
        // The notice waits, and who answers meanwhile does not wait for it.
        while gate.sides[0].try_read().is_some() {
            std::thread::yield_now();
        }
        drop(gate.hold());
        drop(answer);
        let next = || sent.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(next(), Sent::Inode(Ino(5), true));
        assert_eq!(next(), Sent::Inode(Ino(5), false));
        invalidator.close();
        assert!(sent.recv().is_err(), "not a third time");
    }

    #[tokio::test]
    async fn a_full_queue_makes_the_applier_wait_until_it_drains() {
        let (permit, permits) = mpsc::channel();
        let (sender, sent) = mpsc::channel();
        let kernel = SlowKernel {
            permits,
            sent: sender,
        };
        let invalidator = Invalidator::start(kernel, Gate::default()).unwrap();
        invalidator.has_room().await;
        // The thread takes one batch, of whatever is there by then, and waits in it for a permit:
        // what is pushed after that stays.
        let fill = |from: u64| {
            let to = from + PENDING_MAX as u64;
            (from..=to).for_each(|ino| invalidator.push(Invalidation::Attr(Ino(ino))));
        };
        fill(0);
        while invalidator.shared.queue.lock().pending.len() > PENDING_MAX {
            std::thread::yield_now();
        }
        fill(2 * PENDING_MAX as u64);
        let room = invalidator.has_room();
        tokio::pin!(room);
        let waits = std::future::poll_fn(|context| {
            std::task::Poll::Ready(room.as_mut().poll(context).is_pending())
        });
        assert!(waits.await);
        drop(permit);
        room.await;
        drop(sent);
        invalidator.close();
    }
}
