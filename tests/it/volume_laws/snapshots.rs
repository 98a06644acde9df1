//! Snapshots: all who fold the op have what its author saw.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use dfs::base::{ChunkId, Clock, Rng};
use dfs::log::checkpoint::Tree;
use dfs::replica::ReplicaError;
use dfs::store::{Rows, Table};
use dfs::volume::{FileKind, Keep, Kept as KeptOp, OpKind, Piece, Snapshot, Source, VolumeError};
use parking_lot::Mutex;

use super::checkpoints::{begin_at, commit, expect_rows};
use super::cluster::{Device, agree, cluster, exchange_all, sync, write};
use super::history::settle;

type Nodes = Arc<Mutex<BTreeMap<ChunkId, Bytes>>>;

/// Keeps the nodes of trees.
struct Kept<'a> {
    nodes: &'a Nodes,
    /// Called when the moment is chosen.
    frozen: &'a dyn Fn(),
    news: usize,
}

impl Keep for Kept<'_> {
    fn put(&mut self, plain: Bytes, _: &dyn Fn(&ChunkId) -> bool) -> Result<ChunkId, ReplicaError> {
        let id = ChunkId(*blake3::hash(&plain).as_bytes());
        self.news += usize::from(self.nodes.lock().insert(id, plain).is_none());
        Ok(id)
    }

    fn frozen(&mut self) {
        (self.frozen)();
    }
}

impl Device {
    fn keep(&self, nodes: &Nodes, name: &str) -> Snapshot {
        self.keep_while(nodes, name, &|| {})
    }

    fn keep_while(&self, nodes: &Nodes, name: &str, frozen: &dyn Fn()) -> Snapshot {
        let news = 0;
        let keep = &mut Kept {
            nodes,
            frozen,
            news,
        };
        self.volume.make_snapshot(name, keep).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let snapshots = self.volume.snapshots().unwrap();
        snapshots.into_iter().map(|kept| kept.name).collect()
    }

    fn of(&self, nodes: &Nodes, snapshot: &Snapshot) -> Of {
        let nodes = Arc::clone(nodes);
        let source = move |id: &ChunkId| Ok(nodes.lock().get(id).cloned());
        of(&*self.volume.snapshot_rows(snapshot, Arc::new(source)))
    }
}

