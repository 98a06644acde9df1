//! Reading the view: rows of the store behind a cache of decoded inodes and entries.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::ops::{ControlFlow, Range, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::{Mutex, RwLock};

use super::arrivals::Arrivals;
use super::overlay::Room;
use super::rows::{Row, RowKey, Stored, Value};
use super::types::{Conflict, DirKey, Dirent, Extent, Field, Inode};
use super::writer::LIGHT_ROOM;
use super::{Result, VolumeError};
use crate::base::limits::CHUNK_BYTES;
use crate::base::memory::Budget;
use crate::base::{DeviceId, Ino, LogId, OpId};
use crate::crypto::VolumeKeys;
use crate::log::LogStore;
use crate::store::Rows;

/// Rows kept decoded: 65,536 of about 400 bytes are 26 MiB, more than the inodes and entries of a
/// source tree that a build walks again and again.
const CACHE_BYTES: u64 = (1 << 16) * CACHE_ROW_BYTES;
const CACHE_ROW_BYTES: u64 = 400;

/// Of a state of the past fewer: there may be several of them.
const PAST_CACHE_ROWS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Longer rows are not kept, so that the bound on their number is one on their bytes: the targets of
/// long symlinks, which nobody walks again and again.
const CACHE_ROW_MAX_BYTES: usize = 768;

/// What is thought of as light work: half of what an op may meet, so that others of its pieces meet
/// something, too.
const HALF_ROOM: Room = Room {
    bytes: LIGHT_ROOM.bytes / 2,
    rows: LIGHT_ROOM.rows / 2,
};

/// Longest chain of directories merged into one another that is followed.
const ALIAS_HOPS_MAX: usize = 64;

/// Marks the private copy of a file without a name that local handles change: never in an op.
const PRIVATE_BIT: u64 = 1 << 63;

/// The rows of the view as of the last commit. Shared by readers and the writer.
#[derive(Debug)]
pub(super) struct View {
    pub(super) rows: Arc<dyn Rows>,
    keys: Arc<VolumeKeys>,
    log: Arc<LogStore>,
    /// Taken for moments only, never while another lock is waited for.
    cache: Mutex<Cache>,
    /// Files whose local handles see a private copy; nearly always empty.
    private: RwLock<HashSet<Ino>>,
    /// Files that are back, and of which a private copy goes on under a number of the kernel.
    parted: RwLock<HashSet<Ino>>,
    /// When nodes changed here by what others did.
    pub(super) arrivals: Arrivals,
    /// Held alone while a merge is committed; who holds it waits for no writer.
    pub(super) merging: RwLock<()>,
    /// Rows of extents that were looked at.
    pub(super) visits: AtomicU64,
}

#[derive(Debug)]
struct Cache {
    rows: LruCache<RowKey, Option<Row>>,
    /// Counts commits, so that a reader does not cache what a commit has just replaced.
    commits: u64,
}

impl Cache {
    fn put(&mut self, key: &RowKey, row: &Option<Row>) {
        let is_long = |row: &Row| row.bytes.len() > CACHE_ROW_MAX_BYTES;
        if row.as_ref().is_some_and(is_long) {
            self.rows.pop(key);
        } else {
            self.rows.put(*key, row.clone());
        }
    }
}

/// Returns how many rows are kept decoded.
fn cache_rows(budget: Budget) -> NonZeroUsize {
    let rows = budget.part(CACHE_BYTES, 8) / CACHE_ROW_BYTES;
    let rows = usize::try_from(rows).ok().and_then(NonZeroUsize::new);
    rows.unwrap_or(NonZeroUsize::MIN)
}

impl View {
    pub(super) fn new(rows: Arc<dyn Rows>, keys: Arc<VolumeKeys>, log: Arc<LogStore>) -> Self {
        Self::with_cache(rows, keys, log, cache_rows(Budget::of_caches()))
    }

