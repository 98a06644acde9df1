//! Members that know the same, looked at while all goes on: they make the same of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dfs::base::Clock;
use dfs::wire::{RecordRef, Vector};

use crate::Cluster;
use crate::check::{SharedRows, shared_rows};

/// How long what a member knows is the same until it has made something of it.
const DIGESTED: Duration = Duration::from_secs(5);

/// The newest record, and the last segments that count.
type Known = (RecordRef, Vector);

/// What a member knows.
#[derive(Debug)]
struct Level {
    known: Known,
    since: Duration,
    /// Whether its rows were looked at since.
    is_seen: bool,
}

/// What members knew when they were last looked at.
#[derive(Debug, Default)]
pub(crate) struct Levels {
    levels: BTreeMap<usize, Level>,
    /// What was compared.
    count: u64,
}

impl Levels {
    /// Returns how often two members were compared.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Compares the rows of those that have known the same for a while; `apart` cannot be asked that.
    pub(crate) fn look(&mut self, cluster: &Cluster, apart: &BTreeSet<usize>) {
        let mut fresh: BTreeMap<Known, Vec<usize>> = BTreeMap::new();
        for (host, peer) in cluster.peers() {
            let member = peer.member_parts().filter(|_| !apart.contains(&host));
            let is_at_rest = |counts: dfs::volume::Counts| counts.drafts == 0;
            let Some(member) = member.filter(|member| is_at_rest(member.volume.counts())) else {
                self.levels.remove(&host);
                continue;
            };
            let node = peer.node();
            let known = (node.chain().tip(), node.counting(node.log().vector()));
            let now = cluster.hosts[host].clock.monotonic();
            let is_same = self
                .levels
                .get(&host)
                .is_some_and(|level| level.known == known);
            if !is_same || member.volume.record() != known.0 {
                let (since, is_seen) = (now, false);
                self.levels.insert(
                    host,
                    Level {
                        known,
                        since,
                        is_seen,
                    },
                );
            } else if self.levels[&host].since + DIGESTED <= now {
                fresh.entry(known).or_default().push(host);
            }
        }
        for hosts in fresh.into_values() {
            if hosts.len() > 1 && hosts.iter().any(|host| !self.levels[host].is_seen) {
                self.compare(cluster, &hosts);
            }
        }
    }

    fn compare(&mut self, cluster: &Cluster, hosts: &[usize]) {
        let mut first: Option<(usize, SharedRows)> = None;
        for host in hosts {
            if let Some(level) = self.levels.get_mut(host) {
                level.is_seen = true;
            }
            let rows = named_rows(cluster, *host);
            let Some((other, expected)) = &first else {
                first = Some((*host, rows));
                continue;
            };
            self.count += 1;
            let keys: BTreeSet<_> = rows.keys().chain(expected.keys()).collect();
            let differing = keys
                .into_iter()
                .find(|key| rows.get(*key) != expected.get(*key));
            assert!(
                differing.is_none(),
                "host{host} knows what host{other} knows, and has another row {differing:02x?}: {:?}",
                self.levels[host].known,
            );
        }
    }
}

/// Returns the rows of a member without those of nodes that no name leads to: they stay for as long as
/// it has them open.
fn named_rows(cluster: &Cluster, host: usize) -> SharedRows {
    let mut rows = shared_rows(&cluster.hosts[host].store);
    crate::check::drop_nameless(&mut rows);
    rows
}
