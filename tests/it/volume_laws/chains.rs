//! Two chains: what authors had seen who stood on the one that does not count, and what becomes of what a
//! device goes on to write, has open or has not sealed while it goes over to the other.

use dfs::base::Rng;
use dfs::volume::Change;

use super::cluster::{Device, Takes, agree, cluster, meet_all, sync};

/// Lets a device take all that another has, and fold it; returns what kernels have to forget.
fn tell(from: &Device, to: &Device) -> Vec<Change> {
    from.publish();
    to.meet(from, Takes::All(usize::MAX));
    to.fold()
}

/// Makes and folds a record of what a device has.
fn record(device: &Device) {
    device.publish();
    device.make_record(0);
    device.fold();
}

/// Returns four devices that have a folder with a file, in their second record. The first decides, the
/// second is an admin as well.
fn with_a_folder() -> Vec<Device> {
    let devices = cluster(4);
    devices[0].mkdir("dir");
    devices[0].put("dir/x", "x");
    record(&devices[0]);
    devices[0].put("more", "more");
    record(&devices[0]);
    sync(&devices);
    assert_eq!(devices[0].chain.tip().number, 2);
    devices
}

/// Lets all come to one chain, and checks that the rows are those of that alone.
fn come_together(devices: &[Device]) {
    meet_all(devices);
    agree(devices);
}

#[test]
fn a_draft_has_not_seen_what_records_of_the_other_chain_name() {
    let devices = with_a_folder();
    let [a, b, c, d] = [&devices[0], &devices[1], &devices[2], &devices[3]];
    b.begin_era();
    for n in 0..4 {
        a.put(&format!("of a {n}"), "a");
        record(a);
    }
    tell(a, c);
    tell(b, d);
    d.rename("dir", "moved", false);
    tell(d, b);
    record(b);
    c.later();
    // Behind record 6 of the one chain: record 4 of the other names what it has not seen.
    c.unlink("dir/x");
    c.meet(b, Takes::All(usize::MAX));
    c.fold();
    assert!(c.chain.tip().number < 6);
    assert_eq!(c.text("moved/x"), "x");
    come_together(&devices);
    assert_eq!(a.text("moved/x"), "x");
}

#[test]
fn who_folded_a_record_that_names_nothing_has_not_seen_what_another_in_its_place_names() {
    let devices = with_a_folder();
    let [a, b, c, d] = [&devices[0], &devices[1], &devices[2], &devices[3]];
    b.begin_era();
    tell(b, c);
    assert_eq!(c.volume.record().number, 3);
    d.rename("dir", "moved", false);
    tell(d, a);
    record(a);
    c.later();
    c.unlink("dir/x");
    c.publish();
    // Of two who began an era the first admin's counts.
    a.begin_era();
    come_together(&devices);
    assert_eq!(b.chain.tip(), a.chain.tip());
    assert_eq!(a.text("moved/x"), "x");
}

#[test]
fn who_folded_a_record_of_the_chain_that_was_left_had_seen_what_it_names() {
    // Whether more of that log was seen by then, whether its author had started anew in between, and
    // whether what was done about it is a draft when the device goes over.
    for case in 0..8 {
        let [has_more, restarts, is_draft] = [1, 2, 4].map(|bit| case & bit > 0);
        let mut devices = with_a_folder();
        devices[3].rename("dir", "between", false);
        if !has_more {
            devices[3].publish();
            devices[3].rename("between", "moved", false);
        }
        if restarts {
            // The next log begins with what this one leaves.
            devices[3].restart();
        }
        let [a, b, c, d] = [&devices[0], &devices[1], &devices[2], &devices[3]];
        b.begin_era();
        tell(d, a);
        record(a);
        tell(a, c);
        if has_more {
            d.rename("between", "moved", false);
            tell(d, c);
        }
        c.later();
        c.unlink("moved/x");
        if !is_draft {
            c.publish();
        }
        b.put("of b", "b");
        record(b);
        tell(b, c);
        assert_eq!(c.list("moved"), Vec::<String>::new(), "case {case}");
        // Who knows of it from the other side alone.
        c.publish();
        b.meet(c, Takes::Segments(usize::MAX));
        come_together(&devices);
        for device in &devices {
            assert_eq!(device.chain.tip().era, 1);
            assert_eq!(device.list("moved"), Vec::<String>::new(), "case {case}");
        }
    }
}

#[test]
fn a_folder_has_its_time_of_who_comes_with_the_chain_that_counts() {
    let devices = with_a_folder();
    let [a, b, c, d] = [&devices[0], &devices[1], &devices[2], &devices[3]];
    b.begin_era();
    a.put("of a", "a");
    record(a);
    tell(a, c);
    d.later();
    // Nothing else of the folder is another.
    d.rename("dir/x", "dir/z", false);
    tell(d, b);
    record(b);
    let is_told = tell(b, c).contains(&Change::Attr(c.at("dir").ino));
    assert!(c.volume.record().era == 1 && is_told);
    assert_eq!(c.at("dir").mtime, d.at("dir").mtime);
    come_together(&devices);
}

