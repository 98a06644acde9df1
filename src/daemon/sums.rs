//! Watching the rows: they are read again in rounds, and at a record, while nothing is tentative, compared
//! with what the other members say of theirs. Where something differs all is folded anew from what is
//! signed; nobody takes a row on another's word.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::peer::{Member, Peer};
use super::troubles::Trouble;
use crate::base::PeerId;
use crate::volume::{Anew, Checked};
use crate::wire::Settled;

/// How long a round takes about, and one begins after another.
const ROUND: Duration = Duration::from_secs(60);

/// Looks of a round, as they come twice a second, and slices of rows of one look at most.
const LOOKS: u64 = 120;
const SLICES_MAX: u64 = 100;

/// Rows of a slice.
const SLICE_ROWS: u64 = 128;

/// How long after something differed it is folded anew: all members are to hear of it before.
const MEND_AFTER: Duration = Duration::from_secs(10);

/// How long what was folded anew in vain is not folded anew again.
const AGAIN_AFTER: Duration = Duration::from_secs(3600);

/// How long it is told that something differed which does not any more.
const TOLD_FOR: Duration = Duration::from_secs(3600);

/// What was seen of the rows.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// When the last round began, and whether it has ended.
    round: Option<Duration>,
    is_through: bool,
    /// How many rows there were at its end.
    rows: u64,
    /// Since when rows are known to be others than were put there.
    damaged: Option<Duration>,
    /// When rows were mended, and how many.
    mended: Option<(Duration, usize)>,
    /// Members whose rows differ, since when; and until when they did.
    unequal: BTreeMap<PeerId, (Duration, Option<Duration>)>,
    /// When everything was folded anew, and nothing differed.
    in_vain: Option<Duration>,
}

/// Returns how many slices of so many rows are read at a look.
fn slices_of(rows: u64) -> u64 {
    (rows / SLICE_ROWS / LOOKS + 1).min(SLICES_MAX)
}

impl Peer {
    /// Reads some rows again, says what follows from all of them, and looks whether others say the same.
    pub(super) async fn watch_rows(&self, member: &Member) {
        let now = self.clock().monotonic();
        if let Some(checked) = self.read_on(member, now).await {
            let mut seen = self.sums.0.lock();
            (seen.rows, seen.is_through) = (checked.rows, true);
            if checked.is_right {
                seen.damaged = None;
            } else {
                seen.damaged.get_or_insert(now);
            }
        }
        let settled = match member.volume.at_rest() {
            Ok(settled) => settled,
            Err(error) => {
                tracing::debug!(%error, "the rows cannot be summed up now");
                None
            }
        };
        self.node().set_settled(settled);
        if let Some(settled) = settled {
            self.compare(&settled, now);
        }
        if self.is_to_mend(now) {
            self.mend(member, now).await;
        }
        self.tell_rows(now);
    }

    /// Reads the rows of one look; returns what came of a round that ends with them.
    async fn read_on(&self, member: &Member, now: Duration) -> Option<Checked> {
        let slices = {
            let mut seen = self.sums.0.lock();
            let begins = seen
                .round
                .is_none_or(|began| seen.is_through && now >= began + ROUND);
            if begins {
                (seen.round, seen.is_through) = (Some(now), false);
            } else if seen.is_through {
                return None;
            }
            // Of a volume that was never read through about as many as its files have.
            let rows = seen
                .rows
                .max(member.volume.counts().inodes.saturating_mul(4));
            slices_of(rows)
        };
        let volume = Arc::clone(&member.volume);
        let read = move || {
            for _ in 0..slices {
                match volume.check_rows() {
                    Ok(None) => {}
                    ended => return ended,
                }
            }
            Ok(None)
        };
        match self.asking_pool().call(read).await? {
            Ok(checked) => checked,
            Err(error) => {
                tracing::warn!(%error, "rows cannot be read again");
                None
            }
        }
    }

    /// Compares what follows from the own rows with what others say.
    fn compare(&self, settled: &Settled, now: Duration) {
        let mut seen = self.sums.0.lock();
        let said = self.node().settled_of_peers();
        for (peer, theirs) in said
            .iter()
            .filter(|(_, said)| said.record == settled.record)
        {
            if theirs.mac != settled.mac {
                let (since, until) = seen.unequal.entry(*peer).or_insert((now, None));
                if until.take().is_some() {
                    *since = now;
                }
            } else if let Some((_, until)) = seen.unequal.get_mut(peer) {
                until.get_or_insert(now);
            }
        }
    }

