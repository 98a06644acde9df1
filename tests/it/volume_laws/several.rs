//! What stands beside or behind one file, where that are several.

use dfs::volume::OpKind;

use super::cluster::{Device, cluster, sync, write};
use super::crossed::files;
use super::equal::{is_exactly, save};

/// Lets `to` know what `from` wrote.
fn tell(from: &Device, to: &Device) {
    from.publish();
    to.pull(from, usize::MAX);
}

/// Returns the path of what has a text.
fn path_of(device: &Device, text: &str) -> String {
    let mut files = device.files().into_iter();
    let found = files.find(|(_, of)| of == text);
    found.unwrap_or_else(|| panic!("{text} is nowhere")).0
}

/// Lets three write one file, each unseen by the others; the last has its name.
fn three_histories(devices: &[Device]) {
    devices[0].put("x", "base");
    sync(devices);
    for device in devices {
        device.put("x", &format!("by {}", device.index()));
        devices.iter().for_each(Device::later);
    }
    sync(devices);
    assert_eq!(devices[0].files().len(), 3);
    assert_eq!(devices[0].text("x"), "by 2");
}

#[test]
fn each_of_several_conflict_files_is_one_with_its_file_where_both_are_made_equal() {
    for changes in 0..2 {
        for is_file_changed in [true, false] {
            let devices = cluster(3);
            let [a, b, _] = [&devices[0], &devices[1], &devices[2]];
            three_histories(&devices);
            let mut text = "by 2".to_owned();
            if changes > 0 {
                // Another has its place, which two made alike.
                a.later();
                save("new")(a);
                rename_over(a, "x", "new");
                b.later();
                rename_over(b, "x", "new");
                sync(&devices);
                "new".clone_into(&mut text);
            }
            for (index, left) in [(0, 2), (1, 1)] {
                let by = format!("by {index}");
                let aside = path_of(a, &by);
                match is_file_changed {
                    true => {
                        a.put("x", &by);
                        text = by;
                    }
                    false => {
                        a.put(&aside, &text);
                    }
                }
                sync(&devices);
                for device in &devices {
                    let found: Vec<String> = device.list("").into_iter().collect();
                    let beside = found.iter().filter(|name| name.starts_with('x'));
                    assert_eq!(
                        beside.count(),
                        left,
                        "{changes} {is_file_changed} {found:?}"
                    );
                    assert_eq!(device.text("x"), text);
                }
            }
        }
    }
}

/// Saves a file as editors do.
fn rename_over(device: &Device, path: &str, text: &str) {
    device.put(".new", text);
    device.rename(".new", path, false);
}

#[test]
fn who_had_it_open_goes_on_from_what_is_one_with_another_by_now() {
    let ways: [fn(&Device); 2] = [
        |device| {
            device.put("x", "same");
        },
        |device| rename_over(device, "x", "same"),
    ];
    for (who, made) in ways.into_iter().flat_map(|way| [(0, way), (1, way)]) {
        let devices = cluster(2);
        let before = [0, 1].map(|index| {
            let device: &Device = &devices[index];
            devices[1].later();
            made(device);
            (device.at("x").ino, device.at("x").version)
        });
        sync(&devices);
        let (ino, version) = before[who];
        let device = &devices[who];
        device.apply(write(ino, version, "next"));
        sync(&devices);
        for device in &devices {
            is_exactly(device, &[("x", "next")]);
            for (ino, _) in before {
                assert_eq!(device.text_of(ino), "next");
            }
        }
    }
}

#[test]
fn who_saw_two_of_three_that_are_one_does_not_remove_the_third() {
    // Which of the others the one that removes it had seen, and who made it when.
    for seen in 0..4 {
        for last in 0..3 {
            let devices = cluster(3);
            for index in 0..3 {
                let device = &devices[(last + 1 + index) % 3];
                rename_over(device, "x", "same");
                devices.iter().for_each(Device::later);
            }
            let remover = &devices[0];
            for (bit, other) in [(1, 1), (2, 2)] {
                devices[other].publish();
                if seen & bit > 0 {
                    tell(&devices[other], remover);
                }
            }
            remover.later();
            remover.unlink("x");
            sync(&devices);
            for device in &devices {
                match seen {
                    3 => is_exactly(device, &[]),
                    _ => is_exactly(device, &[("x", "same")]),
                }
            }
        }
    }
}

