//! Merges of long histories: what is folded again, what one hold of the writer's lock does, and how such a
//! merge is gone on with after a power cut.

use dfs::base::Rng;
use dfs::volume::FileKind;

use super::cluster::{Device, agree, cluster, sync};

/// Ops of a side: more than a slice and a record hold.
const OPS: usize = 4500;

/// Each so many of them take a name that the other takes as well.
const CLASH: usize = 900;

/// Most rows of a batch: of what may be undone and folded again under the writer's lock, and a slice.
const BATCH_ROWS_MAX: usize = 16 << 10;

/// Most bytes of a batch, whatever is in it.
pub(crate) const BATCH_BYTES_MAX: u64 = 16 << 20;

/// Most rows that are looked at in one go while own ops wait.
const SCAN_ROWS_MAX: usize = 1024;

fn creates(device: &Device, dir: &str) {
    let parent = device.at(dir).ino;
    for index in 0..OPS {
        let name = match index % CLASH {
            0 => format!("both {index}"),
            _ => format!("of {} {index}", device.index()),
        };
        let at = super::cluster::place(parent, name.as_bytes());
        device.apply(super::cluster::create(
            at,
            FileKind::File,
            Default::default(),
        ));
    }
}

/// Makes records of all that is published.
pub(super) fn commit_all(voter: &Device) {
    let before = voter.volume.record().number;
    voter.commit();
    if voter.volume.record().number > before {
        commit_all(voter);
    }
}

#[test]
fn creates_of_two_sides_in_one_directory_fold_again_nothing_but_the_names_that_clash() {
    for has_records in [false, true] {
        let devices = cluster(3);
        let [a, b] = [&devices[0], &devices[2]];
        a.mkdir("d");
        sync(&devices);
        creates(a, "d");
        creates(b, "d");
        a.publish();
        b.publish();
        if has_records {
            commit_all(a);
        }
        let clashes = OPS / CLASH;
        for device in [a, b] {
            device.take_scanned();
        }
        let back = b.pull(a, usize::MAX).undone_count;
        let there = a.pull(b, usize::MAX).undone_count;
        // A name that clashes may be folded again where it sorts, and where a record says so.
        assert!(
            back <= 2 * clashes && there <= clashes,
            "{back} and {there}"
        );
        if has_records {
            commit_all(a);
            let late = b.pull(a, usize::MAX).undone_count;
            assert!(late <= clashes, "{late} by the records of that");
        }
        for device in [a, b] {
            let longest = device.take_scanned().longest;
            assert!(longest <= SCAN_ROWS_MAX, "{longest} rows in one scan");
        }
        sync(&devices);
    }
}

#[test]
fn what_a_merge_knows_of_the_own_tail_stays_from_one_round_to_the_next() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.mkdir("d");
    sync(&devices);
    creates(b, "d");
    b.publish();
    let mut looked_at = 0;
    for round in 0..3 {
        for index in 0..10 {
            a.make(&format!("d/late {round} {index}"), FileKind::File);
        }
        a.publish();
        // Clocks differ: all of it comes before what the other did.
        b.take_scanned();
        assert_eq!(b.pull(a, usize::MAX).undone_count, 0);
        let read = b.take_scanned().all;
        if round == 0 {
            looked_at = read;
            assert!(read >= OPS, "{read} of {OPS} ops were looked at");
        } else {
            assert!(read < looked_at / 10, "{read} rows again, of {looked_at}");
        }
    }
    sync(&devices);
}

/// Rows that are looked at for an op, its record and all that follows from them, however many ops there are.
const LOOKED_AT_MAX: usize = 300;

#[test]
fn a_late_op_looks_at_nothing_of_what_records_name_that_it_does_not_touch() {
    let devices = cluster(3);
    let [voter, there, away] = &devices[..] else {
        panic!("three devices");
    };
    voter.mkdir("d");
    voter.mkdir("late");
    sync(&devices);
    commit_all(voter);
    sync(&devices);
    // Its clock is not ahead: all of this comes before what the others do.
    for round in 0..3 {
        away.make(&format!("late/{round}"), FileKind::File);
        away.publish();
    }
    creates(voter, "d");
    voter.publish();
    commit_all(voter);
    there.pull(voter, usize::MAX);
    assert!(
        voter.record_count() > OPS,
        "who is away may still look back to them"
    );
    let mut looked_at = Vec::new();
    let mut look = |what: &str, device: &Device| {
        looked_at.push((what.to_owned(), device.index(), device.take_scanned().all));
    };
    for device in [voter, there] {
        device.take_scanned();
    }
    for round in 0..3 {
        for device in [voter, there] {
            assert_eq!(device.pull(away, 1).undone_count, 0);
            look("the op", device);
        }
        for index in 0..5 {
            voter.make(&format!("d/in flight {round} {index}"), FileKind::File);
        }
        voter.publish();
        look("own ops", voter);
        voter.commit();
        look("the record", voter);
        there.pull(voter, usize::MAX);
        look("the record", there);
        // With nothing to ask it, what a merge knew is given up.
        for device in [voter, there] {
            for _ in 0..2 {
                device.volume.apply_segments().unwrap();
            }
            look("nothing", device);
        }
    }
    let most = looked_at.iter().map(|(.., rows)| *rows).max();
    assert!(most <= Some(LOOKED_AT_MAX), "of {OPS} ops: {looked_at:?}");
    sync(&devices);
}

