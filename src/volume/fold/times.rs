//! The times of directories.
//!
//! The mtime of one is what the last op says that named it: by its id, whatever was folded first. What
//! an op named stays what it named, wherever that leads to when more is known. So each number has a
//! time of its own, also where its directory is a part of another, which shows the last of them all; and
//! an op that is undone leaves it, as it says the same again. What comes and goes where histories
//! meet says nothing of it.

use super::{Fold, Result};
use crate::base::{Ino, Timespec};
use crate::volume::overlay::Delta;
use crate::volume::rows::{Dated, RowKey, Value};
use crate::volume::sight::Sight;
use crate::volume::types::{Field, Inode};

/// Most directories that are a part of one and whose times show in it.
const PARTS_MAX: usize = 16;

impl Fold<'_> {
    /// Moves the times of a directory on, in which the author of this op changed something.
    pub(super) fn touch(&mut self, named: Ino, time: Timespec) -> Result<()> {
        let Some(dir) = self.inode(named)?.filter(Inode::is_dir) else {
            return Ok(());
        };
        let is_late = matches!(self.sight, Sight::Only { is_late: true, .. });
        self.tx.count(dir.ino, Delta::default(), |dir| {
            dir.ctime = match is_late {
                true => dir.ctime.max(time),
                false => time,
            };
        })?;
        self.date(named, time)
    }

    /// Sets the mtime of a directory, where no later op did.
    pub(super) fn date(&mut self, named: Ino, mtime: Timespec) -> Result<()> {
        let by = self.id;
        if self.row_of(named)?.is_some() {
            return self.tx.count(named, Delta::default(), |dir| {
                if dir.cells.set(Field::Mtime, by) {
                    dir.mtime = mtime;
                }
            });
        }
        self.tx.shift(RowKey::Dated(named), |dated| {
            if let Value::Dated(dated) = dated
                && dated.by <= by
            {
                *dated = Dated { mtime, by };
            }
        })
    }

    /// Keeps the time of a directory that becomes a part of another, with those that are a part of it.
    pub(super) fn make_part(
        &mut self,
        ino: Ino,
        parts: &[Ino],
        into: Ino,
        dated: Dated,
    ) -> Result<()> {
        self.tx.put(RowKey::Dated(ino), Value::Dated(dated))?;
        let Some(mut dir) = self.row_of(into)? else {
            return Ok(());
        };
        let all = std::iter::once(&ino).chain(parts);
        let room = PARTS_MAX.saturating_sub(dir.kin.beside.len());
        dir.kin.beside.extend(all.take(room));
        self.save(dir)
    }
}
