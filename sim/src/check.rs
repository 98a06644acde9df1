//! The laws, as far as they can be looked at from outside.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Once;
use std::time::Duration;

use dfs::base::time::sleep;
use dfs::base::{Ino, LogId, PeerId};
use dfs::daemon::troubles::Trouble;
use dfs::log::chain::{Ballot, Chain};
use dfs::store::{Store, Table};
use dfs::volume::Inode;

use crate::Cluster;

/// The tables whose rows all members share.
const SHARED: [Table; 10] = [
    Table::Inode,
    Table::Dirent,
    Table::Extent,
    Table::Xattr,
    Table::Orphan,
    Table::Alias,
    Table::Fork,
    Table::Conflict,
    Table::Device,
    Table::Volume,
];

/// The numbers of what one member alone has begin here.
const PRIVATE: u64 = 1 << 63;

/// Rows by table and key.
pub(crate) type SharedRows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

thread_local! {
    static PANICKED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Lets panics of tasks be noted, which the runtime keeps to itself.
pub(crate) fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.with_borrow_mut(|noted| noted.push(panic.to_string()));
            eprintln!("{panic}");
        }));
    });
    PANICKED.with_borrow_mut(Vec::clear);
}

/// No task of any peer panicked.
pub(crate) fn nobody_panicked() {
    let noted = PANICKED.with_borrow_mut(std::mem::take);
    assert!(noted.is_empty(), "a task ended: {}", noted.join("; "));
}

/// What was seen of the chain.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    records: BTreeMap<(u64, u64), [u8; 32]>,
    tips: BTreeMap<usize, u64>,
    /// The last records of which it was looked whether what they name is there.
    offered: BTreeMap<usize, u64>,
    /// The last segments of which it was looked whether what they build on is there, by host and log.
    founded: BTreeMap<(usize, LogId), u64>,
    /// Members that were seen to have what the base line has passed.
    level: BTreeSet<usize>,
    /// What each host was known to have promised.
    promised: BTreeMap<usize, Ballot>,
}

/// Says whether one alone decided a record.
fn decides_alone(chain: &Chain, number: u64) -> bool {
    let before = chain.get(number.saturating_sub(1)).expect("rows are read");
    before.is_some_and(|before| before.voters.len() == 1)
}

impl Seen {
    /// Returns how many records were seen.
    pub(crate) fn records(&self) -> u64 {
        self.records.len() as u64
    }

