//! For tests: a folder and rows that tell what is done to them, and at which a test may do or refuse
//! something in between.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::disk::{Disk, DiskFile, Folder, Room};
use super::{Batch, FrozenRows, KeyVisitor, RowVisitor, Rows, StoreError, Table};

/// What is done to a file, or to the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Make,
    Remove,
    Rename,
    SyncNames,
    Reserve,
    Write,
    Read,
    Sync,
    Punch,
}

/// Called before it is done, with the name of the file; what it refuses is not done.
type Rule<T> = Box<dyn FnMut(T) -> io::Result<()> + Send>;

/// A list of what was done, and what is asked before.
#[derive(Clone)]
struct Teller<T> {
    done: Arc<Mutex<Vec<T>>>,
    rule: Arc<Mutex<Option<Rule<T>>>>,
}

impl<T> Default for Teller<T> {
    fn default() -> Self {
        Self {
            done: Arc::default(),
            rule: Arc::default(),
        }
    }
}

impl<T> std::fmt::Debug for Teller<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Teller")
    }
}

impl<T: Clone> Teller<T> {
    /// The rule is asked for nothing that it does itself.
    fn tell(&self, done: T) -> io::Result<()> {
        let rule = self.rule.lock().take();
        if let Some(mut rule) = rule {
            let outcome = rule(done.clone());
            self.rule.lock().get_or_insert(rule);
            outcome?;
        }
        self.done.lock().push(done);
        Ok(())
    }
}

/// What was done, and to which file.
pub(super) type FileDone = (Done, String);

/// A folder that tells what is done to it.
#[derive(Debug)]
pub(super) struct ToldFolder {
    folder: Folder,
    /// What it says that is free; `None`: what there is.
    free: Mutex<Option<u64>>,
    teller: Teller<FileDone>,
}

impl ToldFolder {
    pub(super) fn new(path: &Path) -> Arc<Self> {
        Arc::new(Self {
            folder: Folder::new(path),
            free: Mutex::default(),
            teller: Teller::default(),
        })
    }

    /// Returns what was done since the last call.
    pub(super) fn take(&self) -> Vec<FileDone> {
        std::mem::take(&mut self.teller.done.lock())
    }

    /// Has something asked before each step, until another is said.
    pub(super) fn set_rule(&self, rule: impl FnMut(FileDone) -> io::Result<()> + Send + 'static) {
        *self.teller.rule.lock() = Some(Box::new(rule));
    }

    /// Refuses one kind of step to files whose names end so.
    pub(super) fn refuse(&self, what: Done, end: &'static str, kind: io::ErrorKind) {
        self.set_rule(
            move |(done, name)| match done == what && name.ends_with(end) {
                true => Err(kind.into()),
                false => Ok(()),
            },
        );
    }

    /// Refuses nothing any more.
    pub(super) fn allow(&self) {
        *self.teller.rule.lock() = None;
    }

    /// Has so many bytes said to be free.
    pub(super) fn set_free(&self, bytes: Option<u64>) {
        *self.free.lock() = bytes;
    }

    fn tell(&self, what: Done, name: &str) -> io::Result<()> {
        self.teller.tell((what, name.to_owned()))
    }
}

impl Disk for ToldFolder {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = match self.folder.open(name, false) {
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                self.tell(Done::Make, name)?;
                self.folder.open(name, true)?
            }
            opened => opened?,
        };
        Ok(Arc::new(ToldFile {
            file,
            name: name.to_owned(),
            teller: self.teller.clone(),
        }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.tell(Done::Remove, name)?;
        self.folder.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.tell(Done::Rename, from)?;
        self.folder.rename(from, to)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.folder.names()
    }

    fn sync_names(&self) -> io::Result<()> {
        self.tell(Done::SyncNames, "")?;
        self.folder.sync_names()
    }

    fn room(&self) -> io::Result<Room> {
        let mut room = self.folder.room()?;
        if let Some(free) = *self.free.lock() {
            (room.available, room.last) = (free, free);
        }
        Ok(room)
    }
}

#[derive(Debug)]
struct ToldFile {
    file: Arc<dyn DiskFile>,
    name: String,
    teller: Teller<FileDone>,
}

