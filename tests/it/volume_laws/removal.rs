//! Who was removed: from the record on that takes that into account, what it writes counts where somebody who
//! goes on had built on it, and nowhere else, whoever hands it on and in which order it comes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use dfs::base::{Clock, Ino};
use dfs::store::{Batch, Table};
use dfs::volume::{FileKind, Missing, OpKind, VolumeError};

use super::cluster::{Device, agree, cluster, create, exchange_all, place, sync};

/// Returns devices of which the last is to be removed, all of the same record.
pub(super) fn company(count: usize) -> Vec<Device> {
    let devices = cluster(count);
    for _ in 0..2 {
        devices[0].commit();
        sync(&devices);
    }
    devices
}

/// The voter hears that a device was removed, and makes a record of that.
fn remove(voter: &Device, device: &Device) {
    let before = voter.chain.tip().number;
    voter.roll.end(device.admission);
    voter.commit();
    assert!(
        voter.chain.tip().number > before,
        "a removal needs no segment"
    );
}

#[test]
fn what_a_removed_writer_goes_on_to_write_is_taken_back_and_counts_nowhere() {
    let devices = company(4);
    let [voter, before, behind, removed] = &devices[..] else {
        panic!("four devices");
    };
    let (log, named) = (removed.log.own_log(), removed.put("named", "in time"));
    removed.publish();
    voter.pull(removed, usize::MAX);
    voter.commit();
    removed.put("late", "nobody built on it");
    removed.append("named", ", and more");
    removed.publish();
    before.pull(removed, usize::MAX);
    assert_eq!(before.text("late"), "nobody built on it");
    remove(voter, removed);
    // One has what was written since, the other gets it behind the record.
    let merged = before.pull(voter, usize::MAX);
    assert!(!merged.changes.is_empty());
    behind.pull(voter, usize::MAX);
    removed.put("later", "and this");
    removed.publish();
    for device in [before, behind, voter] {
        device.pull(removed, usize::MAX);
    }
    // Nor is anything left of what had been seen by who wrote that.
    let begin = [log.0.to_be_bytes(), named.stamp.next().0.to_be_bytes()].concat();
    let end = (log.0 + 1).to_be_bytes();
    let rows = &before.store.rows;
    rows.scan_keys(Table::Draft, &begin, Some(&end), &mut |_| {
        panic!("a row of an op that was taken back")
    })
    .unwrap();
    for device in [voter, before, behind] {
        let anew = device.volume.fold_anew().unwrap();
        assert_eq!((anew.differing, anew.lost), (0, 0));
        assert_eq!(
            device.files(),
            BTreeMap::from([("/named".to_owned(), "in time".to_owned())])
        );
    }
    voter.commit();
    before.put("named", "and on");
    sync(&devices);
    assert_eq!(removed.text("named"), "and on");
    let logs = voter.chain.limits().unwrap();
    assert!(
        logs.contains_key(&removed.log.own_log()),
        "nobody waits for the rest to be named"
    );
}

#[test]
fn what_others_had_built_on_before_they_heard_of_the_removal_counts() {
    let devices = company(4);
    let [voter, one, two, removed] = &devices[..] else {
        panic!("four devices");
    };
    removed.put("f", "by who is removed");
    removed.publish();
    one.pull(removed, usize::MAX);
    one.append("f", ", gone on with");
    removed.put("g", "nobody saw this");
    removed.publish();
    two.pull(removed, usize::MAX);
    remove(voter, removed);
    for device in [one, two] {
        device.pull(voter, usize::MAX);
    }
    // Of this one it is a draft that was built on it, of the other nothing.
    assert_eq!(one.text("f"), "by who is removed, gone on with");
    assert!(two.files().is_empty(), "{:?}", two.files());
    let anew = one.volume.fold_anew().unwrap();
    assert_eq!(
        (anew.differing, anew.lost),
        (0, 0),
        "nor where it is made anew"
    );
    one.publish();
    for device in [two, voter] {
        device.pull(one, usize::MAX);
        device.pull(removed, usize::MAX);
        assert_eq!(device.text("f"), "by who is removed, gone on with");
        assert_eq!(device.find("g"), None);
    }
    let before = voter.chain.tip().number;
    voter.commit();
    assert!(voter.chain.tip().number > before);
    sync(&devices);
    assert_eq!(removed.find("g"), None);
    // Its right comes back while it runs: it writes on, in another log.
    let before = removed.log.own_log();
    assert!(removed.volume.is_over());
    removed.log.stand_on([78; 32]);
    assert!(!removed.volume.is_over());
    removed.put("h", "again");
    assert_ne!(removed.log.own_log(), before);
    sync(&devices);
    assert_eq!(
        (voter.text("h"), voter.find("g")),
        ("again".to_owned(), None)
    );
    // It looks back to nothing that would hold up the others.
    assert_eq!(removed.volume.needs(), removed.volume.record().number);
}