    /// Returns a view in which something is made that nobody sees yet, in about the order of the rows: of
    /// those an eighth is kept decoded.
    pub(super) fn beside(rows: Arc<dyn Rows>, keys: Arc<VolumeKeys>, log: Arc<LogStore>) -> Self {
        let usual = cache_rows(Budget::of_caches());
        let cached = NonZeroUsize::new(usual.get() / 8).unwrap_or(NonZeroUsize::MIN);
        Self::with_cache(rows, keys, log, cached)
    }

    /// Returns the view of `rows`, of which so many are kept decoded.
    pub(super) fn with_cache(
        rows: Arc<dyn Rows>,
        keys: Arc<VolumeKeys>,
        log: Arc<LogStore>,
        cached: NonZeroUsize,
    ) -> Self {
        let arrivals = Arrivals::open(&*rows);
        Self::over(rows, keys, log, cached, arrivals)
    }

    /// Returns the view of rows that change no more. None is read before it is asked for.
    pub(super) fn of_past(rows: Arc<dyn Rows>, keys: Arc<VolumeKeys>, log: Arc<LogStore>) -> Self {
        Self::over(rows, keys, log, PAST_CACHE_ROWS, Arrivals::unknown())
    }

    fn over(
        rows: Arc<dyn Rows>,
        keys: Arc<VolumeKeys>,
        log: Arc<LogStore>,
        cached: NonZeroUsize,
        arrivals: Arrivals,
    ) -> Self {
        Self {
            arrivals,
            rows,
            keys,
            log,
            cache: Mutex::new(Cache {
                rows: LruCache::new(cached),
                commits: 0,
            }),
            private: RwLock::default(),
            parted: RwLock::default(),
            merging: RwLock::default(),
            visits: AtomicU64::new(0),
        }
    }

    /// Returns where `name` stands in a directory (or among the attributes of a node).
    pub(super) fn dir_key(&self, parent: Ino, name: &[u8]) -> DirKey {
        DirKey(self.keys.name_hash(parent, name))
    }

    /// Returns a row.
    pub(super) fn row(&self, key: &RowKey) -> Result<Option<Row>> {
        if !is_cached(key) {
            return self.load(key);
        }
        let commits = {
            let mut cache = self.cache.lock();
            if let Some(row) = cache.rows.get(key) {
                return Ok(row.clone());
            }
            cache.commits
        };
        let row = self.load(key)?;
        let mut cache = self.cache.lock();
        if cache.commits == commits {
            cache.put(key, &row);
        }
        Ok(row)
    }

    fn load(&self, key: &RowKey) -> Result<Option<Row>> {
        match self.rows.get(key.table(), key.bytes().as_ref())? {
            Some(bytes) => Ok(Some(Stored::decode(key, Bytes::from(bytes))?)),
            None => Ok(None),
        }
    }

    /// Visits the rows of one table with `from <= key < to` in order, until `f` breaks.
    pub(super) fn scan(
        &self,
        from: &RowKey,
        to: &RowKey,
        f: &mut dyn FnMut(RowKey, Row) -> ControlFlow<()>,
    ) -> Result<()> {
        self.scan_rows(from, to, false, f)
    }

    /// Visits the keys of the same rows as [`View::scan`], in order, until `f` breaks.
    pub(super) fn scan_keys(
        &self,
        from: &RowKey,
        to: &RowKey,
        f: &mut dyn FnMut(RowKey) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut failed = None;
        let (start, end) = (from.bytes(), to.bytes());
        let mut visit = |key: &[u8]| match RowKey::parse(from, key) {
            Ok(key) => f(key),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        };
        let (table, end) = (from.table(), Some(end.as_ref()));
        self.rows
            .scan_keys(table, start.as_ref(), end, &mut visit)?;
        failed.map_or(Ok(()), Err)
    }

    /// Visits the same rows as [`View::scan`], last first.
    pub(super) fn scan_rev(
        &self,
        from: &RowKey,
        to: &RowKey,
        f: &mut dyn FnMut(RowKey, Row) -> ControlFlow<()>,
    ) -> Result<()> {
        self.scan_rows(from, to, true, f)
    }