    /// No two peers ever have two records of one number, but where the only one that decides was put back,
    /// nobody gives up what a member that writes may look back to, and each has what its segments build on.
    pub(crate) fn look(&mut self, cluster: &Cluster, removed: &[usize], was_put_back: bool) {
        for (host, peer) in cluster.peers() {
            if !cluster.is_dark(host) {
                self.promised.insert(host, peer.node().chain().promised());
            }
        }
        let eras: BTreeSet<u64> = cluster
            .peers()
            .map(|(_, peer)| peer.node().chain().tip().era)
            .collect();
        // Who goes over to another chain, or to a folder of before, looks back further.
        if eras.len() == 1 && !was_put_back {
            for (host, peer) in cluster.peers() {
                let Some(member) = peer.member_parts().filter(|_| !removed.contains(&host)) else {
                    continue;
                };
                let needs = member.volume.needs();
                let base_lines = cluster.peers();
                let base_lines = base_lines.map(|(_, peer)| peer.node().chain().base_line());
                // Who is new writes nothing before it has all.
                if base_lines.max() <= Some(needs) {
                    self.level.insert(host);
                }
                if !self.level.contains(&host) {
                    continue;
                }
                for (other, peer) in cluster.peers() {
                    let base_line = peer.node().chain().base_line();
                    assert!(
                        base_line <= needs,
                        "host{other} has a base line of {base_line}, host{host} needs {needs}"
                    );
                }
            }
        }
        for (host, peer) in cluster.peers() {
            let chain = peer.node().chain();
            let tip = chain.tip().number;
            let from = self.tips.get(&host).copied().unwrap_or(0).min(tip);
            for number in from..=tip {
                let record = chain.get(number).expect("rows are read");
                let at = record.expect("below the tip").reference();
                let known = *self.records.entry((at.era, at.number)).or_insert(at.hash);
                // Who decides alone and has forgotten a record makes another where nobody that it
                // hears knows the one before: that is told, and the two chains end in one.
                let is_excused = was_put_back && decides_alone(chain, number);
                assert!(
                    known == at.hash || is_excused,
                    "host{host} has another record {} of era {}",
                    at.number,
                    at.era
                );
            }
            self.tips.insert(host, tip);
            // What peers are told of is where what it names is.
            let (offered, has) = (chain.offered().number, peer.node().log().vector());
            let before = self.offered.insert(host, offered).unwrap_or(0);
            for number in before.min(offered)..=offered {
                let record = chain.get(number).expect("rows are read");
                for name in record.expect("below the tip").segments.iter() {
                    assert!(
                        has.get(&name.log) >= Some(&name.seg_no),
                        "host{host} tells of record {number}, and has not what it names of {}",
                        name.log
                    );
                }
            }
            // What a segment builds on is where it is: else it waits for ever where others lose that.
            let log = peer.node().log();
            for (name, seg_no) in log.vector() {
                if self.founded.insert((host, name), seg_no) == Some(seg_no) {
                    continue;
                }
                // What is below a checkpoint builds on what that has.
                if seg_no <= log.floor(name) {
                    continue;
                }
                let segment = log.get(name, seg_no).expect("rows are read");
                let record = segment.expect("the last one").header.record;
                assert!(
                    chain.footing(record).expect("rows are read").is_some(),
                    "host{host} has segment {seg_no} of {name}, and not record {}",
                    record.number
                );
            }
        }
    }
}

impl Seen {
    /// Who starts remembers what it promised: that is durable before it is told.
    pub(crate) fn started(&mut self, cluster: &Cluster, host: usize, was_put_back: bool) {
        let now = cluster.peer(host).node().chain().promised();
        let before = self.promised.get(&host).copied().unwrap_or_default();
        assert!(
            now >= before || was_put_back,
            "host{host} forgot what it promised: {now:?}, not {before:?}"
        );
    }
}

/// What nobody looks back to is given up: some time after all have settled, where all who write are there.
pub(crate) async fn base_line_goes_on(cluster: &Cluster) {
    let admin = cluster.admin();
    let roster = cluster.peer(admin).node().roster();
    let mut writers = roster.members().filter(|member| member.role.writes());
    let here: Vec<PeerId> = cluster.peers().map(|(_, peer)| peer.node().id()).collect();
    // Whose admission is on the roster, and got lost on its way, never comes: the others wait for it.
    if writers.any(|member| !here.contains(&member.id)) {
        return;
    }
    let tip = cluster.peer(admin).node().chain().tip();
    sleep(Duration::from_secs(70)).await;
    // A record says so, and there is one where there is something new.
    if cluster.try_write(admin, b"scene", b"new").is_err() {
        return;
    }
    cluster.settle().await;
    for (host, peer) in cluster.peers() {
        let base_line = peer.node().chain().base_line();
        assert!(
            base_line >= tip.number,
            "host{host} still keeps what was replaced behind record {base_line}, not {}",
            tip.number
        );
    }
}

/// Says whether another peer has all that a member has closed.
pub(crate) fn is_spread(cluster: &Cluster, host: usize) -> bool {
    let peer = cluster.peer(host);
    let Some(member) = peer.member_parts() else {
        return false;
    };
    if member.volume.counts().drafts > 0 {
        return false;
    }
    let log = peer.node().log();
    let own = log.logs_of(cluster.hosts[host].identity.device());
    let have = log.vector();
    cluster.peers().any(|(other, peer)| {
        let theirs = peer.node().log().vector();
        other != host && own.iter().all(|log| theirs.get(log) >= have.get(log))
    })
}