#[test]
fn who_lost_the_right_to_write_puts_aside_what_nobody_had_and_changes_nothing_more() {
    let devices = company(3);
    let [voter, other, demoted] = &devices[..] else {
        panic!("three devices");
    };
    demoted.put("sealed", "in a segment");
    demoted.publish();
    demoted.put("draft", "in none");
    assert!(!demoted.volume.is_over());
    remove(voter, demoted);
    demoted.pull(voter, usize::MAX);
    assert!(demoted.files().is_empty(), "{:?}", demoted.files());
    assert_eq!(demoted.volume.aside(), 2);
    assert_eq!(demoted.text(".dfs/aside/sealed"), "in a segment");
    assert_eq!(demoted.text(".dfs/aside/draft"), "in none");
    assert!(demoted.volume.is_over());
    let refused = demoted.volume.write().unwrap().apply(OpKind::Device {
        name: "new".to_owned(),
    });
    assert!(matches!(refused, Err(VolumeError::Over)), "{refused:?}");
    assert!(demoted.volume.seal_drafts().unwrap().is_empty());
    other.put("f", "others go on");
    sync(&devices);
    assert_eq!(demoted.text("f"), "others go on");
}

#[test]
fn who_is_admitted_anew_writes_on_and_what_it_had_written_before_stays_out() {
    let mut devices = company(3);
    let old = devices[2].log.own_log();
    devices[2].put("sealed", "before it was admitted anew");
    devices[2].publish();
    devices[2].put("draft", "and not sealed");
    remove(&devices[0], &devices[2]);
    let ended = devices[2].admission;
    devices[2].roll.end(ended);
    devices[2].admission = [77; 32];
    devices[2].restart();
    assert!(
        devices[2].volume.awaits_fence(),
        "nothing is to be built on what is left out"
    );
    devices[2].publish();
    assert!(
        !devices[2]
            .log
            .vector()
            .contains_key(&devices[2].log.own_log())
    );
    devices[2].pull(&devices[0], usize::MAX);
    assert!(!devices[2].volume.awaits_fence() && !devices[2].volume.is_over());
    devices[2].put("new", "behind it");
    sync(&devices);
    devices[0].commit();
    sync(&devices);
    for device in &devices {
        assert_eq!(
            device.files(),
            BTreeMap::from([("/new".to_owned(), "behind it".to_owned())])
        );
    }
    assert!(devices[0].chain.named(old) < devices[0].log.vector()[&old]);
    for device in &mut devices {
        device.restart();
    }
    agree(&devices);
}

#[test]
fn who_is_admitted_anew_waits_where_something_of_it_is_to_be_taken_back_and_only_there() {
    // What it left that no record names: nothing, a segment, a draft; or it did not begin anew.
    for (left, begins_anew) in [(0, true), (1, true), (2, true), (0, false)] {
        let mut devices = company(3);
        devices[2].put("named", "in time");
        sync(&devices);
        devices[0].commit();
        sync(&devices);
        if left > 0 {
            devices[2].put("late", "nobody has it");
        }
        if left == 1 {
            devices[2].publish();
        }
        let (ended, anew) = (devices[2].admission, [77; 32]);
        devices[2].roll.end(ended);
        if begins_anew {
            devices[2].admission = anew;
            devices[2].restart();
        }
        let waits = devices[2].volume.awaits_fence();
        assert_eq!(waits, left > 0 || !begins_anew, "{left} {begins_anew}");
        devices[0].roll.end(ended);
        devices[0].commit();
        devices[2].pull(&devices[0], usize::MAX);
        assert!(!devices[2].volume.awaits_fence(), "{left}");
        assert_eq!(devices[2].volume.is_over(), !begins_anew);
        if !begins_anew {
            devices[2].log.stand_on(anew);
            assert!(!devices[2].volume.is_over());
        }
        devices[2].put("new", "behind it");
        sync(&devices);
        for device in &devices {
            let names: Vec<String> = device.files().into_keys().collect();
            assert_eq!(names, ["/named", "/new"], "{left} {begins_anew}");
        }
    }
}