#[test]
fn an_open_file_keeps_its_content_where_the_other_chain_gives_its_name_to_another() {
    let devices = with_a_folder();
    let [a, b, c, d] = [&devices[0], &devices[1], &devices[2], &devices[3]];
    b.begin_era();
    c.put("dir/x", "by c");
    tell(c, a);
    record(a);
    tell(a, c);
    let number = c.at("dir/x").ino;
    c.volume.keep_lineage(number);
    c.volume.hold(number);
    d.later();
    d.put("dir/x", "by d");
    tell(d, b);
    record(b);
    tell(b, c);
    assert!(c.volume.record().era == 1 && c.text("dir/x") == "by d");
    assert_eq!(c.text_of(c.volume.file_of(number)), "by c");
    c.volume.release(number);
    come_together(&devices);
}

/// Returns four devices of which the third is about to go over, with what it has not sealed.
fn about_to_go_over() -> Vec<Device> {
    let devices = with_a_folder();
    let [a, b, c, d] = [&devices[0], &devices[1], &devices[2], &devices[3]];
    b.begin_era();
    c.put("dir/x", "by c");
    tell(c, a);
    let text = "x".repeat(3000);
    for n in 0..50 {
        a.put(&format!("dir/of a {n}"), &text);
    }
    record(a);
    tell(a, c);
    d.later();
    d.put("dir/x", "by d");
    d.rename("dir", "moved", false);
    for n in 0..50 {
        d.put(&format!("moved/of d {n}"), &text);
    }
    tell(d, b);
    record(b);
    c.put("dir/draft", "not sealed");
    c.meet(b, Takes::All(usize::MAX));
    assert!(!c.volume.is_of_chain().unwrap());
    devices
}

#[test]
fn a_power_cut_or_a_full_disk_at_any_moment_of_going_over_leaves_what_goes_on() {
    let rng = Rng::from_seed(1);
    let devices = about_to_go_over();
    let c = &devices[2];
    let disk = c.copy();
    c.fold();
    let (expected, files) = (c.rows(), c.files());
    assert_eq!(c.text("moved/draft"), "not sealed");
    come_together(&devices);
    for cut in [true, false] {
        let mut count = 0;
        loop {
            let mut device = Device::new(2);
            device.put_back(disk.crash(&rng));
            let number = device.at("dir/x").ino;
            device.volume.keep_lineage(number);
            device.volume.hold(number);
            device.refuse_writes_after(count);
            let is_done = device.try_fold();
            if cut {
                device.crash(&rng);
            } else {
                device.refuse_writes(false);
                // What programs do before it is tried again.
                device.volume.apply_segments().unwrap();
                device.put("late", "late");
            }
            device.fold();
            assert_eq!(device.volume.fold_anew().unwrap().differing, 0);
            let mut found = device.files();
            assert_eq!(found.remove("/late").is_none(), cut, "{count}");
            assert_eq!(found, files, "{cut} {count}");
            if cut {
                assert!(device.rows() == expected, "{count}");
            } else {
                let file = device.volume.file_of(number);
                assert_eq!(device.text_of(file), "by c", "{count}");
            }
            if is_done {
                break;
            }
            count += 1;
        }
        assert!(count > 5, "{count}");
    }
}

#[test]
fn what_stands_on_the_chain_that_counts_waits_until_that_is_folded() {
    let devices = with_a_folder();
    let [a, b, c, d] = [&devices[0], &devices[1], &devices[2], &devices[3]];
    a.rename("dir", "moved", false);
    record(a);
    for n in 0..3 {
        a.put(&format!("of a {n}"), "a");
        record(a);
    }
    tell(a, d);
    assert_eq!(d.volume.record().number, 6);
    b.begin_era();
    b.put("of b", "b");
    record(b);
    tell(b, c);
    assert_eq!(c.volume.record().number, 4);
    c.later();
    // It has not seen what record 3 of the other chain names.
    c.unlink("dir/x");
    c.publish();
    d.meet(b, Takes::All(usize::MAX));
    d.meet(c, Takes::All(usize::MAX));
    assert!(!d.volume.is_of_chain().unwrap());
    // Whatever keeps it from folding all of that anew, a full disk for instance.
    while !d.volume.apply_segments().unwrap().is_nothing() {}
    assert_eq!(d.text("moved/x"), "x");
    come_together(&devices);
    assert_eq!(d.text("moved/x"), "x");
}

#[test]
fn what_an_author_had_seen_on_the_other_chain_it_had_where_those_segments_are_gone_too() {
    let devices = with_a_folder();
    let [a, b, c, d] = [&devices[0], &devices[1], &devices[2], &devices[3]];
    b.begin_era();
    a.rename("dir", "moved", false);
    record(a);
    tell(a, c);
    c.later();
    c.unlink("moved/x");
    c.publish();
    // The chain that counts names what c had seen only now, and one of two has it no more when c comes.
    tell(a, b);
    record(b);
    tell(b, d);
    let number = b.volume.record().number;
    let starts = b.starts_at(number);
    b.log.start_at(&starts).unwrap();
    let of_a = a.log.own_log();
    assert!(b.log.get(of_a, 1).unwrap().is_none());
    assert!(d.log.get(of_a, 1).unwrap().is_some());
    for device in [b, d] {
        assert_eq!(device.text("moved/x"), "x");
        tell(c, device);
        assert!(device.find("moved/x").is_none());
    }
    assert!(b.rows() == d.rows());
}