/// Who starts has at least what any other has of its own logs: nothing is told before it is durable.
pub(crate) fn nothing_told_is_forgotten(cluster: &Cluster, host: usize, was_put_back: bool) {
    if was_put_back {
        return;
    }
    let log = cluster.peer(host).node().log();
    let own = log.vector();
    let device = cluster.hosts[host].identity.device();
    for (other, peer) in cluster.peers() {
        let theirs = peer.node().log();
        for of_host in theirs.logs_of(device) {
            let (has, told) = (own.get(&of_host), theirs.vector());
            assert!(
                has >= told.get(&of_host),
                "host{host} forgot what it told host{other}: {has:?} of {:?}",
                told.get(&of_host)
            );
        }
    }
}

/// Nothing that stopped has not gone on.
pub(crate) fn no_trouble_is_left(cluster: &Cluster, is_excused: impl Fn(Trouble) -> bool) {
    for (host, peer) in cluster.peers() {
        let open = peer.troubles().entries();
        let left: Vec<_> = open.iter().filter(|(what, _)| !is_excused(*what)).collect();
        assert!(left.is_empty(), "host{host} is in trouble: {left:?}");
    }
}

/// Returns every row of a store that all members share.
pub(crate) fn shared_rows(store: &Store) -> SharedRows {
    let mut rows = BTreeMap::new();
    for table in SHARED {
        let mut take = |key: &[u8], value: &[u8]| {
            let mut value = value.to_vec();
            if table == Table::Inode {
                let mut inode = Inode::of_row(Ino(0), &value).expect("an inode");
                // Times of a directory are each machine's own.
                if inode.is_dir() {
                    (inode.mtime, inode.ctime) = Default::default();
                    value = inode.to_row();
                }
            }
            rows.insert((table, key.to_vec()), value);
            ControlFlow::Continue(())
        };
        let scanned = store.rows.scan(table, &[], None, &mut take);
        scanned.expect("rows are read");
    }
    rows
}

/// Takes the rows of nodes away that have no name, and of what a program has made of one that it has open:
/// they stay until nothing has them open and the base line goes on.
pub(crate) fn drop_nameless(rows: &mut SharedRows) {
    let of = |table, key: &[u8]| match table {
        Table::Inode | Table::Extent | Table::Xattr | Table::Orphan => {
            key.first_chunk().map(|ino| u64::from_be_bytes(*ino))
        }
        _ => None,
    };
    let orphans = rows.keys().filter(|(table, _)| *table == Table::Orphan);
    let nameless: BTreeSet<u64> = orphans.filter_map(|(table, key)| of(*table, key)).collect();
    rows.retain(|(table, key), _| {
        of(*table, key).is_none_or(|ino| ino < PRIVATE && !nameless.contains(&ino))
    });
}

/// Every member has the rows, and shows the files, of the fold from nothing by one that is new. Returns
/// the contents of files by path.
pub(crate) async fn converged(cluster: &mut Cluster) -> BTreeMap<String, Vec<u8>> {
    cluster.assert_converged().await;
    let members = cluster.members_up();
    let scratch = members[members.len() - 1];
    let expected = shared_rows(&cluster.hosts[scratch].store);
    for host in members {
        let mut rows = shared_rows(&cluster.hosts[host].store);
        for (key, row) in &expected {
            assert!(
                rows.get(key) == Some(row),
                "host{host} differs from the fold from scratch in {:?} {:02x?}",
                key.0,
                key.1
            );
        }
        // What was open here until a moment ago goes with the next base line.
        drop_nameless(&mut rows);
        let more: Vec<_> = rows
            .keys()
            .filter(|key| !expected.contains_key(*key))
            .collect();
        assert!(more.is_empty(), "host{host} has more rows: {more:02x?}");
    }
    let tree = cluster.tree(scratch).await;
    let files = tree.into_iter().map(|(path, node)| {
        let path = String::from_utf8_lossy(&path).into_owned();
        (path, node.content)
    });
    files.collect()
}
