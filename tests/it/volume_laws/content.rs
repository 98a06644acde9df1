//! Rows of docs/semantics.md about contents.

use std::time::Duration;

use bytes::Bytes;
use dfs::base::{Ino, LogId, OpId};
use dfs::volume::{Change, ConflictKind, FileKind, OpKind, Piece, Source, Write};

use super::cluster::{Device, agree, cluster, inline, sync, write};
use super::large::BATCH_BYTES_MAX;

const ANNA: &str = " (conflict, anna, 2026-01-02)";
const BEN: &str = " (conflict, ben, 2026-01-02)";

#[test]
fn of_two_writes_from_one_base_the_newest_keeps_the_name() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f.md", "base");
    sync(&devices);
    a.put("f.md", "anna's");
    b.later();
    b.put("f.md", "ben's work");
    sync(&devices);
    assert_eq!(a.text("f.md"), "ben's work");
    assert_eq!(a.text(&format!("f{ANNA}.md")), "anna's");
    assert_eq!(a.list("").len(), 2);
    assert_eq!(
        b.conflicts(),
        [(ConflictKind::Content, Some(format!("f{ANNA}.md")))]
    );
}

#[test]
fn a_losing_lineage_has_one_conflict_file() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    a.put("f", "base");
    sync(&devices);
    for round in 0..5 {
        a.put("f", &format!("a{round}"));
        b.put("f", &format!("bb{round}"));
        c.put("f", &format!("ccc{round}"));
    }
    sync(&devices);
    let mut contents: Vec<String> = a.files().into_values().collect();
    contents.sort();
    assert_eq!(contents, ["a4", "bb4", "ccc4"]);
}

#[test]
fn what_people_did_with_a_conflict_file_holds_when_a_third_history_comes() {
    // The third is before or behind what people did, by its stamps, and records name that first, or not.
    let cases = (0..3).flat_map(|third| (0..4).map(move |n| (third, n & 1 > 0, n & 2 > 0)));
    for (third, is_named, is_late) in cases {
        let devices = cluster(3);
        let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
        let docs = ["removed", "named", "edited", "chosen"];
        for doc in docs {
            a.put(doc, "base");
        }
        sync(&devices);
        // The one that stays away is the first, the second or the last.
        for (at, device) in [c, a, b].into_iter().enumerate() {
            let turn = if at == 0 {
                third
            } else {
                at - usize::from(at <= third)
            };
            for _ in 0..turn {
                device.later();
            }
            for doc in docs {
                device.put(doc, &format!("{doc} {}", device.index()));
            }
        }
        for device in [a, b] {
            device.publish();
        }
        a.pull(b, usize::MAX);
        b.pull(a, usize::MAX);
        if is_late {
            (0..3).for_each(|_| a.later());
        }
        a.unlink(&format!("removed{ANNA}"));
        a.rename(&format!("named{ANNA}"), "mine", false);
        a.put(&format!("edited{ANNA}"), "edited");
        a.rename(&format!("chosen{ANNA}"), "chosen", false);
        assert_eq!(
            a.volume.counts().conflicts,
            1,
            "what is dealt with is settled"
        );
        // Records name it before the third comes, or not.
        if is_named {
            a.publish();
            a.commit();
        }
        sync(&devices);
        let files = c.files();
        assert_eq!(files.get("/mine").map(String::as_str), Some("named 0"));
        assert_eq!(a.text(&format!("edited{ANNA}")), "edited");
        let contents: Vec<&str> = files.values().map(String::as_str).collect();
        assert!(!contents.contains(&"removed 0"));
        // The first was chosen, in the place of the second, which is nowhere any more.
        let case = format!("{third} {is_named} {is_late}: {files:?}");
        // By its name, but where the third is the later one of what is not on record.
        if third == 2 && !is_named && is_late {
            assert!(contents.contains(&"chosen 0"), "{case}");
        } else {
            assert_eq!(a.text("chosen"), "chosen 0", "{case}");
        }
        assert!(!contents.contains(&"chosen 1"), "{case}");
        assert!(contents.contains(&"chosen 2"), "{case}");
        for doc in &docs[..3] {
            assert!(contents.contains(&&*format!("{doc} 1")));
            assert!(contents.contains(&&*format!("{doc} 2")));
        }
    }
}

