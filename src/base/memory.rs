//! How much memory the caches and queues of this process may take.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Resource, getrlimit};

/// The part of the memory that this process may use which its caches and queues take together.
const CACHES_PART: u64 = 4;

/// What the caches of rows and contents, and what is not written out yet, take together where there is
/// plenty and nothing else was said.
pub const CACHES_BYTES: u64 = 64 << 20;

/// What these are to take together at most.
static SETTING: AtomicU64 = AtomicU64::new(CACHES_BYTES);

/// The memory for caches and queues, of which each takes a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    bytes: u64,
}

impl Budget {
    /// Sets how much the caches of rows and contents that this process makes from now on take at most.
    pub fn set_caches(bytes: u64) {
        SETTING.store(bytes, Ordering::Relaxed);
    }

    /// Returns the budget for the caches of rows and contents: what was set, within that of the process.
    pub fn of_caches() -> Self {
        let setting = SETTING.load(Ordering::Relaxed);
        let bytes = Self::of_process().bytes.min(setting);
        Self { bytes }
    }

    /// Returns the budget of this process: by the limits of its control groups and its own
    /// (`ulimit -d`, `ulimit -v`), and by what the machine has.
    pub fn of_process() -> Self {
        let machine = rustix::system::sysinfo();
        #[allow(clippy::useless_conversion, reason = "elsewhere a C long has 32 bits")]
        let units = u64::from(machine.totalram);
        let machine = units.saturating_mul(machine.mem_unit.into());
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        let own = [Resource::Data, Resource::As].map(|what| getrlimit(what).current);
        let own = own.into_iter().flatten().min().unwrap_or(u64::MAX);
        Self::within(machine.min(own).min(limit(&groups, &read)))
    }

    /// Returns the budget of a process that may use so many bytes.
    pub const fn within(limit_bytes: u64) -> Self {
        Self {
            bytes: limit_bytes / CACHES_PART,
        }
    }

    /// Returns what a cache takes that is to have `setting` bytes, and at most one of `part` equal
    /// parts of the budget.
    #[must_use]
    pub fn part(self, setting: u64, part: u64) -> u64 {
        setting.min(self.bytes / part.max(1))
    }
}

/// Returns the smallest memory limit of the groups named in `groups` (`/proc/self/cgroup`) and of
/// those around them; `u64::MAX` where there is none.
fn limit(groups: &str, read: &dyn Fn(&Path) -> Option<String>) -> u64 {
    let mut least = u64::MAX;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let is_memory = controllers.split(',').any(|name| name == "memory");
        let (roots, file): (&[&str], _) = match controllers {
            "" => (&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], "memory.max"),
            _ if is_memory => (&["/sys/fs/cgroup/memory"], "memory.limit_in_bytes"),
            _ => continue,
        };
        for root in roots {
            // In a container the path may be that of the machine: the root is then its own group.
            for group in Path::new(path).ancestors() {
                let group = group.strip_prefix("/").unwrap_or(group);
                let file = PathBuf::from(root).join(group).join(file);
                // "max" is no number.
                let limit = read(&file).and_then(|text| text.trim().parse().ok());
                least = least.min(limit.unwrap_or(u64::MAX));
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_around_the_process_counts() {
        let of = |groups: &str, files: &[(&str, &str)]| {
            limit(groups, &|path: &Path| {
                let found = files.iter().find(|(name, _)| path == Path::new(name));
                found.map(|(_, text)| (*text).to_owned())
            })
        };
        let v2 = "0::/user.slice/run-1.scope\n";
        assert_eq!(of(v2, &[]), u64::MAX);
        let files = [
            ("/sys/fs/cgroup/user.slice/run-1.scope/memory.max", "max\n"),
            ("/sys/fs/cgroup/user.slice/memory.max", "200000000\n"),
        ];
        assert_eq!(of(v2, &files), 200_000_000);
        let v1 = "4:cpu,memory:/a/b\n1:cpu:/\n0::/\n";
        let files = [
            ("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "3000\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9000\n"),
        ];
        assert_eq!(of(v1, &files), 3000);
        // In a container.
        assert_eq!(of("0::/\n", &[("/sys/fs/cgroup/memory.max", "7\n")]), 7);
        assert_eq!(of("nonsense\n::\n\n", &files), u64::MAX);
    }

    #[test]
    fn parts_are_bounded_by_setting_and_budget() {
        let budget = Budget::within(800);
        assert_eq!(budget.part(50, 2), 50);
        assert_eq!(budget.part(1000, 2), 100);
        assert_eq!(budget.part(1000, 1), 200);
        assert!(Budget::of_process().part(u64::MAX, 1) > 0);
    }
}
