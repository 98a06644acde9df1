//! When snapshots are due, and which are too many.
//!
//! One is made in each hour, day or week for which some are to be kept, by one machine: each waits for its turn,
//! which is another one each time, and looks whether another has made it. Two at once do no harm.

use crate::base::DeviceId;
use crate::base::time::civil_date;
use crate::node::Schedule;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// How much later than the one before each machine makes one, and most of that.
const TURN_MS: u64 = 3 * MINUTE_MS;
const TURNS_MAX: u64 = 10;

/// A kind of times at which snapshots are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    name: &'static str,
    every_ms: u64,
    /// From when on they are counted: a Monday.
    from_ms: u64,
    /// How many are kept.
    kept: usize,
}

fn kinds(schedule: &Schedule) -> [Kind; 3] {
    let kind = |name, every_ms, from_ms, kept: u16| Kind {
        name,
        every_ms,
        from_ms,
        kept: usize::from(kept),
    };
    [
        kind("hourly", HOUR_MS, 0, schedule.hourly),
        kind("daily", DAY_MS, 0, schedule.daily),
        kind("weekly", 7 * DAY_MS, 4 * DAY_MS, schedule.weekly),
    ]
}

impl Kind {
    /// Returns when the time began in which a moment is.
    fn begin(&self, now_ms: u64) -> u64 {
        let since = now_ms.saturating_sub(self.from_ms);
        self.from_ms + since / self.every_ms * self.every_ms
    }

    /// Returns the name of the snapshot of the time that begins then.
    fn name(&self, begin_ms: u64) -> String {
        let (year, month, day) = civil_date(begin_ms);
        let (hour, minute) = (begin_ms / HOUR_MS % 24, begin_ms / MINUTE_MS % 60);
        format!(
            "{}-{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}",
            self.name
        )
    }

    /// Returns what of the name of a snapshot says of which time it is, where it is of this kind. Their order
    /// is that of the times.
    fn time_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        let rest = name.strip_prefix(self.name)?.strip_prefix('-')?;
        // Of two of one time the later one has a number behind it.
        let time = rest.split_once(" (").map_or(rest, |(time, _)| time);
        let like = "0000-00-00T00:00";
        let is_like = |(byte, like): (u8, u8)| match like {
            b'0' => byte.is_ascii_digit(),
            _ => byte == like,
        };
        let is_time = time.len() == like.len() && time.bytes().zip(like.bytes()).all(is_like);
        is_time.then_some(time)
    }
}

/// Returns the names of the snapshots that this machine is to make now.
pub(super) fn due(
    schedule: &Schedule,
    names: &[&str],
    now_ms: u64,
    (own, writers): (DeviceId, &[DeviceId]),
) -> Vec<String> {
    let kinds = kinds(schedule).into_iter().filter(|kind| kind.kept > 0);
    let due = kinds.filter_map(|kind| {
        let begin = kind.begin(now_ms);
        let name = kind.name(begin);
        let turn = turn(&name, own, writers) * TURN_MS;
        let is_due = now_ms >= begin + turn && !names.contains(&&*name);
        is_due.then_some(name)
    });
    due.collect()
}

/// Returns how many machines come before this one in making a snapshot.
fn turn(name: &str, own: DeviceId, writers: &[DeviceId]) -> u64 {
    let rank = |device: &DeviceId| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(name.as_bytes());
        hasher.update(&device.0.to_be_bytes());
        *hasher.finalize().as_bytes()
    };
    let own = rank(&own);
    let before = writers.iter().filter(|device| rank(device) < own).count();
    u64::try_from(before).unwrap_or(TURNS_MAX).min(TURNS_MAX)
}

/// Tells whether a name is one that snapshots have which are made by a schedule.
pub(super) fn is_of_schedule(name: &str) -> bool {
    let kinds = kinds(&Schedule::default());
    kinds.iter().any(|kind| kind.time_of(name).is_some())
}

