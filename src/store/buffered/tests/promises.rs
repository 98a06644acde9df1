//! What the row log promises of what was synced, of what was refused, and of the folder it leaves.

use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::store::told::{Done, FileDone, ToldFolder};

const LARGE: usize = 64 << 20;

/// How long a test waits for another thread before it fails.
const DEADLINE: Duration = Duration::from_secs(60);

/// Rows whose disk tells what is done to it.
struct Told {
    rows: BufferedRows,
    disk: Arc<ToldFolder>,
    gate: Gate,
}

impl Machine {
    fn log(&self) -> PathBuf {
        self.folder.path().join("wal")
    }

    fn tree(&mut self) -> Arc<LocalTree> {
        self.opened += 1;
        let folder = self.folder.path().join("rows");
        let options = StoreOptions::default();
        let sealer = self.key.sealer(self.opened);
        let tree = LocalTree::open(&folder, sealer, &options, Gate::default());
        Arc::new(tree.unwrap())
    }

    fn told(&mut self, table_bytes: usize) -> Told {
        self.open_told(table_bytes, LOG_BYTES).unwrap()
    }

    fn open_told(&mut self, table_bytes: usize, log_bytes: u64) -> Result<Told, StoreError> {
        let (gate, disk) = (Gate::default(), ToldFolder::new(&self.log()));
        let tree = self.tree();
        let options = BufferOptions {
            table_bytes,
            log_bytes,
        };
        let (log, sealer) = (self.log(), self.key.sealer(self.opened));
        let of = Arc::clone(&disk);
        let rows = BufferedRows::open_behind(of, &log, tree, sealer, options, gate.clone())?;
        Ok(Told { rows, disk, gate })
    }

    fn names(&self) -> Vec<std::ffi::OsString> {
        let files = std::fs::read_dir(self.log()).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        names.sort();
        names
    }
}

fn count(rows: &BufferedRows) -> usize {
    all(rows, b"", false).len()
}

/// Returns the files that were written to behind the last sync of them.
fn unsynced(done: &[FileDone]) -> Vec<&str> {
    let mut names: Vec<&str> = done.iter().map(|(_, name)| &**name).collect();
    names.sort_unstable();
    names.dedup();
    let is_unsynced = |name: &&str| {
        let last = |what| {
            let is_it = |(done, of): &FileDone| *done == what && of == name;
            done.iter().rposition(is_it)
        };
        last(Done::Write).is_some_and(|write| last(Done::Sync).is_none_or(|sync| sync < write))
    };
    names.into_iter().filter(is_unsynced).collect()
}

#[test]
fn behind_a_write_that_failed_nothing_is_committed_and_a_full_disk_is_no_failure() {
    let mut machine = Machine::new();
    let Told { rows, disk, .. } = machine.told(LARGE);
    put(&rows, 0, 100).unwrap();
    disk.refuse(Done::Write, ".wal", io::ErrorKind::StorageFull);
    assert!(put(&rows, 1, 100).is_err());
    disk.allow();
    put(&rows, 2, 100).unwrap();
    rows.sync().unwrap();
    disk.refuse(Done::Write, ".wal", io::ErrorKind::Other);
    assert!(matches!(put(&rows, 3, 100), Err(StoreError::Io { .. })));
    disk.allow();
    assert!(matches!(put(&rows, 4, 100), Err(StoreError::Poisoned)));
    assert!(matches!(rows.sync(), Err(StoreError::Poisoned)));
    assert_eq!(count(&rows), 2);
    drop(rows);
    assert_eq!(count(&machine.open(LARGE, false)), 2);
}

