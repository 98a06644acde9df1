//! Folding anew: whatever is wrong with the rows goes, what only this device has stays, and a power cut
//! at any moment changes nothing of that.

use std::ops::ControlFlow;

use dfs::base::Rng;
use dfs::store::{Batch, Store, Table};
use dfs::volume::{FileKind, Volume, VolumeError};

use super::cluster::{Device, SHARED, SharedRows, cluster, sync};

/// Returns two devices with some of everything: conflicts, removed files, links, drafts.
fn some() -> Vec<Device> {
    let devices = cluster(2);
    let (anna, ben) = (&devices[0], &devices[1]);
    anna.mkdir("d");
    anna.put("d/a", "one");
    anna.put("b", "two");
    anna.link("b", "d/link");
    sync(&devices);
    anna.put("d/a", "from anna");
    ben.put("d/a", "from ben");
    ben.put("same", "alike");
    anna.put("same", "alike");
    ben.mkdir("met");
    anna.mkdir("met");
    sync(&devices);
    anna.commit();
    sync(&devices);
    anna.unlink("b");
    ben.make("d/fifo", FileKind::Fifo);
    sync(&devices);
    // Drafts, on top of others' work.
    anna.put("d/draft", "not sealed");
    anna.rename("same", "moved", false);
    devices
}

fn set(store: &Store, table: Table, key: &[u8], value: Option<&[u8]>) {
    let mut batch = Batch::new();
    match value {
        Some(value) => batch.put(table, key, value),
        None => batch.delete(table, key),
    }
    store.rows.commit(batch).unwrap();
}

