//! Room: whether what is to be written still fits, and giving up what nothing names before it is
//! said that it does not.
//!
//! How much nothing names is estimated without reading anything by the **debt**: the bytes of all chunks
//! here less the bytes that files have. Files that share chunks make it smaller, and files whose chunks
//! others hold, so it says nothing by itself; but since the last collection it has grown by what became
//! superfluous, and by what others removed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::dirty::{Body, SealedPlace};
use super::inode_table::Content;
use super::{Fs, FsError, OwnRoom, Result};
use crate::base::ChunkId;
use crate::base::limits::INLINE_MAX_BYTES;
use crate::data::DataError;
use crate::replica::{Collected, Named, Terms, UNNAMED_MIN};
use crate::store::{Batch, Table};
use crate::volume::Source;

/// What is known of the room of a volume.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Bytes that may be written before the next look: small writes, and others.
    credits: [AtomicU64; 2],
    /// A leaf lock.
    spare: Mutex<Spare>,
    /// Held by who makes room, under no other lock.
    making: Mutex<()>,
}

/// What is known of the chunks that nothing needs.
#[derive(Debug, Default)]
struct Spare {
    /// The least debt since the last collection; `None` where nobody knows.
    least: Option<i64>,
    /// The rows were asked for it.
    is_read: bool,
    /// The same as the rows have it.
    kept: Option<i64>,
    /// No collection is begun before, for all that is estimated.
    next: Duration,
    /// No collection is begun before on suspicion alone, where there is no room.
    next_forced: Duration,
    /// What the last collection left for later; `None` before the first.
    left: Option<Left>,
}

/// What a collection left for later.
#[derive(Debug, Clone, Copy)]
struct Left {
    /// When it ended.
    at: Duration,
    /// What it found.
    found: Collected,
    /// The base line by then.
    base_line: u64,
}