#[test]
fn behind_a_sync_that_failed_nothing_is_committed_or_said_to_be_durable() {
    for name in [".wal", "mark"] {
        let mut machine = Machine::new();
        let Told { rows, disk, .. } = machine.told(LARGE);
        put(&rows, 0, 100).unwrap();
        let what = if name == "mark" {
            Done::Write
        } else {
            Done::Sync
        };
        disk.refuse(what, name, io::ErrorKind::Other);
        assert!(matches!(rows.sync(), Err(StoreError::Io { .. })));
        disk.allow();
        assert!(matches!(rows.sync(), Err(StoreError::Poisoned)));
        assert!(matches!(put(&rows, 1, 100), Err(StoreError::Poisoned)));
        disk.take();
        // Nor does the end of the process say that all was well.
        drop(rows);
        assert_eq!(disk.take(), [], "{name}");
    }
}

#[test]
fn who_closes_leaves_everything_on_the_disk_the_mark_included() {
    let mut machine = Machine::new();
    for _ in 0..3 {
        let Told { rows, disk, .. } = machine.told(LARGE);
        (0..10).for_each(|n| put(&rows, n, 100).unwrap());
        assert!(!unsynced(&disk.take()).is_empty());
        (0..10).for_each(|n| put(&rows, n, 100).unwrap());
        drop(rows);
        let done = disk.take();
        assert_eq!(unsynced(&done), [""; 0], "{done:?}");
        let of_mark = |(what, name): &&FileDone| *what == Done::Write && name == "mark";
        assert_eq!(done.iter().filter(of_mark).count(), 1, "{done:?}");
    }
}

#[test]
fn a_sync_says_the_last_commit_wherever_it_lies_and_syncs_each_file_once() {
    let mut machine = Machine::new();
    let Told { rows, disk, .. } = machine.told(4 << 10);
    let said = || rows.shared.mark.lock().said().durable;
    let mut moves = 0;
    for n in 0..200u32 {
        let moved = rows.shared.layers.read().moved;
        put(&rows, n, 100).unwrap();
        rows.sync().unwrap();
        assert_eq!(said(), u64::from(n) + 1);
        if rows.shared.layers.read().moved > moved {
            moves += 1;
        }
        // Nothing is left to sync, and one more commit is in one file.
        disk.take();
        rows.sync().unwrap();
        assert_eq!(disk.take(), []);
    }
    assert!(moves > 3, "{moves}");
    put(&rows, 1000, 100).unwrap();
    disk.take();
    rows.sync().unwrap();
    let syncs = disk.take().into_iter();
    let syncs: Vec<_> = syncs.filter(|(what, _)| *what == Done::Sync).collect();
    assert_eq!(syncs.len(), 1, "{syncs:?}");
    // A table that went into the tree, with nothing behind it.
    put(&rows, 1001, 8 << 10).unwrap();
    rows.shared
        .flush_full(&mut rows.shared.writer.lock(), 8 << 10)
        .unwrap();
    assert_eq!(rows.shared.layers.read().active.bytes(), 0);
    rows.sync().unwrap();
    assert_eq!(said(), 202);
}

#[test]
fn once_the_mount_is_gone_the_folder_only_grows_and_says_no_more_than_a_copy_may_have() {
    for is_gone in [false, true] {
        let mut machine = Machine::new();
        let Told { rows, gate, .. } = machine.told(LARGE);
        (0..5).for_each(|n| put(&rows, n, 100).unwrap());
        let names = machine.names();
        if is_gone {
            gate.close();
        }
        // More than is left to the log at closing.
        (5..9).for_each(|n| put(&rows, n, 1 << 20).unwrap());
        rows.sync().unwrap();
        let said = rows.shared.mark.lock().said();
        assert_eq!(said.durable, if is_gone { 5 } else { 9 });
        drop(rows);
        assert_eq!(machine.names() == names, is_gone);
        let flushed = flushed_of(&*machine.tree()).unwrap();
        assert_eq!(flushed, if is_gone { 0 } else { 9 });
        assert_eq!(count(&machine.open(LARGE, false)), 9);
    }
}

