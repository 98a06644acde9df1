//! Giving history up: what is older than the volume keeps it, and of what is older than an hour all but some.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::{Result, Volume};
use super::{
    GONE_EXTENT_TAG, GONE_TAG, GONE_XATTR_TAG, Gone, LOST_TAG, Lost, VERSION_TAG, Version, decode,
    end_of, extent_key, extents_prefix, ino_in, node_prefix, offset_in, op_in, version_key,
};
use crate::base::{Ino, OpId};
use crate::store::{Batch, Table, codec};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// What is kept of versions that are older than the first is one in each stretch of the second: the last.
const CLASSES: [(u64, u64); 3] = [
    (HOUR_MS, 10 * MINUTE_MS),
    (DAY_MS, HOUR_MS),
    (7 * DAY_MS, DAY_MS),
];

/// What lies within so long is given up at once where there is no room.
const MOMENT_MS: u64 = 10 * MINUTE_MS;

/// How much later than the last look the next one is.
const LOOK_MS: u64 = 10 * MINUTE_MS;

/// Rows that are moved or removed in one batch.
const SLICE_ROWS: usize = 1024;

/// Files that are looked through before others have the rows.
const SLICE_FILES: usize = 256;

/// How long a look waits for what is being folded.
const FEED_WAIT_MAX: Duration = Duration::from_millis(250);

/// A version as the look for what goes needs it.
#[derive(Debug, Clone)]
struct Seen {
    /// The op that replaced it.
    by: OpId,
    version: Version,
}