#[test]
fn who_stays_online_folds_again_what_is_in_flight_and_who_comes_back_its_tail_once() {
    const FLIGHT: usize = 20;
    let devices = cluster(3);
    let [voter, there, back] = &devices[..] else {
        panic!("three devices");
    };
    voter.mkdir("d");
    for name in 0..10 {
        voter.put(&format!("d/{name}"), "was");
    }
    sync(&devices);
    commit_all(voter);
    sync(&devices);
    let away = OPS / 3;
    for index in 0..away {
        back.put(&format!("d/{}", index % 10), &format!("back {index}"));
        voter.put(&format!("d/{}", index % 10), &format!("voter {index}"));
        if index % 100 == 0 {
            back.publish();
            voter.publish();
            commit_all(voter);
            there.pull(voter, usize::MAX);
        }
    }
    voter.publish();
    back.publish();
    commit_all(voter);
    there.pull(voter, usize::MAX);
    for index in 0..FLIGHT {
        there.put(&format!("d/{}", index % 10), &format!("in flight {index}"));
    }
    there.publish();
    voter.pull(there, usize::MAX);
    back.volume.undo_at_most(100);
    let tail = back.pull(voter, usize::MAX).undone_count;
    // And some before it was clear that all of it has to be.
    assert!(tail <= away + away / 4, "{tail} of {away} folded again");
    for online in [voter, there] {
        let again = online.pull(back, usize::MAX).undone_count;
        assert!(
            again <= FLIGHT,
            "{again} of {FLIGHT} in flight folded again"
        );
    }
    commit_all(voter);
    sync(&devices);
}

/// What the two sides do, and what was there.
type Shape = (
    &'static str,
    fn(&Device),
    fn(&Device, usize),
    fn(&Device, usize),
);

const SHAPES: [Shape; 5] = [
    (
        "both make one directory and fill it",
        |_| {},
        |device, index| fill(device, "same", index),
        |device, index| fill(device, "same", index),
    ),
    (
        "one moves the directory that the other fills",
        |device| {
            device.mkdir("x");
            device.mkdir("y");
            device.mkdir("x/d");
        },
        |device, index| match index % 2 {
            0 => device.rename("x/d", "y/d", false),
            _ => device.rename("y/d", "x/d", false),
        },
        |device, index| fill(device, "x/d", index),
    ),
    (
        "one removes the tree that the other writes in",
        |device| {
            device.mkdir("d");
            for index in 0..300 {
                device.put(&format!("d/{index}"), "was");
            }
        },
        |device, index| match index {
            0..300 => device.unlink(&format!("d/{index}")),
            300 => device.rmdir("d"),
            _ => {}
        },
        |device, index| {
            device.put(&format!("d/{}", index % 300), &format!("{index}"));
        },
    ),
    (
        "both write one file",
        |device| {
            device.put("f", "was");
        },
        write,
        write,
    ),
    (
        "both write pieces of one file",
        |device| {
            device.put("f", "was");
        },
        piece,
        piece,
    ),
];

pub(super) fn fill(device: &Device, dir: &str, index: usize) {
    if device.find(dir).is_none() {
        device.mkdir(dir);
    }
    device.make(
        &format!("{dir}/of {} {index}", device.index()),
        FileKind::File,
    );
}

fn write(device: &Device, index: usize) {
    device.put("f", &format!("{index} of {}", device.index()));
    if index.is_multiple_of(16) {
        device.publish();
    }
}

fn piece(device: &Device, index: usize) {
    let inode = device.at("f");
    let mut kind = super::cluster::write(inode.ino, inode.version, "piece");
    if let dfs::volume::OpKind::Write(write) = &mut kind {
        let offset = index as u64 * 16;
        write.pieces = vec![super::cluster::inline(offset, "piece")];
        write.size = inode.size.max(offset + 5);
    }
    device.apply(kind);
    if index.is_multiple_of(16) {
        device.publish();
    }
}

fn apart(devices: &[Device], shape: &Shape, ops: usize) {
    let (_, before, left, right) = shape;
    let (a, b) = (&devices[0], &devices[1]);
    before(a);
    sync(devices);
    commit_all(a);
    sync(devices);
    for index in 0..ops {
        left(a, index);
        right(b, index);
        if index % 500 == 499 {
            a.publish();
            b.publish();
            commit_all(a);
        }
    }
    a.publish();
    b.publish();
    commit_all(a);
}

