//! How much of the time each member is there, as this peer sees it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::roster::MEMBERS_MAX;
use crate::base::PeerId;
use crate::store::{Batch, Rows, StoreError, Table, codec};
use crate::wire::bounded;

/// The time that is looked back at.
const WINDOW: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a member has to be known before anything follows from it.
const KNOWN_AFTER: Duration = Duration::from_secs(60);

const ROW_KEY: &[u8] = b"node/presence";

/// Some 50 bytes a member.
const ROW_MAX_BYTES: usize = MEMBERS_MAX * 64;

/// How much of a time somebody was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Presence {
    there_ms: u64,
    of_ms: u64,
}

impl Presence {
    /// Takes note of some more time, of which what lies before the window is forgotten.
    fn note(&mut self, is_there: bool, span: Duration) {
        let (span_ms, window_ms) = (millis(span.min(WINDOW)), millis(WINDOW));
        let keep_ms = self.of_ms.min(window_ms - span_ms);
        self.there_ms = scale(self.there_ms, keep_ms, self.of_ms);
        self.of_ms = keep_ms + span_ms;
        if is_there {
            self.there_ms += span_ms;
        }
    }

    /// Returns in thousandths how much of the time it was, 0 where that is not known for long enough.
    pub(super) fn permille(self) -> u64 {
        if self.of_ms < millis(KNOWN_AFTER) {
            return 0;
        }
        scale(1000, self.there_ms, self.of_ms)
    }
}

/// Returns `amount` times `part` by `whole`; `amount` where `whole` is nothing.
fn scale(amount: u64, part: u64, whole: u64) -> u64 {
    let scaled = u128::from(amount) * u128::from(part);
    let scaled = scaled.checked_div(u128::from(whole));
    scaled.map_or(amount, |scaled| u64::try_from(scaled).unwrap_or(u64::MAX))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The presence of all members. Of others only the time counts in which this peer ran: what they did
/// meanwhile it cannot know.
#[derive(Debug, Default)]
pub(super) struct Attendance {
    members: BTreeMap<PeerId, Presence>,
    /// Up to when that is, on the monotonic clock; `None` before the first look.
    until: Option<Duration>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    /// When it was written, milliseconds since 1970.
    at_ms: u64,
    #[serde(deserialize_with = "bounded::list::<_, _, MEMBERS_MAX>")]
    members: Vec<(PeerId, Presence)>,
}

impl Attendance {
    /// Reads what an earlier start kept; since then `own` was not there. What does not decode is
    /// forgotten: it is found out again.
    pub(super) fn load(rows: &dyn Rows, own: PeerId, now_ms: u64) -> Result<Self, StoreError> {
        let bytes = rows.get(Table::Meta, ROW_KEY)?;
        let row = bytes.and_then(|bytes| codec::decode::<Row>(&bytes, ROW_MAX_BYTES).ok());
        let mut members = BTreeMap::new();
        if let Some(row) = row {
            members.extend(row.members);
            let away = Duration::from_millis(now_ms.saturating_sub(row.at_ms));
            members.entry(own).or_default().note(false, away);
        }
        Ok(Self {
            members,
            until: None,
        })
    }

    /// Puts what a later start is to know.
    pub(super) fn put(&self, batch: &mut Batch, now_ms: u64) {
        let row = Row {
            at_ms: now_ms,
            members: self.members.iter().map(|(id, at)| (*id, *at)).collect(),
        };
        batch.put(Table::Meta, ROW_KEY, codec::encode(&row));
    }

    /// Takes note of who was there since the last look; all others are no members any more.
    pub(super) fn note(&mut self, members: &[(PeerId, bool)], now: Duration) {
        let since = self.until.replace(now).unwrap_or(now);
        let mut seen = BTreeMap::new();
        for (id, is_there) in members {
            let mut presence = self.members.get(id).copied().unwrap_or_default();
            presence.note(*is_there, now.saturating_sub(since));
            seen.insert(*id, presence);
        }
        self.members = seen;
    }

    /// Returns the presence of a member.
    pub(super) fn of(&self, peer: &PeerId) -> Presence {
        self.members.get(peer).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_last_thirty_days_count_and_what_is_known_for_a_moment_says_nothing() {
        let mut presence = Presence::default();
        presence.note(true, Duration::from_secs(59));
        assert_eq!(presence.permille(), 0);
        presence.note(true, Duration::from_secs(1));
        assert_eq!(presence.permille(), 1000);
        presence.note(false, Duration::from_secs(60));
        assert_eq!(presence.permille(), 500);
        for _ in 0..24 * 60 {
            presence.note(false, HOUR);
        }
        assert_eq!(presence.permille(), 0);
        for _ in 0..24 * 60 {
            presence.note(true, HOUR);
        }
        // What is forgotten is a share of all of it.
        assert!(presence.permille() > 850, "{presence:?}");
        presence.note(false, 100 * WINDOW);
        assert_eq!(presence.permille(), 0);
    }

    #[test]
    fn a_peer_knows_of_others_while_it_runs_and_of_itself_when_it_did_not() {
        let (own, other) = (PeerId([1; 32]), PeerId([2; 32]));
        let store = Store::memory();
        let mut attendance = Attendance::load(&*store.rows, own, 0).unwrap();
        attendance.note(&[(own, true), (other, true)], Duration::ZERO);
        attendance.note(&[(own, true), (other, false)], HOUR);
        attendance.note(&[(own, true), (other, true)], 2 * HOUR);
        assert_eq!(attendance.of(&other).permille(), 500);
        let mut batch = Batch::new();
        attendance.put(&mut batch, millis(2 * HOUR));
        store.rows.commit(batch).unwrap();

        let again = Attendance::load(&*store.rows, own, millis(8 * HOUR)).unwrap();
        assert_eq!(again.of(&other).permille(), 500);
        assert_eq!(again.of(&own).permille(), 250);
        // A clock that went back.
        let again = Attendance::load(&*store.rows, own, 0).unwrap();
        assert_eq!(again.of(&own).permille(), 1000);
    }
}