#[test]
fn a_conflict_is_settled_when_what_stands_aside_is_gone() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    for name in ["one", "two", "three"] {
        a.put(name, "base");
    }
    sync(&devices);
    for name in ["one", "two", "three"] {
        a.put(name, "anna's");
    }
    b.later();
    for name in ["one", "two", "three"] {
        b.put(name, "ben's");
    }
    sync(&devices);
    assert_eq!(a.volume.counts().conflicts, 3);
    a.unlink(&format!("one{ANNA}"));
    a.rename(&format!("two{ANNA}"), "two", false);
    sync(&devices);
    assert_eq!(b.volume.counts().conflicts, 1);
    b.unlink("three");
    assert_eq!(
        b.volume.counts().conflicts,
        1,
        "its copy still stands aside"
    );
}

#[test]
fn a_conflict_is_settled_when_another_has_the_place_of_what_stands_aside() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    for name in ["one", "two", "other"] {
        a.put(name, "base");
    }
    sync(&devices);
    for (device, text) in [(a, "anna's"), (b, "ben's")] {
        device.later();
        device.put("one", text);
        device.put("two", text);
    }
    sync(&devices);
    assert_eq!(a.volume.counts().conflicts, 2);
    a.rename("other", &format!("one{ANNA}"), false);
    assert_eq!(a.volume.counts().conflicts, 1);
    a.rename("two", &format!("two{ANNA}"), true);
    assert_eq!(a.volume.counts().conflicts, 0);
    sync(&devices);
}

#[test]
fn writes_that_go_on_unaware_stay_in_their_lineage() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "base");
    sync(&devices);
    let ino = a.at("f").ino;
    let first = a.put("f", "a1");
    b.later();
    b.put("f", "b1");
    sync(&devices);
    // A program on A that has not looked goes on from what it wrote.
    a.later();
    a.apply(write(ino, first, "a2"));
    sync(&devices);
    assert_eq!(a.text("f"), "b1");
    assert_eq!(a.text(&format!("f{ANNA}")), "a2");
    assert_eq!(a.list("").len(), 2);
}

#[test]
fn equal_results_are_no_conflict() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "base");
    sync(&devices);
    for device in [a, b] {
        device.put("f", "the same");
    }
    sync(&devices);
    let mine = a.put("f", "and on");
    sync(&devices);
    assert_eq!(a.files().len(), 1);
    assert_eq!(b.at("f").version, mine);
    assert!(a.conflicts().is_empty());
}

#[test]
fn emptied_and_written_on_both_sides_keeps_both() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "base");
    sync(&devices);
    for device in [a, b] {
        device.put("f", "");
        device.put("f", &format!("from {}", device.index()));
    }
    sync(&devices);
    let mut contents: Vec<String> = a.files().into_values().collect();
    contents.sort();
    assert_eq!(contents, ["from 0", "from 1"]);
}

#[test]
fn a_write_wins_against_an_unlink() {
    for unlink_first in [true, false] {
        let devices = cluster(2);
        let [a, b] = [&devices[0], &devices[1]];
        a.mkdir("d");
        a.put("d/f", "base");
        sync(&devices);
        let [writer, remover] = if unlink_first { [b, a] } else { [a, b] };
        b.later();
        writer.put("d/f", "written");
        remover.unlink("d/f");
        sync(&devices);
        assert_eq!(a.text("d/f"), "written");
        let kind = match unlink_first {
            true => ConflictKind::WriteAgainstUnlink,
            false => ConflictKind::UnlinkDropped,
        };
        assert_eq!(a.conflicts(), [(kind, None)]);
    }
}