    /// Tells whether it is time to fold everything anew.
    fn is_to_mend(&self, now: Duration) -> bool {
        let seen = self.sums.0.lock();
        let unequal = seen.unequal.values().filter(|(_, until)| until.is_none());
        let since = unequal.map(|(since, _)| *since).chain(seen.damaged).min();
        let in_vain = seen.in_vain.is_some_and(|at| now < at + AGAIN_AFTER);
        since.is_some_and(|since| now >= since + MEND_AFTER) && !in_vain
    }

    async fn mend(&self, member: &Member, now: Duration) {
        let folded = self.anew(member).await;
        let mut seen = self.sums.0.lock();
        match folded {
            Ok(Anew {
                changes, differing, ..
            }) => {
                if differing > 0 {
                    tracing::warn!(rows = differing, "rows that were damaged are mended");
                    let before = seen.mended.map_or(0, |(_, rows)| rows);
                    seen.mended = Some((now, before + differing));
                } else {
                    seen.in_vain = Some(now);
                }
                seen.damaged = None;
                drop(seen);
                self.waiting.anew.done();
                self.invalidate(member.fs.apply_changes(&changes));
            }
            Err(error) => {
                tracing::warn!(%error, "nothing is folded anew");
                seen.in_vain = Some(now);
            }
        }
    }

    /// Tells of what differs, and for a while of what differed.
    fn tell_rows(&self, now: Duration) {
        let mut seen = self.sums.0.lock();
        let troubles = self.troubles();
        seen.unequal
            .retain(|_, (_, until)| until.is_none_or(|until| now < until + TOLD_FOR));
        let is_told = |(at, _): &(Duration, usize)| now < *at + TOLD_FOR;
        seen.mended = seen.mended.filter(is_told);
        let what = match (seen.damaged, seen.mended) {
            (Some(_), _) => Some((
                "rows of this machine's database are not what was put there".to_owned(),
                "nothing: they are made anew from the signed changes in a moment; check the disk"
                    .to_owned(),
            )),
            (None, Some((_, rows))) => Some((
                format!("{rows} rows of this machine's database were damaged; they are mended"),
                "check the disk and the memory of this machine".to_owned(),
            )),
            (None, None) => None,
        };
        troubles.set(Trouble::Rows, what);
        let unequal = seen.unequal.clone();
        troubles.clear_all(|trouble| match trouble {
            Trouble::Unequal(peer) => !unequal.contains_key(peer),
            _ => false,
        });
        for (peer, (_, until)) in unequal {
            let name = self.peer_name(peer);
            let (what, advice) = match (until, seen.in_vain) {
                (Some(_), _) => (
                    format!(
                        "what this machine and {name} make of the same changes differed; it is equal again"
                    ),
                    "nothing: dfs status there or here says whose rows were mended",
                ),
                (None, None) => (
                    format!("what this machine and {name} make of the same changes differs"),
                    "nothing: each makes its rows anew from the signed changes in a moment, and whose were \
                     damaged mends them",
                ),
                (None, Some(_)) => (
                    format!(
                        "what this machine and {name} make of the same changes differs, and the rows here are \
                         what this program makes of them"
                    ),
                    "if it says the same there the two programs differ: use one version of dfs on both",
                ),
            };
            troubles.note(Trouble::Unequal(peer), what, advice);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::workers::TICK_INTERVAL;

    #[test]
    fn a_million_rows_are_read_so_often_that_damage_is_told_within_three_minutes() {
        const TOLD_WITHIN: Duration = Duration::from_secs(180);
        for rows in [0, 1_000, 100_000, 1_000_000] {
            let looks = rows / SLICE_ROWS / slices_of(rows) + 1;
            let round = ROUND.max(TICK_INTERVAL * u32::try_from(looks).unwrap());
            // What is damaged just behind where it was read is met in the next round. A look takes a while,
            // too, and others hear of it.
            assert!(
                2 * round + round / 2 <= TOLD_WITHIN,
                "{rows} rows: {round:?}"
            );
        }
    }
}