/// What lies in a folder before it is opened, and whether it can be.
#[derive(Debug, Clone, Copy)]
struct Case {
    /// The tree has rows.
    has_tree: bool,
    has_mark: bool,
    /// Whose commits the log has.
    is_own: bool,
    opens: bool,
}

#[test]
fn a_log_that_is_anothers_is_refused_and_one_that_was_torn_is_not() {
    let case = |has_tree, has_mark, is_own, opens| Case {
        has_tree,
        has_mark,
        is_own,
        opens,
    };
    for case in [
        case(false, false, true, true),
        case(false, true, true, true),
        case(true, false, true, true),
        // Nothing opens with this key, and nothing says that the folder is of it.
        case(false, false, false, false),
        // The mark does, and the tree does: then power went while the first commits were written.
        case(false, true, false, true),
        case(true, false, false, true),
        case(true, true, false, true),
    ] {
        let mut machine = Machine::new();
        if case.has_tree {
            let Told { rows, .. } = machine.told(4 << 10);
            put(&rows, 100, 8 << 10).unwrap();
            put(&rows, 101, 10).unwrap();
            drop(rows);
            let flushed = flushed_of(&*machine.tree()).unwrap();
            assert_eq!(flushed, 1);
        }
        for name in machine.names() {
            let is_kept = case.has_mark && name == "mark";
            if !is_kept {
                std::fs::remove_file(machine.log().join(name)).unwrap();
            }
        }
        let disk = Folder::new(&machine.log());
        let first = if case.has_tree { 2 } else { 1 };
        if case.has_mark {
            let said = Said {
                durable: first - 1,
                ..Said::default()
            };
            Mark::open(&disk, machine.key.sealer(1).owner(), said).unwrap();
        }
        let other = Identity::generate(&Rng::from_seed(2)).unwrap().local_key();
        let key = if case.is_own { &machine.key } else { &other };
        let mut log = LogFile::create(&disk, 9, 1 << 20).unwrap();
        let mut body = Vec::new();
        let mut batch = Batch::new();
        batch.put(Table::Inode, [7], [7]);
        wal::encode(&mut body, 0, batch.changes());
        log.append(&key.sealer(1), first, &body).unwrap();

        let opened = machine.open_told(4 << 10, LOG_BYTES);
        match opened {
            Ok(told) => {
                let rows = usize::from(case.has_tree) + usize::from(case.is_own);
                assert_eq!(count(&told.rows), rows, "{case:?}");
            }
            Err(StoreError::Damaged { .. }) => assert!(!case.opens, "{case:?}"),
            Err(error) => panic!("{case:?}: {error}"),
        }
        let looked = look(&disk, &machine.log(), &machine.key.sealer(0));
        assert_eq!(
            looked.is_ok(),
            case.opens || !case.has_mark && !case.is_own && case.has_tree
        );
    }
}

#[test]
fn a_log_that_lost_what_was_synced_says_what_is_gone() {
    for (is_removed, expected) in [(true, "is missing"), (false, "lacks")] {
        let mut machine = Machine::new();
        let Told { rows, .. } = machine.told(LARGE);
        (0..5).for_each(|n| put(&rows, n, 100).unwrap());
        drop(rows);
        let path = machine.log().join(wal::name_of(1));
        if is_removed {
            std::fs::remove_file(&path).unwrap();
        } else {
            std::fs::write(&path, []).unwrap();
        }
        let refused = machine.open_told(LARGE, LOG_BYTES).err();
        let refused = refused.expect("a refusal").to_string();
        assert!(refused.contains(expected), "{refused}");
        assert!(refused.contains(&wal::name_of(1)), "{refused}");
        let sealer = machine.key.sealer(0);
        assert!(check_flushed(&machine.log(), &sealer, 0).is_err());
    }
}