type Of = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Returns the rows by which files are looked up and read.
fn of(rows: &dyn Rows) -> Of {
    let mut of = Of::new();
    for table in [
        Table::Inode,
        Table::Dirent,
        Table::Extent,
        Table::Xattr,
        Table::Volume,
    ] {
        rows.scan(table, &[], None, &mut |key, value| {
            if table != Table::Volume || key.first() == Some(&b'L') {
                of.insert((table, key.to_vec()), value.to_vec());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    of
}

fn some_changes(devices: &[Device]) {
    devices[0].mkdir("/d");
    devices[0].put("/d/a", "one");
    devices[0].put("/d/b", "two");
    devices[0].link("/d/b", "/c");
    sync(devices);
    devices[1].put("/d/a", "three");
    devices[0].put("/new", "that nobody else has");
}

#[test]
fn all_have_what_its_author_saw_at_that_moment() {
    let (devices, nodes) = (cluster(2), Nodes::default());
    some_changes(&devices);
    let expected = of(&*devices[0].store.rows);
    devices[0].clock.advance(std::time::Duration::from_secs(5));
    let now = devices[0].clock.wall_ms();
    let made = devices[0].keep_while(&nodes, "first", &|| {
        // What changes while the tree is made is not in it.
        devices[0].put("/d/late", "not in it");
        devices[0].unlink("/new");
    });
    assert_eq!((&*made.name, made.time_ms), ("first", now));
    assert_eq!(made.device, devices[0].volume.device());
    // The root, a directory, and three files of which one has two names.
    assert_eq!(made.nodes, 5);
    exchange_all(&devices);
    agree(&devices);
    for device in &devices {
        assert_eq!(
            device.volume.snapshots().unwrap(),
            std::slice::from_ref(&made)
        );
        assert_eq!(device.of(&nodes, &made), expected);
    }
    devices[1].volume.drop_snapshot(made.op).unwrap();
    exchange_all(&devices);
    agree(&devices);
    assert_eq!(devices[0].names(), [""; 0]);
}

#[test]
fn what_crossed_is_undone_and_done_again() {
    let (devices, nodes) = (cluster(2), Nodes::default());
    some_changes(&devices);
    // Each in its own order: what the other one did comes before some of it and behind the rest.
    for (device, name) in [(0, "one"), (1, "two"), (0, "three"), (1, "two"), (0, "two")] {
        devices[device].put("/d/a", name);
        devices[device].keep(&nodes, name);
        devices[device]
            .clock
            .advance(std::time::Duration::from_secs(1));
    }
    let first = devices[0].volume.snapshots().unwrap()[0].clone();
    devices[0].volume.drop_snapshot(first.op).unwrap();
    exchange_all(&devices);
    agree(&devices);
    // Two that have one name are told apart, alike everywhere, and both are there.
    for device in &devices {
        assert_eq!(device.names(), ["two", "two (2)", "three", "two (3)"]);
    }
    let twice = devices[1].volume.snapshots().unwrap();
    devices[0].volume.drop_snapshot(twice[0].op).unwrap();
    devices[1].volume.drop_snapshot(twice[0].op).unwrap();
    exchange_all(&devices);
    agree(&devices);
    assert_eq!(devices[1].names(), ["two", "three", "two (2)"]);
}

#[test]
fn what_did_not_change_is_kept_once() {
    let (devices, nodes) = (cluster(1), Nodes::default());
    for dir in 0..40 {
        devices[0].mkdir(&format!("/{dir}"));
        for file in 0..40 {
            devices[0].put(
                &format!("/{dir}/{file}"),
                "some text that stands in the rows",
            );
        }
    }
    devices[0].keep(&nodes, "a");
    let (frozen, news) = (&|| {}, 0);
    let before = nodes.lock().len();
    devices[0].put("/7/7", "changed");
    let mut keep = Kept {
        nodes: &nodes,
        frozen,
        news,
    };
    devices[0].volume.make_snapshot("b", &mut keep).unwrap();
    assert!(before > 60 && keep.news <= 8, "{} of {before}", keep.news);
}

/// Has a device write a file that is one chunk.
fn write_chunk(device: &Device, path: &str, id: ChunkId) {
    device.make(path, FileKind::File);
    let inode = device.at(path);
    let mut kind = write(inode.ino, inode.version, "");
    if let OpKind::Write(write) = &mut kind {
        write.size = 1000;
        write.pieces = vec![Piece {
            offset: 0,
            len: 1000,
            src: Some(Source::Chunk { id, skip: 0 }),
        }];
    }
    device.apply(kind);
}

/// Has a device find out what snapshots name; returns of how many nodes it did not know that.
fn read_nodes(device: &Device, nodes: &Nodes) -> usize {
    for count in 0.. {
        let unread = device.volume.unread_nodes().unwrap();
        let Some(node) = unread.first() else {
            return count;
        };
        let plain = nodes.lock()[&node.root].clone();
        device.volume.note_node(node, &plain).unwrap();
    }
    0
}

#[test]
fn a_snapshot_that_was_removed_names_what_is_known_of_it() {
    let (devices, nodes) = (cluster(2), Nodes::default());
    let ([a, b], id) = ([&devices[0], &devices[1]], ChunkId([7; 32]));
    write_chunk(a, "f", id);
    let made = a.keep(&nodes, "a");
    exchange_all(&devices);
    assert!(matches!(b.volume.named(), Err(VolumeError::Busy)));
    assert!(b.volume.has_unread_nodes());
    b.unlink("f");
    b.volume.drop_snapshot(made.op).unwrap();
    exchange_all(&devices);
    // Its tree is in what undo needs alone; others may have given up its nodes.
    for device in [a, b] {
        let named = device.volume.named().unwrap();
        assert!(named.history.has(&made.tree.root));
        assert!(!device.volume.has_unread_nodes());
        assert!(device.volume.unread_nodes().unwrap().is_empty());
    }
    assert!(a.volume.named().unwrap().history.has(&id));
}

#[test]
fn a_snapshot_that_says_other_things_of_a_root_hides_no_other_one() {
    let (devices, nodes) = (cluster(1), Nodes::default());
    let (a, id) = (&devices[0], ChunkId([7; 32]));
    write_chunk(a, "f", id);
    let made = a.keep(&nodes, "a");
    let of_level = |level| Tree { level, ..made.tree };
    let kept = |tree| {
        OpKind::Snapshot(KeptOp {
            name: "b".to_owned(),
            time_ms: made.time_ms,
            tree,
            nodes: 1,
            bytes: 1,
        })
    };
    let mut writer = a.volume.write().unwrap();
    let refused = writer.apply(kept(of_level(255)));
    assert!(matches!(refused, Err(VolumeError::BadOp { .. })));
    writer.apply(kept(of_level(made.tree.level + 1))).unwrap();
    drop(writer);
    a.unlink("f");
    // What is no list names nothing.
    read_nodes(a, &nodes);
    assert!(a.volume.named().unwrap().history.has(&id));
}

#[test]
fn a_node_of_a_newer_release_is_not_known() {
    let (devices, nodes) = (cluster(2), Nodes::default());
    devices[0].keep(&nodes, "a");
    exchange_all(&devices);
    let b = &devices[1].volume;
    let unread = b.unread_nodes().unwrap();
    let noted = b.note_node(&unread[0], &[2, 0]);
    assert!(matches!(noted, Err(VolumeError::NewerNode { .. })));
    assert_eq!(b.unread_nodes().unwrap(), unread);
    b.note_node(&unread[0], &[0, 0]).unwrap();
    assert!(b.unread_nodes().unwrap().is_empty());
}

#[test]
fn what_a_snapshot_alone_names_is_named_until_it_is_removed() {
    let (devices, nodes) = (cluster(2), Nodes::default());
    let [a, b] = [&devices[0], &devices[1]];
    let id = ChunkId([7; 32]);
    write_chunk(a, "f", id);
    sync(&devices);
    let made = a.keep(&nodes, "a");
    exchange_all(&devices);
    b.unlink("f");
    settle(&devices);
    settle(&devices);
    // Who made it knows what it names; who did not says so until it does.
    let named = a.volume.named().unwrap();
    assert!(named.history.has(&id) && named.history.has(&made.tree.root));
    assert!(!named.files.has(&id) && !named.past.has(&id));
    assert!(matches!(b.volume.named(), Err(VolumeError::Busy)));
    assert_eq!(read_nodes(b, &nodes), nodes.lock().len());
    for device in &devices {
        let named = device.volume.named().unwrap();
        assert!(named.has(&id) && nodes.lock().keys().all(|node| named.has(node)));
    }
    // Its removal may be undone until all have folded it.
    b.volume.drop_snapshot(made.op).unwrap();
    assert!(b.volume.named().unwrap().has(&id));
    settle(&devices);
    settle(&devices);
    for device in &devices {
        let named = device.volume.named().unwrap();
        assert!(!named.has(&id) && !named.has(&made.tree.root));
        let rows = &device.store.rows;
        let left = &mut |_: &[u8]| panic!("what its nodes named is still here");
        rows.scan_keys(Table::SnapshotNode, &[], None, left)
            .unwrap();
    }
}

#[test]
fn who_joins_by_a_checkpoint_has_them() {
    let (devices, nodes) = (cluster(2), Nodes::default());
    some_changes(&devices);
    let made = devices[0].keep(&nodes, "a");
    let gone = devices[1].keep(&nodes, "gone");
    devices[1].volume.drop_snapshot(gone.op).unwrap();
    let number = commit(&devices);
    let joiner = Device::new(2);
    begin_at(&joiner, &devices[1], number);
    expect_rows(&joiner, &devices[0]);
    let kept = joiner.volume.snapshots().unwrap();
    assert_eq!(kept, std::slice::from_ref(&made));
    // Of what is before the checkpoint it has nothing else, and says so before it gives anything up.
    assert!(matches!(joiner.volume.named(), Err(VolumeError::Busy)));
    assert_eq!(joiner.of(&nodes, &made), devices[0].of(&nodes, &made));
}

#[test]
fn what_is_wanted_is_known_after_a_power_cut() {
    let mut devices = cluster(1);
    for name in ["a", "b"] {
        devices[0].volume.ask_snapshot(name).unwrap();
    }
    devices[0].crash(&Rng::from_seed(4));
    devices[0].volume.forget_asked("a").unwrap();
    assert_eq!(devices[0].volume.asked_snapshots().unwrap(), ["b"]);
    assert!(devices[0].volume.ask_snapshot("..").is_err());
}

#[test]
fn a_name_that_no_folder_can_hold_is_refused() {
    let (devices, nodes) = (cluster(1), Nodes::default());
    for name in ["", ".", "..", "a/b", &"a".repeat(256)] {
        let (frozen, news) = (&|| {}, 0);
        let keep = &mut Kept {
            nodes: &nodes,
            frozen,
            news,
        };
        let refused = devices[0].volume.make_snapshot(name, keep);
        assert!(matches!(refused, Err(VolumeError::BadOp { .. })), "{name}");
    }
    let long = "é".repeat(127);
    for _ in 0..2 {
        devices[0].keep(&nodes, &long);
    }
    let names = devices[0].names();
    assert!(names.iter().all(|name| name.len() <= 255), "{names:?}");
    assert_ne!(names[0], names[1]);
}

#[test]
fn it_outlives_a_power_cut() {
    let (mut devices, nodes) = (cluster(1), Nodes::default());
    devices[0].put("/a", "one");
    let made = devices[0].keep(&nodes, "a");
    devices[0].volume.sync().unwrap();
    devices[0].crash(&Rng::from_seed(3));
    assert_eq!(devices[0].volume.snapshots().unwrap(), [made]);
}
