//! The laws, as far as they can be looked at from outside.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Once;

use dfs::daemon::troubles::Trouble;
use dfs::store::{Store, Table, codec};
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

type SharedRows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

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
}

impl Seen {
    /// Returns how many records were seen.
    pub(crate) fn records(&self) -> u64 {
        self.records.len() as u64
    }

    /// No two peers ever have two records of one number.
    pub(crate) fn look(&mut self, cluster: &Cluster) {
        for (host, peer) in cluster.peers() {
            let chain = peer.node().chain();
            let tip = chain.tip().number;
            let from = self.tips.get(&host).copied().unwrap_or(0).min(tip);
            for number in from..=tip {
                let record = chain.get(number).expect("rows are read");
                let at = record.expect("below the tip").reference();
                let known = *self.records.entry((at.era, at.number)).or_insert(at.hash);
                assert!(
                    known == at.hash,
                    "host{host} has another record {} of era {}",
                    at.number,
                    at.era
                );
            }
            self.tips.insert(host, tip);
        }
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
fn shared_rows(store: &Store) -> SharedRows {
    let mut rows = BTreeMap::new();
    for table in SHARED {
        let mut take = |key: &[u8], value: &[u8]| {
            let mut value = value.to_vec();
            if table == Table::Inode {
                let mut inode: Inode = codec::decode(&value, value.len()).expect("an inode");
                // Times of a directory are each machine's own.
                if inode.is_dir() {
                    (inode.mtime, inode.ctime) = Default::default();
                    value = codec::encode(&inode);
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

/// Every member has the rows, and shows the files, of the fold from nothing by one that is new. Returns
/// the contents of files by path.
pub(crate) async fn converged(cluster: &mut Cluster) -> BTreeMap<String, Vec<u8>> {
    cluster.assert_converged().await;
    let members = cluster.members_up();
    let scratch = members[members.len() - 1];
    let expected = shared_rows(&cluster.hosts[scratch].store);
    for host in members {
        let rows = shared_rows(&cluster.hosts[host].store);
        for (key, row) in &expected {
            assert!(
                rows.get(key) == Some(row),
                "host{host} differs from the fold from scratch in {:?} {:02x?}",
                key.0,
                key.1
            );
        }
        assert_eq!(rows.len(), expected.len(), "host{host} has more rows");
    }
    let tree = cluster.tree(scratch).await;
    let files = tree.into_iter().map(|(path, node)| {
        let path = String::from_utf8_lossy(&path).into_owned();
        (path, node.content)
    });
    files.collect()
}