#[test]
fn who_loses_the_right_to_write_and_has_it_anew_writes_on_without_a_start_in_between() {
    let mut devices = company(3);
    let old = devices[2].log.own_log();
    devices[2].put("before", "while it was a writer");
    sync(&devices);
    devices[2].put("late", "that nobody has");
    remove(&devices[0], &devices[2]);
    let ended = devices[2].admission;
    devices[2].roll.end(ended);
    devices[2].admission = [77; 32];
    devices[2].log.stand_on([77; 32]);
    assert!(
        devices[2].volume.awaits_fence(),
        "what is written now would go on in a log that is over"
    );
    devices[2].pull(&devices[0], usize::MAX);
    assert!(!devices[2].volume.is_over() && !devices[2].volume.awaits_fence());
    assert_ne!(devices[2].log.own_log(), old);
    devices[2].put("new", "behind it");
    sync(&devices);
    devices[0].commit();
    sync(&devices);
    for device in &devices {
        let names: Vec<String> = device.files().into_keys().collect();
        assert_eq!(names, ["/before", "/new"]);
    }
    agree(&devices);
}

#[test]
fn a_record_is_as_if_unknown_before_the_statements_are_here_that_it_takes_into_account() {
    let devices = company(3);
    let [voter, other, removed] = &devices[..] else {
        panic!("three devices");
    };
    removed.put("f", "late");
    removed.publish();
    other.pull(removed, usize::MAX);
    remove(voter, removed);
    other.take_records_alone(voter);
    let folded = other.volume.record();
    let merged = other.volume.apply_segments().unwrap();
    assert_eq!(merged.lacks_statements, Some(folded.number + 1));
    assert_eq!(
        (other.volume.record(), other.text("f")),
        (folded, "late".to_owned())
    );
    other.roll.end(removed.admission);
    let merged = other.volume.apply_segments().unwrap();
    assert_eq!(merged.lacks_statements, None);
    assert_eq!(other.find("f"), None);
    sync(&devices);
}

#[test]
fn who_built_on_what_is_not_here_is_waited_for_and_what_counts_no_more_is_not() {
    let devices = company(4);
    let [voter, one, two, removed] = &devices[..] else {
        panic!("four devices");
    };
    removed.put("f", "built on");
    removed.publish();
    one.pull(removed, usize::MAX);
    one.put("g", "behind it");
    one.publish();
    remove(voter, removed);
    two.pull(voter, usize::MAX);
    let merged = two.pull_logs(one, &[one.log.own_log()]);
    let missing = Missing::Log(removed.log.own_log());
    assert_eq!(
        merged.waiting,
        BTreeMap::from([(one.log.own_log(), missing)])
    );
    let merged = two.pull(removed, usize::MAX);
    assert!(merged.waiting.is_empty());
    assert_eq!(
        (two.text("f"), two.text("g")),
        ("built on".to_owned(), "behind it".to_owned())
    );
    sync(&devices);
}

#[test]
fn what_one_had_built_on_who_is_removed_too_is_taken_back_where_both_removals_come_at_once() {
    let devices = cluster(4);
    let [voter, author, _, builder] = &devices[..] else {
        panic!("four devices");
    };
    author.put("x", "by who is removed");
    author.publish();
    builder.pull(author, usize::MAX);
    builder.put("y", "by who saw it");
    for removed in [author, builder] {
        voter.roll.end(removed.admission);
        voter.commit();
    }
    // It has not sealed what it made, and folds both records in one go, beside its view.
    builder.pull(voter, usize::MAX);
    exchange_all(&devices);
    agree(&devices);
    for device in &devices {
        assert!(device.files().is_empty(), "{}", device.index());
    }
    assert_eq!(builder.volume.aside(), 1);
    assert_eq!(builder.text(".dfs/aside/y"), "by who saw it");
}

/// Lets the last device lose its right to write, and hear of it.
pub(super) fn demote(devices: &[Device]) {
    let demoted = devices.last().expect("one");
    remove(&devices[0], demoted);
    demoted.pull(&devices[0], usize::MAX);
    assert!(demoted.volume.is_over());
}