#[test]
fn a_log_that_does_not_reach_down_to_the_tree_is_refused_before_anything_is_opened() {
    let mut machine = Machine::new();
    let Told { rows, .. } = machine.told(LARGE);
    (0..5).for_each(|n| put(&rows, n, 100).unwrap());
    drop(rows);
    let sealer = machine.key.sealer(0);
    check_flushed(&machine.log(), &sealer, 0).unwrap();
    check_flushed(&machine.log(), &sealer, 5).unwrap();
    let disk = Folder::new(&machine.log());
    let said = Said {
        durable: 5,
        flushed: 4,
        ..Said::default()
    };
    Mark::open(&disk, sealer.owner(), said).unwrap();
    check_flushed(&machine.log(), &sealer, 4).unwrap();
    // The tree is an older one than the log was written beside.
    let refused = check_flushed(&machine.log(), &sealer, 3);
    assert!(matches!(refused, Err(StoreError::Damaged { .. })));
}

#[test]
fn room_for_encoding_is_kept_unless_a_batch_was_very_large() {
    let mut machine = Machine::new();
    let rows = machine.open(LARGE, false);
    let kept = || rows.shared.writer.lock().body.capacity();
    put(&rows, 0, 1000).unwrap();
    assert!(kept() >= 1000);
    put(&rows, 1, 2 << 20).unwrap();
    assert_eq!(kept(), 0);
}

#[test]
fn the_largest_files_are_kept_for_the_log_and_no_more_of_them_than_it_needs() {
    let machine = Machine::new();
    let disk = Folder::new(&machine.log());
    let sizes = [0, 3 << 20, 1 << 20, 97 << 20, 2 << 20, 96 << 20];
    for (number, size) in (1..).zip(sizes) {
        let file = std::fs::File::create(machine.log().join(wal::name_of(number)));
        file.unwrap().set_len(size).unwrap();
    }
    let kept = keep_some(&disk, Path::new("log"), 1..7).unwrap();
    assert_eq!(kept, [2, 6]);
    assert_eq!(machine.log_files(), FREE_FILES_MAX);
}

/// A tree that lets nothing in while it is shut.
#[derive(Debug)]
struct Slow {
    tree: Arc<dyn Tree>,
    is_shut: Mutex<bool>,
    opened: Condvar,
}

impl Slow {
    fn set_shut(&self, is_shut: bool) {
        *self.is_shut.lock() = is_shut;
        self.opened.notify_all();
    }
}

impl Tree for Slow {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.tree.get(key)
    }

    fn range<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        is_reverse: bool,
    ) -> Box<dyn Iterator<Item = crate::store::tree::TreeRow> + 'a> {
        self.tree.range(start, end, is_reverse)
    }

    fn apply(
        &self,
        visit: &mut dyn FnMut(&mut crate::store::tree::TreeChange<'_>),
    ) -> Result<(), StoreError> {
        let mut is_shut = self.is_shut.lock();
        while *is_shut {
            self.opened.wait(&mut is_shut);
        }
        drop(is_shut);
        self.tree.apply(visit)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.tree.sync()
    }
}

impl Machine {
    /// Opens rows with a thread over a tree that is shut.
    fn open_shut(&mut self, table_bytes: usize) -> (BufferedRows, Arc<Slow>) {
        let tree = Arc::new(Slow {
            tree: self.tree(),
            is_shut: Mutex::new(true),
            opened: Condvar::new(),
        });
        let options = BufferOptions {
            table_bytes,
            log_bytes: LOG_BYTES,
        };
        let disk = Arc::new(Folder::new(&self.log()));
        let (log, sealer) = (self.log(), self.key.sealer(self.opened));
        let of = Arc::clone(&tree) as Arc<dyn Tree>;
        let rows = BufferedRows::open_with_thread(disk, &log, of, sealer, options, Gate::default());
        (rows.unwrap(), tree)
    }
}

/// Waits for what the thread does first.
fn has_made_the_next_log_file(rows: &BufferedRows) {
    let mut flush = rows.shared.flush.lock();
    while flush.is_wanted {
        rows.shared.flush_changed.wait(&mut flush);
    }
}