#[test]
fn no_batch_grows_with_what_crosses() {
    for shape in &SHAPES {
        let devices = cluster(2);
        apart(&devices, shape, 1500);
        let (a, b) = (&devices[0], &devices[1]);
        // As where a machine has much to do.
        for device in [a, b] {
            device.volume.undo_at_most(200);
            device.take_largest_batch();
            device.take_largest_bytes();
        }
        b.pull(a, usize::MAX);
        a.pull(b, usize::MAX);
        commit_all(a);
        b.pull(a, usize::MAX);
        for device in [a, b] {
            let largest = device.take_largest_batch();
            assert!(largest <= BATCH_ROWS_MAX, "{}: {largest} rows", shape.0);
            let bytes = device.take_largest_bytes();
            assert!(bytes <= BATCH_BYTES_MAX, "{}: {bytes} bytes", shape.0);
        }
        sync(&devices);
    }
}

/// Most bytes of ops that wait in memory to be folded: a slice, and what one hold of the writer's lock undoes.
const WAITING_BYTES_MAX: usize = 1 << 20;

#[test]
fn what_is_undone_does_not_wait_in_memory_however_much_it_is() {
    let devices = cluster(2);
    let (a, b) = (&devices[0], &devices[1]);
    a.put("f", "was");
    sync(&devices);
    let content = "x".repeat(4000);
    for _ in 0..600 {
        for device in [a, b] {
            let inode = device.at("f");
            let kind = super::cluster::write(inode.ino, inode.version, &content);
            device.apply(kind);
            // Else one op carries all.
            device.publish();
        }
    }
    for device in [a, b] {
        device.volume.undo_at_most(100);
    }
    let back = b.pull(a, usize::MAX);
    let there = a.pull(b, usize::MAX);
    let undone = back.undone_count.max(there.undone_count);
    assert!(undone * content.len() > 2 * WAITING_BYTES_MAX, "{undone}");
    for merged in [back, there] {
        let waiting = merged.waiting_bytes;
        assert!(waiting <= WAITING_BYTES_MAX, "{waiting} bytes");
    }
    sync(&devices);
}

#[test]
fn a_large_merge_that_loses_power_anywhere_ends_the_same() {
    let rng = Rng::from_seed(11);
    for shape in &SHAPES {
        let devices = cluster(2);
        apart(&devices, shape, 60);
        let (a, b) = (&devices[0], &devices[1]);
        let own = b.files();
        let copy = b.copy();
        b.pull(a, usize::MAX);
        let expected = b.rows();
        let mut cut = 0;
        loop {
            let mut device = Device::new(1);
            device.put_back(copy.crash(&rng));
            device.refuse_writes_after(cut);
            let is_done = device.try_pull(a);
            if !is_done {
                // What was there is there, or all of it.
                let files = device.files();
                let is_own = own.keys().all(|path| files.contains_key(path));
                assert!(
                    is_own || device.rows() == expected,
                    "{}: cut at {cut}",
                    shape.0
                );
            }
            device.crash(&rng);
            device.pull(a, usize::MAX);
            assert!(device.rows() == expected, "{}: cut at {cut}", shape.0);
            if is_done {
                break;
            }
            cut += 1;
        }
        assert!(cut > 3, "{}: {cut}", shape.0);
        agree(&[a_with_all(&devices)]);
    }
}

#[test]
fn a_large_merge_that_counts_is_not_given_up_where_the_disk_takes_nothing_more() {
    for cut in 0..24 {
        let devices = cluster(2);
        let (a, b) = (&devices[0], &devices[1]);
        a.put("f", "base");
        sync(&devices);
        // The private copy of a file that comes back is to go as soon as the merge counts.
        let ino = b.at("f").ino;
        b.volume.hold(ino);
        (0..3).for_each(|_| b.later());
        b.unlink("f");
        b.overwrite(ino, "scratch");
        a.put("f", "written");
        for index in 0..8 {
            fill(a, "same", index);
            fill(b, "same", index);
        }
        a.publish();
        b.publish();
        b.volume.undo_at_most(3);
        b.refuse_writes_after(cut);
        b.try_pull(a);
        b.refuse_writes(false);
        a.put("g", "more");
        a.publish();
        b.pull(a, usize::MAX);
        assert_eq!(b.text("f"), "written", "{cut}");
        sync(&devices);
    }
}

/// Returns a device that has all that the others have.
fn a_with_all(devices: &[Device]) -> Device {
    let all = Device::new(3);
    for device in devices {
        all.pull(device, usize::MAX);
    }
    all
}