#[test]
fn a_write_brings_back_a_file_whose_name_is_taken_beside_it() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "base");
    sync(&devices);
    a.unlink("f");
    a.put("f", "another");
    b.later();
    b.put("f", "written");
    sync(&devices);
    assert_eq!(a.text("f"), "another");
    assert_eq!(a.text("f (conflict, ben, 2026-01-02)"), "written");
}

#[test]
fn a_file_removed_on_both_sides_is_gone() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "base");
    sync(&devices);
    a.unlink("f");
    b.unlink("f");
    sync(&devices);
    assert!(a.files().is_empty() && a.conflicts().is_empty());
}

#[test]
fn concurrent_appends_both_stay() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    a.put("log", "start;");
    sync(&devices);
    for round in 0..3 {
        a.append("log", &format!("a{round};"));
        b.append("log", &format!("b{round};"));
    }
    sync(&devices);
    c.append("log", "c;");
    sync(&devices);
    let text = c.text("log");
    let mut lines: Vec<&str> = text.split_terminator(';').collect();
    assert_eq!((lines[0], lines[7]), ("start", "c"));
    lines.sort_unstable();
    assert_eq!(lines, ["a0", "a1", "a2", "b0", "b1", "b2", "c", "start"]);
    assert_eq!(c.conflicts(), [(ConflictKind::Joined, None)]);
}

#[test]
fn an_append_against_a_rewrite_keeps_both() {
    for append_first in [true, false] {
        let devices = cluster(2);
        let [a, b] = [&devices[0], &devices[1]];
        a.put("log", "start;");
        sync(&devices);
        let [appender, writer] = if append_first { [a, b] } else { [b, a] };
        b.later();
        appender.append("log", "more;");
        writer.put("log", "rewritten");
        sync(&devices);
        let mut contents: Vec<String> = a.files().into_values().collect();
        contents.sort();
        assert_eq!(contents, ["rewritten", "start;more;"]);
    }
}

#[test]
fn what_was_appended_to_a_file_that_was_emptied_is_there_and_the_rest_not() {
    for append_first in [true, false] {
        let devices = cluster(3);
        let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
        a.put("log", "old;");
        sync(&devices);
        let [appender, emptier] = if append_first { [a, b] } else { [b, a] };
        b.later();
        appender.append("log", "new;");
        emptier.put("log", "");
        emptier.append("log", "on;");
        appender.append("log", "newer;");
        sync(&devices);
        let text = c.text("log");
        let mut lines: Vec<&str> = text.split_terminator(';').collect();
        lines.sort_unstable();
        assert_eq!(lines, ["new", "newer", "on"]);
        assert_eq!(a.conflicts(), [(ConflictKind::Joined, None)]);
        // Who saw all of it empties it.
        c.put("log", "");
        sync(&devices);
        assert_eq!(a.text("log"), "");
        assert!(a.volume.counts().conflicts == 0 && a.list("") == ["log"]);
    }
}

#[test]
fn what_was_appended_to_a_file_that_is_emptied_in_steps_is_there_and_the_rest_not() {
    // Published after the first step, or all at once, where steps become one.
    for published in [true, false] {
        for append_first in [true, false] {
            let devices = cluster(3);
            let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
            a.put("log", "old and long;");
            sync(&devices);
            let [appender, emptier] = if append_first { [a, b] } else { [b, a] };
            b.later();
            appender.append("log", "new;");
            for size in [8, 4, 0] {
                let log = emptier.at("log");
                let OpKind::Write(step) = write(log.ino, log.version, "") else {
                    unreachable!("it is a write");
                };
                let empties = size > 0;
                emptier.apply(OpKind::Write(Write {
                    size,
                    empties,
                    ..step
                }));
                if published {
                    emptier.publish();
                    c.pull(emptier, usize::MAX);
                }
            }
            appender.append("log", "newer;");
            sync(&devices);
            assert_eq!(c.text("log"), "new;newer;");
            assert!(a.conflicts().is_empty() && a.list("") == ["log"]);
        }
    }
}