#[test]
fn commits_go_on_beside_a_slow_flush_until_four_tables_are_full_and_then_wait_for_it() {
    const TABLE: usize = 64 << 10;
    const ROW: usize = 1 << 10;
    let mut machine = Machine::new();
    let (rows, tree) = machine.open_shut(TABLE);
    let (rows, (sender, held)) = (Arc::new(rows), mpsc::channel());
    let of_writer = Arc::clone(&rows);
    let writer = task::thread("writer", move || {
        for n in 0..600 {
            put(&of_writer, n, ROW).unwrap();
            let bytes = of_writer.shared.layers.read().active.bytes();
            sender.send(bytes).unwrap();
        }
    });
    // Who has to wait has told how far it came.
    let mut most = 0;
    while most < TABLE * OVERFULL {
        most = most.max(held.recv_timeout(DEADLINE).expect("commits that go on"));
    }
    assert_eq!(rows.shared.layers.read().moved, 0);
    tree.set_shut(false);
    while let Ok(bytes) = held.recv_timeout(DEADLINE) {
        most = most.max(bytes);
    }
    writer.unwrap().join().unwrap();
    assert!(most <= TABLE * OVERFULL + 2 * ROW, "{most}");
    assert_eq!(count(&rows), 600);
}

#[test]
fn who_settles_waits_for_a_slow_flush_only_where_much_is_in_memory() {
    const TABLE: usize = 64 << 10;
    let mut machine = Machine::new();
    let (rows, tree) = machine.open_shut(TABLE);
    // Until then a table that is full goes on, and more than one would wait.
    has_made_the_next_log_file(&rows);
    // Nothing, and then a table that waits for the tree and little behind it.
    rows.settle().unwrap();
    for n in 0.. {
        put(&rows, n, 500).unwrap();
        if rows.shared.layers.read().flushing.is_some() {
            break;
        }
    }
    let rows = Arc::new(rows);
    let settle = || {
        let (of, (sender, settled)) = (Arc::clone(&rows), mpsc::channel());
        let settler = task::thread("settler", move || {
            of.settle().unwrap();
            sender.send(of.shared.layers.read().moved).unwrap();
        });
        (settler.unwrap(), settled)
    };
    let (settler, settled) = settle();
    assert_eq!(settled.recv_timeout(DEADLINE), Ok(0));
    settler.join().unwrap();
    // Two tables full more.
    (1000..1200).for_each(|n| put(&rows, n, 500).unwrap());
    let (settler, settled) = settle();
    assert!(settled.try_recv().is_err());
    tree.set_shut(false);
    assert!(settled.recv_timeout(DEADLINE).unwrap() > 0);
    settler.join().unwrap();
}

#[test]
fn without_room_a_table_waits_and_what_is_kept_back_is_given_for_one_that_is_full() {
    const TABLE: usize = 64 << 10;
    for (held, has_ballast, is_moved) in [
        (TABLE / 16, false, false),
        (TABLE, false, false),
        // Memory takes no more: then it is tried.
        (TABLE * OVERFULL, false, true),
        (TABLE / 16, true, false),
        (TABLE, true, true),
        (TABLE * OVERFULL, true, true),
    ] {
        let case = format!("{held} {has_ballast}");
        let mut machine = Machine::new();
        let Told { rows, disk, .. } = machine.told(TABLE);
        let ballast = machine.folder.path().join("ballast");
        if has_ballast {
            rows.set_ballast(&ballast).unwrap();
        }
        let kept = || std::fs::metadata(&ballast).map_or(0, |meta| meta.len());
        put(&rows, 0, 500).unwrap();
        disk.set_free(Some(0));
        let before = kept();
        let flush = || rows.shared.flush_full(&mut rows.shared.writer.lock(), held);
        flush().unwrap();
        assert_eq!(
            rows.shared.layers.read().moved,
            u64::from(is_moved),
            "{case}"
        );
        assert_eq!(kept() < before, is_moved && has_ballast, "{case}");
        // One that waits for room keeps the next from being tried without any.
        rows.shared.layers.write().flushing = Some(Arc::new(Memtable::new(0)));
        rows.shared.flush.lock().is_stuck = true;
        disk.take();
        if !has_ballast {
            let is_refused = held >= TABLE * OVERFULL;
            assert_eq!(flush().is_err(), is_refused, "{case}");
            assert!(rows.shared.flush.lock().is_stuck && disk.take().is_empty());
        }
    }
}

