//! Settled sums: equal on all devices at a record while nothing is tentative, whatever each keeps for
//! itself; and what is changed by hand is found and mended.

use std::ops::ControlFlow;

use dfs::store::{Batch, Table};
use dfs::volume::OpKind;
use dfs::wire::Settled;

use super::cluster::{Device, SHARED, cluster, read_again, sync};

/// Lets all know and fold everything, and a record name it.
fn settle(devices: &[Device]) -> Vec<Settled> {
    for device in devices {
        device.publish();
    }
    for _ in 0..2 {
        for device in devices {
            for other in devices {
                device.pull(other, usize::MAX);
            }
        }
        devices[0].commit();
    }
    let said = devices
        .iter()
        .map(|device| device.volume.at_rest().unwrap());
    said.map(|said| said.expect("nothing is tentative"))
        .collect()
}

fn all_equal(said: &[Settled]) -> bool {
    said.windows(2).all(|pair| pair[0] == pair[1])
}

#[test]
fn at_a_record_all_devices_have_one_sum() {
    let devices = cluster(3);
    let (anna, ben) = (&devices[0], &devices[1]);
    anna.put("a", "one");
    anna.mkdir("d");
    assert!(anna.volume.at_rest().unwrap().is_none(), "it has drafts");
    let first = settle(&devices);
    assert!(all_equal(&first), "{first:?}");
    anna.put("a", "anna");
    ben.put("a", "ben");
    ben.put("d/x", "x");
    ben.publish();
    assert!(
        ben.volume.at_rest().unwrap().is_none(),
        "no record names it"
    );
    let second = settle(&devices);
    assert!(all_equal(&second), "{second:?}");
    assert_ne!(first[0].mac, second[0].mac);
}

#[test]
fn what_a_device_has_for_itself_is_in_no_sum() {
    let devices = cluster(2);
    let (anna, ben) = (&devices[0], &devices[1]);
    anna.put("removed", "text");
    anna.put("kept", "text");
    settle(&devices);
    // A program here has a file open that is removed, and goes on changing it.
    let ino = anna.at("removed").ino;
    anna.volume.hold(ino);
    ben.unlink("removed");
    ben.put("kept", "more");
    settle(&devices);
    anna.overwrite(ino, "in private");
    let said = settle(&devices);
    assert!(all_equal(&said), "{said:?}");
    assert!(anna.volume.inode(ino).unwrap().is_some());
    // Times of access and arrival.
    let mut batch = Batch::new();
    batch.put(Table::Atime, ino.0.to_be_bytes(), b"then");
    batch.put(Table::Arrival, ino.0.to_be_bytes(), b"then");
    anna.store.rows.commit(batch).unwrap();
    read_again(anna);
    assert!(all_equal(&settle(&devices)));
    anna.volume.release(ino);
}

#[test]
fn a_row_changed_by_hand_is_found_told_and_mended() {
    for table in SHARED {
        let mut devices = cluster(2);
        devices[0].put("a", "text");
        devices[0].mkdir("d");
        devices[0].link("a", "d/b");
        let kind = OpKind::SetXattr {
            ino: devices[0].at("a").ino,
            name: "user.x".into(),
            value: "y".into(),
            time: Default::default(),
        };
        devices[0].apply(kind);
        settle(&devices);
        let mut found = None;
        let rows = &devices[1].store.rows;
        let mut first = |key: &[u8], value: &[u8]| {
            found = Some((key.to_vec(), value.to_vec()));
            ControlFlow::Break(())
        };
        rows.scan(table, &[], None, &mut first).unwrap();
        let Some((key, mut value)) = found else {
            continue;
        };
        if let Some(byte) = super::anew::byte_of(table, &mut value) {
            *byte ^= 1;
        }
        let mut batch = Batch::new();
        batch.put(table, key, value);
        rows.commit(batch).unwrap();
        let expected = devices[0].rows();
        // Whether the device was restarted in between or not.
        devices[1].restart();
        let checked = loop {
            if let Some(checked) = devices[1].volume.check_rows().unwrap() {
                break checked;
            }
        };
        assert!(!checked.is_right, "{table:?}");
        let said = [0, 1].map(|n: usize| devices[n].volume.at_rest().unwrap().unwrap());
        assert_eq!(said[0].record, said[1].record);
        assert_ne!(said[0].mac, said[1].mac, "{table:?}: others hear of it");

        // Who has the right rows holds to them.
        assert_eq!(devices[0].volume.fold_anew().unwrap().differing, 0);
        assert!(devices[1].volume.fold_anew().unwrap().differing > 0);
        assert!(devices[1].rows() == expected, "{table:?}");
        read_again(&devices[1]);
        assert!(all_equal(&settle(&devices)));
    }
}

#[test]
fn rows_are_read_again_while_they_change() {
    let devices = cluster(2);
    let anna = &devices[0];
    for n in 0..150 {
        anna.put(&format!("f{n}"), "text");
    }
    let mut n = 0;
    let mut rounds = 0;
    while rounds < 3 {
        if let Some(checked) = anna.volume.check_rows().unwrap() {
            assert!(checked.is_right, "round {rounds}");
            rounds += 1;
        }
        // Before and behind of where it reads.
        anna.put(&format!("f{}", n % 150), "other");
        if n % 3 == 0 {
            anna.put(&format!("g{n}"), "new");
            anna.unlink(&format!("g{n}"));
        }
        n += 1;
    }
    sync(&devices);
}

#[test]
fn a_sum_costs_an_own_op_one_small_row_at_most() {
    let device = Device::alone();
    device.put("a", "text");
    device.put("b", "text");
    let rows_of = |change: &dyn Fn()| {
        device.take_largest_batch();
        change();
        device.take_largest_batch()
    };
    // Inode, entry, folder, op, and the sums, which were there before.
    let create = rows_of(&|| {
        device.make("c", dfs::volume::FileKind::File);
    });
    assert_eq!(create, 5);
    // Inode, extent, op, sums.
    let write = rows_of(&|| {
        device.put("a", "more");
    });
    assert_eq!(write, 4);
    // Two entries, the file, the folder, the op, and now the sums.
    let rename = rows_of(&|| device.rename("b", "e", false));
    assert_eq!(rename, 6);
}