#[test]
fn what_is_set_aside_is_there_as_it_was_by_its_name_and_nobody_elses() {
    let mut devices = company(3);
    devices[1].mkdir("d");
    devices[1].put("d/both", "of two");
    devices[1].put("d/kept", "in time");
    devices[1].put("d/emptied", "was here");
    sync(&devices);
    let demoted = &devices[2];
    let emptied = demoted.at("d/emptied").ino;
    // What crosses takes the name: what was written here is in the conflict file.
    let ino = demoted.at("d/both").ino;
    demoted.overwrite(ino, "of this device");
    demoted.publish();
    demoted.later();
    devices[1].later();
    devices[1].later();
    devices[1].overwrite(ino, "of another one");
    devices[1].publish();
    demoted.pull(&devices[1], usize::MAX);
    assert_eq!(demoted.text("d/both"), "of another one");
    demoted.mkdir("d/new");
    demoted.put("d/new/file.txt", &"long ".repeat(5000));
    demoted.apply(OpKind::SetXattr {
        ino: demoted.at("d/new/file.txt").ino,
        name: "user.x".into(),
        value: "y".into(),
        time: Default::default(),
    });
    demoted.append("d/kept", ", and more");
    demoted.put("gone", "and removed by who wrote it");
    demoted.unlink("gone");
    demoted.apply(OpKind::SetAttr {
        ino: emptied,
        mode: Some(0o600),
        uid: None,
        gid: None,
        mtime: None,
        ctime: Default::default(),
    });
    demote(&devices);
    let check = |demoted: &Device| {
        assert_eq!(demoted.list(".dfs"), ["aside"]);
        assert_eq!(demoted.list(".dfs/aside"), ["d"]);
        let conflict = "both (conflict, carl, 2026-01-02)";
        assert_eq!(
            demoted.list(".dfs/aside/d"),
            ["both", conflict, "kept", "new"]
        );
        assert_eq!(
            demoted.text(&format!(".dfs/aside/d/{conflict}")),
            "of this device"
        );
        assert_eq!(demoted.text(".dfs/aside/d/kept"), "in time, and more");
        let file = demoted.at(".dfs/aside/d/new/file.txt");
        assert_eq!(
            demoted.text(".dfs/aside/d/new/file.txt"),
            "long ".repeat(5000)
        );
        let value = demoted.volume.xattr(file.ino, b"user.x").unwrap();
        assert_eq!(value.as_deref(), Some(&b"y"[..]));
        assert_eq!(demoted.text("d/kept"), "in time");
        assert_eq!(demoted.list(""), ["d"], "it is not listed");
    };
    check(&devices[2]);
    // All see the same otherwise, and what is made anew does not touch it.
    sync(&devices);
    assert_eq!(devices[2].volume.fold_anew().unwrap().differing, 0);
    check(&devices[2]);
    devices[2].restart();
    check(&devices[2]);
    assert_eq!(devices[1].find(".dfs"), None);
    assert_eq!(devices[2].volume.aside(), 4);

    // It goes as its owner says, from the bottom up.
    let demoted = &devices[2];
    let remove = |dir: &str, name: &str| {
        let dir = demoted.at(dir).ino;
        demoted.volume.remove_aside(dir, name.as_bytes()).unwrap()
    };
    assert!(!remove(".dfs/aside/d", "new"), "a full folder");
    assert!(!remove(".dfs", "aside"));
    assert!(remove(".dfs/aside/d/new", "file.txt") && remove(".dfs/aside/d", "new"));
    for name in demoted.list(".dfs/aside/d") {
        assert!(remove(".dfs/aside/d", &name));
    }
    assert!(remove(".dfs/aside", "d"));
    assert_eq!(demoted.volume.aside(), 0);
    let of_files = |key: &[u8]| key[0] == Table::Extent as u8 || key[0] == Table::Xattr as u8;
    demoted
        .store
        .rows
        .scan_keys(Table::Aside, &[], None, &mut |key| {
            assert!(!of_files(key), "a row is left of what was removed");
            ControlFlow::Continue(())
        })
        .unwrap();
}

#[test]
fn damage_of_what_is_set_aside_keeps_nobody_out() {
    let mut devices = company(3);
    devices[2].put("f", "left out");
    demote(&devices);
    let rows = &devices[2].store.rows;
    let mut batch = Batch::new();
    rows.scan_keys(Table::Aside, &[], None, &mut |key| {
        batch.put(Table::Aside, key, b"nonsense");
        ControlFlow::Continue(())
    })
    .unwrap();
    rows.commit(batch).unwrap();
    devices[2].restart();
    devices[1].put("g", "goes on");
    sync(&devices);
    assert_eq!(devices[2].text("g"), "goes on");
    assert_eq!(devices[2].volume.fold_anew().unwrap().differing, 0);
}

#[test]
fn what_is_set_aside_a_second_time_stands_beside_the_first() {
    let devices = company(3);
    let demoted = &devices[2];
    demoted.put("notes.txt", "first");
    demote(&devices);
    demoted.log.stand_on([79; 32]);
    assert!(!demoted.volume.is_over());
    demoted.put("notes.txt", "second");
    devices[0].roll.end([79; 32]);
    devices[0].commit();
    demoted.pull(&devices[0], usize::MAX);
    assert!(demoted.volume.is_over());
    assert_eq!(demoted.text(".dfs/aside/notes.txt"), "first");
    assert_eq!(demoted.text(".dfs/aside/notes 2.txt"), "second");
}