    fn scan_rows(
        &self,
        from: &RowKey,
        to: &RowKey,
        reverse: bool,
        f: &mut dyn FnMut(RowKey, Row) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut failed = None;
        let (start, end) = (from.bytes(), to.bytes());
        let mut visit = |key: &[u8], value: &[u8]| {
            let row = RowKey::parse(from, key)
                .and_then(|key| Ok((key, Stored::decode(&key, Bytes::copy_from_slice(value))?)));
            match row {
                Ok((key, row)) => f(key, row),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        let (table, end) = (from.table(), Some(end.as_ref()));
        if reverse {
            self.rows.scan_rev(table, start.as_ref(), end, &mut visit)?;
        } else {
            self.rows.scan(table, start.as_ref(), end, &mut visit)?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Takes note of rows that were just committed.
    pub(super) fn install<'a>(&self, rows: impl Iterator<Item = (&'a RowKey, &'a Option<Row>)>) {
        let mut cache = self.cache.lock();
        cache.commits += 1;
        for (key, row) in rows.filter(|(key, _)| is_cached(key)) {
            cache.put(key, row);
        }
    }

    /// Returns the volume's keys.
    pub(super) fn keys(&self) -> &VolumeKeys {
        &self.keys
    }

    /// Forgets what is cached: rows were committed that are not named here.
    pub(super) fn forget(&self) {
        let cap = self.cache.lock().rows.cap();
        let mut rows = LruCache::new(cap);
        let mut cache = self.cache.lock();
        cache.commits += 1;
        std::mem::swap(&mut cache.rows, &mut rows);
        // To drop tens of thousands of rows takes milliseconds: not while lookups wait.
        drop(cache);
        drop(rows);
    }

    /// Returns the number under which rows of `ino` are kept for local handles.
    pub(super) fn effective(&self, ino: Ino) -> Ino {
        let private = self.private.read();
        if !private.is_empty() && private.contains(&ino) {
            private_of(ino)
        } else {
            ino
        }
    }

    /// Makes local handles of `ino` see its private copy, or no longer.
    pub(super) fn set_private(&self, ino: Ino, private: bool) {
        let mut set = self.private.write();
        if private {
            set.insert(ino);
        } else {
            set.remove(&ino);
        }
    }

    /// Lets all see a file that is back but those whose number stands for its private copy.
    pub(super) fn part(&self, ino: Ino) {
        self.parted.write().insert(ino);
        self.set_private(ino, false);
    }

    /// Says that the private copy of a file that is back is gone.
    pub(super) fn forget_parted(&self, ino: Ino) {
        self.parted.write().remove(&ino);
    }

    /// Returns the files that are back while a private copy goes on.
    pub(super) fn parted(&self) -> Vec<Ino> {
        self.parted.read().iter().copied().collect()
    }

    /// Returns the files whose local handles see a private copy.
    pub(super) fn private_files(&self) -> Vec<Ino> {
        let set = self.private.read();
        if set.is_empty() {
            return Vec::new();
        }
        let mut files: Vec<Ino> = set.iter().copied().collect();
        files.sort_unstable();
        files
    }

    /// Returns the device that wrote a log. A log that is not known here belongs to nobody's device:
    /// no op of it is in the view.
    pub(super) fn device_of(&self, log: LogId) -> DeviceId {
        self.log.author(log).unwrap_or_default()
    }

    /// Tells whether a log may be one of this device.
    pub(super) fn may_be_own(&self, log: LogId) -> bool {
        let own = self.log.own_device();
        self.log.author(log).is_none_or(|author| author == own)
    }

    /// Returns what people call a device.
    pub(super) fn device_name(&self, device: DeviceId) -> Result<Option<String>> {
        match self.row(&RowKey::Device(device))?.as_deref() {
            Some(Stored {
                value: Value::Device(name),
                ..
            }) => Ok(Some(name.clone())),
            _ => Ok(None),
        }
    }

    /// Returns an inode; follows a directory that was merged into another, and a file that another
    /// stands for.
    pub(super) fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        let mut at = self.effective(ino);
        for _ in 0..ALIAS_HOPS_MAX {
            if let Some(row) = self.row(&RowKey::Inode(at))? {
                let inode = as_inode(&row)?;
                if let Some(twin) = &inode.kin.twin {
                    at = self.effective(twin.of);
                    continue;
                }
                let mut inode = inode.clone();
                if is_private(at) {
                    inode.ino = name_scope(at);
                }
                if inode.is_dir() {
                    self.date(&mut inode)?;
                }
                return Ok(Some(inode));
            }
            match self.row(&RowKey::Alias(at))?.as_deref() {
                Some(Stored {
                    value: Value::Alias(to),
                    ..
                }) => at = *to,
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Gives a directory the mtime that the last op says which named it, or one that is a part of it.
    fn date(&self, dir: &mut Inode) -> Result<()> {
        let mut last = dir.cells.by(Field::Mtime, dir.created_by);
        for part in &dir.kin.beside {
            if let Some(Value::Dated(dated)) = self
                .row(&RowKey::Dated(*part))?
                .as_deref()
                .map(|row| &row.value)
                && dated.by > last
            {
                (dir.mtime, last) = (dated.mtime, dated.by);
            }
        }
        Ok(())
    }

    /// Returns under which number the rows of a node lie.
    fn holder(&self, ino: Ino) -> Result<Ino> {
        if is_private(ino) || !self.arrivals.may_be_elsewhere(ino) {
            return Ok(self.effective(ino));
        }
        Ok(self.effective(self.dir(ino)?))
    }

    /// Returns the numbers of the inodes in a range, in order.
    pub(super) fn inodes_within(&self, range: &RangeInclusive<u64>) -> Result<Vec<Ino>> {
        let mut found = Vec::new();
        let (from, to) = (*range.start(), range.end().saturating_add(1));
        let (from, to) = (RowKey::Inode(Ino(from)), RowKey::Inode(Ino(to)));
        self.scan_keys(&from, &to, &mut |key| {
            if let RowKey::Inode(ino) = key {
                found.push(ino);
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Returns the directory that `ino` names now.
    pub(super) fn dir(&self, ino: Ino) -> Result<Ino> {
        Ok(self.inode(ino)?.map_or(ino, |inode| inode.ino))
    }

    pub(super) fn dirent(&self, parent: Ino, name: &[u8]) -> Result<Option<Dirent>> {
        let mut dir = self.dir(parent)?;
        loop {
            let row = self.row(&RowKey::Dirent(dir, self.dir_key(dir, name)))?;
            if let Some(Stored {
                value: Value::Dirent(dirent),
                ..
            }) = row.as_deref()
                && dirent.name == name
            {
                return Ok(Some(dirent.clone()));
            }
            match self.dir_since(parent, dir)? {
                Some(now) => dir = now,
                None => return Ok(None),
            }
        }
    }

    /// Returns which directory `ino` names where that is another than `before`: what is not found there
    /// may have gone along a moment ago.
    fn dir_since(&self, ino: Ino, before: Ino) -> Result<Option<Ino>> {
        if !self.arrivals.may_be_elsewhere(before) {
            return Ok(None);
        }
        // A merge is in the rows before the cache shows it.
        drop(self.merging.read());
        let now = self.dir(ino)?;
        Ok((now != before).then_some(now))
    }

    pub(super) fn readdir(
        &self,
        parent: Ino,
        after: Option<DirKey>,
        f: &mut dyn FnMut(DirKey, &Dirent) -> bool,
    ) -> Result<()> {
        let mut dir = self.dir(parent)?;
        loop {
            let (from, to) = dirent_range(dir);
            let from = after.map_or(from, |after| RowKey::Dirent(dir, after));
            let mut is_empty = true;
            self.scan(&from, &to, &mut |key, row| match (key, &row.value) {
                (RowKey::Dirent(_, at), Value::Dirent(dirent)) => {
                    is_empty = false;
                    if Some(at) == after || f(at, dirent) {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                }
                _ => ControlFlow::Continue(()),
            })?;
            match self.dir_since(parent, dir)? {
                Some(now) if is_empty => dir = now,
                _ => return Ok(()),
            }
        }
    }

    pub(super) fn extents(&self, ino: Ino, range: Range<u64>) -> Result<Vec<Extent>> {
        let mut extents = Vec::new();
        self.each_extent(ino, range, &mut |extent| {
            extents.push(extent.clone());
            ControlFlow::Continue(())
        })?;
        Ok(extents)
    }

    pub(super) fn each_extent(
        &self,
        ino: Ino,
        range: Range<u64>,
        f: &mut dyn FnMut(&Extent) -> ControlFlow<()>,
    ) -> Result<()> {
        let ino = self.holder(ino)?;
        if range.start >= range.end {
            return Ok(());
        }
        // Most extents begin where a chunk does, and most reads are within one: it is the only one.
        let likely = RowKey::Extent(ino, range.start / CHUNK_BYTES * CHUNK_BYTES);
        if let Some(row) = self.row(&likely)?
            && let Value::Extent(extent) = &row.value
            && extent.end() >= range.end
        {
            self.count_visit();
            let _ = f(extent);
            return Ok(());
        }
        if range.start > 0
            && let Some(before) = self.extent_before(ino, range.start)?
        {
            self.count_visit();
            if f(&before).is_break() {
                return Ok(());
            }
        }
        self.scan(
            &RowKey::Extent(ino, range.start),
            &RowKey::Extent(ino, range.end),
            &mut |_, row| match &row.value {
                Value::Extent(extent) => {
                    self.count_visit();
                    f(extent)
                }
                _ => ControlFlow::Continue(()),
            },
        )
    }

    pub(super) fn light_end(&self, ino: Ino, range: Range<u64>) -> Result<u64> {
        let mut room = HALF_ROOM;
        let mut end = range.end;
        self.each_extent(ino, range.clone(), &mut |extent| {
            match room.after_extent(extent) {
                Some(left) => room = left,
                None => end = extent.offset.max(range.start),
            }
            match end == range.end {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        Ok(end)
    }

    pub(super) fn light_start(&self, ino: Ino, range: Range<u64>) -> Result<u64> {
        let (from, to) = (range.start, range.end.max(range.start));
        let ino = self.holder(ino)?;
        let mut room = HALF_ROOM;
        let mut start = from;
        let (low, high) = (RowKey::Extent(ino, from), RowKey::Extent(ino, to));
        self.scan_rev(&low, &high, &mut |_, row| {
            let Value::Extent(extent) = &row.value else {
                return ControlFlow::Continue(());
            };
            self.count_visit();
            match room.after_extent(extent) {
                Some(left) => {
                    room = left;
                    ControlFlow::Continue(())
                }
                None => {
                    start = extent.end().max(from);
                    ControlFlow::Break(())
                }
            }
        })?;
        Ok(start)
    }

    fn count_visit(&self) {
        self.visits.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the extent that starts before `offset` and reaches beyond it.
    fn extent_before(&self, ino: Ino, offset: u64) -> Result<Option<Extent>> {
        let mut found = None;
        // No extent is longer than a chunk. Further back there may be much that was deleted, which
        // a scan passes over one by one.
        let first = offset.saturating_sub(CHUNK_BYTES);
        self.scan_rev(
            &RowKey::Extent(ino, first),
            &RowKey::Extent(ino, offset),
            &mut |_, row| {
                if let Value::Extent(extent) = &row.value
                    && extent.end() > offset
                {
                    found = Some(extent.clone());
                }
                ControlFlow::Break(())
            },
        )?;
        Ok(found)
    }

    pub(super) fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Bytes>> {
        // Inodes are cached, attributes are not, and most nodes have none.
        let Some(inode) = self.inode(ino)?.filter(|inode| inode.xattrs > 0) else {
            return Ok(None);
        };
        let key = RowKey::Xattr(
            self.attributes_of(ino, inode.ino),
            self.dir_key(name_scope(inode.ino), name),
        );
        match self.row(&key)?.as_deref() {
            Some(Stored {
                value: Value::Xattr(xattr),
                ..
            }) if xattr.name == name => Ok(Some(xattr.value.clone())),
            _ => Ok(None),
        }
    }

    /// Returns under which number the attributes of a node lie that was asked for as `asked`.
    fn attributes_of(&self, asked: Ino, ino: Ino) -> Ino {
        match is_private(asked) {
            true => asked,
            false => self.effective(ino),
        }
    }

    pub(super) fn xattr_names(&self, ino: Ino) -> Result<Vec<Bytes>> {
        let mut names = Vec::new();
        let Some(inode) = self.inode(ino)?.filter(|inode| inode.xattrs > 0) else {
            return Ok(names);
        };
        let (from, to) = xattr_range(self.attributes_of(ino, inode.ino));
        self.scan(&from, &to, &mut |_, row| {
            if let Value::Xattr(xattr) = &row.value {
                names.push(xattr.name.clone());
            }
            ControlFlow::Continue(())
        })?;
        Ok(names)
    }

    pub(super) fn is_within(&self, dir: Ino, ino: Ino) -> Result<bool> {
        let ino = self.dir(ino)?;
        let mut at = dir;
        for _ in 0..DEPTH_MAX {
            let Some(inode) = self.inode(at)? else {
                return Ok(false);
            };
            if inode.ino == ino {
                return Ok(true);
            }
            match inode.home {
                Some(home) if inode.ino != Ino::ROOT => at = home.parent,
                _ => return Ok(false),
            }
        }
        Ok(false)
    }

    pub(super) fn conflicts(&self) -> Result<Vec<Conflict>> {
        let mut conflicts = Vec::new();
        let from = RowKey::Conflict(OpId::default());
        self.scan(&from, &RowKey::Conflict(OP_MAX), &mut |_, row| {
            if let Value::Conflict(conflict) = &row.value {
                conflicts.push(conflict.clone());
            }
            ControlFlow::Continue(())
        })?;
        Ok(conflicts)
    }
}

/// Deepest directory that is walked upwards: far beyond what PATH_MAX lets programs make by path.
pub(super) const DEPTH_MAX: usize = 100_000;

/// Above every op.
pub(super) const OP_MAX: OpId = OpId {
    stamp: crate::base::Stamp(u64::MAX),
    log: LogId(u64::MAX),
};

/// Returns the bounds of the entries of a directory.
pub(super) fn dirent_range(parent: Ino) -> (RowKey, RowKey) {
    (
        RowKey::Dirent(parent, DirKey([0; 16])),
        RowKey::Dirent(Ino(parent.0.saturating_add(1)), DirKey([0; 16])),
    )
}

/// Returns the bounds of the attributes of a node.
pub(super) fn xattr_range(ino: Ino) -> (RowKey, RowKey) {
    (
        RowKey::Xattr(ino, DirKey([0; 16])),
        RowKey::Xattr(Ino(ino.0.saturating_add(1)), DirKey([0; 16])),
    )
}

/// Returns the number of the private copy of `ino`.
pub(super) fn private_of(ino: Ino) -> Ino {
    Ino(ino.0 | PRIVATE_BIT)
}

/// Tells whether a number is that of a private copy.
pub(super) fn is_private(ino: Ino) -> bool {
    ino.0 & PRIVATE_BIT != 0
}

/// Returns the number that scopes hashes of attribute names: a private copy has those of the file.
pub(super) fn name_scope(ino: Ino) -> Ino {
    Ino(ino.0 & !PRIVATE_BIT)
}

/// Returns the inode of an inode row.
pub(super) fn as_inode(row: &Row) -> Result<&Inode> {
    match &row.value {
        Value::Inode(inode) => Ok(inode),
        _ => Err(VolumeError::Corrupt {
            what: "an inode row of another kind",
        }),
    }
}

fn is_cached(key: &RowKey) -> bool {
    matches!(
        key,
        RowKey::Inode(_) | RowKey::Dirent(..) | RowKey::Dated(_)
    )
}