#[test]
fn a_thread_that_finds_no_room_for_a_flush_tries_again_and_loses_nothing() {
    const TABLE: usize = 16 << 10;
    for is_closed_full in [false, true] {
        let mut machine = Machine::new();
        let is_full = Arc::new(AtomicBool::new(true));
        let (folder, log) = (machine.folder.path().join("rows"), machine.log());
        let (sealer, options) = (machine.key.sealer(1), StoreOptions::default());
        let tree = LocalTree::open(&folder, sealer.clone(), &options, Gate::default());
        let tree = Arc::new(FullTree {
            tree: tree.unwrap(),
            is_full: Arc::clone(&is_full),
        });
        let options = BufferOptions {
            table_bytes: TABLE,
            log_bytes: LOG_BYTES,
        };
        let disk = Arc::new(Folder::new(&log));
        let rows =
            BufferedRows::open_with_thread(disk, &log, tree, sealer, options, Gate::default());
        let rows = rows.unwrap();
        let refused = (0..1000).find_map(|n| Some((n, put(&rows, n, 500).err()?)));
        let (mut taken, error) = refused.expect("an end");
        assert!(matches!(error, StoreError::Full), "{error}");
        let held = rows.shared.layers.read().active.bytes();
        assert!((TABLE * OVERFULL..TABLE * OVERFULL + 1000).contains(&held));
        assert!(rows.shared.flush.lock().is_stuck);
        assert_eq!(rows.shared.layers.read().moved, 0);
        // Nobody waits for what has no room.
        rows.sync().unwrap();
        rows.settle().unwrap();
        assert_eq!(count(&rows) as u32, taken);
        if !is_closed_full {
            is_full.store(false, Ordering::Relaxed);
            put(&rows, taken, 500).unwrap();
            assert_eq!(rows.shared.layers.read().moved, 1);
            taken += 1;
        }
        drop(rows);
        machine.opened = 1;
        assert_eq!(count(&machine.open(TABLE, true)) as u32, taken);
    }
}

#[test]
fn once_rows_are_closed_nobody_writes_to_their_folder_any_more() {
    let mut machine = Machine::new();
    let (rows, tree) = machine.open_shut(4 << 10);
    (0..40).for_each(|n| put(&rows, n, 200).unwrap());
    let (shared, left) = (Arc::clone(&rows.shared), Arc::downgrade(&rows.shared));
    // The tree takes the table only while the rows are being closed.
    let opener = task::thread("opener", move || {
        while !shared.flush.lock().is_closing {
            std::thread::yield_now();
        }
        tree.set_shut(false);
    });
    drop(rows);
    opener.unwrap().join().unwrap();
    assert!(left.upgrade().is_none(), "a thread has it still");
    assert_eq!(count(&machine.open(4 << 10, false)), 40);
}