#[test]
fn a_large_merge_and_what_is_made_anew_set_aside_what_they_take_back() {
    for is_anew in [false, true] {
        let devices = company(3);
        let demoted = &devices[2];
        demoted.put("sealed", "in a segment");
        demoted.publish();
        for n in 0..40 {
            demoted.put(&n.to_string(), "in none");
        }
        remove(&devices[0], demoted);
        if is_anew {
            // Nothing is folded before.
            demoted.take_records_alone(&devices[0]);
            demoted.roll.end(demoted.admission);
            let anew = demoted.volume.fold_anew().unwrap();
            assert_eq!(anew.lost, 0);
        } else {
            demoted.volume.undo_at_most(3);
            demoted.pull(&devices[0], usize::MAX);
        }
        assert!(demoted.volume.is_over());
        assert_eq!(demoted.text(".dfs/aside/sealed"), "in a segment");
        assert_eq!(demoted.text(".dfs/aside/39"), "in none");
        assert_eq!(demoted.volume.aside(), 41, "anew: {is_anew}");
        assert_eq!(demoted.find("sealed"), None);
        assert_eq!(demoted.find("39"), None);
    }
}

#[test]
fn the_name_of_what_is_set_aside_is_no_users() {
    let devices = company(1);
    let made = devices[0].volume.write().unwrap().apply(create(
        place(Ino::ROOT, b".dfs"),
        FileKind::Dir,
        Default::default(),
    ));
    assert!(matches!(made, Err(VolumeError::Reserved)), "{made:?}");
    devices[0].mkdir("d");
    devices[0].mkdir("d/.dfs");
    assert_eq!(devices[0].list("d"), [".dfs"]);
}

#[test]
fn what_a_record_names_of_who_was_removed_is_folded_before_what_was_built_on_it_is_here() {
    let devices = company(4);
    let [voter, reader, builder, removed] = &devices[..] else {
        panic!("four devices");
    };
    removed.put("f", "built on");
    removed.publish();
    reader.put("r", "seen by the builder alone");
    reader.publish();
    builder.put("early", "in a segment before");
    builder.publish();
    for seen in [removed, reader] {
        builder.pull(seen, usize::MAX);
    }
    builder.put("g", "behind it");
    builder.publish();
    remove(voter, removed);
    reader.pull(voter, usize::MAX);
    let (log, of_builder) = (removed.log.own_log(), builder.log.own_log());
    voter.pull_logs(removed, &[log]);
    voter.pull_logs(builder, &[of_builder]);
    // What was built on it waits to be named, for what else its author had seen.
    voter.commit();
    assert_eq!(
        (voter.chain.named(log), voter.chain.named(of_builder)),
        (2, 2)
    );
    reader.pull_logs(voter, &[log]);
    assert_eq!(reader.find("f"), None, "the record waits");
    let segments = builder.log.range(of_builder, 2, 1).unwrap();
    let now = reader.clock.wall_ms() + 300_000;
    let accepted = reader.log.accept(&segments[..1], now, &|_| Ok(())).unwrap();
    assert!(accepted.refused.is_empty());
    reader.volume.apply_segments().unwrap();
    assert_eq!(reader.log.vector().get(&of_builder), Some(&2));
    assert_eq!(reader.text("f"), "built on");
    assert_eq!(reader.volume.record(), voter.chain.tip());
    sync(&devices);
    assert_eq!(reader.text("g"), "behind it");
}

#[test]
fn of_what_earlier_starts_left_what_was_built_on_counts_and_the_rest_not() {
    let mut devices = company(4);
    devices[1].put("other", "seen in between");
    devices[1].publish();
    devices[3].put("zero", "of the first start");
    devices[3].restart();
    devices[3].put("one", "of the second start");
    devices[3].pull(&devices[1], usize::MAX);
    devices[3].put("two", "of the second start, too");
    devices[3].restart();
    devices[3].publish();
    let [voter, reader, builder, removed] = &devices[..] else {
        panic!("four devices");
    };
    let log = removed.log.own_log();
    assert_eq!(removed.log.vector().get(&log), Some(&3), "one for each");
    builder.pull(removed, 2);
    assert_eq!(builder.find("two"), None);
    builder.put("g", "behind the first two");
    builder.publish();
    for seen in [builder, removed] {
        reader.pull(seen, usize::MAX);
    }
    assert_eq!(reader.text("two"), "of the second start, too");
    remove(voter, removed);
    reader.pull(voter, usize::MAX);
    assert_eq!(reader.list(""), ["g", "one", "other", "zero"]);
    exchange_all(&devices);
    agree(&devices);
}
