//! Records of the commit chain: the order that they make, and what they leave to the stamps.

use std::collections::BTreeMap;

use bytes::Bytes;
use dfs::base::{Clock, Timespec};
use dfs::store::Table;
use dfs::volume::{FileKind, OpKind};

use super::cluster::{Device, agree, cluster, create, place, sync};

/// A change of one device in a folder.
type Change = (&'static str, fn(&Device, &dyn Fn(&str) -> String));

fn chmod(device: &Device, path: &str, mode: u32) {
    device.apply(OpKind::SetAttr {
        ino: device.at(path).ino,
        mode: Some(mode | device.index() as u32),
        uid: None,
        gid: None,
        mtime: None,
        ctime: device.clock.wall(),
    });
}

/// What is done on either side of a tree of f, g, d/a and the empty e.
const CHANGES: [Change; 23] = [
    ("write f", |d, at| {
        d.put(&at("f"), &format!("written by {}", d.index()));
    }),
    ("write f twice", |d, at| {
        d.put(&at("f"), &format!("once by {}", d.index()));
        d.put(&at("f"), &format!("twice by {}", d.index()));
    }),
    ("empty f", |d, at| {
        d.overwrite(d.at(&at("f")).ino, "");
    }),
    ("append to f", |d, at| {
        d.append(&at("f"), &format!("+{}", d.index()));
    }),
    ("unlink f", |d, at| d.unlink(&at("f"))),
    ("move f to h", |d, at| d.rename(&at("f"), &at("h"), false)),
    ("move f into d", |d, at| {
        d.rename(&at("f"), &at("d/f"), false);
    }),
    ("move f over g", |d, at| {
        d.rename(&at("f"), &at("g"), false);
    }),
    ("exchange f and g", |d, at| {
        d.rename(&at("f"), &at("g"), true);
    }),
    ("link f as l", |d, at| d.link(&at("f"), &at("l"))),
    ("chmod f", |d, at| chmod(d, &at("f"), 0o600)),
    ("make the file h", |d, at| {
        d.put(&at("h"), &format!("made by {}", d.index()));
    }),
    ("make the folder h", |d, at| {
        d.mkdir(&at("h"));
        d.put(&at(&format!("h/{}", d.index())), "in it");
    }),
    ("make the link h", |d, at| {
        let place = place(d.at(&at("")).ino, b"h");
        d.apply(create(place, FileKind::Symlink, d.clock.wall()));
    }),
    ("write d/a", |d, at| {
        d.put(&at("d/a"), &format!("written by {}", d.index()));
    }),
    ("make d/n", |d, at| {
        d.put(&at("d/n"), &format!("made by {}", d.index()));
    }),
    ("remove d", |d, at| {
        d.unlink(&at("d/a"));
        d.rmdir(&at("d"));
    }),
    ("move d to k", |d, at| d.rename(&at("d"), &at("k"), false)),
    ("chmod d", |d, at| chmod(d, &at("d"), 0o700)),
    ("remove e", |d, at| d.rmdir(&at("e"))),
    ("tag f", |d, at| {
        d.apply(OpKind::SetXattr {
            ino: d.at(&at("f")).ino,
            name: TAG.into(),
            value: format!("by {}", d.index()).into(),
            time: d.clock.wall(),
        });
    }),
    ("untag f", |d, at| {
        d.apply(OpKind::RemoveXattr {
            ino: d.at(&at("f")).ino,
            name: TAG.into(),
            time: d.clock.wall(),
        });
    }),
    ("date f", |d, at| {
        d.apply(OpKind::SetAttr {
            ino: d.at(&at("f")).ino,
            mode: None,
            uid: None,
            gid: None,
            mtime: Some(DATES[d.index() - 1]),
            ctime: d.clock.wall(),
        });
    }),
];

const TAG: &str = "user.tag";

/// What the two set the time of a file to.
const DATES: [Timespec; 2] = [
    Timespec { secs: 1, nanos: 0 },
    Timespec { secs: 2, nanos: 0 },
];

/// What people see: of each path what it is, who may do what, and the text, with the tag and the date that it got.
type Seen = BTreeMap<String, (FileKind, u32, String, Option<Bytes>, Option<Timespec>)>;

fn seen(device: &Device, top: &str) -> Seen {
    let mut seen = BTreeMap::new();
    let mut open = vec![String::new()];
    while let Some(dir) = open.pop() {
        for name in device.list(&format!("{top}/{dir}")) {
            let path = format!("{dir}/{name}");
            let inode = device.at(&format!("{top}/{path}"));
            let text = match inode.kind {
                FileKind::File => device.text_of(inode.ino),
                _ => String::new(),
            };
            if inode.is_dir() {
                open.push(path.clone());
            }
            let tag = device.volume.xattr(inode.ino, TAG.as_bytes()).unwrap();
            let time = Some(inode.mtime).filter(|time| DATES.contains(time));
            seen.insert(path, (inode.kind, inode.mode, text, tag, time));
        }
    }
    seen
}

/// In which order what two devices did is named.
#[derive(Debug, Clone, Copy)]
enum Named {
    Nowhere,
    EarlierFirst,
    LaterFirst,
}

/// Returns every pair of changes with a folder of its own.
fn pairs() -> impl Iterator<Item = (String, Change, Change)> {
    let numbered = || CHANGES.into_iter().enumerate();
    numbered()
        .flat_map(move |(i, one)| numbered().map(move |(j, two)| (format!("{i}-{j}"), one, two)))
}

/// Names all that is published here; returns how many records that takes.
fn name_all(voter: &Device) -> u64 {
    let before = voter.chain.tip().number;
    loop {
        let tip = voter.chain.tip().number;
        voter.commit();
        if voter.chain.tip().number == tip {
            return tip - before;
        }
    }
}

/// Lets two devices make each pair of changes, neither having seen the other's, the second later than
/// the first, and has them named so.
fn cross(named: Named) -> Vec<Seen> {
    let devices = cluster(3);
    let [voter, one, two] = &devices[..] else {
        panic!("three devices");
    };
    for (top, ..) in pairs() {
        voter.mkdir(&top);
        voter.put(&format!("{top}/f"), "f as it was");
        voter.apply(OpKind::SetXattr {
            ino: voter.at(&format!("{top}/f")).ino,
            name: TAG.into(),
            value: "as it was".into(),
            time: voter.clock.wall(),
        });
        voter.put(&format!("{top}/g"), "g as it was");
        voter.mkdir(&format!("{top}/d"));
        voter.put(&format!("{top}/d/a"), "a as it was");
        voter.mkdir(&format!("{top}/e"));
    }
    sync(&devices);
    while name_all(voter) > 0 {
        sync(&devices);
    }
    for (top, (_, change), _) in pairs() {
        change(one, &|path| format!("{top}/{path}"));
    }
    two.clock.advance(one.clock.monotonic());
    for (top, _, (_, change)) in pairs() {
        change(two, &|path| format!("{top}/{path}"));
    }
    one.publish();
    two.publish();
    let order = match named {
        Named::Nowhere => [None, None],
        Named::EarlierFirst => [Some(one), Some(two)],
        Named::LaterFirst => [Some(two), Some(one)],
    };
    for author in order.into_iter().flatten() {
        voter.pull(author, usize::MAX);
        assert!(name_all(voter) > 0);
        let record = voter.chain.get(voter.chain.tip().number).unwrap().unwrap();
        let mut logs = record.segments.iter().map(|name| name.log);
        assert!(logs.any(|log| log == author.log.own_log()), "{named:?}");
    }
    sync(&devices);
    pairs().map(|(top, ..)| seen(one, &top)).collect()
}

#[test]
fn what_two_devices_did_ends_the_same_whichever_a_record_names_first() {
    let expected = cross(Named::Nowhere);
    for named in [Named::EarlierFirst, Named::LaterFirst] {
        let got = cross(named);
        for ((_, one, two), (expected, got)) in pairs().zip(expected.iter().zip(&got)) {
            let is = |a: &str, b: &str| (one.0, two.0) == (a, b);
            // What both append is there, in the order of the records.
            if is("append to f", "append to f") {
                let texts = |seen: &Seen| seen["/f"].2.len();
                assert_eq!(texts(expected), texts(got));
                continue;
            }
            // Of an attribute that is gone nothing tells when it was removed.
            if is("tag f", "untag f") && matches!(named, Named::LaterFirst) {
                assert_eq!(got["/f"].3.as_deref(), Some(&b"by 1"[..]));
                continue;
            }
            assert_eq!(expected, got, "{}, then {}, {named:?}", one.0, two.0);
        }
    }
}

#[test]
fn a_record_is_folded_alike_by_who_knew_its_ops_and_by_who_did_not() {
    let devices = cluster(3);
    let [voter, one, two] = &devices[..] else {
        panic!("three devices");
    };
    one.mkdir("mine");
    two.put("theirs", "text");
    one.publish();
    voter.pull(one, usize::MAX);
    assert_eq!(voter.commit().undone_count, 0);
    assert_eq!(voter.chain.tip().number, 1);
    // This one had no part in it, and gets record and segments at once.
    two.pull(voter, usize::MAX);
    assert_eq!(two.chain.tip(), voter.chain.tip());
    sync(&devices);
    agree(&devices);
}

#[test]
fn what_nobody_looks_back_to_is_given_up_and_nothing_before() {
    let devices = cluster(3);
    let [voter, one, two] = &devices[..] else {
        panic!("three devices");
    };
    let commit = || {
        let needs = devices.iter().map(|device| device.volume.needs());
        voter.commit_from(needs.min().unwrap());
    };
    one.put("f", "as it was");
    one.put("g", "to be removed");
    sync(&devices);
    commit();
    sync(&devices);
    // This one goes away, and works on.
    two.put("f", "by who was away");
    one.later();
    for text in ["once", "twice"] {
        one.put("f", text);
        one.publish();
        voter.pull(one, usize::MAX);
        commit();
        one.pull(voter, usize::MAX);
    }
    one.unlink("g");
    one.publish();
    voter.pull(one, usize::MAX);
    commit();
    one.pull(voter, usize::MAX);
    let base_line = |number| voter.chain.get(number).unwrap().unwrap().base_line;
    let last = voter.chain.tip().number;
    assert!(base_line(last) <= 1, "who is away looks back to record 1");
    assert!(voter.record_count() > 0);
    let orphans = || {
        voter
            .rows()
            .keys()
            .filter(|(table, _)| *table == Table::Orphan)
            .count()
    };
    assert_eq!(orphans(), 1);
    sync(&devices);
    assert_eq!(voter.text("f"), "twice");
    assert_eq!(
        voter.text("f (conflict, carl, 2026-01-02)"),
        "by who was away"
    );
    // Now all have all of it.
    for _ in 0..3 {
        commit();
        sync(&devices);
    }
    for device in &devices {
        assert_eq!(device.left_count(), 0);
    }
    assert_eq!(orphans(), 0);
    one.put("f", "thrice");
    two.put("f", "from two sides");
    sync(&devices);
    assert_eq!(voter.files().len(), 3);
}

#[test]
fn what_is_written_to_a_file_of_which_nothing_is_left_is_kept() {
    const TEXT: &str = "by who was away for too long";
    let ways: [fn(&Device); 3] = [
        |away| {
            away.put("f", TEXT);
        },
        // In the moment after what a record names of it.
        |away| {
            let named = away.put("g", "named");
            away.publish();
            let file = away.at("f");
            let kind = super::cluster::write(file.ino, file.version, TEXT);
            let applied = away.volume.write().unwrap().apply(kind).unwrap();
            assert_eq!(applied.id.stamp, named.stamp.next());
        },
        |away| {
            away.append("f", "by who was away ");
            away.append("f", "for too long");
        },
    ];
    // Somebody has what it wrote before others know that nobody looks back so far, or nobody has.
    for (way, is_known) in ways.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        let devices = cluster(3);
        let [voter, away, other] = &devices[..] else {
            panic!("three devices");
        };
        voter.put("f", "text");
        sync(&devices);
        way(away);
        voter.pull(away, usize::MAX);
        away.publish();
        voter.unlink("f");
        voter.publish();
        voter.commit();
        other.pull(voter, usize::MAX);
        if is_known {
            other.pull(away, usize::MAX);
            assert!(other.text("f").ends_with(TEXT));
        }
        // Whoever decides this does not know of the one that is away.
        for _ in 0..2 {
            voter.commit_from(u64::MAX);
        }
        assert_eq!(voter.record_count(), 0);
        other.pull(voter, usize::MAX);
        sync(&devices);
        let mut files = voter.files();
        files.remove("/g");
        assert_eq!(files.len(), 1, "{files:?}");
        let kept = files.into_values().next().unwrap();
        assert_eq!(kept, TEXT);
        assert_eq!(voter.conflicts().len(), 1);
    }
}