#[test]
fn where_no_next_log_file_can_be_made_commits_go_on_until_four_tables_are_full() {
    const TABLE: usize = 16 << 10;
    let mut machine = Machine::new();
    let Told { rows, disk, .. } = machine.told(TABLE);
    disk.refuse(Done::Make, ".wal", io::ErrorKind::StorageFull);
    let refused = (0..1000).find(|n| put(&rows, *n, 500).is_err());
    let taken = refused.expect("an end");
    let held = rows.shared.layers.read().active.bytes();
    assert!((TABLE * OVERFULL..TABLE * OVERFULL + 1000).contains(&held));
    // Then as if nothing had been.
    disk.allow();
    put(&rows, taken, 500).unwrap();
    assert_eq!(rows.shared.layers.read().moved, 1);
    // A failure of another kind is told at once.
    disk.refuse(Done::Make, ".wal", io::ErrorKind::Other);
    rows.shared.flush.lock().free.clear();
    let refused = (0..1000).find(|n| put(&rows, 1000 + n, 500).is_err());
    let more = refused.expect("an end");
    assert!(rows.shared.layers.read().active.bytes() < TABLE + 1000);
    drop(rows);
    assert_eq!(count(&machine.open(TABLE, false)) as u32, taken + 1 + more);
}

#[test]
fn a_new_log_file_is_left_early_for_one_that_was_made_ahead_and_no_other_is() {
    const TABLE: usize = 64 << 10;
    let mut machine = Machine::new();
    let Told { rows, disk, .. } = machine.told(TABLE);
    let (number, moved) = (
        || rows.shared.writer.lock().log.number,
        || rows.shared.layers.read().moved,
    );
    (0..20).for_each(|n| put(&rows, n, 500).unwrap());
    assert_eq!((number(), moved()), (1, 0), "nothing was made ahead");
    rows.shared.prepare();
    assert!(rows.shared.flush.lock().spare.is_some());
    put(&rows, 20, 500).unwrap();
    assert_eq!((number(), moved()), (2, 1));
    assert!(rows.shared.writer.lock().log.is_written);
    // Without a thread the next is made when it is needed.
    assert!(rows.shared.flush.lock().spare.is_none());
    rows.shared.prepare();
    for n in 0.. {
        put(&rows, n, 500).unwrap();
        if moved() > 1 {
            // A whole table full.
            assert!(n > 90, "{n}");
            break;
        }
        assert!(n < 200);
        assert!(rows.shared.layers.read().active.bytes() < TABLE + 1000);
    }
    assert!(rows.shared.writer.lock().log.number == 3);

    // Not with the last room that there is, but of a file that has its room.
    disk.set_free(Some(0));
    disk.take();
    rows.shared.prepare();
    assert!(rows.shared.flush.lock().spare.is_none());
    assert_eq!(disk.take(), []);
    rows.shared.flush.lock().free = vec![1];
    rows.shared.prepare();
    assert!(rows.shared.flush.lock().spare.is_some());
    assert!(!disk.take().iter().any(|(what, _)| *what == Done::Make));
}

#[test]
fn the_thread_makes_the_next_log_file_ahead() {
    let mut machine = Machine::new();
    let rows = machine.open(64 << 10, true);
    has_made_the_next_log_file(&rows);
    assert!(rows.shared.flush.lock().spare.is_some());
}

#[test]
fn the_log_of_what_is_in_the_tree_is_given_up_when_it_is_large_and_not_before() {
    const TABLE: usize = 16 << 10;
    const LOG: u64 = 256 << 10;
    let mut machine = Machine::new();
    let Told { rows, disk, .. } = machine.open_told(TABLE, LOG).unwrap();
    let retired = || -> u64 {
        let flush = rows.shared.flush.lock();
        flush.retired.iter().map(|(_, len)| len).sum()
    };
    disk.take();
    let mut most = 0;
    for n in 0..4000 {
        put(&rows, n, 500).unwrap();
        most = most.max(retired());
    }
    assert!(most <= LOG && most + 2 * TABLE as u64 > LOG, "{most}");
    let files = machine.log_files() as u64;
    assert!(files <= LOG / TABLE as u64 + 2 + FREE_FILES_MAX as u64);
    // Each time costs a sync of the tree and the mark.
    let marks = disk.take().into_iter().filter(|(_, name)| name == "mark");
    let times = marks.count() / 2;
    assert!((4..20).contains(&times), "{times}");
}
