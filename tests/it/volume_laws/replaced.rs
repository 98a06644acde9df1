//! What becomes of what a move was to replace, and of what is swapped, where others do something with
//! the same nodes.

use dfs::volume::ConflictKind;

use super::attributes::earlier_and_later;
use super::cluster::{Device, cluster, sync};
use super::crossed::{exchange, files, link, mkdir, texts};
use super::equal::{Step, chmod, crossing, put, rename, step, unlink};

#[test]
fn a_folder_that_is_moved_onto_an_empty_one_takes_its_place_and_keeps_its_rights() {
    let base = || {
        vec![
            mkdir("old"),
            chmod("old", 0o700),
            mkdir("new"),
            put("new/in", "in"),
            chmod("new", 0o755),
        ]
    };
    let a = [rename("new", "old")];
    crossing(&base(), [&a, &[put("other", "x")]], |device| {
        let expected = files(&[("old/in", "in"), ("other", "x")]);
        assert_eq!(device.files(), expected);
        assert_eq!(device.at("old").mode, 0o755);
        assert_eq!(device.volume.counts().conflicts, 0);
    });
    // One that is no longer empty becomes one with it, which lets nobody do more than both.
    crossing(&base(), [&a, &[put("old/mine", "x")]], |device| {
        let expected = files(&[("old/in", "in"), ("old/mine", "x")]);
        assert_eq!(device.files(), expected);
        assert_eq!(device.at("old").mode, 0o700);
    });
    // One that was moved away is empty there.
    crossing(&base(), [&a, &[rename("old", "away")]], |device| {
        assert_eq!(device.list(""), ["away", "old"]);
        assert_eq!(device.files(), files(&[("old/in", "in")]));
        assert_eq!(device.at("old").mode, 0o755);
    });
}

/// Does some steps.
fn all(steps: Vec<Step>) -> impl Fn(&Device) {
    move |device| steps.iter().for_each(|step| step(device))
}

#[test]
fn what_a_move_replaced_is_gone_also_where_a_later_move_counts_in_its_stead() {
    // As it was seen.
    let folders = || {
        all(vec![
            mkdir("x"),
            put("x/in", "in"),
            mkdir("t"),
            chmod("t", 0o700),
        ])
    };
    let move_on = || all(vec![rename("x", "t")]);
    earlier_and_later(
        folders(),
        move_on(),
        all(vec![rename("x", "y")]),
        |device, case| {
            assert_eq!(device.list(""), ["y"], "{case}");
            assert_eq!(device.text("y/in"), "in", "{case}");
        },
    );
    let of_files = || all(vec![put("x", "x"), put("t", "t")]);
    earlier_and_later(
        of_files(),
        move_on(),
        all(vec![rename("x", "y")]),
        |device, case| {
            assert_eq!(device.files(), files(&[("y", "x")]), "{case}");
        },
    );
    // Also one name of a file, whatever is written to that by another.
    earlier_and_later(
        all(vec![put("x", "x"), put("t", "t"), link("t", "u")]),
        move_on(),
        all(vec![put("u", "new"), rename("x", "y")]),
        |device, case| {
            let expected = files(&[("u", "new"), ("y", "x")]);
            assert_eq!(device.files(), expected, "{case}");
        },
    );
    // What was changed since is kept.
    earlier_and_later(
        folders(),
        move_on(),
        all(vec![put("t/new", "new"), rename("x", "y")]),
        |device, case| {
            assert_eq!(texts(device), ["in", "new"], "{case}");
        },
    );
    earlier_and_later(
        of_files(),
        move_on(),
        all(vec![put("t", "new"), rename("x", "y")]),
        |device, case| {
            assert_eq!(device.text("y"), "x", "{case}");
            assert_eq!(texts(device), ["new", "x"], "{case}");
        },
    );
}

#[test]
fn folders_that_are_swapped_are_never_in_one_another() {
    let base = [
        mkdir("d"),
        put("d/in-d", "d"),
        mkdir("e"),
        mkdir("e/sub"),
        put("e/sub/in-sub", "sub"),
    ];
    for a in [
        // Into what is moved into it.
        vec![exchange("d", "e/sub")],
        vec![exchange("e/sub", "d")],
    ] {
        crossing(&base, [&a, &[rename("e", "d/e")]], |device| {
            assert_eq!(texts(device), ["d", "sub"]);
        });
    }
    // Whichever of the two it is, and it is told.
    let steps = [exchange("d", "e/sub"), exchange("e/sub", "d")];
    for swap in steps {
        let devices = cluster(2);
        let [a, b] = [&devices[0], &devices[1]];
        base.iter().for_each(|step| step(a));
        sync(&devices);
        rename("e", "d/e")(a);
        b.later();
        swap(b);
        sync(&devices);
        let expected = files(&[("d/e/sub/in-sub", "sub"), ("d/in-d", "d")]);
        assert_eq!(a.files(), expected);
        assert_eq!(a.conflicts(), [(ConflictKind::CycleDropped, None)]);
    }
}

#[test]
fn a_folder_that_was_swapped_keeps_what_was_removed_from_it_unseen_and_no_more() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    for dir in ["one", "two"] {
        a.mkdir(dir);
        a.put(&format!("{dir}/gone"), dir);
        a.put(&format!("{dir}/left"), dir);
    }
    sync(&devices);
    for dir in ["one", "two"] {
        b.unlink(&format!("{dir}/gone"));
    }
    a.later();
    a.rename("one", "two", true);
    sync(&devices);
    let expected = ["gone", "left"];
    for device in &devices {
        assert_eq!(device.list("one"), expected);
        assert_eq!(device.list("two"), expected);
        assert_eq!(device.text("one/gone"), "two");
    }
    // Of a folder that it met where it came, nothing is back.
    let base = [mkdir("full"), put("full/old", "old"), put("f", "f")];
    let a = [exchange("full", "f")];
    let b = [
        rename("f", "g"),
        mkdir("f"),
        put("f/passing", "b"),
        unlink("f/passing"),
    ];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(texts(device), ["f", "old"]);
    });
}

#[test]
fn a_link_that_is_moved_onto_another_leaves_both_of_which_one_was_written() {
    let base = [put("x", "x"), put("t", "t"), link("t", "u")];
    let a = [rename("x", "t")];
    let b = [step(|device: &Device| {
        device.put("u", "new");
    })];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(device.files(), files(&[("t", "x"), ("u", "new")]));
        assert_eq!(device.volume.counts().conflicts, 0);
    });
}