#[test]
fn of_appends_that_joined_the_one_that_was_seen_is_emptied() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    a.put("log", "old;");
    sync(&devices);
    b.append("log", "b;");
    c.later();
    c.append("log", "c;");
    c.publish();
    a.later();
    a.later();
    a.pull(c, usize::MAX);
    a.put("log", "");
    sync(&devices);
    assert_eq!(c.text("log"), "b;");
    // What of it is left was appended by one alone.
    assert!(a.volume.counts().conflicts == 0 && a.list("") == ["log"]);
}

#[test]
fn who_goes_on_from_a_file_that_it_emptied_writes_what_it_saw() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    a.put("log", "old;");
    sync(&devices);
    b.append("log", "b;");
    a.later();
    let empty = a.put("log", "");
    let ino = a.at("log").ino;
    c.later();
    sync(&devices);
    // A program on A that has not looked goes on from the empty file.
    a.apply(write(ino, empty, "rewritten"));
    sync(&devices);
    let mut contents: Vec<String> = c.files().into_values().collect();
    contents.sort();
    assert_eq!(contents, ["b;", "rewritten"]);
}

#[test]
fn files_removed_while_open_are_changed_in_private() {
    let devices = cluster(2);
    let a = &devices[0];
    a.put("f", "base");
    sync(&devices);
    let ino = a.at("f").ino;
    a.volume.hold(ino);
    a.unlink("f");
    a.overwrite(ino, "scratch");
    a.overwrite(ino, "scratched again");
    a.publish();
    assert_eq!(a.text_of(ino), "scratched again");
    assert_eq!(a.inode(ino).nlink, 0);
    a.volume.release(ino);
    sync(&devices);
    assert_eq!(devices[1].text_of(ino), "base");
}

#[test]
fn a_private_copy_ends_when_the_file_is_back() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "base");
    sync(&devices);
    let ino = a.at("f").ino;
    a.volume.hold(ino);
    a.unlink("f");
    a.overwrite(ino, "scratch");
    b.later();
    b.put("f", "written");
    sync(&devices);
    assert_eq!(a.text("f"), "written");
    assert_eq!(a.text_of(ino), "written");
}

#[test]
fn a_merge_says_what_it_changed() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    let ino = a.make("f", FileKind::File);
    a.put("gone", "x");
    let gone = a.at("gone").ino;
    sync(&devices);
    a.put("f", "new");
    a.unlink("gone");
    a.publish();
    let changes = b.pull(a, usize::MAX).changes.to_vec();
    assert!(changes.contains(&Change::Content(ino)));
    assert!(changes.contains(&Change::Attr(Ino::ROOT)));
    assert!(changes.contains(&Change::Entry {
        parent: Ino::ROOT,
        name: Bytes::from_static(b"gone"),
        gone: Some(gone),
    }));
}

#[test]
fn what_one_segment_overwrites_it_carries_once() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("db", "base");
    sync(&devices);
    let seg_no = a.log.head(a.log.own_log()).unwrap().seg_no;
    for round in 0..50 {
        a.put("db", &format!("page {round}"));
    }
    let mode = OpKind::SetAttr {
        ino: a.at("db").ino,
        mode: Some(0o600),
        uid: None,
        gid: None,
        mtime: None,
        ctime: dfs::base::Timespec::default(),
    };
    a.put("other", "x");
    a.put("other", "y");
    a.apply(mode);
    a.put("db", "");
    a.put("db", "last");
    a.publish();
    let segment = a.log.get(a.log.own_log(), seg_no + 1).unwrap().unwrap();
    // 50 pages, create, two of other, mode, and two that became one: what met a change of mode is
    // left as it is.
    assert_eq!(segment.header.op_count, 50 + 1 + 1 + 1 + 1);
    b.pull(a, usize::MAX);
    assert_eq!((b.text("db"), b.text("other")), ("last".into(), "y".into()));
    sync(&devices);
    for round in 0..50 {
        b.put("db", &format!("page {round}"));
    }
    b.publish();
    let head = b.log.head(b.log.own_log()).unwrap().seg_no;
    let segment = b.log.get(b.log.own_log(), head).unwrap().unwrap();
    assert_eq!(segment.header.op_count, 1);
    sync(&devices);
    assert_eq!(a.text("db"), "page 49");
}