#[test]
fn a_record_that_a_full_disk_keeps_from_being_folded_is_folded_later_and_told() {
    let devices = cluster(3);
    let [voter, one, two] = &devices[..] else {
        panic!("three devices");
    };
    voter.put("f", "was");
    sync(&devices);
    one.append("f", "+1");
    one.publish();
    two.later();
    two.append("f", "+2");
    two.publish();
    one.pull(two, usize::MAX);
    assert_eq!(one.text("f"), "was+1+2");
    // The record names the later one alone, which so comes first.
    voter.pull(two, usize::MAX);
    voter.commit();
    one.take_records(voter);
    one.refuse_writes(true);
    assert!(one.volume.apply_segments().is_err());
    assert_eq!(one.text("f"), "was+1+2");
    one.refuse_writes(false);
    let merged = one.volume.apply_segments().unwrap();
    assert_eq!(one.text("f"), "was+2+1");
    // It brought no op, and yet kernels have something to forget.
    assert_eq!(merged.op_count, 0);
    assert!(!merged.is_nothing() && !merged.changes.is_empty());
    assert!(one.volume.apply_segments().unwrap().is_nothing());
    sync(&devices);
}

#[test]
fn a_full_disk_that_takes_no_op_is_an_error_and_no_progress() {
    let devices = cluster(2);
    let [one, two] = &devices[..] else {
        unreachable!();
    };
    two.put("f", "of two");
    two.publish();
    let log = two.log.own_log();
    let next = one.log.vector().get(&log).copied().unwrap_or(0) + 1;
    let segments = two.log.range(log, next, usize::MAX).unwrap();
    let now = one.clock.wall_ms() + 300_000;
    let accepted = one.log.accept(&segments, now, &|_| Ok(())).unwrap();
    assert_eq!(accepted.grown.len(), 1);
    // Who folds goes on as long as something is folded.
    one.refuse_writes(true);
    for _ in 0..2 {
        assert!(one.volume.apply_segments().is_err());
    }
    one.refuse_writes(false);
    assert_eq!(one.volume.apply_segments().unwrap().op_count, 2);
    assert_eq!(one.text("f"), "of two");
    sync(&devices);
}