/// Returns the snapshots that are too many of those kinds of which this machine made the newest one. One of a
/// time that has not begun, by whose clock ever, counts as none: it would stay the newest one.
pub(super) fn thinned<'a>(
    schedule: &Schedule,
    names: &[&'a str],
    own_names: &[&str],
    now_ms: u64,
) -> Vec<&'a str> {
    let mut over = Vec::new();
    for kind in kinds(schedule).into_iter().filter(|kind| kind.kept > 0) {
        let now = kind.name(kind.begin(now_ms));
        let has_begun = |time: &&str| kind.time_of(&now).is_some_and(|now| *time <= now);
        let times = names.iter().filter_map(|name| kind.time_of(name));
        let mut times: Vec<&str> = times.filter(has_begun).collect();
        times.sort_unstable();
        times.dedup();
        let newest = times.last().copied();
        let is_own = |name: &&str| newest.is_some() && kind.time_of(name) == newest;
        let Some(last_over) = times.iter().rev().nth(kind.kept) else {
            continue;
        };
        if own_names.iter().any(is_own) {
            let is_over = |name: &&&str| kind.time_of(name).is_some_and(|time| time <= *last_over);
            over.extend(names.iter().filter(is_over));
        }
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-28 12:34 UTC, a Saturday.
    const NOW_MS: u64 = 1_795_869_240_000;
    const ALL: Schedule = Schedule {
        hourly: 2,
        daily: 1,
        weekly: 1,
    };

    fn all_due(names: &[&str], now_ms: u64) -> Vec<String> {
        let own = DeviceId(1);
        due(&ALL, names, now_ms, (own, &[own]))
    }

    #[test]
    fn one_is_due_in_each_time_until_somebody_has_made_it() {
        let names = [
            "hourly-2026-11-28T12:00",
            "daily-2026-11-28T00:00",
            "weekly-2026-11-23T00:00",
        ];
        assert_eq!(all_due(&[], NOW_MS), names);
        assert_eq!(all_due(&names, NOW_MS), [""; 0]);
        assert_eq!(
            all_due(&names, NOW_MS + HOUR_MS),
            ["hourly-2026-11-28T13:00"]
        );
        let monday = all_due(&names, NOW_MS + 2 * DAY_MS);
        assert_eq!(monday.last().unwrap(), "weekly-2026-11-30T00:00");
        let off = Schedule::default();
        assert!(due(&off, &[], NOW_MS, (DeviceId(1), &[])).is_empty());
    }

    #[test]
    fn the_machines_take_turns() {
        let writers = [1, 2, 3].map(DeviceId);
        let hourly = Schedule {
            hourly: 1,
            ..Schedule::default()
        };
        let mut firsts = std::collections::BTreeSet::new();
        for hour in 0..24 {
            let begin = hour * HOUR_MS;
            let due_at = |ms: u64, own| !due(&hourly, &[], begin + ms, (own, &writers)).is_empty();
            let by = |ms: u64| writers.into_iter().filter(move |own| due_at(ms, *own));
            assert_eq!(
                [by(0).count(), by(TURN_MS).count(), by(2 * TURN_MS).count()],
                [1, 2, 3]
            );
            firsts.extend(by(0));
        }
        assert_eq!(firsts.len(), 3, "not always the same one");
    }

    #[test]
    fn who_made_the_newest_of_a_kind_lets_go_of_what_is_too_many() {
        let names = [
            "hourly-2026-11-28T09:00",
            "hourly-2026-11-28T10:00",
            "hourly-2026-11-28T10:00 (2)",
            "hourly-2026-11-28T11:00",
            "hourly-2026-11-28T12:00",
            "hourly-mine",
            "daily-2026-11-28T00:00",
            "before the move",
        ];
        let over = |names: &[&'static str], own: &[&str]| thinned(&ALL, names, own, NOW_MS);
        assert_eq!(over(&names, &[names[4]]), &names[..3]);
        assert!(over(&names, &[names[3], names[5]]).is_empty());
        assert!(over(&names[3..], &[names[4]]).is_empty());
        assert!(thinned(&Schedule::default(), &names, &[names[4]], NOW_MS).is_empty());
    }

    #[test]
    fn one_of_a_time_that_has_not_begun_is_not_the_newest() {
        let names = [
            "hourly-2026-11-28T10:00",
            "hourly-2026-11-28T11:00",
            "hourly-2026-11-28T12:00",
            "hourly-2026-11-28T13:00",
            "hourly-2099-11-28T12:00",
        ];
        let over = |own: &[&str]| thinned(&ALL, &names, own, NOW_MS);
        assert_eq!(over(&[names[2]]), &names[..1]);
        assert!(over(&names[3..]).is_empty());
    }

    #[test]
    fn a_name_of_the_schedule_is_told_from_others() {
        for name in ["hourly-2026-11-28T09:00", "weekly-2026-11-23T00:00 (2)"] {
            assert!(is_of_schedule(name), "{name}");
        }
        assert!(!is_of_schedule("hourly-mine") && !is_of_schedule("before the move"));
    }
}