impl Fs {
    /// Takes room for `len` bytes that are written up to `end` of a file.
    ///
    /// # Errors
    ///
    /// [`FsError::NoSpace`] where there is none, also after what nothing needs was given up. To be
    /// called under no lock, and before anything is changed.
    pub(super) fn take_room(&self, end: u64, len: u64) -> Result<()> {
        let Some(source) = &self.config.room else {
            return Ok(());
        };
        // What travels with its op goes on where chunks are refused already: the rows look after
        // themselves.
        let is_small = end <= INLINE_MAX_BYTES;
        let credit = &self.room.credits[usize::from(is_small)];
        let spend = |credit: u64| credit.checked_sub(len);
        if credit
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend)
            .is_ok()
        {
            return Ok(());
        }
        let look = || {
            let own = source.own();
            let disk = if is_small { u64::MAX } else { own.disk_bytes };
            let unwritten = self.dirty_bytes.load(Ordering::Relaxed);
            disk.min(own.allowed_bytes).saturating_sub(unwritten)
        };
        let mut free = look();
        if free < len {
            self.make_room(len);
            free = look();
        }
        let Some(left) = free.checked_sub(len) else {
            return Err(FsError::NoSpace);
        };
        credit.store(
            (left / CREDIT_PART).min(CREDIT_MAX_BYTES),
            Ordering::Relaxed,
        );
        Ok(())
    }

    /// Gives up what nothing needs, until `wanted` more bytes fit than are unwritten.
    pub(super) fn make_room(&self, wanted: u64) {
        let Some(source) = &self.config.room else {
            return;
        };
        let _one_at_a_time = self.room.making.lock();
        let missing = || {
            let OwnRoom {
                disk_bytes,
                allowed_bytes,
            } = source.own();
            let unwritten = self.dirty_bytes.load(Ordering::Relaxed);
            let wanted = wanted.saturating_add(unwritten);
            wanted.saturating_sub(disk_bytes.min(allowed_bytes))
        };
        // Twice: what is being written counts twice until it is in the volume, so more seems to be
        // missing than is.
        for _ in 0..2 {
            if missing() > 0 && self.contents.evict(missing()) {
                self.give_back();
            }
            let is_short = missing() > 0;
            if is_short && let Err(error) = self.volume.seal_drafts() {
                // Files that were removed keep their chunks until then.
                tracing::warn!(%error, "what was removed lately stays");
            }
            if is_short
                && self.is_forced_collection_due(missing())
                && let Err(error) = self.press(&missing)
            {
                tracing::warn!(%error, "nothing could be given up");
            }
            if missing() == 0 || self.dirty_bytes.load(Ordering::Relaxed) == 0 {
                return;
            }
            for node in self.inodes.dirty() {
                self.write_out_in_background(&node);
            }
        }
    }

    /// Collects, and gives history up, the oldest first, until nothing is missing or there is none.
    fn press(&self, missing: &dyn Fn() -> u64) -> Result<()> {
        loop {
            let collected = self.collect_now()?;
            self.give_back();
            // Where it is not known what is named, nothing that history gives up would make room.
            if collected.is_none() || missing() == 0 || !self.volume.shorten_history()? {
                return Ok(());
            }
        }
    }

    /// Frees on the disk what a collection gave up, if anything: on a full one nothing is written that would
    /// bring the next sync.
    fn give_back_of(&self, collected: Option<Collected>) {
        if collected.is_some_and(|collected| collected.count > 0) {
            self.give_back();
        }
    }

    fn give_back(&self) {
        if let Err(error) = self.contents.give_back() {
            tracing::warn!(%error, "the room of what was given up is not free yet");
        }
    }

    /// Collects where that is due: at least `worth` bytes of chunks here seem to be named by nothing, or what
    /// the last collection left for later may go now, or some seem to be left and it is long ago; returns what
    /// it did, `None` where nothing was looked at.
    pub fn collect_if_due(&self, worth: u64) -> Result<Option<Collected>> {
        // Who makes room collects, too.
        let Some(_one_at_a_time) = self.room.making.try_lock() else {
            return Ok(None);
        };
        let is_due = {
            let mut spare = self.room.spare.lock();
            let estimate = self.estimate(&mut spare);
            self.keep_least(&mut spare)?;
            let now = self.clock.monotonic();
            now >= spare.next && (estimate >= worth || self.is_left_due(&spare, estimate, now))
        };
        let collected = match is_due {
            true => self.collect_now()?,
            false => None,
        };
        self.give_back_of(collected);
        Ok(collected)
    }

    /// Tells whether what the last collection left for later may go now, or is worth a look.
    fn is_left_due(&self, spare: &Spare, estimate: u64, now: Duration) -> bool {
        let Some(left) = &spare.left else {
            // What an earlier start left.
            return now >= FIRST_LOOK;
        };
        let next_ms = left.found.next_ms;
        let is_time = next_ms.is_some_and(|next_ms| next_ms <= self.clock.wall_ms());
        let looks_back = left.found.is_blocked || left.found.past_bytes > 0;
        let has_moved = looks_back && self.volume.base_line() != left.base_line;
        let ago = now.saturating_sub(left.at);
        is_time || has_moved && ago >= MOVED_PAUSE || estimate > 0 && ago >= LOOK_PAUSE
    }

    /// Takes note of what is known when the filesystem is opened.
    pub(super) fn note_superfluous(&self) {
        self.estimate(&mut self.room.spare.lock());
    }

    /// Returns how many bytes of chunks here seem to be needed by nothing.
    pub fn superfluous_bytes(&self) -> u64 {
        match self.estimate(&mut self.room.spare.lock()) {
            UNKNOWN => 0,
            estimate => estimate.min(self.contents.stored_bytes()),
        }
    }

    fn debt(&self) -> i64 {
        let stored = i64::try_from(self.contents.stored_bytes()).unwrap_or(i64::MAX);
        let named = i64::try_from(self.volume.counts().large_bytes).unwrap_or(i64::MAX);
        stored - named
    }

    fn estimate(&self, spare: &mut Spare) -> u64 {
        if self.contents.stored_bytes() == 0 {
            spare.least = Some(self.debt());
        } else if !spare.is_read {
            spare.least = self.kept_least();
            spare.kept = spare.least;
        }
        spare.is_read = true;
        let debt = self.debt();
        match &mut spare.least {
            Some(least) => {
                *least = debt.min(*least);
                u64::try_from(debt.saturating_sub(*least)).unwrap_or(0)
            }
            None => UNKNOWN,
        }
    }

    /// Returns whether a collection is worth its while where so many bytes do not fit: where they
    /// seem to be superfluous, or some are, and now and then where not, as the estimate may miss
    /// some.
    fn is_forced_collection_due(&self, missing: u64) -> bool {
        let now = self.clock.monotonic();
        let mut spare = self.room.spare.lock();
        let estimate = self.estimate(&mut spare);
        estimate >= missing
            || estimate >= FORCED_MIN_BYTES && now >= spare.next
            || now >= spare.next_forced
    }

    /// Gives up the chunks of the local store that nothing names and that may go, and says what it did.
    /// Reads the places of all contents: some seconds for a million files. Returns `None` while what came from
    /// others is being folded.
    pub fn collect(&self) -> Result<Option<Collected>> {
        let _one_at_a_time = self.room.making.lock();
        // What history keeps no longer names nothing.
        self.volume.thin_history()?;
        let collected = self.collect_now()?;
        self.give_back_of(collected);
        Ok(collected)
    }

    /// Returns what names chunks here, unwritten changes too.
    pub fn named(&self) -> Result<Named> {
        // First: what is written meanwhile is in the volume by the end.
        let in_use = self.chunks_in_use();
        let mut named = self.volume.named()?;
        named.files.extend(&in_use);
        named.files.extend(&self.chunks_in_use());
        Ok(named)
    }

    /// Returns chunks that this machine alone may name, whatever all have folded; waits for nothing.
    pub fn named_here(&self) -> Result<Vec<ChunkId>> {
        let mut ids = self.volume.named_here()?;
        for node in self.inodes.dirty() {
            let content = node.content();
            let dirty = content.dirty.iter();
            for (_, fragment) in dirty.flat_map(|dirty| dirty.fragments.iter()) {
                ids.extend(match &fragment.body {
                    Body::Stored(Source::Chunk { id, .. }) => Some(*id),
                    Body::Sealing(sealing, _) => match sealing.place() {
                        SealedPlace::Chunk(sealed) => Some(sealed.id),
                        SealedPlace::Memory(_) => None,
                    },
                    Body::Stored(Source::Inline(_)) | Body::Memory(_) | Body::Hole => None,
                });
            }
        }
        Ok(ids)
    }

    /// Collects.
    fn collect_now(&self) -> Result<Option<Collected>> {
        let began = self.clock.monotonic();
        let line = self.volume.base_line();
        let collection = self.contents.collection();
        let named = match self.named() {
            Err(FsError::TimedOut) => return Ok(None),
            named => named?,
        };
        // While nobody else issues ops none is on its way.
        let (wait_ms, base_line) = match named.is_alone {
            true => (0, u64::MAX),
            false => (millis(UNNAMED_MIN), named.base_line),
        };
        let terms = Terms {
            now_ms: self.clock.wall_ms(),
            wait_ms,
            base_line,
        };
        let collected = collection.run(&named, &terms);
        drop(collection);
        // What is being written is here already, and makes the debt smaller as soon as a file has it.
        let unnamed = i64::try_from(self.unnamed_bytes()).unwrap_or(i64::MAX);
        let now = self.clock.monotonic();
        let pause = now.saturating_sub(began).saturating_mul(PAUSE_FACTOR);
        let mut spare = self.room.spare.lock();
        spare.next = now + pause;
        spare.next_forced = now + pause.max(FORCED_PAUSE);
        let collected = collected.map_err(DataError::from)?;
        spare.least = Some(self.debt().saturating_sub(unnamed));
        spare.left = Some(Left {
            at: now,
            found: collected,
            base_line: line,
        });
        Ok(Some(collected))
    }

    /// Returns how many bytes of unwritten changes may be in chunks already.
    fn unnamed_bytes(&self) -> u64 {
        let nodes = self.inodes.dirty().into_iter();
        let of_node = |content: &Content| -> u64 {
            let fragments = content
                .dirty
                .iter()
                .flat_map(|dirty| dirty.fragments.iter());
            fragments
                .filter(|(_, fragment)| {
                    let body = &fragment.body;
                    matches!(body, Body::Sealing(..) | Body::Stored(Source::Chunk { .. }))
                })
                .map(|(_, fragment)| fragment.len)
                .sum()
        };
        nodes.map(|node| of_node(&node.content())).sum()
    }

    /// Keeps the least debt for the next start, where it has changed much.
    fn keep_least(&self, spare: &mut Spare) -> Result<()> {
        let (Some(least), Some(rows)) = (spare.least, &self.config.rows) else {
            return Ok(());
        };
        if spare
            .kept
            .is_some_and(|kept| kept.abs_diff(least) < KEPT_STEP_BYTES)
        {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.put(Table::Meta, LEAST_KEY, least.to_le_bytes());
        rows.commit(batch)?;
        spare.kept = Some(least);
        Ok(())
    }

    fn kept_least(&self) -> Option<i64> {
        let row = self.config.rows.as_ref()?.get(Table::Meta, LEAST_KEY);
        row.ok()??.try_into().ok().map(i64::from_le_bytes)
    }

    /// Returns the chunks that unwritten changes name. Waits for those that are being sealed.
    fn chunks_in_use(&self) -> HashSet<ChunkId> {
        let mut ids = HashSet::new();
        let mut sealings = Vec::new();
        for node in self.inodes.dirty() {
            let content = node.content();
            let fragments = content
                .dirty
                .iter()
                .flat_map(|dirty| dirty.fragments.iter());
            for (_, fragment) in fragments {
                match &fragment.body {
                    Body::Stored(Source::Chunk { id, .. }) => {
                        ids.insert(*id);
                    }
                    Body::Sealing(sealing, _) => sealings.push(Arc::clone(sealing)),
                    Body::Stored(Source::Inline(_)) | Body::Memory(_) | Body::Hole => {}
                }
            }
        }
        let settled = sealings
            .iter()
            .map(|sealing| sealing.settle(&self.contents));
        // One that fails has left no chunk that anybody will name.
        ids.extend(settled.flatten().map(|sealed| sealed.id));
        ids
    }
}

/// The estimate where nothing is known: worth a look in any case.
const UNKNOWN: u64 = u64::MAX;

/// Where the least debt is kept.
const LEAST_KEY: &[u8] = b"fs/least debt";

/// The debt is kept again when it has moved by so much; a crash forgets less than that.
const KEPT_STEP_BYTES: u64 = 8 << 20;

/// A look at the room allows this part of it to be written before the next one, at most.
const CREDIT_PART: u64 = 4;
const CREDIT_MAX_BYTES: u64 = 4 << 20;

/// Where there is no room, so few superfluous bytes are worth a collection.
const FORCED_MIN_BYTES: u64 = 1 << 20;

/// Collections take at most a tenth of the time.
const PAUSE_FACTOR: u32 = 9;

/// How often a collection is begun without an estimate, where there is no room.
const FORCED_PAUSE: Duration = Duration::from_secs(30);

/// How long after a start, or after the last collection, it is looked at what an earlier one left, where the
/// base line has moved since, and where there is little.
const FIRST_LOOK: Duration = Duration::from_secs(60);
const MOVED_PAUSE: Duration = Duration::from_secs(20);
const LOOK_PAUSE: Duration = Duration::from_secs(3_600);

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
