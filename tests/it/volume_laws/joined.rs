//! What comes of contents that joined elsewhere, and are nowhere as such.

use dfs::base::{Ino, LogId, OpId};
use dfs::volume::{Append, FileKind, OpKind};

use super::cluster::{cluster, inline, sync, write};

const DORA: &str = " (conflict, dora, 2026-01-02)";

#[test]
fn an_append_to_what_was_joined_is_joined_where_more_came_before_that() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    a.put("log", "0 ");
    sync(&devices);
    c.append("log", "c ");
    c.publish();
    a.later();
    a.append("log", "a ");
    b.later();
    b.later();
    b.append("log", "b ");
    a.publish();
    b.publish();
    a.pull(b, usize::MAX);
    b.pull(a, usize::MAX);
    // The two have one content, which is nowhere any more once a third append is known.
    b.append("log", "d ");
    a.pull(c, usize::MAX);
    a.commit();
    sync(&devices);
    for device in &devices {
        assert_eq!(device.files().len(), 1, "{:?}", device.files());
        assert_eq!(device.text("log"), "0 c a b d ");
    }
}

#[test]
fn who_empties_what_he_knew_empties_nothing_that_his_machine_heard_of_meanwhile() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("log", "0 ");
    sync(&devices);
    let shown = a.append("log", "a ");
    a.publish();
    b.later();
    b.append("log", "b ");
    b.publish();
    // His program had not read that yet.
    a.pull(b, usize::MAX);
    a.later();
    a.apply(write(a.at("log").ino, shown, ""));
    sync(&devices);
    for device in &devices {
        assert_eq!(device.files().len(), 1, "{:?}", device.files());
        assert_eq!(device.text("log"), "b ");
    }
}

#[test]
fn an_append_to_what_was_joined_is_joined_where_a_record_has_put_that_in_another_order() {
    for names_both in [false, true] {
        let devices = cluster(2);
        let [a, b] = [&devices[0], &devices[1]];
        a.put("log", "0 ");
        sync(&devices);
        b.append("log", "b ");
        a.later();
        a.later();
        a.append("log", "a ");
        a.publish();
        b.pull(a, usize::MAX);
        assert_eq!(b.text("log"), "0 b a ");
        b.append("log", "d ");
        // What it names comes first, whatever was earlier.
        a.commit();
        if names_both {
            b.publish();
            a.pull(b, 1);
            a.commit();
            assert_eq!(a.text("log"), "0 a b ");
        }
        sync(&devices);
        for device in &devices {
            assert_eq!(device.files().len(), 1, "{:?}", device.files());
            assert_eq!(device.text("log"), "0 a b d ");
        }
    }
}

#[test]
fn who_appends_to_what_is_elsewhere_by_now_appends_nothing_to_what_took_its_place() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "as it was");
    let joined = OpId {
        stamp: a.put("f", "as it is").stamp.next(),
        log: LogId(7),
    };
    a.apply(append_to(a.at("f").ino, joined, ", too"));
    sync(&devices);
    let kept = b.files().into_values().any(|text| text == "as it is");
    assert!(kept, "{:?}", b.files());
}

#[test]
fn a_file_of_appends_that_were_joined_elsewhere_is_emptied_of_them() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    a.make("log", FileKind::File);
    sync(&devices);
    c.append("log", "c ");
    c.publish();
    a.later();
    a.append("log", "a ");
    b.later();
    b.later();
    b.append("log", "b ");
    a.publish();
    b.publish();
    a.pull(b, usize::MAX);
    b.pull(a, usize::MAX);
    // What he empties is nowhere any more once the third append is known.
    b.put("log", "");
    sync(&devices);
    for device in &devices {
        assert_eq!(device.files().len(), 1, "{:?}", device.files());
        assert_eq!(device.text("log"), "c ");
    }
}

#[test]
fn an_append_to_what_was_joined_is_not_joined_to_what_was_written_anew_since() {
    let devices = cluster(4);
    let [a, b, c, d] = [&devices[0], &devices[1], &devices[2], &devices[3]];
    a.put("log", "0 ");
    sync(&devices);
    d.append("log", "d ");
    d.publish();
    a.later();
    a.append("log", "a ");
    a.publish();
    (0..2).for_each(|_| b.later());
    b.append("log", "b ");
    b.pull(a, usize::MAX);
    assert_eq!(b.text("log"), "0 a b ");
    let (ino, base) = (b.at("log").ino, b.at("log").version);
    (0..3).for_each(|_| c.later());
    c.put("log", "rewritten");
    c.publish();
    // His machine has heard of it, his program goes on from what both had, which is nowhere once what
    // came before it is known.
    b.pull(c, usize::MAX);
    b.publish();
    for other in [b, c, d] {
        a.pull(other, usize::MAX);
    }
    a.commit();
    b.apply(append_to(ino, base, "on "));
    sync(&devices);
    for device in &devices {
        let files = device.files();
        assert!(
            files.values().any(|text| text == "rewritten"),
            "it is kept as it was written: {files:?}"
        );
        assert_eq!(device.text(&format!("log{DORA}")), "0 d a b ");
    }
}

/// Returns an append to a content of a file.
fn append_to(ino: Ino, base: OpId, text: &str) -> OpKind {
    OpKind::Append(Append {
        ino,
        base,
        len: text.len() as u64,
        pieces: vec![inline(0, text)],
        mtime: Default::default(),
        ctime: Default::default(),
        mode: None,
    })
}