#[test]
fn thousands_of_writes_of_one_page_become_one_op_a_part_at_a_time() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("db", "base");
    sync(&devices);
    let seg_no = a.log.head(a.log.own_log()).unwrap().seg_no;
    // More than are united at once.
    for round in 0..1500 {
        a.put("db", &format!("page {round:04}"));
    }
    a.publish();
    let segment = a.log.get(a.log.own_log(), seg_no + 1).unwrap().unwrap();
    assert_eq!(segment.header.op_count, 1);
    assert_eq!(a.text("db"), "page 1499");
    b.pull(a, usize::MAX);
    assert_eq!(b.text("db"), "page 1499");
    agree(&devices);
}

#[test]
fn scattered_writes_are_carried_as_few_ops_as_they_fit() {
    const WRITES: u64 = 60;
    const PIECES: u64 = 100;
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    let mut base = a.put("db", "base");
    sync(&devices);
    let seg_no = a.log.head(a.log.own_log()).unwrap().seg_no;
    let ino = a.at("db").ino;
    for n in 0..WRITES {
        let pieces = (0..PIECES).map(|at| inline((at * WRITES + n) * 10, &format!("{n:5}")));
        let OpKind::Write(write) = write(ino, base, "") else {
            unreachable!("it is a write");
        };
        base = a
            .apply(OpKind::Write(Write {
                size: WRITES * PIECES * 10,
                pieces: pieces.collect(),
                ..write
            }))
            .id;
    }
    let expected = a.bytes_of(ino);
    a.publish();
    assert!(expected == a.bytes_of(ino));
    let segment = a.log.get(a.log.own_log(), seg_no + 1).unwrap().unwrap();
    // One op has at most 4,096 pieces; holes count as well.
    assert!((2..WRITES as u32).contains(&segment.header.op_count));
    b.pull(a, usize::MAX);
    assert!(expected == b.bytes_of(ino));
    agree(&devices);
}

#[test]
fn alone_nothing_is_kept_for_undo() {
    let mut device = Device::alone();
    for n in 0..10 {
        device.put(&format!("f{n}"), "x");
    }
    let ino = device.at("f0").ino;
    device.volume.hold(ino);
    device.unlink("f0");
    device.unlink("f1");
    device.restart();
    device.volume.hold(ino);
    assert_eq!(device.volume.counts().drafts, 24);
    device.publish();
    assert_eq!(device.volume.counts().drafts, 0);
    assert_eq!(device.left_count(), 0);
    // Root, eight files, and the removed one that is open.
    assert_eq!(device.volume.counts().inodes, 10);
    device.volume.release(ino);
    device.publish();
    assert_eq!(device.volume.counts().inodes, 9);
    device.restart();
    super::tree::check(&device);
    assert_eq!(device.list("").len(), 8);
}

#[test]
fn what_is_not_sealed_can_be_undone_for_a_device_that_was_just_admitted() {
    let devices = [Device::alone(), Device::new(1)];
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "base");
    a.publish();
    b.pull(a, usize::MAX);
    // While A does not know of B yet, both go on; A's clock is ahead.
    a.later();
    a.put("f", "a");
    b.put("f", "b");
    a.volume.end_alone();
    a.publish();
    b.publish();
    a.pull(b, usize::MAX);
    b.pull(a, usize::MAX);
    assert_eq!(a.files(), b.files());
    assert_eq!(a.text("f"), "a");
    assert_eq!(a.files().len(), 2);
}

#[test]
fn trimming_drops_records_and_removed_files() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "x");
    a.put("g", "y");
    a.unlink("f");
    sync(&devices);
    let cut = a.at("g").version;
    let before = a.record_count();
    let newest = b.put("h", "later");
    sync(&devices);
    a.volume.set_stable(newest).unwrap();
    assert!(a.record_count() < before);
    assert!(a.volume.stable() > cut);
    assert_eq!(a.volume.counts().inodes, 3);
    super::tree::check(a);
    b.put("h", "on");
    b.publish();
    a.pull(b, usize::MAX);
    assert_eq!(a.text("h"), "on");
}

