//! What comes of contents, names and rights of which an author had not seen the newest.

use bytes::Bytes;
use dfs::base::{Clock, OpId, Timespec};
use dfs::store::Table;
use dfs::volume::{Acl, ConflictKind, Create, FileKind, OpKind, Write};

use super::cluster::{Device, cluster, create, inline, place, sync};
use super::crossed::{files, link};
use super::equal::{crossing, put, unlink};
use super::names::{access, list};

const ANNA: &str = " (conflict, anna, 2026-01-02)";
const BEN: &str = " (conflict, ben, 2026-01-02)";
const CARL: &str = " (conflict, carl, 2026-01-02)";

/// Lets `to` know what `from` wrote.
fn tell(from: &Device, to: &Device) {
    from.publish();
    to.pull(from, usize::MAX);
}

#[test]
fn who_appends_to_a_content_that_went_aside_appends_to_what_came_there_too() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    a.put("f", "base");
    sync(&devices);
    a.put("f", "anna");
    tell(a, c);
    a.append("f", "+a");
    for _ in 0..2 {
        b.later();
        c.later();
    }
    b.put("f", "ben");
    c.later();
    c.append("f", "+c");
    sync(&devices);
    assert_eq!(a.text("f"), "ben");
    assert_eq!(a.text(&format!("f{ANNA}")), "anna+a+c");
    assert_eq!(a.files().len(), 2);
}

#[test]
fn who_appends_alone_leaves_nothing_of_another_history() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "base");
    let op = a.append("f", "+a");
    sync(&devices);
    let forks = |device: &Device| {
        let rows = device.rows();
        rows.keys()
            .filter(|(table, _)| *table == Table::Fork)
            .count()
    };
    assert_eq!(b.at("f").version, op);
    assert_eq!(forks(b), 0);
    // Where two do, the content is that of neither.
    let ops = [a.append("f", "+1"), b.append("f", "+2")];
    sync(&devices);
    assert!(!ops.contains(&a.at("f").version));
    assert!(forks(a) > 0);
}

#[test]
fn who_removed_what_went_aside_removed_that_and_no_more() {
    // Removed as it is; gone on with unseen; with another name by then.
    for case in 0..3 {
        let devices = cluster(4);
        let [a, b, c, d] = [&devices[0], &devices[1], &devices[2], &devices[3]];
        a.put("f", "base");
        sync(&devices);
        a.put("f", "anna");
        tell(a, c);
        if case == 1 {
            a.append("f", "+a");
        }
        for device in [b, c, d] {
            (0..2).for_each(|_| device.later());
        }
        b.put("f", "ben");
        if case == 2 {
            tell(a, d);
            tell(b, d);
            d.link(&format!("f{ANNA}"), "kept");
        }
        c.later();
        c.later();
        c.unlink("f");
        sync(&devices);
        let expected = match case {
            0 => vec![("f", "ben")],
            1 => vec![("f", "ben"), ("f (conflict, anna, 2026-01-02)", "anna+a")],
            _ => vec![
                ("f", "ben"),
                ("f (conflict, anna, 2026-01-02)", "anna"),
                ("kept", "anna"),
            ],
        };
        assert_eq!(a.files(), files(&expected), "case {case}");
    }
}

#[test]
fn who_removes_one_of_two_names_keeps_nothing_from_being_written() {
    let base = [put("x", "x"), link("x", "z")];
    let a = [unlink("z")];
    let b = [put("x", "new")];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(device.files(), files(&[("x", "new")]));
        assert_eq!(device.volume.counts().conflicts, 0);
    });
}

#[test]
fn what_an_earlier_history_wrote_stands_beside_what_was_chosen() {
    for is_named in [false, true] {
        let devices = cluster(3);
        let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
        a.put("f", "base");
        sync(&devices);
        c.put("f", "carl");
        a.later();
        a.put("f", "anna");
        (0..2).for_each(|_| b.later());
        b.put("f", "ben");
        tell(a, b);
        b.rename(&format!("f{ANNA}"), "f", false);
        tell(b, a);
        assert_eq!(a.files(), files(&[("f", "anna")]));
        if is_named {
            a.commit();
        }
        sync(&devices);
        let aside = format!("f{CARL}");
        assert_eq!(a.files(), files(&[("f", "anna"), (&aside, "carl")]));
        let carls = (ConflictKind::Content, Some(aside));
        assert!(a.conflicts().contains(&carls), "{:?}", a.conflicts());
        assert_eq!(a.volume.counts().conflicts, 1, "what was chosen is settled");
    }
}

#[test]
fn what_an_earlier_history_wrote_is_there_where_the_file_was_removed_meanwhile() {
    for is_named in [false, true] {
        let devices = cluster(2);
        let [a, b] = [&devices[0], &devices[1]];
        a.put("f", "base");
        sync(&devices);
        b.put("f", "ben");
        a.later();
        a.put("f", "anna");
        a.unlink("f");
        a.publish();
        if is_named {
            a.commit();
        }
        sync(&devices);
        let back = if is_named {
            "f".to_owned()
        } else {
            format!("f{BEN}")
        };
        assert_eq!(a.files(), files(&[(&back, "ben")]));
    }
}

fn written(device: &Device, path: &str, text: &str, mode: Option<u32>, time: Timespec) -> OpId {
    let inode = device.at(path);
    let kind = OpKind::Write(Write {
        ino: inode.ino,
        base: inode.version,
        size: text.len() as u64,
        pieces: vec![inline(0, text)],
        mtime: time,
        ctime: time,
        mode,
        empties: false,
    });
    device.apply(kind).id
}

#[test]
fn a_write_takes_privileges_away_and_nothing_else_and_says_when_it_was() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "base");
    a.apply(OpKind::SetAttr {
        ino: a.at("f").ino,
        mode: Some(0o6750),
        uid: None,
        gid: None,
        mtime: None,
        ctime: a.clock.wall(),
    });
    sync(&devices);
    let time = b.clock.wall();
    written(b, "f", "by root", None, time);
    sync(&devices);
    assert_eq!(a.at("f").mode, 0o6750);
    // Whatever else the writer took it to be.
    written(b, "f", "by ben", Some(0o2777), time);
    sync(&devices);
    assert_eq!((a.at("f").mode, a.at("f").mtime), (0o2750, time));
}

#[test]
fn of_two_directories_made_with_lists_the_narrower_ones_hold() {
    let devices = cluster(2);
    for (device, perms) in devices.iter().zip([[7, 7, 5, 7, 5], [7, 5, 7, 7, 0]]) {
        device.later();
        let made = create(
            place(device.at("").ino, b"dir"),
            FileKind::Dir,
            device.clock.wall(),
        );
        let OpKind::Create(made) = made else {
            unreachable!();
        };
        let of = |name| (Bytes::from_static(name), Bytes::from(list(perms)));
        device.apply(OpKind::Create(Create {
            mode: 0o770,
            xattrs: vec![of(Acl::ACCESS), of(Acl::DEFAULT)],
            ..made
        }));
    }
    sync(&devices);
    for device in &devices {
        let narrower = Some(list([7, 5, 5, 7, 0]));
        assert_eq!(access(device, "dir"), narrower);
        let ino = device.at("dir").ino;
        let default = device.volume.xattr(ino, Acl::DEFAULT).unwrap();
        assert_eq!(default.map(|list| list.to_vec()), narrower);
    }
}