#[test]
fn what_was_one_with_another_and_is_written_by_who_did_not_know_is_back_at_its_name() {
    for first in [0, 1] {
        let devices = cluster(2);
        for index in [first, 1 - first] {
            rename_over(&devices[index], "x", "same");
            devices.iter().for_each(Device::later);
        }
        let [a, b] = [&devices[0], &devices[1]];
        tell(b, a);
        a.unlink("x");
        b.later();
        b.put("x", "new");
        sync(&devices);
        for device in &devices {
            assert_eq!(device.files(), files(&[("x", "new")]));
        }
    }
}

#[test]
fn what_was_settled_stays_settled_where_a_third_history_comes() {
    // Before, between and behind the others.
    for third in 0..3 {
        let devices = cluster(3);
        let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
        a.put("x", "base");
        sync(&devices);
        let mut order = vec![a, b];
        order.insert(third, c);
        for device in order {
            device.put("x", &format!("by {}", device.index()));
            devices.iter().for_each(Device::later);
        }
        tell(b, a);
        let [settled] = a.volume.conflicts().unwrap().try_into().unwrap();
        a.apply(OpKind::Resolve {
            conflict: settled.op,
        });
        sync(&devices);
        for device in &devices {
            let all = device.volume.conflicts().unwrap().into_iter();
            let mut open = all.filter(|conflict| !conflict.resolved);
            let (open, more) = (open.next().unwrap(), open.count());
            assert_eq!(more, 0, "third {third}");
            assert_ne!(open.other_name, settled.other_name, "third {third}");
        }
    }
}

#[test]
fn a_conflict_file_that_has_one_itself_is_one_with_that_where_both_are_made_equal() {
    let devices = cluster(3);
    let [a, b, _] = [&devices[0], &devices[1], &devices[2]];
    three_histories(&devices);
    let aside = path_of(a, "by 1");
    a.put(&aside, "more by 0");
    b.later();
    b.put(&aside, "more by 1");
    sync(&devices);
    assert_eq!(a.text(&aside), "more by 1");
    a.put(&aside, "more by 0");
    sync(&devices);
    for device in &devices {
        let mut texts: Vec<String> = device.files().into_values().collect();
        texts.sort();
        assert_eq!(texts, ["by 0", "by 2", "more by 0"]);
    }
}

#[test]
fn of_two_that_were_one_what_each_wrote_is_where_the_one_was_moved_that_knew_both() {
    for first in [0, 1] {
        let devices = cluster(2);
        let [a, b] = [&devices[0], &devices[1]];
        a.mkdir("d");
        sync(&devices);
        for index in [first, 1 - first] {
            rename_over(&devices[index], "x", "same");
            devices.iter().for_each(Device::later);
        }
        tell(b, a);
        a.rename("x", "d/x", false);
        a.put("d/x", "by 0");
        b.later();
        b.put("x", "by 1");
        sync(&devices);
        for device in &devices {
            assert_eq!(device.list(""), ["d"]);
            for text in ["by 0", "by 1"] {
                assert!(path_of(device, text).starts_with("/d/x"));
            }
        }
    }
}

#[test]
fn each_of_three_that_are_one_is_removed_by_who_knew_that_alone() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    for device in [b, c] {
        rename_over(device, "x", "same");
        devices.iter().for_each(Device::later);
    }
    // By another name, which it has as well: so it takes the place of both.
    a.put("y", "same");
    a.link("y", "x");
    devices.iter().for_each(Device::later);
    a.unlink("x");
    devices.iter().for_each(Device::later);
    b.unlink("x");
    sync(&devices);
    for device in &devices {
        is_exactly(device, &[("x", "same"), ("y", "same")]);
    }
    c.unlink("x");
    sync(&devices);
    is_exactly(a, &[("y", "same")]);
}

#[test]
fn an_open_file_goes_on_with_its_content_where_it_is_one_with_another_no_longer() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    a.put("x", "same");
    a.publish();
    b.pull(a, usize::MAX);
    // Before the other comes, and known later.
    b.rename("x", "y", false);
    c.later();
    c.put("x", "same");
    let number = c.at("x").ino;
    c.volume.keep_lineage(number);
    c.volume.hold(number);
    c.publish();
    a.pull(c, usize::MAX);
    is_exactly(a, &[("x", "same")]);
    a.put("x", "next");
    a.publish();
    c.pull_logs(a, &[a.log.own_log()]);
    assert_eq!(c.text_of(c.volume.file_of(number)), "next");
    b.publish();
    c.pull(b, usize::MAX);
    assert_eq!(c.files(), files(&[("x", "same"), ("y", "next")]));
    assert_eq!(c.text_of(c.volume.file_of(number)), "next");
    sync(&devices);
}