#[test]
fn a_conflict_of_more_than_a_row_and_a_batch_hold_is_merged() {
    const PAGES: u64 = 520;
    const PAGE: u64 = 64 << 10;
    const STRIDE: u64 = 1 << 20;
    let mut devices = cluster(2);
    let time = dfs::base::Timespec::default();
    devices[0].put("db", "base");
    sync(&devices);
    let [a, b] = [&devices[0], &devices[1]];
    let ino = b.at("db").ino;
    // What was written in scattered pages: 34 MB of rows.
    for first in (0..PAGES).step_by(8) {
        let page = |number| Piece {
            offset: number * STRIDE,
            len: PAGE,
            src: Some(Source::Inline(Bytes::from(vec![
                number as u8;
                PAGE as usize
            ]))),
        };
        b.apply(OpKind::Write(Write {
            ino,
            base: b.inode(ino).version,
            size: PAGES * STRIDE,
            pieces: (first..first + 8).map(page).collect(),
            mtime: time,
            ctime: time,
            mode: None,
            empties: false,
        }));
        b.publish();
    }
    let whole = b.volume.extents(ino, 0..u64::MAX).unwrap();
    assert_eq!(whole.len(), PAGES as usize);
    a.clock.advance(Duration::from_secs(1));
    a.put("db", "small, but later");
    for device in &devices {
        device.take_largest_bytes();
    }
    sync(&devices);
    for device in &mut devices {
        let bytes = device.take_largest_bytes();
        assert!(bytes <= BATCH_BYTES_MAX, "a batch of {bytes} bytes");
        device.restart();
        assert_eq!(device.volume.apply_segments().unwrap().op_count, 0);
    }
    let aside = devices[0]
        .list("")
        .into_iter()
        .find(|name| name != "db")
        .unwrap();
    for device in &devices {
        assert_eq!(device.text("db"), "small, but later");
        let ino = device.at(&aside).ino;
        assert_eq!(device.volume.extents(ino, 0..u64::MAX).unwrap(), whole);
    }
}

#[test]
fn who_goes_on_from_a_conflict_file_keeps_it_whole_where_its_author_had_removed_it_unaware() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("x", "base");
    sync(&devices);
    b.put("x", "by ben");
    b.publish();
    a.later();
    a.put("x", "by anna");
    a.pull(b, usize::MAX);
    assert_eq!(a.text(&format!("x{BEN}")), "by ben");
    a.append(&format!("x{BEN}"), ", and by anna");
    // Meanwhile, before anna wrote: so when it comes to it, nothing of his was in her way.
    b.unlink("x");
    b.publish();
    sync(&devices);
    for device in &devices {
        assert_eq!(device.text("x"), "by anna");
        let files = device.files();
        let kept = files.values().any(|text| text == "by ben, and by anna");
        assert!(kept, "{files:?}");
    }
}

#[test]
fn who_empties_what_is_elsewhere_by_now_does_not_empty_what_he_had_in_another_file() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    let joined = OpId {
        log: LogId(7),
        ..a.put("f", "as it was")
    };
    a.put("f", "as it is");
    // Where he saw the file, it had another content, which nobody has under this name any more.
    a.apply(write(a.at("f").ino, joined, ""));
    sync(&devices);
    assert_eq!(b.text("f"), "");
    assert_eq!(b.text(&format!("f{ANNA}")), "as it is");
}

#[test]
fn a_file_of_few_pieces_is_cut_and_written_over_in_one_op() {
    let devices = cluster(1);
    devices[0].put("f", "text");
    let (volume, ino) = (&devices[0].volume, devices[0].at("f").ino);
    assert_eq!(volume.light_end(ino, 0..4).unwrap(), 4);
    assert_eq!(volume.light_start(ino, 0..4).unwrap(), 0);
}