impl Volume {
    /// Gives up what history keeps no longer, some time after it did so last. Nothing is folded meanwhile, and
    /// nobody looks which chunks are named.
    pub(in super::super) fn thin_in_turn(&self) -> Result<()> {
        let now_ms = self.history_now()?;
        let last_ms = self.history.looked_ms.load(Ordering::Relaxed);
        if now_ms < last_ms.saturating_add(LOOK_MS) {
            return Ok(());
        }
        if self.thin_history()? {
            self.history.looked_ms.store(now_ms, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Gives up what history keeps no longer, by the time of the newest record that is folded; says whether
    /// that was possible now.
    pub fn thin_history(&self) -> Result<bool> {
        let kept_ms = self.history.kept_ms.load(Ordering::Relaxed);
        let oldest_ms = match kept_ms {
            0 => u64::MAX,
            kept_ms => self.history_now()?.saturating_sub(kept_ms),
        };
        self.give_up(oldest_ms)
    }

    /// Gives up the older half of history, by time, as there is no room; says whether there was any. What is
    /// of one moment goes at once.
    pub fn shorten_history(&self) -> Result<bool> {
        let Some((first_ms, last_ms)) = self.history_span()? else {
            return Ok(false);
        };
        let half_ms = last_ms.saturating_sub(first_ms) / 2;
        let oldest_ms = match half_ms {
            0..MOMENT_MS => last_ms.saturating_add(1),
            half_ms => first_ms.saturating_add(half_ms),
        };
        let given_up = self.give_up(oldest_ms)?;
        if given_up {
            tracing::warn!(oldest_ms, "there is no room for all of the history");
            self.history
                .short_ms
                .fetch_max(oldest_ms, Ordering::Relaxed);
        }
        Ok(given_up)
    }

    /// Returns the time before which what was replaced or removed cannot be had back here, since there was no
    /// room for it; `None` where there was, as far as this start knows.
    pub fn history_gave_way(&self) -> Option<u64> {
        let since_ms = self.history.short_ms.load(Ordering::Relaxed);
        (since_ms > 0).then_some(since_ms)
    }

    /// Returns when the first and the last of what is kept was replaced or removed.
    fn history_span(&self) -> Result<Option<(u64, u64)>> {
        let mut span: Option<(u64, u64)> = None;
        let mut take = |at_ms: u64| {
            let (first, last) = span.unwrap_or((at_ms, at_ms));
            span = Some((first.min(at_ms), last.max(at_ms)));
        };
        self.scan_history(&[VERSION_TAG], &mut |_, value| {
            take(decode::<Version>(value)?.at_ms);
            Ok(())
        })?;
        self.scan_history(&[GONE_TAG], &mut |_, value| {
            take(decode::<Gone>(value)?.at_ms);
            Ok(())
        })?;
        Ok(span)
    }

    /// Gives up what is older than a time, and what is thinned by now; says whether that was possible.
    fn give_up(&self, oldest_ms: u64) -> Result<bool> {
        let Some(feed) = self.feed.try_lock_for(FEED_WAIT_MAX) else {
            return Ok(false);
        };
        if oldest_ms == u64::MAX {
            // What a crash left of a batch goes along.
            self.drop_rows(&[])?;
            return Ok(true);
        }
        let now_ms = self.history_now()?;
        self.drop_gone(oldest_ms)?;
        self.drop_lost(oldest_ms)?;
        let mut from = Some(vec![VERSION_TAG]);
        while let Some(start) = from {
            let (files, next) = self.versions_from(&start)?;
            for (ino, versions) in files {
                self.thin_file(ino, versions, oldest_ms, now_ms)?;
            }
            from = next;
        }
        drop(feed);
        Ok(true)
    }

    /// Returns the time of the newest folded record. Of one whose author's clock is far ahead the own clock's:
    /// nobody's history goes by that.
    pub(super) fn history_now(&self) -> Result<u64> {
        let (number, newest) = {
            let state = self.state.lock();
            (state.chain.record.number, state.newest)
        };
        let record = match number {
            0 => None,
            number => self.config.chain.get(number)?,
        };
        let time_ms = record.map_or_else(|| newest.stamp.ms(), |record| record.time_ms);
        let own_ms = self.context.clock.wall_ms();
        Ok(time_ms.min(own_ms.saturating_add(HOUR_MS)))
    }

    /// Returns the versions of some files, and where those of the next begin.
    #[expect(
        clippy::type_complexity,
        reason = "two returned values, read at one place"
    )]
    fn versions_from(&self, start: &[u8]) -> Result<(BTreeMap<Ino, Vec<Seen>>, Option<Vec<u8>>)> {
        let mut files: BTreeMap<Ino, Vec<Seen>> = BTreeMap::new();
        let (mut next, mut failed) = (None, None);
        let end = end_of(&[VERSION_TAG]);
        let rows = &self.view.rows;
        let mut take = |key: &[u8], value: &[u8]| -> Result<bool> {
            let (ino, rest) = ino_in(key)?;
            if files.len() >= SLICE_FILES && !files.contains_key(&ino) {
                next = Some(key.to_vec());
                return Ok(false);
            }
            let (by, _) = op_in(rest)?;
            let mut version: Version = decode(value)?;
            version.image.clear();
            files.entry(ino).or_default().push(Seen { by, version });
            Ok(true)
        };
        rows.scan(
            Table::History,
            start,
            end.as_deref(),
            &mut |key, value| match take(key, value) {
                Ok(true) => ControlFlow::Continue(()),
                Ok(false) => ControlFlow::Break(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        failed.map_or(Ok((files, next)), Err)
    }

    /// Gives up versions of a file.
    fn thin_file(
        &self,
        ino: Ino,
        mut versions: Vec<Seen>,
        oldest_ms: u64,
        now_ms: u64,
    ) -> Result<()> {
        // What came behind what: each leads back to the one before.
        versions.sort_by_key(|seen| (seen.version.at_ms, seen.by));
        let goes = going(&versions, oldest_ms, now_ms);
        if goes.iter().all(|goes| !goes) {
            return Ok(());
        }
        let by_op: BTreeMap<OpId, usize> = (versions.iter().enumerate())
            .map(|(at, seen)| (seen.by, at))
            .collect();
        // From the oldest on, so that what is before is done with; by the way back, not by time.
        let mut order: Vec<usize> = Vec::with_capacity(versions.len());
        let mut is_placed = vec![false; versions.len()];
        for start in 0..versions.len() {
            let (mut way, mut at) = (Vec::new(), Some(start));
            while let Some(index) = at.filter(|index| is_placed.get(*index) == Some(&false)) {
                if let Some(placed) = is_placed.get_mut(index) {
                    *placed = true;
                }
                way.push(index);
                let of = versions.get(index).map(|seen| seen.version.of);
                at = of.and_then(|of| by_op.get(&of).copied());
            }
            order.extend(way.into_iter().rev());
        }
        // Which rows are there; a merged one leads to where the one before did.
        let mut left: BTreeMap<OpId, OpId> = BTreeMap::new();
        for index in order {
            let Some(seen) = versions.get(index) else {
                continue;
            };
            let below = left.get(&seen.version.of).copied();
            match (goes.get(index).copied().unwrap_or(false), below) {
                (false, _) => {
                    left.insert(seen.by, seen.by);
                }
                (true, Some(below)) if seen.version.at_ms >= oldest_ms => {
                    self.merge_versions(ino, below, seen.by)?;
                    left.remove(&below);
                    left.insert(seen.by, seen.by);
                }
                (true, _) => self.drop_version(ino, seen.by)?,
            }
        }
        Ok(())
    }

    /// Drops the content between two rows: the later one leads to where the one below it did.
    fn merge_versions(&self, ino: Ino, below: OpId, above: OpId) -> Result<()> {
        let (Some(first), Some(mut last)) =
            (self.version_row(ino, below)?, self.version_row(ino, above)?)
        else {
            return Ok(());
        };
        let prefix = extents_prefix(ino, below);
        loop {
            let mut batch = Batch::new();
            let mut is_all = true;
            let rows = &self.view.rows;
            let mut failed = None;
            rows.scan(
                Table::History,
                &prefix,
                end_of(&prefix).as_deref(),
                &mut |key, value| {
                    if batch.len() >= SLICE_ROWS {
                        is_all = false;
                        return ControlFlow::Break(());
                    }
                    let offset = key.get(prefix.len()..).unwrap_or_default();
                    match offset_in(offset) {
                        Ok(offset) => {
                            let to = extent_key(ino, above, offset);
                            batch.put(Table::History, to, value);
                            batch.delete(Table::History, key);
                            ControlFlow::Continue(())
                        }
                        Err(error) => {
                            failed = Some(error);
                            ControlFlow::Break(())
                        }
                    }
                },
            )?;
            if let Some(error) = failed {
                return Err(error);
            }
            if is_all {
                batch.delete(Table::History, version_key(ino, below));
                let empties = last.empties;
                let merged = Version { empties, ..first };
                let value = codec::encode(&merged);
                batch.put(Table::History, version_key(ino, above), value);
                return self.commit_history(batch);
            }
            if !last.merges {
                last.merges = true;
                let value = codec::encode(&last);
                batch.put(Table::History, version_key(ino, above), value);
            }
            self.commit_history(batch)?;
        }
    }

    /// Drops a content that nothing is behind.
    fn drop_version(&self, ino: Ino, by: OpId) -> Result<()> {
        let mut batch = Batch::new();
        batch.delete(Table::History, version_key(ino, by));
        self.commit_history(batch)?;
        self.drop_rows(&extents_prefix(ino, by))
    }

    /// Drops removed nodes that are older.
    fn drop_gone(&self, oldest_ms: u64) -> Result<()> {
        let mut gone = Vec::new();
        self.scan_history(&[GONE_TAG], &mut |key, value| {
            let row: Gone = decode(value)?;
            if row.at_ms < oldest_ms {
                gone.push(ino_in(key)?.0);
            }
            Ok(())
        })?;
        for ino in gone {
            for tag in [GONE_EXTENT_TAG, GONE_XATTR_TAG, GONE_TAG] {
                self.drop_rows(&node_prefix(tag, ino))?;
            }
        }
        Ok(())
    }

    /// Drops entries that are older.
    fn drop_lost(&self, oldest_ms: u64) -> Result<()> {
        let mut lost = Vec::new();
        self.scan_history(&[LOST_TAG], &mut |key, value| {
            let row: Lost = decode(value)?;
            if row.at_ms < oldest_ms {
                lost.push(key.to_vec());
            }
            Ok(())
        })?;
        for keys in lost.chunks(SLICE_ROWS) {
            let mut batch = Batch::new();
            for key in keys {
                batch.delete(Table::History, key);
            }
            self.commit_history(batch)?;
        }
        Ok(())
    }

    pub(super) fn drop_rows(&self, prefix: &[u8]) -> Result<()> {
        loop {
            let mut batch = Batch::new();
            let rows = &self.view.rows;
            let end = end_of(prefix);
            rows.scan_keys(Table::History, prefix, end.as_deref(), &mut |key| {
                batch.delete(Table::History, key);
                match batch.len() < SLICE_ROWS {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            let is_all = batch.len() < SLICE_ROWS;
            self.commit_history(batch)?;
            if is_all {
                return Ok(());
            }
        }
    }

    fn commit_history(&self, batch: Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.view.rows.settle()?;
        let _state = self.state.lock();
        Ok(self.view.rows.commit(batch)?)
    }
}

/// Says of each version of a file, in order of time, whether it is given up.
///
/// What is kept follows from the versions and the time alone, not from when it was looked last: what one look
/// keeps of a stretch of time is what a later one would keep of it.
fn going(versions: &[Seen], oldest_ms: u64, now_ms: u64) -> Vec<bool> {
    let mut last_in: BTreeMap<(usize, u64), (u64, OpId)> = BTreeMap::new();
    let counts = |seen: &&Seen| {
        let version = &seen.version;
        version.at_ms >= oldest_ms && !version.passes && !version.merges
    };
    for seen in versions.iter().filter(counts) {
        let made = (seen.version.of.stamp.ms(), seen.version.of);
        for (class, (_, stretch_ms)) in CLASSES.iter().enumerate() {
            let last = last_in.entry((class, made.0 / stretch_ms)).or_default();
            *last = made.max(*last);
        }
    }
    let goes = |seen: &Seen| {
        if !counts(&seen) {
            return true;
        }
        let made = (seen.version.of.stamp.ms(), seen.version.of);
        let classes = CLASSES.iter().enumerate();
        let mut is_thinned = classes.map(|(class, (age_ms, stretch_ms))| {
            let stretch = made.0 / stretch_ms;
            let end_ms = stretch.saturating_add(1).saturating_mul(*stretch_ms);
            let is_old = end_ms.saturating_add(*age_ms) <= now_ms;
            is_old && last_in.get(&(class, stretch)) != Some(&made)
        });
        is_thinned.any(|thinned| thinned)
    };
    versions.iter().map(goes).collect()
}
