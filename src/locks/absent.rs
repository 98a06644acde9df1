//! Whose writes are waited for in vain.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::LogId;

/// How long nothing may come of what was written under a lock before its writer counts as gone: nobody else may
/// have it.
const GONE_AFTER: Duration = Duration::from_secs(20);

/// How long what is here may wait for what others wrote before, while something comes of anybody.
const STUCK_MAX: Duration = Duration::from_secs(300);

/// Tells what is not to be had, log by log: by how long nothing of it came, not by how long all takes.
#[derive(Debug, Default)]
pub struct Absent {
    waits: BTreeMap<LogId, Wait>,
}

#[derive(Debug)]
struct Wait {
    mark: u64,
    /// How long nothing moved, and how long all of it is here.
    idle: Duration,
    complete: Duration,
}

impl Absent {
    /// Returns which of `missing`, that is not folded, is not to be had. `here` is how far logs go here;
    /// `waited` how long nothing was folded since the last call: while something is, nobody is missed.
    pub fn look(
        &mut self,
        waited: Duration,
        missing: &BTreeMap<LogId, u64>,
        here: &BTreeMap<LogId, u64>,
    ) -> BTreeMap<LogId, u64> {
        self.waits.retain(|log, _| missing.contains_key(log));
        let all = here
            .values()
            .fold(0, |all: u64, end| all.saturating_add(*end));
        let mut gone = BTreeMap::new();
        for (log, end) in missing {
            let at = here.get(log).copied().unwrap_or(0);
            let is_here = at >= *end;
            // What is here waits for what others wrote before, whoever they are.
            let mark = if is_here { all } else { at };
            let Some(wait) = self.waits.get_mut(log) else {
                let (idle, complete) = (Duration::ZERO, Duration::ZERO);
                let wait = Wait {
                    mark,
                    idle,
                    complete,
                };
                self.waits.insert(*log, wait);
                continue;
            };
            wait.idle += waited;
            wait.complete += waited;
            if wait.mark != mark {
                (wait.mark, wait.idle) = (mark, Duration::ZERO);
            }
            if !is_here {
                wait.complete = Duration::ZERO;
            }
            if wait.idle >= GONE_AFTER || wait.complete >= STUCK_MAX {
                gone.insert(*log, *end);
            }
        }
        for log in gone.keys() {
            self.waits.remove(log);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs<const N: usize>(logs: [(u64, u64); N]) -> BTreeMap<LogId, u64> {
        logs.map(|(log, end)| (LogId(log), end)).into()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_is_gone_is_told_from_who_is_slow_and_from_who_folds() {
        let mut absent = Absent::default();
        let missing = logs([(1, 100), (2, 100), (3, 5)]);
        let mut gone_at = BTreeMap::new();
        for second in 0..60 {
            // The first comes, slowly; of the second nothing does; the third waits for the first.
            let here = logs([(1, second), (2, 7), (3, 9)]);
            for log in absent.look(SECOND, &missing, &here).into_keys() {
                gone_at.entry(log).or_insert(second);
            }
        }
        assert_eq!(gone_at, BTreeMap::from([(LogId(2), 20)]));
        // As long as it takes to fold what came, nobody is missed.
        let mut absent = Absent::default();
        for _ in 0..1_000 {
            let gone = absent.look(Duration::ZERO, &missing, &logs([]));
            assert!(gone.is_empty());
        }
    }

    #[test]
    fn what_is_here_is_not_waited_for_without_end() {
        let mut absent = Absent::default();
        let missing = logs([(1, 1)]);
        let mut seconds = 0;
        while absent
            .look(SECOND, &missing, &logs([(1, 1), (2, seconds)]))
            .is_empty()
        {
            seconds += 1;
            assert!(seconds < 1_000);
        }
        assert!(seconds > 250, "{seconds}");
    }
}