impl ToldFile {
    fn tell(&self, what: Done) -> io::Result<()> {
        self.teller.tell((what, self.name.clone()))
    }
}

impl DiskFile for ToldFile {
    fn write_at(&self, first: &[u8], second: &[u8], offset: u64) -> io::Result<()> {
        self.tell(Done::Write)?;
        self.file.write_at(first, second, offset)
    }

    fn read_at(&self, len: usize, offset: u64) -> io::Result<Bytes> {
        self.tell(Done::Read)?;
        self.file.read_at(len, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.tell(Done::Sync)?;
        self.file.sync_data()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.tell(Done::Punch)?;
        self.file.punch(offset, len)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.tell(Done::Reserve)?;
        self.file.reserve(len)
    }
}

/// What is done to rows: a commit with the bytes of its keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowsDone {
    Get(Table),
    Scan(Table),
    Commit(usize),
    Settle,
    Sync,
}

/// Rows that tell what is done to them. A rule is asked *before* each step; what it does itself comes between
/// that step and the one before.
#[derive(Debug)]
pub(super) struct ToldRows {
    rows: Arc<dyn Rows>,
    teller: Teller<RowsDone>,
}

impl ToldRows {
    pub(super) fn new(rows: Arc<dyn Rows>) -> Arc<Self> {
        Arc::new(Self {
            rows,
            teller: Teller::default(),
        })
    }

    /// Returns what was done since the last call.
    pub(super) fn take(&self) -> Vec<RowsDone> {
        std::mem::take(&mut self.teller.done.lock())
    }

    /// Returns the bytes of the commits since the last call.
    pub(super) fn take_commits(&self) -> Vec<usize> {
        let done = self.take().into_iter();
        done.filter_map(|done| match done {
            RowsDone::Commit(bytes) => Some(bytes),
            _ => None,
        })
        .collect()
    }

    /// Does something once, when so many steps are done from now on, before the next one.
    pub(super) fn do_behind(&self, steps: usize, act: impl FnOnce() + Send + 'static) {
        let (mut left, mut act) = (steps, Some(act));
        *self.teller.rule.lock() = Some(Box::new(move |_| {
            if left == 0
                && let Some(act) = act.take()
            {
                act();
            }
            left = left.saturating_sub(1);
            Ok(())
        }));
    }

    /// Refuses commits from now on.
    pub(super) fn refuse_commits(&self, kind: io::ErrorKind) {
        *self.teller.rule.lock() = Some(Box::new(move |done| match done {
            RowsDone::Commit(_) => Err(kind.into()),
            _ => Ok(()),
        }));
    }

    /// Refuses nothing any more.
    pub(super) fn allow(&self) {
        *self.teller.rule.lock() = None;
    }

    fn tell(&self, done: RowsDone) -> Result<(), StoreError> {
        self.teller.tell(done).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => StoreError::Full,
            _ => StoreError::Poisoned,
        })
    }
}

impl Rows for ToldRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.tell(RowsDone::Get(table))?;
        self.rows.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.tell(RowsDone::Scan(table))?;
        self.rows.scan(table, start, end, f)
    }

    fn scan_rev(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.tell(RowsDone::Scan(table))?;
        self.rows.scan_rev(table, start, end, f)
    }

    fn scan_keys(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut KeyVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.tell(RowsDone::Scan(table))?;
        self.rows.scan_keys(table, start, end, f)
    }

    fn freeze(&self, first: Table, last: Table) -> Result<Option<FrozenRows<'_>>, StoreError> {
        self.rows.freeze(first, last)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let bytes = batch
            .iter()
            .map(|(_, key, value)| key.len() + value.map_or(0, <[u8]>::len));
        self.tell(RowsDone::Commit(bytes.sum()))?;
        self.rows.commit(batch)
    }

    fn settle(&self) -> Result<(), StoreError> {
        self.tell(RowsDone::Settle)?;
        self.rows.settle()
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.rows.has_room(bytes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.tell(RowsDone::Sync)?;
        self.rows.sync()
    }
}