fn rows_of(store: &Store, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut take = |key: &[u8], value: &[u8]| {
        rows.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    store.rows.scan(table, &[], None, &mut take).unwrap();
    rows
}

/// Damages rows of a device at random: changes, removes and adds some.
fn damage(device: &Device, rng: &Rng, tables: &[Table]) {
    for table in tables {
        let rows = rows_of(&device.store, *table);
        for (key, value) in &rows {
            match rng.below(4) {
                0 => set(&device.store, *table, key, None),
                1 => {
                    let mut value = value.clone();
                    if let Some(byte) = byte_of(*table, &mut value) {
                        *byte ^= 1 << rng.below(8);
                    }
                    set(&device.store, *table, key, Some(&value));
                }
                2 => {
                    let mut key = key.clone();
                    if let Some(byte) = key.last_mut() {
                        *byte ^= 1 << rng.below(8);
                    }
                    set(&device.store, *table, &key, Some(value));
                }
                _ => {}
            }
        }
    }
}

/// Returns a byte of a row that is the same on all devices: the last ones of a folder may be its times.
pub(super) fn byte_of(table: Table, value: &mut [u8]) -> Option<&mut u8> {
    match table {
        Table::Inode => value.first_mut(),
        _ => value.last_mut(),
    }
}

#[test]
fn rows_that_were_changed_by_hand_are_mended_while_the_volume_is_used() {
    let rng = Rng::from_seed(1);
    for _ in 0..8 {
        let devices = some();
        let anna = &devices[0];
        let (expected, files) = (anna.rows(), anna.files());
        let conflicts = anna.conflicts();
        damage(anna, &rng, &SHARED);
        let anew = anna.volume.fold_anew().unwrap();
        assert!(anew.differing > 0 && !anew.changes.is_empty());
        assert_eq!(anew.lost, 0);
        assert!(anna.rows() == expected);
        assert_eq!(anna.files(), files);
        assert_eq!(anna.conflicts(), conflicts);
        assert!(rows_of(&anna.store, Table::Beside).is_empty());
        // It goes on from there, with its drafts.
        anna.put("d/later", "more");
        sync(&devices);
        assert_eq!(devices[1].text("d/draft"), "not sealed");
        assert_eq!(anna.volume.fold_anew().unwrap().differing, 0);
    }
}

#[test]
fn what_says_how_far_it_is_folded_is_mended_when_the_volume_is_opened() {
    let rng = Rng::from_seed(2);
    for _ in 0..8 {
        let mut devices = some();
        let (expected, files) = (devices[0].rows(), devices[0].files());
        let tables = [Table::Applied, Table::Committed, Table::Inode];
        damage(&devices[0], &rng, &tables);
        set(&devices[0].store, Table::Meta, b"volume/counts", Some(b"x"));
        ask(&devices[0].store);
        devices[0].restart();
        assert!(devices[0].rows() == expected);
        assert_eq!(devices[0].files(), files);
        sync(&devices);
        assert_eq!(devices[1].text("d/draft"), "not sealed");
    }
}

fn ask(store: &Store) {
    let mut batch = Batch::new();
    Volume::ask_anew(&mut batch);
    store.rows.commit(batch).unwrap();
}

#[test]
fn a_power_cut_at_any_moment_of_it_leaves_what_goes_on() {
    let rng = Rng::from_seed(3);
    let devices = some();
    // As much as does not go over in one batch.
    let text = "x".repeat(3000);
    for n in 0..200 {
        devices[0].put(&format!("d/{n}"), &text);
    }
    devices[0].publish();
    let files = devices[0].files();
    let expected: SharedRows = devices[0].rows();
    for (key, _) in rows_of(&devices[0].store, Table::Extent) {
        set(&devices[0].store, Table::Extent, &key, None);
    }
    damage(&devices[0], &rng, &SHARED);
    ask(&devices[0].store);
    let disk = devices[0].copy();
    let mut cuts = 0;
    loop {
        let mut device = Device::new(0);
        let copy = disk.crash(&rng);
        copy.set_writes_left(Some(cuts));
        let is_done = device.try_put_back(copy);
        device.crash(&rng);
        assert!(device.rows() == expected, "cut at {cuts}");
        assert_eq!(device.files(), files);
        if is_done {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 7, "{cuts}");
}

#[test]
fn what_a_missing_segment_did_is_not_given_up() {
    let devices = some();
    let anna = &devices[0];
    let expected = anna.rows();
    let (key, value) = rows_of(&anna.store, Table::Segment).pop().unwrap();
    set(&anna.store, Table::Segment, &key, None);
    let refused = anna.volume.fold_anew().unwrap_err();
    assert!(matches!(refused, VolumeError::NotHere { .. }), "{refused}");
    assert!(anna.rows() == expected);
    set(&anna.store, Table::Segment, &key, Some(&value));
    assert_eq!(anna.volume.fold_anew().unwrap().differing, 0);
}

#[test]
fn a_removed_file_that_is_open_here_stays_as_long_as_it_is() {
    let devices = some();
    let anna = &devices[0];
    let ino = anna.at("d/fifo").ino;
    anna.volume.hold(ino);
    anna.unlink("d/fifo");
    for _ in 0..2 {
        sync_all(&devices);
        anna.commit();
    }
    assert!(anna.volume.inode(ino).unwrap().is_some());
    anna.volume.fold_anew().unwrap();
    assert!(anna.volume.inode(ino).unwrap().is_some());
    anna.volume.release(ino);
}

/// Lets all know everything; one of them has rows of a removed file.
fn sync_all(devices: &[Device]) {
    for device in devices {
        device.publish();
    }
    for device in devices {
        for other in devices {
            device.pull(other, usize::MAX);
        }
    }
}

#[test]
fn a_volume_of_one_is_folded_anew_with_its_drafts() {
    let mut device = Device::alone();
    for n in 0..20 {
        device.put(&format!("f{n}"), "text");
    }
    device.publish();
    device.unlink("f3");
    device.publish();
    device.put("f4", "draft");
    let expected = device.rows();
    damage(&device, &Rng::from_seed(4), &SHARED);
    device.volume.fold_anew().unwrap();
    assert!(device.rows() == expected);
    // Of the sealed ones that of the last alone is left.
    assert!(device.record_count() <= 2, "{}", device.record_count());
    device.publish();
    device.restart();
    assert_eq!(device.text("f4"), "draft");
    assert_eq!(device.volume.fold_anew().unwrap().differing, 0);
}

#[test]
fn what_comes_behind_many_drafts_is_looked_at_once() {
    const OPS: usize = 4500;
    let devices = cluster(2);
    let [anna, ben] = [&devices[0], &devices[1]];
    anna.mkdir("d");
    sync(&devices);
    let dir = anna.at("d").ino;
    let fill = |device: &Device| {
        for n in 0..OPS {
            let name = format!("of {} {n}", device.index());
            let at = super::cluster::place(dir, name.as_bytes());
            device.apply(super::cluster::create(
                at,
                FileKind::File,
                Default::default(),
            ));
        }
    };
    fill(anna);
    // All of it comes behind what the other has not sealed.
    ben.clock.advance(std::time::Duration::from_secs(10));
    fill(ben);
    ben.publish();
    anna.pull(ben, usize::MAX);
    anna.take_scanned();
    anna.volume.fold_anew().unwrap();
    let read = anna.take_scanned().all;
    assert!(
        read < 27 * OPS,
        "{read} rows were looked at, of {OPS} drafts and as many ops behind them"
    );
    sync(&devices);
}
